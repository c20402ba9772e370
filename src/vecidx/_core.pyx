# cython: language_level=3
# cython: freethreading_compatible=True
# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""The binding: one method per C call, status codes to exceptions, no policy.

Callers pass arrays of the right type, shape and layout (_validate.py sees to
it) and the arrays to be filled.  Every call that may take long releases the
GIL; the memoryviews keep the buffers alive meanwhile.  Of state the module holds
which thread is the main one; the rest that is process-wide lives in C.
"""

import errno
import os
import threading

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_READ, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_New, PyCapsule_SetContext
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_INCREF, Py_XDECREF, PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from vecidx._vecidx cimport *

from vecidx.errors import IndexFormatError, VecidxError

METRICS = {"l2": <int>VX_L2SQ, "ip": <int>VX_IP, "cosine": <int>VX_COSINE,
           "hamming": <int>VX_HAMMING, "jaccard": <int>VX_JACCARD}
DTYPES = {"float32": <int>VX_F32, "float16": <int>VX_F16, "bfloat16": <int>VX_BF16,
          "int8": <int>VX_I8, "uint8": <int>VX_U8, "bits": <int>VX_BITS}
QUANTIZATIONS = {None: <int>VX_QUANT_NONE, "sq8": <int>VX_QUANT_SQ8,
                 "sq4": <int>VX_QUANT_SQ4, "auto": <int>VX_QUANT_AUTO}
MAP_MODES = {False: <int>VX_MAP_NOTHING, True: <int>VX_MAP_ALL, "vectors": <int>VX_MAP_VECTORS}
ON_CONFLICT = {"replace": <int>VX_REPLACE, "error": <int>VX_ERROR, "skip": <int>VX_SKIP}
ON_MISSING = {"error": <int>VX_MISSING_ERROR, "ignore": <int>VX_MISSING_IGNORE}

# The exception of each status.  VX_E_IO is an OSError built from errno and
# VX_E_INTERRUPTED raises what the tick caught, so neither is in the table.
cdef dict _EXCEPTIONS = {
    <int>VX_E_ARG: ValueError,
    <int>VX_E_NOMEM: MemoryError,
    <int>VX_E_FORMAT: IndexFormatError,
    <int>VX_E_LABEL: KeyError,
    <int>VX_E_STATE: VecidxError,
}


cdef int raise_status(vx_error *err, object path=None, object label_error=KeyError) except -1:
    """Raise the exception that `err` describes; its text names argument and row.

    `path` is the file of an I/O error (bytes), `label_error` what VX_E_LABEL
    means to this call.
    """
    cdef str text = (<bytes>err.text).decode("utf-8", "replace")
    cdef int status = <int>err.status
    if status == <int>VX_E_IO:
        code = err.sys_errno or errno.EIO
        exc = OSError(code, os.strerror(code), os.fsdecode(path))   # becomes FileNotFoundError etc.
        exc.add_note(text)
        raise exc
    if status == <int>VX_E_LABEL:
        raise label_error(text)
    if path is not None:
        text = f"{os.fsdecode(path)}: {text}"
    raise _EXCEPTIONS.get(status, VecidxError)(text)


cdef class _Tick:
    """What a long call needs to answer signals and report progress."""
    cdef object progress    # a callable taking (done, total), or None
    cdef uint64_t total     # what it is told: the core's total lacks rows that are skipped
    cdef object error       # the exception that stopped the call, or None

    cdef int reraise(self) except -1:
        """Raise what stopped the call."""
        if self.error is not None:
            raise self.error
        # A tick that forked: the child has none of the threads that were at work.
        raise VecidxError(
            "stopped: the process forked inside this call (in its progress callable or a "
            "signal handler?), and only the parent can finish it")


cdef int _on_tick(void *arg, uint64_t done, uint64_t total) noexcept with gil:
    """Stop the call (1) on a pending signal or an exception of the progress callable."""
    cdef _Tick tick = <_Tick>arg
    try:
        PyErr_CheckSignals()
        # The end is reported by index.py, once, when the call has succeeded.
        if tick.progress is not None and (done < total or total == 0):
            tick.progress(done, tick.total)
    except BaseException as exc:
        tick.error = exc
        return 1
    return 0


cdef unsigned long _main_thread = 0   # as PyThread_get_thread_ident has it


def _note_main_thread():
    global _main_thread
    _main_thread = threading.main_thread().ident


_note_main_thread()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_main_thread)


cdef vx_run _make_run(_Tick tick, unsigned num_threads, object progress=None) noexcept:
    cdef vx_run run
    run.num_threads = num_threads
    # Only the main thread gets signals: others need not wait for the GIL to ask.
    run.tick = NULL
    if progress is not None or <unsigned long>PyThread_get_thread_ident() == _main_thread:
        run.tick = _on_tick
    run.tick_arg = <void *>tick    # borrowed: the caller's variable keeps it alive
    tick.progress = progress
    return run


cdef class _Sink:
    """Where a saved index goes if not to a path: a file's write(), or one bytes object."""
    cdef object write       # the file's method; None: to `data`
    cdef bint is_raw        # it may take less than it is given
    cdef bytes data
    cdef object error       # the exception that stopped the call, or None


