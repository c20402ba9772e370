/* quant_codec.c - see quant_codec.h. */
#include "quant_codec.h"

#include <math.h>
#include <string.h>

#include "../base/vx_alloc.h"
#include "../base/vx_pool.h"
#include "../base/vx_rng.h"
#include "../base/vx_status.h"
#include "quant_nibble.h"
#include "quant_pca.h"

/* Rows looked at, evenly spread over all. */
#define SAMPLE_ROWS 8192u

/* This share of values, in all dimensions together, may lie outside what a byte
 * spans and is clipped to its ends. */
#define CLIPPED_SHARE 1e-5

/* A row that is clipped by more than a step in the root mean square is outside. */
#define OUTSIDE_SQUARE 1.0f

struct training {
    const float *rows;
    size_t row_floats;
    uint64_t n;
    uint32_t n_sample;
    vx_codec *codec;
};

static const float *sample_row(const struct training *t, uint32_t i)
{
    return t->rows + (size_t)((uint64_t)i * t->n / t->n_sample) * t->row_floats;
}

static double squared_length(const float *row, uint32_t dim)
{
    double sum = 0;
    for (uint32_t i = 0; i < dim; i++)
        sum += (double)row[i] * (double)row[i];
    return sum;
}

static float added_dimension(const vx_codec *codec, const float *row)
{
    const double rest = (double)codec->radius * codec->radius - squared_length(row, codec->dim);
    return rest > 0 ? (float)sqrt(rest) : 0.0f;
}

static float value_of(const vx_codec *codec, const float *row, uint32_t i)
{
    return i < codec->dim ? row[i] : added_dimension(codec, row);
}

/* Are all values whole numbers of 0 to 255? */
static bool are_bytes(const struct training *t)
{
    for (uint32_t s = 0; s < t->n_sample; s++) {
        const float *row = sample_row(t, s);
        for (uint32_t i = 0; i < t->codec->dim; i++)
            if (!(row[i] >= 0 && row[i] <= 255 && row[i] == (float)(int)row[i]))
                return false;
    }
    return true;
}

/* The mean of each dimension, in sums of fixed order. */
static void find_means(const struct training *t, double *mean)
{
    const vx_codec *codec = t->codec;
    for (uint32_t i = 0; i < codec->code_dim; i++)
        mean[i] = 0;
    for (uint32_t s = 0; s < t->n_sample; s++) {
        const float *row = sample_row(t, s);
        for (uint32_t i = 0; i < codec->dim; i++)
            mean[i] += (double)row[i];
        if (codec->code_dim > codec->dim)
            mean[codec->dim] += (double)added_dimension(codec, row);
    }
    for (uint32_t i = 0; i < codec->code_dim; i++)
        mean[i] /= t->n_sample;
}

/* The distance from the mean that all but CLIPPED_SHARE of the values keep, from a
 * histogram of its binary logarithm: 64 bins an octave, so a few per cent high. */
#define BINS_OCTAVE 64
#define BINS (BINS_OCTAVE * 256)
static double find_spread(const struct training *t, const double *mean, uint64_t *bins)
{
    const vx_codec *codec = t->codec;
    uint64_t n = 0;
    for (uint32_t s = 0; s < t->n_sample; s++) {
        const float *row = sample_row(t, s);
        for (uint32_t i = 0; i < codec->code_dim; i++) {
            const double far = fabs((double)value_of(codec, row, i) - mean[i]);
            if (far < 1e-37)
                continue;
            int at = (int)((log2(far) + 128) * BINS_OCTAVE);
            at = at < 0 ? 0 : at >= BINS ? BINS - 1 : at;
            bins[at]++;
            n++;
        }
    }
    uint64_t over = (uint64_t)((double)n * CLIPPED_SHARE);
    for (int at = BINS - 1; at >= 0; at--) {
        if (bins[at] > over)
            return exp2((double)(at + 1) / BINS_OCTAVE - 128);
        over -= bins[at];
    }
    return 1; /* all rows are equal */
}

