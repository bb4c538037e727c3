/* runtime.h: what the rigs see of a running engine: each store to a mapped file before it is made, and each system call
 * that changes a file or makes it durable.
 *
 * The engine is compiled with -fsanitize=thread, but linked with the callbacks of runtime.c in place of the sanitizer, so
 * that every store to memory is announced; its memcpy and memset are replaced by ones that store word by word and announce
 * each. System calls are taken at the linker (--wrap): build.py has the list. Files that nobody watches are left alone,
 * but nothing is ever flushed to a real disk. All of it is meant for one thread. */
#ifndef RIG_RUNTIME_H
#define RIG_RUNTIME_H

#include <stdint.h>

struct rig_hooks {
    void (*store)(void *file, const void *address, uint64_t offset, uint64_t length); /* before it is made */
    void (*flush)(void *file, uint64_t offset, uint64_t length);                      /* instead of msync */
    void (*flush_file)(void *file);                                                   /* instead of fsync */
    void (*resize)(void *file, uint64_t from, uint64_t to);                           /* the rest: after it is done */
    void (*punch)(void *file, uint64_t offset, uint64_t length);
    void (*write)(void *file, uint64_t offset, const void *data, uint64_t length);
    void (*unmap)(void *file);                                                        /* before it is done */
};
extern struct rig_hooks rig_hooks;

/* From now on the hooks are told of what happens to the file at `path`, as `file`. To the engine each watched file looks
 * as if it had been made in another boot of the machine: its identity matches no other file's. */
void rig_watch(const char *path, void *file);
void rig_unwatch(void *file);

/* One source of chance for a whole run, which the engine's hash seeds come from too. */
void rig_seed(uint64_t seed);
uint32_t rig_random(uint32_t below);

/* From now on, in this process and those it forks: whoever waits for another process waits no time, but its clock goes on
 * by as much, since the other is dead. All that was slept so far, and a way to let time pass. */
void rig_simulate_waiting(void);
uint64_t rig_slept_ns(void);
void rig_pass_ns(uint64_t ns);

#endif
