"""Salvage: every record that is whole, whatever else is not."""

from __future__ import annotations

import errno
import os
import random
import struct
from pathlib import Path
from typing import Any

import pytest

import mmkv
from tests.corrupt import damage
from tests.format.reader import SHARDS, read_current, stamp
from tests.processes.live import looking_at, stop_where
from tests.support import Child, run_python


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """Where the new store goes."""
    return tmp_path / "new.mmkv"


def salvaged(open_store: Any, path: Path, new: Path) -> tuple[mmkv.Report, dict[bytes, bytes]]:
    """Salvage, and what the new store holds; the source must be as it was."""
    open_store.expect_damage(path)
    content, status = path.read_bytes(), path.stat()
    report = mmkv.salvage(path, new)
    after = path.stat()
    assert path.read_bytes() == content
    assert (after.st_mtime_ns, after.st_ctime_ns) == (status.st_mtime_ns, status.st_ctime_ns)
    assert sorted(path.parent.iterdir()) == sorted({path, new}), "nothing is left beside it"
    with open_store(new, "r") as db:
        contents = dict(db)
    assert len(contents) == report.records
    return report, contents


def kinds(report: mmkv.Report) -> set[str]:
    return {error.kind for error in report.errors}


@pytest.mark.parametrize("clean", [True, False])
def test_of_a_sound_store(open_store: Any, path: Path, new: Path, rng: random.Random, clean: bool) -> None:
    model = damage.make(path, rng, clean=clean)
    report, contents = salvaged(open_store, path, new)
    assert report.errors == []
    assert contents == model


@pytest.mark.parametrize("clean", [True, False])
def test_without_anything_before_the_zones(
    open_store: Any, path: Path, new: Path, rng: random.Random, clean: bool
) -> None:
    """Superblock, slots, control, zone table, shards: all but the superblock's copy."""
    model = damage.make(path, rng, clean=True)
    shards = read_current(path).shards
    damage.write(path, 0, damage.noise(rng, 0x16000))
    if not clean:
        damage.write(path, 0x17000, damage.noise(rng, SHARDS + 8192 * shards - 0x17000))
    report, contents = salvaged(open_store, path, new)
    assert "superblock" in kinds(report)
    damage.check_scanned(report, contents, model)


def test_without_descriptors(open_store: Any, path: Path, new: Path, rng: random.Random) -> None:
    model = damage.make(path, rng, clean=True)
    for zone in damage.heap_zones(path):
        damage.write(path, zone.offset, damage.noise(rng, zone.own * damage.PAGE))
    report, contents = salvaged(open_store, path, new)
    damage.check_scanned(report, contents, model)
    scanned = [error for error in report.errors if error.kind == "scan"]
    assert any(error.key is None for error in scanned), "chunks are known by their headers"
    assert sum(error.key is not None for error in scanned) < len(model) / 2, (
        "and what is live in them by its epoch words"
    )


def test_records_whose_epoch_words_are_gone_are_taken_and_said_to_be_unsure(
    open_store: Any, path: Path, new: Path
) -> None:
    with open_store() as db:
        db.put_many((b"%d" % i, b"value %d" % i) for i in range(100))
    record = read_current(path).offsets[b"7"]
    damage.write(path, damage.words_at(path, record), b"\xff" * 16)
    report, contents = salvaged(open_store, path, new)
    assert contents == {b"%d" % i: b"value %d" % i for i in range(100)}
    assert [error.key for error in report.errors if error.kind == "scan"] == [b"7"]
    assert "epoch" in kinds(report)


def test_damaged_records_are_named(open_store: Any, path: Path, new: Path, rng: random.Random) -> None:
    model = damage.make(path, rng, clean=True)
    offsets = damage.offsets(path, clean=True)
    hurt = [key for key in rng.sample(sorted(model), 40) if len(model[key]) > 20][:10]
    for key in hurt:
        damage.flip(path, offsets[key] + 12 + len(key) + rng.randrange(len(model[key])), rng.randrange(8))
    report, contents = salvaged(open_store, path, new)
    assert sorted(error.key or b"" for error in report.errors) == sorted(hurt)
    assert contents == {key: value for key, value in model.items() if key not in hurt}


