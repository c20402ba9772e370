/* store_file.c - files on POSIX systems.  store_file_win.c is the other half.
 *
 * Order of a save, and why: the bytes are synced before the rename, or a crash
 * could leave the new name on an empty file; the directory is synced after it,
 * or a crash could undo a save that was reported as done.  close() is checked
 * before the rename because network file systems report a full quota there. */
#ifndef _WIN32

#define _FILE_OFFSET_BITS 64

#include "store_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../base/vx_alloc.h"
#include "../base/vx_rng.h"
#include "../base/vx_status.h"

/* Bytes handed to one read or write.  The kernel's own limit is just under
 * 2 GiB on Linux and INT_MAX on macOS, which fails beyond it; anything above a
 * few megabytes costs nothing. */
#define IO_MAX ((size_t)64 << 20)

/* Bytes.  So much is handed to the disk at once while the rest is still being
 * copied, and so far behind we wait for it: the disk is never idle, memory does
 * not fill with pages to be written, and the last sync is short enough that a
 * save can be interrupted at any time. */
#define FLUSH_STEP ((uint64_t)8 << 20)
#define FLUSH_BEHIND ((uint64_t)64 << 20)

#define MAX_LINKS 40 /* symbolic links followed, as in the Linux kernel */

static char *copy_text(const char *text)
{
    const size_t n = strlen(text) + 1;
    char *copy = vx_alloc(n, 1);

    if (copy)
        memcpy(copy, text, n);
    return copy;
}

static int open_retry(const char *path, int flags, mode_t mode)
{
    int fd;

    do
        fd = open(path, flags | O_CLOEXEC | O_NOCTTY, mode);
    while (fd < 0 && errno == EINTR);
    return fd;
}

/* 0 or an errno.  EINTR is success: Linux has closed the descriptor by then, and
 * everything that mattered was synced before. */
static int close_checked(int fd) { return close(fd) != 0 && errno != EINTR ? errno : 0; }

/* Sync to the medium: 0 or an errno.  What cannot be synced (a pipe, a device,
 * a directory on some network file systems) says EINVAL or ENOTSUP, and is as
 * durable as it gets. */
static int sync_fd(int fd)
{
#ifdef F_FULLFSYNC /* macOS: fsync() stops at the drive's own cache */
    if (fcntl(fd, F_FULLFSYNC) == 0)
        return 0;
#endif
    while (fsync(fd) != 0) {
        if (errno == EINVAL || errno == ENOTSUP)
            return 0;
        if (errno != EINTR)
            return errno;
    }
    return 0;
}

/* ---- reading ------------------------------------------------------------ */

struct vx_reader {
    int fd;
    uint64_t length;
    char *path;
};

vx_status vx_reader_open(const char *path, vx_reader **out, vx_error *err)
{
    vx_reader *r = vx_zalloc(1, sizeof *r);
    struct stat info;
    vx_status st;

    if (!r)
        return vx_fail_nomem(err, "file");
    r->fd = -1;
    if (!(r->path = copy_text(path))) {
        st = vx_fail_nomem(err, "file name");
        goto fail;
    }
    /* O_NONBLOCK: opening a pipe nobody writes to must not wait for ever. */
    r->fd = open_retry(path, O_RDONLY | O_NONBLOCK, 0);
    if (r->fd < 0 || fstat(r->fd, &info) != 0) {
        st = vx_fail_io(err, errno, "cannot open '%s'", path);
        goto fail;
    }
    if (S_ISDIR(info.st_mode)) {
        st = vx_fail_io(err, EISDIR, "cannot open '%s': it is a directory", path);
        goto fail;
    }
    if (!S_ISREG(info.st_mode)) {
        st = vx_fail_io(err, ESPIPE, "cannot open '%s': it is no regular file", path);
        goto fail;
    }
    r->length = (uint64_t)info.st_size;
    *out = r;
    return VX_OK;
fail:
    vx_reader_close(r);
    return st;
}

uint64_t vx_reader_length(const vx_reader *reader) { return reader->length; }
const char *vx_reader_path(const vx_reader *reader) { return reader->path; }

