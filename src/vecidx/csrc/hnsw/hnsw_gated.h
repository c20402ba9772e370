/* hnsw_gated.h - the walk of layer 0 that reads sketches first, as a template; part
 * of hnsw_walk.h.
 *
 * A hop has two halves.  The first takes the nearest candidate, scans the sketches of
 * its 32 links in registers and asks for the rows of those that pass (a quarter of
 * them, as a rule).  The second computes their distances, enters them, and asks for
 * the block of the next candidate.  Between the halves memory is at work, and other
 * queries can be: a hop waits for memory twice, some 200 ns each time. */

/* An estimate is let through when it is no further above the bound than this many
 * times |B| |q - u|, which its error is in proportion to. */
#ifndef GATE_SLACK
#define GATE_SLACK 0.3f
#endif

typedef struct gated_state {
    const vx_view *view;
    vx_ctx *ctx;
    const char *query, *rows;
    size_t row_bytes, ef, kth, n_pool, cursor;
    vx_slot *fresh;
    size_t n_fresh;
    uint32_t n;
    float reach, bound; /* bound: beyond it nothing is of use */
    float per_code;     /* coordinates per unit of distance   */
    float edge_unit;    /* squared distance that is 1 in an edge's factors */
    const vx_space *space;
    bool done;
} gated_state;

VX_INLINE void fetch_block(const vx_view *view, vx_slot slot)
{
    const char *block = view->links + (size_t)slot * view->block_bytes;
    for (size_t i = 0; i < view->block_bytes; i += VX_LINE) {
        VX_PREFETCH(block + i);
        VX_COMPILER_FENCE();
    }
}

/* What a candidate has to be below, from the pool as it stands. */
VX_INLINE float gated_bound(const gated_state *s)
{
    const vx_key *pool = s->ctx->pool;
    float bound = INFINITY;
    if (s->n_pool == s->ef)
        bound = vx_key_dist(pool[s->ef - 1]);
    if (s->n_pool >= s->kth) {
        const float reach = vx_key_dist(pool[s->kth - 1]) * s->reach;
        bound = reach < bound ? reach : bound;
    }
    return bound;
}

VX_INLINE void gated_start(gated_state *s, const vx_space *space, const vx_view *view,
                           const vx_gated *walk, const int kind)
{
    vx_ctx *ctx = walk->ctx;
    *s = (gated_state){.view = view, .ctx = ctx, .query = walk->query, .rows = space->rows};
    s->space = space;
    s->row_bytes = space->row_bytes;
    s->ef = walk->ef;
    s->kth = walk->kth;
    s->reach = walk->reach;
    s->n = walk->n;
    s->n_pool = ctx->n_pool;
    s->per_code = kind == VX_KIND_U4_L2SQ ? 1.0f : view->codec->coords_per_code;
    s->edge_unit = view->codec->edge_unit;
    if (kind == VX_KIND_ANY) { /* vectors, which have a unit of their own */
        s->per_code /= sqrtf(vx_ranks_unit(view));
        s->edge_unit *= vx_ranks_unit(view);
    }
    for (size_t i = 0; i < s->n_pool; i++) {
        const vx_slot slot = vx_key_slot(ctx->pool[i]);
        ctx->visited[slot >> 6] |= (uint64_t)1 << (slot & 63);
        ctx->touched[ctx->n_touched++] = slot;
    }
    s->bound = gated_bound(s);
    s->done = s->n_pool == 0;
    if (!s->done)
        fetch_block(view, vx_key_slot(ctx->pool[0]));
}

/* The one reader of sketches: they may be changing (hnsw_sketch.h). */
VX_RACY uint32_t VX_NAMED(gate)(const vx_gate *gate, const char *group, float step, float shift,
                                float limit)
{
    return gate_32(gate, group, step, shift, limit);
}

VX_INLINE void gated_open(gated_state *s)
{
    const vx_view *view = s->view;
    vx_ctx *ctx = s->ctx;
    const vx_key here = ctx->pool[s->cursor];
    const float base = vx_key_dist(here);
    ctx->pool[s->cursor++] = here | 1;

    const char *block = view->links + (size_t)vx_key_slot(here) * view->block_bytes;
    const vx_link *ids = (const vx_link *)(const void *)block;
    const vx_gate *gate = ctx->gate;
    const float step = gate->step / VX_SKETCH_B_SCALE;
    const float shift =
        (gate->low + GATE_SLACK * sqrtf(base) * s->per_code) / VX_SKETCH_B_SCALE;
    const float limit = (s->bound - base) / s->edge_unit;
    vx_slot *fresh = ctx->touched + (ctx->n_touched < VX_TOUCHED ? ctx->n_touched : VX_TOUCHED);
    size_t n_fresh = 0;
    for (uint32_t g = 0; g < view->n_groups; g++) {
        uint32_t passed = VX_NAMED(gate)(gate, block + view->group_at + g * view->group_bytes,
                                         step, shift, limit);
        while (passed != 0) {
            const uint32_t i = 32 * g + (uint32_t)vx_lowest_bit(passed);
            passed &= passed - 1;
            if (VX_UNLIKELY(i >= view->M0))
                break;
            const vx_slot slot = vx_link_load(&ids[i]) & VX_SLOT_BITS;
            if (VX_UNLIKELY(slot >= s->n))
                continue;
            const uint64_t word = ctx->visited[slot >> 6], bit = (uint64_t)1 << (slot & 63);
            if (word & bit)
                continue;
            ctx->visited[slot >> 6] = word | bit;
            fresh[n_fresh++] = slot;
            fetch_row(s->rows + (size_t)slot * s->row_bytes, s->row_bytes);
        }
    }
    ctx->n_touched += n_fresh;
    s->fresh = fresh;
    s->n_fresh = n_fresh;
}

