/* commit.c: transactions: what was read is as it was, and then everything is written, or nothing is.
 *
 * The steps, and what a SIGKILL after each leaves (docs/concurrency.md has the argument):
 *  1. take the extent (transaction.c), fill the large values: reservations of the slot, given back when it is settled;
 *  2. lock the shards of all keys, in ascending order: nothing to undo;
 *  3. read the epoch, once, after the last lock: every store carries the same, so a checkpoint has all of them or none;
 *  4. look whether the keys that were read are as they were: else a conflict, and everything is let go;
 *  5. make room, by operations of their own, for the new records and index entries;
 *  6. in each shard: log.transaction = the segment, version odd, and the same stores that single operations make, logged
 *     in the segment: whoever takes a shard over undoes it;
 *  7. the mark, one store: whoever takes a shard over only makes its version even;
 *  8. in each shard: version even, log.transaction = 0; unlock all; give back what was released, and the extent.
 * Whether a table has room for several new entries can only be guessed before step 6. When it has none, 6 is undone in all
 * shards, that table is split, and 5 comes again: each time round there is one table more. */
#include <stdlib.h>

#include "engine.h"

enum {
    LOG_PER_SHARD = 8,           /* words: shard_roll stores 5 */
    LOG_PER_CHANGE = 40,         /* the most is 32: a block of a chunk that changes lists, an entry, the old record's chunk */
    BULK = 16,                   /* so many new entries may well leave one of them without room */
    STUCK = -1                   /* a table is full */
};

struct change {
    struct draft d;
    uint64_t record;             /* where it was placed */
    uint32_t sum;
    bool keep, alone, gone;      /* a record is written; in an extent of its own; one was removed */
};
struct look {                    /* at a key that was read */
    const mmkv_item *item;
    struct place compared;       /* a long value that was compared before the locks were taken */
    uint64_t link;
};
struct part {                    /* what concerns one shard */
    struct op op;
    struct change *change;
    struct look *look;
    uint32_t changes, looks, shard, segment;
    uint64_t version;
    uint64_t *spare;             /* the transaction's words for what the shard releases: one for each change */
};
struct commit {
    mmkv_store *s;
    struct change *change;
    struct look *look;
    struct part *part;           /* ascending by shard */
    uint32_t changes, looks, parts, segments;
    uint32_t locked;             /* the locks of the first so many parts are held */
    bool committed;
    unsigned flags;
    uint64_t *word, offset;      /* the extent: the process slot's word, and where it is */
    struct fmt_transaction *t;
};

/* ---- before any lock ---- */

/* The records to be, and which of them want an extent of their own. */
static int make_drafts(struct commit *c, uint64_t *singles)
{
    mmkv_store *s = c->s;
    *singles = 0;
    for (uint32_t i = 0; i < c->parts; i++) {
        struct part *p = &c->part[i];
        uint32_t more[FMT_CLASSES] = { 0 };
        for (uint32_t j = 0; j < p->changes; j++) {
            struct change *k = &p->change[j];
            struct draft d = k->d;
            int rc = k->keep ? 0 : key_ready(s, d.hash, d.key, d.key_length, c->flags);
            if (rc) return rc;
            if (!k->keep) continue;
            rc = draft_begin(s, &k->d, d.hash, d.key, d.key_length, d.value, d.value_length, c->flags);
            if (rc) return rc;
            uint32_t class_ = heap_class(k->d.size);
            k->alone = heap_single(shard_of(s, p->shard), class_, class_ < FMT_CLASSES ? more[class_] : 0);
            if (!k->alone) continue;
            if (class_ < FMT_CLASSES) more[class_]++;
            if ((c->flags & MMKV_NO_WAIT) && k->d.size > COPY_MAX_UNDER_LOCK) return MMKV_WOULD_BLOCK;
            ++*singles;
        }
    }
    return 0;
}

/* The extent: words for the large values, then one for each change, then the segments. */
static int lay_out(struct commit *c, uint64_t singles)
{
    uint64_t entries = (uint64_t)LOG_PER_SHARD * c->segments + (uint64_t)LOG_PER_CHANGE * c->changes, before = 0;
    int rc = transaction_take(c->s, singles + c->changes, c->segments, entries, &c->word, &c->offset, &c->t, c->flags);
    if (rc) return rc;
    uint64_t *spare = transaction_words(c->t) + singles;
    for (uint32_t i = 0; i < c->parts; i++) {
        struct part *p = &c->part[i];
        if (!p->changes) continue;
        uint32_t capacity = LOG_PER_SHARD + LOG_PER_CHANGE * p->changes;
        transaction_segment(c->t, p->segment, p->shard, before, capacity);
        before += capacity;
        p->spare = spare;
        spare += p->changes;
    }
    return 0;
}

