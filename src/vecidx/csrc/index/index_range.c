/* index_range.c - every row within a distance.
 *
 * A walk has no notion of "all": so it searches for k rows, and again for more, until a
 * third of what it found lies beyond the distance; what it has found by then is as
 * complete as the k nearest are.  Where that would take a large part of the rows, and
 * when it is to be exact, every row (or every allowed one) is compared instead. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../base/vx_alloc.h"
#include "../base/vx_pool.h"
#include "../base/vx_status.h"
#include "index_filter.h"

typedef struct hit {
    float dist;
    vx_label label;
} hit;

typedef struct hits {
    hit *at;
    size_t n, room;
} hits;

struct vx_range {
    size_t n;
    hits of[];
};

struct ranging {
    vx_index *index;
    const char *queries; /* of vx_query_bytes each                               */
    const vx_search_params *params;
    const vx_where *where;
    const vx_run *run;
    vx_range *out;
    _Atomic bool no_memory, stopped, closed;
};

#define FIRST_K 32u      /* rows a walk looks for at first                        */
#define MOST_K 4096u     /* ... and at most: a pool is an array that is inserted to */
#define SCAN_PART 16u    /* ... but no more than one row in so many               */
#define SCAN_ROWS 64u
#define GRAIN 16u
#define HALT_PIECES 64u

/* ---- results ------------------------------------------------------------------- */

static bool keep(hits *of, float dist, vx_label label)
{
    if (of->n == of->room) {
        const size_t room = of->room < 16 ? 16 : 2 * of->room;
        hit *at = vx_alloc(room, sizeof *at);
        if (at == NULL)
            return false;
        if (of->n > 0)
            memcpy(at, of->at, of->n * sizeof *at);
        vx_free(of->at);
        of->at = at;
        of->room = room;
    }
    of->at[of->n++] = (hit){dist, label};
    return true;
}

static int compare(const void *a, const void *b)
{
    const hit *one = a, *other = b;
    if (one->dist != other->dist)
        return one->dist < other->dist ? -1 : 1;
    return one->label < other->label ? -1 : one->label > other->label;
}

static void sort(hits *of)
{
    if (of->n > 1)
        qsort(of->at, of->n, sizeof *of->at, compare);
}

void vx_range_lims(const vx_range *range, int64_t *out_lims)
{
    out_lims[0] = 0;
    for (size_t i = 0; i < range->n; i++)
        out_lims[i + 1] = out_lims[i] + (int64_t)range->of[i].n;
}

void vx_range_take(const vx_range *range, vx_label *out_labels, float *out_dists)
{
    for (size_t i = 0; i < range->n; i++)
        for (size_t j = 0; j < range->of[i].n; j++) {
            *out_labels++ = range->of[i].at[j].label;
            *out_dists++ = range->of[i].at[j].dist;
        }
}

void vx_range_free(vx_range *range)
{
    for (size_t i = 0; range != NULL && i < range->n; i++)
        vx_free(range->of[i].at);
    vx_free(range);
}

/* ---- comparing with every row ----------------------------------------------------- */

/* For vx_halt: the calling thread ticks, the others listen. */
struct listener {
    struct ranging *r;
    vx_asker asker;
    bool is_caller;
};

static bool is_stopped(void *arg)
{
    struct listener *l = arg;
    if (l->is_caller && vx_asker_asked(&l->asker))
        atomic_store(&l->r->stopped, true);
    if (vx_index_is_closed(l->r->index))
        atomic_store(&l->r->closed, true);
    return atomic_load(&l->r->stopped) || atomic_load(&l->r->closed);
}

/* The next slots that count, at most SCAN_ROWS. */
static uint32_t next_slots(const vx_view *view, const vx_snapshot *now, const vx_allowed *allowed,
                           uint32_t *at, vx_slot *out)
{
    uint32_t n = 0;
    if (allowed != NULL)
        return vx_allowed_next(allowed, at, out, SCAN_ROWS);
    for (; n < SCAN_ROWS && *at < now->n; ++*at)
        if (vx_view_sees(view, now, *at))
            out[n++] = *at;
    return n;
}

