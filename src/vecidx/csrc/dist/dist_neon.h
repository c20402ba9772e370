/* dist_neon.h - distances for arm64.
 *
 * Contract: dist_scalar.h.  Four sums of four lanes a row in the _1 forms; the
 * _4 forms call it four times, since sixteen chains would spill nothing but
 * gain nothing either: four chains already cover the FMA's latency. */
#ifndef DIST_NEON_H
#define DIST_NEON_H

#include <arm_neon.h>

#include "../base/vx_base.h"
#include "dist_gate.h"

VX_INLINE float sum16_neon(float32x4_t a, float32x4_t b, float32x4_t c, float32x4_t d)
{
    return vaddvq_f32(vaddq_f32(vaddq_f32(a, b), vaddq_f32(c, d)));
}

VX_INLINE float32x4_t step_l2sq(float32x4_t acc, const float *q, const float *x)
{
    const float32x4_t d = vsubq_f32(vld1q_f32(q), vld1q_f32(x));
    return vfmaq_f32(acc, d, d);
}

VX_INLINE float32x4_t step_dot(float32x4_t acc, const float *q, const float *x)
{
    return vfmaq_f32(acc, vld1q_f32(q), vld1q_f32(x));
}

VX_INLINE float l2sq_1(const float *q, const float *x, size_t n)
{
    float32x4_t a = vdupq_n_f32(0), b = a, c = a, d = a;
    for (size_t i = 0; i < n; i += 16) {
        a = step_l2sq(a, q + i, x + i);
        b = step_l2sq(b, q + i + 4, x + i + 4);
        c = step_l2sq(c, q + i + 8, x + i + 8);
        d = step_l2sq(d, q + i + 12, x + i + 12);
    }
    return sum16_neon(a, b, c, d);
}

VX_INLINE float dot_1(const float *q, const float *x, size_t n)
{
    float32x4_t a = vdupq_n_f32(0), b = a, c = a, d = a;
    for (size_t i = 0; i < n; i += 16) {
        a = step_dot(a, q + i, x + i);
        b = step_dot(b, q + i + 4, x + i + 4);
        c = step_dot(c, q + i + 8, x + i + 8);
        d = step_dot(d, q + i + 12, x + i + 12);
    }
    return sum16_neon(a, b, c, d);
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

VX_INLINE uint32_t u8l2sq_1(const uint8_t *q, const uint8_t *x, size_t n)
{
    uint32x4_t a = vdupq_n_u32(0), b = a;
    for (size_t i = 0; i < n; i += 32) {
        const uint8x16_t d = vabdq_u8(vld1q_u8(q + i), vld1q_u8(x + i));
        const uint8x16_t e = vabdq_u8(vld1q_u8(q + i + 16), vld1q_u8(x + i + 16));
        a = vpadalq_u16(a, vmull_u8(vget_low_u8(d), vget_low_u8(d)));
        b = vpadalq_u16(b, vmull_high_u8(d, d));
        a = vpadalq_u16(a, vmull_u8(vget_low_u8(e), vget_low_u8(e)));
        b = vpadalq_u16(b, vmull_high_u8(e, e));
    }
    return vaddvq_u32(vaddq_u32(a, b));
}

VX_INLINE void u8l2sq_4(const uint8_t *q, const uint8_t *const x[4], size_t n, uint32_t out[4])
{
    for (int i = 0; i < 4; i++)
        out[i] = u8l2sq_1(q, x[i], n);
}

VX_INLINE void project_rows(const int8_t *matrix, const uint8_t *code, size_t row_bytes, size_t n,
                            int32_t *out)
{
    for (size_t r = 0; r < n; r++) {
        const int8_t *row = matrix + r * row_bytes;
        int32x4_t a = vdupq_n_s32(0), b = a;
        for (size_t i = 0; i < row_bytes; i += 16) {
            const int8x16_t m = vld1q_s8(row + i);
            const uint8x16_t c = vld1q_u8(code + i);
            const int16x8_t m0 = vmovl_s8(vget_low_s8(m)), m1 = vmovl_high_s8(m);
            const int16x8_t c0 = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(c)));
            const int16x8_t c1 = vreinterpretq_s16_u16(vmovl_high_u8(c));
            a = vmlal_s16(a, vget_low_s16(m0), vget_low_s16(c0));
            b = vmlal_high_s16(b, m0, c0);
            a = vmlal_s16(a, vget_low_s16(m1), vget_low_s16(c1));
            b = vmlal_high_s16(b, m1, c1);
        }
        out[r] = vaddvq_s32(vaddq_s32(a, b));
    }
}

