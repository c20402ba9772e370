/* hnsw_select.c - which neighbours a row keeps.
 *
 * The heuristic of Algorithm 4: going outwards, a candidate is chosen if it is
 * nearer to the owner than to every one chosen before it; otherwise a chosen one
 * leads to it.  Departures from the paper:
 *
 * - A candidate that is nearly as near to the owner as to a chosen one is chosen
 *   too (SLACK, which is the alpha of Vamana, NeurIPS 2019).
 * - Equality counts as "leads to it".  So of many equal rows one is chosen, and
 *   the others cannot eat the link budget.
 * - The places left over are filled with the nearest candidates passed over
 *   (the paper's keepPrunedConnections, always on): a full row was worth more
 *   recall per distance than a short one.
 * - A link offered from the other side is fitted into the sorted row instead of
 *   running the heuristic over all of it again: it is compared with the chosen
 *   links only, and those it leads to become fillers.  That costs the distances
 *   from one row to at most a row's links, where the whole heuristic costs about
 *   ten times as many. */
#include "hnsw_select.h"

#include <string.h>

#include "hnsw_sketch.h"

/* How much nearer a chosen row must be to a candidate than the owner is, as a
 * ratio of squared distances.  More keeps more links.  Against 1.00 it saves 5 %
 * of the distances at equal recall on SIFT and 15 % on 768-d text; 1.10 is better
 * still on text and worse on WordNet above recall 0.99; at 1.25 rows are full of
 * near links and recall falls everywhere.  (In a second pass over the rows, which there is
 * none of, 1.20 was better than 1.07 on SIFT, and on WordNet at 0.95, and worse on text.)
 * Slack costs links that lead away: of 250,000 made rows in 500 clusters a search finds 0.988,
 * 1.000 at ef 32, 64 by 1.00, and 0.976, 0.994 by 1.07. */
#define SLACK 1.07f

static bool before(float d1, vx_slot s1, float d2, vx_slot s2)
{
    return d1 < d2 || (d1 == d2 && s1 < s2);
}

/* A chosen row leads to a candidate that is `between` away from it and `dist` away
 * from the owner.  Inner products may be negative: there a factor would turn the
 * comparison round. */
static bool leads_to(float between, float dist)
{
    return between * (between > 0 ? SLACK : 1.0f) <= dist;
}

/* Does one of the first n_chosen links lead to `slot`, at distance `dist` from the
 * owner? */
static bool is_led_to(const vx_space *space, const vx_row *row, uint32_t n_chosen, vx_slot slot,
                      float dist)
{
    const void *vector = vx_space_row(space, slot);
    float between[4];
    for (uint32_t i = 0; i < n_chosen; i += 4) {
        const uint32_t n = n_chosen - i < 4 ? n_chosen - i : 4;
        space->ops->many(vector, space->rows, space->row_bytes, row->slots + i, n, between);
        for (uint32_t j = 0; j < n; j++)
            if (leads_to(between[j], dist))
                return true;
    }
    return false;
}

void vx_row_select(const vx_space *space, const vx_key *candidates,
                   size_t n, uint32_t cap, vx_row *row)
{
    vx_key passed[VX_MAX_ROW_LINKS];
    uint32_t n_passed = 0;
    row->n_chosen = 0;
    for (size_t i = 0; i < n && row->n_chosen < cap; i++) {
        const vx_slot slot = vx_key_slot(candidates[i]);
        const float dist = vx_key_dist(candidates[i]);
        if (is_led_to(space, row, row->n_chosen, slot, dist)) {
            if (n_passed < cap)
                passed[n_passed++] = candidates[i];
        } else {
            row->slots[row->n_chosen] = slot;
            row->dists[row->n_chosen] = dist;
            row->n_chosen++;
        }
    }
    row->n = row->n_chosen;
    for (uint32_t i = 0; i < n_passed && row->n < cap; i++) {
        row->slots[row->n] = vx_key_slot(passed[i]);
        row->dists[row->n] = vx_key_dist(passed[i]);
        row->n++;
    }
}

static void remove_at(vx_row *row, uint32_t at)
{
    const uint32_t behind = row->n - at - 1;
    memmove(row->slots + at, row->slots + at + 1, behind * sizeof *row->slots);
    memmove(row->dists + at, row->dists + at + 1, behind * sizeof *row->dists);
    row->n--;
    row->n_chosen -= at < row->n_chosen;
}

/* There is room for one more. */
static void insert_at(vx_row *row, uint32_t at, vx_slot slot, float dist)
{
    const uint32_t behind = row->n - at;
    memmove(row->slots + at + 1, row->slots + at, behind * sizeof *row->slots);
    memmove(row->dists + at + 1, row->dists + at, behind * sizeof *row->dists);
    row->slots[at] = slot;
    row->dists[at] = dist;
    row->n++;
}

