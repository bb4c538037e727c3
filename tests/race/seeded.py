"""Seeded bugs: mistakes that an engine could make, to see ThreadSanitizer report them.

python -m tests.race --seeded [NAME ...]
"""

from __future__ import annotations

import time

from tests.race.run import engine, run
from tests.rig.runs import Bug, until

BUGS = [
    Bug(
        "counter-of-a-handle",
        "a field of the handle is counted by all threads, each under its shard's lock",
        "shard.c",
        "        rc = put_locked(&op, &d, flags);\n",
        "        op.s->attach_seen += op.shard != 0;\n        rc = put_locked(&op, &d, flags);\n",
    ),
    Bug(
        "lock-without-release",
        "letting a lock go is no release",
        "lock.c",
        "__atomic_exchange_n(word, 0, __ATOMIC_RELEASE)",
        "__atomic_exchange_n(word, 0, __ATOMIC_RELAXED)",
    ),
    Bug(
        "map-without-mutex",
        "two threads of a handle map what was added at once",
        "map.c",
        "    int rc = 0;\n    pthread_mutex_lock(&s->map_mutex);\n    uint64_t mapped =",
        "    int rc = 0;\n    uint64_t mapped =",
        (
            (
                "        }\n    }\n    pthread_mutex_unlock(&s->map_mutex);\n    return rc;\n}\n\n/* Map at least",
                "        }\n    }\n    return rc;\n}\n\n/* Map at least",
            ),
        ),
    ),
    Bug(
        "unlocked-early",
        "a put lets its shard go before it has written the record",
        "shard.c",
        "    kill_fence();\n    *sum = write_record((uint8_t *)c",
        "    kill_fence();\n    lock_clear(&op->l->lock);\n    *sum = write_record((uint8_t *)c",
        (
            (
                "    set(op, &e->dead, fmt_stamp(0, e_at + 8));\n    *record = b.offset;\n",
                "    while (__atomic_exchange_n(&op->l->lock, op->s->me, __ATOMIC_ACQUIRE)) {}\n"
                "    set(op, &e->dead, fmt_stamp(0, e_at + 8));\n    *record = b.offset;\n",
            ),
        ),
    ),
    Bug(
        "reserved-taken-for-damage",
        "verify() takes an extent that is just being reserved for a damaged one",
        "check.c",
        "        if (!born || dead == FMT_UNPUBLISHED || e->shard != shard) {",
        "        if (!born || e->shard != shard) {",
    ),
    Bug(
        "queue-in-order-of-death",
        "verify() wants dead extents in the order in which they died, not in which they were given back",
        "check_pages.c",
        "            || !fmt_epoch_of(e->dead)) {",
        "            || !fmt_epoch_of(e->dead) || fmt_epoch_of(e->dead) < epoch) {",
        (
            ("    uint64_t waiting = 0, last = 0;\n", "    uint64_t waiting = 0, last = 0, epoch = 0;\n"),
            ("        last = page;\n", "        last = page;\n        epoch = fmt_epoch_of(e->dead);\n"),
        ),
    ),
]
ROUND = 4.0
"""Seconds of a run."""
QUICK = ("counter-of-a-handle", "lock-without-release")


def catch(bug: Bug, seconds: float, seed: int) -> str | None:
    """The first thing that is said of the bug within so many seconds, if anything is."""
    program = engine({bug.file: bug.text()})
    over = until(seconds)
    while not over():
        if failure := run(program, ROUND, seed).first():
            return failure
        seed += 1
    return None


def main(names: list[str], seconds: float, seed: int) -> int:
    """Run the bugs named, or all, and print what came of each; 0 if all were caught."""
    missed = 0
    print(f"{'seeded bug':26} {'seconds':>8}  seen as")
    for bug in BUGS:
        if names and bug.name not in names:
            continue
        start = time.monotonic()
        seen = catch(bug, seconds, seed)
        missed += seen is None
        lines = [line.strip() for line in (seen or "NOT CAUGHT").splitlines()]
        said = next((line for line in lines if line.startswith(("SUMMARY", "verify"))), lines[0])
        print(f"{bug.name:26} {time.monotonic() - start:8.1f}  {said}", flush=True)
    return 1 if missed else 0
