/* scenarios.c: the operations that are killed, and the state in which each has most to do. */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <fcntl.h>
#include <unistd.h>

#include "kill.h"

enum { SMALL = 200, LARGE = 50000 };

/* ---- making states ---- */

static void must(int rc)
{
    if (rc) wrong("while the state was made: code %d, %s", rc, mmkv_failure_get()->text);
}

static uint32_t put_new(uint32_t shard, uint32_t length)
{
    uint32_t k = item_new(shard, 0, 0);
    must(put(k, length, 0));
    return k;
}

static void some(void)
{
    for (uint32_t i = 0; i < 24; i++) put_new(i % me.s->shard_count, 10 + i * 37 % 400);
}

static struct fmt_shard *own(void) { return shard_of(me.s, 0); }

static uint32_t class_of(uint32_t k, uint32_t length) { return heap_class(FMT_RECORD_HEADER + world->item[k].key_length + length); }

/* Until a chunk has no free block left. Values of 200 bytes. */
static void fill_chunk(void)
{
    do put_new(0, SMALL);
    while (own()->class_[class_of(world->target, SMALL)].available);
}

static bool has_room(uint32_t k)
{
    struct place p;
    return !index_room(me.s, own(), world->item[k].hash, &p);
}

static uint32_t prefix_of(uint32_t k, uint32_t bits) { return fmt_bits_of(world->item[k].hash, me.s->shard_bits) >> (FMT_DEPTH_MAX - bits); }

/* Keys with the first `bits` of the target's until there is one that splits a table: the new target. */
static void fill_table(uint32_t bits)
{
    uint32_t prefix = prefix_of(world->target, bits);
    must(put(world->target, 8, 0));
    while (has_room(world->target = item_new(0, bits, prefix))) must(put(world->target, 8, 0));
}

/* Until the directory is so deep: keys most of which share so many bits. None whose removal would merge tables. */
static void deepen(uint32_t depth)
{
    for (uint32_t n = 0, now; (now = (uint32_t)(own()->directory & 63)) < depth; n++) {
        uint32_t bits = n % 3 ? depth : now, k = item_new(0, bits, prefix_of(world->target, bits));
        if (world->item[k].hash & 7) must(put(k, 8, 0));
        else world->items--;
    }
}

/* Until no page is left that a value could have. */
static void fill_heap(void)
{
    must(mmkv_close(me.s, 0));
    struct stat st;
    if (stat(store_path, &st)) must(MMKV_OS);
    me.s = open_store(MMKV_MODE_WRITE, (uint64_t)st.st_size);
    for (uint32_t length = 200000; length > 3000; length = length * 3 / 4)
        while (!put(item_new(0, 0, 0), length, 0)) {}
    for (int i = 0; i < 40; i++) put(item_new(0, 0, 0), SMALL, 0);
}

static void free_many(void)
{
    uint32_t k[12];
    for (int i = 0; i < 12; i++) k[i] = put_new(0, 60000 + 10000 * (uint32_t)i);
    sync_all();
    for (int i = 0; i < 12; i++) must(delete(k[i], false));
}

/* ---- what to prepare ---- */

static void with_put(uint32_t length) { world->length = length; }

static void put_new_key(void) { some(); with_put(SMALL); }
static void put_first(void) { with_put(SMALL); }
static void put_in_new_epoch(void) { some(); sync_all(); with_put(SMALL); }
static void put_into_chunk(void) { fill_chunk(); with_put(SMALL); }

static void put_harvest(void)
{
    fill_chunk();
    sync_all();
    for (uint32_t k = world->items - 4; k < world->items; k++) must(delete(k, false));
    sync_all();
    with_put(SMALL);
}

static void overwrite(void) { some(); must(put(world->target, SMALL, 0)); with_put(SMALL); }
static void overwrite_later(void) { overwrite(); sync_all(); }
static void overwrite_other_class(void) { overwrite_later(); with_put(3 * SMALL); }

static void overwrite_emptying(void)
{
    fill_chunk();
    must(put(world->target, SMALL, 0)); /* alone in its chunk, with another one before it in the list */
    must(delete(world->items - 1, false));
    sync_all();
    with_put(700);
}

