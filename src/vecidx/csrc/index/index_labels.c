/* index_labels.c - see index_labels.h. */
#include "index_labels.h"

#include <assert.h>

#include "../base/vx_alloc.h"
#include "../base/vx_rng.h"
#include "../base/vx_status.h"

void vx_labels_init(vx_labels *map)
{
    *map = (vx_labels){0};
    vx_rwlock_init(&map->lock);
}

void vx_labels_fini(vx_labels *map)
{
    vx_free(map->table);
    vx_rwlock_fini(&map->lock);
}

/* The place where `label` is, or the empty one where it belongs. */
static uint64_t place_of(const vx_slot *table, uint64_t mask, const vx_view *view, vx_label label)
{
    uint64_t at = vx_hash64((uint64_t)label) & mask;
    while (table[at] != VX_NO_SLOT && view->labels[table[at]] != label)
        at = (at + 1) & mask;
    return at;
}

vx_slot vx_labels_find(const vx_labels *map, const vx_view *view, vx_label label)
{
    if (map->table != NULL)
        return map->table[place_of(map->table, map->mask, view, label)];
    return label >= 0 && label < (vx_label)map->n_published ? (vx_slot)label : VX_NO_SLOT;
}

/* An empty table with room for n labels, and a half more so that small adds seldom
 * rehash; NULL: no memory. */
static vx_slot *new_table(uint64_t n, uint64_t spare, uint64_t *out_places)
{
    uint64_t places = 64;
    while (places < 2 * n + spare)
        places *= 2;
    vx_slot *table = vx_alloc(places, sizeof *table);
    for (uint64_t i = 0; table != NULL && i < places; i++)
        table[i] = VX_NO_SLOT;
    *out_places = places;
    return table;
}

/* Under the exclusive lock. */
static vx_status build(vx_labels *map, vx_view *view, vx_label *out_twice, vx_error *err)
{
    const vx_snapshot now = vx_view_snapshot(view);
    uint64_t places, n_used = 0;
    vx_slot *table = new_table(now.n, now.n / 2, &places);
    if (table == NULL)
        return vx_fail_nomem(err, "the label map");
    for (vx_slot slot = 0; slot < now.n; slot++) {
        if (!vx_view_sees(view, &now, slot))
            continue;
        vx_slot *at = &table[place_of(table, places - 1, view, view->labels[slot])];
        if (*at == VX_NO_SLOT)
            n_used++;
        else if (out_twice != NULL)
            *out_twice = view->labels[slot];
        *at = slot;
    }
    map->table = table;
    map->mask = places - 1;
    map->n_used = n_used;
    atomic_store(&map->bytes, places * sizeof *table);
    return VX_OK;
}

vx_status vx_labels_settle(vx_labels *map, vx_view *view, vx_label *out_twice, vx_error *err)
{
    vx_status st = VX_OK;
    if (!atomic_load(&map->is_pending))
        return VX_OK;
    vx_rwlock_wrlock(&map->lock);
    if (atomic_load(&map->is_pending))
        st = build(map, view, out_twice, err);
    if (st == VX_OK)
        atomic_store(&map->is_pending, false);
    vx_rwlock_wrunlock(&map->lock);
    return st;
}

void vx_labels_clear(vx_labels *map)
{
    vx_rwlock_wrlock(&map->lock);
    vx_free(map->table);
    map->table = NULL;
    map->n_published = 0;
    atomic_store(&map->bytes, 0);
    vx_rwlock_wrunlock(&map->lock);
}

vx_status vx_labels_reserve(vx_labels *map, const vx_view *view, uint64_t n_more,
                            bool needs_table, vx_error *err)
{
    if (map->table == NULL && !needs_table)
        return VX_OK;
    const uint64_t n_used = map->table != NULL ? map->n_used : map->n_published;
    const uint64_t n_wanted = 2 * (n_used + n_more);
    if (map->table != NULL && n_wanted <= map->mask)
        return VX_OK;

    uint64_t places;
    vx_slot *table = new_table(n_used + n_more, n_used / 2, &places);
    if (table == NULL)
        return vx_fail_nomem(err, "the label map");
    if (map->table == NULL)
        for (vx_slot slot = 0; slot < map->n_published; slot++)
            table[place_of(table, places - 1, view, slot)] = slot;
    else
        for (uint64_t i = 0; i <= map->mask; i++)
            if (map->table[i] != VX_NO_SLOT)
                table[place_of(table, places - 1, view, view->labels[map->table[i]])] =
                    map->table[i];

    vx_rwlock_wrlock(&map->lock);
    vx_slot *old = map->table;
    map->table = table;
    map->mask = places - 1;
    map->n_used = n_used;
    vx_rwlock_wrunlock(&map->lock);
    vx_free(old);
    atomic_store(&map->bytes, places * sizeof *table);
    return VX_OK;
}

