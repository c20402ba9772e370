/* hnsw_search.c - k nearest rows (Algorithm 5), by walk or by scan.
 *
 * Departures from the paper: a search never returns fewer rows than it could.
 * Where the walk ends short - a pool larger than half the index, or too many
 * dead rows among the candidates - every row is compared instead. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "hnsw_algo.h"
#include "hnsw_ops.h"

/* ---- collecting ---------------------------------------------------------- */

/* The k best of what is offered, by (distance, label): sorted, rising, in the
 * caller's output arrays.  `n` are filled. */
struct best {
    vx_label *labels;
    float *dists;
    size_t n, k;
};

static bool is_before(float d1, vx_label l1, float d2, vx_label l2)
{
    return d1 < d2 || (d1 == d2 && l1 < l2);
}

static void offer(struct best *best, float dist, vx_label label)
{
    size_t at = best->n;
    if (best->n == best->k &&
        !is_before(dist, label, best->dists[at - 1], best->labels[at - 1]))
        return;
    if (best->n < best->k)
        best->n++;
    else
        at--;
    while (at > 0 && is_before(dist, label, best->dists[at - 1], best->labels[at - 1])) {
        best->dists[at] = best->dists[at - 1];
        best->labels[at] = best->labels[at - 1];
        at--;
    }
    best->dists[at] = dist;
    best->labels[at] = label;
}

static void pad(const struct best *best)
{
    for (size_t i = best->n; i < best->k; i++) {
        best->labels[i] = VX_NO_LABEL;
        best->dists[i] = INFINITY;
    }
}

/* A binary heap, worst on top, for k too large to insert into a sorted array. */
static void sift_down(struct best *best, size_t at)
{
    for (;;) {
        size_t worst = at;
        for (size_t child = 2 * at + 1; child <= 2 * at + 2; child++)
            if (child < best->n && is_before(best->dists[worst], best->labels[worst],
                                             best->dists[child], best->labels[child]))
                worst = child;
        if (worst == at)
            return;
        const float d = best->dists[at];
        const vx_label l = best->labels[at];
        best->dists[at] = best->dists[worst];
        best->labels[at] = best->labels[worst];
        best->dists[worst] = d;
        best->labels[worst] = l;
        at = worst;
    }
}

static void offer_heap(struct best *best, float dist, vx_label label)
{
    if (best->n < best->k) {
        best->dists[best->n] = dist;
        best->labels[best->n] = label;
        best->n++;
        if (best->n == best->k)
            for (size_t i = best->k / 2; i-- > 0;)
                sift_down(best, i);
    } else if (is_before(dist, label, best->dists[0], best->labels[0])) {
        best->dists[0] = dist;
        best->labels[0] = label;
        sift_down(best, 0);
    }
}

static void sort_heap(struct best *best)
{
    const size_t n = best->n;
    if (n < best->k) /* never became a heap */
        for (size_t i = n / 2; i-- > 0;)
            sift_down(best, i);
    while (best->n > 1) {
        const size_t last = best->n - 1;
        const float d = best->dists[0];
        const vx_label l = best->labels[0];
        best->dists[0] = best->dists[last];
        best->labels[0] = best->labels[last];
        best->dists[last] = d;
        best->labels[last] = l;
        best->n = last;
        sift_down(best, 0);
    }
    best->n = n;
}

/* ---- scan ---------------------------------------------------------------- */

#define SCAN_ROWS 64u      /* rows a distance buffer holds                      */
#define HALT_ROWS 1024u    /* rows between two questions; a multiple of SCAN_ROWS */
#define RERANK_ROWS 64u    /* rows compared again in one go                      */
#define SORTED_K 48u       /* up to here a sorted array beats a heap            */

