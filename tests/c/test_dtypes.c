/* test_dtypes.c - forms of rows, and indexes of other dtypes, under the sanitizers. */
#include "base/vx_alloc.h"
#include "base/vx_rng.h"
#include "dist/dist_form.h"
#include "vx_test.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

enum { N = 10100, N_FEW = 200, K = 5 };

static const vx_dtype dtypes[] = {VX_F32, VX_F16, VX_BF16, VX_I8, VX_U8};
#define N_DTYPES (sizeof dtypes / sizeof *dtypes)

/* Whole numbers that every dtype holds, of few dimensions of their own. */
static float *make_rows(size_t n, size_t dim, uint64_t seed)
{
    float *rows = vx_alloc(n * dim, sizeof *rows);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < dim; j++) {
            const uint64_t base = vx_hash64(seed + i * 8 + j % 6) % 80;
            rows[i * dim + j] = (float)(base + j % 9 + vx_hash64(i * dim + j) % 8);
        }
    return rows;
}

static vx_index *make_index(vx_dtype dtype, vx_metric metric, vx_quantization quantization,
                            size_t dim)
{
    vx_index *index = NULL;
    vx_error err;
    const vx_params params = {.dim = (uint32_t)dim, .metric = metric, .dtype = dtype,
                              .quantization = quantization, .M = 4, .ef_construction = 16};
    CHECK(vx_index_new(&params, &index, &err) == VX_OK);
    return index;
}

/* What is written is read, rounded and padded, by every dtype and at odd lengths. */
VX_TEST(forms_keep_what_they_are_given)
{
    const size_t dims[] = {1, 15, 16, 17, 33, 64, 255, 256, 257, 1000};
    for (size_t t = 0; t < N_DTYPES; t++)
        for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
            for (int metric = VX_L2SQ; metric <= VX_COSINE; metric++) {
                const vx_params params = {.dim = (uint32_t)dims[d], .metric = (uint32_t)metric,
                                          .dtype = dtypes[t]};
                const vx_form form = vx_form_of(&params);
                float *values = make_rows(1, dims[d], t + d);
                char *row = vx_alloc(form.row_bytes, 1), *again = vx_alloc(form.row_bytes, 1);
                char *got = vx_alloc(dims[d], 4);
                float *back = vx_alloc(form.query_floats, sizeof *back);
                double norm, native_norm;
                values[0] = 1;
                CHECK(vx_form_inspect(&form, VX_F32, values, &norm) == VX_ROW_FINE);
                vx_form_write(&form, VX_F32, values, norm, row);
                CHECK(vx_form_check(&form, row) == VX_ROW_FINE);
                vx_form_read(&form, row, back);
                for (size_t i = 0; i < form.query_floats; i++) {
                    const double want = i >= dims[d]             ? 0
                                        : metric == VX_COSINE ? (double)values[i] / norm
                                                              : (double)values[i];
                    CHECK(fabs((double)back[i] - want) <= 0.005 * fabs(want));
                }
                vx_form_get(&form, row, (float)norm, vx_form_out_dtype(&form), got);
                if (!form.has_norms && form.dtype != VX_BF16) { /* and back again */
                    CHECK(vx_form_inspect(&form, form.dtype, got, &native_norm) == VX_ROW_FINE);
                    CHECK(native_norm == norm || form.dtype == VX_F16);
                    vx_form_write(&form, form.dtype, got, native_norm, again);
                    CHECK(memcmp(row, again, form.row_bytes) == 0);
                }
                row[form.row_bytes - 1] = 1;
                CHECK(vx_form_check(&form, row) ==
                      (form.row_bytes == form.value_bytes ? VX_ROW_FINE
                                                                             : VX_ROW_BEYOND));
                vx_free(values);
                vx_free(row);
                vx_free(again);
                vx_free(got);
                vx_free(back);
            }
}

