"""A file that is cut off while it is mapped, and pages that cannot be read: errors of the call, and nothing else.

Each test runs in a process of its own, since what must not happen is its death.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xxhash import xxh3_64_intdigest as xxh3

import mmkv
from tests.support import Child, run_python

# For the processes: what an operation comes to, and pages that fail. A page of a store's mapping is replaced by one of
# an empty file, which is what a page that the disk fails to read is to the process: SIGBUS, the file's length intact.
TOOLS = """
import ctypes, os, re, sys, tempfile, threading, mmkv

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]

class Pages:
    def __init__(self, path):
        self.fd = os.open(path, os.O_RDWR)
        self.empty = tempfile.TemporaryFile()
        self.pieces = []
        for line in open("/proc/self/maps"):
            found = re.match(r"(\\w+)-(\\w+) r[w-]-s (\\w+) .*" + re.escape(str(path)) + "$", line)
            start, end, first = [int(word, 16) for word in found.groups()] if found else (0, 0, 0)
            if end - start > 4096: # else the one page that holds the lock of the process slot
                self.pieces.append((start, end, first))
        assert self.pieces, "a store that was opened by its name"

    def put(self, offset, fd, at):
        for start, end, first in self.pieces:
            if first <= offset < first + end - start:
                where = start + offset - first
                assert libc.mmap(where, 4096, 3, 0x11, fd, at) == where, ctypes.get_errno()

    def fail(self, offset):
        self.put(offset, self.empty.fileno(), 0)

    def mend(self, offset):
        self.put(offset, self.fd, offset)

def outcome(work):
    try:
        work()
    except (mmkv.Error, OSError) as error:
        return type(error).__name__
    return "ok"
"""


def run(code: str, *arguments: object, environment: dict[str, str] | None = None) -> str:
    return run_python(TOOLS + textwrap.dedent(code), *arguments, environment=environment)


@pytest.fixture(params=["native", "cffi"])
def route(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment for each of the two hot paths."""
    return {"MMKV_HOT": request.param}


# -- truncation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["w", "r", "p"])
@pytest.mark.parametrize("left", ["0", "4096", "200000", "half"])
def test_every_operation_raises_and_the_rest_goes_on(
    mode: str, left: str, tmp_path: Path, route: dict[str, str]
) -> None:
    """What is tried after the first error raises as well; another store, and a thread that uses it, notice nothing."""
    run(
        """
        path, other_path, mode, left = sys.argv[1:]
        with mmkv.open(path) as db:
            for i in range(5000):
                db[b"%d" % i] = b"x" * 200
            db[b"long"] = b"y" * 3_000_000
        db = mmkv.open(path, mode)
        if mode == "w":
            db[b"new"] = b"value"
        iterator = iter(db.items())
        next(iterator)
        other = mmkv.open(other_path)
        stop, rounds, bad = threading.Event(), [0], []
        def use_other():
            while not stop.is_set():
                rounds[0] += 1
                other[b"%d" % (rounds[0] % 1000)] = b"%d" % rounds[0]
                if other[b"%d" % (rounds[0] % 1000)] != b"%d" % rounds[0]:
                    bad.append(rounds[0])
        thread = threading.Thread(target=use_other, daemon=True)
        thread.start()
        os.truncate(path, os.path.getsize(path) // 2 if left == "half" else int(left))
        first = next(i for i in range(5001) if outcome(lambda: db[b"%d" % i] if i < 5000 else db[b"long"]) != "ok")
        reads = {
            "get": lambda: db.get(b"1"), "absent": lambda: db.get(b"absent"), "in": lambda: b"1" in db,
            "long": lambda: db[b"long"], "get_into": lambda: db.get_into(b"1", bytearray(300)), "len": lambda: len(db),
            "get_many": lambda: db.get_many([b"%d" % i for i in range(100)]), "items": lambda: list(db.items()),
            "verify": db.verify, "stats": db.stats,
            "epoch": lambda: db.epoch, "durable": lambda: db.durable_epoch,
        }
        writes = {
            "put": lambda: db.put(b"1", b"2"), "put_long": lambda: db.put(b"k", b"v" * 2_000_000),
            "pop": lambda: db.pop(b"1"), "delete": lambda: db.delete(b"2"),
            "setdefault": lambda: db.setdefault(b"3", b""), "clear": db.clear, "incr": lambda: db.incr(b"4"),
            "add": lambda: db.add(b"k", b"v"), "cas": lambda: db.compare_and_swap(b"5", b"v", b"w"),
            "cas_long": lambda: db.compare_and_swap(b"long", b"v" * 2_000_000, None),
            "put_many": lambda: db.put_many((b"%d" % i, b"") for i in range(100)), "sync": db.sync,
        }
        assert outcome(lambda: list(iterator)) == "CorruptStoreError"
        for turn in range(2):
            for name, work in (reads if mode == "r" else reads | writes).items():
                assert outcome(work) == "CorruptStoreError", (turn, name, first)
        try:
            db[b"1"]
        except mmkv.CorruptStoreError as error:
            assert "truncated" in str(error) and path in str(error), error
        assert outcome(db.close) == ("CorruptStoreError" if mode == "w" else "ok")
        assert db.closed
        assert outcome(db.close) == "ok"
        for again in "wrp":
            assert outcome(lambda: mmkv.open(path, again)) in ("CorruptStoreError", "NotAStoreError")
        before = rounds[0]
        while rounds[0] < before + 1000 and thread.is_alive():
            pass
        stop.set()
        thread.join()
        assert not bad
        assert other.verify().ok
        other.close()
        print("end")
        """,
        tmp_path / "cut.mmkv",
        tmp_path / "other.mmkv",
        mode,
        left,
        environment=route,
    )


