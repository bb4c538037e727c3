/* lock.c: the lock word, taking over from the dead, and rollback.
 *
 * The word is 0 when free, else owner slot | incarnation << 12 | waiters bit. Steps, and what a SIGKILL after each leaves:
 *  1. CAS 0 -> me (acquire). Killed: the word names a dead owner; the log is empty; a taker has nothing to roll back.
 *  2. op_begin, set..., op_commit, any number of times. Killed inside: log.count > 0, the taker restores; version odd,
 *     the taker makes it even, never smaller (R4).
 *  3. exchange with 0 (release). Killed before the wake: sleepers wake by themselves within LOCK_NAP_MS. */
#include <errno.h>

#include "engine.h"

enum { HANDLER_MS = 1000 }; /* that the handler of a signal takes, at most */
enum { WAITS_MOST = 4 }; /* of one call, that are remembered */
enum { PAUSES_FIRST = 8, PAUSES_MOST = 128, PAUSES_ALL = 512 }; /* between two looks at a lock that is taken; in all */

/* Waits that signals have broken off, and that are taken up again when the handlers have run: each is one wait, by its lock. Else
 * who gets a signal every second would never be told of a lock that is not let go. A call that is made again may have to wait
 * for others first, as a transaction does for the shards before: what it has waited already counts, that in between does not. */
struct wait { const uint32_t *word; uint64_t start, end; };
static FAULT_LOCAL struct { struct wait wait[WAITS_MOST]; uint64_t end; uint32_t count; } broken_off;

static void forget(struct wait *w)
{
    memmove(w, w + 1, (size_t)(&broken_off.wait[broken_off.count] - (w + 1)) * sizeof *w);
    broken_off.count--;
}

static struct wait *wait_for(const uint32_t *word)
{
    for (uint32_t i = 0; i < broken_off.count; i++)
        if (broken_off.wait[i].word == word) return &broken_off.wait[i];
    return NULL;
}

uint64_t wait_start(const uint32_t *word)
{
    uint64_t now = os_now_ms(), start = now;
    if (now - broken_off.end >= HANDLER_MS) broken_off.count = 0;
    struct wait *w = wait_for(word);
    if (!w) return now;
    start = now - w->end < HANDLER_MS ? w->start : now - (w->end - w->start);
    forget(w);
    return start;
}

int wait_broken_off(const uint32_t *word, uint64_t start)
{
    if (broken_off.count == WAITS_MOST) forget(broken_off.wait);
    broken_off.end = os_now_ms();
    broken_off.wait[broken_off.count++] = (struct wait){ word, start, broken_off.end };
    return MMKV_INTERRUPTED;
}

/* What a call does that takes long is no part of any wait, and no reason to take none up again. */
void wait_worked(uint64_t since)
{
    if (since - broken_off.end >= HANDLER_MS) return;
    uint64_t took = os_now_ms() - since;
    broken_off.end += took;
    for (uint32_t i = 0; i < broken_off.count; i++) {
        broken_off.wait[i].start += took;
        broken_off.wait[i].end += took;
    }
}

static int took(uint32_t *word)
{
    struct wait *w = unlikely(broken_off.count) ? wait_for(word) : NULL;
    if (w) forget(w); /* that wait is over; the next one for this lock is another */
    guard_hold(word);
    return 0;
}

/* Whom to name: one who holds a shard may be waiting for one who holds the allocator. */
static uint32_t behind(mmkv_store *s, const uint32_t *word, uint32_t owner)
{
    uint32_t *allocator = &allocator_of(s)->l.lock, seen = load32(allocator);
    if (word == allocator || !(seen & FMT_LOCK_WAITERS)) return owner;
    os_wait(allocator, seen, LOCK_NAP_MS);
    return load32(allocator) == seen ? seen & FMT_LOCK_OWNER : owner;
}

/* A live process keeps a lock. */
int fail_held(mmkv_store *s, const uint32_t *word, uint32_t owner)
{
    uint64_t pid = owner < FMT_PROCESSES ? load(&process_of(s, owner)->pid) : 0;
    int rc = fail(MMKV_LOCK_TIMEOUT, offset_of(s, word),
                  "a lock has been held for more than %u ms by process %llu, which is alive", s->lock_timeout_ms,
                  (unsigned long long)pid);
    fail_pid(pid);
    return rc;
}

/* For those who may take no lock: a shard has been in the middle of a change for too long. */
int fail_half_written(mmkv_store *s, uint32_t shard)
{
    const uint32_t *word = &shard_of(s, shard)->l.lock;
    uint32_t owner = load32(word) & FMT_LOCK_OWNER;
    if (owner && slot_alive(s, owner)) return fail_held(s, word, owner);
    return fail(MMKV_LOCK_TIMEOUT, shard_at(shard), "shard %u is being written, or was left half-written by a process that died; "
                "open the store with mode \"w\" to repair it", shard);
}

/* Take a lock word. *dead, if not 0, is the slot of the previous owner, who died: the caller must settle what it left
 * before using anything. */
