/* hnsw_walk_avx2.c - the walk and its kernels for AVX2 and FMA; compiled with their flags. */
#include "../base/vx_base.h"

#if defined(VX_X86)
#define VX_ISA avx2
#define VX_ISA_LEVEL VX_AVX2
#include "../dist/dist_avx2.h"
#include "hnsw_walk.h"
#else
typedef int vx_no_avx2; /* an empty file is not legal C */
#endif
