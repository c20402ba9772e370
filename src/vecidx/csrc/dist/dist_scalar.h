/* dist_scalar.h - distances in plain C, for any CPU.
 *
 * Contract of every dist_<isa>.h (each holds the same functions, in this order):
 * rows are 64-byte aligned and padded with zeros to n floats, n a multiple of 16,
 * so there is no tail anywhere.  For one pair of rows the _1 and _4 forms add in
 * the same order and give the same bits, and so does the pair swapped: a graph
 * does not depend on which of them computed an edge.
 *
 * Sixteen running sums, combined as a tree: the compiler may keep them in
 * whatever baseline vector registers it has without changing a bit. */
#ifndef DIST_SCALAR_H
#define DIST_SCALAR_H

#include "../base/vx_base.h"
#include "../base/vx_half.h"
#include "dist_gate.h"

VX_INLINE float sum16_scalar(float *acc)
{
    for (int width = 8; width >= 1; width /= 2)
        for (int i = 0; i < width; i++)
            acc[i] += acc[i + width];
    return acc[0];
}

VX_INLINE float l2sq_1(const float *q, const float *x, size_t n)
{
    float acc[16] = {0};
    for (size_t i = 0; i < n; i += 16)
        for (int j = 0; j < 16; j++) {
            const float d = q[i + (size_t)j] - x[i + (size_t)j];
            acc[j] += d * d;
        }
    return sum16_scalar(acc);
}

VX_INLINE float dot_1(const float *q, const float *x, size_t n)
{
    float acc[16] = {0};
    for (size_t i = 0; i < n; i += 16)
        for (int j = 0; j < 16; j++)
            acc[j] += q[i + (size_t)j] * x[i + (size_t)j];
    return sum16_scalar(acc);
}

VX_INLINE void l2sq_4(const float *q, const float *const x[4], size_t n, float out[4])
{
    for (int i = 0; i < 4; i++)
        out[i] = l2sq_1(q, x[i], n);
}

VX_INLINE void dot_4(const float *q, const float *const x[4], size_t n, float out[4])
{
    for (int i = 0; i < 4; i++)
        out[i] = dot_1(q, x[i], n);
}

/* Squared Euclidean distance of rows of unsigned bytes, n a multiple of 64: exact,
 * and so the same at every level.  A row holds at most 65,536 bytes. */
VX_INLINE uint32_t u8l2sq_1(const uint8_t *q, const uint8_t *x, size_t n)
{
    uint32_t acc[16] = {0};
    for (size_t i = 0; i < n; i += 16)
        for (int j = 0; j < 16; j++) {
            const int d = q[i + (size_t)j] - x[i + (size_t)j];
            acc[j] += (uint32_t)(d * d);
        }
    uint32_t sum = 0;
    for (int j = 0; j < 16; j++)
        sum += acc[j];
    return sum;
}

VX_INLINE void u8l2sq_4(const uint8_t *q, const uint8_t *const x[4], size_t n, uint32_t out[4])
{
    for (int i = 0; i < 4; i++)
        out[i] = u8l2sq_1(q, x[i], n);
}

/* n rows of signed bytes times one of unsigned bytes. */
VX_INLINE void project_rows(const int8_t *matrix, const uint8_t *code, size_t row_bytes, size_t n,
                            int32_t *out)
{
    for (size_t r = 0; r < n; r++) {
        const int8_t *row = matrix + r * row_bytes;
        int32_t acc[16] = {0}, sum = 0;
        for (size_t i = 0; i < row_bytes; i += 16)
            for (int j = 0; j < 16; j++)
                acc[j] += row[i + (size_t)j] * code[i + (size_t)j];
        for (int j = 0; j < 16; j++)
            sum += acc[j];
        out[r] = sum;
    }
}

/* As u8l2sq, with x packed two coordinates a byte, each times 16: bytes i .. i + 63
 * of a row's 64-byte half hold coordinates i below and i + 64 above; q is not packed. */
VX_INLINE uint32_t u4l2sq_1(const uint8_t *q, const uint8_t *x, size_t n)
{
    uint32_t acc[16] = {0}, sum = 0;
    for (size_t h = 0; h < n; h += 64)
        for (size_t i = 0; i < 64; i += 16)
            for (size_t j = 0; j < 16; j++) {
                const int a = q[2 * h + i + j] - (x[h + i + j] & 15) * 16;
                const int b = q[2 * h + 64 + i + j] - (x[h + i + j] >> 4) * 16;
                acc[j] += (uint32_t)(a * a + b * b);
            }
    for (int j = 0; j < 16; j++)
        sum += acc[j];
    return sum;
}

VX_INLINE void u4l2sq_4(const uint8_t *q, const uint8_t *const x[4], size_t n, uint32_t out[4])
{
    for (int i = 0; i < 4; i++)
        out[i] = u4l2sq_1(q, x[i], n);
}

/* Squared Euclidean distance of rows of half bytes, both packed two a byte: exact. */
VX_INLINE uint32_t n4l2sq_1(const uint8_t *q, const uint8_t *x, size_t n)
{
    uint32_t acc[16] = {0}, sum = 0;
    for (size_t i = 0; i < n; i += 16)
        for (size_t j = 0; j < 16; j++) {
            const int a = (q[i + j] & 15) - (x[i + j] & 15);
            const int b = (q[i + j] >> 4) - (x[i + j] >> 4);
            acc[j] += (uint32_t)(a * a + b * b);
        }
    for (int j = 0; j < 16; j++)
        sum += acc[j];
    return sum;
}

