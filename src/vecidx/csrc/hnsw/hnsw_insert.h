/* hnsw_insert.h - an add on its way through the stages that hnsw_insert.c describes. */
#ifndef VX_HNSW_INSERT_H
#define VX_HNSW_INSERT_H

#include "hnsw_algo.h"
#include "hnsw_repair.h"

/* Tasks of the apply stage: fixed, since it orders the work. */
#define VX_INSERT_PARTS 64u

typedef struct vx_edge {
    vx_slot target, source;
    float dist;
    uint32_t layer;
} vx_edge;

typedef struct vx_insert {
    vx_graph *graph;
    vx_view *view;
    vx_space space; /* what is walked and linked by */
    vx_run run;        /* with the number of threads settled                   */
    vx_ctx **contexts; /* one a thread, by `who`                              */
    unsigned n_contexts;
    vx_edge_dists kept;
    vx_plane codes; /* of all rows, while they are linked; base NULL: none    */

    /* The batch: n_batch slots, rising, over a graph of rows 0 .. n_seen-1.  Some of
     * them may lie below n_seen, used again; no link leads to them yet. */
    const vx_slot *batch;
    size_t n_batch, n_planned; /* n_planned: before it was cut                 */
    _Atomic size_t n_searched;
    size_t n_before;       /* rows of the call in earlier batches              */
    const vx_guide *guide;
    uint32_t n_seen;
    uint64_t entry;

    /* Links back.  Row i of the batch writes its own at edges[at[i] ..]. */
    vx_edge *edges, *by_part;
    uint32_t *at, *count;
    vx_slot *copy_of; /* of each row: the first of the batch it equals, or VX_NO_SLOT */
    vx_slot *twin_of; /* of each row: the node it equals, or VX_NO_SLOT       */
    vx_slot *lost; /* for each edge, the row that lost a link for it         */
    size_t edge_room;
    uint32_t part_at[VX_INSERT_PARTS + 1];

    vx_slot *suspects; /* rows to look up: the batch, then what was lost     */
    uint8_t *is_cut;
    size_t n_suspects;
    uint32_t n_spare;  /* vx_spare_links                                     */
} vx_insert;

/* Offer every link of the batch to its target's row, and see to it that none of its rows,
 * nor any row that lost a link for it, is left without one that leads to it. */
void vx_insert_link_back(vx_insert *in, const vx_run *quiet);

#endif
