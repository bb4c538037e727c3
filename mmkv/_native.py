"""The only importer of the compiled module: the hash function, errors from codes, handles and callbacks.

Two environment variables, read at import, choose slower routes that behave the same; they are there for tests and for
narrowing down trouble:

- `MMKV_HASH=python` hashes through a callback into `xxhash` even where its C function can be reached.
- `MMKV_HOT=cffi` uses the base class written over cffi (`mmkv/_reference.py`), as PyPy does, not the native one.

`hash_route` ("native" or "python") and `hot_route` ("native" or "cffi") say which are in use.
"""

from __future__ import annotations

import errno
import functools
import importlib
import importlib.machinery
import importlib.util
import itertools
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, Final

import xxhash

from mmkv import errors
from mmkv._mmkv import ffi, lib

__all__ = [
    "CLOSED",
    "Callbacks",
    "check",
    "failure",
    "ffi",
    "hash_route",
    "hot_route",
    "last_failure",
    "layout",
    "lib",
    "native_hot",
]

CLOSED: Final = -2
"""The code that `failure` is given for a closed store; the engine has none."""

# ---- errors ----


def failure(code: int, os_errno: int, offset: int, pid: int, text: str, path: str | None) -> BaseException:
    """Make the exception that a code of the engine stands for; every error of the engine is made here."""
    name = path if path is not None else "store"
    exception = _exception(code, os_errno, offset, pid, text, name)
    if isinstance(exception, errors.Error):
        exception._path = path
    if isinstance(exception, errors.CorruptStoreError):
        exception._offset = offset or None
    if isinstance(exception, errors.LockTimeoutError):
        exception._pid = pid or None
    return exception


def _exception(code: int, os_errno: int, offset: int, pid: int, text: str, name: str) -> BaseException:
    # Each message names the file, the cause (in the engine's words) and, where there is something, what to do.
    match code:
        case _ if code == CLOSED:
            return errors.ClosedError(f"{name}: the store is closed")
        case lib.MMKV_FULL:
            # A limit of ours has no errno of its own; "no space left" is what it is.
            return errors.StoreFullError(os_errno or errno.ENOSPC, text or "no room in the store", name)
        case lib.MMKV_OS if os_errno in (errno.ENOSPC, errno.EDQUOT):
            return errors.StoreFullError(os_errno, text or os.strerror(os_errno), name)
        case lib.MMKV_OS:
            reason = os.strerror(os_errno)
            step = text.removesuffix(reason).rstrip(": ")
            # That it was an open that failed goes without saying.
            return OSError(os_errno, reason if step in ("", "open", "create") else f"{reason} ({step})", name)
        case lib.MMKV_CORRUPT:
            where = f" (offset {offset})" if offset else ""
            return errors.CorruptStoreError(
                f"{name}: the store is damaged: {text or 'it contradicts itself'}{where}; `mmkv check --repair` may "
                "mend it, `mmkv salvage` copies what is whole into a new store"
            )
        case lib.MMKV_NOT_A_STORE:
            return errors.NotAStoreError(f"{name}: {text or 'the file is not an mmkv store'}")
        case lib.MMKV_VERSION:
            return errors.VersionError(f"{name}: {text or 'made by another version of mmkv'}; a newer mmkv may open it")
        case lib.MMKV_LOCK_TIMEOUT:
            hint = "; see to that process, or raise lock_timeout" if pid else ""
            return errors.LockTimeoutError(errno.ETIMEDOUT, (text or "a lock is held by a live process") + hint, name)
        case lib.MMKV_IN_USE:
            return errors.LockTimeoutError(errno.EBUSY, text or "the store is in use", name)
        case lib.MMKV_READ_ONLY:
            return errors.ReadOnlyError(
                f"{name}: {text or 'the store is open for reading only'}; mode 'w' opens it to write"
            )
        case lib.MMKV_NEEDS_RECOVERY:
            return errors.ReadOnlyError(f"{name}: {text or 'the store has to be recovered first: open it with mode w'}")
        case lib.MMKV_STALE:
            return errors.ConflictError(
                f"{name}: {text or 'the original of this private copy has changed'}; open it again"
            )
        case lib.MMKV_INVALID:
            return ValueError(f"{name}: {text or 'an argument is out of range'}")
        case lib.MMKV_FILE_SYSTEM:
            # Not particular to a store: some files cannot be used where they lie.
            hint = "if all who use it are on this machine, MMKV_ANY_FILE_SYSTEM=1 in the environment allows it"
            return OSError(errno.EOPNOTSUPP, f"{text or 'its file system is not fit for a store'}; {hint}", name)
        case lib.MMKV_CONFLICT:
            return errors.ConflictError(f"{name}: {text or 'a key that was read has been changed since'}; run it again")
        case lib.MMKV_RANGE:
            return OverflowError(f"{name}: {text or 'a counter would leave the range of 64 bits'}")
        case lib.MMKV_NOT_A_NUMBER:
            return ValueError(f"{name}: {text or 'a counter is 8 bytes long'}")
        case lib.MMKV_TIMEOUT:
            return TimeoutError(errno.ETIMEDOUT, text or "nothing has changed in the time given", name)
        case lib.MMKV_NO_MEMORY:
            return MemoryError(f"{name}: {text or 'out of memory'}")
        case lib.MMKV_INTERRUPTED:
            return InterruptedError(errno.EINTR, text or "interrupted by a signal", name)
        case lib.MMKV_STOPPED:
            return errors.Error(f"{name}: {text or 'stopped by its progress callback'}")
        case _:
            return errors.Error(f"{name}: unexpected code {code} of the engine: {text}")


