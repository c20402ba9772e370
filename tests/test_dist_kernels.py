"""Every kernel of every level that this CPU can run, against float64."""

import numpy as np
import pytest

import vecidx
from vecidx import _core

LEVELS = _core.simd_available()
UNROLL_EDGES = [n + d for n in (64, 128, 256, 512, 768, 1024, 1536, 2048, 4096)
                for d in (-1, 0, 1)]
DIMS = sorted({*range(1, 71), *UNROLL_EDGES})
MANY = (1, 2, 3, 4, 5, 7, 8, 9, 17, 33)      # rows a call, around the kernels' batches


def pairs(level, metric, a, b):
    out = np.full(len(a), np.nan, np.float32)
    _core.test_pairs(level, _core.METRICS[metric], a, b, out)
    return out


def many(level, metric, query, b):
    out = np.full(len(b), np.nan, np.float32)
    _core.test_many(level, _core.METRICS[metric], query, b, out)
    return out


def oracle(metric, a, b):
    """Distances, and the size of what was summed: rounding is a share of that."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    terms = (a - b) ** 2 if metric == "l2" else a * b
    total = terms.sum(axis=-1)
    return (total if metric == "l2" else 1 - total), np.abs(terms).sum(axis=-1)


def assert_close(got, metric, a, b, case):
    """Within a few roundings; far less than one element left out or taken twice.

    Summing n float32 terms errs by about sqrt(n) roundings of the sum, a
    worst case of n never met with random signs.
    """
    want, size = oracle(metric, a, b)
    roundings = (8 + 2 * a.shape[-1] ** 0.5) * size
    if metric == "ip":
        roundings += 2 * (1 + np.abs(want))               # of the 1 - dot
    wrong = ~(np.abs(got - want) <= 2.0**-24 * roundings + 1e-37)
    assert not wrong.any(), f"{case}: got {got[wrong][:3]}, want {want[wrong][:3]}"


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("level", LEVELS)
def test_pairs_agree_with_float64(level, metric, rng):
    for dim in DIMS:
        a, b = rng.standard_normal((2, 9, dim), dtype=np.float32)
        assert_close(pairs(level, metric, a, b), metric, a, b, f"{level} {metric} dim={dim}")


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("level", LEVELS)
def test_many_agree_with_float64(level, metric, rng):
    for i, dim in enumerate(DIMS):
        n = MANY[i % len(MANY)]
        query = rng.standard_normal(dim, dtype=np.float32)
        rows = rng.standard_normal((n, dim), dtype=np.float32)
        assert_close(many(level, metric, query, rows), metric, query[None], rows,
                     f"{level} {metric} dim={dim} n={n}")


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("level", LEVELS)
def test_small_integers_are_exact(level, metric, rng):
    """Sums below 2**24 have no rounding: every element counts once, at every dim."""
    for i, dim in enumerate(DIMS):
        a, b = rng.integers(-4, 5, (2, 5, dim)).astype(np.float32)
        want = oracle(metric, a, b)[0].astype(np.float32)
        np.testing.assert_array_equal(pairs(level, metric, a, b), want, f"{level} dim={dim}")
        n = MANY[i % len(MANY)]
        rows = rng.integers(-4, 5, (n, dim)).astype(np.float32)
        want = oracle(metric, a[0], rows)[0].astype(np.float32)
        np.testing.assert_array_equal(many(level, metric, a[0], rows), want,
                                      f"{level} dim={dim} n={n}")


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("spread", [(-15, 15), (-19, -10), (10, 17), (-3, 18)])
def test_values_of_very_different_size(level, metric, spread, rng):
    """No overflow below 1e37, and tiny values beside large ones cost no accuracy."""
    for dim in (1, 3, 8, 17, 64, 100, 385):
        scale = 10.0 ** rng.uniform(*spread, (2, 12, dim))
        a, b = (rng.standard_normal((2, 12, dim)) * scale).astype(np.float32)
        got = pairs(level, metric, a, b)
        assert np.isfinite(got).all()
        assert_close(got, metric, a, b, f"{level} {metric} dim={dim} spread={spread}")
        assert_close(many(level, metric, a[0], b), metric, a[:1], b,
                     f"{level} {metric} dim={dim} spread={spread} many")


@pytest.mark.parametrize("level", LEVELS)
def test_equal_rows_are_at_distance_zero(level, rng):
    for dim in DIMS:
        a = rng.standard_normal((4, dim), dtype=np.float32)
        assert (pairs(level, "l2", a, a) == 0).all(), dim
        assert many(level, "l2", a[2], a)[2] == 0, dim


def test_a_level_that_this_cpu_cannot_run_is_refused():
    every = {"scalar", "avx2", "avx512", "avx512vnni", "neon"}
    one = np.zeros((1, 4), np.float32)
    for level in sorted(every - set(LEVELS)) + ["sse9"]:
        with pytest.raises(ValueError):
            pairs(level, "l2", one, one)


def test_scalar_is_always_there_and_the_level_in_use_is_available():
    assert LEVELS[0] == "scalar"
    assert vecidx.simd_level() in LEVELS
