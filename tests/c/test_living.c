/* test_living.c - readers beside a writer that adds, replaces, deletes and compacts;
 * graphs that deletion leaves behind; slots used again. */
#include "vecidx.h"

#include "base/vx_rng.h"
#include "base/vx_sync.h"
#include "index/index.h"
#include "vx_test.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#define DIM 20
#define K 8

/* The vector of a label in one of its versions: known by heart, so that a reader can
 * tell a torn row. */
static void make_row(vx_label label, unsigned version, float *row)
{
    for (size_t j = 0; j < DIM; j++) {
        const uint64_t centre = vx_hash64(vx_hash64((uint64_t)label) % 30 * 1000 + j);
        const uint64_t noise = vx_hash64((uint64_t)label * 7919 + j);
        row[j] = (float)(centre % 1000) / 500.0f + (float)(noise % 1000) / 1000.0f +
                 (float)version * 1e-3f;
    }
}

static double distance(const float *a, const float *b)
{
    double sum = 0;
    for (size_t j = 0; j < DIM; j++)
        sum += ((double)a[j] - (double)b[j]) * ((double)a[j] - (double)b[j]);
    return sum;
}

static vx_index *make_index(uint32_t M)
{
    const vx_params params = {.dim = DIM, .metric = VX_L2SQ, .M = M, .ef_construction = 60};
    vx_index *index = NULL;
    vx_error err;
    CHECK(vx_index_new(&params, &index, &err) == VX_OK);
    return index;
}

static void put(vx_index *index, vx_label begin, vx_label n, unsigned version, unsigned threads)
{
    float *rows = malloc((size_t)n * DIM * sizeof *rows);
    vx_label *labels = malloc((size_t)n * sizeof *labels);
    const vx_run run = {threads, NULL, NULL};
    vx_error err;
    for (vx_label i = 0; i < n; i++) {
        labels[i] = begin + i;
        make_row(begin + i, version, rows + i * DIM);
    }
    CHECK(vx_index_add(index, rows, (size_t)n, labels, VX_REPLACE, &run, NULL, NULL, &err) ==
          VX_OK);
    free(rows);
    free(labels);
}

/* Every step-th label from begin to end-1. */
static uint64_t take_out(vx_index *index, vx_label begin, vx_label end, vx_label step,
                         unsigned threads)
{
    vx_label *labels = malloc((size_t)(end - begin) * sizeof *labels);
    const vx_run run = {threads, NULL, NULL};
    uint64_t deleted = 0;
    vx_error err;
    size_t n = 0;
    for (vx_label label = begin; label < end; label += step)
        labels[n++] = label;
    CHECK(vx_index_delete(index, labels, n, VX_MISSING_ERROR, &run, &deleted, &err) == VX_OK);
    free(labels);
    return deleted;
}

static bool is_sound(vx_index *index)
{
    vx_check check = {0};
    vx_error err;
    const vx_status st = vx_index_check(index, NULL, &check, &err);
    if (st != VX_OK || check.n_unreachable > 0)
        printf("check: %s, %llu unreachable\n", st != VX_OK ? err.text : "sound",
               (unsigned long long)check.n_unreachable);
    return st == VX_OK && check.n_unreachable == 0;
}

/* ---- readers beside a writer ------------------------------------------------- */

/* Labels below STAY are there all the time, as version 0 or 1; those from STAY on
 * come and go. */
#define STAY 500
#define COME 700
#define N_READERS 3

static struct {
    vx_index *index;
    _Atomic bool done;
    _Atomic int n_left, n_looked, n_missed;
    _Atomic int n_gone; /* odd: labels from STAY on were deleted, and none is added */
} shared;

static void look_for(vx_label wanted, bool exact)
{
    float query[DIM], row[DIM];
    vx_label labels[K];
    float dists[K];
    vx_error err;
    const vx_search_params params = {K, 80, exact};
    make_row(wanted, 0, query);
    const int gone = atomic_load(&shared.n_gone);
    CHECK(vx_index_search(shared.index, query, 1, &params, NULL, labels, dists, &err) == VX_OK);
    const bool still_gone = gone % 2 == 1 && atomic_load(&shared.n_gone) == gone;
    size_t times = 0;
    for (size_t i = 0; i < K; i++) {
        bool is_whole = false;
        CHECK(labels[i] >= 0 && labels[i] < STAY + COME);
        CHECK(!still_gone || labels[i] < STAY);
        for (unsigned version = 0; version <= 1; version++) {
            make_row(labels[i], version, row);
            is_whole = is_whole || fabs(distance(query, row) - (double)dists[i]) < 1e-4;
        }
        CHECK(is_whole);
        times += labels[i] == wanted;
        for (size_t j = 0; j < i; j++)
            CHECK(labels[j] != labels[i]);
    }
    /* While links around it are changed a walk may miss a row; a scan may not. */
    CHECK(times == 1 || (times == 0 && !exact));
    atomic_fetch_add(&shared.n_missed, times == 0);
    atomic_fetch_add(&shared.n_looked, 1);
}

