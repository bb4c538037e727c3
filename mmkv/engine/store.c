/* store.c: opening, creating and closing; statistics. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>

#include "engine.h"

mmkv_hash_function engine_hash;
bool hash_calls_back;

static mmkv_hash_function hash_outside;

/* A fault may not jump over an interpreter's frames, so what it reads is not the file. */
static uint64_t hash_of_copy(const void *data, size_t length, uint64_t seed)
{
    struct guard *g = guard_top;
    uint64_t offset, hash;
    if (!g || !map_holds(g->s, data, &offset) || !(g->scratch = malloc(length + 1))) return hash_outside(data, length, seed);
    g->copied = true;
    hash = hash_outside(memcpy(g->scratch, data, length), length, seed);
    g->copied = false;
    free(g->scratch);
    return hash;
}

void mmkv_set_hash(mmkv_hash_function hash, int calls_back)
{
    hash_outside = hash;
    hash_calls_back = calls_back;
    engine_hash = calls_back ? hash_of_copy : hash;
}

uint64_t mmkv_hash(const mmkv_store *s, const void *key, size_t key_length) { return engine_hash(key, key_length, s->seed); }

/* ---- creating ---- */

static uint64_t zones_start_for(uint32_t shards)
{
    return (shard_at(shards) + FMT_ZONE_ALIGN - 1) / FMT_ZONE_ALIGN * FMT_ZONE_ALIGN;
}

union new_page { struct fmt_superblock super; struct fmt_slot slot; struct fmt_control control; uint8_t bytes[FMT_PAGE]; };

static void new_control(union new_page *page, uint64_t length)
{
    memset(page, 0, sizeof *page);
    page->control.epoch = 2;
    page->control.durable = 1;
    page->control.file_length = length;
    page->control.clean = 1;
}

/* Make an empty file a store. The superblock is written last, after everything else is on disk (R21): a file with a
 * zero first page, and nothing else than this writes, is no store yet. */
static int format_file(int fd, uint32_t shards)
{
    union new_page page;
    uint64_t start = zones_start_for(shards), seed;
    int rc = os_no_copy_on_write(fd);
    if (rc || (rc = os_allocate(fd, 0, start)) || (rc = os_random(&seed, sizeof seed))) return rc;
    memset(&page, 0, sizeof page);
    memcpy(page.slot.magic, FMT_SLOT_MAGIC, 8);
    page.slot.epoch = 1;
    page.slot.file_length = start;
    page.slot.time_ns = os_now_ns();
    page.slot.checksum = engine_hash(&page, offsetof(struct fmt_slot, checksum), seed ^ FMT_SLOT_A_AT);
    page.slot.clean = fmt_stamp(1, FMT_SLOT_A_AT + offsetof(struct fmt_slot, clean));
    if ((rc = os_write(fd, &page, sizeof page, FMT_SLOT_A_AT))) return rc;
    new_control(&page, start);
    if ((rc = os_write(fd, &page, sizeof page, FMT_CONTROL_AT))) return rc;
    memset(&page, 0, sizeof page);
    memcpy(page.super.magic, FMT_MAGIC, 8);
    page.super.version = FMT_VERSION;
    page.super.page_size = FMT_PAGE;
    page.super.hash_seed = seed;
    page.super.shard_count = shards;
    page.super.process_count = FMT_PROCESSES;
    page.super.created_ns = os_now_ns();
    page.super.zones_start = start;
    if ((rc = os_random(page.super.uuid, sizeof page.super.uuid))) return rc;
    page.super.uuid[6] = (page.super.uuid[6] & 0x0f) | 0x40; /* RFC 9562: version 4, random */
    page.super.uuid[8] = (page.super.uuid[8] & 0x3f) | 0x80;
    page.super.checksum = engine_hash(&page, offsetof(struct fmt_superblock, checksum), 0);
    if ((rc = os_write(fd, &page, sizeof page, FMT_SUPERBLOCK_COPY_AT)) || (rc = os_flush_file(fd))) return rc;
    if ((rc = os_write(fd, &page, sizeof page, FMT_SUPERBLOCK_AT)) || !(rc = os_flush_file(fd))) return rc;
    mmkv_failure kept = *mmkv_failure_get();
    os_set_length(fd, 0); /* the kernel takes the superblock for written, so that no later flush would cover it */
    fail_again(&kept);
    return rc;
}

