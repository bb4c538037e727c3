"""How commands open stores: the mode each kind of command asks for, and what happens after a killed writer.

What a command prints or exports has been held against its checksum: beside the work of a command that costs nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import mmkv

from .progress import Progress

__all__ = ["open_for_reading", "open_for_writing"]

Mode = Literal["w", "p"]

# A read-only opener repairs nothing, so a store that a dead process left in need of repair refuses mode "r". Then:
# - "w" repairs it for good, as the next writer would in any case;
# - "p" repairs a private copy in memory, which is all that somebody without write permission can do.
READ: Sequence[Mode] = ("w", "p")
# `check` leaves the file as it was found if it can: somebody may want to look at the damage.
INSPECT: Sequence[Mode] = ("p", "w")
# Seconds that a read-only opener waits for a shard. A live writer holds one for microseconds.
PATIENCE = 0.5


@contextmanager
def open_for_reading(path: str, *, inspect: bool = False, quiet: bool = False) -> Iterator[mmkv.Store]:
    """Open an existing store to read from it; with `inspect`, without changing the file if that can be helped."""
    store = _open_readable(path, INSPECT if inspect else READ, verify_reads=not inspect, quiet=quiet)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def open_for_writing(path: str, *, create: bool, quiet: bool = False) -> Iterator[mmkv.Store]:
    """Open a store to change it; its close makes the changes durable."""
    store = _open(path, "c" if create else "w", quiet=quiet)
    try:
        yield store
    finally:
        store.close()


def _open(path: str, mode: Literal["w", "c", "p"], *, quiet: bool, verify_reads: bool = False) -> mmkv.Store:
    # The first to open a store after a power cut recovers it, which can take a while.
    with Progress("recovering", quiet=quiet) as progress:
        return mmkv.open(path, mode, verify_reads=verify_reads, progress=progress.callback)


def _open_readable(path: str, repairing: Sequence[Mode], *, verify_reads: bool, quiet: bool) -> mmkv.Store:
    reason: mmkv.Error
    try:
        return _open_read_only(path, verify_reads)
    except (mmkv.ReadOnlyError, mmkv.LockTimeoutError) as error:
        reason = error
    for mode in repairing:
        try:
            return _open(path, mode, quiet=quiet, verify_reads=verify_reads)
        except mmkv.LockTimeoutError as error:
            if mode == "w":  # a lock is held by a live process: this error names it
                reason = error
        except PermissionError:
            pass
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
    raise reason


def _open_read_only(path: str, verify_reads: bool) -> mmkv.Store:
    store = mmkv.open(path, "r", lock_timeout=PATIENCE, verify_reads=verify_reads)
    try:
        # What a process that was killed left half-done shows when it is read, not when the file is opened; and half a
        # listing and an error would be worse than none. So every shard is asked once, by way of keys that are not
        # there: that a shard is missed by 16 random keys for each there is has a chance of about one in ten million.
        probes = store.stats().shards * 16
        store.get_many([os.urandom(16) for _ in range(probes)])
    except BaseException:
        store.close()
        raise
    return store
