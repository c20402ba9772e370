"""on_conflict: replace, error, skip."""

import numpy as np
import pytest

import vecidx
from helpers import METRICS, assert_true_distances, assert_well_formed

DIM = 12


@pytest.fixture
def rows(rng):
    return rng.standard_normal((400, DIM)).astype(np.float32)


def test_replace_puts_the_new_vector_in_place(rows):
    index = vecidx.Index(DIM)
    index.add(rows[:200])
    assert index.add(rows[200:250], ids=np.arange(100, 150)).tolist() == list(range(100, 150))
    assert len(index) == 200
    np.testing.assert_array_equal(index.get(np.arange(100, 150)), rows[200:250])
    np.testing.assert_array_equal(index.get(np.arange(100)), rows[:100])
    assert index.stats()["deleted"] in range(0, 51)
    # In the order they were added: the replaced ids come last.
    assert index.ids().tolist() == [*range(100), *range(150, 200), *range(100, 150)]
    index.check()


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("metric", METRICS)
def test_replaced_rows_are_never_returned(rows, metric, exact):
    """Asked for the very vector that was replaced, and for everything."""
    index = vecidx.Index(DIM, metric=metric)
    index.add(rows[:100])
    model = dict(enumerate(rows[:100]))
    for round_ in range(3):
        new = rows[100 * (round_ + 1):100 * (round_ + 2)]
        index.add(new, ids=np.arange(100))
        model.update(enumerate(new))
    for k in (1, 10, 150):
        ids, distances = index.search(rows[:100], k=k, ef=500, exact=exact)
        assert_well_formed(ids, distances)
        assert_true_distances(ids, distances, rows[:100], model, metric)
    assert (ids[:, 100:] == -1).all() and (ids[:, :100] >= 0).all()


def test_one_id_replaced_again_and_again(rows):
    index = vecidx.Index(DIM)
    index.add(rows[:50])
    for row in rows[50:]:
        index.add(row, ids=7)
        ids, distances = index.search(row, k=3)
        assert ids[0] == 7 and distances[0] == 0
    assert len(index) == 50
    ids, _ = index.search(rows[60], k=50, ef=1000)
    assert sorted(ids) == list(range(50))
    index.check()


def test_every_row_replaced_at_once(rows):
    index = vecidx.Index(DIM)
    index.add(rows[:200])
    index.add(rows[200:], ids=np.arange(200))
    assert len(index) == 200
    ids, distances = index.search(rows[200:], k=1, ef=400)
    assert ids[:, 0].tolist() == list(range(200)) and (distances == 0).all()
    index.check()


def test_error_adds_nothing_and_names_the_id(rows):
    index = vecidx.Index(DIM)
    index.add(rows[:100])
    before = index.stats()
    with pytest.raises(ValueError, match="42"):
        index.add(rows[100:103], ids=[500, 42, 501], on_conflict="error")
    assert index.stats() == before and 500 not in index and 501 not in index
    np.testing.assert_array_equal(index.get(42), rows[42])
    assert index.add(rows[100:102], ids=[500, 501], on_conflict="error").tolist() == [500, 501]


def test_skip_keeps_the_old_and_adds_the_rest(rows):
    index = vecidx.Index(DIM)
    index.add(rows[:100])
    used = index.add(rows[100:104], ids=[98, 200, 99, 201], on_conflict="skip")
    assert used.tolist() == [98, 200, 99, 201]
    assert len(index) == 102 and index.stats()["deleted"] == 0
    np.testing.assert_array_equal(index.get([98, 99, 200, 201]), rows[[98, 99, 101, 103]])
    assert index.add(rows[:2], ids=[0, 1], on_conflict="skip").tolist() == [0, 1]
    assert len(index) == 102
    index.check()


@pytest.mark.parametrize("mode", ["replace", "error", "skip"])
def test_without_conflict_the_modes_are_one(rows, mode, tmp_path):
    index, plain = vecidx.Index(DIM), vecidx.Index(DIM)
    index.add(rows, ids=np.arange(1000, 1400), on_conflict=mode)
    plain.add(rows, ids=np.arange(1000, 1400))
    index.save(tmp_path / "a")
    plain.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("mode", ["replace", "error", "skip"])
def test_an_id_twice_in_one_call_is_refused_in_every_mode(rows, mode):
    index = vecidx.Index(DIM)
    index.add(rows[:10])
    with pytest.raises(ValueError, match="20"):
        index.add(rows[:4], ids=[19, 20, 21, 20], on_conflict=mode)
    assert len(index) == 10 and 19 not in index
