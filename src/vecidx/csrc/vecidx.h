/* vecidx.h - the public face of the C core.
 *
 * One opaque object, vx_index: float vectors, their int64 labels, and an HNSW
 * graph over them.  Everything a binding may call is declared here, and a
 * binding includes nothing else.
 *
 * Threads.  Any number of searches (vx_index_search, _search_where, _range_search, _get, _contains, _labels,
 * _stats, _memory) may run at once, beside one writer (vx_index_add, _delete, _compact).
 * Writers wait for one another.  A search takes no lock; it sees every row whose add
 * returned before the search began.
 *
 * Errors.  A call that can fail returns a vx_status and, where `err` is not
 * NULL, fills it with a sentence for a person.  Out arguments are written only
 * on VX_OK unless a comment says otherwise, and after an error the index is as
 * it was before the call.
 */
#ifndef VECIDX_H
#define VECIDX_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- status ---------------------------------------------------------- */

typedef enum vx_status {
    VX_OK = 0,
    VX_E_ARG = 1,         /* an argument is out of its range              */
    VX_E_NOMEM = 2,       /* the system gave no memory or address space   */
    VX_E_IO = 3,          /* a file operation failed: see sys_errno       */
    VX_E_FORMAT = 4,      /* a file is not ours, damaged or too new       */
    VX_E_LABEL = 5,       /* a label is not in the index, or already is   */
    VX_E_INTERRUPTED = 6, /* vx_run.tick asked to stop; the index is valid */
    VX_E_STATE = 7        /* an invariant does not hold: a bug or damage  */
} vx_status;

typedef struct vx_error {
    vx_status status;
    int sys_errno;  /* for VX_E_IO, else 0                                 */
    int64_t row;    /* the offending row of the input, or -1               */
    int64_t value;  /* the offending label, or 0                           */
    char text[240]; /* NUL-terminated, no newline                          */
} vx_error;

/* ---- process-wide settings ------------------------------------------- */

/* Choose the kernels.  `want` is NULL or "" for the best this CPU can run, or
 * one of scalar, avx2, avx512, avx512vnni, neon as a cap: the best level not
 * above it is taken.  An unknown word, or a word of another architecture, is
 * VX_E_ARG and changes nothing.  Call once, before any index exists. */
vx_status vx_simd_init(const char *want, vx_error *err);

/* The level in use: "scalar", "avx2", "avx512", "avx512vnni" or "neon". */
const char *vx_simd_level(void);

/* The i-th level this CPU can run, best last; NULL past the end. */
const char *vx_simd_available(size_t i);

/* The i-th feature that was looked for, e.g. "avx2"; *out_present says whether
 * CPU and operating system both have it.  NULL past the end. */
const char *vx_cpu_feature(size_t i, int *out_present);

/* Threads a call uses when it names no number.  0 restores the default: the
 * CPUs this process may run on, by affinity and cgroup quota. */
void vx_set_num_threads(unsigned n);
unsigned vx_get_num_threads(void);

/* ---- parameters ------------------------------------------------------ */

typedef int64_t vx_label;              /* a row's id, chosen by the user, >= 0   */
#define VX_NO_LABEL ((vx_label)-1)     /* "no neighbour here", at distance +inf  */

#define VX_MAX_DIM 65536u
#define VX_MIN_M 2u
#define VX_MAX_M 127u
#define VX_MAX_EF_CONSTRUCTION 65536u
#define VX_MAX_ROWS 0x7FFFFFFEu        /* slots are 31 bits wide (hnsw_graph.h)   */

typedef enum vx_metric {
    VX_L2SQ = 0,   /* sum of (a - b)^2                                     */
    VX_IP = 1,     /* 1 - sum of a * b                                     */
    VX_COSINE = 2, /* 1 - cos(a, b); rows are stored normalised            */
    VX_HAMMING = 3, /* of bits: how many differ                            */
    VX_JACCARD = 4  /* of bits: of those set in one at least, the share that is not in both;
                     * 0 where there are none                              */
} vx_metric;

