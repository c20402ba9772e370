/* hnsw_filter.c - see hnsw_filter.h: which way to search, and the scan. */
#include "hnsw_algo.h"
#include "hnsw_best.h"
#include "hnsw_ops.h"

/* ---- which way ------------------------------------------------------------- */

/* What ways cost, in the time that a line of a row takes where rows are gone through in order,
 * 2.5 ns on the reference machine: of a row beside its lines; of a walk, for each candidate that
 * it keeps; the same for the rows of links that it reads to make up for a share of one in so
 * many; and of a walk by sketches, which leaves out what is not allowed at its end. */
#define ROW_COST 2.0
#define WALK_COST 500.0
#define HOP_COST 44.0
#define GATED_COST 300.0

/* Comparing vectors misses nothing, which is worth this much. */
#define EXACT 4.0

/* From this share on a walk by sketches is the faster. */
#define GATED_SHARE 0.5

/* Candidates of a walk among allowed rows: half as many again as elsewhere, for what its
 * patched rows of links lose. */
static size_t hops_pool(const vx_view *view, size_t k, size_t ef)
{
    const size_t pool = ef + ef / 2;
    const size_t depth = view->codec != NULL ? vx_rerank_depth(view->codec, k, ef) : 0;
    return pool < depth ? depth : pool;
}

static double pass_cost(double n_rows, size_t row_bytes)
{
    return n_rows * (ROW_COST + (double)((row_bytes + VX_LINE - 1) / VX_LINE));
}

vx_effort vx_graph_effort_allowed(const vx_view *view, const vx_allowed *allowed, size_t k,
                                  size_t ef, uint64_t n_live)
{
    vx_effort effort = {.k = k, .ef = ef, .kth = k, .reach = INFINITY, .allowed = allowed};
    const size_t pool = hops_pool(view, k, ef);
    const double n_rows = allowed->n_rows, share = allowed->now.n / fmax(n_rows, 1);
    const bool gated = view->n_groups > 0 && n_rows >= GATED_SHARE * (double)n_live;
    const double walk = (double)pool * (gated ? GATED_COST : WALK_COST + HOP_COST * share);
    const double scan = pass_cost(n_rows, view->form.row_bytes);
    const double sweep = view->codec == NULL           ? INFINITY
                         : view->codec->has_ranks      ? pass_cost(n_rows, VX_RANK_BYTES)
                         : view->has_codes             ? pass_cost(n_rows, view->codec->row_bytes)
                                                       : INFINITY;
    if (n_rows <= 2 * (double)pool || EXACT * scan <= walk || (scan <= walk && scan <= sweep))
        return effort;
    effort.sweeps = sweep <= walk;
    if (gated && !effort.sweeps) {
        effort = vx_graph_effort(view, &allowed->now, k, ef, allowed->n_rows);
        effort.allowed = allowed;
        if (effort.pool > 0)
            return effort;
    }
    effort.hops = !effort.sweeps;
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
    vx_effort surer = *effort;
    surer.sweeps = !effort->sweeps && effort->hops && vx_query_is_code(view, ctx);
    if ((effort->hops || effort->sweeps || effort->pool == 0) && !surer.sweeps) {
        vx_graph_scan_allowed(graph, view, effort->allowed, &query, 1, effort->k, halt, out_labels,
                              out_dists);
        return;
    }
    surer.hops = !surer.sweeps;
    surer.ahead = 2;
    surer.pool = hops_pool(view, effort->k, effort->ef);
    surer.pool = surer.pool < effort->pool ? surer.pool : effort->pool; /* the context's room */
    vx_graph_search(graph, view, &effort->allowed->now, &ctx, 1, &surer, halt, out_labels,
                    out_dists);
}

/* ---- sweep ----------------------------------------------------------------- */

#define SWEEP_NODES 64u
#define HALT_PIECES 16u /* pieces of 64 rows between two questions               */

/* The next set bits from *at on. */
static uint32_t next_nodes(const vx_allowed *allowed, uint32_t *at, vx_slot *out)
{
    uint32_t n = 0;
    while (n < SWEEP_NODES && *at < allowed->now.n) {
        const uint64_t word = allowed->nodes[*at >> 6] >> (*at & 63);
        if (word == 0) {
            *at = (*at | 63) + 1;
            continue;
        }
        *at += vx_lowest_bit_64(word);
        out[n++] = (*at)++;
    }
    return n;
}

static void keep(vx_ctx *ctx, const vx_view *view, vx_key key, size_t depth)
{
    size_t low = 0, high = ctx->n_pool;
    if (high == depth && key >= ctx->pool[depth - 1])
        return;
    if (vx_view_is_twin(view, vx_key_slot(key)))
        return; /* it comes with its node, which stands in the bitmap for it */
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (ctx->pool[middle] < key)
            low = middle + 1;
        else
            high = middle;
    }
    ctx->n_pool += ctx->n_pool < depth;
    memmove(ctx->pool + low + 1, ctx->pool + low, (ctx->n_pool - 1 - low) * sizeof *ctx->pool);
    ctx->pool[low] = key;
}

/* Keep what is near enough of rows that are measured: few, but for the first. */
#define GLANCE 16u

static void keep_near(vx_ctx *ctx, const vx_view *view, const vx_slot *slots, const float *dists,
                      uint32_t n, size_t depth)
{
    for (uint32_t at = 0; at < n; at += GLANCE) {
        const uint32_t end = n - at < GLANCE ? n : at + GLANCE;
        const float most = ctx->n_pool < depth ? INFINITY : vx_key_dist(ctx->pool[depth - 1]);
        uint32_t any = 0;
        for (uint32_t i = at; i < end; i++)
            any |= dists[i] <= most;
        for (uint32_t i = at; i < end && any; i++)
            keep(ctx, view, vx_key_of(dists[i], slots[i]), depth);
    }
}

void vx_graph_sweep(const vx_space *space, const vx_view *view, const vx_allowed *allowed,
                    const void *const *queries, vx_ctx *const *ctxs, unsigned n, size_t depth,
                    const vx_halt *halt)
{
    vx_slot slots[2][SWEEP_NODES];
    float dists[SWEEP_NODES + 4];
    uint32_t at = 0, n_slots, piece = 0;
    for (unsigned i = 0; i < n; i++)
        ctxs[i]->n_pool = 0;
    n_slots = next_nodes(allowed, &at, slots[0]);
    while (n_slots > 0) {
        const vx_slot *here = slots[piece % 2];
        vx_slot *ahead = slots[++piece % 2];
        const uint32_t n_ahead = next_nodes(allowed, &at, ahead);
        for (uint32_t i = 0; i < n_ahead; i++)
            for (size_t line = 0; line < space->row_bytes; line += VX_LINE)
                VX_PREFETCH(vx_space_row(space, ahead[i]) + line);
        if (piece % HALT_PIECES == 0 && vx_halt_asked(halt))
            return;
        for (unsigned i = 0; i < n; i++) {
            if (queries[i] == NULL)
                continue;
            space->ops->many(queries[i], space->rows, space->row_bytes, here, n_slots, dists);
            keep_near(ctxs[i], view, here, dists, n_slots, depth);
        }
        n_slots = n_ahead;
    }
}

bool vx_query_is_code(const vx_view *view, const vx_ctx *ctx)
{
    const vx_codec *codec = view->codec;
    if (codec == NULL || !view->has_codes || !codec->is_lossless)
        return false;
    for (uint32_t i = 0; i < codec->dim; i++)
        if (ctx->query[i] != (float)ctx->code[i])
            return false;
    return true;
}

/* ---- scan ------------------------------------------------------------------ */

#define SCAN_ROWS 64u

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
