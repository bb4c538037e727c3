"""Runs of the race rig: a build with ThreadSanitizer, and what it reports."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.rig.build import Kind, build
from tests.rig.runs import SHARED_MEMORY

HERE = Path(__file__).resolve().parent
SOURCES = [HERE / name for name in ("race.c", "window.c")]
SUPPRESSIONS = HERE / "suppressions.txt"
# Not inlined: a suppression names a function, and a report is to show all that led to it.
SANITIZED = ("-fsanitize=thread", "-fno-inline", "-fno-omit-frame-pointer")
RACES = Kind(
    engine=(*SANITIZED, "-Wno-tsan"),
    own=SANITIZED,
    link=("-fsanitize=thread",),
    wrapped=("mmap", "munmap", "fcntl", "close"),
    runtime=(),
)
THREADS = 6
REPORTED = 66
"""How a run ends that has come to its end and of which something was reported."""
RULE = "=" * 18
LOST = "[failed to restore the stack]"
PATIENCE = 120.0
"""Seconds after which a run that should have come to its end is taken to be hanging."""
_SMALLEST = "#include <pthread.h>\nint main(void) { return 0; }\n"


@functools.cache
def missing() -> str:
    """Why there is no ThreadSanitizer here; nothing if there is."""
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "smallest"
        command = ["gcc", "-fsanitize=thread", "-pthread", "-x", "c", "-", "-o", str(program)]
        try:
            done = subprocess.run(command, input=_SMALLEST, text=True, capture_output=True, check=False)
        except FileNotFoundError:
            return "there is no gcc"
        if done.returncode:
            return f"gcc has no ThreadSanitizer: {done.stderr.strip()[-200:]}"
        ran = subprocess.run([program], capture_output=True, text=True, check=False)
        return f"ThreadSanitizer does not run here: {ran.stderr.strip()[-200:]}" if ran.returncode else ""


@dataclass
class Outcome:
    """What came of a run."""

    failure: str
    """Everything that was reported; nothing if all was well."""
    calls: int
    lost: int
    """Reports of which one of the two stacks could not be restored, so that no suppression can match: left out."""
    used: dict[str, int]
    """How often each suppression was."""

    def first(self) -> str:
        """The first report."""
        return self.failure.partition(RULE)[0].strip()


def engine(changed: dict[str, str] | None = None) -> Path:
    """The rig, with other texts for some files of the engine."""
    return build(SOURCES, changed, program=True, kind=RACES)


def suppressions() -> list[str]:
    """The functions, or patterns of them, whose reports are left out."""
    return re.findall(r"^race(?:_top)?:(\S+)$", SUPPRESSIONS.read_text(), re.MULTILINE)


def run(program: Path, seconds: float, seed: int, threads: int = THREADS) -> Outcome:
    """Let the threads run for so long, with a file in memory where there is such a place."""
    options = {"suppressions": SUPPRESSIONS, "print_suppressions": 1, "history_size": 7, "exitcode": REPORTED}
    where = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="mmkv-race-", dir=where) as directory:
        done = subprocess.run(
            list(map(str, [program, Path(directory) / "store.mmkv", seed, seconds, threads])),
            env={**os.environ, "TSAN_OPTIONS": ":".join(f"{name}={value}" for name, value in options.items())},
            capture_output=True,
            text=True,
            timeout=seconds + PATIENCE,
            check=False,
        )
    used = {name: int(count) for count, name in re.findall(r"^(\d+) race(?:_top)?:(\S+)$", done.stderr, re.MULTILINE)}
    reports = [part for part in done.stderr.split(RULE) if "WARNING: ThreadSanitizer" in part]
    good = [part for part in reports if LOST not in part]
    if done.returncode not in (0, REPORTED) or (done.returncode and not reports):
        good.append(f"ended with {done.returncode}\n{done.stderr.rpartition(RULE)[2]}")
    return Outcome(RULE.join(good), int(done.stdout or 0), sum(LOST in part for part in reports), used)
