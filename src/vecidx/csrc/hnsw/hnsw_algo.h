/* hnsw_algo.h - what index/ may ask of the graph. */
#ifndef HNSW_ALGO_H
#define HNSW_ALGO_H

#include "hnsw_graph.h"
#include "hnsw_ctx.h"

/* ---- hnsw_search.c ---------------------------------------------------- */

/* The k rows nearest to ctx->query that the snapshot sees, into out_labels and
 * out_dists, nearest first, ties by label; padded where the snapshot holds
 * fewer.  `n_live` is how many rows it may
 * return.  The caller has made room with vx_ctx_fit() for now->n rows and a pool of
 * vx_graph_search_pool(). */
void vx_graph_search(const vx_graph *graph, const vx_view *view, const vx_snapshot *now,
                       vx_ctx *ctx, size_t k, size_t ef, uint64_t n_live, const vx_halt *halt,
                       vx_label *out_labels, float *out_dists);

/* Does a search with this ef compare with every row instead of walking? */
bool vx_graph_search_scans(const vx_snapshot *now, size_t ef);

/* The pool a walk needs to find ef live rows when some of n are dead. */
size_t vx_graph_search_pool(const vx_snapshot *now, size_t ef, uint64_t n_live);

/* Queries that share one pass over the rows in vx_graph_scan, at most. */
#define VX_SCAN_QUERIES 16u

/* As vx_graph_search, but comparing with every row: exact.  Several queries
 * share one pass over the rows.  `queries` are padded to row_floats. */
void vx_graph_scan(const vx_graph *graph, const vx_view *view, const vx_snapshot *now,
                   const float *queries, size_t n_queries, size_t k, const vx_halt *halt,
                   vx_label *out_labels, float *out_dists);

/* ---- hnsw_insert.c ----------------------------------------------------- */

/* Called under the writer's lock, just before rows begin .. end-1 are published. */
typedef void (*vx_publish_fn)(void *arg, vx_view *view, vx_slot begin, vx_slot end);

/* Link rows n_rows .. end-1, whose vectors, levels and empty link rows are in
 * place, and publish them batch by batch.  Writer only.  VX_E_INTERRUPTED and
 * VX_E_NOMEM leave a valid graph that holds the batches published so far. */
vx_status vx_graph_insert(vx_graph *graph, vx_slot end, const vx_run *run,
                          vx_publish_fn publish, void *publish_arg, vx_error *err);


/* ---- hnsw_check.c ------------------------------------------------------- */

/* Every invariant of links and levels; counts rows that no walk reaches. */
vx_status vx_graph_check(const vx_graph *graph, uint64_t *out_unreachable, vx_error *err);

#endif
