/* dist_avx2.h - distances for x86-64 with AVX2 and FMA.
 *
 * Contract: dist_scalar.h.  Two sums a row: an FMA takes 4 cycles and two start
 * a cycle, but four rows at once already give eight chains, and sixteen
 * registers hold no more. */
#ifndef DIST_AVX2_H
#define DIST_AVX2_H

#include <immintrin.h>

#include "../base/vx_base.h"
#include "dist_gate.h"

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

VX_INLINE __m256i load_u8_avx2(const uint8_t *at)
{
    return _mm256_load_si256((const __m256i *)(const void *)at);
}

/* |q - r| of bytes, widened to 16 bits and squared by VPMADDWD. */
VX_INLINE __m256i step_u8_avx2(__m256i acc, __m256i q, __m256i r)
{
    const __m256i d = _mm256_or_si256(_mm256_subs_epu8(q, r), _mm256_subs_epu8(r, q));
    const __m256i lo = _mm256_unpacklo_epi8(d, _mm256_setzero_si256());
    const __m256i hi = _mm256_unpackhi_epi8(d, _mm256_setzero_si256());
    acc = _mm256_add_epi32(acc, _mm256_madd_epi16(lo, lo));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(hi, hi));
}

VX_INLINE uint32_t sum_u32_avx2(__m256i a)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1));
    return (uint32_t)_mm_cvtsi128_si32(s);
}

/* The sums of four. */
VX_INLINE __m128i sums_4_avx2(const __m256i a[4])
{
    const __m256i s = _mm256_hadd_epi32(_mm256_hadd_epi32(a[0], a[1]), _mm256_hadd_epi32(a[2], a[3]));
    return _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
}

VX_INLINE uint32_t u8l2sq_1(const uint8_t *q, const uint8_t *x, size_t n)
{
    __m256i a = _mm256_setzero_si256(), b = a;
    for (size_t i = 0; i < n; i += 64) {
        a = step_u8_avx2(a, load_u8_avx2(q + i), load_u8_avx2(x + i));
        b = step_u8_avx2(b, load_u8_avx2(q + i + 32), load_u8_avx2(x + i + 32));
    }
    return sum_u32_avx2(_mm256_add_epi32(a, b));
}

VX_INLINE void u8l2sq_4(const uint8_t *q, const uint8_t *const x[4], size_t n, uint32_t out[4])
{
    __m256i a[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                    _mm256_setzero_si256()};
    for (size_t i = 0; i < n; i += 32) {
        const __m256i r = load_u8_avx2(q + i);
        a[0] = step_u8_avx2(a[0], r, load_u8_avx2(x[0] + i));
        a[1] = step_u8_avx2(a[1], r, load_u8_avx2(x[1] + i));
        a[2] = step_u8_avx2(a[2], r, load_u8_avx2(x[2] + i));
        a[3] = step_u8_avx2(a[3], r, load_u8_avx2(x[3] + i));
    }
    _mm_storeu_si128((__m128i *)(void *)out, sums_4_avx2(a));
}

/* Sums of four products.  VPMADDUBSW would saturate by bytes above 127: by halves of them, and
 * what halving loses apart. */
VX_INLINE __m256i products_avx2(__m256i code, const int8_t *row)
{
    const __m256i one = _mm256_set1_epi8(1);
    const __m256i m = _mm256_load_si256((const __m256i *)(const void *)row);
    const __m256i half = _mm256_and_si256(_mm256_srli_epi16(code, 1), _mm256_set1_epi8(127));
    const __m256i of_halves = _mm256_maddubs_epi16(half, m);
    const __m256i of_rest = _mm256_maddubs_epi16(_mm256_and_si256(code, one), m);
    return _mm256_add_epi32(_mm256_madd_epi16(of_halves, _mm256_set1_epi16(2)),
                            _mm256_madd_epi16(of_rest, _mm256_set1_epi16(1)));
}

VX_INLINE void project_4_avx2(const int8_t *rows, const uint8_t *code, size_t row_bytes,
                              int32_t *out)
{
    __m256i a[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                    _mm256_setzero_si256()};
    for (size_t i = 0; i < row_bytes; i += 32) {
        const __m256i c = load_u8_avx2(code + i);
        for (int j = 0; j < 4; j++)
            a[j] = _mm256_add_epi32(a[j], products_avx2(c, rows + (size_t)j * row_bytes + i));
    }
    _mm_storeu_si128((__m128i *)(void *)out, sums_4_avx2(a));
}

