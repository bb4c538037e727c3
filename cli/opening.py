"""How commands open stores: the mode each kind of command asks for, and what happens after a killed writer."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import mmkv

__all__ = ["open_for_reading", "open_for_writing"]

Mode = Literal["w", "p"]

# A read-only opener repairs nothing, so a store that a dead process left in need of repair refuses mode "r". Then:
# - "w" repairs it for good, as the next writer would in any case;
# - "p" repairs a private copy in memory, which is all that somebody without write permission can do.
READ: Sequence[Mode] = ("w", "p")
# `check` leaves the file as it was found if it can: somebody may want to look at the damage.
INSPECT: Sequence[Mode] = ("p", "w")


@contextmanager
def open_for_reading(path: str, *, inspect: bool = False) -> Iterator[mmkv.Store]:
    """Open an existing store to read from it; with `inspect`, without changing the file if that can be helped."""
    store = _open_readable(path, INSPECT if inspect else READ)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def open_for_writing(path: str, *, create: bool) -> Iterator[mmkv.Store]:
    """Open a store to change it; its close makes the changes durable."""
    store = mmkv.open(path, "c" if create else "w")
    try:
        yield store
    finally:
        store.close()


def _open_readable(path: str, repairing: Sequence[Mode]) -> mmkv.Store:
    try:
        return _open_read_only(path)
    except mmkv.ReadOnlyError as error:
        reason = error
    for mode in repairing:
        try:
            return mmkv.open(path, mode)
        except (PermissionError, mmkv.LockTimeoutError):
            continue  # not allowed to write; or not alone, which "p" wants to be
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
    raise reason


def _open_read_only(path: str) -> mmkv.Store:
    store = mmkv.open(path, "r")
    try:
        # A shard that its owner left half-done shows when it is read, not when the file is opened.
        store.stats()
    except BaseException:
        store.close()
        raise
    return store