VX_INLINE uint32x4_t step_u4_neon(uint32x4_t acc, const uint8_t *q, uint8x16_t x)
{
    const uint8x16_t d = vabdq_u8(vld1q_u8(q), x);
    acc = vpadalq_u16(acc, vmull_u8(vget_low_u8(d), vget_low_u8(d)));
    return vpadalq_u16(acc, vmull_high_u8(d, d));
}

VX_INLINE uint32_t u4l2sq_1(const uint8_t *q, const uint8_t *x, size_t n)
{
    uint32x4_t a = vdupq_n_u32(0), b = a;
    for (size_t h = 0; h < n; h += 64)
        for (size_t i = 0; i < 64; i += 16) {
            const uint8x16_t both = vld1q_u8(x + h + i);
            a = step_u4_neon(a, q + 2 * h + i, vshlq_n_u8(both, 4));
            b = step_u4_neon(b, q + 2 * h + 64 + i, vandq_u8(both, vdupq_n_u8(0xF0)));
        }
    return vaddvq_u32(vaddq_u32(a, b));
}

VX_INLINE void u4l2sq_4(const uint8_t *q, const uint8_t *const x[4], size_t n, uint32_t out[4])
{
    for (int i = 0; i < 4; i++)
        out[i] = u4l2sq_1(q, x[i], n);
}

VX_INLINE uint32_t n4l2sq_1(const uint8_t *q, const uint8_t *x, size_t n)
{
    const uint8x16_t low = vdupq_n_u8(15);
    uint32x4_t acc = vdupq_n_u32(0);
    for (size_t i = 0; i < n; i += 16) {
        const uint8x16_t of_q = vld1q_u8(q + i), of_x = vld1q_u8(x + i);
        const uint8x16_t a = vabdq_u8(vandq_u8(of_q, low), vandq_u8(of_x, low));
        const uint8x16_t b = vabdq_u8(vshrq_n_u8(of_q, 4), vshrq_n_u8(of_x, 4));
        /* Squares are bytes. */
        acc = vpadalq_u16(acc, vaddq_u16(vpaddlq_u8(vmulq_u8(a, a)), vpaddlq_u8(vmulq_u8(b, b))));
    }
    return vaddvq_u32(acc);
}

VX_INLINE void n4l2sq_4(const uint8_t *q, const uint8_t *const x[4], size_t n, uint32_t out[4])
{
    for (int i = 0; i < 4; i++)
        out[i] = n4l2sq_1(q, x[i], n);
}

/* Bit i: is the estimate of edge i, of 4, below the limit? */
VX_INLINE uint32_t gate_4_neon(uint16x4_t sums, const uint16_t *factors, float step, float shift,
                               float limit)
{
    static const uint32_t bit[4] = {1, 2, 4, 8};
    const float32x4_t a = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(factors)));
    const float32x4_t b = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(factors + 32)));
    const float32x4_t sum = vcvtq_f32_u32(vmovl_u16(sums));
    const float32x4_t x = vaddq_f32(vmulq_f32(sum, vdupq_n_f32(step)), vdupq_n_f32(shift));
    const float32x4_t estimate = vaddq_f32(a, vmulq_f32(b, x));
    return vaddvq_u32(vandq_u32(vcltq_f32(estimate, vdupq_n_f32(limit)), vld1q_u32(bit)));
}

