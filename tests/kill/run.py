"""Runs of the kill rig: a process for each operation, which kills others; several at a time."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.rig.build import build
from tests.rig.runs import each_in_a_process

HERE = Path(__file__).resolve().parent
SOURCES = [HERE / name for name in ("death.c", "model.c", "scenarios.c")]
COUNTERS = ("deaths", "chains", "completed", "points", "taken_over", "newcomer", "stranger", "parent", "child", "guest")
SECONDS_OF_A_RUN = 900


PARTS = 16


@dataclass(frozen=True)
class Task:
    """Kills of one operation: everything in it follows from these."""

    operation: str
    seed: int
    chains: int = 0
    """Deaths at places chosen by chance; 0: before each store whose number is `part` modulo PARTS."""
    part: int = 0

    def command(self) -> str:
        """How to see it again."""
        return f"python -m tests.kill --operation {self.operation} --seed {self.seed}" + (
            f" --chains {self.chains}" if self.chains else f" --part {self.part}"
        )


@dataclass
class Outcome:
    """What came of a run."""

    task: Task
    failure: str = ""
    counts: Counter[str] = field(default_factory=Counter)


def engine(changed: dict[str, str] | None = None) -> Path:
    """The rig, with other texts for some files of the engine."""
    return build(SOURCES, changed, program=True)


def operations() -> list[str]:
    """The names of all operations that can be killed."""
    return re.findall(r'^    \{ "([a-z-]+)", ', SOURCES[-1].read_text(), re.MULTILINE)


def run(
    program: Path, tasks: Iterable[Task], *, jobs: int = 1, done: Callable[[], bool] = lambda: False
) -> Iterator[Outcome]:
    """Run tasks, `jobs` at a time, until there are no more or `done()`; outcomes come as they end."""

    def work(task: Task, own: Path) -> None:
        os.execv(program, list(map(str, [program, own, *(task.operation, task.seed, task.chains, task.part), PARTS])))

    for task, failure, own in each_in_a_process(tasks, work, seconds=SECONDS_OF_A_RUN, jobs=jobs, done=done):
        outcome = Outcome(task, failure)
        if not failure:
            numbers = map(int, (own / "output").read_text().split())
            outcome.counts.update(dict(zip(COUNTERS, numbers, strict=True)))
        elif found := re.match(r"after (\d+) deaths", failure):
            outcome.counts["deaths"] = int(found[1])
        yield outcome
