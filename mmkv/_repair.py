"""Repair: a damaged store made sound in place."""

from __future__ import annotations

import os
from collections.abc import Callable

from mmkv._native import Callbacks, ffi, last_failure, lib
from mmkv.stats import Problem, Report
from mmkv.store import engine_options


def repair(
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    progress: Callable[[int, int], object] | None = None,
) -> Report:
    """Make a damaged store sound in place, if what is lost by it can be named; else leave it as it is.

    The index, the counters and the lists of free room are made anew from the records and what leads to them. In the
    latter a single flipped bit is set right. A record that is damaged is left out, and reported with its key where that
    can be read. If more records are missing than that, the file is left alone, and `salvage` is for it. A repair that
    is killed or cut off can be begun again. Nobody else may have the store open.

    Args:
        path: the store.
        progress: called now and then with the records done and the records expected, each counted twice. What it
            raises ends the repair and is passed on.

    Returns:
        A `Report`: `records` is what the store holds now, `errors` what was found damaged beside index, counters and
        lists; `ok` says that there was nothing.

    Raises:
        CorruptStoreError: this cannot be repaired.
        LockTimeoutError: somebody has the store open.
        FileNotFoundError, NotAStoreError, VersionError, OSError: as for `open`.

    Example:
        >>> import mmkv, os, tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = os.path.join(directory, "store")
        ...     with mmkv.open(path) as db:
        ...         db.update({b"a": b"1", b"b": b"two words"})
        ...     with open(path, "r+b") as file:
        ...         position = file.read().index(b"two words")
        ...         _ = file.seek(position), file.write(b"TWO")
        ...     report = mmkv.repair(path)
        ...     with mmkv.open(path, "r") as db:
        ...         [error.key for error in report.errors], dict(db), db.verify().ok
        ([b'b'], {b'a': b'1'}, True)
    """
    name = os.path.abspath(os.fsdecode(path))
    callbacks = Callbacks(progress)
    options = ffi.new("mmkv_options *", engine_options("w", callbacks))
    records = ffi.new("uint64_t *")
    raw = os.fsencode(name)
    while True:
        code = lib.mmkv_repair(raw, options, lib.mmkv_problem_python, callbacks.context, records)
        if code != lib.MMKV_INTERRUPTED:
            break
    if code:
        error = last_failure(code, name)
        callbacks.reraise()
        raise error
    problems = [Problem(*problem) for problem in callbacks.problems]
    return Report(not problems, int(records[0]), problems)
