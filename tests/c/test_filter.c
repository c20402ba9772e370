/* test_filter.c - filters: their algebra, the rows they choose, searches limited by them
 * beside a writer, and searches by distance. */
#include "vecidx.h"

#include "base/vx_rng.h"
#include "base/vx_sync.h"
#include "vx_test.h"

#include <math.h>
#include <stdlib.h>

#define DIM 8
#define N 3000u
#define K 10u

static vx_error err;

static void make_row(uint64_t of, float *row)
{
    for (size_t j = 0; j < DIM; j++)
        row[j] = (float)(vx_hash64(of * DIM + j) % 256);
}

static double distance(const float *a, const float *b)
{
    double sum = 0;
    for (size_t j = 0; j < DIM; j++)
        sum += ((double)a[j] - (double)b[j]) * ((double)a[j] - (double)b[j]);
    return sum;
}

/* N rows, the i-th under label i; every 50th equals the one before it. */
static vx_index *make_index(void)
{
    const vx_params params = {.dim = DIM, .metric = VX_L2SQ, .M = 8, .ef_construction = 60};
    static float rows[N * DIM];
    uint64_t added;
    vx_index *index = NULL;
    for (size_t i = 0; i < N; i++)
        make_row(i % 50 == 49 ? i - 1 : i, rows + i * DIM);
    CHECK(vx_index_new(&params, &index, &err) == VX_OK);
    CHECK(vx_index_add(index, rows, N, NULL, VX_REPLACE, NULL, NULL, &added, &err) == VX_OK);
    return index;
}

/* ---- the algebra ---------------------------------------------------------------- */

#define SPAN 4096u /* labels that the models below know of */

/* A filter and, beside it, what it should be. */
struct model {
    vx_filter *filter;
    bool has[SPAN];
};

static uint64_t dice(uint64_t *state, uint64_t n)
{
    *state = vx_hash64(*state + 1);
    return *state % n;
}

static void make_leaf(struct model *m, uint64_t *state)
{
    static vx_label labels[SPAN + 1];
    static uint8_t bits[SPAN / 8];
    size_t n = 0;
    memset(m->has, 0, sizeof m->has);
    memset(bits, 0, sizeof bits);
    const uint64_t share = 1 + dice(state, dice(state, 2) == 0 ? 4 : 300);
    switch (dice(state, 4)) {
    case 0: /* bits */
    case 1: /* with one label far away: a table */
        for (size_t i = 0; i < SPAN; i++)
            if (dice(state, share) == 0) {
                m->has[i] = true;
                labels[n++] = (vx_label)i;
            }
        labels[n++] = dice(state, 2) == 0 ? (vx_label)1 << 60 : -1;
        CHECK(vx_filter_of_labels(labels, n, &m->filter, &err) == VX_OK);
        break;
    case 2: {
        const size_t n_bits = dice(state, SPAN);
        for (size_t i = 0; i < SPAN; i++)
            if (dice(state, share) == 0) {
                bits[i / 8] = (uint8_t)(bits[i / 8] | 1u << i % 8);
                m->has[i] = i < n_bits;
            }
        CHECK(vx_filter_of_bits(bits, n_bits, &m->filter, &err) == VX_OK);
        break;
    }
    default: {
        const vx_label begin = (vx_label)dice(state, SPAN), end = (vx_label)dice(state, SPAN);
        const vx_label step = 1 + (vx_label)dice(state, 5);
        for (vx_label i = begin; i < end; i += step)
            m->has[i] = true;
        CHECK(vx_filter_of_range(begin, end, step, &m->filter, &err) == VX_OK);
    }
    }
}

static void make_model(struct model *m, uint64_t *state, unsigned depth)
{
    if (depth == 0) {
        make_leaf(m, state);
        return;
    }
    struct model *a = malloc(sizeof *a), *b = malloc(sizeof *b);
    make_model(a, state, depth - 1);
    make_model(b, state, (unsigned)dice(state, depth));
    switch (dice(state, 3)) {
    case 0:
        CHECK(vx_filter_not(a->filter, &m->filter, &err) == VX_OK);
        for (size_t i = 0; i < SPAN; i++)
            m->has[i] = !a->has[i];
        break;
    case 1:
        CHECK(vx_filter_and(a->filter, b->filter, &m->filter, &err) == VX_OK);
        for (size_t i = 0; i < SPAN; i++)
            m->has[i] = a->has[i] && b->has[i];
        break;
    default:
        CHECK(vx_filter_or(a->filter, b->filter, &m->filter, &err) == VX_OK);
        for (size_t i = 0; i < SPAN; i++)
            m->has[i] = a->has[i] || b->has[i];
    }
    vx_filter_free(a->filter); /* the combined one holds on to it */
    vx_filter_free(b->filter);
    free(a);
    free(b);
}

