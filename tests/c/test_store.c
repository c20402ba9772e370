/* test_store.c - the file container: what is written comes back, and nothing
 * else passes for it.
 *
 * Files are made in a fresh directory under TMPDIR, which must hold exactly what
 * a test put there when the test ends: that is how "no temporary left" is
 * checked.  POSIX only, for the fork and the limits. */
#include "vx_test.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../src/vecidx/csrc/base/vx_rng.h"
#include "../../src/vecidx/csrc/base/vx_sync.h"
#include "../../src/vecidx/csrc/store/store_crc.h"
#include "../../src/vecidx/csrc/store/store_file.h"
#include "../../src/vecidx/csrc/store/store_format.h"

/* ---- a directory of our own ---------------------------------------------- */

static char dir[512];  /* made by enter(), removed by leave() */
static char path[600]; /* dir/index */

static const char *in_dir(const char *name)
{
    static char text[4][1200];
    static unsigned turn;
    char *to = text[turn++ % 4];
    (void)snprintf(to, sizeof text[0], "%s/%s", dir, name);
    return to;
}

static void enter(void)
{
    const char *base = getenv("TMPDIR");
    (void)snprintf(dir, sizeof dir, "%s/vx_test_store_XXXXXX", base && *base ? base : "/tmp");
    if (!mkdtemp(dir)) {
        perror("mkdtemp");
        exit(2);
    }
    (void)snprintf(path, sizeof path, "%s/index", dir);
}

static int n_entries(void)
{
    DIR *d = opendir(dir);
    int n = -2; /* . and .. */
    while (d && readdir(d))
        n++;
    if (d)
        closedir(d);
    return n;
}

static void leave(void)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    while (d && (e = readdir(d)) != NULL)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            (void)remove(in_dir(e->d_name));
    if (d)
        closedir(d);
    CHECK(rmdir(dir) == 0);
}

/* ---- whole files as bytes -------------------------------------------------- */

static unsigned char *slurp(const char *name, size_t *n)
{
    FILE *f = fopen(name, "rb");
    struct stat info;
    unsigned char *bytes = NULL;
    *n = 0;
    if (f && fstat(fileno(f), &info) == 0) {
        bytes = malloc((size_t)info.st_size + 1);
        *n = bytes ? fread(bytes, 1, (size_t)info.st_size, f) : 0;
    }
    if (f)
        fclose(f);
    return bytes;
}

static void spit(const char *name, const void *bytes, size_t n)
{
    FILE *f = fopen(name, "wb");
    CHECK(f != NULL);
    if (!f)
        return;
    CHECK(fwrite(bytes, 1, n, f) == n);
    CHECK(fclose(f) == 0);
}

/* One byte of a file, in place: faster than spit() in the long loops. */
static void poke(const char *name, size_t at, unsigned char x)
{
    const int fd = open(name, O_WRONLY);
    CHECK(fd >= 0 && pwrite(fd, &x, 1, (off_t)at) == 1);
    close(fd);
}

/* ---- a small file with everything in it ------------------------------------ */

enum { ROWS = 1, LINKS = 2, NOTES = 7 };
/* Where write_small puts things. */
enum { HEAD = 320 + 3 * 64 + 8, ROWS_AT = 576, LINKS_AT = 832, ENTRY0 = 320, ENTRY1 = 384,
       ENTRY2 = 448 };

static const char params[] = "dim=3 metric=l2sq";
static unsigned char rows[201], links[100]; /* rows ends off the 64-byte grid: padding follows */

static vx_status write_small(const char *to, unsigned char seed, vx_error *err)
{
    for (size_t i = 0; i < sizeof rows; i++)
        rows[i] = (unsigned char)(i * 7 + seed);
    for (size_t i = 0; i < sizeof links; i++)
        links[i] = (unsigned char)(i ^ seed);
    const vx_section sections[] = {
        { ROWS, VX_SECTION_REQUIRED, "rows", rows, sizeof rows, NULL },
        { LINKS, VX_SECTION_REQUIRED, "links", links, sizeof links, NULL },
        { NOTES, 0, "notes", NULL, 0, NULL }, /* empty */
    };
    return vx_store_write(to, params, sizeof params, sections, 3, NULL, err);
}

/* A full load: VX_OK only if all of it is as write_small(seed) wrote it. */
static vx_status load_small(const char *from, unsigned char seed, vx_error *err)
{
    vx_store *s = NULL;
    unsigned char got_rows[sizeof rows], got_links[sizeof links];
    size_t n = 0;
    static const uint32_t known[] = { ROWS, LINKS, NOTES };
    vx_status st = vx_store_open(from, NULL, &s, err);

    if (st != VX_OK) {
        CHECK(s == NULL);
        return st;
    }
    if ((st = vx_store_require_known(s, known, 3, err)) != VX_OK ||
        (st = vx_store_read(s, ROWS, got_rows, sizeof got_rows, err)) != VX_OK ||
        (st = vx_store_read(s, LINKS, got_links, sizeof got_links, err)) != VX_OK ||
        (st = vx_store_check_rest(s, err)) != VX_OK)
        goto done;
    const void *p = vx_store_params(s, &n);
    CHECK(n == sizeof params && memcmp(p, params, n) == 0);
    const vx_entry *notes = vx_store_find(s, NOTES);
    CHECK(notes && notes->length == 0 && strcmp(notes->name, "notes") == 0);
    size_t n_wrong = 0;
    for (size_t i = 0; i < sizeof rows; i++)
        n_wrong += got_rows[i] != (unsigned char)(i * 7 + seed);
    for (size_t i = 0; i < sizeof links; i++)
        n_wrong += got_links[i] != (unsigned char)(i ^ seed);
    CHECK(n_wrong == 0);
done:
    vx_store_close(s);
    return st;
}

