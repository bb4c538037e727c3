"""wait(): asleep until a key's value changes, whoever changes it."""

from __future__ import annotations

import mmap
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mmkv
from tests.support import Child, fork_and_wait, until

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

FOREVER = 120
"""Seconds after which a test that waits in vain fails; no test that passes takes as long."""


class Waiter(threading.Thread):
    """Waits in a thread; `result` is what came of it."""

    def __init__(self, store: Any, key: bytes, old: bytes | None, timeout: float | None = FOREVER) -> None:
        super().__init__(daemon=True)
        self.store, self.key, self.old, self.timeout = store, key, old, timeout
        self.asked = threading.Event()
        self.result: Any = None
        self.start()
        assert self.asked.wait(FOREVER)

    def run(self) -> None:
        self.asked.set()
        try:
            self.result = self.store.wait(self.key, old=self.old, timeout=self.timeout)
        except Exception as error:
            self.result = error

    def came_to(self) -> Any:
        self.join(FOREVER)
        assert not self.is_alive(), "it waits for ever"
        return self.result


def waiting(path: Path, shards: int, *, clear: bool = False) -> bool:
    """Has anybody left word that he waits for a change? With `clear`, no more. (fmt_lockable.waiting, low 24 bits)"""
    found = False
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0x30000 + 8192 * shards) as area:
        for at in range(0x30000 + 4, len(area), 8192):
            found |= any(area[at : at + 3])
            if clear:
                area[at : at + 3] = bytes(3)
    return found


def wakes(path: Path, shards: int) -> int:
    """How often was somebody woken? (its high 8 bits; far fewer than 256 in these tests)"""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0x30000 + 8192 * shards, prot=mmap.PROT_READ) as area:
        return sum(area[at + 7] for at in range(0x30000, len(area), 8192))


def test_what_has_changed_already(store: Any) -> None:
    assert store.wait(b"k", old=b"v") is None
    assert store.wait(b"k", old=b"") is None
    store[b"k"] = b"v"
    assert store.wait(b"k", old=None) == b"v"
    assert store.wait(b"k", old=b"w") == b"v"
    assert store.wait(b"k", old=b"") == b"v"
    assert store.wait(bytearray(b"k"), old=memoryview(b"vv"), timeout=0) == b"v"
    store[b"k"] = b""
    assert store.wait(b"k", old=None) == b""


@pytest.mark.parametrize("timeout", [0, 0.0, 0.05, 0.25])
@pytest.mark.parametrize("old", [None, b"v", b"x" * 100_000], ids=["absent", "short", "long"])
def test_time_is_up(store: Any, old: bytes | None, timeout: float) -> None:
    if old is not None:
        store[b"k"] = old
    start = time.monotonic()
    with pytest.raises(TimeoutError) as raised:
        store.wait(b"k", old=old, timeout=timeout)
    assert time.monotonic() - start >= timeout
    assert store.path in str(raised.value)


def test_arguments(store: Any) -> None:
    store[b"k"] = b"v"
    for wrong in (-1, -0.001, float("nan"), float("-inf")):
        with pytest.raises(ValueError, match="timeout"):
            store.wait(b"k", old=b"v", timeout=wrong)
    for use in (
        lambda: store.wait(b"k"),
        lambda: store.wait(b"k", b"v"),
        lambda: store.wait(old=b"v"),
        lambda: store.wait(b"k", old=b"w", timeout="1"),
        lambda: store.wait("k", old=b"w"),
        lambda: store.wait(b"k", old="w"),
        lambda: store.wait(b"k", old=b"w", seconds=1),
    ):
        with pytest.raises(TypeError):
            use()
    assert store.wait(b"k", old=b"w", timeout=float("inf")) == b"v"
    with pytest.raises(ValueError, match="65,535"):
        store.wait(b"k" * 65_536, old=None)


