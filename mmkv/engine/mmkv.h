/* mmkv.h: the engine's whole public interface, and all that the bindings see of it.
 *
 * Every function that returns int returns 0 for success or one of the codes below; mmkv_failure_get() then describes
 * the last failure on this thread. Functions may be called from any thread of any process that holds the handle open;
 * only mmkv_close() wants that no other call on the handle is running. The engine knows nothing of Python.
 *
 * The part between the two CDEF lines is given to cffi as it stands: no macros, no includes there. */
#ifndef MMKV_H
#define MMKV_H

#include <stddef.h>
#include <stdint.h>

/* CDEF BEGIN */
enum mmkv_code {
    MMKV_OK = 0,
    MMKV_NOT_FOUND = 1,      /* no such key; or, for iteration, no more */
    MMKV_EXISTS = 2,         /* MMKV_ADD of a key that is there */
    MMKV_SHORT = 3,          /* the caller's buffer is too small; the length needed is reported */
    MMKV_WOULD_BLOCK = 4,    /* MMKV_NO_WAIT was given and the call would have to wait, or copy much */
    MMKV_FULL = 5,           /* no room: disk, max_size, or the format's limit */
    MMKV_CORRUPT = 6,        /* the file contradicts itself */
    MMKV_NOT_A_STORE = 7,    /* some other file */
    MMKV_VERSION = 8,        /* made by a version, or with a feature, that this one does not know */
    MMKV_LOCK_TIMEOUT = 9,   /* a live process holds a lock for longer than the timeout */
    MMKV_READ_ONLY = 10,     /* a write through a read-only handle */
    MMKV_INVALID = 11,       /* an argument out of range */
    MMKV_OS = 12,            /* a system call failed: os_errno */
    MMKV_NO_MEMORY = 13,
    MMKV_INTERRUPTED = 14,   /* a signal came while waiting, or may have: handle it and call again */
    MMKV_NEEDS_RECOVERY = 15,/* a read-only open of a store that only a writer may recover */
    MMKV_IN_USE = 16,        /* a mode that wants to be alone is not */
    MMKV_STALE = 17,         /* a private copy whose original has been opened for writing since */
    MMKV_STOPPED = 18,       /* a progress callback asked to stop */
    MMKV_FILE_SYSTEM = 19,   /* the file lies where processes may not share it, or space may not stay reserved */
    MMKV_RANGE = 20,         /* a counter would leave the range of 64 bits */
    MMKV_NOT_A_NUMBER = 21,  /* a counter's value is not 8 bytes long */
    MMKV_TIMEOUT = 22,       /* nothing has changed in the time given */
    MMKV_CONFLICT = 23       /* what a transaction has read has been changed since */
};

typedef struct mmkv_store mmkv_store;

/* What went wrong last on this thread. `text` says what and where; `offset` is the file position or 0;
 * `pid` the process that holds a lock, or 0. */
typedef struct mmkv_failure {
    int code;
    int os_errno;
    uint64_t offset;
    uint64_t pid;
    char text[256];
} mmkv_failure;

enum mmkv_mode { MMKV_MODE_READ = 0, MMKV_MODE_WRITE = 1, MMKV_MODE_CREATE = 2, MMKV_MODE_NEW = 3, MMKV_MODE_PRIVATE = 4 };

typedef int (*mmkv_progress)(void *context, uint64_t done, uint64_t total); /* in records; returns non-zero to stop */

typedef struct mmkv_options {
    int mode;                  /* enum mmkv_mode */
    uint32_t shards;           /* for a store being made: a power of two up to 1024; 0 = 64 */
    uint64_t max_size;         /* bytes the file may grow to; 0 = no limit */
    uint32_t permissions;      /* of a file being made, as for open(2); 0600 is usual */
    uint32_t lock_timeout_ms;  /* 0 = 10,000 */
    int verify_reads;          /* non-zero: every read checks the record's checksum; MMKV_CORRUPT names the key */
    int any_file_system;       /* non-zero: do not refuse file systems that are not known to be local */
    int guard;                 /* non-zero: other code's stores to the map are SIGSEGV while no call that stores is under way */
    mmkv_progress progress;    /* called during recovery, or NULL */
    void *progress_context;
} mmkv_options;

