/* attach.c: coming and going: process slots, who is there, whether the memory can be trusted.
 *
 * Attach, detach and recovery hold the attach lock. Writers hold a process slot: a write lock on its byte, through a
 * description that lives exactly as long as the address space (os_hold_byte). Readers hold a read lock on one byte. The
 * decision at attach (DESIGN section 5):
 *   a writer is attached                        -> the memory is live: join
 *   nobody, clean                               -> the file is whole: trust it
 *   nobody, dirty, identity matches             -> the page cache is intact: settle what the dead held, check the totals
 *   anything else                               -> recover to the checkpoint */
#include "engine.h"

/* The name under which one who holds the attach lock and has no slot takes locks. It lives as long as that lock is held. */
#define SETTLER FMT_LOCK_OWNER

/* The rest of the word differs from settler to settler: one who waits for a dead one's lock must see that a live one has it. */
static void be_settler(mmkv_store *s) { s->me = SETTLER | (uint32_t)(os_now_ns() >> 6 & 0x7ffff) << 12; }

bool slot_alive(mmkv_store *s, uint32_t slot)
{
    bool held;
    if (s->private_) return slot == s->slot; /* nobody else can see these pages */
    if (slot == SETTLER) return os_lock_held(s->attach_fd < 0 ? file_of(s) : s->attach_fd, FMT_LOCK_ATTACH, 1, &held) || held;
    if (!slot || slot >= FMT_PROCESSES) return false;
    return os_lock_held(file_of(s), FMT_LOCK_PROCESS + slot, 1, &held) || held; /* any error counts as alive */
}

/* Of one who is alive. Nothing but an error instead of a longer wait rests on what this says, so a process id will do. */
bool slot_stopped(mmkv_store *s, uint32_t slot)
{
    return slot < FMT_PROCESSES && os_process_stopped(load(&process_of(s, slot)->pid));
}

/* Is a writer other than this handle attached? */
static int others(mmkv_store *s, bool *there)
{
    bool before = false, after = false;
    uint32_t mine = s->slot_page ? s->slot : FMT_PROCESSES;
    int rc = mine > 0 ? os_lock_held(file_of(s), FMT_LOCK_PROCESS, mine, &before) : 0;
    if (!rc && mine + 1 < FMT_PROCESSES) rc = os_lock_held(file_of(s), FMT_LOCK_PROCESS + mine + 1, FMT_PROCESSES - mine - 1, &after);
    *there = before || after;
    return rc;
}

/* ---- the attach lock ---- */

enum { ASK_FIRST_NS = 50000, ASK_LAST_NS = 5000000 }; /* who waits for the attach lock asks for it this often */

/* Take it, through this description. The kernel would wake who waits for such a lock, but sets no time limit: so ask again and
 * again. A recovery may hold it for minutes; only of one who is seen to be stopped there is no end to be expected. */
int attach_wait(int fd, enum os_lock kind, uint32_t timeout_ms)
{
    static const uint32_t never;
    uint64_t start = wait_start(&never), entered = os_now_ms(), looked = entered, pid;
    for (uint64_t nap = ASK_FIRST_NS;; nap = nap < ASK_LAST_NS ? 2 * nap : nap) {
        bool got;
        int rc = os_lock(fd, FMT_LOCK_ATTACH, 1, kind, &got);
        if (rc || got) return rc;
        bool signalled = os_wait_ns(&never, never, nap) != 0;
        uint64_t now = os_now_ms();
        if (now - start >= timeout_ms && now - looked >= LOOK_FOR_SIGNALS_MS / 2) {
            looked = now;
            if ((pid = os_stopped_holder(fd, FMT_LOCK_ATTACH))) {
                rc = fail(MMKV_LOCK_TIMEOUT, 0, "the lock for opening and closing has been held for more than %u ms by process %llu, "
                          "which is stopped", timeout_ms, (unsigned long long)pid);
                fail_pid(pid);
                return rc;
            }
        }
        if (signalled || now - entered >= LOOK_FOR_SIGNALS_MS) return wait_broken_off(&never, start);
    }
}

