/* hnsw_walk.h - the walk of one layer, as a template.
 *
 * Each hnsw_walk_<isa>.c includes that ISA's kernels, defines VX_ISA to its
 * suffix, includes this, and so gets static functions named for perf to tell
 * apart (walk_l2sq_avx512, ...) and the exported table vx_ops_<isa>.
 *
 * A hop costs what it reads.  So it first gathers the neighbours not seen before
 * (cheap: one line of links or two, and a bitset that stays in L2), then fetches
 * their rows in waves while it computes, four rows against the query at a time.
 * The next node's links are asked for before the wait begins.
 *
 * Departures from Algorithm 2: one sorted array with a cursor instead of two
 * heaps (every candidate that could still be expanded is in it, since one worse
 * than the ef-th is never expanded); distances of a hop are computed together. */

#include <math.h>
#include <string.h>

#include "../base/vx_count.h"
#include "../quant/quant_kernels.h"
#include "hnsw_ops.h"
#include "hnsw_sketch.h"

#define VX_PASTE_(a, b) a##_##b
#define VX_PASTE(a, b) VX_PASTE_(a, b)
#define VX_NAMED(name) VX_PASTE(name, VX_ISA)

/* Lines fetched ahead of the row being computed, into L2.  Fewer leave the memory
 * idle between groups; at 512 and more, rows of 768 dimensions push one another
 * out (4 to 8 % slower than 128 to 256, which measured alike). */
#define VX_AHEAD_LINES 192

/* GCC 12 drops all but the first prefetch of a loop unless something it must not
 * reorder stands between them, hence the fence. */
VX_INLINE void fetch_row(const char *row, size_t row_bytes)
{
    for (size_t i = 0; i < row_bytes; i += VX_LINE) {
        VX_PREFETCH(row + i);
        VX_COMPILER_FENCE();
    }
}

/* n rows are asked for and compared; they count by what they are. */
VX_INLINE void count_rows(const size_t n, const size_t row_bytes, const int kind)
{
    VX_COUNT(kind == VX_KIND_U8_L2SQ ? VX_COUNT_CODES
             : kind == VX_KIND_U4_L2SQ ? VX_COUNT_RANKS : VX_COUNT_VECTORS, n);
    VX_COUNT(VX_COUNT_LINES, n * (row_bytes / VX_LINE));
    (void)n, (void)row_bytes, (void)kind;
}

#include "hnsw_typed.h"

VX_INLINE float distance_1(const char *q, const char *x, size_t row_bytes, const int kind)
{
    const float *qf = (const float *)(const void *)q, *xf = (const float *)(const void *)x;
    if (kind > VX_KIND_U4_L2SQ)
        return typed_1(q, x, row_bytes, kind);
    if (kind == VX_KIND_U4_L2SQ)
        return (float)u4l2sq_1((const uint8_t *)q, (const uint8_t *)x, row_bytes);
    if (kind == VX_KIND_N4_L2SQ)
        return (float)n4l2sq_1((const uint8_t *)q, (const uint8_t *)x, row_bytes);
    if (kind == VX_KIND_U8_L2SQ)
        return (float)u8l2sq_1((const uint8_t *)q, (const uint8_t *)x, row_bytes);
    if (kind == VX_KIND_F32_IP)
        return 1.0f - dot_1(qf, xf, row_bytes / sizeof(float));
    return l2sq_1(qf, xf, row_bytes / sizeof(float));
}

