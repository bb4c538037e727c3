"""`mmkv incr`."""

from __future__ import annotations

import click

from .errors import Failure
from .opening import open_for_writing
from .options import examples, hex_option, parse_key, store_argument
from .streams import binary_stdout

__all__ = ["incr"]

NUMBER = click.IntRange(-(2**63), 2**63 - 1)


@click.command(
    short_help="Add to a counter and print the sum.",
    epilog=examples(
        """
        mmkv incr store.mmkv visits
        mmkv incr store.mmkv left -- -1
        mmkv incr --initial 100 store.mmkv left -- -1
        """
    ),
)
@store_argument
@click.argument("key")
@click.argument("delta", type=NUMBER, default=1)
@click.option("-i", "--initial", type=NUMBER, default=0, help="What an absent counter counts as (0).")
@hex_option
def incr(store: str, key: str, delta: int, initial: int, as_hex: bool) -> None:
    """Add DELTA, or 1, to the counter KEY and print the sum.

    A counter is a signed 64-bit integer, stored as 8 bytes, little-endian. A sum that does not fit is an error and
    changes nothing. The store is made if it is missing.
    """
    name = parse_key(key, as_hex)
    with open_for_writing(store, create=True) as db:
        try:
            number = db.incr(name, delta, initial=initial)
        except (OverflowError, ValueError) as error:
            raise Failure(str(error)) from None
    binary_stdout().write(b"%d\n" % number)
