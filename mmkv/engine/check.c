/* check.c: verify(), and the quick count that decides whether a dirty file's memory can be trusted.
 *
 * The walk goes both ways: from every index entry to its record, and from every descriptor and epoch word to the index.
 * It holds one shard's lock at a time, for one table or one chunk, so that others go on; a handle that may not lock looks
 * under a version and looks again when it moved. Page accounting needs everything to stand still, and locks everything,
 * for as long as a walk over the descriptors takes. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"

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

void note(struct check *k, const char *kind, const void *key, size_t key_length, uint64_t offset, const char *format, ...)
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

void tell(struct check *k, bool valid)
{
    for (size_t i = 0; i < k->found_count; i++) {
        struct found *f = &k->found[i];
        if (valid) k->problem(k->context, f->kind, f->key, f->key ? f->key_length : 0, f->offset, f->text);
        free(f->key);
    }
    k->found_count = 0;
}

/* A look at one shard: under its lock, or under a version that is checked at the end. */
struct look { struct op op; uint64_t version, records, started; int tries; bool locked; };

static int look_begin(struct check *k, uint32_t shard, struct look *look)
{
    mmkv_store *s = k->s;
    look->records = k->records;
    if (s->writable) {
        int rc = shard_lock(s, shard, &look->op, 0);
        look->locked = !rc && (!hash_calls_back || look->tries >= READ_TRIES);
        if (rc || look->locked) return rc;
        /* No hash that calls back with a lock held, if the shard can be seen at rest without. */
        look->version = load(&look->op.l->version);
        shard_unlock(&look->op);
        return 0;
    }
    struct fmt_lockable *l = &shard_of(s, shard)->l;
    while (!read_begin(l, &look->version) && k->writers) { /* with nobody there it stays odd; check_state tells */
        if (load(&shard_of(s, shard)->failed)) return fail_unusable(s, shard_of(s, shard));
        if (!look->started) look->started = os_now_ms();
        if (os_now_ms() - look->started > s->lock_timeout_ms)
            return fail_half_written(s, shard);
        os_wait((const uint32_t *)(const void *)&l->version, (uint32_t)look->version, 1);
    }
    return 0;
}

/* True: look again. */
static bool look_end(struct check *k, uint32_t shard, struct look *look)
{
    bool valid = true;
    if (look->locked) shard_unlock(&look->op);
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

/* A dead record that the last checkpoint still has: `durable`, which was read before its words were. If another one was
 * completed while we looked it may be gone, and the words too. */
static void check_needed(struct check *k, uint64_t durable, uint64_t offset, uint64_t room, uint64_t born, uint64_t dead)
{
    struct view v = { .key_length = 0 };
    if (fmt_epoch_of(born) > durable || fmt_epoch_of(dead) <= durable) return;
    bool whole = record_view(k->s, offset, &v) && v.size <= room;
    if (whole && record_good(&v, engine_hash(v.key, v.key_length, k->s->seed))) return;
    atomic_thread_fence(memory_order_acquire);
    if (load(&control_of(k->s)->durable) == durable)
        note(k, "checksum", whole ? v.key : NULL, v.key_length, offset, "a record of the last checkpoint is damaged");
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
    uint64_t oldest = 0, durable = load_acquire(&control_of(s)->durable);
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
            check_needed(k, durable, offset + fmt_chunk_blocks_at(c->blocks) + (uint64_t)i * size, size, born, dead);
        }
    }
    uint32_t words = (c->blocks + 63) / 64, first = (uint32_t)next_bit(chunk_bits(c), 0, c->blocks, true);
    if (next_bit(chunk_bits(c), c->blocks, words * 64, true) < words * 64)
        note(k, "free map", NULL, 0, offset, "a block that the chunk does not have is marked free");
    if (first < c->blocks && first / 64 < c->hint) note(k, "free map", NULL, 0, offset, "a block is free below where the search begins");
    if (c->list != chunk_list(c))
        note(k, "list", NULL, 0, offset, "the chunk is not in the list where it belongs");
    if (live != c->live || free_ != c->free || waiting != c->waiting)
        note(k, "counter", NULL, 0, offset, "the chunk counts %u live, %u free, %u waiting blocks and has %u, %u, %u", c->live,
             c->free, c->waiting, live, free_, waiting);
    if (waiting && c->waiting_epoch != oldest) note(k, "counter", NULL, 0, offset, "the chunk's oldest death is wrong");
}