static bool is_format_error(vx_status st, const vx_error *err)
{
    return st == VX_E_FORMAT && err->status == st && err->sys_errno == 0 && err->text[0] != '\0';
}

/* ---- checksum --------------------------------------------------------------- */

static uint32_t crc_bit_by_bit(const unsigned char *p, size_t n)
{
    uint32_t crc = ~0u;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? (crc >> 1) ^ 0x82F63B78u : crc >> 1;
    }
    return ~crc;
}

VX_TEST(crc_matches_known_values)
{
    unsigned char zeros[32] = { 0 }, ones[32], rising[32];
    memset(ones, 0xFF, sizeof ones);
    for (size_t i = 0; i < 32; i++)
        rising[i] = (unsigned char)i;
    CHECK(vx_crc32c(0, NULL, 0) == 0);
    CHECK(vx_crc32c(0, "123456789", 9) == 0xE3069283u);
    CHECK(vx_crc32c(0, zeros, 32) == 0x8A9136AAu); /* RFC 3720, B.4 */
    CHECK(vx_crc32c(0, ones, 32) == 0x62A8AB43u);
    CHECK(vx_crc32c(0, rising, 32) == 0x46DD794Eu);
}

VX_TEST(crc_by_instruction_and_by_tables_agree)
{
    enum { MOST = 200000 };
    unsigned char *data = malloc(MOST + 16);
    for (size_t i = 0; i < MOST + 16; i++)
        data[i] = (unsigned char)vx_hash64(i);
    for (size_t n = 0; n <= MOST; n = n * 5 / 4 + 1) {
        const unsigned char *from = data + n % 16;
        const uint32_t want = vx_crc32c_portable(7, from, n);
        CHECK(vx_crc32c(7, from, n) == want);
        CHECK(vx_crc32c_join(vx_crc32c(7, from, n / 3), vx_crc32c(0, from + n / 3, n - n / 3),
                             n - n / 3) == want);
    }
    CHECK(vx_crc32c_join(5, 0, 0) == 5);
    free(data);
}

VX_TEST(crc_does_not_depend_on_alignment_or_splits)
{
    unsigned char data[200];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (unsigned char)vx_hash64(i);
    for (size_t from = 0; from < 17; from++) {
        for (size_t n = 0; n <= 150; n++) {
            const uint32_t whole = crc_bit_by_bit(data + from, n);
            CHECK(vx_crc32c(0, data + from, n) == whole);
            const uint32_t third = vx_crc32c(0, data + from, n / 3);
            CHECK(vx_crc32c(third, data + from + n / 3, n - n / 3) == whole);
        }
    }
}

/* ---- round trips ------------------------------------------------------------- */

VX_TEST(small_file_comes_back)
{
    vx_error err;
    enter();
    CHECK(write_small(path, 1, &err) == VX_OK);
    CHECK(load_small(path, 1, &err) == VX_OK);
    CHECK(load_small(path, 1, NULL) == VX_OK);
    CHECK(n_entries() == 1);
    leave();
}

VX_TEST(file_without_sections_comes_back)
{
    vx_error err;
    vx_store *s = NULL;
    size_t n = 99;
    enter();
    CHECK(vx_store_write(path, NULL, 0, NULL, 0, NULL, &err) == VX_OK);
    CHECK(vx_store_open(path, NULL, &s, &err) == VX_OK);
    if (s) {
        (void)vx_store_params(s, &n);
        CHECK(n == 0);
        CHECK(vx_store_find(s, ROWS) == NULL && vx_store_entry(s, 0) == NULL);
        CHECK(is_format_error(vx_store_read(s, ROWS, &n, 1, &err), &err));
        CHECK(vx_store_check_rest(s, &err) == VX_OK);
    }
    vx_store_close(s);
    vx_store_close(NULL);
    leave();
}

VX_TEST(large_sections_lie_on_pages_and_come_back)
{
    enum { N = 64 };
    const size_t n_big = ((size_t)3 << 20) + 5;
    unsigned char *big = malloc(n_big), *got = malloc(n_big);
    vx_section sections[N];
    vx_error err;
    vx_store *s = NULL;
    size_t n_file;

    enter();
    CHECK(big && got);
    for (size_t i = 0; i < n_big; i++)
        big[i] = (unsigned char)vx_hash64(i);
    for (uint32_t i = 0; i < N; i++) { /* the most sections there may be; every eighth is large */
        sections[i] =
            (vx_section){ 1000 + i, i & 1, "x", big + i, i % 8 == 3 ? n_big - N : i, NULL };
    }
    CHECK(vx_store_write(path, big, VX_STORE_MAX_PARAMS, sections, N, NULL, &err) == VX_OK);
    CHECK(vx_store_open(path, NULL, &s, &err) == VX_OK);
    if (s) {
        for (uint32_t i = 0; i < N; i++) {
            const uint64_t length = sections[i].length;
            CHECK(vx_store_entry(s, i) == vx_store_find(s, 1000 + i));
            CHECK(vx_store_entry(s, i)->length == length);
            memset(got, 0xEE, n_big);
            CHECK(vx_store_read(s, 1000 + i, got, length, &err) == VX_OK);
            CHECK(memcmp(got, sections[i].data, (size_t)length) == 0);
            CHECK(got[length] == 0xEE);
        }
        CHECK(vx_store_check_rest(s, &err) == VX_OK);
    }
    vx_store_close(s);
    unsigned char *file = slurp(path, &n_file);
    for (size_t i = 0; i < N; i++) { /* u64 offset at 8 in the 64-byte entry, little-endian */
        uint64_t offset = 0;
        for (size_t k = 8; k-- > 0;)
            offset = offset << 8 | file[320 + i * 64 + 8 + k];
        CHECK(offset % (sections[i].length > VX_STORE_LARGE ? 4096u : 64u) == 0);
        CHECK(memcmp(file + offset, sections[i].data, (size_t)sections[i].length) == 0);
    }
    free(file);
    free(big);
    free(got);
    leave();
}

