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
#include "dist_gate.h"

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

VX_INLINE __m512i step_difference_avx512(__m512i acc, __m512i q, __m512i r)
{
    const __m512i d = _mm512_sub_epi8(_mm512_max_epu8(q, r), _mm512_min_epu8(q, r));
    acc = step_square_avx512(acc, _mm512_unpacklo_epi8(d, _mm512_setzero_si512()));
    return step_square_avx512(acc, _mm512_unpackhi_epi8(d, _mm512_setzero_si512()));
}

VX_INLINE __m512i step_u8_avx512(__m512i acc, __m512i q, const uint8_t *x)
{
    return step_difference_avx512(acc, q, _mm512_load_si512(x));
}

/* Four sums of 16 numbers each: transposed in pairs, then lanes. */
VX_INLINE __m128i sum4_epi32_avx512(__m512i a0, __m512i a1, __m512i a2, __m512i a3)
{
    const __m512i s01 =
        _mm512_add_epi32(_mm512_unpacklo_epi32(a0, a1), _mm512_unpackhi_epi32(a0, a1));
    const __m512i s23 =
        _mm512_add_epi32(_mm512_unpacklo_epi32(a2, a3), _mm512_unpackhi_epi32(a2, a3));
    const __m512i s =
        _mm512_add_epi32(_mm512_unpacklo_epi64(s01, s23), _mm512_unpackhi_epi64(s01, s23));
    const __m256i h = _mm256_add_epi32(_mm512_castsi512_si256(s), _mm512_extracti64x4_epi64(s, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
}

/* GCC's _mm512_reduce_add_epi32 adds signed numbers, whose overflow C leaves undefined;
 * these sums fill all 32 bits. */
VX_INLINE uint32_t sum_u32_avx512(__m512i a)
{
    const __m256i h = _mm256_add_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1));
    return (uint32_t)_mm_cvtsi128_si32(s);
}

VX_INLINE uint32_t u8l2sq_1(const uint8_t *q, const uint8_t *x, size_t n)
{
    __m512i a = _mm512_setzero_si512();
    for (size_t i = 0; i < n; i += 64)
        a = step_u8_avx512(a, _mm512_load_si512(q + i), x + i);
    return sum_u32_avx512(a);
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
    _mm_storeu_si128((__m128i *)(void *)out, sum4_epi32_avx512(a0, a1, a2, a3));
}

VX_INLINE void project_rows(const int8_t *matrix, const uint8_t *code, size_t row_bytes, size_t n,
                            int32_t *out)
{
    size_t r = 0;
#ifdef VX_HAS_VNNI
    for (; r + 4 <= n; r += 4) {
        const int8_t *row = matrix + r * row_bytes;
        __m512i a0 = _mm512_setzero_si512(), a1 = a0, a2 = a0, a3 = a0;
        for (size_t i = 0; i < row_bytes; i += 64) {
            const __m512i c = _mm512_load_si512(code + i);
            a0 = _mm512_dpbusd_epi32(a0, c, _mm512_load_si512(row + i));
            a1 = _mm512_dpbusd_epi32(a1, c, _mm512_load_si512(row + row_bytes + i));
            a2 = _mm512_dpbusd_epi32(a2, c, _mm512_load_si512(row + 2 * row_bytes + i));
            a3 = _mm512_dpbusd_epi32(a3, c, _mm512_load_si512(row + 3 * row_bytes + i));
        }
        _mm_storeu_si128((__m128i *)(void *)(out + r), sum4_epi32_avx512(a0, a1, a2, a3));
    }
#endif
    for (; r < n; r++) {
        const int8_t *row = matrix + r * row_bytes;
        __m512i acc = _mm512_setzero_si512();
        for (size_t i = 0; i < row_bytes; i += 32) {
            const __m256i m = _mm256_load_si256((const __m256i *)(const void *)(row + i));
            const __m256i c = _mm256_load_si256((const __m256i *)(const void *)(code + i));
            acc = _mm512_add_epi32(
                acc, _mm512_madd_epi16(_mm512_cvtepi8_epi16(m), _mm512_cvtepu8_epi16(c)));
        }
        out[r] = (int32_t)sum_u32_avx512(acc);
    }
}

VX_INLINE __m512i step_u4_avx512(__m512i acc, __m512i q_lo, __m512i q_hi, const uint8_t *x)
{
    const __m512i high = _mm512_set1_epi8((char)0xF0);
    const __m512i both = _mm512_load_si512(x);
    const __m512i lo = _mm512_and_si512(_mm512_slli_epi16(both, 4), high);
    const __m512i hi = _mm512_and_si512(both, high);
    acc = step_difference_avx512(acc, q_lo, lo);
    return step_difference_avx512(acc, q_hi, hi);
}

