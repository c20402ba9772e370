"""Rows as queries: knn_graph, search(ids=...), results that differ."""

import numpy as np
import pytest

import vecidx
from helpers import exact_distances


def exact_graph(rows, metric, k):
    distances = exact_distances(rows, rows, metric)
    np.fill_diagonal(distances, np.inf)
    return np.sort(distances, axis=1)[:, :k]


@pytest.mark.parametrize("quantization", [None, "sq8", "auto"])
@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_knn_graph_finds_the_neighbours(metric, quantization, rng):
    rows = rng.standard_normal((10_100 if quantization else 2_000, 20)).astype(np.float32)
    if metric == "ip":
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    index = vecidx.Index(20, metric, M=8, ef_construction=50, quantization=quantization)
    index.add(rows, ids=np.arange(len(rows)) * 3 + 5)
    ids, neighbors, distances = index.knn_graph(10, ef=64)
    np.testing.assert_array_equal(ids, index.ids())
    assert neighbors.shape == distances.shape == (len(rows), 10)
    assert (neighbors != ids[:, None]).all()
    some = slice(0, 500)
    want = np.sort(np.where(np.arange(len(rows)) == np.arange(500)[:, None], np.inf,
                            exact_distances(rows[some], rows, metric)), axis=1)[:, :10]
    assert (distances[some] <= want[:, -1:] + 1e-4).mean() > 0.9      # M=8
    for i in range(0, 500, 50):              # a distance is that of the row it names
        got = exact_distances(rows[i], rows[(neighbors[i] - 5) // 3], metric)[0]
        np.testing.assert_allclose(distances[i], got, rtol=1e-4, atol=1e-5)


def test_knn_graph_does_not_depend_on_threads(rng):
    index = vecidx.Index(8)
    index.add(rng.standard_normal((2_000, 8)))
    one, two = index.knn_graph(5, num_threads=1), index.knn_graph(5, num_threads=3)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def test_knn_graph_of_small_deleted_and_equal_rows(rng):
    assert [len(part) for part in vecidx.Index(3).knn_graph(4)] == [0, 0, 0]
    index = vecidx.Index(3)
    index.add([[1, 0, 0]])
    ids, neighbors, distances = index.knn_graph(2)
    assert neighbors.tolist() == [[-1, -1]] and np.isinf(distances).all()
    index.add(np.repeat([[2, 0, 0]], 40, axis=0))      # more equal rows than are asked for
    index.add(rng.standard_normal((300, 3)))
    index.delete([0, 50, 51])
    ids, neighbors, distances = index.knn_graph(5)
    assert len(ids) == len(index) and (neighbors != ids[:, None]).all()
    assert np.isin(neighbors, ids).all()
    assert (distances[np.isin(ids, np.arange(1, 41))] == 0).all()
    assert all(len(set(row)) == 5 for row in neighbors.tolist())


def test_knn_graph_of_a_mapped_index_and_bad_arguments(tmp_path, rng):
    index = vecidx.Index(4)
    index.add(rng.standard_normal((500, 4)))
    index.save(tmp_path / "a.vidx")
    mapped = vecidx.load(tmp_path / "a.vidx", mmap=True)
    for a, b in zip(index.knn_graph(3), mapped.knn_graph(3), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="k"):
        index.knn_graph(0)
    index.close()
    with pytest.raises(vecidx.VecidxError, match="closed"):
        index.knn_graph(3)


def test_search_by_ids_leaves_out_the_row_itself(rng):
    rows = rng.standard_normal((400, 6)).astype(np.float32)
    for metric in ("l2", "ip", "cosine"):
        index = vecidx.Index(6, metric)
        index.add(rows, ids=np.arange(400) + 1_000)
        ids, distances = index.search(ids=[1_005, 1_399], k=4, exact=True)
        want = exact_distances(rows[[5, 399]], rows, metric)
        want[[0, 1], [5, 399]] = np.inf
        np.testing.assert_allclose(distances, np.sort(want, axis=1)[:, :4], rtol=1e-4, atol=1e-5)
        one, _ = index.search(ids=1_005, k=4)
        assert one.shape == (4,) and 1_005 not in one
        all_ids, _ = index.search(ids=[1_005], k=500)
        assert all_ids.shape == (1, 500)
        assert (all_ids[0] >= 0).sum() == 399 and 1_005 not in all_ids


def test_search_by_ids_among_equal_rows():
    """Its own id need not be among those found: others at distance 0 may come before it."""
    index = vecidx.Index(2)
    index.add(np.ones((30, 2)))
    ids, distances = index.search(ids=[29], k=3)
    assert ids.tolist() == [[0, 1, 2]] and (distances == 0).all()
    ids, _ = index.search(ids=[1], k=3)
    assert ids.tolist() == [[0, 2, 3]]


def test_search_by_ids_refuses(rng):
    index = vecidx.Index(2)
    index.add(rng.standard_normal((30, 2)))
    with pytest.raises(KeyError, match="77"):
        index.search(ids=[3, 77])
    with pytest.raises(TypeError, match="not both"):
        index.search([[1, 2]], ids=[1])
    with pytest.raises((TypeError, ValueError)):
        index.search()


def plain_mmr(distances, apart, k, share):
    """Straight from the definition."""
    taken = []
    while len(taken) < k:
        def cost(i):
            near = min((apart[i][j] for j in taken), default=0.0)
            return (1 - share) * distances[i] - share * near if taken else distances[i]
        taken.append(min((i for i in range(len(distances)) if i not in taken), key=cost))
    return taken


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_diverse_is_mmr(metric, rng):
    rows = rng.standard_normal((200, 5)).astype(np.float32)
    queries = rng.standard_normal((3, 5)).astype(np.float32)
    index = vecidx.Index(5, metric)
    index.add(rows)
    ids, distances = index.search(queries, 6, diverse=0.4, ef=200)
    candidates, near = index.search(queries, 50, ef=200)
    for i in range(3):
        apart = exact_distances(rows[candidates[i]], rows[candidates[i]], metric)
        want = plain_mmr(near[i].astype(float), apart, 6, 0.4)
        assert ids[i].tolist() == candidates[i][want].tolist()
        assert distances[i].tolist() == near[i][want].tolist()
    one, _ = index.search(queries[0], 6, diverse=0.4, ef=200)
    assert one.tolist() == ids[0].tolist()


def test_diverse_spreads_equal_rows_and_takes_ids(rng):
    rows = np.repeat(rng.standard_normal((10, 4)), 10, axis=0).astype(np.float32)
    index = vecidx.Index(4)
    index.add(rows)
    ids, _ = index.search(rows[0], 5, diverse=0.7)
    assert len({i // 10 for i in ids.tolist()}) == 5
    ids, _ = index.search(ids=[0], k=200, diverse=0.5)
    assert ids.shape == (1, 200) and 0 not in ids and (ids >= 0).sum() == 99
    for bad in (0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="diverse"):
            index.search(rows[0], 5, diverse=bad)
