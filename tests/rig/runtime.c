/* runtime.c: the callbacks of the instrumented engine, and the system calls it makes. See runtime.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/falloc.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "format.h"
#include "runtime.h"

enum { REGIONS = 512, WATCHED = 16, LONG_COPY = 1024, LONG_STEP = 64 };

struct rig_hooks rig_hooks;

/* Writable shared mappings, whoever's file it is: a file may be watched after it was mapped. */
static struct region { uint8_t *base; uint64_t length, offset; dev_t device; ino_t inode; } regions[REGIONS];
static uint32_t region_count;
static uintptr_t lowest = UINTPTR_MAX, highest;

static struct watched { void *file; dev_t device; ino_t inode; uint64_t boot; } watched[WATCHED];
static uint32_t watched_count;
static uint64_t boots;

/* ---- chance and time ---- */

static uint64_t chance = 1, clock_ns = 1700000000000000000ull, slept_ns;
static bool simulated;

void rig_simulate_waiting(void) { simulated = true; }
uint64_t rig_slept_ns(void) { return slept_ns; }
void rig_pass_ns(uint64_t ns) { clock_ns += ns; }

void rig_seed(uint64_t seed)
{
    chance = seed * 0x9e3779b97f4a7c15ull ^ 0x2545f4914f6cdd1dull;
    for (int i = 0; i < 8; i++) rig_random(2);
}

uint32_t rig_random(uint32_t below)
{
    chance ^= chance << 13;
    chance ^= chance >> 7;
    chance ^= chance << 17;
    return (uint32_t)((chance >> 20) % (below ? below : 1));
}

/* ---- which file ---- */

static void *file_of_inode(dev_t device, ino_t inode)
{
    for (uint32_t i = 0; i < watched_count; i++)
        if (watched[i].inode == inode && watched[i].device == device) return watched[i].file;
    return NULL;
}

static void *file_of_descriptor(int fd)
{
    struct stat st;
    return watched_count && !fstat(fd, &st) ? file_of_inode(st.st_dev, st.st_ino) : NULL;
}

static void *file_of_address(const void *address, uint64_t *offset)
{
    static uint32_t last;
    uintptr_t p = (uintptr_t)address;
    if (p < lowest || p >= highest || !watched_count) return NULL;
    for (uint32_t n = 0; n <= region_count; n++) {
        uint32_t i = n ? n - 1 : last;
        if (i >= region_count || p - (uintptr_t)regions[i].base >= regions[i].length) continue;
        last = i;
        *offset = regions[i].offset + (p - (uintptr_t)regions[i].base);
        return file_of_inode(regions[i].device, regions[i].inode);
    }
    return NULL;
}

void rig_watch(const char *path, void *file)
{
    struct stat st;
    if (stat(path, &st) || watched_count == WATCHED) abort();
    watched[watched_count++] = (struct watched){ file, st.st_dev, st.st_ino, ++boots };
}

void rig_unwatch(void *file)
{
    for (uint32_t i = 0; i < watched_count; i++)
        if (watched[i].file == file) watched[i--] = watched[--watched_count];
}

/* ---- stores ---- */

static void announce(const void *address, uint64_t length)
{
    uint64_t offset;
    void *file = rig_hooks.store ? file_of_address(address, &offset) : NULL;
    if (!file) return;
    int kept = errno;
    rig_hooks.store(file, address, offset, length);
    errno = kept;
}

/* The next step of a copy to `to`: a word, so that what a reader may take for a unit is stored as one, or, in the middle
 * of a long copy, a cache line, since nobody could tell more steps apart. */
static uint64_t step(const uint8_t *to, uint64_t done, uint64_t length)
{
    uint64_t word = 8 - (uintptr_t)to % 8, n = length > LONG_COPY && word == 8 && done >= 64 ? LONG_STEP : word;
    return n < length - done ? n : length - done;
}

void *rig_memcpy(void *to, const void *from, size_t length)
{
    uint64_t offset;
    if (!rig_hooks.store || !file_of_address(to, &offset)) return memcpy(to, from, length);
    uint8_t *t = to;
    const uint8_t *f = from;
    for (uint64_t done = 0, n; done < length; done += n) {
        n = step(t + done, done, length);
        announce(t + done, n);
        memcpy(t + done, f + done, n);
    }
    return to;
}

void *rig_memset(void *to, int byte, size_t length)
{
    uint64_t offset;
    if (!rig_hooks.store || !file_of_address(to, &offset)) return memset(to, byte, length);
    uint8_t *t = to;
    for (uint64_t done = 0, n; done < length; done += n) {
        n = step(t + done, done, length);
        announce(t + done, n);
        memset(t + done, byte, n);
    }
    return to;
}

