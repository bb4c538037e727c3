"""mmkv.Lock: one holder among the threads of all processes, and none that is dead."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import mmkv
from tests.support import Child, fork_and_wait, until

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

NAME = b"the lock"
HOLD = """
import sys, mmkv
db = mmkv.open(sys.argv[1], "w")
lock = mmkv.Lock(db, b"the lock")
lock.acquire()
print("held")
for line in sys.stdin:
    if line == "close\\n":
        db.close()
        print("closed")
    elif line == "release\\n":
        lock.release()
        print("released")
"""


def test_one_after_the_other(store: Any) -> None:
    lock, other = mmkv.Lock(store, NAME), mmkv.Lock(store, bytearray(NAME))
    assert not lock.locked()
    assert lock.acquire() is True
    assert lock.locked()
    assert other.locked()
    assert other.acquire(blocking=False) is False
    assert other.acquire(timeout=0.05) is False
    assert lock.acquire(False) is False, "it is not reentrant"
    lock.release()
    assert not lock.locked()
    assert len(store) == 0, "a lock that nobody holds leaves nothing"
    with other as held:
        assert held is other
        assert not lock.acquire(blocking=False)
    assert lock.acquire(blocking=False)
    lock.release()


def test_different_names_are_different_locks(store: Any) -> None:
    with mmkv.Lock(store, b"a"), mmkv.Lock(store, b"b"):
        assert sorted(store) == [b"a", b"b"]


def test_with_lets_go_when_the_block_raises(store: Any) -> None:
    lock = mmkv.Lock(store, NAME)
    with pytest.raises(KeyError), lock:
        raise KeyError
    assert not lock.locked()


def test_timeouts(store: Any) -> None:
    holder = mmkv.Lock(store, NAME)
    holder.acquire()
    start = time.monotonic()
    lock = mmkv.Lock(store, NAME, timeout=0.2)
    assert lock.acquire() is False
    assert time.monotonic() - start >= 0.2
    with pytest.raises(TimeoutError, match=r"the lock.*0\.2 s"), lock:
        pytest.fail("it is held by another")
    assert lock.acquire(timeout=0) is False
    for wrong in (-1, float("nan")):
        with pytest.raises(ValueError, match="timeout"):
            lock.acquire(timeout=wrong)
    with pytest.raises(ValueError, match="without waiting"):
        lock.acquire(blocking=False, timeout=1)
    holder.release()
    assert lock.acquire(timeout=0) is True
    lock.release()


def test_release_of_what_is_not_held(store: Any) -> None:
    lock, other = mmkv.Lock(store, NAME), mmkv.Lock(store, NAME)
    with pytest.raises(RuntimeError, match="not held"):
        lock.release()
    lock.acquire()
    with pytest.raises(RuntimeError, match="not held"):
        other.release()
    lock.release()
    with pytest.raises(RuntimeError, match="not held"):
        lock.release()


def test_a_record_that_others_have_changed(store: Any) -> None:
    lock = mmkv.Lock(store, NAME)
    lock.acquire()
    store.clear()
    with pytest.raises(RuntimeError, match="changed"):
        lock.release()
    for value in (b"", b"something", b"mmkv.Lock 1 2 3", store.path.encode()):
        store[NAME] = value
        for use in (lock.acquire, lock.locked):
            with pytest.raises(ValueError, match="the lock"):
                use()
        assert store[NAME] == value


def test_arguments(store: Any, open_store: Any) -> None:
    for wrong in ("lock", 5, None):
        with pytest.raises(TypeError):
            mmkv.Lock(store, wrong)
    with mmkv.Lock(store, NAME):
        reader = mmkv.Lock(open_store(mode="r"), NAME)
        assert reader.locked()
        with pytest.raises(mmkv.ReadOnlyError):
            reader.acquire()
    assert "the lock" in repr(reader)
    assert store.path in repr(reader)


def test_a_closed_store(open_store: Any) -> None:
    one, two = open_store(), open_store()
    lock, other = mmkv.Lock(one, NAME), mmkv.Lock(two, NAME)
    lock.acquire()
    assert not other.acquire(blocking=False)
    one.close()
    for use in (lock.release, lock.acquire, lock.locked):
        with pytest.raises(mmkv.ClosedError):
            use()
    assert other.acquire() is True, "closing has released it"
    other.release()


def test_a_store_closed_under_one_who_waits(open_store: Any) -> None:
    one, two = open_store(), open_store()
    mmkv.Lock(one, NAME).acquire()
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            mmkv.Lock(two, NAME).acquire()
        except mmkv.ClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: asleep(one))
    two.close()
    thread.join(60)
    assert len(errors) == 1


def asleep(store: Any) -> bool:
    """Has anybody left word that he waits for a change? (fmt_lockable.waiting of the shards)"""
    with open(store.path, "rb") as file:
        file.seek(0x30000)
        shards = file.read(8192 * store.stats().shards)
    return any(int.from_bytes(shards[at + 4 : at + 7], "little") for at in range(0, len(shards), 8192))


# -- several ----------------------------------------------------------------------------------------------------------

ROUNDS = 300


def add_up(lock: mmkv.Lock, store: Any) -> None:
    store.incr(b"ready")
    while (ready := store[b"ready"]) != (4).to_bytes(8, "little"):
        store.wait(b"ready", old=ready)
    for _ in range(ROUNDS):
        with lock:
            now = int(store.get(b"sum", b"0"))
            os.sched_yield()  # the others may as well come now
            store[b"sum"] = b"%d" % (now + 1)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_add_up(store: Any, method: str) -> None:
    """With a lock that is pickled, or inherited."""
    context = multiprocessing.get_context(method)
    lock = mmkv.Lock(store, NAME)
    children = [context.Process(target=add_up, args=(lock, store)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4
    assert int(store[b"sum"]) == 4 * ROUNDS


@pytest.mark.parametrize("shared", [True, False], ids=["one object", "an object each"])
def test_threads_add_up(store: Any, shared: bool) -> None:
    lock = mmkv.Lock(store, NAME)
    threads = [
        threading.Thread(target=add_up, args=(lock if shared else mmkv.Lock(store, NAME), store)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert int(store[b"sum"]) == 4 * ROUNDS


def test_a_pickled_lock_is_not_held(store: Any) -> None:
    lock = mmkv.Lock(store, NAME, timeout=0.05)
    with lock:
        copy = pickle.loads(pickle.dumps(lock))
        assert copy.acquire() is False
        with pytest.raises(RuntimeError, match="not held"):
            copy.release()
    with copy:
        assert lock.acquire() is False
    copy._store.close()


# -- death ------------------------------------------------------------------------------------------------------------


def test_a_holder_that_is_killed(store: Any, path: Path) -> None:
    lock = mmkv.Lock(store, NAME)
    for _ in range(3):
        with Child(HOLD, path) as child:
            assert child.line() == "held"
            assert lock.acquire(timeout=0.3) is False, "it lives"
            child.kill()
            assert lock.locked() is False
            with lock:
                assert lock.locked()


def test_one_who_waits_takes_over_from_the_dead(store: Any, path: Path) -> None:
    lock = mmkv.Lock(store, NAME)
    got = threading.Event()

    def wait() -> None:
        with lock:
            got.set()

    with Child(HOLD, path) as child:
        child.line()
        thread = threading.Thread(target=wait)
        thread.start()
        until(lambda: asleep(store))
        assert not got.is_set()
        child.kill()
    thread.join(60)
    assert got.is_set()
    assert not lock.locked()


def test_a_stopped_holder_is_alive(store: Any, path: Path) -> None:
    lock = mmkv.Lock(store, NAME)
    with Child(HOLD, path) as child:
        child.line()
        child.process.send_signal(signal.SIGSTOP)
        assert lock.acquire(timeout=0.3) is False
        child.process.send_signal(signal.SIGCONT)
        child.tell("release")
        assert child.line() == "released"
        assert lock.acquire(blocking=False)
        lock.release()


def test_a_process_slot_that_is_used_again(store: Any, path: Path, open_store: Any) -> None:
    """The record of a dead holder names a slot that somebody else has by now."""
    lock = mmkv.Lock(store, NAME)
    with Child(HOLD, path) as child:
        child.line()
        record = store[NAME]
        child.kill()
    slot = int(record.split()[1], 16) & 0xFFF
    others = [open_store() for _ in range(3)]
    assert slot in [other._handle_name()[0] & 0xFFF for other in others], "or this test shows nothing"
    assert store[NAME] == record
    assert lock.locked() is False
    assert lock.acquire(blocking=False)
    lock.release()


def test_a_lock_that_lay_in_a_file_that_was_closed(store: Any, path: Path, open_store: Any) -> None:
    """The process slots begin anew with each clean open."""
    lock = mmkv.Lock(store, NAME)
    lock.acquire()
    record = store[NAME]
    store.close()
    with open_store() as again:
        number, start = again._handle_name()
        assert b" %08x " % number in record, "or this test shows nothing"
        assert b"%016x" % start not in record
        assert not mmkv.Lock(again, NAME).locked()
        with mmkv.Lock(again, NAME):
            assert again[NAME] != record


def test_a_holder_that_closes_lets_a_waiting_process_in(store: Any, path: Path) -> None:
    lock = mmkv.Lock(store, NAME)
    with Child(HOLD, path) as child:
        child.line()
        child.tell("close")
        assert child.line() == "closed"
        assert lock.acquire(blocking=False)
        lock.release()


# -- fork -------------------------------------------------------------------------------------------------------------


def test_a_forked_child_does_not_hold_what_its_parent_does(store: Any) -> None:
    lock = mmkv.Lock(store, NAME)
    lock.acquire()

    def child() -> None:
        assert lock.locked()
        assert lock.acquire(timeout=0.15) is False
        with pytest.raises(RuntimeError, match="forked"):
            lock.release()

    fork_and_wait(child)
    assert lock.locked()
    lock.release()


def test_a_child_waits_until_its_parent_lets_go(store: Any) -> None:
    lock = mmkv.Lock(store, NAME)
    lock.acquire()
    pid = os.fork()
    if pid == 0:
        try:
            with lock:
                store[b"child"] = b"inside"
        finally:
            os._exit(0)
    until(lambda: asleep(store))
    assert b"child" not in store
    lock.release()
    os.waitpid(pid, 0)
    assert store[b"child"] == b"inside"
    assert not lock.locked()


def test_a_child_that_dies_with_it(store: Any) -> None:
    lock = mmkv.Lock(store, NAME)
    fork_and_wait(lock.acquire)
    assert NAME in store
    with lock:
        assert lock.locked()


class Alarm(Exception):
    """What a signal's handler raises, at any line."""


