/* index.c: per shard an extendible hash table: a directory of 1 << depth words over tables of one page.
 *
 * A table has 60 home buckets of one cache line (7 entries and their tags) and a stash of 21 entries. A key lies in its
 * home bucket, else in the next one (displaced), else in the stash; the home bucket counts how many of its keys are
 * elsewhere, so that a lookup looks there only if some are. Entries keep the 20 hash bits that directories go by, and so
 * a split never reads a record. Example, 64 shards: of the hash 0xABCDEF... the top 6 bits choose the shard, the next 20
 * are an entry's bits, the 7 after them its tag.
 *
 * The idea is Dash's (Lu, Hao, Wang, Lo: Dash: Scalable Hashing on Persistent Memory, VLDB 2020): bucketised extendible
 * hashing with displacement to a neighbour and stashes. Tables are split and merged one at a time; the new ones are
 * built aside, unlogged, and published by logged directory words. */
#include "engine.h"

#define TAG_LANES 0x007f7f7f7f7f7f7full
#define TOP_BITS 0x0080808080808080ull
#define NEIGHBOUR_BITS 0x0000000000808080ull /* 3 bits: how many displaced to the neighbour */
#define STASH_BITS 0x0080808080000000ull /* 4 bits: how many in the stash */
enum { MERGE_MAX = 280, DIRECTORY_WORDS_LOGGED = 256, NEIGHBOURS_MAX = 7, STASHED_MAX = 15 };

/* ---- tags ---- */

/* Bit 7 of byte i is set where entry i has this tag (0: where it is empty). */
static inline uint64_t match(uint64_t tags, uint32_t tag)
{
    uint64_t x = (tags & TAG_LANES) ^ tag * 0x0001010101010101ull;
    return ~(x + TAG_LANES) & TOP_BITS;
}
static inline uint32_t first(uint64_t matches) { return (uint32_t)__builtin_ctzll(matches) >> 3; }
static inline uint32_t neighbours(uint64_t tags)
{
    return (uint32_t)((tags >> 7 & 1) | (tags >> 14 & 2) | (tags >> 21 & 4));
}
static inline uint64_t with_neighbours(uint64_t tags, uint64_t n)
{
    return (tags & ~NEIGHBOUR_BITS) | (n & 1) << 7 | (n & 2) << 14 | (n & 4) << 21;
}
static inline uint32_t stashed(uint64_t tags)
{
    return (uint32_t)((tags >> 31 & 1) | (tags >> 38 & 2) | (tags >> 45 & 4) | (tags >> 52 & 8));
}
static inline uint64_t with_stashed(uint64_t tags, uint64_t n)
{
    return (tags & ~STASH_BITS) | (n & 1) << 31 | (n & 2) << 38 | (n & 4) << 45 | (n & 8) << 52;
}
static inline uint64_t with_tag(uint64_t tags, uint32_t slot, uint64_t tag)
{
    return (tags & ~(0x7full << 8 * slot)) | tag << 8 * slot;
}
static inline struct fmt_bucket *line_of(struct fmt_table *t, uint32_t line) { return &t->line[line - 1]; }
static inline uint32_t neighbour_of(uint32_t home) { return home + 1 == FMT_BUCKETS ? 0 : home + 1; }
static inline uint64_t entry_of(uint32_t bits, bool displaced, uint64_t record)
{
    return (uint64_t)bits << 44 | (displaced ? FMT_ENTRY_DISPLACED : 0) | record / FMT_UNIT;
}
static inline uint32_t entry_bits(uint64_t entry) { return (uint32_t)(entry >> 44); }
static inline uint64_t entry_record(uint64_t entry) { return (entry & FMT_ENTRY_PLACE) * FMT_UNIT; }

/* ---- directory ---- */

static inline uint32_t depth_of(uint64_t word) { return (uint32_t)(word & 63); }
static inline uint64_t place_of(uint64_t word) { return word & ~63ull; }

struct fmt_table *table_at(mmkv_store *s, uint64_t offset)
{
    return offset % FMT_PAGE || offset < s->zones_start ? NULL : at(s, offset, FMT_PAGE);
}

