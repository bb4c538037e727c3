/* foreign_faults.c: faults that are not the store's, and a handler that was there before ours: see test_foreign_faults.py. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "between.h"

enum { FAULTS = 4 };

static sigjmp_buf back;
static bool leaves;
static int handled, fd;

static void *page_of(const volatile void *p) { return (void *)((uintptr_t)p & ~(uintptr_t)(FMT_PAGE - 1)); }

/* Leaves by a jump, or puts a page there, as those do who share memory with processes that they don't trust. */
static void handler(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    handled++;
    if (leaves) siglongjmp(back, 1);
    if (mmap(page_of(info->si_addr), FMT_PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) abort();
}

/* From frames at different depths. */
static __attribute__((noinline)) int touch(const volatile char *p, int depth)
{
    volatile char room[512] = { 0 };
    return depth ? touch(p, depth - 1) + room[depth] : *p;
}

/* foreign_faults FILE leaves|mends same|other NODEFER: the faults' addresses; prints what is wrong, and is 1. */
int main(int argc, char **argv)
{
    if (argc != 5) return 2;
    leaves = !strcmp(argv[2], "leaves");
    bool same = !strcmp(argv[3], "same");
    struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | (strcmp(argv[4], "nodefer") ? 0 : SA_NODEFER) };
    sigaction(SIGBUS, &action, NULL);
    mmkv_options options = { .mode = MMKV_MODE_NEW, .shards = 1, .permissions = 0600 };
    mmkv_store *s = NULL;
    mmkv_set_hash(hash, 0);
    mmkv_catch_faults();
    rig_seed(1);
    must(mmkv_open(argv[1], &options, &s));
    if ((fd = open(argv[1], O_RDONLY)) < 0) return 2;
    volatile char *map = mmap(NULL, 2 * FMT_PAGE, PROT_READ, MAP_SHARED, fd, 1 << 30); /* far beyond the end */
    for (int i = 0; i < FAULTS; i++) {
        volatile char *p = map + (same ? 0 : i % 2 * FMT_PAGE + (unsigned)i);
        if (mmap(page_of(p), FMT_PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 1 << 30) == MAP_FAILED) return 2;
        if (!sigsetjmp(back, 1)) touch(p, i % 3);
        if (handled != i + 1 && !wrong) wrong = "the handler was not asked";
    }
    must(mmkv_close(s, 0));
    if (wrong) puts(wrong);
    return wrong != NULL;
}
