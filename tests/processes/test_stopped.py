"""Processes that are stopped (SIGSTOP, a frozen container, a debugger): alive, and in possession of what they hold."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import signal
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mmkv
from tests import shim
from tests.processes.live import (
    ALLOCATOR,
    ATTACH_BYTE,
    CHECKPOINT_LOCK,
    F_OFD_SETLK,
    asleep,
    lock_bytes,
    looking_at,
    ptrace_where,
    stop_where,
)
from tests.processes.programs import run_program
from tests.support import Child, until

KEYS = [b"key %d" % i for i in range(400)]

WRITER = """
    import sys, mmkv
    db = mmkv.open(sys.argv[1], sync="manual", lock_timeout=60)
    print("ready")
    i = 0
    while True:
        db[b"key %d" % (i % 400)] = b"%d " % i + b"w" * (i % 300)
        i += 1
"""

ALLOCATING = """
    import sys, mmkv
    db = mmkv.open(sys.argv[1], sync="manual")
    print("ready")
    while True:
        db[b"large"] = b"x" * 40_000
        del db[b"large"]
"""


@pytest.fixture
def filled(open_store: Any) -> Any:
    db = open_store(shards=4, sync="manual", lock_timeout=0.1)
    db.update(dict.fromkeys(KEYS, b"old"))
    return db


@pytest.fixture
def writer(filled: Any, path: Path) -> Iterator[Child]:
    with Child(WRITER, path) as child:
        assert child.line() == "ready"
        yield child


def test_a_writer_stopped_in_the_middle_blocks_its_shard_and_is_named(filled: Any, writer: Child, path: Path) -> None:
    pid = writer.process.pid
    with looking_at(path) as live, mmkv.open(path, "r", lock_timeout=0.1) as reader:
        stop_where(pid, lambda: bool(live.held(pid, odd=True)))
        (shard,) = live.held(pid)
        for key in KEYS:
            if live.shard_of(key) == shard:
                continue
            filled[key] = b"new"
            assert filled[key] == reader[key] == b"new"
            assert filled.pop(key) == b"new"
        assert len(filled) >= 0
        theirs = next(key for key in KEYS if live.shard_of(key) == shard)
        calls = [
            lambda: filled.put(theirs, b"new"),
            lambda: filled.pop(theirs),
            lambda: filled[theirs],
            lambda: theirs in filled,
            lambda: reader[theirs],
            lambda: list(filled),
            lambda: list(reader),
            lambda: filled.sync(),
        ]
        for call in calls:
            with pytest.raises(mmkv.LockTimeoutError, match=f"process {pid}") as caught:
                call()
            assert caught.value.pid == pid
        os.kill(pid, signal.SIGCONT)
        filled[theirs] = b"new"
        writer.kill()
    assert filled.sync() == filled.durable_epoch


def test_readers_do_not_wait_for_a_lock_that_is_only_held(filled: Any, writer: Child, path: Path) -> None:
    """Between taking the lock and the first change, and after the last, there is nothing that a reader waits for."""
    with looking_at(path) as live, mmkv.open(path, "r", lock_timeout=0.1) as reader:
        stop_where(writer.process.pid, lambda: live.held(writer.process.pid) != live.held(writer.process.pid, odd=True))
        for db in (filled, reader):
            assert all(db[key] for key in KEYS)
            assert sorted(db) == sorted(KEYS)
        writer.kill()


class Waiting(threading.Thread):
    """A put in a thread of its own, which has to wait; what became of it is in `outcome`."""

    def __init__(self, db: Any, key: bytes) -> None:
        super().__init__()
        self.db, self.key = db, key
        self.outcome: object = None
        self.start()

    def run(self) -> None:
        try:
            self.db[self.key] = b"of the one who waited"
            self.outcome = "done"
        except mmkv.Error as error:
            self.outcome = error


@pytest.mark.parametrize("end", [signal.SIGCONT, signal.SIGKILL])
@pytest.mark.parametrize("odd", [False, True])
def test_who_waits_for_a_stopped_writer_goes_on(
    filled: Any, writer: Child, path: Path, end: int, odd: bool, open_store: Any
) -> None:
    """Whether it goes on or dies; with a timeout so long that it is not what ends the wait."""
    pid = writer.process.pid
    patient = open_store(mode="w", sync="manual", lock_timeout=600)
    with looking_at(path) as live:
        stop_where(pid, lambda: bool(live.held(pid, odd=odd)))
        (shard,) = live.held(pid)
        key = next(key for key in KEYS if live.shard_of(key) == shard)
        waiting = Waiting(patient, key)
        until(lambda: live.asks(shard))
        os.kill(pid, end)
        waiting.join()
        assert waiting.outcome == "done"
        writer.kill()
    if end == signal.SIGKILL:
        assert patient[key] == b"of the one who waited"


def test_a_stopped_allocator_holds_up_those_who_want_pages(filled: Any, path: Path, open_store: Any) -> None:
    """Whoever needs no pages goes on, in all shards; those who do are told of the one who holds them up."""
    with Child(ALLOCATING, path) as writer, looking_at(path) as live:
        assert writer.line() == "ready"
        pid = writer.process.pid
        assert filled.delete_many(KEYS[300:]) == 100  # room in each shard, so that no page is wanted
        stop_where(pid, lambda: live.owner(ALLOCATOR) == pid and not live.held(pid))
        for key in KEYS[:300]:
            filled[key] = b"new"
            assert filled[key] == b"new"
        with pytest.raises(mmkv.LockTimeoutError) as caught:
            filled[b"of mine"] = b"x" * 40_000
        assert caught.value.pid == pid
        # Those who wait for one who waits for the allocator, and holds a shard meanwhile: chunks of a new size.
        patient = open_store(mode="w", sync="manual", lock_timeout=600)
        shard = live.shard_of(KEYS[0])
        new = {b"new %d" % i: b"x" * 200 for i in range(400) if live.shard_of(b"new %d" % i) == shard}
        waiting = threading.Thread(target=patient.update, args=(new,), daemon=True)
        waiting.start()
        until(lambda: all(live.owner(live.lock_of(shard)) == os.getpid() for _ in range(200)))
        with pytest.raises(mmkv.LockTimeoutError) as caught:
            filled[KEYS[0]] = b"new"
        assert caught.value.pid == pid
        assert all(filled[key] == b"new" for key in KEYS[:300]), "reading needs no lock"
        writer.kill()
        waiting.join()
        assert patient.items() >= new.items()
        filled[b"of mine"] = b"x" * 40_000


COMING_AND_GOING = """
    import sys, mmkv
    print("ready")
    while True:
        mmkv.open(sys.argv[1], sys.argv[2]).close()
