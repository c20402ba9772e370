/* test_index.c - the whole core through vecidx.h: recall, threads, readers beside
 * a writer, interruption, and every allocation failing in turn. */
#include "vecidx.h"

#include "base/vx_rng.h"
#include "base/vx_sync.h"
#include "index/index.h"
#include "vx_test.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#define DIM 24
#define K 10

/* Gaussian-like rows around a few centres: noise alone has no neighbourhoods. */
static float *make_rows(size_t n, uint64_t seed)
{
    float *rows = malloc(n * DIM * sizeof *rows);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < DIM; j++) {
            const uint64_t centre = vx_hash64(vx_hash64(seed ^ i) % 50 * 1000 + j);
            const uint64_t noise = vx_hash64(seed * 7919 + i * DIM + j);
            rows[i * DIM + j] = (float)(centre % 1000) / 500.0f + (float)(noise % 1000) / 1000.0f;
        }
    return rows;
}

static vx_index *make_index(vx_metric metric)
{
    const vx_params params = {.dim = DIM, .metric = metric, .M = 8, .ef_construction = 60};
    vx_index *index = NULL;
    vx_error err;
    CHECK(vx_index_new(&params, &index, &err) == VX_OK);
    return index;
}

static bool add(vx_index *index, const float *rows, size_t n, unsigned threads)
{
    const vx_run run = {threads, NULL, NULL};
    vx_error err;
    uint64_t added = 0;
    const vx_status st = vx_index_add(index, rows, n, NULL, VX_REPLACE, &run, NULL, &added, &err);
    return st == VX_OK && added == n;
}

static double distance(vx_metric metric, const float *a, const float *b)
{
    double l2 = 0, dot = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < DIM; i++) {
        l2 += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        dot += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
    }
    return metric == VX_L2SQ ? l2 : metric == VX_IP ? 1 - dot : 1 - dot / sqrt(aa * bb);
}

/* How many of the rows are nearer than `dist`, in float64. */
static size_t count_nearer(vx_metric metric, const float *rows, size_t n, const float *query,
                           double dist)
{
    size_t nearer = 0;
    for (size_t i = 0; i < n; i++)
        nearer += distance(metric, query, rows + i * DIM) < dist - 1e-4;
    return nearer;
}

static bool is_sound(vx_index *index)
{
    vx_check check = {0};
    vx_error err;
    const vx_status st = vx_index_check(index, NULL, &check, &err);
    if (st != VX_OK)
        printf("check: %s\n", err.text);
    return st == VX_OK && check.n_unreachable == 0;
}

static void recall_at_level(const char *level, vx_metric metric)
{
    enum { N = 3000, Q = 40 };
    vx_error err;
    CHECK(vx_simd_init(level, &err) == VX_OK && strcmp(vx_simd_level(), level) == 0);
    float *rows = make_rows(N, 1), *queries = make_rows(Q, 2);
    vx_index *index = make_index(metric);
    CHECK(add(index, rows, N, 2) && is_sound(index));
    vx_label labels[Q * K];
    float dists[Q * K];
    for (int exact = 0; exact <= 1; exact++) {
        const vx_search_params params = {K, 60, exact};
        CHECK(vx_index_search(index, queries, Q, &params, NULL, labels, dists, &err) == VX_OK);
        size_t found = 0;
        for (size_t q = 0; q < Q; q++)
            for (size_t i = 0; i < K; i++) {
                const float *row = rows + (size_t)labels[q * K + i] * DIM;
                const double true_dist = distance(metric, queries + q * DIM, row);
                CHECK(fabs(true_dist - (double)dists[q * K + i]) < 1e-4);
                CHECK(i == 0 || dists[q * K + i - 1] <= dists[q * K + i]);
                found += count_nearer(metric, rows, N, queries + q * DIM, true_dist) < K;
            }
        /* Raw inner products are no metric: long rows hide the others. */
        const size_t least = metric == VX_IP ? Q * K * 80 / 100 : Q * K * 95 / 100;
        CHECK(found >= (exact ? Q * K : least));
    }
    vx_index_free(index);
    free(rows);
    free(queries);
}

