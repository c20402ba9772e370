/* index_add.c - adding rows.
 *
 * No algorithm lives here: rows are checked, given slots and labels, and handed
 * to the graph.
 *
 * The life of an add: look at every row and label, so that bad input changes nothing;
 * lock out other writers; make room everywhere, so that running out of memory changes
 * nothing; copy rows into their planes; link them, batch by batch.  Each batch, as it
 * is published, enters the label map and kills the rows it replaces (take_over below).
 *
 * One that another writer waits for cuts its batch short, lets all who wait through, and
 * goes on with the rows left: it is then as several adds.  Each of these turns settles
 * labels, slots and room anew, for no more rows than the turns before have linked, so
 * that the work of cut turns stays in proportion.  Only the labels are chosen once. */
#include "index.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../base/vx_alloc.h"
#include "../base/vx_pool.h"
#include "../base/vx_rng.h"
#include "../base/vx_status.h"

/* Rows of the turn after one that was cut. */
#define TURN_ROWS 512u

/* A turn replaces at most this share of the rows there are, or TURN_ROWS: the dead are
 * taken out between turns, and many at once leave poor links behind.  (12,000 rows in
 * 100 clusters, 11,000 replaced in one call: 411 rows no longer found by their own
 * vector, 0 in sixteenths, up to 45 in a fresh build.) */
#define REPLACE_SHARE 16u

/* ---- rows -------------------------------------------------------------------- */

vx_status vx_row_refuse(vx_row_fault fault, vx_dtype dtype, const char *what, int64_t row,
                        vx_error *err)
{
    static const char *const reasons[] = {
        [VX_ROW_NAN] = "holds NaN; remove the row or fill it in",
        [VX_ROW_INF] = "holds an infinite value; remove the row or clip it",
        [VX_ROW_LARGE] = "is too long for float32 distances (squared length above 8e37); "
                         "scale the data down",
        [VX_ROW_ZERO] = "is all zeros, which has no direction under metric \"cosine\"; "
                        "remove the row or use metric \"l2\"",
        [VX_ROW_BEYOND] = "holds a value beyond",
        [VX_ROW_FRACTION] = "holds a value that is no whole number, as dtype",
    };
    /* What a dtype wants, and the way out. */
    static const char *const wants[] = {
        [VX_F32] = "",
        [VX_F16] = " float16's range (+-65504); scale the data, or use dtype \"bfloat16\"",
        [VX_BF16] = "",
        [VX_BITS] = (" the last of dim bits; the bits left over in a row's last byte have to be 0, "
                     "as numpy.packbits leaves them"), /* in parentheses: clang suspects a comma */
        [VX_I8] = " int8 takes (-128 to 127); scale and round the data, or use dtype \"float16\"",
        [VX_U8] = " uint8 takes (0 to 255); scale and round the data, or use dtype \"float16\"",
    };
    const bool is_dtypes = fault == VX_ROW_BEYOND || fault == VX_ROW_FRACTION;
    const vx_status st = vx_fail(err, VX_E_ARG, "%s: row %lld %s%s", what, (long long)row,
                                 reasons[fault], is_dtypes ? wants[dtype] : "");
    if (err != NULL)
        err->row = row;
    return st;
}

/* ---- add ---------------------------------------------------------------------- */

struct add {
    vx_index *index;
    const vx_run *run;
    const vx_form *form;
    vx_dtype given;
    const char *rows;       /* or NULL: */
    size_t given_bytes;     /* of a row there                                   */
    const vx_import *from;
    size_t n, dim;
    vx_on_conflict on_conflict;
    const vx_label *labels; /* given or made up: never NULL after choose_labels */
    vx_label *made_labels;
    double *norms;          /* where rows are normalised: of each input row     */
    _Atomic size_t bad_row; /* the first refused                                */
    _Atomic bool any_other; /* a row of the turn is none that is held as bytes  */
    uint64_t n_owed;        /* our part of index->n_owed                        */

