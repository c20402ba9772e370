/* quant_codec.h - rows as bytes.
 *
 * A codec is trained on a sample and never changes after that.  Under it a value v
 * of dimension i is the byte round((v - low[i]) / step), so the squared Euclidean
 * distance of two rows is step^2 times that of their codes, up to rounding: one
 * step for all dimensions, because an error counts the same in each.  Where the
 * sample holds whole numbers of 0 to 255 only, codes are those numbers.
 *
 * Codes of four bits (quant_nibble.c) are 0 to 15, two a byte, of dimensions that have been
 * mixed: less the mean, then turned about, so that all of them spread alike.
 *
 * Codes are compared by l2 whatever the metric:
 *   cosine  rows are unit vectors, |a - b|^2 = 2 (1 - a.b)
 *   ip      a row x is coded as (x, sqrt(R^2 - |x|^2)) and a query as (q, 0), scaled
 *           to length R, the greatest of the rows: |q - x|^2 = 2 R^2 - 2 q.x
 *           (Bachrach et al., Speeding up the Xbox recommender system using a
 *           Euclidean transformation for inner-product spaces, RecSys 2014). */
#ifndef QUANT_CODEC_H
#define QUANT_CODEC_H

#include "../base/vx_base.h"
#include "../dist/dist_gate.h"

#define VX_RANK_COORDS 256u
#define VX_RANK_BYTES 128u
#define VX_MAX_SKETCH 128u

typedef struct vx_codec {
    uint32_t dim;       /* of the rows                                         */
    uint32_t code_dim;  /* dim, or dim + 1 for ip                              */
    size_t row_bytes;   /* of a code, padded with zeros to whole lines         */
    float step, inv_step;
    float radius;       /* ip: R; otherwise 0                                  */
    bool is_lossless;   /* codes are the values                                */
    bool holds_rows;    /* ... and all that is kept of a row (vx_stored_form)  */
    float *low;         /* code_dim of them; of four bits: the mean            */
    float *flips;       /* of four bits: 2 code_dim signs; otherwise NULL      */

    /* Coordinates: a code's projections on principal directions, each half mixed by
     * random signs and a Hadamard transform so that all say about as much.  A unit
     * is such that nearly all of them lie in -128 .. 127.  n_coords == 0: none. */
    uint32_t n_coords;  /* 64, or 256 where there are ranks                    */
    uint32_t n_sketch;  /* bits of an edge sketch: of the leading coordinates  */
    bool has_ranks;     /* rows have rank codes: 4 bits of each coordinate     */
    int8_t *directions; /* n_coords x row_bytes                                */
    float *center;      /* n_coords: projections of the mean                   */
    float *signs;       /* n_coords: 1 or -1                                   */
    float unit;         /* coordinates per unit of a raw projection            */
    float coords_per_code; /* coordinates per unit of a code, along any direction */
    float edge_unit;    /* squared distance that is 1 in an edge's factors     */
    uint32_t n_users;   /* who holds it: the writer counts                     */
} vx_codec;


/* Coordinates of a code before they are rounded; quant_kernels.h, at some level. */
typedef void (*vx_coords_fn)(const vx_codec *codec, const uint8_t *code, float *out);

/* Of an edge, in coordinates: the sum of the magnitudes of its sketched ones, the sum of
 * its beginning's with its own signs, its squared length, and the signs. */
typedef struct vx_edge_sums {
    int32_t length, along, squared;
    uint8_t sign[VX_MAX_SKETCH]; /* 1: above 0 */
} vx_edge_sums;


/* What a codec is to be: bytes; bytes, with coordinates; those, with rank codes where rows
 * are long; half bytes. */
typedef enum vx_codes {
    VX_CODES_BYTES,
    VX_CODES_SKETCHED,
    VX_CODES_RANKED,
    VX_CODES_NIBBLES
} vx_codes;

/* Train on n rows of row_floats floats each (n >= 1), `is_ip` for inner product;
 * The same bytes for any number of threads.  VX_E_NOMEM, VX_E_INTERRUPTED. */
vx_status vx_codec_train(const float *rows, size_t row_floats, uint64_t n, uint32_t dim,
                         bool is_ip, vx_codes kind, vx_coords_fn coords, const vx_run *run,
                         vx_codec **out, vx_error *err);
/* A trained codec has one user.  Another, and one less: the last frees it.  NULL is fine. */
vx_codec *vx_codec_share(vx_codec *codec);
void vx_codec_free(vx_codec *codec);
/* Another that differs in holds_rows; NULL: no memory. */
vx_codec *vx_codec_copy(const vx_codec *codec, bool holds_rows);

/* The code of a row, or of a query (the two differ under ip).  False if it lies so far
 * outside what codes span that its code says little of it; of a row also if its code is
 * not what codes of its kind are: the row itself, or a point at the distance R. */
bool vx_codec_encode(const vx_codec *codec, const float *row, bool is_query, uint8_t *out);

/* Of four bits a query is not packed: a byte a dimension, sixteen to a step. */
VX_INLINE size_t vx_codec_query_bytes(const vx_codec *codec)
{
    return codec->flips != NULL ? 2 * codec->row_bytes : codec->row_bytes;
}

/* The coordinates of a code: n_coords of them. */
void vx_codec_coords(const vx_codec *codec, vx_coords_fn coords, const uint8_t *code,
                     int16_t *out);

/* Rank code of coordinates, and the other way round: the middle of each of the 16
 * intervals.  Byte j of half h holds coordinate 128 h + j below and 128 h + 64 + j
 * above. */
void vx_codec_rank(const int16_t *coords, uint8_t *out);
VX_INLINE void vx_rank_coords(const uint8_t *half, int16_t *out)
{
    for (int j = 0; j < 64; j++) {
        out[j] = (int16_t)((half[j] & 15) * 16 - 120);
        out[j + 64] = (int16_t)((half[j] >> 4) * 16 - 120);
    }
}

/* The query's side of a rank code: bytes to compare with coordinates << 4. */
void vx_codec_rank_query(const int16_t *coords, uint8_t *out);

/* What a query at these coordinates knows of the sketches it will meet. */
void vx_codec_gate(const vx_codec *codec, const int16_t *coords, vx_gate *out);

bool vx_codec_equals(const vx_codec *a, const vx_codec *b); /* NULL equals nothing */
size_t vx_codec_bytes(const vx_codec *codec); /* memory held */

/* A codec as bytes of a file (docs/FORMAT.md), and back.  VX_E_FORMAT: no codec of rows
 * like these; VX_E_NOMEM. */
#define VX_CODEC_MOST_BYTES ((size_t)64 << 20)
size_t vx_codec_stored_bytes(const vx_codec *codec);
void vx_codec_store(const vx_codec *codec, void *out);
vx_status vx_codec_restore(const void *stored, size_t n, uint32_t dim, bool is_ip, bool is_nibbles,
                           vx_codec **out, vx_error *err);

/* In place, unnormalised: n a power of two (Fino, Algazi 1976). */
VX_INLINE void vx_hadamard(float *x, const uint32_t n)
{
    for (uint32_t half = n / 2; half >= 1; half /= 2)
        for (uint32_t at = 0; at < n; at += 2 * half)
            for (uint32_t i = at; i < at + half; i++) {
                const float a = x[i], b = x[i + half];
                x[i] = a + b;
                x[i + half] = a - b;
            }
}

#endif
