/* index_filter.h - which rows a filter allows, at a moment. */
#ifndef INDEX_FILTER_H
#define INDEX_FILTER_H

#include "index.h"

/* Rows of one index at one moment; shared by who uses it. */
typedef struct vx_chosen {
    vx_allowed allowed;
    _Atomic uint32_t n_refs;
    uint64_t index_number, turn; /* it is good in that turn of vx_writer.n_turns */
    const vx_view *view;
} vx_chosen;

/* The rows of `view`, which the caller has pinned, that the filter allows: those of the last
 * time, if nothing was written since.  NULL: no memory, or halted. */
vx_chosen *vx_filter_choose(vx_filter *filter, vx_index *index, vx_view *view,
                            const vx_halt *halt);

/* Is it one for n queries? */
vx_status vx_where_check(const vx_where *where, size_t n, vx_error *err);

void vx_chosen_release(vx_chosen *chosen); /* NULL is fine */

#endif