VX_TEST(wrong_requests_are_refused_before_a_file_is_made)
{
    vx_section many[VX_STORE_MAX_SECTIONS + 1];
    unsigned char big_params[VX_STORE_MAX_PARAMS + 1] = { 0 };
    vx_error err;
    enter();
    for (uint32_t i = 0; i <= VX_STORE_MAX_SECTIONS; i++)
        many[i] = (vx_section){ i, 0, "x", NULL, 0, NULL };
    CHECK(vx_store_write(path, big_params, sizeof big_params, NULL, 0, NULL, &err) == VX_E_ARG);
    CHECK(vx_store_write(path, NULL, 0, many, VX_STORE_MAX_SECTIONS + 1, NULL, &err) == VX_E_ARG);
    many[3].kind = 2;
    CHECK(vx_store_write(path, NULL, 0, many, 4, NULL, &err) == VX_E_ARG);
    many[3] = (vx_section){ 3, 2, "x", NULL, 0, NULL };
    CHECK(vx_store_write(path, NULL, 0, many, 4, NULL, &err) == VX_E_ARG);
    many[3] = (vx_section){ 3, 0, "a name of 24 characters.", NULL, 0, NULL };
    CHECK(vx_store_write(path, NULL, 0, many, 4, NULL, &err) == VX_E_ARG);
    many[3].name = "two\nlines";
    CHECK(vx_store_write(path, NULL, 0, many, 4, NULL, &err) == VX_E_ARG);
    CHECK(n_entries() == 0);
    leave();
}

/* ---- damage ------------------------------------------------------------------ */

VX_TEST(every_flipped_bit_is_found)
{
    vx_error err;
    size_t n;
    enter();
    CHECK(write_small(path, 1, &err) == VX_OK);
    unsigned char *good = slurp(path, &n);
    CHECK(n > 700);
    for (size_t at = 0; at < n; at++) {
        for (int bit = 0; bit <= 8; bit++) { /* 8: the whole byte */
            poke(path, at, (unsigned char)(good[at] ^ (bit < 8 ? 1 << bit : 0xFF)));
            CHECK(is_format_error(load_small(path, 1, &err), &err));
        }
        poke(path, at, good[at]);
    }
    CHECK(load_small(path, 1, &err) == VX_OK);
    free(good);
    leave();
}

VX_TEST(every_truncation_and_any_growth_is_found)
{
    vx_error err;
    size_t n;
    enter();
    CHECK(write_small(path, 1, &err) == VX_OK);
    unsigned char *good = slurp(path, &n);
    for (size_t keep = 0; keep < n; keep++) {
        spit(path, good, keep);
        CHECK(is_format_error(load_small(path, 1, &err), &err));
        CHECK(strstr(err.text, keep < 8      ? "not a vecidx"
                               : keep < HEAD ? "cut short"
                                             : "was written with"));
    }
    unsigned char *longer = calloc(1, n + 5000);
    memcpy(longer, good, n);
    for (size_t more = 1; more <= 5000; more = more * 3 + 1) {
        spit(path, longer, n + more); /* zeros, the kindest garbage */
        CHECK(is_format_error(load_small(path, 1, &err), &err));
    }
    memcpy(longer + n, good, n);
    spit(path, longer, 2 * n); /* the file twice */
    CHECK(is_format_error(load_small(path, 1, &err), &err));
    free(longer);
    free(good);
    leave();
}

VX_TEST(other_files_are_not_ours)
{
    static const char *const texts[] = { "", "\x89", "hello, world\n", "\x89PNG\r\n\x1a\n" };
    vx_error err;
    enter();
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        spit(path, texts[i], strlen(texts[i]));
        CHECK(is_format_error(load_small(path, 1, &err), &err));
        CHECK(strstr(err.text, "not a vecidx index") != NULL);
    }
    leave();
}

VX_TEST(damage_is_named)
{
    vx_error err;
    enter();
    CHECK(write_small(path, 1, &err) == VX_OK);
    poke(path, ROWS_AT + 50, 0xAA);
    CHECK(load_small(path, 1, &err) == VX_E_FORMAT);
    CHECK(strstr(err.text, "'rows' (bytes 576 to 777)") != NULL);
    CHECK(write_small(path, 1, &err) == VX_OK);
    poke(path, 778, 1); /* between rows and links */
    CHECK(load_small(path, 1, &err) == VX_E_FORMAT);
    CHECK(strstr(err.text, "not zero") != NULL);
    CHECK(write_small(path, 1, &err) == VX_OK);
    poke(path, 12, 0);
    CHECK(load_small(path, 1, &err) == VX_E_FORMAT);
    CHECK(strstr(err.text, "version 0, of a vecidx before its first release") != NULL);
    poke(path, 12, 2);
    CHECK(load_small(path, 1, &err) == VX_E_FORMAT);
    CHECK(strstr(err.text, "version 2: ") != NULL);
    leave();
}

/* From here on the forger knows the format: the head's checksum is made right
 * again, so that the checks behind it are what must hold. */

static void set32(unsigned char *p, uint32_t x)
{
    for (int i = 0; i < 4; i++)
        p[i] = (unsigned char)(x >> (8 * i));
}

static void set64(unsigned char *p, uint64_t x)
{
    set32(p, (uint32_t)x);
    set32(p + 4, (uint32_t)(x >> 32));
}

static void forge(const unsigned char *file, size_t n, size_t n_head)
{
    unsigned char *copy = malloc(n);
    memcpy(copy, file, n);
    set32(copy + n_head - 8, vx_crc32c(0, copy, n_head - 8));
    spit(path, copy, n);
    free(copy);
}

