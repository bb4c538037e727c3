"""Transactions: everything that is read and written in one counts as one step, or nothing of it has happened.

A `Transaction` keeps what it has read and what it is to write in two dicts, in this process; nobody else sees anything
of it. At its end both go to the engine, which looks whether everything read is as it was, and writes everything, with
the shards of all these keys locked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from mmkv._arguments import load, load_key, load_number
from mmkv._native import failure, lib
from mmkv.errors import ClosedError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from mmkv.store import Store

__all__ = ["Transaction", "run"]

T = TypeVar("T")
K = TypeVar("K", bound="Buffer")  # a mapping of other keys is another type of mapping: it is invariant in them
_MISSING: Any = object()
_PAUSE = 0.00005
_PAUSE_MAX = 0.01
_COUNTERS = range(-(2**63), 2**63)


class Transaction:
    """A view of a store whose changes happen all at once, or not at all; made by `Store.transaction`.

    It has the operations on single keys that the store has, and sees its own changes. It is not a whole mapping: it
    cannot be iterated and has no length, since that would be to read every key there is and every one there is not, and
    to conflict with every change. A key that was read is read once; later looks at it give the same.

    It is for one thread; transactions of several threads, and several of one thread, do not know of each other.

    Example:
        >>> import mmkv, os, tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     with mmkv.open(os.path.join(directory, "store")) as db:
        ...         with db.transaction() as t:
        ...             t[b"a"], t[b"b"] = b"1", b"2"
        ...             before = b"a" in db
        ...         before, sorted(db)
        (False, [b'a', b'b'])
    """

    __slots__ = ("_reads", "_state", "_store", "_writes")

    __iter__ = None  # else Python would try the numbers from 0 as keys

    def __init__(self, store: Store) -> None:
        self._store = store
        self._state = "has not begun: it is to be used in a with statement"
        self._reads: dict[bytes, bytes | None] = {}
        self._writes: dict[bytes, bytes | None] = {}

    # ---- beginning and end ----

    def __enter__(self) -> Self:
        if not self._state.startswith("has not begun"):
            raise ClosedError(f"{self._store.path}: the transaction {self._state or 'is under way'}")
        self._state = ""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.abort()
        elif not self._state and not self._commit():
            raise failure(lib.MMKV_CONFLICT, 0, 0, 0, "", self._store.path)

    def abort(self) -> None:
        """End the transaction; nothing of it has happened. The rest of the `with` may not use it any more.

        Example:
            >>> import mmkv, os, tempfile
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     with mmkv.open(os.path.join(directory, "store")) as db:
            ...         with db.transaction() as t:
            ...             t[b"key"] = b"value"
            ...             t.abort()
            ...         len(db)
            0
        """
        self._state = "has ended"
        self._reads, self._writes = {}, {}

    def _commit(self) -> bool:
        reads, writes = self._reads, self._writes
        self.abort()
        return self._store._commit(reads, writes)

    def _unchanged(self) -> bool:
        return self._store._commit(self._reads, {})

    def __repr__(self) -> str:
        return f"<mmkv.Transaction of {self._store.path!r}, {self._state or 'under way'}>"

    # ---- what is under all operations ----

    def _read(self, name: bytes) -> bytes | None:
        if self._state:
            raise ClosedError(f"{self._store.path}: the transaction {self._state}")
        if name in self._writes:
            return self._writes[name]
        if name not in self._reads:
            self._reads[name] = self._store.get(name)
        return self._reads[name]

    def _write(self, name: bytes, value: bytes | None) -> None:
        if self._state:
            raise ClosedError(f"{self._store.path}: the transaction {self._state}")
        if self._store.mode == "r":
            raise failure(lib.MMKV_READ_ONLY, 0, 0, 0, "", self._store.path)
        self._writes[name] = value

    # ---- operations, as those of the store ----

    def __getitem__(self, key: Buffer, /) -> bytes:
        value = self._read(load_key(key))
        if value is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: Buffer, value: Buffer, /) -> None:
        self.put(key, value)

    def __delitem__(self, key: Buffer, /) -> None:
        if not self.delete(key):
            raise KeyError(key)

    def __contains__(self, key: object, /) -> bool:
        return self._read(load_key(key)) is not None  # type: ignore[arg-type]

    @overload
    def get(self, key: Buffer) -> bytes | None: ...
    @overload
    def get(self, key: Buffer, default: T) -> bytes | T: ...
    def get(self, key: Buffer, default: Any = None) -> Any:
        """Return the value of a key, as this transaction has left it, or a default.

        Args:
            key: the key, up to 65,535 bytes.
            default: what to return when the key is absent.

        Returns:
            The value as bytes, or `default`.
        """
        value = self._read(load_key(key))
        return default if value is None else value

    def put(self, key: Buffer, value: Buffer, /) -> None:
        """Store a value under a key, as `t[key] = value` does, whatever is there.

        Args:
            key: the key, up to 65,535 bytes.
            value: the value, up to 1 TiB.

        Raises:
            ReadOnlyError: the store is open for reading.
        """
        self._write(load_key(key), _bytes(value))

    def delete(self, key: Buffer, /) -> bool:
        """Remove a key, present or not.

        Args:
            key: the key, up to 65,535 bytes.

        Returns:
            True if the key was there.

        Raises:
            ReadOnlyError: the store is open for reading.
        """
        name = load_key(key)
        found = self._read(name) is not None
        if found:
            self._write(name, None)
        return found

    @overload
    def pop(self, key: Buffer) -> bytes: ...
    @overload
    def pop(self, key: Buffer, default: T) -> bytes | T: ...
    def pop(self, key: Buffer, default: Any = _MISSING) -> Any:
        """Remove a key and return its value.

        Args:
            key: the key, up to 65,535 bytes.
            default: what to return when the key is absent.

        Returns:
            The value that was removed, or `default`.

        Raises:
            KeyError: the key is absent and there is no default.
            ReadOnlyError: the store is open for reading.
        """
        name = load_key(key)
        value = self._read(name)
        if value is not None:
            self._write(name, None)
            return value
        if default is _MISSING:
            raise KeyError(key)
        return default

    def setdefault(self, key: Buffer, default: Buffer) -> bytes:
        """Return the value of a key, storing a default first if the key is absent.

        Args:
            key: the key, up to 65,535 bytes.
            default: the value to store when the key is absent.

        Returns:
            The value that the key has now.

        Raises:
            ReadOnlyError: the key is absent and the store is open for reading.
        """
        name, data = load_key(key), _bytes(default)
        value = self._read(name)
        if value is None:
            self._write(name, data)
            return data
        return value

    def add(self, key: Buffer, value: Buffer, /) -> bool:
        """Store a value under a key that is absent.

        Args:
            key: the key, up to 65,535 bytes.
            value: the value, up to 1 TiB.

        Returns:
            True if the key was absent.

        Raises:
            ReadOnlyError: the key is absent and the store is open for reading.
        """
        name, data = load_key(key), _bytes(value)
        absent = self._read(name) is None
        if absent:
            self._write(name, data)
        return absent

    def replace(self, key: Buffer, value: Buffer, /) -> bool:
        """Store a value under a key that is there.

        Args:
            key: the key, up to 65,535 bytes.
            value: the value, up to 1 TiB.

        Returns:
            True if the key was there.

        Raises:
            ReadOnlyError: the key is there and the store is open for reading.
        """
        name, data = load_key(key), _bytes(value)
        there = self._read(name) is not None
        if there:
            self._write(name, data)
        return there

    def incr(self, key: Buffer, /, delta: int = 1, *, initial: int = 0) -> int:
        """Add to a counter: a signed 64-bit integer, stored as 8 bytes, little-endian, as `Store.incr` has it.

        Args:
            key: the key, up to 65,535 bytes.
            delta: what to add; it may be negative.
            initial: what an absent counter counts as.

        Returns:
            The sum, which is the new value.

        Raises:
            OverflowError: the sum does not fit in 64 bits.
            ValueError: the value is not 8 bytes long.
            ReadOnlyError: the store is open for reading.
        """
        change, start = load_number(delta, "delta"), load_number(initial, "initial")
        name = load_key(key)
        value = self._read(name)
        if value is not None and len(value) != 8:
            text = f"a counter is 8 bytes long, and this value has {len(value)}"
            raise failure(lib.MMKV_NOT_A_NUMBER, 0, 0, 0, text, self._store.path)
        now = start if value is None else int.from_bytes(value, "little", signed=True)
        total = now + change
        if total not in _COUNTERS:
            text = f"{now} and {change} make a number beyond 64 bits"
            raise failure(lib.MMKV_RANGE, 0, 0, 0, text, self._store.path)
        self._write(name, total.to_bytes(8, "little", signed=True))
        return total

    def update(self, other: Mapping[K, Buffer] | Iterable[tuple[Buffer, Buffer]], /) -> None:
        """Store what a mapping, or an iterable of (key, value) pairs, has.

        Args:
            other: the mapping or the pairs.

        Raises:
            TypeError: a key or value is not bytes-like.
            ReadOnlyError: the store is open for reading.
        """
        pairs: Iterable[Any] = other.items() if hasattr(other, "items") else other
        for key, value in pairs:
            self.put(key, value)


def _bytes(value: Buffer) -> bytes:
    data = load(value, "value")
    return data if type(data) is bytes else bytes(data)


def run(store: Store, function: Callable[[Transaction], T], attempts: int | None) -> T:
    """Run a function in one transaction after the other until one of them happens; see `Store.atomically`."""
    pause = _PAUSE
    while True:
        transaction = Transaction(store).__enter__()
        try:
            result = function(transaction)
            happened = bool(transaction._state) or transaction._commit()
        except Exception:
            # Raised over what never was, it means nothing.
            happened = False
            if transaction._state or transaction._unchanged():
                raise
        finally:
            transaction.abort()
        if happened:
            return result
        if attempts is not None and (attempts := attempts - 1) < 1:
            raise failure(lib.MMKV_CONFLICT, 0, 0, 0, "another change came in between each time", store.path)
        import random

        # There is nothing to wait for: what came in between has happened. Those who meet again and again are to part.
        time.sleep(random.uniform(0, pause))
        pause = min(2 * pause, _PAUSE_MAX)
