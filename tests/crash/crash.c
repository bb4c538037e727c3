/* crash.c: power cuts at any moment, and what comes after them.
 *
 * A run is a world whose disk is watched while random things are done to it. At moments chosen by chance an image is made
 * of what the disk may hold then, and tried out on the spot, inside the very store or system call, after which the run goes
 * on as if nothing had happened. An image is a world too: while it recovers, and after it has been written to again, images
 * of it are made and tried out in the same way. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "world.h"

static uint32_t dumps, dump_of;  /* images kept for the independent reader; one of so many is */

/* ---- what happens to a watched file ---- */

static void schedule(struct world *w)
{
    w->next_image = w->events + 1 + rig_random(w->parent ? 1u << rig_random(15) : 1u << (8 + rig_random(9)));
}

/* Something is about to happen, or has. */
static void event(struct world *w, bool image)
{
    w->events++;
    if (!w->images_left || (!image && w->events < w->next_image)) return;
    w->images_left--;
    crash_here(w);
    schedule(w);
}

static void on_store(void *file, const void *address, uint64_t offset, uint64_t length)
{
    struct world *w = file;
    totals.stores++;
    disk_settle(&w->disk);
    world_notice(w);
    event(w, false);
    if (!rig_random(w->hurried ? 40 : 150) && w->acting && w->acting < HANDLES) world_act(w);
    disk_store(&w->disk, address, offset, length);
}

static void on_flush(void *file, uint64_t offset, uint64_t length)
{
    struct world *w = file;
    totals.flushes++;
    struct flush f = disk_flush_begin(&w->disk, offset, length, false);
    event(w, !rig_random(40));
    uint32_t acts = rig_random(2) ? rig_random(5) : 0;
    for (uint32_t i = 0; i < acts; i++) world_act(w);
    event(w, !rig_random(acts ? 8 : 40));
    disk_flush_end(&w->disk, &f);
    event(w, !rig_random(40));
}

static void on_flush_file(void *file)
{
    struct world *w = file;
    struct flush f = disk_flush_begin(&w->disk, 0, 0, true);
    event(w, !rig_random(4));
    disk_flush_end(&w->disk, &f);
}

static void on_resize(void *file, uint64_t from, uint64_t to)
{
    struct world *w = file;
    totals.resizes++;
    totals.cuts += to < from;
    disk_resize(&w->disk, from, to);
    event(w, !rig_random(20));
}

static void on_punch(void *file, uint64_t offset, uint64_t length)
{
    struct world *w = file;
    totals.punches++;
    disk_punch(&w->disk, offset, length);
    event(w, !rig_random(40));
}

static void on_write(void *file, uint64_t offset, const void *data, uint64_t length)
{
    struct world *w = file;
    disk_write(&w->disk, offset, data, length);
    event(w, false);
}

static void on_unmap(void *file) { disk_settle(&((struct world *)file)->disk); }

/* ---- images ---- */

static void write_file(const char *path, const uint8_t *bytes, uint64_t length)
{
    static const uint8_t zeros[PAGE];
    FILE *f = fopen(path, "wb");
    if (!f) abort();
    int fd = fileno(f);
    if (ftruncate(fd, (off_t)length)) abort();
    for (uint64_t i = 0; i < length; i += PAGE)
        if (memcmp(bytes + i, zeros, PAGE) && pwrite(fd, bytes + i, PAGE, (off_t)i) != PAGE) abort();
    fclose(f);
}

static uint8_t *read_file(const char *path, uint64_t *length)
{
    uint8_t *bytes = disk_memory();
    FILE *f = fopen(path, "rb");
    if (!f) abort();
    *length = fread(bytes, 1, (uint64_t)PAGES_MAX * PAGE, f);
    fclose(f);
    return bytes;
}

static uint32_t images_for(uint32_t depth) { return depth >= DEPTH_MAX ? 0 : depth == 1 ? rig_random(3) : rig_random(2); }