VX_INLINE uint32_t gate_32(const vx_gate *gate, const char *group, float step, float shift,
                           float limit)
{
    const uint16_t *factors = (const uint16_t *)(const void *)group;
    const uint8_t *bits = (const uint8_t *)group + 128;
    uint16x8_t sums[4] = {vdupq_n_u16(0), vdupq_n_u16(0), vdupq_n_u16(0), vdupq_n_u16(0)};
    for (uint32_t i = 0; i < 16 * gate->n_tables; i += 16) {
        const uint8x16_t codes = vld1q_u8(bits + i), table = vld1q_u8(gate->tables + i);
        const uint8x16_t lo = vqtbl1q_u8(table, vandq_u8(codes, vdupq_n_u8(15)));
        const uint8x16_t hi = vqtbl1q_u8(table, vshrq_n_u8(codes, 4));
        sums[0] = vaddw_u8(sums[0], vget_low_u8(lo));
        sums[1] = vaddw_high_u8(sums[1], lo);
        sums[2] = vaddw_u8(sums[2], vget_low_u8(hi));
        sums[3] = vaddw_high_u8(sums[3], hi);
    }
    uint32_t passed = 0;
    for (uint32_t i = 0; i < 4; i++) {
        passed |= gate_4_neon(vget_low_u16(sums[i]), factors + 8 * i, step, shift, limit)
                  << 8 * i;
        passed |= gate_4_neon(vget_high_u16(sums[i]), factors + 8 * i + 4, step, shift,
                              limit) << (8 * i + 4);
    }
    return passed;
}

/* ---- rows that are not float32: see dist_mixed.h --------------------------------- */

#define MIXED VX_INLINE
#define WIDE 8
typedef float32x4x2_t wide;

VX_INLINE wide wide_of(float32x4_t lo, float32x4_t hi) { return (wide){{lo, hi}}; }
VX_INLINE wide wide_zero(void) { return wide_of(vdupq_n_f32(0), vdupq_n_f32(0)); }
VX_INLINE float wide_sum(wide a, wide b)
{
    return sum16_neon(a.val[0], a.val[1], b.val[0], b.val[1]);
}

VX_INLINE wide wide_l2sq(wide acc, wide q, wide x)
{
    const float32x4_t d = vsubq_f32(q.val[0], x.val[0]), e = vsubq_f32(q.val[1], x.val[1]);
    return wide_of(vfmaq_f32(acc.val[0], d, d), vfmaq_f32(acc.val[1], e, e));
}

VX_INLINE wide wide_dot(wide acc, wide q, wide x)
{
    return wide_of(vfmaq_f32(acc.val[0], q.val[0], x.val[0]),
                   vfmaq_f32(acc.val[1], q.val[1], x.val[1]));
}

VX_INLINE wide wide_f32(const float *p) { return wide_of(vld1q_f32(p), vld1q_f32(p + 4)); }
VX_INLINE wide wide_f16(const uint16_t *p)
{
    const float16x8_t x = vreinterpretq_f16_u16(vld1q_u16(p));
    return wide_of(vcvt_f32_f16(vget_low_f16(x)), vcvt_high_f32_f16(x));
}
VX_INLINE wide wide_bf16(const uint16_t *p)
{
    const uint16x8_t x = vld1q_u16(p);
    return wide_of(vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(x), 16)),
                   vreinterpretq_f32_u32(vshll_high_n_u16(x, 16)));
}
VX_INLINE wide wide_i8(const int8_t *p)
{
    const int16x8_t x = vmovl_s8(vld1_s8(p));
    return wide_of(vcvtq_f32_s32(vmovl_s16(vget_low_s16(x))), vcvtq_f32_s32(vmovl_high_s16(x)));
}
VX_INLINE wide wide_u8(const uint8_t *p)
{
    const uint16x8_t x = vmovl_u8(vld1_u8(p));
    return wide_of(vcvtq_f32_u32(vmovl_u16(vget_low_u16(x))), vcvtq_f32_u32(vmovl_high_u16(x)));
}

