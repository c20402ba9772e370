/* dist_form.c - see dist_form.h. */
#include "dist_form.h"

#include <math.h>
#include <string.h>

#include "../base/vx_half.h"

/* Two rows this long are at most FLT_MAX apart, squared, and have a finite inner
 * product: no distance overflows. */
#define MAX_SQUARED_LENGTH 8e37

/* From here on a value rounds to a half float that is infinite. */
#define HALF_LIMIT 65520.0f

#define BLOCK 256u /* values converted at a time; a multiple of 8                 */

/* A query is outside if it is clipped by more than 1 in the root mean square: as the
 * codes of quant_codec.c. */
#define OUTSIDE_SQUARE 1.0f

/* Of a value; 0: it is less than a byte. */
static size_t bytes_of(vx_dtype dtype)
{
    static const uint8_t bytes[] = {4, 2, 2, 1, 1, 0};
    return bytes[dtype];
}

size_t vx_row_bytes(vx_dtype dtype, uint32_t dim)
{
    return dtype == VX_BITS ? ((size_t)dim + 7) / 8 : dim * bytes_of(dtype);
}

const char *vx_dtype_name(vx_dtype dtype)
{
    static const char *const names[] = {"float32", "float16", "bfloat16", "int8", "uint8", "bits"};
    return names[dtype];
}

vx_form vx_form_of(const vx_params *params)
{
    vx_form form = {.dtype = (vx_dtype)params->dtype, .dim = params->dim};
    form.is_cosine = params->metric == VX_COSINE;
    form.is_bits = form.dtype == VX_BITS;
    form.is_whole = form.dtype == VX_I8 || form.dtype == VX_U8 || form.is_bits;
    form.has_norms = form.is_cosine && !form.is_whole;
    form.value_bytes = vx_row_bytes(form.dtype, params->dim);
    form.row_bytes = vx_round_up(form.value_bytes, VX_LINE);
    form.query_floats = form.is_bits ? 0 : form.row_bytes / bytes_of(form.dtype);
    return form;
}

/* ---- values -------------------------------------------------------------------- */

/* Values begin .. begin + n - 1 of a row, as floats. */
static void widen(vx_dtype dtype, const void *row, size_t begin, size_t n, float *out)
{
    const uint16_t *two = (const uint16_t *)row + (dtype == VX_F16 || dtype == VX_BF16 ? begin : 0);
    switch (dtype) {
    case VX_F32: memcpy(out, (const float *)row + begin, n * sizeof *out); return;
    case VX_F16:
        for (size_t i = 0; i < n; i++)
            out[i] = vx_half_float(two[i]);
        return;
    case VX_BF16:
        for (size_t i = 0; i < n; i++)
            out[i] = vx_bfloat_float(two[i]);
        return;
    case VX_I8:
        for (size_t i = 0; i < n; i++)
            out[i] = (float)((const int8_t *)row)[begin + i];
        return;
    case VX_U8:
        for (size_t i = 0; i < n; i++)
            out[i] = (float)((const uint8_t *)row)[begin + i];
        return;
    case VX_BITS: memset(out, 0, n * sizeof *out); return; /* never asked for */
    }
}

/* The other way; values that the dtype does not reach have been refused. */
static void narrow(vx_dtype dtype, const float *values, size_t begin, size_t n, void *row)
{
    switch (dtype) {
    case VX_F32: memcpy((float *)row + begin, values, n * sizeof *values); return;
    case VX_F16:
        for (size_t i = 0; i < n; i++)
            ((uint16_t *)row)[begin + i] = vx_float_half(values[i]);
        return;
    case VX_BF16:
        for (size_t i = 0; i < n; i++)
            ((uint16_t *)row)[begin + i] = vx_float_bfloat(values[i]);
        return;
    case VX_I8:
        for (size_t i = 0; i < n; i++)
            ((int8_t *)row)[begin + i] = (int8_t)(int)values[i];
        return;
    case VX_U8:
        for (size_t i = 0; i < n; i++)
            ((uint8_t *)row)[begin + i] = (uint8_t)(int)values[i];
        return;
    case VX_BITS: return;
    }
}

static float least_of(const vx_form *form) { return form->dtype == VX_I8 ? -128.0f : 0.0f; }
static float most_of(const vx_form *form) { return form->dtype == VX_I8 ? 127.0f : 255.0f; }

static size_t block_of(size_t begin, size_t dim) { return dim - begin < BLOCK ? dim - begin : BLOCK; }

/* ---- looking at rows ------------------------------------------------------------- */

/* Eight sums, so that the baseline's vector registers are used. */
static void add_squares(const float *values, size_t n, double sums[8])
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (size_t j = 0; j < 8; j++)
            sums[j] += (double)values[i + j] * (double)values[i + j];
    for (; i < n; i++)
        sums[0] += (double)values[i] * (double)values[i];
}

static double total_of(const double sums[8])
{
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) +
           ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

