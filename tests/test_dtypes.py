"""Indexes of float16, bfloat16, int8 and uint8: what they take, keep, find and refuse."""

import copy
import pickle

import numpy as np
import pytest

import vecidx
from helpers import METRICS, assert_same, assert_well_formed, exact_distances, exact_kth, run_python
from vecidx import _core

DTYPES = ("float16", "bfloat16", "int8", "uint8")
WHOLE = ("int8", "uint8")
QUANTIZATIONS = (None, "sq8", "auto")
LEVELS = _core.simd_available()
OUT = {"float16": np.float16, "bfloat16": np.float32, "int8": np.int8, "uint8": np.uint8}
# Half a step of the dtype, as a share of a value.
ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "int8": 0, "uint8": 0}


def rows_of(rng, n, dim, dtype, metric="l2"):
    """Rows of some ten dimensions of their own, as the dtype holds them, in float32."""
    spread = np.random.default_rng(dim).standard_normal((10, dim)) * 10
    rows = rng.standard_normal((n, 10)) @ spread + 3 * rng.standard_normal((n, dim))
    if metric == "ip":                       # of even length, or codes are no good
        rows *= 30 * dim**0.5 / np.linalg.norm(rows, axis=1, keepdims=True)
    if dtype == "int8":
        return np.clip(np.rint(rows), -128, 127).astype(np.float32)
    if dtype == "uint8":
        return np.clip(np.rint(rows + 90), 0, 255).astype(np.float32)
    return rounded(rows, dtype)


def rounded(rows, dtype):
    if dtype != "bfloat16":
        return np.asarray(rows, OUT[dtype]).astype(np.float32)
    bits = np.asarray(rows, np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)


def filled(dtype, metric="l2", n=600, dim=24, seed=0, **options):
    rows = rows_of(np.random.default_rng(seed), n, dim, dtype, metric)
    options.setdefault("ef_construction", 60)
    index = vecidx.Index(dim, metric, dtype=dtype, M=8, **options)
    index.add(rows)
    return index, rows


def assert_exact(index, queries, rows, metric, dtype, k=10):
    """An exact search gives the distances of the rows, up to the dtype's rounding."""
    ids, distances = index.search(queries, k, exact=True)
    assert_well_formed(ids, distances)
    every = exact_distances(queries, rows, metric)
    want = np.sort(every, axis=1)[:, :k]
    # Under cosine a direction is rounded, and so is its length.
    off = 4 * ROUNDING[dtype] if metric == "cosine" else 0
    slack = 1e-5 * np.abs(want) + 1e-5 + off
    assert (np.abs(distances - want) <= slack).all()
    real = np.take_along_axis(every, ids, axis=1)
    assert (np.abs(distances - real) <= slack).all()


# ---- what is kept ---------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_stored_comes_back(dtype, metric):
    index, rows = filled(dtype, metric)
    got = index.get(np.arange(len(rows)))
    assert got.dtype == OUT[dtype] and got.shape == rows.shape
    if metric == "cosine" and dtype not in WHOLE:
        np.testing.assert_allclose(got.astype(np.float32), rows, rtol=2.1 * ROUNDING[dtype],
                                   atol=1e-3 if dtype == "float16" else 0)
    else:
        np.testing.assert_array_equal(got, rows)
    assert index.get(3).shape == (rows.shape[1],)
    assert index.check() == {"unreachable": 0}
    assert index.dtype == dtype and f"x 24 {dtype}, " in repr(index)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_floats_are_rounded_to_the_nearest(dtype, rng):
    rows = rng.standard_normal((50, 7)).astype(np.float32)
    index = vecidx.Index(7, dtype=dtype)
    index.add(rows)
    np.testing.assert_array_equal(index.get(np.arange(50)), rounded(rows, dtype))


def test_wide_floats_are_rounded_to_float16_once():
    """1 + 2**-11 lies between two half floats; a bit more, lost by float32, decides."""
    rows = np.array([[1 + 2.0**-11 + 2.0**-40], [1 + 2.0**-11 - 2.0**-40], [1 + 2.0**-11]])
    index = vecidx.Index(1, dtype="float16")
    index.add(rows)
    np.testing.assert_array_equal(index.get([0, 1, 2]), rows.astype(np.float16))


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_every_type_make_the_same_index(dtype):
    """Taken as they are, or by way of float32."""
    index, rows = filled(dtype, "cosine", n=120)
    queries = rows[:20] + 0.25
    want = index.search(queries, 5)
    given = [np.float64, np.float32, ">f4"]
    given += [np.int16, np.int64, OUT[dtype]] if dtype in WHOLE else [OUT[dtype]]
    for kind in given:
        other = vecidx.Index(24, "cosine", dtype=dtype, M=8, ef_construction=60)
        other.add(rows.astype(kind))
        assert_same(other.search(queries, 5), want)
        assert other.to_bytes() == index.to_bytes()
    strided = np.zeros((240, 48), OUT[dtype])
    strided[::2, ::2] = rows
    other = vecidx.Index(24, "cosine", dtype=dtype, M=8, ef_construction=60)
    other.add(strided[::2, ::2])
    assert other.to_bytes() == index.to_bytes()