VX_INLINE void distance_4(const char *q, const char *const x[4], size_t row_bytes, const int kind,
                          float out[4])
{
    const float *qf = (const float *)(const void *)q;
    const float *const xf[4] = {(const float *)(const void *)x[0], (const float *)(const void *)x[1],
                                (const float *)(const void *)x[2], (const float *)(const void *)x[3]};
    if (kind > VX_KIND_U4_L2SQ) {
        typed_4(q, x, row_bytes, kind, out);
    } else if (kind == VX_KIND_U8_L2SQ || kind == VX_KIND_U4_L2SQ || kind == VX_KIND_N4_L2SQ) {
        const uint8_t *const xb[4] = {(const uint8_t *)x[0], (const uint8_t *)x[1],
                                      (const uint8_t *)x[2], (const uint8_t *)x[3]};
        uint32_t sums[4];
        if (kind == VX_KIND_U4_L2SQ)
            u4l2sq_4((const uint8_t *)q, xb, row_bytes, sums);
        else if (kind == VX_KIND_N4_L2SQ)
            n4l2sq_4((const uint8_t *)q, xb, row_bytes, sums);
        else
            u8l2sq_4((const uint8_t *)q, xb, row_bytes, sums);
        for (int i = 0; i < 4; i++)
            out[i] = (float)sums[i];
    } else if (kind == VX_KIND_F32_IP) {
        dot_4(qf, xf, row_bytes / sizeof(float), out);
        for (int i = 0; i < 4; i++)
            out[i] = 1.0f - out[i];
    } else {
        l2sq_4(qf, xf, row_bytes / sizeof(float), out);
    }
}

VX_INLINE void many_body(const char *query, const char *rows, const size_t row_bytes,
                         const vx_slot *slots, const size_t n, float *out, const int kind)
{
    const size_t ahead = (size_t)VX_AHEAD_LINES * VX_LINE / row_bytes + 1;
    const size_t first = ahead < n ? ahead : n;
    count_rows(n, row_bytes, kind);
    for (size_t i = 0; i < first; i++)
        fetch_row(rows + (size_t)slots[i] * row_bytes, row_bytes);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        const char *x[4];
        for (size_t j = 0; j < 4; j++) {
            x[j] = rows + (size_t)slots[i + j] * row_bytes;
            if (i + j + ahead < n)
                fetch_row(rows + (size_t)slots[i + j + ahead] * row_bytes, row_bytes);
        }
        distance_4(query, x, row_bytes, kind, out + i);
    }
    for (; i < n; i++)
        out[i] = distance_1(query, rows + (size_t)slots[i] * row_bytes, row_bytes, kind);
}

/* The same to rows of a space, VX_KIND_ANY among the kinds.  `rows` and `row_bytes` are
 * the space's. */
VX_INLINE void space_many(const vx_space *space, const char *query, const char *rows,
                          const size_t row_bytes, const vx_slot *slots, const size_t n,
                          float *out, const int kind)
{
    if (kind == VX_KIND_ANY)
        space->ops->many(query, rows, row_bytes, slots, n, out);
    else
        many_body(query, rows, row_bytes, slots, n, out, kind);
}

VX_INLINE float space_one(const vx_space *space, const char *query, vx_slot slot, const int kind)
{
    float dist[4];
    if (kind != VX_KIND_ANY)
        return distance_1(query, vx_space_row(space, slot), space->row_bytes, kind);
    space->ops->many(query, space->rows, space->row_bytes, &slot, 1, dist);
    return dist[0];
}

VX_INLINE void scan_body(const char *query, const char *rows, const size_t row_bytes,
                         const size_t n, float *out, const int kind)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        const char *at = rows + i * row_bytes;
        const char *x[4] = {at, at + row_bytes, at + 2 * row_bytes, at + 3 * row_bytes};
        distance_4(query, x, row_bytes, kind, out + i);
    }
    for (; i < n; i++)
        out[i] = distance_1(query, rows + i * row_bytes, row_bytes, kind);
}

VX_INLINE void fetch_links(const vx_view *view, vx_slot slot, unsigned layer)
{
    const char *row = (const char *)vx_view_links(view, slot, layer);
    const size_t bytes = vx_view_row_links(view, layer) * sizeof(vx_link);
    for (size_t i = 0; i < bytes; i += VX_LINE) {
        VX_PREFETCH(row + i);
        VX_COMPILER_FENCE();
    }
}

/* A greedy descent (Algorithm 2 with ef = 1), in two halves as a gated walk has them:
 * gather the links of the best row so far, then compare.  Among many clusters it often ends
 * in a wrong one; a beam of 4 to 16 on layer 1, simulated, mends a part of that, but costs up
 * to 12 to 45 % more distances at equal recall on embeddings and descriptors
 * (benchmarks/RESULTS.md, "Where recall is lost among many clusters"). */