vx_row_fault vx_row_inspect(const float *row, size_t dim, bool is_cosine, double *out_norm)
{
    double sums[8] = {0};
    add_squares(row, dim, sums);
    const double sum = total_of(sums);
    *out_norm = sqrt(sum);
    if (sum <= MAX_SQUARED_LENGTH)
        return is_cosine && sum <= 0 ? VX_ROW_ZERO : VX_ROW_FINE;
    for (size_t i = 0; i < dim; i++)
        if (isnan(row[i]))
            return VX_ROW_NAN;
    for (size_t i = 0; i < dim; i++)
        if (isinf(row[i]))
            return VX_ROW_INF;
    return VX_ROW_LARGE;
}

/* Can the dtype hold n finite floats? */
static vx_row_fault look_at_range(const vx_form *form, const float *values, size_t n)
{
    vx_row_fault fault = VX_ROW_FINE;
    if (form->dtype == VX_F16)
        for (size_t i = 0; i < n; i++)
            fault = fabsf(values[i]) < HALF_LIMIT ? fault : VX_ROW_BEYOND;
    if (!form->is_whole)
        return fault;
    const float least = least_of(form), most = most_of(form);
    for (size_t i = 0; i < n; i++) {
        if (!(values[i] >= least && values[i] <= most))
            return VX_ROW_BEYOND;
        if (values[i] != (float)(int)values[i])
            return VX_ROW_FRACTION;
    }
    return VX_ROW_FINE;
}

/* Bits that are set behind the last, in the byte of the last. */
static uint8_t bits_beyond(const vx_form *form, const void *values)
{
    if (!form->is_bits || form->dim % 8 == 0)
        return 0;
    return ((const uint8_t *)values)[form->value_bytes - 1] & (0xFFu >> form->dim % 8);
}

vx_row_fault vx_query_inspect(const vx_form *form, const void *query, double *out_norm)
{
    return form->is_bits ? vx_form_inspect(form, VX_BITS, query, out_norm)
                         : vx_row_inspect(query, form->dim, form->is_cosine, out_norm);
}

vx_row_fault vx_form_inspect(const vx_form *form, vx_dtype given, const void *values,
                             double *out_norm)
{
    if (form->is_bits) {
        *out_norm = 1;
        return bits_beyond(form, values) != 0 ? VX_ROW_BEYOND : VX_ROW_FINE;
    }
    if (given == VX_F32) {
        const vx_row_fault fault = vx_row_inspect(values, form->dim, form->is_cosine, out_norm);
        return fault == VX_ROW_FINE ? look_at_range(form, values, form->dim) : fault;
    }
    float block[BLOCK];
    double sums[8] = {0};
    bool any_nan = false;
    for (size_t at = 0; at < form->dim; at += BLOCK) {
        const size_t n = block_of(at, form->dim);
        widen(given, values, at, n, block);
        add_squares(block, n, sums);
        for (size_t i = 0; i < n; i++)
            any_nan = any_nan || isnan(block[i]);
    }
    const double sum = total_of(sums);
    *out_norm = sqrt(sum);
    if (sum <= MAX_SQUARED_LENGTH)
        return form->is_cosine && sum <= 0 ? VX_ROW_ZERO : VX_ROW_FINE;
    return any_nan ? VX_ROW_NAN : isinf(sum) ? VX_ROW_INF : VX_ROW_LARGE;
}

vx_row_fault vx_form_check(const vx_form *form, const void *row)
{
    const size_t bytes = bytes_of(form->dtype);
    const uint8_t *raw = row;
    /* All ones in the exponent, NaN or infinity: one more in its last place then carries
     * into the sign's.  As integers and without a branch: several at once. */
    uint32_t all = 0;
    if (form->dtype == VX_F32)
        for (size_t i = 0; i < form->dim; i++) {
            uint32_t bits;
            memcpy(&bits, raw + 4 * i, sizeof bits);
            all |= (bits & 0x7F800000u) + 0x00800000u;
        }
    const uint32_t ones = form->dtype == VX_F16 ? 0x7C00u : 0x7F80u;
    const uint32_t last = form->dtype == VX_F16 ? 0x0400u : 0x0080u;
    if (bytes == 2)
        for (size_t i = 0; i < form->dim; i++) {
            uint16_t bits;
            memcpy(&bits, raw + 2 * i, sizeof bits);
            all |= ((bits & ones) + last) << 16;
        }
    uint32_t rest = bits_beyond(form, row), some = 0;
    for (size_t i = form->value_bytes; i < form->row_bytes; i++)
        rest |= raw[i];
    for (size_t i = 0; form->is_whole && form->is_cosine && i < form->dim; i++)
        some |= raw[i];
    if (all >> 31 != 0)
        return VX_ROW_INF;
    if (rest != 0)
        return VX_ROW_BEYOND;
    return form->is_whole && form->is_cosine && some == 0 ? VX_ROW_ZERO : VX_ROW_FINE;
}

/* ---- storing and reading ------------------------------------------------------------ */

