/* model.c: what must be in the store, and what those who go on after a death do and check. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kill.h"

struct world *world;

/* ---- keys and values ---- */

/* A new key of a shard, the first `bits` of whose place in the directory are `prefix`. */
uint32_t item_new(uint32_t shard, uint32_t bits, uint32_t prefix)
{
    static uint64_t tried;
    if (world->items == ITEMS) wrong("too many keys");
    struct item *i = &world->item[world->items];
    do {
        i->key_length = (uint32_t)snprintf(i->key, sizeof i->key, "key-%llu", (unsigned long long)++tried);
        i->hash = mmkv_hash(me.s, i->key, i->key_length);
    } while (fmt_shard_of(i->hash, me.s->shard_bits) != shard || fmt_bits_of(i->hash, me.s->shard_bits) >> (FMT_DEPTH_MAX - bits) != prefix);
    i->shard = shard;
    return world->items++;
}

size_t value_make(uint32_t k, uint64_t version, uint8_t *value)
{
    size_t length = (uint32_t)version;
    uint64_t x = version * 0x9e3779b97f4a7c15ull + k;
    for (size_t n = 0; n < length; n += 8) {
        x = x * 6364136223846793005ull + 1442695040888963407ull;
        memcpy(value + n, &x, length - n < 8 ? length - n : 8);
    }
    return length;
}

/* ---- operations ---- */

void begin_put(uint32_t k, uint32_t length)
{
    world->item[k].after = ++world->serial << 32 | length;
}

void begin_delete(uint32_t k)
{
    world->item[k].after = 0;
}

void ended(uint32_t k, bool done)
{
    struct item *i = &world->item[k];
    if (done) i->before = i->after;
    else i->after = i->before;
}

static uint8_t *buffer(void)
{
    static uint8_t *bytes;
    if (!bytes && !(bytes = malloc(2 * VALUE_MAX))) abort();
    return bytes;
}

int put(uint32_t k, uint32_t length, unsigned flags)
{
    struct item *i = &world->item[k];
    begin_put(k, length);
    value_make(k, i->after, buffer());
    int rc = mmkv_put(me.s, i->hash, i->key, i->key_length, buffer(), length, flags);
    ended(k, !rc);
    return rc;
}

/* `pop`: with its value. */
int delete(uint32_t k, bool pop)
{
    struct item *i = &world->item[k];
    size_t got = 0;
    begin_delete(k);
    int rc = mmkv_delete(me.s, i->hash, i->key, i->key_length, pop ? buffer() + VALUE_MAX : NULL, VALUE_MAX, pop ? &got : NULL, 0);
    if (!rc && pop && (got != value_make(k, i->before, buffer()) || memcmp(buffer(), buffer() + VALUE_MAX, got)))
        wrong("what was popped is not what was put");
    ended(k, !rc);
    return rc;
}

void swap(uint32_t k, uint32_t length)
{
    struct item *i = &world->item[k];
    int done = 0;
    if (length) begin_put(k, length);
    else begin_delete(k);
    uint8_t *old = buffer(), *new = old + VALUE_MAX;
    if (i->before) value_make(k, i->before, old);
    if (length) value_make(k, i->after, new);
    int rc = mmkv_swap(me.s, i->hash, i->key, i->key_length, i->before ? old : NULL, (uint32_t)i->before, length ? new : NULL, length, 0, &done);
    if (rc || !done) wrong("swap: code %d, %d done, %s", rc, done, mmkv_failure_get()->text);
    ended(k, true);
}

void incr(uint32_t k)
{
    struct item *i = &world->item[k];
    int64_t old = 0, new, delta, result = 0;
    if (i->before) value_make(k, i->before, (uint8_t *)&old);
    do {
        begin_put(k, sizeof new);
        value_make(k, i->after, (uint8_t *)&new);
    } while (__builtin_sub_overflow(new, old, &delta));
    int rc = mmkv_incr(me.s, i->hash, i->key, i->key_length, delta, 0, 0, &result);
    if (rc || result != new) wrong("incr: code %d, %s", rc, mmkv_failure_get()->text);
    ended(k, true);
}

