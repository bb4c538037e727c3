/* record.c: a record's bytes: its bounds, its checksum, and what is said of one that is damaged.
 *
 * Reads do not ask for checksums unless the store was opened with verify_reads. Then what was read is held against the
 * checksum after its version has been found valid: a copy torn by a writer is made again, never reported. */
#include <stdio.h>

#include "engine.h"

/* What a record's header says, read once: a reader may meet a record that a writer is writing, whose lengths change from
 * one look to the next, and what was found to lie within the file must be what is then read. */
bool record_view(mmkv_store *s, uint64_t offset, struct view *v)
{
    const uint8_t *r = at(s, offset, FMT_RECORD_HEADER);
    if (!r) return false;
    v->seal.sum = load32((const uint32_t *)(const void *)r);
    v->seal.word = load32((const uint32_t *)(const void *)(r + 4)) | (uint64_t)load32((const uint32_t *)(const void *)(r + 8)) << 32;
    uint64_t key_at = FMT_RECORD_HEADER + (v->seal.word >> 16 & FMT_RECORD_EXPIRY ? 8 : 0);
    v->key = r + key_at;
    v->key_length = v->seal.word & 0xffff;
    v->value_length = v->seal.word >> 24;
    v->size = key_at + v->key_length + v->value_length;
    v->seal.expiry = 0;
    if (!at(s, offset, v->size)) return false;
    if (unlikely(key_at != FMT_RECORD_HEADER)) memcpy(&v->seal.expiry, r + FMT_RECORD_HEADER, 8);
    return true;
}

/* A record and its length, if it lies within the file. For those who hold the lock, or look at one header field only. */
bool record_of(mmkv_store *s, uint64_t offset, const struct fmt_record **record, uint64_t *size)
{
    struct view v;
    *record = at(s, offset, FMT_RECORD_HEADER);
    if (!*record || !record_view(s, offset, &v)) return false;
    *size = v.size;
    return true;
}

/* The checksum of a record of place 0. `word` is the 8 bytes after the checksum. */
uint32_t record_sum(uint64_t key_hash, uint64_t word, uint64_t expiry, const void *value, size_t value_length)
{
    return (uint32_t)engine_hash(value, value_length, key_hash + (word & ~((uint64_t)FMT_RECORD_PLACE << 16)) + expiry);
}

static bool seal_holds(const struct seal *seal, uint64_t key_hash, const void *value, size_t value_length)
{
    uint32_t sum = record_sum(key_hash, seal->word, seal->expiry, value, value_length);
    return with_place(sum, (uint32_t)(seal->word >> 16) & FMT_RECORD_PLACE) == seal->sum;
}

/* Of a view, whose bytes nobody changes meanwhile; or who does is found out afterwards. */
bool record_good(const struct view *v, uint64_t key_hash)
{
    return seal_holds(&v->seal, key_hash, v->key + v->key_length, v->value_length);
}

/* With its key's hash. */
bool record_sound(mmkv_store *s, uint64_t offset)
{
    struct view v;
    return record_view(s, offset, &v) && record_good(&v, engine_hash(v.key, v.key_length, s->seed));
}

/* For records known to lie within the file. */
bool record_check(mmkv_store *s, const struct fmt_record *r, uint64_t *key_hash)
{
    struct view v;
    if (!record_view(s, offset_of(s, r), &v)) return false;
    *key_hash = engine_hash(v.key, v.key_length, s->seed);
    return record_good(&v, *key_hash);
}

/* Copy the value of the record at an offset. The record may be anything while a writer is at work: every length is
 * checked. *seal is what the copy is to be held against, once it is known that no writer was. */
int record_copy(mmkv_store *s, uint64_t offset, void *buffer, size_t capacity, size_t *value_length, struct seal *seal)
{
    struct view v;
    if (unlikely(!record_view(s, offset, &v))) return MMKV_CORRUPT;
    *value_length = v.value_length;
    if (v.value_length > capacity) return MMKV_SHORT;
    *seal = v.seal;
    memcpy(buffer, v.key + v.key_length, v.value_length);
    return 0;
}

/* The same, but holding the value against what the caller has: of equal bytes that is as good as a copy. */
int record_same(mmkv_store *s, uint64_t offset, const void *expected, size_t expected_length, size_t *value_length, bool *same,
                struct seal *seal)
{
    struct view v;
    if (unlikely(!record_view(s, offset, &v))) return MMKV_CORRUPT;
    *value_length = v.value_length;
    *seal = v.seal;
    *same = v.value_length == expected_length && !memcmp(v.key + v.key_length, expected, expected_length);
    return 0;
}

/* With verify_reads: is the copy of a key's value what was stored? */
int record_copied(mmkv_store *s, uint64_t offset, uint64_t hash, const void *key, size_t key_length, const void *value,
                  size_t value_length, const struct seal *seal)
{
    return seal_holds(seal, hash, value, value_length) ? 0 : record_damaged(s, offset, key, key_length);
}

/* A key as people write it, as much as fits. */
static void show_key(char *to, size_t capacity, const uint8_t *key, size_t length)
{
    size_t n = 0;
    for (size_t i = 0; i < length; i++) {
        bool plain = key[i] >= 32 && key[i] < 127 && key[i] != '\\' && key[i] != '\'';
        if (n + 8 > capacity) {
            snprintf(to + n, capacity - n, "...");
            return;
        }
        n += (size_t)snprintf(to + n, capacity - n, plain ? "%c" : "\\x%02x", key[i]);
    }
    to[n] = 0;
}

/* The failure of one who met a damaged record. `key` NULL: that of the record, if it has one that can be read. */
int record_damaged(mmkv_store *s, uint64_t offset, const void *key, size_t key_length)
{
    struct view v;
    char name[120] = "";
    if (offset < s->zones_start) return fail(MMKV_CORRUPT, offset, "the index is damaged");
    if (!record_view(s, offset, &v))
        return fail(MMKV_CORRUPT, offset, "the index leads to offset %llu, where no record lies within the file",
                    (unsigned long long)offset);
    if (!key) {
        key = v.key;
        key_length = v.key_length;
    }
    show_key(name, sizeof name, key, key_length);
    return fail(MMKV_CORRUPT, offset, "the record of key b'%s' is damaged", name);
}
