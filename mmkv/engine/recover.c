/* recover.c: after power loss, back to the checkpoint C of the newest valid slot.
 *
 * The zone table, the descriptors and the epoch words are all that is read as structure. A descriptor or record is live
 * at C iff 0 < born <= C and (dead = 0 or dead > C). Ghosts are neutralised: born after C is wiped, dead after C is
 * reset; a second cut during that is harmless, since each store leaves the word's owner as dead or alive at C as it was.
 * Everything volatile is made anew. What was found must be what the slot counted, or the file is refused.
 *
 * The identity is void until the end (the caller stamps it last), so an interrupted recovery is begun again. That is why
 * nothing here is logged or locked: nobody else is there, and what is half done is made anew.
 *
 * Everything is walked twice: first only to look (`look`), which stores nothing, so that a file that is refused is left as
 * it was. A repair (repair.c), which has looked already, goes the same way with `repair` set: damage is told and left out,
 * and does not end it. */
#include <stdarg.h>
#include <stdio.h>

#include "engine.h"

enum {
    BATCH = 32,                  /* records whose cache lines are fetched side by side */
    AHEAD = 16 << 20             /* bytes that the kernel is asked to read ahead */
};

enum verdict { V_UNBORN, V_DEAD, V_LIVE, V_BAD };

/* What contradicts itself: the end of a recovery; for a repair something to tell and to leave out. */
int damage(struct recovery *r, const char *kind, const void *key, size_t key_length, uint64_t offset, const char *format, ...)
{
    char text[160];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (!r->repair) return fail(MMKV_CORRUPT, offset, "%s", text);
    if (r->look && r->repair->problem) r->repair->problem(r->repair->context, kind, key, key_length, offset, text);
    return 0;
}

static int tell(const struct recovery *r)
{
    const mmkv_store *s = r->s;
    if (!s->progress || !s->progress(s->progress_context, r->done + r->count, r->expected)) return 0;
    return fail(MMKV_STOPPED, 0, "recovery was stopped");
}

/* ---- epoch words ---- */

/* For a repair: a word that one flipped bit would make good is taken for the good one. */
static uint64_t mended(struct recovery *r, uint64_t word, uint64_t offset)
{
    uint64_t good = word;
    uint32_t found = 0;
    if (!r->repair || fmt_stamp_ok(word, offset)) return word;
    for (uint32_t i = 0; i < 64; i++) {
        uint64_t flipped = word ^ 1ull << i;
        if (!fmt_stamp_ok(flipped, offset) || fmt_epoch_of(flipped) > r->c) continue;
        good = flipped;
        found++;
    }
    if (found != 1) return word;
    damage(r, "epoch", NULL, 0, offset, "an epoch word had a flipped bit, which is set right");
    return good;
}

/* The zone's heap pages must be on the disk before the next slot is. */
static void touch(struct recovery *r, uint64_t *word, uint64_t value)
{
    if (r->look || *word == value) return;
    store(word, value);
    r->touched = true;
}

static void wipe(struct recovery *r, uint64_t *born, uint64_t *dead)
{
    touch(r, born, 0);
    kill_fence();
    touch(r, dead, 0);
}

/* Judge a pair of epoch words at C, and neutralise a ghost. `offset` is where born lies. */
static enum verdict judge(struct recovery *r, uint64_t *born, uint64_t *dead, uint64_t offset)
{
    if (!*born) return V_UNBORN;
    uint64_t b = mended(r, *born, offset), d;
    if (!fmt_stamp_ok(b, offset) || !fmt_epoch_of(b)) return V_BAD;
    if (fmt_epoch_of(b) > r->c) {
        wipe(r, born, dead);
        return V_UNBORN;
    }
    d = mended(r, *dead, offset + 8);
    if (!fmt_stamp_ok(d, offset + 8)) return V_BAD;
    if (fmt_epoch_of(d) > r->c) d = fmt_stamp(0, offset + 8); /* its death is undone */
    touch(r, born, b);
    touch(r, dead, d);
    return fmt_epoch_of(d) ? V_DEAD : V_LIVE;
}

/* ---- records ---- */

