/* vx_half.h - IEEE half floats and bfloat16, where no instruction converts them. */
#ifndef VX_HALF_H
#define VX_HALF_H

#include <string.h>

#include "vx_base.h"

#define VX_HALF_MAX 65504.0f
#define VX_HALF_NEG_INF 0xFC00u

VX_INLINE float vx_half_float(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t exponent = half >> 10 & 31, fraction = half & 1023;
    union { uint32_t u; float f; } bits;
    if (exponent == 31)
        bits.u = 0x7F800000u | fraction << 13;
    else if (exponent > 0)
        bits.u = (exponent + 112) << 23 | fraction << 13;
    else
        bits.f = (float)fraction * 0x1p-24f;
    bits.u |= sign;
    return bits.f;
}

/* To the nearest, ties to even; beyond VX_HALF_MAX an infinity. */
VX_INLINE uint16_t vx_float_half(float value)
{
    union { float f; uint32_t u; } bits = {value}, magic;
    const uint16_t sign = (uint16_t)(bits.u >> 16 & 0x8000u);
    bits.u &= 0x7FFFFFFFu;
    if (bits.u > 0x7F800000u)
        return sign | 0x7E00u; /* NaN */
    if (bits.u >= 0x477FF000u)
        return sign | 0x7C00u;
    if (bits.u < 0x38800000u) { /* a subnormal half: let an addition round */
        magic.f = 0.5f;
        bits.f += magic.f;
        return sign | (uint16_t)(bits.u - magic.u);
    }
    const uint32_t odd = bits.u >> 13 & 1;
    bits.u += 0xC8000FFFu + odd; /* rebias, round */
    return sign | (uint16_t)(bits.u >> 13);
}

/* bfloat16 is the upper half of a float32. */
VX_INLINE float vx_bfloat_float(uint16_t value)
{
    union { uint32_t u; float f; } bits = {(uint32_t)value << 16};
    return bits.f;
}

/* To the nearest, ties to even; NaN stays NaN. */
VX_INLINE uint16_t vx_float_bfloat(float value)
{
    union { float f; uint32_t u; } bits = {value};
    if ((bits.u & 0x7FFFFFFFu) > 0x7F800000u)
        return (uint16_t)(bits.u >> 16 | 0x40u);
    return (uint16_t)((bits.u + 0x7FFFu + (bits.u >> 16 & 1)) >> 16);
}

#endif