/* An extent that may have died since the last checkpoint, which then still has it. */
static void check_dead(struct check *k, const struct fmt_extent *e, uint64_t offset, uint64_t born, uint64_t dead)
{
    uint64_t durable = load_acquire(&control_of(k->s)->durable);
    uint32_t size = e->class_ < FMT_CLASSES ? fmt_class_size(e->class_) : 0, order = e->pages ? (uint32_t)__builtin_ctz(e->pages) : 0;
    uint32_t blocks = size && order <= FMT_CHUNK_ORDER_MAX ? fmt_chunk_blocks(order, size) : 0;
    if (fmt_epoch_of(born) > durable || fmt_epoch_of(dead) <= durable) return;
    if (e->type == FMT_EXTENT_VALUE) check_needed(k, durable, offset, (uint64_t)e->pages * FMT_PAGE, born, dead);
    if (e->type != FMT_EXTENT_CHUNK) return;
    for (uint32_t i = 0; i < blocks; i++) {
        uint64_t at_ = offset + fmt_chunk_epochs_at(blocks) + 16ull * i;
        const struct fmt_epochs *words = at(k->s, at_, sizeof *words);
        if (words && words->born) check_needed(k, durable, offset + fmt_chunk_blocks_at(blocks) + (uint64_t)i * size, size, words->born, words->dead);
    }
}