/* Through a description used for nothing else: a child that was forked keeps the mapping, and would with it keep the lock
 * of a parent that was killed (R5). Where no descriptor is to be had, the handle's own has to do. */
static void attach_describe(mmkv_store *s)
{
    int fd = file_of(s);
    if (os_reopen(fd, s->writable && !s->private_, &s->attach_fd)) s->attach_fd = fd;
}

int attach_lock(mmkv_store *s, enum os_lock kind)
{
    attach_describe(s);
    int rc = attach_wait(s->attach_fd, kind, s->lock_timeout_ms);
    if (rc) attach_unlock(s);
    return rc;
}

/* For a fork, which waits for nobody. */
bool attach_lock_now(mmkv_store *s)
{
    bool got;
    attach_describe(s);
    if (os_lock(s->attach_fd, FMT_LOCK_ATTACH, 1, OS_LOCK_WRITE, &got)) got = false;
    if (!got) attach_unlock(s);
    return got;
}

/* Said, and not only closed: a child that is just being forked may have the description for a moment. */
int attach_unlock(mmkv_store *s)
{
    bool got;
    int fd = s->attach_fd, rc = 0;
    s->attach_fd = -1;
    if (!os_same_file(fd, &s->identity)) return 0; /* closed by others, or never opened */
    rc = os_lock(fd, FMT_LOCK_ATTACH, 1, OS_UNLOCK, &got);
    if (fd != s->fd) os_close(fd);
    return rc;
}

static bool identity_is(const struct fmt_control *c, const struct identity *i)
{
    static const uint8_t none[16];
    return memcmp(i->boot_id, none, 16) && !memcmp(c->boot_id, i->boot_id, 16) && c->device == i->device && c->inode == i->inode
        && c->birth_ns == i->birth_ns && c->generation == i->generation
        && (c->mounting == i->mounting || !c->mounting || !i->mounting) && !c->failed;
}

static bool same_identity(const mmkv_store *s) { return identity_is(control_of(s), &s->identity); }

int mmkv_same_memory(int fd, const void *control, int *same)
{
    struct fmt_control copy;
    struct identity identity;
    int rc = os_identity(fd, &identity);
    memcpy(&copy, control, sizeof copy);
    *same = !rc && identity_is(&copy, &identity);
    return rc;
}

static void stamp_identity(mmkv_store *s)
{
    struct fmt_control *c = control_of(s);
    c->device = s->identity.device;
    c->inode = s->identity.inode;
    c->birth_ns = s->identity.birth_ns;
    c->generation = s->identity.generation;
    c->mounting = s->identity.mounting;
    kill_fence();
    memcpy(c->boot_id, s->identity.boot_id, 16);
}

/* ---- slots ---- */

/* Slot, incarnation and `start_ns` are the name of a handle (handle_name), other than any before: by chance, since the
 * incarnations begin anew with each clean file, and a clock may stand, or have been there before. */
void slot_sign(mmkv_store *s)
{
    struct fmt_process *p = process_of(s, s->slot);
    uint32_t chance = 0;
    os_random(&chance, sizeof chance);
    store(&p->pid, os_pid());
    store(&p->start_ns, (os_now_ns() & ~(uint64_t)UINT32_MAX) | chance);
}

void slot_own(mmkv_store *s, uint32_t slot)
{
    struct fmt_process *p = process_of(s, slot);
    s->slot = slot;
    store32(&p->incarnation, (p->incarnation + 1) & 0x7ffff);
    s->me = slot | p->incarnation << 12;
    slot_sign(s);
    kill_fence();
    store32(&p->state, 1);
}

