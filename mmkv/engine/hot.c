/* hot.c: the native base class of Store: the type, errors, arguments, closing. hot_keys.c has the operations on one
 * key, hot_swap.c those that depend on what is there, hot_many.c those on many, hot_commit.c the end of transactions,
 * hot_hash.c the hash if it is Python's; no other C file knows Python.
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
#include "hot.h"
#include "hot_docs.h"

static PyObject *error_factory;     /* f(code, os_errno, offset, pid, text, path) -> exception; set by _native.py */

/* ---- errors ---- */

/* Raise what `code` stands for. Must follow the failed engine call directly, on its thread. */
void raise_code(struct hot *h, int code)
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

PyObject *type_name(PyObject *object)
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

/* Everything but bytes is copied: another thread, or another process behind shared memory, could change it between
 * checksum and store. */
int span_copy(PyObject *object, struct span *s, const char *what)
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

/* Positional arguments, the last of which may be missing or be given by name (`keyword`, or NULL). */
int arguments(const char *function, PyObject *const *args, Py_ssize_t n, PyObject *names, Py_ssize_t least,
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
void finish_deferred(struct hot *h)
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

/* After MMKV_INTERRUPTED: let the signal's handler run, then try again (0) or give up (RAISED). */
int interrupted(int code)
{
    return code == MMKV_INTERRUPTED && PyErr_CheckSignals() < 0 ? RAISED : 0;
}

int sync_now(struct hot *h)
{
    uint64_t epoch = 0;
    int code;
    do {
        WITHOUT_GIL(code, mmkv_sync(h->store, 1, &epoch));
        if (interrupted(code)) return RAISED;
    } while (code == MMKV_INTERRUPTED);
    return code;
}

/* ---- what store.py uses besides ---- */

/* _attach(address of a cell, always, checkpoint): from now on the handle in it is this object's, and the cell is empty. */
static PyObject *hot_attach(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hot *h = (struct hot *)self;
    if (n != 3 || h->store) {
        PyErr_SetString(PyExc_TypeError, "_attach() takes 3 arguments, once");
        return NULL;
    }
    mmkv_store **cell = PyLong_AsVoidPtr(args[0]);
    int always = PyObject_IsTrue(args[1]), checkpoint = PyObject_IsTrue(args[2]);
    if (PyErr_Occurred()) return NULL;
    h->store = *cell;
    *cell = NULL;
    h->always = (char)always;
    h->checkpoint = (char)checkpoint;
    h->closed = 0;
    Py_RETURN_NONE;
}

/* _during(f) -> f(address of the mmkv_store), which stays open meanwhile. In and out are steps of C: an exception that comes
 * from outside, as Ctrl-C does, between two steps of Python would leave one inside who never leaves. */
static PyObject *hot_during(PyObject *self, PyObject *function)
{
    struct hot *h = (struct hot *)self;
    if (enter(h) < 0) return NULL;
    PyObject *address = PyLong_FromVoidPtr(h->store);
    PyObject *result = address ? PyObject_CallFunctionObjArgs(function, address, NULL) : NULL;
    Py_XDECREF(address);
    leave(h);
    return result;
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
    {"add", FAST(hot_add), METH_FASTCALL | METH_KEYWORDS, DOC_add},
    {"replace", FAST(hot_replace), METH_FASTCALL | METH_KEYWORDS, DOC_replace},
    {"compare_and_swap", FAST(hot_compare_and_swap), METH_FASTCALL | METH_KEYWORDS, DOC_compare_and_swap},
    {"incr", FAST(hot_incr), METH_FASTCALL | METH_KEYWORDS, DOC_incr},
    {"wait", FAST(hot_wait), METH_FASTCALL | METH_KEYWORDS, DOC_wait},
    {"get_into", FAST(hot_get_into), METH_FASTCALL | METH_KEYWORDS, DOC_get_into},
    {"get_many", hot_get_many, METH_O, DOC_get_many},
    {"put_many", hot_put_many, METH_O, DOC_put_many},
    {"delete_many", hot_delete_many, METH_O, DOC_delete_many},
    {"clear", hot_clear, METH_NOARGS, DOC_clear},
    {"_scan", FAST(hot_scan), METH_FASTCALL, DOC__scan},
    {"_commit", FAST(hot_commit), METH_FASTCALL, DOC__commit},
    {"_attach", FAST(hot_attach), METH_FASTCALL, DOC__attach},
    {"_during", hot_during, METH_O, DOC__during},
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

/* The base of Lock. Its __exit__ is a step of C: what the handler of a signal raises at the beginning of a function of Python,
 * before the first line of it, no such function can see to. _end() is called once more if it did not come to its own end. */
static PyObject *leaver_exit(PyObject *self, PyObject *Py_UNUSED(exception))
{
    PyObject *type, *value, *trace, *errors, *result = PyObject_CallMethod(self, "_end", NULL);
    if (result) return result;
    PyErr_Fetch(&type, &value, &trace);
    errors = PyObject_GetAttrString(self, "_errors");
    if (errors && !PyErr_GivenExceptionMatches(type, errors)) result = PyObject_CallMethod(self, "_end", NULL);
    Py_XDECREF(errors);
    Py_XDECREF(result);
    PyErr_Clear();
    PyErr_Restore(type, value, trace);
    return NULL;
}

static PyMethodDef leaver_methods[] = {
    {"__exit__", leaver_exit, METH_VARARGS, NULL},
    {0},
};

static PyType_Slot leaver_slots[] = {
    {Py_tp_methods, leaver_methods},
    {0, NULL},
};

static PyType_Spec leaver_spec = {
    .name = "mmkv._hot.Leaver",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = leaver_slots,
};

static PyObject *set_error_factory(PyObject *Py_UNUSED(module), PyObject *factory)
{
    Py_XDECREF(error_factory);
    error_factory = Py_NewRef(factory);
    Py_RETURN_NONE;
}

static PyMethodDef module_methods[] = {
    {"set_error_factory", set_error_factory, METH_O, "Give f(code, os_errno, offset, pid, text, path) -> exception."},
    {"set_hash", hot_set_hash, METH_O, "Hash by f(data, seed) -> int."},
    {0},
};

static int add_type(PyObject *module, PyType_Spec *spec)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    if (!type) return -1;
    int bad = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return bad;
}

static int module_exec(PyObject *module)
{
    /* What error_factory makes, and the hooks for forks, are those of the main interpreter. */
    if (PyInterpreterState_GetID(PyInterpreterState_Get()) != 0) {
        PyErr_SetString(PyExc_ImportError, "mmkv cannot be used in a subinterpreter: use threads or processes");
        return -1;
    }
    int bad = add_type(module, &hot_spec);
    return bad ? bad : add_type(module, &leaver_spec);
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