static uint64_t *directory_at(mmkv_store *s, uint64_t directory)
{
    if (depth_of(directory) > FMT_DEPTH_MAX || place_of(directory) < FMT_SHARDS_AT) return NULL;
    return at(s, place_of(directory), 8ull << depth_of(directory));
}

/* The table that holds the keys with these 20 bits; *table 0: the shard has none yet. */
int index_table(mmkv_store *s, struct fmt_shard *sh, uint32_t bits, uint64_t *table, uint32_t *depth)
{
    uint64_t directory = load(&sh->directory);
    *table = 0;
    if (unlikely(!directory)) return 0;
    uint64_t *words = directory_at(s, directory);
    if (unlikely(!words)) return MMKV_CORRUPT;
    uint64_t word = load(&words[(uint64_t)bits >> (FMT_DEPTH_MAX - depth_of(directory))]);
    *table = place_of(word);
    *depth = depth_of(word);
    /* Every word of a directory leads to a table; a page of zeros must not pass for a shard without keys. */
    return *depth > depth_of(directory) || !*table ? MMKV_CORRUPT : 0;
}

/* ---- find ---- */

static inline bool same_key(mmkv_store *s, uint64_t record, const void *key, size_t key_length, int *rc)
{
    const struct fmt_record *r = at(s, record, FMT_RECORD_HEADER + key_length);
    if (unlikely(!r)) { *rc = MMKV_CORRUPT; return false; }
    if (r->key_length != key_length) return false;
    const uint8_t *k = (const uint8_t *)r + FMT_RECORD_HEADER;
    if (unlikely(r->flags & FMT_RECORD_EXPIRY)) {
        if (!at(s, record, FMT_RECORD_HEADER + 8 + key_length)) { *rc = MMKV_CORRUPT; return false; }
        k += 8;
    }
    return !memcmp(k, key, key_length);
}

/* Another key with the same bits and tag is rarer than a damaged one, so the record is asked whether it belongs here. Zeros
 * do not: of a file that was cut off and has grown again. Under a lock a hash that calls back is not asked for: key_ready
 * has been there before. */
static bool belongs(mmkv_store *s, uint64_t record, uint32_t bits)
{
    struct view v;
    if (!record_view(s, record, &v) || view_zeros(&v)) return false;
    if (unlikely(hash_calls_back) && guard_locked()) return true;
    uint64_t hash = engine_hash(v.key, v.key_length, s->seed);
    return fmt_bits_of(hash, s->shard_bits) == bits && (!reads_checked(s) || record_good(&v, hash));
}

static int find_in(mmkv_store *s, const struct fmt_bucket *b, uint64_t matches, uint64_t want, const void *key,
                   size_t key_length, struct place *place)
{
    int rc = MMKV_NOT_FOUND;
    for (; matches; matches &= matches - 1) {
        uint32_t slot = first(matches);
        uint64_t entry = load(&b->entry[slot]);
        if (entry >> 43 != want) continue;
        place->record = entry_record(entry);
        place->slot = slot;
        if (same_key(s, place->record, key, key_length, &rc)) return 0;
        if (unlikely(!belongs(s, place->record, entry_bits(entry)))) return MMKV_CORRUPT;
    }
    return rc;
}

/* Does any bucket say that it has entries, or that entries of it are elsewhere? */
static bool has_entries(const struct fmt_table *t)
{
    for (uint32_t line = 1; line <= FMT_BUCKETS; line++)
        if (load(&t->line[line - 1].tags)) return true;
    return false;
}

/* Is it the table that the directory means at these bits? A page of zeros is not; but of shard 0, while that has one table,
 * an empty one looks like that, and so what the shard counts is asked as well. */
bool table_is(const struct fmt_table *t, const struct fmt_shard *sh, uint32_t shard, uint32_t depth, uint32_t bits)
{
    uint32_t rest = FMT_DEPTH_MAX - depth;
    if (t->header.shard != shard || t->header.depth != depth || t->header.prefix != (uint64_t)(bits >> rest) << rest) return false;
    return shard || depth || !load(&sh->count[load(&sh->epoch) & 1]) || has_entries(t);
}

