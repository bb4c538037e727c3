"""A lock between processes, in a store."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import time
from typing import TYPE_CHECKING, Any, Final, Self

from mmkv._base import Leaver
from mmkv.errors import Error, LockTimeoutError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from mmkv.store import Store

_RECORD: Final = re.compile(rb"mmkv\.Lock ([0-9a-f]{8}) ([0-9a-f]{16}) [0-9a-f]{16}")
_LOOK: Final = 0.1
"""A holder that dies tells nobody: who waits asks this often, in seconds."""


class Lock(Leaver):
    """A lock between the threads of all processes that have a store open.

    It is one record of the store, with the holder's name in it. It is released when its holder dies, or closes the
    store: those who wait notice within 0.2 s. A power cut releases it too. It is not reentrant, and not fair: of those
    who wait, any may be next. As with `threading.Lock`, any thread may release what another has acquired through the
    same object; a forked child does not hold what its parent does. It can be pickled, and is then not held.

    Args:
        store: an open store, not read-only. Its closing releases the lock.
        name: the key of the record; nothing else may be stored there.
        timeout: seconds that `acquire` and `with` wait at most; None for as long as it takes.

    Raises:
        TypeError: the name is not bytes-like.

    Example:
        >>> import mmkv, os, tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     with mmkv.open(os.path.join(directory, "store")) as db:
        ...         lock = mmkv.Lock(db, b"lock")
        ...         with lock:
        ...             lock.locked(), lock.acquire(blocking=False)
        ...         lock.locked()
        (True, False)
        False
    """

    __slots__ = ("_held", "_name", "_store", "_timeout")

    _errors = Error  # those of the store itself: after these nothing is tried again

    def __init__(self, store: Store, name: Buffer, *, timeout: float | None = None) -> None:
        if isinstance(name, str):
            raise TypeError("the name of a lock is bytes, not str: encode it first, as in name.encode()")
        self._store = store
        self._name = memoryview(name).tobytes()
        self._timeout = timeout
        self._held: list[bytes] = []  # the record while this object holds the lock; a list, whose steps are atomic

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Take the lock, waiting until it is free.

        Args:
            blocking: False: do not wait.
            timeout: seconds to wait at most; None for what the lock was made with.

        Returns:
            True if this object holds the lock now, False if the time was up.

        Raises:
            ValueError: a timeout for one that does not wait; or the record is not a lock's.
            ReadOnlyError: the store is open for reading.
            ClosedError: the store is closed, or was closed by another thread meanwhile.
            LockTimeoutError: a process that is stopped holds the part of the store where the record is. That takes up
                to twice the store's `lock_timeout`, whatever `timeout` is.
        """
        if not blocking and timeout is not None:
            raise ValueError("a timeout makes no sense without waiting")
        seconds = 0.0 if not blocking else self._timeout if timeout is None else timeout
        if seconds is not None and not seconds >= 0:
            raise ValueError(f"timeout is a count of seconds, from 0 up, or None, not {seconds!r}")
        end = float("inf") if seconds is None else time.monotonic() + seconds
        mine = self._mine() + b" " + os.urandom(8).hex().encode()
        there: bytes | None = None
        try:
            while not self._store.compare_and_swap(self._name, there, mine):
                there = self._store.get(self._name)  # if its holder is dead, it is taken from him
                if there is not None and self._alive(there):
                    if (left := end - time.monotonic()) <= 0:
                        return False
                    self._sleep(there, min(left, _LOOK))
                    there = None
            self._held[:] = [mine]  # what is left of a release that a signal broke off is past
        except BaseException:
            # Ctrl-C may come when it has just been taken, and so may the failure of a checkpoint with sync="always".
            with contextlib.suppress(Exception):
                self._forget(mine)
                self._store.compare_and_swap(self._name, mine, None)
            raise
        return True

    def release(self) -> None:
        """Let the lock go.

        What a signal's handler raises in here may leave it held: `locked` tells, and it can be released again.

        Raises:
            RuntimeError: this object does not hold it; or the record was changed by somebody else.
            ClosedError: the store is closed, which has released the lock.
            LockTimeoutError: a process that is stopped holds the part of the store where the record is; it can be
                released later.
        """
        try:
            mine = self._held[-1]
        except IndexError:
            raise RuntimeError(f"{self!r} is not held through this object") from None
        if not mine.startswith(self._mine() + b" "):
            raise RuntimeError(f"{self!r} is held by the process that this one was forked from")
        released = self._store.compare_and_swap(self._name, mine, None)
        self._forget(mine)
        if not released:
            raise RuntimeError(f"the record of {self!r} was changed by somebody else")

    def locked(self) -> bool:
        """Return whether anybody who lives holds the lock.

        Raises:
            ValueError: the record is not a lock's.
            ClosedError: the store is closed.
        """
        there = self._store.get(self._name)
        return there is not None and self._alive(there)

    def __enter__(self) -> Self:
        if not self.acquire():
            raise TimeoutError(f"{self!r} was not free within {self._timeout} s")
        return self

    def _end(self) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<mmkv.Lock {self._name!r} in {self._store.path!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(type(self), timeout=self._timeout), (self._store, self._name)

    def _forget(self, mine: bytes) -> None:
        with contextlib.suppress(ValueError):  # another thread has acquired it meanwhile
            self._held.remove(mine)

    def _mine(self) -> bytes:
        return b"mmkv.Lock %08x %016x" % self._store._handle_name()

    def _alive(self, record: bytes) -> bool:
        match = _RECORD.fullmatch(record)
        if match is None:
            raise ValueError(f"{self._store.path}: the value of {self._name!r} is not that of an mmkv.Lock")
        return self._store._handle_alive(int(match[1], 16), int(match[2], 16))

    def _sleep(self, there: bytes, seconds: float) -> None:
        # Until the record has changed, or it is time to ask whether the holder lives.
        try:
            self._store.wait(self._name, old=there, timeout=seconds)
        except LockTimeoutError:
            raise
        except TimeoutError:
            pass
