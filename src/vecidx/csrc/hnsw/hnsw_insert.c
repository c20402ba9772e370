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
 *   the batch, instead of keeping early batches tiny, is ours, and about 3 % of
 *   an insertion.)
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
 *   scatter  (hnsw_back.c) links back -> 64 partitions by target row (on the caller)
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
#include "../base/vx_alloc.h"
#include "../base/vx_pool.h"
#include "../base/vx_status.h"
#include "../base/vx_step.h"
#include "../base/vx_sync.h"
#include "hnsw_algo.h"
#include "hnsw_insert.h"
#include "hnsw_repair.h"
#include "hnsw_sketch.h"

/* 512 rows a batch.  More: fewer barriers, but each row is compared with all others
 * and a batch cannot be interrupted while it is applied.  At high dimensions a
 * batch is held to 2 MiB of vectors, which stay in cache. */
#define BATCH_ROWS VX_COPIES_ROWS
#define BATCH_BYTES (2u << 20)
#define BATCH_MIN 16u

/* Keeping link distances costs page faults at first; below this many new rows
 * they are recomputed. */
#define KEEP_DISTS_ROWS 1024u

/* ... and at least one in so many of all, by byte codes where these are not kept: half the
 * CPU time of a build by float32 of 384 and more dimensions, some 150 us a row, while the
 * code of a row there already takes less than 1 us. */
#define CODES_SHARE 64u

/* When one in so many rows is newer than the last vx_reconnect, which reads the
 * whole graph once, an add ends with it.  That is every bulk add, and every n/128
 * adds of one row, which then cost some 10 % more.  By inner products whole groups
 * of rows lose the links of those longer than they, so four times as often. */
static bool is_due(const vx_graph *graph, const vx_view *view, size_t n_new, vx_slot end)
{
    const bool by_length = vx_spare_links(graph, view) < view->M0;
    return (graph->n_unproven + n_new) * (by_length ? 512u : 128u) >= end;
}

/* An interrupted add of up to this many rows does so too: it takes some 50 ms. */
#define QUICK_ROWS (1u << 18)

/* A walk for building expands the nearest half of its pool.  It reads rows whole: their
 * far ends are the ways between clusters, without which it ends in a wrong one, and what
 * is linked there no search finds (of 500 clusters of made data, 50,000 x 768: recall@10
 * stayed at 0.998 whatever ef, and is 1).  Of WordNet, text and SIFT, 40,000 rows of each,
 * the same CPU time as with five eighths of pool and of rows, and recall equal or higher
 * (text at ef 32 by 0.009).  Three eighths of the pool lose 0.001 on WordNet above 0.99.
 * A second pass over all rows, tried outside of this code, saves 3 to 18 % of a search's
 * distances but searches every row again; its cost here is not known (benchmarks/RESULTS.md). */
static size_t build_share(size_t n) { return (n + 1) / 2; }

/* A walk that begins among a row's neighbours needs only look around there. */
static size_t hinted_ef(size_t ef) { return ef / 2 < 16 ? (ef < 16 ? ef : 16) : ef / 2; }

/* ---- search --------------------------------------------------------------- */

/* The keys of the other rows of its batch that share `layer` with row number `at`, in the
 * order of the batch; those before it are the first *n_earlier. */
static size_t batch_keys(const vx_insert *in, size_t at, unsigned layer, vx_key *keys,
                         size_t *n_earlier)
{
    const vx_view *view = in->view;
    const void *vector = vx_space_row(&in->space, in->batch[at]);
    float dists[64];
    size_t n_keys = 0;
    for (size_t from = 0; from < in->n_batch; from += 64) {
        const vx_slot *rows = in->batch + from;
        const size_t n = in->n_batch - from < 64 ? in->n_batch - from : 64;
        const bool in_order = rows[n - 1] - rows[0] == n - 1;
        if (layer == 0 && in_order)
            in->space.ops->scan(vector, vx_space_row(&in->space, rows[0]), in->space.row_bytes, n,
                                dists);
        else if (layer == 0)
            in->space.ops->many(vector, in->space.rows, in->space.row_bytes, rows, n, dists);
        for (size_t i = 0; i < n; i++) {
            if (from + i == at)
                *n_earlier = n_keys;
            if (from + i == at || view->levels[rows[i]] < layer ||
                in->copy_of[from + i] != VX_NO_SLOT)
                continue;
            if (layer > 0)
                dists[i] = in->space.ops->pair(vector, vx_space_row(&in->space, rows[i]),
                                              in->space.row_bytes);
            keys[n_keys++] = vx_key_of(dists[i], rows[i]);
        }
    }
    return n_keys;
}