static vx_status fit(struct training *t, vx_error *err)
{
    vx_codec *codec = t->codec;
    double *mean = vx_alloc(codec->code_dim, sizeof *mean);
    uint64_t *bins = vx_zalloc(BINS, sizeof *bins);
    if (mean == NULL || bins == NULL) {
        vx_free(mean);
        vx_free(bins);
        return vx_fail_nomem(err, "training codes");
    }
    find_means(t, mean);
    const double spread = find_spread(t, mean, bins);
    codec->step = (float)(spread / 127.5);
    codec->inv_step = 1.0f / codec->step;
    for (uint32_t i = 0; i < codec->code_dim; i++)
        codec->low[i] = (float)(mean[i] - spread);
    vx_free(mean);
    vx_free(bins);
    return VX_OK;
}

/* ---- coordinates ------------------------------------------------------------- */

/* From how many bytes on a code is long enough for rank codes to save lines. */
#define RANK_FROM_BYTES 320u

/* Above this the covariance of a sample takes too long; codes alone must do. */
#define MAX_SKETCH_DIM 4096u

#define PCA_ROWS 4096u

/* This share of the leading coordinates of the sample may lie outside -128 .. 127. */
#define OUTSIDE_SHARE 0.005

static int16_t round_coord(float x)
{
    x += 2048.5f;
    x = x > 0 ? x : 0;
    x = x < 4095 ? x : 4095;
    return (int16_t)((int)x - 2048);
}

void vx_codec_coords(const vx_codec *codec, vx_coords_fn coords, const uint8_t *code, int16_t *out)
{
    float x[VX_RANK_COORDS];
    coords(codec, code, x);
    for (uint32_t i = 0; i < codec->n_coords; i++)
        out[i] = round_coord(x[i]);
}

static uint8_t rank_nibble(int16_t coord)
{
    const int level = (coord + 128) >> 4;
    return (uint8_t)(level < 0 ? 0 : level > 15 ? 15 : level);
}

void vx_codec_rank(const int16_t *coords, uint8_t *out)
{
    for (uint32_t h = 0; h < 2; h++)
        for (uint32_t j = 0; j < 64; j++)
            out[64 * h + j] = (uint8_t)(rank_nibble(coords[128 * h + j]) |
                                        rank_nibble(coords[128 * h + 64 + j]) << 4);
}

void vx_codec_rank_query(const int16_t *coords, uint8_t *out)
{
    for (uint32_t i = 0; i < VX_RANK_COORDS; i++) {
        const int byte = coords[i] + 120;
        out[i] = (uint8_t)(byte < 0 ? 0 : byte > 255 ? 255 : byte);
    }
}

/* Bit j of a table's number stands for the sign of its j-th coordinate: set adds it,
 * clear takes it off. */
static void fill_table(const int16_t *y, int32_t *out)
{
    for (int e = 0; e < 16; e++)
        out[e] = (e & 1 ? y[0] : -y[0]) + (e & 2 ? y[1] : -y[1]) + (e & 4 ? y[2] : -y[2]) +
                 (e & 8 ? y[3] : -y[3]);
}

void vx_codec_gate(const vx_codec *codec, const int16_t *coords, vx_gate *out)
{
    int32_t entries[VX_GATE_TABLES][16], span[VX_GATE_TABLES], widest = 1, total = 0;
    out->n_tables = codec->n_sketch / 4;
    for (uint32_t t = 0; t < out->n_tables; t++) {
        fill_table(coords + 4 * t, entries[t]);
        span[t] = 0;
        for (uint32_t j = 0; j < 4; j++)
            span[t] += coords[4 * t + j] < 0 ? -coords[4 * t + j] : coords[4 * t + j];
        widest = span[t] > widest ? span[t] : widest;
        total += span[t];
    }
    /* Entry e becomes (e + span) / step, 0 to 255. */
    const float step = 2 * (float)widest / 255, inverse = 255 / (2 * (float)widest);
    for (uint32_t t = 0; t < out->n_tables; t++)
        for (uint32_t e = 0; e < 16; e++)
            out->tables[16 * t + e] = (uint8_t)((float)(entries[t][e] + span[t]) * inverse + 0.499f);
    out->step = step;
    out->low = -(float)total;
}

