/* between.h: for programs that stop the engine before one of its stores and have another handle do something there. */
#ifndef BETWEEN_H
#define BETWEEN_H

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

#endif