"""


@pytest.mark.parametrize("theirs", ["w", "r"])
def test_who_is_stopped_while_opening_or_closing_is_named(
    filled: Any, path: Path, open_store: Any, theirs: str
) -> None:
    """To who opens, for writing or reading, or closes; and nobody else waits."""
    with Child(COMING_AND_GOING, path, theirs) as child, looking_at(path) as live:
        assert child.line() == "ready"
        pid = child.process.pid
        leaving = open_store(mode="w", sync="manual", lock_timeout=0.1)
        leaving[b"last"] = b"words"
        stop_where(pid, live.coming_or_going)
        for key in KEYS:
            filled[key] = b"new"
        calls = [
            lambda: mmkv.open(path, "w", lock_timeout=0.1),
            lambda: mmkv.open(path, "c", lock_timeout=0.1),
            leaving.close,
        ]
        if theirs == "w":
            calls.append(lambda: mmkv.open(path, "r", lock_timeout=0.1))
        else:  # readers get along with each other
            mmkv.open(path, "r", lock_timeout=0.1).close()
        for call in calls:
            with pytest.raises(mmkv.LockTimeoutError, match=f"process {pid}, which is stopped") as caught:
                call()
            assert caught.value.pid == pid
        with pytest.raises(mmkv.ClosedError):
            leaving.get(b"last")
        child.kill()
        with mmkv.open(path) as db:
            assert db.stats().attached == 2, "the slot of the one who left unheard is free"
            assert db[b"last"] == b"words"
            assert db.verify().ok


def test_who_opens_waits_for_one_at_work(filled: Any, path: Path) -> None:
    """However long: a recovery takes its time. And a signal's handler runs meanwhile."""
    rang = []
    before = signal.signal(signal.SIGALRM, lambda *_: rang.append(1))
    fd = os.open(path, os.O_RDWR)
    try:
        lock_bytes(fd, F_OFD_SETLK, fcntl.F_WRLCK, ATTACH_BYTE, 1)
        signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)

        def let_go() -> None:
            until(lambda: len(rang) > 5)
            os.close(fd)

        thread = threading.Thread(target=let_go)
        thread.start()
        with mmkv.open(path, "w", lock_timeout=0.1) as db:
            assert len(rang) > 5
            assert len(db) == len(KEYS)
        thread.join()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("what", ["transaction", "put"])