VX_TEST(forged_heads_are_refused)
{
    static const struct {
        size_t at;
        int width;
        uint64_t value;
        const char *says; /* so that the check meant is the check that acts */
    } forgeries[] = {
        { 8, 32, 0x0D0C0B0A, "byte order" },
        { 12, 32, 0, "version 0" },
        { 12, 32, 2, "version 2" },
        { 16, 32, 0, "in a head of 0 " },
        { 16, 32, HEAD - 64, "in a head of" },
        { 16, 32, 0xFFFFFFFF, "in a head of" },
        { 20, 32, 2, " 2 sections" },
        { 20, 32, 65, " 65 sections" },
        { 20, 32, 0x04000001, "sections in" }, /* times 64 wraps in 32 bits */
        { 24, 64, 0, "was written with 0" },
        { 24, 64, UINT64_MAX, "was written with" },
        { 32, 32, 257, "257 bytes of parameters" },
        { 32, 32, UINT32_MAX, "of parameters" },
        { 32, 32, 3, "not zero" }, /* text beyond the third byte */
        { 36, 32, 1, "not zero" },
        { 60, 32, 1, "not zero" },
        { ENTRY1, 32, ROWS, "'links' is there twice" },
        { ENTRY0, 32, 99, "'rows' (kind 99): this vecidx cannot use it" },
        { ENTRY0 + 4, 32, 2, "unknown flags" },
        { ENTRY0 + 4, 32, 0x80000001, "unknown flags" },
        { ENTRY0 + 8, 64, 0, "begins at byte 0" },
        { ENTRY0 + 8, 64, 512, "begins at byte 512" },       /* the head's last bytes */
        { ENTRY0 + 8, 64, 577, "begins at byte 577" },       /* off the grid */
        { ENTRY0 + 8, 64, 704, "'links': begins at" },       /* rows now reaches into links */
        { ENTRY0 + 8, 64, UINT64_MAX - 63, "of a file of" }, /* offset + length wraps */
        { ENTRY0 + 8, 64, (uint64_t)1 << 63, "of a file of" },
        { ENTRY0 + 16, 64, UINT64_MAX, "of a file of" },
        { ENTRY0 + 16, 64, UINT64_MAX - 575, "of a file of" }, /* offset + length is 0 */
        { ENTRY0 + 16, 64, 300, "'links': begins at" },
        { ENTRY0 + 16, 64, 10, "expected 201 bytes, found 10" },
        { ENTRY0 + 16, 64, 202, "expected 201 bytes, found 202" },
        { ENTRY0 + 24, 32, 0, "checksum" },
        { ENTRY0 + 28, 32, 1, "unknown flags" },
        { ENTRY0 + 36, 32, 1, "unknown flags" },
        { ENTRY0 + 40, 32, 0x07070707, "its name is not text" },
        { ENTRY0 + 60, 32, 1, "its name is not text" }, /* text behind its end */
        { ENTRY1 + 8, 64, ROWS_AT, "'links': begins at" }, /* where rows is */
        { ENTRY1 + 16, 64, 1000, "of a file of" },
        { ENTRY2 + 8, 64, 1 << 20, "of a file of" }, /* empty, past the end */
        { ENTRY2 + 16, 64, 1, "of a file of" },
        { HEAD - 4, 32, 1, "checksum" },
    };
    vx_error err;
    size_t n;
    enter();
    CHECK(write_small(path, 1, &err) == VX_OK);
    unsigned char *good = slurp(path, &n), *bad = malloc(n);
    forge(good, n, HEAD);
    CHECK(load_small(path, 1, &err) == VX_OK); /* forge() itself changes nothing */
    for (size_t i = 0; i < sizeof forgeries / sizeof forgeries[0]; i++) {
        memcpy(bad, good, n);
        if (forgeries[i].width == 32)
            set32(bad + forgeries[i].at, (uint32_t)forgeries[i].value);
        else
            set64(bad + forgeries[i].at, forgeries[i].value);
        forge(bad, n, HEAD);
        err.text[0] = '\0';
        const bool refused = is_format_error(load_small(path, 1, &err), &err) &&
                             strstr(err.text, forgeries[i].says) != NULL;
        CHECK(refused);
        if (!refused)
            fprintf(stderr, "forgery %zu, '%s': %s\n", i, forgeries[i].says, err.text);
    }
    /* A length that owns to bytes no section has. */
    bad = realloc(bad, n + 64);
    memcpy(bad, good, n);
    memset(bad + n, 0, 64);
    set64(bad + 24, n + 64);
    forge(bad, n + 64, HEAD);
    CHECK(is_format_error(load_small(path, 1, &err), &err));
    CHECK(strstr(err.text, "the file at byte") != NULL);
    /* One section too many, in a head of the right length for it. */
    enum { HEAD65 = 328 + 65 * 64 };
    unsigned char *many = calloc(1, HEAD65);
    memcpy(many, good, ENTRY0);
    set32(many + 16, HEAD65);
    set32(many + 20, 65);
    set64(many + 24, HEAD65);
    forge(many, HEAD65, HEAD65);
    CHECK(is_format_error(load_small(path, 1, &err), &err));
    CHECK(strstr(err.text, " 65 sections") != NULL);
    free(many);
    free(good);
    free(bad);
    leave();
}