def test_bfloat16_arrays_of_another_package_are_taken():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rows = np.random.default_rng(0).standard_normal((30, 4)).astype(ml_dtypes.bfloat16)
    index = vecidx.Index(4, dtype=ml_dtypes.bfloat16)
    index.add(rows)
    np.testing.assert_array_equal(index.get(np.arange(30)), rows.astype(np.float32))


# ---- what is refused ------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype, value, says", [
    ("float16", 65_520.0, r"float16's range \(\+-65504\).*bfloat16"),
    ("float16", -1e10, "float16's range"),
    ("int8", 128.0, r"int8 takes \(-128 to 127\)"),
    ("int8", -129.0, r"int8 takes"),
    ("int8", 0.5, "no whole number, as dtype int8 takes"),
    ("uint8", 256.0, r"uint8 takes \(0 to 255\)"),
    ("uint8", -1.0, "uint8 takes"),
    ("uint8", 1.25, "no whole number"),
    ("uint8", float("nan"), "holds NaN"),
    ("int8", float("inf"), "holds an infinite value"),
    ("bfloat16", float("nan"), "holds NaN"),
    ("float16", -float("inf"), "holds an infinite value"),
])
def test_a_value_that_does_not_fit_is_refused(dtype, value, says, metric):
    """With its row, and nothing has changed."""
    index, rows = filled(dtype, metric, n=50)
    before = index.to_bytes()
    bad = rows[:9].copy()
    bad[7, 23] = value
    with pytest.raises(ValueError, match=f"vectors: row 7 .*{says}"):
        index.add(bad)
    with pytest.raises(ValueError, match="row 7"):
        index.add(bad.astype(np.float64))
    assert index.to_bytes() == before


def test_values_that_float32_would_hide_are_refused():
    """A float64 a hair from a whole number, and an integer that only rounding brings near."""
    index = vecidx.Index(2, dtype="uint8")
    with pytest.raises(ValueError, match=r"row 1 has 6\.999999999999, .*no whole number.*float16"):
        index.add(np.array([[1.0, 2.0], [3.0, 6.999999999999]]))
    with pytest.raises(ValueError, match="row 0"):
        index.add(np.array([[0, 2**40]]))
    with pytest.raises(ValueError, match="float16's range"):
        vecidx.Index(2, dtype="float16").add(np.array([[1.0, 70000.0]]))
    assert len(index) == 0


def test_native_rows_are_looked_at_too():
    index = vecidx.Index(3, "cosine", dtype="float16")
    for bad in (np.nan, np.inf):
        rows = np.ones((4, 3), np.float16)
        rows[2, 1] = bad
        with pytest.raises(ValueError, match="row 2"):
            index.add(rows)
    for dtype in DTYPES:
        index = vecidx.Index(3, "cosine", dtype=dtype)
        rows = np.ones((4, 3), OUT[dtype])
        rows[3] = 0
        with pytest.raises(ValueError, match="row 3 is all zeros"):
            index.add(rows)
        assert len(index) == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_queries_need_not_fit_the_dtype(dtype):
    index, rows = filled(dtype)
    queries = rows[:8] * 3.7 - 1000.25
    assert_exact(index, queries, rows, "l2", dtype)
    with pytest.raises(ValueError, match="queries: row 1 holds NaN"):
        index.search([[0] * 24, [np.nan] * 24])


# ---- what is found --------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 3, 31, 32, 33, 64, 65, 100])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_search(dtype, metric, dim, rng):
    rows = rows_of(rng, 150, dim, dtype, metric)
    rows[np.abs(rows).sum(axis=1) == 0] = 1
    index = vecidx.Index(dim, metric, dtype=dtype)
    index.add(rows)
    near = rows[:10] + rng.standard_normal((10, dim)).astype(np.float32)
    assert_exact(index, near, rows, metric, dtype)
    assert_exact(index, rows[:10], rows, metric, dtype)       # for integers: as rows
    for i in range(3):                                        # and one by one
        assert_exact(index, near[i:i + 1], rows, metric, dtype)
    if metric == "l2":
        assert (index.search(rows, 1, exact=True)[1] == 0).all()


