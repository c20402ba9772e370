/* hnsw_graph.h - rows and links in memory; the only code that knows their layout.
 *
 * A row is a slot, a 31-bit number.  Everything known of it lies at that number
 * in a plane (vx_plane.h): vector, links, level, label, and so on.  All planes
 * hang off one vx_view, whose addresses never change, so that a search that has
 * the view needs nothing else and no lock.  When the reserved space runs out the
 * writer copies everything into a larger view and publishes that.
 *
 * The link row of layer 0 ("block", block_bytes each, aligned to a line):
 *
 *   | id id id ... id | room for what a later walk wants beside the ids |
 *     2M of them
 *
 * Each id is a slot, nearest first in two runs: first the links that the
 * heuristic chose (Algorithm 4), then fillers, marked by VX_FILLER, which keep
 * the row full.  So a row says how many leading links were chosen.  Unused
 * places at the end hold VX_PAD; masked to 31 bits that is VX_NO_SLOT, which no
 * row ever has, so a reader needs one comparison (slot < n) to skip padding,
 * rows too new for it, and damage.
 * Layers above 0 have the same rows with M ids, in an arena of their own.
 *
 * A row equal to one that is in the graph already, its twin, is no node: nothing
 * links to it, its own link row holds VX_TWIN alone, and it hangs in a chain off
 * the node it equals (VX_PLANE_TWINS), to be returned with it.  So thousands of
 * equal rows cost a walk no more than one; as nodes they would fill its pool and
 * it could not get past them.
 *
 * A row dies by a death number and stays linked, as a way through the graph, until
 * hnsw_delete.c has led every link around it.  Then its link rows are emptied, and
 * after a grace (hnsw_ctx.h) the slot is used again for another row, on the level
 * that it has by its number.  So a free slot has a death number and a layer-0 row
 * that holds VX_TWIN alone, as no node's has, and is in no chain; no link leads to
 * it, and nothing else in its planes means anything but level and place.
 *
 * The paper's names: M is M; M_max = M, M_max0 = 2M; efConstruction is
 * ef_construction; m_L = 1 / ln M.
 * Malkov, Yashunin: Efficient and robust approximate nearest neighbor search
 * using Hierarchical Navigable Small World graphs, arXiv:1603.09320.
 */
#ifndef HNSW_GRAPH_H
#define HNSW_GRAPH_H

#include <stdatomic.h>

#include "../base/vx_base.h"
#include "../base/vx_plane.h"
#include "../dist/dist_form.h"
#include "../quant/quant_codec.h"

#define VX_FILLER 0x80000000u
#define VX_PAD 0xFFFFFFFFu
#define VX_TWIN 0xFFFFFFFEu /* masked it is VX_MAX_ROWS, which no row has either */
#define VX_SLOT_BITS 0x7FFFFFFFu
#define VX_MAX_ROW_LINKS (2 * VX_MAX_M)

typedef _Atomic uint32_t vx_link; /* read and written relaxed */

/* An entry point: level << 32 | slot. */
#define VX_NO_ENTRY ((uint64_t)VX_NO_SLOT)

enum vx_plane_name {
    VX_PLANE_VECTORS,  /* rows as dist_form.h has them, in vx_stored_form        */
    VX_PLANE_LINKS,    /* layer 0 blocks                                         */
    VX_PLANE_LEVELS,   /* u8: highest layer                                      */
    VX_PLANE_UPPER_AT, /* u32: the row of layer 1 in UPPER; layer l is l-1 later */
    VX_PLANE_LABELS,   /* i64                                                    */
    VX_PLANE_NORMS,    /* f32, where the form has norms: length before normalising */
    VX_PLANE_BIRTHS,   /* u64, see vx_view_sees                                  */
    VX_PLANE_DEATHS,   /* u64                                                    */
    VX_PLANE_TWINS,    /* u32: 1 + the next row equal to this one; 0: none       */
    VX_PLANE_CODES,    /* u8, where the graph is quantised (quant_codec.h); see has_codes */
    VX_PLANE_RANKS,    /* VX_RANK_BYTES, where the codec has them                */
    VX_PLANE_STALE,    /* one bit a row: its sketches await renewal              */
    VX_PLANE_UPPER,    /* link rows of the layers above 0                        */
    VX_N_PLANES
};

