/* check.c: verify(), and the quick count that decides whether a dirty file's memory can be trusted.
 *
 * The walk goes both ways: from every index entry to its record, and from every descriptor and epoch word to the index.
 * It holds one shard's lock at a time, for one table or one chunk, so that others go on; a handle that may not lock looks
 * under a version and looks again when it moved. Page accounting needs everything to stand still, and locks everything,
 * for as long as a walk over the descriptors takes. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine.h"

/* ---- the quick count ---- */

static int zone_totals(mmkv_store *s, const struct zone *zone, uint64_t *count, uint64_t *sum)
{
    for (uint64_t page = zone->first; page < zone->pages;) {
        struct fmt_extent *e = &zone->extents[page];
        uint64_t offset = zone->offset + page * FMT_PAGE;
        if (!e->born || fmt_epoch_of(e->dead)) { page++; continue; }
        if (!e->pages || e->pages > zone->pages - page || e->shard >= s->shard_count) return MMKV_CORRUPT;
        const struct fmt_record *r;
        uint64_t size;
        if (e->type == FMT_EXTENT_VALUE) {
            if (!record_of(s, offset, &r, &size)) return MMKV_CORRUPT;
            ++*count;
            *sum += r->checksum;
        } else {
            struct fmt_chunk *c = chunk_at(s, offset, e->shard);
            if (!c) return MMKV_CORRUPT;
            struct fmt_epochs *epochs = chunk_epochs(c);
            for (uint32_t i = 0; i < c->blocks; i++) {
                if (!epochs[i].born || fmt_epoch_of(epochs[i].dead)) continue;
                r = at(s, offset + fmt_chunk_blocks_at(c->blocks) + (uint64_t)i * fmt_class_size(c->class_), FMT_RECORD_HEADER);
                if (!r) return MMKV_CORRUPT;
                ++*count;
                *sum += r->checksum;
            }
        }
        page += e->pages;
    }
    return 0;
}

/* Nobody else is attached. */
int check_totals(mmkv_store *s, bool *good)
{
    uint64_t count = 0, sum = 0, want_count = 0, want_sum = 0;
    *good = false;
    for (uint64_t i = 0; i < load(&allocator_of(s)->zone_count); i++) {
        struct zone zone;
        int rc = zone_get(s, i, &zone);
        if (!rc && zone.extents) rc = zone_totals(s, &zone, &count, &sum);
        if (rc) return rc;
    }
    for (uint32_t i = 0; i < s->shard_count; i++) {
        const struct fmt_shard *sh = shard_of(s, i);
        want_count += sh->count[sh->epoch & 1];
        want_sum += sh->sum[sh->epoch & 1];
    }
    *good = count == want_count && sum == want_sum;
    return 0;
}

/* ---- verify ---- */

enum { PROGRESS_RECORDS = 4096 };

struct found { char kind[16], text[160]; uint64_t offset; void *key; size_t key_length; };

struct check {
    mmkv_store *s;
    mmkv_progress progress;
    mmkv_problem problem;
    void *context;
    uint64_t records, total;     /* of what is told to progress */
    bool writers;                /* somebody may be writing while we look */
    struct found *found;         /* of the section under way: told when its look turns out valid */
    size_t found_count, found_room;
};

static void __attribute__((format(printf, 6, 7)))
note(struct check *k, const char *kind, const void *key, size_t key_length, uint64_t offset, const char *format, ...)
{
    if (k->found_count == k->found_room) {
        size_t room = k->found_room ? 2 * k->found_room : 16;
        struct found *more = realloc(k->found, room * sizeof *more);
        if (!more) return;
        k->found = more;
        k->found_room = room;
    }
    struct found *f = &k->found[k->found_count++];
    snprintf(f->kind, sizeof f->kind, "%s", kind);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(f->text, sizeof f->text, format, arguments);
    va_end(arguments);
    f->offset = offset;
    f->key = key && (f->key = malloc(key_length + 1)) ? memcpy(f->key, key, key_length) : NULL;
    f->key_length = key_length;
}

static void tell(struct check *k, bool valid)
{
    for (size_t i = 0; i < k->found_count; i++) {
        struct found *f = &k->found[i];
        if (valid) k->problem(k->context, f->kind, f->key, f->key ? f->key_length : 0, f->offset, f->text);
        free(f->key);
    }
    k->found_count = 0;
}

