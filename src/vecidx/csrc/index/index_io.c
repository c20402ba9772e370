/* index_io.c - an index to a file, and what a file says of itself.
 *
 * The container (checksums, atomic replacement) is store/; here is what its
 * sections mean.  Integers and floats are stored little-endian, as planes hold
 * them; a big-endian machine is refused. */
#include "index_io.h"

#include <stdio.h>
#include <string.h>

#include "../base/vx_alloc.h"
#include "../base/vx_status.h"
#include "../hnsw/hnsw_sketch.h"

/* Kinds up to 31 are kept for what belongs to these (docs/FORMAT.md). */
const vx_stored_plane vx_stored_planes[] = {
    {1, "vectors", VX_PLANE_VECTORS, VX_SECTION_REQUIRED, false},
    {2, "links", VX_PLANE_LINKS, VX_SECTION_REQUIRED, false},
    {3, "levels", VX_PLANE_LEVELS, VX_SECTION_REQUIRED, false},
    {4, "upper links", VX_PLANE_UPPER, VX_SECTION_REQUIRED, false},
    {5, "upper places", VX_PLANE_UPPER_AT, VX_SECTION_REQUIRED, false},
    {6, "ids", VX_PLANE_LABELS, VX_SECTION_REQUIRED, false},
    {7, "norms", VX_PLANE_NORMS, VX_SECTION_REQUIRED, false},
    {8, "twins", VX_PLANE_TWINS, VX_SECTION_REQUIRED, true},
    {16, "codes", VX_PLANE_CODES, VX_SECTION_REQUIRED, false},
    {18, "rank codes", VX_PLANE_RANKS, VX_SECTION_REQUIRED, false},
};
const size_t vx_n_stored_planes = sizeof vx_stored_planes / sizeof *vx_stored_planes;

#define N_SECTIONS_MOST (sizeof vx_stored_planes / sizeof *vx_stored_planes + 2 + VX_N_NOTES)

static const char *const dtypes[] = {"float32", "float16", "bfloat16", "int8", "uint8", "bits"};
static const char *const quantizations[] = {"none", "sq8", "sq4", "auto"};
static const char *const metrics[] = {"l2", "ip", "cosine", "hamming", "jaccard"};
#define N_OF(array) (sizeof(array) / sizeof *(array))

const char *vx_io_dtype(uint64_t number) { return number < N_OF(dtypes) ? dtypes[number] : NULL; }
const char *vx_io_quantization(uint64_t number)
{
    return number < N_OF(quantizations) ? quantizations[number] : NULL;
}

/* ---- save ------------------------------------------------------------------- */

struct plan {
    uint64_t fields[VX_N_FIELDS];
    vx_section sections[N_SECTIONS_MOST];
    size_t n;
    uint64_t *tombstones; /* to be freed, and so is codec */
    void *codec;
};

static vx_status plan_tombstones(struct plan *plan, vx_view *view, uint32_t n, vx_error *err)
{
    const size_t words = ((size_t)n + 63) / 64;
    const vx_snapshot now = vx_view_snapshot(view);
    plan->tombstones = vx_zalloc(words, sizeof *plan->tombstones);
    if (plan->tombstones == NULL)
        return vx_fail_nomem(err, "saving");
    for (vx_slot slot = 0; slot < n; slot++)
        if (!vx_view_sees(view, &now, slot)) {
            plan->tombstones[slot / 64] |= (uint64_t)1 << slot % 64;
            plan->fields[FIELD_N_DEAD]++;
        }
    plan->sections[plan->n++] =
        (vx_section){SECTION_TOMBSTONES, VX_SECTION_REQUIRED, "tombstones", plan->tombstones,
                     words * sizeof *plan->tombstones, NULL};
    return VX_OK;
}

static vx_status plan_codec(struct plan *plan, const vx_view *view, vx_error *err)
{
    const size_t bytes = vx_codec_stored_bytes(view->codec);
    plan->codec = vx_alloc(bytes, 1);
    if (plan->codec == NULL)
        return vx_fail_nomem(err, "saving");
    vx_codec_store(view->codec, plan->codec);
    plan->sections[plan->n++] =
        (vx_section){SECTION_CODEC, VX_SECTION_REQUIRED, "codec", plan->codec, bytes, NULL};
    return VX_OK;
}