typedef struct vx_view {
    /* Fixed while the view lives. */
    char *vectors;
    char *links;
    uint8_t *levels;
    uint32_t *upper_at;
    vx_label *labels;
    float *norms;             /* NULL also where there is no row yet            */
    _Atomic uint64_t *births, *deaths;
    _Atomic uint32_t *twins;
    uint8_t *codes, *ranks;
    _Atomic uint64_t *stale;
    char *upper;
    vx_codec *codec;    /* shared; NULL: not quantised, or too few rows yet  */
    bool has_codes;     /* it has, and they are kept: else rows serve as they are */
    vx_form form;       /* of the vectors, as stored                         */
    size_t block_bytes; /* of a layer-0 link row                             */
    size_t upper_bytes; /* of a link row above                               */
    uint32_t M, M0;     /* links a row, above and on layer 0                 */
    uint32_t n_groups;  /* of sketches behind the ids of a layer-0 row       */
    size_t group_at, group_bytes;
    uint32_t capacity;  /* rows there is address space for                   */
    uint32_t upper_capacity;
    vx_plane planes[VX_N_PLANES]; /* committed sizes: writer only            */

    /* Published by the writer with release stores, in this order. */
    _Atomic bool any_dead;    /* some birth or death is set                  */
    _Atomic bool any_twins;   /* some row has a twin                         */
    _Atomic uint32_t n_rows;  /* slots 0 .. n_rows-1 are complete            */
    _Atomic uint64_t entry;   /* level << 32 | slot, or VX_NO_ENTRY          */
    _Atomic uint64_t seq;     /* of the last replacement                     */
    _Atomic float local_dim;  /* rows within r of a row grow as r^this; 0: unknown */

    _Atomic uint64_t unlinked; /* the highest death whose row may be unlinked */

    uint32_t n_upper;         /* rows used in UPPER; writer only             */
    bool is_closed;           /* holds nothing: what a closed graph shows    */
    struct vx_view *retired_next;
    uint64_t retired_epoch;   /* in which no reader took it any more         */
} vx_view;

/* Slots whose row is dead; writer only, but for n_linked (hnsw_delete.h). */
typedef struct vx_graves {
    vx_slot *linked;           /* rows to which links may lead still          */
    _Atomic uint32_t n_linked;
    uint32_t n_mended;         /* the first so many have lost most of them    */
    vx_slot *free;             /* slots that no link leads to ...             */
    uint32_t n_free, n_ready;  /* ... of which the first may be used, falling */
    uint64_t epoch;            /* with which the others become ready          */
    uint32_t room;             /* of both arrays                              */
} vx_graves;

typedef struct vx_graph {
    vx_params params;          /* fixed                                       */
    vx_form form;              /* fixed: of vectors as they are given         */
    _Atomic(vx_view *) view;   /* never NULL                                  */
    uint64_t n_calibrated;     /* rows there were when local_dim was measured; writer */
    vx_view nothing;           /* the view once the graph is closed           */
    uint64_t n_unproven;       /* rows added since vx_reconnect; writer       */
    vx_view *retired;          /* replaced views a reader may still use; writer */
    _Atomic(struct vx_ctx *) contexts; /* hnsw_ctx.h                          */
    _Atomic uint64_t epoch;    /* hnsw_ctx.h                                  */
    vx_graves graves;
} vx_graph;

vx_status vx_graph_init(vx_graph *graph, const vx_params *params, vx_error *err);
void vx_graph_fini(vx_graph *graph); /* a zeroed graph is fine */

/* Room for rows 0 .. n_rows-1 and n_upper rows in the upper arena: after VX_OK
 * the planes of the current view may be written that far.  Writer only.  On
 * VX_E_NOMEM nothing has changed. */
vx_status vx_graph_reserve(vx_graph *graph, uint64_t n_rows, uint64_t n_upper, vx_error *err);

/* Put a trained codec to work in place of the one there is, if any, or, where it is NULL,
 * go back to the vectors: a new view replaces the current one.  The codes of all rows up
 * to `n_rows` are computed, their sketches await renewal (vx_sketch_stale); `n_upper` is
 * as for vx_graph_reserve.  The view shares the codec.  Writer only; on an error nothing
 * has changed. */
vx_status vx_graph_quantise(vx_graph *graph, vx_codec *codec, uint64_t n_rows, uint64_t n_upper,
                            const vx_run *run, vx_error *err);

