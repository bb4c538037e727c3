"""`mmkv delete`."""

from __future__ import annotations

import click

from .errors import Absent
from .opening import open_for_writing
from .options import examples, hex_option, parse_key, store_argument

__all__ = ["delete"]


@click.command(
    short_help="Delete keys.",
    epilog=examples(
        """
        mmkv delete store.mmkv greeting
        mmkv delete --hex store.mmkv 00ff 0100
        """
    ),
)
@store_argument
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@hex_option
def delete(store: str, keys: tuple[str, ...], as_hex: bool) -> None:
    """Delete every KEY that is there; the exit status is 1 if one was not."""
    # A key given twice is deleted once, and not reported as missing the second time.
    names = list(dict.fromkeys(parse_key(key, as_hex) for key in keys))
    with open_for_writing(store, create=False) as db:
        absent = [name for name in names if not db.delete(name)]
    if absent:
        raise Absent(*absent)