static int fill(struct commit *c)
{
    uint64_t *word = transaction_words(c->t);
    for (uint32_t i = 0; i < c->changes; i++) {
        struct draft *d = &c->change[i].d;
        if (!c->change[i].alone) continue;
        uint64_t pages = pages_of(d->size);
        int rc = pages_take(c->s, FMT_ZONE_HEAP, &pages, 0, word, &d->extent, c->flags | INTERRUPTIBLE);
        if (rc) return rc;
        d->reservation = word++;
        if ((rc = draft_fill(c->s, d))) return rc;
    }
    return 0;
}

static int conflict(const struct commit *c, const mmkv_item *item)
{
    return fail(MMKV_CONFLICT, shard_at(fmt_shard_of(item->hash, c->s->shard_bits)),
                "a key that the transaction has read has been changed since");
}

/* Long values are compared with no lock held, and recognised under it. */
static int compare_long(struct commit *c)
{
    for (uint32_t i = 0; i < c->looks; i++) {
        struct look *l = &c->look[i];
        const mmkv_item *item = l->item;
        bool same = false;
        if (!item->value || item->value_length <= COPY_MAX_UNDER_LOCK) continue;
        int rc = read_same(c->s, item->hash, item->key, item->key_length, item->value, item->value_length, &same, c->flags,
                           &l->compared, &l->link);
        if (rc && rc != MMKV_NOT_FOUND) return rc;
        if (rc || !same) return conflict(c, item);
    }
    return 0;
}

/* ---- looking at what was read ---- */

/* Under the shard's lock, or under a version that is checked afterwards. */
static int as_it_was(struct commit *c, struct op *op, const struct look *l)
{
    const mmkv_item *item = l->item;
    struct place p;
    bool same;
    int rc;
    if (item->key_length > FMT_KEY_MAX) return item->value ? conflict(c, item) : 0;
    if (!item->value) {
        rc = index_find(c->s, op->sh, item->hash, item->key, item->key_length, &p);
        if (rc == MMKV_CORRUPT) return record_damaged(c->s, p.record, NULL, 0);
        return rc == MMKV_NOT_FOUND ? 0 : conflict(c, item);
    }
    rc = expected_there(op, item->hash, item->key, item->key_length, item->value, item->value_length, &l->compared, l->link, &p, &same);
    if (rc && rc != MMKV_WOULD_BLOCK) return rc;
    return rc || !same ? conflict(c, item) : 0;
}

static int look_again(struct commit *c)
{
    int rc = 0;
    for (uint32_t i = 0; i < c->parts; i++)
        for (uint32_t j = 0; j < c->part[i].looks && !rc; j++) rc = as_it_was(c, &c->part[i].op, &c->part[i].look[j]);
    return rc;
}

/* ---- locks ---- */

static void unlock_all(struct commit *c)
{
    while (c->locked) {
        struct op *op = &c->part[c->locked - 1].op;
        lock_clear(&op->l->lock);
        c->locked--;
        kill_fence();
        wake_waiting(op);
    }
}

/* Ascending, so that no two wait for each other; the guard of this call gets to know them through `locked`, being made for
 * a few locks. A signal ends the wait. */
static int lock_all(struct commit *c)
{
    for (uint32_t i = 0; i < c->parts; i++) {
        struct part *p = &c->part[i];
        int rc = shard_lock(c->s, p->shard, &p->op, c->flags | INTERRUPTIBLE);
        if (rc) {
            unlock_all(c);
            return rc;
        }
        p->op.flags = c->flags;
        c->locked = i + 1;
        guard_drop(&p->op.sh->l.lock);
        kill_fence();
    }
    uint64_t epoch = load_acquire(&control_of(c->s)->epoch); /* after the last lock: the checkpoint's cut relies on it */
    for (uint32_t i = 0; i < c->parts; i++) c->part[i].op.epoch = epoch;
    return 0;
}

/* ---- making room ---- */

/* Split the tables that have no room for a new entry of theirs, or are about to get so many that one of them will find
 * none. The changes are in the order of their hashes, so those of one table follow each other. */
