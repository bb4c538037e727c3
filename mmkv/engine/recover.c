/* recover.c: after power loss, back to the checkpoint C of the newest valid slot.
 *
 * The zone table, the descriptors and the epoch words are all that is read as structure. A descriptor or record is live
 * at C iff 0 < born <= C and (dead = 0 or dead > C). Ghosts are neutralised: born after C is wiped, dead after C is
 * reset; a second cut during that is harmless, since each store leaves the word's owner as dead or alive at C as it was.
 * Everything volatile is made anew. What was found must be what the slot counted, or the file is refused.
 *
 * The identity is void until the end (the caller stamps it last), so an interrupted recovery is begun again. */
#include "engine.h"

struct recovery {
    mmkv_store *s;
    uint64_t c;                  /* the checkpoint */
    uint64_t count, sum, expected, done;
};

enum verdict { V_UNBORN, V_DEAD, V_LIVE, V_BAD };

/* Judge a pair of epoch words at C, and neutralise a ghost. `offset` is where born lies. */
static enum verdict judge(struct recovery *r, uint64_t *born, uint64_t *dead, uint64_t offset)
{
    if (!*born) return V_UNBORN;
    if (!fmt_stamp_ok(*born, offset) || !fmt_epoch_of(*born)) return V_BAD;
    if (fmt_epoch_of(*born) > r->c) {
        store(born, 0);
        kill_fence();
        store(dead, 0);
        return V_UNBORN;
    }
    if (!fmt_stamp_ok(*dead, offset + 8)) return V_BAD;
    uint64_t d = fmt_epoch_of(*dead);
    if (d && d <= r->c) return V_DEAD;
    if (d) store(dead, fmt_stamp(0, offset + 8));
    return V_LIVE;
}

static int bad_epoch(uint64_t offset)
{
    return fail(MMKV_CORRUPT, offset, "an epoch word at offset %llu is damaged",
                (unsigned long long)offset);
}

/* Put a live record into its shard's index and counters. */
static int adopt(struct recovery *r, uint64_t offset, uint32_t shard, uint32_t place, uint64_t room)
{
    mmkv_store *s = r->s;
    const struct fmt_record *record;
    uint64_t size, hash;
    struct op op;
    struct place p;
    if (!record_of(s, offset, &record, &size) || size > room || (record->flags & FMT_RECORD_PLACE) != place
        || !record_check(s, record, &hash) || fmt_shard_of(hash, s->shard_bits) != shard)
        return fail(MMKV_CORRUPT, offset, "the record at offset %llu is damaged",
                    (unsigned long long)offset);
    int rc = shard_lock(s, shard, &op, 0);
    if (rc) return rc;
    rc = index_find(s, op.sh, hash, record_key(record), record->key_length, &p);
    if (rc != MMKV_NOT_FOUND) {
        rc = fail(MMKV_CORRUPT, offset, "two live records have one key, at offsets %llu and %llu",
                  (unsigned long long)offset, (unsigned long long)p.record);
        goto out;
    }
    while ((rc = index_room(s, op.sh, hash, &p)) == MMKV_FULL)
        if ((rc = index_split(&op, hash))) goto out;
    if (rc) goto out;
    op_begin(&op);
    index_insert(&op, hash, &p, offset);
    for (int i = 0; i < 2; i++) {
        op.sh->count[i]++;
        op.sh->sum[i] += record->checksum;
    }
    op.sh->bytes += record->key_length + record_value_length(record);
    op_commit(&op);
    r->count++;
    r->sum += record->checksum;
    if (!(++r->done & 0xffff) && s->progress && s->progress(s->progress_context, r->done, r->expected))
        rc = fail(MMKV_STOPPED, 0, "recovery was stopped");
out:
    shard_unlock(&op);
    return rc;
}

static int recover_chunk(struct recovery *r, const struct fmt_extent *e, uint64_t offset)
{
    mmkv_store *s = r->s;
    uint32_t order = (uint32_t)__builtin_ctz(e->pages), size = e->class_ < FMT_CLASSES ? fmt_class_size(e->class_) : 0;
    uint32_t blocks = size && order <= FMT_CHUNK_ORDER_MAX ? fmt_chunk_blocks(order, size) : 0;
    struct fmt_chunk *c = at(s, offset, (uint64_t)e->pages * FMT_PAGE);
    if (!blocks || e->pages != 1u << order || offset & (((uint64_t)FMT_PAGE << order) - 1) || !c)
        return fail(MMKV_CORRUPT, offset, "a chunk's descriptor is damaged");
    /* The header and the bitmap are volatile: written anew. The epoch words after them are what counts. */
    memset(c, 0, fmt_chunk_epochs_at(blocks));
    c->shard = e->shard;
    c->class_ = e->class_;
    c->order = (uint8_t)order;
    c->blocks = blocks;
    struct fmt_epochs *epochs = chunk_epochs(c);
    for (uint32_t i = 0; i < blocks; i++) {
        uint64_t e_at = offset + fmt_chunk_epochs_at(blocks) + 16ull * i;
        int rc = 0;
        switch (judge(r, &epochs[i].born, &epochs[i].dead, e_at)) {
        case V_BAD: return bad_epoch(e_at);
        case V_LIVE:
            rc = adopt(r, offset + fmt_chunk_blocks_at(blocks) + (uint64_t)i * size, e->shard, order, size);
            if (rc) return rc;
            c->live++;
            break;
        default:
            bits_set(chunk_bits(c), i, 1, true);
            c->free++;
        }
    }
    struct fmt_shard *sh = shard_of(s, e->shard);
    struct fmt_class *k = &sh->class_[e->class_];
    sh->chunks++;
    k->pages += e->pages;
    if (c->free) { /* to the front of the available list */
        struct fmt_chunk *first = k->available ? chunk_at(s, k->available, e->shard) : NULL;
        c->list = FMT_LIST_AVAILABLE;
        c->next = k->available;
        c->prev = first ? first->prev : offset;
        if (first) first->prev = offset;
        k->available = offset;
    }
    return 0;
}