def last_failure(code: int, path: str | None) -> BaseException:
    """The exception for a code that an engine call on this thread has just returned."""
    last = lib.mmkv_failure_get()
    if last == ffi.NULL or last.code != code:
        return failure(code, 0, 0, 0, "", path)
    text = ffi.string(last.text).decode("utf-8", "surrogateescape")
    return failure(code, last.os_errno, last.offset, last.pid, text, path)


def check(code: int, path: str | None) -> None:
    """Raise unless `code` is success."""
    if code:
        raise last_failure(code, path)


# ---- callbacks ----


class Callbacks:
    """What the engine's callbacks during one call come to: progress reports, problems, and an exception to pass on.

    Use `context` as the engine's context pointer and keep the object until the call has returned.
    """

    def __init__(self, progress: Callable[[int, int], object] | None = None) -> None:
        self.progress = progress
        self.problems: list[tuple[str, bytes | None, int, str]] = []
        self.exception: BaseException | None = None
        self.context: Any = ffi.new_handle(self)

    def reraise(self) -> None:
        """Raise what a callback raised, if one did."""
        if self.exception is not None:
            raise self.exception


def _keep_exception(kind: type[BaseException], exception: BaseException, traceback: Any) -> None:
    # cffi calls this with the exception that left a callback, Ctrl-C included; the callback's frame has the context.
    ffi.from_handle(traceback.tb_frame.f_locals["context"]).exception = exception


@ffi.def_extern(error=1, onerror=_keep_exception)  # type: ignore[untyped-decorator]
def mmkv_progress_python(context: Any, done: int, total: int) -> int:
    # Without a callback of the user's this is still where Ctrl-C gets through.
    callbacks: Callbacks = ffi.from_handle(context)
    if callbacks.progress is not None:
        callbacks.progress(done, total)
    return 0


@ffi.def_extern(onerror=_keep_exception)  # type: ignore[untyped-decorator]
def mmkv_problem_python(context: Any, kind: Any, key: Any, key_length: int, offset: int, text: Any) -> None:
    name = None if key == ffi.NULL else bytes(ffi.buffer(key, key_length))
    ffi.from_handle(context).problems.append(
        (ffi.string(kind).decode(), name, offset, ffi.string(text).decode("utf-8", "backslashreplace"))
    )


# ---- the layout ----


@functools.cache
def layout() -> dict[str, int]:
    """The file's layout as compiled: offsets and sizes of structures, values of formulas, as in docs/format.md."""
    name, value = ffi.new("char[80]"), ffi.new("uint64_t *")
    entries: dict[str, int] = {}
    for number in itertools.count():
        if not lib.mmkv_layout(number, name, 80, value):
            break
        entries[ffi.string(name).decode()] = int(value[0])
    return entries


# ---- the module of the native class ----


@functools.cache
def _native_hot() -> Any:
    """The module `mmkv._hot`: a second init function in the file of `mmkv._mmkv`."""
    file = sys.modules["mmkv._mmkv"].__file__
    assert file is not None
    loader = importlib.machinery.ExtensionFileLoader("mmkv._hot", file)
    spec = importlib.util.spec_from_file_location("mmkv._hot", file, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    sys.modules["mmkv._hot"] = module
    return module


# ---- the hash ----


@ffi.def_extern()  # type: ignore[untyped-decorator]
def mmkv_hash_python(data: Any, length: int, seed: int) -> int:
    return xxhash.xxh3_64_intdigest(ffi.buffer(data, length) if length else b"", seed)


def _native_hash() -> Any:
    """The C function XXH3_64bits_withSeed inside the xxhash package, or NULL when it cannot be reached."""
    try:
        file = importlib.import_module("xxhash._xxhash").__file__ or ""
        library = lib.dlopen(os.fsencode(file), lib.RTLD_NOW)
    except ImportError:  # a build of xxhash that is made otherwise
        return ffi.NULL
    if library == ffi.NULL:
        return ffi.NULL
    function = ffi.cast("mmkv_hash_function", lib.dlsym(library, b"XXH3_64bits_withSeed"))
    # The name alone is no proof; short, middle and long inputs take different ways through XXH3.
    for length in (0, 3, 16, 128, 240, 1000):
        sample = bytes(i % 251 for i in range(length))
        if function == ffi.NULL or function(sample, length, 2**63 + 1) != xxhash.xxh3_64_intdigest(sample, 2**63 + 1):
            return ffi.NULL
    return function


def _choose_hash() -> str:
    forced = os.environ.get("MMKV_HASH") == "python"
    function = ffi.NULL if forced else _native_hash()
    if function != ffi.NULL:
        lib.mmkv_set_hash(function, False)
        return "native"
    if sys.implementation.name == "cpython":
        _native_hot().set_hash(xxhash.xxh3_64_intdigest)
    else:
        lib.mmkv_set_hash(lib.mmkv_hash_python, True)
    if not forced:
        warnings.warn(
            "this build of xxhash hides its C function XXH3_64bits_withSeed, so mmkv hashes through Python: "
            "slower, with identical files; another build of the xxhash package mends it",
            RuntimeWarning,
            stacklevel=2,
        )
    return "python"


hash_route: Final = _choose_hash()

# ---- the base class of Store ----


hot_route: Final = "cffi" if os.environ.get("MMKV_HOT") == "cffi" or sys.implementation.name != "cpython" else "native"


def native_hot() -> Any:
    """The module of the native class `Hot`, made ready; only where `hot_route` is "native"."""
    module = _native_hot()
    module.set_error_factory(failure)
    return module
