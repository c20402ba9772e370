/* dist_form.h - what a stored vector is: the one place that knows.
 *
 * A row holds dim values of the index's dtype and zeros up to whole lines.  Under
 * cosine rows of floats are of unit length, up to rounding, and their own length is
 * kept beside them; rows of whole numbers stay what they are, and their length is
 * computed with each product.
 *
 * A query is float32 (of unit length under cosine), with zeros up to query_floats, so
 * that it has a value for each that a row has room for; or, where it is made of
 * whole numbers that the dtype holds, a row itself.  Of bits queries are rows, and there is
 * no float32 of anything. */
#ifndef DIST_FORM_H
#define DIST_FORM_H

#include "../base/vx_base.h"

typedef struct vx_form {
    vx_dtype dtype;
    uint32_t dim;
    bool is_cosine;
    bool is_bits;
    bool is_whole;       /* int8, uint8, bits: compared exactly with a query that is a row */
    bool has_norms;      /* rows are of unit length, their own is in a plane    */
    size_t row_bytes;    /* a multiple of VX_LINE                               */
    size_t value_bytes;  /* of these, its values (vx_row_bytes)                 */
    size_t query_floats; /* a multiple of 16; 0 of bits                         */
} vx_form;

vx_form vx_form_of(const vx_params *params);

/* Do dtype and metric go together? */
VX_INLINE bool vx_form_is_known(const vx_params *params)
{
    const bool counts = params->metric == VX_HAMMING || params->metric == VX_JACCARD;
    return (params->dtype == VX_BITS) == counts;
}

const char *vx_dtype_name(vx_dtype dtype);

/* Why a row cannot be taken. */
typedef enum vx_row_fault {
    VX_ROW_FINE = 0,
    VX_ROW_NAN,
    VX_ROW_INF,
    VX_ROW_LARGE,   /* its squared length is beyond float32                      */
    VX_ROW_ZERO,    /* no direction, under cosine                                */
    VX_ROW_BEYOND,  /* a value that the dtype does not reach; of bits, one set behind the last */
    VX_ROW_FRACTION /* a value that is no whole number, for an integer dtype     */
} vx_row_fault;

/* Look at a float32 row; *out_norm is its length.  Under cosine a row needs a direction. */
vx_row_fault vx_row_inspect(const float *row, size_t dim, bool is_cosine, double *out_norm);

/* Look at dim values of `given`, float32 (not of bits) or the form's dtype, that are to be
 * stored. */
vx_row_fault vx_form_inspect(const vx_form *form, vx_dtype given, const void *values,
                             double *out_norm);

/* The same of a query: float32, or bits. */
vx_row_fault vx_query_inspect(const vx_form *form, const void *query, double *out_norm);
VX_INLINE size_t vx_query_bytes(const vx_form *form)
{
    return form->is_bits ? form->value_bytes : form->dim * sizeof(float);
}

/* Store values that vx_form_inspect has passed and whose length is `norm`. */
void vx_form_write(const vx_form *form, vx_dtype given, const void *values, double norm,
                   void *row);

/* A stored row as a query: query_floats floats, of unit length under cosine; none of
 * bits.  The second returns the row itself if that is what it is, else fills `room`. */
void vx_form_read(const vx_form *form, const void *row, float *out);
VX_INLINE const float *vx_form_floats(const vx_form *form, const void *row, float *room)
{
    if (form->dtype == VX_F32)
        return row;
    vx_form_read(form, row, room);
    return room;
}

/* What was stored, to the dtype's rounding: dim values of vx_form_out_dtype of the dtype that
 * the caller knows, which the form's may be narrower than (vx_stored_form). */
vx_dtype vx_form_out_dtype(const vx_form *form);
void vx_form_get(const vx_form *form, const void *row, float norm, vx_dtype out_dtype, void *out);

/* Between forms of one dim, both without norms: are dim values of `given` exact in the form; a
 * row in another form, the nearest where that does not hold it; do two rows hold the same. */
bool vx_form_holds(const vx_form *form, vx_dtype given, const void *values);
void vx_form_convert(const vx_form *from, const void *row, const vx_form *to, void *out);
bool vx_form_same(const vx_form *a, const void *row_a, const vx_form *b, const void *row_b);

/* A query of whole numbers, not yet normalised, as a row; false if it is none. */
bool vx_form_whole_row(const vx_form *form, const float *query, void *row);

/* The row of whole numbers that is nearest to a query; false if it lies so far outside
 * what they span that the row says little of it. */
bool vx_form_nearest_row(const vx_form *form, const float *query, void *row);

/* Is a row that was read from a file one that can be stored?  The fault is VX_ROW_INF for
 * a value that is not finite, VX_ROW_BEYOND for padding that is not zero, VX_ROW_ZERO. */
vx_row_fault vx_form_check(const vx_form *form, const void *row);

#endif
