/* shim.c: for LD_PRELOAD: makes the n-th call of one function fail, or a file system look like another.
 *
 * shim_arm("fallocate", 3, ENOSPC) makes the third call from now on fail, and 0 all of them; shim_calls() says how many
 * there were.
 * shim_bad_closes() counts descriptors that were closed twice. shim_file_system(type) is what fstatfs() reports; 0: the truth.
 * After shim_wait(lock), at each punch somebody begins to wait for that lock word. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

static char armed[32];
static long wanted, calls, bad_closes, file_system;
static int error;
static unsigned *waited_for;

void shim_arm(const char *name, long n, int e) { calls = 0; wanted = n; error = e; snprintf(armed, sizeof armed, "%s", name); }
long shim_calls(void) { return calls; }
long shim_bad_closes(void) { return bad_closes; }
void shim_file_system(long type) { file_system = type; }
void shim_wait(unsigned *lock) { waited_for = lock; }

static int fails(const char *name)
{
    if (strcmp(name, armed) || (++calls != wanted && wanted)) return 0;
    errno = error;
    return 1;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define WRAP(name, parameters, arguments)                                  \
    int name parameters { return fails(#name) ? -1 : NEXT(name) arguments; }

static int punching(int mode) { return mode & FALLOC_FL_PUNCH_HOLE; }
int fallocate(int fd, int mode, off_t offset, off_t length)
{
    if (punching(mode) && waited_for) __atomic_fetch_or(waited_for, 0x80000000u, __ATOMIC_RELAXED);
    return fails(punching(mode) ? "punch" : "fallocate") ? -1 : NEXT(fallocate)(fd, mode, offset, length);
}
int fallocate64(int fd, int mode, off64_t offset, off64_t length) { return fallocate(fd, mode, offset, length); }
WRAP(ftruncate, (int fd, off_t length), (fd, length))
int ftruncate64(int fd, off64_t length) { return ftruncate(fd, length); }
WRAP(fsync, (int fd), (fd))
WRAP(fchmod, (int fd, mode_t mode), (fd, mode))
WRAP(madvise, (void *p, size_t length, int advice), (p, length, advice))
WRAP(pkey_mprotect, (void *p, size_t length, int prot, int key), (p, length, prot, key))
WRAP(linkat, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags))
WRAP(rename, (const char *from, const char *to), (from, to))

void *mmap(void *p, size_t length, int prot, int flags, int fd, off_t offset)
{
    if (fd >= 0 && flags & MAP_SHARED && fails("mmap")) return MAP_FAILED;
    return NEXT(mmap)(p, length, prot, flags, fd, offset);
}
void *mmap64(void *p, size_t length, int prot, int flags, int fd, off64_t offset)
{
    return mmap(p, length, prot, flags, fd, offset);
}

int fcntl(int fd, int command, ...)
{
    va_list arguments;
    va_start(arguments, command);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    int lock = command == F_OFD_SETLK || command == F_OFD_GETLK;
    if (lock && ((struct flock *)argument)->l_type != F_UNLCK && fails("fcntl")) return -1;
    return NEXT(fcntl)(fd, command, argument);
}
int fcntl64(int fd, int command, ...)
{
    va_list arguments;
    va_start(arguments, command);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    return fcntl(fd, command, argument);
}

int open(const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    int mode = va_arg(arguments, int);
    va_end(arguments);
    int ours = !strncmp(path, "/proc/self/fd/", 14) || strstr(path, "store.mmkv") || (flags & O_TMPFILE) == O_TMPFILE;
    return ours && fails("open") ? -1 : NEXT(open)(path, flags, mode);
}
int open64(const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    int mode = va_arg(arguments, int);
    va_end(arguments);
    return open(path, flags, mode);
}

int close(int fd)
{
    int rc = NEXT(close)(fd);
    if (rc && errno == EBADF) bad_closes++;
    return rc;
}

int fstatfs(int fd, struct statfs *fs)
{
    int rc = NEXT(fstatfs)(fd, fs);
    if (!rc && file_system) fs->f_type = file_system;
    return rc;
}
int fstatfs64(int fd, struct statfs64 *fs) { return fstatfs(fd, (struct statfs *)fs); }
