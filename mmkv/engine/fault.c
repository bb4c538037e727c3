/* fault.c: a SIGBUS while the map is used is an error of the call, not the end of the process.
 *
 * A page of the map cannot be had when somebody has truncated the file, when the disk fails to read it, or when a file
 * system that reserves nothing is full. The kernel then sends SIGBUS to the thread that touched it. Every public function
 * that uses the map does so in a guard (GUARDED): where to jump to, in thirty bytes of its own frame, and the locks taken
 * since. The handler asks whether this thread is in a guard and whether the address is that handle's; if so it jumps
 * there, and guard_fault() does for the call what others do for a process that has died in the middle of one: it rolls
 * back, unlocks, and says what happened. What cannot be rolled back is marked failed, for everybody.
 *
 * __builtin_setjmp and not sigsetjmp: three words and no call on the way to every key. A reader holds nothing, so for it
 * that is all.
 *
 * All other faults go to the handlers that were there before ours, newest first. One of them may be Python's faulthandler,
 * which puts back what it had found (perhaps ours), reports, and raises the signal again: whoever is asked the second time
 * for one fault is the next older one, and at the end the system's default. Others mend the page, or leave by a jump; what
 * comes then is another fault. */
#include <errno.h>
#include <stdlib.h>

#include "engine.h"
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

FAULT_LOCAL struct guard *guard_top;

/* ---- the handler ---- */

enum { BEFORE_MAX = 16 };
static struct sigaction before[BEFORE_MAX];          /* oldest first; only added to */
static _Atomic uint32_t before_count;
static pthread_mutex_t before_mutex = PTHREAD_MUTEX_INITIALIZER;

/* Of this thread: where the last fault was that a handler returned from without mending it, how far down the list that was,
 * and the frame below which a handler is at work. Of one that left by a jump that frame is still known; but the frames of a
 * later fault are not below it, or at least the signal is not sent. */
static FAULT_LOCAL const void *passed_at, *passing;
static FAULT_LOCAL uint32_t passed;

static inline bool sent_by_handler(const siginfo_t *info, const void *frame)
{
    return passing && info->si_code <= 0 && (uintptr_t)frame < (uintptr_t)passing;
}

/* Asked again for the same address, whoever was asked last has not mended it. */
static void pass_on(int number, siginfo_t *info, void *context, const void *frame)
{
    bool sent = info->si_code <= 0, nested = sent_by_handler(info, frame);
    const void *p = sent ? NULL : info->si_addr, *outer = nested ? passing : NULL;
    passed = nested || (p && p == passed_at) ? passed + 1 : 0;
    passed_at = NULL;
    uint32_t count = atomic_load_explicit(&before_count, memory_order_acquire);
    const struct sigaction *next = passed < count ? &before[count - 1 - passed] : NULL;
    if (!next || (next->sa_handler == SIG_IGN && !(next->sa_flags & SA_SIGINFO))) {
        if (!next || !sent) os_die_of_fault(sent);
        return;
    }
    passing = frame;
    if (next->sa_flags & SA_SIGINFO) next->sa_sigaction(number, info, context);
    else next->sa_handler(number);
    passing = outer;
    if (p && !os_readable(p)) passed_at = p;
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    struct guard *g = guard_top;
    const void *frame = __builtin_frame_address(0);
    uint64_t offset;
    if (g && info->si_code > 0 && (map_holds(g->s, info->si_addr, &offset) || handle_control(g->s, info->si_addr, &offset))) {
        g->fault = offset;
        passed_at = NULL;
#ifdef __SANITIZE_ADDRESS__
        __asan_handle_no_return(); /* the frames that are jumped over leave nothing poisoned */
#endif
        __builtin_longjmp(g->jump, 1);
    }
    /* Sent by this thread, in a guard: by a handler that was put before ours, did not know better, and has gone. The fault
     * repeats when it returns, and comes here. */
    if (g && !sent_by_handler(info, frame) && info->si_code == SI_TKILL && info->si_pid == (pid_t)os_pid()) return;
    pass_on(number, info, context, frame);
}

/* Install the handler, or put it first again: others come and go after us. */
void faults_catch(void)
{
    struct sigaction was;
    pthread_mutex_lock(&before_mutex);
    os_catch_faults(on_fault, &was);
    uint32_t count = atomic_load_explicit(&before_count, memory_order_relaxed);
    const struct sigaction *last = count ? &before[count - 1] : NULL;
    bool ours = was.sa_flags & SA_SIGINFO && was.sa_sigaction == on_fault;
    bool none = !(was.sa_flags & SA_SIGINFO) && was.sa_handler == SIG_DFL;
    bool same = last && last->sa_flags == was.sa_flags && last->sa_handler == was.sa_handler;
    if (!ours && !none && !same && count < BEFORE_MAX) {
        before[count] = was;
        atomic_store_explicit(&before_count, count + 1, memory_order_release); /* pairs with the load in pass_on */
    }
    pthread_mutex_unlock(&before_mutex);
}

/* In a child, where the thread that was in there does not exist. */
void faults_forked(void) { pthread_mutex_init(&before_mutex, NULL); }

void mmkv_catch_faults(void) { faults_catch(); }

/* ---- is the file still what was mapped? ---- */