/* How rows are stored.  They are compared as they are, with float32 queries; bits with bits. */
typedef enum vx_dtype {
    VX_F32 = 0,
    VX_F16 = 1,  /* IEEE half                                              */
    VX_BF16 = 2,
    VX_I8 = 3,   /* whole numbers: what is none is refused                 */
    VX_U8 = 4,
    VX_BITS = 5  /* packed, the highest of a byte first: dim bits in vx_row_bytes(); those
                  * left over in the last byte are 0.  With VX_HAMMING and VX_JACCARD, and
                  * only they with it; without quantization          */
} vx_dtype;

/* Bytes of a row of `dim` values as they are given, not padded. */
size_t vx_row_bytes(vx_dtype dtype, uint32_t dim);

/* What the graph is built and walked on, once it holds VX_TRAIN_ROWS rows.  Results
 * are always those of the stored rows. */
typedef enum vx_quantization {
    VX_QUANT_NONE = 0, /* the rows as they are                             */
    VX_QUANT_SQ8 = 1,  /* one byte a dimension                             */
    VX_QUANT_SQ4 = 2,  /* half a byte a dimension                          */
    VX_QUANT_AUTO = 3  /* a byte, and sketches of edges and short codes for
                        * searching                                        */
} vx_quantization;
#define VX_TRAIN_ROWS 10000u

typedef struct vx_params {
    uint32_t dim;             /* 1 .. VX_MAX_DIM; of bits, their number    */
    uint32_t metric;          /* vx_metric                                 */
    uint32_t dtype;           /* vx_dtype                                  */
    uint32_t quantization;    /* vx_quantization                           */
    uint32_t M;               /* links a row has: 2M on layer 0, M above   */
    uint32_t ef_construction; /* candidates looked at when linking a row   */
    uint64_t seed;            /* of the level draws                        */
    uint64_t capacity;        /* rows to make room for at once; a hint     */
} vx_params;

/* How a long call runs.  A NULL vx_run means {0, NULL, NULL}. */
typedef struct vx_run {
    unsigned num_threads; /* 0: the process default                        */
    /* Called on the calling thread, at least every 50 ms of a long call; a
     * value other than 0 stops the call with VX_E_INTERRUPTED. */
    int (*tick)(void *arg, uint64_t done, uint64_t total);
    void *tick_arg;
} vx_run;

typedef struct vx_index vx_index;

/* ---- life ------------------------------------------------------------- */

vx_status vx_index_new(const vx_params *params, vx_index **out, vx_error *err);
void vx_index_free(vx_index *index); /* NULL is fine; nobody may be using it */
void vx_index_params(const vx_index *index, vx_params *out);

/* ---- writing ----------------------------------------------------------- */

typedef enum vx_on_conflict {
    VX_REPLACE = 0, /* the old row dies as the new one is born             */
    VX_ERROR = 1,   /* VX_E_LABEL, and nothing changes                     */
    VX_SKIP = 2     /* the row is left out, the old one stays              */
} vx_on_conflict;

/* Add rows.
 *
 *   rows         n x dim float32 (not of bits), row-major, borrowed until the call returns
 *   labels       n labels, or NULL for the next numbers after the highest
 *                label the index has ever held
 *   out_labels   n labels as used, or NULL
 *   out_added    how many leading rows of the input the index now holds (or,
 *                with VX_SKIP, has dealt with); written on VX_E_INTERRUPTED
 *                and VX_E_NOMEM too, when those rows are in and stay
 *
 * VX_E_ARG, with err->row, before anything changes: a value that is NaN or
 * infinite or too large to square, or that the index's dtype does not reach, or, for
 * integers, that is no whole number; a row without direction under VX_COSINE; a label that is negative or given twice in the call.  VX_E_ARG: more than VX_MAX_ROWS rows.
 *
 * The same rows in the same order and the same calls give the same graph,
 * whatever num_threads is. */
vx_status vx_index_add(vx_index *index, const float *rows, size_t n,
                       const vx_label *labels, vx_on_conflict on_conflict,
                       const vx_run *run, vx_label *out_labels,
                       uint64_t *out_added, vx_error *err);

/* The same of rows of dtype `given`: float32 or the index's; of bits only that. */
vx_status vx_index_add_typed(vx_index *index, vx_dtype given, const void *rows, size_t n,
                             const vx_label *labels, vx_on_conflict on_conflict,
                             const vx_run *run, vx_label *out_labels, uint64_t *out_added,
                             vx_error *err);

