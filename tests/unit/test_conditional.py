"""add, replace, compare_and_swap, incr: changes that depend on what is there, atomic across threads and processes."""

from __future__ import annotations

import mmap
import multiprocessing
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mmkv
from tests.support import Child, fork_and_wait, until

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

SIZES = [0, 1, 8, 100, 16_000, 32_768, 32_769, 200_000]
"""Of blocks, of extents, and on either side of what is compared with a lock held."""


def value_of(size: int, variant: int = 0) -> bytes:
    """Values of one size differ in their last byte alone."""
    return (random.Random(size).randbytes(size - 1) + bytes([variant])) if size else b""


def test_add(store: Any) -> None:
    assert store.add(b"k", b"first") is True
    assert store.add(b"k", b"second") is False
    assert store[b"k"] == b"first"
    del store[b"k"]
    assert store.add(b"k", b"x" * 300_000) is True
    assert store.add(b"k", b"y" * 300_000) is False
    assert store[b"k"] == b"x" * 300_000
    assert store.add(b"", b"") is True


def test_replace(store: Any) -> None:
    assert store.replace(b"k", b"v") is False
    assert b"k" not in store
    store[b"k"] = b"v"
    assert store.replace(b"k", b"w") is True
    assert store[b"k"] == b"w"
    assert store.replace(b"other", b"x" * 300_000) is False
    assert store.replace(b"k", b"x" * 300_000) is True
    assert store[b"k"] == b"x" * 300_000


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("new_size", [0, 100, 40_000])
def test_compare_and_swap(store: Any, size: int, new_size: int) -> None:
    old, new = value_of(size), value_of(new_size, 7)
    assert store.compare_and_swap(b"k", old, new) is False, "absent is not the empty value"
    assert store.compare_and_swap(b"k", old, None) is False
    assert b"k" not in store
    assert store.compare_and_swap(b"k", None, old) is True
    assert store.compare_and_swap(b"k", None, new) is False
    for other in (old + b"x", old[:-1] if size else b"0", value_of(size, 1) if size else b"1"):
        assert store.compare_and_swap(b"k", other, new) is False
        assert store.compare_and_swap(b"k", other, None) is False
    assert store[b"k"] == old
    assert store.compare_and_swap(b"k", old, new) is True
    assert store[b"k"] == new
    assert store.compare_and_swap(b"k", new, None) is True
    assert b"k" not in store
    assert len(store) == 0


def test_compare_and_swap_of_nothing_changes_nothing(store: Any) -> None:
    assert store.compare_and_swap(b"k", None, None) is True
    store[b"k"] = b"v"
    assert store.compare_and_swap(b"k", None, None) is False
    assert store[b"k"] == b"v"


def test_a_swap_that_fails_leaves_no_space_behind(open_store: Any, path: Path) -> None:
    db = open_store()
    db[b"k"] = b"v"
    for _ in range(50):
        assert not db.compare_and_swap(b"k", b"w", b"x" * 300_000)
        assert not db.compare_and_swap(b"k", b"w" * 40_000, b"x" * 300_000)
    db.sync()
    assert db.stats().file_bytes < 4 << 20


@pytest.mark.parametrize("size", [8, 100_000])
def test_compare_and_swap_with_verify_reads(open_store: Any, size: int) -> None:
    with open_store(verify_reads=True) as db:
        db[b"k"] = value_of(size)
        assert not db.compare_and_swap(b"k", value_of(size, 1), b"new")
        assert db.compare_and_swap(b"k", value_of(size), value_of(size, 2))
        assert db[b"k"] == value_of(size, 2)


def test_incr(store: Any) -> None:
    assert store.incr(b"n") == 1
    assert store.incr(b"n") == 2
    assert store.incr(b"n", 40) == 42
    assert store.incr(b"n", delta=-50) == -8
    assert store[b"n"] == (-8).to_bytes(8, "little", signed=True)
    assert store.incr(b"m", 5, initial=100) == 105
    assert store.incr(b"m", 0, initial=7) == 105
    assert store.incr(b"z", 0) == 0
    assert store[b"z"] == bytes(8)
    store[b"put"] = (1 << 40).to_bytes(8, "little")
    assert store.incr(b"put", True) == (1 << 40) + 1


