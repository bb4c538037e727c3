/* images.c: what a disk may hold of one file, and images of it. See images.h.
 *
 * The rules, those of docs/format.md, "Assumptions", taken at their word:
 *  - A store of up to 8 aligned bytes is whole; a longer one is several. Every state between two stores is a version.
 *  - A flush that returned leaves each page of its range as it was when the flush began, or in any later state. While it
 *    is under way nothing is promised.
 *  - A flush of a range makes durable that the file has that range, and no other length; a flush of the file, its length.
 *  - A file that grows may be found at any length in between. One that was cut has its old length and its old bytes, or
 *    its new length; bytes that come back when it grows again are zeros.
 *  - A hole reads as zeros or as what was there before it was punched, each page for itself, until it is written again
 *    and flushed. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "images.h"
#include "runtime.h"

enum { LOG_MAX = 1 << 18 };

const char *const choice_names[CHOICES] = { "oldest", "newest", "random", "one old", "one new", "mostly old", "mostly new",
                                            "recent", "split" };

/* One change of a page, in its log: the bytes follow, padded to 8. length 0 makes the page zeros, because a hole was
 * punched (at = 0) or because the file's end was cut off (at = the number of the length that this made). */
struct change { uint16_t at, length; uint32_t time; };

static uint32_t change_size(const struct change *c) { return (uint32_t)sizeof *c + ((c->length + 7u) & ~7u); }

static const struct change *change_next(const struct change *c)
{
    return (const struct change *)(const void *)((const uint8_t *)c + change_size(c));
}

static const struct change *change_first(const struct page *p) { return (const struct change *)(const void *)p->log; }

uint8_t *disk_memory(void)
{
    uint8_t *p = mmap(NULL, (uint64_t)PAGES_MAX * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) abort();
    return p;
}

void disk_open(struct disk *d, uint8_t *durable, uint64_t length)
{
    static const uint8_t zeros[PAGE];
    memset(d, 0, sizeof *d);
    if (length > (uint64_t)PAGES_MAX * PAGE) abort();
    d->durable = durable;
    d->pages = calloc(PAGES_MAX, sizeof *d->pages);
    d->lengths = calloc(LENGTHS_MAX, sizeof *d->lengths);
    if (!d->pages || !d->lengths) abort();
    d->lengths[d->states++] = (struct length){ length, length };
    for (uint64_t i = 0; i < length / PAGE; i++) d->pages[i].touched = memcmp(durable + i * PAGE, zeros, PAGE) != 0;
}

void disk_close(struct disk *d)
{
    for (uint32_t i = 0; i < PAGES_MAX; i++) free(d->pages[i].log);
    free(d->pages);
    free(d->lengths);
    munmap(d->durable, (uint64_t)PAGES_MAX * PAGE);
    memset(d, 0, sizeof *d);
}

/* ---- changes ---- */

static void apply(uint8_t *bytes, const struct change *c)
{
    if (c->length) memcpy(bytes + c->at, c + 1, c->length);
    else memset(bytes, 0, PAGE);
}

/* Make the first `n` changes of a page durable. */
static void advance(struct disk *d, uint64_t number, uint64_t n)
{
    struct page *p = &d->pages[number];
    const struct change *c = change_first(p);
    for (uint64_t i = 0; i < n; i++, c = change_next(c)) apply(d->durable + number * PAGE, c);
    uint32_t gone = (uint32_t)((const uint8_t *)c - p->log);
    memmove(p->log, c, p->used - gone);
    p->used -= gone;
    p->count -= (uint32_t)n;
    p->first += n;
    if (!p->count) p->cut = false;
}

static void append(struct disk *d, uint64_t number, uint16_t at, uint16_t length, const void *data)
{
    if (number >= PAGES_MAX) abort();
    struct page *p = &d->pages[number];
    struct change c = { at, length, ++d->time };
    uint32_t size = change_size(&c);
    if (p->used + size > LOG_MAX && !p->cut) advance(d, number, p->count / 2); /* as if it had been written back by now */
    if (p->used + size > p->room) {
        p->room = p->room * 2 + size + 256;
        if (!(p->log = realloc(p->log, p->room))) abort();
    }
    memcpy(p->log + p->used, &c, sizeof c);
    if (length) memcpy(p->log + p->used + sizeof c, data, length);
    p->used += size;
    p->count++;
    p->touched = true;
    if (!length && at) p->cut = true;
}

