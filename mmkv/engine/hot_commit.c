/* hot_commit.c: the end of a transaction, of the native class; see hot.c. mmkv/_transaction.py has the rest of it. */
#include <stdlib.h>

#include "hot.h"

/* The items of a dict from bytes to bytes or None, and what owns their bytes while the GIL is not held. -1: raised. */
static int load_items(struct hot *h, PyObject *dict, mmkv_item *items, PyObject **owners, Py_ssize_t n, size_t *bytes)
{
    PyObject *key, *value;
    Py_ssize_t at = 0, i = 0, length;
    char *data;
    for (; i < n && PyDict_Next(dict, &at, &key, &value); i++) {
        if (PyBytes_AsStringAndSize(key, &data, &length) < 0) return -1;
        items[i].key = data;
        items[i].key_length = (size_t)length;
        items[i].value = NULL;
        items[i].value_length = 0;
        if (value != Py_None) {
            if (PyBytes_AsStringAndSize(value, &data, &length) < 0) return -1;
            items[i].value = data;
            items[i].value_length = (size_t)length;
        }
        *bytes += items[i].key_length + items[i].value_length;
        owners[2 * i] = Py_NewRef(key);
        owners[2 * i + 1] = Py_NewRef(value);
    }
    /* Only now: a hash that calls Python lets others change the dict. */
    for (Py_ssize_t j = 0; j < i; j++) items[j].hash = mmkv_hash(h->store, items[j].key, items[j].key_length);
    if (i == n) return 0;
    PyErr_SetString(PyExc_RuntimeError, "the transaction was changed while it was ending");
    return -1;
}

static int commit(struct hot *h, PyObject *reads, PyObject *writes, mmkv_item *items, PyObject **owners)
{
    size_t n_reads = (size_t)PyDict_Size(reads), n_writes = (size_t)PyDict_Size(writes), bytes = 0;
    mmkv_item *written = items + n_reads;
    int code;
    if (load_items(h, reads, items, owners, (Py_ssize_t)n_reads, &bytes) < 0
        || load_items(h, writes, written, owners + 2 * n_reads, (Py_ssize_t)n_writes, &bytes) < 0) return RAISED;
    TRY(code, bytes <= RELEASE_OVER, mmkv_commit(h->store, items, n_reads, written, n_writes, MMKV_NO_WAIT),
        mmkv_commit(h->store, items, n_reads, written, n_writes, 0));
    return !code && n_writes ? wrote(h) : code;
}

PyObject *hot_commit(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hot *h = (struct hot *)self;
    if (n != 2 || !PyDict_Check(args[0]) || !PyDict_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "_commit() takes two dicts");
        return NULL;
    }
    size_t count = (size_t)PyDict_Size(args[0]) + (size_t)PyDict_Size(args[1]);
    mmkv_item *items = calloc(count + 1, sizeof *items);
    PyObject **owners = calloc(2 * count + 1, sizeof *owners);
    int code = RAISED;
    if (!items || !owners) PyErr_NoMemory();
    else if (enter(h) == 0) {
        code = commit(h, args[0], args[1], items, owners);
        if (code && code != MMKV_CONFLICT) raise_code(h, code);
        leave(h);
    }
    for (size_t i = 0; owners && i < 2 * count; i++) Py_XDECREF(owners[i]);
    free(owners);
    free(items);
    if (code && code != MMKV_CONFLICT) return NULL;
    return PyBool_FromLong(!code);
}
