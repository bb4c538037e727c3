/* hot_swap.c: the operations of the native class that depend on what a key's value is; see hot.c. */
#include "hot.h"

/* ---- arguments ---- */

/* Arguments of which the first `positional` may be given by position, and all but the first by name, as `known` has them.
 * What is missing is NULL in `out`, except that the first must be there. -1: raised. */
static int by_name(const char *function, PyObject *const *args, Py_ssize_t n, PyObject *names, Py_ssize_t positional,
                   const char *const *known, Py_ssize_t count, PyObject **out)
{
    Py_ssize_t named = names ? PyTuple_Size(names) : 0;
    if (n < 1 || n > positional) {
        PyErr_Format(PyExc_TypeError, "%s() takes 1 to %zd positional arguments (%zd given)", function, positional, n);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) out[i] = i < n ? args[i] : NULL;
    for (Py_ssize_t i = 0; i < named; i++) {
        PyObject *name = PyTuple_GetItem(names, i);
        Py_ssize_t which = 1;
        while (which < count && PyUnicode_CompareWithASCIIString(name, known[which]) != 0) which++;
        if (which == count) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", function, name);
            return -1;
        }
        if (out[which]) {
            PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%U'", function, name);
            return -1;
        }
        out[which] = args[n + i];
    }
    return 0;
}

/* A value or None, which stands for "absent". -1: raised. */
static int value_or_none(PyObject *object, struct span *s)
{
    s->owner = NULL;
    s->data = NULL;
    s->length = 0;
    return object == Py_None ? 0 : span_load(object, s, "value");
}

static int number_load(PyObject *object, long long *number, const char *what)
{
    int overflow;
    *number = PyLong_AsLongLongAndOverflow(object, &overflow);
    if (overflow) PyErr_Format(PyExc_OverflowError, "%s is a signed 64-bit integer, not %R", what, object);
    return overflow || (*number == -1 && PyErr_Occurred()) ? -1 : 0;
}

/* ---- the methods ---- */

/* A put with a condition: `otherwise` is the engine's code when it does not hold. */
static PyObject *put_if(PyObject *self, const char *name, PyObject *const *args, Py_ssize_t n, PyObject *names, unsigned flag,
                        int otherwise)
{
    struct hot *h = (struct hot *)self;
    PyObject *a[2];
    struct span k, v;
    if (arguments(name, args, n, names, 2, 2, NULL, a) < 0) return NULL;
    if (key_load(a[0], &k) < 0) return NULL;
    if (span_load(a[1], &v, "value") < 0) {
        span_drop(&k);
        return NULL;
    }
    int code = RAISED;
    if (enter(h) == 0) {
        code = op_put(h, hash_of(h, &k), &k, &v, flag);
        if (!code) code = wrote(h);
        if (code && code != otherwise) raise_code(h, code);
        leave(h);
    }
    span_drop(&k);
    span_drop(&v);
    return code && code != otherwise ? NULL : PyBool_FromLong(!code);
}

PyObject *hot_add(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    return put_if(self, "add", args, n, names, MMKV_ADD, MMKV_EXISTS);
}

PyObject *hot_replace(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    return put_if(self, "replace", args, n, names, MMKV_REPLACE, MMKV_NOT_FOUND);
}

static int swap(struct hot *h, const struct span *k, const struct span *expected, const struct span *v, int *done)
{
    int code;
    uint64_t hash = hash_of(h, k);
    TRY(code, expected->length <= RELEASE_OVER && v->length <= RELEASE_OVER,
        mmkv_swap(h->store, hash, k->data, (size_t)k->length, expected->data, (size_t)expected->length, v->data,
                  (size_t)v->length, MMKV_NO_WAIT, done),
        mmkv_swap(h->store, hash, k->data, (size_t)k->length, expected->data, (size_t)expected->length, v->data,
                  (size_t)v->length, 0, done));
    return code;
}

PyObject *hot_compare_and_swap(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    struct hot *h = (struct hot *)self;
    PyObject *a[3];
    struct span k = {0}, expected = {0}, v = {0};
    int code = RAISED, done = 0;
    if (arguments("compare_and_swap", args, n, names, 3, 3, NULL, a) < 0) return NULL;
    if (key_load(a[0], &k) == 0 && value_or_none(a[1], &expected) == 0 && value_or_none(a[2], &v) == 0 && enter(h) == 0) {
        code = swap(h, &k, &expected, &v, &done);
        if (!code && done && (expected.data || v.data)) code = wrote(h);
        if (code) raise_code(h, code);
        leave(h);
    }
    span_drop(&k);
    span_drop(&expected);
    span_drop(&v);
    return code ? NULL : PyBool_FromLong(done);
}

