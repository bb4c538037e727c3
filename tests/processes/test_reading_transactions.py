"""Transactions that only read, and at whose end somebody stands still in the middle of a change: the locks decide."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mmkv
from tests.processes.live import Live, looking_at, stop_where
from tests.support import Child, until

WRITER = """
    import sys, mmkv
    db = mmkv.open(sys.argv[1], "w", sync="manual", lock_timeout=60)
    print("ready")
    i = 0
    while True:
        db[b"busy"] = b"w" * (i % 700)
        i += 1
"""
KEYS = [b"key %d" % i for i in range(100)]


@pytest.fixture
def db(open_store: Any) -> Any:
    db = open_store(shards=4, sync="manual", lock_timeout=60)
    db.update(dict.fromkeys(KEYS, b"old"))
    return db


@pytest.fixture
def writer(db: Any, path: Path) -> Iterator[Child]:
    with Child(WRITER, path) as child:
        assert child.line() == "ready"
        yield child


@pytest.fixture
def live(db: Any, path: Path) -> Iterator[Live]:
    with looking_at(path) as live:
        yield live


def begin(db: Any, live: Live) -> tuple[mmkv.Transaction, bytes]:
    """A transaction that has read a key of the busy shard and one of another, and the latter."""
    busy = live.shard_of(b"busy")
    theirs = next(key for key in KEYS if live.shard_of(key) == busy)
    other = next(key for key in KEYS if live.shard_of(key) != busy)
    transaction = db.transaction().__enter__()
    assert transaction.get(theirs) == transaction.get(other) == b"old"
    return transaction, other


def stop_in_the_middle(writer: Child, live: Live) -> None:
    stop_where(writer.process.pid, lambda: bool(live.held(writer.process.pid, odd=True)))


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("changed", [False, True])
def test_a_writer_waits_for_the_lock_and_looks_under_it(
    db: Any, writer: Child, live: Live, changed: bool, killed: bool
) -> None:
    transaction, other = begin(db, live)
    if changed:
        db[other] = b"new"
    stop_in_the_middle(writer, live)
    conflicts: list[mmkv.ConflictError] = []

    def commit() -> None:
        try:
            transaction.__exit__(None)
        except mmkv.ConflictError as error:
            conflicts.append(error)

    thread = threading.Thread(target=commit)
    thread.start()
    try:
        until(lambda: live.asks(live.shard_of(b"busy")))
        assert thread.is_alive()
    finally:
        writer.kill() if killed else os.kill(writer.process.pid, signal.SIGCONT)
        thread.join()
    assert bool(conflicts) == changed
    assert not live.held(os.getpid())


def test_a_reader_is_told_who_stands_still(db: Any, writer: Child, live: Live, path: Path) -> None:
    pid = writer.process.pid
    with mmkv.open(path, "r", lock_timeout=0.1) as reader:
        transaction, _ = begin(reader, live)
        stop_in_the_middle(writer, live)
        with pytest.raises(mmkv.LockTimeoutError, match=f"process {pid}") as caught:
            transaction.__exit__(None)
        assert caught.value.pid == pid
        os.kill(pid, signal.SIGCONT)
        transaction, other = begin(reader, live)
        transaction.__exit__(None)
        transaction, other = begin(reader, live)
        db[other] = b"new"
        with pytest.raises(mmkv.ConflictError):
            transaction.__exit__(None)
