/* store_layout.h - where things lie in the head of a file, for store_write.c and
 * store_read.c.  docs/FORMAT.md has the same tables. */
#ifndef VX_STORE_LAYOUT_H
#define VX_STORE_LAYOUT_H

#include "store_format.h"

/* Numbers are little-endian. */
enum {
    AT_MAGIC = 0,        /* 8 bytes                                          */
    AT_ORDER = 8,        /* u32, in the byte order of parameters and sections */
    AT_VERSION = 12,     /* u32                                              */
    AT_HEAD_LENGTH = 16, /* u32                                              */
    AT_N_SECTIONS = 20,  /* u32                                              */
    AT_FILE_LENGTH = 24, /* u64                                              */
    AT_N_PARAMS = 32,    /* u32                                              */
    AT_RESERVED = 36,    /* 28 zero bytes                                    */
    AT_PARAMS = 64,      /* VX_STORE_MAX_PARAMS bytes, zero beyond n_params  */
    AT_TABLE = 64 + (int)VX_STORE_MAX_PARAMS,

    ENTRY_KIND = 0,      /* u32 */
    ENTRY_FLAGS = 4,     /* u32 */
    ENTRY_OFFSET = 8,    /* u64 */
    ENTRY_LENGTH = 16,   /* u64 */
    ENTRY_CRC = 24,      /* u32 */
    ENTRY_RESERVED = 28, /* 12 zero bytes */
    ENTRY_NAME = 40,     /* VX_STORE_NAME bytes */
    ENTRY_SIZE = 64,

    TAIL_SIZE = 8, /* u32 checksum of all before it, u32 zero          */
    HEAD_MIN = AT_TABLE + TAIL_SIZE,
    HEAD_MAX = HEAD_MIN + (int)VX_STORE_MAX_SECTIONS * ENTRY_SIZE
};

/* Not text, and a transfer that rewrites line ends or strips the eighth bit
 * shows at once, as in PNG. */
#define VX_STORE_MAGIC "\x89VIDX\r\n\x1a"
#define MAGIC_SIZE 8

#define ORDER_MARK 0x0A0B0C0Du

/* Bytes moved at a time: little enough to be still in the second-level cache when
 * they are summed after a read, or written after a sum; a system call costs
 * nothing beside so many. */
#define CHUNK ((size_t)512 << 10)

VX_INLINE size_t chunks_of(uint64_t length) { return (size_t)((length + CHUNK - 1) / CHUNK); }

VX_INLINE void put32(unsigned char *p, uint32_t x)
{
    for (int i = 0; i < 4; i++)
        p[i] = (unsigned char)(x >> (8 * i) & 0xFF);
}

VX_INLINE void put64(unsigned char *p, uint64_t x)
{
    put32(p, (uint32_t)(x & 0xFFFFFFFFu));
    put32(p + 4, (uint32_t)(x >> 32));
}

VX_INLINE uint32_t get32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

VX_INLINE uint64_t get64(const unsigned char *p)
{
    return (uint64_t)get32(p) | (uint64_t)get32(p + 4) << 32;
}

VX_INLINE size_t head_length(size_t n_sections) { return HEAD_MIN + n_sections * ENTRY_SIZE; }

/* Bytes of the whole file done so far, for vx_run.tick: its loops run over
 * chunks, one section after another. */
typedef struct vx_progress {
    const vx_run *run; /* the caller's, or NULL */
    uint64_t before;   /* bytes of the sections before this one */
    uint64_t total;
} vx_progress;

VX_INLINE int tick_bytes(void *arg, uint64_t done, uint64_t total)
{
    const vx_progress *p = arg;
    const uint64_t bytes = p->before + done * CHUNK;
    (void)total;
    return p->run->tick(p->run->tick_arg, bytes < p->total ? bytes : p->total, p->total);
}

/* The vx_run of such a loop. */
VX_INLINE vx_run chunk_run(vx_progress *p, bool in_order)
{
    const unsigned threads = in_order ? 1 : p->run != NULL ? p->run->num_threads : 0;
    return (vx_run){ threads, p->run != NULL && p->run->tick != NULL ? tick_bytes : NULL, p };
}

/* The checksum of bytes in memory, on several threads. */
vx_status vx_store_sum(const void *data, uint64_t length, vx_progress *progress,
                       uint32_t *out_crc, vx_error *err);

#endif