static int recover_value(struct recovery *r, struct fmt_extent *e, uint64_t offset)
{
    const struct fmt_record *record;
    uint64_t size;
    int rc = adopt(r, offset, e->shard, FMT_RECORD_ALONE, (uint64_t)e->pages * FMT_PAGE);
    if (rc) return rc;
    if (record_of(r->s, offset, &record, &size) && heap_class(size) < FMT_CLASSES)
        shard_of(r->s, e->shard)->class_[heap_class(size)].singles++;
    return 0;
}

static int recover_zone(struct recovery *r, uint64_t i)
{
    mmkv_store *s = r->s;
    struct zone zone;
    int rc = zone_get(s, i, &zone);
    if (rc || !zone.extents) return rc;
    struct fmt_zone_state *state = zone_state_of(s, i);
    for (uint64_t page = zone.first; page < zone.pages;) {
        struct fmt_extent *e = &zone.extents[page];
        uint64_t offset = zone.offset + page * FMT_PAGE, e_at = offset_of(s, e);
        enum verdict v = judge(r, &e->born, &e->dead, e_at);
        if (v == V_BAD) return bad_epoch(e_at);
        if (v != V_LIVE) { page++; continue; }
        if ((e->link & ~FMT_LINK_MASK) != fmt_extent_check(*WORD(e->pages), e_at) || !e->pages || e->pages > zone.pages - page
            || e->shard >= s->shard_count || (e->type != FMT_EXTENT_CHUNK && e->type != FMT_EXTENT_VALUE))
            return fail(MMKV_CORRUPT, e_at, "the descriptor at offset %llu is damaged",
                        (unsigned long long)e_at);
        e->link &= ~FMT_LINK_MASK;
        bits_set(zone.free, page, e->pages, false);
        bits_set(zone.holes, page, e->pages, false);
        state->free -= e->pages;
        allocator_of(s)->free_pages -= e->pages;
        rc = e->type == FMT_EXTENT_CHUNK ? recover_chunk(r, e, offset) : recover_value(r, e, offset);
        if (rc) return rc;
        page += e->pages;
    }
    return 0;
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

/* The attach lock is held and nobody is attached; or the pages are private. */
int recover(mmkv_store *s)
{
    int which = slot_newest(s);
    struct fmt_control *control = control_of(s);
    uint64_t physical;
    if (which < 0) return fail(MMKV_CORRUPT, FMT_SLOT_A_AT, "no valid checkpoint slot");
    struct fmt_slot slot = *slot_of(s, which);
    int rc = os_length(s->fd, &physical);
    if (rc) return rc;
    if (physical < slot.file_length)
        return fail(MMKV_CORRUPT, physical, "the file was truncated: it has %llu bytes and its last checkpoint needs %llu",
                    (unsigned long long)physical, (unsigned long long)slot.file_length);
    if ((rc = check_length(s, slot.file_length))) return rc;
    uint64_t attach_count = control->attach_count;
    uint32_t failed = control->failed; /* until everything has been written again */
    memset(control, 0, sizeof *control); /* the identity first of all */
    control->failed = failed;
    control->attach_count = attach_count + 1;
    kill_fence();
    slot_of(s, which)->clean = 0;
    if ((rc = checkpoint_flush(s, slot_of(s, which), FMT_PAGE))) return rc; /* before anything else is touched (R9) */
    memset(base_of(s) + FMT_PROCESSES_AT, 0, FMT_ZONES_AT - FMT_PROCESSES_AT);
    memset(base_of(s) + FMT_ZONE_STATES_AT, 0, s->zones_start - FMT_ZONE_STATES_AT);
    control->epoch = slot.epoch + 1;
    control->durable = slot.epoch;
    control->file_length = slot.file_length;
    /* What lies beyond the cut is of a lost future; when the file grows again it must read as zeros. */
    if (!s->private_ && physical > slot.file_length && (rc = os_set_length(s->fd, slot.file_length))) return rc;
    map_cut(s, slot.file_length); /* who looked whether the memory can be trusted has mapped all of the file */
    struct recovery r = { .s = s, .c = slot.epoch, .expected = slot.record_count };
    if ((rc = make_zones(s, slot.file_length))) return rc;
    for (uint64_t i = 0, count = allocator_of(s)->zone_count; i < count; i++)
        if ((rc = recover_zone(&r, i))) return rc;
    if (r.count != slot.record_count || r.sum != slot.record_sum)
        return fail(MMKV_CORRUPT, which ? FMT_SLOT_B_AT : FMT_SLOT_A_AT, "the checkpoint counted %llu records and %llu are there"
                    "%s: the file is damaged, or a copy of a store that was in use",
                    (unsigned long long)slot.record_count, (unsigned long long)r.count,
                    r.count == slot.record_count ? " with another sum" : "");
    for (uint32_t i = 0; i < s->shard_count; i++) shard_of(s, i)->epoch = slot.epoch;
    if ((rc = holes_punch_marked(s))) return rc;
    /* The ghosts' end must be on disk before the next slot is. */
    return checkpoint_flush(s, base_of(s), slot.file_length);
}
