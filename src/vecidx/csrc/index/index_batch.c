/* index_batch.c - searches over the pool: one query or many, by walk or by scan. */
#include <math.h>
#include <string.h>

#include "../base/vx_alloc.h"
#include "../base/vx_pool.h"
#include "../base/vx_status.h"
#include "../base/vx_sync.h"
#include "index_filter.h"

/* Queries a walk piece takes: a few rounds of all turns.  Where each takes long they
 * go one by one, so that Ctrl-C is answered in time. */
#define WALK_GRAIN (4 * VX_TURNS)
#define LONG_EF 1024u

struct search {
    vx_index *index;
    const char *queries; /* of vx_query_bytes each                               */
    const vx_form *form; /* of vectors as they are given                          */
    size_t k, ef;
    vx_label *out_labels;
    float *out_dists;
    const vx_run *run;
    const vx_where *where;
    _Atomic size_t bad_row; /* the first query refused                          */
    _Atomic bool no_memory, stopped, closed;
    uint64_t last_tick;     /* the calling thread's                             */
};

bool vx_query_prepare(const vx_form *form, const void *given, double norm, float *out, void *row)
{
    if (form->is_bits) {
        vx_form_write(form, VX_BITS, given, norm, row);
        return true;
    }
    const float *query = given;
    const double scale = form->is_cosine ? 1.0 / norm : 1.0;
    for (size_t i = 0; i < form->dim; i++)
        out[i] = form->is_cosine ? (float)((double)query[i] * scale) : query[i];
    memset(out + form->dim, 0, (form->query_floats - form->dim) * sizeof *out);
    return vx_form_whole_row(form, query, row);
}

bool vx_query_block_init(vx_query_block *block, const vx_form *form, size_t n)
{
    block->values = vx_alloc(n * form->query_floats, sizeof *block->values);
    block->rows = vx_alloc(n, form->row_bytes);
    block->of = vx_alloc(n, sizeof *block->of);
    return block->values != NULL && block->rows != NULL && block->of != NULL;
}

/* A query that vx_query_inspect has passed, in the room that is given. */
static vx_query prepare_query(const vx_form *form, const void *query, double norm, float *values,
                              void *row)
{
    const bool has_row = vx_query_prepare(form, query, norm, values, row);
    return (vx_query){values, has_row ? row : NULL};
}

void vx_query_block_set(vx_query_block *block, const vx_form *form, size_t i, const void *query,
                        double norm)
{
    block->of[i] = prepare_query(form, query, norm, block->values + i * form->query_floats,
                                 block->rows + i * form->row_bytes);
}

void vx_query_block_fini(vx_query_block *block)
{
    vx_free(block->values);
    vx_free(block->rows);
    vx_free(block->of);
}

static const void *query_at(const struct search *s, size_t i)
{
    return s->queries + i * vx_query_bytes(s->form);
}

