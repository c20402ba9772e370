/* dist_bits.h - distances of packed bits, as a template.
 *
 * Each dist_<isa>.h includes this at its end, having defined
 *
 *   BITS(name)         what the functions are called
 *   BITS_FN            VX_INLINE, or what else they are to be
 *   vx_bits, BITS(zero)()
 *                      counts of bits
 *   BITS(xor)(acc, q, x), BITS(or)(acc, q, x)
 *                      acc, and the bits set in what the 64 bytes at q and x are together
 *   BITS(sum)(a), BITS(sum_4)(a0, a1, a2, a3, out)
 *                      totals
 *
 * and gets the functions below.  n counts bytes and is a multiple of 64; a row holds at most
 * 8,192.  All is whole numbers until the one division, so every level has the same
 * distances. */

/* The two counts have one in common, the bits of one side only; both empty: no distance. */
#ifndef DIST_BITS_H
#define DIST_BITS_H
VX_INLINE float jaccard_of(uint32_t differ, uint32_t any)
{
    return any > 0 ? (float)differ / (float)any : 0.0f;
}
#endif

BITS_FN float BITS(hamming_1)(const char *q, const char *x, size_t n)
{
    vx_bits acc = BITS(zero)();
    for (size_t i = 0; i < n; i += 64)
        acc = BITS(xor)(acc, q + i, x + i);
    return (float)BITS(sum)(acc);
}

BITS_FN void BITS(hamming_4)(const char *q, const char *const rows[4], size_t n, float out[4])
{
    const char *x0 = rows[0], *x1 = rows[1], *x2 = rows[2], *x3 = rows[3];
    vx_bits a0 = BITS(zero)(), a1 = a0, a2 = a0, a3 = a0;
    uint32_t sums[4];
    for (size_t i = 0; i < n; i += 64) {
        a0 = BITS(xor)(a0, q + i, x0 + i);
        a1 = BITS(xor)(a1, q + i, x1 + i);
        a2 = BITS(xor)(a2, q + i, x2 + i);
        a3 = BITS(xor)(a3, q + i, x3 + i);
    }
    BITS(sum_4)(a0, a1, a2, a3, sums);
    for (int i = 0; i < 4; i++)
        out[i] = (float)sums[i];
}

BITS_FN float BITS(jaccard_1)(const char *q, const char *x, size_t n)
{
    vx_bits differ = BITS(zero)(), any = differ;
    for (size_t i = 0; i < n; i += 64) {
        differ = BITS(xor)(differ, q + i, x + i);
        any = BITS(or)(any, q + i, x + i);
    }
    return jaccard_of(BITS(sum)(differ), BITS(sum)(any));
}

BITS_FN void BITS(jaccard_4)(const char *q, const char *const rows[4], size_t n, float out[4])
{
    const char *x0 = rows[0], *x1 = rows[1], *x2 = rows[2], *x3 = rows[3];
    vx_bits a0 = BITS(zero)(), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
    uint32_t differ[4], any[4];
    for (size_t i = 0; i < n; i += 64) {
        a0 = BITS(xor)(a0, q + i, x0 + i);
        a1 = BITS(xor)(a1, q + i, x1 + i);
        a2 = BITS(xor)(a2, q + i, x2 + i);
        a3 = BITS(xor)(a3, q + i, x3 + i);
        b0 = BITS(or)(b0, q + i, x0 + i);
        b1 = BITS(or)(b1, q + i, x1 + i);
        b2 = BITS(or)(b2, q + i, x2 + i);
        b3 = BITS(or)(b3, q + i, x3 + i);
    }
    BITS(sum_4)(a0, a1, a2, a3, differ);
    BITS(sum_4)(b0, b1, b2, b3, any);
    for (int i = 0; i < 4; i++)
        out[i] = jaccard_of(differ[i], any[i]);
}

#undef BITS
#undef BITS_FN
