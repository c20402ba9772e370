/* store_crc.c - CRC-32C: the choice of a way, the portable way, joining.
 *
 * The portable way takes 16 bytes a step.  The register after 16 bytes is a sum
 * (xor) of 16 terms, one for each byte, so it can be looked up in 16 tables whose
 * loads do not wait for one another: table[k][b] is what byte b contributes when
 * k more bytes follow it in the block.  16 KiB of tables stay in the first-level
 * cache.
 *
 * Joining: seen as a polynomial over GF(2), the checksum of a followed by n zero
 * bytes is that of a times x^(8n), modulo the CRC's polynomial.  So three
 * stretches can be summed at once, or by several threads, and put together. */
#include "store_crc.h"

#include <stdatomic.h>

#include "../base/vx_cpuid.h"

#define POLY 0x82F63B78u /* 0x1EDC6F41, bits reversed */
#define N_TABLES 16
/* Bytes.  Below, joining three stretches costs more than it saves. */
#define THREE_MIN ((size_t)12 << 10)

/* Built on first use.  Every thread that finds them unbuilt writes the same
 * values, so there is nothing to wait for and a fork() in the middle harms
 * nobody; the entries are atomic to say so, and a relaxed load is a plain one. */
static _Atomic uint32_t table[N_TABLES][256];
static _Atomic uint32_t powers[64]; /* x^(8 * 2^k) */
static atomic_bool table_is_built;

#define AT(k, byte) atomic_load_explicit(&table[k][(byte) & 0xFF], memory_order_relaxed)
#define SET(k, byte, x) atomic_store_explicit(&table[k][byte], (x), memory_order_relaxed)

/* a * b modulo the polynomial.  Bit 31 is x^0: everything is reflected. */
static uint32_t multiply(uint32_t a, uint32_t b)
{
    uint32_t product = 0;
    for (uint32_t bit = 1u << 31; bit != 0; bit >>= 1) {
        product ^= (a & bit) != 0 ? b : 0;
        b = (b >> 1) ^ (POLY & (0u - (b & 1)));
    }
    return product;
}

static VX_NOINLINE void build_tables(void)
{
    for (uint32_t b = 0; b < 256; b++) {
        uint32_t crc = b;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (POLY & (0u - (crc & 1)));
        SET(0, b, crc);
    }
    for (int k = 1; k < N_TABLES; k++) {
        for (uint32_t b = 0; b < 256; b++) {
            const uint32_t before = AT(k - 1, b);
            SET(k, b, (before >> 8) ^ AT(0, before));
        }
    }
    uint32_t power = 1u << (31 - 8); /* x^8 */
    for (int k = 0; k < 64; k++) {
        atomic_store_explicit(&powers[k], power, memory_order_relaxed);
        power = multiply(power, power);
    }
    atomic_store_explicit(&table_is_built, true, memory_order_release);
}

VX_INLINE void need_tables(void)
{
    if (!atomic_load_explicit(&table_is_built, memory_order_acquire))
        build_tables();
}

/* x^(8n): what n zero bytes multiply a register by. */
static uint32_t power_of(uint64_t n)
{
    uint32_t product = 1u << 31;
    for (int k = 0; n != 0; n >>= 1, k++)
        if (n & 1)
            product = multiply(product, atomic_load_explicit(&powers[k], memory_order_relaxed));
    return product;
}

uint32_t vx_crc32c_join(uint32_t crc_a, uint32_t crc_b, uint64_t n_b)
{
    need_tables();
    return multiply(power_of(n_b), crc_a) ^ crc_b;
}

/* Compilers turn this into one load on a little-endian machine. */
VX_INLINE uint32_t load32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* What the four bytes of x contribute when `after` bytes of the block follow. */
#define TERM(x, after)                                                                             \
    (AT((after) + 3, x) ^ AT((after) + 2, (x) >> 8) ^ AT((after) + 1, (x) >> 16) ^                 \
     AT(after, (x) >> 24))

uint32_t vx_crc32c_portable(uint32_t crc, const void *data, size_t n)
{
    const unsigned char *p = data;

    need_tables();
    crc = ~crc;
    for (; n >= 16; n -= 16, p += 16) {
        const uint32_t a = load32(p) ^ crc, b = load32(p + 4);
        const uint32_t c = load32(p + 8), d = load32(p + 12);
        crc = (TERM(b, 8) ^ TERM(c, 4) ^ TERM(d, 0)) ^ TERM(a, 12);
    }
    for (; n > 0; n--, p++)
        crc = (crc >> 8) ^ AT(0, crc ^ *p);
    return ~crc;
}

/* The instruction's functions if this CPU has it, else NULL. */
static const vx_crc_hw *usable(void)
{
    enum { UNKNOWN, NO, YES };
    static _Atomic int answer;
    int known = atomic_load_explicit(&answer, memory_order_relaxed);
    if (known == UNKNOWN) { /* two threads asking at once find the same */
        known = vx_crc_hw_built != NULL && vx_cpu_has_crc32c() ? YES : NO;
        atomic_store_explicit(&answer, known, memory_order_relaxed);
    }
    return known == YES ? vx_crc_hw_built : NULL;
}

uint32_t vx_crc32c(uint32_t crc, const void *data, size_t n)
{
    const vx_crc_hw *hw = usable();
    const unsigned char *p = data;

    if (hw == NULL)
        return vx_crc32c_portable(crc, data, n);
    uint32_t reg = ~crc;
    if (n >= THREE_MIN) {
        const size_t third = n / 24 * 8;
        uint32_t regs[3] = { reg, 0, 0 };
        need_tables();
        hw->three(regs, p, third);
        const uint32_t power = power_of(third);
        reg = multiply(power, multiply(power, regs[0]) ^ regs[1]) ^ regs[2];
        p += 3 * third;
        n -= 3 * third;
    }
    return ~hw->one(reg, p, n);
}
