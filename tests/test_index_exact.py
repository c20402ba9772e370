"""The graph's answers against the true ones: on the sample, and on large sets."""

import os

import numpy as np
import pytest

import vecidx
from helpers import METRICS, assert_true_distances, assert_well_formed, exact_kth, recall
from vecidx import _core
from vecidx.readers import open_vectors

K = 10
N_ROWS = 5000


@pytest.fixture(scope="module", params=METRICS)
def built(request, sample):
    """(metric, rows, queries, index, true k-th distances) over a part of the sample."""
    metric = request.param
    # Rows of many lengths, so that "ip" and "cosine" differ.
    lengths = np.random.default_rng(2).uniform(0.5, 2, (N_ROWS, 1)).astype(np.float32)
    rows = sample.rows[:N_ROWS] * lengths
    index = vecidx.Index(rows.shape[1], metric=metric)
    index.add(rows)
    return metric, rows, sample.queries, index, exact_kth(sample.queries, rows, metric, K)


def test_exact_search_equals_the_oracle(built):
    metric, rows, queries, index, kth = built
    ids, distances = index.search(queries, k=K, exact=True)
    assert_well_formed(ids, distances)
    assert_true_distances(ids, distances, queries, rows, metric)
    assert recall(distances, kth) == 1.0
    np.testing.assert_allclose(distances[:, -1], kth, rtol=1e-4, atol=1e-5)


def test_the_walk_finds_what_exact_search_finds(built):
    metric, rows, queries, index, kth = built
    # The walk was used: with the smallest pool it misses something, as no scan would.
    ids, distances = index.search(queries, k=1, ef=1)
    assert recall(distances, exact_kth(queries, rows, metric, 1)) < 1.0
    floors = {16: 0.75, 64: 0.93, 200: 0.985}
    last = 0.0
    for ef, floor in floors.items():
        ids, distances = index.search(queries, k=K, ef=ef)
        assert_well_formed(ids, distances)
        assert_true_distances(ids, distances, queries, rows, metric)
        share = recall(distances, kth)
        assert share >= floor, f"{metric} ef={ef}: recall@{K} {share:.4f} below {floor}"
        assert share >= last - 0.002
        last = share


def test_the_default_ef_is_good_on_all_of_the_sample(sample, sample_index):
    kth = exact_kth(sample.queries, sample.rows, "cosine", K)
    assert recall(sample_index.search(sample.queries, k=K)[1], kth) >= 0.95


def test_every_row_finds_itself(sample, sample_index):
    ids, distances = sample_index.search(sample.rows[::4], k=1, ef=50)
    found = (ids[:, 0] == np.arange(0, len(sample.rows), 4)) | (distances[:, 0] < 1e-6)
    assert found.mean() >= 0.998


def test_the_graph_is_sound(sample_index):
    assert sample_index.check()["unreachable"] == 0
    out = np.empty(64, np.int64)
    n, chosen = _core.CoreIndex.test_links(sample_index._core, 17, out)
    assert 0 < chosen <= n <= 32
    assert 17 not in out[:n] and len(set(out[:n].tolist())) == n


FLOORS = {          # recall@10 at ef=100, M=16, ef_construction=200
    "wordnet-minilm-117k-384-angular": 0.93,
    "sift-photos-200k-128-euclidean": 0.95,
    "text-static-50k-768-angular": 0.93,
}
MAX_LARGE_ROWS = int(os.environ.get("VECIDX_TEST_LARGE_ROWS", "50000"))


@pytest.mark.skipif(vecidx.simd_level() != _core.simd_available()[-1],
                    reason="large sets are for the best level of this CPU")
def test_recall_on_large_sets(large_sets):
    """The first rows of each set, against exact search over the same rows."""
    for path in large_sets:
        with open_vectors(path) as file:
            rows = file.read(0, MAX_LARGE_ROWS)
            queries = file.queries[:300]
            metric = file.metric or "l2"
        index = vecidx.Index(rows.shape[1], metric=metric)
        index.add(rows)
        kth = exact_kth(queries, rows, metric, K)
        assert recall(index.search(queries, k=K, exact=True)[1], kth) == 1.0, path.name
        share = recall(index.search(queries, k=K, ef=100)[1], kth)
        floor = FLOORS.get(path.stem, 0.8)
        assert share >= floor, f"{path.name}: recall@{K} {share:.4f} below {floor} at ef=100"
        assert index.check()["unreachable"] == 0


@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_inner_products_of_rows_that_differ_in_length(sigma):
    """A few long rows answer every query; the many short ones must not bar the way to them."""
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((8_000, 32)).astype(np.float32)
    rows *= rng.lognormal(0, sigma, (len(rows), 1)).astype(np.float32)
    queries = rng.standard_normal((100, 32)).astype(np.float32)
    index = vecidx.Index(32, metric="ip")
    index.add(rows[:6_000])
    index.add(rows[6_000:])
    kth = exact_kth(queries, rows, "ip", K)
    assert recall(index.search(queries, K, ef=40)[1], kth) >= 0.95
    assert index.check() == {"unreachable": 0}
    index.delete(np.argsort(np.linalg.norm(rows, axis=1))[-200:])
    assert index.check() == {"unreachable": 0}


@pytest.mark.parametrize("chunk", [2_000, 10_000])
def test_groups_far_apart(chunk):
    """Rows of a batch far from the graph chose one another only, and each batch was an island:
    recall 0.90 of the second group."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((60, 48))

    def group(n, shift):
        return (centres[rng.integers(0, 60, n)] + 0.4 * rng.standard_normal((n, 48))
                + shift).astype(np.float32)

    index = vecidx.Index(48, M=12, ef_construction=60, quantization=None)
    for shift in (0, 10):
        for rows in np.split(group(10_000, shift), range(chunk, 10_000, chunk)):
            index.add(rows)
    assert index.check() == {"unreachable": 0}
    for shift in (0, 10):
        queries = group(200, shift)
        kth = index.search(queries, 10, exact=True)[1][:, 9]
        assert recall(index.search(queries, 10, ef=80)[1], kth) > 0.985


def test_small_adds_by_inner_products_cut_nothing_off(rng):
    """The longest rows are near all others, and few of those keep a link from them."""
    rows = rng.integers(0, 256, (800, 33))
    index = vecidx.Index(33, "ip", dtype="uint8", M=8, ef_construction=40)
    index.add(rows[:600])
    for at in range(600, 800, 2):
        index.add(rows[at:at + 2])
        assert index.check() == {"unreachable": 0}
