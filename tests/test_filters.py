"""search(filter=), range_search and iterate: what may be returned, and that all of it is."""

import pickle
import threading

import numpy as np
import pytest

import vecidx
from helpers import (
    METRICS,
    assert_same,
    assert_true_distances,
    assert_well_formed,
    exact_distances,
    recall,
    run_python,
)

N, DIM = 12_000, 24


def clustered(n, dim, seed):
    """Rows in 60 loose clusters, as real data are; and which one each is in."""
    rng = np.random.default_rng(seed)
    of = rng.integers(0, 60, n)
    rows = rng.standard_normal((60, dim))[of] + 0.5 * rng.standard_normal((n, dim))
    return rows.astype(np.float32), of


@pytest.fixture(scope="module")
def data():
    rows, of = clustered(N, DIM, 1)
    queries, _ = clustered(60, DIM, 1)
    queries += 0.3 * np.random.default_rng(2).standard_normal(queries.shape).astype(np.float32)
    return rows, of, queries


@pytest.fixture(scope="module", params=[None, "sq8", "auto"], ids=str)
def quantization(request):
    return request.param


@pytest.fixture(scope="module", params=METRICS)
def index(request, quantization, data):
    """N rows under ids 0, 3, 6, ...; some deleted and replaced.  Tests must not change it."""
    made = vecidx.Index(DIM, metric=request.param, quantization=quantization)
    rows = data[0]
    if request.param == "ip":
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    ids = 3 * np.arange(N)
    made.add(rows, ids=ids)
    made.delete(ids[5::40])
    made.add(rows[6::40], ids=ids[6::40])
    made.add(rows[5:800:40], ids=ids[5:800:40])
    return made


def truth(index, queries, mask_of_ids):
    """Distances of the allowed rows to each query, rising."""
    ids = index.ids()
    ids = ids[mask_of_ids(ids)]
    if len(ids) == 0:
        return ids, np.empty((len(queries), 0))
    return ids, np.sort(exact_distances(queries, index.get(ids), index.metric), axis=1)


def check(index, queries, filter, mask_of_ids, k=10, least=0.95, **options):
    allowed, distances = truth(index, queries, mask_of_ids)
    ids, found = index.search(queries, k, filter=filter, **options)
    assert_well_formed(ids, found)
    wanted = min(k, len(allowed))
    assert ((ids >= 0).sum(axis=1) == wanted).all()
    assert np.isin(ids[ids >= 0], allowed).all()
    if wanted > 0:
        assert recall(found[:, :wanted], distances[:, wanted - 1]) >= least


# ---- every share, every way ------------------------------------------------------------


@pytest.mark.parametrize("share", [1, 0.9, 0.5, 0.2, 0.1, 0.01, 0.001, 0.0001, 0])
def test_random_filters(index, data, share):
    """min(k, allowed) results, all allowed, and the right ones, whatever the share."""
    chosen = np.random.default_rng(3).random(3 * N) < share
    check(index, data[2], chosen, lambda ids: chosen[ids])
    check(index, data[2], chosen, lambda ids: chosen[ids], exact=True, least=1)


