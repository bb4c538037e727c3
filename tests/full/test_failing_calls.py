"""Each system call that a store makes fails once, at each place where it is made: an error, and nothing is lost."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import beside_tests, run_python

CALLS = [
    ("fallocate", errno.ENOSPC),
    ("fallocate", errno.EDQUOT),
    ("fallocate", errno.EFBIG),
    ("fallocate", errno.EINTR),
    ("fallocate", errno.EIO),
    ("fallocate", errno.EOPNOTSUPP),
    ("punch", errno.ENOSPC),
    ("punch", errno.EOPNOTSUPP),
    ("mmap", errno.ENOMEM),
    ("madvise", errno.ENOMEM),
    ("fcntl", errno.ENOLCK),
    ("open", errno.EMFILE),
    ("open", errno.ENOSPC),
    ("fchmod", errno.EIO),
    ("fsync", errno.EIO),
    ("linkat", errno.EDQUOT),
]

# These take the same ways as ENOSPC does.
SLOW = [("fallocate", errno.EDQUOT), ("fallocate", errno.EFBIG), ("fallocate", errno.EIO), ("punch", errno.EOPNOTSUPP)]


def run_shimmed(shim: Path, *arguments: object) -> str:
    """Run Python with the shim loaded, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-P", "-X", "faulthandler", *map(str, arguments)],
        env={**os.environ, "LD_PRELOAD": str(shim), "PYTHONPATH": beside_tests()},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("function", "error"),
    [pytest.param(*call, marks=pytest.mark.slow if call in SLOW else ()) for call in CALLS],
    ids=lambda x: errno.errorcode[x] if isinstance(x, int) else x,
)
def test_each_place_fails_once(shim: Path, tmp_path: Path, function: str, error: int) -> None:
    failed = int(run_shimmed(shim, "-m", "tests.full.failing", tmp_path, function, error))
    assert failed >= 1, f"{function} was not called"


OTHER = """
import ctypes, errno, sys
import mmkv
path, mode = sys.argv[1:]
shim = ctypes.CDLL(None)
with mmkv.open(path) as writer, mmkv.open(path, mode) as other:
    calls = lambda: other[b"k"], lambda: other.get_many([b"k"]), lambda: list(other.items()), lambda: other.verify()
    for call in calls:
        writer.clear()
        writer[b"k"] = b"v"
        length = writer.stats().file_bytes
        i = 0
        while writer.stats().file_bytes == length:
            writer[b"%d" % i] = bytes(50_000)
            i += 1
        writer[b"k"] = bytes(3_000_000)
        shim.shim_arm(b"mmap", 0, errno.ENOMEM)
        try:
            call()
        except MemoryError as error:
            assert path in str(error)
        else:
            assert shim.shim_calls() == 0, "mmap failed, and nobody was told"
        print(shim.shim_calls())
        shim.shim_arm(b"", 0, 0)
        call()
        assert other[b"k"] == bytes(3_000_000)
    assert other.verify().ok
"""


@pytest.mark.parametrize("mode", "rw")
def test_what_cannot_be_mapped_is_no_damage(shim: Path, tmp_path: Path, mode: str) -> None:
    """A process that has no memory to map what another one added says so, and reads it when it has."""
    calls = run_shimmed(shim, "-c", OTHER, tmp_path / "store.mmkv", mode).split()
    assert calls.count("0") < len(calls), "no read had to map anything"


MOVING = """
import ctypes, errno, resource, sys
import mmkv
path = sys.argv[1]
shim = ctypes.CDLL(None)
limits = resource.getrlimit(resource.RLIMIT_AS)
with mmkv.open(path) as writer:
    writer[b"k"] = b"v"
    used = int(open("/proc/self/statm").read().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20), limits[1]))
    other = mmkv.open(path)
    resource.setrlimit(resource.RLIMIT_AS, limits)
    writer[b"large"] = bytes(70 << 20)
    shim.shim_arm(b"mmap", int(sys.argv[2]), errno.ENOMEM)
    try:
        assert other.get(b"large") == bytes(70 << 20)
        print("read")
    except MemoryError:
        print("failed")
    shim.shim_arm(b"", 0, 0)
    assert other[b"large"] == bytes(70 << 20)
    assert other[b"k"] == b"v"
    assert other.verify().ok
    other.close()
"""


