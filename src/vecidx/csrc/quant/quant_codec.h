/* quant_codec.h - rows as bytes.
 *
 * A codec is trained on a sample and never changes after that.  Under it a value v
 * of dimension i is the byte round((v - low[i]) / step), so the squared Euclidean
 * distance of two rows is step^2 times that of their codes, up to rounding: one
 * step for all dimensions, because an error counts the same in each.  Where the
 * sample holds whole numbers of 0 to 255 only, codes are those numbers.
 *
 * Codes are compared by l2 whatever the metric:
 *   cosine  rows are unit vectors, |a - b|^2 = 2 (1 - a.b)
 *   ip      a row x is coded as (x, sqrt(R^2 - |x|^2)) and a query as (q, 0), with R
 *           the greatest length of the sample: |q - x|^2 = |q|^2 + R^2 - 2 q.x
 *           (Bachrach et al., Speeding up the Xbox recommender system using a
 *           Euclidean transformation for inner-product spaces, RecSys 2014). */
#ifndef QUANT_CODEC_H
#define QUANT_CODEC_H

#include "../base/vx_base.h"

typedef struct vx_codec {
    uint32_t dim;       /* of the rows                                         */
    uint32_t code_dim;  /* dim, or dim + 1 for ip                              */
    size_t row_bytes;   /* of a code, padded with zeros to whole lines         */
    float step, inv_step;
    float radius;       /* ip: R; otherwise 0                                  */
    bool is_lossless;   /* codes are the values                                */
    float *low;         /* code_dim of them                                    */
} vx_codec;

/* Train on n rows of row_floats floats each (n >= 1), `is_ip` for inner product.
 * The same bytes for any number of threads.  VX_E_NOMEM, VX_E_INTERRUPTED. */
vx_status vx_codec_train(const float *rows, size_t row_floats, uint64_t n, uint32_t dim,
                         bool is_ip, const vx_run *run, vx_codec **out, vx_error *err);
void vx_codec_free(vx_codec *codec); /* NULL is fine */

/* The code of a row, or of a query (the two differ under ip). */
void vx_codec_encode(const vx_codec *codec, const float *row, bool is_query, uint8_t *out);

size_t vx_codec_bytes(const vx_codec *codec); /* memory held */

#endif
