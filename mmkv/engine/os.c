/* os.c: every system call of the engine, and nothing else. Linux. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/futex.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "engine.h"

enum { ALLOCATE_MIN = 1 << 20 };

/* ---- files ---- */

int os_open(const char *path, bool write, int *fd)
{
    /* O_NONBLOCK: a FIFO must not hang us. It means nothing to a regular file. */
    *fd = open(path, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (*fd < 0) {
        if (errno == ELOOP) return fail_os("open: the path is a symbolic link, which is not followed");
        return fail_os("open");
    }
    struct stat st;
    int rc = 0;
    if (fstat(*fd, &st)) rc = fail_os("fstat");
    else if (S_ISDIR(st.st_mode)) { errno = EISDIR; rc = fail_os("open"); }
    else if (!S_ISREG(st.st_mode)) rc = fail(MMKV_NOT_A_STORE, 0, "not a regular file");
    if (rc) {
        os_close(*fd);
        *fd = -1; /* the number may be another thread's file by the time the handle is cleared away */
    }
    return rc;
}

/* The directory part of a path, for O_TMPFILE and for making a name durable. */
static int directory_of(const char *path, char **directory)
{
    const char *slash = strrchr(path, '/');
    if (!slash) *directory = strdup(".");
    else *directory = strndup(path, slash == path ? 1 : (size_t)(slash - path));
    return *directory ? 0 : fail(MMKV_NO_MEMORY, 0, "out of memory");
}

static int random_name(const char *path, char **name)
{
    uint64_t r;
    size_t length = strlen(path), own = strlen(basename(path)), most = NAME_MAX - sizeof ".new-0123456789abcdef" + 1;
    if (os_random(&r, sizeof r)) return MMKV_OS;
    if (own > most) length -= own - most;
    if (asprintf(name, "%.*s.new-%016llx", (int)length, path, (unsigned long long)r) >= 0) return 0;
    *name = NULL;
    return fail(MMKV_NO_MEMORY, 0, "out of memory");
}

/* A new file beside `path`: nameless, or, where the file system has no such files, of a random name (*name). */
int os_create(const char *path, uint32_t permissions, int *fd, char **name)
{
    char *directory;
    *name = NULL;
    int rc = directory_of(path, &directory);
    if (rc) return rc;
    *fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, permissions & 07777);
    if (*fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
        if (!(rc = random_name(path, name)))
            *fd = open(*name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC | O_NOFOLLOW, permissions & 07777);
    }
    if (!rc && *fd < 0) rc = fail_os("create");
    if (!rc && fchmod(*fd, permissions & 07777)) rc = fail_os("fchmod"); /* whatever the umask */
    if (rc) {
        os_close(*fd);
        *fd = -1;
        os_discard(*name);
    }
    free(directory);
    return rc;
}

/* Forget a file made by os_create that is not to be published. */
void os_discard(char *name)
{
    if (name) unlink(name);
    free(name);
}

static int flush_directory(const char *path)
{
    char *directory;
    int rc = directory_of(path, &directory);
    if (rc) return rc;
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) rc = errno == EACCES ? 0 : fail_os("open directory"); /* writable but not readable: cannot be flushed */
    else {
        if (fsync(fd) && errno != EINVAL && errno != EROFS) rc = fail_os("fsync directory");
        os_close(fd);
    }
    free(directory);
    return rc;
}

/* Give the file its name: in place of what has it, or only if nothing does (*exists). `name` is gone afterwards. */
int os_publish(int fd, char *name, const char *path, bool replace, bool *exists)
{
    char source[64];
    int rc = 0;
    *exists = false;
    snprintf(source, sizeof source, "/proc/self/fd/%d", fd);
    if (replace) {
        if (!name) {
            if ((rc = random_name(path, &name))) return rc;
            if (linkat(AT_FDCWD, source, AT_FDCWD, name, AT_SYMLINK_FOLLOW)) rc = fail_os("link");
        }
        if (!rc && rename(name, path)) rc = fail_os("rename");
    } else if (linkat(AT_FDCWD, name ? name : source, AT_FDCWD, path, AT_SYMLINK_FOLLOW)) {
        if (errno == EEXIST) *exists = true;
        else rc = fail_os("link");
    }
    os_discard(name);
    return rc || *exists ? rc : flush_directory(path);
}

