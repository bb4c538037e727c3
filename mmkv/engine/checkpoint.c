/* checkpoint.c: sync(), and the clean and dirty marks.
 *
 * A checkpoint of epoch E, by one leader who holds the checkpoint lock (DESIGN section 7):
 *  1. advance the epoch to E + 1, then take and let go each shard's lock once: a writer reads the epoch after it has its
 *     lock, so after this every write stamped E is complete, and counters say what was live at the end of E;
 *  2. flush the heap zones and the zone table, while writers go on in E + 1;
 *  3. write and flush the slot that does not hold the durable epoch: E is durable;
 *  4. what died in E or before may be reused.
 * A leader that dies leaves the lock to the next, who makes a cut of his own: a dead one's is never resumed (R17).
 *
 * Group commit: whoever wants epoch e durable counts itself in `arrived`, then leads, or sleeps until somebody has led
 * far enough. The sleepers are woken together, each time the lock is let go. */
#include <limits.h>

#include "engine.h"

enum {
    LOOK_AGAIN_MS = 100,         /* a sleeper looks whether the leader is alive */
    GATHER_NS_MAX = 10000000,    /* a leader waits no longer for callers it expects */
    WRITE_AHEAD = 32 << 20,      /* bytes to flush, about, from which on writing begins before the cut */
    ONE_RANGE_MAX = 4 << 20      /* up to which the heap is flushed as one range */
};
#define GATHERING 0x80000000u    /* in control.arrived */

static uint64_t slot_checksum(const mmkv_store *s, int which, const struct fmt_slot *slot)
{
    return engine_hash(slot, offsetof(struct fmt_slot, checksum), s->seed ^ (which ? FMT_SLOT_B_AT : FMT_SLOT_A_AT));
}

bool slot_valid(const mmkv_store *s, int which)
{
    const struct fmt_slot *slot = slot_of(s, which);
    return !memcmp(slot->magic, FMT_SLOT_MAGIC, 8) && slot->checksum == slot_checksum(s, which, slot) && slot->epoch
        && slot->epoch < FMT_EPOCH_MASK;
}

int slot_newest(const mmkv_store *s)
{
    bool a = slot_valid(s, 0), b = slot_valid(s, 1);
    if (!a && !b) return -1;
    if (a && b) return slot_of(s, 1)->epoch > slot_of(s, 0)->epoch;
    return b;
}

int slot_write(mmkv_store *s, int which, const struct fmt_slot *values)
{
    struct fmt_slot *slot = slot_of(s, which);
    store(&slot->clean, 0);
    memset(slot->magic, 0, sizeof slot->magic); /* killed in between: a slot being written, not a damaged one */
    kill_fence();
    memcpy((uint8_t *)slot + 8, (const uint8_t *)values + 8, offsetof(struct fmt_slot, checksum) - 8);
    struct fmt_slot whole = *slot;
    memcpy(whole.magic, values->magic, sizeof whole.magic);
    store(&slot->checksum, slot_checksum(s, which, &whole));
    kill_fence();
    memcpy(slot->magic, values->magic, sizeof slot->magic);
    return checkpoint_flush(s, slot, FMT_PAGE);
}

static uint64_t clean_word(int which, uint64_t epoch)
{
    return fmt_stamp(epoch, (which ? FMT_SLOT_B_AT : FMT_SLOT_A_AT) + offsetof(struct fmt_slot, clean));
}

bool slot_clean(const mmkv_store *s, int which)
{
    const struct fmt_slot *slot = slot_of(s, which);
    return load(&slot->clean) == clean_word(which, load(&slot->epoch));
}

/* ---- a failed flush ---- */

static int refuse_failed(mmkv_store *s)
{
    uint32_t failed = load32(&control_of(s)->failed);
    int rc = failed ? handle_whole(s) : 0; /* a file that was cut off is the cause to be told */
    if (rc) return rc;
    return failed ? fail_errno((int)failed, "a flush of this store has failed, so that nothing written since the last checkpoint will be "
                               "durable; it stays readable until every process has closed the store, and then the next open "
                               "goes back to that checkpoint") : 0;
}