/* Find a key; on success place says where. MMKV_CORRUPT may also mean, to a reader, that a writer was at work. */
int index_find(mmkv_store *s, struct fmt_shard *sh, uint64_t hash, const void *key, size_t key_length, struct place *place)
{
    uint32_t bits = fmt_bits_of(hash, s->shard_bits), tag = fmt_tag_of(hash, s->shard_bits), home = fmt_home_of(hash);
    place->record = 0;
    int rc = index_table(s, sh, bits, &place->table, &place->depth);
    if (unlikely(rc)) return rc;
    place->home = home;
    if (unlikely(!place->table)) return MMKV_NOT_FOUND;
    struct fmt_table *t = table_at(s, place->table);
    if (unlikely(!t)) return MMKV_CORRUPT;
    place->line = home + 1;
    uint64_t tags = load(&line_of(t, home + 1)->tags);
    rc = find_in(s, line_of(t, home + 1), match(tags, tag), (uint64_t)bits << 1, key, key_length, place);
    /* An empty bucket is rare too, and may be one of a page of zeros. */
    if (unlikely(!tags) && !table_is(t, sh, fmt_shard_of(hash, s->shard_bits), place->depth, bits)) return MMKV_CORRUPT;
    if (likely(rc != MMKV_NOT_FOUND) || likely(!(tags & TOP_BITS))) return rc;
    if (tags & NEIGHBOUR_BITS) {
        place->line = neighbour_of(home) + 1;
        const struct fmt_bucket *b = line_of(t, place->line);
        rc = find_in(s, b, match(load(&b->tags), tag), (uint64_t)bits << 1 | 1, key, key_length, place);
        if (rc != MMKV_NOT_FOUND) return rc;
    }
    if (tags & STASH_BITS) {
        for (place->line = FMT_STASH_LINE; place->line < FMT_STASH_LINE + FMT_STASH_LINES; place->line++) {
            const struct fmt_bucket *b = line_of(t, place->line);
            rc = find_in(s, b, match(load(&b->tags), home + 1), (uint64_t)bits << 1 | 1, key, key_length, place);
            if (rc != MMKV_NOT_FOUND) return rc;
        }
    }
    return MMKV_NOT_FOUND;
}

/* ---- insert, replace, remove ---- */

/* Where a new entry of this home would go in a table: line and slot. False: nowhere, split. */
static bool room(struct fmt_table *t, uint32_t home, uint32_t *line, uint32_t *slot)
{
    uint64_t tags = load(&line_of(t, home + 1)->tags), empty = match(tags, 0);
    *line = home + 1;
    if (!empty && neighbours(tags) < NEIGHBOURS_MAX) {
        *line = neighbour_of(home) + 1;
        empty = match(load(&line_of(t, *line)->tags), 0);
    }
    if (!empty && stashed(tags) < STASHED_MAX)
        for (*line = FMT_STASH_LINE; *line < FMT_STASH_LINE + FMT_STASH_LINES; ++*line)
            if ((empty = match(load(&line_of(t, *line)->tags), 0))) break;
    if (!empty) return false;
    *slot = first(empty);
    return true;
}

int index_room(mmkv_store *s, struct fmt_shard *sh, uint64_t hash, struct place *place)
{
    int rc = index_table(s, sh, fmt_bits_of(hash, s->shard_bits), &place->table, &place->depth);
    if (rc) return fail(MMKV_CORRUPT, offset_of(s, sh), "a shard's directory is damaged");
    if (!place->table) return MMKV_FULL;
    struct fmt_table *t = table_at(s, place->table);
    if (!t) return fail(MMKV_CORRUPT, offset_of(s, sh), "a directory leads to no table");
    place->home = fmt_home_of(hash);
    return room(t, place->home, &place->line, &place->slot) ? 0 : MMKV_FULL;
}

/* How an entry's words change: through the log in a published table, plainly in one that is being built aside. */
static inline void put(struct op *op, uint64_t *word, uint64_t value)
{
    if (op) set(op, word, value);
    else store(word, value);
}

static void place_entry(struct op *op, struct fmt_table *t, uint32_t bits, uint32_t tag, uint32_t home, uint32_t line,
                        uint32_t slot, uint64_t record)
{
    struct fmt_bucket *b = line_of(t, line), *h = line_of(t, home + 1);
    put(op, &b->entry[slot], entry_of(bits, b != h, record));
    if (line >= FMT_STASH_LINE) {
        uint64_t *tags = &t->header.stash_tags[line - FMT_STASH_LINE];
        put(op, tags, with_tag(*tags, slot, tag));
        put(op, &b->tags, with_tag(b->tags, slot, home + 1));
        put(op, &h->tags, with_stashed(h->tags, stashed(h->tags) + 1));
    } else {
        put(op, &b->tags, with_tag(b->tags, slot, tag));
        if (b != h) put(op, &h->tags, with_neighbours(h->tags, neighbours(h->tags) + 1));
    }
}

