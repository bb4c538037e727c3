/* entry.c: the public functions that use the map, each in a guard (fault.c), and nothing more: what is in one function with
 * a guard keeps its variables in memory. mmkv_open, mmkv_close and mmkv_verify have things to clean up, and guard what
 * they call.
 *
 * A new function has to choose: STORING if it stores to the map with no lock held (a process slot, a reservation, the
 * control area), else GUARDED. Wrongly GUARDED it dies of SIGSEGV on a handle opened with `guard`, as all are with
 * MMKV_GUARD=1 in the environment; wrongly STORING it is slow there. */
#include "engine.h"

/* ---- keys ---- */

int mmkv_get(mmkv_store *s, uint64_t hash, const void *key, size_t key_length, void *buffer, size_t capacity,
             size_t *value_length, unsigned flags)
{
    return GUARDED(s, shard_get(s, hash, key, key_length, buffer, capacity, value_length, flags));
}

int mmkv_contains(mmkv_store *s, uint64_t hash, const void *key, size_t key_length, unsigned flags)
{
    return mmkv_get(s, hash, key, key_length, NULL, 0, NULL, flags);
}

void mmkv_prefetch(mmkv_store *s, uint64_t hash, int stage)
{
    GUARDED(s, (shard_prefetch(s, hash, stage), 0)); /* who uses the page next is told */
}

int mmkv_put(mmkv_store *s, uint64_t hash, const void *key, size_t key_length, const void *value, size_t value_length,
             unsigned flags)
{
    return STORING(s, shard_put(s, hash, key, key_length, value, value_length, flags));
}

int mmkv_delete(mmkv_store *s, uint64_t hash, const void *key, size_t key_length, void *buffer, size_t capacity,
                size_t *value_length, unsigned flags)
{
    return STORING(s, shard_delete(s, hash, key, key_length, buffer, capacity, value_length, flags));
}

int mmkv_swap(mmkv_store *s, uint64_t hash, const void *key, size_t key_length, const void *expected, size_t expected_length,
              const void *value, size_t value_length, unsigned flags, int *done)
{
    return STORING(s, shard_swap(s, hash, key, key_length, expected, expected_length, value, value_length, flags, done));
}

int mmkv_incr(mmkv_store *s, uint64_t hash, const void *key, size_t key_length, int64_t delta, int64_t initial, unsigned flags,
              int64_t *result)
{
    return STORING(s, shard_incr(s, hash, key, key_length, delta, initial, flags, result));
}

int mmkv_wait(mmkv_store *s, uint64_t hash, const void *key, size_t key_length, const void *old, size_t old_length,
              mmkv_waiting *w)
{
    return GUARDED(s, shard_wait(s, hash, key, key_length, old, old_length, w));
}

int mmkv_me(mmkv_store *s, uint32_t *handle, uint64_t *start_ns)
{
    return GUARDED(s, handle_name(s, handle, start_ns));
}

int mmkv_alive(mmkv_store *s, uint32_t handle, uint64_t start_ns, int *alive)
{
    return GUARDED(s, handle_alive(s, handle, start_ns, alive));
}

int mmkv_scan(mmkv_store *s, uint64_t *cursor, void *buffer, size_t capacity, size_t *used, int with_values,
              size_t value_limit, unsigned flags)
{
    return GUARDED(s, shard_scan(s, cursor, buffer, capacity, used, with_values, value_limit, flags));
}

/* ---- the whole store; slow enough to see to the handler first ---- */

int mmkv_clear(mmkv_store *s)
{
    faults_catch();
    return STORING(s, shard_clear(s));
}

static int count(mmkv_store *s, uint64_t *records)
{
    int rc = shard_stale(s);
    *records = rc ? 0 : shard_records(s);
    return rc;
}

int mmkv_count(mmkv_store *s, uint64_t *records)
{
    return GUARDED(s, count(s, records));
}

/* msync of pages beyond the end of a file says nothing, so the length is asked, before and after. */
static int sync_whole(mmkv_store *s, int wait, uint64_t *epoch)
{
    int rc = shard_stale(s);
    if (!rc && !(rc = handle_whole(s)) && !(rc = checkpoint_sync(s, wait, epoch))) rc = handle_whole(s);
    return rc;
}

int mmkv_sync(mmkv_store *s, int wait, uint64_t *epoch)
{
    faults_catch();
    return STORING(s, sync_whole(s, wait, epoch));
}

static int epochs(mmkv_store *s, uint64_t *now, uint64_t *durable)
{
    int rc = shard_stale(s);
    *now = rc ? 0 : load_acquire(&control_of(s)->epoch);
    *durable = rc ? 0 : load_acquire(&control_of(s)->durable);
    return rc;
}

int mmkv_epochs(mmkv_store *s, uint64_t *now, uint64_t *durable)
{
    return GUARDED(s, epochs(s, now, durable));
}

static int stats_whole(mmkv_store *s, mmkv_stats *stats)
{
    int rc = shard_stale(s);
    if (!rc && !(rc = handle_whole(s)) && !(rc = store_stats(s, stats))) rc = shard_stale(s);
    return rc;
}

int mmkv_stats_get(mmkv_store *s, mmkv_stats *stats)
{
    faults_catch();
    return GUARDED(s, stats_whole(s, stats));
}
