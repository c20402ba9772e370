/* hnsw_check.c - the big assert: what must hold for every row, said in words. */
#include <string.h>

#include "../base/vx_alloc.h"
#include "../base/vx_status.h"
#include "hnsw_algo.h"
#include "hnsw_repair.h"

static vx_status check_row(const vx_view *view, uint32_t n, vx_slot slot, unsigned layer,
                           uint32_t *seen, vx_error *err)
{
    const vx_link *links = vx_view_links(view, slot, layer);
    const uint32_t cap = vx_view_row_links(view, layer);
    const bool is_twin = vx_view_is_twin(view, slot);
    bool ended = false, filling = false;
    for (uint32_t i = is_twin && layer == 0; i < cap; i++) {
        const uint32_t link = atomic_load_explicit(&links[i], memory_order_relaxed);
        if (link == VX_PAD) {
            ended = true;
            continue;
        }
        const vx_slot to = link & VX_SLOT_BITS;
        const bool is_filler = (link & VX_FILLER) != 0;
        const char *what = NULL;
        if (is_twin)
            what = "follows a twin's mark";
        else if (ended)
            what = "follows padding";
        else if (filling && !is_filler)
            what = "is chosen but follows a filler";
        else if (to >= n)
            what = "leads outside the index";
        else if (to == slot)
            what = "leads to its own row";
        else if (vx_view_is_twin(view, to))
            what = "leads to a twin";
        else if (view->levels[to] < layer)
            what = "leads to a row below its layer";
        else if (seen[to] == slot + 1)
            what = "is there twice";
        if (what != NULL)
            return vx_fail(err, VX_E_STATE, "slot %u, layer %u: link %u, to %u, %s", slot, layer,
                           i, to, what);
        filling = is_filler;
        seen[to] = slot + 1;
    }
    /* A row is looked at once a layer; forget, so that layers may repeat links. */
    for (uint32_t i = 0; i < cap; i++) {
        const vx_slot to = atomic_load_explicit(&links[i], memory_order_relaxed) & VX_SLOT_BITS;
        if (to < n)
            seen[to] = 0;
    }
    return VX_OK;
}

static vx_status check_places(const vx_view *view, uint32_t n,
                              uint64_t entry, vx_error *err)
{
    uint64_t upper = 0;
    unsigned top = 0;
    bool any_live = false;
    for (vx_slot slot = 0; slot < n; slot++) {
        const unsigned level = view->levels[slot];
        if (level >= VX_MAX_LEVELS)
            return vx_fail(err, VX_E_STATE, "slot %u: level %u, expected below %u", slot, level,
                           VX_MAX_LEVELS);
        if (view->upper_at[slot] != upper)
            return vx_fail(err, VX_E_STATE, "slot %u: upper rows at %u, expected %llu", slot,
                           view->upper_at[slot], (unsigned long long)upper);
        upper += level;
        if (!vx_view_is_twin(view, slot) && vx_view_is_alive(view, slot)) {
            top = level > top ? level : top;
            any_live = true;
        }
    }
    if (upper != view->n_upper)
        return vx_fail(err, VX_E_STATE, "upper rows: %u in use, expected %llu", view->n_upper,
                       (unsigned long long)upper);
    if (entry == VX_NO_ENTRY && !any_live)
        return VX_OK;
    /* A dead row may be higher than all that live, and the entry until it is mended. */
    if ((vx_slot)entry >= n || entry >> 32 < top ||
        view->levels[(vx_slot)entry] != entry >> 32 || vx_view_is_twin(view, (vx_slot)entry))
        return vx_fail(err, VX_E_STATE, "entry point: slot %u at layer %u, expected layer %u",
                       (vx_slot)entry, (unsigned)(entry >> 32), top);
    return VX_OK;
}

/* Follow the chain of rows equal to a node: they are reached where it is. */
static vx_status check_chain(const vx_view *view, uint32_t n, vx_slot node, uint32_t *seen,
                             uint64_t *n_live, vx_error *err)
{
    for (vx_slot slot = vx_view_next_twin(view, node); slot != VX_NO_SLOT;
         slot = vx_view_next_twin(view, slot)) {
        if (slot >= n || !vx_view_is_twin(view, slot) || seen[slot] != 0 ||
            memcmp(vx_view_vector(view, slot), vx_view_vector(view, node),
                   view->form.row_bytes) != 0)
            return vx_fail(err, VX_E_STATE, "slot %u: its chain of equal rows is broken at %u",
                           node, slot);
        seen[slot] = node + 1;
        *n_live += vx_view_is_alive(view, slot);
    }
    return VX_OK;
}

vx_status vx_graph_check(const vx_graph *graph, const vx_halt *halt, uint64_t *out_unreachable,
                         vx_error *err)
{
    const vx_view *view = atomic_load(&graph->view);
    const uint32_t n = atomic_load(&view->n_rows);
    const uint64_t entry = atomic_load(&view->entry);
    *out_unreachable = 0;
    if (n == 0)
        return entry == VX_NO_ENTRY ? VX_OK
                                    : vx_fail(err, VX_E_STATE, "entry point in an empty index");

    vx_reach reach = {0};
    uint32_t *seen = vx_zalloc(n, sizeof *seen);
    vx_status st = VX_OK;
    if (seen == NULL || !vx_reach_init(&reach, n))
        st = vx_fail_nomem(err, "checking the index");
    if (st == VX_OK)
        st = check_places(view, n, entry, err);
    for (vx_slot slot = 0; slot < n && st == VX_OK; slot++) {
        if (slot % 1024 == 0 && vx_halt_asked(halt))
            st = vx_fail(err, VX_E_INTERRUPTED, "interrupted");
        for (unsigned layer = 0; layer <= view->levels[slot] && st == VX_OK; layer++)
            st = check_row(view, n, slot, layer, seen, err);
    }
    if (st == VX_OK && entry != VX_NO_ENTRY &&
        !vx_reach_from(&reach, view, n, (vx_slot)entry, (vx_slot)entry, halt))
        st = vx_fail(err, VX_E_INTERRUPTED, "interrupted");
    if (st == VX_OK) {
        for (vx_slot slot = 0; slot < n && st == VX_OK; slot++) {
            uint64_t n_live = vx_view_is_alive(view, slot);
            if (vx_view_is_twin(view, slot))
                continue;
            st = check_chain(view, n, slot, seen, &n_live, err);
            if (reach.parent[slot] == VX_NO_SLOT)
                *out_unreachable += n_live;
        }
        for (vx_slot slot = 0; slot < n && st == VX_OK; slot++)
            if (vx_view_is_twin(view, slot) && seen[slot] == 0 && vx_view_is_alive(view, slot))
                st = vx_fail(err, VX_E_STATE, "slot %u: marked as a twin, but in no chain", slot);
    }
    vx_reach_fini(&reach);
    vx_free(seen);
    return st;
}
