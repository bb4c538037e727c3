/* scan.c: iteration, in the order of the hash, by steps that are each looked at under one version (R23).
 *
 * The cursor is a position in that order: shard << 32 | the 20 bits to go on from. */
#include <stdlib.h>

#include "engine.h"

static int by_bits(const void *a, const void *b)
{
    uint32_t x = ((const struct index_item *)a)->bits, y = ((const struct index_item *)b)->bits;
    return x < y ? -1 : x > y;
}

/* What is copied out, and how. */
struct output { uint8_t *buffer; size_t capacity, used, value_limit; bool with_values; };

static bool has_value(const struct output *o, const struct view *v) { return o->with_values && v->value_length <= o->value_limit; }

static size_t item_size(const struct output *o, const struct view *v)
{
    return (16 + v->key_length + (has_value(o, v) ? v->value_length : 0) + 7) & ~(size_t)7;
}

/* With verify_reads: the record's checksum; or, when its value is not copied out, the hash of its key against the index. */
static bool item_good(mmkv_store *s, const struct output *o, uint32_t shard, const struct index_item *item, const struct view *v)
{
    if (has_value(o, v)) return record_good(v, engine_hash(v->key, v->key_length, s->seed));
    uint64_t hash = engine_hash(v->key, v->key_length, s->seed);
    return fmt_shard_of(hash, s->shard_bits) == shard && fmt_bits_of(hash, s->shard_bits) == item->bits;
}

/* The entries of a table at positions from `from` up to `end`; *total is what all of them take. */
static int list_items(mmkv_store *s, const struct fmt_table *t, uint64_t from, uint64_t end, const struct output *o,
                      struct index_item items[FMT_TABLE_ENTRIES], uint32_t *count, size_t *total)
{
    uint32_t n = table_items(t, items), kept = 0;
    struct view v;
    *total = 0;
    for (uint32_t i = 0; i < n; i++) {
        /* before `from`: tables merged since, and these were delivered; behind the end: not a table of ours */
        if (items[i].bits < from || items[i].bits >= end) continue;
        if (!record_view(s, items[i].record, &v) || view_zeros(&v)) return MMKV_CORRUPT;
        *total += item_size(o, &v);
        items[kept++] = items[i];
    }
    *count = kept;
    return 0;
}

/* How far the items of one position reach, and what they take. */
static int step_size(mmkv_store *s, const struct index_item *items, uint32_t i, uint32_t count, const struct output *o,
                     uint32_t *end, size_t *size)
{
    struct view v;
    *size = 0;
    for (*end = i; *end < count && items[*end].bits == items[i].bits; ++*end) {
        if (!record_view(s, items[*end].record, &v)) return MMKV_CORRUPT;
        *size += item_size(o, &v);
    }
    return 0;
}

static int copy_item(mmkv_store *s, uint32_t shard, const struct index_item *item, size_t stop, struct output *o, uint64_t *bad)
{
    struct view v;
    if (!record_view(s, item->record, &v)) return MMKV_CORRUPT;
    uint32_t header[2] = { (uint32_t)v.key_length, 0 };
    size_t whole = item_size(o, &v), body = v.key_length + (has_value(o, &v) ? v.value_length : 0);
    if (whole > stop - o->used) return MMKV_CORRUPT; /* changed under us: the version will tell */
    if (unlikely(reads_checked(s)) && !item_good(s, o, shard, item, &v)) {
        *bad = item->record;
        return MMKV_CORRUPT;
    }
    uint8_t *to = o->buffer + o->used;
    memcpy(to, header, 8);
    memcpy(to + 8, &v.value_length, 8);
    memcpy(to + 16, v.key, body);
    memset(to + 16 + body, 0, whole - 16 - body);
    o->used += whole;
    return 0;
}

/* Copy the records of one table from position `from` on, as many steps (equal positions) as fit; *next is where to go on.
 * Called under the lock or under a version that is checked afterwards; so what *bad says of a record is looked at only
 * after that. */