def alarm_at(line: int, functions: set[str]) -> Any:
    """A trace function that raises at the so-manieth line that is run of some functions, once."""
    lines = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_name not in functions:
            return None
        if event == "line":
            lines += 1
            if lines == line:
                raise Alarm
        return trace

    return trace


def test_an_exception_at_any_line_of_acquire(store: Any) -> None:
    """Ctrl-C may come anywhere: what is held can be released, by the object that knows that it holds it."""
    for at in range(1, 100):
        lock = mmkv.Lock(store, NAME)
        sys.settrace(alarm_at(at, {"acquire"}))
        try:
            lock.acquire()
        except Alarm:
            assert (NAME in store) == bool(lock._held), at
            if lock._held:
                lock.release()
        else:
            break
        finally:
            sys.settrace(None)
    assert at > 8, "each line in turn"
    lock.release()


def test_an_exception_at_any_line_of_release(store: Any) -> None:
    """It is released, or it is held and can be released again; and the object goes on as if nothing had been."""
    lock = mmkv.Lock(store, NAME)
    for at in range(1, 100):
        lock.acquire()
        sys.settrace(alarm_at(at, {"release", "_forget"}))
        try:
            lock.release()
        except Alarm:
            sys.settrace(None)
            if lock.locked():
                lock.release()
        else:
            break
        finally:
            sys.settrace(None)
        assert NAME not in store, at
        with lock:
            assert not mmkv.Lock(store, NAME).acquire(blocking=False)
    assert at > 8, "each line in turn"


def test_an_exception_in_the_middle_of_the_end_of_a_block(store: Any) -> None:
    """An alarm that comes in there finds it released; with the other route, but at the very first line."""
    for at in range(2 if mmkv._native.hot_route == "cffi" else 1, 100):
        sys.settrace(alarm_at(at, {"__exit__", "_end", "release", "_forget"}))
        try:
            with mmkv.Lock(store, NAME):
                pass
        except Alarm:
            pass
        else:
            break
        finally:
            sys.settrace(None)
        assert NAME not in store, at
    assert at > 10, "each line in turn"
