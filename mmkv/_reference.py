"""The base class of Store over cffi: for Pythons without the C API, and the reference for the native one in tests.

`mmkv/engine/hot.c` has the same class with the same behaviour; its docstrings are taken from here by the build.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from mmkv._arguments import load, load_key, load_number
from mmkv._native import CLOSED, failure, ffi, last_failure, lib
from mmkv.errors import Error

if TYPE_CHECKING:
    from typing_extensions import Buffer

T = TypeVar("T")
K = TypeVar("K", bound="Buffer")  # a mapping of other keys is another type of mapping: it is invariant in them
_MISSING: Any = object()
_SMALL = 4096
_FOREVER = 2**64 - 1
_SCAN_BYTES = 65536
_SCAN_VALUE_LIMIT = 16384


def _nanoseconds(timeout: float | None) -> int:
    if timeout is None:
        return _FOREVER
    seconds: float = ffi.new("double *", timeout)[0]  # takes what is a number, as the native class does
    if not seconds >= 0:
        raise ValueError(f"timeout is a count of seconds, from 0 up, or None, not {timeout!r}")
    return int(seconds * 1e9) if seconds < 1e9 else _FOREVER


class Hot:
    """The operations on keys and values that `mmkv.Store` builds on."""

    # cffi releases the GIL in every call, so this class needs a lock where the native one has the GIL. Reentrant, for
    # signal handlers that use the store.
    __slots__ = ("_always", "_checkpoint", "_closed", "_handle", "_lock", "_users", "_writes_made")

    _handle: Any
    _users: int
    _writes_made: int
    _closed: bool
    _checkpoint: bool
    _always: bool
    _lock: threading.RLock

    def __new__(cls, *args: object, **named: object) -> Self:
        self = super().__new__(cls)
        self._handle = None
        self._users = 0
        self._writes_made = 0
        self._closed = False
        self._checkpoint = False
        self._always = False
        self._lock = threading.RLock()
        return self

    # ---- entering, leaving, closing ----

    def _attach(self, address: int, always: bool, checkpoint: bool, /) -> None:
        """Take the engine's handle out of the cell at this address."""
        if self._handle is not None:
            raise TypeError("_attach() takes 3 arguments, once")
        cell = ffi.cast("mmkv_store **", address)
        self._always = bool(always)
        self._checkpoint = bool(checkpoint)
        self._closed = False
        self._handle = cell[0]
        cell[0] = ffi.NULL

    def _during(self, function: Callable[[int], T], /) -> T:
        """Call a function with the address of the engine's handle, which stays open meanwhile."""
        handle = self._inside()
        try:
            return function(int(ffi.cast("uintptr_t", handle)))
        finally:
            self._leave()

    def _inside(self) -> Any:
        with self._lock:
            self._users += 1  # before the look at `closed`, lest a signal handler closes in between
            if not self._closed and self._handle is not None:
                return self._handle
        self._leave()
        raise failure(CLOSED, 0, 0, 0, "", getattr(self, "path", None))

    def _leave(self) -> None:
        # Undoes one `_inside`; the last one out of a closed store closes the engine's handle.
        with self._lock:
            self._users = max(self._users - 1, 0)
            if not self._closed or self._users:
                return
        self._finish()

    def _finish(self) -> int:
        with self._lock:
            handle, self._handle = self._handle, None
        return int(lib.mmkv_close(handle, self._checkpoint)) if handle is not None else 0

    def _close(self) -> bool:
        """Close, and return whether the engine's handle is closed: else the last call inside will close it."""
        with self._lock:
            if self._closed or self._handle is None:
                return True
            self._closed = True
            alone = not self._users
            self._users += 1
        code = 0
        try:
            if not alone and self._checkpoint:
                code = self._sync_now(self._handle)
                self._check(code)
        finally:
            with self._lock:
                self._users = max(self._users - 1, 0)
                alone = not self._users
            if alone:
                code = self._finish()
        self._check(code)
        return alone

    def _forked(self) -> None:
        """Put things right in a forked child, where the threads that were inside do not exist."""
        self._lock = threading.RLock()
        self._users = 0
        if self._closed:
            self._checkpoint = False
            self._finish()

    def __del__(self) -> None:
        if self._handle is not None:
            self._closed = True
            self._finish()

    @property
    def closed(self) -> bool:
        """Whether the store has been closed."""
        return self._closed or self._handle is None

    @property
    def _writes(self) -> int:
        """Successful changes through this object."""
        return self._writes_made

    def _check(self, code: int) -> None:
        if code:
            raise last_failure(code, getattr(self, "path", None))

    def _sync_now(self, handle: Any) -> int:
        epoch = ffi.new("uint64_t *")
        while (code := lib.mmkv_sync(handle, 1, epoch)) == lib.MMKV_INTERRUPTED:
            pass  # Python has run the signal's handler by now
        return int(code)

    def _wrote(self, handle: Any) -> None:
        with self._lock:
            self._writes_made += 1
        if self._always:
            self._check(self._sync_now(handle))

    # ---- single operations ----

    def _read(self, handle: Any, key: bytes, take: bool) -> bytes | None:
        # The value, read or taken out, or None when the key is absent.
        operation = lib.mmkv_delete if take else lib.mmkv_get
        hashed = lib.mmkv_hash(handle, key, len(key))
        length = ffi.new("size_t *")
        capacity = _SMALL
        while True:
            buffer = ffi.new("char[]", capacity)
            code = operation(handle, hashed, key, len(key), buffer, capacity, length, 0)
            if code == lib.MMKV_SHORT:
                capacity = length[0]
            elif code == lib.MMKV_NOT_FOUND:
                return None
            elif code != lib.MMKV_INTERRUPTED:
                self._check(code)
                return bytes(ffi.buffer(buffer, length[0]))

    def _write(self, handle: Any, key: bytes, value: bytes, flags: int) -> int:
        hashed = lib.mmkv_hash(handle, key, len(key))
        while True:
            code = lib.mmkv_put(handle, hashed, key, len(key), value, len(value), flags)
            if code in (lib.MMKV_EXISTS, lib.MMKV_NOT_FOUND):
                return int(code)
            if code != lib.MMKV_INTERRUPTED:
                self._check(code)
                return 0

    def _remove(self, handle: Any, key: bytes) -> bool:
        hashed = lib.mmkv_hash(handle, key, len(key))
        while True:
            code = lib.mmkv_delete(handle, hashed, key, len(key), ffi.NULL, 0, ffi.NULL, 0)
            if code == lib.MMKV_NOT_FOUND:
                return False
            if code != lib.MMKV_INTERRUPTED:
                self._check(code)
                return True

    def __getitem__(self, key: Buffer, /) -> bytes:
        data = load_key(key)
        handle = self._inside()
        try:
            value = self._read(handle, data, take=False)
        finally:
            self._leave()
        if value is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: Buffer, value: Buffer, /) -> None:
        self.put(key, value)

    def __delitem__(self, key: Buffer, /) -> None:
        if not self.delete(key):
            raise KeyError(key)

    def __contains__(self, key: object, /) -> bool:
        data = load_key(key)  # type: ignore[arg-type]
        handle = self._inside()
        try:
            hashed = lib.mmkv_hash(handle, data, len(data))
            while True:
                code = lib.mmkv_contains(handle, hashed, data, len(data), 0)
                if code == lib.MMKV_NOT_FOUND:
                    return False
                if code != lib.MMKV_INTERRUPTED:
                    self._check(code)
                    return True
        finally:
            self._leave()

    def __len__(self) -> int:
        handle = self._inside()
        records = ffi.new("uint64_t *")
        try:
            self._check(lib.mmkv_count(handle, records))
            return int(records[0])
        finally:
            self._leave()

    @overload
    def get(self, key: Buffer) -> bytes | None: ...
    @overload
    def get(self, key: Buffer, default: T) -> bytes | T: ...
    def get(self, key: Buffer, default: Any = None) -> Any:
        """Return the value of a key, or a default.

        Args:
            key: the key, up to 65,535 bytes.
            default: what to return when the key is absent.

        Returns:
            The value as bytes, or `default`.

        Raises:
            ClosedError: the store is closed.
            CorruptStoreError: the file contradicts itself.

        Example:
            >>> import mmkv, os, tempfile
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     with mmkv.open(os.path.join(directory, "store")) as db:
            ...         db[b"key"] = b"value"
            ...         db.get(b"key"), db.get(b"other"), db.get(b"other", b"")
            (b'value', None, b'')
        """
        data = load_key(key)
        handle = self._inside()
        try:
            value = self._read(handle, data, take=False)
        finally:
            self._leave()
        return default if value is None else value

    def put(self, key: Buffer, value: Buffer, /) -> None:
        """Store a value under a key, as `db[key] = value` does.

        Args:
            key: the key, up to 65,535 bytes.
            value: the value, up to 1 TiB.

        Raises:
            StoreFullError: there is no room; the old value, if there was one, is still there.
            ReadOnlyError: the store is open for reading.
            ClosedError: the store is closed.

        Example:
            >>> import mmkv, os, tempfile
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     with mmkv.open(os.path.join(directory, "store")) as db:
            ...         db.put(b"key", b"value")
            ...         db[b"key"]
            b'value'
        """
        name, data = load_key(key), load(value, "value")
        handle = self._inside()
        try:
            self._write(handle, name, data, 0)
            self._wrote(handle)
        finally:
            self._leave()

    def delete(self, key: Buffer, /) -> bool:
        """Remove a key, present or not.

        Args:
            key: the key, up to 65,535 bytes.

        Returns:
            True if the key was there.

        Raises:
            ReadOnlyError: the store is open for reading.
            ClosedError: the store is closed.

        Example:
            >>> import mmkv, os, tempfile
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     with mmkv.open(os.path.join(directory, "store")) as db:
            ...         db[b"key"] = b"value"
            ...         db.delete(b"key"), db.delete(b"key")
            (True, False)
        """
        data = load_key(key)
        handle = self._inside()
        try:
            found = self._remove(handle, data)
            if found:
                self._wrote(handle)
            return found
        finally:
            self._leave()

    @overload
    def pop(self, key: Buffer) -> bytes: ...
    @overload
    def pop(self, key: Buffer, default: T) -> bytes | T: ...
    def pop(self, key: Buffer, default: Any = _MISSING) -> Any:
        """Remove a key and return its value, in one atomic step: no other process gets the same value.

        Args:
            key: the key, up to 65,535 bytes.
            default: what to return when the key is absent.

        Returns:
            The value that was removed, or `default`.

        Raises:
            KeyError: the key is absent and there is no default.
            ReadOnlyError: the store is open for reading.
            ClosedError: the store is closed.

        Example:
            >>> import mmkv, os, tempfile
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     with mmkv.open(os.path.join(directory, "store")) as db:
            ...         db[b"key"] = b"value"
            ...         db.pop(b"key"), db.pop(b"key", None)
            (b'value', None)
        """
        data = load_key(key)
        handle = self._inside()
        try:
            value = self._read(handle, data, take=True)
            if value is not None:
                self._wrote(handle)
                return value
        finally:
            self._leave()
        if default is _MISSING:
            raise KeyError(key)
        return default

    def setdefault(self, key: Buffer, default: Buffer) -> bytes:
        """Return the value of a key, storing a default first if the key is absent, atomically.

        Args:
            key: the key, up to 65,535 bytes.
            default: the value to store when the key is absent.

        Returns:
            The value that the key has now.

        Raises:
            StoreFullError: there is no room.
            ReadOnlyError: the key is absent and the store is open for reading.
            ClosedError: the store is closed.

        Example:
            >>> import mmkv, os, tempfile
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     with mmkv.open(os.path.join(directory, "store")) as db:
            ...         db.setdefault(b"key", b"first"), db.setdefault(b"key", b"second")
            (b'first', b'first')
        """
        name, data = load_key(key), load(default, "value")
        handle = self._inside()
        try:
            while (value := self._read(handle, name, take=False)) is None:
                if self._write(handle, name, data, lib.MMKV_ADD) == 0:
                    self._wrote(handle)
                    return data if type(data) is bytes else bytes(data)
            return value
        finally:
            self._leave()

    # ---- with a condition ----

    def _put_if(self, key: Buffer, value: Buffer, flag: int) -> bool:
        name, data = load_key(key), load(value, "value")
        handle = self._inside()
        try:
            if self._write(handle, name, data, flag):
                return False
            self._wrote(handle)
            return True
        finally:
            self._leave()

    def add(self, key: Buffer, value: Buffer, /) -> bool:
        """Store a value under a key that is absent; of several who try at once, one succeeds.

        Args:
            key: the key, up to 65,535 bytes.
            value: the value, up to 1 TiB.

        Returns:
            True if the value was stored, False if the key was there already.

        Raises:
            StoreFullError: there is no room.
            ReadOnlyError: the store is open for reading.
            ClosedError: the store is closed.

        Example:
            >>> import mmkv, os, tempfile
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     with mmkv.open(os.path.join(directory, "store")) as db:
            ...         db.add(b"key", b"first"), db.add(b"key", b"second"), db[b"key"]
            (True, False, b'first')
        """
        return self._put_if(key, value, lib.MMKV_ADD)

    def replace(self, key: Buffer, value: Buffer, /) -> bool:
        """Store a value under a key that is there.

        Args:
            key: the key, up to 65,535 bytes.
            value: the value, up to 1 TiB.

        Returns:
            True if the value was stored, False if the key is absent.

        Raises:
            StoreFullError: there is no room; the old value is still there.
            ReadOnlyError: the store is open for reading.
            ClosedError: the store is closed.

        Example:
            >>> import mmkv, os, tempfile
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     with mmkv.open(os.path.join(directory, "store")) as db:
            ...         db.replace(b"key", b"first"), b"key" in db
            (False, False)
        """
        return self._put_if(key, value, lib.MMKV_REPLACE)

    def compare_and_swap(self, key: Buffer, expected: Buffer | None, new: Buffer | None, /) -> bool:
        """Exchange the value of a key for another if it is the expected one, in one atomic step.

        Args:
            key: the key, up to 65,535 bytes.
            expected: what the value must be; None: the key must be absent.
            new: the value to store; None: the key is removed.

        Returns:
            True if the value was the expected one, and so is the new one now.

        Raises:
            StoreFullError: there is no room; the old value, if there was one, is still there.
            ReadOnlyError: the store is open for reading.
            ClosedError: the store is closed.

        Example:
            >>> import mmkv, os, tempfile
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     with mmkv.open(os.path.join(directory, "store")) as db:
            ...         db.compare_and_swap(b"key", None, b"1"), db.compare_and_swap(b"key", b"0", b"2"), db[b"key"]
            (True, False, b'1')
        """
        name = load_key(key)
        old = None if expected is None else load(expected, "value")
        value = None if new is None else load(new, "value")
        handle = self._inside()
        try:
            done = ffi.new("int *")
            hashed = lib.mmkv_hash(handle, name, len(name))
            while True:
                code = lib.mmkv_swap(
                    handle, hashed, name, len(name), ffi.NULL if old is None else old, len(old or b""),
                    ffi.NULL if value is None else value, len(value or b""), 0, done,
                )  # fmt: skip
                if code != lib.MMKV_INTERRUPTED:
                    break
            self._check(code)
            if done[0] and not (old is None and value is None):
                self._wrote(handle)
            return bool(done[0])
        finally:
            self._leave()

    def incr(self, key: Buffer, /, delta: int = 1, *, initial: int = 0) -> int:
        """Add to a counter, in one atomic step: of several who do, each gets another result.

        A counter is a signed 64-bit integer, stored as 8 bytes, little-endian: `int.from_bytes(db[key], "little",
        signed=True)` reads it.

        Args:
            key: the key, up to 65,535 bytes.
            delta: what to add; it may be negative.
            initial: what an absent counter counts as.

        Returns:
            The sum, which is the new value.

        Raises:
            OverflowError: the sum does not fit in 64 bits, and nothing was changed.
            ValueError: the value is not 8 bytes long.
            StoreFullError: there is no room; the old value, if there was one, is still there.
            ReadOnlyError: the store is open for reading.
            ClosedError: the store is closed.

        Example:
            >>> import mmkv, os, tempfile
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     with mmkv.open(os.path.join(directory, "store")) as db:
            ...         db.incr(b"hits"), db.incr(b"hits", 10), db.incr(b"left", -1, initial=100)
            (1, 11, 99)
        """
        change, start = load_number(delta, "delta"), load_number(initial, "initial")
        name = load_key(key)
        handle = self._inside()
        try:
            result = ffi.new("int64_t *")
            hashed = lib.mmkv_hash(handle, name, len(name))
            while (code := lib.mmkv_incr(handle, hashed, name, len(name), change, start, 0, result)) == (
                lib.MMKV_INTERRUPTED
            ):
                pass
            self._check(code)
            self._wrote(handle)
            return int(result[0])
        finally:
            self._leave()

    def wait(self, key: Buffer, /, *, old: Buffer | None, timeout: float | None = None) -> bytes | None:
        """Wait until the value of a key is another one, asleep: woken by who changes it, in whatever process.

        Values that come and go between two looks may be missed; what is returned was the value at some moment.

        Args:
            key: the key, up to 65,535 bytes.
            old: the value that is known already; None: the key is known to be absent.
            timeout: seconds to wait at most; None for as long as it takes.

        Returns:
            The value, which differs from `old`; None if the key is absent.

        Raises:
            TimeoutError: it was still the old one when the time was up.
            LockTimeoutError: a process that is stopped holds the part of the store where the key is, for as long as the
                store's `lock_timeout`, whatever `timeout` is.
            ReadOnlyError: the store is open for reading: who waits leaves word of it in the file.
            ClosedError: the store is closed, or was closed by another thread meanwhile.

        Example:
            >>> import mmkv, os, tempfile, threading
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     with mmkv.open(os.path.join(directory, "store")) as db:
            ...         thread = threading.Thread(target=db.put, args=(b"key", b"value"))
            ...         thread.start()
            ...         value = db.wait(b"key", old=None)
            ...         thread.join()
            >>> value
            b'value'
        """
        name, known = load_key(key), None if old is None else load(old, "value")
        nanoseconds = _nanoseconds(timeout)
        handle = self._inside()
        try:
            hashed = lib.mmkv_hash(handle, name, len(name))
            waiting = ffi.new("mmkv_waiting *", {"timeout_ns": nanoseconds})
            given = ffi.NULL if known is None else known
            while True:
                code = lib.mmkv_wait(handle, hashed, name, len(name), given, len(known or b""), waiting)
                if code in (lib.MMKV_WOULD_BLOCK, lib.MMKV_INTERRUPTED):
                    if self._closed:
                        raise failure(CLOSED, 0, 0, 0, "", getattr(self, "path", None))
                    continue
                self._check(code)
                # What has changed may have changed back.
                if (value := self._read(handle, name, take=False)) != known:
                    return value
        finally:
            self._leave()

    def get_into(self, key: Buffer, buffer: Buffer, /) -> int:
        """Copy the value of a key into a buffer, without making an object of it.

        Args:
            key: the key, up to 65,535 bytes.
            buffer: something writable and contiguous: a bytearray, a memoryview, a NumPy array.

        Returns:
            The length of the value in bytes; the buffer's content beyond it is undefined.

        Raises:
            KeyError: the key is absent.
            BufferError: the buffer is too small; the message names the size needed.
            ClosedError: the store is closed.

        Example:
            >>> import mmkv, os, tempfile
            >>> buffer = bytearray(8)
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     with mmkv.open(os.path.join(directory, "store")) as db:
            ...         db[b"key"] = b"value"
            ...         length = db.get_into(b"key", buffer)
            >>> bytes(buffer[:length])
            b'value'
        """
        data = load_key(key)
        try:
            memoryview(buffer)
        except TypeError:
            kind = type(buffer).__name__
            raise TypeError(f"get_into() needs a writable bytes-like object, not {kind}") from None
        with ffi.from_buffer("char[]", buffer, require_writable=True) as target:
            handle = self._inside()
            try:
                hashed = lib.mmkv_hash(handle, data, len(data))
                length = ffi.new("size_t *")
                while True:
                    code = lib.mmkv_get(handle, hashed, data, len(data), target, len(target), length, 0)
                    if code != lib.MMKV_INTERRUPTED:
                        break
                if code == lib.MMKV_NOT_FOUND:
                    raise KeyError(key)
                if code == lib.MMKV_SHORT:
                    raise BufferError(f"the value has {length[0]} bytes and the buffer only {len(target)}")
                self._check(code)
                return int(length[0])
            finally:
                self._leave()

    # ---- operations on many keys ----

    def get_many(self, keys: Iterable[Buffer], /) -> list[bytes | None]:
        """Return the values of many keys; several times as fast as one by one when memory is the bottleneck.

        Args:
            keys: an iterable of keys.

        Returns:
            A list with the value of each key, or None where it is absent. Each value is read atomically, not the list.

        Raises:
            ClosedError: the store is closed.

        Example:
            >>> import mmkv, os, tempfile
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     with mmkv.open(os.path.join(directory, "store")) as db:
            ...         db[b"key"] = b"value"
            ...         db.get_many([b"key", b"other"])
            [b'value', None]
        """
        values: list[bytes | None] = []
        for key in keys:
            data = load_key(key)
            handle = self._inside()
            try:
                values.append(self._read(handle, data, take=False))
            finally:
                self._leave()
        return values

    def put_many(self, pairs: Mapping[K, Buffer] | Iterable[tuple[Buffer, Buffer]], /) -> int:
        """Store many values; each put is atomic, the whole is not.

        Args:
            pairs: a mapping, or an iterable of (key, value) pairs. When one of them raises, those before it are stored.

        Returns:
            How many pairs were stored.

        Raises:
            StoreFullError: there is no room.
            ReadOnlyError: the store is open for reading.
            ClosedError: the store is closed.

        Example:
            >>> import mmkv, os, tempfile
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     with mmkv.open(os.path.join(directory, "store")) as db:
            ...         db.put_many({b"a": b"1", b"b": b"2"}), db.put_many([(b"c", b"3")]), len(db)
            (2, 1, 3)
        """
        source: Iterable[Any] = pairs.items() if hasattr(pairs, "items") else pairs
        changed = 0
        try:
            for pair in source:
                try:
                    length = len(pair)
                except TypeError:
                    length = -1
                if length != 2:
                    raise TypeError("put_many() takes a mapping or an iterable of (key, value) pairs")
                name, data = load_key(pair[0]), load(pair[1], "value")
                handle = self._inside()
                try:
                    self._write(handle, name, data, 0)
                finally:
                    self._leave()
                changed += 1
        finally:
            self._many_done(changed)
        return changed

    def delete_many(self, keys: Iterable[Buffer], /) -> int:
        """Remove many keys; each removal is atomic, the whole is not.

        Args:
            keys: an iterable of keys. When one of them raises, those before it are removed.

        Returns:
            How many of the keys were there.

        Raises:
            ReadOnlyError: the store is open for reading.
            ClosedError: the store is closed.

        Example:
            >>> import mmkv, os, tempfile
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     with mmkv.open(os.path.join(directory, "store")) as db:
            ...         db[b"key"] = b"value"
            ...         db.delete_many([b"key", b"other"])
            1
        """
        changed = 0
        try:
            for key in keys:
                data = load_key(key)
                handle = self._inside()
                try:
                    changed += self._remove(handle, data)
                finally:
                    self._leave()
        finally:
            self._many_done(changed)
        return changed

    def _many_done(self, changed: int) -> None:
        # One checkpoint for all of it if the store is to be always durable.
        with self._lock:
            self._writes_made += changed
        if changed and self._always:
            handle = self._inside()
            try:
                self._check(self._sync_now(handle))
            finally:
                self._leave()

    def clear(self) -> None:
        """Remove every record, in many small steps: other processes are not kept waiting, and may see it half done.

        Raises:
            ReadOnlyError: the store is open for reading.
            ClosedError: the store is closed.

        Example:
            >>> import mmkv, os, tempfile
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     with mmkv.open(os.path.join(directory, "store")) as db:
            ...         db[b"key"] = b"value"
            ...         db.clear()
            ...         len(db)
            0
        """
        handle = self._inside()
        try:
            while (code := lib.mmkv_clear(handle)) == lib.MMKV_INTERRUPTED:
                pass
            self._check(code)
            self._wrote(handle)
        finally:
            self._leave()

    # ---- transactions ----

    def _commit(self, reads: dict[bytes, bytes | None], writes: dict[bytes, bytes | None], /) -> bool:
        """Write everything, None standing for "absent", when all that was read is as it was; else return False."""
        items = ffi.new("mmkv_item[]", len(reads) + len(writes))
        owners = []  # what keeps the bytes where they are
        handle = self._inside()
        try:
            for item, (key, value) in zip(items, [*reads.items(), *writes.items()], strict=True):
                owners.append(name := ffi.from_buffer(key))
                item.hash = lib.mmkv_hash(handle, name, len(key))
                item.key, item.key_length = name, len(key)
                if value is not None:
                    owners.append(data := ffi.from_buffer(value))
                    item.value, item.value_length = data, len(value)
            written = items + len(reads)
            while (code := lib.mmkv_commit(handle, items, len(reads), written, len(writes), 0)) == lib.MMKV_INTERRUPTED:
                pass
            if code == lib.MMKV_CONFLICT:
                return False
            self._check(code)
            if writes:
                self._wrote(handle)
            return True
        finally:
            self._leave()

    # ---- iteration ----

    def _scan(self, cursor: int, with_values: bool, /) -> tuple[int, list[Any]]:
        """Return the next cursor and a batch of keys, or of (key, value), None for long values; empty at the end."""
        position = ffi.new("uint64_t *", cursor)
        used = ffi.new("size_t *")
        capacity = _SCAN_BYTES
        handle = self._inside()
        try:
            while True:
                buffer = ffi.new("char[]", capacity)
                code = lib.mmkv_scan(handle, position, buffer, capacity, used, bool(with_values), _SCAN_VALUE_LIMIT, 0)
                if code == lib.MMKV_SHORT:
                    capacity = used[0]
                elif code == lib.MMKV_NOT_FOUND:
                    return position[0], []
                elif code != lib.MMKV_INTERRUPTED:
                    self._check(code)
                    return position[0], _scan_list(bytes(ffi.buffer(buffer, used[0])), with_values)
        finally:
            self._leave()


def _scan_list(data: bytes, with_values: bool) -> list[Any]:
    items: list[Any] = []
    at = 0
    while at < len(data):
        key_length = int.from_bytes(data[at : at + 4], "little")
        value_length = int.from_bytes(data[at + 8 : at + 16], "little")
        key = data[at + 16 : at + 16 + key_length]
        end = at + 16 + key_length
        if not with_values:
            items.append(key)
        elif value_length <= _SCAN_VALUE_LIMIT:
            items.append((key, data[end : end + value_length]))
            end += value_length
        else:
            items.append((key, None))
        at = (end + 7) & ~7
    return items


class Leaver:
    """The base of Lock: what `__exit__` does is done also when the handler of a signal raises in it."""

    __slots__ = ()

    _errors: type[Exception] = Error

    def _end(self) -> None:
        raise NotImplementedError

    def __exit__(self, *exception: object) -> None:
        try:
            self._end()
        except self._errors:
            raise
        except BaseException:
            # A signal's handler has raised. Once more, if it came too soon; if it did not, there is nothing to leave.
            with contextlib.suppress(Exception):
                self._end()
            raise
