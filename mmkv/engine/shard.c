/* shard.c: the lock of a shard, and the operations that change one key, each atomic.
 *
 * A write: lock, read the epoch, make room (operations of their own: splits, chunks), then one operation that takes a
 * block, writes the record, changes the index, and kills what was there before; commit, hand back what was released,
 * unlock. */
#include "engine.h"

enum { SPREAD = 7 };

/* ---- lock ---- */

/* A dead owner's shard: undo, then free what it had taken or was giving back. */
static int settle(struct op *op)
{
    struct op a;
    int rc = load(&op->sh->failed) ? fail_unusable(op->s, op->sh) : transaction_undo(op);
    if (rc) return rc;
    /* The dead one may have died in the allocator too, where a rollback may bring a reserve or release word back. */
    if (!(rc = pages_lock(op->s, &a, 0))) pages_unlock(&a);
    for (uint32_t i = 0; i < FMT_SHARD_RESERVES && !rc; i++) rc = pages_give(op->s, &op->sh->reserve[i], 0);
    return rc ? rc : shard_finish(op);
}

int shard_lock(mmkv_store *s, uint32_t shard, struct op *op, unsigned flags)
{
    struct fmt_shard *sh = shard_of(s, shard);
    uint32_t dead;
    int rc = map_all(s);
    if (unlikely(rc) || unlikely(rc = lock_word(s, &sh->l.lock, flags, &dead))) return rc;
    op_open(op, s, &sh->l, &sh->log, flags & ~(unsigned)INTERRUPTIBLE); /* holding a lock, nobody gives up */
    op->sh = sh;
    op->shard = shard;
    op->epoch = load_acquire(&control_of(s)->epoch); /* after the lock: the checkpoint's cut relies on it */
    if (unlikely(dead)) {
        rc = settle(op);
        if (!rc) rc = shard_settle(s, dead); /* its other locks too, so that nobody waits for each (R14) */
    }
    if (unlikely(load(&sh->failed)) && !rc) rc = fail_unusable(s, sh);
    if (unlikely(rc)) shard_unlock(op);
    return rc;
}

void shard_unlock(struct op *op)
{
    unlock_word(op->s, &op->l->lock);
    wake_waiting(op);
}

/* After a commit: hand back what the operation released. Killed before: whoever takes over does it. */
int shard_finish(struct op *op)
{
    int rc = 0;
    for (uint32_t i = 0; i < FMT_SHARD_RELEASES && !rc; i++)
        if (unlikely(op->sh->release[i])) rc = pages_give(op->s, &op->sh->release[i], op->flags & ~(unsigned)MMKV_NO_WAIT);
    return rc;
}

/* Settle every shard that the dead owner of a slot held, without waiting for any. */
int shard_settle(mmkv_store *s, uint32_t owner)
{
    struct op op;
    int rc = 0;
    for (uint32_t i = 0; i < s->shard_count && !rc; i++) {
        uint32_t seen = load32(&shard_of(s, i)->l.lock);
        if ((seen & FMT_LOCK_OWNER) != owner || !seen) continue;
        if (!__atomic_compare_exchange_n(&shard_of(s, i)->l.lock, &seen, s->me | FMT_LOCK_WAITERS, false, __ATOMIC_ACQUIRE,
                                         __ATOMIC_RELAXED))
            continue; /* somebody waiting was quicker */
        struct fmt_shard *sh = shard_of(s, i);
        guard_hold(&sh->l.lock);
        op_open(&op, s, &sh->l, &sh->log, 0);
        op.sh = sh;
        op.shard = i;
        op.epoch = load_acquire(&control_of(s)->epoch);
        rc = settle(&op);
        shard_unlock(&op);
    }
    return rc;
}

/* ---- counters ---- */

/* The first write of a shard in an epoch keeps what its counters were at the end of the epoch before. */
void shard_roll(struct op *op)
{
    struct fmt_shard *sh = op->sh;
    if (likely(sh->epoch == op->epoch)) return;
    uint64_t now = sh->epoch & 1, count = sh->count[now], sum = sh->sum[now];
    for (int i = 0; i < 2; i++) {
        set(op, &sh->count[i], count);
        set(op, &sh->sum[i], sum);
    }
    set(op, &sh->epoch, op->epoch);
}

static void account(struct op *op, int64_t records, uint64_t sum, uint64_t bytes)
{
    struct fmt_shard *sh = op->sh;
    uint64_t now = op->epoch & 1;
    if (records) set(op, &sh->count[now], sh->count[now] + (uint64_t)records);
    set(op, &sh->sum[now], sh->sum[now] + sum);
    if (bytes) set(op, &sh->bytes, sh->bytes + bytes);
}

