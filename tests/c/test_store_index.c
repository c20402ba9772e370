/* test_store_index.c - indexes over files: mapped, damaged, closed.
 *
 * A mapped index believes nothing of its file's body.  Here bodies are filled
 * with anything, and searched: under ASan, a read outside the mapping's pages or
 * outside a plane's memory is an error, and a search that does not end a hang. */
#include "vx_test.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../src/vecidx/csrc/base/vx_rng.h"
#include "../../src/vecidx/csrc/base/vx_sync.h"
#include "../../src/vecidx/csrc/store/store_crc.h"
#include "../../src/vecidx/csrc/vecidx.h"

enum { DIM = 12, N = 900, K = 5 };

static char path[600];
static vx_load_options mapped = { VX_MAP_ALL, 0 };

static void make_path(void)
{
    const char *base = getenv("TMPDIR");
    (void)snprintf(path, sizeof path, "%s/vx_store_index_%ld", base && *base ? base : "/tmp",
                   (long)getpid());
}

static float row_of(size_t i, size_t j)
{
    i = i % 7 == 3 ? 3 : i; /* many rows are equal */
    return (float)(vx_hash64(i * DIM + j) % 1000) / 100.0f;
}

/* N rows, some equal, some replaced; ids given.  Saved to `path`. */
static void save_sample(vx_metric metric)
{
    static float rows[N * DIM];
    static vx_label labels[N];
    const vx_params params = {.dim = DIM, .metric = (uint32_t)metric, .M = 4, .ef_construction = 30,
                              .seed = 1};
    vx_index *index = NULL;
    vx_error err;
    for (size_t i = 0; i < N; i++) {
        labels[i] = (vx_label)(3 * i + 1);
        for (size_t j = 0; j < DIM; j++)
            rows[i * DIM + j] = row_of(i, j);
    }
    CHECK(vx_index_new(&params, &index, &err) == VX_OK);
    CHECK(vx_index_add(index, rows, N, labels, VX_REPLACE, NULL, NULL, NULL, &err) == VX_OK);
    CHECK(vx_index_add(index, rows, 30, labels + 200, VX_REPLACE, NULL, NULL, NULL, &err) == VX_OK);
    CHECK(vx_index_save(index, path, NULL, &err) == VX_OK);
    vx_index_free(index);
}

static unsigned char *slurp(size_t *n)
{
    FILE *f = fopen(path, "rb");
    unsigned char *bytes = malloc((size_t)1 << 20);
    *n = f ? fread(bytes, 1, (size_t)1 << 20, f) : 0;
    if (f)
        fclose(f);
    return bytes;
}

static void spit(const unsigned char *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(bytes, 1, n, f) == n && fclose(f) == 0);
}

/* Ask everything that may be asked.  Answers may be wrong, but there are some. */
static void ask_everything(vx_index *index)
{
    float query[DIM], dists[N + 100];
    vx_label labels[N + 100];
    uint8_t found[3];
    uint64_t n;
    vx_stats stats;
    vx_memory memory;
    vx_check check;
    vx_error err;
    for (size_t q = 0; q < 6; q++) {
        for (size_t j = 0; j < DIM; j++)
            query[j] = row_of(q * 105, j) + 0.01f; /* 210 is a deleted row */
        const size_t k = q == 4 ? N + 100 : K;
        const vx_search_params params = { k, q == 3 ? 200 : 0, q == 5 };
        CHECK(vx_index_search(index, query, 1, &params, NULL, labels, dists, &err) == VX_OK);
    }
    const vx_label asked[3] = { 1, 4, 700 };
    CHECK(vx_index_contains(index, asked, 3, found, &err) == VX_OK);
    for (size_t i = 0; i < 3; i++)
        (void)vx_index_get(index, asked + i, 1, query, &err);
    CHECK(vx_index_labels(index, labels, N, &n, &err) == VX_OK);
    CHECK(vx_index_stats(index, &stats, &err) == VX_OK);
    CHECK(vx_index_memory(index, &memory, &err) == VX_OK);
    (void)vx_index_check(index, NULL, &check, &err);
    CHECK(vx_index_warm(index, NULL, &err) == VX_OK);
}

