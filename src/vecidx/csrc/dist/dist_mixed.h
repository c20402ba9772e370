/* dist_mixed.h - distances of rows that are not float32, as a template.
 *
 * Each dist_<isa>.h includes this at its end, having defined
 *
 *   MIXED              VX_INLINE, or what else the functions are to be
 *   WIDE               floats a register holds, and of such registers
 *   wide, wide_zero(), wide_sum(a, b)          all values of two, added
 *   wide_l2sq(acc, q, x), wide_dot(acc, q, x)  acc + (q - x)^2, acc + q x
 *   wide_f32(p), wide_f16(p), wide_bf16(p), wide_i8(p), wide_u8(p)
 *                      the WIDE values at p, as floats, exactly
 *
 *   whole, whole_zero(), whole_sum(a)          32-bit sums; the total, as 32 bits
 *   whole_i8_l2sq(acc, q, x), whole_i8_dot(...), whole_u8_dot(...)
 *                      the same of the 64 bytes at q and x
 *
 * and gets the functions below.  Their contract is that of dist_scalar.h; n counts
 * values and is a multiple of 32, of whole numbers of 64.  Whole numbers are summed
 * exactly: a row holds at most 65,536. */
#ifndef DIST_MIXED_H
#define DIST_MIXED_H

#define VX_MIXED(name, STEP, QTYPE, QLOAD, XTYPE, XLOAD) \
    MIXED float name##_1(const void *query, const void *row, size_t n) \
    { \
        const QTYPE *q = query; \
        const XTYPE *x = row; \
        wide a = wide_zero(), b = wide_zero(); \
        for (size_t i = 0; i < n; i += 2 * WIDE) { \
            a = STEP(a, QLOAD(q + i), XLOAD(x + i)); \
            b = STEP(b, QLOAD(q + i + WIDE), XLOAD(x + i + WIDE)); \
        } \
        return wide_sum(a, b); \
    } \
    MIXED void name##_4(const void *query, const char *const rows[4], size_t n, float out[4]) \
    { \
        const QTYPE *q = query; \
        const XTYPE *x0 = (const void *)rows[0], *x1 = (const void *)rows[1]; \
        const XTYPE *x2 = (const void *)rows[2], *x3 = (const void *)rows[3]; \
        wide a0 = wide_zero(), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0; \
        for (size_t i = 0; i < n; i += 2 * WIDE) { \
            const wide qa = QLOAD(q + i), qb = QLOAD(q + i + WIDE); \
            a0 = STEP(a0, qa, XLOAD(x0 + i)); \
            a1 = STEP(a1, qa, XLOAD(x1 + i)); \
            a2 = STEP(a2, qa, XLOAD(x2 + i)); \
            a3 = STEP(a3, qa, XLOAD(x3 + i)); \
            b0 = STEP(b0, qb, XLOAD(x0 + i + WIDE)); \
            b1 = STEP(b1, qb, XLOAD(x1 + i + WIDE)); \
            b2 = STEP(b2, qb, XLOAD(x2 + i + WIDE)); \
            b3 = STEP(b3, qb, XLOAD(x3 + i + WIDE)); \
        } \
        out[0] = wide_sum(a0, b0); \
        out[1] = wide_sum(a1, b1); \
        out[2] = wide_sum(a2, b2); \
        out[3] = wide_sum(a3, b3); \
    }

/* Row with row. */
VX_MIXED(f16_l2sq, wide_l2sq, uint16_t, wide_f16, uint16_t, wide_f16)
VX_MIXED(f16_dot, wide_dot, uint16_t, wide_f16, uint16_t, wide_f16)
VX_MIXED(bf16_l2sq, wide_l2sq, uint16_t, wide_bf16, uint16_t, wide_bf16)
VX_MIXED(bf16_dot, wide_dot, uint16_t, wide_bf16, uint16_t, wide_bf16)

/* A float32 query with a row. */
VX_MIXED(q_f16_l2sq, wide_l2sq, float, wide_f32, uint16_t, wide_f16)
VX_MIXED(q_f16_dot, wide_dot, float, wide_f32, uint16_t, wide_f16)
VX_MIXED(q_bf16_l2sq, wide_l2sq, float, wide_f32, uint16_t, wide_bf16)
VX_MIXED(q_bf16_dot, wide_dot, float, wide_f32, uint16_t, wide_bf16)
VX_MIXED(q_i8_l2sq, wide_l2sq, float, wide_f32, int8_t, wide_i8)
VX_MIXED(q_i8_dot, wide_dot, float, wide_f32, int8_t, wide_i8)
VX_MIXED(q_u8_l2sq, wide_l2sq, float, wide_f32, uint8_t, wide_u8)
VX_MIXED(q_u8_dot, wide_dot, float, wide_f32, uint8_t, wide_u8)

#undef VX_MIXED

/* Row with row, exactly. */
#define VX_WHOLE(name, TYPE) \
    MIXED uint32_t name##_1(const void *query, const void *row, size_t n) \
    { \
        const TYPE *q = query, *x = row; \
        whole acc = whole_zero(); \
        for (size_t i = 0; i < n; i += 64) \
            acc = whole_##name(acc, q + i, x + i); \
        return whole_sum(acc); \
    } \
    MIXED void name##_4(const void *query, const char *const rows[4], size_t n, \
                            uint32_t out[4]) \
    { \
        const TYPE *q = query; \
        const TYPE *x0 = (const void *)rows[0], *x1 = (const void *)rows[1]; \
        const TYPE *x2 = (const void *)rows[2], *x3 = (const void *)rows[3]; \
        whole a0 = whole_zero(), a1 = a0, a2 = a0, a3 = a0; \
        for (size_t i = 0; i < n; i += 64) { \
            a0 = whole_##name(a0, q + i, x0 + i); \
            a1 = whole_##name(a1, q + i, x1 + i); \
            a2 = whole_##name(a2, q + i, x2 + i); \
            a3 = whole_##name(a3, q + i, x3 + i); \
        } \
        out[0] = whole_sum(a0); \
        out[1] = whole_sum(a1); \
        out[2] = whole_sum(a2); \
        out[3] = whole_sum(a3); \
    }

VX_WHOLE(i8_l2sq, int8_t)
VX_WHOLE(i8_dot, int8_t)
VX_WHOLE(u8_dot, uint8_t)

#undef VX_WHOLE

#endif
