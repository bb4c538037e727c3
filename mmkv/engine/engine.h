/* engine.h: what the engine's files share: the handle, the words of the trade, and each file's interface.
 *
 * Layers, each knowing only those below: entry.c | store.c attach.c fork.c | check.c repair.c recover.c checkpoint.c | commit.c | swap.c wait.c
 * | shard.c read.c scan.c | transaction.c | index.c heap.c | record.c pages.c holes.c | lock.c | map.c | os.c | error.c. fault.c stands beside
 * them: whoever is called from outside goes through its guards, and after a fault it has lock.c and pages.c undo what was under way. */
#ifndef MMKV_ENGINE_H
#define MMKV_ENGINE_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#include "format.h"
#include "mmkv.h"

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

enum {
    COPY_MAX_UNDER_LOCK = 32768, /* bytes; longer copies happen with no lock held (DESIGN section 3, R27) */
    READ_TRIES = 64,             /* optimistic reads before the lock is taken */
    INTERRUPTIBLE = 0x100,       /* flag of lock_word: a signal ends the wait with MMKV_INTERRUPTED */
    NO_GROWTH = 0x200,           /* flag of pages_take: MMKV_FULL, without more words, rather than a longer file */
    LOCK_NAP_MS = 20,            /* a waiter asks this often whether the owner is alive */
    LOOK_FOR_SIGNALS_MS = 200,   /* a wait that may be broken off is, this often: a signal between two naps ends neither */
    WAIT_LOOK_MS = 100           /* who waits for a change looks this often, lest the writer died before its wake */
};

/* The identity to which the volatile state belongs (DESIGN section 5). */
struct identity {
    uint8_t boot_id[16];
    uint64_t device, inode, birth_ns, generation, mounting;
};

struct mmkv_store {
    /* Read by every operation. `mapped` is published after `base` (release) and read before it (acquire): a stale base
     * stays valid up to every length it was ever mapped to, since old reservations are kept until close. */
    _Atomic(uint8_t *) base;
    _Atomic uint64_t mapped;
    uint8_t *head;               /* the fixed areas, in the first reservation */
    uint64_t seed;
    uint32_t shard_bits, shard_count;
    uint32_t me;                 /* lock word of this handle: slot | incarnation << 12 */
    int mode;
    bool writable;               /* stores go somewhere: the file, or this process's private pages */
    bool private_;               /* mode "p" */
    bool verify_reads;           /* reads ask for checksums */
    bool wary;                   /* every operation has to ask handle_refuses first: mode "p", or truncated */
    bool truncated;              /* found shorter than it was mapped; for good */
    bool shielded;               /* option `guard`, see map.c */
    bool whole_extents;          /* the file system gives back only whole reservations, see holes.c */
    uint64_t max_size;
    uint32_t lock_timeout_ms;
    /* Rarely used. */
    int fd;                      /* holds no lock except, for read-only openers, the one on the reader byte */
    int attach_fd;               /* while the attach lock is held, or wanted: its description; else -1 */
    uint32_t slot;
    _Atomic uint32_t kept;       /* bits of its words that name what no call wants any more, see reservation_end */
    void *slot_page;             /* the mapping that keeps the slot's lock */
    const struct fmt_control *shared_control; /* mode "p": the original's, to notice writers */
    uint64_t attach_seen;
    uint64_t zones_start;
    pthread_mutex_t map_mutex, file_mutex;
    struct reservation { uint8_t *base; uint64_t length, mapped; } reservations[24]; /* mapped: how far, ever */
    uint32_t reservation_count;
    int key;                     /* what shields the map: a protection key; or, -1, that it is read-only while */
    uint32_t storing;            /* this is 0: calls that may store; under map_mutex */
    struct identity identity;
    mmkv_progress progress;
    void *progress_context;
    struct repair *repair;       /* the handle is mmkv_repair's: what it finds is repaired, not trusted */
    struct mmkv_store *next;     /* all handles of this process, for fork */
    bool ready;                  /* open: before that, and from its close on, a forked child has no use for it */
    void *fork_page;             /* prepared for the child while fork is under way */
    uint32_t fork_slot, fork_me;
    int fork_fd;
    bool fork_failed;
    bool slotless;               /* a forked child for whom no process slot was left */
    char *path;                  /* absolute */
};

/* ---- error.c ---- */
int fail(int code, uint64_t offset, const char *format, ...) __attribute__((format(printf, 3, 4)));
int fail_os(const char *what);                       /* code MMKV_OS, or MMKV_FULL for ENOSPC, EDQUOT, EFBIG */
void fail_pid(uint64_t pid);
int fail_errno(int os_errno, const char *format, ...) __attribute__((format(printf, 2, 3))); /* code MMKV_OS */
void fail_again(const mmkv_failure *kept);
extern mmkv_hash_function engine_hash;
extern bool hash_calls_back;                         /* and so it is not asked for with a lock held (I21) */