VX_INLINE void project_rows(const int8_t *matrix, const uint8_t *code, size_t row_bytes, size_t n,
                            int32_t *out)
{
    size_t r = 0;
    for (; r + 4 <= n; r += 4)
        project_4_avx2(matrix + r * row_bytes, code, row_bytes, out + r);
    for (; r < n; r++) {
        __m256i acc = _mm256_setzero_si256();
        for (size_t i = 0; i < row_bytes; i += 32)
            acc = _mm256_add_epi32(acc, products_avx2(load_u8_avx2(code + i),
                                                      matrix + r * row_bytes + i));
        out[r] = (int32_t)sum_u32_avx2(acc);
    }
}

VX_INLINE uint32_t u4l2sq_1(const uint8_t *q, const uint8_t *x, size_t n)
{
    const __m256i high = _mm256_set1_epi8((char)0xF0);
    __m256i acc = _mm256_setzero_si256();
    for (size_t h = 0; h < n; h += 64)
        for (size_t i = 0; i < 64; i += 32) {
            const __m256i both = load_u8_avx2(x + h + i);
            const __m256i lo = _mm256_and_si256(_mm256_slli_epi16(both, 4), high);
            const __m256i hi = _mm256_and_si256(both, high);
            acc = step_u8_avx2(acc, load_u8_avx2(q + 2 * h + i), lo);
            acc = step_u8_avx2(acc, load_u8_avx2(q + 2 * h + 64 + i), hi);
        }
    return sum_u32_avx2(acc);
}

/* For a line of a row: the sum of 256 l l - 32 q l over its halves of bytes l, eight 32-bit
 * parts; with q q that is (q - 16 l)^2.  Of four q l at most 16 bits are needed. */
VX_INLINE __m256i cross_u4_avx2(const __m256i q[4], const uint8_t *x)
{
    const __m256i low = _mm256_set1_epi8(15);
    __m256i products = _mm256_setzero_si256(), squares = products;
    for (int i = 0; i < 2; i++) {
        const __m256i both = load_u8_avx2(x + 32 * i);
        const __m256i lo = _mm256_and_si256(both, low);
        const __m256i hi = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
        products = _mm256_add_epi16(products, _mm256_add_epi16(_mm256_maddubs_epi16(q[i], lo),
                                                               _mm256_maddubs_epi16(q[i + 2], hi)));
        squares = _mm256_add_epi16(squares, _mm256_add_epi16(_mm256_maddubs_epi16(lo, lo),
                                                             _mm256_maddubs_epi16(hi, hi)));
    }
    /* 8 l l - q l is no more than 16 bits either way. */
    return _mm256_madd_epi16(_mm256_sub_epi16(_mm256_slli_epi16(squares, 3), products),
                             _mm256_set1_epi16(32));
}

VX_INLINE void u4l2sq_4(const uint8_t *q, const uint8_t *const x[4], size_t n, uint32_t out[4])
{
    const __m256i zero = _mm256_setzero_si256();
    __m256i own = zero, a[4] = {zero, zero, zero, zero};
    for (size_t h = 0; h < n; h += 64) {
        __m256i line[4];
        for (int i = 0; i < 4; i++) {
            line[i] = load_u8_avx2(q + 2 * h + 32 * (size_t)i);
            own = step_u8_avx2(own, line[i], zero);
        }
        for (int j = 0; j < 4; j++)
            a[j] = _mm256_add_epi32(a[j], cross_u4_avx2(line, x[j] + h));
    }
    for (int j = 0; j < 4; j++)
        a[j] = _mm256_add_epi32(a[j], own);
    _mm_storeu_si128((__m128i *)(void *)out, sums_4_avx2(a));
}

/* Differences of at most 15: four of their squares fit 16 bits. */
VX_INLINE __m256i step_n4_avx2(__m256i acc, __m256i q, const uint8_t *x)
{
    const __m256i low = _mm256_set1_epi8(15), both = load_u8_avx2(x);
    const __m256i a = _mm256_abs_epi8(
        _mm256_sub_epi8(_mm256_and_si256(q, low), _mm256_and_si256(both, low)));
    const __m256i b =
        _mm256_abs_epi8(_mm256_sub_epi8(_mm256_and_si256(_mm256_srli_epi16(q, 4), low),
                                        _mm256_and_si256(_mm256_srli_epi16(both, 4), low)));
    const __m256i squares =
        _mm256_add_epi16(_mm256_maddubs_epi16(a, a), _mm256_maddubs_epi16(b, b));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(squares, _mm256_set1_epi16(1)));
}

VX_INLINE uint32_t n4l2sq_1(const uint8_t *q, const uint8_t *x, size_t n)
{
    __m256i acc = _mm256_setzero_si256();
    for (size_t i = 0; i < n; i += 32)
        acc = step_n4_avx2(acc, load_u8_avx2(q + i), x + i);
    return sum_u32_avx2(acc);
}

