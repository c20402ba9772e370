/* hnsw_graph.c - planes, views, levels. */
#include "hnsw_graph.h"

#include <math.h>
#include <string.h>

#include "../base/vx_alloc.h"
#include "../base/vx_pool.h"
#include "../base/vx_rng.h"
#include "../base/vx_status.h"
#include "hnsw_ctx.h"
#include "hnsw_sketch.h"

/* Rows a view has address space for.  Small indexes are many in one process, so
 * they get little; past that an index takes enough never to move again: copying
 * into a new view needs twice the memory for a moment. */
#define SMALL_VIEW_ROWS 65536u
#define LARGE_VIEW_BYTES ((size_t)1 << 38) /* 256 GiB of 128 TiB */

size_t vx_view_row_bytes(const vx_view *view, int plane)
{
    switch (plane) {
    case VX_PLANE_VECTORS: return view->form.row_bytes;
    case VX_PLANE_LINKS: return view->block_bytes;
    case VX_PLANE_LEVELS: return sizeof(uint8_t);
    case VX_PLANE_UPPER_AT: return sizeof(uint32_t);
    case VX_PLANE_LABELS: return sizeof(vx_label);
    case VX_PLANE_BIRTHS: return sizeof(uint64_t);
    case VX_PLANE_DEATHS: return sizeof(uint64_t);
    case VX_PLANE_TWINS: return sizeof(uint32_t);
    case VX_PLANE_CODES: return view->has_codes ? view->codec->row_bytes : 0;
    case VX_PLANE_RANKS:
        return view->codec != NULL && view->codec->has_ranks ? VX_RANK_BYTES : 0;
    case VX_PLANE_UPPER: return view->upper_bytes;
    default: return view->form.has_norms ? sizeof(float) : 0;
    }
}

static bool plane_bytes(const vx_view *view, int plane, size_t rows, size_t upper, size_t *out)
{
    if (plane == VX_PLANE_STALE) {
        *out = view->n_groups > 0 ? (rows + 63) / 64 * sizeof(uint64_t) : 0;
        return true;
    }
    return vx_mul_fits(plane == VX_PLANE_UPPER ? upper : rows, vx_view_row_bytes(view, plane), out);
}

void vx_view_free(vx_view *view)
{
    if (view == NULL)
        return;
    for (int i = 0; i < VX_N_PLANES; i++)
        vx_plane_free(&view->planes[i]);
    vx_codec_free(view->codec);
    vx_free(view);
}

uint32_t vx_view_upper_for(uint64_t rows, uint32_t M)
{
    /* Expected n / (M - 1) rows, and slack for the luck of small numbers. */
    const uint64_t want = rows / (M - 1) + rows / (4 * (uint64_t)M) + 1024;
    return want > VX_MAX_ROWS ? VX_MAX_ROWS : (uint32_t)want;
}

static vx_status reserve_planes(vx_view *view, uint32_t rows, uint32_t upper, vx_error *err)
{
    for (int i = 0; i < VX_N_PLANES; i++) {
        size_t bytes = 0;
        vx_status st = VX_OK;
        if (!plane_bytes(view, i, rows, upper, &bytes))
            st = vx_fail_nomem(err, "address space for the rows");
        else if (bytes > 0)
            st = vx_plane_reserve(&view->planes[i], bytes, err);
        if (st != VX_OK) {
            for (int j = 0; j < i; j++)
                vx_plane_free(&view->planes[j]);
            return st;
        }
    }
    view->capacity = rows;
    view->upper_capacity = upper;
    return VX_OK;
}

static void set_bases(vx_view *view)
{
    view->vectors = view->planes[VX_PLANE_VECTORS].base;
    view->links = view->planes[VX_PLANE_LINKS].base;
    view->levels = (uint8_t *)view->planes[VX_PLANE_LEVELS].base;
    view->upper_at = (uint32_t *)(void *)view->planes[VX_PLANE_UPPER_AT].base;
    view->labels = (vx_label *)(void *)view->planes[VX_PLANE_LABELS].base;
    view->norms = (float *)(void *)view->planes[VX_PLANE_NORMS].base;
    view->births = (_Atomic uint64_t *)(void *)view->planes[VX_PLANE_BIRTHS].base;
    view->deaths = (_Atomic uint64_t *)(void *)view->planes[VX_PLANE_DEATHS].base;
    view->twins = (_Atomic uint32_t *)(void *)view->planes[VX_PLANE_TWINS].base;
    view->codes = (uint8_t *)view->planes[VX_PLANE_CODES].base;
    view->ranks = (uint8_t *)view->planes[VX_PLANE_RANKS].base;
    view->stale = (_Atomic uint64_t *)(void *)view->planes[VX_PLANE_STALE].base;
    view->upper = view->planes[VX_PLANE_UPPER].base;
}