VX_TEST(a_filter_has_the_labels_that_its_parts_say)
{
    static struct model m;
    static vx_label labels[SPAN];
    static uint8_t found[SPAN];
    uint64_t state = 1;
    for (size_t i = 0; i < SPAN; i++)
        labels[i] = (vx_label)i;
    for (int round = 0; round < 200; round++) {
        make_model(&m, &state, (unsigned)dice(&state, 4));
        vx_filter_test(m.filter, labels, SPAN, found);
        size_t n_wrong = 0;
        for (size_t i = 0; i < SPAN; i++)
            n_wrong += (found[i] != 0) != m.has[i];
        CHECK(n_wrong == 0);
        vx_filter_free(m.filter);
    }
}

/* What an exact search under the filter returns is what the model has and the index holds. */
static void check_chosen(vx_index *index, const struct model *m, const bool *is_gone)
{
    static vx_label got[N + 1];
    static float dists[N + 1];
    const vx_search_params params = {.k = N + 1, .exact = 1};
    vx_filter *filter = m->filter;
    const vx_where where = {&filter, 1, INFINITY};
    float query[DIM];
    make_row(77777, query);
    CHECK(vx_index_search_where(index, query, 1, &params, &where, NULL, got, dists, &err) ==
          VX_OK);
    size_t n = 0, n_wanted = 0;
    for (size_t i = 0; i < N; i++)
        n_wanted += m->has[i] && !is_gone[i];
    for (; n < N + 1 && got[n] != VX_NO_LABEL; n++)
        CHECK(m->has[got[n]] && !is_gone[got[n]]);
    CHECK(n == n_wanted);
}

VX_TEST(it_chooses_the_rows_that_are_there)
{
    static struct model m;
    static bool is_gone[N];
    uint64_t state = 7;
    vx_index *index = make_index();
    memset(is_gone, 0, sizeof is_gone);
    for (int round = 0; round < 40; round++) {
        make_model(&m, &state, (unsigned)dice(&state, 3));
        check_chosen(index, &m, is_gone);
        check_chosen(index, &m, is_gone); /* as remembered */
        /* Delete some, put others back into their places: the filter remembers too much. */
        for (int i = 0; i < 60; i++) {
            const size_t row = dice(&state, N);
            const vx_label label = (vx_label)row;
            uint64_t done;
            if (is_gone[row]) {
                float vector[DIM];
                make_row(row, vector);
                CHECK(vx_index_add(index, vector, 1, &label, VX_REPLACE, NULL, NULL, &done,
                                   &err) == VX_OK);
            } else {
                CHECK(vx_index_delete(index, &label, 1, VX_MISSING_ERROR, NULL, &done, &err) ==
                      VX_OK);
            }
            is_gone[row] = !is_gone[row];
        }
        if (round == 20)
            CHECK(vx_index_compact(index, NULL, &err) == VX_OK);
        check_chosen(index, &m, is_gone);
        vx_filter_free(m.filter);
    }
    vx_index_free(index);
}

VX_TEST(it_chooses_rows_by_their_label)
{
    static struct model m;
    uint64_t state = 3;
    static bool none[N];
    vx_index *index = make_index();
    /* Labels that are not the numbers of slots any more. */
    uint64_t done;
    const vx_label first = 0;
    float vector[DIM];
    make_row(0, vector);
    CHECK(vx_index_delete(index, &first, 1, VX_MISSING_ERROR, NULL, &done, &err) == VX_OK);
    CHECK(vx_index_compact(index, NULL, &err) == VX_OK);
    CHECK(vx_index_add(index, vector, 1, &first, VX_REPLACE, NULL, NULL, &done, &err) == VX_OK);
    for (int round = 0; round < 60; round++) {
        make_model(&m, &state, (unsigned)dice(&state, 3));
        check_chosen(index, &m, none);
        vx_filter_free(m.filter);
    }
    vx_index_free(index);
}

