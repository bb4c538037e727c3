/* target.c: open a file that lies, and use it: get, iterate, verify, put, delete, recover, sync, close. Nothing that the
 * file says may lead to a crash, an access out of bounds, undefined behaviour, a hang, or an allocation or growth that has
 * nothing to do with the file's size. Errors are welcome: the engine's codes for a bad file.
 *
 * The functions named LLVMFuzzer... are what libFuzzer calls; driver.c calls the same where there is no clang. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz.h"

enum { BUFFER = 1 << 16, SCAN_NEEDS_MAX = 1 << 27, GROWTH_MAX = 1 << 25 };

static char directory[64], path[96];
static mmkv_hash_function hash_used;
static int work = -1;            /* the file, always the same one: an identity is of an inode */
static unsigned problems;

void must(bool good, const char *what)
{
    if (good) return;
    fprintf(stderr, "broken: %s (last failure: %s)\n", what, mmkv_failure_get()->text);
    abort();
}

/* Any good hash will do, since the stores are made with it too; this one needs no library. */
static uint64_t plain_hash(const void *data, size_t length, uint64_t seed)
{
    const uint8_t *p = data;
    uint64_t h = seed ^ (length * 0x9e3779b97f4a7c15ull), w;
    for (; length >= 8; p += 8, length -= 8) {
        memcpy(&w, p, 8);
        h = (h ^ w) * 0xd6e8feb86659fd93ull;
        h ^= h >> 29;
    }
    for (w = 0; length; length--) w = w << 8 | p[length - 1];
    h = (h ^ w) * 0xff51afd7ed558ccdull;
    h ^= h >> 32;
    h *= 0xc4ceb9fe1a85ec53ull;
    return h ^ h >> 29;
}

uint64_t fuzz_hash(const void *data, size_t length, uint64_t seed) { return hash_used(data, length, seed); }

static void remove_directory(void)
{
    unlink(path);
    rmdir(directory);
}

static void prepare(mmkv_hash_function hash)
{
    if (work >= 0) return;
    hash_used = hash;
    mmkv_set_hash(hash, 0);
    const char *parent = access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm";
    snprintf(directory, sizeof directory, "%s/mmkv-fuzz-XXXXXX", parent);
    must(mkdtemp(directory) != NULL, "make a directory");
    snprintf(path, sizeof path, "%s/store", directory);
    atexit(remove_directory);
    bases_make(path);
    work = open(path, O_RDWR | O_CLOEXEC);
    must(work >= 0, "open the file again");
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    prepare(plain_hash);
    return 0;
}

/* ---- using it ---- */

static void problem(void *context, const char *kind, const void *key, size_t key_length, uint64_t offset, const char *text)
{
    static volatile uint8_t sink;
    (void)context;
    (void)offset;
    for (size_t i = 0; i < key_length; i++) sink = (uint8_t)(sink + ((const uint8_t *)key)[i]);
    must(strlen(kind) > 0 && strlen(text) > 0, "a problem says what it is");
    problems++;
}

static void check_code(int code)
{
    must(code >= 0 && code <= MMKV_STOPPED && code != MMKV_INVALID && code != MMKV_NO_MEMORY, "a code for a bad file");
}

static void read_all(mmkv_store *s, const struct base *b)
{
    static uint8_t buffer[BUFFER];
    char key[64];
    size_t length;
    for (uint32_t i = 0; i < b->keys; i += b->keys > KEYS ? 97 : 1) {
        size_t k = key_make(i, key);
        int code = mmkv_get(s, mmkv_hash(s, key, k), key, k, buffer, i % 2 ? sizeof buffer : 100, &length, 0);
        check_code(code);
        must(code != MMKV_SHORT || length < b->length + GROWTH_MAX, "a value is no longer than the file");
        check_code(mmkv_contains(s, mmkv_hash(s, key, k), key, k, 0));
        if (code == MMKV_LOCK_TIMEOUT) return;
    }
}

static void scan_all(mmkv_store *s)
{
    size_t capacity = BUFFER, used;
    uint8_t *buffer = malloc(capacity);
    uint64_t cursor = 0, before = 0;
    for (int code; !(code = mmkv_scan(s, &cursor, buffer, capacity, &used, 1, 16384, 0)) || code == MMKV_SHORT; before = cursor) {
        must(used <= capacity || code == MMKV_SHORT, "a scan stays in its buffer");
        must(cursor > before || code == MMKV_SHORT, "a scan goes on");
        if (code != MMKV_SHORT) continue;
        must(used > capacity && used < SCAN_NEEDS_MAX, "a scan asks for what it needs");
        buffer = realloc(buffer, capacity = used);
        must(buffer, "memory");
    }
    free(buffer);
}

