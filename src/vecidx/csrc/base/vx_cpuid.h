/* vx_cpuid.h - asking the CPU and the operating system what they support.
 *
 * Only what compilers and systems spell differently is here; what the bits mean
 * to distance kernels is in dist_cpu.c. */
#ifndef VX_CPUID_H
#define VX_CPUID_H

#include "vx_base.h"

#if defined(VX_ARM)
#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#endif
#endif

#if defined(VX_X86)

#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#if defined(__APPLE__)
#include <sys/sysctl.h>
#include <sys/types.h>
#endif

/* eax .. edx of a CPUID leaf; all zero if the CPU does not have the leaf. */
VX_INLINE void vx_cpuid(unsigned leaf, unsigned subleaf, unsigned out[4])
{
    out[0] = out[1] = out[2] = out[3] = 0;
#if defined(_MSC_VER)
    int regs[4];
    __cpuid(regs, 0);
    if ((unsigned)regs[0] < leaf)
        return;
    __cpuidex(regs, (int)leaf, (int)subleaf);
    for (int i = 0; i < 4; i++)
        out[i] = (unsigned)regs[i];
#else
    if (!__get_cpuid_count(leaf, subleaf, &out[0], &out[1], &out[2], &out[3]))
        out[0] = out[1] = out[2] = out[3] = 0;
#endif
}

/* The register sets that the operating system saves.  Only if CPUID says OSXSAVE. */
VX_INLINE uint64_t vx_xgetbv0(void)
{
#if defined(_MSC_VER)
    return _xgetbv(0);
#else
    unsigned low, high; /* as assembly: the intrinsic would need -mxsave */
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
#endif
}

/* macOS gives a thread its AVX-512 registers at first use, and XCR0 does not
 * show them before: there the kernel is asked by name. */
VX_INLINE bool vx_os_promises_avx512(void)
{
#if defined(__APPLE__)
    int has = 0;
    size_t size = sizeof has;
    return sysctlbyname("hw.optional.avx512f", &has, &size, NULL, 0) == 0 && has != 0;
#else
    return false;
#endif
}

#endif

/* Has the CPU an instruction for CRC-32C?  (SSE4.2, ARMv8 CRC32.) */
VX_INLINE bool vx_cpu_has_crc32c(void)
{
#if defined(VX_X86)
    unsigned regs[4];
    vx_cpuid(1, 0, regs);
    return (regs[2] >> 20 & 1) != 0;
#elif defined(VX_ARM) && defined(__linux__)
    return (getauxval(AT_HWCAP) >> 7 & 1) != 0; /* HWCAP_CRC32 */
#elif defined(VX_ARM) && defined(_WIN32)
    return IsProcessorFeaturePresent(PF_ARM_V8_CRC32_INSTRUCTIONS_AVAILABLE) != 0;
#elif defined(VX_ARM) && defined(__APPLE__)
    return true; /* since the first of them */
#else
    return false;
#endif
}

#endif