VX_TEST(a_chain_too_long_is_refused)
{
    vx_filter *filter = NULL, *next = NULL;
    CHECK(vx_filter_of_range(0, 5, 1, &filter, &err) == VX_OK);
    vx_status st = VX_OK;
    unsigned n = 0;
    for (; n < 2 * VX_FILTER_DEPTH; n++) {
        st = vx_filter_not(filter, &next, &err);
        if (st != VX_OK)
            break;
        vx_filter_free(filter);
        filter = next;
    }
    CHECK(st == VX_E_ARG && n == VX_FILTER_DEPTH);
    const vx_label labels[2] = {3, 7};
    uint8_t found[2];
    vx_filter_test(filter, labels, 2, found);
    CHECK(found[0] == 1 && found[1] == 0);
    vx_filter_free(filter);
    CHECK(vx_filter_of_range(0, 5, 0, &filter, &err) == VX_E_ARG);
}

/* ---- searching ---------------------------------------------------------------------- */

/* The i-th nearest allowed distance, by comparing all. */
static int by_size(const void *a, const void *b)
{
    const double one = *(const double *)a, other = *(const double *)b;
    return (one > other) - (one < other);
}

static size_t true_distances(const float *query, vx_label begin, vx_label end, vx_label step,
                             double *out)
{
    size_t n = 0;
    for (vx_label i = begin; i < end && i < (vx_label)N; i += step) {
        float row[DIM];
        make_row(i % 50 == 49 ? (uint64_t)i - 1 : (uint64_t)i, row);
        out[n++] = distance(query, row);
    }
    qsort(out, n, sizeof *out, by_size);
    return n;
}

VX_TEST(every_share_finds_what_there_is)
{
    static double truth[N];
    vx_index *index = make_index();
    for (vx_label step = 1; step < 4000; step *= 3) {
        vx_filter *filter;
        size_t n_right = 0, n_wanted = 0;
        CHECK(vx_filter_of_range(step / 2, N, step, &filter, &err) == VX_OK);
        const vx_where where = {&filter, 1, INFINITY};
        for (uint64_t q = 0; q < 40; q++) {
            /* Small shares by comparing; the others by a walk, where ef is small. */
            const vx_search_params params = {.k = K, .ef = q % 2 == 0 ? 80 : 20};
            vx_label labels[K];
            float dists[K], query[DIM];
            make_row(90000 + q, query);
            const size_t n = true_distances(query, step / 2, N, step, truth);
            CHECK(vx_index_search_where(index, query, 1, &params, &where, NULL, labels, dists,
                                        &err) == VX_OK);
            const size_t k = n < K ? n : K;
            for (size_t i = 0; i < K; i++) {
                CHECK((labels[i] != VX_NO_LABEL) == (i < k));
                if (i >= k)
                    continue;
                CHECK(labels[i] % step == step / 2);
                n_right += (double)dists[i] <= truth[k - 1] * 1.000001;
            }
            n_wanted += k;
        }
        CHECK((double)n_right >= 0.97 * (double)n_wanted);
        vx_filter_free(filter);
    }
    vx_index_free(index);
}

/* (Indexes of this file are too small for codes; test_filters.py has larger ones.) */

VX_TEST(a_row_is_found_whose_equal_is_not_allowed)
{
    vx_index *index = make_index();
    vx_filter *filter;
    /* All but 48, 98, ...: the nodes that 49, 99, ... hang off. */
    CHECK(vx_filter_of_range(48, N, 50, &filter, &err) == VX_OK);
    vx_filter *others;
    CHECK(vx_filter_not(filter, &others, &err) == VX_OK);
    const vx_where where = {&others, 1, INFINITY};
    const vx_search_params params = {.k = 1, .ef = 40};
    for (vx_label label = 49; label < (vx_label)N; label += 50) {
        float query[DIM], dist;
        vx_label found;
        make_row((uint64_t)label - 1, query);
        CHECK(vx_index_search_where(index, query, 1, &params, &where, NULL, &found, &dist, &err) ==
              VX_OK);
        CHECK(found == label && dist == 0);
    }
    vx_filter_free(filter);
    vx_filter_free(others);
    vx_index_free(index);
}

