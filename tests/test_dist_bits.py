"""Kernels of packed bits, at every level this CPU can run, against counts by NumPy."""

import numpy as np
import pytest

from vecidx import _core

LEVELS = _core.simd_available()
METRICS = ("hamming", "jaccard")
# Around every unrolling: bytes, registers of 128 to 512 bits, whole lines, several of them.
DIMS = sorted({*range(1, 34), *(n + d for n in (64, 96, 128, 256, 384, 512, 768, 1024, 1536, 2048,
                                                4096, 8192) for d in (-1, 0, 1)), 65_535, 65_536})
MANY = (1, 2, 3, 4, 5, 7, 8, 9, 17)


def bits_of(rng, n, dim):
    """Rows from nearly empty to nearly full; the first two are that."""
    rows = rng.random((n, dim)) < rng.random((n, 1))
    rows[0] = False
    rows[1:2] = True
    return rows


def exact(a, b, metric):
    """float32 distances of rows of booleans: counts, divided once."""
    differ, either = (a ^ b).sum(axis=-1), (a | b).sum(axis=-1)
    if metric == "hamming":
        return differ.astype(np.float32)
    return np.where(either > 0, differ.astype(np.float32)
                    / np.maximum(either, 1).astype(np.float32), np.float32(0))


def ask(level, metric, a, b, many):
    out = np.full(len(b), np.nan, np.float32)
    _core.test_bits(level, _core.METRICS[metric], np.packbits(a, axis=1), np.packbits(b, axis=1),
                    b.shape[1], out, many)
    return out


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("level", LEVELS)
def test_kernels_count_exactly(level, metric, rng):
    """One by one, four at a time and the other way round."""
    for i, dim in enumerate(DIMS):
        rows = bits_of(rng, MANY[i % len(MANY)] + 1, dim)
        for query in (rows[:1], rows[1:2], rng.random((1, dim)) < 0.5):
            want = exact(query, rows, metric)
            case = f"{level} {metric} dim={dim}"
            np.testing.assert_array_equal(ask(level, metric, query, rows, True), want, case)
            repeated = np.repeat(query, len(rows), axis=0)
            np.testing.assert_array_equal(ask(level, metric, repeated, rows, False), want, case)
            np.testing.assert_array_equal(ask(level, metric, rows, repeated, False), want, case)


def test_numbers_and_bits_do_not_mix():
    with pytest.raises(ValueError, match="not of this dtype"):
        ask(LEVELS[0], "l2", np.ones((1, 8), bool), np.ones((2, 8), bool), True)
