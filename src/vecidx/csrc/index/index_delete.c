/* index_delete.c - taking rows out.
 *
 * A delete looks at every label first, so that an unknown one changes nothing, then
 * gives all its rows one death number and publishes it: a search sees all of them
 * or none (hnsw_graph.h, vx_view_sees).  Mending, with which every write ends, is here
 * too. */
#include "../base/vx_status.h"
#include "../base/vx_step.h"
#include "index.h"

static vx_status find_missing(const vx_index *index, const vx_view *view, const vx_label *labels,
                              size_t n, vx_error *err)
{
    for (size_t i = 0; i < n; i++)
        if (vx_labels_find(&index->labels, view, labels[i]) == VX_NO_SLOT)
            return vx_refuse_label(err, VX_E_LABEL, i, labels[i],
                                   "which is not in the index; nothing was deleted");
    return VX_OK;
}

/* Returns how many died. */
static uint64_t kill_rows(vx_index *index, vx_view *view, const vx_label *labels, size_t n)
{
    const uint64_t seq = atomic_load(&view->seq) + 1;
    uint64_t n_killed = 0;
    atomic_store_explicit(&view->any_dead, true, memory_order_relaxed);
    vx_rwlock_wrlock(&index->labels.lock);
    for (size_t i = 0; i < n; i++) {
        const vx_slot slot = vx_labels_remove(&index->labels, view, labels[i]);
        if (slot == VX_NO_SLOT) /* passed over, or given before */
            continue;
        atomic_fetch_add(&index->n_dead, 1);
        atomic_store_explicit(&view->deaths[slot], seq, memory_order_relaxed);
        vx_graves_add(&index->graph, slot);
        n_killed++;
    }
    vx_rwlock_wrunlock(&index->labels.lock);
    atomic_fetch_sub(&index->n_live, n_killed);
    vx_step_at(VX_STEP_KILL);
    atomic_store_explicit(&view->seq, seq, memory_order_release);
    return n_killed;
}

/* Mending is no progress of the call it ends: it may be stopped, but reports none. */
static int tick_at_end(void *arg, uint64_t done, uint64_t total)
{
    const vx_run *run = arg;
    (void)done, (void)total;
    return run->tick(run->tick_arg, 1, 1);
}

vx_status vx_index_mend(vx_index *index, bool all, const vx_run *run, vx_error *err)
{
    vx_run given = run != NULL ? *run : (vx_run){0, NULL, NULL};
    const vx_run at_end = {given.num_threads, given.tick != NULL ? tick_at_end : NULL, &given};
    return vx_graph_mend(&index->graph, all, &at_end, err);
}

vx_status vx_index_delete(vx_index *index, const vx_label *labels, size_t n,
                          vx_on_missing on_missing, const vx_run *run, uint64_t *out_deleted,
                          vx_error *err)
{
    uint64_t n_killed = 0;
    *out_deleted = 0;
    vx_status st = vx_index_lock_to_change(index, "delete", run, err);
    if (st != VX_OK)
        return st;
    vx_view *view = atomic_load(&index->graph.view);
    if (on_missing == VX_MISSING_ERROR)
        st = find_missing(index, view, labels, n, err);
    if (st == VX_OK)
        st = vx_labels_reserve(&index->labels, view, 0, true, err);
    if (st == VX_OK)
        st = vx_graves_reserve(&index->graph, n, err);
    if (st == VX_OK && n > 0) {
        n_killed = kill_rows(index, view, labels, n);
        st = vx_index_mend(index, false, run, err);
    }
    vx_writer_unlock(&index->writer);
    *out_deleted = n_killed;
    return st == VX_OK ? vx_ok(err) : st;
}
