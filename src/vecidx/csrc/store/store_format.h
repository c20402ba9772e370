/* store_format.h - one file of checksummed sections; docs/FORMAT.md says every
 * byte.
 *
 *   | head: fixed part, parameters, section table, checksum | 0 | section | 0 | ...
 *
 * This room knows bytes and numbers of sections.  What a section means is the
 * caller's business, who also names them. */
#ifndef VX_STORE_FORMAT_H
#define VX_STORE_FORMAT_H

#include "../base/vx_base.h"
#include "store_file.h"

#define VX_STORE_VERSION 1u      /* frozen: docs/FORMAT.md                       */
#define VX_STORE_MAX_PARAMS 256u /* bytes of the parameter block                */
#define VX_STORE_MAX_SECTIONS 64u
#define VX_STORE_NAME 24u        /* bytes of a section's name, zeros at its end  */

/* Where sections may begin.  A reader asks only for the first, so the second may
 * change without a new version.  Not 2 MiB, for huge pages: in a mapping these lie
 * at multiples of 2 MiB of the file, wherever a section begins. */
#define VX_STORE_ALIGN ((uint64_t)64)         /* every section: a cache line      */
#define VX_STORE_ALIGN_LARGE ((uint64_t)4096) /* one above VX_STORE_LARGE: a page */
#define VX_STORE_LARGE ((uint64_t)1 << 20)

/* ---- writing ------------------------------------------------------------ */

#define VX_SECTION_REQUIRED 1u /* a reader that does not know it must refuse the file */

typedef struct vx_section {
    uint32_t kind;         /* unique in the file                            */
    uint32_t flags;        /* VX_SECTION_...                                */
    const char *name;      /* below VX_STORE_NAME bytes of printable ASCII   */
    const void *data;      /* NULL is fine for a length of 0                */
    uint64_t length;       /* bytes                                         */
    const uint32_t *crc;   /* what data should sum to, or NULL: not known   */
} vx_section;

/* Write a file as vx_writer_open and vx_writer_commit of store_file.h promise:
 * whole, durable, and on any failure the older file is as it was.  The sections
 * must not change during the call.  They are read once, their checksums taken on
 * the way and the head written last; twice where the target takes bytes only in
 * order.
 *
 * VX_E_ARG: too many parameters or sections, a kind given twice, an unknown flag.
 * VX_E_FORMAT: a section does not sum to its `crc`; nothing is written then.
 * VX_E_INTERRUPTED: run->tick, which is told bytes, said stop. */
vx_status vx_store_write(const char *path, const void *params, size_t params_length,
                         const vx_section *sections, size_t n_sections, const vx_run *run,
                         vx_error *err);

/* The same bytes, handed to sink->write in order, sink->begin first.  A result
 * other than 0 ends it with VX_E_INTERRUPTED. */
vx_status vx_store_write_to(const vx_sink *sink, const void *params, size_t params_length,
                            const vx_section *sections, size_t n_sections, const vx_run *run,
                            vx_error *err);

/* ---- reading ------------------------------------------------------------ */

/* An entry of the section table: inside the file, past the entry before. */
typedef struct vx_entry {
    uint32_t kind, flags, crc;
    uint64_t offset, length;
    char name[VX_STORE_NAME];
    bool is_checked; /* the checksum has been compared */
} vx_entry;

typedef struct vx_store vx_store; /* belongs to one thread at a time */

/* Open a file and check its head: checksum, the file's true length, and that
 * sections lie inside it, aligned, in rising order and apart.  `run` (NULL is
 * fine) is borrowed until the store is closed and counts bytes of the file.
 *
 * Here and below, VX_E_FORMAT is a file that is not ours, damaged, or newer than
 * we are, and the text says which and where. */
vx_status vx_store_open(const char *path, const vx_run *run, vx_store **out, vx_error *err);
/* The same for a file in memory, borrowed until the store is closed. */
vx_status vx_store_open_memory(const void *data, size_t n, const vx_run *run, vx_store **out,
                               vx_error *err);
void vx_store_close(vx_store *store); /* NULL is fine */

/* The parameter block; lives as long as the store.  Aligned to 8 bytes. */
const void *vx_store_params(const vx_store *store, size_t *out_length);

uint64_t vx_store_length(const vx_store *store); /* of the file */

/* The i-th section, or NULL past the end; the section of a kind, or NULL. */
const vx_entry *vx_store_entry(const vx_store *store, size_t i);
const vx_entry *vx_store_find(const vx_store *store, uint32_t kind);

/* Refuse a required section whose kind is not among `known`. */
vx_status vx_store_require_known(const vx_store *store, const uint32_t *known, size_t n_known,
                                 vx_error *err);

/* Read a whole section.  VX_E_FORMAT if it is missing, its length is not
 * `length`, or its checksum does not match; dst is unspecified then. */
vx_status vx_store_read(vx_store *store, uint32_t kind, void *dst, uint64_t length, vx_error *err);

/* Check what vx_store_read has not been asked for: the checksums of the other
 * sections, and that the bytes between sections are zero.  After this and the
 * reads, every byte of the file is known to be as it was written. */
vx_status vx_store_check_rest(vx_store *store, vx_error *err);

/* Map the file (not one in memory); the map is the caller's and outlives the store. */
vx_status vx_store_map(const vx_store *store, vx_map *out, vx_error *err);

#endif
