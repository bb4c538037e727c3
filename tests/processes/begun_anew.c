/* begun_anew.c: what a killed maker of a store has left in an empty file is looked at while another begins anew: see
 * test_creation.py. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "between.h"

enum { STEPS = 6, TORN = STEPS + 1, NEVER = TORN + 1 };

static mmkv_options options = { .mode = MMKV_MODE_CREATE, .shards = 1, .permissions = 0600, .lock_timeout_ms = 50 };
static const char *path;
static uint32_t step, last_step, looks, most_looks, look_of_other;

/* The first maker is killed before its last flush but one: all is there but the superblock. */
static void on_flush(void *file) { (void)file; if (last_step == NEVER) _exit(0); }
static void on_step(void) { if (++step == last_step) _exit(0); }
static void on_range(void *file, uint64_t from, uint64_t to) { (void)file, (void)from, (void)to; on_step(); }
static void on_write(void *file, uint64_t at, const void *data, uint64_t n) { (void)file, (void)at, (void)data, (void)n; on_step(); }

/* Another process makes a store there, up to a step. */
static void make(uint32_t until)
{
    mmkv_store *s;
    int status;
    pid_t pid = fork();
    if (pid) {
        if (waitpid(pid, &status, 0) != pid || status) abort();
        return;
    }
    last_step = until;
    step = look_of_other = 0;
    rig_watch(path, &step);
    rig_hooks = (struct rig_hooks){ .resize = on_range, .write = on_write, .flush_file = on_flush };
    int rc = mmkv_open(path, &options, &s);
    _exit(rc && (rc != MMKV_OS || mmkv_failure_get()->os_errno != EDEADLK)); /* who looks may have the lock by now (runtime.h) */
}

/* The engine's reads that do not go through a map. One of them finds what the other has done; or, TORN, half of it. */
ssize_t pread(int fd, void *buffer, size_t length, off_t offset)
{
    struct iovec piece = { .iov_base = buffer, .iov_len = length };
    bool now = look_of_other && ++looks == look_of_other;
    if (looks > most_looks) most_looks = looks;
    if (now) make(last_step);
    ssize_t n = preadv(fd, &piece, 1, offset);
    if (now && last_step == TORN && n > 64) memset((char *)buffer + 64, 0, (size_t)n - 64);
    return n;
}

/* It is no store, or, when the other one is done, one. */
static void look(int mode, uint32_t at, uint32_t until)
{
    mmkv_options mine = options;
    mmkv_store *s;
    if (truncate(path, 0)) abort();
    make(NEVER);
    mine.mode = mode;
    looks = 0;
    look_of_other = at;
    last_step = until;
    int rc = mmkv_open(path, &mine, &s);
    look_of_other = 0;
    if (!rc) rc = mmkv_close(s, 1);
    if (!rc || (rc == MMKV_NOT_A_STORE && mode == MMKV_MODE_READ)) return;
    printf("in mode %d, with step %u of another before read %u: code %d, %s\n", mode, until, at, rc, mmkv_failure_get()->text);
    exit(1);
}

/* begun_anew FILE: prints how many reads there are, or what is wrong, and is 1. */
int main(int argc, char **argv)
{
    uint32_t at;
    if (argc != 2) return 2;
    path = argv[1];
    mmkv_set_hash(hash, 0);
    rig_simulate_waiting();
    for (at = 1; at == 1 || at <= most_looks; at++) {
        for (uint32_t until = 1; until <= TORN; until++) {
            look(MMKV_MODE_READ, at, until);
            look(MMKV_MODE_CREATE, at, until);
        }
    }
    printf("%u\n", most_looks);
    return 0;
}