@pytest.mark.parametrize("work", ["get", "put", "items", "verify", "sync"])
def test_cut_off_under_a_thread(work: str, tmp_path: Path, route: dict[str, str]) -> None:
    """The thread that is in the middle of it gets the error; the process goes on and ends well.

    What is put finds room: a file that just then grows again would hide the cut (docs/design.md, known limits).
    """
    run(
        """
        path, work = sys.argv[1:]
        db = mmkv.open(path, sync="manual")
        for i in range(20000):
            db[b"%d" % i] = b"x" * 200
        for i in range(20000):
            if i % 4:
                db[b"%d" % i] = b""
        db.sync()
        rounds, raised = [0], []
        def use():
            while True:
                rounds[0] += 1
                i = rounds[0] * 7919 % 5000
                try:
                    if work == "get":
                        db.get(b"%d" % i)
                    elif work == "put":
                        db[b"%d" % i] = b"y" * 200
                    elif work == "items":
                        list(db.items())
                    elif work == "verify":
                        db.verify()
                    else:
                        db[b"%d" % i] = b"z"
                        db.sync()
                except mmkv.CorruptStoreError as error:
                    raised.append(error)
                    return
        threads = [threading.Thread(target=use, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        while rounds[0] < 5:
            pass
        os.truncate(path, os.path.getsize(path) // 2 // 4096 * 4096)
        for thread in threads:
            thread.join()
        assert len(raised) == 3, raised
        assert outcome(db.close) == "CorruptStoreError"
        """,
        tmp_path / "cut.mmkv",
        work,
        environment=route,
    )


@pytest.mark.parametrize("call", ["sync", "close", "verify", "stats"])
def test_what_reads_little_notices_too(call: str, tmp_path: Path) -> None:
    """Nothing that it touches is missing: msync of pages beyond the end of a file reports success."""
    run(
        """
        db = mmkv.open(sys.argv[1])
        for i in range(20000):
            db[b"%d" % i] = b"x" * 200
        os.truncate(sys.argv[1], os.path.getsize(sys.argv[1]) - 4096)
        assert outcome(getattr(db, sys.argv[2])) == "CorruptStoreError"
        """,
        tmp_path / "cut.mmkv",
        call,
    )


