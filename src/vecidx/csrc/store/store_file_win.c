/* store_file_win.c - files on Windows; the contract is store_file.h's.
 *
 * Differences that Windows brings: a file that somebody has open without
 * sharing deletion cannot be replaced (EACCES, the old file stays); a directory
 * cannot be synced, MOVEFILE_WRITE_THROUGH stands in for it; a replaced file's
 * permissions become those its directory hands down.  MoveFileEx and not
 * ReplaceFile: the latter keeps the permissions but works in several steps, and
 * a failure between them leaves no file under the name. */
#ifdef _WIN32

#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "store_file.h"

#include "../base/vx_alloc.h"
#include "../base/vx_rng.h"
#include "../base/vx_status.h"

#define IO_MAX ((size_t)64 << 20) /* a DWORD counts the bytes of one call */

static int errno_of(DWORD code)
{
    switch (code) {
    case ERROR_FILE_NOT_FOUND:
    case ERROR_PATH_NOT_FOUND:
    case ERROR_INVALID_NAME:
    case ERROR_BAD_PATHNAME:
    case ERROR_INVALID_DRIVE:
        return ENOENT;
    case ERROR_ACCESS_DENIED:
    case ERROR_SHARING_VIOLATION:
    case ERROR_LOCK_VIOLATION:
    case ERROR_WRITE_PROTECT:
        return EACCES;
    case ERROR_FILE_EXISTS:
    case ERROR_ALREADY_EXISTS:
        return EEXIST;
    case ERROR_DISK_FULL:
    case ERROR_HANDLE_DISK_FULL:
        return ENOSPC;
    case ERROR_FILE_TOO_LARGE:
        return EFBIG;
    case ERROR_TOO_MANY_OPEN_FILES:
        return EMFILE;
    case ERROR_BROKEN_PIPE:
    case ERROR_NO_DATA:
        return EPIPE;
    case ERROR_NOT_ENOUGH_MEMORY:
    case ERROR_OUTOFMEMORY:
        return ENOMEM;
    case ERROR_FILENAME_EXCED_RANGE:
        return ENAMETOOLONG;
    default:
        return EIO;
    }
}

static char *copy_text(const char *text)
{
    const size_t n = strlen(text) + 1;
    char *copy = vx_alloc(n, 1);

    if (copy)
        memcpy(copy, text, n);
    return copy;
}

/* UTF-8 to UTF-16; NULL, with *code set, if it is no UTF-8 or memory is short. */
static wchar_t *widen(const char *text, DWORD *code)
{
    const int n = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, text, -1, NULL, 0);
    wchar_t *wide = n > 0 ? vx_alloc((size_t)n, sizeof *wide) : NULL;

    *code = n > 0 ? ERROR_OUTOFMEMORY : ERROR_INVALID_NAME;
    if (wide)
        (void)MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, text, -1, wide, n);
    return wide;
}

static bool is_directory(HANDLE handle)
{
    BY_HANDLE_FILE_INFORMATION info;
    return GetFileInformationByHandle(handle, &info) &&
           (info.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY) != 0;
}

/* ---- reading ------------------------------------------------------------ */

struct vx_reader {
    HANDLE handle;
    uint64_t length;
    char *path;
};

vx_status vx_reader_open(const char *path, vx_reader **out, vx_error *err)
{
    vx_reader *r = vx_zalloc(1, sizeof *r);
    wchar_t *wide = NULL;
    LARGE_INTEGER length;
    DWORD code;
    vx_status st = VX_OK;

    if (!r)
        return vx_fail_nomem(err, "file");
    r->handle = INVALID_HANDLE_VALUE;
    if (!(r->path = copy_text(path))) {
        st = vx_fail_nomem(err, "file name");
        goto done;
    }
    if (!(wide = widen(path, &code))) {
        st = vx_fail_io(err, errno_of(code), "cannot open '%s'", path);
        goto done;
    }
    /* BACKUP_SEMANTICS opens directories too, so that they get their own words. */
    r->handle =
        CreateFileW(wide, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE,
                    NULL, OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS, NULL);
    if (r->handle == INVALID_HANDLE_VALUE)
        st = vx_fail_io(err, errno_of(GetLastError()), "cannot open '%s'", path);
    else if (is_directory(r->handle))
        st = vx_fail_io(err, EISDIR, "cannot open '%s': it is a directory", path);
    else if (GetFileType(r->handle) != FILE_TYPE_DISK || !GetFileSizeEx(r->handle, &length))
        st = vx_fail_io(err, ESPIPE, "cannot open '%s': it is no regular file", path);
    else
        r->length = (uint64_t)length.QuadPart;
done:
    vx_free(wide);
    if (st == VX_OK)
        *out = r;
    else
        vx_reader_close(r);
    return st;
}

