"""Where the rows of a build come from, cut into pieces that tasks can read.

A piece is small enough for memory, can be pickled, and reads itself: ``read()``
gives ids and rows.  ``fingerprint`` changes when its content may have; None says
that only reading can tell.
"""

import dataclasses
import os
from functools import cached_property

import numpy as np

from vecidx.ray import _parquet
from vecidx.ray._store import Store, filesystem
from vecidx.readers import ReaderError

PIECE_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True)
class Source:
    """Pieces, and what all of them share."""

    pieces: list
    dim: int                                 # columns of the arrays that pieces give
    fingerprint: object                      # anything with a repr; None: read to know


def open_source(source, column, id_column):
    """The source that a user named: Parquet or .npy by path or URL, or a Ray Dataset."""
    if type(source).__module__.startswith("ray.data"):
        return _dataset_source(source, column, id_column)
    if isinstance(source, (str, os.PathLike)):
        source = [source]
    if not isinstance(source, (list, tuple)) or not source:
        raise TypeError(f"source: expected a path or URL of Parquet or .npy, a list of them, or a "
                        f"Ray Dataset, got {type(source).__name__}")
    files = [found for name in source for found in _files_of(os.fspath(name))]
    suffixes = {os.path.splitext(path)[1].lower() for _, path in files}
    if suffixes == {".npy"}:
        if column is not None or id_column is not None:
            raise ValueError("column, id_column: are for Parquet and Datasets; the rows of a .npy "
                             "file have their row numbers as ids")
        return _npy_source(files)
    if suffixes == {".parquet"}:
        return _parquet_source(files, column, id_column)
    raise ReaderError(f"source: expected .parquet or .npy files, all of one kind, got "
                      f"{', '.join(sorted(suffixes))}")


def _files_of(name):
    """[(fs, path)] of a file, a folder of Parquet or a pattern."""
    fs, path = filesystem(name)
    if any(sign in path for sign in "*?["):
        found = sorted(fs.glob(path))
    elif fs.isdir(path):
        found = sorted(p for p in fs.find(path) if p.endswith(".parquet"))
    else:
        found = [path] if fs.exists(path) else []
    if not found:
        raise FileNotFoundError(2, "no such file, or no .parquet in the folder", name)
    return [(fs, p) for p in found]


def _stamp(fs, path):
    """What changes when a file does."""
    info = fs.info(path)
    changed = [repr(info[key]) for key in ("mtime", "ETag", "etag", "LastModified", "last_modified",
                                           "updated") if key in info]
    return [path, info["size"], *changed]


# ---- .npy ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class NpyPiece:
    fs: object
    path: str
    fingerprint: object
    offset: int                              # of the piece's first byte
    shape: tuple
    dtype: np.dtype
    first_row: int                           # in the file
    first_id: int

    def read(self):
        with self.fs.open(self.path, "rb") as file:
            file.seek(self.offset)
            data = file.read(self.shape[0] * self.shape[1] * self.dtype.itemsize)
        rows = np.frombuffer(data, self.dtype)
        if rows.size != self.shape[0] * self.shape[1]:
            raise ReaderError(f"{self.path}: the file is cut off")
        return np.arange(self.first_id, self.first_id + self.shape[0]), rows.reshape(self.shape)


def _npy_source(files):
    pieces, stamps, dim, first_id = [], [], None, 0
    for fs, path in files:
        with fs.open(path, "rb") as file:
            shape, fortran, dtype = _npy_head(file, path)
            start = file.tell()
        if len(shape) != 2 or shape[1] == 0 or dtype.kind not in "fiu" or fortran:
            raise ReaderError(f"{path}: shape {shape} of {dtype}{' in Fortran order' * fortran}; "
                              "expected (rows, values) of real numbers in C order")
        dim = _same_dim(dim, shape[1], path)
        stamps.append(_stamp(fs, path))
        step = max(1, PIECE_BYTES // (shape[1] * dtype.itemsize))
        for row in range(0, shape[0], step):
            pieces.append(NpyPiece(
                fs, path, [*stamps[-1], row], start + row * shape[1] * dtype.itemsize,
                (min(step, shape[0] - row), shape[1]), dtype, row, first_id + row))
        first_id += shape[0]
    return Source(pieces, dim, stamps)


def _npy_head(file, path):
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0}[version]
        return read(file)
    except (ValueError, KeyError) as err:
        raise ReaderError(f"{path}: not a readable .npy file: {err}") from err


