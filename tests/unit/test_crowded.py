"""Keys whose hashes begin alike: tables split until they fit, or until there are no more bits to tell them apart."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mmkv
from tests.crafted import key_of
from tests.processes.live import looking_at


@pytest.fixture
def db(open_store: Any) -> Any:
    return open_store(shards=1, sync="manual")


def alike(path: Path, rng: random.Random, bits: int, rest: int) -> Iterator[bytes]:
    """Keys whose hashes have the first `bits` bits in common, and the last `rest`."""
    with looking_at(path) as live:
        seed = live.seed
    pattern = rng.getrandbits(64)
    free = (1 << 64 - bits) - (1 << rest)
    while True:
        yield key_of(pattern & ~free | rng.getrandbits(64) & free, seed)


@pytest.mark.parametrize("bits", [1, 4, 12])
def test_all_keys_of_a_table_go_to_one_side(db: Any, path: Path, rng: random.Random, bits: int) -> None:
    """In one side of the split table there is nothing; the other is as full as it was, and is split again."""
    keys = alike(path, rng, bits, 0)
    model = {next(keys): b"%d" % i for i in range(1500)}
    for key, value in model.items():
        db[key] = value
    assert dict(db) == model
    assert db.verify().ok
    db.sync()
    copy = path.with_name("copy.mmkv")
    shutil.copyfile(path, copy)
    with mmkv.open(copy, "w") as recovered:
        assert dict(recovered) == model
        assert recovered.verify().ok
    for key in list(model)[::2]:
        del db[key], model[key]
    assert dict(db) == model


def of_bucket(path: Path, rng: random.Random, bits: int, home: int) -> Iterator[bytes]:
    """Keys of one home bucket whose hashes have the first `bits` bits in common, all 0."""
    with looking_at(path) as live:
        seed = live.seed
    last = -(-(home << 24) // 60)
    while True:
        yield key_of(rng.getrandbits(40 - bits) << 24 | last, seed)


@pytest.mark.parametrize("bits", [0, 1, 12])
def test_a_full_table_whose_entries_do_not_fit_in_another_order(
    db: Any, path: Path, rng: random.Random, bits: int
) -> None:
    """Put line by line into an empty table they would not: bucket 59 gives way to bucket 0, now nearer home."""
    model: dict[bytes, bytes] = {}
    for home, count in ((59, 14), (0, 7), (20, 29), (30, 40)):
        for key, _ in zip(of_bucket(path, rng, bits, home), range(count), strict=False):
            db[key] = model[key] = b"of %d" % home
    assert dict(db) == model
    assert db.verify().ok
    for key in model:
        del db[key]
    assert len(db) == 0


def test_a_transaction_of_keys_that_go_to_one_side(db: Any, path: Path, rng: random.Random) -> None:
    keys = alike(path, rng, 6, 0)
    model = {next(keys): b"%d" % i for i in range(1000)}
    with db.transaction() as t:
        for key, value in model.items():
            t[key] = value
    assert dict(db) == model


def in_a_transaction(db: Any, key: bytes) -> None:
    with db.transaction() as t:
        t[b"beside"] = b"x"
        t[key] = b"new"


WRITES: dict[str, Callable[[Any, bytes], object]] = {
    "put": lambda db, key: db.put(key, b"new"),
    "add": lambda db, key: db.add(key, b"new"),
    "transaction": in_a_transaction,
}


@pytest.mark.parametrize("write", WRITES)
def test_more_keys_alike_than_the_index_can_tell_apart(db: Any, path: Path, rng: random.Random, write: str) -> None:
    """All bits that directories go by are the same, and the bucket: an error that says so, and the rest goes on."""
    keys = alike(path, rng, 20, 24)
    stored: dict[bytes, bytes] = {}
    with pytest.raises(mmkv.StoreFullError, match="hashes that begin alike"):
        for key in keys:
            WRITES[write](db, key)
            stored[key] = b"new"
    assert len(stored) >= 7
    assert db.get(key) is None
    if write == "transaction":
        assert db.pop(b"beside") == b"x"
    for other in (b"%d" % i for i in range(2000)):
        db[other] = stored[other] = b"other"
    assert dict(db) == stored
    assert db.verify().ok
    gone = next(iter(stored))
    del db[gone], stored[gone]
    WRITES[write](db, key)
    stored[key] = b"new"
    db.pop(b"beside", None)
    assert dict(db) == stored
