"""guard=True: other code's store to the map ends the process; what the engine stores itself goes on as ever.

Each test runs in processes of its own, some of which have to die. They pass with and without protection keys; those
that say more with them run so in a virtual machine (tests/vm).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import mmkv
from tests.support import Child, check_file, run_python, run_suites

# For the processes: where a store is mapped, whether it is shut to this thread, and a store by somebody else's mistake.
TOOLS = """
import ctypes, os, re, sys, threading, mmkv

libc = ctypes.CDLL(None)

def mapped(path):
    # The pieces, but for the one page that holds the lock of the process slot: (start, end, permissions, key).
    found, inode = [], os.stat(path).st_ino
    for line in open("/proc/self/smaps"):
        if piece := re.match(r"(\\w+)-(\\w+) (\\S+) \\S+ \\S+ (\\d+)", line):
            start, end = int(piece[1], 16), int(piece[2], 16)
            ours = int(piece[4]) == inode and end - start > 4096
            if ours:
                found.append([start, end, piece[3], 0])
        elif ours and line.startswith("ProtectionKey:"):
            found[-1][3] = int(line.split()[1])
    assert found, "the store is mapped"
    return found

def shut(path):
    return all(libc.pkey_get(key) == 2 if key else "w" not in kind for _, _, kind, key in mapped(path))

