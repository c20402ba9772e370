/* index_report.c - counts and bytes. */
#include "../base/vx_status.h"
#include "index.h"

vx_status vx_index_stats(vx_index *index, vx_stats *out, vx_error *err)
{
    vx_view *view = NULL;
    vx_ctx *ctx = NULL;
    const vx_status st = vx_index_open_view(index, "statistics", &ctx, &view, err);
    if (st != VX_OK)
        return st;
    const vx_snapshot now = vx_view_snapshot(view);
    *out = (vx_stats){.is_quantised = view->codec != NULL};
    out->n_deleted = atomic_load(&index->graph.graves.n_linked);
    for (vx_slot slot = 0; slot < now.n; slot++) {
        if (!vx_view_sees(view, &now, slot))
            continue;
        out->n_live++;
        /* A damaged mapped file may hold anything. */
        const unsigned level =
            view->levels[slot] < VX_MAX_LEVELS ? view->levels[slot] : VX_MAX_LEVELS - 1;
        out->rows_at_level[level]++;
        if (level + 1 > out->n_levels)
            out->n_levels = level + 1;
        const vx_link *links = vx_view_links(view, slot, 0);
        for (uint32_t i = 0; i < view->M0; i++) {
            const uint32_t link = atomic_load_explicit(&links[i], memory_order_relaxed);
            out->n_links += link < VX_TWIN;
            out->n_twins += link == VX_TWIN;
            out->n_links_chosen += (link & VX_FILLER) == 0;
        }
    }
    out->n_free = now.n - out->n_live;
    out->n_free -= out->n_deleted < out->n_free ? out->n_deleted : out->n_free;
    vx_ctx_release(ctx);
    return vx_ok(err);
}

static uint64_t *part_of(vx_memory *memory, int plane)
{
    switch (plane) {
    case VX_PLANE_VECTORS: return &memory->vectors;
    case VX_PLANE_LINKS: return &memory->links;
    case VX_PLANE_UPPER: return &memory->upper_links;
    case VX_PLANE_LABELS: return &memory->labels;
    case VX_PLANE_CODES: return &memory->codes;
    case VX_PLANE_RANKS: return &memory->ranks;
    default: return &memory->other;
    }
}

/* What a plane takes.  Untouched, births, deaths and twins are zero pages that take
 * no memory; a mapped plane is the file's. */
static uint64_t plane_bytes(const vx_view *view, const vx_snapshot *now, int plane)
{
    uint64_t rows = now->n;
    if (view->planes[plane].reserved == 0)
        return 0;
    if ((plane == VX_PLANE_BIRTHS || plane == VX_PLANE_DEATHS) && !now->any_dead)
        return 0;
    if (plane == VX_PLANE_TWINS && !atomic_load(&view->any_twins))
        return 0;
    if (plane == VX_PLANE_UPPER)
        rows = now->n == 0 ? 0 : view->upper_at[now->n - 1] + (uint64_t)view->levels[now->n - 1];
    return rows * vx_view_row_bytes(view, plane);
}

vx_status vx_index_memory(vx_index *index, vx_memory *out, vx_error *err)
{
    vx_view *view = NULL;
    vx_ctx *ctx = NULL;
    const vx_status st = vx_index_open_view(index, "measuring memory", &ctx, &view, err);
    if (st != VX_OK)
        return st;
    const vx_snapshot now = vx_view_snapshot(view);
    *out = (vx_memory){.mapped = index->map.length};
    out->label_map = atomic_load(&index->labels.bytes);
    out->other = sizeof *index + sizeof *view + vx_codec_bytes(view->codec);
    out->other += view->n_groups > 0 ? now.n / 8 : 0;
    for (int i = 0; i < VX_N_PLANES; i++)
        *part_of(out, i) += plane_bytes(view, &now, i);
    if (out->links > 0) {
        out->sketches = (uint64_t)now.n * view->n_groups * view->group_bytes;
        out->links -= out->sketches;
    }
    out->scratch = vx_ctx_bytes(&index->graph);
    out->total = out->vectors + out->links + out->upper_links + out->codes + out->ranks +
                 out->sketches + out->labels + out->label_map + out->other + out->scratch;
    for (int i = 0; i < VX_N_PLANES; i++)
        out->reserved += view->planes[i].reserved;
    vx_ctx_release(ctx);
    return vx_ok(err);
}
