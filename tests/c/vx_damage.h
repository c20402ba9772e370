/* vx_damage.h - golden files, ways to spoil them, and everything that may be asked of
 * an index; for test_corrupt.c and fuzz_load.c.  Linux and other POSIX. */
#ifndef VX_DAMAGE_H
#define VX_DAMAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "../../src/vecidx/csrc/base/vx_rng.h"
#include "../../src/vecidx/csrc/index/index.h"
#include "../../src/vecidx/csrc/store/store_crc.h"

enum { DMG_PAGE = 4096, DMG_SECTIONS = 64 };

typedef struct dmg_file {
    unsigned char *bytes; /* malloc'ed, exactly n */
    size_t n;
} dmg_file;

typedef struct dmg_section {
    size_t entry, at, length; /* of its entry in the table, of its bytes */
} dmg_section;

static inline uint64_t dmg_get(const unsigned char *p, int bytes)
{
    uint64_t x = 0;
    for (int i = bytes; i-- > 0;)
        x = x << 8 | p[i];
    return x;
}

static inline void dmg_put(unsigned char *p, int bytes, uint64_t x)
{
    for (int i = 0; i < bytes; i++)
        p[i] = (unsigned char)(x >> (8 * i) & 0xFF);
}

static inline dmg_file dmg_copy(const unsigned char *bytes, size_t n)
{
    dmg_file file = {malloc(n > 0 ? n : 1), n};
    if (n > 0)
        memcpy(file.bytes, bytes, n);
    return file;
}

/* The sections of a file whose table can be read: how many, or -1. */
static inline int dmg_sections(const unsigned char *bytes, size_t n, dmg_section *out)
{
    if (n < 328)
        return -1;
    const uint64_t count = dmg_get(bytes + 20, 4);
    if (count > DMG_SECTIONS || n < 328 + 64 * count)
        return -1;
    size_t end = 328 + 64 * (size_t)count;
    for (size_t i = 0; i < count; i++) {
        const unsigned char *entry = bytes + 320 + 64 * i;
        const uint64_t at = dmg_get(entry + 8, 8), length = dmg_get(entry + 16, 8);
        if (at < end || at > n || length > n - at)
            return -1;
        out[i] = (dmg_section){320 + 64 * i, (size_t)at, (size_t)length};
        end = (size_t)(at + length);
    }
    return (int)count;
}

/* Make the head's checksum right: the forger knows the format. */
static inline void dmg_forge_head(unsigned char *bytes, size_t n)
{
    const uint64_t head = n < 328 ? 0 : 328 + 64 * dmg_get(bytes + 20, 4);
    if (head == 0 || head > n)
        return;
    dmg_put(bytes + head - 8, 4, vx_crc32c(0, bytes, (size_t)head - 8));
    dmg_put(bytes + head - 4, 4, 0);
}

/* And those of the sections. */
static inline void dmg_forge(unsigned char *bytes, size_t n)
{
    dmg_section sections[DMG_SECTIONS];
    const int count = dmg_sections(bytes, n, sections);
    for (int i = 0; i < count; i++)
        dmg_put(bytes + sections[i].entry + 24, 4,
                vx_crc32c(0, bytes + sections[i].at, sections[i].length));
    dmg_forge_head(bytes, n);
}

/* The same file with every section at the end of pages of its own, and a page of
 * zeros after each, for dmg_guard.  {NULL, 0} if the table cannot be read. */
