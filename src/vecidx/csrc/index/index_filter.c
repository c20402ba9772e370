/* index_filter.c - filters: sets of labels, and the rows that have them.
 *
 * A filter is a range, a bitmap, a hash table, or a combination of two filters or one.  It
 * is asked 64 rows at a time and answers by a word, so a combination is a few operations on
 * words, and no row pays for more than the leaves it is looked up in.
 *
 * Which rows that makes is a bitmap over slots, computed when a search begins and kept with
 * the filter: while nothing was written (vx_writer.n_turns), the next search takes it as it
 * is.  A search goes by the snapshot that the bitmap was made under. */
#include "index_filter.h"

#include <string.h>

#include "../base/vx_alloc.h"
#include "../base/vx_rng.h"
#include "../base/vx_status.h"

enum kind {
    RANGE = VX_FILTER_RANGE,
    BITS = VX_FILTER_BITS,
    TABLE = VX_FILTER_TABLE,
    NOT = VX_FILTER_NOT,
    AND = VX_FILTER_AND,
    OR = VX_FILTER_OR
};

struct vx_filter {
    enum kind kind;
    uint32_t depth; /* of filters below it                                       */
    _Atomic uint32_t n_refs;
    vx_label begin, end, step; /* RANGE; BITS: from begin, a multiple of 64, to end */
    uint64_t *words;           /* BITS                                           */
    vx_label *table;           /* TABLE: open addressing, -1 an empty place      */
    uint64_t mask, n_labels;
    vx_filter *a, *b;
    vx_mutex lock;             /* of `last`; only ever tried, so a fork in between is no harm */
    vx_chosen *last;
};

/* ---- life ---------------------------------------------------------------------- */

static vx_filter *new_filter(enum kind kind, vx_filter *a, vx_filter *b)
{
    vx_filter *filter = vx_zalloc(1, sizeof *filter);
    if (filter == NULL)
        return NULL;
    filter->kind = kind;
    atomic_init(&filter->n_refs, 1);
    vx_mutex_init(&filter->lock);
    filter->a = a;
    filter->b = b;
    if (a != NULL)
        atomic_fetch_add(&a->n_refs, 1);
    if (b != NULL)
        atomic_fetch_add(&b->n_refs, 1);
    return filter;
}

void vx_filter_free(vx_filter *filter)
{
    if (filter == NULL || atomic_fetch_sub(&filter->n_refs, 1) > 1)
        return;
    vx_filter_free(filter->a); /* no deeper than VX_FILTER_DEPTH */
    vx_filter_free(filter->b);
    vx_chosen_release(filter->last);
    vx_mutex_fini(&filter->lock);
    vx_free(filter->words);
    vx_free(filter->table);
    vx_free(filter);
}

static vx_status give(vx_filter *filter, vx_filter **out, vx_error *err)
{
    if (filter == NULL)
        return vx_fail_nomem(err, "a filter");
    *out = filter;
    return vx_ok(err);
}

vx_status vx_filter_of_range(vx_label begin, vx_label end, vx_label step, vx_filter **out,
                             vx_error *err)
{
    if (step < 1)
        return vx_fail(err, VX_E_ARG, "filter: expected a range with a step of 1 or more, got %lld",
                       (long long)step);
    vx_filter *filter = new_filter(RANGE, NULL, NULL);
    if (filter != NULL) {
        filter->begin = begin;
        filter->end = end;
        filter->step = step;
    }
    return give(filter, out, err);
}

/* Bits for labels begin .. end-1, all 0; NULL: no memory. */
static vx_filter *new_bits(vx_label begin, vx_label end)
{
    vx_filter *filter = new_filter(BITS, NULL, NULL);
    if (filter == NULL)
        return NULL;
    filter->begin = begin & ~(vx_label)63;
    filter->end = end;
    filter->words = vx_zalloc((uint64_t)(end - filter->begin) / 64 + 1, sizeof *filter->words);
    if (filter->words != NULL)
        return filter;
    vx_filter_free(filter);
    return NULL;
}

