/* hnsw_repair.c - in-links and reachability.
 *
 * Pruning can take a row's last in-link; no walk would ever find it again.  Two
 * remedies.  After each batch of an insert, rows that are new or lost a link are
 * looked up in their own neighbours' rows, which is local and cheap
 * (vx_is_cut_off).  After a bulk add a breadth-first search from the entry finds
 * what is still cut off, however large the island, and ties it to the nearest
 * row that was reached.
 *
 * Tying drops a link of a full row.  The search leaves a tree: each row reached
 * has one parent.  Only links outside that tree are dropped, so nothing reached
 * is ever lost again, and one pass suffices. */
#include "hnsw_repair.h"

#include <string.h>

#include "../base/vx_alloc.h"

static float *kept_row(const vx_edge_dists *kept, vx_slot owner, unsigned layer)
{
    if (layer > 0 || kept == NULL || kept->plane.base == NULL)
        return NULL;
    return (float *)(void *)kept->plane.base + (size_t)owner * kept->row_links;
}

void vx_row_load_kept(const vx_space *space, const vx_view *view, const vx_edge_dists *kept,
                      vx_slot owner, unsigned layer, vx_row *row)
{
    union { float f; uint32_t u; } first = {0};
    const float *dists = kept_row(kept, owner, layer);
    if (dists != NULL)
        first.f = dists[0];
    vx_row_load(space, view, owner, layer, first.u != 0 ? dists : NULL, row);
}

void vx_row_store_kept(const vx_view *view, const vx_edge_dists *kept, vx_slot owner,
                       unsigned layer, const vx_row *row)
{
    float *dists = kept_row(kept, owner, layer);
    vx_row_store(view, owner, layer, dists, row);
    if (dists != NULL && row->n > 0 && dists[0] == 0.0f)
        dists[0] = -0.0f;
}

static bool row_has(const vx_view *view, vx_slot owner, vx_slot slot)
{
    const vx_link *links = vx_view_links(view, owner, 0);
    for (uint32_t i = 0; i < view->M0; i++)
        if ((atomic_load_explicit(&links[i], memory_order_relaxed) & VX_SLOT_BITS) == slot)
            return true;
    return false;
}

/* Rows that lead to one another may be cut off together: as many are looked for. */
#define ISLAND_ROWS 8u

typedef struct island {
    vx_slot rows[ISLAND_ROWS];
    uint32_t n;
} island;

static bool is_in(const island *all, vx_slot slot)
{
    for (uint32_t i = 0; i < all->n; i++)
        if (all->rows[i] == slot)
            return true;
    return false;
}

/* Are fewer than `most` rows, itself among them, those that lead to `slot`, as far as their
 * neighbours link back, without its link from `except`?  *out has them. */
static bool is_island(const vx_view *view, vx_slot slot, vx_slot except, uint32_t most,
                      island *out)
{
    *out = (island){{slot}, 1};
    for (uint32_t at = 0; at < out->n; at++) {
        const vx_link *links = vx_view_links(view, out->rows[at], 0);
        for (uint32_t i = 0; i < view->M0; i++) {
            const uint32_t link = atomic_load_explicit(&links[i], memory_order_relaxed);
            if (link == VX_PAD)
                break;
            const vx_slot from = link & VX_SLOT_BITS;
            if ((at == 0 && from == except) || is_in(out, from) ||
                !row_has(view, from, out->rows[at]))
                continue;
            if (out->n + 1 >= most)
                return false;
            out->rows[out->n++] = from;
        }
    }
    return true;
}

static uint32_t island_rows(const vx_view *view, uint32_t n_spare)
{
    return n_spare == view->M0 ? 2 : ISLAND_ROWS;
}

bool vx_is_cut_off(const vx_view *view, uint32_t n_spare, vx_slot slot)
{
    island all;
    return is_island(view, slot, VX_NO_SLOT, island_rows(view, n_spare), &all);
}

uint32_t vx_spare_links(const vx_graph *graph, const vx_view *view)
{
    if (graph->params.metric != VX_IP || view->has_codes) /* codes make them distances */
        return view->M0;
    return view->M0 < 4 ? 1 : view->M0 / 4;
}

