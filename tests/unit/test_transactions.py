"""Transactions: all or nothing, as if alone, whatever others do and whenever somebody is killed."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mmkv
from mmkv._native import ffi, lib
from tests.processes.live import looking_at, stop_where
from tests.support import Child, beside_tests, check_report

LONG = 100_000  # bytes: an extent of its own, compared with no lock held


def keys_of_one_shard(db: Any, n: int) -> list[bytes]:
    """Keys that lie in the same shard of 64."""
    handle = ffi.cast("mmkv_store *", db._during(int))
    found: list[bytes] = []
    i = 0
    while len(found) < n:
        key = b"one %d" % i
        if lib.mmkv_hash(handle, key, len(key)) >> 58 == 0:
            found.append(key)
        i += 1
    return found


# -- what a transaction is --------------------------------------------------------------------------------------------


def test_nothing_is_seen_before_the_end_and_all_of_it_after(store: Any, open_store: Any) -> None:
    store.update({b"a": b"1", b"gone": b"x"})
    other = open_store()
    with store.transaction() as t:
        t[b"a"] = b"2"
        t[b"b"] = b"long" * LONG
        del t[b"gone"]
        assert dict(other) == {b"a": b"1", b"gone": b"x"}
        assert (t[b"a"], t[b"b"], t.get(b"gone"), b"gone" in t) == (b"2", b"long" * LONG, None, False)
    assert dict(other) == {b"a": b"2", b"b": b"long" * LONG}


def test_an_exception_is_passed_on_and_nothing_has_happened(store: Any) -> None:
    store[b"a"] = b"1"
    with pytest.raises(KeyError, match="what"), store.transaction() as t:
        t[b"a"] = b"2"
        t[b"b"] = b"3"
        raise KeyError("what")
    assert dict(store) == {b"a": b"1"}


def test_an_aborted_transaction_has_not_happened(store: Any) -> None:
    with store.transaction() as t:
        t[b"a"] = b"1"
        t.abort()
    assert len(store) == 0


def any_call(key: bytes, value: bytes, rng: random.Random) -> Callable[[Any], object]:
    """An operation that a store and a transaction have."""
    return rng.choice(
        [
            lambda db: db.get(key),
            lambda db: db.get(key, 7),
            lambda db: db[key],
            lambda db: key in db,
            lambda db: db.put(key, value),
            lambda db: db.update({key: value, b"u": value}),
            lambda db: db.delete(key),
            lambda db: db.__delitem__(key),
            lambda db: db.__setitem__(key, bytearray(value)),
            lambda db: db.pop(key),
            lambda db: db.pop(key, None),
            lambda db: db.setdefault(key, value),
            lambda db: db.add(key, memoryview(value)),
            lambda db: db.replace(key, value),
            lambda db: db.incr(key, -5, initial=2**63 - 1),
            lambda db: db.incr(key, 2**62),
            lambda db: db.get("text"),
            lambda db: db.put(b"k", "text"),
            lambda db: db.put(b"k" * 70_000, b""),
        ]
    )


def test_operations_do_what_those_of_the_store_do(store: Any, open_store: Any, rng: random.Random) -> None:
    plain = open_store("plain.mmkv")
    for round_ in range(30):
        with store.transaction() as t:
            for _ in range(40):
                call = any_call(b"%d" % rng.randrange(12), rng.randbytes(rng.choice([0, 3, 8, 8, 8, 3000])), rng)
                outcomes = []
                for db in (t, plain):
                    try:
                        outcomes.append((None, call(db)))
                    except Exception as error:
                        outcomes.append((type(error), str(error).split(": ")[-1]))
                assert outcomes[0] == outcomes[1]
        assert dict(store) == dict(plain), f"after round {round_}"


def test_of_two_values_for_a_key_the_last_one_counts(store: Any) -> None:
    with store.transaction() as t:
        t[b"a"] = b"1"
        t[b"a"] = b"2"
        t[b"b"] = b"1"
        del t[b"b"]
    assert dict(store) == {b"a": b"2"}


def test_an_empty_transaction(store: Any) -> None:
    with store.transaction():
        pass
    assert len(store) == 0


def test_a_transaction_cannot_be_used_outside_its_with(store: Any) -> None:
    t = store.transaction()
    with pytest.raises(mmkv.ClosedError, match="has not begun"):
        t[b"a"] = b"1"
    with t, pytest.raises(mmkv.ClosedError, match="under way"), t:
        pass
    for use in (lambda: t.get(b"a"), lambda: t.put(b"a", b"1"), lambda: t.delete(b"a"), t.__enter__):
        with pytest.raises(mmkv.ClosedError, match="has ended"):
            use()
    assert "has ended" in repr(t)


def test_it_is_no_mapping_that_could_be_iterated(store: Any) -> None:
    with store.transaction() as t:
        with pytest.raises(TypeError):
            iter(t)
        with pytest.raises(TypeError):
            len(t)


# -- as if alone ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3000, LONG])
@pytest.mark.parametrize("change", ["changed", "removed", "appeared"])
@pytest.mark.parametrize("writes", [True, False])
def test_what_was_read_and_changed_since_is_a_conflict(store: Any, size: int, change: str, writes: bool) -> None:
    store[b"other"] = b"1"
    if change != "appeared":
        store[b"key"] = b"v" * size
    with pytest.raises(mmkv.ConflictError, match="changed since") as caught, store.transaction() as t:
        assert t.get(b"key") == (None if change == "appeared" else b"v" * size)
        t.get(b"other")
        if change == "removed":
            del store[b"key"]
        else:
            store[b"key"] = b"w" * size
        if writes:
            t[b"new"] = b"1"
    assert caught.value.path == store.path
    assert b"new" not in store


@pytest.mark.parametrize("size", [1, 3000, LONG])
def test_what_was_read_and_is_the_same_again_is_none(store: Any, size: int) -> None:
    store[b"key"] = b"v" * size
    with store.transaction() as t:
        t[b"seen"] = t[b"key"]
        store[b"key"] = b"w" * size
        store[b"key"] = b"v" * size
    assert store[b"seen"] == b"v" * size


def test_a_write_without_a_look_conflicts_with_nothing(store: Any) -> None:
    store[b"key"] = b"1"
    with store.transaction() as t:
        t[b"key"] = b"3"
        store[b"key"] = b"2"
    assert store[b"key"] == b"3"


def test_other_keys_of_the_same_shard_conflict_with_nothing(store: Any) -> None:
    a, b, c = keys_of_one_shard(store, 3)
    store.update({a: b"1", b: b"1"})
    with store.transaction() as t:
        t[a] = t[a] + b"2"
        store[b] = b"5"
        store[c] = b"6"
    assert dict(store) == {a: b"12", b: b"5", c: b"6"}


def test_write_skew_is_impossible(store: Any) -> None:
    # Each may go off duty while the other is on; both did, where only what is written is looked at.
    store.update({b"anna": b"on", b"bert": b"on"})
    with pytest.raises(mmkv.ConflictError), store.transaction() as t:
        assert t[b"bert"] == b"on"
        t[b"anna"] = b"off"
        with store.transaction() as u:
            assert u[b"anna"] == b"on"
            u[b"bert"] = b"off"
    assert dict(store) == {b"anna": b"on", b"bert": b"off"}


def test_transactions_of_threads_are_independent(store: Any) -> None:
    store.update({b"%d" % i: b"0" for i in range(8)})

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(300):
            picked = [b"%d" % i for i in rng.sample(range(8), 3)]

            def step(t: Any, picked: list[bytes] = picked) -> None:
                for key in picked:
                    t[key] = b"%d" % (int(t[key]) + 1)

            store.atomically(step)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(map(int, store.values())) == 4 * 300 * 3


# -- atomically -------------------------------------------------------------------------------------------------------


def test_atomically_tries_until_it_succeeds_and_passes_the_result_on(store: Any) -> None:
    store[b"key"] = b"0"
    runs = []

    def step(t: Any) -> int:
        runs.append(int(t[b"key"]))
        if len(runs) < 4:
            store[b"key"] = b"%d" % len(runs)
        t[b"key"] = b"done"
        return 42

    assert store.atomically(step) == 42
    assert runs == [0, 1, 2, 3]
    assert store[b"key"] == b"done"


def test_atomically_gives_up_after_so_many_attempts(store: Any) -> None:
    runs = []

    def step(t: Any) -> None:
        runs.append(t.get(b"key"))
        store[b"key"] = b"%d" % len(runs)
        t[b"new"] = b"1"

    with pytest.raises(mmkv.ConflictError):
        store.atomically(step, attempts=3)
    assert runs == [None, b"1", b"2"]
    assert b"new" not in store
    with pytest.raises(ValueError):
        store.atomically(step, attempts=0)


def test_atomically_passes_on_what_the_function_raises(store: Any) -> None:
    def step(t: Any) -> None:
        t[b"key"] = b"1"
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        store.atomically(step)
    assert len(store) == 0


def test_atomically_does_not_pass_on_what_was_raised_over_what_never_was(store: Any) -> None:
    store.update({b"a": b"1", b"b": b"1"})
    runs = []

    def step(t: Any) -> int:
        a = int(t[b"a"])
        if not runs:
            runs.append(a)
            store.update({b"a": b"2", b"b": b"2"})
        return 1 // (a == int(t[b"b"]))

    assert store.atomically(step) == 1


def test_an_aborted_function_is_not_run_again(store: Any) -> None:
    def step(t: Any) -> str:
        t[b"key"] = b"1"
        t.abort()
        return "left"

    assert store.atomically(step) == "left"
    assert len(store) == 0


# -- large ones -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 64, 1024])
def test_many_keys_with_splits_and_growth_in_the_midst(open_store: Any, rng: random.Random, shards: int) -> None:
    db = open_store(shards=shards)
    expected: dict[bytes, bytes] = {}
    for _ in range(3):
        with db.transaction() as t:
            for _ in range(10_000):
                key, value = b"%d" % rng.randrange(20_000), rng.randbytes(rng.choice([0, 8, 100, 900]))
                if key in expected and rng.random() < 0.3:
                    del t[key], expected[key]
                else:
                    t[key] = expected[key] = value
        assert dict(db) == expected
    with db.transaction() as t:
        for key in expected:
            assert t.delete(key)
    assert len(db) == 0
    check_report(db.verify(), Path(db.path))
    assert db.stats().data_bytes == 0


def test_large_values_come_and_go(store: Any, rng: random.Random) -> None:
    expected: dict[bytes, bytes] = {}
    for _ in range(12):
        with store.transaction() as t:
            for _ in range(30):
                key, size = b"%d" % rng.randrange(25), rng.choice([0, 100, 2500, 5000, 20_000, 40_000, 300_000])
                if key in expected and rng.random() < 0.3:
                    del t[key], expected[key]
                else:
                    t[key] = expected[key] = rng.randbytes(size)
        assert dict(store) == expected
        check_report(store.verify(), Path(store.path))
        if rng.random() < 0.5:
            store.sync()


def test_many_writes_to_one_shard(store: Any) -> None:
    # More stores than the shard's own log has room for, and many chunks and large values that die in one go.
    keys = keys_of_one_shard(store, 400)
    for size in (3000, 20_000, 10, 3000):
        with store.transaction() as t:
            t.update((key, key.ljust(size, b".")) for key in keys)
        assert store.get_many(keys) == [key.ljust(size, b".") for key in keys]
        check_report(store.verify(), Path(store.path))


def test_records_of_large_classes_share_chunks(open_store: Any) -> None:
    db = open_store(shards=1)
    with db.transaction() as t:
        t.update((b"%d" % i, b"x" * 2200) for i in range(1000))
    # Alone in pages of their own they would take 4 MB.
    assert db.stats().heap_bytes < 3_500_000


def test_a_transaction_for_which_there_is_no_room_has_not_happened(open_store: Any) -> None:
    db = open_store(max_size=8 << 20)
    db.update((b"%d" % i, b"v" * 500) for i in range(2000))
    before = dict(db)
    for size, n in ((500, 30_000), (100_000, 100), (20 << 20, 1)):
        with pytest.raises(mmkv.StoreFullError), db.transaction() as t:
            t.update((b"%d" % i, b"w" * size) for i in range(n))
            t[b"more"] = b"w"
        assert dict(db) == before
        check_report(db.verify(), Path(db.path))
    with db.transaction() as t:
        t[b"0"] = b"w"
    assert db[b"0"] == b"w"


# -- modes ------------------------------------------------------------------------------------------------------------


def test_a_store_open_for_reading(store: Any, open_store: Any) -> None:
    store.update({b"a": b"1", b"b": b"1"})
    reader = open_store(mode="r")
    with reader.transaction() as t:
        assert (t[b"a"], t[b"b"]) == (b"1", b"1")
        assert not t.delete(b"none")
    with pytest.raises(mmkv.ConflictError), reader.transaction() as t:
        assert (t[b"a"], t[b"b"]) == (b"1", b"1")
        store[b"b"] = b"2"
    for write in (
        lambda t: t.put(b"a", b"2"),
        lambda t: t.delete(b"a"),
        lambda t: t.pop(b"a"),
        lambda t: t.add(b"new", b"1"),
        lambda t: t.incr(b"n"),
    ):
        with pytest.raises(mmkv.ReadOnlyError), reader.transaction() as t:
            write(t)
    assert dict(store) == {b"a": b"1", b"b": b"2"}


def test_a_private_copy(store: Any, open_store: Any) -> None:
    store.update({b"a": b"1", b"b": b"2"})
    store.close()
    with open_store(mode="p") as private:
        with private.transaction() as t:
            t[b"a"] = t[b"b"]
            t[b"long"] = b"x" * LONG
        assert (private[b"a"], len(private[b"long"])) == (b"2", LONG)
        check_report(private.verify(), Path(store.path))
    with open_store() as again:
        assert dict(again) == {b"a": b"1", b"b": b"2"}


def test_a_private_copy_whose_original_has_changed_ends_atomically(store: Any, open_store: Any) -> None:
    store[b"a"] = b"1"
    store.close()
    private = open_store(mode="p")
    again = open_store()

    def step(t: Any) -> None:
        t[b"b"] = b"2"

    with pytest.raises(mmkv.ConflictError, match="private copy"):
        private.atomically(step)
    again.close()


def test_a_closed_store(store: Any) -> None:
    with pytest.raises(mmkv.ClosedError), store.transaction() as t:
        t[b"a"] = b"1"
        store.close()
    with pytest.raises(mmkv.ClosedError):
        store.transaction()
    with pytest.raises(mmkv.ClosedError):
        store.atomically(len)


def test_always_durable(open_store: Any) -> None:
    db = open_store(sync="always")
    with db.transaction() as t:
        t.update({b"a": b"1", b"b": b"2"})
    assert db.durable_epoch == db.epoch - 1
    epoch = db.epoch
    with db.transaction() as t:
        assert t[b"a"] + t[b"b"] == b"12"
    assert db.epoch == epoch


# -- processes and deaths ---------------------------------------------------------------------------------------------

MOVER = """
import random, sys
import mmkv