vx_form vx_stored_form(const vx_params *params, const vx_codec *codec)
{
    vx_params stored = *params;
    if (codec != NULL && codec->holds_rows)
        stored.dtype = VX_U8;
    return vx_form_of(&stored);
}

bool vx_keeps_codes(const vx_params *params, const vx_codec *codec)
{
    return !codec->has_ranks && !codec->holds_rows &&
           (params->dtype == VX_F32 || codec->n_sketch == 0 || params->metric == VX_IP);
}

/* A view without planes. */
static vx_view *bare_view(const vx_params *params, vx_codec *codec)
{
    vx_view *view = vx_zalloc(1, sizeof *view);
    if (view == NULL)
        return NULL;
    view->codec = vx_codec_share(codec);
    view->has_codes = codec != NULL && vx_keeps_codes(params, codec);
    view->form = vx_stored_form(params, codec);
    view->M = params->M;
    view->M0 = 2 * params->M;
    view->block_bytes = view->group_at = vx_round_up(view->M0 * sizeof(vx_link), VX_LINE);
    if (codec != NULL && codec->n_sketch > 0) {
        view->n_groups = (view->M0 + VX_GATE_EDGES - 1) / VX_GATE_EDGES;
        view->group_bytes = 128 + 4 * codec->n_sketch;
        view->block_bytes += view->n_groups * view->group_bytes;
    }
    view->upper_bytes = vx_round_up(view->M * sizeof(vx_link), VX_LINE);
    atomic_init(&view->entry, VX_NO_ENTRY);
    return view;
}

/* A view with address space for at least `rows` and `upper`, and for more where
 * that costs nothing. */
static vx_status new_view(const vx_params *params, vx_codec *codec, uint64_t rows,
                          uint64_t upper, vx_view **out, vx_error *err)
{
    vx_view *view = bare_view(params, codec);
    if (view == NULL)
        return vx_fail_nomem(err, "an index");

    size_t each = 64; /* labels, births and the like */
    each += view->form.row_bytes + view->block_bytes;
    each += vx_view_row_bytes(view, VX_PLANE_CODES) + vx_view_row_bytes(view, VX_PLANE_RANKS);
    const size_t budget = vx_plane_budget();
    uint64_t roomy = SMALL_VIEW_ROWS;
    if (rows > SMALL_VIEW_ROWS) {
        roomy = LARGE_VIEW_BYTES / each;
        if (roomy < 8 * rows)
            roomy = 8 * rows;
    }
    if (budget / each < roomy)
        roomy = budget / each;
    if (roomy > VX_MAX_ROWS)
        roomy = VX_MAX_ROWS;

    /* Try the roomy size, then half as much again, then what is needed. */
    const uint64_t tries[] = {roomy, rows + rows / 2, rows};
    vx_status st = VX_E_NOMEM;
    for (size_t i = 0; i < sizeof tries / sizeof *tries && st == VX_E_NOMEM; i++) {
        const uint64_t n = tries[i] > VX_MAX_ROWS ? VX_MAX_ROWS : tries[i];
        if (n < rows)
            continue;
        uint32_t n_upper = vx_view_upper_for(n, params->M);
        if (n_upper < upper)
            n_upper = (uint32_t)upper;
        st = reserve_planes(view, (uint32_t)n, n_upper, err);
    }
    if (st != VX_OK) {
        vx_codec_free(view->codec);
        vx_free(view);
        return st;
    }
    set_bases(view);
    *out = view;
    return vx_ok(err);
}

vx_status vx_graph_init(vx_graph *graph, const vx_params *params, vx_error *err)
{
    memset(graph, 0, sizeof *graph);
    graph->params = *params;
    graph->form = vx_form_of(params);
    vx_view *view = NULL;
    const vx_status st = new_view(params, NULL, params->capacity, 0, &view, err);
    if (st == VX_OK)
        atomic_init(&graph->view, view);
    graph->nothing.is_closed = true;
    atomic_init(&graph->nothing.entry, VX_NO_ENTRY);
    atomic_init(&graph->epoch, 1);
    return st;
}

