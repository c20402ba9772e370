/* index_rows.c - rows of the index as queries: their neighbours, by walks that begin where
 * they stand; and, as if they were not in it, what a search for something new would find. */
#include <math.h>
#include <string.h>

#include "../base/vx_alloc.h"
#include "../base/vx_pool.h"
#include "../base/vx_status.h"
#include "index.h"

#define GRAIN (4 * VX_TURNS) /* rows a piece takes, on one view                   */
#define LONG_EF 1024u        /* from here on one by one, so that Ctrl-C is answered */

struct rows {
    vx_index *index;
    const vx_label *labels;
    size_t k, ef;
    bool is_exact, is_unseen;
    vx_label *out_labels;
    float *out_dists;
    _Atomic size_t lost;    /* the first row that is not there                     */
    _Atomic bool no_memory, closed;
};

/* What one piece works with: up to VX_TURNS contexts on one view, and where its rows lie. */
struct piece {
    vx_view *view;
    vx_ctx *ctxs[VX_TURNS];
    unsigned n_ctxs;
    vx_slot slots[GRAIN];
    vx_label *labels; /* found: k + 1 for each of VX_TURNS, or VX_SCAN_QUERIES      */
    float *dists;
    vx_query_block queries; /* of an exact search                                   */
};

static void end_piece(struct piece *p)
{
    for (unsigned i = 0; i < p->n_ctxs; i++)
        vx_ctx_release(p->ctxs[i]);
    vx_free(p->labels);
    vx_free(p->dists);
    vx_query_block_fini(&p->queries);
}

static bool begin_piece(struct rows *r, size_t begin, size_t end, struct piece *p)
{
    vx_graph *graph = &r->index->graph;
    const vx_status st =
        vx_index_open_labels(r->index, "searching", &p->ctxs[0], &p->view, NULL);
    if (st != VX_OK) {
        atomic_store(st == VX_E_STATE ? &r->closed : &r->no_memory, true);
        return false;
    }
    for (size_t i = begin; i < end; i++) {
        p->slots[i - begin] = vx_labels_find(&r->index->labels, p->view, r->labels[i]);
        if (p->slots[i - begin] == VX_NO_SLOT)
            vx_lower(&r->lost, i);
    }
    vx_rwlock_rdunlock(&r->index->labels.lock);
    for (p->n_ctxs = 1; p->n_ctxs < VX_TURNS && p->n_ctxs < end - begin; p->n_ctxs++) {
        vx_view *view = NULL;
        p->ctxs[p->n_ctxs] = vx_ctx_take(graph, &view);
        if (p->ctxs[p->n_ctxs] == NULL)
            break;
        if (view != p->view) {
            vx_ctx_release(p->ctxs[p->n_ctxs]);
            break;
        }
    }
    const size_t n = r->is_exact ? VX_SCAN_QUERIES : VX_TURNS;
    p->labels = vx_alloc(n * (r->k + 1), sizeof *p->labels);
    p->dists = vx_alloc(n * (r->k + 1), sizeof *p->dists);
    if (p->labels != NULL && p->dists != NULL &&
        (!r->is_exact || vx_query_block_init(&p->queries, &p->view->form, n)))
        return true;
    atomic_store(&r->no_memory, true);
    end_piece(p);
    return false;
}

static void give_nothing(const struct rows *r, size_t row)
{
    for (size_t j = 0; j < r->k; j++) {
        r->out_labels[row * r->k + j] = VX_NO_LABEL;
        r->out_dists[row * r->k + j] = INFINITY;
    }
}

/* Hand out the first k of n found without the row itself.  Was it among them? */
static bool give(const struct rows *r, size_t row, const vx_label *labels, const float *dists,
                 size_t n)
{
    size_t to = 0;
    bool found = false;
    for (size_t i = 0; i < n; i++) {
        const bool is_self = labels[i] == r->labels[row];
        found |= is_self;
        if (is_self || to == r->k)
            continue;
        r->out_labels[row * r->k + to] = labels[i];
        r->out_dists[row * r->k + to] = dists[i];
        to++;
    }
    for (; to < r->k; to++) { /* of a walk without the row that fell back on a scan */
        r->out_labels[row * r->k + to] = VX_NO_LABEL;
        r->out_dists[row * r->k + to] = INFINITY;
    }
    return found;
}

