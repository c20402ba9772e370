/* index_test.c - hooks that only tests use (last section of vecidx.h). */
#include "../base/vx_alloc.h"
#include "../base/vx_status.h"
#include "../hnsw/hnsw_ops.h"
#include "index.h"

/* Two sets of rows, copied into padded storage. */
struct rows {
    char *a, *b;
    size_t a_bytes; /* of a row of a: as b's, or those of a float32 query */
    vx_form form;
    const vx_metric_ops *ops;
};

static void free_rows(struct rows *rows)
{
    vx_free(rows->a);
    vx_free(rows->b);
}

/* Under cosine floats are stored as unit rows. */
static vx_status take_row(const vx_form *form, bool by_row, const void *from, void *to,
                          vx_error *err)
{
    double norm;
    const vx_dtype given = form->is_bits ? VX_BITS : VX_F32;
    const vx_row_fault fault = by_row ? vx_form_inspect(form, given, from, &norm)
                                      : vx_row_inspect(from, form->dim, form->is_cosine, &norm);
    if (fault != VX_ROW_FINE)
        return vx_row_refuse(fault, form->dtype, "rows", 0, err);
    if (by_row)
        vx_form_write(form, given, from, norm, to);
    else
        (void)vx_query_prepare(&(vx_form){.dtype = VX_F32, .dim = form->dim,
                                          .is_cosine = form->is_cosine,
                                          .query_floats = form->query_floats},
                               from, norm, to, NULL);
    return VX_OK;
}

static vx_status take_rows(struct rows *rows, const char *level, vx_metric metric, vx_dtype dtype,
                           bool by_row, const char *a, size_t n_a, const char *b, size_t n_b,
                           size_t dim, vx_error *err)
{
    const int number = vx_level_from_name(level);
    if (number < 0 || !vx_level_runs((vx_level)number) || vx_ops_of((vx_level)number) == NULL)
        return vx_fail(err, VX_E_ARG, "level: this CPU cannot run %s", level);
    const vx_params params = {.dim = (uint32_t)dim, .metric = metric, .dtype = dtype};
    if (!vx_form_is_known(&params))
        return vx_fail(err, VX_E_ARG, "metric: not of this dtype");
    rows->ops = vx_kind_ops((vx_level)number, vx_kind_of(dtype, metric, by_row));
    rows->form = vx_form_of(&params);
    by_row |= rows->form.is_bits;
    const size_t given = vx_query_bytes(&rows->form);
    rows->a_bytes = by_row ? rows->form.row_bytes : rows->form.query_floats * sizeof(float);
    rows->a = vx_alloc(n_a, rows->a_bytes);
    rows->b = vx_alloc(n_b, rows->form.row_bytes);
    if (rows->a == NULL || rows->b == NULL)
        return vx_fail_nomem(err, "test rows");
    vx_status st = VX_OK;
    for (size_t i = 0; i < n_a && st == VX_OK; i++)
        st = take_row(&rows->form, by_row, a + i * given, rows->a + i * rows->a_bytes, err);
    for (size_t i = 0; i < n_b && st == VX_OK; i++)
        st = take_row(&rows->form, true, b + i * given, rows->b + i * rows->form.row_bytes, err);
    return st;
}

vx_status vx_test_pairs(const char *level, vx_metric metric, vx_dtype dtype, const void *a,
                        const void *b, size_t n, size_t dim, float *out, vx_error *err)
{
    struct rows rows = {0};
    const vx_status st = take_rows(&rows, level, metric, dtype, true, a, n, b, n, dim, err);
    const size_t bytes = rows.form.row_bytes;
    for (size_t i = 0; st == VX_OK && i < n; i++)
        out[i] = rows.ops->pair(rows.a + i * bytes, rows.b + i * bytes, bytes);
    free_rows(&rows);
    return st;
}

vx_status vx_test_many(const char *level, vx_metric metric, vx_dtype dtype, int by_row,
                       const void *a, const void *b, size_t n, size_t dim, float *out,
                       vx_error *err)
{
    struct rows rows = {0};
    vx_slot *slots = vx_alloc(n, sizeof *slots);
    vx_status st = slots != NULL
                       ? take_rows(&rows, level, metric, dtype, by_row != 0, a, 1, b, n, dim, err)
                       : vx_fail_nomem(err, "test rows");
    if (st == VX_OK) {
        for (size_t i = 0; i < n; i++)
            slots[i] = (vx_slot)i;
        rows.ops->many(rows.a, rows.b, rows.form.row_bytes, slots, n, out);
    }
    free_rows(&rows);
    vx_free(slots);
    return st;
}

size_t vx_test_links(vx_index *index, vx_label label, vx_label *out, size_t cap, size_t *out_chosen)
{
    vx_view *view = atomic_load(&index->graph.view);
    if (vx_labels_settle(&index->labels, view, NULL, NULL) != VX_OK)
        return 0;
    const vx_slot slot = vx_labels_find(&index->labels, view, label);
    size_t n = 0;
    *out_chosen = 0;
    if (slot == VX_NO_SLOT)
        return 0;
    const vx_link *links = vx_view_links(view, slot, 0);
    for (uint32_t i = 0; i < view->M0 && n < cap; i++) {
        const uint32_t link = atomic_load_explicit(&links[i], memory_order_relaxed);
        if (link >= VX_TWIN)
            break;
        out[n++] = view->labels[link & VX_SLOT_BITS];
        *out_chosen += (link & VX_FILLER) == 0;
    }
    return n;
}