vx_status vx_reader_read(vx_reader *reader, uint64_t offset, void *dst, size_t n, vx_error *err)
{
    char *to = dst;

    while (n > 0) {
        const size_t want = n < IO_MAX ? n : IO_MAX;
        const ssize_t got = pread(reader->fd, to, want, (off_t)offset);
        if (got < 0) {
            if (errno == EINTR)
                continue;
            return vx_fail_io(err, errno, "cannot read '%s'", reader->path);
        }
        if (got == 0)
            return vx_fail(err, VX_E_FORMAT,
                           "the file ends at byte %llu: it was cut while being read ('%s')",
                           (unsigned long long)offset, reader->path);
        to += got;
        offset += (uint64_t)got;
        n -= (size_t)got;
    }
    return VX_OK;
}

void vx_reader_close(vx_reader *reader)
{
    if (!reader)
        return;
    if (reader->fd >= 0)
        (void)close(reader->fd);
    vx_free(reader->path);
    vx_free(reader);
}

/* ---- mapping ------------------------------------------------------------ */

vx_status vx_reader_map(const vx_reader *reader, vx_map *out, vx_error *err)
{
    *out = (vx_map){ NULL, 0 };
    if (reader->length == 0)
        return VX_OK;
    void *base = MAP_FAILED;
    if (reader->length <= SIZE_MAX / 2)
        base = mmap(NULL, (size_t)reader->length, PROT_READ, MAP_SHARED, reader->fd, 0);
    else
        errno = ENOMEM;
    if (base == MAP_FAILED)
        return vx_fail_io(err, errno, "cannot map '%s'", reader->path);
    *out = (vx_map){ base, (size_t)reader->length };
    return VX_OK;
}

void vx_map_free(vx_map *map)
{
    if (map->base != NULL)
        (void)munmap((void *)(uintptr_t)map->base, map->length);
    *map = (vx_map){ NULL, 0 };
}

void vx_map_advise(const vx_map *map, size_t offset, size_t n, vx_map_wish wish)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t from = offset / page * page;

    if (map->base != NULL && n > 0)
        (void)posix_madvise((void *)(uintptr_t)(map->base + from), n + (offset - from),
                            wish == VX_MAP_RANDOM ? POSIX_MADV_RANDOM : POSIX_MADV_WILLNEED);
}

/* ---- writing ------------------------------------------------------------ */

struct vx_writer {
    int fd;       /* -1: closed                                             */
    const vx_run *run;
    uint64_t length, flushed, settled; /* bytes written; the disk was told of; waited for */
    int dir_fd;   /* of the target's directory, to sync it; -1: none        */
    char *path;   /* as the caller gave it, for messages                    */
    char *target; /* what the temporary replaces; NULL: written in place    */
    char *temp;   /* exists and is ours to remove; NULL: it does not        */
};

/* Bytes of `path` up to and with its last slash; 0 if there is none. */
static size_t dir_length(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) + 1 : 0;
}

/* The name `path` stands for once symbolic links in its last part are followed,
 * whether or not anything is there yet.  realpath() would refuse a link to a
 * file that is still to be made. */
static vx_status follow_links(const char *path, char **out, vx_error *err)
{
    char *here = copy_text(path);
    char link[4096];
    vx_status st;

    for (int hop = 0; here; hop++) {
        struct stat info;
        if (lstat(here, &info) != 0 ? errno == ENOENT : !S_ISLNK(info.st_mode)) {
            *out = here;
            return VX_OK;
        }
        const ssize_t n = hop < MAX_LINKS ? readlink(here, link, sizeof link) : -1;
        if (n < 0 || (size_t)n >= sizeof link) {
            const int why = hop >= MAX_LINKS ? ELOOP : n < 0 ? errno : ENAMETOOLONG;
            st = vx_fail_io(err, why, "cannot write '%s'", path);
            vx_free(here);
            return st;
        }
        const size_t n_dir = link[0] == '/' ? 0 : dir_length(here), n_link = (size_t)n;
        char *next = vx_alloc(n_dir + n_link + 1, 1);
        if (next) {
            memcpy(next, here, n_dir);
            memcpy(next + n_dir, link, n_link);
            next[n_dir + n_link] = '\0';
        }
        vx_free(here);
        here = next;
    }
    return vx_fail_nomem(err, "file name");
}

/* 64 bits nobody can foretell; where the system's source is missing (a bare
 * chroot), at least unlike those of other processes.  O_EXCL keeps a guessed
 * name from doing more harm than a second try. */
