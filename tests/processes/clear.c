/* clear.c: what others put while somebody clears the store, between two of his steps: see test_clear.py. */
#include <stdio.h>
#include <stdlib.h>

#include "between.h"

enum { KEYS = 6000, TABLES_MIN = 8 };

static mmkv_store *clearing, *other;
static uint64_t first;           /* the key that comes first in the order of the hash */
static uint32_t turn, wanted;
static bool acting;

/* The one who clears is about to take the free lock: for the wanted time, another one is quicker. */
static void before_store(void *file, const void *address, uint64_t offset, uint64_t length)
{
    (void)file, (void)length;
    if (!clearing || acting || offset != shard_at(0) + offsetof(struct fmt_shard, l.lock) || load32(address)) return;
    acting = true;
    if (turn++ == wanted) must(mmkv_put(KEY(other, first), "put since", 9, 0));
    acting = false;
}

/* Many tables with few keys in each: what is removed does not merge them, by its hash (`shrink` in shard.c). */
static void fill(mmkv_store *s)
{
    for (uint64_t k = 0; k < KEYS; k++) {
        must(mmkv_put(KEY(s, k), "there", 5, 0));
        if (mmkv_hash(s, &k, sizeof k) < mmkv_hash(s, &first, sizeof first)) first = k;
    }
    for (uint64_t k = 0; k < KEYS; k++)
        if (mmkv_hash(s, &k, sizeof k) & 7 && k % 4 && k != first) must(mmkv_delete(KEY(s, k), NULL, 0, NULL, 0));
    if (load(&shard_of(s, 0)->tables) < TABLES_MIN && !wrong) wrong = "too few tables";
}

/* clear FILE N: clear a store, while another puts its first key before the one who clears takes the lock for the N-th time,
 * from 0. Prints how often he took it, and how many keys there are then; or what is wrong besides, and is 1. */
int main(int argc, char **argv)
{
    mmkv_options options = { .mode = MMKV_MODE_NEW, .shards = 1, .permissions = 0600 };
    uint64_t left = 0;
    mmkv_store *s;
    if (argc != 3) return 2;
    wanted = (uint32_t)strtoul(argv[2], NULL, 10);
    mmkv_set_hash(hash, 0);
    rig_seed(1);
    must(mmkv_open(argv[1], &options, &s));
    if (!wrong) {
        rig_watch(argv[1], s);
        options.mode = MMKV_MODE_WRITE;
        must(mmkv_open(argv[1], &options, &other));
        if (!wrong) fill(s);
        rig_hooks.store = before_store;
        clearing = s;
        if (!wrong) must(mmkv_clear(s));
        clearing = NULL;
        rig_hooks.store = NULL;
        if (!wrong) must(mmkv_count(other, &left));
        must(mmkv_close(other, 0));
        must(mmkv_close(s, 0));
    }
    if (wrong) puts(wrong);
    else printf("%u %llu\n", turn, (unsigned long long)left);
    return wrong != NULL;
}
