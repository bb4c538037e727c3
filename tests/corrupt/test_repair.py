"""Repair: what is rebuilt, what is said to be lost, and what is refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

import mmkv
from tests.corrupt import damage
from tests.format.reader import VALUE, Extent, read_current
from tests.support import run_python


def repaired(open_store: Any, path: Path) -> tuple[mmkv.Report, dict[bytes, bytes]]:
    """Repair, and what is there afterwards, sound and clean."""
    report = mmkv.repair(path)
    with mmkv.open(path, "r") as db:  # refuses what needs recovery
        contents = dict(db)
    assert len(contents) == report.records
    open_store.check_later(path)
    return report, contents


@pytest.mark.parametrize("clean", [True, False])
def test_everything_volatile_is_made_anew(open_store: Any, path: Path, rng: random.Random, clean: bool) -> None:
    model = damage.make(path, rng, clean=clean)
    for start, end in damage.volatile_areas(path):
        damage.write(path, start, damage.noise(rng, end - start))
    if not clean:
        damage.forget_the_boot(path)
    report, contents = repaired(open_store, path)
    assert report.errors == []
    assert contents == model


def live_words(extents: list[Extent], zones: list[Any]) -> list[tuple[int, int]]:
    """The checked ranges of the descriptors of live extents."""
    ranges = []
    for extent in extents:
        zone = next(zone for zone in zones if zone.offset <= extent.offset < zone.end)
        at = zone.offset + zone.descriptors + 32 * ((extent.offset - zone.offset) // damage.PAGE)
        ranges += [(at, 24), (at + 30, 2)]
    return ranges


def test_a_flipped_bit_of_a_descriptor_is_set_right(open_store: Any, path: Path, rng: random.Random) -> None:
    model = damage.make(path, rng, clean=True, records=100)
    contents = read_current(path)
    content = path.read_bytes()
    mended = 0
    ranges = live_words(contents.extents, contents.zones)
    for _ in range(60):
        path.write_bytes(content)
        start, length = rng.choice(ranges)
        damage.flip(path, start + rng.randrange(length), rng.randrange(8))
        try:
            report, found = repaired(open_store, path)
        except mmkv.CorruptStoreError:
            continue  # two bits would explain it: one flip in some hundreds
        assert found == model
        assert len(report.errors) >= 1
        mended += 1
    assert mended > 50


@pytest.mark.parametrize("clean", [True, False])
def test_damaged_records_are_named_and_left_out(open_store: Any, path: Path, rng: random.Random, clean: bool) -> None:
    model = damage.make(path, rng, clean=clean)
    hurt = [key for key in rng.sample(sorted(model), 40) if len(model[key]) > 20][:10]
    offsets = damage.offsets(path, clean=clean)
    for key in hurt:
        damage.flip(path, offsets[key] + 12 + len(key) + rng.randrange(len(model[key])), rng.randrange(8))
    if not clean:
        with pytest.raises(mmkv.CorruptStoreError, match=r"--repair.*salvage"):
            mmkv.open(path, "w")
    report, contents = repaired(open_store, path)
    assert sorted(error.key or b"" for error in report.errors) == sorted(hurt)
    assert {error.kind for error in report.errors} == {"record"}
    assert contents == {key: value for key, value in model.items() if key not in hurt}
    again, contents = repaired(open_store, path)
    assert again.ok
    assert contents == {key: value for key, value in model.items() if key not in hurt}


@pytest.mark.parametrize("at", [0, 0x16000])
def test_superblock_and_copy_stand_in_for_each_other(open_store: Any, path: Path, rng: random.Random, at: int) -> None:
    model = damage.make(path, rng, clean=True)
    content = path.read_bytes()
    damage.write(path, at, damage.noise(rng, damage.PAGE))
    if at == 0:
        with pytest.raises(mmkv.CorruptStoreError, match="copy"):
            mmkv.open(path, "c")
    else:
        with mmkv.open(path, "r") as db:
            assert [error.kind for error in db.verify().errors] == ["superblock"]
    report, contents = repaired(open_store, path)
    assert [error.kind for error in report.errors] == ["superblock"]
    assert contents == model
    assert path.read_bytes()[: damage.PAGE] == content[: damage.PAGE]
    assert path.read_bytes()[0x16000:0x17000] == content[: damage.PAGE]


@pytest.mark.parametrize("same_boot", [True, False])
def test_the_newer_slot_of_a_closed_store_can_be_made_anew(
    open_store: Any, path: Path, rng: random.Random, same_boot: bool
) -> None:
    model = damage.make(path, rng, clean=True)
    if not same_boot:
        damage.forget_the_boot(path)
    newer = max(damage.SLOTS, key=lambda at: damage.slot_epoch(path, at))
    damage.flip(path, newer + rng.randrange(128), rng.randrange(8))
    report, contents = repaired(open_store, path)
    assert [error.kind for error in report.errors] == ["slot"]
    assert contents == model


def test_a_slot_whose_flush_failed_is_not_damaged(open_store: Any, path: Path, library: Path) -> None:
    model = damage.leave_a_failed_slot(path, library)
    report, contents = repaired(open_store, path)
    assert report.ok
    assert contents == model


@pytest.mark.parametrize("clean", [True, False])
def test_a_zone_entry_is_made_anew_from_its_neighbours(
    open_store: Any, path: Path, rng: random.Random, clean: bool
) -> None:
    model = damage.make(path, rng, clean=clean)
    zones = read_current(path).zones
    assert len(zones) > 3
    kept = path.read_bytes()
    for zone in zones:
        path.write_bytes(kept)
        damage.write(path, damage.zone_entry(zone.number), damage.noise(rng, 32))
        if not clean:
            damage.forget_the_boot(path)
        report, contents = repaired(open_store, path)
        if zone.end <= damage.checkpoint_length(kept):
            assert [error.kind for error in report.errors] == ["zone"]
        assert contents == model


def test_what_cannot_be_named_is_refused(path: Path, rng: random.Random) -> None:
    """A page of descriptors that is gone: nothing says what was there, but that something is missing."""
    model = damage.make(path, rng, clean=True)
    zone = damage.heap_zones(path)[0]
    damage.write(path, zone.offset + zone.descriptors, bytes(32 * zone.pages))
    content = path.read_bytes()
    with pytest.raises(mmkv.CorruptStoreError, match=r"only .* are there.*salvage"):
        mmkv.repair(path)
    for at in (0, *damage.SLOTS, 0x16000):
        assert path.read_bytes()[at : at + damage.PAGE] == content[at : at + damage.PAGE]
    salvaged = path.with_name("new.mmkv")
    report = mmkv.salvage(path, salvaged)
    with mmkv.open(salvaged, "r") as db:
        damage.check_scanned(report, dict(db), model)


def test_both_slots_gone_is_refused(path: Path, rng: random.Random) -> None:
    damage.make(path, rng, clean=False)
    for at in damage.SLOTS:
        damage.write(path, at, damage.noise(rng, damage.PAGE))
    damage.forget_the_boot(path)
    damage.write(path, 0x3000 + 88, bytes(4))
    with pytest.raises(mmkv.CorruptStoreError, match=r"no valid checkpoint slot.*salvage"):
        mmkv.repair(path)


@pytest.mark.parametrize("mode", ["w", "r"])
def test_a_repair_wants_to_be_alone(store: Any, path: Path, mode: str) -> None:
    store[b"k"] = b"v"
    if mode == "r":
        store.close()
    with mmkv.open(path, mode), pytest.raises(mmkv.LockTimeoutError, match="repair"):
        mmkv.repair(path)


def test_nothing_is_lost_of_what_killed_processes_wrote_in_this_boot(open_store: Any, path: Path) -> None:
    run_python(
        """
        import os, sys, mmkv
        db = mmkv.open(sys.argv[1], sync="manual")
        db.put_many((b"%d" % i, b"durable") for i in range(3000))
        db.sync()
        db.put_many((b"%d" % i, b"in memory" * 30) for i in range(1000, 4000))
        os._exit(0)
        """,
        path,
    )
    for zone in read_current(path).zones:
        if zone.kind != 1:
            damage.write(path, zone.offset, b"\xff" * (zone.end - zone.offset))
    report, contents = repaired(open_store, path)
    assert report.ok
    assert contents == {b"%d" % i: b"durable" if i < 1000 else b"in memory" * 30 for i in range(4000)}


def test_what_a_killed_writer_had_half_done_is_rolled_back(open_store: Any, path: Path) -> None:
    damage.leave_half_done(path)
    report, contents = repaired(open_store, path)
    assert report.ok
    assert contents == {b"durable": b"1", b"in memory": b"2"}


def test_a_damaged_descriptor_of_a_dead_extent_is_wiped(open_store: Any, path: Path) -> None:
    """It holds nothing, but verify() looks at it as well."""
    with open_store() as db:
        db.update({b"small": b"y", b"large": b"x" * 50_000})
        db.sync()
        extent = next(extent for extent in read_current(path).extents if extent.type == VALUE)
        zone = next(zone for zone in read_current(path).zones if zone.offset <= extent.offset < zone.end)
        at = zone.offset + zone.descriptors + 32 * ((extent.offset - zone.offset) // damage.PAGE)
        del db[b"large"]
    damage.write(path, at + 20, b"\xff\xff")  # the shard's number
    with mmkv.open(path, "r") as db:
        assert [error.kind for error in db.verify().errors] == ["descriptor"]
    report, contents = repaired(open_store, path)
    assert [error.kind for error in report.errors] == ["descriptor"]
    assert contents == {b"small": b"y"}


@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize("clean", [True, False])
def test_a_killed_repair_is_begun_again(
    open_store: Any, path: Path, rng: random.Random, clean: bool, call: int
) -> None:
    model = damage.make(path, rng, clean=clean)
    offsets = damage.offsets(path, clean=clean)
    hurt = rng.sample(sorted(model), 8)
    for key in hurt:
        damage.flip(path, offsets[key] + 12 + rng.randrange(len(key)), rng.randrange(8))
    for _ in range(2):
        damage.killed_at(call, lambda progress: mmkv.repair(path, progress))
    _, contents = repaired(open_store, path)
    assert contents == {key: value for key, value in model.items() if key not in hurt}


def test_what_progress_raises_ends_the_repair(open_store: Any, path: Path, rng: random.Random) -> None:
    model = damage.make(path, rng, clean=True)

    def progress(done: int, expected: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        mmkv.repair(path, progress)
    _, contents = repaired(open_store, path)
    assert contents == model


@pytest.mark.parametrize("number", range(12))
def test_random_damage(open_store: Any, path: Path, rng: random.Random, number: int) -> None:
    """Repaired, the store is sound and has all that was not named; or it was refused, and salvage finds the rest."""
    model = damage.make(path, rng, clean=number % 2 == 0, records=150)
    size = path.stat().st_size
    for _ in range(rng.choice((1, 10, 60))):
        if rng.random() < 0.8:
            damage.flip(path, rng.randrange(0x18000, size), rng.randrange(8))
        else:
            at = rng.randrange(0x18, size // damage.PAGE) * damage.PAGE
            damage.write(path, at, damage.noise(rng, rng.choice((16, damage.PAGE))))
    try:
        report, contents = repaired(open_store, path)
    except mmkv.CorruptStoreError:
        salvaged = path.with_name("new.mmkv")
        report = mmkv.salvage(path, salvaged)
        with mmkv.open(salvaged, "r") as db:
            contents = dict(db)
    unnamed = sum(error.key not in model for error in report.errors)  # damaged keys are no names
    unnamed += sum(int(error.text.split()[0]) for error in report.errors if error.kind == "missing")
    missing = [key for key in damage.undamaged(report, model) if key not in contents]
    assert len(missing) <= unnamed, report
    named = {error.key for error in report.errors}
    assert all(model.get(key) == value for key, value in contents.items() if key not in named), report
