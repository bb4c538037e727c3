"""Run the Spin models: exhaustively as they are, and then with each seeded bug, which has to be found.

    python -m tests.models              all of them
    python -m tests.models checkpoint   one of them

Needs `spin` and `gcc`. To add a model: a file NAME.pml beside this one and an entry in MODELS.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Model:
    """A model, the bounds within which it is searched, and the bugs that can be built into it."""

    name: str
    bounds: dict[str, dict[str, int]]
    """By a name for each search: what -D sets."""
    bugs: dict[str, str]
    """By the name of the macro: the search that has to find it."""
    slow: frozenset[str]
    """Searches of several seconds: this command makes them, and the test suite with --slow."""


MODELS = {
    model.name: model
    for model in [
        Model(
            "checkpoint",
            bounds={
                "two shards": {"OPERATIONS": 2, "CHECKPOINTS": 1, "CUTS": 1, "KILLS": 0},
                "three blocks": {
                    "SHARDS": 1,
                    "BLOCKS": 3,
                    "OPERATIONS": 4,
                    "CHECKPOINTS": 2,
                    "CUTS": 1,
                    "KILLS": 0,
                },
                "two cuts": {"SHARDS": 1, "OPERATIONS": 2, "CHECKPOINTS": 1, "CUTS": 2, "KILLS": 0},
                "a kill": {"SHARDS": 1, "OPERATIONS": 3, "CHECKPOINTS": 2, "CUTS": 1, "KILLS": 1},
            },
            bugs={
                "BUG_SLOT_BEFORE_FLUSH": "two shards",
                "BUG_REUSE_EARLY": "a kill",
                "BUG_EPOCH_BEFORE_LOCK": "two shards",
                "BUG_GHOSTS_KEPT": "two cuts",
                "BUG_CUT_RESUMED": "a kill",
                "BUG_DEAD_FIRST": "a kill",
                "BUG_BIRTH_NOT_LOGGED": "a kill",
                "BUG_OLDER_SLOT": "a kill",
            },
            slow=frozenset({"two shards", "three blocks", "a kill"}),
        ),
        Model(
            "lock",
            bounds={
                "nobody dies": {"ACTORS": 3, "SLOTS": 4, "OPERATIONS": 3, "KILLS": 0, "NAPS": 0},
                "naps when nothing else helps": {"OPERATIONS": 2, "KILLS": 2, "GIVE_UPS": 1, "NAPS": 1},
                "three actors": {"ACTORS": 3, "OPERATIONS": 2, "KILLS": 1, "NAPS": 1},
                "two kills": {"OPERATIONS": 2, "KILLS": 2},
                "strangers": {"OPERATIONS": 3, "KILLS": 2, "STRANGERS": 1},
                "two locks": {"LOCKS": 2, "OPERATIONS": 2, "KILLS": 2},
            },
            bugs={
                "BUG_BIT_READ_FIRST": "nobody dies",
                "BUG_BIT_NOT_KEPT": "nobody dies",
                "BUG_SLEEP_UNCOMPARED": "nobody dies",
                "BUG_COUNT_FIRST": "two kills",
                "BUG_SLOT_BEFORE_LOCKS": "two kills",
                "BUG_LIFE_NOT_ASKED": "two kills",
                "BUG_TAKEN_BY_STORE": "two kills",
                "BUG_SETTLERS_ALIKE": "strangers",
                "BUG_NO_INCARNATION": "strangers",
            },
            slow=frozenset({"three actors", "strangers", "two locks"}),
        ),
        Model(
            "read",
            bounds={
                "one shard": {"WRITERS": 1, "OPERATIONS": 3, "KILLS": 1},
                "two shards": {"OPERATIONS": 2, "KILLS": 1},
                "large values": {"LARGE": 1, "WRITERS": 1, "OPERATIONS": 3, "KILLS": 0},
                "large values, a kill": {"LARGE": 1, "WRITERS": 1, "OPERATIONS": 2, "KILLS": 1},
                "large values, two shards": {"LARGE": 1, "OPERATIONS": 2, "KILLS": 0},
            },
            bugs={
                "BUG_NO_FENCE": "one shard",
                "BUG_EVEN_RELAXED": "one shard",
                "BUG_NO_ACQUIRE": "one shard",
                "BUG_NO_READ_FENCE": "one shard",
                "BUG_EVEN_FIRST": "one shard",
                "BUG_VERSION_BACK": "one shard",
                "BUG_FREED_INSIDE": "two shards",
                "BUG_FILLED_LATE": "large values",
                "BUG_LINK_LATE": "large values",
                "BUG_LINK_ALONE": "large values",
                "BUG_LIFE_LATE": "large values",
                "BUG_RECORD_ALONE": "large values",
            },
            slow=frozenset({"two shards", "large values, a kill", "large values, two shards"}),
        ),
        Model(
            "commit",
            bounds={
                "one transaction": {"TRANSACTIONS": 1, "KILLS": 2},
                "two transactions": {"TRANSACTIONS": 2, "KILLS": 1},
                "a cut": {"TRANSACTIONS": 1, "KILLS": 1, "STUCK": 0, "CUTS": 1},
            },
            bugs={
                "BUG_MARK_PER_SHARD": "one transaction",
                "BUG_EVEN_BEFORE_MARK": "one transaction",
                "BUG_SETTLED_EARLY": "two transactions",
                "BUG_HEADER_LATE": "one transaction",
                "BUG_KILL_FIRST": "one transaction",
                "BUG_NAME_KEPT": "one transaction",
                "BUG_GIVEN_BACK_FIRST": "one transaction",
                "BUG_RELEASE_UNLOGGED": "one transaction",
                "BUG_ROOM_IN_BETWEEN": "two transactions",
                "BUG_EPOCH_FIRST": "a cut",
            },
            slow=frozenset({"two transactions", "a cut"}),
        ),
    ]
}


@dataclass(frozen=True)
class Outcome:
    """What a search found."""

    states: int
    violation: str
    """The assertion that does not hold, or the empty string."""


def missing() -> str:
    """What is not installed here and is needed, or the empty string."""
    return ", ".join(tool for tool in ("spin", "gcc") if shutil.which(tool) is None)


def search(model: Model, bounds: str, bug: str | None = None) -> Outcome:
    """Search a model within bounds; RuntimeError if the search did not come to an end."""
    defines = [f"-D{name}={value}" for name, value in model.bounds[bounds].items()]
    if bug:
        defines.append(f"-D{bug}")
    with tempfile.TemporaryDirectory() as directory:

        def run(*command: str) -> str:
            done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
            return done.stdout

        run("spin", "-a", *defines, str(HERE / f"{model.name}.pml"))
        # Safety only. -O1: compiling takes longer than most searches. -w: the generated source is not ours.
        run("gcc", "-O1", "-w", "-DSAFETY", "-DCOLLAPSE", "-DNOFAIR", "-DMEMLIM=6000", "-o", "pan", "pan.c")
        report = run("./pan", "-E", "-m100000")
    lines = report.splitlines()
    violation = next((line for line in lines if line.startswith("pan:1:")), "")
    complete = bool(violation) or not any(
        "Search not completed" in line or "max search depth" in line for line in lines
    )
    states = next((line.split()[0] for line in lines if line.endswith("states, stored")), None)
    if not complete or states is None:
        raise RuntimeError(f"{model.name}, {bounds}: the search did not come to an end\n{report}")
    return Outcome(int(float(states)), violation.removeprefix("pan:1:").strip())


def main(names: list[str]) -> int:
    """Run the models named, or all; 0 if each holds and finds all its bugs."""
    if missing():
        print(f"not installed: {missing()}", file=sys.stderr)
        return 2
    bad = 0
    for model in [MODELS[name] for name in names] or MODELS.values():
        searches = [(bounds, None) for bounds in model.bounds] + [(bounds, bug) for bug, bounds in model.bugs.items()]
        for bounds, bug in searches:
            start = time.monotonic()
            outcome = search(model, bounds, bug)
            good = bool(outcome.violation) == bool(bug)
            bad += not good
            said = f"found: {outcome.violation}" if outcome.violation else "holds"
            print(
                f"{'ok ' if good else 'BAD'} {model.name} ({bounds}){' with ' + bug if bug else ''}: {said}; "
                f"{outcome.states:,} states, {time.monotonic() - start:.1f} s",
                flush=True,
            )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