/* Query j's hits go to out[j]. */
static bool scan(struct ranging *r, const vx_view *view, const vx_snapshot *now,
                 const vx_allowed *allowed, const vx_query *queries, size_t n_queries,
                 const vx_halt *halt, hits *out)
{
    vx_slot slots[SCAN_ROWS];
    float dists[SCAN_ROWS + 4];
    uint32_t at = 0, n, piece = 0;
    while ((n = next_slots(view, now, allowed, &at, slots)) > 0) {
        if (++piece % HALT_PIECES == 0 && vx_halt_asked(halt))
            return true;
        for (size_t q = 0; q < n_queries; q++) {
            const void *query;
            const vx_space space =
                vx_query_vectors(&r->index->graph, view, &queries[q], &query);
            space.ops->many(query, space.rows, space.row_bytes, slots, n, dists);
            for (uint32_t i = 0; i < n; i++)
                if ((double)dists[i] <= r->where->max_distance &&
                    !keep(&out[q], dists[i], view->labels[slots[i]]))
                    return false;
        }
    }
    for (size_t q = 0; q < n_queries; q++)
        sort(&out[q]);
    return true;
}

static vx_filter *filter_of(const vx_where *where, size_t i)
{
    return where->n_filters == 0 ? NULL : where->filters[where->n_filters == 1 ? 0 : i];
}

/* Queries begin .. end-1, one filter after another, on a view that is pinned. */
static bool scan_view(struct ranging *r, size_t begin, size_t end, vx_view *view,
                      const vx_query *queries, const vx_halt *halt)
{
    bool fine = true;
    for (size_t i = begin, n; i < end && fine; i += n) {
        vx_filter *filter = filter_of(r->where, i);
        for (n = 1; i + n < end && filter_of(r->where, i + n) == filter;)
            n++;
        vx_chosen *chosen =
            filter != NULL ? vx_filter_choose(filter, r->index, view, halt) : NULL;
        if (filter != NULL && chosen == NULL)
            return false;
        const vx_snapshot now = chosen != NULL ? chosen->allowed.now : vx_view_snapshot(view);
        fine = scan(r, view, &now, chosen != NULL ? &chosen->allowed : NULL,
                    queries + (i - begin), n, halt, &r->out->of[i]);
        vx_chosen_release(chosen);
    }
    return fine;
}

static void scan_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    struct ranging *r = arg;
    struct listener listener = {r, {.run = r->run, .last_tick = vx_now_ns()}, who == 0};
    const vx_halt halt = {is_stopped, &listener};
    const vx_form *form = &r->index->graph.form;
    vx_view *view = NULL;
    vx_ctx *ctx = vx_ctx_take(&r->index->graph, &view);
    vx_query_block block = {0};
    if (ctx != NULL && view->is_closed) {
        atomic_store(&r->closed, true);
    } else if (ctx == NULL || !vx_query_block_init(&block, &view->form, end - begin)) {
        atomic_store(&r->no_memory, true);
    } else {
        for (size_t i = begin; i < end; i++) {
            double norm;
            const char *query = r->queries + i * vx_query_bytes(form);
            (void)vx_query_inspect(form, query, &norm);
            vx_query_block_set(&block, &view->form, i - begin, query, norm);
        }
        if (!is_stopped(&listener) && !scan_view(r, begin, end, view, block.of, &halt))
            atomic_store(&r->no_memory, true);
    }
    vx_query_block_fini(&block);
    vx_ctx_release(ctx);
}

/* ---- walking --------------------------------------------------------------------- */

