/* test_corrupt.c - damaged files, from the golden ones (tools/make_golden.py).
 *
 * What is read whole, or verified, is refused for every changed bit and every byte
 * cut off.  What is only mapped may answer wrongly, and never reads outside a
 * section: sections are laid apart and the pages between them locked.  Where the
 * damage was made by somebody who knows the format and mends the checksums, the file
 * is refused or safe to search, to change and to save.
 *
 * VECIDX_LONG=1 (make corrupt) tries all of it; otherwise a share, in seconds.  Run
 * in the folder of the checkout, or with VECIDX_GOLDEN naming the golden files'. */
#include "vx_test.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include "vx_damage.h"

enum { MOST_FILES = 40 };

static struct golden {
    char name[64];
    dmg_file file, spread;
} golden[MOST_FILES];
static int n_golden;
static char path[600];
static int fd = -1;
static const vx_load_options mapped = {VX_MAP_ALL, 0}, verified = {VX_MAP_ALL, 1};

static bool is_long(void)
{
    const char *word = getenv("VECIDX_LONG");
    return word != NULL && strcmp(word, "1") == 0;
}

static dmg_file slurp(const char *name)
{
    FILE *f = fopen(name, "rb");
    dmg_file file = {NULL, 0};
    if (f != NULL && fseek(f, 0, SEEK_END) == 0 && ftell(f) > 0) {
        file.n = (size_t)ftell(f);
        file.bytes = malloc(file.n);
        rewind(f);
        CHECK(fread(file.bytes, 1, file.n, f) == file.n);
    }
    if (f != NULL)
        fclose(f);
    return file;
}

static void read_golden(void)
{
    const char *folder = getenv("VECIDX_GOLDEN") ? getenv("VECIDX_GOLDEN") : "tests/golden";
    const char *base = getenv("TMPDIR");
    struct dirent *e;
    char name[700];
    DIR *d = n_golden == 0 ? opendir(folder) : NULL;
    if (d == NULL)
        return;
    vx_set_num_threads(1);
    while ((e = readdir(d)) != NULL && n_golden < MOST_FILES) {
        if (strstr(e->d_name, ".vidx") == NULL)
            continue;
        struct golden *g = &golden[n_golden++];
        (void)snprintf(name, sizeof name, "%s/%s", folder, e->d_name);
        (void)snprintf(g->name, sizeof g->name, "%.60s", e->d_name);
        g->file = slurp(name);
        g->spread = dmg_spread(g->file.bytes, g->file.n);
        CHECK(g->spread.bytes != NULL);
    }
    closedir(d);
    (void)snprintf(path, sizeof path, "%s/vx_corrupt_%ld", base && *base ? base : "/tmp",
                   (long)getpid());
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0);
}

static const struct golden *named(const char *name)
{
    for (int i = 0; i < n_golden; i++)
        if (strcmp(golden[i].name, name) == 0)
            return &golden[i];
    CHECK(!"no such golden file");
    return &golden[0];
}

/* ---- loading ----------------------------------------------------------------------- */

static void put_file(const dmg_file *file)
{
    CHECK(ftruncate(fd, 0) == 0 && pwrite(fd, file->bytes, file->n, 0) == (ssize_t)file->n);
}

static void poke(size_t at, unsigned char byte) { CHECK(pwrite(fd, &byte, 1, (off_t)at) == 1); }

static vx_status load_bytes(const unsigned char *bytes, size_t n)
{
    vx_index *index = NULL;
    vx_error err;
    const vx_status st = vx_index_load_memory(bytes, n, 0, NULL, &index, &err);
    CHECK((st == VX_OK) == (index != NULL));
    vx_index_free(index);
    return st;
}

static vx_status load_path(vx_load_options options)
{
    vx_index *index = NULL;
    vx_error err;
    const vx_status st = vx_index_load(path, &options, NULL, &index, &err);
    CHECK((st == VX_OK) == (index != NULL));
    vx_index_free(index);
    return st;
}

/* Of a spread file: refused, or asked everything. */
static vx_status map_and_ask(const dmg_file *spread)
{
    vx_index *index = NULL;
    vx_error err;
    const vx_status st = vx_index_load(path, &mapped, NULL, &index, &err);
    CHECK(st == VX_OK || st == VX_E_FORMAT);
    if (st == VX_OK) {
        dmg_guard(index, spread);
        dmg_ask(index, false);
    }
    vx_index_free(index);
    return st;
}