vx_status vx_graph_lay_over(vx_graph *graph, uint64_t n_rows, uint64_t n_upper,
                            const void *const given[VX_N_PLANES], vx_error *err)
{
    vx_view *view = bare_view(&graph->params, atomic_load(&graph->view)->codec);
    if (view == NULL)
        return vx_fail_nomem(err, "an index");
    vx_status st = VX_OK;
    for (int i = 0; i < VX_N_PLANES && st == VX_OK; i++) {
        size_t bytes = 0;
        if (given[i] != NULL) {
            vx_plane_borrow(&view->planes[i], given[i]);
        } else if (!plane_bytes(view, i, (size_t)n_rows, (size_t)n_upper, &bytes)) {
            st = vx_fail_nomem(err, "address space for the rows");
        } else if (bytes > 0 || vx_view_row_bytes(view, i) > 0) {
            st = vx_plane_reserve(&view->planes[i], bytes, err);
            if (st == VX_OK)
                st = vx_plane_commit(&view->planes[i], bytes, err);
        }
    }
    if (st != VX_OK) {
        vx_view_free(view);
        return st;
    }
    set_bases(view);
    view->capacity = (uint32_t)n_rows;
    view->upper_capacity = (uint32_t)n_upper;
    vx_view_free(atomic_exchange(&graph->view, view));
    return VX_OK;
}

vx_status vx_graph_adopt(vx_graph *graph, vx_codec *codec, vx_error *err)
{
    vx_view *view = NULL;
    const vx_status st = new_view(&graph->params, codec, 0, 0, &view, err);
    if (st != VX_OK)
        return st;
    vx_view_free(atomic_exchange(&graph->view, view));
    return VX_OK;
}

void vx_graph_free_retired(vx_graph *graph)
{
    vx_view **at = &graph->retired;
    while (*at != NULL) {
        vx_view *old = *at;
        if (!vx_epoch_passed(graph, old->retired_epoch)) {
            at = &old->retired_next;
        } else {
            *at = old->retired_next;
            vx_view_free(old);
        }
    }
}

bool vx_graph_close(vx_graph *graph)
{
    vx_view *view = atomic_load(&graph->view);
    if (view != &graph->nothing)
        vx_graph_swap_view(graph, &graph->nothing);
    vx_graph_free_retired(graph);
    return graph->retired == NULL;
}

void vx_graph_fini(vx_graph *graph)
{
    vx_ctx_free_all(graph);
    vx_graph_free_retired(graph);
    if (atomic_load(&graph->view) != &graph->nothing)
        vx_view_free(atomic_load(&graph->view));
    vx_free(graph->graves.linked);
    vx_free(graph->graves.free);
    memset(graph, 0, sizeof *graph);
}

static vx_status commit(vx_view *view, uint64_t rows, uint64_t upper, vx_error *err)
{
    for (int i = 0; i < VX_N_PLANES; i++) {
        size_t bytes = 0;
        if (!plane_bytes(view, i, (size_t)rows, (size_t)upper, &bytes))
            return vx_fail_nomem(err, "address space for the rows");
        const vx_status st = bytes > 0 ? vx_plane_commit(&view->planes[i], bytes, err) : VX_OK;
        if (st != VX_OK)
            return st;
    }
    return VX_OK;
}

vx_status vx_view_new(const vx_params *params, vx_codec *codec, uint64_t n_rows,
                      uint64_t n_upper, vx_view **out, vx_error *err)
{
    vx_view *view = NULL;
    vx_status st = new_view(params, codec, n_rows, n_upper, &view, err);
    if (st == VX_OK)
        st = commit(view, n_rows, n_upper, err);
    if (st != VX_OK) {
        vx_view_free(view);
        return st;
    }
    *out = view;
    return VX_OK;
}

static void copy_ids(vx_view *to, const vx_view *from, uint32_t n)
{
    for (uint32_t slot = 0; slot < n; slot++) {
        memcpy(vx_view_links(to, slot, 0), vx_view_links(from, slot, 0), from->group_at);
        vx_sketch_drop(to, slot);
    }
}

/* Of rows that bytes are to hold, only dead ones may be none: what is nearest serves then. */
static void convert_vectors(vx_view *to, const vx_view *from, uint32_t n)
{
    for (vx_slot slot = 0; slot < n; slot++)
        vx_form_convert(&from->form, vx_view_vector(from, slot), &to->form,
                        vx_view_vector(to, slot));
}

