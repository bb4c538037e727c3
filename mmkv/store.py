"""`open` and the `Store`."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Literal, Never, Self, TypeVar

from mmkv import _lifetime
from mmkv._base import Hot
from mmkv._native import Callbacks, check, ffi, last_failure, lib
from mmkv._transaction import Transaction, run
from mmkv._views import Items, Keys, Values
from mmkv.errors import ClosedError
from mmkv.stats import Problem, Report, Stats

if TYPE_CHECKING:
    from typing_extensions import Buffer

T = TypeVar("T")
K = TypeVar("K", bound="Buffer")  # a mapping of other keys is another type of mapping: it is invariant in them
Mode = Literal["r", "w", "c", "n", "p"]
Sync = Literal["manual", "close", "always"] | float

_MODES = {
    "r": lib.MMKV_MODE_READ,
    "w": lib.MMKV_MODE_WRITE,
    "c": lib.MMKV_MODE_CREATE,
    "n": lib.MMKV_MODE_NEW,
    "p": lib.MMKV_MODE_PRIVATE,
}
_MISSING: Any = object()


def open(  # the name says what it is, as in dbm and gzip
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    mode: Mode = "c",
    *,
    sync: Sync = "close",
    max_size: int | None = None,
    shards: int | None = None,
    perm: int = 0o600,
    lock_timeout: float = 10.0,
    verify_reads: bool = False,
    guard: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Store:
    """Open the store in a file, making it first if need be.

    Args:
        path: the file. A symbolic link is not followed.
        mode: "r" for reading only; "w" for reading and writing a store that exists; "c" the same, making it if it is
            missing; "n" for a new store in place of whatever is there; "p" for a private copy, whose changes never
            reach the file.
        sync: when changes are made safe from power loss. (They are safe from the death of the process at once.)
            "close": by `close`, and by `sync`. "manual": by `sync` alone. A number: at least every so many seconds,
            in the background, and by `close`. "always": before each operation returns.
        max_size: the length in bytes up to which the file may grow; None for no limit.
        shards: for a store being made, its number of independent parts, a power of two up to 1,024; None for 64.
        perm: the permissions of a file being made, whatever the umask.
        lock_timeout: seconds to wait for a live process that holds a lock before `LockTimeoutError`.
        verify_reads: whether every read checks the checksum of what it returns. A damaged record is then a
            CorruptStoreError that names its key, where it would otherwise be returned as it is; `verify` finds both.
        guard: whether the mapped file is kept read-only in this process except while one of its threads is in a call
            that writes, so that a stray write of other code ends the process (SIGSEGV) where it would damage the
            store. On processors without memory protection keys writes then cost fifty times as much and more.
        progress: called during recovery, which the first to open a store after a power cut does, with the records done
            and those expected; each counts twice, since all are looked at before anything is changed. What it raises
            ends the open and is passed on; the next open begins anew.

    Returns:
        The store. It is a context manager that closes itself.

    Raises:
        FileNotFoundError: there is no such file, in modes "r", "w" and "p".
        NotAStoreError, VersionError, CorruptStoreError: the file is not one that can be opened.
        LockTimeoutError: the store is in use in a way that excludes this one, or a process is stopped while it opens or
            closes it.
        ReadOnlyError: the store has to be recovered, and this is mode "r".
        OSError: the file system refuses, as it would any other file.

    The file systems that are known to be local are accepted; MMKV_ANY_FILE_SYSTEM=1 in the environment lifts that
    check, for those who know that all users of the file are on one machine. MMKV_GUARD=1 there sets `guard` for every
    store that is opened.

    Example:
        >>> import mmkv, os, tempfile
        >>> directory = tempfile.TemporaryDirectory()
        >>> path = os.path.join(directory.name, "store")
        >>> with mmkv.open(path) as db:
        ...     db[b"key"] = b"value"
        >>> with mmkv.open(path, "r") as db:
        ...     dict(db)
        {b'key': b'value'}
        >>> directory.cleanup()
    """
    return Store(
        path, mode, sync=sync, max_size=max_size, shards=shards, perm=perm, lock_timeout=lock_timeout,
        verify_reads=verify_reads, guard=guard, progress=progress,
    )  # fmt: skip


class Store(Hot, MutableMapping[bytes, bytes]):
    """A persistent, shared mapping from bytes to bytes; made by `mmkv.open`, which see for the arguments.

    It behaves as a dict does, with these differences: keys and values are bytes (any bytes-like object is taken, bytes
    are returned); the order is that of a hash; it can be changed while it is iterated, and then a key that is there
    from start to end is met exactly once; and it is to be closed. Every operation on one key is atomic, for the
    threads of all processes that have the store open.

    Example:
        >>> import mmkv, os, tempfile
        >>> directory = tempfile.TemporaryDirectory()
        >>> with mmkv.open(os.path.join(directory.name, "store")) as db:
        ...     db[b"a"] = b"1"
        ...     db.update({b"b": b"2"})
        ...     b"a" in db, len(db), db.pop(b"b"), sorted(db.items())
        (True, 2, b'2', [(b'a', b'1')])
        >>> directory.cleanup()
    """

    __slots__ = ("__weakref__", "_background", "_callbacks", "_drawn", "_drawn_cursor", "_mode", "_options", "_path")

    def __init__(
        self,
        path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
        mode: Mode = "c",
        *,
        sync: Sync = "close",
        max_size: int | None = None,
        shards: int | None = None,
        perm: int = 0o600,
        lock_timeout: float = 10.0,
        verify_reads: bool = False,
        guard: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> None:
        name = os.fsdecode(path)
        # Absolute, so that the store can be opened again by path from another working directory.
        self._path = os.path.abspath(name) if name else name
        self._mode: Mode = mode
        self._options = {
            "sync": sync, "max_size": max_size, "shards": shards, "perm": perm, "lock_timeout": lock_timeout,
            "verify_reads": verify_reads, "guard": guard,
        }  # fmt: skip
        self._background: _lifetime.Background | None = None
        self._drawn: list[bytes] = []  # keys read ahead by popitem()
        self._drawn_cursor = 0
        if mode not in _MODES:
            raise ValueError(f"mode is one of 'r', 'w', 'c', 'n' and 'p', not {mode!r}")
        seconds = _seconds(sync)
        writes = mode in ("w", "c", "n")
        self._callbacks = Callbacks(progress)  # kept as long as the engine may call
        options = engine_options(mode, self._callbacks, max_size, shards, perm, lock_timeout)
        options["verify_reads"] = bool(verify_reads)
        options["guard"] = bool(guard) or _set_in_environment("MMKV_GUARD")
        cell = _open_handle(self._path, options, self._callbacks)
        self._attach(int(ffi.cast("uintptr_t", cell)), writes and sync == "always", writes and sync != "manual")
        _lifetime.register(self)
        if seconds is not None and writes:
            self._background = _lifetime.Background(self, seconds)

    # ---- what it is ----

    @property
    def path(self) -> str:
        """The store's file, as an absolute path."""
        return self._path

    @property
    def mode(self) -> Mode:
        """The mode that the store was opened with."""
        return self._mode

    @property
    def epoch(self) -> int:
        """The epoch being written: `sync` ends it and makes it durable."""
        return self._epochs()[0]

    @property
    def durable_epoch(self) -> int:
        """The last epoch known to be durable: what a power cut would leave, at least."""
        return self._epochs()[1]

    def __repr__(self) -> str:
        state = "closed " if self.closed else ""
        return f"<{state}mmkv.Store {self._path!r} mode={self._mode!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if self.closed:
            raise ClosedError(f"{self._path}: the store is closed and cannot be pickled")
        if self._mode == "p":
            raise TypeError(f"{self._path}: a private copy cannot be pickled: its changes are in this process only")
        # Opened again it must not be emptied, nor made anew when the file is gone.
        return _reopen, (type(self), self._path, "r" if self._mode == "r" else "w", self._options)

    # ---- closing ----

    def close(self) -> None:
        """Close the store; a second time does nothing.

        Except with `sync="manual"` everything written before is durable when it returns. Calls that other
        threads are in the middle of come to their proper end, and the last of them lets go of the file; later ones
        raise ClosedError.

        Raises:
            OSError: the checkpoint failed; the store is closed nevertheless.
            LockTimeoutError: a process that is stopped while it makes a checkpoint, or opens or closes the store, is in
                the way; the store is closed nevertheless, but not marked as such.

        Example:
            >>> import mmkv, os, tempfile
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     db = mmkv.open(os.path.join(directory, "store"))
            ...     db.close()
            ...     db.closed
            True
        """
        background, self._background = self._background, None
        if background is not None:
            background.stop()
        _lifetime.forget(self)
        self._close()

    def __enter__(self) -> Self:
        if self.closed:
            raise ClosedError(f"{self._path}: the store is closed")
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self.closed:
            return
        # As files do: for those who look for what they forgot to close; not shown unless asked for.
        warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
        self.close()

    def _after_fork(self) -> None:
        # In the child: the engine has attached anew by itself; threads are gone.
        self._forked()
        background, self._background = self._background, None
        if background is not None and not self.closed:
            self._background = _lifetime.Background(self, background.seconds)

    def _call(self, function: Callable[..., int], *arguments: Any) -> None:
        # A function of the engine, which takes the handle first.
        def inside(address: int) -> None:
            handle = ffi.cast("mmkv_store *", address)
            while (code := function(handle, *arguments)) == lib.MMKV_INTERRUPTED:
                pass
            check(code, self._path)

        self._during(inside)

    def _epochs(self) -> tuple[int, int]:
        now, durable = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        self._call(lib.mmkv_epochs, now, durable)
        return int(now[0]), int(durable[0])

    def _handle_name(self) -> tuple[int, int]:
        # Two numbers that no other handle of this store has or ever had; for Lock.
        number, start = ffi.new("uint32_t *"), ffi.new("uint64_t *")
        self._call(lib.mmkv_me, number, start)
        return int(number[0]), int(start[0])

    def _handle_alive(self, number: int, start: int) -> bool:
        alive = ffi.new("int *")
        self._call(lib.mmkv_alive, number, start, alive)
        return bool(alive[0])

    # ---- transactions ----

    def transaction(self) -> Transaction:
        """Begin a transaction: a view of the store whose changes happen together at the end of a `with`, or not at all.

        What it reads is looked at again at the end: the transaction counts as one step in which all of it was read and
        written, or raises ConflictError. An exception inside the `with` ends it, and nothing has happened.

        Returns:
            A `Transaction`, to be used as a context manager.

        Raises:
            ConflictError: from the end of the `with`: a key that it read has been changed since by somebody else, and
                nothing has happened. `atomically` tries again by itself.
            StoreFullError: from the end of the `with`: there is no room, and nothing has happened.
            LockTimeoutError: from the end of the `with`: a live process has kept a lock, and nothing has happened.
            ReadOnlyError: from the first change: the store is open for reading.
            ClosedError: the store is closed.

        Example:
            >>> import mmkv, os, tempfile
            >>> directory = tempfile.TemporaryDirectory()
            >>> db = mmkv.open(os.path.join(directory.name, "store"))
            >>> db.update({b"anna": b"100", b"bert": b"0"})
            >>> with db.transaction() as t:
            ...     t[b"anna"] = b"%d" % (int(t[b"anna"]) - 30)
            ...     t[b"bert"] = b"%d" % (int(t[b"bert"]) + 30)
            >>> sorted(db.items())
            [(b'anna', b'70'), (b'bert', b'30')]
            >>> db.close(); directory.cleanup()
        """
        if self.closed:
            raise ClosedError(f"{self._path}: the store is closed")
        return Transaction(self)

    def atomically(self, function: Callable[[Transaction], T], *, attempts: int | None = None) -> T:
        """Run a function in a transaction, again and again until no other has come in between.

        It has to bear being run several times: what it does outside the transaction it does each time. What it reads in
        an attempt that is to fail need not fit together; an exception that it raises then is not passed on.

        Args:
            function: called with the `Transaction`.
            attempts: how often to try; None for no limit. Each attempt fails only because another transaction, or
                another change, was made: of all who try, somebody always gets on.

        Returns:
            What the function returned in the attempt that happened.

        Raises:
            ConflictError: no attempt of `attempts` succeeded. Nothing has happened.
            Exception: what the function raises; nothing has happened. And what `transaction` may raise besides.

        Example:
            >>> import mmkv, os, tempfile
            >>> def draw(t):
            ...     left = int(t[b"left"]) - 1
            ...     t[b"left"] = b"%d" % left
            ...     return left
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     with mmkv.open(os.path.join(directory, "store")) as db:
            ...         db[b"left"] = b"10"
            ...         db.atomically(draw)
            9
        """
        if attempts is not None and attempts < 1:
            raise ValueError(f"attempts is a positive number or None, not {attempts!r}")
        if self.closed:
            raise ClosedError(f"{self._path}: the store is closed")
        return run(self, function, attempts)

    # ---- durability, figures, checks ----

    def sync(self, *, wait: bool = True) -> int:
        """Make everything that any process had written before the call safe from power loss: a checkpoint.

        Writers go on meanwhile, and callers share checkpoints.

        Args:
            wait: False only starts writing to the disk, and promises nothing.

        Returns:
            The epoch of the checkpoint; without waiting, the one being written.

        Raises:
            OSError: the disk failed. What had been durable still is.
            ReadOnlyError: the store is open for reading.
            ClosedError: the store is closed.

        Example:
            >>> import mmkv, os, tempfile
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     with mmkv.open(os.path.join(directory, "store")) as db:
            ...         db[b"key"] = b"value"
            ...         db.sync() <= db.durable_epoch
            True
        """
        epoch = ffi.new("uint64_t *")
        self._call(lib.mmkv_sync, bool(wait), epoch)
        return int(epoch[0])

    def stats(self) -> Stats:
        """Return figures about the store.

        Returns:
            A `Stats`, a frozen dataclass.

        Raises:
            ClosedError: the store is closed.

        Example:
            >>> import mmkv, os, tempfile
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     with mmkv.open(os.path.join(directory, "store"), shards=8) as db:
            ...         db.stats().shards
            8
        """
        stats = ffi.new("mmkv_stats *")
        self._call(lib.mmkv_stats_get, stats)
        fields = {name: int(getattr(stats, name)) for name in Stats.__dataclass_fields__ if name != "uuid"}
        return Stats(**fields, uuid=bytes(stats.uuid).hex())

    def verify(self, progress: Callable[[int, int], object] | None = None) -> Report:
        """Check the whole store: the checksum of every live record, the index, the descriptors, counters, free maps.

        Args:
            progress: called now and then with the records done and the records in all. What it raises ends the check
                and is passed on.

        Returns:
            A `Report`: `ok`, `records` and `errors`. A damaged store is not an exception here.

        Raises:
            ClosedError: the store is closed.
            ConflictError: this is a private copy, and somebody has opened the store for writing since.
            OSError: the file could not be read.

        Example:
            >>> import mmkv, os, tempfile
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     with mmkv.open(os.path.join(directory, "store")) as db:
            ...         db[b"key"] = b"value"
            ...         print(db.verify())
            ok: 1 record, no errors
        """
        callbacks = Callbacks(progress)
        records = ffi.new("uint64_t *")

        def inside(address: int) -> None:
            handle = ffi.cast("mmkv_store *", address)
            code = lib.mmkv_verify(
                handle, lib.mmkv_progress_python, lib.mmkv_problem_python, callbacks.context, records
            )
            callbacks.reraise()
            check(code, self._path)

        self._during(inside)
        problems = [Problem(*problem) for problem in callbacks.problems]
        return Report(not problems, int(records[0]), problems)

    # ---- the rest of a mapping; one key's operations are in Hot ----

    def __iter__(self) -> Iterator[bytes]:
        cursor = 0
        while True:
            cursor, keys = self._scan(cursor, False)
            if not keys:
                return
            yield from keys

    def _iterate_items(self) -> Iterator[tuple[bytes, bytes]]:
        cursor = 0
        while True:
            cursor, items = self._scan(cursor, True)
            if not items:
                return
            for key, value in items:
                if value is not None:
                    yield key, value
                # A long value is fetched when its turn comes, so that a batch stays small.
                elif (late := self.get(key)) is not None:
                    yield key, late

    def keys(self) -> Keys:
        """Return a live, set-like view of the keys.

        Returns:
            A view that streams when it is iterated, whatever the size of the store.

        Example:
            >>> import mmkv, os, tempfile
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     with mmkv.open(os.path.join(directory, "store")) as db:
            ...         db.update({b"a": b"1", b"b": b"2"})
            ...         sorted(db.keys() & {b"b", b"c"})
            [b'b']
        """
        return Keys(self)

    def values(self) -> Values:
        """Return a live view of the values.

        Returns:
            A view that streams when it is iterated, whatever the size of the store.

        Example:
            >>> import mmkv, os, tempfile
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     with mmkv.open(os.path.join(directory, "store")) as db:
            ...         db.update({b"a": b"1", b"b": b"2"})
            ...         sum(int(value) for value in db.values())
            3
        """
        return Values(self)

    def items(self) -> Items:
        """Return a live, set-like view of the (key, value) pairs.

        Returns:
            A view that streams when it is iterated, whatever the size of the store; each pair is read atomically.

        Example:
            >>> import mmkv, os, tempfile
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     with mmkv.open(os.path.join(directory, "store")) as db:
            ...         db.update({b"a": b"1"})
            ...         dict(db.items())
            {b'a': b'1'}
        """
        return Items(self)

    def popitem(self) -> tuple[bytes, bytes]:
        """Remove some record and return it, atomically: no other process gets the same one.

        Returns:
            The (key, value) pair removed.

        Raises:
            KeyError: the store is empty.
            ReadOnlyError: the store is open for reading.
            ClosedError: the store is closed.

        Example:
            >>> import mmkv, os, tempfile
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     with mmkv.open(os.path.join(directory, "store")) as db:
            ...         db[b"key"] = b"value"
            ...         db.popitem()
            (b'key', b'value')
        """
        ends = 0
        while True:
            try:
                key = self._drawn.pop()
            except IndexError:
                # On from where the last batch ended: from the start each time would walk over what was emptied.
                self._drawn_cursor, keys = self._scan(self._drawn_cursor, False)
                if not keys:
                    self._drawn_cursor = 0
                    ends += 1
                    if ends > 1 and not len(self):
                        raise KeyError("popitem(): the store is empty") from None
                self._drawn = keys
                continue
            if (value := self.pop(key, None)) is not None:
                return key, value

    def update(  # type: ignore[override]
        self, other: Mapping[K, Buffer] | Iterable[tuple[Buffer, Buffer]] = (), /, **named: Never
    ) -> None:
        """Store what a mapping, or an iterable of (key, value) pairs, has; each put is atomic, the whole is not.

        Args:
            other: the mapping or the pairs.

        Raises:
            TypeError: a key or value is not bytes-like; names given as keyword arguments never are.
            StoreFullError: there is no room.
            ReadOnlyError: the store is open for reading.
            ClosedError: the store is closed.

        Example:
            >>> import mmkv, os, tempfile
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     with mmkv.open(os.path.join(directory, "store")) as db:
            ...         db.update({b"a": b"1"})
            ...         db.update([(b"b", b"2")])
            ...         sorted(db)
            [b'a', b'b']
        """
        if named:
            raise TypeError("keys are bytes, not str: keyword arguments cannot name them")
        if hasattr(other, "keys") and not hasattr(other, "items"):
            lookup: Any = other
            other = ((key, lookup[key]) for key in lookup.keys())  # noqa: SIM118
        self.put_many(other)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Mapping):
            return NotImplemented
        # Streaming: neither side is copied into memory. One look at each key: it may go from another store meanwhile.
        return len(self) == len(other) and all(
            other.get(key, _MISSING) == value for key, value in self._iterate_items()
        )

    __hash__ = None  # type: ignore[assignment]

    def __or__(self, other: Mapping[Any, Any]) -> dict[Any, Any]:
        if not isinstance(other, Mapping):
            return NotImplemented
        return {**dict(self.items()), **dict(other.items())}

    def __ror__(self, other: Mapping[Any, Any]) -> dict[Any, Any]:
        if not isinstance(other, Mapping):
            return NotImplemented
        return {**dict(other.items()), **dict(self.items())}

    def __ior__(  # type: ignore[misc]  # as for dict: more than __or__ takes
        self, other: Mapping[K, Buffer] | Iterable[tuple[Buffer, Buffer]]
    ) -> Self:
        self.update(other)
        return self