typedef struct mmkv_stats {
    uint64_t records, data_bytes;          /* live records; bytes of their keys and values */
    uint64_t file_bytes, hole_bytes;       /* length of the file; how much of it is given back to the file system */
    uint64_t free_bytes, waiting_bytes;    /* whole pages: reusable now; after a checkpoint */
    uint64_t heap_bytes, index_bytes;      /* zones of each kind */
    uint64_t chunks, tables, zones;
    uint64_t epoch, durable_epoch, checkpoints;
    uint32_t shards, attached;             /* attached: handles open for writing, in all processes */
    uint64_t created_ns;
    uint64_t hash_seed;
    uint8_t uuid[16];
} mmkv_stats;

/* Give the engine its hash: XXH3_64bits_withSeed or a function that returns the same. Before any other call. One that
 * calls back, into an interpreter, must never be left by a jump: it is given copies of what lies in the file. */
typedef uint64_t (*mmkv_hash_function)(const void *data, size_t length, uint64_t seed);
void mmkv_set_hash(mmkv_hash_function hash, int calls_back);

/* SIGBUS inside the engine becomes MMKV_CORRUPT or MMKV_OS. mmkv_open and slow calls see to it that the handler is the
 * first; to be called also when somebody else may have installed one. Other faults go to the handlers of before. */
void mmkv_catch_faults(void);

const mmkv_failure *mmkv_failure_get(void);

/* Open the store at `path`. On success *store is to be closed by mmkv_close. */
int mmkv_open(const char *path, const mmkv_options *options, mmkv_store **store);
/* Close. With `checkpoint` non-zero make what was written durable first; the last writer out then also marks the file
 * clean. The handle is gone whatever is returned. */
int mmkv_close(mmkv_store *store, int checkpoint);

/* Flags of the operations below. */
enum mmkv_flag {
    MMKV_NO_WAIT = 1,          /* return MMKV_WOULD_BLOCK rather than wait, grow the file or copy over 32 KiB */
    MMKV_ADD = 2,              /* put: only if absent, else MMKV_EXISTS */
    MMKV_REPLACE = 4           /* put: only if present, else MMKV_NOT_FOUND */
};

/* The hash of a key, to be handed to the operations (so that it is computed once, and before any lock). */
uint64_t mmkv_hash(const mmkv_store *store, const void *key, size_t key_length);
/* Hints that a lookup of this hash comes soon: stage 0 fetches its index line, stage 1 (a while later) its record. */
void mmkv_prefetch(mmkv_store *store, uint64_t hash, int stage);

/* Copy the value of a key into `buffer` if it fits in `capacity`; *value_length is its length in either case
 * (0 or MMKV_SHORT). The copy is never torn. */
int mmkv_get(mmkv_store *store, uint64_t hash, const void *key, size_t key_length, void *buffer, size_t capacity,
             size_t *value_length, unsigned flags);
int mmkv_contains(mmkv_store *store, uint64_t hash, const void *key, size_t key_length, unsigned flags);
/* Store a value. */
int mmkv_put(mmkv_store *store, uint64_t hash, const void *key, size_t key_length, const void *value,
             size_t value_length, unsigned flags);
/* Remove a key. With a buffer the removed value is copied to it, atomically with the removal; if it does not fit,
 * nothing is removed and MMKV_SHORT returned. `buffer` NULL: the value is not wanted. */
int mmkv_delete(mmkv_store *store, uint64_t hash, const void *key, size_t key_length, void *buffer, size_t capacity,
                size_t *value_length, unsigned flags);
/* Exchange a value for another if it is the expected one: *done says whether it was. NULL stands for "absent" on either
 * side; of two that are both absent nothing is changed, and *done says whether the key is. */
int mmkv_swap(mmkv_store *store, uint64_t hash, const void *key, size_t key_length, const void *expected,
              size_t expected_length, const void *value, size_t value_length, unsigned flags, int *done);
/* Add to a counter: a signed 64-bit integer, 8 bytes little-endian. An absent one counts as `initial`. *result is the sum. */
int mmkv_incr(mmkv_store *store, uint64_t hash, const void *key, size_t key_length, int64_t delta, int64_t initial,
              unsigned flags, int64_t *result);
/* Wait until the value of a key is another one than `old` (NULL: absent), asleep. 0: it is, or has been since; to be read
 * by mmkv_get. MMKV_WOULD_BLOCK: it has not been seen to change yet, after a tenth of a second at most: call again.
 * MMKV_TIMEOUT: nor will this call any more. *w is zeros and a timeout before the first call. */
