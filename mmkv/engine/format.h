/* format.h: every structure in an mmkv file, with its size and offsets pinned.
 *
 * docs/format.md is the source of truth; the literal numbers below are its numbers, and a test compares the two.
 * All integers are little-endian. All positions are byte offsets from the start of the file, never addresses.
 * "volatile" means: rebuilt after power loss, so nothing about the order of its write-back matters. */
#ifndef MMKV_FORMAT_H
#define MMKV_FORMAT_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "mmkv files are little-endian and so must the machine be"
#endif

#define FMT_MAGIC "\x89MMKV\r\n\x1a"        /* 8 bytes, no terminator; catches text-mode copies */
#define FMT_VERSION 1u
#define FMT_PAGE 4096u                      /* the unit of extents, whatever the machine's page size is */
#define FMT_PAGE_SHIFT 12
#define FMT_UNIT 16u                        /* records start at multiples of it; index entries count in it */

/* Feature flags. An unknown incompat bit refuses the file, an unknown ro-compat bit allows reading only. */
#define FMT_COMPAT_KNOWN 0ull
#define FMT_RO_COMPAT_KNOWN 0ull
#define FMT_INCOMPAT_KNOWN 0ull

/* The fixed areas, in address order. */
#define FMT_SUPERBLOCK_AT 0x0000u
#define FMT_SLOT_A_AT 0x1000u
#define FMT_SLOT_B_AT 0x2000u
#define FMT_CONTROL_AT 0x3000u
#define FMT_PROCESSES_AT 0x4000u
#define FMT_PROCESSES 1024u                 /* entry 0 is never used, so that an owner is never 0 */
#define FMT_ALLOCATOR_AT 0x14000u
#define FMT_SUPERBLOCK_COPY_AT 0x16000u     /* for repair and salvage, when page 0 is lost */
#define FMT_ZONES_AT 0x18000u
#define FMT_ZONES 2048u
#define FMT_ZONE_STATES_AT 0x28000u
#define FMT_SHARDS_AT 0x30000u
#define FMT_SHARDS_MAX 1024u
#define FMT_SHARDS_DEFAULT 64u
#define FMT_ZONE_ALIGN 0x10000u             /* zones start at multiples of it, so chunks of up to 64 KiB can be aligned */

/* Advisory (OFD) lock bytes, far beyond any data. */
#define FMT_LOCK_BASE 0x4000000000000000ull
#define FMT_LOCK_ATTACH (FMT_LOCK_BASE + 0)       /* write: attach, detach and recovery */
#define FMT_LOCK_READER (FMT_LOCK_BASE + 1)       /* read: a read-only opener is there */
#define FMT_LOCK_PROCESS (FMT_LOCK_BASE + 0x1000) /* + slot number; write: that slot's process lives */

/* Page 0, and its copy. Immutable after creation. */
struct fmt_superblock {
    uint8_t magic[8];
    uint32_t version;
    uint32_t page_size;
    uint64_t compat;
    uint64_t ro_compat;
    uint64_t incompat;
    uint8_t uuid[16];
    uint64_t hash_seed;
    uint32_t shard_count;      /* a power of two, 1 to FMT_SHARDS_MAX */
    uint32_t process_count;    /* FMT_PROCESSES */
    uint64_t created_ns;       /* Unix time in nanoseconds */
    uint64_t zones_start;      /* where the first zone may begin */
    uint64_t reserved[4];
    uint64_t checksum;         /* XXH3 of the bytes before it, seed 0 */
};

/* Pages 1 and 2: what recovery goes back to. The first 128 bytes fit one sector; `clean` is a word of its own so that
 * marking a file dirty never touches the checksummed part. */
struct fmt_slot {
    uint8_t magic[8];          /* "mmkvCKPT" */
    uint64_t epoch;
    uint64_t file_length;      /* of the cut, like the two that follow */
    uint64_t record_count;
    uint64_t record_sum;       /* sum, modulo 2^64, of the live records' checksums */
    uint64_t flags;            /* 0 */
    uint64_t time_ns;
    uint64_t user_length;      /* bytes of user metadata at offset 512; 0 in version 1 */
    uint64_t user_checksum;
    uint64_t reserved[6];
    uint64_t checksum;         /* XXH3 of the bytes before it, seed = hash_seed ^ offset of the slot */
    uint64_t clean;            /* stamp(epoch, offset of this word) when cleanly closed, else 0 */
};
#define FMT_SLOT_MAGIC "mmkvCKPT"
#define FMT_SLOT_USER_AT 512u
#define FMT_SLOT_USER_MAX 3584u

