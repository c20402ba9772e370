/* hnsw_delete.c - leading links around dead rows, and using their slots again.
 *
 * A row that dies stays linked: searches of an older snapshot must still find it,
 * and all others walk through it.  Mending takes it out.  For each row that links
 * to it, the dead row's own links are the candidates to take its place: they and
 * the links left go through the selection again (hnsw_select.c).  That is the
 * in-place repair of IP-DiskANN (arXiv:2502.13826), which gives an in-neighbour the
 * nearest of what a search for the dead row finds.  A difference: here all dead
 * rows are taken out of a row at once, and a dead row's own links stand in for the
 * search.
 *
 * Which rows link to a dead one nobody notes.  Two ways to find them:
 *
 *   look    a walk around each row that died: its pool holds most of them.  Done
 *           at once, so that the dead do not fill the pools of searches there.
 *   sweep   all rows: exact.  Done when one row in 512 is dead, so that a delete
 *           pays for 64 KiB of links read in order; some 10 microseconds.  It takes
 *           out at most an eighth of the graph at a time: where most of a row's
 *           surroundings go at once, what is found behind them is too far away to
 *           choose well from.  (Of 12,000 rows in 50 clusters 11,000 deleted: 20 of
 *           the others were no longer found by their own vector, with eighths none.)
 *
 * Only after a sweep no link leads to a dead row.  Its link rows are emptied and,
 * when every search that had begun by then has ended, its slot is free: nobody ever
 * reads a row that is being written.
 *
 * The life of a slot:   live -> linked (dead; graves.linked) -> free, waiting for
 * its epoch -> free, ready -> live again, as another row.
 *
 * Mending changes rows of the living and reads rows of the dead, each row by one
 * thread: the graph does not depend on the threads. */
#include "hnsw_delete.h"

#include <stdlib.h>
#include <string.h>

#include "../base/vx_alloc.h"
#include "../base/vx_pool.h"
#include "../base/vx_status.h"
#include "../base/vx_step.h"
#include "../base/vx_sync.h"
#include "hnsw_algo.h"
#include "hnsw_repair.h"
#include "hnsw_sketch.h"

#define SWEEP_SHARE 512u

/* Rows a sweep may take out: a share of those in the graph, or so many. */
#define PIECE_SHARE 8u
#define PIECE_LEAST 256u

/* Of a dead row's surroundings, how many nearest are looked at for links to it.  On
 * SIFT 96 finds nine in ten. */
#define LOOK_EF 96u
#define LOOK_EF_UPPER 32u

/* Candidates gathered for a row are up to so many times its links. */
#define FOUND_ROWS 3u

/* Up to so many rows every mending ends with a proof that all are reached; it takes
 * some 100 microseconds. */
#define SMALL_ROWS 4096u

/* An interrupted mending of up to so many rows does so too: some 50 ms. */
#define QUICK_ROWS (1u << 18)

/* Rows a piece of a sweep takes. */
#define SWEEP_GRAIN 256u

/* ---- graves ------------------------------------------------------------------ */

static uint32_t n_linked(const vx_graph *graph)
{
    return atomic_load_explicit(&graph->graves.n_linked, memory_order_relaxed);
}

static bool grow(vx_slot **slots, uint32_t n, uint32_t room)
{
    vx_slot *larger = vx_alloc(room, sizeof *larger);
    if (larger == NULL)
        return false;
    if (n > 0)
        memcpy(larger, *slots, n * sizeof *larger);
    vx_free(*slots);
    *slots = larger;
    return true;
}

vx_status vx_graves_reserve(vx_graph *graph, uint64_t n, vx_error *err)
{
    vx_graves *graves = &graph->graves;
    uint64_t room = n + n_linked(graph) + graves->n_free; /* at most the rows there are */
    if (room <= graves->room)
        return VX_OK;
    room += room / 2 + 64;
    if (room > UINT32_MAX)
        room = UINT32_MAX;
    if (!grow(&graves->linked, n_linked(graph), (uint32_t)room) ||
        !grow(&graves->free, graves->n_free, (uint32_t)room))
        return vx_fail_nomem(err, "the list of dead rows");
    graves->room = (uint32_t)room;
    return VX_OK;
}

