/* hot.c: the native base class of Store, and the only C file that knows Python.
 *
 * One call of a mapping operation is one native call, without a Python frame. It is the limited API only (3.11), so one
 * build serves every later CPython. mmkv/_reference.py has the same class over cffi; what one does the other does, and
 * the docstrings are written there and arrive here through a header that build.py makes.
 *
 * The GIL. Short work keeps it: MMKV_NO_WAIT makes the engine say MMKV_WOULD_BLOCK rather than wait or copy much, and
 * the call is then made again with the GIL released. Everything in `struct hot` is read and written with the GIL held.
 *
 * Closing. `users` counts the calls that are inside the engine. close() marks the object, so that new calls raise, and
 * whoever leaves last closes the engine's handle: a handle is never closed under a call. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#include "hot_docs.h"
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

static PyObject *error_factory;     /* f(code, os_errno, offset, pid, text, path) -> exception; set by _native.py */

/* Run one engine call without the GIL. The failure record is per thread, so it survives. */
#define WITHOUT_GIL(code, call)                             \
    do {                                                    \
        PyThreadState *thread_ = PyEval_SaveThread();       \
        (code) = (call);                                    \
        PyEval_RestoreThread(thread_);                      \
    } while (0)

/* ---- errors ---- */

/* Raise what `code` stands for. Must follow the failed engine call directly, on its thread. */
static void raise_code(struct hot *h, int code)
{
    mmkv_failure none = {0}, failure = none;
    if (code == RAISED) return;
    if (code != CLOSED) {
        const mmkv_failure *last = mmkv_failure_get();
        if (last && last->code == code) failure = *last;
    }
    failure.text[sizeof failure.text - 1] = 0;
    if (!error_factory) {
        PyErr_Format(PyExc_SystemError, "mmkv error %d before set_error_factory", code);
        return;
    }
    PyObject *path = PyObject_GetAttrString((PyObject *)h, "path");
    if (!path) {
        PyErr_Clear();
        path = Py_NewRef(Py_None);
    }
    PyObject *text = PyUnicode_DecodeUTF8(failure.text, (Py_ssize_t)strlen(failure.text), "surrogateescape");
    PyObject *exception = text ? PyObject_CallFunction(error_factory, "iiKKOO", code, failure.os_errno,
                                                       (unsigned long long)failure.offset,
                                                       (unsigned long long)failure.pid, text, path)
                               : NULL;
    Py_XDECREF(text);
    Py_DECREF(path);
    if (!exception) return;
    PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
    Py_DECREF(exception);
}

static PyObject *raise_code_null(struct hot *h, int code)
{
    raise_code(h, code);
    return NULL;
}

static PyObject *type_name(PyObject *object)
{
    return PyObject_GetAttrString((PyObject *)Py_TYPE(object), "__name__");
}

static void raise_type(PyObject *object, const char *what)
{
    if (PyUnicode_Check(object)) {
        PyErr_Format(PyExc_TypeError, "%ss are bytes, not str: encode it first, as in %s.encode()", what, what);
        return;
    }
    PyObject *name = type_name(object);
    if (!name) return;
    PyErr_Format(PyExc_TypeError, "%ss are bytes or bytes-like objects, not %U", what, name);
    Py_DECREF(name);
}

/* ---- arguments ---- */

/* Bytes that stay as they are while a call uses them. `owner` is NULL when the caller's reference is enough. */
struct span {
    PyObject *owner;
    const char *data;
    Py_ssize_t length;
};

/* Everything but bytes is copied: another thread, or another process behind shared memory, could change it between
 * checksum and store. */
static int span_copy(PyObject *object, struct span *s, const char *what)
{
    Py_buffer view;
    if (PyUnicode_Check(object) || !PyObject_CheckBuffer(object)) {
        raise_type(object, what);
        return -1;
    }
    if (PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) < 0) return -1;
    s->owner = PyBytes_FromStringAndSize(NULL, view.len);
    if (s->owner) {
        char *to = PyBytes_AsString(s->owner);
        if (view.len > RELEASE_OVER) {
            PyThreadState *thread = PyEval_SaveThread();
            memcpy(to, view.buf, (size_t)view.len);
            PyEval_RestoreThread(thread);
        } else if (view.len) {
            memcpy(to, view.buf, (size_t)view.len);
        }
        s->data = to;
        s->length = view.len;
    }
    PyBuffer_Release(&view);
    return s->owner ? 0 : -1;
}

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