/* ---- writing ---- */

int read_only(mmkv_store *s)
{
    if (likely(s->writable)) return shard_stale(s);
    if (s->slotless) return fail(MMKV_IN_USE, 0, "this process was forked when its parent could not get a process slot for it: all "
                                  "%u were taken, or the parent could not open the file once more, for want of permission or of "
                                  "descriptors", FMT_PROCESSES - 1);
    return fail(MMKV_READ_ONLY, 0, "the store is open for reading only");
}

/* Before the first lock of every write of a key. A hash that calls back is not asked for under a lock, by `belongs` in
 * index.c, so that a damaged record in the key's place has to be met now. */
int key_ready(mmkv_store *s, uint64_t hash, const void *key, size_t key_length, unsigned flags)
{
    int rc = write_ready(s, flags);
    if (likely(!hash_calls_back) || rc) return rc;
    rc = shard_get(s, hash, key, key_length, NULL, 0, NULL, flags);
    return rc == MMKV_NOT_FOUND ? 0 : rc;
}

/* Returns the checksum. */
static uint32_t write_record(uint8_t *p, const struct draft *d, uint32_t place)
{
    uint32_t sum = with_place(d->sum, place);
    uint64_t word = d->word | (uint64_t)place << 16;
    memcpy(p, &sum, 4);
    memcpy(p + 4, &word, 8);
    memcpy(p + FMT_RECORD_HEADER, d->key, d->key_length);
    memcpy(p + FMT_RECORD_HEADER + d->key_length, d->value, d->value_length);
    return sum;
}

/* The new record, in a block: born, then the rest, then dead = 0 (R2). */
static int place_in_block(struct op *op, const struct draft *d, uint32_t class_, uint64_t *record, uint32_t *sum)
{
    struct block b;
    int rc = heap_take(op, class_, &b);
    if (rc) return rc;
    struct fmt_chunk *c = at(op->s, b.chunk, FMT_PAGE);
    struct fmt_epochs *e = &chunk_epochs(c)[b.number];
    uint64_t e_at = b.chunk + fmt_chunk_epochs_at(c->blocks) + 16ull * b.number;
    set(op, &e->born, fmt_stamp(op->epoch, e_at));
    kill_fence();
    *sum = write_record((uint8_t *)c + (b.offset - b.chunk), d, c->order);
    kill_fence();
    set(op, &e->dead, fmt_stamp(0, e_at + 8));
    *record = b.offset;
    return 0;
}

/* The new record, in the extent that was filled before the lock was taken: publish the descriptor. */
static int place_in_extent(struct op *op, const struct draft *d, uint64_t *record, uint32_t *sum)
{
    struct fmt_extent *e = extent_at(op->s, d->extent);
    if (!e) return fail(MMKV_CORRUPT, d->extent, "a reserved extent has no descriptor");
    uint64_t e_at = offset_of(op->s, e);
    struct fmt_extent words = { .pages = e->pages, .shard = (uint16_t)op->shard, .type = FMT_EXTENT_VALUE };
    uint32_t class_ = heap_class(d->size);
    set(op, &e->born, fmt_stamp(op->epoch, e_at));
    set(op, WORD(e->pages), *WORD(words.pages));
    set(op, &e->link, fmt_extent_check(*WORD(words.pages), e_at) | (op->l->version & FMT_LINK_MASK));
    set(op, &e->dead, fmt_stamp(0, e_at + 8));
    set(op, d->reservation, 1); /* until the commit: no other thread's extent may get in between and be undone with us */
    if (class_ < FMT_CLASSES) {
        struct fmt_class *k = &op->sh->class_[class_];
        set(op, WORD(k->pages), pair(k->pages, k->singles + 1));
    }
    *record = d->extent;
    *sum = with_place(d->sum, FMT_RECORD_ALONE);
    return 0;
}

int draft_place(struct op *op, const struct draft *d, uint64_t *record, uint32_t *sum)
{
    return d->reservation ? place_in_extent(op, d, record, sum) : place_in_block(op, d, heap_class(d->size), record, sum);
}

/* Make a record that was placed the key's, in place of what was there. */
int draft_link(struct op *op, const struct draft *d, const struct place *p, bool found, uint64_t record, uint32_t sum)
{
    uint64_t bytes = d->key_length + d->value_length, old_size;
    const struct fmt_record *r;
    store(&op->sh->written, op->sh->written + d->size);
    shard_changed(op, d->hash);
    if (!found) {
        index_insert(op, d->hash, p, record);
        account(op, 1, sum, bytes);
        return 0;
    }
    if (!record_of(op->s, p->record, &r, &old_size)) return record_damaged(op->s, p->record, NULL, 0);
    uint64_t old_sum = r->checksum, old_bytes = old_size - (uint64_t)(record_key(r) - (const uint8_t *)r);
    index_replace(op, d->hash, p, record);
    int rc = heap_kill(op, p->record);
    if (likely(!rc)) account(op, 0, sum - old_sum, bytes - old_bytes);
    return rc;
}