void vx_graves_add(vx_graph *graph, vx_slot slot)
{
    const uint32_t n = n_linked(graph);
    graph->graves.linked[n] = slot;
    atomic_store_explicit(&graph->graves.n_linked, n + 1, memory_order_relaxed);
}

static int compare_slots(const void *a, const void *b)
{
    const vx_slot x = *(const vx_slot *)a, y = *(const vx_slot *)b;
    return (x > y) - (x < y);
}

static int compare_slots_falling(const void *a, const void *b) { return compare_slots(b, a); }

static void make_ready(vx_graves *graves)
{
    graves->n_ready = graves->n_free;
    if (graves->n_free > 1)
        qsort(graves->free, graves->n_free, sizeof *graves->free, compare_slots_falling);
}

vx_status vx_graves_collect(vx_graph *graph, vx_error *err)
{
    vx_view *view = atomic_load(&graph->view);
    vx_graves *graves = &graph->graves;
    const uint32_t n = atomic_load(&view->n_rows);
    uint64_t n_dead = 0;
    for (vx_slot slot = 0; slot < n; slot++)
        n_dead += !vx_view_is_alive(view, slot);
    if (n_dead == 0)
        return VX_OK;
    const vx_status st = vx_graves_reserve(graph, n_dead, err);
    uint8_t *is_chained = vx_zalloc(n, 1);
    if (st != VX_OK || is_chained == NULL) {
        vx_free(is_chained);
        return vx_fail_nomem(err, "the list of dead rows");
    }
    /* The file may be damaged: a chain may lead anywhere, and round. */
    for (vx_slot node = 0; node < n; node++)
        if (!vx_view_is_twin(view, node))
            for (vx_slot slot = vx_view_next_twin(view, node); slot < n && !is_chained[slot];
                 slot = vx_view_next_twin(view, slot))
                is_chained[slot] = 1;
    for (vx_slot slot = 0; slot < n; slot++) {
        if (vx_view_is_alive(view, slot))
            continue;
        if (vx_view_is_twin(view, slot) && !is_chained[slot])
            graves->free[graves->n_free++] = slot;
        else
            vx_graves_add(graph, slot);
    }
    make_ready(graves);
    vx_free(is_chained);
    return VX_OK;
}

uint32_t vx_graves_ready(vx_graph *graph, uint64_t wanted)
{
    vx_graves *graves = &graph->graves;
    if (graves->n_ready < wanted && graves->n_ready < graves->n_free &&
        vx_epoch_wait(graph, graves->epoch))
        make_ready(graves);
    return graves->n_ready < wanted ? graves->n_ready : (uint32_t)wanted;
}

void vx_graves_take(vx_graph *graph, uint32_t n, vx_slot *out)
{
    vx_graves *graves = &graph->graves;
    const vx_view *view = atomic_load(&graph->view);
    if (n == 0)
        return;
    const uint32_t left = graves->n_ready - n;
    for (uint32_t i = 0; i < n; i++) {
        out[i] = graves->free[graves->n_ready - 1 - i];
        if (vx_view_next_twin(view, out[i]) != VX_NO_SLOT) /* else leave its page alone */
            atomic_store_explicit(&view->twins[out[i]], 0, memory_order_relaxed);
    }
    memmove(graves->free + left, graves->free + graves->n_ready,
            (graves->n_free - graves->n_ready) * sizeof *graves->free);
    graves->n_ready = left;
    graves->n_free -= n;
}

void vx_graves_clear(vx_graph *graph)
{
    vx_graves *graves = &graph->graves;
    vx_free(graves->linked);
    vx_free(graves->free);
    graves->linked = graves->free = NULL;
    graves->n_free = graves->n_ready = graves->n_mended = graves->room = 0;
    atomic_store_explicit(&graves->n_linked, 0, memory_order_relaxed);
}

/* No node, in no chain: what a free slot looks like.  Its own place in a chain stays
 * for those who are at it, until the slot is taken. */
static void empty_links(vx_view *view, vx_slot slot)
{
    const vx_row none = {.n = 0, .n_chosen = 0};
    for (unsigned layer = 0; layer <= view->levels[slot]; layer++)
        vx_row_store(view, slot, layer, NULL, &none);
    vx_row_store_twin(view, slot);
}

