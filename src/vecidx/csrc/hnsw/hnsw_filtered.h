/* hnsw_filtered.h - the walk of layer 0 among allowed rows (hnsw_filter.h), as a
 * template; part of hnsw_walk.h.
 *
 * Only allowed rows are measured and kept.  Between them lie others: of each row it
 * expands, the walk reads the links, and then those of linked rows that are not allowed,
 * nearest first, until it has met three quarters as many links to allowed rows as a row has
 * links.  So it finds its way about as well as where every row is allowed; what a small
 * share costs is reading more link rows, which are a quarter of a vector or less.
 *
 * Where allowed rows lie far from the query, nothing around it leads to one: the walk
 * begins at rows from all over the index as well (vx_allowed.seeds). */

typedef struct fresh_rows {
    size_t n;
    vx_slot slots[2 * VX_MAX_ROW_LINKS + 4]; /* a group of four may write beyond */
    float dists[2 * VX_MAX_ROW_LINKS + 4];
} fresh_rows;

VX_INLINE void mark_visited(vx_ctx *ctx, vx_slot slot)
{
    ctx->visited[slot >> 6] |= (uint64_t)1 << (slot & 63);
    if (ctx->n_touched < VX_TOUCHED)
        ctx->touched[ctx->n_touched] = slot;
    ctx->n_touched++; /* beyond VX_TOUCHED: the whole set is cleared */
}

/* Add the allowed rows that `row` links to and that are new to `fresh`; how many there
 * are, new or not. */
VX_INLINE size_t meet_allowed(const vx_link *row, uint32_t degree, uint32_t n,
                              const uint64_t *nodes, vx_ctx *ctx, fresh_rows *fresh)
{
    size_t n_met = 0;
    VX_COUNT(VX_COUNT_EDGES, degree);
    VX_COUNT(VX_COUNT_LINES, (degree * sizeof(vx_link) + VX_LINE - 1) / VX_LINE);
    for (uint32_t i = 0; i < degree; i++) {
        const vx_slot slot = vx_link_load(&row[i]) & VX_SLOT_BITS;
        if (VX_UNLIKELY(slot >= n) || !vx_has_bit(nodes, slot))
            continue;
        n_met++;
        if (vx_has_bit(ctx->visited, slot))
            continue;
        mark_visited(ctx, slot);
        fresh->slots[fresh->n++] = slot;
    }
    return n_met;
}

VX_INLINE void gather_allowed(const vx_view *view, uint32_t n, const uint64_t *nodes,
                              vx_slot here, uint32_t ahead, vx_ctx *ctx, fresh_rows *fresh)
{
    const vx_link *row = vx_view_links(view, here, 0);
    vx_slot blocked[VX_MAX_ROW_LINKS];
    size_t n_blocked = 0;
    fresh->n = 0;
    VX_COUNT(VX_COUNT_HOPS, 1);
    const size_t enough = view->M0 - view->M0 / 4;
    size_t n_met = meet_allowed(row, view->M0, n, nodes, ctx, fresh);
    if (n_met >= enough)
        return;
    for (uint32_t i = 0; i < view->M0; i++) {
        const vx_slot slot = vx_link_load(&row[i]) & VX_SLOT_BITS;
        if (slot >= n || vx_has_bit(nodes, slot) || vx_has_bit(ctx->visited, slot))
            continue;
        if (n_blocked < ahead)
            fetch_links(view, slot, 0);
        blocked[n_blocked++] = slot;
    }
    for (size_t i = 0; i < n_blocked && n_met < enough; i++) {
        if (i + ahead < n_blocked)
            fetch_links(view, blocked[i + ahead], 0);
        mark_visited(ctx, blocked[i]);
        n_met += meet_allowed(vx_view_links(view, blocked[i], 0), view->M0, n, nodes, ctx, fresh);
    }
}

VX_INLINE void filtered_body(const vx_space *space, const char *query, const vx_view *view,
                             const vx_allowed *allowed, vx_slot here, const size_t ef,
                             const uint32_t ahead, vx_ctx *ctx, const int kind)
{
    vx_key *const pool = ctx->pool;
    const uint32_t n = allowed->now.n;
    size_t n_pool = ctx->n_pool, cursor = 0;
    fresh_rows fresh;

    for (size_t i = 0; i < n_pool; i++)
        mark_visited(ctx, vx_key_slot(pool[i]));
    if (!vx_has_bit(ctx->visited, here))
        mark_visited(ctx, here);

    /* As walk_body: pool[0 .. cursor-1] are expanded, here is being. */
    for (;;) {
        gather_allowed(view, n, allowed->nodes, here, ahead, ctx, &fresh);
        if (cursor < n_pool)
            fetch_links(view, vx_key_slot(pool[cursor]), 0);
        space_many(space, query, space->rows, space->row_bytes, fresh.slots, fresh.n, fresh.dists,
                   kind);
        for (size_t i = 0; i < fresh.n; i++) {
            const vx_key key = vx_key_of(fresh.dists[i], fresh.slots[i]);
            if (n_pool == ef && key >= pool[ef - 1])
                continue;
            const size_t at = pool_place(pool, n_pool, key);
            n_pool += n_pool < ef;
            memmove(pool + at + 1, pool + at, (n_pool - 1 - at) * sizeof *pool);
            pool[at] = key;
            if (at < cursor) {
                cursor = at;
                fetch_links(view, fresh.slots[i], 0);
            }
        }
        while (cursor < n_pool && (pool[cursor] & 1))
            cursor++;
        if (cursor == n_pool)
            break;
        here = vx_key_slot(pool[cursor]);
        pool[cursor++] |= 1;
        while (cursor < n_pool && (pool[cursor] & 1))
            cursor++;
    }
    ctx->n_pool = n_pool;
}