/* The lock for opening is had before the name: who is there first cannot make us wait, and so, in mode "n", begin anew. */
static int create(mmkv_store *s, const char *path, const mmkv_options *o, uint32_t shards, bool *exists)
{
    char *name;
    int rc = os_create(path, o->permissions, &s->fd, &name);
    if (rc) return rc;
    if ((rc = attach_check_place(s->fd, o->any_file_system)) || (rc = format_file(s->fd, shards))
        || (rc = os_identity(s->fd, &s->identity)) || (rc = attach_lock(s, OS_LOCK_WRITE))) os_discard(name);
    else rc = os_publish(s->fd, name, path, o->mode == MMKV_MODE_NEW, exists);
    if (rc || *exists) {
        attach_unlock(s);
        os_close(s->fd);
        s->fd = -1;
    }
    return rc;
}

/* Is the file empty, or what an interrupted format_file leaves: nothing but zeros and the three pages it writes first?
 * Anything else is somebody's file, or was a store. */
static int is_unfinished(int fd, bool *unfinished)
{
    static const uint8_t zeros[FMT_PAGE];
    union new_page page, control;
    uint64_t length;
    size_t n;
    int rc = os_length(fd, &length);
    *unfinished = !rc && length <= zones_start_for(FMT_SHARDS_MAX);
    for (uint64_t offset = 0; !rc && *unfinished && offset < length; offset += FMT_PAGE) {
        if ((rc = os_read(fd, &page, sizeof page, offset, &n))) break;
        new_control(&control, page.control.file_length);
        bool ours = (offset == FMT_SLOT_A_AT && !memcmp(page.slot.magic, FMT_SLOT_MAGIC, 8) && page.slot.epoch == 1)
                 || (offset == FMT_SUPERBLOCK_COPY_AT && !memcmp(page.super.magic, FMT_MAGIC, 8))
                 || (offset == FMT_CONTROL_AT && !memcmp(&page, &control, sizeof page));
        *unfinished = n == FMT_PAGE && (ours || !memcmp(&page, zeros, n));
    }
    return rc;
}

/* After what was done with the lock for opening, which came to `rc`. */
static int let_others_open(int fd, int rc)
{
    bool got;
    int rc2 = os_lock(fd, FMT_LOCK_ATTACH, 1, OS_UNLOCK, &got);
    return rc ? rc : rc2;
}

/* An empty file becomes a store in place. Others may be doing the same. */
static int format_in_place(mmkv_store *s, uint32_t shards)
{
    bool unfinished = false;
    int fd = s->fd, rc = attach_wait(fd, OS_LOCK_WRITE, s->lock_timeout_ms);
    if (rc) return rc;
    rc = is_unfinished(fd, &unfinished);
    if (!rc && unfinished) rc = os_set_length(fd, 0);
    if (!rc && unfinished) rc = format_file(fd, shards);
    return let_others_open(fd, rc);
}

/* ---- opening ---- */

/* Of a file that begins as no store does: is there the copy of a superblock that was there once? */
static bool superblock_lost(int fd)
{
    struct fmt_superblock b;
    bool unfinished;
    size_t n;
    return !os_read(fd, &b, sizeof b, FMT_SUPERBLOCK_COPY_AT, &n) && n == sizeof b && !memcmp(b.magic, FMT_MAGIC, 8)
        && b.checksum == engine_hash(&b, offsetof(struct fmt_superblock, checksum), 0)
        && !is_unfinished(fd, &unfinished) && !unfinished;
}

/* Is it a store, of a kind we know? Everything a file says is input. */
static int read_superblock(mmkv_store *s)
{
    struct fmt_superblock b;
    size_t n;
    int rc = os_read(s->fd, &b, sizeof b, 0, &n);
    if (rc) return rc;
    if (n < sizeof b || memcmp(b.magic, FMT_MAGIC, 8))
        return superblock_lost(s->fd) ? fail(MMKV_CORRUPT, 0, "the superblock is damaged; a repair puts its copy in its place")
                                      : fail(MMKV_NOT_A_STORE, 0, "the file is not an mmkv store");
    if (b.version != FMT_VERSION)
        return fail(MMKV_VERSION, 8, "the store has format version %u, this mmkv knows version %u", b.version, FMT_VERSION);
    if (b.checksum != engine_hash(&b, offsetof(struct fmt_superblock, checksum), 0))
        return fail(MMKV_CORRUPT, 0, "the superblock's checksum does not hold");
    if (b.incompat & ~FMT_INCOMPAT_KNOWN)
        return fail(MMKV_VERSION, 32, "the store uses features (0x%llx) that this mmkv does not know",
                    (unsigned long long)(b.incompat & ~FMT_INCOMPAT_KNOWN));
    if ((b.ro_compat & ~FMT_RO_COMPAT_KNOWN) && s->writable)
        return fail(MMKV_VERSION, 24, "the store uses features (0x%llx) with which this mmkv can only read it: use mode \"r\"",
                    (unsigned long long)(b.ro_compat & ~FMT_RO_COMPAT_KNOWN));
    if (b.page_size != FMT_PAGE || !b.shard_count || b.shard_count > FMT_SHARDS_MAX || b.shard_count & (b.shard_count - 1)
        || b.process_count != FMT_PROCESSES || b.zones_start != zones_start_for(b.shard_count))
        return fail(MMKV_CORRUPT, 0, "the superblock contradicts itself");
    s->seed = b.hash_seed;
    s->shard_count = b.shard_count;
    s->shard_bits = (uint32_t)__builtin_ctz(b.shard_count);
    s->zones_start = b.zones_start;
    return 0;
}

