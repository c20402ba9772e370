/* index_load_check.c - do the planes of a file make an index?
 *
 * What is looked at here is what searching and adding rely on: that every number
 * leads somewhere that exists, that no chain is a ring, that no id is negative
 * and no value NaN.  Rows are looked at side by side, each read once, in order.
 * That links are few, different and lead everywhere is a question of quality, for
 * vx_index_check, whose random reads take ten times as long. */
#include <math.h>
#include <string.h>

#include "../base/vx_alloc.h"
#include "../base/vx_pool.h"
#include "../base/vx_status.h"
#include "index_io.h"

struct rows {
    const vx_store *store;
    const vx_view *view;
    uint32_t n;
    uint64_t next_label;
    bool ids_are_slots, with_vectors;
    uint64_t *is_twin; /* one bit a row: it is no node                           */
    _Atomic uint64_t bad; /* the first fault, slot << 8 | enum fault */
};

enum fault {
    FAULT_NONE, FAULT_LINK, FAULT_TWIN_ROW, FAULT_UPPER_LINK, FAULT_VALUE, FAULT_PADDING,
    FAULT_ZERO, FAULT_NORM, FAULT_ID, FAULT_ID_SLOT, FAULT_TWIN
};

static const struct {
    int plane;
    const char *says;
} faults[] = {
    [FAULT_LINK] = {VX_PLANE_LINKS,
                    "a link that leads to itself, nowhere or to no node, or is out of order"},
    [FAULT_TWIN_ROW] = {VX_PLANE_LINKS, "the mark of a row equal to another, in a file without"},
    [FAULT_UPPER_LINK] = {VX_PLANE_UPPER,
                          "a link that leads to itself, nowhere or to no node, or is out of order"},
    [FAULT_VALUE] = {VX_PLANE_VECTORS, "NaN or infinity"},
    [FAULT_PADDING] = {VX_PLANE_VECTORS, "padding that is not zero"},
    [FAULT_ZERO] = {VX_PLANE_VECTORS, "zeros only, which have no direction"},
    [FAULT_NORM] = {VX_PLANE_NORMS, "a length that is not above 0"},
    [FAULT_ID] = {VX_PLANE_LABELS, "an id that is negative or not below the next"},
    [FAULT_ID_SLOT] = {VX_PLANE_LABELS, "an id that is not the row's number"},
    [FAULT_TWIN] = {VX_PLANE_TWINS, "a chain that leads nowhere, in a ring or into another"},
};

/* The section of a plane, and the byte of the file where a row of it lies. */
static vx_status refuse_row(const struct rows *r, int plane, uint64_t slot, uint64_t row,
                            const char *says, vx_error *err)
{
    const vx_stored_plane *p = vx_stored_planes;
    while (p->plane != plane)
        p++;
    const vx_entry *e = vx_store_find(r->store, p->kind);
    const uint64_t at = e != NULL ? e->offset + row * vx_view_row_bytes(r->view, plane) : 0;
    return vx_fail(err, VX_E_FORMAT, "section '%s' (at byte %llu): row %llu has %s", p->name,
                   (unsigned long long)at, (unsigned long long)slot, says);
}

static bool has_bit(const uint64_t *bits, vx_slot slot)
{
    return (bits[slot >> 6] >> (slot & 63) & 1) != 0;
}

/* 64 rows a piece. */
static void note_twins(void *arg, size_t begin, size_t end, unsigned who)
{
    const struct rows *r = arg;
    (void)who;
    for (size_t word = begin; word < end; word++) {
        const size_t first = 64 * word, last = first + 64 < r->n ? first + 64 : r->n;
        for (size_t slot = first; slot < last; slot++)
            r->is_twin[word] |= (uint64_t)vx_view_is_twin(r->view, (vx_slot)slot) << (slot & 63);
    }
}

/* Chosen links, then fillers, then padding; each to a node that there is and that
 * reaches the layer. */
static bool links_are_good(const struct rows *r, const vx_link *links, uint32_t cap, vx_slot slot,
                           unsigned layer)
{
    unsigned before = 0;
    for (uint32_t i = 0; i < cap; i++) {
        const uint32_t link = atomic_load_explicit(&links[i], memory_order_relaxed);
        const vx_slot to = link & VX_SLOT_BITS;
        const unsigned class = (link >> 31) + (link == VX_PAD);
        if (class < before ||
            (link != VX_PAD && (to >= r->n || to == slot || has_bit(r->is_twin, to))))
            return false;
        if (layer > 0 && link != VX_PAD && r->view->levels[to] < layer)
            return false;
        before = class;
    }
    return true;
}