static uint64_t random_bits(unsigned attempt)
{
    uint64_t bits = 0;
    const int fd = open_retry("/dev/urandom", O_RDONLY, 0);

    if (fd >= 0) {
        const bool whole = read(fd, &bits, sizeof bits) == (ssize_t)sizeof bits;
        (void)close(fd);
        if (whole)
            return bits;
    }
    struct timespec now = { 0, 0 };
    (void)clock_gettime(CLOCK_REALTIME, &now);
    bits = vx_hash64((uint64_t)now.tv_nsec ^ (uint64_t)now.tv_sec << 30);
    return vx_hash64(bits ^ (uint64_t)getpid() << 32 ^ (uint64_t)(uintptr_t)&bits ^ attempt);
}

/* Make the temporary beside w->target, never readable by more people than the
 * file it replaces (`old`, or NULL). */
static vx_status create_temp(vx_writer *w, const struct stat *old, vx_error *err)
{
    static const char pattern[] = ".vecidx-0123456789abcdef.tmp";
    const size_t n_dir = dir_length(w->target);
    const mode_t mode = old ? old->st_mode & 0777 : 0666;
    char *temp = vx_alloc(n_dir + sizeof pattern, 1);

    if (!temp)
        return vx_fail_nomem(err, "file name");
    memcpy(temp, w->target, n_dir);
    errno = EEXIST;
    for (unsigned attempt = 0; w->fd < 0 && errno == EEXIST && attempt < 100; attempt++) {
        (void)snprintf(temp + n_dir, sizeof pattern, ".vecidx-%016llx.tmp",
                       (unsigned long long)random_bits(attempt));
        w->fd = open_retry(temp, O_WRONLY | O_CREAT | O_EXCL, mode);
    }
    if (w->fd < 0) {
        const vx_status st = vx_fail_io(err, errno, "cannot write '%s'", w->path);
        vx_free(temp);
        return st;
    }
    w->temp = temp;
    if (!old)
        return VX_OK;
    /* Owner first, since giving a file away clears mode bits.  We may well not
     * be allowed to, and then the saved file is ours, as with any editor. */
    const int not_given = fchown(w->fd, old->st_uid, old->st_gid);
    (void)not_given;
    /* File systems without modes (FAT) answer EPERM. */
    if (fchmod(w->fd, mode) != 0 && errno != EPERM)
        return vx_fail_io(err, errno, "cannot write '%s'", w->path);
    return VX_OK;
}

/* Open the directory of w->target, early, so that nothing but its sync can fail
 * after the rename.  One we may write to but not read cannot be opened, and so
 * not synced: that is let pass. */
static vx_status open_dir(vx_writer *w, vx_error *err)
{
    const size_t n_dir = dir_length(w->target);
    char *dir = vx_alloc(n_dir + 2, 1);

    if (!dir)
        return vx_fail_nomem(err, "file name");
    memcpy(dir, w->target, n_dir);
    memcpy(dir + n_dir, ".", 2); /* "a/b/." or "." */
    w->dir_fd = open_retry(dir, O_RDONLY | O_DIRECTORY, 0);
    const int why = w->dir_fd >= 0 || errno == EACCES ? 0 : errno;
    vx_free(dir);
    return why == 0 ? VX_OK : vx_fail_io(err, why, "cannot write '%s'", w->path);
}

/* Choose the target and open something to write to. */
static vx_status begin(vx_writer *w, vx_error *err)
{
    const char *path = w->path;
    struct stat old;
    vx_status st;
    const bool exists = stat(path, &old) == 0;

    if (!exists && errno != ENOENT)
        return vx_fail_io(err, errno, "cannot write '%s'", path);
    if (exists && S_ISDIR(old.st_mode))
        return vx_fail_io(err, EISDIR, "cannot write '%s': it is a directory", path);
    if (exists && !S_ISREG(old.st_mode)) {
        w->fd = open_retry(path, O_WRONLY, 0);
        return w->fd >= 0 ? VX_OK : vx_fail_io(err, errno, "cannot write '%s'", path);
    }
    if (exists && faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) != 0)
        return vx_fail_io(err, errno, "cannot write '%s'", path);
    if ((st = follow_links(path, &w->target, err)) != VX_OK)
        return st;
    if (w->target[dir_length(w->target)] == '\0') /* "", or "new/" */
        return vx_fail_io(err, *path ? EISDIR : ENOENT, "cannot write '%s'", path);
    if ((st = open_dir(w, err)) != VX_OK)
        return st;
    return create_temp(w, exists ? &old : NULL, err);
}

