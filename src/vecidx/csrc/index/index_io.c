/* index_io.c - an index to a file and back.
 *
 * The container (checksums, atomic replacement) is store/; here is what its
 * sections mean.  docs/FORMAT.md lists them.  Integers and floats are stored
 * little-endian, as planes hold them; a big-endian machine is refused.
 *
 * Loading trusts nothing: sizes are checked before anything is allocated from
 * them, and the finished index goes through vx_index_check before it is handed
 * out. */
#include <string.h>

#include "../base/vx_alloc.h"
#include "../base/vx_status.h"
#include "../store/store_format.h"
#include "index.h"

enum section_kind {
    SECTION_VECTORS = 1, /* n_rows x row_floats f32, padded with zeros            */
    SECTION_LINKS = 2,   /* n_rows x 2M u32                                       */
    SECTION_LEVELS = 3,  /* n_rows x u8                                           */
    SECTION_UPPER = 4,   /* n_upper x M u32, rows of a slot together, rising      */
    SECTION_LABELS = 5,  /* n_rows x i64; absent: label == slot                   */
    SECTION_NORMS = 6,   /* n_rows x f32; cosine only                             */
    SECTION_BIRTHS = 7,  /* n_rows x u64; absent, like DEATHS: nothing replaced   */
    SECTION_DEATHS = 8,
    SECTION_TWINS = 9    /* n_rows x u32; absent: no row equals another            */
};

static const vx_section_name section_names[] = {
    {SECTION_VECTORS, "vectors"}, {SECTION_LINKS, "links"},   {SECTION_LEVELS, "levels"},
    {SECTION_UPPER, "upper links"}, {SECTION_LABELS, "ids"},  {SECTION_NORMS, "norms"},
    {SECTION_BIRTHS, "births"},   {SECTION_DEATHS, "deaths"}, {SECTION_TWINS, "twins"},
};
#define N_SECTION_NAMES (sizeof section_names / sizeof *section_names)

/* The parameter block: u64 each, in this order. */
enum field {
    FIELD_DIM, FIELD_METRIC, FIELD_M, FIELD_EF_CONSTRUCTION, FIELD_SEED,
    FIELD_N_ROWS, FIELD_N_UPPER, FIELD_ENTRY, FIELD_SEQ, FIELD_N_DEAD, FIELD_NEXT_LABEL,
    N_FIELDS
};

static bool is_little_endian(void)
{
    const uint16_t one = 1;
    uint8_t first;
    memcpy(&first, &one, 1);
    return first == 1;
}

static vx_status refuse_byte_order(vx_error *err)
{
    return vx_fail(err, VX_E_FORMAT, "files are little-endian, this machine is not");
}

/* ---- save ------------------------------------------------------------------- */

struct plan {
    vx_piece pieces[N_SECTION_NAMES];
    vx_section sections[N_SECTION_NAMES];
    size_t n;
};

static void put(struct plan *plan, uint32_t kind, const void *data, size_t bytes)
{
    plan->pieces[plan->n] = (vx_piece){data, bytes};
    plan->sections[plan->n] =
        (vx_section){kind, VX_SECTION_REQUIRED, &plan->pieces[plan->n], 1};
    plan->n++;
}

static vx_status save_view(const vx_index *index, const vx_view *view, const char *path,
                           vx_error *err)
{
    const vx_params *p = &index->graph.params;
    const uint32_t n = atomic_load(&view->n_rows);
    const uint64_t fields[N_FIELDS] = {
        [FIELD_DIM] = p->dim,
        [FIELD_METRIC] = p->metric,
        [FIELD_M] = p->M,
        [FIELD_EF_CONSTRUCTION] = p->ef_construction,
        [FIELD_SEED] = p->seed,
        [FIELD_N_ROWS] = n,
        [FIELD_N_UPPER] = view->n_upper,
        [FIELD_ENTRY] = atomic_load(&view->entry),
        [FIELD_SEQ] = atomic_load(&view->seq),
        [FIELD_N_DEAD] = atomic_load(&index->n_dead),
        [FIELD_NEXT_LABEL] = index->next_label,
    };
    struct plan plan = {.n = 0};
    put(&plan, SECTION_VECTORS, view->vectors, n * view->row_floats * sizeof(float));
    put(&plan, SECTION_LINKS, view->links, n * view->block_bytes);
    put(&plan, SECTION_LEVELS, view->levels, n);
    put(&plan, SECTION_UPPER, view->upper, view->n_upper * view->upper_bytes);
    if (index->labels.table != NULL)
        put(&plan, SECTION_LABELS, view->labels, n * sizeof(vx_label));
    if (view->norms != NULL)
        put(&plan, SECTION_NORMS, view->norms, n * sizeof(float));
    if (atomic_load(&view->any_dead)) {
        put(&plan, SECTION_BIRTHS, (const void *)view->births, n * sizeof(uint64_t));
        put(&plan, SECTION_DEATHS, (const void *)view->deaths, n * sizeof(uint64_t));
    }
    if (atomic_load(&view->any_twins))
        put(&plan, SECTION_TWINS, (const void *)view->twins, n * sizeof(uint32_t));
    return vx_store_write(path, fields, sizeof fields, plan.sections, plan.n, err);
}