/* Directions in signed bytes, all by one factor, which is returned. */
static float round_directions(vx_codec *codec, const float *directions, uint32_t k)
{
    float most = 0;
    for (size_t i = 0; i < (size_t)k * codec->code_dim; i++)
        most = fabsf(directions[i]) > most ? fabsf(directions[i]) : most;
    const float factor = 127.0f / most;
    for (uint32_t i = 0; i < k; i++)
        for (uint32_t j = 0; j < codec->code_dim; j++)
            codec->directions[i * codec->row_bytes + j] =
                (int8_t)lrintf(directions[(size_t)i * codec->code_dim + j] * factor);
    return factor;
}

/* The sample's codes, as floats around their mean; *out_spread is the mean squared
 * distance from it. */
static void sample_codes(const struct training *t, uint8_t *code, float *out, double *mean,
                         double *out_spread)
{
    const vx_codec *codec = t->codec;
    const uint32_t dim = codec->code_dim;
    for (uint32_t s = 0; s < t->n_sample; s++) {
        (void)vx_codec_encode(codec, sample_row(t, s), false, code);
        for (uint32_t i = 0; i < dim; i++) {
            out[(size_t)s * dim + i] = code[i];
            mean[i] += code[i];
        }
    }
    double sum = 0;
    for (uint32_t i = 0; i < dim; i++)
        mean[i] /= t->n_sample;
    for (uint32_t s = 0; s < t->n_sample; s++)
        for (uint32_t i = 0; i < dim; i++) {
            float *x = &out[(size_t)s * dim + i];
            *x = (float)((double)*x - mean[i]);
            sum += (double)*x * (double)*x;
        }
    *out_spread = sum / t->n_sample;
}

/* Choose the unit of coordinates by their magnitudes in the sample. */
static void scale_coords(const struct training *t, vx_coords_fn coords, uint8_t *code)
{
    enum { N_BINS = 4096 };
    vx_codec *codec = t->codec;
    uint32_t bins[N_BINS] = {0};
    float x[VX_RANK_COORDS];
    double sum = 0;
    codec->unit = 1;
    for (int pass = 0; pass < 2; pass++)
        for (uint32_t s = 0; s < t->n_sample; s++) {
            (void)vx_codec_encode(codec, sample_row(t, s), false, code);
            coords(codec, code, x);
            for (uint32_t i = 0; i < codec->n_sketch; i++) {
                if (pass == 0)
                    sum += (double)x[i] * (double)x[i];
                else /* now the root of the mean square is 256 bins */
                    bins[x[i] < 0 ? (x[i] > -N_BINS ? (int)-x[i] : N_BINS - 1)
                                  : (x[i] < N_BINS ? (int)x[i] : N_BINS - 1)]++;
            }
            if (pass == 0 && s + 1 == t->n_sample)
                codec->unit = sum > 0 ? (float)(256 / sqrt(sum / t->n_sample / codec->n_sketch)) : 1;
        }
    uint64_t over = (uint64_t)(OUTSIDE_SHARE * t->n_sample * codec->n_sketch);
    int at = N_BINS - 1;
    for (; at > 1 && bins[at] <= over; at--)
        over -= bins[at];
    codec->unit *= 128.0f / (float)(at + 1);
}

static vx_status fit_coords(struct training *t, vx_coords_fn coords, const vx_run *run,
                            float *sample, float *directions, uint8_t *code, double *mean,
                            vx_error *err)
{
    vx_codec *codec = t->codec;
    const uint32_t dim = codec->code_dim;
    const uint32_t k = codec->n_coords < dim ? codec->n_coords : dim;
    double spread;
    for (uint32_t i = 0; i < codec->n_coords; i++)
        codec->signs[i] = vx_hash64(0x51D5u + i / 64) >> i % 64 & 1 ? -1.0f : 1.0f;
    sample_codes(t, code, sample, mean, &spread);
    codec->edge_unit = spread > 0 ? (float)spread : 1;
    const vx_status st = vx_pca(sample, t->n_sample, dim, k, run, directions, err);
    if (st != VX_OK)
        return st;
    const float factor = round_directions(codec, directions, k);
    for (uint32_t i = 0; i < k; i++) {
        double sum = 0;
        for (uint32_t j = 0; j < dim; j++)
            sum += mean[j] * codec->directions[i * codec->row_bytes + j];
        codec->center[i] = (float)sum;
    }
    scale_coords(t, coords, code);
    const uint32_t each = codec->n_coords < VX_MAX_SKETCH ? codec->n_coords : VX_MAX_SKETCH;
    codec->coords_per_code = factor * codec->unit * sqrtf((float)each);
    if (codec->has_ranks)
        codec->edge_unit *= codec->coords_per_code * codec->coords_per_code;
    return VX_OK;
}

