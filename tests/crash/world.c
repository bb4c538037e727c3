/* world.c: what must be in a store, and doing things to it.
 *
 * The model is told of each operation when it has returned, with the epoch it was of. While one handle is in a call, others
 * act from inside it: between its stores, where the locks that are held allow, and during its flushes. All on one thread,
 * so that one seed makes one run. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "world.h"

struct setup setup;
struct totals totals;

void wrong(const struct world *w, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    printf("seed %llu, %s, image %llu: ", (unsigned long long)setup.seed, setup.sectors ? "sectors" : "pages",
           (unsigned long long)totals.images);
    vprintf(format, list);
    printf("\n");
    for (; w; w = w->parent)
        printf("  depth %u: event %llu, durable %llu, epoch %llu, syncing %u, opening %d, file %s\n", w->depth,
               (unsigned long long)w->events, (unsigned long long)w->durable, (unsigned long long)w->epoch, w->syncing, w->opening,
               w->path);
    va_end(list);
    fflush(stdout);
    _exit(1);
}

static uint64_t epoch_of(mmkv_store *s)
{
    uint64_t now = 0, durable;
    return mmkv_epochs(s, &now, &durable) ? 0 : now;
}

uint64_t world_durable(mmkv_store *s)
{
    uint64_t now, durable = 0;
    return mmkv_epochs(s, &now, &durable) ? 0 : durable;
}

/* ---- keys and values ---- */

static uint32_t mix(uint32_t a, uint32_t b)
{
    uint32_t h = a * 2654435761u ^ (b + 1) * 0x85ebca6bu;
    h ^= h >> 15;
    h *= 0xc2b2ae35u;
    return h ^ h >> 13;
}

static size_t make_key(uint32_t k, uint8_t key[KEY_ROOM])
{
    size_t length = k % 97 == 5 ? 1500 : k % 7 == 3 ? 40 : 4;
    memset(key, 'k', length);
    memcpy(key, &k, 4);
    return length;
}

static size_t value_length(uint32_t k, int version)
{
    uint32_t h = mix(k, (uint32_t)version), any = mix(h, 7);
    switch (setup.profile) {
    case 0: return 4 + h % 32;
    case 1: /* every size class, and extents of their own beyond */
        if (h % 64 > FMT_CLASSES) return 17000 + any % 60000;
        else {
            uint32_t size = fmt_class_size(h % 64 % FMT_CLASSES), taken = FMT_RECORD_HEADER + 4;
            return size > taken ? size - taken - (any % 3 ? 0 : any % 5 % (size - taken)) : 0;
        }
    case 2: return 900 + h % 200;
    case 3: return h % 5 ? 16000 + any % 60000 : h % 25 ? 80 : 100000 + any % 250000;
    case 4: return h % 2 ? 2500 : 4000 + any % 9000;
    case 5: return 8;
    default: return h % 10 ? h % 300 : 18000 + any % 9000;
    }
}

static size_t make_value(uint32_t k, int version, uint8_t *value)
{
    size_t length = value_length(k, version);
    uint64_t x = mix(k, (uint32_t)version) | 1;
    for (size_t i = 0; i < length; i += 8) {
        x = x * 6364136223846793005ull + 1442695040888963407ull;
        memcpy(value + i, &x, length - i < 8 ? length - i : 8);
    }
    return length;
}

/* ---- the model ---- */

static void changed(struct world *w, uint64_t epoch)
{
    if (epoch <= w->epoch) return;
    struct cut *c = &w->cut[w->cuts++ % CUTS];
    c->from = w->epoch;
    c->to = epoch - 1;
    c->state = w->now;
    w->epoch = epoch;
}

static void change(struct world *w, uint32_t k, int version)
{
    w->now.version[k] = version;
    w->changed[k]++;
}

/* May a power cut now leave the store at this checkpoint? Then *state is what it holds. Allowed are the last checkpoint
 * that returned and, while one is being made, every later epoch that has come to its end. */
