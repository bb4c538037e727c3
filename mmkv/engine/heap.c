/* heap.c: blocks for records, in chunks that belong to one shard and one size class.
 *
 * A chunk's header, bitmap and lists are volatile; its epoch words are what recovery reads. A block is in one of four
 * states: free (bit set), live (born, not dead), waiting (dead, but a checkpoint may still need it), or being written.
 * live + free + waiting = blocks. Free blocks are known by bits beside the blocks, never by links inside them (R3).
 *
 * Lists, through the chunk headers: `available` holds the chunks with free > 0; `waiting`, oldest first, those with
 * free = 0 of whose blocks a sixteenth or more are waiting. The others are in none. */
#include "engine.h"

enum { SINGLES_MAX = 8, SINGLES_FROM_CLASS = 40 }; /* classes above 2 KiB start with extents of their own */

uint32_t heap_class(uint64_t size)
{
    if (size <= 128) return (uint32_t)((size + 15) / 16) - 1;
    if (size <= 4096) {
        uint32_t doubling = 63 - (uint32_t)__builtin_clzll(size - 1) - 7;
        return 8 + 8 * doubling + (uint32_t)(((size - 1) - (128ull << doubling)) / (16ull << doubling));
    }
    for (uint32_t c = 48; c < FMT_CLASSES; c++)
        if (size <= fmt_class_size(c)) return c;
    return FMT_CLASSES;
}

/* Should a record have an extent of its own? The larger classes do until a shard has several records of the class, so
 * that a few of them do not cost a chunk each. `more` are about to have one. */
bool heap_single(const struct fmt_shard *sh, uint32_t c, uint32_t more)
{
    if (c >= FMT_CLASSES) return true;
    return c >= SINGLES_FROM_CLASS && !load(&sh->class_[c].available) && load32(&sh->class_[c].singles) + more < SINGLES_MAX
        && !load32(&sh->class_[c].pages);
}

bool heap_alone(const struct fmt_shard *sh, uint64_t size) { return heap_single(sh, heap_class(size), 0); }

/* A chunk of a shard at an offset that the file named. */
struct fmt_chunk *chunk_at(mmkv_store *s, uint64_t offset, uint32_t shard)
{
    struct fmt_chunk *c = offset % FMT_PAGE || offset < s->zones_start ? NULL : at(s, offset, FMT_PAGE);
    if (!c || c->order > FMT_CHUNK_ORDER_MAX || c->class_ >= FMT_CLASSES || c->shard != shard
        || c->blocks != fmt_chunk_blocks(c->order, fmt_class_size(c->class_)) || !at(s, offset, (uint64_t)FMT_PAGE << c->order)) {
        fail(MMKV_CORRUPT, offset, "no chunk of shard %u at offset %llu", shard, (unsigned long long)offset);
        return NULL;
    }
    return c;
}

void chunk_format(struct fmt_chunk *c, uint32_t shard, uint32_t class_, uint32_t order)
{
    uint32_t blocks = fmt_chunk_blocks(order, fmt_class_size(class_));
    memset(c, 0, fmt_chunk_blocks_at(blocks));
    c->free = blocks;
    c->shard = (uint16_t)shard;
    c->class_ = (uint8_t)class_;
    c->order = (uint8_t)order;
    c->blocks = blocks;
    bits_set(chunk_bits(c), 0, blocks, true);
}

/* ---- lists: doubly linked; the head's prev is the tail ---- */

static uint64_t *list_head(struct op *op, const struct fmt_chunk *c, uint32_t list)
{
    struct fmt_class *k = &op->sh->class_[c->class_];
    return list == FMT_LIST_AVAILABLE ? &k->available : &k->waiting;
}

