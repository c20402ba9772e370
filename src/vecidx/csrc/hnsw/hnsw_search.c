/* hnsw_search.c - k nearest rows (Algorithm 5), by walk or by scan.
 *
 * Departures from the paper: a search never returns fewer rows than it could.
 * Where the walk ends short - a pool larger than half the index, or too many
 * dead rows among the candidates - every row is compared instead. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "hnsw_algo.h"
#include "hnsw_best.h"
#include "hnsw_filter.h"
#include "hnsw_ops.h"

/* ---- scan ---------------------------------------------------------------- */

#define SCAN_ROWS 64u      /* rows a distance buffer holds                      */
#define HALT_ROWS 1024u    /* rows between two questions; a multiple of SCAN_ROWS */
#define RERANK_ROWS 64u    /* rows compared again in one go                      */

/* Move *at to the next row before `end` that the snapshot sees; how many follow one
 * another from there.  The others are not read: they may be being written. */
static uint32_t count_seen(const vx_view *view, const vx_snapshot *now, uint32_t *at, uint32_t end)
{
    uint32_t n = 0;
    if (!now->any_dead)
        return end - *at;
    while (*at < end && !vx_view_sees(view, now, *at))
        ++*at;
    while (*at + n < end && vx_view_sees(view, now, *at + n))
        n++;
    return n;
}

void vx_graph_scan(const vx_graph *graph, const vx_view *view, const vx_snapshot *now,
                   const vx_query *queries, size_t n_queries, size_t k, const vx_halt *halt, vx_label *out_labels, float *out_dists)
{
    const bool sorted = k <= VX_SORTED_K;
    float dists[SCAN_ROWS];

    struct best best[VX_SCAN_QUERIES];
    for (size_t q = 0; q < n_queries; q++)
        best[q] = (struct best){out_labels + q * k, out_dists + q * k, 0, k};

    for (uint32_t row = 0; row < now->n; row += SCAN_ROWS) {
        if (row % HALT_ROWS == 0 && row > 0 && vx_halt_asked(halt))
            return;
        const uint32_t end = now->n - row < SCAN_ROWS ? now->n : row + SCAN_ROWS;
        for (uint32_t i = row; i < end;) {
            const uint32_t n = count_seen(view, now, &i, end);
            for (size_t q = 0; q < n_queries && n > 0; q++) {
                const void *query;
                const vx_space space = vx_query_vectors(graph, view, &queries[q], &query);
                space.ops->scan(query, vx_space_row(&space, i), space.row_bytes, n, dists);
                offer_run(&best[q], dists, view->labels + i, n, sorted);
            }
            i += n;
        }
    }
    for (size_t q = 0; q < n_queries; q++) {
        if (!sorted)
            sort_heap(&best[q]);
        pad(&best[q]);
    }
}

/* Offer a node and, until there is no place left for more, the rows equal to it. */
static void offer_with_twins(struct best *best, const vx_view *view, const vx_snapshot *now,
                             const vx_allowed *allowed, const vx_halt *halt, vx_slot node,
                             float dist)
{
    uint32_t steps = 0;
    if (vx_allows(allowed, view, now, node))
        offer(best, dist, view->labels[node]);
    if (!atomic_load_explicit(&view->any_twins, memory_order_relaxed))
        return;
    for (vx_slot slot = vx_view_next_twin(view, node);
         slot < view->capacity && (best->n < best->k || dist < best->dists[best->k - 1]);
         slot = vx_view_next_twin(view, slot)) {
        /* No chain is longer than the index; in a damaged mapped file it may be a ring. */
        if (++steps > now->n || (steps % HALT_ROWS == 0 && vx_halt_asked(halt)))
            return;
        if (vx_allows(allowed, view, now, slot))
            offer(best, dist, view->labels[slot]);
    }
}

/* ---- walk ---------------------------------------------------------------- */

/* A walk whose pool holds half the index reads all of it, in random order. */
static bool scans_instead(const vx_snapshot *now, size_t ef)
{
    return now->n == 0 || ef >= now->n / 2;
}

/* A gated walk is to expand this many times ef nodes, in the mean: what its gate and
 * its codes lose against plain distances it makes good by going on. */
#define GATED_MORE 1.4

/* ... and has room for so many times ef: what a hard query may take.  Twice keeps the
 * slowest queries near the middle ones; who asks for a large ef wants the hard ones
 * found, and four times as many is 15 % faster at recall 0.999. */