VX_INLINE void n4l2sq_4(const uint8_t *q, const uint8_t *const x[4], size_t n, uint32_t out[4])
{
    for (int i = 0; i < 4; i++)
        out[i] = n4l2sq_1(q, x[i], n);
}

/* Bit i: is the estimate of edge i, of 8, below the limit? */
VX_INLINE uint32_t gate_8_avx2(__m128i sums, const uint16_t *factors, __m256 step, __m256 shift,
                               __m256 limit)
{
    const __m256 a =
        _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(const void *)factors));
    const __m256 b =
        _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(const void *)(factors + 32)));
    const __m256 sum = _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(sums));
    const __m256 x = _mm256_add_ps(_mm256_mul_ps(sum, step), shift);
    const __m256 estimate = _mm256_add_ps(a, _mm256_mul_ps(b, x));
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(estimate, limit, _CMP_LT_OQ));
}

VX_INLINE uint32_t gate_32(const vx_gate *gate, const char *group, float step, float shift,
                           float limit)
{
    const uint16_t *factors = (const uint16_t *)(const void *)group;
    const uint8_t *bits = (const uint8_t *)group + 128;
    const __m256i low = _mm256_set1_epi8(15);
    /* Two tables at a time.  16-bit sums: whole, with the odd bytes' carried above,
     * and of the odd bytes alone. */
    __m256i lo = _mm256_setzero_si256(), lo_odd = lo, hi = lo, hi_odd = lo;
    for (uint32_t i = 0; i < 16 * gate->n_tables; i += 32) {
        const __m256i codes = load_u8_avx2(bits + i), table = load_u8_avx2(gate->tables + i);
        const __m256i a = _mm256_shuffle_epi8(table, _mm256_and_si256(codes, low));
        const __m256i b =
            _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(codes, 4), low));
        lo = _mm256_add_epi16(lo, a);
        lo_odd = _mm256_add_epi16(lo_odd, _mm256_srli_epi16(a, 8));
        hi = _mm256_add_epi16(hi, b);
        hi_odd = _mm256_add_epi16(hi_odd, _mm256_srli_epi16(b, 8));
    }
    const __m256i lo_even = _mm256_sub_epi16(lo, _mm256_slli_epi16(lo_odd, 8));
    const __m256i hi_even = _mm256_sub_epi16(hi, _mm256_slli_epi16(hi_odd, 8));
    const __m128i le = _mm_add_epi16(_mm256_castsi256_si128(lo_even),
                                     _mm256_extracti128_si256(lo_even, 1));
    const __m128i lodd = _mm_add_epi16(_mm256_castsi256_si128(lo_odd),
                                       _mm256_extracti128_si256(lo_odd, 1));
    const __m128i he = _mm_add_epi16(_mm256_castsi256_si128(hi_even),
                                     _mm256_extracti128_si256(hi_even, 1));
    const __m128i hodd = _mm_add_epi16(_mm256_castsi256_si128(hi_odd),
                                       _mm256_extracti128_si256(hi_odd, 1));
    const __m256 steps = _mm256_set1_ps(step), by = _mm256_set1_ps(shift);
    const __m256 under = _mm256_set1_ps(limit);
    return gate_8_avx2(_mm_unpacklo_epi16(le, lodd), factors, steps, by, under) |
           gate_8_avx2(_mm_unpackhi_epi16(le, lodd), factors + 8, steps, by, under) << 8 |
           gate_8_avx2(_mm_unpacklo_epi16(he, hodd), factors + 16, steps, by, under) << 16 |
           gate_8_avx2(_mm_unpackhi_epi16(he, hodd), factors + 24, steps, by, under) << 24;
}

/* ---- rows that are not float32: see dist_mixed.h --------------------------------- */

#define MIXED VX_INLINE
#define WIDE 8
typedef __m256 wide;

VX_INLINE wide wide_zero(void) { return _mm256_setzero_ps(); }
VX_INLINE float wide_sum(wide a, wide b) { return sum4_avx2(fold_avx2(a, b)); }

VX_INLINE wide wide_l2sq(wide acc, wide q, wide x)
{
    const __m256 d = _mm256_sub_ps(q, x);
    return _mm256_fmadd_ps(d, d, acc);
}

VX_INLINE wide wide_dot(wide acc, wide q, wide x) { return _mm256_fmadd_ps(q, x, acc); }

VX_INLINE __m128i load_16_avx2(const void *at) { return _mm_load_si128((const __m128i *)at); }
VX_INLINE __m128i load_8_avx2(const void *at) { return _mm_loadl_epi64((const __m128i *)at); }

