"""Indexes of packed bits, by Hamming and Jaccard distance: what they take, keep, find, refuse."""

import copy
import pickle
import struct

import numpy as np
import pytest
from format_reader import crc32c
from test_dist_bits import exact

import vecidx
from helpers import assert_same, assert_well_formed, run_python
from vecidx import _core

METRICS = ("hamming", "jaccard")
LEVELS = _core.simd_available()


def clustered(rng, n, dim, *, flips=0.15):
    """Booleans: rows of some centres, a share of the bits flipped."""
    centres = np.random.default_rng(dim).random((30, dim)) < 0.4
    return centres[rng.integers(0, 30, n)] ^ (rng.random((n, dim)) < flips)


def pack(rows):
    return np.packbits(rows, axis=-1)


def all_distances(queries, rows, metric):
    return np.stack([exact(query, rows, metric) for query in np.atleast_2d(queries)])


def filled(metric="hamming", n=600, dim=133, seed=0, **options):
    rows = clustered(np.random.default_rng(seed), n, dim)
    options.setdefault("ef_construction", 60)
    options.setdefault("M", 8)
    index = vecidx.Index(dim, metric, **options)
    index.add(pack(rows))
    return index, rows


def wanted(queries, rows, metric, k, ids=None):
    """(ids, distances) by rising distance, ties by id."""
    every = all_distances(queries, rows, metric)
    ids = np.arange(len(rows)) if ids is None else ids
    order = np.stack([np.lexsort((ids, row)) for row in every])[:, :k]
    return ids[order], np.take_along_axis(every, order, axis=1)


# ---- what is taken, kept and refused --------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_the_dtype_is_bits(metric):
    index, rows = filled(metric)
    assert index.dtype == "bits" and index.dim == 133 and index.metric == metric
    assert "x 133 bits, " in repr(index) and index.quantization is None
    assert vecidx.Index(8, metric, dtype="bits").dtype == "bits"
    assert vecidx.Index(8).dtype == np.float32
    got = index.get(np.arange(600))
    assert got.dtype == np.uint8 and got.shape == (600, 17)
    np.testing.assert_array_equal(got, pack(rows))
    assert index.get(5).shape == (17,)
    assert index.memory()["vectors"] >= 600 * 64 and index.check() == {"unreachable": 0}


def test_what_does_not_go_together_is_refused():
    for options, says in (
            ({"metric": "hamming", "dtype": "float32"}, '"bits".*numpy.packbits'),
            ({"metric": "jaccard", "dtype": np.uint8}, "'jaccard' is of packed bits, got 'uint8'"),
            ({"metric": "l2", "dtype": "bits"}, '"hamming" or "jaccard"'),
            ({"metric": "hamming", "quantization": "sq8"}, "quantization: expected None"),
            ({"metric": "jaccard", "quantization": "sq4"}, "as bits are as short"),
            ({"metric": "hamming", "dim": 0}, "dim"), ({"metric": "hamming", "dim": 65_537}, "dim"),
            ({"metric": "hamming", "dtype": "bit"}, "'bits'")):
        with pytest.raises(ValueError, match=says):
            vecidx.Index(**{"dim": 64, **options})


@pytest.mark.parametrize("bad, error, says", [
    (np.zeros((3, 133), np.uint8), ValueError, r"\(n, 17\) for 133 bits.*packbits.*\(3, 133\)"),
    (np.zeros((3, 17), np.float32), TypeError, r"uint8 of shape \(n, 17\).*float32"),
    (np.zeros((3, 133), bool), TypeError, "packbits.*got dtype bool"),
    (np.zeros((3, 17), np.int8), TypeError, "got dtype int8"),
    (np.zeros((2, 3, 17), np.uint8), ValueError, r"got shape \(2, 3, 17\)"),
    (np.zeros((), np.uint8), ValueError, r"got shape \(\)"),
    ([[0] * 17], TypeError, "got dtype int64"),
])
def test_arrays_that_are_no_packed_bits_are_refused(bad, error, says):
    index, _ = filled(n=20)
    before = index.to_bytes()
    with pytest.raises(error, match="vectors: .*" + says):
        index.add(bad)
    for ask in (index.search, lambda q: index.range_search(q, 3),
                lambda q: index.search(q, filter=range(3))):
        with pytest.raises(error, match="queries: .*" + says):
            ask(bad)
    assert index.to_bytes() == before