VX_TEST(every_level_finds_the_nearest)
{
    const char *level;
    for (size_t i = 0; (level = vx_simd_available(i)) != NULL; i++) {
        recall_at_level(level, VX_L2SQ);
        recall_at_level(level, VX_COSINE);
        recall_at_level(level, VX_IP);
    }
    CHECK(vx_simd_init(NULL, NULL) == VX_OK);
}

static bool have_equal_links(vx_index *a, vx_index *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        vx_label of_a[64], of_b[64];
        size_t chosen_a = 0, chosen_b = 0;
        const size_t n_a = vx_test_links(a, (vx_label)i, of_a, 64, &chosen_a);
        const size_t n_b = vx_test_links(b, (vx_label)i, of_b, 64, &chosen_b);
        if (n_a != n_b || chosen_a != chosen_b || memcmp(of_a, of_b, n_a * sizeof *of_a) != 0)
            return false;
    }
    return true;
}

VX_TEST(the_graph_does_not_depend_on_threads)
{
    enum { N = 2500 };
    float *rows = make_rows(N, 3);
    for (size_t i = 0; i < N; i += 9) /* some equal rows, near and far in the order */
        memcpy(rows + i * DIM, rows + (i / 2) * DIM, DIM * sizeof *rows);
    vx_index *one = make_index(VX_L2SQ);
    CHECK(add(one, rows, N, 1));
    const unsigned others[] = {2, 3, 8};
    for (size_t i = 0; i < 3; i++) {
        vx_index *index = make_index(VX_L2SQ);
        CHECK(add(index, rows, N, others[i]) && is_sound(index));
        CHECK(have_equal_links(one, index, N));
        vx_index_free(index);
    }
    vx_index_free(one);
    free(rows);
}

/* ---- readers beside a writer ------------------------------------------------ */

#define N_ROWS 1200
#define N_READERS 3

static struct {
    vx_index *index;
    float *old_rows, *new_rows;
    _Atomic bool done;
    _Atomic int n_left;
} shared;

/* Asks for a row by its old vector: the label must come once, at the old vector or
 * at the new one, which lies closer to it than anything else does. */
static VX_THREAD_MAIN(reader_main, unused)
{
    (void)unused;
    uint64_t i = 0;
    while (!atomic_load(&shared.done)) {
        const vx_label wanted = (vx_label)(vx_hash64(i++) % N_ROWS);
        const float *query = shared.old_rows + (size_t)wanted * DIM;
        vx_label labels[K];
        float dists[K];
        vx_error err;
        const vx_search_params params = {K, 80, i % 16 == 0};
        CHECK(vx_index_search(shared.index, query, 1, &params, NULL, labels, dists, &err) == VX_OK);
        size_t times = 0;
        for (size_t j = 0; j < K; j++) {
            times += labels[j] == wanted;
            for (size_t l = 0; l < j; l++)
                CHECK(labels[l] != labels[j]);
        }
        CHECK(times == 1);
        float row[DIM];
        CHECK(vx_index_get(shared.index, &wanted, 1, row, &err) == VX_OK);
        CHECK(memcmp(row, query, sizeof row) == 0 ||
              memcmp(row, shared.new_rows + (size_t)wanted * DIM, sizeof row) == 0);
    }
    atomic_fetch_sub(&shared.n_left, 1);
    return VX_THREAD_END;
}