/* ---- fault.c: a SIGBUS while the map is used is an error of the call, see there ---- */
struct guard {
    void *jump[5];               /* __builtin_setjmp's */
    struct guard *outer;
    mmkv_store *s;
    union {
        uint64_t holds;          /* 0: none of the following, to be known after one store */
        struct { uint32_t held_count; bool reserved, copied, committing; uint8_t shield; };
    };
    uint64_t fault;              /* offset in the file */
    uint64_t *reservation;       /* the word of the process slot that this call uses */
    void *scratch;               /* to be freed if the call is left by a jump */
    struct commit *commit;       /* a transaction, which keeps account of its shards' locks itself */
    struct held { uint32_t *word; uint32_t shards; } held[8]; /* locks, in order; neighbouring shards are one entry */
};
/* Reading it in the handler, or on the way to every key, must neither allocate nor call. */
#define FAULT_LOCAL _Thread_local __attribute__((tls_model("initial-exec")))
extern FAULT_LOCAL struct guard *guard_top;
enum { SHARD_STRIDE = sizeof(struct fmt_shard) / sizeof(uint32_t) };
/* Of a guard whose handle is shielded, while its call may store: until its last lock is let go, or until it ends. */
enum { SHIELD_LOCKS = 1, SHIELD_CALL = 2 };
void shield_new(mmkv_store *s);
void shield_enter(const mmkv_store *s) __attribute__((noinline, cold));
void shield_jumped(const mmkv_store *s);
int shield_open(mmkv_store *s, uint8_t until) __attribute__((noinline, cold));
void shield_close(struct guard *g) __attribute__((noinline, cold));

/* Run a call that uses the map of a handle. Its value is the call's, or, after a fault, the error's code. Nothing that the
 * call changed in the caller's own variables may be relied on afterwards, unless their address was given away. */
#define GUARDED(s, call) __extension__({                                \
    struct guard guard_;                                                \
    int code_;                                                          \
    guard_enter(&guard_, (s));                                          \
    if (likely(!__builtin_setjmp(guard_.jump))) code_ = (call);         \
    else code_ = guard_fault();                                         \
    guard_leave(&guard_);                                               \
    if (unlikely(code_ == MMKV_CORRUPT)) code_ = guard_doubt(&guard_); \
    code_; })
/* The same for one that stores to the map before it takes a lock, or after it has let go of its last: what only reads, or
 * reads and then takes a lock after all (lock_word sees to that), needs no more than GUARDED, and costs a shielded handle nothing. */
#define STORING(s, call) __extension__({ mmkv_store *s_ = (s); GUARDED(s_, may_store(s_, SHIELD_CALL) ?: (call)); })
static inline int may_store(mmkv_store *s, uint8_t until) { return likely(!s->shielded) ? 0 : shield_open(s, until); }

static inline void guard_enter(struct guard *g, mmkv_store *s)
{
    g->outer = guard_top;
    g->s = s;
    g->holds = 0;
    if (unlikely(s->shielded)) shield_enter(s);
    atomic_signal_fence(memory_order_seq_cst);
    guard_top = g;
}
static inline void guard_leave(struct guard *g)
{
    if (unlikely(g->shield)) shield_close(g);
    atomic_signal_fence(memory_order_seq_cst);
    guard_top = g->outer;
}
int guard_fault(void) __attribute__((noinline, cold));
int guard_doubt(const struct guard *g) __attribute__((noinline, cold));
/* The locks of the call: noted once taken, forgotten once let go. */
static inline void guard_hold(uint32_t *word)
{
    struct guard *g = guard_top;
    struct held *last = g->held_count ? &g->held[g->held_count - 1] : NULL;
    if (last && word == last->word + (size_t)last->shards * SHARD_STRIDE) { last->shards++; return; }
    assert(g->held_count < sizeof g->held / sizeof *g->held);
    g->held[g->held_count].word = word;
    g->held[g->held_count++].shards = 1;
}
static inline void guard_drop(uint32_t *word)
{
    struct guard *g = guard_top;
    struct held *last = &g->held[g->held_count - 1];
    assert(g->held_count && word == last->word + (size_t)(last->shards - 1) * SHARD_STRIDE); /* the last one taken */
    if (!--last->shards && !--g->held_count && unlikely(g->shield == SHIELD_LOCKS)) shield_close(g);
}
bool guard_locked(void);                             /* does this call hold a lock? */
void faults_catch(void);
void faults_forked(void);
int handle_refuses(mmkv_store *s);                   /* of one that is wary */
bool handle_control(const mmkv_store *s, const void *p, uint64_t *offset);
int handle_whole(mmkv_store *s);                     /* is the file as long as it was? */

