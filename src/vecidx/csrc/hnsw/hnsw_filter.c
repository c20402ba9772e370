/* hnsw_filter.c - see hnsw_filter.h: which way to search, and the scan. */
#include "hnsw_algo.h"
#include "hnsw_best.h"
#include "hnsw_ops.h"

/* ---- which way ------------------------------------------------------------- */

/* A walk measures some 20 rows for each candidate it keeps. */
#define WALK_ROWS 20.0

/* ... and reads, for each, as many link rows as make up for a share, at this much of a
 * row's cost each. */
#define HOP_ROWS 2.0

/* From this share on a walk by sketches, which leaves out what is not allowed at its end,
 * is the faster. */
#define GATED_SHARE 0.5

/* Candidates of a walk among allowed rows: half as many again as elsewhere, for what its
 * patched rows of links lose. */
static size_t hops_pool(const vx_view *view, size_t k, size_t ef)
{
    const size_t pool = ef + ef / 2;
    const size_t depth = view->codec != NULL ? vx_rerank_depth(view->codec, k, ef) : 0;
    return pool < depth ? depth : pool;
}

static bool scans_allowed(const vx_allowed *allowed, size_t pool)
{
    const double n = allowed->now.n, n_rows = allowed->n_rows;
    if (n_rows <= 2 * (double)pool)
        return true;
    return n_rows <= (double)pool * (WALK_ROWS + HOP_ROWS * n / n_rows);
}

vx_effort vx_graph_effort_allowed(const vx_view *view, const vx_allowed *allowed, size_t k,
                                  size_t ef, uint64_t n_live)
{
    vx_effort effort = {.k = k, .ef = ef, .kth = k, .reach = INFINITY, .allowed = allowed};
    const size_t pool = hops_pool(view, k, ef);
    if (scans_allowed(allowed, pool))
        return effort;
    if (view->n_groups > 0 && allowed->n_rows >= GATED_SHARE * (double)n_live) {
        effort = vx_graph_effort(view, &allowed->now, k, ef, allowed->n_rows);
        effort.allowed = allowed;
        if (effort.pool > 0)
            return effort;
    }
    effort.hops = true;
    effort.pool = pool;
    const uint32_t ahead = allowed->now.n / allowed->n_rows + 1;
    effort.ahead = ahead < 16 ? ahead : 16;
    return effort;
}

#define KEPT_SEEDS 8u

void vx_graph_seed(const vx_space *space, const void *query, const vx_allowed *allowed,
                   vx_key descended, vx_ctx *ctx)
{
    float dists[VX_MAX_SEEDS + 4];
    const vx_slot from = vx_key_slot(descended);
    ctx->n_pool = 0;
    if (vx_has_bit(allowed->nodes, from))
        ctx->pool[ctx->n_pool++] = descended;
    space->ops->many(query, space->rows, space->row_bytes, allowed->seeds, allowed->n_seeds, dists);
    for (uint32_t i = 0; i < allowed->n_seeds; i++) {
        const vx_key key = vx_key_of(dists[i], allowed->seeds[i]);
        size_t at = ctx->n_pool;
        while (at > 0 && ctx->pool[at - 1] > key)
            at--;
        if (at == KEPT_SEEDS || (at > 0 && ctx->pool[at - 1] == key))
            continue;
        ctx->n_pool += ctx->n_pool < KEPT_SEEDS;
        memmove(ctx->pool + at + 1, ctx->pool + at, (ctx->n_pool - 1 - at) * sizeof *ctx->pool);
        ctx->pool[at] = key;
    }
}

/* Where what is allowed lies about the query in all directions and none of it near - say,
 * all but the nearest half of the rows - the k nearest are anywhere on a sphere, and no walk
 * finds them: those that it found are then hardly nearer than other rows.  Among the seeds,
 * so few may be nearer than the k-th and a tenth, or a part of the way from it to the mean.
 * (On three sets it catches nearly all such queries, and about one in a hundred others.) */
#define ABOUT_AS_NEAR 0.1f
#define PART_OF_WAY 0.15f
#define FEW_SEEDS 5u

