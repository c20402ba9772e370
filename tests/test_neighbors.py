"""vecidx.neighbors: the neighbours of all rows."""

import numpy as np
import pytest

from helpers import exact_distances
from vecidx import neighbors


@pytest.mark.parametrize("metric", ["euclidean", "l2", "sqeuclidean", "cosine"])
@pytest.mark.parametrize("include_self", [True, False])
def test_neighbours_and_their_distances(metric, include_self, rng):
    rows = rng.standard_normal((300, 9))
    ids, distances = neighbors.knn(rows, 6, metric=metric, include_self=include_self, ef=300)
    exact = exact_distances(rows, rows, "cosine" if metric == "cosine" else "l2")
    if metric in ("euclidean", "l2"):
        exact = np.sqrt(exact)
    np.fill_diagonal(exact, -1 if include_self else np.inf)
    want = np.argsort(exact, axis=1)[:, :6]
    np.testing.assert_array_equal(ids, want)
    np.fill_diagonal(exact, 0)
    np.testing.assert_allclose(distances, np.take_along_axis(exact, want, 1), rtol=1e-4, atol=1e-4)
    assert (np.diff(distances, axis=1) >= 0).all()


def test_self_comes_first_wherever_it_was_found():
    ids = np.array([[0, 1, 2], [0, 1, 2], [0, 1, 2], [0, 1, 2]])
    distances = np.array([[0, 1, 2], [0, 0, 2], [0, 0, 0], [0, 1, 2]], np.float32)
    ids, distances = neighbors.self_first(ids, distances)
    assert ids.tolist() == [[0, 1, 2], [1, 0, 2], [2, 0, 1], [3, 0, 1]]
    assert distances.tolist() == [[0, 1, 2], [0, 0, 2], [0, 0, 0], [0, 0, 1]]
    ids, _ = neighbors.without_self(np.array([[1, 0], [0, 1]]), np.zeros((2, 2), np.float32))
    assert ids.tolist() == [[1], [0]]


def test_equal_rows_are_their_own_first_neighbours():
    ids, distances = neighbors.knn(np.ones((50, 3)), 5)
    assert (ids[:, 0] == np.arange(50)).all() and (distances == 0).all()


@pytest.mark.parametrize("k, include_self", [(0, True), (6, True), (5, False), (0, False)])
def test_k_has_limits(k, include_self):
    with pytest.raises(ValueError, match="k: expected 1 to"):
        neighbors.knn(np.eye(5), k, include_self=include_self)


def test_other_arguments():
    with pytest.raises(ValueError, match="metric: expected one of .*, got 'ip'"):
        neighbors.knn(np.eye(5), 2, metric="ip")
    with pytest.raises(ValueError, match="X: expected rows of numbers"):
        neighbors.knn(np.ones(5), 2)
