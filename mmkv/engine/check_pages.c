/* check_pages.c: every page is free, or belongs to exactly one extent, and every count of them is right. */
#include <stdlib.h>

#include "check.h"

static void mark(struct check *k, uint64_t **maps, uint64_t offset, uint64_t pages, const char *what)
{
    struct zone zone;
    if (!pages || zone_find(k->s, offset, &zone)) {
        note(k, "pages", NULL, 0, offset, "%s lies in no zone", what);
        return;
    }
    uint64_t page = (offset - zone.offset) >> FMT_PAGE_SHIFT;
    if (page < zone.first || pages > zone.pages - page) {
        note(k, "pages", NULL, 0, offset, "%s does not fit its zone", what);
        return;
    }
    for (uint64_t i = page; i < page + pages; i++) {
        if (bit_get(maps[zone.number], i)) {
            note(k, "pages", NULL, 0, offset, "%s overlaps another extent", what);
            return;
        }
        bits_set(maps[zone.number], i, 1, true);
    }
}

static void mark_word(struct check *k, uint64_t **maps, uint64_t word, const char *what)
{
    uint64_t pages = word & (FMT_PAGE - 1), offset = word - pages;
    if (!offset) return; /* that is check_word's */
    struct fmt_extent *e = extent_at(k->s, offset);
    mark(k, maps, offset, e ? e->pages : pages, what);
}

/* Of a process slot. */
static void mark_reserved(struct check *k, uint64_t **maps, uint64_t word)
{
    mark_word(k, maps, word, "a reserved extent");
    if (!(word & FMT_RESERVED_TRANSACTION)) return;
    struct fmt_transaction *t = transaction_at(k->s, word - FMT_RESERVED_TRANSACTION);
    for (uint32_t i = 0; t && i < t->words; i++) mark_word(k, maps, load(&transaction_words(t)[i]), "an extent of a transaction");
}

static void mark_index(struct check *k, uint64_t **maps, uint32_t shard)
{
    struct fmt_shard *sh = shard_of(k->s, shard);
    uint32_t depth = (uint32_t)(sh->directory & 63);
    if (!sh->directory) return;
    if (depth > FMT_DEPTH_EMBEDDED) mark(k, maps, sh->directory & ~63ull, pages_of(8ull << depth), "a directory");
    for (uint64_t bits = 0; bits < 1u << FMT_DEPTH_MAX;) {
        uint64_t table;
        uint32_t d = 0;
        if (index_table(k->s, sh, (uint32_t)bits, &table, &d)) break;
        mark(k, maps, table, 1, "a table");
        bits += 1ull << (FMT_DEPTH_MAX - d);
    }
}

/* What the walk over the descriptors comes to. */
struct account { uint64_t **maps; struct tally *tally; uint64_t *chunks; };

static void count_extent(struct check *k, struct account *a, const struct fmt_extent *e, uint64_t offset)
{
    const struct fmt_record *r;
    uint64_t size;
    mark(k, a->maps, offset, e->pages, "an extent");
    if (e->shard >= k->s->shard_count) return; /* told by check_extent */
    struct tally *tally = &a->tally[(uint64_t)e->shard * FMT_CLASSES];
    if (e->type == FMT_EXTENT_CHUNK) {
        const struct fmt_chunk *c = at(k->s, offset, sizeof *c);
        if (e->class_ >= FMT_CLASSES || !c) return;
        tally[e->class_].pages += e->pages;
        tally[e->class_].available += c->list == FMT_LIST_AVAILABLE;
        tally[e->class_].waiting += c->list == FMT_LIST_WAITING;
        a->chunks[e->shard]++;
    } else if (e->pages <= 4 && record_of(k->s, offset, &r, &size) && heap_class(size) < FMT_CLASSES) {
        tally[heap_class(size)].singles++; /* no class has records of more pages */
    }
}

/* The queue of dead extents; returns its pages. Its length is bounded by what there is to be in it. It is in the order in which
 * they were given back: one that died before a cut may come after one that died in another shard since. */
static uint64_t walk_queue(struct check *k, uint64_t **maps, uint64_t most)
{
    const struct fmt_allocator *p = allocator_of(k->s);
    uint64_t waiting = 0, last = 0;
    for (uint64_t page = p->waiting_head; page; most--) {
        uint64_t offset = page << FMT_PAGE_SHIFT;
        const struct fmt_extent *e = extent_at(k->s, offset);
        if (!e || !most || offset >> FMT_PAGE_SHIFT != page || !e->pages || !extent_sealed(e, offset_of(k->s, e))
            || !fmt_epoch_of(e->dead)) {
            note(k, "pages", NULL, 0, offset, "the queue of dead extents is damaged");
            return p->waiting_pages; /* what comes after cannot be counted */
        }
        mark(k, maps, offset, e->pages, "a dead extent");
        waiting += e->pages;
        last = page;
        page = e->link & FMT_LINK_MASK;
    }
    if (last != p->waiting_tail) note(k, "pages", NULL, 0, FMT_ALLOCATOR_AT, "the queue of dead extents ends elsewhere than it says");
    return waiting;
}

