"""Another mmkv store, as the source or the target of records."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import mmkv

from .batch import Batch
from .errors import Failure
from .files import sync_directory, temporary_path
from .opening import open_for_reading, open_for_writing
from .text import quote

__all__ = ["StoreSink", "StoreSource"]


class StoreSource:
    """Records from another store."""

    def __init__(self, path: str, *, quiet: bool) -> None:
        self._path = path
        self._stack = contextlib.ExitStack()
        self._store: mmkv.Store = self._stack.enter_context(open_for_reading(path, quiet=quiet))
        self._key = b""
        self.skipped = 0
        self.total: int | None = None

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the records."""
        for key, value in self._store.items():
            self._key = key
            yield key, value

    def where(self) -> str:
        """Return the store and the key."""
        return f"{self._path}, key {quote(self._key)}"

    def position(self) -> int:
        """Return nothing useful: how far an iteration is cannot be told in bytes."""
        return 0

    def close(self) -> None:
        """Close the store."""
        self._stack.close()


class StoreSink:
    """Records into a new store, which takes its name when it is complete."""

    def __init__(self, target: str, *, force: bool) -> None:
        self._target = os.path.realpath(target)
        self._force = force
        self._temporary: str | None = None
        self._stack = contextlib.ExitStack()

    def open(self) -> None:
        """Create the store."""
        if os.path.lexists(self._target) and not self._force:
            raise Failure(f"{self._target}: exists (--force replaces it; `mmkv import` adds to it)")
        self._temporary = temporary_path(self._target)
        self._batch = Batch(self._stack.enter_context(open_for_writing(self._temporary, create=True)))

    def check(self, key: bytes) -> None:
        """Accept: every key of a store fits another."""

    def write(self, key: bytes, value: bytes) -> None:
        """Store one record."""
        self._batch.put(key, value)

    def commit(self) -> None:
        """Close the store, which makes it durable, and put it in its place."""
        self._batch.flush()
        self._batch.sync()
        self._stack.close()
        assert self._temporary is not None
        os.rename(self._temporary, self._target)
        self._temporary = None
        sync_directory(os.path.dirname(self._target))

    def abort(self) -> None:
        """Remove the unfinished store."""
        if self._temporary is not None:
            try:
                self._stack.close()
            finally:
                with contextlib.suppress(FileNotFoundError):  # interrupted before it was made
                    os.unlink(self._temporary)
                self._temporary = None
