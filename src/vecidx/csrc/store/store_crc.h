/* store_crc.h - CRC-32C, the checksum of every section and of the file's head.
 *
 * CRC-32C (Castagnoli, polynomial 0x1EDC6F41, reflected, start and final
 * inversion as in RFC 3720) finds every error burst of up to 32 bits, so every
 * flipped byte, and misses a random change once in 2^32.  It guards against
 * accidents, not against somebody who can write to the file. */
#ifndef VX_STORE_CRC_H
#define VX_STORE_CRC_H

#include "../base/vx_base.h"

/* Checksum n more bytes.  Begin with crc 0; the checksum of a followed by b is
 * vx_crc32c(vx_crc32c(0, a, n_a), b, n_b).  Any thread, any time. */
uint32_t vx_crc32c(uint32_t crc, const void *data, size_t n);

/* The checksum of a followed by b, from those of a and of b, which is n_b long. */
uint32_t vx_crc32c_join(uint32_t crc_a, uint32_t crc_b, uint64_t n_b);

/* ---- for store_crc.c and its test ------------------------------------------ */

/* vx_crc32c in portable C, whatever the CPU has. */
uint32_t vx_crc32c_portable(uint32_t crc, const void *data, size_t n);

/* What a CPU with an instruction for CRC-32C does (store_crc_hw.c).  A register
 * is a checksum before its final inversion. */
typedef struct vx_crc_hw {
    uint32_t (*one)(uint32_t reg, const unsigned char *p, size_t n);
    /* Three stretches of n bytes, n a multiple of 8, that follow one another. */
    void (*three)(uint32_t regs[3], const unsigned char *p, size_t n);
} vx_crc_hw;

/* NULL: not in this build, which is then for a CPU without one. */
extern const vx_crc_hw *const vx_crc_hw_built;

#endif