/* A row as a query, in the room that is given. */
static vx_query query_of(const vx_view *view, vx_slot slot, float *values, void *row)
{
    vx_form_read(&view->form, vx_view_vector(view, slot), values);
    if (view->form.is_whole)
        memcpy(row, vx_view_vector(view, slot), view->form.row_bytes);
    return (vx_query){values, view->form.is_whole ? row : NULL};
}

static void scan_row(const struct rows *r, const struct piece *p, const vx_snapshot *now,
                     vx_ctx *ctx, size_t row)
{
    const vx_query query = vx_ctx_query(ctx);
    vx_graph_scan(&r->index->graph, p->view, now, &query, 1, r->k + 1, NULL, p->labels, p->dists);
    (void)give(r, row, p->labels, p->dists, r->k + 1);
}

static void scan_rows(const struct rows *r, const struct piece *p, size_t begin, size_t end)
{
    const vx_snapshot now = vx_view_snapshot(p->view);
    const vx_form *form = &p->view->form;
    size_t rows[VX_SCAN_QUERIES], n = 0;
    for (size_t i = begin; i < end; i++) {
        if (p->slots[i - begin] == VX_NO_SLOT)
            continue;
        p->queries.of[n] = query_of(p->view, p->slots[i - begin],
                                    p->queries.values + n * form->query_floats,
                                    p->queries.rows + n * form->row_bytes);
        rows[n++] = i;
    }
    vx_graph_scan(&r->index->graph, p->view, &now, p->queries.of, n, r->k + 1, NULL, p->labels,
                  p->dists);
    for (size_t j = 0; j < n; j++)
        (void)give(r, rows[j], p->labels + j * (r->k + 1), p->dists + j * (r->k + 1), r->k + 1);
}

/* The n rows named by `places` of the piece that begins at row `begin`. */
static void search_rows(struct rows *r, struct piece *p, size_t begin, const size_t *places,
                        unsigned n)
{
    vx_view *view = p->view;
    const vx_graph *graph = &r->index->graph;
    const vx_snapshot now = vx_view_snapshot(view);
    const size_t width = r->is_unseen ? r->k : r->k + 1;
    const uint64_t n_dead = atomic_load(&graph->graves.n_linked);
    const uint64_t n_live = now.n > n_dead ? now.n - n_dead : 0;
    const vx_effort effort =
        vx_graph_effort(view, &now, width, r->ef > width ? r->ef : width, n_live);
    for (unsigned j = 0; j < n; j++) {
        const vx_slot slot = p->slots[places[j]];
        vx_ctx *ctx = p->ctxs[j];
        ctx->has_row = query_of(view, slot, ctx->query, ctx->row).row != NULL;
        if (!vx_ctx_fit(ctx, view, now.n, effort.pool)) {
            atomic_store(&r->no_memory, true);
            return;
        }
        /* A row that equals another is no node, and nothing begins there. */
        const bool is_node = slot < now.n && !vx_view_is_twin(view, slot);
        ctx->from = is_node && !r->is_unseen ? slot : VX_NO_ENTRY;
        ctx->hidden = is_node && r->is_unseen ? slot : VX_NO_SLOT;
    }
    vx_graph_search(graph, view, &now, p->ctxs, n, &effort, NULL, p->labels, p->dists);
    bool fell_back[VX_TURNS];
    for (unsigned j = 0; j < n; j++) {
        p->ctxs[j]->from = VX_NO_ENTRY;
        p->ctxs[j]->hidden = VX_NO_SLOT;
        fell_back[j] = give(r, begin + places[j], p->labels + j * width, p->dists + j * width,
                            width) && r->is_unseen;
    }
    for (unsigned j = 0; j < n; j++)
        if (fell_back[j])
            scan_row(r, p, &now, p->ctxs[j], begin + places[j]);
}