/* After the commit the operation is done, whatever becomes of what it released: that is tried again later. */
static int finish(struct op *op)
{
    int rc = shard_finish(op);
    return rc == MMKV_CORRUPT ? rc : 0;
}

/* Before an operation: the release words it may need must be empty. */
static int ready(struct op *op)
{
    return likely(!op->sh->release[0]) ? 0 : shard_finish(op);
}

/* Store what was drafted: at the place where the key was found or, if it was not, at one that is made. */
int put_at(struct op *op, struct draft *d, struct place *p, bool found)
{
    uint64_t record = 0;
    uint32_t sum = 0;
    int rc;
    if (!found) {
        while ((rc = index_room(op->s, op->sh, d->hash, p)) == MMKV_FULL)
            if ((rc = index_split(op, d->hash))) return rc;
        if (rc) return rc;
    }
    if (!d->reservation && (rc = heap_ready(op, heap_class(d->size), 1))) return rc;
    if ((rc = ready(op))) return rc;
    op_begin(op);
    shard_roll(op);
    if (!(rc = draft_place(op, d, &record, &sum))) rc = draft_link(op, d, p, found, record, sum);
    if (unlikely(rc)) return op_end(op, rc);
    op_commit(op);
    if (unlikely(d->reservation)) {
        guard_top->reserved = false; /* first: another thread may have the word at once */
        store_release(d->reservation, 0);
    }
    return finish(op);
}

int put_locked(struct op *op, struct draft *d, unsigned flags)
{
    struct place p;
    int rc = index_find(op->s, op->sh, d->hash, d->key, d->key_length, &p);
    if (rc && rc != MMKV_NOT_FOUND) return record_damaged(op->s, p.record, NULL, 0);
    if (!rc && flags & MMKV_ADD) return MMKV_EXISTS;
    if (rc && flags & MMKV_REPLACE) return MMKV_NOT_FOUND;
    return put_at(op, d, &p, !rc);
}

/* Write what is to have an extent of its own into it, with no shard locked. */
int draft_fill(mmkv_store *s, const struct draft *d)
{
    uint8_t *p = at(s, d->extent, pages_of(d->size) * FMT_PAGE);
    if (!p) return fail(MMKV_CORRUPT, d->extent, "the allocator gave an extent outside the file");
    atomic_thread_fence(memory_order_release); /* R31 */
    uint64_t since = os_now_ms();
    write_record(p, d, FMT_RECORD_ALONE);
    wait_worked(since);
    return 0;
}

/* An extent of its own for a value: taken and filled with no shard locked. */
static int fill_extent(mmkv_store *s, struct draft *d, unsigned flags)
{
    if ((flags & MMKV_NO_WAIT) && d->size > COPY_MAX_UNDER_LOCK) return MMKV_WOULD_BLOCK;
    int rc = reservation_take(s, pages_of(d->size), &d->reservation, &d->extent, flags);
    if (rc) { d->reservation = NULL; return rc; }
    return draft_fill(s, d);
}

/* The beginning of every draft: what can be made of a new record before any lock, but for an extent. */
int draft_begin(mmkv_store *s, struct draft *d, uint64_t hash, const void *key, size_t key_length, const void *value,
                size_t value_length, unsigned flags)
{
    *d = (struct draft){ .key = key, .value = value, .key_length = key_length, .value_length = value_length, .hash = hash,
                         .word = key_length | (uint64_t)value_length << 24, .size = FMT_RECORD_HEADER + key_length + value_length };
    if (key_length > FMT_KEY_MAX)
        return fail(MMKV_INVALID, 0, "a key of %zu bytes is longer than the limit of %u", key_length, FMT_KEY_MAX);
    if (value_length > FMT_VALUE_MAX)
        return fail(MMKV_INVALID, 0, "a value of %zu bytes is longer than the limit of %llu", value_length, FMT_VALUE_MAX);
    int rc = key_ready(s, hash, key, key_length, flags);
    if (unlikely(rc)) return rc;
    shard_prefetch(s, hash, 0); /* the bucket is on its way while the value is hashed */
    d->sum = record_sum(hash, d->word, 0, value, value_length);
    return 0;
}