/* A look at one shard: under its lock, or under a version that is checked at the end. */
struct look { struct op op; uint64_t version, records, started; int tries; };

static int look_begin(struct check *k, uint32_t shard, struct look *look)
{
    mmkv_store *s = k->s;
    look->records = k->records;
    if (s->writable) return shard_lock(s, shard, &look->op, 0);
    struct fmt_lockable *l = &shard_of(s, shard)->l;
    while (!read_begin(l, &look->version)) {
        if (!look->started) look->started = os_now_ms();
        if (os_now_ms() - look->started > s->lock_timeout_ms)
            return fail(MMKV_LOCK_TIMEOUT, shard_at(shard), "shard %u is being written or was left half-written; "
                        "open the store with mode \"w\" to repair it", shard);
        os_wait((const uint32_t *)(const void *)&l->version, (uint32_t)look->version, 1);
    }
    return 0;
}

/* True: look again. */
static bool look_end(struct check *k, uint32_t shard, struct look *look)
{
    bool valid = true;
    if (k->s->writable) shard_unlock(&look->op);
    else valid = read_valid(&shard_of(k->s, shard)->l, look->version) || look->tries++ > 1000;
    if (!valid) k->records = look->records;
    tell(k, valid);
    return !valid;
}

/* One live record: bounds, checksum, home. */
static void check_record(struct check *k, uint32_t shard, uint64_t offset, uint64_t room, uint32_t place)
{
    mmkv_store *s = k->s;
    const struct fmt_record *r;
    uint64_t size, hash = 0;
    struct place p;
    k->records++;
    if (!record_of(s, offset, &r, &size) || size > room) {
        note(k, "record", NULL, 0, offset, "the record's lengths exceed its block");
        return;
    }
    const void *key = record_key(r);
    if (!record_check(s, r, &hash)) note(k, "checksum", key, r->key_length, offset, "the record's checksum does not hold");
    else if ((r->flags & FMT_RECORD_PLACE) != place) note(k, "record", key, r->key_length, offset, "the record names another kind of place");
    else if (fmt_shard_of(hash, s->shard_bits) != shard) note(k, "shard", key, r->key_length, offset, "the record lies in another shard's chunk");
    else if (index_find(s, shard_of(s, shard), hash, key, r->key_length, &p))
        note(k, "index", key, r->key_length, offset, "the index does not lead to this record");
    else if (p.record != offset) note(k, "index", key, r->key_length, offset, "the index leads to another record for this key");
}

static void check_chunk(struct check *k, uint32_t shard, uint64_t offset, const struct fmt_extent *e)
{
    mmkv_store *s = k->s;
    struct fmt_chunk *c = chunk_at(s, offset, shard);
    if (!c || c->class_ != e->class_ || 1u << c->order != e->pages) {
        note(k, "chunk", NULL, 0, offset, "the chunk's header contradicts its descriptor");
        return;
    }
    uint32_t live = 0, free_ = 0, waiting = 0, size = fmt_class_size(c->class_);
    uint64_t oldest = 0;
    struct fmt_epochs *epochs = chunk_epochs(c);
    for (uint32_t i = 0; i < c->blocks; i++) {
        uint64_t at_ = offset + fmt_chunk_epochs_at(c->blocks) + 16ull * i, born = epochs[i].born, dead = epochs[i].dead;
        bool bit = bit_get(chunk_bits(c), i);
        free_ += bit;
        if (!born) {
            if (!bit) note(k, "free map", NULL, 0, at_, "a block never used is marked used");
            continue;
        }
        if (!fmt_stamp_ok(born, at_) || !fmt_stamp_ok(dead, at_ + 8) || !fmt_epoch_of(born)) {
            note(k, "epoch", NULL, 0, at_, "an epoch word is damaged");
            continue;
        }
        if (!fmt_epoch_of(dead)) {
            live++;
            if (bit) note(k, "free map", NULL, 0, at_, "a block that holds a live record is marked free");
            check_record(k, shard, offset + fmt_chunk_blocks_at(c->blocks) + (uint64_t)i * size, size, c->order);
        } else if (!bit) {
            waiting++;
            if (!oldest || fmt_epoch_of(dead) < oldest) oldest = fmt_epoch_of(dead);
        }
    }
    if (live != c->live || free_ != c->free || waiting != c->waiting)
        note(k, "counter", NULL, 0, offset, "the chunk counts %u live, %u free, %u waiting blocks and has %u, %u, %u", c->live,
             c->free, c->waiting, live, free_, waiting);
    if (waiting && c->waiting_epoch > oldest) note(k, "counter", NULL, 0, offset, "the chunk's oldest death is wrong");
}

