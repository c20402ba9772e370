# Filters and what is asked under them; part of _core.pyx.

from libc.stdlib cimport free, malloc

import numpy as np


cdef class CoreFilter:
    """Owns one reference to a vx_filter.  Made by the static methods only."""

    cdef vx_filter *_filter

    def __cinit__(self):
        self._filter = NULL

    def __dealloc__(self):
        vx_filter_free(self._filter)       # NULL is fine

    @staticmethod
    def of_labels(const int64_t[::1] labels not None):
        cdef CoreFilter self = CoreFilter.__new__(CoreFilter)
        cdef size_t n = labels.shape[0]
        cdef const int64_t *at = &labels[0] if n > 0 else NULL
        cdef vx_error err
        cdef vx_status status
        with nogil:
            status = vx_filter_of_labels(at, n, &self._filter, &err)
        if status != VX_OK:
            raise_status(&err)
        return self

    @staticmethod
    def of_bits(const uint8_t[::1] bits not None, uint64_t n):
        """Of the first n bits, the lowest of a byte first; `bits` has them."""
        cdef CoreFilter self = CoreFilter.__new__(CoreFilter)
        cdef const uint8_t *at = &bits[0] if bits.shape[0] > 0 else NULL
        cdef vx_error err
        cdef vx_status status
        with nogil:
            status = vx_filter_of_bits(at, n, &self._filter, &err)
        if status != VX_OK:
            raise_status(&err)
        return self

    @staticmethod
    def of_range(int64_t begin, int64_t end, int64_t step):
        cdef CoreFilter self = CoreFilter.__new__(CoreFilter)
        cdef vx_error err
        if vx_filter_of_range(begin, end, step, &self._filter, &err) != VX_OK:
            raise_status(&err)
        return self

    def inverted(self):
        cdef CoreFilter made = CoreFilter.__new__(CoreFilter)
        cdef vx_error err
        if vx_filter_not(self._filter, &made._filter, &err) != VX_OK:
            raise_status(&err)
        return made

    def both(self, CoreFilter other not None):
        cdef CoreFilter made = CoreFilter.__new__(CoreFilter)
        cdef vx_error err
        if vx_filter_and(self._filter, other._filter, &made._filter, &err) != VX_OK:
            raise_status(&err)
        return made

    def either(self, CoreFilter other not None):
        cdef CoreFilter made = CoreFilter.__new__(CoreFilter)
        cdef vx_error err
        if vx_filter_or(self._filter, other._filter, &made._filter, &err) != VX_OK:
            raise_status(&err)
        return made

    def test(self, const int64_t[::1] labels not None, uint8_t[::1] out not None):
        """out[i] = 1 if labels[i] is in the set, else 0."""
        cdef size_t n = labels.shape[0]
        if n > 0:
            with nogil:
                vx_filter_test(self._filter, &labels[0], n, &out[0])

    def parts(self):
        """What :func:`filter_of_parts` makes an equal filter of: a list of tuples.

        Each names its kind first; combinations point at earlier ones by number.  The last is
        the filter itself.
        """
        cdef list parts = []
        _add_parts(self._filter, parts, {})
        return parts


cdef object _add_parts(vx_filter *filter, list parts, dict numbers):
    """Append what a filter is made of, each once; the number of its own part."""
    cdef vx_filter_parts found
    cdef size_t key = <size_t>filter
    if key in numbers:
        return numbers[key]
    vx_filter_look(filter, &found)
    if found.kind == VX_FILTER_RANGE:
        part = ("range", found.begin, found.end, found.step)
    elif found.kind == VX_FILTER_BITS:
        part = ("bits", found.begin, found.end, (<const char *>found.words)[:8 * found.n])
    elif found.kind == VX_FILTER_TABLE:
        labels = np.frombuffer((<const char *>found.table)[:8 * found.n], np.int64)
        part = ("labels", labels[labels >= 0].tobytes())
    else:                                 # no deeper than VX_FILTER_DEPTH
        a = _add_parts(found.a, parts, numbers)
        if found.kind == VX_FILTER_NOT:
            part = ("not", a)
        else:
            part = ("and" if found.kind == VX_FILTER_AND else "or", a,
                    _add_parts(found.b, parts, numbers))
    parts.append(part)
    numbers[key] = len(parts) - 1
    return len(parts) - 1


