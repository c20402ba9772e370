/* index_quantise.c - when an index takes to codes, whether it should, and when they are
 * trained anew.
 *
 * Codes pay where they are shorter than the rows, or need not be kept (vx_keeps_codes),
 * and serve where the nearest rows are still the nearest by their codes (index_trial.c).  Both are looked at before the
 * graph is moved to them; where the answer is no, it stays on the vectors, and is asked
 * again when there are twice as many rows.
 *
 * Under "auto", where every row is whole numbers of 0 to 255, codes are all that is kept of
 * them (vx_stored_form), until a row comes that is not (hold_rows of index_add.c).
 *
 * Rows that come later may be unlike those that a codec was trained on.  So it is watched:
 *
 *   rows outside what it spans are counted as they are encoded.  Some dozens, and it is
 *   tried on them, before they are linked;
 *
 *   when a quarter as many rows have come as there were, it is tried on some of those,
 *   and its coordinates are compared: do they hold as much of the new rows' distances as
 *   of the others'?
 *
 * One that fails gives way to another, trained on what is there now, or to the vectors,
 * and rows that were linked while they lay outside are linked again (index_add.c).
 * Searches go on in the old view meanwhile.  What is watched is not stored: the first add
 * to a loaded index tries the codec. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../base/vx_alloc.h"
#include "../base/vx_pool.h"
#include "../base/vx_status.h"
#include "../hnsw/hnsw_ops.h"
#include "../hnsw/hnsw_sketch.h"
#include "../quant/quant_nibble.h"
#include "index.h"

/* Rows a codec is tried on, spread over all, and values of them; and rows it is trained on. */
#define TRIAL_ROWS (1u << 17)
#define TRIAL_VALUES (1u << 26)
#define LESSON_ROWS 8192u
#define LESSON_FLOATS (1u << 25) /* but 128 MB of them at most */

#define LOOK_GRAIN 1024u /* rows at a time that are asked whether bytes hold them */

/* Of the nearest rows, so many have to be near by their codes. */
#define ENOUGH 0.98

/* New rows' distances are to lie in the coordinates that sketches are made of, by this
 * share of what the others' do; and others are not taken for less than this gain. */
#define AS_MUCH 0.85
#define GAIN 1.1

/* Under ip, rows whose lengths differ by more than this share are linked better by
 * their products than by codes with an added dimension (quant_codec.h). */
#define EVEN_LENGTHS 0.02

/* Up to here a row of float32 is a line, which codes cannot shorten. */
#define FEW_DIMS 16u

/* Rows outside that are borne: linked by what is left of their codes, so few find one
 * another still.  Twice as many after each time that they were tried, until the index
 * has grown: training anew costs a pass over all rows. */
#define OUTSIDE_LEAST 32u
#define OUTSIDE_SHARE 256u
#define OUTSIDE_MOST 512u

/* A codec is kept that fails on fewer than one row in so many, and on no others. */
#define FEW_SHARE 256u

/* ---- what has come since the codec was tried ------------------------------------------ */

#define PICKS 512u

struct vx_watch {
    uint32_t n_tried;      /* rows there were when it was tried                 */
    uint32_t outside_most; /* to be borne                                       */
    uint32_t n_recent;     /* rows since then; every `stride`-th: */
    uint32_t n_picks, stride;
    vx_slot picks[PICKS];
    vx_slot *outside;      /* rows linked while they lay outside                */
    uint32_t n_outside, room_outside;
    bool is_renewed;       /* there is another codec, and they are to be linked again */
};

static void pick(struct vx_watch *w, vx_slot slot)
{
    if (w->n_recent++ % w->stride != 0)
        return;
    if (w->n_picks == PICKS) { /* every other one stays */
        for (uint32_t i = 0; i < PICKS / 2; i++)
            w->picks[i] = w->picks[2 * i];
        w->n_picks = PICKS / 2;
        w->stride *= 2;
        if ((w->n_recent - 1) % w->stride != 0)
            return;
    }
    w->picks[w->n_picks++] = slot;
}

