/* hot_many.c: the operations of the native class on many keys, and iteration; see hot.c. */
#include "hot.h"

/* As above, but always with a reference of its own, for spans that outlive the argument (windows). */
static int span_keep(PyObject *object, struct span *s)
{
    if (!s->owner) s->owner = Py_NewRef(object);
    return 0;
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

PyObject *hot_get_many(PyObject *self, PyObject *keys)
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

PyObject *hot_delete_many(PyObject *self, PyObject *keys)
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

PyObject *hot_put_many(PyObject *self, PyObject *source)
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

PyObject *hot_clear(PyObject *self, PyObject *Py_UNUSED(ignored))
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
PyObject *hot_scan(PyObject *self, PyObject *const *args, Py_ssize_t n)
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