/* Bytes that are there now, as changes of a word each; the middle of a long copy comes in cache lines (runtime.c). */
static void record(struct disk *d, uint64_t offset, const uint8_t *data, const uint8_t *before, uint64_t length)
{
    uint64_t step = length >= 64 ? 64 : 8;
    for (uint64_t done = 0, n; done < length; done += n) {
        n = step - (offset + done) % step;
        if (n > length - done) n = length - done;
        if (before && !memcmp(data + done, before + done, n)) continue; /* nothing new */
        append(d, (offset + done) / PAGE, (uint16_t)((offset + done) % PAGE), (uint16_t)n, data + done);
    }
}

void disk_settle(struct disk *d)
{
    uint64_t length = d->pending.length;
    d->pending.length = 0;
    if (length) record(d, d->pending.offset, d->pending.address, length <= 64 ? d->pending.before : NULL, length);
}

void disk_store(struct disk *d, const void *address, uint64_t offset, uint64_t length)
{
    disk_settle(d);
    d->pending.address = address;
    d->pending.offset = offset;
    d->pending.length = length;
    memcpy(d->pending.before, address, length <= 64 ? length : 0);
}

void disk_write(struct disk *d, uint64_t offset, const void *data, uint64_t length)
{
    disk_settle(d);
    record(d, offset, data, NULL, length);
}

void disk_punch(struct disk *d, uint64_t offset, uint64_t length)
{
    disk_settle(d);
    for (uint64_t i = offset / PAGE; i < (offset + length) / PAGE; i++)
        if (d->pages[i].touched) append(d, i, 0, 0, NULL);
}

void disk_resize(struct disk *d, uint64_t from, uint64_t to)
{
    disk_settle(d);
    if (d->states == LENGTHS_MAX) abort();
    for (uint64_t i = to / PAGE; i < from / PAGE; i++)
        if (d->pages[i].touched) append(d, i, (uint16_t)d->states, 0, NULL);
    d->lengths[d->states++] = (struct length){ to > from ? from + PAGE : to, to };
}

/* ---- flushes ---- */

struct flush disk_flush_begin(struct disk *d, uint64_t offset, uint64_t length, bool whole)
{
    disk_settle(d);
    uint64_t end = d->lengths[d->states - 1].high;
    if (whole) offset = 0, length = end;
    if (offset + length < end) end = offset + length;
    struct flush f = { .from = offset / PAGE, .state = d->states - 1, .whole = whole };
    f.pages = (end + PAGE - 1) / PAGE > f.from ? (end + PAGE - 1) / PAGE - f.from : 0;
    if (!(f.marks = malloc((f.pages + 1) * sizeof *f.marks))) abort();
    for (uint64_t i = 0; i < f.pages; i++) f.marks[i] = d->pages[f.from + i].first + d->pages[f.from + i].count;
    return f;
}

/* Is the page a hole, of which a flush of its range need not say anything? */
static bool is_hole(const struct page *p, uint64_t changes)
{
    const struct change *c = change_first(p);
    for (uint64_t i = 1; i < changes; i++) c = change_next(c);
    return changes && !c->length && !c->at;
}

void disk_flush_end(struct disk *d, struct flush *f)
{
    disk_settle(d);
    for (uint64_t i = 0; i < f->pages; i++) {
        struct page *p = &d->pages[f->from + i];
        uint64_t changes = f->marks[i] > p->first ? f->marks[i] - p->first : 0;
        if (changes && (f->whole || !is_hole(p, changes))) advance(d, f->from + i, changes);
    }
    /* Which lengths are out of the question now: those from which the file would have had to become longer to have the
     * range. One that it grew to in steps has got beyond the range. */
    uint64_t end = (f->from + f->pages) * PAGE;
    for (uint32_t i = d->oldest; i <= f->state; i++)
        if (f->whole ? i < f->state : d->lengths[i].high < end) d->oldest = i + (i < f->state);
    struct length *l = &d->lengths[d->oldest];
    if (f->whole && d->oldest == f->state) l->low = l->high;
    else if (l->low < end) l->low = end < l->high ? end : l->high;
    free(f->marks);
}

/* ---- images ---- */