static bool note_outside(struct vx_watch *w, vx_slot slot)
{
    if (w->n_outside == w->room_outside) {
        const uint32_t room = w->room_outside < 64 ? 64 : 2 * w->room_outside;
        vx_slot *larger = vx_alloc(room, sizeof *larger);
        if (larger == NULL)
            return false;
        if (w->n_outside > 0)
            memcpy(larger, w->outside, w->n_outside * sizeof *larger);
        vx_free(w->outside);
        w->outside = larger;
        w->room_outside = room;
    }
    w->outside[w->n_outside++] = slot;
    return true;
}

/* The codec, or that there is none, is right for the rows as they are. */
static void begin_watch(struct vx_watch *w, uint32_t n_rows, bool has_grown)
{
    const uint32_t share = n_rows / OUTSIDE_SHARE;
    if (!has_grown && w->outside_most > 0 && w->outside_most < VX_MAX_ROWS / 4)
        w->outside_most *= 2;
    else
        w->outside_most = share < OUTSIDE_LEAST  ? OUTSIDE_LEAST
                          : share > OUTSIDE_MOST ? OUTSIDE_MOST
                                                 : share;
    while (w->outside_most < 2 * w->n_outside && w->outside_most < VX_MAX_ROWS / 4)
        w->outside_most *= 2;
    w->n_tried = n_rows;
    w->n_recent = w->n_picks = 0;
    w->stride = 1;
}

static bool is_due(const struct vx_watch *w, const vx_view *view, uint32_t n_rows)
{
    if (view->codec == NULL)
        return n_rows / 2 >= w->n_tried;
    return w->n_recent >= w->n_tried / 4 || w->n_outside > w->outside_most;
}

static uint32_t asked_about(const struct vx_watch *w, uint32_t i, uint32_t n)
{
    return w->n_outside > w->outside_most ? w->outside[(uint64_t)i * w->n_outside / n]
                                          : w->picks[i];
}

static int by_slot(const void *a, const void *b)
{
    const vx_slot x = *(const vx_slot *)a, y = *(const vx_slot *)b;
    return (x > y) - (x < y);
}

/* Of these slots the live ones, once each, by the numbers that they get; how many. */
static uint32_t renumber(const vx_view *from, vx_slot *slots, uint32_t n)
{
    const uint32_t n_rows = atomic_load(&from->n_rows);
    uint32_t n_live = 0, n_out = 0, i = 0;
    if (n > 0)
        qsort(slots, n, sizeof *slots, by_slot);
    for (vx_slot slot = 0; slot < n_rows && i < n; slot++) {
        const bool is_asked = slots[i] == slot, is_alive = vx_view_is_alive(from, slot);
        while (i < n && slots[i] == slot)
            i++;
        if (is_asked && is_alive)
            slots[n_out++] = n_live;
        n_live += is_alive;
    }
    return n_out;
}

void vx_watch_compact(struct vx_watch *w, const vx_view *from)
{
    if (w == NULL)
        return;
    w->n_picks = renumber(from, w->picks, w->n_picks);
    w->n_outside = renumber(from, w->outside, w->n_outside);
}

/* ---- training --------------------------------------------------------------------------- */

/* Slots 0 .. n_rows-1 whose rows count: the live ones, and those that are being added, which
 * may take the places of dead ones. */
struct ground {
    const vx_view *view;
    uint32_t n_rows;
    const vx_slot *added; /* rising                                              */
    size_t n_added, at;   /* at: the first of them not behind the last slot asked for */
};

/* Asked of rising slots. */
static bool does_count(struct ground *g, vx_slot slot)
{
    if (slot == 0)
        g->at = 0;
    while (g->at < g->n_added && g->added[g->at] < slot)
        g->at++;
    return vx_view_is_alive(g->view, slot) || (g->at < g->n_added && g->added[g->at] == slot);
}

