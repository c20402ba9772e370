/* test_bits.c - forms of packed bits, and indexes of them, under the sanitizers. */
#include "base/vx_alloc.h"
#include "base/vx_rng.h"
#include "dist/dist.h"
#include "dist/dist_form.h"
#include "hnsw/hnsw_ops.h"
#include "vx_test.h"

#include <math.h>
#include <string.h>

enum { N = 1200, K = 5 };

static size_t bytes_of(uint32_t dim) { return vx_row_bytes(VX_BITS, dim); }

/* Exactly as long as they are, so that a read past the end is seen; the last bits zero. */
static uint8_t *make_rows(size_t n, uint32_t dim)
{
    const size_t bytes = bytes_of(dim);
    uint8_t *rows = vx_alloc(n * bytes, 1);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < bytes; j++) {
            const uint64_t base = vx_hash64(i % 9 * 1000 + j), noise = vx_hash64(i * 7919 + j);
            rows[i * bytes + j] = (uint8_t)(base ^ (noise & noise >> 8 & noise >> 16));
        }
    for (size_t i = 0; dim % 8 != 0 && i < n; i++)
        rows[i * bytes + bytes - 1] &= (uint8_t)(0xFF00u >> dim % 8);
    return rows;
}

static uint32_t differing(const uint8_t *a, const uint8_t *b, size_t bytes)
{
    uint32_t n = 0;
    for (size_t i = 0; i < bytes; i++)
        n += vx_count_bits(a[i] ^ b[i]);
    return n;
}

VX_TEST(forms_of_bits)
{
    for (uint32_t dim = 1; dim <= 1030; dim += dim < 20 ? 1 : 101) {
        const vx_params params = {.dim = dim, .metric = VX_HAMMING, .dtype = VX_BITS};
        const vx_form form = vx_form_of(&params);
        uint8_t *values = make_rows(1, dim), *row = vx_alloc(form.row_bytes, 1);
        double norm;
        CHECK(form.value_bytes == (dim + 7) / 8 && form.row_bytes % VX_LINE == 0);
        CHECK(vx_form_inspect(&form, VX_BITS, values, &norm) == VX_ROW_FINE);
        vx_form_write(&form, VX_BITS, values, norm, row);
        CHECK(vx_form_check(&form, row) == VX_ROW_FINE);
        CHECK(memcmp(row, values, form.value_bytes) == 0);
        for (size_t bit = dim; bit < 8 * form.row_bytes; bit++) { /* none behind the last */
            row[bit / 8] |= (uint8_t)(0x80u >> bit % 8);
            CHECK(vx_form_check(&form, row) == VX_ROW_BEYOND);
            CHECK(bit / 8 >= form.value_bytes ||
                  vx_query_inspect(&form, row, &norm) == VX_ROW_BEYOND);
            row[bit / 8] ^= (uint8_t)(0x80u >> bit % 8);
        }
        vx_free(values);
        vx_free(row);
    }
}

