"""`mmkv check`."""

from __future__ import annotations

import contextlib

import click

import mmkv

from .errors import Exit
from .opening import open_for_reading
from .options import examples, json_option, quiet_option, store_argument
from .progress import Progress
from .reports import print_check, print_json, print_text

__all__ = ["check"]


@click.command(
    short_help="Verify every checksum, repair if asked.",
    epilog=examples(
        """
        mmkv check store.mmkv && echo sound
        mmkv check --json store.mmkv
        mmkv check --repair store.mmkv
        """
    ),
)
@store_argument
@click.option("--repair", is_flag=True, help="Repair what is damaged, in place, if no loss goes unnamed.")
@json_option
@quiet_option
def check(store: str, repair: bool, as_json: bool, quiet: bool) -> int:
    """Read everything, verify every checksum, and print a report; the exit status is 3 if anything is wrong.

    The file is left as it was found, unless that would leave it unreadable. With --repair a store that is not sound is
    repaired; the status is then 3 if records, or what leads to them, were damaged.
    """
    outcome = None
    try:
        outcome = _verify(store, quiet=quiet)
    except mmkv.CorruptStoreError:
        if not repair:
            raise
    if repair and not outcome:
        if outcome is not None and not as_json:
            print_check(outcome)
        with Progress("repairing", quiet=quiet) as progress:
            outcome = mmkv.repair(store, progress.callback)
        if as_json:
            print_json(outcome, repaired=True)
        else:
            print_text("repaired", outcome)
    else:
        assert outcome is not None
        if as_json:
            print_json(outcome)
        else:
            print_check(outcome)
    return Exit.OK if outcome else Exit.FAILURE


def _verify(store: str, *, quiet: bool) -> mmkv.Report:
    while True:
        # A private copy is worth nothing from the moment somebody opens the store to write. But who does so puts in
        # order what kept it from being read, and it can be asked as it is.
        with (
            contextlib.suppress(mmkv.ConflictError),
            open_for_reading(store, inspect=True, quiet=quiet) as db,
            Progress("checking", quiet=quiet) as progress,
        ):
            return db.verify(progress.callback)
