/* hnsw_walk_avx512.c - the walk and its kernels for AVX-512 F, BW, DQ, VL; compiled with their flags. */
#include "../base/vx_base.h"

#if defined(VX_X86)
#define VX_ISA avx512
#define VX_ISA_LEVEL VX_AVX512
#include "../dist/dist_avx512.h"
#include "hnsw_walk.h"
#else
typedef int vx_no_avx512; /* an empty file is not legal C */
#endif