static void split(void) { fill_table(0); with_put(SMALL); }
static void split_deeper(void) { deepen(3); fill_table(3); with_put(SMALL); }
static void split_outside(void) { deepen(FMT_DEPTH_EMBEDDED); fill_table(FMT_DEPTH_EMBEDDED); with_put(SMALL); }
static void split_outside_again(void) { deepen(8); fill_table(8); with_put(SMALL); }

/* A shallow table of a deep directory: more words than a log holds. */
static void split_many_words(void)
{
    deepen(10);
    world->target = item_new(0, 1, prefix_of(world->target, 1) ^ 1);
    fill_table(1);
    with_put(SMALL);
}

static void grow_heap(void) { fill_heap(); with_put(LARGE); }
static void grow_heap_chunk(void) { fill_heap(); with_put(40); }
static void put_full(void) { fill_heap(); with_put(LARGE); }

/* One table a shard: the last page of the zone is taken. */
static void grow_index(void)
{
    for (uint32_t i = 1; i < me.s->shard_count && allocator_of(me.s)->zone_count < 3; i++) {
        const struct fmt_zone_state *state = zone_state_of(me.s, 0);
        put_new(i, 8);
        if (zone_of(me.s, 0)->kind == FMT_ZONE_INDEX ? !state->free : !zone_state_of(me.s, 1)->free) break;
    }
    with_put(SMALL);
}

static void large(void) { some(); with_put(LARGE); }
static void large_over_large(void) { some(); must(put(world->target, LARGE, 0)); sync_all(); with_put(LARGE + 9000); }
static void large_over_young(void) { some(); must(put(world->target, LARGE, 0)); with_put(LARGE + 9000); }
static void small_over_large(void) { some(); must(put(world->target, LARGE, 0)); sync_all(); with_put(SMALL); }
static void large_over_small(void) { overwrite_later(); with_put(LARGE); }

static void single(void) { some(); with_put(5000); }
static void single_over_single(void) { some(); must(put(world->target, 5000, 0)); sync_all(); with_put(5100); }

static void delete_one(void) { overwrite_later(); }
static void delete_young(void) { overwrite(); }
static void delete_large(void) { some(); must(put(world->target, LARGE, 0)); sync_all(); }
static void delete_last(void) { must(put(world->target, SMALL, 0)); }

static void delete_emptying(void)
{
    overwrite_emptying();
}

/* Two tables with few records: the removal of a key whose hash says so merges them. */
static void delete_merging(void)
{
    fill_table(0);
    must(put(world->target, 8, 0));
    for (uint32_t k = 0; k < world->items; k++)
        if (world->item[k].before && k % 4 && world->item[k].hash & 7) must(delete(k, false));
    do world->target = item_new(0, 0, 0);
    while (world->item[world->target].hash & 7);
    must(put(world->target, 8, 0));
    if (own()->tables != 2) wrong("%llu tables", (unsigned long long)own()->tables);
}

/* The last key of many tables. */
static void delete_many_tables(void)
{
    deepen(4);
    world->target = world->items - 1;
    for (uint32_t k = 0; k < world->target; k++)
        if (world->item[k].before) must(delete(k, false));
    if (own()->tables < 5) wrong("%llu tables", (unsigned long long)own()->tables);
}

static void swap_to_absent(void) { overwrite_later(); with_put(0); }

static void counter(void) { some(); must(put(world->target, 8, 0)); }

static void act_wait(void);
static void waited_for(void) { put_new_key(); act_wait(); }

static void clear(void)
{
    some();
    for (int i = 0; i < 3; i++) put_new(0, LARGE);
    sync_all();
    for (int i = 0; i < 6; i++) put_new(0, SMALL);
}

static void clear_tables(void) { delete_merging(); }

static void checkpoint_(void)
{
    clear();
    free_many();
    for (uint32_t k = 0; k < world->items; k++)
        if (world->item[k].before && k % 3 == 0) must(delete(k, false));
}

static void first_write(void) { some(); must(put(world->target, SMALL, 0)); with_put(SMALL); }