bool world_allows(const struct world *w, uint64_t checkpoint, const struct state **state)
{
    if (w->opening) return (!w->target || w->target == checkpoint) && world_allows(w->parent, checkpoint, state);
    if (checkpoint < w->durable || (checkpoint > w->durable && !w->syncing)) return false;
    *state = &w->now;
    for (uint32_t i = 0; i < CUTS; i++)
        if (w->cut[i].to && w->cut[i].from <= checkpoint && checkpoint <= w->cut[i].to) *state = &w->cut[i].state;
    return true;
}

void world_begin(struct world *w, struct world *parent, const char *name)
{
    memset(w, 0, sizeof *w);
    w->parent = parent;
    w->depth = parent ? parent->depth + 1 : 0;
    for (uint32_t i = 0; i < HANDLES; i++) w->changing[i] = -1;
    snprintf(w->path, sizeof w->path, "%s/%s-%u.mmkv", setup.directory, name, w->depth);
}

void world_start(struct world *w, uint64_t checkpoint, const struct state *state)
{
    int h = world_idle(w);
    w->now = *state;
    w->durable = checkpoint;
    w->epoch = epoch_of(w->handle[h]);
    w->cut[w->cuts++] = (struct cut){ .from = 1, .to = w->epoch - 1, .state = *state };
}

static void enter(struct world *w, uint32_t handle)
{
    w->busy[handle] = true;
    w->acting++;
}

static void leave(struct world *w, uint32_t handle)
{
    w->busy[handle] = false;
    w->acting--;
}

int world_idle(const struct world *w)
{
    uint32_t first = rig_random(HANDLES);
    for (uint32_t i = 0; i < HANDLES; i++) {
        uint32_t h = (first + i) % HANDLES;
        if (w->handle[h] && !w->busy[h]) return (int)h;
    }
    return -1;
}

/* ---- doing things ---- */

int world_open(struct world *w, uint32_t handle, int mode)
{
    mmkv_options o = { .mode = mode, .shards = setup.shards, .permissions = 0600, .max_size = setup.max_size, .lock_timeout_ms = 2000,
                       .any_file_system = 1 };
    mmkv_store *s;
    enter(w, handle);
    int rc = mmkv_open(w->path, &o, &s);
    leave(w, handle);
    if (rc) wrong(w, "open: code %d, %s", rc, mmkv_failure_get()->text);
    w->handle[handle] = s;
    return rc;
}

static uint64_t durable_in_file(const struct world *w)
{
    struct fmt_control control;
    FILE *f = fopen(w->path, "rb");
    if (!f || fseek(f, FMT_CONTROL_AT, SEEK_SET) || fread(&control, sizeof control, 1, f) != 1) abort();
    fclose(f);
    return control.durable;
}

void world_close(struct world *w, uint32_t handle, bool checkpoint)
{
    mmkv_store *s = w->handle[handle];
    w->syncing += checkpoint;
    enter(w, handle);
    int rc = mmkv_close(s, checkpoint);
    leave(w, handle);
    w->handle[handle] = NULL;
    w->syncing -= checkpoint;
    if (rc) wrong(w, "close: code %d, %s", rc, mmkv_failure_get()->text);
    if (!checkpoint) return;
    w->durable = durable_in_file(w);
    for (uint32_t i = 0; i < HANDLES; i++)
        if (w->handle[i]) return;
    totals.cleans++;
    const struct state *state;
    if (!world_allows(w, w->durable, &state) || memcmp(state, &w->now, sizeof w->now)) wrong(w, "closed, and the last changes are not durable");
}

