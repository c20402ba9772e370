/* nearest.c - an extension that searches a vecidx.Index from C, without vecidx at link time.
 *
 * nearest(index, query, begin, end) gives the id of the stored vector nearest to `query`, a buffer
 * of float32, among the ids from begin to end - 1, or None.  count_made(n) builds an index of n
 * vectors of its own, and counts them. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <math.h>

#include "vecidx_api.h"

static const vx_api *vx;

static PyObject *raise(const vx_error *err)
{
    PyErr_SetString(err->status == VX_E_NOMEM ? PyExc_MemoryError : PyExc_ValueError, err->text);
    return NULL;
}

static PyObject *nearest(PyObject *module, PyObject *args)
{
    PyObject *object, *owner;
    const char *bytes;
    Py_ssize_t n_bytes;
    long long begin = 0, end = INT64_MAX;
    (void)module;
    if (!PyArg_ParseTuple(args, "Oy#|LL", &object, &bytes, &n_bytes, &begin, &end))
        return NULL;
    vx_index *index = vx_api_index(object, &owner);
    if (index == NULL)
        return NULL;

    vx_params params;
    vx->index_params(index, &params);
    if ((size_t)n_bytes != params.dim * sizeof(float)) {
        Py_DECREF(owner);
        return PyErr_Format(PyExc_ValueError, "query: expected %u float32, got %zd bytes",
                            (unsigned)params.dim, n_bytes);
    }
    const vx_search_params search = { .k = 1 };
    vx_label label = VX_NO_LABEL;
    float distance;
    vx_filter *filter = NULL;
    vx_error err;
    vx_status status;
    Py_BEGIN_ALLOW_THREADS
    status = vx->filter_of_range(begin, end, 1, &filter, &err);
    if (status == VX_OK) {
        const vx_where where = { .filters = &filter, .n_filters = 1, .max_distance = INFINITY };
        status = vx->index_search_where(index, (const float *)bytes, 1, &search, &where, NULL,
                                        &label, &distance, &err);
        vx->filter_free(filter);
    }
    Py_END_ALLOW_THREADS
    Py_DECREF(owner); /* from here on the index may be gone */
    if (status != VX_OK)
        return raise(&err);
    if (label == VX_NO_LABEL)
        Py_RETURN_NONE;
    return PyLong_FromLongLong(label);
}

static PyObject *count_made(PyObject *module, PyObject *argument)
{
    const unsigned long n = PyLong_AsUnsignedLong(argument);
    (void)module;
    if (PyErr_Occurred())
        return NULL;
    const vx_params params = { .dim = 2, .metric = VX_L2SQ, .M = 16, .ef_construction = 100 };
    vx_index *index = NULL;
    vx_error err;
    if (vx->index_new(&params, &index, &err) != VX_OK)
        return raise(&err);
    uint64_t added;
    vx_status status = VX_OK;
    for (unsigned long i = 0; i < n && status == VX_OK; i++) {
        const float row[2] = { (float)i, 0.0f };
        status = vx->index_add(index, row, 1, NULL, VX_REPLACE, NULL, NULL, &added, &err);
    }
    const uint64_t count = vx->index_count(index);
    vx->index_free(index);
    return status == VX_OK ? PyLong_FromUnsignedLongLong(count) : raise(&err);
}

static PyMethodDef methods[] = {
    { "nearest", nearest, METH_VARARGS, "The id of the vector nearest to a query." },
    { "count_made", count_made, METH_O, "How many vectors an index made here holds." },
    { NULL, NULL, 0, NULL },
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "nearest", .m_size = -1, .m_methods = methods,
};

PyMODINIT_FUNC PyInit_nearest(void)
{
    vx = vx_api_import();
    return vx != NULL ? PyModule_Create(&definition) : NULL;
}
