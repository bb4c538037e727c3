/* holes.c: space that is given back to the file system, and reserved again before it is used.
 *
 * A page whose bit in the hole bitmap is set may have no space on the disk: storing to it is a SIGBUS when the disk is
 * full. So only free pages are holes, a hole is marked before it is punched, and the mark goes after the space has been
 * reserved again. A page that is marked although it has its space does no harm: reserving it takes nothing. */
#include "engine.h"

enum { PUNCH_PAGES_MAX = 1024, PUNCH_RUN_MIN = 16, KEEP_MIN = 64, RESERVE_AHEAD = 256 };

/* Where space comes back only when the whole of a reservation is given up (btrfs), a zone's body is one. */
static bool worth_punching(const mmkv_store *s, const struct zone *zone, uint64_t start, uint64_t end)
{
    return s->whole_extents ? start == zone->first && end == zone->pages : end - start >= PUNCH_RUN_MIN;
}

/* Reserve an extent's space again, and with it that of the free pages behind it, since more will be wanted. */
int holes_fill(mmkv_store *s, struct zone *zone, uint64_t page, uint64_t pages)
{
    uint64_t end = page + pages, most = end + RESERVE_AHEAD < zone->pages ? end + RESERVE_AHEAD : zone->pages;
    end = next_bit(zone->free, end, next_bit(zone->holes, end, most, false), false);
    if (!s->private_ && os_allocate(file_of(s), zone->offset + page * FMT_PAGE, (end - page) * FMT_PAGE)) {
        end = page + pages; /* a nearly full disk: only what is needed */
        int rc = os_allocate(file_of(s), zone->offset + page * FMT_PAGE, pages * FMT_PAGE);
        if (rc) return rc;
    }
    bits_set(zone->holes, page, end - page, false);
    return 0;
}

/* A punch that failed may have punched a part: only what has its space again is no hole. Some file systems need space
 * for punching when they are full, so it is worth another try after the next checkpoint. */
static int punch_run(mmkv_store *s, struct zone *zone, uint64_t start, uint64_t end)
{
    uint64_t offset = zone->offset + start * FMT_PAGE, length = (end - start) * FMT_PAGE;
    bits_set(zone->holes, start, end - start, true);
    int rc = os_punch(file_of(s), offset, length);
    if (rc && (rc == MMKV_NOT_FOUND || !os_allocate(file_of(s), offset, length))) bits_set(zone->holes, start, end - start, false);
    return rc;
}

/* Free pages that are no holes. */
static int count_idle(struct op *a, uint64_t *idle, uint64_t *total)
{
    struct zone zone;
    *idle = *total = 0;
    for (uint64_t i = 0; i < allocator_of(a->s)->zone_count; i++) {
        int rc = zone_get(a->s, i, &zone);
        if (rc) return rc;
        *total += zone.pages;
        for (uint64_t w = 0; w < bitmap_words(zone.pages); w++)
            *idle += (uint64_t)__builtin_popcountll(load(&zone.free[w]) & ~load(&zone.holes[w]));
    }
    return 0;
}

/* Give free runs back to the file system until no more than an eighth of what is used is kept for quick reuse. Who waits
 * for the allocator's lock gets it between punches, and waits for no more of them than give back an eighth of the rest:
 * whoever overwrites much will take these pages again soon, and if not, the next checkpoints go on. */
int holes_punch(struct op *a)
{
    mmkv_store *s = a->s;
    struct fmt_allocator *p = allocator_of(s);
    uint64_t idle, total;
    struct zone zone;
    int rc = 0;
    if (s->private_ || p->free_pages <= KEEP_MIN || (rc = count_idle(a, &idle, &total))) goto out; /* or there is too little to look for */
    uint64_t used = total - p->free_pages, keep = used / 8 > KEEP_MIN ? used / 8 : KEEP_MIN;
    uint64_t enough = idle > keep ? idle - (idle - keep) / 8 : keep;
    for (uint64_t i = p->zone_count; i-- > 0 && idle > keep;) { /* from the end, so that what stays is at the front */
        if ((rc = zone_get(s, i, &zone))) goto out;
        for (uint64_t from = zone.first; from < zone.pages && idle > keep;) {
            uint64_t start = next_bit(zone.free, from, zone.pages, true);
            uint64_t most = s->whole_extents ? zone.pages : start + PUNCH_PAGES_MAX, backed = 0;
            uint64_t end = next_bit(zone.free, start, most < zone.pages ? most : zone.pages, false);
            for (uint64_t q = start; q < end; q++) backed += !bit_get(zone.holes, q);
            if (backed && worth_punching(s, &zone, start, end)) {
                bool wanted;
                if (punch_run(s, &zone, start, end)) goto out;
                idle -= backed;
                if ((rc = pages_share(a, &wanted))) return rc;
                if (wanted && idle <= enough) goto out;
            }
            from = end > start ? end : start + 1;
        }
    }
out:
    pages_unlock(a);
    return rc;
}

/* After a recovery all free pages are marked, since nobody knows which were punched. Punching the longer runs makes that
 * true: what a lost future had filled would else stay with the file until it is used again. Nobody else is attached. */
int holes_punch_marked(mmkv_store *s)
{
    for (uint64_t i = 0, count = s->private_ ? 0 : allocator_of(s)->zone_count; i < count; i++) {
        struct zone zone;
        int rc = zone_get(s, i, &zone);
        if (rc) return rc;
        for (uint64_t start = zone.first, end; start < zone.pages; start = end) {
            start = next_bit(zone.holes, start, zone.pages, true);
            end = next_bit(zone.holes, start, zone.pages, false);
            if (start < end && worth_punching(s, &zone, start, end)
                && os_punch(file_of(s), zone.offset + start * FMT_PAGE, (end - start) * FMT_PAGE)) return 0; /* another time */
        }
    }
    return 0;
}
