/* between.h: for programs that stop the engine before one of its stores and have another handle do something there. */
#ifndef BETWEEN_H
#define BETWEEN_H

#include <stdio.h>
#include <string.h>

#include "engine.h"
#include "runtime.h"

static const char *wrong;        /* what went wrong first */

#define KEY(s, k) (s), mmkv_hash((s), &(k), sizeof(k)), &(k), sizeof(k)

static inline void must(int rc)
{
    if (rc && !wrong) wrong = mmkv_failure_get()->text;
}

static inline uint64_t hash(const void *data, size_t length, uint64_t seed)
{
    uint64_t h = seed;
    for (size_t i = 0; i < length; i++) {
        h = (h ^ ((const uint8_t *)data)[i]) * 0x9e3779b97f4a7c15ull;
        h ^= h >> 29;
    }
    return h;
}

/* For verify(). */
static inline void problem(void *context, const char *kind, const void *name, size_t name_length, uint64_t offset, const char *text)
{
    static char kept[256];
    (void)context, (void)kind, (void)name, (void)name_length, (void)offset;
    if (!wrong) wrong = strncpy(kept, text, sizeof kept - 1);
}

/* Two handles of a new store are used, and what is wrong is printed. Returns what main is to. */
static inline int with_two(const char *path, mmkv_options options, mmkv_store **first, mmkv_store **second, void (*use)(void))
{
    mmkv_set_hash(hash, 0);
    rig_seed(1);
    must(mmkv_open(path, &options, first));
    options.mode = MMKV_MODE_WRITE;
    if (!wrong) must(mmkv_open(path, &options, second));
    if (!wrong) {
        rig_watch(path, *first);
        use();
        must(mmkv_close(*second, 1));
        must(mmkv_close(*first, 1));
    }
    if (wrong) puts(wrong);
    return wrong != NULL;
}

#endif
