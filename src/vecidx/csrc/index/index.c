/* index.c - vx_index: parameters, adding, reading single rows, checking.
 *
 * No algorithm lives here: rows are checked, given slots and labels, and handed
 * to the graph.
 *
 * The life of an add: lock out other writers; look at every row and label, so
 * that bad input changes nothing; make room everywhere, so that running out of
 * memory changes nothing; copy rows into their planes; link them, batch by batch.
 * Each batch, as it is published, enters the label map and kills the rows it
 * replaces (take_over below). */
#include "index.h"

#include <math.h>
#include <string.h>

#include "../base/vx_alloc.h"
#include "../base/vx_pool.h"
#include "../base/vx_rng.h"
#include "../base/vx_status.h"

/* ---- life ------------------------------------------------------------------ */

static vx_status check_params(const vx_params *p, vx_error *err)
{
    if (p->dim < 1 || p->dim > VX_MAX_DIM)
        return vx_fail(err, VX_E_ARG, "dim: expected 1 to %u, got %u", VX_MAX_DIM, p->dim);
    if (p->metric > VX_COSINE)
        return vx_fail(err, VX_E_ARG, "metric: unknown number %u", p->metric);
    if (p->quantization != VX_QUANT_NONE && p->quantization != VX_QUANT_SQ8 &&
        p->quantization != VX_QUANT_AUTO)
        return vx_fail(err, VX_E_ARG, "quantization: unknown number %u", p->quantization);
    if (p->M < VX_MIN_M || p->M > VX_MAX_M)
        return vx_fail(err, VX_E_ARG, "M: expected %u to %u, got %u", VX_MIN_M, VX_MAX_M, p->M);
    if (p->ef_construction < 1 || p->ef_construction > VX_MAX_EF_CONSTRUCTION)
        return vx_fail(err, VX_E_ARG, "ef_construction: expected 1 to %u, got %u",
                       VX_MAX_EF_CONSTRUCTION, p->ef_construction);
    if (p->capacity > VX_MAX_ROWS)
        return vx_fail(err, VX_E_ARG, "capacity: expected at most %u rows, got %llu", VX_MAX_ROWS,
                       (unsigned long long)p->capacity);
    return VX_OK;
}

vx_status vx_index_new(const vx_params *params, vx_index **out, vx_error *err)
{
    const vx_status st = check_params(params, err);
    if (st != VX_OK)
        return st;
    vx_index *index = vx_zalloc(1, sizeof *index);
    if (index == NULL)
        return vx_fail_nomem(err, "an index");
    const vx_status made = vx_graph_init(&index->graph, params, err);
    if (made != VX_OK) {
        vx_free(index);
        return made;
    }
    vx_mutex_init(&index->writer);
    vx_labels_init(&index->labels);
    *out = index;
    return vx_ok(err);
}

void vx_index_free(vx_index *index)
{
    if (index == NULL)
        return;
    vx_labels_fini(&index->labels);
    vx_mutex_fini(&index->writer);
    vx_graph_fini(&index->graph);
    vx_map_free(&index->map); /* after the planes that lie over it */
    vx_free(index);
}

void vx_index_params(const vx_index *index, vx_params *out) { *out = index->graph.params; }

/* ---- rows -------------------------------------------------------------------- */

/* Two rows this long are at most FLT_MAX apart, squared, and have a finite inner
 * product: no distance overflows. */
#define MAX_SQUARED_LENGTH 8e37

vx_row_fault vx_row_inspect(const float *row, size_t dim, bool is_cosine, double *out_norm)
{
    /* Eight sums, so that the baseline's vector registers are used. */
    double sums[8] = {0};
    size_t i = 0;
    for (; i + 8 <= dim; i += 8)
        for (size_t j = 0; j < 8; j++)
            sums[j] += (double)row[i + j] * (double)row[i + j];
    for (; i < dim; i++)
        sums[0] += (double)row[i] * (double)row[i];
    const double sum = ((sums[0] + sums[1]) + (sums[2] + sums[3])) +
                       ((sums[4] + sums[5]) + (sums[6] + sums[7]));
    *out_norm = sqrt(sum);
    if (sum <= MAX_SQUARED_LENGTH)
        return is_cosine && sum <= 0 ? VX_ROW_ZERO : VX_ROW_FINE;
    for (i = 0; i < dim; i++)
        if (isnan(row[i]))
            return VX_ROW_NAN;
    for (i = 0; i < dim; i++)
        if (isinf(row[i]))
            return VX_ROW_INF;
    return VX_ROW_LARGE;
}

