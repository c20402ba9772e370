/* quant_pca.c - principal directions by orthogonal iteration.
 *
 * Golub, Van Loan: Matrix Computations, section 8.2.4.  The covariance is formed once;
 * a random basis is multiplied by it and made orthonormal again, a few times over.
 * Nobody needs the eigenvectors themselves: what counts is that the first k span
 * nearly all that any k could.  Every sum has a fixed order, and tasks share out
 * results, never a sum, so threads change nothing. */
#include "quant_pca.h"

#include <math.h>
#include <string.h>

#include "../base/vx_alloc.h"
#include "../base/vx_pool.h"
#include "../base/vx_rng.h"
#include "../base/vx_status.h"

#define ROUNDS 8u   /* multiplications by the covariance                       */
#define BLOCK 8u    /* rows of a result a task computes                        */

struct pca {
    const float *rows;
    uint32_t n, dim, k;
    float *covariance;    /* dim x dim, symmetric                              */
    const float *basis;   /* k x dim                                           */
    float *image;         /* k x dim: the basis times the covariance           */
};

/* Rows begin .. end-1 of the covariance, in blocks that stay in L1. */
static void covariance_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    const struct pca *p = arg;
    (void)who;
    for (size_t block = begin; block < end; block++) {
        const uint32_t first = (uint32_t)block * BLOCK;
        const uint32_t n = p->dim - first < BLOCK ? p->dim - first : BLOCK;
        float *out = p->covariance + (size_t)first * p->dim;
        memset(out, 0, (size_t)n * p->dim * sizeof *out);
        for (uint32_t s = 0; s < p->n; s++) {
            const float *row = p->rows + (size_t)s * p->dim;
            for (uint32_t i = 0; i < n; i++) {
                const float factor = row[first + i];
                float *VX_RESTRICT to = out + (size_t)i * p->dim;
                for (uint32_t j = 0; j < p->dim; j++)
                    to[j] += factor * row[j];
            }
        }
    }
}

static void image_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    const struct pca *p = arg;
    (void)who;
    for (size_t block = begin; block < end; block++) {
        const uint32_t first = (uint32_t)block * BLOCK;
        const uint32_t n = p->k - first < BLOCK ? p->k - first : BLOCK;
        float *out = p->image + (size_t)first * p->dim;
        memset(out, 0, (size_t)n * p->dim * sizeof *out);
        for (uint32_t d = 0; d < p->dim; d++) {
            const float *row = p->covariance + (size_t)d * p->dim;
            for (uint32_t i = 0; i < n; i++) {
                const float factor = p->basis[(size_t)(first + i) * p->dim + d];
                float *VX_RESTRICT to = out + (size_t)i * p->dim;
                for (uint32_t j = 0; j < p->dim; j++)
                    to[j] += factor * row[j];
            }
        }
    }
}

/* Sixteen sums, so that vector registers are used. */
static float dot(const float *a, const float *b, uint32_t n)
{
    float sums[16] = {0};
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (uint32_t j = 0; j < 16; j++)
            sums[j] += a[i + j] * b[i + j];
    for (; i < n; i++)
        sums[0] += a[i] * b[i];
    for (int width = 8; width >= 1; width /= 2)
        for (int j = 0; j < width; j++)
            sums[j] += sums[j + width];
    return sums[0];
}

static void fill_random(float *row, uint32_t dim, uint64_t key)
{
    for (uint32_t j = 0; j < dim; j++)
        row[j] = (float)(vx_hash64(key << 32 | j) >> 40) * 0x1p-24f - 0.5f;
}

/* Gram and Schmidt, twice over for what the first pass leaves by rounding. */
static void orthonormalise(float *basis, uint32_t k, uint32_t dim)
{
    for (uint32_t i = 0; i < k; i++) {
        float *row = basis + (size_t)i * dim;
        for (uint32_t attempt = 0;; attempt++) {
            const float before = dot(row, row, dim);
            for (int pass = 0; pass < 2; pass++)
                for (uint32_t j = 0; j < i; j++) {
                    const float *other = basis + (size_t)j * dim;
                    const float along = dot(row, other, dim);
                    for (uint32_t d = 0; d < dim; d++)
                        row[d] -= along * other[d];
                }
            const float length = sqrtf(dot(row, row, dim));
            if (length > 1e-4f * sqrtf(before) && length > 0) {
                for (uint32_t d = 0; d < dim; d++)
                    row[d] /= length;
                break;
            }
            /* The rows spread in fewer than k directions: any other will do. */
            fill_random(row, dim, (uint64_t)(attempt + 2) * 65536 + i);
        }
    }
}

static vx_status iterate(struct pca *p, const vx_run *run, float *out)
{
    const uint32_t blocks = (p->k + BLOCK - 1) / BLOCK;
    vx_status st =
        vx_pool_run((p->dim + BLOCK - 1) / BLOCK, 1, run, 0, 0, covariance_piece, p);
    for (uint32_t i = 0; i < p->k; i++)
        fill_random(out + (size_t)i * p->dim, p->dim, i);
    p->basis = out;
    for (uint32_t round = 0; round < ROUNDS && st == VX_OK; round++) {
        orthonormalise(out, p->k, p->dim);
        st = vx_pool_run(blocks, 1, run, 0, 0, image_piece, p);
        memcpy(out, p->image, (size_t)p->k * p->dim * sizeof *out);
    }
    orthonormalise(out, p->k, p->dim);
    return st;
}

vx_status vx_pca(const float *rows, uint32_t n, uint32_t dim, uint32_t k, const vx_run *run,
                 float *out, vx_error *err)
{
    struct pca p = {.rows = rows, .n = n, .dim = dim, .k = k};
    p.covariance = vx_alloc((size_t)dim * dim, sizeof *p.covariance);
    p.image = vx_alloc((size_t)k * dim, sizeof *p.image);
    vx_status st = VX_E_NOMEM;
    if (p.covariance == NULL || p.image == NULL)
        st = vx_fail_nomem(err, "training codes");
    else if ((st = iterate(&p, run, out)) != VX_OK)
        vx_fail(err, st, "interrupted");
    vx_free(p.covariance);
    vx_free(p.image);
    return st;
}
