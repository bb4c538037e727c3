/* transaction.c: the extent that a transaction over several shards keeps its log in, and what others do about it; the words
 * of the process slot that name it, and the extents of single values.
 *
 * It is taken into a word of the process slot, so that whoever settles the slot finds it, and is never published: recovery
 * sees nothing of it. It holds the mark that makes the transaction happen, words that name what the transaction has
 * reserved and what it releases, and for each shard that it changes a segment: the undo log of that shard, instead of the
 * shard's own, as long as the shard's log.transaction says so.
 *
 * Whoever takes a shard's lock over from the dead reads the mark: 1, and there is nothing to undo; 0, and it undoes its own
 * shard, by that shard's segment. Nobody waits for another's. The extent stays until the dead one's slot is settled, which
 * comes after every lock that it held (settle_reservations in attach.c): so the mark can be read as long as it is wanted. */
#include "engine.h"

/* What lies at an offset that the file named, if that can be a transaction. */
struct fmt_transaction *transaction_at(mmkv_store *s, uint64_t offset)
{
    const struct fmt_extent *e = offset % FMT_PAGE ? NULL : extent_at(s, offset);
    struct fmt_transaction *t = e && e->pages && !e->born ? at(s, offset, e->pages * (uint64_t)FMT_PAGE) : NULL;
    if (!t || memcmp(t->magic, FMT_TRANSACTION_MAGIC, sizeof t->magic)
        || sizeof *t + 8ull * t->words + sizeof(struct fmt_segment) * (uint64_t)t->segments > e->pages * (uint64_t)FMT_PAGE) {
        fail(MMKV_CORRUPT, offset, "no transaction at offset %llu", (unsigned long long)offset);
        return NULL;
    }
    return t;
}

static struct fmt_segment *segments_of(struct fmt_transaction *t)
{
    return (struct fmt_segment *)(void *)(transaction_words(t) + t->words);
}

/* ---- the owner's part ---- */

uint64_t transaction_bytes(uint64_t words, uint64_t segments, uint64_t entries)
{
    return sizeof(struct fmt_transaction) + 8 * words + sizeof(struct fmt_segment) * segments + sizeof(struct fmt_log_entry) * entries;
}

/* Take the extent. Killed before the word says that it is a transaction's: one that was reserved, and nothing in it. */
int transaction_take(mmkv_store *s, uint64_t words, uint64_t segments, uint64_t entries, uint64_t **word,
                     uint64_t *offset, struct fmt_transaction **transaction, unsigned flags)
{
    uint64_t pages = pages_of(transaction_bytes(words, segments, entries));
    int rc = reservation_take(s, pages, word, offset, flags);
    if (rc) return rc;
    struct fmt_transaction *t = at(s, *offset, pages * FMT_PAGE);
    if (!t) return fail(MMKV_CORRUPT, *offset, "the allocator gave an extent outside the file");
    atomic_thread_fence(memory_order_release); /* R31 */
    memset(t, 0, transaction_bytes(words, segments, 0));
    t->words = (uint32_t)words;
    t->segments = (uint32_t)segments;
    memcpy(t->magic, FMT_TRANSACTION_MAGIC, sizeof t->magic);
    kill_fence();
    store_release(*word, *offset | FMT_RESERVED_TRANSACTION); /* pairs with the load in reservation_give */
    *transaction = t;
    return 0;
}

/* Lay a segment out; `before`: the entries of those before it. */
void transaction_segment(struct fmt_transaction *t, uint32_t number, uint32_t shard, uint64_t before, uint32_t capacity)
{
    struct fmt_segment *g = &segments_of(t)[number];
    g->entries = transaction_bytes(t->words, t->segments, before);
    g->capacity = capacity;
    g->shard = shard;
}

static void use_segment(struct op *op, struct fmt_transaction *t, struct fmt_segment *g)
{
    op_log(op, &g->count, (struct fmt_log_entry *)(void *)((uint8_t *)t + g->entries), g->capacity);
}

static void use_own_log(struct op *op) { op_log(op, &op->sh->log.count, op->sh->log.entry, FMT_LOG_ENTRIES); }

/* From here on the shard's log is the segment. Its count is 0, so that one who dies now leaves nothing to undo. */
void transaction_begin(struct op *op, struct fmt_transaction *t, uint64_t offset, uint32_t number)
{
    use_segment(op, t, &segments_of(t)[number]);
    store(&op->sh->log.transaction, offset | number);
    kill_fence();
    op_begin(op);
}

/* The one store that makes it all happen: after it no segment is undone. Every version is odd, so no reader has seen any
 * of it; each waits until its shard's is even. */
void transaction_mark(struct fmt_transaction *t)
{
    kill_fence();
    store_release(&t->committed, 1); /* pairs with the load in transaction_undo */
    kill_fence();
}

/* After the mark: let readers see the shard. */
void transaction_end(struct op *op)
{
    use_own_log(op);
    kill_fence();
    if (op->l->version & 1) store_release(&op->l->version, op->l->version + 1); /* pairs with read_begin */
    kill_fence();
    store(&op->sh->log.transaction, 0);
}

/* ---- what others do, and the owner when it gives up ---- */