@pytest.mark.parametrize("dtype, dim", [
    *((dtype, 40) for dtype in DTYPES), ("float16", 330), ("int8", 330)])
@pytest.mark.parametrize("metric", METRICS)
def test_the_walk_finds_what_that_of_float32_does(dtype, metric, dim, rng):
    """Under every quantization, with and without rank codes, by queries of both sorts."""
    rows = rows_of(rng, 10_400, dim, dtype, metric)
    noise = rng.standard_normal((40, dim)) * 3
    queries = np.concatenate([rows[:40] + noise.astype(np.float32), rows[100:140]])
    every = exact_distances(queries, rows, metric)
    kth = np.partition(every, 9, axis=1)[:, 9]
    floor = None
    for word in ("plain", *QUANTIZATIONS):
        index = vecidx.Index(dim, metric, dtype="float32" if word == "plain" else dtype, M=8,
                             ef_construction=50, quantization=None if word == "plain" else word)
        index.add(rows[:9_000])
        index.add(rows[9_000:])
        assert index.check() == {"unreachable": 0}
        ids, distances = index.search(queries, 10, ef=100)
        assert_well_formed(ids, distances)
        of_found = np.take_along_axis(every, ids, axis=1)
        slack = 1e-5 * np.abs(of_found) + 1e-5
        slack += 4 * ROUNDING[dtype] if metric == "cosine" else 0
        assert (np.abs(distances - of_found) <= slack).all()
        found = (of_found <= kth[:, None] + slack).mean()
        floor = found - 0.03 if word == "plain" else floor
        assert found >= floor, (word, found, floor)
        alone = [index.search(query, 10, ef=100)[0] for query in queries[30:50]]
        np.testing.assert_array_equal(alone, ids[30:50])


