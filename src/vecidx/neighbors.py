"""Neighbours of all rows, as UMAP, t-SNE and clustering take them.

:func:`knn` needs no other package than NumPy, :func:`distance_graph` needs SciPy.
"""

import numpy as np

import vecidx
from vecidx._extras import need

# Word for what a distance is -> metric of the index.
METRICS = {"euclidean": "l2", "l2": "l2", "sqeuclidean": "l2", "cosine": "cosine"}


def knn(X, k, *, metric="euclidean", include_self=True, ef=None, M=16, ef_construction=200,
        quantization="auto", seed=0, num_threads=None):
    """The k nearest rows of each row.

    Parameters
    ----------
    X : array_like, shape (n, dim)
    k : int
        At most n, or n - 1 without the row itself.
    metric : {"euclidean", "l2", "sqeuclidean", "cosine"}
        What the distances are; ``"l2"`` is another word for Euclidean, not squared.
    include_self : bool
        Count each row as its own first neighbour, at distance 0.
    ef : int, optional
        Candidates kept during a search; by default 64, and twice the neighbours.
    M, ef_construction, quantization, seed, num_threads
        As for :class:`vecidx.Index`.

    Returns
    -------
    indices : numpy.ndarray of int64, shape (n, k)
    distances : numpy.ndarray of float32, shape (n, k)
        By rising distance.

    Examples
    --------
    UMAP takes it as it is, with ``n_neighbors`` = k::

        umap.UMAP(n_neighbors=15, precomputed_knn=vecidx.neighbors.knn(X, 15))
    """
    index = _index_of(X, metric, M=M, ef_construction=ef_construction,
                      quantization=quantization, seed=seed, num_threads=num_threads)
    return _knn_of(index, k, metric, include_self, ef)


def distance_graph(X, k, *, metric="euclidean", ef=None, M=16, ef_construction=200,
                   quantization="auto", seed=0, num_threads=None):
    """The distances of near rows as one connected graph, for clustering.

    HDBSCAN, by itself or scikit-learn's, takes it as ``metric="precomputed"``, with
    ``min_samples`` below ``k``.  It needs the graph to be connected, which that of
    nearest neighbours seldom is: parts are joined by the shortest links that
    searches find from one to the others.

    Parameters
    ----------
    X : array_like, shape (n, dim)
    k : int
        Neighbours of each row, itself not counted; 1 to n - 1.
    metric, ef, M, ef_construction, quantization, seed, num_threads
        As for :func:`knn`.

    Returns
    -------
    scipy.sparse.csr_matrix of float64, shape (n, n)
        Symmetric.  Distances of 0 are 1e-300, so that they are entries.

    Examples
    --------
    ::

        graph = vecidx.neighbors.distance_graph(X, 30)
        labels = hdbscan.HDBSCAN(metric="precomputed", min_samples=5).fit_predict(graph)
    """
    sparse = need("scipy.sparse", extra="sklearn", user="vecidx.neighbors.distance_graph")
    csgraph = need("scipy.sparse.csgraph", extra="sklearn", user="distance_graph")
    index = _index_of(X, metric, M=M, ef_construction=ef_construction,
                      quantization=quantization, seed=seed, num_threads=num_threads)
    n = len(index)
    ids, distances = _knn_of(index, k, metric, False, ef)
    graph = _symmetric(sparse, np.repeat(np.arange(n), k), ids.ravel(), distances.ravel(), n)
    while True:
        n_parts, part = csgraph.connected_components(graph, directed=False)
        if n_parts == 1:
            return graph
        # Every part but the largest is linked to its nearest other: of n parts at
        # most half are left.
        largest = np.bincount(part).argmax()
        links = [_way_out(index, part == p) for p in range(n_parts) if p != largest]
        here, there, distances = map(np.array, zip(*links))
        graph = graph.maximum(_symmetric(sparse, here, there, in_words_of(metric, distances), n))


def _way_out(index, inside):
    """The shortest link from the rows of a mask to others: (row, row, distance)."""
    rows = np.flatnonzero(inside)
    ids, distances = index.search(index.get(rows), k=1, filter=~inside)
    nearest = distances[:, 0].argmin()
    return rows[nearest], ids[nearest, 0], distances[nearest, 0]


def _symmetric(sparse, here, there, distances, n):
    distances = np.maximum(distances.astype(np.float64), 1e-300)
    graph = sparse.csr_matrix((distances, (here, there)), shape=(n, n))
    return graph.maximum(graph.T)


def _knn_of(index, k, metric, include_self, ef):
    n, wanted = len(index), k + (not include_self)
    if not 1 <= wanted <= n or k < 1:
        raise ValueError(f"k: expected 1 to {n - (not include_self)}, the rows there are, got {k}")
    rows = index.get(np.arange(n))
    ids, distances = index.search(rows, k=wanted, ef=max(64, 2 * wanted) if ef is None else ef)
    distances = in_words_of(metric, distances)
    return self_first(ids, distances) if include_self else without_self(ids, distances)


def _index_of(X, metric, **parameters):
    if metric not in METRICS:
        raise ValueError(f"metric: expected one of {sorted(METRICS)}, got {metric!r}")
    X = np.asarray(X)
    if X.ndim != 2:
        raise ValueError(f"X: expected rows of numbers, shape (n, dim), got shape {X.shape}")
    index = vecidx.Index(X.shape[1], METRICS[metric], capacity=len(X), **parameters)
    index.add(X)
    return index


def in_words_of(metric, distances):
    """An index's distances in those of a metric's word; the array is changed and returned."""
    if metric in ("euclidean", "l2"):
        return np.sqrt(distances, out=distances)
    return np.maximum(distances, 0, out=distances)      # 1 - cosine, rounded


def self_first(ids, distances):
    """Row i's neighbours with i itself first, at distance 0; arrays are changed and returned.

    A search finds a row itself, but among its equals not always first, and a
    walk may miss it: then it takes the place of the last.
    """
    rows = np.arange(len(ids))
    place = np.where((ids == rows[:, None]).any(axis=1), (ids == rows[:, None]).argmax(axis=1),
                     ids.shape[1] - 1)
    columns = np.arange(ids.shape[1])[None, :]
    order = np.where(columns == 0, place[:, None], columns - (columns <= place[:, None]))
    ids[:] = np.take_along_axis(ids, order, 1)
    distances[:] = np.take_along_axis(distances, order, 1)
    ids[:, 0] = rows
    distances[:, 0] = 0
    return ids, distances


def without_self(ids, distances):
    """Row i's neighbours without i, one fewer."""
    ids, distances = self_first(ids, distances)
    return ids[:, 1:], distances[:, 1:]
