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

/* What is copied out, and how. With verify_reads also what each copy is to be held against, once it is known to be whole. */
struct copied { struct seal seal; uint64_t record; size_t at; uint32_t bits; };
struct output {
    uint8_t *buffer;
    size_t capacity, used, value_limit;
    bool with_values;
    uint32_t count;
    struct copied copied[FMT_TABLE_ENTRIES];
};

static bool has_value(const struct output *o, const struct view *v) { return o->with_values && v->value_length <= o->value_limit; }

static size_t item_size(const struct output *o, const struct view *v)
{
    return (16 + v->key_length + (has_value(o, v) ? v->value_length : 0) + 7) & ~(size_t)7;
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

static int copy_item(mmkv_store *s, const struct index_item *item, size_t stop, struct output *o)
{
    struct view v;
    if (!record_view(s, item->record, &v)) return MMKV_CORRUPT;
    uint32_t header[2] = { (uint32_t)v.key_length, 0 };
    size_t whole = item_size(o, &v), body = v.key_length + (has_value(o, &v) ? v.value_length : 0);
    if (whole > stop - o->used) return MMKV_CORRUPT; /* changed under us: the version will tell */
    if (unlikely(reads_checked(s)))
        o->copied[o->count++] = (struct copied){ .seal = v.seal, .record = item->record, .at = o->used, .bits = item->bits };
    uint8_t *to = o->buffer + o->used;
    memcpy(to, header, 8);
    memcpy(to + 8, &v.value_length, 8);
    memcpy(to + 16, v.key, body);
    memset(to + 16 + body, 0, whole - 16 - body);
    o->used += whole;
    return 0;
}

/* Copy the records of one table from position `from` on, as many steps (equal positions) as fit; *next is where to go on.
 * Called under the lock or under a version that is checked afterwards. */
static int copy_table(mmkv_store *s, uint32_t shard, uint32_t from, struct output *o, uint64_t *next)
{
    struct index_item items[FMT_TABLE_ENTRIES];
    uint64_t table;
    uint32_t depth = 0, count = 0;
    size_t total = 0;
    o->used = o->count = 0;
    int rc = index_table(s, shard_of(s, shard), from, &table, &depth);
    if (rc) return rc;
    *next = table ? ((uint64_t)(from >> (FMT_DEPTH_MAX - depth)) + 1) << (FMT_DEPTH_MAX - depth) : 1u << FMT_DEPTH_MAX;
    if (!table) return 0;
    struct fmt_table *t = table_at(s, table);
    if (!t || !table_is(t, shard_of(s, shard), shard, depth, from)) return MMKV_CORRUPT;
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
            if ((rc = copy_item(s, &items[i], stop, o))) return rc;
    }
    return 0;
}

/* With verify_reads, of what was copied, with no lock held: the record's checksum; or, when its value was not copied, the
 * hash of its key against the index. */
static int check_copied(mmkv_store *s, uint32_t shard, const struct output *o)
{
    for (uint32_t i = 0; i < o->count; i++) {
        const struct copied *c = &o->copied[i];
        const uint8_t *key = o->buffer + c->at + 16;
        uint32_t key_length;
        uint64_t value_length;
        memcpy(&key_length, o->buffer + c->at, sizeof key_length);
        memcpy(&value_length, o->buffer + c->at + 8, sizeof value_length);
        uint64_t hash = engine_hash(key, key_length, s->seed);
        int rc = 0;
        if (o->with_values && value_length <= o->value_limit)
            rc = record_copied(s, c->record, hash, key, key_length, key + key_length, value_length, &c->seal);
        else if (fmt_shard_of(hash, s->shard_bits) != shard || fmt_bits_of(hash, s->shard_bits) != c->bits)
            rc = record_damaged(s, c->record, key, key_length);
        if (rc) return rc;
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
        uint64_t shard = *cursor >> 32, from = *cursor & 0xffffffff, next = 0, version, started = 0, entered = 0;
        if (shard >= s->shard_count) return *used ? 0 : MMKV_NOT_FOUND;
        if (from >= 1u << FMT_DEPTH_MAX) return fail(MMKV_INVALID, 0, "not a cursor");
        struct fmt_shard *sh = shard_of(s, (uint32_t)shard);
        struct output o; /* not initialised as a whole: it is large */
        o.buffer = (uint8_t *)buffer + *used;
        o.capacity = capacity - *used;
        o.value_limit = value_limit;
        o.with_values = with_values != 0;
        bool done = false;
        for (int tries = 0; !done; tries++) {
            if (tries < READ_TRIES) {
                if (!read_begin(&sh->l, &version)) continue;
                rc = copy_table(s, (uint32_t)shard, (uint32_t)from, &o, &next);
                done = read_valid(&sh->l, version);
            } else if (flags & MMKV_NO_WAIT) {
                return *used ? 0 : MMKV_WOULD_BLOCK;
            } else if (s->writable) {
                struct op op;
                rc = shard_lock(s, (uint32_t)shard, &op, flags | INTERRUPTIBLE);
                if (rc) return rc == MMKV_INTERRUPTED && *used ? 0 : rc; /* what there is already must not be lost */
                rc = copy_table(s, (uint32_t)shard, (uint32_t)from, &o, &next);
                shard_unlock(&op);
                done = true;
            } else {
                if (load(&sh->failed)) return fail_unusable(s, sh);
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
        if (rc) return rc == MMKV_CORRUPT ? fail(rc, shard_at((uint32_t)shard), "the index of shard %llu is damaged",
                                                 (unsigned long long)shard) : rc;
        if (unlikely(reads_checked(s)) && (rc = check_copied(s, (uint32_t)shard, &o))) return rc;
        *used += o.used;
        *cursor = next >= 1u << FMT_DEPTH_MAX ? (shard + 1) << 32 : shard << 32 | next;
        if (next < 1u << FMT_DEPTH_MAX && *used + 256 > capacity) return 0;
        if (*used >= capacity / 2) return 0;
    }
}
