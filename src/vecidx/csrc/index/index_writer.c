/* index_writer.c - see index_writer.h. */
#include "index_writer.h"

#include <assert.h>

#include "../base/vx_pool.h"
#include "../base/vx_status.h"

void vx_writer_init(vx_writer *writer)
{
    *writer = (vx_writer){0};
    vx_mutex_init(&writer->mutex);
}

void vx_writer_fini(vx_writer *writer) { vx_mutex_fini(&writer->mutex); }

/* Under the mutex, as all below. */

static bool is_inside(const vx_writer *writer, const void *me)
{
    bool found = writer->holder == me;
    for (const vx_turn *turn = writer->first; turn != NULL; turn = turn->next)
        found = found || turn->thread == me;
    return found;
}

static void enqueue(vx_writer *writer, vx_turn *turn)
{
    *(writer->last != NULL ? &writer->last->next : &writer->first) = turn;
    writer->last = turn;
    atomic_fetch_add_explicit(&writer->n_waiting, 1, memory_order_relaxed);
}

static void leave_queue(vx_writer *writer, const vx_turn *turn)
{
    vx_turn *before = NULL;
    for (vx_turn *at = writer->first; at != turn; at = at->next)
        before = at;
    *(before != NULL ? &before->next : &writer->first) = turn->next;
    if (writer->last == turn)
        writer->last = before;
    atomic_fetch_sub_explicit(&writer->n_waiting, 1, memory_order_relaxed);
}

/* To the first in the queue, if there is one. */
static void hand_over(vx_writer *writer)
{
    vx_turn *next = writer->first;
    atomic_fetch_add(&writer->n_turns, next != NULL ? 2 : 1);
    writer->holder = next != NULL ? next->thread : NULL;
    if (next == NULL)
        return;
    leave_queue(writer, next);
    next->is_mine = true;
    vx_cond_signal(&next->come); /* under the mutex: after it `next` may be gone */
}

/* Until it is this writer's turn.  A tick may last, so it runs outside the mutex; and
 * it may fork: the child then knows nothing of the queue. */
static vx_status wait_in_line(vx_writer *writer, vx_turn *turn, const vx_run *run, uint64_t done,
                              uint64_t total)
{
    const unsigned generation = writer->generation;
    while (!turn->is_mine) {
        if (run == NULL || run->tick == NULL) {
            vx_cond_wait(&turn->come, &writer->mutex);
            continue;
        }
        vx_cond_wait_ms(&turn->come, &writer->mutex, VX_TICK_NS / 1000000u);
        if (turn->is_mine)
            break;
        vx_mutex_unlock(&writer->mutex);
        const bool stop = run->tick(run->tick_arg, done, total) != 0;
        vx_mutex_lock(&writer->mutex);
        if (writer->generation != generation)
            return VX_E_INTERRUPTED;
        if (!stop)
            continue;
        if (turn->is_mine)
            hand_over(writer);
        else
            leave_queue(writer, turn);
        return VX_E_INTERRUPTED;
    }
    return VX_OK;
}

static vx_status stand_in_line(vx_writer *writer, const vx_run *run, uint64_t done, uint64_t total,
                               bool hands_over)
{
    vx_turn turn = {.thread = vx_this_thread()};
    vx_cond_init(&turn.come);
    enqueue(writer, &turn);
    if (hands_over)
        hand_over(writer);
    const vx_status st = wait_in_line(writer, &turn, run, done, total);
    vx_cond_fini(&turn.come);
    return st;
}

/* Outside the mutex again. */

static vx_status say(vx_status st, vx_error *err)
{
    return st == VX_OK ? st : vx_fail(err, st, "interrupted");
}

vx_status vx_writer_lock(vx_writer *writer, const char *verb, const vx_run *run, vx_error *err)
{
    vx_status st = VX_OK;
    vx_mutex_lock(&writer->mutex);
    if (is_inside(writer, vx_this_thread())) {
        vx_mutex_unlock(&writer->mutex);
        return vx_fail(err, VX_E_STATE,
                       "%s: this thread is inside another add, delete, compact, save or check of "
                       "the same index (called from its progress callable or a signal handler?)",
                       verb);
    }
    if (writer->is_lost) {
        vx_mutex_unlock(&writer->mutex);
        return vx_fail(err, VX_E_STATE,
                       "%s: this process was forked while another thread was changing the index; "
                       "this copy of it can be searched, but not changed: load it anew", verb);
    }
    if (writer->holder == NULL) {
        writer->holder = vx_this_thread();
        atomic_fetch_add(&writer->n_turns, 1);
    } else {
        st = stand_in_line(writer, run, 0, 0, false);
    }
    vx_mutex_unlock(&writer->mutex);
    return say(st, err);
}

void vx_writer_unlock(vx_writer *writer)
{
    vx_mutex_lock(&writer->mutex);
    assert(writer->holder == vx_this_thread());
    hand_over(writer);
    vx_mutex_unlock(&writer->mutex);
}

vx_status vx_writer_yield(vx_writer *writer, const vx_run *run, uint64_t done, uint64_t total,
                          vx_error *err)
{
    vx_status st = VX_OK;
    vx_mutex_lock(&writer->mutex);
    if (writer->first != NULL)
        st = stand_in_line(writer, run, done, total, true);
    vx_mutex_unlock(&writer->mutex);
    return say(st, err);
}

void vx_writer_after_fork(vx_writer *writer)
{
    vx_mutex_init(&writer->mutex);
    writer->is_lost = writer->is_lost ||
                      (writer->holder != NULL && writer->holder != vx_this_thread());
    writer->first = writer->last = NULL;
    writer->generation++;
    atomic_store(&writer->n_waiting, 0);
}