/* Page 3, volatile. */
struct fmt_control {
    uint8_t boot_id[16];       /* the identity to which the volatile state belongs: all zero = to none */
    uint64_t device;
    uint64_t inode;
    uint64_t birth_ns;
    uint64_t generation;
    uint64_t mounting;         /* the sysfs inode of the mounted file system, 0 = not known */
    uint64_t identity_reserved;
    /* line 1: read by every writer */
    uint64_t epoch;            /* the epoch being written */
    uint64_t durable;          /* the last epoch known durable */
    uint64_t file_length;      /* of the file, all of it usable */
    uint32_t clean;            /* 1: the disk says clean; the first writer must undo that first */
    uint32_t failed;           /* errno of an msync that failed, 0 if none ever did */
    uint64_t line1_reserved[4];
    /* line 2: checkpoints */
    uint32_t checkpoint_lock;
    uint32_t checkpoint_futex; /* what those who wait for a checkpoint sleep on: how often they were woken */
    uint64_t attach_count;     /* writers that ever attached; mode "p" watches it */
    uint64_t checkpoint_count;
    uint64_t flushed_zones;    /* entries of the zone table that are on disk for certain */
    /* Hints for leaders, about what the next checkpoint will be like. */
    uint64_t written;          /* sum of the shards' `written` at the last cut */
    uint64_t flush_ns;         /* how long the last checkpoint took from its cut on */
    uint32_t arrived;          /* callers since the last cut; top bit: a leader waits for more of them */
    uint32_t expected;         /* callers that the last checkpoint served, with those who came during it */
    uint64_t line2_reserved;
    uint8_t reserved[3904];
};

/* One per attached handle. Alive exactly as long as byte FMT_LOCK_PROCESS + number is write-locked. */
struct fmt_process {
    uint32_t state;            /* 0 free, 1 in use */
    uint32_t incarnation;      /* grows each time the slot is handed out */
    uint64_t pid;              /* for people; nothing relies on it */
    uint64_t start_ns;         /* its low 32 bits are random: part of the handle's name */
    uint64_t reserved_extent[4]; /* extents of large values being filled, or of transactions: offset, + FMT_RESERVED_TRANSACTION
                                    if it is one; 0 = none, 1 = word in use */
    uint64_t reserved;
};

#define FMT_LOG_ENTRIES 351u
struct fmt_log_entry { uint64_t offset, old; };
struct fmt_log {
    uint64_t count;            /* 0: nothing to undo */
    uint64_t transaction;      /* of a shard: the extent of the transaction under way | its segment, which is then the log; 0 = none */
    struct fmt_log_entry entry[FMT_LOG_ENTRIES];
};

/* A transaction over any number of shards, in a heap extent that is never published: this header, `words` words, `segments`
 * segments, their entries. Volatile; named by a process slot's reserved_extent as long as it exists. */
struct fmt_transaction {
    uint8_t magic[8];          /* "mmkvTRAN" */
    uint64_t committed;        /* 1: it has happened, in all its shards; 0: it has not */
    uint32_t words;            /* extents for its values (1 = published), then what it releases; 0 = none */
    uint32_t segments;
};
#define FMT_TRANSACTION_MAGIC "mmkvTRAN"
#define FMT_RESERVED_TRANSACTION 2u
struct fmt_segment {           /* the undo log of one of its shards */
    uint64_t count;            /* as in fmt_log */
    uint64_t entries;          /* where its fmt_log_entry's begin, from the start of the extent */
    uint32_t capacity;         /* how many there is room for */
    uint32_t shard;
};

/* What a shard and the page allocator have in common. */
struct fmt_lockable {
    uint32_t lock;             /* 0 free; else owner slot (12 bits) | incarnation (19 bits) << 12 | waiters << 31 */
    uint32_t waiting;          /* kept for wait(): how many sleep; not written yet */
    uint64_t version;          /* odd while an operation stores; never goes back */
};
#define FMT_LOCK_OWNER 0xfffu
#define FMT_LOCK_WAITERS 0x80000000u

