/* test_quant.c - kernels of codes and sketches at every level, half floats, codecs,
 * principal directions, and a quantised index beside its readers. */
#include "base/vx_alloc.h"
#include "base/vx_half.h"
#include "base/vx_rng.h"
#include "base/vx_sync.h"
#include "hnsw/hnsw_ops.h"
#include "index/index.h"
#include "quant/quant_codec.h"
#include "quant/quant_pca.h"
#include "vx_test.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

/* Under TSan what only one thread does, or does again, is left out: it is 50 times as slow. */
#if defined(__SANITIZE_THREAD__)
enum { SLOW = 1 };
#else
enum { SLOW = 0 };
#endif

static uint64_t seed;

static uint64_t next_random(void) { return vx_hash64(seed++); }
static double uniform(void) { return (double)(next_random() >> 11) * 0x1p-53; }
static float normal(void)
{
    return (float)(sqrt(-2 * log(uniform() + 1e-300)) * cos(6.283185307179586 * uniform()));
}

/* The i-th level that this CPU runs, or NULL. */
static const vx_ops *level_ops(size_t i)
{
    const char *name = vx_simd_available(i);
    return name != NULL ? vx_ops_of((vx_level)vx_level_from_name(name)) : NULL;
}

static uint8_t *random_bytes(size_t n, bool extreme)
{
    uint8_t *bytes = vx_alloc(n, 1);
    for (size_t i = 0; i < n; i++)
        bytes[i] = extreme ? (next_random() & 1 ? 255 : 0) : (uint8_t)next_random();
    return bytes;
}

/* ---- kernels ------------------------------------------------------------------- */

static float u8_distance(const uint8_t *a, const uint8_t *b, size_t n)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (uint64_t)((a[i] - b[i]) * (a[i] - b[i]));
    return (float)sum;
}

static float u4_distance(const uint8_t *q, const uint8_t *x, size_t n)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < 2 * n; i++) {
        const uint8_t byte = x[i / 128 * 64 + i % 64];
        const int d = q[i] - 16 * (i % 128 < 64 ? byte & 15 : byte >> 4);
        sum += (uint64_t)(d * d);
    }
    return (float)sum;
}

enum { N_ROWS = 11 };

/* Half bytes, both packed; their order does not matter. */
static float n4_distance(const uint8_t *a, const uint8_t *b, size_t bytes)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < bytes; i++) {
        const int low = (a[i] & 15) - (b[i] & 15), high = (a[i] >> 4) - (b[i] >> 4);
        sum += (uint64_t)(low * low + high * high);
    }
    return (float)sum;
}

static float true_distance(int kind, const uint8_t *q, const uint8_t *x, size_t bytes)
{
    return kind == VX_KIND_U4_L2SQ   ? u4_distance(q, x, bytes)
           : kind == VX_KIND_N4_L2SQ ? n4_distance(q, x, bytes)
                                     : u8_distance(q, x, bytes);
}

static void compare_distances(const vx_ops *all, int kind, size_t bytes, bool extreme)
{
    const vx_metric_ops *ops = &all->kind[kind];
    uint8_t *query = random_bytes(2 * bytes, extreme), *rows = random_bytes(N_ROWS * bytes, extreme);
    vx_slot slots[N_ROWS];
    float want[N_ROWS], many[N_ROWS + 4], scan[N_ROWS + 4];
    if (extreme) /* as far as rows can be from one another */
        for (size_t i = 0; i < bytes; i++)
            rows[i] = query[i] ? 0 : 255;
    for (size_t i = 0; i < N_ROWS; i++) {
        slots[i] = (vx_slot)(N_ROWS - 1 - i);
        want[i] = true_distance(kind, query, rows + i * bytes, bytes);
        CHECK(ops->pair(query, rows + i * bytes, bytes) == want[i]);
    }
    ops->many(query, rows, bytes, slots, N_ROWS, many);
    ops->scan(query, rows, bytes, N_ROWS, scan);
    for (size_t i = 0; i < N_ROWS; i++)
        CHECK(many[i] == want[N_ROWS - 1 - i] && scan[i] == want[i]);
    vx_free(query);
    vx_free(rows);
}

