/* index.h - the struct behind vx_index, private to this room. */
#ifndef INDEX_H
#define INDEX_H

#include "../base/vx_sync.h"
#include "../hnsw/hnsw_algo.h"
#include "index_labels.h"

struct vx_index {
    vx_graph graph;
    vx_mutex writer;          /* held by add, save and check                    */
    vx_labels labels;         /* label -> slot; has its own lock                */
    uint64_t next_label;      /* under `writer`: 1 + the highest label ever     */
    _Atomic uint64_t n_live;  /* rows a search may return                       */
    _Atomic uint64_t n_dead;  /* rows replaced; raised before they are          */
};

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

/* Copy a row into padded storage, normalised under cosine. */
void vx_row_store_vector(float *to, size_t row_floats, const float *from, size_t dim,
                         bool is_cosine, double norm);

#endif
