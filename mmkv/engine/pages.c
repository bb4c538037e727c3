/* pages.c: zones, and the page allocator that hands out extents of them.
 *
 * The allocator has lock, version and log like a shard, and comes last in lock order (R24). Every extent it gives out is
 * written, in the same operation, into a word of the taker (a shard's reserve word, a process slot's reserved_extent);
 * what a taker hands back it names in a word first (a release word). So an extent always has exactly one owner: whoever
 * settles a dead shard or slot finds the word and finishes the job.
 *
 * A bitmap may have more words than a log has entries, so the bits of the one extent an operation moves are covered by
 * an intent: while the log is not empty, rollback sets all of the extent's bits back to what they were. */
#include "engine.h"

enum { HARVEST_PER_TAKE = 4, HARVEST_PER_BATCH = 64, SHARE_NS = 100000 };

/* ---- bits ---- */

void bits_set(uint64_t *bits, uint64_t from, uint64_t count, bool value)
{
    for (uint64_t i = from, end = from + count; i < end;) {
        uint64_t in = i & 63, n = 64 - in < end - i ? 64 - in : end - i;
        uint64_t mask = (n == 64 ? ~0ull : (1ull << n) - 1) << in, *word = &bits[i >> 6];
        store(word, value ? load(word) | mask : load(word) & ~mask);
        i += n;
    }
}

/* The first bit equal to `value` in [from, end), or end. */
uint64_t next_bit(const uint64_t *bits, uint64_t from, uint64_t end, bool value)
{
    for (uint64_t i = from; i < end; i = (i | 63) + 1) {
        uint64_t w = (value ? load(&bits[i >> 6]) : ~load(&bits[i >> 6])) >> (i & 63);
        if (w) {
            i += (uint64_t)__builtin_ctzll(w);
            return i < end ? i : end;
        }
    }
    return end;
}

/* The free pages of 64; `backed`: those that are no holes. */
static uint64_t free_word(const struct zone *zone, uint64_t word, bool backed)
{
    return load(&zone->free[word]) & (backed ? ~load(&zone->holes[word]) : ~0ull);
}

/* A run of 1 << order free pages at a multiple of its length, or the zone's end. */
static uint64_t find_aligned(const struct zone *zone, uint64_t from, uint32_t order, bool backed)
{
    static const uint64_t starts[] = { ~0ull, 0x5555555555555555ull, 0x1111111111111111ull, 0x0101010101010101ull,
                                       0x0001000100010001ull };
    for (uint64_t i = from & ~63ull; i < zone->pages; i += 64) {
        uint64_t w = free_word(zone, i >> 6, backed);
        for (uint32_t k = 0; k < order; k++) w &= w >> (1u << k);
        w &= starts[order];
        if (w) return i + (uint64_t)__builtin_ctzll(w);
    }
    return zone->pages;
}

static uint64_t find_run(const struct zone *zone, uint64_t from, uint64_t pages, bool backed)
{
    uint64_t end = zone->pages;
    for (uint64_t i = next_bit(zone->free, from, end, true); i < end;) {
        uint64_t stop = next_bit(zone->free, i, i + pages < end ? i + pages : end, false);
        uint64_t hole = backed ? next_bit(zone->holes, i, stop, true) : stop;
        if (hole - i >= pages) return i;
        i = next_bit(zone->free, hole < stop ? next_bit(zone->holes, hole, end, false) : stop, end, true);
    }
    return end;
}

/* ---- zones ---- */

static uint64_t extents_at(uint64_t pages) { return (2 * 8 * bitmap_words(pages) + 63) & ~63ull; }
static uint64_t zone_overhead(uint32_t kind, uint64_t pages)
{
    return pages_of(extents_at(pages) + (kind == FMT_ZONE_HEAP ? pages * sizeof(struct fmt_extent) : 0));
}

uint64_t zone_checksum(const mmkv_store *s, uint64_t i)
{
    return engine_hash(zone_of(s, i), offsetof(struct fmt_zone, checksum),
                       s->seed ^ (FMT_ZONES_AT + i * sizeof(struct fmt_zone)));
}