/* The extent whose descriptor is at `page`; *pages is how far it reaches. */
static int check_extent(struct check *k, const struct zone *zone, uint64_t page, uint64_t *pages)
{
    mmkv_store *s = k->s;
    struct fmt_extent *e = &zone->extents[page];
    uint64_t offset = zone->offset + page * FMT_PAGE, e_at = offset_of(s, e);
    uint32_t shard = e->shard;
    *pages = 1;
    if (!load(&e->born) || shard >= s->shard_count) {
        if (load(&e->born) && (e->link & ~FMT_LINK_MASK) != fmt_extent_check(*WORD(e->pages), e_at)) {
            note(k, "descriptor", NULL, 0, e_at, "the descriptor's check does not hold");
            tell(k, true);
        }
        return 0;
    }
    struct look look = { .tries = 0 };
    do {
        int rc = look_begin(k, shard, &look);
        if (rc) return rc;
        *pages = 1;
        uint64_t born = load(&e->born), dead = load(&e->dead);
        if (!born || e->shard != shard) {
            /* reserved, or taken over, meanwhile */
        } else if (!fmt_stamp_ok(born, e_at) || !fmt_stamp_ok(dead, e_at + 8) || !fmt_epoch_of(born)) {
            note(k, "epoch", NULL, 0, e_at, "an extent's epoch word is damaged");
        } else if (!fmt_epoch_of(dead)) {
            if ((e->link & ~FMT_LINK_MASK) != fmt_extent_check(*WORD(e->pages), e_at) || !e->pages || e->pages > zone->pages - page) {
                note(k, "descriptor", NULL, 0, e_at, "the descriptor's check does not hold");
            } else {
                *pages = e->pages;
                if (e->type == FMT_EXTENT_CHUNK) check_chunk(k, shard, offset, e);
                else if (e->type == FMT_EXTENT_VALUE) check_record(k, shard, offset, (uint64_t)e->pages * FMT_PAGE, FMT_RECORD_ALONE);
                else note(k, "descriptor", NULL, 0, e_at, "an extent of no known type");
            }
        }
    } while (look_end(k, shard, &look));
    return 0;
}

/* From the index to the records. */
static void check_table(struct check *k, uint32_t shard, uint64_t offset, uint32_t from, uint32_t depth, uint64_t *count, uint64_t *sum)
{
    mmkv_store *s = k->s;
    struct index_item items[FMT_TABLE_ENTRIES];
    struct fmt_table *t = table_at(s, offset);
    if (!t) {
        note(k, "index", NULL, 0, offset, "a directory leads to no table");
        return;
    }
    if (t->header.shard != shard || t->header.depth != depth || t->header.prefix != from)
        note(k, "index", NULL, 0, offset, "a table's header contradicts the directory");
    uint32_t n = table_items(t, items);
    for (uint32_t i = 0; i < n; i++) {
        const struct fmt_record *r;
        uint64_t size, hash;
        struct block block;
        struct fmt_epochs *epochs;
        struct fmt_chunk *c;
        struct place p;
        if (!record_of(s, items[i].record, &r, &size) || heap_locate(s, shard, items[i].record, &block, &epochs, &c)) {
            note(k, "index", NULL, 0, items[i].record, "an entry leads to no record");
            continue;
        }
        if (!load(&epochs->born) || fmt_epoch_of(load(&epochs->dead)))
            note(k, "index", NULL, 0, items[i].record, "an entry leads to a record that is not alive");
        hash = engine_hash(record_key(r), r->key_length, s->seed);
        if (fmt_bits_of(hash, s->shard_bits) != items[i].bits || index_find(s, shard_of(s, shard), hash, record_key(r), r->key_length, &p)
            || p.record != items[i].record)
            note(k, "index", record_key(r), r->key_length, items[i].record, "the key of an entry's record is not found through it");
        ++*count;
        *sum += r->checksum;
    }
}