VX_INLINE uint32_t u4l2sq_1(const uint8_t *q, const uint8_t *x, size_t n)
{
    __m512i acc = _mm512_setzero_si512();
    for (size_t h = 0; h < n; h += 64)
        acc = step_u4_avx512(acc, _mm512_load_si512(q + 2 * h), _mm512_load_si512(q + 2 * h + 64),
                             x + h);
    return sum_u32_avx512(acc);
}

VX_INLINE void u4l2sq_4(const uint8_t *q, const uint8_t *const x[4], size_t n, uint32_t out[4])
{
    __m512i a0 = _mm512_setzero_si512(), a1 = a0, a2 = a0, a3 = a0;
    for (size_t h = 0; h < n; h += 64) {
        const __m512i lo = _mm512_load_si512(q + 2 * h), hi = _mm512_load_si512(q + 2 * h + 64);
        a0 = step_u4_avx512(a0, lo, hi, x[0] + h);
        a1 = step_u4_avx512(a1, lo, hi, x[1] + h);
        a2 = step_u4_avx512(a2, lo, hi, x[2] + h);
        a3 = step_u4_avx512(a3, lo, hi, x[3] + h);
    }
    _mm_storeu_si128((__m128i *)(void *)out, sum4_epi32_avx512(a0, a1, a2, a3));
}

/* Squares of differences of at most 15, added. */
VX_INLINE __m512i step_square4_avx512(__m512i acc, __m512i d)
{
    d = _mm512_abs_epi8(d);
#ifdef VX_HAS_VNNI
    return _mm512_dpbusd_epi32(acc, d, d);
#else
    return _mm512_add_epi32(
        acc, _mm512_madd_epi16(_mm512_maddubs_epi16(d, d), _mm512_set1_epi16(1)));
#endif
}

VX_INLINE __m512i step_n4_avx512(__m512i acc, __m512i q_lo, __m512i q_hi, const uint8_t *x)
{
    const __m512i low = _mm512_set1_epi8(15), both = _mm512_load_si512(x);
    acc = step_square4_avx512(acc, _mm512_sub_epi8(q_lo, _mm512_and_si512(both, low)));
    return step_square4_avx512(
        acc,
        _mm512_sub_epi8(q_hi, _mm512_and_si512(_mm512_srli_epi16(both, 4), low)));
}

VX_INLINE uint32_t n4l2sq_1(const uint8_t *q, const uint8_t *x, size_t n)
{
    const __m512i low = _mm512_set1_epi8(15);
    __m512i acc = _mm512_setzero_si512();
    for (size_t i = 0; i < n; i += 64) {
        const __m512i both = _mm512_load_si512(q + i);
        acc = step_n4_avx512(acc, _mm512_and_si512(both, low),
                             _mm512_and_si512(_mm512_srli_epi16(both, 4), low), x + i);
    }
    return sum_u32_avx512(acc);
}

VX_INLINE void n4l2sq_4(const uint8_t *q, const uint8_t *const x[4], size_t n, uint32_t out[4])
{
    const __m512i low = _mm512_set1_epi8(15);
    __m512i a0 = _mm512_setzero_si512(), a1 = a0, a2 = a0, a3 = a0;
    for (size_t i = 0; i < n; i += 64) {
        const __m512i both = _mm512_load_si512(q + i);
        const __m512i lo = _mm512_and_si512(both, low);
        const __m512i hi = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
        a0 = step_n4_avx512(a0, lo, hi, x[0] + i);
        a1 = step_n4_avx512(a1, lo, hi, x[1] + i);
        a2 = step_n4_avx512(a2, lo, hi, x[2] + i);
        a3 = step_n4_avx512(a3, lo, hi, x[3] + i);
    }
    _mm_storeu_si128((__m128i *)(void *)out, sum4_epi32_avx512(a0, a1, a2, a3));
}