/* Live records of one shard on their way into its index. */
struct found {
    const struct fmt_record *record;
    struct fmt_epochs *epochs;   /* NULL: it was damaged and is left out */
    uint64_t offset, hash;
};
struct batch {
    struct recovery *r;
    uint32_t shard, place, n;
    uint64_t room;               /* bytes that a record may have */
    struct op op;
    struct found found[BATCH];
};

static void batch_open(struct batch *b, struct recovery *r, uint32_t shard, uint32_t place, uint64_t room)
{
    mmkv_store *s = r->s;
    struct fmt_shard *sh = shard_of(s, shard);
    b->r = r;
    b->shard = shard;
    b->place = place;
    b->room = room;
    b->n = 0;
    op_open(&b->op, s, &sh->l, &sh->log, 0); /* for index_split: the lock word itself is left alone */
    b->op.sh = sh;
    b->op.shard = shard;
    b->op.epoch = r->c + 1;
}

/* Is a record that fits its room what its checksum says, and where it says? */
static bool holds(const struct batch *b, const struct fmt_record *record, uint64_t *hash)
{
    mmkv_store *s = b->r->s;
    return (record->flags & FMT_RECORD_PLACE) == b->place && record_check(s, record, hash) && fmt_shard_of(*hash, s->shard_bits) == b->shard;
}

/* Does a live record hold what its checksum says? In a repair one that does not is told, with its key where that seems
 * to be whole: the hash of a key that is not would mostly lead to another shard. (Zeros look like an empty key.) */
static int examine(struct batch *b, struct found *f)
{
    struct recovery *r = b->r;
    uint64_t size;
    bool fits = record_of(r->s, f->offset, &f->record, &size) && size <= b->room;
    if (fits && holds(b, f->record, &f->hash)) return 0;
    bool key = fits && f->record->key_length && fmt_shard_of(engine_hash(record_key(f->record), f->record->key_length, r->s->seed), r->s->shard_bits) == b->shard;
    int rc = damage(r, "record", key ? record_key(f->record) : NULL, key ? f->record->key_length : 0, f->offset,
                    "the record at offset %llu is damaged", (unsigned long long)f->offset);
    if (rc) return rc;
    wipe(r, &f->epochs->born, &f->epochs->dead);
    f->epochs = NULL;
    if (r->look) r->repair->lost[b->shard]++;
    return 0;
}

static int index_one(struct batch *b, const struct found *f)
{
    mmkv_store *s = b->r->s;
    struct place p;
    int rc = index_find(s, b->op.sh, f->hash, record_key(f->record), f->record->key_length, &p);
    if (rc != MMKV_NOT_FOUND)
        return fail(MMKV_CORRUPT, f->offset, "two live records have one key, at offsets %llu and %llu",
                    (unsigned long long)f->offset, (unsigned long long)p.record);
    while ((rc = index_room(s, b->op.sh, f->hash, &p)) == MMKV_FULL)
        if ((rc = index_split(&b->op, f->hash))) return rc;
    if (!rc) index_insert_alone(s, f->hash, &p, f->offset);
    return rc;
}

/* Each step over the whole batch, so that the misses of one step overlap. */
static int batch_flush(struct batch *b)
{
    struct recovery *r = b->r;
    mmkv_store *s = r->s;
    struct fmt_shard *sh = b->op.sh;
    uint64_t count = 0, sum = 0, bytes = 0;
    int rc = 0;
    for (uint32_t i = 0; i < b->n && !rc; i++) {
        struct found *f = &b->found[i];
        if ((rc = examine(b, f)) || !f->epochs) continue;
        if (!r->look) shard_prefetch(s, f->hash, 0);
        count++;
        sum += f->record->checksum;
        bytes += f->record->key_length + record_value_length(f->record);
    }
    for (uint32_t i = 0; i < b->n && !rc && !r->look; i++)
        if (b->found[i].epochs) rc = index_one(b, &b->found[i]);
    b->n = 0;
    r->count += count;
    r->sum += sum;
    if (r->look && r->repair) {
        r->repair->count[b->shard] += count;
        r->repair->sum[b->shard] += sum;
    } else if (!r->look) {
        for (int i = 0; i < 2; i++) {
            sh->count[i] += count;
            sh->sum[i] += sum;
        }
        sh->bytes += bytes;
    }
    if (!rc && r->count - r->told >= 0x10000) {
        r->told = r->count;
        rc = tell(r);
    }
    return rc;
}