int os_reopen(int fd, bool write, int *again)
{
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    *again = open(name, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    return *again < 0 ? fail_os("open again") : 0;
}

void os_close(int fd)
{
    if (fd >= 0) close(fd);
}

int os_length(int fd, uint64_t *length)
{
    struct stat st;
    if (fstat(fd, &st)) return fail_os("fstat");
    *length = (uint64_t)st.st_size;
    return 0;
}

int os_set_length(int fd, uint64_t length)
{
    return ftruncate(fd, (off_t)length) ? fail_os("ftruncate") : 0;
}

int os_read(int fd, void *buffer, size_t length, uint64_t offset, size_t *got)
{
    *got = 0;
    while (*got < length) {
        ssize_t n = pread(fd, (char *)buffer + *got, length - *got, (off_t)(offset + *got));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail_os("read");
        if (n == 0) break;
        *got += (size_t)n;
    }
    return 0;
}

int os_write(int fd, const void *buffer, size_t length, uint64_t offset)
{
    for (size_t done = 0; done < length;) {
        ssize_t n = pwrite(fd, (const char *)buffer + done, length - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail_os("write");
        done += (size_t)n;
    }
    return 0;
}

/* Going past the limit on the size of files is an error, never the signal SIGXFSZ, which kills a process that has not
 * arranged for it (Python ignores it, its host may not). */
static int within_limit(uint64_t end)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) || limit.rlim_cur == RLIM_INFINITY || end <= limit.rlim_cur) return 0;
    errno = EFBIG;
    return fail_os("reserve space");
}

/* Does all of a range have space of its own already? Not known where the file system cannot be asked (tmpfs). */
static bool has_space(int fd, uint64_t offset, uint64_t length)
{
    enum { EXTENTS = 16 };
    union { struct fiemap map; uint8_t bytes[sizeof(struct fiemap) + EXTENTS * sizeof(struct fiemap_extent)]; } u;
    const uint32_t not_ours = FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC | FIEMAP_EXTENT_SHARED;
    for (uint64_t at = offset; at < offset + length;) {
        uint64_t before = at;
        memset(&u, 0, sizeof u);
        u.map.fm_start = at;
        u.map.fm_length = offset + length - at;
        u.map.fm_extent_count = EXTENTS;
        if (ioctl(fd, FS_IOC_FIEMAP, &u.map)) return false;
        for (uint32_t i = 0; i < u.map.fm_mapped_extents; i++) {
            const struct fiemap_extent *e = &u.map.fm_extents[i];
            if (e->fe_logical > at || e->fe_flags & not_ours) return false;
            at = e->fe_logical + e->fe_length;
        }
        if (at <= before) return false;
    }
    return true;
}

/* fallocate(2) itself: glibc's posix_fallocate leaves the file longer when it fails. Where the file system has none,
 * zeros are written, which reserves just as well. A signal makes tmpfs give up and undo, so that a timer could keep a
 * long piece from ever being done: then it is tried in shorter ones. A full xfs refuses also what has its space already. */
