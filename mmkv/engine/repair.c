/* repair.c: a damaged file whose loss can be named is made whole in place.
 *
 * Everything volatile is made anew, as by recovery, from the zone table, the descriptors and the epoch words. Of those,
 * and of records, what is damaged is set right where that can be known (one flipped bit of a word that carries a check;
 * a zone's entry between two good ones), and else told and left out. Nothing is lost in silence: when more records are
 * missing than were told, the file is left as it is, and salvage is for it.
 *
 * Steps, each of which may be the last before a SIGKILL or a power cut; done again from the start it comes to the same:
 *  1. choose C, the state to go back to, and look: nothing durable is changed but what rollbacks and mended zone entries
 *     change, which are right before and after;
 *  2. unless the slot says C and the true count already: flush all, write the other slot with these, flush it, then
 *     the first one alike. Until then the first slot stands, and all that it counts is still there; after it the damaged
 *     records are not counted, and still there: looked at again, they are told again;
 *  3. recovery to C, which now leaves out what was told, and flushes that before any later slot is written. */
#include "engine.h"

/* What the file is brought back to. */
struct basis {
    uint64_t c, length;          /* the epoch; where the last zone ends */
    int slot;                    /* the newest valid one, or -1 */
    bool torn;                   /* the other slot is damaged, and may have been the newer */
    bool now;                    /* the memory is what was last written: all of it, not just the slot's checkpoint */
};

/* ---- the superblock ---- */

static bool superblock_good(const struct fmt_superblock *b)
{
    return !memcmp(b->magic, FMT_MAGIC, 8) && b->checksum == engine_hash(b, offsetof(struct fmt_superblock, checksum), 0);
}

/* Make superblock and copy alike, from whichever is good; with neither, opening says what is wrong. */
int repair_superblock(int fd, struct repair *repair)
{
    union { struct fmt_superblock super; uint8_t bytes[FMT_PAGE]; } page, copy;
    size_t n, m;
    memset(&page, 0, sizeof page);
    memset(&copy, 0, sizeof copy);
    int rc = os_read(fd, &page, sizeof page, FMT_SUPERBLOCK_AT, &n);
    if (rc || (rc = os_read(fd, &copy, sizeof copy, FMT_SUPERBLOCK_COPY_AT, &m))) return rc;
    bool page_good = superblock_good(&page.super), copy_good = superblock_good(&copy.super);
    if (page_good == copy_good) return 0;
    uint64_t to = page_good ? FMT_SUPERBLOCK_COPY_AT : FMT_SUPERBLOCK_AT;
    if (repair->problem)
        repair->problem(repair->context, "superblock", NULL, 0, to, page_good ? "the superblock's copy was damaged and is made anew"
                                                                             : "the superblock was damaged and its copy is put in its place");
    if ((rc = os_write(fd, page_good ? &page : &copy, sizeof page, to))) return rc;
    return os_flush_file(fd);
}

/* ---- the state to go back to ---- */

/* Not one whose writer died at it, or whose flush failed, which has no magic. (A new store's slot B is zeros, until there are
 * records.) */
static bool slot_damaged(const mmkv_store *s, int which)
{
    static const struct fmt_slot none;
    const struct fmt_slot *slot = slot_of(s, which);
    return !slot_valid(s, which) && (memcmp(slot->magic, none.magic, sizeof none.magic)
                                     || (!memcmp(slot, &none, offsetof(struct fmt_slot, clean)) && slot_of(s, !which)->epoch > 1));
}

static void choose(mmkv_store *s, bool same_boot, struct basis *b)
{
    const struct fmt_control *control = control_of(s);
    b->slot = slot_newest(s);
    const struct fmt_slot *slot = b->slot < 0 ? NULL : slot_of(s, b->slot);
    uint64_t above = slot ? slot->epoch : 0;
    b->c = above;
    b->length = slot ? slot->file_length : s->zones_start;
    b->now = b->torn = false;
    if (slot && slot_clean(s, b->slot)) return;
    if (same_boot && control->epoch > above && control->epoch < FMT_EPOCH_MASK) b->c = control->epoch;
    /* An orderly end, whose slot was damaged since. */
    else if (control->clean == 1 && !control->failed && control->durable > above && control->durable < FMT_EPOCH_MASK) b->c = control->durable;
    b->now = b->c != above;
    b->torn = !b->now && b->slot >= 0 && slot_damaged(s, !b->slot);
}

/* What killed writers had under way. */
static void roll_back(mmkv_store *s)
{
    for (uint32_t i = 0; i < s->shard_count; i++) {
        struct op op;
        struct fmt_shard *sh = shard_of(s, i);
        op_open(&op, s, &sh->l, &sh->log, 0);
        op.sh = sh;
        op.shard = i;
        if (sh->log.count || sh->log.transaction) transaction_undo(&op);
    }
}

/* ---- the zone table ---- */

/* Does a heap zone here have any extent? No other contents look so, since checks cover the position. */
static bool looks_like_heap(mmkv_store *s, uint64_t i)
{
    struct zone zone;
    if (zone_get(s, i, &zone) || !zone.extents) return false;
    for (uint64_t page = zone.first; page < zone.pages; page++) {
        const struct fmt_extent *e = &zone.extents[page];
        uint64_t e_at = offset_of(s, e);
        if (e->born && fmt_stamp_ok(e->born, e_at) && extent_sealed(e, e_at)) return true;
    }
    return false;
}

