/* index_api.c - what this library offers to others than its binding: the table of
 * vecidx_api.h, and the few names that threadpoolctl looks up in the loaded file, the only
 * ones exported.  A function whose type here is no longer that of vecidx.h does not compile
 * without a warning: then VX_ABI_VERSION rises. */
#include "../vecidx_api.h"

#include "../base/vx_base.h"

static const vx_api table = {
    .abi_version = VX_ABI_VERSION,
    .size = sizeof(vx_api),
    .simd_level = vx_simd_level,
    .get_num_threads = vx_get_num_threads,
    .set_num_threads = vx_set_num_threads,
    .index_new = vx_index_new,
    .index_free = vx_index_free,
    .index_params = vx_index_params,
    .index_add = vx_index_add,
    .index_add_typed = vx_index_add_typed,
    .index_delete = vx_index_delete,
    .index_reserve = vx_index_reserve,
    .index_compact = vx_index_compact,
    .index_search = vx_index_search,
    .index_search_where = vx_index_search_where,
    .index_search_rows = vx_index_search_rows,
    .index_range_search = vx_index_range_search,
    .range_lims = vx_range_lims,
    .range_take = vx_range_take,
    .range_free = vx_range_free,
    .index_get = vx_index_get,
    .index_contains = vx_index_contains,
    .index_count = vx_index_count,
    .index_labels = vx_index_labels,
    .index_save = vx_index_save,
    .index_load = vx_index_load,
    .filter_of_labels = vx_filter_of_labels,
    .filter_of_bits = vx_filter_of_bits,
    .filter_of_range = vx_filter_of_range,
    .filter_not = vx_filter_not,
    .filter_and = vx_filter_and,
    .filter_or = vx_filter_or,
    .filter_free = vx_filter_free,
};

const vx_api *vx_api_table(void)
{
    return &table;
}

/* As src/vecidx/_threadpoolctl.py calls them. */
VX_EXPORT int vecidx_get_num_threads(void);
VX_EXPORT void vecidx_set_num_threads(int n);
VX_EXPORT const char *vecidx_get_simd_level(void);

int vecidx_get_num_threads(void)
{
    return (int)vx_get_num_threads();
}

void vecidx_set_num_threads(int n)
{
    vx_set_num_threads(n > 0 ? (unsigned)n : 0);
}

const char *vecidx_get_simd_level(void)
{
    return vx_simd_level();
}
