/* vx_base.h - the one place where compilers and platforms differ.
 *
 * Everything below includes this first.  No other file tests _MSC_VER, __GNUC__
 * or an architecture macro, except the guards around ISA kernel files. */
#ifndef VX_BASE_H
#define VX_BASE_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../vecidx.h"

#if defined(__x86_64__) || defined(_M_X64)
#define VX_X86 1
#elif defined(__aarch64__) || defined(_M_ARM64)
#define VX_ARM 1
#endif

/* VX_PREFETCH fetches a line into L2, not L1: hundreds are asked for at a time,
 * and L1 has buffers for two dozen.  On Zen 4 that alone made searches 1.6 to 1.9
 * times as fast (benchmarks/RESULTS.md, "Tried"). */
#if defined(_MSC_VER) && !defined(__clang__)
#define VX_INLINE static __forceinline
#define VX_NOINLINE __declspec(noinline)
#define VX_TARGET(features)
#define VX_EXPORT __declspec(dllexport)
#define VX_RESTRICT __restrict
#define VX_ALIGN(n) __declspec(align(n))
#define VX_LIKELY(x) (x)
#define VX_UNLIKELY(x) (x)
#define VX_PRINTF(fmt, args)
#define VX_COMPILER_FENCE() _ReadWriteBarrier()
#include <intrin.h>
#if defined(VX_X86)
#define VX_PREFETCH(p) _mm_prefetch((const char *)(p), _MM_HINT_T1)
#else
#define VX_PREFETCH(p) __prefetch((const void *)(p))
#endif
#else
#define VX_INLINE static inline __attribute__((always_inline))
#define VX_NOINLINE __attribute__((noinline))
#define VX_TARGET(features) __attribute__((target(features))) /* beyond the file's flags */
#if defined(_WIN32)
#define VX_EXPORT __declspec(dllexport)
#else
#define VX_EXPORT __attribute__((visibility("default")))
#endif
#define VX_RESTRICT restrict
#define VX_ALIGN(n) __attribute__((aligned(n)))
#define VX_LIKELY(x) __builtin_expect(!!(x), 1)
#define VX_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define VX_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define VX_COMPILER_FENCE() __asm__ volatile("" ::: "memory")
#define VX_PREFETCH(p) __builtin_prefetch((p), 0, 2)
#endif

/* A function that reads, by vector loads, what a writer may be storing by words, and
 * can live with any mixture: the race detector is told to look away.  Elsewhere it is
 * VX_INLINE. */
#if defined(__SANITIZE_THREAD__)
#define VX_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define VX_THREAD_SANITIZER 1
#endif
#endif
#ifdef VX_THREAD_SANITIZER
#define VX_RACY static __attribute__((noinline, no_sanitize("thread")))
#else
#define VX_RACY VX_INLINE
#endif

typedef uint32_t vx_slot; /* a row's number inside the index, 31 bits wide */
#define VX_NO_SLOT 0x7FFFFFFFu

#define VX_LINE 64u                 /* bytes: cache line, and row alignment */
#define VX_HUGE ((size_t)2 << 20)   /* bytes: the huge page the planes ask for */

/* The number of the lowest bit set; x != 0. */
VX_INLINE unsigned vx_lowest_bit(uint32_t x)
{
#if defined(_MSC_VER) && !defined(__clang__)
    unsigned long at;
    _BitScanForward(&at, x);
    return at;
#else
    return (unsigned)__builtin_ctz(x);
#endif
}

VX_INLINE unsigned vx_lowest_bit_64(uint64_t x)
{
    const uint32_t low = (uint32_t)x;
    return low != 0 ? vx_lowest_bit(low) : 32 + vx_lowest_bit((uint32_t)(x >> 32));
}

/* How many bits are set. */
VX_INLINE unsigned vx_count_bits(uint64_t x)
{
    x -= (x >> 1) & 0x5555555555555555u;
    x = (x & 0x3333333333333333u) + ((x >> 2) & 0x3333333333333333u);
    x = (x + (x >> 4)) & 0x0F0F0F0F0F0F0F0Fu;
    return (unsigned)((x * 0x0101010101010101u) >> 56);
}

VX_INLINE size_t vx_round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

/* a * b and a + b without wrapping: false, and *out untouched, if they do not fit. */
VX_INLINE bool vx_mul_fits(size_t a, size_t b, size_t *out)
{
    if (a != 0 && b > SIZE_MAX / a)
        return false;
    *out = a * b;
    return true;
}
VX_INLINE bool vx_add_fits(size_t a, size_t b, size_t *out)
{
    if (b > SIZE_MAX - a)
        return false;
    *out = a + b;
    return true;
}

#endif
