"""What happens around open stores: the end of the interpreter, forks, checkpoints in the background, faulthandler."""

from __future__ import annotations

import atexit
import faulthandler
import functools
import os
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from mmkv._native import lib

if TYPE_CHECKING:
    from mmkv.store import Store

P = ParamSpec("P")
R = TypeVar("R")

# By id, because a mapping is not hashable.
_open: dict[int, weakref.ref[Store]] = {}


def register(store: Store) -> None:
    """Remember a store that has been opened."""
    _open[id(store)] = weakref.ref(store)


def forget(store: Store) -> None:
    """Forget a store that is being closed."""
    _open.pop(id(store), None)


def _stores() -> list[Store]:
    return [store for ref in list(_open.values()) if (store := ref()) is not None]


def _close_all() -> None:
    # What is still open at exit gets what its sync mode promises for close().
    for store in _stores():
        try:
            store.close()
        except Exception as error:
            warnings.warn(f"closing a store at exit failed: {error}", RuntimeWarning, stacklevel=1)


def _forked() -> None:
    for store in _stores():
        store._after_fork()


def _then_catch(function: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(function)
    def wrapper(*args: P.args, **named: P.kwargs) -> R:
        try:
            return function(*args, **named)
        finally:
            lib.mmkv_catch_faults()

    return wrapper


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forked)
# enable() puts a handler of SIGBUS before the engine's, which would take a truncated store for the end of the process;
# disable() puts back what it had found, which may be none. What is no fault of a store the engine passes on to it.
for _name in ("enable", "disable"):
    setattr(faulthandler, _name, _then_catch(getattr(faulthandler, _name)))


class Background:
    """A daemon thread that makes a checkpoint every so often while there is something new; it ends with the store."""

    def __init__(self, store: Store, seconds: float) -> None:
        self.seconds = seconds
        self._stop = threading.Event()
        # A weak reference: a store that is forgotten must be collected, and closed, all the same.
        self._thread = threading.Thread(
            target=_run, args=(weakref.ref(store), seconds, self._stop), name="mmkv-sync", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End the thread, waiting for the checkpoint it may be making, unless it is the caller."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join()


def _run(ref: weakref.ref[Store], seconds: float, stop: threading.Event) -> None:
    seen = 0
    failed = ""
    while not stop.wait(seconds):
        store = ref()
        if store is None or store.closed:
            return
        writes = store._writes
        if writes != seen:
            try:
                store.sync()
                seen = writes
                failed = ""
            except ValueError:  # closed meanwhile
                return
            except Exception as error:
                # Tried again next time, and sync() and close() will raise; said once for each kind of trouble.
                if failed != (failed := str(error)):
                    warnings.warn(f"a background checkpoint failed: {error}", RuntimeWarning, stacklevel=1)
        del store