/* Slots evenly spread over those that count, at most `room`. */
static uint32_t spread(struct ground *g, uint32_t room, vx_slot *out)
{
    const bool any_dead = atomic_load(&g->view->any_dead);
    uint32_t n_counted = g->n_rows, n = 0, at = 0;
    for (vx_slot slot = 0; any_dead && slot < g->n_rows; slot++)
        n_counted -= !does_count(g, slot);
    room = room < n_counted ? room : n_counted;
    for (vx_slot slot = 0; slot < g->n_rows && n < room; slot++) {
        if (any_dead && !does_count(g, slot))
            continue;
        if (at++ == (uint64_t)n * n_counted / room)
            out[n++] = slot;
    }
    return n;
}

static double length_of(const vx_view *view, vx_slot slot)
{
    double length;
    (void)vx_form_inspect(&view->form, view->form.dtype, vx_view_vector(view, slot), &length);
    return length;
}

/* What is trained and tried on: `slots`, the first n_before spread over all rows, then
 * those that are asked about. */
struct rows {
    vx_slot slots[TRIAL_ROWS + PICKS];
    uint32_t n, n_before;
    bool is_fit; /* could codes be of use for rows like these? */
};

static void choose_rows(const vx_index *index, struct ground *ground, struct rows *out)
{
    const vx_params *p = &index->graph.params;
    const vx_view *view = atomic_load(&index->graph.view);
    const struct vx_watch *w = index->watch;
    const uint32_t code_dim = p->dim + (p->metric == VX_IP);
    const size_t code_bytes = p->quantization == VX_QUANT_SQ4 ? vx_nibble_bytes(code_dim)
                                                              : vx_round_up(code_dim, VX_LINE);
    const uint32_t room = TRIAL_VALUES / p->dim; /* of 65,536 dimensions: 1,024 */
    double least = INFINITY, most = 0;
    out->n_before = out->n =
        spread(ground, room < TRIAL_ROWS ? room : TRIAL_ROWS, out->slots);
    uint32_t n_asked = w->n_outside > w->outside_most ? w->n_outside : w->n_picks;
    n_asked = view->codec == NULL ? 0 : n_asked > PICKS ? PICKS : n_asked;
    for (uint32_t i = 0; i < n_asked; i++)
        if (asked_about(w, i, n_asked) < ground->n_rows)
            out->slots[out->n++] = asked_about(w, i, n_asked);
    for (uint32_t i = 0; p->metric == VX_IP && i < out->n; i++) {
        const double length = length_of(view, out->slots[i]);
        least = length < least ? length : least;
        most = length > most ? length : most;
    }
    out->is_fit = p->dim > FEW_DIMS && out->n > 0 &&
                  (p->quantization == VX_QUANT_AUTO || code_bytes < view->form.row_bytes) &&
                  (most == 0 || least >= (1 - EVEN_LENGTHS) * most);
}

/* The rows to train on, as floats, one behind the other: evenly spread, those asked about,
 * and the longest, which says how far the others may reach under ip. */
static float *copy_lesson(const vx_index *index, struct ground *ground, const struct rows *rows,
                          uint32_t *out_n)
{
    const vx_params *p = &index->graph.params;
    const vx_view *view = atomic_load(&index->graph.view);
    const size_t width = view->form.query_floats, room = LESSON_FLOATS / width;
    const uint32_t n_asked = rows->n - rows->n_before;
    vx_slot *slots = vx_alloc(LESSON_ROWS + PICKS + 1, sizeof *slots);
    float *lesson = NULL;
    if (slots == NULL)
        return NULL;
    uint32_t n = spread(ground, room < LESSON_ROWS ? (uint32_t)room : LESSON_ROWS, slots);
    memcpy(slots + n, rows->slots + rows->n_before, n_asked * sizeof *slots);
    n += n_asked;
    double longest = -1;
    for (vx_slot slot = 0; p->metric == VX_IP && slot < ground->n_rows; slot++) {
        const double length = does_count(ground, slot) ? length_of(view, slot) : -1;
        if (length > longest) {
            longest = length;
            slots[n] = slot;
        }
    }
    n += p->metric == VX_IP;
    lesson = vx_alloc((size_t)n * width, sizeof *lesson);
    for (uint32_t i = 0; lesson != NULL && i < n; i++)
        vx_form_read(&view->form, vx_view_vector(view, slots[i]), lesson + (size_t)i * width);
    vx_free(slots);
    *out_n = n;
    return lesson;
}

