/* vx_cores.h - how many CPUs this process may keep busy. */
#ifndef VX_CORES_H
#define VX_CORES_H

#include "vx_base.h"

/* CPUs this thread may be scheduled on, limited by the CPU quota of the
 * process's control group; at least 1.  Reads files: do not call it often. */
unsigned vx_cores_count(void);

/* The quota alone, in CPUs rounded up, 0 if there is none.  `root` goes before
 * every path that is read: "" but in tests. */
unsigned vx_cores_quota(const char *root);

#endif
