"""Runs of the crash rig: a process for each seed, several at a time; the independent reader reads some images too."""

from __future__ import annotations

import ctypes
import os
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import xxhash._xxhash

from tests.format.reader import Refused, read_checkpoint
from tests.rig.build import build
from tests.rig.runs import each_in_a_process

HERE = Path(__file__).resolve().parent
SOURCES = [HERE / name for name in ("crash.c", "world.c", "images.c")]
COUNTERS = (
    *("images", "recovering", "cleans", "stores", "flushes", "writes", "checkpoints", "nested"),
    *("resizes", "cuts", "punches", "full", "commits", "conflicts"),
    *("oldest", "newest", "random", "one_old", "one_new", "mostly_old", "mostly_new", "recent", "split"),
)
IMAGES_OF_A_RUN = 24
SECONDS_OF_A_RUN = 300


@dataclass(frozen=True)
class Task:
    """One run: everything in it follows from these."""

    seed: int
    sectors: bool = False
    images: int = IMAGES_OF_A_RUN

    def command(self) -> str:
        """How to see it again."""
        return f"python -m tests.crash --only {self.seed} --run-images {self.images}" + " --sectors" * self.sectors


@dataclass
class Outcome:
    """What came of a run."""

    task: Task
    failure: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    read: int = 0
    """Images that the independent reader read as well."""


def engine(changed: dict[str, str] | None = None) -> Path:
    """The rig's library, with other texts for some files of the engine."""
    return build(SOURCES, changed)


def _child(library: Path, task: Task, directory: Path, reader_of: int) -> None:
    # What is printed comes after the counters, if it comes to these.
    rig = ctypes.CDLL(str(library))
    hash_function = ctypes.cast(ctypes.CDLL(xxhash._xxhash.__file__).XXH3_64bits_withSeed, ctypes.c_void_p)
    rig.crash_run.restype = ctypes.POINTER(ctypes.c_uint64)
    rig.crash_run.argtypes = [
        ctypes.c_char_p,
        ctypes.c_uint64,
        ctypes.c_int,
        ctypes.c_uint32,
        ctypes.c_uint32,
        ctypes.c_void_p,
    ]
    totals = rig.crash_run(os.fsencode(directory), task.seed, int(task.sectors), task.images, reader_of, hash_function)
    (directory / "counts").write_text(" ".join(str(totals[i]) for i in range(len(COUNTERS))))


def _expected(path: Path) -> dict[bytes, bytes]:
    data, at, records = path.read_bytes(), 0, {}
    while at < len(data):
        key, value = struct.unpack_from("<II", data, at)
        at += 8
        records[data[at : at + key]] = data[at + key : at + key + value]
        at += key + value
    return records


def _ask_the_reader(outcome: Outcome, directory: Path) -> None:
    for expected in sorted(directory.glob("reader-*.txt")):
        try:
            contents = read_checkpoint(expected.with_suffix(".mmkv"))
            if contents.problems or contents.records != _expected(expected):
                outcome.failure += f"the independent reader finds something else: {contents.problems[:5]}\n"
        except Refused as refused:
            outcome.failure += f"the independent reader refuses an image: {refused}\n"
        outcome.read += 1


def run(
    library: Path,
    tasks: Iterable[Task],
    *,
    jobs: int = 1,
    reader_of: int = 0,
    done: Callable[[], bool] = lambda: False,
    directory: Path | None = None,
) -> Iterator[Outcome]:
    """Run tasks, `jobs` at a time, until there are no more or `done()`; outcomes come as they end."""

    def work(task: Task, own: Path) -> None:
        _child(library, task, own, reader_of)

    for task, failure, own in each_in_a_process(
        tasks, work, seconds=SECONDS_OF_A_RUN, jobs=jobs, done=done, directory=directory
    ):
        outcome = Outcome(task, failure)
        if not failure:
            numbers = map(int, (own / "counts").read_text().split())
            outcome.counts.update(dict(zip(COUNTERS, numbers, strict=True)))
            _ask_the_reader(outcome, own)
        found = re.search(r", image (\d+): ", outcome.failure)
        if found:
            outcome.counts["images"] = int(found[1])
        yield outcome
