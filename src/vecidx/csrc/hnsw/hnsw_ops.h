/* hnsw_ops.h - the table of functions that each ISA's translation unit exports.
 *
 * The whole walk is compiled once per (ISA, metric), so that distance kernels
 * inline into it: a search makes one indirect call per layer, not one per
 * distance.  A hnsw_walk_<isa>.c holds static functions and its one table;
 * nothing else in it has external linkage. */
#ifndef HNSW_OPS_H
#define HNSW_OPS_H

#include "../dist/dist.h"
#include "hnsw_ctx.h"
#include "hnsw_filter.h"

typedef struct vx_metric_ops vx_metric_ops;

/* Rows that distances are computed between, and how.  A graph has its vectors
 * and, where it is quantised, codes of them: whoever walks, selects or repairs is
 * told which to use, and a query is a row of the same kind. */
typedef struct vx_space {
    const vx_metric_ops *ops;
    const char *rows;
    size_t row_bytes; /* a multiple of VX_LINE */
} vx_space;

VX_INLINE const void *vx_space_row(const vx_space *space, vx_slot slot)
{
    return space->rows + (size_t)slot * space->row_bytes;
}

/* Functions for one kind of rows (vx_kind). */
struct vx_metric_ops {
    /* One pair of rows, padded to row_bytes (dist_scalar.h has the contract). */
    float (*pair)(const void *a, const void *b, size_t row_bytes);

    /* `query` to n rows named by slot, fetched ahead in waves. */
    void (*many)(const void *query, const void *rows, size_t row_bytes,
                 const vx_slot *slots, size_t n, float *out);

    /* `query` to n rows that follow one another. */
    void (*scan)(const void *query, const void *rows, size_t row_bytes, size_t n, float *out);

    /* Greedy descent (Algorithm 2 with ef = 1): from `from`, through the layers
     * top .. bottom, to the nearest row found, whose key is returned.  Rows at
     * or above `n` do not exist for it. */
    vx_key (*descend)(const vx_space *space, const void *query, const vx_view *view, uint32_t n,
                      vx_slot from, unsigned top, unsigned bottom);

    /* Best-first walk of one layer (Algorithm 2) with a pool of `ef`, from the
     * entries in ctx->pool, which are marked visited here.  Leaves the nearest
     * found in ctx->pool, rising, and the visited set dirty.  It ends when
     * the nearest `window` are expanded (ef: all of them). */
    void (*walk)(const vx_space *space, const void *query, const vx_view *view, uint32_t n,
                 unsigned layer, size_t ef, size_t window, vx_ctx *ctx);

    /* Walk of layer 0 among allowed rows (hnsw_filtered.h), which are those in ctx->pool too.
     * It begins at `from`, allowed or not, and at those.  So many link rows
     * are fetched `ahead`. */
    void (*filtered)(const vx_space *space, const void *query, const vx_view *view,
                     const vx_allowed *allowed, vx_slot from, size_t ef, uint32_t ahead,
                     vx_ctx *ctx);
};

/* One query of a gated walk: its context, with the gate prepared, and its side of the
 * rows that the walk measures. */
typedef struct vx_gated {
    vx_ctx *ctx;
    const void *query;
    uint64_t entry; /* where it begins, as vx_snapshot has it                   */
    uint32_t n;    /* rows at or above it do not exist                          */
    size_t ef;     /* room in the pool                                          */
    size_t kth;    /* the bound hangs on the distance of the kth nearest so far */
    float reach;   /* ... times this: nothing farther is expanded or fetched    */
} vx_gated;

/* Kinds of rows. */
enum vx_kind {
    VX_KIND_F32_L2SQ, /* float32, squared Euclidean distance                    */
    VX_KIND_F32_IP,   /* float32, 1 - dot                                       */
    VX_KIND_U8_L2SQ,  /* unsigned bytes, squared Euclidean distance: codes      */
    VX_KIND_N4_L2SQ,  /* half bytes, one with another: codes of four bits       */
    VX_KIND_U4_L2SQ,  /* half bytes; a query is not packed (vx_codec_encode, _rank_query) */