static int put(struct world *w, uint32_t handle, uint32_t k, unsigned flags)
{
    static uint8_t values[HANDLES * (DEPTH_MAX + 1)][VALUE_MAX]; /* calls are nested in calls */
    static uint32_t depth;
    static int versions;
    uint8_t key[KEY_ROOM], *value = values[depth++];
    int version = ++versions;
    size_t key_length = make_key(k, key), length = make_value(k, version, value);
    mmkv_store *s = w->handle[handle];
    enter(w, handle);
    w->changing[handle] = (int)k;
    int rc = mmkv_put(s, mmkv_hash(s, key, key_length), key, key_length, value, length, flags);
    w->changing[handle] = -1;
    leave(w, handle);
    depth--;
    if (rc) return rc;
    changed(w, epoch_of(s));
    change(w, k, version);
    return 0;
}

static int delete(struct world *w, uint32_t handle, uint32_t k, unsigned flags)
{
    uint8_t key[KEY_ROOM];
    size_t key_length = make_key(k, key);
    mmkv_store *s = w->handle[handle];
    enter(w, handle);
    w->changing[handle] = (int)k;
    int rc = mmkv_delete(s, mmkv_hash(s, key, key_length), key, key_length, NULL, 0, NULL, flags);
    w->changing[handle] = -1;
    leave(w, handle);
    if (rc == MMKV_NOT_FOUND && w->now.version[k]) wrong(w, "delete: key %u is not there", k);
    if (rc == MMKV_NOT_FOUND) return 0;
    if (rc) return rc;
    changed(w, epoch_of(s));
    change(w, k, 0);
    return 0;
}

/* ---- transactions ---- */

/* The mark that makes a transaction happen is one store, between others that are announced: so all that the model needs is
 * to look at it before each. Nobody acts before the locks are let go, and so the epoch is still the transaction's. */
static bool marked(mmkv_store *s)
{
    for (int i = 0; i < 4; i++) {
        uint64_t word = load(&process_of(s, s->slot)->reserved_extent[i]);
        struct fmt_transaction *t = word & FMT_RESERVED_TRANSACTION ? transaction_at(s, word - FMT_RESERVED_TRANSACTION) : NULL;
        if (t && t->committed) return true;
    }
    return false;
}

/* What a commit compares: bytes, of which short values of two versions may have the same. */
static bool same_value(uint32_t k, int a, int b)
{
    static uint8_t of_a[VALUE_MAX], of_b[VALUE_MAX];
    if (!a || !b) return a == b;
    size_t length = make_value(k, a, of_a);
    return make_value(k, b, of_b) == length && !memcmp(of_a, of_b, length);
}

void world_notice(struct world *w)
{
    for (uint32_t h = 0; h < HANDLES; h++) {
        struct transaction *t = &w->transaction[h];
        if (!t->under_way || t->happened || !marked(w->handle[h])) continue;
        t->happened = true;
        for (uint32_t i = 0; i < t->reads; i++)
            if (!same_value(t->read[i], w->now.version[t->read[i]], t->seen[i])) wrong(w, "commit: key %u has been changed since it was read", t->read[i]);
        changed(w, epoch_of(w->handle[h]));
        for (uint32_t i = 0; i < t->writes; i++) change(w, t->write[i], t->version[i]);
    }
}

static uint32_t any_key(const uint32_t *others, uint32_t n)
{
    for (;;) {
        uint32_t k = rig_random(setup.keys), i = 0;
        while (i < n && others[i] != k) i++;
        if (i == n) return k;
    }
}

static void choose(const struct world *w, struct transaction *t, uint32_t puts_of_100)
{
    static int versions = 1 << 30;
    uint32_t most = rig_random(8) ? 5 : ITEMS;
    memset(t, 0, sizeof *t);
    t->reads = rig_random(4);
    t->writes = 1 + rig_random(most < setup.keys / 2 ? most : setup.keys / 2);
    for (uint32_t i = 0; i < t->reads; i++) {
        t->read[i] = any_key(t->read, i);
        t->seen[i] = w->now.version[t->read[i]];
        t->changed[i] = w->changed[t->read[i]];
    }
    for (uint32_t i = 0; i < t->writes; i++) {
        t->write[i] = any_key(t->write, i);
        t->version[i] = rig_random(100) < puts_of_100 ? ++versions : 0;
    }
    t->under_way = true;
}

