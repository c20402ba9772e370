"""vecidx.neighbors.distance_graph, and HDBSCAN on it."""

import numpy as np
import pytest

from helpers import exact_distances, needs
from vecidx import neighbors

needs("scipy")
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree  # noqa: E402


@pytest.fixture(scope="module")
def blobs():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 80)
    return (rng.standard_normal((5, 6)) * 15)[labels] + rng.standard_normal((400, 6)), labels


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_one_connected_graph_of_true_distances(blobs, metric):
    X, _ = blobs
    graph = neighbors.distance_graph(X, 10, metric=metric, ef=400)
    assert connected_components(graph)[0] == 1
    assert (graph != graph.T).nnz == 0 and graph.dtype == np.float64
    assert (graph.getnnz(axis=1) >= 10).all() and graph.diagonal().max() == 0
    exact = exact_distances(X, X, "cosine" if metric == "cosine" else "l2")
    exact = np.sqrt(exact) if metric == "euclidean" else exact
    entries = graph.tocoo()
    np.testing.assert_allclose(entries.data, exact[entries.row, entries.col], rtol=1e-3, atol=1e-6)
    # The links between parts are the shortest: both graphs span the same tree.
    np.testing.assert_allclose(minimum_spanning_tree(graph).sum(),
                               minimum_spanning_tree(exact).sum(), rtol=1e-3)


def test_equal_rows_are_linked_too():
    graph = neighbors.distance_graph(np.repeat(np.eye(3), 30, axis=0), 4)
    assert connected_components(graph)[0] == 1 and graph.data.min() == 1e-300


@pytest.mark.filterwarnings("ignore")
def test_hdbscan(blobs):
    hdbscan = needs("hdbscan")
    from sklearn.metrics import adjusted_rand_score

    X, labels = blobs
    graph = neighbors.distance_graph(X, 15)
    words = {"min_samples": 5, "min_cluster_size": 20}
    ours = hdbscan.HDBSCAN(metric="precomputed", **words).fit_predict(graph)
    theirs = hdbscan.HDBSCAN(**words).fit_predict(X)
    assert adjusted_rand_score(labels, ours) > 0.95
    assert adjusted_rand_score(theirs, ours) > 0.95


def test_scikit_learns_hdbscan(blobs):
    needs("sklearn")
    from sklearn.cluster import HDBSCAN
    from sklearn.metrics import adjusted_rand_score

    X, labels = blobs
    model = HDBSCAN(metric="precomputed", min_samples=5, min_cluster_size=20, copy=True)
    found = model.fit_predict(neighbors.distance_graph(X, 15))
    assert adjusted_rand_score(labels, found) > 0.95
