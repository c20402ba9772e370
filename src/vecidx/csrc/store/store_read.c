/* store_read.c - reading a file of sections.
 *
 * Nothing read from a file is believed: opening checks every number of the head
 * against the file's true length before anything uses it, without sums that could
 * wrap, and the rest of this file then works with checked numbers only.  The
 * head's own checksum comes first among these checks but replaces none of them:
 * whoever makes up a file can make up its checksum too.
 *
 * Sections are read in chunks by several threads, each summing what it has just
 * read, while it is in the cache; the sums are joined in the end. */
#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

#include "../base/vx_alloc.h"
#include "../base/vx_pool.h"
#include "../base/vx_status.h"
#include "store_crc.h"
#include "store_layout.h"

struct vx_store {
    vx_reader *file;            /* one of the two is there */
    const unsigned char *bytes;
    uint64_t length;
    size_t head_length, n_params, n_sections;
    vx_progress progress;
    _Alignas(8) unsigned char params[VX_STORE_MAX_PARAMS];
    vx_entry table[VX_STORE_MAX_SECTIONS];
};

/* Chunks between two allocations of a buffer, where bytes are summed only. */
#define SUM_GRAIN 4u

#define DAMAGED(err, ...) vx_fail(err, VX_E_FORMAT, __VA_ARGS__)

static bool all_zero(const unsigned char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i] != 0)
            return false;
    }
    return true;
}

static vx_status read_at(vx_store *s, uint64_t offset, void *dst, size_t n, vx_error *err)
{
    if (s->file != NULL)
        return vx_reader_read(s->file, offset, dst, n, err);
    if (n > 0)
        memcpy(dst, s->bytes + offset, n);
    return VX_OK;
}

/* ---- the head ------------------------------------------------------------- */

static vx_status check_version(const unsigned char *head, vx_error *err)
{
    uint32_t order;

    memcpy(&order, head + AT_ORDER, sizeof order);
    if (order != ORDER_MARK)
        return DAMAGED(err,
                       "byte order mark %08" PRIX32 ": expected %08X; the file is damaged "
                       "or was written on a machine of the other byte order",
                       order, ORDER_MARK);
    const uint32_t version = get32(head + AT_VERSION);
    if (version == 0)
        return DAMAGED(err, "format version 0, of a vecidx before its first release: this vecidx "
                            "reads version 1; build the index anew");
    if (version != VX_STORE_VERSION)
        return DAMAGED(err,
                       "format version %" PRIu32 ": this vecidx reads version %u; a newer vecidx "
                       "is needed",
                       version, VX_STORE_VERSION);
    return VX_OK;
}

/* What must be right before the length of the head can be believed. */
static vx_status check_preamble(vx_store *s, const unsigned char *head, size_t n_read,
                                vx_error *err)
{
    vx_status st;

    if (n_read < MAGIC_SIZE || memcmp(head + AT_MAGIC, VX_STORE_MAGIC, MAGIC_SIZE) != 0)
        return DAMAGED(err, "not a vecidx index: the first %d bytes are not its mark",
                       MAGIC_SIZE);
    if (n_read < HEAD_MIN)
        return DAMAGED(err, "the file is cut short: %zu bytes, and a head alone has %d", n_read,
                       (int)HEAD_MIN);
    if ((st = check_version(head, err)) != VX_OK)
        return st;
    const uint32_t n = get32(head + AT_N_SECTIONS), length = get32(head + AT_HEAD_LENGTH);
    if (n > VX_STORE_MAX_SECTIONS || length != head_length(n))
        return DAMAGED(err,
                       "the head is damaged: %" PRIu32 " sections in a head of %" PRIu32 " bytes",
                       n, length);
    if (length > n_read)
        return DAMAGED(err, "the file is cut short: %zu bytes, and its head has %" PRIu32, n_read,
                       length);
    const unsigned char *tail = head + length - TAIL_SIZE;
    if (get32(tail) != vx_crc32c(0, head, length - TAIL_SIZE) || get32(tail + 4) != 0)
        return DAMAGED(err,
                       "the head (bytes 0 to %" PRIu32 ") is damaged: its checksum does not match",
                       length);
    s->n_sections = n;
    s->head_length = length;
    return VX_OK;
}

