/* checkpoint.c: sync(), and the clean and dirty marks.
 *
 * A checkpoint of epoch E, by one leader who holds the checkpoint lock (DESIGN section 7):
 *  1. advance the epoch to E + 1, then take and let go each shard's lock once: a writer reads the epoch after it has its
 *     lock, so after this every write stamped E is complete, and counters say what was live at the end of E;
 *  2. flush the heap zones and the zone table, while writers go on in E + 1;
 *  3. write and flush the slot that does not hold the durable epoch: E is durable;
 *  4. what died in E or before may be reused.
 * A leader that dies leaves the lock to the next, who makes a cut of his own: a dead one's is never resumed (R17). */
#include "engine.h"

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
    return s->private_ ? 0 : os_flush(slot, FMT_PAGE);
}

static uint64_t clean_word(int which, uint64_t epoch)
{
    return fmt_stamp(epoch, (which ? FMT_SLOT_B_AT : FMT_SLOT_A_AT) + offsetof(struct fmt_slot, clean));
}

bool slot_clean(const mmkv_store *s, int which)
{
    return slot_of(s, which)->clean == clean_word(which, slot_of(s, which)->epoch);
}

/* The checkpoint lock is held over flushes: a live holder is waited for as long as it takes, or until a signal comes. */
static int lead(mmkv_store *s)
{
    uint32_t dead; /* a dead leader leaves nothing to settle */
    int rc;
    while ((rc = lock_word(s, &control_of(s)->checkpoint_lock, INTERRUPTIBLE, &dead)) == MMKV_LOCK_TIMEOUT) {}
    return rc;
}

/* A failed msync is never forgotten: the kernel has marked the pages clean, so no later success would cover them (R20).
 * The identity goes too: when all have left, the next open recovers to the last good checkpoint. */
static int remember_failure(mmkv_store *s, int rc)
{
    struct fmt_control *control = control_of(s);
    int os_errno = mmkv_failure_get()->os_errno;
    if (rc == MMKV_OS || rc == MMKV_FULL) {
        memset(control->boot_id, 0, sizeof control->boot_id);
        store32(&control->failed, os_errno ? (uint32_t)os_errno : 5u);
    }
    return rc;
}

static int refuse_failed(mmkv_store *s)
{
    uint32_t failed = load32(&control_of(s)->failed);
    return failed ? fail(MMKV_OS, 0, "an earlier flush of this store failed (%s): no checkpoint can be trusted until every "
                         "process has closed it; the next open goes back to the last good one", strerror((int)failed)) : 0;
}

/* Before the first store to a file whose disk says clean: take that back, durably (R9). */
int checkpoint_mark_dirty(mmkv_store *s)
{
    struct fmt_control *control = control_of(s);
    int rc = lead(s);
    if (rc) return rc;
    if (load32(&control->clean)) {
        int which = slot_newest(s);
        if (which < 0) {
            rc = fail(MMKV_CORRUPT, FMT_SLOT_A_AT, "no valid checkpoint slot");
        } else {
            store(&slot_of(s, which)->clean, 0);
            if (!s->private_) rc = os_flush(slot_of(s, which), FMT_PAGE);
            if (rc) remember_failure(s, rc);
            else store32(&control->clean, 0);
        }
    }
    unlock_word(s, &control->checkpoint_lock);
    return rc;
}

/* By the last one out, under the attach lock, right after a checkpoint: index, allocator and control area first. */
int checkpoint_mark_clean(mmkv_store *s)
{
    struct fmt_control *control = control_of(s);
    int rc = 0, which = slot_newest(s);
    if (load32(&control->clean) || which < 0 || (rc = refuse_failed(s))) return rc;
    const void *whole = at(s, 0, zones_end(s));
    if (!whole) return fail(MMKV_CORRUPT, 0, "the file is shorter than its zones");
    if (!s->private_ && ((rc = os_flush(whole, zones_end(s))))) return remember_failure(s, rc);
    store(&slot_of(s, which)->clean, clean_word(which, slot_of(s, which)->epoch));
    if (!s->private_ && (rc = os_flush(slot_of(s, which), FMT_PAGE))) return remember_failure(s, rc);
    store32(&control->clean, 1);
    return 0;
}