VX_TEST(distances_of_codes_are_exact_at_every_level)
{
    const size_t sizes[] = {64, 128, 192, 256, 320, 384, 768, 1536, 4096, 65536, 65600};
    const vx_ops *ops;
    seed = 1;
    for (size_t l = 0; (ops = level_ops(l)) != NULL; l++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            for (int extreme = 0; extreme <= 1; extreme++) {
                compare_distances(ops, VX_KIND_U8_L2SQ, sizes[i], extreme);
                compare_distances(ops, VX_KIND_N4_L2SQ, sizes[i], extreme);
                if (sizes[i] <= 4096)
                    compare_distances(ops, VX_KIND_U4_L2SQ, sizes[i], extreme);
            }
}

VX_TEST(projections_are_exact_at_every_level)
{
    const size_t sizes[] = {64, 128, 192, 384, 4096, 4160};
    const vx_ops *ops;
    seed = 2;
    for (size_t l = 0; (ops = level_ops(l)) != NULL; l++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            for (size_t n = 1; n <= 7; n += 3)
                for (int extreme = 0; extreme <= 1; extreme++) {
                    const size_t bytes = sizes[i];
                    uint8_t *code = random_bytes(bytes, extreme);
                    int8_t *matrix = (int8_t *)random_bytes(n * bytes, false);
                    int32_t out[7];
                    for (size_t j = 0; extreme && j < n * bytes; j++) /* every sum saturates 16 bits */
                        matrix[j] = j / bytes % 2 ? -128 : 127;
                    ops->project(matrix, code, bytes, n, out);
                    for (size_t r = 0; r < n; r++) {
                        int64_t want = 0;
                        for (size_t j = 0; j < bytes; j++)
                            want += matrix[r * bytes + j] * code[j];
                        CHECK(out[r] == want);
                    }
                    vx_free(code);
                    vx_free(matrix);
                }
}

/* Half floats of every sort: ordinary, subnormal, zero, infinite. */
static uint16_t random_half(void)
{
    const uint16_t bits = (uint16_t)next_random();
    switch (next_random() % 8) {
    case 0: return VX_HALF_NEG_INF;
    case 1: return bits & 0x83FFu; /* subnormal */
    case 2: return bits & 0x8000u;
    case 3: return (bits & 0x8000u) | 0x7BFFu;
    default: return (bits & 0x7C00u) == 0x7C00u ? bits & 0xBFFFu : bits;
    }
}

/* gate_32 by its contract, in plain arithmetic. */
static uint32_t gate_oracle(const vx_gate *gate, const char *group, float step, float shift,
                            float limit)
{
    uint32_t passed = 0;
    for (uint32_t i = 0; i < 32; i++) {
        const uint8_t *bits = (const uint8_t *)group + 128;
        uint16_t a, b;
        uint32_t sum = 0;
        for (uint32_t t = 0; t < gate->n_tables; t++) {
            const uint8_t byte = bits[16 * t + i % 16];
            sum += gate->tables[16 * t + (i < 16 ? byte & 15 : byte >> 4)];
        }
        memcpy(&a, group + 2 * i, sizeof a);
        memcpy(&b, group + 64 + 2 * i, sizeof b);
        const float product = (float)sum * step;
        const float x = product + shift;
        const float scaled = vx_half_float(b) * x;
        const float estimate = vx_half_float(a) + scaled;
        passed |= (uint32_t)(estimate < limit) << i;
    }
    return passed;
}

VX_TEST(gates_let_the_same_edges_pass_at_every_level)
{
    VX_ALIGN(64) vx_gate gate;
    VX_ALIGN(64) char group[VX_MAX_GROUP_BYTES];
    const vx_ops *ops;
    uint64_t n_passed = 0, n_all = 0;
    seed = 3;
    for (int round = 0; round < 3000; round++) {
        gate.n_tables = round % 2 ? 16 : 32;
        for (size_t i = 0; i < sizeof gate.tables; i++)
            gate.tables[i] = round % 5 == 0 ? 255 : (uint8_t)next_random();
        for (size_t i = 128; i < sizeof group; i++)
            group[i] = (char)next_random();
        for (size_t i = 0; i < 64; i++) {
            uint16_t half = random_half();
            if (i >= 32 && half == VX_HALF_NEG_INF)
                half = 0xBC00; /* B is finite */
            memcpy(group + 2 * i, &half, sizeof half);
        }
        const float step = (float)uniform() / 64, shift = (normal() - 1) * 8;
        const float limit = round % 7 == 0 ? INFINITY : normal() * expf(normal() * 4);
        const uint32_t want = gate_oracle(&gate, group, step, shift, limit);
        for (size_t l = 0; (ops = level_ops(l)) != NULL; l++)
            CHECK(ops->gate(&gate, group, step, shift, limit) == want);
        for (uint32_t i = 0; i < 32; i++) {
            uint16_t a;
            memcpy(&a, group + 2 * i, sizeof a);
            CHECK(a != VX_HALF_NEG_INF || want >> i & 1); /* what vx_sketch_drop relies on */
            n_passed += want >> i & 1;
        }
        n_all += 32;
    }
    CHECK(n_passed > n_all / 5 && n_passed < n_all / 5 * 4);
}

/* ---- half floats ------------------------------------------------------------------ */

VX_TEST(every_half_float_is_read_as_it_should_be)
{
    for (uint32_t h = 0; h < 65536; h++) {
        const int sign = h >> 15 ? -1 : 1, exponent = (int)(h >> 10 & 31);
        const float fraction = (float)(h & 1023), got = vx_half_float((uint16_t)h);
        if (exponent == 31)
            CHECK((h & 1023) != 0 ? isnan(got) : isinf(got) && (got > 0) == (sign > 0));
        else if (exponent == 0)
            CHECK(got == (float)sign * ldexpf(fraction, -24));
        else
            CHECK(got == (float)sign * ldexpf(1024 + fraction, exponent - 25));
        CHECK(!signbit(got) == (sign > 0));
        if (exponent < 31 || (h & 1023) == 0)
            CHECK(vx_float_half(got) == h);
    }
}

/* Rounding turns at the middles between neighbours, and nowhere else. */
VX_TEST(floats_are_rounded_to_the_nearest_half_ties_to_even)
{
    for (uint32_t h = 0; h < 0x7BFF; h++) {
        const float low = vx_half_float((uint16_t)h), high = vx_half_float((uint16_t)(h + 1));
        const float middle = low + (high - low) / 2; /* exact in 24 bits */
        const uint32_t even = h & 1 ? h + 1 : h;
        for (uint32_t sign = 0; sign <= 0x8000; sign += 0x8000) {
            const float s = sign ? -1.0f : 1.0f;
            CHECK(vx_float_half(s * middle) == (sign | even));
            CHECK(vx_float_half(s * nextafterf(middle, 0)) == (sign | h));
            CHECK(vx_float_half(s * nextafterf(middle, INFINITY)) == (sign | (h + 1)));
        }
    }
    CHECK(vx_float_half(65519.99f) == 0x7BFF && vx_float_half(65520.0f) == 0x7C00);
    CHECK(vx_float_half(-1e30f) == 0xFC00 && vx_float_half(INFINITY) == 0x7C00);
    CHECK(vx_float_half(1e-30f) == 0 && vx_float_half(-1e-30f) == 0x8000);
    CHECK(isnan(vx_half_float(vx_float_half(NAN))));
}

/* ---- codecs ------------------------------------------------------------------------- */

static float *random_rows(size_t n, size_t dim, size_t row_floats)
{
    float *rows = vx_zalloc(n * row_floats, sizeof *rows);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < dim; j++)
            rows[i * row_floats + j] = normal();
    return rows;
}

static vx_codec *train(const float *rows, size_t n, size_t dim, size_t row_floats, bool is_ip,
                       bool sketches, unsigned threads, const vx_ops *ops)
{
    const vx_run run = {threads, NULL, NULL};
    vx_codec *codec = NULL;
    vx_error err;
    CHECK(vx_codec_train(rows, row_floats, n, (uint32_t)dim, is_ip,
                         sketches ? VX_CODES_RANKED : VX_CODES_BYTES, ops->coords, &run,
                         &codec, &err) == VX_OK);
    return codec;
}

/* No value of the sample is off by more than half a step, but for the few clipped. */
static void check_errors(const vx_codec *codec, const float *rows, size_t n, size_t row_floats)
{
    uint8_t *code = vx_alloc(codec->row_bytes, 1);
    size_t n_off = 0;
    for (size_t i = 0; i < n; i++) {
        vx_codec_encode(codec, rows + i * row_floats, false, code);
        for (size_t j = 0; j < codec->dim; j++) {
            const double value = (double)codec->low[j] + (double)codec->step * code[j];
            const double room = 0.5001 * (double)codec->step + 1e-5 * fabs((double)codec->low[j]);
            n_off += fabs(value - (double)rows[i * row_floats + j]) > room;
        }
        for (size_t j = codec->code_dim; j < codec->row_bytes; j++)
            CHECK(code[j] == 0);
    }
    CHECK((double)n_off <= 1 + 2e-5 * (double)n * codec->dim);
    vx_free(code);
}

static bool are_same(const vx_codec *a, const vx_codec *b)
{
    const size_t n = a->n_coords;
    return a->dim == b->dim && a->step == b->step && a->radius == b->radius &&
           a->unit == b->unit && a->coords_per_code == b->coords_per_code &&
           a->edge_unit == b->edge_unit && n == b->n_coords &&
           memcmp(a->low, b->low, a->code_dim * sizeof *a->low) == 0 &&
           (n == 0 || (memcmp(a->directions, b->directions, n * a->row_bytes) == 0 &&
                       memcmp(a->center, b->center, n * sizeof *a->center) == 0 &&
                       memcmp(a->signs, b->signs, n * sizeof *a->signs) == 0));
}

VX_TEST(codecs_of_every_dimension)
{
    const size_t dims[] = {1, 2, 3, 17, 63, 64, 65, 127, 256, 257, 320, 384, 4097, 65536};
    const vx_ops *ops = level_ops(0);
    if (SLOW)
        SKIP("one thread does it all");
    seed = 4;
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++)
        for (int is_ip = 0; is_ip <= 1; is_ip++) {
            const size_t dim = dims[i], n = dim > 1000 ? 20 : 600;
            const size_t row_floats = vx_round_up(dim, 16);
            float *rows = random_rows(n, dim, row_floats);
            vx_codec *codec = train(rows, n, dim, row_floats, is_ip, true, 1, ops);
            CHECK(codec->row_bytes % 64 == 0 && codec->row_bytes >= dim + (size_t)is_ip);
            CHECK(codec->n_coords == (dim > 4096 ? 0 : codec->row_bytes < 320 ? 64 : 256));
            CHECK(!codec->is_lossless && vx_codec_bytes(codec) > dim * sizeof(float));
            check_errors(codec, rows, n, row_floats);
            vx_codec_free(codec);
            vx_free(rows);
        }
}

