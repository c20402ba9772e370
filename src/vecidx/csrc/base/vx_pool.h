/* vx_pool.h - the process's worker threads, and a parallel loop over them.
 *
 * Workers are started when a loop first asks for more threads than there are,
 * sleep between loops, and never end.  Several loops may run at once, from
 * several calling threads; each caller works on its own loop, so a loop makes
 * progress even when no worker is free or can be started.  After fork() the
 * child has no workers and starts its own. */
#ifndef VX_POOL_H
#define VX_POOL_H

#include "vx_base.h"

/* Handles items begin .. end-1.  `who` is 0 for the caller and 1 .. for helpers:
 * below num_threads, and held by one thread at a time within a loop. */
typedef void (*vx_pool_fn)(void *arg, size_t begin, size_t end, unsigned who);

/* Run fn over 0 .. n_items-1, in pieces of `grain` items, on up to num_threads
 * threads (0: the process default), the caller among them.  Returns when every
 * piece is done.
 *
 * run->tick, if any, is called on the calling thread between its pieces when at
 * least 20 ms have passed since the last call (of this loop or the one before),
 * with done0 + items finished so far (0 of work that has no total), and also while
 * the caller waits for helpers.  If it returns other than 0 the pieces not yet begun
 * are dropped, and VX_E_INTERRUPTED comes back.
 *
 * Pieces are handed out in rising order, but nothing may depend on which thread
 * gets which. */
vx_status vx_pool_run(size_t n_items, size_t grain, const vx_run *run,
                      uint64_t done0, uint64_t total, vx_pool_fn fn, void *arg);

/* The number of threads vx_pool_run would use at most for this run: at least 1,
 * at most VX_MAX_THREADS.  Who sizes per-thread arrays with it passes a vx_run
 * whose num_threads is that number: the process default may change meanwhile. */
unsigned vx_pool_width(const vx_run *run);
#define VX_MAX_THREADS 512u

/* Nanoseconds between two calls of a tick.  vecidx.h promises 50 ms; a piece may
 * take some of that. */
#define VX_TICK_NS 20000000u

/* Is it time to tick, when the last tick was at `last_ns`?  (vx_test_tick_always) */
bool vx_tick_is_due(uint64_t last_ns);

/* A name for the calling thread, never NULL, that no other has while it lives. */
const void *vx_this_thread(void);

#endif