/* As above, but always with a reference of its own, for spans that outlive the argument (windows). */
static int span_keep(PyObject *object, struct span *s)
{
    if (!s->owner) s->owner = Py_NewRef(object);
    return 0;
}

/* Positional arguments, the last of which may be missing or be given by name (`keyword`, or NULL). */
static int arguments(const char *function, PyObject *const *args, Py_ssize_t n, PyObject *names, Py_ssize_t least,
                     Py_ssize_t most, const char *keyword, PyObject **out)
{
    for (Py_ssize_t i = 0; i < most; i++) out[i] = i < n ? args[i] : NULL;
    if (names && PyTuple_Size(names) > 0) {
        PyObject *name = PyTuple_GetItem(names, 0);
        if (!keyword || PyTuple_Size(names) > 1 || PyUnicode_CompareWithASCIIString(name, keyword) != 0) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", function, name);
            return -1;
        }
        if (n >= most) {
            PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%s'", function, keyword);
            return -1;
        }
        out[most - 1] = args[n];
        if (n == most - 1) return 0;
    }
    if (n < least || n > most || (n < most && most - n > 1 && out[most - 1])) {
        if (least == most)
            PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments (%zd given)", function, most, n);
        else
            PyErr_Format(PyExc_TypeError, "%s() takes %zd to %zd arguments (%zd given)", function, least, most, n);
        return -1;
    }
    return 0;
}

/* ---- entering, leaving, closing ---- */

/* Close the engine's handle. Nobody is inside. */
static int finish(struct hot *h)
{
    mmkv_store *store = h->store;
    int code;
    if (!store) return 0;
    h->store = NULL;
    WITHOUT_GIL(code, mmkv_close(store, h->checkpoint));
    return code;
}

/* The last one out after a close() that could not wait for it. There is nobody to raise to. */
static void finish_deferred(struct hot *h)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    int code = finish(h);
    if (code) {
        raise_code(h, code);
        PyErr_WriteUnraisable((PyObject *)h);
    }
    PyErr_Restore(type, value, trace);
}

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

/* After MMKV_INTERRUPTED: let the signal's handler run, then try again (0) or give up (RAISED). */
static int interrupted(int code)
{
    return code == MMKV_INTERRUPTED && PyErr_CheckSignals() < 0 ? RAISED : 0;
}

static int sync_now(struct hot *h)
{
    uint64_t epoch;
    int code;
    do {
        WITHOUT_GIL(code, mmkv_sync(h->store, 1, &epoch));
        if (interrupted(code)) return RAISED;
    } while (code == MMKV_INTERRUPTED);
    return code;
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

/* The value as bytes, read by op_get or taken out by op_delete. On success *value is a new reference. */
static int read_bytes(struct hot *h, uint64_t hash, const struct span *k, PyObject **value,
                      int (*op)(struct hot *, uint64_t, const struct span *, void *, size_t, size_t *))
{
    char small[SMALL];
    size_t length = 0;
    int code = op(h, hash, k, small, sizeof small, &length);
    *value = NULL;
    if (code == 0) {
        *value = PyBytes_FromStringAndSize(small, (Py_ssize_t)length);
        return *value ? 0 : RAISED;
    }
    while (code == MMKV_SHORT) {
        size_t capacity = length;
        PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)capacity);
        if (!bytes) return RAISED;
        code = op(h, hash, k, PyBytes_AsString(bytes), capacity, &length);
        if (code == 0 && length == capacity) {
            *value = bytes;
            return 0;
        }
        if (code == 0) { /* it has shrunk meanwhile */
            *value = PyBytes_FromStringAndSize(PyBytes_AsString(bytes), (Py_ssize_t)length);
            if (!*value) code = RAISED;
        }
        Py_DECREF(bytes);
    }
    return code;
}

static int get_bytes(struct hot *h, uint64_t hash, const struct span *k, PyObject **value)
{
    return read_bytes(h, hash, k, value, op_get);
}

