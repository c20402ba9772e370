"""Neighbours for openTSNE, over :class:`vecidx.Index`.

Needs ``pip install "vecidx[opentsne]"``.
"""

import numpy as np

import vecidx
from vecidx._extras import need
from vecidx.neighbors import METRICS, in_words_of, without_self

KNNIndex = need("openTSNE.nearest_neighbors", extra="opentsne", user="vecidx.opentsne").KNNIndex

__all__ = ["VecidxKNNIndex"]


class VecidxKNNIndex(KNNIndex):
    """A ``knn_index`` for openTSNE's affinities.

    Parameters
    ----------
    data : array_like, shape (n, dim)
    k : int
        Neighbours of each row: three times the perplexity.
    metric : {"euclidean", "l2", "sqeuclidean", "cosine"}
    metric_params : None
        Has no meaning here.
    n_jobs : int
        Threads; below 1 all CPUs.
    random_state : int, RandomState instance or None
        Of the random layers.
    verbose : bool
    knn_kwargs : dict, optional
        ``M``, ``ef_construction``, ``quantization`` of :class:`vecidx.Index`, and ``ef``
        of searches.

    Notes
    -----
    Unlike openTSNE's own class over hnswlib, ``"euclidean"`` distances are not
    squared, and a row is left out of its own neighbours wherever it is found.

    Examples
    --------
    >>> from openTSNE import TSNE, affinity
    >>> from vecidx.opentsne import VecidxKNNIndex
    >>> affinities = affinity.PerplexityBasedNN(
    ...     knn_index=VecidxKNNIndex(X, 90), perplexity=30)   # doctest: +SKIP
    >>> embedding = TSNE().fit(affinities=affinities)         # doctest: +SKIP
    """

    VALID_METRICS = sorted(METRICS)

    def __init__(self, data, k, metric="euclidean", metric_params=None, n_jobs=1,
                 random_state=None, verbose=False, knn_kwargs=None):
        if metric not in METRICS:
            raise ValueError(f"metric: expected one of {self.VALID_METRICS}, got {metric!r}")
        if metric_params:
            raise ValueError("metric_params: no metric of vecidx has any")
        super().__init__(np.asarray(data), k, metric, metric_params, n_jobs, random_state,
                         verbose, knn_kwargs)

    def build(self):
        """(row numbers, distances) of the k nearest rows of each, without itself."""
        from sklearn.utils import check_random_state

        words = dict(self.knn_kwargs or {})
        self._ef = words.pop("ef", None)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.index = vecidx.Index(self.data.shape[1], METRICS[self.metric], seed=seed,
                                  num_threads=self.n_jobs if self.n_jobs > 0 else None, **words)
        self.index.add(self.data)
        rows = self.index.get(np.arange(self.n_samples))
        return without_self(*self._search(rows, self.k + 1))

    def query(self, query, k):
        """(row numbers, distances) of the k nearest rows to each of the query."""
        return self._search(query, k)

    def _search(self, rows, k):
        if k > len(self.index):
            raise ValueError(f"k: expected at most {len(self.index)}, the rows there are, got {k}")
        ef = max(64, 2 * k) if self._ef is None else self._ef
        ids, distances = self.index.search(rows, k=k, ef=ef)
        return ids, in_words_of(self.metric, distances)
