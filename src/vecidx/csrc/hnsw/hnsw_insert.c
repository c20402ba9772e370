/* hnsw_insert.c - linking new rows (Algorithm 1), in batches.
 *
 * Departures from the paper:
 *
 * - Rows are inserted in batches of a fixed size.  Every row of a batch searches
 *   the graph as it was before the batch, and is compared with every other row
 *   of the batch, so it sees all that one-by-one insertion would have shown it
 *   and more.  Then the links back are sorted by (row, distance, source) and
 *   applied row by row.  No step depends on which thread does it, so the graph
 *   depends on the rows, their order, the parameters and the batch boundaries,
 *   never on the number of threads; and no lock is taken anywhere.
 *   (Batch-synchronous insertion: ParlayANN, arXiv:2305.04359; comparing within
 *   the batch, instead of keeping early batches tiny, is ours: at 512 rows it
 *   costs about 3 % of an insertion.)
 * - The walks of a build are shorter than those of a search (build_share).
 * - Layer-0 rows may choose up to 2M neighbours, not M, and are filled up with
 *   the nearest of those passed over (hnsw_select.c).
 * - A row that equals one in the graph becomes no node (hnsw_graph.h, twins).
 * - Every row keeps an in-link (hnsw_repair.c).
 *
 * A batch runs through these stages, parallel loops where not said otherwise:
 *
 *   copies   rows that equal an earlier one of the batch stand aside (on the caller)
 *   search   each new row: descend, walk, compare with its batch, choose links
 *   again    where the batch was cut short: rows searched choose among those left
 *   twins    rows that equal a node are taken out (on the caller)
 *   scatter  links back -> 64 partitions by target row (on the caller)
 *   apply    each partition: sort, offer each link to its target's row
 *   look     new rows and rows that lost a link: has a neighbour a link to it?
 *   force    those without (on the caller; few)
 *
 * and is then published.  Readers may walk the graph all the while: rows of the
 * batch are invisible to them until then, and link rows are written word by word
 * with atomics, so a reader meets any mixture of old and new links.
 *
 * Distances of layer-0 links are kept beside the rows while a long add runs, so
 * that offering a link costs no distances but those from the new row. */
#include <stdlib.h>
#include <string.h>

#include "../base/vx_alloc.h"
#include "../base/vx_pool.h"
#include "../base/vx_rng.h"
#include "../base/vx_status.h"
#include "../base/vx_step.h"
#include "../base/vx_sync.h"
#include "hnsw_algo.h"
#include "hnsw_repair.h"
#include "hnsw_sketch.h"

/* 512 rows a batch.  More: fewer barriers, but each row is compared with all others
 * and a batch cannot be interrupted while it is applied.  At high dimensions a
 * batch is held to 2 MiB of vectors, which stay in cache. */
#define BATCH_ROWS VX_COPIES_ROWS
#define BATCH_BYTES (2u << 20)
#define BATCH_MIN 16u

/* Tasks of the apply stage: fixed, since it orders the work. */
#define N_PARTS 64u

/* Keeping link distances costs page faults at first; below this many new rows
 * they are recomputed. */
#define KEEP_DISTS_ROWS 1024u

/* When one in so many rows is newer than the last vx_reconnect, which reads the
 * whole graph once, an add ends with it.  That is every bulk add, and every n/128
 * adds of one row, which then cost some 10 % more. */
#define UNPROVEN_SHARE 128u

/* An interrupted add of up to this many rows does so too: it takes some 50 ms. */
#define QUICK_ROWS (1u << 18)

/* A walk for building expands the nearest five eighths of its pool, and reads the
 * first five eighths of each row.  What it so leaves unseen are the far ends of a
 * long list of candidates.  On 30 k rows of WordNet the two take a row from 2,533
 * distances to 1,244 and recall@10 at ef = 64 from 0.992 to 0.990; one half each
 * would give 965 and 0.988, and lose a whole percent on 768-d text. */
