"""vecidx.compat.faiss by itself.  tests/ecosystem/test_peer_faiss.py compares with faiss."""

import copy
import pickle

import numpy as np
import pytest

import vecidx
from helpers import exact_distances
from vecidx.compat import faiss
from vecidx.compat._errors import CompatError

FAR = np.float32(np.finfo(np.float32).max)
METRICS = (faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT)


def data(n=300, dim=8, seed=0):
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def every_kind(metric):
    made = [faiss.IndexFlat(8, metric), faiss.IndexHNSWFlat(8, 16, metric),
            faiss.IndexHNSWSQ(8, faiss.ScalarQuantizer.QT_8bit, 16, metric)]
    made[2].train(data())
    for index in made[1:]:
        index.hnsw.efSearch = 300
    return made


def truth(queries, rows, metric):
    """Distances in faiss's terms, nearest first, and labels."""
    if metric == faiss.METRIC_L2:
        distances = exact_distances(queries, rows, "l2")
        order = np.argsort(distances, axis=1)
    else:
        distances = np.asarray(queries, np.float64) @ rows.T
        order = np.argsort(-distances, axis=1)
    return np.take_along_axis(distances, order, 1), order


@pytest.mark.parametrize("metric", METRICS)
def test_search(metric):
    rows, queries = data(), data(20, seed=1)
    want, labels = truth(queries, rows, metric)
    for index in every_kind(metric):
        index.add(rows[:100])
        index.add(rows[100:].astype(np.float64))
        D, I = index.search(queries, 5)  # noqa: E741
        assert D.dtype == np.float32 and I.dtype == np.int64 and index.ntotal == 300
        np.testing.assert_array_equal(I, labels[:, :5])
        np.testing.assert_allclose(D, want[:, :5], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_fewer_than_k_end_in_minus_one(metric):
    worst = FAR if metric == faiss.METRIC_L2 else -FAR
    for index in every_kind(metric):
        D, I = index.search(data(2), 3)  # noqa: E741
        assert (I == -1).all() and (D == worst).all()
        index.add(data(2))
        D, I = index.search(data(2), 4)  # noqa: E741
        assert (I[:, 2:] == -1).all() and (D[:, 2:] == worst).all() and (I[:, :2] >= 0).all()


def test_positions_close_up_when_rows_go():
    rows = data(10)
    for index in every_kind(faiss.METRIC_L2):
        index.add(rows)
        assert index.remove_ids(np.array([0, 3, 3, 77])) == 2
        left = np.delete(rows, [0, 3], axis=0)
        assert index.ntotal == 8 and (index.search(left, 1)[1][:, 0] == np.arange(8)).all()
        index.add(rows[:1])
        assert index.search(rows[:1], 1)[1][0, 0] == 8
        assert index.remove_ids(faiss.IDSelectorRange(0, 2)) == 2
        np.testing.assert_array_equal(index.reconstruct_n(), [*left[2:], rows[0]])
        np.testing.assert_array_equal(index.reconstruct(6), rows[0])
        index.reset()
        assert index.ntotal == 0 and index.remove_ids(np.array([0])) == 0
        index.add(rows[:2])
        assert index.search(rows[:2], 1)[1][:, 0].tolist() == [0, 1]


@pytest.mark.parametrize("kind", [faiss.IndexIDMap, faiss.IndexIDMap2])
@pytest.mark.parametrize("base", [lambda: faiss.IndexFlatL2(8), lambda: faiss.IndexHNSWFlat(8, 8)])
def test_id_maps(kind, base):
    rows = data(6)
    index = kind(base())
    index.add_with_ids(rows, np.array([10, 20, 30, 40, 10, -5]))
    assert index.search(rows[[4]], 1)[1].tolist() == [[10]]
    assert index.search(rows[[5]], 1)[1].tolist() == [[-5]]
    assert index.id_map.tolist() == [10, 20, 30, 40, 10, -5]
    if kind is faiss.IndexIDMap2:
        np.testing.assert_array_equal(index.reconstruct(10), rows[4])
        np.testing.assert_array_equal(index.reconstruct_batch([20, -5]), rows[[1, 5]])
        with pytest.raises(RuntimeError, match="key 21 not found"):
            index.reconstruct(21)
        D, I, V = index.search_and_reconstruct(rows[:1], 8)  # noqa: E741
        np.testing.assert_array_equal(V[0, 0], rows[0])
        assert np.isnan(V[0, 7]).all() and I[0, 7] == -1
    else:
        with pytest.raises(RuntimeError, match="reconstruct not implemented"):
            index.reconstruct(10)
    assert index.remove_ids(faiss.IDSelectorBatch([10])) == 2
    assert index.ntotal == 4 and index.search(rows[[0]], 6)[1][0, 4:].tolist() == [-1, -1]
    assert index.search(rows[[2]], 1)[1].tolist() == [[30]]
    index.add_with_ids(rows[:1], [10])
    if kind is faiss.IndexIDMap2:
        np.testing.assert_array_equal(index.reconstruct(10), rows[0])
    with pytest.raises(RuntimeError, match="add does not make sense with IndexIDMap"):
        index.add(rows)
    with pytest.raises(RuntimeError, match="not same nb of vectors as ids"):
        index.add_with_ids(rows, [1])
    index.reset()
    assert index.ntotal == 0 and index.search(rows[:1], 2)[1].tolist() == [[-1, -1]]


@pytest.mark.parametrize("metric", METRICS)
def test_files_bytes_pickles_and_copies(metric, tmp_path):
    rows = data(50)
    for base in every_kind(metric):
        for index in (base, faiss.IndexIDMap2(type_like(base))):
            if isinstance(index, faiss.IndexIDMap):
                index.add_with_ids(rows, np.arange(50) * 7)
            else:
                index.add(rows)
            index.remove_ids(np.array([7]))
            faiss.write_index(index, str(tmp_path / "x"))
            for again in (faiss.read_index(tmp_path / "x"), faiss.clone_index(index),
                          faiss.deserialize_index(faiss.serialize_index(index)),
                          pickle.loads(pickle.dumps(index)), copy.deepcopy(index)):
                assert type(again) is type(index) and again.metric_type == metric
                for one, other in zip(index.search(rows, 4), again.search(rows, 4)):
                    np.testing.assert_array_equal(one, other)
                np.testing.assert_array_equal(index.reconstruct_n(), again.reconstruct_n())
                stored = getattr(again, "index", again)
                if isinstance(stored, faiss.IndexHNSW):
                    assert stored.hnsw.efSearch == 300 and stored.is_trained
                else:
                    again.reset()
    empty = faiss.clone_index(faiss.IndexHNSWFlat(8, 12))
    empty.add(rows)
    assert empty.native.M == 12


def type_like(index):
    return faiss.clone_index(index)


def test_an_index_of_vecidx_is_read(tmp_path):
    native = vecidx.Index(8, "ip")
    native.add(data(20), np.arange(20) + 100)
    native.delete([105])
    native.save(tmp_path / "native")
    index = faiss.read_index(tmp_path / "native")
    assert index.ntotal == 19 and index.metric_type == faiss.METRIC_INNER_PRODUCT
    np.testing.assert_array_equal(index.reconstruct(110), data(20)[10])


@pytest.mark.parametrize("call, error, says", [
    (lambda i: i.search(data(2)[0], 1), RuntimeError, r"expected an array of shape \(n, 8\)"),
    (lambda i: i.search(data(2, 7), 1), RuntimeError, r"got \(2, 7\)"),
    (lambda i: i.search(data(2), 0), RuntimeError, "k: expected 1 or more"),
    (lambda i: i.add(data(2, 7)), RuntimeError, r"got \(2, 7\)"),
    (lambda i: i.add(np.full((1, 8), np.nan)), ValueError, "NaN"),
    (lambda i: i.add_with_ids(data(1), [1]), RuntimeError, "add_with_ids not implemented"),
    (lambda i: i.reconstruct(3), RuntimeError, "'key < ntotal' failed: 3 of 2 rows"),
    (lambda i: i.reconstruct(-1), RuntimeError, "-1 of 2 rows"),
    (lambda i: i.remove_ids([0.5]), RuntimeError, "1-D array of integers"),
    (lambda i: i.search(data(1), 1, params={"efSearch": 3}), TypeError, "expected SearchParam"),
    (lambda i: faiss.IndexIDMap(i), RuntimeError, "index must be empty on input"),
    (lambda i: i.merge_from(i), RuntimeError, "expected another"),
    (lambda i: faiss.IndexFlat(8, 5), RuntimeError, "METRIC_L2"),
    (lambda i: faiss.IndexHNSWSQ(8, 3, 8), RuntimeError, "QT_8bit"),
])
def test_errors_change_nothing(call, error, says):
    index = faiss.IndexFlatL2(8)
    index.add(data(2))
    with pytest.raises(error, match=says):
        call(index)
    assert index.ntotal == 2


def test_hnsw_parameters():
    index = faiss.IndexHNSWFlat(8, 12)
    assert (index.hnsw.efSearch, index.hnsw.efConstruction) == (16, 40)
    index.hnsw.efConstruction = 77
    index.add(data())
    assert (index.native.M, index.native.ef_construction) == (12, 77)
    with pytest.raises(RuntimeError, match="set it before the first add"):
        index.hnsw.efConstruction = 100
    wide = faiss.SearchParametersHNSW(efSearch=64)
    assert index.search(data(1), 5, params=wide)[1].shape == (1, 5)
    untrained = faiss.IndexHNSWSQ(8, faiss.ScalarQuantizer.QT_8bit, 8)
    with pytest.raises(RuntimeError, match="is_trained"):
        untrained.add(data())


def test_merge_and_results_in_arrays_of_ones_own():
    one, other = faiss.IndexFlatL2(8), faiss.IndexFlatL2(8)
    one.add(data(5))
    other.add(data(5, seed=3))
    one.merge_from(other)
    assert (one.ntotal, other.ntotal) == (10, 0)
    D, I = np.empty((2, 3), np.float32), np.empty((2, 3), np.int64)  # noqa: E741
    got = one.search(data(2), 3, D=D, I=I)
    assert got[0] is D and got[1] is I and I[0, 0] == 0
    with pytest.raises(CompatError, match="D: expected float32 of shape"):
        one.search(data(2), 4, D=D)
    assert one.assign(data(2)).tolist() == [[0], [1]]


def test_normalize():
    rows = data(4)
    rows[2] = 0
    faiss.normalize_L2(rows)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 1, 0, 1], rtol=1e-6)
    for bad in ([[1.0]], rows.astype(np.float64), rows[0]):
        with pytest.raises(TypeError, match="changed in place"):
            faiss.normalize_L2(bad)