/* Whole numbers of 0 to 255 are the same in all forms; others only where they fit. */
VX_TEST(rows_go_from_one_form_to_another)
{
    const size_t dims[] = {1, 63, 64, 65, 256, 257, 600};
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
        for (size_t t = 0; t < 3; t++) {
            const vx_params given = {.dim = (uint32_t)dims[d], .dtype = dtypes[t]};
            const vx_params bytes = {.dim = (uint32_t)dims[d], .dtype = VX_U8};
            const vx_form wide = vx_form_of(&given), narrow = vx_form_of(&bytes);
            float *values = vx_alloc(dims[d], sizeof *values);
            float *back = vx_alloc(dims[d], sizeof *back);
            char *row = vx_alloc(wide.row_bytes, 1), *again = vx_alloc(wide.row_bytes, 1);
            char *held = vx_alloc(narrow.row_bytes, 1);
            for (size_t i = 0; i < dims[d]; i++)
                values[i] = (float)((i * 83) % 256);
            values[dims[d] - 1] = 255;
            vx_form_write(&wide, VX_F32, values, 1, row);
            CHECK(vx_form_holds(&narrow, wide.dtype, row) && vx_form_holds(&wide, VX_F32, values));
            vx_form_convert(&wide, row, &narrow, held);
            CHECK(vx_form_check(&narrow, held) == VX_ROW_FINE);
            CHECK(vx_form_same(&wide, row, &narrow, held) && vx_form_same(&wide, row, &wide, row));
            vx_form_convert(&narrow, held, &wide, again);
            CHECK(memcmp(row, again, wide.row_bytes) == 0);
            vx_form_get(&narrow, held, 1, VX_F32, back);
            CHECK(memcmp(back, values, dims[d] * sizeof *values) == 0);
            const float others[] = {-1, 256, 0.5f, 1000};
            for (size_t i = 0; i < 4; i++) { /* the last value is the nearest there is */
                values[dims[d] - 1] = others[i];
                vx_form_write(&wide, VX_F32, values, 1, row);
                CHECK(!vx_form_holds(&narrow, wide.dtype, row));
                CHECK(!vx_form_same(&wide, row, &narrow, held));
                vx_form_convert(&wide, row, &narrow, held);
                const uint8_t nearest[] = {0, 255, 1, 255};
                CHECK(((const uint8_t *)held)[dims[d] - 1] == nearest[i]);
                CHECK(vx_form_check(&narrow, held) == VX_ROW_FINE);
            }
            vx_free(values);
            vx_free(back);
            vx_free(row);
            vx_free(again);
            vx_free(held);
        }
}

VX_TEST(what_is_not_finite_is_seen_in_a_stored_row)
{
    const uint16_t halves[] = {0x7C00, 0xFC00, 0x7E00, 0x7C01}, bfloats[] = {0x7F80, 0xFFC0};
    const float floats[] = {INFINITY, NAN};
    for (size_t dim = 1; dim <= 40; dim += 13)
        for (size_t t = 0; t < 3; t++) {
            const vx_params params = {.dim = (uint32_t)dim, .dtype = dtypes[t]};
            const vx_form form = vx_form_of(&params);
            const size_t n = t == 1 ? 4 : 2, bytes = vx_row_bytes(form.dtype, 1);
            for (size_t i = 0; i < n; i++) {
                char *row = vx_zalloc(form.row_bytes, 1);
                const void *bad = t == 0 ? (const void *)&floats[i]
                                  : t == 1 ? (const void *)&halves[i] : (const void *)&bfloats[i];
                memcpy(row + (dim - 1) * bytes, bad, bytes);
                CHECK(vx_form_check(&form, row) == VX_ROW_INF);
                vx_free(row);
            }
        }
}

struct sink { char *data; size_t n; };

static int sink_begin(void *arg, uint64_t length)
{
    struct sink *sink = arg;
    sink->data = vx_alloc((size_t)length, 1);
    return sink->data == NULL;
}

static int sink_write(void *arg, const void *data, size_t n)
{
    struct sink *sink = arg;
    memcpy(sink->data + sink->n, data, n);
    sink->n += n;
    return 0;
}

/* Every live row asked for finds itself, or one as near. */
static void check_found(vx_index *index, const float *rows, size_t dim, size_t from, size_t to,
                        int exact)
{
    const vx_search_params params = {.k = K, .ef = 64, .exact = exact};
    vx_label labels[K];
    float dists[K], other[K];
    vx_error err;
    size_t n_right = 0, n = 0;
    for (size_t i = from; i < to; i += 37, n++) {
        float *query = vx_alloc(dim, sizeof *query);
        memcpy(query, rows + i * dim, dim * sizeof *query);
        CHECK(vx_index_search(index, query, 1, &params, NULL, labels, dists, &err) == VX_OK);
        n_right += (size_t)labels[0] == i || fabs((double)dists[0]) < 4e-3;
        query[0] += 0.25f; /* no whole number */
        CHECK(vx_index_search(index, query, 1, &params, NULL, labels, other, &err) == VX_OK);
        CHECK(other[0] <= other[K - 1]);
        vx_free(query);
    }
    CHECK(n_right * 10 >= n * 9);
}