VX_TEST(readers_see_the_old_row_or_the_new)
{
    shared.index = make_index(VX_L2SQ);
    shared.old_rows = make_rows(N_ROWS, 4);
    shared.new_rows = malloc(N_ROWS * DIM * sizeof(float));
    for (size_t i = 0; i < N_ROWS * DIM; i++)
        shared.new_rows[i] = shared.old_rows[i] + 1e-3f;
    CHECK(add(shared.index, shared.old_rows, N_ROWS, 1));
    atomic_store(&shared.done, false);
    atomic_store(&shared.n_left, N_READERS);
    for (int i = 0; i < N_READERS; i++)
        CHECK(vx_thread_start(reader_main, NULL));

    for (vx_label at = 0; at < N_ROWS; at += 40) {
        vx_label labels[40];
        for (vx_label i = 0; i < 40; i++)
            labels[i] = at + i;
        vx_error err;
        CHECK(vx_index_add(shared.index, shared.new_rows + (size_t)at * DIM, 40, labels, VX_REPLACE,
                           NULL, NULL, NULL, &err) == VX_OK);
    }
    atomic_store(&shared.done, true);
    while (atomic_load(&shared.n_left) > 0)
        (void)usleep(1000);
    CHECK(is_sound(shared.index) && vx_index_count(shared.index) == N_ROWS);
    vx_index_free(shared.index);
    free(shared.old_rows);
    free(shared.new_rows);
}

/* The moment between the two is too short to meet by chance: look at the numbers. */
VX_TEST(every_snapshot_holds_one_of_the_two)
{
    enum { N = 50 };
    float *rows = make_rows(N, 11);
    vx_index *index = make_index(VX_L2SQ);
    const vx_label again[] = {3, 4};
    vx_error err;
    CHECK(add(index, rows, N, 1));
    CHECK(vx_index_add(index, rows + 10 * DIM, 2, again, VX_REPLACE, NULL, NULL, NULL, &err) ==
          VX_OK);
    vx_view *view = atomic_load(&index->graph.view);
    vx_snapshot after = vx_view_snapshot(view), before = after;
    before.seq--;
    CHECK(after.n == N + 2 && after.any_dead);
    CHECK(vx_view_sees(view, &before, 3) && !vx_view_sees(view, &before, N));
    CHECK(!vx_view_sees(view, &after, 3) && vx_view_sees(view, &after, N));
    CHECK(vx_view_sees(view, &before, 7) && vx_view_sees(view, &after, 7));
    vx_index_free(index);
    free(rows);
}

VX_TEST(equal_distances_come_by_label)
{
    enum { N = 400 };
    float *rows = make_rows(N, 12);
    vx_label labels[N], found[K];
    float dists[K];
    vx_error err;
    for (size_t i = 0; i < N; i++) {
        labels[i] = (vx_label)(N - i);
        memcpy(rows + i * DIM, rows + i % 40 * DIM, DIM * sizeof *rows); /* ten of each */
    }
    vx_index *index = make_index(VX_L2SQ);
    CHECK(vx_index_add(index, rows, N, labels, VX_ERROR, NULL, NULL, NULL, &err) == VX_OK);
    for (int exact = 0; exact <= 1; exact++) {
        const vx_search_params params = {K, 50, exact};
        CHECK(vx_index_search(index, rows, 1, &params, NULL, found, dists, &err) == VX_OK);
        for (size_t i = 0; i < K; i++)
            CHECK(dists[i] == 0 && (i == 0 || found[i - 1] < found[i]));
    }
    vx_index_free(index);
    free(rows);
}

/* ---- stopping, and running out ------------------------------------------------ */

static int stop_at(void *arg, uint64_t done, uint64_t total)
{
    (void)total;
    return done >= *(const uint64_t *)arg;
}

VX_TEST(an_interrupted_add_keeps_its_batches)
{
    enum { N = 20000 };
    float *rows = make_rows(N, 5);
    uint64_t limit = 600;
    const vx_run run = {2, stop_at, &limit};
    vx_index *index = make_index(VX_L2SQ);
    vx_error err;
    uint64_t added = 0;
    const vx_status st = vx_index_add(index, rows, N, NULL, VX_REPLACE, &run, NULL, &added, &err);
    CHECK(st == VX_E_INTERRUPTED && added < N);
    CHECK(vx_index_count(index) == added && is_sound(index));
    CHECK(add(index, rows + added * DIM, 3000, 2));
    CHECK(vx_index_count(index) == added + 3000 && is_sound(index));
    vx_index_free(index);
    free(rows);
}