def filter_of_parts(list parts not None):
    """The CoreFilter that :meth:`CoreFilter.parts` told of."""
    made = []
    for part in parts:
        kind = part[0]
        if kind == "range":
            made.append(CoreFilter.of_range(*part[1:]))
        elif kind == "bits" and part[1] == 0:
            made.append(CoreFilter.of_bits(np.frombuffer(part[3], np.uint8), part[2]))
        elif kind == "bits":
            bits = np.unpackbits(np.frombuffer(part[3], np.uint8), bitorder="little")
            made.append(CoreFilter.of_labels(part[1] + np.flatnonzero(bits)))
        elif kind == "labels":
            made.append(CoreFilter.of_labels(np.frombuffer(part[1], np.int64)))
        elif kind == "not":
            made.append(made[part[1]].inverted())
        elif kind == "and":
            made.append(made[part[1]].both(made[part[2]]))
        else:
            made.append(made[part[1]].either(made[part[2]]))
    return made[len(made) - 1]


cdef class _Where:
    """A vx_where, and what keeps it alive."""

    cdef vx_where where
    cdef list filters

    def __cinit__(self, list filters not None, double max_distance):
        cdef size_t n = len(filters), i
        cdef vx_filter **to = NULL
        cdef CoreFilter one
        self.filters = filters
        self.where.filters = NULL
        self.where.n_filters = n
        self.where.max_distance = max_distance
        if n == 0:
            return
        to = <vx_filter **>malloc(n * sizeof(vx_filter *))
        if to == NULL:
            raise MemoryError("filters")
        self.where.filters = to
        for i in range(n):
            to[i] = NULL
            if filters[i] is not None:
                one = filters[i]
                to[i] = one._filter

    def __dealloc__(self):
        free(<void *>self.where.filters)


def search_where(CoreIndex core not None, queries not None, size_t k, size_t ef,
                 bint exact, unsigned num_threads, list filters, double max_distance,
                 int64_t[:, ::1] out_ids not None, float[:, ::1] out_distances not None):
    """As CoreIndex.search; `filters`: CoreFilters or None, one for all queries or one for each."""
    cdef:
        size_t n = len(queries)
        _Where limits = _Where(filters, max_distance)
        _Tick tick = _Tick()
        vx_run run = _make_run(tick, num_threads)
        vx_search_params params
        vx_error err
        vx_status status
        Py_buffer rows
    if n == 0:
        return
    params.k = k
    params.ef = ef
    params.exact = exact
    PyObject_GetBuffer(queries, &rows, PyBUF_C_CONTIGUOUS)
    with nogil:
        status = vx_index_search_where(core._index, rows.buf, n, &params, &limits.where,
                                       &run, &out_ids[0, 0], &out_distances[0, 0], &err)
    PyBuffer_Release(&rows)
    if status == VX_E_INTERRUPTED:
        tick.reraise()
    if status != VX_OK:
        raise_status(&err)


def range_search(CoreIndex core not None, queries not None, size_t ef,
                 bint exact, unsigned num_threads, list filters, double radius):
    """(lims, ids, distances)"""
    cdef:
        size_t n = len(queries)
        _Where limits = _Where(filters, radius)
        _Tick tick = _Tick()
        vx_run run = _make_run(tick, num_threads)
        vx_search_params params
        vx_range *found = NULL
        vx_error err
        vx_status status
        Py_buffer rows
        int64_t[::1] to_lims, to_ids
        float[::1] to_distances
    lims = np.zeros(n + 1, np.int64)
    if n == 0:
        return lims, np.empty(0, np.int64), np.empty(0, np.float32)
    params.k = 1
    params.ef = ef
    params.exact = exact
    PyObject_GetBuffer(queries, &rows, PyBUF_C_CONTIGUOUS)
    with nogil:
        status = vx_index_range_search(core._index, rows.buf, n, &params, &limits.where,
                                       &run, &found, &err)
    PyBuffer_Release(&rows)
    if status == VX_E_INTERRUPTED:
        tick.reraise()
    if status != VX_OK:
        raise_status(&err)
    try:
        to_lims = lims
        vx_range_lims(found, &to_lims[0])
        ids = np.empty(to_lims[n], np.int64)
        distances = np.empty(to_lims[n], np.float32)
        to_ids = ids
        to_distances = distances
        if to_lims[n] > 0:
            with nogil:
                vx_range_take(found, &to_ids[0], &to_distances[0])
    finally:
        vx_range_free(found)
    return lims, ids, distances
