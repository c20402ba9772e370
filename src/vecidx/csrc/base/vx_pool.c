/* vx_pool.c - the process's worker threads.
 *
 * One list of open jobs under one mutex.  A caller puts its job, which lives on
 * its own stack, at the end of the list, wakes as many workers as the job has
 * room for, and starts on the pieces itself.  Workers take the first job that
 * has room and pieces left.  Pieces are handed out by an atomic counter in the
 * job, so the mutex is taken per job and thread, not per piece.
 *
 *   caller:  link job - pieces ... - unlink job - wait until n_inside is 0
 *   worker:  sleep - join job (n_inside + 1) - pieces ... - leave (n_inside - 1)
 *
 * A worker joins under the mutex, and only a job that is linked; so once the
 * caller has unlinked its job and seen n_inside at 0, nobody else will touch it.
 * Joining and leaving under the mutex also orders the memory: a helper sees what
 * the caller wrote before the loop, the caller sees what the helpers wrote in it.
 *
 * A loop that would run on one thread takes no lock at all. */
#include "vx_pool.h"

#include "vx_cores.h"
#include "vx_step.h"
#include "vx_sync.h"

/* A tick longer ago than this belongs to an earlier call: the clock starts anew,
 * so that a short call never ticks (its tick may have to wait for Python's lock). */
#define TICK_STALE_NS 200000000u

struct job {
    /* fixed before the job is linked */
    vx_pool_fn fn;
    void *arg;
    size_t n_items, grain, n_pieces;
    unsigned max_helpers;
    unsigned generation; /* of the pool */
    /* atomic, by anyone inside */
    _Atomic size_t next_piece; /* may pass n_pieces by one a thread */
    _Atomic size_t items_done;
    /* under pool.mutex */
    unsigned n_joined; /* helpers so far; the n-th to join is `who` n */
    unsigned n_inside; /* helpers at work now */
    vx_cond all_left;  /* n_inside fell to 0 */
    struct job *next, *prev;
};

static struct {
    vx_mutex mutex; /* guards everything here that is not atomic */
    vx_cond work;   /* a job was linked */
    struct job *first, *last;
    unsigned n_workers, n_sleeping;
    bool watches_fork;
    /* Counts the fork()s between this process and the first one. */
    _Atomic unsigned generation;
    _Atomic unsigned default_threads; /* 0: not yet counted */
    _Atomic unsigned wanted_threads;  /* by vx_set_num_threads; 0: the default */
} pool = { .mutex = VX_MUTEX_INIT, .work = VX_COND_INIT };

_Atomic(void (*)(vx_step)) vx_step_fn;

void vx_test_on_step(void (*fn)(vx_step step)) { atomic_store(&vx_step_fn, fn); }

/* ---- how many threads -------------------------------------------------- */

/* In a child of fork() only the forking thread is left: the workers are gone,
 * and whoever held the mutex is gone too. */
static void reset_in_child(void)
{
    vx_mutex_init(&pool.mutex);
    vx_cond_init(&pool.work);
    pool.first = pool.last = NULL;
    pool.n_workers = pool.n_sleeping = 0;
    atomic_store(&pool.default_threads, 0);
    atomic_fetch_add(&pool.generation, 1);
}

/* Under the mutex.  Without the handler no worker may be started. */
static bool watch_fork(void)
{
    if (!pool.watches_fork)
        pool.watches_fork = vx_at_fork(NULL, NULL, reset_in_child);
    return pool.watches_fork;
}

static unsigned count_default(void)
{
    const unsigned cores = vx_cores_count();
    const unsigned n = cores < VX_MAX_THREADS ? cores : VX_MAX_THREADS;
    vx_mutex_lock(&pool.mutex);
    if (watch_fork())
        atomic_store(&pool.default_threads, n);
    vx_mutex_unlock(&pool.mutex);
    return n;
}

void vx_set_num_threads(unsigned n)
{
    atomic_store(&pool.wanted_threads, n < VX_MAX_THREADS ? n : VX_MAX_THREADS);
}