/* The four 128-bit lanes of 16-bit numbers, added. */
VX_INLINE __m128i fold_epi16_avx512(__m512i a)
{
    const __m256i h = _mm256_add_epi16(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    return _mm_add_epi16(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
}

/* Bit i: is the estimate of edge i, of 16, below the limit?  The sums come as even
 * edges with the odd ones' carried above, and odd edges alone. */
VX_INLINE uint32_t gate_16_avx512(__m128i whole, __m128i odd, const uint16_t *factors,
                                  __m512 step, __m512 shift, __m512 limit)
{
    const __m128i even = _mm_sub_epi16(whole, _mm_slli_epi16(odd, 8));
    const __m256i sums = _mm256_set_m128i(_mm_unpackhi_epi16(even, odd),
                                          _mm_unpacklo_epi16(even, odd));
    const __m512 a =
        _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(const void *)factors));
    const __m512 b =
        _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(const void *)(factors + 32)));
    const __m512 sum = _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(sums));
    const __m512 x = _mm512_add_ps(_mm512_mul_ps(sum, step), shift);
    const __m512 estimate = _mm512_add_ps(a, _mm512_mul_ps(b, x));
    return _mm512_cmp_ps_mask(estimate, limit, _CMP_LT_OQ);
}

VX_INLINE uint32_t gate_32(const vx_gate *gate, const char *group, float step, float shift,
                           float limit)
{
    const uint16_t *factors = (const uint16_t *)(const void *)group;
    const uint8_t *bits = (const uint8_t *)group + 128;
    const __m512i low = _mm512_set1_epi8(15);
    __m512i lo = _mm512_setzero_si512(), lo_odd = lo, hi = lo, hi_odd = lo;
    for (uint32_t i = 0; i < 16 * gate->n_tables; i += 64) {
        const __m512i codes = _mm512_load_si512(bits + i);
        const __m512i table = _mm512_load_si512(gate->tables + i);
        const __m512i a = _mm512_shuffle_epi8(table, _mm512_and_si512(codes, low));
        const __m512i b =
            _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(codes, 4), low));
        lo = _mm512_add_epi16(lo, a);
        lo_odd = _mm512_add_epi16(lo_odd, _mm512_srli_epi16(a, 8));
        hi = _mm512_add_epi16(hi, b);
        hi_odd = _mm512_add_epi16(hi_odd, _mm512_srli_epi16(b, 8));
    }
    const __m512 steps = _mm512_set1_ps(step), by = _mm512_set1_ps(shift);
    const __m512 under = _mm512_set1_ps(limit);
    return gate_16_avx512(fold_epi16_avx512(lo), fold_epi16_avx512(lo_odd), factors, steps, by,
                          under) |
           gate_16_avx512(fold_epi16_avx512(hi), fold_epi16_avx512(hi_odd), factors + 16, steps, by,
                          under) << 16;
}

/* ---- rows that are not float32: see dist_mixed.h --------------------------------- */

#define MIXED VX_INLINE
#define WIDE 16
typedef __m512 wide;

VX_INLINE wide wide_zero(void) { return _mm512_setzero_ps(); }
VX_INLINE float wide_sum(wide a, wide b) { return sum4_avx512(fold_avx512(a, b)); }

VX_INLINE wide wide_l2sq(wide acc, wide q, wide x)
{
    const __m512 d = _mm512_sub_ps(q, x);
    return _mm512_fmadd_ps(d, d, acc);
}

VX_INLINE wide wide_dot(wide acc, wide q, wide x) { return _mm512_fmadd_ps(q, x, acc); }

VX_INLINE __m256i load_32_avx512(const void *at) { return _mm256_load_si256((const __m256i *)at); }
VX_INLINE __m128i load_16_avx512(const void *at) { return _mm_load_si128((const __m128i *)at); }

VX_INLINE wide wide_f32(const float *p) { return _mm512_load_ps(p); }
VX_INLINE wide wide_f16(const uint16_t *p) { return _mm512_cvtph_ps(load_32_avx512(p)); }
VX_INLINE wide wide_bf16(const uint16_t *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_32_avx512(p)), 16));
}
VX_INLINE wide wide_i8(const int8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_16_avx512(p)));
}
VX_INLINE wide wide_u8(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load_16_avx512(p)));
}

typedef __m512i whole;

VX_INLINE whole whole_zero(void) { return _mm512_setzero_si512(); }
VX_INLINE uint32_t whole_sum(whole a) { return sum_u32_avx512(a); }

VX_INLINE whole whole_i8_l2sq(whole acc, const int8_t *q, const int8_t *x)
{
    const __m512i a = _mm512_load_si512(q), b = _mm512_load_si512(x);
    const __m512i d = _mm512_sub_epi8(_mm512_max_epi8(a, b), _mm512_min_epi8(a, b));
    acc = step_square_avx512(acc, _mm512_unpacklo_epi8(d, _mm512_setzero_si512()));
    return step_square_avx512(acc, _mm512_unpackhi_epi8(d, _mm512_setzero_si512()));
}