static int list_remove(struct op *op, struct fmt_chunk *c, uint64_t offset)
{
    if (c->list == FMT_LIST_NONE) return 0;
    uint64_t *head = list_head(op, c, c->list);
    struct fmt_chunk *next = c->next ? chunk_at(op->s, c->next, op->shard) : NULL;
    if (c->next && !next) return MMKV_CORRUPT;
    if (*head == offset) {
        if (next) set(op, &next->prev, c->prev);
        set(op, head, c->next);
    } else {
        struct fmt_chunk *first = chunk_at(op->s, *head, op->shard), *prev = chunk_at(op->s, c->prev, op->shard);
        if (!first || !prev) return MMKV_CORRUPT;
        set(op, &prev->next, c->next);
        if (next) set(op, &next->prev, c->prev);
        else set(op, &first->prev, c->prev);
    }
    set(op, WORD(c->waiting), pair(c->waiting, FMT_LIST_NONE));
    return 0;
}

/* Available chunks go to the front, waiting ones to the back. */
static int list_add(struct op *op, struct fmt_chunk *c, uint64_t offset, uint32_t list)
{
    uint64_t *head = list_head(op, c, list);
    struct fmt_chunk *first = *head ? chunk_at(op->s, *head, op->shard) : NULL;
    if (*head && !first) return MMKV_CORRUPT;
    if (!first) {
        set(op, &c->next, 0);
        set(op, &c->prev, offset);
        set(op, head, offset);
    } else if (list == FMT_LIST_AVAILABLE) {
        set(op, &c->next, *head);
        set(op, &c->prev, first->prev);
        set(op, &first->prev, offset);
        set(op, head, offset);
    } else {
        struct fmt_chunk *last = chunk_at(op->s, first->prev, op->shard);
        if (!last) return MMKV_CORRUPT;
        set(op, &c->next, 0);
        set(op, &c->prev, first->prev);
        set(op, &last->next, offset);
        set(op, &first->prev, offset);
    }
    set(op, WORD(c->waiting), pair(c->waiting, list));
    return 0;
}

/* The list in which a chunk belongs by its counts. */
uint32_t chunk_list(const struct fmt_chunk *c)
{
    uint32_t threshold = c->blocks / 16 ? c->blocks / 16 : 1;
    return c->free ? FMT_LIST_AVAILABLE : c->waiting >= threshold ? FMT_LIST_WAITING : FMT_LIST_NONE;
}

static int list_place(struct op *op, struct fmt_chunk *c, uint64_t offset)
{
    uint32_t list = chunk_list(c);
    if (c->list == list) return 0;
    int rc = list_remove(op, c, offset);
    return rc || list == FMT_LIST_NONE ? rc : list_add(op, c, offset, list);
}

/* ---- taking a block ---- */

/* Free the blocks of a waiting chunk whose deaths are durable: an operation of its own, after the fact (R26). */
static int harvest(struct op *op, uint64_t offset)
{
    struct fmt_chunk *c = chunk_at(op->s, offset, op->shard);
    if (!c) return MMKV_CORRUPT;
    uint64_t durable = load_acquire(&control_of(op->s)->durable), oldest = 0;
    struct fmt_epochs *e = chunk_epochs(c);
    uint32_t freed = 0;
    op_begin(op);
    for (uint32_t w = 0; w * 64 < c->blocks; w++) {
        uint64_t bits = chunk_bits(c)[w], before = bits;
        for (uint32_t i = w * 64; i < c->blocks && i < w * 64 + 64; i++) {
            uint64_t dead = fmt_epoch_of(e[i].dead);
            if (!dead || bits >> (i & 63) & 1) continue;
            if (dead <= durable) { bits |= 1ull << (i & 63); freed++; }
            else if (!oldest || dead < oldest) oldest = dead;
        }
        if (bits != before) set(op, &chunk_bits(c)[w], bits);
    }
    if (freed > c->waiting) freed = c->waiting;
    set(op, WORD(c->live), pair(c->live, c->free + freed));
    set(op, WORD(c->waiting), pair(c->waiting - freed, c->list));
    set(op, &c->waiting_epoch, oldest);
    set(op, &c->hint, 0);
    return op_end(op, list_place(op, c, offset));
}

/* A new chunk: from one page doubling to 64 KiB, about an eighth of what the class has already, so that what lies idle
 * stays small beside what is used, but not so short that blocks of a large class fill it badly. */
