/* hnsw_sketch.c - see hnsw_sketch.h. */
#include "hnsw_sketch.h"

#include <string.h>

#include "../base/vx_alloc.h"
#include "../base/vx_half.h"
#include "../base/vx_pool.h"

/* Sketch bytes are written by words, so that a reader's loads race with no plain
 * store. */
static void store_words(char *to, const void *from, size_t bytes)
{
    _Atomic uint64_t *word = (_Atomic uint64_t *)(void *)to;
    for (size_t i = 0; i < bytes / sizeof *word; i++) {
        uint64_t value;
        memcpy(&value, (const char *)from + i * sizeof value, sizeof value);
        atomic_store_explicit(&word[i], value, memory_order_relaxed);
    }
}

void vx_sketch_drop(const vx_view *view, vx_slot slot)
{
    static const uint64_t pass[8] = {
        0xFC00FC00FC00FC00u, 0xFC00FC00FC00FC00u, 0xFC00FC00FC00FC00u, 0xFC00FC00FC00FC00u,
        0xFC00FC00FC00FC00u, 0xFC00FC00FC00FC00u, 0xFC00FC00FC00FC00u, 0xFC00FC00FC00FC00u};
    if (view->n_groups == 0)
        return;
    for (uint32_t g = 0; g < view->n_groups; g++)
        store_words(vx_view_group(view, slot, g), pass, sizeof pass);
    atomic_fetch_or_explicit(&view->stale[slot >> 6], (uint64_t)1 << (slot & 63),
                             memory_order_relaxed);
}

/* ---- one row ------------------------------------------------------------------- */

struct sketcher {
    vx_view *view;
    const vx_codec *codec;
    const vx_ops *ops;
    vx_space measure; /* where there are no ranks: codes, or the vectors            */
    float per_unit;   /* squared distance of codes per unit of its distances        */
    uint32_t n;
    int16_t *coords; /* of all rows; NULL: made when needed                         */
};

/* Rows have no sketches beyond so many dimensions (quant_codec.c). */
#define MOST_BYTES (4096u + VX_LINE)

static void coords_from_row(const struct sketcher *s, vx_slot slot, int16_t *out)
{
    const vx_view *view = s->view;
    VX_ALIGN(64) uint8_t made[MOST_BYTES];
    float floats[MOST_BYTES];
    const uint8_t *code = made;
    if (view->has_codes) {
        code = view->codes + (size_t)slot * s->codec->row_bytes;
    } else {
        assert(s->codec->row_bytes <= MOST_BYTES && view->form.query_floats <= MOST_BYTES);
        (void)vx_codec_encode(s->codec, vx_view_floats(view, slot, floats), false, made);
    }
    vx_codec_coords(s->codec, s->ops->coords, code, out);
}

/* What sketches need of a row: in `room`, or where it is kept. */
static const int16_t *coords_of(const struct sketcher *s, vx_slot slot, int16_t *room)
{
    const vx_codec *codec = s->codec;
    if (s->coords != NULL)
        return s->coords + (size_t)slot * codec->n_coords;
    if (codec->has_ranks) {
        const uint8_t *rank = s->view->ranks + (size_t)slot * VX_RANK_BYTES;
        vx_rank_coords(rank, room);
        vx_rank_coords(rank + 64, room + 128);
    } else {
        coords_from_row(s, slot, room);
    }
    return room;
}

static void fetch(const struct sketcher *s, vx_slot slot)
{
    const char *at = s->coords != NULL ? (const char *)(s->coords + (size_t)slot * s->codec->n_coords)
                     : s->codec->has_ranks
                         ? (const char *)s->view->ranks + (size_t)slot * VX_RANK_BYTES
                         : NULL;
    const char *row = s->codec->has_ranks ? NULL : vx_space_row(&s->measure, slot);
    if (at != NULL) {
        VX_PREFETCH(at);
        VX_COMPILER_FENCE();
        VX_PREFETCH(at + VX_LINE);
        VX_COMPILER_FENCE();
    }
    for (size_t i = 0; row != NULL && i < s->measure.row_bytes; i += VX_LINE) {
        VX_PREFETCH(row + i);
        VX_COMPILER_FENCE();
    }
}

static uint16_t factor_a(float a)
{
    /* Beyond a half float's range: always pass. */
    return a < VX_HALF_MAX && a > -VX_HALF_MAX ? vx_float_half(a) : VX_HALF_NEG_INF;
}

static uint16_t factor_b(float b) { return vx_float_half(b > -VX_HALF_MAX ? b : -VX_HALF_MAX); }