static int batch_add(struct batch *b, uint64_t offset, struct fmt_epochs *epochs)
{
    b->found[b->n++] = (struct found){ .offset = offset, .epochs = epochs };
    const uint8_t *p = at(b->r->s, offset, FMT_RECORD_HEADER);
    for (uint32_t line = 0; p && line < b->room && line < 256; line += 64) __builtin_prefetch(p + line);
    return b->n == BATCH ? batch_flush(b) : 0;
}

/* ---- extents ---- */

static void list_chunk(mmkv_store *s, struct fmt_chunk *c, uint64_t offset)
{
    struct fmt_shard *sh = shard_of(s, c->shard);
    struct fmt_class *k = &sh->class_[c->class_];
    sh->chunks++;
    k->pages += 1u << c->order;
    if (!c->free) return;
    struct fmt_chunk *first = k->available ? chunk_at(s, k->available, c->shard) : NULL;
    c->list = FMT_LIST_AVAILABLE;
    c->next = k->available;
    c->prev = first ? first->prev : offset;
    if (first) first->prev = offset;
    k->available = offset;
}

static bool chunk_geometry(const struct fmt_extent *e, uint64_t offset, uint32_t *order, uint32_t *size, uint32_t *blocks)
{
    *order = (uint32_t)__builtin_ctz(e->pages);
    *size = e->class_ < FMT_CLASSES ? fmt_class_size(e->class_) : 0;
    *blocks = *size && *order <= FMT_CHUNK_ORDER_MAX ? fmt_chunk_blocks(*order, *size) : 0;
    return *blocks && e->pages == 1u << *order && !(offset & (((uint64_t)FMT_PAGE << *order) - 1));
}

/* A block whose epoch words are past mending: whether its record lives cannot be told, so it is left out. */
static int bad_words(struct batch *b, uint64_t record, uint64_t e_at, struct fmt_epochs *epochs)
{
    struct recovery *r = b->r;
    const struct fmt_record *found;
    uint64_t size, hash;
    bool whole = record_of(r->s, record, &found, &size) && size <= b->room && holds(b, found, &hash);
    int rc = damage(r, "epoch", whole ? record_key(found) : NULL, whole ? found->key_length : 0, e_at,
                    "an epoch word at offset %llu is damaged", (unsigned long long)e_at);
    if (rc) return rc;
    if (r->look) r->repair->lost[b->shard]++;
    wipe(r, &epochs->born, &epochs->dead);
    return 0;
}

static int recover_chunk(struct recovery *r, const struct fmt_extent *e, uint64_t offset)
{
    mmkv_store *s = r->s;
    uint32_t order, size, blocks;
    struct batch b;
    chunk_geometry(e, offset, &order, &size, &blocks);
    struct fmt_chunk *c = at(s, offset, (uint64_t)FMT_PAGE << order);
    if (!c) return fail(MMKV_CORRUPT, offset, "a chunk lies outside the file");
    struct fmt_epochs *epochs = (struct fmt_epochs *)(void *)((uint8_t *)c + fmt_chunk_epochs_at(blocks));
    batch_open(&b, r, e->shard, order, size);
    for (uint32_t i = 0; i < blocks; i++) {
        uint64_t e_at = offset + fmt_chunk_epochs_at(blocks) + 16ull * i, record = offset + fmt_chunk_blocks_at(blocks) + (uint64_t)i * size;
        enum verdict v = judge(r, &epochs[i].born, &epochs[i].dead, e_at);
        int rc = 0;
        if (v == V_LIVE) rc = batch_add(&b, record, &epochs[i]);
        else if (v == V_BAD) rc = bad_words(&b, record, e_at, &epochs[i]);
        if (rc) return rc;
    }
    int rc = batch_flush(&b);
    if (rc || r->look) return rc;
    /* The header and the bitmap are volatile: written anew. The epoch words after them are what counts. */
    memset(c, 0, fmt_chunk_epochs_at(blocks));
    for (uint32_t i = 0; i < blocks; i++) {
        if (epochs[i].born && !fmt_epoch_of(epochs[i].dead)) continue;
        chunk_bits(c)[i / 64] |= 1ull << (i & 63);
        c->free++;
    }
    c->live = blocks - c->free;
    c->shard = e->shard;
    c->class_ = e->class_;
    c->order = (uint8_t)order;
    c->blocks = blocks;
    list_chunk(s, c, offset);
    return 0;
}