static vx_status train_coords(struct training *t, vx_coords_fn coords, const vx_run *run,
                              vx_error *err)
{
    vx_codec *codec = t->codec;
    t->n_sample = t->n_sample < PCA_ROWS ? t->n_sample : PCA_ROWS;
    codec->n_coords = codec->has_ranks ? VX_RANK_COORDS : 64;
    codec->n_sketch = codec->has_ranks ? VX_MAX_SKETCH : 64;
    codec->directions = vx_zalloc(codec->n_coords, codec->row_bytes);
    codec->center = vx_zalloc(codec->n_coords, sizeof *codec->center);
    codec->signs = vx_alloc(codec->n_coords, sizeof *codec->signs);
    float *sample = vx_alloc((size_t)t->n_sample * codec->code_dim, sizeof *sample);
    float *directions = vx_alloc((size_t)codec->n_coords * codec->code_dim, sizeof *directions);
    double *mean = vx_zalloc(codec->code_dim, sizeof *mean);
    uint8_t *code = vx_alloc(codec->row_bytes, 1);
    vx_status st;
    if (codec->directions == NULL || codec->center == NULL || codec->signs == NULL || sample == NULL ||
        directions == NULL || mean == NULL || code == NULL)
        st = vx_fail_nomem(err, "training codes");
    else
        st = fit_coords(t, coords, run, sample, directions, code, mean, err);
    vx_free(sample);
    vx_free(directions);
    vx_free(mean);
    vx_free(code);
    return st;
}

static void find_radius(struct training *t)
{
    for (uint64_t i = 0; i < t->n; i++) {
        const double length = sqrt(squared_length(t->rows + i * t->row_floats, t->codec->dim));
        if (length > (double)t->codec->radius)
            t->codec->radius = (float)length;
    }
}

/* The mean of each dimension, and a step for all of them. */
static vx_status train_nibbles(struct training *t, vx_error *err)
{
    vx_codec *codec = t->codec;
    codec->row_bytes = vx_nibble_bytes(codec->code_dim);
    codec->low = vx_zalloc(codec->code_dim, sizeof *codec->low);
    codec->flips = vx_alloc(2 * (size_t)codec->code_dim, sizeof *codec->flips);
    double *mean = vx_alloc(codec->code_dim, sizeof *mean), sum = 0;
    if (codec->low == NULL || codec->flips == NULL || mean == NULL) {
        vx_free(mean);
        return vx_fail_nomem(err, "training codes");
    }
    find_means(t, mean);
    for (uint32_t i = 0; i < codec->code_dim; i++)
        codec->low[i] = (float)mean[i];
    for (uint32_t s = 0; s < t->n_sample; s++)
        for (uint32_t i = 0; i < codec->code_dim; i++) {
            const double far = (double)value_of(codec, sample_row(t, s), i) - mean[i];
            sum += far * far;
        }
    vx_free(mean);
    vx_nibble_fit(codec, sqrt(sum / t->n_sample / codec->code_dim));
    return VX_OK;
}

static vx_status train_bytes(struct training *t, bool is_ip, vx_error *err)
{
    vx_codec *codec = t->codec;
    codec->row_bytes = vx_round_up(codec->code_dim, VX_LINE);
    codec->low = vx_zalloc(codec->code_dim, sizeof *codec->low);
    if (codec->low == NULL)
        return vx_fail_nomem(err, "training codes");
    if (is_ip || !are_bytes(t))
        return fit(t, err);
    codec->is_lossless = true;
    codec->step = codec->inv_step = 1;
    return VX_OK;
}

