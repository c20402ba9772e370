/* vecidx_api.h - the C core for extensions of others (docs/C_API.md).
 *
 * The package vecidx holds one table of functions, which an extension gets through a
 * capsule: it links with nothing of vecidx.
 *
 *     #include <Python.h>
 *     #include "vecidx_api.h"
 *     const vx_api *vx = vx_api_import();      // once, with the GIL; NULL: exception set
 *
 * What the functions promise is in vecidx.h.  None needs the GIL, but the `tick` of a
 * vx_run gets what its caller holds.
 */
#ifndef VECIDX_API_H
#define VECIDX_API_H

#include "vecidx.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Rises when a function, struct or number below, or in vecidx.h, changes its meaning or
 * layout.  A table that only got longer keeps it: vx_api.size tells. */
#define VX_ABI_VERSION 1u

typedef struct vx_api {
    uint32_t abi_version; /* VX_ABI_VERSION of the installed package            */
    uint32_t size;        /* sizeof(vx_api) there                               */

    const char *(*simd_level)(void);
    unsigned (*get_num_threads)(void);
    void (*set_num_threads)(unsigned n);

    vx_status (*index_new)(const vx_params *params, vx_index **out, vx_error *err);
    void (*index_free)(vx_index *index);
    void (*index_params)(const vx_index *index, vx_params *out);
    vx_status (*index_add)(vx_index *index, const float *rows, size_t n, const vx_label *labels,
                           vx_on_conflict on_conflict, const vx_run *run, vx_label *out_labels,
                           uint64_t *out_added, vx_error *err);
    vx_status (*index_add_typed)(vx_index *index, vx_dtype given, const void *rows, size_t n,
                                 const vx_label *labels, vx_on_conflict on_conflict,
                                 const vx_run *run, vx_label *out_labels, uint64_t *out_added,
                                 vx_error *err);
    vx_status (*index_delete)(vx_index *index, const vx_label *labels, size_t n,
                              vx_on_missing on_missing, const vx_run *run,
                              uint64_t *out_deleted, vx_error *err);
    vx_status (*index_reserve)(vx_index *index, uint64_t n_rows, const vx_run *run,
                               vx_error *err);
    vx_status (*index_compact)(vx_index *index, const vx_run *run, vx_error *err);
    vx_status (*index_search)(vx_index *index, const void *queries, size_t n,
                              const vx_search_params *params, const vx_run *run,
                              vx_label *out_labels, float *out_dists, vx_error *err);
    vx_status (*index_search_where)(vx_index *index, const void *queries, size_t n,
                                    const vx_search_params *params, const vx_where *where,
                                    const vx_run *run, vx_label *out_labels, float *out_dists,
                                    vx_error *err);
    vx_status (*index_search_rows)(vx_index *index, const vx_label *labels, size_t n,
                                   const vx_search_params *params, int unseen,
                                   vx_on_missing on_missing, const vx_run *run,
                                   vx_label *out_labels, float *out_dists, vx_error *err);
    vx_status (*index_range_search)(vx_index *index, const void *queries, size_t n,
                                    const vx_search_params *params, const vx_where *where,
                                    const vx_run *run, vx_range **out, vx_error *err);
    void (*range_lims)(const vx_range *range, int64_t *out_lims);
    void (*range_take)(const vx_range *range, vx_label *out_labels, float *out_dists);
    void (*range_free)(vx_range *range);
    vx_status (*index_get)(vx_index *index, const vx_label *labels, size_t n, void *out_rows,
                           vx_error *err);
    vx_status (*index_contains)(vx_index *index, const vx_label *labels, size_t n,
                                uint8_t *out_found, vx_error *err);
    uint64_t (*index_count)(const vx_index *index);
    vx_status (*index_labels)(vx_index *index, vx_label *out, uint64_t cap, uint64_t *out_n,
                              vx_error *err);
    vx_status (*index_save)(vx_index *index, const char *path, const vx_run *run, vx_error *err);
    vx_status (*index_load)(const char *path, const vx_load_options *options, const vx_run *run,
                            vx_index **out, vx_error *err);

    vx_status (*filter_of_labels)(const vx_label *labels, size_t n, vx_filter **out,
                                  vx_error *err);
    vx_status (*filter_of_bits)(const uint8_t *bits, uint64_t n, vx_filter **out, vx_error *err);
    vx_status (*filter_of_range)(vx_label begin, vx_label end, vx_label step, vx_filter **out,
                                 vx_error *err);
    vx_status (*filter_not)(vx_filter *a, vx_filter **out, vx_error *err);
    vx_status (*filter_and)(vx_filter *a, vx_filter *b, vx_filter **out, vx_error *err);
    vx_status (*filter_or)(vx_filter *a, vx_filter *b, vx_filter **out, vx_error *err);
    void (*filter_free)(vx_filter *filter);
} vx_api;

/* The table of this library. */
const vx_api *vx_api_table(void);

/* For whoever has included Python.h.  All need the GIL. */
#ifdef Py_PYTHON_H

#define VX_API_CAPSULE "vecidx._core.C_API"
#define VX_INDEX_CAPSULE "vecidx.index"

/* The table of the installed package, or NULL with ImportError set. */
static inline const vx_api *vx_api_import(void)
{
    const vx_api *api = (const vx_api *)PyCapsule_Import(VX_API_CAPSULE, 0);
    if (api == NULL)
        return NULL;
    if (api->abi_version != VX_ABI_VERSION || api->size < sizeof(vx_api)) {
        PyErr_Format(PyExc_ImportError,
                     "built for version %u of vecidx's C API (%u bytes), but the installed vecidx "
                     "has version %u (%u bytes): build it again with this vecidx, or install "
                     "the other",
                     (unsigned)VX_ABI_VERSION, (unsigned)sizeof(vx_api),
                     (unsigned)api->abi_version, (unsigned)api->size);
        return NULL;
    }
    return api;
}

/* The index inside a vecidx.Index, or NULL with TypeError set.  Use it while *out_owner, a new
 * reference, is held; it is never to be given to index_free. */
static inline vx_index *vx_api_index(PyObject *object, PyObject **out_owner)
{
    PyObject *capsule = PyObject_CallMethod(object, "__vecidx_index__", NULL);
    if (capsule == NULL) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError))
            PyErr_SetString(PyExc_TypeError, "expected a vecidx.Index");
        return NULL;
    }
    vx_index *index = (vx_index *)PyCapsule_GetPointer(capsule, VX_INDEX_CAPSULE);
    if (index == NULL) {
        Py_DECREF(capsule);
        return NULL;
    }
    *out_owner = capsule;
    return index;
}

#endif /* Py_PYTHON_H */

#ifdef __cplusplus
}
#endif
#endif