VX_TEST(small_whole_numbers_lose_nothing)
{
    enum { DIM = 70, N = 500, FLOATS = 80 };
    float *rows = vx_zalloc(N * FLOATS, sizeof *rows);
    uint8_t code[128];
    seed = 5;
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < DIM; j++)
            rows[i * FLOATS + j] = (float)(next_random() % 256);
    vx_codec *codec = train(rows, N, DIM, FLOATS, false, true, 1, level_ops(0));
    CHECK(codec->is_lossless && codec->step == 1);
    for (size_t i = 0; i < N; i++) {
        vx_codec_encode(codec, rows + i * FLOATS, false, code);
        for (size_t j = 0; j < DIM; j++)
            CHECK((float)code[j] == rows[i * FLOATS + j]);
    }
    vx_codec_free(codec);
    vx_free(rows);
}

/* One row over and over, or two, or all zeros: nothing to divide by. */
VX_TEST(samples_that_do_not_spread)
{
    enum { DIM = 40, N = 300, FLOATS = 48 };
    const float values[] = {0, 1, -2.5f, 1e-36f, 1e18f, -3e-20f};
    float *rows = vx_zalloc(N * FLOATS, sizeof *rows);
    int16_t coords[VX_RANK_COORDS];
    for (size_t v = 0; v < sizeof values / sizeof *values; v++)
        for (int two = 0; two <= 1; two++)
            for (int is_ip = 0; is_ip <= 1; is_ip++) {
                for (size_t i = 0; i < N; i++)
                    for (size_t j = 0; j < DIM; j++)
                        rows[i * FLOATS + j] = two && i % 2 ? values[v] / 2 : values[v];
                vx_codec *codec = train(rows, N, DIM, FLOATS, is_ip, true, 2, level_ops(0));
                uint8_t code[64], other[64];
                vx_codec_encode(codec, rows, false, code);
                vx_codec_encode(codec, rows + FLOATS, false, other);
                CHECK(two || memcmp(code, other, sizeof code) == 0);
                CHECK(codec->step > 0 && isfinite(codec->step) && isfinite(codec->unit));
                CHECK(isfinite(codec->coords_per_code) && codec->edge_unit > 0);
                vx_codec_coords(codec, level_ops(0)->coords, code, coords);
                vx_codec_free(codec);
            }
    vx_free(rows);
}

