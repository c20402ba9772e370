/* test_rows.c - rows of the index as queries, notes, and both without memory. */
#include "base/vx_alloc.h"
#include "base/vx_pool.h"
#include "base/vx_sync.h"
#include "vecidx.h"
#include "vx_test.h"

#include <stdlib.h>
#include <string.h>

#define DIM 8u
#define K 5u

static vx_index *make(size_t n)
{
    const vx_params p = {.dim = DIM, .metric = VX_L2SQ, .M = 8, .ef_construction = 40, .seed = 1};
    vx_index *index = NULL;
    float *rows = malloc(n * DIM * sizeof *rows);
    uint32_t state = 1;
    CHECK(vx_simd_init(NULL, NULL) == VX_OK);
    for (size_t i = 0; i < n * DIM; i++) {
        state = state * 1664525u + 1013904223u;
        rows[i] = (float)(state >> 16) / 65536.0f;
    }
    CHECK(vx_index_new(&p, &index, NULL) == VX_OK);
    CHECK(vx_index_add(index, rows, n, NULL, VX_ERROR, NULL, NULL, NULL, NULL) == VX_OK);
    free(rows);
    return index;
}

static vx_status ask(vx_index *index, size_t n, int exact, int unseen, vx_on_missing missing,
                     vx_label *out, float *dists, vx_error *err)
{
    vx_label *labels = malloc(n * sizeof *labels);
    for (size_t i = 0; i < n; i++)
        labels[i] = (vx_label)i;
    const vx_search_params params = {K, 40, exact};
    const vx_run run = {3, NULL, NULL};
    const vx_status st =
        vx_index_search_rows(index, labels, n, &params, unseen, missing, &run, out, dists, err);
    free(labels);
    return st;
}

VX_TEST(walks_from_rows_agree_with_scans)
{
    enum { N = 600 };
    vx_index *index = make(N);
    vx_label *a = malloc(N * K * sizeof *a), *b = malloc(N * K * sizeof *b);
    float *da = malloc(N * K * sizeof *da), *db = malloc(N * K * sizeof *db);
    vx_error err;
    CHECK(ask(index, N, 1, 0, VX_MISSING_ERROR, b, db, &err) == VX_OK);
    for (int unseen = 0; unseen < 2; unseen++) {
        CHECK(ask(index, N, 0, unseen, VX_MISSING_ERROR, a, da, &err) == VX_OK);
        size_t n_same = 0;
        for (size_t i = 0; i < N * K; i++) {
            CHECK(a[i] != (vx_label)(i / K) && a[i] >= 0);
            CHECK(i % K == 0 || da[i] >= da[i - 1]);
            n_same += da[i] <= db[i / K * K + K - 1];
        }
        CHECK(n_same > N * K * 95 / 100);
    }
    const vx_label gone = 7;
    uint64_t n_gone = 0;
    CHECK(vx_index_delete(index, &gone, 1, VX_MISSING_ERROR, NULL, &n_gone, NULL) == VX_OK);
    CHECK(ask(index, N, 0, 0, VX_MISSING_ERROR, a, da, &err) == VX_E_LABEL);
    CHECK(err.row == 7 && err.value == 7);
    CHECK(ask(index, N, 0, 0, VX_MISSING_IGNORE, a, da, &err) == VX_OK);
    for (size_t i = 0; i < N * K; i++)
        CHECK((a[i] == VX_NO_LABEL) == (i / K == 7));
    free(a);
    free(b);
    free(da);
    free(db);
    vx_index_free(index);
}

VX_TEST(fewer_rows_than_asked_for_are_padded)
{
    for (size_t n = 1; n < 8; n++) {
        vx_index *index = make(n);
        vx_label out[8 * K];
        float dists[8 * K];
        for (int how = 0; how < 3; how++) {
            CHECK(ask(index, n, how == 1, how == 2, VX_MISSING_ERROR, out, dists, NULL) == VX_OK);
            for (size_t i = 0; i < n * K; i++) {
                CHECK((out[i] == VX_NO_LABEL) == (i % K >= n - 1));
                CHECK(out[i] != (vx_label)(i / K));
            }
        }
        vx_index_free(index);
    }
}

VX_TEST(a_sample_is_spread_and_no_larger_than_wanted)
{
    vx_index *index = make(1000);
    vx_label out[1000];
    size_t n = 0;
    CHECK(vx_index_sample(index, 100, out, &n, NULL) == VX_OK && n == 100);
    for (size_t i = 1; i < n; i++)
        CHECK(out[i] > out[i - 1]);
    CHECK(out[0] < 50 && out[99] > 950);
    CHECK(vx_index_sample(index, 1000, out, &n, NULL) == VX_OK && n > 700 && n < 1000);
    vx_index_free(index);
}