/* The page through which a private copy watches the original. */
bool handle_control(const mmkv_store *s, const void *p, uint64_t *offset)
{
    uint64_t in = (uint64_t)((uintptr_t)p - (uintptr_t)s->shared_control);
    *offset = FMT_CONTROL_AT + in;
    return s->shared_control && in < sizeof *s->shared_control;
}

static int truncated(mmkv_store *s)
{
    uint64_t length = 0;
    os_length(file_of(s), &length);
    s->truncated = true; /* for good: what was cut off does not come back when the file grows again */
    s->wary = true;
    return fail(MMKV_CORRUPT, length, "the file was truncated while in use, to %llu bytes", (unsigned long long)length);
}

int handle_whole(mmkv_store *s)
{
    uint64_t length, mapped = atomic_load_explicit(&s->mapped, memory_order_acquire);
    if (s->truncated) return truncated(s);
    if (s->private_) return 0;
    /* acquire: before the length is asked for, since others make the file longer meanwhile, and then say so */
    uint64_t said = load_acquire(&control_of(s)->file_length);
    int rc = os_length(file_of(s), &length);
    if (rc) return 0; /* out of reach, which the mapping survives */
    return length < mapped || length < said ? truncated(s) : 0;
}

int handle_refuses(mmkv_store *s)
{
    if (s->truncated) return truncated(s);
    if (!s->shared_control || load_acquire(&s->shared_control->attach_count) == s->attach_seen) return 0;
    return fail(MMKV_STALE, 0, "the store was opened for writing after this private copy was made");
}

/* A call has found a contradiction. A private copy is full of them as soon as somebody writes to the original, which its own
 * pages are a part of. */
int guard_doubt(const struct guard *g)
{
    mmkv_store *s = g->s;
    mmkv_failure kept = *mmkv_failure_get();
    int rc = s->shared_control ? handle_refuses(s) : 0;
    if (rc) return rc;
    fail_again(&kept);
    return MMKV_CORRUPT;
}

/* ---- what a call holds ---- */

bool guard_locked(void)
{
    const struct guard *g = guard_top;
    return g && (g->held_count || (g->committing && commit_last(g->commit)));
}

/* ---- after the jump ---- */

/* What happened, as the failure of this thread. */
static int explain(const struct guard *g)
{
    mmkv_store *s = g->s;
    uint64_t length;
    uint64_t needed = s->private_ ? g->fault + 1 : atomic_load_explicit(&s->mapped, memory_order_acquire);
    if (!os_length(file_of(s), &length) && (length <= g->fault || length < needed)) return truncated(s);
    errno = EIO;
    return fail_os("the disk failed to read a page of the file, or has no room for one");
}

static bool leads(mmkv_store *s, const uint32_t *word) { return offset_of(s, word) < FMT_ALLOCATOR_AT; }

/* The operation on whatever a lock word of the map locks, if it is not the checkpoint lock, whose holder leaves nothing. */
static void operation_of(mmkv_store *s, const uint32_t *word, struct op *op)
{
    uint64_t offset = offset_of(s, word);
    struct fmt_allocator *p = allocator_of(s);
    op->sh = NULL;
    if (offset < FMT_SHARDS_AT) {
        op_open(op, s, &p->l, &p->log, 0);
    } else {
        op->shard = (uint32_t)((offset - FMT_SHARDS_AT) / sizeof(struct fmt_shard));
        op->sh = shard_of(s, op->shard);
        op_open(op, s, &op->sh->l, &op->sh->log, 0);
    }
}

static int undo(struct op *op)
{
    return load(op->sh ? &op->sh->failed : &allocator_of(op->s)->failed) ? 0 : op->sh ? transaction_undo(op) : pages_undo(op);
}

static int give_up(struct op *op)
{
    if (load(op->count) || load(&op->l->version) & 1 || (op->sh && load(&op->sh->log.transaction))) op_fail(op);
    return 0;
}

static int let_go(mmkv_store *s, uint32_t *word)
{
    if (leads(s, word)) checkpoint_unlock(s);
    else lock_clear(word);
    return 0;
}

/* Each step in a guard of its own: it touches the map, whose pages may be gone. A guard there holds fewer locks than this
 * one, the allocator's at most, so this ends. */
static void unwind(struct guard *g)
{
    mmkv_store *s = g->s;
    struct op op;
    while (g->held_count) {
        struct held *last = &g->held[g->held_count - 1];
        uint32_t *word = last->word + (size_t)(last->shards - 1) * SHARD_STRIDE;
        if (!leads(s, word)) {
            operation_of(s, word, &op);
            if (GUARDED(s, undo(&op))) GUARDED(s, give_up(&op));
        }
        GUARDED(s, let_go(s, word));
        if (!--last->shards) g->held_count--;
    }
    for (uint32_t *word; g->committing && (word = commit_last(g->commit)); commit_forget(g->commit)) {
        operation_of(s, word, &op);
        if (GUARDED(s, commit_settle(g->commit))) GUARDED(s, give_up(&op));
        GUARDED(s, let_go(s, word));
    }
    if (g->reserved) GUARDED(s, reservation_end(s, g->reservation, 0, 0)); /* if not, whoever settles the slot does it */
    if (g->copied) free(g->scratch);
}

int guard_fault(void)
{
    struct guard *g = guard_top;
    shield_jumped(g->s);
    int code = explain(g);
    mmkv_failure kept = *mmkv_failure_get();
    unwind(g);
    fail_again(&kept);
    return code;
}
