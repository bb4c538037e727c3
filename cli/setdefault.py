"""`mmkv setdefault`."""

from __future__ import annotations

import click

from .opening import open_for_writing
from .options import examples, hex_option, hex_value_option, json_option, parse_key, store_argument
from .values import check_forms, print_value, read_value

__all__ = ["setdefault"]


@click.command(
    short_help="Print a value, storing it first if the key is absent.",
    epilog=examples(
        """
        mmkv setdefault store.mmkv leader "$HOSTNAME"
        """
    ),
)
@store_argument
@click.argument("key")
@click.argument("value", required=False)
@hex_option
@hex_value_option
@json_option
def setdefault(store: str, key: str, value: str | None, as_hex: bool, hex_value: bool, as_json: bool) -> None:
    """Print the value of KEY; if it is absent, store VALUE, or else what standard input holds, and print that.

    Of several who try at once all print the same. The store is made if it is missing.
    """
    check_forms(as_json=as_json, hex_value=hex_value)
    name = parse_key(key, as_hex)
    data = read_value(value, hex_value)
    with open_for_writing(store, create=True) as db:
        there = db.setdefault(name, data)
    print_value(name, there, as_json=as_json, hex_value=hex_value)