/* What the compiler calls. Names and types are those of the sanitizer's interface. */
void __tsan_init(void) {}
void __tsan_func_entry(void *caller) { (void)caller; }
void __tsan_func_exit(void) {}
void __tsan_read_range(void *p, uint64_t n) { (void)p; (void)n; }
void __tsan_write_range(void *p, uint64_t n) { announce(p, n); }
void __tsan_atomic_thread_fence(int order) { (void)order; __atomic_thread_fence(__ATOMIC_SEQ_CST); }
void __tsan_atomic_signal_fence(int order) { (void)order; __atomic_signal_fence(__ATOMIC_SEQ_CST); }

#define ACCESS(n) \
    void __tsan_read##n(void *p) { (void)p; } \
    void __tsan_unaligned_read##n(void *p) { (void)p; } \
    void __tsan_volatile_read##n(void *p) { (void)p; } \
    void __tsan_write##n(void *p) { announce(p, n); } \
    void __tsan_unaligned_write##n(void *p) { announce(p, n); } \
    void __tsan_volatile_write##n(void *p) { announce(p, n); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)

#define FETCH(bits, T, name) \
    T __tsan_atomic##bits##_fetch_##name(volatile T *p, T v, int order) \
    { (void)order; announce((const void *)p, sizeof(T)); return __atomic_fetch_##name(p, v, __ATOMIC_SEQ_CST); }
#define ATOMIC(bits, T) \
    T __tsan_atomic##bits##_load(const volatile T *p, int order) { (void)order; return __atomic_load_n(p, __ATOMIC_SEQ_CST); } \
    void __tsan_atomic##bits##_store(volatile T *p, T v, int order) \
    { (void)order; announce((const void *)p, sizeof(T)); __atomic_store_n(p, v, __ATOMIC_SEQ_CST); } \
    T __tsan_atomic##bits##_exchange(volatile T *p, T v, int order) \
    { (void)order; announce((const void *)p, sizeof(T)); return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); } \
    int __tsan_atomic##bits##_compare_exchange_strong(volatile T *p, T *expected, T v, int order, int failure) \
    { (void)order; (void)failure; announce((const void *)p, sizeof(T)); \
      return __atomic_compare_exchange_n(p, expected, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); } \
    int __tsan_atomic##bits##_compare_exchange_weak(volatile T *p, T *expected, T v, int order, int failure) \
    { return __tsan_atomic##bits##_compare_exchange_strong(p, expected, v, order, failure); } \
    T __tsan_atomic##bits##_compare_exchange_val(volatile T *p, T expected, T v, int order, int failure) \
    { __tsan_atomic##bits##_compare_exchange_strong(p, &expected, v, order, failure); return expected; } \
    FETCH(bits, T, add) FETCH(bits, T, sub) FETCH(bits, T, and) FETCH(bits, T, or) FETCH(bits, T, xor)
ATOMIC(8, uint8_t)
ATOMIC(16, uint16_t)
ATOMIC(32, uint32_t)
ATOMIC(64, uint64_t)

/* ---- system calls ---- */

void *__real_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset);
int __real_munmap(void *address, size_t length);
int __real_ftruncate(int fd, off_t length);
int __real_fallocate(int fd, int mode, off_t offset, off_t length);
ssize_t __real_pwrite(int fd, const void *data, size_t length, off_t offset);
int __real_statx(int directory, const char *path, int flags, unsigned mask, struct statx *x);
int __real_clock_gettime(clockid_t clock, struct timespec *t);
long __real_syscall(long number, ...);
int __real_fcntl(int fd, int command, ...);

void *__wrap_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    struct stat st;
    uint8_t *p = __real_mmap(address, length, protection, flags, fd, offset);
    if (p == MAP_FAILED || fd < 0 || !(flags & MAP_SHARED) || !(protection & PROT_WRITE) || fstat(fd, &st)) return p;
    if ((uintptr_t)p < lowest) lowest = (uintptr_t)p;
    if ((uintptr_t)p + length > highest) highest = (uintptr_t)p + length;
    for (uint32_t i = 0; i < region_count; i++) { /* growth: the continuation of one that is there */
        struct region *r = &regions[i];
        if (r->base + r->length != p || r->offset + r->length != (uint64_t)offset || r->inode != st.st_ino || r->device != st.st_dev)
            continue;
        r->length += length;
        return p;
    }
    if (region_count == REGIONS) abort();
    regions[region_count++] = (struct region){ p, length, (uint64_t)offset, st.st_dev, st.st_ino };
    return p;
}

int __wrap_munmap(void *address, size_t length)
{
    for (uint32_t i = 0; i < region_count; i++) {
        if ((uintptr_t)regions[i].base - (uintptr_t)address >= length) continue;
        void *file = file_of_inode(regions[i].device, regions[i].inode);
        if (file && rig_hooks.unmap) rig_hooks.unmap(file);
        regions[i--] = regions[--region_count];
    }
    return __real_munmap(address, length);
}

int __wrap_msync(void *address, size_t length, int flags)
{
    uint64_t offset;
    void *file = file_of_address(address, &offset);
    (void)flags;
    if (file && rig_hooks.flush) rig_hooks.flush(file, offset, length);
    return 0;
}

