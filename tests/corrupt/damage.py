"""Stores to damage, and ways to do it."""

from __future__ import annotations

import os
import random
import signal
import struct
import textwrap
from collections.abc import Callable
from pathlib import Path

import mmkv
from tests import shim
from tests.format.reader import (
    ALLOCATOR,
    CHUNK,
    CONTROL,
    SHARDS,
    ZONE_STATES,
    ZONES,
    Zone,
    blocks_at,
    chunk_blocks,
    class_size,
    epochs_at,
    read_checkpoint,
    read_current,
)
from tests.support import random_bytes, run_python

PAGE = 4096
SLOTS = (0x1000, 0x2000)
SIZES = (0, 1, 7, 30, 30, 100, 100, 100, 300, 1000, 2500, 5000, 14_000, 20_000, 70_000)


def make(path: Path, rng: random.Random, *, clean: bool, records: int = 600) -> dict[bytes, bytes]:
    """A store with records of all kinds of places, some overwritten and some deleted, and what it holds.

    One that is not clean has its last checkpoint in its contents, and was left by a power cut.
    """
    model: dict[bytes, bytes] = {}
    with mmkv.open(path, "n", shards=rng.choice((1, 4, 64)), sync="close" if clean else "manual") as db:
        for round_ in range(3):
            for i in range(records):
                if round_ == 0 or rng.random() < 0.3:
                    key = b"key %d" % i
                    model[key] = db[key] = b"%d %d " % (i, round_) + random_bytes(rng, rng.choice(SIZES))
            for key in rng.sample(sorted(model), records // 20):
                del db[key], model[key]
            db.sync()
        if not clean:
            for i in range(0, records, 5):
                db[b"key %d" % i] = b"of a lost future"
            db.delete_many(b"key %d" % i for i in range(1, records, 7))
    if not clean:
        forget_the_boot(path)
    return model


def forget_the_boot(path: Path) -> None:
    """What a power cut does to the identity: the next boot has another."""
    write(path, CONTROL, bytes(16))


def write(path: Path, offset: int, data: bytes) -> None:
    """Overwrite some bytes of a file."""
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def flip(path: Path, offset: int, bit: int) -> None:
    """Flip one bit of a file."""
    with open(path, "rb") as file:
        file.seek(offset)
        byte = file.read(1)[0]
    write(path, offset, bytes([byte ^ 1 << bit]))


def volatile_areas(path: Path) -> list[tuple[int, int]]:
    """The ranges that recovery makes anew: control, processes, allocator, zone states, shards, and index zones."""
    contents = read_current(path)
    areas = [(CONTROL, ALLOCATOR + 8192), (ZONE_STATES, SHARDS + 8192 * contents.shards)]
    for zone in contents.zones:
        areas.append((zone.offset, zone.offset + zone.descriptors))
        if zone.kind != 1:
            areas.append((zone.offset + zone.own * PAGE, zone.end))
    return areas


def heap_zones(path: Path) -> list[Zone]:
    """The zones in which records lie."""
    return [zone for zone in read_current(path).zones if zone.kind == 1]


def zone_entry(number: int) -> int:
    """Where the entry of a zone is."""
    return ZONES + 32 * number


def noise(rng: random.Random, length: int) -> bytes:
    """Bytes that mean nothing."""
    return rng.choice((bytes, rng.randbytes, lambda n: b"\xff" * n))(length)


def undamaged(report: mmkv.Report, model: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """What must still be there, after a report that named what is not."""
    named = {error.key for error in report.errors}
    return {key: value for key, value in model.items() if key not in named}


def slot_epoch(path: Path, at: int) -> int:
    """The epoch of a checkpoint slot."""
    with open(path, "rb") as file:
        file.seek(at + 8)
        return int(struct.unpack("<Q", file.read(8))[0])


def offsets(path: Path, *, clean: bool) -> dict[bytes, int]:
    """Where the record of each key begins."""
    return (read_current(path) if clean else read_checkpoint(path)).offsets


def checkpoint_length(content: bytes) -> int:
    """How long the file was at its newest checkpoint."""
    slots = [struct.unpack_from("<QQ", content, at + 8) for at in SLOTS]
    return int(max(slots)[1])


def killed_at(call: int, work: Callable[[Callable[[int, int], None]], object]) -> None:
    """Do some work in a child that SIGKILLs itself at a call of the progress callback it is given."""
    calls: list[int] = []

    def progress(done: int, expected: int) -> None:
        calls.append(done)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        try:
            work(progress)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), f"it ended before call {call}"


def check_scanned(report: mmkv.Report, contents: dict[bytes, bytes], model: dict[bytes, bytes]) -> None:
    """Every key is there; only values that were found by scanning may be older ones, or have been deleted."""
    scanned = {error.key for error in report.errors if error.kind == "scan"}
    assert set(model) <= set(contents)
    wrong = {key for key, value in contents.items() if model.get(key) != value}
    assert wrong <= scanned


def words_at(path: Path, record: int) -> int:
    """Where the epoch words of a record in a chunk are, live or dead."""
    extent = next(e for e in read_current(path).extents if e.offset <= record < e.offset + e.pages * PAGE)
    assert extent.type == CHUNK
    size = class_size(extent.class_)
    blocks = chunk_blocks(extent.pages * PAGE, size)
    return extent.offset + epochs_at(blocks) + 16 * ((record - extent.offset - blocks_at(blocks)) // size)


def leave_half_done(path: Path) -> tuple[int, ...]:
    """A store whose only writer was killed in this boot, its last put in the undo log as if it had not committed.

    Returns the entries of that log.
    """
    run_python(
        """
        import os, sys, mmkv
        db = mmkv.open(sys.argv[1], sync="manual", shards=1)
        db[b"durable"] = b"1"
        db.sync()
        db[b"in memory"] = b"2"
        db[b"half done"] = b"3"
        os._exit(0)
        """,
        path,
    )
    born = words_at(path, read_current(path).offsets[b"half done"])
    with open(path, "rb") as file:
        file.seek(SHARDS + 96)
        epoch = struct.unpack("<Q", file.read(8))[0]
    log = (SHARDS + 104 + 8 * (epoch & 1), 2, born, 0)  # two entries: the shard's count, the record's birth
    write(path, SHARDS + 2560, struct.pack("<6Q", 2, 0, *log))
    return log


def leave_in_transaction(path: Path, *, committed: bool) -> int:
    """The same, in a transaction: the second segment of two, with two words before them. Returns its offset."""
    log = leave_half_done(path)
    contents = read_current(path)
    zone = next(zone for zone in contents.zones if zone.kind == 1)
    page = zone.pages - 1
    offset = zone.offset + page * PAGE
    assert all(extent.offset + extent.pages * PAGE <= offset for extent in contents.extents), "a free page"
    write(path, zone.offset + zone.descriptors + 32 * page, struct.pack("<QQI", 0, (1 << 64) - 1, 1))
    header = struct.pack("<8sQIIQQ", b"mmkvTRAN", committed, 2, 2, 0, 0)
    segments = struct.pack("<QQIIQQII", 9, 88, 9, 1, 2, 96, 2, 0)
    write(path, offset, header + segments + bytes(8) + struct.pack("<4Q", *log))
    write(path, SHARDS + 8, struct.pack("<Q", 1))  # its version
    write(path, SHARDS + 2560, struct.pack("<QQ", 0, offset + 1))
    return offset


def leave_a_failed_slot(path: Path, library: Path) -> dict[bytes, bytes]:
    """A store whose last checkpoint failed at the flush of its slot, left by all; returns what the one before holds."""
    run_python(
        shim.PRELUDE
        + textwrap.dedent(
            """
            db = mmkv.open(sys.argv[1], shards=1, sync="manual")
            db.update((b"%d" % i, b"durable") for i in range(100))
            db.sync()
            db[b"both slots"] = b"are in use"
            db.sync()
            db.delete_many(b"%d" % i for i in range(10))
            db.update((b"%d" % i, b"of a lost future") for i in range(10, 20))
            plan(2, "f")  # the heap, the slot
            try:
                db.sync()
            except OSError:
                os._exit(0)
            """
        ),
        path,
        environment={"LD_PRELOAD": str(library)},
    )
    assert [path.read_bytes()[at : at + 8] for at in SLOTS].count(bytes(8)) == 1
    return {b"%d" % i: b"durable" for i in range(100)} | {b"both slots": b"are in use"}