    /* Rows of other dtypes, one with another; those of unsigned bytes under l2 are
     * above.  Cosine: of whole numbers, of any length; all others are unit rows. */
    VX_KIND_F16_L2SQ,
    VX_KIND_F16_IP,
    VX_KIND_BF16_L2SQ,
    VX_KIND_BF16_IP,
    VX_KIND_I8_L2SQ,
    VX_KIND_I8_IP,
    VX_KIND_I8_COSINE,
    VX_KIND_U8_IP,
    VX_KIND_U8_COSINE,

    /* A float32 query with such a row; under cosine of length 1. */
    VX_KIND_Q_F16_L2SQ,
    VX_KIND_Q_F16_IP,
    VX_KIND_Q_BF16_L2SQ,
    VX_KIND_Q_BF16_IP,
    VX_KIND_Q_I8_L2SQ,
    VX_KIND_Q_I8_IP,
    VX_KIND_Q_I8_COSINE,
    VX_KIND_Q_U8_L2SQ,
    VX_KIND_Q_U8_IP,
    VX_KIND_Q_U8_COSINE,

    /* Packed bits; the latter two in the table of avx512vnni only, for CPUs that can
     * run them (vx_kind_ops). */
    VX_KIND_BITS_HAMMING,
    VX_KIND_BITS_JACCARD,
    VX_KIND_VPOPCNT_HAMMING,
    VX_KIND_VPOPCNT_JACCARD,
    VX_N_KINDS,

    /* To the template of the walk: whatever space->ops says, one call a hop. */
    VX_KIND_ANY = VX_N_KINDS
};

typedef struct vx_ops {
    vx_level level;
    vx_metric_ops kind[VX_N_KINDS];
    vx_coords_fn coords;
    void (*edge)(const int16_t *p, const int16_t *r, const vx_codec *codec, vx_edge_sums *out);

    /* Descent, and layer 0 as vx_metric_ops.walk does, but reading sketches first
     * (hnsw_sketch.h); up to VX_TURNS queries. */
    void (*gated)(const vx_space *space, const vx_view *view, vx_gated *walks, unsigned n_walks);

    /* Parts of coords and gated, for tests. */
    void (*project)(const int8_t *matrix, const uint8_t *code, size_t row_bytes, size_t n,
                    int32_t *out);
    uint32_t (*gate)(const vx_gate *gate, const char *group, float step, float shift, float limit);
} vx_ops;

/* The table of a level, or NULL if this build has none. */
const vx_ops *vx_ops_of(vx_level level);

/* Of vectors of a dtype under a metric; for queries that are rows like them, or float32. */
int vx_kind_of(vx_dtype dtype, vx_metric metric, bool by_row);

/* The best functions of a level for a kind that this CPU can run. */
const vx_metric_ops *vx_kind_ops(vx_level level, int kind);

/* What the graph is built on: codes where it has them, otherwise the vectors.  A query
 * is a row. */
vx_space vx_graph_space(const vx_graph *graph, const vx_view *view);

/* The same of byte codes that a build has made for itself. */
vx_space vx_codes_space(const vx_view *view, const uint8_t *codes);

/* Codes, for queries that vx_codec_encode has prepared. */
vx_space vx_graph_codes(const vx_view *view);

/* What a gated walk measures: rank codes, or where there are none byte codes, or the
 * vectors: of floats by float32 queries, of whole numbers by rows. */
vx_space vx_graph_ranks(const vx_view *view);

/* The same where there are no ranks, for queries that are rows. */
vx_space vx_graph_measure(const vx_view *view);

/* What 1 in the square of a code's distance is in the distances of these two. */
float vx_ranks_unit(const vx_view *view);

/* The vectors under the graph's metric, for float32 queries. */
vx_space vx_graph_vectors(const vx_graph *graph, const vx_view *view);

/* A query in both its forms. */
typedef struct vx_query {
    const float *values; /* padded; under cosine of length 1                    */
    const void *row;     /* if it is whole numbers and so are the vectors: as they are */
} vx_query;

VX_INLINE vx_query vx_ctx_query(const vx_ctx *ctx)
{
    return (vx_query){ctx->query, ctx->has_row ? ctx->row : NULL};
}

/* The vectors under the graph's metric, for a query, the form of which that fits is left
 * in *out_query. */
vx_space vx_query_vectors(const vx_graph *graph, const vx_view *view, const vx_query *query,
                          const void **out_query);

#endif