static uint64_t float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static void plan_planes(struct plan *plan, const vx_index *index, const vx_view *view, uint32_t n)
{
    for (size_t i = 0; i < vx_n_stored_planes; i++) {
        const vx_stored_plane *p = &vx_stored_planes[i];
        const uint64_t row = vx_view_row_bytes(view, p->plane);
        if (row == 0 || (p->plane == VX_PLANE_TWINS && !atomic_load(&view->any_twins)))
            continue;
        const uint64_t rows = p->plane == VX_PLANE_UPPER ? view->n_upper : n;
        const bool is_mapped = view->planes[p->plane].reserved == 0;
        plan->sections[plan->n++] =
            (vx_section){p->kind, p->flags, p->name, view->planes[p->plane].base, rows * row,
                         is_mapped ? &index->mapped_crcs[p->plane] : NULL};
    }
}

static void plan_notes(struct plan *plan, const vx_index *index)
{
    for (int i = 0; i < VX_N_NOTES; i++)
        if (index->notes[i].n > 0)
            plan->sections[plan->n++] =
                (vx_section){vx_note_kinds[i].kind, vx_note_kinds[i].flags, vx_note_kinds[i].name,
                             index->notes[i].bytes, index->notes[i].n, NULL};
}

static vx_status make_plan(struct plan *plan, const vx_index *index, vx_error *err)
{
    const vx_params *p = &index->graph.params;
    vx_view *view = atomic_load(&index->graph.view);
    const uint32_t n = atomic_load(&view->n_rows);
    const uint64_t fields[VX_N_FIELDS] = {
        [FIELD_DIM] = p->dim,
        [FIELD_METRIC] = p->metric,
        [FIELD_DTYPE] = p->dtype,
        [FIELD_QUANTIZATION] = p->quantization,
        [FIELD_M] = p->M,
        [FIELD_EF_CONSTRUCTION] = p->ef_construction,
        [FIELD_SEED] = p->seed,
        [FIELD_N_ROWS] = n,
        [FIELD_N_UPPER] = view->n_upper,
        [FIELD_ENTRY] = atomic_load(&view->entry),
        [FIELD_NEXT_LABEL] = index->next_label,
        [FIELD_N_UNPROVEN] = index->graph.n_unproven,
        [FIELD_FLAGS] = (vx_labels_are_slots(&index->labels) ? FLAG_IDS_ARE_SLOTS : 0) |
                        (view->codec != NULL && view->codec->holds_rows ? FLAG_ROWS_ARE_BYTES : 0),
        [FIELD_VECTOR_BYTES] = vx_view_row_bytes(view, VX_PLANE_VECTORS),
        [FIELD_LINK_BYTES] = view->block_bytes,
        [FIELD_UPPER_BYTES] = view->upper_bytes,
        [FIELD_LOCAL_DIM] = float_bits(atomic_load(&view->local_dim)),
    };
    memcpy(plan->fields, fields, sizeof fields);
    plan_planes(plan, index, view, n);
    plan_notes(plan, index);
    const vx_status st = view->codec != NULL ? plan_codec(plan, view, err) : VX_OK;
    return st == VX_OK && atomic_load(&view->any_dead) ? plan_tombstones(plan, view, n, err) : st;
}

/* To `path`, or, if that is NULL, to `sink`.  Holding the writer's lock: searches
 * go on, nothing changes. */
static vx_status save(vx_index *index, const char *path, const vx_sink *sink, const vx_run *run,
                      vx_error *err)
{
    struct plan plan;
    vx_status st = vx_lock_settled(index, "save", run, err);
    if (st != VX_OK)
        return st;
    plan = (struct plan){.n = 0};
    if (!index->is_read_only) { /* what an interrupted call has left */
        vx_view *view = atomic_load(&index->graph.view);
        if (vx_sketch_stale(view, atomic_load(&view->n_rows), run) != VX_OK)
            st = vx_fail(err, VX_E_INTERRUPTED, "interrupted");
    }
    if (st == VX_OK)
        st = make_plan(&plan, index, err);
    if (st == VX_OK)
        st = path != NULL ? vx_store_write(path, plan.fields, sizeof plan.fields, plan.sections,
                                           plan.n, run, err)
                          : vx_store_write_to(sink, plan.fields, sizeof plan.fields,
                                              plan.sections, plan.n, run, err);
    vx_free(plan.tombstones);
    vx_free(plan.codec);
    vx_writer_unlock(&index->writer);
    return st == VX_OK ? vx_ok(err) : st;
}

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

