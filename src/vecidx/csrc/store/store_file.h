/* store_file.h - files: the only code of the core that asks the operating
 * system for one.
 *
 * Paths are what open(2) takes, and UTF-8 on Windows.  A failure is VX_E_IO with
 * sys_errno set (on Windows the nearest errno) and the path in the text.
 * A reader or writer belongs to one thread at a time; several writers of one
 * path do not disturb one another, and the last to commit wins. */
#ifndef VX_STORE_FILE_H
#define VX_STORE_FILE_H

#include "../base/vx_base.h"

/* ---- reading ------------------------------------------------------------ */

typedef struct vx_reader vx_reader;

/* Open a regular file.  A directory is EISDIR; a pipe or device, which has no
 * length to check anything against, is ESPIPE. */
vx_status vx_reader_open(const char *path, vx_reader **out, vx_error *err);

uint64_t vx_reader_length(const vx_reader *reader); /* bytes, when it was opened */
const char *vx_reader_path(const vx_reader *reader);

/* Read exactly n bytes from `offset`.  VX_E_FORMAT if the file ends before:
 * somebody cut it while we read.  dst is unspecified after an error. */
vx_status vx_reader_read(vx_reader *reader, uint64_t offset, void *dst, size_t n, vx_error *err);

void vx_reader_close(vx_reader *reader); /* NULL is fine */

/* ---- mapping ------------------------------------------------------------ */

/* A file as read-only memory, its pages shared with every other process that
 * maps it.  It outlives the reader, and the file's name: who replaces the file
 * by a rename leaves the mapping as it was.  Who cuts the file short while it
 * is mapped kills the process at the next access (SIGBUS); only reading, not
 * mapping, is safe against that. */
typedef struct vx_map {
    const unsigned char *base; /* NULL: no mapping, or a file of no bytes    */
    size_t length;
} vx_map;

/* VX_E_IO (ENOMEM) where there is no address space for it. */
vx_status vx_reader_map(const vx_reader *reader, vx_map *out, vx_error *err);
void vx_map_free(vx_map *map); /* a zeroed map is fine */

/* A wish about pages, never an error: bytes offset .. offset + n - 1 will be read
 * here and there (no read-ahead), or all of them soon (read ahead now). */
typedef enum vx_map_wish { VX_MAP_RANDOM, VX_MAP_SOON } vx_map_wish;
void vx_map_advise(const vx_map *map, size_t offset, size_t n, vx_map_wish wish);

/* ---- writing ------------------------------------------------------------ */

typedef struct vx_writer vx_writer;

/* Begin to write a file that will replace `path` as a whole.
 *
 * Bytes go to a new file in the directory of `path`, named .vecidx-<random>.tmp.
 * If `path` is a symbolic link, the file it leads to is replaced, not the link.
 * A new file gets the mode the umask leaves; one that replaces an older file
 * gets the older file's mode (and owner, where we may give it), and its other
 * hard links keep the old content.  A target we may not write to is refused,
 * though renaming over it would be possible.
 *
 * What exists and is no regular file (/dev/full, a pipe) is written in place.
 *
 * `run` (NULL is fine) is borrowed until the writer is closed: its tick is asked
 * when a signal interrupts a write, which may wait for long in a pipe. */
vx_status vx_writer_open(const char *path, const vx_run *run, vx_writer **out, vx_error *err);

/* Append n bytes; all of them, or an error. */
vx_status vx_writer_write(vx_writer *writer, const void *data, size_t n, vx_error *err);

/* Can the file's first bytes be written last?  Not in a pipe or a device. */
bool vx_writer_can_patch(const vx_writer *writer);

/* Write n bytes, appended before, anew from the file's start. */
vx_status vx_writer_patch(vx_writer *writer, const void *data, size_t n, vx_error *err);

/* Make the file durable and put it in its place: sync, close, rename, sync of
 * the directory.  After an error the older file is as it was, with one
 * exception: if only the directory's sync failed, the new file is in place and
 * whole, but a loss of power may bring the older one back; the text says so.
 * Nothing may be written afterwards. */
vx_status vx_writer_commit(vx_writer *writer, vx_error *err);

/* Release the writer and, unless it was committed, remove the temporary. */
void vx_writer_close(vx_writer *writer); /* NULL is fine */

#endif