/* One life of an index; false if memory ran out on the way. */
static bool live_once(const float *rows, size_t n, const char *path)
{
    const vx_params params = {.dim = DIM, .metric = VX_COSINE, .M = 8, .ef_construction = 40};
    const vx_run run = {2, NULL, NULL};
    vx_index *index = NULL, *loaded = NULL;
    vx_label labels[K];
    float dists[K];
    vx_error err;
    const vx_search_params search = {K, 50, 0};
    bool whole = vx_index_new(&params, &index, &err) == VX_OK;
    for (size_t half = 0; whole && half < 2; half++) {
        const uint64_t before = vx_index_count(index);
        uint64_t added = 0;
        const vx_status st = vx_index_add(index, rows + half * n / 2 * DIM, n / 2, NULL, VX_REPLACE,
                                          &run, NULL, &added, &err);
        CHECK(st == VX_OK || st == VX_E_NOMEM);
        CHECK(vx_index_count(index) == before + added);
        whole = st == VX_OK;
    }
    if (whole) {
        const vx_status st = vx_index_search(index, rows, 1, &search, NULL, labels, dists, &err);
        CHECK(st == VX_OK || st == VX_E_NOMEM);
        CHECK(st != VX_OK || labels[0] == 0);
        whole = st == VX_OK;
    }
    if (whole) {
        const vx_status st = vx_index_save(index, path, NULL, &err);
        CHECK(st == VX_OK || st == VX_E_NOMEM);
        whole = st == VX_OK;
    }
    if (whole) {
        const vx_status st = vx_index_load(path, NULL, NULL, &loaded, &err);
        CHECK(st == VX_OK || st == VX_E_NOMEM);
        whole = st == VX_OK;
    }
    /* Nothing more fails: what is there must be sound. */
    vx_test_fail_alloc(0);
    if (index != NULL)
        CHECK(vx_index_count(index) == 0 || is_sound(index));
    if (loaded != NULL)
        CHECK(vx_index_count(loaded) == n && is_sound(loaded));
    vx_index_free(index);
    vx_index_free(loaded);
    return whole;
}

VX_TEST(every_allocation_may_fail)
{
    char path[] = "/tmp/vecidx-test-XXXXXX";
    const int fd = mkstemp(path);
    CHECK(fd >= 0);
    (void)close(fd);
    float *rows = make_rows(600, 6);
    /* Some failures are got over (less address space, no kept distances), so a
     * whole life does not mean that the last allocation was passed. */
    int n_broken = 0, n_whole = 0;
    for (uint64_t nth = 1; nth <= 120; nth++) {
        vx_test_fail_alloc(nth);
        if (live_once(rows, 600, path))
            n_whole++;
        else
            n_broken++;
        vx_test_fail_alloc(0);
    }
    CHECK(n_broken > 20 && n_whole > 20);
    (void)unlink(path);
    free(rows);
}

VX_TEST(a_saved_index_answers_alike)
{
    char path[] = "/tmp/vecidx-test-XXXXXX";
    const int fd = mkstemp(path);
    CHECK(fd >= 0);
    (void)close(fd);
    enum { N = 1500 };
    float *rows = make_rows(N, 7);
    memcpy(rows + 700 * DIM, rows + 3 * DIM, DIM * sizeof *rows); /* twins */
    vx_index *index = make_index(VX_COSINE), *loaded = NULL;
    vx_error err;
    CHECK(add(index, rows, N, 2));
    const vx_label again[] = {5, 6, 7};
    CHECK(vx_index_add(index, rows, 3, again, VX_REPLACE, NULL, NULL, NULL, &err) == VX_OK);
    CHECK(vx_index_save(index, path, NULL, &err) == VX_OK);
    CHECK(vx_index_load(path, NULL, NULL, &loaded, &err) == VX_OK);
    CHECK(is_sound(loaded) && vx_index_count(loaded) == N);
    vx_label of_index[K], of_loaded[K];
    float d_index[K], d_loaded[K];
    const vx_search_params params = {K, 40, 0};
    for (size_t q = 0; q < N; q += 7) {
        CHECK(vx_index_search(index, rows + q * DIM, 1, &params, NULL, of_index, d_index, &err) ==
              VX_OK);
        CHECK(vx_index_search(loaded, rows + q * DIM, 1, &params, NULL, of_loaded, d_loaded,
                              &err) == VX_OK);
        CHECK(memcmp(of_index, of_loaded, sizeof of_index) == 0);
        CHECK(memcmp(d_index, d_loaded, sizeof d_index) == 0);
    }
    vx_index_free(index);
    vx_index_free(loaded);
    (void)unlink(path);
    free(rows);
}