/* ---- the mapping slots ---- */

static PyObject *hot_subscript(PyObject *self, PyObject *key)
{
    struct hot *h = (struct hot *)self;
    struct span k;
    PyObject *value;
    if (key_load(key, &k) < 0) return NULL;
    if (enter(h) < 0) {
        span_drop(&k);
        return NULL;
    }
    int code = get_bytes(h, hash_of(h, &k), &k, &value);
    if (code == MMKV_NOT_FOUND)
        PyErr_SetObject(PyExc_KeyError, key);
    else if (code)
        raise_code(h, code);
    leave(h);
    span_drop(&k);
    return value;
}

static int store_one(struct hot *h, PyObject *key, PyObject *value)
{
    struct span k, v;
    if (key_load(key, &k) < 0) return -1;
    if (span_load(value, &v, "value") < 0) {
        span_drop(&k);
        return -1;
    }
    int code = RAISED;
    if (enter(h) == 0) {
        code = op_put(h, hash_of(h, &k), &k, &v, 0);
        if (!code) code = wrote(h);
        if (code) raise_code(h, code);
        leave(h);
    }
    span_drop(&k);
    span_drop(&v);
    return code ? -1 : 0;
}

/* 1 removed, 0 absent, -1 raised */
static int delete_one(struct hot *h, PyObject *key)
{
    struct span k;
    if (key_load(key, &k) < 0) return -1;
    int code = RAISED;
    if (enter(h) == 0) {
        code = op_delete(h, hash_of(h, &k), &k, NULL, 0, NULL);
        if (!code) code = wrote(h);
        if (code && code != MMKV_NOT_FOUND) raise_code(h, code);
        leave(h);
    }
    span_drop(&k);
    return code == 0 ? 1 : code == MMKV_NOT_FOUND ? 0 : -1;
}

static int hot_ass_subscript(PyObject *self, PyObject *key, PyObject *value)
{
    if (value) return store_one((struct hot *)self, key, value);
    int found = delete_one((struct hot *)self, key);
    if (found == 0) PyErr_SetObject(PyExc_KeyError, key);
    return found == 1 ? 0 : -1;
}

static int hot_contains(PyObject *self, PyObject *key)
{
    struct hot *h = (struct hot *)self;
    struct span k;
    if (key_load(key, &k) < 0) return -1;
    int code = RAISED;
    if (enter(h) == 0) {
        uint64_t hash = hash_of(h, &k);
        TRY(code, 1, mmkv_contains(h->store, hash, k.data, (size_t)k.length, MMKV_NO_WAIT),
            mmkv_contains(h->store, hash, k.data, (size_t)k.length, 0));
        if (code && code != MMKV_NOT_FOUND) raise_code(h, code);
        leave(h);
    }
    span_drop(&k);
    return code == 0 ? 1 : code == MMKV_NOT_FOUND ? 0 : -1;
}

static Py_ssize_t hot_length(PyObject *self)
{
    struct hot *h = (struct hot *)self;
    if (enter(h) < 0) return -1;
    Py_ssize_t count = (Py_ssize_t)mmkv_count(h->store);
    leave(h);
    return count;
}

/* ---- the methods on one key ---- */

static PyObject *hot_get(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    struct hot *h = (struct hot *)self;
    PyObject *a[2] = {n > 0 ? args[0] : NULL, n > 1 ? args[1] : NULL}, *value;
    struct span k;
    if ((names || n < 1 || n > 2) && arguments("get", args, n, names, 1, 2, "default", a) < 0) return NULL;
    if (key_load(a[0], &k) < 0) return NULL;
    if (enter(h) < 0) {
        span_drop(&k);
        return NULL;
    }
    int code = get_bytes(h, hash_of(h, &k), &k, &value);
    if (code == MMKV_NOT_FOUND)
        value = Py_NewRef(a[1] ? a[1] : Py_None);
    else if (code)
        raise_code(h, code);
    leave(h);
    span_drop(&k);
    return value;
}

