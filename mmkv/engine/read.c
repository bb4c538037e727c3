/* read.c: reading one key without a lock.
 *
 * A reader looks under an even version, copies or compares, and looks whether the version stands. */
#include "engine.h"

/* What tells one publication of a record with an extent of its own from another: the version that did it, as the complement
 * of the whole link, which is 0 after a recovery where its check is 0; 0 for a record in a chunk. Of a dead extent the link is its
 * place in the allocator's queue, which may be the number that the next version to publish it will have. So the dead word is
 * asked as well, after the link (pairs with the fence before `link` in pages_give): if it says alive by then, the link is
 * that of a publication, or one is there already that the copy, which comes after, is a copy of. */
uint64_t published(mmkv_store *s, const struct place *p)
{
    const struct fmt_record *r = at(s, p->record, FMT_RECORD_HEADER);
    if (!r || (r->flags & FMT_RECORD_PLACE) != FMT_RECORD_ALONE) return 0;
    const struct fmt_extent *e = extent_at(s, p->record);
    uint64_t link = e ? load_acquire(&e->link) : 0; /* before the copy; the fence in read_valid comes after it */
    return e && load_acquire(&e->dead) == fmt_stamp(0, offset_of(s, &e->dead)) ? ~link : 0;
}

/* Was the value just copied the key's all the while? A record in an extent of its own is written before it is published
 * and the extent's descriptor keeps the version that did; so if the key still has the same record, published by the same
 * version, nothing it holds has changed. That accepts a long copy although other keys of the shard were written. */
bool still_there(mmkv_store *s, struct fmt_shard *sh, uint64_t hash, const void *key, size_t key_length,
                 const struct place *p, uint64_t link)
{
    struct place now;
    uint64_t version;
    for (int tries = 0; link && tries < READ_TRIES; tries++) {
        if (!read_begin(&sh->l, &version)) continue;
        bool same = !index_find(s, sh, hash, key, key_length, &now) && now.record == p->record && published(s, &now) == link;
        if (read_valid(&sh->l, version)) return same;
    }
    return false;
}

/* With verify_reads: a length that is told to one whose buffer is too small, or that a value is not the expected one, is
 * to be right as well. A record that goes on changing is left to the next look. */
static int check_uncopied(mmkv_store *s, struct fmt_shard *sh, uint64_t hash, const void *key, size_t key_length,
                          const struct place *p, uint64_t version)
{
    uint64_t link = published(s, p);
    if (record_sound(s, p->record)) return 0;
    bool same = read_valid(&sh->l, version) || still_there(s, sh, hash, key, key_length, p, link);
    return same ? record_damaged(s, p->record, key, key_length) : 0;
}

int shard_stale(mmkv_store *s) { return likely(!s->wary) ? 0 : handle_refuses(s); }

/* What a reader does with the record it finds: copy its value, or, with `same`, hold it against what is in the buffer. */
static inline __attribute__((always_inline)) int use_record(mmkv_store *s, uint64_t record, void *buffer, size_t capacity,
                                                            size_t *value_length, bool *same, struct seal *seal)
{
    return same ? record_same(s, record, buffer, capacity, value_length, same, seal)
                : record_copy(s, record, buffer, capacity, value_length, seal);
}

/* Would using the record's value mean to go through many bytes? */
static bool is_long(mmkv_store *s, uint64_t record, size_t capacity)
{
    struct view v;
    return capacity > COPY_MAX_UNDER_LOCK && record_view(s, record, &v) && v.value_length > COPY_MAX_UNDER_LOCK && v.value_length <= capacity;
}

/* Readers that get no valid look take the lock; those that may not write wait a little and go on trying. So does who finds
 * a long value under it: MMKV_WOULD_BLOCK. What was half-written by one who died is settled then. */
static int read_locked(mmkv_store *s, uint32_t shard, uint64_t hash, const void *key, size_t key_length, void *buffer,
                       size_t capacity, size_t *value_length, bool *same, unsigned flags)
{
    struct op op;
    struct place p;
    struct seal seal;
    int rc = shard_lock(s, shard, &op, flags | INTERRUPTIBLE);
    if (rc) return rc;
    rc = index_find(s, op.sh, hash, key, key_length, &p);
    bool later = !rc && value_length && is_long(s, p.record, capacity);
    if (!rc && value_length && !later) rc = use_record(s, p.record, buffer, capacity, value_length, same, &seal);
    if (rc == MMKV_CORRUPT) record_damaged(s, p.record, NULL, 0);
    if (later) rc = op.l->version & 1 ? fail(MMKV_CORRUPT, shard_at(shard), "shard %u is half-written, and by nobody", shard) : MMKV_WOULD_BLOCK;
    shard_unlock(&op);
    if (unlikely(reads_checked(s)) && !rc && value_length && (!same || *same))
        rc = record_copied(s, p.record, hash, key, key_length, buffer, *value_length, &seal);
    return rc;
}