typedef uint32x4_t whole;

VX_INLINE whole whole_zero(void) { return vdupq_n_u32(0); }
VX_INLINE uint32_t whole_sum(whole a) { return vaddvq_u32(a); }

VX_INLINE whole whole_i8_l2sq(whole acc, const int8_t *q, const int8_t *x)
{
    for (size_t i = 0; i < 64; i += 16) {
        const uint8x16_t d = vreinterpretq_u8_s8(vabdq_s8(vld1q_s8(q + i), vld1q_s8(x + i)));
        acc = vpadalq_u16(acc, vmull_u8(vget_low_u8(d), vget_low_u8(d)));
        acc = vpadalq_u16(acc, vmull_high_u8(d, d));
    }
    return acc;
}

VX_INLINE whole whole_i8_dot(whole acc, const int8_t *q, const int8_t *x)
{
    int32x4_t sum = vreinterpretq_s32_u32(acc);
    for (size_t i = 0; i < 64; i += 16) {
        const int8x16_t a = vld1q_s8(q + i), b = vld1q_s8(x + i);
        sum = vpadalq_s16(sum, vmull_s8(vget_low_s8(a), vget_low_s8(b)));
        sum = vpadalq_s16(sum, vmull_high_s8(a, b));
    }
    return vreinterpretq_u32_s32(sum);
}

VX_INLINE whole whole_u8_dot(whole acc, const uint8_t *q, const uint8_t *x)
{
    for (size_t i = 0; i < 64; i += 16) {
        const uint8x16_t a = vld1q_u8(q + i), b = vld1q_u8(x + i);
        acc = vpadalq_u16(acc, vmull_u8(vget_low_u8(a), vget_low_u8(b)));
        acc = vpadalq_u16(acc, vmull_high_u8(a, b));
    }
    return acc;
}

#include "dist_mixed.h"

/* ---- packed bits: see dist_bits.h ------------------------------------------------- */

#define BITS(name) bits_##name
#define BITS_FN VX_INLINE
typedef uint16x8_t vx_bits; /* 64 at most for each of 128 steps                        */

VX_INLINE vx_bits bits_zero(void) { return vdupq_n_u16(0); }
VX_INLINE uint32_t bits_sum(vx_bits a) { return vaddlvq_u16(a); }
VX_INLINE void bits_sum_4(vx_bits a0, vx_bits a1, vx_bits a2, vx_bits a3, uint32_t out[4])
{
    out[0] = bits_sum(a0);
    out[1] = bits_sum(a1);
    out[2] = bits_sum(a2);
    out[3] = bits_sum(a3);
}

VX_INLINE uint8x16_t load_bits_neon(const char *at) { return vld1q_u8((const uint8_t *)at); }

VX_INLINE vx_bits bits_xor(vx_bits acc, const char *q, const char *x)
{
    uint8x16_t counts = vdupq_n_u8(0);
    for (size_t i = 0; i < 64; i += 16)
        counts = vaddq_u8(counts,
                          vcntq_u8(veorq_u8(load_bits_neon(q + i), load_bits_neon(x + i))));
    return vpadalq_u8(acc, counts);
}

VX_INLINE vx_bits bits_or(vx_bits acc, const char *q, const char *x)
{
    uint8x16_t counts = vdupq_n_u8(0);
    for (size_t i = 0; i < 64; i += 16)
        counts = vaddq_u8(counts,
                          vcntq_u8(vorrq_u8(load_bits_neon(q + i), load_bits_neon(x + i))));
    return vpadalq_u8(acc, counts);
}

#include "dist_bits.h"

#endif
