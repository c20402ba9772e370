"""The same data gives the same bytes, whatever the number of threads."""

import numpy as np
import pytest

import vecidx
from helpers import METRICS, assert_same


def build(rows, tmp_path, *, threads, metric="l2", seed=0, capacity=0, cuts=(2500,)):
    """Bytes of an index built by some adds and a replacement, and the index."""
    index = vecidx.Index(rows.shape[1], metric=metric, num_threads=threads, seed=seed,
                         capacity=capacity)
    for part in np.split(rows, cuts):
        index.add(part)
    index.add(rows[:150] * 0.5 + rows[150:300] * 0.5, ids=np.arange(1000, 1150))
    path = tmp_path / f"{metric}-{threads}-{seed}-{capacity}.vidx"
    index.save(path)
    return path.read_bytes(), index


@pytest.mark.parametrize("metric", METRICS)
def test_files_are_equal_for_any_number_of_threads(sample, tmp_path, metric):
    rows = sample.rows[:3500, :96]
    one, index = build(rows, tmp_path, threads=1, metric=metric)
    expected = index.search(sample.queries[:, :96], k=10)
    for threads in (2, 3, 8):
        other, index = build(rows, tmp_path, threads=threads, metric=metric)
        assert one == other, f"{threads} threads gave another file than one"
        assert_same(expected, index.search(sample.queries[:, :96], k=10))


def test_files_are_equal_with_equal_rows_and_ties(tmp_path):
    """Ties are where the order in which threads finish would show."""
    rows = np.random.default_rng(0).integers(0, 3, (3000, 6)).astype(np.float32)
    files = {build(rows, tmp_path, threads=threads)[0] for threads in (1, 2, 3, 8)}
    assert len(files) == 1


def test_capacity_is_a_hint_only(sample, tmp_path):
    rows = sample.rows[:1500, :64]
    none, _ = build(rows, tmp_path, threads=2, cuts=(700,))
    much, _ = build(rows, tmp_path, threads=2, cuts=(700,), capacity=100_000)
    assert none == much


def test_the_seed_matters(sample, tmp_path):
    rows = sample.rows[:1500, :64]
    assert build(rows, tmp_path, threads=2, seed=1)[0] != build(rows, tmp_path, threads=2,
                                                               seed=2)[0]


def test_a_loaded_index_goes_on_as_the_original(sample, tmp_path):
    """save, load, add equals add: nothing that the build needs is lost in the file."""
    rows = sample.rows[:2500, :64]
    index = vecidx.Index(64)
    index.add(rows[:1500])
    index.save(tmp_path / "half")
    again = vecidx.load(tmp_path / "half")
    for each, name in ((index, "a"), (again, "b")):
        each.add(rows[1500:])
        each.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
