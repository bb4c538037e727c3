/* given_back.c: two extents that are given back in another order than they died in: see test_verify_beside_writers.py. */
#include "between.h"

enum { LARGE = 50000 };

static mmkv_store *first, *second;
static uint64_t key[2];          /* one of each shard */
static bool acted;

/* The first one's record is dead, and it is about to take the allocator's lock to give its extent back. A leader begins a
 * cut, and would now wait for the first one's shard; and in the new epoch the second one's record dies and is given back. */
static void before_store(void *file, const void *address, uint64_t offset, uint64_t length)
{
    (void)file, (void)length;
    if (acted || offset != FMT_ALLOCATOR_AT + offsetof(struct fmt_allocator, l.lock) || load32(address)) return;
    if (!load(&shard_of(first, 0)->release[0])) return;
    acted = true;
    store_release(&control_of(first)->epoch, load(&control_of(first)->epoch) + 1);
    must(mmkv_delete(KEY(second, key[1]), NULL, 0, NULL, 0));
}

static void use(void)
{
    static const uint8_t value[LARGE];
    uint64_t records, epoch = 0;
    mmkv_stats stats;
    for (uint32_t i = 0; i < 2; i++) {
        while (fmt_shard_of(mmkv_hash(first, &key[i], sizeof key[i]), first->shard_bits) != i) key[i]++;
        must(mmkv_put(KEY(first, key[i]), value, LARGE, 0));
    }
    must(mmkv_sync(first, 1, &epoch));
    rig_hooks.store = before_store;
    must(mmkv_delete(KEY(first, key[0]), NULL, 0, NULL, 0));
    rig_hooks.store = NULL;
    if (!acted && !wrong) wrong = "the extent was not given back";
    must(mmkv_verify(second, NULL, problem, NULL, &records));
    for (int i = 0; i < 2; i++) must(mmkv_sync(first, 1, (epoch = 0, &epoch)));
    must(mmkv_stats_get(first, &stats));
    if (stats.waiting_bytes && !wrong) wrong = "an extent still waits";
    must(mmkv_verify(first, NULL, problem, NULL, &records));
}

/* given_back FILE: prints what is wrong, and is 1. */
int main(int argc, char **argv)
{
    mmkv_options options = { .mode = MMKV_MODE_NEW, .shards = 2, .permissions = 0600 };
    if (argc != 2) return 2;
    return with_two(argv[1], options, &first, &second, use);
}