int __wrap_fsync(int fd)
{
    void *file = file_of_descriptor(fd);
    if (file && rig_hooks.flush_file) rig_hooks.flush_file(file);
    return 0;
}

int __wrap_fdatasync(int fd) { return __wrap_fsync(fd); }

int __wrap_sync_file_range(int fd, off_t offset, off_t length, unsigned flags)
{
    (void)fd; (void)offset; (void)length; (void)flags; /* promises nothing */
    return 0;
}

static uint64_t length_of(int fd)
{
    struct stat st;
    return fstat(fd, &st) ? 0 : (uint64_t)st.st_size;
}

int __wrap_ftruncate(int fd, off_t length)
{
    void *file = file_of_descriptor(fd);
    uint64_t before = length_of(fd);
    int rc = __real_ftruncate(fd, length);
    if (!rc && file && rig_hooks.resize && before != (uint64_t)length) rig_hooks.resize(file, before, (uint64_t)length);
    return rc;
}

int __wrap_fallocate(int fd, int mode, off_t offset, off_t length)
{
    void *file = file_of_descriptor(fd);
    uint64_t before = length_of(fd);
    int rc = __real_fallocate(fd, mode, offset, length);
    if (rc || !file) return rc;
    if (mode & FALLOC_FL_PUNCH_HOLE) {
        if (rig_hooks.punch) rig_hooks.punch(file, (uint64_t)offset, (uint64_t)length);
    } else if (!(mode & FALLOC_FL_KEEP_SIZE) && (uint64_t)(offset + length) > before && rig_hooks.resize) {
        rig_hooks.resize(file, before, (uint64_t)(offset + length));
    }
    return rc;
}

ssize_t __wrap_pwrite(int fd, const void *data, size_t length, off_t offset)
{
    void *file = file_of_descriptor(fd);
    uint64_t before = file ? length_of(fd) : 0;
    ssize_t n = __real_pwrite(fd, data, length, offset);
    if (n <= 0 || !file) return n;
    if ((uint64_t)(offset + n) > before && rig_hooks.resize) rig_hooks.resize(file, before, (uint64_t)(offset + n));
    if (rig_hooks.write) rig_hooks.write(file, (uint64_t)offset, data, (uint64_t)n);
    return n;
}

/* The time of birth is part of a file's identity; that of a watched one tells the boots of the machine apart. */
int __wrap_statx(int directory, const char *path, int flags, unsigned mask, struct statx *x)
{
    int rc = __real_statx(directory, path, flags, mask, x);
    for (uint32_t i = 0; i < watched_count && !rc; i++) {
        if (watched[i].inode != x->stx_ino) continue;
        x->stx_mask |= STATX_BTIME;
        x->stx_btime.tv_sec = (int64_t)watched[i].boot;
        x->stx_btime.tv_nsec = 0;
    }
    return rc;
}

ssize_t __wrap_getrandom(void *buffer, size_t length, unsigned flags)
{
    (void)flags;
    for (size_t i = 0; i < length; i++) ((uint8_t *)buffer)[i] = (uint8_t)rig_random(256);
    return (ssize_t)length;
}

/* The time of day goes into files: it is made up, so that one seed makes one run. Waiting goes by the real clock, unless it
 * is simulated. */
int __wrap_clock_gettime(clockid_t clock, struct timespec *t)
{
    if (clock != CLOCK_REALTIME && !simulated) return __real_clock_gettime(clock, t);
    clock_ns += 1000;
    t->tv_sec = (time_t)(clock_ns / 1000000000);
    t->tv_nsec = (long)(clock_ns % 1000000000);
    return 0;
}

/* The engine calls nothing but futex this way. In simulated time nobody is there to wake a sleeper: it sleeps to the end. */
long __wrap_syscall(long number, uint32_t *word, int what, uint32_t value, const struct timespec *t, uint32_t *word2, uint32_t value3)
{
    if (number != SYS_futex) abort();
    if (!simulated) return __real_syscall(number, word, what, value, t, word2, value3);
    if (what == FUTEX_WAKE || what == FUTEX_WAKE_BITSET) return 0;
    if ((what != FUTEX_WAIT && what != FUTEX_WAIT_BITSET) || !t) abort();
    errno = EAGAIN;
    if (__atomic_load_n(word, __ATOMIC_SEQ_CST) != value) return -1;
    uint64_t ns = (uint64_t)t->tv_sec * 1000000000 + (uint64_t)t->tv_nsec;
    if (what == FUTEX_WAIT_BITSET) ns = ns > clock_ns ? ns - clock_ns : 0; /* a point in time, not how long */
    clock_ns += ns;
    slept_ns += ns;
    errno = ETIMEDOUT;
    return -1;
}

/* The engine's calls of it are about locks. In simulated time the attach lock, if it is held, is held for ever. */
int __wrap_fcntl(int fd, int command, struct flock *lock)
{
    int rc = __real_fcntl(fd, command, lock);
    if (rc && errno == EAGAIN && simulated && lock->l_start == (off_t)FMT_LOCK_ATTACH) errno = EDEADLK;
    return rc;
}