static int room_in_index(struct part *p)
{
    mmkv_store *s = p->op.s;
    for (uint32_t i = 0, j; i < p->changes; i = j) {
        uint32_t bits = fmt_bits_of(p->change[i].d.hash, s->shard_bits), depth = 0, more = 0;
        uint64_t table;
        int rc = 0;
        if (index_table(s, p->op.sh, bits, &table, &depth)) return fail(MMKV_CORRUPT, shard_at(p->shard), "a shard's directory is damaged");
        for (j = i; j < p->changes && !rc && !((fmt_bits_of(p->change[j].d.hash, s->shard_bits) ^ bits) >> (FMT_DEPTH_MAX - depth)); j++) {
            const struct draft *d = &p->change[j].d;
            struct place there;
            if (!p->change[j].keep || index_find(s, p->op.sh, d->hash, d->key, d->key_length, &there) != MMKV_NOT_FOUND) continue;
            more++;
            rc = index_room(s, p->op.sh, d->hash, &there);
        }
        if (rc && rc != MMKV_FULL) return rc;
        if (!rc && (more < BULK || index_roomy(s, table, more))) continue;
        if ((rc = index_split(&p->op, p->change[j - 1].d.hash))) return rc;
        j = i;
    }
    return 0;
}

static int make_room(struct part *p)
{
    uint32_t blocks[FMT_CLASSES] = { 0 };
    for (uint32_t i = 0; i < p->changes; i++)
        if (p->change[i].keep && !p->change[i].alone) blocks[heap_class(p->change[i].d.size)]++;
    for (uint32_t i = 0; i < FMT_CLASSES; i++) {
        int rc = blocks[i] ? heap_ready(&p->op, i, blocks[i]) : 0;
        if (rc) return rc;
    }
    return room_in_index(p);
}

/* ---- storing ---- */

static int link_change(struct op *op, struct change *k)
{
    struct place p;
    const struct draft *d = &k->d;
    int rc = index_find(op->s, op->sh, d->hash, d->key, d->key_length, &p);
    if (rc && rc != MMKV_NOT_FOUND) return record_damaged(op->s, p.record, NULL, 0);
    if (!k->keep) {
        k->gone = !rc;
        return rc ? 0 : unlink_at(op, d->hash, &p);
    }
    bool found = !rc;
    if (!found && (rc = index_room(op->s, op->sh, d->hash, &p))) return rc == MMKV_FULL ? STUCK : rc;
    return draft_link(op, d, &p, found, k->record, k->sum);
}

/* All records are placed before any is killed: a block that dies in the epoch in which it was born is free at once, and what
 * a rollback restores is words, never contents (R3). */
static int change_shard(struct commit *c, struct part *p, struct change **stuck)
{
    struct op *op = &p->op;
    int rc = 0;
    transaction_begin(op, c->t, c->offset, p->segment);
    op->spare = p->spare;
    op->spare_end = p->spare + p->changes;
    shard_roll(op);
    for (uint32_t i = 0; i < p->changes && !rc; i++)
        if (p->change[i].keep) rc = draft_place(op, &p->change[i].d, &p->change[i].record, &p->change[i].sum);
    for (uint32_t i = 0; i < p->changes && !rc; i++)
        if ((rc = link_change(op, *stuck = &p->change[i]))) break;
    return rc;
}

static int undo_all(struct commit *c, int rc)
{
    for (uint32_t i = 0; i < c->parts; i++) {
        int again = load(&c->part[i].op.sh->log.transaction) ? transaction_undo(&c->part[i].op) : 0;
        if (again) rc = again;
    }
    return rc;
}

/* Steps 5 and 6. */
static int change_all(struct commit *c)
{
    for (;;) {
        struct change *stuck = NULL;
        struct part *p = NULL;
        int rc = 0;
        for (uint32_t i = 0; i < c->parts && !rc; i++)
            if (c->part[i].changes) rc = make_room(&c->part[i]);
        if (rc) return rc;
        for (uint32_t i = 0; i < c->parts && !rc; i++)
            if ((p = &c->part[i])->changes) rc = change_shard(c, p, &stuck);
        if (!rc) return 0;
        rc = undo_all(c, rc);
        if (rc != STUCK || (rc = index_split(&p->op, stuck->d.hash))) return rc;
    }
}

