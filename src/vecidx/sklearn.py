"""Estimators for scikit-learn pipelines, over :class:`vecidx.Index`.

:class:`VecidxTransformer` makes the sparse graph of nearest neighbours that
scikit-learn's estimators take with ``metric="precomputed"`` and that scanpy takes
as ``transformer=``.  :class:`VecidxNeighbors` answers ``kneighbors``;
:class:`VecidxClassifier` and :class:`VecidxRegressor` let neighbours vote.

Needs ``pip install "vecidx[sklearn]"``.
"""

import numpy as np

import vecidx
from vecidx._extras import need
from vecidx.neighbors import METRICS, in_words_of, self_first, without_self

need("sklearn", extra="sklearn", user="vecidx.sklearn")

from scipy.sparse import csr_matrix  # noqa: E402
from sklearn.base import (  # noqa: E402
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    RegressorMixin,
    TransformerMixin,
)
from sklearn.utils.multiclass import check_classification_targets  # noqa: E402
from sklearn.utils.validation import check_is_fitted, validate_data  # noqa: E402

__all__ = ["VecidxClassifier", "VecidxNeighbors", "VecidxRegressor", "VecidxTransformer"]


class _Neighbors(BaseEstimator):
    """What the estimators share: an index of the rows they were fitted to."""

    def __init__(self, n_neighbors=5, *, metric="euclidean", ef=None, M=16, ef_construction=200,
                 quantization="auto", random_state=0, n_jobs=None):
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.ef = ef
        self.M = M
        self.ef_construction = ef_construction
        self.quantization = quantization
        self.random_state = random_state
        self.n_jobs = n_jobs

    def _fit_index(self, X):
        if self.metric not in METRICS:
            raise ValueError(f"metric: expected one of {sorted(METRICS)}, got {self.metric!r}")
        if not isinstance(self.n_neighbors, (int, np.integer)) or self.n_neighbors < 1:
            raise ValueError(f"n_neighbors: expected a whole number >= 1, got "
                             f"{self.n_neighbors!r}")
        self.n_samples_fit_ = len(X)
        self.index_ = vecidx.Index(
            X.shape[1], METRICS[self.metric], M=self.M, ef_construction=self.ef_construction,
            quantization=self.quantization, seed=_seed(self.random_state), capacity=len(X))
        self.index_.add(X, num_threads=_threads(self.n_jobs))
        return self

    def _nearest(self, X, k):
        """Row numbers and distances, in the metric's own terms, of k neighbours."""
        if k > self.n_samples_fit_:
            raise ValueError(f"Expected n_neighbors <= n_samples_fit, but n_neighbors = {k}, "
                             f"n_samples_fit = {self.n_samples_fit_}, n_samples = {len(X)}")
        ids, distances = self.index_.search(X, k=k, ef=_pool(self.ef, k),
                                            num_threads=_threads(self.n_jobs))
        return ids, in_words_of(self.metric, distances)

    def _nearest_others(self, k):
        """The same for the rows fitted to, each without itself."""
        rows = self.index_.get(np.arange(self.n_samples_fit_))
        ids, distances = self._nearest(rows, k + 1)
        return without_self(ids, distances)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = False
        return tags


class VecidxTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _Neighbors):
    """The graph of nearest neighbours, as scikit-learn's ``KNeighborsTransformer`` makes it.

    Parameters
    ----------
    mode : {"distance", "connectivity"}
        What the entries of the graph are: distances, with ``n_neighbors + 1`` a
        row so that each row fitted to is its own first neighbour; or ones, with
        ``n_neighbors`` a row.
    n_neighbors : int
    metric : {"euclidean", "l2", "sqeuclidean", "cosine"}
    ef : int, optional
        Candidates kept during a search; by default 64, and twice the neighbours.
    M, ef_construction, quantization
        As for :class:`vecidx.Index`.
    random_state : int, RandomState instance or None
        Of the random layers.
    n_jobs : int, optional
        Threads; None is vecidx's default, -1 all CPUs.

    Attributes
    ----------
    index_ : vecidx.Index
        Of the rows fitted to; ids are row numbers.
    n_samples_fit_ : int
    n_features_in_ : int

    Notes
    -----
    Rows are kept as float32; the graph has the type that the data have.  Neighbours
    are approximate: compare with ``ef`` raised if it matters.

    Examples
    --------
    >>> from sklearn.cluster import DBSCAN
    >>> from sklearn.pipeline import make_pipeline
    >>> from vecidx.sklearn import VecidxTransformer
    >>> model = make_pipeline(VecidxTransformer(n_neighbors=20),
    ...                       DBSCAN(eps=0.5, metric="precomputed"))
    """

    def __init__(self, *, mode="distance", n_neighbors=5, metric="euclidean", ef=None, M=16,
                 ef_construction=200, quantization="auto", random_state=0, n_jobs=None):
        super().__init__(n_neighbors, metric=metric, ef=ef, M=M, ef_construction=ef_construction,
                         quantization=quantization, random_state=random_state, n_jobs=n_jobs)
        self.mode = mode

    def fit(self, X, y=None):
        """Index the rows of ``X``."""
        if self.mode not in ("distance", "connectivity"):
            raise ValueError(f'mode: expected "distance" or "connectivity", got {self.mode!r}')
        X = validate_data(self, X, dtype=[np.float64, np.float32])
        self._fit_index(X)
        self._n_features_out = self.n_samples_fit_
        return self

    def transform(self, X):
        """The graph from the rows of ``X`` to those fitted to: CSR, one row for each of X."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        distance = self.mode == "distance"
        ids, distances = self._nearest(X, self.n_neighbors + distance)
        values = distances if distance else np.ones_like(distances)
        return _graph(ids, values.astype(X.dtype, copy=False), self.n_samples_fit_)

    def fit_transform(self, X, y=None):
        """:meth:`fit`, then the graph of the same rows.

        In it each row is its own first neighbour, at distance 0, even where
        others are equal to it.
        """
        self.fit(X, y)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        distance = self.mode == "distance"
        ids, distances = self._nearest(X, self.n_neighbors + distance)
        ids, distances = self_first(ids, distances)
        values = distances if distance else np.ones_like(distances)
        return _graph(ids, values.astype(X.dtype, copy=False), self.n_samples_fit_)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class VecidxNeighbors(_Neighbors):
    """Nearest neighbours, as :class:`sklearn.neighbors.NearestNeighbors` answers them.

    Parameters are those of :class:`VecidxTransformer`, but ``mode``.
    """

    def fit(self, X, y=None):
        """Index the rows of ``X``."""
        return self._fit_index(validate_data(self, X, dtype=[np.float64, np.float32]))

    def kneighbors(self, X=None, n_neighbors=None, return_distance=True):
        """(distances, row numbers) of the nearest rows, or the numbers alone.

        Without ``X`` of the rows fitted to, each without itself.
        """
        check_is_fitted(self)
        k = self.n_neighbors if n_neighbors is None else n_neighbors
        if X is None:
            ids, distances = self._nearest_others(k)
        else:
            X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
            ids, distances = self._nearest(X, k)
        return (distances.astype(np.float64), ids) if return_distance else ids

    def kneighbors_graph(self, X=None, n_neighbors=None, mode="connectivity"):
        """The same as a CSR matrix of distances or ones."""
        if mode not in ("distance", "connectivity"):
            raise ValueError(f'mode: expected "distance" or "connectivity", got {mode!r}')
        distances, ids = self.kneighbors(X, n_neighbors)
        values = distances if mode == "distance" else np.ones_like(distances)
        return _graph(ids, values, self.n_samples_fit_)


class _Voting(_Neighbors):
    """Neighbours with weights: ``"uniform"``, ``"distance"``, or a function of the distances."""

    def __init__(self, n_neighbors=5, *, weights="uniform", metric="euclidean", ef=None, M=16,
                 ef_construction=200, quantization="auto", random_state=0, n_jobs=None):
        super().__init__(n_neighbors, metric=metric, ef=ef, M=M, ef_construction=ef_construction,
                         quantization=quantization, random_state=random_state, n_jobs=n_jobs)
        self.weights = weights

    def _check_weights(self):
        if self.weights not in ("uniform", "distance") and not callable(self.weights):
            raise ValueError(f'weights: expected "uniform", "distance" or a function, got '
                             f"{self.weights!r}")

    def _neighbors_and_weights(self, X):
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        ids, distances = self._nearest(X, self.n_neighbors)
        distances = distances.astype(np.float64)
        if self.weights == "uniform":
            return ids, np.ones_like(distances)
        if callable(self.weights):
            return ids, np.asarray(self.weights(distances), np.float64)
        # A row at distance 0 decides alone, or with others so.
        with np.errstate(divide="ignore"):
            weights = 1.0 / distances
        at_it = np.isinf(weights)
        rows = at_it.any(axis=1)
        weights[rows] = at_it[rows]
        return ids, weights


class VecidxClassifier(ClassifierMixin, _Voting):
    """A class by the vote of neighbours, as :class:`sklearn.neighbors.KNeighborsClassifier`.

    Parameters
    ----------
    n_neighbors : int
    weights : {"uniform", "distance"} or callable
        What a neighbour's vote weighs: the same for each, the inverse of its
        distance, or what a function makes of the array of distances.
    metric, ef, M, ef_construction, quantization, random_state, n_jobs
        As for :class:`VecidxTransformer`.
    """

    def fit(self, X, y):
        """Index the rows of ``X``, of classes ``y``."""
        self._check_weights()
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        self.classes_, self._y = np.unique(y, return_inverse=True)
        return self._fit_index(X)

    def predict_proba(self, X):
        """Shares of the votes: a row for each of X, a column for each of ``classes_``."""
        ids, weights = self._neighbors_and_weights(X)
        votes = np.zeros((len(ids), len(self.classes_)))
        np.add.at(votes, (np.arange(len(ids))[:, None], self._y[ids]), weights)
        totals = votes.sum(axis=1, keepdims=True)
        totals[totals == 0] = 1
        return votes / totals

    def predict(self, X):
        """The class with the most votes; of equals the first in ``classes_``."""
        shares = self.predict_proba(X)
        return self.classes_[shares.argmax(axis=1)]


class VecidxRegressor(RegressorMixin, _Voting):
    """A mean over neighbours, as :class:`sklearn.neighbors.KNeighborsRegressor`.

    Parameters are those of :class:`VecidxClassifier`.
    """

    def fit(self, X, y):
        """Index the rows of ``X``, of values ``y``."""
        self._check_weights()
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], multi_output=True,
                             y_numeric=True)
        self._y = np.asarray(y, np.float64)
        return self._fit_index(X)

    def predict(self, X):
        """The mean of the neighbours' values, weighted."""
        ids, weights = self._neighbors_and_weights(X)
        weights = weights / weights.sum(axis=1, keepdims=True)
        return np.einsum("ij,ij...->i...", weights, self._y[ids])

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _graph(ids, values, n_columns):
    n, k = ids.shape
    return csr_matrix((values.ravel(), ids.ravel(), np.arange(0, n * k + 1, k)),
                      shape=(n, n_columns))


def _pool(ef, k):
    return max(64, 2 * k) if ef is None else max(ef, k)


def _threads(n_jobs):
    return None if n_jobs is None or n_jobs < 1 else n_jobs


def _seed(random_state):
    from sklearn.utils import check_random_state

    if isinstance(random_state, (int, np.integer)):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31))