@pytest.mark.parametrize(
    ("start", "delta"),
    [(2**63 - 1, 1), (2**63 - 2, 2), (-(2**63), -1), (2**63 - 1, 2**63 - 1), (-(2**63), -(2**63))],
)
def test_incr_beyond_64_bits(store: Any, start: int, delta: int) -> None:
    assert store.incr(b"n", initial=start, delta=0) == start
    with pytest.raises(OverflowError, match="64 bits"):
        store.incr(b"n", delta)
    assert store.incr(b"n", 0) == start
    with pytest.raises(OverflowError):
        store.incr(b"absent", delta, initial=start)
    assert b"absent" not in store


@pytest.mark.parametrize("value", [b"", b"7", b"1234567", b"123456789", b"x" * 100_000])
def test_incr_of_something_else(store: Any, value: bytes) -> None:
    store[b"k"] = value
    with pytest.raises(ValueError, match=f"8 bytes.*{len(value)}$"):
        store.incr(b"k")
    assert store[b"k"] == value


@pytest.mark.parametrize("wrong", [2**63, -(2**63) - 1, 10**30])
def test_numbers_that_are_no_64_bit_integers(store: Any, wrong: int) -> None:
    for use in (lambda: store.incr(b"k", wrong), lambda: store.incr(b"k", initial=wrong)):
        with pytest.raises(OverflowError, match="64-bit"):
            use()
    assert len(store) == 0


@pytest.mark.parametrize("wrong", [1.0, "1", None, b"1"])
def test_numbers_of_a_wrong_type(store: Any, wrong: Any) -> None:
    for use in (lambda: store.incr(b"k", wrong), lambda: store.incr(b"k", initial=wrong)):
        with pytest.raises(TypeError):
            use()
    assert len(store) == 0


def test_wrong_arguments(store: Any) -> None:
    for use in (
        lambda: store.add(b"k"),
        lambda: store.replace(b"k", b"v", b"w"),
        lambda: store.compare_and_swap(b"k", b"v"),
        lambda: store.compare_and_swap(b"k", b"v", new=b"w"),
        lambda: store.incr(),
        lambda: store.incr(b"k", 1, 2),
        lambda: store.incr(b"k", 1, delta=2),
        lambda: store.incr(b"k", by=2),
        lambda: store.incr(key=b"k"),
    ):
        with pytest.raises(TypeError):
            use()
    assert len(store) == 0


# -- atomic -----------------------------------------------------------------------------------------------------------

ROUNDS = 3000