static PyObject *hot_put(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    PyObject *a[2];
    if (arguments("put", args, n, names, 2, 2, NULL, a) < 0) return NULL;
    if (store_one((struct hot *)self, a[0], a[1]) < 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *hot_delete(PyObject *self, PyObject *key)
{
    int found = delete_one((struct hot *)self, key);
    return found < 0 ? NULL : PyBool_FromLong(found);
}

static PyObject *hot_pop(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    struct hot *h = (struct hot *)self;
    PyObject *a[2], *value;
    struct span k;
    if (arguments("pop", args, n, names, 1, 2, "default", a) < 0) return NULL;
    if (key_load(a[0], &k) < 0) return NULL;
    if (enter(h) < 0) {
        span_drop(&k);
        return NULL;
    }
    int code = read_bytes(h, hash_of(h, &k), &k, &value, op_delete);
    if (!code) code = wrote(h);
    if (code == MMKV_NOT_FOUND) {
        if (a[1])
            value = Py_NewRef(a[1]);
        else
            PyErr_SetObject(PyExc_KeyError, a[0]);
    } else if (code) {
        Py_CLEAR(value);
        raise_code(h, code);
    }
    leave(h);
    span_drop(&k);
    return value;
}

static PyObject *hot_setdefault(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    struct hot *h = (struct hot *)self;
    PyObject *a[2], *value = NULL;
    struct span k, v;
    if (arguments("setdefault", args, n, names, 2, 2, "default", a) < 0) return NULL;
    if (key_load(a[0], &k) < 0) return NULL;
    if (span_load(a[1], &v, "value") < 0) {
        span_drop(&k);
        return NULL;
    }
    if (enter(h) == 0) {
        uint64_t hash = hash_of(h, &k);
        int code;
        do { /* absent when read, there when added: somebody was faster, so read again */
            code = get_bytes(h, hash, &k, &value);
            if (code != MMKV_NOT_FOUND) break;
            code = op_put(h, hash, &k, &v, MMKV_ADD);
            if (code) continue;
            code = wrote(h);
            if (!code) value = v.owner ? Py_NewRef(v.owner) : PyBytes_CheckExact(a[1]) ? Py_NewRef(a[1])
                                                             : PyBytes_FromStringAndSize(v.data, v.length);
            break;
        } while (code == MMKV_EXISTS);
        if (code) raise_code(h, code);
        leave(h);
    }
    span_drop(&k);
    span_drop(&v);
    return value;
}

static PyObject *hot_get_into(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    struct hot *h = (struct hot *)self;
    PyObject *a[2], *result = NULL;
    struct span k;
    Py_buffer view;
    if (arguments("get_into", args, n, names, 2, 2, NULL, a) < 0) return NULL;
    if (key_load(a[0], &k) < 0) return NULL;
    if (!PyObject_CheckBuffer(a[1])) {
        PyObject *name = type_name(a[1]);
        if (name) PyErr_Format(PyExc_TypeError, "get_into() needs a writable bytes-like object, not %U", name);
        Py_XDECREF(name);
    } else if (PyObject_GetBuffer(a[1], &view, PyBUF_WRITABLE) == 0) {
        if (enter(h) == 0) {
            size_t length = 0;
            uint64_t hash = hash_of(h, &k);
            int code;
            /* Whether much is copied depends on the value, not on the buffer, so let the engine say. */
            TRY(code, 1,
                mmkv_get(h->store, hash, k.data, (size_t)k.length, view.buf, (size_t)view.len, &length, MMKV_NO_WAIT),
                mmkv_get(h->store, hash, k.data, (size_t)k.length, view.buf, (size_t)view.len, &length, 0));
            if (code == 0)
                result = PyLong_FromSize_t(length);
            else if (code == MMKV_NOT_FOUND)
                PyErr_SetObject(PyExc_KeyError, a[0]);
            else if (code == MMKV_SHORT)
                PyErr_Format(PyExc_BufferError, "the value has %zu bytes and the buffer only %zd", length, view.len);
            else
                raise_code(h, code);
            leave(h);
        }
        PyBuffer_Release(&view);
    }
    span_drop(&k);
    return result;
}

/* ---- the methods on many keys ---- */

struct window {
    int count;
    PyObject *key_object[WINDOW];   /* as given */
    struct span key[WINDOW], value[WINDOW];
    uint64_t hash[WINDOW];
};

static void window_drop(struct window *w, int with_values)
{
    for (int i = 0; i < w->count; i++) {
        Py_DECREF(w->key_object[i]);
        span_drop(&w->key[i]);
        if (with_values) span_drop(&w->value[i]);
    }
    w->count = 0;
}

/* Add a key, and a value unless NULL; takes references of its own. */
static int window_add(struct window *w, PyObject *key, PyObject *value)
{
    int i = w->count;
    if (key_load(key, &w->key[i]) < 0) return -1;
    if (value) {
        if (span_load(value, &w->value[i], "value") < 0) {
            span_drop(&w->key[i]);
            return -1;
        }
        span_keep(value, &w->value[i]);
    }
    span_keep(key, &w->key[i]);
    w->key_object[i] = Py_NewRef(key);
    w->count++;
    return 0;
}

/* Start the memory reads of the whole window before the first is needed. */
static void window_prefetch(struct hot *h, struct window *w)
{
    for (int i = 0; i < w->count; i++) {
        w->hash[i] = hash_of(h, &w->key[i]);
        mmkv_prefetch(h->store, w->hash[i], 0);
    }
    for (int i = 0; i < w->count; i++) mmkv_prefetch(h->store, w->hash[i], 1);
}

/* Fill the window with keys. 1 when more may follow, 0 at the end, -1 raised (the window holds what came before). */
static int window_keys(struct window *w, PyObject *iterator)
{
    while (w->count < WINDOW) {
        PyObject *key = PyIter_Next(iterator);
        if (!key) return PyErr_Occurred() ? -1 : 0;
        int bad = window_add(w, key, NULL);
        Py_DECREF(key);
        if (bad) return -1;
    }
    return 1;
}

static PyObject *hot_get_many(PyObject *self, PyObject *keys)
{
    struct hot *h = (struct hot *)self;
    struct window w = {.count = 0};
    PyObject *iterator = PyObject_GetIter(keys), *list = iterator ? PyList_New(0) : NULL;
    int more = list ? 1 : -1;
    while (more > 0) {
        more = window_keys(&w, iterator);
        if (more >= 0 && enter(h) < 0) more = -1;
        if (more >= 0) {
            window_prefetch(h, &w);
            for (int i = 0; i < w.count && more >= 0; i++) {
                PyObject *value;
                int code = get_bytes(h, w.hash[i], &w.key[i], &value);
                if (code == MMKV_NOT_FOUND)
                    value = Py_NewRef(Py_None);
                else if (code)
                    raise_code(h, code);
                if (!value || PyList_Append(list, value) < 0) more = -1;
                Py_XDECREF(value);
            }
            leave(h);
        }
        window_drop(&w, 0);
    }
    Py_XDECREF(iterator);
    if (more < 0) Py_CLEAR(list);
    return list;
}

/* The end of a *_many that changes: one checkpoint for all of it if the store is to be always durable. `failed` means
 * that an exception is set already, about what came after the changes. */
static PyObject *many_done(struct hot *h, Py_ssize_t changed, int failed)
{
    if (changed && h->always) {
        PyObject *type, *value, *trace;
        PyErr_Fetch(&type, &value, &trace);
        if (enter(h) == 0) {
            int code = sync_now(h);
            if (code) raise_code(h, code);
            leave(h);
        }
        if (failed) {
            PyErr_Clear();
            PyErr_Restore(type, value, trace);
        }
    }
    return failed || PyErr_Occurred() ? NULL : PyLong_FromSsize_t(changed);
}

/* Apply a window of puts (values) or deletes and empty it. Adds what it changed to *changed. `more` is what filling the
 * window gave, and is returned unless this fails. An error of filling does not keep back what came before it. */
static int window_apply(struct hot *h, struct window *w, int more, int puts, Py_ssize_t *changed)
{
    PyObject *type = NULL, *value = NULL, *trace = NULL;
    int code = 0;
    if (more < 0) PyErr_Fetch(&type, &value, &trace);
    if (w->count && enter(h) < 0) {
        code = RAISED;
    } else if (w->count) {
        window_prefetch(h, w);
        for (int i = 0; i < w->count && !code; i++) {
            code = puts ? op_put(h, w->hash[i], &w->key[i], &w->value[i], 0)
                        : op_delete(h, w->hash[i], &w->key[i], NULL, 0, NULL);
            if (!code) {
                h->writes++;
                ++*changed;
            } else if (code == MMKV_NOT_FOUND && !puts) {
                code = 0;
            }
        }
        if (code) raise_code(h, code);
        leave(h);
    }
    window_drop(w, puts);
    if (more < 0 && !code) {
        PyErr_Restore(type, value, trace);
    } else {
        Py_XDECREF(type);
        Py_XDECREF(value);
        Py_XDECREF(trace);
    }
    return code ? -1 : more;
}

static PyObject *hot_delete_many(PyObject *self, PyObject *keys)
{
    struct hot *h = (struct hot *)self;
    struct window w = {.count = 0};
    PyObject *iterator = PyObject_GetIter(keys);
    Py_ssize_t changed = 0;
    int more = iterator ? 1 : -1;
    while (more > 0) {
        more = window_apply(h, &w, window_keys(&w, iterator), 0, &changed);
    }
    Py_XDECREF(iterator);
    return many_done(h, changed, more < 0);
}

/* Take a pair apart; new references. */
static int pair_split(PyObject *pair, PyObject **key, PyObject **value)
{
    Py_ssize_t length = PyTuple_Check(pair) ? PyTuple_Size(pair) : PySequence_Check(pair) ? PySequence_Size(pair) : -1;
    if (length != 2) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "put_many() takes a mapping or an iterable of (key, value) pairs");
        return -1;
    }
    *key = PySequence_GetItem(pair, 0);
    *value = *key ? PySequence_GetItem(pair, 1) : NULL;
    if (!*value) {
        Py_CLEAR(*key);
        return -1;
    }
    return 0;
}

