/* hnsw_walk_avx512vnni.c - the walk and its kernels for AVX-512 with VNNI; compiled with its flags.
 *
 * Float kernels are those of avx512; integer codes will differ. */
#include "../base/vx_base.h"

#if defined(VX_X86)
#define VX_ISA avx512vnni
#define VX_HAS_VNNI 1
#define VX_HAS_VPOPCNT 1
#define VX_ISA_LEVEL VX_AVX512VNNI
#include "../dist/dist_avx512.h"
#include "hnsw_walk.h"
#else
typedef int vx_no_avx512vnni; /* an empty file is not legal C */
#endif
