/* hnsw_best.h - the k best of what a search comes upon; part of hnsw_search.c and
 * hnsw_filter.c. */
#ifndef HNSW_BEST_H
#define HNSW_BEST_H

#include <math.h>
#include <string.h>

#include "hnsw_graph.h"

#define VX_SORTED_K 48u /* up to here a sorted array beats a heap                 */

/* The k best of what is offered, by (distance, label): sorted, rising, in the
 * caller's output arrays.  `n` are filled. */
struct best {
    vx_label *labels;
    float *dists;
    size_t n, k;
};

VX_INLINE bool is_before(float d1, vx_label l1, float d2, vx_label l2)
{
    return d1 < d2 || (d1 == d2 && l1 < l2);
}

/* What is there already is not taken again: while a twin becomes a node (mend_chains)
 * a walk may come upon it as both. */
VX_INLINE void offer(struct best *best, float dist, vx_label label)
{
    size_t at = best->n;
    while (at > 0 && is_before(dist, label, best->dists[at - 1], best->labels[at - 1]))
        at--;
    if (at == best->k || (at > 0 && best->labels[at - 1] == label && best->dists[at - 1] == dist))
        return;
    best->n += best->n < best->k;
    memmove(best->dists + at + 1, best->dists + at, (best->n - 1 - at) * sizeof *best->dists);
    memmove(best->labels + at + 1, best->labels + at, (best->n - 1 - at) * sizeof *best->labels);
    best->dists[at] = dist;
    best->labels[at] = label;
}

VX_INLINE void pad(const struct best *best)
{
    for (size_t i = best->n; i < best->k; i++) {
        best->labels[i] = VX_NO_LABEL;
        best->dists[i] = INFINITY;
    }
}

/* A binary heap, worst on top, for k too large to insert into a sorted array. */
VX_INLINE void sift_down(struct best *best, size_t at)
{
    for (;;) {
        size_t worst = at;
        for (size_t child = 2 * at + 1; child <= 2 * at + 2; child++)
            if (child < best->n && is_before(best->dists[worst], best->labels[worst],
                                             best->dists[child], best->labels[child]))
                worst = child;
        if (worst == at)
            return;
        const float d = best->dists[at];
        const vx_label l = best->labels[at];
        best->dists[at] = best->dists[worst];
        best->labels[at] = best->labels[worst];
        best->dists[worst] = d;
        best->labels[worst] = l;
        at = worst;
    }
}

VX_INLINE void offer_heap(struct best *best, float dist, vx_label label)
{
    if (best->n < best->k) {
        best->dists[best->n] = dist;
        best->labels[best->n] = label;
        best->n++;
        if (best->n == best->k)
            for (size_t i = best->k / 2; i-- > 0;)
                sift_down(best, i);
    } else if (is_before(dist, label, best->dists[0], best->labels[0])) {
        best->dists[0] = dist;
        best->labels[0] = label;
        sift_down(best, 0);
    }
}

VX_INLINE void sort_heap(struct best *best)
{
    const size_t n = best->n;
    if (n < best->k) /* never became a heap */
        for (size_t i = n / 2; i-- > 0;)
            sift_down(best, i);
    while (best->n > 1) {
        const size_t last = best->n - 1;
        const float d = best->dists[0];
        const vx_label l = best->labels[0];
        best->dists[0] = best->dists[last];
        best->labels[0] = best->labels[last];
        best->dists[last] = d;
        best->labels[last] = l;
        best->n = last;
        sift_down(best, 0);
    }
    best->n = n;
}

/* Offer n rows that follow one another, to a sorted array or a heap. */
VX_INLINE void offer_run(struct best *best, const float *dists, const vx_label *labels, uint32_t n,
                      bool sorted)
{
    const size_t worst = sorted ? best->k - 1 : 0;
    for (uint32_t i = 0; i < n; i++) {
        if (best->n == best->k && dists[i] > best->dists[worst])
            continue;
        if (sorted)
            offer(best, dists[i], labels[i]);
        else
            offer_heap(best, dists[i], labels[i]);
    }
}

#endif