/* A row equal to another has its mark and padding. */
static bool is_twin_row(const vx_link *links, uint32_t cap)
{
    uint32_t i = 1;
    while (i < cap && atomic_load_explicit(&links[i], memory_order_relaxed) == VX_PAD)
        i++;
    return i == cap && atomic_load_explicit(&links[0], memory_order_relaxed) == VX_TWIN;
}

static enum fault look_at_links(const struct rows *r, vx_slot slot)
{
    const vx_view *view = r->view;
    const vx_link *links = vx_view_links(view, slot, 0);
    const bool any_twins = atomic_load_explicit(&view->any_twins, memory_order_relaxed);
    const bool is_twin = vx_view_is_twin(view, slot);
    /* A free slot has the mark too, and is dead (hnsw_delete.c). */
    if (is_twin && !any_twins && vx_view_is_alive(view, slot))
        return FAULT_TWIN_ROW;
    if (is_twin ? !is_twin_row(links, view->M0) : !links_are_good(r, links, view->M0, slot, 0))
        return FAULT_LINK;
    for (unsigned layer = 1; layer <= view->levels[slot]; layer++)
        if (!links_are_good(r, vx_view_links(view, slot, layer), view->M, slot, layer))
            return FAULT_UPPER_LINK;
    return FAULT_NONE;
}

static enum fault look_at_vector(const struct rows *r, vx_slot slot)
{
    switch (vx_form_check(&r->view->form, vx_view_vector(r->view, slot))) {
    case VX_ROW_FINE: return FAULT_NONE;
    case VX_ROW_BEYOND: return FAULT_PADDING;
    case VX_ROW_ZERO: return FAULT_ZERO;
    default: return FAULT_VALUE;
    }
}

static enum fault look_at_row(const struct rows *r, vx_slot slot)
{
    const vx_label label = r->view->labels[slot];
    if (label < 0 || (uint64_t)label >= r->next_label)
        return FAULT_ID;
    if (r->ids_are_slots && label != (vx_label)slot)
        return FAULT_ID_SLOT;
    if (r->view->norms != NULL && !(r->view->norms[slot] > 0 && isfinite(r->view->norms[slot])))
        return FAULT_NORM;
    const enum fault fault = look_at_links(r, slot);
    return fault != FAULT_NONE || !r->with_vectors ? fault : look_at_vector(r, slot);
}

/* The lowest row's fault wins, whichever thread finds it. */
static void look_at_rows(void *arg, size_t begin, size_t end, unsigned who)
{
    struct rows *r = arg;
    (void)who;
    for (size_t slot = begin; slot < end; slot++) {
        const enum fault fault = look_at_row(r, (vx_slot)slot);
        if (fault == FAULT_NONE)
            continue;
        const uint64_t mine = (uint64_t)slot << 8 | fault;
        uint64_t now = atomic_load(&r->bad);
        while (mine < now && !atomic_compare_exchange_weak(&r->bad, &now, mine)) {
        }
        return;
    }
}

static int tick_only(void *arg, uint64_t done, uint64_t total)
{
    const vx_run *run = arg;
    (void)done, (void)total; /* they count bytes for the caller, and all are read */
    return run->tick(run->tick_arg, 1, 1);
}

/* The upper rows of one slot after another, back to back. */
static vx_status check_places(const struct rows *r, uint64_t n_upper, vx_error *err)
{
    uint64_t upper = 0;
    for (vx_slot slot = 0; slot < r->n; slot++) {
        const unsigned level = r->view->levels[slot];
        if (level >= VX_MAX_LEVELS)
            return refuse_row(r, VX_PLANE_LEVELS, slot, slot, "a layer that there is not", err);
        if (r->view->upper_at[slot] != upper)
            return refuse_row(r, VX_PLANE_UPPER_AT, slot, slot, "a place that does not follow", err);
        upper += level;
    }
    if (upper != n_upper)
        return vx_fail(err, VX_E_FORMAT, "section 'levels': %llu upper rows, expected %llu",
                       (unsigned long long)upper, (unsigned long long)n_upper);
    return VX_OK;
}

