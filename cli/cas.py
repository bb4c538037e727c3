"""`mmkv cas`."""

from __future__ import annotations

import click

from .errors import Unchanged
from .opening import open_for_writing
from .options import examples, hex_option, hex_value_option, old_option, parse_bytes, parse_key, store_argument

__all__ = ["cas"]


@click.command(
    short_help="Exchange a value for another if it is the expected one.",
    epilog=examples(
        """
        mmkv cas store.mmkv state --old ready --new running
        mmkv cas store.mmkv state --new ready
        mmkv cas store.mmkv state --old running
        """
    ),
)
@store_argument
@click.argument("key")
@old_option("The value that KEY must have; without it KEY must be absent.")
@click.option("-n", "--new", metavar="VALUE", help="The value to store; without it KEY is deleted.")
@hex_option
@hex_value_option
def cas(store: str, key: str, old: str | None, new: str | None, as_hex: bool, hex_value: bool) -> None:
    """Compare and swap: give KEY the value --new if its value is --old, in one step; else the exit status is 1.

    The store is made if it is missing and KEY is expected to be absent.
    """
    name = parse_key(key, as_hex)
    expected = None if old is None else parse_bytes(old, hex_value, "--old")
    value = None if new is None else parse_bytes(new, hex_value, "--new")
    with open_for_writing(store, create=old is None) as db:
        if not db.compare_and_swap(name, expected, value):
            raise Unchanged(name, "is there" if expected is None else "has not the expected value")
