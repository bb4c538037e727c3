"""Recovery: interrupted anywhere, watched, and left to those who may write."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

import mmkv
from tests.corrupt.damage import forget_the_boot, killed_at, make
from tests.support import fork_and_wait

RECORDS = 200_000  # three calls of the progress callback on the way, one before and one after


@pytest.fixture
def large(path: Path, rng: random.Random) -> int:
    """A store to recover, with ghosts; returns the sum of its keys and values."""
    with mmkv.open(path, "n", sync="manual") as db:
        db.put_many((b"%d" % i, b"%d" % (i * i)) for i in range(RECORDS))
        db.sync()
        db.put_many((b"%d" % i, b"of a lost future") for i in range(0, RECORDS, 3))
        db.delete_many(b"%d" % i for i in range(1, RECORDS, 3))
    forget_the_boot(path)
    return sum(i * i for i in range(RECORDS))


def check_large(db: Any, total: int) -> None:
    assert len(db) == RECORDS
    assert sum(map(int, db.values())) == total
    assert db.verify().ok


def test_a_recovery_killed_again_and_again_is_done_again(open_store: Any, path: Path, large: int) -> None:
    for call in (3, 1, 8, 2, 9, 4, 7):
        killed_at(call, lambda progress: mmkv.open(path, "w", sync="manual", progress=progress))
    with open_store(mode="w") as db:
        check_large(db, large)


def test_progress_of_a_recovery(open_store: Any, path: Path, large: int) -> None:
    calls: list[tuple[int, int]] = []
    with open_store(mode="w", progress=lambda done, expected: calls.append((done, expected))) as db:
        check_large(db, large)
    assert len(calls) >= 5
    assert calls[0] == (0, 2 * RECORDS), "each is looked at before anything is changed"
    assert calls[-1] == (2 * RECORDS, 2 * RECORDS)
    assert calls == sorted(calls)
    calls.clear()
    open_store(mode="w", progress=lambda done, expected: calls.append((done, expected)))
    assert calls == [], "there was nothing to recover"


@pytest.mark.parametrize("call", [1, 3, 6, 8])
def test_what_progress_raises_ends_the_open(open_store: Any, path: Path, large: int, call: int) -> None:
    calls = []

    def progress(done: int, expected: int) -> None:
        calls.append(done)
        if len(calls) == call:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        mmkv.open(path, "w", progress=progress)
    with open_store(mode="w") as db:
        check_large(db, large)


def test_read_only_names_the_mode_that_leaves_the_file_alone(path: Path, rng: random.Random) -> None:
    model = make(path, rng, clean=False)
    content, status = path.read_bytes(), path.stat()
    with pytest.raises(mmkv.ReadOnlyError, match='mode "p" opens it without touching the file'):
        mmkv.open(path, "r")
    with mmkv.open(path, "p") as db:
        assert dict(db) == model
        assert db.verify().ok
        db[b"more"] = b"of it"
        db.sync()
    after = path.stat()
    assert path.read_bytes() == content
    assert (after.st_mtime_ns, after.st_ctime_ns) == (status.st_mtime_ns, status.st_ctime_ns)


def test_a_recovery_in_a_private_copy_can_be_watched(path: Path, large: int) -> None:
    calls: list[int] = []
    with mmkv.open(path, "p", progress=lambda done, expected: calls.append(done)) as db:
        check_large(db, large)
    assert calls[-1] == 2 * RECORDS


def test_recovery_wipes_ghosts_for_good(open_store: Any, path: Path, rng: random.Random) -> None:
    """Else a checkpoint with an epoch that is used a second time would bring them back."""
    model = make(path, rng, clean=False)
    with open_store(mode="w", sync="manual") as db:
        for i in range(6):
            db[b"epoch"] = b"%d" % i
            db.sync()
        model[b"epoch"] = b"5"

    forget_the_boot(path)

    def look() -> None:
        with mmkv.open(path, "w", sync="manual") as db:
            assert dict(db) == model

    fork_and_wait(look)