static vx_status take_params(vx_store *s, const unsigned char *head, vx_error *err)
{
    const uint32_t n = get32(head + AT_N_PARAMS);

    if (n > VX_STORE_MAX_PARAMS)
        return DAMAGED(err,
                       "the head is damaged: %" PRIu32 " bytes of parameters, at most %u fit", n,
                       VX_STORE_MAX_PARAMS);
    if (!all_zero(head + AT_RESERVED, AT_PARAMS - AT_RESERVED) ||
        !all_zero(head + AT_PARAMS + n, VX_STORE_MAX_PARAMS - n))
        return DAMAGED(err, "the head is damaged: bytes %d to %d are not zero where they must be",
                       (int)AT_RESERVED, (int)AT_TABLE);
    memcpy(s->params, head + AT_PARAMS, n);
    s->n_params = n;
    return VX_OK;
}

/* Printable ASCII, then zeros, of which there is one at least. */
static bool take_name(char *to, const unsigned char *from)
{
    size_t n = 0;
    while (n < VX_STORE_NAME && from[n] >= ' ' && from[n] <= '~')
        n++;
    if (n == VX_STORE_NAME || !all_zero(from + n, VX_STORE_NAME - n))
        return false;
    memcpy(to, from, VX_STORE_NAME);
    return true;
}

/* Take the i-th entry of the table; *end is where the section before it ends. */
static vx_status take_entry(vx_store *s, size_t i, const unsigned char *from, uint64_t *end,
                            vx_error *err)
{
    vx_entry *e = &s->table[i];

    *e = (vx_entry){ .kind = get32(from + ENTRY_KIND),
                     .flags = get32(from + ENTRY_FLAGS),
                     .crc = get32(from + ENTRY_CRC),
                     .offset = get64(from + ENTRY_OFFSET),
                     .length = get64(from + ENTRY_LENGTH) };
    if (!take_name(e->name, from + ENTRY_NAME))
        return DAMAGED(err, "section %" PRIu32 ": its name is not text", e->kind);
    for (size_t k = 0; k < i; k++) {
        if (s->table[k].kind == e->kind)
            return DAMAGED(err, "section '%s' is there twice", e->name);
    }
    if ((e->flags & ~VX_SECTION_REQUIRED) != 0 ||
        !all_zero(from + ENTRY_RESERVED, ENTRY_NAME - ENTRY_RESERVED))
        return DAMAGED(err, "section '%s': unknown flags %08" PRIX32, e->name, e->flags);
    if (e->offset < *end || e->offset % VX_STORE_ALIGN != 0)
        return DAMAGED(err,
                       "section '%s': begins at byte %" PRIu64 ", which is not a multiple of %u "
                       "past the end of what comes before, byte %" PRIu64,
                       e->name, e->offset, (unsigned)VX_STORE_ALIGN, *end);
    if (e->offset > s->length || e->length > s->length - e->offset)
        return DAMAGED(err,
                       "section '%s': %" PRIu64 " bytes at byte %" PRIu64 " of a file of %" PRIu64
                       " bytes",
                       e->name, e->length, e->offset, s->length);
    *end = e->offset + e->length;
    return VX_OK;
}

static vx_status decode_head(vx_store *s, const unsigned char *head, size_t n_read, vx_error *err)
{
    uint64_t end;
    vx_status st;

    if ((st = check_preamble(s, head, n_read, err)) != VX_OK)
        return st;
    if (get64(head + AT_FILE_LENGTH) != s->length)
        return DAMAGED(err, "the file has %" PRIu64 " bytes, and was written with %" PRIu64,
                       s->length, get64(head + AT_FILE_LENGTH));
    if ((st = take_params(s, head, err)) != VX_OK)
        return st;
    end = s->head_length;
    for (size_t i = 0; i < s->n_sections; i++) {
        if ((st = take_entry(s, i, head + AT_TABLE + i * ENTRY_SIZE, &end, err)) != VX_OK)
            return st;
    }
    if (end != s->length)
        return DAMAGED(err,
                       "the last section ends at byte %" PRIu64 ", the file at byte %" PRIu64, end,
                       s->length);
    return VX_OK;
}

