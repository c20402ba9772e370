/* test_alloc.c - the heap, its failures on demand, and the error texts. */
#include "base/vx_alloc.h"
#include "base/vx_status.h"
#include "vx_test.h"

#include <string.h>

VX_TEST(memory_is_aligned_and_usable)
{
    for (size_t n = 0; n < 300; n += 7) {
        unsigned char *p = vx_alloc(n, 1);
        CHECK(p != NULL && (uintptr_t)p % VX_LINE == 0);
        memset(p, 0xA5, n);
        vx_free(p);
        p = vx_zalloc(n, 3);
        CHECK(p != NULL && (uintptr_t)p % VX_LINE == 0);
        for (size_t i = 0; i < 3 * n; i++)
            CHECK(p[i] == 0);
        vx_free(p);
    }
    vx_free(NULL);
}

VX_TEST(sizes_that_do_not_fit_are_refused)
{
    CHECK(vx_alloc(SIZE_MAX, 2) == NULL);
    CHECK(vx_alloc(2, SIZE_MAX) == NULL);
    CHECK(vx_zalloc((size_t)1 << 40, (size_t)1 << 40) == NULL);
}

VX_TEST(the_nth_allocation_fails_once)
{
    for (uint64_t nth = 1; nth <= 5; nth++) {
        vx_test_fail_alloc(nth);
        for (uint64_t i = 1; i <= 8; i++) {
            void *p = i % 2 != 0 ? vx_alloc(8, 8) : vx_zalloc(8, 8);
            CHECK((p == NULL) == (i == nth));
            vx_free(p);
        }
    }
    vx_test_fail_alloc(2);
    vx_test_fail_alloc(0); /* taken back */
    for (int i = 0; i < 4; i++)
        CHECK(!vx_alloc_should_fail());
}

VX_TEST(an_error_is_filled_and_cut_to_fit)
{
    vx_error err;
    CHECK(vx_fail(&err, VX_E_ARG, "k: expected at least 1, got %d", 0) == VX_E_ARG);
    CHECK(err.status == VX_E_ARG && err.row == -1 && err.value == 0 && err.sys_errno == 0);
    CHECK(strcmp(err.text, "k: expected at least 1, got 0") == 0);
    CHECK(vx_fail_io(&err, 28, "%s", "disk") == VX_E_IO && err.sys_errno == 28);
    CHECK(vx_fail_nomem(&err, "rows") == VX_E_NOMEM && strcmp(err.text, "out of memory: rows") == 0);
    CHECK(vx_fail(&err, VX_E_STATE, "%0500d", 7) == VX_E_STATE);
    CHECK(strlen(err.text) == sizeof err.text - 1);
    CHECK(vx_ok(&err) == VX_OK && err.status == VX_OK && err.text[0] == '\0');
    CHECK(vx_fail(NULL, VX_E_ARG, "nobody listens") == VX_E_ARG);
}
