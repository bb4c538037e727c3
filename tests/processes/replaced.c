/* replaced.c: a new store has its name, and somebody else is there, or takes the name away, before its maker has it open: see
 * test_creation.py. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "between.h"

static mmkv_options options = { .mode = MMKV_MODE_NEW, .shards = 1, .permissions = 0600, .lock_timeout_ms = 50 };
static const char *path;
static ino_t named;
static bool taken_away;

static ino_t there(void)
{
    struct stat st;
    return stat(path, &st) ? 0 : st.st_ino;
}

/* The directory is flushed when the name is there. The other one opens the store, if it can, and is long at it. */
static void on_flush(void *file)
{
    struct flock f = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)FMT_LOCK_ATTACH, .l_len = 1 };
    int fd = named ? -1 : open(path, O_RDWR);
    (void)file;
    if (fd < 0) return;
    named = there();
    if (taken_away) unlink(path);
    else fcntl(fd, F_OFD_SETLK, &f);
}

/* replaced DIRECTORY FILE [unlink]: says what is wrong, and is 1. */
int main(int argc, char **argv)
{
    mmkv_store *s;
    int rc;
    if (argc < 3) return 2;
    path = argv[2];
    taken_away = argc > 3;
    mmkv_set_hash(hash, 0);
    rig_watch(argv[1], &named);
    rig_hooks = (struct rig_hooks){ .flush_file = on_flush };
    for (int calls = 0; (rc = mmkv_open(path, &options, &s)) == MMKV_INTERRUPTED && calls < 2; calls++) {}
    if (named && there() == (taken_away ? 0 : named) && !rc) return 0;
    if (rc) puts(mmkv_failure_get()->text);
    printf("code %d, and the file is %s\n", rc, !named ? "not found" : named == there() ? "the same" : "another one");
    return 1;
}
