"""`mmkv wait`."""

from __future__ import annotations

import math

import click

import mmkv

from .errors import Absent, TimeUp
from .opening import open_for_writing
from .options import (
    examples,
    hex_option,
    hex_value_option,
    json_option,
    old_option,
    parse_bytes,
    parse_key,
    store_argument,
)
from .values import check_forms, print_value

__all__ = ["wait"]


@click.command(
    short_help="Wait until a value changes, and print the new one.",
    epilog=examples(
        """
        mmkv wait store.mmkv ready
        mmkv wait store.mmkv state --old running --timeout 60
        """
    ),
)
@store_argument
@click.argument("key")
@old_option("The value that is known already; without it KEY is known to be absent.")
@click.option("-t", "--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="How long to wait at most.")
@hex_option
@hex_value_option
@json_option
def wait(
    store: str, key: str, old: str | None, timeout: float | None, as_hex: bool, hex_value: bool, as_json: bool
) -> None:
    """Wait until the value of KEY is not --old any more, and print what it is then, in the forms of `get`.

    If KEY is absent then, the exit status is 1; if the time is up, 124.
    """
    check_forms(as_json=as_json, hex_value=hex_value)
    if timeout is not None and math.isnan(timeout):
        raise click.BadParameter("not a number of seconds", param_hint="--timeout")
    name = parse_key(key, as_hex)
    known = None if old is None else parse_bytes(old, hex_value, "--old")
    with open_for_writing(store, create=False) as db:
        try:
            value = db.wait(name, old=known, timeout=timeout)
        except mmkv.LockTimeoutError:
            raise
        except TimeoutError:
            raise TimeUp(name) from None
    if value is None:
        raise Absent(name)
    print_value(name, value, as_json=as_json, hex_value=hex_value)