/* The k nearest of query i within the distance: how many, or SIZE_MAX. */
static size_t find(struct ranging *r, size_t i, size_t k, const vx_run *run, vx_label *labels,
                   float *dists)
{
    const size_t ef = r->params->ef != 0 ? r->params->ef : VX_DEFAULT_EF;
    const vx_search_params params = {.k = k, .ef = ef > 2 * k ? ef : 2 * k};
    vx_filter *filter = filter_of(r->where, i);
    const vx_where where = {&filter, filter != NULL, r->where->max_distance};
    const vx_status st =
        vx_index_search_where(r->index, r->queries + i * vx_query_bytes(&r->index->graph.form), 1,
                              &params, &where, run, labels, dists, NULL);
    size_t n = 0;
    if (st != VX_OK) {
        atomic_store(st == VX_E_INTERRUPTED ? &r->stopped
                     : st == VX_E_STATE     ? &r->closed
                                            : &r->no_memory, true);
        return SIZE_MAX;
    }
    while (n < k && labels[n] != VX_NO_LABEL)
        n++;
    return n;
}

/* True: query i is dealt with; false: it is for a scan. */
static bool walk(struct ranging *r, size_t i, const vx_run *run)
{
    const uint64_t n_rows = vx_index_count(r->index);
    for (size_t k = FIRST_K; k <= MOST_K && k * SCAN_PART <= n_rows;) {
        vx_label *labels = vx_alloc(k, sizeof *labels);
        float *dists = vx_alloc(k, sizeof *dists);
        const bool has_room = labels != NULL && dists != NULL;
        const size_t n = has_room ? find(r, i, k, run, labels, dists) : SIZE_MAX;
        const bool is_done = n == SIZE_MAX || n <= k - k / 3;
        if (!has_room)
            atomic_store(&r->no_memory, true);
        for (size_t j = 0; is_done && n != SIZE_MAX && j < n; j++)
            if (!keep(&r->out->of[i], dists[j], labels[j])) {
                atomic_store(&r->no_memory, true);
                break;
            }
        vx_free(labels);
        vx_free(dists);
        if (is_done)
            return true;
        k *= n == k ? 4 : 2;
    }
    return false;
}

static void walk_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    struct ranging *r = arg;
    const vx_run quiet = {.num_threads = 1};
    const vx_run told = {1, r->run != NULL ? r->run->tick : NULL,
                         r->run != NULL ? r->run->tick_arg : NULL};
    for (size_t i = begin; i < end; i++)
        if (!walk(r, i, who == 0 ? &told : &quiet))
            scan_piece(r, i, i + 1, who);
}

vx_status vx_index_range_search(vx_index *index, const void *queries, size_t n,
                                const vx_search_params *params, const vx_where *where,
                                const vx_run *run, vx_range **out, vx_error *err)
{
    const vx_form *form = &index->graph.form;
    const vx_status fine = vx_where_check(where, n, err);
    if (fine != VX_OK)
        return fine;
    for (size_t i = 0; i < n; i++) {
        double norm;
        const vx_row_fault fault =
            vx_query_inspect(form, (const char *)queries + i * vx_query_bytes(form), &norm);
        if (fault != VX_ROW_FINE)
            return vx_row_refuse(fault, form->dtype, "queries", (int64_t)i, err);
    }
    struct ranging r = {.index = index, .queries = queries, .params = params, .where = where,
                        .run = run};
    size_t bytes;
    r.out = vx_mul_fits(n, sizeof *r.out->of, &bytes) &&
                    vx_add_fits(bytes, sizeof *r.out, &bytes)
                ? vx_zalloc(1, bytes)
                : NULL;
    if (r.out == NULL)
        return vx_fail_nomem(err, "searching");
    r.out->n = n;
    size_t grain = n / vx_pool_width(run) / 4;
    grain = grain < 1 ? 1 : grain > GRAIN ? GRAIN : grain;
    vx_status st = vx_pool_run(n, params->exact ? grain : 1, run, 0, n,
                               params->exact ? scan_piece : walk_piece, &r);
    if (st == VX_E_INTERRUPTED || atomic_load(&r.stopped))
        st = vx_fail(err, VX_E_INTERRUPTED, "interrupted");
    else if (atomic_load(&r.closed) || vx_index_is_closed(index))
        st = vx_index_refuse_closed(err);
    else if (atomic_load(&r.no_memory))
        st = vx_fail_nomem(err, "searching");
    if (st != VX_OK) {
        vx_range_free(r.out);
        return st;
    }
    *out = r.out;
    return vx_ok(err);
}