static size_t build_share(size_t n) { return (n * 5 + 7) / 8; }

/* A walk that begins among a row's neighbours needs only look around there. */
static size_t hinted_ef(size_t ef) { return ef / 2 < 16 ? (ef < 16 ? ef : 16) : ef / 2; }

struct edge {
    vx_slot target, source;
    float dist;
    uint32_t layer;
};

struct insert {
    vx_graph *graph;
    vx_view *view;
    vx_space space; /* what is walked and linked by */
    vx_run run;        /* with the number of threads settled                   */
    vx_ctx **contexts; /* one a thread, by `who`                              */
    unsigned n_contexts;
    vx_edge_dists kept;

    /* The batch: n_batch slots, rising, over a graph of rows 0 .. n_seen-1.  Some of
     * them may lie below n_seen, used again; no link leads to them yet. */
    const vx_slot *batch;
    size_t n_batch, n_planned; /* n_planned: before it was cut                 */
    _Atomic size_t n_searched;
    size_t n_before;       /* rows of the call in earlier batches              */
    const vx_guide *guide;
    uint32_t n_seen;
    uint64_t entry;

    /* Links back.  Row i of the batch writes its own at edges[at[i] ..]. */
    struct edge *edges, *by_part;
    uint32_t *at, *count;
    vx_slot *copy_of; /* of each row: the first of the batch it equals, or VX_NO_SLOT */
    vx_slot *twin_of; /* of each row: the node it equals, or VX_NO_SLOT       */
    vx_slot *lost; /* for each edge, the row that lost a link for it         */
    size_t edge_room;
    uint32_t part_at[N_PARTS + 1];

    vx_slot *suspects; /* rows to look up: the batch, then what was lost     */
    uint8_t *is_cut;
    size_t n_suspects;
};

/* ---- search --------------------------------------------------------------- */

static void pool_offer(vx_ctx *ctx, size_t ef, vx_key key)
{
    size_t at = ctx->n_pool;
    if (at == ef && key >= ctx->pool[at - 1])
        return;
    at = ctx->n_pool < ef ? ctx->n_pool++ : ef - 1;
    for (; at > 0 && ctx->pool[at - 1] > key; at--)
        ctx->pool[at] = ctx->pool[at - 1];
    ctx->pool[at] = key;
}

/* Compare row `slot` with the rest of its batch on one layer. */
static void offer_batch(const struct insert *in, vx_slot slot, unsigned layer, vx_ctx *ctx)
{
    const vx_view *view = in->view;
    const size_t ef = in->graph->params.ef_construction;
    const void *vector = vx_space_row(&in->space, slot);
    float dists[64];

    for (size_t i = 0; i < ctx->n_pool; i++)
        ctx->pool[i] &= ~(vx_key)1; /* all expanded: the flag has served     */
    for (size_t at = 0; at < in->n_batch; at += 64) {
        const vx_slot *rows = in->batch + at;
        const size_t n = in->n_batch - at < 64 ? in->n_batch - at : 64;
        const bool in_order = rows[n - 1] - rows[0] == n - 1;
        if (layer == 0 && in_order)
            in->space.ops->scan(vector, vx_space_row(&in->space, rows[0]), in->space.row_bytes, n,
                                dists);
        else if (layer == 0)
            in->space.ops->many(vector, in->space.rows, in->space.row_bytes, rows, n, dists);
        for (size_t i = 0; i < n; i++) {
            if (rows[i] == slot || view->levels[rows[i]] < layer ||
                in->copy_of[at + i] != VX_NO_SLOT)
                continue;
            if (layer > 0)
                dists[i] = in->space.ops->pair(vector, vx_space_row(&in->space, rows[i]),
                                              in->space.row_bytes);
            pool_offer(ctx, ef, vx_key_of(dists[i], rows[i]));
        }
    }
}

