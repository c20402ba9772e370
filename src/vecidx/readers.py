"""Vector files for the command line: .npy, .npz, .fvecs/.bvecs/.ivecs, HDF5, Parquet.

:func:`open_vectors` returns a :class:`VectorFile`, which reads rows as float32
in pieces; a .npy, a .?vecs and an HDF5 file may be larger than memory.  A file
that cannot be read raises :class:`ReaderError` (or OSError) with one line that
names the file and what is wrong with it.  h5py and pyarrow are imported when a
file needs them.
"""

import struct
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

try:
    from lzma import LZMAError
except ImportError:                  # a CPython built without it; zipfile refuses such members
    LZMAError = zipfile.BadZipFile

CHUNK_BYTES = 128 << 20       # of float32, handed out at a time by chunks()

SUFFIXES = (".npy", ".npz", ".fvecs", ".bvecs", ".ivecs", ".hdf5", ".h5", ".parquet")


# What numpy.load and a member's decompressor raise for a damaged or unusual .npz:
# an encrypted member is a RuntimeError, an unknown compression NotImplementedError.
NPZ_ERRORS = (ValueError, EOFError, KeyError, TypeError, AttributeError, SyntaxError,
              RuntimeError, NotImplementedError, tokenize.TokenError, struct.error,
              zipfile.BadZipFile, zlib.error, LZMAError)


class ReaderError(ValueError):
    """A vector file that cannot be read; the message is one line."""


class VectorFile:
    """An open file of n vectors of dim numbers.

    metric      "l2", "ip" or "cosine" where the file says so, else None
    queries     float32 (m, dim) where the file brings queries, else None
    truth       row numbers of the queries' true neighbours (m, K), else None
    """

    def __init__(self, path, shape, dtype, read, *, metric=None, queries=None, truth=None,
                 close=lambda: None):
        self.path = path
        self.shape = tuple(int(x) for x in shape)
        self.dtype = dtype
        self.metric = metric
        self.queries = queries
        self.truth = truth
        self._read = read
        self._close = close

    def __len__(self):
        return self.shape[0]

    @property
    def dim(self):
        return self.shape[1]

    def read(self, start=0, stop=None, *, packed=False):
        """Rows start to stop as float32 (and float64 where that is what the file holds,
        so that values beyond float32 are still seen); as they are where bits are wanted."""
        stop = len(self) if stop is None else min(stop, len(self))
        array = np.asarray(self._read(start, stop))
        return array if packed or (array.dtype.kind == "f" and array.itemsize > 4) else \
            array.astype(np.float32, copy=False)

    def chunks(self, rows=None):
        """The file in order, in pieces of so many rows."""
        rows = rows or max(1, CHUNK_BYTES // (4 * self.dim))
        for start in range(0, len(self), rows):
            yield self.read(start, start + rows)

    def close(self):
        self._close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


def open_vectors(path, key=None):
    """Open a vector file by its suffix.

    `key` names the array, dataset or column, where a file has several.
    """
    path = Path(path)
    opener = _OPENERS.get(path.suffix.lower())
    if opener is None:
        raise ReaderError(f"{path}: unknown suffix {path.suffix!r}; "
                          f"expected one of {' '.join(SUFFIXES)}")
    if not path.is_file():
        path.open("rb").close()      # the system's own FileNotFoundError, IsADirectoryError
    return opener(path, key)


def _checked(path, array, what="the array"):
    """`array` if it is a matrix of real numbers."""
    if len(array.shape) != 2 or array.shape[1] == 0:
        raise ReaderError(f"{path}: {what} has shape {tuple(array.shape)}; "
                          "expected 2 dimensions, (rows, values)")
    if np.dtype(array.dtype).kind not in "fiub":
        raise ReaderError(f"{path}: {what} has type {array.dtype}; expected real numbers")
    return array


def _first_line(err):
    return (str(err).strip().splitlines() or [type(err).__name__])[0]


def _no_key(path, key):
    if key is not None:
        raise ReaderError(f"{path}: a {path.suffix} file holds one array; leave out --key")


# ---- NumPy -------------------------------------------------------------------

def _open_npy(path, key):
    _no_key(path, key)
    if path.stat().st_size == 0:
        raise ReaderError(f"{path}: the file is empty")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, SyntaxError, tokenize.TokenError) as err:
        raise ReaderError(f"{path}: not a readable .npy file: {_first_line(err)}") from err
    if not isinstance(array, np.ndarray):
        raise ReaderError(f"{path}: not a readable .npy file: it is an archive; rename it .npz")
    _checked(path, array)
    return VectorFile(path, array.shape, array.dtype, lambda start, stop: array[start:stop])