vx_status vx_filter_of_bits(const uint8_t *bits, uint64_t n, vx_filter **out, vx_error *err)
{
    if (n > (uint64_t)INT64_MAX)
        return vx_fail(err, VX_E_ARG, "filter: more labels than there are");
    vx_filter *filter = new_bits(0, (vx_label)n);
    for (uint64_t i = 0; filter != NULL && i < n / 8; i++)
        filter->words[i / 8] |= (uint64_t)bits[i] << i % 8 * 8;
    if (filter != NULL && n % 8 != 0) { /* of the last byte, no more than asked for */
        const uint64_t last = bits[n / 8] & ((1u << n % 8) - 1);
        filter->words[n / 64] |= last << n / 8 % 8 * 8;
    }
    return give(filter, out, err);
}

static uint64_t place_of(const vx_filter *filter, vx_label label)
{
    uint64_t at = vx_hash64((uint64_t)label) & filter->mask;
    while (filter->table[at] != label && filter->table[at] != VX_NO_LABEL)
        at = (at + 1) & filter->mask;
    return at;
}

static vx_filter *new_table(const vx_label *labels, size_t n)
{
    vx_filter *filter = new_filter(TABLE, NULL, NULL);
    uint64_t places = 16;
    while (places < 2 * (uint64_t)n)
        places *= 2;
    if (filter == NULL)
        return NULL;
    filter->mask = places - 1;
    filter->table = vx_alloc(places, sizeof *filter->table);
    if (filter->table == NULL) {
        vx_filter_free(filter);
        return NULL;
    }
    for (uint64_t i = 0; i < places; i++)
        filter->table[i] = VX_NO_LABEL;
    for (size_t i = 0; i < n; i++)
        if (labels[i] >= 0) {
            vx_label *at = &filter->table[place_of(filter, labels[i])];
            filter->n_labels += *at == VX_NO_LABEL;
            *at = labels[i];
        }
    return filter;
}

#define SMALL_SPAN ((uint64_t)1 << 20) /* labels; their bits are 128 KiB, filled in 10 us */

vx_status vx_filter_of_labels(const vx_label *labels, size_t n, vx_filter **out, vx_error *err)
{
    vx_label low = INT64_MAX, high = -1;
    for (size_t i = 0; i < n; i++) {
        if (labels[i] >= 0 && labels[i] < low)
            low = labels[i];
        if (labels[i] > high)
            high = labels[i];
    }
    if (high < 0)
        return vx_filter_of_range(0, 0, 1, out, err);
    const uint64_t span = (uint64_t)(high - low);
    if ((span >= SMALL_SPAN && span / 64 >= n) || high == INT64_MAX)
        return give(new_table(labels, n), out, err);
    vx_filter *filter = new_bits(low, high + 1);
    for (size_t i = 0; filter != NULL && i < n; i++)
        if (labels[i] >= 0) {
            const uint64_t at = (uint64_t)(labels[i] - filter->begin);
            filter->words[at >> 6] |= (uint64_t)1 << (at & 63);
        }
    return give(filter, out, err);
}

static vx_status combine(enum kind kind, vx_filter *a, vx_filter *b, vx_filter **out, vx_error *err)
{
    const uint32_t depth = 1 + (b != NULL && b->depth > a->depth ? b->depth : a->depth);
    if (depth > VX_FILTER_DEPTH)
        return vx_fail(err, VX_E_ARG,
                       "filter: combined more than %u times, one on the other; combine masks or "
                       "arrays of ids before making filters of them", VX_FILTER_DEPTH);
    vx_filter *filter = new_filter(kind, a, b);
    if (filter != NULL)
        filter->depth = depth;
    return give(filter, out, err);
}

vx_status vx_filter_not(vx_filter *a, vx_filter **out, vx_error *err)
{
    return combine(NOT, a, NULL, out, err);
}

vx_status vx_filter_and(vx_filter *a, vx_filter *b, vx_filter **out, vx_error *err)
{
    return combine(AND, a, b, out, err);
}