/* Is query number i one that can be asked? */
static bool is_query(struct search *s, size_t i, double *out_norm)
{
    if (vx_query_inspect(s->form, query_at(s, i), out_norm) == VX_ROW_FINE)
        return true;
    vx_lower(&s->bad_row, i);
    return false;
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

/* The filter of query number i, or NULL; and how many queries from there to `end`, at most
 * `most`, have the same. */
static vx_filter *filter_of(const struct search *s, size_t i)
{
    return s->where->n_filters == 0   ? NULL
           : s->where->n_filters == 1 ? s->where->filters[0]
                                      : s->where->filters[i];
}

static unsigned count_alike(const struct search *s, size_t i, size_t end, unsigned most)
{
    unsigned n = 1;
    while (n < most && i + n < end && filter_of(s, i + n) == filter_of(s, i))
        n++;
    return n;
}

/* The rows that the filter of query i allows; false: no memory, or stopped.  NULL: all. */
static bool choose_rows(struct search *s, size_t i, vx_view *view, const vx_halt *halt,
                        vx_chosen **out)
{
    vx_filter *filter = filter_of(s, i);
    *out = filter != NULL ? vx_filter_choose(filter, s->index, view, halt) : NULL;
    if (filter == NULL || *out != NULL)
        return true;
    atomic_store(&s->no_memory, true);
    return false;
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

/* Queries i .. i+n-1, one for each context, all with the same filter. */
static bool walk_queries(struct search *s, size_t i, unsigned n, vx_ctx *ctxs[VX_TURNS],
                         vx_view *view, const vx_chosen *chosen, const vx_halt *halt)
{
    const vx_graph *graph = &s->index->graph;
    const vx_snapshot now = chosen != NULL ? chosen->allowed.now : vx_view_snapshot(view);
    /* Rows that a walk may come upon, free slots among them, and not return. */
    const uint64_t n_dead = atomic_load(&graph->graves.n_linked);
    const uint64_t n_live = now.n > n_dead ? now.n - n_dead : 0;
    const vx_effort effort =
        chosen != NULL ? vx_graph_effort_allowed(view, &chosen->allowed, s->k, s->ef, n_live)
                       : vx_graph_effort(view, &now, s->k, s->ef, n_live);
    vx_query queries[VX_TURNS];
    for (unsigned j = 0; j < n; j++) {
        double norm;
        if (!is_query(s, i + j, &norm))
            return false;
        queries[j] = prepare_query(&view->form, query_at(s, i + j), norm, ctxs[j]->query,
                                   ctxs[j]->row);
        ctxs[j]->has_row = queries[j].row != NULL;
        if (!vx_ctx_fit(ctxs[j], view, now.n, effort.pool)) {
            atomic_store(&s->no_memory, true);
            return false;
        }
    }
    if (chosen != NULL && effort.pool == 0)
        vx_graph_scan_allowed(graph, view, &chosen->allowed, queries, n, s->k, halt,
                              s->out_labels + i * s->k, s->out_dists + i * s->k);
    else
        vx_graph_search(graph, view, &now, ctxs, n, &effort, halt, s->out_labels + i * s->k,
                        s->out_dists + i * s->k);
    return true;
}

static void walk_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    struct search *s = arg;
    struct asker asker = {s, who == 0};
    const vx_halt halt = {is_stopped, &asker};
    vx_view *view = NULL;
    vx_chosen *chosen = NULL;
    vx_ctx *ctxs[VX_TURNS];
    unsigned n_ctxs = take_contexts(s, end - begin, ctxs, &view);
    if (n_ctxs == 0)
        atomic_store(&s->no_memory, true);
    if (n_ctxs > 0 && view->is_closed)
        atomic_store(&s->closed, true);
    for (size_t i = begin; i < end && n_ctxs > 0 && !view->is_closed;) {
        /* Rows once chosen serve all of the piece that they are for, under one epoch. */
        const bool goes_on = chosen != NULL && filter_of(s, i) == filter_of(s, i - 1);
        if (i > begin && !goes_on) { /* a writer may be waiting for us */
            n_ctxs = renew_contexts(s, ctxs, n_ctxs, &view);
            if (view->is_closed) {
                atomic_store(&s->closed, true);
                break;
            }
        }
        if (!goes_on) {
            vx_chosen_release(chosen);
            if (!choose_rows(s, i, view, &halt, &chosen))
                break;
        }
        const unsigned n = count_alike(s, i, end, n_ctxs);
        if (!walk_queries(s, i, n, ctxs, view, chosen, &halt))
            break;
        i += n;
    }
    vx_chosen_release(chosen);
    for (unsigned j = 0; j < n_ctxs; j++)
        vx_ctx_release(ctxs[j]);
}

/* Compare queries i .. i+n-1, which have one filter, with every row that it allows. */
static void scan_queries(struct search *s, size_t i, unsigned n, vx_view *view,
                         const vx_query *queries, const vx_halt *halt)
{
    vx_label *out_labels = s->out_labels + i * s->k;
    float *out_dists = s->out_dists + i * s->k;
    vx_chosen *chosen = NULL;
    if (!choose_rows(s, i, view, halt, &chosen))
        return;
    if (chosen == NULL) {
        const vx_snapshot now = vx_view_snapshot(view);
        vx_graph_scan(&s->index->graph, view, &now, queries, n, s->k, halt, out_labels, out_dists);
        return;
    }
    vx_graph_scan_allowed(&s->index->graph, view, &chosen->allowed, queries, n, s->k, halt,
                          out_labels, out_dists);
    vx_chosen_release(chosen);
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
    vx_query_block block = {0};
    if (ctx == NULL || !vx_query_block_init(&block, &view->form, end - begin)) {
        atomic_store(&s->no_memory, true);
    } else if (!is_stopped(&asker)) {
        size_t i = begin;
        double norm;
        for (; i < end && is_query(s, i, &norm); i++)
            vx_query_block_set(&block, &view->form, i - begin, query_at(s, i), norm);
        for (size_t j = begin; i == end && j < end;) {
            const unsigned n = count_alike(s, j, end, VX_SCAN_QUERIES);
            scan_queries(s, j, n, view, block.of + (j - begin), &halt);
            j += n;
        }
    }
    vx_query_block_fini(&block);
    vx_ctx_release(ctx);
}

/* Leave out what is farther than asked for. */
static void cut_off(const struct search *s, size_t n)
{
    for (size_t i = 0; i < n * s->k; i++)
        if (!((double)s->out_dists[i] <= s->where->max_distance)) {
            s->out_labels[i] = VX_NO_LABEL;
            s->out_dists[i] = INFINITY;
        }
}

vx_status vx_where_check(const vx_where *where, size_t n, vx_error *err)
{
    if (where->n_filters > 1 && where->n_filters != n)
        return vx_fail(err, VX_E_ARG, "filter: expected one, or one for each of %zu queries, got "
                                      "%zu", n, where->n_filters);
    if (where->max_distance != where->max_distance)
        return vx_fail(err, VX_E_ARG, "max_distance: expected a number, got NaN");
    return VX_OK;
}

vx_status vx_index_search(vx_index *index, const void *queries, size_t n,
                          const vx_search_params *params, const vx_run *run, vx_label *out_labels,
                          float *out_dists, vx_error *err)
{
    const vx_where anywhere = {.max_distance = INFINITY};
    return vx_index_search_where(index, queries, n, params, &anywhere, run, out_labels, out_dists,
                                 err);
}

vx_status vx_index_search_where(vx_index *index, const void *queries, size_t n,
                                const vx_search_params *params, const vx_where *where,
                                const vx_run *run, vx_label *out_labels, float *out_dists,
                                vx_error *err)
{
    const vx_status fine = vx_where_check(where, n, err);
    if (fine != VX_OK)
        return fine;
    if (params->k == 0)
        return vx_fail(err, VX_E_ARG, "k: expected 1 or more, got 0");
    struct search s = {.index = index, .queries = queries, .form = &index->graph.form,
                       .k = params->k, .run = run, .where = where,
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
        double norm;
        return vx_row_refuse(vx_query_inspect(s.form, query_at(&s, bad), &norm), s.form->dtype,
                             "queries", (int64_t)bad, err);
    }
    if (atomic_load(&s.no_memory))
        return vx_fail_nomem(err, "searching");
    if (where->max_distance < INFINITY)
        cut_off(&s, n);
    return vx_ok(err);
}