static size_t count_nearer(const vx_key *keys, size_t n, vx_key than)
{
    size_t n_nearer = 0;
    for (size_t i = 0; i < n; i++)
        n_nearer += keys[i] < than;
    return n_nearer;
}

/* Compare row number `at` with the rest of its batch on one layer.
 *
 * Where a batch lies far from the graph its rows would choose one another only, and be an
 * island that no later walk finds.  So of rows that the batch would leave no link to the
 * graph, the first M see what insertion one by one would have shown them, the graph and
 * the rows before: ways in, to which those behind them are linked. */
static void offer_batch(const vx_insert *in, size_t at, unsigned layer, vx_ctx *ctx)
{
    const size_t ef = in->graph->params.ef_construction;
    vx_key keys[BATCH_ROWS];
    size_t n_earlier = 0, n = batch_keys(in, at, layer, keys, &n_earlier);

    for (size_t i = 0; i < ctx->n_pool; i++)
        ctx->pool[i] &= ~(vx_key)1; /* all expanded: the flag has served     */
    if (ctx->n_pool > 0 &&
        count_nearer(keys, n_earlier, ctx->pool[0]) < in->view->M &&
        count_nearer(keys, n, ctx->pool[0]) >= vx_view_row_links(in->view, layer))
        n = n_earlier;
    for (size_t i = 0; i < n; i++)
        vx_ctx_offer(ctx, ef, keys[i]);
}

/* The node of the graph this row equals; VX_NO_SLOT if there is none among the
 * nearest found.  None that is dead or about to be replaced: it would leave its
 * twins behind.  (No other row of the batch is found: copies stood aside.) */
static vx_slot find_twin(const vx_insert *in, vx_slot slot, const vx_ctx *ctx)
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
static size_t take_hints(const vx_insert *in, size_t at, vx_slot *hints)
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
static void walk_from(const vx_insert *in, const void *vector, const vx_slot *hints, size_t n,
                      vx_ctx *ctx)
{
    const size_t full = in->graph->params.ef_construction;
    const size_t ef = hinted_ef(full);
    float dists[VX_MAX_ROW_LINKS];
    in->space.ops->many(vector, in->space.rows, in->space.row_bytes, hints, n, dists);
    for (size_t i = 0; i < n; i++)
        vx_ctx_offer(ctx, ef, vx_key_of(dists[i], hints[i]));
    in->space.ops->walk(&in->space, vector, in->view, in->n_seen, 0, ef, build_share(ef),
                        ctx);
    vx_ctx_forget(ctx);
}

/* Row number `at` of the batch. */
static void link_row(vx_insert *in, size_t at, vx_ctx *ctx)
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
    vx_edge *edges = in->edges + in->at[at];

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
            in->space.ops->walk(&in->space, vector, view, in->n_seen, layer, ef,
                                build_share(ef), ctx);
            vx_ctx_forget(ctx);
            nearest = ctx->pool[0];
        }
        offer_batch(in, at, layer, ctx);
        if (layer == 0)
            *twin = find_twin(in, slot, ctx);

        vx_row row;
        vx_row_select(&in->space, ctx->pool, ctx->n_pool, vx_view_row_links(view, layer), &row);
        vx_row_store_kept(view, &in->kept, slot, layer, &row);
        for (uint32_t i = 0; i < row.n_chosen; i++)
            edges[n_edges++] = (vx_edge){row.slots[i], slot, row.dists[i], layer};
    }
    in->count[at] = n_edges;
}

static bool is_wanted(const vx_insert *in)
{
    return in->guide != NULL && in->guide->cut.asked != NULL &&
           in->guide->cut.asked(in->guide->cut.arg);
}

static void search_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    vx_insert *in = arg;
    for (size_t i = begin; i < end; i++) {
        if (i >= BATCH_MIN && is_wanted(in))
            vx_lower(&in->n_searched, i);
        if (i < atomic_load_explicit(&in->n_searched, memory_order_relaxed))
            link_row(in, i, in->contexts[who]);
    }
}

/* ---- a batch cut short -------------------------------------------------------- */

