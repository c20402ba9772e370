/* test_drift.c - rows linked again by new codes, and who changes them meanwhile. */
#include "vecidx.h"

#include "base/vx_rng.h"
#include "base/vx_sync.h"
#include "index/index.h"
#include "vx_test.h"

#include <stdlib.h>
#include <unistd.h>

#define DIM 20
#define OLD 10000 /* rows that codes are trained on                               */
#define ODD 39    /* rows outside these, as many as are borne                     */
#define MORE 4    /* ... and then too many                                        */

static vx_index *shared;
static _Atomic int n_links, is_held, is_done;

static float *make_rows(vx_label begin, size_t n, float shift)
{
    float *rows = malloc(n * DIM * sizeof *rows);
    for (size_t i = 0; i < n * DIM; i++)
        rows[i] = (float)(vx_hash64((uint64_t)begin * DIM + i) % 2000) / 1000.0f + shift;
    return rows;
}

static void add(vx_label begin, size_t n, float shift)
{
    float *rows = make_rows(begin, n, shift);
    vx_label *labels = malloc(n * sizeof *labels);
    vx_error err;
    for (size_t i = 0; i < n; i++)
        labels[i] = begin + (vx_label)i;
    CHECK(vx_index_add(shared, rows, n, labels, VX_REPLACE, NULL, NULL, NULL, &err) == VX_OK);
    free(rows);
    free(labels);
}

static VX_THREAD_MAIN(add_main, arg)
{
    (void)arg;
    add(OLD + ODD, MORE, 10);
    atomic_fetch_add(&is_done, 1);
    return VX_THREAD_END;
}

/* Half of the odd rows go; the others get new vectors (replace_main). */
static VX_THREAD_MAIN(delete_main, arg)
{
    vx_label gone[ODD / 2];
    uint64_t n = 0;
    vx_error err;
    (void)arg;
    for (vx_label i = 0; i < ODD / 2; i++)
        gone[i] = OLD + i;
    CHECK(vx_index_delete(shared, gone, ODD / 2, VX_MISSING_ERROR, NULL, &n, &err) == VX_OK);
    atomic_fetch_add(&is_done, 1);
    return VX_THREAD_END;
}

static VX_THREAD_MAIN(replace_main, arg)
{
    (void)arg;
    add(OLD + ODD / 2, ODD - ODD / 2, 20);
    atomic_fetch_add(&is_done, 1);
    return VX_THREAD_END;
}

static void on_step(vx_step step)
{
    if (step != VX_STEP_LINK || atomic_fetch_add(&n_links, 1) > 0)
        return;
    atomic_store(&is_held, 1);
    while (atomic_load(&shared->writer.n_waiting) < 2)
        (void)usleep(100);
}

static void wait_until(_Atomic int *flag, int value)
{
    while (atomic_load(flag) < value)
        (void)usleep(100);
}

VX_TEST(what_others_change_stays_changed)
{
    const vx_params params = {.dim = DIM, .metric = VX_L2SQ, .M = 8, .ef_construction = 20,
                              .quantization = VX_QUANT_SQ8};
    vx_check check = {0};
    vx_error err;
    CHECK(vx_index_new(&params, &shared, &err) == VX_OK);
    add(0, OLD, 0);
    add(OLD, ODD, 10);
    vx_test_on_step(on_step);
    CHECK(vx_thread_start(add_main, NULL));
    wait_until(&is_held, 1);
    CHECK(vx_thread_start(delete_main, NULL));
    CHECK(vx_thread_start(replace_main, NULL));
    wait_until(&is_done, 3);
    vx_test_on_step(NULL);
    CHECK(atomic_load(&n_links) > 2); /* the add's, and those of rows linked again */
    float *want = make_rows(OLD + ODD / 2, ODD - ODD / 2, 20);
    for (vx_label i = 0; i < ODD; i++) {
        const vx_label label = OLD + i;
        float row[DIM];
        const bool is_there = vx_index_get(shared, &label, 1, row, &err) == VX_OK;
        CHECK(is_there == (i >= ODD / 2));
        CHECK(i < ODD / 2 || memcmp(row, want + (i - ODD / 2) * DIM, sizeof row) == 0);
    }
    free(want);
    CHECK(vx_index_count(shared) == OLD + ODD - ODD / 2 + MORE);
    CHECK(vx_index_check(shared, NULL, &check, &err) == VX_OK && check.n_unreachable == 0);
    vx_index_free(shared);
}
