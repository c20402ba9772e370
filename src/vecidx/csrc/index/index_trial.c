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

/* Codes that are too coarse bring others to the top, but not from afar: so only so many rows
 * about a query are encoded.  They are sought among all that are tried, for among a few
 * thousand, spread over as much room as millions, nearest rows are easily told. */
#define CLOSE 128u

/* Where the nearest have to be by their codes: where a search for ten looks
 * (vx_rerank_depth of hnsw_search.c). */
#define CODE_DEPTH 23u
#define NIBBLE_DEPTH 40u /* groups of rows far apart, for which the step is too coarse, fail */
#define RANK_DEPTH 40u

/* Queries of a piece of work, which go through the rows together, and rows at a time. */
#define TOGETHER 16u
#define BLOCK 256u

struct found {
    float dist;
    uint32_t number;
};

struct trial {
    const vx_view *view;
    const vx_codec *codec;
    const vx_ops *ops;
    const vx_metric_ops *by_row; /* of the vectors                             */
    char *scratch;               /* of each thread: struct room, and what it points to */
    size_t scratch_bytes;
    const vx_slot *slots;
    uint32_t n;
    uint32_t queries[2 * QUERIES], n_queries; /* numbers of rows                */
    uint32_t n_nearest[2 * QUERIES], by_code[2 * QUERIES], by_rank[2 * QUERIES];
    double held[2 * QUERIES];
};

/* What a thread works in. */
struct room {
    struct found found[TOGETHER][CLOSE];
    uint32_t n_found[TOGETHER];
    float dists[BLOCK + 16];
    uint8_t *codes, *ranks; /* of those about one query                        */
    uint8_t *query;         /* its code                                        */
    float *floats;          /* a row                                           */
};

#define ROOM_BYTES vx_round_up(sizeof(struct room), VX_LINE)

static size_t scratch_bytes(const struct trial *t)
{
    return ROOM_BYTES + CLOSE * (t->codec->row_bytes + VX_RANK_BYTES) +
           vx_round_up(vx_codec_query_bytes(t->codec), VX_LINE) +
           vx_round_up(t->view->form.query_floats * sizeof(float), VX_LINE);
}

static struct room *room_of(const struct trial *t, unsigned who)
{
    char *at = t->scratch + who * t->scratch_bytes;
    struct room *room = (struct room *)(void *)at;
    room->codes = (uint8_t *)at + ROOM_BYTES;
    room->ranks = room->codes + CLOSE * t->codec->row_bytes;
    room->query = room->ranks + CLOSE * VX_RANK_BYTES;
    room->floats =
        (float *)(void *)(room->query + vx_round_up(vx_codec_query_bytes(t->codec), VX_LINE));
    return room;
}

/* Keep the nearest, the earlier of equally near ones first. */
static void keep_near(struct found *found, uint32_t *n, uint32_t number, float dist)
{
    uint32_t at = *n;
    if (at == CLOSE && !(dist < found[CLOSE - 1].dist))
        return;
    at = at < CLOSE ? (*n)++ : CLOSE - 1;
    for (; at > 0 && found[at - 1].dist > dist; at--)
        found[at] = found[at - 1];
    found[at] = (struct found){dist, number};
}

/* How many of the NEAREST first of n rows are among the `depth` nearest by these distances,
 * the earlier of equally near ones first, as above? */
static uint32_t count_kept(const float *dists, const struct found *found, uint32_t n,
                           uint32_t depth)
{
    uint32_t n_kept = 0;
    for (uint32_t i = 0; i < NEAREST && i < n; i++) {
        uint32_t n_nearer = 0;
        for (uint32_t j = 0; j < n; j++)
            n_nearer += dists[j] < dists[i] ||
                        (dists[j] <= dists[i] && found[j].number < found[i].number);
        n_kept += n_nearer < depth;
    }
    return n_kept;
}