/* For a repair. Of what is being made, or was, nothing is a superblock's copy. */
static int mend_superblock(mmkv_store *s)
{
    bool unfinished;
    int rc = attach_wait(s->fd, OS_LOCK_WRITE, s->lock_timeout_ms);
    if (rc) return rc;
    if (!(rc = is_unfinished(s->fd, &unfinished)) && !unfinished) rc = repair_superblock(s->fd, s->repair);
    return let_others_open(s->fd, rc);
}

/* Somebody may be making a store of an empty file, and then what is read is of several moments, half a superblock too. Before
 * that is called damage it is read once more, with the lock that whoever makes one has. */
static int check_superblock(mmkv_store *s)
{
    int rc = read_superblock(s);
    if ((rc != MMKV_CORRUPT && rc != MMKV_VERSION) || s->attach_fd >= 0) return rc; /* or had already, by create() */
    if ((rc = attach_wait(s->fd, OS_LOCK_READ, s->lock_timeout_ms))) return rc;
    return let_others_open(s->fd, read_superblock(s));
}

static int open_file(mmkv_store *s, const char *path, const mmkv_options *o)
{
    uint32_t shards = o->shards ? o->shards : FMT_SHARDS_DEFAULT;
    bool exists = false;
    int rc;
    if (shards > FMT_SHARDS_MAX || shards & (shards - 1))
        return fail(MMKV_INVALID, 0, "shards must be a power of two up to %u, not %u", FMT_SHARDS_MAX, shards);
    if (o->max_size && o->max_size < zones_start_for(shards))
        return fail(MMKV_INVALID, 0, "max_size of %llu bytes is less than the %llu of an empty store",
                    (unsigned long long)o->max_size, (unsigned long long)zones_start_for(shards));
    if (o->mode == MMKV_MODE_NEW) {
        if ((rc = create(s, path, o, shards, &exists))) return rc;
    } else {
        bool write = o->mode == MMKV_MODE_WRITE || o->mode == MMKV_MODE_CREATE;
        while ((rc = os_open(path, write, &s->fd))) {
            if (o->mode != MMKV_MODE_CREATE || mmkv_failure_get()->os_errno != ENOENT) return rc;
            if ((rc = create(s, path, o, shards, &exists))) return rc;
            if (!exists) break; /* else somebody else made it just now: open that */
        }
    }
    if ((rc = os_identity(s->fd, &s->identity))) return rc; /* before any lock: abandon() goes by it */
    if (s->repair && (rc = mend_superblock(s))) return rc;
    rc = check_superblock(s);
    if (rc != MMKV_NOT_A_STORE || o->mode != MMKV_MODE_CREATE) return rc;
    if ((rc = attach_check_place(s->fd, o->any_file_system)) || (rc = format_in_place(s, shards))) return rc;
    return check_superblock(s);
}

/* Of everything but the descriptor, also of what an attach or a detach that was broken off had in hand. */
static void let_go(mmkv_store *s)
{
    uint64_t page = os_map_page_size();
    if (s->slot_page) os_release_byte(s->slot_page);
    map_close(s);
    if (s->shared_control) os_unmap((void *)((uintptr_t)s->shared_control / page * page), page);
    attach_unlock(s);
}