VX_TEST(each_query_has_its_own_filter)
{
    enum { Q = 60 };
    vx_index *index = make_index();
    static float queries[Q * DIM], dists[Q * K];
    static vx_label labels[Q * K];
    vx_filter *filters[Q];
    for (size_t q = 0; q < Q; q++) {
        make_row(80000 + q, queries + q * DIM);
        filters[q] = NULL;
        if (q % 7 != 0)
            CHECK(vx_filter_of_range((vx_label)q * 10, (vx_label)(q * 10 + q), 1, &filters[q],
                                     &err) == VX_OK);
    }
    vx_where where = {filters, Q, INFINITY};
    for (int exact = 0; exact < 2; exact++) {
        const vx_search_params params = {.k = K, .exact = exact};
        CHECK(vx_index_search_where(index, queries, Q, &params, &where, NULL, labels, dists,
                                    &err) == VX_OK);
        for (size_t q = 0; q < Q; q++)
            for (size_t i = 0; i < K; i++) {
                const vx_label label = labels[q * K + i];
                if (filters[q] == NULL)
                    CHECK(label != VX_NO_LABEL);
                else
                    CHECK(i < q ? label >= (vx_label)q * 10 && label < (vx_label)(q * 10 + q)
                                : label == VX_NO_LABEL);
            }
    }
    where.n_filters = 3;
    const vx_search_params params = {.k = K};
    CHECK(vx_index_search_where(index, queries, Q, &params, &where, NULL, labels, dists, &err) ==
          VX_E_ARG);
    where.n_filters = 0;
    where.max_distance = NAN;
    CHECK(vx_index_search_where(index, queries, Q, &params, &where, NULL, labels, dists, &err) ==
          VX_E_ARG);
    for (size_t q = 0; q < Q; q++)
        vx_filter_free(filters[q]);
    vx_index_free(index);
}

/* ---- by distance ---------------------------------------------------------------------- */

static void check_range(vx_index *index, vx_filter *filter, vx_label step, double radius,
                        int exact)
{
    enum { Q = 20 };
    static double truth[N];
    static float queries[Q * DIM];
    int64_t lims[Q + 1];
    vx_range *range = NULL;
    size_t n_wanted = 0;
    for (size_t q = 0; q < Q; q++)
        make_row(60000 + q, queries + q * DIM);
    const vx_where where = {&filter, filter != NULL, radius};
    const vx_search_params params = {.exact = exact};
    CHECK(vx_index_range_search(index, queries, Q, &params, &where, NULL, &range, &err) == VX_OK);
    vx_range_lims(range, lims);
    vx_label *labels = malloc(((size_t)lims[Q] + 1) * sizeof *labels);
    float *dists = malloc(((size_t)lims[Q] + 1) * sizeof *dists);
    vx_range_take(range, labels, dists);
    for (size_t q = 0; q < Q; q++) {
        const size_t n = true_distances(queries + q * DIM, step / 2, N, step, truth);
        size_t n_within = 0;
        while (n_within < n && truth[n_within] <= radius)
            n_within++;
        n_wanted += n_within;
        if (exact)
            CHECK((size_t)(lims[q + 1] - lims[q]) == n_within);
        for (int64_t i = lims[q]; i < lims[q + 1]; i++) {
            CHECK((double)dists[i] <= radius && labels[i] % step == step / 2);
            if (i > lims[q])
                CHECK(dists[i] > dists[i - 1] ||
                      (dists[i] == dists[i - 1] && labels[i] > labels[i - 1]));
        }
    }
    CHECK((double)lims[Q] >= 0.98 * (double)n_wanted && (size_t)lims[Q] <= n_wanted);
    free(labels);
    free(dists);
    vx_range_free(range);
}

VX_TEST(a_range_has_what_lies_within)
{
    vx_index *index = make_index();
    vx_filter *filter;
    CHECK(vx_filter_of_range(1, N, 3, &filter, &err) == VX_OK);
    for (int exact = 0; exact < 2; exact++)
        for (double radius = -1; radius < 1000000; radius = radius < 1 ? radius + 1 : radius * 6) {
            check_range(index, NULL, 1, radius, exact);
            check_range(index, filter, 3, radius, exact);
        }
    vx_filter_free(filter);
    vx_index_free(index);
}

/* ---- trouble --------------------------------------------------------------------------- */