/* The place of a slot among the first n of the batch; n if it is not there. */
static size_t place_in_batch(const vx_insert *in, vx_slot slot, size_t n)
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
static void choose_again(vx_insert *in, size_t at, vx_ctx *ctx)
{
    const vx_view *view = in->view;
    const vx_slot slot = in->batch[at];
    const size_t ef = in->graph->params.ef_construction;
    vx_edge *edges = in->edges + in->at[at];
    uint32_t n_edges = 0;
    if (in->twin_of[at] != VX_NO_SLOT)
        return;
    for (unsigned layer = view->levels[slot] + 1u; layer-- > 0;) {
        vx_row row;
        ctx->n_pool = 0;
        vx_row_load_kept(&in->space, view, &in->kept, slot, layer, &row);
        for (uint32_t i = 0; i < row.n; i++)
            if (place_in_batch(in, row.slots[i], in->n_planned) == in->n_planned)
                vx_ctx_offer(ctx, ef, vx_key_of(row.dists[i], row.slots[i]));
        offer_batch(in, at, layer, ctx);
        vx_row_select(&in->space, ctx->pool, ctx->n_pool, vx_view_row_links(view, layer), &row);
        vx_row_store_kept(view, &in->kept, slot, layer, &row);
        for (uint32_t i = 0; i < row.n_chosen; i++)
            edges[n_edges++] = (vx_edge){row.slots[i], slot, row.dists[i], layer};
    }
    in->count[at] = n_edges;
}

static void choose_again_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    vx_insert *in = arg;
    for (size_t i = begin; i < end; i++)
        choose_again(in, i, in->contexts[who]);
}

/* ---- twins ------------------------------------------------------------------- */

/* The node that a row of the batch equals; VX_NO_SLOT for all others. */
static vx_slot twin_of(const vx_insert *in, vx_slot slot)
{
    const size_t at = place_in_batch(in, slot, in->n_batch);
    return at < in->n_batch ? in->twin_of[at] : VX_NO_SLOT;
}

/* Lead the links of row `slot` that go to twins to the nodes they equal. */
static void lead_to_nodes(const vx_insert *in, vx_slot slot, unsigned layer)
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
static void settle_twins(vx_insert *in)
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
        vx_edge *edges = in->edges + in->at[b];
        uint32_t n = 0;
        for (uint32_t i = 0; i < in->count[b]; i++) {
            vx_edge e = edges[i];
            const vx_slot node = twin_of(in, e.target);
            if (node != VX_NO_SLOT)
                e.target = node;
            if (e.target != slot && view->levels[e.target] >= e.layer)
                edges[n++] = e;
        }
        in->count[b] = n;
    }
}

/* ---- the batch ------------------------------------------------------------------ */

static void publish(vx_insert *in, vx_publish_fn fn, void *arg)
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
static bool fit_edges(vx_insert *in)
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

static vx_status run_batch(vx_insert *in, uint64_t done, uint64_t total, vx_publish_fn fn,
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
    vx_insert_link_back(in, &quiet);
    publish(in, fn, arg);
    return VX_OK;
}

/* Codes to build on, where it is worth it.  Without room for them the vectors serve. */
static vx_status make_codes(vx_insert *in, size_t n_new, vx_slot end)
{
    const vx_view *view = in->view;
    if (view->codec == NULL || view->has_codes || view->form.dtype != VX_F32 ||
        n_new < KEEP_DISTS_ROWS || n_new < end / CODES_SHARE)
        return VX_OK;
    const size_t bytes = (size_t)end * view->codec->row_bytes;
    if (vx_plane_reserve(&in->codes, bytes, NULL) != VX_OK)
        return VX_OK;
    uint8_t *codes = (uint8_t *)in->codes.base;
    vx_status st = vx_plane_commit(&in->codes, bytes, NULL);
    if (st == VX_OK)
        st = vx_view_make_codes(view, codes, end, &in->run);
    if (st == VX_OK)
        in->space = vx_codes_space(view, codes);
    else
        vx_plane_free(&in->codes);
    return st == VX_E_NOMEM ? VX_OK : st;
}

static vx_status prepare(vx_insert *in, size_t n_new, vx_slot end, vx_reach *reach,
                         bool proves, vx_error *err)
{
    const vx_status st = make_codes(in, n_new, end);
    if (st != VX_OK)
        return vx_fail(err, st, "interrupted");
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

static void finish(vx_insert *in)
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
    vx_plane_free(&in->codes);
}

vx_status vx_graph_insert(vx_graph *graph, const vx_slot *slots, size_t n, const vx_run *run,
                          const vx_guide *guide, vx_publish_fn publish_fn, void *publish_arg,
                          size_t *out_linked, vx_error *err)
{
    vx_insert in = {.graph = graph, .guide = guide};
    if (run != NULL)
        in.run = *run;
    in.run.num_threads = vx_pool_width(run);
    in.view = atomic_load(&graph->view);
    in.space = vx_graph_space(graph, in.view);
    const uint32_t n_before = atomic_load(&in.view->n_rows);
    const vx_slot end = slots[n - 1] < n_before ? n_before : slots[n - 1] + 1;
    const bool proves = is_due(graph, in.view, n, end);
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