def test_what_cannot_be_given_back_now_is_by_the_next_who_reserves(
    filled: Any, writer: Child, path: Path, open_store: Any, what: str
) -> None:
    """Extents that a call has reserved and that are no longer wanted, while another process sits on the allocator."""
    mine = open_store(mode="w", sync="manual", lock_timeout=1)
    pid, key = writer.process.pid, b""

    def transaction() -> None:
        with mine.transaction() as t:
            t[key] = b"new"

    def add() -> None:
        assert not mine.add(key, b"x" * 40_000), "it was there already"

    def act() -> None:
        with contextlib.suppress(mmkv.LockTimeoutError):  # in vain: once more
            {"transaction": transaction, "put": add}[what]()

    with Child(ALLOCATING, path) as allocating, looking_at(path) as live:
        assert allocating.line() == "ready"
        other = allocating.process.pid
        while not any(live.reserved(os.getpid())):
            stop_where(
                pid, lambda: live.held(pid) not in ([], [live.shard_of(b"large")]) and live.owner(ALLOCATOR) != pid
            )
            (shard,) = live.held(pid)
            key = next(key for key in KEYS if live.shard_of(key) == shard)
            acting = threading.Thread(target=act)
            acting.start()
            until(functools.partial(live.asks, shard))
            stop_where(other, lambda: live.owner(ALLOCATOR) == other and not live.held(other))
            os.kill(pid, signal.SIGCONT)
            acting.join()
            os.kill(other, signal.SIGCONT)
        writer.kill()
        allocating.kill()
        mine[b"of mine"] = b"x" * 40_000
        assert not any(live.reserved(os.getpid()))


def test_what_a_checkpoint_cannot_give_back_now_is_not_damage(tmp_path: Path) -> None:
    """One after the other is told of the process that sits on the allocator, and each has empty chunks to give back."""
    run_program("trimmed.c", tmp_path / "store")


def test_pages_that_a_split_could_not_give_back_are_not_lost(tmp_path: Path) -> None:
    """To the next change of the index, which takes fewer."""
    run_program("reserves.c", tmp_path / "store")


def preloaded(code: str, path: Path, library: Path) -> Child:
    """A child whose flushes can be stopped (tests/shim.py)."""
    return Child(shim.PRELUDE + textwrap.dedent(code), path, environment={"LD_PRELOAD": str(library)})


def test_a_leader_that_is_stopped_is_named_to_those_who_sync(filled: Any, path: Path, library: Path) -> None:
    """A checkpoint takes as long as the disk does, whatever lock_timeout is, but not as long as one stands still."""
    code = """
        db = mmkv.open(sys.argv[1], sync="manual")
        db[b"k"] = b"v"
        plan(1, "s")
        print(db.sync())
    """
    with preloaded(code, path, library) as leader, looking_at(path) as live:
        os.waitpid(leader.process.pid, os.WUNTRACED)
        assert live.owner(CHECKPOINT_LOCK) == leader.process.pid
        for key in KEYS:
            filled[key] = b"new"
        for call in (filled.sync, mmkv.open(path, "w", lock_timeout=0.1).close):
            with pytest.raises(mmkv.LockTimeoutError, match=f"process {leader.process.pid}") as caught:
                call()
            assert caught.value.pid == leader.process.pid
        os.kill(leader.process.pid, signal.SIGCONT)
        leader.line()
        leader.end()
    assert filled.sync() == filled.durable_epoch


