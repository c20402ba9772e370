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

vx_space vx_graph_vectors(const vx_graph *graph, const vx_view *view)
{
    const int kind = graph->params.metric == VX_L2SQ ? VX_KIND_F32_L2SQ : VX_KIND_F32_IP;
    return (vx_space){&vx_ops_of(vx_level_active())->kind[kind],
                      (const char *)view->vectors, view->row_floats * sizeof(float)};
}

vx_space vx_graph_space(const vx_graph *graph, const vx_view *view)
{
    if (view->codec == NULL)
        return vx_graph_vectors(graph, view);
    return (vx_space){&vx_ops_of(vx_level_active())->kind[VX_KIND_U8_L2SQ],
                      (const char *)view->codes, view->codec->row_bytes};
}

vx_space vx_graph_ranks(const vx_view *view)
{
    const vx_ops *ops = vx_ops_of(vx_level_active());
    if (view->codec->has_ranks)
        return (vx_space){&ops->kind[VX_KIND_U4_L2SQ], (const char *)view->ranks, VX_RANK_BYTES};
    return (vx_space){&ops->kind[VX_KIND_U8_L2SQ], (const char *)view->codes,
                      view->codec->row_bytes};
}
