/* copied.c: a store is put in its place by a copy that nobody has flushed, is written to, and synced; then the power fails:
 * see tests/attach/test_copies.py. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "between.h"

enum { DISK = 64 << 20, RECORDS = 200 };

static mmkv_options options = { .mode = MMKV_MODE_NEW, .shards = 1, .permissions = 0600 };
static uint8_t *disk;            /* what it has of the file */
static int file;

static void on_flush(void *watched, uint64_t offset, uint64_t length)
{
    (void)watched;
    if (offset < DISK && pread(file, disk + offset, length < DISK - offset ? length : DISK - offset, (off_t)offset) < 0) wrong = "read";
}

static void on_flush_file(void *watched) { on_flush(watched, 0, DISK); }

static void put(mmkv_store *s, uint64_t from)
{
    static const uint8_t value[300] = "a value";
    for (uint64_t k = from; k < from + RECORDS; k++) must(mmkv_put(KEY(s, k), value, sizeof value, 0));
}

static void make(const char *path, bool clean)
{
    mmkv_store *s;
    uint64_t epoch = 0;
    must(mmkv_open(path, &options, &s));
    if (wrong) return;
    put(s, 0);
    must(mmkv_sync(s, 1, &epoch));
    must(mmkv_close(s, clean));
    options.mode = MMKV_MODE_WRITE;
}

static void use(const char *path)
{
    mmkv_store *s;
    uint64_t epoch = 0;
    must(mmkv_open(path, &options, &s));
    if (wrong) return;
    put(s, RECORDS);
    must(mmkv_sync(s, 1, &epoch));
    rig_hooks = (struct rig_hooks){ 0 };
    must(mmkv_close(s, 0));
}

/* What the disk has is opened as after a restart. */
static void look(const char *path, uint64_t length)
{
    mmkv_store *s;
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (pwrite(fd, disk, length, 0) != (ssize_t)length) wrong = "write";
    close(fd);
    rig_watch(path, &disk);
    must(mmkv_open(path, &options, &s));
    if (wrong) return;
    for (uint64_t k = 0; k < 2 * RECORDS; k++) must(mmkv_contains(KEY(s, k), 0));
    must(mmkv_close(s, 1));
}

/* copied FILE IMAGE CLEAN ELSEWHERE: prints what is wrong, and is 1. */
int main(int argc, char **argv)
{
    if (argc != 5) return 2;
    mmkv_set_hash(hash, 0);
    rig_seed(1);
    disk = calloc(1, DISK);
    close(open(argv[1], O_RDWR | O_CREAT, 0600));
    file = open(argv[1], O_RDWR);
    options.mode = MMKV_MODE_CREATE;
    rig_watch(argv[1], &file);
    make(argv[1], *argv[3] == '1');
    if (*argv[4] == '1') { /* with another identity */
        rig_unwatch(&file);
        rig_watch(argv[1], &file);
    }
    rig_hooks = (struct rig_hooks){ .flush = on_flush, .flush_file = on_flush_file };
    if (!wrong) use(argv[1]);
    if (!wrong) look(argv[2], (uint64_t)lseek(file, 0, SEEK_END));
    if (wrong) puts(wrong);
    return wrong != NULL;
}