def test_of_two_live_records_the_younger(open_store: Any, path: Path, new: Path) -> None:
    with open_store(sync="manual") as db:
        db.put_many((b"%d" % i, b"old %d" % i) for i in range(50))
        db.sync()
        old = read_current(path).offsets[b"33"]
        db.put_many((b"%d" % i, b"new %d" % i) for i in range(50))
        db.sync()
    dead = damage.words_at(path, old) + 8
    damage.write(path, dead, struct.pack("<Q", stamp(0, dead)))
    report, contents = salvaged(open_store, path, new)
    assert [(error.kind, error.key) for error in report.errors if error.kind == "duplicate"] == [("duplicate", b"33")]
    assert contents == {b"%d" % i: b"new %d" % i for i in range(50)}


def test_what_a_killed_writer_had_half_done_is_rolled_back(open_store: Any, path: Path, new: Path) -> None:
    """In this boot the memory counts, undo logs included."""
    damage.leave_half_done(path)
    report, contents = salvaged(open_store, path, new)
    assert contents == {b"durable": b"1", b"in memory": b"2"}
    assert report.ok


@pytest.mark.parametrize("committed", [False, True])
def test_a_transaction_of_a_killed_writer_is_rolled_back_or_has_happened(
    open_store: Any, path: Path, new: Path, committed: bool
) -> None:
    damage.leave_in_transaction(path, committed=committed)
    report, contents = salvaged(open_store, path, new)
    assert report.ok
    assert contents == {b"durable": b"1", b"in memory": b"2"} | ({b"half done": b"3"} if committed else {})
    if committed:  # else the index is lacking in the log
        with mmkv.open(path, "w") as db:
            assert dict(db) == contents, "and so it is for who opens the file"


WHERE_NOT = 1 << 40
NOT_A_TRANSACTION: dict[str, tuple[int, bytes]] = {
    # what is wrong, where (negative: in the shard's log), and with what
    "elsewhere": (-8, struct.pack("<Q", 0x30000)),
    "beyond the file": (-8, struct.pack("<Q", WHERE_NOT)),
    "beyond all files": (-8, struct.pack("<Q", (1 << 64) - 1)),
    "no magic": (0, b"M"),
    "more words than there is room for": (16, b"\xff" * 4),
    "more segments than there is room for": (20, b"\xff" * 4),
    "no such segment": (20, struct.pack("<I", 1)),
    "the segment of another shard": (40 + 24 + 20, struct.pack("<I", 1)),
    "more entries than the segment has": (40 + 24, struct.pack("<Q", 3)),
    "entries at no word": (40 + 24 + 8, struct.pack("<Q", 97)),
    "entries beyond the file": (40 + 24 + 8, struct.pack("<Q", WHERE_NOT)),
    "entries beyond all files": (40 + 24 + 8, struct.pack("<Q", (1 << 64) - 8)),
    "a segment larger than the file": (40 + 24, struct.pack("<QQI", (1 << 32) - 1, 96, (1 << 32) - 1)),
}


@pytest.mark.parametrize("wrong", NOT_A_TRANSACTION)
def test_a_transaction_that_is_not_there_is_told(open_store: Any, path: Path, new: Path, wrong: str) -> None:
    offset = damage.leave_in_transaction(path, committed=False)
    at, data = NOT_A_TRANSACTION[wrong]
    damage.write(path, at + (offset if at >= 0 else SHARDS + 2560 + 16), data)
    report, contents = salvaged(open_store, path, new)
    assert [(error.kind, error.key, error.offset) for error in report.errors] == [("operation", None, SHARDS + 2560)]
    assert contents == {b"durable": b"1", b"in memory": b"2", b"half done": b"3"}


@pytest.mark.parametrize("bad", [0, 0x3000 + 4, WHERE_NOT, (1 << 64) - 8])
def test_an_entry_of_a_log_that_names_no_word_is_told_and_passed_over(
    open_store: Any, path: Path, new: Path, bad: int
) -> None:
    offset = damage.leave_in_transaction(path, committed=False)
    damage.write(path, offset + 96 + 16, struct.pack("<Q", bad))
    report, contents = salvaged(open_store, path, new)
    assert [error.offset for error in report.errors if error.kind == "operation"] == [SHARDS + 2560]
    assert contents == {b"durable": b"1", b"in memory": b"2", b"half done": b"3"}