path, seed, accounts, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
rng = random.Random(seed)
db = mmkv.open(path, "w", sync="manual")

def move(t):
    a, b = rng.sample(range(accounts), 2)
    amount = rng.randrange(10)
    for account, change in ((a, -amount), (b, amount)):
        key = b"account %d" % account
        t[key] = b"%d" % (int(t[key]) + change) + b" " * rng.choice([0, 0, 0, 30, 300, 3000, size])
    t.incr(b"moves %d" % seed)
    serial = t.incr(b"serial")
    t[b"entry %d" % serial] = b"%d %d %d" % (a, b, amount)
    t.pop(b"entry %d" % (serial - 50), None)
    return serial

print("ready")
while True:
    db.atomically(move)
    if rng.random() < 0.02:
        db.sync()
"""
ACCOUNTS = 20


def balance(db: Any) -> tuple[int, int]:
    """The sum of all accounts, and the number of entries, in one transaction."""

    def look(t: Any) -> tuple[int, int]:
        serial = int.from_bytes(t.get(b"serial", b""), "little")
        entries = [t.get(b"entry %d" % i) is not None for i in range(max(1, serial - 49), serial + 2)]
        assert entries == [True] * (len(entries) - 1) + [False] or not serial
        return sum(int(t[b"account %d" % i]) for i in range(ACCOUNTS)), len(entries) - 1

    result: tuple[int, int] = db.atomically(look)
    return result


def test_money_is_never_made_nor_lost_whoever_is_killed(open_store: Any, path: Path, rng: random.Random) -> None:
    db = open_store()
    db.update({b"account %d" % i: b"100" for i in range(ACCOUNTS)})
    environment = {"PYTHONPATH": beside_tests()}
    reader = open_store(mode="r")
    for _ in range(6):
        children = [
            Child(MOVER, path, rng.randrange(1 << 30), ACCOUNTS, rng.choice([3000, 60_000]), environment=environment)
            for _ in range(2)
        ]
        for child in children:
            assert child.line() == "ready"
        moves = int.from_bytes(db.get(b"serial", b""), "little")
        while int.from_bytes(db.get(b"serial", b""), "little") < moves + rng.randrange(20, 200):
            assert balance(db)[0] == 100 * ACCOUNTS
        assert balance(reader)[0] == 100 * ACCOUNTS
        check_report(db.verify(), path)
        for child in children:
            os.kill(child.process.pid, signal.SIGKILL)
        assert balance(db)[0] == 100 * ACCOUNTS
        for child in children:
            child.kill()
        check_report(db.verify(), path)
    serial = int.from_bytes(db[b"serial"], "little")
    assert sum(int.from_bytes(db[key], "little") for key in db if key.startswith(b"moves")) == serial


COMMITTER = """
    import sys, mmkv
    db = mmkv.open(sys.argv[1], "w", sync="manual", lock_timeout=60)
    print("ready")
    i = 0
    while True:
        i += 1
        with db.transaction() as t:
            t.update((b"key %d" % j, b"%d " % i + b"w" * (j * i % 700)) for j in range(400))
