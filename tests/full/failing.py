"""Run by test_failing_calls.py with shim.c loaded: one call of one kind fails, at each place in turn.

Arguments: a directory, the function, the number of the error. Prints how many calls were made to fail.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmkv

SHIM = ctypes.CDLL(None)
LIMIT = 400  # of calls: a workload that makes more is not meant


class Workload:
    """Opens, fills, shrinks and closes a store, with a dict beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.expected: dict[bytes, bytes] = {}
        self.db: Any = None
        self.failed: list[BaseException] = []

    def attempt(self, call: Callable[[], Any]) -> bool:
        """Do it; if that fails, as it must at most once, do it again, when it must not."""
        try:
            call()
        except (OSError, MemoryError) as error:
            self.failed.append(error)
            self.check()
            call()
            return True
        return False

    def check(self) -> None:
        """The store is like the dict, if it is open."""
        if self.db is not None:
            assert dict(self.db) == self.expected
            report = self.db.verify()
            assert report.ok, report

    def open(self) -> None:
        """Open, making the store if there is none."""
        names = os.listdir(self.path.parent)

        def call() -> None:
            try:
                self.db = mmkv.open(self.path)
            except (OSError, MemoryError):
                left = sorted(set(os.listdir(self.path.parent)) - set(names))
                assert left in ([], [self.path.name]), f"left behind: {left}"
                raise

        self.attempt(call)

    def put(self, key: bytes, value: bytes) -> None:
        """Put one record."""
        self.attempt(lambda: self.db.put(key, value))
        self.expected[key] = value

    def clear(self) -> None:
        """Remove everything; a failure half-way leaves a part."""
        try:
            self.db.clear()
        except (OSError, MemoryError) as error:
            self.failed.append(error)
            self.db.clear()
        self.expected.clear()

    def close(self) -> None:
        """Close; the handle is gone even if that fails."""
        db, self.db = self.db, None
        try:
            db.close()
        except OSError as error:
            self.failed.append(error)

    def run(self) -> None:
        """All there is to do with a store."""
        rng = random.Random(1)
        self.open()
        for i in range(300):
            self.put(b"%d" % i, rng.randbytes(rng.randrange(3000)))
        for i in range(6):
            self.put(b"large %d" % i, rng.randbytes(200_000))
        self.attempt(self.db.sync)
        for key in rng.sample(sorted(self.expected), 200):
            self.attempt(lambda key=key: self.db.delete(key))  # type: ignore[misc]
            del self.expected[key]
        self.attempt(self.db.sync)
        for i in range(4):
            self.put(b"again %d" % i, rng.randbytes(300_000))
        for key in list(self.expected)[:50]:
            self.put(key, b"over")
        self.attempt(self.check)
        self.close()
        self.open()
        self.attempt(self.check)
        self.clear()
        self.put(b"k", b"v")
        self.close()


def descriptors() -> list[str]:
    """What is open, but for the directory that is being listed."""
    return sorted(os.listdir("/proc/self/fd"))


def main(directory: Path, function: str, error: int) -> None:
    """Let the first call fail, then the second, until there is none left."""
    for n in range(1, LIMIT):
        work = Workload(directory / f"{n}" / "store.mmkv")
        work.path.parent.mkdir()
        before = descriptors()
        SHIM.shim_arm(function.encode(), n, error)
        work.run()
        reached = SHIM.shim_calls() >= n
        # What a signal interrupts is done again.
        assert len(work.failed) <= (error != errno.EINTR), f"call {n}: {work.failed}"
        for failure in work.failed:
            assert str(work.path) in str(failure), f"call {n} does not name the store: {failure!r}"
        SHIM.shim_arm(b"", 0, 0)
        del work.db
        gc.collect()
        assert not SHIM.shim_bad_closes(), f"call {n}: a descriptor was closed twice"
        assert descriptors() == before, f"call {n}: descriptors leak"
        assert os.listdir(work.path.parent) == ["store.mmkv"], f"call {n}: {os.listdir(work.path.parent)}"
        with mmkv.open(work.path, "w") as db:
            assert dict(db) == {b"k": b"v"}, f"call {n}"
            assert db.verify().ok, f"call {n}"
        work.path.unlink()
        work.path.parent.rmdir()
        if not reached:
            print(n - 1)
            return
    raise AssertionError(f"more than {LIMIT} calls")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
