"""`mmkv put`."""

from __future__ import annotations

import click

from .opening import open_for_writing
from .options import examples, hex_option, hex_value_option, parse_key, store_argument
from .values import read_value

__all__ = ["put"]


@click.command(
    short_help="Store a value under a key.",
    epilog=examples(
        """
        mmkv put store.mmkv greeting hello
        mmkv put store.mmkv photo < photo.jpg
        mmkv put --hex --hex-value store.mmkv 00ff cafe
        """
    ),
)
@store_argument
@click.argument("key")
@click.argument("value", required=False)
@hex_option
@hex_value_option
def put(store: str, key: str, value: str | None, as_hex: bool, hex_value: bool) -> None:
    """Store VALUE, or else what standard input holds, under KEY.

    The store is made if it is missing. When the command has ended the value is on the disk.
    """
    name = parse_key(key, as_hex)
    data = read_value(value, hex_value)
    with open_for_writing(store, create=True) as db:
        db.put(name, data)
