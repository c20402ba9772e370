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

#include <string.h>

#include "hnsw_ops.h"

#define VX_PASTE_(a, b) a##_##b
#define VX_PASTE(a, b) VX_PASTE_(a, b)
#define VX_NAMED(name) VX_PASTE(name, VX_ISA)

/* Lines fetched ahead of the row being computed, into L2.  Fewer leave the memory
 * idle between groups; at 512 and more, rows of 768 dimensions push one another
 * out (4 to 8 % slower than 128 to 256, which measured alike). */
#define VX_AHEAD_LINES 192

/* GCC 12 drops all but the first prefetch of a loop unless something it must not
 * reorder stands between them, hence the fence. */
VX_INLINE void fetch_row(const float *row, size_t row_floats)
{
    for (size_t i = 0; i < row_floats; i += 16) {
        VX_PREFETCH(row + i);
        VX_COMPILER_FENCE();
    }
}

VX_INLINE float distance_1(const float *q, const float *x, size_t row_floats, const int ip)
{
    return ip ? 1.0f - dot_1(q, x, row_floats) : l2sq_1(q, x, row_floats);
}

VX_INLINE void distance_4(const float *q, const float *const x[4], size_t row_floats, const int ip,
                          float out[4])
{
    if (ip) {
        dot_4(q, x, row_floats, out);
        for (int i = 0; i < 4; i++)
            out[i] = 1.0f - out[i];
    } else {
        l2sq_4(q, x, row_floats, out);
    }
}

VX_INLINE void many_body(const float *query, const float *rows, const size_t row_floats,
                         const vx_slot *slots, const size_t n, float *out, const int ip)
{
    const size_t ahead = (size_t)VX_AHEAD_LINES * 16 / row_floats + 1;
    const size_t first = ahead < n ? ahead : n;
    for (size_t i = 0; i < first; i++)
        fetch_row(rows + (size_t)slots[i] * row_floats, row_floats);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        const float *x[4];
        for (size_t j = 0; j < 4; j++) {
            x[j] = rows + (size_t)slots[i + j] * row_floats;
            if (i + j + ahead < n)
                fetch_row(rows + (size_t)slots[i + j + ahead] * row_floats, row_floats);
        }
        distance_4(query, x, row_floats, ip, out + i);
    }
    for (; i < n; i++)
        out[i] = distance_1(query, rows + (size_t)slots[i] * row_floats, row_floats, ip);
}

VX_INLINE void scan_body(const float *query, const float *rows, const size_t row_floats,
                         const size_t n, float *out, const int ip)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        const float *at = rows + i * row_floats;
        const float *x[4] = {at, at + row_floats, at + 2 * row_floats, at + 3 * row_floats};
        distance_4(query, x, row_floats, ip, out + i);
    }
    for (; i < n; i++)
        out[i] = distance_1(query, rows + i * row_floats, row_floats, ip);
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

VX_INLINE vx_key descend_body(const float *query, const vx_view *view, const uint32_t n,
                              vx_slot from, unsigned top, unsigned bottom, const int ip)
{
    const size_t row_floats = view->row_floats;
    vx_slot fresh[VX_MAX_M];
    float dists[VX_MAX_M + 4];
    vx_slot best = from;
    float best_dist = distance_1(query, vx_view_vector(view, from), row_floats, ip);

    for (unsigned layer = top; layer >= bottom && layer > 0; layer--) {
        for (bool moved = true; moved;) {
            const vx_link *row = vx_view_links(view, best, layer);
            size_t n_fresh = 0;
            for (uint32_t i = 0; i < view->M; i++) {
                const vx_slot slot =
                    atomic_load_explicit(&row[i], memory_order_relaxed) & VX_SLOT_BITS;
                fresh[n_fresh] = slot;
                /* The level test keeps a damaged mapped file inside bounds. */
                n_fresh += slot < n && view->levels[slot] >= layer;
            }
            many_body(query, view->vectors, row_floats, fresh, n_fresh, dists, ip);
            moved = false;
            for (size_t i = 0; i < n_fresh; i++)
                if (dists[i] < best_dist) {
                    best_dist = dists[i];
                    best = fresh[i];
                    moved = true;
                }
        }
    }
    return vx_key_of(best_dist, best);
}

/* Where `key` belongs among pool[0 .. n-1]. */
VX_INLINE size_t pool_place(const vx_key *pool, size_t n, vx_key key)
{
    const vx_key *at = pool;
    while (n > 0) {
        const size_t half = n / 2;
        const bool right = at[half] < key;
        at += right ? half + 1 : 0;
        n = right ? n - half - 1 : half;
    }
    return (size_t)(at - pool);
}

VX_INLINE void walk_body(const float *query, const vx_view *view, const uint32_t n,
                         const unsigned layer, const size_t ef, const size_t window, const uint32_t degree,
                         vx_ctx *ctx, const int ip)
{
    const size_t row_floats = view->row_floats;
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
            const uint32_t link = atomic_load_explicit(&row[i], memory_order_relaxed);
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

        if (cursor < n_pool)
            fetch_links(view, vx_key_slot(pool[cursor]), layer);
        many_body(query, view->vectors, row_floats, fresh, n_fresh, dists, ip);

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

/* name, and whether the metric is inner product */
#define VX_INSTANCE(name, ip) \
    static float VX_NAMED(pair_##name)(const float *a, const float *b, size_t row_floats) \
    { \
        return distance_1(a, b, row_floats, ip); \
    } \
    static void VX_NAMED(many_##name)(const float *query, const float *rows, size_t row_floats, \
                                      const vx_slot *slots, size_t n, float *out) \
    { \
        many_body(query, rows, row_floats, slots, n, out, ip); \
    } \
    static void VX_NAMED(scan_##name)(const float *query, const float *rows, size_t row_floats, \
                                      size_t n, float *out) \
    { \
        scan_body(query, rows, row_floats, n, out, ip); \
    } \
    static vx_key VX_NAMED(descend_##name)(const float *query, const vx_view *view, uint32_t n, \
                                           vx_slot from, unsigned top, unsigned bottom) \
    { \
        return descend_body(query, view, n, from, top, bottom, ip); \
    } \
    static void VX_NAMED(walk_##name)(const float *query, const vx_view *view, uint32_t n, \
                                      unsigned layer, size_t ef, size_t window, uint32_t degree, vx_ctx *ctx) \
    { \
        if (layer == 0) \
            walk_body(query, view, n, 0, ef, window, degree, ctx, ip); \
        else \
            walk_body(query, view, n, layer, ef, window, degree, ctx, ip); \
    }

VX_INSTANCE(l2sq, 0)
VX_INSTANCE(ip, 1)

#define VX_TABLE(name) \
    { \
        VX_NAMED(pair_##name), VX_NAMED(many_##name), VX_NAMED(scan_##name), \
            VX_NAMED(descend_##name), VX_NAMED(walk_##name) \
    }

extern const vx_ops VX_NAMED(vx_ops);
const vx_ops VX_NAMED(vx_ops) = {VX_ISA_LEVEL, {VX_TABLE(l2sq), VX_TABLE(ip)}};
