/* hnsw_ctx.h - what one thread needs to walk the graph.
 *
 * Contexts are made on demand, kept in a list that only grows, and taken by one
 * atomic exchange: a search takes no lock, and once its context is large enough
 * it allocates nothing. */
#ifndef HNSW_CTX_H
#define HNSW_CTX_H

#include "../dist/dist_gate.h"
#include "hnsw_graph.h"

/* A candidate: order-preserving distance << 32 | slot << 1 | expanded.  Keys
 * sort by distance, ties by slot. */
typedef uint64_t vx_key;

VX_INLINE uint32_t vx_float_order(float d)
{
    union { float f; uint32_t u; } bits = {d};
    return bits.u ^ ((bits.u >> 31) ? 0xFFFFFFFFu : 0x80000000u);
}
VX_INLINE float vx_order_float(uint32_t o)
{
    union { uint32_t u; float f; } bits = {o ^ ((o >> 31) ? 0x80000000u : 0xFFFFFFFFu)};
    return bits.f;
}
VX_INLINE vx_key vx_key_of(float dist, vx_slot slot)
{
    return (uint64_t)vx_float_order(dist) << 32 | (uint64_t)slot << 1;
}
VX_INLINE float vx_key_dist(vx_key key) { return vx_order_float((uint32_t)(key >> 32)); }
VX_INLINE vx_slot vx_key_slot(vx_key key) { return (vx_slot)((uint32_t)key >> 1); }

typedef struct vx_ctx {
    _Atomic bool busy;
    _Atomic(vx_view *) pinned; /* the view in use; the writer will not free it */
    struct vx_ctx *next;       /* fixed once listed                            */
    _Atomic size_t bytes;      /* held, for vx_index_memory                    */

    /* Everything below belongs to whoever holds the context. */
    float *query;        /* row_floats, padded with zeros                       */
    uint8_t *code;       /* of the query, where the graph is quantised          */
    size_t code_room;
    uint8_t *rank_code;  /* VX_RANK_COORDS: its side of rank codes              */
    vx_gate *gate;       /* of the query, where there are sketches              */
    uint64_t *visited;   /* one bit a slot; all zero between walks              */
    size_t visited_rows; /* slots it has room for                               */
    uint32_t *touched;   /* slots visited, in order, VX_TOUCHED + one row's worth */
    size_t n_touched;    /* past VX_TOUCHED: too many, clear the whole bitset   */
    vx_key *pool;        /* candidates, rising; room for pool_room + 1          */
    size_t pool_room, n_pool;
    float *dists;        /* of one row's links                                  */
} vx_ctx;

/* Asked every few milliseconds of a long loop; true ends it, its results void.  A
 * NULL vx_halt never does. */
typedef struct vx_halt {
    bool (*asked)(void *arg);
    void *arg;
} vx_halt;

VX_INLINE bool vx_halt_asked(const vx_halt *halt)
{
    return halt != NULL && halt->asked(halt->arg);
}

/* Slots remembered for clearing the visited set; a walk that sees more clears
 * the whole bitset instead. */
#define VX_TOUCHED 16384u

/* Take a context and pin the current view: *out_view stays valid until release.
 * NULL if no memory is left. */
vx_ctx *vx_ctx_take(vx_graph *graph, vx_view **out_view);
void vx_ctx_release(vx_ctx *ctx);

/* Room for a walk with a pool of `ef` over `n` slots: false if there is no memory. */
bool vx_ctx_fit(vx_ctx *ctx, const vx_view *view, size_t n, size_t ef);

/* Empty the visited set. */
void vx_ctx_forget(vx_ctx *ctx);

bool vx_ctx_pins(const vx_graph *graph, const vx_view *view);
void vx_ctx_free_all(vx_graph *graph);
size_t vx_ctx_bytes(const vx_graph *graph);

#endif
