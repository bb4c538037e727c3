"""sync, epochs, stats, verify."""

from __future__ import annotations

import dataclasses
import os
import random
import re
import struct
from pathlib import Path
from typing import Any

import pytest

import mmkv
from tests.support import StoreOpener, random_bytes

# -- epochs -----------------------------------------------------------------------------------------------------------


def test_sync_makes_durable_what_was_written(store: Any) -> None:
    epoch = store.epoch
    assert store.durable_epoch < epoch
    store[b"k"] = b"v"
    assert store.epoch == epoch, "only a checkpoint moves it"
    made = store.sync()
    assert made >= epoch
    assert store.durable_epoch == made
    assert store.epoch == made + 1


def test_epochs_only_grow(open_store: Any) -> None:
    last = 0
    for _ in range(3):
        with open_store() as db:
            for i in range(5):
                db[b"k"] = b"%d" % i
                made = db.sync()
                assert made > last
                last = made
            assert db.epoch > last


def test_sync_without_waiting_promises_nothing_and_breaks_nothing(store: Any) -> None:
    store.put_many((b"%d" % i, b"x" * 100) for i in range(10_000))
    durable = store.durable_epoch
    assert isinstance(store.sync(wait=False), int)
    assert store.durable_epoch >= durable
    store[b"k"] = b"v"
    assert store.sync(wait=True) == store.durable_epoch


def test_epochs_are_those_of_the_file_not_of_the_handle(open_store: Any) -> None:
    one, two = open_store(), open_store()
    one[b"k"] = b"v"
    made = one.sync()
    assert two.durable_epoch == made
    assert two.epoch == one.epoch


def test_sync_of_nothing(store: Any) -> None:
    first = store.sync()
    second = store.sync()
    assert second >= first
    assert store.durable_epoch == second


# -- stats ------------------------------------------------------------------------------------------------------------


