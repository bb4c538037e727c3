/* reused.c: verify() looks at a dead chunk that the last checkpoint has; meanwhile the next one becomes durable, and the
 * chunk's page is somebody's value: see test_verify_beside_writers.py. */
#include <stdio.h>
#include <string.h>

#include "between.h"

enum { RECORDS = 120, OF_FIRST_CHUNK = 50, LARGE = 3900 };

static mmkv_store *first, *second;
static uint64_t dead_chunk, value_key;
static bool armed, reused;
static uint8_t value[LARGE];

/* The hash of the first of the chunk's records is asked for. */
static uint64_t acting_hash(const void *data, size_t length, uint64_t seed)
{
    uint64_t offset;
    struct view v;
    if (armed && map_holds(first, data, &offset) && offset / FMT_PAGE == dead_chunk / FMT_PAGE) {
        armed = false;
        store_release(&control_of(first)->durable, load(&control_of(first)->durable) + 1); /* the leader has flushed */
        must(GUARDED(second, pages_settle(second)));
        must(mmkv_put(KEY(second, value_key), value, sizeof value, 0));
        reused = record_view(second, dead_chunk, &v) && v.value_length == sizeof value;
    }
    return hash(data, length, seed);
}

static void found(void *context, const char *kind, const void *name, size_t name_length, uint64_t offset, const char *text)
{
    (void)context, (void)name, (void)name_length, (void)offset, (void)text;
    if (!wrong && strcmp(kind, "control")) wrong = "what lies where the chunk was is taken for its records"; /* the leader is not one */
}

/* A key of a shard, from `from` on. */
static uint64_t key_of_shard(uint32_t shard, uint64_t from)
{
    while (fmt_shard_of(mmkv_hash(first, &from, sizeof from), 1) != shard) from++;
    return from;
}

static void use(void)
{
    uint64_t epoch = 0, records, keys[RECORDS], k = 1;
    const uint8_t small[32] = "a small value";
    value_key = key_of_shard(1, 0);
    for (int i = 0; i < RECORDS; i++, k++) {
        keys[i] = k = key_of_shard(0, k);
        must(mmkv_put(KEY(first, k), small, sizeof small, 0));
    }
    k = key_of_shard(1, value_key + 1); /* the other shard's table is there */
    must(mmkv_put(KEY(first, k), small, sizeof small, 0));
    must(mmkv_sync(first, 1, &epoch));
    for (int i = 0; i < OF_FIRST_CHUNK; i++) must(mmkv_delete(KEY(first, keys[i]), NULL, 0, NULL, 0));
    dead_chunk = allocator_of(first)->waiting_head << FMT_PAGE_SHIFT;
    store_release(&control_of(first)->epoch, load(&control_of(first)->epoch) + 1); /* a leader has made its cut, and flushes */
    /* Numbers, as an array of them has: born at the checkpoint, and dead since, they seem. */
    for (size_t at_ = 80; at_ + 16 <= 20 + sizeof value; at_ += 16) {
        const uint64_t words[2] = { 1, 1000 };
        memcpy(value + at_ - 20, words, 16);
    }
    armed = dead_chunk != 0;
    must(mmkv_verify(first, NULL, found, NULL, &records));
    if (!reused && !wrong) wrong = "the chunk's page was not used again";
}

/* reused FILE: prints what is wrong, and is 1. */
int main(int argc, char **argv)
{
    mmkv_options options = { .mode = MMKV_MODE_NEW, .shards = 2, .permissions = 0600 };
    if (argc != 2) return 2;
    mmkv_set_hash(acting_hash, 0);
    rig_seed(1);
    must(mmkv_open(argv[1], &options, &first));
    options.mode = MMKV_MODE_WRITE;
    if (!wrong) must(mmkv_open(argv[1], &options, &second));
    if (!wrong) use();
    if (wrong) puts(wrong);
    return wrong != NULL;
}