/* A record in an extent of its own, whose epoch words are the descriptor's. *left_out: it was damaged. */
static int recover_value(struct recovery *r, const struct fmt_extent *e, struct fmt_epochs *epochs, uint64_t offset, bool *left_out)
{
    struct batch b;
    batch_open(&b, r, e->shard, FMT_RECORD_ALONE, (uint64_t)e->pages * FMT_PAGE);
    int rc = batch_add(&b, offset, epochs);
    if (!rc) rc = batch_flush(&b);
    *left_out = !rc && !b.found[0].epochs;
    if (rc || r->look || *left_out) return rc;
    const struct fmt_record *record;
    uint64_t size;
    if (record_of(r->s, offset, &record, &size) && heap_class(size) < FMT_CLASSES)
        b.op.sh->class_[heap_class(size)].singles++;
    return 0;
}

/* ---- zones ---- */

static bool descriptor_good(const struct recovery *r, const struct zone *zone, uint64_t page, const struct fmt_extent *e, uint64_t e_at)
{
    uint32_t order, size, blocks;
    return extent_sealed(e, e_at) && e->pages && e->pages <= zone->pages - page
        && e->shard < r->s->shard_count
        && (e->type == FMT_EXTENT_VALUE
            || (e->type == FMT_EXTENT_CHUNK && chunk_geometry(e, zone->offset + page * FMT_PAGE, &order, &size, &blocks)));
}

/* For a repair: one flipped bit in the checked words of a descriptor is set right, in `e`, a copy. */
static bool descriptor_mended(struct recovery *r, const struct zone *zone, uint64_t page, struct fmt_extent *e, uint64_t e_at)
{
    uint32_t found = 0;
    struct fmt_extent good = *e;
    for (uint32_t i = 0; i < 80 && r->repair; i++) {
        struct fmt_extent t = *e;
        if (i < 64) *WORD(t.pages) ^= 1ull << i;
        else t.link ^= 1ull << (i - 16);
        if (!descriptor_good(r, zone, page, &t, e_at)) continue;
        good = t;
        found++;
    }
    if (found != 1) return false;
    *e = good;
    damage(r, "descriptor", NULL, 0, e_at, "the descriptor at offset %llu had a flipped bit, which is set right", (unsigned long long)e_at);
    return true;
}

/* The extent whose descriptor is at `page`; *pages is how far it reaches. */
static int recover_extent(struct recovery *r, struct zone *zone, uint64_t page, uint64_t *pages)
{
    mmkv_store *s = r->s;
    struct fmt_extent *e = &zone->extents[page], copy;
    uint64_t offset = zone->offset + page * FMT_PAGE, e_at = offset_of(s, e);
    enum verdict v = judge(r, &e->born, &e->dead, e_at);
    *pages = 1;
    if (v == V_DEAD && r->repair && !extent_sealed(e, e_at)) {
        int rc = damage(r, "descriptor", NULL, 0, e_at, "the descriptor of an extent that is dead was damaged and is wiped");
        if (!rc) wipe(r, &e->born, &e->dead);
        return rc;
    }
    if (v == V_UNBORN || v == V_DEAD) return 0;
    copy = *e;
    if (v == V_BAD || (!descriptor_good(r, zone, page, e, e_at) && !descriptor_mended(r, zone, page, &copy, e_at))) {
        int rc = damage(r, v == V_BAD ? "epoch" : "descriptor", NULL, 0, e_at, "the descriptor at offset %llu is damaged", (unsigned long long)e_at);
        if (!rc) wipe(r, &e->born, &e->dead);
        return rc;
    }
    if (*WORD(copy.pages) != *WORD(e->pages) || (copy.link ^ e->link) & ~FMT_LINK_MASK) touch(r, WORD(e->pages), *WORD(copy.pages));
    if (!r->look) store(&e->link, copy.link & ~FMT_LINK_MASK);
    bool left_out = false;
    int rc = copy.type == FMT_EXTENT_CHUNK ? recover_chunk(r, &copy, offset)
                                           : recover_value(r, &copy, (struct fmt_epochs *)(void *)e, offset, &left_out);
    if (rc || left_out) return rc; /* its other pages' descriptors count again */
    *pages = copy.pages;
    if (r->look) return 0;
    bits_set(zone->free, page, copy.pages, false);
    bits_set(zone->holes, page, copy.pages, false);
    zone_state_of(s, zone->number)->free -= copy.pages;
    allocator_of(s)->free_pages -= copy.pages;
    return 0;
}