def test_who_waits_for_a_leader_that_waits_for_a_stopped_writer_is_told(
    filled: Any, writer: Child, path: Path, open_store: Any
) -> None:
    """By its own lock_timeout, not by the leader's; else those who wait would lead, and wait, one after the other."""
    pid = writer.process.pid
    patient = open_store(mode="w", sync="manual", lock_timeout=600)
    with looking_at(path) as live:
        stop_where(pid, lambda: bool(live.held(pid)))
        (shard,) = live.held(pid)
        leading = threading.Thread(target=patient.sync)
        leading.start()
        until(lambda: live.asks(shard))
        # The test would end by this, not by the leader's ten minutes.
        before = signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGCONT))
        signal.alarm(60)
        try:
            for call in (filled.sync, mmkv.open(path, "w", lock_timeout=0.1).close):
                with pytest.raises(mmkv.LockTimeoutError, match=f"process {pid}") as caught:
                    call()
                assert caught.value.pid == pid
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
            os.kill(pid, signal.SIGCONT)
            leading.join()
    writer.kill()
    assert filled.sync() == filled.durable_epoch


def test_who_is_stopped_at_the_first_write_to_a_clean_file_stops_nobody(path: Path, library: Path) -> None:
    with mmkv.open(path) as db:
        db.update(dict.fromkeys(KEYS, b"old"))
    code = """
        db = mmkv.open(sys.argv[1], sync="manual")
        plan(1, "s")
        db[b"k"] = b"v"
        print("written")
    """
    with mmkv.open(path, lock_timeout=0.1) as db, preloaded(code, path, library) as first, looking_at(path) as live:
        os.waitpid(first.process.pid, os.WUNTRACED)
        assert live.owner(CHECKPOINT_LOCK) == first.process.pid
        for key in KEYS:
            db[key] = b"new"
        os.kill(first.process.pid, signal.SIGCONT)
        assert first.line() == "written"
        first.end()
        assert db[b"k"] == b"v"
        assert db.sync() == db.durable_epoch


def test_a_process_in_a_debugger_is_a_live_one(filled: Any, writer: Child, path: Path) -> None:
    pid = writer.process.pid
    with looking_at(path) as live, ptrace_where(pid, lambda: bool(live.held(pid, odd=True))):
        (shard,) = live.held(pid)
        theirs = next(key for key in KEYS if live.shard_of(key) == shard)
        with pytest.raises(mmkv.LockTimeoutError) as caught:
            filled[theirs] = b"new"
        assert caught.value.pid == pid
    filled[theirs] = b"new"
    writer.kill()


# -- signals to those who wait ----------------------------------------------------------------------------------------

WAITER = """
    import signal, sys, mmkv
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    rang = 0
    def ring(*_):
        global rang
        rang += 1
    signal.signal(signal.SIGALRM, ring)
    db = mmkv.open(sys.argv[1], sys.argv[2], sync="manual", lock_timeout=float(sys.argv[3]))
    key = sys.argv[4].encode()
    signal.setitimer(signal.ITIMER_REAL, float(sys.argv[6]), float(sys.argv[6]))
    call = {
        "put": lambda: db.put(key, b"of the one who waited"),
        "get": lambda: db[key],
        "pop": lambda: db.pop(key),
        "iterate": lambda: len(list(db)),
        "sync": lambda: db.sync(),
        "large": lambda: db.put(key, b"x" * 40_000),
        "transaction": lambda: db.atomically(lambda t: t.put(key, b"x" * 40_000)),
    }[sys.argv[5]]
    try:
        print("ready")
        call()
        print("done")
    except BaseException as error:
        print(type(error).__name__)
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(rang)
"""