def _same_dim(dim, found, path):
    if dim not in (None, found):
        raise ReaderError(f"{path}: {found} values a row, the files before have {dim}")
    return found


# ---- Parquet -------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ParquetPiece:
    """A row group."""

    fs: object
    path: str
    fingerprint: object
    group: int
    column: str
    id_column: str | None
    dim: int
    first_row: int
    first_id: int

    def read(self):
        with self.fs.open(self.path, "rb") as file:
            rows, ids = _parquet.read_group(file, self.path, self.group, self.column,
                                            self.id_column, self.first_row)
        if len(rows) and rows.shape[1] != self.dim:
            raise ReaderError(f"{self.path}: row {self.first_row} has {rows.shape[1]} values, the "
                              f"first of all rows has {self.dim}")
        if ids is None:
            ids = np.arange(self.first_id, self.first_id + len(rows))
        return ids, rows.reshape(len(rows), self.dim)


def _parquet_source(files, column, id_column):
    pieces, stamps, dim, first_id = [], [], None, 0
    for fs, path in files:
        stamp = _stamp(fs, path)
        with fs.open(path, "rb") as file:
            column, group_rows = _parquet.layout(file, path, column, id_column)
            if dim is None and sum(group_rows):
                first = next(i for i, n in enumerate(group_rows) if n)
                dim = _parquet.read_group(file, path, first, column, None, 0)[0].shape[1]
        stamps.append(stamp)
        row = 0
        for group, n in enumerate(group_rows):
            pieces.append(ParquetPiece(fs, path, [*stamp, group], group, column, id_column, dim,
                                       row, first_id))
            row += n
            first_id += n
    if dim is None:
        raise ReaderError(f"source: no rows in {len(files)} Parquet files")
    pieces = [dataclasses.replace(piece, dim=dim) for piece in pieces]
    return Source(pieces, dim, [stamps, column, id_column])


# ---- a Ray Dataset -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class BlockPiece:
    """A block of a Dataset, in Ray's object store."""

    block: object
    column: str
    id_column: str
    dim: int
    fingerprint = None
    path = "Dataset"
    first_row = 0

    def read(self):
        import ray
        table = ray.get(self.block)
        ids, rows = table[self.id_column], table[self.column]
        if rows.ndim == 1 and len(rows):     # an array of arrays
            widths = {len(row) for row in rows}
            if widths != {self.dim}:
                raise ReaderError(f"Dataset: column {self.column!r} has rows of "
                                  f"{sorted(widths)} values; expected {self.dim}")
            rows = np.stack([np.asarray(row) for row in rows])
        return np.asarray(ids), np.asarray(rows).reshape(len(ids), self.dim)


def _dataset_source(dataset, column, id_column):
    if column is None or id_column is None:
        raise ValueError("column, id_column: a Ray Dataset's rows have no numbers; name the column "
                         "of vectors and the column of ids")
    names = dataset.columns() or []
    for name in (column, id_column):
        if name not in names:
            raise ValueError(f"source: the Dataset has no column {name!r}; it has "
                             f"{', '.join(names)}")
    dataset = dataset.select_columns([id_column, column]).materialize()
    first = dataset.take(1)
    if not first:
        raise ReaderError("source: the Dataset has no rows")
    dim = len(first[0][column])
    blocks = dataset.to_numpy_refs()
    return Source([BlockPiece(block, column, id_column, dim) for block in blocks], dim, None)


# ---- an older generation --------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ShardPiece:
    """Some rows of a shard's index, by their place among its ids."""

    url: str
    file: str
    fingerprint: object
    start: int
    stop: int
    first_row = 0

    @property
    def path(self):
        return Store(self.url).where(self.file)

    @cached_property
    def _index(self):
        import io

        import vecidx
        store = Store(self.url)
        path = store.local_path(self.file)
        if path is not None:
            return vecidx.load(path, mmap=True)
        return vecidx.load(io.BytesIO(store.read(self.file)))

    def read(self):
        ids = np.sort(self._index.ids())[self.start:self.stop]
        return ids, self._index.get(ids)


def manifest_source(manifest):
    """The rows of a generation, for another number of shards."""
    row_bytes = 4 * manifest.dim
    step = max(1, PIECE_BYTES // row_bytes)
    pieces = [ShardPiece(manifest.url, shard.file, [shard.sha256, start], start,
                         min(start + step, shard.rows))
              for shard in manifest.shards for start in range(0, shard.rows, step)]
    return Source(pieces, manifest.dim, [shard.sha256 for shard in manifest.shards])