typedef struct descent {
    vx_slot best, fresh[VX_MAX_M];
    float dist;
    unsigned layer, bottom;
    size_t n_fresh;
} descent;

VX_INLINE bool descent_goes_on(const descent *d) { return d->layer >= d->bottom && d->layer > 0; }

VX_INLINE void descent_gather(descent *d, const vx_view *view, const uint32_t n)
{
    const vx_link *row = vx_view_links(view, d->best, d->layer);
    d->n_fresh = 0;
    for (uint32_t i = 0; i < view->M; i++) {
        const vx_slot slot = vx_link_load(&row[i]) & VX_SLOT_BITS;
        d->fresh[d->n_fresh] = slot;
        /* The level test keeps a damaged mapped file inside bounds. */
        d->n_fresh += slot < n && view->levels[slot] >= d->layer;
    }
}

VX_INLINE void descent_compare(descent *d, const vx_space *space, const char *query,
                               const int kind)
{
    float dists[VX_MAX_M + 4];
    const vx_slot before = d->best;
    space_many(space, query, space->rows, space->row_bytes, d->fresh, d->n_fresh, dists, kind);
    for (size_t i = 0; i < d->n_fresh; i++)
        if (dists[i] < d->dist) {
            d->dist = dists[i];
            d->best = d->fresh[i];
        }
    d->layer -= d->best == before;
}

VX_INLINE vx_key descend_body(const vx_space *space, const char *query, const vx_view *view,
                              const uint32_t n, vx_slot from, unsigned top, unsigned bottom,
                              const int kind)
{
    descent d = {.best = from, .layer = top, .bottom = bottom};
    d.dist = space_one(space, query, from, kind);
    while (descent_goes_on(&d)) {
        descent_gather(&d, view, n);
        descent_compare(&d, space, query, kind);
    }
    return vx_key_of(d.dist, d.best);
}

/* Where `key` belongs among pool[0 .. n-1].  No branch depends on a key: half of
 * them would be guessed wrong. */
VX_INLINE size_t pool_place(const vx_key *pool, size_t n, vx_key key)
{
    const vx_key *at = pool;
    while (n > 1) {
        const size_t half = n / 2;
        at += at[half - 1] < key ? half : 0;
        n -= half;
    }
    return (size_t)(at - pool) + (n == 1 && *at < key);
}