/* Where rows are held as bytes: store them as they are given from now on, in a new view with no
 * room for further ones.  Writer only; on an error nothing has changed. */
vx_status vx_graph_widen(vx_graph *graph, const vx_run *run, vx_error *err);

/* The codes of n slots whose vectors are in place; is_outside[i], if not NULL: row i lies
 * outside what codes span.  Writer only. */
vx_status vx_graph_encode(vx_graph *graph, const vx_slot *slots, size_t n, uint8_t *is_outside,
                          const vx_run *run);

/* The codes of the first n rows, in order, for as long as a build wants them. */
vx_status vx_view_make_codes(const vx_view *view, uint8_t *codes, size_t n, const vx_run *run);

/* An empty view with room for so many rows, to be filled, and given to
 * vx_graph_swap_view or freed. */
vx_status vx_view_new(const vx_params *params, vx_codec *codec, uint64_t n_rows,
                      uint64_t n_upper, vx_view **out, vx_error *err);
void vx_view_free(vx_view *view); /* NULL is fine */

/* Publish another view.  The old one is retired: freed by vx_graph_free_retired, or
 * a later vx_graph_reserve, once no reader is left in it. */
void vx_graph_swap_view(vx_graph *graph, vx_view *view);
void vx_graph_free_retired(vx_graph *graph);
/* Instead of the empty view of a new graph, one of exactly so many rows, to be
 * filled by the caller.  given[i], if not NULL, is the memory of plane i: another's,
 * kept by the caller and never written.  The graph must not be written afterwards. */
vx_status vx_graph_lay_over(vx_graph *graph, uint64_t n_rows, uint64_t n_upper,
                            const void *const given[VX_N_PLANES], vx_error *err);

/* Before there are rows: the codec of those to come, which the view shares. */
vx_status vx_graph_adopt(vx_graph *graph, vx_codec *codec, vx_error *err);

/* Bytes a row of a plane has; 0: the graph has no such plane. */
size_t vx_view_row_bytes(const vx_view *view, int plane);

/* Show nothing to readers from now on, and free what no reader uses any more:
 * true if that is all.  Writer only. */
bool vx_graph_close(vx_graph *graph);

/* The highest layer of a row, drawn from (seed, slot): P(level >= l) = M^-l. */
unsigned vx_graph_draw_level(const vx_graph *graph, vx_slot slot);

/* The level and the place in the upper arena of rows begin .. end-1: written
 * once, before they are linked, and kept when the slot is used again.  vx_graph_reserve has made room for them. */
void vx_graph_place_rows(vx_graph *graph, vx_view *view, vx_slot begin, vx_slot end);

/* Upper rows that so many rows need but for bad luck. */
uint32_t vx_view_upper_for(uint64_t rows, uint32_t M);

/* Upper rows that slots begin .. end-1 will need. */
uint64_t vx_graph_upper_needed(const vx_graph *graph, vx_slot begin, uint64_t end);

VX_INLINE char *vx_view_vector(const vx_view *view, vx_slot slot)
{
    return view->vectors + (size_t)slot * view->form.row_bytes;
}

/* The vector as float32, of unit length under cosine: itself, or in `room`, which has
 * form.query_floats. */
VX_INLINE const float *vx_view_floats(const vx_view *view, vx_slot slot, float *room)
{
    return vx_form_floats(&view->form, vx_view_vector(view, slot), room);
}

/* What rows are stored as: bytes where the codec holds them, else as they are given. */
vx_form vx_stored_form(const vx_params *params, const vx_codec *codec);

/* Are codes of such rows kept, and the graph built and walked on them?  Not beside rank
 * codes, which serve walks as well; large builds make them for a while (hnsw_insert.c).
 * Under "auto" not where rows are shorter than float32 either: they are read as they are
 * then, for no memory more; but under ip only ranks can tell, without codes, what a sketch
 * is to let pass. */
bool vx_keeps_codes(const vx_params *params, const vx_codec *codec);

VX_INLINE vx_link *vx_view_links(const vx_view *view, vx_slot slot, unsigned layer)
{
    if (layer == 0)
        return (vx_link *)(void *)(view->links + (size_t)slot * view->block_bytes);
    size_t at = (size_t)view->upper_at[slot] + layer - 1;
    if (VX_UNLIKELY(at >= view->upper_capacity))
        at = 0; /* a damaged mapped file: a wrong row, but one that is there */
    return (vx_link *)(void *)(view->upper + at * view->upper_bytes);
}