vx_status vx_codec_train(const float *rows, size_t row_floats, uint64_t n, uint32_t dim,
                         bool is_ip, vx_codes kind, vx_coords_fn coords, const vx_run *run,
                         vx_codec **out, vx_error *err)
{
    struct training t = {rows, row_floats, n, n < SAMPLE_ROWS ? (uint32_t)n : SAMPLE_ROWS, NULL};
    vx_codec *codec = t.codec = vx_zalloc(1, sizeof *codec);
    if (codec == NULL)
        return vx_fail_nomem(err, "training codes");
    codec->n_users = 1;
    codec->dim = dim;
    codec->code_dim = dim + is_ip;
    if (is_ip)
        find_radius(&t);
    vx_status st = kind == VX_CODES_NIBBLES ? train_nibbles(&t, err) : train_bytes(&t, is_ip, err);
    if (st == VX_OK && dim <= MAX_SKETCH_DIM &&
        (kind == VX_CODES_SKETCHED || kind == VX_CODES_RANKED)) {
        codec->has_ranks = kind == VX_CODES_RANKED && codec->row_bytes >= RANK_FROM_BYTES;
        st = train_coords(&t, coords, run, err);
    }
    if (st != VX_OK)
        vx_codec_free(codec);
    else
        *out = codec;
    return st;
}

vx_codec *vx_codec_share(vx_codec *codec)
{
    if (codec != NULL)
        codec->n_users++;
    return codec;
}

void vx_codec_free(vx_codec *codec)
{
    if (codec == NULL || --codec->n_users > 0)
        return;
    vx_free(codec->low);
    vx_free(codec->flips);
    vx_free(codec->directions);
    vx_free(codec->center);
    vx_free(codec->signs);
    vx_free(codec);
}

/* Halves go up.  What lies outside is clipped, and its square added to *clipped. */
static uint8_t byte_of(float x, float *clipped)
{
    x += 0.5f;
    const float inside = x > 0 ? x < 255.5f ? x : 255.5f : 0;
    *clipped += (x - inside) * (x - inside);
    return (uint8_t)(int)inside;
}

/* Under ip the length of a query changes no order: it is taken to be R, so that it lies
 * among the rows. */
static float query_scale(const vx_codec *codec, const float *query)
{
    const double length = codec->radius > 0 ? sqrt(squared_length(query, codec->dim)) : 0;
    return length > 0 ? (float)((double)codec->radius / length) : 1;
}

/* Does a row keep what the rows of the training had in common: whole numbers, a length of
 * at most R? */
#define LONGER 1.02
static bool is_alike(const vx_codec *codec, const float *row, const uint8_t *code)
{
    const double most = LONGER * (double)codec->radius;
    if (codec->code_dim > codec->dim)
        return squared_length(row, codec->dim) <= most * most;
    for (uint32_t i = 0; codec->is_lossless && i < codec->dim; i++)
        if (row[i] != (float)code[i])
            return false;
    return true;
}

bool vx_codec_encode(const vx_codec *codec, const float *row, bool is_query, uint8_t *out)
{
    if (codec->flips != NULL)
        return vx_nibble_encode(codec, row, is_query ? query_scale(codec, row) : 1,
                                is_query ? 0 : added_dimension(codec, row), is_query, out) &&
               (is_query || is_alike(codec, row, out));
    const float inv_step = codec->inv_step;
    const float *low = codec->low;
    const bool is_ip = codec->code_dim > codec->dim;
    const float scale = is_ip && is_query ? query_scale(codec, row) : 1;
    float clipped = 0, added = 0;
    for (uint32_t i = 0; i < codec->dim; i++)
        out[i] = byte_of((row[i] * scale - low[i]) * inv_step, &clipped);
    if (is_ip) {
        const uint32_t i = codec->dim;
        const float value = is_query ? 0 : added_dimension(codec, row);
        out[i] = byte_of((value - low[i]) * inv_step, &added);
    }
    memset(out + codec->code_dim, 0, codec->row_bytes - codec->code_dim);
    if (is_query)
        return clipped <= OUTSIDE_SQUARE * (float)codec->dim;
    return clipped + added <= OUTSIDE_SQUARE * (float)codec->dim && is_alike(codec, row, out);
}

static size_t n_flips(const vx_codec *codec)
{
    return codec->flips != NULL ? 2 * (size_t)codec->code_dim : 0;
}

size_t vx_codec_bytes(const vx_codec *codec)
{
    return codec == NULL ? 0
                         : sizeof *codec + codec->code_dim * sizeof *codec->low +
                               n_flips(codec) * sizeof *codec->flips +
                               codec->n_coords * (codec->row_bytes + 2 * sizeof *codec->center);
}

