/* index_quantise.c - when an index takes to codes, and whether it should.
 *
 * Codes pay where they are shorter than the rows, or need not be kept (vx_keeps_codes),
 * and serve where the nearest rows are still the nearest by their codes.  Both are looked at before the graph is
 * moved to them; where the answer is no, it stays on the vectors, and is asked again
 * when there are twice as many rows. */
#include <math.h>
#include <string.h>

#include "../base/vx_alloc.h"
#include "../base/vx_pool.h"
#include "../base/vx_status.h"
#include "../hnsw/hnsw_ops.h"
#include "index.h"

/* Of so many rows, spread over all, each TRIAL_STEP-th looks for its nearest. */
#define TRIAL_ROWS 4096u
#define TRIAL_STEP 64u
#define TRIAL_QUERIES (TRIAL_ROWS / TRIAL_STEP)
#define TRIAL_NEAR 11u /* itself and ten others                                */

/* Where they have to be by their codes: nearer to the top than a search looks
 * (rerank_depth, rank_depth of hnsw_search.c), since the whole index is denser than
 * the sample. */
#define CODE_DEPTH 16u
#define RANK_DEPTH 40u
#define ENOUGH 0.98

/* Under ip, rows whose lengths differ by more than this share are linked better by
 * their products than by codes with an added dimension (quant_codec.h). */
#define EVEN_LENGTHS 0.02

/* Up to here a row of float32 is a line, which codes cannot shorten. */
#define FEW_DIMS 16u

/* Rows that are made float32 to train on: as many as a codec looks at, in 256 MB. */
#define LESSON_ROWS 8192u
#define LESSON_FLOATS (1u << 26)

struct trial {
    const vx_view *view;
    const vx_codec *codec;
    const vx_ops *ops;
    const vx_metric_ops *by_row; /* of the vectors                             */
    float *floats;            /* of each thread: a row                         */
    uint32_t n;               /* rows of the sample                            */
    vx_slot *slots;
    uint8_t *codes, *ranks;   /* of them                                       */
    uint8_t *queries;         /* codes of every TRIAL_STEP-th, as a query      */
    _Atomic uint32_t n_by_code, n_by_rank;
};

/* The slots of the `depth` smallest, by insertion. */
static void take_nearest(const float *dists, uint32_t n, uint32_t depth, uint32_t *out)
{
    float best[RANK_DEPTH];
    uint32_t n_best = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = n_best;
        if (at == depth && !(dists[i] < best[depth - 1]))
            continue;
        at = n_best < depth ? n_best++ : depth - 1;
        for (; at > 0 && best[at - 1] > dists[i]; at--) {
            best[at] = best[at - 1];
            out[at] = out[at - 1];
        }
        best[at] = dists[i];
        out[at] = i;
    }
}

static uint32_t count_common(const uint32_t *near, const uint32_t *found, uint32_t depth)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < TRIAL_NEAR; i++)
        for (uint32_t j = 0; j < depth; j++)
            n += near[i] == found[j];
    return n;
}

static void encode_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    const struct trial *t = arg;
    float *room = t->floats + who * t->view->form.query_floats;
    for (size_t i = begin; i < end; i++) {
        uint8_t *code = t->codes + i * t->codec->row_bytes;
        const float *row = vx_view_floats(t->view, t->slots[i], room);
        (void)vx_codec_encode(t->codec, row, false, code);
        if (t->codec->has_ranks) {
            int16_t coords[VX_RANK_COORDS];
            vx_codec_coords(t->codec, t->ops->coords, code, coords);
            vx_codec_rank(coords, t->ranks + i * VX_RANK_BYTES);
        }
        if (i % TRIAL_STEP == 0)
            (void)vx_codec_encode(t->codec, row, true,
                                  t->queries + i / TRIAL_STEP * t->codec->row_bytes);
    }
}