void zone_entry_write(mmkv_store *s, uint64_t i, uint64_t offset, uint64_t pages, uint32_t kind)
{
    struct fmt_zone *z = zone_of(s, i);
    *z = (struct fmt_zone){ .offset = offset, .pages = pages, .kind = kind };
    z->checksum = zone_checksum(s, i);
}

/* Entries that follow each other without a gap and end below `length`; the first that does not ends the table. */
uint64_t zones_valid(mmkv_store *s, uint64_t most, uint64_t length)
{
    uint64_t end = s->zones_start, i;
    for (i = 0; i < most && i < FMT_ZONES; i++) {
        const struct fmt_zone *z = zone_of(s, i);
        if (z->offset != end || z->checksum != zone_checksum(s, i)) break;
        if (z->kind != FMT_ZONE_HEAP && z->kind != FMT_ZONE_INDEX) break;
        if (z->pages < FMT_ZONE_PAGES_MIN || z->pages > UINT32_MAX || z->pages % 16) break;
        if (z->pages * FMT_PAGE > length || end > length - z->pages * FMT_PAGE) break;
        end += z->pages * FMT_PAGE;
    }
    return i;
}

uint64_t zones_end(mmkv_store *s)
{
    uint64_t count = load(&allocator_of(s)->zone_count);
    if (!count || count > FMT_ZONES) return s->zones_start;
    return zone_of(s, count - 1)->offset + zone_of(s, count - 1)->pages * FMT_PAGE;
}

int zone_get(mmkv_store *s, uint64_t i, struct zone *zone)
{
    const struct fmt_zone *z = zone_of(s, i);
    if (i >= FMT_ZONES) return fail(MMKV_CORRUPT, FMT_ALLOCATOR_AT, "more zones than fit the table");
    zone->number = i;
    zone->offset = load(&z->offset);
    zone->pages = load(&z->pages);
    zone->kind = z->kind;
    if (zone->pages > UINT32_MAX) return fail(MMKV_CORRUPT, FMT_ZONES_AT + 32 * i, "zone %llu is too long", (unsigned long long)i);
    uint8_t *p = at(s, zone->offset, zone->pages * FMT_PAGE);
    if (!p) return fail(MMKV_CORRUPT, FMT_ZONES_AT + 32 * i, "zone %llu lies outside the file", (unsigned long long)i);
    zone->free = (uint64_t *)(void *)p;
    zone->holes = zone->free + bitmap_words(zone->pages);
    zone->extents = zone->kind == FMT_ZONE_HEAP ? (struct fmt_extent *)(void *)(p + extents_at(zone->pages)) : NULL;
    zone->first = zone_overhead(zone->kind, zone->pages);
    return 0;
}

/* Zones lie in ascending order without gaps: bisect. */
int zone_find(mmkv_store *s, uint64_t offset, struct zone *zone)
{
    uint64_t low = 0, high = load_acquire(&allocator_of(s)->zone_count); /* pairs with the fence in `grow`: before any entry */
    if (high > FMT_ZONES) high = FMT_ZONES;
    while (low < high) {
        uint64_t middle = (low + high) / 2;
        const struct fmt_zone *z = zone_of(s, middle);
        if (offset < load(&z->offset)) high = middle;
        else if (offset - load(&z->offset) >= load(&z->pages) * FMT_PAGE) low = middle + 1;
        else return zone_get(s, middle, zone);
    }
    return fail(MMKV_CORRUPT, offset, "offset %llu is in no zone", (unsigned long long)offset);
}

struct fmt_extent *extent_at(mmkv_store *s, uint64_t offset)
{
    struct zone zone;
    if (zone_find(s, offset, &zone) || !zone.extents) return NULL;
    uint64_t page = (offset - zone.offset) >> FMT_PAGE_SHIFT;
    return page < zone.first ? NULL : &zone.extents[page];
}