static void verify_all(mmkv_store *s)
{
    uint64_t records;
    int code = mmkv_verify(s, NULL, problem, NULL, &records);
    check_code(code);
}

static void write_some(mmkv_store *s, const struct base *b)
{
    static uint8_t buffer[BUFFER];
    char key[64];
    uint8_t *value;
    uint64_t epoch = 0;
    size_t length;
    for (uint32_t i = 0; i < 40; i++) {
        uint32_t number = i % 3 || !b->keys ? 1000000 + i : i * 5 % b->keys;
        size_t k = key_make(number, key), v = value_make((i * 11) % KEYS, &value);
        int code = mmkv_put(s, mmkv_hash(s, key, k), key, k, value, v, 0);
        check_code(code);
        if (code == MMKV_LOCK_TIMEOUT) return;
        if (i % 4 != 2) continue;
        k = key_make(i * 3, key);
        check_code(mmkv_delete(s, mmkv_hash(s, key, k), key, k, i % 8 == 2 ? buffer : NULL, sizeof buffer, &length, 0));
        if (i != 18 && i != 38) continue;
        epoch = 0;
        check_code(mmkv_sync(s, 1, &epoch));
    }
}

static void use(const struct base *b, int mode)
{
    mmkv_options o = { .mode = mode, .lock_timeout_ms = 100, .any_file_system = 1 };
    mmkv_store *s;
    mmkv_stats stats;
    int code = mmkv_open(path, &o, &s);
    check_code(code);
    if (code) {
        must(mmkv_failure_get()->text[0], "a refusal says why");
        return;
    }
    uint64_t records;
    (void)mmkv_count(s, &records);
    read_all(s, b);
    scan_all(s);
    verify_all(s);
    check_code(mmkv_stats_get(s, &stats));
    if (mode != MMKV_MODE_READ) {
        write_some(s, b);
        scan_all(s);
        verify_all(s);
        if (mode == MMKV_MODE_WRITE && b->length % 3 == 0) check_code(mmkv_clear(s));
    }
    check_code(mmkv_close(s, mode == MMKV_MODE_WRITE));
}

/* Stamp the work file's own identity over that of the file that the store was made in. */
static void identify(uint8_t *image, uint64_t length, const struct base *b)
{
    static struct fmt_control own;
    if (length < FMT_PROCESSES_AT || !b->identified || b->clean) return;
    if (!own.inode) { /* as the engine finds it */
        const struct base *clean = base_number(0);
        mmkv_options o = { .mode = MMKV_MODE_WRITE, .any_file_system = 1 };
        mmkv_store *s = NULL;
        must(pwrite(work, clean->image, clean->length, 0) == (ssize_t)clean->length && !mmkv_open(path, &o, &s), "open a store");
        must(!mmkv_close(s, 0) && pread(work, &own, sizeof own, FMT_CONTROL_AT) == sizeof own, "read the identity");
    }
    struct fmt_control *c = (struct fmt_control *)(void *)(image + FMT_CONTROL_AT);
    const struct fmt_control *was = (const struct fmt_control *)(const void *)(b->image + FMT_CONTROL_AT);
    if (!memcmp(c, was, offsetof(struct fmt_control, identity_reserved))) /* not patched */
        memcpy(c, &own, offsetof(struct fmt_control, identity_reserved));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const int modes[] = { MMKV_MODE_WRITE, MMKV_MODE_READ, MMKV_MODE_PRIVATE, MMKV_MODE_WRITE };
    const struct base *b;
    struct stat st;
    uint64_t length;
    uint8_t *image = patched(data, size, &b, &length);
    if (!image) return -1;
    identify(image, length, b);
    if (!b->identified && length >= FMT_PROCESSES_AT) memset(image + FMT_CONTROL_AT, 0, 16);
    must(!ftruncate(work, 0) && pwrite(work, image, length, 0) == (ssize_t)length, "write the file");
    free(image);
    use(b, modes[data[1] & 3]);
    use(b, MMKV_MODE_READ);
    must(!fstat(work, &st) && (uint64_t)st.st_size < length + GROWTH_MAX, "the file grows by what is stored");
    return 0;
}

/* For Python: the file of an input, made with the hash function of the stores that are opened there. */
__attribute__((visibility("default"))) int fuzz_write(mmkv_hash_function hash, const uint8_t *data, size_t size, const char *to)
{
    const struct base *b;
    uint64_t length;
    prepare(hash);
    uint8_t *image = patched(data, size, &b, &length);
    FILE *f = image ? fopen(to, "wb") : NULL;
    int bad = !f || fwrite(image, 1, length, f) != length;
    if (f) bad |= fclose(f);
    free(image);
    return bad;
}