/* A failed msync is never forgotten: the kernel has marked the pages clean, so no later success would cover them (R20).
 * The identity goes too: when all have left, the next open recovers to the last good checkpoint. */
static int remember_failure(mmkv_store *s)
{
    distrust_memory(s, mmkv_failure_get()->os_errno);
    return refuse_failed(s);
}

int checkpoint_flush(mmkv_store *s, const void *p, uint64_t length)
{
    int rc = s->private_ ? 0 : os_flush(p, length);
    return rc ? remember_failure(s) : 0;
}

/* After a recovery that a failed flush was the reason for: what the disk holds of the pages that the kernel took for
 * written is not known, so all that is in use is stored and flushed again. Only then is the failure forgotten. */
int checkpoint_rewrite(mmkv_store *s)
{
    int rc = 0;
    for (uint64_t offset = FMT_SUPERBLOCK_AT; offset < s->zones_start && !s->private_; offset += FMT_PAGE) {
        uint64_t *word = at(s, offset, FMT_PAGE);
        store(word, load(word));
    }
    for (uint64_t i = 0, count = load(&allocator_of(s)->zone_count); i < count && !s->private_; i++) {
        struct zone zone;
        if ((rc = zone_get(s, i, &zone))) return rc;
        for (uint64_t page = 0; page < zone.pages; page++) {
            uint64_t *word = zone.free + page * (FMT_PAGE / sizeof(uint64_t));
            if (!bit_get(zone.free, page)) store(word, load(word)); /* into free ones nothing may be stored: they may be holes */
        }
    }
    if ((rc = checkpoint_flush(s, base_of(s), zones_end(s)))) return rc;
    store32(&control_of(s)->failed, 0);
    return 0;
}

/* ---- the checkpoint lock ---- */

/* The shard's lock that somebody who is alive has kept, while others waited, for as long as this thread has looked: between one
 * change and the next the version moves. By number, since a wait that a signal breaks off is taken up again. */
static FAULT_LOCAL struct { uint64_t began, since, version; uint32_t shard, word; } kept;

/* The leader may itself be waiting for one who keeps a shard: whoever waits for the leader finds that out by itself, or each
 * of them would lead, and wait, in turn. NULL: no lock has been kept for lock_timeout. */
static uint32_t *kept_lock(mmkv_store *s, uint64_t began, uint64_t now)
{
    struct fmt_lockable *l = kept.shard < s->shard_count ? &shard_of(s, kept.shard)->l : NULL;
    if (l && kept.began == began && kept.word && kept.word == load32(&l->lock) && kept.version == load(&l->version))
        return now - kept.since >= s->lock_timeout_ms && slot_alive(s, kept.word & FMT_LOCK_OWNER) ? &l->lock : NULL;
    kept.began = began;
    kept.since = now;
    kept.word = 0;
    for (uint32_t i = 0; i < s->shard_count && !kept.word; i++) {
        l = &shard_of(s, i)->l;
        kept.shard = i;
        kept.version = load(&l->version);
        kept.word = load32(&l->lock) & FMT_LOCK_WAITERS ? load32(&l->lock) : 0;
    }
    return NULL;
}

/* Become the leader (*led), or learn that `at_least` is durable. The lock is held over flushes: a live holder is waited
 * for as long as it takes, unless it can be seen to be stopped; but the caller gets to look for signals: one that comes
 * between two sleeps ends neither. */