/* The node of the graph this row equals; VX_NO_SLOT if there is none among the
 * nearest found.  None that is dead or about to be replaced: it would leave its
 * twins behind.  (No other row of the batch is found: copies stood aside.) */
static vx_slot find_twin(const struct insert *in, vx_slot slot, const vx_ctx *ctx)
{
    const vx_view *view = in->view;
    const void *vector = vx_space_row(&in->space, slot);
    /* Not 0: a unit row's inner product with itself is rounded. */
    const float equal = in->space.ops->pair(vector, vector, in->space.row_bytes);
    vx_slot twin = VX_NO_SLOT;
    for (size_t i = 0; i < ctx->n_pool && vx_key_dist(ctx->pool[i]) <= equal; i++) {
        const vx_slot other = vx_key_slot(ctx->pool[i]);
        if (other < twin && vx_view_is_alive(view, other) && vx_rows_equal(view, other, slot))
            twin = other;
    }
    return twin;
}

/* Nodes of the graph near row number `at` of the batch. */
static size_t take_hints(const struct insert *in, size_t at, vx_slot *hints)
{
    if (in->guide == NULL || in->guide->hint == NULL)
        return 0;
    const size_t n = in->guide->hint(in->guide->hint_arg, in->n_before + at, hints);
    size_t n_nodes = 0;
    for (size_t i = 0; i < n; i++)
        if (hints[i] < in->n_seen && !vx_view_is_twin(in->view, hints[i]))
            hints[n_nodes++] = hints[i];
    return n_nodes;
}

/* Walk layer 0 from the hints. */
static void walk_from(const struct insert *in, const void *vector, const vx_slot *hints, size_t n,
                      vx_ctx *ctx)
{
    const size_t full = in->graph->params.ef_construction;
    const size_t ef = hinted_ef(full);
    float dists[VX_MAX_ROW_LINKS];
    in->space.ops->many(vector, in->space.rows, in->space.row_bytes, hints, n, dists);
    for (size_t i = 0; i < n; i++)
        pool_offer(ctx, ef, vx_key_of(dists[i], hints[i]));
    in->space.ops->walk(&in->space, vector, in->view, in->n_seen, 0, ef, build_share(ef),
                        (uint32_t)build_share(in->view->M0), ctx);
    vx_ctx_forget(ctx);
}

/* Row number `at` of the batch. */
static void link_row(struct insert *in, size_t at, vx_ctx *ctx)
{
    const vx_view *view = in->view;
    const vx_slot slot = in->batch[at];
    const size_t ef = in->graph->params.ef_construction;
    const void *vector = vx_space_row(&in->space, slot);
    const unsigned level = view->levels[slot];
    const bool has_graph = in->entry != VX_NO_ENTRY;
    const unsigned top = has_graph ? (unsigned)(in->entry >> 32) : 0;
    vx_slot *twin = &in->twin_of[at];
    in->count[at] = 0;
    *twin = in->copy_of[at];
    if (*twin != VX_NO_SLOT)
        return;
    uint32_t n_edges = 0;
    struct edge *edges = in->edges + in->at[at];

    vx_slot hints[VX_MAX_ROW_LINKS];
    const size_t n_hints = has_graph ? take_hints(in, at, hints) : 0;
    vx_key nearest = 0;
    if (has_graph && (n_hints == 0 || level > 0))
        nearest = in->space.ops->descend(&in->space, vector, view, in->n_seen, (vx_slot)in->entry, top,
                                level < top ? level + 1 : top + 1);
    for (unsigned layer = level + 1; layer-- > 0;) {
        ctx->n_pool = 0;
        if (layer == 0 && n_hints > 0) {
            walk_from(in, vector, hints, n_hints, ctx);
        } else if (has_graph && layer <= top) {
            ctx->pool[0] = nearest & ~(vx_key)1;
            ctx->n_pool = 1;
            in->space.ops->walk(&in->space, vector, view, in->n_seen, layer, ef, build_share(ef),
                         (uint32_t)build_share(vx_view_row_links(view, layer)), ctx);
            vx_ctx_forget(ctx);
            nearest = ctx->pool[0];
        }
        offer_batch(in, slot, layer, ctx);
        if (layer == 0)
            *twin = find_twin(in, slot, ctx);

        vx_row row;
        vx_row_select(&in->space, ctx->pool, ctx->n_pool, vx_view_row_links(view, layer), &row);
        vx_row_store_kept(view, &in->kept, slot, layer, &row);
        for (uint32_t i = 0; i < row.n_chosen; i++)
            edges[n_edges++] = (struct edge){row.slots[i], slot, row.dists[i], layer};
    }
    in->count[at] = n_edges;
}