/* The page allocator, volatile, 8 KiB with its log. */
struct fmt_allocator {
    struct fmt_lockable l;
    uint64_t zone_count;
    uint64_t waiting_head;     /* page numbers; a queue through the descriptors' links, oldest death first */
    uint64_t waiting_tail;
    uint64_t waiting_pages;
    uint64_t free_pages;       /* allocatable, all zones */
    uint64_t last_zone[4];     /* by kind: where the last search ended */
    uint64_t intent_offset;    /* the extent whose bits the operation under way changes, unlogged: honoured only while */
    uint64_t intent_pages;     /* log.count is not 0; rollback makes them all free (take) or all used (give) again */
    uint64_t intent_give;      /* 0 take, 1 give */
    uint64_t harvesting;       /* an extent between queue and bitmap */
    uint64_t failed;           /* errno of what left it half-changed, see fmt_shard.failed; 0 = none */
    uint8_t reserved[2560 - 128];
    struct fmt_log log;
};

/* The zone table: durable, appended only. A zone exists at C iff it lies below the file length of C. */
struct fmt_zone {
    uint64_t offset;
    uint64_t pages;
    uint32_t kind;             /* FMT_ZONE_HEAP or FMT_ZONE_INDEX */
    uint32_t reserved;
    uint64_t checksum;         /* XXH3 of the bytes before it, seed = hash_seed ^ offset of the entry */
};
#define FMT_ZONE_HEAP 1u
#define FMT_ZONE_INDEX 2u
#define FMT_ZONE_PAGES_MIN 64u

struct fmt_zone_state {        /* volatile */
    uint32_t free;             /* free pages */
    uint32_t run_max;          /* no free run is longer */
    uint32_t hint;             /* page at which the next search starts */
    uint32_t reserved;
};

/* In a zone: free bitmap, hole bitmap (1 bit a page, 64-bit words), padded to 64 bytes; in heap zones then one descriptor
 * a page; padded to a page; then the pages that extents are made of. The zone's own pages are never free. */
struct fmt_extent {
    uint64_t born;             /* stamped epoch words, see STAMP; born 0: never published */
    uint64_t dead;             /* stamp of epoch 0: alive; FMT_UNPUBLISHED from when it is taken until it is published */
    uint32_t pages;
    uint16_t shard;
    uint8_t class_;            /* of a chunk's blocks */
    uint8_t type;              /* FMT_EXTENT_CHUNK or FMT_EXTENT_VALUE */
    uint64_t link;             /* low 48 bits volatile: next in queue, or the version that published a value;
                                  high 16 bits: check of the 8 bytes before */
};
#define FMT_EXTENT_CHUNK 1u
#define FMT_EXTENT_VALUE 2u
#define FMT_LINK_MASK 0xffffffffffffull
#define FMT_UNPUBLISHED 0xffffffffffffffffull /* no stamp of epoch 0 anywhere, as a bare 0 is at one position in 65,536 */

/* A chunk: this header, the free bitmap (1 bit a block, 64-bit words), the epoch words (16 bytes a block), the blocks. */
struct fmt_chunk {             /* volatile */
    uint64_t next, prev;       /* chunk offsets in the list of `list`, 0 ends it */
    uint32_t live;             /* blocks holding a live record */
    uint32_t free;             /* allocatable blocks: bits set in the bitmap */
    uint32_t waiting;          /* dead blocks that a checkpoint may still need */
    uint32_t list;             /* 0 none, 1 available, 2 waiting */
    uint64_t waiting_epoch;    /* the oldest death among them */
    uint16_t shard;
    uint8_t class_;
    uint8_t order;             /* pages = 1 << order */
    uint32_t blocks;
    uint64_t hint;             /* no bitmap word below it has a free bit */
    uint64_t reserved;
};
struct fmt_epochs { uint64_t born, dead; };
#define FMT_CHUNK_ORDER_MAX 4u
#define FMT_LIST_NONE 0u
#define FMT_LIST_AVAILABLE 1u
#define FMT_LIST_WAITING 2u

