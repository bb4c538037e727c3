"""Killed before each store: a seeded sample of what `python -m tests.kill` does at length (docs/testing.md)."""

from __future__ import annotations

import pytest

from tests.kill import seeded
from tests.kill.run import COUNTERS, Task, engine, operations, run
from tests.rig.build import ENGINE
from tests.rig.runs import Bug
from tests.support import SEED

CHAINS = 40
BUGS = [pytest.param(bug, operation, id=bug.name) for bug, operation in seeded.BUGS]


@pytest.mark.parametrize("operation", operations())
def test_killed_anywhere(operation: str) -> None:
    [outcome] = run(engine(), [Task(operation, SEED % (1 << 31), CHAINS)])
    assert not outcome.failure, f"{outcome.failure}run again: {outcome.task.command()}"
    assert outcome.counts["deaths"] >= CHAINS


def test_the_rig_leaves_nothing_out() -> None:
    """A seed with which every kind of survivor comes up: a rig that has become blind to one shows here."""
    [outcome] = run(engine(), [Task("overwrite", 1, 60)])
    assert [name for name in COUNTERS if not outcome.counts[name]] == []


@pytest.mark.parametrize("name", seeded.QUICK)
def test_seeded_bugs_are_caught(name: str) -> None:
    bug, operation = next((bug, operation) for bug, operation in seeded.BUGS if bug.name == name)
    outcome, deaths = seeded.catch(bug, operation)
    assert outcome is not None, f"{bug.name} ({bug.what}) was not caught in {deaths} deaths"


@pytest.mark.slow
@pytest.mark.parametrize(("bug", "operation"), BUGS)
def test_every_seeded_bug_is_caught(bug: Bug, operation: str) -> None:
    outcome, deaths = seeded.catch(bug, operation)
    assert outcome is not None, f"{bug.name} ({bug.what}) was not caught in {deaths} deaths"


@pytest.mark.parametrize(("bug", "operation"), BUGS)
def test_every_seeded_bug_applies(bug: Bug, operation: str) -> None:
    assert bug.text() != (ENGINE / bug.file).read_text()
    assert operation in operations()
