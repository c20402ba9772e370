/* store_format.c - encode and decode the head of a file, and move sections.
 *
 * Nothing read from a file is believed: open() checks every number against the
 * file's true length before anything uses it, without sums that could wrap, and
 * the rest of this file then works with checked numbers only.  The head's own
 * checksum comes first among these checks but replaces none of them: whoever
 * makes up a file can make up its checksum too. */
#include "store_format.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "../base/vx_alloc.h"
#include "../base/vx_status.h"
#include "store_crc.h"
#include "store_file.h"

/* The head.  Numbers are little-endian; docs/FORMAT.md has the same table. */
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
    ENTRY_RESERVED = 28, /* u32, zero */
    ENTRY_SIZE = 32,

    TAIL_SIZE = 8, /* u32 checksum of all before it, u32 zero          */
    HEAD_MIN = AT_TABLE + TAIL_SIZE,
    HEAD_MAX = HEAD_MIN + (int)VX_STORE_MAX_SECTIONS * ENTRY_SIZE
};

/* Not text, and a transfer that rewrites line ends or strips the eighth bit
 * shows at once, as in PNG. */
static const unsigned char magic[8] = { 0x89, 'V', 'I', 'D', 'X', '\r', '\n', 0x1A };

#define ORDER_MARK 0x0A0B0C0Du

/* Bytes checksummed at a time on reading: little enough to be still in the
 * second-level cache when the checksum follows the read. */
#define CHUNK ((size_t)256 << 10)

static void put32(unsigned char *p, uint32_t x)
{
    for (int i = 0; i < 4; i++)
        p[i] = (unsigned char)(x >> (8 * i) & 0xFF);
}

static void put64(unsigned char *p, uint64_t x)
{
    put32(p, (uint32_t)(x & 0xFFFFFFFFu));
    put32(p + 4, (uint32_t)(x >> 32));
}

static uint32_t get32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t get64(const unsigned char *p)
{
    return (uint64_t)get32(p) | (uint64_t)get32(p + 4) << 32;
}

static size_t head_length(size_t n_sections) { return HEAD_MIN + n_sections * ENTRY_SIZE; }

static bool all_zero(const unsigned char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i] != 0)
            return false;
    }
    return true;
}

/* ---- writing ------------------------------------------------------------ */

/* Where one section goes. */
struct place {
    uint64_t offset, length;
};

static vx_status check_request(size_t n_params, const vx_section *sections, size_t n, vx_error *err)
{
    if (n_params > VX_STORE_MAX_PARAMS)
        return vx_fail(err, VX_E_ARG, "parameters: expected at most %u bytes, got %zu",
                       VX_STORE_MAX_PARAMS, n_params);
    if (n > VX_STORE_MAX_SECTIONS)
        return vx_fail(err, VX_E_ARG, "sections: expected at most %u, got %zu",
                       VX_STORE_MAX_SECTIONS, n);
    for (size_t i = 0; i < n; i++) {
        if ((sections[i].flags & ~VX_SECTION_REQUIRED) != 0)
            return vx_fail(err, VX_E_ARG, "section %" PRIu32 ": unknown flags", sections[i].kind);
        for (size_t k = 0; k < i; k++) {
            if (sections[k].kind == sections[i].kind)
                return vx_fail(err, VX_E_ARG, "section %" PRIu32 ": given twice", sections[i].kind);
        }
    }
    return VX_OK;
}

/* Place the sections one after another; returns the length of the file.  No sum
 * can wrap: the pieces are memory of this process, 64 sections of it at most,
 * and no address space reaches 2^58 bytes. */