CHANGES: dict[str, tuple[bytes | None, Callable[[Any], object], bytes | None]] = {
    "put": (b"old", lambda db: db.put(b"k", b"new"), b"new"),
    "put of what was absent": (None, lambda db: db.put(b"k", b"new"), b"new"),
    "put of a long value": (b"old", lambda db: db.put(b"k", b"n" * 100_000), b"n" * 100_000),
    "put in place of a long value": (b"o" * 100_000, lambda db: db.put(b"k", b"p" * 100_000), b"p" * 100_000),
    "delete": (b"old", lambda db: db.delete(b"k"), None),
    "delete of a long value": (b"o" * 100_000, lambda db: db.delete(b"k"), None),
    "pop": (b"old", lambda db: db.pop(b"k"), None),
    "popitem": (b"old", lambda db: db.popitem(), None),
    "clear": (b"old", lambda db: db.clear(), None),
    "add": (None, lambda db: db.add(b"k", b"new"), b"new"),
    "setdefault": (None, lambda db: db.setdefault(b"k", b"new"), b"new"),
    "replace": (b"old", lambda db: db.replace(b"k", b"new"), b"new"),
    "swap": (b"old", lambda db: db.compare_and_swap(b"k", b"old", b"new"), b"new"),
    "swap for absent": (b"old", lambda db: db.compare_and_swap(b"k", b"old", None), None),
    "incr": (None, lambda db: db.incr(b"k", 258), b"\2\1" + bytes(6)),
    "put_many": (None, lambda db: db.put_many({b"j": b"", b"k": b"new"}), b"new"),
    "delete_many": (b"old", lambda db: db.delete_many([b"j", b"k"]), None),
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_wakes(store: Any, path: Path, change: str) -> None:
    """By itself: not only when he looks again does he who waits find out."""
    old, work, new = CHANGES[change]
    if old is not None:
        store[b"k"] = old
    waiter = Waiter(store, b"k", old)
    until(lambda: waiting(path, 64))
    before = wakes(path, 64)
    work(store)
    assert wakes(path, 64) > before
    assert waiter.came_to() == new


def test_nobody_is_woken_where_nobody_waits(store: Any, path: Path) -> None:
    for old, work, _ in CHANGES.values():
        store.clear()
        if old is not None:
            store[b"k"] = old
        work(store)
    assert wakes(path, 64) == 0


def test_other_keys_and_the_same_value_are_no_change(open_store: Any) -> None:
    db = open_store(shards=1)
    db[b"k"] = b"v"
    waiter = Waiter(db, b"k", b"v")
    for i in range(5000):
        db[b"%d" % i] = b"x"
        db[b"k"] = b"v"
    for i in range(5000):
        del db[b"%d" % i]
    assert waiter.is_alive()
    db[b"k"] = b"w"
    assert waiter.came_to() == b"w"


def test_many_waiters_are_all_woken(open_store: Any) -> None:
    """Of many keys, with several to one bit of the word they sleep on."""
    db = open_store(shards=1)
    for round_ in range(20):
        old = None if not round_ else b"%d" % (round_ - 1)
        waiters = [Waiter(db, b"%d" % (i % 40), old) for i in range(80)]
        for i in range(40):
            db[b"%d" % i] = b"%d" % round_
        assert [waiter.came_to() for waiter in waiters] == [b"%d" % round_] * 80


ECHO = """
import sys, mmkv
db = mmkv.open(sys.argv[1], "w")
print("ready")
value = None
while value != b"end":
    value = db.wait(b"ping", old=value)
    db[b"pong"] = value
"""


def test_back_and_forth_between_processes(store: Any, path: Path) -> None:
    """A wake that was lost would cost a tenth of a second each time; as many would not end in time."""
    with Child(ECHO, path) as child:
        child.line()
        value = None
        start = time.monotonic()
        for i in range(1000):
            store[b"ping"] = b"%d" % i
            value = store.wait(b"pong", old=value, timeout=FOREVER)
            assert value == b"%d" % i
        assert time.monotonic() - start < 1000 * 0.1, "they are woken, and do not only look now and then"
        store[b"ping"] = b"end"
        child.end()


def test_a_forked_child_wakes_its_parent_and_the_other_way_round(store: Any) -> None:
    store[b"k"] = b"0"
    waiter = Waiter(store, b"k", b"0")
    fork_and_wait(lambda: store.put(b"k", b"1"))
    assert waiter.came_to() == b"1"
    read, write = os.pipe()

    def child() -> None:
        os.write(write, b"x")
        assert store.wait(b"k", old=b"1", timeout=FOREVER) == b"2"
        store[b"k"] = b"3"

    thread = threading.Thread(target=lambda: (os.read(read, 1), store.put(b"k", b"2")))
    thread.start()
    fork_and_wait(child)
    thread.join()
    os.close(read)
    os.close(write)
    assert store[b"k"] == b"3"


def test_it_sleeps(store: Any) -> None:
    store[b"k"] = b"v"

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_THREAD)
        return usage.ru_utime + usage.ru_stime

    before = used()
    with pytest.raises(TimeoutError):
        store.wait(b"k", old=b"v", timeout=1)
    assert used() - before < 0.1, "seconds of the processor for a second of sleep"