static VX_THREAD_MAIN(reader_main, unused)
{
    (void)unused;
    uint64_t i = 0;
    while (!atomic_load(&shared.done)) {
        const vx_label wanted = (vx_label)(vx_hash64(i++) % STAY);
        float row[DIM], query[DIM];
        vx_error err;
        look_for(wanted, i % 8 == 0);
        make_row(wanted, 0, query);
        CHECK(vx_index_get(shared.index, &wanted, 1, row, &err) == VX_OK);
        CHECK(distance(row, query) < 1e-3);
        if (i % 32 == 0) {
            vx_stats stats;
            vx_label labels[STAY + COME];
            uint64_t n = 0;
            CHECK(vx_index_labels(shared.index, labels, STAY + COME, &n, &err) == VX_OK);
            CHECK(n >= STAY && vx_index_stats(shared.index, &stats, &err) == VX_OK);
        }
    }
    atomic_fetch_sub(&shared.n_left, 1);
    return VX_THREAD_END;
}

VX_TEST(readers_beside_a_writer_that_does_everything)
{
    shared.index = make_index(8);
    put(shared.index, 0, STAY, 0, 2);
    atomic_store(&shared.n_left, N_READERS);
    for (int i = 0; i < N_READERS; i++)
        CHECK(vx_thread_start(reader_main, NULL));
    for (unsigned round = 0; round < 4; round++) {
        put(shared.index, STAY, COME, 0, 2);
        for (vx_label at = 0; at < STAY; at += 100)
            put(shared.index, at, 100, (round + 1) % 2, 1);
        CHECK(take_out(shared.index, STAY, STAY + COME, 7, 2) == COME / 7);
        put(shared.index, STAY, COME / 3, 1, 2);
        for (vx_label label = STAY; label < STAY + COME; label++) {
            uint64_t deleted = 0;
            vx_error err;
            if (label % 9 == 0 || label == STAY + COME - 1) /* some alone, the rest in one call */
                CHECK(vx_index_delete(shared.index, &label, 1, VX_MISSING_IGNORE, NULL, &deleted,
                                      &err) == VX_OK);
        }
        vx_label all[COME];
        uint64_t deleted = 0;
        vx_error err;
        for (vx_label i = 0; i < COME; i++)
            all[i] = STAY + i;
        CHECK(vx_index_delete(shared.index, all, COME, VX_MISSING_IGNORE, NULL, &deleted, &err) ==
              VX_OK);
        atomic_fetch_add(&shared.n_gone, 1);
        if (round % 2 == 1)
            CHECK(vx_index_compact(shared.index, NULL, &err) == VX_OK);
        (void)usleep(2000);
        CHECK(is_sound(shared.index) && vx_index_count(shared.index) == STAY);
        atomic_fetch_add(&shared.n_gone, 1);
    }
    atomic_store(&shared.done, true);
    while (atomic_load(&shared.n_left) > 0)
        (void)usleep(1000);
    CHECK(atomic_load(&shared.n_missed) <= atomic_load(&shared.n_looked) / 1000 + 1);
    CHECK(is_sound(shared.index));
    vx_index_free(shared.index);
}

/* ---- what a deletion leaves ----------------------------------------------------- */

static bool have_equal_links(vx_index *a, vx_index *b, vx_label n)
{
    for (vx_label i = 0; i < n; i++) {
        vx_label of_a[64], of_b[64];
        size_t chosen_a = 0, chosen_b = 0;
        const size_t n_a = vx_test_links(a, i, of_a, 64, &chosen_a);
        const size_t n_b = vx_test_links(b, i, of_b, 64, &chosen_b);
        if (n_a != n_b || chosen_a != chosen_b || memcmp(of_a, of_b, n_a * sizeof *of_a) != 0)
            return false;
    }
    return true;
}