bool vx_graph_stands_out(const vx_graph *graph, const vx_view *view, const vx_ctx *ctx,
                         const vx_allowed *allowed, size_t k, float kth_dist)
{
    const vx_query both = vx_ctx_query(ctx);
    const void *query;
    const vx_space vectors = vx_query_vectors(graph, view, &both, &query);
    float dists[VX_MAX_SEEDS + 4];
    double sum = 0;
    size_t n = 0;
    vectors.ops->many(query, vectors.rows, vectors.row_bytes, allowed->seeds,
                      allowed->n_seeds, dists);
    for (uint32_t i = 0; i < allowed->n_seeds; i++)
        sum += (double)dists[i];
    const float mean = (float)(sum / allowed->n_seeds);
    const float beyond = fmaxf(ABOUT_AS_NEAR * fabsf(kth_dist), PART_OF_WAY * (mean - kth_dist));
    for (uint32_t i = 0; i < allowed->n_seeds; i++)
        n += dists[i] < kth_dist + beyond;
    return n < FEW_SEEDS + 4 * k * VX_MAX_SEEDS / allowed->n_rows;
}

void vx_graph_retry(const vx_graph *graph, const vx_view *view, vx_ctx *ctx,
                    const vx_effort *effort, const vx_halt *halt, vx_label *out_labels,
                    float *out_dists)
{
    const vx_query query = vx_ctx_query(ctx);
    if (effort->hops || effort->pool == 0) {
        vx_graph_scan_allowed(graph, view, effort->allowed, &query, 1, effort->k, halt, out_labels,
                              out_dists);
        return;
    }
    vx_effort surer = *effort;
    surer.hops = true;
    surer.ahead = 2;
    surer.pool = hops_pool(view, effort->k, effort->ef);
    surer.pool = surer.pool < effort->pool ? surer.pool : effort->pool; /* the context's room */
    vx_graph_search(graph, view, &effort->allowed->now, &ctx, 1, &surer, halt, out_labels,
                    out_dists);
}

/* ---- scan ------------------------------------------------------------------ */

#define SCAN_ROWS 64u
#define HALT_PIECES 16u /* pieces of SCAN_ROWS between two questions             */

uint32_t vx_allowed_next(const vx_allowed *allowed, uint32_t *at, vx_slot *out, uint32_t room)
{
    uint32_t n = 0;
    if (allowed->list != NULL) {
        while (n < room && *at < allowed->n_rows)
            out[n++] = allowed->list[(*at)++];
        return n;
    }
    while (n < room && *at < allowed->now.n) {
        const uint64_t word = allowed->rows[*at >> 6] >> (*at & 63);
        if (word == 0) {
            *at = (*at | 63) + 1;
            continue;
        }
        *at += vx_lowest_bit_64(word);
        out[n++] = (*at)++;
    }
    return n;
}

void vx_graph_scan_allowed(const vx_graph *graph, const vx_view *view, const vx_allowed *allowed,
                           const vx_query *queries, size_t n_queries, size_t k,
                           const vx_halt *halt, vx_label *out_labels, float *out_dists)
{
    const bool sorted = k <= VX_SORTED_K;
    vx_slot slots[SCAN_ROWS];
    vx_label labels[SCAN_ROWS];
    float dists[SCAN_ROWS + 4];
    struct best best[VX_SCAN_QUERIES];
    uint32_t at = 0, n, piece = 0;

    for (size_t q = 0; q < n_queries; q++)
        best[q] = (struct best){out_labels + q * k, out_dists + q * k, 0, k};
    while ((n = vx_allowed_next(allowed, &at, slots, SCAN_ROWS)) > 0) {
        if (++piece % HALT_PIECES == 0 && vx_halt_asked(halt))
            return;
        for (uint32_t i = 0; i < n; i++)
            labels[i] = view->labels[slots[i]];
        for (size_t q = 0; q < n_queries; q++) {
            const void *query;
            const vx_space space = vx_query_vectors(graph, view, &queries[q], &query);
            space.ops->many(query, space.rows, space.row_bytes, slots, n, dists);
            offer_run(&best[q], dists, labels, n, sorted);
        }
    }
    for (size_t q = 0; q < n_queries; q++) {
        if (!sorted)
            sort_heap(&best[q]);
        pad(&best[q]);
    }
}
