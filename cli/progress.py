"""A progress line on stderr for somebody who watches, and silence in a pipe."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from .streams import is_terminal

__all__ = ["Progress", "size_text"]

INTERVAL = 0.1  # seconds between two paintings
DELAY = 0.3  # seconds of work before the first: short commands paint nothing


def size_text(size: float) -> str:
    """Return a number of bytes for people, as `12.3 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


class Progress:
    """A line that says how far a long command is; a context manager that wipes it at the end.

    click's bar wants to know the length beforehand, which a directory walk and a pipe don't.
    """

    def __init__(self, label: str, *, quiet: bool = False) -> None:
        self._label = label
        self._shown = not quiet and is_terminal(sys.stderr)
        self._start = time.monotonic()
        self._next = self._start + DELAY
        self._painted = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._painted:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def update(self, records: int, size: int, *, done: int = 0, total: int | None = None) -> None:
        """Show records and bytes moved; `done` of `total`, in any unit, gives the share where it is known."""
        if self.is_due():
            rate = size / max(time.monotonic() - self._start, 1e-9)
            share = _share(done, total)
            self._paint(f"{share}{records:,} records, {size_text(size)}, {size_text(rate)}/s")

    def callback(self, done: int, total: int) -> None:
        """Show `done` of `total`: the form in which the store's own long operations report."""
        if self.is_due():
            self._paint(_share(done, total) or f"{done:,}")

    def is_due(self) -> bool:
        """Say whether an update now would paint: to be asked first where the figures cost something."""
        return self._shown and time.monotonic() >= self._next

    def _paint(self, text: str) -> None:
        self._painted = True
        self._next = time.monotonic() + INTERVAL
        # \x1b[K wipes what a longer line left behind.
        sys.stderr.write(f"\r{self._label}: {text}\x1b[K")
        sys.stderr.flush()


def _share(done: int, total: int | None) -> str:
    if not total:
        return ""
    share = min(done / total, 1.0)
    filled = int(share * 20)
    return f"[{'#' * filled}{'-' * (20 - filled)}] {share:4.0%} "