unsigned vx_get_num_threads(void)
{
    const unsigned wanted = atomic_load_explicit(&pool.wanted_threads, memory_order_relaxed);
    if (wanted != 0)
        return wanted;
    const unsigned n = atomic_load_explicit(&pool.default_threads, memory_order_relaxed);
    return n != 0 ? n : count_default();
}

unsigned vx_pool_width(const vx_run *run)
{
    if (run == NULL || run->num_threads == 0)
        return vx_get_num_threads();
    return run->num_threads < VX_MAX_THREADS ? run->num_threads : VX_MAX_THREADS;
}

/* ---- ticking ------------------------------------------------------------ */

/* When this thread last ticked.  It outlives a loop: a long call is many short
 * loops, none of which might be long enough on its own. */
static _Thread_local uint64_t last_tick_ns;

static void start_ticking(const vx_run *run)
{
    if (run == NULL || run->tick == NULL)
        return;
    const uint64_t now = vx_now_ns();
    if (now - last_tick_ns > TICK_STALE_NS)
        last_tick_ns = now;
}

static _Atomic bool ticks_always;

void vx_test_tick_always(int on) { atomic_store(&ticks_always, on != 0); }

bool vx_tick_is_due(uint64_t last_ns)
{
    return vx_now_ns() - last_ns >= VX_TICK_NS ||
           atomic_load_explicit(&ticks_always, memory_order_relaxed);
}

const void *vx_this_thread(void)
{
    static _Thread_local char here;
    return &here;
}

/* Tick if it is time to; true if the call is to stop. */
static bool tick_says_stop(const vx_run *run, uint64_t done, uint64_t total)
{
    if (run == NULL || run->tick == NULL)
        return false;
    if (!vx_tick_is_due(last_tick_ns))
        return false;
    const int stop = run->tick(run->tick_arg, total > 0 ? done : 0, total);
    last_tick_ns = vx_now_ns();
    return stop != 0;
}

/* ---- pieces -------------------------------------------------------------- */

static size_t piece_end(size_t begin, size_t grain, size_t n_items)
{
    return grain < n_items - begin ? begin + grain : n_items;
}

/* Run the next piece; false if none is left. */
static bool run_piece(struct job *job, unsigned who)
{
    const size_t piece = atomic_fetch_add_explicit(&job->next_piece, 1, memory_order_relaxed);
    if (piece >= job->n_pieces)
        return false;
    const size_t begin = piece * job->grain;
    const size_t end = piece_end(begin, job->grain, job->n_items);
    job->fn(job->arg, begin, end, who);
    atomic_fetch_add_explicit(&job->items_done, end - begin, memory_order_relaxed);
    return true;
}

static vx_status run_alone(size_t n_items, size_t grain, const vx_run *run, uint64_t done0,
                           uint64_t total, vx_pool_fn fn, void *arg)
{
    for (size_t begin = 0, end; begin < n_items; begin = end) {
        if (tick_says_stop(run, done0 + begin, total))
            return VX_E_INTERRUPTED;
        end = piece_end(begin, grain, n_items);
        fn(arg, begin, end, 0);
    }
    return VX_OK;
}

/* ---- workers -------------------------------------------------------------- */

/* Under the mutex: the oldest job that a worker could still help with. */
static struct job *job_with_room(void)
{
    for (struct job *job = pool.first; job != NULL; job = job->next)
        if (job->n_joined < job->max_helpers &&
            atomic_load_explicit(&job->next_piece, memory_order_relaxed) < job->n_pieces)
            return job;
    return NULL;
}

static VX_THREAD_MAIN(worker_main, unused)
{
    (void)unused;
    vx_mutex_lock(&pool.mutex);
    for (;;) {
        struct job *job = job_with_room();
        if (job == NULL) {
            pool.n_sleeping++;
            vx_cond_wait(&pool.work, &pool.mutex);
            pool.n_sleeping--;
            continue;
        }
        const unsigned who = ++job->n_joined;
        job->n_inside++;
        vx_mutex_unlock(&pool.mutex);
        while (run_piece(job, who)) {
        }
        vx_mutex_lock(&pool.mutex);
        /* Signalled before the mutex is let go: after that the job may be gone. */
        if (--job->n_inside == 0)
            vx_cond_signal(&job->all_left);
    }
    return VX_THREAD_END; /* never reached: workers sleep until the process ends */
}