vx_status vx_row_refuse(vx_row_fault fault, const char *what, int64_t row, vx_error *err)
{
    static const char *const reasons[] = {
        [VX_ROW_NAN] = "holds NaN; remove the row or fill it in",
        [VX_ROW_INF] = "holds an infinite value; remove the row or clip it",
        [VX_ROW_LARGE] = "is too long for float32 distances (squared length above 8e37); "
                         "scale the data down",
        [VX_ROW_ZERO] = "is all zeros, which has no direction under metric \"cosine\"; "
                        "remove the row or use metric \"l2\"",
    };
    const vx_status st =
        vx_fail(err, VX_E_ARG, "%s: row %lld %s", what, (long long)row, reasons[fault]);
    if (err != NULL)
        err->row = row;
    return st;
}

void vx_row_store_vector(float *to, size_t row_floats, const float *from, size_t dim,
                         bool is_cosine, double norm)
{
    if (is_cosine) {
        const double scale = 1.0 / norm;
        for (size_t i = 0; i < dim; i++)
            to[i] = (float)((double)from[i] * scale);
    } else {
        memcpy(to, from, dim * sizeof *to);
    }
    memset(to + dim, 0, (row_floats - dim) * sizeof *to);
}

/* ---- add ---------------------------------------------------------------------- */

struct add {
    vx_index *index;
    vx_view *view;
    const float *rows;
    size_t n, dim;
    const vx_label *labels; /* given or made up: never NULL after choose_labels */
    vx_label *made_labels;
    uint32_t *rows_taken;   /* input rows that become slots; NULL: all of them  */
    size_t n_taken;
    bool is_cosine;
    vx_slot *slots;         /* of the rows taken, rising: free ones, then new ones */
    uint32_t n_reused;
    vx_slot first;          /* of the new ones                                  */
    uint32_t n_upper;       /* before the call                                  */
    double *norms;          /* cosine: of each input row                        */
    _Atomic size_t bad_row; /* the first refused                                */
};

static void inspect_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    struct add *add = arg;
    (void)who;
    for (size_t i = begin; i < end; i++) {
        double norm;
        if (vx_row_inspect(add->rows + i * add->dim, add->dim, add->is_cosine, &norm) !=
            VX_ROW_FINE) {
            vx_lower(&add->bad_row, i);
            return;
        }
        if (add->norms != NULL)
            add->norms[i] = norm;
    }
}

/* Rows a piece of a pass over the input takes: some 256 KiB. */
static size_t pass_grain(size_t dim)
{
    const size_t rows = 65536 / dim;
    return rows > 0 ? rows : 1;
}

/* Looking at rows is not progress: it may be stopped, but reports none done. */
static int tick_before_start(void *arg, uint64_t done, uint64_t total)
{
    const vx_run *run = arg;
    (void)done;
    return run->tick(run->tick_arg, 0, total);
}

/* A pass over n rows of the input, before any row is in. */
static vx_status pass_rows(struct add *add, size_t n, const vx_run *run, vx_pool_fn fn)
{
    vx_run given = run != NULL ? *run : (vx_run){0, NULL, NULL};
    const vx_run before = {given.num_threads, given.tick != NULL ? tick_before_start : NULL, &given};
    return vx_pool_run(n, pass_grain(add->dim), &before, 0, add->n, fn, add);
}