void index_insert(struct op *op, uint64_t hash, const struct place *p, uint64_t record)
{
    struct fmt_table *t = table_at(op->s, p->table);
    place_entry(op, t, fmt_bits_of(hash, op->s->shard_bits), fmt_tag_of(hash, op->s->shard_bits), p->home, p->line, p->slot,
                record);
}

/* For recovery, which nobody sees and which is begun anew when it is killed. */
void index_insert_alone(mmkv_store *s, uint64_t hash, const struct place *p, uint64_t record)
{
    place_entry(NULL, table_at(s, p->table), fmt_bits_of(hash, s->shard_bits), fmt_tag_of(hash, s->shard_bits), p->home, p->line,
                p->slot, record);
}

void index_replace(struct op *op, uint64_t hash, const struct place *p, uint64_t record)
{
    struct fmt_bucket *b = line_of(table_at(op->s, p->table), p->line);
    set(op, &b->entry[p->slot], entry_of(fmt_bits_of(hash, op->s->shard_bits), p->line != p->home + 1, record));
}

static void remove_entry(struct op *op, struct fmt_table *t, uint32_t home, uint32_t line, uint32_t slot)
{
    struct fmt_bucket *b = line_of(t, line), *h = line_of(t, home + 1);
    put(op, &b->tags, with_tag(b->tags, slot, 0));
    if (line >= FMT_STASH_LINE) put(op, &h->tags, with_stashed(h->tags, stashed(h->tags) - 1));
    else if (b != h) put(op, &h->tags, with_neighbours(h->tags, neighbours(h->tags) - 1));
}

void index_remove(struct op *op, uint64_t hash, const struct place *p)
{
    (void)hash;
    remove_entry(op, table_at(op->s, p->table), p->home, p->line, p->slot);
}

/* ---- whole tables ---- */

static uint32_t line_home(const struct fmt_bucket *b, uint32_t line, uint32_t slot)
{
    if (line >= FMT_STASH_LINE) return (uint32_t)(b->tags >> 8 * slot & 0x7f) - 1;
    uint32_t here = line - 1;
    return !(b->entry[slot] & FMT_ENTRY_DISPLACED) ? here : here ? here - 1 : FMT_BUCKETS - 1;
}

uint32_t table_items(const struct fmt_table *table, struct index_item items[FMT_TABLE_ENTRIES])
{
    uint32_t n = 0;
    for (uint32_t line = 1; line < FMT_STASH_LINE + FMT_STASH_LINES; line++) {
        const struct fmt_bucket *b = &table->line[line - 1];
        for (uint64_t m = ~match(load(&b->tags), 0) & TOP_BITS; m; m &= m - 1) {
            uint64_t entry = load(&b->entry[first(m)]);
            items[n++] = (struct index_item){ entry_bits(entry), line, first(m), entry_record(entry) };
        }
    }
    return n;
}

/* For verify(): the tag of a stash entry, and the first line (0: none) whose counts of entries elsewhere are not right. */
uint32_t table_stash_tag(const struct fmt_table *t, const struct index_item *item)
{
    return (uint32_t)(t->header.stash_tags[item->line - FMT_STASH_LINE] >> 8 * item->slot & 0x7f);
}

/* A hash that leads to an entry as its key's does: all of it that the index goes by. */
uint64_t table_hash(mmkv_store *s, const struct fmt_table *t, const struct index_item *item, uint32_t shard)
{
    const struct fmt_bucket *b = &t->line[item->line - 1];
    uint64_t home = line_home(b, item->line, item->slot), last = ((home << 24) + FMT_BUCKETS - 1) / FMT_BUCKETS;
    uint64_t tag = item->line >= FMT_STASH_LINE ? table_stash_tag(t, item) : b->tags >> 8 * item->slot & 0x7f;
    return (uint64_t)shard << 1 << (63 - s->shard_bits) | (uint64_t)item->bits << (44 - s->shard_bits) | tag << (37 - s->shard_bits) | last;
}