static void query_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    struct trial *t = arg;
    const size_t bytes = t->codec->row_bytes;
    uint32_t near[TRIAL_NEAR], found[RANK_DEPTH];
    float dists[TRIAL_ROWS + 4];
    (void)who;
    for (size_t i = begin; i < end; i++) {
        const size_t at = i * TRIAL_STEP;
        t->by_row->many(vx_view_vector(t->view, t->slots[at]), t->view->vectors,
                        t->view->form.row_bytes, t->slots, t->n, dists);
        take_nearest(dists, t->n, TRIAL_NEAR, near);
        t->ops->kind[VX_KIND_U8_L2SQ].scan(t->queries + i * bytes, t->codes, bytes, t->n, dists);
        take_nearest(dists, t->n, CODE_DEPTH, found);
        atomic_fetch_add(&t->n_by_code, count_common(near, found, CODE_DEPTH));
        if (!t->codec->has_ranks)
            continue;
        int16_t coords[VX_RANK_COORDS];
        VX_ALIGN(64) uint8_t query[VX_RANK_COORDS];
        vx_codec_coords(t->codec, t->ops->coords, t->queries + i * bytes, coords);
        vx_codec_rank_query(coords, query);
        t->ops->kind[VX_KIND_U4_L2SQ].scan(query, t->ranks, VX_RANK_BYTES, t->n, dists);
        take_nearest(dists, t->n, RANK_DEPTH, found);
        atomic_fetch_add(&t->n_by_rank, count_common(near, found, RANK_DEPTH));
    }
}

static vx_status run_trial(struct trial *t, const vx_run *given, vx_error *err)
{
    vx_run fixed = given != NULL ? *given : (vx_run){0, NULL, NULL}, *run = &fixed;
    fixed.num_threads = vx_pool_width(given);
    vx_status st = vx_pool_run(t->n, 64, run, 0, 0, encode_piece, t);
    if (st == VX_OK)
        st = vx_pool_run((t->n + TRIAL_STEP - 1) / TRIAL_STEP, 1, run, 0, 0, query_piece, t);
    return st == VX_OK ? st : vx_fail(err, st, "interrupted");
}

/* Of the nearest of a row, by its vector, how many are among the nearest by its codes;
 * 1: all of them. */
static vx_status try_codec(const vx_index *index, const vx_codec *codec, uint32_t n_rows,
                           const vx_run *run, double *out_code, double *out_rank, vx_error *err)
{
    struct trial t = {.view = atomic_load(&index->graph.view), .codec = codec};
    const size_t room = ((size_t)32 << 20) / codec->row_bytes; /* of 65,536 dimensions: 511 */
    t.ops = vx_ops_of(vx_level_active());
    const vx_params *p = &index->graph.params;
    t.by_row = &t.ops->kind[vx_kind_of((vx_dtype)p->dtype, (vx_metric)p->metric, true)];
    t.floats = vx_alloc(vx_pool_width(run) * t.view->form.query_floats, sizeof *t.floats);
    t.n = n_rows < TRIAL_ROWS ? n_rows : TRIAL_ROWS;
    t.n = t.n < room ? t.n : (uint32_t)room;
    t.slots = vx_alloc(t.n, sizeof *t.slots);
    t.codes = vx_alloc(t.n, codec->row_bytes);
    t.ranks = vx_alloc(t.n, VX_RANK_BYTES);
    t.queries = vx_alloc(TRIAL_QUERIES, codec->row_bytes);
    vx_status st = VX_E_NOMEM;
    if (t.slots == NULL || t.codes == NULL || t.ranks == NULL || t.queries == NULL ||
        t.floats == NULL) {
        vx_fail_nomem(err, "training codes");
    } else {
        for (uint32_t i = 0; i < t.n; i++)
            t.slots[i] = (vx_slot)((uint64_t)i * n_rows / t.n);
        st = run_trial(&t, run, err);
    }
    const double n_asked = TRIAL_NEAR * ((t.n + TRIAL_STEP - 1) / TRIAL_STEP);
    *out_code = atomic_load(&t.n_by_code) / n_asked;
    *out_rank = atomic_load(&t.n_by_rank) / n_asked;
    vx_free(t.slots);
    vx_free(t.codes);
    vx_free(t.ranks);
    vx_free(t.queries);
    vx_free(t.floats);
    return st;
}

static double length_of(const vx_view *view, vx_slot slot)
{
    double length;
    (void)vx_form_inspect(&view->form, view->form.dtype, vx_view_vector(view, slot), &length);
    return length;
}

/* Could codes be of use for rows like these? */
static bool is_fit(const vx_index *index, uint32_t n_rows)
{
    const vx_params *p = &index->graph.params;
    const vx_view *view = atomic_load(&index->graph.view);
    if (p->dim <= FEW_DIMS)
        return false;
    double least = INFINITY, most = 0;
    for (uint32_t i = 0; p->metric == VX_IP && i < TRIAL_ROWS; i++) {
        const double length = length_of(view, (vx_slot)((uint64_t)i * n_rows / TRIAL_ROWS));
        least = length < least ? length : least;
        most = length > most ? length : most;
    }
    return most == 0 || least >= (1 - EVEN_LENGTHS) * most;
}

