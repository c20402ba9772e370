/* index_compact.c - giving back the memory of rows that are gone.
 *
 * Links are led around the dead first (vx_index_mend), then the live rows are copied
 * into a new view and a new label map, while searches go on in the old ones; both
 * are swapped in under the map's lock.  The old view is freed when the last search
 * in it ends.  Codes, where the index has them, are trained anew on the rows left. */
#include "../base/vx_status.h"
#include "../base/vx_step.h"
#include "index.h"

static vx_status compact_view(vx_index *index, const vx_run *run, vx_error *err)
{
    vx_graph *graph = &index->graph;
    vx_view *view = NULL;
    vx_labels fresh;
    vx_status st = vx_graph_compact(graph, run, &view, err);
    if (st != VX_OK)
        return st;
    st = vx_labels_build(&fresh, view, atomic_load(&view->n_rows), err);
    if (st != VX_OK) {
        vx_view_free(view);
        return st;
    }
    vx_watch_compact(index->watch, atomic_load(&graph->view));
    vx_step_at(VX_STEP_SWAP);
    vx_rwlock_wrlock(&index->labels.lock);
    vx_labels_swap(&index->labels, &fresh);
    vx_graph_swap_view(graph, view);
    vx_rwlock_wrunlock(&index->labels.lock);
    vx_labels_fini(&fresh);
    vx_graves_clear(graph);
    atomic_store(&index->n_dead, 0);
    (void)vx_epoch_wait(graph, atomic_load(&graph->epoch));
    vx_graph_free_retired(graph);
    return VX_OK;
}

vx_status vx_index_compact(vx_index *index, const vx_run *run, vx_error *err)
{
    vx_status st = vx_index_lock_to_change(index, "compact", run, err);
    if (st != VX_OK)
        return st;
    bool is_writer = true;
    st = vx_index_renew_codes(index, run, err);
    if (st == VX_OK)
        st = vx_index_relink(index, run, &is_writer, err);
    if (!is_writer)
        return st;
    if (st == VX_OK)
        st = vx_index_mend(index, true, run, err);
    if (st == VX_OK && atomic_load(&index->graph.graves.n_linked) > 0)
        st = vx_fail_nomem(err, "compacting");
    if (st == VX_OK && atomic_load(&index->n_dead) > 0)
        st = compact_view(index, run, err);
    vx_writer_unlock(&index->writer);
    return st == VX_OK ? vx_ok(err) : st;
}

vx_status vx_index_repair(vx_index *index, const vx_run *run, vx_error *err)
{
    vx_status st = vx_index_lock_to_change(index, "check", run, err);
    if (st != VX_OK)
        return st;
    st = vx_index_mend(index, true, run, err);
    if (st == VX_OK)
        st = vx_graph_prove(&index->graph, run, err);
    vx_writer_unlock(&index->writer);
    return st == VX_OK ? vx_ok(err) : st;
}