/* With, for a large value, an extent with it in. */
int draft_make(mmkv_store *s, struct draft *d, uint64_t hash, const void *key, size_t key_length, const void *value,
               size_t value_length, unsigned flags)
{
    int rc = draft_begin(s, d, hash, key, key_length, value, value_length, flags);
    if (unlikely(rc)) return rc;
    return unlikely(heap_alone(shard_of(s, fmt_shard_of(hash, s->shard_bits)), d->size)) ? fill_extent(s, d, flags) : 0;
}

/* The end of every draft. What was not published is handed back. */
int draft_drop(mmkv_store *s, struct draft *d, bool published, int code, unsigned flags)
{
    if (likely(!d->reservation) || published || load(d->reservation) != d->extent) return 0;
    return reservation_end(s, d->reservation, code, flags);
}

int shard_put(mmkv_store *s, uint64_t hash, const void *key, size_t key_length, const void *value, size_t value_length,
             unsigned flags)
{
    struct op op;
    struct draft d;
    int rc = read_only(s), rc2;
    if (unlikely(rc)) return rc;
    rc = draft_make(s, &d, hash, key, key_length, value, value_length, flags);
    if (likely(!rc) && !(rc = shard_lock(s, fmt_shard_of(hash, s->shard_bits), &op, flags | INTERRUPTIBLE))) {
        rc = put_locked(&op, &d, flags);
        shard_unlock(&op);
    }
    rc2 = draft_drop(s, &d, !rc, rc, flags);
    return unlikely(rc2) ? rc2 : rc;
}

/* Take the record at a place out, as a part of an operation. */
int unlink_at(struct op *op, uint64_t hash, const struct place *p)
{
    const struct fmt_record *r;
    uint64_t size;
    if (!record_of(op->s, p->record, &r, &size)) return record_damaged(op->s, p->record, NULL, 0);
    uint64_t sum = r->checksum, bytes = size - (uint64_t)(record_key(r) - (const uint8_t *)r);
    store(&op->sh->written, op->sh->written + sizeof(struct fmt_epochs));
    shard_changed(op, hash);
    index_remove(op, hash, p);
    int rc = heap_kill(op, p->record);
    if (likely(!rc)) account(op, -1, 0 - sum, 0 - bytes);
    return rc;
}

/* Remove the record at a place: one operation. */
int remove_at(struct op *op, uint64_t hash, const struct place *p)
{
    int rc = ready(op);
    if (rc) return rc;
    op_begin(op);
    shard_roll(op);
    rc = unlink_at(op, hash, p);
    if (unlikely(rc)) return op_end(op, rc);
    op_commit(op);
    return finish(op);
}

/* Give index tables back as a shard empties. Not having the room or the time to is no failure of the removal. */
int shrink(struct op *op, uint64_t hash)
{
    int rc = 0;
    if (!op->sh->count[op->epoch & 1]) rc = index_reset(op);
    else if (!(hash & SPREAD) && op->sh->tables > 1) rc = index_merge(op, hash);
    return rc == MMKV_CORRUPT ? rc : 0;
}

/* Is the value of a key, in a locked shard, the expected one? A long one was compared before the lock was taken and is only
 * recognised. MMKV_WOULD_BLOCK: it is another one since, to be compared anew. */
int expected_there(struct op *op, uint64_t hash, const void *key, size_t key_length, const void *expected,
                   size_t expected_length, const struct place *compared, uint64_t link, struct place *p, bool *same)
{
    struct seal seal;
    size_t length;
    int rc = index_find(op->s, op->sh, hash, key, key_length, p);
    *same = false;
    if (rc == MMKV_CORRUPT) return record_damaged(op->s, p->record, NULL, 0);
    if (rc) return 0;
    if (expected_length > COPY_MAX_UNDER_LOCK) {
        *same = p->record == compared->record && published(op->s, p) == link;
        return *same ? 0 : MMKV_WOULD_BLOCK;
    }
    rc = record_same(op->s, p->record, expected, expected_length, &length, same, &seal);
    return rc ? record_damaged(op->s, p->record, key, key_length) : 0;
}

/* The value that is about to be removed; what is damaged stays. */
static int take_copy(mmkv_store *s, const void *key, size_t key_length, const struct place *p, void *buffer, size_t capacity,
                     size_t *value_length)
{
    struct seal seal;
    int rc = record_copy(s, p->record, buffer, capacity, value_length, &seal);
    return rc == MMKV_CORRUPT ? record_damaged(s, p->record, key, key_length) : rc;
}

/* With no lock held: long copies, and with verify_reads the checksum, whose hash may call back. The key is then removed if
 * the value is still the one that was copied. */