static uint32_t place(const vx_row *row, uint32_t begin, uint32_t end, vx_slot slot, float dist)
{
    while (begin < end && before(row->dists[begin], row->slots[begin], dist, slot))
        begin++;
    return begin;
}

static void insert_filler(vx_row *row, vx_slot slot, float dist)
{
    insert_at(row, place(row, row->n_chosen, row->n, slot, dist), slot, dist);
}

vx_slot vx_row_offer(const vx_space *space, vx_row *row, uint32_t cap,
                     vx_slot source, float dist)
{
    for (uint32_t i = 0; i < row->n; i++)
        if (row->slots[i] == source)
            return VX_NO_SLOT;

    const uint32_t at = place(row, 0, row->n_chosen, source, dist);
    if (row->n_chosen == cap && at == cap)
        return source;
    const bool is_filler = is_led_to(space, row, at, source, dist);

    /* Make room: the farthest filler goes, or, in a row of chosen links only, the
     * farthest of them - unless `source` is no better. */
    vx_slot dropped = VX_NO_SLOT;
    if (row->n == cap) {
        const uint32_t last = row->n - 1;
        const bool has_filler = row->n_chosen < row->n;
        if (is_filler && (!has_filler || !before(dist, source, row->dists[last], row->slots[last])))
            return source;
        dropped = row->slots[last];
        remove_at(row, last);
    }
    if (is_filler) {
        insert_filler(row, source, dist);
        return dropped;
    }

    /* Chosen links behind it that it leads to become fillers.  Backwards, so that
     * the places of those still to be looked at stay. */
    float between[VX_MAX_ROW_LINKS];
    space->ops->many(vx_space_row(space, source), space->rows, space->row_bytes, row->slots + at,
              row->n_chosen - at, between);
    for (uint32_t i = row->n_chosen; i-- > at;)
        if (leads_to(between[i - at], row->dists[i])) {
            const vx_slot slot = row->slots[i];
            const float d = row->dists[i];
            remove_at(row, i);
            insert_filler(row, slot, d);
        }
    insert_at(row, at, source, dist);
    row->n_chosen++;
    return dropped;
}

void vx_row_force(vx_row *row, uint32_t victim, vx_slot source, float dist)
{
    if (victim < row->n)
        remove_at(row, victim);
    insert_filler(row, source, dist);
}

void vx_row_load(const vx_space *space, const vx_view *view, vx_slot owner, unsigned layer,
                 const float *dists, vx_row *row)
{
    const vx_link *links = vx_view_links(view, owner, layer);
    const uint32_t cap = vx_view_row_links(view, layer);
    row->n_chosen = row->n = 0;
    for (uint32_t i = 0; i < cap; i++) {
        const uint32_t link = atomic_load_explicit(&links[i], memory_order_relaxed);
        if (link >= VX_TWIN)
            break;
        row->slots[row->n++] = link & VX_SLOT_BITS;
        row->n_chosen += (link & VX_FILLER) == 0;
    }
    if (dists != NULL)
        memcpy(row->dists, dists, row->n * sizeof *dists);
    else
        space->ops->many(vx_space_row(space, owner), space->rows, space->row_bytes, row->slots, row->n,
                  row->dists);
}

void vx_row_store(const vx_view *view, vx_slot owner, unsigned layer, float *dists,
                  const vx_row *row)
{
    vx_link *links = vx_view_links(view, owner, layer);
    const uint32_t cap = vx_view_row_links(view, layer);
    for (uint32_t i = 0; i < cap; i++) {
        const uint32_t link = i >= row->n          ? VX_PAD
                              : i >= row->n_chosen ? row->slots[i] | VX_FILLER
                                                   : row->slots[i];
        atomic_store_explicit(&links[i], link, memory_order_release); /* vx_link_load */
    }
    if (layer == 0)
        vx_sketch_drop(view, owner);
    if (dists != NULL)
        memcpy(dists, row->dists, row->n * sizeof *dists);
}

void vx_row_store_twin(const vx_view *view, vx_slot slot)
{
    atomic_store_explicit(vx_view_links(view, slot, 0), VX_TWIN, memory_order_release);
}

void vx_row_copy(const vx_view *to, vx_slot to_slot, const vx_view *from, vx_slot from_slot,
                 unsigned layer, const vx_slot *slot_of)
{
    vx_link *out = vx_view_links(to, to_slot, layer);
    const vx_link *in = vx_view_links(from, from_slot, layer);
    const uint32_t cap = vx_view_row_links(from, layer);
    for (uint32_t i = 0; i < cap; i++) {
        uint32_t link = atomic_load_explicit(&in[i], memory_order_relaxed);
        if (link < VX_TWIN)
            link = (link & VX_FILLER) | slot_of[link & VX_SLOT_BITS];
        atomic_store_explicit(&out[i], link, memory_order_relaxed);
    }
}