/* Share of queries whose nearest row by walk is as near as by scan. */
static double share_found(vx_index *index, const float *queries, size_t n)
{
    size_t found = 0;
    for (size_t q = 0; q < n; q++) {
        vx_label label;
        float walked = INFINITY, scanned = 0;
        vx_error err;
        const vx_search_params walk = {1, 60, 0}, scan = {1, 60, 1};
        CHECK(vx_index_search(index, queries + q * DIM, 1, &walk, NULL, &label, &walked, &err) ==
              VX_OK);
        CHECK(vx_index_search(index, queries + q * DIM, 1, &scan, NULL, &label, &scanned, &err) ==
              VX_OK);
        found += walked <= scanned + 1e-6f;
    }
    return (double)found / (double)n;
}

/* Copies used to fill the candidate list of the first of them, which then had no
 * links but to itself. */
VX_TEST(a_crowd_of_copies_in_one_batch_is_found)
{
    enum { N = 20000, COPIES = 300 };
    float *rows = make_rows(N + 1, 9);
    float *copies = malloc(COPIES * DIM * sizeof *copies);
    for (size_t i = 0; i < COPIES; i++)
        memcpy(copies + i * DIM, rows + N * DIM, DIM * sizeof *copies);
    vx_index *index = make_index(VX_L2SQ);
    CHECK(add(index, rows, N, 2) && add(index, copies, COPIES, 2) && is_sound(index));
    CHECK(share_found(index, copies, 3) == 1.0);
    CHECK(share_found(index, rows, 200) >= 0.99);
    vx_index_free(index);
    free(rows);
    free(copies);
}

VX_TEST(rows_repeated_in_runs_are_found)
{
    enum { VALUES = 200, TIMES = 100 };
    float *values = make_rows(VALUES, 10);
    float *rows = malloc(VALUES * TIMES * DIM * sizeof *rows);
    for (size_t i = 0; i < VALUES * TIMES; i++)
        memcpy(rows + i * DIM, values + i / TIMES * DIM, DIM * sizeof *rows);
    for (vx_metric metric = VX_L2SQ; metric <= VX_COSINE; metric++) {
        vx_index *index = make_index(metric);
        vx_stats stats;
        vx_error err;
        CHECK(add(index, rows, VALUES * TIMES, 2) && is_sound(index));
        CHECK(vx_index_stats(index, &stats, &err) == VX_OK);
        CHECK(stats.n_twins >= VALUES * TIMES - VALUES - VALUES / 10);
        CHECK(share_found(index, values, VALUES) >= 0.98);
        vx_index_free(index);
    }
    free(values);
    free(rows);
}

VX_TEST(fewer_rows_than_k_are_padded)
{
    float *rows = make_rows(3, 8);
    vx_index *index = make_index(VX_L2SQ);
    vx_label labels[K];
    float dists[K];
    vx_error err;
    const vx_search_params params = {K, 0, 0};
    for (size_t n = 0; n <= 3; n++) {
        CHECK(n == 0 || add(index, rows + (n - 1) * DIM, 1, 1));
        CHECK(vx_index_search(index, rows, 1, &params, NULL, labels, dists, &err) == VX_OK);
        for (size_t i = 0; i < K; i++)
            CHECK((labels[i] == VX_NO_LABEL) == (i >= n) && !isinf(dists[i]) == (i < n));
    }
    vx_index_free(index);
    free(rows);
}
