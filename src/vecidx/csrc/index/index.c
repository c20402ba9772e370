/* index.c - vx_index: parameters, who may write, reading single rows, checking. */
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
    if (p->metric > VX_JACCARD)
        return vx_fail(err, VX_E_ARG, "metric: unknown number %u", p->metric);
    if (p->dtype > VX_BITS)
        return vx_fail(err, VX_E_ARG, "dtype: unknown number %u", p->dtype);
    if (!vx_form_is_known(p))
        return vx_fail(err, VX_E_ARG, "dtype: metrics \"hamming\" and \"jaccard\" are of bits, and "
                                      "the others of numbers");
    if (p->dtype == VX_BITS && p->quantization != VX_QUANT_NONE)
        return vx_fail(err, VX_E_ARG, "quantization: bits are as short as codes get; use none");
    if (p->quantization > VX_QUANT_AUTO)
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

static _Atomic uint64_t n_made; /* indexes, in this process */

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
    index->number = atomic_fetch_add(&n_made, 1);
    vx_writer_init(&index->writer);
    vx_labels_init(&index->labels);
    if (!vx_fork_watch(index)) {
        vx_index_free(index);
        return vx_fail_nomem(err, "an index");
    }
    *out = index;
    return vx_ok(err);
}

void vx_index_free(vx_index *index)
{
    if (index == NULL)
        return;
    vx_fork_forget(index);
    vx_watch_free(index->watch);
    vx_labels_fini(&index->labels);
    vx_writer_fini(&index->writer);
    vx_graph_fini(&index->graph);
    vx_map_free(&index->map); /* after the planes that lie over it */
    for (int i = 0; i < VX_N_NOTES; i++)
        vx_free(index->notes[i].bytes);
    vx_free(index);
}

void vx_index_params(const vx_index *index, vx_params *out) { *out = index->graph.params; }

/* ---- who may write ------------------------------------------------------------ */

vx_status vx_index_lock_writer(vx_index *index, const char *verb, const vx_run *run, vx_error *err)
{
    const vx_status st = vx_writer_lock(&index->writer, verb, run, err);
    if (st != VX_OK || !vx_index_is_closed(index))
        return st;
    vx_writer_unlock(&index->writer);
    return vx_index_refuse_closed(err);
}

vx_status vx_index_lock_to_change(vx_index *index, const char *verb, const vx_run *run,
                                  vx_error *err)
{
    const vx_status st = vx_index_lock_writer(index, verb, run, err);
    if (st != VX_OK || !index->is_read_only)
        return st;
    vx_writer_unlock(&index->writer);
    return vx_fail(err, VX_E_ARG, "the index is mapped from a file, read-only; load it without "
                                  "mmap to change it");
}

vx_status vx_lock_settled(vx_index *index, const char *verb, const vx_run *run, vx_error *err)
{
    vx_status st = vx_index_lock_writer(index, verb, run, err);
    if (st != VX_OK || atomic_load(&index->n_owed) + atomic_load(&index->n_forsaken) == 0)
        return st;
    st = vx_graph_prove(&index->graph, run, err);
    if (st != VX_OK)
        vx_writer_unlock(&index->writer);
    return st;
}