# What the C callbacks get: `at` is NULL for a file, else where the next bytes go.
cdef struct sink_state:
    void *sink              # a _Sink, borrowed
    char *at


cdef int _sink_begin(void *arg, uint64_t length) noexcept with gil:
    cdef sink_state *state = <sink_state *>arg
    cdef _Sink sink = <_Sink>state.sink
    try:
        if sink.write is None:
            sink.data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>length)
            state.at = PyBytes_AsString(sink.data)
    except BaseException as exc:
        sink.error = exc
        return 1
    return 0


cdef int _sink_write(void *arg, const void *data, size_t n) noexcept nogil:
    cdef sink_state *state = <sink_state *>arg
    if state.at == NULL:
        return _write_file(state.sink, <char *>data, n)
    memcpy(state.at, data, n)
    state.at += n
    return 0


cdef int _write_file(void *arg, char *data, size_t n) noexcept with gil:
    cdef _Sink sink = <_Sink>arg
    cdef size_t done = 0
    try:
        while done < n:
            view = PyMemoryView_FromMemory(data + done, <Py_ssize_t>(n - done), PyBUF_READ)
            taken = sink.write(view)
            view.release()             # the memory is ours: nobody may keep it
            if not sink.is_raw:
                return 0
            if taken is None:
                raise BlockingIOError(errno.EAGAIN, "the file is not ready to be written to")
            done += taken
    except BaseException as exc:
        sink.error = exc
        return 1
    return 0


# What extensions of others ask for by this name: see vecidx_api.h.
C_API = PyCapsule_New(<void *>vx_api_table(), VX_API_CAPSULE, NULL)


cdef void _release_owner(object capsule) noexcept:
    Py_XDECREF(<PyObject *>PyCapsule_GetContext(capsule))