/* The first n rows, published or not. */
static void copy_rows(vx_view *to, const vx_view *from, uint32_t n)
{
    for (int i = 0; i < VX_N_PLANES; i++) {
        const bool is_quantised =
            i == VX_PLANE_CODES || i == VX_PLANE_RANKS || i == VX_PLANE_STALE;
        size_t bytes = 0;
        if (is_quantised && from->codec != to->codec)
            continue; /* made anew: vx_graph_quantise */
        (void)plane_bytes(from, i, n, from->n_upper, &bytes);
        if (i == VX_PLANE_LINKS && from->codec != to->codec) {
            copy_ids(to, from, n);
            continue;
        }
        if (i == VX_PLANE_VECTORS && from->form.dtype != to->form.dtype) {
            convert_vectors(to, from, n);
            continue;
        }
        /* Zero pages that were never touched stay so. */
        const bool is_zero =
            i == VX_PLANE_TWINS ? !atomic_load(&from->any_twins)
                                : (i == VX_PLANE_BIRTHS || i == VX_PLANE_DEATHS) &&
                                      !atomic_load(&from->any_dead);
        if (bytes > 0 && !is_zero)
            memcpy(to->planes[i].base, from->planes[i].base, bytes);
    }
    to->n_upper = from->n_upper;
    atomic_init(&to->any_dead, atomic_load(&from->any_dead));
    atomic_init(&to->any_twins, atomic_load(&from->any_twins));
    atomic_init(&to->n_rows, atomic_load(&from->n_rows));
    atomic_init(&to->local_dim, atomic_load(&from->local_dim));
    atomic_init(&to->entry, atomic_load(&from->entry));
    atomic_init(&to->seq, atomic_load(&from->seq));
    atomic_init(&to->unlinked, atomic_load(&from->unlinked));
}

vx_status vx_graph_reserve(vx_graph *graph, uint64_t n_rows, uint64_t n_upper, vx_error *err)
{
    vx_view *view = atomic_load(&graph->view);
    if (n_rows > VX_MAX_ROWS || n_upper > VX_MAX_ROWS)
        return vx_fail(err, VX_E_ARG,
                       "rows: an index holds at most %u, got %llu; use several indexes",
                       VX_MAX_ROWS, (unsigned long long)n_rows);
    vx_graph_free_retired(graph);
    if (n_rows <= view->capacity && n_upper <= view->upper_capacity)
        return commit(view, n_rows, n_upper, err);

    vx_view *larger = NULL;
    const vx_status st =
        vx_view_new(&graph->params, view->codec, n_rows, n_upper, &larger, err);
    if (st != VX_OK)
        return st;
    copy_rows(larger, view, atomic_load(&view->n_rows));
    vx_graph_swap_view(graph, larger);
    vx_graph_free_retired(graph);
    return VX_OK;
}

struct encoding {
    const vx_view *view;
    const vx_slot *slots; /* NULL: all from 0 on */
    uint8_t *codes;       /* of all slots; NULL: they are not kept                */
    bool ranks;           /* to be made */
    vx_coords_fn coords;
    uint8_t *is_outside;  /* NULL: nobody asks                                    */
    char *scratch;        /* of each thread: a row as floats, then its code      */
    size_t scratch_bytes;
};

static void encode_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    const struct encoding *e = arg;
    const vx_view *view = e->view;
    char *mine = e->scratch != NULL ? e->scratch + who * e->scratch_bytes : NULL;
    for (size_t i = begin; i < end; i++) {
        const size_t slot = e->slots != NULL ? e->slots[i] : i;
        const float *row = vx_view_floats(view, (vx_slot)slot, (float *)(void *)mine);
        uint8_t *code = e->codes != NULL
                            ? e->codes + slot * view->codec->row_bytes
                            : (uint8_t *)mine + view->form.query_floats * sizeof *row;
        const bool fits = vx_codec_encode(view->codec, row, false, code);
        if (e->is_outside != NULL)
            e->is_outside[i] = !fits;
        if (e->ranks) {
            int16_t coords[VX_RANK_COORDS];
            vx_codec_coords(view->codec, e->coords, code, coords);
            vx_codec_rank(coords, view->ranks + slot * VX_RANK_BYTES);
        }
    }
}

#define ENCODE_GRAIN 256u

static vx_status run_encoding(struct encoding e, size_t n, const vx_run *run)
{
    const vx_view *view = e.view;
    vx_run fixed = run != NULL ? *run : (vx_run){0, NULL, NULL};
    e.coords = vx_ops_of(vx_level_active())->coords;
    fixed.num_threads = vx_pool_width(run);
    if (view->form.dtype != VX_F32 || e.codes == NULL) {
        e.scratch_bytes = view->form.query_floats * sizeof(float) + view->codec->row_bytes;
        e.scratch = vx_alloc(fixed.num_threads, e.scratch_bytes);
        if (e.scratch == NULL)
            return VX_E_NOMEM;
    }
    const vx_status st = vx_pool_run(n, ENCODE_GRAIN, &fixed, 0, 0, encode_piece, &e);
    vx_free(e.scratch);
    return st;
}

