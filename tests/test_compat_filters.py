"""Filters and ranges through the words of hnswlib and faiss."""

import numpy as np
import pytest

from vecidx.compat import faiss, hnswlib


@pytest.fixture
def rows(rng):
    return rng.standard_normal((500, 8)).astype(np.float32)


@pytest.mark.parametrize("kind", [hnswlib.Index, hnswlib.BFIndex])
def test_a_filter_of_hnswlib_is_asked_once_for_each_label(kind, rows):
    index = kind("l2", 8)
    index.init_index(500)
    index.add_items(rows, np.arange(500) * 2 + 1)
    asked = []

    def every_third(label):
        asked.append(label)
        return label % 3 == 0

    labels, distances = index.knn_query(rows[:20], k=5, filter=every_third)
    assert sorted(asked) == list(range(1, 1000, 2)) and type(asked[0]) is int
    allowed = [label for label in range(1, 1000, 2) if label % 3 == 0]
    squares = ((rows[:20, None].astype(np.float64) - rows[np.array(allowed) // 2]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(labels, np.array(allowed)[np.argsort(squares, axis=1)[:, :5]])
    np.testing.assert_allclose(distances, np.sort(squares, axis=1)[:, :5], rtol=1e-4)
    with pytest.raises(RuntimeError, match="Cannot return the results"):
        index.knn_query(rows[:2], k=2, filter=lambda label: label == 7)
    assert index.knn_query(rows[:2], k=1, filter=lambda label: label == 7)[0].tolist() == [[7], [7]]
    with pytest.raises(ZeroDivisionError):
        index.knn_query(rows[0], filter=lambda label: 1 / 0)
    with pytest.raises(TypeError, match="filter: expected a function of one label, got list"):
        index.knn_query(rows[0], filter=[1, 2])


def test_a_filter_leaves_deleted_rows_out(rows):
    index = hnswlib.Index("l2", 8)
    index.init_index(500)
    index.add_items(rows)
    index.mark_deleted(4)
    asked = []
    index.knn_query(rows[4], k=3, filter=lambda label: asked.append(label) or True)
    assert 4 not in asked and len(asked) == 499


def made(kind, rows):
    index = {"flat": lambda: faiss.IndexFlatL2(8), "ip": lambda: faiss.IndexFlatIP(8),
             "hnsw": lambda: faiss.IndexHNSWFlat(8, 16),
             "map": lambda: faiss.IndexIDMap(faiss.IndexHNSWFlat(8, 16))}[kind]()
    labels = np.arange(len(rows))
    if kind == "map":
        labels = labels * 5 - 100
        index.add_with_ids(rows, labels)
    else:
        index.add(rows)
    return index, labels


def keys(kind, rows):
    """Of each row to each query, what falls or rises: float64."""
    queries = rows[:10].astype(np.float64)
    if kind == "ip":
        return -(queries @ rows.T.astype(np.float64))
    return ((queries[:, None] - rows.astype(np.float64)) ** 2).sum(axis=2)


@pytest.mark.parametrize("kind", ["flat", "ip", "hnsw", "map"])
@pytest.mark.parametrize("removed", [False, True])
def test_selectors(kind, removed, rows):
    index, labels = made(kind, rows)
    key = keys(kind, rows)
    if removed:
        gone = np.arange(3, 500, 7)
        assert index.remove_ids(labels[gone]) == len(gone)
        key = np.delete(key, gone, axis=1)
        labels = np.delete(labels, gone) if kind == "map" else np.arange(500 - len(gone))
    for selector in (faiss.IDSelectorRange(10, 60), faiss.IDSelectorBatch(labels[5:9]),
                     faiss.IDSelectorNot(faiss.IDSelectorRange(-10**6, 400)),
                     faiss.IDSelectorBatch([-7777])):
        params = faiss.SearchParametersHNSW(efSearch=500, sel=selector)
        inside = selector.mask(labels)
        D, I = index.search(rows[:10], 6, params=params)  # noqa: E741
        n = min(6, inside.sum())
        want = labels[inside][np.argsort(key[:, inside], axis=1)[:, :n]]
        np.testing.assert_array_equal(I[:, :n], want)
        assert (I[:, n:] == -1).all()


@pytest.mark.parametrize("kind", ["flat", "ip", "hnsw", "map"])
def test_within_a_radius(kind, rows):
    index, labels = made(kind, rows)
    key = keys(kind, rows)
    for share in (0.0, 0.01, 0.2):
        limit = float(np.float32(np.quantile(key, share)))
        inside = key < limit - 1e-5
        params = faiss.SearchParametersHNSW(efSearch=500)
        lims, D, I = index.range_search(rows[:10], -limit if kind == "ip" else limit,  # noqa: E741
                                        params=params)
        assert len(lims) == 11 and lims[-1] == len(D) == len(I)
        found = [set(I[lims[i]:lims[i + 1]].tolist()) for i in range(10)]
        want = [set(labels[inside[i]].tolist()) for i in range(10)]
        if kind in ("flat", "ip"):
            assert all(w <= f for w, f in zip(want, found))
        else:
            assert sum(map(len, found)) >= 0.98 * sum(map(len, want))
        assert all((key[i, np.isin(labels, list(f))] < limit + 1e-4).all()
                   for i, f in enumerate(found))


def test_what_is_just_at_the_radius_is_out_as_in_faiss():
    index = faiss.IndexFlatL2(2)
    index.add(np.array([[0, 0], [1, 0], [2, 0]], np.float32))
    for radius, n in ((0, 0), (1, 1), (1.0001, 2), (4, 2), (4.001, 3)):
        assert index.range_search(np.zeros((1, 2)), radius)[0].tolist() == [0, n]
    index = faiss.IndexFlatIP(2)
    index.add(np.array([[0, 0], [1, 0], [2, 0]], np.float32))
    for radius, n in ((2, 0), (1, 1), (0.999, 2), (0, 2), (-0.001, 3)):
        assert index.range_search(np.array([[1, 0]]), radius)[0].tolist() == [0, n]
    empty = faiss.IndexFlatL2(2).range_search(np.zeros((3, 2)), 5)
    assert empty[0].tolist() == [0, 0, 0, 0] and len(empty[1]) == len(empty[2]) == 0