/* Step 0, before the cut: empty chunks that were kept for reuse go back, so that this checkpoint covers it. */
static int trim(mmkv_store *s)
{
    uint64_t epoch = load(&control_of(s)->epoch);
    int rc = 0;
    for (uint32_t i = 0; i < s->shard_count && !rc; i++) {
        struct op op;
        if (load(&shard_of(s, i)->epoch) != epoch) continue;
        if ((rc = shard_lock(s, i, &op, 0))) break;
        rc = heap_trim(&op);
        shard_unlock(&op);
    }
    return rc;
}

/* Step 1. */
static int cut(mmkv_store *s, uint64_t epoch, struct fmt_slot *slot)
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
    pages_unlock(&op);
    return 0;
}

/* Step 2: neighbouring heap zones in one call. */
static int flush_heap(mmkv_store *s, uint64_t length)
{
    if (s->private_) return 0;
    uint64_t count = load(&allocator_of(s)->zone_count), from = 0, to = 0;
    int rc = os_flush(zone_of(s, 0), FMT_ZONES * sizeof(struct fmt_zone));
    for (uint64_t i = 0; i <= count && !rc; i++) {
        const struct fmt_zone *z = zone_of(s, i);
        bool heap = i < count && z->kind == FMT_ZONE_HEAP && z->offset < length;
        if (heap && to == z->offset && to) {
            to += z->pages * FMT_PAGE;
            continue;
        }
        if (to > from) {
            uint8_t *p = at(s, from, to - from);
            rc = p ? os_flush(p, to - from) : fail(MMKV_CORRUPT, from, "a zone lies outside the file");
        }
        from = to = 0;
        if (heap) {
            from = z->offset;
            to = from + z->pages * FMT_PAGE;
        }
    }
    return rc;
}

static int checkpoint_led(mmkv_store *s, uint64_t *epoch)
{
    struct fmt_control *control = control_of(s);
    struct fmt_slot slot = { .epoch = 0 };
    int rc = refuse_failed(s);
    if (rc || (rc = trim(s))) return rc;
    uint64_t e = load(&control->epoch);
    if ((rc = cut(s, e, &slot))) return rc;
    if ((rc = flush_heap(s, slot.file_length))) return remember_failure(s, rc);
    int which = slot_valid(s, 0) && slot_of(s, 0)->epoch == load(&control->durable);
    if ((rc = slot_write(s, which, &slot))) return remember_failure(s, rc);
    store_release(&control->durable, e); /* pairs with the loads that decide on reuse */
    store(&control->checkpoint_count, control->checkpoint_count + 1);
    *epoch = e;
    rc = pages_settle(s); /* e is durable whether or not there is time for this */
    return rc == MMKV_CORRUPT ? rc : 0;
}

bool checkpoint_wanted(const mmkv_store *s)
{
    for (uint32_t i = 0; i < s->shard_count; i++)
        if (load(&shard_of(s, i)->epoch) > load(&control_of(s)->durable)) return true;
    return false;
}

/* Group commit: return when everything written up to epoch `at_least` is durable, leading if nobody does. Those who wait
 * for the lock find, once they have it, that the one before them has done their work (R25). */
int checkpoint(mmkv_store *s, uint64_t at_least, uint64_t *epoch)
{
    struct fmt_control *control = control_of(s);
    int rc = refuse_failed(s);
    if (rc) return rc;
    *epoch = load_acquire(&control->durable);
    if (*epoch >= at_least || load32(&control->clean)) return 0;
    if ((rc = lead(s))) return rc;
    *epoch = load_acquire(&control->durable);
    if (*epoch < at_least) rc = checkpoint_led(s, epoch);
    unlock_word(s, &control->checkpoint_lock);
    return rc;
}

int mmkv_sync(mmkv_store *s, int wait, uint64_t *epoch)
{
    if (!s->writable) return fail(MMKV_READ_ONLY, 0, "the store is open for reading only");
    uint64_t now = load_acquire(&control_of(s)->epoch);
    if (wait) return checkpoint(s, now, epoch);
    *epoch = now;
    return s->private_ ? 0 : os_flush_file_start(file_of(s), 0, 0);
}

uint64_t mmkv_epoch(const mmkv_store *s) { return load_acquire(&control_of(s)->epoch); }
uint64_t mmkv_durable_epoch(const mmkv_store *s) { return load_acquire(&control_of(s)->durable); }
