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

#endif
