"""The exceptions of mmkv.

What the operating system refuses is raised as Python does it everywhere: `FileNotFoundError`, `PermissionError`,
`IsADirectoryError` and so on, with `errno` and `filename`. What is particular to a store derives from `Error`; where
Python has a class for the same idea it is a base as well, so that code written for files and locks catches it.
"""

from __future__ import annotations


class Error(Exception):
    """The base of all exceptions that are particular to mmkv."""

    _path: str | None = None

    @property
    def path(self) -> str | None:
        """The store's file, where known."""
        return self._path


class StoreFullError(Error, OSError):
    """There is no room: the disk, `max_size`, or the format's own limit. The store goes on serving.

    Also an `OSError`, with `errno` ENOSPC (or EDQUOT for a quota, EFBIG for the limit on the size of files).
    """


class CorruptStoreError(Error):
    """The file contradicts itself."""

    _offset: int | None = None

    @property
    def offset(self) -> int | None:
        """The byte position in the file where that was noticed, or None."""
        return self._offset


class NotAStoreError(Error):
    """The file is some other file, not a store."""


class VersionError(Error):
    """The store was made by a version of mmkv, or uses a feature, that this version does not know."""


class LockTimeoutError(Error, TimeoutError):
    """A live process has kept a lock for longer than `lock_timeout`, or the whole store where it must not be shared.

    Also a `TimeoutError`.
    """

    _pid: int | None = None

    @property
    def pid(self) -> int | None:
        """The process that holds it, as its own system numbers it, or None."""
        return self._pid


class ReadOnlyError(Error):
    """The operation writes and the store was opened for reading, or has to be repaired by a writer first."""


class ClosedError(Error, ValueError):
    """The store has been closed. Also a `ValueError`, as for closed files."""


class ConflictError(Error):
    """Somebody else has changed what this transaction, or this private copy, was built on."""