static bool is_wanted(const struct insert *in)
{
    return in->guide != NULL && in->guide->cut.asked != NULL &&
           in->guide->cut.asked(in->guide->cut.arg);
}

static void search_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    struct insert *in = arg;
    for (size_t i = begin; i < end; i++) {
        if (i >= BATCH_MIN && is_wanted(in))
            vx_lower(&in->n_searched, i);
        if (i < atomic_load_explicit(&in->n_searched, memory_order_relaxed))
            link_row(in, i, in->contexts[who]);
    }
}

/* ---- a batch cut short -------------------------------------------------------- */

/* The place of a slot among the first n of the batch; n if it is not there. */
static size_t place_in_batch(const struct insert *in, vx_slot slot, size_t n)
{
    size_t at = 0;
    for (size_t left = n; left > 0;) {
        const size_t half = left / 2;
        const bool right = in->batch[at + half] < slot;
        at += right ? half + 1 : 0;
        left = right ? left - half - 1 : half;
    }
    return at < n && in->batch[at] == slot ? at : n;
}

/* A row that was searched chose among all rows of the batch.  Let it choose again, among
 * its links to the graph and the rows that are left. */
static void choose_again(struct insert *in, size_t at, vx_ctx *ctx)
{
    const vx_view *view = in->view;
    const vx_slot slot = in->batch[at];
    const size_t ef = in->graph->params.ef_construction;
    struct edge *edges = in->edges + in->at[at];
    uint32_t n_edges = 0;
    if (in->twin_of[at] != VX_NO_SLOT)
        return;
    for (unsigned layer = view->levels[slot] + 1u; layer-- > 0;) {
        vx_row row;
        ctx->n_pool = 0;
        vx_row_load_kept(&in->space, view, &in->kept, slot, layer, &row);
        for (uint32_t i = 0; i < row.n; i++)
            if (place_in_batch(in, row.slots[i], in->n_planned) == in->n_planned)
                pool_offer(ctx, ef, vx_key_of(row.dists[i], row.slots[i]));
        offer_batch(in, slot, layer, ctx);
        vx_row_select(&in->space, ctx->pool, ctx->n_pool, vx_view_row_links(view, layer), &row);
        vx_row_store_kept(view, &in->kept, slot, layer, &row);
        for (uint32_t i = 0; i < row.n_chosen; i++)
            edges[n_edges++] = (struct edge){row.slots[i], slot, row.dists[i], layer};
    }
    in->count[at] = n_edges;
}

static void choose_again_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    struct insert *in = arg;
    for (size_t i = begin; i < end; i++)
        choose_again(in, i, in->contexts[who]);
}

/* ---- twins ------------------------------------------------------------------- */

/* The node that a row of the batch equals; VX_NO_SLOT for all others. */
static vx_slot twin_of(const struct insert *in, vx_slot slot)
{
    const size_t at = place_in_batch(in, slot, in->n_batch);
    return at < in->n_batch ? in->twin_of[at] : VX_NO_SLOT;
}