VX_TEST(without_memory_nothing_leaks_and_all_goes_on)
{
    vx_index *index = make(300);
    vx_label out[300 * K];
    float dists[300 * K];
    for (uint64_t nth = 1; nth < 40; nth++) {
        vx_error err;
        vx_test_fail_alloc(nth);
        const vx_status st = ask(index, 300, nth % 3 == 1, nth % 3 == 2, VX_MISSING_ERROR, out,
                                 dists, &err);
        CHECK(st == VX_OK || st == VX_E_NOMEM);
        vx_test_fail_alloc(nth % 2 + 1);
        const vx_status note = vx_index_set_note(index, VX_NOTE_TUNED, "abc", 3, NULL, &err);
        CHECK(note == VX_OK || note == VX_E_NOMEM);
        vx_test_fail_alloc(0);
    }
    CHECK(ask(index, 300, 0, 0, VX_MISSING_ERROR, out, dists, NULL) == VX_OK);
    vx_index_free(index);
}

struct taken {
    char *bytes;
    size_t n;
};

static int take_length(void *arg, uint64_t length)
{
    struct taken *to = arg;
    to->bytes = malloc(length);
    return 0;
}

static int take(void *arg, const void *data, size_t n)
{
    struct taken *to = arg;
    memcpy(to->bytes + to->n, data, n);
    to->n += n;
    return 0;
}

VX_TEST(notes_are_kept_saved_and_loaded)
{
    vx_index *index = make(50), *other = NULL;
    struct taken file = {0};
    const vx_sink sink = {take_length, take, &file};
    char got[8] = "";
    size_t n = 9;
    CHECK(vx_index_note(index, VX_NOTE_NAMES, NULL, 0, &n, NULL, NULL) == VX_OK && n == 0);
    CHECK(vx_index_set_note(index, VX_NOTE_NAMES, "names", 5, NULL, NULL) == VX_OK);
    CHECK(vx_index_set_note(index, VX_NOTE_TUNED, "old", 3, NULL, NULL) == VX_OK);
    CHECK(vx_index_set_note(index, VX_NOTE_TUNED, "tuned!", 6, NULL, NULL) == VX_OK);
    CHECK(vx_index_set_note(index, VX_NOTE_TUNED, "", (size_t)2 << 20, NULL, NULL) == VX_E_ARG);
    CHECK(vx_index_save_to(index, &sink, NULL, NULL) == VX_OK);
    CHECK(vx_index_load_memory(file.bytes, file.n, 1, NULL, &other, NULL) == VX_OK);
    CHECK(vx_index_note(other, VX_NOTE_TUNED, got, 2, &n, NULL, NULL) == VX_OK && n == 6);
    CHECK(got[0] == '\0');
    CHECK(vx_index_note(other, VX_NOTE_TUNED, got, 8, &n, NULL, NULL) == VX_OK && n == 6);
    CHECK(memcmp(got, "tuned!", 6) == 0);
    CHECK(vx_index_note(other, VX_NOTE_NAMES, got, 8, &n, NULL, NULL) == VX_OK && n == 5);
    CHECK(vx_index_set_note(other, VX_NOTE_NAMES, NULL, 0, NULL, NULL) == VX_OK);
    CHECK(vx_index_note(other, VX_NOTE_NAMES, got, 8, &n, NULL, NULL) == VX_OK && n == 0);
    free(file.bytes);
    vx_index_free(index);
    vx_index_free(other);
}

static vx_index *shared;
static _Atomic bool done;

static void change_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    (void)arg, (void)end, (void)who;
    const vx_run one = {1, NULL, NULL};
    uint64_t n_gone = 0;
    if (begin == 0) { /* deletes and compacts while the others search */
        for (vx_label i = 0; i < 60; i++) {
            CHECK(vx_index_delete(shared, &i, 1, VX_MISSING_ERROR, &one, &n_gone, NULL) == VX_OK);
            if (i % 20 == 19)
                CHECK(vx_index_compact(shared, &one, NULL) == VX_OK);
        }
        atomic_store(&done, true);
        return;
    }
    vx_label labels[100], out[100 * K];
    float dists[100 * K];
    for (size_t i = 0; i < 100; i++)
        labels[i] = (vx_label)i;
    const vx_search_params params = {K, 20, 0};
    do {
        CHECK(vx_index_search_rows(shared, labels, 100, &params, (int)begin % 2,
                                   VX_MISSING_IGNORE, &one, out, dists, NULL) == VX_OK);
        for (size_t i = 0; i < 100; i++)
            CHECK(i < 60 || out[i * K] != VX_NO_LABEL);
    } while (!atomic_load(&done));
}

VX_TEST(rows_are_searched_for_beside_a_writer)
{
    shared = make(400);
    atomic_store(&done, false);
    const vx_run run = {3, NULL, NULL};
    CHECK(vx_pool_run(3, 1, &run, 0, 0, change_piece, NULL) == VX_OK);
    vx_index_free(shared);
}