struct looking {
    const struct ground *ground;
    vx_form bytes;
    _Atomic bool any_other;
};

static void look_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    struct looking *l = arg;
    const struct ground *g = l->ground;
    (void)who;
    for (size_t i = begin;
         i < end && !atomic_load_explicit(&l->any_other, memory_order_relaxed); i++) {
        /* The live ones, then those that are being added in places of dead ones. */
        const vx_slot slot = i < g->n_rows ? (vx_slot)i : g->added[i - g->n_rows];
        if (vx_view_is_alive(g->view, slot) == (i < g->n_rows) &&
            !vx_form_holds(&l->bytes, g->view->form.dtype, vx_view_vector(g->view, slot)))
            atomic_store(&l->any_other, true);
    }
}

/* Are all rows what the codes of a lossless codec say, and shorter so?  Then these hold them. */
static vx_status see_if_held(const vx_index *index, vx_codec *codec, const struct ground *ground,
                             const vx_run *run, vx_error *err)
{
    const vx_params *p = &index->graph.params;
    vx_codec held = *codec;
    held.holds_rows = true;
    struct looking l = {.ground = ground, .bytes = vx_stored_form(p, &held)};
    atomic_init(&l.any_other, false);
    if (!codec->is_lossless || p->quantization != VX_QUANT_AUTO ||
        l.bytes.row_bytes >= index->graph.form.row_bytes)
        return VX_OK;
    const vx_run quiet = {vx_pool_width(run), run != NULL ? run->tick : NULL,
                          run != NULL ? run->tick_arg : NULL};
    const vx_status st = vx_pool_run(ground->n_rows + ground->n_added, LOOK_GRAIN, &quiet, 0,
                                     0, look_piece, &l);
    codec->holds_rows = st == VX_OK && !atomic_load(&l.any_other);
    return st == VX_OK ? st : vx_fail(err, st, "interrupted");
}

static bool serves(const vx_score *score)
{
    return score->by_code >= ENOUGH && score->by_rank >= ENOUGH;
}

/* Train a codec that serves all these rows; *out stays NULL if there is none. */
static vx_status train(const vx_index *index, struct ground *ground, const struct rows *rows,
                       const vx_run *run, vx_codec **out, vx_score out_scores[2], vx_error *err)
{
    const vx_params *p = &index->graph.params;
    const vx_view *view = atomic_load(&index->graph.view);
    vx_codes kind = p->quantization == VX_QUANT_AUTO  ? VX_CODES_RANKED
                    : p->quantization == VX_QUANT_SQ4 ? VX_CODES_NIBBLES
                                                      : VX_CODES_BYTES;
    uint32_t n = 0;
    float *lesson = rows->is_fit ? copy_lesson(index, ground, rows, &n) : NULL;
    vx_status st = lesson != NULL || !rows->is_fit ? VX_OK : vx_fail_nomem(err, "training codes");
    for (bool again = rows->is_fit; again && st == VX_OK;) {
        vx_codec *codec = NULL;
        st = vx_codec_train(lesson, view->form.query_floats, n, p->dim, p->metric == VX_IP, kind,
                            vx_ops_of(vx_level_active())->coords, run, &codec, err);
        if (st == VX_OK)
            st = vx_codec_try(index, codec, rows->slots, rows->n, rows->n_before, run, out_scores,
                              err);
        if (st == VX_OK)
            st = see_if_held(index, codec, ground, run, err);
        const bool is_worth_it = st == VX_OK && (!vx_keeps_codes(p, codec) ||
                                                 codec->row_bytes < index->graph.form.row_bytes);
        if (is_worth_it && serves(&out_scores[0]) && serves(&out_scores[1])) {
            *out = codec;
            break;
        }
        const bool has_ranks = st == VX_OK && codec->has_ranks;
        vx_codec_free(codec);
        /* Byte codes may serve where rank codes do not. */
        again = kind == VX_CODES_RANKED && has_ranks && out_scores[0].by_code >= ENOUGH &&
                out_scores[1].by_code >= ENOUGH;
        kind = VX_CODES_SKETCHED;
    }
    vx_free(lesson);
    return st;
}