static vx_index *live(unsigned threads)
{
    vx_index *index = make_index(8);
    put(index, 0, 2000, 0, threads);
    CHECK(take_out(index, 0, 2000, 3, threads) == 667);
    put(index, 1500, 700, 1, threads);
    CHECK(take_out(index, 1, 9, 3, threads) == 3); /* few: looked around */
    CHECK(take_out(index, 1000, 1300, 3, threads) == 100);
    put(index, 4000, 300, 0, threads);
    return index;
}

VX_TEST(a_mended_graph_does_not_depend_on_threads)
{
    vx_index *one = live(1);
    CHECK(is_sound(one));
    for (unsigned threads = 2; threads <= 5; threads += 3) {
        vx_index *index = live(threads);
        CHECK(is_sound(index) && have_equal_links(one, index, 4300));
        vx_index_free(index);
    }
    vx_index_free(one);
}

VX_TEST(slots_are_used_again)
{
    vx_index *index = make_index(8);
    vx_stats stats;
    vx_error err;
    put(index, 0, 2000, 0, 2);
    for (vx_label round = 1; round <= 5; round++) {
        CHECK(take_out(index, (round - 1) * 2000, round * 2000, 1, 2) == 2000);
        CHECK(vx_index_stats(index, &stats, &err) == VX_OK && stats.n_free == 2000);
        put(index, round * 2000, 2000, 0, 2);
        CHECK(vx_index_stats(index, &stats, &err) == VX_OK);
        CHECK(stats.n_live == 2000 && stats.n_free == 0 && stats.n_deleted == 0);
        CHECK(atomic_load(&atomic_load(&index->graph.view)->n_rows) == 2000);
        CHECK(is_sound(index));
    }
    vx_index_free(index);
}

/* A search that is still at a row keeps its slot from being used again. */
VX_TEST(a_slot_waits_for_the_searches_that_may_be_at_it)
{
    vx_index *index = make_index(8);
    vx_view *view = NULL;
    put(index, 0, 400, 0, 1);
    vx_ctx *ctx = vx_ctx_take(&index->graph, &view);
    const vx_snapshot before = vx_view_snapshot(view);
    float row[DIM];
    make_row(7, 0, row);
    CHECK(take_out(index, 0, 200, 1, 1) == 200);
    put(index, 1000, 200, 0, 1);
    CHECK(atomic_load(&view->n_rows) == 600); /* not in the old slots */
    CHECK(vx_view_sees(view, &before, 7) && !vx_view_sees(view, &before, 450));
    CHECK(memcmp(vx_view_vector(view, 7), row, sizeof row) == 0);
    CHECK(atomic_load(&view->unlinked) > before.seq); /* so its walk would not do */

    /* It does not find less than it saw: the links may be gone, the rows are not. */
    vx_label found[K];
    float dists[K];
    CHECK(vx_ctx_fit(ctx, view, before.n, 64));
    memcpy(ctx->query, row, sizeof row);
    const vx_effort effort = vx_graph_effort(view, &before, K, 50, 400);
    vx_ctx *const ctxs[2] = {ctx, NULL};
    vx_graph_search(&index->graph, view, &before, ctxs, 1, &effort, NULL, found, dists);
    CHECK(found[0] == 7 && dists[0] < 1e-6f);
    vx_ctx_release(ctx);

    put(index, 2000, 150, 0, 1);
    CHECK(atomic_load(&view->n_rows) == 600); /* now they are used */
    CHECK(is_sound(index));
    vx_index_free(index);
}

VX_TEST(an_old_view_outlives_a_compaction_while_it_is_read)
{
    vx_index *index = make_index(8);
    vx_view *view = NULL;
    vx_error err;
    put(index, 0, 1000, 0, 2);
    CHECK(take_out(index, 0, 600, 1, 2) == 600);
    vx_ctx *ctx = vx_ctx_take(&index->graph, &view);
    CHECK(vx_index_compact(index, NULL, &err) == VX_OK);
    CHECK(atomic_load(&index->graph.view) != view && index->graph.retired == view);
    float row[DIM];
    make_row(700, 0, row);
    CHECK(memcmp(vx_view_vector(view, 700), row, sizeof row) == 0);
    vx_ctx_release(ctx);
    put(index, 5000, 10, 0, 1);
    CHECK(index->graph.retired == NULL);
    CHECK(atomic_load(&atomic_load(&index->graph.view)->n_rows) == 410 && is_sound(index));
    vx_index_free(index);
}