VX_INLINE wide wide_f32(const float *p) { return _mm256_load_ps(p); }
VX_INLINE wide wide_f16(const uint16_t *p) { return _mm256_cvtph_ps(load_16_avx2(p)); }
VX_INLINE wide wide_bf16(const uint16_t *p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_16_avx2(p)), 16));
}
VX_INLINE wide wide_i8(const int8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load_8_avx2(p)));
}
VX_INLINE wide wide_u8(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(load_8_avx2(p)));
}

typedef __m256i whole;

VX_INLINE whole whole_zero(void) { return _mm256_setzero_si256(); }
VX_INLINE uint32_t whole_sum(whole a) { return sum_u32_avx2(a); }

VX_INLINE whole whole_i8_l2sq(whole acc, const int8_t *q, const int8_t *x)
{
    for (size_t i = 0; i < 64; i += 32) {
        const __m256i a = _mm256_load_si256((const __m256i *)(const void *)(q + i));
        const __m256i b = _mm256_load_si256((const __m256i *)(const void *)(x + i));
        const __m256i d = _mm256_sub_epi8(_mm256_max_epi8(a, b), _mm256_min_epi8(a, b));
        const __m256i lo = _mm256_unpacklo_epi8(d, _mm256_setzero_si256());
        const __m256i hi = _mm256_unpackhi_epi8(d, _mm256_setzero_si256());
        acc = _mm256_add_epi32(acc, _mm256_madd_epi16(lo, lo));
        acc = _mm256_add_epi32(acc, _mm256_madd_epi16(hi, hi));
    }
    return acc;
}

VX_INLINE whole whole_i8_dot(whole acc, const int8_t *q, const int8_t *x)
{
    for (size_t i = 0; i < 64; i += 16)
        acc = _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_cvtepi8_epi16(load_16_avx2(q + i)),
                                                      _mm256_cvtepi8_epi16(load_16_avx2(x + i))));
    return acc;
}

VX_INLINE whole whole_u8_dot(whole acc, const uint8_t *q, const uint8_t *x)
{
    for (size_t i = 0; i < 64; i += 16)
        acc = _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_cvtepu8_epi16(load_16_avx2(q + i)),
                                                      _mm256_cvtepu8_epi16(load_16_avx2(x + i))));
    return acc;
}

#include "dist_mixed.h"

/* ---- packed bits: see dist_bits.h ------------------------------------------------- */

#define BITS(name) bits_##name
#define BITS_FN VX_INLINE
typedef __m256i vx_bits;

VX_INLINE vx_bits bits_zero(void) { return _mm256_setzero_si256(); }
VX_INLINE uint32_t bits_sum(vx_bits a) { return sum_u32_avx2(a); }

VX_INLINE void bits_sum_4(vx_bits a0, vx_bits a1, vx_bits a2, vx_bits a3, uint32_t out[4])
{
    const __m256i s = _mm256_hadd_epi32(_mm256_hadd_epi32(a0, a1), _mm256_hadd_epi32(a2, a3));
    _mm_storeu_si128((__m128i *)(void *)out, _mm_add_epi32(_mm256_castsi256_si128(s),
                                                           _mm256_extracti128_si256(s, 1)));
}

/* Of each byte, by its halves, from a table. */
VX_INLINE __m256i count_bytes_avx2(__m256i x)
{
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i table = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    return _mm256_add_epi8(
        _mm256_shuffle_epi8(table, _mm256_and_si256(x, low)),
        _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(x, 4), low)));
}

VX_INLINE vx_bits count_avx2(vx_bits acc, __m256i a, __m256i b)
{
    const __m256i counts = _mm256_add_epi8(count_bytes_avx2(a), count_bytes_avx2(b));
    return _mm256_add_epi64(acc, _mm256_sad_epu8(counts, _mm256_setzero_si256()));
}

VX_INLINE __m256i load_bits_avx2(const char *at)
{
    return _mm256_load_si256((const __m256i *)(const void *)at);
}

VX_INLINE vx_bits bits_xor(vx_bits acc, const char *q, const char *x)
{
    return count_avx2(acc, _mm256_xor_si256(load_bits_avx2(q), load_bits_avx2(x)),
                      _mm256_xor_si256(load_bits_avx2(q + 32), load_bits_avx2(x + 32)));
}

VX_INLINE vx_bits bits_or(vx_bits acc, const char *q, const char *x)
{
    return count_avx2(acc, _mm256_or_si256(load_bits_avx2(q), load_bits_avx2(x)),
                      _mm256_or_si256(load_bits_avx2(q + 32), load_bits_avx2(x + 32)));
}

#include "dist_bits.h"

#endif