vx_status vx_filter_or(vx_filter *a, vx_filter *b, vx_filter **out, vx_error *err)
{
    return combine(OR, a, b, out, err);
}

void vx_filter_look(const vx_filter *filter, vx_filter_parts *out)
{
    memset(out, 0, sizeof *out);
    out->kind = (int)filter->kind;
    out->begin = filter->begin;
    out->end = filter->end;
    out->step = filter->step;
    out->words = filter->words;
    out->table = filter->table;
    if (filter->kind == BITS)
        out->n = (size_t)((uint64_t)(filter->end - filter->begin) / 64 + 1);
    else if (filter->kind == TABLE)
        out->n = (size_t)filter->mask + 1;
    out->a = filter->a;
    out->b = filter->b;
}

/* ---- asking, 64 labels at a time --------------------------------------------------- */

static bool has_label(const vx_filter *f, vx_label label)
{
    if (f->kind == TABLE)
        return label >= 0 && f->table[place_of(f, label)] == label;
    if (label < f->begin || label >= f->end)
        return false;
    if (f->kind == BITS)
        return (f->words[(label - f->begin) >> 6] >> ((label - f->begin) & 63)) & 1;
    return f->step == 1 || ((uint64_t)label - (uint64_t)f->begin) % (uint64_t)f->step == 0;
}

/* The answers for `labels`, or where that is NULL for first .. first + 63, first being a
 * multiple of 64. */
static uint64_t ask(const vx_filter *f, const vx_label *labels, vx_label first)
{
    uint64_t word = 0;
    switch (f->kind) {
    case NOT: return ~ask(f->a, labels, first);
    case AND: {
        const uint64_t one = ask(f->a, labels, first);
        return one == 0 ? 0 : one & ask(f->b, labels, first);
    }
    case OR: {
        const uint64_t one = ask(f->a, labels, first);
        return one == UINT64_MAX ? one : one | ask(f->b, labels, first);
    }
    case BITS:
        if (labels != NULL)
            break;
        /* Bits from `end` on are 0. */
        return first < f->begin || first >= f->end ? 0 : f->words[(first - f->begin) >> 6];
    case RANGE:
        if (labels != NULL)
            break;
        if (first + 63 < f->begin || first >= f->end)
            return 0;
        if (f->step == 1 && first >= f->begin && first + 64 <= f->end)
            return UINT64_MAX;
        break;
    case TABLE: break;
    }
    for (int i = 0; i < 64; i++)
        word |= (uint64_t)has_label(f, labels != NULL ? labels[i] : first + i) << i;
    return word;
}

void vx_filter_test(const vx_filter *filter, const vx_label *labels, size_t n, uint8_t *out)
{
    vx_label part[64];
    for (size_t i = 0; i < n; i += 64) {
        const size_t n_part = n - i < 64 ? n - i : 64;
        memset(part, 0, sizeof part);
        memcpy(part, labels + i, n_part * sizeof *part);
        const uint64_t word = ask(filter, part, 0);
        for (size_t j = 0; j < n_part; j++)
            out[i + j] = (word >> j) & 1;
    }
}

/* ---- choosing rows ------------------------------------------------------------------ */

#define HALT_ROWS ((uint32_t)1 << 16) /* between two questions; a multiple of 64         */
#define LIST_SHARE 32u  /* up to one row in so many, a list is no longer than the bits   */

/* Which of slots first .. first + 63 the snapshot sees. */
static uint64_t seen_word(const vx_view *view, const vx_snapshot *now, vx_slot first)
{
    const uint32_t n = now->n - first < 64 ? now->n - first : 64;
    uint64_t word = n == 64 ? UINT64_MAX : ((uint64_t)1 << n) - 1;
    for (uint32_t i = 0; now->any_dead && i < n; i++)
        if (!vx_view_sees(view, now, first + i))
            word &= ~((uint64_t)1 << i);
    return word;
}