static mmkv_item item_of(uint32_t k, uint64_t version)
{
    const struct item *i = &world->item[k];
    uint8_t *value = version ? malloc((uint32_t)version + 8) : NULL;
    if (version && !value) abort();
    if (version) value_make(k, version, value);
    return (mmkv_item){ .hash = i->hash, .key = i->key, .key_length = i->key_length, .value = value, .value_length = (uint32_t)version };
}

/* The transaction that the scenario has chosen: it has read what is there. */
int commit(void)
{
    mmkv_item reads[CHANGES], writes[CHANGES];
    for (uint32_t i = 0; i < world->reads; i++) reads[i] = item_of(world->read[i], world->item[world->read[i]].before);
    for (uint32_t i = 0; i < world->changes; i++) {
        uint32_t k = world->change[i];
        world->item[k].together = true;
        if (world->change_length[i]) begin_put(k, world->change_length[i]);
        else begin_delete(k);
        writes[i] = item_of(k, world->item[k].after);
    }
    int rc = mmkv_commit(me.s, reads, world->reads, writes, world->changes, 0);
    for (uint32_t i = 0; i < world->changes; i++) {
        ended(world->change[i], !rc);
        free((void *)(uintptr_t)writes[i].value);
    }
    for (uint32_t i = 0; i < world->reads; i++) free((void *)(uintptr_t)reads[i].value);
    return rc;
}

static void must(int rc, const char *what)
{
    if (rc) wrong("%s: code %d, %s", what, rc, mmkv_failure_get()->text);
}

void sync_all(void)
{
    uint64_t epoch = 0;
    int rc;
    for (int tries = 0; (rc = mmkv_sync(me.s, 1, &epoch)) == MMKV_INTERRUPTED && tries < 10; tries++) {}
    must(rc, "sync");
}

/* ---- reading ---- */

/* Does it hold this version? */
static bool holds(uint32_t k, uint64_t version, int rc, size_t length)
{
    if (rc == MMKV_NOT_FOUND) return !version;
    return version && length == (uint32_t)version && value_make(k, version, buffer()) == length
        && !memcmp(buffer(), buffer() + VALUE_MAX, length);
}

static int get(uint32_t k, unsigned flags, size_t *length)
{
    const struct item *i = &world->item[k];
    return mmkv_get(me.s, i->hash, i->key, i->key_length, buffer() + VALUE_MAX, VALUE_MAX, length, flags);
}

/* What is seen now, without a lock, is done; of a transaction all or nothing. `all`: also at keys to which nothing is happening. */
void look(bool all)
{
    uint32_t looked = 0, old = 0, new = 0;
    for (uint32_t k = 0; k < world->items && (all || looked < 16) && me.s; k++) {
        struct item *i = &world->item[k];
        size_t length = 0;
        if (i->before == i->after && !all) continue;
        looked++;
        int rc = get(k, MMKV_NO_WAIT, &length);
        if (rc == MMKV_WOULD_BLOCK) continue;
        bool before = holds(k, i->before, rc, length);
        old += before && i->together && i->before != i->after;
        if (before && !i->seen) continue;
        if (!holds(k, i->after, rc, length)) wrong("key %u, read without a lock: code %d, neither old nor new", k, rc);
        i->seen = i->before != i->after;
        new += i->together && i->seen;
    }
    if (old && new) wrong("of a transaction %u keys are seen as they were, %u as they are to be", old, new);
}

/* Find out what became of an operation whose process was killed. */
void resolve(uint32_t k)
{
    struct item *i = &world->item[k];
    size_t length = 0;
    int rc = get(k, 0, &length);
    if (rc && rc != MMKV_NOT_FOUND) wrong("get of key %u: code %d, %s", k, rc, mmkv_failure_get()->text);
    bool done = i->before != i->after && holds(k, i->after, rc, length);
    if (!done && !holds(k, i->before, rc, length))
        wrong("key %u has %s, not version %llx or %llx", k, rc ? "no value" : "another value", (unsigned long long)i->before,
              (unsigned long long)i->after);
    if (i->before == i->after) return;
    if (i->seen && !done) wrong("key %u: a change that was seen has been undone", k);
    if (i->together && i->before != i->after) {
        if (world->fate == (done ? NOT_HAPPENED : HAPPENED)) wrong("key %u: a transaction has half happened", k);
        world->fate = done ? HAPPENED : NOT_HAPPENED;
    }
    i->seen = false;
    ended(k, done);
}