/* A few values a million times the others' size do not coarsen the rest. */
VX_TEST(outliers_are_clipped)
{
    enum { DIM = 64, N = 4000 };
    seed = 6;
    float *rows = random_rows(N, DIM, DIM);
    for (size_t i = 0; i < 2; i++)
        rows[i * 999 * DIM + 7] = i ? 1e6f : -1e6f;
    vx_codec *codec = train(rows, N, DIM, DIM, false, true, 1, level_ops(0));
    CHECK(codec->step < 0.1f);
    check_errors(codec, rows, N, DIM);
    vx_codec_free(codec);
    vx_free(rows);
}

/* Distances of four bits stand for those of rows, packed or not, whatever the spread of
 * single dimensions.  Mixing changes no distance, a level is half a step off at most, and
 * what is clipped of a row inside is a step in the root mean square at most: so of two rows
 * inside a distance is off by 3 sqrt(dim) steps at most.  In the mean it is far less: 0.15
 * of the squares is what was seen of such rows, with room. */
VX_TEST(half_bytes_keep_distances)
{
    const size_t dims[] = {1, 2, 63, 64, 100, 128, 129, 384, 768, 5000};
    seed = 12;
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++) {
        const size_t dim = dims[d], row_floats = vx_round_up(dim, 16), n = 300;
        float *rows = random_rows(n, dim, row_floats);
        vx_codec *codec = NULL, *back = NULL;
        vx_error err;
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < dim; j += 10)
                rows[i * row_floats + j] *= 4;
        CHECK(vx_codec_train(rows, row_floats, n, (uint32_t)dim, false, VX_CODES_NIBBLES,
                             level_ops(0)->coords, NULL, &codec, &err) == VX_OK);
        CHECK(codec->row_bytes == (dim + 127) / 128 * 64);
        const size_t bytes = codec->row_bytes, stored = vx_codec_stored_bytes(codec);
        uint8_t *codes = vx_alloc(n, bytes), *query = vx_alloc(2, bytes), *other = vx_alloc(2, bytes);
        char *file = vx_alloc(stored, 1);
        CHECK(vx_codec_encode(codec, rows, false, codes));
        CHECK(vx_codec_encode(codec, rows, true, query));
        const double most = 3 * sqrt((double)dim) + 1e-3;
        double error = 0, whole = 0;
        for (size_t i = 1; i < n; i++) {
            const bool inside = vx_codec_encode(codec, rows + i * row_floats, false,
                                                codes + i * bytes);
            double sum = 0;
            for (size_t j = 0; j < dim; j++) {
                const double e = (double)rows[j] - (double)rows[i * row_floats + j];
                sum += e * e / (double)codec->step / (double)codec->step;
            }
            const double asym = (double)level_ops(0)->kind[VX_KIND_U4_L2SQ].pair(
                                    query, codes + i * bytes, bytes) / 256;
            const double sym =
                (double)level_ops(0)->kind[VX_KIND_N4_L2SQ].pair(codes, codes + i * bytes, bytes);
            CHECK(!inside || fabs(sqrt(asym) - sqrt(sum)) <= most);
            CHECK(!inside || fabs(sqrt(sym) - sqrt(sum)) <= most);
            error += fabs(asym - sum) + fabs(sym - sum);
            whole += 2 * sum;
        }
        CHECK(dim < 60 || error < 0.15 * whole);
        vx_codec_store(codec, file);
        CHECK(vx_codec_restore(file, stored, (uint32_t)dim, false, true, &back, &err) == VX_OK);
        CHECK(vx_codec_equals(codec, back));
        vx_codec_encode(back, rows, true, other);
        CHECK(memcmp(query, other, 2 * bytes) == 0);
        vx_codec_free(back);
        CHECK(vx_codec_restore(file, stored - 4, (uint32_t)dim, false, true, &back, &err) ==
              VX_E_FORMAT);
        ((float *)(void *)file)[16 + dim] = 2; /* a sign */
        CHECK(vx_codec_restore(file, stored, (uint32_t)dim, false, true, &back, &err) ==
              VX_E_FORMAT);
        vx_codec_free(codec);
        vx_free(codes);
        vx_free(query);
        vx_free(other);
        vx_free(file);
        vx_free(rows);
    }
}