@pytest.mark.parametrize("dtype", WHOLE)
def test_whole_queries_have_exact_distances(dtype, rng):
    rows = rows_of(rng, 500, 300, dtype)
    index = vecidx.Index(300, dtype=dtype)
    index.add(rows)
    ids, distances = index.search(rows[:40], 12)
    wide = rows.astype(np.int64)
    want = ((wide[ids] - wide[:40, None]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(distances, want.astype(np.float32))


@pytest.mark.parametrize("dtype", WHOLE)
def test_an_index_of_whole_numbers_is_the_same_at_every_level(dtype):
    """All distances are exact: one graph, whatever computed it."""
    code = (
        "import hashlib, sys, numpy as np, vecidx\n"
        "rows = np.random.default_rng(1).integers(0, 120, (1500, 20))\n"
        "for metric in ('l2', 'ip', 'cosine'):\n"
        "    index = vecidx.Index(20, metric, dtype=sys.argv[1], M=8, ef_construction=40)\n"
        "    index.add(rows)\n"
        "    print(hashlib.sha256(index.to_bytes()).hexdigest())\n")
    results = set()
    for level in LEVELS:
        status, out, err = run_python(code, dtype, env={"VECIDX_SIMD": level})
        assert status == 0, err
        results.add(out)
    assert len(results) == 1


# ---- what lives -----------------------------------------------------------------------


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_life(dtype, metric, quantization, tmp_path, rng):
    """Added, replaced, deleted, compacted, saved, mapped, copied, merged: right throughout."""
    rows = rows_of(rng, 10_300, 33, dtype, metric)
    index = vecidx.Index(33, metric, dtype=dtype, M=8, ef_construction=40,
                         quantization=quantization)
    index.add(rows[:10_100])
    now = dict(enumerate(rows[:10_100]))
    index.add(rows[10_100:10_200], ids=np.arange(100))
    now.update(zip(range(100), rows[10_100:10_200], strict=True))
    index.delete(np.arange(300, 9_700))
    for i in range(300, 9_700):
        del now[i]
    index.add(np.tile(rows[10_200], (3, 1)), ids=[20_000, 20_001, 20_002])   # equal rows
    now.update({i: rows[10_200] for i in (20_000, 20_001, 20_002)})

    def right(one):
        ids = np.array(list(now))
        stored = np.stack(list(now.values()))
        assert sorted(one.ids()) == sorted(ids) and one.check() == {"unreachable": 0}
        got = one.get(ids).astype(np.float32)
        if metric == "cosine" and dtype not in WHOLE:
            np.testing.assert_allclose(got, stored, rtol=2.1 * ROUNDING[dtype], atol=1e-2)
        else:
            np.testing.assert_array_equal(got, stored)
        queries = stored[::97] + 0.5
        kth = exact_kth(queries, stored, metric, 5)
        slack = 4 * ROUNDING[dtype] if metric == "cosine" else 1e-5 * np.abs(kth) + 1e-5
        distances = one.search(queries, 5, ef=80)[1]
        found = (distances <= (kth + slack)[:, None] + 1e-6).mean()
        assert found > (0.6 if metric == "ip" else 0.9)    # a graph of few links
        return one

    right(index)
    index.compact()
    right(index)
    index.save(tmp_path / "x")
    for options in ({}, {"mmap": True}, {"mmap": "vectors"}, {"mmap": True, "verify": True}):
        loaded = right(vecidx.load(tmp_path / "x", **options))
        assert loaded.dtype == index.dtype and loaded.quantization == quantization
        assert_same(loaded.search(rows[:50], 5), index.search(rows[:50], 5))
    assert vecidx.inspect(tmp_path / "x")["dtype"] == dtype
    right(pickle.loads(pickle.dumps(index)))
    right(copy.copy(index))
    merged = vecidx.Index(33, metric, dtype=dtype, M=8, ef_construction=40)
    merged.merge(index)
    right(merged)


def test_merging_other_dtypes_is_refused():
    one, _ = filled("float16", n=20)
    for dtype in ("float32", "int8"):
        other, _ = filled(dtype, n=20) if dtype == "int8" else (vecidx.Index(24), None)
        with pytest.raises(ValueError, match=rf"dtype float16 \(this index's\), got {dtype}"):
            one.merge(other)
    assert len(one) == 20


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_log_keeps_what_was_added(dtype, metric, tmp_path, rng):
    """Replayed, every row is the one that was: under cosine too, where rounding a rounded row
    would have given another."""
    path = tmp_path / "x"
    rows = rows_of(rng, 90, 10, dtype, metric)
    if dtype not in WHOLE:
        rows = rng.standard_normal((90, 10)).astype(np.float32) * 7
    index = vecidx.open(path, 10, metric, dtype=dtype)
    index.add(rows[:60])
    index.add(rows[60:].astype(np.float64), ids=np.arange(50, 80))
    index.delete([5])
    want = index.get(index.ids())
    size = (tmp_path / "x.wal").stat().st_size
    assert size < 90 * 10 * (1 if dtype in WHOLE else 4) + 90 * 8 + 600
    bad = rows[:2].copy()
    bad[1, 1] = 1e6 if dtype != "bfloat16" else np.nan
    with pytest.raises(ValueError, match="row 1"):
        index.add(bad)
    index.close(checkpoint=False)
    again = vecidx.open(path)
    assert again.dtype == dtype
    np.testing.assert_array_equal(again.get(again.ids()), want)
    again.close()
    with pytest.raises(ValueError, match="dtype: .* has"):
        vecidx.open(path, dtype="float32")


# ---- what it costs --------------------------------------------------------------------


@pytest.mark.parametrize("dtype, quantization, dim, most", [
    ("float16", "auto", 384, 1_851), ("float16", "auto", 768, 3_370),
    ("bfloat16", "auto", 384, 1_851), ("uint8", "auto", 128, 700), ("int8", "auto", 384, 1_330),
    ("float16", None, 384, 960), ("int8", None, 384, 580),
])
def test_bytes_a_row(dtype, quantization, dim, most):
    """At M=16 under cosine: at most what hnswlib takes for float32, for "auto" of float16."""
    rng = np.random.default_rng(0)
    rows = rows_of(rng, 10_000, dim, dtype, "cosine")
    index = vecidx.Index(dim, "cosine", dtype=dtype, quantization=quantization,
                         ef_construction=20)
    index.add(rows)
    assert index.stats()["quantized"] == (quantization is not None)
    memory = index.memory()
    assert memory["codes"] == 0
    # What does not grow with the rows: a codec, contexts of searches.
    assert (memory["total"] - memory["scratch"] - memory["other"]) / 10_000 + 8 <= most


def test_bytes_are_never_held_twice():
    """The codes of whole numbers are the vectors, found to be so by themselves for float32."""
    rng = np.random.default_rng(0)
    rows = rows_of(rng, 10_000, 64, "uint8")
    for dtype in ("uint8", "float32"):
        index = vecidx.Index(64, dtype=dtype, quantization="auto", M=8, ef_construction=20)
        index.add(rows)
        memory = index.memory()
        assert index.stats()["quantized"] and memory["codes"] == 0 and memory["vectors"] == 640_000
        np.testing.assert_array_equal(index.get(np.arange(0, 10_000, 77)), rows[::77])
        ids, distances = index.search(rows[:50], 1)
        assert (distances == 0).all() and (rows[ids[:, 0]] == rows[:50]).all()