static void *copy_of(const void *bytes, size_t length)
{
    void *copy = malloc(length + 1);
    if (!copy) abort();
    return memcpy(copy, bytes, length);
}

static void make_items(mmkv_store *s, mmkv_item *items, const uint32_t *keys, const int *versions, uint32_t n)
{
    static uint8_t value[VALUE_MAX];
    uint8_t key[KEY_ROOM];
    for (uint32_t i = 0; i < n; i++) {
        items[i].key_length = make_key(keys[i], key);
        items[i].key = copy_of(key, items[i].key_length);
        items[i].hash = mmkv_hash(s, key, items[i].key_length);
        items[i].value_length = versions[i] ? make_value(keys[i], versions[i], value) : 0;
        items[i].value = versions[i] ? copy_of(value, items[i].value_length) : NULL;
    }
}

static int commit(struct world *w, uint32_t handle, uint32_t puts_of_100, unsigned flags)
{
    struct transaction *t = &w->transaction[handle];
    mmkv_store *s = w->handle[handle];
    mmkv_item items[2 * ITEMS];
    choose(w, t, puts_of_100);
    make_items(s, items, t->read, t->seen, t->reads);
    make_items(s, items + t->reads, t->write, t->version, t->writes);
    bool hurried = w->hurried;
    w->hurried = true;
    enter(w, handle);
    int rc = mmkv_commit(s, items, t->reads, items + t->reads, t->writes, flags);
    leave(w, handle);
    w->hurried = hurried;
    for (uint32_t i = 0; i < t->reads + t->writes; i++) {
        free((void *)(uintptr_t)items[i].key);
        free((void *)(uintptr_t)items[i].value);
    }
    t->under_way = false;
    if (t->happened != !rc) wrong(w, "commit: code %d, and it has%s happened", rc, t->happened ? "" : " not");
    totals.commits += !rc;
    if (rc != MMKV_CONFLICT) return rc;
    totals.conflicts++;
    for (uint32_t i = 0; i < t->reads; i++) {
        if (w->changed[t->read[i]] != t->changed[i]) return rc;
        for (uint32_t h = 0; h < HANDLES; h++)
            if (w->changing[h] == (int)t->read[i]) return rc;
    }
    wrong(w, "commit: a conflict over nothing");
}

void world_change(struct world *w, uint32_t handle, unsigned flags, uint32_t puts_of_100)
{
    uint32_t k = rig_random(setup.keys);
    int rc = !rig_random(4) ? commit(w, handle, puts_of_100, flags)
           : rig_random(100) < puts_of_100 ? put(w, handle, k, flags) : delete(w, handle, k, flags);
    totals.writes += !rc;
    if (rc == MMKV_CONFLICT) return;
    totals.full += rc == MMKV_FULL;
    if (rc && !(rc == MMKV_FULL && setup.max_size) && !(rc == MMKV_WOULD_BLOCK && flags & MMKV_NO_WAIT))
        wrong(w, "write: code %d, %s", rc, mmkv_failure_get()->text);
}

bool world_sync(struct world *w, uint32_t handle)
{
    mmkv_store *s = w->handle[handle];
    uint64_t now = epoch_of(s), epoch = 0;
    w->syncing++;
    enter(w, handle);
    int rc = mmkv_sync(s, 1, &epoch);
    leave(w, handle);
    w->syncing--;
    if (rc) wrong(w, "sync: code %d, %s", rc, mmkv_failure_get()->text);
    if (epoch < now && !load32(&control_of(s)->clean)) wrong(w, "sync of epoch %llu returned %llu", (unsigned long long)now, (unsigned long long)epoch);
    if (epoch > w->durable) w->durable = epoch;
    totals.checkpoints++;
    return true;
}

