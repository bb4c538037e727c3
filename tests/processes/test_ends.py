"""How processes and threads end: os._exit, sys.exit, exceptions, the end of the interpreter, no memory left."""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mmkv

BODY = """
    import atexit, os, signal, sys, threading
    import mmkv
    db = mmkv.open(sys.argv[1])
    db.update({b"%d" % i: b"v" for i in range(100)})
"""


def run(code: str, path: Path, *, expect: int = 0) -> str:
    """What a program that begins with BODY writes to standard error, which has to end with `expect`."""
    done = subprocess.run(
        [sys.executable, "-P", "-W", "default", "-c", textwrap.dedent(BODY) + textwrap.dedent(code), path],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == expect, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stderr


def is_clean(path: Path) -> bool:
    """Whether the last one out has left the file as one that opens without any check."""
    with mmkv.open(path, "p") as db:
        assert db.stats().attached == 1
    words = path.read_bytes()[0x3058:0x305C]
    return words == b"\1\0\0\0"


# -- processes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "exit_code", "clean"),
    [
        ("with db:\n    db[b'last'] = b'1'\n    os._exit(3)", 3, False),
        ("with db:\n    db[b'last'] = b'1'\n    sys.exit(3)", 3, True),
        ("db[b'last'] = b'1'\nsys.exit(3)", 3, True),
        ("db[b'last'] = b'1'\nraise SystemExit(3)", 3, True),
        ("with db:\n    db[b'last'] = b'1'\n    raise ValueError", 1, True),
        ("db[b'last'] = b'1'\nraise KeyboardInterrupt", -signal.SIGINT, True),
        ("db[b'last'] = b'1'\nos.abort()", -signal.SIGABRT, False),
        ("db[b'last'] = b'1'\nos.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM, False),
        ("db[b'last'] = b'1'\nos.execv(sys.executable, [sys.executable, '-c', 'raise SystemExit(3)'])", 3, False),
        ("db[b'last'] = b'1'\ndb.close()\ndb.close()", 0, True),
    ],
)
def test_a_process_ends(open_store: Any, path: Path, code: str, exit_code: int, clean: bool) -> None:
    """Whatever way it goes, what it had stored is there, for those who have the store open and those who come."""
    open_store.check_later(path)
    run(code, path, expect=exit_code)
    assert is_clean(path) == clean
    with mmkv.open(path) as db:
        assert len(db) == 101
        run(code, path, expect=exit_code)
        assert db[b"last"] == b"1"
        db[b"mine"] = b"1"
        assert db.stats().attached == 1


def test_memory_limit(open_store: Any, path: Path) -> None:
    """No address space for the value: MemoryError, and the store goes on."""
    open_store.check_later(path)
    run(
        """
        import resource
        db[b"large"] = b"x" * 50_000_000
        used = int(open("/proc/self/statm").read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used + 20_000_000, -1))
        for call in (lambda: db[b"large"], lambda: db.pop(b"large"), lambda: dict(db)):
            try:
                call()
                raise SystemExit("that should not have fitted")
            except MemoryError:
                pass
        assert db[b"1"] == b"v"
        db[b"1"] = b"w"
        db.close()
        """,
        path,
    )
    with mmkv.open(path) as db:
        assert db[b"1"] == b"w"
        assert len(db[b"large"]) == 50_000_000


MEMORY = Path("/sys/fs/cgroup/memory")


@pytest.fixture
def small_memory(tmp_path: Path) -> Iterator[Path]:
    """A memory cgroup of 64 MiB, where this process may make one."""
    group = MEMORY / f"mmkv-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(64 << 20))
    except OSError as error:
        if group.exists():
            group.rmdir()
        pytest.skip(f"no memory cgroup can be made: {error}")
    yield group
    group.rmdir()


def test_killed_for_want_of_memory(open_store: Any, path: Path, small_memory: Path) -> None:
    """By the kernel, in the middle of writing; those who have the store open, outside that limit, go on at once."""
    db = open_store(sync="manual", lock_timeout=600)
    db[b"k"] = b"v"
    code = """
        open(sys.argv[2] + "/cgroup.procs", "w").write(str(os.getpid()))
        hoard = []
        for i in range(1 << 30):
            db[b"%d" % (i % 1000)] = b"x" * 1000
            if i % 10 == 0:
                hoard.append(bytearray(100_000))
    """
    done = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(BODY) + textwrap.dedent(code), path, small_memory],
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    db.update({b"%d" % i: b"after" for i in range(1000)})
    assert db.verify().ok


# -- threads and the end of the interpreter ---------------------------------------------------------------------------


def test_an_exception_in_a_thread_ends_only_the_thread(store: Any, capfd: pytest.CaptureFixture[str]) -> None:
    def pairs() -> Iterator[tuple[bytes, bytes]]:
        for i in range(100):
            yield b"%d" % i, b"v"
        raise RuntimeError("in the middle")

    caught: list[BaseException] = []

    def work() -> None:
        try:
            store.put_many(pairs())
        except RuntimeError as error:
            caught.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(caught) == 4
    assert len(store) == 100
    store.clear()


