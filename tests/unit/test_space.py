"""Space is reused, given back, and little."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import blocks_of, random_bytes

MIB = 1 << 20
LMDB_BYTES_PER_RECORD = 201  # keys of 16 bytes, values of 100, from 100,000 records up


def footprint(path: Path) -> int:
    """The larger of length and blocks."""
    return max(path.stat().st_size, blocks_of(path))


SIZES: dict[str, Callable[[random.Random, int, int], int]] = {
    "small": lambda rng, key, round_: rng.randrange(300),
    "mixed": lambda rng, key, round_: int(20_000 ** rng.random()),
    "large": lambda rng, key, round_: rng.randrange(8_000, 80_000),
    # Each round has one or two classes of its own: each empties while the next one fills.
    "drifting": lambda rng, key, round_: 1500 + round_ * 113 % 600 + key % 7,
}


@pytest.mark.parametrize("sync", [False, True], ids=["no sync", "sync"])
@pytest.mark.parametrize("law", SIZES.keys())
def test_a_hundred_rounds_of_overwriting(open_store: Any, path: Path, rng: random.Random, law: str, sync: bool) -> None:
    db = open_store()
    count = (200 if law == "large" else 1500) // (2 if sync else 1)
    after_3 = most = 0
    for round_ in range(100):
        for key in range(count):
            db[b"%d" % key] = random_bytes(rng, SIZES[law](rng, key, round_))
        if sync:
            db.sync()
        if round_ == 2:
            after_3 = footprint(path)
        elif round_ > 2:
            most = max(most, footprint(path))
            assert most <= 2.5 * after_3, f"round {round_}: {most / after_3:.2f} times the size after round 3"
    assert len(db) == count


@pytest.mark.parametrize("sync", [False, True], ids=["no sync", "sync"])
def test_a_hundred_rounds_of_deleting_and_putting_back(
    open_store: Any, path: Path, rng: random.Random, sync: bool
) -> None:
    db = open_store()
    after_3, count = 0, 500 if sync else 1500
    for round_ in range(100):
        db.put_many((b"%d %d" % (round_, i), random_bytes(rng, rng.randrange(2000))) for i in range(count))
        if round_ == 2:
            after_3 = footprint(path)
        db.delete_many([b"%d %d" % (round_, i) for i in range(count)])
        if sync:
            db.sync()
        if round_ > 2:
            assert footprint(path) <= 2.5 * after_3, f"round {round_}"
    assert len(db) == 0


@pytest.mark.parametrize("how", ["one by one", "delete_many", "clear"])
def test_an_emptied_store_gives_its_blocks_back(open_store: Any, path: Path, rng: random.Random, how: str) -> None:
    db = open_store()
    db.put_many((b"%d" % i, random_bytes(rng, rng.randrange(400))) for i in range(100_000))
    db.put_many((b"large %d" % i, random_bytes(rng, 70_000)) for i in range(200))
    db.sync()
    full = blocks_of(path)
    assert full > 30 * MIB
    if how == "one by one":
        for key in list(db):
            del db[key]
    elif how == "delete_many":
        db.delete_many(list(db))
    else:
        db.clear()
    db.sync()
    assert len(db) == 0
    assert blocks_of(path) <= full // 10, f"{blocks_of(path)} of {full} bytes are left"
    db.put_many((b"%d" % i, random_bytes(rng, rng.randrange(400))) for i in range(100_000))
    db.sync()
    assert len(db) == 100_000
    assert blocks_of(path) <= full


def test_an_emptied_store_stays_small_over_a_reopen(open_store: Any, path: Path) -> None:
    with open_store() as db:
        db.put_many((b"%d" % i, b"x" * 300) for i in range(50_000))
        full = blocks_of(path)
        db.clear()
        db.sync()
    with open_store() as db:
        assert blocks_of(path) <= full // 10
        db[b"k"] = b"v"


@pytest.mark.parametrize("shards", [1, 64])
def test_an_empty_file_is_at_most_a_mebibyte(open_store: Any, path: Path, shards: int) -> None:
    open_store(shards=shards).close()
    assert footprint(path) <= MIB


@pytest.mark.parametrize("count", [100_000, 1_000_000])
@pytest.mark.parametrize("how", ["random", "ascending"])
def test_bytes_per_record_below_those_of_lmdb(
    open_store: Any, path: Path, rng: random.Random, count: int, how: str
) -> None:
    db = open_store(sync="manual")
    if how == "random":
        keys = (rng.randbytes(16) for _ in range(count))
    else:
        keys = (b"%016d" % i for i in range(count))
    assert db.put_many((key, b"v" * 100) for key in keys) == count
    assert len(db) == count
    assert footprint(path) / count < LMDB_BYTES_PER_RECORD
    db.sync()
    assert footprint(path) / count < LMDB_BYTES_PER_RECORD


def test_one_large_value_overwritten(open_store: Any, path: Path) -> None:
    db = open_store()
    for round_ in range(50):
        db[b"k"] = bytes([round_]) * (3 * MIB + round_ * 1000)
        assert footprint(path) <= 12 * MIB
    for round_ in range(20):
        db[b"k"] = bytes([round_]) * (3 * MIB + round_ * 1000)
        db.sync()
        assert footprint(path) <= 16 * MIB
    del db[b"k"]
    db.sync()
    assert blocks_of(path) <= 2 * MIB