static int copy_table(mmkv_store *s, uint32_t shard, uint32_t from, struct output *o, uint64_t *next, uint64_t *bad)
{
    struct index_item items[FMT_TABLE_ENTRIES];
    uint64_t table;
    uint32_t depth = 0, count = 0;
    size_t total = 0;
    *bad = 0;
    int rc = index_table(s, shard_of(s, shard), from, &table, &depth);
    if (rc) return rc;
    *next = table ? ((uint64_t)(from >> (FMT_DEPTH_MAX - depth)) + 1) << (FMT_DEPTH_MAX - depth) : 1u << FMT_DEPTH_MAX;
    if (!table) return 0;
    struct fmt_table *t = table_at(s, table);
    if (!t) return MMKV_CORRUPT;
    if ((rc = list_items(s, t, from, *next, o, items, &count, &total))) return rc;
    bool whole = total <= o->capacity;
    if (!whole) qsort(items, count, sizeof *items, by_bits);
    for (uint32_t i = 0; i < count;) {
        uint32_t end = count;
        size_t step = total;
        if (!whole && (rc = step_size(s, items, i, count, o, &end, &step))) return rc;
        if (!whole && step > o->capacity - o->used) {
            *next = items[i].bits;
            if (o->used) return 0;
            o->used = step;
            return MMKV_SHORT;
        }
        for (size_t stop = o->used + step; i < end; i++)
            if ((rc = copy_item(s, shard, &items[i], stop, o, bad))) return rc;
    }
    return 0;
}

int shard_scan(mmkv_store *s, uint64_t *cursor, void *buffer, size_t capacity, size_t *used, int with_values,
              size_t value_limit, unsigned flags)
{
    *used = 0;
    int rc = shard_stale(s);
    if (rc || (rc = map_all(s))) return rc;
    for (;;) {
        uint64_t shard = *cursor >> 32, from = *cursor & 0xffffffff, next = 0, version, started = 0, entered = 0, bad = 0;
        if (shard >= s->shard_count) return *used ? 0 : MMKV_NOT_FOUND;
        if (from >= 1u << FMT_DEPTH_MAX) return fail(MMKV_INVALID, 0, "not a cursor");
        struct fmt_shard *sh = shard_of(s, (uint32_t)shard);
        struct output o = { .buffer = (uint8_t *)buffer + *used, .capacity = capacity - *used, .value_limit = value_limit,
                            .with_values = with_values != 0 };
        bool done = false;
        for (int tries = 0; !done; tries++) {
            if (tries < READ_TRIES) {
                if (!read_begin(&sh->l, &version)) continue;
                o.used = 0;
                rc = copy_table(s, (uint32_t)shard, (uint32_t)from, &o, &next, &bad);
                done = read_valid(&sh->l, version);
            } else if (flags & MMKV_NO_WAIT) {
                return *used ? 0 : MMKV_WOULD_BLOCK;
            } else if (s->writable) {
                struct op op;
                o.used = 0;
                rc = shard_lock(s, (uint32_t)shard, &op, flags | INTERRUPTIBLE);
                if (rc) return rc == MMKV_INTERRUPTED && *used ? 0 : rc; /* what there is already must not be lost */
                rc = copy_table(s, (uint32_t)shard, (uint32_t)from, &o, &next, &bad);
                shard_unlock(&op);
                done = true;
            } else {
                if (load(&sh->failed)) return fail_unusable(sh);
                if (*used) return 0;
                uint64_t now = os_now_ms();
                if (!started) started = wait_start(&sh->l.lock), entered = now;
                else if (now - started > s->lock_timeout_ms) return fail_half_written(s, (uint32_t)shard);
                if (os_wait((const uint32_t *)(const void *)&sh->l.version, (uint32_t)load(&sh->l.version), 1)
                    || now - entered >= LOOK_FOR_SIGNALS_MS)
                    return wait_broken_off(&sh->l.lock, started);
                tries = 0;
            }
        }
        if (unlikely(s->shared_control != NULL) && shard_stale(s)) return MMKV_STALE;
        if (rc == MMKV_SHORT) {
            if (*used) return 0;
            *used = o.used;
            return MMKV_SHORT;
        }
        if (bad) return record_damaged(s, bad, NULL, 0);
        if (rc) return rc == MMKV_CORRUPT ? fail(rc, shard_at((uint32_t)shard), "the index of shard %llu is damaged",
                                                 (unsigned long long)shard) : rc;
        *used += o.used;
        *cursor = next >= 1u << FMT_DEPTH_MAX ? (shard + 1) << 32 : shard << 32 | next;
        if (next < 1u << FMT_DEPTH_MAX && *used + 256 > capacity) return 0;
        if (*used >= capacity / 2) return 0;
    }
}