uint32_t table_miscounted(const struct fmt_table *t)
{
    uint32_t displaced[FMT_BUCKETS] = { 0 }, stash[FMT_BUCKETS] = { 0 };
    for (uint32_t line = 1; line < FMT_STASH_LINE + FMT_STASH_LINES; line++) {
        const struct fmt_bucket *b = &t->line[line - 1];
        if (line >= FMT_STASH_LINE && b->tags & TOP_BITS) return line;
        for (uint64_t m = ~match(load(&b->tags), 0) & TOP_BITS; m; m &= m - 1) {
            uint32_t home = line_home(b, line, first(m));
            if (home >= FMT_BUCKETS) return line;
            if (line >= FMT_STASH_LINE) stash[home]++;
            else displaced[home] += home != line - 1;
        }
    }
    for (uint32_t home = 0; home < FMT_BUCKETS; home++)
        if (neighbours(t->line[home].tags) != displaced[home] || stashed(t->line[home].tags) != stash[home]) return home + 1;
    return 0;
}

static uint32_t table_count(const struct fmt_table *t)
{
    uint32_t n = 0;
    for (uint32_t line = 1; line < FMT_STASH_LINE + FMT_STASH_LINES; line++)
        n += 7 - (uint32_t)__builtin_popcountll(match(load(&t->line[line - 1].tags), 0));
    return n;
}

static void table_format(struct fmt_table *t, uint64_t prefix, uint32_t depth, uint32_t shard)
{
    atomic_thread_fence(memory_order_release); /* R31, as for chunks */
    memset(t, 0, sizeof *t);
    t->header.prefix = prefix;
    t->header.depth = depth;
    t->header.shard = shard;
}

/* Copy the entries of `from` into tables built aside: by the bit at `depth` into to[0] or to[1]. */
static bool distribute(const struct fmt_table *from, struct fmt_table *to[2], uint32_t depth)
{
    for (uint32_t line = 1; line < FMT_STASH_LINE + FMT_STASH_LINES; line++) {
        const struct fmt_bucket *b = &from->line[line - 1];
        for (uint64_t m = ~match(b->tags, 0) & TOP_BITS; m; m &= m - 1) {
            uint32_t slot = first(m), home = line_home(b, line, slot), to_line, to_slot;
            uint64_t tags = line >= FMT_STASH_LINE ? from->header.stash_tags[line - FMT_STASH_LINE] : b->tags;
            uint64_t entry = b->entry[slot];
            struct fmt_table *t = to[entry_bits(entry) >> (FMT_DEPTH_MAX - 1 - depth) & 1];
            if (home >= FMT_BUCKETS || !room(t, home, &to_line, &to_slot)) return false;
            place_entry(NULL, t, entry_bits(entry), (uint32_t)(tags >> 8 * slot & 0x7f), home, to_line, to_slot,
                        entry_record(entry));
        }
    }
    return true;
}

/* Make `to`, built aside, a copy of a table as it is without the entries of the other side. */
static void keep_side(const struct fmt_table *from, struct fmt_table *to, uint32_t depth, uint32_t side)
{
    memcpy(to->line, from->line, sizeof to->line);
    memcpy(to->header.stash_tags, from->header.stash_tags, sizeof to->header.stash_tags);
    for (uint32_t line = 1; line < FMT_STASH_LINE + FMT_STASH_LINES; line++) {
        const struct fmt_bucket *b = &from->line[line - 1];
        for (uint64_t m = ~match(b->tags, 0) & TOP_BITS; m; m &= m - 1)
            if ((entry_bits(b->entry[first(m)]) >> (FMT_DEPTH_MAX - 1 - depth) & 1) != side)
                remove_entry(NULL, to, line_home(b, line, first(m)), line, first(m));
    }
}

/* ---- growing and shrinking: each an operation of its own, before or after the one that wants it ---- */

/* An operation takes its pages in the order of the words. What is left in this one and those behind is of an operation that
 * could not finish, and goes back first: `publish` takes all that the words name for what it has published. */
