/* index_load.c - a file to an index: read, or mapped.
 *
 * A full load trusts nothing.  Sizes are checked against the file before memory
 * is taken for them, sections against their checksums, and the rows against one
 * another (index_load_check.c), before the index is handed out.
 *
 * A mapped index is opened by its head alone, in the same time whatever its size:
 * planes are laid over the mapping, and nothing of them is looked at.  So every
 * read of a search bounds what it takes from a plane (vx_view_links, the walk,
 * offer_with_twins): a damaged body gives wrong answers, never an access out of
 * bounds.  Such an index is never written; its label map is made when first asked
 * for. */
#include <string.h>

#include "../base/vx_alloc.h"
#include "../base/vx_pool.h"
#include "../base/vx_status.h"
#include "index_io.h"

struct load {
    vx_store *store;
    vx_index *index;
    vx_load_options options;
    const vx_run *run;
    uint64_t fields[VX_N_FIELDS];
};

/* Rows that are held as bytes are read at every step, as codes are, unless ranks are. */
static bool are_walked(const struct load *l)
{
    const vx_codec *codec = atomic_load(&l->index->graph.view)->codec;
    return codec != NULL && codec->holds_rows && !codec->has_ranks;
}

static bool is_mapped(const struct load *l, int plane)
{
    return l->options.map == VX_MAP_ALL ||
           (l->options.map == VX_MAP_VECTORS && plane == VX_PLANE_VECTORS && !are_walked(l));
}

static uint64_t plane_rows(const struct load *l, int plane)
{
    return l->fields[plane == VX_PLANE_UPPER ? FIELD_N_UPPER : FIELD_N_ROWS];
}

/* Is each plane's section there, and as long as the parameters say?  Fills in
 * where the mapped ones lie. */
static vx_status find_planes(struct load *l, const void *given[VX_N_PLANES], vx_error *err)
{
    const vx_view *view = atomic_load(&l->index->graph.view);
    for (size_t i = 0; i < vx_n_stored_planes; i++) {
        const vx_stored_plane *p = &vx_stored_planes[i];
        const vx_entry *e = vx_store_find(l->store, p->kind);
        const uint64_t bytes = plane_rows(l, p->plane) * vx_view_row_bytes(view, p->plane);
        if (e != NULL && p->plane == VX_PLANE_CODES && view->codec != NULL &&
            view->codec->has_ranks)
            continue; /* earlier versions kept them beside rank codes */
        if (e != NULL && vx_view_row_bytes(view, p->plane) == 0)
            return vx_fail(err, VX_E_FORMAT,
                           "section '%s' (at byte %llu): an index of these parameters has none",
                           p->name, (unsigned long long)e->offset);
        if (vx_view_row_bytes(view, p->plane) == 0 || (e == NULL && p->may_lack))
            continue;
        if (e == NULL)
            return vx_fail(err, VX_E_FORMAT, "section '%s' is missing", p->name);
        if (e->length != bytes)
            return vx_fail(err, VX_E_FORMAT,
                           "section '%s' (at byte %llu): expected %llu bytes, found %llu", p->name,
                           (unsigned long long)e->offset, (unsigned long long)bytes,
                           (unsigned long long)e->length);
        if (is_mapped(l, p->plane)) {
            given[p->plane] = l->index->map.base + e->offset;
            l->index->mapped_crcs[p->plane] = e->crc;
        }
    }
    return VX_OK;
}

static vx_status read_planes(struct load *l, const void *const given[VX_N_PLANES], vx_error *err)
{
    const vx_view *view = atomic_load(&l->index->graph.view);
    vx_status st = VX_OK;
    for (size_t i = 0; i < vx_n_stored_planes && st == VX_OK; i++) {
        const vx_stored_plane *p = &vx_stored_planes[i];
        const uint64_t bytes = plane_rows(l, p->plane) * vx_view_row_bytes(view, p->plane);
        if (given[p->plane] == NULL && vx_view_row_bytes(view, p->plane) > 0 &&
            vx_store_find(l->store, p->kind) != NULL)
            st = vx_store_read(l->store, p->kind, view->planes[p->plane].base, bytes, err);
    }
    return st;
}