def _open_npz(path, key):
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = list(archive.files)
            if key is None:
                key = _only(path, "array", [n for n in names if _npz_ndim(path, archive, n) == 2])
            if key not in names:
                raise ReaderError(f"{path}: no array {key!r}; it has {', '.join(names)}")
            array = archive[key]
    except ReaderError:
        raise
    except (*NPZ_ERRORS, OSError) as err:
        raise ReaderError(f"{path}: not a readable .npz file: {_first_line(err)}") from err
    _checked(path, array, f"array {key!r}")
    return VectorFile(path, array.shape, array.dtype, lambda start, stop: array[start:stop])


def _npz_ndim(path, archive, name):
    try:
        return archive[name].ndim
    except ValueError:               # an object array, which would need pickle
        return None


def _only(path, what, names):
    if len(names) == 1:
        return names[0]
    if not names:
        raise ReaderError(f"{path}: no 2-D {what} in it")
    raise ReaderError(f"{path}: several 2-D {what}s ({', '.join(names)}); choose one with --key")


# ---- the TEXMEX formats: each row an int32 length, then that many values -----

def _open_vecs(path, key):
    _no_key(path, key)
    value = np.dtype({".fvecs": "<f4", ".ivecs": "<i4", ".bvecs": "u1"}[path.suffix.lower()])
    size = path.stat().st_size
    if size < 4:
        raise ReaderError(f"{path}: {size} bytes; expected rows of a length and values")
    dim = int(np.fromfile(path, "<i4", count=1)[0])
    if not 1 <= dim <= 1 << 20:
        raise ReaderError(f"{path}: row 0 says it has {dim} values; not a {path.suffix} file")
    row_bytes = 4 + dim * value.itemsize
    if size % row_bytes:
        raise ReaderError(f"{path}: {size} bytes is not a whole number of rows of "
                          f"{row_bytes} ({dim} values); the file is cut off or no {path.suffix}")
    row = np.dtype([("dim", "<i4"), ("values", value, (dim,))])
    records = np.memmap(path, dtype=row, mode="r")

    def read(start, stop):
        part = records[start:stop]
        wrong = part["dim"] != dim
        if wrong.any():
            first = int(np.argmax(wrong))
            raise ReaderError(f"{path}: row {start + first} says it has "
                              f"{part['dim'][first]} values, row 0 has {dim}")
        return part["values"]

    return VectorFile(path, (len(records), dim), value, read)


# ---- HDF5, as ann-benchmarks lays it out -------------------------------------

_HDF5_METRICS = {"angular": "cosine", "cosine": "cosine", "euclidean": "l2", "l2": "l2",
                 "dot": "ip", "ip": "ip"}


def _open_hdf5(path, key):
    try:
        import h5py
    except ImportError:
        raise ReaderError(f"{path}: reading HDF5 needs h5py: pip install h5py") from None
    try:
        file = h5py.File(path, "r")
    except OSError as err:
        if isinstance(err, (FileNotFoundError, PermissionError)):
            raise
        raise ReaderError(f"{path}: not a readable HDF5 file: {_first_line(err)}") from err
    try:
        datasets = [name for name in file if isinstance(file[name], h5py.Dataset)]
        if key is None:
            key = "train" if "train" in datasets else _only(
                path, "dataset", [n for n in datasets if file[n].ndim == 2])
        if key not in datasets:
            raise ReaderError(f"{path}: no dataset {key!r}; it has {', '.join(datasets)}")
        rows = _checked(path, file[key], f"dataset {key!r}")
        distance = file.attrs.get("distance")
        if isinstance(distance, bytes):
            distance = distance.decode("utf-8", "replace")
        queries = truth = None
        if key == "train" and "test" in datasets:
            queries = _checked(path, file["test"], "dataset 'test'")[:].astype(np.float32)
            if queries.shape[1] != rows.shape[1]:
                raise ReaderError(f"{path}: 'test' has {queries.shape[1]} columns, "
                                  f"'train' {rows.shape[1]}")
            if "neighbors" in datasets and file["neighbors"].ndim == 2 \
                    and len(file["neighbors"]) == len(queries):
                truth = file["neighbors"][:].astype(np.int64)
                if truth.size and not 0 <= truth.min() <= truth.max() < rows.shape[0]:
                    raise ReaderError(f"{path}: 'neighbors' names rows that 'train' does not have")
    except BaseException as err:
        file.close()
        if isinstance(err, (OSError, RuntimeError)):
            raise ReaderError(f"{path}: damaged HDF5 file: {_first_line(err)}") from err
        raise

    def read(start, stop):
        try:
            return rows[start:stop]
        except (OSError, RuntimeError) as err:
            raise ReaderError(f"{path}: damaged HDF5 file: {_first_line(err)}") from err

    return VectorFile(path, rows.shape, rows.dtype, read, close=file.close, queries=queries,
                      metric=_HDF5_METRICS.get(str(distance).lower()), truth=truth)