"""


def test_a_process_stopped_in_a_transaction_keeps_others_out_and_killed_lets_them_in(
    open_store: Any, path: Path
) -> None:
    keys = [b"key %d" % i for i in range(400)]
    db = open_store(shards=4, sync="manual", lock_timeout=0.1)
    db.update((key, b"0 ") for key in keys)
    with Child(COMMITTER, path) as child, looking_at(path) as live:
        pid = child.process.pid
        assert child.line() == "ready"
        stop_where(pid, lambda: 1 < len(live.held(pid, odd=True)) < 4)
        held = live.held(pid)
        assert held == [0, 1, 2, 3]
        theirs = next(key for key in keys if live.shard_of(key) == live.held(pid, odd=True)[0])
        for call in (lambda: db.put(theirs, b""), lambda: db[theirs], lambda: db._commit({}, {theirs: b"", b"x": b""})):
            with pytest.raises(mmkv.LockTimeoutError) as caught:
                call()
            assert caught.value.pid == pid
        child.kill()
    rounds = {value.split()[0] for value in db.get_many(keys)}
    assert len(rounds) == 1, f"a transaction half happened: rounds {rounds}"
    check_report(db.verify(), path)


def test_a_transaction_that_gets_one_lock_and_not_the_other_has_not_happened(open_store: Any, path: Path) -> None:
    keys = [b"key %d" % i for i in range(400)]
    db = open_store(shards=4, sync="manual", lock_timeout=0.1)
    db.update((key, b"old") for key in keys)
    writer = COMMITTER.replace("range(400)", "range(1)")
    with Child(writer, path) as child, looking_at(path) as live:
        pid = child.process.pid
        assert child.line() == "ready"
        stop_where(pid, lambda: bool(live.held(pid, odd=True)))
        (shard,) = live.held(pid)
        others = [key for key in keys if live.shard_of(key) != shard]
        theirs = next(key for key in keys[1:] if live.shard_of(key) == shard)
        with pytest.raises(mmkv.LockTimeoutError) as caught, db.transaction() as t:
            t.update(dict.fromkeys([theirs, *others], b"new"))
        assert caught.value.pid == pid
        assert set(db.get_many(others)) == {b"old"}
        with db.transaction() as t:
            t.update(dict.fromkeys(others, b"new"))
        os.kill(pid, signal.SIGCONT)
        with db.transaction() as t:
            t[theirs] = t[others[0]]
        assert db[theirs] == b"new"
        child.kill()
    check_report(db.verify(), path)


def test_a_thread_of_the_same_process_does_not_see_half(store: Any) -> None:
    store.update({b"a": b"0", b"b": b"0"})
    stop = threading.Event()

    def write() -> None:
        i = 0
        while not stop.is_set():
            i += 1
            with store.transaction() as t:
                t[b"a"] = t[b"b"] = b"%d" % i

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(2000):
            b, a = int(store[b"b"]), int(store[b"a"])
            assert a >= b, "what was written in one step was seen in two"
    finally:
        stop.set()
        thread.join()