/* Rows that no search returns: born at the beginning, dead since number 1. */
static vx_status bury(vx_view *view, const uint64_t *bits, uint64_t n, uint64_t n_dead,
                      vx_error *err)
{
    uint64_t found = 0;
    for (uint64_t word = 0; word < (n + 63) / 64; word++)
        for (uint64_t left = bits[word]; left != 0; left &= left - 1) {
            uint64_t slot = word * 64;
            for (uint64_t bit = left & (0 - left); bit > 1; bit >>= 1)
                slot++;
            if (slot >= n || ++found > n_dead)
                return vx_fail(err, VX_E_FORMAT,
                               "section 'tombstones': slot %llu is marked, of %llu rows, %llu "
                               "of them deleted",
                               (unsigned long long)slot, (unsigned long long)n,
                               (unsigned long long)n_dead);
            atomic_store_explicit(&view->deaths[slot], 1, memory_order_relaxed);
        }
    if (found != n_dead)
        return vx_fail(err, VX_E_FORMAT, "section 'tombstones': expected %llu marks, found %llu",
                       (unsigned long long)n_dead, (unsigned long long)found);
    atomic_store(&view->seq, 1);
    atomic_store(&view->any_dead, true);
    return VX_OK;
}

static vx_status read_tombstones(struct load *l, vx_view *view, vx_error *err)
{
    const uint64_t n = l->fields[FIELD_N_ROWS], n_dead = l->fields[FIELD_N_DEAD];
    const vx_entry *e = vx_store_find(l->store, SECTION_TOMBSTONES);
    if (e == NULL)
        return n_dead == 0 ? VX_OK
                           : vx_fail(err, VX_E_FORMAT, "section 'tombstones' is missing");
    const size_t words = (size_t)((n + 63) / 64);
    uint64_t *bits = vx_alloc(words, sizeof *bits);
    if (bits == NULL)
        return vx_fail_nomem(err, "loading");
    vx_status st = vx_store_read(l->store, SECTION_TOMBSTONES, bits, words * sizeof *bits, err);
    if (st == VX_OK)
        st = bury(view, bits, n, n_dead, err);
    vx_free(bits);
    return st;
}

/* The trained state, before the planes whose rows it makes longer. */
static vx_status read_codec(struct load *l, vx_error *err)
{
    const vx_entry *e = vx_store_find(l->store, SECTION_CODEC);
    vx_graph *graph = &l->index->graph;
    vx_codec *codec = NULL;
    vx_status st = VX_OK;
    const bool are_bytes = (l->fields[FIELD_FLAGS] & FLAG_ROWS_ARE_BYTES) != 0;
    if (e != NULL) {
        void *bytes = e->length <= VX_CODEC_MOST_BYTES ? vx_alloc((size_t)e->length, 1) : NULL;
        st = bytes != NULL ? vx_store_read(l->store, SECTION_CODEC, bytes, e->length, err)
             : e->length > VX_CODEC_MOST_BYTES
                 ? vx_fail(err, VX_E_FORMAT, "section 'codec' (at byte %llu): too long",
                           (unsigned long long)e->offset)
                 : vx_fail_nomem(err, "loading");
        if (st == VX_OK)
            st = vx_codec_restore(bytes, (size_t)e->length, graph->params.dim,
                                  graph->params.metric == VX_IP,
                                  graph->params.quantization == VX_QUANT_SQ4, &codec, err);
        vx_free(bytes);
        if (st == VX_OK && (graph->params.quantization == VX_QUANT_NONE ||
                            (codec->n_sketch > 0 && graph->params.quantization != VX_QUANT_AUTO)))
            st = vx_fail(err, VX_E_FORMAT, "section 'codec': the parameters name no such codes");
        if (st == VX_OK && are_bytes && !codec->is_lossless)
            st = vx_fail(err, VX_E_FORMAT, "section 'codec': vectors are bytes, its codes are not");
        if (st == VX_OK)
            codec->holds_rows = are_bytes;
        if (st == VX_OK)
            st = vx_graph_adopt(graph, codec, err);
        vx_codec_free(codec); /* the view has it */
        if (st != VX_OK)
            return st;
    } else if (are_bytes) {
        return vx_fail(err, VX_E_FORMAT, "section 'codec' is missing");
    }
    const vx_view *view = atomic_load(&graph->view);
    if (l->fields[FIELD_LINK_BYTES] != view->block_bytes)
        return vx_fail(err, VX_E_FORMAT,
                       "parameters: length of a link row is %llu, expected %zu",
                       (unsigned long long)l->fields[FIELD_LINK_BYTES], view->block_bytes);
    return VX_OK;
}

