"""`mmkv salvage`."""

from __future__ import annotations

import click

import mmkv

from .errors import Exit
from .options import PATH, examples, json_option, quiet_option
from .progress import Progress
from .reports import print_json, print_text

__all__ = ["salvage"]


@click.command(
    short_help="Copy what is whole into a new store.",
    epilog=examples(
        """
        mmkv salvage damaged.mmkv new.mmkv
        """
    ),
)
@click.argument("damaged", type=PATH)
@click.argument("new", type=PATH)
@json_option
@quiet_option
def salvage(damaged: str, new: str, as_json: bool, quiet: bool) -> int:
    """Copy every record of DAMAGED that is still whole into a NEW store, and print a report.

    DAMAGED is only read. The exit status is 3 if damage was met; NEW holds what was whole all the same.
    """
    with Progress("salvaging", quiet=quiet) as progress:
        outcome = mmkv.salvage(damaged, new, progress.callback)
    if as_json:
        print_json(outcome)
    else:
        print_text("salvaged", outcome)
    return Exit.OK if outcome else Exit.FAILURE