/* ---- open and close --------------------------------------------------------- */

static vx_status open_store(const char *path, const void *data, size_t n, const vx_run *run,
                            vx_store **out, vx_error *err)
{
    unsigned char head[HEAD_MAX];
    vx_store *s = vx_zalloc(1, sizeof *s);
    vx_status st;

    if (!s)
        return vx_fail_nomem(err, "file");
    s->bytes = data;
    s->length = n;
    if (path != NULL) {
        if ((st = vx_reader_open(path, &s->file, err)) != VX_OK)
            goto done;
        s->length = vx_reader_length(s->file);
    }
    s->progress = (vx_progress){ run, 0, s->length };
    const size_t n_read = s->length < sizeof head ? (size_t)s->length : sizeof head;
    if ((st = read_at(s, 0, head, n_read, err)) != VX_OK)
        goto done;
    if ((st = decode_head(s, head, n_read, err)) != VX_OK)
        goto done;
    *out = s;
    s = NULL;
done:
    vx_store_close(s);
    return st;
}

vx_status vx_store_open(const char *path, const vx_run *run, vx_store **out, vx_error *err)
{
    return open_store(path, NULL, 0, run, out, err);
}

vx_status vx_store_open_memory(const void *data, size_t n, const vx_run *run, vx_store **out,
                               vx_error *err)
{
    return open_store(NULL, data, n, run, out, err);
}

void vx_store_close(vx_store *store)
{
    if (!store)
        return;
    vx_reader_close(store->file);
    vx_free(store);
}

vx_status vx_store_map(const vx_store *store, vx_map *out, vx_error *err)
{
    return vx_reader_map(store->file, out, err);
}

/* ---- what is there ------------------------------------------------------------ */

const void *vx_store_params(const vx_store *store, size_t *out_length)
{
    *out_length = store->n_params;
    return store->params;
}

uint64_t vx_store_length(const vx_store *store) { return store->length; }

const vx_entry *vx_store_entry(const vx_store *store, size_t i)
{
    return i < store->n_sections ? &store->table[i] : NULL;
}

static vx_entry *find(vx_store *store, uint32_t kind)
{
    for (size_t i = 0; i < store->n_sections; i++)
        if (store->table[i].kind == kind)
            return &store->table[i];
    return NULL;
}

const vx_entry *vx_store_find(const vx_store *store, uint32_t kind)
{
    return find((vx_store *)store, kind);
}

vx_status vx_store_require_known(const vx_store *store, const uint32_t *known, size_t n_known,
                                 vx_error *err)
{
    for (size_t i = 0; i < store->n_sections; i++) {
        const vx_entry *e = &store->table[i];
        bool is_known = (e->flags & VX_SECTION_REQUIRED) == 0;
        for (size_t k = 0; k < n_known && !is_known; k++)
            is_known = known[k] == e->kind;
        if (!is_known)
            return DAMAGED(err,
                           "section '%s' (kind %" PRIu32 "): this vecidx cannot use it, and the "
                           "file cannot be read without; a newer vecidx is needed",
                           e->name, e->kind);
    }
    return VX_OK;
}

/* ---- sections ------------------------------------------------------------------- */

struct reading {
    vx_store *store;
    const vx_entry *entry;
    unsigned char *to;     /* NULL: to be summed only */
    uint32_t *crcs;        /* of each chunk */
    _Atomic int status;    /* the first failure wins */
    vx_error err;          /* written by whoever set `status` */
};

static void fail_reading(struct reading *r, const vx_error *why)
{
    int none = VX_OK;
    if (atomic_compare_exchange_strong(&r->status, &none, (int)why->status))
        r->err = *why;
}

static void read_chunk(struct reading *r, size_t i, unsigned char *scratch)
{
    const uint64_t at = (uint64_t)i * CHUNK, left = r->entry->length - at;
    const size_t n = left < CHUNK ? (size_t)left : CHUNK;
    unsigned char *to = r->to != NULL ? r->to + at : scratch;
    vx_error why;

    if (r->store->file == NULL && r->to == NULL) {
        r->crcs[i] = vx_crc32c(0, r->store->bytes + r->entry->offset + at, n);
    } else if (read_at(r->store, r->entry->offset + at, to, n, &why) == VX_OK) {
        r->crcs[i] = vx_crc32c(0, to, n);
    } else {
        fail_reading(r, &why);
    }
}