static vx_status inspect_rows(struct add *add, const vx_run *run, vx_error *err)
{
    atomic_init(&add->bad_row, SIZE_MAX);
    if (add->is_cosine) {
        add->norms = vx_alloc(add->n, sizeof *add->norms);
        if (add->norms == NULL)
            return vx_fail_nomem(err, "adding rows");
    }
    const vx_status st = pass_rows(add, add->n, run, inspect_piece);
    if (st != VX_OK)
        return vx_fail(err, st, "interrupted");
    const size_t bad = atomic_load(&add->bad_row);
    if (bad == SIZE_MAX)
        return VX_OK;
    double norm;
    return vx_row_refuse(vx_row_inspect(add->rows + bad * add->dim, add->dim, add->is_cosine, &norm),
                         "vectors", (int64_t)bad, err);
}

vx_status vx_refuse_label(vx_error *err, vx_status status, size_t row, vx_label label,
                          const char *why)
{
    vx_fail(err, status, "ids: row %zu has id %lld, %s", row, (long long)label, why);
    if (err != NULL) {
        err->row = (int64_t)row;
        err->value = label;
    }
    return status;
}

/* Negative, or twice in the call. */
static vx_status inspect_labels(const vx_label *labels, size_t n, vx_error *err)
{
    bool rising = true;
    for (size_t i = 0; i < n; i++) {
        if (labels[i] < 0)
            return vx_refuse_label(err, VX_E_ARG, i, labels[i], "expected 0 or more");
        rising = rising && (i == 0 || labels[i] > labels[i - 1]);
    }
    if (rising)
        return VX_OK;

    uint64_t places = 64;
    while (places < 2 * n)
        places *= 2;
    size_t *table = vx_zalloc(places, sizeof *table); /* row + 1 */
    if (table == NULL)
        return vx_fail_nomem(err, "checking ids");
    vx_status st = VX_OK;
    for (size_t i = 0; i < n && st == VX_OK; i++) {
        uint64_t at = vx_hash64((uint64_t)labels[i]) & (places - 1);
        while (table[at] != 0 && labels[table[at] - 1] != labels[i])
            at = (at + 1) & (places - 1);
        if (table[at] != 0)
            st = vx_refuse_label(err, VX_E_ARG, i, labels[i],
                              "which an earlier row of this call has too; give each id once");
        table[at] = i + 1;
    }
    vx_free(table);
    return st;
}

static vx_status choose_labels(struct add *add, vx_error *err)
{
    if (add->labels != NULL)
        return inspect_labels(add->labels, add->n, err);
    const uint64_t next = add->index->next_label;
    if (next + add->n > (uint64_t)INT64_MAX + 1)
        return vx_fail(err, VX_E_ARG, "ids: no numbers left after %llu; give ids",
                       (unsigned long long)(next - 1));
    add->made_labels = vx_alloc(add->n, sizeof *add->made_labels);
    if (add->made_labels == NULL)
        return vx_fail_nomem(err, "adding rows");
    for (size_t i = 0; i < add->n; i++)
        add->made_labels[i] = (vx_label)(next + i);
    add->labels = add->made_labels;
    return VX_OK;
}

/* What becomes of rows whose label is there already. */
static vx_status settle_conflicts(struct add *add, vx_on_conflict on_conflict, vx_error *err)
{
    add->n_taken = add->n;
    if (add->made_labels != NULL || on_conflict == VX_REPLACE)
        return VX_OK;
    size_t n_taken = 0;
    if (on_conflict == VX_SKIP) {
        add->rows_taken = vx_alloc(add->n, sizeof *add->rows_taken);
        if (add->rows_taken == NULL)
            return vx_fail_nomem(err, "adding rows");
    }
    for (size_t i = 0; i < add->n; i++) {
        const bool is_there =
            vx_labels_find(&add->index->labels, add->view, add->labels[i]) != VX_NO_SLOT;
        if (is_there && on_conflict == VX_ERROR)
            return vx_refuse_label(err, VX_E_LABEL, i, add->labels[i],
                                "which is in the index; use on_conflict=\"replace\" or \"skip\"");
        if (!is_there && on_conflict == VX_SKIP)
            add->rows_taken[n_taken++] = (uint32_t)i;
    }
    if (on_conflict == VX_SKIP)
        add->n_taken = n_taken;
    return VX_OK;
}

