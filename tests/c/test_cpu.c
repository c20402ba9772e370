/* test_cpu.c - the choice of a SIMD level, and the count of CPUs. */
#include "base/vx_cores.h"
#include "dist/dist.h"
#include "vx_test.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static size_t n_available(void)
{
    size_t n = 0;
    while (vx_simd_available(n) != NULL)
        n++;
    return n;
}

VX_TEST(scalar_always_runs_and_the_best_is_last)
{
    const size_t n = n_available();
    CHECK(n >= 1 && strcmp(vx_simd_available(0), "scalar") == 0);
    CHECK(vx_simd_init(NULL, NULL) == VX_OK);
    CHECK(strcmp(vx_simd_level(), vx_simd_available(n - 1)) == 0);
    CHECK(vx_simd_init("", NULL) == VX_OK);
    CHECK(strcmp(vx_simd_level(), vx_simd_available(n - 1)) == 0);
}

VX_TEST(a_level_that_runs_can_be_chosen)
{
    for (size_t i = 0; i < n_available(); i++) {
        CHECK(vx_simd_init(vx_simd_available(i), NULL) == VX_OK);
        CHECK(strcmp(vx_simd_level(), vx_simd_available(i)) == 0);
        CHECK(vx_level_runs(vx_level_active()));
    }
}

/* A cap above what the CPU has is no error: the best level below it is taken. */
VX_TEST(a_cap_is_never_exceeded)
{
#if defined(VX_X86)
    static const char *const chain[] = { "scalar", "avx2", "avx512", "avx512vnni" };
#elif defined(VX_ARM)
    static const char *const chain[] = { "scalar", "neon" };
#else
    static const char *const chain[] = { "scalar" };
#endif
    for (size_t i = 0; i < sizeof chain / sizeof chain[0]; i++) {
        CHECK(vx_simd_init(chain[i], NULL) == VX_OK);
        CHECK(vx_level_active() <= (vx_level)vx_level_from_name(chain[i]));
        CHECK(vx_level_runs(vx_level_active()));
    }
}

VX_TEST(a_wrong_word_is_refused_and_changes_nothing)
{
#if defined(VX_ARM)
    const char *const foreign = "avx2";
#else
    const char *const foreign = "neon";
#endif
    const char *const words[] = { "AVX2", "sse", "auto", " scalar", foreign };
    CHECK(vx_simd_init("scalar", NULL) == VX_OK);
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        vx_error err;
        CHECK(vx_simd_init(words[i], &err) == VX_E_ARG);
        CHECK(strstr(err.text, words[i]) != NULL && strstr(err.text, "scalar") != NULL);
        CHECK(strcmp(vx_simd_level(), "scalar") == 0);
    }
}

VX_TEST(names_and_levels_agree)
{
    for (int i = 0; i < VX_N_LEVELS; i++)
        CHECK(vx_level_from_name(vx_level_name((vx_level)i)) == i);
    CHECK(vx_level_from_name("mmx") == -1);
}

VX_TEST(levels_follow_from_features)
{
    bool avx2 = false, fma = false, vnni = false;
    int present = -1;
    const char *name;
    for (size_t i = 0; (name = vx_cpu_feature(i, &present)) != NULL; i++) {
        CHECK(present == 0 || present == 1);
        avx2 |= strcmp(name, "avx2") == 0 && present;
        fma |= strcmp(name, "fma") == 0 && present;
        vnni |= strcmp(name, "avx512vnni") == 0 && present;
    }
    CHECK(vx_level_runs(VX_AVX2) == (avx2 && fma));
    CHECK(vnni || !vx_level_runs(VX_AVX512VNNI));
    CHECK(vx_level_runs(VX_AVX512) || !vx_level_runs(VX_AVX512VNNI));
    CHECK(vx_level_runs(VX_AVX2) || !vx_level_runs(VX_AVX512));
}

/* ---- CPUs: planted control groups under a temporary root --------------------- */

static char root[256];

/* Write root/path, with the folders on the way. */
static void plant(const char *path, const char *text)
{
    char full[512];
    (void)snprintf(full, sizeof full, "%s%s", root, path);
    for (char *p = full + strlen(root) + 1; *p != '\0'; p++)
        if (*p == '/') {
            *p = '\0';
            (void)mkdir(full, 0700);
            *p = '/';
        }
    FILE *file = fopen(full, "w");
    CHECK(file != NULL && fputs(text, file) >= 0);
    CHECK(file != NULL && fclose(file) == 0);
}

static void new_root(void)
{
    const char *tmp = getenv("TMPDIR");
    (void)snprintf(root, sizeof root, "%s/vx_cpu_XXXXXX", tmp != NULL ? tmp : "/tmp");
    CHECK(mkdtemp(root) != NULL);
}

static void drop_root(void)
{
    char command[300];
    (void)snprintf(command, sizeof command, "rm -rf '%s'", root);
    CHECK(system(command) == 0);
}

VX_TEST(the_quota_of_every_group_above_counts)
{
#if !defined(__linux__)
    SKIP("no control groups here");
#endif
    new_root();
    CHECK(vx_cores_quota(root) == 0); /* nothing there at all */
    plant("/proc/self/cgroup", "0::/a/b\n");
    plant("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    CHECK(vx_cores_quota(root) == 0);
    plant("/sys/fs/cgroup/a/cpu.max", "250000 100000\n");
    CHECK(vx_cores_quota(root) == 3); /* 2.5 CPUs keep three threads busy */
    plant("/sys/fs/cgroup/cpu.max", "100000 100000\n");
    CHECK(vx_cores_quota(root) == 1);
    plant("/sys/fs/cgroup/cpu.max", "rubbish\n");
    plant("/sys/fs/cgroup/a/b/cpu.max", "50000 100000\n");
    CHECK(vx_cores_quota(root) == 1);
    drop_root();
}

VX_TEST(version_one_quotas_are_read_too)
{
#if !defined(__linux__)
    SKIP("no control groups here");
#endif
    new_root();
    plant("/proc/self/cgroup", "5:cpuset:/x\n4:cpu,cpuacct:/gone\n1:memory:/x\n");
    plant("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
    plant("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    CHECK(vx_cores_quota(root) == 0);
    plant("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "400000\n");
    CHECK(vx_cores_quota(root) == 4); /* from the root: the group is not visible */
    plant("/sys/fs/cgroup/cpuset/x/cpu.cfs_quota_us", "100000\n"); /* another controller */
    CHECK(vx_cores_quota(root) == 4);
    drop_root();
}

VX_TEST(there_is_at_least_one_cpu)
{
    CHECK(vx_cores_count() >= 1);
    CHECK(vx_get_num_threads() >= 1);
}
