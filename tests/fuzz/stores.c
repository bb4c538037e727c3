/* stores.c: the stores that the patches are applied to, made by the engine, and where everything lies in them. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include "fuzz.h"

static const struct recipe {
    const char *name;
    uint32_t shards, keys, larger;
    bool clean, identified;
} recipes[] = {
    { "clean", 4, KEYS, 0, true, true },
    { "one", 1, KEYS, 0, true, true },
    { "dirty", 4, KEYS, 0, false, true },
    { "lost", 4, KEYS, 0, false, false },
    { "large", 1, 24, 9, false, true },
    { "deep", 1, KEYS_DEEP, 0, true, true },
    { "empty", 2, 0, 0, true, true },
};
enum { BASES = sizeof recipes / sizeof *recipes };
static struct base bases[BASES];

/* The engine asks for a hash seed: always the same, so that an input always means the same. */
ssize_t __wrap_getrandom(void *buffer, size_t length, unsigned flags);
ssize_t __wrap_getrandom(void *buffer, size_t length, unsigned flags)
{
    (void)flags;
    for (size_t i = 0; i < length; i++) ((uint8_t *)buffer)[i] = (uint8_t)(0x5b + 37 * i);
    return (ssize_t)length;
}

const struct base *base_number(unsigned i) { return &bases[i % BASES]; }

size_t key_make(uint32_t number, char key[64])
{
    return (size_t)snprintf(key, 64, number % 7 ? "k%u" : "key number %u with a longer name", number);
}

/* Sizes of all kinds: empty, small classes, large classes, extents of their own. */
size_t value_make(uint32_t number, uint8_t **value)
{
    static uint8_t bytes[1 << 18];
    static const uint32_t sizes[] = { 0, 3, 11, 40, 100, 101, 180, 333, 700, 1500, 2600, 5000, 9000, 14000, 20000, 40000 };
    size_t size = number >= KEYS ? number % 5 : sizes[(number * 7 + number / 16) % 16];
    memset(bytes, (int)(number * 31 + 7), size);
    *value = bytes;
    return size;
}

static void put(mmkv_store *s, uint32_t number, uint32_t as)
{
    char key[64];
    uint8_t *value;
    size_t k = key_make(number, key), v = value_make(as, &value);
    must(!mmkv_put(s, mmkv_hash(s, key, k), key, k, value, v, 0), "a store can be filled");
}

static void drop(mmkv_store *s, uint32_t number)
{
    char key[64];
    size_t k = key_make(number, key);
    must(!mmkv_delete(s, mmkv_hash(s, key, k), key, k, NULL, 0, NULL, 0), "a store's keys can be deleted");
}

static void fill(mmkv_store *s, const struct recipe *r)
{
    uint64_t epoch = 0;
    for (uint32_t i = 0; i < r->keys; i++) put(s, i, i + r->larger);
    if (r->keys) must(!mmkv_sync(s, 1, &epoch), "sync");
    for (uint32_t i = 0; i < r->keys; i += 3) put(s, i, i + 1);
    for (uint32_t i = 1; i < r->keys; i += 5) drop(s, i);
    epoch = 0;
    if (r->keys) must(!mmkv_sync(s, 1, &epoch), "sync");
    for (uint32_t i = 2; i < r->keys; i += 9) put(s, i, i + 2); /* dead records that wait, unless the store is closed cleanly */
    for (uint32_t i = 4; i < r->keys; i += 5) drop(s, i);
}

static void read_image(struct base *b, const char *path)
{
    FILE *f = fopen(path, "rb");
    must(f && !fseek(f, 0, SEEK_END), "read a store");
    b->length = (uint64_t)ftell(f);
    b->image = malloc(b->length);
    rewind(f);
    must(b->image && fread(b->image, 1, b->length, f) == b->length, "read a store");
    fclose(f);
}

static void add(struct base *b, enum area area, uint64_t offset, uint64_t size)
{
    struct list *l = &b->lists[area];
    if (l->count == l->room) {
        l->room = l->room ? 2 * l->room : 16;
        l->offset = realloc(l->offset, l->room * sizeof *l->offset);
        l->size = realloc(l->size, l->room * sizeof *l->size);
        must(l->offset && l->size, "memory");
    }
    l->offset[l->count] = offset;
    l->size[l->count++] = (uint32_t)size;
}

static void survey_extent(struct base *b, const struct fmt_extent *e, uint64_t offset)
{
    uint32_t order = (uint32_t)__builtin_ctz(e->pages), size = fmt_class_size(e->class_);
    if (e->type == FMT_EXTENT_VALUE) {
        add(b, A_RECORD, offset, 64);
        return;
    }
    uint32_t blocks = fmt_chunk_blocks(order, size);
    add(b, A_CHUNK, offset, fmt_chunk_epochs_at(blocks));
    for (uint32_t i = 0; i < blocks; i++) {
        uint64_t at = offset + fmt_chunk_epochs_at(blocks) + 16ull * i;
        const struct fmt_epochs *words = (const void *)(b->image + at);
        if (!words->born) continue;
        add(b, A_EPOCHS, at, 16);
        if (!fmt_epoch_of(words->dead)) add(b, A_RECORD, offset + fmt_chunk_blocks_at(blocks) + (uint64_t)i * size, size);
    }
}

