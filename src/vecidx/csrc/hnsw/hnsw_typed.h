/* hnsw_typed.h - distances of rows that are neither float32 nor codes, by kind; part of
 * hnsw_walk.h. */

/* From whole numbers, exact until here: the same at every level.  A row of zeros, which
 * only a damaged file has, is as far as a right angle. */
VX_INLINE float cosine_of(float dot, float squares)
{
    return squares > 0 ? 1.0f - dot / sqrtf(squares) : 1.0f;
}

VX_INLINE float i8_square(const void *x, size_t n) { return (float)i8_dot_1(x, x, n); }
VX_INLINE float u8_square(const void *x, size_t n) { return (float)u8_dot_1(x, x, n); }

VX_INLINE float typed_1(const char *q, const char *x, size_t row_bytes, const int kind)
{
    const size_t n = row_bytes, n2 = row_bytes / 2;
    switch (kind) {
    case VX_KIND_F16_L2SQ: return f16_l2sq_1(q, x, n2);
    case VX_KIND_F16_IP: return 1.0f - f16_dot_1(q, x, n2);
    case VX_KIND_BF16_L2SQ: return bf16_l2sq_1(q, x, n2);
    case VX_KIND_BF16_IP: return 1.0f - bf16_dot_1(q, x, n2);
    case VX_KIND_I8_L2SQ: return (float)i8_l2sq_1(q, x, n);
    case VX_KIND_I8_IP: return 1.0f - (float)(int32_t)i8_dot_1(q, x, n);
    case VX_KIND_I8_COSINE:
        return cosine_of((float)(int32_t)i8_dot_1(q, x, n), i8_square(q, n) * i8_square(x, n));
    case VX_KIND_U8_IP: return 1.0f - (float)u8_dot_1(q, x, n);
    case VX_KIND_U8_COSINE:
        return cosine_of((float)u8_dot_1(q, x, n), u8_square(q, n) * u8_square(x, n));
    case VX_KIND_Q_F16_L2SQ: return q_f16_l2sq_1(q, x, n2);
    case VX_KIND_Q_F16_IP: return 1.0f - q_f16_dot_1(q, x, n2);
    case VX_KIND_Q_BF16_L2SQ: return q_bf16_l2sq_1(q, x, n2);
    case VX_KIND_Q_BF16_IP: return 1.0f - q_bf16_dot_1(q, x, n2);
    case VX_KIND_Q_I8_L2SQ: return q_i8_l2sq_1(q, x, n);
    case VX_KIND_Q_I8_IP: return 1.0f - q_i8_dot_1(q, x, n);
    case VX_KIND_Q_I8_COSINE: return cosine_of(q_i8_dot_1(q, x, n), i8_square(x, n));
    case VX_KIND_Q_U8_L2SQ: return q_u8_l2sq_1(q, x, n);
    case VX_KIND_Q_U8_IP: return 1.0f - q_u8_dot_1(q, x, n);
    case VX_KIND_BITS_HAMMING: return bits_hamming_1(q, x, n);
    case VX_KIND_BITS_JACCARD: return bits_jaccard_1(q, x, n);
#ifdef VX_HAS_VPOPCNT
    case VX_KIND_VPOPCNT_HAMMING: return vpopcnt_hamming_1(q, x, n);
    case VX_KIND_VPOPCNT_JACCARD: return vpopcnt_jaccard_1(q, x, n);
#endif
    default: return cosine_of(q_u8_dot_1(q, x, n), u8_square(x, n));
    }
}

VX_INLINE void from_1(float out[4])
{
    for (int i = 0; i < 4; i++)
        out[i] = 1.0f - out[i];
}

/* Squared distances or products of whole numbers, as floats. */
VX_INLINE void whole_floats(const uint32_t sums[4], bool is_signed, float out[4])
{
    for (int i = 0; i < 4; i++)
        out[i] = is_signed ? (float)(int32_t)sums[i] : (float)sums[i];
}

VX_INLINE void typed_4(const char *q, const char *const x[4], size_t row_bytes, const int kind,
                       float out[4])
{
    const size_t n = row_bytes, n2 = row_bytes / 2;
    const bool is_i8 = kind == VX_KIND_I8_IP || kind == VX_KIND_I8_COSINE ||
                       kind == VX_KIND_Q_I8_COSINE;
    uint32_t sums[4];
    switch (kind) {
    case VX_KIND_F16_L2SQ: f16_l2sq_4(q, x, n2, out); return;
    case VX_KIND_F16_IP: f16_dot_4(q, x, n2, out); break;
    case VX_KIND_BF16_L2SQ: bf16_l2sq_4(q, x, n2, out); return;
    case VX_KIND_BF16_IP: bf16_dot_4(q, x, n2, out); break;
    case VX_KIND_I8_L2SQ:
        i8_l2sq_4(q, x, n, sums);
        whole_floats(sums, false, out);
        return;
    case VX_KIND_I8_IP:
    case VX_KIND_I8_COSINE:
        i8_dot_4(q, x, n, sums);
        whole_floats(sums, is_i8, out);
        break;
    case VX_KIND_U8_IP:
    case VX_KIND_U8_COSINE:
        u8_dot_4(q, x, n, sums);
        whole_floats(sums, is_i8, out);
        break;
    case VX_KIND_Q_F16_L2SQ: q_f16_l2sq_4(q, x, n2, out); return;
    case VX_KIND_Q_F16_IP: q_f16_dot_4(q, x, n2, out); break;
    case VX_KIND_Q_BF16_L2SQ: q_bf16_l2sq_4(q, x, n2, out); return;
    case VX_KIND_Q_BF16_IP: q_bf16_dot_4(q, x, n2, out); break;
    case VX_KIND_Q_I8_L2SQ: q_i8_l2sq_4(q, x, n, out); return;
    case VX_KIND_Q_I8_IP:
    case VX_KIND_Q_I8_COSINE: q_i8_dot_4(q, x, n, out); break;
    case VX_KIND_Q_U8_L2SQ: q_u8_l2sq_4(q, x, n, out); return;
    case VX_KIND_BITS_HAMMING: bits_hamming_4(q, x, n, out); return;
    case VX_KIND_BITS_JACCARD: bits_jaccard_4(q, x, n, out); return;
#ifdef VX_HAS_VPOPCNT
    case VX_KIND_VPOPCNT_HAMMING: vpopcnt_hamming_4(q, x, n, out); return;
    case VX_KIND_VPOPCNT_JACCARD: vpopcnt_jaccard_4(q, x, n, out); return;
#endif
    default: q_u8_dot_4(q, x, n, out); break;
    }
    const bool of_rows = kind == VX_KIND_I8_COSINE || kind == VX_KIND_U8_COSINE;
    if (!of_rows && kind != VX_KIND_Q_I8_COSINE && kind != VX_KIND_Q_U8_COSINE) {
        from_1(out);
        return;
    }
    const float square = !of_rows ? 1.0f : is_i8 ? i8_square(q, n) : u8_square(q, n);
    for (int i = 0; i < 4; i++)
        out[i] = cosine_of(out[i], square * (is_i8 ? i8_square(x[i], n) : u8_square(x[i], n)));
}
