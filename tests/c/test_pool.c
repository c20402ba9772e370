/* test_pool.c - the parallel loop: every item once, whoever runs it. */
#include "base/vx_alloc.h"
#include "base/vx_pool.h"
#include "base/vx_sync.h"
#include "vx_test.h"

#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_ITEMS 5000

/* What one loop saw.  `busy` proves that a `who` is held by one thread at a time;
 * `sum` is plain memory, so that TSan sees if a loop fails to order it. */
struct seen {
    _Atomic unsigned hits[MAX_ITEMS];
    _Atomic int busy[VX_MAX_THREADS];
    _Atomic unsigned n_calls, max_who;
    uint64_t sum[VX_MAX_THREADS];
    size_t grain;
    unsigned pause_us;
};

static void work(void *arg, size_t begin, size_t end, unsigned who)
{
    struct seen *seen = arg;
    CHECK(begin < end && end - begin <= seen->grain && begin % seen->grain == 0);
    CHECK(atomic_fetch_add(&seen->busy[who], 1) == 0);
    for (size_t i = begin; i < end; i++) {
        atomic_fetch_add(&seen->hits[i], 1);
        seen->sum[who] += i + 1;
    }
    unsigned max = atomic_load(&seen->max_who);
    while (who > max && !atomic_compare_exchange_weak(&seen->max_who, &max, who)) {
    }
    atomic_fetch_add(&seen->n_calls, 1);
    if (seen->pause_us > 0)
        (void)usleep(seen->pause_us);
    atomic_fetch_sub(&seen->busy[who], 1);
}

/* One loop, checked: true if every item was handled once and nothing else was. */
static bool loop_is_exact(struct seen *seen, size_t n, size_t grain, unsigned threads)
{
    memset(seen, 0, sizeof *seen);
    seen->grain = grain;
    const vx_run run = { threads, NULL, NULL };
    bool ok = vx_pool_run(n, grain, &run, 0, n, work, seen) == VX_OK;
    uint64_t sum = 0;
    for (size_t i = 0; i < MAX_ITEMS; i++)
        ok = ok && atomic_load(&seen->hits[i]) == (i < n ? 1u : 0u);
    for (size_t i = 0; i < VX_MAX_THREADS; i++)
        sum += seen->sum[i];
    ok = ok && sum == (uint64_t)n * (n + 1) / 2;
    ok = ok && atomic_load(&seen->n_calls) == (n + grain - 1) / grain;
    return ok && atomic_load(&seen->max_who) < vx_pool_width(&run);
}

static bool child_is_fine(pid_t child)
{
    int status = -1;
    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) &&
           WEXITSTATUS(status) == 0;
}

/* First in the file: stacks of threads that a parent had are kept for reuse in its
 * child, which then can start threads after all. */
VX_TEST(without_threads_the_caller_does_it_all)
{
#if !defined(__linux__)
    SKIP("RLIMIT_AS is not enforced here");
#endif
    if (VX_TEST_SHADOW)
        SKIP("the sanitizer's own memory is past any limit");
    static struct seen seen;
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        const struct rlimit limit = { 1 << 20, 1 << 20 }; /* no room for a stack */
        if (setrlimit(RLIMIT_AS, &limit) != 0)
            _exit(2);
        _exit(!(loop_is_exact(&seen, 1000, 7, 4) && atomic_load(&seen.max_who) == 0));
    }
    CHECK(child_is_fine(child));
}

VX_TEST(every_item_runs_exactly_once)
{
    static struct seen seen;
    const size_t sizes[] = { 0, 1, 2, 3, 7, 64, 1000, 4999 };
    const size_t grains[] = { 1, 2, 3, 16, 999, 100000 };
    const unsigned threads[] = { 0, 1, 2, 3, 8 };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (size_t j = 0; j < sizeof grains / sizeof grains[0]; j++)
            for (size_t k = 0; k < sizeof threads / sizeof threads[0]; k++)
                CHECK(loop_is_exact(&seen, sizes[i], grains[j], threads[k]));
}

VX_TEST(many_short_loops)
{
    static struct seen seen;
    for (int i = 0; i < 300; i++)
        CHECK(loop_is_exact(&seen, (size_t)i % 17, 1, 4));
}