/* ---- os.c: the only system calls ---- */
int os_open(const char *path, bool write, int *fd);                      /* never follows a symbolic link */
int os_create(const char *path, uint32_t permissions, int *fd, char **name);
void os_discard(char *name);
int os_publish(int fd, char *name, const char *path, bool replace, bool *exists); /* and make the name durable */
int os_reopen(int fd, bool write, int *again);                           /* another description of the same file */
void os_close(int fd);
int os_length(int fd, uint64_t *length);
int os_set_length(int fd, uint64_t length);
int os_read(int fd, void *buffer, size_t length, uint64_t offset, size_t *got);
int os_write(int fd, const void *buffer, size_t length, uint64_t offset);
int os_allocate(int fd, uint64_t offset, uint64_t length);
int os_punch(int fd, uint64_t offset, uint64_t length);                  /* MMKV_NOT_FOUND: the file system cannot */
int os_no_copy_on_write(int fd);
bool os_frees_whole_extents(int fd);
bool os_file_system_is_local(int fd, const char **name, const char **why);
int os_identity(int fd, struct identity *identity);
bool os_same_file(int fd, const struct identity *identity);
char *os_absolute(const char *path);                 /* NULL if it cannot be told */
int os_reserve(uint64_t length, uint8_t **base);
int os_map(uint8_t *at, uint64_t length, int fd, uint64_t offset, bool write, bool private_);
int os_map_anonymous(uint8_t *at, uint64_t length, bool write);
int os_protect(uint8_t *at, uint64_t length, bool write, int key);       /* key -1: none */
void os_untouch(uint8_t *at, uint64_t length);
int os_key_new(void);                                /* -1: there are none */
void os_key_set(int key, bool write);
bool os_key_readable(int key);
int os_map_page(int fd, uint64_t offset, void **page);
void os_unmap(void *at, uint64_t length);
int os_flush(const void *at, uint64_t length);
void os_read_ahead(int fd, uint64_t offset, uint64_t length);
int os_flush_file_start(int fd, uint64_t offset, uint64_t length);
int os_flush_file(int fd);
enum os_lock { OS_UNLOCK, OS_LOCK_READ, OS_LOCK_WRITE };
int os_lock(int fd, uint64_t offset, uint64_t length, enum os_lock kind, bool *got); /* waits for nobody */
int os_lock_held(int fd, uint64_t offset, uint64_t length, bool *held);  /* by another description */
int os_hold_byte(int fd, uint64_t offset, bool fork_shares, void **page, bool *got);
void os_release_byte(void *page);
void os_hold_in_child(void *page);
int os_wait(const uint32_t *word, uint32_t value, uint32_t milliseconds); /* 0, or MMKV_INTERRUPTED */
int os_wait_ns(const uint32_t *word, uint32_t value, uint64_t nanoseconds);
void os_wake(uint32_t *word, int count);
int os_wait_bits(const uint32_t *word, uint32_t value, uint32_t bits, uint64_t nanoseconds); /* until woken for one of them */
void os_wake_bits(uint32_t *word, uint32_t bits);    /* all who wait for one of them */
uint64_t os_now_ms(void);
uint64_t os_elapsed_ns(void);                        /* of a clock that only runs forward, like os_now_ms */
uint64_t os_now_ns(void);
uint64_t os_pid(void);
bool os_process_stopped(uint64_t pid);                /* as far as can be seen */
uint64_t os_stopped_holder(int fd, uint64_t offset);   /* the same, of one who holds a lock; 0: none */
int os_random(void *buffer, size_t length);
typedef void (*os_fault_handler)(int number, siginfo_t *info, void *context);
void os_catch_faults(os_fault_handler handler, struct sigaction *before);
void os_die_of_fault(bool sent);
bool os_readable(const void *p);
void os_at_fork(void (*prepare)(void), void (*parent)(void), void (*child)(void));
uint64_t os_map_page_size(void);

/* ---- map.c: from offset to pointer ---- */
int file_of(mmkv_store *s);                          /* the descriptor to use: see there */
int map_open(mmkv_store *s, uint64_t length);
void map_close(mmkv_store *s);
int map_to(mmkv_store *s, uint64_t length);
int map_more(mmkv_store *s, uint64_t length);
int map_all(mmkv_store *s);
void map_cut(mmkv_store *s, uint64_t length);
void map_forked(mmkv_store *s);
uint64_t offset_of(const mmkv_store *s, const void *p); /* the way back */
bool map_holds(const mmkv_store *s, const void *p, uint64_t *offset);

/* The one way from an offset to a pointer: NULL when [offset, offset + length) is not in the file. */
static inline void *at(mmkv_store *s, uint64_t offset, uint64_t length)
{
    uint64_t mapped = atomic_load_explicit(&s->mapped, memory_order_acquire);
    if (unlikely(offset > mapped || length > mapped - offset)) {
        if (map_more(s, offset + length)) return NULL;
        mapped = atomic_load_explicit(&s->mapped, memory_order_acquire);
        if (offset > mapped || length > mapped - offset) return NULL;
    }
    return atomic_load_explicit(&s->base, memory_order_relaxed) + offset;
}
static inline uint8_t *base_of(const mmkv_store *s) { return atomic_load_explicit(&s->base, memory_order_relaxed); }
/* The fixed areas are mapped from the start and never elsewhere: a lock is known by its address (guard_drop). */
static inline struct fmt_superblock *superblock_of(const mmkv_store *s) { return (void *)s->head; }
static inline struct fmt_control *control_of(const mmkv_store *s) { return (void *)(s->head + FMT_CONTROL_AT); }
static inline struct fmt_slot *slot_of(const mmkv_store *s, int i)
{
    return (void *)(s->head + (i ? FMT_SLOT_B_AT : FMT_SLOT_A_AT));
}
static inline struct fmt_process *process_of(const mmkv_store *s, uint32_t i)
{
    return (struct fmt_process *)(void *)(s->head + FMT_PROCESSES_AT) + i;
}
static inline struct fmt_allocator *allocator_of(const mmkv_store *s) { return (void *)(s->head + FMT_ALLOCATOR_AT); }
static inline uint64_t shard_at(uint32_t i) { return FMT_SHARDS_AT + (uint64_t)i * sizeof(struct fmt_shard); }
static inline struct fmt_shard *shard_of(const mmkv_store *s, uint32_t i) { return (void *)(s->head + shard_at(i)); }
static inline struct fmt_zone *zone_of(const mmkv_store *s, uint64_t i)
{
    return (struct fmt_zone *)(void *)(s->head + FMT_ZONES_AT) + i;
}
static inline struct fmt_zone_state *zone_state_of(const mmkv_store *s, uint64_t i)
{
    return (struct fmt_zone_state *)(void *)(s->head + FMT_ZONE_STATES_AT) + i;
}

