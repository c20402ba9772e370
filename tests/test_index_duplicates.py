"""Thousands of equal rows must not eat the graph."""

import numpy as np
import pytest

import vecidx
from helpers import assert_true_distances, assert_well_formed

DIM, N = 24, 2500


@pytest.fixture(scope="module", params=["one value", "ten values", "first", "last"])
def crowded(request):
    """(rows, which are the equal ones, index): N equal rows among N others."""
    rng = np.random.default_rng(8)
    others = rng.standard_normal((N, DIM)).astype(np.float32)
    n_values = 10 if request.param == "ten values" else 1
    values = rng.standard_normal((n_values, DIM)).astype(np.float32)
    equal = values[np.arange(N) % n_values]
    if request.param == "first":
        rows, is_equal = np.concatenate([equal, others]), np.arange(2 * N) < N
    elif request.param == "last":
        rows, is_equal = np.concatenate([others, equal]), np.arange(2 * N) >= N
    else:
        order = rng.permutation(2 * N)
        rows, is_equal = np.concatenate([equal, others])[order], (order < N)
    index = vecidx.Index(DIM)
    index.add(rows)
    return rows, is_equal, index


def test_every_other_row_is_still_found(crowded):
    rows, is_equal, index = crowded
    wanted = np.flatnonzero(~is_equal)
    ids, distances = index.search(rows[wanted], k=1, ef=100)
    lost = wanted[ids[:, 0] != wanted]
    assert len(lost) <= N // 1000, f"{len(lost)} of {N} rows not found, e.g. {lost[:5]}"


def test_results_beside_the_crowd_are_valid(crowded):
    rows, is_equal, index = crowded
    queries = rows[np.flatnonzero(is_equal)[:3]]
    ids, distances = index.search(queries, k=50, ef=100)
    assert_well_formed(ids, distances)
    assert_true_distances(ids, distances, queries, rows, "l2")
    assert (distances == 0).all() and is_equal[ids].all()


def test_neighbours_past_the_crowd_are_found(crowded):
    """A query near the equal rows, and k beyond their number."""
    rows, is_equal, index = crowded
    query = rows[np.flatnonzero(is_equal)[0]]
    k = N + 100
    ids, distances = index.search(query, k=k, ef=2 * N + 10)
    _, true = index.search(query, k=k, exact=True)
    assert_well_formed(ids, distances)
    assert (distances <= true[-1]).mean() >= 0.99


def test_every_row_is_reachable(crowded):
    _, _, index = crowded
    assert index.check()["unreachable"] == 0


def test_nothing_but_equal_rows():
    index = vecidx.Index(4)
    index.add(np.ones((3000, 4)))
    ids, distances = index.search([1, 1, 1, 1], k=20)
    assert_well_formed(ids, distances)
    assert (distances == 0).all()
    ids, _ = index.search([1, 1, 1, 1], k=3000, ef=3000)
    assert sorted(ids) == list(range(3000))
    assert index.check()["unreachable"] == 0
