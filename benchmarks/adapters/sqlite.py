"""SQLite with a write-ahead log, for orientation: the store everybody has.

A table `WITHOUT ROWID` is one B-tree with the key in it (https://sqlite.org/withoutrowid.html), which suits small
records; `mmap_size` spares a system call per page read (https://sqlite.org/mmap.html). Each statement is a transaction
of its own, as each operation of mmkv is; `put_many` is one transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from benchmarks.adapters.base import Adapter, Operations, Pair

CACHE_KIB = 65_536
MMAP_BYTES = 1 << 40
"""As much as the build allows (usually 2 GiB)."""

SELECT = "SELECT value FROM records WHERE key = ?"
UPSERT = "REPLACE INTO records (key, value) VALUES (?, ?)"
DELETE = "DELETE FROM records WHERE key = ?"


class _Sqlite(Adapter):
    synchronous: ClassVar[str]

    _connection: sqlite3.Connection

    @classmethod
    def version(cls) -> str:
        return sqlite3.sqlite_version

    def open(self, directory: Path, payload_bytes: int) -> None:
        self.directory = directory
        # isolation_level None: the module begins no transactions of its own.
        self._connection = sqlite3.connect(directory / "store.sqlite", isolation_level=None)
        for statement in (
            "PRAGMA journal_mode = WAL",
            f"PRAGMA synchronous = {self.synchronous}",
            f"PRAGMA cache_size = -{CACHE_KIB}",
            f"PRAGMA mmap_size = {MMAP_BYTES}",
            "CREATE TABLE records (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
        ):
            self._connection.execute(statement).fetchall()

    def begin(self, *, write: bool) -> Operations:
        connection = self._connection
        cursor = connection.cursor()
        execute, fetchone = cursor.execute, cursor.fetchone

        def get(key: bytes) -> bytes | None:
            execute(SELECT, (key,))
            row = fetchone()
            return None if row is None else row[0]

        def contains(key: bytes) -> bool:
            execute("SELECT 1 FROM records WHERE key = ?", (key,))
            return fetchone() is not None

        def put(key: bytes, value: bytes) -> None:
            execute(UPSERT, (key, value))

        def delete(key: bytes) -> None:
            execute(DELETE, (key,))

        def get_many(keys: Sequence[bytes]) -> list[bytes | None]:
            marks = ",".join("?" * len(keys))
            found = dict(execute(f"SELECT key, value FROM records WHERE key IN ({marks})", keys))
            return list(map(found.get, keys))

        def put_many(pairs: Sequence[Pair]) -> None:
            execute("BEGIN")
            cursor.executemany(UPSERT, pairs)
            execute("COMMIT")

        def keys() -> Iterator[bytes]:
            return (row[0] for row in connection.execute("SELECT key FROM records"))

        def items() -> Iterator[Pair]:
            return iter(connection.execute("SELECT key, value FROM records"))

        return Operations(get, contains, put, delete, get_many, put_many, keys, items)

    def sync(self) -> None:
        # A checkpoint flushes the log and then the database, but not at all with synchronous = OFF, hence the change.
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._connection.execute(f"PRAGMA synchronous = {self.synchronous}")

    def damage(self) -> str | None:
        found = self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        return None if found == "ok" else str(found)

    def close(self) -> None:
        self._connection.close()


class SqliteOff(_Sqlite):
    """Flushes nothing by itself: safe for process death, as LMDB's fast setting is."""

    name: ClassVar[str] = "sqlite-off"
    summary: ClassVar[str] = "WAL, synchronous=OFF, a transaction per call"
    synchronous: ClassVar[str] = "OFF"


class SqliteNormal(_Sqlite):
    """Flushes at its checkpoints, so a power cut leaves some earlier state, whole."""

    name: ClassVar[str] = "sqlite-normal"
    summary: ClassVar[str] = "WAL, synchronous=NORMAL, a transaction per call"
    synchronous: ClassVar[str] = "NORMAL"
