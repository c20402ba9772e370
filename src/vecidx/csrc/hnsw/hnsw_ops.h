/* hnsw_ops.h - the table of functions that each ISA's translation unit exports.
 *
 * The whole walk is compiled once per (ISA, metric), so that distance kernels
 * inline into it: a search makes one indirect call per layer, not one per
 * distance.  A hnsw_walk_<isa>.c holds static functions and its one table;
 * nothing else in it has external linkage. */
#ifndef HNSW_OPS_H
#define HNSW_OPS_H

#include "../dist/dist.h"
#include "hnsw_ctx.h"

/* Functions for one kernel metric: l2sq, or inner product as 1 - dot. */
typedef struct vx_metric_ops {
    /* One pair of rows, padded to row_floats (dist_scalar.h has the contract). */
    float (*pair)(const float *a, const float *b, size_t row_floats);

    /* `query` to n rows named by slot, fetched ahead in waves. */
    void (*many)(const float *query, const float *rows, size_t row_floats,
                 const vx_slot *slots, size_t n, float *out);

    /* `query` to n rows that follow one another. */
    void (*scan)(const float *query, const float *rows, size_t row_floats, size_t n, float *out);

    /* Greedy descent (Algorithm 2 with ef = 1): from `from`, through the layers
     * top .. bottom, to the nearest row found, whose key is returned.  Rows at
     * or above `n` do not exist for it. */
    vx_key (*descend)(const float *query, const vx_view *view, uint32_t n, vx_slot from,
                      unsigned top, unsigned bottom);

    /* Best-first walk of one layer (Algorithm 2) with a pool of `ef`, from the
     * entries in ctx->pool, which are marked visited here.  Leaves the nearest
     * found in ctx->pool, rising, and the visited set dirty.  It ends when
     * the nearest `window` are expanded (ef: all of them); of each row the first
     * `degree` links are read. */
    void (*walk)(const float *query, const vx_view *view, uint32_t n, unsigned layer,
                 size_t ef, size_t window, uint32_t degree, vx_ctx *ctx);
} vx_metric_ops;

typedef struct vx_ops {
    vx_level level;
    vx_metric_ops metric[2];
} vx_ops;

/* The table of a level, or NULL if this build has none. */
const vx_ops *vx_ops_of(vx_level level);

/* The functions a graph uses: its metric, at the active level. */
const vx_metric_ops *vx_graph_ops(const vx_graph *graph);

#endif
