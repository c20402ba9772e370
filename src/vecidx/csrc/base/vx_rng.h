/* vx_rng.h - hashing a counter into random bits.
 *
 * SplitMix64's finaliser (Steele, Lea, Flood 2014).  Levels are drawn from
 * (seed, slot), so they depend on nothing that happened before. */
#ifndef VX_RNG_H
#define VX_RNG_H

#include "vx_base.h"

VX_INLINE uint64_t vx_hash64(uint64_t x)
{
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

#endif