static int check_shard(struct check *k, uint32_t shard)
{
    mmkv_store *s = k->s;
    uint64_t count, sum, tables;
    struct look look = { .tries = 0 };
    do { /* the whole index of a shard in one look, since its counters are compared */
        int rc = look_begin(k, shard, &look);
        if (rc) return rc;
        struct fmt_shard *sh = shard_of(s, shard);
        uint64_t now = load(&sh->epoch) & 1;
        count = sum = tables = 0;
        for (uint64_t bits = 0; bits < 1u << FMT_DEPTH_MAX;) {
            uint64_t table;
            uint32_t depth = 0;
            if (index_table(s, sh, (uint32_t)bits, &table, &depth)) {
                note(k, "index", NULL, 0, shard_at(shard), "the shard's directory is damaged");
                break;
            }
            if (!table) break;
            check_table(k, shard, table, (uint32_t)bits, depth, &count, &sum);
            tables++;
            bits += 1ull << (FMT_DEPTH_MAX - depth);
        }
        if (count != load(&sh->count[now]) || sum != load(&sh->sum[now]) || tables != load(&sh->tables))
            note(k, "counter", NULL, 0, shard_at(shard), "the shard counts %llu records in %llu tables and has %llu in %llu%s",
                 (unsigned long long)load(&sh->count[now]), (unsigned long long)load(&sh->tables), (unsigned long long)count,
                 (unsigned long long)tables, sum == load(&sh->sum[now]) ? "" : ", with another sum");
    } while (look_end(k, shard, &look));
    return 0;
}

/* ---- pages: every page is free, or belongs to exactly one extent ---- */

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
    if (!offset) return;
    struct fmt_extent *e = extent_at(k->s, offset);
    mark(k, maps, offset, e ? e->pages : pages, what);
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
        if (index_table(k->s, sh, (uint32_t)bits, &table, &d) || !table) break;
        mark(k, maps, table, 1, "a table");
        bits += 1ull << (FMT_DEPTH_MAX - d);
    }
}

static void account_pages(struct check *k, uint64_t **maps, uint64_t zones)
{
    mmkv_store *s = k->s;
    const struct fmt_allocator *p = allocator_of(s);
    uint64_t free_total = 0, waiting = 0;
    struct zone zone;
    for (uint64_t i = 0; i < zones; i++) {
        if (zone_get(s, i, &zone) || !zone.extents) continue;
        for (uint64_t page = zone.first; page < zone.pages;) {
            const struct fmt_extent *e = &zone.extents[page];
            bool live = e->born && !fmt_epoch_of(e->dead) && e->pages && e->pages <= zone.pages - page;
            if (live) mark(k, maps, zone.offset + page * FMT_PAGE, e->pages, "an extent");
            page += live ? e->pages : 1;
        }
    }
    uint64_t steps = 0;
    for (uint64_t page = p->waiting_head; page && steps++ < UINT32_MAX;) {
        const struct fmt_extent *e = extent_at(s, page << FMT_PAGE_SHIFT);
        if (!e) { note(k, "pages", NULL, 0, page << FMT_PAGE_SHIFT, "the queue of dead extents is damaged"); break; }
        if (k->found_count > 100) break; /* a cycle */
        mark(k, maps, page << FMT_PAGE_SHIFT, e->pages, "a dead extent");
        waiting += e->pages;
        page = e->link & FMT_LINK_MASK;
    }
    mark_word(k, maps, p->harvesting, "an extent being collected");
    for (uint32_t i = 0; i < s->shard_count; i++) {
        mark_index(k, maps, i);
        for (uint32_t j = 0; j < FMT_SHARD_RESERVES; j++) mark_word(k, maps, shard_of(s, i)->reserve[j], "a reserved extent");
        for (uint32_t j = 0; j < FMT_SHARD_RELEASES; j++) mark_word(k, maps, shard_of(s, i)->release[j], "a released extent");
    }
    for (uint32_t i = 0; i < FMT_PROCESSES; i++)
        for (int j = 0; j < 4; j++) mark_word(k, maps, process_of(s, i)->reserved_extent[j], "a reserved extent");
    for (uint64_t i = 0; i < zones; i++) {
        if (zone_get(s, i, &zone)) continue;
        uint64_t free_ = 0;
        for (uint64_t page = zone.first; page < zone.pages; page++) {
            bool is_free = bit_get(zone.free, page), used = bit_get(maps[i], page);
            free_ += is_free;
            if (is_free == used)
                note(k, "pages", NULL, 0, zone.offset + page * FMT_PAGE, used ? "a page in use is marked free" : "a page belongs to nobody");
        }
        if (free_ != zone_state_of(s, i)->free) note(k, "counter", NULL, 0, zone.offset, "a zone's count of free pages is wrong");
        free_total += free_;
    }
    if (free_total != p->free_pages) note(k, "counter", NULL, 0, FMT_ALLOCATOR_AT, "the allocator's count of free pages is wrong");
    if (waiting != p->waiting_pages) note(k, "counter", NULL, 0, FMT_ALLOCATOR_AT, "the allocator's count of waiting pages is wrong");
}