void vx_graves_return(vx_graph *graph, const vx_slot *slots, size_t n)
{
    vx_graves *graves = &graph->graves;
    vx_view *view = atomic_load(&graph->view);
    /* No link has led to them, so they need not wait for another epoch; but those
     * that wait stay behind the others. */
    memmove(graves->free + graves->n_ready + n, graves->free + graves->n_ready,
            (graves->n_free - graves->n_ready) * sizeof *graves->free);
    for (size_t i = n; i-- > 0;) {
        empty_links(view, slots[i]);
        graves->free[graves->n_ready++] = slots[i];
    }
    graves->n_free += (uint32_t)n;
}

/* ---- the work ------------------------------------------------------------------ */

struct mend {
    vx_graph *graph;
    vx_view *view;
    vx_space space;
    vx_run run;             /* with the number of threads settled               */
    vx_ctx **contexts;      /* one a thread                                     */
    uint32_t n;             /* rows                                             */
    uint32_t first, end;    /* the dead to take out, in graves.linked           */
    uint64_t *is_dead;      /* one bit a slot: linked and dead                  */
    _Atomic uint64_t *is_suspect; /* one bit a slot: it lost a link             */
    _Atomic uint64_t *is_near;    /* look: may link to a dead row               */
    vx_slot *suspects;
    uint8_t *is_cut;
    size_t n_suspects;
    uint32_t n_spare; /* vx_spare_links */
};

static bool has_bit(const uint64_t *bits, vx_slot slot)
{
    return (bits[slot >> 6] >> (slot & 63) & 1) != 0;
}

static void set_bit(_Atomic uint64_t *bits, vx_slot slot)
{
    atomic_fetch_or_explicit(&bits[slot >> 6], (uint64_t)1 << (slot & 63), memory_order_relaxed);
}

/* First visit of a slot? */
static bool visit(vx_ctx *ctx, vx_slot slot)
{
    if (has_bit(ctx->visited, slot))
        return false;
    ctx->visited[slot >> 6] |= (uint64_t)1 << (slot & 63);
    ctx->touched[ctx->n_touched++] = slot;
    return true;
}

static int compare_keys(const void *a, const void *b)
{
    const vx_key x = *(const vx_key *)a, y = *(const vx_key *)b;
    return (x > y) - (x < y);
}

/* Live rows that the dead ones among a row's links lead to, through other dead ones
 * where those around it are dead too: into `found`, at most `room`. */
static uint32_t find_successors(const struct mend *m, vx_slot owner, unsigned layer,
                                const vx_row *row, vx_ctx *ctx, vx_slot *found, uint32_t room)
{
    const vx_view *view = m->view;
    const uint32_t cap = vx_view_row_links(view, layer);
    vx_slot dead[FOUND_ROWS * VX_MAX_ROW_LINKS];
    uint32_t n_dead = 0, n_found = 0;
    visit(ctx, owner);
    for (uint32_t i = 0; i < row->n; i++)
        if (visit(ctx, row->slots[i]) && has_bit(m->is_dead, row->slots[i]))
            dead[n_dead++] = row->slots[i];
    for (uint32_t at = 0; at < n_dead && n_found < room; at++) {
        const vx_link *links = vx_view_links(view, dead[at], layer);
        for (uint32_t i = 0; i < cap && n_found < room; i++) {
            const vx_slot slot = vx_link_load(&links[i]) & VX_SLOT_BITS;
            if (slot >= m->n || !visit(ctx, slot))
                continue;
            if (!has_bit(m->is_dead, slot))
                found[n_found++] = slot;
            else if (n_dead < FOUND_ROWS * cap)
                dead[n_dead++] = slot;
        }
    }
    vx_ctx_forget(ctx);
    return n_found;
}

static bool leads_to_dead(const struct mend *m, vx_slot owner, unsigned layer)
{
    const vx_link *links = vx_view_links(m->view, owner, layer);
    const uint32_t cap = vx_view_row_links(m->view, layer);
    for (uint32_t i = 0; i < cap; i++) {
        const vx_slot slot = vx_link_load(&links[i]) & VX_SLOT_BITS;
        if (slot < m->n && has_bit(m->is_dead, slot))
            return true;
    }
    return false;
}

/* Take the dead out of one link row, and choose anew from what is left of it and
 * what the dead led to. */