/* The measured dimension, which is none of ours to believe. */
static void set_local_dim(struct load *l, vx_view *view)
{
    const uint32_t bits = (uint32_t)l->fields[FIELD_LOCAL_DIM];
    float dim;
    memcpy(&dim, &bits, sizeof dim);
    if (!(dim > 0 && dim < 1e6f))
        return;
    atomic_store(&view->local_dim, dim);
    l->index->graph.n_calibrated = l->fields[FIELD_N_ROWS];
}

/* Planes in place, rows not yet believed. */
static vx_status lay_planes(struct load *l, vx_error *err)
{
    vx_graph *graph = &l->index->graph;
    const void *given[VX_N_PLANES] = {NULL};
    const uint64_t n = l->fields[FIELD_N_ROWS], n_upper = l->fields[FIELD_N_UPPER];
    vx_status st = find_planes(l, given, err);
    if (st == VX_OK)
        st = l->options.map == VX_MAP_NOTHING ? vx_graph_reserve(graph, n, n_upper, err)
                                              : vx_graph_lay_over(graph, n, n_upper, given, err);
    if (st == VX_OK)
        st = read_planes(l, given, err);
    vx_view *view = atomic_load(&graph->view);
    if (st == VX_OK)
        st = read_tombstones(l, view, err);
    if (st == VX_OK && (l->options.map == VX_MAP_NOTHING || l->options.verify))
        st = vx_store_check_rest(l->store, err);
    if (st != VX_OK)
        return st;

    const uint64_t n_dead = l->fields[FIELD_N_DEAD], entry = l->fields[FIELD_ENTRY];
    for (size_t i = 0; i < vx_n_stored_planes; i++)
        if (vx_stored_planes[i].plane == VX_PLANE_TWINS)
            atomic_store(&view->any_twins, vx_store_find(l->store, vx_stored_planes[i].kind) != NULL);
    view->n_upper = (uint32_t)n_upper;
    atomic_store(&view->entry, entry);
    atomic_store(&view->n_rows, (uint32_t)n);
    atomic_store(&l->index->n_dead, n_dead);
    atomic_store(&l->index->n_live, n - n_dead);
    l->index->next_label = l->fields[FIELD_NEXT_LABEL];
    graph->n_unproven = l->fields[FIELD_N_UNPROVEN];
    set_local_dim(l, view);
    return VX_OK;
}

/* A map is needed unless ids are row numbers and every one is there. */
static vx_status map_labels(struct load *l, vx_error *err)
{
    vx_labels *labels = &l->index->labels;
    const vx_view *view = atomic_load(&l->index->graph.view);
    const bool is_needed =
        (l->fields[FIELD_FLAGS] & FLAG_IDS_ARE_SLOTS) == 0 || l->fields[FIELD_N_DEAD] > 0;
    labels->n_published = (uint32_t)l->fields[FIELD_N_ROWS];
    atomic_store(&labels->is_pending, is_needed);
    if (!is_needed || (l->options.map == VX_MAP_ALL && !l->options.verify))
        return VX_OK;
    vx_label twice = VX_NO_LABEL;
    const vx_status st = vx_labels_settle(labels, (vx_view *)view, &twice, err);
    if (st == VX_OK && twice != VX_NO_LABEL)
        return vx_fail(err, VX_E_FORMAT, "section 'ids': id %lld is there twice", (long long)twice);
    return st;
}

