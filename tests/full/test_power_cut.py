"""A power cut while the disk is full: recovery needs no room that the file does not have, or says what it needs."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import mmkv
from tests.full.content import Content, expect_full
from tests.full.disks import MIB, Disk
from tests.support import beside_tests, blocks_of, run_python

CONTROL_AT, ZONES_AT, ZONES = 0x3000, 0x18000, 2048
KINDS = ["ext4", "xfs", "tmpfs"]

# Fills a store, makes the checkpoint that will be gone back to, goes on, and is killed.
WRITER = """
import os, pickle, random, signal, sys
import mmkv
from tests.full.content import Content
path, beside, law, seed, max_size, steps = sys.argv[1:]
content = Content(mmkv.open(path, max_size=int(max_size) or None), random.Random(seed), law)
def fill(): content.fill()
def delete(): content.delete(0.5)
def most(): content.delete(0.95)
def sync():
    content.db.sync()
    with open(beside, "wb") as file:
        pickle.dump(content.expected, file)
for step in steps.split():
    globals()[step]()
os.kill(os.getpid(), signal.SIGKILL)
"""


def lose_memory(path: Path) -> None:
    """Make the boot in which the file was written another one."""
    with open(path, "r+b") as file:
        file.seek(CONTROL_AT)
        file.write(bytes(16))  # the boot id


def write_and_be_killed(
    path: Path, beside: Path, law: str, seed: object, steps: str, max_size: int = 0
) -> dict[bytes, bytes]:
    """What the store holds at its last checkpoint; nothing of the boot it was written in is trusted any more."""
    arguments = [path, beside, law, seed, max_size, steps]
    done = subprocess.run(
        [sys.executable, "-P", "-c", WRITER, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": beside_tests()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    lose_memory(path)
    expected: dict[bytes, bytes] = pickle.loads(beside.read_bytes())
    return expected


def zones_of(path: Path) -> list[tuple[int, int, int]]:
    """Offset, pages and kind (2: index) of each zone."""
    with open(path, "rb") as file:
        file.seek(ZONES_AT)
        entries = struct.iter_unpack("<QQII8x", file.read(ZONES * 32))
        return [(offset, pages, kind) for offset, pages, kind, _ in entries if offset]


@pytest.mark.parametrize("law", ["small", "all classes", "large"])
@pytest.mark.parametrize("kind", KINDS)
def test_recovery_without_a_free_block(
    make_disk: Callable[..., Disk], open_content: Callable[..., Content], tmp_path: Path, kind: str, law: str
) -> None:
    disk = make_disk(kind)
    steps = "fill sync delete sync fill sync delete fill"
    expected = write_and_be_killed(disk.path, tmp_path / "expected", law, os.environ["MMKV_TEST_SEED"], steps)
    disk.fill()
    with mmkv.open(disk.path, "p") as private:
        assert dict(private) == expected
    content = open_content(disk.path, law, mode="w")
    content.expected = expected
    content.check()
    content.delete(0.3)
    content.db.sync()
    content.put(2)
    content.reopen()
    content.check()


@pytest.mark.parametrize("seed", range(6))
def test_recovery_at_max_size(open_content: Callable[..., Content], tmp_path: Path, seed: int) -> None:
    """The limit is for what is put: a store that just fits opens again with the same limit."""
    path, limit = tmp_path / "store.mmkv", (5 + seed) * MIB
    law = "small" if seed % 2 else "all classes"
    expected = write_and_be_killed(path, tmp_path / "expected", law, seed, "fill sync delete fill", limit)
    content = open_content(path, law, mode="w", max_size=limit)
    content.expected = expected
    content.check()
    with pytest.raises(mmkv.StoreFullError):
        content.put(10**6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_room_of_a_lost_future_comes_back(make_disk: Callable[..., Disk], tmp_path: Path, kind: str) -> None:
    """Room that was given back, and taken again after the checkpoint, is given back by going back to it."""
    disk = make_disk(kind)
    expected = write_and_be_killed(disk.path, tmp_path / "expected", "large", 1, "fill sync most sync sync fill")
    full = blocks_of(disk.path)
    assert full > 20 * MIB
    with mmkv.open(disk.path, "w") as db:
        assert dict(db) == expected
        os.sync()
        assert blocks_of(disk.path) < full / 3
        assert disk.free > 10 * MIB
        assert db.verify().ok
        db[b"k"] = bytes(5 * MIB)
        assert db.verify().ok


@pytest.mark.parametrize("kind", KINDS)
def test_recovery_that_has_no_room_works_when_there_is_some(
    make_disk: Callable[..., Disk], tmp_path: Path, kind: str
) -> None:
    """The index that recovery builds has lost its pages to somebody else, which takes some doing."""
    disk = make_disk(kind)
    expected = write_and_be_killed(disk.path, tmp_path / "expected", "small", 1, "fill sync")
    index = [(offset, pages) for offset, pages, kind_, *_ in zones_of(disk.path) if kind_ == 2]
    assert index
    for offset, pages in index:
        hole = ["-o", str(offset + 4096), "-l", str((pages - 1) * 4096)]
        subprocess.run(["fallocate", "-p", *hole, disk.path], check=True)
    disk.fill()
    before = sorted(os.listdir("/proc/self/fd"))
    for mode in "wcw":
        error = expect_full(lambda mode=mode: mmkv.open(disk.path, mode))  # type: ignore[misc]
        assert error.path == str(disk.path)
    assert sorted(os.listdir("/proc/self/fd")) == before
    disk.remove("brim")
    with mmkv.open(disk.path, "w") as db:
        assert dict(db) == expected
        assert db.verify().ok


@contextmanager
def another_process(path: Path) -> Iterator[Callable[[str], str]]:
    """A process that has the store open and evaluates what it is asked to."""
    code = """
    import sys, mmkv
    with mmkv.open(sys.argv[1]) as db:
        for line in sys.stdin:
            try:
                result = eval(line)
            except mmkv.StoreFullError as error:
                result = type(error).__name__
            print(result, flush=True)
    """
    with subprocess.Popen(
        [sys.executable, "-P", "-c", "\n".join(line[4:] for line in code.splitlines()), path],
        env={**os.environ, "PYTHONPATH": beside_tests()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(line: str) -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            print(line, file=process.stdin, flush=True)
            return process.stdout.readline().strip()

        yield ask
        process.stdin.close()
        assert process.wait() == 0


def test_other_processes_go_on(disk: Disk, open_content: Callable[..., Content]) -> None:
    """What is full for one is full for all; everybody goes on reading, and on writing when somebody made room."""
    with another_process(disk.path) as ask:
        assert ask('db.put(b"theirs", b"v" * 9)') == "None"
        content = open_content(disk.path, "large")
        content.expected[b"theirs"] = b"v" * 9
        content.fill()
        assert ask('db.put(b"large", bytes(400_000))') == "StoreFullError"
        assert ask('db[b"theirs"]') == str(b"v" * 9)
        assert ask("len(db)") == str(len(content.expected))
        assert ask("db.verify().ok") == "True"
        key = next(key for key, value in content.expected.items() if len(value) > 100_000)
        assert ask(f"db[{key!r}] == {content.expected[key][:50]!r} + db[{key!r}][50:]") == "True"
        content.delete(0.5)
        content.db.sync()
        assert ask('db.put(b"large", bytes(400_000))') == "None"
        content.expected[b"large"] = bytes(400_000)
        content.expected.setdefault(b"theirs", b"v" * 9)
        assert ask('db.put(b"theirs", b"v" * 9)') == "None"
        content.check()


def test_killed_at_the_moment_of_growth(disk: Disk) -> None:
    """The file is longer than its zones, as SIGKILL in a growth leaves it: the next growth uses what is there."""
    run_python(
        """
        import os, sys, mmkv
        path = sys.argv[1]
        db = mmkv.open(path)
        db[b"k"] = b"v"
        with open(path, "r+b") as file:
            size = os.fstat(file.fileno()).st_size
            os.posix_fallocate(file.fileno(), size, 1 << 20)
            file.seek(size)
            file.write(b"\\xff" * 5000)
        os._exit(0)
        """,
        disk.path,
    )
    run_python(
        """
        import os, sys, mmkv
        db = mmkv.open(sys.argv[1], "w")
        for i in range(20):
            db[b"%d" % i] = bytes(50_000)
        db.sync()
        assert db.verify().ok
        os._exit(0)
        """,
        disk.path,
    )
    lose_memory(disk.path)  # recovery reads every descriptor
    with mmkv.open(disk.path, "w") as db:
        assert dict(db) == {b"k": b"v"} | {b"%d" % i: bytes(50_000) for i in range(20)}
        expect_full(lambda: db.put(b"huge", bytes(60 * MIB)))
        assert db.verify().ok
    with mmkv.open(disk.path, "w") as db:
        assert len(db) == 21
        assert db.verify().ok