static inline dmg_file dmg_spread(const unsigned char *bytes, size_t n)
{
    dmg_section sections[DMG_SECTIONS];
    const int count = dmg_sections(bytes, n, sections);
    size_t total = 2 * DMG_PAGE, page = 2 * DMG_PAGE;
    if (count < 0 || n < DMG_PAGE / 8)
        return (dmg_file){NULL, 0};
    for (int i = 0; i < count; i++)
        total += (sections[i].length / DMG_PAGE + 2) * DMG_PAGE;
    dmg_file out = {calloc(total, 1), 328 + 64 * (size_t)count};
    memcpy(out.bytes, bytes, out.n);
    for (int i = 0; i < count; i++) {
        const size_t length = sections[i].length, pages = (length + DMG_PAGE - 1) / DMG_PAGE;
        const size_t at = page + pages * DMG_PAGE - (length + 63) / 64 * 64;
        memcpy(out.bytes + at, bytes + sections[i].at, length);
        dmg_put(out.bytes + sections[i].entry + 8, 8, at);
        out.n = at + length;
        page += (pages + 1) * DMG_PAGE;
    }
    dmg_put(out.bytes + 24, 8, out.n);
    dmg_forge_head(out.bytes, out.n);
    out.bytes = realloc(out.bytes, out.n);
    return out;
}

/* Of an index that is mapped from a spread file: from now on a read between two
 * sections is a crash. */
static inline void dmg_guard(const vx_index *index, const dmg_file *spread)
{
    dmg_section sections[DMG_SECTIONS];
    const int count = dmg_sections(spread->bytes, spread->n, sections);
    for (int i = 0; i + 1 < count; i++) {
        const size_t from =
            (sections[i].at + sections[i].length + DMG_PAGE - 1) / DMG_PAGE * DMG_PAGE;
        const size_t to = sections[i + 1].at / DMG_PAGE * DMG_PAGE;
        if (to > from)
            (void)mprotect((char *)(uintptr_t)index->map.base + from, to - from, PROT_NONE);
    }
}

/* ---- questions -------------------------------------------------------------------- */

#define DMG_MUST(x) \
    do { \
        if (!(x)) { \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #x); \
            abort(); \
        } \
    } while (0)

enum { DMG_QUERIES = 5, DMG_MOST_K = 1200 };

static inline float dmg_value(size_t i) { return (float)(vx_hash64(i) % 2001) / 500.0f - 2; }

/* Rows that any index of these parameters takes: value i of them all is that of at(i). */
static inline void *dmg_rows(const vx_params *params, size_t n, size_t (*at)(size_t i, size_t dim))
{
    const size_t dim = params->dim, bytes = (dim + 7) / 8;
    float *rows = calloc(n * dim, sizeof *rows);
    uint8_t *bits = (uint8_t *)rows;
    for (size_t i = 0; i < n * dim; i++) {
        const float value = dmg_value(at(i, dim));
        if (params->dtype == VX_BITS)
            bits[i / dim * bytes + i % dim / 8] |= (uint8_t)((value > 0) << (7 - i % dim % 8));
        else if (params->dtype >= VX_I8)
            rows[i] = value < 0 ? 1.0f : (float)(int)(value + 1); /* whole numbers */
        else
            rows[i] = value;
    }
    return rows;
}

static inline size_t dmg_each(size_t i, size_t dim)
{
    (void)dim;
    return i;
}

static inline size_t dmg_some_equal(size_t i, size_t dim) { return i % (6 * dim) + 1; }

static inline void dmg_search(vx_index *index, const void *queries, size_t n, size_t k, size_t ef,
                              int exact)
{
    const vx_search_params params = {k, ef, exact};
    vx_label *labels = malloc(n * k * sizeof *labels);
    float *dists = malloc(n * k * sizeof *dists);
    vx_error err;
    DMG_MUST(vx_index_search(index, queries, n, &params, NULL, labels, dists, &err) == VX_OK);
    free(labels);
    free(dists);
}

