"""vecidx.sklearn in scikit-learn's own checks and pipelines, and in scanpy."""

import pickle

import numpy as np
import pytest

from helpers import needs

needs("sklearn")

from sklearn.cluster import DBSCAN  # noqa: E402
from sklearn.datasets import make_blobs  # noqa: E402
from sklearn.manifold import Isomap  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.neighbors import (  # noqa: E402
    KNeighborsClassifier,
    KNeighborsRegressor,
    KNeighborsTransformer,
    NearestNeighbors,
)
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

from vecidx.sklearn import (  # noqa: E402
    VecidxClassifier,
    VecidxNeighbors,
    VecidxRegressor,
    VecidxTransformer,
)


@parametrize_with_checks([
    VecidxTransformer(), VecidxTransformer(mode="connectivity"), VecidxNeighbors(),
    VecidxClassifier(), VecidxClassifier(weights="distance"), VecidxRegressor(),
    VecidxRegressor(weights="distance")])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.fixture
def rows(rng):
    return rng.standard_normal((500, 10))


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "sqeuclidean"])
@pytest.mark.parametrize("mode", ["distance", "connectivity"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_graph_is_that_of_scikit_learn(rows, metric, mode, dtype):
    rows = rows.astype(dtype)
    ours = VecidxTransformer(n_neighbors=7, metric=metric, mode=mode, ef=500)
    theirs = KNeighborsTransformer(n_neighbors=7, metric=metric, mode=mode, algorithm="brute")
    queries = rows[:50] + dtype(0.01)
    for mine, other in [(ours.fit_transform(rows), theirs.fit_transform(rows)),
                        (ours.transform(queries), theirs.transform(queries))]:
        assert mine.shape == other.shape and mine.dtype == dtype and mine.format == "csr"
        np.testing.assert_array_equal(mine.indptr, other.indptr)
        for i in range(mine.shape[0]):
            part = slice(mine.indptr[i], mine.indptr[i + 1])
            assert set(mine.indices[part]) == set(other.indices[part])
            if mode == "distance":
                assert (np.diff(mine.data[part]) >= 0).all()
                np.testing.assert_allclose(np.sort(mine.data[part]), np.sort(other.data[part]),
                                           rtol=1e-3, atol=1e-4)
    own = ours.fit_transform(rows)
    first = own.indices.reshape(500, -1)[:, 0]
    assert (first == np.arange(500)).all()
    if mode == "distance":
        assert (own.data.reshape(500, -1)[:, 0] == 0).all()


def test_each_row_is_its_own_neighbour_even_among_many_equal_ones():
    rows = np.repeat(np.eye(3), 40, axis=0)
    graph = VecidxTransformer(n_neighbors=4).fit_transform(rows)
    assert (graph.indices.reshape(120, 5)[:, 0] == np.arange(120)).all()
    others = VecidxNeighbors(n_neighbors=4).fit(rows).kneighbors(return_distance=False)
    assert not (others == np.arange(120)[:, None]).any()


def test_in_pipelines():
    X, y = make_blobs(600, centers=4, n_features=6, random_state=0, cluster_std=0.5)
    ours, theirs = (
        make_pipeline(kind(n_neighbors=30), DBSCAN(eps=1.5, metric="precomputed")).fit_predict(X)
        for kind in (VecidxTransformer, KNeighborsTransformer))
    np.testing.assert_array_equal(ours, theirs)
    ours = make_pipeline(VecidxTransformer(n_neighbors=10),
                         KNeighborsClassifier(n_neighbors=5, metric="precomputed"))
    assert cross_val_score(ours, X, y, cv=3).mean() > 0.99
    isomap = Isomap(n_neighbors=8, metric="precomputed")
    flat = X[:, :2] / 9                      # no blobs: one connected graph
    ours, theirs = (make_pipeline(kind(n_neighbors=20), isomap).fit_transform(flat[y == 0])
                    for kind in (VecidxTransformer, KNeighborsTransformer))
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), rtol=1e-2, atol=1e-3)
    search = GridSearchCV(VecidxClassifier(), {"n_neighbors": [1, 5], "M": [8, 16]}, cv=3)
    assert search.fit(X, y).best_score_ > 0.99