VX_INLINE void walk_body(const vx_space *space, const char *query, const vx_view *view,
                         const uint32_t n, const unsigned layer, const size_t ef,
                         const size_t window, vx_ctx *ctx, const int kind)
{
    const uint32_t degree = vx_view_row_links(view, layer);
    const char *const rows = space->rows;
    const size_t row_bytes = space->row_bytes;
    vx_key *const pool = ctx->pool;
    uint64_t *const visited = ctx->visited;
    float *const dists = ctx->dists;
    size_t n_pool = ctx->n_pool, cursor = 0;

    for (size_t i = 0; i < n_pool; i++) {
        const vx_slot slot = vx_key_slot(pool[i]);
        visited[slot >> 6] |= (uint64_t)1 << (slot & 63);
        ctx->touched[ctx->n_touched++] = slot;
    }

    /* At the top of each turn pool[0 .. cursor-1] are expanded and pool[cursor]
     * is the nearest that is not.  What is reached only through rows worse than
     * a full pool stays unseen: that is the approximation. */
    while (cursor < n_pool && cursor < window) {
        const vx_slot here = vx_key_slot(pool[cursor]);
        pool[cursor++] |= 1;
        while (cursor < n_pool && (pool[cursor] & 1))
            cursor++;

        const vx_link *row = vx_view_links(view, here, layer);
        vx_slot *fresh = ctx->touched + (ctx->n_touched < VX_TOUCHED ? ctx->n_touched : VX_TOUCHED);
        size_t n_fresh = 0;
        for (uint32_t i = 0; i < degree; i++) {
            const uint32_t link = vx_link_load(&row[i]);
            const vx_slot slot = link & VX_SLOT_BITS;
            if (VX_UNLIKELY(slot >= n))
                continue;
            if (layer > 0 && view->levels[slot] < layer)
                continue;
            const uint64_t word = visited[slot >> 6], bit = (uint64_t)1 << (slot & 63);
            visited[slot >> 6] = word | bit;
            fresh[n_fresh] = slot;
            n_fresh += (word & bit) == 0;
        }
        ctx->n_touched += n_fresh;
        VX_COUNT(VX_COUNT_HOPS, 1);
        VX_COUNT(VX_COUNT_EDGES, degree);
        VX_COUNT(VX_COUNT_LINES, (degree * sizeof(vx_link) + VX_LINE - 1) / VX_LINE);

        if (cursor < n_pool)
            fetch_links(view, vx_key_slot(pool[cursor]), layer);
        space_many(space, query, rows, row_bytes, fresh, n_fresh, dists, kind);

        for (size_t i = 0; i < n_fresh; i++) {
            const vx_key key = vx_key_of(dists[i], fresh[i]);
            if (n_pool == ef && key >= pool[ef - 1])
                continue;
            const size_t at = pool_place(pool, n_pool, key);
            n_pool += n_pool < ef;
            memmove(pool + at + 1, pool + at, (n_pool - 1 - at) * sizeof *pool);
            pool[at] = key;
            if (at < cursor) {
                cursor = at;
                fetch_links(view, fresh[i], layer);
            }
        }
        while (cursor < n_pool && (pool[cursor] & 1))
            cursor++;
    }
    ctx->n_pool = n_pool;
}

#include "hnsw_gated.h"
#include "hnsw_filtered.h"