/* Writes, a checkpoint, writes, and another power cut. */
static void go_on(struct world *w)
{
    if (!rig_random(4)) world_open(w, 1, MMKV_MODE_WRITE);
    for (uint32_t n = 1 + rig_random(40); n; n--) world_change(w, (uint32_t)world_idle(w), 0, 60);
    world_sync(w, (uint32_t)world_idle(w));
    world_compare(w, w->handle[0], &w->now, "after writes and a checkpoint");
    for (uint32_t n = rig_random(40); n; n--) world_change(w, (uint32_t)world_idle(w), 0, 50);
    if (rig_random(3) == 0) world_sync(w, (uint32_t)world_idle(w));
    if (w->depth < DEPTH_MAX) {
        w->images_left = 0;
        crash_here(w);
    }
    world_verify(w, w->handle[0], "after more writes");
}

/* Close, in one of the ways; now and then open it once more, which must find everything. */
static void end(struct world *w)
{
    bool clean = rig_random(2);
    if (w->handle[1]) world_close(w, 1, rig_random(2));
    if (!rig_random(3)) w->images_left = w->depth < DEPTH_MAX;
    schedule(w);
    world_close(w, 0, clean);
    if (!rig_random(3)) {
        world_open(w, 0, MMKV_MODE_WRITE);
        world_compare(w, w->handle[0], &w->now, "closed and opened again");
        world_verify(w, w->handle[0], "closed and opened again");
        world_close(w, 0, false);
    }
}

/* A private copy recovers for itself: it finds the same, and the file stays as it is. */
static void look_privately(struct world *w, const uint8_t *image, uint64_t length)
{
    uint64_t after;
    const struct state *state;
    world_open(w, 0, MMKV_MODE_PRIVATE);
    w->target = world_durable(w->handle[0]);
    if (!world_allows(w, w->target, &state)) wrong(w, "a private copy is at checkpoint %llu", (unsigned long long)w->target);
    world_compare(w, w->handle[0], state, "private copy");
    world_verify(w, w->handle[0], "private copy");
    world_close(w, 0, false);
    uint8_t *bytes = read_file(w->path, &after);
    if (after != length || memcmp(bytes, image, length)) wrong(w, "a private copy changed the file");
    munmap(bytes, (uint64_t)PAGES_MAX * PAGE);
}

static void try_image(struct world *parent, enum choice choice)
{
    struct world *w = malloc(sizeof *w);
    const struct state *state;
    char copy[320];
    if (!w) abort();
    world_begin(w, parent, "image");
    uint8_t *image = disk_memory();
    uint64_t length = disk_image(&parent->disk, choice, setup.sectors, image);
    unlink(w->path);
    write_file(w->path, image, length);
    bool kept = dump_of && !rig_random(dump_of);
    uint32_t number = dumps;
    dumps += kept;
    snprintf(copy, sizeof copy, "%s/reader-%u.mmkv", setup.directory, number);
    if (kept) write_file(copy, image, length);
    w->opening = true;
    if (!rig_random(8)) look_privately(w, image, length);
    disk_open(&w->disk, image, length);
    rig_watch(w->path, w);
    w->images_left = images_for(w->depth);
    schedule(w);
    world_open(w, 0, MMKV_MODE_WRITE);
    uint64_t checkpoint = world_durable(w->handle[0]);
    if (!world_allows(w, checkpoint, &state))
        wrong(w, "opened to checkpoint %llu, image \"%s\"", (unsigned long long)checkpoint, choice_names[choice]);
    world_compare(w, w->handle[0], state, choice_names[choice]);
    world_verify(w, w->handle[0], choice_names[choice]);
    if (parent->opening) parent->target = checkpoint;
    if (kept) {
        snprintf(copy, sizeof copy, "%s/reader-%u.txt", setup.directory, number);
        world_dump(state, copy);
    }
    world_start(w, checkpoint, state);
    w->opening = false;
    go_on(w);
    end(w);
    rig_unwatch(w);
    disk_close(&w->disk);
    unlink(w->path);
    free(w);
}