VX_TEST(without_memory_it_says_so)
{
    enum { Q = 3 };
    vx_index *index = make_index();
    float queries[Q * DIM], dists[Q * K];
    vx_label labels[Q * K];
    static vx_label some[200];
    for (size_t q = 0; q < Q; q++)
        make_row(q, queries + q * DIM);
    for (size_t i = 0; i < 200; i++)
        some[i] = (vx_label)(i * i * i) << 8;
    const vx_search_params params = {.k = K};
    const vx_run run = {.num_threads = 1};
    unsigned n_failed = 0, n_fine = 0;
    for (uint64_t nth = 1; n_fine < 3 && nth < 200; nth++) {
        vx_filter *one = NULL, *other = NULL, *both = NULL;
        vx_range *range = NULL;
        vx_test_fail_alloc(nth);
        vx_status st = vx_filter_of_labels(some, 200, &one, &err);
        if (st == VX_OK)
            st = vx_filter_of_range(0, 2000, 2, &other, &err);
        if (st == VX_OK)
            st = vx_filter_or(one, other, &both, &err);
        const vx_where where = {&both, 1, 1000000};
        if (st == VX_OK)
            st = vx_index_search_where(index, queries, Q, &params, &where, &run, labels, dists,
                                       &err);
        if (st == VX_OK)
            st = vx_index_range_search(index, queries, Q, &params, &where, &run, &range, &err);
        vx_test_fail_alloc(0);
        CHECK(st == VX_OK || st == VX_E_NOMEM);
        n_failed += st == VX_E_NOMEM;
        n_fine = st == VX_OK ? n_fine + 1 : 0;
        vx_range_free(range);
        vx_filter_free(one);
        vx_filter_free(other);
        vx_filter_free(both);
    }
    CHECK(n_failed > 10 && n_fine == 3);
    vx_index_free(index);
}

/* Searches under a filter beside a writer that replaces, deletes and adds: what comes back
 * is allowed, and rows that no one touches are always found by comparing. */
static struct {
    vx_index *index;
    vx_filter *filter;
    _Atomic int is_over, n_ended;
} busy;

static VX_THREAD_MAIN(write_rows, arg)
{
    uint64_t state = 5, done;
    vx_error mine;
    for (int round = 0; round < 150; round++) {
        vx_label labels[8];
        float rows[8 * DIM];
        const vx_label first = 1000 + (vx_label)dice(&state, 1900);
        for (int i = 0; i < 8; i++) {
            labels[i] = first + i;
            make_row(dice(&state, 100000), rows + i * DIM);
        }
        CHECK(vx_index_add(busy.index, rows, 8, labels, VX_REPLACE, NULL, NULL, &done, &mine) ==
              VX_OK);
        if (round % 3 == 0)
            CHECK(vx_index_delete(busy.index, labels, 4, VX_MISSING_IGNORE, NULL, &done, &mine) ==
                  VX_OK);
        if (round % 50 == 49)
            CHECK(vx_index_compact(busy.index, NULL, &mine) == VX_OK);
    }
    (void)arg;
    atomic_store(&busy.is_over, 1);
    atomic_fetch_add(&busy.n_ended, 1);
    return VX_THREAD_END;
}

static VX_THREAD_MAIN(search_rows, arg)
{
    const uint64_t me = (uint64_t)(size_t)arg;
    vx_error mine;
    for (uint64_t round = 0; atomic_load(&busy.is_over) == 0 || round < 20; round++) {
        const vx_where where = {&busy.filter, 1, INFINITY};
        const vx_search_params params = {.k = K, .ef = 12, .exact = round % 2 == 0};
        /* Even labels are allowed; below 1,000 they stay. */
        const vx_label wanted = (vx_label)(vx_hash64(round * 3 + me) % 500 * 2);
        vx_label labels[K];
        float query[DIM], dists[K];
        make_row((uint64_t)wanted, query);
        CHECK(vx_index_search_where(busy.index, query, 1, &params, &where, NULL, labels, dists,
                                    &mine) == VX_OK);
        CHECK(dists[0] == 0 || !params.exact);
        for (size_t i = 0; i < K; i++)
            CHECK(labels[i] != VX_NO_LABEL && labels[i] % 2 == 0 && dists[i] < INFINITY);
    }
    atomic_fetch_add(&busy.n_ended, 1);
    return VX_THREAD_END;
}

VX_TEST(a_filter_is_used_while_rows_come_and_go)
{
    busy.index = make_index();
    CHECK(vx_filter_of_range(0, (vx_label)1 << 40, 2, &busy.filter, &err) == VX_OK);
    CHECK(vx_thread_start(write_rows, NULL));
    CHECK(vx_thread_start(search_rows, (void *)1));
    CHECK(vx_thread_start(search_rows, (void *)2));
    while (atomic_load(&busy.n_ended) < 3)
        vx_sleep_ms(1);
    vx_filter_free(busy.filter);
    vx_index_free(busy.index);
}