/* Lead the links of row `slot` that go to twins to the nodes they equal. */
static void lead_to_nodes(const struct insert *in, vx_slot slot, unsigned layer)
{
    const vx_view *view = in->view;
    vx_row row, led = {.n = 0, .n_chosen = 0};
    vx_row_load_kept(&in->space, view, &in->kept, slot, layer, &row);
    for (uint32_t i = 0; i < row.n; i++) {
        const vx_slot twin = twin_of(in, row.slots[i]);
        const vx_slot to = twin == VX_NO_SLOT ? row.slots[i] : twin;
        bool is_new = to != slot && view->levels[to] >= layer;
        for (uint32_t j = 0; j < led.n && is_new; j++)
            is_new = led.slots[j] != to;
        if (!is_new)
            continue;
        led.slots[led.n] = to;
        led.dists[led.n++] = row.dists[i];
        led.n_chosen += i < row.n_chosen;
    }
    vx_row_store_kept(view, &in->kept, slot, layer, &led);
}

/* Rows of the batch that equal a node become no nodes themselves.  On the caller,
 * in the order of the rows, so that a twin's node is known before the twin. */
static void settle_twins(struct insert *in)
{
    vx_view *view = in->view;
    bool any = false;
    for (size_t i = 0; i < in->n_batch; i++) {
        const vx_slot slot = in->batch[i];
        vx_slot *node = &in->twin_of[i];
        if (*node == VX_NO_SLOT)
            continue;
        any = true;
        if (twin_of(in, *node) != VX_NO_SLOT)
            *node = twin_of(in, *node);
        in->count[i] = 0;
        const vx_row none = {.n = 0, .n_chosen = 0};
        for (unsigned layer = 0; layer <= view->levels[slot]; layer++)
            vx_row_store(view, slot, layer, NULL, &none);
        vx_row_store_twin(view, slot);
        const uint32_t next = atomic_load_explicit(&view->twins[*node], memory_order_relaxed);
        vx_slot last = slot; /* a row that was a node's heir brings its own chain */
        while (vx_view_next_twin(view, last) != VX_NO_SLOT)
            last = vx_view_next_twin(view, last);
        atomic_store_explicit(&view->twins[last], next, memory_order_relaxed);
        atomic_store_explicit(&view->twins[*node], slot + 1, memory_order_release);
    }
    if (!any)
        return;
    atomic_store_explicit(&view->any_twins, true, memory_order_relaxed);
    for (size_t b = 0; b < in->n_batch; b++) {
        const vx_slot slot = in->batch[b];
        if (in->twin_of[b] != VX_NO_SLOT)
            continue;
        for (unsigned layer = 0; layer <= view->levels[slot]; layer++)
            lead_to_nodes(in, slot, layer);
        struct edge *edges = in->edges + in->at[b];
        uint32_t n = 0;
        for (uint32_t i = 0; i < in->count[b]; i++) {
            struct edge e = edges[i];
            const vx_slot node = twin_of(in, e.target);
            if (node != VX_NO_SLOT)
                e.target = node;
            if (e.target != slot && view->levels[e.target] >= e.layer)
                edges[n++] = e;
        }
        in->count[b] = n;
    }
}

/* ---- scatter, apply ---------------------------------------------------------- */

static uint32_t part_of(vx_slot target) { return (uint32_t)(vx_hash64(target) % N_PARTS); }

static void scatter(struct insert *in)
{
    uint32_t at[N_PARTS + 1] = {0};
    for (size_t i = 0; i < in->n_batch; i++)
        for (uint32_t j = 0; j < in->count[i]; j++)
            at[part_of(in->edges[in->at[i] + j].target) + 1]++;
    for (uint32_t p = 0; p < N_PARTS; p++)
        at[p + 1] += at[p];
    memcpy(in->part_at, at, sizeof at);
    for (size_t i = 0; i < in->n_batch; i++)
        for (uint32_t j = 0; j < in->count[i]; j++) {
            const struct edge *e = &in->edges[in->at[i] + j];
            in->by_part[at[part_of(e->target)]++] = *e;
        }
}

