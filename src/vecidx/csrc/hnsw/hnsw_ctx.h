/* hnsw_ctx.h - what one thread needs to walk the graph.
 *
 * Contexts are made on demand, kept in a list that only grows, and taken by one
 * atomic exchange: a search takes no lock, and once its context is large enough
 * it allocates nothing.
 *
 * A context taken says since which epoch.  The writer, when it has taken something
 * out of every reader's way (a view swapped, a slot no link leads to), begins a new
 * epoch (vx_epoch_next); once every context is free or of that epoch or later
 * (vx_epoch_passed), no reader can still be at it, and its memory is used anew. */
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
    _Atomic uint64_t epoch;    /* in which it was taken; 0: it is free         */
    struct vx_ctx *next;       /* fixed once listed                            */
    _Atomic size_t bytes;      /* held, for vx_index_memory                    */
    const void *thread;        /* that took it; NULL: it is free               */
    bool is_spent;             /* not to be taken again: vx_ctx_after_fork     */

    /* Everything below belongs to whoever holds the context. */
    float *query;        /* form.query_floats, padded with zeros                */
    void *row;           /* the query as a row of whole numbers ...             */
    bool has_row;        /* ... if it is one (vx_form_whole_row)                */
    uint8_t *code;       /* of the query, where there are codes: vx_codec_query_bytes */
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

    /* How a row of the index is searched for; none of it unless set. */
    uint64_t from;       /* where to begin, instead of the snapshot's entry     */
    vx_slot hidden;      /* a node that the walk passes over; below now->n      */
} vx_ctx;

/* Walks that take turns at most: of those of a batch, one computes while rows of the
 * others are on their way.  Against one at a time, two answer 1.3 times as many
 * queries, four 1.6, six 1.65; eight are no better. */
#define VX_TURNS 6u

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

/* A halt that ticks on the calling thread, with (done, total), when it is time to; a NULL
 * run never halts. */
typedef struct vx_asker {
    const vx_run *run;
    uint64_t last_tick, done, total;
} vx_asker;
bool vx_asker_asked(void *asker);

/* Slots remembered for clearing the visited set; a walk that sees more clears
 * the whole bitset instead. */
#define VX_TOUCHED 16384u

/* Take a context: *out_view, the current view, and all slots in it stay what they
 * are until release.  NULL if no memory is left. */
vx_ctx *vx_ctx_take(vx_graph *graph, vx_view **out_view);

/* As release and take, keeping the context: long work does so between its parts,
 * so that the writer need not wait for all of it. */
void vx_ctx_renew(vx_graph *graph, vx_ctx *ctx, vx_view **out_view);
void vx_ctx_release(vx_ctx *ctx);

/* Room for a walk with a pool of `ef` over `n` slots: false if there is no memory. */
bool vx_ctx_fit(vx_ctx *ctx, const vx_view *view, size_t n, size_t ef);

/* Put a key into the pool, which keeps the nearest `ef`. */
VX_INLINE void vx_ctx_offer(vx_ctx *ctx, size_t ef, vx_key key)
{
    size_t at = ctx->n_pool;
    if (at == ef && key >= ctx->pool[at - 1])
        return;
    at = ctx->n_pool < ef ? ctx->n_pool++ : ef - 1;
    for (; at > 0 && ctx->pool[at - 1] > key; at--)
        ctx->pool[at] = ctx->pool[at - 1];
    ctx->pool[at] = key;
}

/* Empty the visited set. */
void vx_ctx_forget(vx_ctx *ctx);

/* Writer only.  Begin an epoch; is every context of an older one released?  _wait
 * gives them some 20 ms: a longer search must not hold up a writer, which then
 * does without. */
uint64_t vx_epoch_next(vx_graph *graph);
bool vx_epoch_passed(const vx_graph *graph, uint64_t epoch);
bool vx_epoch_wait(const vx_graph *graph, uint64_t epoch);

/* In the child of a fork(): contexts of threads that are gone hold up nobody.  They may
 * be in any state and are given up, memory and all. */
void vx_ctx_after_fork(vx_graph *graph);

void vx_ctx_free_all(vx_graph *graph);
size_t vx_ctx_bytes(const vx_graph *graph);

#endif