/* Refused, or good for everything. */
static vx_status load_and_change(const dmg_file *file)
{
    vx_index *index = NULL;
    vx_error err;
    const vx_status st = vx_index_load_memory(file->bytes, file->n, 0, NULL, &index, &err);
    CHECK(st == VX_OK || st == VX_E_FORMAT);
    if (st == VX_OK) {
        dmg_ask(index, true);
        dmg_change(index);
    }
    vx_index_free(index);
    return st;
}

/* ---- changed bits ---------------------------------------------------------------------- */

VX_TEST(golden_files_are_there_and_whole)
{
    read_golden();
    CHECK(n_golden >= 11);
    for (int i = 0; i < n_golden; i++) {
        CHECK(load_and_change(&golden[i].file) == VX_OK);
        put_file(&golden[i].spread);
        CHECK(map_and_ask(&golden[i].spread) == VX_OK);
        CHECK(load_path(verified) == VX_OK);
    }
}

VX_TEST(every_bit_of_the_head_counts)
{
    uint64_t n_loads = 0;
    read_golden();
    for (int i = 0; i < n_golden; i++) {
        const dmg_file *good = &golden[i].file;
        const size_t head = (size_t)dmg_get(good->bytes + 16, 4);
        put_file(good);
        for (size_t at = 0; at < head; at++)
            for (unsigned bit = 0; bit < 8; bit++, n_loads++) {
                const unsigned char byte = good->bytes[at], bad = (unsigned char)(byte ^ 1u << bit);
                good->bytes[at] = bad;
                CHECK(load_bytes(good->bytes, good->n) == VX_E_FORMAT);
                good->bytes[at] = byte;
                if (!is_long() && bit != at % 8)
                    continue;
                poke(at, bad);
                CHECK(load_path(mapped) == VX_E_FORMAT);
                CHECK(load_path(verified) == VX_E_FORMAT);
                poke(at, byte);
            }
    }
    printf("%llu changed bits of heads\n", (unsigned long long)n_loads);
}

VX_TEST(every_byte_of_the_body_counts)
{
    const size_t turns = is_long() ? 10000 : 60;
    uint64_t n_loads = 0;
    read_golden();
    for (int i = 0; i < n_golden; i++) {
        struct golden *g = &golden[i];
        dmg_section sections[DMG_SECTIONS];
        const int count = dmg_sections(g->spread.bytes, g->spread.n, sections);
        const size_t body = count > 0 ? sections[0].at : g->spread.n;
        put_file(&g->spread);
        for (size_t t = 0; t < turns && g->spread.n > body; t++, n_loads++) {
            /* Small sections as often as large ones, gaps now and then. */
            const uint64_t r = vx_hash64(t * 64 + (size_t)i);
            const dmg_section *s = &sections[r % (unsigned)count];
            const uint64_t r2 = vx_hash64(r);
            const bool anywhere = t % 8 == 0 || s->length == 0;
            const size_t at = anywhere ? body + r2 % (g->spread.n - body) : s->at + r2 % s->length;
            const unsigned char good = g->spread.bytes[at];
            const unsigned char bad =
                t % 3 == 0 ? (unsigned char)(good ^ 1u << r % 8) : (unsigned char)(good + 1 + r2 % 255);
            g->spread.bytes[at] = bad;
            CHECK(load_bytes(g->spread.bytes, g->spread.n) == VX_E_FORMAT);
            g->spread.bytes[at] = good;
            poke(at, bad);
            CHECK(load_path(verified) == VX_E_FORMAT);
            map_and_ask(&g->spread);
            poke(at, good);
        }
    }
    printf("%llu changed bytes of bodies\n", (unsigned long long)n_loads);
}

