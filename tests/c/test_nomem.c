/* test_nomem.c - memory runs out at any place of any call, however rows are stored.
 *
 * Allocation n of a call fails, for n = 1, 2, ..., until the call has gone well three times in a
 * row.  (Once does not mean that the last was passed: some failures are got over.)  The error
 * then is VX_E_NOMEM, and what there is stays sound: checked, and used on. */
#include "base/vx_alloc.h"
#include "base/vx_rng.h"
#include "index/index.h"
#include "vx_test.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

enum { DIM = 40, BITS = 77, K = 5, QUERIES = 9, TURN = 30 };
enum { PLAIN = 600, TRAINED = VX_TRAIN_ROWS + 20 };
#if defined(__SANITIZE_THREAD__)
enum { STRIDE = 5 }; /* slow, and of memory it knows nothing */
#else
enum { STRIDE = 1 };
#endif

/* What rows are stored as: with and without training. */
static const struct kind {
    const char *name;
    vx_params params;
    size_t n;
    float lift; /* of all values */
} kinds[] = {
#define KIND(word, m, d, q, count)                                                                 \
    { word,                                                                                        \
      { .dim = (d) == VX_BITS ? BITS : DIM, .metric = (m), .dtype = (d), .quantization = (q),      \
        .M = 5, .ef_construction = 12 },                                                           \
      (count), 0 }
    KIND("float32", VX_IP, VX_F32, VX_QUANT_NONE, PLAIN),
    KIND("bfloat16", VX_COSINE, VX_BF16, VX_QUANT_NONE, PLAIN),
    KIND("int8", VX_L2SQ, VX_I8, VX_QUANT_NONE, PLAIN),
    KIND("bits", VX_JACCARD, VX_BITS, VX_QUANT_NONE, PLAIN),
    KIND("sq8", VX_L2SQ, VX_F32, VX_QUANT_SQ8, TRAINED),
    KIND("sq4", VX_COSINE, VX_F32, VX_QUANT_SQ4, TRAINED),
    KIND("auto", VX_L2SQ, VX_F32, VX_QUANT_AUTO, TRAINED),
    KIND("auto of float16", VX_L2SQ, VX_F16, VX_QUANT_AUTO, TRAINED),
#undef KIND
    { "auto of bytes",
      { .dim = DIM, .quantization = VX_QUANT_AUTO, .M = 5, .ef_construction = 12 }, TRAINED, 40 },
};
#define N_KINDS (sizeof kinds / sizeof kinds[0])

/* Everything that calls work on. */
struct life {
    const struct kind *kind;
    vx_index *index;
    vx_filter *filter;
    vx_label turn[TURN]; /* 0 .. TURN-1: replaced, deleted and added again */
    unsigned char rows[TURN * DIM * sizeof(float)];
    char path[64];
    uint64_t version;
};

static vx_error err;
static const vx_search_params walk = { K, 40, 0 }, exact = { K, 0, 1 };

static vx_dtype given(const struct kind *kind)
{
    return kind->params.dtype == VX_BITS ? VX_BITS : VX_F32;
}

static size_t row_bytes(const struct kind *kind)
{
    return vx_row_bytes(given(kind), kind->params.dim);
}

/* Rows around 60 places, whole numbers; `shift` puts them elsewhere. */
static void make_rows(const struct kind *kind, uint64_t of, size_t n, float shift, void *out)
{
    const size_t bytes = row_bytes(kind);
    for (size_t i = 0; i < n; i++) {
        const uint64_t row = vx_hash64(of + i), place = row % 60 * 1000;
        unsigned char *to = (unsigned char *)out + i * bytes;
        if (given(kind) == VX_BITS) {
            for (size_t j = 0; j < bytes; j++)
                to[j] = (unsigned char)(vx_hash64(place + j) ^ (vx_hash64(row + j) & 0x11));
            to[bytes - 1] &= (unsigned char)(0xFF00u >> BITS % 8);
            continue;
        }
        for (size_t j = 0; j < DIM; j++) {
            const float value = (float)(vx_hash64(place + j) % 80) - 40 +
                                (float)(vx_hash64(row + j) % 40) + kind->lift + shift;
            memcpy(to + j * sizeof value, &value, sizeof value);
        }
    }
}

