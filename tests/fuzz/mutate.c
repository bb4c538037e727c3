/* mutate.c: new inputs from old: patches stay patches. */
#include <string.h>

#include "fuzz.h"

static uint64_t state;

static uint64_t chance(uint64_t below)
{
    state += 0x9e3779b97f4a7c15ull; /* splitmix64 */
    uint64_t x = state;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return (x ^ x >> 31) % below;
}

static uint64_t odd_value(void)
{
    static const uint64_t values[] = { 0, 1, 2, 7, 8, 63, 64, 255, 351, 352, 4095, 4096, 0xffff, 0x10000, 0x7fffffff, 0xffffffff,
                                       1ull << 32, 1ull << 40, FMT_ENTRY_PLACE, FMT_EPOCH_MASK, 1ull << 47, 1ull << 62,
                                       1ull << 63, ~0ull, ~0ull - 4095, ~0ull - 7 };
    switch (chance(4)) {
    case 0: return values[chance(sizeof values / sizeof *values)];
    case 1: return 1ull << chance(64);
    case 2: return chance(4096);
    default: return chance(UINT64_MAX);
    }
}

static struct patch random_patch(void)
{
    struct patch p = { .area = (uint8_t)chance(AREAS), .how = (uint8_t)chance(32), .index = (uint16_t)chance(64),
                       .offset = (uint32_t)chance(4096), .value = odd_value() };
    if (chance(2)) p.offset = (uint32_t)chance(128);
    if (chance(2)) p.how |= PATCH_WIDTH; /* words, mostly */
    if (chance(3)) p.how |= PATCH_FIX;
    if (p.area == A_SHARD_LOG || p.area == A_ALLOCATOR_LOG) p.offset = (uint32_t)chance(64);
    if ((p.how >> PATCH_OP_SHIFT & 3) == P_POINT)
        p.value = chance(AREAS) | chance(64) << 8 | (chance(2) ? chance(64) : 0) << 32;
    return p;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    struct header h = { .store = 0 };
    struct patch p;
    state = seed;
    if (max_size < sizeof h + sizeof p) return size;
    if (size >= sizeof h) memcpy(&h, data, sizeof h);
    else size = sizeof h;
    size_t count = (size - sizeof h) / sizeof p;
    uint8_t *patches = data + sizeof h;
    for (uint64_t times = 1 + chance(3); times--;) {
        size_t i = count ? chance(count) : 0;
        uint64_t what = chance(16);
        if (what == 0) h.store = (uint8_t)chance(7);
        else if (what == 1) h.how = (uint8_t)chance(chance(64) ? 4 : 8);
        else if (what == 2 && !chance(4)) h.length = (uint8_t)chance(256);
        else if (what == 3 && count) memmove(patches + i * sizeof p, patches + (i + 1) * sizeof p, (--count - i) * sizeof p);
        else if (what < 10 && count < 24 && sizeof h + (count + 1) * sizeof p <= max_size) {
            p = random_patch();
            memcpy(patches + count++ * sizeof p, &p, sizeof p);
        } else if (count) {
            memcpy(&p, patches + i * sizeof p, sizeof p);
            switch (chance(6)) {
            case 0: p.index = (uint16_t)chance(64); break;
            case 1: p.offset = (uint32_t)chance(512); break;
            case 2: p.how ^= (uint8_t)(1u << chance(5)); break;
            case 3: p.value ^= 1ull << chance(64); break;
            case 4: p.value += chance(33) - 16; break;
            default: p.value = odd_value();
            }
            memcpy(patches + i * sizeof p, &p, sizeof p);
        }
    }
    memcpy(data, &h, sizeof h);
    return sizeof h + count * sizeof p;
}