VX_TEST(every_length_counts)
{
    const char *small[] = {"v1-one.vidx", "v1-l2.vidx"};
    uint64_t n_loads = 0;
    read_golden();
    for (size_t i = 0; i < 2; i++) {
        const dmg_file *file = &named(small[i])->file;
        put_file(file);
        for (size_t n = file->n; n-- > 0; n_loads++) {
            CHECK(ftruncate(fd, (off_t)n) == 0);
            CHECK(load_path(mapped) == VX_E_FORMAT);
            if (is_long() || n % 7 == 0) {
                dmg_file cut = dmg_copy(file->bytes, n);
                CHECK(load_bytes(cut.bytes, n) == VX_E_FORMAT);
                CHECK(load_path(verified) == VX_E_FORMAT);
                free(cut.bytes);
            }
        }
    }
    const dmg_file *large = &named("v1-ranks.vidx")->file;
    for (size_t t = 0; t < 1000; t++, n_loads++) {
        const size_t n = vx_hash64(t) % large->n;
        dmg_file cut = dmg_copy(large->bytes, n);
        CHECK(load_bytes(cut.bytes, n) == VX_E_FORMAT);
        free(cut.bytes);
        if (!is_long() && t % 20 != 0)
            continue;
        put_file(large);
        CHECK(ftruncate(fd, (off_t)n) == 0);
        CHECK(load_path(mapped) == VX_E_FORMAT);
        CHECK(load_path(verified) == VX_E_FORMAT);
    }
    printf("%llu cut files\n", (unsigned long long)n_loads);
}

/* ---- forged files ---------------------------------------------------------------------- */

/* A number that is likely to hurt. */
static uint64_t nasty(uint64_t r, uint64_t was)
{
    const uint64_t some[] = {0, 1, 0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFF, 0x7FFFFFFE, 0x80000000,
                             UINT64_MAX, INT64_MAX, (uint64_t)1 << 32, 0x7FC00000, 0x7F800000,
                             was + 1, was - 1, was ^ 0x80000000, was << 1, was >> 1, r,
                             r % 200, r % 200 | 0x80000000};
    return some[vx_hash64(r) % (sizeof some / sizeof *some)];
}

VX_TEST(forged_heads_are_refused_or_safe)
{
    uint64_t n_loads = 0, n_taken = 0;
    read_golden();
    for (int i = 0; i < n_golden; i++) {
        const struct golden *g = &golden[i];
        dmg_file bad = dmg_copy(g->spread.bytes, g->spread.n);
        const size_t head = (size_t)dmg_get(bad.bytes + 16, 4);
        const size_t step = is_long() ? 1 : g->spread.n < 100000 ? 11 : 37;
        for (size_t t = 0; t < 6 * head; t += step) {
            const size_t at = t % head, bytes = t < 4 * head ? 1 : at % 8 == 0 ? 8 : 4;
            const uint64_t was = at + bytes <= head ? dmg_get(bad.bytes + at, (int)bytes) : 0;
            if (at + bytes > head || (bytes > 1 && at % 4 != 0))
                continue;
            dmg_put(bad.bytes + at, (int)bytes,
                    t < 2 * head ? was ^ 1u << vx_hash64(t) % 8 : nasty(vx_hash64(t), was));
            dmg_forge_head(bad.bytes, bad.n);
            n_taken += load_and_change(&bad) == VX_OK;
            put_file(&bad);
            n_taken += map_and_ask(&bad) == VX_OK;
            n_loads += 2;
            memcpy(bad.bytes, g->spread.bytes, head);
        }
        free(bad.bytes);
    }
    printf("%llu forged heads, %llu taken\n", (unsigned long long)n_loads,
           (unsigned long long)n_taken);
}

/* Where a section of a kind begins. */
static size_t section_of(const dmg_file *file, uint64_t kind)
{
    dmg_section sections[DMG_SECTIONS];
    const int count = dmg_sections(file->bytes, file->n, sections);
    for (int s = 0; s < count; s++)
        if (dmg_get(file->bytes + sections[s].entry, 4) == kind)
            return sections[s].at;
    CHECK(!"no such section");
    return 0;
}

