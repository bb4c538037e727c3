"""LMDB (through py-lmdb), the peer to beat, in three settings.

The fast settings are chosen so that LMDB promises what mmkv promises without `sync()`: nothing is lost when a process
is killed. What each flag does was read in LMDB 0.9's mdb.c, and the less obvious ones measured:

* `sync=False` (MDB_NOSYNC): a commit flushes nothing. Commits live in the page cache, which survives any process. After
  a power cut the database may be damaged, because pages reach the disk in any order; mmkv would open at its last
  checkpoint.
* `metasync=False` (MDB_NOMETASYNC) and `map_async=True` (MDB_MAPASYNC): say how a commit flushes, so beside MDB_NOSYNC
  they change nothing. They are set for clarity. An explicit `env.sync(True)` flushes in full (MS_SYNC) in spite of
  them.
* `writemap=True` (MDB_WRITEMAP): pages are changed in the shared map rather than copied to malloc'ed pages and written
  with pwrite. Still safe for process death: pages that the last commit can reach are never changed, only new ones. The
  price is that a stray pointer of the host program can damage the file, which holds for mmkv too. The file is then as
  long as the map, and sparse: its *length* says nothing, its blocks do. With a million records it made random puts some
  7 % and overwrites 18 % faster than `sync=False` alone, with or without `meminit=False`; with a few tens of thousands
  it is a few percent slower, which `lmdb-durable` shows beside it.
* `readahead=False` (MDB_NORDAHEAD, MADV_RANDOM): what LMDB recommends for data larger than memory. Here everything is
  in memory and it changes nothing (tried both ways: reads and file size were within 3 %).
* `max_spare_txns=1`: py-lmdb keeps a finished read transaction for the next, which saves its allocation.
* `meminit` matters only without writemap; `lock` stays on, since sharing is the point.

Keys and values come out as bytes (copies), as with mmkv. `buffers=True` gives views that die with the transaction:
something else, and hardly faster for values of 100 bytes (2 %).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.adapters.base import Adapter, Operations, Pair

MAP_BYTES_MIN = 1 << 30
MAP_FACTOR = 16
"""Map size per byte of keys and values. The map is sparse and costs nothing until used; it must hold LMDB's copies of
the pages that one transaction changes."""


class _Lmdb(Adapter):
    """Opening, closing and syncing, which the settings share."""

    module: ClassVar[str | None] = "lmdb"
    needs: ClassVar[str | None] = "open"
    flags: ClassVar[dict[str, bool]] = {"writemap": True, "map_async": True, "sync": False, "metasync": False}

    _environment: Any

    @classmethod
    def version(cls) -> str:
        package = cls.package()
        return f"{package.__version__} (LMDB {'.'.join(map(str, package.version()))})"

    def open(self, directory: Path, payload_bytes: int) -> None:
        self.directory = directory
        map_bytes = max(MAP_BYTES_MIN, MAP_FACTOR * payload_bytes)
        self._environment = self.package().open(
            str(directory), map_size=map_bytes, readahead=False, max_spare_txns=1, **self.flags
        )

    def sync(self) -> None:
        self.commit()
        self._environment.sync(True)

    def close(self) -> None:
        self._environment.close()


class LmdbLong(_Lmdb):
    """All reads of a phase in one read transaction; all writes (and the reads among them) in one write transaction.

    The fastest way to use LMDB, and the narrowest: the reads see the state of the phase's start, and while the write
    transaction is open nobody else can write and nobody sees what was written.
    """

    name: ClassVar[str] = "lmdb-long"
    summary: ClassVar[str] = "writemap, no sync; one read or write transaction per phase, its commit on the clock"

    def __init__(self) -> None:
        super().__init__()
        self._transaction: Any = None

    def begin(self, *, write: bool) -> Operations:
        self.commit()
        transaction = self._transaction = self._environment.begin(write=write)
        cursor = transaction.cursor()
        get = transaction.get

        def get_many(keys: Sequence[bytes]) -> list[bytes | None]:
            # Cursor.getmulti is a fifth slower than this: it also builds a tuple and a copy of the key for each record.
            return list(map(get, keys))

        return Operations(
            get=get,
            contains=cursor.set_key,
            put=transaction.put,
            delete=transaction.delete,
            get_many=get_many,
            put_many=cursor.putmulti,
            keys=lambda: iter(transaction.cursor().iternext(values=False)),
            items=lambda: iter(transaction.cursor().iternext()),
        )

    def commit(self) -> None:
        if self._transaction is not None:
            self._transaction.commit()
            self._transaction = None

    def close(self) -> None:
        self.commit()
        super().close()


class LmdbDurable(LmdbLong):
    """LMDB's default flags: each commit is flushed, so a power cut leaves exactly the last commit, as with mmkv's sync.

    The peer for workloads that sync, where the other settings risk the whole file in a power cut.
    """

    name: ClassVar[str] = "lmdb-durable"
    summary: ClassVar[str] = "LMDB's default flags (a commit is a flush); one read or write transaction per phase"
    flags: ClassVar[dict[str, bool]] = {}


class LmdbCall(_Lmdb):
    """A transaction for each call: as with mmkv a put is visible to others when it returns, a get sees the latest."""

    name: ClassVar[str] = "lmdb-call"
    summary: ClassVar[str] = "writemap, no sync; one transaction per call"

    def begin(self, *, write: bool) -> Operations:
        start = self._environment.begin

        def get(key: bytes) -> bytes | None:
            with start() as transaction:
                value: bytes | None = transaction.get(key)
                return value

        def contains(key: bytes) -> bool:
            with start() as transaction:
                return transaction.get(key) is not None

        def put(key: bytes, value: bytes) -> None:
            with start(write=True) as transaction:
                transaction.put(key, value)

        def delete(key: bytes) -> bool:
            with start(write=True) as transaction:
                return bool(transaction.delete(key))

        def get_many(keys: Sequence[bytes]) -> list[bytes | None]:
            with start() as transaction:
                return list(map(transaction.get, keys))

        def put_many(pairs: Sequence[Pair]) -> None:
            with start(write=True) as transaction:
                transaction.cursor().putmulti(pairs)

        def keys() -> Iterator[bytes]:
            with start() as transaction:
                yield from transaction.cursor().iternext(values=False)

        def items() -> Iterator[Pair]:
            with start() as transaction:
                yield from transaction.cursor().iternext()

        return Operations(get, contains, put, delete, get_many, put_many, keys, items)