def test_stats(store: Any, path: Path) -> None:
    empty = store.stats()
    assert dataclasses.is_dataclass(empty)
    assert (empty.records, empty.data_bytes) == (0, 0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        empty.records = 1
    store.put_many((b"%04d" % i, b"v" * 96) for i in range(5000))
    store[b"huge"] = b"x" * 500_000
    full = store.stats()
    assert full.records == 5001
    assert full.data_bytes == 5000 * 100 + 500_004
    assert full.file_bytes == path.stat().st_size
    assert full.shards == 64
    assert full.attached == 1
    assert full.epoch == store.epoch
    assert full.durable_epoch == store.durable_epoch
    store.sync()
    assert store.stats().checkpoints == full.checkpoints + 1
    del store[b"huge"]
    assert store.stats().data_bytes == 5000 * 100


def test_stats_as_dict_and_text(store: Any) -> None:
    stats = store.stats()
    as_dict = stats.as_dict()
    assert set(as_dict) == {field.name for field in dataclasses.fields(stats)}
    assert as_dict["records"] == 0
    assert all(isinstance(name, str) for name in as_dict)
    assert "records" in str(stats)


def test_stores_are_told_apart(open_store: Any) -> None:
    one, two = open_store("one").stats(), open_store("two").stats()
    assert one.uuid != two.uuid
    assert re.fullmatch("[0-9a-f]{32}", one.uuid)


# -- verify -----------------------------------------------------------------------------------------------------------


def test_verify_of_a_sound_store(store: Any) -> None:
    store.put_many((b"%d" % i, b"v" * (i % 3000)) for i in range(3000))
    store[b"large"] = b"x" * 100_000
    report = store.verify()
    assert report.ok is True
    assert report.records == 3001
    assert report.errors == []
    assert "3,001" in str(report) or "3001" in str(report)


def test_verify_of_an_empty_store(store: Any) -> None:
    report = store.verify()
    assert (report.ok, report.records, report.errors) == (True, 0, [])


def test_verify_reports_its_progress(store: Any) -> None:
    store.put_many((b"%d" % i, b"v" * 100) for i in range(50_000))
    calls: list[tuple[int, int]] = []
    assert store.verify(progress=lambda done, total: calls.append((done, total))).ok
    assert calls
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert all(0 <= done <= total for done, total in calls)


def test_an_error_in_progress_comes_through(store: Any) -> None:
    store.put_many((b"%d" % i, b"v" * 100) for i in range(50_000))

    def fail(done: int, total: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.verify(progress=fail)
    assert store.verify().ok


@pytest.mark.parametrize("mode", ["r", "w"])
@pytest.mark.parametrize("size", [100, 2000, 12_000, 100_000])
def test_verify_finds_a_flipped_bit_and_names_the_key(open_store: Any, path: Path, mode: str, size: int) -> None:
    marker = b"<this is the value that rots>"
    with open_store() as db:
        db.put_many((b"%d" % i, b"v" * 100) for i in range(500))
        db[b"the key"] = marker + b"y" * (size - len(marker))
    content = path.read_bytes()
    assert content.count(marker) == 1
    at = content.index(marker) + 7
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(bytes([content[at] ^ 0x04]))
    open_store.expect_damage(path)
    with mmkv.open(path, mode, sync="manual") as db:
        report = db.verify()
        assert not report.ok
        assert len(report.errors) == 1
        kind, key, offset, text = report.errors[0]
        assert isinstance(kind, str)
        assert key == b"the key"
        assert 0 < offset <= at < offset + size + 100
        assert text
        assert "the key" in str(report)
        assert db[b"1"] == b"v" * 100, "the others are as they were"


def test_every_flipped_bit_of_a_record_is_found(open_store: Any, path: Path) -> None:
    """Of checksum, lengths, flags, key and value: 12 bytes of header, the key, the value."""
    with open_store() as db:
        db.put_many((b"%d" % i, b"v" * 50) for i in range(50))
        db[b"kkkkkkkk"] = b"WWWWWWWW"
    content = path.read_bytes()
    start = content.index(b"kkkkkkkkWWWWWWWW") - 12
    open_store.expect_damage(path)
    for bit in range(28 * 8):
        with open(path, "r+b") as file:
            file.seek(start + bit // 8)
            file.write(bytes([content[start + bit // 8] ^ 1 << bit % 8]))
        with mmkv.open(path, "r") as db:
            assert not db.verify().ok, f"bit {bit} of the record"
        path.write_bytes(content)
    with mmkv.open(path, "r") as db:
        assert db.verify().ok


def test_random_flips_never_crash(open_store: Any, path: Path, rng: random.Random) -> None:
    """Anywhere in the file: opening and reading raise an mmkv.Error, or answer, and not wrongly if verify() passes."""
    model = {b"%d" % i: random_bytes(rng, rng.choice((5, 300, 20_000))) for i in range(200)}
    with open_store() as db:
        db.update(model)
    content = path.read_bytes()
    open_store.expect_damage(path)
    used = [at for at in range(0, len(content), 8) if content[at : at + 8] != bytes(8)]
    for _ in range(150):
        at = rng.choice(used) + rng.randrange(8)
        damaged = bytearray(content)
        damaged[at] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        sound = True
        try:
            with mmkv.open(path, "w", sync="manual") as db:
                sound = db.verify().ok
                read = dict(db)
                got = db.get_many(model)
            if sound:
                assert read == model, f"flipped a bit of byte {at}"
                assert got == list(model.values()), f"flipped a bit of byte {at}"
        except mmkv.Error:
            pass
        except KeyError:  # dict() asks for a key that iteration gave: a damaged index may not lead there
            assert not sound, f"flipped a bit of byte {at}"


def test_the_fixture_of_the_tests_fails_for_a_damaged_store(tmp_path: Path) -> None:
    """The check after every test is worth something."""
    opener = StoreOpener(tmp_path)
    with opener() as db:
        db[b"key"] = b"precious value"
    content = (tmp_path / "store.mmkv").read_bytes()
    (tmp_path / "store.mmkv").write_bytes(content.replace(b"precious value", b"precious valve"))
    with pytest.raises(AssertionError, match="verify"):
        opener.finish()


def test_a_copy_of_a_live_file_is_a_checkpoint_or_refused(open_store: Any, path: Path, tmp_path: Path) -> None:
    db = open_store(sync="manual")
    db.put_many((b"%d" % i, b"old") for i in range(2000))
    db.sync()
    checkpoint = dict(db)
    db.put_many((b"%d" % i, b"new, and longer") for i in range(0, 2000, 3))
    db.delete_many(b"%d" % i for i in range(1, 2000, 3))
    copied = tmp_path / "copy.mmkv"
    copied.write_bytes(path.read_bytes())
    assert open_store("copy.mmkv") == checkpoint


# -- hash -------------------------------------------------------------------------------------------------------------


def test_each_store_has_a_hash_seed_of_its_own(open_store: Any, tmp_path: Path) -> None:
    seeds = set()
    for name in ("one", "two", "three"):
        open_store(name).close()
        seeds.add(struct.unpack_from("<Q", (tmp_path / name).read_bytes(), 56)[0])
    assert len(seeds) == 3


def test_no_file_is_left_beside_the_store(store: Any, tmp_path: Path) -> None:
    store[b"k"] = b"v"
    store.sync()
    store.close()
    assert os.listdir(tmp_path) == ["store.mmkv"]
