/* store_format.h - one file of checksummed sections; docs/FORMAT.md says every
 * byte.
 *
 *   | head: fixed part, parameters, section table, checksum | 0 | section | 0 | ...
 *
 * This room knows bytes and numbers of sections.  What a section means is the
 * caller's business, who also names them for messages. */
#ifndef VX_STORE_FORMAT_H
#define VX_STORE_FORMAT_H

#include "../base/vx_base.h"

#define VX_STORE_VERSION 0u      /* without promise: see docs/FORMAT.md         */
#define VX_STORE_MAX_PARAMS 256u /* bytes of the parameter block                */
#define VX_STORE_MAX_SECTIONS 64u

/* Where sections may begin.  A reader asks only for the first, so the second can
 * change (to 2 MiB, for huge pages in a mapping) without a new version. */
#define VX_STORE_ALIGN ((uint64_t)64)         /* every section: a cache line      */
#define VX_STORE_ALIGN_LARGE ((uint64_t)4096) /* one above VX_STORE_LARGE: a page */
#define VX_STORE_LARGE ((uint64_t)1 << 20)

/* ---- writing ------------------------------------------------------------ */

typedef struct vx_piece {
    const void *data;
    size_t length; /* bytes; 0 is fine, and data may be NULL then */
} vx_piece;

#define VX_SECTION_REQUIRED 1u /* a reader that does not know it must refuse the file */

/* A section is its pieces one after another. */
typedef struct vx_section {
    uint32_t kind;  /* unique in the file */
    uint32_t flags; /* VX_SECTION_... */
    const vx_piece *pieces;
    size_t n_pieces;
} vx_section;

/* Write a file as vx_writer_open and vx_writer_commit of store_file.h promise:
 * whole, durable, and on any failure the older file is as it was.  The bytes of
 * the pieces must not change during the call, which reads them twice (checksums
 * lead the file).  VX_E_ARG: too many parameters or sections, a kind given
 * twice, an unknown flag. */
vx_status vx_store_write(const char *path, const void *params, size_t params_length,
                         const vx_section *sections, size_t n_sections, vx_error *err);

/* ---- reading ------------------------------------------------------------ */

/* A kind the caller understands, and its name in messages. */
typedef struct vx_section_name {
    uint32_t kind;
    const char *name;
} vx_section_name;

typedef struct vx_store vx_store; /* belongs to one thread at a time */

/* Open a file and check its head: checksum, the file's true length, and that
 * sections lie inside it, aligned, in rising order and apart.  `names` (borrowed
 * until the store is closed) lists every kind the caller knows; a required
 * section of another kind is refused, an optional one is skipped.
 *
 * Here and below, VX_E_FORMAT is a file that is not ours, damaged, or newer than
 * we are, and the text says which, where, and the path. */
vx_status vx_store_open(const char *path, const vx_section_name *names, size_t n_names,
                        vx_store **out, vx_error *err);
void vx_store_close(vx_store *store); /* NULL is fine */

/* The parameter block; lives as long as the store.  Aligned to 8 bytes. */
const void *vx_store_params(const vx_store *store, size_t *out_length);

/* Whether the section is there, and if so its length. */
bool vx_store_find(const vx_store *store, uint32_t kind, uint64_t *out_length);

/* Read a whole section.  VX_E_FORMAT if it is missing, its length is not
 * `length`, or its checksum does not match; dst is unspecified then. */
vx_status vx_store_read(vx_store *store, uint32_t kind, void *dst, uint64_t length, vx_error *err);

/* Check what vx_store_read has not been asked for: the checksums of the other
 * sections, and that the bytes between sections are zero.  After this and the
 * reads, every byte of the file is known to be as it was written. */
vx_status vx_store_check_rest(vx_store *store, vx_error *err);

#endif
