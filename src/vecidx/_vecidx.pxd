# vecidx.h for Cython: every declaration the binding uses, in the header's order.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef extern from "vecidx.h" nogil:
    ctypedef enum vx_status:
        VX_OK
        VX_E_ARG
        VX_E_NOMEM
        VX_E_IO
        VX_E_FORMAT
        VX_E_LABEL
        VX_E_INTERRUPTED
        VX_E_STATE

    ctypedef struct vx_error:
        vx_status status
        int sys_errno
        int64_t row
        int64_t value
        char text[240]

    vx_status vx_simd_init(const char *want, vx_error *err)
    const char *vx_simd_level()
    const char *vx_simd_available(size_t i)
    const char *vx_cpu_feature(size_t i, int *out_present)
    void vx_set_num_threads(unsigned n)
    unsigned vx_get_num_threads()

    ctypedef int64_t vx_label

    ctypedef enum vx_metric:
        VX_L2SQ
        VX_IP
        VX_COSINE
        VX_HAMMING
        VX_JACCARD

    ctypedef enum vx_dtype:
        VX_F32
        VX_F16
        VX_BF16
        VX_I8
        VX_U8
        VX_BITS

    ctypedef enum vx_quantization:
        VX_QUANT_NONE
        VX_QUANT_SQ8
        VX_QUANT_SQ4
        VX_QUANT_AUTO

    ctypedef struct vx_params:
        uint32_t dim
        uint32_t metric
        uint32_t dtype
        uint32_t quantization
        uint32_t M
        uint32_t ef_construction
        uint64_t seed
        uint64_t capacity

    ctypedef struct vx_run:
        unsigned num_threads
        int (*tick)(void *arg, uint64_t done, uint64_t total) noexcept nogil
        void *tick_arg

    ctypedef struct vx_index:
        pass

    vx_status vx_index_new(const vx_params *params, vx_index **out, vx_error *err)
    void vx_index_free(vx_index *index)
    void vx_index_params(const vx_index *index, vx_params *out)

    ctypedef enum vx_on_conflict:
        VX_REPLACE
        VX_ERROR
        VX_SKIP

    vx_status vx_index_add_typed(vx_index *index, vx_dtype given, const void *rows, size_t n,
                                 const vx_label *labels, vx_on_conflict on_conflict,
                                 const vx_run *run, vx_label *out_labels,
                                 uint64_t *out_added, vx_error *err)

    ctypedef enum vx_on_missing:
        VX_MISSING_ERROR
        VX_MISSING_IGNORE

    vx_status vx_index_delete(vx_index *index, const vx_label *labels, size_t n,
                              vx_on_missing on_missing, const vx_run *run,
                              uint64_t *out_deleted, vx_error *err)

    vx_status vx_index_merge(vx_index *index, vx_index *other, vx_on_conflict on_conflict,
                             const vx_run *run, uint64_t *out_added, vx_error *err)
    vx_status vx_index_reserve(vx_index *index, uint64_t n_rows, const vx_run *run, vx_error *err)
    vx_status vx_index_compact(vx_index *index, const vx_run *run, vx_error *err)
    vx_status vx_index_repair(vx_index *index, const vx_run *run, vx_error *err)

    ctypedef struct vx_search_params:
        size_t k
        size_t ef
        int exact

    vx_status vx_index_search(vx_index *index, const void *queries, size_t n,
                              const vx_search_params *params, const vx_run *run,
                              vx_label *out_labels, float *out_dists, vx_error *err)

    ctypedef struct vx_filter:
        pass

    vx_status vx_filter_of_labels(const vx_label *labels, size_t n, vx_filter **out,
                                  vx_error *err)
    vx_status vx_filter_of_bits(const uint8_t *bits, uint64_t n, vx_filter **out, vx_error *err)
    vx_status vx_filter_of_range(vx_label begin, vx_label end, vx_label step, vx_filter **out,
                                 vx_error *err)
    vx_status vx_filter_not(vx_filter *a, vx_filter **out, vx_error *err)
    vx_status vx_filter_and(vx_filter *a, vx_filter *b, vx_filter **out, vx_error *err)
    vx_status vx_filter_or(vx_filter *a, vx_filter *b, vx_filter **out, vx_error *err)
    void vx_filter_free(vx_filter *filter)
    void vx_filter_test(const vx_filter *filter, const vx_label *labels, size_t n, uint8_t *out)

    cdef enum:
        VX_FILTER_RANGE
        VX_FILTER_BITS
        VX_FILTER_TABLE
        VX_FILTER_NOT
        VX_FILTER_AND

    ctypedef struct vx_filter_parts:
        int kind
        vx_label begin
        vx_label end
        vx_label step
        const uint64_t *words
        const vx_label *table
        size_t n
        vx_filter *a
        vx_filter *b

    void vx_filter_look(const vx_filter *filter, vx_filter_parts *out)

    ctypedef struct vx_where:
        vx_filter *const *filters
        size_t n_filters
        double max_distance

    vx_status vx_index_search_where(vx_index *index, const void *queries, size_t n,
                                    const vx_search_params *params, const vx_where *where,
                                    const vx_run *run, vx_label *out_labels, float *out_dists,
                                    vx_error *err)

    ctypedef struct vx_range:
        pass

    vx_status vx_index_range_search(vx_index *index, const void *queries, size_t n,
                                    const vx_search_params *params, const vx_where *where,
                                    const vx_run *run, vx_range **out, vx_error *err)
    void vx_range_lims(const vx_range *range, int64_t *out_lims)
    void vx_range_take(const vx_range *range, vx_label *out_labels, float *out_dists)
    void vx_range_free(vx_range *range)

    vx_status vx_index_search_rows(vx_index *index, const vx_label *labels, size_t n,
                                   const vx_search_params *params, int unseen,
                                   vx_on_missing on_missing, const vx_run *run,
                                   vx_label *out_labels, float *out_dists, vx_error *err)
    vx_status vx_index_sample(vx_index *index, size_t n, vx_label *out, size_t *out_n,
                              vx_error *err)
    vx_status vx_index_get(vx_index *index, const vx_label *labels, size_t n,
                           void *out_rows, vx_error *err)
    vx_status vx_index_contains(vx_index *index, const vx_label *labels, size_t n,
                                uint8_t *out_found, vx_error *err)
    uint64_t vx_index_count(const vx_index *index)
    uint64_t vx_index_dead(const vx_index *index)
    vx_status vx_index_labels(vx_index *index, vx_label *out, uint64_t cap,
                              uint64_t *out_n, vx_error *err)

    enum: VX_MAX_LEVELS

    ctypedef struct vx_stats:
        uint64_t n_live
        uint64_t n_deleted
        uint64_t n_free
        uint64_t n_twins
        uint64_t n_links
        uint64_t n_links_chosen
        int is_quantised
        uint32_t n_levels
        uint64_t rows_at_level[16]   # VX_MAX_LEVELS: C has the last word on the size

    vx_status vx_index_stats(vx_index *index, vx_stats *out, vx_error *err)

    ctypedef struct vx_memory:
        uint64_t vectors
        uint64_t links
        uint64_t upper_links
        uint64_t codes
        uint64_t ranks
        uint64_t sketches
        uint64_t labels
        uint64_t label_map
        uint64_t other
        uint64_t scratch
        uint64_t total
        uint64_t reserved
        uint64_t mapped

    vx_status vx_index_memory(vx_index *index, vx_memory *out, vx_error *err)

    ctypedef struct vx_check:
        uint64_t n_unreachable

    vx_status vx_index_check(vx_index *index, const vx_run *run, vx_check *out,
                             vx_error *err)

    vx_status vx_index_save(vx_index *index, const char *path, const vx_run *run, vx_error *err)

    ctypedef struct vx_sink:
        int (*begin)(void *arg, uint64_t length) noexcept nogil
        int (*write)(void *arg, const void *data, size_t n) noexcept nogil
        void *arg

    vx_status vx_index_save_to(vx_index *index, const vx_sink *sink, const vx_run *run,
                               vx_error *err)

    ctypedef enum vx_map_mode:
        VX_MAP_NOTHING
        VX_MAP_ALL
        VX_MAP_VECTORS

    ctypedef struct vx_load_options:
        vx_map_mode map
        int verify

    vx_status vx_index_load(const char *path, const vx_load_options *options, const vx_run *run,
                            vx_index **out, vx_error *err)
    vx_status vx_index_load_memory(const void *data, size_t n, int verify, const vx_run *run,
                                   vx_index **out, vx_error *err)
    ctypedef enum vx_note:
        VX_NOTE_TUNED
        VX_NOTE_NAMES

    vx_status vx_index_set_note(vx_index *index, vx_note note, const void *data, size_t n,
                                const vx_run *run, vx_error *err)
    vx_status vx_index_note(vx_index *index, vx_note note, void *out, size_t cap,
                            size_t *out_n, const vx_run *run, vx_error *err)
    int vx_index_is_read_only(const vx_index *index)
    vx_status vx_index_warm(vx_index *index, const vx_run *run, vx_error *err)
    vx_status vx_index_close(vx_index *index, const vx_run *run, vx_error *err)
    int vx_index_is_closed(const vx_index *index)

    ctypedef struct vx_file_section:
        uint32_t kind
        int required
        uint32_t crc
        uint64_t offset
        uint64_t length
        char name[24]

    ctypedef struct vx_file_info:
        uint32_t version
        uint64_t file_bytes
        uint64_t dim
        uint64_t M
        uint64_t ef_construction
        uint64_t seed
        uint64_t n_rows
        uint64_t n_dead
        const char *metric
        const char *dtype
        const char *quantization
        size_t n_sections
        vx_file_section sections[64]

    vx_status vx_index_inspect(const char *path, vx_file_info *out, vx_error *err)

    vx_status vx_test_pairs(const char *level, vx_metric metric, vx_dtype dtype,
                            const void *a, const void *b, size_t n, size_t dim,
                            float *out, vx_error *err)
    vx_status vx_test_many(const char *level, vx_metric metric, vx_dtype dtype, int by_row,
                           const void *a, const void *b, size_t n, size_t dim,
                           float *out, vx_error *err)
    int vx_test_work(uint64_t *out)
    void vx_test_fail_alloc(uint64_t nth)
    size_t vx_test_links(vx_index *index, vx_label label, vx_label *out, size_t cap,
                         size_t *out_chosen)


cdef extern from "vecidx_api.h" nogil:
    ctypedef struct vx_api:
        pass

    const vx_api *vx_api_table()
    const char *VX_API_CAPSULE
    const char *VX_INDEX_CAPSULE
