/* hot_keys.c: the operations of the native class on one key; see hot.c. */
#include "hot.h"

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

int get_bytes(struct hot *h, uint64_t hash, const struct span *k, PyObject **value)
{
    return read_bytes(h, hash, k, value, op_get);
}

/* ---- the mapping slots ---- */

PyObject *hot_subscript(PyObject *self, PyObject *key)
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

int hot_ass_subscript(PyObject *self, PyObject *key, PyObject *value)
{
    if (value) return store_one((struct hot *)self, key, value);
    int found = delete_one((struct hot *)self, key);
    if (found == 0) PyErr_SetObject(PyExc_KeyError, key);
    return found == 1 ? 0 : -1;
}

int hot_contains(PyObject *self, PyObject *key)
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

Py_ssize_t hot_length(PyObject *self)
{
    struct hot *h = (struct hot *)self;
    if (enter(h) < 0) return -1;
    uint64_t count = 0;
    int code = mmkv_count(h->store, &count);
    if (code) raise_code(h, code);
    leave(h);
    return code ? -1 : (Py_ssize_t)count;
}

/* ---- the methods on one key ---- */

PyObject *hot_get(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names)
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

PyObject *hot_put(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    PyObject *a[2];
    if (arguments("put", args, n, names, 2, 2, NULL, a) < 0) return NULL;
    if (store_one((struct hot *)self, a[0], a[1]) < 0) return NULL;
    Py_RETURN_NONE;
}

PyObject *hot_delete(PyObject *self, PyObject *key)
{
    int found = delete_one((struct hot *)self, key);
    return found < 0 ? NULL : PyBool_FromLong(found);
}

PyObject *hot_pop(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names)
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

PyObject *hot_setdefault(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names)
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

PyObject *hot_get_into(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names)
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