@pytest.mark.parametrize(
    ("mode", "call"),
    [
        *(("w", call) for call in ("put", "get", "pop", "iterate", "large", "transaction", "sync")),
        ("r", "get"),
        ("r", "iterate"),
    ],
)
def test_ctrl_c_ends_a_wait(filled: Any, writer: Child, path: Path, mode: str, call: str) -> None:
    pid = writer.process.pid
    with looking_at(path) as live:
        stop_where(pid, lambda: bool(live.held(pid, odd=True)))
        (shard,) = live.held(pid)
        key = next(key for key in KEYS if live.shard_of(key) == shard).decode()
        with Child(WAITER, path, mode, 600, key, call, 0) as waiter:
            assert waiter.line() == "ready"
            until(lambda: live.asks(shard) if mode == "w" else asleep(waiter.process.pid))
            waiter.process.send_signal(signal.SIGINT)
            assert waiter.line() == "KeyboardInterrupt"
            assert waiter.line() == "0"
            waiter.end()
        writer.kill()


@pytest.mark.parametrize("call", ["large", "transaction", "sync"])
def test_ctrl_c_ends_a_wait_for_pages(filled: Any, path: Path, call: str) -> None:
    with Child(ALLOCATING, path) as writer, looking_at(path) as live:
        assert writer.line() == "ready"
        pid = writer.process.pid
        stop_where(pid, lambda: live.owner(ALLOCATOR) == pid and not live.held(pid))
        with Child(WAITER, path, "w", 600, "key 0", call, 0) as waiter:
            assert waiter.line() == "ready"
            until(lambda: bool(live.word(ALLOCATOR) >> 31))
            waiter.process.send_signal(signal.SIGINT)
            assert waiter.line() == "KeyboardInterrupt"
            waiter.end()
        writer.kill()
    assert filled[b"key 0"] == b"old"


READING_TRANSACTION = """
    import signal, sys, mmkv
    signal.signal(signal.SIGINT, signal.default_int_handler)
    db = mmkv.open(sys.argv[1], "r", lock_timeout=600)
    try:
        with db.transaction() as t:
            for i in range(400):
                t[b"key %d" % i]
            print("ready")
            input()
    except BaseException as error:
        print(type(error).__name__)
"""


def test_ctrl_c_ends_the_wait_of_a_reading_transaction(filled: Any, path: Path) -> None:
    with Child(READING_TRANSACTION, path) as reader, Child(WRITER, path) as writer, looking_at(path) as live:
        assert reader.line() == "ready"
        assert writer.line() == "ready"
        stop_where(writer.process.pid, lambda: bool(live.held(writer.process.pid, odd=True)))
        reader.tell("go on")
        until(lambda: asleep(reader.process.pid))
        reader.process.send_signal(signal.SIGINT)
        assert reader.line() == "KeyboardInterrupt"
        reader.end()
        writer.kill()


@pytest.mark.parametrize("call", ["put", "get"])
def test_a_timer_does_not_put_off_the_timeout(filled: Any, writer: Child, path: Path, call: str) -> None:
    """Each signal breaks a wait off, and its handler runs; what was waited already counts."""
    pid = writer.process.pid
    with looking_at(path) as live:
        stop_where(pid, lambda: bool(live.held(pid, odd=True)))
        (shard,) = live.held(pid)
        key = next(key for key in KEYS if live.shard_of(key) == shard).decode()
        with Child(WAITER, path, "w", 0.5, key, call, 0.02) as waiter:
            assert waiter.line() == "ready"
            assert waiter.line() == "LockTimeoutError"
            assert int(waiter.line()) > 0
            waiter.end()
        writer.kill()


def test_a_timer_does_not_put_off_taking_over_from_the_dead(filled: Any, writer: Child, path: Path) -> None:
    pid = writer.process.pid
    with looking_at(path) as live:
        stop_where(pid, lambda: bool(live.held(pid, odd=True)))
        (shard,) = live.held(pid)
        key = next(key for key in KEYS if live.shard_of(key) == shard).decode()
        with Child(WAITER, path, "w", 600, key, "put", 0.02) as waiter:
            assert waiter.line() == "ready"
            until(lambda: live.asks(shard))
            writer.kill()
            assert waiter.line() == "done"
            waiter.line()
            waiter.end()
