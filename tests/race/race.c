/* race.c: threads that do everything at once with two handles of one file, for so many seconds.
 *
 *     race FILE SEED SECONDS THREADS
 *
 * What is wrong is the sanitizer's to say; but each value is one word again and again, with its key in it, so that a torn
 * one, and another key's, is seen as well, and in the end the store has to pass verify(). */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mmkv.h"

enum { HANDLES = 2, THREADS_MAX = 16, HOT = 12, KEYS = 3000, COUNTERS = 3, LARGEST = 144000, SCANNED = 65536, SOME = 6 };

static const char *path;
static mmkv_store *handles[HANDLES];
static struct timespec end;

struct thread {
    pthread_t id;
    mmkv_store *s;
    uint64_t chance, number, values, calls;
    uint64_t old[LARGEST / 8], new[LARGEST / 8];
};

static void wrong(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "; the last failure: %s\n", mmkv_failure_get()->text);
    _Exit(1);
}

/* ---- chance ---- */

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

static uint32_t below(struct thread *t, uint32_t limit)
{
    t->chance += 0x9e3779b97f4a7c15ull;
    return (uint32_t)(mix(t->chance) % limit);
}

static uint64_t hash(const void *data, size_t length, uint64_t seed)
{
    uint64_t h = seed + length, word;
    const uint8_t *p = data;
    for (; length >= 8; p += 8, length -= 8) {
        memcpy(&word, p, 8);
        h = mix(h ^ word) + 0x9e3779b97f4a7c15ull;
    }
    for (; length; p++, length--) h = mix(h ^ *p) + 1;
    return mix(h);
}

/* ---- keys and values ---- */

/* Half of all calls are about a few keys. */
static uint64_t key(struct thread *t) { return below(t, 2) ? below(t, HOT) : below(t, KEYS); }
static uint64_t hash_of(struct thread *t, const uint64_t *key) { return mmkv_hash(t->s, key, sizeof *key); }
#define KEY(t, k) (t)->s, hash_of((t), &(k)), &(k), sizeof(k)

static size_t length(struct thread *t)
{
    uint32_t kind = below(t, 100);
    return 8 * (size_t)(1 + (kind < 80 ? below(t, 60) : kind < 98 ? below(t, 600) : below(t, LARGEST / 8)));
}

static size_t make_value(struct thread *t, uint64_t *to, size_t n, uint64_t k)
{
    uint64_t word = k | t->number << 16 | ++t->values << 24;
    for (size_t i = 0; i < n / 8; i++) to[i] = word;
    return n;
}

static void look(const uint64_t *value, size_t n, uint64_t k)
{
    if (!n || n % 8 || (*value & 0xffff) != k) wrong("%zu bytes that begin with %#llx are no value of key %llu", n, (unsigned long long)*value, (unsigned long long)k);
    for (size_t i = 1; i < n / 8; i++)
        if (value[i] != *value) wrong("a value of key %llu is torn after %zu of %zu bytes", (unsigned long long)k, 8 * i, n);
}