static size_t taken_row(const struct add *add, size_t i)
{
    return add->rows_taken != NULL ? add->rows_taken[i] : i;
}

static vx_status choose_slots(struct add *add, vx_error *err)
{
    if (add->n_taken == 0)
        return VX_OK;
    const uint32_t n_reused = vx_graves_ready(&add->index->graph, add->n_taken);
    if ((uint64_t)add->first + add->n_taken - n_reused > VX_MAX_ROWS)
        return vx_fail(err, VX_E_ARG, "rows: an index holds at most %u; use several indexes",
                       VX_MAX_ROWS);
    add->slots = vx_alloc(add->n_taken, sizeof *add->slots);
    if (add->slots == NULL)
        return vx_fail_nomem(err, "adding rows");
    vx_graves_take(&add->index->graph, n_reused, add->slots);
    add->n_reused = n_reused;
    for (size_t i = n_reused; i < add->n_taken; i++)
        add->slots[i] = add->first + (vx_slot)(i - n_reused);
    return VX_OK;
}

/* Rows whose label this call gives to another: until they are replaced, no new row
 * may become their twin (find_twin). */
static vx_status mark_doomed(struct add *add, vx_error *err)
{
    uint64_t n_doomed = 0;
    if (add->made_labels != NULL)
        return VX_OK;
    for (int marking = 0; marking <= 1; marking++) {
        for (size_t i = 0; i < add->n_taken; i++) {
            const vx_slot slot = vx_labels_find(&add->index->labels, add->view,
                                                add->labels[taken_row(add, i)]);
            if (slot == VX_NO_SLOT)
                continue;
            n_doomed++;
            if (marking)
                atomic_store_explicit(&add->view->deaths[slot], VX_DOOMED, memory_order_relaxed);
        }
        if (n_doomed == 0)
            return VX_OK;
        const vx_status st =
            marking ? VX_OK : vx_graves_reserve(&add->index->graph, n_doomed, err);
        if (st != VX_OK)
            return st;
    }
    return VX_OK;
}

/* What an add that ended early had taken and not used. */
static void give_back(struct add *add, size_t n_linked)
{
    for (size_t i = n_linked; add->made_labels == NULL && i < add->n_taken; i++) {
        const vx_slot slot =
            vx_labels_find(&add->index->labels, add->view, add->labels[taken_row(add, i)]);
        if (slot != VX_NO_SLOT && !vx_view_is_alive(add->view, slot))
            atomic_store_explicit(&add->view->deaths[slot], 0, memory_order_relaxed);
    }
    if (n_linked < add->n_reused)
        vx_graves_return(&add->index->graph, add->slots + n_linked, add->n_reused - n_linked);
    const uint32_t n = atomic_load(&add->view->n_rows);
    if (n < add->first + (add->n_taken - add->n_reused))
        add->view->n_upper = n > add->first ? add->view->upper_at[n] : add->n_upper;
}

static vx_status make_room(struct add *add, vx_error *err)
{
    vx_index *index = add->index;
    const uint64_t end = (uint64_t)add->first + add->n_taken - add->n_reused;
    const uint64_t upper =
        add->view->n_upper + (end <= VX_MAX_ROWS
                                  ? vx_graph_upper_needed(&index->graph, add->first, end)
                                  : 0);
    vx_status st = vx_graph_reserve(&index->graph, end, upper, err);
    if (st != VX_OK)
        return st;
    add->view = atomic_load(&index->graph.view);
    bool needs_table = false;
    for (size_t i = 0; i < add->n_taken && !needs_table; i++)
        needs_table = add->labels[taken_row(add, i)] != (vx_label)add->slots[i];
    return vx_labels_reserve(&index->labels, add->view, add->n_taken, needs_table, err);
}