static bool are_equal(const void *a, const void *b, size_t bytes)
{
    return bytes == 0 || memcmp(a, b, bytes) == 0;
}

bool vx_codec_equals(const vx_codec *a, const vx_codec *b)
{
    return a != NULL && b != NULL && a->code_dim == b->code_dim && a->n_coords == b->n_coords &&
           a->is_lossless == b->is_lossless && a->holds_rows == b->holds_rows &&
           are_equal(&a->step, &b->step, sizeof a->step) &&
           are_equal(&a->radius, &b->radius, sizeof a->radius) &&
           are_equal(&a->unit, &b->unit, sizeof a->unit) &&
           are_equal(a->low, b->low, a->code_dim * sizeof *a->low) &&
           (a->flips != NULL) == (b->flips != NULL) && /* which are the same for all */
           are_equal(a->center, b->center, a->n_coords * sizeof *a->center) &&
           are_equal(a->directions, b->directions, a->n_coords * a->row_bytes);
}

/* ---- files --------------------------------------------------------------------- */

/* Sixteen words of 32 bits: the first six are unsigned, then floats. */
enum { STORED_WORDS = 16 };

size_t vx_codec_stored_bytes(const vx_codec *codec)
{
    return STORED_WORDS * 4 + (codec->code_dim + n_flips(codec)) * sizeof *codec->low +
           codec->n_coords * (codec->row_bytes + sizeof *codec->center + sizeof *codec->signs);
}

static char *put(char *at, const void *from, size_t bytes)
{
    if (bytes > 0)
        memcpy(at, from, bytes);
    return at + bytes;
}

void vx_codec_store(const vx_codec *codec, void *out)
{
    const uint32_t numbers[6] = {codec->dim,      codec->code_dim,  codec->n_coords,
                                 codec->n_sketch, codec->has_ranks, codec->is_lossless};
    const float values[STORED_WORDS - 6] = {codec->step, codec->inv_step,        codec->radius,
                                            codec->unit, codec->coords_per_code, codec->edge_unit};
    char *at = put(put(out, numbers, sizeof numbers), values, sizeof values);
    at = put(at, codec->low, codec->code_dim * sizeof *codec->low);
    at = put(at, codec->flips, n_flips(codec) * sizeof *codec->flips);
    at = put(at, codec->center, codec->n_coords * sizeof *codec->center);
    at = put(at, codec->signs, codec->n_coords * sizeof *codec->signs);
    put(at, codec->directions, codec->n_coords * codec->row_bytes);
}

static const char *get(const char *at, void *to, size_t bytes)
{
    if (bytes > 0)
        memcpy(to, at, bytes);
    return at + bytes;
}

static bool are_finite(const float *values, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return false;
    return true;
}

/* Words that are 0 or 1, numbers kept for later that are 0. */
static bool are_words(const uint32_t numbers[6], const float values[STORED_WORDS - 6])
{
    for (int i = 6; i < STORED_WORDS - 6; i++)
        if (values[i] != 0)
            return false;
    return numbers[4] <= 1 && numbers[5] <= 1;
}

/* Numbers that some codec of these rows has. */
static bool is_possible(const vx_codec *codec, uint32_t dim, bool is_ip)
{
    const bool ranks = codec->n_coords == VX_RANK_COORDS && codec->n_sketch == VX_MAX_SKETCH;
    const bool plain = codec->n_coords == codec->n_sketch &&
                       (codec->n_sketch == 0 || codec->n_sketch == 64);
    return codec->dim == dim && codec->code_dim == dim + is_ip &&
           (codec->has_ranks ? ranks : plain) && codec->step > 0 && codec->inv_step > 0 &&
           (codec->n_sketch == 0 || codec->edge_unit > 0);
}

static vx_status check_signs(const float *signs, size_t n, vx_error *err)
{
    for (size_t i = 0; i < n; i++)
        if (signs[i] != 1 && signs[i] != -1)
            return vx_fail(err, VX_E_FORMAT, "section 'codec': sign %zu is neither 1 nor -1", i);
    return VX_OK;
}

