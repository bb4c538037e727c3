/* trimmed.c: empty chunks that cannot be given back, since another has the allocator: see test_stopped.py. */
#include "between.h"

enum { SIZES = 8 };

static mmkv_store *first, *second;

/* A chunk is about to be released: the second one takes the allocator's lock, and keeps it as one does who is stopped. */
static void before_store(void *file, const void *address, uint64_t offset, uint64_t length)
{
    const uint64_t *word = address, *first_word = shard_of(first, 0)->release;
    (void)file, (void)offset, (void)length;
    if (word >= first_word && word < first_word + FMT_SHARD_RELEASES) store32(&allocator_of(first)->l.lock, second->me);
}

/* A shard that keeps an empty chunk of each of several classes. */
static void leave_empty_chunks(void)
{
    static const uint8_t value[SIZES * 16];
    for (uint64_t i = 1; i <= SIZES; i++) {
        must(mmkv_put(KEY(first, i), value, 16 * i - 8, 0));
        must(mmkv_delete(KEY(first, i), NULL, 0, NULL, 0));
    }
}

static void use(void)
{
    uint64_t records, epoch;
    leave_empty_chunks();
    rig_hooks.store = before_store;
    for (int i = 0; i < SIZES; i++) {
        int rc = (epoch = 0, MMKV_INTERRUPTED);
        while (rc == MMKV_INTERRUPTED) rc = mmkv_sync(first, 1, &epoch);
        if (rc && rc != MMKV_LOCK_TIMEOUT) problem(NULL, NULL, NULL, 0, 0, mmkv_failure_get()->text);
        store32(&allocator_of(first)->l.lock, 0);
    }
    rig_hooks.store = NULL;
    must(mmkv_sync(first, 1, (epoch = 0, &epoch)));
    must(mmkv_verify(first, NULL, problem, NULL, &records));
}

/* trimmed FILE: prints what is wrong, and is 1. */
int main(int argc, char **argv)
{
    mmkv_options options = { .mode = MMKV_MODE_NEW, .shards = 1, .permissions = 0600 };
    if (argc != 2) return 2;
    rig_simulate_waiting();
    return with_two(argv[1], options, &first, &second, use);
}