static void enter(vx_labels *map, const vx_view *view, vx_slot slot, vx_replaced_fn replaced,
                  void *arg)
{
    vx_slot *at = &map->table[place_of(map->table, map->mask, view, view->labels[slot])];
    if (*at == VX_NO_SLOT)
        map->n_used++;
    else
        replaced(arg, *at, slot);
    *at = slot;
}

void vx_labels_enter(vx_labels *map, const vx_view *view, vx_slot begin, vx_slot end,
                     vx_replaced_fn replaced, void *arg)
{
    vx_rwlock_wrlock(&map->lock);
    for (vx_slot slot = begin; map->table != NULL && slot < end; slot++)
        enter(map, view, slot, replaced, arg);
    map->n_published = end;
    vx_rwlock_wrunlock(&map->lock);
}

void vx_labels_enter_slots(vx_labels *map, const vx_view *view, const vx_slot *slots, size_t n,
                           vx_replaced_fn replaced, void *arg)
{
    vx_rwlock_wrlock(&map->lock);
    for (size_t i = 0; map->table != NULL && i < n; i++)
        enter(map, view, slots[i], replaced, arg);
    map->n_published = slots[n - 1] + 1;
    vx_rwlock_wrunlock(&map->lock);
}

vx_slot vx_labels_remove(vx_labels *map, const vx_view *view, vx_label label)
{
    vx_slot *table = map->table;
    uint64_t hole = place_of(table, map->mask, view, label);
    const vx_slot slot = table[hole];
    if (slot == VX_NO_SLOT)
        return slot;
    /* Close the gap: whatever probed past it moves back, so that no probe ends
     * early and no marks of removed labels pile up. */
    for (uint64_t at = (hole + 1) & map->mask; table[at] != VX_NO_SLOT;
         at = (at + 1) & map->mask) {
        const uint64_t home = vx_hash64((uint64_t)view->labels[table[at]]) & map->mask;
        if (((at - home) & map->mask) < ((at - hole) & map->mask))
            continue; /* it lies between the hole and its home */
        table[hole] = table[at];
        hole = at;
    }
    table[hole] = VX_NO_SLOT;
    map->n_used--;
    return slot;
}

static void must_be_new(void *arg, vx_slot old_slot, vx_slot new_slot)
{
    (void)arg, (void)old_slot, (void)new_slot;
    assert(false);
}

vx_status vx_labels_build(vx_labels *map, const vx_view *view, uint32_t n, vx_error *err)
{
    bool needs_table = false;
    vx_labels_init(map);
    for (vx_slot slot = 0; slot < n && !needs_table; slot++)
        needs_table = view->labels[slot] != (vx_label)slot;
    const vx_status st = vx_labels_reserve(map, view, n, needs_table, err);
    if (st == VX_OK)
        vx_labels_enter(map, view, 0, n, must_be_new, NULL);
    else
        vx_labels_fini(map);
    return st;
}

void vx_labels_swap(vx_labels *map, vx_labels *other)
{
    const uint64_t bytes = atomic_load(&map->bytes), mask = map->mask, n_used = map->n_used;
    vx_slot *table = map->table;
    const uint32_t n_published = map->n_published;
    atomic_store(&map->bytes, atomic_load(&other->bytes));
    map->table = other->table;
    map->mask = other->mask;
    map->n_used = other->n_used;
    map->n_published = other->n_published;
    atomic_store(&other->bytes, bytes);
    other->table = table;
    other->mask = mask;
    other->n_used = n_used;
    other->n_published = n_published;
}