static int compare_edges(const void *a, const void *b)
{
    const struct edge *x = a, *y = b;
    if (x->layer != y->layer)
        return x->layer < y->layer ? -1 : 1;
    if (x->target != y->target)
        return x->target < y->target ? -1 : 1;
    if (x->dist != y->dist)
        return x->dist < y->dist ? -1 : 1;
    return x->source < y->source ? -1 : x->source > y->source;
}

static void apply_part(struct insert *in, size_t part)
{
    const vx_view *view = in->view;
    const size_t end = in->part_at[part + 1];
    size_t i = in->part_at[part];
    qsort(in->by_part + i, end - i, sizeof *in->by_part, compare_edges);
    while (i < end) {
        const vx_slot target = in->by_part[i].target;
        const unsigned layer = in->by_part[i].layer;
        const uint32_t cap = vx_view_row_links(view, layer);
        vx_row row;
        vx_row_load_kept(&in->space, view, &in->kept, target, layer, &row);
        for (; i < end && in->by_part[i].target == target && in->by_part[i].layer == layer; i++) {
            const vx_slot lost = vx_row_offer(&in->space, &row, cap, in->by_part[i].source,
                                              in->by_part[i].dist);
            in->lost[i] = layer == 0 ? lost : VX_NO_SLOT;
        }
        vx_row_store_kept(view, &in->kept, target, layer, &row);
    }
    vx_step_at(VX_STEP_APPLY);
}

static void apply_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    (void)who;
    for (size_t part = begin; part < end; part++)
        apply_part(arg, part);
}

/* ---- look, force --------------------------------------------------------------- */

static void look_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    struct insert *in = arg;
    (void)who;
    for (size_t i = begin; i < end; i++)
        in->is_cut[i] = !vx_has_in_link(in->view, in->suspects[i], VX_NO_SLOT);
}

static void keep_in_links(struct insert *in, const vx_run *quiet)
{
    const uint32_t n_spare = vx_spare_links(in->graph, in->view);
    in->n_suspects = 0;
    for (size_t i = 0; i < in->n_batch; i++)
        if (in->twin_of[i] == VX_NO_SLOT)
            in->suspects[in->n_suspects++] = in->batch[i];
    for (uint32_t i = 0; i < in->part_at[N_PARTS]; i++)
        if (in->lost[i] != VX_NO_SLOT)
            in->suspects[in->n_suspects++] = in->lost[i];
    vx_pool_run(in->n_suspects, 64, quiet, 0, 0, look_piece, in);
    for (size_t i = 0; i < in->n_suspects; i++)
        if (in->is_cut[i] && !vx_has_in_link(in->view, in->suspects[i], VX_NO_SLOT))
            vx_force_in_link(&in->space, in->view, &in->kept, n_spare, in->suspects[i]);
}

/* ---- the batch ------------------------------------------------------------------ */

static void publish(struct insert *in, vx_publish_fn fn, void *arg)
{
    vx_view *view = in->view;
    uint64_t entry = in->entry;
    for (size_t i = 0; i < in->n_batch; i++) {
        const vx_slot slot = in->batch[i];
        if (in->twin_of[i] == VX_NO_SLOT &&
            (entry == VX_NO_ENTRY || view->levels[slot] > entry >> 32))
            entry = (uint64_t)view->levels[slot] << 32 | slot;
    }
    const uint64_t seq = atomic_load_explicit(&view->seq, memory_order_relaxed);
    if (fn != NULL)
        fn(arg, view, in->batch, in->n_batch);
    vx_step_at(VX_STEP_PUBLISH);
    const vx_slot last = in->batch[in->n_batch - 1];
    if (last >= in->n_seen)
        atomic_store_explicit(&view->n_rows, last + 1, memory_order_release);
    atomic_store_explicit(&view->entry, entry, memory_order_release);
    atomic_store_explicit(&view->seq, seq + 1, memory_order_release);
}