static uint64_t choose_length(const struct disk *d, uint32_t *state)
{
    *state = rig_random(2) ? d->states - 1 : d->oldest + rig_random(d->states - d->oldest);
    const struct length *l = &d->lengths[*state];
    uint32_t steps = (uint32_t)((l->high - l->low) / PAGE);
    return rig_random(2) ? l->high : l->low + (uint64_t)rig_random(steps + 1) * PAGE;
}

/* The versions that a page may have when the file has its length number `state`: those made after the file's end was last
 * cut off before the page, and before it was cut off again. */
static void bounds(const struct page *p, uint32_t state, uint32_t *low, uint32_t *high)
{
    const struct change *c = change_first(p);
    *low = 0;
    *high = p->count;
    for (uint32_t i = 0; p->cut && i < p->count; i++, c = change_next(c)) {
        if (c->length || !c->at) continue;
        if (c->at > state) {
            *high = i;
            return;
        }
        *low = i + 1;
    }
}

/* The version as of a moment. */
static uint32_t version_at(const struct page *p, uint32_t time)
{
    const struct change *c = change_first(p);
    for (uint32_t i = 0; i < p->count; i++, c = change_next(c))
        if (c->time > time) return i;
    return p->count;
}

struct chooser { enum choice choice; uint64_t one; uint32_t time, window, rarely; bool swapped; };

/* A version between low and high for the page or sector `unit` of the file. */
static uint32_t choose(const struct chooser *c, const struct page *p, uint64_t unit, uint32_t low, uint32_t high)
{
    bool odd = c->choice == SPLIT ? (unit < c->one) != c->swapped
             : c->choice == MOSTLY_OLD || c->choice == MOSTLY_NEW ? !rig_random(c->rarely) : unit == c->one;
    uint32_t any = low + rig_random(high - low + 1), then;
    switch (c->choice) {
    case OLDEST: return low;
    case NEWEST: return high;
    case ONE_OLD: return odd ? (rig_random(2) ? low : any) : high;
    case ONE_NEW: return odd ? (rig_random(2) ? high : any) : low;
    case MOSTLY_OLD: return odd ? (rig_random(2) ? high : any) : low;
    case MOSTLY_NEW: return odd ? (rig_random(2) ? low : any) : high;
    case SPLIT: return odd ? high : rig_random(4) ? low : any;
    case RECENT:
        then = version_at(p, c->time - rig_random(c->window));
        return then < low ? low : then > high ? high : then;
    default: return any;
    }
}

/* Units that have more than one version, up to a length; or the number of the nth of them. */
static uint64_t changed_units(const struct disk *d, uint64_t length, uint64_t per_page, uint64_t nth)
{
    uint64_t n = 0;
    for (uint64_t i = 0; i < length / PAGE; i++) {
        if (!d->pages[i].count) continue;
        if (nth - n < per_page) return i * per_page + (nth - n);
        n += per_page;
    }
    return n;
}

uint64_t disk_image(const struct disk *d, enum choice choice, bool sectors, uint8_t *image)
{
    uint32_t state, low, high;
    uint64_t length = choose_length(d, &state), size = sectors ? SECTOR : PAGE, units = PAGE / size;
    struct chooser c = { .choice = choice, .time = d->time, .window = 1 + rig_random(1u << rig_random(15)),
                         .rarely = 2u << rig_random(6), .swapped = rig_random(2) };
    uint64_t changed = changed_units(d, length, units, UINT64_MAX);
    c.one = changed_units(d, length, units, rig_random((uint32_t)changed));
    for (uint64_t i = 0; i < length / PAGE; i++) {
        const struct page *p = &d->pages[i];
        if (!p->touched) continue;
        uint8_t *to = image + i * PAGE;
        memcpy(to, d->durable + i * PAGE, PAGE);
        if (!p->count) continue;
        bounds(p, state, &low, &high);
        uint32_t version[PAGE / SECTOR], last = 0;
        for (uint64_t u = 0; u < units; u++) {
            version[u] = choose(&c, p, i * units + u, low, high);
            if (version[u] > last) last = version[u];
        }
        const struct change *change = change_first(p);
        for (uint32_t k = 0; k < last; k++, change = change_next(change)) {
            if (!change->length) {
                for (uint64_t u = 0; u < units; u++)
                    if (k < version[u]) memset(to + u * size, 0, size);
                continue;
            }
            /* A change lies within one sector, or is of one cache line of a long copy, which does too. */
            if (k < version[change->at / size]) apply(to, change);
        }
    }
    return length;
}