/* All pages but the zone's own free, none a hole. */
void zone_format(struct zone *zone)
{
    uint64_t words = bitmap_words(zone->pages);
    memset(zone->free, 0, words * 8);
    memset(zone->holes, 0, words * 8);
    bits_set(zone->free, zone->first, zone->pages - zone->first, true);
}

/* ---- the allocator's lock ---- */

/* Begin an operation of the allocator, without an intent: the last operation's must not be taken for this one's. */
static void begin(struct op *a)
{
    store(&allocator_of(a->s)->intent_pages, 0);
    kill_fence();
    op_begin(a);
}

/* Before the first logged store. */
static void intent(struct op *a, uint64_t offset, uint64_t pages, bool give)
{
    struct fmt_allocator *p = allocator_of(a->s);
    store(&p->intent_offset, offset);
    store(&p->intent_give, give);
    store(&p->intent_pages, pages);
    kill_fence();
}

int pages_undo(struct op *a)
{
    struct fmt_allocator *p = allocator_of(a->s);
    struct zone zone;
    if (load(&p->log.count) && load(&p->intent_pages) && !zone_find(a->s, load(&p->intent_offset), &zone)) {
        uint64_t page = (load(&p->intent_offset) - zone.offset) >> FMT_PAGE_SHIFT, pages = load(&p->intent_pages);
        if (page >= zone.first && pages <= zone.pages - page) bits_set(zone.free, page, pages, !load(&p->intent_give));
    }
    return op_rollback(a);
}

int pages_lock(mmkv_store *s, struct op *a, unsigned flags)
{
    struct fmt_allocator *p = allocator_of(s);
    uint32_t dead;
    int rc = map_all(s);
    if (rc || (rc = lock_word(s, &p->l.lock, flags, &dead))) return rc;
    op_open(a, s, &p->l, &p->log, flags & ~(unsigned)INTERRUPTIBLE);
    a->sh = NULL;
    if (unlikely(load(&p->failed))) rc = fail_unusable(s, NULL);
    else if (unlikely(dead)) rc = pages_undo(a);
    if (unlikely(rc)) pages_unlock(a);
    return rc;
}

