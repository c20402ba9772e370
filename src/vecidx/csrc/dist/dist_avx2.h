/* dist_avx2.h - float32 distances for x86-64 with AVX2 and FMA.
 *
 * Contract: dist_scalar.h.  Two sums a row: an FMA takes 4 cycles and two start
 * a cycle, but four rows at once already give eight chains, and sixteen
 * registers hold no more. */
#ifndef DIST_AVX2_H
#define DIST_AVX2_H

#include <immintrin.h>

#include "../base/vx_base.h"

VX_INLINE __m128 fold_avx2(__m256 a, __m256 b)
{
    const __m256 s = _mm256_add_ps(a, b);
    return _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}

/* (a0 + a1) + (a2 + a3), as the transposed sum of the _4 forms does. */
VX_INLINE float sum4_avx2(__m128 a)
{
    a = _mm_hadd_ps(a, a);
    return _mm_cvtss_f32(_mm_hadd_ps(a, a));
}

#define STEP_L2SQ(acc, query, row) \
    do { \
        const __m256 d_ = _mm256_sub_ps(query, _mm256_load_ps(row)); \
        acc = _mm256_fmadd_ps(d_, d_, acc); \
    } while (0)
#define STEP_DOT(acc, query, row) (acc = _mm256_fmadd_ps(query, _mm256_load_ps(row), acc))

#define KERNEL_1(STEP) \
    __m256 a = _mm256_setzero_ps(), b = a; \
    for (size_t i = 0; i < n; i += 16) { \
        STEP(a, _mm256_load_ps(q + i), x + i); \
        STEP(b, _mm256_load_ps(q + i + 8), x + i + 8); \
    } \
    return sum4_avx2(fold_avx2(a, b))

#define KERNEL_4(STEP) \
    const float *VX_RESTRICT x0 = x[0], *VX_RESTRICT x1 = x[1]; \
    const float *VX_RESTRICT x2 = x[2], *VX_RESTRICT x3 = x[3]; \
    __m256 a0 = _mm256_setzero_ps(), a1 = a0, a2 = a0, a3 = a0; \
    __m256 b0 = a0, b1 = a0, b2 = a0, b3 = a0; \
    for (size_t i = 0; i < n; i += 16) { \
        const __m256 qa = _mm256_load_ps(q + i), qb = _mm256_load_ps(q + i + 8); \
        STEP(a0, qa, x0 + i); \
        STEP(a1, qa, x1 + i); \
        STEP(a2, qa, x2 + i); \
        STEP(a3, qa, x3 + i); \
        STEP(b0, qb, x0 + i + 8); \
        STEP(b1, qb, x1 + i + 8); \
        STEP(b2, qb, x2 + i + 8); \
        STEP(b3, qb, x3 + i + 8); \
    } \
    _mm_storeu_ps(out, _mm_hadd_ps(_mm_hadd_ps(fold_avx2(a0, b0), fold_avx2(a1, b1)), \
                                   _mm_hadd_ps(fold_avx2(a2, b2), fold_avx2(a3, b3))))

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

#endif