vx_status vx_index_save(vx_index *index, const char *path, vx_error *err)
{
    if (!is_little_endian())
        return refuse_byte_order(err);
    /* Holding the writer's lock: searches go on, nothing changes. */
    vx_mutex_lock(&index->writer);
    const vx_status st = save_view(index, atomic_load(&index->graph.view), path, err);
    vx_mutex_unlock(&index->writer);
    return st == VX_OK ? vx_ok(err) : st;
}

/* ---- load ------------------------------------------------------------------- */

static vx_status refuse(vx_error *err, const char *what, uint64_t got)
{
    return vx_fail(err, VX_E_FORMAT, "parameters: %s is %llu, which no index has", what,
                   (unsigned long long)got);
}

static vx_status read_fields(const vx_store *store, uint64_t fields[N_FIELDS], vx_error *err)
{
    size_t length;
    const void *block = vx_store_params(store, &length);
    if (length != N_FIELDS * sizeof *fields)
        return vx_fail(err, VX_E_FORMAT, "parameters: expected %zu bytes, got %zu",
                       N_FIELDS * sizeof *fields, length);
    memcpy(fields, block, length);
    static const struct {
        const char *name;
        uint64_t least, most;
    } limits[N_FIELDS] = {
        [FIELD_DIM] = {"dim", 1, VX_MAX_DIM},
        [FIELD_METRIC] = {"metric", 0, VX_COSINE},
        [FIELD_M] = {"M", VX_MIN_M, VX_MAX_M},
        [FIELD_EF_CONSTRUCTION] = {"ef_construction", 1, VX_MAX_EF_CONSTRUCTION},
        [FIELD_SEED] = {"seed", 0, UINT64_MAX},
        [FIELD_N_ROWS] = {"number of rows", 0, VX_MAX_ROWS},
        [FIELD_N_UPPER] = {"number of upper link rows", 0, VX_MAX_ROWS},
        [FIELD_ENTRY] = {"entry point", 0, UINT64_MAX},
        [FIELD_SEQ] = {"sequence number", 0, UINT64_MAX >> 2},
        [FIELD_N_DEAD] = {"number of replaced rows", 0, VX_MAX_ROWS},
        [FIELD_NEXT_LABEL] = {"next id", 0, (uint64_t)INT64_MAX + 1},
    };
    for (int i = 0; i < N_FIELDS; i++)
        if (fields[i] < limits[i].least || fields[i] > limits[i].most)
            return refuse(err, limits[i].name, fields[i]);
    return VX_OK;
}

/* The file must hold what the parameters say before memory is taken for it. */
static vx_status check_length(vx_store *store, uint32_t kind, const char *name, uint64_t bytes,
                              vx_error *err)
{
    uint64_t length = 0;
    if (!vx_store_find(store, kind, &length) || length != bytes)
        return vx_fail(err, VX_E_FORMAT, "section %s: expected %llu bytes, got %llu", name,
                       (unsigned long long)bytes, (unsigned long long)length);
    return VX_OK;
}