static void rows_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    struct rows *r = arg;
    struct piece p = {0};
    (void)who;
    if (!begin_piece(r, begin, end, &p))
        return;
    size_t places[VX_TURNS];
    unsigned n = 0;
    for (size_t i = begin; i < end; i++) {
        const vx_slot slot = p.slots[i - begin];
        if (slot == VX_NO_SLOT) {
            give_nothing(r, i);
        } else if (!r->is_exact) {
            places[n++] = i - begin;
        }
        if (n == p.n_ctxs || (i + 1 == end && n > 0)) {
            search_rows(r, &p, begin, places, n);
            n = 0;
        }
    }
    if (r->is_exact)
        scan_rows(r, &p, begin, end);
    end_piece(&p);
}

vx_status vx_index_search_rows(vx_index *index, const vx_label *labels, size_t n,
                               const vx_search_params *params, int unseen,
                               vx_on_missing on_missing, const vx_run *run,
                               vx_label *out_labels, float *out_dists, vx_error *err)
{
    if (params->k == 0)
        return vx_fail(err, VX_E_ARG, "k: expected 1 or more, got 0");
    struct rows r = {.index = index, .labels = labels, .k = params->k, .ef = params->ef,
                     .is_exact = params->exact != 0, .is_unseen = unseen != 0,
                     .out_labels = out_labels, .out_dists = out_dists};
    if (r.ef == 0)
        r.ef = VX_DEFAULT_EF;
    atomic_init(&r.lost, SIZE_MAX);
    const unsigned width = n > 1 ? vx_pool_width(run) : 1;
    size_t grain = n / width / 4;
    const size_t most = r.is_exact                             ? VX_SCAN_QUERIES
                        : r.ef > LONG_EF || r.k > LONG_EF ? 1
                                                          : GRAIN;
    grain = grain < 1 ? 1 : grain > most ? most : grain;
    const vx_status st = vx_pool_run(n, grain, run, 0, n, rows_piece, &r);
    if (st != VX_OK)
        return vx_fail(err, st, "interrupted");
    if (atomic_load(&r.closed))
        return vx_index_refuse_closed(err);
    if (atomic_load(&r.no_memory))
        return vx_fail_nomem(err, "searching");
    const size_t lost = atomic_load(&r.lost);
    if (lost != SIZE_MAX && on_missing == VX_MISSING_ERROR)
        return vx_refuse_label(err, VX_E_LABEL, lost, labels[lost], "which is not in the index");
    return vx_ok(err);
}

/* ---- a sample -------------------------------------------------------------------- */

/* May the row stand for one that is not there?  Where a descent could end on it, or others
 * are found through it alone, it may not. */
static bool is_plain(const vx_view *view, const vx_snapshot *now, vx_slot slot)
{
    return view->levels[slot] == 0 && slot != (vx_slot)now->entry &&
           vx_view_sees(view, now, slot) && !vx_view_is_twin(view, slot) &&
           vx_view_next_twin(view, slot) >= view->capacity;
}

vx_status vx_index_sample(vx_index *index, size_t n, vx_label *out, size_t *out_n, vx_error *err)
{
    vx_view *view = NULL;
    vx_ctx *ctx = NULL;
    const vx_status st = vx_index_open_view(index, "choosing rows", &ctx, &view, err);
    if (st != VX_OK)
        return st;
    const vx_snapshot now = vx_view_snapshot(view);
    uint64_t n_plain = 0, seen = 0;
    for (vx_slot slot = 0; slot < now.n; slot++)
        n_plain += is_plain(view, &now, slot);
    size_t taken = 0;
    for (vx_slot slot = 0; slot < now.n && taken < n && seen < n_plain; slot++)
        if (is_plain(view, &now, slot)) {
            /* Evenly: the i-th where i n / n_plain comes to a new whole number. */
            if (n >= n_plain || (seen + 1) * n / n_plain > seen * n / n_plain)
                out[taken++] = view->labels[slot];
            seen++;
        }
    vx_ctx_release(ctx);
    *out_n = taken;
    return vx_ok(err);
}