/* Load it in every way; what can be loaded is asked everything. */
static void load_and_ask(bool may_pass)
{
    vx_index *index = NULL;
    vx_error err;
    CHECK(vx_index_load(path, &mapped, NULL, &index, &err) == VX_OK || may_pass);
    if (index)
        ask_everything(index);
    vx_index_free(index);
    index = NULL;
    const vx_load_options cold = { VX_MAP_VECTORS, 0 };
    if (vx_index_load(path, &cold, NULL, &index, &err) == VX_OK)
        ask_everything(index);
    vx_index_free(index);
    index = NULL;
    const vx_status st = vx_index_load(path, NULL, NULL, &index, &err);
    CHECK(st == (may_pass && index ? VX_OK : VX_E_FORMAT));
    if (index) { /* what was let in must bear an add too */
        float rows[40 * DIM];
        for (size_t i = 0; i < 40 * DIM; i++)
            rows[i] = row_of(i % 9, i);
        CHECK(vx_index_add(index, rows, 40, NULL, VX_REPLACE, NULL, NULL, NULL, &err) == VX_OK ||
              err.status == VX_E_ARG); /* no ids left */
        ask_everything(index);
    }
    vx_index_free(index);
}

static vx_file_info inspected(void)
{
    vx_file_info info = { 0 };
    vx_error err;
    CHECK(vx_index_inspect(path, &info, &err) == VX_OK);
    return info;
}

static void set32(unsigned char *p, uint32_t x)
{
    for (int i = 0; i < 4; i++)
        p[i] = (unsigned char)(x >> (8 * i));
}

/* Make the checksums right again: now the forger knows the format. */
static void forge(unsigned char *file, const vx_file_info *info)
{
    const size_t head = 328 + 64 * info->n_sections;
    for (size_t i = 0; i < info->n_sections; i++) {
        const vx_file_section *s = &info->sections[i];
        set32(file + 320 + 64 * i + 24, vx_crc32c(0, file + s->offset, (size_t)s->length));
    }
    set32(file + head - 8, vx_crc32c(0, file, head - 8));
}

VX_TEST(a_damaged_body_never_leads_outside)
{
    static const unsigned char fills[] = { 0x00, 0xFF, 0x01, 0x7F, 0x80, 0x0F };
    make_path();
    for (int metric = VX_L2SQ; metric <= VX_COSINE; metric++) {
        save_sample((vx_metric)metric);
        size_t n;
        unsigned char *good = slurp(&n), *bad = malloc(n);
        const vx_file_info info = inspected();
        CHECK(info.n_sections >= 8);
        for (size_t s = 0; s < info.n_sections; s++) {
            const vx_file_section *section = &info.sections[s];
            if (strcmp(section->name, "tombstones") == 0)
                continue; /* read, and so checked, in every way of loading */
            for (size_t turn = 0; turn < sizeof fills + 4; turn++) {
                memcpy(bad, good, n);
                unsigned char *at = bad + section->offset;
                for (size_t i = 0; i < section->length; i++) {
                    const uint64_t r = vx_hash64(i + turn * 100003);
                    at[i] = turn < sizeof fills ? fills[turn]
                            : turn % 2          ? (unsigned char)r
                            : r % 50 == 0       ? (unsigned char)(r >> 8)
                                                : at[i];
                }
                spit(bad, n);
                load_and_ask(false);
                forge(bad, &info);
                spit(bad, n);
                load_and_ask(true);
            }
        }
        free(good);
        free(bad);
    }
    unlink(path);
}

static const vx_file_section *section_named(const vx_file_info *info, const char *name)
{
    for (size_t i = 0; i < info->n_sections; i++)
        if (strcmp(info->sections[i].name, name) == 0)
            return &info->sections[i];
    CHECK(!"no such section");
    return &info->sections[0];
}

VX_TEST(a_ring_of_equal_rows_that_are_dead_ends)
{
    make_path();
    save_sample(VX_L2SQ);
    size_t n;
    unsigned char *file = slurp(&n);
    const vx_file_info info = inspected();
    const vx_file_section *twins = section_named(&info, "twins");
    for (uint32_t slot = 0; slot < twins->length / 4; slot++) /* each row the next one's twin */
        set32(file + twins->offset + 4 * slot, 1 + (slot + 1) % (uint32_t)(twins->length / 4));
    spit(file, n);
    load_and_ask(false);
    for (uint32_t slot = 0; slot < twins->length / 4; slot++) /* and its own */
        set32(file + twins->offset + 4 * slot, 1 + slot);
    spit(file, n);
    load_and_ask(false);
    free(file);
    unlink(path);
}