void read_all(void)
{
    uint64_t counted = 0, expected = 0;
    for (uint32_t k = 0; k < world->items; k++) {
        resolve(k);
        expected += world->item[k].before != 0;
    }
    must(mmkv_count(me.s, &counted), "count");
    if (counted != expected) wrong("%llu records, not %llu", (unsigned long long)counted, (unsigned long long)expected);
}

static void problem(void *context, const char *kind, const void *key, size_t key_length, uint64_t offset, const char *text)
{
    (void)context; (void)key; (void)key_length;
    wrong("verify: %s at offset %llu: %s", kind, (unsigned long long)offset, text);
}

void verify_all(void)
{
    uint64_t records;
    must(mmkv_verify(me.s, NULL, problem, NULL, &records), "verify");
}

/* ---- going on ---- */

/* Put or delete one of the keys that are for this. */
static void toggle(uint32_t k, uint32_t length, const char *what)
{
    if (world->item[k].before != world->item[k].after) resolve(k);
    must(world->item[k].before && rig_random(2) ? delete(k, rig_random(2)) : put(k, length, 0), what);
}

/* What the survivor does next: another operation comes first in each chain. No call may wait for more than it takes to
 * find that the owner of a lock is dead. */
void go_on(uint32_t order)
{
    enum { STEPS = 6, NAPS_MS = 200 };
    uint32_t own = world->item[world->target].shard, deaths = world->deaths;
    for (uint32_t n = 0; n < STEPS; n++) {
        uint64_t before = rig_slept_ns();
        uint32_t step = (order + n) % STEPS;
        if (step == 0) read_all();
        else if (step == 1) toggle(world->extra[own], 20 + rig_random(200), "a write to the same shard");
        else if (step == 2) for (uint32_t i = 0; i < me.s->shard_count; i++) toggle(world->extra[i], 20 + rig_random(200), "a write");
        else if (step == 3) sync_all();
        else if (step == 4) verify_all();
        else toggle(world->large, 20000 + rig_random(60000), "a write of a large value");
        uint64_t slept_ms = (rig_slept_ns() - before) / 1000000;
        if (slept_ms > NAPS_MS * deaths) wrong("step %u waited for %llu ms", step, (unsigned long long)slept_ms);
    }
    read_all();
}

/* Nothing is lost for good: the dead ones' slots and words are empty, and a store that is emptied has all its pages free. */
void exact(void)
{
    const struct fmt_allocator *p = allocator_of(me.s);
    uint64_t pages = 0;
    struct zone zone;
    for (uint32_t i = 0; i < FMT_PROCESSES; i++) {
        const struct fmt_process *process = process_of(me.s, i);
        if (process->state && i != me.s->slot && !slot_alive(me.s, i)) wrong("process slot %u of a dead process is still taken", i);
        for (int j = 0; j < 4; j++)
            if (process->reserved_extent[j]) wrong("process slot %u still has an extent of a dead process", i);
    }
    for (uint32_t k = 0; k < world->items; k++) begin_delete(k);
    must(mmkv_clear(me.s), "clear");
    for (uint32_t k = 0; k < world->items; k++) ended(k, true);
    sync_all();
    for (uint32_t i = 0; i < me.s->shard_count; i++) {
        const struct fmt_shard *sh = shard_of(me.s, i);
        for (uint32_t j = 0; j < FMT_SHARD_RESERVES; j++) if (sh->reserve[j]) wrong("shard %u keeps an extent that it reserved", i);
        for (uint32_t j = 0; j < FMT_SHARD_RELEASES; j++) if (sh->release[j]) wrong("shard %u keeps an extent that it released", i);
    }
    if (p->harvesting) wrong("the allocator keeps an extent that it collected");
    for (uint64_t i = 0; i < p->zone_count; i++) {
        must(zone_get(me.s, i, &zone), "zone");
        pages += zone.pages - zone.first;
    }
    if (p->free_pages != pages || p->waiting_pages)
        wrong("an empty store has %llu of %llu pages free, and %llu waiting", (unsigned long long)p->free_pages,
              (unsigned long long)pages, (unsigned long long)p->waiting_pages);
}