typedef enum vx_on_missing {
    VX_MISSING_ERROR = 0, /* VX_E_LABEL, and nothing changes                */
    VX_MISSING_IGNORE = 1 /* the label is passed over                       */
} vx_on_missing;

/* Delete the rows of n labels, all in one step: a search sees all of them or none.
 * A label given twice counts once.  *out_deleted is how many rows died; it is
 * written on VX_E_INTERRUPTED too: 0, or all of them. */
vx_status vx_index_delete(vx_index *index, const vx_label *labels, size_t n,
                          vx_on_missing on_missing, const vx_run *run, uint64_t *out_deleted,
                          vx_error *err);

/* Add the rows of another index of the same dim, metric and dtype, under their labels, as they
 * were when the call began: as vx_index_add does, but sooner, since the other's graph says
 * which rows are near one another.  The other is only read.  *out_added as there, in an
 * order of its own. */
vx_status vx_index_merge(vx_index *index, vx_index *other, vx_on_conflict on_conflict,
                         const vx_run *run, uint64_t *out_added, vx_error *err);

/* Make room for `n_rows` rows in all, so that adds up to there cannot run out of memory. */
vx_status vx_index_reserve(vx_index *index, uint64_t n_rows, const vx_run *run, vx_error *err);

/* Give back the memory of rows that are gone: the others are copied into new planes
 * (while it runs, both take memory) and searches go on meanwhile.  An interrupted
 * call, or one without memory, leaves everything as it was. */
vx_status vx_index_compact(vx_index *index, const vx_run *run, vx_error *err);

/* Free the slots of dead rows and give every live row a path from the entry, where
 * vx_index_check counts one that has none. */
vx_status vx_index_repair(vx_index *index, const vx_run *run, vx_error *err);

/* ---- reading ----------------------------------------------------------- */

typedef struct vx_search_params {
    size_t k;     /* neighbours a query, >= 1                              */
    size_t ef;    /* size of the candidate pool; 0: default_ef; raised to k */
    int exact;    /* not 0: compare with every row                         */
} vx_search_params;

#define VX_DEFAULT_EF 64u

/* Find the k stored rows nearest to each query.
 *
 *   queries                n x dim float32, row-major, borrowed; n x vx_row_bytes of an
 *                          index of bits, here and below
 *   out_labels, out_dists  n x k.  Each row rises by distance, ties by label;
 *                          where the index holds fewer than k rows it ends in
 *                          VX_NO_LABEL / +INFINITY.  Unspecified after an error.
 *
 * VX_E_ARG: k == 0; or, with err->row, a query that vx_index_add would refuse. */
vx_status vx_index_search(vx_index *index, const void *queries, size_t n,
                          const vx_search_params *params, const vx_run *run,
                          vx_label *out_labels, float *out_dists, vx_error *err);

/* ---- filters ------------------------------------------------------------ */

/* A set of labels, fixed once it is made: which rows a search may return.  It belongs to no
 * index, and speaks of labels that come into one later too.  Each holds on to the memory of
 * what it was made of, not to the filters, and remembers which rows it chose last.  Any
 * thread may use one at any time; vx_filter_free gives up one reference. */
typedef struct vx_filter vx_filter;

/* n labels, in any order; those no index can have, below 0, are passed over. */
vx_status vx_filter_of_labels(const vx_label *labels, size_t n, vx_filter **out, vx_error *err);

/* Label i where bit i % 8, from the lowest, of byte i / 8 is set; n labels at most. */
vx_status vx_filter_of_bits(const uint8_t *bits, uint64_t n, vx_filter **out, vx_error *err);

/* begin, begin + step, ... below end; step >= 1. */
vx_status vx_filter_of_range(vx_label begin, vx_label end, vx_label step, vx_filter **out,
                             vx_error *err);

/* Labels that are not in it; in both; in one at least.  VX_E_ARG: combined of combined ones, more
 * than VX_FILTER_DEPTH times. */
vx_status vx_filter_not(vx_filter *a, vx_filter **out, vx_error *err);
vx_status vx_filter_and(vx_filter *a, vx_filter *b, vx_filter **out, vx_error *err);
vx_status vx_filter_or(vx_filter *a, vx_filter *b, vx_filter **out, vx_error *err);
#define VX_FILTER_DEPTH 1000u