/* Every invariant holds; and every row is reached, or is after a repair: a small add does not
 * prove that it is. */
static bool is_sound(vx_index *index)
{
    vx_check check = { 0 };
    if (vx_index_check(index, NULL, &check, &err) != VX_OK)
        return false;
    return check.n_unreachable == 0 || (vx_index_repair(index, NULL, &err) == VX_OK &&
                                        vx_index_check(index, NULL, &check, &err) == VX_OK &&
                                        check.n_unreachable == 0);
}

static vx_status put_turn(struct life *life)
{
    uint64_t added;
    make_rows(life->kind, 1000000 + TURN * life->version++, TURN, 0, life->rows);
    return vx_index_add_typed(life->index, given(life->kind), life->rows, TURN, life->turn,
                              VX_REPLACE, NULL, NULL, &added, &err);
}

/* ---- the calls ------------------------------------------------------------------------- */

static vx_status search_with(struct life *life, const vx_search_params *how)
{
    vx_label labels[QUERIES * K];
    float dists[QUERIES * K];
    const vx_status st = vx_index_search(life->index, life->rows, QUERIES, how, NULL, labels, dists,
                                         &err);
    for (size_t i = 0; st == VX_OK && i < QUERIES; i++)
        CHECK(labels[i * K] >= 0 && !isinf(dists[i * K]));
    return st;
}

static vx_status search(struct life *life) { return search_with(life, &walk); }
static vx_status compare(struct life *life) { return search_with(life, &exact); }

static vx_status choose(struct life *life)
{
    vx_label labels[QUERIES * K];
    float dists[QUERIES * K];
    const vx_where where = { &life->filter, 1, INFINITY };
    return vx_index_search_where(life->index, life->rows, QUERIES, &walk, &where, NULL, labels,
                                 dists, &err);
}

static vx_status range(struct life *life)
{
    vx_range *found = NULL;
    const vx_where where = { &life->filter, 1, 1e4 };
    const vx_status st = vx_index_range_search(life->index, life->rows, QUERIES, &walk, &where,
                                               NULL, &found, &err);
    CHECK((found != NULL) == (st == VX_OK));
    vx_range_free(found);
    return st;
}

static vx_status neighbours(struct life *life)
{
    vx_label labels[TURN * K];
    float dists[TURN * K];
    return vx_index_search_rows(life->index, life->turn, TURN, &walk, 0, VX_MISSING_ERROR, NULL,
                                labels, dists, &err);
}

static vx_status save(struct life *life)
{
    return vx_index_save(life->index, life->path, NULL, &err);
}

static vx_status load_as(struct life *life, vx_map_mode map)
{
    const vx_load_options options = { map, 0 };
    vx_index *loaded = NULL, *kept = life->index;
    vx_status st = vx_index_load(life->path, &options, NULL, &loaded, &err);
    CHECK((loaded != NULL) == (st == VX_OK));
    if (st == VX_OK) {
        CHECK(vx_index_count(loaded) == life->kind->n);
        life->index = loaded;
        st = search(life);
        life->index = kept;
    }
    vx_index_free(loaded);
    return st;
}

static vx_status load(struct life *life) { return load_as(life, VX_MAP_NOTHING); }
static vx_status map_all(struct life *life) { return load_as(life, VX_MAP_ALL); }

static vx_status delete_turn(struct life *life)
{
    uint64_t deleted = 0;
    const vx_status st = vx_index_delete(life->index, life->turn, TURN, VX_MISSING_ERROR, NULL,
                                         &deleted, &err);
    CHECK(deleted == (st == VX_OK ? TURN : 0));
    return st;
}