cdef class CoreIndex:
    """Owns one vx_index.  Made by :meth:`create`, :meth:`load` or :meth:`load_bytes` only."""

    cdef vx_index *_index

    def __cinit__(self):
        self._index = NULL

    def __dealloc__(self):
        with nogil:                    # giving back gigabytes takes its time
            vx_index_free(self._index)     # NULL is fine

    @staticmethod
    def create(uint32_t dim, uint32_t metric, uint32_t dtype, uint32_t quantization, uint32_t M,
               uint32_t ef_construction, uint64_t seed, uint64_t capacity):
        cdef CoreIndex self = CoreIndex.__new__(CoreIndex)
        cdef vx_params params
        cdef vx_error err
        cdef vx_status status
        params.dim = dim
        params.metric = metric
        params.dtype = dtype
        params.quantization = quantization
        params.M = M
        params.ef_construction = ef_construction
        params.seed = seed
        params.capacity = capacity
        with nogil:
            status = vx_index_new(&params, &self._index, &err)
        if status != VX_OK:
            raise_status(&err)
        return self

    def params(self):
        """(dim, numbers of metric, dtype and quantization, M, ef_construction, seed)"""
        cdef vx_params params
        vx_index_params(self._index, &params)
        return (params.dim, params.metric, params.dtype, params.quantization, params.M,
                params.ef_construction, params.seed)

    def add(self, const uint8_t[:, ::1] rows not None, int dtype, const int64_t[::1] labels,
            int on_conflict, unsigned num_threads, progress, int64_t[::1] out_labels not None):
        """`rows` are the bytes of rows of a dtype: float32's number or the index's."""
        cdef:
            size_t n = rows.shape[0]
            const int64_t *label_in = NULL
            uint64_t added = 0
            _Tick tick = _Tick()
            vx_run run = _make_run(tick, num_threads, progress)
            vx_error err
            vx_status status
        if n == 0:                     # &view[0, 0] of an empty view is not an address
            return
        if labels is not None:
            label_in = &labels[0]
        tick.total = n
        with nogil:
            status = vx_index_add_typed(self._index, <vx_dtype>dtype, &rows[0, 0], n, label_in,
                                        <vx_on_conflict>on_conflict, &run, &out_labels[0], &added,
                                        &err)
        if status == VX_OK:
            return
        try:
            if status == VX_E_INTERRUPTED:
                tick.reraise()
            raise_status(&err, None, ValueError)
        except BaseException as exc:
            exc.rows_added = added
            if status == VX_E_INTERRUPTED or status == VX_E_NOMEM or added > 0:
                exc.add_note(f"vecidx: the first {added} of this call's {n} rows are in the "
                             "index, which stays valid")
            raise

    def delete(self, const int64_t[::1] labels not None, int on_missing, unsigned num_threads):
        """How many rows died."""
        cdef:
            size_t n = labels.shape[0]
            uint64_t deleted = 0
            _Tick tick = _Tick()
            vx_run run = _make_run(tick, num_threads)
            vx_error err
            vx_status status
        if n == 0:
            return 0
        with nogil:
            status = vx_index_delete(self._index, &labels[0], n, <vx_on_missing>on_missing,
                                     &run, &deleted, &err)
        if status == VX_OK:
            return deleted
        try:
            if status == VX_E_INTERRUPTED:
                tick.reraise()
            raise_status(&err)
        except BaseException as exc:
            if status == VX_E_INTERRUPTED:
                exc.add_note(f"vecidx: {deleted} rows are deleted; the index stays valid")
            raise

    def capsule(self):
        """The C index, for extensions of others; it keeps this object alive."""
        capsule = PyCapsule_New(<void *>self._index, VX_INDEX_CAPSULE, _release_owner)
        PyCapsule_SetContext(capsule, <void *>self)
        Py_INCREF(self)
        return capsule

    def merge(self, CoreIndex other not None, int on_conflict, unsigned num_threads, progress):
        """How many rows the other had."""
        cdef:
            uint64_t added = 0
            _Tick tick = _Tick()
            vx_run run = _make_run(tick, num_threads, progress)
            vx_error err
            vx_status status
        tick.total = vx_index_count(other._index)
        with nogil:
            status = vx_index_merge(self._index, other._index, <vx_on_conflict>on_conflict, &run,
                                    &added, &err)
        if status == VX_OK:
            return added
        try:
            if status == VX_E_INTERRUPTED:
                tick.reraise()
            raise_status(&err, None, ValueError)
        except BaseException as exc:
            exc.rows_added = added
            if status == VX_E_INTERRUPTED or status == VX_E_NOMEM or added > 0:
                exc.add_note(f"vecidx: {added} rows of the other index are in this one, which "
                             "stays valid; to merge again does the rest")
            raise

    def reserve(self, uint64_t n):
        cdef:
            _Tick tick = _Tick()
            vx_run run = _make_run(tick, 0)
            vx_error err
            vx_status status
        with nogil:
            status = vx_index_reserve(self._index, n, &run, &err)
        if status == VX_E_INTERRUPTED:
            tick.reraise()
        if status != VX_OK:
            raise_status(&err)

    def compact(self, unsigned num_threads):
        self._maintain(vx_index_compact, num_threads)

    def repair(self, unsigned num_threads):
        self._maintain(vx_index_repair, num_threads)

    cdef int _maintain(self,
                       vx_status (*fn)(vx_index *, const vx_run *, vx_error *) noexcept nogil,
                       unsigned num_threads) except -1:
        cdef:
            _Tick tick = _Tick()
            vx_run run = _make_run(tick, num_threads)
            vx_error err
            vx_status status
        with nogil:
            status = fn(self._index, &run, &err)
        if status == VX_E_INTERRUPTED:
            tick.reraise()
        if status != VX_OK:
            raise_status(&err)
        return 0

    def search(self, queries not None, size_t k, size_t ef, bint exact,
               unsigned num_threads, int64_t[:, ::1] out_ids not None,
               float[:, ::1] out_distances not None):
        """`queries`: a C-ordered array of float32, or uint8 of an index of bits."""
        if len(queries) > 0:
            self._search(queries, len(queries), k, ef, exact, num_threads,
                         &out_ids[0, 0], &out_distances[0, 0])

    def search_one(self, query not None, size_t k, size_t ef, bint exact,
                   unsigned num_threads, int64_t[::1] out_ids not None,
                   float[::1] out_distances not None):
        """As search, for one query: the fast path of index.py."""
        self._search(query, 1, k, ef, exact, num_threads, &out_ids[0], &out_distances[0])

    cdef int _search(self, object queries, size_t n, size_t k, size_t ef, bint exact,
                     unsigned num_threads, int64_t *out_ids, float *out_distances) except -1:
        cdef:
            _Tick tick = _Tick()
            vx_run run = _make_run(tick, num_threads)
            vx_search_params params
            vx_error err
            vx_status status
            Py_buffer rows
        params.k = k
        params.ef = ef
        params.exact = exact
        PyObject_GetBuffer(queries, &rows, PyBUF_C_CONTIGUOUS)
        with nogil:
            status = vx_index_search(self._index, rows.buf, n, &params, &run,
                                     out_ids, out_distances, &err)
        PyBuffer_Release(&rows)
        if status == VX_OK:
            return 0
        if status == VX_E_INTERRUPTED:
            tick.reraise()
        return raise_status(&err)

    def get(self, const int64_t[::1] labels not None, uint8_t[:, ::1] out_rows not None):
        """Fill the bytes of rows of the index's dtype; of float32 where that is bfloat16."""
        cdef:
            size_t n = labels.shape[0]
            vx_error err
            vx_status status
        if n == 0:
            return
        with nogil:
            status = vx_index_get(self._index, &labels[0], n, &out_rows[0, 0], &err)
        if status != VX_OK:
            raise_status(&err)

    def contains(self, int64_t label):
        cdef:
            vx_label c_label = label
            uint8_t found = 0
            vx_error err
            vx_status status
        with nogil:
            status = vx_index_contains(self._index, &c_label, 1, &found, &err)
        if status != VX_OK:
            raise_status(&err)
        return found != 0

    def count(self):
        if vx_index_is_closed(self._index):
            raise VecidxError("the index is closed")
        return vx_index_count(self._index)

    def dead(self):
        """Places of vectors that were deleted or replaced."""
        return vx_index_dead(self._index)

    def labels(self, int64_t[::1] out not None):
        """Fill `out` with the ids of live rows; how many there are, maybe more than it holds."""
        cdef:
            uint64_t cap = out.shape[0], n = 0
            int64_t *to = &out[0] if cap > 0 else NULL
            vx_error err
            vx_status status
        with nogil:
            status = vx_index_labels(self._index, to, cap, &n, &err)
        if status != VX_OK:
            raise_status(&err)
        return n

    def stats(self):
        cdef:
            vx_stats stats
            vx_error err
            vx_status status
        with nogil:
            status = vx_index_stats(self._index, &stats, &err)
        if status != VX_OK:
            raise_status(&err)
        return {
            "count": stats.n_live,
            "deleted": stats.n_deleted,
            "free": stats.n_free,
            "duplicates": stats.n_twins,
            "links": stats.n_links,
            "links_chosen": stats.n_links_chosen,
            "quantized": stats.is_quantised != 0,
            "rows_at_level": [stats.rows_at_level[i] for i in range(stats.n_levels)],
        }

    def memory(self):
        cdef:
            vx_memory memory
            vx_error err
            vx_status status
        with nogil:
            status = vx_index_memory(self._index, &memory, &err)
        if status != VX_OK:
            raise_status(&err)
        return {
            "vectors": memory.vectors,
            "links": memory.links,
            "upper_links": memory.upper_links,
            "codes": memory.codes,
            "ranks": memory.ranks,
            "sketches": memory.sketches,
            "labels": memory.labels,
            "label_map": memory.label_map,
            "other": memory.other,
            "scratch": memory.scratch,
            "total": memory.total,
            "reserved": memory.reserved,
            "mapped": memory.mapped,
        }

    def check(self):
        cdef:
            vx_check found
            _Tick tick = _Tick()
            vx_run run = _make_run(tick, 0)
            vx_error err
            vx_status status
        with nogil:
            status = vx_index_check(self._index, &run, &found, &err)
        if status == VX_E_INTERRUPTED:
            tick.reraise()
        if status != VX_OK:
            raise_status(&err)
        return {"unreachable": found.n_unreachable}

    # ---- files ----

    @staticmethod
    def load(bytes path not None, int map, bint verify, unsigned num_threads):
        cdef CoreIndex self = CoreIndex.__new__(CoreIndex)
        cdef const char *c_path = path
        cdef vx_load_options options
        cdef _Tick tick = _Tick()
        cdef vx_run run = _make_run(tick, num_threads)
        cdef vx_error err
        cdef vx_status status
        options.map = <vx_map_mode>map
        options.verify = verify
        with nogil:
            status = vx_index_load(c_path, &options, &run, &self._index, &err)
        if status == VX_E_INTERRUPTED:
            tick.reraise()
        if status != VX_OK:
            raise_status(&err, path)
        return self

    @staticmethod
    def load_bytes(const uint8_t[::1] data not None, bint verify, unsigned num_threads):
        cdef CoreIndex self = CoreIndex.__new__(CoreIndex)
        cdef size_t n = data.shape[0]
        cdef const void *at = &data[0] if n > 0 else NULL
        cdef _Tick tick = _Tick()
        cdef vx_run run = _make_run(tick, num_threads)
        cdef vx_error err
        cdef vx_status status
        with nogil:
            status = vx_index_load_memory(at, n, verify, &run, &self._index, &err)
        if status == VX_E_INTERRUPTED:
            tick.reraise()
        if status != VX_OK:
            raise_status(&err)
        return self

    def save(self, bytes path not None):
        cdef:
            const char *c_path = path
            _Tick tick = _Tick()
            vx_run run = _make_run(tick, 0)
            vx_error err
            vx_status status
        with nogil:
            status = vx_index_save(self._index, c_path, &run, &err)
        if status == VX_E_INTERRUPTED:
            tick.reraise()
        if status != VX_OK:
            raise_status(&err, path)

    def save_to(self, write, bint is_raw):
        """Hand the bytes of a file to write(memoryview), piece by piece; None: return them."""
        cdef:
            _Sink to = _Sink()
            sink_state state
            vx_sink sink
            _Tick tick = _Tick()
            vx_run run = _make_run(tick, 0)
            vx_error err
            vx_status status
        to.write = write
        to.is_raw = is_raw
        state.sink = <void *>to
        state.at = NULL
        sink.begin = _sink_begin
        sink.write = _sink_write
        sink.arg = &state
        with nogil:
            status = vx_index_save_to(self._index, &sink, &run, &err)
        if status == VX_OK:
            return to.data
        if to.error is not None:
            raise to.error
        if status == VX_E_INTERRUPTED:
            tick.reraise()
        raise_status(&err)

    def warm(self, unsigned num_threads):
        cdef:
            _Tick tick = _Tick()
            vx_run run = _make_run(tick, num_threads)
            vx_error err
            vx_status status
        with nogil:
            status = vx_index_warm(self._index, &run, &err)
        if status == VX_E_INTERRUPTED:
            tick.reraise()
        if status != VX_OK:
            raise_status(&err)

    def close(self):
        cdef:
            _Tick tick = _Tick()
            vx_run run = _make_run(tick, 0)
            vx_error err
            vx_status status
        with nogil:
            status = vx_index_close(self._index, &run, &err)
        if status == VX_E_INTERRUPTED:
            tick.reraise()
        if status != VX_OK:
            raise_status(&err)

    def is_read_only(self):
        return vx_index_is_read_only(self._index) != 0

    def is_closed(self):
        return vx_index_is_closed(self._index) != 0

    def test_links(self, int64_t label, int64_t[::1] out not None):
        """For tests: (layer-0 links written to out, how many of them were chosen)."""
        cdef size_t chosen = 0, n
        n = vx_test_links(self._index, label, &out[0], out.shape[0], &chosen)
        return n, chosen


include "_core_filter.pxi"
include "_core_rows.pxi"
include "_core_machine.pxi"


def inspect(bytes path not None):
    """What the head of an index file says: a dict."""
    cdef const char *c_path = path
    cdef vx_file_info info
    cdef vx_error err
    cdef vx_status status
    with nogil:
        status = vx_index_inspect(c_path, &info, &err)
    if status != VX_OK:
        raise_status(&err, path)
    return {
        "format_version": info.version,
        "file_bytes": info.file_bytes,
        "rows": info.n_rows - info.n_dead,
        "deleted": info.n_dead,
        "dim": info.dim,
        "metric": info.metric.decode("ascii"),
        "dtype": info.dtype.decode("ascii"),
        "quantization": info.quantization.decode("ascii"),
        "M": info.M,
        "ef_construction": info.ef_construction,
        "seed": info.seed,
        "sections": {
            (<bytes>info.sections[i].name).decode("ascii"): {
                "kind": info.sections[i].kind,
                "required": info.sections[i].required != 0,
                "offset": info.sections[i].offset,
                "bytes": info.sections[i].length,
                "crc32c": info.sections[i].crc,
            }
            for i in range(info.n_sections)
        },
    }