/* Room for the batch's links back: at most a full row on each of its layers. */
static bool fit_edges(struct insert *in)
{
    const vx_view *view = in->view;
    size_t n = 0;
    for (size_t i = 0; i < in->n_batch; i++) {
        in->at[i] = (uint32_t)n;
        n += view->M0 + (size_t)view->levels[in->batch[i]] * view->M;
    }
    if (n <= in->edge_room)
        return true;
    n += n / 4;
    in->edge_room = 0;
    vx_free(in->edges);
    vx_free(in->by_part);
    vx_free(in->lost);
    vx_free(in->suspects);
    vx_free(in->is_cut);
    in->edges = vx_alloc(n, sizeof *in->edges);
    in->by_part = vx_alloc(n, sizeof *in->by_part);
    in->lost = vx_alloc(n, sizeof *in->lost);
    in->suspects = vx_alloc(n + BATCH_ROWS, sizeof *in->suspects);
    in->is_cut = vx_alloc(n + BATCH_ROWS, 1);
    if (in->edges == NULL || in->by_part == NULL || in->lost == NULL || in->suspects == NULL ||
        in->is_cut == NULL)
        return false;
    in->edge_room = n;
    return true;
}

static vx_status run_batch(struct insert *in, uint64_t done, uint64_t total, vx_publish_fn fn,
                           void *arg)
{
    const vx_run quiet = {in->run.num_threads, NULL, NULL};
    in->entry = atomic_load(&in->view->entry);
    if (!fit_edges(in))
        return VX_E_NOMEM;
    vx_find_copies(in->view, in->batch, in->n_batch, in->copy_of);
    atomic_store(&in->n_searched, in->n_batch);
    const vx_status st =
        vx_pool_run(in->n_batch, 1, &in->run, done, total, search_piece, in);
    if (st != VX_OK)
        return st; /* nothing of the batch is linked to yet */
    if (atomic_load(&in->n_searched) < in->n_batch) {
        in->n_batch = atomic_load(&in->n_searched);
        vx_pool_run(in->n_batch, 1, &quiet, 0, 0, choose_again_piece, in);
    }
    settle_twins(in);
    scatter(in);
    vx_step_at(VX_STEP_LINK);
    vx_pool_run(N_PARTS, 1, &quiet, 0, 0, apply_piece, in);
    keep_in_links(in, &quiet);
    publish(in, fn, arg);
    return VX_OK;
}

static vx_status prepare(struct insert *in, size_t n_new, vx_slot end, vx_reach *reach,
                         bool proves, vx_error *err)
{
    in->n_contexts = in->run.num_threads;
    in->contexts = vx_zalloc(in->n_contexts, sizeof *in->contexts);
    in->at = vx_alloc(BATCH_ROWS, sizeof *in->at);
    in->count = vx_alloc(BATCH_ROWS, sizeof *in->count);
    in->copy_of = vx_alloc(BATCH_ROWS, sizeof *in->copy_of);
    in->twin_of = vx_alloc(BATCH_ROWS, sizeof *in->twin_of);
    if (in->contexts == NULL || in->at == NULL || in->count == NULL || in->copy_of == NULL ||
        in->twin_of == NULL)
        return vx_fail_nomem(err, "linking rows");
    for (unsigned i = 0; i < in->n_contexts; i++) {
        vx_view *view = NULL;
        in->contexts[i] = vx_ctx_take(in->graph, &view);
        if (in->contexts[i] == NULL ||
            !vx_ctx_fit(in->contexts[i], view, end, in->graph->params.ef_construction))
            return vx_fail_nomem(err, "linking rows");
    }
    if (proves && !vx_reach_init(reach, end))
        return vx_fail_nomem(err, "linking rows");
    if (n_new >= KEEP_DISTS_ROWS) {
        in->kept.row_links = in->view->M0;
        const size_t bytes = (size_t)end * in->kept.row_links * sizeof(float);
        /* Without room for them distances are computed again: slower, no more. */
        if (vx_plane_reserve(&in->kept.plane, bytes, NULL) == VX_OK &&
            vx_plane_commit(&in->kept.plane, bytes, NULL) != VX_OK)
            vx_plane_free(&in->kept.plane);
    }
    return VX_OK;
}