static struct fmt_segment *segment_at(mmkv_store *s, struct fmt_transaction *t, uint64_t number, uint32_t shard)
{
    if (!t || number >= t->segments) return NULL;
    struct fmt_segment *g = &segments_of(t)[number];
    uint64_t bytes = extent_at(s, offset_of(s, t))->pages * (uint64_t)FMT_PAGE, room = bytes - g->entries;
    bool fits = g->entries % 8 == 0 && g->entries <= bytes && g->capacity <= room / sizeof(struct fmt_log_entry);
    return fits && g->shard == shard ? g : NULL;
}

/* Undo whatever a locked shard has under way: by its own log, or by its segment if the transaction has not happened. Killed
 * in the middle of it: whoever comes next begins anew, log.transaction being the last thing that is taken back. */
int transaction_undo(struct op *op)
{
    uint64_t word = load(&op->sh->log.transaction), number = word & (FMT_PAGE - 1);
    if (likely(!word)) return op_rollback(op);
    struct fmt_transaction *t = transaction_at(op->s, word - number);
    struct fmt_segment *g = segment_at(op->s, t, number, op->shard);
    if (!g) {
        op_fail(op);
        return fail(MMKV_CORRUPT, shard_at(op->shard), "shard %u is part of a transaction that is not there", op->shard);
    }
    if (!load_acquire(&t->committed)) { /* pairs with the store in transaction_mark */
        use_segment(op, t, g);
        int rc = op_rollback(op);
        use_own_log(op);
        if (rc) return rc;
    }
    transaction_end(op);
    return 0;
}

/* ---- words of the process slot ---- */

/* Give back what a word of a process slot has reserved: an extent for a value, or a transaction with all that it names: its
 * values' extents, if they were not published, and what it released, if it has happened (a rollback takes that back). */
int reservation_give(mmkv_store *s, uint64_t *word, unsigned flags)
{
    uint64_t value = load_acquire(word); /* pairs with the store in transaction_take */
    int rc = 0;
    if (value == 1) {
        store_release(word, 0);
        return 0;
    }
    if (value & FMT_RESERVED_TRANSACTION) {
        struct fmt_transaction *t = transaction_at(s, value & ~(uint64_t)(FMT_PAGE - 1));
        if (!t) return MMKV_CORRUPT;
        uint64_t *words = transaction_words(t);
        for (uint32_t i = 0; i < t->words && !rc; i++)
            if (load(&words[i]) > 1) rc = pages_give(s, &words[i], flags);
    }
    return rc ? rc : pages_give(s, word, flags);
}

/* The same when a call ends, with `code`. If the allocator does not let it, another process having it, the word stays as it
 * is and is given back by who next wants one, by who closes, or with the slot: so a call that a signal ends does not wait
 * for it. MMKV_CORRUPT is all that this fails with. */
int reservation_end(mmkv_store *s, uint64_t *word, int code, unsigned flags)
{
    mmkv_failure before = *mmkv_failure_get();
    int rc = reservation_give(s, word, code == MMKV_INTERRUPTED ? flags | MMKV_NO_WAIT : flags);
    if (!rc || rc == MMKV_CORRUPT) return rc;
    fail_again(&before);
    atomic_fetch_or_explicit(&s->kept, 1u << (word - process_of(s, s->slot)->reserved_extent), memory_order_release);
    return 0;
}

/* Give back what earlier calls could not. Who takes a word's bit has the word. */
static int give_kept(mmkv_store *s, unsigned flags)
{
    int rc = 0;
    for (uint32_t i = 0; i < 4 && !rc; i++) {
        uint32_t bit = 1u << i; /* pairs with the one that sets it */
        if (!(atomic_fetch_and_explicit(&s->kept, ~bit, memory_order_acquire) & bit)) continue;
        rc = reservation_give(s, &process_of(s, s->slot)->reserved_extent[i], flags);
        if (rc && rc != MMKV_CORRUPT) atomic_fetch_or_explicit(&s->kept, bit, memory_order_release);
    }
    return rc;
}

/* An extent that is filled before any shard's lock is taken: noted in the process slot. A signal ends the wait. */
int reservation_take(mmkv_store *s, uint64_t pages, uint64_t **word, uint64_t *offset, unsigned flags)
{
    struct fmt_process *process = process_of(s, s->slot);
    flags |= INTERRUPTIBLE;
    for (uint64_t entered = 0;;) {
        int rc = unlikely(atomic_load_explicit(&s->kept, memory_order_relaxed)) ? give_kept(s, flags) : 0;
        if (rc) return rc;
        for (int i = 0; i < 4; i++) {
            uint64_t none = 0;
            *word = &process->reserved_extent[i];
            if (__atomic_compare_exchange_n(*word, &none, 1, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
                guard_top->reservation = *word;
                guard_top->reserved = true;
                rc = pages_take(s, FMT_ZONE_HEAP, &pages, 0, *word, offset, flags);
                if (rc) {
                    guard_top->reserved = false;
                    store_release(*word, 0);
                }
                return rc;
            }
        }
        if (flags & MMKV_NO_WAIT) return MMKV_WOULD_BLOCK;
        if (unlikely(load(&allocator_of(s)->failed))) return fail_unusable(s, NULL); /* what is reserved cannot be given back */
        if (!entered) entered = os_now_ms();
        if (os_wait((uint32_t *)(void *)&process->reserved_extent[0], (uint32_t)load(&process->reserved_extent[0]), 1)
            || os_now_ms() - entered >= LOOK_FOR_SIGNALS_MS) return MMKV_INTERRUPTED;
    }
}
