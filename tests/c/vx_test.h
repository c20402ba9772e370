/* vx_test.h - a small test runner; every test file is a program of its own.
 *
 *   VX_TEST(sums_are_exact) { CHECK(1 + 1 == 2); }
 *
 * That is all: tests register themselves, and main() is here.  They run in the
 * order of the file; with arguments, only those whose names contain one.
 *
 * A failed CHECK prints where it stands and lets the test go on; the test counts
 * as failed once.  CHECK may be used from any thread.  SKIP says why and ends
 * the test.  The last line is 'N passed, N failed', and the program exits with 1
 * if a test failed. */
#ifndef VX_TEST_H
#define VX_TEST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define VX_TESTS_MAX 200

static struct {
    const char *name;
    void (*run)(void);
} vx_tests[VX_TESTS_MAX];
static int vx_n_tests;
static _Atomic int vx_test_bad; /* failed checks of the test that runs */

#define VX_TEST(test)                                                                              \
    static void test(void);                                                                        \
    __attribute__((constructor)) static void register_##test(void)                                 \
    {                                                                                              \
        vx_tests[vx_n_tests].name = #test;                                                         \
        vx_tests[vx_n_tests++].run = test;                                                         \
    }                                                                                              \
    static void test(void)

#define CHECK(x)                                                                                   \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            atomic_fetch_add(&vx_test_bad, 1);                                                     \
            printf("%s:%d: CHECK(%s) failed\n", __FILE__, __LINE__, #x);                           \
            fflush(stdout);                                                                        \
        }                                                                                          \
    } while (0)

#define SKIP(why)                                                                                  \
    do {                                                                                           \
        printf("%s: skipped: %s\n", __func__, why);                                                \
        return;                                                                                    \
    } while (0)

int main(int argc, char **argv)
{
    int n_passed = 0, n_failed = 0;
    for (int i = 0; i < vx_n_tests; i++) {
        bool is_wanted = argc < 2;
        for (int j = 1; j < argc; j++)
            is_wanted |= strstr(vx_tests[i].name, argv[j]) != NULL;
        if (!is_wanted)
            continue;
        atomic_store(&vx_test_bad, 0);
        vx_tests[i].run();
        if (atomic_load(&vx_test_bad) == 0) {
            n_passed++;
        } else {
            n_failed++;
            printf("FAILED: %s\n", vx_tests[i].name);
        }
        fflush(stdout);
    }
    printf("%d passed, %d failed\n", n_passed, n_failed);
    return n_failed > 0;
}

/* Address space cannot be limited, and forked children behave oddly, under the
 * sanitizers that keep shadow memory. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define VX_TEST_SHADOW 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define VX_TEST_SHADOW 1
#endif
#endif
#ifndef VX_TEST_SHADOW
#define VX_TEST_SHADOW 0
#endif

#endif