/* The locks that the dead owner of a slot held. The allocator first: settling a shard wants it. */
static int settle_locks(mmkv_store *s, uint32_t slot)
{
    pages_settle_owner(s, slot);
    int rc = shard_settle(s, slot);
    uint32_t checkpoint = load32(&control_of(s)->checkpoint_lock);
    if (!rc && (checkpoint & FMT_LOCK_OWNER) == slot)
        __atomic_compare_exchange_n(&control_of(s)->checkpoint_lock, &checkpoint, 0, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
    return rc;
}

/* The extents that it had reserved; then the slot is free. Whoever took one of its locks over must have rolled back first,
 * since a rollback may bring a reservation back: that is waited for, or, with MMKV_NO_WAIT, left to a later attach. */
static int settle_reservations(mmkv_store *s, uint32_t slot, unsigned flags)
{
    struct fmt_process *p = process_of(s, slot);
    struct op op;
    int rc = 0;
    for (uint32_t i = 0; i < s->shard_count; i++) {
        if (!load32(&shard_of(s, i)->l.lock)) continue;
        if ((rc = shard_lock(s, i, &op, flags))) return rc;
        shard_unlock(&op);
    }
    if ((rc = pages_lock(s, &op, flags))) return rc;
    pages_unlock(&op);
    for (int i = 0; i < 4 && !rc; i++) {
        rc = reservation_give(s, &p->reserved_extent[i], flags);
    }
    if (!rc) store32(&p->state, 0);
    return rc;
}

/* Settle the slots whose owners died; `all`: nobody is attached, so that whoever they name is dead. The attach lock is
 * held, so a settler before us, who may have been killed at it, is dead too. */
int settle_dead(mmkv_store *s, bool all)
{
    uint64_t dead[FMT_PROCESSES / 64] = { 0 };
    bool held;
    int rc = settle_locks(s, SETTLER);
    for (uint32_t i = 1; i < FMT_PROCESSES && !rc; i++) {
        if (i == s->slot || !process_of(s, i)->state) continue;
        if (!all && (os_lock_held(file_of(s), FMT_LOCK_PROCESS + i, 1, &held) || held)) continue;
        bits_set(dead, i, 1, true);
        rc = settle_locks(s, i);
    }
    for (uint32_t i = 1; i < FMT_PROCESSES && !rc; i++) {
        if (!bit_get(dead, i)) continue;
        rc = settle_reservations(s, i, all ? 0 : MMKV_NO_WAIT);
        if (rc == MMKV_WOULD_BLOCK) rc = 0;
    }
    return rc;
}

/* Take a slot that says it is free; those of the dead become so by being settled. */
int slot_take(mmkv_store *s, bool fork_shares, void **page, uint32_t *slot)
{
    for (uint32_t i = 1; i < FMT_PROCESSES; i++) {
        bool got = false;
        if (load32(&process_of(s, i)->state)) continue;
        int rc = os_hold_byte(file_of(s), FMT_LOCK_PROCESS + i, fork_shares, page, &got);
        if (rc) return rc;
        if (!got) continue;
        if (load32(&process_of(s, i)->state)) { /* taken since, by one who has died since: to be settled first */
            os_release_byte(*page);
            *page = NULL;
            continue;
        }
        *slot = i;
        return 0;
    }
    return fail(MMKV_IN_USE, 0, "all %u process slots are taken, one by each handle open for writing: close some, or open with "
                "mode \"r\", which takes none", FMT_PROCESSES - 1);
}

/* No fork meanwhile: the child would share the lock until it ends, and we would pass for alive as long (R5). */
static int take_own_slot(mmkv_store *s, uint32_t *slot)
{
    fork_forbid();
    int rc = GUARDED(s, slot_take(s, false, &s->slot_page, slot)); /* lest a fault leaves the mutex locked */
    fork_allow();
    return rc;
}

/* ---- names of handles, for locks that people make of records ---- */

int handle_name(mmkv_store *s, uint32_t *handle, uint64_t *start_ns)
{
    int rc = read_only(s);
    if (rc) return rc;
    *handle = s->me;
    *start_ns = load(&process_of(s, s->slot)->start_ns);
    return 0;
}

/* The byte first: its next owner can have it only after `state` was 0, and has another name. */
int handle_alive(mmkv_store *s, uint32_t handle, uint64_t start_ns, int *alive)
{
    uint32_t slot = handle & FMT_LOCK_OWNER;
    int rc = shard_stale(s);
    if (rc) return rc;
    *alive = 0;
    if (!slot || slot >= FMT_PROCESSES || !slot_alive(s, slot)) return 0;
    const struct fmt_process *p = process_of(s, slot);
    *alive = load32(&p->state) && load32(&p->incarnation) == handle >> 12 && load(&p->start_ns) == start_ns;
    return 0;
}

/* ---- attach ---- */

static bool control_plausible(mmkv_store *s, uint64_t physical)
{
    const struct fmt_control *c = control_of(s);
    int which = slot_newest(s);
    uint64_t zones = load(&allocator_of(s)->zone_count);
    /* A leader may have died after writing a slot and before it said that its epoch is durable. */
    return which >= 0 && c->durable <= slot_of(s, which)->epoch && c->epoch > slot_of(s, which)->epoch && c->file_length <= physical
        && c->file_length >= s->zones_start && zones <= FMT_ZONES && zones_valid(s, zones, c->file_length) == zones;
}

/* Do shards and zones still know what they did when the checkpoint was cut? Those that do not are pages that never reached
 * the disk, read back after a file system was lost and mounted again in the same boot. No shard can have been written in
 * two epochs after the cut unless a leader died in between; then its counters have nothing to say any more. */
static bool agrees_with_slot(mmkv_store *s, const struct fmt_slot *slot)
{
    uint64_t count = 0, sum = 0;
    if (zones_end(s) < slot->file_length) return false;
    for (uint32_t i = 0; i < s->shard_count; i++) {
        const struct fmt_shard *sh = shard_of(s, i);
        if (sh->epoch > slot->epoch + 1) return true;
        uint64_t then = (sh->epoch > slot->epoch ? slot->epoch : sh->epoch) & 1;
        count += sh->count[then];
        sum += sh->sum[then];
    }
    return count == slot->record_count && sum == slot->record_sum;
}

/* By recovery, or, for a handle of mmkv_repair, by repair. */
static int make_anew(mmkv_store *s, uint64_t physical)
{
    be_settler(s);
    int rc = s->repair ? repair_alone(s, physical, same_identity(s)) : recover(s, NULL);
    if (!rc && control_of(s)->failed) rc = checkpoint_rewrite(s);
    s->me = 0;
    return rc;
}

/* A clean file was closed by the last writer out. Locks that look held were taken since by one who wrote nothing (verify
 * takes them); an operation under way there cannot have been. */
static bool clear_locks(mmkv_store *s)
{
    struct fmt_allocator *p = allocator_of(s);
    bool quiet = !p->log.count && !(p->l.version & 1);
    for (uint32_t i = 0; i < s->shard_count; i++) {
        struct fmt_shard *sh = shard_of(s, i);
        quiet = quiet && !sh->log.count && !sh->log.transaction && !(sh->l.version & 1);
        store32(&sh->l.lock, 0);
    }
    store32(&p->l.lock, 0);
    store32(&control_of(s)->checkpoint_lock, 0);
    memset(s->head + FMT_PROCESSES_AT, 0, FMT_ALLOCATOR_AT - FMT_PROCESSES_AT);
    return quiet;
}

/* Nobody else is attached: make the volatile state one that can be used. */
static int prepare_alone(mmkv_store *s, uint64_t physical)
{
    int which = slot_newest(s), rc;
    bool readers = false;
    if (s->repair) {
        if ((rc = os_lock_held(s->fd, FMT_LOCK_READER, 1, &readers))) return rc;
        if (readers) return fail(MMKV_IN_USE, 0, "a repair has to wait until the store's read-only openers have left");
        return make_anew(s, physical);
    }
    if (which < 0) return fail(MMKV_CORRUPT, FMT_SLOT_A_AT, "no valid checkpoint slot");
    if ((rc = check_reaches(physical, slot_of(s, which)->file_length))) return rc;
    bool clean = slot_clean(s, which) && !control_of(s)->failed;
    if ((clean || same_identity(s)) && control_plausible(s, physical)) {
        bool good = clean;
        if (clean) {
            good = clear_locks(s);
            control_of(s)->clean = 1;
        } else {
            be_settler(s);
            if (!(rc = settle_dead(s, true)) && agrees_with_slot(s, slot_of(s, which))) rc = check_totals(s, &good);
            s->me = 0;
            if (rc && rc != MMKV_CORRUPT) return rc;
        }
        if (good) {
            control_of(s)->flushed_zones = 0; /* the file may be a copy: what the disk has of that is not known */
            return 0;
        }
    }
    if (!s->private_ && (rc = os_lock_held(s->fd, FMT_LOCK_READER, 1, &readers))) return rc;
    if (readers)
        return fail(MMKV_IN_USE, 0, "the store needs recovery, which has to wait until its read-only openers have left");
    return make_anew(s, physical);
}

/* Of a process that is killed the kernel may let go of the attach lock before the byte of its slot. So who was the last one
 * out, and died between the mark on the disk and the one in memory, may seem to be there, and nobody has prepared: the first
 * write is still to take the mark back. Of a live one that writes no such thing is seen: its slot changes first. */
static void mend_clean(mmkv_store *s)
{
    struct fmt_control *control = control_of(s);
    if (load32(&control->clean)) return;
    atomic_thread_fence(memory_order_acquire); /* pairs with the flush in checkpoint_mark_dirty */
    int which = slot_newest(s);
    if (which >= 0 && slot_clean(s, which)) store32(&control->clean, 1);
}

static int attach_writer(mmkv_store *s, bool alone, uint64_t physical)
{
    int rc;
    uint32_t slot;
    if (!alone && s->repair) return fail(MMKV_IN_USE, 0, "a repair needs that nobody has the store open");
    if (alone && (rc = prepare_alone(s, physical))) return rc;
    mend_clean(s);
    rc = take_own_slot(s, &slot);
    if (rc == MMKV_IN_USE) { /* some may be of the dead */
        be_settler(s);
        if ((rc = settle_dead(s, false)) || (rc = take_own_slot(s, &slot))) return rc;
    }
    if (rc) return rc;
    slot_own(s, slot);
    /* A lock that names this slot already is nobody's: we would wait for ourselves. */
    if ((rc = settle_locks(s, slot)) || (rc = settle_dead(s, false))) return rc;
    store(&control_of(s)->attach_count, control_of(s)->attach_count + 1);
    stamp_identity(s);
    return 0;
}

static int attach_private(mmkv_store *s, bool alone, uint64_t physical)
{
    void *page;
    if (!alone) return fail(MMKV_IN_USE, 0, "a private copy (mode \"p\") needs that nobody has the store open for writing");
    int rc = os_map_page(s->fd, FMT_CONTROL_AT, &page);
    if (rc) return rc;
    s->shared_control = (const struct fmt_control *)(const void *)((uint8_t *)page + FMT_CONTROL_AT % os_map_page_size());
    s->attach_seen = load_acquire(&s->shared_control->attach_count);
    if ((rc = prepare_alone(s, physical))) return rc;
    memset(s->head + FMT_PROCESSES_AT, 0, FMT_ALLOCATOR_AT - FMT_PROCESSES_AT);
    slot_own(s, 1);
    return settle_locks(s, 1); /* as in attach_writer */
}

static int attach_reader(mmkv_store *s, bool alone, uint64_t physical)
{
    bool got;
    int which = slot_newest(s);
    if (alone) {
        if (which < 0) return fail(MMKV_CORRUPT, FMT_SLOT_A_AT, "no valid checkpoint slot");
        if (!slot_clean(s, which) && (!same_identity(s) || !agrees_with_slot(s, slot_of(s, which))))
            return fail(MMKV_NEEDS_RECOVERY, 0, "the store was not closed cleanly and needs recovery, for which it must be opened "
                        "with mode \"w\"; mode \"p\" opens it without touching the file");
        if (!control_plausible(s, physical)) return fail(MMKV_CORRUPT, FMT_CONTROL_AT, "the control area is damaged or the file was truncated");
    }
    int rc = os_lock(s->fd, FMT_LOCK_READER, 1, OS_LOCK_READ, &got);
    return rc || got ? rc : fail(MMKV_IN_USE, 0, "a foreign program has locked the byte of read-only openers");
}

/* Before anything is written there, too: no store is made where it could not be opened. */
int attach_check_place(int fd, bool any_file_system)
{
    const char *name, *why;
    if (any_file_system || os_file_system_is_local(fd, &name, &why)) return 0;
    return fail(MMKV_FILE_SYSTEM, 0, "its file system is %s, %s", name, why);
}

/* s->fd is open, its identity known, and the superblock has been checked. */
int attach(mmkv_store *s, int mode, bool any_file_system)
{
    bool there = false;
    uint64_t physical;
    int rc = attach_check_place(s->fd, any_file_system);
    if (rc) return rc;
    s->whole_extents = os_frees_whole_extents(s->fd);
    bool writer = s->writable && !s->private_;
    if (s->attach_fd < 0 && (rc = attach_lock(s, writer ? OS_LOCK_WRITE : OS_LOCK_READ))) return rc; /* else by create() */
    if ((rc = os_length(s->fd, &physical))) goto out;
    if (physical < s->zones_start) {
        rc = fail(MMKV_CORRUPT, physical, "the file was truncated: it has only %llu bytes", (unsigned long long)physical);
        goto out;
    }
    if ((rc = map_open(s, s->zones_start)) || (rc = others(s, &there))) goto out;
    if (there && (rc = handle_whole(s))) goto out;
    rc = mode == MMKV_MODE_PRIVATE ? attach_private(s, !there, physical)
       : writer ? attach_writer(s, !there, physical) : attach_reader(s, !there, physical);
    if (!rc) rc = map_all(s);
out:;
    int keep = attach_unlock(s);
    return rc ? rc : keep;
}

/* ---- detach ---- */

/* A handle being closed is past giving up: a signal only means to ask again. Behind one who is stopped it leaves as the dead
 * do, who are settled by whoever comes next. */
static int lock_to_leave(mmkv_store *s)
{
    int rc;
    while ((rc = attach_lock(s, OS_LOCK_WRITE)) == MMKV_INTERRUPTED) {}
    return rc;
}

/* What is not durable yet, if anything is; a signal does not end it. */
static int checkpoint_rest(mmkv_store *s)
{
    uint64_t epoch = 0;
    int rc = 0;
    if (checkpoint_wanted(s)) while ((rc = checkpoint(s, &epoch)) == MMKV_INTERRUPTED) {}
    return rc;
}

int detach(mmkv_store *s, int with_checkpoint)
{
    bool there = false;
    int rc = 0, rc2;
    if (!s->writable || s->private_ || !s->slot_page) return 0;
    if ((rc = handle_whole(s))) return rc; /* nothing in it is worth a store any more */
    if (with_checkpoint) rc = checkpoint_rest(s);
    /* Marking clean needs that nobody comes or writes meanwhile. */
    if (!(rc2 = lock_to_leave(s))) {
        bool left = false; /* a reservation that could not be handed back leaves the slot to be settled */
        for (int i = 0; i < 4; i++) left |= reservation_give(s, &process_of(s, s->slot)->reserved_extent[i], 0) != 0;
        if (with_checkpoint && !left && !rc && !(rc = others(s, &there)) && !there && !checkpoint_marked_clean(s)) {
            rc = settle_dead(s, true); /* a clean file is trusted as it is: nothing of the dead may be left in it */
            if (!rc) rc = checkpoint_rest(s); /* of what others wrote since */
            if (!rc) rc = checkpoint_mark_clean(s);
        }
        if (!left) store32(&process_of(s, s->slot)->state, 0);
    }
    os_release_byte(s->slot_page);
    s->slot_page = NULL;
    if (!rc2) rc2 = attach_unlock(s);
    return rc ? rc : rc2;
}