/* 0, or a code that is no failure. A wait that was broken off to look for signals is taken up again. */
#define CALL(call, ...) __extension__({                                     \
    int rc_;                                                                \
    do rc_ = (call);                                                        \
    while (rc_ == MMKV_INTERRUPTED);                                        \
    allow(#call, rc_, (const int[]){ __VA_ARGS__, 0 }); })

static int allow(const char *what, int rc, const int *codes)
{
    for (; rc && rc != *codes; codes++)
        if (!*codes) wrong("%s: code %d", what, rc);
    return rc;
}

/* ---- what a thread does ---- */

static int get(struct thread *t, uint64_t k, size_t *n)
{
    int rc = CALL(mmkv_get(KEY(t, k), t->old, sizeof t->old, n, 0), MMKV_NOT_FOUND);
    if (!rc) look(t->old, *n, k);
    return rc;
}

static void do_get(struct thread *t)
{
    size_t n;
    get(t, key(t), &n);
}

static void do_put(struct thread *t)
{
    static const unsigned flags[] = { 0, 0, 0, MMKV_ADD, MMKV_REPLACE, MMKV_NO_WAIT };
    uint64_t k = key(t);
    size_t n = make_value(t, t->new, length(t), k);
    CALL(mmkv_put(KEY(t, k), t->new, n, flags[below(t, 6)]), MMKV_EXISTS, MMKV_NOT_FOUND, MMKV_WOULD_BLOCK);
}

static void do_delete(struct thread *t)
{
    uint64_t k = key(t);
    CALL(mmkv_delete(KEY(t, k), NULL, 0, NULL, 0), MMKV_NOT_FOUND);
}

static void do_pop(struct thread *t)
{
    uint64_t k = key(t);
    size_t n;
    if (!CALL(mmkv_delete(KEY(t, k), t->old, sizeof t->old, &n, 0), MMKV_NOT_FOUND)) look(t->old, n, k);
}

static void do_swap(struct thread *t)
{
    uint64_t k = key(t);
    size_t n;
    int done, there = !get(t, k, &n);
    size_t length_ = make_value(t, t->new, length(t), k);
    CALL(mmkv_swap(KEY(t, k), there ? t->old : NULL, n, below(t, 4) ? t->new : NULL, length_, 0, &done), 0);
}

static void do_incr(struct thread *t)
{
    uint64_t k = KEYS + below(t, COUNTERS);
    int64_t result;
    CALL(mmkv_incr(KEY(t, k), 1, 0, 0, &result), 0);
}

static void do_scan(struct thread *t)
{
    uint64_t cursor = 0;
    uint8_t *buffer = (uint8_t *)t->old;
    size_t used = 0;
    while (!CALL(mmkv_scan(t->s, &cursor, buffer, SCANNED, &used, 1, 4096, 0), MMKV_NOT_FOUND)) {
        for (size_t at = 0; at < used;) {
            uint32_t key_length;
            uint64_t value_length, k;
            memcpy(&key_length, buffer + at, 4);
            memcpy(&value_length, buffer + at + 8, 8);
            memcpy(&k, buffer + at + 16, 8);
            bool with = value_length <= 4096;
            if (with && k < KEYS) look((const uint64_t *)(const void *)(buffer + at + 16 + key_length), value_length, k);
            at += (16 + key_length + (with ? value_length : 0) + 7) & ~(size_t)7;
        }
    }
}

static void do_wait(struct thread *t)
{
    uint64_t k = below(t, HOT);
    size_t n;
    mmkv_waiting w = { .timeout_ns = 2000000 };
    bool there = !get(t, k, &n);
    while (CALL(mmkv_wait(KEY(t, k), there ? t->old : NULL, n, &w), MMKV_WOULD_BLOCK, MMKV_TIMEOUT) == MMKV_WOULD_BLOCK) {}
}

/* Reads some keys, of which it writes some, or none. */
static void do_commit(struct thread *t)
{
    uint64_t k[SOME];
    mmkv_item reads[SOME], writes[SOME];
    size_t n, used = 0, written = below(t, 3) ? below(t, SOME) + 1 : 0;
    uint64_t first = key(t);
    for (size_t i = 0; i < SOME; i++) {
        k[i] = (first + i * 7) % KEYS;
        reads[i] = (mmkv_item){ .hash = hash_of(t, &k[i]), .key = &k[i], .key_length = sizeof k[i] };
        writes[i] = reads[i];
        if (!CALL(mmkv_get(KEY(t, k[i]), t->old + used, 16384, &n, 0), MMKV_NOT_FOUND, MMKV_SHORT)) {
            if (n > 16384) return;
            look(t->old + used, n, k[i]);
            reads[i].value = t->old + used;
            reads[i].value_length = n;
            used += n / 8;
        }
    }
    for (size_t i = 0; i < written; i++) {
        if (!below(t, 4)) continue;
        uint64_t *value = t->new + i * (LARGEST / 8 / SOME);
        size_t least = length(t), most = LARGEST / SOME;
        writes[i].value = value;
        writes[i].value_length = make_value(t, value, least < most ? least : most, k[i]);
    }
    CALL(mmkv_commit(t->s, reads, SOME, writes, written, 0), MMKV_CONFLICT);
}

static void do_sync(struct thread *t)
{
    uint64_t epoch = 0;
    int wait = below(t, 4) != 0;
    CALL(mmkv_sync(t->s, wait, &epoch), 0);
}

static void do_look_around(struct thread *t)
{
    mmkv_stats stats;
    uint64_t records, now, durable;
    uint32_t me;
    int alive;
    CALL(mmkv_stats_get(t->s, &stats), 0);
    CALL(mmkv_count(t->s, &records), 0);
    CALL(mmkv_epochs(t->s, &now, &durable), 0);
    CALL(mmkv_me(t->s, &me, &now), 0);
    CALL(mmkv_alive(t->s, me, now, &alive), 0);
    if (!alive) wrong("a handle that is open is not alive");
    mmkv_prefetch(t->s, now, 0);
}

static void do_clear(struct thread *t) { CALL(mmkv_clear(t->s), 0); }

static void problem(void *context, const char *kind, const void *key_, size_t key_length, uint64_t offset, const char *text)
{
    (void)context, (void)key_, (void)key_length;
    wrong("verify: %s at %llu: %s", kind, (unsigned long long)offset, text);
}

static void do_verify(struct thread *t)
{
    uint64_t records;
    CALL(mmkv_verify(t->s, NULL, problem, NULL, &records), 0);
}

static mmkv_store *open_(int mode, uint32_t shards)
{
    mmkv_store *s;
    mmkv_options options = { .mode = mode, .shards = shards, .permissions = 0600, .lock_timeout_ms = 300000 };
    CALL(mmkv_open(path, &options, &s), 0);
    return s;
}

/* One who comes, does a little and leaves. */
static void do_visit(struct thread *t)
{
    mmkv_store *kept = t->s;
    bool reads = below(t, 3) == 0;
    t->s = open_(reads ? MMKV_MODE_READ : MMKV_MODE_WRITE, 0);
    for (int i = 0; i < 5; i++) {
        do_get(t);
        if (!reads) do_put(t);
    }
    CALL(mmkv_close(t->s, below(t, 2) && !reads), 0);
    t->s = kept;
}

static const struct { void (*act)(struct thread *t); uint32_t weight; } acts[] = {
    { do_get, 300 }, { do_put, 300 }, { do_delete, 100 }, { do_pop, 50 }, { do_swap, 80 }, { do_incr, 60 }, { do_commit, 100 },
    { do_wait, 20 }, { do_sync, 15 }, { do_scan, 6 }, { do_look_around, 6 }, { do_visit, 4 }, { do_verify, 1 }, { do_clear, 1 },
};

static bool over(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec > end.tv_sec || (now.tv_sec == end.tv_sec && now.tv_nsec >= end.tv_nsec);
}

static void *run(void *argument)
{
    struct thread *t = argument;
    uint32_t all = 0;
    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++) all += acts[i].weight;
    for (; !over(); t->calls++) {
        uint32_t i = 0, chosen = below(t, all);
        while (chosen >= acts[i].weight) chosen -= acts[i++].weight;
        acts[i].act(t);
    }
    return NULL;
}

