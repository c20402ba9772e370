/* index_batch.c - searches over the pool: one query or many, by walk or by scan. */
#include <string.h>

#include "../base/vx_alloc.h"
#include "../base/vx_pool.h"
#include "../base/vx_status.h"
#include "../base/vx_sync.h"
#include "index.h"

/* Queries a walk piece takes: a few rounds of all turns.  Where each takes long they
 * go one by one, so that Ctrl-C is answered in time. */
#define WALK_GRAIN (4 * VX_TURNS)
#define LONG_EF 1024u

struct search {
    vx_index *index;
    const float *queries;
    size_t k, ef;
    vx_label *out_labels;
    float *out_dists;
    const vx_run *run;
    _Atomic size_t bad_row; /* the first query refused                          */
    _Atomic bool no_memory, stopped, closed;
    uint64_t last_tick;     /* the calling thread's                             */
};

/* Query number i, padded, into `to`; false if it is refused. */
static bool take_query(struct search *s, size_t i, size_t row_floats, float *to)
{
    const vx_params *p = &s->index->graph.params;
    const float *query = s->queries + i * p->dim;
    const bool is_cosine = p->metric == VX_COSINE;
    double norm;
    if (vx_row_inspect(query, p->dim, is_cosine, &norm) != VX_ROW_FINE) {
        vx_lower(&s->bad_row, i);
        return false;
    }
    vx_row_store_vector(to, row_floats, query, p->dim, is_cosine, norm);
    return true;
}

/* A scan asks this often.  The calling thread ticks; the others listen. */
struct asker {
    struct search *search;
    bool is_caller;
};

static bool is_stopped(void *arg)
{
    const struct asker *asker = arg;
    struct search *s = asker->search;
    if (asker->is_caller && s->run != NULL && s->run->tick != NULL) {
        if (vx_tick_is_due(s->last_tick)) {
            if (s->run->tick(s->run->tick_arg, 0, 0) != 0)
                atomic_store(&s->stopped, true);
            s->last_tick = vx_now_ns();
        }
    }
    if (vx_index_is_closed(s->index))
        atomic_store(&s->closed, true);
    return atomic_load_explicit(&s->stopped, memory_order_relaxed) ||
           atomic_load_explicit(&s->closed, memory_order_relaxed);
}

/* A context for each of the queries that are to take turns, all on one view: how many
 * there are.  The first decides; those that have another view are given back. */
static unsigned take_contexts(struct search *s, size_t n_queries, vx_ctx *ctxs[VX_TURNS],
                              vx_view **out_view)
{
    unsigned n = 0;
    const size_t most = s->ef <= LONG_EF ? VX_TURNS : 1;
    while (n < most && n < n_queries) {
        vx_view *view = NULL;
        ctxs[n] = vx_ctx_take(&s->index->graph, n == 0 ? out_view : &view);
        if (ctxs[n] == NULL)
            break;
        if (n > 0 && view != *out_view) {
            vx_ctx_release(ctxs[n]);
            break;
        }
        n++;
    }
    return n;
}

static unsigned renew_contexts(struct search *s, vx_ctx *ctxs[VX_TURNS], unsigned n,
                               vx_view **out_view)
{
    vx_ctx_renew(&s->index->graph, ctxs[0], out_view);
    unsigned n_kept = 1;
    for (unsigned i = 1; i < n; i++) {
        vx_view *view = NULL;
        vx_ctx_renew(&s->index->graph, ctxs[i], &view);
        if (view == *out_view)
            ctxs[n_kept++] = ctxs[i];
        else
            vx_ctx_release(ctxs[i]);
    }
    return n_kept;
}