@pytest.mark.parametrize("dim", [1, 7, 9, 133, 511])
def test_bits_behind_the_last_are_refused(dim):
    """With their row, by every way in; the last bit itself is fine."""
    index = vecidx.Index(dim, "hamming")
    rows = np.zeros((9, (dim + 7) // 8), np.uint8)
    rows[:, -1] = 1 << -dim % 8
    index.add(rows)
    before = index.to_bytes()
    for bit in range(-dim % 8):
        bad = rows.copy()
        bad[4, -1] |= 1 << bit
        with pytest.raises(ValueError, match="vectors: row 4 .*last of dim bits.*numpy.packbits"):
            index.add(bad)
        for ask in (index.search, lambda q: index.search(q, exact=True),
                    lambda q: index.range_search(q, 3), lambda q: index.search(q, filter=[1])):
            with pytest.raises(ValueError, match="queries: row 4 "):
                ask(bad)
        with pytest.raises(ValueError, match="queries: row 0 "):
            index.search(bad[4])
    assert index.to_bytes() == before


def test_arrays_in_any_order_and_no_rows():
    index, rows = filled(n=100)
    other = vecidx.Index(133, "hamming", M=8, ef_construction=60)
    wide = np.zeros((200, 34), np.uint8)
    wide[::2, ::2] = pack(rows)
    other.add(wide[::2, ::2])
    assert other.to_bytes() == index.to_bytes()
    assert_same(index.search(wide[::2, ::2][:9], 3), index.search(pack(rows[:9]), 3))
    other.add([])
    other.add(np.empty((0, 17), np.uint8))
    assert len(other) == 100 and index.search([], 3)[0].shape == (0, 3)
    one = vecidx.Index(133, "hamming")
    one.add(pack(rows[0]))
    assert one.search(pack(rows[0]), 1)[0] == [0]


def test_stores_take_numbers_only(tmp_path):
    """The same holds for shards, which check their parameters by the same template."""
    from vecidx.stores import Store

    with pytest.raises(ValueError, match="store's vectors are of numbers.*'hamming'"):
        Store(tmp_path / "x", metric="hamming")
    assert not (tmp_path / "x").exists()


# ---- what is found --------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 3, 8, 63, 64, 65, 511, 512, 513, 1024, 2047])
@pytest.mark.parametrize("metric", METRICS)
def test_exact_search(metric, dim, rng):
    """Distances to the bit, and the ids: one by one, in batches, by two threads."""
    rows = clustered(rng, 200, dim)
    rows[7] = rows[8] = False
    index = vecidx.Index(dim, metric)
    index.add(pack(rows))
    queries = np.concatenate([rows[:12], rng.random((8, dim)) < 0.3])
    want = wanted(queries, rows, metric, 10)
    assert_same(index.search(pack(queries), 10, exact=True), want)
    assert_same(index.search(pack(queries), 10, exact=True, num_threads=2), want)
    one = index.search(pack(queries[15]), 10, exact=True)
    assert_same(one, (want[0][15], want[1][15]))
    assert_same(index.search(pack(queries), 10, ef=200), want)       # a walk that cannot miss


@pytest.mark.parametrize("metric", METRICS)
def test_the_walk_finds(metric, rng):
    rows = clustered(rng, 6_000, 256)
    queries = clustered(rng, 100, 256)
    index = vecidx.Index(256, metric, M=12, ef_construction=100)
    index.add(pack(rows[:3_000]))
    index.add(pack(rows[3_000:]), num_threads=2)
    assert index.check() == {"unreachable": 0}
    kth = wanted(queries, rows, metric, 10)[1][:, -1:]
    ids, distances = index.search(pack(queries), 10, ef=200)
    assert_well_formed(ids, distances)
    assert (distances <= kth).mean() > 0.9
    every = all_distances(queries, rows, metric)
    np.testing.assert_array_equal(distances, np.take_along_axis(every, ids, axis=1))
    assert_same(index.search(pack(queries), 10, ef=200, num_threads=2), (ids, distances))
    for i in (3, 50):
        assert_same(index.search(pack(queries[i]), 10, ef=200), (ids[i], distances[i]))
    found = index.recall(pack(queries), 10, ef=200)
    assert found.value > 0.9 and found.queries == 100


def test_an_index_of_bits_is_the_same_at_every_level():
    code = (
        "import hashlib, sys, numpy as np, vecidx\n"
        "rows = np.packbits(np.random.default_rng(1).random((1500, 200)) < 0.3, axis=1)\n"
        "for metric in ('hamming', 'jaccard'):\n"
        "    index = vecidx.Index(200, metric, M=8, ef_construction=40)\n"
        "    index.add(rows)\n"
        "    print(hashlib.sha256(index.to_bytes()).hexdigest())\n")
    results = set()
    for level in LEVELS:
        status, out, err = run_python(code, env={"VECIDX_SIMD": level})
        assert status == 0, err
        results.add(out)
    assert len(results) == 1


@pytest.mark.parametrize("metric", METRICS)
def test_filters_and_ranges(metric, rng):
    index, rows = filled(metric, n=2_000)
    queries = clustered(rng, 30, 133)
    for allowed in (rng.choice(2_000, 7, replace=False), np.arange(0, 2_000, 3),
                    np.arange(100, 1_900)):
        want = wanted(queries, rows[np.sort(allowed)], metric, 5, np.sort(allowed))
        assert_same(index.search(pack(queries), 5, filter=allowed, exact=True), want)
        ids, distances = index.search(pack(queries), 5, filter=allowed, ef=150)
        assert np.isin(ids, allowed).all() and (distances <= want[1][:, -1:]).mean() > 0.9
    every = all_distances(queries, rows, metric)
    radius = float(np.sort(every, axis=1)[:, 40].mean())
    radius = float(np.floor(radius)) if metric == "hamming" else radius
    lims, ids, distances = index.range_search(pack(queries), radius, exact=True)
    for i in range(len(queries)):
        part = slice(lims[i], lims[i + 1])
        assert set(ids[part]) == set(np.flatnonzero(every[i] <= radius))
        np.testing.assert_array_equal(distances[part], every[i][ids[part]])
    walked = index.range_search(pack(queries), radius, ef=150)
    assert walked[0][-1] > 0.9 * lims[-1]
    limited = index.search(pack(queries), 50, max_distance=radius)
    assert (limited[1][limited[0] >= 0] <= radius).all()


@pytest.mark.parametrize("metric", METRICS)
def test_other_ways_to_ask(metric, rng):
    index, rows = filled(metric, n=1_500)
    query = pack(rows[3] ^ (rng.random(133) < 0.1))
    given = [(ids, distances) for ids, distances in index.iterate(query, batch=200, exact=True)]
    want = wanted(np.unpackbits(query)[None, :133].astype(bool), rows, metric, 1_500)
    got = [np.concatenate(part) for part in zip(*given, strict=True)]
    assert_same(got, (want[0][0], want[1][0]))
    ids, neighbours, distances = index.knn_graph(5, ef=60)
    np.testing.assert_array_equal(ids, np.arange(1_500))
    near = wanted(rows, rows, metric, 6)[1][:, -1:]
    assert (distances <= near).mean() > 0.95 and (neighbours != ids[:, None]).all()
    found, _ = index.search(ids=[5, 9], k=4)
    assert found.shape == (2, 4) and 5 not in found[0] and 9 not in found[1]
    tuned = index.tune(k=5)
    assert tuned[5]["recall"][-1] > 0.9 and tuned[5]["queries"] > 100
    assert index.tune(pack(rows[:50]), k=3)[3]["queries"] == 50
    index.search(query, 5, recall=0.8)
    # Results that differ: the first is the nearest, the next the best of what is left.
    plain, far = index.search(query, 60, ef=200)
    chosen, _ = index.search(query, 3, diverse=0.7, ef=200)
    assert chosen[0] == plain[0]
    apart = all_distances(rows[chosen[0]][None], rows[plain[:50]], metric)[0].astype(np.float64)
    cost = 0.3 * far[:50].astype(np.float64) - 0.7 * apart
    cost[0] = np.inf
    assert cost[plain[:50] == chosen[1]][0] <= cost.min() + 1e-6


# ---- what lives -----------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_a_life(metric, tmp_path, rng):
    """Added, replaced, deleted, compacted, saved, mapped, copied, merged: right throughout."""
    rows = clustered(rng, 3_300, 77)
    index = vecidx.Index(77, metric, M=8, ef_construction=40)
    index.add(pack(rows[:3_000]))
    now = dict(enumerate(rows[:3_000]))
    index.add(pack(rows[3_000:3_100]), ids=np.arange(100))
    now.update(zip(range(100), rows[3_000:3_100], strict=True))
    index.delete(np.arange(300, 2_500))
    for i in range(300, 2_500):
        del now[i]
    index.add(pack(np.tile(rows[3_200], (3, 1))), ids=[20_000, 20_001, 20_002])   # equal rows
    now.update({i: rows[3_200] for i in (20_000, 20_001, 20_002)})

    def right(one):
        ids = np.array(sorted(now))
        stored = np.stack([now[i] for i in ids])
        assert sorted(one.ids()) == list(ids) and one.check() == {"unreachable": 0}
        np.testing.assert_array_equal(one.get(ids), pack(stored))
        queries = stored[::29]
        want = wanted(queries, stored, metric, 5, ids)
        assert_same(one.search(pack(queries), 5, exact=True), want)
        found = (one.search(pack(queries), 5, ef=80)[1] <= want[1][:, -1:]).mean()
        assert found > 0.9
        return one

    right(index)
    assert index.stats()["duplicates"] >= 2
    index.compact()
    right(index)
    index.save(tmp_path / "x")
    for options in ({}, {"mmap": True}, {"mmap": "vectors"}, {"mmap": True, "verify": True}):
        loaded = right(vecidx.load(tmp_path / "x", **options))
        assert loaded.dtype == "bits" and loaded.metric == metric
    said = vecidx.inspect(tmp_path / "x")
    assert (said["dtype"], said["metric"], said["dim"]) == ("bits", metric, 77)
    right(pickle.loads(pickle.dumps(index)))
    right(copy.copy(index))
    merged = vecidx.Index(77, metric, M=8, ef_construction=40)
    merged.merge(index)
    right(merged)
    other = vecidx.Index(77, METRICS[metric == "hamming"])
    with pytest.raises(ValueError, match="metric"):
        other.merge(index)
    with pytest.raises(ValueError, match="metric"):
        vecidx.Index(77).merge(index)


def test_a_log_keeps_bits(tmp_path, rng):
    path, rows = tmp_path / "x", clustered(rng, 90, 77)
    with vecidx.open(path, dim=77, metric="hamming") as index:
        index.add(pack(rows[:60]))
        index.delete([3, 4])
        index.add(pack(rows[60:]), ids=np.arange(30))
        with pytest.raises(ValueError, match="row 0 "):
            index.add(np.full((1, 10), 255, np.uint8))
        index.close(checkpoint=False)
    with vecidx.open(path, dtype="bits") as index:
        assert index.dtype == "bits" and len(index) == 60
        np.testing.assert_array_equal(index.get(np.arange(30)), pack(rows[60:]))
        np.testing.assert_array_equal(index.get(np.arange(30, 60)), pack(rows[30:60]))
    with pytest.raises(ValueError, match="metric"):
        vecidx.open(path, metric="jaccard")


def test_string_ids(tmp_path, rng):
    rows = clustered(rng, 200, 77)
    index = vecidx.Index(77, "jaccard", ids="str")
    index.add(pack(rows), ids=[f"row {i}" for i in range(200)])
    assert index.search(pack(rows[9]), 1)[0][0] == "row 9"
    np.testing.assert_array_equal(index.get(["row 5"]), pack(rows[5:6]))
    index.save(tmp_path / "x")
    assert vecidx.load(tmp_path / "x").search(pack(rows[:3]), 1)[0].tolist() == \
        [["row 0"], ["row 1"], ["row 2"]]


def test_damaged_bits_are_refused(tmp_path):
    """A bit behind the last, in the file: it would count in every distance."""
    index, _ = filled(n=50)
    index.save(tmp_path / "x")
    at = vecidx.inspect(tmp_path / "x")["sections"]["vectors"]["offset"]
    data = bytearray((tmp_path / "x").read_bytes())
    data[at + 5 * 64 + 16] |= 1
    with pytest.raises(vecidx.IndexFormatError, match="padding|zero"):
        vecidx.from_bytes(sealed(data))


@pytest.mark.parametrize("field, value, says", [
    (8, 0, "metric"), (8, 5, "metric"), (16, 4, "metric|length"), (16, 6, "dtype 6"),
    (24, 1, "quantization"), (24, 3, "quantization"), (0, 0, "dim"), (0, 600, "length")])
def test_parameters_that_no_index_has_are_refused(field, value, says):
    index, _ = filled(n=50)
    data = bytearray(index.to_bytes())
    struct.pack_into("<Q", data, 64 + field, value)
    with pytest.raises(vecidx.IndexFormatError, match=says):
        vecidx.from_bytes(sealed(data))


def sealed(data):
    """With the sums of the sections and of the head right again."""
    head, n = struct.unpack_from("<2I", data, 16)
    for at in range(320, 320 + 64 * n, 64):
        offset, length = struct.unpack_from("<2Q", data, at + 8)
        struct.pack_into("<I", data, at + 24, crc32c(bytes(data[offset:offset + length])))
    struct.pack_into("<I", data, head - 8, crc32c(bytes(data[:head - 8])))
    return bytes(data)