#define VX_MAX_GROUP_BYTES (128 + VX_MAX_SKETCH * 4)
#define VX_MAX_BLOCK_BYTES \
    (VX_MAX_ROW_LINKS * sizeof(vx_link) + VX_LINE + \
     (VX_MAX_ROW_LINKS / VX_GATE_EDGES + 1) * VX_MAX_GROUP_BYTES)

/* The sketches of links 32 g .. 32 g + 31 of a layer-0 row. */
VX_INLINE char *vx_view_group(const vx_view *view, vx_slot slot, uint32_t g)
{
    return view->links + (size_t)slot * view->block_bytes + view->group_at +
           g * view->group_bytes;
}

/* The next row equal to this one, or VX_NO_SLOT. */
VX_INLINE vx_slot vx_view_next_twin(const vx_view *view, vx_slot slot)
{
    return (atomic_load_explicit(&view->twins[slot], memory_order_acquire) - 1) & VX_SLOT_BITS;
}

/* Is the row no node, but the twin of one? */
VX_INLINE bool vx_view_is_twin(const vx_view *view, vx_slot slot)
{
    return atomic_load_explicit(vx_view_links(view, slot, 0), memory_order_relaxed) == VX_TWIN;
}

VX_INLINE uint32_t vx_view_row_links(const vx_view *view, unsigned layer)
{
    return layer == 0 ? view->M0 : view->M;
}

/* What a search sees: loaded once, at its start, in this order. */
typedef struct vx_snapshot {
    uint64_t entry;
    uint64_t seq;
    uint32_t n;
    bool any_dead;
} vx_snapshot;

VX_INLINE vx_snapshot vx_view_snapshot(vx_view *view)
{
    vx_snapshot now;
    now.entry = atomic_load_explicit(&view->entry, memory_order_acquire);
    now.seq = atomic_load_explicit(&view->seq, memory_order_acquire);
    now.n = atomic_load_explicit(&view->n_rows, memory_order_acquire);
    /* A snapshot that holds the new row of a replacement was published after
     * any_dead was set, so the order of these loads makes the shortcut safe. */
    now.any_dead = atomic_load_explicit(&view->any_dead, memory_order_acquire);
    return now;
}

/* May a search with this snapshot return the slot?  A row counts from its birth
 * to its death; a replacement gives the new row's birth and the old row's death
 * one number, so every snapshot holds exactly one of the two.  0 in the planes
 * means "from the beginning" and "never".  The death is read first: a slot used
 * again gets its new birth before it loses its old death (vx_view_bear). */
VX_INLINE bool vx_view_sees(const vx_view *view, const vx_snapshot *now, vx_slot slot)
{
    if (slot >= now->n)
        return false;
    if (!now->any_dead)
        return true;
    const uint64_t death = atomic_load_explicit(&view->deaths[slot], memory_order_acquire);
    const uint64_t birth = atomic_load_explicit(&view->births[slot], memory_order_relaxed);
    return birth <= now->seq && (death == 0 || death > now->seq);
}

/* May a node stand for a row that the search may return: itself or a twin? */
VX_INLINE bool vx_view_shows(const vx_view *view, const vx_snapshot *now, vx_slot node)
{
    return vx_view_sees(view, now, node) || vx_view_next_twin(view, node) < view->capacity;
}

/* Let the row of a slot that is used again count from `seq` on. */
VX_INLINE void vx_view_bear(vx_view *view, vx_slot slot, uint64_t seq)
{
    atomic_store_explicit(&view->births[slot], seq, memory_order_relaxed);
    atomic_store_explicit(&view->deaths[slot], 0, memory_order_release);
}

/* The death of a row that the running add is about to replace. */
#define VX_DOOMED UINT64_MAX

/* Is the row neither dead nor about to be?  Writer only. */
VX_INLINE bool vx_view_is_alive(const vx_view *view, vx_slot slot)
{
    return atomic_load_explicit(&view->deaths[slot], memory_order_relaxed) == 0;
}

/* A link as stored.  Acquire: who sees a link to a row that is being added sees
 * that row's vector and links whole.  (On x86 any load is one; elsewhere it costs
 * little beside the miss it leads to.) */
VX_INLINE uint32_t vx_link_load(const vx_link *link)
{
    return atomic_load_explicit((vx_link *)link, memory_order_acquire);
}

#endif