@pytest.mark.parametrize("daemon", [True, False])
def test_the_interpreter_ends_while_threads_use_the_store(open_store: Any, path: Path, daemon: bool) -> None:
    """Daemon threads are frozen wherever they are; others are waited for before the store is closed."""
    open_store.check_later(path)
    text = run(
        f"""
        stop = threading.Event()

        def work(number):
            i = 0
            while not stop.is_set():
                db[b"%d %d" % (number, i % 100)] = b"v" * (i % 50_000)
                db.get(b"%d" % (i % 100))
                len(list(db.keys()))
                i += 1

        threads = [threading.Thread(target=work, args=(number,), daemon={daemon}) for number in range(4)]
        for thread in threads:
            thread.start()
        while len(db) < 200:
            pass
        if not {daemon}:
            threading.Timer(0.1, stop.set).start()
        """,
        path,
    )
    assert "Fatal" not in text
    assert daemon or text == ""
    with mmkv.open(path) as db:
        assert len(db) >= 200


def test_the_order_of_the_end(open_store: Any, path: Path) -> None:
    """What a program registers after importing mmkv, as it must to know of it, can still use the store."""
    open_store.check_later(path)
    text = run("atexit.register(lambda: db.put(b'at the end', b'1'))", path)
    assert text == ""
    with mmkv.open(path) as db:
        assert db[b"at the end"] == b"1"
    assert is_clean(path)


def test_a_store_in_a_subinterpreter(open_store: Any, path: Path) -> None:
    """It cannot be used there, and says so; the main interpreter does not notice."""
    open_store.check_later(path)
    try:
        import _xxsubinterpreters  # noqa: F401
    except ImportError:
        pytest.skip("no subinterpreters here")
    text = run(
        """
        import _xxsubinterpreters as interpreters
        id_ = interpreters.create()
        code = '''
        import mmkv
        '''
        import textwrap
        try:
            interpreters.run_string(id_, textwrap.dedent(code))
        except interpreters.RunFailedError as error:
            assert "ImportError" in str(error) and "subinterpreter" in str(error), error
        else:
            raise SystemExit("it was imported")
        interpreters.destroy(id_)
        try:
            mmkv.open("/nowhere/at/all", "r")
        except FileNotFoundError:
            pass
        db.close()
        try:
            db[b"1"]
        except mmkv.ClosedError:
            pass
        """,
        path,
    )
    assert "Fatal" not in text


def test_asyncio(store: Any) -> None:
    """Calls in an executor's threads, awaited all at once."""

    async def main() -> list[bytes]:
        loop = asyncio.get_running_loop()
        await asyncio.gather(
            *(loop.run_in_executor(None, store.put, b"%d" % i, b"v%d" % i) for i in range(500)),
            *(asyncio.to_thread(store.sync) for _ in range(5)),
        )
        return await asyncio.gather(*(asyncio.to_thread(store.get, b"%d" % i) for i in range(500)))

    assert asyncio.run(main()) == [b"v%d" % i for i in range(500)]


# -- pools ------------------------------------------------------------------------------------------------------------


def fill(db: Any, start: int) -> tuple[str, str, int]:
    for i in range(start, start + 200):
        db[b"%d" % i] = b"%d" % i * 10
    return repr(db), db.mode, os.getpid()


POOLED: Any = None


def keep(db: Any) -> None:
    global POOLED  # noqa: PLW0603  # what the functions of a pool have in common
    POOLED = db


def fill_global(start: int) -> int:
    return fill(POOLED, start)[2]


def options_of(db: Any) -> tuple[str, dict[str, Any]]:
    return db.mode, dict(db._options)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_pools(open_store: Any, method: str) -> None:
    """The store as an argument of each call, which opens it each time, and of the initialiser, which does so once."""
    db = open_store(mode="n", max_size=64 << 20, lock_timeout=7.5, verify_reads=True, sync="manual")
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(3, mp_context=context, initializer=keep, initargs=(db,)) as pool:
        for text, mode, pid in pool.map(fill, [db] * 10, range(0, 2000, 200)):
            assert "closed" not in text
            assert mode == "w"
            assert pid != os.getpid()
        assert os.getpid() not in set(pool.map(fill_global, range(2000, 4000, 200)))
        mode, options = pool.submit(options_of, db).result()
    assert mode == "w"
    assert options == {
        "max_size": 64 << 20, "lock_timeout": 7.5, "verify_reads": True, "sync": "manual", "shards": None,
        "perm": 0o600, "guard": False,
    }  # fmt: skip
    with context.Pool(2, initializer=keep, initargs=(db,)) as pool2:
        pool2.map(fill_global, range(4000, 5000, 200))
        pool2.close()
        pool2.join()
    assert len(db) == 5000
    assert all(db[b"%d" % i] == b"%d" % i * 10 for i in range(5000))


def test_a_reopened_store_keeps_its_limit(open_store: Any) -> None:
    import pickle

    db = open_store(mode="n", max_size=2 << 20, sync="manual")
    with pickle.loads(pickle.dumps(db)) as again, pytest.raises(mmkv.StoreFullError):
        again[b"large"] = b"x" * (3 << 20)
    with pytest.raises(TypeError, match="private"):
        db.close()
        pickle.dumps(open_store(mode="p"))
