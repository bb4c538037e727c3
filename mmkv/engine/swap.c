/* swap.c: operations that change a key if it is what the caller thinks it is. */
#include "engine.h"

enum { SWAP_TRIES = 32 };        /* of a counter, before one that holds the GIL is told to come back without it */

/* One attempt to exchange the expected value for the draft or, without one, for none. */
static int swap_once(mmkv_store *s, uint64_t hash, const void *key, size_t key_length, const void *expected,
                     size_t expected_length, struct draft *d, unsigned flags, bool *same)
{
    struct op op;
    struct place p, compared = { 0 };
    uint64_t link = 0;
    int rc;
    *same = true;
    /* With no lock held: long comparisons, and with verify_reads the checksum, which may be Python's. */
    if (expected_length > COPY_MAX_UNDER_LOCK || unlikely(reads_checked(s)))
        rc = read_same(s, hash, key, key_length, expected, expected_length, same, flags, &compared, &link);
    else rc = 0;
    if (rc == MMKV_NOT_FOUND) *same = false;
    if (rc == MMKV_NOT_FOUND || (!rc && !*same)) return 0;
    if (rc || (rc = shard_lock(s, fmt_shard_of(hash, s->shard_bits), &op, flags | INTERRUPTIBLE))) return rc;
    rc = expected_there(&op, hash, key, key_length, expected, expected_length, &compared, link, &p, same);
    if (!rc && *same) {
        rc = d ? put_at(&op, d, &p, true) : remove_at(&op, hash, &p);
        if (!rc && !d) rc = shrink(&op, hash);
    }
    shard_unlock(&op);
    return rc;
}

static int swap_present(mmkv_store *s, uint64_t hash, const void *key, size_t key_length, const void *expected,
                        size_t expected_length, struct draft *d, unsigned flags, int *done)
{
    bool same;
    int rc;
    do rc = swap_once(s, hash, key, key_length, expected, expected_length, d, flags, &same);
    while (rc == MMKV_WOULD_BLOCK && !(flags & MMKV_NO_WAIT));
    *done = !rc && same;
    return rc;
}

/* Absent for absent changes nothing; *done says whether it is. */
static int swap_nothing(mmkv_store *s, uint64_t hash, const void *key, size_t key_length, unsigned flags, int *done)
{
    int rc = shard_get(s, hash, key, key_length, NULL, 0, NULL, flags);
    *done = rc == MMKV_NOT_FOUND;
    return *done ? 0 : rc;
}

int shard_swap(mmkv_store *s, uint64_t hash, const void *key, size_t key_length, const void *expected, size_t expected_length,
               const void *value, size_t value_length, unsigned flags, int *done)
{
    struct draft d;
    int rc = read_only(s), rc2;
    *done = 0;
    if (unlikely(rc)) return rc;
    if (!expected && !value) return swap_nothing(s, hash, key, key_length, flags, done);
    if (!expected) {
        rc = shard_put(s, hash, key, key_length, value, value_length, flags | MMKV_ADD);
        *done = !rc;
        return rc == MMKV_EXISTS ? 0 : rc;
    }
    if (key_length > FMT_KEY_MAX) return 0;
    if ((flags & MMKV_NO_WAIT) && expected_length > COPY_MAX_UNDER_LOCK) return MMKV_WOULD_BLOCK;
    if (!value) {
        if (unlikely((rc = key_ready(s, hash, key, key_length, flags)))) return rc;
        return swap_present(s, hash, key, key_length, expected, expected_length, NULL, flags, done);
    }
    if (likely(!(rc = draft_make(s, &d, hash, key, key_length, value, value_length, flags))))
        rc = swap_present(s, hash, key, key_length, expected, expected_length, &d, flags, done);
    rc2 = draft_drop(s, &d, *done, rc, flags);
    return unlikely(rc2) ? rc2 : rc;
}

/* ---- counters ---- */

static int64_t number_of(const uint8_t bytes[8])
{
    int64_t number;
    memcpy(&number, bytes, 8); /* little-endian, as all that the format allows (format.h) */
    return number;
}

/* Read and exchange until nobody was faster. The new record is hashed between the two, with no lock held; of those who
 * compete one always succeeds. */
int shard_incr(mmkv_store *s, uint64_t hash, const void *key, size_t key_length, int64_t delta, int64_t initial, unsigned flags,
               int64_t *result)
{
    uint8_t old[8], new_[8];
    size_t length;
    int done = 0, rc = read_only(s);
    for (int tries = 0; !rc && !done; tries++) {
        if (tries >= SWAP_TRIES && flags & MMKV_NO_WAIT) return MMKV_WOULD_BLOCK;
        rc = shard_get(s, hash, key, key_length, old, sizeof old, &length, flags);
        bool absent = rc == MMKV_NOT_FOUND;
        if (rc && rc != MMKV_SHORT && !absent) return rc;
        if (!absent && length != sizeof old)
            return fail(MMKV_NOT_A_NUMBER, 0, "a counter is 8 bytes long, and this value has %zu", length);
        int64_t now = absent ? initial : number_of(old);
        if (__builtin_add_overflow(now, delta, result))
            return fail(MMKV_RANGE, 0, "%lld and %lld make a number beyond 64 bits", (long long)now, (long long)delta);
        memcpy(new_, result, sizeof new_);
        rc = shard_swap(s, hash, key, key_length, absent ? NULL : old, sizeof old, new_, sizeof new_, flags, &done);
    }
    return rc;
}
