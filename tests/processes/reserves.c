/* reserves.c: pages that a split of an index table could not give back, as another has the allocator: see test_stopped.py. */
#include "between.h"

enum { KEYS_MOST = 4000, LARGE = 20000 };

static mmkv_store *first, *second;
static uint64_t keys;            /* 1 to so many are there */
static uint64_t large = 1ull << 40;
static enum { AT_RELEASE, AT_SPLIT } when;

static void let_go(void) { store32(&allocator_of(first)->l.lock, 0); }

/* The second one has the allocator before a dead extent can be given back; or when a split has taken both its pages, and is to
 * give back that extent first. It keeps it as one does who is stopped. */
static void before_store(void *file, const void *address, uint64_t offset, uint64_t length)
{
    const struct fmt_shard *sh = shard_of(first, 0);
    uint32_t *lock = &allocator_of(first)->l.lock;
    (void)file, (void)offset, (void)length;
    bool split = address == lock && sh->release[0] && sh->reserve[1] && !load32(lock);
    if (when == AT_SPLIT ? split : address == sh->release) store32(lock, second->me);
}

/* Put keys until a split could give back neither its pages nor the extent that is there to be given back each time. */
static void split_in_vain(void)
{
    static const uint8_t value[LARGE];
    int rc = 0;
    for (; !rc && keys < KEYS_MOST; keys++) {
        uint64_t key = keys;
        bool two = shard_of(first, 0)->tables == 2;
        if (two) {
            must(mmkv_put(KEY(first, large), value, LARGE, 0));
            rig_hooks.store = before_store;
            when = AT_RELEASE;
            must(mmkv_delete(KEY(first, large), NULL, 0, NULL, 0));
            let_go();
            when = AT_SPLIT;
        }
        rc = mmkv_put(KEY(first, key), value, 8, 0);
        rig_hooks.store = NULL;
        let_go();
    }
    if (rc != MMKV_LOCK_TIMEOUT || !shard_of(first, 0)->reserve[1]) problem(NULL, NULL, NULL, 0, 0, "no split was in vain");
}

static void use(void)
{
    uint64_t records, key;
    split_in_vain();
    for (key = 0; key < keys; key++)
        if (mmkv_delete(KEY(first, key), NULL, 0, NULL, 0) == MMKV_CORRUPT) must(MMKV_CORRUPT);
    must(mmkv_verify(first, NULL, problem, NULL, &records));
}

/* reserves FILE: prints what is wrong, and is 1. */
int main(int argc, char **argv)
{
    mmkv_options options = { .mode = MMKV_MODE_NEW, .shards = 1, .permissions = 0600, .lock_timeout_ms = 100 };
    if (argc != 2) return 2;
    rig_simulate_waiting();
    return with_two(argv[1], options, &first, &second, use);
}
