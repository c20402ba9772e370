/* index_io.h - what the sections and parameters of a file mean, for index_io.c
 * (save, inspect), index_load.c and index_load_check.c.  docs/FORMAT.md has the
 * same tables. */
#ifndef INDEX_IO_H
#define INDEX_IO_H

#include "../store/store_format.h"
#include "index.h"

/* A section that is a plane, byte for byte.  To store a further plane, add a line
 * to vx_stored_planes in index_io.c and to docs/FORMAT.md. */
typedef struct vx_stored_plane {
    uint32_t kind;    /* never reused for anything else                       */
    const char *name; /* in the file, in messages                             */
    int plane;        /* rows are as long as vx_view_row_bytes says           */
    uint32_t flags;   /* VX_SECTION_REQUIRED: no reader can do without        */
    bool may_lack;    /* not in every file: absent, the plane is all zero     */
} vx_stored_plane;

extern const vx_stored_plane vx_stored_planes[];
extern const size_t vx_n_stored_planes;

/* Sections that are no planes: a bit a row, in 64-bit words, set for rows
 * that no search returns.  Absent: none. */
#define SECTION_TOMBSTONES 9u

/* vx_codec_store's bytes; absent: rows are not quantised (yet). */
#define SECTION_CODEC 17u

/* Bytes that a binding keeps (index_notes.c): absent where there are none. */
typedef struct vx_note_kind {
    uint32_t kind;
    const char *name;
    uint32_t flags;
    uint64_t most; /* bytes */
} vx_note_kind;

extern const vx_note_kind vx_note_kinds[VX_N_NOTES];

vx_status vx_io_read_notes(vx_index *index, vx_store *store, vx_error *err);

/* The parameter block: u64 each, in this order.  A reader takes missing ones for
 * 0, and refuses a file whose further ones are not. */
enum vx_field {
    FIELD_DIM, FIELD_METRIC, FIELD_DTYPE, FIELD_QUANTIZATION,
    FIELD_M, FIELD_EF_CONSTRUCTION, FIELD_SEED,
    FIELD_N_ROWS, FIELD_N_UPPER, FIELD_N_DEAD, FIELD_ENTRY, FIELD_NEXT_LABEL, FIELD_N_UNPROVEN,
    FIELD_FLAGS, FIELD_VECTOR_BYTES, FIELD_LINK_BYTES, FIELD_UPPER_BYTES,
    FIELD_LOCAL_DIM, /* the bits of a float32 */
    VX_N_FIELDS
};

#define FLAG_IDS_ARE_SLOTS 1u  /* row i has id i: no id was ever given */
#define FLAG_ROWS_ARE_BYTES 2u /* vectors are stored as uint8: the codec's holds_rows */

/* Take the parameters from an open file: VX_E_FORMAT if no index of this version
 * can have them. */
vx_status vx_io_fields(const vx_store *store, uint64_t fields[VX_N_FIELDS], vx_error *err);

/* The name of a number, for messages and vx_index_inspect; NULL: not known. */
const char *vx_io_dtype(uint64_t number);
const char *vx_io_quantization(uint64_t number);

/* Do the planes hold what an index may be built of?  Links, levels, places, ids,
 * twins, norms and, `with_vectors`, values, each in its range and fitting the
 * others, so that the index can be searched and added to.  VX_E_FORMAT names
 * section and byte. */
vx_status vx_io_check_rows(const vx_index *index, const vx_store *store,
                           const uint64_t fields[VX_N_FIELDS], bool with_vectors,
                           const vx_run *run, vx_error *err);

#endif