static void copy_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    struct add *add = arg;
    vx_view *view = add->view;
    (void)who;
    for (size_t i = begin; i < end; i++) {
        const size_t row = taken_row(add, i);
        const vx_slot slot = add->slots[i];
        const double norm = add->norms != NULL ? add->norms[row] : 1;
        vx_row_store_vector(view->vectors + (size_t)slot * view->row_floats, view->row_floats,
                            add->rows + row * add->dim, add->dim, add->is_cosine, norm);
        view->labels[slot] = add->labels[row];
        if (view->norms != NULL)
            view->norms[slot] = (float)norm;
    }
}

struct take_over {
    vx_index *index;
    vx_view *view;
    uint64_t seq; /* from which the new rows count */
    uint64_t n_replaced;
};

static void replace(void *arg, vx_slot old_slot, vx_slot new_slot)
{
    struct take_over *to = arg;
    atomic_fetch_add(&to->index->n_dead, 1);
    to->n_replaced++;
    atomic_store_explicit(&to->view->any_dead, true, memory_order_relaxed);
    atomic_store_explicit(&to->view->births[new_slot], to->seq, memory_order_relaxed);
    atomic_store_explicit(&to->view->deaths[old_slot], to->seq, memory_order_relaxed);
    vx_graves_add(&to->index->graph, old_slot);
}

/* vx_publish_fn: rows are about to become visible. */
static void take_over(void *arg, vx_view *view, const vx_slot *slots, size_t n)
{
    vx_index *index = arg;
    struct take_over to = {index, view, atomic_load(&view->seq) + 1, 0};
    vx_labels_enter_slots(&index->labels, view, slots, n, replace, &to);
    for (size_t i = 0; i < n; i++) {
        const vx_slot slot = slots[i];
        if (!vx_view_is_alive(view, slot)) {
            vx_view_bear(view, slot, to.seq);
            atomic_fetch_sub(&index->n_dead, 1);
        }
        if ((uint64_t)view->labels[slot] >= index->next_label)
            index->next_label = (uint64_t)view->labels[slot] + 1;
    }
    atomic_fetch_add(&index->n_live, n - to.n_replaced);
}

static vx_status link_rows(struct add *add, const vx_run *run, size_t *out_linked, vx_error *err)
{
    vx_graph *graph = &add->index->graph;
    const vx_slot end = add->first + (vx_slot)(add->n_taken - add->n_reused);
    const vx_status copied = pass_rows(add, add->n_taken, run, copy_piece);
    if (copied != VX_OK) /* the slots written are not published: nothing changed */
        return vx_fail(err, copied, "interrupted");
    vx_status st = vx_index_quantise(add->index, add->slots, add->n_taken, end, run, err);
    add->view = atomic_load(&graph->view);
    if (st == VX_OK)
        st = mark_doomed(add, err); /* in the view that stays */
    if (st != VX_OK)
        return st;
    vx_graph_place_rows(graph, add->view, add->first, end);
    return vx_graph_insert(graph, add->slots, add->n_taken, run, take_over, add->index, out_linked,
                           err);
}

vx_status vx_index_add(vx_index *index, const float *rows, size_t n, const vx_label *labels,
                       vx_on_conflict on_conflict, const vx_run *run, vx_label *out_labels,
                       uint64_t *out_added, vx_error *err)
{
    struct add add = {.index = index, .rows = rows, .n = n, .labels = labels};
    add.dim = index->graph.params.dim;
    add.is_cosine = index->graph.params.metric == VX_COSINE;
    if (out_added != NULL)
        *out_added = 0;
    if (n == 0)
        return vx_ok(err);
    if (n > VX_MAX_ROWS)
        return vx_fail(err, VX_E_ARG, "vectors: an index holds at most %u rows, got %zu",
                       VX_MAX_ROWS, n);

    vx_status st = vx_index_lock_to_change(index, run, err);
    if (st != VX_OK)
        return st;
    add.view = atomic_load(&index->graph.view);
    add.first = atomic_load(&add.view->n_rows);
    add.n_upper = add.view->n_upper;
    st = inspect_rows(&add, run, err);
    if (st == VX_OK)
        st = choose_labels(&add, err);
    if (st == VX_OK)
        st = settle_conflicts(&add, on_conflict, err);
    if (st == VX_OK)
        st = choose_slots(&add, err);
    if (st == VX_OK)
        st = make_room(&add, err);
    size_t linked = 0;
    const bool is_begun = st == VX_OK;
    if (is_begun && add.n_taken > 0)
        st = link_rows(&add, run, &linked, err);
    if (add.slots != NULL)
        give_back(&add, linked);
    if (st == VX_OK)
        st = vx_index_mend(index, false, run, err);
    if (is_begun) {
        if (out_added != NULL)
            *out_added = linked < add.n_taken ? taken_row(&add, linked) : n;
        if (out_labels != NULL)
            memcpy(out_labels, add.labels, n * sizeof *out_labels);
    }
    vx_mutex_unlock(&index->writer);

    vx_free(add.norms);
    vx_free(add.made_labels);
    vx_free(add.rows_taken);
    vx_free(add.slots);
    return st == VX_OK ? vx_ok(err) : st;
}