static vx_status compact(struct life *life) { return vx_index_compact(life->index, NULL, &err); }
static vx_status repair(struct life *life) { return vx_index_repair(life->index, NULL, &err); }

static vx_status merge(struct life *life)
{
    vx_index *into = NULL;
    uint64_t added;
    vx_status st = vx_index_new(&life->kind->params, &into, &err);
    if (st == VX_OK)
        st = vx_index_merge(into, life->index, VX_REPLACE, NULL, &added, &err);
    if (st == VX_OK)
        CHECK(vx_index_count(into) == life->kind->n);
    vx_index_free(into);
    return st;
}

static const struct call {
    const char *name;
    vx_status (*run)(struct life *);
    bool writes;
} calls[] = {
    { "search", search, false },    { "compare", compare, false }, { "choose", choose, false },
    { "range", range, false },      { "rows", neighbours, false }, { "save", save, false },
    { "load", load, false },        { "map", map_all, false },     { "add", put_turn, true },
    { "delete", delete_turn, true }, { "repair", repair, true },   { "compact", compact, true },
    { "merge", merge, false },
};

/* ---- the tests ------------------------------------------------------------------------- */

static void begin(struct life *life, const struct kind *kind)
{
    *life = (struct life){ .kind = kind, .path = "/tmp/vecidx-test-XXXXXX" };
    void *rows = malloc(kind->n * row_bytes(kind));
    uint64_t added;
    CHECK(vx_index_new(&kind->params, &life->index, &err) == VX_OK);
    make_rows(kind, 0, kind->n, 0, rows);
    CHECK(vx_index_add_typed(life->index, given(kind), rows, kind->n, NULL, VX_REPLACE, NULL, NULL,
                             &added, &err) == VX_OK);
    free(rows);
    vx_stats stats;
    CHECK(vx_index_stats(life->index, &stats, &err) == VX_OK);
    CHECK(stats.is_quantised == (kind->n == TRAINED));
    for (vx_label i = 0; i < TURN; i++)
        life->turn[i] = i;
    CHECK(vx_filter_of_range(0, (vx_label)kind->n, 3, &life->filter, &err) == VX_OK);
    const int fd = mkstemp(life->path);
    CHECK(fd >= 0 && close(fd) == 0);
    CHECK(put_turn(life) == VX_OK && save(life) == VX_OK);
}

static void end(struct life *life)
{
    (void)unlink(life->path);
    vx_filter_free(life->filter);
    vx_index_free(life->index);
}

/* How often the call failed. */
static unsigned starve(struct life *life, const struct call *call)
{
    unsigned n_failed = 0, n_fine = 0;
    for (uint64_t nth = 1; n_fine < 3 && nth < 1000; nth += STRIDE) {
        if (call->writes)
            CHECK(put_turn(life) == VX_OK);
        vx_test_fail_alloc(nth);
        const vx_status st = call->run(life);
        vx_test_fail_alloc(0);
        CHECK(st == VX_OK || st == VX_E_NOMEM);
        n_failed += st != VX_OK;
        n_fine = st == VX_OK ? n_fine + 1 : 0;
        if (call->writes && !is_sound(life->index)) {
            printf("%s, %s without allocation %d: %s\n", life->kind->name, call->name, (int)nth,
                   err.status == VX_OK ? "a row stays out of reach" : err.text);
            CHECK(false);
        }
    }
    if (n_fine != 3)
        printf("%s, %s: %u failures and no end\n", life->kind->name, call->name, n_failed);
    CHECK(n_fine == 3);
    return n_failed;
}