static void walk_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    struct search *s = arg;
    struct asker asker = {s, who == 0};
    const vx_halt halt = {is_stopped, &asker};
    vx_view *view = NULL;
    vx_ctx *ctxs[VX_TURNS];
    unsigned n_ctxs = take_contexts(s, end - begin, ctxs, &view);
    if (n_ctxs == 0)
        atomic_store(&s->no_memory, true);
    if (n_ctxs > 0 && view->is_closed)
        atomic_store(&s->closed, true);
    for (size_t i = begin; i < end && n_ctxs > 0 && !view->is_closed;) {
        if (i > begin) { /* a writer may be waiting for us */
            n_ctxs = renew_contexts(s, ctxs, n_ctxs, &view);
            if (view->is_closed) {
                atomic_store(&s->closed, true);
                break;
            }
        }
        const unsigned n = end - i < n_ctxs ? (unsigned)(end - i) : n_ctxs;
        const vx_snapshot now = vx_view_snapshot(view);
        /* Rows that a walk may come upon, free slots among them, and not return. */
        const uint64_t n_dead = atomic_load(&s->index->graph.graves.n_linked);
        const uint64_t n_live = now.n > n_dead ? now.n - n_dead : 0;
        const vx_effort effort = vx_graph_effort(view, &now, s->k, s->ef, n_live);
        bool fine = true;
        for (unsigned j = 0; j < n && fine; j++) {
            fine = take_query(s, i + j, view->row_floats, ctxs[j]->query);
            if (fine && !vx_ctx_fit(ctxs[j], view, now.n, effort.pool)) {
                atomic_store(&s->no_memory, true);
                fine = false;
            }
        }
        if (!fine)
            break;
        vx_graph_search(&s->index->graph, view, &now, ctxs, n, &effort, &halt,
                        s->out_labels + i * s->k, s->out_dists + i * s->k);
        i += n;
    }
    for (unsigned j = 0; j < n_ctxs; j++)
        vx_ctx_release(ctxs[j]);
}

static void scan_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    struct search *s = arg;
    struct asker asker = {s, who == 0};
    const vx_halt halt = {is_stopped, &asker};
    vx_view *view = NULL;
    vx_ctx *ctx = vx_ctx_take(&s->index->graph, &view);
    if (ctx != NULL && view->is_closed) {
        atomic_store(&s->closed, true);
        vx_ctx_release(ctx);
        return;
    }
    float *queries =
        ctx != NULL ? vx_alloc((end - begin) * view->row_floats, sizeof *queries) : NULL;
    if (queries == NULL) {
        atomic_store(&s->no_memory, true);
    } else if (!is_stopped(&asker)) {
        size_t i = begin;
        while (i < end && take_query(s, i, view->row_floats, queries + (i - begin) * view->row_floats))
            i++;
        const vx_snapshot now = vx_view_snapshot(view);
        if (i == end)
            vx_graph_scan(&s->index->graph, view, &now, queries, end - begin, s->k, &halt,
                          s->out_labels + begin * s->k, s->out_dists + begin * s->k);
    }
    vx_free(queries);
    vx_ctx_release(ctx);
}

vx_status vx_index_search(vx_index *index, const float *queries, size_t n,
                          const vx_search_params *params, const vx_run *run, vx_label *out_labels,
                          float *out_dists, vx_error *err)
{
    if (params->k == 0)
        return vx_fail(err, VX_E_ARG, "k: expected 1 or more, got 0");
    struct search s = {.index = index, .queries = queries, .k = params->k, .run = run,
                       .out_labels = out_labels, .out_dists = out_dists};
    s.ef = params->ef != 0 ? params->ef : VX_DEFAULT_EF;
    if (s.ef < s.k)
        s.ef = s.k;
    atomic_init(&s.bad_row, SIZE_MAX);
    s.last_tick = vx_now_ns();

    /* Small batches are spread over the threads too. */
    const unsigned width = n > 1 ? vx_pool_width(run) : 1;
    size_t grain = n / width / 4;
    const size_t most = params->exact ? VX_SCAN_QUERIES : s.ef <= LONG_EF ? WALK_GRAIN : 1;
    grain = grain < 1 ? 1 : grain > most ? most : grain;
    vx_status st;
    if (n == 1 && !params->exact) {
        walk_piece(&s, 0, 1, 0);
        st = VX_OK;
    } else {
        st = vx_pool_run(n, grain, run, 0, n, params->exact ? scan_piece : walk_piece, &s);
    }
    if (st == VX_E_INTERRUPTED || atomic_load(&s.stopped))
        return vx_fail(err, VX_E_INTERRUPTED, "interrupted");
    if (atomic_load(&s.closed))
        return vx_index_refuse_closed(err);
    const size_t bad = atomic_load(&s.bad_row);
    if (bad != SIZE_MAX) {
        const vx_params *p = &index->graph.params;
        double norm;
        return vx_row_refuse(
            vx_row_inspect(queries + bad * p->dim, p->dim, p->metric == VX_COSINE, &norm),
            "queries", (int64_t)bad, err);
    }
    if (atomic_load(&s.no_memory))
        return vx_fail_nomem(err, "searching");
    return vx_ok(err);
}
