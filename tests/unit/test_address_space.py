"""Address space: how much a handle takes, and a map that is made anew elsewhere when what was reserved is used up."""

from __future__ import annotations

import mmap
import os
import resource
import threading
from pathlib import Path
from typing import Any

import pytest

import mmkv
from tests.support import Child, check_file, run_python

MIB = 1 << 20
ENOUGH_TO_MOVE = 70 * MIB
"""A value that does not fit what a store of `open_small` has reserved."""
GROW = """
import sys, mmkv
with mmkv.open(sys.argv[1], "w") as db:
    db[b"large"] = bytes(int(sys.argv[2]))
"""


def open_small(path: Path, **options: Any) -> mmkv.Store:
    """Open a store as where address space is scarce: it reserves 64 MiB, and moves when that is used up."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    resource.setrlimit(resource.RLIMIT_AS, (used + 100 * MIB, limits[1]))
    try:
        return mmkv.open(path, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def maps_of(path: Path) -> int:
    """How many of this process's maps begin at the beginning of a file, but for the page that holds a slot's lock."""
    inode, found = os.stat(path).st_ino, 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, offset, _, number, *_ = line.split()
        start, end = (int(part, 16) for part in span.split("-"))
        found += int(number) == inode and int(offset, 16) == 0 and end - start > mmap.PAGESIZE
    return found


def test_many_handles_leave_address_space(tmp_path: Path) -> None:
    """A thousand of them, of one store and of several; before, they had it all after 128."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    stores: list[mmkv.Store] = []
    try:
        if limits[1] < 2500:
            pytest.skip(f"at most {limits[1]} descriptors")
        for number in range(10):
            stores.append(mmkv.open(tmp_path / f"{number}.mmkv", shards=1))
            stores[-1][b"key"] = b"value"
            stores.extend(mmkv.open(tmp_path / f"{number}.mmkv", "r") for _ in range(99))
        assert all(db[b"key"] == b"value" for db in stores)
        mmap.mmap(-1, 64 << 40, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000).close()
    finally:
        for db in stores:
            db.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("guard", [False, True], ids=["", "guard"])
@pytest.mark.parametrize("call", ["sync", "close", "put", "get", "verify", "clear", "transaction", "len"])
def test_what_another_process_added_is_mapped_elsewhere(call: str, guard: bool, tmp_path: Path) -> None:
    """In the middle of whatever call finds that out: what it has locked it lets go."""
    path = tmp_path / "store.mmkv"
    db = open_small(path, sync="manual", guard=guard)
    db[b"key"] = b"value"
    run_python(GROW, path, ENOUGH_TO_MOVE)
    assert maps_of(path) == 1
    calls: dict[str, Any] = {
        "sync": db.sync,
        "close": db.close,
        "put": lambda: db.put(b"key", b"other"),
        "get": lambda: db.get(b"large"),
        "verify": db.verify,
        "clear": db.clear,
        "transaction": lambda: db.atomically(lambda t: t.put(b"key", t[b"large"][:10])),
        "len": lambda: len(list(db)),
    }
    calls[call]()
    if call != "close":
        assert maps_of(path) == 2, "it has moved"
        db.sync()
        assert db.verify().ok
        db.close()
    check_file(path)


def test_maps_move_beside_threads_and_another_process(tmp_path: Path) -> None:
    """All that a store can do, in threads that share a handle, while both sides make the file longer."""
    path = tmp_path / "store.mmkv"
    db = open_small(path, shards=4)
    stop = threading.Event()
    errors: list[BaseException] = []

    def use(work: Any) -> None:
        number = 0
        try:
            while not stop.is_set():
                work(number := number + 1)
        except BaseException as error:
            errors.append(error)

    def write(number: int) -> None:
        db[b"%d" % (number % 500)] = b"%d " % (number % 500) * (number % 3000)

    def read(number: int) -> None:
        value = db.get(b"%d" % (number % 500))
        assert value is None or value == b"%d " % (number % 500) * (len(value) // len(b"%d " % (number % 500)))

    works = [write, read, lambda _: db.sync(), lambda _: db.incr(b"counter"), lambda _: len(db.items())]
    threads = [threading.Thread(target=use, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    code = """
        import sys, mmkv
        with mmkv.open(sys.argv[1], "w") as db:
            for i in range(1, 5):
                db[b"theirs"] = bytes(i * 40_000_000)
                print(db.incr(b"counter"))
        """
    with Child(code, path) as child:
        for i in range(1, 5):
            child.line()
            db[b"ours"] = bytes(i * 40_000_000)
        child.end()
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert maps_of(path) == 2, "it has moved"
    assert db.verify().ok
    db.close()
    check_file(path)
