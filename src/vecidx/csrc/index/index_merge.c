/* index_merge.c - taking in the rows of another index.
 *
 * It is an add (index_add.c) that knows more: the other graph tells of each row who is
 * near it.  Rows come in the order of a search of that graph, breadth first, so that most
 * have neighbours that are in already.  Walks begin at these and need not go far. */
#include "../base/vx_alloc.h"
#include "../base/vx_status.h"
#include "index.h"

struct order {
    const vx_view *view;
    const vx_snapshot *now;
    vx_slot *slots;     /* rows to take, in their order                         */
    uint32_t *place_of; /* of each slot in it, or VX_NO_SLOT                    */
    vx_slot *queue;
    uint8_t *is_seen;
    uint32_t n;
};

/* A row, and those that hang off it. */
static void take_row(struct order *o, vx_slot slot)
{
    if (!vx_view_sees(o->view, o->now, slot) || o->place_of[slot] != VX_NO_SLOT)
        return;
    o->place_of[slot] = o->n;
    o->slots[o->n++] = slot;
}

static void follow_links(struct order *o, vx_slot from)
{
    const uint32_t n = o->now->n;
    uint32_t head = 0, tail = 0;
    o->is_seen[from] = 1;
    o->queue[tail++] = from;
    while (head < tail) {
        const vx_slot slot = o->queue[head++];
        const vx_link *links = vx_view_links(o->view, slot, 0);
        take_row(o, slot);
        for (uint32_t i = 0; i < o->view->M0; i++) {
            const vx_slot to = vx_link_load(&links[i]) & VX_SLOT_BITS;
            if (to >= n || o->is_seen[to])
                continue;
            o->is_seen[to] = 1;
            o->queue[tail++] = to;
        }
    }
}

static vx_status find_order(struct order *o, vx_error *err)
{
    const uint32_t n = o->now->n;
    o->slots = vx_alloc((size_t)n + 1, sizeof *o->slots);
    o->place_of = vx_alloc((size_t)n + 1, sizeof *o->place_of);
    o->queue = vx_alloc((size_t)n + 1, sizeof *o->queue);
    o->is_seen = vx_zalloc((size_t)n + 1, 1);
    if (o->slots == NULL || o->place_of == NULL || o->queue == NULL || o->is_seen == NULL)
        return vx_fail_nomem(err, "merging");
    for (vx_slot slot = 0; slot < n; slot++)
        o->place_of[slot] = VX_NO_SLOT;
    if (o->now->entry != VX_NO_ENTRY && (vx_slot)o->now->entry < n)
        follow_links(o, (vx_slot)o->now->entry);
    for (vx_slot slot = 0; slot < n; slot++) /* twins, and what changed as we looked */
        take_row(o, slot);
    return VX_OK;
}

static void free_order(struct order *o)
{
    vx_free(o->slots);
    vx_free(o->place_of);
    vx_free(o->queue);
    vx_free(o->is_seen);
}

static vx_status check_alike(const vx_index *index, const vx_index *other, vx_error *err)
{
    const vx_params *a = &index->graph.params, *b = &other->graph.params;
    if (index == other)
        return vx_fail(err, VX_E_ARG, "other: an index cannot be merged with itself");
    if (a->dim != b->dim)
        return vx_fail(err, VX_E_ARG, "other: expected an index of dim %u (this index's), got %u",
                       a->dim, b->dim);
    if (a->metric != b->metric)
        return vx_fail(err, VX_E_ARG, "other: expected an index of this index's metric");
    if (a->dtype != b->dtype)
        return vx_fail(err, VX_E_ARG,
                       "other: expected an index of dtype %s (this index's), got %s; to convert, "
                       "add other.get(other.ids())",
                       vx_dtype_name((vx_dtype)a->dtype), vx_dtype_name((vx_dtype)b->dtype));
    return VX_OK;
}

vx_status vx_index_merge(vx_index *index, vx_index *other, vx_on_conflict on_conflict,
                         const vx_run *run, uint64_t *out_added, vx_error *err)
{
    struct order o = {0};
    vx_view *view = NULL;
    *out_added = 0;
    vx_status st = check_alike(index, other, err);
    if (st != VX_OK)
        return st;
    /* As a search of the other: its rows stay what they are while we hold the context. */
    vx_ctx *ctx = NULL;
    st = vx_index_open_view(other, "merging", &ctx, &view, err);
    if (st != VX_OK)
        return st;
    const vx_snapshot now = vx_view_snapshot(view);
    o.view = view;
    o.now = &now;
    st = find_order(&o, err);
    vx_label *labels = st == VX_OK ? vx_alloc((size_t)o.n + 1, sizeof *labels) : NULL;
    if (st == VX_OK && labels == NULL)
        st = vx_fail_nomem(err, "merging");
    if (st == VX_OK) {
        const vx_import from = {view, o.slots, o.place_of, now.n};
        for (uint32_t i = 0; i < o.n; i++)
            labels[i] = view->labels[o.slots[i]];
        st = vx_index_take_in(index, (vx_dtype)index->graph.params.dtype, NULL, &from, o.n, labels,
                              on_conflict, run, NULL, out_added, err);
    }
    vx_free(labels);
    free_order(&o);
    vx_ctx_release(ctx);
    return st;
}