static uint64_t lay_out(const vx_section *sections, size_t n, struct place *places)
{
    uint64_t end = head_length(n);

    for (size_t i = 0; i < n; i++) {
        uint64_t length = 0;
        for (size_t k = 0; k < sections[i].n_pieces; k++)
            length += sections[i].pieces[k].length;
        const uint64_t align = length > VX_STORE_LARGE ? VX_STORE_ALIGN_LARGE : VX_STORE_ALIGN;
        places[i].offset = (end + align - 1) / align * align;
        places[i].length = length;
        end = places[i].offset + length;
    }
    return end;
}

static uint32_t crc_of(const vx_section *section)
{
    uint32_t crc = 0;

    for (size_t k = 0; k < section->n_pieces; k++)
        crc = vx_crc32c(crc, section->pieces[k].data, section->pieces[k].length);
    return crc;
}

/* Fill `head`, which is all zero; returns its length. */
static size_t encode_head(unsigned char *head, const void *params, size_t n_params,
                          const vx_section *sections, const struct place *places, size_t n,
                          uint64_t file_length)
{
    const uint32_t order = ORDER_MARK;
    const size_t length = head_length(n);

    memcpy(head + AT_MAGIC, magic, sizeof magic);
    memcpy(head + AT_ORDER, &order, sizeof order);
    put32(head + AT_VERSION, VX_STORE_VERSION);
    put32(head + AT_HEAD_LENGTH, (uint32_t)length);
    put32(head + AT_N_SECTIONS, (uint32_t)n);
    put64(head + AT_FILE_LENGTH, file_length);
    put32(head + AT_N_PARAMS, (uint32_t)n_params);
    if (n_params > 0)
        memcpy(head + AT_PARAMS, params, n_params);
    for (size_t i = 0; i < n; i++) {
        unsigned char *entry = head + AT_TABLE + i * ENTRY_SIZE;
        put32(entry + ENTRY_KIND, sections[i].kind);
        put32(entry + ENTRY_FLAGS, sections[i].flags);
        put64(entry + ENTRY_OFFSET, places[i].offset);
        put64(entry + ENTRY_LENGTH, places[i].length);
        put32(entry + ENTRY_CRC, crc_of(&sections[i]));
    }
    put32(head + length - TAIL_SIZE, vx_crc32c(0, head, length - TAIL_SIZE));
    return length;
}

vx_status vx_store_write(const char *path, const void *params, size_t params_length,
                         const vx_section *sections, size_t n_sections, vx_error *err)
{
    static const unsigned char zeros[VX_STORE_ALIGN_LARGE];
    unsigned char head[HEAD_MAX] = { 0 };
    struct place places[VX_STORE_MAX_SECTIONS];
    vx_writer *file = NULL;
    vx_status st;

    if ((st = check_request(params_length, sections, n_sections, err)) != VX_OK)
        return st;
    /* Opened before the checksums are made: what cannot be written should fail
     * at once, not after a pass over all the memory. */
    if ((st = vx_writer_open(path, &file, err)) != VX_OK)
        return st;
    const uint64_t file_length = lay_out(sections, n_sections, places);
    uint64_t at =
        encode_head(head, params, params_length, sections, places, n_sections, file_length);
    if ((st = vx_writer_write(file, head, (size_t)at, err)) != VX_OK)
        goto done;
    for (size_t i = 0; i < n_sections; i++) {
        if ((st = vx_writer_write(file, zeros, (size_t)(places[i].offset - at), err)) != VX_OK)
            goto done;
        for (size_t k = 0; k < sections[i].n_pieces; k++) {
            const vx_piece *piece = &sections[i].pieces[k];
            if ((st = vx_writer_write(file, piece->data, piece->length, err)) != VX_OK)
                goto done;
        }
        at = places[i].offset + places[i].length;
    }
    st = vx_writer_commit(file, err);
done:
    vx_writer_close(file);
    return st;
}

/* ---- reading ------------------------------------------------------------ */

struct entry {
    uint32_t kind, crc;
    uint64_t offset, length; /* inside the file, and past the entry before */
    bool is_required;
    bool is_checked; /* the checksum has been compared */
};