static vx_status read_arrays(vx_codec *codec, const char *at, vx_error *err)
{
    codec->low = vx_alloc(codec->code_dim, sizeof *codec->low);
    codec->center = vx_alloc(codec->n_coords, sizeof *codec->center);
    codec->signs = vx_alloc(codec->n_coords, sizeof *codec->signs);
    codec->directions = vx_alloc(codec->n_coords, codec->row_bytes);
    if (codec->low == NULL || codec->center == NULL || codec->signs == NULL ||
        codec->directions == NULL)
        return vx_fail_nomem(err, "loading");
    at = get(at, codec->low, codec->code_dim * sizeof *codec->low);
    at = get(at, codec->flips, n_flips(codec) * sizeof *codec->flips);
    at = get(at, codec->center, codec->n_coords * sizeof *codec->center);
    at = get(at, codec->signs, codec->n_coords * sizeof *codec->signs);
    get(at, codec->directions, codec->n_coords * codec->row_bytes);
    const vx_status st = check_signs(codec->signs, codec->n_coords, err);
    if (st != VX_OK || check_signs(codec->flips, n_flips(codec), err) != VX_OK)
        return VX_E_FORMAT;
    return are_finite(codec->low, codec->code_dim) && are_finite(codec->center, codec->n_coords)
               ? VX_OK
               : vx_fail(err, VX_E_FORMAT, "section 'codec': a value is not finite");
}

vx_status vx_codec_restore(const void *stored, size_t n, uint32_t dim, bool is_ip, bool is_nibbles,
                           vx_codec **out, vx_error *err)
{
    uint32_t numbers[6];
    float values[STORED_WORDS - 6];
    if (n < STORED_WORDS * 4)
        return vx_fail(err, VX_E_FORMAT, "section 'codec': %zu bytes are too few", n);
    const char *at = get(get(stored, numbers, sizeof numbers), values, sizeof values);
    vx_codec *codec = vx_zalloc(1, sizeof *codec);
    if (codec == NULL)
        return vx_fail_nomem(err, "loading");
    *codec = (vx_codec){
        .n_users = 1, .dim = numbers[0], .code_dim = numbers[1], .n_coords = numbers[2], .n_sketch = numbers[3],
        .has_ranks = numbers[4] == 1, .is_lossless = numbers[5] == 1,
        .row_bytes = vx_round_up(numbers[1], VX_LINE), .step = values[0], .inv_step = values[1],
        .radius = values[2], .unit = values[3], .coords_per_code = values[4],
        .edge_unit = values[5],
    };
    vx_status st = VX_OK;
    if (is_nibbles && codec->dim == dim && codec->code_dim == dim + is_ip) {
        codec->row_bytes = vx_nibble_bytes(codec->code_dim);
        codec->flips = vx_alloc(2 * (size_t)codec->code_dim, sizeof *codec->flips);
        if (codec->flips == NULL)
            st = vx_fail_nomem(err, "loading");
    }
    if (st != VX_OK)
        ;
    else if (!are_finite(values, STORED_WORDS - 6) || !are_words(numbers, values) ||
        !is_possible(codec, dim, is_ip) ||
        (is_nibbles && (codec->n_coords > 0 || codec->is_lossless)))
        st = vx_fail(err, VX_E_FORMAT, "section 'codec': no codec of such rows has these numbers");
    else if (n != vx_codec_stored_bytes(codec))
        st = vx_fail(err, VX_E_FORMAT, "section 'codec': expected %zu bytes, found %zu",
                     vx_codec_stored_bytes(codec), n);
    else
        st = read_arrays(codec, at, err);
    if (st != VX_OK)
        vx_codec_free(codec);
    else
        *out = codec;
    return st;
}

vx_codec *vx_codec_copy(const vx_codec *codec, bool holds_rows)
{
    const size_t n = vx_codec_stored_bytes(codec);
    void *stored = vx_alloc(n, 1);
    vx_codec *copy = NULL;
    if (stored == NULL)
        return NULL;
    vx_codec_store(codec, stored);
    if (vx_codec_restore(stored, n, codec->dim, codec->code_dim > codec->dim, codec->flips != NULL,
                         &copy, NULL) == VX_OK)
        copy->holds_rows = holds_rows;
    vx_free(stored);
    return copy;
}
