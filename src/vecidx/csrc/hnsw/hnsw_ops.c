/* hnsw_ops.c - from a level to its table. */
#include "hnsw_ops.h"

extern const vx_ops vx_ops_scalar;
#ifdef VX_X86
extern const vx_ops vx_ops_avx2, vx_ops_avx512, vx_ops_avx512vnni;
#endif
#ifdef VX_ARM
extern const vx_ops vx_ops_neon;
#endif

const vx_ops *vx_ops_of(vx_level level)
{
    switch (level) {
    case VX_SCALAR: return &vx_ops_scalar;
#ifdef VX_X86
    case VX_AVX2: return &vx_ops_avx2;
    case VX_AVX512: return &vx_ops_avx512;
    case VX_AVX512VNNI: return &vx_ops_avx512vnni;
#endif
#ifdef VX_ARM
    case VX_NEON: return &vx_ops_neon;
#endif
    default: return NULL;
    }
}

const vx_metric_ops *vx_graph_ops(const vx_graph *graph)
{
    return &vx_ops_of(vx_level_active())->metric[vx_graph_kernel_metric(graph)];
}