/* Give index tables back as shards empty, like single removals. */
static int shrink_all(struct commit *c)
{
    int rc = 0;
    for (uint32_t i = 0; i < c->parts; i++)
        for (uint32_t j = 0; j < c->part[i].changes && !rc; j++)
            if (c->part[i].change[j].gone) rc = shrink(&c->part[i].op, c->part[i].change[j].d.hash);
    return rc;
}

/* Give back what room was made in vain; what cannot be given back now is by a checkpoint. */
static void trim_all(struct commit *c)
{
    mmkv_failure kept = *mmkv_failure_get();
    for (uint32_t i = 0; i < c->parts; i++)
        if (c->part[i].changes) heap_trim(&c->part[i].op);
    fail_again(&kept);
}

/* Steps 2 to 8, but for what is given back. */
static int commit_locked(struct commit *c)
{
    int rc = lock_all(c);
    if (rc) return rc;
    if (!(rc = look_again(c)) && (rc = change_all(c))) {
        trim_all(c);
    } else if (!rc) {
        transaction_mark(c->t);
        c->committed = true;
        for (uint32_t i = 0; i < c->parts; i++)
            if (c->part[i].changes) transaction_end(&c->part[i].op);
        rc = shrink_all(c);
    }
    unlock_all(c);
    return rc;
}

static int commit_changes(struct commit *c)
{
    uint64_t singles;
    int rc = read_only(c->s);
    if (rc || (rc = make_drafts(c, &singles)) || (rc = write_ready(c->s, c->flags)) || (rc = compare_long(c))) return rc;
    if ((rc = lay_out(c, singles))) return rc;
    if (!(rc = fill(c))) rc = commit_locked(c);
    int again = reservation_end(c->s, c->word, rc, c->flags);
    return again ? again : rc;
}

/* ---- without changes ---- */

/* All versions even, what was read as it was, all versions the same: between the first look and the last nothing moved. */
static int look_once(struct commit *c, bool *valid)
{
    int rc = 0;
    *valid = true;
    for (uint32_t i = 0; i < c->parts && *valid; i++) {
        struct part *p = &c->part[i];
        p->op.s = c->s;
        p->op.sh = shard_of(c->s, p->shard);
        *valid = read_begin(&p->op.sh->l, &p->version);
    }
    if (*valid) rc = look_again(c);
    for (uint32_t i = 0; i < c->parts && *valid; i++) *valid = read_valid(&c->part[i].op.sh->l, c->part[i].version);
    return rc;
}

/* For those who may take no lock. */
static int fail_unread(const struct commit *c)
{
    for (uint32_t i = 0; i < c->parts; i++)
        if (load(&c->part[i].op.sh->l.version) & 1) return fail_half_written(c->s, c->part[i].shard);
    return fail(MMKV_LOCK_TIMEOUT, 0, "what the transaction has read is being written all the time");
}

/* Where writers are always about, under the locks; a handle that may not lock goes on trying, for a while. */
static int commit_reads(struct commit *c)
{
    mmkv_store *s = c->s;
    static const uint32_t never;
    uint64_t start = 0, entered = 0;
    bool valid;
    int rc = shard_stale(s);
    if (rc || (rc = compare_long(c))) return rc;
    for (int tries = 0;; tries++) {
        if ((rc = map_all(s))) return rc;
        rc = look_once(c, &valid);
        if (unlikely(s->shared_control != NULL) && shard_stale(s)) return MMKV_STALE;
        if (valid) return rc;
        if (tries < READ_TRIES) continue;
        if (c->flags & MMKV_NO_WAIT) return MMKV_WOULD_BLOCK;
        if (s->writable) { /* `locked` knows of the locks, and the guard does not: a shielded map has to stay open */
            if ((rc = may_store(s, SHIELD_CALL)) || (rc = lock_all(c))) return rc;
            rc = look_again(c);
            unlock_all(c);
            return rc;
        }
        for (uint32_t i = 0; i < c->parts; i++)
            if (load(&shard_of(s, c->part[i].shard)->failed)) return fail_unusable(s, shard_of(s, c->part[i].shard));
        uint64_t now = os_now_ms();
        if (!start) start = wait_start(&never), entered = now;
        else if (now - start > s->lock_timeout_ms) return fail_unread(c);
        if (os_wait(&never, never, 1) || now - entered >= LOOK_FOR_SIGNALS_MS) return wait_broken_off(&never, start);
    }
}