@pytest.mark.parametrize(("failing", "outcome"), [(0, "failed"), (1, "read")], ids=["all", "first"])
def test_a_map_that_cannot_be_moved_is_moved_later(shim: Path, tmp_path: Path, failing: int, outcome: str) -> None:
    """Address space is reserved elsewhere, but the file cannot be mapped there: all of it is, when that goes again.

    Be it within the same look, which has not seen then what the first part of it could not map.
    """
    assert run_shimmed(shim, "-c", MOVING, tmp_path / "store.mmkv", failing) == outcome


CREATING = """
import ctypes, errno, itertools, os, sys
import mmkv
path = sys.argv[1]
shim = ctypes.CDLL(None)
open(path, "xb").close()
shim.shim_arm(b"fsync", 1, errno.EIO)
try:
    mmkv.open(path, "c")
except OSError:
    pass
shim.shim_arm(b"", 0, 0)
with open(path, "rb") as file:
    left = file.read()
pages = [at for at in range(0, len(left), 4096) if any(left[at : at + 4096])]
for kept in itertools.chain.from_iterable(itertools.combinations(pages, n) for n in range(len(pages) + 1)):
    image = b"".join(left[at : at + 4096] if at in kept else bytes(4096) for at in range(0, len(left), 4096))
    with open(path, "wb") as file:
        file.write(image)
    for call in (lambda: mmkv.open(path, "w"), lambda: mmkv.open(path, "r"), lambda: mmkv.repair(path)):
        try:
            call()
            raise AssertionError(kept)
        except mmkv.NotAStoreError:
            pass
    with open(path, "rb") as file:
        assert file.read() == image
    with mmkv.open(path, "c") as db:
        db[b"k"] = b"v"
        assert db.verify().ok
    print(len(kept))
"""


def test_a_creation_that_failed_leaves_no_store_and_is_begun_anew(shim: Path, tmp_path: Path) -> None:
    """In an empty file, before the superblock is written; a power cut may leave any pages of it."""
    done = run_shimmed(shim, "-c", CREATING, tmp_path / "store.mmkv").split()
    assert done == ["0", "1", "1", "1", "2", "2", "2", "3"]


NOT_FLUSHED = """
import ctypes, errno, sys
import mmkv
path = sys.argv[1]
shim = ctypes.CDLL(None)
open(path, "xb").close()
shim.shim_arm(b"fsync", 2, errno.EIO)
for mode, expected in (("c", OSError), ("w", mmkv.NotAStoreError), ("r", mmkv.NotAStoreError)):
    try:
        mmkv.open(path, mode)
        print("opened with", mode)
    except expected:
        pass
print(shim.shim_calls())
with mmkv.open(path, "c") as db:
    db[b"k"] = b"v"
    assert db.verify().ok
"""


def test_a_creation_whose_last_flush_failed_leaves_no_store(shim: Path, tmp_path: Path) -> None:
    """The kernel takes the superblock for written: no later flush would, and what is synced would be lost with it."""
    assert run_shimmed(shim, "-c", NOT_FLUSHED, tmp_path / "store.mmkv") == "2"