/* The extent whose descriptor is at `page`; *pages is how far it reaches. */
static int check_extent(struct check *k, const struct zone *zone, uint64_t page, uint64_t *pages)
{
    mmkv_store *s = k->s;
    struct fmt_extent *e = &zone->extents[page];
    uint64_t offset = zone->offset + page * FMT_PAGE, e_at = offset_of(s, e);
    uint32_t shard = e->shard;
    *pages = 1;
    uint64_t found = load(&e->born);
    if (!found || shard >= s->shard_count) {
        if (found && !extent_sealed(e, e_at)) {
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
        uint64_t born = load(&e->born), dead = load(&e->dead), version = load(&e->link) & FMT_LINK_MASK;
        if (!born || dead == FMT_UNPUBLISHED || e->shard != shard) {
            /* reserved, about to be published, or taken over, meanwhile, under another lock than this shard's; one that stays
             * so is told of where everything stands still */
        } else if (!fmt_stamp_ok(born, e_at) || !fmt_stamp_ok(dead, e_at + 8) || !fmt_epoch_of(born)) {
            note(k, "epoch", NULL, 0, e_at, "an extent's epoch word is damaged");
        } else if (!fmt_epoch_of(dead)) {
            if (!extent_sealed(e, e_at) || !e->pages || e->pages > zone->pages - page) {
                note(k, "descriptor", NULL, 0, e_at, "the descriptor's check does not hold");
            } else {
                *pages = e->pages;
                if (e->type == FMT_EXTENT_CHUNK ? version : version && (!(version & 1) || version > (shard_of(s, shard)->l.version & FMT_LINK_MASK)))
                    note(k, "descriptor", NULL, 0, e_at, "the descriptor names a version that never was");
                if (e->type == FMT_EXTENT_CHUNK) check_chunk(k, shard, offset, e);
                else if (e->type == FMT_EXTENT_VALUE) check_record(k, shard, offset, (uint64_t)e->pages * FMT_PAGE, FMT_RECORD_ALONE);
                else note(k, "descriptor", NULL, 0, e_at, "an extent of no known type");
            }
        } else if (extent_sealed(e, e_at)) {
            check_dead(k, e, offset, born, dead);
        }
    } while (look_end(k, shard, &look));
    return 0;
}

/* Of a shard, as its index has it. */
struct totals { uint64_t count, sum, bytes, latest; };

/* All words of the directory at a table's positions lead to it. */
static void check_span(struct check *k, struct fmt_shard *sh, uint32_t shard, uint32_t from, uint32_t depth, uint64_t table)
{
    uint32_t global = (uint32_t)(load(&sh->directory) & 63);
    for (uint64_t i = 1; i < 1ull << (global - depth); i++) {
        uint64_t other;
        uint32_t other_depth;
        if (index_table(k->s, sh, from + (uint32_t)(i << (FMT_DEPTH_MAX - global)), &other, &other_depth) || other != table || other_depth != depth) {
            note(k, "index", NULL, 0, shard_at(shard), "words of the shard's directory that should lead to one table do not");
            return;
        }
    }
}

static void check_entry(struct check *k, uint32_t shard, const struct fmt_table *t, const struct index_item *item, struct totals *totals)
{
    mmkv_store *s = k->s;
    struct block block;
    struct fmt_epochs *epochs;
    struct fmt_chunk *c;
    struct place p;
    struct view v;
    if (!record_view(s, item->record, &v) || heap_locate(s, shard, item->record, &block, &epochs, &c)) {
        note(k, "index", NULL, 0, item->record, "an entry leads to no record");
        return;
    }
    uint64_t born = load(&epochs->born), dead = load(&epochs->dead), hash = engine_hash(v.key, v.key_length, s->seed);
    if (!born || fmt_epoch_of(dead))
        note(k, "index", NULL, 0, item->record, "an entry leads to a record that is not alive");
    else if (fmt_epoch_of(born) > totals->latest) totals->latest = fmt_epoch_of(born);
    if (fmt_bits_of(hash, s->shard_bits) != item->bits || index_find(s, shard_of(s, shard), hash, v.key, v.key_length, &p)
        || p.record != item->record || (item->line >= FMT_STASH_LINE && table_stash_tag(t, item) != fmt_tag_of(hash, s->shard_bits)))
        note(k, "index", v.key, v.key_length, item->record, "the key of an entry's record is not found through it");
    totals->count++;
    totals->sum += v.seal.sum;
    totals->bytes += v.key_length + v.value_length;
}

/* From the index to the records. */
static void check_table(struct check *k, uint32_t shard, uint64_t offset, uint32_t from, uint32_t depth, struct totals *totals)
{
    struct index_item items[FMT_TABLE_ENTRIES];
    struct fmt_table *t = table_at(k->s, offset);
    if (!t || t->header.shard != shard || t->header.depth != depth || t->header.prefix != from) {
        note(k, "index", NULL, 0, offset, t ? "a table's header contradicts the directory" : "a directory leads to no table");
        return;
    }
    uint32_t n = table_items(t, items), line = table_miscounted(t);
    if (line) note(k, "index", NULL, 0, offset + 64 * line, "a bucket's counts of entries elsewhere are wrong");
    for (uint32_t i = 0; i < n; i++) check_entry(k, shard, t, &items[i], totals);
}

static int check_shard(struct check *k, uint32_t shard)
{
    mmkv_store *s = k->s;
    uint64_t tables;
    struct totals t;
    struct look look = { .tries = 0 };
    do { /* the whole index of a shard in one look, since its counters are compared */
        int rc = look_begin(k, shard, &look);
        if (rc) return rc;
        struct fmt_shard *sh = shard_of(s, shard);
        uint64_t now = load(&sh->epoch) & 1;
        t = (struct totals){ .count = 0 };
        tables = 0;
        for (uint64_t bits = 0; bits < 1u << FMT_DEPTH_MAX;) {
            uint64_t table;
            uint32_t depth = 0;
            if (index_table(s, sh, (uint32_t)bits, &table, &depth)) {
                note(k, "index", NULL, 0, shard_at(shard), "the shard's directory is damaged");
                break;
            }
            if (!table) break;
            check_span(k, sh, shard, (uint32_t)bits, depth, table);
            check_table(k, shard, table, (uint32_t)bits, depth, &t);
            tables++;
            bits += 1ull << (FMT_DEPTH_MAX - depth);
        }
        if (t.count != load(&sh->count[now]) || t.sum != load(&sh->sum[now]) || tables != load(&sh->tables))
            note(k, "counter", NULL, 0, shard_at(shard), "the shard counts %llu records in %llu tables and has %llu in %llu%s",
                 (unsigned long long)load(&sh->count[now]), (unsigned long long)load(&sh->tables), (unsigned long long)t.count,
                 (unsigned long long)tables, t.sum == load(&sh->sum[now]) ? "" : ", with another sum");
        if (t.bytes != load(&sh->bytes)) note(k, "counter", NULL, 0, shard_at(shard), "the shard's count of bytes is wrong");
        if (t.latest > load(&sh->epoch)) note(k, "counter", NULL, 0, shard_at(shard), "the shard was written later than it says");
    } while (look_end(k, shard, &look));
    return 0;
}

/* ---- all of it ---- */

static int walk(struct check *k)
{
    mmkv_store *s = k->s;
    uint64_t told = 0;
    int rc = handle_whole(s);
    if (rc || (rc = map_all(s)) || (rc = os_lock_held(file_of(s), FMT_LOCK_PROCESS, FMT_PROCESSES, &k->writers))) return rc;
    k->total = shard_records(s);
    if (zones_valid(s, load(&allocator_of(s)->zone_count), load(&control_of(s)->file_length)) != load(&allocator_of(s)->zone_count)) {
        note(k, "zones", NULL, 0, FMT_ZONES_AT, "the zone table is damaged");
        tell(k, true);
        return 0;
    }
    if (memcmp(superblock_of(s), s->head + FMT_SUPERBLOCK_COPY_AT, sizeof(struct fmt_superblock)))
        note(k, "superblock", NULL, 0, FMT_SUPERBLOCK_COPY_AT, "the superblock's copy differs from it");
    if (slot_newest(s) < 0) note(k, "slot", NULL, 0, FMT_SLOT_A_AT, "no valid checkpoint slot");
    tell(k, true);
    for (uint32_t i = 0; i < s->shard_count; i++)
        if ((rc = check_shard(k, i))) return rc;
    for (uint64_t i = 0; i < load(&allocator_of(s)->zone_count); i++) {
        struct zone zone;
        if ((rc = zone_get(s, i, &zone))) return rc;
        if (!zone.extents) continue;
        for (uint64_t page = zone.first, pages; page < zone.pages; page += pages) {
            if ((rc = check_extent(k, &zone, page, &pages))) return rc;
            if (!k->progress || k->records - told < PROGRESS_RECORDS) continue;
            told = k->records;
            if (k->progress(k->context, k->records, k->total)) {
                return fail(MMKV_STOPPED, 0, "verify was stopped");
            }
        }
    }
    rc = check_pages(k);
    if (!rc && k->progress) k->progress(k->context, k->records, k->records);
    return rc;
}

/* What was found in a private copy says nothing if somebody writes to the original by now. */
static int verify(struct check *k)
{
    int rc = shard_stale(k->s);
    if (!rc && !(rc = walk(k))) rc = shard_stale(k->s);
    return rc;
}

int mmkv_verify(mmkv_store *s, mmkv_progress progress, mmkv_problem problem, void *context, uint64_t *records)
{
    struct check k = { .s = s, .progress = progress, .problem = problem, .context = context };
    int rc = GUARDED(s, verify(&k));
    for (size_t i = 0; i < k.found_count; i++) free(k.found[i].key);
    free(k.found);
    *records = k.records;
    return rc;
}
