"""What a command may end with: exit statuses, the exceptions behind them, and the one line they print."""

from __future__ import annotations

import contextlib
import sys
from enum import IntEnum

from .text import escape_text, quote

__all__ = ["Absent", "BadData", "Exit", "Failure", "TimeUp", "Unchanged", "UnsafeKey", "describe", "report"]


class Exit(IntEnum):
    """Exit statuses, part of the command line's contract (docs/cli.md)."""

    OK = 0
    ABSENT = 1
    UNCHANGED = 1
    USAGE = 2
    FAILURE = 3
    TIMEOUT = 124  # what timeout(1) has
    INTERRUPTED = 130  # 128 + SIGINT, what a shell reports for a program that Ctrl-C ended
    PIPE_CLOSED = 141  # 128 + SIGPIPE, likewise
    TERMINATED = 143  # 128 + SIGTERM


class Absent(Exception):
    """A key that was asked for is not in the store."""

    def __init__(self, *keys: bytes) -> None:
        shown = ", ".join(quote(key) for key in keys[:3])
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        super().__init__(f"no such key: {shown}{more}")


class Unchanged(Exception):
    """The condition of a change does not hold."""

    def __init__(self, key: bytes, why: str) -> None:
        super().__init__(f"nothing was changed: key {quote(key)} {why}")


class TimeUp(Exception):
    """What was waited for did not come in the time given."""

    def __init__(self, key: bytes) -> None:
        super().__init__(f"time is up: the value of key {quote(key)} has not changed")


class Failure(Exception):
    """A failure of a store, a file or the data in it, already worded for the user."""


class BadData(Failure):
    """Input of `import` that is not what its format says."""


class UnsafeKey(Failure):
    """A key that `export` cannot turn into a file below its target."""

    def __init__(self, key: bytes, reason: str) -> None:
        super().__init__(f"key {quote(key)} cannot be a file name: {reason} (--skip-unsafe leaves such keys out)")


def describe(error: BaseException) -> str:
    """Return the text for an exception that was not worded for the user."""
    if isinstance(error, OSError) and error.strerror:
        names = [name for name in (error.filename, error.filename2) if name is not None]
        place = " -> ".join(escape_text(name if isinstance(name, (str, bytes)) else str(name)) for name in names)
        return f"{place}: {error.strerror}" if place else error.strerror
    return " ".join(str(error).split("\n")) or type(error).__name__


def report(text: str) -> None:
    """Print one line on stderr, whatever the text contains."""
    # stderr may be closed or full: there is nobody left to tell.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"mmkv: {escape_text(text, backslash=False)}\n")
        sys.stderr.flush()
