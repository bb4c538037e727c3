"""What the tests share: opening stores, checking them afterwards, and running Python in another process."""

from __future__ import annotations

import atexit
import functools
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mmkv

ROOT = Path(__file__).resolve().parent.parent
SEED = int(os.environ.get("MMKV_TEST_SEED", "0"))


@functools.cache
def beside_tests() -> str:
    """A directory for PYTHONPATH with which `tests` can be imported and mmkv is still the installed one."""
    directory = tempfile.mkdtemp(prefix="mmkv-tests-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    os.symlink(ROOT / "tests", os.path.join(directory, "tests"))
    return directory


def check_report(report: Any, path: Path) -> None:
    """Fail unless `report` says that everything is well."""
    assert report.ok, f"{path} fails verify():\n{report}"
    assert report.errors == [], f"{path}: ok, and yet {report.errors}"


def check_file(path: Path) -> None:
    """Fail unless the store at `path` opens and passes verify()."""
    with mmkv.open(path, "w", sync="manual") as db:
        check_report(db.verify(), path)


class StoreOpener:
    """Opens stores below one directory and, at the end, closes and checks every one of them.

    Called like mmkv.open, with a path below the directory (default "store.mmkv").
    """

    def __init__(self, directory: Path, open_store: Callable[..., Any] = mmkv.open) -> None:
        self.directory = directory
        self._open = open_store
        self._stores: list[Any] = []
        self._paths: dict[Path, None] = {}

    def __call__(self, path: str | os.PathLike[str] = "store.mmkv", mode: str = "c", **options: Any) -> Any:
        full = self.directory / path
        db = self._open(full, mode, **options)
        self._stores.append(db)
        self._paths[full] = None
        return db

    def check_later(self, path: Path) -> None:
        """Check also a store that something else opens."""
        self._paths[path] = None

    def expect_damage(self, path: Path) -> None:
        """Leave a file out of the final check: the test has damaged it on purpose."""
        self._paths.pop(path, None)

    def finish(self) -> None:
        """Close all stores, then check all files that still exist."""
        for db in self._stores:
            db.close()
        for path in self._paths:
            if path.exists():
                check_file(path)


def run_python(code: str, *arguments: object, environment: dict[str, str] | None = None, timeout: float = 120) -> str:
    """Run `code` in a new interpreter, fail the test if it fails, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(code), *map(str, arguments)],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def run_suites(suites: Sequence[str], **environment: str) -> None:
    """Run files of these tests once more, in an environment that changes what they test; fail if one of them fails."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *suites],
        cwd=ROOT,
        env={**os.environ, **environment, "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


class Child:
    """A Python process that reports line by line what it has done, and can be killed at any of them."""

    def __init__(self, code: str, *arguments: object, environment: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-u", "-c", textwrap.dedent(code), *map(str, arguments)],
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        """The next line it prints; fails the test if it ends instead."""
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        assert text, f"the child ended with {self.process.wait()}"
        return text.rstrip("\n")

    def tell(self, text: str) -> None:
        """Send it a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def kill(self) -> str:
        """SIGKILL it; returns what it had printed and nobody had read."""
        assert self.process.stdout is not None
        self.process.kill()
        rest = self.process.stdout.read()  # communicate() would leave out what line() has read ahead
        self.process.communicate()
        return rest

    def end(self) -> None:
        """Wait for its own end, which has to be a good one."""
        self.process.communicate(timeout=120)
        assert self.process.returncode == 0, f"the child ended with {self.process.returncode}"

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()


def fork_and_wait(work: Callable[[], object]) -> None:
    """Run `work` in a forked child, which ends by os._exit; fail if it raised or was killed."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:
            os.write(2, f"in the forked child: {type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for something that only another process or a background thread can bring about, and that tells nobody."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def random_bytes(rng: random.Random, size: int) -> bytes:
    """`size` bytes, cheaply."""
    if size <= 64:
        return rng.randbytes(size)
    block = rng.randbytes(64)
    return (block * (size // 64 + 1))[:size]


def blocks_of(path: Path) -> int:
    """The bytes that a file takes on the disk, as du has it."""
    return os.stat(path).st_blocks * 512


def permissions_of(path: Path) -> int:
    """The permission bits of a file."""
    return stat.S_IMODE(os.stat(path).st_mode)


def size_class_boundaries() -> Iterator[int]:
    """The sizes of the blocks that records live in, as docs/format.md gives them."""
    for class_ in range(8):
        yield 16 * (class_ + 1)
    for class_ in range(8, 48):
        doubling, rest = divmod(class_ - 8, 8)
        yield (128 << doubling) + (16 << doubling) * (rest + 1)
    for class_ in range(48, 60):
        blocks = 15 - (class_ - 48)
        first = (64 + 16 * ((blocks + 127) // 128) + 16 * blocks + 63) & ~63
        yield (65536 - first) // blocks & ~15


RECORD_HEADER = 12
