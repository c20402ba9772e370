"""Kernels of rows that are not float32, at every level this CPU can run, against float64."""

import numpy as np
import pytest

from helpers import exact_distances
from vecidx import _core

LEVELS = _core.simd_available()
DTYPES = ("float16", "bfloat16", "int8", "uint8")
METRICS = ("l2", "ip", "cosine")
# Around every unrolling: registers of 4 to 64 values, pairs of them, whole lines.
DIMS = sorted({*range(1, 35), *(n + d for n in (64, 96, 128, 192, 256, 384, 768, 1024)
                                for d in (-1, 0, 1))})
MANY = (1, 2, 3, 4, 5, 7, 8, 9, 17)
WHOLE = ("int8", "uint8")


def rounded(values, dtype):
    """float64 values to the nearest that the dtype holds, as float32."""
    if dtype == "bfloat16":
        bits = values.astype(np.float32).view(np.uint32)
        bits = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
        return bits.view(np.float32)
    return values.astype(dtype).astype(np.float32)


def rows_of(rng, dtype, shape, extreme=False):
    """Values that the dtype holds, as float32."""
    if dtype in WHOLE:
        info = np.iinfo(dtype)
        if extreme:
            rows = rng.choice([info.min, info.max], shape)
        else:
            rows = rng.integers(info.min, info.max + 1, shape)
        rows[..., 0] = info.max              # none is all zeros
        return rows.astype(np.float32)
    return rounded(rng.standard_normal(shape) * 10.0 ** rng.uniform(-2, 2, shape), dtype)


def stored(rows, dtype, metric):
    """What is compared: under cosine floats are rounded as unit rows."""
    if metric == "cosine" and dtype not in WHOLE:
        length = np.linalg.norm(rows.astype(np.float64), axis=-1, keepdims=True)
        return rounded((rows / length).astype(np.float32), dtype).astype(np.float64)
    return rows.astype(np.float64)


def assert_close(got, query, rows, dtype, metric, case):
    """`query` and `rows` as they are compared."""
    if metric == "cosine" and dtype in WHOLE:
        want, size = exact_distances(query, rows, metric)[0], 1.0
    else:
        terms = (rows - query) ** 2 if metric == "l2" else rows * query
        want = terms.sum(axis=-1) if metric == "l2" else 1 - terms.sum(axis=-1)
        size = np.abs(terms).sum(axis=-1) + (metric != "l2")
    slack = 2.0**-24 * (8 + 2 * rows.shape[-1] ** 0.5) * size + 2.0**-22 * np.abs(want)
    assert (np.abs(got - want) <= slack).all(), f"{case}: got {got}, want {want}"


def many(level, metric, dtype, query, rows, by_row):
    out = np.full(len(rows), np.nan, np.float32)
    _core.test_many(level, _core.METRICS[metric], query, rows, out, _core.DTYPES[dtype], by_row)
    return out


def pairs(level, metric, dtype, a, b):
    out = np.full(len(b), np.nan, np.float32)
    _core.test_pairs(level, _core.METRICS[metric], a, b, out, _core.DTYPES[dtype])
    return out


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("level", LEVELS)
def test_a_float_query_agrees_with_float64(level, dtype, metric, rng):
    for i, dim in enumerate(DIMS):
        rows = rows_of(rng, dtype, (MANY[i % len(MANY)], dim))
        query = (rows[0] + rng.standard_normal(dim)).astype(np.float32)
        got = many(level, metric, dtype, query, rows, False)
        exact = query.astype(np.float64)
        if metric == "cosine":
            exact = (exact / np.linalg.norm(exact)).astype(np.float32).astype(np.float64)
        assert_close(got, exact, stored(rows, dtype, metric), dtype, metric,
                     f"{level} {dtype} {metric} dim={dim}")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("level", LEVELS)
def test_rows_agree_with_float64_and_with_one_another(level, dtype, metric, rng):
    """One by one, four at a time and the other way round: the same bits."""
    for i, dim in enumerate(DIMS):
        rows = rows_of(rng, dtype, (MANY[i % len(MANY)], dim))
        query = rows_of(rng, dtype, (1, dim))
        case = f"{level} {dtype} {metric} dim={dim}"
        got = many(level, metric, dtype, query[0], rows, True)
        kept = stored(rows, dtype, metric)
        assert_close(got, stored(query, dtype, metric)[0], kept, dtype, metric, case)
        repeated = np.repeat(query, len(rows), axis=0)
        np.testing.assert_array_equal(pairs(level, metric, dtype, repeated, rows), got, case)
        np.testing.assert_array_equal(pairs(level, metric, dtype, rows, repeated), got, case)


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("dtype", WHOLE)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dim", [1, 63, 64, 65, 1000, 65_536])
def test_whole_numbers_are_summed_exactly(level, dtype, metric, dim, rng):
    """Nothing saturates, not even where every value is as large as can be: one rounding."""
    info = np.iinfo(dtype)
    rows = rows_of(rng, dtype, (5, dim), extreme=True)
    rows[1], rows[2] = info.max, info.min
    for query in (np.full(dim, info.min), np.full(dim, info.max)):
        query = query.astype(np.float32)
        sums = (((rows - query).astype(np.int64) ** 2) if metric == "l2"
                else rows.astype(np.int64) * query.astype(np.int64)).sum(axis=1)
        want = sums.astype(np.float32) if metric == "l2" else 1 - sums.astype(np.float32)
        np.testing.assert_array_equal(many(level, metric, dtype, query, rows, True), want)


@pytest.mark.parametrize("dtype", WHOLE)
def test_cosines_of_whole_numbers_are_the_same_at_every_level(dtype, rng):
    for dim in (3, 100, 385):
        rows = rows_of(rng, dtype, (9, dim))
        rows[3] = rows[0]
        want = many("scalar", "cosine", dtype, rows[0], rows, True)
        assert want[0] == want[3] == 0 and (want >= 0).all()
        for level in LEVELS[1:]:
            np.testing.assert_array_equal(many(level, "cosine", dtype, rows[0], rows, True), want)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_number_of_a_dtype_is_read_as_it_is(level, dtype):
    """One value a row, against 0: its square; subnormals and the largest among them."""
    bits = np.arange(65_536, dtype=np.uint32)
    if dtype == "float16":
        values = bits.astype(np.uint16).view(np.float16).astype(np.float32)
    else:
        values = (bits << 16).view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        values = values[np.isfinite(values) & (np.abs(values) < 1e18)]
    got = many(level, "l2", dtype, np.zeros(1, np.float32), values[:, None].copy(), False)
    np.testing.assert_array_equal(got, values * values)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rounding_is_to_the_nearest_and_even(dtype, rng):
    """Stored by the core, read back by the distance from 0."""
    values = np.concatenate([
        rng.standard_normal(3000) * 10.0 ** rng.uniform(-9, 4, 3000),
        1 + np.arange(64) * 2.0**-12, 1 + np.arange(64) * 2.0**-9,       # ties
        np.arange(-70, 70) * 2.0**-25, [65503.9, 65504, 65519.9, -65519.9]]).astype(np.float32)
    got = many("scalar", "l2", dtype, np.zeros(1, np.float32), values[:, None].copy(), False)
    want = rounded(values, dtype)
    np.testing.assert_array_equal(got, want * want)