/* ---- reading rows --------------------------------------------------------------- */

vx_status vx_index_open_view(vx_index *index, const char *what, vx_ctx **out_ctx,
                             vx_view **out_view, vx_error *err)
{
    *out_ctx = vx_ctx_take(&index->graph, out_view);
    if (*out_ctx == NULL)
        return vx_fail_nomem(err, what);
    if (!(*out_view)->is_closed)
        return VX_OK;
    vx_ctx_release(*out_ctx);
    return vx_index_refuse_closed(err);
}

/* The same, with the label map there and locked, so that the two agree. */
static vx_status open_labels(vx_index *index, const char *what, vx_ctx **out_ctx,
                             vx_view **out_view, vx_error *err)
{
    for (;;) {
        vx_status st = vx_index_open_view(index, what, out_ctx, out_view, err);
        if (st != VX_OK)
            return st;
        st = vx_labels_settle(&index->labels, *out_view, NULL, err);
        if (st != VX_OK) {
            vx_ctx_release(*out_ctx);
            return st;
        }
        vx_rwlock_rdlock(&index->labels.lock);
        if (atomic_load(&index->graph.view) == *out_view)
            return VX_OK;
        vx_rwlock_rdunlock(&index->labels.lock);
        vx_ctx_release(*out_ctx);
    }
}

vx_status vx_index_get(vx_index *index, const vx_label *labels, size_t n, float *out_rows,
                       vx_error *err)
{
    vx_view *view = NULL;
    vx_ctx *ctx = NULL;
    vx_status st = open_labels(index, "reading rows", &ctx, &view, err);
    if (st != VX_OK)
        return st;
    /* Slots under the lock, rows after it: the pinned view keeps them. */
    const size_t dim = index->graph.params.dim;
    vx_slot *slots = vx_alloc(n, sizeof *slots);
    st = slots != NULL ? vx_ok(err) : vx_fail_nomem(err, "reading rows");
    for (size_t i = 0; i < n && st == VX_OK; i++) {
        slots[i] = vx_labels_find(&index->labels, view, labels[i]);
        if (slots[i] == VX_NO_SLOT)
            st = vx_refuse_label(err, VX_E_LABEL, i, labels[i], "which is not in the index");
    }
    vx_rwlock_rdunlock(&index->labels.lock);
    for (size_t i = 0; i < n && st == VX_OK; i++) {
        const float *vector = vx_view_vector(view, slots[i]);
        const float norm = view->norms != NULL ? view->norms[slots[i]] : 1;
        for (size_t j = 0; j < dim; j++)
            out_rows[i * dim + j] = vector[j] * norm;
    }
    vx_free(slots);
    vx_ctx_release(ctx);
    return st;
}

