/* index_trial.c - do codes serve? Tried on some rows, by comparing them all. */
#include <string.h>

#include "../base/vx_alloc.h"
#include "../base/vx_pool.h"
#include "../base/vx_status.h"
#include "../hnsw/hnsw_ops.h"
#include "index.h"

/* So many of each part of the rows look for their nearest. */
#define QUERIES 64u
#define NEAREST 11u /* itself and ten others */

/* Where they have to be by their codes: nearer to the top than a search looks
 * (vx_rerank_depth, rank_depth of hnsw_search.c), since the whole index is denser than
 * the sample. */
#define CODE_DEPTH 16u
#define NIBBLE_DEPTH 25u /* groups of rows far apart, for which the step is too coarse, fail */
#define RANK_DEPTH 40u

struct trial {
    const vx_view *view;
    const vx_codec *codec;
    const vx_ops *ops;
    const vx_metric_ops *by_row; /* of the vectors                             */
    char *scratch;          /* of each thread: a row as floats, a query's code, distances */
    size_t scratch_bytes;
    const vx_slot *slots;
    uint32_t n;
    uint8_t *codes, *ranks; /* of them                                         */
    uint32_t queries[2 * QUERIES], n_queries; /* numbers of rows                */
    uint32_t by_code[2 * QUERIES], by_rank[2 * QUERIES];
    double held[2 * QUERIES];
};

/* The numbers of the `depth` smallest, by insertion. */
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

static uint32_t count_common(const uint32_t *nearest, const uint32_t *found, uint32_t depth)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < NEAREST; i++)
        for (uint32_t j = 0; j < depth; j++)
            n += nearest[i] == found[j];
    return n;
}

static void encode_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    const struct trial *t = arg;
    float *room = (float *)(void *)(t->scratch + who * t->scratch_bytes);
    for (size_t i = begin; i < end; i++) {
        uint8_t *code = t->codes + i * t->codec->row_bytes;
        (void)vx_codec_encode(t->codec, vx_view_floats(t->view, t->slots[i], room), false, code);
        if (t->codec->has_ranks) {
            int16_t coords[VX_RANK_COORDS];
            vx_codec_coords(t->codec, t->ops->coords, code, coords);
            vx_codec_rank(coords, t->ranks + i * VX_RANK_BYTES);
        }
    }
}

/* The share of the squared distance of two codes that their sketched coordinates hold. */
static double held_by(const struct trial *t, const uint8_t *a, const uint8_t *b)
{
    const double per_code = (double)t->codec->coords_per_code;
    float of_a[VX_RANK_COORDS], of_b[VX_RANK_COORDS];
    double sum = 0;
    const double whole =
        (double)t->ops->kind[VX_KIND_U8_L2SQ].pair(a, b, t->codec->row_bytes) * per_code * per_code;
    if (!(whole > 0))
        return 1;
    t->ops->coords(t->codec, a, of_a);
    t->ops->coords(t->codec, b, of_b);
    for (uint32_t i = 0; i < t->codec->n_sketch; i++)
        sum += (double)(of_a[i] - of_b[i]) * (double)(of_a[i] - of_b[i]);
    return sum / whole;
}

static void try_ranks(struct trial *t, size_t i, const uint8_t *query, const uint32_t *nearest,
                      float *dists)
{
    int16_t coords[VX_RANK_COORDS];
    VX_ALIGN(64) uint8_t rank_query[VX_RANK_COORDS];
    uint32_t found[RANK_DEPTH];
    vx_codec_coords(t->codec, t->ops->coords, query, coords);
    vx_codec_rank_query(coords, rank_query);
    t->ops->kind[VX_KIND_U4_L2SQ].scan(rank_query, t->ranks, VX_RANK_BYTES, t->n, dists);
    take_nearest(dists, t->n, RANK_DEPTH, found);
    t->by_rank[i] = count_common(nearest, found, RANK_DEPTH);
}