def test_a_writer_that_is_killed_before_it_wakes_anybody(store: Any, path: Path) -> None:
    """The change is there, and nobody was told, as when there had been no word of who waits: he looks by himself."""
    store[b"k"] = b"old"
    waiter = Waiter(store, b"k", b"old")
    until(lambda: waiting(path, 64))
    waiting(path, 64, clear=True)
    store[b"k"] = b"new"
    assert waiter.came_to() == b"new"


def test_word_of_one_who_waits_no_more_is_cleared_by_the_next_change(store: Any, path: Path) -> None:
    with pytest.raises(TimeoutError):
        store.wait(b"k", old=None, timeout=0)
    assert waiting(path, 64)
    store[b"k"] = b"v"
    assert not waiting(path, 64)


def test_close_by_another_thread(store: Any) -> None:
    store[b"k"] = b"v"
    waiters = [Waiter(store, b"k", b"v", None), Waiter(store, b"absent", None, None)]
    store.close()
    for waiter in waiters:
        assert isinstance(waiter.came_to(), mmkv.ClosedError)
    with pytest.raises(mmkv.ClosedError):
        store.wait(b"k", old=None)


def test_a_handle_of_the_same_file_may_be_closed(open_store: Any) -> None:
    one, two = open_store(), open_store()
    waiter = Waiter(one, b"k", None)
    two.close()
    one[b"k"] = b"v"
    assert waiter.came_to() == b"v"


def test_read_only(open_store: Any) -> None:
    open_store()[b"k"] = b"v"
    with pytest.raises(mmkv.ReadOnlyError):
        open_store(mode="r").wait(b"k", old=None)


def test_a_private_copy(open_store: Any) -> None:
    with open_store() as db:
        db[b"k"] = b"v"
    copy = open_store(mode="p")
    assert copy.wait(b"k", old=None) == b"v"
    waiter = Waiter(copy, b"k", b"v")
    copy[b"k"] = b"w"
    assert waiter.came_to() == b"w"


class Alarm(Exception):
    """Raised by a signal's handler."""


@pytest.fixture
def alarm() -> Any:
    def raise_alarm(*_: object) -> None:
        raise Alarm

    previous = signal.signal(signal.SIGALRM, raise_alarm)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)


def test_a_signal_that_raises_ends_it(store: Any, alarm: Any) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    with pytest.raises(Alarm):
        store.wait(b"k", old=None, timeout=FOREVER)
    store[b"k"] = b"v"
    assert store.wait(b"k", old=None) == b"v"


def test_a_signal_that_does_not_raise_does_not(store: Any) -> None:
    seen = []
    previous = signal.signal(signal.SIGALRM, lambda *_: seen.append(store.put(b"k", b"from the handler")))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        assert store.wait(b"k", old=None, timeout=FOREVER) == b"from the handler"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert seen == [None]


def test_the_gil_is_free_meanwhile(store: Any) -> None:
    """One thread waits for what another of the same process does."""
    turns = 300

    def other() -> None:
        value = None
        for _ in range(turns):
            value = store.wait(b"ping", old=value, timeout=FOREVER)
            store[b"pong"] = value

    thread = threading.Thread(target=other)
    thread.start()
    value = None
    for i in range(turns):
        store[b"ping"] = b"%d" % i
        value = store.wait(b"pong", old=value, timeout=FOREVER)
        assert value == b"%d" % i
    thread.join()


def test_a_queue_between_processes(store: Any, path: Path) -> None:
    """What it is for: workers that sleep until there is something to do."""
    code = """
        import sys, mmkv
        with mmkv.open(sys.argv[1], "w") as db:
            done, seen = 0, None
            while (task := db.get(b"task")) != b"end":
                if task is None or not db.compare_and_swap(b"task", task, None):
                    db.wait(b"task", old=task)
                else:
                    db.incr(b"sum", int(task))
    """
    with Child(code, path) as one, Child(code, path) as two:
        for task in (*(b"%d" % i for i in range(500)), b"end"):
            while not store.add(b"task", task):
                if (there := store.get(b"task")) is not None:
                    store.wait(b"task", old=there, timeout=FOREVER)
        one.end()
        two.end()
    assert store.incr(b"sum", 0) == sum(range(500))