VX_TEST(random_forgeries_never_pass_the_end)
{
    vx_error err;
    size_t n, n_ok = 0;
    enter();
    CHECK(write_small(path, 1, &err) == VX_OK);
    unsigned char *good = slurp(path, &n), *bad = malloc(n);
    for (uint64_t turn = 0; turn < 20000; turn++) {
        memcpy(bad, good, n);
        for (uint64_t k = 0; k <= turn % 3; k++) {
            const uint64_t r = vx_hash64(turn * 8 + k);
            /* In the fixed part or the table, not in the free text of the parameters. */
            const size_t at = r % 2 ? 12 + (r >> 8) % 52 : 320 + (r >> 8) % 192;
            bad[at] = (unsigned char)(r % 7 == 0 ? bad[at] ^ 1u << (r >> 40) % 8 : r >> 48);
        }
        forge(bad, n, HEAD);
        vx_store *s = NULL; /* read whatever it claims to hold, into exactly so much memory */
        vx_status st = vx_store_open(path, NULL, &s, &err);
        for (uint32_t kind = ROWS; st == VX_OK && kind <= NOTES; kind++) {
            const vx_entry *entry = vx_store_find(s, kind);
            if (entry == NULL)
                continue;
            CHECK(entry->length <= n);
            void *dst = malloc((size_t)entry->length);
            st = vx_store_read(s, kind, dst, entry->length, &err);
            free(dst);
        }
        if (st == VX_OK)
            st = vx_store_check_rest(s, &err);
        vx_store_close(s);
        CHECK(st == VX_OK || is_format_error(st, &err));
        n_ok += st == VX_OK;
    }
    CHECK(n_ok > 0 && n_ok < 15000); /* some change only a name, or an optional kind */
    free(good);
    free(bad);
    leave();
}

/* ---- sections nobody knows ----------------------------------------------------- */

VX_TEST(unknown_optional_sections_are_skipped_but_checked)
{
    static unsigned char data[3000];
    static const uint32_t known[] = { ROWS };
    const vx_section sections[] = { { ROWS, 1, "rows", data, sizeof data, NULL },
                                    { 4242, 0, "of a later version", data, sizeof data, NULL } };
    unsigned char got[sizeof data];
    vx_error err;
    vx_store *s = NULL;
    enter();
    CHECK(vx_store_write(path, params, sizeof params, sections, 2, NULL, &err) == VX_OK);
    for (int damaged = 0; damaged < 2; damaged++) {
        CHECK(vx_store_open(path, NULL, &s, &err) == VX_OK);
        CHECK(vx_store_require_known(s, known, 1, &err) == VX_OK);
        CHECK(vx_store_read(s, ROWS, got, sizeof got, &err) == VX_OK);
        const vx_status st = vx_store_check_rest(s, &err);
        CHECK(damaged ? is_format_error(st, &err) : st == VX_OK);
        CHECK(!damaged || strstr(err.text, "'of a later version'") != NULL);
        vx_store_close(s);
        poke(path, 6000, 1);
    }
    leave();
}

VX_TEST(unknown_required_sections_are_refused_by_name)
{
    static const uint32_t known[] = { 1, 2, 3, ROWS };
    const vx_section sections[] = { { ROWS, 1, "rows", NULL, 0, NULL },
                                    { 4242, VX_SECTION_REQUIRED, "codes", NULL, 0, NULL } };
    vx_error err;
    vx_store *s = NULL;
    enter();
    CHECK(vx_store_write(path, params, sizeof params, sections, 2, NULL, &err) == VX_OK);
    CHECK(vx_store_open(path, NULL, &s, &err) == VX_OK);
    CHECK(is_format_error(vx_store_require_known(s, known, 4, &err), &err));
    CHECK(strstr(err.text, "'codes' (kind 4242)") != NULL);
    vx_store_close(s);
    leave();
}

/* ---- files and the system ------------------------------------------------------- */

static bool is_io_error(vx_status st, const vx_error *err, int why)
{
    return st == VX_E_IO && err->status == st && err->sys_errno == why && err->text[0] != '\0';
}

VX_TEST(reading_what_is_no_file)
{
    vx_error err;
    enter();
    CHECK(is_io_error(load_small(in_dir("none"), 1, &err), &err, ENOENT));
    CHECK(is_io_error(load_small(in_dir("none/none"), 1, &err), &err, ENOENT));
    CHECK(is_io_error(load_small(dir, 1, &err), &err, EISDIR));
    CHECK(is_io_error(load_small("/dev/null", 1, &err), &err, ESPIPE));
    CHECK(mkfifo(in_dir("pipe"), 0600) == 0);
    CHECK(is_io_error(load_small(in_dir("pipe"), 1, &err), &err, ESPIPE)); /* and does not wait */
    leave();
}

VX_TEST(writing_where_no_file_can_be)
{
    vx_error err;
    enter();
    CHECK(is_io_error(write_small("", 1, &err), &err, ENOENT));
    CHECK(is_io_error(write_small(in_dir("none/index"), 1, &err), &err, ENOENT));
    CHECK(is_io_error(write_small(in_dir("none/"), 1, &err), &err, EISDIR));
    CHECK(is_io_error(write_small(dir, 1, &err), &err, EISDIR));
    spit(path, "x", 1);
    CHECK(is_io_error(write_small(in_dir("index/below"), 1, &err), &err, ENOTDIR));
    char name[400];
    memset(name, 'n', sizeof name);
    name[sizeof name - 1] = '\0';
    CHECK(is_io_error(write_small(in_dir(name), 1, &err), &err, ENAMETOOLONG));
    CHECK(n_entries() == 1);
    leave();
}

VX_TEST(longest_file_name_works)
{
    vx_error err;
    char name[256];
    enter();
    memset(name, 'n', sizeof name);
    name[255] = '\0';
    CHECK(write_small(in_dir(name), 1, &err) == VX_OK);
    CHECK(load_small(in_dir(name), 1, &err) == VX_OK);
    leave();
}

/* Run `body` in a child; its exit status. */
static int in_child(int (*body)(void *), void *arg)
{
    int status = 0;
    fflush(NULL);
    const pid_t pid = fork();
    if (pid == 0)
        _exit(body(arg));
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
        return -1;
    return WEXITSTATUS(status);
}