/* Products of 16-bit numbers, added in pairs.  (VPDPBUSD takes twice as many bytes, but
 * one side of it has to be signed and the other not.) */
VX_INLINE __m512i step_product_avx512(__m512i acc, __m512i a, __m512i b)
{
#ifdef VX_HAS_VNNI
    return _mm512_dpwssd_epi32(acc, a, b);
#else
    return _mm512_add_epi32(acc, _mm512_madd_epi16(a, b));
#endif
}

VX_INLINE whole whole_i8_dot(whole acc, const int8_t *q, const int8_t *x)
{
    for (size_t i = 0; i < 64; i += 32)
        acc = step_product_avx512(acc, _mm512_cvtepi8_epi16(load_32_avx512(q + i)),
                                  _mm512_cvtepi8_epi16(load_32_avx512(x + i)));
    return acc;
}

VX_INLINE whole whole_u8_dot(whole acc, const uint8_t *q, const uint8_t *x)
{
    for (size_t i = 0; i < 64; i += 32)
        acc = step_product_avx512(acc, _mm512_cvtepu8_epi16(load_32_avx512(q + i)),
                                  _mm512_cvtepu8_epi16(load_32_avx512(x + i)));
    return acc;
}

#include "dist_mixed.h"

/* ---- packed bits: see dist_bits.h ------------------------------------------------- */

#define BITS(name) bits_##name
#define BITS_FN VX_INLINE
typedef __m512i vx_bits;

VX_INLINE vx_bits bits_zero(void) { return _mm512_setzero_si512(); }
VX_INLINE uint32_t bits_sum(vx_bits a) { return sum_u32_avx512(a); }
VX_INLINE void bits_sum_4(vx_bits a0, vx_bits a1, vx_bits a2, vx_bits a3, uint32_t out[4])
{
    _mm_storeu_si128((__m128i *)(void *)out, sum4_epi32_avx512(a0, a1, a2, a3));
}

/* Of each byte, by its halves, from a table. */
VX_INLINE vx_bits count_avx512(vx_bits acc, __m512i x)
{
    const __m512i low = _mm512_set1_epi8(15);
    const __m512i table = _mm512_broadcast_i32x4(
        _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m512i counts = _mm512_add_epi8(
        _mm512_shuffle_epi8(table, _mm512_and_si512(x, low)),
        _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(x, 4), low)));
    return _mm512_add_epi64(acc, _mm512_sad_epu8(counts, _mm512_setzero_si512()));
}

VX_INLINE vx_bits bits_xor(vx_bits acc, const char *q, const char *x)
{
    return count_avx512(acc, _mm512_xor_si512(_mm512_load_si512(q), _mm512_load_si512(x)));
}

VX_INLINE vx_bits bits_or(vx_bits acc, const char *q, const char *x)
{
    return count_avx512(acc, _mm512_or_si512(_mm512_load_si512(q), _mm512_load_si512(x)));
}

#include "dist_bits.h"

/* The same by an instruction that some CPUs of the level have (vx_cpu_has_vpopcnt): no file
 * is compiled with its flag, so that it is nowhere else. */
#ifdef VX_HAS_VPOPCNT
#define VPOPCNT VX_TARGET("avx512vpopcntdq")
#define BITS(name) vpopcnt_##name
#define BITS_FN static VPOPCNT

VX_INLINE vx_bits vpopcnt_zero(void) { return _mm512_setzero_si512(); }
VX_INLINE uint32_t vpopcnt_sum(vx_bits a) { return sum_u32_avx512(a); }
VX_INLINE void vpopcnt_sum_4(vx_bits a0, vx_bits a1, vx_bits a2, vx_bits a3, uint32_t out[4])
{
    bits_sum_4(a0, a1, a2, a3, out);
}

VX_INLINE VPOPCNT vx_bits vpopcnt_xor(vx_bits acc, const char *q, const char *x)
{
    const __m512i both = _mm512_xor_si512(_mm512_load_si512(q), _mm512_load_si512(x));
    return _mm512_add_epi64(acc, _mm512_popcnt_epi64(both));
}

VX_INLINE VPOPCNT vx_bits vpopcnt_or(vx_bits acc, const char *q, const char *x)
{
    const __m512i both = _mm512_or_si512(_mm512_load_si512(q), _mm512_load_si512(x));
    return _mm512_add_epi64(acc, _mm512_popcnt_epi64(both));
}

#include "dist_bits.h"
#endif

#endif
