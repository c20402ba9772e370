/* dist_avx512.h - distances for x86-64 with AVX-512 F, BW, DQ and VL.
 *
 * Contract: dist_scalar.h.  One sum a row in the _4 forms would leave the FMA
 * units waiting on short rows; two a row, eight chains, and the query still
 * fits the 32 registers.  Also the kernels of level avx512vnni, which defines
 * VX_HAS_VNNI: it differs only where integers are multiplied. */
#ifndef DIST_AVX512_H
#define DIST_AVX512_H

#include <immintrin.h>

#include "../base/vx_base.h"

VX_INLINE __m128 fold_avx512(__m512 a, __m512 b)
{
    const __m512 s = _mm512_add_ps(a, b);
    const __m256 h =
        _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps(s, 1));
    return _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
}

/* (a0 + a1) + (a2 + a3), as the transposed sum of the _4 forms does. */
VX_INLINE float sum4_avx512(__m128 a)
{
    a = _mm_hadd_ps(a, a);
    return _mm_cvtss_f32(_mm_hadd_ps(a, a));
}

#define STEP_L2SQ(acc, query, row) \
    do { \
        const __m512 d_ = _mm512_sub_ps(query, _mm512_load_ps(row)); \
        acc = _mm512_fmadd_ps(d_, d_, acc); \
    } while (0)
#define STEP_DOT(acc, query, row) (acc = _mm512_fmadd_ps(query, _mm512_load_ps(row), acc))

/* n is a multiple of 16: whole pairs of registers, then perhaps one more. */
#define KERNEL_1(STEP) \
    __m512 a = _mm512_setzero_ps(), b = a; \
    size_t i = 0; \
    for (; i + 32 <= n; i += 32) { \
        STEP(a, _mm512_load_ps(q + i), x + i); \
        STEP(b, _mm512_load_ps(q + i + 16), x + i + 16); \
    } \
    if (i < n) \
        STEP(a, _mm512_load_ps(q + i), x + i); \
    return sum4_avx512(fold_avx512(a, b))

#define KERNEL_4(STEP) \
    const float *VX_RESTRICT x0 = x[0], *VX_RESTRICT x1 = x[1]; \
    const float *VX_RESTRICT x2 = x[2], *VX_RESTRICT x3 = x[3]; \
    __m512 a0 = _mm512_setzero_ps(), a1 = a0, a2 = a0, a3 = a0; \
    __m512 b0 = a0, b1 = a0, b2 = a0, b3 = a0; \
    size_t i = 0; \
    for (; i + 32 <= n; i += 32) { \
        const __m512 qa = _mm512_load_ps(q + i), qb = _mm512_load_ps(q + i + 16); \
        STEP(a0, qa, x0 + i); \
        STEP(a1, qa, x1 + i); \
        STEP(a2, qa, x2 + i); \
        STEP(a3, qa, x3 + i); \
        STEP(b0, qb, x0 + i + 16); \
        STEP(b1, qb, x1 + i + 16); \
        STEP(b2, qb, x2 + i + 16); \
        STEP(b3, qb, x3 + i + 16); \
    } \
    if (i < n) { \
        const __m512 qa = _mm512_load_ps(q + i); \
        STEP(a0, qa, x0 + i); \
        STEP(a1, qa, x1 + i); \
        STEP(a2, qa, x2 + i); \
        STEP(a3, qa, x3 + i); \
    } \
    _mm_storeu_ps(out, \
                  _mm_hadd_ps(_mm_hadd_ps(fold_avx512(a0, b0), fold_avx512(a1, b1)), \
                              _mm_hadd_ps(fold_avx512(a2, b2), fold_avx512(a3, b3))))

VX_INLINE float l2sq_1(const float *q, const float *x, size_t n) { KERNEL_1(STEP_L2SQ); }
VX_INLINE float dot_1(const float *q, const float *x, size_t n) { KERNEL_1(STEP_DOT); }
VX_INLINE void l2sq_4(const float *q, const float *const x[4], size_t n, float out[4])
{
    KERNEL_4(STEP_L2SQ);
}
VX_INLINE void dot_4(const float *q, const float *const x[4], size_t n, float out[4])
{
    KERNEL_4(STEP_DOT);
}

#undef STEP_L2SQ
#undef STEP_DOT
#undef KERNEL_1
#undef KERNEL_4

/* |q - x| of bytes, widened to 16 bits; squared and added in one instruction where
 * there is VNNI, in two without. */
VX_INLINE __m512i step_square_avx512(__m512i acc, __m512i d)
{
#ifdef VX_HAS_VNNI
    return _mm512_dpwssd_epi32(acc, d, d);
#else
    return _mm512_add_epi32(acc, _mm512_madd_epi16(d, d));
#endif
}

VX_INLINE __m512i step_u8_avx512(__m512i acc, __m512i q, const uint8_t *x)
{
    const __m512i r = _mm512_load_si512(x);
    const __m512i d = _mm512_sub_epi8(_mm512_max_epu8(q, r), _mm512_min_epu8(q, r));
    acc = step_square_avx512(acc, _mm512_unpacklo_epi8(d, _mm512_setzero_si512()));
    return step_square_avx512(acc, _mm512_unpackhi_epi8(d, _mm512_setzero_si512()));
}

VX_INLINE uint32_t u8l2sq_1(const uint8_t *q, const uint8_t *x, size_t n)
{
    __m512i a = _mm512_setzero_si512();
    for (size_t i = 0; i < n; i += 64)
        a = step_u8_avx512(a, _mm512_load_si512(q + i), x + i);
    return (uint32_t)_mm512_reduce_add_epi32(a);
}

VX_INLINE void u8l2sq_4(const uint8_t *q, const uint8_t *const x[4], size_t n, uint32_t out[4])
{
    __m512i a0 = _mm512_setzero_si512(), a1 = a0, a2 = a0, a3 = a0;
    for (size_t i = 0; i < n; i += 64) {
        const __m512i r = _mm512_load_si512(q + i);
        a0 = step_u8_avx512(a0, r, x[0] + i);
        a1 = step_u8_avx512(a1, r, x[1] + i);
        a2 = step_u8_avx512(a2, r, x[2] + i);
        a3 = step_u8_avx512(a3, r, x[3] + i);
    }
    /* Transposed sums: pairs, then lanes. */
    const __m512i s01 = _mm512_add_epi32(_mm512_unpacklo_epi32(a0, a1), _mm512_unpackhi_epi32(a0, a1));
    const __m512i s23 = _mm512_add_epi32(_mm512_unpacklo_epi32(a2, a3), _mm512_unpackhi_epi32(a2, a3));
    const __m512i s = _mm512_add_epi32(_mm512_unpacklo_epi64(s01, s23), _mm512_unpackhi_epi64(s01, s23));
    const __m256i h = _mm256_add_epi32(_mm512_castsi512_si256(s), _mm512_extracti64x4_epi64(s, 1));
    _mm_storeu_si128((__m128i *)(void *)out,
                     _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1)));
}

#endif
