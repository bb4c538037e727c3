"""What the rigs' runs have in common: a process for each task, several at a time, and seeded bugs."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.rig.build import ENGINE

SHARED_MEMORY = Path("/dev/shm")
Task = TypeVar("Task")


def _start(task: Task, work: Callable[[Task, Path], None], own: Path, seconds: int) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setpgid(0, 0)  # with all that it starts
        output = os.open(own / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        signal.alarm(seconds)
        work(task, own)
        os._exit(0)
    finally:
        os._exit(3)


def each_in_a_process(
    tasks: Iterable[Task],
    work: Callable[[Task, Path], None],
    *,
    seconds: int,
    jobs: int = 1,
    done: Callable[[], bool] = lambda: False,
    directory: Path | None = None,
) -> Iterator[tuple[Task, str, Path]]:
    """Do `work` on each task, in a process and a directory of its own, until there are no more or `done()`.

    `jobs` run at a time. Yields, as they end, the task, what was wrong (what the process printed and how it ended, or
    nothing) and the directory, which is gone when the next one is asked for. The directories are in memory where there
    is such a place: nothing is flushed anyway, but a disk's files cost more.
    """
    if directory is None and os.access(SHARED_MEMORY, os.W_OK):
        directory = SHARED_MEMORY
    running: dict[int, tuple[Task, Path]] = {}
    queue = iter(tasks)
    with tempfile.TemporaryDirectory(prefix="mmkv-rig-", dir=directory) as name:
        try:
            more = True
            while more or running:
                while more and len(running) < jobs:
                    task = None if done() else next(queue, None)
                    if task is None:
                        more = False
                        break
                    own = Path(tempfile.mkdtemp(dir=name))
                    running[_start(task, work, own, seconds)] = task, own
                if running:
                    pid, status = os.waitpid(-1, 0)
                    task, own = running.pop(pid)
                    with suppress(ProcessLookupError):
                        os.killpg(pid, signal.SIGKILL)  # what it may have left
                    yield task, _failure(status, own, seconds), own
                    shutil.rmtree(own)
        finally:
            for pid in running:
                for kill in (os.kill, os.killpg):
                    with suppress(ProcessLookupError):
                        kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _failure(status: int, own: Path, seconds: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        return ""
    if -code == signal.SIGALRM:
        return f"not done after {seconds} s\n"
    return (own / "output").read_text(errors="replace") + (f"ended by signal {-code}\n" if code < 0 else "")


def until(seconds: float) -> Callable[[], bool]:
    """A condition that holds when so many seconds have passed from now."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


@dataclass(frozen=True)
class Bug:
    """A mistake that the engine could make: replacements in one source.

    A text that does not occur exactly once is an error: a bug that no longer applies proves nothing.
    """

    name: str
    what: str
    file: str
    old: str
    new: str
    more: tuple[tuple[str, str], ...] = ()

    def text(self) -> str:
        """The whole file with the mistake in it."""
        text = (ENGINE / self.file).read_text()
        for old, new in ((self.old, self.new), *self.more):
            if text.count(old) != 1:
                raise ValueError(f"seeded bug {self.name}: {text.count(old)} times in {self.file}: {old!r}")
            text = text.replace(old, new)
        return text
