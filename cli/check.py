"""`mmkv check`."""

from __future__ import annotations

import click

from .errors import Exit
from .opening import open_for_reading
from .options import examples, json_option, quiet_option, store_argument
from .progress import Progress
from .streams import binary_stdout
from .text import dump_json, json_field

__all__ = ["check"]


@click.command(
    short_help="Verify every checksum.",
    epilog=examples(
        """
        mmkv check store.mmkv && echo sound
        mmkv check --json store.mmkv
        """
    ),
)
@store_argument
@json_option
@quiet_option
def check(store: str, as_json: bool, quiet: bool) -> int:
    """Read everything, verify every checksum, and print a report; the exit status is 3 if anything is wrong.

    The file is left as it was found, unless that would leave it unreadable.
    """
    with open_for_reading(store, inspect=True) as db, Progress("checking", quiet=quiet) as progress:
        outcome = db.verify(progress.callback)
    out = binary_stdout()
    if as_json:
        errors = [
            {"kind": kind, **({} if key is None else json_field("key", key)), "offset": offset, "text": text}
            for kind, key, offset, text in outcome.errors
        ]
        out.write(dump_json({"ok": outcome.ok, "records": outcome.records, "errors": errors}))
    else:
        out.write(f"{outcome}\n".encode("utf-8", "backslashreplace"))
    return Exit.OK if outcome.ok else Exit.FAILURE
