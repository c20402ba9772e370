"""class Asking: what an Index answers that is made of plain searches."""

import functools

import numpy as np

from vecidx import _core, _diverse, _tune
from vecidx._validate import (
    FLOAT32,
    INT64,
    MAX_K,
    as_labels,
    as_matrix,
    check_ef,
    check_k,
    check_share,
    check_threads,
)
from vecidx.filters import as_filters


class Asking:
    """Part of :class:`vecidx.Index`."""

    __slots__ = ()

    def _as_queries(self, queries, name="queries"):
        """What the core takes for queries: float32 rows, or bits."""
        return as_matrix(queries, dim=self._dim, name=name,
                         dtype="bits" if self._dtype == "bits" else "float32")

    def _as_filters(self, filter, n_queries):
        """What the core takes for ``filter=``."""
        return as_filters(filter, self, n_queries)

    def _search_more(self, queries, k, ids, diverse, **how):
        """A search by ids, or for results that differ; made of plain ones."""
        k = check_k(k)
        is_one = False
        labels = None
        if ids is not None:
            if queries is not None:
                raise TypeError("search: takes queries or ids, not both")
            labels, is_one = as_labels(ids)
            queries = self.get(labels)
        if how["recall"] is not None:                # the curve is that of the k asked for
            ef, how["exact"] = self._tuned.effort(how["recall"], k, how["ef"], how["exact"])
            how["ef"], how["recall"] = ef, None
        share = None if diverse is None else check_share(diverse, name="diverse")
        width = k if share is None else min(_diverse.candidates(k), MAX_K)
        found, distances = self.search(queries, min(width + (labels is not None), MAX_K), **how)
        if found.ndim == 1:
            is_one, found, distances = True, found[None], distances[None]
        if labels is not None:
            found, distances = _drop_own(found, distances, labels, width)
        if share is not None:
            found, distances = _diverse.rearrange(found, distances, self.get, self._metric, k,
                                                  share)
        return (found[0], distances[0]) if is_one else (found, distances)

    def tune(self, queries=None, k=10, *, num_threads=None):
        """Measure how recall grows with ``ef``, for ``search(recall=...)``.

        The curve is saved with the index.  It holds for queries like those it
        was measured with, and for about as many vectors: once there are a
        quarter more, ``search(recall=...)`` warns.

        Parameters
        ----------
        queries : array_like, shape (n, dim), optional
            1,000 or more are a good number.  By default 2,000 vectors of the
            index, each searched for as if it were not there: fine where queries
            are like the vectors, too hopeful where they are of another kind.
        k : int or sequence of int
            Neighbours a query: each ``k`` has a curve of its own.
        num_threads : int, optional
            By default the index's.

        Returns
        -------
        dict
            As :attr:`tuned`.

        Raises
        ------
        ValueError
            The index is empty, there are no queries, or no row can stand for one.
        """
        ks = [check_k(one) for one in (k if np.ndim(k) else [k])]
        threads = check_threads(num_threads, self._threads)
        n = len(self)
        if n == 0:
            raise ValueError("tune: the index is empty; add vectors first")
        if queries is None:
            search, exact, n_queries = _tune.unseen(self._core, threads)
        else:
            rows = self._as_queries(queries)
            n_queries = len(rows)
            search = functools.partial(self._distances, rows, threads=threads)
            exact = functools.partial(self._distances, rows, exact=True, threads=threads)
        if n_queries == 0:
            raise ValueError("tune: expected at least 1 query, got 0" if queries is not None else
                             "tune: no vector of the index can stand for a query (are they all "
                             "equal?); give queries")
        curves = []
        for one in ks:
            points = _tune.measure(search, exact, min(max(n // 2, one), one + _tune.MOST_EF), one,
                                   n_queries)
            curves.append(_tune.Curve(one, n, n_queries, *points))
        self._tuned.put(curves)
        return self.tuned

    @property
    def tuned(self):
        """What :meth:`tune` measured, by ``k``: a dict, empty at first.

        Each value has ``rows`` that there were, ``queries``, and the lists
        ``ef`` and ``recall``.
        """
        return {k: {"rows": curve.rows, "queries": curve.queries, "ef": curve.ef.tolist(),
                    "recall": [round(float(value), 6) for value in curve.recall]}
                for k, curve in sorted(self._tuned.curves.items())}

    def recall(self, queries, k=10, ef=None, *, filter=None, num_threads=None):
        """Measure the share of true neighbours that a search finds.

        ``filter`` is as for :meth:`search`; the true neighbours are then the
        nearest that it allows.

        Returns
        -------
        Recall
            A named tuple: ``value``, the 95 % confidence interval ``low`` to
            ``high``, and ``queries``, how many there were.  A neighbour as far
            as the true ``k``-th counts as right.
        """
        rows = self._as_queries(queries)
        if len(rows) == 0:
            raise ValueError("queries: expected at least 1, got 0")
        k, ef = check_k(k), check_ef(ef)
        threads = check_threads(num_threads, self._threads)
        filters = self._as_filters(filter, len(rows))
        kth = self._distances(rows, k, exact=True, filters=filters, threads=threads)
        found = self._distances(rows, k, ef, filters=filters, threads=threads)
        return _tune.interval(_tune.shares_found(found, kth))

    def _distances(self, rows, k, ef=0, *, exact=False, filters=(), threads):
        ids = np.empty((len(rows), k), INT64)
        distances = np.empty((len(rows), k), FLOAT32)
        _core.search_where(self._core, rows, k, ef, exact, threads, list(filters), np.inf, ids,
                           distances)
        return distances

    def knn_graph(self, k=10, *, ef=None, recall=None, num_threads=None):
        """The neighbours of every vector of the index, itself left out.

        Sooner done than searching for each: the graph says where to begin.

        Parameters
        ----------
        k : int
            Neighbours a vector.
        ef : int, optional
            Candidates kept during a walk; by default ``k + 14``, which finds
            some 95 % of the neighbours on ordinary data.
        recall : float, optional
            Instead of ``ef``, as for :meth:`search`.
        num_threads : int, optional
            By default the index's.

        Returns
        -------
        ids : numpy.ndarray of int64, shape (n,)
            As :meth:`ids`.
        neighbors : numpy.ndarray of int64, shape (n, k)
            Row ``i`` has those of ``ids[i]``, by rising distance, ties by id;
            -1 where there are fewer, or where another thread deleted ``ids[i]``
            meanwhile.
        distances : numpy.ndarray of float32, shape (n, k)
        """
        k = check_k(k)
        exact = False
        if recall is not None:
            ef, exact = self._tuned.effort(recall, k, ef, False)
        ef = min(k + 14, MAX_K) if ef is None else check_ef(ef)
        threads = check_threads(num_threads, self._threads)
        ids = self.ids()
        if len(ids) * k > 2**58:
            raise MemoryError(f"no memory for results of shape {(len(ids), k)}")
        neighbors = np.empty((len(ids), k), INT64)
        distances = np.empty((len(ids), k), FLOAT32)
        _core.search_rows(self._core, ids, k, ef, exact, False, _core.ON_MISSING["ignore"],
                          threads, neighbors, distances)
        return ids, neighbors, distances


def _drop_own(found, distances, own, k):
    """Leave each row's own id out of what was found, and the last where it is not there."""
    is_own = found == own[:, None]
    is_own[~is_own.any(axis=1), -1] = True
    shape = (len(found), found.shape[1] - 1)
    return found[~is_own].reshape(shape)[:, :k], distances[~is_own].reshape(shape)[:, :k]
