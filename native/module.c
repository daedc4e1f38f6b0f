/* The Python side of gates.c and packed.c: checks what it is given, and lets other threads run
 * meanwhile. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "gates.h"
#include "packed.h"

static int view(PyObject *object, Py_buffer *buffer, Py_ssize_t length, int writable) {
    if (PyObject_GetBuffer(object, buffer, writable ? PyBUF_CONTIG : PyBUF_CONTIG_RO) < 0) return -1;
    if (buffer->len == length) return 0;
    PyErr_Format(PyExc_ValueError, "a buffer holds %zd bytes where the shapes ask for %zd",
                 buffer->len, length);
    PyBuffer_Release(buffer);
    return -1;
}

static PyObject *product(PyObject *self, PyObject *args) {
    (void)self;
    int kind, size, threads;
    Py_ssize_t N, n, c, columns;
    const char *name;
    PyObject *objects[5]; /* bits, factor, X, scale, out */
    if (!PyArg_ParseTuple(args, "iziinnnnOOOOO:product", &kind, &name, &size, &threads, &N, &n, &c,
                          &columns, &objects[0], &objects[1], &objects[2], &objects[3],
                          &objects[4]))
        return NULL;
    if (kind < GATES_TIMES || kind > GATES_GRAM || (size != 4 && size != 8) || N < 0 || n < 0 ||
        c < 0 || columns < 0 || (kind == GATES_TIMES && columns != 1))
        return PyErr_Format(PyExc_ValueError, "product of kind %d of %zd x %zd gates with %zd "
                            "columns of %d bytes, %zd times", kind, N, n, c, size, columns);
    int back = kind == GATES_BACK, gram = kind == GATES_GRAM;
    Py_ssize_t lengths[5] = {
        N * ((n + 7) / 8), columns * (back || gram ? N : n * c) * size, N * c * size, n * size,
        (back ? columns * n * c : kind == GATES_TIMES ? N * c : columns * N) * size};
    int needed[5] = {1, !back, kind != GATES_TIMES, gram, 1};
    Py_buffer buffers[5];
    int held[5] = {0}, result = -1;
    for (int i = 0; i < 5; i++) {
        if (objects[i] == Py_None && !needed[i]) continue;
        if (view(objects[i], &buffers[i], lengths[i], i == 4) < 0) goto release;
        held[i] = 1;
    }
    Py_BEGIN_ALLOW_THREADS;
    result = gates_product(kind, name, size == 8, threads, N, n, c, columns, buffers[0].buf,
                           held[1] ? buffers[1].buf : NULL, needed[2] ? buffers[2].buf : NULL,
                           gram ? buffers[3].buf : NULL, buffers[4].buf);
    Py_END_ALLOW_THREADS;
    if (result == GATES_NO_MEMORY) PyErr_NoMemory();
    if (result == GATES_NO_ENGINE)
        PyErr_Format(PyExc_ValueError, "this processor has no engine %s", name ? name : "at all");
release:
    for (int i = 0; i < 5; i++)
        if (held[i]) PyBuffer_Release(&buffers[i]);
    if (result != GATES_DONE) return NULL;
    Py_RETURN_NONE;
}

static PyObject *engines(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    PyObject *names = PyList_New(0);
    const char *name;
    for (int i = 0; names && (name = gates_engine(i)); i++) {
        PyObject *text = PyUnicode_FromString(name);
        if (!text || PyList_Append(names, text) < 0) Py_CLEAR(names);
        Py_XDECREF(text);
    }
    return names;
}

static PyObject *packed(PyObject *self, PyObject *args) {
    (void)self;
    int size;
    Py_ssize_t n, c, first, stop, shares;
    PyObject *objects[3]; /* data, X, Y */
    if (!PyArg_ParseTuple(args, "innnnnOOO:packed", &size, &n, &c, &first, &stop, &shares,
                          &objects[0], &objects[1], &objects[2]))
        return NULL;
    if ((size != 4 && size != 8) || n < 1 || c < 1 || first < 0 || stop < first || stop > shares ||
        shares < 1 || n > 1 << 30 || c > 1 << 26 || shares > 1 << 16 || !packed_usable())
        return PyErr_Format(PyExc_ValueError, "packed product of order %zd with %zd columns of %d "
                            "bytes, shares %zd to %zd of %zd", n, c, size, first, stop, shares);
    Py_ssize_t blocks = n / PACKED_HEIGHT, rest = n % PACKED_HEIGHT, padded = n + PACKED_HEIGHT - 1;
    padded -= padded % PACKED_HEIGHT;
    Py_ssize_t stored =
        PACKED_HEIGHT * (blocks * n - PACKED_HEIGHT * (blocks * (blocks - 1) / 2)) + rest * rest;
    Py_ssize_t lengths[3] = {stored * size, c * padded * size, c * padded * size};
    Py_buffer buffers[3];
    int held = 0, failed = 1;
    while (held < 3 && !view(objects[held], &buffers[held], lengths[held], held == 2)) held++;
    if (held == 3) {
        Py_BEGIN_ALLOW_THREADS;
        failed = packed_product(size == 8, n, c, first, stop, shares, buffers[0].buf,
                                buffers[1].buf, buffers[2].buf);
        Py_END_ALLOW_THREADS;
        if (failed) PyErr_NoMemory();
    }
    while (held) PyBuffer_Release(&buffers[--held]);
    if (failed) return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef METHODS[] = {
    {"product", product, METH_VARARGS,
     "product(kind, engine, itemsize, threads, N, n, c, columns, bits, factor, X, scale, out)"},
    {"engines", engines, METH_NOARGS, "The engines of this processor, fastest first."},
    {"packed", packed, METH_VARARGS, "packed(itemsize, n, c, first, stop, shares, data, X, Y)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, "_native",
    "Products of matrices of bits, and of packed symmetric matrices.", -1,
    METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void) {
    PyObject *module = PyModule_Create(&MODULE);
    if (module && PyModule_AddIntConstant(module, "multiplies_packed", packed_usable()) < 0)
        Py_CLEAR(module);
#ifdef Py_GIL_DISABLED
    if (module) PyUnstable_Module_SetGIL(module, Py_MOD_GIL_NOT_USED);
#endif
    return module;
}
