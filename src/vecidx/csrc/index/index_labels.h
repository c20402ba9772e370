/* index_labels.h - from a label to its slot.
 *
 * While every label equals its slot - the labels were never given - no map is
 * kept.  Otherwise an open-addressing table of slots (4 B each, at most half
 * full); the labels themselves are read from their plane.
 *
 * Readers take a shared lock, the writer an exclusive one; searches need neither. */
#ifndef INDEX_LABELS_H
#define INDEX_LABELS_H

#include "../base/vx_sync.h"
#include "../hnsw/hnsw_graph.h"

typedef struct vx_labels {
    vx_rwlock lock;
    _Atomic uint64_t bytes; /* of the table                                     */
    vx_slot *table;         /* NULL: label == slot; VX_NO_SLOT: empty place     */
    uint64_t mask;          /* places - 1                                       */
    uint64_t n_used;
    uint32_t n_published;   /* without a table: labels 0 .. n_published-1 exist */
    _Atomic bool is_pending; /* the table of a loaded index is still to be built */
} vx_labels;

void vx_labels_init(vx_labels *map);
void vx_labels_fini(vx_labels *map);

/* Build the table that is pending, from the labels of live rows; without one, do
 * nothing.  Anyone, holding no lock, `view` pinned.  *out_twice, if not NULL, is a
 * label that two live rows have, or as it was. */
vx_status vx_labels_settle(vx_labels *map, vx_view *view, vx_label *out_twice, vx_error *err);

/* Forget every label.  Writer only, when no reader looks any more. */
void vx_labels_clear(vx_labels *map);

/* Is every label the number of its slot? */
VX_INLINE bool vx_labels_are_slots(const vx_labels *map)
{
    return map->table == NULL && !atomic_load(&map->is_pending);
}

/* The slot of a label, or VX_NO_SLOT.  For the writer; and for a reader that has
 * taken `lock` shared and then seen that `view` is the graph's current one, so
 * that every slot in the table lies in it. */
vx_slot vx_labels_find(const vx_labels *map, const vx_view *view, vx_label label);

/* Make room for n_more labels to come and, if `needs_table`, build the table of
 * those there are.  Writer only.  VX_E_NOMEM: nothing has changed. */
vx_status vx_labels_reserve(vx_labels *map, const vx_view *view, uint64_t n_more,
                            bool needs_table, vx_error *err);

/* Enter the labels of rows begin .. end-1, for which there is room.  For each
 * whose label was there, replaced(arg, old, new) is called.  Writer only. */
typedef void (*vx_replaced_fn)(void *arg, vx_slot old_slot, vx_slot new_slot);
void vx_labels_enter(vx_labels *map, const vx_view *view, vx_slot begin, vx_slot end,
                     vx_replaced_fn replaced, void *arg);

/* As vx_labels_enter, for n slots, rising; without a table they follow those there are. */
void vx_labels_enter_slots(vx_labels *map, const vx_view *view, const vx_slot *slots, size_t n,
                           vx_replaced_fn replaced, void *arg);

/* The map of rows 0 .. n-1, all live; and exchange it for the one in use, whose `lock`
 * the writer holds exclusively.  The other is then to be given to vx_labels_fini. */
vx_status vx_labels_build(vx_labels *map, const vx_view *view, uint32_t n, vx_error *err);
void vx_labels_swap(vx_labels *map, vx_labels *other);

/* Take a label out of the table, which there must be: its slot, or VX_NO_SLOT if it
 * was not there.  For the writer, holding `lock` exclusively. */
vx_slot vx_labels_remove(vx_labels *map, const vx_view *view, vx_label label);

#endif
