"""`mmkv count`."""

from __future__ import annotations

import click

from .opening import open_for_reading
from .options import examples, json_option, store_argument
from .streams import binary_stdout
from .text import dump_json

__all__ = ["count"]


@click.command(
    short_help="Print the number of records.",
    epilog=examples(
        """
        mmkv count store.mmkv
        """
    ),
)
@store_argument
@json_option
def count(store: str, as_json: bool) -> None:
    """Print how many records the store holds."""
    with open_for_reading(store) as db:
        records = len(db)
    binary_stdout().write(dump_json({"count": records}) if as_json else b"%d\n" % records)