/* Link `owner` to `slot` at distance `dist`, in place of one of its last n_spare links that
 * has another in-link.  False if there is none, and the row's last link in *out_last. */
static bool force_into(const vx_space *space, const vx_view *view, const vx_edge_dists *kept,
                       uint32_t n_spare, vx_slot owner, vx_slot slot, float dist,
                       vx_slot *out_last)
{
    const uint32_t most = island_rows(view, n_spare);
    island all;
    vx_row row;
    vx_row_load_kept(space, view, kept, owner, 0, &row);
    uint32_t victim = row.n;
    if (row.n == view->M0) {
        while (victim > view->M0 - n_spare &&
               is_island(view, row.slots[victim - 1], owner, most, &all))
            victim--;
        if (victim == view->M0 - n_spare) {
            *out_last = row.slots[row.n - 1 - slot % n_spare];
            return false;
        }
        victim--;
    }
    vx_row_force(&row, victim, slot, dist);
    vx_row_store_kept(view, kept, owner, 0, &row);
    return true;
}

/* Rows that are asked, one from the other, for a place to spare. */
#define SPARE_STEPS 16u

void vx_force_in_link(const vx_space *space, const vx_view *view, const vx_edge_dists *kept,
                      uint32_t n_spare, vx_slot slot)
{
    vx_row own;
    vx_slot last = VX_NO_SLOT;
    island all;
    (void)is_island(view, slot, VX_NO_SLOT, island_rows(view, n_spare), &all);
    vx_row_load_kept(space, view, kept, slot, 0, &own);
    for (uint32_t i = 0; i < own.n; i++)
        if (!is_in(&all, own.slots[i]) &&
            force_into(space, view, kept, n_spare, own.slots[i], slot, own.dists[i], &last))
            return;
    if (n_spare == view->M0)
        return;
    for (uint32_t i = 0; i < SPARE_STEPS && last != VX_NO_SLOT && !is_in(&all, last) &&
                         !row_has(view, last, slot); i++) {
        const float dist = space->ops->pair(vx_space_row(space, last), vx_space_row(space, slot),
                                            space->row_bytes);
        if (force_into(space, view, kept, n_spare, last, slot, dist, &last))
            return;
    }
    for (uint32_t i = 0; i < own.n; i++) /* rather a good link less than a row unfound */
        if (!is_in(&all, own.slots[i]) &&
            force_into(space, view, kept, view->M0, own.slots[i], slot, own.dists[i], &last))
            return;
}

bool vx_reach_init(vx_reach *reach, uint32_t n)
{
    reach->parent = vx_alloc(n, sizeof *reach->parent);
    reach->queue = vx_alloc(n, sizeof *reach->queue);
    reach->n_reached = 0;
    if (reach->parent == NULL || reach->queue == NULL) {
        vx_reach_fini(reach);
        return false;
    }
    for (uint32_t i = 0; i < n; i++)
        reach->parent[i] = VX_NO_SLOT;
    return true;
}

void vx_reach_fini(vx_reach *reach)
{
    vx_free(reach->parent);
    vx_free(reach->queue);
    reach->parent = reach->queue = NULL;
}

/* Rows between two questions whether to stop: some 5 ms. */
#define HALT_ROWS 16384u

bool vx_reach_from(vx_reach *reach, const vx_view *view, uint32_t n, vx_slot from, vx_slot parent,
                   const vx_halt *halt)
{
    uint32_t head = reach->n_reached, tail = head;
    reach->parent[from] = parent;
    reach->queue[tail++] = from;
    while (head < tail) {
        if (head % HALT_ROWS == HALT_ROWS - 1 && vx_halt_asked(halt))
            return false;
        const vx_slot here = reach->queue[head++];
        if (head < tail)
            VX_PREFETCH(vx_view_links(view, reach->queue[head], 0));
        const vx_link *links = vx_view_links(view, here, 0);
        for (uint32_t i = 0; i < view->M0; i++) {
            const vx_slot slot =
                atomic_load_explicit(&links[i], memory_order_relaxed) & VX_SLOT_BITS;
            if (slot < n && reach->parent[slot] == VX_NO_SLOT) {
                reach->parent[slot] = here;
                reach->queue[tail++] = slot;
            }
        }
    }
    reach->n_reached = tail;
    return true;
}