void vx_form_write(const vx_form *form, vx_dtype given, const void *values, double norm,
                   void *row)
{
    if (given == form->dtype && !form->has_norms) {
        memcpy(row, values, form->value_bytes);
    } else {
        const double scale = form->has_norms ? 1.0 / norm : 1.0;
        float block[BLOCK];
        for (size_t at = 0; at < form->dim; at += BLOCK) {
            const size_t n = block_of(at, form->dim);
            widen(given, values, at, n, block);
            for (size_t i = 0; form->has_norms && i < n; i++)
                block[i] = (float)((double)block[i] * scale);
            narrow(form->dtype, block, at, n, row);
        }
    }
    memset((char *)row + form->value_bytes, 0, form->row_bytes - form->value_bytes);
}

void vx_form_read(const vx_form *form, const void *row, float *out)
{
    widen(form->dtype, row, 0, form->query_floats, out);
    if (!form->is_cosine || !form->is_whole)
        return;
    double sums[8] = {0};
    add_squares(out, form->query_floats, sums);
    const double length = sqrt(total_of(sums)), scale = length > 0 ? 1.0 / length : 0;
    for (size_t i = 0; i < form->dim; i++)
        out[i] = (float)((double)out[i] * scale);
}

vx_dtype vx_form_out_dtype(const vx_form *form)
{
    return form->dtype == VX_BF16 ? VX_F32 : form->dtype;
}

void vx_form_get(const vx_form *form, const void *row, float norm, vx_dtype out_dtype, void *out)
{
    if (!form->has_norms && form->dtype == out_dtype) {
        memcpy(out, row, form->value_bytes);
        return;
    }
    float block[BLOCK];
    for (size_t at = 0; at < form->dim; at += BLOCK) {
        const size_t n = block_of(at, form->dim);
        widen(form->dtype, row, at, n, block);
        for (size_t i = 0; form->has_norms && i < n; i++) {
            block[i] *= norm;
            if (form->dtype == VX_F16) /* the direction was rounded: may be a step too long */
                block[i] = fminf(fmaxf(block[i], -VX_HALF_MAX), VX_HALF_MAX);
        }
        narrow(out_dtype, block, at, n, out);
    }
}

/* ---- the same values in another form ------------------------------------------------ */

bool vx_form_holds(const vx_form *form, vx_dtype given, const void *values)
{
    float block[BLOCK];
    for (size_t at = 0; at < form->dim && given != form->dtype; at += BLOCK) {
        const size_t n = block_of(at, form->dim);
        widen(given, values, at, n, block);
        if (look_at_range(form, block, n) != VX_ROW_FINE)
            return false;
    }
    return true;
}

void vx_form_convert(const vx_form *from, const void *row, const vx_form *to, void *out)
{
    float block[BLOCK];
    if (!to->is_whole || vx_form_holds(to, from->dtype, row)) {
        vx_form_write(to, from->dtype, row, 1, out);
        return;
    }
    for (size_t at = 0; at < from->dim; at += BLOCK) {
        const size_t n = block_of(at, from->dim);
        widen(from->dtype, row, at, n, block);
        for (size_t i = 0; i < n; i++)
            block[i] = floorf(fminf(fmaxf(block[i], least_of(to)), most_of(to)) + 0.5f);
        narrow(to->dtype, block, at, n, out);
    }
    memset((char *)out + to->value_bytes, 0, to->row_bytes - to->value_bytes);
}

bool vx_form_same(const vx_form *a, const void *row_a, const vx_form *b, const void *row_b)
{
    float of_a[BLOCK], of_b[BLOCK];
    if (a->dtype == b->dtype)
        return memcmp(row_a, row_b, a->row_bytes) == 0;
    for (size_t at = 0; at < a->dim; at += BLOCK) {
        const size_t n = block_of(at, a->dim);
        widen(a->dtype, row_a, at, n, of_a);
        widen(b->dtype, row_b, at, n, of_b);
        for (size_t i = 0; i < n; i++)
            if (of_a[i] != of_b[i])
                return false;
    }
    return true;
}

/* ---- queries -------------------------------------------------------------------------- */

bool vx_form_whole_row(const vx_form *form, const float *query, void *row)
{
    if (!form->is_whole || look_at_range(form, query, form->dim) != VX_ROW_FINE)
        return false;
    vx_form_write(form, VX_F32, query, 1, row);
    return true;
}

bool vx_form_nearest_row(const vx_form *form, const float *query, void *row)
{
    const float least = least_of(form), most = most_of(form);
    float scale = 1, clipped = 0, block[BLOCK];
    if (form->is_cosine) { /* its length says nothing: as long as bytes allow */
        float widest = 0;
        for (size_t i = 0; i < form->dim; i++)
            widest = fmaxf(widest, fabsf(query[i]));
        scale = widest > 0 ? 127.0f / widest : 1;
    }
    for (size_t at = 0; at < form->dim; at += BLOCK) {
        const size_t n = block_of(at, form->dim);
        for (size_t i = 0; i < n; i++) {
            const float x = query[at + i] * scale, inside = fminf(fmaxf(x, least), most);
            clipped += (x - inside) * (x - inside);
            block[i] = floorf(inside + 0.5f);
        }
        narrow(form->dtype, block, at, n, row);
    }
    memset((char *)row + form->dim, 0, form->row_bytes - form->dim);
    return clipped <= OUTSIDE_SQUARE * (float)form->dim;
}