void vx_graph_scan(const vx_graph *graph, const vx_view *view, const vx_snapshot *now,
                   const float *queries, size_t n_queries, size_t k, const vx_halt *halt,
                   vx_label *out_labels, float *out_dists)
{
    const vx_space space = vx_graph_vectors(graph, view);
    const bool sorted = k <= SORTED_K;
    float dists[SCAN_ROWS];

    struct best best[VX_SCAN_QUERIES];
    for (size_t q = 0; q < n_queries; q++)
        best[q] = (struct best){out_labels + q * k, out_dists + q * k, 0, k};

    for (uint32_t row = 0; row < now->n; row += SCAN_ROWS) {
        if (row % HALT_ROWS == 0 && row > 0 && vx_halt_asked(halt))
            return;
        const uint32_t n = now->n - row < SCAN_ROWS ? now->n - row : SCAN_ROWS;
        for (size_t q = 0; q < n_queries; q++) {
            struct best *b = &best[q];
            space.ops->scan(queries + q * view->row_floats, vx_space_row(&space, row),
                            space.row_bytes, n, dists);
            for (uint32_t i = 0; i < n; i++) {
                const size_t worst = sorted ? k - 1 : 0;
                if (b->n == k && dists[i] > b->dists[worst])
                    continue;
                if (!vx_view_sees(view, now, row + i))
                    continue;
                if (sorted)
                    offer(b, dists[i], view->labels[row + i]);
                else
                    offer_heap(b, dists[i], view->labels[row + i]);
            }
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
                             const vx_halt *halt, vx_slot node, float dist)
{
    uint32_t steps = 0;
    if (vx_view_sees(view, now, node))
        offer(best, dist, view->labels[node]);
    if (!atomic_load_explicit(&view->any_twins, memory_order_relaxed))
        return;
    for (vx_slot slot = vx_view_next_twin(view, node);
         slot < view->capacity && (best->n < best->k || dist < best->dists[best->k - 1]);
         slot = vx_view_next_twin(view, slot)) {
        if (++steps % HALT_ROWS == 0 && vx_halt_asked(halt))
            return;
        if (vx_view_sees(view, now, slot))
            offer(best, dist, view->labels[slot]);
    }
}

/* ---- walk ---------------------------------------------------------------- */

bool vx_graph_search_scans(const vx_snapshot *now, size_t ef)
{
    /* A walk whose pool holds half the index reads all of it, in random order. */
    return now->n == 0 || ef >= now->n / 2;
}

size_t vx_graph_search_pool(const vx_snapshot *now, size_t ef, uint64_t n_live)
{
    if (n_live >= now->n || n_live == 0)
        return ef;
    const double factor = (double)now->n / (double)n_live;
    const double pool = (double)ef * (factor < 4 ? factor : 4);
    return pool < (double)now->n ? (size_t)pool + 1 : now->n;
}

/* Codes that a query of k rows compares again by their vectors. */
static size_t rerank_depth(size_t k) { return k + k / 2 + 8; }

/* Offer the nearest in the pool, whose distances are those of codes, at the distances
 * of their vectors. */
static void rerank(const vx_graph *graph, const vx_view *view, const vx_snapshot *now,
                   const vx_ctx *ctx, const vx_halt *halt, struct best *best)
{
    const vx_space space = vx_graph_vectors(graph, view);
    const size_t depth = rerank_depth(best->k);
    vx_slot slots[RERANK_ROWS];
    float dists[RERANK_ROWS + 4];
    size_t done = 0;
    for (size_t i = 0; i < ctx->n_pool && done < depth;) {
        size_t n = 0;
        for (; i < ctx->n_pool && n < RERANK_ROWS && done + n < depth; i++)
            if (vx_view_shows(view, now, vx_key_slot(ctx->pool[i])))
                slots[n++] = vx_key_slot(ctx->pool[i]);
        space.ops->many(ctx->query, space.rows, space.row_bytes, slots, n, dists);
        for (size_t j = 0; j < n; j++)
            offer_with_twins(best, view, now, halt, slots[j], dists[j]);
        done += n;
    }
}

void vx_graph_search(const vx_graph *graph, const vx_view *view, const vx_snapshot *now,
                       vx_ctx *ctx, size_t k, size_t ef, uint64_t n_live, const vx_halt *halt,
                       vx_label *out_labels, float *out_dists)
{
    const vx_space space = vx_graph_space(graph, view);
    const void *query = ctx->query;
    struct best best = {out_labels, out_dists, 0, k};
    const vx_slot entry = (vx_slot)now->entry;

    if (!vx_graph_search_scans(now, ef) && entry < now->n) {
        if (view->codec != NULL) {
            vx_codec_encode(view->codec, ctx->query, true, ctx->code);
            query = ctx->code;
        }
        const vx_key nearest = space.ops->descend(&space, query, view, now->n, entry,
                                                  (unsigned)(now->entry >> 32), 1);
        ctx->pool[0] = nearest;
        ctx->n_pool = 1;
        const size_t pool = vx_graph_search_pool(now, ef, n_live);
        space.ops->walk(&space, query, view, now->n, 0, pool, pool, view->M0, ctx);
        vx_ctx_forget(ctx);
        if (view->codec != NULL) {
            rerank(graph, view, now, ctx, halt, &best);
            if (best.n == k)
                return;
        } else {
        /* The pool rises by distance, so a candidate beyond the k-th distance
         * ends it; equal distances go on, for the tie rule. */
        for (size_t i = 0; i < ctx->n_pool; i++) {
            const float dist = vx_key_dist(ctx->pool[i]);
            if (best.n == k && dist > best.dists[k - 1])
                break;
            offer_with_twins(&best, view, now, halt, vx_key_slot(ctx->pool[i]), dist);
        }
        }
        if (best.n == k)
            return;
    }
    vx_graph_scan(graph, view, now, ctx->query, 1, k, halt, out_labels, out_dists);
}
