/* hnsw_select.h - which neighbours a row keeps (Algorithm 4). */
#ifndef HNSW_SELECT_H
#define HNSW_SELECT_H

#include "hnsw_ops.h"

/* One link row while it is being changed: chosen links first, then fillers, each
 * run by rising (distance, slot). */
typedef struct vx_row {
    vx_slot slots[VX_MAX_ROW_LINKS];
    float dists[VX_MAX_ROW_LINKS];
    uint32_t n_chosen, n; /* chosen links; all links                           */
} vx_row;

/* Choose the links of a new row among `n` candidates (keys, rising), none of
 * them the row itself: the heuristic's first, then the nearest of those it
 * passed over, until `cap` are there. */
void vx_row_select(const vx_space *space, const vx_key *candidates,
                   size_t n, uint32_t cap, vx_row *row);

/* Offer the row of `owner` a link to `source` at distance `dist`.  Returns the
 * slot that is no longer linked for it: the one dropped, `source` itself if it
 * was not taken, or VX_NO_SLOT. */
vx_slot vx_row_offer(const vx_space *space, vx_row *row, uint32_t cap,
                     vx_slot source, float dist);

/* Put `source` into the row as a filler, in place of link number `victim`
 * (< n), or beside the others if victim == n < cap. */
void vx_row_force(vx_row *row, uint32_t victim, vx_slot source, float dist);

/* Read and write a stored row.  `dists` is the row's cached distances or NULL:
 * then they are computed. */
void vx_row_load(const vx_space *space, const vx_view *view, vx_slot owner, unsigned layer,
                 const float *dists, vx_row *row);
void vx_row_store(const vx_view *view, vx_slot owner, unsigned layer, float *dists,
                  const vx_row *row);

/* Copy a stored row into another view, where slot s is slot_of[s].  All rows that it
 * leads to must have a slot there. */
void vx_row_copy(const vx_view *to, vx_slot to_slot, const vx_view *from, vx_slot from_slot,
                 unsigned layer, const vx_slot *slot_of);

/* Mark a slot whose stored row is empty as no node: a twin, or free. */
void vx_row_store_twin(const vx_view *view, vx_slot slot);

#endif