/* A record: this header, then 8 bytes of expiry if FMT_RECORD_EXPIRY, then the key, then the value. */
struct fmt_record {
    uint32_t checksum;         /* low half of XXH3(value, seed = XXH3(key, hash_seed) + word + expiry) + place *
                                  FMT_PLACE_K, where word is the 8 bytes that follow with the place bits 0, read as an
                                  integer, and expiry is 0 if there is none */
    uint16_t key_length;
    uint8_t flags;             /* bits 0-2: order of the chunk, or FMT_RECORD_ALONE; bit 3: expiry follows */
    uint8_t value_length[5];
};
#define FMT_RECORD_HEADER 12u
#define FMT_RECORD_PLACE 7u
#define FMT_RECORD_ALONE 7u    /* the record has an extent of its own */
#define FMT_RECORD_EXPIRY 8u
#define FMT_PLACE_K 0x9e3779b1u
#define FMT_KEY_MAX 65535u
#define FMT_VALUE_MAX 0xffffffffffull

/* Index tables: one page. Line 0 is a header, lines 1 to 60 are home buckets, lines 61 to 63 the stash. */
struct fmt_bucket {
    uint64_t tags;             /* byte i (0-6): 7-bit tag of entry i, 0 = empty; top bits: overflow counts, see index.c;
                                  byte 7: access bits, outside log and version */
    uint64_t entry[7];         /* bits 0-42 record offset / 16; 43 displaced; 44-63 the 20 hash bits below the shard's */
};
#define FMT_BUCKETS 60u
#define FMT_STASH_LINE 61u
#define FMT_STASH_LINES 3u
#define FMT_ENTRIES 7u
#define FMT_TABLE_ENTRIES 441u         /* 63 lines of 7 */
#define FMT_DEPTH_MAX 20u
#define FMT_ENTRY_PLACE 0x7ffffffffffull
#define FMT_ENTRY_DISPLACED (1ull << 43)
struct fmt_table_header {
    uint64_t prefix;           /* the hash bits below the shard's that all its entries share, left-aligned in 20 bits */
    uint32_t depth;            /* how many of them */
    uint32_t shard;
    uint64_t stash_tags[3];    /* the 7-bit tags of the stash's entries: byte i of word k is entry i of line 61 + k */
    uint64_t reserved[3];
};
struct fmt_table {
    struct fmt_table_header header;
    struct fmt_bucket line[63]; /* line[i] is line i + 1 */
};

/* A shard, volatile, 8 KiB with its log. */
#define FMT_CLASSES 60u              /* in use, of 74 with room */
struct fmt_class {
    uint64_t available;        /* list of chunks with allocatable blocks */
    uint64_t waiting;          /* list of chunks with enough dead ones, oldest first */
    uint32_t pages;            /* in chunks of this class */
    uint32_t singles;          /* records of this class's size that have extents of their own */
};
#define FMT_SHARD_RESERVES 3u
#define FMT_SHARD_RELEASES 5u
#define FMT_DEPTH_EMBEDDED 6u         /* directories up to this depth lie in the shard itself */
struct fmt_shard {
    struct fmt_lockable l;
    uint64_t directory;        /* offset of an array of 1 << depth words, | depth (6 bits); 0: no index yet.
                                  A word of it: offset of a table | the table's depth */
    uint64_t reserve[FMT_SHARD_RESERVES]; /* extents taken from the allocator, not yet published; 0 = none */
    uint64_t release[FMT_SHARD_RELEASES]; /* extents to hand back after the commit: offset | pages if index, else 0 */
    uint64_t failed;           /* errno of what left it half-changed: nothing may use it before a recovery; 0 = none */
    uint64_t epoch;            /* of the last write */
    uint64_t count[2];         /* live records; [epoch & 1] is now, [(epoch - 1) & 1] as of the end of epoch - 1 */
    uint64_t sum[2];           /* sum of their checksums, likewise */
    uint64_t bytes;            /* keys and values of the live records */
    uint64_t tables;
    uint64_t chunks;
    uint64_t written;          /* bytes stored since the shard was made, about: a hint for checkpoints, not logged */
    uint64_t reserved[11];
    /* offset 256 */
    struct fmt_class class_[74];
    uint64_t tail_reserved[2];
    uint64_t embedded[1u << FMT_DEPTH_EMBEDDED];
    struct fmt_log log;
};

