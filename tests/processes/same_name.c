/* same_name.c: the name of a handle, while the clock stands: see test_names.py. */
#include <stdio.h>
#include <stdlib.h>

#include "between.h"

/* same_name FILE SEED: opens a store, and prints the name of the handle; in what is random SEED is all that differs. */
int main(int argc, char **argv)
{
    mmkv_options options = { .mode = MMKV_MODE_CREATE, .shards = 1, .permissions = 0600 };
    mmkv_store *s = NULL;
    uint32_t handle = 0;
    uint64_t start = 0;
    if (argc != 3) return 2;
    mmkv_set_hash(hash, 0);
    rig_seed(strtoul(argv[2], NULL, 10));
    must(mmkv_open(argv[1], &options, &s));
    if (!wrong) must(mmkv_me(s, &handle, &start));
    if (!wrong) must(mmkv_close(s, 1));
    if (wrong) puts(wrong);
    else printf("%u %llu\n", handle, (unsigned long long)start);
    return wrong != NULL;
}
