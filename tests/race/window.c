/* window.c: one place in memory for all handles of the file, and the edges that the sanitizer cannot know of.
 *
 * Handles map the file for themselves, so that one word of it has as many addresses as there are handles; but to the
 * sanitizer a word is an address. Here all handles get the same addresses: a race between two of them is one, and a lock
 * that was taken through one and let go through the other orders what they did. What is mapped once stays, whoever closes.
 * The calls are made past the sanitizer, which would take a mapping for a store to all of it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "race.h"

#define WINDOW (1ull << 33)

void *__real_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset);
int __real_munmap(void *address, size_t length);
int __real_fcntl(int fd, int command, ...);
int __real_close(int fd);
void __tsan_acquire(void *word);
void __tsan_release(void *word);

static uint8_t *window;
static uint64_t mapped;
static uint32_t busy;
static char file_locks;

/* A mutex would order what the threads that map do besides. */
UNSEEN static void enter(void) { while (__atomic_exchange_n(&busy, 1, __ATOMIC_ACQUIRE)) {} }
UNSEEN static void leave(void) { __atomic_store_n(&busy, 0, __ATOMIC_RELEASE); }

UNSEEN static void *map(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    return (void *)syscall(SYS_mmap, address, length, protection, flags, fd, offset);
}

UNSEEN static int in_window(const void *address) { return window && (uintptr_t)address - (uintptr_t)window < WINDOW; }

UNSEEN static void *reserve(size_t length)
{
    if (length > WINDOW) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    enter();
    if (!window) window = map(NULL, WINDOW, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    leave();
    return window;
}

UNSEEN static void *map_file(uint64_t end, int fd)
{
    void *p = window;
    enter();
    if (end > mapped) {
        p = map(window + mapped, end - mapped, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, (off_t)mapped);
        if (p != MAP_FAILED) mapped = end;
    }
    leave();
    return p;
}

UNSEEN void *__wrap_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    if (fd < 0 && protection == PROT_NONE) return reserve(length);
    if (!in_window(address)) return __real_mmap(address, length, protection, flags, fd, offset);
    if (!(flags & MAP_SHARED) || (uint64_t)offset != (uint64_t)((uint8_t *)address - window)) abort();
    return map_file((uint64_t)offset + length, fd) == MAP_FAILED ? MAP_FAILED : address;
}

UNSEEN int __wrap_munmap(void *address, size_t length) { return in_window(address) ? 0 : __real_munmap(address, length); }

/* Whoever gets a lock on a byte of the file comes after those who have let one go. Only those who attach, leave, or open do. */
UNSEEN int __wrap_fcntl(int fd, int command, struct flock *lock)
{
    if (command == F_OFD_GETLK) return __real_fcntl(fd, command, lock);
    if (lock->l_type == F_UNLCK) __tsan_release(&file_locks);
    int rc = __real_fcntl(fd, command, lock);
    if (!rc && lock->l_type != F_UNLCK) __tsan_acquire(&file_locks);
    return rc;
}

UNSEEN int __wrap_close(int fd)
{
    __tsan_release(&file_locks);
    return __real_close(fd);
}