def in_processes(store: Any, work: Callable[..., None], count: int) -> None:
    """Run `work(store, number, barrier)` in forked children that start together."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(count)
    children = [context.Process(target=work, args=(store, number, barrier)) for number in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * count


def in_threads(store: Any, work: Callable[..., None], count: int) -> None:
    barrier = threading.Barrier(count)
    failed: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(store, number, barrier)
        except BaseException as error:
            failed.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


both = pytest.mark.parametrize("together", [in_processes, in_threads], ids=["processes", "threads"])


def count_up(store: Any, number: int, barrier: Any) -> None:
    barrier.wait()
    last = 0
    for _ in range(ROUNDS):
        new = store.incr(b"shared")
        assert new > last
        last = new
        store.incr(b"own %d" % number)


@both
def test_four_count_exactly(store: Any, together: Any) -> None:
    together(store, count_up, 4)
    assert store.incr(b"shared", 0) == 4 * ROUNDS
    assert [store.incr(b"own %d" % i, 0) for i in range(4)] == [ROUNDS] * 4


def add_all(store: Any, number: int, barrier: Any) -> None:
    barrier.wait()
    won = sum(store.add(b"%d" % i, b"%d" % number) for i in range(300))
    store.put(b"won by %d" % number, b"%d" % won)


@both
def test_of_eight_who_add_one_wins(store: Any, together: Any) -> None:
    together(store, add_all, 8)
    holders = [int(store[b"%d" % i]) for i in range(300)]
    assert [int(store[b"won by %d" % number]) for number in range(8)] == [holders.count(number) for number in range(8)]


STEPS = 1000


def move_on(store: Any, number: int, barrier: Any, size: int) -> None:
    # A chain: who takes step n from n - 1 notes it; no step is taken twice and none is left out.
    barrier.wait()
    rest = b"x" * size
    while (now := int(store[b"step"][size:])) < STEPS:
        if store.compare_and_swap(b"step", rest + b"%08d" % now, rest + b"%08d" % (now + 1)):
            assert store.add(b"taken %d" % now, b"%d" % number), now


def move_on_short(store: Any, number: int, barrier: Any) -> None:
    move_on(store, number, barrier, 0)


def move_on_long(store: Any, number: int, barrier: Any) -> None:
    move_on(store, number, barrier, 40_000)


@both
@pytest.mark.parametrize("work", [move_on_short, move_on_long])
def test_a_chain_of_swaps(store: Any, together: Any, work: Any) -> None:
    store[b"step"] = b"x" * (40_000 if work is move_on_long else 0) + b"%08d" % 0
    together(store, work, 4)
    assert int(store[b"step"][-8:]) == STEPS
    assert len(store) == STEPS + 1


def test_a_long_value_that_changes_between_comparison_and_lock(open_store: Any, path: Path) -> None:
    """Long values are compared before the lock is taken: what another has stored since is not overwritten."""
    one, two = open_store(shards=1), open_store()
    first, second = b"1" * 100_000, b"2" * 100_000
    for new in (b"short", b"3" * 100_000, None):
        one[b"k"] = first
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0x31000) as area:
            lock = memoryview(area).cast("I")[0xC000:0xC001]
            lock[0] = two._handle_name()[0]  # the only shard is locked, it seems
            thread = threading.Thread(target=one.compare_and_swap, args=(b"k", first, new))
            thread.start()
            until(lambda lock=lock: lock[0] >> 31 == 1)  # it has compared, and sleeps until the lock is free
            lock[0] = 0
            two[b"k"] = second
            thread.join()
            lock.release()
        assert one[b"k"] == second


def take_turns(store: Any, number: int, barrier: Any) -> None:
    # Absent is a state as any other: who makes the key has it until it removes it.
    barrier.wait()
    for _ in range(300):
        while not store.compare_and_swap(b"held", None, b"%d" % number):
            pass
        inside = int(store.get(b"inside", b"0"))
        store[b"inside"] = b"%d" % (inside + 1)
        assert store.compare_and_swap(b"held", b"%d" % number, None)


@both
def test_absent_for_held_and_back(store: Any, together: Any) -> None:
    together(store, take_turns, 3)
    assert store[b"inside"] == b"900"
    assert b"held" not in store


def replace_or_not(store: Any, number: int, barrier: Any) -> None:
    barrier.wait()
    for i in range(ROUNDS):
        if number:
            store.replace(b"k", b"%d" % i)
        else:
            store[b"k"] = b"0"
            del store[b"k"]
            assert b"k" not in store, "replace() does not bring back what is gone"


@both
def test_replace_does_not_bring_back(store: Any, together: Any) -> None:
    together(store, replace_or_not, 2)


def test_a_counter_loses_nothing_that_was_told(open_store: Any, path: Path) -> None:
    """Killed at any moment a process has told all but the last of what it added."""
    store = open_store()
    for _ in range(5):
        before = store.incr(b"n", 0)
        with Child(
            """
            import sys, mmkv
            db = mmkv.open(sys.argv[1], "w")
            while True:
                print(db.incr(b"n"))
            """,
            path,
        ) as child:
            for _ in range(50):
                child.line()
            told = child.kill().split()
        assert store.incr(b"n", 0) - before - 50 - len(told) in (0, 1)


def test_in_a_forked_child(store: Any) -> None:
    store.incr(b"n")
    fork_and_wait(lambda: store.incr(b"n"))
    assert store.incr(b"n") == 3


def test_two_handles_of_one_process(open_store: Any) -> None:
    one, two = open_store(), open_store()
    assert one.add(b"k", b"1")
    assert not two.add(b"k", b"2")
    assert two.compare_and_swap(b"k", b"1", b"3")
    assert not one.compare_and_swap(b"k", b"1", b"4")
    assert [one.incr(b"n"), two.incr(b"n"), one.incr(b"n")] == [1, 2, 3]
    assert isinstance(one, mmkv.Store)
