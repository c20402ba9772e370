"""tune, recall, search(recall=...): what is promised is what is found, and the file has it."""

import warnings

import format_reader
import numpy as np
import pytest

import vecidx
from vecidx import _tune

N, DIM, K = 10_200, 24, 10


def clustered(rng, n):
    """Rows in which a search at ef=10 misses something."""
    centers = np.random.default_rng(5).standard_normal((60, DIM)) * 0.7
    return (centers[rng.integers(0, 60, n)] + rng.standard_normal((n, DIM))).astype(np.float32)


@pytest.fixture(scope="module", params=[None, "sq8", "auto"])
def built(request):
    rng = np.random.default_rng(11)
    index = vecidx.Index(DIM, M=6, ef_construction=40, quantization=request.param)
    index.add(clustered(rng, N))
    return index, clustered(rng, 1_000)


def test_a_promised_recall_is_met_on_unseen_queries(built):
    """Rows of the index stand for queries, and what holds for them holds for others."""
    index, queries = built
    index.tune(k=K)
    _, truth = index.search(queries, K, exact=True)
    for want in (0.9, 0.95, 0.98):
        _, found = index.search(queries, K, recall=want)
        got = _tune.shares_found(found, truth).mean()
        floor = _tune.shares_found(index.search(queries, K, ef=K)[1], truth).mean()
        assert want - 0.01 <= got <= max(want + 0.02, floor), (want, got, floor)


def test_given_queries_are_what_the_curve_holds_for(built):
    index, queries = built
    far = queries * 3                       # of another kind than the rows
    index.tune(far, k=5)
    _, truth = index.search(far, 5, exact=True)
    found = index.search(far, 5, recall=0.9)[1]
    assert _tune.shares_found(found, truth).mean() >= 0.9
    assert index.tuned[5]["queries"] == len(far)


def test_the_curve_rises_and_each_k_has_its_own(built):
    index, _ = built
    tuned = index.tune(k=[3, 20])
    assert {3, 20} <= set(tuned)
    for k in (3, 20):
        assert tuned[k]["ef"][0] == k and tuned[k]["rows"] == N
        assert tuned[k]["ef"] == sorted(set(tuned[k]["ef"]))
        assert tuned[k]["recall"][-1] > 0.97


def test_recall_has_an_interval_that_holds_the_truth(built):
    index, queries = built
    got = index.recall(queries, K, ef=12)
    _, truth = index.search(queries, K, exact=True)
    _, found = index.search(queries, K, ef=12)
    assert got.value == pytest.approx(_tune.shares_found(found, truth).mean())
    assert got.low <= got.value <= got.high and got.queries == len(queries)
    few = index.recall(queries[:50], K, ef=12)
    assert few.high - few.low > got.high - got.low
    perfect = index.recall(queries[:50], K, ef=N)
    assert perfect.value == perfect.high == 1 and perfect.low < 1


def test_an_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(3)
    covered = sum(
        low <= 0.95 <= high
        for _, low, high, _ in (_tune.interval(rng.binomial(10, 0.95, 300) / 10)
                                for _ in range(400)))
    assert 0.92 <= covered / 400 <= 0.98


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_small_indexes_and_every_metric(metric, rng):
    index = vecidx.Index(8, metric)
    index.add(rng.standard_normal((50, 8)))
    index.tune(k=3)
    ids, _ = index.search(rng.standard_normal((4, 8)), 3, recall=0.99)
    assert ids.shape == (4, 3) and (ids >= 0).all()
    assert index.recall(rng.standard_normal((4, 8)), 60).value == 1      # fewer than k rows


def test_what_no_ef_reached_is_exact(rng):
    index = vecidx.Index(8)
    index.add(rng.standard_normal((300, 8)))
    index._tuned.put([_tune.Curve(2, 300, 10, np.array([2], np.uint32),
                                  np.array([0.5], np.float32), np.array([0.01], np.float32))])
    assert index._tuned.effort(0.99, 2, None, False) == (None, True)
    assert index._tuned.effort(0.4, 2, None, False) == (2, False)
    assert index._tuned.effort(1, 7, None, False) == (None, True)        # needs no curve


def test_between_two_points_a_power_law(rng):
    curve = _tune.Curve(10, 100, 100, np.array([10, 40], np.uint32),
                        np.array([0.9, 0.99]), np.zeros(2))
    assert curve.ef_for(0.9) == 10 and curve.ef_for(0.99) in (40, 41)
    assert 18 <= curve.ef_for(0.9683) <= 22                              # half way in logarithms
    assert curve.ef_for(0.995) is None