static vx_status read_rows(vx_index *index, vx_store *store, const uint64_t *fields, vx_error *err)
{
    const uint64_t n = fields[FIELD_N_ROWS], n_upper = fields[FIELD_N_UPPER];
    vx_view *view = atomic_load(&index->graph.view);
    vx_status st = check_length(store, SECTION_VECTORS, "vectors",
                                n * view->row_floats * sizeof(float), err);
    if (st == VX_OK)
        st = check_length(store, SECTION_UPPER, "upper links", n_upper * view->upper_bytes, err);
    if (st == VX_OK)
        st = vx_graph_reserve(&index->graph, n, n_upper, err);
    if (st != VX_OK)
        return st;
    view = atomic_load(&index->graph.view);

    const bool has_dead = vx_store_find(store, SECTION_DEATHS, &(uint64_t){0});
    const bool has_labels = vx_store_find(store, SECTION_LABELS, &(uint64_t){0});
    const bool has_twins = vx_store_find(store, SECTION_TWINS, &(uint64_t){0});
    const struct {
        uint32_t kind;
        bool wanted;
        void *to;
        uint64_t bytes;
    } reads[] = {
        {SECTION_VECTORS, true, view->vectors, n * view->row_floats * sizeof(float)},
        {SECTION_LINKS, true, view->links, n * view->block_bytes},
        {SECTION_LEVELS, true, view->levels, n},
        {SECTION_UPPER, true, view->upper, n_upper * view->upper_bytes},
        {SECTION_LABELS, has_labels, view->labels, n * sizeof(vx_label)},
        {SECTION_NORMS, view->norms != NULL, view->norms, n * sizeof(float)},
        {SECTION_BIRTHS, has_dead, (void *)view->births, n * sizeof(uint64_t)},
        {SECTION_DEATHS, has_dead, (void *)view->deaths, n * sizeof(uint64_t)},
        {SECTION_TWINS, has_twins, (void *)view->twins, n * sizeof(uint32_t)},
    };
    for (size_t i = 0; i < sizeof reads / sizeof *reads && st == VX_OK; i++)
        if (reads[i].wanted)
            st = vx_store_read(store, reads[i].kind, reads[i].to, reads[i].bytes, err);
    if (st == VX_OK)
        st = vx_store_check_rest(store, err);
    if (st != VX_OK)
        return st;
    if (!has_labels)
        for (uint64_t i = 0; i < n; i++)
            view->labels[i] = (vx_label)i;
    atomic_store(&view->any_dead, has_dead);
    atomic_store(&view->any_twins, has_twins);
    return VX_OK;
}

static vx_status place_rows(vx_view *view, const uint64_t *fields, vx_error *err)
{
    uint64_t upper = 0;
    for (uint64_t slot = 0; slot < fields[FIELD_N_ROWS]; slot++) {
        if (view->levels[slot] >= VX_MAX_LEVELS)
            return vx_fail(err, VX_E_FORMAT, "section levels: slot %llu has level %u",
                           (unsigned long long)slot, view->levels[slot]);
        view->upper_at[slot] = (uint32_t)upper;
        upper += view->levels[slot];
        if (upper > fields[FIELD_N_UPPER])
            return vx_fail(err, VX_E_FORMAT, "section levels: more upper rows than %llu",
                           (unsigned long long)fields[FIELD_N_UPPER]);
    }
    view->n_upper = (uint32_t)upper;
    return VX_OK;
}

/* A row is born, and dies, no later than now, and in that order. */
static vx_status check_ages(const vx_view *view, const uint64_t *fields, vx_error *err)
{
    for (uint64_t slot = 0; slot < fields[FIELD_N_ROWS]; slot++) {
        const uint64_t birth = atomic_load(&view->births[slot]);
        const uint64_t death = atomic_load(&view->deaths[slot]);
        if (birth > fields[FIELD_SEQ] || death > fields[FIELD_SEQ] ||
            (death != 0 && birth >= death))
            return vx_fail(err, VX_E_FORMAT, "section deaths: slot %llu has birth %llu, death %llu",
                           (unsigned long long)slot, (unsigned long long)birth,
                           (unsigned long long)death);
    }
    return VX_OK;
}

static void never_replaced(void *arg, vx_slot old_slot, vx_slot new_slot)
{
    (void)old_slot, (void)new_slot;
    *(bool *)arg = true;
}

