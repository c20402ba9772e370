/* index_labels.c - see index_labels.h. */
#include "index_labels.h"

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

vx_status vx_labels_reserve(vx_labels *map, const vx_view *view, uint64_t n_more,
                            bool needs_table, vx_error *err)
{
    if (map->table == NULL && !needs_table)
        return VX_OK;
    const uint64_t n_used = map->table != NULL ? map->n_used : map->n_published;
    const uint64_t n_wanted = 2 * (n_used + n_more);
    if (map->table != NULL && n_wanted <= map->mask)
        return VX_OK;

    /* The next power of two, and a half more so that small adds seldom rehash. */
    uint64_t places = 64;
    while (places < n_wanted + n_used / 2)
        places *= 2;
    vx_slot *table = vx_alloc(places, sizeof *table);
    if (table == NULL)
        return vx_fail_nomem(err, "the label map");
    for (uint64_t i = 0; i < places; i++)
        table[i] = VX_NO_SLOT;
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

void vx_labels_enter(vx_labels *map, const vx_view *view, vx_slot begin, vx_slot end,
                     vx_replaced_fn replaced, void *arg)
{
    vx_rwlock_wrlock(&map->lock);
    for (vx_slot slot = begin; map->table != NULL && slot < end; slot++) {
        vx_slot *at = &map->table[place_of(map->table, map->mask, view, view->labels[slot])];
        if (*at == VX_NO_SLOT)
            map->n_used++;
        else
            replaced(arg, *at, slot);
        *at = slot;
    }
    map->n_published = end;
    vx_rwlock_wrunlock(&map->lock);
}
