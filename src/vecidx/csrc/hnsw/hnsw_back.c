/* hnsw_back.c - the links of a batch, told to the rows that they lead to. */
#include <stdlib.h>
#include <string.h>

#include "../base/vx_pool.h"
#include "../base/vx_rng.h"
#include "../base/vx_step.h"
#include "hnsw_insert.h"

/* ---- scatter, apply ---------------------------------------------------------- */

static uint32_t part_of(vx_slot target) { return (uint32_t)(vx_hash64(target) % VX_INSERT_PARTS); }

static void scatter(vx_insert *in)
{
    uint32_t at[VX_INSERT_PARTS + 1] = {0};
    for (size_t i = 0; i < in->n_batch; i++)
        for (uint32_t j = 0; j < in->count[i]; j++)
            at[part_of(in->edges[in->at[i] + j].target) + 1]++;
    for (uint32_t p = 0; p < VX_INSERT_PARTS; p++)
        at[p + 1] += at[p];
    memcpy(in->part_at, at, sizeof at);
    for (size_t i = 0; i < in->n_batch; i++)
        for (uint32_t j = 0; j < in->count[i]; j++) {
            const vx_edge *e = &in->edges[in->at[i] + j];
            in->by_part[at[part_of(e->target)]++] = *e;
        }
}

static int compare_edges(const void *a, const void *b)
{
    const vx_edge *x = a, *y = b;
    if (x->layer != y->layer)
        return x->layer < y->layer ? -1 : 1;
    if (x->target != y->target)
        return x->target < y->target ? -1 : 1;
    if (x->dist != y->dist)
        return x->dist < y->dist ? -1 : 1;
    return x->source < y->source ? -1 : x->source > y->source;
}

static void apply_part(vx_insert *in, size_t part)
{
    const vx_view *view = in->view;
    const size_t end = in->part_at[part + 1];
    size_t i = in->part_at[part];
    qsort(in->by_part + i, end - i, sizeof *in->by_part, compare_edges);
    while (i < end) {
        const vx_slot target = in->by_part[i].target;
        const unsigned layer = in->by_part[i].layer;
        const uint32_t cap = vx_view_row_links(view, layer);
        vx_row row;
        vx_row_load_kept(&in->space, view, &in->kept, target, layer, &row);
        for (; i < end && in->by_part[i].target == target && in->by_part[i].layer == layer; i++) {
            const vx_slot lost = vx_row_offer(&in->space, &row, cap, in->by_part[i].source,
                                              in->by_part[i].dist);
            in->lost[i] = layer == 0 ? lost : VX_NO_SLOT;
        }
        vx_row_store_kept(view, &in->kept, target, layer, &row);
    }
    vx_step_at(VX_STEP_APPLY);
}

static void apply_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    (void)who;
    for (size_t part = begin; part < end; part++)
        apply_part(arg, part);
}

/* ---- look, force --------------------------------------------------------------- */

static void look_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    vx_insert *in = arg;
    (void)who;
    for (size_t i = begin; i < end; i++)
        in->is_cut[i] = vx_is_cut_off(in->view, in->n_spare, in->suspects[i]);
}

static void keep_in_links(vx_insert *in, const vx_run *quiet)
{
    in->n_spare = in->codes.base != NULL ? in->view->M0 : vx_spare_links(in->graph, in->view);
    in->n_suspects = 0;
    for (size_t i = 0; i < in->n_batch; i++)
        if (in->twin_of[i] == VX_NO_SLOT)
            in->suspects[in->n_suspects++] = in->batch[i];
    for (uint32_t i = 0; i < in->part_at[VX_INSERT_PARTS]; i++)
        if (in->lost[i] != VX_NO_SLOT)
            in->suspects[in->n_suspects++] = in->lost[i];
    vx_pool_run(in->n_suspects, 64, quiet, 0, 0, look_piece, in);
    for (size_t i = 0; i < in->n_suspects; i++)
        if (in->is_cut[i] && vx_is_cut_off(in->view, in->n_spare, in->suspects[i]))
            vx_force_in_link(&in->space, in->view, &in->kept, in->n_spare, in->suspects[i]);
}

void vx_insert_link_back(vx_insert *in, const vx_run *quiet)
{
    scatter(in);
    vx_step_at(VX_STEP_LINK);
    vx_pool_run(VX_INSERT_PARTS, 1, quiet, 0, 0, apply_piece, in);
    keep_in_links(in, quiet);
}