@pytest.mark.parametrize("n_clusters", [1, 6, 30])
def test_clustered_filters(index, data, n_clusters):
    """Most queries lie in clusters that are not allowed."""
    chosen = data[1] < n_clusters
    check(index, data[2], vecidx.Filter(np.repeat(chosen, 3)), lambda ids: chosen[ids // 3])


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_filters_far_from_the_query(index, data, share):
    """A walk finds a tenth of these: they lie around the query in all directions."""
    queries = data[2][:30]
    ids = index.ids()
    distances = exact_distances(queries, index.get(ids), index.metric)
    filters, kth = [], []
    for row in distances:
        far = np.argsort(row)[-int(share * len(ids)):]
        filters.append(ids[far])
        kth.append(np.sort(row[far])[9])
    found_ids, found = index.search(queries, filter=filters)
    assert all(np.isin(one, allowed).all() for one, allowed in zip(found_ids, filters))
    assert recall(found, np.array(kth)) >= 0.95


def test_small_ef(index, data):
    """With a small ef most shares are walked, not compared."""
    for share in (0.7, 0.3, 0.15):
        chosen = np.random.default_rng(4).random(3 * N) < share
        check(index, data[2], chosen, lambda ids, m=chosen: m[ids], ef=16, least=0.8)


@pytest.mark.parametrize("dtype, metric", [
    ("float16", "l2"), ("float16", "cosine"), ("bfloat16", "ip"), ("int8", "l2"),
    ("int8", "cosine"), ("uint8", "l2"), ("uint8", "ip"), ("bits", "hamming"),
    ("bits", "jaccard")])
def test_every_dtype(data, dtype, metric):
    """A walk took all but float32 and codes for bytes under cosine: 1 % were found, at NaN, and
    memory past the query's end was read."""
    rows, _, queries = data
    dim = DIM
    if dtype == "bits":
        sides = np.random.default_rng(6).standard_normal((DIM, 256))
        rows, queries = (np.packbits(part @ sides > 0, axis=1) for part in (rows, queries))
        dim = 256
    elif "int" in dtype:
        low = 0 if dtype == "uint8" else -60
        rows, queries = (np.clip(np.round(12 * part + low + 60), low, low + 120)
                         for part in (rows, queries))
    index = vecidx.Index(dim, metric=metric, dtype=dtype, M=12, ef_construction=60,
                         quantization=None)
    index.add(rows)
    for share in (0.7, 0.3, 0.15):
        chosen = np.random.default_rng(4).random(N) < share
        ids, found = index.search(queries, 10, filter=chosen, ef=80)
        _, distances = index.search(queries, 10, filter=chosen, exact=True)
        assert_well_formed(ids, found)
        assert chosen[ids].all()
        assert recall(found, distances[:, 9]) >= 0.9


def test_large_k(index, data):
    chosen = np.random.default_rng(4).random(3 * N) < 0.5
    check(index, data[2][:8], chosen, lambda ids: chosen[ids], k=700)
    check(index, data[2][:2], chosen, lambda ids: chosen[ids], k=N)


def test_mapped_index(index, data, tmp_path):
    path = tmp_path / "filters.vidx"
    index.save(path)
    chosen = np.random.default_rng(5).random(3 * N) < 0.3
    filter = vecidx.Filter(chosen)
    want = index.search(data[2], filter=filter)
    for mode in (False, True, "vectors"):
        with vecidx.load(path, mmap=mode) as mapped:
            assert_same(want, mapped.search(data[2], filter=filter))
            assert_same(index.search(data[2], filter=filter, exact=True),
                        mapped.search(data[2], filter=filter, exact=True))


def test_threads_and_batches_do_not_matter(index, data):
    filter = vecidx.Filter(np.random.default_rng(6).random(3 * N) < 0.3)
    want = index.search(data[2], filter=filter, num_threads=1)
    assert_same(want, index.search(data[2], filter=filter, num_threads=3))
    for i in (0, 7):
        one = index.search(data[2][i], filter=filter)
        assert_same((want[0][i], want[1][i]), one)


# ---- what a filter may be -----------------------------------------------------------------


IDS = np.arange(300)


@pytest.mark.parametrize("filter, allowed", [
    (IDS % 3 == 0, IDS[::3]),
    ((IDS % 3 == 0)[:100], IDS[:100:3]),                 # a short mask says nothing of the rest
    ([True, False, True], [0, 2]),
    (IDS[::5], IDS[::5]),
    (IDS[::5].astype(np.uint8), IDS[::5][IDS[::5] < 256].tolist() + [
        i - 256 for i in IDS[::5][IDS[::5] >= 256]]),
    ([7, 9, 9, 2**62, -1, 10**15], [7, 9]),
    ([], []),
    (np.array([2.0, 3.0]), [2, 3]),
    ({4, 5, 1000}, [4, 5]),
    (range(10, 20), IDS[10:20]),
    (range(20, 10), []),
    (range(290, 10**30), IDS[290:]),
    (range(-7, 30, 10), [3, 13, 23]),
    (range(30, -10, -10), [0, 10, 20, 30]),
    (range(0, 2**63, 2**63 - 1), [0]),
    (np.packbits(IDS % 7 == 1, bitorder="little").tobytes(), IDS[IDS % 7 == 1]),
    (bytearray(b"\x05"), [0, 2]),
    (memoryview(b"\x80"), [7]),
    (lambda ids: ids % 2 == 1, IDS[1::2]),
    (vecidx.Filter(range(50)) & ~vecidx.Filter(range(45)) | vecidx.Filter([3]),
     [3, 45, 46, 47, 48, 49]),
    (~vecidx.Filter([]), IDS),
    ([range(5, 8)], [5, 6, 7]),
    ([[5, 6]], [5, 6]),
    ([None], IDS),
], ids=str)
def test_kinds(small_index, filter, allowed):
    ids, _ = small_index.search(np.zeros(16), 300, filter=filter)
    assert sorted(ids[ids >= 0]) == sorted(set(np.asarray(allowed, np.int64).tolist()))


def test_one_filter_for_each_query(small_index):
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((7, 16), dtype=np.float32)
    shared = IDS % 2 == 0
    filters = [None, shared, range(5), vecidx.Filter([9]), shared, lambda ids: ids > 290, [1, 2]]
    found = small_index.search(queries, 5, filter=filters)
    for i, filter in enumerate(filters):
        assert_same((found[0][i], found[1][i]), small_index.search(queries[i], 5, filter=filter))


def test_a_callable_is_called_once(small_index):
    calls = []

    def choose(ids):
        calls.append(ids)
        return ids < 10

    small_index.search(np.zeros((20, 16)), 5, filter=choose)
    assert len(calls) == 1 and (np.sort(calls[0]) == IDS).all()
    small_index.search(np.zeros((20, 16)), 5, filter=[choose] * 20)
    assert len(calls) == 2


@pytest.mark.parametrize("filter, error, words", [
    (np.zeros((3, 300), bool), ValueError, "for one filter a query, pass a list"),
    (7, ValueError, "for one id, pass a list"),
    (True, ValueError, "for one id, pass a list"),
    ("abc", TypeError, "expected a boolean mask"),
    ({"a": 1}, TypeError, "expected a boolean mask"),
    ([1.5], ValueError, "is not an integer"),
    ([None, None], ValueError, "expected 1, one for each query, got a list of 2"),
    (lambda ids: ids, TypeError, "as many booleans"),
    (lambda ids: True, TypeError, "numpy.vectorize"),
    ([lambda ids: ids[:3] > 0], TypeError, "as many booleans"),
    (object(), TypeError, "expected a boolean mask"),
    ([object()], TypeError, "expected a boolean mask"),
], ids=str)
def test_what_is_no_filter_is_refused(small_index, filter, error, words):
    with pytest.raises(error, match=words):
        small_index.search(np.zeros((1, 16)), 5, filter=filter)


def test_filter_is_a_set_of_ids():
    """It speaks of ids that come into an index later, and of other vectors under an id."""
    index = vecidx.Index(2)
    index.add([[0, 0], [1, 1]])
    mask, rest = vecidx.Filter([True, False]), ~vecidx.Filter([True, False])
    above = vecidx.Filter(range(1, 2**63))
    query = [9, 9]

    def found(filter):
        ids, _ = index.search(query, 9, filter=filter)
        return ids[ids >= 0].tolist()

    assert (found(mask), found(rest), found(above)) == ([0], [1], [1])
    index.add([[5, 5]], ids=[2**63 - 1])
    assert (found(mask), found(rest), found(above)) == ([0], [2**63 - 1, 1], [2**63 - 1, 1])
    index.add([[8, 8]], ids=[0])
    assert found(mask) == [0] and index.search(query, 1, filter=mask)[1][0] == 2
    index.delete([0])
    assert found(mask) == []
    index.add([[7, 7]], ids=[0])                # into the free place
    assert (found(mask), found(rest)) == ([0], [2**63 - 1, 1])
    index.compact()
    assert (found(mask), found(rest)) == ([0], [2**63 - 1, 1])


def test_mask_and_contains():
    filter = vecidx.Filter(range(0, 100, 7)) | vecidx.Filter([2**40, 5])
    ids = np.array([-1, 0, 5, 6, 7, 2**40, 2**40 + 1])
    assert filter.mask(ids).tolist() == [False, True, True, False, True, True, False]
    assert 5 in filter and 6 not in filter
    assert filter.mask([]).shape == (0,)
    with pytest.raises(TypeError):
        filter & [1]
    with pytest.raises(TypeError, match="got function"):
        vecidx.Filter(lambda ids: ids > 0)


@pytest.mark.parametrize("allowed", [
    range(3, 2**62, 5), range(0), np.arange(300) % 3 == 0, np.zeros(0, bool), b"\x81\xff\x02",
    [5, 70, 71, 1000], [2**40 + 3, 2**40 + 64, 2**40 + 900], [7, 2**50, 2**63 - 1]])
def test_a_filter_travels(allowed):
    ids = np.array([0, 3, 5, 7, 8, 23, 64, 70, 71, 299, 300, 1000, 2**40 + 3, 2**40 + 64, 2**50,
                    2**50 + 1, 2**62, 2**63 - 1])
    one = vecidx.Filter(allowed)
    for filter in (one, ~one, one & vecidx.Filter(range(60)), one | ~vecidx.Filter([5])):
        again = pickle.loads(pickle.dumps(filter))
        np.testing.assert_array_equal(again.mask(ids), filter.mask(ids))


def test_a_filter_with_shared_parts_travels_with_each_once():
    filter = vecidx.Filter([1, 5])
    for _ in range(12):
        filter = ~(filter & filter)
    data = pickle.dumps(filter)
    assert len(data) < 2_000
    assert pickle.loads(data).mask([1, 2]).tolist() == [True, False]


def test_combined_too_often():
    filter = vecidx.Filter([1])
    with pytest.raises(ValueError, match="combined more than 1000 times"):
        for i in range(2000):
            filter = filter | vecidx.Filter([i])


def test_one_filter_serves_many_indexes(rng):
    """What it remembers of one index must not be taken for another."""
    filter = vecidx.Filter(range(0, 100, 3))
    for _ in range(30):
        n = int(rng.integers(1, 100))
        index = vecidx.Index(4)
        index.add(rng.standard_normal((n, 4)), ids=rng.permutation(100)[:n])
        ids, _ = index.search(rng.standard_normal(4), 100, filter=filter)
        assert sorted(ids[ids >= 0]) == sorted(i for i in index if i % 3 == 0)
        del index


def test_equal_rows(rng):
    """Of equal rows only one is a node; the others are found where it is not allowed."""
    index = vecidx.Index(8)
    rows = np.repeat(rng.standard_normal((2000, 8), dtype=np.float32), 3, axis=0)
    index.add(rows)
    query = rows[3 * 500]
    for rest in range(3):
        filter = vecidx.Filter(range(rest, 6000, 3))
        ids, distances = index.search(query, 5, ef=8, filter=filter)
        assert ids[0] == 1500 + rest and distances[0] == 0


@pytest.mark.parametrize(("word", "dim"), [("sq8", 40), ("sq4", 40), ("auto", 40), ("auto", 300)])
@pytest.mark.parametrize("whole", [False, True])
def test_all_allowed_rows_by_codes(word, dim, whole, rng):
    """A share too small for a walk and too large for the vectors; many rows are equal, and
    of most of those only some are allowed."""
    places = rng.standard_normal((4_000, 12)) @ rng.standard_normal((12, dim))
    rows = (places[rng.integers(0, 4_000, 11_000)] * 4 + 128).astype(np.float32)
    queries = (places[:100] * 4.1 + 128).astype(np.float32)
    if whole:
        rows, queries = np.rint(rows).clip(0, 255), np.rint(queries).clip(0, 255)
    index = vecidx.Index(dim, quantization=word, ef_construction=60)
    index.add(rows)
    assert index.stats()["quantized"]
    mask = rng.random(len(rows)) < 0.3
    for filter, allowed in ((mask, mask), (~vecidx.Filter(mask), ~mask)):
        kth = np.sort(exact_distances(queries, rows[allowed], "l2"), axis=1)[:, 9]
        for part in (queries, queries[:1]):
            ids, distances = index.search(part, 10, ef=16, filter=filter)
            assert_well_formed(ids, distances)
            assert allowed[ids].all()
            assert recall(distances, kth[:len(part)]) >= 0.98
    far = np.argsort(exact_distances(queries[:1], rows, "l2")[0])[-4_000:]
    found = index.search(queries[0], 10, ef=16, filter=vecidx.Filter(far))[1]
    np.testing.assert_array_equal(found, index.search(queries[0], 10, exact=True,
                                                      filter=vecidx.Filter(far))[1])


def test_filter_beside_a_writer(rng):
    """Deletes, replaces and adds go on: only allowed ids come back, and as many as asked."""
    index = vecidx.Index(8)
    index.add(rng.standard_normal((3000, 8)))
    filter, stop, bad = vecidx.Filter(range(0, 10**9, 2)), threading.Event(), []

    def search():
        own = np.random.default_rng(1)
        while not stop.is_set():
            ids, distances = index.search(own.standard_normal((4, 8)), 10, ef=12, filter=filter)
            if (ids < 0).any() or (ids % 2 != 0).any() or (np.diff(distances) < 0).any():
                bad.append(ids)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(40):
        ids = rng.permutation(3000)[:50]
        index.add(rng.standard_normal((50, 8)), ids=ids)
        index.delete(ids[:10])
    stop.set()
    for thread in threads:
        thread.join()
    assert not bad


def test_filters_in_a_forked_child():
    code = """
import os, numpy as np, vecidx
index = vecidx.Index(4); index.add(np.random.default_rng(0).standard_normal((500, 4)))
f = vecidx.Filter(range(0, 500, 2)); want = index.search(np.zeros(4), filter=f)
if (pid := os.fork()) == 0:
    got = index.search(np.zeros(4), filter=f)
    os._exit(0 if (got[0] == want[0]).all() else 1)
assert os.waitpid(pid, 0)[1] == 0
"""
    code, out, err = run_python(code)
    assert code == 0, err


# ---- distances ---------------------------------------------------------------------------


def test_max_distance(index, data):
    ids, distances = index.search(data[2], 20)
    limit = float(np.median(distances))
    near_ids, near = index.search(data[2], 20, max_distance=limit)
    inside = distances <= np.float64(limit)
    np.testing.assert_array_equal(near_ids, np.where(inside, ids, -1))
    np.testing.assert_array_equal(near, np.where(inside, distances, np.inf))
    chosen = IDS % 2 == 0
    assert (index.search(data[2][0], 5, filter=chosen, max_distance=-5)[0] == -1).all()


@pytest.mark.parametrize("filtered", [False, True])
def test_range_search(index, data, filtered):
    queries = data[2][:30]
    chosen = np.ones(3 * N, bool)
    if filtered:
        chosen = np.random.default_rng(8).random(3 * N) < 0.4
    filter = vecidx.Filter(chosen) if filtered else None
    allowed, distances = truth(index, queries, lambda ids: chosen[ids])
    row_of = dict(zip(allowed.tolist(), index.get(allowed)))
    for rank in (0, 30, 400, len(allowed) - 1):
        radius = float(np.median(distances[:, rank]))
        room = 1e-5 * abs(radius) + 2e-6
        for exact in (False, True):
            lims, ids, found = index.range_search(queries, radius, filter=filter, exact=exact)
            assert lims.shape == (len(queries) + 1,) and lims[0] == 0
            assert len(ids) == len(found) == lims[-1]
            assert (found <= radius).all() and np.isin(ids, allowed).all()
            n_surely, n_maybe = ((distances <= radius + r).sum(axis=1) for r in (-room, room))
            assert (np.diff(lims) <= n_maybe).all()
            if exact:
                assert (np.diff(lims) >= n_surely).all()
            assert lims[-1] >= 0.97 * n_surely.sum()
            for i in (0, 1, len(queries) - 1):
                part = slice(lims[i], lims[i + 1])
                if part.start < part.stop:
                    assert_well_formed(ids[part], found[part])
            part = slice(lims[0], lims[0] + 20)
            if lims[1] > 0:
                some = slice(0, min(20, lims[1]))
                assert_true_distances(ids[some], found[some], queries[0], row_of, index.metric)


def test_range_search_shapes(small_index):
    lims, ids, distances = small_index.range_search(np.empty((0, 16)), 1)
    assert lims.tolist() == [0] and ids.dtype == np.int64 and distances.dtype == np.float32
    lims, ids, distances = small_index.range_search(np.zeros(16), np.inf)
    assert lims.tolist() == [0, 300] and sorted(ids) == IDS.tolist()
    assert small_index.range_search(np.zeros((2, 16)), -1)[0].tolist() == [0, 0, 0]
    assert vecidx.Index(16).range_search(np.zeros((2, 16)), 1)[0].tolist() == [0, 0, 0]
    row = small_index.get(5)
    assert small_index.range_search(row, 0)[1].tolist() == [5]      # just so far is in


@pytest.mark.parametrize("radius, error", [(float("nan"), ValueError), ("1", TypeError),
                                           (None, TypeError), (True, TypeError)])
def test_bad_radius(small_index, radius, error):
    with pytest.raises(error, match="radius: expected a number"):
        small_index.range_search(np.zeros(16), radius)
    if radius is not None:
        with pytest.raises(error, match="max_distance: expected a number"):
            small_index.search(np.zeros(16), max_distance=radius)


def test_bad_queries(small_index):
    queries = np.zeros((3, 16))
    queries[2, 5] = np.nan
    for call in (lambda: small_index.range_search(queries, 1),
                 lambda: small_index.range_search(queries, 1, exact=True),
                 lambda: small_index.search(queries, filter=range(3))):
        with pytest.raises(ValueError, match="queries: row 2"):
            call()


# ---- ever farther ------------------------------------------------------------------------


@pytest.mark.parametrize("filtered", [False, True])
def test_iterate(index, data, filtered):
    chosen = np.random.default_rng(9).random(3 * N) < (0.3 if filtered else 2)
    allowed, distances = truth(index, data[2][:1], lambda ids: chosen[ids])
    filter = chosen if filtered else None
    got, at = [], -np.inf
    for ids, found in index.iterate(data[2][0], batch=37, filter=filter):
        assert 0 < len(ids) == len(found) <= 37
        assert found[0] >= at and (np.diff(found) >= 0).all()
        at = found[-1]
        got.append(ids)
        if len(got) == 5:
            assert recall(np.array([at]), distances[0][[int(5.3 * 37)]]) == 1
    got = np.concatenate(got)
    assert len(np.unique(got)) == len(got) >= 0.995 * len(allowed)
    assert np.isin(got, allowed).all()
    exact = np.concatenate([i for i, _ in index.iterate(data[2][0], 500, filter=filter,
                                                        exact=True)])
    assert sorted(exact) == sorted(allowed)


def test_iterate_while_the_index_changes(rng):
    index = vecidx.Index(4)
    rows = rng.standard_normal((600, 4), dtype=np.float32)
    index.add(rows)
    query = np.zeros(4)
    seen, last = [], -1
    for turn, (ids, distances) in enumerate(index.iterate(query, batch=20)):
        assert (distances >= last).all()
        last = distances[-1]
        seen += ids.tolist()
        old = ids[ids < 600]
        index.add(10 + rows[old], ids=old)        # what was given moves far away
        index.delete([600 + turn - 1] if turn > 0 else [])
        index.add(rows[:1], ids=[600 + turn])
    assert len(seen) == len(set(seen)) >= 590


def test_iterate_ends(small_index):
    turns = small_index.iterate(np.zeros(16), batch=200)
    assert iter(turns) is turns
    assert [len(ids) for ids, _ in turns] == [200, 100]
    assert next(turns, None) is None
    assert list(small_index.iterate(np.zeros(16), filter=[])) == []
    assert list(vecidx.Index(16).iterate(np.zeros(16))) == []
    with pytest.raises(ValueError, match="query: expected one vector, got 2"):
        small_index.iterate(np.zeros((2, 16)))
    with pytest.raises(ValueError, match="batch"):
        small_index.iterate(np.zeros(16), batch=0)


def test_closed():
    index = vecidx.Index(4)
    index.add(np.eye(4))
    turns = index.iterate(np.zeros(4), batch=1)
    index.close()
    for call in (lambda: index.search(np.zeros(4), filter=[1]),
                 lambda: index.range_search(np.zeros(4), 1),
                 lambda: index.range_search(np.zeros(4), 1, exact=True),
                 lambda: index.iterate(np.zeros(4))):
        with pytest.raises(vecidx.VecidxError, match="closed"):
            call()
    assert len(next(turns)[0]) == 1
