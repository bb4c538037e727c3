/* hot_hash.c: the hash where the C function of the xxhash package cannot be reached: its Python function, called from C.
 *
 * A callback written in Python would do, but for signals: their handlers run between its steps, and what one raises leaves
 * the engine without a hash. Here Python runs nothing but the function, which is C itself, and a handler runs after the
 * operation. */
#include "hot.h"

static PyObject *digest;            /* f(data, seed) -> hash */

/* An error that may be pending is of what called the engine. Without a hash there is no going on: with a wrong one the
 * store would be damaged, which a process that dies does not do to it. */
static uint64_t call_digest(const void *data, size_t length, uint64_t seed)
{
    PyObject *type, *value, *trace;
    PyGILState_STATE state = PyGILState_Ensure();
    PyErr_Fetch(&type, &value, &trace);
    PyObject *view = PyMemoryView_FromMemory(length ? (char *)(uintptr_t)data : "", (Py_ssize_t)length, PyBUF_READ);
    PyObject *number = view ? PyObject_CallFunction(digest, "OK", view, (unsigned long long)seed) : NULL;
    uint64_t hash = number ? PyLong_AsUnsignedLongLong(number) : 0;
    if (PyErr_Occurred()) {
        PyErr_Print();
        Py_FatalError("the hash function of the xxhash package has failed");
    }
    Py_XDECREF(number);
    Py_XDECREF(view);
    PyErr_Restore(type, value, trace);
    PyGILState_Release(state);
    return hash;
}

PyObject *hot_set_hash(PyObject *Py_UNUSED(module), PyObject *function)
{
    PyObject *before = digest;
    digest = Py_NewRef(function);
    Py_XDECREF(before);
    mmkv_set_hash(call_digest, 1);
    Py_RETURN_NONE;
}
