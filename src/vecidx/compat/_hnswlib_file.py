"""Files and pickled states that hnswlib itself wrote, as rows and labels.

A file of ``hnswlib.Index`` (0.4 and later), in the byte order and word size of
the machine that wrote it, taken to be little-endian and 64 bits:

    6 x u64   offset of layer 0 in a row (0), max_elements, count, length of a
              row, offset of the label in a row, offset of the vector in a row
    i32, u32  highest layer, entry point
    3 x u64   links a row keeps above layer 0, on layer 0, M
    f64, u64  scale of the level draws, ef_construction
    count rows of layer 0: u16 number of links, u8 flags (bit 0: deleted), u8,
              u32 links; float32 vector; u64 label
    count times: u32 length, and so many bytes of links above layer 0

That of ``hnswlib.BFIndex``: u64 max_elements, length of a row, count; then
max_elements rows, float32 vector and u64 label, of which the first count are used.

Neither says the space, nor, but by its lengths, the dimension.  Only rows are
taken: vecidx links them anew.
"""

import os
import struct
from typing import NamedTuple

import numpy as np

from vecidx.errors import IndexFormatError

_HEAD = struct.Struct("<6QiI3QdQ")
_FLAT_HEAD = struct.Struct("<3Q")
_MAX_DIM = 65_536


class Dump(NamedTuple):
    """What is taken of an hnswlib index."""

    rows: np.ndarray             # float32 (n, dim), perhaps strided, of a mapped file
    labels: np.ndarray           # uint64 (n,)
    deleted: np.ndarray          # bool (n,)
    max_elements: int
    M: int | None                # None of a BFIndex, which has no graph
    ef_construction: int | None

    @property
    def dim(self):
        return self.rows.shape[1]


def read(path):
    """The Dump of a file of hnswlib.Index.  IndexFormatError if it is none."""
    size, data = _mapped(path)
    if size < _HEAD.size:
        raise _not_ours(path, f"it has {size} bytes")
    (start, max_elements, count, row_bytes, label_at, vector_at, _, _, _, _, M, _,
     ef_construction) = _HEAD.unpack(data[:_HEAD.size])
    if start != 0 or not 4 <= vector_at < label_at or label_at + 8 != row_bytes \
            or (label_at - vector_at) % 4 or (label_at - vector_at) // 4 > _MAX_DIM \
            or count > max_elements or count > size or not 1 <= M <= 100_000 \
            or vector_at != 4 + 4 * 2 * M:
        raise _not_ours(path, "its header makes no sense")
    end = _HEAD.size + count * row_bytes
    if end > size or _end_of_upper_links(data, end, count) != size:
        raise _not_ours(path, "it is cut short, or goes on after its end")
    body = data[_HEAD.size:end].reshape(count, row_bytes)
    return _of_rows(body, vector_at, label_at, max_elements, M, ef_construction)


def read_flat(path):
    """The Dump of a file of hnswlib.BFIndex."""
    size, data = _mapped(path)
    if size < _FLAT_HEAD.size:
        raise _not_ours(path, f"it has {size} bytes")
    max_elements, row_bytes, count = _FLAT_HEAD.unpack(data[:_FLAT_HEAD.size])
    dim = (row_bytes - 8) // 4
    if not 1 <= dim <= _MAX_DIM or row_bytes != 4 * dim + 8 or count > max_elements \
            or _FLAT_HEAD.size + max_elements * row_bytes != size:
        raise _not_ours(path, "its header makes no sense")
    body = data[_FLAT_HEAD.size:_FLAT_HEAD.size + count * row_bytes].reshape(count, row_bytes)
    rows, labels = _fields(body, 0, 4 * dim)
    return Dump(rows, labels, np.zeros(count, np.bool_), max_elements, None, None)


def of_state(state):
    """The Dump of the dict that a pickle of hnswlib.Index holds."""
    try:
        count, row_bytes = int(state["cur_element_count"]), int(state["size_data_per_element"])
        body = np.ascontiguousarray(state["data_level0"]).view(np.uint8)
        return _of_rows(body.reshape(count, row_bytes), int(state["offset_data"]),
                        int(state["label_offset"]), int(state["max_elements"]), int(state["M"]),
                        int(state["ef_construction"]))
    except (KeyError, TypeError, ValueError) as err:
        raise IndexFormatError(f"params: not a state of hnswlib.Index: {err!r}") from err


def _of_rows(body, vector_at, label_at, max_elements, M, ef_construction):
    rows, labels = _fields(body, vector_at, label_at)
    deleted = (body[:, 2] & 1).astype(np.bool_)
    return Dump(rows, labels, deleted, max_elements, M, ef_construction)


def _fields(body, vector_at, label_at):
    """The vectors and labels of rows of bytes; views, not copies."""
    dim = (label_at - vector_at) // 4
    fields = np.dtype({"names": ["vector", "label"], "formats": [("<f4", (dim,)), "<u8"],
                       "offsets": [vector_at, label_at], "itemsize": body.shape[1]})
    table = body.reshape(-1).view(fields)
    return table["vector"].reshape(len(body), dim), table["label"]


def _mapped(path):
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return 0, np.empty(0, np.uint8)
        return size, np.memmap(file, np.uint8, "r")


def _end_of_upper_links(data, at, count):
    """Where the lists above layer 0 end, if each has the length that it says."""
    tail = memoryview(data)[at:]
    size, length_of = len(tail), struct.Struct("<I").unpack_from
    here = 0
    for _ in range(count):
        if here + 4 > size:
            return -1
        here += 4 + length_of(tail, here)[0]
    return at + here


def _not_ours(path, why):
    return IndexFormatError(f"{os.fsdecode(path)}: not an index of hnswlib or vecidx: {why}")