static void recovery(void)
{
    checkpoint_();
    for (int i = 0; i < 9; i++) must(put(world->target, 100 + (uint32_t)i * 300, 0));
    put_new(0, LARGE);
    sync_all();
    /* What comes now is of a lost future. */
    struct item kept[64];
    uint32_t items = world->items;
    memcpy(kept, world->item, sizeof kept);
    for (uint32_t k = 0; k < 64; k++)
        if (world->item[k].before && k % 2) must(delete(k, false));
    for (int i = 0; i < 12; i++) put_new(i % 2, 20 + (uint32_t)i * 900);
    put_new(0, 300000);
    put_new(1, LARGE);
    memcpy(world->item, kept, sizeof kept);
    for (uint32_t k = items; k < world->items; k++) world->item[k].before = world->item[k].after = 0;
}

/* A flipped bit in a descriptor's check and no memory to be believed. */
static void broken(void)
{
    some();
    must(put(world->target, LARGE, 0));
    size_t length;
    struct place p;
    const struct item *i = &world->item[world->target];
    must(mmkv_get(me.s, i->hash, i->key, i->key_length, NULL, 0, &length, 0) == MMKV_SHORT ? 0 : MMKV_CORRUPT);
    must(index_find(me.s, own(), i->hash, i->key, i->key_length, &p));
    uint64_t at_ = offset_of(me.s, extent_at(me.s, p.record)), word;
    must(mmkv_close(me.s, 1));
    me.s = NULL;
    int fd = open(store_path, O_RDWR | O_CLOEXEC);
    if (fd < 0 || pread(fd, &word, 8, (off_t)at_) != 8) wrong("cannot break it");
    word ^= 1ull << 20;
    if (pwrite(fd, &word, 8, (off_t)at_) != 8) wrong("cannot break it");
    close(fd);
}

static void empty(void)
{
    must(mmkv_close(me.s, 1));
    me.s = NULL;
    if (truncate(store_path, 0)) wrong("cannot empty it");
}

/* ---- transactions ---- */

static void change(uint32_t k, uint32_t length)
{
    world->change[world->changes] = k;
    world->change_length[world->changes++] = length;
}

static uint32_t change_new(uint32_t shard, uint32_t length)
{
    uint32_t k = item_new(shard, 0, 0);
    change(k, length);
    return k;
}

static void read_first(uint32_t k) { world->read[world->reads++] = k; }

/* In three of four shards: new keys, overwritten ones, removed ones; of every kind of place. */
static void transaction(void)
{
    some();
    uint32_t first = put_new(1, SMALL), large_ = put_new(1, LARGE), single_ = put_new(2, 5000), gone = put_new(2, LARGE);
    change(first, 2 * SMALL);
    change(put_new(0, SMALL), 0);
    change(large_, SMALL);
    change(single_, LARGE);
    change(gone, 0);
    change_new(0, SMALL);
    change_new(1, 5000);
    change_new(1, LARGE);
    change_new(0, LARGE + 5000);
    read_first(first);
    read_first(put_new(3, SMALL));
    read_first(item_new(3, 0, 0));
}

static void transaction_later(void) { transaction(); sync_all(); }

/* The last records of two shards: chunks, tables and directories go back. */
static void transaction_emptying(void)
{
    deepen(3);
    for (uint32_t k = 0; k < world->items; k++) {
        bool chosen = world->item[k].before && world->changes < CHANGES - 8 && k % 9 == 0;
        if (chosen) change(k, 0);
        else if (world->item[k].before) must(delete(k, false));
    }
    for (int i = 0; i < 4; i++) change(put_new(1, 700 * (uint32_t)i + 60), 0);
    sync_all();
}

/* Keys of one home for each of which there is room in a table whose stash is full, and not for all: it is split when half is
 * done, and undone. */
static void transaction_split(void)
{
    fill_table(0);
    world->items--; /* the one that has no room */
    change_new(1, SMALL);
    while (world->changes < 16) {
        uint32_t k = item_new(0, 0, 0), first = world->change[1];
        if (has_room(k) && (world->changes == 1 || fmt_home_of(world->item[k].hash) == fmt_home_of(world->item[first].hash))) change(k, 8);
        else world->items--;
    }
}

static void transaction_grow(void)
{
    fill_heap();
    change_new(1, SMALL);
    change_new(0, LARGE);
    for (int i = 0; i < 30; i++) change_new(0, SMALL);
}