#define FMT_SIZE(type, size) static_assert(sizeof(struct type) == (size), #type " size")
#define FMT_AT(type, field, at) static_assert(offsetof(struct type, field) == (at), #type "." #field)
FMT_SIZE(fmt_superblock, 128);
FMT_AT(fmt_superblock, magic, 0);
FMT_AT(fmt_superblock, version, 8);
FMT_AT(fmt_superblock, page_size, 12);
FMT_AT(fmt_superblock, compat, 16);
FMT_AT(fmt_superblock, ro_compat, 24);
FMT_AT(fmt_superblock, incompat, 32);
FMT_AT(fmt_superblock, uuid, 40);
FMT_AT(fmt_superblock, hash_seed, 56);
FMT_AT(fmt_superblock, shard_count, 64);
FMT_AT(fmt_superblock, process_count, 68);
FMT_AT(fmt_superblock, created_ns, 72);
FMT_AT(fmt_superblock, zones_start, 80);
FMT_AT(fmt_superblock, reserved, 88);
FMT_AT(fmt_superblock, checksum, 120);
FMT_SIZE(fmt_slot, 136);
FMT_AT(fmt_slot, magic, 0);
FMT_AT(fmt_slot, epoch, 8);
FMT_AT(fmt_slot, file_length, 16);
FMT_AT(fmt_slot, record_count, 24);
FMT_AT(fmt_slot, record_sum, 32);
FMT_AT(fmt_slot, flags, 40);
FMT_AT(fmt_slot, time_ns, 48);
FMT_AT(fmt_slot, user_length, 56);
FMT_AT(fmt_slot, user_checksum, 64);
FMT_AT(fmt_slot, reserved, 72);
FMT_AT(fmt_slot, checksum, 120);
FMT_AT(fmt_slot, clean, 128);
FMT_SIZE(fmt_control, 4096);
FMT_AT(fmt_control, boot_id, 0);
FMT_AT(fmt_control, device, 16);
FMT_AT(fmt_control, inode, 24);
FMT_AT(fmt_control, birth_ns, 32);
FMT_AT(fmt_control, generation, 40);
FMT_AT(fmt_control, mounting, 48);
FMT_AT(fmt_control, epoch, 64);
FMT_AT(fmt_control, durable, 72);
FMT_AT(fmt_control, file_length, 80);
FMT_AT(fmt_control, clean, 88);
FMT_AT(fmt_control, failed, 92);
FMT_AT(fmt_control, checkpoint_lock, 128);
FMT_AT(fmt_control, checkpoint_futex, 132);
FMT_AT(fmt_control, attach_count, 136);
FMT_AT(fmt_control, checkpoint_count, 144);
FMT_AT(fmt_control, flushed_zones, 152);
FMT_AT(fmt_control, written, 160);
FMT_AT(fmt_control, flush_ns, 168);
FMT_AT(fmt_control, arrived, 176);
FMT_AT(fmt_control, expected, 180);
FMT_SIZE(fmt_process, 64);
FMT_AT(fmt_process, state, 0);
FMT_AT(fmt_process, incarnation, 4);
FMT_AT(fmt_process, pid, 8);
FMT_AT(fmt_process, start_ns, 16);
FMT_AT(fmt_process, reserved_extent, 24);
FMT_SIZE(fmt_log_entry, 16);
FMT_AT(fmt_log_entry, offset, 0);
FMT_AT(fmt_log_entry, old, 8);
FMT_SIZE(fmt_log, 5632);
FMT_AT(fmt_log, count, 0);
FMT_AT(fmt_log, transaction, 8);
FMT_AT(fmt_log, entry, 16);
FMT_SIZE(fmt_transaction, 24);
FMT_AT(fmt_transaction, magic, 0);
FMT_AT(fmt_transaction, committed, 8);
FMT_AT(fmt_transaction, words, 16);
FMT_AT(fmt_transaction, segments, 20);
FMT_SIZE(fmt_segment, 24);
FMT_AT(fmt_segment, count, 0);
FMT_AT(fmt_segment, entries, 8);
FMT_AT(fmt_segment, capacity, 16);
FMT_AT(fmt_segment, shard, 20);
FMT_SIZE(fmt_lockable, 16);
FMT_AT(fmt_lockable, lock, 0);
FMT_AT(fmt_lockable, waiting, 4);
FMT_AT(fmt_lockable, version, 8);
FMT_SIZE(fmt_allocator, 8192);
FMT_AT(fmt_allocator, l, 0);
FMT_AT(fmt_allocator, zone_count, 16);
FMT_AT(fmt_allocator, waiting_head, 24);
FMT_AT(fmt_allocator, waiting_tail, 32);
FMT_AT(fmt_allocator, waiting_pages, 40);
FMT_AT(fmt_allocator, free_pages, 48);
FMT_AT(fmt_allocator, last_zone, 56);
FMT_AT(fmt_allocator, intent_offset, 88);
FMT_AT(fmt_allocator, intent_pages, 96);
FMT_AT(fmt_allocator, intent_give, 104);
FMT_AT(fmt_allocator, harvesting, 112);
FMT_AT(fmt_allocator, failed, 120);
FMT_AT(fmt_allocator, log, 2560);
FMT_SIZE(fmt_zone, 32);
FMT_AT(fmt_zone, offset, 0);
FMT_AT(fmt_zone, pages, 8);
FMT_AT(fmt_zone, kind, 16);
FMT_AT(fmt_zone, checksum, 24);
FMT_SIZE(fmt_zone_state, 16);
FMT_AT(fmt_zone_state, free, 0);
FMT_AT(fmt_zone_state, run_max, 4);
FMT_AT(fmt_zone_state, hint, 8);
FMT_SIZE(fmt_extent, 32);
FMT_AT(fmt_extent, born, 0);
FMT_AT(fmt_extent, dead, 8);
FMT_AT(fmt_extent, pages, 16);
FMT_AT(fmt_extent, shard, 20);
FMT_AT(fmt_extent, class_, 22);
FMT_AT(fmt_extent, type, 23);
FMT_AT(fmt_extent, link, 24);
FMT_SIZE(fmt_chunk, 64);
FMT_AT(fmt_chunk, next, 0);
FMT_AT(fmt_chunk, prev, 8);
FMT_AT(fmt_chunk, live, 16);
FMT_AT(fmt_chunk, free, 20);
FMT_AT(fmt_chunk, waiting, 24);
FMT_AT(fmt_chunk, list, 28);
FMT_AT(fmt_chunk, waiting_epoch, 32);
FMT_AT(fmt_chunk, shard, 40);
FMT_AT(fmt_chunk, class_, 42);
FMT_AT(fmt_chunk, order, 43);
FMT_AT(fmt_chunk, blocks, 44);
FMT_AT(fmt_chunk, hint, 48);
FMT_SIZE(fmt_epochs, 16);
FMT_AT(fmt_epochs, born, 0);
FMT_AT(fmt_epochs, dead, 8);
FMT_SIZE(fmt_record, 12);
FMT_AT(fmt_record, checksum, 0);
FMT_AT(fmt_record, key_length, 4);
FMT_AT(fmt_record, flags, 6);
FMT_AT(fmt_record, value_length, 7);
FMT_SIZE(fmt_bucket, 64);
FMT_AT(fmt_bucket, tags, 0);
FMT_AT(fmt_bucket, entry, 8);
FMT_SIZE(fmt_table_header, 64);
FMT_AT(fmt_table_header, prefix, 0);
FMT_AT(fmt_table_header, depth, 8);
FMT_AT(fmt_table_header, shard, 12);
FMT_AT(fmt_table_header, stash_tags, 16);
FMT_SIZE(fmt_table, 4096);
FMT_AT(fmt_table, header, 0);
FMT_AT(fmt_table, line, 64);
FMT_SIZE(fmt_class, 24);
FMT_AT(fmt_class, available, 0);
FMT_AT(fmt_class, waiting, 8);
FMT_AT(fmt_class, pages, 16);
FMT_AT(fmt_class, singles, 20);
FMT_SIZE(fmt_shard, 8192);
FMT_AT(fmt_shard, l, 0);
FMT_AT(fmt_shard, directory, 16);
FMT_AT(fmt_shard, reserve, 24);
FMT_AT(fmt_shard, release, 48);
FMT_AT(fmt_shard, failed, 88);
FMT_AT(fmt_shard, epoch, 96);
FMT_AT(fmt_shard, count, 104);
FMT_AT(fmt_shard, sum, 120);
FMT_AT(fmt_shard, bytes, 136);
FMT_AT(fmt_shard, tables, 144);
FMT_AT(fmt_shard, chunks, 152);
FMT_AT(fmt_shard, written, 160);
FMT_AT(fmt_shard, class_, 256);
FMT_AT(fmt_shard, embedded, 2048);
FMT_AT(fmt_shard, log, 2560);

