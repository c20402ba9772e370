/* hnsw_filter.h - the rows that a search may return, where those are not all.
 *
 * By their share of what is there, a search of allowed rows
 *   - compares with each of them (vx_graph_scan_allowed), while they are few;
 *   - compares with each by its code, and with the nearest again (vx_graph_sweep), while
 *     that is less work than a walk;
 *   - walks from allowed row to allowed row, over others between (hnsw_filtered.h);
 *   - where there are sketches and most rows are allowed, walks as ever with a wider
 *     pool and leaves the others out at the end.
 * A walk that comes back with too few is followed by the next surer way, the last of
 * which is the first: so there are always min(k, allowed) results.
 *
 * Ideas from: Patel et al., ACORN: performant and predicate-agnostic search over vector
 * embeddings and structured data, SIGMOD 2024 (scoring allowed rows only, two hops); the
 * rule that a row with links enough is left at one hop is Lucene's, entering at rows that
 * are allowed is Weaviate's. */
#ifndef HNSW_FILTER_H
#define HNSW_FILTER_H

#include "hnsw_graph.h"

#define VX_MAX_SEEDS 128u

/* Bits are those of slots 0 .. now.n-1; the last word is filled up with zeros. */
typedef struct vx_allowed {
    vx_snapshot now;       /* of the moment; a search of these rows uses it     */
    const uint64_t *rows;  /* allowed, and seen by the snapshot                 */
    const uint64_t *nodes; /* those, and nodes that have one for a twin         */
    uint32_t n_rows;       /* bits set in `rows`                                */
    uint32_t n_seeds;
    const vx_slot *list;   /* the same rows, rising; NULL where they are many   */
    vx_slot seeds[VX_MAX_SEEDS]; /* some of them, from all over the index       */
} vx_allowed;

VX_INLINE bool vx_has_bit(const uint64_t *bits, vx_slot slot)
{
    return (bits[slot >> 6] >> (slot & 63)) & 1;
}

/* May the row be returned? */
VX_INLINE bool vx_allows(const vx_allowed *allowed, const vx_view *view, const vx_snapshot *now,
                         vx_slot slot)
{
    if (allowed != NULL)
        return slot < now->n && vx_has_bit(allowed->rows, slot);
    return vx_view_sees(view, now, slot);
}

#endif