PyObject *hot_incr(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    static const char *const known[] = {"", "delta", "initial"};
    struct hot *h = (struct hot *)self;
    PyObject *a[3], *result = NULL;
    struct span k;
    long long delta = 1, initial = 0;
    int64_t sum = 0;
    if (by_name("incr", args, n, names, 2, known, 3, a) < 0) return NULL;
    if (a[1] && number_load(a[1], &delta, "delta") < 0) return NULL;
    if (a[2] && number_load(a[2], &initial, "initial") < 0) return NULL;
    if (key_load(a[0], &k) < 0) return NULL;
    if (enter(h) == 0) {
        uint64_t hash = hash_of(h, &k);
        int code;
        TRY(code, 1, mmkv_incr(h->store, hash, k.data, (size_t)k.length, delta, initial, MMKV_NO_WAIT, &sum),
            mmkv_incr(h->store, hash, k.data, (size_t)k.length, delta, initial, 0, &sum));
        if (!code) code = wrote(h);
        if (code) raise_code(h, code);
        else result = PyLong_FromLongLong(sum);
        leave(h);
    }
    span_drop(&k);
    return result;
}

/* ---- waiting ---- */

/* Seconds, or None for ever, in nanoseconds. -1: raised. */
static int timeout_load(PyObject *object, uint64_t *nanoseconds)
{
    *nanoseconds = UINT64_MAX;
    if (!object || object == Py_None) return 0;
    double seconds = PyFloat_AsDouble(object);
    if (seconds == -1 && PyErr_Occurred()) return -1;
    if (!(seconds >= 0)) {
        PyErr_Format(PyExc_ValueError, "timeout is a count of seconds, from 0 up, or None, not %R", object);
        return -1;
    }
    if (seconds < 1e9) *nanoseconds = (uint64_t)(seconds * 1e9);
    return 0;
}

/* Until the engine has seen another value, or there is something to raise. */
static int wait_for_change(struct hot *h, uint64_t hash, const struct span *k, const struct span *old, mmkv_waiting *w)
{
    for (;;) {
        int code;
        WITHOUT_GIL(code, mmkv_wait(h->store, hash, k->data, (size_t)k->length, old->data, (size_t)old->length, w));
        if (code != MMKV_WOULD_BLOCK && code != MMKV_INTERRUPTED) return code;
        if (PyErr_CheckSignals() < 0) return RAISED; /* also of one that another thread was given */
        if (h->closed) return CLOSED;
    }
}

PyObject *hot_wait(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    static const char *const known[] = {"", "old", "timeout"};
    struct hot *h = (struct hot *)self;
    PyObject *a[3], *value = NULL;
    struct span k = {0}, old = {0};
    mmkv_waiting w = {0};
    if (by_name("wait", args, n, names, 1, known, 3, a) < 0) return NULL;
    if (!a[1]) {
        PyErr_SetString(PyExc_TypeError, "wait() missing required keyword argument 'old'");
        return NULL;
    }
    if (timeout_load(a[2], &w.timeout_ns) < 0) return NULL;
    if (key_load(a[0], &k) == 0 && value_or_none(a[1], &old) == 0 && enter(h) == 0) {
        uint64_t hash = hash_of(h, &k);
        int code;
        for (;;) { /* what has changed may have changed back */
            code = wait_for_change(h, hash, &k, &old, &w);
            if (code) break;
            code = get_bytes(h, hash, &k, &value);
            if (code == MMKV_NOT_FOUND && !old.data) continue;
            if (code || !old.data || PyBytes_Size(value) != old.length || memcmp(PyBytes_AsString(value), old.data, (size_t)old.length))
                break;
            Py_CLEAR(value);
        }
        if (code == MMKV_NOT_FOUND) value = Py_NewRef(Py_None);
        else if (code) raise_code(h, code);
        leave(h);
    }
    span_drop(&k);
    span_drop(&old);
    return value;
}
