"""`mmkv replace`."""

from __future__ import annotations

import click

from .errors import Absent
from .opening import open_for_writing
from .options import examples, hex_option, hex_value_option, parse_key, store_argument
from .values import read_value

__all__ = ["replace"]


@click.command(
    short_help="Store a value under a key that is there.",
    epilog=examples(
        """
        mmkv replace store.mmkv greeting goodbye
        mmkv replace store.mmkv photo < better.jpg
        """
    ),
)
@store_argument
@click.argument("key")
@click.argument("value", required=False)
@hex_option
@hex_value_option
def replace(store: str, key: str, value: str | None, as_hex: bool, hex_value: bool) -> None:
    """Store VALUE, or else what standard input holds, under KEY, which must be there: else the exit status is 1."""
    name = parse_key(key, as_hex)
    data = read_value(value, hex_value)
    with open_for_writing(store, create=False) as db:
        if not db.replace(name, data):
            raise Absent(name)