int recover_zone(struct recovery *r, uint64_t i)
{
    mmkv_store *s = r->s;
    struct zone zone;
    int rc = zone_get(s, i, &zone);
    if (rc || !zone.extents) return rc;
    r->touched = false;
    for (uint64_t page = zone.first, pages; page < zone.pages && !rc; page += pages) {
        uint64_t offset = zone.offset + page * FMT_PAGE;
        if (offset + AHEAD / 2 > r->ahead) {
            if (r->ahead < offset) r->ahead = offset;
            os_read_ahead(s->fd, r->ahead, AHEAD);
            r->ahead += AHEAD;
        }
        rc = recover_extent(r, &zone, page, &pages);
    }
    if (r->touched) bits_set(r->flush, i, 1, true);
    return rc;
}

int check_reaches(uint64_t physical, uint64_t length)
{
    if (physical >= length) return 0;
    return fail(MMKV_CORRUPT, physical, "the file was truncated: it has %llu bytes and its last checkpoint needs %llu",
                (unsigned long long)physical, (unsigned long long)length);
}

/* Asked before anything is changed: who trusted a length that no zone ends at would cut records off. */
static int check_length(mmkv_store *s, uint64_t length)
{
    uint64_t count = zones_valid(s, FMT_ZONES, length);
    const struct fmt_zone *last = zone_of(s, count ? count - 1 : 0);
    if ((count ? last->offset + last->pages * FMT_PAGE : s->zones_start) == length) return 0;
    return fail(MMKV_CORRUPT, FMT_ZONES_AT, "the zone table does not cover the checkpoint's file length");
}

static int make_zones(mmkv_store *s, uint64_t length)
{
    uint64_t count = zones_valid(s, FMT_ZONES, length);
    struct fmt_allocator *p = allocator_of(s);
    p->zone_count = count;
    memset(zone_of(s, count), 0, (FMT_ZONES - count) * sizeof(struct fmt_zone));
    for (uint64_t i = 0; i < count; i++) {
        struct zone zone;
        int rc = zone_get(s, i, &zone);
        if (rc) return rc;
        zone_format(&zone);
        /* What was punched is not known any more: all of it, until it has been reserved again. */
        bits_set(zone.holes, zone.first, zone.pages - zone.first, true);
        *zone_state_of(s, i) = (struct fmt_zone_state){ .free = (uint32_t)(zone.pages - zone.first),
                                                        .run_max = (uint32_t)zone.pages, .hint = (uint32_t)zone.first };
        p->free_pages += zone.pages - zone.first;
    }
    return 0;
}

/* The ghosts' end, and that of zones of a lost future, must be on disk before the next slot is. What was made anew need
 * not be: who finds it torn makes it anew again. */
static int flush_touched(struct recovery *r, uint64_t count)
{
    mmkv_store *s = r->s;
    int rc = checkpoint_flush(s, zone_of(s, 0), FMT_ZONES * sizeof(struct fmt_zone));
    for (uint64_t i = 0; i < count && !rc; i++) {
        struct zone zone;
        if (bit_get(r->flush, i) && !(rc = zone_get(s, i, &zone))) rc = checkpoint_flush(s, zone.free, zone.pages * FMT_PAGE);
    }
    return rc;
}

/* Void the identity and take the clean mark back, durably, before anything else is touched (R9); then all that is
 * volatile is zeros. */
