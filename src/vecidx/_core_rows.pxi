"""Part of _core.pyx: rows of the index as queries, and the bytes that are kept with it."""

NOTES = {"tuned": <int>VX_NOTE_TUNED, "names": <int>VX_NOTE_NAMES}


def search_rows(CoreIndex index not None, const int64_t[::1] labels not None, size_t k, size_t ef,
                bint exact, bint unseen, int on_missing, unsigned num_threads,
                int64_t[:, ::1] out_ids not None, float[:, ::1] out_distances not None):
    """The neighbours of rows that are in the index."""
    cdef:
        size_t n = labels.shape[0]
        _Tick tick = _Tick()
        vx_run run = _make_run(tick, num_threads)
        vx_search_params params
        vx_error err
        vx_status status
    if n == 0:
        return
    params.k = k
    params.ef = ef
    params.exact = exact
    with nogil:
        status = vx_index_search_rows(index._index, &labels[0], n, &params, unseen,
                                      <vx_on_missing>on_missing, &run, &out_ids[0, 0],
                                      &out_distances[0, 0], &err)
    if status == VX_E_INTERRUPTED:
        tick.reraise()
    if status != VX_OK:
        raise_status(&err)


def sample_rows(CoreIndex index not None, int64_t[::1] out not None):
    """Fill `out` with ids of rows that may be searched for as if unseen; how many."""
    cdef:
        size_t n = 0, most = out.shape[0]
        vx_error err
        vx_status status
    if most == 0:
        return 0
    with nogil:
        status = vx_index_sample(index._index, most, &out[0], &n, &err)
    if status != VX_OK:
        raise_status(&err)
    return n


def set_note(CoreIndex index not None, int note, const uint8_t[::1] data not None):
    cdef:
        size_t n = data.shape[0]
        const void *at = &data[0] if n > 0 else NULL
        _Tick tick = _Tick()
        vx_run run = _make_run(tick, 0)
        vx_error err
        vx_status status
    with nogil:
        status = vx_index_set_note(index._index, <vx_note>note, at, n, &run, &err)
    if status == VX_E_INTERRUPTED:
        tick.reraise()
    if status != VX_OK:
        raise_status(&err)


def get_note(CoreIndex index not None, int note):
    """The bytes kept under a note; b"" where there are none."""
    cdef:
        size_t n = 0, room = 0
        bytes data = b""
        char *at = NULL
        _Tick tick = _Tick()
        vx_run run = _make_run(tick, 0)
        vx_error err
        vx_status status
    while True:
        with nogil:
            status = vx_index_note(index._index, <vx_note>note, at, room, &n, &run, &err)
        if status == VX_E_INTERRUPTED:
            tick.reraise()
        if status != VX_OK:
            raise_status(&err)
        if n <= room:
            return data[:n]
        data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>n)
        at = PyBytes_AsString(data)
        room = n