int lock_word(mmkv_store *s, uint32_t *word, unsigned flags, uint32_t *dead)
{
    uint32_t free_ = 0;
    int rc = may_store(s, SHIELD_LOCKS);
    *dead = 0;
    if (unlikely(rc)) return rc;
    /* acquire: pairs with the release in unlock_word */
    if (likely(__atomic_compare_exchange_n(word, &free_, s->me, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))) return took(word);
    /* Whoever takes the lock draws the lines that a change touches over to its processor, and each look at it draws one. So
     * stay away for as long as the owner needs for several changes: of one counter in constant use by two processes that
     * lets through 1.4 times as many changes, and three times where the processors share no cache (docs/performance.md). */
    for (uint32_t all = 0, pauses = PAUSES_FIRST; all < PAUSES_ALL; all += pauses) {
        if (all && pauses < PAUSES_MOST) pauses *= 4;
        for (uint32_t i = 0; i < pauses; i++) pause_a_little();
        free_ = 0;
        if (!load32(word) && __atomic_compare_exchange_n(word, &free_, s->me, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
            return took(word);
    }
    if (flags & MMKV_NO_WAIT) return MMKV_WOULD_BLOCK;
    uint64_t start = wait_start(word), entered = os_now_ms();
    for (;;) {
        uint32_t seen = load32(word);
        if (!seen) { /* others may be asleep: keep the bit */
            if (__atomic_compare_exchange_n(word, &seen, s->me | FMT_LOCK_WAITERS, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
                return took(word);
            continue;
        }
        if (!(seen & FMT_LOCK_WAITERS)) {
            if (!__atomic_compare_exchange_n(word, &seen, seen | FMT_LOCK_WAITERS, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
                continue;
            seen |= FMT_LOCK_WAITERS;
        }
        uint64_t nap_start = os_now_ms();
        bool signalled = os_wait(word, seen, LOCK_NAP_MS) != 0;
        uint64_t now = os_now_ms();
        if (load32(word) != seen) continue; /* somebody moved it: try again before asking anything */
        uint32_t owner = seen & FMT_LOCK_OWNER;
        /* Also where signals come so often that no nap is a whole one. */
        if ((signalled || now - nap_start >= LOCK_NAP_MS) && !slot_alive(s, owner)) {
            if (__atomic_compare_exchange_n(word, &seen, s->me | FMT_LOCK_WAITERS, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
                *dead = owner;
                return took(word);
            }
            continue;
        }
        if (now - start >= s->lock_timeout_ms) return fail_held(s, word, behind(s, word, owner));
        if (flags & INTERRUPTIBLE && (signalled || now - entered >= LOOK_FOR_SIGNALS_MS)) return wait_broken_off(word, start);
    }
}

/* Without its guard's knowledge. */
void lock_clear(uint32_t *word)
{
    /* release: pairs with the acquire in lock_word */
    if (unlikely(__atomic_exchange_n(word, 0, __ATOMIC_RELEASE) & FMT_LOCK_WAITERS)) os_wake(word, 1);
}

void unlock_word(mmkv_store *s, uint32_t *word)
{
    (void)s;
    lock_clear(word);
    guard_drop(word);
}

/* Nothing of the memory is to be trusted once all have left: the next open recovers. */
void distrust_memory(mmkv_store *s, int os_errno)
{
    struct fmt_control *control = control_of(s);
    store32(&control->failed, os_errno ? (uint32_t)os_errno : EIO); /* first: killed in between, this alone is enough */
    kill_fence();
    memset(control->boot_id, 0, sizeof control->boot_id);
}

/* The words of an operation cannot all be put back: its shard, or the allocator, is failed. The version stays odd, so that
 * readers come for the lock too and are told; the identity goes, so that the next open after all have left recovers. */
void op_fail(struct op *op)
{
    store(op->sh ? &op->sh->failed : &allocator_of(op->s)->failed, EIO);
    distrust_memory(op->s, EIO);
}

/* A file that was cut off leaves parts like that, but then that is the cause to be told. */
int fail_unusable(mmkv_store *s, const struct fmt_shard *sh)
{
    int rc = handle_whole(s);
    if (rc) return rc;
    errno = EIO;
    return fail_os(sh ? "part of the store was left half-changed by a fault; once every process has closed it, the next open recovers it"
                      : "the store's free space was left half-changed by a fault; once every process has closed it, the next open recovers it");
}

/* Undo what the log says, last store first; only the end sets count to 0, so that a rollback killed half-way is repeated
 * from the start. Offsets come from the file and are checked: into the superblock and the slots nothing may be restored.
 * Then make the version the next even number (R4: it never goes back). */
int op_rollback(struct op *op)
{
    uint64_t count = load(op->count);
    if (count > op->capacity) count = 0; /* not a log we wrote */
    if (count && !(op->l->version & 1)) store(&op->l->version, op->l->version + 1);
    atomic_thread_fence(memory_order_release);
    for (uint64_t i = count; i-- > 0;) {
        uint64_t offset = load(&op->entry[i].offset), old = load(&op->entry[i].old);
        uint64_t *word = offset % 8 || offset < FMT_CONTROL_AT ? NULL : at(op->s, offset, 8);
        if (unlikely(!word)) {
            op_fail(op); /* the log is kept: nothing in it may be lost */
            return fail(MMKV_CORRUPT, offset, "an undo log names offset %llu, which cannot be restored", (unsigned long long)offset);
        }
        if (load(word) != old) store(word, old); /* a page that had no room for the store has none for this one either */
        kill_fence();
    }
    store_release(op->count, 0);
    kill_fence();
    if (op->l->version & 1) store_release(&op->l->version, op->l->version + 1);
    return 0;
}