static void mend_row(struct mend *m, vx_slot owner, unsigned layer, vx_ctx *ctx)
{
    const vx_view *view = m->view;
    const uint32_t cap = vx_view_row_links(view, layer);
    vx_row row, mended;
    vx_slot found[FOUND_ROWS * VX_MAX_ROW_LINKS];
    float dists[FOUND_ROWS * VX_MAX_ROW_LINKS];
    vx_key keys[(FOUND_ROWS + 1) * VX_MAX_ROW_LINKS];
    uint32_t n = 0;

    vx_row_load(&m->space, view, owner, layer, NULL, &row);
    const uint32_t n_found =
        find_successors(m, owner, layer, &row, ctx, found, FOUND_ROWS * cap);
    m->space.ops->many(vx_space_row(&m->space, owner), m->space.rows, m->space.row_bytes, found, n_found,
                 dists);
    for (uint32_t i = 0; i < n_found; i++)
        keys[n++] = vx_key_of(dists[i], found[i]);
    for (uint32_t i = 0; i < row.n; i++)
        if (!has_bit(m->is_dead, row.slots[i]))
            keys[n++] = vx_key_of(row.dists[i], row.slots[i]);
    qsort(keys, n, sizeof *keys, compare_keys);
    vx_row_select(&m->space, keys, n, cap, &mended);
    vx_row_store(view, owner, layer, NULL, &mended);
    if (layer > 0)
        return;
    for (uint32_t i = 0; i < mended.n; i++)
        visit(ctx, mended.slots[i]);
    for (uint32_t i = 0; i < row.n; i++)
        if (!has_bit(m->is_dead, row.slots[i]) && visit(ctx, row.slots[i]))
            set_bit(m->is_suspect, row.slots[i]);
    vx_ctx_forget(ctx);
}

static void mend_node(struct mend *m, vx_slot slot, vx_ctx *ctx)
{
    if (has_bit(m->is_dead, slot) || vx_view_is_twin(m->view, slot))
        return;
    for (unsigned layer = 0; layer <= m->view->levels[slot]; layer++)
        if (leads_to_dead(m, slot, layer))
            mend_row(m, slot, layer, ctx);
}

static void sweep_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    struct mend *m = arg;
    for (size_t slot = begin; slot < end; slot++)
        mend_node(m, (vx_slot)slot, m->contexts[who]);
    vx_step_at(VX_STEP_MEND);
}

/* The nodes of one word of is_near. */
static void near_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    struct mend *m = arg;
    for (size_t word = begin; word < end; word++) {
        const uint64_t bits = atomic_load_explicit(&m->is_near[word], memory_order_relaxed);
        for (unsigned bit = 0; bits >> bit != 0; bit++) {
            if (bits >> bit & 1)
                mend_node(m, (vx_slot)(word * 64 + bit), m->contexts[who]);
            if (bit == 63)
                break;
        }
    }
}

/* A walk around a dead row, on each of its layers. */
static void look_around(struct mend *m, vx_slot dead, vx_ctx *ctx)
{
    const vx_view *view = m->view;
    const void *vector = vx_space_row(&m->space, dead);
    for (unsigned layer = 0; layer <= view->levels[dead]; layer++) {
        const size_t ef = layer == 0 ? LOOK_EF : LOOK_EF_UPPER;
        ctx->pool[0] = vx_key_of(m->space.ops->pair(vector, vector, m->space.row_bytes), dead);
        ctx->n_pool = 1;
        m->space.ops->walk(&m->space, vector, view, m->n, layer, ef, ef, ctx);
        vx_ctx_forget(ctx);
        for (size_t i = 0; i < ctx->n_pool; i++)
            set_bit(m->is_near, vx_key_slot(ctx->pool[i]));
    }
}

/* A dead node that others hang off stays the way to them until a sweep gives it an
 * heir; twins have no links. */
static bool may_look(const vx_view *view, vx_slot dead)
{
    return !vx_view_is_twin(view, dead) && vx_view_next_twin(view, dead) == VX_NO_SLOT;
}

static void look_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    struct mend *m = arg;
    for (size_t i = begin; i < end; i++)
        if (may_look(m->view, m->graph->graves.linked[m->first + i]))
            look_around(m, m->graph->graves.linked[m->first + i], m->contexts[who]);
}

/* ---- in-links -------------------------------------------------------------------- */

