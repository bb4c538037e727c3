"""`mmkv stats`."""

from __future__ import annotations

import click

from .opening import open_for_reading
from .options import examples, json_option, store_argument
from .streams import binary_stdout
from .text import dump_json, escape_text

__all__ = ["stats"]


@click.command(
    short_help="Print the store's figures.",
    epilog=examples(
        """
        mmkv stats store.mmkv
        mmkv stats --json store.mmkv
        """
    ),
)
@store_argument
@json_option
def stats(store: str, as_json: bool) -> None:
    """Print the store's figures: records, sizes, epochs."""
    with open_for_reading(store) as db:
        figures = db.stats().as_dict()
    out = binary_stdout()
    if as_json:
        out.write(dump_json(figures))
        return
    width = max(map(len, figures), default=0)
    for name, value in figures.items():
        out.write(f"{name:<{width}}  {_show(name, value)}\n".encode("utf-8", "backslashreplace"))


def _show(name: str, value: object) -> str:
    # Thousands are set apart where the figure is an amount.
    if isinstance(value, int) and not name.endswith(("_ns", "_seed")):
        return f"{value:,}"
    return escape_text(value if isinstance(value, bytes) else str(value))
