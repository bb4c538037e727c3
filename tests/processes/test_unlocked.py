"""With a shard locked nothing long is copied, and no hash is asked for that may be Python's (I21)."""

from __future__ import annotations

import signal
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.crafted import key_of
from tests.processes.live import Live, looking_at, stop_where
from tests.support import Child, beside_tests, run_python

KEY = b"the key"
LONG = 60_000  # bytes: more than may be copied under a lock

# -- hashes -----------------------------------------------------------------------------------------------------------

# The hash function is replaced by one that looks at the lock words of the file: `told` is the operations under way when
# it was called with a lock held.
LOOKING = """
    import os, sys
    from pathlib import Path
    import mmkv, xxhash
    from mmkv._hot import set_hash
    from mmkv._native import ffi, hash_route, lib
    from tests.processes.live import ALLOCATOR, looking_at

    assert hash_route == "python"
    operation, told = None, set()
    first = lambda data: None

    def hash_and_look(data, seed):
        content = bytes(data)
        if operation and (live.held(os.getpid()) or live.owner(ALLOCATOR) == os.getpid()):
            told.add(operation)
        first(content)
        return xxhash.xxh3_64_intdigest(content, seed)

    set_hash(hash_and_look)
    path = Path(sys.argv[1])
    db = mmkv.open(path, "w", sync="manual", verify_reads=True)
    with looking_at(path) as live:
"""


def looking(code: str) -> str:
    return textwrap.dedent(LOOKING) + textwrap.indent(textwrap.dedent(code), "    ")


def environment(hot: str = "native") -> dict[str, str]:
    return {"MMKV_HASH": "python", "MMKV_HOT": hot, "PYTHONPATH": beside_tests()}


@pytest.fixture
def filled(open_store: Any) -> Any:
    """A store that has room already: the table entry of a new zone is hashed by whoever makes the file longer."""
    db = open_store(shards=4, sync="manual")
    db.update({b"%d" % i: b"x" * (i * i % 20_000) for i in range(1000)})
    db.update({b"long %d" % i: b"x" * LONG for i in range(20)})
    db.clear()
    return db


@pytest.mark.parametrize("hot", ["native", "cffi"])
def test_no_operation_hashes_with_a_lock_held(filled: Any, path: Path, hot: str) -> None:
    told = run_python(
        looking(
            """
            sizes = [0, 8, 2000, 12_000, 40_000, 60_000]
            model = {b"%d" % i: b"v" * sizes[i % 6] for i in range(200)}
            def transaction():
                with db.transaction() as t:
                    assert t[b"0"] is not None and t.get(b"nothing") is None
                    for i in range(60):
                        t[b"%d" % i] = b"w" * sizes[i % 6]
                    del t[b"5"]
            operations = {
                "update": lambda: db.update(model),
                "overwrite": lambda: [db.put(key, value + b"!") for key, value in model.items()],
                "get": lambda: [db[key] for key in model],
                "get_many": lambda: db.get_many(list(model)),
                "items": lambda: list(db.items()),
                "iter": lambda: list(db),
                "setdefault": lambda: [db.setdefault(key, b"d") for key in model],
                "swap": lambda: [db.compare_and_swap(key, db[key], b"s" * len(db[key])) for key in model],
                "incr": lambda: [db.incr(b"n") for _ in range(5)],
                "transaction": transaction,
                "pop": lambda: [db.pop(b"%d" % i) for i in range(20, 40)],
                "popitem": lambda: [db.popitem() for _ in range(20)],
                "delete": lambda: [db.delete(b"%d" % i) for i in range(40, 60)],
                "sync": lambda: db.sync(),
                "verify": lambda: db.verify(),
                "clear": lambda: db.clear(),
            }
            for operation, act in operations.items():
                act()
            assert len(db) == 0
            operation = None
            db.close()
            print(*told)
            """
        ),
        path,
        environment=environment(hot),
    )
    assert told.split() == []


@pytest.mark.parametrize("hot", ["native", "cffi"])
def test_a_key_in_the_way_is_not_hashed_with_a_lock_held(filled: Any, path: Path, hot: str) -> None:
    """Two keys that the index cannot tell apart: whether the other one belongs where it lies is asked of its hash."""
    with looking_at(path) as live:
        one, other = (key_of(0x0123_4567_89AB_CDEF ^ i << 26, live.seed) for i in range(2))
    assert one != other
    told = run_python(
        looking(
            """
            one, other = map(bytes.fromhex, sys.argv[2:])
            db[one] = b"1"
            def transaction():
                with db.transaction() as t:
                    t[other] = t.get(other, b"") + b"t"
            operations = {
                "put": lambda: db.put(other, b"2"),
                "pop": lambda: db.pop(other),
                "transaction": transaction,
                "swap": lambda: db.compare_and_swap(other, b"t", b"s"),
                "swap_away": lambda: db.compare_and_swap(other, b"s", None),
                "add": lambda: db.add(other, b"2"),
                "delete": lambda: db.delete(other),
                "verify": lambda: db.verify(),
            }
            for operation, act in operations.items():
                act()
            operation = None
            assert dict(db) == {one: b"1"}
            db.close()
            print(*told)
            """
        ),
        path,
        one.hex(),
        other.hex(),
        environment=environment(hot),
    )
    assert told.split() == []