int os_allocate(int fd, uint64_t offset, uint64_t length)
{
    int rc = within_limit(offset + length);
    if (rc) return rc;
    for (uint64_t done = 0, piece = length; done < length;) {
        if (piece > length - done) piece = length - done;
        if (!fallocate(fd, 0, (off_t)(offset + done), (off_t)piece)) done += piece;
        else if (errno == EINTR) piece = piece / 2 > ALLOCATE_MIN ? piece / 2 : ALLOCATE_MIN;
        else if (errno == EOPNOTSUPP) break;
        else {
            rc = fail_os("reserve space");
            if (rc != MMKV_FULL || !has_space(fd, offset + done, piece)) return rc;
            done += piece;
        }
        if (done == length) return 0;
    }
    static const char zeros[65536];
    for (uint64_t done = 0; done < length;) {
        size_t n = length - done < sizeof zeros ? (size_t)(length - done) : sizeof zeros;
        if ((rc = os_write(fd, zeros, n, offset + done))) return rc;
        done += n;
    }
    return 0;
}

int os_punch(int fd, uint64_t offset, uint64_t length)
{
    int rc;
    do rc = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length);
    while (rc && errno == EINTR);
    return !rc ? 0 : errno == EOPNOTSUPP ? MMKV_NOT_FOUND : fail_os("punch hole");
}

/* On btrfs space reserved is space reserved only for files that do not copy on write (R12). Elsewhere: no effect. */
int os_no_copy_on_write(int fd)
{
    int flags;
    if (!ioctl(fd, FS_IOC_GETFLAGS, &flags) && !(flags & FS_NOCOW_FL)) {
        struct statfs fs;
        if (!fstatfs(fd, &fs) && fs.f_type == BTRFS_SUPER_MAGIC) {
            flags |= FS_NOCOW_FL;
            if (ioctl(fd, FS_IOC_SETFLAGS, &flags)) return fail_os("set no-copy-on-write");
        }
    }
    return 0;
}

/* btrfs keeps what one fallocate() reserved until all of it has been given up. */
bool os_frees_whole_extents(int fd)
{
    struct statfs fs;
    return !fstatfs(fd, &fs) && fs.f_type == BTRFS_SUPER_MAGIC;
}

/* Those known to be of one machine, to share mapped files among its processes, and to keep space that was reserved. Of
 * overlay the upper layer decides, which the kernel wants to be such a one. *name and *why are for the others. */
bool os_file_system_is_local(int fd, const char **name, const char **why)
{
    static const char apart[] = "which does not show what one machine, or its server, stores to a mapped file to the others at once";
    static const char untried[] = "on which space cannot be reserved, or has not been seen to stay reserved";
    static const struct { uint32_t type; const char *name, *why; } known[] = {
        { 0xEF53, "ext4", NULL }, { 0x58465342, "xfs", NULL }, { 0x9123683E, "btrfs", NULL }, { 0xF2F52010, "f2fs", NULL },
        { 0x01021994, "tmpfs", NULL }, { 0x794C7630, "overlay", NULL },
        { 0x6969, "nfs", apart }, { 0xFF534D42, "smb", apart }, { 0xFE534D42, "smb", apart }, { 0x517B, "smb", apart },
        { 0x65735546, "fuse or virtiofs", apart }, { 0x6A656A63, "virtiofs", apart }, { 0x01021997, "9p", apart },
        { 0x00C36400, "ceph", apart }, { 0x01161970, "gfs2", apart }, { 0x7461636F, "ocfs2", apart }, { 0x0BD00BD0, "lustre", apart },
        { 0x47504653, "gpfs", apart }, { 0x5346414F, "afs", apart }, { 0x6B414653, "afs", apart }, { 0x73757245, "coda", apart },
        { 0x19830326, "beegfs", apart }, { 0x20030528, "orangefs", apart }, { 0x786F4256, "vboxsf", apart },
        { 0x7C7C6673, "prl_fs", apart }, { 0xBACBACBC, "vmhgfs", apart },
        { 0x2FC12FC1, "zfs", untried }, { 0xCA451A4E, "bcachefs", untried }, { 0xF15F, "ecryptfs", untried },
        { 0x4D44, "vfat", untried }, { 0x2011BAB0, "exfat", untried }, { 0x7366746E, "ntfs", untried },
    };
    static _Thread_local char number[40];
    struct statfs fs;
    *name = "one that cannot be told";
    *why = "and might be on another machine";
    if (fstatfs(fd, &fs)) return false;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (known[i].type != (uint32_t)fs.f_type) continue;
        *name = known[i].name;
        *why = known[i].why;
        return !*why;
    }
    snprintf(number, sizeof number, "of type 0x%lx", (unsigned long)(uint32_t)fs.f_type);
    *name = number;
    *why = "which mmkv does not know: it might be on another machine";
    return false;
}