static_assert(FMT_PROCESSES_AT + FMT_PROCESSES * 64 == FMT_ALLOCATOR_AT, "allocator follows the processes");
static_assert(FMT_ZONES_AT + FMT_ZONES * 32 == FMT_ZONE_STATES_AT, "zone states follow the zones");
static_assert(FMT_ZONE_STATES_AT + FMT_ZONES * 16 == FMT_SHARDS_AT, "shards follow the zone states");

/* STAMP: an epoch word is a 48-bit epoch and a 16-bit check of epoch and position. FMT_STAMP_EPOCH_K is odd and such
 * that no single flipped bit leaves the check good (tests/format proves it for every bit). */
#define FMT_EPOCH_MASK 0xffffffffffffull
#define FMT_STAMP_EPOCH_K 0x9e3779b97f4a7c15ull
#define FMT_STAMP_PLACE_K 0xd6e8feb86659fd93ull
static inline uint64_t fmt_stamp(uint64_t epoch, uint64_t offset)
{
    uint64_t check = (epoch * FMT_STAMP_EPOCH_K + offset * FMT_STAMP_PLACE_K) >> 48;
    return (epoch & FMT_EPOCH_MASK) | check << 48;
}
static inline uint64_t fmt_epoch_of(uint64_t word) { return word & FMT_EPOCH_MASK; }
static inline int fmt_stamp_ok(uint64_t word, uint64_t offset) { return fmt_stamp(word & FMT_EPOCH_MASK, offset) == word; }