/* Nobody acts meanwhile: what another puts might be in or out of it. */
void world_clear(struct world *w, uint32_t handle)
{
    bool alone = w->alone;
    w->alone = true;
    enter(w, handle);
    int rc = mmkv_clear(w->handle[handle]);
    leave(w, handle);
    w->alone = alone;
    if (rc) wrong(w, "clear: code %d, %s", rc, mmkv_failure_get()->text);
    changed(w, epoch_of(w->handle[handle]));
    memset(&w->now, 0, sizeof w->now);
}

void world_act(struct world *w)
{
    int handle = world_idle(w);
    if (handle < 0 || w->alone || !w->acting) return;
    mmkv_store *s = w->handle[handle];
    if (load32(&allocator_of(s)->l.lock)) return;
    bool waits = load32(&control_of(s)->clean), leader = load32(&control_of(s)->checkpoint_lock);
    for (uint32_t i = 0; i < s->shard_count && !waits; i++) waits = load32(&shard_of(s, i)->l.lock);
    totals.nested++;
    if (!waits && !leader && !rig_random(12)) world_sync(w, (uint32_t)handle);
    else for (uint32_t n = 1 + rig_random(leader ? 6 : 2); n; n--) world_change(w, (uint32_t)handle, waits ? MMKV_NO_WAIT : 0, 60);
}

/* ---- checking ---- */

void world_compare(struct world *w, mmkv_store *s, const struct state *state, const char *when)
{
    static uint8_t got[VALUE_MAX], want[VALUE_MAX];
    uint8_t key[KEY_ROOM];
    uint64_t records = 0;
    for (uint32_t k = 0; k < setup.keys; k++) {
        size_t key_length = make_key(k, key), length = 0;
        int version = state->version[k], rc = mmkv_get(s, mmkv_hash(s, key, key_length), key, key_length, got, sizeof got, &length, 0);
        if (rc && rc != MMKV_NOT_FOUND) wrong(w, "%s: get of key %u: code %d, %s", when, k, rc, mmkv_failure_get()->text);
        if (rc ? version != 0 : !version || length != make_value(k, version, want) || memcmp(got, want, length))
            wrong(w, "%s: key %u has %s, not version %d, at checkpoint %llu", when, k, rc ? "no value" : "another value", version,
                  (unsigned long long)world_durable(s));
        records += !rc;
    }
    uint64_t counted = 0;
    if (mmkv_count(s, &counted) || counted != records)
        wrong(w, "%s: %llu records, not %llu", when, (unsigned long long)counted, (unsigned long long)records);
}

struct report { struct world *w; const char *when; };

static void problem(void *context, const char *kind, const void *key, size_t key_length, uint64_t offset, const char *text)
{
    struct report *r = context;
    (void)key; (void)key_length;
    wrong(r->w, "%s: verify: %s at offset %llu: %s", r->when, kind, (unsigned long long)offset, text);
}

void world_verify(struct world *w, mmkv_store *s, const char *when)
{
    struct report r = { w, when };
    uint64_t records;
    int rc = mmkv_verify(s, NULL, problem, &r, &records);
    if (rc) wrong(w, "%s: verify: code %d, %s", when, rc, mmkv_failure_get()->text);
}

/* For the independent reader: each record as two lengths of 4 bytes, the key and the value. */
void world_dump(const struct state *state, const char *path)
{
    static uint8_t value[VALUE_MAX];
    uint8_t key[KEY_ROOM];
    FILE *f = fopen(path, "wb");
    if (!f) abort();
    for (uint32_t k = 0; k < setup.keys; k++) {
        if (!state->version[k]) continue;
        uint32_t lengths[2] = { (uint32_t)make_key(k, key), (uint32_t)make_value(k, state->version[k], value) };
        fwrite(lengths, sizeof lengths, 1, f);
        fwrite(key, lengths[0], 1, f);
        fwrite(value, lengths[1], 1, f);
    }
    fclose(f);
}