/* Everything that may be asked.  Answers may be wrong, but there are some. */
static inline void dmg_ask(vx_index *index, bool may_warm)
{
    vx_params params;
    vx_stats stats;
    vx_memory memory;
    vx_check check;
    vx_error err;
    uint64_t n = vx_index_count(index), n_labels;
    vx_index_params(index, &params);
    void *queries = dmg_rows(&params, DMG_QUERIES, dmg_each);
    dmg_search(index, queries, DMG_QUERIES, 2, 4, 0);
    dmg_search(index, queries, 2, 9, 30, 0);
    dmg_search(index, queries, 1, n < DMG_MOST_K ? (size_t)n + 3 : DMG_MOST_K, 0, 0);
    dmg_search(index, queries, 2, 4, 0, 1);
    dmg_search(index, queries, 1, 60, 0, 1);

    vx_label *labels = malloc((size_t)(n + 4) * sizeof *labels);
    uint8_t *found = malloc((size_t)n + 4);
    DMG_MUST(vx_index_labels(index, labels, n, &n_labels, &err) == VX_OK && n_labels <= n);
    for (size_t i = 0; i < 4; i++)
        labels[n_labels + i] = (vx_label)i * 7;
    DMG_MUST(vx_index_contains(index, labels, (size_t)n_labels + 4, found, &err) == VX_OK);
    for (size_t i = 0; i < n_labels + 4; i += i < 4 ? 1 : (size_t)n_labels / 9 + 1)
        (void)vx_index_get(index, labels + i, 1, queries, &err);
    DMG_MUST(vx_index_stats(index, &stats, &err) == VX_OK);
    DMG_MUST(vx_index_memory(index, &memory, &err) == VX_OK);
    (void)vx_index_check(index, NULL, &check, &err);
    if (may_warm)
        DMG_MUST(vx_index_warm(index, NULL, &err) == VX_OK);
    free(labels);
    free(found);
    free(queries);
}

typedef struct dmg_sink {
    unsigned char *bytes;
    size_t n, room;
} dmg_sink;

static inline int dmg_begin(void *arg, uint64_t length)
{
    dmg_sink *sink = arg;
    sink->room = (size_t)length;
    sink->bytes = malloc(sink->room + 1);
    return sink->bytes == NULL;
}

static inline int dmg_write(void *arg, const void *data, size_t n)
{
    dmg_sink *sink = arg;
    DMG_MUST(n <= sink->room - sink->n);
    memcpy(sink->bytes + sink->n, data, n);
    sink->n += n;
    return 0;
}

/* Add, replace, delete, compact; then it can be saved, and what was saved be loaded. */
static inline void dmg_change(vx_index *index)
{
    enum { MORE = 9 };
    vx_params params;
    vx_error err;
    vx_label labels[4];
    uint64_t n_labels, n;
    vx_index_params(index, &params);
    void *rows = dmg_rows(&params, MORE, dmg_some_equal);
    const vx_dtype given = params.dtype == VX_BITS ? VX_BITS : VX_F32;
    const vx_status st = vx_index_add_typed(index, given, rows, MORE, NULL, VX_REPLACE, NULL, NULL,
                                            NULL, &err);
    DMG_MUST(st == VX_OK || st == VX_E_ARG); /* no ids left */
    DMG_MUST(vx_index_labels(index, labels, 4, &n_labels, &err) == VX_OK);
    if (n_labels == 4) {
        DMG_MUST(vx_index_add_typed(index, given, rows, 1, labels, VX_REPLACE, NULL, NULL, NULL,
                                    &err) == VX_OK);
        DMG_MUST(vx_index_delete(index, labels + 1, 3, VX_MISSING_ERROR, NULL, &n, &err) == VX_OK);
    }
    dmg_ask(index, true);

    dmg_sink to = {NULL, 0, 0};
    const vx_sink sink = {dmg_begin, dmg_write, &to};
    vx_index *again = NULL;
    DMG_MUST(vx_index_save_to(index, &sink, NULL, &err) == VX_OK);
    const vx_status back = vx_index_load_memory(to.bytes, to.n, 0, NULL, &again, &err);
    if (back != VX_OK)
        fprintf(stderr, "%s\n", err.text);
    DMG_MUST(back == VX_OK);
    vx_index_free(again);
    free(to.bytes);
    DMG_MUST(vx_index_compact(index, NULL, &err) == VX_OK);
    dmg_ask(index, true);
    free(rows);
}

#endif