/* Free the allocator's lock if the dead owner of a slot holds it, without waiting. The attach lock is held. */
void pages_settle_owner(mmkv_store *s, uint32_t owner)
{
    struct fmt_allocator *p = allocator_of(s);
    uint32_t seen = load32(&p->l.lock);
    struct op a;
    if (!seen || (seen & FMT_LOCK_OWNER) != owner) return;
    if (!__atomic_compare_exchange_n(&p->l.lock, &seen, s->me | FMT_LOCK_WAITERS, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) return;
    guard_hold(&p->l.lock);
    op_open(&a, s, &p->l, &p->log, 0);
    a.sh = NULL;
    if (!load(&p->failed)) pages_undo(&a);
    pages_unlock(&a);
}

void pages_unlock(struct op *a)
{
    unlock_word(a->s, &a->l->lock);
}

/* ---- giving back ---- */

/* Pages of a zone none of which is free: else the file lies, and they would be given back twice, perhaps for ever. */
static bool in_use(const struct zone *zone, uint64_t page, uint64_t pages)
{
    return pages && pages <= zone->pages - page && next_bit(zone->free, page, page + pages, true) == page + pages;
}

/* Make an extent's pages allocatable, as one operation; `word`, the one that named it, becomes `word_value`. */
static void free_extent(struct op *a, struct zone *zone, uint64_t page, uint64_t pages, uint64_t *word, uint64_t word_value)
{
    struct fmt_zone_state *state = zone_state_of(a->s, zone->number);
    struct fmt_allocator *p = allocator_of(a->s);
    begin(a);
    intent(a, zone->offset + page * FMT_PAGE, pages, true);
    set(a, WORD(state->free), pair(state->free + (uint32_t)pages, (uint32_t)zone->pages));
    if (page < state->hint) set(a, WORD(state->hint), pair((uint32_t)page, 0));
    set(a, &p->free_pages, p->free_pages + pages);
    set(a, word, word_value);
    bits_set(zone->free, page, pages, true);
    op_commit(a);
}

/* Take extents whose death is durable off the head of the queue, at most `most`. */
static int harvest(struct op *a, int most)
{
    struct fmt_allocator *p = allocator_of(a->s);
    uint64_t durable = load_acquire(&control_of(a->s)->durable);
    while (most-- > 0 && p->waiting_head) {
        uint64_t offset = p->waiting_head << FMT_PAGE_SHIFT;
        struct zone zone;
        int rc = zone_find(a->s, offset, &zone);
        uint64_t page = rc ? 0 : (offset - zone.offset) >> FMT_PAGE_SHIFT;
        if (rc || !zone.extents || page < zone.first || !in_use(&zone, page, zone.extents[page].pages)
            || !fmt_epoch_of(zone.extents[page].dead))
            return fail(MMKV_CORRUPT, offset, "the queue of dead extents leads to no dead extent");
        struct fmt_extent *e = &zone.extents[page];
        if (fmt_epoch_of(e->dead) > durable) return 0;
        uint64_t next = e->link & FMT_LINK_MASK;
        /* Two operations, the first moving the extent from the queue to a word: killed in between, the word is found. */
        begin(a);
        set(a, &p->waiting_head, next);
        if (!next) set(a, &p->waiting_tail, 0);
        set(a, &p->waiting_pages, p->waiting_pages - e->pages);
        set(a, &p->harvesting, offset);
        op_commit(a);
        free_extent(a, &zone, page, e->pages, &p->harvesting, 0);
    }
    return 0;
}

/* What a settled allocator may have been doing. */
static int finish_harvest(struct op *a)
{
    struct fmt_allocator *p = allocator_of(a->s);
    struct zone zone;
    uint64_t offset = p->harvesting;
    if (!offset) return 0;
    int rc = zone_find(a->s, offset, &zone);
    if (rc) return rc;
    uint64_t page = (offset - zone.offset) >> FMT_PAGE_SHIFT;
    if (!zone.extents || page < zone.first || !in_use(&zone, page, zone.extents[page].pages))
        return fail(MMKV_CORRUPT, offset, "the allocator harvests what is no extent");
    free_extent(a, &zone, page, zone.extents[page].pages, &p->harvesting, 0);
    return 0;
}

/* Hand back the extent that `word` names; afterwards the word is 0. Heap extents that died after their epoch of birth
 * wait in the queue until their death is durable; what never was published, or was born and died in one epoch, and
 * everything of the index, is free at once. */
int pages_give(mmkv_store *s, uint64_t *word, unsigned flags)
{
    struct op a;
    struct zone zone;
    if (!load(word)) return 0;
    int rc = pages_lock(s, &a, flags);
    if (rc) return rc;
    /* Only now: taking the lock over from the dead may have undone the operation that stored it. */
    uint64_t value = load(word), offset = value & ~(uint64_t)(FMT_PAGE - 1), pages = value & (FMT_PAGE - 1);
    struct fmt_allocator *p = allocator_of(s);
    if (!value) goto out;
    if ((rc = finish_harvest(&a)) || (rc = zone_find(s, offset, &zone))) goto out;
    uint64_t page = (offset - zone.offset) >> FMT_PAGE_SHIFT;
    struct fmt_extent *e = zone.extents ? &zone.extents[page] : NULL;
    if (e) pages = e->pages;
    if (page < zone.first || !in_use(&zone, page, pages)) {
        rc = fail(MMKV_CORRUPT, offset, "an extent to be freed does not lie in its zone");
        goto out;
    }
    uint64_t born = e ? fmt_epoch_of(e->born) : 0, dead = e ? fmt_epoch_of(e->dead) : 0;
    if (!born || born == dead || dead <= load_acquire(&control_of(s)->durable)) {
        free_extent(&a, &zone, page, pages, word, 0);
    } else {
        begin(&a);
        set(&a, &e->link, (e->link & ~FMT_LINK_MASK));
        if (p->waiting_tail) {
            struct fmt_extent *tail = extent_at(s, p->waiting_tail << FMT_PAGE_SHIFT);
            if (tail) set(&a, &tail->link, (tail->link & ~FMT_LINK_MASK) | offset >> FMT_PAGE_SHIFT);
        } else {
            set(&a, &p->waiting_head, offset >> FMT_PAGE_SHIFT);
        }
        set(&a, &p->waiting_tail, offset >> FMT_PAGE_SHIFT);
        set(&a, &p->waiting_pages, p->waiting_pages + pages);
        set(&a, word, 0);
        op_commit(&a);
    }
out:
    pages_unlock(&a);
    return rc;
}

/* ---- taking ---- */

/* Reserve the space of a zone, or none at all: what a failed attempt may have got is for others to use. A file system
 * that gives back only whole reservations must not have the zone's own pages in one with the rest, see holes.c. */
static int reserve_zone(mmkv_store *s, uint32_t kind, uint64_t offset, uint64_t pages, uint64_t physical)
{
    uint64_t own = s->whole_extents ? zone_overhead(kind, pages) * FMT_PAGE : 0;
    if (s->private_) return 0;
    int rc = own ? os_allocate(file_of(s), offset, own) : 0;
    if (!rc) rc = os_allocate(file_of(s), offset + own, pages * FMT_PAGE - own);
    if (rc) {
        mmkv_failure kept = *mmkv_failure_get();
        os_set_length(file_of(s), physical); /* nobody maps what lies beyond control->file_length */
        fail_again(&kept);
    }
    return rc;
}

/* Make the file longer by a zone that holds an extent of `pages`. The steps, and what a SIGKILL after each leaves:
 * reserve space (a longer file, which the next growth uses); publish the length (the same); format the zone (bytes past
 * the last zone); publish the zone. */
static int grow(struct op *a, uint32_t kind, uint64_t pages)
{
    mmkv_store *s = a->s;
    struct fmt_control *control = control_of(s);
    struct fmt_allocator *p = allocator_of(s);
    uint64_t offset = zones_end(s), limit = s->max_size ? s->max_size : 1ull << 47, physical = 0;
    if (a->flags & NO_GROWTH) return MMKV_FULL;
    if (a->flags & MMKV_NO_WAIT) return MMKV_WOULD_BLOCK;
    if (p->zone_count >= FMT_ZONES) return fail(MMKV_FULL, 0, "the zone table is full");
    uint64_t least = pages + 1, step = offset * 3 / 200 / FMT_PAGE; /* 1.5 % of the file (R42) */
    while (least - zone_overhead(kind, least) < pages) least += zone_overhead(kind, least) - (least - pages) + 1;
    /* aligned chunks need up to 15 pages more */
    least = (least + 15 + 15) / 16 * 16;
    if (least < FMT_ZONE_PAGES_MIN) least = FMT_ZONE_PAGES_MIN;
    uint64_t want = step > least ? step / 16 * 16 : least;
    if (offset > limit || limit - offset < least * FMT_PAGE)
        return fail(MMKV_FULL, offset, "the store may not grow past %llu bytes%s", (unsigned long long)limit,
                    s->max_size ? " (max_size)" : "");
    if (limit - offset < want * FMT_PAGE) want = least;
    int rc = os_length(file_of(s), &physical);
    if (rc) return rc;
    if (!s->private_ && physical < offset) return handle_whole(s); /* longer again it would only hide what is missing */
    if ((rc = reserve_zone(s, kind, offset, want, physical)) && want > least) rc = reserve_zone(s, kind, offset, want = least, physical);
    if (rc) return rc;
    if (offset + want * FMT_PAGE > control->file_length) {
        begin(a);
        set(a, &control->file_length, offset + want * FMT_PAGE);
        op_commit(a);
    }
    if ((rc = map_all(s))) return rc;
    zone_entry_write(s, p->zone_count, offset, want, kind);
    struct zone zone;
    if ((rc = zone_get(s, p->zone_count, &zone))) return rc;
    if (physical > offset && zone.extents) memset(zone.extents, 0, want * sizeof *zone.extents); /* a dead one's leavings */
    zone_format(&zone);
    struct fmt_zone_state *state = zone_state_of(s, p->zone_count);
    uint32_t free_ = (uint32_t)(want - zone.first);
    op_open(a, s, &p->l, &p->log, a->flags);
    begin(a);
    set(a, WORD(state->free), pair(free_, (uint32_t)want));
    set(a, WORD(state->hint), pair((uint32_t)zone.first, 0));
    set(a, &p->free_pages, p->free_pages + free_);
    set(a, &p->last_zone[kind], p->zone_count);
    set(a, &p->zone_count, p->zone_count + 1); /* the fence of `begin` comes before: pairs with the load in zone_find */
    op_commit(a);
    return 0;
}

static uint64_t search(struct op *a, struct zone *zone, uint64_t pages, bool aligned, bool backed)
{
    struct fmt_zone_state *state = zone_state_of(a->s, zone->number);
    if (state->free < pages || state->run_max < pages) return zone->pages;
    uint64_t from = state->hint < zone->first ? zone->first : state->hint;
    uint64_t page = aligned ? find_aligned(zone, from, (uint32_t)__builtin_ctzll(pages), backed)
                            : find_run(zone, from, pages, backed);
    if (page >= zone->pages || page + pages > zone->pages) {
        if (backed) return zone->pages; /* says nothing of how long the free runs are */
        uint64_t run_max = aligned ? 2 * pages - 2 : pages - 1; /* no longer run can hide */
        if (run_max < state->run_max) {
            begin(a);
            set(a, WORD(state->free), pair(state->free, (uint32_t)run_max));
            op_commit(a);
        }
        return zone->pages;
    }
    return page;
}

/* A free run of `pages` in some zone of the kind; the last zone that had one is asked first. */
static int find(struct op *a, uint32_t kind, uint64_t pages, bool aligned, bool backed, struct zone *zone, uint64_t *page)
{
    struct fmt_allocator *p = allocator_of(a->s);
    uint64_t count = p->zone_count, last = p->last_zone[kind];
    if (count > FMT_ZONES) return fail(MMKV_CORRUPT, FMT_ALLOCATOR_AT, "more zones than fit the table");
    for (uint64_t k = 0; k <= count; k++) {
        uint64_t i = k ? k - 1 : last;
        if (i >= count || (k && i == last) || zone_of(a->s, i)->kind != kind || zone_state_of(a->s, i)->free < pages) continue;
        int rc = zone_get(a->s, i, zone);
        if (rc) return rc;
        if ((*page = search(a, zone, pages, aligned, backed)) < zone->pages) {
            if (i != last) store(&p->last_zone[kind], i); /* a hint, not worth a log entry */
            return 0;
        }
    }
    return MMKV_NOT_FOUND;
}

/* A free run whose space is reserved. The longest of wanted, wanted / 2, ... least comes first, aligned, or if `least` is 0
 * just `wanted`; a new zone last. When the disk has no room for holes, some other run may still have its space. */
static int find_or_grow(struct op *a, uint32_t kind, uint64_t wanted, uint64_t least, struct zone *zone, uint64_t *page, uint64_t *pages)
{
    struct fmt_allocator *p = allocator_of(a->s);
    bool aligned = least != 0, backed = false;
    mmkv_failure full;
    for (;;) {
        int rc;
        for (*pages = wanted; (rc = find(a, kind, *pages, aligned, backed, zone, page)) == MMKV_NOT_FOUND && aligned && *pages > least;)
            *pages /= 2;
        if (!rc) {
            if (next_bit(zone->holes, *page, *page + *pages, true) == *page + *pages) return 0;
            if (a->flags & MMKV_NO_WAIT) return MMKV_WOULD_BLOCK;
            if ((rc = holes_fill(a->s, zone, *page, *pages)) != MMKV_FULL) return rc;
            full = *mmkv_failure_get();
            backed = true;
            continue;
        }
        if (rc != MMKV_NOT_FOUND) return rc;
        /* Rather than grow, collect what is durable; then look again, then grow. */
        uint64_t before = p->free_pages;
        if ((rc = harvest(a, HARVEST_PER_BATCH))) return rc;
        if (p->free_pages != before) continue;
        if (backed) { fail_again(&full); return MMKV_FULL; }
        if ((rc = grow(a, kind, wanted))) return rc;
    }
}

/* Take an extent and note it in `word`. Heap: the descriptor says how long it is and that it is unborn. With `least` the
 * extent is one of *wanted pages at a multiple of its length, or, before the file grows for it, of half as many, and so on
 * down to `least`: odd corners of zones are filled that way. *wanted is what was taken. */
int pages_take(mmkv_store *s, uint32_t kind, uint64_t *wanted, uint64_t least, uint64_t *word, uint64_t *offset, unsigned flags)
{
    struct op a;
    struct zone zone;
    uint64_t page = 0, pages = *wanted;
    if (pages > UINT32_MAX - 65536) return fail(MMKV_INVALID, 0, "an extent of %llu pages is too long", (unsigned long long)pages);
    int rc = pages_lock(s, &a, flags);
    if (rc) return rc;
    struct fmt_allocator *p = allocator_of(s);
    if ((rc = finish_harvest(&a)) || (rc = harvest(&a, HARVEST_PER_TAKE))) goto out;
    if ((rc = find_or_grow(&a, kind, *wanted, least, &zone, &page, &pages))) goto out;
    *wanted = pages;
    struct fmt_zone_state *state = zone_state_of(s, zone.number);
    *offset = zone.offset + page * FMT_PAGE;
    begin(&a);
    intent(&a, *offset, pages, false);
    set(&a, WORD(state->free), pair(state->free - (uint32_t)pages, state->run_max));
    set(&a, &p->free_pages, p->free_pages - pages);
    set(&a, word, *offset | (kind == FMT_ZONE_INDEX ? pages : 0));
    bits_set(zone.free, page, pages, false);
    if (state->hint >= page || next_bit(zone.free, state->hint, page, true) == page)
        set(&a, WORD(state->hint), pair((uint32_t)(page + pages), 0));
    if (zone.extents) {
        struct fmt_extent *e = &zone.extents[page];
        store(&e->born, 0);
        kill_fence();
        store(&e->dead, FMT_UNPUBLISHED);
        store(WORD(e->pages), pages);
        store(&e->link, fmt_extent_check(pages, offset_of(s, e)));
    }
    op_commit(&a);
out:
    pages_unlock(&a);
    return rc;
}

/* ---- after a checkpoint ---- */

/* Let the lock go and take it again: whoever waits for it has it in between (*wanted). One who has to be woken would find
 * it taken again each time, for as long as the queue or the punching lasts. */
int pages_share(struct op *a, bool *wanted)
{
    const uint32_t nobody = 0;
    *wanted = load32(&a->l->lock) & FMT_LOCK_WAITERS;
    pages_unlock(a);
    if (*wanted) os_wait_ns(&nobody, 0, SHARE_NS);
    return pages_lock(a->s, a, a->flags);
}

int pages_settle(mmkv_store *s)
{
    struct op a;
    bool wanted;
    uint64_t head;
    int rc = pages_lock(s, &a, 0);
    if (rc) return rc;
    do {
        head = allocator_of(s)->waiting_head;
        if ((rc = finish_harvest(&a)) || (rc = harvest(&a, HARVEST_PER_BATCH))) {
            pages_unlock(&a);
            return rc;
        }
        if (!allocator_of(s)->waiting_head || allocator_of(s)->waiting_head == head) break;
    } while (!(rc = pages_share(&a, &wanted)));
    if (rc) return rc;
    return holes_punch(&a);
}