# ---- Parquet: a column of lists of numbers -----------------------------------

def _open_parquet(path, key):
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ReaderError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow") from None
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as err:
        if isinstance(err, (FileNotFoundError, PermissionError)):
            raise
        raise ReaderError(f"{path}: not a readable Parquet file: {_first_line(err)}") from err
    schema = file.schema_arrow
    lists = [field.name for field in schema if _is_vector_type(pa, field.type)]
    if key is None:
        key = _only(path, "column", lists)
    elif key not in schema.names:
        raise ReaderError(f"{path}: no column {key!r}; it has {', '.join(schema.names)}")
    elif key not in lists:
        raise ReaderError(f"{path}: column {key!r} is {schema.field(key).type}; "
                          "expected lists of numbers")
    n_rows = file.metadata.num_rows
    group_starts = np.cumsum([0] + [file.metadata.row_group(i).num_rows
                                    for i in range(file.metadata.num_row_groups)])

    def group(i):
        try:
            column = file.read_row_group(i, columns=[key]).column(key)
        except (pa.ArrowException, OSError) as err:
            raise ReaderError(f"{path}: damaged Parquet file: {_first_line(err)}") from err
        return _lists_to_matrix(pa, path, key, column.combine_chunks(), int(group_starts[i]))

    if n_rows == 0:
        raise ReaderError(f"{path}: column {key!r} has no rows")
    cache = {0: group(0)}            # the last row group read; readers go forward
    dim = cache[0].shape[1]

    def read(start, stop):
        parts = []
        first = int(np.searchsorted(group_starts, start, side="right")) - 1
        for i in range(max(first, 0), file.metadata.num_row_groups):
            low = int(group_starts[i])
            if low >= stop:
                break
            if i not in cache:
                cache.clear()
                cache[i] = group(i)
                if cache[i].shape[1] != dim and len(cache[i]):
                    raise ReaderError(f"{path}: row {low} has {cache[i].shape[1]} values, "
                                      f"row 0 has {dim}")
            if len(cache[i]):
                parts.append(cache[i][max(start - low, 0):stop - low])
        return np.concatenate(parts) if parts else np.empty((0, dim), np.float32)

    return VectorFile(path, (n_rows, dim), cache[0].dtype, read, close=file.close)


def _is_vector_type(pa, kind):
    types = pa.types
    if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        return False
    return types.is_floating(kind.value_type) or types.is_integer(kind.value_type)


def _lists_to_matrix(pa, path, key, column, first_row):
    """One row group's lists as a matrix; `first_row` is for messages."""
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else \
            pa.array([], column.type)
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise ReaderError(f"{path}: column {key!r} row {first_row + row} is null")
    n = len(column)
    values = column.flatten()
    if values.null_count:
        raise ReaderError(f"{path}: column {key!r} has null values inside rows")
    lengths = np.full(n, column.type.list_size) if pa.types.is_fixed_size_list(column.type) \
        else np.diff(column.offsets.to_numpy())
    if n and (lengths != lengths[0]).any():
        row = int(np.argmax(lengths != lengths[0]))
        raise ReaderError(f"{path}: column {key!r} row {first_row + row} has {lengths[row]} "
                          f"values, row {first_row} has {lengths[0]}")
    if n and lengths[0] == 0:
        raise ReaderError(f"{path}: column {key!r} holds empty lists")
    return values.to_numpy(zero_copy_only=False).reshape(n, int(lengths[0]) if n else 0)


_OPENERS = {
    ".npy": _open_npy,
    ".npz": _open_npz,
    ".fvecs": _open_vecs,
    ".bvecs": _open_vecs,
    ".ivecs": _open_vecs,
    ".hdf5": _open_hdf5,
    ".h5": _open_hdf5,
    ".parquet": _open_parquet,
}