static int add_chunk(struct op *op, uint32_t class_)
{
    struct fmt_shard *sh = op->sh;
    struct fmt_class *k = &sh->class_[class_];
    uint32_t order = 0, least = 0, size = fmt_class_size(class_);
    while (least < FMT_CHUNK_ORDER_MAX && fmt_chunk_blocks(least, size) * size < (FMT_PAGE << least) / 4 * 3 && size > 512) least++;
    while (!fmt_chunk_blocks(least, size)) least++;
    while (order < FMT_CHUNK_ORDER_MAX && (k->pages >> order) >= 8) order++;
    if (order < least) order = least;
    uint64_t offset, pages = 1u << order;
    int rc = pages_give(op->s, &sh->reserve[0], op->flags); /* of an operation that could not finish */
    if (rc || (rc = pages_take(op->s, FMT_ZONE_HEAP, &pages, 1u << least, &sh->reserve[0], &offset, op->flags))) return rc;
    order = (uint32_t)__builtin_ctzll(pages);
    struct fmt_chunk *c = at(op->s, offset, (uint64_t)FMT_PAGE << order);
    struct fmt_extent *e = extent_at(op->s, offset);
    if (!c || !e) return fail(MMKV_CORRUPT, offset, "the allocator gave an extent outside the file");
    atomic_thread_fence(memory_order_release); /* a reader of the pages' former owner must see its version move first (R31) */
    chunk_format(c, op->shard, class_, order);
    kill_fence();
    uint64_t at_ = offset_of(op->s, e);
    struct fmt_extent words = { .pages = 1u << order, .shard = (uint16_t)op->shard, .class_ = (uint8_t)class_, .type = FMT_EXTENT_CHUNK };
    op_begin(op);
    set(op, &e->born, fmt_stamp(op->epoch, at_));
    set(op, WORD(e->pages), *WORD(words.pages));
    set(op, &e->link, fmt_extent_check(*WORD(words.pages), at_));
    set(op, &e->dead, fmt_stamp(0, at_ + 8));
    set(op, WORD(k->pages), pair(k->pages + (1u << order), k->singles));
    set(op, &sh->chunks, sh->chunks + 1);
    set(op, &sh->reserve[0], 0);
    return op_end(op, list_place(op, c, offset));
}

/* Are there so many free blocks of a class? Every chunk in the list has one, so that the walk ends. */
static int has_blocks(struct op *op, uint32_t class_, uint32_t blocks, bool *has)
{
    uint32_t found = 0;
    for (uint64_t offset = op->sh->class_[class_].available; offset && found < blocks;) {
        const struct fmt_chunk *c = chunk_at(op->s, offset, op->shard);
        if (!c) return MMKV_CORRUPT;
        if (c->class_ != class_ || !c->free) return fail(MMKV_CORRUPT, offset, "a chunk listed as available has no free block");
        found += c->free;
        offset = c->next;
    }
    *has = found >= blocks;
    return 0;
}

/* One block more: one whose death has become durable, or one of a new chunk. */
static int more_blocks(struct op *op, uint32_t class_)
{
    struct fmt_class *k = &op->sh->class_[class_];
    uint64_t had = k->available;
    if (k->waiting) {
        struct fmt_chunk *c = chunk_at(op->s, k->waiting, op->shard);
        if (!c) return MMKV_CORRUPT;
        if (c->waiting_epoch <= load_acquire(&control_of(op->s)->durable)) {
            int rc = harvest(op, k->waiting);
            if (rc || k->available != had) return rc;
        }
    }
    return add_chunk(op, class_);
}

int heap_ready(struct op *op, uint32_t class_, uint32_t blocks)
{
    bool has = false;
    if (blocks == 1) return likely(op->sh->class_[class_].available) ? 0 : more_blocks(op, class_);
    for (;;) {
        int rc = has_blocks(op, class_, blocks, &has);
        if (rc || has || (rc = more_blocks(op, class_))) return rc;
    }
}