vx_status vx_index_reserve(vx_index *index, uint64_t n_rows, const vx_run *run, vx_error *err)
{
    if (n_rows > VX_MAX_ROWS)
        return vx_fail(err, VX_E_ARG, "n: an index holds at most %u rows, got %llu", VX_MAX_ROWS,
                       (unsigned long long)n_rows);
    vx_status st = vx_index_lock_to_change(index, "reserve", run, err);
    if (st != VX_OK)
        return st;
    const vx_view *view = atomic_load(&index->graph.view);
    const uint32_t n = atomic_load(&view->n_rows);
    if (n_rows > n) {
        const uint64_t n_upper =
            view->n_upper + (uint64_t)vx_view_upper_for(n_rows - n, index->graph.params.M);
        st = vx_graph_reserve(&index->graph, n_rows, n_upper < VX_MAX_ROWS ? n_upper : VX_MAX_ROWS,
                              err);
        view = atomic_load(&index->graph.view);
        if (st == VX_OK)
            st = vx_labels_reserve(&index->labels, view, n_rows - n, false, err);
    }
    vx_writer_unlock(&index->writer);
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

vx_status vx_index_open_labels(vx_index *index, const char *what, vx_ctx **out_ctx,
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

vx_status vx_index_get(vx_index *index, const vx_label *labels, size_t n, void *out_rows,
                       vx_error *err)
{
    vx_view *view = NULL;
    vx_ctx *ctx = NULL;
    vx_status st = vx_index_open_labels(index, "reading rows", &ctx, &view, err);
    if (st != VX_OK)
        return st;
    /* Slots under the lock, rows after it: the pinned view keeps them. */
    const vx_dtype out_dtype = vx_form_out_dtype(&index->graph.form);
    const size_t bytes = vx_row_bytes(out_dtype, index->graph.form.dim);
    vx_slot *slots = vx_alloc(n, sizeof *slots);
    st = slots != NULL ? vx_ok(err) : vx_fail_nomem(err, "reading rows");
    for (size_t i = 0; i < n && st == VX_OK; i++) {
        slots[i] = vx_labels_find(&index->labels, view, labels[i]);
        if (slots[i] == VX_NO_SLOT)
            st = vx_refuse_label(err, VX_E_LABEL, i, labels[i], "which is not in the index");
    }
    vx_rwlock_rdunlock(&index->labels.lock);
    for (size_t i = 0; i < n && st == VX_OK; i++)
        vx_form_get(&view->form, vx_view_vector(view, slots[i]),
                    view->norms != NULL ? view->norms[slots[i]] : 1, out_dtype,
                    (char *)out_rows + i * bytes);
    vx_free(slots);
    vx_ctx_release(ctx);
    return st;
}

vx_status vx_index_contains(vx_index *index, const vx_label *labels, size_t n, uint8_t *out_found,
                            vx_error *err)
{
    vx_view *view = NULL;
    vx_ctx *ctx = NULL;
    const vx_status st = vx_index_open_labels(index, "looking up ids", &ctx, &view, err);
    if (st != VX_OK)
        return st;
    for (size_t i = 0; i < n; i++)
        out_found[i] = vx_labels_find(&index->labels, view, labels[i]) != VX_NO_SLOT;
    vx_rwlock_rdunlock(&index->labels.lock);
    vx_ctx_release(ctx);
    return vx_ok(err);
}

uint64_t vx_index_count(const vx_index *index) { return atomic_load(&index->n_live); }

uint64_t vx_index_dead(const vx_index *index) { return atomic_load(&index->n_dead); }

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
    for (vx_slot slot = 0; slot < now.n; slot++)
        if (vx_view_sees(view, &now, slot)) {
            if (n < cap)
                out[n] = view->labels[slot];
            n++;
        }
    vx_ctx_release(ctx);
    *out_n = n;
    return vx_ok(err);
}

/* ---- check ---------------------------------------------------------------------- */

static vx_status check_labels(vx_index *index, const vx_view *view, const vx_halt *halt,
                              vx_error *err)
{
    const vx_snapshot now = vx_view_snapshot((vx_view *)view);
    uint64_t n_live = 0;
    for (vx_slot slot = 0; slot < now.n; slot++) {
        const vx_label label = view->labels[slot];
        if (slot % 1024 == 0 && vx_halt_asked(halt))
            return vx_fail(err, VX_E_INTERRUPTED, "interrupted");
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

/* How far the length of a unit row may be from 1: half a step of bfloat16 is 2^-9. */
static double most_off(vx_dtype dtype) { return dtype == VX_BF16 ? 5e-3 : 1e-3; }

static vx_status check_vectors(const vx_view *view, const vx_halt *halt, vx_error *err)
{
    const uint32_t n = atomic_load(&view->n_rows);
    const vx_form *form = &view->form;
    for (vx_slot slot = 0; slot < n; slot++) {
        double norm;
        const void *vector = vx_view_vector(view, slot);
        if (slot % 256 == 0 && vx_halt_asked(halt))
            return vx_fail(err, VX_E_INTERRUPTED, "interrupted");
        if (vx_form_inspect(form, form->dtype, vector, &norm) != VX_ROW_FINE)
            return vx_fail(err, VX_E_STATE, "slot %u: its vector is not finite, or is zero", slot);
        if (vx_form_check(form, vector) != VX_ROW_FINE)
            return vx_fail(err, VX_E_STATE, "slot %u: its padding is not zero", slot);
        if (view->norms != NULL &&
            (fabs(norm - 1) > most_off(form->dtype) || !(view->norms[slot] > 0)))
            return vx_fail(err, VX_E_STATE, "slot %u: its vector has length %g, expected 1", slot,
                           norm);
    }
    return VX_OK;
}

vx_status vx_index_check(vx_index *index, const vx_run *run, vx_check *out, vx_error *err)
{
    vx_status st = vx_lock_settled(index, "check", run, err);
    if (st != VX_OK)
        return st;
    vx_view *view = atomic_load(&index->graph.view);
    vx_asker asker = {.run = run, .last_tick = vx_now_ns()};
    const vx_halt halt = {vx_asker_asked, &asker};
    st = vx_graph_check(&index->graph, &halt, &out->n_unreachable, err);
    if (st == VX_OK)
        st = vx_labels_settle(&index->labels, view, NULL, err);
    if (st == VX_OK)
        st = check_labels(index, view, &halt, err);
    if (st == VX_OK)
        st = check_vectors(view, &halt, err);
    vx_writer_unlock(&index->writer);
    return st == VX_OK ? vx_ok(err) : st;
}