def test_wrong_calls_are_refused_in_words(rng):
    index = vecidx.Index(4)
    with pytest.raises(ValueError, match="the index is empty"):
        index.tune()
    index.add(rng.standard_normal((20, 4)))
    query = np.zeros(4, np.float32)
    with pytest.raises(ValueError, match=r"no curve for k=3 .*index.tune\(k=3\)"):
        index.search(query, 3, recall=0.9)
    with pytest.raises(ValueError, match="give one of them"):
        index.search(query, 3, recall=0.9, ef=10)
    for bad, kind in ((0, ValueError), (1.5, ValueError), (float("nan"), ValueError),
                      ("0.9", TypeError), (True, TypeError)):
        with pytest.raises(kind, match="recall: expected"):
            index.search(query, 3, recall=bad)
    with pytest.raises(ValueError, match="at least 1"):
        index.tune(np.empty((0, 4)))
    with pytest.raises(ValueError, match="at least 1"):
        index.recall(np.empty((0, 4)))
    same = vecidx.Index(4)
    same.add(np.ones((5, 4)))
    with pytest.raises(ValueError, match="no vector of the index can stand"):
        same.tune()


def test_it_warns_once_when_the_index_has_grown(rng):
    index = vecidx.Index(4)
    index.add(rng.standard_normal((100, 4)))
    index.tune(k=2)
    query = np.zeros(4, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        index.add(rng.standard_normal((25, 4)))
        index.search(query, 2, recall=0.9)
    index.add(rng.standard_normal((1, 4)))
    with pytest.warns(UserWarning, match="call index.tune") as caught:
        index.search(query, 2, recall=0.9)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        index.search(query, 2, recall=0.9)


# ---- the file --------------------------------------------------------------------


def test_the_curve_lives_in_the_file(tmp_path, rng):
    index = vecidx.Index(6)
    index.add(rng.standard_normal((400, 6)))
    index.tune(k=(2, 5))
    path = tmp_path / "a.vidx"
    index.save(path)
    section = vecidx.inspect(path)["sections"]["tuned"]
    assert section["kind"] == 19 and not section["required"]
    for other in (vecidx.load(path), vecidx.load(path, mmap=True, verify=True),
                  vecidx.load(path, mmap="vectors"), vecidx.from_bytes(index.to_bytes())):
        assert other.tuned == index.tuned
        assert other.to_bytes() == index.to_bytes()
    curves = format_reader.File(path.read_bytes()).tuned()
    assert {k: (rows, [ef for ef, _, _ in points]) for k, (rows, _, points) in curves.items()} == \
        {k: (400, value["ef"]) for k, value in index.tuned.items()}
    mapped = vecidx.load(path, mmap=True)
    mapped.tune(k=7)                         # is no change of the index
    assert set(mapped.tuned) == {2, 5, 7}
    index.compact()
    index.delete(index.ids()[:100])
    index.compact()
    assert set(index.tuned) == {2, 5}


def test_an_index_with_a_log_keeps_it_at_a_checkpoint(tmp_path, rng):
    with vecidx.open(tmp_path / "a.vidx", dim=4, metric="l2") as index:
        index.add(rng.standard_normal((60, 4)))
        index.tune(k=2)
        index.search(np.zeros(4, np.float32), 2, recall=0.9)
    with vecidx.open(tmp_path / "a.vidx") as index:
        assert set(index.tuned) == {2}


def test_a_forged_curve_is_refused():
    """The bytes may say anything, with a sound checksum."""
    good = _tune.pack({2: _tune.Curve(2, 10, 5, np.array([2, 4], np.uint32),
                                      np.array([0.5, 1], np.float32),
                                      np.array([0.1, 0], np.float32))})
    assert list(_tune.unpack(good)) == [2]
    assert _tune.unpack(b"") == {}
    for bad in (good[:-1], good[:10], good + b"\0", good + good,
                b"\0" * 4 + good[4:], good[:4] + b"\xff" * 4 + good[8:],
                good[:24] + b"\1\0\0\0" + good[28:],            # ef below k
                good[:40] + b"\2\0\0\0" + good[44:],            # ef does not rise
                good[:28] + b"\0\0\xc0\x7f" + good[32:]):       # NaN
        with pytest.raises(vecidx.IndexFormatError, match="section 'tuned'"):
            _tune.unpack(bad)


def test_limits_hold_for_searches_by_id_and_diverse_ones(rng):
    """filter= and max_distance= used to be dropped where ids= or diverse= was given."""
    index = vecidx.Index(4)
    rows = rng.standard_normal((300, 4)).astype(np.float32)
    index.add(rows)
    odd = range(1, 300, 2)
    for how in ({"ids": [4, 5]}, {"queries": rows[4:6], "diverse": 0.4}):
        found, distances = index.search(k=8, filter=odd, max_distance=1.0, **how)
        there = found >= 0
        assert there.any() and (found[there] % 2 == 1).all() and (distances[there] <= 1.0).all()
    each = index.search(ids=[4, 5], k=3, filter=[odd, range(0, 300, 2)])[0]
    assert (each[0] % 2 == 1).all() and (each[1] % 2 == 0).all()


def test_knn_graph_of_a_recall(rng):
    index = vecidx.Index(16)
    index.add(rng.standard_normal((2000, 16)))
    with pytest.raises(ValueError, match="no curve for k=5"):
        index.knn_graph(5, recall=0.9)
    index.tune(k=5)
    _, exact, _ = index.knn_graph(5, recall=1.0)
    _, found, _ = index.knn_graph(5, recall=0.97)
    assert (found == exact).mean() > 0.95
    with pytest.raises(ValueError, match="give one of them"):
        index.knn_graph(5, ef=9, recall=0.9)