/* Everything that vx_index_check knows, in a file's words. */
static vx_status verify(vx_index *index, const vx_run *run, vx_error *err)
{
    vx_check check;
    vx_error why = {0};
    const vx_status st = vx_index_check(index, run, &check, &why);
    if (st == VX_E_STATE)
        return vx_fail(err, VX_E_FORMAT, "damaged: %s", why.text);
    if (st != VX_OK && err != NULL)
        *err = why;
    return st;
}

static vx_status fill(struct load *l, vx_error *err)
{
    vx_status st = lay_planes(l, err);
    if (st == VX_OK && (l->options.map != VX_MAP_ALL || l->options.verify))
        st = vx_io_check_rows(l->index, l->store, l->fields,
                              l->options.map == VX_MAP_NOTHING || l->options.verify, l->run, err);
    if (st == VX_OK)
        st = map_labels(l, err);
    if (st == VX_OK && l->options.map == VX_MAP_NOTHING)
        st = vx_graves_collect(&l->index->graph, err);
    else /* never to be used again, so which are free does not matter */
        atomic_store(&l->index->graph.graves.n_linked, (uint32_t)l->fields[FIELD_N_DEAD]);
    if (st == VX_OK && l->options.verify)
        st = verify(l->index, l->run, err);
    return st;
}

static vx_status map_file(struct load *l, vx_error *err)
{
    vx_map *map = &l->index->map;
    l->index->is_read_only = true;
    const vx_status st = vx_store_map(l->store, map, err);
    const vx_entry *vectors = vx_store_find(l->store, vx_stored_planes[0].kind);
    /* Cold vectors are read a row at a time: what lies around is not wanted. */
    if (st == VX_OK && is_mapped(l, VX_PLANE_VECTORS) && l->options.map == VX_MAP_VECTORS &&
        vectors != NULL)
        vx_map_advise(map, (size_t)vectors->offset, (size_t)vectors->length, VX_MAP_RANDOM);
    return st;
}

/* Takes over `store`. */
static vx_status load_store(vx_store *store, vx_load_options options, const vx_run *run,
                            vx_index **out, vx_error *err)
{
    struct load l = {.store = store, .options = options, .run = run};
    uint32_t known[VX_STORE_MAX_SECTIONS] = {SECTION_TOMBSTONES, SECTION_CODEC};
    size_t n_known = 2;
    for (size_t i = 0; i < vx_n_stored_planes; i++)
        known[n_known++] = vx_stored_planes[i].kind;
    for (size_t i = 0; i < VX_N_NOTES; i++)
        known[n_known++] = vx_note_kinds[i].kind;
    vx_status st = vx_io_fields(store, l.fields, err);
    if (st == VX_OK)
        st = vx_store_require_known(store, known, n_known, err);
    const vx_params params = {
        .dim = (uint32_t)l.fields[FIELD_DIM],
        .metric = (uint32_t)l.fields[FIELD_METRIC],
        .dtype = (uint32_t)l.fields[FIELD_DTYPE],
        .quantization = (uint32_t)l.fields[FIELD_QUANTIZATION],
        .M = (uint32_t)l.fields[FIELD_M],
        .ef_construction = (uint32_t)l.fields[FIELD_EF_CONSTRUCTION],
        .seed = l.fields[FIELD_SEED],
    };
    if (st == VX_OK)
        st = vx_index_new(&params, &l.index, err);
    if (st == VX_OK)
        st = read_codec(&l, err);
    if (st == VX_OK)
        st = vx_io_read_notes(l.index, store, err);
    if (st == VX_OK && options.map != VX_MAP_NOTHING)
        st = map_file(&l, err);
    if (st == VX_OK)
        st = fill(&l, err);
    vx_store_close(store);
    if (st != VX_OK) {
        vx_index_free(l.index);
        return st;
    }
    *out = l.index;
    return vx_ok(err);
}

