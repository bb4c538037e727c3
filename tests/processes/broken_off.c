/* broken_off.c: waits for a lock that are broken off, for signals to be looked at, and taken up again: see test_interrupts.py. */
#include "between.h"

enum { TIMEOUT_MS = 1000, TRIES = 40, LARGE = 20000, SECOND_NS = 1000000000 };

static mmkv_store *first, *second;
static uint64_t key[2];          /* one of each shard */
static bool busy, asked, slow;

static uint32_t *lock_of(uint32_t shard) { return &shard_of(first, shard)->l.lock; }
static void hold(uint32_t shard) { store32(lock_of(shard), second->me); } /* as one does who is stopped, or slow */
static void let_go(uint32_t shard) { store32(lock_of(shard), 0); }

/* `busy`: the lock of shard 0 is taken each time, and let go when somebody is about to wait for it. `slow`: a large
 * value takes its time. */
static void before_store(void *file, const void *address, uint64_t offset, uint64_t length)
{
    (void)file, (void)length;
    if (slow && offset == load(process_of(first, first->slot)->reserved_extent)) {
        slow = false;
        rig_pass_ns(2ull * SECOND_NS);
    }
    if (!busy || address != lock_of(0) || load32(address) != second->me) return;
    if (asked) let_go(0);
    asked = !asked;
}

static int commit(void)
{
    static const uint8_t value[8];
    mmkv_item items[2];
    for (uint32_t i = 0; i < 2; i++)
        items[i] = (mmkv_item){ .key = &key[i], .key_length = sizeof key[i], .value = value, .value_length = sizeof value,
                                .hash = mmkv_hash(first, &key[i], sizeof key[i]) };
    if (busy) hold(0);
    return mmkv_commit(first, NULL, 0, items, 2, 0);
}

static int put(size_t length)
{
    static const uint8_t value[LARGE];
    slow = length == LARGE;
    return mmkv_put(KEY(first, key[1]), value, length, 0);
}

static int put_short(void) { return put(8); }
static int put_slowly(void) { return put(LARGE); }

/* Shard 1 is never let go: whoever wants it is told, after not much more than the time that was agreed on. */
static void in_time(int (*call)(void), const char *otherwise)
{
    int rc = MMKV_INTERRUPTED;
    hold(1);
    for (int tries = 0; tries < TRIES && rc == MMKV_INTERRUPTED; tries++) rc = call();
    let_go(1);
    if (rc != MMKV_LOCK_TIMEOUT && !wrong) wrong = otherwise;
    must(call());
    rig_pass_ns(10ull * SECOND_NS);
}

/* A wait that has come to its end is past, and the next one is another. */
static void each_by_itself(void)
{
    hold(1);
    for (int tries = 0; tries < 4; tries++)
        if (put_short() != MMKV_INTERRUPTED && !wrong) wrong = "a wait was not broken off";
    let_go(1);
    must(put_short());
    hold(1);
    for (int tries = 0; tries < 4; tries++)
        if (put_short() != MMKV_INTERRUPTED && !wrong) wrong = "a lock that had just been had was said to be held for long";
    let_go(1);
    must(put_short());
}

static void use(void)
{
    for (uint32_t i = 0; i < 2; i++)
        while (fmt_shard_of(mmkv_hash(first, &key[i], sizeof key[i]), first->shard_bits) != i) key[i]++;
    must(put_short());
    rig_hooks.store = before_store;
    in_time(put_short, "a put was not told of a lock that is not let go");
    busy = true;
    in_time(commit, "a transaction was not told of a lock that is not let go, having waited for another one too");
    busy = false;
    in_time(put_slowly, "a put that takes long was not told of a lock that is not let go");
    each_by_itself();
    rig_hooks.store = NULL;
}

/* broken_off FILE: prints what is wrong, and is 1. */
int main(int argc, char **argv)
{
    mmkv_options options = { .mode = MMKV_MODE_NEW, .shards = 2, .permissions = 0600, .lock_timeout_ms = TIMEOUT_MS };
    if (argc != 2) return 2;
    rig_simulate_waiting();
    return with_two(argv[1], options, &first, &second, use);
}