/* Distances of a kind, and */
#define VX_DISTANCES(name, kind) \
    static float VX_NAMED(pair_##name)(const void *a, const void *b, size_t row_bytes) \
    { \
        return distance_1(a, b, row_bytes, kind); \
    } \
    static void VX_NAMED(many_##name)(const void *query, const void *rows, size_t row_bytes, \
                                      const vx_slot *slots, size_t n, float *out) \
    { \
        many_body(query, rows, row_bytes, slots, n, out, kind); \
    } \
    static void VX_NAMED(scan_##name)(const void *query, const void *rows, size_t row_bytes, \
                                      size_t n, float *out) \
    { \
        scan_body(query, rows, row_bytes, n, out, kind); \
    }

/* walks with them inlined. */
#define VX_WALKS(name, kind) \
    static vx_key VX_NAMED(descend_##name)(const vx_space *space, const void *query, \
                                           const vx_view *view, uint32_t n, vx_slot from, \
                                           unsigned top, unsigned bottom) \
    { \
        return descend_body(space, query, view, n, from, top, bottom, kind); \
    } \
    static void VX_NAMED(walk_##name)(const vx_space *space, const void *query, \
                                      const vx_view *view, uint32_t n, unsigned layer, size_t ef, \
                                      size_t window, vx_ctx *ctx) \
    { \
        if (layer == 0) \
            walk_body(space, query, view, n, 0, ef, window, ctx, kind); \
        else \
            walk_body(space, query, view, n, layer, ef, window, ctx, kind); \
    } \
    static void VX_NAMED(filtered_##name)(const vx_space *space, const void *query, \
                                          const vx_view *view, const vx_allowed *allowed, \
                                          vx_slot from, size_t ef, uint32_t ahead, vx_ctx *ctx) \
    { \
        filtered_body(space, query, view, allowed, from, ef, ahead, ctx, kind); \
    }

/* Kinds whose walks are their own, and those that share the walks of VX_KIND_ANY: a call
 * a hop costs them nothing that could be measured, walks of their own half a megabyte. */
#define VX_OWN_KINDS(DO) \
    DO(l2sq, VX_KIND_F32_L2SQ) \
    DO(ip, VX_KIND_F32_IP) \
    DO(u8l2sq, VX_KIND_U8_L2SQ) \
    DO(n4l2sq, VX_KIND_N4_L2SQ) \
    DO(u4l2sq, VX_KIND_U4_L2SQ)
#define VX_SHARING_KINDS(DO) \
    DO(f16l2sq, VX_KIND_F16_L2SQ) \
    DO(f16ip, VX_KIND_F16_IP) \
    DO(bf16l2sq, VX_KIND_BF16_L2SQ) \
    DO(bf16ip, VX_KIND_BF16_IP) \
    DO(i8l2sq, VX_KIND_I8_L2SQ) \
    DO(i8ip, VX_KIND_I8_IP) \
    DO(i8cosine, VX_KIND_I8_COSINE) \
    DO(u8ip, VX_KIND_U8_IP) \
    DO(u8cosine, VX_KIND_U8_COSINE) \
    DO(qf16l2sq, VX_KIND_Q_F16_L2SQ) \
    DO(qf16ip, VX_KIND_Q_F16_IP) \
    DO(qbf16l2sq, VX_KIND_Q_BF16_L2SQ) \
    DO(qbf16ip, VX_KIND_Q_BF16_IP) \
    DO(qi8l2sq, VX_KIND_Q_I8_L2SQ) \
    DO(qi8ip, VX_KIND_Q_I8_IP) \
    DO(qi8cosine, VX_KIND_Q_I8_COSINE) \
    DO(qu8l2sq, VX_KIND_Q_U8_L2SQ) \
    DO(qu8ip, VX_KIND_Q_U8_IP) \
    DO(qu8cosine, VX_KIND_Q_U8_COSINE) \
    DO(hamming, VX_KIND_BITS_HAMMING) \
    DO(jaccard, VX_KIND_BITS_JACCARD) \
    VX_VPOPCNT_KINDS(DO)
#ifdef VX_HAS_VPOPCNT
#define VX_VPOPCNT_KINDS(DO) \
    DO(hamming_vpopcnt, VX_KIND_VPOPCNT_HAMMING) \
    DO(jaccard_vpopcnt, VX_KIND_VPOPCNT_JACCARD)
#else
#define VX_VPOPCNT_KINDS(DO)
#endif

VX_OWN_KINDS(VX_DISTANCES)
VX_OWN_KINDS(VX_WALKS)
VX_SHARING_KINDS(VX_DISTANCES)
VX_WALKS(any, VX_KIND_ANY)

#define VX_TABLE(name, walks) \
    { \
        VX_NAMED(pair_##name), VX_NAMED(many_##name), VX_NAMED(scan_##name), \
            VX_NAMED(descend_##walks), VX_NAMED(walk_##walks), VX_NAMED(filtered_##walks) \
    }
#define VX_OWN_ENTRY(name, kind) [kind] = VX_TABLE(name, name),
#define VX_SHARING_ENTRY(name, kind) [kind] = VX_TABLE(name, any),

static void VX_NAMED(coords)(const vx_codec *codec, const uint8_t *code, float *out)
{
    coords_body(codec, code, out);
}

static void VX_NAMED(edge)(const int16_t *p, const int16_t *r, const vx_codec *codec,
                           vx_edge_sums *out)
{
    if (codec->has_ranks)
        measure_edge(p, r, VX_MAX_SKETCH, VX_RANK_COORDS, out);
    else
        measure_edge(p, r, 64, 0, out);
}

static void VX_NAMED(project)(const int8_t *matrix, const uint8_t *code, size_t row_bytes,
                              size_t n, int32_t *out)
{
    project_rows(matrix, code, row_bytes, n, out);
}

extern const vx_ops VX_NAMED(vx_ops);
const vx_ops VX_NAMED(vx_ops) = {
    VX_ISA_LEVEL,
    {VX_OWN_KINDS(VX_OWN_ENTRY) VX_SHARING_KINDS(VX_SHARING_ENTRY)},
    VX_NAMED(coords),
    VX_NAMED(edge),
    VX_NAMED(gated),
    VX_NAMED(project),
    VX_NAMED(gate),
};