uint64_t vx_reader_length(const vx_reader *reader) { return reader->length; }
const char *vx_reader_path(const vx_reader *reader) { return reader->path; }

vx_status vx_reader_read(vx_reader *reader, uint64_t offset, void *dst, size_t n, vx_error *err)
{
    char *to = dst;

    while (n > 0) {
        OVERLAPPED at = { 0 };
        DWORD got = 0;
        at.Offset = (DWORD)(offset & 0xFFFFFFFFu);
        at.OffsetHigh = (DWORD)(offset >> 32);
        if (!ReadFile(reader->handle, to, (DWORD)(n < IO_MAX ? n : IO_MAX), &got, &at) &&
            GetLastError() != ERROR_HANDLE_EOF)
            return vx_fail_io(err, errno_of(GetLastError()), "cannot read '%s'", reader->path);
        if (got == 0)
            return vx_fail(err, VX_E_FORMAT,
                           "the file ends at byte %llu: it was cut while being read ('%s')",
                           (unsigned long long)offset, reader->path);
        to += got;
        offset += got;
        n -= got;
    }
    return VX_OK;
}

void vx_reader_close(vx_reader *reader)
{
    if (!reader)
        return;
    if (reader->handle != INVALID_HANDLE_VALUE)
        (void)CloseHandle(reader->handle);
    vx_free(reader->path);
    vx_free(reader);
}

/* ---- mapping ------------------------------------------------------------ */

vx_status vx_reader_map(const vx_reader *reader, vx_map *out, vx_error *err)
{
    *out = (vx_map){ NULL, 0 };
    if (reader->length == 0)
        return VX_OK;
    if (reader->length > SIZE_MAX / 2)
        return vx_fail_io(err, ENOMEM, "cannot map '%s'", reader->path);
    HANDLE section = CreateFileMappingW(reader->handle, NULL, PAGE_READONLY, 0, 0, NULL);
    /* The view keeps the section and the file; the handles need not stay. */
    const void *base = section ? MapViewOfFile(section, FILE_MAP_READ, 0, 0, 0) : NULL;
    const DWORD code = base ? NO_ERROR : GetLastError();
    if (section)
        (void)CloseHandle(section);
    if (!base)
        return vx_fail_io(err, errno_of(code), "cannot map '%s'", reader->path);
    *out = (vx_map){ base, (size_t)reader->length };
    return VX_OK;
}

void vx_map_free(vx_map *map)
{
    if (map->base)
        (void)UnmapViewOfFile(map->base);
    *map = (vx_map){ NULL, 0 };
}

/* Windows reads ahead by what it sees. */
void vx_map_advise(const vx_map *map, size_t offset, size_t n, vx_map_wish wish)
{
    (void)map, (void)offset, (void)n, (void)wish;
}

/* ---- writing ------------------------------------------------------------ */

struct vx_writer {
    HANDLE handle;
    char *path;      /* as the caller gave it, for messages                  */
    wchar_t *target; /* what the temporary replaces                          */
    wchar_t *temp;   /* exists and is ours to remove; NULL: it does not      */
};

static vx_status fail_write(const vx_writer *w, DWORD code, vx_error *err)
{
    return vx_fail_io(err, errno_of(code), "cannot write '%s'", w->path);
}

/* Make the temporary beside w->target. */
static vx_status create_temp(vx_writer *w, vx_error *err)
{
    static const wchar_t pattern[] = L".vecidx-0123456789abcdef.tmp";
    const size_t n_pattern = sizeof pattern / sizeof pattern[0];
    size_t n_dir = wcslen(w->target);
    wchar_t *temp;
    DWORD code = ERROR_FILE_EXISTS;

    while (n_dir > 0 && w->target[n_dir - 1] != L'/' && w->target[n_dir - 1] != L'\\' &&
           w->target[n_dir - 1] != L':')
        n_dir--;
    if (w->target[n_dir] == L'\0')
        return fail_write(w, ERROR_INVALID_NAME, err);
    if (!(temp = vx_alloc(n_dir + n_pattern, sizeof *temp)))
        return vx_fail_nomem(err, "file name");
    memcpy(temp, w->target, n_dir * sizeof *temp);
    for (unsigned attempt = 0; code == ERROR_FILE_EXISTS && attempt < 100; attempt++) {
        LARGE_INTEGER ticks;
        (void)QueryPerformanceCounter(&ticks);
        const uint64_t bits =
            vx_hash64(vx_hash64((uint64_t)ticks.QuadPart ^ attempt) ^
                      (uint64_t)GetCurrentProcessId() << 32 ^ (uint64_t)(uintptr_t)w);
        (void)_snwprintf(temp + n_dir, n_pattern, L".vecidx-%016llx.tmp", (unsigned long long)bits);
        w->handle =
            CreateFileW(temp, GENERIC_WRITE, 0, NULL, CREATE_NEW, FILE_ATTRIBUTE_NORMAL, NULL);
        code = w->handle == INVALID_HANDLE_VALUE ? GetLastError() : NO_ERROR;
    }
    if (code != NO_ERROR) {
        vx_free(temp);
        return fail_write(w, code, err);
    }
    w->temp = temp;
    return VX_OK;
}

