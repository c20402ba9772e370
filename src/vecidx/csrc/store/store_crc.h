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

#endif
