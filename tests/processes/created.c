/* created.c: an empty file becomes a store: what others find meanwhile, and what one who is killed at it leaves: see
 * test_creation.py. */
#include <errno.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "between.h"

enum { DONE = 3, KILLED = 4 };

static mmkv_options options = { .mode = MMKV_MODE_CREATE, .shards = 2, .permissions = 0600, .lock_timeout_ms = 50 };
static const char *path;
static uint32_t step, wanted;
static int ends[2];              /* of a pipe, which lasts until this step is done with */

/* Somebody opens it, and waits for the one who makes it (runtime.h: for ever), or is told that it is no store. */
static void meet(int mode, bool may_make)
{
    mmkv_options other = options;
    mmkv_store *s;
    other.mode = mode;
    int rc = mmkv_open(path, &other, &s);
    if (rc == MMKV_OS ? mmkv_failure_get()->os_errno == EDEADLK : rc == MMKV_NOT_A_STORE && !may_make) return;
    printf("before step %u, in mode %d: code %d, %s\n", step, mode, rc, rc ? mmkv_failure_get()->text : "opened");
    wrong = "it was not to wait";
}

/* A child that another thread has forked just now, and that outlives its parent. */
static void fork_bystander(void)
{
    char byte = 0;
    int there[2];
    if (pipe(there)) _exit(2);
    if (fork()) {
        if (read(there[0], &byte, 1) != 1) _exit(2);
        return;
    }
    close(ends[1]);
    if (write(there[1], &byte, 1) != 1) _exit(2);
    _exit((int)read(ends[0], &byte, 1));
}

static void before_step(void)
{
    struct rig_hooks kept = rig_hooks;
    if (++step != wanted) return;
    fork_bystander();
    rig_hooks = (struct rig_hooks){ .store = NULL };
    meet(MMKV_MODE_CREATE, true);
    meet(MMKV_MODE_WRITE, false);
    meet(MMKV_MODE_READ, false);
    rig_hooks = kept;
    fflush(stdout);
    _exit(wrong ? 1 : KILLED);
}

static void on_range(void *file, uint64_t from, uint64_t to) { (void)file, (void)from, (void)to; before_step(); }
static void on_flush(void *file) { (void)file; before_step(); }
static void on_write(void *file, uint64_t at, const void *data, uint64_t n) { (void)file, (void)at, (void)data, (void)n; before_step(); }

/* The one who makes a store of it, and is killed. */
static int make(void)
{
    mmkv_store *s;
    rig_watch(path, &step);
    rig_hooks = (struct rig_hooks){ .flush_file = on_flush, .resize = on_range, .write = on_write };
    must(mmkv_open(path, &options, &s));
    if (wrong) puts(wrong);
    fflush(stdout);
    return wrong ? 1 : DONE;
}

/* created FILE: prints how many steps there are, or what is wrong, and is 1. */
int main(int argc, char **argv)
{
    uint64_t key = 1, records = 0;
    mmkv_store *s;
    int status;
    if (argc != 2) return 2;
    path = argv[1];
    mmkv_set_hash(hash, 0);
    rig_simulate_waiting();
    for (wanted = 1;; wanted++) {
        if (truncate(path, 0) || pipe(ends)) return 2;
        pid_t pid = fork();
        if (!pid) _exit(make());
        if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status)) return 2;
        if (WEXITSTATUS(status) == DONE) break;
        if (WEXITSTATUS(status) != KILLED) return 1;
        must(mmkv_open(path, &options, &s));
        if (!wrong) {
            must(mmkv_put(KEY(s, key), "value", 5, 0));
            must(mmkv_verify(s, NULL, NULL, NULL, &records));
            must(mmkv_close(s, 1));
        }
        if (close(ends[0]) || close(ends[1])) return 2;
        if (!wrong) continue;
        printf("what was left before step %u: %s\n", wanted, wrong);
        return 1;
    }
    printf("%u\n", wanted - 1);
    return 0;
}