/* Link `owner` to `slot`, dropping no link that the tree uses.  False if every
 * link of the row is in the tree. */
static bool tie(const vx_space *space, const vx_view *view, const vx_reach *reach,
                vx_slot owner, vx_slot slot)
{
    vx_row row;
    vx_row_load(space, view, owner, 0, NULL, &row);
    uint32_t victim = row.n;
    if (row.n == view->M0) {
        while (victim > 0 && reach->parent[row.slots[victim - 1]] == owner)
            victim--;
        if (victim-- == 0)
            return false;
    }
    const float dist =
        space->ops->pair(vx_space_row(space, owner), vx_space_row(space, slot), space->row_bytes);
    vx_row_force(&row, victim, slot, dist);
    vx_row_store(view, owner, 0, NULL, &row);
    return true;
}

bool vx_reconnect(const vx_space *space, const vx_view *view, uint32_t n, vx_slot entry,
                  vx_reach *reach, vx_ctx *ctx, const vx_halt *halt)
{
    if (!vx_reach_from(reach, view, n, entry, entry, halt))
        return false;
    for (vx_slot slot = 0; slot < n && reach->n_reached < n; slot++) {
        if (reach->parent[slot] != VX_NO_SLOT || vx_view_is_twin(view, slot) ||
            !vx_view_is_alive(view, slot))
            continue;
        if (vx_halt_asked(halt))
            return false;
        /* From the entry on layer 0 itself, so that only reached rows are found. */
        const void *vector = vx_space_row(space, slot);
        ctx->pool[0] =
            vx_key_of(space->ops->pair(vector, vx_space_row(space, entry), space->row_bytes), entry);
        ctx->n_pool = 1;
        space->ops->walk(space, vector, view, n, 0, VX_RECONNECT_EF, VX_RECONNECT_EF, ctx);
        vx_ctx_forget(ctx);
        vx_slot owner = VX_NO_SLOT;
        for (size_t i = 0; i < ctx->n_pool && owner == VX_NO_SLOT; i++)
            if (tie(space, view, reach, vx_key_slot(ctx->pool[i]), slot))
                owner = vx_key_slot(ctx->pool[i]);
        /* A tree of r rows uses r - 1 links, so some row has one to spare. */
        for (uint32_t i = 0; i < reach->n_reached && owner == VX_NO_SLOT; i++)
            if (tie(space, view, reach, reach->queue[i], slot))
                owner = reach->queue[i];
        if (owner != VX_NO_SLOT && !vx_reach_from(reach, view, n, slot, owner, halt))
            return false;
    }
    return true;
}

static uint64_t hash_row(const char *row, size_t row_bytes)
{
    uint64_t hash = 0;
    for (size_t i = 0; i < row_bytes; i += sizeof hash) {
        uint64_t word;
        memcpy(&word, row + i, sizeof word);
        hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
        hash ^= hash >> 32;
    }
    return hash;
}

bool vx_rows_equal(const vx_view *view, vx_slot a, vx_slot b)
{
    return memcmp(vx_view_vector(view, a), vx_view_vector(view, b), view->form.row_bytes) == 0;
}

void vx_find_copies(const vx_view *view, const vx_slot *slots, size_t n, vx_slot *copy_of)
{
    enum { PLACES = 4 * VX_COPIES_ROWS };
    vx_slot table[PLACES];
    for (size_t i = 0; i < PLACES; i++)
        table[i] = VX_NO_SLOT;
    for (size_t i = 0; i < n; i++) {
        size_t at = hash_row(vx_view_vector(view, slots[i]), view->form.row_bytes) % PLACES;
        while (table[at] != VX_NO_SLOT && !vx_rows_equal(view, table[at], slots[i]))
            at = (at + 1) % PLACES;
        copy_of[i] = table[at];
        if (table[at] == VX_NO_SLOT)
            table[at] = slots[i];
    }
}
