/* death.c: processes that are killed just before their n-th store to the file, and those who go on.
 *
 * A chain: the victim is killed in an operation; then, perhaps, one who takes over from it is killed as well; the last
 * one goes on and finds everything as it must be. Who goes on was there already, or comes only then, or is the victim's
 * parent or its child. All are processes of their own, killed by a real SIGKILL, and nobody has anything to wait for: while
 * one acts the others are dead or asleep, and time is simulated (runtime.h). */
#define _GNU_SOURCE
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <fcntl.h>
#include <unistd.h>

#include "kill.h"

enum { SECONDS_OF_A_PROCESS = 120 };
/* Who goes on after the victim. */
enum kin { NEWCOMER, STRANGER, PARENT, CHILD, GUEST, KINS }; /* guest: a newcomer, while a stranger is attached and asleep */

/* m: where the one who takes over is killed, 0: he is not; `taken`: he has been. */
struct plan { uint32_t n, kin, m, order; bool taken; };

struct report *report;
struct me me;
const char *store_path;

static const struct scenario *scenario;
static struct plan plan;
static int go[2], ready[2];
static pid_t controller;
static struct { uint8_t *map, *bytes; uint64_t length; int fd; struct world world; } template;
static struct { uint64_t deaths, chains, completed, points, taken_over, kins[KINS]; } totals;

/* ---- a process ---- */

/* The controller says what was wrong, whoever found it. */
static void end_if_failed(void)
{
    if (!report->failed || getpid() != controller) return;
    printf("after %llu deaths: %s\n", (unsigned long long)(totals.deaths + world->deaths), report->text);
    fflush(stdout);
    _exit(1);
}

void wrong(const char *format, ...)
{
    va_list list;
    int n = snprintf(report->text, sizeof report->text, "%s, before store %u, then %s %u, order %u: ", scenario->name, plan.n,
                     (const char *[]){ "newcomer", "stranger", "parent", "child", "guest" }[plan.kin], plan.m, plan.order);
    va_start(list, format);
    vsnprintf(report->text + n, sizeof report->text - (size_t)n, format, list);
    va_end(list);
    report->failed = true;
    end_if_failed();
    if (write(ready[1], "f", 1) != 1) _exit(2);
    _exit(1);
}

static void point(void)
{
    if (++me.points != me.die_at) return;
    disarm();
    look(false);
    kill(getpid(), SIGKILL);
}
static void on_store(void *f, const void *p, uint64_t at, uint64_t n) { (void)f; (void)p; (void)at; (void)n; point(); }
static void on_range(void *f, uint64_t a, uint64_t b) { (void)f; (void)a; (void)b; point(); }
static void on_file(void *f) { (void)f; point(); }
static void on_write(void *f, uint64_t at, const void *p, uint64_t n) { (void)f; (void)at; (void)p; (void)n; point(); }

void arm(uint64_t die_at)
{
    me.points = 0;
    me.die_at = die_at;
    rig_hooks = (struct rig_hooks){ .store = on_store, .flush = on_range, .flush_file = on_file, .resize = on_range, .punch = on_range,
                                    .write = on_write };
}

void disarm(void) { rig_hooks = (struct rig_hooks){ .store = NULL }; }

/* A forked process, which ends with `run`, without closing anything. */
pid_t start(void (*run)(void))
{
    uint64_t number = ++report->processes;
    pid_t pid = fork();
    if (pid < 0) wrong("fork failed");
    if (pid) return pid;
    alarm(SECONDS_OF_A_PROCESS);
    rig_pass_ns(number * 1000003);
    run();
    _exit(0);
}

/* True: it was killed. */
static bool ended_by_kill(pid_t pid, const char *who)
{
    int status;
    if (waitpid(pid, &status, 0) != pid) wrong("waitpid failed");
    end_if_failed();
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
        world->deaths++;
        return true;
    }
    if (WIFSIGNALED(status)) wrong("%s ended by signal %d", who, WTERMSIG(status));
    if (WEXITSTATUS(status)) wrong("%s ended with %d", who, WEXITSTATUS(status));
    return false;
}

mmkv_store *open_store(int mode, uint64_t max_size)
{
    mmkv_options o = { .mode = mode, .shards = scenario->shards, .permissions = 0600, .max_size = max_size, .lock_timeout_ms = 2000,
                       .any_file_system = 1 };
    mmkv_store *s;
    int rc = mmkv_open(store_path, &o, &s);
    if (rc) wrong("open: code %d, %s", rc, mmkv_failure_get()->text);
    return s;
}

