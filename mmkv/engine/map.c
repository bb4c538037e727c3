/* map.c: address space and growth.
 *
 * A handle reserves address space and maps the file into it piece by piece, each piece once and for good: nothing that a
 * reader may follow is ever unmapped before close. When a reservation is used up, a larger one is made elsewhere, the whole
 * file is mapped there too, and the old one is kept (R30). Two mappings of one shared page are one page, so that a pointer
 * from either is good; the fixed areas are used through the first alone.
 *
 * The map of a handle opened with `guard` is shielded, so that other code's stray store to it is a SIGSEGV there and then.
 * Calls that may store say so by STORING, or by taking a lock (engine.h). Where there are protection keys the map has one
 * that lets threads read, and the thread in such a call, and no other, write meanwhile. Elsewhere the map is read-only, the
 * first such call in makes it writable, for all threads, and the last one out makes it read-only again. */
#include "engine.h"

/* A process has 128 TiB: enough for thousands of handles. A private copy cannot move, and so begins with more; where address
 * space is scarce (`ulimit -v`) others want some too. */
#define RESERVE_LEAST (16ull << 30)
#define RESERVE_PRIVATE (1ull << 40)
#define RESERVE_SCARCE (64ull << 20)
#define RESERVE_MOST (1ull << 47)

/* The file's descriptor. Other code of the process may have closed it (daemons close all they find), and its number may
 * mean another file by now: then the file is opened again by its name. -1, which every system call refuses, if it cannot
 * be: the mapping, and the locks, live on without. */
int file_of(mmkv_store *s)
{
    if (likely(os_same_file(s->fd, &s->identity))) return s->fd;
    int fd = -1;
    pthread_mutex_lock(&s->file_mutex);
    if (os_same_file(s->fd, &s->identity)) fd = s->fd;
    else if (!os_open(s->path, s->writable && !s->private_, &fd)) {
        if (os_same_file(fd, &s->identity)) s->fd = fd;
        else os_close(fd), fd = -1;
    }
    pthread_mutex_unlock(&s->file_mutex);
    return fd;
}

/* `known`: what is known of the file's length; twice as much is to fit. */
static int reserve(mmkv_store *s, uint64_t least, uint64_t known)
{
    if (s->reservation_count == sizeof s->reservations / sizeof *s->reservations)
        return fail(MMKV_NO_MEMORY, 0, "address space used up");
    uint64_t length = s->private_ ? RESERVE_PRIVATE : RESERVE_LEAST;
    while (length / 2 < known && length < RESERVE_MOST) length *= 2;
    uint8_t *base;
    bool scarce = false;
    while (os_reserve(length, &base)) {
        if (length / 2 < least) return fail(MMKV_NO_MEMORY, 0, "no address space for %llu bytes", (unsigned long long)least);
        do length /= 2; while (!scarce && length / 4 >= known && length > RESERVE_SCARCE);
        scarce = true;
    }
    s->reservations[s->reservation_count].base = base;
    s->reservations[s->reservation_count++].length = length;
    return 0;
}

static int map_private(mmkv_store *s, uint8_t *base, uint64_t from, uint64_t to, bool write)
{
    uint64_t length;
    int rc = os_length(file_of(s), &length);
    if (rc) return rc;
    uint64_t page = os_map_page_size(), end = (length + page - 1) / page * page, middle = end < from ? from : end < to ? end : to;
    if (middle > from && (rc = os_map(base + from, middle - from, file_of(s), from, write, true))) return rc;
    return to > middle ? os_map_anonymous(base + middle, to - middle, write) : 0;
}

/* Map [from, to) of the file; in private mode what lies beyond its end is memory of our own. */
static int map_piece(mmkv_store *s, struct reservation *r, uint64_t from, uint64_t to)
{
    bool write = s->writable && (!s->shielded || s->storing);
    int rc = s->private_ ? map_private(s, r->base, from, to, write) : os_map(r->base + from, to - from, file_of(s), from, write, false);
    if (!rc && s->key >= 0) rc = os_protect(r->base + from, to - from, true, s->key);
    if (!rc && to > r->mapped) r->mapped = to; /* never less: what map_cut forgets is still there */
    return rc;
}

int map_open(mmkv_store *s, uint64_t length)
{
    uint64_t whole;
    int rc = os_length(file_of(s), &whole);
    if (rc || (rc = reserve(s, length, whole))) return rc;
    if ((rc = map_piece(s, &s->reservations[0], 0, length))) return rc;
    s->head = s->reservations[0].base;
    atomic_store_explicit(&s->base, s->reservations[0].base, memory_order_relaxed);
    atomic_store_explicit(&s->mapped, length, memory_order_release);
    return 0;
}

void map_close(mmkv_store *s)
{
    for (uint32_t i = 0; i < s->reservation_count; i++) os_unmap(s->reservations[i].base, s->reservations[i].length);
    s->reservation_count = 0;
}

/* Map the file's first `length` bytes; it is as long. */
int map_to(mmkv_store *s, uint64_t length)
{
    int rc = 0;
    pthread_mutex_lock(&s->map_mutex);
    uint64_t mapped = atomic_load_explicit(&s->mapped, memory_order_relaxed);
    if (length > mapped) {
        struct reservation *r = &s->reservations[s->reservation_count - 1];
        if (length <= r->length) {
            rc = map_piece(s, r, mapped < r->mapped ? mapped : r->mapped, length); /* nothing yet, where it failed before */
        } else if (s->private_) {
            rc = fail(MMKV_NO_MEMORY, 0, "address space of a private copy used up");
        } else if (!(rc = reserve(s, length, length))) {
            r = &s->reservations[s->reservation_count - 1];
            rc = map_piece(s, r, 0, length);
        }
        if (!rc) {
            atomic_store_explicit(&s->base, r->base, memory_order_relaxed);
            atomic_store_explicit(&s->mapped, length, memory_order_release);
        }
    }
    pthread_mutex_unlock(&s->map_mutex);
    return rc;
}