/* Put the job on the list and call helpers to it. */
static void link_job(struct job *job)
{
    vx_mutex_lock(&pool.mutex);
    job->prev = pool.last;
    *(pool.last != NULL ? &pool.last->next : &pool.first) = job;
    pool.last = job;
    /* If the system gives no thread, the loop runs on fewer. */
    while (pool.n_workers < job->max_helpers && watch_fork() && vx_thread_start(worker_main, NULL))
        pool.n_workers++;
    const unsigned n_wake =
        pool.n_sleeping < job->max_helpers ? pool.n_sleeping : job->max_helpers;
    vx_mutex_unlock(&pool.mutex);
    for (unsigned i = 0; i < n_wake; i++)
        vx_cond_signal(&pool.work);
}

/* Under the mutex. */
static void unlink_job(struct job *job)
{
    *(job->prev != NULL ? &job->prev->next : &pool.first) = job->next;
    *(job->next != NULL ? &job->next->prev : &pool.last) = job->prev;
}

static bool was_forked(const struct job *job)
{
    return atomic_load_explicit(&pool.generation, memory_order_relaxed) != job->generation;
}

/* ---- the loop -------------------------------------------------------------- */

vx_status vx_pool_run(size_t n_items, size_t grain, const vx_run *run, uint64_t done0,
                      uint64_t total, vx_pool_fn fn, void *arg)
{
    if (n_items == 0)
        return VX_OK;
    if (grain == 0)
        grain = 1;
    start_ticking(run);
    const size_t n_pieces = (n_items - 1) / grain + 1;
    const unsigned width = n_pieces == 1 ? 1 : vx_pool_width(run);
    if (width == 1)
        return run_alone(n_items, grain, run, done0, total, fn, arg);

    struct job job = {
        .fn = fn, .arg = arg, .n_items = n_items, .grain = grain, .n_pieces = n_pieces,
        .max_helpers = n_pieces < width ? (unsigned)n_pieces - 1 : width - 1,
        .generation = atomic_load_explicit(&pool.generation, memory_order_relaxed),
    };
    vx_cond_init(&job.all_left);
    link_job(&job);

    /* `stop` is this thread's own; helpers learn of it by running out of pieces.
     * A tick may fork(): the child then has neither helpers nor their pieces, so
     * the loop ends there as if interrupted, and the job is on no list. */
    bool stop = false;
    do {
        stop = tick_says_stop(run, done0 + atomic_load_explicit(&job.items_done,
                                                                memory_order_relaxed), total);
        if (was_forked(&job))
            return VX_E_INTERRUPTED;
        if (stop)
            atomic_store_explicit(&job.next_piece, n_pieces, memory_order_relaxed);
    } while (run_piece(&job, 0));

    vx_mutex_lock(&pool.mutex);
    unlink_job(&job);
    while (job.n_inside > 0) {
        if (run == NULL || run->tick == NULL || stop) {
            vx_cond_wait(&job.all_left, &pool.mutex);
            continue;
        }
        vx_cond_wait_ms(&job.all_left, &pool.mutex, VX_TICK_NS / 1000000u);
        if (job.n_inside == 0)
            break;
        vx_mutex_unlock(&pool.mutex);
        stop = tick_says_stop(run, done0 + atomic_load_explicit(&job.items_done,
                                                                memory_order_relaxed), total);
        if (was_forked(&job))
            return VX_E_INTERRUPTED;
        vx_mutex_lock(&pool.mutex);
    }
    vx_mutex_unlock(&pool.mutex);
    vx_cond_fini(&job.all_left);
    return stop ? VX_E_INTERRUPTED : VX_OK;
}