/* ---- deciding ------------------------------------------------------------------------------ */

/* Put a codec, or none, in the place of the current one. */
static vx_status put_to_work(vx_index *index, vx_codec *codec, uint32_t n_rows, const vx_run *run,
                             vx_error *err)
{
    vx_graph *graph = &index->graph;
    const vx_view *view = atomic_load(&graph->view);
    const vx_slot first = atomic_load(&view->n_rows);
    if (codec == view->codec || vx_codec_equals(codec, view->codec))
        return VX_OK;
    return vx_graph_quantise(graph, codec, n_rows,
                             view->n_upper + vx_graph_upper_needed(graph, first, n_rows), run, err);
}

/* Does the codec there is serve these rows as well as any would?  Where it does not,
 * *out_few: those it fails are few. */
static bool still_serves(const vx_index *index, const struct rows *rows, uint32_t n_rows,
                         const vx_score scores[2], bool *out_few)
{
    const uint64_t n_outside = index->watch->n_outside;
    *out_few = rows->is_fit && serves(&scores[0]) && n_outside > index->watch->outside_most &&
               n_outside * FEW_SHARE < n_rows;
    return rows->is_fit && serves(&scores[0]) && serves(&scores[1]) &&
           scores[1].held >= AS_MUCH * scores[0].held;
}

/* Is the codec there is good for the rows as they are?  If not, or if `anew`, to another. */
static vx_status look(vx_index *index, struct ground *ground, bool anew, const vx_run *run,
                      vx_error *err)
{
    const uint32_t n_rows = ground->n_rows;
    vx_codec *codec = atomic_load(&index->graph.view)->codec, *other = NULL;
    vx_score before[2] = {{0}}, after[2] = {{0}};
    bool is_good = false, few = false;
    struct rows *rows = vx_alloc(1, sizeof *rows);
    vx_status st = VX_OK;
    if (rows == NULL)
        return vx_fail_nomem(err, "training codes");
    choose_rows(index, ground, rows);
    if (codec != NULL) {
        st = vx_codec_try(index, codec, rows->slots, rows->n, rows->n_before, run, before, err);
        is_good = still_serves(index, rows, n_rows, before, &few);
    }
    if (st == VX_OK && (anew || !is_good)) {
        st = train(index, ground, rows, run, &other, after, err);
        const bool served = codec != NULL && rows->is_fit && serves(&before[0]) &&
                            serves(&before[1]);
        const bool is_poorer = other == NULL || (codec != NULL && other->n_sketch < codec->n_sketch);
        const bool keeps = (other == NULL && few) ||
                           (!anew && served &&
                            (is_poorer || after[1].held < GAIN * before[1].held));
        if (st == VX_OK && !keeps)
            st = put_to_work(index, other, n_rows, run, err);
        index->watch->is_renewed = st == VX_OK && !keeps;
    }
    if (st == VX_OK && is_good)
        index->watch->n_outside = 0;
    vx_codec_free(other);
    vx_free(rows);
    return st;
}

/* ---- what adding and compacting ask for -------------------------------------------------- */

/* Codes of the slots; what they say to the watch. */
static vx_status encode(vx_index *index, const vx_slot *slots, size_t n, const vx_run *run,
                        vx_error *err)
{
    uint8_t *is_outside = vx_zalloc(n, 1);
    if (is_outside == NULL)
        return vx_fail_nomem(err, "adding rows");
    vx_status st = vx_graph_encode(&index->graph, slots, n, is_outside, run);
    for (size_t i = 0; i < n && st == VX_OK; i++) {
        pick(index->watch, slots[i]);
        if (is_outside[i] && !note_outside(index->watch, slots[i]))
            st = VX_E_NOMEM;
    }
    vx_free(is_outside);
    return st == VX_OK         ? st
           : st == VX_E_NOMEM ? vx_fail_nomem(err, "adding rows")
                              : vx_fail(err, st, "interrupted");
}