/* A boot id that is not on procfs itself belongs to a container (R6): then all zero, which matches nothing. */
static void boot_id(uint8_t id[16])
{
    char text[64];
    size_t got = 0;
    struct statfs fs;
    memset(id, 0, 16);
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    if (!fstatfs(fd, &fs) && fs.f_type == PROC_SUPER_MAGIC) {
        ssize_t n = read(fd, text, sizeof text - 1);
        if (n > 0) got = (size_t)n;
    }
    os_close(fd);
    int digits = 0;
    for (size_t i = 0; i < got && digits < 32; i++) {
        int c = text[i], v = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (v < 0) continue;
        id[digits / 2] = (uint8_t)(id[digits / 2] << 4 | v);
        digits++;
    }
    if (digits != 32) memset(id, 0, 16);
}

/* Which mounting of the device this is, or 0 if it cannot be told: after another one the page cache is a new one, though
 * device and inode are the same. A file system of these kinds has a directory in sysfs as long as it is mounted, under any
 * number of names, and sysfs gives no inode number twice in a boot. (btrfs has another device number each time.) */
static uint64_t mounting(int fd, uint64_t device)
{
    char link[64], target[256], path[128];
    struct statfs fs;
    struct stat st;
    if (fstatfs(fd, &fs)) return 0;
    const char *kind = fs.f_type == EXT4_SUPER_MAGIC ? "ext4" : fs.f_type == XFS_SUPER_MAGIC ? "xfs"
                     : fs.f_type == F2FS_SUPER_MAGIC ? "f2fs" : NULL;
    snprintf(link, sizeof link, "/sys/dev/block/%u:%u", major(device), minor(device));
    ssize_t n = kind ? readlink(link, target, sizeof target - 1) : -1;
    if (n < 0) return 0;
    target[n] = 0;
    const char *slash = strrchr(target, '/');
    snprintf(path, sizeof path, "/sys/fs/%s/%.64s", kind, slash ? slash + 1 : target);
    return !statfs(path, &fs) && fs.f_type == SYSFS_MAGIC && !stat(path, &st) ? st.st_ino : 0;
}

int os_identity(int fd, struct identity *identity)
{
    struct statx x;
    memset(identity, 0, sizeof *identity);
    boot_id(identity->boot_id);
    if (statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &x)) return fail_os("statx");
    identity->device = makedev(x.stx_dev_major, x.stx_dev_minor);
    identity->inode = x.stx_ino;
    identity->mounting = mounting(fd, identity->device);
    if (x.stx_mask & STATX_BTIME) identity->birth_ns = (uint64_t)x.stx_btime.tv_sec * 1000000000u + x.stx_btime.tv_nsec;
    int generation = 0;
    if (!ioctl(fd, FS_IOC_GETVERSION, &generation)) identity->generation = (uint32_t)generation;
    return 0;
}

bool os_same_file(int fd, const struct identity *identity)
{
    struct stat st;
    return fd >= 0 && !fstat(fd, &st) && st.st_dev == identity->device && st.st_ino == identity->inode;
}

char *os_absolute(const char *path)
{
    char *absolute = realpath(path, NULL);
    return absolute || errno != ENOENT ? absolute : strdup(path); /* the file is open, and its name may be gone since */
}

/* ---- memory ---- */

uint64_t os_map_page_size(void)
{
    static uint64_t size;
    if (!size) size = (uint64_t)sysconf(_SC_PAGESIZE);
    return size;
}

