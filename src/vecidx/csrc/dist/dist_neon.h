/* dist_neon.h - float32 distances for arm64.
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

#endif
