"""What is asked besides the nearest: filters, ranges, iteration, target recall, dtypes."""

import numpy as np
import pytest

import vecidx
from helpers import assert_same

pytestmark = pytest.mark.usefixtures("nodes")

MASK = np.arange(3000) % 7 == 2


def chosen(ids):                             # by name: shards cannot import this module
    return ids % 7 == 2


def functions():
    """Functions that travel whole."""
    def chosen(ids):
        return ids % 7 == 2

    def fails(ids):
        raise KeyError("no table of colours")

    return chosen, fails


CHOSEN, FAILS = functions()


@pytest.mark.parametrize("filter", [
    MASK, np.flatnonzero(MASK), set(np.flatnonzero(MASK).tolist()), range(2, 2**62, 7),
    np.packbits(MASK, bitorder="little").tobytes(), vecidx.Filter(MASK),
    ~vecidx.Filter(~MASK) & vecidx.Filter(range(3000)), CHOSEN, lambda ids: MASK[ids]],
    ids=["mask", "ids", "set", "range", "bits", "Filter", "combined", "function", "lambda"])
def test_a_filter_of_any_kind_is_that_of_one_index(service, one_index, queries, filter):
    want = one_index.search(queries, k=10, filter=MASK, exact=True)
    assert_same(service.search(queries, k=10, filter=filter, exact=True), want)
    assert_same(service.search(queries, k=10, filter=filter, ef=3000), want)
    assert_same(service.search(queries[0], k=10, filter=filter, exact=True),
                [part[0] for part in want])


def test_a_filter_for_each_query(service, one_index, queries):
    filters = [None, MASK, CHOSEN, range(50), vecidx.Filter([7])]
    assert_same(service.search(queries[:5], k=10, filter=filters, exact=True),
                one_index.search(queries[:5], k=10, filter=filters, exact=True))


def test_a_large_filter_is_sent_once(service, one_index, queries):
    """Over the limit: it goes by reference, and replicas know it again."""
    mask = np.random.default_rng(5).random(2_000_000) < 0.5
    filter = vecidx.Filter(mask)
    want = one_index.search(queries, k=10, filter=mask, exact=True)
    parcel = service._parcels.packed(filter)
    assert isinstance(parcel, list)
    for _ in range(4):                       # of either replica
        assert_same(service.search(queries, k=10, filter=filter, exact=True), want)
    assert service._parcels.packed(filter) is parcel


def test_max_distance(service, one_index, queries):
    limit = float(np.median(one_index.search(queries, k=5, exact=True)[1][:, 2]))
    got = service.search(queries, k=5, max_distance=limit, exact=True)
    assert_same(got, one_index.search(queries, k=5, max_distance=limit, exact=True))
    assert (got.ids == -1).any()


def test_ranges(service, one_index, queries):
    radius = float(one_index.search(queries, k=20, exact=True)[1].mean())
    for options in ({"exact": True}, {"exact": True, "filter": MASK}):
        found = service.range_search(queries, radius, **options)
        want = one_index.range_search(queries, radius, **options)
        assert len(want[1]) > 50 and found.missing_shards == ()
        for got, expected in zip(found, want):
            np.testing.assert_array_equal(got, expected)
    assert len(service.range_search(queries[0], 0.0).ids) == 0
    assert service.range_search(queries[:0], 1.0).lims.tolist() == [0]


def test_iterating(service, one_index, queries):
    for options in ({"exact": True}, {"exact": True, "filter": CHOSEN}):
        mine = service.iterate(queries[0], batch=30, **options)
        for (ids, distances), want in zip(mine, one_index.iterate(queries[0], 30, **options)):
            assert_same((ids, distances), want)
        assert list(mine) == []
    ids = np.concatenate([ids for ids, _ in service.iterate(queries[1], 500)])
    assert len(np.unique(ids)) == len(ids) > 2900


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ({"filter": "red"}, TypeError, "filter: expected a boolean mask"),
    ({"filter": np.zeros((2, 2), bool)}, ValueError, "filter: expected 1 dimension"),
    ({"filter": [range(3)] * 2}, ValueError, "filter: expected 1, one for each query"),
    ({"filter": chosen}, TypeError, "a shard cannot take it: ModuleNotFoundError"),
    ({"filter": FAILS}, ValueError, "the callable raised KeyError: 'no table"),
    ({"filter": lambda ids: 5}, TypeError, "as many booleans"),
    ({"max_distance": float("nan")}, ValueError, "max_distance: expected a number"),
    ({"recall": 1.5}, ValueError, "recall: expected above 0"),
    ({"recall": 0.9, "ef": 10}, ValueError, "give one of them"),
    ({"recall": 0.9}, ValueError, "recall: no curve for k=10"),
    ({"diverse": 0.5}, TypeError, "search: no argument 'diverse'"),
])
def test_bad_questions(service, arguments, error, message):
    with pytest.raises(error, match=message):
        service.search(np.zeros(16, np.float32), **arguments)
    assert not service._health._rest, "a caller's mistake is not a replica's"