@pytest.mark.parametrize("words, kind, M", [
    ("Flat", faiss.IndexFlatL2, None), ("HNSW", faiss.IndexHNSWFlat, 32),
    ("HNSW16", faiss.IndexHNSWFlat, 16), ("HNSW24,Flat", faiss.IndexHNSWFlat, 24),
    ("HNSW8,SQ8", faiss.IndexHNSWSQ, 8), ("HNSW8_SQ8", faiss.IndexHNSWSQ, 8)])
def test_factory(words, kind, M):
    index = faiss.index_factory(8, words)
    assert type(index) is kind and (M is None or index._M == M)
    for prefix, outer in (("IDMap,", faiss.IndexIDMap), ("IDMap2,", faiss.IndexIDMap2)):
        index = faiss.index_factory(8, prefix + words, faiss.METRIC_INNER_PRODUCT)
        assert type(index) is outer and index.metric_type == faiss.METRIC_INNER_PRODUCT


@pytest.mark.parametrize("words", ["IVF100,Flat", "PQ8", "", "flat", "Flat,IDMap", "HNSW8,PQ4"])
def test_factory_says_what_it_knows(words):
    with pytest.raises(RuntimeError, match="could not parse index string .*; here are Flat"):
        faiss.index_factory(8, words)


def test_selectors():
    labels = np.arange(-2, 12)
    batch = faiss.IDSelectorBatch([3, 1, 900])
    span = faiss.IDSelectorRange(2, 5)
    bits = faiss.IDSelectorBitmap(np.array([0b1010, 0b1], np.uint8))
    for selector, members in [
            (batch, {1, 3}), (faiss.IDSelectorArray([4]), {4}), (span, {2, 3, 4}),
            (bits, {1, 3, 8}), (faiss.IDSelectorAll(), set(labels.tolist())),
            (faiss.IDSelectorNot(span), set(labels.tolist()) - {2, 3, 4}),
            (faiss.IDSelectorAnd(batch, span), {3}),
            (faiss.IDSelectorOr(batch, span), {1, 2, 3, 4}),
            (faiss.IDSelectorXOr(batch, span), {1, 2, 4})]:
        assert set(labels[selector.mask(labels)].tolist()) == members
        assert all(selector.is_member(i) == (i in members) for i in labels)
    with pytest.raises(ValueError, match="uint8"):
        faiss.IDSelectorBitmap([1, 2])


def test_reading_what_is_no_file_of_ours(tmp_path):
    (tmp_path / "x").write_bytes(b"IxF2" + b"\0" * 100)
    with pytest.raises(vecidx.IndexFormatError, match="one of faiss itself is to be read by faiss"):
        faiss.read_index(tmp_path / "x")
    with pytest.raises(RuntimeError, match="could not open"):
        faiss.read_index(tmp_path / "nothing")


def test_threads():
    before = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(1)
        assert vecidx.get_num_threads() == 1
    finally:
        vecidx.set_num_threads(before)
