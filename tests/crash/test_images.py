"""Power cuts at any moment: a seeded sample of what `python -m tests.crash` does at length (docs/testing.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest

from tests.crash import seeded
from tests.crash.run import COUNTERS, Outcome, Task, engine, run
from tests.rig.build import ENGINE
from tests.rig.runs import Bug
from tests.support import SEED

IMAGES = 12


def check(outcomes: Iterable[Outcome]) -> Counter[str]:
    """Fail with what the first bad run printed, and how to see it again; else the sum of all counters."""
    total: Counter[str] = Counter()
    for outcome in outcomes:
        assert not outcome.failure, f"{outcome.failure}run again: {outcome.task.command()}"
        total += outcome.counts
        total["read"] += outcome.read
    return total


@pytest.mark.parametrize("sectors", [False, True], ids=["pages", "sectors"])
def test_every_image_opens_to_an_allowed_checkpoint(sectors: bool) -> None:
    first = SEED % (1 << 31)
    tasks = (Task(first + i, sectors, IMAGES) for i in range(6))
    total = check(run(engine(), tasks, reader_of=20))
    assert total["images"] > 6 * IMAGES, "images of images are missing"
    assert total["read"] > 0


def test_the_rig_leaves_nothing_out() -> None:
    """Seeds that are known to do all there is: a rig that has become blind to something shows here."""
    total = check(run(engine(), (Task(seed, bool(seed % 2), 5) for seed in range(11, 31))))
    missing = [name for name in COUNTERS if not total[name]]
    assert missing == []


@pytest.mark.parametrize("name", seeded.QUICK)
def test_seeded_bugs_are_caught(name: str) -> None:
    bug = next(bug for bug in seeded.BUGS if bug.name == name)
    outcome, images = seeded.catch(bug)
    assert outcome is not None, f"{bug.name} ({bug.what}) was not caught in {images} images"


@pytest.mark.slow
@pytest.mark.parametrize("bug", seeded.BUGS, ids=[bug.name for bug in seeded.BUGS])
def test_every_seeded_bug_is_caught(bug: Bug) -> None:
    outcome, images = seeded.catch(bug)
    assert outcome is not None, f"{bug.name} ({bug.what}) was not caught in {images} images"


@pytest.mark.parametrize("bug", seeded.BUGS, ids=[bug.name for bug in seeded.BUGS])
def test_every_seeded_bug_applies(bug: Bug) -> None:
    assert bug.text() != (ENGINE / bug.file).read_text()