int main(int count, char **argument)
{
    if (count != 5) return 2;
    path = argument[1];
    uint64_t seed = strtoull(argument[2], NULL, 10), calls = 0;
    double seconds = strtod(argument[3], NULL);
    uint32_t n = (uint32_t)strtoul(argument[4], NULL, 10);
    struct thread *t = calloc(THREADS_MAX, sizeof *t);
    if (!t || !n || n > THREADS_MAX) return 2;
    mmkv_set_hash(hash, 0);
    for (int i = 0; i < HANDLES; i++) handles[i] = open_(MMKV_MODE_CREATE, 1u << seed % 5);
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += (time_t)seconds;
    end.tv_nsec += (long)((seconds - (double)(time_t)seconds) * 1e9);
    if (end.tv_nsec >= 1000000000) end.tv_sec++, end.tv_nsec -= 1000000000;
    for (uint32_t i = 0; i < n; i++) {
        t[i].s = handles[i % HANDLES];
        t[i].number = i;
        t[i].chance = mix(seed) + i;
        if (pthread_create(&t[i].id, NULL, run, &t[i])) return 2;
    }
    for (uint32_t i = 0; i < n; i++) {
        pthread_join(t[i].id, NULL);
        calls += t[i].calls;
    }
    do_verify(t);
    for (int i = 0; i < HANDLES; i++) CALL(mmkv_close(handles[i], 1), 0);
    t->s = open_(MMKV_MODE_WRITE, 0);
    do_verify(t);
    CALL(mmkv_close(t->s, 1), 0);
    printf("%llu\n", (unsigned long long)calls);
    return 0;
}