/* Is every label in the view the number of its slot?  Else they have to be looked up. */
static bool labels_are_slots(vx_index *index, const vx_view *view)
{
    vx_rwlock_rdlock(&index->labels.lock);
    const bool are = atomic_load(&index->graph.view) == view &&
                     vx_labels_are_slots(&index->labels);
    vx_rwlock_rdunlock(&index->labels.lock);
    return are;
}

/* The bits of rows; labels of rows that are not seen are not read. */
static bool ask_all(const vx_filter *filter, vx_index *index, const vx_view *view,
                    const vx_snapshot *now, const vx_halt *halt, uint64_t *rows)
{
    const bool are_slots = labels_are_slots(index, view);
    vx_label labels[64] = {0};
    for (uint32_t first = 0; first < now->n; first += 64) {
        if (first % HALT_ROWS == 0 && first > 0 && vx_halt_asked(halt))
            return false;
        const uint64_t seen = seen_word(view, now, first);
        if (!are_slots)
            for (uint64_t left = seen; left != 0; left &= left - 1) {
                const unsigned i = vx_lowest_bit_64(left);
                labels[i] = view->labels[first + i];
            }
        rows[first / 64] = seen == 0 ? 0 : seen & ask(filter, are_slots ? NULL : labels, first);
    }
    return true;
}

/* The same for few labels, by looking each up: false where that is not to be relied on. */
static bool look_up(const vx_filter *filter, vx_index *index, vx_view *view,
                    const vx_snapshot *now, uint64_t turn, uint64_t *rows)
{
    if (filter->kind != TABLE || filter->n_labels >= now->n / 64 || turn % 2 != 0 ||
        atomic_load(&index->labels.is_pending))
        return false;
    bool is_fine = true;
    vx_rwlock_rdlock(&index->labels.lock);
    /* The map tells of now: a writer may be ahead of the snapshot. */
    if (atomic_load(&index->graph.view) != view || atomic_load(&index->writer.n_turns) != turn)
        is_fine = false;
    for (uint64_t i = 0; is_fine && i <= filter->mask; i++) {
        if (filter->table[i] == VX_NO_LABEL)
            continue;
        const vx_slot slot = vx_labels_find(&index->labels, view, filter->table[i]);
        if (slot < now->n && vx_view_sees(view, now, slot))
            rows[slot >> 6] |= (uint64_t)1 << (slot & 63);
    }
    vx_rwlock_rdunlock(&index->labels.lock);
    return is_fine;
}

/* The nodes that stand for a row by a twin are marked too. */
static void mark_nodes(const vx_view *view, const vx_allowed *allowed, uint64_t *nodes)
{
    const uint32_t n = allowed->now.n;
    memcpy(nodes, allowed->rows, ((size_t)n / 64 + 1) * sizeof *nodes);
    for (vx_slot node = 0; node < n; node++) {
        vx_slot slot = vx_view_next_twin(view, node);
        if (slot >= n || vx_has_bit(nodes, node) || vx_view_is_twin(view, node))
            continue;
        for (uint32_t steps = 0; slot < n && steps < n; steps++) {
            if (vx_has_bit(allowed->rows, slot)) {
                nodes[node >> 6] |= (uint64_t)1 << (node & 63);
                break;
            }
            slot = vx_view_next_twin(view, slot);
        }
    }
}

/* Of n rows cut into n_seeds stretches, the number of one somewhere in the i-th. */
static uint32_t seed_at(uint32_t i, uint32_t n_seeds, uint32_t n)
{
    const uint64_t from = (uint64_t)i * n / n_seeds, to = ((uint64_t)i + 1) * n / n_seeds;
    return (uint32_t)(from + vx_hash64(i) % (to - from));
}

static void pick_seeds(vx_allowed *allowed)
{
    const uint32_t n = allowed->n_rows, n_seeds = n < VX_MAX_SEEDS ? n : VX_MAX_SEEDS;
    uint32_t n_met = 0, i = 0;
    for (uint32_t w = 0; i < n_seeds; w++) {
        const uint32_t count = vx_count_bits(allowed->rows[w]);
        for (uint32_t at; i < n_seeds && (at = seed_at(i, n_seeds, n)) < n_met + count; i++) {
            uint64_t word = allowed->rows[w];
            for (at -= n_met; at > 0; at--)
                word &= word - 1;
            allowed->seeds[i] = 64 * w + vx_lowest_bit_64(word);
        }
        n_met += count;
    }
    allowed->n_seeds = n_seeds;
}