static int open_store(const char *path, const mmkv_options *o, struct repair *repair, mmkv_store **store)
{
    int rc;
    *store = NULL;
    if (o->mode < MMKV_MODE_READ || o->mode > MMKV_MODE_PRIVATE) return fail(MMKV_INVALID, 0, "no such mode");
    if (!engine_hash) return fail(MMKV_INVALID, 0, "no hash function has been set");
    mmkv_store *s = aligned_alloc(64, (sizeof *s + 63) / 64 * 64);
    if (!s) return fail(MMKV_NO_MEMORY, 0, "out of memory");
    memset(s, 0, sizeof *s);
    s->fd = s->attach_fd = s->key = -1;
    s->mode = o->mode;
    s->writable = o->mode != MMKV_MODE_READ;
    s->private_ = o->mode == MMKV_MODE_PRIVATE;
    s->verify_reads = o->verify_reads != 0;
    s->max_size = o->max_size;
    s->lock_timeout_ms = o->lock_timeout_ms ? o->lock_timeout_ms : 10000;
    s->progress = o->progress;
    s->progress_context = o->progress_context;
    s->repair = repair;
    pthread_mutex_init(&s->map_mutex, NULL);
    pthread_mutex_init(&s->file_mutex, NULL);
    if (o->guard && s->writable) shield_new(s);
    handle_register(s);
    if (!(rc = open_file(s, path, o)) && !(s->path = os_absolute(path))) rc = fail_os("find the absolute path");
    faults_catch();
    if (!rc && !(rc = STORING(s, attach(s, o->mode, o->any_file_system != 0)))) {
        s->wary = s->shared_control != NULL;
        handle_ready(s, true);
        *store = s;
        return 0;
    }
    mmkv_failure kept = *mmkv_failure_get();
    handle_forget(s);
    let_go(s);
    os_close(s->fd);
    free(s->path);
    free(s);
    fail_again(&kept);
    return rc;
}

int mmkv_open(const char *path, const mmkv_options *o, mmkv_store **store) { return open_store(path, o, NULL, store); }

int mmkv_close(mmkv_store *s, int with_checkpoint)
{
    faults_catch();
    handle_ready(s, false); /* a child forked from now on would keep a slot that nobody there can close */
    int rc = STORING(s, detach(s, with_checkpoint));
    mmkv_failure kept = *mmkv_failure_get();
    handle_forget(s);
    let_go(s);
    if (os_same_file(s->fd, &s->identity)) os_close(s->fd); /* else the number is somebody else's by now */
    free(s->path);
    free(s);
    fail_again(&kept);
    return rc;
}

/* The repair is done when the handle is open; the close marks the file clean. */
int mmkv_repair(const char *path, const mmkv_options *o, mmkv_problem problem, void *context, uint64_t *records)
{
    mmkv_options options = *o;
    mmkv_store *s;
    struct repair *repair = calloc(1, sizeof *repair);
    if (!repair) return fail(MMKV_NO_MEMORY, 0, "out of memory");
    repair->problem = problem;
    repair->context = context;
    options.mode = MMKV_MODE_WRITE;
    int rc = open_store(path, &options, repair, &s);
    *records = repair->records;
    if (!rc) {
        s->repair = NULL;
        rc = mmkv_close(s, 1);
    }
    mmkv_failure kept = *mmkv_failure_get();
    free(repair);
    fail_again(&kept);
    return rc;
}

/* ---- statistics ---- */

int store_stats(mmkv_store *s, mmkv_stats *stats)
{
    const struct fmt_allocator *p = allocator_of(s);
    const struct fmt_control *control = control_of(s);
    const struct fmt_superblock *super = superblock_of(s);
    memset(stats, 0, sizeof *stats);
    stats->records = shard_records(s);
    for (uint32_t i = 0; i < s->shard_count; i++) {
        const struct fmt_shard *sh = shard_of(s, i);
        stats->data_bytes += load(&sh->bytes);
        stats->chunks += load(&sh->chunks);
        stats->tables += load(&sh->tables);
    }
    stats->zones = load(&p->zone_count);
    for (uint64_t i = 0; i < stats->zones; i++) {
        struct zone zone;
        int rc = zone_get(s, i, &zone);
        if (rc) return rc;
        *(zone.kind == FMT_ZONE_HEAP ? &stats->heap_bytes : &stats->index_bytes) += zone.pages * FMT_PAGE;
        for (uint64_t w = 0; w < bitmap_words(zone.pages); w++)
            stats->hole_bytes += (uint64_t)__builtin_popcountll(load(&zone.holes[w]) & load(&zone.free[w])) * FMT_PAGE;
    }
    stats->file_bytes = load(&control->file_length);
    stats->free_bytes = load(&p->free_pages) * FMT_PAGE;
    stats->waiting_bytes = load(&p->waiting_pages) * FMT_PAGE;
    stats->epoch = load_acquire(&control->epoch);
    stats->durable_epoch = load_acquire(&control->durable);
    stats->checkpoints = load(&control->checkpoint_count);
    stats->shards = s->shard_count;
    for (uint32_t i = 1; i < FMT_PROCESSES; i++) stats->attached += load32(&process_of(s, i)->state) && slot_alive(s, i);
    stats->created_ns = super->created_ns;
    stats->hash_seed = s->seed;
    memcpy(stats->uuid, super->uuid, 16);
    return 0;
}