def _reopen(cls: type[Store], path: str, mode: Mode, options: dict[str, Any]) -> Store:
    return cls(path, mode, **options)


def _seconds(sync: Sync) -> float | None:
    # The interval of background checkpoints, after a look at the argument.
    if isinstance(sync, str) and sync in ("manual", "close", "always"):
        return None
    if isinstance(sync, (int, float)) and not isinstance(sync, bool):
        if not 0 < sync <= threading.TIMEOUT_MAX:
            most = threading.TIMEOUT_MAX
            raise ValueError(f"sync as a number is a count of seconds, above 0 and up to {most:g}, not {sync!r}")
        return float(sync)
    raise ValueError(f"sync is 'manual', 'close', 'always' or a number of seconds, not {sync!r}")


def _set_in_environment(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


def engine_options(
    mode: Mode,
    callbacks: Callbacks,
    max_size: int | None = None,
    shards: int | None = None,
    perm: int = 0o600,
    lock_timeout: float = 10.0,
) -> dict[str, Any]:
    """The fields of the engine's `mmkv_options`, after a look at the arguments."""
    if max_size is not None and not 0 < max_size < 2**63:
        raise ValueError(f"max_size is a positive count of bytes or None, not {max_size!r}")
    if shards is not None and (not 0 < shards <= 1024 or shards & (shards - 1)):
        raise ValueError(f"shards is a power of two up to 1,024 or None, not {shards!r}")
    if not 0 <= perm <= 0o777:
        raise ValueError(f"perm is a file's permissions, up to 0o777, not {perm!r}")
    if not lock_timeout > 0:
        raise ValueError(f"lock_timeout is a positive count of seconds, not {lock_timeout!r}")
    return {
        "mode": _MODES[mode],
        "shards": shards or 0,
        "max_size": max_size or 0,
        "permissions": perm,
        "lock_timeout_ms": max(1, int(min(lock_timeout * 1000, 2**32 - 1))),
        "any_file_system": _set_in_environment("MMKV_ANY_FILE_SYSTEM"),
        # Without a callback of the user's it still lets Ctrl-C end what takes long.
        "progress": lib.mmkv_progress_python,
        "progress_context": callbacks.context,
    }


def _close_forgotten(cell: Any) -> None:
    if cell[0] != ffi.NULL:
        lib.mmkv_close(cell[0], False)


def _open_handle(path: str, options: dict[str, Any], callbacks: Callbacks) -> Any:
    # The handle in a cell that closes it unless it is taken out: an exception may come at any moment, as from Ctrl-C.
    raw = os.fsencode(path)
    if b"\0" in raw:
        raise ValueError("embedded null byte in the path")
    if not raw:
        raise FileNotFoundError(2, os.strerror(2), path)
    given = ffi.new("mmkv_options *", options)
    store = ffi.gc(ffi.new("mmkv_store **"), _close_forgotten)
    while (code := lib.mmkv_open(raw, given, store)) == lib.MMKV_INTERRUPTED:
        pass
    if code:
        # The engine's record of the failure first: raising runs Python code, which may use the engine.
        error = last_failure(code, path)
        callbacks.reraise()
        raise error
    return store
