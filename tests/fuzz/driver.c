/* driver.c: the fuzz target without libFuzzer: run inputs from files, then mutated ones for a while, by a seed.
 *
 *   driver SEED INPUTS MILLISECONDS CURRENT FILE...
 *
 * runs each FILE, then INPUTS inputs made from them, or as many as MILLISECONDS allow. CURRENT always holds the input
 * that is being run: the one to look at after a crash. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fuzz.h"

enum { INPUT_MAX = 4096, SEEDS_MAX = 4096, SECONDS_MAX = 20 };
static uint8_t seeds[SEEDS_MAX][INPUT_MAX];
static size_t sizes[SEEDS_MAX], count;
static int current;

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void run(const uint8_t *data, size_t size)
{
    must(!ftruncate(current, 0) && pwrite(current, data, size, 0) == (ssize_t)size, "note the input");
    alarm(SECONDS_MAX); /* a hang ends by SIGALRM */
    LLVMFuzzerTestOneInput(data, size);
    alarm(0);
}

int main(int argc, char **argv)
{
    must(argc >= 5, "driver SEED INPUTS MILLISECONDS CURRENT FILE...");
    unsigned long seed = strtoul(argv[1], NULL, 0), inputs = strtoul(argv[2], NULL, 0), done = 0;
    uint64_t end = now_ms() + strtoul(argv[3], NULL, 0);
    current = open(argv[4], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    must(current >= 0, "note the input");
    LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 5; i < argc && count < SEEDS_MAX; i++) {
        FILE *f = fopen(argv[i], "rb");
        must(f != NULL, "read an input");
        sizes[count] = fread(seeds[count], 1, INPUT_MAX, f);
        fclose(f);
        run(seeds[count], sizes[count]);
        count++;
    }
    must(count > 0, "there are inputs");
    for (; done < inputs && now_ms() < end; done++) {
        uint8_t input[INPUT_MAX];
        unsigned step = (unsigned)(seed * 2654435761u + done * 40503u);
        size_t from = step % count, size = sizes[from];
        memcpy(input, seeds[from], size);
        for (unsigned k = 0; k <= step / 7 % 4; k++) size = LLVMFuzzerCustomMutator(input, size, INPUT_MAX, step + k);
        run(input, size);
    }
    printf("%zu inputs of the corpus and %lu random ones\n", count, done);
    return 0;
}