/* What the dead linked to has lost a link too. */
static void suspect_successors(struct mend *m)
{
    const vx_graves *graves = &m->graph->graves;
    for (uint32_t at = m->first; at < m->end; at++) {
        const vx_link *links = vx_view_links(m->view, graves->linked[at], 0);
        for (uint32_t i = 0; i < m->view->M0; i++) {
            const vx_slot slot = vx_link_load(&links[i]) & VX_SLOT_BITS;
            if (slot < m->n && !has_bit(m->is_dead, slot))
                set_bit(m->is_suspect, slot);
        }
    }
}

static void in_link_piece(void *arg, size_t begin, size_t end, unsigned who)
{
    struct mend *m = arg;
    (void)who;
    for (size_t i = begin; i < end; i++)
        m->is_cut[i] = vx_is_cut_off(m->view, m->n_spare, m->suspects[i]);
}

/* After an interruption too: some rows are mended then. */
static bool keep_in_links(struct mend *m)
{
    size_t n = 0;
    suspect_successors(m);
    const size_t words = m->n / 64 + 1;
    for (size_t word = 0; word < words; word++)
        for (uint64_t bits = atomic_load(&m->is_suspect[word]); bits != 0; bits &= bits - 1)
            n++;
    m->suspects = vx_alloc(n + 1, sizeof *m->suspects);
    m->is_cut = vx_alloc(n + 1, 1);
    if (m->suspects == NULL || m->is_cut == NULL)
        return false;
    for (vx_slot slot = 0; slot < m->n; slot++)
        if (has_bit((const uint64_t *)(const void *)m->is_suspect, slot))
            m->suspects[m->n_suspects++] = slot;
    m->n_spare = vx_spare_links(m->graph, m->view);
    const vx_run quiet = {m->run.num_threads, NULL, NULL};
    vx_pool_run(m->n_suspects, 64, &quiet, 0, 0, in_link_piece, m);
    for (size_t i = 0; i < m->n_suspects; i++)
        if (m->is_cut[i] && vx_is_cut_off(m->view, m->n_spare, m->suspects[i]))
            vx_force_in_link(&m->space, m->view, NULL, m->n_spare, m->suspects[i]);
    return true;
}

/* ---- twins and the entry -------------------------------------------------------- */

/* Take the dead out of the chain of rows equal to a node.  Returns the first that is
 * left. */
static vx_slot mend_chain(vx_view *view, vx_slot node)
{
    vx_slot last = node;
    for (vx_slot slot = vx_view_next_twin(view, node); slot != VX_NO_SLOT;
         slot = vx_view_next_twin(view, slot))
        if (vx_view_is_alive(view, slot)) {
            if (vx_view_next_twin(view, last) != slot)
                atomic_store_explicit(&view->twins[last], slot + 1, memory_order_release);
            last = slot;
        }
    if (vx_view_next_twin(view, last) != VX_NO_SLOT)
        atomic_store_explicit(&view->twins[last], 0, memory_order_release);
    return vx_view_next_twin(view, node);
}

/* Chains lose their dead.  Where the node itself is dead, the first that is left is
 * linked as a node in its place, and the others hang off that. */
static vx_status mend_chains(struct mend *m, vx_error *err)
{
    vx_view *view = m->view;
    if (!atomic_load(&view->any_twins))
        return VX_OK;
    vx_slot *heirs = vx_alloc(n_linked(m->graph) + 1, sizeof *heirs);
    if (heirs == NULL)
        return VX_E_NOMEM;
    size_t n_heirs = 0, n_in = 0;
    for (vx_slot slot = 0; slot < m->n; slot++) {
        if (vx_view_next_twin(view, slot) == VX_NO_SLOT || vx_view_is_twin(view, slot))
            continue;
        const vx_slot heir = mend_chain(view, slot);
        if (heir != VX_NO_SLOT && !vx_view_is_alive(view, slot))
            heirs[n_heirs++] = heir;
    }
    vx_status st = VX_OK;
    if (n_heirs > 0) {
        qsort(heirs, n_heirs, sizeof *heirs, compare_slots);
        st = vx_graph_insert(m->graph, heirs, n_heirs, &m->run, NULL, NULL, NULL, &n_in,
                             err);
    }
    vx_free(heirs);
    return st;
}

