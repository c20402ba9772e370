"""merge(): the vectors of another index, under their ids; and reserve()."""

import threading

import numpy as np
import pytest

import vecidx
from helpers import assert_true_distances, assert_well_formed


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((60, 24)) * 2
    return (centres[rng.integers(0, 60, 6000)] + rng.standard_normal((6000, 24))).astype(np.float32)


def index_of(rows, ids, **parameters):
    index = vecidx.Index(24, M=12, ef_construction=80, **parameters)
    index.add(rows, ids=ids)
    return index


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_it_holds_both_and_finds_as_well_as_added(rows, metric, share):
    n = int(6000 * share)
    whole = index_of(rows, np.arange(6000), metric=metric)
    one = index_of(rows[:n], np.arange(n), metric=metric)
    other = index_of(rows[n:], np.arange(n, 6000), metric=metric)
    before = other.stats(), other.ids().tolist()
    assert one.merge(other) is None
    assert (other.stats(), other.ids().tolist()) == before
    assert len(one) == 6000 and sorted(one) == list(range(6000))
    assert one.check()["unreachable"] == 0
    np.testing.assert_allclose(one.get(np.arange(6000)), rows, rtol=1e-5, atol=1e-5)
    queries = rows[::30] + 0.1
    ids, distances = one.search(queries, k=10, ef=40)
    assert_well_formed(ids, distances)
    assert_true_distances(ids, distances, queries, rows, metric)
    kth = whole.search(queries, k=10, exact=True)[1][:, -1:] + 1e-5

    def recall(index):
        return (index.search(queries, k=10, ef=40)[1] <= kth).mean()

    assert recall(one) > recall(whole) - 0.02


@pytest.mark.parametrize("threads", [2, 5])
def test_the_graph_does_not_depend_on_threads(rows, threads):
    def merged(n):
        one = index_of(rows[:2000], np.arange(2000))
        one.merge(index_of(rows[2000:4000], np.arange(2000, 4000)), num_threads=n)
        return one.stats(), one.search(rows[:200], k=10, ef=10)[0].tolist(), one.ids().tolist()

    assert merged(1) == merged(threads)


def test_conflicts(rows):
    def pair():
        return (index_of(rows[:300], np.arange(300)),
                index_of(rows[1000:1300], np.arange(200, 500)))

    one, other = pair()
    with pytest.raises(ValueError, match="which is in the index"):
        one.merge(other, on_conflict="error")
    assert len(one) == 300
    one.merge(other, on_conflict="skip")
    np.testing.assert_array_equal(one.get(np.arange(500)), np.r_[rows[:300], rows[1100:1300]])
    one, other = pair()
    one.merge(other)
    np.testing.assert_array_equal(one.get(np.arange(500)), np.r_[rows[:200], rows[1000:1300]])
    assert one.check()["unreachable"] == 0
    assert one.add(rows[0]).tolist() == [500]


def test_other_graphs_will_do(rows):
    """Of another M, with deleted vectors, repeated ones, free places; or empty."""
    other = vecidx.Index(24, M=40, ef_construction=20, seed=5)
    other.add(np.repeat(rows[:500], 3, axis=0))
    other.delete(np.arange(0, 1500, 4))
    other.add(rows[600:700], ids=np.arange(5000, 5100))
    other.delete([1, 2, 3])
    one = vecidx.Index(24, M=3, ef_construction=20)
    one.merge(other)
    assert sorted(one) == sorted(other) and one.check()["unreachable"] == 0
    np.testing.assert_array_equal(one.get(other.ids()), other.get(other.ids()))
    one.merge(vecidx.Index(24))
    empty = vecidx.Index(24)
    empty.merge(vecidx.Index(24))
    assert len(empty) == 0
    one.merge(other, on_conflict="skip")
    assert len(one) == len(other)


def test_bad_arguments(rows):
    index = index_of(rows[:10], np.arange(10))
    with pytest.raises(ValueError, match="itself"):
        index.merge(index)
    with pytest.raises(ValueError, match="dim 24"):
        index.merge(vecidx.Index(25))
    with pytest.raises(ValueError, match="metric"):
        index.merge(vecidx.Index(24, metric="ip"))
    with pytest.raises(TypeError, match=r"vecidx\.Index"):
        index.merge(rows)
    with pytest.raises(ValueError, match="on_conflict"):
        index.merge(vecidx.Index(24), on_conflict="never")
    with pytest.raises(TypeError, match="progress"):
        index.merge(vecidx.Index(24), progress=3)
    assert len(index) == 10


def test_progress_and_what_stops_it(rows):
    one, other = index_of(rows[:100], np.arange(100)), index_of(rows[100:], np.arange(100, 6000))
    told = []
    one.merge(other, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (5900, 5900) and told == sorted(told)

    def stop(done, total):
        raise RuntimeError("enough")

    fresh = vecidx.Index(24, M=12, ef_construction=400)
    with pytest.raises(RuntimeError, match="enough") as caught:
        fresh.merge(other, progress=stop, num_threads=1)
    assert caught.value.rows_added == len(fresh) <= 5900
    assert fresh.check()["unreachable"] == 0
    fresh.merge(other, on_conflict="skip")
    assert sorted(fresh) == sorted(other)


def test_merging_each_into_the_other_at_once(rows):
    """Neither waits for the other's writer."""
    one = index_of(rows[:3000], np.arange(3000))
    other = index_of(rows[3000:], np.arange(3000, 6000))
    threads = [threading.Thread(target=a.merge, args=(b,), kwargs={"on_conflict": "skip"})
               for a, b in ((one, other), (other, one))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in (one, other):
        assert sorted(index) == list(range(6000)) and index.check()["unreachable"] == 0


def test_into_a_durable_index(rows, tmp_path):
    other = index_of(rows[:500], np.arange(500))
    with vecidx.open(tmp_path / "index", 24, "l2") as index:
        index.add(rows[500], ids=[900])
        index.merge(other)
        index.close(checkpoint=False)
    with vecidx.open(tmp_path / "index") as index:
        assert sorted(index) == [*range(500), 900]
        np.testing.assert_array_equal(index.get(np.arange(500)), rows[:500])


def test_reserve(rows):
    index = vecidx.Index(24)
    index.reserve(5000)
    index.add(rows[:100], ids=np.arange(100)[::-1])
    index.reserve(200_000)                        # beyond what a small index has addresses for
    index.reserve(10)
    assert len(index) == 100 and index.check()["unreachable"] == 0
    index.add(rows)
    assert len(index) == 6100
    for bad in (-1, 2**31, 1.5, "many"):
        with pytest.raises((ValueError, TypeError)):
            index.reserve(bad)
    with pytest.raises(MemoryError):
        vecidx.Index(65_536).reserve(2**31 - 2)