/* Bits, twice where there are twins, and the list, in one piece with the rest. */
static vx_chosen *choose(const vx_filter *filter, vx_index *index, vx_view *view,
                         uint64_t turn, const vx_halt *halt)
{
    const vx_snapshot now = vx_view_snapshot(view);
    const bool twins = atomic_load(&view->any_twins);
    const size_t n_words = (size_t)now.n / 64 + 1;
    vx_chosen *chosen = vx_zalloc(1, sizeof *chosen + VX_LINE +
                                         n_words * (twins ? 2 : 1) * sizeof(uint64_t) +
                                         now.n / LIST_SHARE * sizeof(vx_slot));
    if (chosen == NULL)
        return NULL;
    uint64_t *rows = (uint64_t *)(void *)((char *)chosen + vx_round_up(sizeof *chosen, VX_LINE));
    uint64_t *nodes = twins ? rows + n_words : rows;
    vx_slot *list = (vx_slot *)(void *)(nodes + n_words);
    vx_allowed *allowed = &chosen->allowed;
    atomic_init(&chosen->n_refs, 1);
    chosen->index_number = index->number;
    chosen->view = view;
    chosen->turn = turn;
    allowed->now = now;
    allowed->rows = rows;
    allowed->nodes = nodes;
    if (!look_up(filter, index, view, &now, turn, rows) &&
        !ask_all(filter, index, view, &now, halt, rows)) {
        vx_free(chosen);
        return NULL;
    }
    for (size_t i = 0; i < n_words; i++)
        allowed->n_rows += vx_count_bits(rows[i]);
    if (twins)
        mark_nodes(view, allowed, nodes);
    pick_seeds(allowed);
    if (allowed->n_rows <= now.n / LIST_SHARE) {
        uint32_t at = 0;
        (void)vx_allowed_next(allowed, &at, list, allowed->n_rows);
        allowed->list = list;
    }
    return chosen;
}

void vx_chosen_release(vx_chosen *chosen)
{
    if (chosen != NULL && atomic_fetch_sub(&chosen->n_refs, 1) == 1)
        vx_free(chosen);
}

/* What was chosen last, if it is still good. */
static vx_chosen *recall(vx_filter *filter, const vx_index *index, const vx_view *view,
                         uint64_t turn)
{
    vx_chosen *found = NULL;
    if (turn % 2 != 0 || !vx_mutex_trylock(&filter->lock))
        return NULL;
    vx_chosen *last = filter->last;
    if (last != NULL && last->index_number == index->number && last->turn == turn &&
        last->view == view) {
        atomic_fetch_add(&last->n_refs, 1);
        found = last;
    }
    vx_mutex_unlock(&filter->lock);
    return found;
}

static void remember(vx_filter *filter, vx_chosen *chosen)
{
    if (!vx_mutex_trylock(&filter->lock))
        return;
    vx_chosen *old = filter->last;
    atomic_fetch_add(&chosen->n_refs, 1);
    filter->last = chosen;
    vx_mutex_unlock(&filter->lock);
    vx_chosen_release(old);
}

vx_chosen *vx_filter_choose(vx_filter *filter, vx_index *index, vx_view *view,
                            const vx_halt *halt)
{
    const uint64_t turn = atomic_load(&index->writer.n_turns);
    vx_chosen *chosen = recall(filter, index, view, turn);
    if (chosen != NULL)
        return chosen;
    chosen = choose(filter, index, view, turn, halt);
    /* Only what no writer had a hand in is good for later. */
    if (chosen != NULL && turn % 2 == 0 && atomic_load(&index->writer.n_turns) == turn)
        remember(filter, chosen);
    return chosen;
}