COMMITTER = """
import sys, mmkv
keys = [b"key %d" % i for i in range(1000)]
with mmkv.open(sys.argv[1], sync="manual") as db:
    print("ready")
    i = 0
    while i := i + 1:
        with db.transaction() as t:
            t.update(dict.fromkeys(keys, b"%d" % i))
"""


def test_no_half_of_a_transaction_is_taken_whenever_its_writer_was_killed(
    open_store: Any, path: Path, new: Path
) -> None:
    with mmkv.open(path, shards=4) as db:
        db.update((b"key %d" % i, b"0") for i in range(1000))
    with Child(COMMITTER, path) as child, looking_at(path) as live:
        pid = child.process.pid
        assert child.line() == "ready"
        stop_where(pid, lambda: 1 < len(live.held(pid, odd=True)) < 4)
        child.kill()
    report, contents = salvaged(open_store, path, new)
    assert report.ok
    assert len(contents) == 1000
    assert len(set(contents.values())) == 1, "a transaction half happened"
    with mmkv.open(path, "w", sync="manual") as db:
        assert dict(db) == contents


IDENTITY = {"boot id": 0, "device": 16, "inode": 24, "birth time": 32, "generation": 40, "mounting": 48}


def leave_a_future(path: Path) -> None:
    """A store whose only writer was killed in this boot, with something that is in the memory alone."""
    run_python(
        """
        import os, sys, mmkv
        db = mmkv.open(sys.argv[1], sync="manual", shards=1)
        db[b"k"] = b"durable"
        db.sync()
        db[b"k"] = b"in memory"
        os._exit(0)
        """,
        path,
    )


@pytest.mark.parametrize("part", IDENTITY)
def test_the_memory_counts_only_where_all_of_the_identity_matches(
    open_store: Any, path: Path, new: Path, part: str
) -> None:
    """As for the engine: a file that was deleted and put back may have the inode number of the one before."""
    leave_a_future(path)
    at = damage.CONTROL + IDENTITY[part]
    known = any(path.read_bytes()[at : at + 8])
    damage.flip(path, at, 0)
    report, contents = salvaged(open_store, path, new)
    assert report.ok
    assert contents == {b"k": b"durable" if known or part != "mounting" else b"in memory"}


def test_a_mounting_that_is_not_known_matches(open_store: Any, path: Path, new: Path) -> None:
    leave_a_future(path)
    damage.write(path, damage.CONTROL + IDENTITY["mounting"], bytes(8))
    report, contents = salvaged(open_store, path, new)
    assert report.ok
    assert contents == {b"k": b"in memory"}


def test_a_copy_in_the_place_of_the_file_is_its_checkpoint(open_store: Any, path: Path, new: Path) -> None:
    """Also where the file system gives it the inode number of the deleted one."""
    leave_a_future(path)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    report, contents = salvaged(open_store, path, new)
    assert report.ok
    assert contents == {b"k": b"durable"}


def test_a_slot_whose_flush_failed_is_not_damaged(open_store: Any, path: Path, new: Path, library: Path) -> None:
    """What the checkpoint before holds is what all were promised: nothing of the one that failed may be taken."""
    model = damage.leave_a_failed_slot(path, library)
    report, contents = salvaged(open_store, path, new)
    assert report.ok
    assert contents == model
    new.unlink()
    with mmkv.open(path, "w", sync="close") as db:  # recovers, and has nothing to write into that slot
        assert dict(db) == model
    report, contents = salvaged(open_store, path, new)
    assert report.ok
    assert contents == model


def test_without_any_slot_the_youngest_records_are_taken(open_store: Any, path: Path, new: Path) -> None:
    """Also where both look as if they were being written."""
    with open_store() as db:
        db.update({b"a": b"1", b"b": b"2"})
        db.sync()
        db[b"a"] = b"3"
        db.sync()
    for at in damage.SLOTS:
        damage.write(path, at, bytes(8))
    damage.forget_the_boot(path)
    damage.write(path, damage.CONTROL + 88, bytes(4))
    report, contents = salvaged(open_store, path, new)
    assert "slot" in kinds(report)
    assert contents == {b"a": b"3", b"b": b"2"}


