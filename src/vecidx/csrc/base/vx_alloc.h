/* vx_alloc.h - heap memory: aligned to a cache line, overflow-checked, and able
 * to fail on demand.  The only caller of malloc in the core; index rows live in
 * planes instead (vx_plane.h). */
#ifndef VX_ALLOC_H
#define VX_ALLOC_H

#include "vx_base.h"

/* count x size bytes, aligned to VX_LINE; NULL if they do not fit or are not to
 * be had.  0 bytes give a valid pointer.  vx_zalloc's are zero. */
void *vx_alloc(size_t count, size_t size);
void *vx_zalloc(size_t count, size_t size);
void vx_free(void *p); /* NULL is fine */

/* True once, at the n-th call since vx_test_fail_alloc(n).  vx_plane.c asks it
 * too, so that growth of a plane can be made to fail. */
bool vx_alloc_should_fail(void);

#endif
