"""The command group, and the one place where exceptions become exit statuses and error lines."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import click
from click.shell_completion import shell_complete

import mmkv

from .add import add
from .cas import cas
from .check import check
from .count import count
from .delete import delete
from .errors import Absent, Exit, Failure, TimeUp, Unchanged, describe, report
from .export import export
from .get import get
from .has import has
from .import_ import import_
from .incr import incr
from .list import list_
from .options import examples
from .pop import pop
from .put import put
from .replace import replace
from .salvage import salvage
from .setdefault import setdefault
from .stats import stats
from .wait import wait

__all__ = ["group", "run"]

PROGRAM = "mmkv"
COMPLETE_VARIABLE = "_MMKV_COMPLETE"


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=False,
    epilog=examples(
        """
        mmkv put store.mmkv greeting hello
        mmkv put store.mmkv photo < photo.jpg
        mmkv get store.mmkv photo > copy.jpg
        mmkv list store.mmkv --prefix gr
        mmkv import store.mmkv some/directory
        mmkv export store.mmkv records.jsonl
        """
    )
    + "\n\n\b\nExit status: 0 done, 1 no such key, or a condition does not hold, 2 wrong usage,\n"
    "3 an error of the store, a file or the data, 124 time is up, 130 interrupted.",
)
@click.version_option(package_name="mmkv", prog_name=PROGRAM)
def group() -> None:
    """A persistent key-value store in one memory-mapped file.

    Keys and values are bytes. A KEY that begins with a dash goes after `--`.
    """


SINGLE = (get, put, add, replace, setdefault, cas, incr, pop, delete, has, wait)
WHOLE = (count, list_, stats, check, salvage, import_, export)

for command in SINGLE + WHOLE:
    group.add_command(command)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status; every error has been reported in one line on stderr."""
    signal.signal(signal.SIGTERM, _terminate)
    instruction = os.environ.get(COMPLETE_VARIABLE)
    if instruction:
        return shell_complete(group, {}, PROGRAM, COMPLETE_VARIABLE, instruction)
    status = _run(arguments)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        status = Exit.PIPE_CLOSED
    except OSError as error:
        if status != Exit.FAILURE:  # else the command has said so
            report(f"standard output: {describe(error)}")
        status = Exit.FAILURE
    if status != Exit.OK:
        _drop_output()
    return status


def _run(arguments: Sequence[str]) -> int:
    try:
        # Not group.main(): it prints errors on several lines and has exit statuses of its own.
        with group.make_context(PROGRAM, list(arguments)) as context:
            result = group.invoke(context)
            return result if isinstance(result, int) else Exit.OK
    except click.exceptions.Exit as end:  # --help, --version
        return end.exit_code
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else PROGRAM
        report(f"{error.format_message().rstrip('.')} (see '{path} --help')")
        return Exit.USAGE
    except (Absent, Unchanged) as error:
        report(str(error))
        return Exit.ABSENT if isinstance(error, Absent) else Exit.UNCHANGED
    except TimeUp as error:
        report(str(error))
        return Exit.TIMEOUT
    except BrokenPipeError:
        return Exit.PIPE_CLOSED
    except (Failure, mmkv.Error, OSError, click.ClickException) as error:
        report(describe(error))
        return Exit.FAILURE
    except KeyboardInterrupt as error:
        report(str(error) or "interrupted")
        return Exit.INTERRUPTED
    except MemoryError:
        report("out of memory")
        return Exit.FAILURE
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        report(f"internal error: {type(error).__name__}: {describe(error)} (python -X dev -m mmkv.cli shows where)")
        return Exit.FAILURE


def _drop_output() -> None:
    # What is left in the buffer goes nowhere: else the interpreter would try again at exit and complain.
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
    except OSError:
        pass


def _terminate(number: int, frame: object) -> NoReturn:
    # So that `finally` blocks close stores and remove temporary files.
    raise SystemExit(Exit.TERMINATED)
