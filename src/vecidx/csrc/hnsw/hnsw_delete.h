/* hnsw_delete.h - what becomes of dead rows.  Writer only, all of it. */
#ifndef HNSW_DELETE_H
#define HNSW_DELETE_H

#include "hnsw_graph.h"

/* Room for n more rows to die: after VX_OK vx_graves_add cannot fail.  VX_E_NOMEM:
 * nothing has changed. */
vx_status vx_graves_reserve(vx_graph *graph, uint64_t n, vx_error *err);

/* Note that a row has got its death number. */
void vx_graves_add(vx_graph *graph, vx_slot slot);

/* Find the graves of a view that was read from a file. */
vx_status vx_graves_collect(vx_graph *graph, vx_error *err);

/* How many slots vx_graves_take could give. */
uint32_t vx_graves_ready(vx_graph *graph, uint64_t wanted);

/* Take n of them, the lowest, rising; and put back those that were not used. */
void vx_graves_take(vx_graph *graph, uint32_t n, vx_slot *out);
void vx_graves_return(vx_graph *graph, const vx_slot *slots, size_t n);

/* The graph has no dead rows any more. */
void vx_graves_clear(vx_graph *graph);

/* Lead the links of the graph around the rows that have died.  When one row in 512
 * is dead, or `all` says so, none is left over: every row is looked at, and the
 * slots of the dead are free afterwards.  Otherwise the surroundings of each.
 *
 * The same deaths give the same graph, whatever the number of threads.
 * VX_E_INTERRUPTED leaves a valid graph; the rest is done by a later call.  Without
 * memory everything is left to a later call, and that is no error. */
vx_status vx_graph_mend(vx_graph *graph, bool all, const vx_run *run, vx_error *err);

/* Give every live row a path from the entry, now. */
vx_status vx_graph_prove(vx_graph *graph, const vx_run *run, vx_error *err);

#endif