def test_pages_that_cannot_be_read_are_passed_over(
    open_store: Any, path: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store() as db:
        db.put_many((b"%d" % i, b"v" * 3000) for i in range(300))
    offsets = read_current(path).offsets
    bad = {offsets[b"%d" % i] // damage.PAGE + 1 for i in range(0, 300, 50)}
    pread = os.pread

    def failing(descriptor: int, length: int, offset: int) -> bytes:
        if any(offset < (page + 1) * damage.PAGE and page * damage.PAGE < offset + length for page in bad):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", failing)
    open_store.expect_damage(path)
    report = mmkv.salvage(path, new)
    monkeypatch.undo()
    hurt = {
        key
        for key, at in offsets.items()
        if any(at < (p + 1) * damage.PAGE and p * damage.PAGE < at + 3020 for p in bad)
    }
    assert {error.offset // damage.PAGE for error in report.errors if error.kind == "unreadable"} == bad
    with open_store(new, "r") as db:
        assert set(offsets) - set(db) <= hurt
        assert all(value == b"v" * 3000 for value in db.values())


def test_progress(path: Path, new: Path) -> None:
    with mmkv.open(path) as db:
        db.put_many((b"%d" % i, b"v") for i in range(5000))
    calls: list[tuple[int, int]] = []
    mmkv.salvage(path, new, progress=lambda done, expected: calls.append((done, expected)))
    assert calls[-1] == (5000, 5000)
    assert calls == sorted(calls)


def test_what_progress_raises_leaves_nothing(path: Path, new: Path) -> None:
    with mmkv.open(path) as db:
        db[b"k"] = b"v"

    def progress(done: int, expected: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        mmkv.salvage(path, new, progress)
    assert list(path.parent.iterdir()) == [path]


def test_what_is_refused(store: Any, path: Path, new: Path, tmp_path: Path) -> None:
    store[b"k"] = b"v"
    with pytest.raises(mmkv.LockTimeoutError, match="open for writing"):
        mmkv.salvage(path, new)
    store.close()
    with mmkv.open(path, "r"):
        assert mmkv.salvage(path, new).records == 1, "who only reads is no matter"
    with pytest.raises(FileExistsError):
        mmkv.salvage(path, new)
    with pytest.raises(FileExistsError):
        mmkv.salvage(path, path)
    with pytest.raises(FileNotFoundError):
        mmkv.salvage(tmp_path / "absent", tmp_path / "other")
    (tmp_path / "text").write_text("no store" * 100_000)
    with pytest.raises(mmkv.NotAStoreError):
        mmkv.salvage(tmp_path / "text", tmp_path / "other")


def test_without_superblock_and_copy_nothing_can_be_told(path: Path, new: Path) -> None:
    with mmkv.open(path) as db:
        db[b"k"] = b"v"
    for at in (0, 0x16000):
        damage.flip(path, at + 60, 3)
    with pytest.raises(mmkv.CorruptStoreError, match="hash seed"):
        mmkv.salvage(path, new)
    assert not new.exists()


@pytest.mark.parametrize("number", range(10))
def test_random_damage(open_store: Any, path: Path, new: Path, rng: random.Random, number: int) -> None:
    """Nothing raises, nothing wrong is stored without a word, and all that was not hit is there."""
    model = damage.make(path, rng, clean=number % 2 == 0, records=150)
    offsets = damage.offsets(path, clean=number % 2 == 0)
    size = path.stat().st_size
    hits = []
    for _ in range(rng.choice((1, 10, 40))):
        at, length = rng.randrange(0x3000, size), rng.choice((1, 16, 4096))
        hits.append((at, at + length))
        damage.write(path, at, damage.noise(rng, min(length, size - at)))
    if number % 2:
        damage.forget_the_boot(path)
    if number % 5 == 4:
        os.truncate(path, size := rng.randrange(0x50000, size))
        hits.append((size, 1 << 47))
    report, contents = salvaged(open_store, path, new)
    named = {error.key for error in report.errors}
    assert all(model.get(key) == value for key, value in contents.items() if key not in named), report

    def was_hit(key: bytes) -> bool:
        start, end = offsets[key], offsets[key] + 12 + len(key) + len(model[key])
        return any(at < end and start < stop for at, stop in hits)

    lost = [key for key in model if key not in contents and not was_hit(key)]
    assert lost == [], report
