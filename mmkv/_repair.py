"""What to do with a damaged store: make it sound in place, or copy what is whole into a new one."""

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


def salvage(
    source: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    target: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    progress: Callable[[int, int], object] | None = None,
) -> Report:
    """Copy every record that is still whole out of a damaged store into a new one.

    The source is only read, whatever its state, and nobody may have it open for writing; writers that come meanwhile
    wait. What is taken is what the store held last: after a power cut the last checkpoint, or, where the damage is such
    that this is not known, the youngest record of each key. Records of which nothing can be told any more are taken too
    if there is no other of their key, and reported with the kind "scan".

    Args:
        source: the damaged store.
        target: where the new store is to be; nothing may be there.
        progress: called now and then with the records stored and the records expected. What it raises ends the salvage
            and is passed on.

    Returns:
        A `Report`: `records` is what the new store holds, `errors` the damage met.

    Raises:
        FileExistsError: there is something at `target`.
        NotAStoreError: the source was never a store.
        CorruptStoreError: the superblock and its copy are lost, and with them the seed of all checksums.
        LockTimeoutError: somebody has the source open for writing.
        OSError: a file cannot be opened, or the new one not written. What cannot be read of the source is reported.

    Example:
        >>> import mmkv, os, tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = os.path.join(directory, "store")
        ...     with mmkv.open(path) as db:
        ...         db[b"key"] = b"value"
        ...     with open(path, "r+b") as file:
        ...         _ = file.write(bytes(0x16000))  # superblock, slots, allocator: all gone
        ...     report = mmkv.salvage(path, os.path.join(directory, "new"))
        ...     with mmkv.open(os.path.join(directory, "new"), "r") as db:
        ...         report.records, db[b"key"]
        (1, b'value')
    """
    from mmkv._salvage import copy_whole  # late: few programs need it, and `import mmkv` is to be quick

    return copy_whole(source, target, progress)