int shard_delete(mmkv_store *s, uint64_t hash, const void *key, size_t key_length, void *buffer, size_t capacity,
                size_t *value_length, unsigned flags)
{
    struct op op;
    struct place p, copied;
    uint64_t link = 0;
    bool same, before = buffer && (capacity > COPY_MAX_UNDER_LOCK || unlikely(reads_checked(s)));
    int rc = read_only(s);
    if (unlikely(rc)) return rc;
    if (key_length > FMT_KEY_MAX) return MMKV_NOT_FOUND;
    if (unlikely((rc = key_ready(s, hash, key, key_length, flags)))) return rc;
    do {
        if (before && (rc = read_copy(s, hash, key, key_length, buffer, capacity, value_length, flags, &copied, &link))) return rc;
        if ((rc = shard_lock(s, fmt_shard_of(hash, s->shard_bits), &op, flags | INTERRUPTIBLE))) return rc;
        if (before) {
            rc = expected_there(&op, hash, key, key_length, buffer, *value_length, &copied, link, &p, &same);
            if (!rc && !same) rc = MMKV_WOULD_BLOCK;
        } else {
            rc = index_find(s, op.sh, hash, key, key_length, &p);
            if (rc == MMKV_CORRUPT) record_damaged(s, p.record, NULL, 0);
            if (!rc && buffer) rc = take_copy(s, key, key_length, &p, buffer, capacity, value_length);
        }
        if (!rc) rc = remove_at(&op, hash, &p);
        if (!rc) rc = shrink(&op, hash);
        shard_unlock(&op);
    } while (before && rc == MMKV_WOULD_BLOCK && !(flags & MMKV_NO_WAIT));
    return rc;
}

/* Remove the records of the table at position `from` of a locked shard; *next is the position after it. */
static int clear_table(struct op *op, uint32_t from, uint64_t *next)
{
    mmkv_store *s = op->s;
    struct index_item items[FMT_TABLE_ENTRIES];
    uint64_t table, before;
    uint32_t depth = 0;
    int rc = index_table(s, op->sh, from, &table, &depth);
    struct fmt_table *t = rc || !table ? NULL : table_at(s, table);
    *next = 1u << FMT_DEPTH_MAX;
    if (!rc && !table) return 0;
    if (!t || !table_is(t, op->sh, op->shard, depth, from)) return fail(MMKV_CORRUPT, shard_at(op->shard), "a directory leads to no table");
    *next = ((uint64_t)(from >> (FMT_DEPTH_MAX - depth)) + 1) << (FMT_DEPTH_MAX - depth);
    uint32_t n = table_items(t, items);
    for (uint32_t i = 0; i < n && !rc; i++) {
        const struct fmt_record *r;
        struct place p;
        uint64_t size;
        if (items[i].bits < from) continue; /* tables merged since, and these came after what was removed */
        if (!record_of(s, items[i].record, &r, &size)) return record_damaged(s, items[i].record, NULL, 0);
        uint64_t hash = hash_calls_back ? table_hash(s, t, &items[i], op->shard) : engine_hash(record_key(r), r->key_length, s->seed);
        rc = index_find(s, op->sh, hash, record_key(r), r->key_length, &p);
        if (rc || p.record != items[i].record) return record_damaged(s, items[i].record, NULL, 0);
        rc = remove_at(op, hash, &p);
    }
    if (n && hash_calls_back) op->changed = (1u << FMT_WAITING_BITS) - 1; /* whom it concerns the whole hash would tell */
    do { /* the tables before this one are empty: merge with them as far as buddies go */
        before = op->sh->tables;
        if (!rc && (rc = index_merge(op, (uint64_t)from << (44 - s->shard_bits)))) return rc == MMKV_CORRUPT ? rc : 0; /* as in shrink */
    } while (!rc && op->sh->tables < before);
    return rc;
}

int shard_clear(mmkv_store *s)
{
    struct op op;
    int rc = read_only(s);
    if (rc || (rc = write_ready(s, 0))) return rc;
    for (uint32_t i = 0; i < s->shard_count && !rc; i++) {
        for (uint64_t from = 0; from < 1u << FMT_DEPTH_MAX && !rc;) { /* others wait for one table at most */
            if ((rc = shard_lock(s, i, &op, 0))) break; /* not INTERRUPTIBLE: begun anew, it would remove what was put behind it */
            rc = clear_table(&op, (uint32_t)from, &from);
            if (!rc && from >= 1u << FMT_DEPTH_MAX && !op.sh->count[op.sh->epoch & 1] && index_reset(&op) == MMKV_CORRUPT)
                rc = MMKV_CORRUPT;
            shard_unlock(&op);
        }
    }
    return rc;
}
