/* world.h: one store under test: its handles, what must be in it, and the disk below it. */
#ifndef CRASH_WORLD_H
#define CRASH_WORLD_H

#include <stdbool.h>

#include "engine.h"
#include "images.h"
#include "runtime.h"

enum { KEYS_MAX = 4096, HANDLES = 3, CUTS = 8, VALUE_MAX = 400000, KEY_ROOM = 2048, DEPTH_MAX = 3, ITEMS = 24 };

/* Chosen once for a run. */
struct setup {
    uint64_t seed;
    uint32_t shards, keys, profile;
    uint64_t max_size;
    bool sectors;
    char directory[256];
};
extern struct setup setup;

/* Version of each key's value; 0: the key is not there. */
struct state { int version[KEYS_MAX]; };

/* A transaction under way: what it has read, and what it is to write. It happens with one store, when nobody may act. */
struct transaction {
    uint32_t reads, writes;
    uint32_t read[ITEMS], write[ITEMS];
    int seen[ITEMS], version[ITEMS];
    uint32_t changed[ITEMS];     /* how often, when it was read */
    bool under_way, happened;
};

struct world {
    struct world *parent;        /* whose image it began as; NULL: the first */
    uint32_t depth;
    char path[320];
    struct disk disk;
    mmkv_store *handle[HANDLES];
    bool busy[HANDLES];          /* in a call */
    uint32_t acting;             /* handles that are in a call */
    bool alone;                  /* nobody may act inside the call under way */
    bool hurried;                /* others act often: there is much that they may come in between */
    bool opening;                /* being opened as an image: what it must hold is what its parent says */
    uint64_t target;             /* the checkpoint that an image of it taken meanwhile opened to; 0: none was */
    uint32_t syncing;            /* checkpoints that have been asked for and not returned */
    uint64_t durable, epoch;     /* as told by the last checkpoint to return; of the last change */
    struct state now;            /* at the end of each epoch from `epoch` on, as long as nothing changes */
    struct cut { uint64_t from, to; struct state state; } cut[CUTS];
    uint32_t cuts;
    struct transaction transaction[HANDLES];
    int changing[HANDLES];       /* the key that a put or a delete is about, or -1: its new value may be read before it returns */
    uint32_t changed[KEYS_MAX];  /* how often each key was */
    uint64_t events, next_image; /* stores and system calls; the one before which an image is made */
    uint32_t images_left;
};

/* What happened in this run: for the log, and so that a test can see that nothing is left out. */
struct totals {
    uint64_t images, recovering, cleans, stores, flushes, writes, checkpoints, nested, resizes, cuts, punches, full,
        commits, conflicts, chosen[CHOICES];
};
extern struct totals totals;

/* Print what is wrong, with the seed, and end the process. */
void wrong(const struct world *w, const char *format, ...) __attribute__((format(printf, 2, 3), noreturn));

/* world.c: what must be in a store, and doing things to it. */
void world_begin(struct world *w, struct world *parent, const char *name);
int world_open(struct world *w, uint32_t handle, int mode);
void world_close(struct world *w, uint32_t handle, bool checkpoint);
void world_start(struct world *w, uint64_t checkpoint, const struct state *state); /* what an image opened to */
void world_change(struct world *w, uint32_t handle, unsigned flags, uint32_t puts_of_100);
bool world_sync(struct world *w, uint32_t handle);
void world_clear(struct world *w, uint32_t handle);
void world_act(struct world *w);                        /* another handle does something, if locks allow */
void world_notice(struct world *w);                     /* has a transaction happened with the last store? */
uint64_t world_durable(mmkv_store *s);
bool world_allows(const struct world *w, uint64_t checkpoint, const struct state **state);
void world_compare(struct world *w, mmkv_store *s, const struct state *state, const char *when);
void world_verify(struct world *w, mmkv_store *s, const char *when);
void world_dump(const struct state *state, const char *path);
int world_idle(const struct world *w);                  /* an open handle that is in no call, or -1 */

/* crash.c */
void crash_here(struct world *w);                       /* make an image of the world as it is and try it out */

#endif