/* The entry is a live node of the highest layer that has one. */
static void move_entry(vx_view *view, uint32_t n)
{
    const uint64_t entry = atomic_load(&view->entry);
    if (entry == VX_NO_ENTRY || vx_view_is_alive(view, (vx_slot)entry))
        return;
    uint64_t best = VX_NO_ENTRY;
    for (vx_slot slot = 0; slot < n; slot++)
        if ((best == VX_NO_ENTRY || view->levels[slot] > best >> 32) &&
            vx_view_is_alive(view, slot) && !vx_view_is_twin(view, slot))
            best = (uint64_t)view->levels[slot] << 32 | slot;
    atomic_store_explicit(&view->entry, best, memory_order_release);
}

/* ---- all of it -------------------------------------------------------------------- */

static bool prepare(struct mend *m, bool sweep)
{
    const size_t words = m->n / 64 + 1;
    m->is_dead = vx_zalloc(words, sizeof *m->is_dead);
    m->is_suspect = vx_zalloc(words, sizeof *m->is_suspect);
    m->is_near = sweep ? NULL : vx_zalloc(words, sizeof *m->is_near);
    m->contexts = vx_zalloc(m->run.num_threads, sizeof *m->contexts);
    if (m->is_dead == NULL || m->is_suspect == NULL || m->contexts == NULL ||
        (m->is_near == NULL && !sweep))
        return false;
    for (unsigned i = 0; i < m->run.num_threads; i++) {
        vx_view *view = NULL;
        m->contexts[i] = vx_ctx_take(m->graph, &view);
        if (m->contexts[i] == NULL || !vx_ctx_fit(m->contexts[i], view, m->n, LOOK_EF))
            return false;
    }
    for (uint32_t i = 0; i < m->end; i++) {
        const vx_slot slot = m->graph->graves.linked[i];
        if (!sweep && !may_look(m->view, slot))
            continue;
        m->is_dead[slot >> 6] |= (uint64_t)1 << (slot & 63);
    }
    return true;
}

static void finish(struct mend *m)
{
    for (unsigned i = 0; m->contexts != NULL && i < m->run.num_threads; i++)
        vx_ctx_release(m->contexts[i]);
    vx_free(m->contexts);
    vx_free(m->is_dead);
    vx_free((void *)m->is_suspect);
    vx_free((void *)m->is_near);
    vx_free(m->suspects);
    vx_free(m->is_cut);
    m->contexts = NULL;
    m->is_dead = NULL;
    m->is_suspect = m->is_near = NULL;
    m->suspects = NULL;
    m->is_cut = NULL;
    m->n_suspects = 0;
}

/* Wait for the searches that may still return a dead row.  One that takes longer
 * notices, and compares with every row instead (vx_graph_search). */
static void wait_for_older(vx_graph *graph, vx_view *view)
{
    uint64_t latest = atomic_load(&view->unlinked);
    for (uint32_t i = 0; i < n_linked(graph); i++) {
        const uint64_t death = atomic_load(&view->deaths[graph->graves.linked[i]]);
        latest = death > latest ? death : latest;
    }
    (void)vx_epoch_wait(graph, vx_epoch_next(graph));
    atomic_store_explicit(&view->unlinked, latest, memory_order_release);
}

static vx_status look(struct mend *m)
{
    vx_status st =
        vx_pool_run(m->end - m->first, 1, &m->run, 0, 0, look_piece, m);
    if (st == VX_OK)
        st = vx_pool_run(m->n / 64 + 1, 64, &m->run, 0, 0, near_piece, m);
    if (!keep_in_links(m) && st == VX_OK)
        st = VX_E_NOMEM;
    if (st == VX_OK)
        m->graph->graves.n_mended = m->end;
    return st;
}

/* Take out the first dead, up to m->end. */
static vx_status sweep(struct mend *m)
{
    vx_graves *graves = &m->graph->graves;
    const uint32_t n_left = n_linked(m->graph) - m->end;
    vx_status st = vx_pool_run(m->n, SWEEP_GRAIN, &m->run, 0, 0, sweep_piece, m);
    if (!keep_in_links(m) && st == VX_OK)
        st = VX_E_NOMEM;
    if (st != VX_OK)
        return st;
    for (uint32_t i = 0; i < m->end; i++) {
        empty_links(m->view, graves->linked[i]);
        graves->free[graves->n_free++] = graves->linked[i];
    }
    memmove(graves->linked, graves->linked + m->end, n_left * sizeof *graves->linked);
    atomic_store_explicit(&graves->n_linked, n_left, memory_order_relaxed);
    graves->n_mended = 0;
    graves->epoch = vx_epoch_next(m->graph);
    return VX_OK;
}

