"""Seeded bugs: mistakes that an engine could make, to see the rig catch them.

python -m tests.crash --seeded [NAME ...]
"""

from __future__ import annotations

import time

from tests.crash.run import Outcome, Task, engine, run
from tests.rig.runs import Bug

RETYPE = """
    for (uint32_t i = 0; i < FMT_CLASSES; i++) {
        struct fmt_class *from = &sh->class_[i];
        uint64_t there = from->available;
        struct fmt_chunk *o = there && i != class_ ? chunk_at(op->s, there, op->shard) : NULL;
        if (!o || o->live || !fmt_chunk_blocks(o->order, size)) continue;
        struct fmt_extent *d = extent_at(op->s, there);
        op_begin(op);
        if (list_remove(op, o, there)) return op_end(op, MMKV_CORRUPT);
        set(op, WORD(from->pages), pair(from->pages - (1u << o->order), from->singles));
        set(op, WORD(k->pages), pair(k->pages + (1u << o->order), k->singles));
        chunk_format(o, op->shard, class_, o->order);
        d->class_ = (uint8_t)class_;
        d->link = fmt_extent_check(*WORD(d->pages), offset_of(op->s, d));
        return op_end(op, list_place(op, o, there));
    }
"""

BUGS = [
    Bug(
        "slot-before-heap",
        "the slot is written and flushed before the heap is",
        "checkpoint.c",
        "    if ((rc = flush_heap(",
        "    slot_write(s, slot_valid(s, 0) && slot_of(s, 0)->epoch == load(&control->durable), &slot);\n"
        "    if ((rc = flush_heap(",
    ),
    Bug(
        "heap-not-flushed",
        "the heap zones are not flushed at all",
        "checkpoint.c",
        "rc = p ? checkpoint_flush(s, p, to - from) :",
        "rc = p ? 0 :",
    ),
    Bug(
        "slot-not-flushed",
        "msync of the slot is missing",
        "checkpoint.c",
        "return checkpoint_flush(s, slot, FMT_PAGE);",
        "return 0;",
    ),
    Bug(
        "zone-table-not-flushed",
        "the zone table is not flushed",
        "checkpoint.c",
        "if ((rc = checkpoint_flush(s, s->head, FMT_ZONES_AT + FMT_ZONES * sizeof(struct fmt_zone)))) return rc;",
        "",
    ),
    Bug(
        "length-not-flushed",
        "nothing makes durable that the file has its last zone",
        "checkpoint.c",
        "if (end && (rc = checkpoint_flush(s, end, FMT_PAGE))) return rc;",
        "(void)end;",
    ),
    Bug(
        "durable-slot-overwritten",
        "a checkpoint writes the slot that holds the durable epoch",
        "checkpoint.c",
        "int which = slot_valid(s, 0) && slot_of(s, 0)->epoch == load(&control->durable);",
        "int which = !(slot_valid(s, 0) && slot_of(s, 0)->epoch == load(&control->durable));",
    ),
    Bug(
        "epoch-not-advanced",
        "writers go on in the epoch that is being made durable",
        "checkpoint.c",
        "store_release(&control_of(s)->epoch, epoch + 1); /* pairs",
        "store_release(&control_of(s)->epoch, epoch); /* pairs",
    ),
    Bug(
        "durable-before-slot",
        "reuse begins when the heap has been flushed, before the slot has been",
        "checkpoint.c",
        "    if ((rc = slot_write(",
        "    store_release(&control->durable, e);\n    if ((rc = slot_write(",
    ),
    Bug(
        "dirty-not-flushed",
        "the mark that a clean file is in use is not flushed",
        "checkpoint.c",
        "if (checkpoint_flush(s, slot_of(s, which), FMT_PAGE)) failed",
        "if (0) failed",
    ),
    Bug(
        "clean-before-flush",
        "a file is marked clean before the rest of it is flushed",
        "checkpoint.c",
        "if ((rc = checkpoint_flush(s, whole, zones_end(s)))) return rc;",
        "(void)whole;",
    ),
    Bug(
        "block-reused-early",
        "a block is reused one checkpoint early",
        "heap.c",
        "if (dead <= durable) { bits",
        "if (dead <= durable + 1) { bits",
    ),
    Bug(
        "block-reused-at-once",
        "a block is reused at once if its record was born after the durable epoch, though a cut may lie in between",
        "heap.c",
        "bool at_once = fmt_epoch_of(e->born) == op->epoch;",
        "bool at_once = fmt_epoch_of(e->born) > load_acquire(&control_of(op->s)->durable);",
    ),
    Bug(
        "extent-reused-early",
        "a dead extent is free, and may be punched, one checkpoint early",
        "pages.c",
        "if (fmt_epoch_of(e->dead) > durable) return 0;",
        "if (fmt_epoch_of(e->dead) > durable + 1) return 0;",
    ),
    Bug(
        "extent-reused-at-once",
        "a dead extent is free at once, whatever epoch it was born in",
        "pages.c",
        "if (!born || born == dead ||",
        "if (!born || born != dead || born == dead ||",
    ),
    Bug(
        "born-after-dead",
        "a record's dead word is made alive before it is born again",
        "shard.c",
        "    set(op, &e->born, fmt_stamp(op->epoch, e_at));\n    kill_fence();\n    *sum",
        "    set(op, &e->dead, fmt_stamp(0, e_at + 8));\n    set(op, &e->born, fmt_stamp(op->epoch, e_at));\n    *sum",
    ),
    Bug(
        "chunk-in-place",
        "a chunk that has become empty is made one of another class in place",
        "heap.c",
        "    while (!fmt_chunk_blocks(least, size)) least++;\n",
        "    while (!fmt_chunk_blocks(least, size)) least++;\n" + RETYPE,
    ),
    Bug(
        "chunk-words-not-wiped",
        "a new chunk's epoch words keep what its pages held before",
        "heap.c",
        "memset(c, 0, fmt_chunk_blocks_at(blocks));",
        "memset(c, 0, fmt_chunk_epochs_at(blocks));",
    ),
    Bug(
        "death-forgotten",
        "recovery takes a record that died after the checkpoint for dead",
        "recover.c",
        "if (fmt_epoch_of(d) > r->c) d = fmt_stamp(0, offset + 8);",
        "",
    ),
    Bug(
        "death-not-undone",
        "recovery leaves a death after the checkpoint in its word",
        "recover.c",
        "    touch(r, dead, d);\n    return",
        "    return",
    ),
    Bug(
        "ghost-not-wiped",
        "recovery leaves the birth of a ghost in its word",
        "recover.c",
        "        wipe(r, born, dead);\n        return V_UNBORN;",
        "        return V_UNBORN;",
    ),
    Bug(
        "transaction-epoch-early",
        "a transaction reads the epoch before it has its locks",
        "commit.c",
        "    for (uint32_t i = 0; i < c->parts; i++) {\n"
        "        struct part *p = &c->part[i];\n        int rc = shard_lock(",
        "    uint64_t epoch = load_acquire(&control_of(c->s)->epoch);\n"
        "    for (uint32_t i = 0; i < c->parts; i++) {\n"
        "        struct part *p = &c->part[i];\n        int rc = shard_lock(",
        (("    uint64_t epoch = load_acquire(&control_of(c->s)->epoch); /* after the last", "    /* after the last"),),
    ),
    Bug(
        "transaction-validates-early",
        "a transaction looks at what it has read before it has its locks",
        "commit.c",
        "    if (!(rc = look_again(c)) && (rc = change_all(c))) {",
        "    if ((rc = change_all(c))) {",
        (
            (
                "static int commit_locked(struct commit *c)\n{\n    int rc = lock_all(c);\n",
                "static int commit_locked(struct commit *c)\n{\n    for (uint32_t i = 0; i < c->parts; i++) {\n"
                "        c->part[i].op.s = c->s;\n        c->part[i].op.sh = shard_of(c->s, c->part[i].shard);\n    }\n"
                "    int rc = look_again(c);\n    if (!rc) rc = lock_all(c);\n",
            ),
        ),
    ),
]
QUICK = ("slot-before-heap", "slot-not-flushed", "extent-reused-early")
IMAGES_MOST = 20_000
SEED = 1


def catch(bug: Bug, *, jobs: int = 1, seed: int = SEED) -> tuple[Outcome | None, int]:
    """Run until the rig sees something wrong: the outcome that shows it, and the number of images until then."""
    library = engine({bug.file: bug.text()})
    images = 0
    for outcome in run(library, (Task(seed + i, sectors=bool(i % 2)) for i in range(IMAGES_MOST)), jobs=jobs):
        images += outcome.counts["images"]
        if outcome.failure:
            return outcome, images
        if images >= IMAGES_MOST:
            break
    return None, images


def main(names: list[str], jobs: int) -> int:
    """Run the bugs named, or all, and print what came of each; 0 if all were caught."""
    chosen = [bug for bug in BUGS if not names or bug.name in names]
    missed = 0
    print(f"{'seeded bug':26} {'images':>7} {'seconds':>8}  seen as")
    for bug in chosen:
        start = time.monotonic()
        outcome, images = catch(bug, jobs=jobs)
        missed += outcome is None
        seen = outcome.failure.splitlines()[0] if outcome else "NOT CAUGHT"
        print(f"{bug.name:26} {images:7} {time.monotonic() - start:8.1f}  {seen}", flush=True)
    return 1 if missed else 0