/* The order of codes' distances is that of 1 - q.x, up to what a byte loses. */
VX_TEST(inner_products_become_distances)
{
    enum { DIM = 50, N = 1000, FLOATS = 64 };
    seed = 7;
    float *rows = random_rows(N, DIM, FLOATS);
    vx_codec *codec = train(rows, N, DIM, FLOATS, true, false, 1, level_ops(0));
    uint8_t query[64], code[64];
    vx_codec_encode(codec, rows, true, query);
    double worst = 0, least = 1e30, most = -1e30, scale = 0;
    for (size_t j = 0; j < DIM; j++)
        scale += (double)rows[j] * (double)rows[j];
    scale = (double)codec->radius / sqrt(scale); /* the query's length becomes R */
    for (size_t i = 0; i < N; i++) {
        double dot = 0;
        for (size_t j = 0; j < DIM; j++)
            dot += scale * (double)rows[j] * (double)rows[i * FLOATS + j];
        vx_codec_encode(codec, rows + i * FLOATS, false, code);
        const double gap =
            (double)u8_distance(query, code, 64) * (double)codec->step * (double)codec->step + 2 * dot;
        least = gap < least ? gap : least;
        most = gap > most ? gap : most;
        worst = fabs(dot) > worst ? fabs(dot) : worst;
    }
    CHECK(most - least < 0.2 * worst); /* 2 R^2, for every row */
    vx_codec_free(codec);
    vx_free(rows);
}