typedef struct mmkv_waiting {
    uint64_t timeout_ns;       /* UINT64_MAX: for ever */
    uint64_t deadline_ns, record, link; /* the engine's */
} mmkv_waiting;
int mmkv_wait(mmkv_store *store, uint64_t hash, const void *key, size_t key_length, const void *old, size_t old_length,
              mmkv_waiting *w);
/* The name of a handle open for writing, which no other of this store has or ever had. And whether the handle of a name is
 * open, in a process that lives. */
int mmkv_me(mmkv_store *store, uint32_t *handle, uint64_t *start_ns);
int mmkv_alive(mmkv_store *store, uint32_t handle, uint64_t start_ns, int *alive);
/* A key of a transaction, with its hash: as it was read, or what is to be written. `value` NULL stands for "absent". */
typedef struct mmkv_item {
    uint64_t hash;
    const void *key, *value;
    size_t key_length, value_length;
} mmkv_item;
enum mmkv_limit { MMKV_ITEMS_MAX = 0xffffff };
/* Everything that is to be written is, at one moment at which everything that was read is as it was; or nothing is, and the
 * code says why: MMKV_CONFLICT when something was not. Each key comes at most once in `writes`, and once in `reads`. */
int mmkv_commit(mmkv_store *store, const mmkv_item *reads, size_t read_count, const mmkv_item *writes, size_t write_count,
                unsigned flags);
/* Remove every record, shard by shard (bounded steps, not one atomic one). */
int mmkv_clear(mmkv_store *store);
/* Live records; exact when nobody writes. */
int mmkv_count(mmkv_store *store, uint64_t *records);

/* Iteration in the order of the hash. *cursor starts at 0. Each call appends to `buffer` whole steps: items of
 *   uint32 key length, uint32 0, uint64 value length, key bytes, value bytes (with_values and value length <=
 *   value_limit only; longer ones are to be fetched with mmkv_get), each item padded to 8 bytes.
 * *used is the bytes written. MMKV_NOT_FOUND: the end was reached before anything was written. MMKV_SHORT: not even one
 * step fits; *used is the capacity to come back with. A key present from the first call to the last is delivered
 * exactly once whatever else happens meanwhile. */
int mmkv_scan(mmkv_store *store, uint64_t *cursor, void *buffer, size_t capacity, size_t *used, int with_values,
              size_t value_limit, unsigned flags);

/* Checkpoint: what every process had written before the call is durable when it returns 0. *epoch, 0 before the call, is
 * the checkpoint's; after MMKV_INTERRUPTED it is to be passed on as it is. wait = 0 only starts write-back, promises nothing,
 * and reports the epoch being written. */
int mmkv_sync(mmkv_store *store, int wait, uint64_t *epoch);
/* The epoch being written, and the last one known to be durable. */
int mmkv_epochs(mmkv_store *store, uint64_t *now, uint64_t *durable);

int mmkv_stats_get(mmkv_store *store, mmkv_stats *stats);

/* Check everything: checksums of all live records, index, descriptors, counters, free maps. Each problem is told to
 * `problem` (kind is a short fixed word; key may be NULL); *records is the number of live records seen. Returns 0 when
 * the walk was completed, whatever it found. */
typedef void (*mmkv_problem)(void *context, const char *kind, const void *key, size_t key_length, uint64_t offset,
                             const char *text);
int mmkv_verify(mmkv_store *store, mmkv_progress progress, mmkv_problem problem, void *context, uint64_t *records);

/* Repair the store at `path`, which nobody may have open: everything volatile is made anew; what is damaged beyond that is
 * set right where it can be known, else left out. Each such thing is told to `problem` before anything is changed for it;
 * *records is the number of records left. MMKV_CORRUPT: more would be lost than can be told, and nothing was changed. Of
 * `options` mode, shards, max_size and permissions are not looked at. */
int mmkv_repair(const char *path, const mmkv_options *options, mmkv_problem problem, void *context, uint64_t *records);

/* For one who reads the bytes of a file that nobody is attached to: is what they say of the memory to be believed? `control`
 * is the control area as read from `fd`; *same: it was left by this boot, in this very file, and no flush has failed. */
int mmkv_same_memory(int fd, const void *control, int *same);

/* The layout as compiled, for the test that compares it with docs/format.md: number `i` of all pinned fields as
 * "structure.field" with its offset ("structure" alone: its size), then values of the formulas as "formula(argument)".
 * Returns 0 past the last. */
int mmkv_layout(size_t i, char *name, size_t name_capacity, uint64_t *value);
/* CDEF END */

#endif
