/* fuzz.h: what the parts of the fuzz target share.
 *
 * An input is not a file (a store has hundreds of kilobytes) but a list of patches on one of a few stores that the engine
 * itself makes at the start: a header of 4 bytes, then patches of 16. A patch says where in the terms of the format
 * ("word 2 of chunk 7"), so that an input means the same in every build, and a mutation stays aimed. A patch may have the
 * checksum or stamp over what it changed made good again, so that the checks behind it are reached too.
 * The same is written in Python by seeds.py. */
#ifndef MMKV_FUZZ_H
#define MMKV_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format.h"
#include "mmkv.h"

enum area {
    A_SUPERBLOCK, A_SLOT, A_CONTROL, A_PROCESS, A_ALLOCATOR, A_ALLOCATOR_LOG, A_ZONE, A_ZONE_STATE, A_SHARD, A_CLASS,
    A_EMBEDDED, A_SHARD_LOG, A_BITMAP, A_EXTENT, A_CHUNK, A_EPOCHS, A_RECORD, A_TABLE, A_DIRECTORY, A_RAW, AREAS
};

struct header {
    uint8_t store;               /* which of the stores, modulo their number */
    uint8_t how;                 /* bits 0-1: mode, see MODES; bit 2: the patches' bytes are the file, raw */
    uint8_t length;              /* 0 as it is; to 127: so many pages cut off; above: pages of 0xa5 added */
    uint8_t reserved;
};
struct patch {
    uint8_t area;                /* modulo AREAS */
    uint8_t how;                 /* bits 0-1: log2 of the bytes; bits 2-3: enum op; bit 4: make the check good again */
    uint16_t index;              /* which of the area's structures, modulo their number */
    uint32_t offset;             /* in it, modulo its size */
    uint64_t value;              /* for P_POINT: area, index << 8, and the addend << 32: the offset of that structure */
};
enum op { P_SET, P_XOR, P_ADD, P_POINT };
enum { PATCH_WIDTH = 3, PATCH_OP_SHIFT = 2, PATCH_FIX = 16, HOW_RAW = 4, KEYS = 96, KEYS_DEEP = 9000 };

/* One of the stores, and where its structures are. */
struct list { uint64_t *offset; uint32_t *size; size_t count, room; };
struct base {
    const char *name;
    uint8_t *image;
    uint64_t length;
    bool clean, identified;
    uint32_t shards, keys;
    struct list lists[AREAS];
};

/* stores.c */
void bases_make(const char *path);
const struct base *base_number(unsigned i);
size_t key_make(uint32_t number, char key[64]);
size_t value_make(uint32_t number, uint8_t **value);

/* patch.c */
uint8_t *patched(const uint8_t *data, size_t size, const struct base **base, uint64_t *length);

/* target.c */
uint64_t fuzz_hash(const void *data, size_t length, uint64_t seed);
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
int fuzz_write(mmkv_hash_function hash, const uint8_t *data, size_t size, const char *path);
void must(bool good, const char *what);

#endif
