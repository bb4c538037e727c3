"""Seeded bugs: mistakes that an engine could make, to see the rig catch them.

python -m tests.kill --seeded [NAME ...]
"""

from __future__ import annotations

import time

from tests.kill.run import Outcome, Task, engine, run
from tests.rig.runs import Bug

# Each with the operation that shows it.
BUGS: list[tuple[Bug, str]] = [
    (
        Bug(
            "store-not-logged",
            "the index entry of a key that is put again changes without a log entry",
            "index.c",
            "    set(op, &b->entry[p->slot], entry_of(",
            "    store(&b->entry[p->slot], entry_of(",
        ),
        "overwrite",
    ),
    (
        Bug(
            "log-counted-late",
            "a word is stored before its old value counts as logged",
            "shard.c",
            "    set(op, &sh->sum[now], sh->sum[now] + sum);\n",
            "    op->entry[op->n] = (struct fmt_log_entry){ offset_of(op->s, &sh->sum[now]), sh->sum[now] };\n"
            "    store(&sh->sum[now], sh->sum[now] + sum);\n    kill_fence();\n    store(op->count, ++op->n);\n",
        ),
        "overwrite-young",
    ),
    (
        Bug(
            "rollback-forwards",
            "a rollback restores the first store first",
            "lock.c",
            "for (uint64_t i = count; i-- > 0;) {",
            "for (uint64_t i = 0; i < count; i++) {",
        ),
        "overwrite-emptying",
    ),
    (
        Bug(
            "even-before-rollback",
            "the version is made even before the rollback",
            "lock.c",
            "    if (count && !(op->l->version & 1)) store(&op->l->version, op->l->version + 1);\n",
            "    if (op->l->version & 1) store(&op->l->version, op->l->version + 1);\n",
        ),
        "overwrite",
    ),
    (
        Bug(
            "rollback-counts-down",
            "a rollback forgets the log before it has restored all of it",
            "lock.c",
            "    for (uint64_t i = count; i-- > 0;) {\n",
            "    for (uint64_t i = count; i-- > 0;) {\n        store(op->count, i);\n        kill_fence();\n",
        ),
        "overwrite",
    ),
    (
        Bug(
            "committed-early",
            "the log is emptied before the operation's last stores",
            "shard.c",
            "        account(op, 1, sum, bytes);\n",
            "        store(op->count, 0);\n        op->n = 0;\n        account(op, 1, sum, bytes);\n",
        ),
        "put",
    ),
    (
        Bug(
            "even-before-commit",
            "the version is even before the log is empty: what is read then may be taken back",
            "shard.c",
            "    op_commit(op);\n    if (unlikely(d->reservation))",
            "    store_release(&op->l->version, op->l->version + 1);\n    kill_fence();\n"
            "    store_release(op->count, 0);\n    if (unlikely(d->reservation))",
        ),
        "put",
    ),
    (
        Bug(
            "reservation-forgotten",
            "an extent is taken, and no word says for whom",
            "pages.c",
            "    set(&a, word, *offset | (kind == FMT_ZONE_INDEX ? pages : 0));\n",
            "",
        ),
        "large",
    ),
    (
        Bug(
            "reservation-kept",
            "what a dead process had reserved is not given back when its slot is handed out",
            "attach.c",
            "        rc = reservation_give(s, &p->reserved_extent[i], flags);\n",
            "        store(&p->reserved_extent[i], 0);\n",
        ),
        "large",
    ),
    (
        Bug(
            "slot-handed-out-early",
            "a dead process's slot is handed out although its locks are not settled",
            "attach.c",
            "        if (load32(&process_of(s, i)->state)) continue;\n        int rc = os_hold_byte(",
            "        int rc = os_hold_byte(",
            (
                ("if (load32(&process_of(s, i)->state)) { /* taken since", "if (false) { /* taken since"),
                ("if ((rc = settle_locks(s, slot)) || (rc = settle_dead(s, false))) return rc;", ""),
            ),
        ),
        "put",
    ),
    (
        Bug(
            "block-free-before-commit",
            "an old record's block may be taken by the operation that frees it",
            "shard.c",
            "    if (!(rc = draft_place(op, d, &record, &sum))) rc = draft_link(op, d, p, found, record, sum);\n",
            "    if (found && (rc = heap_kill(op, p->record))) return op_end(op, rc);\n"
            "    if (!(rc = draft_place(op, d, &record, &sum))) rc = draft_link(op, d, p, found, record, sum);\n",
            (
                (
                    "    int rc = heap_kill(op, p->record);\n    if (likely(!rc)) account(op, 0, sum",
                    "    int rc = 0;\n    if (likely(!rc)) account(op, 0, sum",
                ),
            ),
        ),
        "overwrite-young",
    ),
    (
        Bug(
            "not-rolled-back",
            "who takes a dead one's shard over does not roll back",
            "shard.c",
            "load(&op->sh->failed) ? fail_unusable(op->s, op->sh) : transaction_undo(op);",
            "load(&op->sh->failed) ? fail_unusable(op->s, op->sh) : 0;",
        ),
        "put",
    ),
    (
        Bug(
            "allocator-not-rolled-back",
            "who takes the allocator over does not roll back",
            "pages.c",
            "    else if (unlikely(dead)) rc = pages_undo(a);\n",
            "",
        ),
        "put-chunk",
    ),
    (
        Bug(
            "bits-not-undone",
            "a rollback of the allocator leaves the bits of its extent as they are",
            "pages.c",
            "bits_set(zone.free, page, pages, !load(&p->intent_give));",
            "(void)page;",
        ),
        "large",
    ),
    (
        Bug(
            "intent-kept",
            "the intent of one operation of the allocator is taken for the next one's",
            "pages.c",
            "    store(&allocator_of(a->s)->intent_pages, 0);\n",
            "",
        ),
        "grow-heap",
    ),
    (
        Bug(
            "mark-not-honoured",
            "who takes a shard of a transaction over undoes it although it has happened",
            "transaction.c",
            "    if (!load_acquire(&t->committed)) {",
            "    if (true) {",
        ),
        "commit",
    ),
    (
        Bug(
            "segment-not-undone",
            "who takes a shard of a transaction over does not undo it",
            "transaction.c",
            "    if (!load_acquire(&t->committed)) {",
            "    if (false) {",
        ),
        "commit",
    ),
    (
        Bug(
            "shards-seen-before-mark",
            "the versions are made even before the mark",
            "commit.c",
            "        transaction_mark(c->t);\n        c->committed = true;\n",
            "",
            (
                (
                    "            if (c->part[i].changes) transaction_end(&c->part[i].op);\n",
                    "            if (c->part[i].changes) transaction_end(&c->part[i].op);\n"
                    "        transaction_mark(c->t);\n        c->committed = true;\n",
                ),
            ),
        ),
        "commit",
    ),
    (
        Bug(
            "transaction-forgets-its-words",
            "a dead transaction's extent is given back without what it names",
            "transaction.c",
            "    if (value & FMT_RESERVED_TRANSACTION) {",
            "    if (false) {",
        ),
        "commit",
    ),
    (
        Bug(
            "killed-before-placed",
            "a transaction places a record where it has just killed one",
            "commit.c",
            "        if (p->change[i].keep) rc = draft_place(",
            "        if (i && (rc = link_change(op, &p->change[i - 1]))) break;\n"
            "        else if (p->change[i].keep) rc = draft_place(",
            (
                (
                    "        if ((rc = link_change(op, *stuck = &p->change[i]))) break;\n",
                    "        if (i + 1 == p->changes && (rc = link_change(op, *stuck = &p->change[i]))) break;\n",
                ),
            ),
        ),
        "commit",
    ),
    (
        Bug(
            "other-locks-left",
            "who takes one lock of a dead process over leaves its other ones held",
            "shard.c",
            "        if (!rc) rc = shard_settle(s, dead); /* its",
            "        /* its",
        ),
        "verify",
    ),
    (
        Bug(
            "leader-not-replaced",
            "nobody takes the place of a leader who died",
            "checkpoint.c",
            "        if (slot_alive(s, owner)) {",
            "        if (owner) {",
        ),
        "sync",
    ),
    (
        Bug(
            "attach-lock-inherited",
            "the attach lock is taken through the description that is mapped: a child keeps it when its parent dies",
            "attach.c",
            "    if (os_reopen(fd, s->writable && !s->private_, &s->attach_fd)) s->attach_fd = fd;",
            "    s->attach_fd = fd;",
        ),
        "leave",
    ),
    (
        Bug(
            "dead-extents-lost",
            "an extent between the queue of the dead and the free ones is in no word",
            "pages.c",
            "        set(a, &p->harvesting, offset);\n",
            "",
        ),
        "sync",
    ),
]
QUICK = ("not-rolled-back", "block-free-before-commit", "attach-lock-inherited")
CHAINS, TRIES, SEED = 150, 8, 1


def catch(bug: Bug, operation: str, *, jobs: int = 1, seed: int = SEED) -> tuple[Outcome | None, int]:
    """Kill until something is wrong: the outcome that shows it, and the number of deaths until then."""
    program = engine({bug.file: bug.text()})
    deaths = 0
    for outcome in run(program, (Task(operation, seed + i, CHAINS) for i in range(TRIES)), jobs=jobs):
        deaths += outcome.counts["deaths"]
        if outcome.failure:
            return outcome, deaths
    return None, deaths


def main(names: list[str], jobs: int) -> int:
    """Run the bugs named, or all, and print what came of each; 0 if all were caught."""
    chosen = [(bug, operation) for bug, operation in BUGS if not names or bug.name in names]
    missed = 0
    print(f"{'seeded bug':26} {'deaths':>7} {'seconds':>8}  seen as")
    for bug, operation in chosen:
        start = time.monotonic()
        outcome, deaths = catch(bug, operation, jobs=jobs)
        missed += outcome is None
        seen = outcome.failure.splitlines()[0] if outcome else "NOT CAUGHT"
        print(f"{bug.name:26} {deaths:7} {time.monotonic() - start:8.1f}  {seen}", flush=True)
    return 1 if missed else 0