int heap_take(struct op *op, uint32_t class_, struct block *block)
{
    struct fmt_class *k = &op->sh->class_[class_];
    struct fmt_chunk *c = chunk_at(op->s, k->available, op->shard);
    if (!c) return MMKV_CORRUPT;
    uint64_t *bits = chunk_bits(c);
    uint32_t words = (c->blocks + 63) / 64, w = (uint32_t)c->hint;
    while (w < words && !bits[w]) w++;
    if (w >= words || c->class_ != class_ || !c->free)
        return fail(MMKV_CORRUPT, k->available, "a chunk listed as available has no free block");
    uint32_t i = w * 64 + (uint32_t)__builtin_ctzll(bits[w]);
    block->chunk = k->available;
    block->number = i;
    uint32_t size = fmt_class_size(class_);
    block->offset = k->available + fmt_chunk_blocks_at(c->blocks) + (uint64_t)i * size;
    /* By the time the shard's next record comes, the lines it will be written to are here. */
    const uint8_t *next = (const uint8_t *)c + (block->offset - k->available) + size;
    for (uint32_t line = 0; line < size && line < 256; line += 64) __builtin_prefetch(next + line, 1);
    set(op, &bits[w], bits[w] & (bits[w] - 1));
    set(op, WORD(c->live), pair(c->live + 1, c->free - 1));
    if (w != c->hint) set(op, &c->hint, w);
    return c->free ? 0 : list_place(op, c, block->chunk);
}

/* ---- from a record to its block ---- */

/* The record's place bits give the order of its chunk, chunks are aligned to their size, and the chunk's header must
 * agree. For a record with an extent of its own *chunk is NULL and the epochs are the descriptor's. */
int heap_locate(mmkv_store *s, uint32_t shard, uint64_t record, struct block *block, struct fmt_epochs **epochs,
                struct fmt_chunk **chunk)
{
    const struct fmt_record *r = at(s, record, FMT_RECORD_HEADER);
    if (!r) return fail(MMKV_CORRUPT, record, "a record lies outside the file");
    uint32_t order = r->flags & FMT_RECORD_PLACE;
    block->offset = record;
    if (order == FMT_RECORD_ALONE) {
        struct fmt_extent *e = record % FMT_PAGE ? NULL : extent_at(s, record);
        if (!e || e->type != FMT_EXTENT_VALUE || e->shard != shard)
            return fail(MMKV_CORRUPT, record, "a record of its own has no extent");
        *block = (struct block){ .offset = record };
        *epochs = (struct fmt_epochs *)(void *)e;
        *chunk = NULL;
        return 0;
    }
    if (order > FMT_CHUNK_ORDER_MAX) return fail(MMKV_CORRUPT, record, "a record names a chunk that cannot be");
    block->chunk = record & ~(((uint64_t)FMT_PAGE << order) - 1);
    struct fmt_chunk *c = chunk_at(s, block->chunk, shard);
    if (!c) return MMKV_CORRUPT;
    uint32_t size = fmt_class_size(c->class_);
    uint64_t in = record - block->chunk - fmt_chunk_blocks_at(c->blocks);
    block->number = (uint32_t)(in / size);
    if (c->order != order || in % size || block->number >= c->blocks)
        return fail(MMKV_CORRUPT, record, "a record does not lie on a block");
    *epochs = &chunk_epochs(c)[block->number];
    *chunk = c;
    return 0;
}

/* ---- giving a block back ---- */

static uint64_t *release_word(struct op *op)
{
    if (op->spare) return op->spare < op->spare_end ? op->spare++ : NULL;
    for (uint32_t i = 0; i < FMT_SHARD_RELEASES; i++)
        if (!op->sh->release[i]) return &op->sh->release[i];
    return NULL;
}

static int kill_extent(struct op *op, struct fmt_extent *e, uint64_t offset)
{
    uint64_t *word = release_word(op);
    if (!word) return fail(MMKV_CORRUPT, shard_at(op->shard), "no release word is free");
    set(op, &e->dead, fmt_stamp(op->epoch, offset_of(op->s, &e->dead)));
    set(op, word, offset);
    return 0;
}

