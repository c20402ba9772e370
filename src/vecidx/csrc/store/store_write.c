/* store_write.c - writing a file of sections.
 *
 * Where the target lets its first bytes be written last, memory is read once: a
 * chunk is summed and, still in the cache, written; the head, whose table holds
 * the sums, goes in at the end.  Until then the file begins with zeros and is no
 * index to anybody.  A pipe or a caller's function gets bytes in order only, so
 * there the sums are taken in a pass of their own. */
#include <inttypes.h>
#include <string.h>

#include "../base/vx_alloc.h"
#include "../base/vx_pool.h"
#include "../base/vx_status.h"
#include "store_crc.h"
#include "store_layout.h"

struct output {
    vx_writer *file;     /* one of the two is there */
    const vx_sink *sink;
    unsigned char head[HEAD_MAX];
    uint64_t offsets[VX_STORE_MAX_SECTIONS];
    uint32_t crcs[VX_STORE_MAX_SECTIONS];
    uint64_t file_length, at; /* bytes of the whole file; written so far */
    vx_progress progress;
};

static bool name_is_good(const char *name)
{
    const size_t n = strlen(name);
    for (size_t i = 0; i < n; i++)
        if (name[i] < ' ' || name[i] > '~')
            return false;
    return n < VX_STORE_NAME;
}

static vx_status check_request(size_t n_params, const vx_section *sections, size_t n, vx_error *err)
{
    if (n_params > VX_STORE_MAX_PARAMS)
        return vx_fail(err, VX_E_ARG, "parameters: expected at most %u bytes, got %zu",
                       VX_STORE_MAX_PARAMS, n_params);
    if (n > VX_STORE_MAX_SECTIONS)
        return vx_fail(err, VX_E_ARG, "sections: expected at most %u, got %zu",
                       VX_STORE_MAX_SECTIONS, n);
    for (size_t i = 0; i < n; i++) {
        if ((sections[i].flags & ~VX_SECTION_REQUIRED) != 0 || !name_is_good(sections[i].name))
            return vx_fail(err, VX_E_ARG, "section %" PRIu32 ": unknown flags or a bad name",
                           sections[i].kind);
        for (size_t k = 0; k < i; k++) {
            if (sections[k].kind == sections[i].kind)
                return vx_fail(err, VX_E_ARG, "section %" PRIu32 ": given twice", sections[i].kind);
        }
    }
    return VX_OK;
}

/* Place the sections one after another.  No sum can wrap: they are memory of this
 * process, 64 of them at most, and no address space reaches 2^58 bytes. */
static void lay_out(struct output *o, const vx_section *sections, size_t n)
{
    uint64_t end = head_length(n);

    for (size_t i = 0; i < n; i++) {
        const uint64_t align =
            sections[i].length > VX_STORE_LARGE ? VX_STORE_ALIGN_LARGE : VX_STORE_ALIGN;
        o->offsets[i] = (end + align - 1) / align * align;
        end = o->offsets[i] + sections[i].length;
    }
    o->file_length = o->progress.total = end;
}

/* Fill o->head, which is all zero; returns its length. */
static size_t encode_head(struct output *o, const void *params, size_t n_params,
                          const vx_section *sections, size_t n)
{
    unsigned char *head = o->head;
    const uint32_t order = ORDER_MARK;
    const size_t length = head_length(n);

    memcpy(head + AT_MAGIC, VX_STORE_MAGIC, MAGIC_SIZE);
    memcpy(head + AT_ORDER, &order, sizeof order);
    put32(head + AT_VERSION, VX_STORE_VERSION);
    put32(head + AT_HEAD_LENGTH, (uint32_t)length);
    put32(head + AT_N_SECTIONS, (uint32_t)n);
    put64(head + AT_FILE_LENGTH, o->file_length);
    put32(head + AT_N_PARAMS, (uint32_t)n_params);
    if (n_params > 0)
        memcpy(head + AT_PARAMS, params, n_params);
    for (size_t i = 0; i < n; i++) {
        unsigned char *entry = head + AT_TABLE + i * ENTRY_SIZE;
        put32(entry + ENTRY_KIND, sections[i].kind);
        put32(entry + ENTRY_FLAGS, sections[i].flags);
        put64(entry + ENTRY_OFFSET, o->offsets[i]);
        put64(entry + ENTRY_LENGTH, sections[i].length);
        put32(entry + ENTRY_CRC, o->crcs[i]);
        memcpy(entry + ENTRY_NAME, sections[i].name, strlen(sections[i].name));
    }
    put32(head + length - TAIL_SIZE, vx_crc32c(0, head, length - TAIL_SIZE));
    return length;
}

/* ---- checksums ------------------------------------------------------------ */

struct sums {
    const unsigned char *data;
    uint64_t length;
    uint32_t *crcs; /* of each chunk */
};

static void sum_chunks(void *arg, size_t begin, size_t end, unsigned who)
{
    const struct sums *s = arg;
    (void)who;
    for (size_t i = begin; i < end; i++) {
        const uint64_t at = (uint64_t)i * CHUNK, left = s->length - at;
        s->crcs[i] = vx_crc32c(0, s->data + at, left < CHUNK ? (size_t)left : CHUNK);
    }
}

vx_status vx_store_sum(const void *data, uint64_t length, vx_progress *progress,
                       uint32_t *out_crc, vx_error *err)
{
    const size_t n = chunks_of(length);
    struct sums s = { data, length, vx_alloc(n, sizeof *s.crcs) };
    const vx_run run = chunk_run(progress, false);

    if (s.crcs == NULL)
        return vx_fail_nomem(err, "checksums");
    const vx_status st = vx_pool_run(n, 1, &run, 0, n, sum_chunks, &s);
    uint32_t crc = 0;
    for (size_t i = 0; i < n && st == VX_OK; i++)
        crc = vx_crc32c_join(crc, s.crcs[i], i + 1 < n ? CHUNK : length - i * CHUNK);
    vx_free(s.crcs);
    *out_crc = crc;
    return st == VX_OK ? VX_OK : vx_fail(err, st, "interrupted");
}

