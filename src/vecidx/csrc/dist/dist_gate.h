/* dist_gate.h - what a query knows of the sketches it will meet (hnsw_sketch.h).
 *
 * A group is 32 edges of one row: factors A and B as half floats, 32 of each, then
 * the sketches, four bits of every edge to a table: byte i of a table's 16 holds
 * those of edge i below and of edge i + 16 above.  (The layout that a byte shuffle
 * can look 16 edges up in at once: Andre, Kermarrec, Le Scouarnec, Cache locality is
 * not enough: high-performance nearest neighbor search with product quantization
 * fast scan, VLDB 2015.)
 *
 * gate_32(gate, group, step, shift, limit) of each dist_<isa>.h gives bit i if
 *   A[i] + B[i] * (sum * step + shift) < limit
 * with sum = the table entries of edge i's bits, added.  All levels round alike. */
#ifndef DIST_GATE_H
#define DIST_GATE_H

#include "../base/vx_base.h"

#define VX_GATE_EDGES 32u
#define VX_GATE_TABLES 32u /* at most: 128 bits, four a table                  */

typedef struct vx_gate {
    uint8_t tables[VX_GATE_TABLES * 16]; /* at the start: aligned to a line    */
    uint32_t n_tables;                   /* 16 or 32                           */
    float step, low;                     /* of the value a sum stands for      */
} vx_gate;

#endif
