/* index_notes.c - what a binding keeps with an index: bytes that mean nothing here, each
 * kind a section of the file (docs/FORMAT.md says what is in them). */
#include <string.h>

#include "../base/vx_alloc.h"
#include "../base/vx_status.h"
#include "index_io.h"

const vx_note_kind vx_note_kinds[VX_N_NOTES] = {
    [VX_NOTE_TUNED] = {19, "tuned", 0, (uint64_t)1 << 20},
    [VX_NOTE_NAMES] = {20, "names", VX_SECTION_REQUIRED, (uint64_t)1 << 40},
};

vx_status vx_index_set_note(vx_index *index, vx_note note, const void *data, size_t n,
                            const vx_run *run, vx_error *err)
{
    void *copy = NULL;
    if (n > vx_note_kinds[note].most)
        return vx_fail(err, VX_E_ARG, "%s: %zu bytes are too many", vx_note_kinds[note].name, n);
    if (n > 0) {
        copy = vx_alloc(n, 1);
        if (copy == NULL)
            return vx_fail_nomem(err, "keeping bytes");
        memcpy(copy, data, n);
    }
    const vx_status st = vx_index_lock_writer(index, "change", run, err);
    if (st != VX_OK) {
        vx_free(copy);
        return st;
    }
    vx_free(index->notes[note].bytes);
    index->notes[note] = (struct vx_kept){copy, n};
    vx_writer_unlock(&index->writer);
    return vx_ok(err);
}

vx_status vx_index_note(vx_index *index, vx_note note, void *out, size_t cap, size_t *out_n,
                        const vx_run *run, vx_error *err)
{
    const vx_status st = vx_index_lock_writer(index, "read", run, err);
    if (st != VX_OK)
        return st;
    *out_n = index->notes[note].n;
    if (*out_n > 0 && *out_n <= cap)
        memcpy(out, index->notes[note].bytes, *out_n);
    vx_writer_unlock(&index->writer);
    return vx_ok(err);
}

vx_status vx_io_read_notes(vx_index *index, vx_store *store, vx_error *err)
{
    for (int i = 0; i < VX_N_NOTES; i++) {
        const vx_note_kind *kind = &vx_note_kinds[i];
        const vx_entry *e = vx_store_find(store, kind->kind);
        if (e == NULL || e->length == 0)
            continue;
        if (e->length > kind->most)
            return vx_fail(err, VX_E_FORMAT, "section '%s' (at byte %llu): too long", kind->name,
                           (unsigned long long)e->offset);
        void *bytes = vx_alloc((size_t)e->length, 1);
        if (bytes == NULL)
            return vx_fail_nomem(err, "loading");
        index->notes[i] = (struct vx_kept){bytes, (size_t)e->length}; /* freed with the index */
        const vx_status st = vx_store_read(store, kind->kind, bytes, e->length, err);
        if (st != VX_OK)
            return st;
    }
    return VX_OK;
}
