/* hot.h: what the files of the native class share; see hot.c. */
#ifndef MMKV_HOT_H
#define MMKV_HOT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#include "mmkv.h"

#define SMALL 4096                  /* values up to here are read into the stack first: one call, no guess */
#define RELEASE_OVER 32768          /* moving more bytes than this releases the GIL */
#define WINDOW 32                   /* keys of a *_many call in flight: enough to hide memory latency behind prefetches */
#define SCAN_BYTES 65536            /* a batch of an iteration */
#define SCAN_VALUE_LIMIT 16384      /* longer values are fetched one by one */
#define RAISED (-1)                 /* beside the engine's codes: a Python exception is set */
#define CLOSED (-2)                 /* what the error factory is given for a closed store */

struct hot {
    PyObject_HEAD
    mmkv_store *store;              /* NULL before attach and after the engine's handle is closed */
    Py_ssize_t users;               /* calls inside the engine */
    unsigned long long writes;      /* successful changes, for the background checkpoint to see whether there is news */
    char closed;                    /* no new calls */
    char checkpoint;                /* close makes a checkpoint */
    char always;                    /* every change is made durable before it returns */
};

/* Run one engine call without the GIL. The failure record is per thread, so it survives. */
#define WITHOUT_GIL(code, call)                             \
    do {                                                    \
        PyThreadState *thread_ = PyEval_SaveThread();       \
        (code) = (call);                                    \
        PyEval_RestoreThread(thread_);                      \
    } while (0)

/* ---- hot.c ---- */

/* Bytes that stay as they are while a call uses them. `owner` is NULL when the caller's reference is enough. */
struct span {
    PyObject *owner;
    const char *data;
    Py_ssize_t length;
};

void raise_code(struct hot *h, int code);
PyObject *type_name(PyObject *object);
int span_copy(PyObject *object, struct span *s, const char *what);
int arguments(const char *function, PyObject *const *args, Py_ssize_t n, PyObject *names, Py_ssize_t least,
              Py_ssize_t most, const char *keyword, PyObject **out);
void finish_deferred(struct hot *h);
int interrupted(int code);
int sync_now(struct hot *h);

/* ---- hot_keys.c, hot_swap.c, hot_many.c and hot_commit.c ---- */

int get_bytes(struct hot *h, uint64_t hash, const struct span *k, PyObject **value);
PyObject *hot_subscript(PyObject *self, PyObject *key);
int hot_ass_subscript(PyObject *self, PyObject *key, PyObject *value);
int hot_contains(PyObject *self, PyObject *key);
Py_ssize_t hot_length(PyObject *self);
PyObject *hot_get(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names);
PyObject *hot_put(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names);
PyObject *hot_delete(PyObject *self, PyObject *key);
PyObject *hot_pop(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names);
PyObject *hot_setdefault(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names);
PyObject *hot_get_into(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names);
PyObject *hot_add(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names);
PyObject *hot_replace(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names);
PyObject *hot_compare_and_swap(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names);
PyObject *hot_incr(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names);
PyObject *hot_wait(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names);
PyObject *hot_get_many(PyObject *self, PyObject *keys);
PyObject *hot_put_many(PyObject *self, PyObject *source);
PyObject *hot_delete_many(PyObject *self, PyObject *keys);
PyObject *hot_clear(PyObject *self, PyObject *ignored);
PyObject *hot_commit(PyObject *self, PyObject *const *args, Py_ssize_t n);
PyObject *hot_set_hash(PyObject *module, PyObject *function);
PyObject *hot_scan(PyObject *self, PyObject *const *args, Py_ssize_t n);

/* ---- arguments ---- */

/* The caller's bytes, or a copy of what else is bytes-like. -1: raised. */
static inline int span_load(PyObject *object, struct span *s, const char *what)
{
    s->owner = NULL;
    if (PyBytes_CheckExact(object) || PyBytes_Check(object))
        return PyBytes_AsStringAndSize(object, (char **)&s->data, &s->length);
    return span_copy(object, s, what);
}

static inline void span_drop(struct span *s)
{
    if (s->owner) {
        Py_DECREF(s->owner);
        s->owner = NULL;
    }
}

static inline int key_load(PyObject *object, struct span *s)
{
    if (span_load(object, s, "key") < 0) return -1;
    if (s->length > 65535) {
        PyErr_Format(PyExc_ValueError, "a key is at most 65,535 bytes long, not %zd", s->length);
        span_drop(s);
        return -1;
    }
    return 0;
}

/* ---- entering and leaving ---- */

/* Every use of h->store lies between enter() and leave(). -1: raised ClosedError. */
static inline int enter(struct hot *h)
{
    if (h->closed || !h->store) {
        raise_code(h, CLOSED);
        return -1;
    }
    h->users++;
    return 0;
}

static inline void leave(struct hot *h)
{
    if (h->users > 0) h->users--;
    if (h->closed && !h->users) finish_deferred(h);
}

/* A change was made. */
static inline int wrote(struct hot *h)
{
    h->writes++;
    return h->always ? sync_now(h) : 0;
}

/* ---- single operations; all return the engine's code or RAISED, and are called inside ---- */

/* First try with the GIL, then without as often as needed. */
#define TRY(code, keep, call_no_wait, call)                                         \
    do {                                                                            \
        (code) = (keep) ? (call_no_wait) : MMKV_WOULD_BLOCK;                        \
        while ((code) == MMKV_WOULD_BLOCK || (code) == MMKV_INTERRUPTED) {          \
            if (interrupted(code)) {                                                \
                (code) = RAISED;                                                    \
                break;                                                              \
            }                                                                       \
            WITHOUT_GIL(code, call);                                                \
        }                                                                           \
    } while (0)

static inline int op_get(struct hot *h, uint64_t hash, const struct span *k, void *to, size_t capacity, size_t *length)
{
    int code;
    TRY(code, capacity <= RELEASE_OVER,
        mmkv_get(h->store, hash, k->data, (size_t)k->length, to, capacity, length, MMKV_NO_WAIT),
        mmkv_get(h->store, hash, k->data, (size_t)k->length, to, capacity, length, 0));
    return code;
}

static inline int op_put(struct hot *h, uint64_t hash, const struct span *k, const struct span *v, unsigned flags)
{
    int code;
    TRY(code, v->length <= RELEASE_OVER,
        mmkv_put(h->store, hash, k->data, (size_t)k->length, v->data, (size_t)v->length, flags | MMKV_NO_WAIT),
        mmkv_put(h->store, hash, k->data, (size_t)k->length, v->data, (size_t)v->length, flags));
    return code;
}

static inline int op_delete(struct hot *h, uint64_t hash, const struct span *k, void *to, size_t capacity, size_t *length)
{
    int code;
    TRY(code, capacity <= RELEASE_OVER,
        mmkv_delete(h->store, hash, k->data, (size_t)k->length, to, capacity, length, MMKV_NO_WAIT),
        mmkv_delete(h->store, hash, k->data, (size_t)k->length, to, capacity, length, 0));
    return code;
}

static inline uint64_t hash_of(struct hot *h, const struct span *k)
{
    return mmkv_hash(h->store, k->data, (size_t)k->length);
}

#endif