static vx_status make_watch(vx_index *index, vx_error *err)
{
    if (index->watch != NULL)
        return VX_OK;
    index->watch = vx_zalloc(1, sizeof *index->watch);
    if (index->watch == NULL)
        return vx_fail_nomem(err, "training codes");
    index->watch->stride = 1;
    return VX_OK;
}

void vx_watch_free(struct vx_watch *watch)
{
    if (watch != NULL)
        vx_free(watch->outside);
    vx_free(watch);
}

uint32_t vx_index_misfits(vx_index *index, vx_slot **out)
{
    struct vx_watch *w = index->watch;
    if (w == NULL || !w->is_renewed)
        return 0;
    const uint32_t n = w->n_outside;
    *out = w->outside;
    w->outside = NULL;
    w->n_outside = w->room_outside = 0;
    w->is_renewed = false;
    return n;
}

vx_status vx_index_quantise(vx_index *index, const vx_slot *slots, size_t n, vx_slot end,
                            const vx_run *run, vx_error *err)
{
    const vx_view *view = atomic_load(&index->graph.view);
    if (index->graph.params.quantization == VX_QUANT_NONE ||
        (view->codec == NULL && end < VX_TRAIN_ROWS))
        return VX_OK;
    vx_status st = make_watch(index, err);
    const uint32_t n_linked = st == VX_OK ? index->watch->n_outside : 0;
    if (st == VX_OK && view->codec != NULL)
        st = encode(index, slots, n, run, err);
    if (st != VX_OK || !is_due(index->watch, view, end))
        return st;
    const bool has_grown = index->watch->n_recent >= index->watch->n_tried / 4;
    struct ground ground = {.view = view, .n_rows = end, .added = slots, .n_added = n};
    st = look(index, &ground, false, run, err);
    if (st == VX_OK && index->watch->is_renewed)
        index->watch->n_outside = n_linked; /* the others will be linked by the new codes */
    if (st == VX_OK)
        begin_watch(index->watch, end, has_grown);
    return st;
}

/* What an add does at its end: sketch the rows of a new view, measure their dimension. */
static vx_status settle_sketches(vx_index *index, const vx_run *run, vx_error *err)
{
    vx_graph *graph = &index->graph;
    vx_view *view = atomic_load(&graph->view);
    const vx_status st = vx_sketch_stale(view, atomic_load(&view->n_rows), run);
    if (st != VX_OK)
        return vx_fail(err, st, "interrupted");
    vx_ctx *ctx = view->n_groups > 0 && graph->n_calibrated == 0 ? vx_ctx_take(graph, &view) : NULL;
    if (ctx != NULL) { /* where there is no memory, the next add does it */
        (void)vx_graph_calibrate(graph, view, ctx);
        vx_ctx_release(ctx);
    }
    return VX_OK;
}

vx_status vx_index_renew_codes(vx_index *index, const vx_run *run, vx_error *err)
{
    vx_graph *graph = &index->graph;
    const uint32_t n = atomic_load(&atomic_load(&graph->view)->n_rows);
    if (graph->params.quantization == VX_QUANT_NONE || vx_index_count(index) < VX_TRAIN_ROWS)
        return VX_OK;
    vx_status st = make_watch(index, err);
    if (st == VX_OK) {
        index->watch->n_picks = 0;
        struct ground ground = {.view = atomic_load(&graph->view), .n_rows = n};
        st = look(index, &ground, true, run, err);
    }
    if (st == VX_OK)
        begin_watch(index->watch, n, true);
    return st == VX_OK ? settle_sketches(index, run, err) : st;
}
