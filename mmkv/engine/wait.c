/* wait.c: sleeping until a key's value changes.
 *
 * `waiting` of a shard has 24 bits, to which keys belong by their hash, and a count of the wakes. Who waits sets the key's
 * bit, then looks at the value, and if it is the old one sleeps on the word. Who has changed a key lets the lock go, then
 * looks at the word; only if the key's bit is set it clears it, counts, and wakes those who sleep for it. Without the count
 * one about to sleep could take a bit that somebody set after the wake for its own. Steps of the one who changes, and what
 * a SIGKILL after each leaves:
 *  1. commit, version even. Killed before the look, or before the wake: who sleeps looks by itself every WAIT_LOOK_MS.
 *  2. the bit cleared. The same.
 *  3. woken: nothing is left to do.
 * Who stops waiting, or dies, leaves the bit: the next change of such a key makes one call to the kernel for nothing. */
#include "engine.h"

/* The caller's key has changed, and somebody waits for one of its kind. */
void shard_wake(struct fmt_lockable *l, uint32_t changed)
{
    uint32_t seen = load32(&l->waiting);
    while (!__atomic_compare_exchange_n(&l->waiting, &seen, (seen & ~changed) + (1u << FMT_WAITING_BITS), false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_RELAXED)) {}
    os_wake_bits(&l->waiting, changed);
}

/* Is the value another one than `old` (NULL: absent)? 0, or MMKV_WOULD_BLOCK if it is not. */
static int differs(mmkv_store *s, uint64_t hash, const void *key, size_t key_length, const void *old, size_t old_length,
                   mmkv_waiting *w)
{
    struct place p = { .record = w->record };
    uint64_t link;
    bool same = false;
    int rc;
    if (!old) {
        rc = shard_get(s, hash, key, key_length, NULL, 0, NULL, 0);
        return rc == MMKV_NOT_FOUND ? MMKV_WOULD_BLOCK : rc;
    }
    /* A long value is compared once, not at every look. */
    struct fmt_shard *sh = shard_of(s, fmt_shard_of(hash, s->shard_bits));
    if (w->link && still_there(s, sh, hash, key, key_length, &p, w->link)) return MMKV_WOULD_BLOCK;
    rc = read_same(s, hash, key, key_length, old, old_length, &same, 0, &p, &link);
    if (rc) return rc == MMKV_NOT_FOUND ? 0 : rc;
    w->record = p.record;
    w->link = same ? link : 0;
    return same ? MMKV_WOULD_BLOCK : 0;
}

static int leave_word(struct fmt_lockable *l, uint32_t bit, uint32_t *seen)
{
    *seen = __atomic_or_fetch(&l->waiting, bit, __ATOMIC_SEQ_CST);
    return 0;
}

/* Look and, if nothing has changed, leave word, look again, and sleep once. Who finds at the first look what he waits for,
 * as those who were woken do, leaves no word that the next writer would heed for nothing. */
int shard_wait(mmkv_store *s, uint64_t hash, const void *key, size_t key_length, const void *old, size_t old_length,
               mmkv_waiting *w)
{
    struct fmt_lockable *l = &shard_of(s, fmt_shard_of(hash, s->shard_bits))->l;
    uint32_t bit = fmt_waiting_of(hash);
    uint64_t now = os_elapsed_ns(), nap = WAIT_LOOK_MS * 1000000ull;
    int rc = read_only(s);
    if (rc) return rc;
    if (!w->deadline_ns) w->deadline_ns = w->timeout_ns < UINT64_MAX - now ? now + w->timeout_ns : UINT64_MAX;
    if ((rc = differs(s, hash, key, key_length, old, old_length, w)) != MMKV_WOULD_BLOCK) return rc;
    uint32_t seen = 0;
    if ((rc = STORING(s, leave_word(l, bit, &seen)))) return rc; /* a shielded map is not open while we sleep */
    atomic_thread_fence(memory_order_seq_cst); /* pairs with fence_after_unlock: one of the two sees the other */
    if ((rc = differs(s, hash, key, key_length, old, old_length, w)) != MMKV_WOULD_BLOCK) return rc;
    now = os_elapsed_ns();
    if (now >= w->deadline_ns) return MMKV_TIMEOUT;
    if (nap > w->deadline_ns - now) nap = w->deadline_ns - now;
    rc = os_wait_bits(&l->waiting, seen, bit, nap);
    return rc ? rc : MMKV_WOULD_BLOCK;
}
