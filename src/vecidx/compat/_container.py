"""The file of a facade: its own state, some arrays, and an index file, in one.

A facade knows more than an index: how many rows it may hold, which are marked
as deleted, under which numbers rows are known.  docs/FORMAT.md has the bytes.
"""

import contextlib
import io
import json
import os
import stat
import struct
import tempfile
import zlib

import numpy as np

import vecidx
from vecidx.errors import IndexFormatError

MAGIC = b"\x89VXCOMP\n"
VERSION = 1
NATIVE_MAGIC = b"\x89VIDX\r\n\x1a"
_HEAD = struct.Struct("<8sIII")          # magic, version, length and CRC-32 of the JSON
_MAX_HEAD = 1 << 24
_DTYPES = ("float32", "int64")


def kind_of(path):
    """"container", "index" (vecidx's own file) or None, by the file's first bytes."""
    with open(path, "rb") as file:
        first = file.read(8)
    return {MAGIC: "container", NATIVE_MAGIC: "index"}.get(first)


def dump(file, kind, state, arrays, index):
    """Write to a binary file object.  `index` is a vecidx.Index or None."""
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    head = json.dumps({
        "kind": kind, "state": state, "index": index is not None,
        "arrays": [{"name": name, "dtype": array.dtype.name, "shape": array.shape,
                    "crc32": zlib.crc32(_bytes_of(array))} for name, array in arrays.items()],
    }).encode()
    file.write(_HEAD.pack(MAGIC, VERSION, len(head), zlib.crc32(head)))
    file.write(head)
    for array in arrays.values():
        file.write(_bytes_of(array))
    if index is not None:
        index.save(file)


def parse(file, what):
    """(kind, state, arrays, index) from a binary file object; `what` names it in errors."""
    fixed = file.read(_HEAD.size)
    if len(fixed) < _HEAD.size or fixed[:8] != MAGIC:
        raise IndexFormatError(f"{what}: not a file of vecidx.compat")
    _, version, length, crc = _HEAD.unpack(fixed)
    if version != VERSION:
        raise IndexFormatError(f"{what}: version {version} of the file is unknown here; this "
                               f"vecidx reads {VERSION}")
    head = file.read(length) if length <= _MAX_HEAD else b""
    if len(head) != length or zlib.crc32(head) != crc:
        raise IndexFormatError(f"{what}: damaged: the checksum of its head is another")
    try:
        head = json.loads(head)
        arrays = {entry["name"]: _read_array(file, entry, what) for entry in head["arrays"]}
        kind, state, has_index = head["kind"], head["state"], head["index"]
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as err:
        raise IndexFormatError(f"{what}: its head makes no sense: {err!r}") from err
    index = vecidx.load(file) if has_index else None
    if index is None and file.read(1):
        raise IndexFormatError(f"{what}: damaged: there are bytes after its end")
    return kind, state, arrays, index


def _read_array(file, entry, what):
    if entry["dtype"] not in _DTYPES:
        raise IndexFormatError(f"{what}: array {entry['name']!r}: dtype {entry['dtype']!r} is "
                               "unknown here")
    dtype = np.dtype(entry["dtype"]).newbyteorder("<")
    n_bytes = int(np.prod(entry["shape"], dtype=object)) * dtype.itemsize
    data = file.read(n_bytes)
    if len(data) != n_bytes or zlib.crc32(data) != entry["crc32"]:
        raise IndexFormatError(f"{what}: damaged: the checksum of its array "
                               f"{entry['name']!r} is another")
    return np.frombuffer(data, dtype).reshape(entry["shape"])


def _bytes_of(array):
    """The array's bytes, little-endian, as a buffer."""
    if array.size == 0:
        return b""
    return memoryview(array.astype(array.dtype.newbyteorder("<"), copy=False)).cast("B")


def save(path, kind, state, arrays, index):
    """Write a file, beside `path` and then renamed over it, as vecidx.Index.save does."""
    path = os.fsdecode(path)
    with contextlib.suppress(OSError):
        if not stat.S_ISREG(os.stat(path).st_mode):       # a pipe or device has no other name
            with open(path, "wb") as file:
                dump(file, kind, state, arrays, index)
            return
    folder, name = os.path.split(os.path.realpath(path))
    try:
        handle, beside = tempfile.mkstemp(prefix=f".{name}.", suffix=".tmp", dir=folder)
    except OSError as err:
        err.filename = path
        raise
    try:
        with open(handle, "wb") as file:
            _keep_mode(file, path)
            dump(file, kind, state, arrays, index)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, os.path.join(folder, name))
    except BaseException:
        os.unlink(beside)
        raise
    _sync_folder(folder)


def _keep_mode(file, path):
    """mkstemp's files are for their owner alone; give this one the mode of an ordinary file."""
    if not hasattr(os, "fchmod"):
        return
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except OSError:
        mask = os.umask(0)
        os.umask(mask)
        mode = 0o666 & ~mask
    os.fchmod(file.fileno(), mode)


def _sync_folder(folder):
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load(path):
    """(kind, state, arrays, index) of a file."""
    with open(path, "rb") as file:
        return parse(file, os.fsdecode(path))


def to_bytes(kind, state, arrays, index):
    """The bytes that :func:`save` would write."""
    file = io.BytesIO()
    dump(file, kind, state, arrays, index)
    return file.getvalue()


def from_bytes(data):
    """(kind, state, arrays, index) of bytes that :func:`to_bytes` made."""
    return parse(io.BytesIO(data), "data")