/* Root may write anywhere, and a mistake of ours may then replace a device: what
 * needs permissions to hold runs in a child that gave them up. */
static bool become_nobody(void)
{
    return getuid() != 0 || (setgid(65534) == 0 && setuid(65534) == 0);
}

#define CANNOT 77 /* exit status: the child could not be set up */

static bool is_device(const char *name)
{
    struct stat info;
    return stat(name, &info) == 0 && S_ISCHR(info.st_mode);
}

static int write_to_devices(void *link)
{
    struct stat info;
    vx_error err;
    if (!become_nobody() || !is_device("/dev/full") || !is_device("/dev/null"))
        return CANNOT;
    if (!is_io_error(write_small("/dev/full", 1, &err), &err, ENOSPC) || !is_device("/dev/full"))
        return 1;
    if (write_small("/dev/null", 1, &err) != VX_OK || !is_device("/dev/null"))
        return 2;
    if (lstat(link, &info) != 0)
        return CANNOT;
    if (!is_io_error(write_small(link, 1, &err), &err, ENOSPC))
        return 3;
    return lstat(link, &info) == 0 && S_ISLNK(info.st_mode) ? 0 : 4;
}

VX_TEST(devices_are_written_in_place)
{
    enter();
    CHECK(chmod(dir, 0755) == 0);
    CHECK(symlink("/dev/full", in_dir("link")) == 0);
    const int result = in_child(write_to_devices, (void *)(uintptr_t)in_dir("link"));
    leave();
    if (result == CANNOT)
        SKIP("no /dev/full here, or root cannot become an ordinary user");
    CHECK(result == 0);
}

VX_TEST(pipes_are_written_in_place)
{
    unsigned char bytes[4096];
    struct stat info;
    vx_error err;
    enter();
    CHECK(mkfifo(in_dir("pipe"), 0600) == 0);
    const int fd = open(in_dir("pipe"), O_RDWR | O_NONBLOCK); /* its buffer takes all of it */
    CHECK(write_small(in_dir("pipe"), 1, &err) == VX_OK);
    const ssize_t n = read(fd, bytes, sizeof bytes);
    close(fd);
    CHECK(n > 0);
    spit(path, bytes, n > 0 ? (size_t)n : 0);
    CHECK(load_small(path, 1, &err) == VX_OK);
    CHECK(stat(in_dir("pipe"), &info) == 0 && S_ISFIFO(info.st_mode));
    leave();
}

VX_TEST(links_are_followed)
{
    vx_error err;
    struct stat info;
    enter();
    CHECK(mkdir(in_dir("sub"), 0700) == 0);
    CHECK(symlink("sub/second", in_dir("first")) == 0);         /* relative to the directory */
    CHECK(symlink(in_dir("index"), in_dir("sub/second")) == 0); /* absolute, and dangling */
    for (unsigned char seed = 1; seed <= 2; seed++) {
        CHECK(write_small(in_dir("first"), seed, &err) == VX_OK);
        CHECK(load_small(path, seed, &err) == VX_OK);
        CHECK(lstat(path, &info) == 0 && S_ISREG(info.st_mode));
        CHECK(lstat(in_dir("first"), &info) == 0 && S_ISLNK(info.st_mode));
        CHECK(lstat(in_dir("sub/second"), &info) == 0 && S_ISLNK(info.st_mode));
    }
    CHECK(symlink("round", in_dir("round")) == 0);
    CHECK(is_io_error(write_small(in_dir("round"), 1, &err), &err, ELOOP));
    CHECK(unlink(in_dir("sub/second")) == 0);
    leave();
}

VX_TEST(relative_paths_work)
{
    vx_error err;
    char before[4096];
    enter();
    CHECK(getcwd(before, sizeof before) != NULL && chdir(dir) == 0);
    CHECK(write_small("index", 1, &err) == VX_OK);
    CHECK(load_small("index", 1, &err) == VX_OK);
    CHECK(chdir(before) == 0);
    CHECK(n_entries() == 1);
    leave();
}

VX_TEST(mode_follows_umask_or_the_older_file)
{
    static const mode_t modes[] = { 0600, 0644, 0666, 0640 };
    vx_error err;
    struct stat info;
    enter();
    const mode_t before = umask(027);
    CHECK(write_small(path, 1, &err) == VX_OK);
    CHECK(stat(path, &info) == 0 && (info.st_mode & 07777) == 0640);
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        CHECK(chmod(path, modes[i]) == 0);
        CHECK(write_small(path, 1, &err) == VX_OK);
        CHECK(stat(path, &info) == 0 && (info.st_mode & 07777) == modes[i]);
    }
    umask(before);
    leave();
}

static int write_as_nobody(void *arg)
{
    vx_error err;
    if (!become_nobody() || access(dir, X_OK) != 0) /* TMPDIR may lie where nobody may not go */
        return CANNOT;
    const vx_status st = write_small(arg, 9, &err);
    return st == VX_OK ? 0 : st == VX_E_IO && err.sys_errno == EACCES ? 1 : 2;
}

VX_TEST(what_we_may_not_write_stays)
{
    vx_error err;
    enter();
    CHECK(write_small(path, 1, &err) == VX_OK);
    CHECK(chmod(path, 0444) == 0 && chmod(dir, 0777) == 0);
    const int file_kept = in_child(write_as_nobody, path);
    CHECK(chmod(path, 0666) == 0 && chmod(dir, 0555) == 0);
    const int dir_kept = in_child(write_as_nobody, path);
    CHECK(load_small(path, 1, &err) == VX_OK);
    CHECK(n_entries() == 1);
    CHECK(chmod(dir, 0333) == 0); /* may write, may not list: saved, only not synced */
    const int saved = in_child(write_as_nobody, path);
    CHECK(chmod(dir, 0700) == 0);
    CHECK(n_entries() == 1);
    const vx_status after = load_small(path, saved == 0 ? 9 : 1, &err);
    leave();
    if (saved == CANNOT)
        SKIP("cannot become an ordinary user here");
    CHECK(file_kept == 1);
    CHECK(dir_kept == 1);
    CHECK(saved == 0 && after == VX_OK);
}