vx_status vx_index_contains(vx_index *index, const vx_label *labels, size_t n, uint8_t *out_found,
                            vx_error *err)
{
    vx_view *view = NULL;
    vx_ctx *ctx = NULL;
    const vx_status st = open_labels(index, "looking up ids", &ctx, &view, err);
    if (st != VX_OK)
        return st;
    for (size_t i = 0; i < n; i++)
        out_found[i] = vx_labels_find(&index->labels, view, labels[i]) != VX_NO_SLOT;
    vx_rwlock_rdunlock(&index->labels.lock);
    vx_ctx_release(ctx);
    return vx_ok(err);
}

uint64_t vx_index_count(const vx_index *index) { return atomic_load(&index->n_live); }

vx_status vx_index_labels(vx_index *index, vx_label *out, uint64_t cap, uint64_t *out_n,
                          vx_error *err)
{
    vx_view *view = NULL;
    vx_ctx *ctx = NULL;
    const vx_status st = vx_index_open_view(index, "reading ids", &ctx, &view, err);
    if (st != VX_OK)
        return st;
    const vx_snapshot now = vx_view_snapshot(view);
    uint64_t n = 0;
    for (vx_slot slot = 0; slot < now.n && n < cap; slot++)
        if (vx_view_sees(view, &now, slot))
            out[n++] = view->labels[slot];
    vx_ctx_release(ctx);
    *out_n = n;
    return vx_ok(err);
}

/* ---- check ---------------------------------------------------------------------- */

static vx_status check_labels(vx_index *index, const vx_view *view, vx_error *err)
{
    const vx_snapshot now = vx_view_snapshot((vx_view *)view);
    uint64_t n_live = 0;
    for (vx_slot slot = 0; slot < now.n; slot++) {
        const vx_label label = view->labels[slot];
        const vx_slot found = vx_labels_find(&index->labels, view, label);
        const bool is_live = vx_view_sees(view, &now, slot);
        if (is_live && (label < 0 || (uint64_t)label >= index->next_label))
            return vx_fail(err, VX_E_STATE, "slot %u: id %lld outside 0 to %llu", slot,
                           (long long)label, (unsigned long long)index->next_label - 1);
        if (is_live != (found == slot))
            return vx_fail(err, VX_E_STATE, "slot %u: %s, but id %lld is mapped to slot %u", slot,
                           is_live ? "live" : "dead", (long long)label, found);
        n_live += is_live;
    }
    if (n_live != vx_index_count(index))
        return vx_fail(err, VX_E_STATE, "%llu live rows, but the count is %llu",
                       (unsigned long long)n_live, (unsigned long long)vx_index_count(index));
    return VX_OK;
}

static vx_status check_vectors(const vx_index *index, const vx_view *view, vx_error *err)
{
    const uint32_t n = atomic_load(&view->n_rows);
    const size_t dim = index->graph.params.dim;
    for (vx_slot slot = 0; slot < n; slot++) {
        double norm;
        const float *vector = vx_view_vector(view, slot);
        if (vx_row_inspect(vector, dim, false, &norm) != VX_ROW_FINE)
            return vx_fail(err, VX_E_STATE, "slot %u: its vector is not finite", slot);
        for (size_t i = dim; i < view->row_floats; i++)
            if (vector[i] != 0)
                return vx_fail(err, VX_E_STATE, "slot %u: its padding is not zero", slot);
        if (view->norms != NULL && (fabs(norm - 1) > 1e-3 || !(view->norms[slot] > 0)))
            return vx_fail(err, VX_E_STATE, "slot %u: its vector has length %g, expected 1", slot,
                           norm);
    }
    return VX_OK;
}

vx_status vx_index_check(vx_index *index, vx_check *out, vx_error *err)
{
    vx_status st = vx_index_lock_writer(index, NULL, err);
    if (st != VX_OK)
        return st;
    vx_view *view = atomic_load(&index->graph.view);
    st = vx_graph_check(&index->graph, &out->n_unreachable, err);
    if (st == VX_OK)
        st = vx_labels_settle(&index->labels, view, NULL, err);
    if (st == VX_OK)
        st = check_labels(index, view, err);
    if (st == VX_OK)
        st = check_vectors(index, view, err);
    vx_mutex_unlock(&index->writer);
    return st == VX_OK ? vx_ok(err) : st;
}
