/* vx_plane.h - memory that grows in place.
 *
 * A plane is a stretch of reserved address space whose front is committed as it
 * is needed, so its base never moves while readers use it.  Fresh memory reads
 * as zero and costs nothing until it is written.  Once a plane holds several
 * megabytes it is committed in whole 2 MiB steps and asks for huge pages: a
 * random miss costs 318 ns on 4 KiB pages and 180 ns on 2 MiB pages on the
 * reference machine (docs/ARCHITECTURE.md, "Memory").
 *
 *   base                                        (aligned to 2 MiB)
 *   |== committed: read and write ==|-- reserved: no access --|
 */
#ifndef VX_PLANE_H
#define VX_PLANE_H

#include "vx_base.h"

typedef struct vx_plane {
    char *base;       /* NULL: nothing reserved                              */
    size_t reserved;  /* bytes of address space; 0: the memory is another's  */
    size_t committed; /* bytes usable from base; only the writer reads this  */
} vx_plane;

/* Reserve `bytes` (rounded up) of address space, nothing committed.  VX_E_NOMEM,
 * with *plane zeroed, if the address space is not to be had: the caller tries a
 * smaller one. */
vx_status vx_plane_reserve(vx_plane *plane, size_t bytes, vx_error *err);

/* Make the first `bytes` usable.  More than `reserved` is VX_E_NOMEM; never
 * shrinks.  On VX_E_NOMEM the plane is as it was. */
vx_status vx_plane_commit(vx_plane *plane, size_t bytes, vx_error *err);

/* Stand for memory of somebody else, who keeps it while the plane is in use. */
void vx_plane_borrow(vx_plane *plane, const void *memory);

/* Give everything back that is ours; a zeroed plane is fine. */
void vx_plane_free(vx_plane *plane);

/* Bytes of address space this process may still be given in one piece without
 * harm to others: SIZE_MAX / 2 where nothing limits it, less under RLIMIT_AS.
 * Callers choose how far to reserve beyond what they need by it. */
size_t vx_plane_budget(void);

#endif