static void encode(const struct trial *t, struct room *room, const struct found *found, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint8_t *code = room->codes + i * t->codec->row_bytes;
        const vx_slot slot = t->slots[found[i].number];
        (void)vx_codec_encode(t->codec, vx_view_floats(t->view, slot, room->floats), false, code);
        if (t->codec->has_ranks) {
            int16_t coords[VX_RANK_COORDS];
            vx_codec_coords(t->codec, t->ops->coords, code, coords);
            vx_codec_rank(coords, room->ranks + i * VX_RANK_BYTES);
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

static void try_query(struct trial *t, uint32_t i, struct room *room, const struct found *found,
                      uint32_t n)
{
    const size_t bytes = t->codec->row_bytes;
    const bool is_nibbles = t->codec->flips != NULL;
    const vx_metric_ops *by_code = &t->ops->kind[is_nibbles ? VX_KIND_U4_L2SQ : VX_KIND_U8_L2SQ];
    const vx_slot slot = t->slots[t->queries[i]];
    encode(t, room, found, n);
    (void)vx_codec_encode(t->codec, vx_view_floats(t->view, slot, room->floats), true, room->query);
    by_code->scan(room->query, room->codes, bytes, n, room->dists);
    t->by_code[i] = count_kept(room->dists, found, n, is_nibbles ? NIBBLE_DEPTH : CODE_DEPTH);
    t->n_nearest[i] = n < NEAREST ? n : NEAREST;
    if (t->codec->has_ranks) {
        int16_t coords[VX_RANK_COORDS];
        VX_ALIGN(64) uint8_t rank_query[VX_RANK_COORDS];
        vx_codec_coords(t->codec, t->ops->coords, room->query, coords);
        vx_codec_rank_query(coords, rank_query);
        t->ops->kind[VX_KIND_U4_L2SQ].scan(rank_query, room->ranks, VX_RANK_BYTES, n, room->dists);
        t->by_rank[i] = count_kept(room->dists, found, n, RANK_DEPTH);
    }
    if (t->codec->n_sketch == 0)
        return;
    /* The code of the row itself: under ip that of a query differs. */
    (void)vx_codec_encode(t->codec, vx_view_floats(t->view, slot, room->floats), false,
                          room->query);
    for (uint32_t j = 0; j < t->n_nearest[i]; j++)
        if (found[j].number != t->queries[i])
            t->held[i] += held_by(t, room->query, room->codes + j * bytes) / (NEAREST - 1);
}

static void query_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    struct trial *t = arg;
    struct room *room = room_of(t, who);
    const vx_view *view = t->view;
    memset(room->n_found, 0, sizeof room->n_found);
    for (uint32_t at = 0; at < t->n; at += BLOCK) {
        const uint32_t n = t->n - at < BLOCK ? t->n - at : BLOCK;
        for (size_t i = begin; i < end; i++) {
            const void *query = vx_view_vector(view, t->slots[t->queries[i]]);
            struct found *found = room->found[i - begin];
            t->by_row->many(query, view->vectors, view->form.row_bytes, t->slots + at, n,
                            room->dists);
            for (uint32_t j = 0; j < n; j++)
                keep_near(found, &room->n_found[i - begin], at + j, room->dists[j]);
        }
    }
    for (size_t i = begin; i < end; i++)
        try_query(t, (uint32_t)i, room, room->found[i - begin], room->n_found[i - begin]);
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
    double n = 0;
    for (uint32_t i = begin; i < end; i++) {
        score.by_code += t->by_code[i];
        score.by_rank += t->by_rank[i];
        score.held += t->held[i];
        n += t->n_nearest[i];
    }
    n = n > 0 ? n : 1;
    score.by_code /= n;
    score.by_rank = t->codec->has_ranks ? score.by_rank / n : 1;
    score.held = t->codec->n_sketch > 0 && end > begin ? score.held / (end - begin) : 1;
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
    t->by_row = &t->ops->kind[vx_kind_of(t->view->form.dtype, (vx_metric)p->metric, true)];
    t->scratch_bytes = scratch_bytes(t);
    t->scratch = vx_alloc(fixed.num_threads, t->scratch_bytes);
    const uint32_t n_first = choose_queries(t, 0, n_before);
    (void)choose_queries(t, n_before, n);
    if (t->scratch == NULL)
        vx_fail_nomem(err, "training codes");
    else if ((st = vx_pool_run(t->n_queries, TOGETHER, &fixed, 0, 0, query_piece, t)) != VX_OK)
        vx_fail(err, st, "interrupted");
    out[0] = sum_up(t, 0, n_first);
    out[1] = t->n_queries > n_first ? sum_up(t, n_first, t->n_queries) : out[0];
    vx_free(t->scratch);
    vx_free(t);
    return st;
}