static int take_page(struct op *op, int i, uint64_t pages, uint64_t *offset)
{
    int rc = 0;
    for (int j = i; j < (int)FMT_SHARD_RESERVES && !rc; j++) rc = pages_give(op->s, &op->sh->reserve[j], op->flags);
    return rc ? rc : pages_take(op->s, FMT_ZONE_INDEX, &pages, 0, &op->sh->reserve[i], offset, op->flags);
}

static int give_up(struct op *op, int rc)
{
    for (int i = 0; i < (int)FMT_SHARD_RESERVES; i++) {
        int again = pages_give(op->s, &op->sh->reserve[i], op->flags & ~(unsigned)MMKV_NO_WAIT);
        if (!rc) rc = again;
    }
    return rc;
}

static void release(struct op *op, int i, uint64_t offset, uint64_t pages)
{
    set(op, &op->sh->release[i], offset | pages);
}

static uint64_t directory_pages(uint32_t depth)
{
    return depth <= FMT_DEPTH_EMBEDDED ? 0 : pages_of(8ull << depth);
}

/* The first table of a shard. */
static int begin_index(struct op *op)
{
    uint64_t offset;
    int rc = take_page(op, 0, 1, &offset);
    if (rc) return rc;
    table_format(at(op->s, offset, FMT_PAGE), 0, 0, op->shard);
    op_begin(op);
    set(op, &op->sh->embedded[0], offset);
    set(op, &op->sh->directory, offset_of(op->s, op->sh->embedded));
    set(op, &op->sh->tables, 1);
    set(op, &op->sh->reserve[0], 0);
    op_commit(op);
    return 0;
}

/* Twice as many directory words, each old one twice. Small directories lie in the shard and change in place, logged;
 * larger ones are built aside. */
static int double_directory(struct op *op)
{
    struct fmt_shard *sh = op->sh;
    uint64_t *old = directory_at(op->s, sh->directory), offset;
    uint32_t depth = depth_of(sh->directory);
    if (!old) return fail(MMKV_CORRUPT, shard_at(op->shard), "a shard's directory is damaged");
    if (depth < FMT_DEPTH_EMBEDDED) {
        op_begin(op);
        for (uint32_t i = 1u << depth; i-- > 0;) {
            uint64_t word = old[i];
            set(op, &sh->embedded[2 * i], word);
            set(op, &sh->embedded[2 * i + 1], word);
        }
        set(op, &sh->directory, sh->directory + 1);
        op_commit(op);
        return 0;
    }
    int rc = shard_finish(op);
    if (rc || (rc = take_page(op, 0, directory_pages(depth + 1), &offset))) return rc;
    uint64_t *new = at(op->s, offset, 16ull << depth);
    atomic_thread_fence(memory_order_release);
    for (uint64_t i = 0; i < 1ull << depth; i++) {
        store(&new[2 * i], old[i]);
        store(&new[2 * i + 1], old[i]);
    }
    op_begin(op);
    if (depth > FMT_DEPTH_EMBEDDED) release(op, 0, place_of(sh->directory), directory_pages(depth));
    set(op, &sh->directory, offset | (depth + 1));
    set(op, &sh->reserve[0], 0);
    op_commit(op);
    return shard_finish(op);
}

/* Make the words [from, from + count) name other tables: the first half low, the second high. Called with the operation
 * begun, or, when the log could not hold so many words, on a copy of the directory built aside (`copy`). */
static void point(struct op *op, uint64_t *words, uint64_t from, uint64_t count, uint64_t low, uint64_t high)
{
    for (uint64_t i = 0; i < count; i++) put(op, &words[from + i], i < count / 2 ? low : high);
}