void crash_here(struct world *w)
{
    mmkv_failure kept = *mmkv_failure_get();
    enum choice choice = (enum choice)rig_random(CHOICES);
    disk_settle(&w->disk);
    totals.images++;
    totals.recovering += w->opening;
    totals.chosen[choice]++;
    try_image(w, choice);
    fail_again(&kept);
}

/* ---- the run ---- */

static void step(struct world *w, uint32_t puts_of_100)
{
    uint32_t act = rig_random(1000), handle = (uint32_t)world_idle(w);
    if (act < 840) {
        for (uint32_t n = 1 + rig_random(12); n; n--) world_change(w, (uint32_t)world_idle(w), 0, puts_of_100);
    } else if (act < 960) {
        world_sync(w, handle);
    } else if (act < 970) {
        world_clear(w, handle);
    } else if (act < 983) { /* all leave, and come back */
        bool clean = rig_random(3);
        for (uint32_t i = 0; i < HANDLES; i++)
            if (w->handle[i]) world_close(w, i, clean);
        world_open(w, 0, MMKV_MODE_WRITE);
        world_compare(w, w->handle[0], &w->now, "closed and opened again");
    } else {
        uint32_t other = 1 + rig_random(HANDLES - 1);
        if (w->handle[other]) world_close(w, other, rig_random(2));
        else world_open(w, other, MMKV_MODE_WRITE);
    }
}

static void set_up(const char *directory, uint64_t seed, bool sectors)
{
    static const uint32_t keys[] = { 3000, 150, 200, 24, 60, 4000, 200 };
    rig_seed(seed * 2 + sectors);
    setup.seed = seed;
    setup.sectors = sectors;
    setup.profile = rig_random(7);
    setup.shards = 1u << rig_random(rig_random(2) ? 2 : 7); /* few: chunks fill up, and blocks are used again */
    setup.keys = 10 + rig_random(rig_random(2) ? 60 : keys[setup.profile]);
    snprintf(setup.directory, sizeof setup.directory, "%s", directory);
    if (!rig_random(4)) setup.max_size = FMT_SHARDS_AT + setup.shards * sizeof(struct fmt_shard) + 0x10000 + (2ull + rig_random(3)) * 262144;
}

/* One run in `directory`, all decided by the seed: about so many images of it, and images of those. One image in
 * `reader_of` is kept there for the independent reader, with what it must hold. Anything wrong is printed and ends the
 * process with 1. Returns the totals. */
const struct totals *crash_run(const char *directory, uint64_t seed, int sectors, uint32_t images, uint32_t reader_of,
                               mmkv_hash_function hash)
{
    static struct world w;
    uint64_t length;
    uint8_t *bytes;
    mmkv_set_hash(hash, 0);
    set_up(directory, seed, sectors);
    dump_of = reader_of;
    world_begin(&w, NULL, "run");
    unlink(w.path);
    world_open(&w, 0, MMKV_MODE_NEW);
    world_close(&w, 0, false);
    rig_hooks = (struct rig_hooks){ on_store, on_flush, on_flush_file, on_resize, on_punch, on_write, on_unmap };
    bytes = read_file(w.path, &length);
    disk_open(&w.disk, bytes, length);
    rig_watch(w.path, &w);
    w.durable = 1;
    w.epoch = 2;
    w.cut[w.cuts++] = (struct cut){ .from = 1, .to = 1 };
    w.images_left = images;
    schedule(&w);
    world_open(&w, 0, MMKV_MODE_WRITE);
    for (uint32_t n = 0, puts = 75; w.images_left && n < 20000; n++) {
        if (!rig_random(60)) puts = 15 + rig_random(80);
        step(&w, puts);
    }
    world_verify(&w, w.handle[world_idle(&w)], "at the end of the run");
    fflush(stdout);
    return &totals;
}
