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

int vx_kind_of(vx_dtype dtype, vx_metric metric, bool by_row)
{
    /* Cosine of floats is the inner product of unit rows. */
    static const int8_t kinds[][3] = {
        [VX_F32] = {VX_KIND_F32_L2SQ, VX_KIND_F32_IP, VX_KIND_F32_IP},
        [VX_F16] = {VX_KIND_F16_L2SQ, VX_KIND_F16_IP, VX_KIND_F16_IP},
        [VX_BF16] = {VX_KIND_BF16_L2SQ, VX_KIND_BF16_IP, VX_KIND_BF16_IP},
        [VX_I8] = {VX_KIND_I8_L2SQ, VX_KIND_I8_IP, VX_KIND_I8_COSINE},
        [VX_U8] = {VX_KIND_U8_L2SQ, VX_KIND_U8_IP, VX_KIND_U8_COSINE},
    };
    static const int8_t by_float[][3] = {
        [VX_F32] = {VX_KIND_F32_L2SQ, VX_KIND_F32_IP, VX_KIND_F32_IP},
        [VX_F16] = {VX_KIND_Q_F16_L2SQ, VX_KIND_Q_F16_IP, VX_KIND_Q_F16_IP},
        [VX_BF16] = {VX_KIND_Q_BF16_L2SQ, VX_KIND_Q_BF16_IP, VX_KIND_Q_BF16_IP},
        [VX_I8] = {VX_KIND_Q_I8_L2SQ, VX_KIND_Q_I8_IP, VX_KIND_Q_I8_COSINE},
        [VX_U8] = {VX_KIND_Q_U8_L2SQ, VX_KIND_Q_U8_IP, VX_KIND_Q_U8_COSINE},
    };
    if (dtype == VX_BITS) /* and so are queries */
        return metric == VX_JACCARD ? VX_KIND_BITS_JACCARD : VX_KIND_BITS_HAMMING;
    return (by_row ? kinds : by_float)[dtype][metric];
}

const vx_metric_ops *vx_kind_ops(vx_level level, int kind)
{
    const vx_metric_ops *ops = vx_ops_of(level)->kind;
    if (level == VX_AVX512VNNI && vx_cpu_has_vpopcnt()) {
        kind = kind == VX_KIND_BITS_HAMMING ? VX_KIND_VPOPCNT_HAMMING : kind;
        kind = kind == VX_KIND_BITS_JACCARD ? VX_KIND_VPOPCNT_JACCARD : kind;
    }
    return &ops[kind];
}

static vx_space vectors_of(const vx_view *view, int kind)
{
    return (vx_space){vx_kind_ops(vx_level_active(), kind), view->vectors, view->form.row_bytes};
}

vx_space vx_graph_vectors(const vx_graph *graph, const vx_view *view)
{
    return vectors_of(view, vx_kind_of(view->form.dtype, graph->params.metric, false));
}

vx_space vx_query_vectors(const vx_graph *graph, const vx_view *view, const vx_query *query,
                          const void **out_query)
{
    const bool by_row = query->row != NULL;
    *out_query = by_row ? query->row : query->values;
    return vectors_of(view, vx_kind_of(view->form.dtype, graph->params.metric, by_row));
}

vx_space vx_codes_space(const vx_view *view, const uint8_t *codes)
{
    const int kind = view->codec->flips != NULL ? VX_KIND_N4_L2SQ : VX_KIND_U8_L2SQ;
    return (vx_space){&vx_ops_of(vx_level_active())->kind[kind], (const char *)codes,
                      view->codec->row_bytes};
}

static vx_space codes_of(const vx_view *view) { return vx_codes_space(view, view->codes); }

vx_space vx_graph_codes(const vx_view *view)
{
    const int kind = view->codec->flips != NULL ? VX_KIND_U4_L2SQ : VX_KIND_U8_L2SQ;
    return (vx_space){&vx_ops_of(vx_level_active())->kind[kind], (const char *)view->codes,
                      view->codec->row_bytes};
}

vx_space vx_graph_space(const vx_graph *graph, const vx_view *view)
{
    if (view->has_codes)
        return codes_of(view);
    return vectors_of(view, vx_kind_of(view->form.dtype, graph->params.metric, true));
}

/* Vectors are measured as codes would be: unit rows of floats by l2, which rounding cannot
 * make negative. */
static vx_metric measure_of(const vx_view *view)
{
    return view->form.is_cosine && view->form.is_whole ? VX_COSINE : VX_L2SQ;
}

float vx_ranks_unit(const vx_view *view)
{
    const float step = view->codec->step;
    if (view->has_codes || view->codec->has_ranks)
        return 1;
    return measure_of(view) == VX_COSINE ? step * step / 2 : step * step;
}

vx_space vx_graph_ranks(const vx_view *view)
{
    const vx_ops *ops = vx_ops_of(vx_level_active());
    if (view->codec->has_ranks)
        return (vx_space){&ops->kind[VX_KIND_U4_L2SQ], (const char *)view->ranks, VX_RANK_BYTES};
    if (!view->has_codes && !view->form.is_whole)
        return vectors_of(view, vx_kind_of(view->form.dtype, measure_of(view), false));
    return vx_graph_measure(view);
}

vx_space vx_graph_measure(const vx_view *view)
{
    if (!view->has_codes)
        return vectors_of(view, vx_kind_of(view->form.dtype, measure_of(view), true));
    return codes_of(view);
}
