"""Random small indexes against a dict and brute force."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

import vecidx  # noqa: E402
from helpers import METRICS, assert_well_formed, exact_distances  # noqa: E402

MODES = ("replace", "error", "skip")


@st.composite
def histories(draw):
    """(dim, metric, M, ef_construction, [(ids or None, rows, mode), ...], k)

    Small whole numbers as coordinates: ties and equal rows are common.
    """
    dim = draw(st.integers(1, 20))
    metric = draw(st.sampled_from(METRICS))
    steps = []
    for _ in range(draw(st.integers(1, 5))):
        n = draw(st.integers(0, 40))
        rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        rows = rng.integers(-3, 4, (n, dim)).astype(np.float32)
        rows[~rows.any(axis=1), 0] = 1                  # no zero vectors, for cosine
        ids = None
        if draw(st.booleans()):
            ids = rng.permutation(draw(st.integers(n, 80)))[:n]
        steps.append((ids, rows, draw(st.sampled_from(MODES))))
    return (dim, metric, draw(st.integers(2, 20)), draw(st.integers(1, 60)), steps,
            draw(st.integers(1, 60)))


def play(index, steps):
    """The steps on the index and on a dict id -> row; the dict."""
    model, highest = {}, -1
    for ids, rows, mode in steps:
        wanted = np.arange(highest + 1, highest + 1 + len(rows)) if ids is None else ids
        there = [int(i) for i in wanted if int(i) in model]
        if mode == "error" and there:
            with pytest.raises(ValueError):
                index.add(rows, ids, on_conflict=mode)
            continue
        used = index.add(rows, ids, on_conflict=mode)
        assert used.tolist() == wanted.tolist()
        for label, row in zip(wanted.tolist(), rows, strict=True):
            if not (mode == "skip" and label in there):
                model[label] = row
            highest = max(highest, label)
    return model


def assert_like_model(index, model, queries, metric, k, **how):
    ids, distances = index.search(queries, k=k, **how)
    assert_well_formed(ids, distances)
    n = min(k, len(model))
    assert (ids[:, :n] >= 0).all() and (ids[:, n:] == -1).all()
    if not model:
        return
    labels = np.array(sorted(model))
    true = exact_distances(queries, np.stack([model[i] for i in labels]), metric)
    place = {label: at for at, label in enumerate(labels.tolist())}
    for row, found in enumerate(ids[:, :n]):
        own = true[row, [place[int(i)] for i in found]]
        np.testing.assert_allclose(distances[row, :n], own, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(np.sort(own), np.sort(true[row])[:n], rtol=1e-5, atol=1e-5)


@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])
@given(histories())
def test_an_index_is_a_dict_that_can_search(history):
    dim, metric, M, ef_construction, steps, k = history
    index = vecidx.Index(dim, metric, M=M, ef_construction=ef_construction)
    model = play(index, steps)

    assert len(index) == len(model)
    assert sorted(index.ids().tolist()) == sorted(model)
    for label in range(-1, 90):
        assert (label in index) == (label in model)
    if model:
        labels = list(model)
        np.testing.assert_allclose(index.get(labels), np.stack([model[i] for i in labels]),
                                   rtol=1e-5)
    assert index.check()["unreachable"] == 0

    queries = np.random.default_rng(0).integers(-3, 4, (5, dim)).astype(np.float32)
    queries[~queries.any(axis=1), 0] = 1
    assert_like_model(index, model, queries, metric, k, exact=True)
    # A pool larger than the index: the walk sees all that can be reached.
    assert_like_model(index, model, queries, metric, k, ef=1000)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(histories())
def test_saving_and_loading_changes_nothing(history):
    dim, metric, M, ef_construction, steps, k = history
    index = vecidx.Index(dim, metric, M=M, ef_construction=ef_construction)
    play(index, steps)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        index.save(path)
        first = path.read_bytes()
        again = vecidx.load(path)
        again.save(path)
        assert path.read_bytes() == first
    queries = np.ones((3, dim)) * [[1], [2], [-1]]
    for one, other in zip(index.search(queries, k=k), again.search(queries, k=k), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(index.ids(), again.ids())
