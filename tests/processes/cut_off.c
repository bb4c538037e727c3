/* cut_off.c: a file that is cut off in the middle of an operation: see test_cut_off.py. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "between.h"

enum { KEYS = 5000 };

static mmkv_store *first, *second;
static const char *path;
static uint64_t half;            /* of the file's length */
static bool syncing, cut;

static void cut_file(void)
{
    cut = true;
    if (truncate(path, (off_t)half)) wrong = "the file cannot be cut off";
}

/* Says what is wrong if the call was let through, or blamed something else. */
static void expect(int rc, const char *text)
{
    if (!wrong && (rc != MMKV_CORRUPT || !strstr(mmkv_failure_get()->text, "truncated"))) wrong = text;
}

/* The first one is about to store to what lies in the second half, with something in its log that lies there too: it can
 * neither go on nor go back. If it is said so, that happens when the second one's checkpoint has looked at the file. */
static void before_store(void *file, const void *address, uint64_t offset, uint64_t length)
{
    static bool acting;
    (void)file, (void)address, (void)length;
    if (cut || offset == UINT64_MAX) return;
    if (syncing && !acting && offset == FMT_CONTROL_AT + offsetof(struct fmt_control, epoch)) {
        acting = true;
        expect(mmkv_put(KEY(first, half), "value", 5, 0), "the first one was not told");
    } else if ((!syncing || acting) && offset >= half) {
        const struct fmt_log *log = &shard_of(first, 0)->log;
        for (uint64_t i = 0; i < log->count; i++)
            if (log->entry[i].offset >= half) return cut_file();
    }
}

/* cut_off FILE CALL: the second one's is put or sync. Prints what is wrong, and is 1. */
int main(int argc, char **argv)
{
    mmkv_options options = { .mode = MMKV_MODE_NEW, .shards = 1, .permissions = 0600 };
    uint64_t records, epoch = 0;
    uint8_t value[8];
    size_t length;
    if (argc != 3) return 2;
    path = argv[1];
    syncing = !strcmp(argv[2], "sync");
    mmkv_set_hash(hash, 0);
    mmkv_catch_faults();
    rig_seed(1);
    must(mmkv_open(path, &options, &first));
    options.mode = MMKV_MODE_WRITE;
    if (!wrong) must(mmkv_open(path, &options, &second));
    if (wrong) goto out;
    for (uint64_t i = 0; i < KEYS; i++) must(mmkv_put(KEY(first, i), "value", 5, 0));
    must(mmkv_get(KEY(second, epoch), value, sizeof value, &length, 0)); /* it has the whole file before it */
    half = load(&control_of(first)->file_length) / 2 / FMT_PAGE * FMT_PAGE;
    rig_watch(path, first);
    rig_hooks.store = before_store;
    if (syncing) {
        expect(mmkv_sync(second, 1, &epoch), "the checkpoint does not tell why it fails");
    } else {
        expect(mmkv_put(KEY(first, half), "value", 5, 0), "the first one was not told");
        expect(mmkv_put(KEY(second, half), "value", 5, 0), "a put does not tell why it fails");
        second->truncated = second->wary = false; /* as if it had seen nothing yet */
        expect(mmkv_verify(second, NULL, NULL, NULL, &records), "verify() does not tell why it fails");
    }
    rig_hooks.store = NULL;
    if (!wrong && !cut) wrong = "nothing was cut off";
    if (!wrong && !shard_of(first, 0)->failed) wrong = "what was half done could be put back";
out:
    if (wrong) puts(wrong);
    return wrong != NULL;
}