def test_a_truncated_store_nobody_closes(tmp_path: Path) -> None:
    """Neither the collection of the object nor the end of the process fails."""
    out = run(
        """
        import gc, warnings
        warnings.simplefilter("ignore")
        for i in range(2):
            db = mmkv.open(sys.argv[1] + str(i))
            db[b"key"] = b"value"
            os.truncate(db.path, 4096)
            if i == 0:
                del db
                gc.collect()
        print("end")
        """,
        tmp_path / "cut",
    )
    assert out == "end\n"


def test_a_record_of_zeros_is_not_the_empty_key(open_store: Any, path: Path) -> None:
    """Read as a record, zeros have an empty key; a key whose hash looks like that one's is not absent for it."""
    with open_store(shards=1) as db:
        seed = db.stats().hash_seed
        bits = xxh3(b"", seed) >> 44
        key = next(key for i in range(1 << 26) if xxh3(key := b"%d" % i, seed) >> 44 == bits)
        db[key] = b"a value that is found in the file"
        at = path.read_bytes().index(key + b"a value")
        whole = path.read_bytes()[at - 12 : at + len(key)]
        with open(path, "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), bytes(len(whole)), at - 12)
            with pytest.raises(mmkv.CorruptStoreError):
                db[key]
            os.pwrite(file.fileno(), whole, at - 12)
        assert db[key] == b"a value that is found in the file"


@pytest.mark.parametrize("shards", [1, 4])  # one has a directory that lies in the index, not in the shard
@pytest.mark.parametrize("left", [0.3, 0.5, 0.9])
def test_cut_off_and_grown_again(left: float, shards: int, tmp_path: Path, route: dict[str, str]) -> None:
    """Zeros in place of what was there are damage: no record is taken for absent, and no other for it."""
    run(
        """
        path, left = sys.argv[1], float(sys.argv[2])
        db = mmkv.open(path, shards=int(sys.argv[3]), sync="manual")
        for i in range(20000):
            db[b"%d" % i] = b"x%d" % i
        size = os.path.getsize(path)
        os.truncate(path, int(size * left) // 4096 * 4096)
        os.truncate(path, size)
        damaged = 0
        for i in range(20000):
            try:
                assert db[b"%d" % i] == b"x%d" % i
            except mmkv.CorruptStoreError:
                damaged += 1
        assert damaged
        assert outcome(lambda: list(db)) == "CorruptStoreError"
        assert not db.verify().ok
        for i in range(2000):
            outcome(lambda: db.put(b"%d" % i, b"y" * 300))
            outcome(lambda: db.delete(b"%d" % (i + 5000)))
        outcome(db.close)
        """,
        tmp_path / "cut.mmkv",
        left,
        shards,
        environment=route,
    )


@pytest.mark.parametrize(("shards", "records"), [(1, 1), (1, 150), (2, 200), (4, 20_000)])
def test_a_table_of_zeros_is_damage(shards: int, records: int, tmp_path: Path, route: dict[str, str]) -> None:
    """Also where an empty one looks like that, in shard 0: no key of it is absent, and nothing is left out."""
    run(
        """
        path, shards, records = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
        for shard in range(shards):
            db = mmkv.open(path, "n", shards=shards, sync="manual")
            for i in range(records):
                db[b"%d" % i] = b"x%d" % i
            word = lambda at: int.from_bytes(os.pread(file, 8, at), "little")
            file = os.open(path, os.O_RDWR)
            os.pwrite(file, bytes(4096), word(word(0x30000 + 8192 * shard + 16) & ~63) & ~63)
            found = [outcome(lambda: db[b"%d" % i]) for i in range(records)]
            assert set(found) <= {"ok", "CorruptStoreError"}, set(found)
            i = found.index("CorruptStoreError")
            calls = {
                "list": lambda: list(db), "items": lambda: list(db.items()), "in": lambda: b"%d" % i in db,
                "add": lambda: db.add(b"%d" % i, b"y"), "put": lambda: db.put(b"%d" % i, b"y"),
                "pop": lambda: db.pop(b"%d" % i), "incr": lambda: db.incr(b"%d" % i), "clear": db.clear,
            }
            for name, call in calls.items():
                assert outcome(call) == "CorruptStoreError", (shard, name)
            assert not db.verify().ok
            os.close(file)
            outcome(db.close)
        """,
        tmp_path / "zeros.mmkv",
        shards,
        records,
        environment=route,
    )


# -- pages that cannot be read ----------------------------------------------------------------------------------------


def in_turn(first: Child, second: Child, answer: str) -> None:
    """Whatever one says is passed on to the other, who has to answer, before the first goes on; until it says "end"."""
    while (line := first.line()) != "end":
        second.tell(line)
        assert second.line() == answer, line
        first.tell("go on")
    first.end()


def test_every_page_in_turn_cannot_be_read(tmp_path: Path, rng: random.Random) -> None:
    """Reads and writes, of small and large values, succeed or raise; what raised has happened or not, never half.

    Another process has the store open all the while, takes the same locks, and finds everything in order.
    """
    path = tmp_path / "store.mmkv"
    other = """
        import sys, mmkv
        db = mmkv.open(sys.argv[1], "w", sync="manual")
        print("open")
        for i, line in enumerate(sys.stdin):
            for j in range(20):
                db[b"other %d" % j] = b"%d" % i
            report = db.verify()
            print("ok" if report.ok and all(db[b"other %d" % j] == b"%d" % i for j in range(20)) else report)
    """
    with Child(textwrap.dedent(other), _made(path)) as second:
        assert second.line() == "open"
        code = """
            import random
            path = sys.argv[1]
            rng = random.Random(int(sys.argv[2]))
            db = mmkv.open(path, "w", sync="manual")
            model = {}
            def change(key, value):
                try:
                    if value is None:
                        db.delete(key)
                    else:
                        db[key] = value
                except OSError as error:
                    assert error.errno == 5 and error.filename == path, error
                    failed.append(key)
                    return
                model[key] = value
            for i in range(300):
                db[b"%d" % i] = model[b"%d" % i] = b"first" * rng.randrange(100)
            for i in range(4):
                db[b"long%d" % i] = model[b"long%d" % i] = bytes([i]) * 40_000
            pages, raised = Pages(path), 0
            size = os.path.getsize(path)
            for offset in range(0, size, 4096):
                failed, tried = [], []
                pages.fail(offset)
                for i in range(12):
                    key = b"long%d" % rng.randrange(4) if i % 4 == 0 else b"%d" % rng.randrange(400)
                    value = None if i % 3 == 0 else bytes([i]) * (40_000 if i % 4 == 0 else rng.randrange(600))
                    tried.append((key, model.get(key), value))
                    change(key, value)
                    if failed and failed[-1] == key:
                        model.pop(key, None)
                for key in rng.sample(sorted(model), 30):
                    try:
                        assert db.get(key) == model[key], key
                    except OSError as error:
                        failed.append(key)
                for work in (db.stats, lambda: list(db.items()), lambda: len(db)):
                    outcome(work)
                pages.mend(offset)
                raised += bool(failed)
                for key, old, new in tried:
                    if key not in model:
                        possible = [value for k, *values in tried if k == key for value in values]
                        assert db.get(key) in possible, (offset, key)
                        model[key] = db.get(key)
                for key, value in model.items():
                    assert db.get(key) == value, (offset, key)
                report = db.verify()
                assert report.ok, (offset, str(report))
                if offset // 4096 % 10 == 0:
                    print("page", offset, flush=True)
                    assert sys.stdin.readline() == "go on\\n"
            assert raised > 20, raised
            print("end", flush=True)
            db.close()
        """
        with Child(TOOLS + textwrap.dedent(code), path, rng.randrange(1 << 32)) as first:
            in_turn(first, second, "ok")


def test_a_transaction_over_a_page_that_cannot_be_read(tmp_path: Path, rng: random.Random) -> None:
    """All of it has happened or nothing, whichever page it is, and the locks of its many shards are let go."""
    path = tmp_path / "store.mmkv"
    other = """
        import sys, mmkv
        db = mmkv.open(sys.argv[1], "w", sync="manual", lock_timeout=0.5)
        print("open")
        for line in sys.stdin:
            db.put_many((b"other %d" % j, line.encode()) for j in range(300))
            print(db.verify().ok)
    """
    with Child(textwrap.dedent(other), _made(path)) as second:
        assert second.line() == "open"
        code = """
            import random
            path = sys.argv[1]
            rng = random.Random(int(sys.argv[2]))
            db = mmkv.open(path, "w", sync="manual")
            keys = [b"%d" % i for i in range(60)]
            def values(n):
                return {key: b"%d " % n + b"x" * rng.choice([0, 100, 100, 100, 3000, 40_000]) for key in keys}
            now = values(0)
            db.update(now)
            pages = Pages(path)
            size = os.path.getsize(path)
            raised = 0
            for n, offset in enumerate(range(0, size, 4096), 1):
                new = values(n)
                pages.fail(offset)
                try:
                    with db.transaction() as t:
                        assert t[keys[0]] == now[keys[0]]
                        t.update(new)
                except OSError as error:
                    assert error.errno == 5, error
                    raised += 1
                pages.mend(offset)
                there = dict(zip(keys, db.get_many(keys)))
                assert there in (now, new), (offset, [key for key in keys if there[key] != now[key]])
                now = there
                if n % 20 == 0:
                    db.sync()
                    print("page", offset, flush=True)
                    assert sys.stdin.readline() == "go on\\n"
            assert raised > 20, raised
            print("end", flush=True)
            db.close()
        """
        with Child(TOOLS + textwrap.dedent(code), path, rng.randrange(1 << 32)) as first:
            in_turn(first, second, "True")


def _made(path: Path) -> Path:
    run_python("import sys, mmkv; mmkv.open(sys.argv[1], shards=8).close()", path)
    return path


@pytest.fixture
def shrinking_disk(tmp_path: Path) -> Iterator[tuple[Path, Path, str]]:
    """A file system on a loop device: where it is mounted, the file behind it, which may be cut off, and the device."""
    image, mounted = tmp_path / "image", tmp_path / "mounted"
    mounted.mkdir()
    image.touch()
    os.truncate(image, 64 << 20)
    device = ""
    try:
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
        attach = ["losetup", "--find", "--show", str(image)]
        device = subprocess.run(attach, check=True, capture_output=True, text=True).stdout.strip()
        subprocess.run(["mount", device, str(mounted)], check=True)
    except (OSError, subprocess.CalledProcessError):
        if device:
            subprocess.run(["losetup", "--detach", device], check=True)
        pytest.skip("needs the right to mount a loop device")
    yield mounted, image, device
    subprocess.run(["umount", str(mounted)], check=True)
    subprocess.run(["losetup", "--detach", device], check=True)


def test_a_disk_that_fails_to_read(shrinking_disk: tuple[Path, Path, str], route: dict[str, str]) -> None:
    """A real one: the device ends before the file does. What can be read is served, in every mode."""
    mounted, image, device = shrinking_disk
    path = mounted / "store.mmkv"
    run(
        """
        with mmkv.open(sys.argv[1]) as db:
            for i in range(10000):
                db[b"%d" % i] = b"x" * 200
            for i in range(10):
                db[b"long%d" % i] = bytes([i]) * 3_000_000
        """,
        path,
    )
    subprocess.run(["umount", str(mounted)], check=True)
    subprocess.run(["mount", device, str(mounted)], check=True)  # nothing of it is in memory any more
    os.truncate(image, 24 << 20)
    subprocess.run(["losetup", "--set-capacity", device], check=True)
    out = run(
        """
        for mode in "wrp":
            db = mmkv.open(sys.argv[1], mode)
            for i in range(10000):
                assert db[b"%d" % i] == b"x" * 200
            long = [outcome(lambda: db[b"long%d" % i]) for i in range(10)]
            assert set(long) == {"ok", "OSError"}, long
            assert outcome(db.verify) == "OSError"
            assert outcome(db.close) == "ok"
            print(mode)
        """,
        path,
        environment=route,
    )
    assert out.split() == ["w", "r", "p"]


def test_what_cannot_be_rolled_back_is_shut_until_recovery(tmp_path: Path, route: dict[str, str]) -> None:
    """A process died in the middle of a change, and whoever takes over cannot read the page to be restored."""
    path = tmp_path / "store.mmkv"
    reader = TOOLS + textwrap.dedent(
        """
        db = mmkv.open(sys.argv[1], sys.argv[2], sync="manual", lock_timeout=20)
        print("open")
        for line in sys.stdin:
            print(" ".join(sorted({outcome(lambda: db[b"%d" % i]) for i in range(200)})))
        """
    )
    code = """
        import mmap, struct
        path = sys.argv[1]
        db = mmkv.open(path, "w", sync="manual")
        for i in range(200):
            db[b"%d" % i] = b"x" * 100
        db.sync()
        for i in range(200):
            db[b"%d" % i] = b"later"
        SHARD, PAGE = 0x30000, (os.path.getsize(path) - 4096)
        with open(path, "r+b") as file:
            bytes_ = mmap.mmap(file.fileno(), 0)
            # What a process leaves that is killed in an operation: lock, odd version, one entry in the log.
            version, = struct.unpack_from("<Q", bytes_, SHARD + 8)
            struct.pack_into("<QQ", bytes_, SHARD + 2560 + 16, PAGE, 12345)
            struct.pack_into("<Q", bytes_, SHARD + 2560, 1)
            struct.pack_into("<Q", bytes_, SHARD + 8, version + 1)
            struct.pack_into("<I", bytes_, SHARD, 1000 | 5 << 12)
        Pages(path).fail(PAGE)
        results = [outcome(lambda: db.put(b"%d" % i, b"never")) for i in range(200)]
        assert set(results) == {"ok", "OSError"}, set(results)
        gets = [outcome(lambda: db[b"%d" % i]) for i in range(200)]
        assert gets == results
        assert outcome(db.verify) == outcome(db.clear) == outcome(db.sync) == outcome(lambda: list(db)) == "OSError"
        assert struct.unpack_from("<Q", bytes_, SHARD + 88) == (5,)
        Pages(path).mend(PAGE)
        assert [outcome(lambda: db.put(b"%d" % i, b"never")) for i in range(200)] == results, "not before recovery"
        print("failed", flush=True)
        sys.stdin.readline()
        db.close()
        print("closed", flush=True)
    """
    with Child(TOOLS + textwrap.dedent(code), _made(path), environment=route) as first:
        assert first.line() == "failed"
        with (
            Child(reader, path, "w", environment=route) as second,
            Child(reader, path, "r", environment=route) as third,
        ):
            for other in (second, third):
                assert other.line() == "open"
                other.tell("read")
                assert other.line() == "OSError ok"
            first.tell("close")
            assert first.line() == "closed"
            first.end()
            second.kill()
            third.kill()
    run(
        """
        with mmkv.open(sys.argv[1], "w") as db:
            assert db.verify().ok
            assert len(db) == 200 and set(db.values()) == {b"x" * 100}, "back at the checkpoint"
        """,
        path,
    )


# -- other handlers ---------------------------------------------------------------------------------------------------

FOREIGN = """
        import mmap
        with tempfile.TemporaryFile() as file:
            file.truncate(4096)
            foreign = mmap.mmap(file.fileno(), 4096)
            file.truncate(0)
            sys.stdout.flush()
            foreign[0]
"""


def run_to_its_death(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", TOOLS + textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("when", ["never", "before", "after", "before and off after", "around", "again and again"])
def test_a_fault_that_is_not_ours(when: str, tmp_path: Path) -> None:
    """Faults of the store are errors, whatever becomes of faulthandler; others are reported by it, and kill."""
    done = run_to_its_death(
        """
        import faulthandler
        path, when = sys.argv[1:]
        faulthandler.disable()
        if "before" in when or when == "around":
            faulthandler.enable()
        db = mmkv.open(path)
        db[b"key"] = b"value"
        if "off after" in when or when == "around":
            faulthandler.disable()
        if when in ("after", "around"):
            faulthandler.enable()
        if when == "again and again":
            for _ in range(50):
                faulthandler.enable()
                faulthandler.disable()
            faulthandler.enable()
        os.truncate(path, 0)
        for i in range(3):
            assert outcome(lambda: db[b"key"]) == "CorruptStoreError"
        print("alive")
        """
        + FOREIGN,
        tmp_path / "cut.mmkv",
        when,
    )
    assert done.stdout == "alive\n", done.stderr
    assert done.returncode == -signal.SIGBUS
    reported = "Fatal Python error: Bus error" in done.stderr
    assert reported == (when not in ("never", "before and off after")), done.stderr
    assert done.stderr.count("Fatal Python error") == reported


def test_a_handler_of_before_gets_what_is_not_ours(tmp_path: Path) -> None:
    """One that mends its faults goes on mending them."""
    out = run(
        """
        import mmap
        Handler = ctypes.CFUNCTYPE(None, ctypes.c_int)
        calls = []
        @Handler
        def mend(number):
            calls.append(number)
            file.truncate(4096)
        libc.signal.restype = ctypes.c_void_p
        libc.signal(7, mend)
        db = mmkv.open(sys.argv[1])
        db[b"key"] = b"value"
        for i in range(3):
            file = tempfile.TemporaryFile()
            file.truncate(4096)
            foreign = mmap.mmap(file.fileno(), 4096)
            file.truncate(0)
            assert foreign[0] == 0
        os.truncate(sys.argv[1], 0)
        assert outcome(lambda: db[b"key"]) == "CorruptStoreError"
        print(calls)
        """,
        tmp_path / "cut.mmkv",
    )
    assert out == "[7, 7, 7]\n"


def test_a_signal_that_somebody_sends_kills(tmp_path: Path) -> None:
    """As it does without a store."""
    done = run_to_its_death("db = mmkv.open(sys.argv[1]); os.kill(os.getpid(), 7)", tmp_path / "store.mmkv")
    assert done.returncode == -signal.SIGBUS


def test_a_forked_child_has_it_too(tmp_path: Path) -> None:
    """The child of a process whose store is cut off."""
    run(
        """
        db = mmkv.open(sys.argv[1])
        db[b"key"] = b"value"
        pid = os.fork()
        if pid == 0:
            os.truncate(sys.argv[1], 4096)
            os._exit(outcome(lambda: db[b"key"]) != "CorruptStoreError")
        assert os.waitpid(pid, 0)[1] == 0
        assert outcome(lambda: db[b"key"]) == "CorruptStoreError"
        pid = os.fork()
        if pid == 0:
            os._exit(outcome(lambda: db[b"key"]) != "CorruptStoreError")
        assert os.waitpid(pid, 0)[1] == 0
        assert outcome(db.close) == "CorruptStoreError"
        """,
        tmp_path / "cut.mmkv",
    )