int os_reserve(uint64_t length, uint8_t **base)
{
    void *p = mmap(NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return fail_os("reserve address space");
    *base = p;
    return 0;
}

int os_map(uint8_t *address, uint64_t length, int fd, uint64_t offset, bool write, bool private_)
{
    void *p = mmap(address, length, write ? PROT_READ | PROT_WRITE : PROT_READ,
                   (private_ ? MAP_PRIVATE | MAP_NORESERVE : MAP_SHARED) | MAP_FIXED, fd, (off_t)offset);
    return p == MAP_FAILED ? fail_os("mmap") : 0;
}

int os_map_anonymous(uint8_t *address, uint64_t length, bool write)
{
    void *p = mmap(address, length, write ? PROT_READ | PROT_WRITE : PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? fail_os("mmap") : 0;
}

/* With a key: besides, the range gets it. */
int os_protect(uint8_t *address, uint64_t length, bool write, int key)
{
    return pkey_mprotect(address, length, write ? PROT_READ | PROT_WRITE : PROT_READ, key) ? fail_os("mprotect") : 0;
}

/* Forget which pages of a shared mapping have been touched: a fault finds them again, and until then they are nothing that
 * os_protect has to go through. A hint. */
void os_untouch(uint8_t *address, uint64_t length)
{
    madvise(address, length, MADV_DONTNEED);
}

/* A protection key, which this thread may read through and not write; -1 where the processor, the kernel or the C library
 * knows none. */
int os_key_new(void)
{
    int key = pkey_alloc(0, PKEY_DISABLE_WRITE);
    if (key < 0 || pkey_get(key) == PKEY_DISABLE_WRITE) return key;
    pkey_free(key);
    return -1;
}

/* What this thread, and no other, may do through a key from now on; reading it may in any case. */
void os_key_set(int key, bool write)
{
    pkey_set(key, write ? 0 : PKEY_DISABLE_WRITE);
}

bool os_key_readable(int key)
{
    return !(pkey_get(key) & PKEY_DISABLE_ACCESS);
}

int os_map_page(int fd, uint64_t offset, void **page)
{
    uint64_t start = offset / os_map_page_size() * os_map_page_size();
    *page = mmap(NULL, os_map_page_size(), PROT_READ, MAP_SHARED, fd, (off_t)start);
    if (*page != MAP_FAILED) return 0;
    *page = NULL; /* nothing to be unmapped by whoever clears away */
    return fail_os("mmap");
}

void os_unmap(void *address, uint64_t length)
{
    munmap(address, length);
}

static void whole_pages(const void **address, uint64_t *length)
{
    uint64_t page = os_map_page_size(), in = (uintptr_t)*address % page;
    *address = (const char *)*address - in;
    *length = (*length + in + page - 1) / page * page;
}

int os_flush(const void *address, uint64_t length)
{
    whole_pages(&address, &length);
    return msync((void *)(uintptr_t)address, length, MS_SYNC) ? fail_os("msync") : 0;
}

/* A hint: the range is wanted soon. */
void os_read_ahead(int fd, uint64_t offset, uint64_t length)
{
    posix_fadvise(fd, (off_t)offset, (off_t)length, POSIX_FADV_WILLNEED);
}

/* Start write-back without waiting for it. MS_ASYNC has been a no-op since Linux 2.6.19, so the file is asked. */
int os_flush_file_start(int fd, uint64_t offset, uint64_t length)
{
    return sync_file_range(fd, (off_t)offset, (off_t)length, SYNC_FILE_RANGE_WRITE) ? fail_os("start write-back") : 0;
}

int os_flush_file(int fd)
{
    return fsync(fd) ? fail_os("fsync") : 0;
}

/* ---- advisory locks: of the open file description, not of the process ---- */

int os_lock(int fd, uint64_t offset, uint64_t length, enum os_lock kind, bool *got)
{
    struct flock f = {
        .l_type = (short)(kind == OS_UNLOCK ? F_UNLCK : kind == OS_LOCK_READ ? F_RDLCK : F_WRLCK),
        .l_whence = SEEK_SET, .l_start = (off_t)offset, .l_len = (off_t)length,
    };
    *got = !fcntl(fd, F_OFD_SETLK, &f);
    return *got || errno == EAGAIN || errno == EACCES ? 0 : fail_os("lock");
}

int os_lock_held(int fd, uint64_t offset, uint64_t length, bool *held)
{
    struct flock f = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)offset, .l_len = (off_t)length };
    if (fcntl(fd, F_OFD_GETLK, &f)) return fail_os("ask for a lock");
    *held = f.l_type != F_UNLCK;
    return 0;
}