/* ---- atomics: the one idiom for words in the map. All shared words are aligned. ---- */
static inline uint64_t load(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline uint64_t load_acquire(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline uint32_t load32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void store(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline void store_release(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void store32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
/* Do reads ask for checksums? By option; and of everybody once a flush has failed, since a page that the kernel takes for
 * written may come back from the disk as it was before. */
static inline bool reads_checked(const mmkv_store *s)
{
    return unlikely(s->verify_reads) || unlikely(load32(&control_of(s)->failed));
}
/* Some ten to fifty nanoseconds. */
static inline void pause_a_little(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb"); /* "yield" takes no time on most */
#endif
}
/* What a SIGKILL leaves is what the program stored, in order: the compiler's order is all that needs keeping. */
static inline void kill_fence(void) { atomic_signal_fence(memory_order_seq_cst); }

/* ---- lock.c: lock word, undo log, version ---- */
/* An operation on a locked shard or on the allocator. */
struct op {
    mmkv_store *s;
    uint8_t *base;               /* what pointers usually derive from, and how far it was mapped */
    uint64_t limit;
    struct fmt_lockable *l;
    uint64_t *count;             /* the log: how many entries there are, the entries, how many there may be */
    struct fmt_log_entry *entry;
    uint64_t capacity;
    struct fmt_shard *sh;        /* NULL: the allocator */
    uint64_t *spare, *spare_end; /* a transaction's: words for what it releases; else NULL, and the shard's own serve */
    uint64_t n;                  /* entries in the log */
    uint64_t epoch;              /* read once, after the lock was taken */
    uint32_t shard;
    unsigned flags;
    uint32_t changed;            /* for whom to look when the lock is let go, see wait.c */
};
int lock_word(mmkv_store *s, uint32_t *word, unsigned flags, uint32_t *dead);
void unlock_word(mmkv_store *s, uint32_t *word);
uint64_t wait_start(const uint32_t *word);           /* milliseconds */
int wait_broken_off(const uint32_t *word, uint64_t start); /* by a signal: MMKV_INTERRUPTED */
void wait_worked(uint64_t since);                    /* since then, at what may be done again after a wait */
int fail_held(mmkv_store *s, const uint32_t *word, uint32_t owner);
int fail_half_written(mmkv_store *s, uint32_t shard);
void lock_clear(uint32_t *word);                   /* unlock_word after a jump, whose guard knows already */
void distrust_memory(mmkv_store *s, int os_errno);
int op_rollback(struct op *op);
void op_fail(struct op *op);                         /* it can neither go on nor be undone */
int fail_unusable(mmkv_store *s, const struct fmt_shard *sh); /* NULL: the allocator */
static inline void op_log(struct op *op, uint64_t *count, struct fmt_log_entry *entry, uint64_t capacity)
{
    op->count = count;
    op->entry = entry;
    op->capacity = capacity;
    op->spare = NULL;
}
/* Before the first store of an operation: readers now wait for op_commit (pairs with read_begin). */
static inline void op_open(struct op *op, mmkv_store *s, struct fmt_lockable *l, struct fmt_log *log, unsigned flags)
{
    op->s = s;
    op->limit = atomic_load_explicit(&s->mapped, memory_order_acquire);
    op->base = base_of(s);
    op->l = l;
    op->flags = flags;
    op->changed = 0;
    op_log(op, &log->count, log->entry, FMT_LOG_ENTRIES);
}
static inline void op_begin(struct op *op)
{
    op->n = 0;
    store(&op->l->version, op->l->version + 1);
    atomic_thread_fence(memory_order_release); /* pairs with the acquire fence in read_valid */
}
/* The one way to change shared metadata: first the old value into the log, then the count, then the store. */
static inline void set(struct op *op, uint64_t *word, uint64_t value)
{
    struct fmt_log_entry *e = &op->entry[op->n];
    uint64_t offset = (uint64_t)((uint8_t *)word - op->base);
    if (unlikely(offset >= op->limit)) offset = offset_of(op->s, word);
    assert(op->n < op->capacity);
    store(&e->offset, offset);
    store(&e->old, *word);
    kill_fence();
    store(op->count, ++op->n);
    kill_fence();
    store(word, value);
    kill_fence();
}
static inline void op_commit(struct op *op)
{
    kill_fence();
    store_release(op->count, 0);
    kill_fence();
    store_release(&op->l->version, op->l->version + 1); /* pairs with read_begin */
}
/* Commit, or, when a step failed because the file contradicts itself, undo. */
static inline int op_end(struct op *op, int rc)
{
    if (unlikely(rc)) op_rollback(op);
    else op_commit(op);
    return rc;
}
/* Optimistic reading: *version must be even, and the same when read_valid looks again. */
static inline bool read_begin(const struct fmt_lockable *l, uint64_t *version)
{
    *version = load_acquire(&l->version);
    return !(*version & 1);
}
static inline bool read_valid(const struct fmt_lockable *l, uint64_t version)
{
    atomic_thread_fence(memory_order_acquire);
    return load(&l->version) == version;
}

/* ---- pages.c: zones, extents, the page allocator ---- */
struct zone {                    /* geometry of a zone */
    uint64_t offset, pages, first; /* `first`: the first page that extents may have */
    uint64_t *free, *holes;
    struct fmt_extent *extents;  /* NULL in index zones */
    uint64_t number;
    uint32_t kind;
};
int pages_take(mmkv_store *s, uint32_t kind, uint64_t *wanted, uint64_t least, uint64_t *word, uint64_t *offset, unsigned flags);
int pages_give(mmkv_store *s, uint64_t *word, unsigned flags);   /* hand back what a release or reserve word names */
int pages_share(struct op *a, bool *wanted);         /* whoever waits for the lock has it; if this fails it is not held */
int pages_settle(mmkv_store *s);                     /* collect what is waiting and durable, punch what is too much */
int pages_lock(mmkv_store *s, struct op *op, unsigned flags);
int pages_undo(struct op *a);
void pages_settle_owner(mmkv_store *s, uint32_t owner);
void pages_unlock(struct op *op);
int zone_get(mmkv_store *s, uint64_t i, struct zone *zone);
int zone_find(mmkv_store *s, uint64_t offset, struct zone *zone); /* the zone that holds an offset */
struct fmt_extent *extent_at(mmkv_store *s, uint64_t offset);    /* descriptor of a heap page, or NULL */
uint64_t zones_end(mmkv_store *s);
void zone_format(struct zone *zone);
uint64_t zones_valid(mmkv_store *s, uint64_t most, uint64_t length); /* how many entries of the table hold */
uint64_t zone_checksum(const mmkv_store *s, uint64_t i); /* what an entry's should be */
void zone_entry_write(mmkv_store *s, uint64_t i, uint64_t offset, uint64_t pages, uint32_t kind);
uint64_t next_bit(const uint64_t *bits, uint64_t from, uint64_t end, bool value);
void bits_set(uint64_t *bits, uint64_t from, uint64_t count, bool value);
static inline bool bit_get(const uint64_t *bits, uint64_t i) { return load(&bits[i >> 6]) >> (i & 63) & 1; }
static inline uint64_t bitmap_words(uint64_t pages) { return (pages + 63) / 64; }
static inline uint64_t pages_of(uint64_t bytes) { return (bytes + FMT_PAGE - 1) >> FMT_PAGE_SHIFT; }

/* ---- holes.c: space given back and reserved again ---- */
int holes_fill(mmkv_store *s, struct zone *zone, uint64_t page, uint64_t pages);
int holes_punch(struct op *a);                       /* the allocator's lock is let go now and then, and in the end */
int holes_punch_marked(mmkv_store *s);

/* ---- heap.c: chunks and blocks ---- */
struct block { uint64_t offset, chunk; uint32_t number; }; /* chunk 0: an extent of its own, `offset` its first byte */
uint32_t heap_class(uint64_t record_size);           /* FMT_CLASSES: too big for any */
bool heap_alone(const struct fmt_shard *sh, uint64_t record_size);
bool heap_single(const struct fmt_shard *sh, uint32_t class_, uint32_t more);
int heap_ready(struct op *op, uint32_t class_, uint32_t blocks); /* make sure that so many can be taken */
int heap_take(struct op *op, uint32_t class_, struct block *block); /* the next free one; marks it used */
int heap_locate(mmkv_store *s, uint32_t shard, uint64_t record, struct block *block, struct fmt_epochs **epochs,
                struct fmt_chunk **chunk);
int heap_kill(struct op *op, uint64_t record);       /* the record dies in op->epoch */
int heap_trim(struct op *op);                        /* give empty chunks back */
struct fmt_chunk *chunk_at(mmkv_store *s, uint64_t offset, uint32_t shard);
uint32_t chunk_list(const struct fmt_chunk *chunk);
void chunk_format(struct fmt_chunk *chunk, uint32_t shard, uint32_t class_, uint32_t order);
static inline uint64_t *chunk_bits(struct fmt_chunk *c) { return (uint64_t *)(void *)(c + 1); }
static inline struct fmt_epochs *chunk_epochs(struct fmt_chunk *c)
{
    return (struct fmt_epochs *)(void *)((uint8_t *)c + fmt_chunk_epochs_at(c->blocks));
}
/* Two 32-bit fields change as one logged word. */
static inline uint64_t pair(uint32_t low, uint32_t high) { return low | (uint64_t)high << 32; }
#define WORD(field) ((uint64_t *)(void *)&(field))
/* Is what a descriptor says about its extent what was written there? */
static inline bool extent_sealed(const struct fmt_extent *e, uint64_t e_at)
{
    return (e->link & ~FMT_LINK_MASK) == fmt_extent_check(*WORD(e->pages), e_at);
}

/* ---- index.c ---- */
struct place {                   /* where an entry is, or would go */
    uint64_t table;              /* offset; 0: no index yet */
    uint32_t depth, home, line, slot; /* line 1-60 bucket, 61-63 stash */
    uint64_t record;             /* offset */
};
int index_find(mmkv_store *s, struct fmt_shard *sh, uint64_t hash, const void *key, size_t key_length,
               struct place *place);
int index_room(mmkv_store *s, struct fmt_shard *sh, uint64_t hash, struct place *place); /* MMKV_FULL: split first */
bool index_roomy(mmkv_store *s, uint64_t table, uint32_t more); /* is there likely room for so many? */
int index_split(struct op *op, uint64_t hash);
int index_merge(struct op *op, uint64_t hash);
int index_reset(struct op *op);
void index_insert(struct op *op, uint64_t hash, const struct place *place, uint64_t record);
void index_insert_alone(mmkv_store *s, uint64_t hash, const struct place *place, uint64_t record); /* unlogged */
void index_replace(struct op *op, uint64_t hash, const struct place *place, uint64_t record);
void index_remove(struct op *op, uint64_t hash, const struct place *place);
int index_table(mmkv_store *s, struct fmt_shard *sh, uint32_t bits, uint64_t *table, uint32_t *depth);
struct fmt_table *table_at(mmkv_store *s, uint64_t offset);
bool table_is(const struct fmt_table *t, const struct fmt_shard *sh, uint32_t shard, uint32_t depth, uint32_t bits);
struct index_item { uint32_t bits, line, slot; uint64_t record; };
uint32_t table_items(const struct fmt_table *table, struct index_item items[FMT_TABLE_ENTRIES]);
uint32_t table_stash_tag(const struct fmt_table *table, const struct index_item *item);
uint64_t table_hash(mmkv_store *s, const struct fmt_table *table, const struct index_item *item, uint32_t shard);
uint32_t table_miscounted(const struct fmt_table *table);

/* ---- wait.c ---- */
static inline void shard_changed(struct op *op, uint64_t hash) { op->changed |= fmt_waiting_of(hash); }
void shard_wake(struct fmt_lockable *l, uint32_t changed);
int shard_wait(mmkv_store *s, uint64_t hash, const void *key, size_t key_length, const void *old, size_t old_length,
               mmkv_waiting *w);
/* Between letting a lock go and a look at who waits. The exchange of unlock_word is a full barrier on x86. */
static inline void fence_after_unlock(void)
{
#if defined(__x86_64__)
    atomic_signal_fence(memory_order_seq_cst);
#else
    atomic_thread_fence(memory_order_seq_cst);
#endif
}

/* Once the lock has been let go. */
static inline void wake_waiting(const struct op *op)
{
    fence_after_unlock(); /* pairs with the fence in shard_wait */
    if (unlikely(load32(&op->l->waiting) & op->changed)) shard_wake(op->l, op->changed);
}

/* ---- read.c ---- */
int read_copy(mmkv_store *s, uint64_t hash, const void *key, size_t key_length, void *buffer, size_t capacity,
              size_t *value_length, unsigned flags, struct place *p, uint64_t *link);
int read_same(mmkv_store *s, uint64_t hash, const void *key, size_t key_length, const void *expected, size_t expected_length,
              bool *same, unsigned flags, struct place *p, uint64_t *link);
uint64_t published(mmkv_store *s, const struct place *p);
bool still_there(mmkv_store *s, struct fmt_shard *sh, uint64_t hash, const void *key, size_t key_length, const struct place *p,
                 uint64_t link);
int shard_stale(mmkv_store *s);                      /* has the handle become useless since? */
uint64_t shard_records(mmkv_store *s);               /* in all of them */

/* ---- shard.c ---- */
int shard_lock(mmkv_store *s, uint32_t shard, struct op *op, unsigned flags);
void shard_unlock(struct op *op);
int read_only(mmkv_store *s);                        /* 0: it may write */
int key_ready(mmkv_store *s, uint64_t hash, const void *key, size_t key_length, unsigned flags);
/* What a new record needs to know before any lock. */
struct draft {
    const void *key, *value;
    size_t key_length, value_length;
    uint64_t hash, word, size;   /* word: the 8 header bytes after the checksum, place 0 */
    uint32_t sum;                /* checksum, place 0 */
    uint64_t *reservation;       /* an extent of its own: where it is noted, and where it is */
    uint64_t extent;
};
int draft_begin(mmkv_store *s, struct draft *d, uint64_t hash, const void *key, size_t key_length, const void *value,
                size_t value_length, unsigned flags);
int draft_fill(mmkv_store *s, const struct draft *d);
int draft_place(struct op *op, const struct draft *d, uint64_t *record, uint32_t *sum);
int draft_link(struct op *op, const struct draft *d, const struct place *p, bool found, uint64_t record, uint32_t sum);
int unlink_at(struct op *op, uint64_t hash, const struct place *p);
int draft_make(mmkv_store *s, struct draft *d, uint64_t hash, const void *key, size_t key_length, const void *value,
               size_t value_length, unsigned flags);
int draft_drop(mmkv_store *s, struct draft *d, bool published, int code, unsigned flags);
/* Of a locked shard; each one operation, and those that make room before it. */
int put_locked(struct op *op, struct draft *d, unsigned flags);
int put_at(struct op *op, struct draft *d, struct place *p, bool found);
int remove_at(struct op *op, uint64_t hash, const struct place *p);
int shrink(struct op *op, uint64_t hash);
int expected_there(struct op *op, uint64_t hash, const void *key, size_t key_length, const void *expected,
                   size_t expected_length, const struct place *compared, uint64_t link, struct place *p, bool *same);
/* What entry.c offers as mmkv_*. */
int shard_get(mmkv_store *s, uint64_t hash, const void *key, size_t key_length, void *buffer, size_t capacity,
              size_t *value_length, unsigned flags);
void shard_prefetch(mmkv_store *s, uint64_t hash, int stage);
int shard_put(mmkv_store *s, uint64_t hash, const void *key, size_t key_length, const void *value, size_t value_length,
              unsigned flags);
int shard_delete(mmkv_store *s, uint64_t hash, const void *key, size_t key_length, void *buffer, size_t capacity,
                 size_t *value_length, unsigned flags);
int shard_swap(mmkv_store *s, uint64_t hash, const void *key, size_t key_length, const void *expected, size_t expected_length,
               const void *value, size_t value_length, unsigned flags, int *done);
int shard_incr(mmkv_store *s, uint64_t hash, const void *key, size_t key_length, int64_t delta, int64_t initial, unsigned flags,
               int64_t *result);
int shard_clear(mmkv_store *s);
int shard_scan(mmkv_store *s, uint64_t *cursor, void *buffer, size_t capacity, size_t *used, int with_values,
               size_t value_limit, unsigned flags);
int shard_finish(struct op *op);                     /* after a commit: hand back what it released */
void shard_roll(struct op *op);                      /* counters: begin op->epoch */
int shard_settle(mmkv_store *s, uint32_t owner);     /* whatever a dead owner held */

/* ---- transaction.c ---- */
struct fmt_transaction *transaction_at(mmkv_store *s, uint64_t offset);
static inline uint64_t *transaction_words(struct fmt_transaction *t) { return (uint64_t *)(void *)(t + 1); }
int transaction_take(mmkv_store *s, uint64_t words, uint64_t segments, uint64_t entries, uint64_t **word,
                     uint64_t *offset, struct fmt_transaction **transaction, unsigned flags);
void transaction_segment(struct fmt_transaction *t, uint32_t number, uint32_t shard, uint64_t before, uint32_t capacity);
void transaction_begin(struct op *op, struct fmt_transaction *t, uint64_t offset, uint32_t number);
void transaction_mark(struct fmt_transaction *t);
void transaction_end(struct op *op);
int transaction_undo(struct op *op);                 /* whatever a locked shard has under way */
int reservation_take(mmkv_store *s, uint64_t pages, uint64_t **word, uint64_t *offset, unsigned flags);
int reservation_give(mmkv_store *s, uint64_t *word, unsigned flags);
int reservation_end(mmkv_store *s, uint64_t *word, int code, unsigned flags);

/* ---- commit.c ---- */
struct commit;
/* After a fault: the lock that was taken last, NULL if none is left; undo or complete what its shard has under way. */
uint32_t *commit_last(const struct commit *c);
int commit_settle(struct commit *c);
void commit_forget(struct commit *c);

/* ---- record.c ---- */
struct seal { uint64_t word, expiry; uint32_t sum; }; /* of a record: what its checksum covers besides key and value */
struct view { struct seal seal; const uint8_t *key; uint64_t key_length, value_length, size; };
bool record_view(mmkv_store *s, uint64_t offset, struct view *view);
/* No record has these: the checksum of an empty key and value is 0 in one of four billion files. */
static inline bool view_zeros(const struct view *v) { return !v->seal.sum && !v->seal.word; }
bool record_of(mmkv_store *s, uint64_t offset, const struct fmt_record **record, uint64_t *size);
uint32_t record_sum(uint64_t key_hash, uint64_t word, uint64_t expiry, const void *value, size_t value_length);
static inline uint32_t with_place(uint32_t sum, uint32_t place) { return sum + place * FMT_PLACE_K; }
bool record_good(const struct view *view, uint64_t key_hash);
bool record_sound(mmkv_store *s, uint64_t offset);
bool record_check(mmkv_store *s, const struct fmt_record *r, uint64_t *key_hash);
int record_copy(mmkv_store *s, uint64_t offset, void *buffer, size_t capacity, size_t *value_length, struct seal *seal);
int record_same(mmkv_store *s, uint64_t offset, const void *expected, size_t expected_length, size_t *value_length, bool *same,
                struct seal *seal);
int record_copied(mmkv_store *s, uint64_t offset, uint64_t hash, const void *key, size_t key_length, const void *value,
                  size_t value_length, const struct seal *seal);
int record_damaged(mmkv_store *s, uint64_t offset, const void *key, size_t key_length);
static inline uint64_t record_value_length(const struct fmt_record *r)
{
    uint64_t word;
    memcpy(&word, (const uint8_t *)r + 4, 8);
    return word >> 24;
}
static inline const uint8_t *record_key(const struct fmt_record *r)
{
    return (const uint8_t *)r + FMT_RECORD_HEADER + (r->flags & FMT_RECORD_EXPIRY ? 8 : 0);
}

/* ---- checkpoint.c ---- */
int checkpoint(mmkv_store *s, uint64_t *epoch);
bool checkpoint_wanted(mmkv_store *s);               /* has anything been written since the last one? */
int checkpoint_sync(mmkv_store *s, int wait, uint64_t *epoch);
void checkpoint_unlock(mmkv_store *s);               /* for a leader that was broken off */
int checkpoint_mark_dirty(mmkv_store *s);
int checkpoint_mark_clean(mmkv_store *s);
bool checkpoint_marked_clean(mmkv_store *s);
int checkpoint_flush(mmkv_store *s, const void *p, uint64_t length); /* a failure is never forgotten */
int checkpoint_rewrite(mmkv_store *s);               /* after recovery: everything, if a flush had failed */
int slot_write(mmkv_store *s, int which, const struct fmt_slot *values);
bool slot_valid(const mmkv_store *s, int which);
bool slot_clean(const mmkv_store *s, int which);
int slot_newest(const mmkv_store *s);                /* -1: none is valid */
/* Called before the first lock of every write. */
static inline int write_ready(mmkv_store *s, unsigned flags)
{
    if (unlikely(load32(&control_of(s)->clean))) {
        if (flags & MMKV_NO_WAIT) return MMKV_WOULD_BLOCK;
        return checkpoint_mark_dirty(s);
    }
    return 0;
}

/* ---- recover.c, repair.c ---- */
/* A repair: whom it tells what it finds, and, for each shard, what it counted. */
struct repair {
    mmkv_problem problem;
    void *context;
    uint64_t records;            /* live and whole: what is left when it is done */
    uint64_t count[FMT_SHARDS_MAX], sum[FMT_SHARDS_MAX];
    uint64_t lost[FMT_SHARDS_MAX]; /* records that may have been live, told and left out */
};
/* A walk over everything that may be live at C. */
struct recovery {
    mmkv_store *s;
    uint64_t c;
    uint64_t count, sum;         /* of what was live and whole */
    uint64_t done, expected, told; /* for progress */
    struct repair *repair;       /* NULL: damage ends the walk */
    bool look;                   /* nothing is stored */
    bool touched;                /* a durable word was changed */
    uint64_t ahead;              /* how far the kernel was asked to read */
    uint64_t flush[FMT_ZONES / 64]; /* zones with changed durable words */
};
int recover(mmkv_store *s, struct repair *repair);
int recover_zone(struct recovery *r, uint64_t i);
int check_reaches(uint64_t physical, uint64_t length); /* is the file as long as its checkpoint needs? */
int damage(struct recovery *r, const char *kind, const void *key, size_t key_length, uint64_t offset, const char *format, ...)
    __attribute__((format(printf, 6, 7)));
int repair_alone(mmkv_store *s, uint64_t physical, bool same_boot);
int repair_superblock(int fd, struct repair *repair);

/* ---- store.c, check.c, attach.c, fork.c ---- */
int store_stats(mmkv_store *s, mmkv_stats *stats);
int check_totals(mmkv_store *s, bool *good);         /* live count and sum against the shards' counters */
int attach_check_place(int fd, bool any_file_system); /* MMKV_FILE_SYSTEM */
int attach(mmkv_store *s, int mode, bool any_file_system);
int attach_wait(int fd, enum os_lock kind, uint32_t timeout_ms);
int attach_lock(mmkv_store *s, enum os_lock kind);
bool attach_lock_now(mmkv_store *s);
int attach_unlock(mmkv_store *s);                    /* also if it is not held */
int detach(mmkv_store *s, int checkpoint);
int slot_take(mmkv_store *s, bool fork_shares, void **page, uint32_t *slot);
void slot_sign(mmkv_store *s);
void slot_own(mmkv_store *s, uint32_t slot);
int settle_dead(mmkv_store *s, bool all);
void fork_forbid(void);                              /* until fork_allow: no handle comes or goes either */
void fork_allow(void);
void handle_register(mmkv_store *s);                 /* for fork: before anything is opened or locked */
void handle_ready(mmkv_store *s, bool ready);
void handle_forget(mmkv_store *s);
bool slot_alive(mmkv_store *s, uint32_t slot);
int handle_name(mmkv_store *s, uint32_t *handle, uint64_t *start_ns);
int handle_alive(mmkv_store *s, uint32_t handle, uint64_t start_ns, int *alive);
bool slot_stopped(mmkv_store *s, uint32_t slot);

#endif