/* Follow the chain of a node, each row of which no other chain may have. */
static bool follow_chain(const struct rows *r, vx_slot node, uint64_t *is_chained)
{
    const vx_view *view = r->view;
    for (vx_slot slot = vx_view_next_twin(view, node); slot != VX_NO_SLOT;
         slot = vx_view_next_twin(view, slot)) {
        if (slot >= r->n || !vx_view_is_twin(view, slot))
            return false;
        const uint64_t bit = (uint64_t)1 << (slot & 63);
        if (is_chained[slot >> 6] & bit)
            return false;
        is_chained[slot >> 6] |= bit;
    }
    return true;
}

/* Every live twin follows one row, and each chain begins at a node: so there is no ring. */
static vx_status check_twins(const struct rows *r, vx_error *err)
{
    const vx_view *view = r->view;
    uint64_t *is_chained = vx_zalloc((size_t)r->n / 64 + 1, sizeof *is_chained);
    if (is_chained == NULL)
        return vx_fail_nomem(err, "loading");
    vx_status st = VX_OK;
    for (vx_slot node = 0; node < r->n && st == VX_OK; node++)
        if (!vx_view_is_twin(view, node) && !follow_chain(r, node, is_chained))
            st = refuse_row(r, VX_PLANE_TWINS, node, node, faults[FAULT_TWIN].says, err);
    for (vx_slot slot = 0; slot < r->n && st == VX_OK; slot++)
        if (vx_view_is_twin(view, slot) && vx_view_is_alive(view, slot) &&
            !(is_chained[slot >> 6] >> (slot & 63) & 1))
            st = refuse_row(r, VX_PLANE_TWINS, slot, slot, "no chain that leads to it", err);
    vx_free(is_chained);
    return st;
}

vx_status vx_io_check_rows(const vx_index *index, const vx_store *store,
                           const uint64_t fields[VX_N_FIELDS], bool with_vectors,
                           const vx_run *run, vx_error *err)
{
    const vx_view *view = atomic_load(&index->graph.view);
    struct rows r = {.store = store, .view = view, .n = (uint32_t)fields[FIELD_N_ROWS],
                     .next_label = fields[FIELD_NEXT_LABEL],
                     .with_vectors = with_vectors,
                     .ids_are_slots = (fields[FIELD_FLAGS] & FLAG_IDS_ARE_SLOTS) != 0};
    const vx_run quiet = {run != NULL ? run->num_threads : 0,
                          run != NULL && run->tick != NULL ? tick_only : NULL, (void *)(uintptr_t)run};
    const vx_slot entry = (vx_slot)fields[FIELD_ENTRY];

    atomic_init(&r.bad, UINT64_MAX);
    vx_status st = check_places(&r, fields[FIELD_N_UPPER], err);
    if (st != VX_OK)
        return st;
    r.is_twin = vx_zalloc((size_t)r.n / 64 + 1, sizeof *r.is_twin);
    if (r.is_twin == NULL)
        return vx_fail_nomem(err, "loading");
    st = vx_pool_run(r.n / 64 + 1, 64, &quiet, 0, r.n, note_twins, &r);
    if (st == VX_OK)
        st = vx_pool_run(r.n, 512, &quiet, 0, r.n, look_at_rows, &r);
    vx_free(r.is_twin);
    if (st != VX_OK)
        return vx_fail(err, st, "interrupted");
    const uint64_t bad = atomic_load(&r.bad);
    if (bad != UINT64_MAX) {
        const uint64_t slot = bad >> 8;
        const int plane = faults[bad & 0xFF].plane;
        const uint64_t row = plane == VX_PLANE_UPPER ? view->upper_at[slot] : slot;
        return refuse_row(&r, plane, slot, row, faults[bad & 0xFF].says, err);
    }
    if (fields[FIELD_ENTRY] != VX_NO_ENTRY &&
        (view->levels[entry] != fields[FIELD_ENTRY] >> 32 || vx_view_is_twin(view, entry)))
        return vx_fail(err, VX_E_FORMAT, "parameters: entry point: row %u does not reach layer %u",
                       entry, (unsigned)(fields[FIELD_ENTRY] >> 32));
    return atomic_load(&view->any_twins) ? check_twins(&r, err) : VX_OK;
}
