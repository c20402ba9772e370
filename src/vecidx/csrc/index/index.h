/* index.h - the struct behind vx_index, private to this room. */
#ifndef INDEX_H
#define INDEX_H

#include "../base/vx_sync.h"
#include "../hnsw/hnsw_algo.h"
#include "../hnsw/hnsw_delete.h"
#include "../store/store_file.h"
#include "index_labels.h"

struct vx_index {
    vx_graph graph;
    vx_mutex writer;          /* held by add, delete, save, check                 */
    vx_labels labels;         /* label -> slot; has its own lock                */
    uint32_t retrain_rows;    /* under `writer`: codes were no good, ask again then */
    uint64_t next_label;      /* under `writer`: 1 + the highest label ever     */
    _Atomic uint64_t n_live;  /* rows a search may return                       */
    _Atomic uint64_t n_dead;  /* slots that hold no such row                */

    /* Of an index that lies over a file; fixed until it is closed. */
    bool is_read_only;
    vx_map map;
    uint32_t mapped_crcs[VX_N_PLANES]; /* what mapped planes should sum to      */
};

/* Wait for other writers, ticking.  VX_E_INTERRUPTED; VX_E_STATE: closed. */
vx_status vx_index_lock_writer(vx_index *index, const vx_run *run, vx_error *err);

/* The same, to change the index.  VX_E_ARG: it is read-only. */
vx_status vx_index_lock_to_change(vx_index *index, const vx_run *run, vx_error *err);

/* VX_E_STATE: the index is closed. */
vx_status vx_index_refuse_closed(vx_error *err);

/* *least = min(*least, value). */
VX_INLINE void vx_lower(_Atomic size_t *least, size_t value)
{
    size_t now = atomic_load(least);
    while (value < now && !atomic_compare_exchange_weak(least, &now, value)) {
    }
}

/* Why a row cannot be taken. */
typedef enum vx_row_fault {
    VX_ROW_FINE = 0,
    VX_ROW_NAN,
    VX_ROW_INF,
    VX_ROW_LARGE,  /* its squared length is beyond float32                      */
    VX_ROW_ZERO    /* no direction, under cosine                                */
} vx_row_fault;

/* Look at a row; *out_norm is its length.  Under cosine a row needs a direction. */
vx_row_fault vx_row_inspect(const float *row, size_t dim, bool is_cosine, double *out_norm);

/* The sentence for a fault in row `row` of `what` ("vectors", "queries"). */
vx_status vx_row_refuse(vx_row_fault fault, const char *what, int64_t row, vx_error *err);

/* A sentence about the label of row `row` of the call's ids; returns `status`. */
vx_status vx_refuse_label(vx_error *err, vx_status status, size_t row, vx_label label,
                          const char *why);

/* Lead links around the rows that died in this call (vx_graph_mend). */
vx_status vx_index_mend(vx_index *index, bool all, const vx_run *run, vx_error *err);

/* Codes of n slots whose vectors are in place, 0 .. end-1 being all that are; of all
 * rows, in a new view, when there are enough of them to train and codes serve. */
vx_status vx_index_quantise(vx_index *index, const vx_slot *slots, size_t n, vx_slot end,
                            const vx_run *run, vx_error *err);

/* Take a context for reading; `what` is for the message where there is no memory.
 * VX_E_STATE: the index is closed. */
vx_status vx_index_open_view(vx_index *index, const char *what, vx_ctx **out_ctx,
                             vx_view **out_view, vx_error *err);

/* Copy a row into padded storage, normalised under cosine. */
void vx_row_store_vector(float *to, size_t row_floats, const float *from, size_t dim,
                         bool is_cosine, double norm);

#endif
