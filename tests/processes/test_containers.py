"""Processes that do not see each other: namespaces of their own for processes and mounts, one kernel, one store."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import mmkv
from tests.processes.live import looking_at, ptrace_where
from tests.support import Child


def can_unshare() -> bool:
    return (
        os.geteuid() == 0
        and shutil.which("unshare") is not None
        and subprocess.run(["unshare", "-mp", "-f", "true"], capture_output=True, check=False).returncode == 0
    )


pytestmark = pytest.mark.skipif(not can_unshare(), reason="needs the right to make namespaces")

# The first process of a new process namespace, with a /proc of its own; its parent is in the old one.
IN_A_CONTAINER = """
    import ctypes, os, signal, sys
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(0x20000 | 0x20000000) == 0  # mounts and processes
    if pid := os.fork():
        print(pid)
        os.waitpid(pid, 0)
        os._exit(0)
    assert os.getpid() == 1
    assert libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None) == 0  # private, all of it
    assert libc.mount(b"proc", b"/proc", b"proc", 0, None) == 0
    import mmkv
"""

WRITER = (
    IN_A_CONTAINER
    + """
    db = mmkv.open(sys.argv[1], "w", sync="manual")
    print("ready")
    i = 0
    while True:
        db[b"%d" % (i % 400)] = b"%d " % i + b"w" * (i % 300)
        i += 1
"""
)


def test_containers_share_a_store(open_store: Any, path: Path) -> None:
    db = open_store(sync="manual")
    db[b"from the host"] = b"1"
    code = (
        IN_A_CONTAINER
        + """
    db = mmkv.open(sys.argv[1], "w", sync="manual")
    assert db[b"from the host"] == b"1"
    db[b"from " + sys.argv[2].encode()] = b"x" * 100_000
    print("written")
    sys.stdin.readline()
    print(len(db))
    if os.fork() == 0:
        db[b"from a child of " + sys.argv[2].encode()] = b"1"
        os._exit(0)
    os.wait()
    db.close()
    """
    )
    with Child(code, path, "one") as one, Child(code, path, "another") as another:
        for child in (one, another):
            child.line()
            assert child.line() == "written"
        assert db.stats().attached == 3
        assert db[b"from one"] == db[b"from another"] == b"x" * 100_000
        one.tell("go on")
        assert one.line() == "3"
        one.end()
        assert db[b"from a child of one"] == b"1"
        another.tell("go on")
        assert another.line() == "4"
        another.end()
    assert db.stats().attached == 1


def test_a_number_that_means_another_process_keeps_nobody_alive(open_store: Any, path: Path) -> None:
    """What dies in a container as process 1 is not kept alive by the machine's process 1, and is taken over from."""
    db = open_store(shards=4, sync="manual", lock_timeout=600)
    with Child(WRITER, path) as container, looking_at(path) as live:
        pid = int(container.line())
        assert container.line() == "ready"
        with ptrace_where(pid, lambda: bool(live.held(1, odd=True))):
            (shard,) = live.held(1)
            with (
                mmkv.open(path, "w", sync="manual", lock_timeout=0.1) as impatient,
                pytest.raises(mmkv.LockTimeoutError) as caught,
            ):
                impatient.update({b"%d" % i: b"new" for i in range(400)})
            assert caught.value.pid == 1, "as its own system numbers it"
            os.kill(pid, 9)
        key = next(b"%d" % i for i in range(400) if live.shard_of(b"%d" % i) == shard)
        db[key] = b"after"
        container.end()
    db.update({b"%d" % i: b"after" for i in range(400)})
    assert db.verify().ok
