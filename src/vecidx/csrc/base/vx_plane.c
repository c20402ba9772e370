/* vx_plane.c - memory that grows in place, over mmap and VirtualAlloc.
 *
 * A small plane is committed in steps of 64 KiB, so that an index of a hundred
 * rows stays small.  Above 4 MiB the steps are whole 2 MiB pages, and each fresh
 * one is marked for huge pages before anything touches it: a page that has been
 * written as 4 KiB pages would wait for the kernel's background scan.  So the
 * front of a plane that grew slowly stays on small pages, and a plane that is
 * given its size at once has huge pages from its first byte. */
#include "vx_plane.h"

#include "vx_alloc.h"
#include "vx_status.h"

/* Bytes.  Smaller: more system calls while an index is small.  Larger: more
 * idle memory for each of many small indexes.  No page size in use is larger. */
#define SMALL_STEP ((size_t)64 << 10)
/* Bytes.  Smaller: a small index could round up to twice its size.  Larger: more
 * of a big plane stays on small pages. */
#define SMALL_LIMIT ((size_t)4 << 20)

/* What of a limited address space one plane may have at most: an index has half
 * a dozen planes, and the program around it wants some too. */
#define BUDGET_SHARE 8u

/* The four things asked of a system:
 *   reserve_pages   address space without access, aligned to VX_HUGE, or NULL
 *   commit_pages    make pages readable and writable; zero when fresh
 *   advise_huge     a wish, never an error
 *   release_pages   give all of a reservation back */
#if defined(_WIN32)

#define WIN32_LEAN_AND_MEAN
#include <windows.h>

/* Aligned to 64 KiB only, as the system gives it: 2 MiB pages would need a
 * privilege that users do not have. */
static char *reserve_pages(size_t bytes)
{
    return VirtualAlloc(NULL, bytes, MEM_RESERVE, PAGE_NOACCESS);
}

static bool commit_pages(char *at, size_t bytes)
{
    return VirtualAlloc(at, bytes, MEM_COMMIT, PAGE_READWRITE) != NULL;
}

static void advise_huge(char *at, size_t bytes) { (void)at, (void)bytes; }

static void release_pages(char *base, size_t bytes)
{
    (void)bytes;
    VirtualFree(base, 0, MEM_RELEASE);
}

size_t vx_plane_budget(void) { return SIZE_MAX / 2; }

#else

#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif

/* Asks for one huge page too many and cuts both ends off, so that the base is
 * aligned whatever the system picks. */
static char *reserve_pages(size_t bytes)
{
    size_t wide;
    if (!vx_add_fits(bytes, VX_HUGE, &wide))
        return NULL;
    char *got = mmap(NULL, wide, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (got == MAP_FAILED)
        return NULL;
    const size_t before = vx_round_up((uintptr_t)got, VX_HUGE) - (uintptr_t)got;
    if (before > 0)
        (void)munmap(got, before);
    if (before < VX_HUGE)
        (void)munmap(got + before + bytes, VX_HUGE - before);
    return got + before;
}

static bool commit_pages(char *at, size_t bytes)
{
    return mprotect(at, bytes, PROT_READ | PROT_WRITE) == 0;
}

static void advise_huge(char *at, size_t bytes)
{
#if defined(MADV_HUGEPAGE)
    (void)madvise(at, bytes, MADV_HUGEPAGE);
#else
    (void)at, (void)bytes;
#endif
}

static void release_pages(char *base, size_t bytes) { (void)munmap(base, bytes); }

/* Bytes of address space in use; 0 where the system does not say. */
static size_t address_space_used(void)
{
    unsigned long long pages = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (file == NULL)
        return 0;
    const int got = fscanf(file, "%llu", &pages);
    (void)fclose(file);
    const long page = sysconf(_SC_PAGESIZE);
    return got == 1 && page > 0 ? (size_t)pages * (size_t)page : 0;
}

size_t vx_plane_budget(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ||
        limit.rlim_cur >= SIZE_MAX / 2)
        return SIZE_MAX / 2;
    const size_t allowed = (size_t)limit.rlim_cur, used = address_space_used();
    return used < allowed ? (allowed - used) / BUDGET_SHARE : 0;
}

#endif

vx_status vx_plane_reserve(vx_plane *plane, size_t bytes, vx_error *err)
{
    *plane = (vx_plane){ NULL, 0, 0 };
    size_t end;
    if (vx_alloc_should_fail() || !vx_add_fits(bytes, SMALL_STEP, &end))
        return vx_fail_nomem(err, "address space for an index");
    const size_t size = bytes == 0 ? SMALL_STEP : vx_round_up(bytes, SMALL_STEP);
    char *base = reserve_pages(size);
    if (base == NULL)
        return vx_fail(err, VX_E_NOMEM, "out of memory: no %zu MiB of address space for an index",
                       size >> 20);
    *plane = (vx_plane){ base, size, 0 };
    return VX_OK;
}

vx_status vx_plane_commit(vx_plane *plane, size_t bytes, vx_error *err)
{
    if (bytes <= plane->committed)
        return VX_OK;
    if (bytes > plane->reserved || vx_alloc_should_fail())
        return vx_fail_nomem(err, "growing an index");

    size_t end = vx_round_up(bytes, bytes <= SMALL_LIMIT ? SMALL_STEP : VX_HUGE);
    if (end > plane->reserved)
        end = plane->reserved;
    if (!commit_pages(plane->base + plane->committed, end - plane->committed))
        return vx_fail(err, VX_E_NOMEM, "out of memory: growing an index by %zu KiB",
                       (end - plane->committed) >> 10);
    const size_t huge = vx_round_up(plane->committed, VX_HUGE);
    if (end > SMALL_LIMIT && huge < end)
        advise_huge(plane->base + huge, end - huge);
    plane->committed = end;
    return VX_OK;
}

void vx_plane_borrow(vx_plane *plane, const void *memory)
{
    *plane = (vx_plane){ (char *)(uintptr_t)memory, 0, 0 };
}

void vx_plane_free(vx_plane *plane)
{
    if (plane->reserved > 0)
        release_pages(plane->base, plane->reserved);
    *plane = (vx_plane){ NULL, 0, 0 };
}