/* Lock a byte for exactly as long as this address space lives (R5): through a description used for nothing else, which a
 * mapped page keeps alive after its descriptor is closed. fork_shares: the page is for a child about to be forked. */
int os_hold_byte(int fd, uint64_t offset, bool fork_shares, void **page, bool *got)
{
    int own, rc = os_reopen(fd, true, &own);
    if (rc) return rc;
    rc = os_lock(own, offset, 1, OS_LOCK_WRITE, got);
    if (!rc && *got) {
        rc = os_map_page(own, 0, page);
        if (!rc && !fork_shares && madvise(*page, os_map_page_size(), MADV_DONTFORK)) {
            rc = fail_os("madvise");
            os_unmap(*page, os_map_page_size());
            *page = NULL;
        }
    }
    os_close(own);
    return rc;
}

void os_release_byte(void *page)
{
    os_unmap(page, os_map_page_size());
}

void os_hold_in_child(void *page)
{
    madvise(page, os_map_page_size(), MADV_DONTFORK);
}

/* ---- waiting, time, chance ---- */

int os_wait(const uint32_t *word, uint32_t value, uint32_t milliseconds)
{
    return os_wait_ns(word, value, milliseconds * 1000000ull);
}

int os_wait_ns(const uint32_t *word, uint32_t value, uint64_t nanoseconds)
{
    struct timespec t = { .tv_sec = (time_t)(nanoseconds / 1000000000), .tv_nsec = (long)(nanoseconds % 1000000000) };
    if (syscall(SYS_futex, word, FUTEX_WAIT, value, &t, NULL, 0) && errno == EINTR) return MMKV_INTERRUPTED;
    return 0;
}

void os_wake(uint32_t *word, int count)
{
    syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);
}

int os_wait_bits(const uint32_t *word, uint32_t value, uint32_t bits, uint64_t nanoseconds)
{
    uint64_t end = os_elapsed_ns() + nanoseconds; /* with bits the kernel wants a point in time, of the same clock */
    struct timespec t = { .tv_sec = (time_t)(end / 1000000000), .tv_nsec = (long)(end % 1000000000) };
    if (syscall(SYS_futex, word, FUTEX_WAIT_BITSET, value, &t, NULL, bits) && errno == EINTR) return MMKV_INTERRUPTED;
    return 0;
}

void os_wake_bits(uint32_t *word, uint32_t bits)
{
    syscall(SYS_futex, word, FUTEX_WAKE_BITSET, INT32_MAX, NULL, NULL, bits);
}

uint64_t os_elapsed_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t os_now_ms(void)
{
    return os_elapsed_ns() / 1000000;
}

uint64_t os_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t os_pid(void)
{
    return (uint64_t)getpid();
}

/* Stopped by a signal or a debugger? Of other containers' processes nothing is to be seen: then no. */
bool os_process_stopped(uint64_t pid)
{
    char name[40], text[256];
    snprintf(name, sizeof name, "/proc/%llu/stat", (unsigned long long)pid);
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    os_close(fd);
    text[n > 0 ? n : 0] = 0;
    const char *state = strrchr(text, ')'); /* behind the program's name, which may hold anything */
    return state && state[1] == ' ' && (state[2] == 'T' || state[2] == 't');
}

