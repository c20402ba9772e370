/* hnsw_algo.h - what index/ may ask of the graph. */
#ifndef HNSW_ALGO_H
#define HNSW_ALGO_H

#include "hnsw_graph.h"
#include "hnsw_ctx.h"
#include "hnsw_filter.h"
#include "hnsw_ops.h"

/* ---- hnsw_search.c ---------------------------------------------------- */

/* How far a walk goes. */
typedef struct vx_effort {
    size_t k, ef;  /* as asked for                                             */
    size_t pool;   /* candidates kept; 0: compare with every row               */
    size_t kth;    /* vx_gated                                                 */
    float reach;
    const vx_allowed *allowed; /* NULL: every row that the snapshot sees        */
    bool sweeps;   /* all of them by codes, the nearest again by vectors         */
    bool hops;     /* among them, by vx_metric_ops.filtered ...                  */
    uint32_t ahead;
} vx_effort;

/* What k and ef mean for a view that holds n_live rows to return.  A plain walk keeps
 * ef candidates.  A gated one goes on while there are candidates within a multiple of
 * the k-th distance found, which is such that it expands about as many in the mean:
 * few for an easy query, more for a hard one. */
vx_effort vx_graph_effort(const vx_view *view, const vx_snapshot *now, size_t k, size_t ef,
                          uint64_t n_live);

/* Codes that a query of k rows compares again by their vectors. */
size_t vx_rerank_depth(const vx_codec *codec, size_t k, size_t ef);

/* Measure view->local_dim, which vx_graph_effort needs.  Writer only; false: no memory. */
bool vx_graph_calibrate(vx_graph *graph, vx_view *view, vx_ctx *ctx);

/* For each of n contexts (at most VX_TURNS, whose walks take turns), the k rows nearest to its
 * query that the snapshot sees, into out_labels and out_dists (n x k), nearest first,
 * ties by label; padded where the snapshot holds fewer.  The caller has made room with
 * vx_ctx_fit() for now->n rows and effort->pool. */
void vx_graph_search(const vx_graph *graph, const vx_view *view, const vx_snapshot *now,
                     vx_ctx *const *ctxs, unsigned n, const vx_effort *effort,
                     const vx_halt *halt, vx_label *out_labels, float *out_dists);

/* Queries that share one pass over the rows in vx_graph_scan, at most. */
#define VX_SCAN_QUERIES 16u

/* As vx_graph_search, but comparing with every row: exact.  Several queries
 * share one pass over the rows. */
void vx_graph_scan(const vx_graph *graph, const vx_view *view, const vx_snapshot *now,
                   const vx_query *queries, size_t n_queries, size_t k, const vx_halt *halt,
                   vx_label *out_labels, float *out_dists);

/* ---- hnsw_filter.c ------------------------------------------------------ */

/* How to search among allowed rows, out of n_live: as vx_graph_effort.  vx_graph_search
 * then takes allowed->now for its snapshot. */
vx_effort vx_graph_effort_allowed(const vx_view *view, const vx_allowed *allowed, size_t k,
                                  size_t ef, uint64_t n_live);

/* Entry points of a walk among allowed rows, into ctx->pool: the nearest seeds, and where
 * a descent ended, if that is allowed. */
void vx_graph_seed(const vx_space *space, const void *query, const vx_allowed *allowed,
                   vx_key descended, vx_ctx *ctx);

/* Into each context's pool the `depth` nodes nearest to its query, of those that are allowed
 * or have a twin that is, by these codes; none where its query is NULL. */
void vx_graph_sweep(const vx_space *space, const vx_view *view, const vx_allowed *allowed,
                    const void *const *queries, vx_ctx *const *ctxs, unsigned n, size_t depth,
                    const vx_halt *halt);

/* Is the query its own code, which then has the distances that vectors have? */
bool vx_query_is_code(const vx_view *view, const vx_ctx *ctx);

/* Is the k-th of the rows that such a walk found much nearer than allowed rows in general?
 * Else they are not to be relied on. */
bool vx_graph_stands_out(const vx_graph *graph, const vx_view *view, const vx_ctx *ctx,
                         const vx_allowed *allowed, size_t k, float kth_dist);

/* Where such a walk found too few for one query, or none to rely on, by the next surer way. */
void vx_graph_retry(const vx_graph *graph, const vx_view *view, vx_ctx *ctx,
                    const vx_effort *effort, const vx_halt *halt, vx_label *out_labels,
                    float *out_dists);

/* The next allowed slots from *at on (0 at first), at most `room`: how many. */
uint32_t vx_allowed_next(const vx_allowed *allowed, uint32_t *at, vx_slot *out, uint32_t room);

/* As vx_graph_scan, among allowed rows. */
void vx_graph_scan_allowed(const vx_graph *graph, const vx_view *view, const vx_allowed *allowed,
                           const vx_query *queries, size_t n_queries, size_t k,
                           const vx_halt *halt, vx_label *out_labels, float *out_dists);

/* ---- hnsw_insert.c ----------------------------------------------------- */

/* Called under the writer's lock, just before the rows of n slots, rising, are
 * published. */
typedef void (*vx_publish_fn)(void *arg, vx_view *view, const vx_slot *slots, size_t n);

/* What may be told to an insertion, all of it NULL or from any thread:
 *
 * cut    asked before each row; when it says true the call ends soon with VX_OK and at
 *        least some rows, the first; the proof that all rows are reached is left to a
 *        later call.
 * hint   slots that may be near row number `at`: at most VX_MAX_ROW_LINKS, none twice.
 *        Where there are any, the walk on layer 0 begins there, and is a short one. */
typedef struct vx_guide {
    vx_halt cut;
    size_t (*hint)(void *arg, size_t at, vx_slot *out);
    void *hint_arg;
} vx_guide;

/* Link the rows of n >= 1 slots, rising: free ones, then those from n_rows on, whose
 * vectors, levels and empty link rows are in place; publish them batch by batch.
 * Writer only.  *out_linked are in.  VX_E_INTERRUPTED and VX_E_NOMEM leave a valid
 * graph that holds the batches published so far.  A NULL guide tells nothing. */
vx_status vx_graph_insert(vx_graph *graph, const vx_slot *slots, size_t n, const vx_run *run,
                          const vx_guide *guide, vx_publish_fn publish, void *publish_arg,
                          size_t *out_linked, vx_error *err);

/* ---- hnsw_compact.c ----------------------------------------------------- */

/* A copy of the current view without dead rows, in the same order, that serves in
 * its place or to be saved.  No link may lead to a dead row (vx_graph_mend, all).
 * Writer only; the graph does not change. */
vx_status vx_graph_compact(const vx_graph *graph, const vx_run *run, vx_view **out, vx_error *err);

/* ---- hnsw_check.c ------------------------------------------------------- */

/* Every invariant of links and levels; counts rows that no walk reaches. */
vx_status vx_graph_check(const vx_graph *graph, const vx_halt *halt, uint64_t *out_unreachable,
                         vx_error *err);

#endif
