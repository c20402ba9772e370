/* dist_neon.h - distances for arm64.
 *
 * Contract: dist_scalar.h.  Four sums of four lanes a row in the _1 forms; the
 * _4 forms call it four times, since sixteen chains would spill nothing but
 * gain nothing either: four chains already cover the FMA's latency. */
#ifndef DIST_NEON_H
#define DIST_NEON_H

#include <arm_neon.h>

#include "../base/vx_base.h"

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

#endif