static int check_pages(struct check *k)
{
    mmkv_store *s = k->s;
    struct op op, a;
    int rc = 0;
    uint32_t locked = 0;
    if (!s->writable && k->writers) return 0; /* cannot make them stand still */
    if (s->writable) {
        for (; locked < s->shard_count && !rc; locked += !rc) rc = shard_lock(s, locked, &op, 0);
        if (!rc) rc = pages_lock(s, &a, 0);
    }
    if (!rc) {
        uint64_t zones = load(&allocator_of(s)->zone_count);
        uint64_t **maps = calloc(zones + 1, sizeof *maps);
        struct zone zone;
        for (uint64_t i = 0; maps && i < zones && !rc; i++) {
            if ((rc = zone_get(s, i, &zone))) break;
            if (!(maps[i] = calloc((zone.pages + 63) / 64, 8))) rc = fail(MMKV_NO_MEMORY, 0, "out of memory");
        }
        if (!maps) rc = fail(MMKV_NO_MEMORY, 0, "out of memory");
        if (!rc) account_pages(k, maps, zones);
        for (uint64_t i = 0; maps && i < zones; i++) free(maps[i]);
        free(maps);
        if (s->writable) pages_unlock(&a);
    }
    while (locked-- > 0) unlock_word(s, &shard_of(s, locked)->l.lock);
    tell(k, true);
    return rc;
}

int mmkv_verify(mmkv_store *s, mmkv_progress progress, mmkv_problem problem, void *context, uint64_t *records)
{
    struct check k = { .s = s, .progress = progress, .problem = problem, .context = context, .total = mmkv_count(s) };
    int rc = os_lock_held(file_of(s), FMT_LOCK_PROCESS, FMT_PROCESSES, &k.writers);
    uint64_t told = 0;
    *records = 0;
    if (rc) return rc;
    if (zones_valid(s, load(&allocator_of(s)->zone_count), load(&control_of(s)->file_length)) != load(&allocator_of(s)->zone_count)) {
        note(&k, "zones", NULL, 0, FMT_ZONES_AT, "the zone table is damaged");
        tell(&k, true);
        return 0;
    }
    if (slot_newest(s) < 0) note(&k, "slot", NULL, 0, FMT_SLOT_A_AT, "no valid checkpoint slot");
    tell(&k, true);
    for (uint32_t i = 0; i < s->shard_count; i++)
        if ((rc = check_shard(&k, i))) goto out;
    for (uint64_t i = 0; i < load(&allocator_of(s)->zone_count); i++) {
        struct zone zone;
        if ((rc = zone_get(s, i, &zone))) goto out;
        if (!zone.extents) continue;
        for (uint64_t page = zone.first, pages; page < zone.pages; page += pages) {
            if ((rc = check_extent(&k, &zone, page, &pages))) goto out;
            if (!progress || k.records - told < PROGRESS_RECORDS) continue;
            told = k.records;
            if (progress(context, k.records, k.total)) {
                rc = fail(MMKV_STOPPED, 0, "verify was stopped");
                goto out;
            }
        }
    }
    rc = check_pages(&k);
    if (!rc && progress) progress(context, k.records, k.records);
out:
    *records = k.records;
    free(k.found);
    return rc;
}