/* Find, and copy or compare. *p and *link (not 0 for a value in an extent of its own, if it was used) say what was found. */
static inline __attribute__((always_inline)) int read_value(mmkv_store *s, uint64_t hash, const void *key, size_t key_length,
                                                            void *buffer, size_t capacity, size_t *value_length, bool *same,
                                                            unsigned flags, struct place *p, uint64_t *link)
{
    uint32_t shard = fmt_shard_of(hash, s->shard_bits);
    struct fmt_shard *sh = shard_of(s, shard);
    uint64_t version, started = 0, entered = 0, known = 0; /* known: how much was mapped before this look, if it is not the first */
    struct seal seal;
    int rc;
    if (key_length > FMT_KEY_MAX) return MMKV_NOT_FOUND;
    if (unlikely((rc = shard_stale(s)))) return rc;
    for (int tries = 0;; tries++) {
        *link = 0;
        if (likely(read_begin(&sh->l, &version))) {
            rc = index_find(s, sh, hash, key, key_length, p);
            if (likely(!rc) && value_length) {
                if (unlikely(capacity > COPY_MAX_UNDER_LOCK)) *link = published(s, p);
                rc = use_record(s, p->record, buffer, capacity, value_length, same, &seal);
            }
            if (unlikely(s->shared_control != NULL) && shard_stale(s)) return MMKV_STALE;
            if (likely(read_valid(&sh->l, version)) || (!rc && still_there(s, sh, hash, key, key_length, p, *link))) {
                if (unlikely(rc == MMKV_CORRUPT)) { /* what others added may only not have been mapped */
                    if ((rc = map_all(s))) return rc;
                    uint64_t mapped = atomic_load_explicit(&s->mapped, memory_order_acquire);
                    if (mapped == known) return record_damaged(s, p->record, NULL, 0);
                    known = mapped;
                    continue;
                }
                if (likely(!reads_checked(s)) || !value_length) return rc;
                if (rc == MMKV_SHORT || (!rc && same && !*same)) {
                    int bad = check_uncopied(s, sh, hash, key, key_length, p, version);
                    return bad ? bad : rc;
                }
                /* Only now: a copy that was torn has been made again. */
                return rc ? rc : record_copied(s, p->record, hash, key, key_length, buffer, *value_length, &seal);
            }
        }
        if (tries < READ_TRIES) {
            pause_a_little();
            continue;
        }
        if (flags & MMKV_NO_WAIT) return MMKV_WOULD_BLOCK;
        /* A long copy is not made under a lock: it goes on being tried. */
        if (s->writable && !*link) {
            rc = read_locked(s, shard, hash, key, key_length, buffer, capacity, value_length, same, flags);
            if (rc == MMKV_WOULD_BLOCK) continue;
            return rc;
        }
        if (load(&sh->failed)) return fail_unusable(s, sh);
        uint64_t now = os_now_ms();
        if (!started) started = wait_start(&sh->l.lock), entered = now;
        else if (now - started > s->lock_timeout_ms) return fail_half_written(s, shard);
        if (os_wait((const uint32_t *)(const void *)&sh->l.version, (uint32_t)load(&sh->l.version), 1) || now - entered >= LOOK_FOR_SIGNALS_MS)
            return wait_broken_off(&sh->l.lock, started);
    }
}

int shard_get(mmkv_store *s, uint64_t hash, const void *key, size_t key_length, void *buffer, size_t capacity,
              size_t *value_length, unsigned flags)
{
    struct place p;
    uint64_t link;
    return read_value(s, hash, key, key_length, buffer, capacity, value_length, NULL, flags, &p, &link);
}

/* shard_get, also saying which record it was: to be recognised later, if *link is not 0, by both. */
int read_copy(mmkv_store *s, uint64_t hash, const void *key, size_t key_length, void *buffer, size_t capacity,
              size_t *value_length, unsigned flags, struct place *p, uint64_t *link)
{
    return read_value(s, hash, key, key_length, buffer, capacity, value_length, NULL, flags, p, link);
}

/* Are these bytes the value of a key? They are compared where they lie. */
int read_same(mmkv_store *s, uint64_t hash, const void *key, size_t key_length, const void *expected, size_t expected_length,
              bool *same, unsigned flags, struct place *p, uint64_t *link)
{
    size_t length;
    return read_value(s, hash, key, key_length, (void *)(uintptr_t)expected, expected_length, &length, same, flags, p, link);
}

void shard_prefetch(mmkv_store *s, uint64_t hash, int stage)
{
    struct fmt_shard *sh = shard_of(s, fmt_shard_of(hash, s->shard_bits));
    uint64_t table;
    uint32_t depth, bits = fmt_bits_of(hash, s->shard_bits);
    if (index_table(s, sh, bits, &table, &depth) || !table) return;
    struct fmt_table *t = table_at(s, table);
    if (!t) return;
    const struct fmt_bucket *b = &t->line[fmt_home_of(hash)];
    if (stage == 0) {
        __builtin_prefetch(b);
        return;
    }
    for (uint32_t i = 0; i < FMT_ENTRIES; i++) {
        uint64_t entry = load(&b->entry[i]);
        if (entry >> 43 != (uint64_t)bits << 1) continue;
        const uint8_t *r = at(s, (entry & FMT_ENTRY_PLACE) * FMT_UNIT, 128);
        if (r) {
            __builtin_prefetch(r);
            __builtin_prefetch(r + 64);
        }
    }
}

uint64_t shard_records(mmkv_store *s)
{
    uint64_t total = 0, version;
    for (uint32_t i = 0; i < s->shard_count; i++) {
        const struct fmt_shard *sh = shard_of(s, i);
        uint64_t count = 0;
        for (int tries = 0; tries < READ_TRIES; tries++) {
            bool even = read_begin(&sh->l, &version);
            count = load(&sh->count[load(&sh->epoch) & 1]);
            if (even && read_valid(&sh->l, version)) break;
        }
        total += count;
    }
    return total;
}
