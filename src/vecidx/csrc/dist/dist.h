/* dist.h - which CPU this is, and which level of kernels was chosen.
 *
 * A level is one translation unit's worth of kernels, compiled with its own
 * flags.  The levels of an architecture form a chain, each a superset of the
 * one before: scalar < avx2 < avx512 < avx512vnni, and scalar < neon. */
#ifndef DIST_H
#define DIST_H

#include "../base/vx_base.h"

typedef enum vx_level {
    VX_SCALAR = 0,
    VX_AVX2 = 1,
    VX_AVX512 = 2,
    VX_AVX512VNNI = 3,
    VX_NEON = 4,
    VX_N_LEVELS = 5
} vx_level;

/* "scalar", "avx2", ... ; and back, or -1 for an unknown word. */
const char *vx_level_name(vx_level level);
int vx_level_from_name(const char *name);

/* Can this CPU, under this operating system, run the level?  Asked of CPUID and
 * XGETBV (x86) or the auxiliary vector (arm64) at the first call. */
bool vx_level_runs(vx_level level);

/* Has the CPU VPOPCNTDQ, which not every one of level avx512vnni has? */
bool vx_cpu_has_vpopcnt(void);

/* The level chosen by vx_simd_init(); the best one before that. */
vx_level vx_level_active(void);

#endif
