/* hnsw_sketch.h - a few bits of every edge, kept beside the ids of layer 0.
 *
 * An edge u -> v with e = v - u is kept as s = sign(P e), the signs of its leading
 * coordinates (quant_codec.h), and two factors.  With f = |e|^2 / sum |P e|,
 *
 *   |q - v|^2 = |q - u|^2 + |e|^2 - 2 <q - u, e>
 *   <q - u, e> is estimated by f <P q - P u, s>
 *
 * so the estimate is |q - u|^2 + A + B <P q, s> with A = |e|^2 + 2 f <P u, s> and
 * B = -2 f, and nothing of v is read.  A walk fetches v only where the estimate,
 * less a slack, passes.  (The estimator is that of RaBitQ, Gao and Long, SIGMOD
 * 2024, applied to edges and to a projection.)  All vectors are as the walk itself
 * measures them: rank codes where there are any, otherwise byte codes.
 *
 * After the ids a block holds one group (dist_gate.h) for each 32 of them.  A is in
 * units of codec->edge_unit, B 256 times that, since it is small.
 *
 * When a row's ids change its factors are set to let everything pass, and its bit in
 * view->stale is set; vx_sketch_stale computes them again.  A reader that meets a
 * mixture of old and new computes a distance too many or misses one, no worse. */
#ifndef HNSW_SKETCH_H
#define HNSW_SKETCH_H

#include "hnsw_ops.h"

#define VX_SKETCH_B_SCALE 256.0f

/* Let all links of a row pass until it is sketched again.  Any thread that may write
 * the row. */
void vx_sketch_drop(const vx_view *view, vx_slot slot);

/* Sketch all rows below n that were dropped.  Writer only. */
vx_status vx_sketch_stale(vx_view *view, uint32_t n, const vx_run *run);

#endif
