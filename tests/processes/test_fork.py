"""Forks of every kind: generations, orphans, prefork workers, daemons, and parents that die at a bad moment."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import mmkv
from tests.support import Child, beside_tests, fork_and_wait, run_python, until

# Python 3.12 and later warn of fork in a process with threads, which is what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def test_generations(store: Any) -> None:
    """Each a child of the one before, which ends by and by: all see all."""
    deepest = 40

    def generation(number: int) -> None:
        store[b"%d" % number] = b"x" * number * 100
        if number < deepest:
            fork_and_wait(lambda: generation(number + 1))
        assert {b"%d" % i: b"x" * i * 100 for i in range(deepest + 1)} == dict(store)
        if number % 2:
            store.close()
            store.close()

    fork_and_wait(lambda: generation(0))
    assert len(store) == deepest + 1
    assert store.stats().attached == 1


def test_orphans_of_orphans(open_store: Any, path: Path) -> None:
    """Parents that do not wait: the last of a line of twenty sees what the others wrote, all of whom are gone."""
    open_store.check_later(path)
    out = run_python(
        """
        import os, select, sys, mmkv
        db = mmkv.open(sys.argv[1])
        for i in range(20):
            db[b"%d" % i] = b"v" * i * 1000
            me = os.pidfd_open(os.getpid())
            if os.fork():
                os._exit(0)
            select.select([me], [], [])  # the parent is gone, and so is all that it held
            os.close(me)
        assert len(db) == 20 and all(db[b"%d" % i] == b"v" * i * 1000 for i in range(20))
        assert db.stats().attached == 1
        db.close()
        print("last")
        """,
        path,
    )
    assert out == "last\n"


def test_a_tree_of_forks(store: Any) -> None:
    """127 processes, each but the leaves with two children that it waits for."""

    def node(name: bytes) -> None:
        store[name] = name * 50
        if len(name) < 6:
            pids = []
            for side in b"ab":
                if not (pid := os.fork()):
                    code = 1
                    try:
                        node(name + bytes([side]))
                        code = 0
                    finally:
                        os._exit(code)
                pids.append(pid)
            assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0]
            assert sum(key.startswith(name) for key in store) == 2 ** (7 - len(name)) - 1

    node(b"r")
    assert len(store) == 63
    assert all(store[key] == key * 50 for key in store)


def test_the_child_of_a_parent_that_dies(open_store: Any, path: Path) -> None:
    db = open_store(sync="manual")
    code = """
        import os, signal, sys, mmkv
        db = mmkv.open(sys.argv[1], sync="manual")
        db[b"parent"] = b"1"
        if os.fork():
            os.kill(os.getpid(), signal.SIGKILL)
        sys.stdin.readline()
        for i in range(5000):
            db[b"child %d" % i] = b"x" * 300
        print(len(db))
        db.close()
        print("closed")
    """
    with Child(code, path) as child:
        assert child.process.wait() == -signal.SIGKILL
        db[b"here"] = b"1"
        child.tell("go on")
        assert int(child.line()) == 5002
        assert child.line() == "closed"
        child.kill()
    assert len(db) == 5002


def test_a_parent_killed_while_another_thread_opens(open_store: Any, path: Path) -> None:
    """The fork comes in the middle of an open, which is here one that recovers: the child must not keep its lock."""
    copied = path.with_name("copy.mmkv")
    with mmkv.open(path, sync="manual") as db:
        db.update({b"%d" % i: b"v" for i in range(5000)})
        db.sync()
        shutil.copyfile(path, copied)  # a file that needs recovery
    open_store.check_later(copied)
    code = """
        import os, signal, sys, threading, mmkv
        inside, never = threading.Event(), threading.Event()

        def progress(done, total):
            inside.set()
            never.wait()

        threading.Thread(target=mmkv.open, args=(sys.argv[1], "w"), kwargs={"progress": progress}, daemon=True).start()
        inside.wait()
        if os.fork():
            os.kill(os.getpid(), signal.SIGKILL)
        sys.stdin.readline()
        with mmkv.open(sys.argv[1], "w") as db:
            print(len(db))
        os._exit(0)
    """
    with Child(code, copied) as child:
        assert child.process.wait() == -signal.SIGKILL
        assert run_python("import mmkv, sys; print(len(mmkv.open(sys.argv[1])))", copied) == "5000\n"
        child.tell("go on")
        assert child.line() == "5000"
        child.kill()


@pytest.mark.parametrize("crowded", [False, True])
def test_a_child_of_a_process_that_is_just_closing(open_store: Any, path: Path, crowded: bool) -> None:
    """Another thread's close waits for the lock when the fork comes: nothing stays attached or locked in the child.

    crowded: so many slots are taken that a fork tries for that lock, to settle those of the dead.
    """
    with open_store() as db:
        db[b"key"] = b"value"
    code = """
        import fcntl, os, sys, threading, mmkv
        from tests.processes.live import ATTACH_BYTE, F_OFD_SETLK, PROCESS_BYTES, SLOTS, Live, lock_bytes
        from tests.support import until

        path, crowded = sys.argv[1], sys.argv[2] == "True"
        others = os.open(path, os.O_RDWR)
        if crowded:
            lock_bytes(others, F_OFD_SETLK, fcntl.F_WRLCK, PROCESS_BYTES + 2, SLOTS - 32)
        db = mmkv.open(path)
        lock_bytes(others, F_OFD_SETLK, fcntl.F_WRLCK, ATTACH_BYTE, 1)
        files = len(os.listdir("/proc/self/fd"))
        closing = threading.Thread(target=db.close)
        closing.start()
        until(lambda: len(os.listdir("/proc/self/fd")) > files)  # the descriptor that it asks for the lock through
        out, into = os.pipe()
        if not (child := os.fork()):
            os.close(into)
            os.close(others)
            os.read(out, 1)
            os._exit(0)
        os.close(others)
        closing.join()
        assert not Live(path).coming_or_going()
        mmkv.open(path, "p").close()  # which it cannot be while anybody is attached
        os.close(into)
        os.waitpid(child, 0)
    """
    run_python(code, path, crowded, environment={"PYTHONPATH": beside_tests()})


def test_prefork_workers(open_store: Any, path: Path, rng: random.Random) -> None:
    """gunicorn and its like: a store in a global of the module, workers that are killed, replaced, and told to go."""
    open_store.check_later(path)
    out = run_python(
        """
        import os, random, signal, sys, mmkv
        DB = mmkv.open(sys.argv[1])
        chance = random.Random(sys.argv[2])

        def worker(number, say):
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            for i in range(1 << 30):
                DB[b"%d:%d" % (number, i)] = b"%d" % i * 50
                os.write(say, number.to_bytes(4, "little") + i.to_bytes(4, "little"))

        said, say = os.pipe()
        workers, started, acknowledged = [], 0, {}

        def start():
            global started
            pid = os.fork()
            if not pid:
                worker(started, say)
            workers.append(pid)
            started += 1

        def hear(messages):
            for _ in range(messages):
                text = os.read(said, 8)
                acknowledged[int.from_bytes(text[:4], "little")] = int.from_bytes(text[4:], "little")

        for _ in range(4):
            start()
        for _ in range(40):
            hear(chance.randrange(200))
            pid = workers.pop(chance.randrange(4))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            start()
        for pid in workers:
            os.kill(pid, signal.SIGTERM)
        os.set_blocking(said, False)
        ended = 0
        while ended < len(workers):
            try:
                hear(1)
            except BlockingIOError:
                ended += os.waitpid(-1, os.WNOHANG)[0] > 0
        for number, last in acknowledged.items():
            for i in range(last + 1):
                assert DB[b"%d:%d" % (number, i)] == b"%d" % i * 50
        assert DB.verify().ok and DB.stats().attached == 1
        DB.close()
        print("ok", len(acknowledged))
        """,
        path,
        rng.random(),
    )
    assert out.startswith("ok ")


def test_a_daemon(open_store: Any, path: Path) -> None:
    """Two forks, a session of its own, another directory, every descriptor closed."""
    out = path.with_name("out")
    open_store.check_later(path)
    run_python(
        """
        import os, sys, mmkv
        db = mmkv.open(sys.argv[1], sync="manual")
        db[b"before"] = b"1"
        if os.fork():
            os._exit(0)
        os.setsid()
        if os.fork():
            os._exit(0)
        os.chdir("/")
        os.umask(0)
        os.closerange(0, 1000)
        try:
            stored = 0
            for i in range(3000):
                db[b"%d" % i] = b"x" * 20
            db[b"before"] = b"2"
            stored = len(db)
            db.sync()
            db.close()
        finally:
            with open(sys.argv[2] + ".new", "w") as file:
                file.write(str(stored))
            os.rename(sys.argv[2] + ".new", sys.argv[2])
        """,
        path,
        out,
    )
    until(out.exists)
    assert out.read_text() == "3001"
    with mmkv.open(path) as db:
        assert len(db) == 3001
        assert db[b"before"] == b"2"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the root directory")
def test_a_child_in_another_root(store: Any, tmp_path: Path) -> None:
    def child() -> None:
        (tmp_path / "root").mkdir()
        os.chroot(tmp_path / "root")
        os.chdir("/")
        for i in range(10_000):
            store[b"%d" % i] = b"x" * 100
        store.sync()
        store.close()

    fork_and_wait(child)
    assert len(store) == 10_000


def test_a_file_that_loses_its_name(open_store: Any, path: Path) -> None:
    """Parent and child go on with the same file."""
    db = open_store()
    db[b"k"] = b"v"
    path.unlink()

    def child() -> None:
        for i in range(10_000):
            db[b"%d" % i] = b"x" * 100
        db.sync()

    fork_and_wait(child)
    fork_and_wait(child)
    assert len(db) == 10_001
    assert db.verify().ok


def test_a_child_of_one_who_has_lost_its_rights(store: Any) -> None:
    """Its parent can get no process slot for it, having no right to the file: reading goes on, writing says why."""
    if os.geteuid() != 0:
        pytest.skip("only root can drop its rights")
    store[b"k"] = b"v"

    def grandchild() -> None:
        assert store[b"k"] == b"w"
        with pytest.raises(mmkv.LockTimeoutError, match="forked"):
            store[b"k"] = b"x"
        store.close()

    def child() -> None:
        os.setgid(65534)
        os.setuid(65534)
        store[b"k"] = b"w"
        fork_and_wait(grandchild)
        store[b"k"] = b"y"

    fork_and_wait(child)
    assert store[b"k"] == b"y"


def test_forks_while_other_threads_open_and_close(store: Any, path: Path) -> None:
    """A child is no more than its parent's threads have finished: whatever they are at, it works, and ends."""
    store[b"k"] = b"v"
    stop = threading.Event()

    def open_and_close(mode: Any) -> None:
        while not stop.is_set():
            with mmkv.open(path, mode, sync="manual") as db:
                assert db[b"k"]

    threads = [threading.Thread(target=open_and_close, args=(mode,)) for mode in ("w", "r", "w")]
    for thread in threads:
        thread.start()
    try:
        for i in range(60):

            def child(i: int = i) -> None:
                store[b"%d" % i] = b"c"
                with mmkv.open(path, "w", sync="manual") as other:
                    other[b"k"] = b"w"

            fork_and_wait(child)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert len(store) == 61
    assert store.stats().attached == 1


def test_a_program_started_by_fork_and_exec_takes_nothing_along(store: Any) -> None:
    """What subprocess does when it is given a preexec_fn."""
    store[b"k"] = b"v"
    for _ in range(5):
        subprocess.run([sys.executable, "-c", ""], preexec_fn=lambda: None, check=True)
    fork_and_wait(lambda: store.put(b"child", b"1"))
    assert store.stats().attached == 1
    assert dict(store) == {b"k": b"v", b"child": b"1"}