/* ---- the state that an operation starts from ---- */

static void make(void)
{
    rig_seed(report->processes);
    me.s = open_store(MMKV_MODE_NEW, 0);
    mmkv_close(me.s, 1);
}

static void prepare(void)
{
    me.s = open_store(MMKV_MODE_WRITE, 0);
    for (uint32_t i = 0; i < scenario->shards; i++) world->extra[i] = item_new(i, 0, 0);
    world->target = world->large = item_new(0, 0, 0);
    world->large = item_new(0, 0, 0);
    scenario->prepare();
    if (me.s && mmkv_close(me.s, scenario->flags & CLEAN)) wrong("close: %s", mmkv_failure_get()->text);
}

static void keep(void)
{
    struct stat st;
    if (fstat(template.fd, &st) || st.st_size > PAGES_MAX) wrong("the file is too long");
    template.length = (uint64_t)st.st_size;
    memcpy(template.bytes, template.map, template.length);
    template.world = *world;
}

/* Only what has changed is stored, since most has not. */
static void put_back(void)
{
    if (ftruncate(template.fd, (off_t)template.length)) wrong("ftruncate failed");
    for (uint64_t i = 0; i < template.length; i += FMT_PAGE) {
        uint64_t n = template.length - i < FMT_PAGE ? template.length - i : FMT_PAGE;
        if (memcmp(template.map + i, template.bytes + i, n)) memcpy(template.map + i, template.bytes + i, n);
    }
    memcpy(world, &template.world, offsetof(struct world, item) + template.world.items * sizeof(struct item));
}

