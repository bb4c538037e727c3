/* patch.c: from an input to the bytes of a file. */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

enum { RAW_MAX = 1 << 22 };

/* What the patch aims at: its offset in the file, and its size. */
static uint64_t locate(const struct base *b, uint32_t area, uint32_t index, uint32_t *size)
{
    const struct list *l = &b->lists[area % AREAS];
    *size = l->count ? l->size[index % l->count] : FMT_PAGE;
    return l->count ? l->offset[index % l->count] : FMT_CONTROL_AT;
}

static uint64_t get(const uint8_t *p, uint32_t bytes)
{
    uint64_t value = 0;
    memcpy(&value, p, bytes);
    return value;
}

static void put(uint8_t *p, uint64_t value) { memcpy(p, &value, 8); }

static void fix_record(uint8_t *image, uint64_t length, uint64_t seed, uint64_t at)
{
    uint64_t word = get(image + at + 4, 8), expiry = 0, key = at + FMT_RECORD_HEADER, value_length = word >> 24;
    uint32_t key_length = (uint32_t)(word & 0xffff), flags = (uint32_t)(word >> 16 & 0xff);
    if (flags & FMT_RECORD_EXPIRY) {
        expiry = get(image + key, 8);
        key += 8;
    }
    if (key + key_length + value_length > length) return;
    uint64_t hash = fuzz_hash(image + key, key_length, seed);
    uint64_t sum = fuzz_hash(image + key + key_length, value_length, hash + (word & ~((uint64_t)FMT_RECORD_PLACE << 16)) + expiry);
    uint32_t checksum = (uint32_t)sum + (flags & FMT_RECORD_PLACE) * FMT_PLACE_K;
    memcpy(image + at, &checksum, 4);
}

/* Make good what covers the structure at `at`. */
static void fix(uint8_t *image, uint64_t length, enum area area, uint64_t at, bool clean)
{
    uint64_t seed = get(image + offsetof(struct fmt_superblock, hash_seed), 8);
    uint8_t *p = image + at;
    switch (area) {
    case A_SUPERBLOCK:
        put(p + offsetof(struct fmt_superblock, checksum), fuzz_hash(p, offsetof(struct fmt_superblock, checksum), 0));
        break;
    case A_SLOT:
        put(p + offsetof(struct fmt_slot, checksum), fuzz_hash(p, offsetof(struct fmt_slot, checksum), seed ^ at));
        if (clean) put(p + offsetof(struct fmt_slot, clean), fmt_stamp(get(p + 8, 8) & FMT_EPOCH_MASK, at + offsetof(struct fmt_slot, clean)));
        break;
    case A_ZONE:
        put(p + offsetof(struct fmt_zone, checksum), fuzz_hash(p, offsetof(struct fmt_zone, checksum), seed ^ at));
        break;
    case A_EXTENT:
        put(p + 24, (get(p + 24, 8) & FMT_LINK_MASK) | fmt_extent_check(get(p + 16, 8), at));
        /* fall through */
    case A_EPOCHS:
        for (uint32_t i = 0; i < 16; i += 8)
            if (i || get(p, 8)) put(p + i, fmt_stamp(get(p + i, 8) & FMT_EPOCH_MASK, at + i));
        break;
    case A_RECORD: fix_record(image, length, seed, at); break;
    default: break;
    }
}

static void apply(const struct base *b, uint8_t *image, uint64_t length, const struct patch *p)
{
    uint32_t size, bytes = 1u << (p->how & PATCH_WIDTH), other;
    uint64_t start = locate(b, p->area, p->index, &size), value = p->value;
    if (size < bytes) return;
    uint64_t at = start + p->offset % (size - bytes + 1);
    if (bytes == 8) at = start + p->offset % size / 8 * 8; /* words are aligned */
    if (at + bytes > length || start + 64 > length) return;
    switch (p->how >> PATCH_OP_SHIFT & 3) {
    case P_XOR: value ^= get(image + at, bytes); break;
    case P_ADD: value += get(image + at, bytes); break;
    case P_POINT: value = locate(b, (uint32_t)(p->value & 0xff), (uint32_t)(p->value >> 8 & 0xffff), &other)
                          + (uint64_t)(int64_t)(int32_t)(p->value >> 32); break;
    default: break;
    }
    memcpy(image + at, &value, bytes);
    if (p->how & PATCH_FIX) fix(image, length, (enum area)(p->area % AREAS), start, b->clean);
}

/* The file that an input describes, to be freed; NULL: the input is too short to describe one. */
uint8_t *patched(const uint8_t *data, size_t size, const struct base **base, uint64_t *length)
{
    struct header h;
    if (size < sizeof h) return NULL;
    memcpy(&h, data, sizeof h);
    const struct base *b = *base = base_number(h.store);
    data += sizeof h;
    size -= sizeof h;
    uint64_t whole = b->length + 128ull * FMT_PAGE;
    uint8_t *image = calloc(1, whole > RAW_MAX ? whole : RAW_MAX);
    must(image, "memory");
    if (h.how & HOW_RAW) {
        *length = size < RAW_MAX ? size : RAW_MAX;
        memcpy(image, data, *length);
    } else {
        *length = b->length;
        memcpy(image, b->image, b->length);
        for (struct patch p; size >= sizeof p; data += sizeof p, size -= sizeof p) {
            memcpy(&p, data, sizeof p);
            apply(b, image, b->length, &p);
        }
    }
    uint64_t by = (h.length & 127ull) * FMT_PAGE;
    if (h.length < 128) {
        *length -= by < *length ? by : *length;
    } else {
        memset(image + *length, 0xa5, by);
        *length += by;
    }
    return image;
}