static int kill_chunk(struct op *op, struct fmt_chunk *c, uint64_t offset)
{
    struct fmt_class *k = &op->sh->class_[c->class_];
    struct fmt_extent *e = extent_at(op->s, offset);
    if (!e || !e->born || fmt_epoch_of(e->dead)) /* heap_trim relies on it: a list that leads back to its start has an end */
        return fail(MMKV_CORRUPT, offset, "a listed chunk has no live descriptor");
    int rc = list_remove(op, c, offset);
    if (rc) return rc;
    set(op, WORD(k->pages), pair(k->pages - (1u << c->order), k->singles));
    set(op, &op->sh->chunks, op->sh->chunks - 1);
    return kill_extent(op, e, offset);
}

/* The record dies in op->epoch. If it was born in the same epoch no checkpoint can want it and its block is free at
 * once, but nothing may take it before the operation's commit: heap_take comes first in every operation. */
int heap_kill(struct op *op, uint64_t record)
{
    struct block block;
    struct fmt_epochs *e;
    struct fmt_chunk *c;
    int rc = heap_locate(op->s, op->shard, record, &block, &e, &c);
    if (rc) return rc;
    if (!c) {
        const struct fmt_record *r = at(op->s, record, FMT_RECORD_HEADER);
        uint32_t class_ = heap_class((uint64_t)(record_key(r) - (const uint8_t *)r) + r->key_length + record_value_length(r));
        if (class_ < FMT_CLASSES) {
            struct fmt_class *k = &op->sh->class_[class_];
            if (k->singles) set(op, WORD(k->pages), pair(k->pages, k->singles - 1));
        }
        return kill_extent(op, (struct fmt_extent *)(void *)e, record);
    }
    uint64_t dead_at = block.chunk + fmt_chunk_epochs_at(c->blocks) + 16ull * block.number + 8;
    bool at_once = fmt_epoch_of(e->born) == op->epoch;
    if (!c->live) return fail(MMKV_CORRUPT, block.chunk, "a chunk with a live record counts none");
    set(op, &e->dead, fmt_stamp(op->epoch, dead_at));
    if (at_once) {
        uint64_t *bits = &chunk_bits(c)[block.number / 64];
        set(op, bits, *bits | 1ull << (block.number & 63));
        set(op, WORD(c->live), pair(c->live - 1, c->free + 1));
        if (block.number / 64 < c->hint) set(op, &c->hint, block.number / 64);
    } else {
        set(op, WORD(c->live), pair(c->live - 1, c->free));
        set(op, WORD(c->waiting), pair(c->waiting + 1, c->list));
        if (c->waiting == 1) set(op, &c->waiting_epoch, op->epoch);
    }
    if (!c->live) {
        /* Empty: back to the allocator, unless it is all the class has at hand (heap_trim sees to that one). */
        bool last = op->sh->class_[c->class_].available == block.chunk && !c->next;
        if (!last) return kill_chunk(op, c, block.chunk);
    }
    return list_place(op, c, block.chunk);
}

/* Before a checkpoint's cut: give back the empty chunks that heap_kill kept, so that a store emptied and synced is
 * small. They are alone in their list, or at its end. And those that were made for a transaction that did not happen: at
 * its beginning. */
int heap_trim(struct op *op)
{
    for (uint32_t i = 0; i < FMT_CLASSES; i++) {
        for (int side = 0; side < 2;) {
            uint64_t offset = op->sh->class_[i].available;
            struct fmt_chunk *c = offset ? chunk_at(op->s, offset, op->shard) : NULL;
            if (c && side) c = chunk_at(op->s, offset = c->prev, op->shard);
            if (!c || c->live) {
                side++;
                continue;
            }
            int rc = shard_finish(op); /* what could not be handed back before: there are only so many words */
            if (rc) return rc;
            op_begin(op);
            rc = op_end(op, kill_chunk(op, c, offset));
            if (!rc) rc = shard_finish(op);
            if (rc) return rc;
        }
    }
    return 0;
}
