"""A few seconds of what `python -m tests.race` does at length (docs/testing.md)."""

from __future__ import annotations

import re

import pytest

from tests.race import seeded
from tests.race.run import SOURCES, engine, missing, run, suppressions
from tests.rig.build import engine_sources
from tests.rig.runs import Bug
from tests.support import SEED

sanitized = pytest.mark.skipif(bool(missing()), reason=missing() or "-")
BUGS = [
    pytest.param(bug, id=bug.name, marks=() if bug.name in seeded.QUICK else pytest.mark.slow) for bug in seeded.BUGS
]


@sanitized
def test_threads_race_only_where_they_may() -> None:
    seed = SEED % (1 << 31)
    outcome = run(engine(), 4, seed)
    assert not outcome.failure, f"{outcome.first()}\nrun again: python -m tests.race --seed {seed}"
    assert outcome.calls > 1000
    assert outcome.used, "not one reader was seen to race: the rig has become blind"


@sanitized
@pytest.mark.parametrize("bug", BUGS)
def test_a_seeded_bug_is_reported(bug: Bug) -> None:
    assert seeded.catch(bug, 60, SEED % (1 << 31)), f"{bug.name} ({bug.what}) was not reported"


@pytest.mark.parametrize("bug", seeded.BUGS, ids=lambda bug: bug.name)
def test_every_seeded_bug_applies(bug: Bug) -> None:
    assert bug.text()


@pytest.mark.parametrize("pattern", suppressions())
def test_a_suppression_names_one_function_of_the_engine(pattern: str) -> None:
    """One that no longer exists would be a gap that nobody sees; and none may cover more than it names."""
    name = re.fullmatch(r"\^(\w+)\$", pattern)
    assert name is not None
    defined = re.compile(rf"^[\w ]+[ *]{name[1]}\([^;]*$", re.MULTILINE)
    assert sum(len(defined.findall(path.read_text())) for path in [*engine_sources(), *SOURCES]) == 1
