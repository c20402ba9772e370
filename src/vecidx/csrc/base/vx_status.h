/* vx_status.h - filling a vx_error. */
#ifndef VX_STATUS_H
#define VX_STATUS_H

#include "vx_base.h"

/* Fill *err (NULL is fine) and return `status`, so that a caller can write
 * `return vx_fail(err, VX_E_ARG, "k: expected at least 1, got %zu", k);`.
 * row is set to -1, value and sys_errno to 0. */
vx_status vx_fail(vx_error *err, vx_status status, const char *format, ...) VX_PRINTF(3, 4);

/* The same for VX_E_IO; the text of `sys_errno` is left to the caller's side. */
vx_status vx_fail_io(vx_error *err, int sys_errno, const char *format, ...) VX_PRINTF(3, 4);

/* "out of memory: <what>". */
vx_status vx_fail_nomem(vx_error *err, const char *what);

/* VX_OK with an emptied *err. */
vx_status vx_ok(vx_error *err);

#endif