VX_TEST(the_width_follows_run_and_default)
{
    const vx_run three = { 3, NULL, NULL }, endless = { 1000000, NULL, NULL };
    CHECK(vx_pool_width(NULL) == vx_get_num_threads());
    CHECK(vx_pool_width(&three) == 3);
    CHECK(vx_pool_width(&endless) == VX_MAX_THREADS);
    const unsigned before = vx_get_num_threads();
    vx_set_num_threads(5);
    CHECK(vx_get_num_threads() == 5 && vx_pool_width(NULL) == 5);
    vx_set_num_threads(1000000);
    CHECK(vx_get_num_threads() == VX_MAX_THREADS);
    vx_set_num_threads(0);
    CHECK(vx_get_num_threads() == before);
}

VX_TEST(helpers_really_help)
{
    static struct seen seen;
    memset(&seen, 0, sizeof seen);
    seen.grain = 1;
    seen.pause_us = 2000;
    const vx_run run = { 4, NULL, NULL };
    CHECK(vx_pool_run(40, 1, &run, 0, 40, work, &seen) == VX_OK);
    CHECK(atomic_load(&seen.max_who) >= 1);
}

/* ---- several loops at once -------------------------------------------------- */

static _Atomic int callers_left, callers_bad;

static VX_THREAD_MAIN(caller, arg)
{
    struct seen *seen = arg;
    for (size_t i = 0; i < 60; i++)
        if (!loop_is_exact(seen, 100 + i * 7, 1 + i % 5, 1 + (unsigned)i % 4))
            atomic_fetch_add(&callers_bad, 1);
    atomic_fetch_sub(&callers_left, 1);
    return VX_THREAD_END;
}

VX_TEST(loops_of_several_threads_do_not_meet)
{
    static struct seen seen[6];
    atomic_store(&callers_left, 6);
    for (int i = 0; i < 6; i++)
        if (!vx_thread_start(caller, &seen[i]))
            atomic_fetch_sub(&callers_left, 1);
    while (atomic_load(&callers_left) > 0)
        (void)usleep(1000);
    CHECK(atomic_load(&callers_bad) == 0);
}

struct nest {
    struct seen outer;
    struct seen inner[8];
};

static void nested(void *arg, size_t begin, size_t end, unsigned who)
{
    struct nest *nest = arg;
    work(&nest->outer, begin, end, who);
    for (size_t i = begin; i < end; i++)
        CHECK(loop_is_exact(&nest->inner[i], 50, 3, 3));
}

VX_TEST(a_loop_inside_a_loop)
{
    static struct nest nest;
    const vx_run run = { 4, NULL, NULL };
    nest.outer.grain = 1;
    CHECK(vx_pool_run(8, 1, &run, 0, 8, nested, &nest) == VX_OK);
    for (size_t i = 0; i < 8; i++)
        CHECK(atomic_load(&nest.outer.hits[i]) == 1);
}

/* ---- ticking ------------------------------------------------------------------- */

struct clockwork {
    uint64_t last_ns, longest_ns, last_done;
    unsigned n_ticks, stop_at; /* 0: never */
    bool is_ordered;
};

static int tick(void *arg, uint64_t done, uint64_t total)
{
    struct clockwork *c = arg;
    const uint64_t now = vx_now_ns();
    if (c->last_ns != 0 && now - c->last_ns > c->longest_ns)
        c->longest_ns = now - c->last_ns;
    c->last_ns = now;
    c->is_ordered = done >= c->last_done && done >= 100 && done <= 100 + total;
    c->last_done = done;
    return ++c->n_ticks == c->stop_at;
}

static void run_ticking(unsigned threads, unsigned stop_at)
{
    static struct seen seen;
    struct clockwork c = { .stop_at = stop_at, .is_ordered = true };
    memset(&seen, 0, sizeof seen);
    seen.grain = 1;
    seen.pause_us = 2000;
    const vx_run run = { threads, tick, &c };
    const size_t n = 120 * threads; /* 240 ms of work */
    const vx_status status = vx_pool_run(n, 1, &run, 100, n, work, &seen);
    CHECK(c.is_ordered);
    if (stop_at == 0) {
        CHECK(status == VX_OK && atomic_load(&seen.n_calls) == n && c.n_ticks >= 2);
    } else {
        CHECK(status == VX_E_INTERRUPTED && c.n_ticks == stop_at);
        CHECK(atomic_load(&seen.n_calls) < n);
    }
    for (size_t i = 0; i < n; i++)
        CHECK(atomic_load(&seen.hits[i]) <= 1);
    for (size_t i = 0; i < VX_MAX_THREADS; i++)
        CHECK(atomic_load(&seen.busy[i]) == 0); /* nobody is still at work */
}