static void set_up(const char *directory, uint32_t number)
{
    static char path[320];
    int status;
    scenario = &scenarios[number];
    snprintf(path, sizeof path, "%s/%s.mmkv", directory, scenario->name);
    store_path = path;
    world = mmap(NULL, sizeof *world, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    report = mmap(NULL, sizeof *report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    template.bytes = mmap(NULL, PAGES_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (world == MAP_FAILED || report == MAP_FAILED || template.bytes == MAP_FAILED || pipe(go) || pipe(ready)) abort();
    prctl(PR_SET_CHILD_SUBREAPER, 1); /* a killed victim's child is then ours */
    rig_simulate_waiting();
    controller = getpid();
    waitpid(start(make), &status, 0);
    template.fd = open(path, O_RDWR | O_CLOEXEC);
    template.map = mmap(NULL, PAGES_MAX, PROT_READ | PROT_WRITE, MAP_SHARED, template.fd, 0);
    if (status || template.fd < 0 || template.map == MAP_FAILED) wrong("no store could be made: %s", report->text);
    rig_watch(path, world);
    waitpid(start(prepare), &status, 0);
    end_if_failed();
    if (status) wrong("the state was not made: status %d", status);
    keep();
    if (scenario->flags & OTHER_BOOT) forget_future();
}

/* Nothing volatile is believed any more: to the engine the file is now one of another boot. */
void forget_future(void)
{
    rig_unwatch(world);
    rig_watch(store_path, world);
}

/* ---- those who take part ---- */

static void await_go(void)
{
    char c;
    if (read(go[0], &c, 1) != 1) _exit(1);
}

static void ignore(void *context, const char *kind, const void *key, size_t key_length, uint64_t offset, const char *text)
{
    (void)context; (void)kind; (void)key; (void)key_length; (void)offset; (void)text;
}

int repair(void)
{
    mmkv_options o = { .any_file_system = 1 };
    uint64_t records;
    return mmkv_repair(store_path, &o, ignore, NULL, &records);
}

/* Open what was left. */
static void come(void)
{
    if (scenario->flags & BROKEN && repair()) wrong("repair: %s", mmkv_failure_get()->text);
    me.s = open_store(scenario->flags & EMPTY ? MMKV_MODE_CREATE : MMKV_MODE_WRITE, 0);
    for (uint32_t k = 0; k < world->items; k++) /* a store that is made anew has another seed */
        world->item[k].hash = mmkv_hash(me.s, world->item[k].key, world->item[k].key_length);
}

static void last(void)
{
    go_on(plan.order);
    sync_all();
    verify_all();
    bool cut = plan.order / 6 % 2;
    if (mmkv_close(me.s, plan.order / 12 % 2)) wrong("close: %s", mmkv_failure_get()->text);
    if (cut) forget_future();
    me.s = open_store(MMKV_MODE_WRITE, 0);
    read_all();
    verify_all();
    exact();
    verify_all();
    if (mmkv_close(me.s, 1)) wrong("close: %s", mmkv_failure_get()->text);
}

static void take_over(void)
{
    arm(plan.m);
    if (!me.s) come();
    go_on(plan.order);
    disarm();
}

static bool kills_next(void) { return plan.m && !plan.taken; }

static void newcomer(void)
{
    if (kills_next()) {
        take_over();
        return;
    }
    come();
    last();
}

/* One who looks at what was left, without changing it: for reading only, or in a copy of his own. Who comes after him must
 * find what he has seen. */
static void witness(void)
{
    mmkv_options o = { .mode = plan.order % 2 ? MMKV_MODE_READ : MMKV_MODE_PRIVATE, .lock_timeout_ms = 2000, .any_file_system = 1 };
    int rc = mmkv_open(store_path, &o, &me.s);
    if (rc) wrong("open for reading: code %d, %s", rc, mmkv_failure_get()->text);
    look(true);
    if (mmkv_close(me.s, 0)) wrong("close: %s", mmkv_failure_get()->text);
}

/* One who has been attached all the while. */
static void go_on_at_once(void)
{
    await_go();
    if (kills_next() && plan.kin != GUEST) { /* of a guest it is he who may be killed */
        take_over();
        return;
    }
    if (!me.s) come(); /* the child of one who had nothing open */
    last();
}

static void act(void)
{
    arm(plan.n);
    scenario->act();
    disarm();
    if (me.points > report->points) report->points = me.points; /* else a child that was forked went further */
    report->completed = true;
}

static void victim(void)
{
    if (!me.s && !(scenario->flags & OPENS)) me.s = open_store(MMKV_MODE_WRITE, 0);
    if (plan.kin == CHILD) report->child = start(go_on_at_once);
    act();
}

static void stranger(void)
{
    me.s = open_store(MMKV_MODE_WRITE, 0);
    if (write(ready[1], "r", 1) != 1) _exit(1);
    go_on_at_once();
}

/* Forks the victim, with its handle. */
static void parent(void)
{
    me.s = open_store(MMKV_MODE_WRITE, 0);
    int status;
    waitpid(start(victim), &status, 0);
    if (report->failed) _exit(1);
    if (status && status != SIGKILL) wrong("the victim ended with status %d", status);
    world->deaths += status == SIGKILL;
    if (kills_next()) take_over();
    else last();
}

/* ---- chains ---- */

static pid_t start_stranger(void)
{
    char c;
    pid_t pid = start(stranger);
    if (read(ready[0], &c, 1) != 1 || report->failed) end_if_failed();
    return pid;
}

static void wake(void)
{
    if (write(go[1], "g", 1) != 1) wrong("write failed");
}

/* True: the operation was completed, so there is nothing beyond n. */
static bool chain(struct plan p)
{
    pid_t survivor = 0, asleep = 0;
    plan = p;
    put_back();
    world->deaths = 0;
    report->completed = false;
    report->points = 0;
    report->child = 0;
    rig_seed(((uint64_t)p.order << 32 | p.n) * 31 + p.m);
    if (p.kin == PARENT) {
        survivor = start(parent);
    } else {
        if (p.kin == STRANGER || p.kin == GUEST) asleep = start_stranger();
        ended_by_kill(start(victim), "the victim");
        if (p.kin == NEWCOMER && !(scenario->flags & ALONE) && rig_random(2)) ended_by_kill(start(witness), "a witness");
        survivor = p.kin == CHILD ? report->child : p.kin == STRANGER ? asleep : start(newcomer);
        if (p.kin == CHILD || p.kin == STRANGER) wake();
    }
    bool killed = ended_by_kill(survivor, "the survivor");
    totals.taken_over += killed;
    if (killed && !p.m) wrong("the survivor was killed");
    for (; killed && rig_random(2); totals.taken_over += killed) {
        plan.m = 1 + rig_random(1u << rig_random(12));
        killed = ended_by_kill(start(newcomer), "one who took over");
    }
    if (p.m) {
        plan.taken = true;
        if (ended_by_kill(start(newcomer), "the last one")) wrong("the last one was killed");
    }
    if (p.kin == GUEST) {
        wake();
        if (ended_by_kill(asleep, "the stranger")) wrong("the stranger was killed");
    }
    totals.deaths += world->deaths;
    totals.chains++;
    totals.kins[p.kin]++;
    totals.completed += report->completed;
    return report->completed;
}

/* How many stores the operation has, before one who goes on in this way. */
static uint32_t points_of(uint32_t kin)
{
    static uint32_t points[KINS];
    if (points[kin]) return points[kin];
    if (!chain((struct plan){ .n = UINT32_MAX, .kin = kin })) wrong("the operation does not come to its end");
    totals.points += points[kin] = (uint32_t)report->points;
    return points[kin];
}

static bool takes_part(uint32_t kin) { return kin == NEWCOMER || !(scenario->flags & ALONE); }

static struct plan any(void)
{
    struct plan p = { .kin = rig_random(scenario->flags & ALONE ? 1 : KINS), .order = rig_random(24) };
    if (!rig_random(3)) p.m = 1 + rig_random(1u << rig_random(12));
    return p;
}

/* At places chosen by the seed. */
static void kill_some(uint64_t seed, uint32_t chains)
{
    for (uint32_t kin = 0; kin < KINS; kin++)
        if (takes_part(kin)) points_of(kin);
    for (uint32_t i = 0; i < chains; i++) {
        rig_seed(seed * 1000003 + i);
        struct plan p = any();
        p.n = 1 + rig_random(points_of(p.kin));
        chain(p);
    }
}

/* Before each store whose number is `part` modulo `parts`: twice, with who goes on in turn, and once with one, by chance,
 * who is killed as well. */
static void kill_all(uint64_t seed, uint32_t part, uint32_t parts)
{
    uint32_t most = 0;
    for (uint32_t kin = 0; kin < KINS; kin++)
        if (takes_part(kin) && points_of(kin) > most) most = points_of(kin);
    for (uint32_t n = part + 1; n <= most; n += parts) {
        for (uint32_t i = 0; i < 3; i++) {
            rig_seed((seed * 1000003 + n) * 31 + i);
            struct plan p = any();
            if (i < 2 && takes_part(STRANGER)) p.kin = (seed + n + i * 2) % KINS;
            p.n = n;
            p.m = i < 2 ? 0 : 1 + rig_random(1u << rig_random(12));
            if (n <= points_of(p.kin) && (i != 1 || p.kin)) chain(p);
        }
    }
}

/* Any good one will do: nobody else reads the files. */
static uint64_t hash(const void *data, size_t length, uint64_t seed)
{
    const uint8_t *p = data;
    uint64_t h = seed ^ length * 0x9e3779b97f4a7c15ull, word;
    for (size_t n; length; p += n, length -= n) {
        word = 0;
        memcpy(&word, p, n = length < 8 ? length : 8);
        h = (h ^ word) * 0xff51afd7ed558ccdull;
        h ^= h >> 32;
    }
    h = (h ^ h >> 29) * 0xc4ceb9fe1a85ec53ull;
    return h ^ h >> 32;
}

/* DIRECTORY OPERATION SEED CHAINS PART PARTS: kill an operation in a file in a directory, so many times, or, 0, before each
 * store of a part. Prints what is wrong and ends with 1, or the totals. */
int main(int argc, char **argv)
{
    uint32_t number = 0;
    while (argc == 7 && number < scenario_count && strcmp(scenarios[number].name, argv[2])) number++;
    if (argc != 7 || number == scenario_count) return 2;
    uint64_t seed = strtoull(argv[3], NULL, 10) * 1009 + number;
    uint32_t chains = (uint32_t)atoi(argv[4]);
    mmkv_set_hash(hash, 0);
    set_up(argv[1], number);
    if (chains) kill_some(seed, chains);
    else kill_all(seed, (uint32_t)atoi(argv[5]), (uint32_t)atoi(argv[6]));
    printf("%llu %llu %llu %llu %llu", (unsigned long long)totals.deaths, (unsigned long long)totals.chains,
           (unsigned long long)totals.completed, (unsigned long long)totals.points, (unsigned long long)totals.taken_over);
    for (uint32_t kin = 0; kin < KINS; kin++) printf(" %llu", (unsigned long long)totals.kins[kin]);
    printf("\n");
    return 0;
}
