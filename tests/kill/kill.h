/* kill.h: one store, what must be in it, and the processes that are killed over it.
 *
 * The controller (death.c) has the store open in no process of its own: it puts the file into the state in which an
 * operation is to be killed, and starts those who take part, each a process of its own. What all of them know of the
 * store lies in memory that they share (`world`), so that it outlives whoever is killed. */
#ifndef KILL_H
#define KILL_H

#include <stdbool.h>
#include <sys/types.h>

#include "engine.h"
#include "runtime.h"

enum { ITEMS = 4096, CHANGES = 64, SHARDS = 64, VALUE_MAX = 1 << 20, PAGES_MAX = 64 << 20 };

/* A key, and what a reader may find. The two differ while an operation on it is under way, or was when its process was
 * killed. A version is serial << 32 | length of the value, 0: the key is absent. */
struct item {
    char key[24];
    uint32_t key_length, shard;
    uint64_t hash, before, after;
    bool seen;                   /* a reader saw that the operation was done */
    bool together;               /* changed by a transaction, with others: see world.fate */
};

/* What every process knows. It is put back, with the file, before each death. */
struct world {
    uint64_t serial;
    uint32_t items, target, length; /* of the operation to be killed: its key, and the length of the value */
    uint32_t extra[SHARDS], large;  /* keys for those who go on */
    uint32_t deaths;             /* so far, in this chain */
    enum { UNKNOWN, HAPPENED, NOT_HAPPENED } fate; /* of the transaction, as the first of its keys has it */
    uint32_t changes, change[CHANGES], change_length[CHANGES]; /* what it writes; length 0: it removes the key */
    uint32_t reads, read[CHANGES];
    struct item item[ITEMS];
};
extern struct world *world;

/* What became of a chain of deaths. */
struct report {
    bool failed, completed;      /* completed: the operation came to its end, and its process was not killed */
    char text[1000];
    uint64_t points, processes;
    pid_t child;
};
extern struct report *report;

/* This process. */
struct me {
    mmkv_store *s;
    uint64_t points, die_at;     /* stores, and system calls that change the file, since it was armed; before which to die */
};
extern struct me me;

enum scenario_flag {
    OPENS = 1,                   /* the operation opens the store itself */
    ALONE = 2,                   /* nobody else may be attached */
    CLEAN = 4,                   /* it starts from a store that was closed cleanly */
    OTHER_BOOT = 8,              /* it starts after a power cut, when nothing volatile is to be believed */
    BROKEN = 16,                 /* only a repair opens the store */
    EMPTY = 32                   /* it starts from an empty file */
};
struct scenario {
    const char *name;
    uint32_t shards, flags;
    void (*prepare)(void);       /* makes the state */
    void (*act)(void);           /* the operation to be killed */
};
extern const struct scenario scenarios[];
extern const uint32_t scenario_count;

extern const char *store_path;
void wrong(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
pid_t start(void (*run)(void));
mmkv_store *open_store(int mode, uint64_t max_size);
void arm(uint64_t die_at);
void disarm(void);
int repair(void);

/* model.c: doing things and finding what must be there */
uint32_t item_new(uint32_t shard, uint32_t bits, uint32_t prefix);
size_t value_make(uint32_t k, uint64_t version, uint8_t *value);
void begin_put(uint32_t k, uint32_t length);
void begin_delete(uint32_t k);
void ended(uint32_t k, bool done);
int put(uint32_t k, uint32_t length, unsigned flags);
int delete(uint32_t k, bool pop);
void incr(uint32_t k);           /* a counter, to what a put of 8 bytes would store */
void swap(uint32_t k, uint32_t length); /* the value it has for another one, or, 0, for none */
int commit(void);
void sync_all(void);
void look(bool all);             /* at what is under way, as another process would */
void resolve(uint32_t k);
void read_all(void);
void verify_all(void);
void go_on(uint32_t order);
void exact(void);
void forget_future(void);

#endif