VX_TEST(a_codec_depends_on_neither_threads_nor_levels)
{
    const size_t dims[] = {30, 100, 330};
    const vx_ops *ops;
    seed = 8;
    for (size_t i = 0; i < (SLOW ? 1 : 3); i++)
        for (int is_ip = 0; is_ip <= 1; is_ip++) {
            const size_t n = 700, row_floats = vx_round_up(dims[i], 16);
            float *rows = random_rows(n, dims[i], row_floats);
            vx_codec *one = train(rows, n, dims[i], row_floats, is_ip, true, 1, level_ops(0));
            uint8_t *code = vx_alloc(one->row_bytes, 1);
            for (unsigned threads = 2; threads <= 3; threads++) {
                vx_codec *other =
                    train(rows, n, dims[i], row_floats, is_ip, true, threads, level_ops(0));
                CHECK(are_same(one, other));
                vx_codec_free(other);
            }
            for (size_t l = 1; (ops = level_ops(l)) != NULL; l++) {
                vx_codec *other = train(rows, n, dims[i], row_floats, is_ip, true, 2, ops);
                CHECK(are_same(one, other));
                for (size_t row = 0; row < n; row += 50) {
                    float of_one[VX_RANK_COORDS], of_other[VX_RANK_COORDS];
                    vx_codec_encode(one, rows + row * row_floats, false, code);
                    level_ops(0)->coords(one, code, of_one);
                    ops->coords(one, code, of_other);
                    CHECK(memcmp(of_one, of_other, one->n_coords * sizeof *of_one) == 0);
                }
                vx_codec_free(other);
            }
            vx_free(code);
            vx_codec_free(one);
            vx_free(rows);
        }
}

/* Rank codes: the middle of the interval a coordinate lies in, clipped at the ends. */
VX_TEST(rank_codes_hold_what_they_should)
{
    int16_t coords[VX_RANK_COORDS], back[VX_RANK_COORDS];
    uint8_t rank[VX_RANK_BYTES], query[VX_RANK_COORDS];
    seed = 9;
    for (size_t i = 0; i < VX_RANK_COORDS; i++)
        coords[i] = (int16_t)((int)(next_random() % 400) - 200);
    coords[3] = -2048;
    coords[200] = 2047;
    vx_codec_rank(coords, rank);
    vx_rank_coords(rank, back);
    vx_rank_coords(rank + 64, back + 128);
    vx_codec_rank_query(coords, query);
    double sum = 0;
    for (size_t i = 0; i < VX_RANK_COORDS; i++) {
        const int clipped = coords[i] < -120 ? -120 : coords[i] > 120 ? 120 : coords[i];
        const int q = coords[i] < -120 ? -120 : coords[i] > 135 ? 135 : coords[i];
        CHECK(abs(clipped - back[i]) <= 8);
        sum += (double)(q - back[i]) * (q - back[i]);
    }
    CHECK(u4_distance(query, rank, VX_RANK_BYTES) == (float)sum);
}

/* ---- principal directions ------------------------------------------------------------ */

/* Rows that spread by known amounts along known directions: spread[j] along the j-th row
 * of an orthonormal basis made of reflections. */
static float *known_rows(size_t n, size_t dim, double *spread)
{
    float *rows = vx_alloc(n * dim, sizeof *rows);
    double *mirror = malloc(dim * sizeof *mirror), *mean = calloc(dim, sizeof *mean), length = 0;
    for (size_t j = 0; j < dim; j++) {
        mirror[j] = (double)normal();
        length += mirror[j] * mirror[j];
        spread[j] = 10 * pow(0.9, (double)j);
    }
    for (size_t i = 0; i < n; i++) {
        float *row = rows + i * dim;
        double along = 0;
        for (size_t j = 0; j < dim; j++) {
            row[j] = (float)spread[j] * normal();
            along += (double)row[j] * mirror[j];
        }
        for (size_t j = 0; j < dim; j++) {
            row[j] -= (float)(2 * along / length * mirror[j]);
            mean[j] += (double)row[j] / (double)n;
        }
    }
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < dim; j++)
            rows[i * dim + j] -= (float)mean[j];
    free(mirror);
    free(mean);
    return rows;
}

static double variance_along(const float *rows, size_t n, size_t dim, const float *direction)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double along = 0;
        for (size_t j = 0; j < dim; j++)
            along += (double)rows[i * dim + j] * (double)direction[j];
        sum += along * along / (double)n;
    }
    return sum;
}

static void check_orthonormal(const float *basis, size_t k, size_t dim)
{
    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j <= i; j++) {
            double dot = 0;
            for (size_t d = 0; d < dim; d++)
                dot += (double)basis[i * dim + d] * (double)basis[j * dim + d];
            CHECK(fabs(dot - (i == j)) < 1e-4);
        }
}