/* Room for a large value, and not for all the rest. */
static void transaction_full(void)
{
    uint32_t k = put_new(0, 120000);
    fill_heap();
    must(delete(k, false));
    sync_all();
    change_new(0, LARGE);
    for (int i = 0; i < 40; i++) change_new(i % 2, 1900);
}

static void transaction_many(void)
{
    some();
    for (uint32_t i = 0; i < 40; i++) change_new(i % me.s->shard_count, 20 + 60 * i);
}

static void transaction_in_vain(void)
{
    transaction();
    read_first(item_new(2, 0, 0));
}

/* ---- operations ---- */

static void act_with(unsigned flags, int expected)
{
    int rc = put(world->target, world->length, flags);
    if (rc != expected) wrong("put: code %d, %s", rc, mmkv_failure_get()->text);
}
static void act_put(void) { act_with(0, 0); }
static void act_add(void) { act_with(MMKV_ADD, 0); }
static void act_add_in_vain(void) { act_with(MMKV_ADD, MMKV_EXISTS); }
static void act_replace(void) { act_with(MMKV_REPLACE, 0); }
static void act_replace_in_vain(void) { act_with(MMKV_REPLACE, MMKV_NOT_FOUND); }

static void act_put_full(void)
{
    struct stat st;
    if (stat(store_path, &st)) wrong("stat failed");
    me.s->max_size = (uint64_t)st.st_size;
    act_with(0, MMKV_FULL);
}

static void act_commit(void) { must(commit()); }

static void act_commit_full(void)
{
    struct stat st;
    if (stat(store_path, &st)) wrong("stat failed");
    me.s->max_size = (uint64_t)st.st_size;
    int rc = commit();
    if (rc != MMKV_FULL) wrong("commit: code %d, %s", rc, mmkv_failure_get()->text);
}

/* Somebody else has stored a key that was read as absent. */
static void act_commit_in_vain(void)
{
    uint32_t k = world->read[world->reads - 1];
    must(put(k, 30, 0));
    world->item[k].before = 0;
    int rc = commit();
    world->item[k].before = world->item[k].after;
    if (rc != MMKV_CONFLICT) wrong("commit: code %d, %s", rc, mmkv_failure_get()->text);
}

static void act_delete(void) { must(delete(world->target, false)); }
static void act_pop(void) { must(delete(world->target, true)); }

static void act_swap(void) { swap(world->target, world->length); }

static void act_incr(void) { incr(world->target); }

static void act_wait(void)
{
    const struct item *i = &world->item[world->target];
    mmkv_waiting w = { .timeout_ns = UINT64_MAX };
    if (mmkv_wait(me.s, i->hash, i->key, i->key_length, NULL, 0, &w) != MMKV_WOULD_BLOCK) wrong("it did not wait");
}

static void act_clear(void)
{
    for (uint32_t k = 0; k < world->items; k++) begin_delete(k);
    must(mmkv_clear(me.s));
    for (uint32_t k = 0; k < world->items; k++) ended(k, true);
}

static void act_sync(void) { sync_all(); }

static void act_close_(int checkpoint)
{
    mmkv_store *s = me.s;
    me.s = NULL; /* nobody looks through it meanwhile */
    must(mmkv_close(s, checkpoint));
}
static void act_close(void) { act_close_(1); }
static void act_leave(void) { act_close_(0); }
static void act_open(void) { me.s = open_store(MMKV_MODE_WRITE, 0); }
static void act_create(void) { me.s = open_store(MMKV_MODE_CREATE, 0); }
static void act_verify(void) { verify_all(); }
static void act_repair(void) { must(repair()); }

static void nothing(void) { report->points = me.points; }
static void act_fork(void)
{
    int status;
    waitpid(start(nothing), &status, 0);
    if (status) kill(getpid(), SIGKILL); /* it was the child that came to the n-th store */
}