static int window_pairs(struct window *w, PyObject *iterator)
{
    while (w->count < WINDOW) {
        PyObject *pair = PyIter_Next(iterator), *key, *value;
        if (!pair) return PyErr_Occurred() ? -1 : 0;
        int bad = pair_split(pair, &key, &value);
        Py_DECREF(pair);
        if (bad) return -1;
        bad = window_add(w, key, value);
        Py_DECREF(key);
        Py_DECREF(value);
        if (bad) return -1;
    }
    return 1;
}

/* An iterator over the pairs of a mapping or of an iterable. */
static PyObject *pairs_of(PyObject *source)
{
    PyObject *items, *iterator;
    if (!PyDict_CheckExact(source)) {
        PyObject *method = PyObject_GetAttrString(source, "items");
        if (!method) {
            if (!PyErr_ExceptionMatches(PyExc_AttributeError)) return NULL;
            PyErr_Clear();
            return PyObject_GetIter(source);
        }
        Py_DECREF(method);
    }
    items = PyObject_CallMethod(source, "items", NULL);
    if (!items) return NULL;
    iterator = PyObject_GetIter(items);
    Py_DECREF(items);
    return iterator;
}

static PyObject *hot_put_many(PyObject *self, PyObject *source)
{
    struct hot *h = (struct hot *)self;
    struct window w = {.count = 0};
    PyObject *iterator = pairs_of(source);
    Py_ssize_t changed = 0;
    int more = iterator ? 1 : -1;
    while (more > 0) {
        more = window_apply(h, &w, window_pairs(&w, iterator), 1, &changed);
    }
    Py_XDECREF(iterator);
    return many_done(h, changed, more < 0);
}

