"""The iteration promise: a key present from start to end comes exactly once, whatever else happens meanwhile."""

from __future__ import annotations

import collections
import random
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support import Child

STAY = [b"stay %d" % i for i in range(3000)]
STAY_SET = set(STAY)


@pytest.fixture(params=[1, 64], ids=["1 shard", "64 shards"])
def filled(request: pytest.FixtureRequest, open_store: Any) -> Any:
    db = open_store(shards=request.param)
    db.put_many((key, b"v") for key in STAY)
    return db


def check(seen: list[bytes], allowed_more: str = "come") -> None:
    """Every key of STAY exactly once, and nothing that never was."""
    counts = collections.Counter(seen)
    assert [key for key in STAY if counts[key] != 1] == []
    assert [key for key in counts if key not in STAY_SET and not key.startswith(allowed_more.encode())] == []


VIEWS = {"keys": iter, "items": lambda db: (key for key, _ in db.items())}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
@pytest.mark.parametrize("work", ["overwrite", "insert", "delete", "grow", "shrink", "all"])
def test_changes_between_the_steps(filled: Any, rng: random.Random, view: Any, work: str) -> None:
    come = [b"come %d" % i for i in range(6000)]
    if work in ("delete", "shrink", "all"):
        filled.put_many((key, b"w") for key in come)
    seen = []
    for step, key in enumerate(view(filled)):
        seen.append(key)
        if work in ("overwrite", "all"):
            filled[rng.choice(STAY)] = b"x" * rng.randrange(300)
        if work in ("insert", "all"):
            filled[b"come new %d" % step] = b"x" * rng.randrange(300)
        if work in ("delete", "all"):
            filled.delete(rng.choice(come))
        if work == "grow" and step % 100 == 50:  # splits, many at a time
            filled.put_many((b"come grow %d %d" % (step, i), b"y" * 100) for i in range(500))
        if work == "shrink" and step % 100 == 50:
            filled.delete_many(come[-300:])
            del come[-300:]
            filled.sync(wait=True) if step % 1000 == 50 else None
    check(seen)


def test_a_value_comes_as_one_of_those_it_had(filled: Any) -> None:
    """Each item is a key with a value that it had at some moment, never another's."""
    filled.update((key, b"%d " % i + key) for i, key in enumerate(STAY))
    step = 0
    for key, value in filled.items():
        assert value.split(b" ", 1)[1] == key
        filled[STAY[step]] = b"%d " % step + STAY[step]
        step += 1
    assert step == len(STAY)


def test_deleting_each_key_as_it_comes(filled: Any) -> None:
    seen = []
    for key in filled:
        seen.append(key)
        del filled[key]
    check(seen)
    assert len(filled) == 0


def test_the_same_while_clearing(filled: Any) -> None:
    seen = 0
    for _ in filled:
        seen += 1
        if seen == 10:
            filled.clear()
    assert 10 <= seen <= len(STAY)
    assert len(filled) == 0


def test_keys_that_return_during_the_iteration_come_at_most_once_a_life(filled: Any) -> None:
    """Deleted and put back at every step: at most once each, for the order is that of the hash."""
    counts: collections.Counter[bytes] = collections.Counter()
    for step, key in enumerate(filled):
        counts[key] += 1
        other = STAY[step * 7 % len(STAY)]
        filled.delete(other)
        filled[other] = b"again"
    assert max(counts.values()) == 1
    assert len(counts) == len(STAY)


def churn(db: Any, rng: random.Random, stop: Any) -> None:
    """Insert, delete and overwrite until told to stop, with growth by thousands and back."""
    while not stop():
        batch = [b"come %d" % rng.randrange(20_000) for _ in range(2000)]
        db.put_many((key, b"z" * rng.randrange(200)) for key in batch)
        for key in rng.sample(STAY, 200):
            db[key] = b"n" * rng.randrange(400)
        db.delete_many(batch)


def test_changes_in_another_thread(filled: Any, rng: random.Random) -> None:
    stop = threading.Event()
    worker = threading.Thread(target=churn, args=(filled, rng, stop.is_set))
    worker.start()
    try:
        for round_ in range(100):
            check([key for key, _ in filled.items()] if round_ % 2 else list(filled))
    finally:
        stop.set()
        worker.join()


def test_changes_in_another_process(filled: Any, path: Path) -> None:
    code = """
    import random, sys, mmkv
    from mmkv import open as open_store
    stay = [b"stay %d" % i for i in range(3000)]
    rng = random.Random(sys.argv[2])
    with open_store(sys.argv[1]) as db:
        print("ready")
        while True:
            batch = [b"come %d" % rng.randrange(20_000) for _ in range(2000)]
            db.put_many((key, b"z" * rng.randrange(200)) for key in batch)
            for key in rng.sample(stay, 200):
                db[key] = b"n" * rng.randrange(400)
            db.delete_many(batch)
    """
    with Child(code, path, 1) as child:
        assert child.line() == "ready"
        before = filled.stats().data_bytes
        rounds = changed = 0
        while rounds < 100 or not (changed or rounds > 5000):
            check([key for key, _ in filled.items()] if rounds % 2 else list(filled))
            rounds += 1
            changed += filled.stats().data_bytes != before
        assert changed, "the other process did nothing, so nothing was proved"