def stray(path, where):
    start, end, _, _ = mapped(path)[0]
    ctypes.memset({"first": start, "middle": (start + end) // 2, "last": end - 1}[where], 0x55, 1)
"""

has_keys = "ospke" in Path("/proc/cpuinfo").read_text().split("power management")[0].split()
SUITES = [f"tests/unit/test_{name}.py" for name in ("mapping", "iteration", "processes", "faults", "checkpoints")]


def run(code: str, *arguments: object, route: str = "native", guard: str = "") -> str:
    environment = {"MMKV_HOT": route, "MMKV_GUARD": guard}
    return run_python(TOOLS + textwrap.dedent(code), *arguments, environment=environment)


def died(code: str, *arguments: object) -> bool:
    """Was the process, which prints "so far", then ended by SIGSEGV?"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", TOOLS + textwrap.dedent(code), *map(str, arguments)],
        env={**os.environ, "MMKV_GUARD": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "so far" in done.stdout, done.stderr
    assert done.returncode in (0, -signal.SIGSEGV), done.stderr
    return done.returncode != 0


STRAY = """
    path, mode, guard, where = sys.argv[1:]
    db = mmkv.open(path, mode, sync="manual", guard=guard == "guard")
    assert db[b"key"] == b"value"
    db[b"new"] = b"value" * 100
    db.sync()
    print("so far", flush=True)
    stray(path, where)
    os._exit(0)
"""


@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("mode", ["w", "p"])
def test_a_stray_store_ends_the_process(mode: str, where: str, tmp_path: Path) -> None:
    path = tmp_path / "store"
    with mmkv.open(path) as db:
        db[b"key"] = b"value"
    assert died(STRAY, path, mode, "guard", where)
    check_file(path)
    with mmkv.open(path) as db:
        assert dict(db) == {b"key": b"value"} | ({b"new": b"value" * 100} if mode == "w" else {})


def test_without_it_a_stray_store_is_damage(tmp_path: Path) -> None:
    """So that the test above shows something."""
    path = tmp_path / "store"
    with mmkv.open(path) as db:
        db[b"key"] = b"value"
    assert not died(STRAY, path, "w", "", "first")
    assert path.read_bytes()[0] == 0x55
    code = """
        db = mmkv.open(sys.argv[1], "c", sync="manual", guard=sys.argv[2] == "guard")
        db[b"key"] = b"a value to be hurt"
        start, end, _, _ = mapped(sys.argv[1])[0]
        position = ctypes.string_at(start, end - start).index(b"a value to be hurt")
        print("so far", flush=True)
        ctypes.memset(start + position, 0x55, 1)
        assert [error.key for error in db.verify().errors] == [b"key"]
    """
    assert not died(code, tmp_path / "other", "")
    assert died(code, tmp_path / "third", "guard")


@pytest.mark.parametrize("route", ["native", "cffi"])
@pytest.mark.parametrize("mode", ["c", "p"])
def test_every_operation_leaves_it_shut(mode: str, route: str, tmp_path: Path) -> None:
    """Also where the file, and so the map, grows, and what grew has to be shut as well."""
    run(
        """
        path, mode = sys.argv[1:]
        mmkv.open(path, shards=1).close()
        db = mmkv.open(path, mode, guard=True)
        assert shut(path)
        def check(result, expected):
            assert result == expected, (result, expected)
            assert shut(path)
        check(db.put(b"a", b"1"), None)
        check(db.get(b"a"), b"1")
        check(db.setdefault(b"a", b"2"), b"1")
        check(db.setdefault(b"b", b"2"), b"2")
        check(db.add(b"c", b"3"), True)
        check(db.replace(b"c", b"4"), True)
        check(db.compare_and_swap(b"c", b"4", None), True)
        check(db.compare_and_swap(b"large", None, b"5" * 100_000), True)
        check(db.compare_and_swap(b"large", b"5" * 100_000, None), True)
        check(db.incr(b"counter"), 1)
        check(db.delete(b"counter"), True)
        check(db.wait(b"a", old=b"0"), b"1")
        try:
            db.wait(b"a", old=b"1", timeout=0.001)
            raise SystemExit("it has not changed")
        except TimeoutError:
            assert shut(path)
        check(db.put_many({b"%d" % i: b"x" * i for i in range(3000)}), 3000)
        check(len(db), 3002)
        check(db.get_many([b"a", b"none"]), [b"1", None])
        check(db.get_into(b"17", bytearray(20)), 17)
        check(b"17" in db, True)
        check(sorted(db)[-1], b"b")
        check(len(dict(db.items())), 3002)
        check(db.delete_many(b"%d" % i for i in range(2500)), 2500)
        check(db.pop(b"2999"), b"x" * 2999)
        check(db.delete(b"2998"), True)
        before = os.path.getsize(path)
        for i in range(20):
            check(db.put(b"large %d" % i, bytes([i]) * 1_000_000), None)
        assert mode == "p" or os.path.getsize(path) > before + 20_000_000
        check(db[b"large 7"], bytes([7]) * 1_000_000)
        check(db.pop(b"large 7"), bytes([7]) * 1_000_000)
        seen = []
        check(db.verify(lambda done, total: seen.append(shut(path))).ok, True)
        assert seen and all(seen), "between its locks"
        check(db.sync() >= 1, True)
        check(db.sync(wait=False) >= 1, True)
        check(db.durable_epoch < db.epoch, True)
        check(db.stats().records, len(db))
        check(db.popitem() is not None, True)
        check(db.clear(), None)
        check(len(db), 0)
        db[b"last"] = b"1"
        db.close()
        with mmkv.open(path, "r", guard=True) as db:
            assert mode == "p" or db[b"last"] == b"1"
            assert shut(path)
        """,
        tmp_path / "store",
        mode,
        route=route,
    )
    check_file(tmp_path / "store")


def test_threads_that_write_and_read_at_once(tmp_path: Path) -> None:
    """One's store must not meet a map that another's end has shut; and the last one out must shut it."""
    run(
        """
        path = sys.argv[1]
        ready, failed = threading.Barrier(6), []
        def thread(work):
            def guarded():
                try:
                    ready.wait()
                    work()
                except BaseException as error:
                    failed.append(error)
            # Started before the first store of the process is opened so: to a protection key these are strangers.
            started = threading.Thread(target=guarded)
            started.start()
            return started
        def write(name):
            for i in range(300):
                db[b"%d %d" % (name, i % 100)] = b"v" * (i % 7 * 1000)
                if i % 10 == 9:
                    db.delete(b"%d %d" % (name, i % 100))
        def read():
            for i in range(3000):
                assert len(db.get(b"%d %d" % (i % 3, i % 100), b"")) % 1000 == 0
        def rest():
            for i in range(5):
                db.sync()
                assert db.verify().ok
                with mmkv.open(path + " too", guard=True) as other:
                    other[b"key"] = b"value"
        threads = [thread(lambda i=i: write(i)) for i in range(3)] + [thread(read), thread(rest)]
        db = mmkv.open(path, guard=True)
        ready.wait()
        for each in threads:
            each.join()
        assert not failed, failed
        assert shut(path)
        assert len(db) == 270 and db.verify().ok
        db.close()
        """,
        tmp_path / "store",
    )


def test_forks(tmp_path: Path) -> None:
    """A child begins with the map shut, whatever another thread was doing at the fork; it writes, and is guarded."""
    run(
        """
        import signal
        path = sys.argv[1]
        db = mmkv.open(path, guard=True, sync="manual")
        stop = threading.Event()
        def write():
            while not stop.is_set():
                db[b"thread"] = b"v" * 1_000_000 # copied without the GIL: most forks come in the middle
        thread = threading.Thread(target=write)
        thread.start()
        for i in range(20):
            pid = os.fork()
            if not pid:
                code = 9
                try:
                    assert shut(path)
                    db[b"child %d" % i] = b"%d" % i
                    assert db[b"child %d" % i] == b"%d" % i and shut(path)
                    code = 0
                    if i % 4 == 0:
                        stray(path, "middle")
                finally:
                    os._exit(code)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            assert code == (-signal.SIGSEGV if i % 4 == 0 else 0), code
        stop.set()
        thread.join()
        assert shut(path) and db.verify().ok
        assert all(db[b"child %d" % i] == b"%d" % i for i in range(20))
        db.close()
        """,
        tmp_path / "store",
    )
    check_file(tmp_path / "store")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_child_that_can_only_read_is_guarded_too(tmp_path: Path) -> None:
    """The parent may not open the file any more, so that there is no slot for the child, which then stores nothing."""
    run(
        """
        path = sys.argv[1]
        db = mmkv.open(path, guard=True, sync="manual")
        stop = threading.Event()
        def write():
            while not stop.is_set():
                db[b"thread"] = b"v" * 1_000_000
        thread = threading.Thread(target=write)
        thread.start()
        os.seteuid(65534)
        try:
            for i in range(20):
                pid = os.fork()
                if not pid:
                    os.seteuid(0)
                    os._exit(0 if shut(path) else 1)
                assert not os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), i
        finally:
            stop.set()
            thread.join()
            os.seteuid(0)
        db.close()
        """,
        tmp_path / "store",
    )


def test_what_others_add_is_shut_from_the_start(tmp_path: Path) -> None:
    """A read maps it, and no call that writes comes to shut it."""
    run(
        """
        import subprocess
        path = sys.argv[1]
        db = mmkv.open(path, guard=True)
        code = 'import sys, mmkv; mmkv.open(sys.argv[1])[b"key"] = b"v" * 5_000_000'
        subprocess.run([sys.executable, "-P", "-W", "ignore", "-c", code, path], check=True)
        before = mapped(path)[-1][1] - mapped(path)[0][0]
        assert db[b"key"] == b"v" * 5_000_000
        assert mapped(path)[-1][1] - mapped(path)[0][0] > before and shut(path)
        """,
        tmp_path / "store",
    )


def test_the_maps_that_were_outgrown_are_shut_too(tmp_path: Path) -> None:
    """With little address space the file is mapped again elsewhere when it grows, and the first map is kept."""
    run(
        """
        import resource
        path = sys.argv[1]
        used = int(open("/proc/self/statm").read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used + (20 << 20), -1))
        db = mmkv.open(path, guard=True)
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        for i in range(300):
            db[b"%d" % i] = b"v" * 100_000
            assert shut(path), i
        pieces = mapped(path)
        assert any(before[1] != piece[0] for before, piece in zip(pieces, pieces[1:]))
        assert db[b"0"] == b"v" * 100_000
        db.close()
        """,
        tmp_path / "store",
    )


def test_stores_with_and_without_it_in_one_process(tmp_path: Path) -> None:
    """Two handles of one file and a store beside them; each is shut or not as it was opened."""
    run(
        """
        path, beside = sys.argv[1:]
        guarded = mmkv.open(path, guard=True)
        second = mmkv.open(beside, guard=True)
        free = mmkv.open(beside + " too")
        for i in range(50):
            guarded[b"%d" % i] = second[b"%d" % i] = free[b"%d" % i] = b"%d" % i
            assert shut(path) and shut(beside) and not shut(beside + " too")
        plain = mmkv.open(path)
        plain[b"7"] = b"by the other"
        assert guarded[b"7"] == b"by the other" and not shut(path)
        plain.close()
        assert shut(path) and guarded[b"7"] == b"by the other"
        second.close()
        guarded[b"8"] = b"still"
        for db in (guarded, free):
            assert db.verify().ok
            db.close()
        """,
        tmp_path / "store",
        tmp_path / "beside",
    )


@pytest.mark.parametrize("route", ["native", "cffi"])
def test_a_truncated_file_and_pages_that_fail(route: str, tmp_path: Path) -> None:
    """A fault in the middle of a write is rolled back, which stores; the map is shut after it, and works."""
    run(
        """
        import tempfile
        path = sys.argv[1]
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
        libc.pkey_mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int]
        def replace(page, fd, offset):
            assert libc.mmap(start + page, 4096, 3 if key else 1, 0x11, fd, offset) == start + page
            assert not key or not libc.pkey_mprotect(start + page, 4096, 3, key)
        empty = tempfile.TemporaryFile()
        db = mmkv.open(path, guard=True, shards=1, sync="manual")
        for i in range(500):
            db[b"%d" % i] = b"v" * i
        start, end, _, key = mapped(path)[0]
        file = os.open(path, os.O_RDWR)
        raised = 0
        for page in range(0, end - start, 4096):
            old = {name: db[name] for name in (b"17", b"400")}
            # What a page that the disk fails to read is to the process: one beyond the end of an empty file.
            replace(page, empty.fileno(), 0)
            for name, new in ((b"17", b"a" * 200), (b"400", b"b" * 400), (b"new", b"c")):
                try:
                    db[name] = new
                    old[name] = new
                except OSError as error:
                    assert error.errno == 5, error
                    raised += 1
            try:
                dict(db)
            except OSError:
                pass
            replace(page, file, page)
            assert shut(path), page
            for name in (b"17", b"400"):
                assert db[name] == old[name], page
            assert db.verify().ok, page
        assert raised > 5, raised
        os.truncate(path, 4096)
        for work in (lambda: db[b"400"], lambda: db.put(b"400", b""), lambda: list(db), db.sync, db.verify, db.close):
            try:
                work()
                raise SystemExit("nothing was raised")
            except mmkv.CorruptStoreError:
                pass
        with mmkv.open(path + " too", guard=True) as other:
            other[b"key"] = b"value"
            assert other[b"key"] == b"value" and shut(path + " too")
        """,
        tmp_path / "store",
        route=route,
    )


def test_recovery_and_what_the_dead_left(tmp_path: Path) -> None:
    """An open that recovers, and one that settles slots and locks of killed processes, store much."""
    path, copy = tmp_path / "store", tmp_path / "copy"
    code = """
        import sys, mmkv
        db = mmkv.open(sys.argv[1], sync="manual", guard=True)
        db.put_many({b"%d" % i: b"v" * i for i in range(2000)})
        db.sync()
        print("made")
        for i in range(10**9):
            db[b"later %d" % (i % 10)] = b"w" * 5000
    """
    for _ in range(5):
        with Child(code, path) as child:
            assert child.line() == "made"
            child.kill()
        run(
            """
            with mmkv.open(sys.argv[1], guard=True) as db:
                assert shut(sys.argv[1]) and len(db) >= 2000 and db.verify().ok
            """,
            path,
        )
    with Child(code, path) as child:
        assert child.line() == "made"
        child.kill()
    shutil.copy(path, copy)  # another inode: the memory is not trusted
    run(
        """
        asked = []
        with mmkv.open(sys.argv[1], guard=True, progress=lambda done, total: asked.append(done)) as db:
            assert asked and shut(sys.argv[1]) and len(db) >= 2000 and db.verify().ok
        """,
        copy,
    )


@pytest.mark.skipif(not has_keys, reason="the processor has no protection keys")
def test_with_keys_other_threads_are_kept_out_of_what_one_writes(tmp_path: Path) -> None:
    """Without them, the map is open to all threads while one is in a call that writes."""
    path = tmp_path / "store"
    with mmkv.open(path, sync="manual") as db:
        db[b"key"] = b"value"
        db.sync()
        db[b"key"] = b"another"
        shutil.copy(path, tmp_path / "copy")
    assert died(
        """
        asked = threading.Event()
        def other():
            asked.wait()
            print("so far", flush=True)
            stray(sys.argv[1], "middle")
        thread = threading.Thread(target=other)
        thread.start()
        def progress(done, total):
            asked.set()
            thread.join()
        mmkv.open(sys.argv[1], guard=True, progress=progress).close()
        """,
        tmp_path / "copy",
    )


def test_it_is_pickled_and_asked_for_by_the_environment(tmp_path: Path) -> None:
    run(
        """
        import pickle
        path = sys.argv[1]
        db = mmkv.open(path, guard=True)
        data = pickle.dumps(db)
        db.close()
        with pickle.loads(data) as db:
            assert shut(path)
        with mmkv.open(path) as db:
            assert not shut(path)
        """,
        tmp_path / "store",
    )
    for value, expected in (("1", True), ("0", False)):
        code = "with mmkv.open(sys.argv[1]) as db: print(shut(sys.argv[1]))"
        assert run(code, tmp_path / "store", guard=value) == f"{expected}\n"


@pytest.mark.slow
def test_the_suite_passes_with_it() -> None:
    """With every store of every process guarded: a place that was missed is a SIGSEGV."""
    run_suites(SUITES, MMKV_GUARD="1")
