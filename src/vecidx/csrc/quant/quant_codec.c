/* quant_codec.c - see quant_codec.h. */
#include "quant_codec.h"

#include <math.h>
#include <string.h>

#include "../base/vx_alloc.h"
#include "../base/vx_pool.h"
#include "../base/vx_rng.h"
#include "../base/vx_status.h"

/* Rows looked at, evenly spread over all. */
#define SAMPLE_ROWS 8192u

/* This share of values, in all dimensions together, may lie outside what a byte
 * spans and is clipped to its ends. */
#define CLIPPED_SHARE 1e-5

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

vx_status vx_codec_train(const float *rows, size_t row_floats, uint64_t n, uint32_t dim,
                         bool is_ip, const vx_run *run, vx_codec **out, vx_error *err)
{
    (void)run;
    struct training t = {rows, row_floats, n, n < SAMPLE_ROWS ? (uint32_t)n : SAMPLE_ROWS, NULL};
    vx_codec *codec = t.codec = vx_zalloc(1, sizeof *codec);
    if (codec == NULL)
        return vx_fail_nomem(err, "training codes");
    codec->dim = dim;
    codec->code_dim = dim + is_ip;
    codec->row_bytes = vx_round_up(codec->code_dim, VX_LINE);
    codec->low = vx_zalloc(codec->code_dim, sizeof *codec->low);
    vx_status st = codec->low != NULL ? VX_OK : vx_fail_nomem(err, "training codes");
    if (is_ip)
        for (uint64_t i = 0; i < n; i++) {
            const double length = sqrt(squared_length(rows + i * row_floats, dim));
            if (length > codec->radius)
                codec->radius = (float)length;
        }
    if (st == VX_OK && !is_ip && are_bytes(&t)) {
        codec->is_lossless = true;
        codec->step = codec->inv_step = 1;
    } else if (st == VX_OK) {
        st = fit(&t, err);
    }
    if (st != VX_OK)
        vx_codec_free(codec);
    else
        *out = codec;
    return st;
}

void vx_codec_free(vx_codec *codec)
{
    if (codec == NULL)
        return;
    vx_free(codec->low);
    vx_free(codec);
}

static uint8_t byte_of(float x)
{
    /* Halves go up; what lies outside is clipped. */
    x += 0.5f;
    return x > 0 ? x < 255 ? (uint8_t)(int)x : 255 : 0;
}

void vx_codec_encode(const vx_codec *codec, const float *row, bool is_query, uint8_t *out)
{
    const float inv_step = codec->inv_step;
    const float *low = codec->low;
    for (uint32_t i = 0; i < codec->dim; i++)
        out[i] = byte_of((row[i] - low[i]) * inv_step);
    if (codec->code_dim > codec->dim) {
        const uint32_t i = codec->dim;
        out[i] = byte_of(((is_query ? 0.0f : added_dimension(codec, row)) - low[i]) * inv_step);
    }
    memset(out + codec->code_dim, 0, codec->row_bytes - codec->code_dim);
}

size_t vx_codec_bytes(const vx_codec *codec)
{
    return codec != NULL ? sizeof *codec + codec->code_dim * sizeof *codec->low : 0;
}