    /* Of one turn: input rows begin .. end-1. */
    size_t begin, end;
    vx_view *view;
    uint32_t *rows_taken;   /* those that become slots; NULL: all of them       */
    size_t n_taken;
    vx_slot *slots;         /* of the rows taken, rising: free ones, then new ones */
    uint32_t n_reused;
    vx_slot first;          /* of the new ones                                  */
    uint32_t n_upper;       /* before the turn                                  */
};

static void inspect_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    struct add *add = arg;
    (void)who;
    for (size_t i = begin; i < end; i++) {
        double norm;
        if (vx_form_inspect(add->form, add->given, add->rows + i * add->given_bytes, &norm) !=
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

/* Looking at rows and copying them is not progress: it may be stopped, but reports only
 * what was done before. */
static int tick_before(void *arg, uint64_t done, uint64_t total)
{
    const struct add *add = arg;
    (void)done, (void)total;
    if (add->end == 0) /* not yet the writer: a callable told of progress could change the index */
        return add->run->tick(add->run->tick_arg, 1, 1);
    return add->run->tick(add->run->tick_arg, add->begin, add->n);
}

static int tick_in_turn(void *arg, uint64_t done, uint64_t total)
{
    const struct add *add = arg;
    (void)total;
    return add->run->tick(add->run->tick_arg, add->begin + done, add->n);
}

/* A pass over n rows of the input, before any row of the turn is in. */
static vx_status pass_rows(struct add *add, size_t n, vx_pool_fn fn)
{
    const vx_run before = {add->run->num_threads, add->run->tick != NULL ? tick_before : NULL, add};
    return vx_pool_run(n, pass_grain(add->dim), &before, 0, add->n, fn, add);
}

static vx_status inspect_rows(struct add *add, vx_error *err)
{
    atomic_init(&add->bad_row, SIZE_MAX);
    if (add->form->has_norms) {
        add->norms = vx_alloc(add->n, sizeof *add->norms);
        if (add->norms == NULL)
            return vx_fail_nomem(err, "adding rows");
    }
    const vx_status st = pass_rows(add, add->n, inspect_piece);
    if (st != VX_OK)
        return vx_fail(err, st, "interrupted");
    const size_t bad = atomic_load(&add->bad_row);
    if (bad == SIZE_MAX)
        return VX_OK;
    double norm;
    const vx_row_fault fault =
        vx_form_inspect(add->form, add->given, add->rows + bad * add->given_bytes, &norm);
    return vx_row_refuse(fault, add->form->dtype, "vectors", (int64_t)bad, err);
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
        return VX_OK;
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

/* End the turn where it would replace too much. */
static void limit_replacing(struct add *add)
{
    const uint64_t n_live = vx_index_count(add->index);
    const uint64_t share = n_live / REPLACE_SHARE;
    uint64_t left = share > TURN_ROWS ? share : TURN_ROWS;
    if (add->end - add->begin <= left || (add->made_labels != NULL && add->begin == 0))
        return;
    for (size_t i = add->begin; i < add->end; i++)
        if (vx_labels_find(&add->index->labels, add->view, add->labels[i]) != VX_NO_SLOT &&
            left-- == 0)
            add->end = i;
}

/* Is row i, which is to be linked again, in `slot` still?  Other writers may have come between. */
static bool is_as_it_was(const struct add *add, size_t i, vx_slot slot)
{
    const vx_view *view = add->view, *from = add->from->view;
    const vx_slot old = add->from->slots[i];
    return slot != VX_NO_SLOT && (view->norms == NULL || view->norms[slot] == from->norms[old]) &&
           vx_form_same(&view->form, vx_view_vector(view, slot), &from->form,
                        vx_view_vector(from, old));
}

/* What becomes of rows whose label is there already. */
static vx_status settle_conflicts(struct add *add, vx_error *err)
{
    const size_t n = add->end - add->begin;
    const bool is_again = add->from != NULL && add->from->place_of == NULL;
    add->n_taken = n;
    if ((add->on_conflict == VX_REPLACE && !is_again) ||
        (add->made_labels != NULL && add->begin == 0))
        return VX_OK;
    size_t n_taken = 0;
    if (add->on_conflict != VX_ERROR) {
        add->rows_taken = vx_alloc(n, sizeof *add->rows_taken);
        if (add->rows_taken == NULL)
            return vx_fail_nomem(err, "adding rows");
    }
    for (size_t i = add->begin; i < add->end; i++) {
        const vx_slot slot = vx_labels_find(&add->index->labels, add->view, add->labels[i]);
        if (slot != VX_NO_SLOT && add->on_conflict == VX_ERROR)
            return vx_refuse_label(err, VX_E_LABEL, i, add->labels[i],
                                "which is in the index; use on_conflict=\"replace\" or \"skip\"");
        if (is_again ? is_as_it_was(add, i, slot)
                     : slot == VX_NO_SLOT && add->on_conflict == VX_SKIP)
            add->rows_taken[n_taken++] = (uint32_t)i;
    }
    if (add->on_conflict != VX_ERROR)
        add->n_taken = n_taken;
    return VX_OK;
}

static size_t taken_row(const struct add *add, size_t i)
{
    return add->rows_taken != NULL ? add->rows_taken[i] : add->begin + i;
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
    if (add->made_labels != NULL && add->begin == 0)
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

/* What a turn that ended early had taken and not used. */
static void give_back(struct add *add, size_t n_linked)
{
    const bool may_meet = add->made_labels == NULL || add->begin > 0;
    for (size_t i = n_linked; may_meet && i < add->n_taken; i++) {
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

static void look_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    struct add *add = arg;
    const vx_form *form = &add->view->form;
    (void)who;
    for (size_t i = begin; i < end && !atomic_load_explicit(&add->any_other, memory_order_relaxed);
         i++) {
        const size_t row = taken_row(add, i);
        const vx_import *from = add->from;
        const bool holds =
            from != NULL ? vx_form_holds(form, from->view->form.dtype,
                                         vx_view_vector(from->view, from->slots[row]))
                         : vx_form_holds(form, add->given, add->rows + row * add->given_bytes);
        if (!holds)
            atomic_store(&add->any_other, true);
    }
}

/* Where rows are held as bytes and one of these is none, all of them go back to what was
 * given. */
static vx_status hold_rows(struct add *add, vx_error *err)
{
    vx_graph *graph = &add->index->graph;
    if (add->view->codec == NULL || !add->view->codec->holds_rows)
        return VX_OK;
    atomic_init(&add->any_other, false);
    vx_status st = pass_rows(add, add->n_taken, look_piece);
    if (st != VX_OK)
        return vx_fail(err, st, "interrupted");
    if (!atomic_load(&add->any_other))
        return VX_OK;
    const vx_run run = {add->run->num_threads, add->run->tick != NULL ? tick_before : NULL, add};
    st = vx_graph_widen(graph, &run, err);
    add->view = atomic_load(&graph->view);
    return st;
}

static void copy_import(vx_view *view, vx_slot slot, const vx_import *from, size_t row)
{
    const vx_slot other = from->slots[row];
    const char *row_of_other = vx_view_vector(from->view, other);
    if (view->form.dtype == from->view->form.dtype)
        memcpy(vx_view_vector(view, slot), row_of_other, view->form.row_bytes);
    else
        vx_form_convert(&from->view->form, row_of_other, &view->form, vx_view_vector(view, slot));
    if (view->norms != NULL)
        view->norms[slot] = from->view->norms[other];
}

static void copy_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    struct add *add = arg;
    vx_view *view = add->view;
    (void)who;
    for (size_t i = begin; i < end; i++) {
        const size_t row = taken_row(add, i);
        const vx_slot slot = add->slots[i];
        view->labels[slot] = add->labels[row];
        if (add->from != NULL) {
            copy_import(view, slot, add->from, row);
            continue;
        }
        const double norm = add->norms != NULL ? add->norms[row] : 1;
        vx_form_write(&view->form, add->given, add->rows + row * add->given_bytes, norm,
                      vx_view_vector(view, slot));
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

static bool is_wanted(void *arg)
{
    return vx_writer_is_wanted(&((struct add *)arg)->index->writer);
}

/* vx_hint_fn: who is near a row that is taken over, as far as they are in. */
static size_t hint(void *arg, size_t at, vx_slot *out)
{
    const struct add *add = arg;
    const vx_import *from = add->from;
    const vx_link *links =
        vx_view_links(from->view, from->slots[taken_row(add, at)], 0);
    size_t n = 0;
    for (uint32_t i = 0; i < from->view->M0; i++) {
        const vx_slot other = vx_link_load(&links[i]) & VX_SLOT_BITS;
        if (other >= from->n_slots || from->place_of[other] == VX_NO_SLOT)
            continue;
        /* By the label: rows of earlier turns may have moved. */
        const vx_slot slot = vx_labels_find(&add->index->labels, add->view,
                                            add->labels[from->place_of[other]]);
        if (slot != VX_NO_SLOT)
            out[n++] = slot;
    }
    return n;
}

static vx_status link_rows(struct add *add, size_t *out_linked, vx_error *err)
{
    vx_graph *graph = &add->index->graph;
    const vx_run run = {add->run->num_threads, add->run->tick != NULL ? tick_in_turn : NULL, add};
    const vx_guide guide = {.cut = {is_wanted, add},
                            .hint = add->from != NULL ? hint : NULL,
                            .hint_arg = add};
    const vx_slot end = add->first + (vx_slot)(add->n_taken - add->n_reused);
    const vx_status copied = pass_rows(add, add->n_taken, copy_piece);
    if (copied != VX_OK) /* the slots written are not published: nothing changed */
        return vx_fail(err, copied, "interrupted");
    vx_status st = vx_index_quantise(add->index, add->slots, add->n_taken, end, &run, err);
    add->view = atomic_load(&graph->view);
    if (st == VX_OK)
        st = mark_doomed(add, err); /* in the view that stays */
    if (st != VX_OK)
        return st;
    vx_graph_place_rows(graph, add->view, add->first, end);
    return vx_graph_insert(graph, add->slots, add->n_taken, &run, &guide, take_over, add->index,
                           out_linked, err);
}

/* Take back the proof that an earlier turn left to us, or leave it to a later one. */
static void owe(struct add *add, bool is_cut)
{
    vx_graph *graph = &add->index->graph;
    graph->n_unproven += add->n_owed + atomic_exchange(&add->index->n_forsaken, 0);
    atomic_fetch_sub(&add->index->n_owed, add->n_owed);
    add->n_owed = is_cut ? graph->n_unproven : 0;
    graph->n_unproven -= add->n_owed;
    atomic_fetch_add(&add->index->n_owed, add->n_owed);
}

/* As the writer, add rows begin .. end-1, or the first of them when another waits.
 * *out_done input rows are dealt with, after an error too. */
static vx_status take_turn(struct add *add, size_t *out_done, vx_error *err)
{
    vx_index *index = add->index;
    size_t linked = 0;
    *out_done = 0;
    add->view = atomic_load(&index->graph.view);
    add->first = atomic_load(&add->view->n_rows);
    add->n_upper = add->view->n_upper;
    add->n_taken = 0;
    owe(add, false);
    if (add->on_conflict == VX_REPLACE)
        limit_replacing(add);
    vx_status st = settle_conflicts(add, err);
    if (st == VX_OK)
        st = choose_slots(add, err);
    if (st == VX_OK)
        st = hold_rows(add, err);
    if (st == VX_OK)
        st = make_room(add, err);
    const bool is_begun = st == VX_OK;
    if (is_begun && add->n_taken > 0)
        st = link_rows(add, &linked, err);
    if (is_begun)
        *out_done = linked < add->n_taken ? taken_row(add, linked) - add->begin
                                          : add->end - add->begin;
    if (add->slots != NULL)
        give_back(add, linked);
    if (st == VX_OK)
        st = vx_index_mend(index, false, add->run, err);
    if (st == VX_OK)
        owe(add, linked < add->n_taken);
    vx_free(add->rows_taken);
    vx_free(add->slots);
    add->rows_taken = NULL;
    add->slots = NULL;
    return st;
}

/* Let other writers through.  They are not to choose the labels that we shall use.
 * After an error we are the writer no more. */
static vx_status let_through(struct add *add, size_t done, vx_error *err)
{
    vx_index *index = add->index;
    if (!vx_writer_is_wanted(&index->writer))
        return VX_OK;
    if (add->made_labels != NULL &&
        index->next_label < (uint64_t)add->made_labels[add->n - 1] + 1)
        index->next_label = (uint64_t)add->made_labels[add->n - 1] + 1;
    vx_status st = vx_writer_yield(&index->writer, add->run, done, add->n, err);
    if (st == VX_OK && vx_index_is_closed(index)) {
        vx_writer_unlock(&index->writer);
        st = vx_index_refuse_closed(err);
    }
    if (st != VX_OK) {
        atomic_fetch_add(&index->n_forsaken, add->n_owed);
        atomic_fetch_sub(&index->n_owed, add->n_owed);
    }
    return st;
}

/* All turns.  The writer at the start; at the end, if *out_is_writer. */
static vx_status take_turns(struct add *add, size_t *out_done, bool *out_is_writer, vx_error *err)
{
    size_t room = add->n, done = 0;
    vx_status st = VX_OK;
    *out_is_writer = true;
    for (;;) {
        size_t n_done = 0;
        add->begin = done;
        add->end = add->n - done < room ? add->n : done + room;
        st = take_turn(add, &n_done, err);
        room = add->begin + n_done < add->end ? TURN_ROWS : 2 * room;
        *out_done = done += n_done;
        if (st != VX_OK || done == add->n)
            return st;
        if ((st = let_through(add, done, err)) != VX_OK) {
            *out_is_writer = false;
            return st;
        }
    }
}

/* Linking again is not progress. */
static int tick_at_end(void *arg, uint64_t done, uint64_t total)
{
    const vx_run *run = arg;
    (void)done, (void)total;
    return run->tick(run->tick_arg, 1, 1);
}

static int by_slot(const void *a, const void *b)
{
    const vx_slot x = *(const vx_slot *)a, y = *(const vx_slot *)b;
    return (x > y) - (x < y);
}

static vx_status relink_rows(vx_index *index, const vx_view *view, vx_slot *slots, size_t n,
                             const vx_run *run, bool *out_is_writer, vx_error *err)
{
    vx_run quiet = {run->num_threads, run->tick != NULL ? tick_at_end : NULL, (void *)run};
    const uint32_t n_rows = atomic_load(&view->n_rows);
    vx_label *labels = vx_alloc(n, sizeof *labels);
    vx_slot *live = vx_alloc(n, sizeof *live);
    size_t n_live = 0, done = 0;
    vx_status st = labels != NULL && live != NULL ? VX_OK : vx_fail_nomem(err, "linking rows");
    qsort(slots, n, sizeof *slots, by_slot);
    for (size_t i = 0; i < n && st == VX_OK; i++) {
        /* One may have died, and have become another row, which is there twice then, or
         * never have been linked. */
        if ((i > 0 && slots[i] == slots[i - 1]) || slots[i] >= n_rows ||
            vx_labels_find(&index->labels, view, view->labels[slots[i]]) != slots[i])
            continue;
        live[n_live] = slots[i];
        labels[n_live++] = view->labels[slots[i]];
    }
    const vx_import from = {.view = view, .slots = live};
    const vx_form *form = &index->graph.form;
    struct add add = {.index = index, .run = &quiet, .from = &from, .n = n_live, .labels = labels,
                      .form = form, .given = form->dtype, .dim = form->dim,
                      .on_conflict = VX_REPLACE};
    if (st == VX_OK && n_live > 0)
        st = take_turns(&add, &done, out_is_writer, err);
    if (st == VX_OK && n_live > 0) /* few rows: they do so seldom by themselves */
        st = vx_graph_prove(&index->graph, &quiet, err);
    vx_free(labels);
    vx_free(live);
    return st;
}

vx_status vx_index_relink(vx_index *index, const vx_run *run, bool *out_is_writer, vx_error *err)
{
    static const vx_run plain = {0, NULL, NULL};
    vx_slot *slots = NULL;
    vx_view *view = NULL;
    const uint32_t n = vx_index_misfits(index, &slots);
    vx_status st = VX_OK;
    vx_ctx *ctx = n > 0 ? vx_ctx_take(&index->graph, &view) : NULL; /* keeps the rows where they are */
    if (n > 0)
        st = ctx != NULL ? relink_rows(index, view, slots, n, run != NULL ? run : &plain,
                                       out_is_writer, err)
                         : vx_fail_nomem(err, "linking rows");
    if (ctx != NULL)
        vx_ctx_release(ctx);
    vx_free(slots);
    return st;
}

vx_status vx_index_add(vx_index *index, const float *rows, size_t n, const vx_label *labels,
                       vx_on_conflict on_conflict, const vx_run *run, vx_label *out_labels,
                       uint64_t *out_added, vx_error *err)
{
    return vx_index_add_typed(index, VX_F32, rows, n, labels, on_conflict, run, out_labels,
                              out_added, err);
}

vx_status vx_index_add_typed(vx_index *index, vx_dtype given, const void *rows, size_t n,
                             const vx_label *labels, vx_on_conflict on_conflict,
                             const vx_run *run, vx_label *out_labels, uint64_t *out_added,
                             vx_error *err)
{
    return vx_index_take_in(index, given, rows, NULL, n, labels, on_conflict, run, out_labels,
                            out_added, err);
}

vx_status vx_index_take_in(vx_index *index, vx_dtype given, const void *rows,
                           const vx_import *from, size_t n, const vx_label *labels, vx_on_conflict on_conflict, const vx_run *run,
                           vx_label *out_labels, uint64_t *out_added, vx_error *err)
{
    static const vx_run plain = {0, NULL, NULL};
    struct add add = {.index = index, .run = run != NULL ? run : &plain, .rows = rows,
                      .from = from, .n = n, .labels = labels, .on_conflict = on_conflict};
    add.dim = index->graph.params.dim;
    add.form = &index->graph.form;
    add.given = given;
    add.given_bytes = vx_row_bytes(given, index->graph.params.dim);
    if (out_added != NULL)
        *out_added = 0;
    if (given != add.form->dtype && (given != VX_F32 || add.form->is_bits))
        return vx_fail(err, VX_E_ARG, "vectors: expected %s%s", add.form->is_bits ? "" : "float32 or ",
                       vx_dtype_name(add.form->dtype));
    if (n == 0)
        return vx_ok(err);
    if (n > VX_MAX_ROWS)
        return vx_fail(err, VX_E_ARG, "vectors: an index holds at most %u rows, got %zu",
                       VX_MAX_ROWS, n);

    bool is_writer = false;
    size_t done = 0;
    vx_status st = from == NULL ? inspect_rows(&add, err) : VX_OK;
    if (st == VX_OK && labels != NULL && from == NULL)
        st = inspect_labels(labels, n, err);
    if (st == VX_OK)
        st = vx_index_lock_to_change(index, "add", run, err);
    if (st == VX_OK) {
        is_writer = true;
        st = choose_labels(&add, err);
    }
    if (st == VX_OK)
        st = take_turns(&add, &done, &is_writer, err);
    if (st == VX_OK)
        st = vx_index_relink(index, add.run, &is_writer, err);
    if (is_writer)
        vx_writer_unlock(&index->writer);
    if (out_added != NULL)
        *out_added = done;
    if (out_labels != NULL && add.labels != NULL && (st == VX_OK || done > 0))
        memcpy(out_labels, add.labels, n * sizeof *out_labels);
    vx_free(add.norms);
    vx_free(add.made_labels);
    return st == VX_OK ? vx_ok(err) : st;
}