/* Enter an edge as number `at` of a group. */
static void enter_edge(const vx_codec *codec, const vx_edge_sums *e, float squared, uint32_t at,
                       char *group)
{
    uint16_t *factors = (uint16_t *)(void *)group;
    uint8_t *bits = (uint8_t *)group + 128 + (at & 15);
    const unsigned shift = at < 16 ? 0 : 4;
    for (uint32_t i = 0; i < codec->n_sketch; i += 4)
        bits[4 * i] |= (uint8_t)((e->sign[i] | e->sign[i + 1] << 1 | e->sign[i + 2] << 2 |
                                  e->sign[i + 3] << 3) << shift);
    const float f = e->length > 0 ? squared / (float)e->length : 0;
    const float a = squared + 2 * f * (float)e->along;
    factors[at] = factor_a(a / codec->edge_unit);
    factors[32 + at] = factor_b(-2 * VX_SKETCH_B_SCALE * f / codec->edge_unit);
}

static void sketch_row(const struct sketcher *s, vx_slot slot)
{
    const vx_view *view = s->view;
    const vx_codec *codec = s->codec;
    const vx_link *links = vx_view_links(view, slot, 0);
    const vx_space *measure = &s->measure;
    int16_t p_room[VX_RANK_COORDS], r_room[VX_RANK_COORDS];
    VX_ALIGN(64) char group[VX_MAX_GROUP_BYTES];
    vx_slot ends[VX_MAX_ROW_LINKS];
    vx_edge_sums sums;
    uint32_t n = 0;
    for (; n < view->M0; n++) {
        const uint32_t link = atomic_load_explicit(&links[n], memory_order_relaxed);
        if (link >= VX_TWIN)
            break;
        ends[n] = link & VX_SLOT_BITS;
        fetch(s, ends[n]);
    }
    const int16_t *p = coords_of(s, slot, p_room);
    for (uint32_t g = 0; g < view->n_groups; g++) {
        memset(group, 0, view->group_bytes);
        for (uint32_t i = 0; i < 32 && 32 * g + i < n; i++) {
            const vx_slot end = ends[32 * g + i];
            s->ops->edge(p, coords_of(s, end, r_room), codec, &sums);
            const float squared =
                codec->has_ranks
                    ? (float)sums.squared
                    : s->per_unit * measure->ops->pair(vx_space_row(measure, slot),
                                                       vx_space_row(measure, end),
                                                       measure->row_bytes);
            enter_edge(codec, &sums, squared, i, group);
        }
        store_words(vx_view_group(view, slot, g), group, view->group_bytes);
    }
}

/* ---- all stale rows ----------------------------------------------------------- */

static void stale_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    const struct sketcher *s = arg;
    (void)who;
    for (size_t w = begin; w < end; w++) {
        uint64_t word = atomic_exchange_explicit(&s->view->stale[w], 0, memory_order_relaxed);
        for (uint32_t bit = 0; word != 0; bit++, word >>= 1)
            if ((word & 1) && w * 64 + bit < s->n)
                sketch_row(s, (vx_slot)(w * 64 + bit));
    }
}

static void coords_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    const struct sketcher *s = arg;
    (void)who;
    for (size_t slot = begin; slot < end; slot++)
        coords_from_row(s, (vx_slot)slot, s->coords + slot * s->codec->n_coords);
}

/* Where most rows are stale each row's coordinates are asked for dozens of times:
 * keep them meanwhile, if there is room.  Rank codes are as good as kept. */
static vx_status keep_coords(struct sketcher *s, const vx_run *run)
{
    uint64_t n_stale = 0;
    for (size_t w = 0; w < ((size_t)s->n + 63) / 64; w++) {
        uint64_t word = atomic_load_explicit(&s->view->stale[w], memory_order_relaxed);
        for (; word != 0; word &= word - 1)
            n_stale++;
    }
    if (s->codec->has_ranks || n_stale < s->n / 16)
        return VX_OK;
    s->coords = vx_alloc((size_t)s->n * s->codec->n_coords, sizeof *s->coords);
    return s->coords != NULL ? vx_pool_run(s->n, 256, run, 0, 0, coords_piece, s) : VX_OK;
}

vx_status vx_sketch_stale(vx_view *view, uint32_t n, const vx_run *run)
{
    struct sketcher s = {view, view->codec, vx_ops_of(vx_level_active()), .n = n};
    if (view->n_groups == 0)
        return VX_OK;
    s.measure = vx_graph_measure(view);
    s.per_unit = 1 / vx_ranks_unit(view);
    vx_status st = keep_coords(&s, run);
    if (st == VX_OK)
        st = vx_pool_run(((size_t)n + 63) / 64, 16, run, 0, 0, stale_piece, &s);
    vx_free(s.coords);
    return st;
}
