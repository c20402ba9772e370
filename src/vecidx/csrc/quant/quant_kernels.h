/* quant_kernels.h - the loops of quant_codec.c and hnsw_sketch.c that are worth
 * compiling for each instruction set.
 *
 * Plain C: an ISA's translation unit includes this after its dist_<isa>.h, whose
 * project_rows it uses, and the compiler fills the registers.  No sum is a float's and
 * nothing is contracted, so all levels give the same bits. */
#ifndef QUANT_KERNELS_H
#define QUANT_KERNELS_H

#include "../base/vx_rng.h"
#include "quant_codec.h"

/* Random signs, and the transform of each 128 (or of all 64). */
VX_INLINE void mix_coords(const vx_codec *codec, float *x)
{
    for (uint32_t i = 0; i < codec->n_coords; i++)
        x[i] *= codec->signs[i];
    if (codec->n_coords == 64) {
        vx_hadamard(x, 64);
    } else {
        vx_hadamard(x, VX_MAX_SKETCH);
        vx_hadamard(x + VX_MAX_SKETCH, VX_MAX_SKETCH);
    }
}

/* Coordinates before they are rounded. */
VX_INLINE void coords_body(const vx_codec *codec, const uint8_t *code, float *out)
{
    int32_t raw[VX_RANK_COORDS];
    project_rows(codec->directions, code, codec->row_bytes, codec->n_coords, raw);
    for (uint32_t i = 0; i < codec->n_coords; i++)
        out[i] = ((float)raw[i] - codec->center[i]) * codec->unit;
    mix_coords(codec, out);
}

/* What an edge's sketch is made of: p is where it begins, r where it ends. */
VX_INLINE void measure_edge(const int16_t *p, const int16_t *r, const uint32_t n_sketch,
                            const uint32_t n_coords, vx_edge_sums *out)
{
    int32_t length = 0, along = 0, squared = 0;
    for (uint32_t i = 0; i < n_sketch; i++) {
        const int32_t d = r[i] - p[i];
        out->sign[i] = d > 0;
        length += d > 0 ? d : -d;
        along += d > 0 ? p[i] : -p[i];
    }
    for (uint32_t i = 0; i < n_coords; i++) {
        const int32_t d = r[i] - p[i];
        squared += d * d;
    }
    out->length = length;
    out->along = along;
    out->squared = squared;
}

#endif