/* Release words that an earlier operation could not hand back (the allocator was busy) must be empty before new ones. */
static int publish(struct op *op, uint64_t from, uint64_t count, uint64_t low, uint64_t high, int64_t more_tables,
                   uint64_t gone1, uint64_t gone2)
{
    struct fmt_shard *sh = op->sh;
    uint32_t depth = depth_of(sh->directory);
    uint64_t *words = directory_at(op->s, sh->directory), copy = 0;
    int rc = shard_finish(op);
    if (rc) return rc;
    if (count > DIRECTORY_WORDS_LOGGED) {
        if ((rc = take_page(op, 2, directory_pages(depth), &copy))) return rc;
        uint64_t *new = at(op->s, copy, 8ull << depth);
        atomic_thread_fence(memory_order_release);
        memcpy(new, words, 8ull << depth);
        point(NULL, new, from, count, low, high);
    }
    op_begin(op);
    if (copy) {
        release(op, 2, place_of(sh->directory), directory_pages(depth));
        set(op, &sh->directory, copy | depth);
    } else {
        point(op, words, from, count, low, high);
    }
    set(op, &sh->tables, sh->tables + (uint64_t)more_tables);
    for (uint32_t i = 0; i < FMT_SHARD_RESERVES; i++)
        if (sh->reserve[i]) set(op, &sh->reserve[i], 0);
    release(op, 0, gone1, 1);
    if (gone2) release(op, 1, gone2, 1);
    op_commit(op);
    return shard_finish(op);
}

/* Tables have room for a new entry up to some seven eighths, by experience; never for certain. */
bool index_roomy(mmkv_store *s, uint64_t table, uint32_t more)
{
    const struct fmt_table *t = table ? table_at(s, table) : NULL;
    return t && table_count(t) + more <= FMT_TABLE_ENTRIES * 3 / 4;
}

/* Split the table of a hash in two, both built aside. If all its entries go to one side that one is as full as before, and
 * is split next; put in anew, line by line, they may then not even fit, but where they lie they do. */
int index_split(struct op *op, uint64_t hash)
{
    struct fmt_shard *sh = op->sh;
    uint32_t bits = fmt_bits_of(hash, op->s->shard_bits), depth;
    uint64_t offset, new[2];
    if (!sh->directory) return begin_index(op);
    int rc = index_table(op->s, sh, bits, &offset, &depth);
    if (rc) return fail(MMKV_CORRUPT, shard_at(op->shard), "a shard's directory is damaged");
    if (depth == FMT_DEPTH_MAX)
        return fail(MMKV_FULL, shard_at(op->shard), "too many keys have hashes that begin alike: the index has no room for one more, "
                    "while it has for others");
    if (depth == depth_of(sh->directory) && (rc = double_directory(op))) return rc;
    struct fmt_table *from = table_at(op->s, offset), *to[2];
    if (!from) return fail(MMKV_CORRUPT, offset, "a directory leads to no table");
    for (int i = 0; i < 2; i++) {
        if ((rc = take_page(op, i, 1, &new[i]))) return give_up(op, rc);
        to[i] = at(op->s, new[i], FMT_PAGE);
        if (!to[i]) return fail(MMKV_CORRUPT, new[i], "the allocator gave an extent outside the file");
    }
    uint64_t prefix = bits >> (FMT_DEPTH_MAX - depth) << (FMT_DEPTH_MAX - depth);
    table_format(to[0], prefix, depth + 1, op->shard);
    table_format(to[1], prefix | 1u << (FMT_DEPTH_MAX - 1 - depth), depth + 1, op->shard);
    if (!distribute(from, to, depth)) {
        if (table_miscounted(from)) return give_up(op, fail(MMKV_CORRUPT, offset, "a table of the index miscounts its entries"));
        for (uint32_t side = 0; side < 2; side++) keep_side(from, to[side], depth, side);
    }
    uint32_t global = depth_of(sh->directory);
    uint64_t count = 1ull << (global - depth);
    rc = publish(op, prefix >> (FMT_DEPTH_MAX - global), count, new[0] | (depth + 1), new[1] | (depth + 1), 1, offset, 0);
    return rc ? give_up(op, rc) : 0;
}

/* A table takes the place of its empty buddy too. */
static int publish_kept(struct op *op, struct fmt_table *kept, uint64_t prefix, uint64_t from, uint64_t count, uint64_t word, uint64_t goes)
{
    int rc = shard_finish(op);
    if (rc) return rc;
    op_begin(op);
    set(op, &kept->header.prefix, prefix);
    set(op, WORD(kept->header.depth), pair(depth_of(word), op->shard));
    point(op, directory_at(op->s, op->sh->directory), from, count, word, word);
    set(op, &op->sh->tables, op->sh->tables - 1);
    release(op, 0, goes, 1);
    op_commit(op);
    return shard_finish(op);
}

