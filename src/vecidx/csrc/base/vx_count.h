/* vx_count.h - what searches and builds read, counted in a build of its own: with
 * VX_COUNT_WORK (setup.py: VECIDX_COUNT_WORK=1), else VX_COUNT does nothing. */
#ifndef VX_COUNT_H
#define VX_COUNT_H

#include <stdatomic.h>

#include "vx_base.h"

typedef enum vx_counted {
    VX_COUNT_HOPS,    /* nodes expanded on layer 0                              */
    VX_COUNT_EDGES,   /* links looked at there, padding included                */
    VX_COUNT_VECTORS, /* rows compared: vectors,                                */
    VX_COUNT_CODES,   /* byte codes,                                            */
    VX_COUNT_RANKS,   /* rank codes                                             */
    VX_COUNT_LINES,   /* lines of 64 bytes asked for: rows, links, sketches     */
    VX_N_COUNTS
} vx_counted;

#ifdef VX_COUNT_WORK
extern _Atomic uint64_t vx_counts[VX_N_COUNTS];
#define VX_COUNT(what, n) \
    atomic_fetch_add_explicit(&vx_counts[what], (uint64_t)(n), memory_order_relaxed)
#else
#define VX_COUNT(what, n) ((void)0)
#endif

#endif