vx_status vx_index_save(vx_index *index, const char *path, const vx_run *run, vx_error *err)
{
    return is_little_endian() ? save(index, path, NULL, run, err) : refuse_byte_order(err);
}

vx_status vx_index_save_to(vx_index *index, const vx_sink *sink, const vx_run *run, vx_error *err)
{
    return is_little_endian() ? save(index, NULL, sink, run, err) : refuse_byte_order(err);
}

/* ---- what a file says ---------------------------------------------------------- */

static vx_status refuse(vx_error *err, const char *what, uint64_t got)
{
    return vx_fail(err, VX_E_FORMAT, "parameters: %s is %llu, which no index has", what,
                   (unsigned long long)got);
}

static vx_status check_words(const uint64_t *fields, vx_error *err)
{
    const uint64_t dtype = fields[FIELD_DTYPE], quantization = fields[FIELD_QUANTIZATION];
    if (dtype > VX_BITS)
        return vx_fail(err, VX_E_FORMAT,
                       "parameters: dtype %llu (%s): this vecidx does not know it; a newer "
                       "vecidx is needed",
                       (unsigned long long)dtype, vx_io_dtype(dtype) ? vx_io_dtype(dtype) : "?");
    if (quantization > VX_QUANT_AUTO)
        return vx_fail(err, VX_E_FORMAT,
                       "parameters: quantization %llu (%s): this vecidx does not know it; a newer "
                       "vecidx is needed",
                       (unsigned long long)quantization,
                       vx_io_quantization(quantization) ? vx_io_quantization(quantization) : "?");
    if (fields[FIELD_FLAGS] & ~(uint64_t)(FLAG_IDS_ARE_SLOTS | FLAG_ROWS_ARE_BYTES))
        return vx_fail(err, VX_E_FORMAT,
                       "parameters: flags %#llx: this vecidx does not know them; a newer vecidx "
                       "is needed",
                       (unsigned long long)fields[FIELD_FLAGS]);
    return VX_OK;
}

static vx_status check_entry(const uint64_t *fields, vx_error *err)
{
    const uint64_t entry = fields[FIELD_ENTRY], n = fields[FIELD_N_ROWS], layer = entry >> 32;
    const bool fits = n == fields[FIELD_N_DEAD]
                          ? entry == VX_NO_ENTRY
                             : (uint32_t)entry < n && layer < VX_MAX_LEVELS &&
                                   layer <= fields[FIELD_N_UPPER];
    return fits ? VX_OK : refuse(err, "entry point", entry);
}

/* As many as there are, zeros for the rest. */
static vx_status copy_fields(const vx_store *store, uint64_t *fields, vx_error *err)
{
    size_t length;
    const uint64_t *block = vx_store_params(store, &length);
    if (length % sizeof *block != 0)
        return vx_fail(err, VX_E_FORMAT, "parameters: expected a multiple of 8 bytes, got %zu",
                       length);
    memset(fields, 0, VX_N_FIELDS * sizeof *fields);
    for (size_t i = 0; i < length / sizeof *block; i++) {
        if (i < VX_N_FIELDS)
            fields[i] = block[i];
        else if (block[i] != 0)
            return vx_fail(err, VX_E_FORMAT,
                           "parameters: number %zu is %llu: this vecidx does not know it; a newer "
                           "vecidx is needed",
                           i, (unsigned long long)block[i]);
    }
    return VX_OK;
}

