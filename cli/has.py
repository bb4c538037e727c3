"""`mmkv has`."""

from __future__ import annotations

import click

from .errors import Exit
from .opening import open_for_reading
from .options import examples, hex_option, parse_key, store_argument

__all__ = ["has"]


@click.command(
    short_help="Say whether a key is there.",
    epilog=examples(
        """
        mmkv has store.mmkv greeting && echo yes
        """
    ),
)
@store_argument
@click.argument("key")
@hex_option
def has(store: str, key: str, as_hex: bool) -> int:
    """Say by the exit status alone whether KEY is there: 0 if it is, 1 if not."""
    name = parse_key(key, as_hex)
    with open_for_reading(store) as db:
        return Exit.OK if name in db else Exit.ABSENT
