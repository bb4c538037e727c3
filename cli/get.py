"""`mmkv get`."""

from __future__ import annotations

import click

from .errors import Absent
from .opening import open_for_reading
from .options import examples, hex_option, hex_value_option, json_option, parse_key, store_argument
from .values import check_forms, print_value

__all__ = ["get"]


@click.command(
    short_help="Print the value of a key.",
    epilog=examples(
        """
        mmkv get store.mmkv photo > photo.jpg
        mmkv get --hex store.mmkv 00ff
        mmkv get --json store.mmkv greeting
        """
    ),
)
@store_argument
@click.argument("key")
@hex_option
@hex_value_option
@json_option
def get(store: str, key: str, as_hex: bool, hex_value: bool, as_json: bool) -> None:
    """Print the value of KEY: its bytes, and nothing added.

    With --json: an object with "key" and "value", or "key_b64" and "value_b64" in base64 for bytes that are not UTF-8.
    """
    check_forms(as_json=as_json, hex_value=hex_value)
    name = parse_key(key, as_hex)
    with open_for_reading(store) as db:
        value = db.get(name)
    if value is None:
        raise Absent(name)
    print_value(name, value, as_json=as_json, hex_value=hex_value)