static int lead(mmkv_store *s, uint64_t at_least, bool *led)
{
    struct fmt_control *control = control_of(s);
    uint64_t began = wait_start(&control->checkpoint_lock);
    for (;;) {
        /* Before anything is looked at: pairs with the add in let_go, so that what changes after a look ends the sleep. */
        uint32_t turn = __atomic_load_n(&control->checkpoint_futex, __ATOMIC_ACQUIRE), owner = 0;
        *led = false;
        if (load_acquire(&control->durable) >= at_least) return 0;
        *led = true; /* a dead leader leaves nothing to settle */
        if (__atomic_compare_exchange_n(&control->checkpoint_lock, &owner, s->me, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) break;
        uint32_t waited = owner | FMT_LOCK_WAITERS;
        if (owner != waited
            && !__atomic_compare_exchange_n(&control->checkpoint_lock, &owner, waited, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) continue;
        uint64_t start = os_now_ms();
        bool signalled = os_wait(&control->checkpoint_futex, turn, LOOK_AGAIN_MS) != 0;
        uint64_t now = os_now_ms();
        owner = waited & FMT_LOCK_OWNER;
        if (load32(&control->checkpoint_lock) != waited || (!signalled && now - start < LOOK_AGAIN_MS)) {
            if (signalled) return wait_broken_off(&control->checkpoint_lock, began);
            continue;
        }
        if (slot_alive(s, owner)) {
            if (now - began >= s->lock_timeout_ms && slot_stopped(s, owner)) return fail_held(s, &control->checkpoint_lock, owner);
            uint32_t *lock = kept_lock(s, began, now);
            if (lock) return fail_held(s, lock, kept.word & FMT_LOCK_OWNER);
            return wait_broken_off(&control->checkpoint_lock, began);
        }
        if (__atomic_compare_exchange_n(&control->checkpoint_lock, &waited, s->me | FMT_LOCK_WAITERS, false, __ATOMIC_ACQUIRE,
                                        __ATOMIC_RELAXED)) break;
    }
    guard_hold(&control->checkpoint_lock);
    return 0;
}

/* Killed before the wake: the sleepers look again by themselves. */
void checkpoint_unlock(mmkv_store *s)
{
    struct fmt_control *control = control_of(s);
    /* release: pairs with the acquire in lead */
    if (__atomic_exchange_n(&control->checkpoint_lock, 0, __ATOMIC_RELEASE) & FMT_LOCK_WAITERS) {
        __atomic_fetch_add(&control->checkpoint_futex, 1, __ATOMIC_RELEASE); /* pairs with the load in lead */
        os_wake(&control->checkpoint_futex, INT_MAX);
    }
}

static void let_go(mmkv_store *s)
{
    checkpoint_unlock(s);
    guard_drop(&control_of(s)->checkpoint_lock);
}

/* ---- dirty and clean ---- */

/* Before the first store to a file whose disk says clean: take that back, durably (R9). */
int checkpoint_mark_dirty(mmkv_store *s)
{
    struct fmt_control *control = control_of(s);
    bool led;
    int rc = lead(s, UINT64_MAX, &led);
    /* The lock saves the others a flush. It is not needed: nobody marks a file clean to which others are attached, and until
     * then taking the mark back twice is as good as once. So nobody waits long for one who is stopped in here. */
    bool locked = !rc;
    if (rc && rc != MMKV_INTERRUPTED && rc != MMKV_LOCK_TIMEOUT) return rc;
    rc = 0;
    if (load32(&control->clean)) {
        int which = slot_newest(s);
        uint32_t failed = load32(&control->failed);
        if (which < 0) {
            rc = fail(MMKV_CORRUPT, FMT_SLOT_A_AT, "no valid checkpoint slot");
        } else if (!failed) {
            store(&slot_of(s, which)->clean, 0);
            if (checkpoint_flush(s, slot_of(s, which), FMT_PAGE)) failed = load32(&control->failed);
            else store32(&control->clean, 0);
        }
        /* The disk may say clean for ever: nothing may be stored. */
        if (failed) rc = fail_errno((int)failed, "the flush that marks the file as in use has failed: nothing was changed, and nothing "
                                    "can be until every process has closed the store");
    }
    if (locked) let_go(s);
    return rc;
}

/* Does the file say that it is clean, as the memory does? One who is killed while he takes the mark back leaves the memory's. */
bool checkpoint_marked_clean(mmkv_store *s)
{
    int which = slot_newest(s);
    return load32(&control_of(s)->clean) && which >= 0 && slot_clean(s, which);
}

/* By the last one out, under the attach lock, right after a checkpoint: index, allocator and control area first. */
int checkpoint_mark_clean(mmkv_store *s)
{
    struct fmt_control *control = control_of(s);
    int rc = 0, which = slot_newest(s);
    if (checkpoint_marked_clean(s) || which < 0 || (rc = refuse_failed(s))) return rc;
    const void *whole = at(s, 0, zones_end(s));
    if (!whole) return fail(MMKV_CORRUPT, 0, "the file is shorter than its zones");
    if ((rc = checkpoint_flush(s, whole, zones_end(s)))) return rc;
    store(&slot_of(s, which)->clean, clean_word(which, slot_of(s, which)->epoch));
    if ((rc = checkpoint_flush(s, slot_of(s, which), FMT_PAGE))) {
        store(&slot_of(s, which)->clean, 0); /* else the next open would take the failure for forgotten */
        return rc;
    }
    store32(&control->clean, 1);
    return 0;
}

/* ---- a checkpoint ---- */

/* A caller that wants a checkpoint: the leader who waits for it is woken when it is the last one expected. */
static void arrive(mmkv_store *s)
{
    struct fmt_control *control = control_of(s);
    uint32_t before = __atomic_fetch_add(&control->arrived, 1, __ATOMIC_RELAXED);
    if (before & GATHERING && (before & ~GATHERING) + 1 >= load32(&control->expected)) os_wake(&control->arrived, 1);
}

/* Where several write and sync in turn, those that the last checkpoint has let go are about to come again: a leader waits
 * for as many as there were, for at most the time that a checkpoint takes. One who is alone never waits. */
static void gather(mmkv_store *s)
{
    struct fmt_control *control = control_of(s);
    uint32_t expected = load32(&control->expected);
    if (expected < 2) return;
    uint64_t most = load(&control->flush_ns), start = os_elapsed_ns();
    if (most > GATHER_NS_MAX) most = GATHER_NS_MAX;
    uint32_t seen = __atomic_fetch_or(&control->arrived, GATHERING, __ATOMIC_RELAXED) | GATHERING;
    while ((seen & ~GATHERING) < expected) {
        uint64_t waited = os_elapsed_ns() - start;
        if (waited >= most) break;
        os_wait_ns(&control->arrived, seen, most - waited);
        seen = load32(&control->arrived) | GATHERING;
    }
}

/* About how much was stored since the last cut. */
static uint64_t written_since(mmkv_store *s, uint64_t *total)
{
    *total = 0;
    for (uint32_t i = 0; i < s->shard_count; i++) *total += load(&shard_of(s, i)->written);
    return *total - load(&control_of(s)->written);
}

/* Step 0, before the cut: empty chunks that were kept for reuse go back, so that this checkpoint covers it. And whatever lock
 * is held is waited for now, when a signal can still end the wait. */
static int trim(mmkv_store *s)
{
    uint64_t epoch = load(&control_of(s)->epoch);
    struct op op;
    int rc = 0;
    if (load32(&allocator_of(s)->l.lock) && !(rc = pages_lock(s, &op, INTERRUPTIBLE))) pages_unlock(&op);
    for (uint32_t i = 0; i < s->shard_count && !rc; i++) {
        const struct fmt_shard *sh = shard_of(s, i);
        if (load(&sh->epoch) != epoch && !load32(&sh->l.lock)) continue;
        if ((rc = shard_lock(s, i, &op, INTERRUPTIBLE))) break;
        rc = heap_trim(&op);
        shard_unlock(&op);
    }
    return rc;
}

/* Step 1. */
static int cut(mmkv_store *s, uint64_t epoch, struct fmt_slot *slot, uint64_t *zones)
{
    struct op op;
    int rc;
    store_release(&control_of(s)->epoch, epoch + 1); /* pairs with the load in shard_lock */
    atomic_thread_fence(memory_order_seq_cst);
    memcpy(slot->magic, FMT_SLOT_MAGIC, 8);
    slot->epoch = epoch;
    slot->time_ns = os_now_ns();
    for (uint32_t i = 0; i < s->shard_count; i++) {
        if ((rc = shard_lock(s, i, &op, 0))) return rc;
        uint64_t now = (op.sh->epoch > epoch ? epoch : op.sh->epoch) & 1;
        slot->record_count += op.sh->count[now];
        slot->record_sum += op.sh->sum[now];
        shard_unlock(&op);
    }
    if ((rc = pages_lock(s, &op, 0))) return rc;
    slot->file_length = zones_end(s);
    *zones = load(&allocator_of(s)->zone_count);
    pages_unlock(&op);
    return 0;
}

/* From zone *i on: the next range of heap zones that follow each other, up to `length`; or, `one`, the range of them all with the
 * index zones between them. */
static bool next_range(mmkv_store *s, uint64_t *i, uint64_t length, bool one, uint64_t *from, uint64_t *to)
{
    uint64_t count = load_acquire(&allocator_of(s)->zone_count); /* as in zone_find */
    *from = *to = 0;
    for (; *i < count && *i < FMT_ZONES; ++*i) {
        const struct fmt_zone *z = zone_of(s, *i);
        if (z->offset >= length) break;
        if (z->kind == FMT_ZONE_HEAP) {
            if (!*to) *from = z->offset;
            *to = z->offset + z->pages * FMT_PAGE;
        } else if (*to && !one) {
            break;
        }
    }
    return *to > *from;
}

/* Start to write what a checkpoint has to flush, as it is. That promises nothing; what fails shows in the flush. */
static void write_ahead(mmkv_store *s)
{
    uint64_t from, to;
    for (uint64_t i = 0; !s->private_ && next_range(s, &i, UINT64_MAX, false, &from, &to);)
        os_flush_file_start(file_of(s), from, to - from);
}

/* Step 2. Each msync makes the disk empty its cache, dirty pages or not. So a little is flushed as one range, with the pages
 * of the index that lie in between, and much as the ranges of heap zones, without them. */
static int flush_heap(mmkv_store *s, uint64_t length, uint64_t zones, bool one)
{
    struct fmt_control *control = control_of(s);
    uint64_t from, to;
    int rc = 0;
    if (zones != load(&control->flushed_zones)) { /* those of the cut stay as they are; later ones may be rolled back */
        /* With all before the table: that whoever put the file here, by a copy, has flushed it is not known (prepare_alone). */
        if ((rc = checkpoint_flush(s, s->head, FMT_ZONES_AT + FMT_ZONES * sizeof(struct fmt_zone)))) return rc;
        /* A flush promises the length that its own range needs, and behind the last heap zone there may be index zones. */
        uint8_t *end = at(s, length - FMT_PAGE, FMT_PAGE);
        if (end && (rc = checkpoint_flush(s, end, FMT_PAGE))) return rc;
        store(&control->flushed_zones, zones);
    }
    for (uint64_t i = 0; !rc && next_range(s, &i, length, one, &from, &to);) {
        uint8_t *p = at(s, from, to - from);
        rc = p ? checkpoint_flush(s, p, to - from) : fail(MMKV_CORRUPT, from, "a zone lies outside the file");
    }
    return rc;
}

static int checkpoint_led(mmkv_store *s, uint64_t *epoch)
{
    struct fmt_control *control = control_of(s);
    struct fmt_slot slot = { .epoch = 0 };
    uint64_t total, zones;
    int rc = refuse_failed(s);
    if (rc) return rc;
    gather(s);
    /* From the cut on, what dies has to be kept and everybody writes to other places than before: let that be short. */
    if (written_since(s, &total) >= WRITE_AHEAD) write_ahead(s);
    if ((rc = trim(s))) return rc;
    uint64_t e = load(&control->epoch), start = os_elapsed_ns(), written = written_since(s, &total);
    if ((rc = cut(s, e, &slot, &zones))) return rc;
    uint32_t served = __atomic_exchange_n(&control->arrived, 0, __ATOMIC_RELAXED) & ~GATHERING;
    store(&control->written, total);
    if ((rc = flush_heap(s, slot.file_length, zones, written < ONE_RANGE_MAX))) return rc;
    int which = slot_valid(s, 0) && slot_of(s, 0)->epoch == load(&control->durable);
    if ((rc = slot_write(s, which, &slot))) {
        /* Nor may the next open go to a checkpoint that was refused. As in slot_write only the magic goes: all zeros would be
         * a page that was lost. */
        memset(slot_of(s, which)->magic, 0, sizeof slot.magic);
        return rc;
    }
    store_release(&control->durable, e); /* pairs with the loads that decide on reuse */
    store(&control->checkpoint_count, control->checkpoint_count + 1);
    store(&control->flush_ns, os_elapsed_ns() - start);
    store32(&control->expected, served + load32(&control->arrived));
    *epoch = e;
    return 0;
}

/* Has anything been written since the last one? Also where that failed, so that it is said. */
bool checkpoint_wanted(mmkv_store *s)
{
    if (load32(&control_of(s)->failed)) return true;
    for (uint32_t i = 0; i < s->shard_count; i++)
        if (load(&shard_of(s, i)->epoch) > load(&control_of(s)->durable)) return true;
    /* A leader with nothing new to flush may have died, or given up, after its cut, and the file may have grown for something
     * that was then not stored: a clean file has the epochs, and the length, that its slot says. */
    if (load(&control_of(s)->epoch) != load(&control_of(s)->durable) + 1) return true;
    int which = slot_newest(s);
    return which >= 0 && slot_of(s, which)->file_length != zones_end(s);
}

/* Group commit: return when everything written until now is durable, leading if nobody does. A checkpoint cut for less is
 * waited for, not joined (R25). *epoch is 0; after MMKV_INTERRUPTED it says what to wait for, when called again. */
int checkpoint(mmkv_store *s, uint64_t *epoch)
{
    struct fmt_control *control = control_of(s);
    bool led, again = *epoch;
    uint64_t at_least = again ? *epoch : load_acquire(&control->epoch);
    int rc = refuse_failed(s);
    if (rc) return rc;
    *epoch = load_acquire(&control->durable);
    if (*epoch >= at_least || load32(&control->clean)) return 0;
    if (!again) arrive(s);
    if ((rc = lead(s, at_least, &led))) {
        *epoch = at_least;
        return rc;
    }
    *epoch = load_acquire(&control->durable);
    if (!led) return 0;
    bool mine = *epoch < at_least; /* else it became durable between two looks */
    if (mine) rc = checkpoint_led(s, epoch);
    let_go(s);
    if (rc == MMKV_INTERRUPTED) *epoch = at_least;
    if (rc || !mine) return rc;
    rc = pages_settle(s); /* it is durable whether or not there is time for this */
    return rc == MMKV_CORRUPT ? rc : 0;
}

int checkpoint_sync(mmkv_store *s, int wait, uint64_t *epoch)
{
    if (!s->writable) return fail(MMKV_READ_ONLY, 0, "the store is open for reading only");
    if (wait) return checkpoint(s, epoch);
    *epoch = load_acquire(&control_of(s)->epoch);
    write_ahead(s);
    return refuse_failed(s);
}