static void finish(struct insert *in)
{
    for (unsigned i = 0; in->contexts != NULL && i < in->n_contexts; i++)
        vx_ctx_release(in->contexts[i]);
    vx_free(in->contexts);
    vx_free(in->at);
    vx_free(in->count);
    vx_free(in->copy_of);
    vx_free(in->twin_of);
    vx_free(in->edges);
    vx_free(in->by_part);
    vx_free(in->lost);
    vx_free(in->suspects);
    vx_free(in->is_cut);
    vx_plane_free(&in->kept.plane);
}

vx_status vx_graph_insert(vx_graph *graph, const vx_slot *slots, size_t n, const vx_run *run,
                          const vx_guide *guide, vx_publish_fn publish_fn, void *publish_arg,
                          size_t *out_linked, vx_error *err)
{
    struct insert in = {.graph = graph, .guide = guide};
    if (run != NULL)
        in.run = *run;
    in.run.num_threads = vx_pool_width(run);
    in.view = atomic_load(&graph->view);
    in.space = vx_graph_space(graph, in.view);
    const uint32_t n_before = atomic_load(&in.view->n_rows);
    const vx_slot end = slots[n - 1] < n_before ? n_before : slots[n - 1] + 1;
    const bool proves = (graph->n_unproven + n) * UNPROVEN_SHARE >= end;
    vx_reach reach = {0};

    size_t rows = BATCH_BYTES / in.view->form.row_bytes;
    rows = rows < BATCH_MIN ? BATCH_MIN : rows > BATCH_ROWS ? BATCH_ROWS : rows;

    size_t n_linked = 0;
    vx_status st = prepare(&in, n, end, &reach, proves, err);
    while (st == VX_OK && n_linked < n && !(n_linked > 0 && is_wanted(&in))) {
        in.batch = slots + n_linked;
        in.n_batch = n - n_linked < rows ? n - n_linked : rows;
        in.n_planned = in.n_batch;
        in.n_before = n_linked;
        in.n_seen = atomic_load(&in.view->n_rows);
        st = run_batch(&in, n_linked, n, publish_fn, publish_arg);
        if (st == VX_OK)
            n_linked += in.n_batch;
        else if (st == VX_E_NOMEM)
            vx_fail_nomem(err, "linking rows");
        else if (st == VX_E_INTERRUPTED)
            vx_fail(err, st, "interrupted");
    }

    const uint32_t n_rows = atomic_load(&in.view->n_rows);
    graph->n_unproven += n_linked;
    const bool is_cut = st == VX_OK && n_linked < n;
    if (reach.parent != NULL && n_linked > 0 && !is_cut &&
        (st == VX_OK || n_rows <= QUICK_ROWS)) {
        const vx_slot entry = (vx_slot)atomic_load(&in.view->entry);
        vx_asker asker = {&in.run, vx_now_ns(), n_linked, n_linked};
        const vx_halt halt = {vx_asker_asked, &asker};
        if (vx_reconnect(&in.space, in.view, n_rows, entry, &reach, in.contexts[0],
                         st == VX_OK ? &halt : NULL))
            graph->n_unproven = 0;
        else
            st = vx_fail(err, VX_E_INTERRUPTED, "interrupted");
    }
    if (st == VX_OK && (st = vx_sketch_stale(in.view, n_rows, &in.run)) != VX_OK)
        vx_fail(err, st, "interrupted");
    if (st == VX_OK && !is_cut && in.view->n_groups > 0 &&
        n_rows >= 2 * graph->n_calibrated)
        (void)vx_graph_calibrate(graph, in.view, in.contexts[0]); /* or at the next add */
    vx_reach_fini(&reach);
    finish(&in);
    *out_linked = n_linked;
    return st;
}
