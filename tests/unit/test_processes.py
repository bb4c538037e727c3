"""Threads, fork, spawn, pickling: no rules to remember."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import random
import threading
from pathlib import Path
from typing import Any

import pytest

import mmkv
from tests.support import fork_and_wait, run_python

# Python 3.12 and later warn of fork in a process with threads, which is what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

# -- pickling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickled_store_opens_the_same_file(store: Any, protocol: int) -> None:
    store[b"k"] = b"v"
    with pickle.loads(pickle.dumps(store, protocol)) as other:
        assert other is not store
        assert other[b"k"] == b"v"
        other[b"k"] = b"w"
    assert store[b"k"] == b"w"


def test_pickling_a_new_store_does_not_make_it_anew(open_store: Any) -> None:
    db = open_store(mode="n")
    db[b"k"] = b"v"
    with pickle.loads(pickle.dumps(db)) as other:
        assert other[b"k"] == b"v"
    assert db[b"k"] == b"v"


def test_pickling_keeps_the_mode(open_store: Any) -> None:
    open_store()[b"k"] = b"v"
    with pickle.loads(pickle.dumps(open_store(mode="r"))) as other:
        assert other[b"k"] == b"v"
        with pytest.raises(mmkv.ReadOnlyError):
            other[b"k"] = b"w"


def test_pickling_survives_a_change_of_directory(
    open_store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with mmkv.open("store.mmkv") as db:
        db[b"k"] = b"v"
        text = pickle.dumps(db)
        monkeypatch.chdir(tmp_path / "elsewhere")
        with pickle.loads(text) as other:
            assert other[b"k"] == b"v"
    open_store()


def test_a_pickle_of_a_file_that_is_gone(open_store: Any, path: Path) -> None:
    db = open_store()
    text = pickle.dumps(db)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        pickle.loads(text)


def test_pickling_a_closed_store(store: Any) -> None:
    store.close()
    with pytest.raises(mmkv.ClosedError):
        pickle.dumps(store)


def test_copying_a_store(store: Any) -> None:
    store[b"k"] = b"v"
    for copied in (copy.copy(store), copy.deepcopy(store)):
        with copied:
            assert copied[b"k"] == b"v"
    assert store[b"k"] == b"v"


# -- multiprocessing --------------------------------------------------------------------------------------------------


def add_range(db: Any, start: int) -> int:
    for i in range(start, start + 2000):
        db[b"%d" % i] = b"%d" % (i * i)
    return len(db)


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_multiprocessing_with_a_store_as_argument(store: Any, method: str) -> None:
    store[b"k"] = b"v"
    context = multiprocessing.get_context(method)
    children = [context.Process(target=add_range, args=(store, i * 2000)) for i in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4
    assert len(store) == 8001
    assert store.get_many(b"%d" % i for i in range(8000)) == [b"%d" % (i * i) for i in range(8000)]


def test_a_pool(store: Any) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.starmap(add_range, [(store, i * 2000) for i in range(4)])
        pool.close()
        pool.join()
    assert len(store) == 8000


# -- fork -------------------------------------------------------------------------------------------------------------


def test_fork(store: Any) -> None:
    store[b"parent"] = b"before"

    def child() -> None:
        assert store[b"parent"] == b"before"
        store[b"child"] = b"1"
        for i in range(10_000):
            store[b"%d" % i] = b"x" * 100
        del store[b"5"]
        store.sync()

    fork_and_wait(child)
    assert store[b"child"] == b"1"
    assert len(store) == 10_001
    store[b"parent"] = b"after"
    assert store[b"parent"] == b"after"
    store.sync()


def test_a_forked_child_that_does_nothing_leaves_no_trace(store: Any) -> None:
    store[b"k"] = b"v"
    for _ in range(3):
        fork_and_wait(lambda: None)
        store[b"k"] = b"w"
    assert store[b"k"] == b"w"
    assert store.stats().attached == 1


def test_a_forked_child_may_close(store: Any) -> None:
    store[b"k"] = b"v"

    def child() -> None:
        store.close()
        with pytest.raises(mmkv.ClosedError):
            store[b"k"]

    fork_and_wait(child)
    store[b"k"] = b"w"
    assert store[b"k"] == b"w"


def test_parent_and_child_write_at_once(store: Any) -> None:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for i in range(20_000):
                store[b"child %d" % i] = b"c" * (i % 200)
                store[b"both"] = b"c" * 64
            code = 0
        finally:
            os._exit(code)
    for i in range(20_000):
        store[b"parent %d" % i] = b"p" * (i % 200)
        store[b"both"] = b"p" * 64
        assert store[b"both"] in (b"p" * 64, b"c" * 64)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert len(store) == 40_001


def test_grandchildren(store: Any) -> None:
    def child() -> None:
        store[b"child"] = b"1"
        fork_and_wait(lambda: store.put(b"grandchild", b"1"))
        assert store[b"grandchild"] == b"1"

    fork_and_wait(child)
    assert dict(store) == {b"child": b"1", b"grandchild": b"1"}


def test_fork_while_threads_write(store: Any) -> None:
    """The child has one thread; locks that the others hold at that moment are the parent's, not its own."""
    stop = threading.Event()

    def write(name: bytes) -> None:
        i = 0
        while not stop.is_set():
            store[name + b"%d" % (i % 500)] = b"v" * (i % 300)
            i += 1

    threads = [threading.Thread(target=write, args=(b"%d-" % n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    try:
        for round_ in range(10):

            def child(round_: int = round_) -> None:
                for i in range(200):
                    store[b"child %d %d" % (round_, i)] = b"c" * 100
                    assert store[b"child %d %d" % (round_, i)] == b"c" * 100

            fork_and_wait(child)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert sum(key.startswith(b"child") for key in store) == 2000


def test_a_child_that_has_lost_its_rights_and_its_directory(store: Any) -> None:
    """gunicorn and its like open as root and drop to another user after the fork."""
    if os.geteuid() != 0:
        pytest.skip("only root can drop its rights")
    store[b"k"] = b"v"

    def child() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        assert store[b"k"] == b"v"
        for i in range(10_000):
            store[b"%d" % i] = b"x" * 100

    fork_and_wait(child)
    assert len(store) == 10_001


def test_closerange_leaves_the_store_alone(open_store: Any, path: Path) -> None:
    """What every daemoniser does."""
    open_store.check_later(path)
    run_python(
        """
        import os, sys, mmkv
        db = mmkv.open(sys.argv[1])
        db[b"k"] = b"v"
        os.closerange(3, 1000)
        assert db[b"k"] == b"v"
        db[b"k"] = b"w"
        assert db[b"k"] == b"w"
        os._exit(0)
        """,
        path,
    )
    assert open_store()[b"k"] == b"w"


# -- threads ----------------------------------------------------------------------------------------------------------


def in_threads(*works: Any) -> None:
    """Run them all at once; raise what the first of them raised."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(works))

    def run(work: Any) -> None:
        try:
            barrier.wait()
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("handles", [1, 2])
def test_eight_threads_of_mixed_operations(open_store: Any, rng: random.Random, handles: int) -> None:
    stores = [open_store() for _ in range(handles)]
    seeds = [rng.random() for _ in range(8)]
    models: list[dict[bytes, bytes]] = [{} for _ in range(8)]

    def work(number: int) -> None:
        mine, model, db = random.Random(seeds[number]), models[number], stores[number % handles]
        for _ in range(4000):
            key = b"%d:%d" % (number, mine.randrange(300))
            value = bytes([mine.randrange(256)]) * mine.choice((0, 5, 100, 1000, 20_000))
            act = mine.randrange(10)
            if act < 4:
                db[key] = model[key] = value
            elif act == 4:
                assert db.delete(key) == (model.pop(key, None) is not None)
            elif act == 5:
                assert db.pop(key, None) == model.pop(key, None)
            elif act == 6:
                assert db.setdefault(key, value) == model.setdefault(key, value)
            elif act == 7:
                db[b"shared"] = bytes([number]) * 1000
            elif act == 8:
                shared = db.get(b"shared")
                assert shared is None or shared == shared[:1] * 1000, "torn"
            else:
                assert db.get(key) == model.get(key)
                assert (key in db) == (key in model)

    in_threads(*(lambda number=number: work(number) for number in range(8)))
    stores[0].delete(b"shared")
    assert dict(stores[0]) == {key: value for model in models for key, value in model.items()}


@pytest.mark.parametrize("size", [16, 200, 5000, 100_000])
def test_no_torn_value(store: Any, size: int) -> None:
    store[b"k"] = b"\0" * size
    stop = threading.Event()

    def write(number: int) -> None:
        try:
            for i in range(40_000_000 // (size + 20_000)):
                store[b"k"] = bytes([(number * 100 + i) & 255]) * (size - i % 3)
        finally:
            stop.set()

    def read() -> None:
        buffer = bytearray(size)
        while not stop.is_set():
            value = store[b"k"]
            assert value == value[:1] * len(value)
            length = store.get_into(b"k", buffer)
            assert buffer[:length] == buffer[:1] * length

    in_threads(lambda: write(1), lambda: write(2), read, read)


def test_a_delete_is_told_to_one_thread_only(store: Any) -> None:
    keys = [b"%d" % i for i in range(2000)]
    store.put_many((key, b"v") for key in keys)
    told: list[bytes] = []

    def delete() -> None:
        told.extend(key for key in keys if store.delete(key))

    def pop() -> None:
        told.extend(key for key in keys if store.pop(key, None) is not None)

    in_threads(delete, pop, delete, pop)
    assert sorted(told) == sorted(keys)


def test_setdefault_is_one_operation(store: Any) -> None:
    results: list[list[bytes]] = [[], [], [], []]

    def work(number: int) -> None:
        for i in range(2000):
            results[number].append(store.setdefault(b"%d" % i, b"%d" % number))

    in_threads(*(lambda number=number: work(number) for number in range(4)))
    assert results[0] == results[1] == results[2] == results[3]


def test_popitem_gives_each_item_once(store: Any) -> None:
    store.put_many((b"%d" % i, b"v%d" % i) for i in range(2000))
    got: list[tuple[bytes, bytes]] = []

    def work() -> None:
        while True:
            try:
                got.append(store.popitem())
            except KeyError:
                return

    in_threads(work, work, work, work)
    assert sorted(got) == sorted((b"%d" % i, b"v%d" % i) for i in range(2000))


def test_sync_while_threads_write(store: Any) -> None:
    stop = threading.Event()

    def write(number: int) -> None:
        i = 0
        while not stop.is_set():
            store[b"%d %d" % (number, i % 5000)] = b"v" * (i % 500)
            i += 1

    def sync() -> None:
        try:
            for i in range(20):
                epoch = store.epoch
                store[b"mine"] = b"%d" % i
                assert store.sync() >= epoch
                assert store.durable_epoch >= epoch
        finally:
            stop.set()

    in_threads(lambda: write(1), lambda: write(2), sync)


@pytest.mark.parametrize("round_", range(5))
def test_close_under_use_gives_closed_error(open_store: Any, round_: int) -> None:
    """In all eight threads, whatever they are at; none crashes, hangs or reads on."""
    db = open_store()
    db.put_many((b"%d" % i, b"v" * 100) for i in range(5000))
    db[b"large"] = b"x" * 200_000
    started = threading.Barrier(9)

    def until_closed(work: Any) -> Any:
        def run() -> None:
            work(0)
            started.wait()
            i = 0
            with pytest.raises(mmkv.ClosedError):
                while True:
                    i += 1
                    work(i)

        return run

    works = [
        lambda i: db.get(b"%d" % (i % 5000)),
        lambda i: db.put(b"%d" % (i % 5000), b"w" * (i % 200)),
        lambda i: db.get_many([b"%d" % j for j in range(500)]),
        lambda i: db.put_many([(b"%d" % j, b"w" * 150) for j in range(500)]),
        lambda i: sum(1 for _ in db.items()),
        lambda i: (db.get(b"large"), db.get_into(b"large", bytearray(200_000))),
        lambda i: db.sync(),
        lambda i: (len(db), db.stats(), db.epoch),
    ]

    def close() -> None:
        started.wait()
        for _ in range(round_ * 200):
            db.get(b"7")
        db.close()

    threads = [threading.Thread(target=close)]
    in_threads(*(until_closed(work) for work in works), threads[0].run)


def test_a_store_is_closed_by_two_threads(open_store: Any) -> None:
    for _ in range(20):
        db = open_store()
        db[b"k"] = b"v"
        in_threads(db.close, db.close, db.close)