static vx_status check_sum(const vx_section *section, uint32_t crc, vx_error *err)
{
    if (section->crc == NULL || *section->crc == crc)
        return VX_OK;
    return vx_fail(err, VX_E_FORMAT,
                   "section '%s' is damaged: its checksum does not match; nothing was written",
                   section->name);
}

/* ---- bytes ------------------------------------------------------------------ */

static vx_status emit(struct output *o, const void *data, size_t n, vx_error *err)
{
    if (n == 0)
        return VX_OK;
    o->at += n;
    if (o->file != NULL)
        return vx_writer_write(o->file, data, n, err);
    if (o->sink->write(o->sink->arg, data, n) != 0)
        return vx_fail(err, VX_E_INTERRUPTED, "interrupted");
    return VX_OK;
}

static vx_status emit_zeros(struct output *o, uint64_t up_to, vx_error *err)
{
    static const unsigned char zeros[VX_STORE_ALIGN_LARGE];
    vx_status st = VX_OK;

    while (o->at < up_to && st == VX_OK) {
        const uint64_t n = up_to - o->at;
        st = emit(o, zeros, n < sizeof zeros ? (size_t)n : sizeof zeros, err);
    }
    return st;
}

struct emission {
    struct output *output;
    const vx_section *section;
    uint32_t crc;
    bool with_crc;
    vx_status st;
    vx_error *err;
};

/* One thread, in order. */
static void emit_chunk(void *arg, size_t begin, size_t end, unsigned who)
{
    struct emission *e = arg;
    (void)who, (void)end;
    if (e->st != VX_OK)
        return;
    const uint64_t at = (uint64_t)begin * CHUNK, left = e->section->length - at;
    const size_t n = left < CHUNK ? (size_t)left : CHUNK;
    const unsigned char *from = (const unsigned char *)e->section->data + at;
    if (e->with_crc)
        e->crc = vx_crc32c(e->crc, from, n);
    e->st = emit(e->output, from, n, e->err);
}

/* The i-th section at its place; its checksum too if `with_crc`. */
static vx_status emit_section(struct output *o, const vx_section *sections, size_t i,
                              bool with_crc, vx_error *err)
{
    const vx_section *section = &sections[i];
    struct emission e = { o, section, 0, with_crc, VX_OK, err };
    vx_status st = emit_zeros(o, o->offsets[i], err);

    if (st != VX_OK)
        return st;
    o->progress.before = o->at;
    const vx_run run = chunk_run(&o->progress, true);
    const size_t n = chunks_of(section->length);
    st = vx_pool_run(n, 1, &run, 0, n, emit_chunk, &e);
    if (e.st != VX_OK)
        return e.st;
    if (st != VX_OK)
        return vx_fail(err, st, "interrupted");
    if (!with_crc)
        return VX_OK;
    o->crcs[i] = e.crc;
    return check_sum(section, e.crc, err);
}

static vx_status emit_all(struct output *o, const void *params, size_t n_params,
                          const vx_section *sections, size_t n, bool head_last, vx_error *err)
{
    vx_status st = VX_OK;

    for (size_t i = 0; i < n && !head_last; i++) {
        st = vx_store_sum(sections[i].data, sections[i].length, &o->progress, &o->crcs[i], err);
        if (st == VX_OK)
            st = check_sum(&sections[i], o->crcs[i], err);
        if (st != VX_OK)
            return st;
    }
    if (head_last)
        st = emit_zeros(o, head_length(n), err);
    else
        st = emit(o, o->head, encode_head(o, params, n_params, sections, n), err);
    for (size_t i = 0; i < n && st == VX_OK; i++)
        st = emit_section(o, sections, i, head_last, err);
    if (st == VX_OK && head_last)
        st = vx_writer_patch(o->file, o->head, encode_head(o, params, n_params, sections, n), err);
    return st;
}

/* ---- the two targets ---------------------------------------------------------- */

vx_status vx_store_write(const char *path, const void *params, size_t params_length,
                         const vx_section *sections, size_t n_sections, const vx_run *run,
                         vx_error *err)
{
    struct output o = { .progress = { run, 0, 0 } };
    vx_status st = check_request(params_length, sections, n_sections, err);

    if (st == VX_OK)
        st = vx_writer_open(path, run, &o.file, err);
    if (st != VX_OK)
        return st;
    lay_out(&o, sections, n_sections);
    st = emit_all(&o, params, params_length, sections, n_sections, vx_writer_can_patch(o.file),
                  err);
    if (st == VX_OK)
        st = vx_writer_commit(o.file, err);
    vx_writer_close(o.file);
    return st;
}

vx_status vx_store_write_to(const vx_sink *sink, const void *params, size_t params_length,
                            const vx_section *sections, size_t n_sections, const vx_run *run,
                            vx_error *err)
{
    struct output o = { .sink = sink, .progress = { run, 0, 0 } };
    const vx_status st = check_request(params_length, sections, n_sections, err);

    if (st != VX_OK)
        return st;
    lay_out(&o, sections, n_sections);
    if (sink->begin(sink->arg, o.file_length) != 0)
        return vx_fail(err, VX_E_INTERRUPTED, "interrupted");
    return emit_all(&o, params, params_length, sections, n_sections, false, err);
}