@pytest.mark.parametrize(
    "write",
    [
        "db.put(key, b'v')",
        "db.add(key, b'v')",
        "db.delete(key)",
        "db.pop(key)",
        "db.update({key: b'v', b'other': b'v'})",
    ],
)
def test_a_write_meets_a_damaged_key_all_the_same(filled: Any, path: Path, open_store: Any, write: str) -> None:
    """What is not asked with the lock held has been asked before."""
    filled[KEY] = b"the value"
    filled.close()
    content = bytearray(path.read_bytes())
    content[content.index(KEY + b"the value")] ^= 1
    path.write_bytes(content)
    open_store.expect_damage(path)
    run_python(
        f"""
        import sys, mmkv
        key = sys.argv[2].encode()
        with mmkv.open(sys.argv[1], "w", sync="manual") as db:
            try:
                {write}
            except mmkv.CorruptStoreError:
                pass
            else:
                raise AssertionError("not noticed")
        """,
        path,
        KEY.decode(),
        environment=environment(),
    )


WRITER = """
    import sys, mmkv
    db = mmkv.open(sys.argv[1], sync="manual")
    print("ready")
    while True:
        for size in (40_000, 60_000):
            db[b"the key"] = b"w" * size
"""


def taken_over(path: Path, code: str, end: Callable[[Child, Live], None]) -> None:
    """Run code in a process that finds the shard of KEY half-written, waits for it, and takes it over from the dead."""
    with Child(WRITER, path) as writer, looking_at(path) as live:
        assert writer.line() == "ready"
        shard, pid = live.shard_of(KEY), writer.process.pid
        stop_where(pid, lambda: live.held(pid, odd=True) == [shard])
        with Child(code, path, environment=environment()) as reader:
            assert reader.line() == "ready"
            while not live.asks(shard):
                assert reader.process.poll() is None
            writer.kill()
            end(reader, live)


def test_iteration_hashes_what_it_has_copied(filled: Any, path: Path) -> None:
    """Also when no version has stood for long enough, so that the copy was made under the lock."""
    filled.update({b"%d" % i: b"value" for i in range(100)})

    def end(reader: Child, live: Live) -> None:
        assert reader.line() == "True"
        assert reader.line() == "set()"
        reader.end()

    taken_over(
        path,
        looking(
            """
            print("ready")
            operation = "items"
            items = dict(db.items())
            operation = None
            print(items.keys() >= {b"%d" % i for i in range(100)})
            print(told)
            db.close()
            """
        ),
        end,
    )


# -- copies -----------------------------------------------------------------------------------------------------------

# A buffer whose end cannot be stored to: who copies more than its first page dies of it, with the locks that it holds.
DEADLY = """
    import mmap
    fd = os.memfd_create("buffer")
    os.ftruncate(fd, 100_000)
    memory = mmap.mmap(fd, 100_000)
    os.ftruncate(fd, 4096)
    buffer, length = ffi.from_buffer(memory), ffi.new("size_t *")
    key = b"the key"
    handle = ffi.cast("mmkv_store *", db._during(int))
    hashed = lib.mmkv_hash(handle, key, len(key))
"""


def died_without_a_lock(child: Child, live: Live) -> None:
    child.process.communicate()
    assert child.process.returncode == -signal.SIGBUS
    assert live.held(child.process.pid) == []


def test_a_value_that_has_grown_is_not_copied_with_the_lock_held(filled: Any, path: Path) -> None:
    """It was short when it was looked at before the lock was taken."""
    code = """
        other = mmkv.open(path, "w", sync="manual")
        def first(content):
            if content == b"short" and other.get(key) == b"short":
                other[key] = b"l" * 60_000
        print("ready")
        lib.mmkv_delete(handle, hashed, key, len(key), buffer, len(memory), length, 0)
    """
    filled[KEY] = b"short"
    with (
        looking_at(path) as live,
        Child(looking(textwrap.dedent(DEADLY) + textwrap.dedent(code)), path, environment=environment()) as child,
    ):
        assert child.line() == "ready"
        died_without_a_lock(child, live)
    assert filled[KEY] == b"l" * LONG


def test_a_long_value_of_a_shard_taken_over_is_not_copied_with_the_lock_held(filled: Any, path: Path) -> None:
    code = """
        print("ready")
        lib.mmkv_get(handle, hashed, key, len(key), buffer, len(memory), length, 0)
    """
    taken_over(path, looking(textwrap.dedent(DEADLY) + textwrap.dedent(code)), died_without_a_lock)
