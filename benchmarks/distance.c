/* How long a line of memory takes from one processor to the other: two threads, on the first two processors that may be
 * used, answer each other through one word. Prints nanoseconds for one way, the median of `ROUNDS` rounds. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { ROUNDS = 15, EXCHANGES = 10000 };

static _Alignas(256) atomic_uint word;
static int processors[2];

static void stay_on(int processor)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(processor, &set);
    if (sched_setaffinity(0, sizeof set, &set)) exit(1);
}

static void await(unsigned value)
{
    while (atomic_load_explicit(&word, memory_order_acquire) != value) {}
}

static void *answer(void *nothing)
{
    stay_on(processors[1]);
    for (unsigned i = 0; i < ROUNDS * EXCHANGES; i++) {
        await(2 * i + 1);
        atomic_store_explicit(&word, 2 * i + 2, memory_order_release);
    }
    return nothing;
}

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(void)
{
    cpu_set_t usable;
    double took[ROUNDS];
    pthread_t other;
    int found = 0;
    if (sched_getaffinity(0, sizeof usable, &usable)) return 1;
    for (int i = 0; i < CPU_SETSIZE && found < 2; i++)
        if (CPU_ISSET(i, &usable)) processors[found++] = i;
    if (found < 2 || pthread_create(&other, NULL, answer, NULL)) return 1;
    stay_on(processors[0]);
    for (unsigned r = 0; r < ROUNDS; r++) {
        double start = now_ns();
        for (unsigned i = r * EXCHANGES; i < (r + 1) * EXCHANGES; i++) {
            atomic_store_explicit(&word, 2 * i + 1, memory_order_release);
            await(2 * i + 2);
        }
        took[r] = (now_ns() - start) / (2 * EXCHANGES);
    }
    pthread_join(other, NULL);
    qsort(took, ROUNDS, sizeof *took, compare);
    printf("%.1f\n", took[ROUNDS / 2]);
    return 0;
}