int transaction_commit(struct commit *c)
{
    guard_top->commit = c;
    guard_top->committing = true;
    return c->changes ? commit_changes(c) : c->looks > 1 ? commit_reads(c) : shard_stale(c->s); /* one read is atomic */
}

/* ---- after a fault ---- */

uint32_t *commit_last(const struct commit *c) { return c->locked ? &c->part[c->locked - 1].op.sh->l.lock : NULL; }

/* Of the part whose lock was taken last: before the mark undo, after it complete, without reading it, which may be lost. */
int commit_settle(struct commit *c)
{
    const struct part *p = &c->part[c->locked - 1];
    struct fmt_shard *sh = p->op.sh;
    struct op op;
    op_open(&op, c->s, &sh->l, &sh->log, 0);
    op.sh = sh;
    op.shard = p->shard;
    if (load(&sh->failed)) return 0;
    if (!c->committed || !load(&sh->log.transaction)) return transaction_undo(&op);
    transaction_end(&op);
    return 0;
}

void commit_forget(struct commit *c) { c->locked--; }

/* ---- from outside ---- */

static int by_hash(const void *a, const void *b)
{
    uint64_t x = (*(const mmkv_item *const *)a)->hash, y = (*(const mmkv_item *const *)b)->hash;
    return x < y ? -1 : x > y;
}

static const mmkv_item **sorted(const mmkv_item *items, size_t n)
{
    const mmkv_item **list = malloc((n + 1) * sizeof *list);
    for (size_t i = 0; list && i < n; i++) list[i] = &items[i];
    if (list && n) qsort(list, n, sizeof *list, by_hash);
    return list;
}

/* Group by shard what is in the order of the hashes, which is that of the shards. */
static void divide(struct commit *c, const mmkv_item *const *reads, const mmkv_item *const *writes)
{
    uint32_t r = 0, w = 0, bits = c->s->shard_bits;
    while (r < c->looks || w < c->changes) {
        uint32_t read = r < c->looks ? fmt_shard_of(reads[r]->hash, bits) : FMT_SHARDS_MAX;
        uint32_t written = w < c->changes ? fmt_shard_of(writes[w]->hash, bits) : FMT_SHARDS_MAX;
        struct part *p = &c->part[c->parts++];
        p->shard = read < written ? read : written;
        p->change = &c->change[w];
        p->look = &c->look[r];
        for (; r < c->looks && fmt_shard_of(reads[r]->hash, bits) == p->shard; r++, p->looks++) c->look[r].item = reads[r];
        for (; w < c->changes && fmt_shard_of(writes[w]->hash, bits) == p->shard; w++, p->changes++) {
            const mmkv_item *i = writes[w];
            c->change[w].d = (struct draft){ .key = i->key, .value = i->value, .key_length = i->key_length,
                                             .value_length = i->value_length, .hash = i->hash };
            c->change[w].keep = i->value != NULL;
        }
        if (p->changes) p->segment = c->segments++;
    }
}

int mmkv_commit(mmkv_store *s, const mmkv_item *reads, size_t read_count, const mmkv_item *writes, size_t write_count, unsigned flags)
{
    size_t items = read_count + write_count, most = items < s->shard_count ? items : s->shard_count;
    if (read_count > MMKV_ITEMS_MAX || write_count > MMKV_ITEMS_MAX)
        return fail(MMKV_INVALID, 0, "a transaction of %zu keys is larger than the limit of %u read and as many written", items,
                    (unsigned)MMKV_ITEMS_MAX);
    struct commit c = { .s = s, .flags = flags, .changes = (uint32_t)write_count, .looks = (uint32_t)read_count };
    const mmkv_item **reading = sorted(reads, read_count), **writing = sorted(writes, write_count);
    c.change = calloc(write_count + 1, sizeof *c.change);
    c.look = calloc(read_count + 1, sizeof *c.look);
    c.part = calloc(most + 1, sizeof *c.part);
    int rc = reading && writing && c.change && c.look && c.part ? 0 : fail(MMKV_NO_MEMORY, 0, "out of memory");
    if (!rc) {
        divide(&c, reading, writing);
        rc = write_count ? STORING(s, transaction_commit(&c)) : GUARDED(s, transaction_commit(&c));
    }
    free(c.part);
    free(c.look);
    free(c.change);
    free(writing);
    free(reading);
    return rc;
}