static vx_status encode(const vx_view *view, const vx_slot *slots, size_t n, uint8_t *is_outside,
                        const vx_run *run)
{
    const struct encoding e = {.view = view, .slots = slots, .is_outside = is_outside,
                               .codes = view->has_codes ? view->codes : NULL,
                               .ranks = view->codec->has_ranks};
    if (e.codes == NULL && !e.ranks && (is_outside == NULL || view->codec->holds_rows))
        return VX_OK; /* there is nothing to be kept, nor asked */
    return run_encoding(e, n, run);
}

vx_status vx_view_make_codes(const vx_view *view, uint8_t *codes, size_t n, const vx_run *run)
{
    return run_encoding((struct encoding){.view = view, .codes = codes}, n, run);
}

vx_status vx_graph_encode(vx_graph *graph, const vx_slot *slots, size_t n, uint8_t *is_outside,
                          const vx_run *run)
{
    const vx_view *view = atomic_load(&graph->view);
    return view->codec != NULL ? encode(view, slots, n, is_outside, run) : VX_OK;
}

vx_status vx_graph_quantise(vx_graph *graph, vx_codec *codec, uint64_t n_rows, uint64_t n_upper,
                            const vx_run *run, vx_error *err)
{
    const vx_view *view = atomic_load(&graph->view);
    vx_view *quantised = NULL;
    vx_status st =
        vx_view_new(&graph->params, codec, n_rows, n_upper, &quantised, err);
    if (st != VX_OK)
        return st;
    copy_rows(quantised, view, (uint32_t)n_rows);
    st = codec != NULL ? encode(quantised, NULL, n_rows, NULL, run) : VX_OK;
    if (st != VX_OK) {
        vx_view_free(quantised);
        return st == VX_E_NOMEM ? vx_fail_nomem(err, "training codes")
                                : vx_fail(err, st, "interrupted");
    }
    graph->n_calibrated = 0;
    vx_graph_swap_view(graph, quantised);
    vx_graph_free_retired(graph);
    return VX_OK;
}

vx_status vx_graph_widen(vx_graph *graph, const vx_run *run, vx_error *err)
{
    const vx_view *view = atomic_load(&graph->view);
    vx_codec *codec = vx_codec_copy(view->codec, false);
    if (codec == NULL)
        return vx_fail_nomem(err, "adding rows");
    const vx_status st = vx_graph_quantise(graph, codec, atomic_load(&view->n_rows), view->n_upper,
                                           run, err);
    vx_codec_free(codec); /* the view has it */
    return st;
}

void vx_graph_swap_view(vx_graph *graph, vx_view *view)
{
    vx_view *old = atomic_load(&graph->view);
    atomic_store_explicit(&graph->view, view, memory_order_seq_cst);
    old->retired_epoch = vx_epoch_next(graph);
    old->retired_next = graph->retired;
    graph->retired = old;
}

unsigned vx_graph_draw_level(const vx_graph *graph, vx_slot slot)
{
    const uint64_t bits = vx_hash64(graph->params.seed ^ vx_hash64(slot));
    const double u = ((double)(bits >> 11) + 1.0) * 0x1p-53; /* in (0, 1] */
    const double level = -log(u) / log((double)graph->params.M);
    return level < VX_MAX_LEVELS - 1 ? (unsigned)level : VX_MAX_LEVELS - 1;
}

uint64_t vx_graph_upper_needed(const vx_graph *graph, vx_slot begin, uint64_t end)
{
    uint64_t n = 0;
    for (uint64_t slot = begin; slot < end; slot++)
        n += vx_graph_draw_level(graph, (vx_slot)slot);
    return n;
}

static void clear_row(vx_link *row, size_t bytes)
{
    for (size_t i = 0; i < bytes / sizeof *row; i++)
        atomic_store_explicit(&row[i], VX_PAD, memory_order_relaxed);
}

void vx_graph_place_rows(vx_graph *graph, vx_view *view, vx_slot begin, vx_slot end)
{
    for (vx_slot slot = begin; slot < end; slot++) {
        const unsigned level = vx_graph_draw_level(graph, slot);
        view->levels[slot] = (uint8_t)level;
        view->upper_at[slot] = view->n_upper;
        view->n_upper += level;
        clear_row(vx_view_links(view, slot, 0), view->group_at);
        for (unsigned l = 1; l <= level; l++)
            clear_row(vx_view_links(view, slot, l), view->upper_bytes);
    }
}