static void query_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    struct trial *t = arg;
    const size_t bytes = t->codec->row_bytes;
    const bool is_nibbles = t->codec->flips != NULL;
    const vx_metric_ops *by_code = &t->ops->kind[is_nibbles ? VX_KIND_U4_L2SQ : VX_KIND_U8_L2SQ];
    const uint32_t depth = is_nibbles ? NIBBLE_DEPTH : CODE_DEPTH;
    float *floats = (float *)(void *)(t->scratch + who * t->scratch_bytes);
    uint8_t *query = (uint8_t *)(floats + t->view->form.query_floats);
    float *dists = (float *)(void *)(query + vx_codec_query_bytes(t->codec));
    uint32_t nearest[NEAREST], found[RANK_DEPTH];
    for (size_t i = begin; i < end; i++) {
        const vx_slot slot = t->slots[t->queries[i]];
        t->by_row->many(vx_view_vector(t->view, slot), t->view->vectors, t->view->form.row_bytes,
                        t->slots, t->n, dists);
        take_nearest(dists, t->n, NEAREST, nearest);
        (void)vx_codec_encode(t->codec, vx_view_floats(t->view, slot, floats), true, query);
        by_code->scan(query, t->codes, bytes, t->n, dists);
        take_nearest(dists, t->n, depth, found);
        t->by_code[i] = count_common(nearest, found, depth < t->n ? depth : t->n);
        if (t->codec->has_ranks)
            try_ranks(t, i, query, nearest, dists);
        for (uint32_t j = 0; j < NEAREST && t->codec->n_sketch > 0; j++)
            if (nearest[j] != t->queries[i])
                t->held[i] += held_by(t, t->codes + t->queries[i] * bytes,
                                      t->codes + nearest[j] * bytes) / (NEAREST - 1);
    }
}

/* Rows begin .. end-1 name some that ask, from number `at` on. */
static uint32_t choose_queries(struct trial *t, uint32_t begin, uint32_t end)
{
    const uint32_t n = end - begin < QUERIES ? end - begin : QUERIES;
    for (uint32_t i = 0; i < n; i++)
        t->queries[t->n_queries++] = begin + (uint32_t)((uint64_t)i * (end - begin) / n);
    return n;
}

static vx_score sum_up(const struct trial *t, uint32_t begin, uint32_t end)
{
    vx_score score = {0, 0, 0};
    for (uint32_t i = begin; i < end; i++) {
        score.by_code += t->by_code[i];
        score.by_rank += t->by_rank[i];
        score.held += t->held[i];
    }
    const double n = end > begin ? end - begin : 1;
    score.by_code /= NEAREST * n;
    score.by_rank = t->codec->has_ranks ? score.by_rank / (NEAREST * n) : 1;
    score.held = t->codec->n_sketch > 0 ? score.held / n : 1;
    return score;
}

vx_status vx_codec_try(const vx_index *index, const vx_codec *codec, const vx_slot *slots,
                       uint32_t n, uint32_t n_before, const vx_run *run, vx_score out[2],
                       vx_error *err)
{
    const vx_run fixed = {vx_pool_width(run), run != NULL ? run->tick : NULL,
                          run != NULL ? run->tick_arg : NULL};
    struct trial *t = vx_zalloc(1, sizeof *t);
    vx_status st = VX_E_NOMEM;
    if (t == NULL)
        return vx_fail_nomem(err, "training codes");
    const vx_params *p = &index->graph.params;
    *t = (struct trial){.view = atomic_load(&index->graph.view), .codec = codec, .slots = slots,
                        .n = n, .ops = vx_ops_of(vx_level_active())};
    t->by_row = &t->ops->kind[vx_kind_of((vx_dtype)p->dtype, (vx_metric)p->metric, true)];
    t->scratch_bytes = vx_round_up(t->view->form.query_floats * sizeof(float) +
                                   vx_codec_query_bytes(codec) +
                                   ((size_t)n + 16) * sizeof(float), VX_LINE);
    t->codes = vx_alloc(n, codec->row_bytes);
    t->ranks = vx_alloc(codec->has_ranks ? n : 1, VX_RANK_BYTES);
    t->scratch = vx_alloc(fixed.num_threads, t->scratch_bytes);
    const uint32_t n_first = choose_queries(t, 0, n_before);
    (void)choose_queries(t, n_before, n);
    if (t->codes == NULL || t->ranks == NULL || t->scratch == NULL)
        vx_fail_nomem(err, "training codes");
    else if ((st = vx_pool_run(n, 64, &fixed, 0, 0, encode_piece, t)) != VX_OK ||
             (st = vx_pool_run(t->n_queries, 1, &fixed, 0, 0, query_piece, t)) != VX_OK)
        vx_fail(err, st, "interrupted");
    out[0] = sum_up(t, 0, n_first);
    out[1] = t->n_queries > n_first ? sum_up(t, n_first, t->n_queries) : out[0];
    vx_free(t->codes);
    vx_free(t->ranks);
    vx_free(t->scratch);
    vx_free(t);
    return st;
}