VX_TEST(a_long_loop_ticks) { run_ticking(1, 0); run_ticking(3, 0); }
VX_TEST(a_tick_can_stop_a_loop) { run_ticking(1, 2); run_ticking(3, 2); run_ticking(3, 1); }

/* Two pieces: the caller's ends when a helper has the other one, which is long.
 * So the caller has to tick while it waits. */
static void helper_sleeps(void *arg, size_t begin, size_t end, unsigned who)
{
    _Atomic bool *has_helper = arg;
    (void)begin, (void)end;
    if (who != 0) {
        atomic_store(has_helper, true);
        (void)usleep(200000);
    }
    for (int i = 0; i < 10000 && !atomic_load(has_helper); i++)
        (void)usleep(1000);
}

VX_TEST(the_caller_ticks_while_it_waits)
{
    struct clockwork c = { .is_ordered = true };
    _Atomic bool has_helper = false;
    const vx_run run = { 2, tick, &c };
    CHECK(vx_pool_run(2, 1, &run, 100, 2, helper_sleeps, &has_helper) == VX_OK);
    CHECK(c.n_ticks >= 3);
    struct clockwork stop = { .stop_at = 1, .is_ordered = true };
    const vx_run stopped = { 2, tick, &stop };
    atomic_store(&has_helper, false);
    CHECK(vx_pool_run(2, 1, &stopped, 100, 2, helper_sleeps, &has_helper) == VX_E_INTERRUPTED);
    CHECK(stop.n_ticks == 1);
}

/* No loop of a long call lasts 20 ms, yet the call ticks. */
VX_TEST(short_loops_in_a_row_tick)
{
    static struct seen seen;
    memset(&seen, 0, sizeof seen);
    seen.grain = 1;
    seen.pause_us = 1000;
    struct clockwork c = { .is_ordered = true };
    const vx_run run = { 2, tick, &c };
    for (int i = 0; i < 100; i++)
        CHECK(vx_pool_run(1 + (size_t)i % 2, 1, &run, 100, 2, work, &seen) == VX_OK);
    CHECK(c.n_ticks >= 2);
}

/* ---- fork ---------------------------------------------- */

VX_TEST(a_child_of_fork_starts_its_own_workers)
{
#if defined(__SANITIZE_THREAD__)
    SKIP("TSan does not follow threads of a forked child");
#endif
    static struct seen seen;
    CHECK(loop_is_exact(&seen, 1000, 1, 4)); /* the parent has workers */
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        (void)alarm(20); /* a hang is a failure */
        bool ok = loop_is_exact(&seen, 1000, 1, 4);
        const pid_t grandchild = fork();
        if (grandchild == 0)
            _exit(!loop_is_exact(&seen, 500, 3, 3));
        ok = child_is_fine(grandchild) && ok;
        memset(&seen, 0, sizeof seen);
        seen.grain = 1;
        seen.pause_us = 2000;
        const vx_run run = { 3, NULL, NULL };
        ok = vx_pool_run(30, 1, &run, 0, 30, work, &seen) == VX_OK && ok;
        _exit(!(ok && atomic_load(&seen.max_who) >= 1));
    }
    CHECK(child_is_fine(child));
    CHECK(loop_is_exact(&seen, 1000, 1, 4)); /* the parent still has them */
}

static int tick_that_forks(void *arg, uint64_t done, uint64_t total)
{
    (void)done, (void)total;
    pid_t *child = arg;
    if (*child < 0)
        *child = fork();
    return 0;
}

/* A child forked in the middle of a loop has no helpers to wait for. */
VX_TEST(fork_in_a_tick)
{
#if defined(__SANITIZE_THREAD__)
    SKIP("TSan does not follow threads of a forked child");
#endif
    static struct seen seen;
    memset(&seen, 0, sizeof seen);
    seen.grain = 1;
    seen.pause_us = 2000;
    pid_t child = -1;
    const vx_run run = { 3, tick_that_forks, &child };
    fflush(stdout);
    const vx_status status = vx_pool_run(150, 1, &run, 0, 150, work, &seen);
    if (child == 0) {
        (void)alarm(20);
        const bool dropped = status == VX_E_INTERRUPTED;
        _exit(!(dropped && loop_is_exact(&seen, 300, 1, 3)));
    }
    CHECK(status == VX_OK && child > 0 && child_is_fine(child));
}