static double gated_room(size_t ef)
{
    const double more = ((double)ef - 64) / 32;
    return 2 + (more < 0 ? 0 : more > 2 ? 2 : more);
}

/* Codes that a query of k rows compares again by their vectors: more of four bits, which
 * put the ten nearest of embeddings among the first 20, of descriptors among the first 40.
 * By ranks few where few rows are walked: each costs as many lines as a dozen ranks.  (Of 384
 * and 768 dimensions 26 for 41 at ef 10 is 15 % faster, at the same recall; 40 at ef 64; where
 * much is walked the last ones lie further on: of 960, twice as many at ef 400 are 30 % faster
 * at recall 0.999.) */
size_t vx_rerank_depth(const vx_codec *codec, size_t k, size_t ef)
{
    if (codec->flips != NULL)
        return 2 * k + 20 + ef / 4;
    return codec->has_ranks ? 2 * k + 4 + ef / 4 : k + k / 2 + 8;
}

vx_effort vx_graph_effort(const vx_view *view, const vx_snapshot *now, size_t k, size_t ef,
                          uint64_t n_live)
{
    vx_effort effort = {.k = k, .ef = ef, .kth = k, .reach = INFINITY};
    if (scans_instead(now, ef))
        return effort;
    double factor = n_live > 0 && n_live < now->n ? (double)now->n / (double)n_live : 1;
    factor = factor < 4 ? factor : 4;
    const float dim = atomic_load_explicit(&view->local_dim, memory_order_relaxed);
    double pool = (double)ef * factor;
    if (view->n_groups > 0 && dim > 0) {
        /* Within a radius r of a query lie rows in proportion to r^dim. */
        effort.kth = (size_t)((double)k * factor);
        effort.reach = (float)pow(GATED_MORE * (double)ef / (double)k, 2 / (double)dim);
        pool *= gated_room(ef);
    }
    if (view->codec != NULL) { /* what is to be compared again has to be kept */
        const size_t depth = vx_rerank_depth(view->codec, k, ef);
        pool = pool > (double)depth * factor ? pool : (double)depth * factor;
    }
    effort.pool = pool < (double)now->n ? (size_t)pool : now->n;
    return effort;
}

/* May a node stand for a row that may be returned? */
static bool shows(const vx_view *view, const vx_snapshot *now, const vx_allowed *allowed,
                  vx_slot node)
{
    if (allowed != NULL)
        return node < now->n && vx_has_bit(allowed->nodes, node);
    return vx_view_shows(view, now, node);
}

/* Offer the nearest in the pool, whose distances are those of codes, at the distances
 * of their vectors. */
static void rerank(const vx_graph *graph, const vx_view *view, const vx_snapshot *now,
                   const vx_allowed *allowed, const vx_ctx *ctx, size_t depth,
                   const vx_halt *halt, struct best *best)
{
    const void *query;
    const vx_query both = vx_ctx_query(ctx);
    const vx_space vectors = vx_query_vectors(graph, view, &both, &query);
    vx_slot slots[RERANK_ROWS];
    float dists[RERANK_ROWS + 4];
    size_t done = 0;
    for (size_t i = 0; i < ctx->n_pool && done < depth;) {
        size_t n = 0;
        for (; i < ctx->n_pool && n < RERANK_ROWS && done + n < depth; i++)
            if (shows(view, now, allowed, vx_key_slot(ctx->pool[i]))) {
                slots[n] = vx_key_slot(ctx->pool[i]);
                VX_PREFETCH(&view->labels[slots[n++]]);
                VX_COMPILER_FENCE();
            }
        vectors.ops->many(query, vectors.rows, vectors.row_bytes, slots, n, dists);
        for (size_t j = 0; j < n; j++)
            offer_with_twins(best, view, now, allowed, halt, slots[j], dists[j]);
        done += n;
    }
}

/* The query, as a row of the space that is walked; its gate with it.  NULL if it lies
 * outside what codes span. */
static const void *prepare_query(const vx_view *view, vx_ctx *ctx)
{
    const vx_codec *codec = view->codec;
    if (!vx_codec_encode(codec, ctx->query, true, ctx->code))
        return NULL;
    if (codec->n_sketch == 0)
        return ctx->code;
    int16_t coords[VX_RANK_COORDS];
    vx_codec_coords(codec, vx_ops_of(vx_level_active())->coords, ctx->code, coords);
    vx_codec_gate(codec, coords, ctx->gate);
    if (!codec->has_ranks && !view->has_codes) { /* the vectors are measured */
        if (!view->form.is_whole)
            return ctx->query;
        if (ctx->has_row)
            return ctx->row;
        return vx_form_nearest_row(&view->form, ctx->query, ctx->code) ? ctx->code : NULL;
    }
    if (!codec->has_ranks)
        return ctx->code;
    vx_codec_rank_query(coords, ctx->rank_code);
    return ctx->rank_code;
}