/* The check in the top 16 bits of fmt_extent.link, of the 8 bytes before it and the descriptor's position. */
static inline uint64_t fmt_extent_check(uint64_t word, uint64_t offset)
{
    return (word * FMT_STAMP_EPOCH_K + offset * FMT_STAMP_PLACE_K) >> 48 << 48;
}

/* How many blocks a chunk holds, and where its parts begin. */
static inline uint32_t fmt_chunk_epochs_at(uint32_t blocks) { return 64u + (8u * ((blocks + 63u) / 64u) + 15u) / 16u * 16u; }
static inline uint32_t fmt_chunk_blocks_at(uint32_t blocks) { return (fmt_chunk_epochs_at(blocks) + 16u * blocks + 63u) & ~63u; }
static inline uint32_t fmt_chunk_blocks(uint32_t order, uint32_t block_size)
{
    uint32_t bytes = FMT_PAGE << order, blocks = (bytes - 64u) / (block_size + 16u);
    while (blocks && fmt_chunk_blocks_at(blocks) + blocks * block_size > bytes) blocks--;
    return blocks;
}

/* Which bits of a key's hash mean what: the shard's on top, then 20 that directories go by and entries keep, then the
 * 7-bit tag (0 means empty, so 0 becomes 1). The home bucket comes from the low 24, apart from all of these. */
static inline uint32_t fmt_shard_of(uint64_t hash, uint32_t shard_bits) { return (uint32_t)(hash >> 1 >> (63 - shard_bits)); }
static inline uint32_t fmt_bits_of(uint64_t hash, uint32_t shard_bits) { return (uint32_t)(hash << shard_bits >> 44); }
static inline uint32_t fmt_tag_of(uint64_t hash, uint32_t shard_bits)
{
    uint32_t tag = (uint32_t)(hash << (shard_bits + 20) >> 57);
    return tag ? tag : 1;
}
/* Of fmt_lockable.waiting the bit that a key belongs to; the top 8 count. */
#define FMT_WAITING_BITS 24u
static inline uint32_t fmt_waiting_of(uint64_t hash) { return 1u << ((hash & 0xffffff) * FMT_WAITING_BITS >> 24); }
static inline uint32_t fmt_home_of(uint64_t hash) { return (uint32_t)((hash & 0xffffff) * FMT_BUCKETS >> 24); }

/* Size classes: 16 to 128 by 16, then eight to a doubling up to 4096, then what puts 15, 14, ... 4 blocks in 64 KiB. */
static inline uint32_t fmt_class_size(uint32_t class_)
{
    if (class_ < 8) return 16u * (class_ + 1);
    if (class_ < 48) {
        uint32_t doubling = (class_ - 8) / 8, step = 16u << doubling;
        return (128u << doubling) + step * ((class_ - 8) % 8 + 1);
    }
    uint32_t blocks = 15u - (class_ - 48);
    return ((FMT_PAGE << FMT_CHUNK_ORDER_MAX) - fmt_chunk_blocks_at(blocks)) / blocks & ~15u;
}

#endif