static int begin_anew(mmkv_store *s, struct fmt_slot *slot)
{
    struct fmt_control *control = control_of(s);
    uint64_t attach_count = control->attach_count;
    uint32_t failed = control->failed; /* until everything has been written again */
    memset(control, 0, sizeof *control); /* the identity first of all */
    control->failed = failed;
    control->attach_count = attach_count + 1;
    kill_fence();
    slot->clean = 0;
    /* The other slot too, and its page stored again: one whose flush failed was taken back in memory (checkpoint_led), but
     * may be on the disk, and must not win there once the ghosts of its epoch are being wiped. */
    uint64_t *other = (uint64_t *)(void *)slot_of(s, slot == slot_of(s, 0));
    store(other, *other);
    int rc = checkpoint_flush(s, slot_of(s, 0), FMT_SLOT_B_AT + FMT_PAGE - FMT_SLOT_A_AT);
    if (rc) return rc;
    memset(s->head + FMT_PROCESSES_AT, 0, FMT_ALLOCATOR_AT + sizeof(struct fmt_allocator) - FMT_PROCESSES_AT);
    memset(s->head + FMT_ZONE_STATES_AT, 0, s->zones_start - FMT_ZONE_STATES_AT);
    control->epoch = slot->epoch + 1;
    control->durable = slot->epoch;
    control->file_length = slot->file_length;
    return 0;
}

/* All zones; then what was found has to be what the slot counted. */
static int walk(struct recovery *r, const struct fmt_slot *slot, uint64_t zones)
{
    int rc = tell(r);
    for (uint64_t i = 0; i < zones && !rc; i++) rc = recover_zone(r, i);
    if (rc || (r->count == slot->record_count && r->sum == slot->record_sum)) return rc;
    return fail(MMKV_CORRUPT, offset_of(r->s, slot), "the checkpoint counted %llu records and %llu are there%s: the file is damaged, "
                "or a copy of a store that was in use",
                (unsigned long long)slot->record_count, (unsigned long long)r->count,
                r->count == slot->record_count ? " with another sum" : "");
}

/* Nothing may be taken from a file that is then refused: not even ghosts, or what lies beyond the length. */
static int look(mmkv_store *s, const struct fmt_slot *slot)
{
    struct recovery r = { .s = s, .c = slot->epoch, .expected = 2 * slot->record_count, .look = true };
    int rc = map_to(s, slot->file_length);
    return rc ? rc : walk(&r, slot, zones_valid(s, FMT_ZONES, slot->file_length));
}

static int recover_all(struct recovery *r, const struct fmt_slot *slot)
{
    mmkv_store *s = r->s;
    int rc = make_zones(s, slot->file_length);
    uint64_t count = allocator_of(s)->zone_count; /* the index may add some */
    if (rc || (rc = walk(r, slot, count))) return rc;
    for (uint32_t i = 0; i < s->shard_count; i++) shard_of(s, i)->epoch = slot->epoch;
    if ((rc = holes_punch_marked(s)) || (rc = flush_touched(r, count))) return rc;
    return tell(r);
}

/* The attach lock is held and nobody is attached; or the pages are private. */
int recover(mmkv_store *s, struct repair *repair)
{
    int which = slot_newest(s);
    uint64_t physical;
    if (which < 0) return fail(MMKV_CORRUPT, FMT_SLOT_A_AT, "no valid checkpoint slot");
    struct fmt_slot *slot = slot_of(s, which);
    int rc = os_length(s->fd, &physical);
    if (rc || (rc = check_reaches(physical, slot->file_length))) return rc;
    if ((rc = check_length(s, slot->file_length)) || (!repair && (rc = look(s, slot))) || (rc = begin_anew(s, slot))) return rc;
    /* What lies beyond the cut is of a lost future; when the file grows again it must read as zeros. */
    if (!s->private_ && physical > slot->file_length && (rc = os_set_length(s->fd, slot->file_length))) return rc;
    map_cut(s, slot->file_length); /* who looked whether the memory can be trusted has mapped all of the file */
    struct recovery r = { .s = s, .c = slot->epoch, .done = slot->record_count, .expected = 2 * slot->record_count, .repair = repair };
    return recover_all(&r, slot);
}
