"""`mmkv add`."""

from __future__ import annotations

import click

from .errors import Unchanged
from .opening import open_for_writing
from .options import examples, hex_option, hex_value_option, parse_key, store_argument
from .values import read_value

__all__ = ["add"]


@click.command(
    short_help="Store a value under a key that is absent.",
    epilog=examples(
        """
        mmkv add store.mmkv job-17 "$HOSTNAME" && do-job-17
        mmkv add store.mmkv photo < photo.jpg
        """
    ),
)
@store_argument
@click.argument("key")
@click.argument("value", required=False)
@hex_option
@hex_value_option
def add(store: str, key: str, value: str | None, as_hex: bool, hex_value: bool) -> None:
    """Store VALUE, or else what standard input holds, under KEY, which must be absent: else the exit status is 1.

    Of several who try at once one succeeds. The store is made if it is missing.
    """
    name = parse_key(key, as_hex)
    data = read_value(value, hex_value)
    with open_for_writing(store, create=True) as db:
        if not db.add(name, data):
            raise Unchanged(name, "is there")