/* A file that may grow to *arg bytes only: the nearest thing to a full disk. */
static int write_under_limit(void *arg)
{
    const struct rlimit limit = { *(rlim_t *)arg, RLIM_INFINITY };
    vx_error err;
    (void)signal(SIGXFSZ, SIG_IGN);
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0)
        return CANNOT;
    const vx_status st = write_small(path, 2, &err);
    return st == VX_OK ? 0 : st == VX_E_IO && err.sys_errno == EFBIG ? 1 : 2;
}

VX_TEST(full_disk_leaves_the_older_file)
{
    vx_error err;
    size_t n;
    enter();
    CHECK(write_small(path, 1, &err) == VX_OK);
    unsigned char *good = slurp(path, &n);
    for (rlim_t limit = 0; limit < n; limit += limit < 16 || limit + 16 > n ? 1 : 13) {
        CHECK(in_child(write_under_limit, &limit) == 1);
        CHECK(load_small(path, 1, &err) == VX_OK);
        CHECK(n_entries() == 1);
    }
    CHECK(unlink(path) == 0);
    rlim_t limit = 100;
    CHECK(in_child(write_under_limit, &limit) == 1);
    CHECK(n_entries() == 0);
    limit = (rlim_t)n;
    CHECK(in_child(write_under_limit, &limit) == 0);
    CHECK(load_small(path, 2, &err) == VX_OK);
    free(good);
    leave();
}

VX_TEST(abandoned_writer_leaves_nothing)
{
    vx_error err;
    vx_writer *w = NULL;
    enter();
    CHECK(write_small(path, 1, &err) == VX_OK);
    CHECK(vx_writer_open(path, NULL, &w, &err) == VX_OK);
    CHECK(vx_writer_write(w, "abc", 3, &err) == VX_OK);
    CHECK(n_entries() == 2);
    vx_writer_close(w);
    vx_writer_close(NULL);
    CHECK(n_entries() == 1);
    CHECK(load_small(path, 1, &err) == VX_OK);
    leave();
}

VX_TEST(two_writers_do_not_meet)
{
    vx_error err;
    vx_writer *a = NULL, *b = NULL;
    size_t n;
    enter();
    CHECK(vx_writer_open(path, NULL, &a, &err) == VX_OK);
    CHECK(vx_writer_open(path, NULL, &b, &err) == VX_OK);
    CHECK(vx_writer_write(a, "first", 5, &err) == VX_OK);
    CHECK(vx_writer_write(b, "second", 6, &err) == VX_OK);
    CHECK(vx_writer_commit(b, &err) == VX_OK);
    CHECK(vx_writer_commit(a, &err) == VX_OK);
    vx_writer_close(a);
    vx_writer_close(b);
    unsigned char *got = slurp(path, &n);
    CHECK(n == 5 && memcmp(got, "first", 5) == 0);
    CHECK(n_entries() == 1);
    free(got);
    leave();
}

VX_TEST(file_cut_while_open_is_found)
{
    vx_error err;
    vx_store *s = NULL;
    unsigned char got[sizeof rows];
    enter();
    CHECK(write_small(path, 1, &err) == VX_OK);
    CHECK(vx_store_open(path, NULL, &s, &err) == VX_OK);
    CHECK(truncate(path, 600) == 0);
    CHECK(is_format_error(vx_store_read(s, ROWS, got, sizeof got, &err), &err));
    CHECK(is_format_error(vx_store_check_rest(s, &err), &err));
    vx_store_close(s);
    leave();
}

VX_TEST(every_failed_allocation_is_reported)
{
    vx_error err;
    enter();
    CHECK(write_small(path, 1, &err) == VX_OK);
    vx_status st = VX_E_NOMEM;
    for (uint64_t nth = 1; st == VX_E_NOMEM && nth < 50; nth++) {
        vx_test_fail_alloc(nth);
        st = write_small(path, 2, &err);
        vx_test_fail_alloc(0);
        CHECK(st == VX_OK || st == VX_E_NOMEM);
        CHECK(n_entries() == 1);
        CHECK(load_small(path, st == VX_OK ? 2 : 1, &err) == VX_OK);
    }
    CHECK(st == VX_OK);
    st = VX_E_NOMEM;
    for (uint64_t nth = 1; st == VX_E_NOMEM && nth < 50; nth++) {
        vx_test_fail_alloc(nth);
        st = load_small(path, 2, &err);
        vx_test_fail_alloc(0);
        CHECK(st == VX_OK || st == VX_E_NOMEM);
    }
    CHECK(st == VX_OK);
    leave();
}

/* ---- one pass, other targets, other sources --------------------------------------- */

VX_TEST(a_section_that_is_not_as_known_is_not_written)
{
    const uint32_t wrong = 5;
    vx_section section = { ROWS, 1, "rows", rows, sizeof rows, &wrong };
    vx_error err;
    enter();
    CHECK(write_small(path, 1, &err) == VX_OK);
    CHECK(is_format_error(vx_store_write(path, NULL, 0, &section, 1, NULL, &err), &err));
    CHECK(strstr(err.text, "'rows' is damaged") != NULL);
    CHECK(load_small(path, 1, &err) == VX_OK);
    CHECK(n_entries() == 1);
    const uint32_t right = vx_crc32c(0, rows, sizeof rows);
    section.crc = &right;
    CHECK(vx_store_write(path, NULL, 0, &section, 1, NULL, &err) == VX_OK);
    leave();
}

