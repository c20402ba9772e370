/* hnsw_compact.c - a copy of the graph without free slots.
 *
 * The rows keep their order: renumbering them in the order of a walk brought nothing
 * where planes lie on huge pages.  So a live row's new slot is the number of live
 * rows before it, and a link is renamed by looking that up. */
#include <string.h>

#include "../base/vx_alloc.h"
#include "../base/vx_pool.h"
#include "../base/vx_status.h"
#include "../base/vx_step.h"
#include "hnsw_algo.h"
#include "hnsw_select.h"
#include "hnsw_sketch.h"

#define COPY_GRAIN 1024u

struct compact {
    const vx_view *from;
    vx_view *to;
    vx_slot *slot_of; /* of each old slot the new one, or VX_NO_SLOT            */
    vx_slot *old_of;  /* and back                                               */
};

/* Sketches name no slots: they stay what they were. */
static void copy_codes(vx_view *to, vx_slot slot, const vx_view *from, vx_slot old)
{
    const size_t bytes = to->codec->row_bytes;
    if (to->has_codes)
        memcpy(to->codes + slot * bytes, from->codes + old * bytes, bytes);
    if (to->codec->has_ranks)
        memcpy(to->ranks + (size_t)slot * VX_RANK_BYTES, from->ranks + (size_t)old * VX_RANK_BYTES,
               VX_RANK_BYTES);
    if (to->n_groups == 0)
        return;
    memcpy(vx_view_group(to, slot, 0), vx_view_group(from, old, 0),
           to->n_groups * to->group_bytes);
    if (atomic_load_explicit(&from->stale[old >> 6], memory_order_relaxed) >> (old & 63) & 1)
        vx_sketch_drop(to, slot);
}

/* Twins come after nodes in no particular order, so all slots are known first. */
static void copy_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    const struct compact *c = arg;
    const vx_view *from = c->from;
    vx_view *to = c->to;
    (void)who;
    vx_step_at(VX_STEP_COPY);
    for (size_t i = begin; i < end; i++) {
        const vx_slot slot = (vx_slot)i, old = c->old_of[i];
        memcpy(vx_view_vector(to, slot), vx_view_vector(from, old), to->form.row_bytes);
        to->labels[slot] = from->labels[old];
        if (to->codec != NULL)
            copy_codes(to, slot, from, old);
        if (to->norms != NULL)
            to->norms[slot] = from->norms[old];
        for (unsigned layer = 0; layer <= to->levels[slot]; layer++) {
            /* What lies behind the links is stored too (docs/FORMAT.md). */
            memset(vx_view_links(to, slot, layer), 0xFF,
                   layer == 0 ? to->group_at : to->upper_bytes);
            vx_row_copy(to, slot, from, old, layer, c->slot_of);
        }
        const vx_slot twin = vx_view_next_twin(from, old);
        if (twin != VX_NO_SLOT)
            atomic_store_explicit(&to->twins[slot], c->slot_of[twin] + 1, memory_order_relaxed);
    }
}

/* Number the live rows; *out_upper upper link rows belong to them. */
static uint32_t number_rows(struct compact *c, uint32_t n, uint64_t *out_upper)
{
    uint32_t n_live = 0;
    *out_upper = 0;
    for (vx_slot old = 0; old < n; old++) {
        c->slot_of[old] = VX_NO_SLOT;
        if (!vx_view_is_alive(c->from, old))
            continue;
        *out_upper += c->from->levels[old];
        c->old_of[n_live] = old;
        c->slot_of[old] = n_live++;
    }
    return n_live;
}

static void place_rows(struct compact *c, uint32_t n_live)
{
    vx_view *to = c->to;
    for (vx_slot slot = 0; slot < n_live; slot++) {
        to->levels[slot] = c->from->levels[c->old_of[slot]];
        to->upper_at[slot] = to->n_upper;
        to->n_upper += to->levels[slot];
    }
    const uint64_t entry = atomic_load(&c->from->entry);
    atomic_init(&to->any_twins, atomic_load(&c->from->any_twins));
    atomic_init(&to->n_rows, n_live);
    atomic_init(&to->entry, entry == VX_NO_ENTRY
                                ? VX_NO_ENTRY
                                : (entry >> 32 << 32) | c->slot_of[(vx_slot)entry]);
    atomic_init(&to->seq, atomic_load(&c->from->seq));
    atomic_init(&to->unlinked, 0);
    atomic_init(&to->local_dim, atomic_load(&c->from->local_dim));
}

vx_status vx_graph_compact(const vx_graph *graph, const vx_run *run, vx_view **out, vx_error *err)
{
    struct compact c = {.from = atomic_load(&graph->view)};
    const uint32_t n = atomic_load(&c.from->n_rows);
    uint64_t n_upper = 0;
    uint32_t n_live = 0;
    vx_status st = VX_OK;
    c.slot_of = vx_alloc((size_t)n + 1, sizeof *c.slot_of);
    c.old_of = vx_alloc((size_t)n + 1, sizeof *c.old_of);
    if (c.slot_of == NULL || c.old_of == NULL) {
        st = vx_fail_nomem(err, "compacting");
        goto done;
    }
    n_live = number_rows(&c, n, &n_upper);
    if ((st = vx_view_new(&graph->params, c.from->codec, n_live, n_upper, &c.to, err)) != VX_OK)
        goto done;
    place_rows(&c, n_live);
    if ((st = vx_pool_run(n_live, COPY_GRAIN, run, 0, n_live, copy_piece, &c)) != VX_OK) {
        vx_fail(err, st, "interrupted");
        goto done;
    }
    *out = c.to;
    c.to = NULL;
done:
    vx_view_free(c.to);
    vx_free(c.slot_of);
    vx_free(c.old_of);
    return st;
}