void vx_filter_free(vx_filter *filter); /* NULL is fine */

/* out[i] = 1 if labels[i] is in the set, else 0. */
void vx_filter_test(const vx_filter *filter, const vx_label *labels, size_t n, uint8_t *out);

/* What a filter was made of, for making an equal one elsewhere.  It points into the filter. */
typedef struct vx_filter_parts {
    enum { VX_FILTER_RANGE, VX_FILTER_BITS, VX_FILTER_TABLE, VX_FILTER_NOT, VX_FILTER_AND,
           VX_FILTER_OR } kind;
    vx_label begin, end, step; /* RANGE; BITS: label begin + i at bit i of words, to end */
    const uint64_t *words;
    const vx_label *table; /* TABLE: the labels, and VX_NO_LABEL between them  */
    size_t n;              /* words, or places of the table                    */
    vx_filter *a, *b;      /* NOT: a; AND, OR: both                            */
} vx_filter_parts;

void vx_filter_look(const vx_filter *filter, vx_filter_parts *out);

/* What a search is limited to. */
typedef struct vx_where {
    vx_filter *const *filters; /* of all queries, or one for each; NULL in it: no filter */
    size_t n_filters;          /* 0, 1 or the number of queries                 */
    double max_distance;       /* INFINITY: none; what is farther is left out   */
} vx_where;

/* vx_index_search, limited: each row of the result ends in VX_NO_LABEL / +INFINITY where
 * fewer than k rows are allowed.  A filter is asked for its labels in the index once a
 * search, not once a row on the way. */
vx_status vx_index_search_where(vx_index *index, const void *queries, size_t n,
                                const vx_search_params *params, const vx_where *where,
                                const vx_run *run, vx_label *out_labels, float *out_dists,
                                vx_error *err);

/* All rows at most `where->max_distance` from each query, by rising distance, ties by label:
 * by a walk, which may miss some, or (params->exact) none; params->k is not used.  *out
 * holds them until vx_range_free. */
typedef struct vx_range vx_range;
vx_status vx_index_range_search(vx_index *index, const void *queries, size_t n,
                                const vx_search_params *params, const vx_where *where,
                                const vx_run *run, vx_range **out, vx_error *err);

/* Fill out_lims (n + 1): the rows of query i are lims[i] .. lims[i+1]-1 of vx_range_take. */
void vx_range_lims(const vx_range *range, int64_t *out_lims);
void vx_range_take(const vx_range *range, vx_label *out_labels, float *out_dists);
void vx_range_free(vx_range *range); /* NULL is fine */

/* The k rows nearest to each of n rows of the index, named by label, itself not among
 * them: as vx_index_search, but a walk begins at the row.  `unseen`: as if the row were not
 * in the index: by the entry, and never through it.  VX_E_LABEL: a label is not there;
 * under VX_MISSING_IGNORE it has no neighbours. */
vx_status vx_index_search_rows(vx_index *index, const vx_label *labels, size_t n,
                               const vx_search_params *params, int unseen,
                               vx_on_missing on_missing, const vx_run *run,
                               vx_label *out_labels, float *out_dists, vx_error *err);

/* Labels of up to n rows, spread evenly, that may be searched for as unseen: they are on
 * layer 0 alone, and no other row equals them. */
vx_status vx_index_sample(vx_index *index, size_t n, vx_label *out, size_t *out_n, vx_error *err);

/* Copy the rows of n labels into out_rows, n x vx_row_bytes of the index's dtype, of float32
 * where that is bfloat16.  VX_E_LABEL, with err->row and err->value, if one is not there. */
vx_status vx_index_get(vx_index *index, const vx_label *labels, size_t n,
                       void *out_rows, vx_error *err);

/* out_found[i] = 1 if labels[i] is in the index, else 0. */
vx_status vx_index_contains(vx_index *index, const vx_label *labels, size_t n,
                            uint8_t *out_found, vx_error *err);

/* Rows that a search may return. */
uint64_t vx_index_count(const vx_index *index);