/* How many of the dead the next sweep takes out. */
static uint32_t piece_of(const struct mend *m)
{
    const uint32_t n_dead = n_linked(m->graph), n_nodes = m->n - m->graph->graves.n_free;
    const uint32_t most =
        n_nodes / PIECE_SHARE > PIECE_LEAST ? n_nodes / PIECE_SHARE : PIECE_LEAST;
    return n_dead < most ? n_dead : most;
}

static vx_status mend_piece(struct mend *m, bool sweeps)
{
    vx_status st = VX_E_NOMEM;
    m->end = sweeps ? piece_of(m) : n_linked(m->graph);
    if (prepare(m, sweeps))
        st = sweeps ? sweep(m) : look(m);
    finish(m); /* gives back the contexts, for which vx_epoch_wait would wait */
    return st;
}

static vx_status mend_all(struct mend *m, bool sweeps, vx_error *err)
{
    wait_for_older(m->graph, m->view);
    vx_status st = sweeps ? mend_chains(m, err) : VX_OK;
    move_entry(m->view, m->n);
    if (st == VX_OK)
        st = mend_piece(m, sweeps);
    while (st == VX_OK && sweeps && n_linked(m->graph) > 0)
        st = mend_piece(m, sweeps);
    return st;
}

vx_status vx_graph_mend(vx_graph *graph, bool all, const vx_run *run, vx_error *err)
{
    struct mend m = {.graph = graph};
    const uint32_t n_dead = n_linked(graph);
    m.view = atomic_load(&graph->view);
    m.n = atomic_load(&m.view->n_rows);
    m.space = vx_graph_space(graph, m.view);
    if (run != NULL)
        m.run = *run;
    m.run.num_threads = vx_pool_width(run);
    const bool sweeps = all || (uint64_t)n_dead * SWEEP_SHARE >= m.n;
    m.first = sweeps ? 0 : graph->graves.n_mended;
    if (n_dead == 0 || m.first == n_dead)
        return VX_OK;
    const vx_status st = mend_all(&m, sweeps, err);
    graph->n_unproven += n_dead - m.first;
    if (st == VX_E_INTERRUPTED) {
        if (m.n <= QUICK_ROWS)
            (void)vx_graph_prove(graph, NULL, err);
        return vx_fail(err, st, "interrupted");
    }
    if (sweeps || m.n <= SMALL_ROWS)
        return vx_graph_prove(graph, run, err);
    return vx_sketch_stale(m.view, m.n, &m.run) == VX_OK
               ? VX_OK
               : vx_fail(err, VX_E_INTERRUPTED, "interrupted");
}

vx_status vx_graph_prove(vx_graph *graph, const vx_run *run, vx_error *err)
{
    vx_view *view = NULL;
    vx_reach reach = {0};
    vx_status st = VX_OK;
    vx_ctx *ctx = vx_ctx_take(graph, &view);
    if (ctx == NULL)
        return VX_OK; /* n_unproven stays: an add will do it */
    const uint32_t n = atomic_load(&view->n_rows);
    const uint64_t entry = atomic_load(&view->entry);
    vx_asker asker = {.run = run, .last_tick = vx_now_ns()};
    const vx_halt halt = {vx_asker_asked, &asker};
    if (entry != VX_NO_ENTRY && vx_ctx_fit(ctx, view, n, VX_RECONNECT_EF) &&
        vx_reach_init(&reach, n)) {
        const vx_space space = vx_graph_space(graph, view);
        if (vx_reconnect(&space, view, n, (vx_slot)entry, &reach, ctx, &halt))
            graph->n_unproven = 0;
        else
            st = vx_fail(err, VX_E_INTERRUPTED, "interrupted");
    }
    vx_reach_fini(&reach);
    vx_ctx_release(ctx);
    if (st == VX_OK && (st = vx_sketch_stale(view, n, run)) != VX_OK)
        vx_fail(err, st, "interrupted");
    return st;
}