/* The file behind the handle, links followed; NULL if memory is short. */
static wchar_t *final_path(HANDLE handle)
{
    const DWORD n = GetFinalPathNameByHandleW(handle, NULL, 0, 0);
    wchar_t *path = n > 0 ? vx_alloc((size_t)n + 1, sizeof *path) : NULL;

    if (path && GetFinalPathNameByHandleW(handle, path, n + 1, 0) == 0) {
        vx_free(path);
        path = NULL;
    }
    return path;
}

/* Choose the target and open something to write to. */
static vx_status begin(vx_writer *w, vx_error *err)
{
    DWORD code;
    wchar_t *wide = widen(w->path, &code);

    if (!wide)
        return fail_write(w, code, err);
    HANDLE old =
        CreateFileW(wide, GENERIC_WRITE, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE,
                    NULL, OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS, NULL);
    if (old == INVALID_HANDLE_VALUE) {
        code = GetLastError();
        w->target = wide;
        return code == ERROR_FILE_NOT_FOUND ? create_temp(w, err) : fail_write(w, code, err);
    }
    if (is_directory(old)) {
        (void)CloseHandle(old);
        vx_free(wide);
        return vx_fail_io(err, EISDIR, "cannot write '%s': it is a directory", w->path);
    }
    if (GetFileType(old) != FILE_TYPE_DISK) { /* a pipe, a console, NUL */
        vx_free(wide);
        w->handle = old;
        return VX_OK;
    }
    w->target = final_path(old);
    (void)CloseHandle(old);
    vx_free(wide);
    return w->target ? create_temp(w, err) : vx_fail_nomem(err, "file name");
}

/* No signal interrupts a write here: the tick of `run` is never due. */
vx_status vx_writer_open(const char *path, const vx_run *run, vx_writer **out, vx_error *err)
{
    vx_writer *w = vx_zalloc(1, sizeof *w);
    vx_status st;

    (void)run;
    if (!w)
        return vx_fail_nomem(err, "file");
    w->handle = INVALID_HANDLE_VALUE;
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

vx_status vx_writer_write(vx_writer *writer, const void *data, size_t n, vx_error *err)
{
    const char *from = data;

    while (n > 0) {
        DWORD done = 0;
        if (!WriteFile(writer->handle, from, (DWORD)(n < IO_MAX ? n : IO_MAX), &done, NULL))
            return fail_write(writer, GetLastError(), err);
        if (done == 0)
            return fail_write(writer, ERROR_WRITE_FAULT, err);
        from += done;
        n -= done;
    }
    return VX_OK;
}

bool vx_writer_can_patch(const vx_writer *writer) { return writer->temp != NULL; }

vx_status vx_writer_patch(vx_writer *writer, const void *data, size_t n, vx_error *err)
{
    LARGE_INTEGER start = { 0 };

    if (!SetFilePointerEx(writer->handle, start, NULL, FILE_BEGIN))
        return fail_write(writer, GetLastError(), err);
    return vx_writer_write(writer, data, n, err);
}

vx_status vx_writer_commit(vx_writer *writer, vx_error *err)
{
    DWORD code = NO_ERROR;

    /* A pipe or a console cannot be flushed, and need not be. */
    if (!FlushFileBuffers(writer->handle) && writer->temp)
        code = GetLastError();
    if (!CloseHandle(writer->handle) && code == NO_ERROR)
        code = GetLastError();
    writer->handle = INVALID_HANDLE_VALUE;
    if (code == NO_ERROR && writer->temp &&
        !MoveFileExW(writer->temp, writer->target,
                     MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH))
        code = GetLastError();
    if (code != NO_ERROR)
        return fail_write(writer, code, err);
    vx_free(writer->temp);
    writer->temp = NULL; /* it has its final name now */
    return VX_OK;
}

void vx_writer_close(vx_writer *writer)
{
    if (!writer)
        return;
    if (writer->handle != INVALID_HANDLE_VALUE)
        (void)CloseHandle(writer->handle);
    if (writer->temp)
        (void)DeleteFileW(writer->temp);
    vx_free(writer->temp);
    vx_free(writer->target);
    vx_free(writer->path);
    vx_free(writer);
}

#else
typedef int vx_store_file_win_is_for_windows; /* ISO C wants a declaration */
#endif