/* If the table of a hash and its buddy would fit well in one, merge them. */
int index_merge(struct op *op, uint64_t hash)
{
    struct fmt_shard *sh = op->sh;
    uint32_t bits = fmt_bits_of(hash, op->s->shard_bits), depth, buddy_depth;
    uint64_t offset, buddy, new;
    int rc = index_table(op->s, sh, bits, &offset, &depth);
    if (rc || !offset || !depth) return rc;
    uint32_t bit = 1u << (FMT_DEPTH_MAX - depth), prefix = bits >> (FMT_DEPTH_MAX - depth) << (FMT_DEPTH_MAX - depth);
    rc = index_table(op->s, sh, prefix ^ bit, &buddy, &buddy_depth);
    if (rc || buddy_depth != depth) return rc;
    struct fmt_table *one = table_at(op->s, offset), *other = table_at(op->s, buddy);
    if (!one || !other || one == other) return fail(MMKV_CORRUPT, offset, "a directory leads to no table");
    uint32_t here = table_count(one), there = table_count(other), global = depth_of(sh->directory);
    uint64_t count = 1ull << (global - depth + 1), first_word = (uint64_t)(prefix & ~bit) >> (FMT_DEPTH_MAX - global);
    if (here + there > MERGE_MAX) return 0;
    if (!here || !there) { /* nothing to copy, and no page to take: the one that is not empty serves both */
        struct fmt_table *kept = here ? one : other;
        uint64_t stays = here ? offset : buddy, goes = here ? buddy : offset;
        if (count <= DIRECTORY_WORDS_LOGGED) return publish_kept(op, kept, prefix & ~bit, first_word, count, stays | (depth - 1), goes);
    }
    unsigned flags = op->flags;
    op->flags |= NO_GROWTH; /* removing must not make the file longer */
    rc = take_page(op, 0, 1, &new);
    op->flags = flags;
    if (rc) return rc;
    struct fmt_table *to[2];
    if (!(to[0] = to[1] = at(op->s, new, FMT_PAGE))) return fail(MMKV_CORRUPT, new, "the allocator gave an extent outside the file");
    table_format(to[0], prefix & ~bit, depth - 1, op->shard);
    if (!distribute(one, to, depth) || !distribute(other, to, depth)) return give_up(op, 0); /* too uneven: leave it */
    rc = publish(op, first_word, count, new | (depth - 1), new | (depth - 1), -1, offset, buddy);
    return rc ? give_up(op, rc) : 0;
}

/* An empty shard gives its tables back: merge while it can be, then drop the last. Bounded operations. */
int index_reset(struct op *op)
{
    struct fmt_shard *sh = op->sh;
    uint32_t depth;
    uint64_t offset;
    while (sh->directory && sh->tables > 1) {
        uint64_t *words = directory_at(op->s, sh->directory), before = sh->tables;
        if (!words) return fail(MMKV_CORRUPT, shard_at(op->shard), "a shard's directory is damaged");
        uint32_t global = depth_of(sh->directory);
        for (uint64_t i = 0; i < 1ull << global;) { /* merge the deepest first: a deepest table's buddy is as deep */
            uint32_t d = depth_of(words[i]);
            if (d > global) return fail(MMKV_CORRUPT, shard_at(op->shard), "a shard's directory is damaged");
            int rc = index_merge(op, i << (FMT_DEPTH_MAX - global) << (44 - op->s->shard_bits));
            if (rc) return rc;
            if (!(words = directory_at(op->s, sh->directory))) return MMKV_CORRUPT;
            i += 1ull << (global - d);
        }
        if (sh->tables == before) return fail(MMKV_CORRUPT, shard_at(op->shard), "the tables of an empty shard do not merge");
    }
    if (!sh->directory) return 0;
    int rc = shard_finish(op);
    if (rc) return rc;
    if (index_table(op->s, sh, 0, &offset, &depth)) return fail(MMKV_CORRUPT, shard_at(op->shard), "a shard's directory is damaged");
    op_begin(op);
    release(op, 0, offset, 1);
    if (directory_pages(depth_of(sh->directory))) release(op, 1, place_of(sh->directory), directory_pages(depth_of(sh->directory)));
    set(op, &sh->directory, 0);
    set(op, &sh->tables, 0);
    op_commit(op);
    return shard_finish(op);
}
