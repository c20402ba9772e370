/* hnsw_walk_scalar.c - the walk and its kernels for any CPU. */
#include "../base/vx_base.h"

#if 1
#define VX_ISA scalar
#define VX_ISA_LEVEL VX_SCALAR
#include "../dist/dist_scalar.h"
#include "hnsw_walk.h"
#else
typedef int vx_no_scalar; /* an empty file is not legal C */
#endif