/* Live rows only: a replaced row's label belongs to a later row. */
static vx_status map_labels(vx_index *index, vx_view *view, bool has_labels, vx_error *err)
{
    const vx_snapshot now = vx_view_snapshot(view);
    vx_status st = vx_labels_reserve(&index->labels, view, now.n, has_labels, err);
    bool twice = false;
    if (st == VX_OK && !has_labels)
        vx_labels_enter(&index->labels, view, 0, now.n, never_replaced, &twice);
    for (vx_slot slot = 0; st == VX_OK && has_labels && slot < now.n; slot++) {
        if (view->labels[slot] < 0)
            st = vx_fail(err, VX_E_FORMAT, "section ids: slot %u has id %lld", slot,
                         (long long)view->labels[slot]);
        else if (vx_view_sees(view, &now, slot))
            vx_labels_enter(&index->labels, view, slot, slot + 1, never_replaced, &twice);
        if (twice)
            st = vx_fail(err, VX_E_FORMAT, "section ids: id %lld is there twice",
                         (long long)view->labels[slot]);
    }
    return st;
}

static vx_status build(vx_index *index, vx_store *store, const uint64_t *fields, vx_error *err)
{
    vx_status st = read_rows(index, store, fields, err);
    vx_view *view = atomic_load(&index->graph.view);
    if (st == VX_OK)
        st = place_rows(view, fields, err);
    if (st == VX_OK && atomic_load(&view->any_dead))
        st = check_ages(view, fields, err);
    if (st != VX_OK)
        return st;
    const uint64_t n = fields[FIELD_N_ROWS], entry = fields[FIELD_ENTRY];
    const bool fits = entry == VX_NO_ENTRY ||
                      ((uint32_t)entry < n && entry >> 32 < VX_MAX_LEVELS);
    if (!fits)
        return refuse(err, "entry point", entry);
    atomic_store(&view->entry, entry);
    atomic_store(&view->seq, fields[FIELD_SEQ]);
    atomic_store(&view->n_rows, (uint32_t)n);
    if (fields[FIELD_N_DEAD] > n)
        return refuse(err, "number of replaced rows", fields[FIELD_N_DEAD]);
    atomic_store(&index->n_dead, fields[FIELD_N_DEAD]);
    atomic_store(&index->n_live, n - fields[FIELD_N_DEAD]);
    index->next_label = fields[FIELD_NEXT_LABEL];
    st = vx_graves_collect(&index->graph, err);
    if (st != VX_OK)
        return st;
    st = map_labels(index, view, vx_store_find(store, SECTION_LABELS, &(uint64_t){0}), err);
    if (st != VX_OK)
        return st;

    vx_check check;
    vx_error why = {0};
    st = vx_index_check(index, &check, &why);
    if (st == VX_E_STATE)
        return vx_fail(err, VX_E_FORMAT, "damaged: %s", why.text);
    if (st != VX_OK && err != NULL)
        *err = why;
    if (st == VX_OK && check.n_unreachable > 0)
        index->graph.n_unproven = n; /* the next add ties them in */
    return st;
}

vx_status vx_index_load(const char *path, vx_index **out, vx_error *err)
{
    vx_store *store = NULL;
    vx_index *fresh = NULL;
    uint64_t fields[N_FIELDS];
    vx_status st = VX_OK;
    if (!is_little_endian())
        return refuse_byte_order(err);
    if ((st = vx_store_open(path, section_names, N_SECTION_NAMES, &store, err)) != VX_OK)
        goto done;
    if ((st = read_fields(store, fields, err)) != VX_OK)
        goto done;
    const vx_params params = {
        .dim = (uint32_t)fields[FIELD_DIM],
        .metric = (uint32_t)fields[FIELD_METRIC],
        .M = (uint32_t)fields[FIELD_M],
        .ef_construction = (uint32_t)fields[FIELD_EF_CONSTRUCTION],
        .seed = fields[FIELD_SEED],
    };
    if ((st = vx_index_new(&params, &fresh, err)) != VX_OK)
        goto done;
    if ((st = build(fresh, store, fields, err)) != VX_OK)
        goto done;
    *out = fresh;
    fresh = NULL;
done:
    vx_index_free(fresh);
    vx_store_close(store);
    return st == VX_OK ? vx_ok(err) : st;
}