VX_TEST(cut_anywhere_it_is_refused)
{
    make_path();
    save_sample(VX_COSINE);
    size_t n;
    unsigned char *file = slurp(&n);
    vx_index *index = NULL;
    vx_error err;
    for (size_t keep = 0; keep < n; keep += keep < 1100 ? 1 : 997) {
        spit(file, keep);
        CHECK(vx_index_load(path, &mapped, NULL, &index, &err) == VX_E_FORMAT && index == NULL);
        unsigned char *part = malloc(keep);
        memcpy(part, file, keep);
        CHECK(vx_index_load_memory(part, keep, 0, NULL, &index, &err) == VX_E_FORMAT);
        CHECK(index == NULL);
        free(part);
    }
    free(file);
    unlink(path);
}

VX_TEST(saving_a_damaged_mapped_index_is_refused)
{
    make_path();
    save_sample(VX_IP);
    size_t n;
    unsigned char *file = slurp(&n);
    const vx_file_info info = inspected();
    file[section_named(&info, "links")->offset + 77] ^= 1;
    spit(file, n);
    vx_index *index = NULL;
    vx_error err;
    CHECK(vx_index_load(path, &mapped, NULL, &index, &err) == VX_OK);
    CHECK(vx_index_save(index, path, NULL, &err) == VX_E_FORMAT);
    CHECK(strstr(err.text, "'links'") != NULL);
    vx_index_free(index);
    free(file);
    unlink(path);
}

/* ---- closing while others search ------------------------------------------------ */

struct searching {
    vx_index *index;
    _Atomic int n_running, n_wrong;
};

static VX_THREAD_MAIN(search_until_closed, arg)
{
    struct searching *s = arg;
    float query[DIM], dists[4 * K];
    vx_label labels[4 * K];
    vx_error err;
    for (int i = 0;; i++) {
        for (size_t j = 0; j < DIM; j++)
            query[j] = row_of((size_t)i % N, j);
        const vx_search_params params = { K, 0, i % 3 == 0 };
        const vx_label label = 1;
        const vx_status st =
            i % 5 == 4 ? vx_index_get(s->index, &label, 1, query, &err)
                       : vx_index_search(s->index, query, 1, &params, NULL, labels, dists, &err);
        if (st == VX_E_STATE)
            break;
        if (st != VX_OK || (i % 5 != 4 && labels[0] < 0))
            atomic_fetch_add(&s->n_wrong, 1);
    }
    atomic_fetch_sub(&s->n_running, 1);
    return VX_THREAD_END;
}

VX_TEST(closing_while_others_search_is_safe)
{
    enum { THREADS = 4 };
    make_path();
    save_sample(VX_L2SQ);
    for (int way = 0; way < 3; way++) {
        const vx_load_options options = { (vx_map_mode)way, 0 };
        struct searching s = { NULL, THREADS, 0 };
        vx_error err;
        CHECK(vx_index_load(path, &options, NULL, &s.index, &err) == VX_OK);
        CHECK(vx_index_is_read_only(s.index) == (way != 0));
        for (int i = 0; i < THREADS; i++)
            CHECK(vx_thread_start(search_until_closed, &s));
        vx_sleep_ms(30);
        CHECK(vx_index_close(s.index, NULL, &err) == VX_OK);
        CHECK(vx_index_is_closed(s.index));
        while (atomic_load(&s.n_running) > 0)
            vx_sleep_ms(1);
        CHECK(s.n_wrong == 0);
        CHECK(vx_index_close(s.index, NULL, &err) == VX_OK);
        CHECK(vx_index_save(s.index, path, NULL, &err) == VX_E_STATE);
        vx_index_free(s.index);
    }
    unlink(path);
}

VX_TEST(no_allocation_that_fails_leaves_anything_behind)
{
    make_path();
    save_sample(VX_COSINE);
    for (int way = 0; way < 3; way++) {
        const vx_load_options options = { (vx_map_mode)way, 1 };
        vx_status st = VX_E_NOMEM;
        for (uint64_t nth = 1; st == VX_E_NOMEM && nth < 500; nth++) {
            vx_index *index = NULL;
            vx_error err;
            vx_test_fail_alloc(nth);
            st = vx_index_load(path, &options, NULL, &index, &err);
            vx_test_fail_alloc(0);
            CHECK((st == VX_OK) == (index != NULL));
            CHECK(st == VX_OK || st == VX_E_NOMEM);
            vx_index_free(index);
        }
        CHECK(st == VX_OK);
    }
    unlink(path);
}