static void live(vx_dtype dtype, vx_metric metric, vx_quantization quantization, size_t dim)
{
    float *rows = make_rows(N, dim, 3);
    vx_index *index = make_index(dtype, metric, quantization, dim), *loaded = NULL;
    struct sink sink = {NULL, 0};
    const vx_sink to = {sink_begin, sink_write, &sink};
    vx_label gone[N_FEW];
    vx_error err;
    vx_check check;
    uint64_t n_deleted;
    CHECK(vx_index_add(index, rows, N - 60, NULL, VX_REPLACE, NULL, NULL, NULL, &err) == VX_OK);
    CHECK(vx_index_add(index, rows + (N - 60) * dim, 60, NULL, VX_REPLACE, NULL, NULL, NULL,
                       &err) == VX_OK);
    for (size_t i = 0; i < N_FEW; i++)
        gone[i] = (vx_label)i;
    CHECK(vx_index_delete(index, gone, N_FEW, VX_MISSING_ERROR, NULL, &n_deleted, &err) == VX_OK);
    CHECK(vx_index_compact(index, NULL, &err) == VX_OK);
    CHECK(vx_index_check(index, NULL, &check, &err) == VX_OK && check.n_unreachable == 0);
    if (metric != VX_IP)
        check_found(index, rows, dim, N_FEW, N, 0);
    CHECK(vx_index_save_to(index, &to, NULL, &err) == VX_OK);
    CHECK(vx_index_load_memory(sink.data, sink.n, 1, NULL, &loaded, &err) == VX_OK);
    if (metric != VX_IP)
        check_found(loaded, rows, dim, N_FEW, N, 1);
    vx_index_free(index);
    vx_index_free(loaded);
    vx_free(sink.data);
    vx_free(rows);
}

VX_TEST(lives_of_other_dtypes)
{
    live(VX_F16, VX_COSINE, VX_QUANT_AUTO, 20);  /* sketches over the vectors            */
    live(VX_F16, VX_L2SQ, VX_QUANT_AUTO, 330);   /* ranks over the vectors               */
    live(VX_BF16, VX_L2SQ, VX_QUANT_SQ8, 70);    /* codes                                */
    live(VX_I8, VX_COSINE, VX_QUANT_AUTO, 20);
    live(VX_U8, VX_L2SQ, VX_QUANT_AUTO, 20);
    live(VX_U8, VX_IP, VX_QUANT_NONE, 70);
}

/* Whichever allocation fails, an add of whole numbers ends with rows or without. */
VX_TEST(allocations_may_fail)
{
    float *rows = make_rows(30, 9, 5);
    const vx_search_params params = {.k = 3, .ef = 8, .exact = 0}, exact = {.k = 3, .exact = 1};
    for (uint64_t nth = 1; nth < 60; nth++) {
        vx_index *index = make_index(VX_I8, VX_COSINE, VX_QUANT_NONE, 9);
        vx_label labels[6];
        float dists[6];
        uint64_t added = 0;
        vx_error err;
        vx_test_fail_alloc(nth);
        vx_status st = vx_index_add(index, rows, 30, NULL, VX_REPLACE, NULL, NULL, &added, &err);
        CHECK(st == VX_OK ? added == 30 : st == VX_E_NOMEM);
        st = vx_index_search(index, rows, 2, &params, NULL, labels, dists, &err);
        CHECK(st == VX_OK || st == VX_E_NOMEM);
        st = vx_index_search(index, rows, 2, &exact, NULL, labels, dists, &err);
        CHECK(st == VX_OK || st == VX_E_NOMEM);
        vx_test_fail_alloc(0);
        vx_index_free(index);
    }
    vx_free(rows);
}

struct shared {
    vx_index *index;
    float *rows;
    size_t dim;
    _Atomic bool done;
};

static void *search_on(void *arg)
{
    struct shared *s = arg;
    const vx_search_params params = {.k = K, .ef = 20};
    vx_label labels[8 * K];
    float dists[8 * K];
    vx_error err;
    for (size_t i = 0; !atomic_load(&s->done); i = (i + 8) % 1000)
        CHECK(vx_index_search(s->index, s->rows + i * s->dim, 8, &params, NULL, labels, dists,
                              &err) == VX_OK);
    return NULL;
}

/* Searches beside adds that train, and sketch again. */
VX_TEST(searches_beside_adds)
{
    struct shared s = {.index = make_index(VX_F16, VX_COSINE, VX_QUANT_AUTO, 20),
                       .rows = make_rows(N, 20, 7), .dim = 20};
    vx_error err;
    pthread_t reader;
    CHECK(vx_index_add(s.index, s.rows, 9990, NULL, VX_REPLACE, NULL, NULL, NULL, &err) == VX_OK);
    CHECK(pthread_create(&reader, NULL, search_on, &s) == 0);
    for (size_t i = 9990; i + 10 <= N; i += 10)
        CHECK(vx_index_add(s.index, s.rows + i * s.dim, 10, NULL, VX_REPLACE, NULL, NULL, NULL,
                           &err) == VX_OK);
    atomic_store(&s.done, true);
    pthread_join(reader, NULL);
    vx_index_free(s.index);
    vx_free(s.rows);
}