static PyObject *hot_clear(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct hot *h = (struct hot *)self;
    int code;
    if (enter(h) < 0) return NULL;
    do {
        WITHOUT_GIL(code, mmkv_clear(h->store));
        if (interrupted(code)) code = RAISED;
    } while (code == MMKV_INTERRUPTED);
    if (!code) code = wrote(h);
    if (code) raise_code(h, code);
    leave(h);
    if (code) return NULL;
    Py_RETURN_NONE;
}

/* ---- iteration ---- */

/* The items of a filled scan buffer: a list of keys, or of (key, value) with None for a value that was left out. */
static PyObject *scan_list(const char *buffer, size_t used, int with_values)
{
    PyObject *list = PyList_New(0);
    size_t at = 0;
    while (list && at < used) {
        uint32_t key_length;
        uint64_t value_length;
        memcpy(&key_length, buffer + at, 4);
        memcpy(&value_length, buffer + at + 8, 8);
        int has_value = with_values && value_length <= SCAN_VALUE_LIMIT;
        const char *key_at = buffer + at + 16;
        at += (16 + key_length + (has_value ? (size_t)value_length : 0) + 7) & ~(size_t)7;
        PyObject *item = PyBytes_FromStringAndSize(key_at, key_length);
        if (item && with_values) {
            PyObject *value = has_value ? PyBytes_FromStringAndSize(key_at + key_length, (Py_ssize_t)value_length)
                                        : Py_NewRef(Py_None);
            PyObject *pair = value ? PyTuple_Pack(2, item, value) : NULL;
            Py_DECREF(item);
            Py_XDECREF(value);
            item = pair;
        }
        if (!item || PyList_Append(list, item) < 0) Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

/* _scan(cursor, with_values) -> (cursor, list); an empty list is the end. */
static PyObject *hot_scan(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hot *h = (struct hot *)self;
    if (n != 2) {
        PyErr_SetString(PyExc_TypeError, "_scan() takes 2 arguments");
        return NULL;
    }
    uint64_t cursor = PyLong_AsUnsignedLongLong(args[0]);
    int with_values = PyObject_IsTrue(args[1]), code;
    if (PyErr_Occurred() || enter(h) < 0) return NULL;
    size_t capacity = SCAN_BYTES, used = 0;
    char *buffer = PyMem_Malloc(capacity);
    PyObject *result = NULL;
    for (;;) {
        if (!buffer) {
            PyErr_NoMemory();
            code = RAISED;
            break;
        }
        WITHOUT_GIL(code, mmkv_scan(h->store, &cursor, buffer, capacity, &used, with_values, SCAN_VALUE_LIMIT, 0));
        if (interrupted(code)) code = RAISED;
        if (code == MMKV_SHORT) {
            PyMem_Free(buffer);
            capacity = used;
            buffer = PyMem_Malloc(capacity);
        } else if (code != MMKV_INTERRUPTED) {
            break;
        }
    }
    if (code == 0 || code == MMKV_NOT_FOUND) {
        PyObject *list = scan_list(buffer, code ? 0 : used, with_values);
        if (list) result = Py_BuildValue("KN", (unsigned long long)cursor, list);
    } else {
        raise_code(h, code);
    }
    PyMem_Free(buffer);
    leave(h);
    return result;
}

/* ---- what store.py uses besides ---- */

/* _attach(address of an mmkv_store, always, checkpoint): from now on the handle is this object's. */
static PyObject *hot_attach(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hot *h = (struct hot *)self;
    if (n != 3 || h->store) {
        PyErr_SetString(PyExc_TypeError, "_attach() takes 3 arguments, once");
        return NULL;
    }
    void *store = PyLong_AsVoidPtr(args[0]);
    int always = PyObject_IsTrue(args[1]), checkpoint = PyObject_IsTrue(args[2]);
    if (PyErr_Occurred()) return NULL;
    h->store = store;
    h->always = (char)always;
    h->checkpoint = (char)checkpoint;
    h->closed = 0;
    Py_RETURN_NONE;
}

/* _enter() -> address of the mmkv_store, which stays open until _leave(). */
static PyObject *hot_enter(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct hot *h = (struct hot *)self;
    if (enter(h) < 0) return NULL;
    return PyLong_FromVoidPtr(h->store);
}

static PyObject *hot_leave(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    leave((struct hot *)self);
    Py_RETURN_NONE;
}

/* _close() -> True when the engine's handle is closed, False when the last call inside will do it. In that case what
 * was written before is made durable here, so that the promise of close() does not depend on the other thread. */
static PyObject *hot_close(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct hot *h = (struct hot *)self;
    int code;
    if (h->closed || !h->store) Py_RETURN_TRUE;
    h->closed = 1;
    if (h->users && h->checkpoint) {
        h->users++;
        code = sync_now(h);
        h->users--;
        if (code) {
            raise_code(h, code);
            if (!h->users) finish_deferred(h);
            return NULL;
        }
    }
    if (h->users) Py_RETURN_FALSE;
    code = finish(h);
    if (code) return raise_code_null(h, code);
    Py_RETURN_TRUE;
}

/* _forked(): in a child, where the threads that were inside do not exist. */
static PyObject *hot_forked(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct hot *h = (struct hot *)self;
    h->users = 0;
    if (h->closed) {
        h->checkpoint = 0;
        finish_deferred(h);
    }
    Py_RETURN_NONE;
}

static PyObject *hot_closed(PyObject *self, void *Py_UNUSED(closure))
{
    struct hot *h = (struct hot *)self;
    return PyBool_FromLong(h->closed || !h->store);
}

static PyObject *hot_writes(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(((struct hot *)self)->writes);
}

static void hot_dealloc(PyObject *self)
{
    struct hot *h = (struct hot *)self;
    PyTypeObject *type = Py_TYPE(self);
    if (h->store) { /* Store.__del__ closes with a warning; this is for what it could not reach */
        h->closed = 1;
        PyObject *error_type, *value, *trace;
        PyErr_Fetch(&error_type, &value, &trace);
        finish(h);
        PyErr_Restore(error_type, value, trace);
    }
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

/* ---- the type and the module ---- */

#define FAST(name) (PyCFunction)(void (*)(void))(name)

static PyMethodDef hot_methods[] = {
    {"get", FAST(hot_get), METH_FASTCALL | METH_KEYWORDS, DOC_get},
    {"put", FAST(hot_put), METH_FASTCALL | METH_KEYWORDS, DOC_put},
    {"delete", hot_delete, METH_O, DOC_delete},
    {"pop", FAST(hot_pop), METH_FASTCALL | METH_KEYWORDS, DOC_pop},
    {"setdefault", FAST(hot_setdefault), METH_FASTCALL | METH_KEYWORDS, DOC_setdefault},
    {"get_into", FAST(hot_get_into), METH_FASTCALL | METH_KEYWORDS, DOC_get_into},
    {"get_many", hot_get_many, METH_O, DOC_get_many},
    {"put_many", hot_put_many, METH_O, DOC_put_many},
    {"delete_many", hot_delete_many, METH_O, DOC_delete_many},
    {"clear", hot_clear, METH_NOARGS, DOC_clear},
    {"_scan", FAST(hot_scan), METH_FASTCALL, DOC__scan},
    {"_attach", FAST(hot_attach), METH_FASTCALL, DOC__attach},
    {"_enter", hot_enter, METH_NOARGS, DOC__enter},
    {"_leave", hot_leave, METH_NOARGS, DOC__leave},
    {"_close", hot_close, METH_NOARGS, DOC__close},
    {"_forked", hot_forked, METH_NOARGS, DOC__forked},
    {0},
};

static PyGetSetDef hot_properties[] = {
    {"closed", hot_closed, NULL, DOC_closed, NULL},
    {"_writes", hot_writes, NULL, DOC__writes, NULL},
    {0},
};

static PyType_Slot hot_slots[] = {
    {Py_tp_doc, (void *)DOC_Hot},
    {Py_tp_dealloc, hot_dealloc},
    {Py_tp_methods, hot_methods},
    {Py_tp_getset, hot_properties},
    {Py_mp_subscript, hot_subscript},
    {Py_mp_ass_subscript, hot_ass_subscript},
    {Py_mp_length, hot_length},
    {Py_sq_contains, hot_contains},
    {0, NULL},
};

static PyType_Spec hot_spec = {
    .name = "mmkv._hot.Hot",
    .basicsize = sizeof(struct hot),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = hot_slots,
};

static PyObject *set_error_factory(PyObject *Py_UNUSED(module), PyObject *factory)
{
    Py_XDECREF(error_factory);
    error_factory = Py_NewRef(factory);
    Py_RETURN_NONE;
}

static PyMethodDef module_methods[] = {
    {"set_error_factory", set_error_factory, METH_O, "Give f(code, os_errno, offset, pid, text, path) -> exception."},
    {0},
};

static int module_exec(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &hot_spec, NULL);
    if (!type) return -1;
    int bad = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return bad;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "mmkv._hot",
    .m_methods = module_methods,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__hot(void)
{
    return PyModuleDef_Init(&module_definition);
}
