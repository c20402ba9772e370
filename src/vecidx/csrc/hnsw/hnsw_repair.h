/* hnsw_repair.h - keeping every row findable. */
#ifndef HNSW_REPAIR_H
#define HNSW_REPAIR_H

#include "hnsw_select.h"

/* Distances of layer-0 links, kept while one long add runs: row_links floats a
 * row, all zero where not known yet (a known row's first is never +0.0; the
 * distance 0 is kept as -0.0).  base == NULL: not kept, computed when needed. */
typedef struct vx_edge_dists {
    vx_plane plane;
    uint32_t row_links;
} vx_edge_dists;

/* Read or write a row, on layer 0 through the kept distances. */
void vx_row_load_kept(const vx_space *space, const vx_view *view, const vx_edge_dists *kept,
                      vx_slot owner, unsigned layer, vx_row *row);
void vx_row_store_kept(const vx_view *view, const vx_edge_dists *kept, vx_slot owner,
                       unsigned layer, const vx_row *row);

/* Does no neighbour of `slot` link back to it; or, where links are spared, only a few that
 * nothing else leads to either? */
bool vx_is_cut_off(const vx_view *view, uint32_t n_spare, vx_slot slot);

/* How many of a row's last links may be given to rows that nothing else links to.  By inner
 * products most rows are such, and all are neighbours of the few longest: those keep their
 * links to one another, through which searches go, and hand the others down. */
uint32_t vx_spare_links(const vx_graph *graph, const vx_view *view);

/* Make one of its neighbours link to `slot`, taking the place of a row that has
 * another in-link, or else one that a neighbour's last links lead to.  Does nothing where
 * there is no such place. */
void vx_force_in_link(const vx_space *space, const vx_view *view, const vx_edge_dists *kept,
                      uint32_t n_spare, vx_slot slot);

/* Do two slots hold the same vector? */
bool vx_rows_equal(const vx_view *view, vx_slot a, vx_slot b);

/* Of each of n rows, VX_COPIES_ROWS at most, the first among them that it equals, or
 * VX_NO_SLOT where it is the first.  Such copies take no part in the search of a batch: as
 * candidates they would push all others out of the pool. */
#define VX_COPIES_ROWS 512u
void vx_find_copies(const vx_view *view, const vx_slot *slots, size_t n, vx_slot *copy_of);

/* Room for a search of the whole graph from its entry. */
typedef struct vx_reach {
    vx_slot *parent; /* VX_NO_SLOT: not reached                              */
    vx_slot *queue;
    uint32_t n_reached;
} vx_reach;
bool vx_reach_init(vx_reach *reach, uint32_t n); /* false: no memory */
void vx_reach_fini(vx_reach *reach);

/* Breadth first over layer 0 from `from`, which is reached by `parent`; false if
 * halted. */
bool vx_reach_from(vx_reach *reach, const vx_view *view, uint32_t n, vx_slot from, vx_slot parent,
                   const vx_halt *halt);

/* Give every live node among the n rows a path from the entry; false if halted on the
 * way, which leaves a valid graph.  `ctx` has room for a pool of VX_RECONNECT_EF.
 * Writer only. */
#define VX_RECONNECT_EF 64u
bool vx_reconnect(const vx_space *space, const vx_view *view, uint32_t n, vx_slot entry,
                  vx_reach *reach, vx_ctx *ctx, const vx_halt *halt);

#endif