struct vx_store {
    vx_reader *file;
    const vx_section_name *names;
    size_t n_names;
    size_t head_length, n_params, n_sections;
    _Alignas(8) unsigned char params[VX_STORE_MAX_PARAMS];
    struct entry table[VX_STORE_MAX_SECTIONS];
};

/* Every complaint about a file ends in its path. */
#define DAMAGED(store, err, format, ...)                                                           \
    vx_fail(err, VX_E_FORMAT, format " ('%s')", __VA_ARGS__, vx_reader_path((store)->file))

/* A section's name in messages: 'vectors', or its number. */
struct label {
    char text[32];
};

static const char *known_name(const vx_store *store, uint32_t kind)
{
    for (size_t i = 0; i < store->n_names; i++) {
        if (store->names[i].kind == kind)
            return store->names[i].name;
    }
    return NULL;
}

static struct label label_of(const vx_store *store, uint32_t kind)
{
    const char *name = known_name(store, kind);
    struct label label;

    if (name)
        (void)snprintf(label.text, sizeof label.text, "'%.29s'", name);
    else
        (void)snprintf(label.text, sizeof label.text, "number %" PRIu32, kind);
    return label;
}

/* What must be right before the length of the head can be believed. */
static vx_status check_preamble(vx_store *s, const unsigned char *head, size_t n_read,
                                vx_error *err)
{
    uint32_t order;

    if (n_read < sizeof magic || memcmp(head + AT_MAGIC, magic, sizeof magic) != 0)
        return DAMAGED(s, err, "not a vecidx index: the first %zu bytes are not its mark",
                       sizeof magic);
    if (n_read < HEAD_MIN)
        return DAMAGED(s, err, "the file is cut short: %zu bytes, and a head alone has %d", n_read,
                       (int)HEAD_MIN);
    memcpy(&order, head + AT_ORDER, sizeof order);
    if (order != ORDER_MARK)
        return DAMAGED(s, err,
                       "byte order mark %08" PRIX32 ": expected %08X; the file is damaged "
                       "or was written on a machine of the other byte order",
                       order, ORDER_MARK);
    const uint32_t version = get32(head + AT_VERSION);
    if (version != VX_STORE_VERSION)
        return DAMAGED(s, err, "format version %" PRIu32 ": this vecidx reads version %u only",
                       version, VX_STORE_VERSION);
    const uint32_t n = get32(head + AT_N_SECTIONS), length = get32(head + AT_HEAD_LENGTH);
    if (n > VX_STORE_MAX_SECTIONS || length != head_length(n))
        return DAMAGED(s, err,
                       "the head is damaged: %" PRIu32 " sections in a head of %" PRIu32 " bytes",
                       n, length);
    if (length > n_read)
        return DAMAGED(s, err, "the file is cut short: %zu bytes, and its head has %" PRIu32,
                       n_read, length);
    const unsigned char *tail = head + length - TAIL_SIZE;
    if (get32(tail) != vx_crc32c(0, head, length - TAIL_SIZE) || get32(tail + 4) != 0)
        return DAMAGED(s, err,
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
        return DAMAGED(s, err,
                       "the head is damaged: %" PRIu32 " bytes of parameters, at most %u fit", n,
                       VX_STORE_MAX_PARAMS);
    if (!all_zero(head + AT_RESERVED, AT_PARAMS - AT_RESERVED) ||
        !all_zero(head + AT_PARAMS + n, VX_STORE_MAX_PARAMS - n))
        return DAMAGED(s, err,
                       "the head is damaged: bytes %d to %d are not zero where they must be",
                       (int)AT_RESERVED, (int)AT_TABLE);
    memcpy(s->params, head + AT_PARAMS, n);
    s->n_params = n;
    return VX_OK;
}

/* Take the i-th entry of the table; *end is where the section before it ends. */
static vx_status take_entry(vx_store *s, size_t i, const unsigned char *from, uint64_t *end,
                            vx_error *err)
{
    const uint64_t file_length = vx_reader_length(s->file);
    const uint32_t flags = get32(from + ENTRY_FLAGS);
    struct entry *e = &s->table[i];

    *e = (struct entry){ .kind = get32(from + ENTRY_KIND),
                         .crc = get32(from + ENTRY_CRC),
                         .offset = get64(from + ENTRY_OFFSET),
                         .length = get64(from + ENTRY_LENGTH),
                         .is_required = (flags & VX_SECTION_REQUIRED) != 0 };
    const struct label label = label_of(s, e->kind);
    for (size_t k = 0; k < i; k++) {
        if (s->table[k].kind == e->kind)
            return DAMAGED(s, err, "section %s is there twice", label.text);
    }
    if ((flags & ~VX_SECTION_REQUIRED) != 0 || get32(from + ENTRY_RESERVED) != 0)
        return DAMAGED(s, err, "section %s: unknown flags %08" PRIX32, label.text, flags);
    if (e->offset < *end || e->offset % VX_STORE_ALIGN != 0)
        return DAMAGED(s, err,
                       "section %s: begins at byte %" PRIu64 ", which is not a multiple of %u "
                       "past the end of what comes before, byte %" PRIu64,
                       label.text, e->offset, (unsigned)VX_STORE_ALIGN, *end);
    if (e->offset > file_length || e->length > file_length - e->offset)
        return DAMAGED(s, err,
                       "section %s: %" PRIu64 " bytes at byte %" PRIu64 " of a file of %" PRIu64
                       " bytes",
                       label.text, e->length, e->offset, file_length);
    if (e->is_required && !known_name(s, e->kind))
        return DAMAGED(s, err,
                       "section %s: this vecidx does not know it, and the file cannot be read "
                       "without; a newer vecidx is needed",
                       label.text);
    *end = e->offset + e->length;
    return VX_OK;
}

static vx_status decode_head(vx_store *s, const unsigned char *head, size_t n_read, vx_error *err)
{
    const uint64_t file_length = vx_reader_length(s->file);
    uint64_t end;
    vx_status st;

    if ((st = check_preamble(s, head, n_read, err)) != VX_OK)
        return st;
    if (get64(head + AT_FILE_LENGTH) != file_length)
        return DAMAGED(s, err, "the file has %" PRIu64 " bytes, and was written with %" PRIu64,
                       file_length, get64(head + AT_FILE_LENGTH));
    if ((st = take_params(s, head, err)) != VX_OK)
        return st;
    end = s->head_length;
    for (size_t i = 0; i < s->n_sections; i++) {
        if ((st = take_entry(s, i, head + AT_TABLE + i * ENTRY_SIZE, &end, err)) != VX_OK)
            return st;
    }
    if (end != file_length)
        return DAMAGED(s, err,
                       "the last section ends at byte %" PRIu64 ", the file at byte %" PRIu64, end,
                       file_length);
    return VX_OK;
}

vx_status vx_store_open(const char *path, const vx_section_name *names, size_t n_names,
                        vx_store **out, vx_error *err)
{
    unsigned char head[HEAD_MAX];
    vx_store *s = vx_zalloc(1, sizeof *s);
    vx_status st;

    if (!s)
        return vx_fail_nomem(err, "file");
    s->names = names;
    s->n_names = n_names;
    if ((st = vx_reader_open(path, &s->file, err)) != VX_OK)
        goto done;
    const uint64_t length = vx_reader_length(s->file);
    const size_t n_read = length < sizeof head ? (size_t)length : sizeof head;
    if ((st = vx_reader_read(s->file, 0, head, n_read, err)) != VX_OK)
        goto done;
    if ((st = decode_head(s, head, n_read, err)) != VX_OK)
        goto done;
    *out = s;
    s = NULL;
done:
    vx_store_close(s);
    return st;
}

void vx_store_close(vx_store *store)
{
    if (!store)
        return;
    vx_reader_close(store->file);
    vx_free(store);
}

const void *vx_store_params(const vx_store *store, size_t *out_length)
{
    *out_length = store->n_params;
    return store->params;
}

/* The section's place in the table; n_sections if it is not there. */
static size_t find(const vx_store *store, uint32_t kind)
{
    size_t i = 0;

    while (i < store->n_sections && store->table[i].kind != kind)
        i++;
    return i;
}

bool vx_store_find(const vx_store *store, uint32_t kind, uint64_t *out_length)
{
    const size_t i = find(store, kind);

    if (i == store->n_sections)
        return false;
    *out_length = store->table[i].length;
    return true;
}

/* Read a section and compare its checksum.  `dst` takes all of it, or, if
 * `is_scratch`, is CHUNK bytes to be used over and over. */
static vx_status read_checked(vx_store *s, struct entry *e, unsigned char *dst, bool is_scratch,
                              vx_error *err)
{
    uint32_t crc = 0;

    for (uint64_t done = 0; done < e->length;) {
        const uint64_t left = e->length - done;
        const size_t n = left < CHUNK ? (size_t)left : CHUNK;
        unsigned char *to = is_scratch ? dst : dst + (size_t)done;
        const vx_status st = vx_reader_read(s->file, e->offset + done, to, n, err);
        if (st != VX_OK)
            return st;
        crc = vx_crc32c(crc, to, n);
        done += n;
    }
    if (crc != e->crc) {
        const struct label label = label_of(s, e->kind);
        return DAMAGED(s, err,
                       "section %s (bytes %" PRIu64 " to %" PRIu64 ") is damaged: its checksum "
                       "does not match",
                       label.text, e->offset, e->offset + e->length);
    }
    e->is_checked = true;
    return VX_OK;
}

vx_status vx_store_read(vx_store *store, uint32_t kind, void *dst, uint64_t length, vx_error *err)
{
    const size_t i = find(store, kind);
    const struct label label = label_of(store, kind);

    if (i == store->n_sections)
        return DAMAGED(store, err, "section %s is missing", label.text);
    struct entry *e = &store->table[i];
    if (e->length != length)
        return DAMAGED(store, err,
                       "section %s (at byte %" PRIu64 "): expected %" PRIu64 " bytes, found "
                       "%" PRIu64,
                       label.text, e->offset, length, e->length);
    return read_checked(store, e, dst, false, err);
}

/* The bytes from `from` to `to` hold nothing and must be zero. */
static vx_status check_gap(vx_store *s, uint64_t from, uint64_t to, unsigned char *scratch,
                           vx_error *err)
{
    while (from < to) {
        const size_t n = to - from < CHUNK ? (size_t)(to - from) : CHUNK;
        const vx_status st = vx_reader_read(s->file, from, scratch, n, err);
        if (st != VX_OK)
            return st;
        if (!all_zero(scratch, n))
            return DAMAGED(s, err,
                           "bytes %" PRIu64 " to %" PRIu64 " are damaged: nothing is stored there, "
                           "yet they are not zero",
                           from, from + n);
        from += n;
    }
    return VX_OK;
}

vx_status vx_store_check_rest(vx_store *store, vx_error *err)
{
    unsigned char *scratch = vx_alloc(CHUNK, 1);
    uint64_t end = store->head_length;
    vx_status st = VX_OK;

    if (!scratch)
        return vx_fail_nomem(err, "file buffer");
    for (size_t i = 0; i < store->n_sections && st == VX_OK; i++) {
        struct entry *e = &store->table[i];
        st = check_gap(store, end, e->offset, scratch, err);
        if (st == VX_OK && !e->is_checked)
            st = read_checked(store, e, scratch, true, err);
        end = e->offset + e->length;
    }
    vx_free(scratch);
    return st;
}