/* Places of rows that were deleted or replaced: what vx_index_compact would give back. */
uint64_t vx_index_dead(const vx_index *index);

/* Write up to `cap` labels of live rows, in the order of their slots, and how many
 * there are. */
vx_status vx_index_labels(vx_index *index, vx_label *out, uint64_t cap, uint64_t *out_n,
                          vx_error *err);

#define VX_MAX_LEVELS 16

typedef struct vx_stats {
    uint64_t n_live;                    /* rows a search may return         */
    uint64_t n_deleted;                 /* rows replaced or deleted, still linked */
    uint64_t n_free;                    /* slots for rows to come           */
    uint64_t n_twins;                   /* rows equal to another, in no link */
    uint64_t n_links;                   /* layer 0, all rows                */
    uint64_t n_links_chosen;            /* of these, chosen by the heuristic */
    int is_quantised;                   /* the graph is walked by codes     */
    uint32_t n_levels;                  /* layers that hold rows            */
    uint64_t rows_at_level[VX_MAX_LEVELS]; /* rows whose highest layer it is */
} vx_stats;
vx_status vx_index_stats(vx_index *index, vx_stats *out, vx_error *err);

/* Bytes taken from the system, by part. */
typedef struct vx_memory {
    uint64_t vectors, links, upper_links, codes, ranks, sketches, labels, label_map, other,
        scratch;
    uint64_t total;
    uint64_t reserved; /* address space, not memory                        */
    uint64_t mapped;   /* of a file: in memory only as far as it is read, and
                          shared with others; not in total                 */
} vx_memory;
vx_status vx_index_memory(vx_index *index, vx_memory *out, vx_error *err);

/* Check every invariant: link targets, no self links, no link twice in a row,
 * padding last, levels, entry point, label map, and that every live row is
 * reached from the entry.  VX_E_STATE, with the first one broken in err.
 * No writer may run meanwhile (the call waits for one). */
typedef struct vx_check {
    uint64_t n_unreachable; /* live rows that no walk from the entry reaches */
} vx_check;
vx_status vx_index_check(vx_index *index, const vx_run *run, vx_check *out, vx_error *err);

/* ---- files -------------------------------------------------------------- */

/* Write the index to `path`: to a temporary beside it, synced, renamed over it.
 * After any failure an older file at `path` is as it was.  Searches go on.  The
 * tick is told bytes.  VX_E_FORMAT: the index is mapped, and its file damaged. */
vx_status vx_index_save(vx_index *index, const char *path, const vx_run *run, vx_error *err);

/* Takes the bytes of a file in order.  A result other than 0 ends the call with
 * VX_E_INTERRUPTED.  Neither may call a writer of the same index. */
typedef struct vx_sink {
    int (*begin)(void *arg, uint64_t length); /* first, once: how many will come */
    int (*write)(void *arg, const void *data, size_t n);
    void *arg;
} vx_sink;

/* The same bytes to a sink. */
vx_status vx_index_save_to(vx_index *index, const vx_sink *sink, const vx_run *run,
                           vx_error *err);

typedef enum vx_map_mode {
    VX_MAP_NOTHING = 0, /* read everything into memory                          */
    VX_MAP_ALL = 1,     /* open in no time; pages come as they are used         */
    VX_MAP_VECTORS = 2  /* vectors stay in the file, the rest is read           */
} vx_map_mode;

typedef struct vx_load_options {
    vx_map_mode map;
    int verify; /* check even what costs: all checksums, vx_index_check       */
} vx_load_options;

/* Read an index.  Without a map everything is checked that searching and adding
 * rely on: checksums, sizes, links, labels.  A mapped index is read-only; of what
 * is mapped nothing but the file's head is checked unless `verify` asks for it, and
 * damage gives wrong answers, never an access out of bounds.  `options` may be NULL. */
vx_status vx_index_load(const char *path, const vx_load_options *options, const vx_run *run,
                        vx_index **out, vx_error *err);

/* The same from a file in memory, which is not needed afterwards. */
vx_status vx_index_load_memory(const void *data, size_t n, int verify, const vx_run *run,
                               vx_index **out, vx_error *err);

/* Bytes that a binding keeps with an index, for itself: they are saved and loaded with it
 * and mean nothing here.  0 bytes: none.  Of a read-only index they can be set as well. */
