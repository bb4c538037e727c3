"""`mmkv pop`."""

from __future__ import annotations

import click

from .errors import Absent
from .opening import open_for_writing
from .options import examples, hex_option, hex_value_option, json_option, parse_key, store_argument
from .values import check_forms, print_value

__all__ = ["pop"]


@click.command(
    short_help="Delete a key and print the value that it had.",
    epilog=examples(
        """
        mmkv pop store.mmkv greeting
        """
    ),
)
@store_argument
@click.argument("key")
@hex_option
@hex_value_option
@json_option
def pop(store: str, key: str, as_hex: bool, hex_value: bool, as_json: bool) -> None:
    """Delete KEY and print the value that it had, in the forms of `get`; if it is not there the exit status is 1.

    Of several who try at once one gets the value. It is deleted before it is printed.
    """
    check_forms(as_json=as_json, hex_value=hex_value)
    name = parse_key(key, as_hex)
    with open_for_writing(store, create=False) as db:
        value = db.pop(name, None)
    if value is None:
        raise Absent(name)
    print_value(name, value, as_json=as_json, hex_value=hex_value)