/* Map at least up to `length`, if the file is that long. A position beyond the file is the file's lie or a stale read:
 * the caller sees that at() still refuses. */
int map_more(mmkv_store *s, uint64_t length)
{
    uint64_t file_length = load_acquire(&control_of(s)->file_length), actual;
    if (length > file_length || length < FMT_PAGE) return MMKV_CORRUPT;
    if (!s->private_) {
        int rc = os_length(file_of(s), &actual);
        if (rc) return rc;
        if (actual < file_length) return handle_whole(s);
    }
    return map_to(s, file_length);
}

/* Map all that there is. Before a lock is taken: what the system refuses is told as that, and not found out half-way by
 * at(), which can only say that there is nothing. */
int map_all(mmkv_store *s)
{
    uint64_t length = load_acquire(&control_of(s)->file_length);
    return likely(length <= atomic_load_explicit(&s->mapped, memory_order_acquire)) ? 0 : map_more(s, length);
}

/* Recovery has cut the file: what lies behind is forgotten, lest the handle takes that for somebody else's doing, and mapped
 * anew when the file grows. The handle is being opened, so that nobody can be following anything there. */
void map_cut(mmkv_store *s, uint64_t length)
{
    if (atomic_load_explicit(&s->mapped, memory_order_relaxed) > length)
        atomic_store_explicit(&s->mapped, length, memory_order_release);
}

/* For the handler of faults too: no lock, no call. A reservation is complete before anybody can follow into it. */
bool map_holds(const mmkv_store *s, const void *p, uint64_t *offset)
{
    for (uint32_t i = 0; i < s->reservation_count; i++) {
        *offset = (uint64_t)((uintptr_t)p - (uintptr_t)s->reservations[i].base);
        if (*offset < s->reservations[i].length) return true;
    }
    return false;
}

uint64_t offset_of(const mmkv_store *s, const void *p)
{
    uint64_t offset;
    bool in = map_holds(s, p, &offset);
    assert(in);
    return in ? offset : 0;
}

/* ---- shielded maps ---- */

/* One key for all handles of the process, which has fifteen at most. It is never given back: a thread that may write
 * through it, because it is in a call, may write through whatever has its number. */
static int shared_key;
static FAULT_LOCAL uint32_t key_open; /* calls of this thread that may store through it */

static void make_key(void) { shared_key = os_key_new(); }

void shield_new(mmkv_store *s)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_key);
    s->shielded = true;
    s->key = shared_key;
}

/* Before anything of the map is read: to a thread that is older than the key it denies everything. */
void shield_enter(const mmkv_store *s)
{
    if (s->key >= 0 && unlikely(!os_key_readable(s->key))) os_key_set(s->key, false);
}

/* Out of a handler of a signal, where all keys deny everything. */
void shield_jumped(const mmkv_store *s)
{
    if (s->key >= 0) os_key_set(s->key, key_open != 0);
}

/* What this costs is the pages that are mapped, so none are kept from one write to the next; but those of a private copy are
 * all there is of its changes. */
static int protect(mmkv_store *s, bool write)
{
    int rc = 0;
    for (uint32_t i = 0; i < s->reservation_count && !rc; i++) {
        const struct reservation *r = &s->reservations[i];
        if (!write && !s->private_) os_untouch(r->base, r->mapped);
        rc = os_protect(r->base, r->mapped, write, -1);
    }
    return rc;
}

/* The first call in; should the kernel refuse, nothing is changed. */
static int protect_less(mmkv_store *s)
{
    int rc = 0;
    pthread_mutex_lock(&s->map_mutex);
    if (!s->storing && (rc = protect(s, true))) protect(s, false);
    else s->storing++;
    pthread_mutex_unlock(&s->map_mutex);
    return rc;
}

/* The last one out; should the kernel refuse, the map stays writable until the next one. */
static void protect_again(mmkv_store *s)
{
    pthread_mutex_lock(&s->map_mutex);
    if (!--s->storing) protect(s, false);
    pthread_mutex_unlock(&s->map_mutex);
}

/* The call in this thread's guard may store from now on. */
int shield_open(mmkv_store *s, uint8_t until)
{
    struct guard *g = guard_top;
    int rc = 0;
    assert(g->s == s);
    if (g->shield) return 0;
    if (s->key < 0) rc = protect_less(s);
    else if (!key_open++) os_key_set(s->key, true);
    if (!rc) g->shield = until;
    return rc;
}

void shield_close(struct guard *g)
{
    if (g->s->key < 0) protect_again(g->s);
    else if (!--key_open) os_key_set(g->s->key, false);
    g->shield = 0;
}

/* In a child: of all calls only those go on in it that this thread is in, if a callback has forked. */
void map_forked(mmkv_store *s)
{
    pthread_mutex_init(&s->map_mutex, NULL);
    if (!s->shielded || s->key >= 0) return;
    s->storing = 0;
    for (const struct guard *g = guard_top; g; g = g->outer) s->storing += g->s == s && g->shield;
    protect(s, s->storing != 0);
}