static void account_pages(struct check *k, struct account *a, uint64_t zones)
{
    mmkv_store *s = k->s;
    const struct fmt_allocator *p = allocator_of(s);
    uint64_t **maps = a->maps, free_total = 0, total = 0;
    struct zone zone;
    for (uint64_t i = 0; i < zones; i++) {
        if (zone_get(s, i, &zone) || !zone.extents) continue;
        total += zone.pages;
        for (uint64_t page = zone.first; page < zone.pages;) {
            const struct fmt_extent *e = &zone.extents[page];
            bool live = e->born && !fmt_epoch_of(e->dead) && e->pages && e->pages <= zone.pages - page;
            if (e->born && e->dead == FMT_UNPUBLISHED) note(k, "epoch", NULL, 0, offset_of(s, e), "an extent's epoch word is damaged");
            if (live) count_extent(k, a, e, zone.offset + page * FMT_PAGE);
            page += live ? e->pages : 1;
        }
    }
    uint64_t waiting = walk_queue(k, maps, total);
    mark_word(k, maps, p->harvesting, "an extent being collected");
    for (uint32_t i = 0; i < s->shard_count; i++) {
        mark_index(k, maps, i);
        for (uint32_t j = 0; j < FMT_SHARD_RESERVES; j++) mark_word(k, maps, shard_of(s, i)->reserve[j], "a reserved extent");
        for (uint32_t j = 0; j < FMT_SHARD_RELEASES; j++) mark_word(k, maps, shard_of(s, i)->release[j], "a released extent");
    }
    for (uint32_t i = 0; i < FMT_PROCESSES; i++)
        for (int j = 0; j < 4; j++) mark_reserved(k, maps, load_acquire(&process_of(s, i)->reserved_extent[j]));
    for (uint64_t i = 0; i < zones; i++) {
        if (zone_get(s, i, &zone)) continue;
        uint64_t free_ = 0;
        for (uint64_t page = zone.first; page < zone.pages; page++) {
            bool is_free = bit_get(zone.free, page), used = bit_get(maps[i], page);
            free_ += is_free;
            if (is_free == used)
                note(k, "pages", NULL, 0, zone.offset + page * FMT_PAGE, used ? "a page in use is marked free" : "a page belongs to nobody");
        }
        check_zone_state(k, &zone, free_);
        free_total += free_;
    }
    if (free_total != p->free_pages) note(k, "counter", NULL, 0, FMT_ALLOCATOR_AT, "the allocator's count of free pages is wrong");
    if (waiting != p->waiting_pages) note(k, "counter", NULL, 0, FMT_ALLOCATOR_AT, "the allocator's count of waiting pages is wrong");
    for (uint32_t i = 0; i < s->shard_count; i++) {
        check_classes(k, i, &a->tally[(uint64_t)i * FMT_CLASSES]);
        if (a->chunks[i] != shard_of(s, i)->chunks) note(k, "counter", NULL, 0, shard_at(i), "the shard's count of chunks is wrong");
    }
}

static void forget(struct account *a, uint64_t zones)
{
    for (uint64_t i = 0; a->maps && i < zones; i++) free(a->maps[i]);
    free(a->maps);
    free(a->tally);
    free(a->chunks);
}

/* Everything stands still. */
static int account(struct check *k)
{
    mmkv_store *s = k->s;
    uint64_t zones = load(&allocator_of(s)->zone_count);
    struct account a = { .maps = calloc(zones + 1, sizeof *a.maps), .tally = calloc((uint64_t)s->shard_count * FMT_CLASSES, sizeof *a.tally),
                         .chunks = calloc(s->shard_count, sizeof *a.chunks) };
    struct zone zone;
    int rc = a.maps && a.tally && a.chunks ? 0 : fail(MMKV_NO_MEMORY, 0, "out of memory");
    for (uint64_t i = 0; i < zones && !rc; i++) {
        if ((rc = zone_get(s, i, &zone))) break;
        if (!(a.maps[i] = calloc(bitmap_words(zone.pages), 8))) rc = fail(MMKV_NO_MEMORY, 0, "out of memory");
    }
    /* A guard of its own, so that a fault does not pass over what is to be freed. */
    if (!rc) rc = GUARDED(s, (check_state(k), account_pages(k, &a, zones), 0));
    forget(&a, zones);
    return rc;
}

int check_pages(struct check *k)
{
    mmkv_store *s = k->s;
    struct op op, a;
    int rc = 0;
    uint32_t locked = 0;
    if (!s->writable && k->writers) return 0; /* cannot make them stand still */
    check_slots(k);
    if (s->writable) {
        for (; locked < s->shard_count && !rc; locked += !rc) rc = shard_lock(s, locked, &op, 0);
        if (!rc) rc = pages_lock(s, &a, 0);
    }
    if (!rc) {
        rc = account(k);
        if (s->writable) pages_unlock(&a);
    }
    while (locked-- > 0) unlock_word(s, &shard_of(s, locked)->l.lock);
    tell(k, true);
    return rc;
}
