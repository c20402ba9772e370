/* vx_alloc.c - the core's heap. */
#include "vx_alloc.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#include <malloc.h>
#endif

/* Allocations left until the one that is to fail; 0: none is.  One for the
 * process, so that a test can hit an allocation made by a worker. */
static _Atomic uint64_t countdown;

void vx_test_fail_alloc(uint64_t nth) { atomic_store(&countdown, nth); }

bool vx_alloc_should_fail(void)
{
    uint64_t left = atomic_load_explicit(&countdown, memory_order_relaxed);
    while (left != 0)
        if (atomic_compare_exchange_weak(&countdown, &left, left - 1))
            return left == 1;
    return false;
}

void *vx_alloc(size_t count, size_t size)
{
    size_t bytes;
    if (!vx_mul_fits(count, size, &bytes) || vx_alloc_should_fail())
        return NULL;
    if (bytes == 0)
        bytes = 1;
    /* Not rounded up to a line: ASan should see a read one byte past the end. */
#if defined(_WIN32)
    return _aligned_malloc(bytes, VX_LINE);
#else
    void *p = NULL;
    return posix_memalign(&p, VX_LINE, bytes) == 0 ? p : NULL;
#endif
}

void *vx_zalloc(size_t count, size_t size)
{
    void *p = vx_alloc(count, size);
    if (p != NULL)
        memset(p, 0, count * size);
    return p;
}

void vx_free(void *p)
{
#if defined(_WIN32)
    _aligned_free(p);
#else
    free(p);
#endif
}
