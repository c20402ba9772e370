/* test_writers.c - several writers of one index: their order, a long add that lets others
 * through, and searches beside a writer that stands still in the middle of an update. */
#include "vecidx.h"

#include "base/vx_rng.h"
#include "base/vx_sync.h"
#include "index/index.h"
#include "vx_test.h"

#include <stdlib.h>
#include <unistd.h>

#define DIM 12
#define K 5

static void make_row(vx_label label, float *row)
{
    for (size_t j = 0; j < DIM; j++)
        row[j] = (float)(vx_hash64((uint64_t)label * DIM + j) % 2000) / 1000.0f;
}

/* n rows that belong to the labels from `of` on; to be freed. */
static float *make_rows(vx_label of, size_t n)
{
    float *rows = malloc(n * DIM * sizeof *rows);
    for (size_t i = 0; i < n; i++)
        make_row(of + (vx_label)i, rows + i * DIM);
    return rows;
}

static vx_index *make_index(void)
{
    const vx_params params = {.dim = DIM, .metric = VX_L2SQ, .M = 8, .ef_construction = 40};
    vx_index *index = NULL;
    vx_error err;
    CHECK(vx_index_new(&params, &index, &err) == VX_OK);
    return index;
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

/* Does `label` hold the row that belongs to `of`? */
static bool holds(vx_index *index, vx_label label, vx_label of)
{
    float row[DIM], want[DIM];
    vx_error err;
    make_row(of, want);
    return vx_index_get(index, &label, 1, row, &err) == VX_OK &&
           memcmp(row, want, sizeof row) == 0;
}

static bool finds(vx_index *index, vx_label label)
{
    float query[DIM], dists[K];
    vx_label labels[K];
    vx_error err;
    const vx_search_params params = {K, 60, 0};
    make_row(label, query);
    return vx_index_search(index, query, 1, &params, NULL, labels, dists, &err) == VX_OK &&
           labels[0] == label && dists[0] == 0;
}

static void wait_until(_Atomic int *flag, int value)
{
    while (atomic_load(flag) < value)
        (void)usleep(100);
}

/* ---- the queue ---------------------------------------------------------------- */

static struct {
    vx_writer writer;
    _Atomic int n_done;
    int order[8];
} line;

static VX_THREAD_MAIN(queue_main, arg)
{
    vx_error err;
    CHECK(vx_writer_lock(&line.writer, "test", NULL, &err) == VX_OK);
    line.order[atomic_load(&line.n_done)] = (int)(intptr_t)arg;
    atomic_fetch_add(&line.n_done, 1);
    vx_writer_unlock(&line.writer);
    return VX_THREAD_END;
}

VX_TEST(writers_come_in_the_order_in_which_they_asked)
{
    vx_error err;
    vx_writer_init(&line.writer);
    CHECK(vx_writer_lock(&line.writer, "test", NULL, &err) == VX_OK);
    for (intptr_t i = 0; i < 8; i++) {
        CHECK(vx_thread_start(queue_main, (void *)i));
        while (atomic_load(&line.writer.n_waiting) <= (uint32_t)i)
            (void)usleep(100);
    }
    CHECK(vx_writer_lock(&line.writer, "again", NULL, &err) == VX_E_STATE);
    CHECK(strstr(err.text, "again: this thread is inside another") != NULL);
    CHECK(vx_writer_yield(&line.writer, NULL, 0, 0, &err) == VX_OK); /* all eight go first */
    CHECK(atomic_load(&line.n_done) == 8);
    for (int i = 0; i < 8; i++)
        CHECK(line.order[i] == i);
    vx_writer_unlock(&line.writer);
    while (line.writer.holder != NULL)
        (void)usleep(100);
    vx_writer_fini(&line.writer);
}

static int stop(void *arg, uint64_t done, uint64_t total)
{
    (void)arg, (void)done, (void)total;
    return 1;
}

static VX_THREAD_MAIN(impatient_main, arg)
{
    const vx_run run = {1, stop, NULL};
    vx_error err;
    (void)arg;
    CHECK(vx_writer_lock(&line.writer, "test", &run, &err) == VX_E_INTERRUPTED);
    atomic_fetch_add(&line.n_done, 1);
    return VX_THREAD_END;
}

VX_TEST(who_stops_waiting_leaves_the_queue)
{
    vx_error err;
    vx_writer_init(&line.writer);
    atomic_store(&line.n_done, 0);
    CHECK(vx_writer_lock(&line.writer, "test", NULL, &err) == VX_OK);
    for (int i = 0; i < 3; i++)
        CHECK(vx_thread_start(impatient_main, NULL));
    wait_until(&line.n_done, 3);
    CHECK(atomic_load(&line.writer.n_waiting) == 0 && line.writer.first == NULL &&
          line.writer.last == NULL);
    vx_writer_unlock(&line.writer);
    CHECK(line.writer.holder == NULL);
    vx_writer_fini(&line.writer);
}

/* ---- a writer that stands still -------------------------------------------------- */

static struct {
    _Atomic int step;    /* at which to stand still, once; -1: none              */
    _Atomic int is_held, may_go;
} hold = {-1, 0, 0};

static void on_step(vx_step step)
{
    int wanted = (int)step;
    if (!atomic_compare_exchange_strong(&hold.step, &wanted, -1))
        return;
    atomic_store(&hold.is_held, 1);
    wait_until(&hold.may_go, 1);
}

static void hold_at(vx_step step)
{
    atomic_store(&hold.is_held, 0);
    atomic_store(&hold.may_go, 0);
    atomic_store(&hold.step, (int)step);
    vx_test_on_step(on_step);
}

static void let_go(void)
{
    atomic_store(&hold.may_go, 1);
}

/* What another thread does. */
struct job {
    vx_index *index;
    vx_label *labels;      /* or NULL: chosen by the add                         */
    vx_label of;           /* its rows belong to the labels from here on         */
    size_t n;
    vx_on_conflict on_conflict;
    const vx_run *run;
    enum { ADD, DELETE, COMPACT } what;
    vx_label *used;
    vx_status st;
    uint64_t n_added;
    vx_error err;
    _Atomic int is_done;
};

static VX_THREAD_MAIN(job_main, arg)
{
    struct job *job = arg;
    uint64_t n = 0;
    if (job->what == ADD) {
        float *rows = make_rows(job->of, job->n);
        job->st = vx_index_add(job->index, rows, job->n, job->labels, job->on_conflict, job->run,
                               job->used, &job->n_added, &job->err);
        free(rows);
    } else if (job->what == DELETE) {
        job->st = vx_index_delete(job->index, job->labels, job->n, VX_MISSING_IGNORE, NULL, &n,
                                  &job->err);
    } else {
        job->st = vx_index_compact(job->index, NULL, &job->err);
    }
    atomic_store(&job->is_done, 1);
    return VX_THREAD_END;
}

static vx_label *count_from(vx_label begin, size_t n, vx_label step)
{
    vx_label *labels = malloc(n * sizeof *labels);
    for (size_t i = 0; i < n; i++)
        labels[i] = begin + (vx_label)i * step;
    return labels;
}

static void add(vx_index *index, vx_label begin, size_t n)
{
    float *rows = make_rows(begin, n);
    vx_label *labels = count_from(begin, n, 1);
    vx_error err;
    CHECK(vx_index_add(index, rows, n, labels, VX_REPLACE, NULL, NULL, NULL, &err) == VX_OK);
    free(rows);
    free(labels);
}

/* Searches go on, and see all of what was there and nothing of what is not yet. */
static void search_beside(vx_step step, int what, vx_label begin, size_t n)
{
    vx_index *index = make_index();
    add(index, 0, 1500);
    struct job job = {.index = index, .of = begin, .n = n, .what = what};
    job.labels = count_from(begin, n, 1);
    if (what == COMPACT) {
        uint64_t deleted = 0;
        CHECK(vx_index_delete(index, job.labels, n, VX_MISSING_ERROR, NULL, &deleted, &job.err) ==
              VX_OK);
    }
    hold_at(step);
    CHECK(vx_thread_start(job_main, &job));
    wait_until(&hold.is_held, 1);
    const uint64_t count = what == COMPACT ? 1500 - n : 1500;
    const bool is_gone = what == COMPACT;
    for (vx_label label = 0; label < 1500; label += 7) {
        const bool was_deleted = is_gone && label >= begin && label < begin + (vx_label)n;
        CHECK(finds(index, label) == !was_deleted);
        /* A delete has taken its labels from the map, a replacement has changed it. */
        if (label < begin || label >= begin + (vx_label)n)
            CHECK(holds(index, label, label));
    }
    vx_label labels[2000];
    uint64_t n_labels = 0;
    vx_error err;
    CHECK(vx_index_labels(index, labels, 2000, &n_labels, &err) == VX_OK && n_labels == count);
    CHECK(atomic_load(&job.is_done) == 0); /* it stood still all the while */
    let_go();
    wait_until(&job.is_done, 1);
    vx_test_on_step(NULL);
    CHECK(job.st == VX_OK && is_sound(index));
    free(job.labels);
    vx_index_free(index);
}

VX_TEST(no_search_waits_for_a_writer)
{
    search_beside(VX_STEP_LINK, ADD, 1500, 300);
    search_beside(VX_STEP_APPLY, ADD, 1500, 300);
    search_beside(VX_STEP_PUBLISH, ADD, 1500, 300);
    search_beside(VX_STEP_PUBLISH, ADD, 700, 300); /* the same rows again, replacing theirs */
    search_beside(VX_STEP_KILL, DELETE, 200, 400);
    search_beside(VX_STEP_COPY, COMPACT, 200, 400);
    search_beside(VX_STEP_SWAP, COMPACT, 200, 400);
}

/* While links are led around the dead, what lives is found and the dead are not. */
VX_TEST(no_search_waits_for_mending)
{
    vx_index *index = make_index();
    add(index, 0, 1500);
    struct job job = {.index = index, .n = 500, .what = DELETE, .labels = count_from(0, 500, 3)};
    hold_at(VX_STEP_MEND);
    CHECK(vx_thread_start(job_main, &job));
    wait_until(&hold.is_held, 1);
    for (vx_label label = 0; label < 1500; label++)
        CHECK(finds(index, label) == (label % 3 != 0));
    CHECK(atomic_load(&job.is_done) == 0);
    let_go();
    wait_until(&job.is_done, 1);
    vx_test_on_step(NULL);
    CHECK(job.st == VX_OK && is_sound(index));
    free(job.labels);
    vx_index_free(index);
}

/* ---- a long add lets others through ----------------------------------------------- */

#define LONG 6000

/* Start a long add and, when it is under way, `other`, which is let through; wait for
 * that.  Returns how many rows there were then. */
static uint64_t cut_in(struct job *job, struct job *other)
{
    hold_at(VX_STEP_LINK);
    CHECK(vx_thread_start(job_main, job));
    wait_until(&hold.is_held, 1);
    CHECK(vx_thread_start(job_main, other));
    while (!vx_writer_is_wanted(&job->index->writer))
        (void)usleep(100);
    let_go();
    wait_until(&other->is_done, 1);
    const uint64_t n = vx_index_count(job->index);
    wait_until(&job->is_done, 1);
    vx_test_on_step(NULL);
    return n;
}

VX_TEST(a_small_add_goes_through_a_long_one)
{
    for (unsigned threads = 1; threads <= 3; threads += 2) {
        const vx_run run = {threads, NULL, NULL};
        vx_index *index = make_index();
        add(index, 0, 100);
        vx_label used[LONG], small;
        struct job job = {.index = index, .of = 100, .n = LONG, .run = &run, .used = used};
        struct job other = {.index = index, .of = 100 + LONG, .n = 1, .used = &small};
        const uint64_t n = cut_in(&job, &other);
        CHECK(n > 100 && n < 100 + LONG);
        CHECK(job.st == VX_OK && other.st == VX_OK && job.n_added == LONG);
        /* The ids that the long add had chosen are its own. */
        for (size_t i = 0; i < LONG; i++)
            CHECK(used[i] == 100 + (vx_label)i);
        CHECK(small == 100 + LONG && vx_index_count(index) == 101 + LONG);
        for (vx_label label = 0; label < 101 + LONG; label += 5)
            CHECK(holds(index, label, label) && finds(index, label));
        CHECK(is_sound(index) && atomic_load(&index->n_owed) == 0);
        vx_index_free(index);
    }
}

/* It is then as several adds: rows that are not in yet cannot be deleted, and replace
 * what has come in the meantime. */
VX_TEST(a_long_add_meets_what_came_in_between)
{
    static const vx_on_conflict ways[] = {VX_REPLACE, VX_SKIP, VX_ERROR};
    for (size_t way = 0; way < 3; way++) {
        vx_index *index = make_index();
        vx_label *labels = count_from(0, LONG, 1), *last = count_from(LONG - 10, 10, 1);
        struct job job = {.index = index, .n = LONG, .labels = labels, .on_conflict = ways[way]};
        struct job other = {.index = index, .of = 90000, .n = 10, .labels = last};
        const uint64_t n = cut_in(&job, &other);
        CHECK(n < LONG);
        CHECK(other.st == VX_OK && job.st == (ways[way] == VX_ERROR ? VX_E_LABEL : VX_OK));
        CHECK(ways[way] == VX_ERROR ? job.n_added < LONG - 10 && job.err.value == LONG - 10
                                    : job.n_added == LONG);
        for (vx_label i = 0; i < 10; i++)
            CHECK(holds(index, last[i], ways[way] == VX_REPLACE ? last[i] : 90000 + i));
        for (vx_label label = 0; label < LONG; label += 11)
            CHECK(holds(index, label, label) ==
                  (label < (ways[way] == VX_ERROR ? (vx_label)job.n_added : LONG - 10) ||
                   (ways[way] == VX_REPLACE)));
        CHECK(is_sound(index));

        struct job again = {.index = index, .n = LONG, .labels = labels};
        struct job gone = {.index = index, .n = LONG, .labels = labels, .what = DELETE};
        cut_in(&again, &gone);
        CHECK(again.st == VX_OK && gone.st == VX_OK && is_sound(index));
        CHECK(holds(index, LONG - 1, LONG - 1)); /* deleted, and added after that */
        CHECK(vx_index_count(index) < LONG);
        free(labels);
        free(last);
        vx_index_free(index);
    }
}

static _Atomic int n_small_left;

static VX_THREAD_MAIN(many_small_main, arg)
{
    vx_index *index = arg;
    for (vx_label i = 0; i < 40; i++) {
        add(index, 50000 + i % 5, 1);
        if (i % 4 == 0) {
            const vx_label label = 50000 + i % 5;
            uint64_t deleted = 0;
            vx_error err;
            CHECK(vx_index_delete(index, &label, 1, VX_MISSING_IGNORE, NULL, &deleted, &err) ==
                  VX_OK);
        }
    }
    atomic_fetch_sub(&n_small_left, 1);
    return VX_THREAD_END;
}

/* Whoever comes however often, the long add gets on, and loses nothing. */
VX_TEST(a_long_add_among_many_small_ones)
{
    vx_index *index = make_index();
    add(index, 0, LONG / 2); /* half of the long one's rows replace these */
    atomic_store(&n_small_left, 3);
    for (int i = 0; i < 3; i++)
        CHECK(vx_thread_start(many_small_main, index));
    add(index, 0, LONG);
    while (atomic_load(&n_small_left) > 0)
        (void)usleep(1000);
    for (vx_label label = 0; label < LONG; label++)
        CHECK(holds(index, label, label));
    int n_missed = 0;
    for (vx_label label = 0; label < LONG; label++)
        n_missed += !finds(index, label);
    CHECK(n_missed == 0 && is_sound(index));
    vx_index_free(index);
}