const struct scenario scenarios[] = {
    { "put", 2, 0, put_new_key, act_put },
    { "put-first", 2, 0, put_first, act_put },
    { "put-in-new-epoch", 2, 0, put_in_new_epoch, act_put },
    { "put-chunk", 2, 0, put_into_chunk, act_put },
    { "put-harvest", 2, 0, put_harvest, act_put },
    { "add", 2, 0, put_new_key, act_add },
    { "add-in-vain", 2, 0, overwrite, act_add_in_vain },
    { "replace", 2, 0, overwrite, act_replace },
    { "replace-in-vain", 2, 0, put_new_key, act_replace_in_vain },
    { "overwrite-young", 2, 0, overwrite, act_put },
    { "overwrite", 2, 0, overwrite_later, act_put },
    { "overwrite-other-class", 2, 0, overwrite_other_class, act_put },
    { "overwrite-emptying", 2, 0, overwrite_emptying, act_put },
    { "split", 2, 0, split, act_put },
    { "split-deeper", 2, 0, split_deeper, act_put },
    { "split-outside", 2, 0, split_outside, act_put },
    { "split-outside-again", 2, 0, split_outside_again, act_put },
    { "split-many-words", 2, 0, split_many_words, act_put },
    { "grow-heap", 2, 0, grow_heap, act_put },
    { "grow-heap-chunk", 2, 0, grow_heap_chunk, act_put },
    { "grow-index", 64, 0, grow_index, act_put },
    { "put-full", 2, 0, put_full, act_put_full },
    { "large", 2, 0, large, act_put },
    { "large-over-large", 2, 0, large_over_large, act_put },
    { "large-over-young", 2, 0, large_over_young, act_put },
    { "large-over-small", 2, 0, large_over_small, act_put },
    { "small-over-large", 2, 0, small_over_large, act_put },
    { "single", 2, 0, single, act_put },
    { "single-over-single", 2, 0, single_over_single, act_put },
    { "commit", 4, 0, transaction, act_commit },
    { "commit-later", 4, 0, transaction_later, act_commit },
    { "commit-clean", 4, CLEAN, transaction, act_commit },
    { "commit-emptying", 2, 0, transaction_emptying, act_commit },
    { "commit-split", 2, 0, transaction_split, act_commit },
    { "commit-grow", 2, 0, transaction_grow, act_commit },
    { "commit-full", 2, 0, transaction_full, act_commit_full },
    { "commit-many", 32, 0, transaction_many, act_commit },
    { "commit-in-vain", 4, 0, transaction_in_vain, act_commit_in_vain },
    { "delete", 2, 0, delete_one, act_delete },
    { "delete-young", 2, 0, delete_young, act_delete },
    { "delete-large", 2, 0, delete_large, act_delete },
    { "delete-last", 2, 0, delete_last, act_delete },
    { "delete-emptying", 2, 0, delete_emptying, act_delete },
    { "delete-merging", 2, 0, delete_merging, act_delete },
    { "delete-many-tables", 2, 0, delete_many_tables, act_delete },
    { "pop", 2, 0, delete_one, act_pop },
    { "pop-large", 2, 0, delete_large, act_pop },
    { "swap", 2, 0, overwrite, act_swap },
    { "swap-absent", 2, 0, put_new_key, act_swap },
    { "swap-to-absent", 2, 0, swap_to_absent, act_swap },
    { "swap-large", 2, 0, large_over_large, act_swap },
    { "incr", 2, 0, counter, act_incr },
    { "incr-absent", 2, 0, put_new_key, act_incr },
    { "wait", 2, 0, put_new_key, act_wait },
    { "put-waited-for", 2, 0, waited_for, act_put },
    { "clear", 2, 0, clear, act_clear },
    { "clear-tables", 2, 0, clear_tables, act_clear },
    { "sync", 2, 0, checkpoint_, act_sync },
    { "first-write", 2, CLEAN, first_write, act_put },
    { "close", 2, 0, checkpoint_, act_close },
    { "leave", 2, 0, checkpoint_, act_leave },
    { "open", 2, OPENS, put_new_key, act_open },
    { "open-clean", 2, OPENS | CLEAN, put_new_key, act_open },
    { "recovery", 2, OPENS | ALONE | OTHER_BOOT, recovery, act_open },
    { "repair", 2, OPENS | ALONE | BROKEN, broken, act_repair },
    { "create", 2, OPENS | ALONE | EMPTY, empty, act_create },
    { "fork", 2, 0, put_new_key, act_fork },
    { "verify", 4, 0, put_new_key, act_verify },
};
const uint32_t scenario_count = sizeof scenarios / sizeof *scenarios;