VX_INLINE void n4l2sq_4(const uint8_t *q, const uint8_t *const x[4], size_t n, uint32_t out[4])
{
    for (int i = 0; i < 4; i++)
        out[i] = n4l2sq_1(q, x[i], n);
}

VX_INLINE uint32_t gate_32(const vx_gate *gate, const char *group, float step, float shift,
                           float limit)
{
    const uint16_t *factors = (const uint16_t *)(const void *)group;
    const uint8_t *bits = (const uint8_t *)group + 128;
    uint32_t sums[VX_GATE_EDGES] = {0}, passed = 0;
    for (uint32_t t = 0; t < gate->n_tables; t++)
        for (uint32_t i = 0; i < 16; i++) {
            sums[i] += gate->tables[16 * t + (bits[16 * t + i] & 15)];
            sums[i + 16] += gate->tables[16 * t + (bits[16 * t + i] >> 4)];
        }
    for (uint32_t i = 0; i < VX_GATE_EDGES; i++) {
        const float x = (float)sums[i] * step + shift;
        const float estimate = vx_half_float(factors[i]) + vx_half_float(factors[32 + i]) * x;
        passed |= (uint32_t)(estimate < limit) << i;
    }
    return passed;
}

/* ---- rows that are not float32: see dist_mixed.h --------------------------------- */

#define MIXED static VX_NOINLINE /* inlined they take 300 KB */
#define WIDE 8
typedef struct wide {
    float v[WIDE];
} wide;

VX_INLINE wide wide_zero(void) { return (wide){{0}}; }

VX_INLINE float wide_sum(wide a, wide b)
{
    float acc[16];
    for (int i = 0; i < WIDE; i++) {
        acc[i] = a.v[i];
        acc[i + WIDE] = b.v[i];
    }
    return sum16_scalar(acc);
}

VX_INLINE wide wide_l2sq(wide acc, wide q, wide x)
{
    for (int i = 0; i < WIDE; i++)
        acc.v[i] += (q.v[i] - x.v[i]) * (q.v[i] - x.v[i]);
    return acc;
}

VX_INLINE wide wide_dot(wide acc, wide q, wide x)
{
    for (int i = 0; i < WIDE; i++)
        acc.v[i] += q.v[i] * x.v[i];
    return acc;
}

#define WIDE_LOAD(name, type, value) \
    MIXED wide name(const type *p) \
    { \
        wide x; \
        for (int i = 0; i < WIDE; i++) \
            x.v[i] = value(p[i]); \
        return x; \
    }
WIDE_LOAD(wide_f32, float, (float))
WIDE_LOAD(wide_f16, uint16_t, vx_half_float)
WIDE_LOAD(wide_bf16, uint16_t, vx_bfloat_float)
WIDE_LOAD(wide_i8, int8_t, (float))
WIDE_LOAD(wide_u8, uint8_t, (float))
#undef WIDE_LOAD

typedef struct whole {
    uint32_t v[16];
} whole;

VX_INLINE whole whole_zero(void) { return (whole){{0}}; }

VX_INLINE uint32_t whole_sum(whole a)
{
    uint32_t sum = 0;
    for (int j = 0; j < 16; j++)
        sum += a.v[j];
    return sum;
}

VX_INLINE whole whole_i8_l2sq(whole acc, const int8_t *q, const int8_t *x)
{
    for (int i = 0; i < 64; i += 16)
        for (int j = 0; j < 16; j++) {
            const int d = q[i + j] - x[i + j];
            acc.v[j] += (uint32_t)(d * d);
        }
    return acc;
}

VX_INLINE whole whole_i8_dot(whole acc, const int8_t *q, const int8_t *x)
{
    for (int i = 0; i < 64; i += 16)
        for (int j = 0; j < 16; j++)
            acc.v[j] += (uint32_t)(q[i + j] * x[i + j]);
    return acc;
}

VX_INLINE whole whole_u8_dot(whole acc, const uint8_t *q, const uint8_t *x)
{
    for (int i = 0; i < 64; i += 16)
        for (int j = 0; j < 16; j++)
            acc.v[j] += (uint32_t)(q[i + j] * x[i + j]);
    return acc;
}

#include "dist_mixed.h"

/* ---- packed bits: see dist_bits.h ------------------------------------------------- */

#define BITS(name) bits_##name
#define BITS_FN static VX_NOINLINE
typedef uint32_t vx_bits;

VX_INLINE vx_bits bits_zero(void) { return 0; }
VX_INLINE uint32_t bits_sum(vx_bits a) { return a; }
VX_INLINE void bits_sum_4(vx_bits a0, vx_bits a1, vx_bits a2, vx_bits a3, uint32_t out[4])
{
    out[0] = a0;
    out[1] = a1;
    out[2] = a2;
    out[3] = a3;
}

VX_INLINE vx_bits bits_xor(vx_bits acc, const char *q, const char *x)
{
    const uint64_t *a = (const uint64_t *)(const void *)q, *b = (const uint64_t *)(const void *)x;
    for (int i = 0; i < 8; i++)
        acc += vx_count_bits(a[i] ^ b[i]);
    return acc;
}

VX_INLINE vx_bits bits_or(vx_bits acc, const char *q, const char *x)
{
    const uint64_t *a = (const uint64_t *)(const void *)q, *b = (const uint64_t *)(const void *)x;
    for (int i = 0; i < 8; i++)
        acc += vx_count_bits(a[i] | b[i]);
    return acc;
}

#include "dist_bits.h"

#endif