struct memory {
    unsigned char *bytes;
    size_t n, most, n_begins;
};

static int begin_memory(void *arg, uint64_t length)
{
    struct memory *to = arg;
    to->n_begins++;
    to->most = (size_t)length;
    to->bytes = malloc(to->most);
    return 0;
}

static int write_memory(void *arg, const void *data, size_t n)
{
    struct memory *to = arg;
    if (n > to->most - to->n)
        return 1;
    memcpy(to->bytes + to->n, data, n);
    to->n += n;
    return 0;
}

static int refuse_memory(void *arg, const void *data, size_t n)
{
    (void)data, (void)n;
    return ++((struct memory *)arg)->n == 3;
}

VX_TEST(a_sink_gets_the_same_bytes)
{
    const vx_section section = { ROWS, 1, "rows", rows, sizeof rows, NULL };
    struct memory to = { NULL, 0, 0, 0 };
    vx_sink sink = { begin_memory, write_memory, &to };
    vx_error err;
    vx_store *s = NULL;
    unsigned char got[sizeof rows];
    size_t n;
    enter();
    CHECK(write_small(path, 1, &err) == VX_OK); /* fills rows */
    CHECK(vx_store_write(path, params, sizeof params, &section, 1, NULL, &err) == VX_OK);
    CHECK(vx_store_write_to(&sink, params, sizeof params, &section, 1, NULL, &err) == VX_OK);
    unsigned char *file = slurp(path, &n);
    CHECK(to.n_begins == 1 && to.n == to.most && to.n == n && memcmp(to.bytes, file, n) == 0);
    CHECK(vx_store_open_memory(to.bytes, to.n, NULL, &s, &err) == VX_OK);
    CHECK(vx_store_read(s, ROWS, got, sizeof got, &err) == VX_OK);
    CHECK(memcmp(got, rows, sizeof got) == 0 && vx_store_check_rest(s, &err) == VX_OK);
    vx_store_close(s);
    for (size_t keep = 0; keep < n; keep += 7) { /* exactly so much memory, for ASan */
        unsigned char *part = malloc(keep);
        memcpy(part, file, keep);
        CHECK(is_format_error(vx_store_open_memory(part, keep, NULL, &s, &err), &err));
        free(part);
    }
    free(to.bytes);
    to = (struct memory){ NULL, 0, 0, 0 };
    sink.write = refuse_memory;
    CHECK(vx_store_write_to(&sink, NULL, 0, &section, 1, NULL, &err) == VX_E_INTERRUPTED);
    CHECK(to.n == 3);
    free(to.bytes);
    free(file);
    leave();
}

static int stop_at_once(void *arg, uint64_t done, uint64_t total)
{
    ++*(int *)arg;
    CHECK(done <= total);
    return 1;
}

VX_TEST(a_stopped_save_leaves_the_older_file_and_a_stopped_load_nothing)
{
    const size_t n_big = (size_t)5 << 20;
    unsigned char *big = calloc(n_big, 1);
    const vx_section section = { ROWS, 1, "rows", big, n_big, NULL };
    int n_ticks = 0;
    const vx_run run = { 2, stop_at_once, &n_ticks };
    vx_error err;
    vx_store *s = NULL;
    enter();
    /* A loop ticks once 20 ms have passed since the last tick; after 200 ms it waits
     * anew.  So a call 30 ms after another is stopped, unless this machine dozes. */
    for (int turn = 0; turn < 50 && n_ticks == 0; turn++) {
        CHECK(write_small(path, 1, &err) == VX_OK);
        vx_sleep_ms(30);
        const vx_status st = vx_store_write(path, NULL, 0, &section, 1, &run, &err);
        CHECK(st == (n_ticks > 0 ? VX_E_INTERRUPTED : VX_OK));
    }
    CHECK(n_ticks == 1);
    CHECK(load_small(path, 1, &err) == VX_OK && n_entries() == 1);
    CHECK(vx_store_write(path, NULL, 0, &section, 1, NULL, &err) == VX_OK);
    n_ticks = 0;
    for (int turn = 0; turn < 50 && n_ticks == 0; turn++) {
        vx_sleep_ms(30);
        CHECK(vx_store_open(path, &run, &s, &err) == VX_OK);
        const vx_status st = vx_store_read(s, ROWS, big, n_big, &err);
        CHECK(st == (n_ticks > 0 ? VX_E_INTERRUPTED : VX_OK));
        vx_store_close(s);
    }
    CHECK(n_ticks == 1);
    free(big);
    leave();
}

VX_TEST(a_map_outlives_its_file)
{
    vx_error err;
    vx_store *s = NULL;
    vx_map map = { NULL, 0 };
    enter();
    CHECK(write_small(path, 1, &err) == VX_OK);
    CHECK(vx_store_open(path, NULL, &s, &err) == VX_OK);
    CHECK(vx_store_map(s, &map, &err) == VX_OK);
    const vx_entry entry = *vx_store_find(s, LINKS);
    vx_store_close(s);
    CHECK(map.length == 960 && entry.offset == LINKS_AT);
    vx_map_advise(&map, 0, map.length, VX_MAP_SOON);
    vx_map_advise(&map, 833, 1, VX_MAP_RANDOM);
    unsigned char before[sizeof links];
    memcpy(before, links, sizeof links);
    CHECK(write_small(path, 77, &err) == VX_OK); /* replaces the name, not the mapped file */
    CHECK(memcmp(map.base + entry.offset, before, sizeof before) == 0);
    CHECK(vx_crc32c(0, map.base + entry.offset, (size_t)entry.length) == entry.crc);
    vx_map_free(&map);
    vx_map_free(&map);
    leave();
}