static void read_chunks(void *arg, size_t begin, size_t end, unsigned who)
{
    struct reading *r = arg;
    const bool needs_scratch = r->to == NULL && r->store->file != NULL;
    unsigned char *scratch = needs_scratch ? vx_alloc(CHUNK, 1) : NULL;
    (void)who;

    if (needs_scratch && scratch == NULL) {
        vx_error why;
        (void)vx_fail_nomem(&why, "file buffer");
        fail_reading(r, &why);
        return;
    }
    for (size_t i = begin; i < end && atomic_load(&r->status) == VX_OK; i++)
        read_chunk(r, i, scratch);
    vx_free(scratch);
}

/* Read a section, to `to` or nowhere, and compare its checksum. */
static vx_status read_checked(vx_store *s, vx_entry *e, unsigned char *to, vx_error *err)
{
    const size_t n = chunks_of(e->length);
    struct reading r = { .store = s, .entry = e, .to = to, .crcs = vx_alloc(n, sizeof *r.crcs) };
    const vx_run run = chunk_run(&s->progress, false);

    if (r.crcs == NULL)
        return vx_fail_nomem(err, "checksums");
    atomic_init(&r.status, VX_OK);
    vx_status st = vx_pool_run(n, to != NULL ? 1 : SUM_GRAIN, &run, 0, n, read_chunks, &r);
    uint32_t crc = 0;
    for (size_t i = 0; i < n && st == VX_OK && atomic_load(&r.status) == VX_OK; i++)
        crc = vx_crc32c_join(crc, r.crcs[i], i + 1 < n ? CHUNK : e->length - i * CHUNK);
    vx_free(r.crcs);
    if (st != VX_OK)
        return vx_fail(err, st, "interrupted");
    if (atomic_load(&r.status) != VX_OK) {
        if (err != NULL)
            *err = r.err;
        return r.err.status;
    }
    if (crc != e->crc)
        return DAMAGED(err,
                       "section '%s' (bytes %" PRIu64 " to %" PRIu64 ") is damaged: its checksum "
                       "does not match",
                       e->name, e->offset, e->offset + e->length);
    e->is_checked = true;
    s->progress.before += e->length;
    return VX_OK;
}

vx_status vx_store_read(vx_store *store, uint32_t kind, void *dst, uint64_t length, vx_error *err)
{
    vx_entry *e = find(store, kind);

    if (e == NULL)
        return DAMAGED(err, "section %" PRIu32 " is missing", kind);
    if (e->length != length)
        return DAMAGED(err,
                       "section '%s' (at byte %" PRIu64 "): expected %" PRIu64 " bytes, found "
                       "%" PRIu64,
                       e->name, e->offset, length, e->length);
    return read_checked(store, e, dst, err);
}

/* The bytes from `from` to `to` hold nothing and must be zero. */
static vx_status check_gap(vx_store *s, uint64_t from, uint64_t to, vx_error *err)
{
    unsigned char bytes[4096];

    while (from < to) {
        const size_t n = to - from < sizeof bytes ? (size_t)(to - from) : sizeof bytes;
        const vx_status st = read_at(s, from, bytes, n, err);
        if (st != VX_OK)
            return st;
        if (!all_zero(bytes, n))
            return DAMAGED(err,
                           "bytes %" PRIu64 " to %" PRIu64 " are damaged: nothing is stored there, "
                           "yet they are not zero",
                           from, from + n);
        from += n;
    }
    return VX_OK;
}

vx_status vx_store_check_rest(vx_store *store, vx_error *err)
{
    uint64_t end = store->head_length;
    vx_status st = VX_OK;

    for (size_t i = 0; i < store->n_sections && st == VX_OK; i++) {
        vx_entry *e = &store->table[i];
        st = check_gap(store, end, e->offset, err);
        if (st == VX_OK && !e->is_checked)
            st = read_checked(store, e, NULL, err);
        end = e->offset + e->length;
    }
    return st;
}