vx_status vx_writer_open(const char *path, const vx_run *run, vx_writer **out, vx_error *err)
{
    vx_writer *w = vx_zalloc(1, sizeof *w);
    vx_status st;

    if (!w)
        return vx_fail_nomem(err, "file");
    w->run = run;
    w->fd = w->dir_fd = -1;
    if (!(w->path = copy_text(path)))
        st = vx_fail_nomem(err, "file name");
    else
        st = begin(w, err);
    if (st == VX_OK)
        *out = w;
    else
        vx_writer_close(w);
    return st;
}

/* Let the disk begin with what was written since the last time. */
static void flush_behind(vx_writer *w)
{
#ifdef SYNC_FILE_RANGE_WRITE
    if (!w->temp || w->length - w->flushed < FLUSH_STEP)
        return;
    (void)sync_file_range(w->fd, (off_t)w->flushed, (off_t)(w->length - w->flushed),
                          SYNC_FILE_RANGE_WRITE);
    w->flushed = w->length;
    if (w->length < w->settled + FLUSH_BEHIND + FLUSH_STEP)
        return;
    const uint64_t n = w->length - FLUSH_BEHIND - w->settled;
    (void)sync_file_range(w->fd, (off_t)w->settled, (off_t)n,
                          SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                              SYNC_FILE_RANGE_WAIT_AFTER);
    w->settled += n;
#else
    (void)w;
#endif
}

static bool signal_says_stop(const vx_writer *w)
{
    return w->run && w->run->tick && w->run->tick(w->run->tick_arg, 0, 0) != 0;
}

vx_status vx_writer_write(vx_writer *writer, const void *data, size_t n, vx_error *err)
{
    const char *from = data;

    while (n > 0) {
        const size_t want = n < IO_MAX ? n : IO_MAX;
        const ssize_t done = write(writer->fd, from, want);
        /* A signal shows as EINTR, or, when a part was written before, as that. */
        if ((done < 0 ? errno == EINTR : (size_t)done < want) && signal_says_stop(writer))
            return vx_fail(err, VX_E_INTERRUPTED, "interrupted");
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0) /* 0 would be a file system's bug, and an endless loop */
            return vx_fail_io(err, done < 0 ? errno : EIO, "cannot write '%s'", writer->path);
        from += done;
        n -= (size_t)done;
        writer->length += (uint64_t)done;
        flush_behind(writer);
    }
    return VX_OK;
}

bool vx_writer_can_patch(const vx_writer *writer) { return writer->temp != NULL; }

vx_status vx_writer_patch(vx_writer *writer, const void *data, size_t n, vx_error *err)
{
    const char *from = data;

    for (size_t at = 0; at < n;) {
        const ssize_t done = pwrite(writer->fd, from + at, n - at, (off_t)at);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return vx_fail_io(err, done < 0 ? errno : EIO, "cannot write '%s'", writer->path);
        at += (size_t)done;
    }
    return VX_OK;
}

vx_status vx_writer_commit(vx_writer *writer, vx_error *err)
{
    int why = sync_fd(writer->fd);
    const int at_close = close_checked(writer->fd);

    writer->fd = -1;
    if (why == 0)
        why = at_close;
    if (why == 0 && writer->temp && rename(writer->temp, writer->target) != 0)
        why = errno;
    if (why != 0)
        return vx_fail_io(err, why, "cannot write '%s'", writer->path);
    if (!writer->temp)
        return VX_OK;
    vx_free(writer->temp);
    writer->temp = NULL; /* it has its final name now */
    if (writer->dir_fd >= 0 && (why = sync_fd(writer->dir_fd)) != 0)
        return vx_fail_io(err, why,
                          "the file is written, but its directory could not be synced: a loss "
                          "of power may bring the older file back ('%s')",
                          writer->path);
    return VX_OK;
}

void vx_writer_close(vx_writer *writer)
{
    if (!writer)
        return;
    if (writer->fd >= 0)
        (void)close(writer->fd);
    if (writer->dir_fd >= 0)
        (void)close(writer->dir_fd);
    if (writer->temp)
        (void)unlink(writer->temp);
    vx_free(writer->temp);
    vx_free(writer->target);
    vx_free(writer->path);
    vx_free(writer);
}

#else
typedef int vx_store_file_is_in_store_file_win_c; /* ISO C wants a declaration */
#endif