VX_TEST(an_index_of_bits)
{
    const uint32_t dims[] = {1, 77, 512, 1025};
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
        for (uint32_t metric = VX_HAMMING; metric <= VX_JACCARD; metric++) {
            const size_t bytes = bytes_of(dims[d]);
            const vx_params params = {.dim = dims[d], .metric = metric, .dtype = VX_BITS, .M = 6,
                                      .ef_construction = 30};
            uint8_t *rows = make_rows(N, dims[d]), *got = vx_alloc(bytes, 1);
            vx_index *index = NULL;
            vx_error err;
            vx_label labels[3 * K];
            float dists[3 * K];
            const vx_run two = {.num_threads = 2};
            const vx_label gone[] = {5, 6, 7};
            uint64_t n;
            vx_check check;
            CHECK(vx_index_new(&params, &index, &err) == VX_OK);
            CHECK(vx_index_add(index, (const float *)(const void *)rows, 1, NULL, VX_REPLACE, NULL,
                               NULL, &n, &err) == VX_E_ARG);
            CHECK(vx_index_add_typed(index, VX_BITS, rows, N, NULL, VX_REPLACE, &two, NULL, &n,
                                     &err) == VX_OK);
            CHECK(vx_index_delete(index, gone, 3, VX_MISSING_ERROR, NULL, &n, &err) == VX_OK);
            CHECK(vx_index_check(index, NULL, &check, &err) == VX_OK && check.n_unreachable == 0);
            CHECK(vx_index_get(index, &(vx_label){N - 1}, 1, got, &err) == VX_OK);
            CHECK(memcmp(got, rows + (N - 1) * bytes, bytes) == 0);
            for (int exact = 0; exact <= 1; exact++) {
                const vx_search_params how = {K, 60, exact};
                CHECK(vx_index_search(index, rows + (N - 3) * bytes, 3, &how, &two, labels, dists,
                                      &err) == VX_OK);
                for (size_t i = 0; i < 3 * K; i++) {
                    const uint8_t *query = rows + (N - 3 + i / K) * bytes;
                    const uint32_t want =
                        differing(query, rows + (size_t)labels[i] * bytes, bytes);
                    CHECK(metric == VX_HAMMING ? dists[i] == (float)want
                                               : (dists[i] == 0) == (want == 0) && dists[i] <= 1);
                    CHECK(i % K != 0 || !exact || dists[i] == 0);
                }
            }
            vx_index_free(index);
            vx_free(rows);
            vx_free(got);
        }
}

VX_TEST(bits_go_with_their_metrics_only)
{
    vx_index *index = NULL;
    vx_error err;
    const vx_params good = {.dim = 8, .metric = VX_JACCARD, .dtype = VX_BITS, .M = 4,
                            .ef_construction = 10};
    vx_params bad = good;
    bad.metric = VX_L2SQ;
    CHECK(vx_index_new(&bad, &index, &err) == VX_E_ARG);
    bad = good;
    bad.dtype = VX_U8;
    CHECK(vx_index_new(&bad, &index, &err) == VX_E_ARG);
    bad = good;
    bad.quantization = VX_QUANT_AUTO;
    CHECK(vx_index_new(&bad, &index, &err) == VX_E_ARG);
}

/* A CPU of the level without the instruction takes the table of half bytes: the same counts. */
VX_TEST(both_ways_of_counting_at_the_level_that_has_them)
{
    const int plain[] = {VX_KIND_BITS_HAMMING, VX_KIND_BITS_JACCARD};
    const int counted[] = {VX_KIND_VPOPCNT_HAMMING, VX_KIND_VPOPCNT_JACCARD};
    enum { ROWS = 9 };
    for (int level = 0; level < VX_N_LEVELS; level++) {
        if (!vx_level_runs((vx_level)level))
            continue;
        const vx_metric_ops *ops = vx_ops_of((vx_level)level)->kind;
        const bool has_both = level == VX_AVX512VNNI && vx_cpu_has_vpopcnt();
        for (size_t metric = 0; metric < 2; metric++) {
            CHECK(vx_kind_ops((vx_level)level, plain[metric]) ==
                  &ops[has_both ? counted[metric] : plain[metric]]);
            if (!has_both)
                continue;
            for (size_t bytes = VX_LINE; bytes <= 40 * VX_LINE; bytes += 13 * VX_LINE) {
                uint8_t *rows = make_rows(ROWS + 1, (uint32_t)(8 * bytes));
                vx_slot slots[ROWS];
                float by_table[ROWS], by_instruction[ROWS];
                for (vx_slot i = 0; i < ROWS; i++)
                    slots[i] = i;
                const uint8_t *query = rows + ROWS * bytes;
                ops[plain[metric]].many(query, rows, bytes, slots, ROWS, by_table);
                ops[counted[metric]].many(query, rows, bytes, slots, ROWS, by_instruction);
                CHECK(memcmp(by_table, by_instruction, sizeof by_table) == 0);
                for (size_t i = 0; metric == 0 && i < ROWS; i++)
                    CHECK(by_table[i] == (float)differing(rows + i * bytes, query, bytes));
                vx_free(rows);
            }
        }
    }
}
