/* published.c: what the descriptor of an extent says until it is published: see test_verify_beside_writers.py. */
#include <stdio.h>

#include "between.h"

enum { KEYS = 200, LARGE = 50000 };

static mmkv_store *store_;
static uint32_t publications, deaths;

/* The extent whose `dead` is about to be stored to has been alive, or says that it is not published. */
static void before_store(void *file, const void *address, uint64_t offset, uint64_t length)
{
    (void)file, (void)length;
    for (uint64_t i = 0; i < load(&allocator_of(store_)->zone_count); i++) {
        struct zone zone;
        if (zone_get(store_, i, &zone) || !zone.extents) continue;
        uint64_t first = offset_of(store_, zone.extents), in = offset - first;
        if (offset < first || in >= zone.pages * sizeof *zone.extents || in % sizeof *zone.extents != offsetof(struct fmt_extent, dead)) continue;
        uint64_t dead = load(address);
        if (!zone.extents[in / sizeof *zone.extents].born) continue; /* the allocator gives it */
        if (dead == FMT_UNPUBLISHED) publications++;
        else if (dead == fmt_stamp(0, offset)) deaths++;
        else if (!wrong) wrong = "an extent is published that did not say that it is not";
    }
}

static void use(void)
{
    static const uint8_t value[LARGE];
    uint64_t epoch = 0;
    rig_hooks.store = before_store;
    for (int round = 0; round < 3; round++) {
        for (uint64_t i = 0; i < KEYS; i++) must(mmkv_put(KEY(store_, i), value, i % 3 ? i : LARGE, 0));
        must(mmkv_sync(store_, 1, &epoch));
        for (uint64_t i = 0; i < KEYS; i += 2) must(mmkv_delete(KEY(store_, i), NULL, 0, NULL, 0));
    }
    rig_hooks.store = NULL;
    if ((!publications || !deaths) && !wrong) wrong = "nothing was published, or nothing died";
}

/* published FILE: prints what is wrong, and is 1. */
int main(int argc, char **argv)
{
    mmkv_options options = { .mode = MMKV_MODE_NEW, .shards = 2, .permissions = 0600 };
    if (argc != 2) return 2;
    mmkv_set_hash(hash, 0);
    rig_seed(1);
    must(mmkv_open(argv[1], &options, &store_));
    if (!wrong) {
        rig_watch(argv[1], store_);
        use();
        must(mmkv_close(store_, 1));
    }
    if (wrong) puts(wrong);
    return wrong != NULL;
}