static bool holds_lock(const char *file, uint64_t inode, uint64_t offset)
{
    char line[256];
    FILE *f = fopen(file, "re");
    bool holds = false;
    while (f && !holds && fgets(line, sizeof line, f)) {
        unsigned long long ino, start;
        holds = strstr(line, "OFDLCK") && sscanf(line, "lock: %*s %*s %*s %*s %*s %*x:%*x:%llu %llu", &ino, &start) == 2
            && ino == inode && start == offset;
    }
    if (f) fclose(f);
    return holds;
}

/* A file of the same number may be of another file system; and what fdinfo says of that is not what stat says. */
static bool is_file(const char *name, const struct stat *file)
{
    struct stat st;
    return !stat(name, &st) && st.st_ino == file->st_ino && st.st_dev == file->st_dev;
}

/* A stopped process that holds the lock at an offset of a file, as far as it can be seen (0): proc_pid_fdinfo(5) shows that
 * of processes of this user in this container. */
uint64_t os_stopped_holder(int fd, uint64_t offset)
{
    char name[600];
    struct stat st;
    uint64_t found = 0;
    DIR *processes = fstat(fd, &st) ? NULL : opendir("/proc");
    for (struct dirent *p; processes && !found && (p = readdir(processes));) {
        uint64_t pid = strtoull(p->d_name, NULL, 10);
        if (!pid || !os_process_stopped(pid)) continue;
        snprintf(name, sizeof name, "/proc/%llu/fdinfo", (unsigned long long)pid);
        DIR *files = opendir(name);
        for (struct dirent *d; files && !found && (d = readdir(files));) {
            snprintf(name, sizeof name, "/proc/%llu/fdinfo/%s", (unsigned long long)pid, d->d_name);
            if (d->d_name[0] == '.' || !holds_lock(name, st.st_ino, offset)) continue;
            snprintf(name, sizeof name, "/proc/%llu/fd/%s", (unsigned long long)pid, d->d_name);
            if (is_file(name, &st)) found = pid;
        }
        if (files) closedir(files);
    }
    if (processes) closedir(processes);
    return found;
}

int os_random(void *buffer, size_t length)
{
    for (size_t got = 0; got < length;) {
        ssize_t n = getrandom((char *)buffer + got, length - got, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail_os("getrandom");
        got += (size_t)n;
    }
    return 0;
}

/* ---- faults ---- */

/* Put the handler first. NODEFER: it is left by a jump, which restores no mask. Nothing is done if it is there already. */
void os_catch_faults(os_fault_handler handler, struct sigaction *before)
{
    struct sigaction ours = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK };
    if (!sigaction(SIGBUS, NULL, before) && before->sa_flags & SA_SIGINFO && before->sa_sigaction == handler) return;
    sigemptyset(&ours.sa_mask);
    sigaction(SIGBUS, &ours, before);
}

/* Without a fault if not. */
bool os_readable(const void *p)
{
    char byte;
    struct iovec here = { .iov_base = &byte, .iov_len = 1 }, there = { .iov_base = (void *)(uintptr_t)p, .iov_len = 1 };
    int kept = errno;
    bool readable = process_vm_readv(getpid(), &here, 1, &there, 1, 0) == 1;
    errno = kept;
    return readable;
}

/* What the system does when nobody handles it. A fault repeats by itself when the handler returns. */
void os_die_of_fault(bool sent)
{
    struct sigaction none = { .sa_handler = SIG_DFL };
    sigaction(SIGBUS, &none, NULL);
    if (sent) raise(SIGBUS);
}

void os_at_fork(void (*prepare)(void), void (*parent)(void), void (*child)(void))
{
    pthread_atfork(prepare, parent, child);
}