/* Entries that do not hold, but whose zone is known by the next one, or by the length of the file at C. */
static int mend_zones(struct recovery *r, struct basis *b, uint64_t physical)
{
    mmkv_store *s = r->s;
    uint64_t limit = b->now ? physical / FMT_PAGE * FMT_PAGE : b->length;
    int rc = check_reaches(physical, limit);
    if (rc) return rc;
    control_of(s)->file_length = limit;
    for (;;) {
        uint64_t n = zones_valid(s, FMT_ZONES, limit), end = s->zones_start;
        if (n) end = zone_of(s, n - 1)->offset + zone_of(s, n - 1)->pages * FMT_PAGE;
        uint64_t stop = n + 1 < FMT_ZONES && zone_of(s, n + 1)->checksum == zone_checksum(s, n + 1) ? zone_of(s, n + 1)->offset : b->length;
        if (n == FMT_ZONES || end >= b->length || stop <= end || stop > limit) {
            b->length = end;
            return 0;
        }
        uint64_t pages = (stop - end) / FMT_PAGE;
        zone_entry_write(s, n, end, pages, FMT_ZONE_HEAP);
        if (zones_valid(s, n + 1, limit) != n + 1) {
            b->length = end; /* more than one entry is gone: what was there will be missed */
            return 0;
        }
        if (!looks_like_heap(s, n)) zone_entry_write(s, n, end, pages, FMT_ZONE_INDEX);
        damage(r, "zone", NULL, 0, FMT_ZONES_AT + n * sizeof(struct fmt_zone), "the entry of zone %llu was damaged and is made anew",
               (unsigned long long)n);
    }
}

/* ---- what is there ---- */

static int refuse(uint64_t counted, uint64_t found, uint64_t lost)
{
    return fail(MMKV_CORRUPT, 0, "%llu records were counted and only %llu are there, with %llu damaged ones: this cannot be repaired "
                "without losing more than can be told", (unsigned long long)counted, (unsigned long long)found, (unsigned long long)lost);
}

/* Is all that was counted there, but for what was told? The slot's count carries a checksum. Those of the shards do not:
 * one of count and sum may be damaged itself. */
static int nothing_missing(const struct recovery *r, const struct basis *b)
{
    const struct repair *repair = r->repair;
    uint64_t lost = 0, counted = 0;
    bool missing = false;
    for (uint32_t i = 0; i < r->s->shard_count; i++) {
        const struct fmt_shard *sh = shard_of(r->s, i);
        uint64_t count = sh->count[sh->epoch & 1], sum = sh->sum[sh->epoch & 1];
        lost += repair->lost[i];
        counted += count;
        if (repair->lost[i]) missing |= count < repair->count[i] || count > repair->count[i] + repair->lost[i];
        else missing |= count != repair->count[i] && sum != repair->sum[i];
    }
    if (!b->now) {
        const struct fmt_slot *slot = slot_of(r->s, b->slot);
        counted = slot->record_count;
        missing = lost && !b->torn ? counted < r->count || counted > r->count + lost : counted != r->count || slot->record_sum != r->sum;
    }
    return missing ? refuse(counted, r->count, lost) : 0;
}

static int look(struct recovery *r, const struct basis *b)
{
    mmkv_store *s = r->s;
    int rc = 0;
    r->look = true;
    uint64_t zones = zones_valid(s, FMT_ZONES, b->length);
    for (uint64_t i = 0; i < zones && !rc; i++) rc = recover_zone(r, i);
    if (!rc && s->progress && s->progress(s->progress_context, r->count, 2 * r->count)) rc = fail(MMKV_STOPPED, 0, "the repair was stopped");
    return rc ? rc : nothing_missing(r, b);
}

/* Step 2. Two equal slots are as good as one; the next checkpoint writes B. */
static int write_true_slots(const struct recovery *r, const struct basis *b)
{
    mmkv_store *s = r->s;
    struct fmt_slot values = { .epoch = b->c, .file_length = b->length, .record_count = r->count, .record_sum = r->sum,
                               .time_ns = os_now_ns() };
    memcpy(values.magic, FMT_SLOT_MAGIC, 8);
    const void *whole = at(s, 0, b->length);
    int rc = whole ? checkpoint_flush(s, whole, b->length) : fail(MMKV_CORRUPT, 0, "the file is shorter than its zones");
    int first = b->slot == 0; /* the one that does not stand */
    if (!rc) rc = slot_write(s, first, &values);
    return rc ? rc : slot_write(s, !first, &values);
}

/* The attach lock is held and nobody is attached or reading. */
int repair_alone(mmkv_store *s, uint64_t physical, bool same_boot)
{
    struct basis b;
    choose(s, same_boot, &b);
    if (b.slot < 0 && !b.now) return fail(MMKV_CORRUPT, FMT_SLOT_A_AT, "no valid checkpoint slot: this cannot be repaired");
    struct recovery r = { .s = s, .c = b.c, .repair = s->repair, .look = true };
    r.expected = b.slot < 0 ? 0 : 2 * slot_of(s, b.slot)->record_count;
    if (b.slot >= 0 && slot_damaged(s, !b.slot))
        damage(&r, "slot", NULL, 0, b.slot ? FMT_SLOT_A_AT : FMT_SLOT_B_AT, b.torn
               ? "a checkpoint slot is damaged: if it was the newer one, the store is back at the checkpoint before it"
               : "a checkpoint slot is damaged");
    int rc = mend_zones(&r, &b, physical);
    if (!rc && b.now) roll_back(s);
    if (!rc) rc = look(&r, &b);
    s->repair->records = r.count;
    if (!rc && (b.now || !slot_valid(s, !b.slot) || r.count != slot_of(s, b.slot)->record_count)) rc = write_true_slots(&r, &b);
    return rc ? rc : recover(s, s->repair);
}
