/* index_writer.h - the writers of an index, one at a time, first come first served.
 *
 * A writer that ends hands over to the one that has waited longest, so none starves
 * and none polls.  A long one looks whether others wait (vx_writer_is_wanted), and
 * lets them through by going to the end of the queue (vx_writer_yield). */
#ifndef INDEX_WRITER_H
#define INDEX_WRITER_H

#include "../base/vx_sync.h"

/* A writer that waits; it lies on its own stack. */
typedef struct vx_turn {
    const void *thread;
    vx_cond come;         /* is_mine was set                                    */
    bool is_mine;
    struct vx_turn *next;
} vx_turn;

typedef struct vx_writer {
    vx_mutex mutex;       /* guards everything here that is not atomic          */
    const void *holder;   /* the thread that writes, or NULL                    */
    vx_turn *first, *last;
    unsigned generation;  /* forks between this process and the first one       */
    bool is_lost;         /* forked while another thread wrote                  */
    _Atomic uint32_t n_waiting;
    /* Odd while anyone writes, and never the same again: between two equal even numbers
     * nothing was written. */
    _Atomic uint64_t n_turns;
} vx_writer;

void vx_writer_init(vx_writer *writer);
void vx_writer_fini(vx_writer *writer);

/* Wait to be the writer, ticking.  VX_E_INTERRUPTED: a tick said stop.  VX_E_STATE,
 * naming the call by its `verb`: this thread is the writer, or waits to be, and would
 * wait for itself; or the process was forked while another thread wrote. */
vx_status vx_writer_lock(vx_writer *writer, const char *verb, const vx_run *run, vx_error *err);
void vx_writer_unlock(vx_writer *writer);

/* Does another wait?  From any thread. */
VX_INLINE bool vx_writer_is_wanted(const vx_writer *writer)
{
    return atomic_load_explicit(&((vx_writer *)writer)->n_waiting, memory_order_relaxed) > 0;
}

/* Let all who wait go first, ticking with (done, total) meanwhile.  After an error
 * the caller is the writer no more. */
vx_status vx_writer_yield(vx_writer *writer, const vx_run *run, uint64_t done, uint64_t total,
                          vx_error *err);

/* In the child of a fork(): those who waited are gone, and maybe who wrote. */
void vx_writer_after_fork(vx_writer *writer);

#endif