/* ---- stopping, and running out ----------------------------------------------------- */

static int stop_at_zero(void *arg, uint64_t done, uint64_t total)
{
    (void)done, (void)total;
    return --*(int *)arg <= 0;
}

/* It used to pass or fail by the clock: ticks came every 20 ms, and whether the delete
 * that follows sweeps depends on what the interrupted one left. */
VX_TEST(an_interrupted_delete_is_whole_and_is_mended_later)
{
    int n_stopped = 0;
    vx_test_tick_always(1);
    for (int at = 1; at < 40; at += 4) {
        int left = at;
        vx_index *index = make_index(16);
        const vx_run run = {1, stop_at_zero, &left};
        vx_label labels[2500];
        uint64_t deleted = 0;
        vx_error err;
        put(index, 0, 5000, 0, 2);
        for (vx_label i = 0; i < 2500; i++)
            labels[i] = 2 * i;
        const vx_status st =
            vx_index_delete(index, labels, 2500, VX_MISSING_ERROR, &run, &deleted, &err);
        CHECK(st == VX_OK || st == VX_E_INTERRUPTED);
        n_stopped += st == VX_E_INTERRUPTED;
        CHECK(deleted == 2500 && vx_index_count(index) == 2500 && is_sound(index));
        CHECK(take_out(index, 1, 2, 1, 2) == 1 && is_sound(index));
        CHECK(vx_index_repair(index, NULL, &err) == VX_OK && is_sound(index));
        CHECK(index->graph.graves.n_linked == 0 && index->graph.graves.n_free == 2501);
        vx_index_free(index);
    }
    vx_test_tick_always(0);
    CHECK(n_stopped >= 4);
}

VX_TEST(every_allocation_may_fail)
{
    int n_failed = 0;
    for (uint64_t nth = 1; nth <= 40; nth++) {
        vx_index *index = make_index(8);
        vx_label labels[200];
        uint64_t deleted = 0;
        vx_error err;
        put(index, 0, 400, 0, 1);
        put(index, 50, 20, 0, 1); /* chains and heirs */
        for (vx_label i = 0; i < 200; i++)
            labels[i] = 2 * i;
        vx_test_fail_alloc(nth);
        const vx_status died =
            vx_index_delete(index, labels, 200, VX_MISSING_ERROR, NULL, &deleted, &err);
        const vx_status packed = vx_index_compact(index, NULL, &err);
        vx_test_fail_alloc(0);
        CHECK(died == VX_OK || (died == VX_E_NOMEM && deleted == 0));
        CHECK(packed == VX_OK || packed == VX_E_NOMEM);
        n_failed += died != VX_OK || packed != VX_OK;
        CHECK(vx_index_count(index) == 400 - deleted && is_sound(index));
        put(index, 100, 300, 1, 1);
        CHECK(vx_index_compact(index, NULL, &err) == VX_OK && is_sound(index));
        vx_index_free(index);
    }
    CHECK(n_failed > 5);
}

VX_TEST(equal_rows_keep_their_place_when_their_node_dies)
{
    enum { VALUES = 120, TIMES = 6 };
    vx_index *index = make_index(6);
    float *rows = malloc(VALUES * TIMES * DIM * sizeof *rows);
    vx_label labels[TIMES];
    float dists[TIMES];
    vx_error err;
    for (size_t i = 0; i < VALUES * TIMES; i++)
        make_row((vx_label)(i % VALUES), 0, rows + i * DIM);
    CHECK(vx_index_add(index, rows, VALUES * TIMES, NULL, VX_REPLACE, NULL, NULL, NULL, &err) ==
          VX_OK);
    for (size_t gone = 1; gone < TIMES; gone++) {
        CHECK(take_out(index, (vx_label)(gone - 1) * VALUES, (vx_label)gone * VALUES, 1, 2) ==
              VALUES);
        CHECK(is_sound(index));
        for (size_t i = 0; i < VALUES; i++) {
            const vx_search_params params = {TIMES, 40, 0};
            CHECK(vx_index_search(index, rows + i * DIM, 1, &params, NULL, labels, dists, &err) ==
                  VX_OK);
            for (size_t j = 0; j < TIMES - gone; j++)
                CHECK(labels[j] == (vx_label)((gone + j) * VALUES + i) && dists[j] == 0);
            CHECK(dists[TIMES - gone] > 0);
        }
    }
    vx_index_free(index);
    free(rows);
}
