"""A few seconds of storm, for the seed of this run of the suite; and what storms have found, by itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import mmkv
from tests.storm import owner
from tests.storm.history import Log
from tests.storm.owner import differences, steps_of
from tests.storm.seeded import BUGS, QUICK, catch
from tests.support import Child, beside_tests, run_python

STORM = """
import sys
from pathlib import Path
from tests.storm.world import SCENES, Storm, Tally
tally = Tally()
for number, scene in enumerate(SCENES):
    this = Storm(scene, Path(sys.argv[2]) / "store.mmkv", f"{sys.argv[1]} {number}", tally)
    this.round(6, 0.4)
    this.end()
assert tally.calls() > 0 and len(tally.deaths) > 0
"""


def test_storm(tmp_path: Path) -> None:
    """In a process of its own: it forks, and has no threads."""
    run_python(STORM, os.environ["MMKV_TEST_SEED"], tmp_path, environment={"PYTHONPATH": beside_tests()}, timeout=600)


def test_long_run(tmp_path: Path) -> None:
    """As tests/soak.py makes it with --processes, but short."""
    run_python(
        "import sys; from pathlib import Path; from tests.storm.world import long_run;"
        "print(long_run(2, sys.argv[1], 8, Path(sys.argv[2])))",
        *(os.environ["MMKV_TEST_SEED"], tmp_path),
        environment={"PYTHONPATH": beside_tests()},
        timeout=600,
    )


@pytest.mark.parametrize("name", [bug.name for bug in BUGS])
def test_seeded_bugs_apply(name: str) -> None:
    (bug,) = [bug for bug in BUGS if bug.name == name]
    assert bug.text()


@pytest.mark.parametrize(
    "name", [pytest.param(bug.name, marks=[] if bug.name in QUICK else pytest.mark.slow) for bug in BUGS]
)
def test_a_seeded_bug_is_caught(name: str) -> None:
    (bug,) = [bug for bug in BUGS if bug.name == name]
    assert catch(bug, 120, os.environ["MMKV_TEST_SEED"])


# -- what was found ---------------------------------------------------------------------------------------------------


def test_growth_by_others_is_not_taken_for_damage(path: Path) -> None:
    """By one who comes, and by one who asks, while the file gets longer."""
    mmkv.open(path, sync="manual").close()
    grow = """
        import sys, mmkv
        with mmkv.open(sys.argv[1], "w", sync="manual") as db:
            for i in range(300):
                db[b"%d" % i] = bytes(1_100_000)
        print("end", flush=True)
        """
    with Child(grow, path) as child, mmkv.open(path, "w", sync="manual") as db:
        while len(db) < 300:
            with mmkv.open(path, "w", sync="manual") as other:
                assert other.stats().file_bytes <= db.stats().file_bytes
        assert child.line() == "end"
        child.end()
        assert db.verify()


# -- an owner's keys --------------------------------------------------------------------------------------------------


def owned(number: int, *, killed: bool, done: int = 0) -> tuple[list[owner.Step], Log, dict[int, bytes]]:
    """An owner that made `number` calls and was killed in the next, with `done` keys of it done."""
    steps = steps_of("seed", 1, (8, 40))
    log = Log(1 << 16)
    content: dict[int, int] = {}
    for i in range(number):
        log.add("call")
        log.add("return")
        content.update(zip(steps[i % owner.STEPS].keys, steps[i % owner.STEPS].numbers, strict=True))
    if killed:
        log.add("call")
        step = steps[number % owner.STEPS]
        content.update(list(zip(step.keys, step.numbers, strict=True))[:done])
    return steps, log, {key: owner.value_of(value) for key, value in content.items() if value}


@pytest.mark.parametrize("number", [0, 1, 5, 7, 30])
def test_an_owner_killed_between_calls(number: int) -> None:
    steps, log, found = owned(number, killed=False)
    assert differences(steps, log, found) is None
    if found:
        found.popitem()
        assert differences(steps, log, found)


@pytest.mark.parametrize("number", [1, 5, 7, 30])
def test_an_owner_killed_in_a_call(number: int) -> None:
    for done in (0, 1):
        assert differences(*owned(number, killed=True, done=done)) is None
    steps, log, found = owned(number, killed=True, done=1)
    step = steps[number % owner.STEPS]
    if step.deletes:
        found.pop(step.keys[-1], None)
    else:
        found[step.keys[-1]] = owner.value_of(step.numbers[-1])
    first = differences(steps, log, found)
    found[step.keys[0]] = b"something else"
    assert differences(steps, log, found)
    if len(step.keys) > 2 and not step.deletes:
        assert first
