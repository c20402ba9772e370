"""Read one ann-benchmarks HDF5 file, know its exact neighbours, and score answers against them."""

from __future__ import annotations

import dataclasses

import h5py
import numpy as np
import ood

METRICS = {"angular": "cosine", "euclidean": "l2"}
BLOCK_ROWS = 16_384


@dataclasses.dataclass
class Shape:
    """What can be said of a file without reading its rows."""

    n_rows: int
    dim: int
    n_queries: int
    metric: str
    storage: str


def read_shape(path, limit=None, n_queries=None):
    with h5py.File(path, "r") as file:
        distance = file.attrs["distance"]
        distance = distance.decode() if isinstance(distance, bytes) else str(distance)
        if distance not in METRICS:
            raise SystemExit(f"{path}: distance {distance!r}, expected one of {sorted(METRICS)}")
        n, dim = file["train"].shape
        q = file["test"].shape[0]
        return Shape(min(n, limit or n), dim, min(q, n_queries or q), METRICS[distance],
                     str(file["train"].dtype))


def read_float32(path, name, n_rows):
    """The first n_rows of a set as float32; whole, contiguous, and touched."""
    with h5py.File(path, "r") as file:
        source = file[name]
        rows = np.empty((n_rows, source.shape[1]), dtype=np.float32)
        for start in range(0, n_rows, BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, n_rows)
            rows[start:stop] = source[start:stop]
    return rows


def normalise(rows):
    """Scale rows to unit length in place, a block at a time."""
    for start in range(0, len(rows), BLOCK_ROWS):
        block = rows[start:start + BLOCK_ROWS]
        block /= np.linalg.norm(block.astype(np.float64), axis=1, keepdims=True)


def exact_distances(rows, queries, ids, metric):
    """float64 distance of each query to its row of ids; +inf where an id is missing."""
    found = np.empty(ids.shape, dtype=np.float64)
    for i, row_ids in enumerate(ids):
        present = (row_ids >= 0) & (row_ids < len(rows))
        x = rows[np.where(present, row_ids, 0)].astype(np.float64)
        q = queries[i].astype(np.float64)
        if metric == "l2":
            d = ((x - q) ** 2).sum(axis=1)
        else:
            d = 1.0 - (x @ q) / (np.linalg.norm(x, axis=1) * np.linalg.norm(q))
        found[i] = np.where(present, d, np.inf)
    return found


class Nearest:
    """The k nearest rows of each query, of rows that come a block at a time: float32 as they
    come, the best of them in float64 when they come again."""

    def __init__(self, queries, k, metric):
        self.queries, self.k, self.metric = queries, k, metric
        self.ids = np.empty((len(queries), 0), dtype=np.int64)
        self.rough = np.empty((len(queries), 0), dtype=np.float32)

    def offer(self, start, block):
        """Look at rows start, start + 1, ..."""
        d = self.queries @ block.T
        if self.metric == "l2":
            d = np.einsum("ij,ij->i", block, block) - 2.0 * d
        else:
            d /= -np.linalg.norm(block, axis=1)
        ids = np.broadcast_to(np.arange(start, start + len(block)), d.shape)
        self.rough = np.hstack([self.rough, d])
        self.ids = np.hstack([self.ids, ids])
        keep = self.k + 40
        if self.rough.shape[1] > keep:
            chosen = np.argpartition(self.rough, keep - 1, axis=1)[:, :keep]
            self.rough = np.take_along_axis(self.rough, chosen, axis=1)
            self.ids = np.take_along_axis(self.ids, chosen, axis=1)

    def settle(self, blocks):
        """(ids, distances) from the same (start, block) pairs once more."""
        exact = np.full(self.ids.shape, np.inf)
        for start, block in blocks:
            inside = (self.ids >= start) & (self.ids < start + len(block))
            for i in np.flatnonzero(inside.any(axis=1)):
                mine = inside[i]
                exact[i, mine] = exact_distances(block, self.queries[i:i + 1],
                                                 self.ids[i:i + 1, mine] - start, self.metric)[0]
        order = np.lexsort((self.ids, exact), axis=1)[:, :self.k]
        return np.take_along_axis(self.ids, order, axis=1), np.take_along_axis(exact, order, axis=1)


def blocks_of(rows):
    for start in range(0, len(rows), BLOCK_ROWS):
        yield start, rows[start:start + BLOCK_ROWS]


def search_exactly(rows, queries, k, metric):
    """(ids, distances) of the k nearest rows of each query."""
    nearest = Nearest(queries, k, metric)
    for start, block in blocks_of(rows):
        nearest.offer(start, block)
    return nearest.settle(blocks_of(rows))


def read_queries(path, shape, kind):
    """"own": the file's; "ood": made from its rows (ood.py)."""
    if kind == "ood":
        rows = read_float32(path, "train", shape.n_rows)
        return ood.queries_between(rows, shape.n_queries, shape.metric)
    return read_float32(path, "test", shape.n_queries)


def true_neighbours(path, shape, queries, k, kind="own"):
    """(ids, bound): the k nearest, by the file's own truth where it holds; bound is the largest
    true distance, with room for the rounding of float32."""
    rows = read_float32(path, "train", shape.n_rows)
    with h5py.File(path, "r") as file:
        whole = (kind == "own" and shape.n_rows == file["train"].shape[0]
                 and k <= file["neighbors"].shape[1])
        ids = file["neighbors"][:shape.n_queries, :k].astype(np.int64) if whole else None
    if ids is None:
        ids, _ = search_exactly(rows, queries, k, shape.metric)
    bound = exact_distances(rows, queries, ids, shape.metric).max(axis=1)
    return ids, bound * (1.0 + 1e-6) + 1e-6


def recall(rows, queries, metric, found_ids, true_ids, bound):
    """(by distance, by id).  By distance an answer counts when it is as near as the k-th true
    neighbour, so that a tie or a duplicate row is no miss; a repeated id counts once."""
    hits = same = 0
    for i, ids in enumerate(found_ids):
        unique = np.unique(ids[ids >= 0])
        d = exact_distances(rows, queries[i:i + 1], unique[None, :], metric)[0]
        hits += min(int((d <= bound[i]).sum()), true_ids.shape[1])
        same += len(np.intersect1d(unique, true_ids[i]))
    return hits / true_ids.size, same / true_ids.size
