/* hnsw_walk_neon.c - the walk and its kernels for arm64. */
#include "../base/vx_base.h"

#if defined(VX_ARM)
#define VX_ISA neon
#define VX_ISA_LEVEL VX_NEON
#include "../dist/dist_neon.h"
#include "hnsw_walk.h"
#else
typedef int vx_no_neon; /* an empty file is not legal C */
#endif