vx_status vx_io_fields(const vx_store *store, uint64_t fields[VX_N_FIELDS], vx_error *err)
{
    if (!is_little_endian())
        return refuse_byte_order(err);
    vx_status st = copy_fields(store, fields, err);
    if (st == VX_OK)
        st = check_words(fields, err);
    if (st != VX_OK)
        return st;
    const uint64_t n = fields[FIELD_N_ROWS];
    const bool is_bits = fields[FIELD_DTYPE] == VX_BITS;
    if (fields[FIELD_DIM] < 1 || fields[FIELD_DIM] > VX_MAX_DIM)
        return refuse(err, "dim", fields[FIELD_DIM]);
    const bool are_bytes = (fields[FIELD_FLAGS] & FLAG_ROWS_ARE_BYTES) != 0;
    const vx_dtype stored = are_bytes ? VX_U8 : (vx_dtype)fields[FIELD_DTYPE];
    const uint64_t vector_bytes =
        vx_round_up(vx_row_bytes(stored, (uint32_t)fields[FIELD_DIM]), VX_LINE);
    const struct {
        enum vx_field field;
        const char *name;
        uint64_t least, most;
    } limits[] = {
        {FIELD_METRIC, "metric", is_bits ? VX_HAMMING : 0, is_bits ? VX_JACCARD : VX_COSINE},
        {FIELD_QUANTIZATION, "quantization", 0, is_bits ? VX_QUANT_NONE : VX_QUANT_AUTO},
        {FIELD_M, "M", VX_MIN_M, VX_MAX_M},
        {FIELD_EF_CONSTRUCTION, "ef_construction", 1, VX_MAX_EF_CONSTRUCTION},
        {FIELD_N_ROWS, "number of rows", 0, VX_MAX_ROWS},
        {FIELD_N_UPPER, "number of upper link rows", 0, VX_MAX_ROWS},
        {FIELD_N_DEAD, "number of deleted rows", 0, n},
        {FIELD_NEXT_LABEL, "next id", 0, (uint64_t)INT64_MAX + 1},
        {FIELD_N_UNPROVEN, "number of unproven rows", 0, VX_MAX_ROWS},
        {FIELD_VECTOR_BYTES, "length of a vector", vector_bytes, vector_bytes},
        {FIELD_LINK_BYTES, "length of a link row", vx_round_up(8 * fields[FIELD_M], VX_LINE),
         VX_MAX_BLOCK_BYTES},
        {FIELD_UPPER_BYTES, "length of an upper link row",
         vx_round_up(4 * fields[FIELD_M], VX_LINE), vx_round_up(4 * fields[FIELD_M], VX_LINE)},
        {FIELD_LOCAL_DIM, "local dimension", 0, UINT32_MAX},
    };
    for (size_t i = 0; i < N_OF(limits); i++) {
        const uint64_t got = fields[limits[i].field];
        if (got < limits[i].least || got > limits[i].most)
            return refuse(err, limits[i].name, got);
    }
    if (are_bytes && (fields[FIELD_QUANTIZATION] != VX_QUANT_AUTO ||
                      fields[FIELD_METRIC] != VX_L2SQ || fields[FIELD_DTYPE] > VX_BF16))
        return refuse(err, "flags", fields[FIELD_FLAGS]);
    return check_entry(fields, err);
}

static const char *word_of(const char *const *words, size_t n, uint64_t number)
{
    return number < n ? words[number] : "?";
}

vx_status vx_index_inspect(const char *path, vx_file_info *out, vx_error *err)
{
    uint64_t f[VX_N_FIELDS];
    vx_store *store = NULL;
    vx_status st = vx_store_open(path, NULL, &store, err);
    if (st == VX_OK)
        st = copy_fields(store, f, err);
    if (st == VX_OK) {
        *out = (vx_file_info){
            .version = VX_STORE_VERSION, .file_bytes = vx_store_length(store),
            .dim = f[FIELD_DIM], .M = f[FIELD_M], .ef_construction = f[FIELD_EF_CONSTRUCTION],
            .seed = f[FIELD_SEED], .n_rows = f[FIELD_N_ROWS], .n_dead = f[FIELD_N_DEAD],
            .metric = word_of(metrics, N_OF(metrics), f[FIELD_METRIC]),
            .dtype = word_of(dtypes, N_OF(dtypes), f[FIELD_DTYPE]),
            .quantization = word_of(quantizations, N_OF(quantizations), f[FIELD_QUANTIZATION]),
        };
        for (const vx_entry *e; (e = vx_store_entry(store, out->n_sections)) != NULL;) {
            vx_file_section *to = &out->sections[out->n_sections++];
            *to = (vx_file_section){e->kind, (e->flags & VX_SECTION_REQUIRED) != 0, e->crc,
                                    e->offset, e->length, ""};
            memcpy(to->name, e->name, sizeof e->name);
        }
    }
    vx_store_close(store);
    return st == VX_OK ? vx_ok(err) : st;
}
