"""A store on a full disk, or at its max_size: what is stored stays, deleting makes room, nothing else breaks."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mmkv
from tests.full.content import MISSES, SIZES, expect_full, laws_for
from tests.full.disks import IMAGE_BYTES, MIB, Disk

Open = Callable[..., Any]
PLACES = [(kind, law) for kind in (*IMAGE_BYTES, "max_size") for law in laws_for(kind)]


@pytest.fixture
def place(
    request: pytest.FixtureRequest, make_disk: Callable[..., Disk], tmp_path: Path
) -> tuple[Path, dict[str, int]]:
    """Where a store of about 24 MiB ends: a path and the options to open it with."""
    kind = request.param
    if kind == "max_size":
        return tmp_path / "store.mmkv", {"max_size": 24 * MIB}
    return make_disk(kind).path, {}


@pytest.mark.parametrize(("place", "law"), PLACES, indirect=["place"])
def test_filled_emptied_and_filled_again(place: tuple[Path, dict[str, int]], law: str, open_content: Open) -> None:
    path, options = place
    content = open_content(path, law, **options)
    first = content.fill()
    assert first > 10 * MIB
    content.check()
    content.db.sync()
    content.check()
    # Half of it goes, and nearly as much comes.
    content.delete(0.5)
    content.check()
    content.db.sync()
    content.db.sync()
    assert content.fill() >= 0.35 * first  # half of each class: the first one is used up before the last
    content.check()
    content.reopen(**options)
    content.check()
    # All of it goes, while there is no room at all.
    content.fill()
    content.db.clear()
    content.expected.clear()
    content.db.sync()
    assert content.fill() >= 0.9 * first
    content.reopen(**options)
    content.check()
    if options:
        assert path.stat().st_size <= options["max_size"]


def test_nothing_is_written_where_no_block_is_left(disk: Disk, open_content: Open) -> None:
    """Reading, deleting, clear, sync, close and open need no new space: they work on a disk without one free block."""
    content = open_content(disk.path, laws_for(disk.kind)[-1])
    content.fill()
    disk.fill()
    content.check()
    content.db.sync()
    content.delete(0.3)
    content.db.sync()
    content.check()
    disk.fill("brim again")  # whatever was given back is somebody else's by now
    content.reopen()
    content.check()
    content.delete(0.3)
    content.db.close()
    disk.fill("brim at last")
    with mmkv.open(disk.path, "r") as reader:
        content.check(reader)
    content.reopen()
    content.db.clear()
    content.expected.clear()
    content.db.sync()
    content.check()
    content.put(5)
    content.reopen()
    content.check()


@pytest.mark.parametrize("kind", ["ext4", "xfs", "tmpfs"])
def test_what_a_store_has_kept_is_used_when_holes_cannot_be_filled(
    make_disk: Callable[..., Disk], kind: str, open_content: Open
) -> None:
    """Of what is deleted a part stays reserved. The rest is punched, and somebody else takes it."""
    disk = make_disk(kind)
    content = open_content(disk.path, "large")
    content.fill()
    content.delete(0.6)
    content.db.sync()
    stats = content.db.stats()
    kept = stats.free_bytes - stats.hole_bytes
    assert stats.hole_bytes > MIB, "nothing was punched"
    assert kept > MIB // 4, "nothing was kept"
    disk.fill()
    small = content.others("pages")
    assert small.fill() >= 0.4 * kept
    content.expected |= small.expected
    content.check()
    # The room comes back when the other goes.
    disk.remove("brim")
    assert content.fill() > MIB
    content.check()


def test_a_store_that_could_not_be_made_leaves_nothing(disk: Disk) -> None:
    disk.fill()
    before = sorted(os.listdir(disk.directory))
    for mode in "cn":
        error = expect_full(lambda mode=mode: mmkv.open(disk.path, mode))  # type: ignore[misc]
        assert (error.errno, error.filename) == (errno.ENOSPC, str(disk.path))
        assert error.path == str(disk.path)
        assert sorted(os.listdir(disk.directory)) == before
    disk.remove("brim")
    with mmkv.open(disk.path) as db:
        db[b"k"] = b"v"
    disk.fill()
    expect_full(lambda: mmkv.open(disk.path, "n"))
    with mmkv.open(disk.path, "w") as db:
        assert dict(db) == {b"k": b"v"}


def test_an_empty_file_on_a_full_disk_stays_one(disk: Disk) -> None:
    disk.path.touch()
    disk.fill()
    expect_full(lambda: mmkv.open(disk.path))
    with pytest.raises(mmkv.NotAStoreError):
        mmkv.open(disk.path, "w")
    disk.remove("brim")
    with mmkv.open(disk.path) as db:
        db[b"k"] = b"v"


@pytest.mark.parametrize("kind", IMAGE_BYTES)
def test_a_value_that_does_not_fit_takes_no_room(make_disk: Callable[..., Disk], kind: str) -> None:
    """What a failed growth had got is given back, to the last block."""
    disk = make_disk(kind)
    with mmkv.open(disk.path) as db:
        db[b"k"] = b"v"
        db.sync()
        os.sync()
        free, length = disk.free, disk.path.stat().st_size
        expect_full(lambda: db.put(b"large", bytes(40 * MIB)))
        assert b"large" not in db
        os.sync()
        assert disk.free >= free - 65536
        assert disk.path.stat().st_size == length
        db[b"large"] = bytes(16 * MIB)
        assert db.verify().ok


def test_overwriting_needs_room_until_there_is_a_checkpoint(disk: Disk, open_content: Open) -> None:
    """An overwrite is a new record beside the old one: on a full disk it may fail, and then changes nothing."""
    content = open_content(disk.path, laws_for(disk.kind)[-1])
    content.fill()
    content.db.sync()
    failed = 0
    for key, value in list(content.expected.items()):
        new = bytes(reversed(value))
        try:
            content.db[key] = new
        except mmkv.StoreFullError:
            failed += 1
            assert content.db[key] == value
        else:
            content.expected[key] = new
    assert failed
    content.check()
    # Once something went, a checkpoint is all that is needed from one overwrite to the next.
    content.delete(0.1)
    for key, value in list(content.expected.items())[:20]:
        content.db.sync()
        content.db[key] = content.expected[key] = bytes(len(value))
    content.check()


def test_many_at_once(disk: Disk, open_content: Open) -> None:
    """put_many and update raise like a single put; what went in before is there."""
    db = open_content(disk.path).db
    large = disk.kind == "btrfs"

    def pairs() -> Iterator[tuple[bytes, bytes]]:
        for i in range(10**6):
            yield b"%d" % i, b"%d" % i * (20_000 if large else 40)

    for number, call in enumerate((db.put_many, db.update)):
        error = expect_full(lambda call=call: call(pairs()))  # type: ignore[misc]
        assert str(disk.path) in str(error)
        count = len(db)
        assert count > 20
        for i in range(count):
            assert db[b"%d" % i] == b"%d" % i * (20_000 if large else 40), f"call {number}"
        assert db.verify().ok
    assert db.delete_many([b"%d" % i for i in range(count // 2)]) == count // 2
    db.sync()
    assert db.put_many([(b"%d" % i, b"again") for i in range(count // 10)]) == count // 10
    assert db.verify().ok


def test_index_and_heap_grow_alike(tmp_path: Path) -> None:
    """Records as short as can be: the index takes more room than what it leads to, and is what meets the limit."""
    path, limit = tmp_path / "store.mmkv", 6 * MIB
    with mmkv.open(path, max_size=limit) as db:
        stored = missed = 0
        while missed < MISSES:
            try:
                db[b"%d" % stored] = b""
                stored += 1
            except mmkv.StoreFullError:
                missed += 1
        stats = db.stats()
        assert stats.index_bytes > MIB
        assert path.stat().st_size <= limit
        assert len(db) == stored
        assert all(b"%d" % i in db for i in range(stored))
        assert db.verify().ok
        db.delete_many([b"%d" % i for i in range(0, stored, 2)])
        db.sync()
        again = 0
        with pytest.raises(mmkv.StoreFullError):
            for i in range(0, stored, 2):
                db[b"again %d" % i] = b""
                again += 1
        assert again >= 0.4 * stored / 2
        assert db.verify().ok


def test_sizes_are_of_every_kind(rng: random.Random) -> None:
    """The laws above reach all size classes and values with extents of their own."""
    sizes = [SIZES["all classes"](rng) for _ in range(10_000)]
    assert min(sizes) < 10
    assert max(sizes) > 16_384
