/* quant_nibble.h - codes of four bits a dimension; part of quant_codec.c.
 *
 * Half a byte says little of a value, so no value may matter more than another: rows, less
 * the mean, are turned by a rotation that mixes dimensions until all of them spread alike.
 * It is made of signs and Hadamard transforms, the way of Ailon and Chazelle (The fast
 * Johnson-Lindenstrauss transform, SIAM J. Comput. 2009), over the first power of two of
 * dimensions and over the last, twice; docs/FORMAT.md has it step by step. */
#ifndef QUANT_NIBBLE_H
#define QUANT_NIBBLE_H

#include "quant_codec.h"

/* Bytes a code takes: 128 dimensions to a line. */
VX_INLINE size_t vx_nibble_bytes(uint32_t code_dim)
{
    return vx_round_up(((size_t)code_dim + 127) / 128 * 64, VX_LINE);
}

/* Signs, and the step for dimensions that spread by so much. */
void vx_nibble_fit(vx_codec *codec, double spread);

/* As vx_codec_encode, with what ip asks for: a factor, and the value of the added dimension. */
bool vx_nibble_encode(const vx_codec *codec, const float *row, float scale, float added,
                      bool is_query, uint8_t *out);

#endif