VX_TEST(principal_directions_hold_nearly_all_that_any_could)
{
    const size_t dims[] = {1, 2, 8, 63, 100, 200};
    seed = 10;
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        const size_t dim = dims[i], n = 1500, k = dim < 64 ? dim : 64;
        double *spread = malloc(dim * sizeof *spread), want = 0, got = 0;
        float *rows = known_rows(n, dim, spread), *one = vx_alloc(k * dim, sizeof *one);
        float *other = vx_alloc(k * dim, sizeof *other);
        vx_error err;
        CHECK(vx_pca(rows, (uint32_t)n, (uint32_t)dim, (uint32_t)k, NULL, one, &err) == VX_OK);
        check_orthonormal(one, k, dim);
        for (size_t j = 0; j < k; j++) {
            want += spread[j] * spread[j];
            got += variance_along(rows, n, dim, one + j * dim);
        }
        CHECK(got > 0.9 * want && got < 1.1 * want);
        if (k >= 8) { /* the first eight alone */
            double first = 0, best = 0;
            for (size_t j = 0; j < 8; j++) {
                first += variance_along(rows, n, dim, one + j * dim);
                best += spread[j] * spread[j];
            }
            CHECK(first > 0.85 * best);
        }
        for (unsigned threads = 1; threads <= 3; threads++) {
            const vx_run run = {threads, NULL, NULL};
            CHECK(vx_pca(rows, (uint32_t)n, (uint32_t)dim, (uint32_t)k, &run, other, &err) == VX_OK);
            CHECK(memcmp(one, other, k * dim * sizeof *one) == 0);
        }
        vx_free(rows);
        vx_free(one);
        vx_free(other);
        free(spread);
    }
}

VX_TEST(directions_of_rows_that_fill_few_dimensions)
{
    enum { DIM = 60, K = 40, N = 100 };
    float *rows = vx_zalloc(N * DIM, sizeof *rows), out[K * DIM];
    vx_error err;
    CHECK(vx_pca(rows, N, DIM, K, NULL, out, &err) == VX_OK); /* all zeros */
    check_orthonormal(out, K, DIM);
    seed = 11;
    for (size_t i = 0; i < N; i++)
        rows[i * DIM + 5] = normal();
    CHECK(vx_pca(rows, N, DIM, K, NULL, out, &err) == VX_OK);
    check_orthonormal(out, K, DIM);
    CHECK(fabsf(out[5]) > 0.999f);
    vx_free(rows);
}

/* ---- readers beside a writer ------------------------------------------------------- */

#define LIVE_DIM 40
#define STAY 10500
#define COME 400
#define N_READERS 2

static struct {
    vx_index *index;
    _Atomic bool done;
    _Atomic int n_left, n_looked, n_missed;
} shared;

/* The vector of a label: around one of a hundred centres, known by heart. */
static void make_row(vx_label label, float *row)
{
    const uint64_t centre = vx_hash64((uint64_t)label) % 100;
    for (uint64_t j = 0; j < LIVE_DIM; j++)
        row[j] = (float)(vx_hash64(centre * 1000 + j) % 1000) / 500.0f +
                 (float)(vx_hash64((uint64_t)label * 7919 + j) % 1000) / 1000.0f;
}

static void put(vx_label begin, size_t n)
{
    float *rows = malloc(n * LIVE_DIM * sizeof *rows);
    vx_label *labels = malloc(n * sizeof *labels);
    const vx_run run = {2, NULL, NULL};
    vx_error err;
    for (size_t i = 0; i < n; i++) {
        labels[i] = begin + (vx_label)i;
        make_row(labels[i], rows + i * LIVE_DIM);
    }
    CHECK(vx_index_add(shared.index, rows, n, labels, VX_REPLACE, &run, NULL, NULL, &err) == VX_OK);
    free(rows);
    free(labels);
}

static void look_for(const vx_label wanted[2])
{
    enum { K = 6 };
    float queries[2 * LIVE_DIM], row[LIVE_DIM], dists[2 * K];
    vx_label labels[2 * K];
    vx_error err;
    const vx_search_params params = {K, 60, 0};
    for (size_t q = 0; q < 2; q++)
        make_row(wanted[q], queries + q * LIVE_DIM);
    CHECK(vx_index_search(shared.index, queries, 2, &params, &(vx_run){1, NULL, NULL}, labels,
                          dists, &err) == VX_OK);
    for (size_t i = 0; i < 2 * K; i++) {
        double sum = 0;
        make_row(labels[i], row);
        for (size_t j = 0; j < LIVE_DIM; j++) {
            const double d = (double)queries[i / K * LIVE_DIM + j] - (double)row[j];
            sum += d * d;
        }
        CHECK(fabs(sum - (double)dists[i]) < 1e-4);
    }
    atomic_fetch_add(&shared.n_missed, (labels[0] != wanted[0]) + (labels[K] != wanted[1]));
    atomic_fetch_add(&shared.n_looked, 2);
}