VX_TEST(any_allocation_of_any_call_may_fail)
{
    for (size_t k = 0; k < N_KINDS; k++) {
        struct life life;
        begin(&life, &kinds[k]);
        unsigned n_failed = 0;
        for (size_t c = 0; c < sizeof calls / sizeof calls[0]; c++)
            n_failed += starve(&life, &calls[c]);
        CHECK(n_failed > 40 / STRIDE);
        CHECK(put_turn(&life) == VX_OK && vx_index_count(life.index) == kinds[k].n);
        CHECK(is_sound(life.index) && search(&life) == VX_OK && load(&life) == VX_OK);
        end(&life);
    }
}

/* A new view that finds no room for its planes tries with less: so many go well in a row. */
enum { FINE = 12 };

/* A row that is not held as bytes, where the others are. */
VX_TEST(any_allocation_of_widening_may_fail)
{
    struct life life;
    unsigned n_failed = 0, n_fine = 0;
    begin(&life, &kinds[N_KINDS - 1]);
    make_rows(life.kind, 9000000, TURN, 0.5f, life.rows);
    for (uint64_t nth = 1; n_fine < FINE && nth < 1000; nth += STRIDE) {
        vx_index *held = NULL;
        vx_memory memory;
        uint64_t added = 0;
        vx_label found[TURN];
        float dists[TURN];
        const vx_search_params one = { 1, 0, 1 };
        CHECK(vx_index_load(life.path, NULL, NULL, &held, &err) == VX_OK);
        CHECK(vx_index_memory(held, &memory, &err) == VX_OK && memory.codes == 0);
        vx_test_fail_alloc(nth);
        const vx_status st = vx_index_add(held, (const float *)(const void *)life.rows, TURN, NULL,
                                          VX_ERROR, NULL, NULL, &added, &err);
        vx_test_fail_alloc(0);
        CHECK(st == VX_OK || st == VX_E_NOMEM);
        CHECK(vx_index_count(held) == TRAINED + added && (st != VX_OK || added == TURN));
        CHECK(is_sound(held));
        CHECK(vx_index_search(held, life.rows, added, &one, NULL, found, dists, &err) == VX_OK);
        for (uint64_t i = 0; i < added; i++)
            CHECK(dists[i] == 0);
        n_failed += st != VX_OK;
        n_fine = st == VX_OK ? n_fine + 1 : 0;
        vx_index_free(held);
    }
    CHECK(n_fine == FINE && n_failed > 10 / STRIDE);
    end(&life);
}

/* Rows that codes do not span, so that another codec is trained and put to work. */
VX_TEST(any_allocation_of_a_second_training_may_fail)
{
    enum { COME = 600 };
    for (size_t k = 0; k < N_KINDS; k++) {
        if (kinds[k].n != TRAINED)
            continue;
        struct life life;
        begin(&life, &kinds[k]);
        float *rows = malloc(COME * DIM * sizeof *rows);
        make_rows(&kinds[k], 5000000, COME, 700, rows);
        unsigned n_failed = 0, n_fine = 0, n_renewed = 0;
        for (uint64_t nth = 1; n_fine < FINE && nth < 1000; nth += nth < 40 ? STRIDE : 5) {
            vx_index *index = NULL;
            uint64_t added = 0;
            CHECK(vx_index_load(life.path, NULL, NULL, &index, &err) == VX_OK);
            const vx_codec *before = atomic_load(&index->graph.view)->codec;
            vx_test_fail_alloc(nth);
            const vx_status st = vx_index_add(index, rows, COME, NULL, VX_REPLACE, NULL, NULL,
                                              &added, &err);
            vx_test_fail_alloc(0);
            CHECK(st == VX_OK ? added == COME : st == VX_E_NOMEM && added < COME);
            CHECK(vx_index_count(index) == TRAINED + added && is_sound(index));
            n_renewed += atomic_load(&index->graph.view)->codec != before;
            n_failed += st != VX_OK;
            n_fine = st == VX_OK ? n_fine + 1 : 0;
            vx_index_free(index);
        }
        CHECK(n_fine == FINE && n_failed > 10 / STRIDE && n_renewed >= FINE);
        free(rows);
        end(&life);
    }
}
