"""Writing many records into a store: in batches of bounded size, with a checkpoint now and then."""

from __future__ import annotations

import itertools
import time

import mmkv

__all__ = ["Batch"]

BATCH_BYTES = 1 << 20  # what waits in memory; a larger record goes alone
BATCH_RECORDS = 1_000
SYNC_BYTES = 64 << 20  # a checkpoint after so many bytes
SYNC_SECONDS = 10.0  # or so many seconds, whichever comes first


class Batch:
    """Records on their way into a store."""

    def __init__(self, store: mmkv.Store) -> None:
        self._store = store
        self._pairs: list[tuple[bytes, bytes]] = []
        self._waiting = 0
        self._unsynced = 0
        self._synced_at = time.monotonic()
        self.records = 0
        """Records that are in the store."""
        self.size = 0
        """Bytes of their keys and values."""

    def put(self, key: bytes, value: bytes) -> None:
        """Take a record; it is in the store after the next `flush` at the latest."""
        size = len(key) + len(value)
        if self._pairs and self._waiting + size > BATCH_BYTES:
            self.flush()
        self._pairs.append((key, value))
        self._waiting += size
        if self._waiting >= BATCH_BYTES or len(self._pairs) >= BATCH_RECORDS:
            self.flush()

    def flush(self) -> None:
        """Store what waits, and make it durable if the last checkpoint was long ago."""
        if not self._pairs:
            return
        try:
            self._store.put_many(self._pairs)
        except mmkv.StoreFullError:
            # Pairs go in one by one, in order: those up to the first that is not there did.
            for key, value in itertools.takewhile(lambda pair: self._store.get(pair[0]) == pair[1], self._pairs):
                self.records += 1
                self.size += len(key) + len(value)
            self._pairs, self._waiting = [], 0
            raise
        self.records += len(self._pairs)
        self.size += self._waiting
        self._unsynced += self._waiting
        self._pairs, self._waiting = [], 0
        if self._unsynced >= SYNC_BYTES or time.monotonic() - self._synced_at >= SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Make everything stored so far durable."""
        self._store.sync()
        self._unsynced = 0
        self._synced_at = time.monotonic()
