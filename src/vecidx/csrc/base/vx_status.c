/* vx_status.c - filling a vx_error. */
#include "vx_status.h"

#include <stdarg.h>
#include <stdio.h>

static void fill(vx_error *err, vx_status status, int sys_errno, const char *format, va_list args)
    VX_PRINTF(4, 0);

static void fill(vx_error *err, vx_status status, int sys_errno, const char *format, va_list args)
{
    if (err == NULL)
        return;
    err->status = status;
    err->sys_errno = sys_errno;
    err->row = -1;
    err->value = 0;
    (void)vsnprintf(err->text, sizeof err->text, format, args);
}

vx_status vx_fail(vx_error *err, vx_status status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fill(err, status, 0, format, args);
    va_end(args);
    return status;
}

vx_status vx_fail_io(vx_error *err, int sys_errno, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fill(err, VX_E_IO, sys_errno, format, args);
    va_end(args);
    return VX_E_IO;
}

vx_status vx_fail_nomem(vx_error *err, const char *what)
{
    return vx_fail(err, VX_E_NOMEM, "out of memory: %s", what);
}

vx_status vx_ok(vx_error *err)
{
    return vx_fail(err, VX_OK, "%s", "");
}
