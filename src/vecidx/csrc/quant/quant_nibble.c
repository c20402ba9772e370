/* quant_nibble.c - see quant_nibble.h. */
#include "quant_nibble.h"

#include <math.h>
#include <string.h>

#include "../base/vx_rng.h"

/* Dimensions mixed together, at most: they have to fit a thread's stack. */
#define PIECE 4096u

/* Sixteen levels reach so many times the spread to either side.  Of 2.4 to 3.5 the middle
 * ones measure alike on embeddings and descriptors. */
#define REACH 2.7

/* Clipped by more than a step in the root mean square, a row or query is outside. */
#define OUTSIDE_SQUARE 1.0f

void vx_nibble_fit(vx_codec *codec, double spread)
{
    for (uint32_t i = 0; i < 2 * codec->code_dim; i++)
        codec->flips[i] = vx_hash64(0xF11Bu + i / 64) >> i % 64 & 1 ? -1.0f : 1.0f;
    codec->step = spread > 1e-30 ? (float)(spread * REACH / 8) : 1;
    codec->inv_step = 1.0f / codec->step;
}

/* In place, and of the length it had: n a power of two. */
static void transform(float *x, uint32_t n)
{
    const float factor = 1.0f / sqrtf((float)n);
    vx_hadamard(x, n);
    for (uint32_t i = 0; i < n; i++)
        x[i] *= factor;
}

static void mix(float *x, const float *flips, const float *more_flips, uint32_t n)
{
    uint32_t power = 1;
    while (power <= n / 2)
        power *= 2;
    for (int round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < n; i++)
            x[i] *= round == 0 ? flips[i] : more_flips[i];
        transform(x, power);
        if (power < n)
            transform(x + n - power, power);
    }
}

/* Row values to sixteenths of a step, 128 in the middle; *clipped as in quant_codec.c, in
 * steps. */
static uint8_t sixteenths(float x, float *clipped)
{
    x = x * 16 + 128;
    const float inside = x > 0 ? x < 255 ? x : 255 : 0;
    const float over = (x - inside) / 16;
    *clipped += over * over;
    return (uint8_t)(int)inside;
}

/* A level stands for its middle, 16 level + 8 sixteenths; the query, not packed, is compared
 * with 16 level. */
static uint8_t to_compare(uint8_t at)
{
    return at > 8 ? (uint8_t)(at - 8) : 0;
}

static void put_level(uint8_t *out, uint32_t i, uint8_t level)
{
    out[i / 128 * 64 + i % 64] |= (uint8_t)(i % 128 < 64 ? level : level << 4);
}

bool vx_nibble_encode(const vx_codec *codec, const float *row, float scale, float added,
                      bool is_query, uint8_t *out)
{
    float x[PIECE], clipped = 0;
    memset(out, 0, is_query ? vx_codec_query_bytes(codec) : codec->row_bytes);
    for (uint32_t begin = 0; begin < codec->code_dim; begin += PIECE) {
        const uint32_t left = codec->code_dim - begin, n = left < PIECE ? left : PIECE;
        for (uint32_t i = 0; i < n; i++) {
            const uint32_t at = begin + i;
            x[i] = ((at < codec->dim ? row[at] * scale : added) - codec->low[at]) * codec->inv_step;
        }
        mix(x, codec->flips + begin, codec->flips + codec->code_dim + begin, n);
        for (uint32_t i = 0; i < n; i++) {
            const uint8_t byte = sixteenths(x[i], &clipped);
            if (is_query)
                out[begin + i] = to_compare(byte);
            else
                put_level(out, begin + i, byte >> 4);
        }
    }
    return clipped <= OUTSIDE_SQUARE * (float)codec->code_dim;
}