DELETING = """
import ctypes, errno, itertools, os, sys
import mmkv, xxhash
path, = sys.argv[1:]
shim = ctypes.CDLL(None)
# A store with one shard full of tables, whose index zone of 63 pages the other shard's first table makes quite full.
for tables, refused in itertools.product(range(60, 64), (False, True)):
    with mmkv.open(path, "n", shards=2) as db:
        seed = db.stats().hash_seed
        keys = (b"%d" % i for i in itertools.count())
        shards = {0: [], 1: []}
        while db.stats().tables < tables:
            for key in itertools.islice(keys, 4):
                shard = xxhash.xxh3_64_intdigest(key, seed) >> 63
                shards[shard].append(key)
                if not shard:
                    db[key] = b""
        db[shards[1][0]] = b""
        db.sync()
        length = db.stats().file_bytes
        if refused:
            shim.shim_arm(b"fallocate", 0, errno.ENOSPC)
        for key in shards[0][::2]:
            del db[key]
        db.sync()
        db.delete_many(shards[0][1::4])
        db.sync()
        assert db.stats().file_bytes == length, f"deleting made the file longer, with {tables} tables"
        assert len(db) == len(shards[0][3::4]) + 1
        db.clear()
        db.sync()
        assert not len(db)
        assert db.stats().file_bytes == length
        assert db.verify().ok
        shim.shim_arm(b"", 0, 0)
os.unlink(path)
"""


@pytest.mark.parametrize("route", ["native", "cffi"])
def test_deleting_wants_no_space(shim: Path, tmp_path: Path, route: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not where index tables could be merged into a new page, either. (The native route does not wait for one.)"""
    monkeypatch.setenv("MMKV_HOT", route)
    run_shimmed(shim, "-c", DELETING, tmp_path / "store.mmkv")


def test_the_limit_on_the_size_of_files_is_no_signal(tmp_path: Path) -> None:
    """Python ignores SIGXFSZ; a program that Python is part of may not, and would be killed."""
    run_python(
        """
        import errno, resource, signal, sys, mmkv
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, 2 << 20))
        with mmkv.open(sys.argv[1]) as db:
            db[b"k"] = b"v"
            try:
                db[b"large"] = bytes(4 << 20)
            except mmkv.StoreFullError as error:
                assert error.errno == errno.EFBIG
            else:
                raise AssertionError("no error")
            assert dict(db) == {b"k": b"v"}
            assert db.verify().ok
        """,
        tmp_path / "store.mmkv",
    )


SHUT = """
import ctypes, errno, sys
import mmkv
path, = sys.argv[1:]
shim = ctypes.CDLL(None)
db, expected, failed = mmkv.open(path, guard=True, shards=1, sync="manual"), {}, 0
def attempt(n, call):
    # Once, with the n-th change of what the map allows refused; and again, if that was an error. Was there an n-th?
    global failed
    shim.shim_arm(b"pkey_mprotect", n, errno.ENOMEM)
    try:
        call()
        again = False
    except (OSError, MemoryError) as error:
        assert path in str(error) and "mprotect" in str(error), error
        again = True
    reached = shim.shim_calls() >= n
    shim.shim_arm(b"", 0, 0)
    if again:
        failed += 1
        assert reached
        assert dict(db) == expected, "what was refused has changed something"
        call()
    return reached
for size in (10, 5000, 100_000, 3_000_000): # the last ones let the file grow
    for make in (lambda k, v: (lambda: db.put(k, v), {k: v}), lambda k, v: (lambda: db.pop(b"old", None), {})):
        n = 1
        while True:
            key = b"%d %d" % (size, n)
            db[b"old"] = expected[b"old"] = b"v"
            call, change = make(key, bytes(size))
            reached = attempt(n, call)
            expected.update(change)
            if not change:
                del expected[b"old"]
            assert dict(db) == expected
            if not reached:
                break
            n += 1
assert db.verify().ok
db.close()
with mmkv.open(path, "w") as db:
    assert dict(db) == expected and db.verify().ok
print(failed)
"""


@pytest.mark.parametrize("route", ["native", "cffi"])
def test_a_guarded_map_that_cannot_be_opened_is_an_error(
    shim: Path, tmp_path: Path, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost, and the next call works. With protection keys only a file that grows comes to it."""
    monkeypatch.setenv("MMKV_HOT", route)
    assert int(run_shimmed(shim, "-c", SHUT, tmp_path / "store.mmkv")) > 0
