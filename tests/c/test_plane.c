/* test_plane.c - memory that grows in place, and what happens when it cannot. */
#include "base/vx_alloc.h"
#include "base/vx_plane.h"
#include "vx_test.h"

#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)

/* Run `body` in a child, so that what it does to the process does not matter;
 * true if it returned 0. */
static bool in_child(int (*body)(void))
{
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0)
        _exit(body());
    int status = -1;
    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) &&
           WEXITSTATUS(status) == 0;
}

VX_TEST(a_plane_of_nothing_works)
{
    vx_plane plane = { NULL, 0, 0 };
    vx_plane_free(&plane);
    CHECK(vx_plane_reserve(&plane, 0, NULL) == VX_OK);
    CHECK(plane.base != NULL && plane.reserved > 0 && plane.committed == 0);
    CHECK(vx_plane_commit(&plane, 0, NULL) == VX_OK && plane.committed == 0);
    vx_plane_free(&plane);
    CHECK(plane.base == NULL && plane.reserved == 0 && plane.committed == 0);
    vx_plane_free(&plane);
}

VX_TEST(growth_keeps_place_and_contents_and_fresh_memory_is_zero)
{
    vx_plane plane;
    CHECK(vx_plane_reserve(&plane, 64 * MIB, NULL) == VX_OK);
    char *const base = plane.base;
    CHECK((uintptr_t)base % VX_HUGE == 0 && plane.reserved >= 64 * MIB);
    size_t written = 0;
    for (size_t bytes = 1; bytes <= 64 * MIB; bytes = bytes * 3 / 2 + 1000) {
        CHECK(vx_plane_commit(&plane, bytes, NULL) == VX_OK);
        CHECK(plane.base == base && plane.committed >= bytes);
        CHECK(plane.committed <= plane.reserved);
        CHECK(plane.committed <= bytes + (bytes <= 4 * MIB ? 64 * KIB : 2 * MIB));
        for (size_t i = written; i < plane.committed; i += 4 * KIB) {
            CHECK(base[i] == 0);
            base[i] = (char)(i >> 12 | 1);
        }
        base[plane.committed - 1] = 0;
        written = vx_round_up(plane.committed, 4 * KIB);
    }
    for (size_t i = 0; i < plane.committed; i += 4 * KIB)
        CHECK(base[i] == (char)(i >> 12 | 1));
    CHECK(vx_plane_commit(&plane, 1, NULL) == VX_OK); /* never shrinks */
    CHECK(plane.committed >= 40 * MIB);
    CHECK(vx_plane_commit(&plane, plane.reserved, NULL) == VX_OK);
    CHECK(plane.committed == plane.reserved);
    vx_plane_free(&plane);
}

VX_TEST(a_large_commit_is_usable_from_end_to_end)
{
    vx_plane plane;
    CHECK(vx_plane_reserve(&plane, 256 * MIB + 12345, NULL) == VX_OK);
    CHECK(vx_plane_commit(&plane, 200 * MIB + 1, NULL) == VX_OK);
    CHECK(plane.committed == 202 * MIB);
    plane.base[0] = plane.base[101 * MIB] = plane.base[plane.committed - 1] = 1;
    CHECK(plane.base[1] == 0 && plane.base[101 * MIB - 1] == 0);
    vx_plane_free(&plane);
}

VX_TEST(many_reservations_far_beyond_memory)
{
#if defined(__SANITIZE_THREAD__)
    SKIP("TSan gives a program little address space");
#endif
    if (vx_plane_budget() < SIZE_MAX / 4)
        SKIP("the address space is limited here");
    vx_plane planes[64];
    for (size_t i = 0; i < 64; i++)
        CHECK(vx_plane_reserve(&planes[i], (size_t)1 << 36, NULL) == VX_OK);
    for (size_t i = 0; i < 64; i++) {
        CHECK(vx_plane_commit(&planes[i], 1000, NULL) == VX_OK);
        planes[i].base[999] = 1;
        vx_plane_free(&planes[i]);
    }
}

VX_TEST(more_than_the_address_space_is_refused)
{
    vx_plane plane = { (char *)&plane, 1, 1 };
    vx_error err;
    CHECK(vx_plane_reserve(&plane, SIZE_MAX, &err) == VX_E_NOMEM);
    CHECK(plane.base == NULL && plane.reserved == 0 && plane.committed == 0);
    CHECK(err.status == VX_E_NOMEM && err.text[0] != '\0');
    CHECK(vx_plane_reserve(&plane, SIZE_MAX / 2, &err) == VX_E_NOMEM && plane.base == NULL);
}

VX_TEST(an_injected_failure_leaves_the_plane_as_it_was)
{
    vx_plane plane;
    vx_test_fail_alloc(1);
    CHECK(vx_plane_reserve(&plane, MIB, NULL) == VX_E_NOMEM && plane.base == NULL);
    CHECK(vx_plane_reserve(&plane, 16 * MIB, NULL) == VX_OK);
    CHECK(vx_plane_commit(&plane, 100, NULL) == VX_OK);
    strcpy(plane.base, "still here");
    const vx_plane before = plane;
    vx_test_fail_alloc(1);
    CHECK(vx_plane_commit(&plane, 50, NULL) == VX_OK); /* nothing to do: nothing fails */
    CHECK(vx_plane_commit(&plane, 10 * MIB, NULL) == VX_E_NOMEM);
    CHECK(vx_plane_commit(&plane, 17 * MIB, NULL) == VX_E_NOMEM); /* more than reserved */
    CHECK(plane.base == before.base && plane.reserved == before.reserved &&
          plane.committed == before.committed);
    CHECK(strcmp(plane.base, "still here") == 0);
    CHECK(vx_plane_commit(&plane, 10 * MIB, NULL) == VX_OK && plane.base[9 * MIB] == 0);
    vx_plane_free(&plane);
}

static int under_a_limit(void)
{
    const struct rlimit limit = { 256 * MIB, 256 * MIB };
    if (setrlimit(RLIMIT_AS, &limit) != 0)
        return 1;
    const size_t budget = vx_plane_budget();
    if (budget == 0 || budget > 256 * MIB)
        return 2;
    vx_plane plane, small;
    if (vx_plane_reserve(&plane, (size_t)1 << 30, NULL) != VX_E_NOMEM || plane.base != NULL)
        return 3;
    if (vx_plane_reserve(&plane, budget, NULL) != VX_OK ||
        vx_plane_commit(&plane, budget, NULL) != VX_OK)
        return 4;
    plane.base[budget - 1] = 1;
    if (vx_plane_budget() >= budget) /* what was taken counts */
        return 5;
    if (vx_plane_reserve(&small, MIB, NULL) != VX_OK || vx_plane_commit(&small, MIB, NULL) != VX_OK)
        return 6;
    vx_plane_free(&small);
    vx_plane_free(&plane);
    return 0;
}

VX_TEST(a_small_address_space_is_an_error_and_no_crash)
{
#if !defined(__linux__)
    SKIP("RLIMIT_AS is not enforced here");
#endif
    if (VX_TEST_SHADOW)
        SKIP("the sanitizer's own memory is past any limit");
    CHECK(in_child(under_a_limit));
}
