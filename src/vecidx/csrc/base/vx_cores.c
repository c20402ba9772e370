/* vx_cores.c - how many CPUs this process may keep busy.
 *
 * A container with "2 CPUs" on a machine with 64 has an affinity mask of 64 and
 * a quota of 2: 64 threads would spend their time throttled.  So the quota of
 * every control group from the process's own up to the root counts, in the
 * layout of version 2 (cpu.max) and of version 1 (cpu.cfs_*_us). */
#include "vx_cores.h"

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#endif

#if defined(__linux__)

#include <sched.h>

#define MAX_PATH_BYTES 1024

static unsigned affinity_count(void)
{
    /* A machine may have more CPUs than the mask has bits: the call then fails
     * with EINVAL, and a wider mask is tried. */
    for (int bits = CPU_SETSIZE; bits <= 1 << 18; bits *= 4) {
        cpu_set_t *set = CPU_ALLOC((size_t)bits);
        if (set == NULL)
            return 0;
        const size_t bytes = CPU_ALLOC_SIZE((size_t)bits);
        const int n = sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 0;
        CPU_FREE(set);
        if (n > 0)
            return (unsigned)n;
    }
    return 0;
}

/* The first line of a file, without its newline; false if there is none. */
static bool read_line(const char *path, char *out, size_t cap)
{
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return false;
    const bool ok = fgets(out, (int)cap, file) != NULL;
    (void)fclose(file);
    if (ok)
        out[strcspn(out, "\n")] = '\0';
    return ok;
}

/* CPUs for a quota of `quota` microseconds every `period`; 0 if it is no limit. */
static unsigned cpus_of(long long quota, long long period)
{
    if (quota <= 0 || period <= 0 || quota / period >= 1000000)
        return 0;
    return (unsigned)((quota + period - 1) / period);
}

/* The quota set on one group's folder; 0 if none. */
static unsigned folder_quota(const char *folder, bool v2)
{
    char path[MAX_PATH_BYTES + 64], line[128];
    long long quota = 0, period = 0;
    if (v2) {
        (void)snprintf(path, sizeof path, "%s/cpu.max", folder);
        if (!read_line(path, line, sizeof line) || sscanf(line, "%lld %lld", &quota, &period) != 2)
            return 0; /* "max 100000" has no first number */
        return cpus_of(quota, period);
    }
    (void)snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder);
    if (!read_line(path, line, sizeof line))
        return 0;
    quota = strtoll(line, NULL, 10);
    (void)snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    if (!read_line(path, line, sizeof line))
        return 0;
    period = strtoll(line, NULL, 10);
    return cpus_of(quota, period);
}

static unsigned smaller_limit(unsigned a, unsigned b)
{
    return a == 0 ? b : b == 0 ? a : a < b ? a : b;
}

/* The smallest quota from mount/group up to the mount itself.  A group that is
 * not there (inside a container the path may be the host's) sets no limit. */
static unsigned walk_up(const char *mount, const char *group, bool v2)
{
    char folder[MAX_PATH_BYTES];
    const int length = snprintf(folder, sizeof folder, "%s%s", mount, group);
    if (length < 0 || (size_t)length >= sizeof folder)
        return 0;
    unsigned limit = 0;
    for (;;) {
        limit = smaller_limit(limit, folder_quota(folder, v2));
        char *slash = strrchr(folder, '/');
        if (slash == NULL || (size_t)(slash - folder) < strlen(mount))
            return limit;
        *slash = '\0';
    }
}

/* Is `word` in a comma-separated list? */
static bool list_has(const char *list, const char *word)
{
    const size_t n = strlen(word);
    for (const char *p = list; p != NULL; p = strchr(p, ',')) {
        p += *p == ',';
        if (strncmp(p, word, n) == 0 && (p[n] == ',' || p[n] == '\0'))
            return true;
    }
    return false;
}

unsigned vx_cores_quota(const char *root)
{
    static const char *const v1_mounts[] = { "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct" };
    char path[MAX_PATH_BYTES], line[MAX_PATH_BYTES], mount[MAX_PATH_BYTES];
    (void)snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return 0;
    unsigned limit = 0;
    while (fgets(line, sizeof line, file) != NULL) { /* id:controllers:group */
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *group = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
        if (group == NULL)
            continue;
        controllers++;
        *group++ = '\0';
        if (strcmp(group, "/") == 0)
            group++;
        if (*controllers == '\0') {
            (void)snprintf(mount, sizeof mount, "%s/sys/fs/cgroup", root);
            limit = smaller_limit(limit, walk_up(mount, group, true));
        } else if (list_has(controllers, "cpu")) {
            for (size_t i = 0; i < sizeof v1_mounts / sizeof v1_mounts[0]; i++) {
                (void)snprintf(mount, sizeof mount, "%s%s", root, v1_mounts[i]);
                limit = smaller_limit(limit, walk_up(mount, group, false));
            }
        }
    }
    (void)fclose(file);
    return limit;
}

#else /* not Linux: no control groups */

static unsigned affinity_count(void)
{
#if defined(_WIN32)
    DWORD_PTR ours = 0, all = 0;
    unsigned n = 0;
    if (GetProcessAffinityMask(GetCurrentProcess(), &ours, &all))
        for (; ours != 0; ours &= ours - 1)
            n++;
    return n;
#else
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (unsigned)n : 0;
#endif
}

unsigned vx_cores_quota(const char *root)
{
    (void)root;
    return 0;
}

#endif

unsigned vx_cores_count(void)
{
    const unsigned cpus = affinity_count(), quota = vx_cores_quota("");
    if (quota > 0 && quota < cpus)
        return quota;
    return cpus > 0 ? cpus : 1;
}