VX_INLINE void gated_enter(gated_state *s, vx_slot slot, float dist)
{
    vx_key *const pool = s->ctx->pool;
    if (!(dist < s->bound))
        return;
    const vx_key key = vx_key_of(dist, slot);
    const size_t at = pool_place(pool, s->n_pool, key);
    s->n_pool += s->n_pool < s->ef;
    memmove(pool + at + 1, pool + at, (s->n_pool - 1 - at) * sizeof *pool);
    pool[at] = key;
    if (at < s->cursor)
        s->cursor = at;
    s->bound = gated_bound(s);
}

VX_INLINE void gated_close(gated_state *s, const int kind)
{
    size_t i = 0;
    if (kind == VX_KIND_ANY) {
        float *dists = s->ctx->dists;
        space_many(s->space, s->query, s->rows, s->row_bytes, s->fresh, s->n_fresh, dists, kind);
        for (; i < s->n_fresh; i++)
            gated_enter(s, s->fresh[i], dists[i]);
    } else {
        count_rows(s->n_fresh, s->row_bytes, kind);
    }
    VX_COUNT(VX_COUNT_HOPS, 1);
    VX_COUNT(VX_COUNT_EDGES, s->view->M0);
    VX_COUNT(VX_COUNT_LINES, s->view->block_bytes / VX_LINE);
    for (; i + 4 <= s->n_fresh; i += 4) {
        const char *x[4];
        float dists[4];
        for (size_t j = 0; j < 4; j++)
            x[j] = s->rows + (size_t)s->fresh[i + j] * s->row_bytes;
        distance_4(s->query, x, s->row_bytes, kind, dists);
        for (size_t j = 0; j < 4; j++)
            gated_enter(s, s->fresh[i + j], dists[j]);
    }
    for (; i < s->n_fresh; i++)
        gated_enter(s, s->fresh[i],
                    distance_1(s->query, s->rows + (size_t)s->fresh[i] * s->row_bytes,
                               s->row_bytes, kind));
    const vx_key *pool = s->ctx->pool;
    while (s->cursor < s->n_pool && (pool[s->cursor] & 1))
        s->cursor++;
    s->done = s->cursor == s->n_pool || vx_key_dist(pool[s->cursor]) > s->bound;
    if (!s->done)
        fetch_block(s->view, vx_key_slot(pool[s->cursor]));
}

/* All descents, a step of each in turn. */
VX_INLINE void descend_in_turns(const vx_space *space, const vx_view *view, vx_gated *walks,
                                const unsigned n_walks, const int kind)
{
    descent descents[VX_TURNS];
    for (unsigned w = 0; w < n_walks; w++) {
        descents[w].best = (vx_slot)walks[w].entry;
        descents[w].layer = (unsigned)(walks[w].entry >> 32);
        descents[w].bottom = 1;
        descents[w].dist = space_one(space, walks[w].query, descents[w].best, kind);
    }
    for (bool any = true; any;) {
        any = false;
        for (unsigned w = 0; w < n_walks; w++)
            if (descent_goes_on(&descents[w])) {
                descent_gather(&descents[w], view, walks[w].n);
                for (size_t i = 0; i < descents[w].n_fresh; i++) /* counted as compared */
                    fetch_row(vx_space_row(space, descents[w].fresh[i]), space->row_bytes);
            }
        for (unsigned w = 0; w < n_walks; w++)
            if (descent_goes_on(&descents[w])) {
                descent_compare(&descents[w], space, walks[w].query, kind);
                fetch_links(view, descents[w].best, descents[w].layer);
                any = any || descent_goes_on(&descents[w]);
            }
    }
    for (unsigned w = 0; w < n_walks; w++) {
        walks[w].ctx->pool[0] = vx_key_of(descents[w].dist, descents[w].best);
        walks[w].ctx->n_pool = 1;
    }
}

VX_INLINE void gated_body(const vx_space *space, const vx_view *view, vx_gated *walks,
                          const unsigned n_walks, const int kind)
{
    gated_state states[VX_TURNS];
    descend_in_turns(space, view, walks, n_walks, kind);
    for (unsigned w = 0; w < n_walks; w++)
        gated_start(&states[w], space, view, &walks[w], kind);
    for (bool any = true; any;) {
        any = false;
        for (unsigned w = 0; w < n_walks; w++)
            if (!states[w].done)
                gated_open(&states[w]);
        for (unsigned w = 0; w < n_walks; w++)
            if (!states[w].done) {
                gated_close(&states[w], kind);
                any = any || !states[w].done;
            }
    }
    for (unsigned w = 0; w < n_walks; w++)
        walks[w].ctx->n_pool = states[w].n_pool;
}

static void VX_NAMED(gated)(const vx_space *space, const vx_view *view, vx_gated *walks,
                            unsigned n_walks)
{
    if (view->codec->has_ranks)
        gated_body(space, view, walks, n_walks, VX_KIND_U4_L2SQ);
    else if (view->has_codes || view->codec->holds_rows)
        gated_body(space, view, walks, n_walks, VX_KIND_U8_L2SQ);
    else
        gated_body(space, view, walks, n_walks, VX_KIND_ANY);
}