def test_a_filter_that_cannot_travel(service, queries):
    import threading
    lock = threading.Lock()
    with pytest.raises(TypeError, match="filter: cannot be sent"):
        service.search(queries, filter=lambda ids: lock.locked() & (ids > 0))
    with pytest.raises(ValueError, match="radius: expected"):
        service.range_search(queries, float("nan"))
    with pytest.raises(TypeError, match="range_search: no argument 'recall'"):
        service.range_search(queries, 1, recall=0.9)
    with pytest.raises(ValueError, match="query: expected one vector"):
        service.iterate(queries)


def test_target_recall(tmp_path):
    """Tuned at build, each k asked for; the promise holds over all shards."""
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((6000, 24), dtype=np.float32)
    queries = rng.standard_normal((200, 24), dtype=np.float32)
    np.save(tmp_path / "rows.npy", rows)
    manifest = vecidx.ray.build(tmp_path / "rows.npy", tmp_path / "out", 2, M=6,
                                ef_construction=40, tune=[10, 20])
    assert sorted(vecidx.load(f"{manifest.url}/shard-00000.vidx").tuned) == [10, 20]
    with vecidx.ray.serve(manifest) as index:
        for k in (10, 20):
            kth = index.search(queries, k=k, exact=True).distances[:, -1:]
            for target in (0.8, 0.95, 1.0):
                found = index.search(queries, k=k, recall=target).distances
                assert (found <= kth).mean() >= target - 0.02
        with pytest.raises(ValueError, match="no curve for k=5"):
            index.search(queries, k=5, recall=0.9)


def test_target_recall_of_shards_too_small_to_be_tuned(tmp_path, rows, queries):
    np.save(tmp_path / "rows.npy", rows[:5])
    with vecidx.ray.serve(vecidx.ray.build(tmp_path / "rows.npy", tmp_path / "out", 4,
                                           tune=True)) as index:
        found = index.search(queries, k=3, recall=0.9)
        one = vecidx.Index(16)
        one.add(rows[:5])
        assert_same(found, one.search(queries, k=3, exact=True))


@pytest.mark.parametrize("dtype", [
    np.float16, pytest.param("bfloat16", marks=pytest.mark.long),
    pytest.param("int8", marks=pytest.mark.long), np.uint8])
def test_other_dtypes(tmp_path, dtype):
    rng = np.random.default_rng(4)
    rows = rng.integers(0, 100, (2000, 12)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    manifest = vecidx.ray.build(tmp_path / "rows.npy", tmp_path / "out", 2, dtype=dtype, M=8)
    one = vecidx.Index(12, dtype=dtype)
    one.add(rows)
    assert manifest == vecidx.ray.read_manifest(tmp_path / "out")
    queries = rows[:20] + 0.25
    with vecidx.ray.serve(manifest, updates=tmp_path / "updates") as index:
        assert_same(index.search(queries, k=8, exact=True), one.search(queries, k=8, exact=True))
        assert index.get([3, 4]).dtype == one.get([3]).dtype
        np.testing.assert_array_equal(index.get([3, 4]), one.get([3, 4]))
        for target in (index, one):
            target.add(rows[:3] + 1, ids=[5000, 5001, 5002])
        assert_same(index.search(queries, k=8, exact=True), one.search(queries, k=8, exact=True))
        if one.dtype in ("int8", "uint8"):   # no shard takes a part where another refuses
            before = len(index)
            with pytest.raises(ValueError, match="vectors: row 1 "):
                index.add(np.stack([rows[0], rows[1] + 0.5]), ids=[6000, 6001])
            assert len(index) == before
    more = vecidx.ray.rebalance(manifest, tmp_path / "three", 3)
    assert more.parameters == manifest.parameters
    np.testing.assert_array_equal(
        np.sort(np.concatenate([vecidx.load(f"{more.url}/{s.file}").ids() for s in more.shards])),
        np.arange(2000))


def test_rows_that_the_dtype_does_not_take_are_named(tmp_path):
    rows = np.zeros((50, 4))
    rows[7, 2] = 0.5
    np.save(tmp_path / "rows.npy", rows)
    with pytest.raises(ValueError, match=r"rows.npy: from row 0 on: vectors: row 7 "):
        vecidx.ray.build(tmp_path / "rows.npy", tmp_path / "out", 2, dtype="int8")
    for words, message in [({"num_threads": 2}, "no argument 'num_threads'"),
                           ({"ids": "str"}, "no argument 'ids'"),
                           ({"tune": 2.5}, "tune: k: expected")]:
        with pytest.raises(TypeError, match=message):
            vecidx.ray.build(tmp_path / "rows.npy", tmp_path / "out", 2, **words)
