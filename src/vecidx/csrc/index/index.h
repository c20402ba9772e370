/* index.h - the struct behind vx_index, private to this room. */
#ifndef INDEX_H
#define INDEX_H

#include "../base/vx_sync.h"
#include "../hnsw/hnsw_algo.h"
#include "../hnsw/hnsw_delete.h"
#include "../store/store_file.h"
#include "index_labels.h"
#include "index_writer.h"

struct vx_index {
    vx_graph graph;
    vx_writer writer;         /* add, delete, compact, save, check               */
    uint64_t number;          /* no other index of this process has it          */
    vx_labels labels;         /* label -> slot; has its own lock                */
    struct vx_watch *watch;   /* under `writer`: of the codec (index_quantise.c); may be NULL */
    uint64_t next_label;      /* under `writer`: 1 + the highest label ever     */
    _Atomic uint64_t n_live;  /* rows a search may return                       */
    _Atomic uint64_t n_dead;  /* slots that hold no such row                */
    /* Rows that vx_graph_prove has not seen, beside graph.n_unproven: of long adds under
     * way, which will prove them; and of such that gave up while they waited. */
    _Atomic uint64_t n_owed, n_forsaken;
    struct vx_index *next, *previous; /* index_fork.c                          */

    struct vx_kept {
        void *bytes; /* NULL: none                                             */
        size_t n;
    } notes[VX_N_NOTES]; /* under `writer`; index_notes.c                      */

    /* Of an index that lies over a file; fixed until it is closed. */
    bool is_read_only;
    vx_map map;
    uint32_t mapped_crcs[VX_N_PLANES]; /* what mapped planes should sum to      */
};

/* Become the writer (vx_writer_lock) of an index that is not closed (VX_E_STATE). */
vx_status vx_index_lock_writer(vx_index *index, const char *verb, const vx_run *run, vx_error *err);

/* The same, to change the index.  VX_E_ARG: it is read-only. */
vx_status vx_index_lock_to_change(vx_index *index, const char *verb, const vx_run *run,
                                  vx_error *err);

/* Become the writer, and see to it that every live row has a path from the entry: a long
 * add that let us through may owe that. */
vx_status vx_lock_settled(vx_index *index, const char *verb, const vx_run *run, vx_error *err);

/* VX_E_STATE: the index is closed. */
vx_status vx_index_refuse_closed(vx_error *err);

/* The sentence for a fault in row `row` of `what` ("vectors", "queries"). */
vx_status vx_row_refuse(vx_row_fault fault, vx_dtype dtype, const char *what, int64_t row,
                        vx_error *err);

/* A sentence about the label of row `row` of the call's ids; returns `status`. */
vx_status vx_refuse_label(vx_error *err, vx_status status, size_t row, vx_label label,
                          const char *why);

/* Rows of another index's view, which the caller keeps: those of the n slots of a list, and
 * of each of its n_slots slots the place in that list, or VX_NO_SLOT; NULL where they are
 * our own, to be linked again. */
typedef struct vx_import {
    const vx_view *view;
    const vx_slot *slots;
    const uint32_t *place_of;
    uint32_t n_slots;
} vx_import;

/* vx_index_add, of `rows` or, where that is NULL, of `from`. */
vx_status vx_index_take_in(vx_index *index, vx_dtype given, const void *rows,
                           const vx_import *from, size_t n,
                           const vx_label *labels, vx_on_conflict on_conflict, const vx_run *run,
                           vx_label *out_labels, uint64_t *out_added, vx_error *err);

/* Lead links around the rows that died in this call (vx_graph_mend). */
vx_status vx_index_mend(vx_index *index, bool all, const vx_run *run, vx_error *err);

/* Codes of n slots whose vectors are in place, 0 .. end-1 being all that are; of all
 * rows, in a new view, when there are enough of them to train and codes serve, or when
 * those there are serve no longer. */
vx_status vx_index_quantise(vx_index *index, const vx_slot *slots, size_t n, vx_slot end,
                            const vx_run *run, vx_error *err);

/* Train anew, on the rows as they are. */
vx_status vx_index_renew_codes(vx_index *index, const vx_run *run, vx_error *err);

/* After either: rows that were linked by codes which did not fit them, and have others now.
 * The caller frees *out, which is left alone where there are none. */
uint32_t vx_index_misfits(vx_index *index, vx_slot **out);
void vx_watch_free(struct vx_watch *watch); /* NULL is fine */

/* The live rows of `from` are about to get the numbers of live rows before them. */
void vx_watch_compact(struct vx_watch *watch, const vx_view *from); /* NULL is fine */

/* Link those rows again: they are replaced by themselves.  The writer only, who stays it
 * where *out_is_writer. */
vx_status vx_index_relink(vx_index *index, const vx_run *run, bool *out_is_writer, vx_error *err);

/* How well a codec serves some rows. */
typedef struct vx_score {
    double by_code, by_rank; /* this share of the nearest of a row by its vector is among
                              * the nearest by its code, and by its rank code           */
    double held;             /* this share of a squared distance to them lies in the
                              * coordinates that sketches are made of                   */
} vx_score;

/* Try a codec on n rows of the current view: out[0] of the first n_before, and out[1] of the
 * others, if any.  VX_E_NOMEM, VX_E_INTERRUPTED. */
vx_status vx_codec_try(const vx_index *index, const vx_codec *codec, const vx_slot *slots,
                       uint32_t n, uint32_t n_before, const vx_run *run, vx_score out[2],
                       vx_error *err);

/* Take a context for reading; `what` is for the message where there is no memory.
 * VX_E_STATE: the index is closed. */
vx_status vx_index_open_view(vx_index *index, const char *what, vx_ctx **out_ctx,
                             vx_view **out_view, vx_error *err);

/* The same, with the label map there and locked for reading, so that the two agree. */
vx_status vx_index_open_labels(vx_index *index, const char *what, vx_ctx **out_ctx,
                               vx_view **out_view, vx_error *err);

/* index_fork.c: indexes that a fork() must leave usable in the child.  false: no memory. */
bool vx_fork_watch(vx_index *index);
void vx_fork_forget(vx_index *index);

/* A query that vx_query_inspect has passed, of length `norm`, padded and under cosine
 * normalised into `out`; true if it was a row of whole numbers, or bits, left in `row`. */
bool vx_query_prepare(const vx_form *form, const void *query, double norm, float *out, void *row);

/* Queries in both their forms, and the room for them (index_batch.c). */
typedef struct vx_query_block {
    float *values;
    char *rows;
    vx_query *of;
} vx_query_block;

/* false: no memory; to be given back in any case. */
bool vx_query_block_init(vx_query_block *block, const vx_form *form, size_t n);

/* Query i of them: one that vx_query_inspect has passed, of length `norm`. */
void vx_query_block_set(vx_query_block *block, const vx_form *form, size_t i, const void *query,
                        double norm);
void vx_query_block_fini(vx_query_block *block);

#endif