vx_status vx_index_load(const char *path, const vx_load_options *options, const vx_run *run,
                        vx_index **out, vx_error *err)
{
    vx_store *store = NULL;
    const vx_status st = vx_store_open(path, run, &store, err);
    if (st != VX_OK)
        return st;
    return load_store(store, options != NULL ? *options : (vx_load_options){VX_MAP_NOTHING, 0},
                      run, out, err);
}

vx_status vx_index_load_memory(const void *data, size_t n, int with_check, const vx_run *run,
                               vx_index **out, vx_error *err)
{
    vx_store *store = NULL;
    const vx_status st = vx_store_open_memory(data, n, run, &store, err);
    if (st != VX_OK)
        return st;
    return load_store(store, (vx_load_options){VX_MAP_NOTHING, with_check}, run, out, err);
}

/* ---- an index over a file ---------------------------------------------------------- */

int vx_index_is_read_only(const vx_index *index) { return index->is_read_only; }

#define WARM_GRAIN ((size_t)1 << 20) /* bytes a piece; 20 ms on a slow disk */

static void touch_pages(void *arg, size_t begin, size_t end, unsigned who)
{
    const vx_map *map = arg;
    volatile unsigned char byte;
    (void)who;
    /* 4 KiB: no system has smaller pages. */
    for (size_t at = begin; at < end; at += 4096)
        byte = map->base[at];
    (void)byte;
}

vx_status vx_index_warm(vx_index *index, const vx_run *run, vx_error *err)
{
    /* The pinned view keeps close() from unmapping under us. */
    vx_view *view = NULL;
    vx_ctx *ctx = vx_ctx_take(&index->graph, &view);
    if (ctx == NULL)
        return vx_fail_nomem(err, "reading pages");
    vx_status st = VX_OK;
    if (view->is_closed) {
        st = vx_index_refuse_closed(err);
    } else if (index->map.base != NULL) {
        vx_map_advise(&index->map, 0, index->map.length, VX_MAP_SOON);
        st = vx_pool_run(index->map.length, WARM_GRAIN, run, 0, index->map.length, touch_pages,
                         &index->map);
        if (st != VX_OK)
            vx_fail(err, st, "interrupted");
    }
    vx_ctx_release(ctx);
    return st == VX_OK ? vx_ok(err) : st;
}

/* ---- close ------------------------------------------------------------------------- */

int vx_index_is_closed(const vx_index *index)
{
    return atomic_load(&index->graph.view)->is_closed;
}

vx_status vx_index_refuse_closed(vx_error *err)
{
    return vx_fail(err, VX_E_STATE, "the index is closed");
}

vx_status vx_index_close(vx_index *index, const vx_run *run, vx_error *err)
{
    if (vx_index_is_closed(index))
        return vx_ok(err);
    vx_status st = vx_writer_lock(&index->writer, "close", run, err);
    if (st != VX_OK)
        return st;
    if (vx_index_is_closed(index)) { /* by another thread, meanwhile */
        vx_writer_unlock(&index->writer);
        return vx_ok(err);
    }
    /* Searches under way see that they are to end (index_batch.c). */
    for (unsigned waited_ms = 1; !vx_graph_close(&index->graph) && st == VX_OK; waited_ms++) {
        if (waited_ms % 20 == 0 && run != NULL && run->tick != NULL &&
            run->tick(run->tick_arg, 0, 0) != 0)
            st = vx_fail(err, VX_E_INTERRUPTED, "interrupted");
        vx_sleep_ms(1);
    }
    if (st == VX_OK) {
        vx_labels_clear(&index->labels);
        vx_map_free(&index->map);
    }
    vx_writer_unlock(&index->writer);
    return st == VX_OK ? vx_ok(err) : st;
}