/* Rows to train on: all there are, where they are float32, or some of them made so. */
struct lesson {
    const float *rows;
    float *made; /* to be freed */
    uint64_t n;
};

static vx_status take_lesson(const vx_view *view, uint32_t n_rows, bool is_ip,
                             struct lesson *out, vx_error *err)
{
    const vx_form *form = &view->form;
    *out = (struct lesson){(const float *)(const void *)view->vectors, NULL, n_rows};
    if (form->dtype == VX_F32)
        return VX_OK;
    const uint32_t most = LESSON_FLOATS / (uint32_t)form->query_floats;
    out->n = n_rows < LESSON_ROWS ? n_rows : LESSON_ROWS;
    out->n = out->n < most ? out->n : most;
    out->rows = out->made = vx_alloc(out->n * form->query_floats, sizeof *out->made);
    if (out->made == NULL)
        return vx_fail_nomem(err, "training codes");
    for (uint64_t i = 0; i < out->n; i++)
        vx_form_read(form, vx_view_vector(view, (vx_slot)(i * n_rows / out->n)),
                     out->made + i * form->query_floats);
    if (!is_ip)
        return VX_OK;
    vx_slot longest = 0; /* it says how far rows reach, so it has to be among them */
    double length = 0;
    for (vx_slot slot = 0; slot < n_rows; slot++) {
        const double its = length_of(view, slot);
        longest = its > length ? slot : longest;
        length = its > length ? its : length;
    }
    vx_form_read(form, vx_view_vector(view, longest),
                 out->made + (out->n - 1) * form->query_floats);
    return VX_OK;
}

/* Train a codec that serves; *out stays NULL if there is none. */
static vx_status train(const vx_index *index, uint32_t n_rows, const vx_run *run, vx_codec **out,
                       vx_error *err)
{
    const vx_params *p = &index->graph.params;
    const vx_view *view = atomic_load(&index->graph.view);
    bool sketches = p->quantization == VX_QUANT_AUTO, again = true;
    struct lesson lesson;
    vx_status st = take_lesson(view, n_rows, p->metric == VX_IP, &lesson, err);
    while (st == VX_OK && again) {
        vx_codec *codec = NULL;
        double by_code = 0, by_rank = 0;
        st = vx_codec_train(lesson.rows, view->form.query_floats, lesson.n, p->dim,
                            p->metric == VX_IP, sketches,
                            vx_ops_of(vx_level_active())->coords, run, &codec, err);
        if (st == VX_OK)
            st = try_codec(index, codec, n_rows, run, &by_code, &by_rank, err);
        const bool is_worth_it = st == VX_OK && (!vx_keeps_codes(p, codec) ||
                                                 codec->row_bytes < view->form.row_bytes);
        if (is_worth_it && by_code >= ENOUGH && (!codec->has_ranks || by_rank >= ENOUGH)) {
            *out = codec;
            break;
        }
        again = st == VX_OK && by_code >= ENOUGH && sketches;
        vx_codec_free(codec);
        sketches = false; /* byte codes serve, rank codes do not */
    }
    vx_free(lesson.made);
    return st;
}

vx_status vx_index_quantise(vx_index *index, const vx_slot *slots, size_t n, vx_slot end,
                            const vx_run *run, vx_error *err)
{
    vx_graph *graph = &index->graph;
    const vx_view *view = atomic_load(&graph->view);
    if (view->codec != NULL) {
        const vx_status st = vx_graph_encode(graph, slots, n, run);
        return st == VX_OK         ? st
               : st == VX_E_NOMEM ? vx_fail_nomem(err, "adding rows")
                                  : vx_fail(err, st, "interrupted");
    }
    if (graph->params.quantization == VX_QUANT_NONE || end < VX_TRAIN_ROWS ||
        end < index->retrain_rows)
        return VX_OK;
    vx_codec *codec = NULL;
    vx_status st = is_fit(index, end) ? train(index, end, run, &codec, err) : VX_OK;
    if (st == VX_OK && codec == NULL)
        index->retrain_rows = end < VX_MAX_ROWS / 2 ? 2 * end : VX_MAX_ROWS;
    if (st != VX_OK || codec == NULL)
        return st;
    const vx_slot first = atomic_load(&view->n_rows);
    const uint64_t n_upper = view->n_upper + vx_graph_upper_needed(graph, first, end);
    st = vx_graph_quantise(graph, codec, end, n_upper, run, err);
    if (st != VX_OK)
        vx_codec_free(codec);
    return st;
}