static void survey_zone(struct base *b, const struct fmt_zone *z)
{
    uint64_t words = (z->pages + 63) / 64, extents = (16 * words + 63) & ~63ull;
    uint64_t first = (extents + 32 * z->pages + FMT_PAGE - 1) / FMT_PAGE;
    add(b, A_BITMAP, z->offset, 16 * words);
    if (z->kind != FMT_ZONE_HEAP) return;
    for (uint64_t i = first; i < z->pages;) {
        uint64_t at = z->offset + extents + 32 * i;
        const struct fmt_extent *e = (const void *)(b->image + at);
        bool live = e->born && !fmt_epoch_of(e->dead);
        if (e->born || i == first) add(b, A_EXTENT, at, 32);
        if (live) survey_extent(b, e, z->offset + i * FMT_PAGE);
        i += live ? e->pages : 1;
    }
}

static void survey_shard(struct base *b, uint64_t at)
{
    const struct fmt_shard *s = (const void *)(b->image + at);
    uint64_t depth = s->directory & 63, words = s->directory - depth, last = 0;
    add(b, A_SHARD, at, offsetof(struct fmt_shard, class_));
    for (uint32_t i = 0; i < FMT_CLASSES; i++)
        if (s->class_[i].pages || i == 5) add(b, A_CLASS, at + offsetof(struct fmt_shard, class_) + 24 * i, 24);
    add(b, A_EMBEDDED, at + offsetof(struct fmt_shard, embedded), sizeof s->embedded);
    add(b, A_SHARD_LOG, at + offsetof(struct fmt_shard, log), sizeof s->log);
    if (!s->directory) return;
    add(b, A_DIRECTORY, words, 8ull << depth);
    for (uint64_t i = 0; i < 1ull << depth; i++) {
        uint64_t table = *(const uint64_t *)(const void *)(b->image + words + 8 * i) & ~63ull;
        if (table != last) add(b, A_TABLE, table, FMT_PAGE);
        last = table;
    }
}

static void survey(struct base *b)
{
    const struct fmt_allocator *p = (const void *)(b->image + FMT_ALLOCATOR_AT);
    add(b, A_SUPERBLOCK, FMT_SUPERBLOCK_AT, sizeof(struct fmt_superblock));
    add(b, A_SLOT, FMT_SLOT_A_AT, sizeof(struct fmt_slot));
    add(b, A_SLOT, FMT_SLOT_B_AT, sizeof(struct fmt_slot));
    add(b, A_CONTROL, FMT_CONTROL_AT, 192);
    for (uint32_t i = 1; i < 8; i++) add(b, A_PROCESS, FMT_PROCESSES_AT + 64 * i, 64);
    add(b, A_ALLOCATOR, FMT_ALLOCATOR_AT, 120);
    add(b, A_ALLOCATOR_LOG, FMT_ALLOCATOR_AT + offsetof(struct fmt_allocator, log), sizeof p->log);
    for (uint64_t i = 0; i <= p->zone_count; i++) {
        add(b, A_ZONE, FMT_ZONES_AT + 32 * i, 32);
        add(b, A_ZONE_STATE, FMT_ZONE_STATES_AT + 16 * i, 16);
        if (i < p->zone_count) survey_zone(b, (const struct fmt_zone *)(const void *)(b->image + FMT_ZONES_AT) + i);
    }
    for (uint32_t i = 0; i < b->shards; i++) survey_shard(b, FMT_SHARDS_AT + (uint64_t)i * sizeof(struct fmt_shard));
    add(b, A_RAW, 0, b->length);
}

void bases_make(const char *path)
{
    for (uint32_t i = 0; i < BASES; i++) {
        const struct recipe *r = &recipes[i];
        mmkv_options o = { .mode = MMKV_MODE_NEW, .shards = r->shards, .permissions = 0600, .any_file_system = 1 };
        mmkv_store *s;
        struct base *b = &bases[i];
        must(!mmkv_open(path, &o, &s), "make a store");
        fill(s, r);
        *b = (struct base){ .name = r->name, .clean = r->clean, .identified = r->identified, .shards = r->shards, .keys = r->keys };
        if (!r->clean) read_image(b, path); /* as a killed process would leave it, its slot in use */
        must(!mmkv_close(s, 1), "close a store");
        if (r->clean) read_image(b, path);
        survey(b);
    }
}