#define CALIBRATE_ROWS 256u /* sampled                                           */
#define NEARER 10u          /* neighbours whose distances are compared           */
#define FARTHER 60u
#define CALIBRATE_POOL 100u

bool vx_graph_calibrate(vx_graph *graph, vx_view *view, vx_ctx *ctx)
{
    const vx_snapshot now = vx_view_snapshot(view);
    const vx_space space = vx_graph_ranks(view);
    const uint32_t each = now.n / CALIBRATE_ROWS;
    double sum = 0;
    uint32_t n = 0;
    if (!vx_ctx_fit(ctx, view, now.n, CALIBRATE_POOL))
        return false;
    for (uint32_t i = 0; i < CALIBRATE_ROWS && each > 0; i++) {
        vx_form_read(&view->form, vx_view_vector(view, i * each), ctx->query);
        ctx->has_row = view->form.is_whole;
        if (ctx->has_row)
            memcpy(ctx->row, vx_view_vector(view, i * each), view->form.row_bytes);
        const void *query = prepare_query(view, ctx);
        if (query == NULL)
            continue;
        vx_gated walk = {ctx, query, now.entry, now.n, CALIBRATE_POOL, NEARER, INFINITY};
        vx_ops_of(vx_level_active())->gated(&space, view, &walk, 1);
        vx_ctx_forget(ctx);
        /* The row itself is the nearest. */
        if (ctx->n_pool <= FARTHER)
            continue;
        const double nearer = (double)vx_key_dist(ctx->pool[NEARER]);
        const double farther = (double)vx_key_dist(ctx->pool[FARTHER]);
        if (nearer > 0 && farther > nearer) {
            sum += 0.5 * log(farther / nearer);
            n++;
        }
    }
    double dim = sum > 0 ? log((double)FARTHER / NEARER) * n / sum : 0;
    dim = dim < 4 && dim > 0 ? 4 : dim > 200 ? 200 : dim;
    atomic_store_explicit(&view->local_dim, (float)dim, memory_order_relaxed);
    graph->n_calibrated = now.n;
    return true;
}

static void collect(const vx_graph *graph, const vx_view *view, const vx_snapshot *now,
                    vx_ctx *ctx, bool by_codes, const vx_effort *effort, const vx_halt *halt,
                    struct best *best)
{
    vx_ctx_forget(ctx);
    if (by_codes) {
        const size_t depth = vx_rerank_depth(view->codec, best->k, effort->ef);
        rerank(graph, view, now, effort->allowed, ctx, depth, halt, best);
        return;
    }
    /* The pool rises by distance, so a candidate beyond the k-th distance ends it;
     * equal distances go on, for the tie rule. */
    for (size_t i = 0; i < ctx->n_pool; i++) {
        const float dist = vx_key_dist(ctx->pool[i]);
        if (best->n == best->k && dist > best->dists[best->k - 1])
            break;
        offer_with_twins(best, view, now, effort->allowed, halt, vx_key_slot(ctx->pool[i]), dist);
    }
}

/* Where rows that are not allowed were left in the pool, are there as many others near
 * its beginning as was hoped?  If not, what lies further on is not reliable. */
static bool is_rich(const vx_view *view, const vx_snapshot *now, vx_ctx *ctx,
                    const vx_effort *effort)
{
    if (effort->allowed == NULL || effort->hops || effort->sweeps)
        return true;
    size_t n = 0;
    for (size_t i = 0; i < ctx->n_pool && i < 2 * effort->kth && n < effort->k; i++)
        n += shows(view, now, effort->allowed, vx_key_slot(ctx->pool[i]));
    if (n < effort->k)
        vx_ctx_forget(ctx);
    return n == effort->k;
}