/* Numbers that mean nothing were once taken, and lost by the next save. */
VX_TEST(numbers_without_a_meaning_are_refused)
{
    read_golden();
    const dmg_file *sketched = &named("v1-auto.vidx")->spread;
    const dmg_file *held = &named("v1-held.vidx")->spread;
    const dmg_file *plain = &named("v1-auto-bytes.vidx")->spread;
    const size_t codec = section_of(sketched, 17);
    const size_t signs = codec + 64 + 4 * 8 + 4 * 64; /* dim 8, 64 coordinates */
    const struct {
        const dmg_file *file;
        size_t at;
        uint64_t word;
    } forged[] = {
        {sketched, codec + 16, 2},               /* rank codes: neither 0 nor 1 */
        {sketched, codec + 20, 2},               /* lossless */
        {sketched, codec + 48, 0x3F800000},      /* kept for later */
        {sketched, codec + 60, 1},
        {sketched, signs, 0x40000000},           /* a sign of 2 */
        {sketched, 64 + 136 + 4, 1},             /* above the local dimension */
        {sketched, 64 + 24, 0},                  /* quantization none, with codes */
        {&named("v1-one.vidx")->spread, 64 + 8, 0}, /* l2 with norms */
        {held, section_of(held, 17) + 20, 0},    /* bytes, and codes that are not the values */
        {held, 64 + 8, 1},                       /* ... under ip */
        {held, 64 + 16, VX_U8},                  /* ... of a dtype that is bytes anyway */
        {held, 64 + 24, 1},                      /* ... under sq8 */
        {held, 64 + 104, dmg_get(held->bytes + 64 + 104, 4) & 1}, /* the flag is not set */
        {held, 64 + 104, 6},                     /* one that nobody knows is */
        {plain, 64 + 104, dmg_get(plain->bytes + 64 + 104, 4) | 2}, /* set, of float32 */
    };
    for (size_t i = 0; i < sizeof forged / sizeof *forged; i++) {
        dmg_file bad = dmg_copy(forged[i].file->bytes, forged[i].file->n);
        CHECK(dmg_get(bad.bytes + forged[i].at, 4) != forged[i].word);
        dmg_put(bad.bytes + forged[i].at, 4, forged[i].word);
        dmg_forge(bad.bytes, bad.n);
        put_file(&bad);
        CHECK(load_bytes(bad.bytes, bad.n) == VX_E_FORMAT);
        CHECK(load_path(mapped) == VX_E_FORMAT);
        free(bad.bytes);
    }
}

/* Taken once, the row was linked to as a node, and its chain lost in the end. */
VX_TEST(a_link_to_a_row_that_is_no_node_is_refused)
{
    read_golden();
    const dmg_file *equals = &named("v1-cosine.vidx")->spread;
    const size_t links = section_of(equals, 2);
    dmg_file bad = dmg_copy(equals->bytes, equals->n);
    CHECK(dmg_get(bad.bytes + links + 40 * 64, 4) == 0xFFFFFFFE);
    dmg_put(bad.bytes + links + 14 * 64 + 4, 4, 40);
    dmg_forge(bad.bytes, bad.n);
    CHECK(load_bytes(bad.bytes, bad.n) == VX_E_FORMAT);
    free(bad.bytes);
}

VX_TEST(forged_bodies_are_refused_or_safe)
{
    const size_t turns = is_long() ? 3000 : 5;
    uint64_t n_loads = 0, n_taken = 0;
    read_golden();
    for (int i = 0; i < n_golden; i++) {
        const struct golden *g = &golden[i];
        dmg_section sections[DMG_SECTIONS];
        const int count = dmg_sections(g->spread.bytes, g->spread.n, sections);
        for (int s = 0; s < count; s++)
            for (size_t t = 0; t < turns && sections[s].length >= 8; t++, n_loads += 2) {
                dmg_file bad = dmg_copy(g->spread.bytes, g->spread.n);
                uint64_t r = vx_hash64(t + (uint64_t)s * 100003 + (uint64_t)i * 1000003);
                for (uint64_t more = r % 5 == 0 ? 40 : 1 + r % 2; more > 0; more--) {
                    r = vx_hash64(r + 1);
                    const size_t bytes = r % 7 == 0 ? 8 : r % 3 == 0 ? 1 : 4;
                    /* Words begin at their places; the front of a codec is dense. */
                    const size_t span = r % 4 == 0 && sections[s].length > 64 ? 64 : sections[s].length;
                    const size_t at = sections[s].at + (vx_hash64(r) % (span - bytes + 1)) / bytes * bytes;
                    dmg_put(bad.bytes + at, (int)bytes,
                            nasty(vx_hash64(r + 7), dmg_get(bad.bytes + at, (int)bytes)));
                }
                dmg_forge(bad.bytes, bad.n);
                n_taken += load_and_change(&bad) == VX_OK;
                put_file(&bad);
                n_taken += map_and_ask(&bad) == VX_OK;
                free(bad.bytes);
            }
    }
    printf("%llu forged bodies, %llu taken\n", (unsigned long long)n_loads,
           (unsigned long long)n_taken);
    unlink(path);
}