@pytest.mark.parametrize("weights", ["uniform", "distance", lambda d: np.exp(-d)])
def test_votes_are_those_of_scikit_learn(rows, weights, rng):
    y = rng.integers(0, 3, 500)
    queries = np.vstack([rng.standard_normal((50, 10)), rows[:5]])
    words = {"n_neighbors": 6, "weights": weights}
    ours = VecidxClassifier(**words, ef=500).fit(rows, y)
    theirs = KNeighborsClassifier(**words).fit(rows, y)
    np.testing.assert_allclose(ours.predict_proba(queries), theirs.predict_proba(queries),
                               rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(ours.predict(queries), theirs.predict(queries))
    for y in (rng.standard_normal(500), rng.standard_normal((500, 2))):
        ours = VecidxRegressor(**words, ef=500).fit(rows, y)
        theirs = KNeighborsRegressor(**words).fit(rows, y)
        np.testing.assert_allclose(ours.predict(queries), theirs.predict(queries), rtol=1e-3,
                                   atol=1e-4)


def test_neighbours_are_those_of_scikit_learn(rows):
    ours = pickle.loads(pickle.dumps(VecidxNeighbors(n_neighbors=5, ef=500).fit(rows)))
    theirs = NearestNeighbors(n_neighbors=5).fit(rows)
    for X in (None, rows[:20] + 0.1):
        mine, other = ours.kneighbors(X), theirs.kneighbors(X)
        np.testing.assert_array_equal(mine[1], other[1])
        np.testing.assert_allclose(mine[0], other[0], rtol=1e-4)
        for mode in ("connectivity", "distance"):
            a = ours.kneighbors_graph(X, mode=mode).toarray()
            np.testing.assert_allclose(a, theirs.kneighbors_graph(X, mode=mode).toarray(),
                                       rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("estimator, says", [
    (VecidxTransformer(metric="manhattan"), "metric: expected one of"),
    (VecidxTransformer(n_neighbors=0), "n_neighbors: expected a whole number"),
    (VecidxTransformer(mode="x"), "mode: expected"), (VecidxClassifier(weights="x"), "weights: ")])
def test_bad_parameters(rows, estimator, says):
    with pytest.raises(ValueError, match=says):
        estimator.fit(rows, np.arange(500) % 2)


def test_more_neighbours_than_rows(rows):
    with pytest.raises(ValueError, match="n_neighbors = 6, n_samples_fit = 5"):
        VecidxTransformer(n_neighbors=5).fit(rows[:5]).transform(rows)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("n", [14, 15])
def test_scanpy(rng, n):
    """The same graphs as with scikit-learn's transformer of as many neighbours."""
    sc, anndata = needs("scanpy"), needs("anndata")
    X = rng.standard_normal((400, 12)).astype(np.float32)
    graphs = []
    for transformer in (VecidxTransformer(n_neighbors=n, ef=400),
                        KNeighborsTransformer(n_neighbors=n), "sklearn"):
        data = anndata.AnnData(X.copy())
        sc.pp.neighbors(data, n_neighbors=15, use_rep="X", transformer=transformer)
        graphs.append((data.obsp["distances"].toarray(), data.obsp["connectivities"].toarray()))
    for mine, other in zip(graphs[0], graphs[1]):
        np.testing.assert_array_equal(mine > 0, other > 0)
        np.testing.assert_allclose(mine, other, rtol=1e-3, atol=1e-4)
    # Of its own accord scanpy takes 14 for the distances, and 15 for the connectivities.
    np.testing.assert_allclose(graphs[0][n == 15 and 1], graphs[2][n == 15 and 1], atol=1e-3)