/* Has the walk found what there is? */
static bool is_found(const vx_graph *graph, const vx_view *view, const vx_snapshot *now,
                     const vx_ctx *ctx, const vx_effort *effort, const struct best *best)
{
    /* Rows that the snapshot sees may have lost their links meanwhile. */
    if (best->n < effort->k ||
        atomic_load_explicit(&view->unlinked, memory_order_acquire) > now->seq)
        return false;
    return effort->allowed == NULL || (effort->sweeps && vx_query_is_code(view, ctx)) ||
           vx_graph_stands_out(graph, view, ctx, effort->allowed, best->k,
                               best->dists[best->k - 1]);
}

/* Let the walk take the hidden node for one that it has seen. */
static void hide(vx_ctx *ctx)
{
    if (ctx->hidden == VX_NO_SLOT)
        return;
    ctx->visited[ctx->hidden >> 6] |= (uint64_t)1 << (ctx->hidden & 63);
    ctx->touched[ctx->n_touched++] = ctx->hidden;
}

void vx_graph_search(const vx_graph *graph, const vx_view *view, const vx_snapshot *now,
                     vx_ctx *const *ctxs, unsigned n, const vx_effort *effort,
                     const vx_halt *halt, vx_label *out_labels, float *out_dists)
{
    const vx_ops *ops = vx_ops_of(vx_level_active());
    const bool gated = view->n_groups > 0 && !effort->hops && !effort->sweeps;
    const bool by_ranks = view->codec != NULL && view->codec->has_ranks;
    const vx_space space = gated || by_ranks ? vx_graph_ranks(view)
                           : view->has_codes ? vx_graph_codes(view)
                                             : vx_graph_space(graph, view);
    const vx_slot entry = (vx_slot)now->entry;
    const bool walks = effort->pool > 0 && entry < now->n;
    const size_t k = effort->k;
    vx_gated gates[VX_TURNS];
    unsigned n_gated = 0;
    const void *swept[VX_TURNS];
    bool by_codes[VX_TURNS];

    for (unsigned i = 0; i < n && walks; i++) {
        vx_space by = space;
        const uint64_t from = ctxs[i]->from == VX_NO_ENTRY ? now->entry : ctxs[i]->from;
        const void *query = view->codec != NULL ? prepare_query(view, ctxs[i]) : NULL;
        hide(ctxs[i]);
        by_codes[i] = query != NULL;
        if (effort->sweeps) {
            swept[i] = query;
            continue;
        }
        if (gated && by_codes[i]) {
            gates[n_gated++] = (vx_gated){ctxs[i],      query,       from,         now->n,
                                          effort->pool, effort->kth, effort->reach};
            continue;
        }
        if (effort->hops && by_codes[i] && !by_ranks) { /* by codes if there are any: rows of links differ */
            by_codes[i] = view->has_codes;
            query = view->has_codes ? ctxs[i]->code : NULL;
        }
        const vx_query both = vx_ctx_query(ctxs[i]);
        if (query == NULL) /* there are no codes, or they cannot tell: by the vectors */
            by = vx_query_vectors(graph, view, &both, &query);
        const vx_key nearest = by.ops->descend(&by, query, view, now->n, (vx_slot)from,
                                               (unsigned)(from >> 32), 1);
        if (effort->hops) {
            vx_graph_seed(&by, query, effort->allowed, nearest, ctxs[i]);
            by.ops->filtered(&by, query, view, effort->allowed, vx_key_slot(nearest),
                             effort->pool, effort->ahead, ctxs[i]);
            continue;
        }
        ctxs[i]->pool[0] = nearest;
        ctxs[i]->n_pool = 1;
        by.ops->walk(&by, query, view, now->n, 0, effort->pool, effort->pool, ctxs[i]);
    }
    if (n_gated > 0)
        ops->gated(&space, view, gates, n_gated);
    if (effort->sweeps && walks)
        vx_graph_sweep(&space, view, effort->allowed, swept, ctxs, n,
                       vx_rerank_depth(view->codec, k, effort->ef), halt);
    for (unsigned i = 0; i < n; i++) {
        struct best best = {out_labels + i * k, out_dists + i * k, 0, k};
        if (walks && is_rich(view, now, ctxs[i], effort))
            collect(graph, view, now, ctxs[i], by_codes[i], effort, halt, &best);
        if (is_found(graph, view, now, ctxs[i], effort, &best))
            continue;
        const vx_query both = vx_ctx_query(ctxs[i]);
        if (effort->allowed != NULL)
            vx_graph_retry(graph, view, ctxs[i], effort, halt, best.labels, best.dists);
        else
            vx_graph_scan(graph, view, now, &both, 1, k, halt, best.labels, best.dists);
    }
}
