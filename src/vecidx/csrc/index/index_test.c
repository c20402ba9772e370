/* index_test.c - hooks that only tests use (last section of vecidx.h). */
#include "../base/vx_alloc.h"
#include "../base/vx_status.h"
#include "../hnsw/hnsw_ops.h"
#include "index.h"

/* Two sets of rows, copied into padded storage. */
struct rows {
    float *a, *b;
    size_t row_floats;
    const vx_metric_ops *ops;
};

static void free_rows(struct rows *rows)
{
    vx_free(rows->a);
    vx_free(rows->b);
}

static vx_status take_rows(struct rows *rows, const char *level, vx_metric metric, const float *a,
                           size_t n_a, const float *b, size_t n_b, size_t dim, vx_error *err)
{
    const int number = vx_level_from_name(level);
    if (number < 0 || !vx_level_runs((vx_level)number) || vx_ops_of((vx_level)number) == NULL)
        return vx_fail(err, VX_E_ARG, "level: this CPU cannot run %s", level);
    rows->ops = &vx_ops_of((vx_level)number)->kind[metric == VX_L2SQ ? VX_KIND_F32_L2SQ : VX_KIND_F32_IP];
    rows->row_floats = vx_round_up(dim, 16);
    rows->a = vx_alloc(n_a * rows->row_floats, sizeof *rows->a);
    rows->b = vx_alloc(n_b * rows->row_floats, sizeof *rows->b);
    if (rows->a == NULL || rows->b == NULL)
        return vx_fail_nomem(err, "test rows");
    for (size_t i = 0; i < n_a; i++)
        vx_row_store_vector(rows->a + i * rows->row_floats, rows->row_floats, a + i * dim, dim,
                            false, 1);
    for (size_t i = 0; i < n_b; i++)
        vx_row_store_vector(rows->b + i * rows->row_floats, rows->row_floats, b + i * dim, dim,
                            false, 1);
    return VX_OK;
}

vx_status vx_test_pairs(const char *level, vx_metric metric, const float *a, const float *b,
                        size_t n, size_t dim, float *out, vx_error *err)
{
    struct rows rows = {0};
    const vx_status st = take_rows(&rows, level, metric, a, n, b, n, dim, err);
    for (size_t i = 0; st == VX_OK && i < n; i++)
        out[i] = rows.ops->pair(rows.a + i * rows.row_floats, rows.b + i * rows.row_floats,
                                rows.row_floats * sizeof(float));
    free_rows(&rows);
    return st;
}

vx_status vx_test_many(const char *level, vx_metric metric, const float *a, const float *b,
                       size_t n, size_t dim, float *out, vx_error *err)
{
    struct rows rows = {0};
    vx_slot *slots = vx_alloc(n, sizeof *slots);
    vx_status st = slots != NULL ? take_rows(&rows, level, metric, a, 1, b, n, dim, err)
                                 : vx_fail_nomem(err, "test rows");
    if (st == VX_OK) {
        for (size_t i = 0; i < n; i++)
            slots[i] = (vx_slot)i;
        rows.ops->many(rows.a, rows.b, rows.row_floats * sizeof(float), slots, n, out);
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