typedef enum vx_note {
    VX_NOTE_TUNED = 0, /* recall that was measured; a reader may do without it     */
    VX_NOTE_NAMES = 1, /* what ids are called; a reader may not                    */
    VX_N_NOTES
} vx_note;
vx_status vx_index_set_note(vx_index *index, vx_note note, const void *data, size_t n,
                            const vx_run *run, vx_error *err);
/* How many bytes there are, and they themselves where `cap` holds them. */
vx_status vx_index_note(vx_index *index, vx_note note, void *out, size_t cap, size_t *out_n,
                        const vx_run *run, vx_error *err);

int vx_index_is_read_only(const vx_index *index);

/* Read in what is mapped; nothing if nothing is. */
vx_status vx_index_warm(vx_index *index, const vx_run *run, vx_error *err);

/* Give memory and mapping back at once.  Calls under way end, some with the error
 * that every later one gets: VX_E_STATE.  Waits for them; if the tick interrupts
 * that, the index is closed all the same.  What remains is vx_index_free's. */
vx_status vx_index_close(vx_index *index, const vx_run *run, vx_error *err);
int vx_index_is_closed(const vx_index *index);

/* What a file says of itself: its head only is read, whatever its size. */
typedef struct vx_file_section {
    uint32_t kind;
    int required; /* a reader that does not know it must refuse the file */
    uint32_t crc;
    uint64_t offset, length;
    char name[24];
} vx_file_section;

typedef struct vx_file_info {
    uint32_t version;
    uint64_t file_bytes, dim, M, ef_construction, seed, n_rows, n_dead;
    const char *metric, *dtype, *quantization; /* "?": a later version's */
    size_t n_sections;
    vx_file_section sections[64];
} vx_file_info;

vx_status vx_index_inspect(const char *path, vx_file_info *out, vx_error *err);

/* ---- for tests only ------------------------------------------------------ */

/* Distances at a named level, whatever level is in use, of rows stored as dtype: given as
 * float32, or packed where that is VX_BITS.
 * one-to-one: row a[i] to row b[i], n of each.  one-to-many: one query `a` to the n rows
 * of b, through the slot-list kernel; as a row, or as float32.  VX_E_ARG if this CPU
 * cannot run the level. */
vx_status vx_test_pairs(const char *level, vx_metric metric, vx_dtype dtype, const void *a,
                        const void *b, size_t n, size_t dim, float *out, vx_error *err);
vx_status vx_test_many(const char *level, vx_metric metric, vx_dtype dtype, int by_row,
                       const void *a, const void *b, size_t n, size_t dim, float *out,
                       vx_error *err);

/* Let the n-th allocation from now fail, once; 0: none. */
void vx_test_fail_alloc(uint64_t nth);

/* What was read since the last call: nodes expanded, links looked at, vectors, byte codes
 * and rank codes compared, 64-byte lines asked for.  0 unless built to count. */
#define VX_N_WORK 6
int vx_test_work(uint64_t out[VX_N_WORK]);

/* Ticks come at every chance, and not every 20 ms. */
void vx_test_tick_always(int on);

/* Call fn, or nobody if NULL, at each of these steps of an update, by the thread that
 * takes it: it may wait there. */
typedef enum vx_step {
    VX_STEP_LINK,    /* a batch is about to be linked to                         */
    VX_STEP_APPLY,   /* some of the links to it are written                      */
    VX_STEP_PUBLISH, /* labels are settled, rows not yet visible                 */
    VX_STEP_KILL,    /* rows have got their death number, which is not published */
    VX_STEP_MEND,    /* some links are led around dead rows                      */
    VX_STEP_COPY,    /* compacting: a row is about to be copied                  */
    VX_STEP_SWAP     /* compacting: the new view is about to be published        */
} vx_step;
void vx_test_on_step(void (*fn)(vx_step step));

/* Layer-0 links of a row as stored: up to `cap` targets; *out_chosen of them
 * lead.  Returns how many. */
size_t vx_test_links(vx_index *index, vx_label label, vx_label *out, size_t cap,
                     size_t *out_chosen);

#ifdef __cplusplus
}
#endif
#endif