static VX_THREAD_MAIN(reader_main, unused)
{
    (void)unused;
    for (uint64_t i = 0; !atomic_load(&shared.done); i++)
        look_for((vx_label[]){(vx_label)(vx_hash64(2 * i) % 5000),
                              (vx_label)(vx_hash64(2 * i + 1) % 5000)});
    atomic_fetch_sub(&shared.n_left, 1);
    return VX_THREAD_END;
}

static void check_sound(void)
{
    vx_check check = {0};
    vx_error err;
    CHECK(vx_index_check(shared.index, NULL, &check, &err) == VX_OK && check.n_unreachable == 0);
}

static void live(uint32_t quantization)
{
    const vx_params params = {.dim = LIVE_DIM, .metric = VX_L2SQ, .quantization = quantization,
                              .M = 8, .ef_construction = 24};
    vx_error err;
    vx_stats stats;
    CHECK(vx_index_new(&params, &shared.index, &err) == VX_OK);
    atomic_store(&shared.done, false);
    atomic_store(&shared.n_left, N_READERS);
    put(0, 5000);
    for (int i = 0; i < N_READERS; i++)
        CHECK(vx_thread_start(reader_main, NULL));
    put(5000, STAY - 5000); /* codes are trained under the readers */
    CHECK(vx_index_stats(shared.index, &stats, &err) == VX_OK && stats.is_quantised);
    for (vx_label round = 0; round < 3; round++) {
        vx_label gone[COME];
        uint64_t deleted = 0;
        put(STAY, COME);
        put(100 * round, 100); /* replaced by themselves */
        for (vx_label i = 0; i < COME; i++)
            gone[i] = STAY + i;
        CHECK(vx_index_delete(shared.index, gone, COME, VX_MISSING_ERROR, NULL, &deleted, &err) ==
              VX_OK);
        if (round == 1)
            CHECK(vx_index_compact(shared.index, NULL, &err) == VX_OK);
        check_sound();
    }
    atomic_store(&shared.done, true);
    while (atomic_load(&shared.n_left) > 0)
        (void)usleep(1000);
    CHECK(atomic_load(&shared.n_missed) <= atomic_load(&shared.n_looked) / 50 + 5);
    check_sound();
    vx_index_free(shared.index);
}

VX_TEST(readers_of_codes_beside_a_writer) { live(VX_QUANT_SQ8); }
VX_TEST(readers_of_half_bytes_beside_a_writer) { live(VX_QUANT_SQ4); }
VX_TEST(readers_of_sketches_beside_a_writer) { live(VX_QUANT_AUTO); }

/* ---- running out ------------------------------------------------------------------------ */

VX_TEST(any_allocation_of_a_training_may_fail)
{
    enum { N = VX_TRAIN_ROWS + 10 };
    float *rows = malloc((size_t)N * LIVE_DIM * sizeof *rows);
    int n_failed = 0, n_in_a_row = 0;
    for (vx_label i = 0; i < N; i++)
        make_row(i, rows + (size_t)i * LIVE_DIM);
    for (uint64_t nth = 1; n_in_a_row < 3 && nth < 150; nth += nth < 60 && !SLOW ? 1 : 7) {
        const vx_params params = {.dim = LIVE_DIM, .metric = VX_L2SQ, .M = 4, .ef_construction = 1,
                                  .quantization = VX_QUANT_AUTO};
        vx_index *index = NULL;
        uint64_t added = 0;
        vx_check check = {0};
        vx_error err;
        CHECK(vx_index_new(&params, &index, &err) == VX_OK);
        CHECK(vx_index_add(index, rows, 100, NULL, VX_REPLACE, NULL, NULL, NULL, &err) == VX_OK);
        vx_test_fail_alloc(nth);
        const vx_status st = vx_index_add(index, rows + 100 * LIVE_DIM, N - 100, NULL, VX_REPLACE,
                                          NULL, NULL, &added, &err);
        vx_test_fail_alloc(0);
        CHECK(st == VX_OK ? added == N - 100 : st == VX_E_NOMEM && added < N - 100);
        CHECK(vx_index_count(index) == 100 + added);
        CHECK(vx_index_check(index, NULL, &check, &err) == VX_OK && check.n_unreachable == 0);
        n_failed += st != VX_OK;
        n_in_a_row = st == VX_OK ? n_in_a_row + 1 : 0;
        vx_index_free(index);
    }
    CHECK(n_failed > (SLOW ? 2 : 10));
    free(rows);
}
