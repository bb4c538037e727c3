/* fork.c: all handles of this process, and what becomes of them in a child.
 *
 * A child has the parent's memory, one of its threads, and shares its open descriptions: it gets a process slot and a
 * description of its own, both made in the parent before the fork (docs/concurrency.md has the steps). */
#include "engine.h"

static mmkv_store *handles;
static pthread_mutex_t handles_mutex = PTHREAD_MUTEX_INITIALIZER; /* fork() waits for it */

/* ---- before, in the parent ---- */

/* Children that end without closing leave their slots to be settled: that is tried from the moment half of them are taken,
 * since one who opens or closes may have the attach lock for long. */
static int slot_for_child(mmkv_store *s)
{
    bool got = false;
    uint32_t none = 0;
    int rc = slot_take(s, true, &s->fork_page, &s->fork_slot);
    if (rc ? rc != MMKV_IN_USE : s->fork_slot < FMT_PROCESSES / 2) return rc;
    for (int tries = 0; !got && tries < (rc ? 100 : 1); tries++) { /* others come and go: not for long */
        if (tries) os_wait(&none, 0, 2);
        got = attach_lock_now(s);
    }
    if (!got) return rc;
    int settled = STORING(s, settle_dead(s, false));
    if (rc) rc = settled ? settled : slot_take(s, true, &s->fork_page, &s->fork_slot);
    attach_unlock(s);
    return rc;
}

static int prepare_child(mmkv_store *s)
{
    /* A description of its own: locks asked for through a shared one would never conflict with ours. */
    int rc = os_reopen(file_of(s), true, &s->fork_fd);
    if (rc || (rc = slot_for_child(s))) return rc;
    struct fmt_process *p = process_of(s, s->fork_slot);
    store32(&p->incarnation, (p->incarnation + 1) & 0x7ffff);
    s->fork_me = s->fork_slot | p->incarnation << 12;
    kill_fence();
    store32(&p->state, 1);
    return 0;
}

/* A forked child shares the mapping but not the slot: its own is taken in the parent before the fork, so that it works
 * whatever the child may become (user, root, name), through a page that the child inherits (R5). */
static void before_fork(void)
{
    pthread_mutex_lock(&handles_mutex);
    for (mmkv_store *s = handles; s; s = s->next) {
        s->fork_page = NULL;
        s->fork_fd = -1;
        if (!s->slot_page || !s->ready) continue;
        s->fork_failed = STORING(s, prepare_child(s)) != 0;
    }
    for (mmkv_store *s = handles; s; s = s->next) pthread_mutex_lock(&s->map_mutex); /* last: settling may map more */
}

/* ---- after ---- */

static void after_fork_in_parent(void)
{
    for (mmkv_store *s = handles; s; s = s->next) {
        if (s->fork_page) os_release_byte(s->fork_page); /* the child's own mapping keeps the lock */
        s->fork_page = NULL;
        os_close(s->fork_fd);
        pthread_mutex_unlock(&s->map_mutex);
    }
    pthread_mutex_unlock(&handles_mutex);
}

static int sign_slot(mmkv_store *s)
{
    slot_sign(s);
    return 0;
}

static int own_anew(mmkv_store *s)
{
    slot_own(s, s->slot % (FMT_PROCESSES - 1) + 1);
    return 0;
}

static void be_child(mmkv_store *s)
{
    s->slot_page = s->fork_page; /* the parent's page was not inherited */
    if (s->fork_failed) {
        s->writable = false; /* what it wrote could not be settled if it died */
        s->slotless = true;
        os_close(s->fork_fd);
    } else {
        if (os_same_file(s->fd, &s->identity)) os_close(s->fd);
        s->fd = s->fork_fd;
        os_hold_in_child(s->slot_page);
        s->slot = s->fork_slot;
        s->me = s->fork_me;
        STORING(s, sign_slot(s));
    }
}

/* Another thread was opening or closing it, which does not exist here: nothing may be left that keeps its locks alive. */
static void abandon(mmkv_store *s)
{
    map_close(s);
    if (os_same_file(s->fd, &s->identity)) os_close(s->fd);
}

static void after_fork_in_child(void)
{
    for (mmkv_store **next = &handles, *s; (s = *next);) {
        map_forked(s);
        pthread_mutex_init(&s->file_mutex, NULL);
        if (s->attach_fd != s->fd) os_close(s->attach_fd);
        s->attach_fd = -1;
        s->kept = 0; /* the parent's */
        if (!s->ready) {
            *next = s->next;
            abandon(s);
            continue;
        }
        if (s->slot_page) be_child(s);
        /* Another name: what the parent's other threads held in this copy is then a dead one's. */
        if (s->private_) STORING(s, own_anew(s));
        s->fork_page = NULL;
        next = &s->next;
    }
    pthread_mutex_init(&handles_mutex, NULL);
    faults_forked();
}

/* ---- all handles ---- */

static void install(void)
{
    os_at_fork(before_fork, after_fork_in_parent, after_fork_in_child);
}

void fork_forbid(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, install);
    pthread_mutex_lock(&handles_mutex);
}

void fork_allow(void) { pthread_mutex_unlock(&handles_mutex); }

void handle_register(mmkv_store *s)
{
    fork_forbid();
    s->next = handles;
    handles = s;
    fork_allow();
}

void handle_ready(mmkv_store *s, bool ready)
{
    pthread_mutex_lock(&handles_mutex);
    s->ready = ready;
    pthread_mutex_unlock(&handles_mutex);
}

void handle_forget(mmkv_store *s)
{
    pthread_mutex_lock(&handles_mutex);
    for (mmkv_store **p = &handles; *p; p = &(*p)->next)
        if (*p == s) { *p = s->next; break; }
    pthread_mutex_unlock(&handles_mutex);
}
