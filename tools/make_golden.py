"""Make the golden files: small indexes of format version 1, and what they answer.

    python tools/make_golden.py [name ...]         into tests/golden/

`v1-NAME.vidx` is loaded by every later vecidx, for ever; `v1-NAME.npz` holds what
it must answer then.  So a file that is there is never written again: to cover
something new, add a name.  That a rebuild gives the same bytes is not promised.

An index takes codes once it has held 10,000 rows and keeps them when rows go, so
quantised files are small too: most rows are deleted, and the rest compacted.
"""

import sys
from pathlib import Path

import numpy as np

import vecidx

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "golden"
K = 5


def rows_of(n, dim, seed):
    """Rows in clumps, so that their neighbourhoods differ in density."""
    rng = np.random.default_rng(seed)
    middles = rng.standard_normal((20, dim)) * 3
    return (middles[rng.integers(20, size=n)] + rng.standard_normal((n, dim))).astype(np.float32)


def plain(n, dim, **params):
    """Row numbers as ids, nothing deleted."""
    index = vecidx.Index(dim, seed=11, **params)
    index.add(rows_of(n, dim, 1))
    return index


def lived(n, dim, **params):
    """Ids given, rows equal to others, replaced and deleted ones."""
    rows = rows_of(n, dim, 2)
    rows[n // 2: n // 2 + 6] = rows[3]
    rows[n // 3] = rows[7]
    ids = np.arange(n) * 5 + 2
    index = vecidx.Index(dim, seed=12, **params)
    index.add(rows, ids=ids)
    index.delete(ids[20: 20 + n // 8])
    index.add(rows_of(4, dim, 3), ids=ids[:4])
    return index


def typed(n, dim, dtype, whole=False, **params):
    """A life in another dtype: whole numbers for integers, and of a byte if `whole`."""
    rows = rows_of(n, dim, 6)
    if dim > 256:                    # of few dimensions of their own, so that ranks tell
        rng = np.random.default_rng(7)
        rows = rng.standard_normal((n, 10)) @ rng.standard_normal((10, dim)) + rows / 9
    if n >= 10_000 and params["metric"] == "ip":     # of one length, or there are no codes
        rows *= 20 / np.linalg.norm(rows, axis=1, keepdims=True)
    if whole or dtype in ("int8", "uint8"):
        is_signed = dtype == "int8"
        rows = np.clip(np.round(rows * 10 + (0 if is_signed else 128)),
                       *((-128, 127) if is_signed else (0, 255)))
    rows[n // 2] = rows[2]
    index = vecidx.Index(dim, dtype=dtype, seed=14, ef_construction=20, **params)
    index.add(rows)
    index.delete(np.arange(5, 12))
    if n >= 10_000:
        index.delete(np.arange(160, n))
        index.compact()
    return index


def quantised(n, dim, whole=False, **params):
    """So many rows left of 10,000; then equal and deleted ones."""
    rows = rows_of(10_000, dim, 4)
    if whole:                                  # numbers that fit a byte: a lossless codec
        rows = np.clip(np.round(rows * 10 + 128), 0, 255).astype(np.float32)
    index = vecidx.Index(dim, M=4, ef_construction=20, seed=13, **params)
    index.add(rows)
    index.delete(np.arange(n, 10_000))
    index.compact()
    index.add(rows[[5, 5, 9]], ids=[20_000, 20_001, 20_002])
    index.delete(np.arange(30, 40))
    return index


def bits(n, dim, metric):
    """A life in packed bits; one row has none set."""
    rows = rows_of(n, dim, 8) > 0.3
    rows[n // 2], rows[3] = rows[2], False
    index = vecidx.Index(dim, metric, seed=15, M=4, ef_construction=20)
    index.add(np.packbits(rows, axis=1))
    index.delete(np.arange(5, 12))
    return index


GOLDEN = {
    "empty": lambda: plain(0, 3),
    "one": lambda: plain(1, 5, metric="cosine"),
    "l2": lambda: plain(60, 3, M=3, ef_construction=20),
    "ip": lambda: lived(80, 17, metric="ip", M=2, ef_construction=20),
    "cosine": lambda: lived(120, 4, metric="cosine", M=4, ef_construction=20),
    "wanted": lambda: plain(40, 2, M=4, quantization="auto"),  # too few rows for codes
    "sq8": lambda: quantised(200, 6, metric="ip", quantization="sq8"),
    "bytes": lambda: quantised(200, 3, metric="l2", quantization="sq8", whole=True),
    "sq4": lambda: quantised(100, 36, metric="l2", quantization="sq4"),
    "auto": lambda: quantised(300, 8, metric="l2", quantization="auto"),
    "auto-ip": lambda: quantised(150, 9, metric="ip", quantization="auto"),
    "float16": lambda: typed(90, 33, "float16", metric="cosine", M=4),
    "bfloat16": lambda: typed(90, 7, "bfloat16", metric="l2", M=4),
    "int8": lambda: typed(90, 65, "int8", metric="ip", M=4),
    "uint8": lambda: typed(90, 20, "uint8", metric="cosine", M=4),
    "float16-sq8": lambda: typed(10_000, 40, "float16", metric="ip", quantization="sq8", M=4),
    "float16-auto": lambda: typed(10_000, 18, "float16", metric="cosine", quantization="auto", M=4),
    "float16-ranks": lambda: typed(10_000, 260, "float16", metric="cosine", M=4,
                                   quantization="auto"),
    "bfloat16-ip": lambda: typed(10_000, 40, "bfloat16", metric="ip", quantization="auto", M=4),
    "int8-auto": lambda: typed(10_000, 18, "int8", metric="cosine", quantization="auto", M=4),
    "uint8-auto": lambda: typed(10_000, 18, "uint8", metric="l2", quantization="auto", M=4),
    # Written before rows were held as bytes: vectors as they were given, and their codes.
    "auto-bytes": lambda: typed(10_000, 70, "float32", metric="l2", quantization="auto", M=4,
                                whole=True),
    "held": lambda: typed(10_000, 70, "float32", metric="l2", quantization="auto", M=4, whole=True),
    "held-ranks": lambda: typed(10_000, 260, "float32", metric="l2", quantization="auto", M=4,
                                whole=True),
    "held-float16": lambda: typed(10_000, 70, "float16", metric="l2", quantization="auto", M=4,
                                  whole=True),
    "hamming": lambda: bits(90, 133, "hamming"),
    "jaccard": lambda: bits(90, 64, "jaccard"),
    "ranks": lambda: quantised(150, 257, metric="cosine", quantization="auto"),
}


def answers(index):
    """Everything an index says that does not depend on the path of a walk."""
    ids = index.ids()
    rng = np.random.default_rng(5)
    queries = rng.standard_normal((4, index.dim)).astype(np.float32) * 2 + 0.1
    if index.dtype == "bits":
        queries = np.packbits(queries > 0, axis=1)
    found, distances = index.search(queries, k=K, exact=True)
    rows = index.get(ids).reshape(len(ids), queries.shape[1])
    return {"ids": ids, "rows": rows, "queries": queries, "found": found,
            "distances": distances, "metric": index.metric, "M": index.M,
            "dtype": str(index.dtype), "quantization": index._quantization or "none",
            "seed": index.seed, "ef_construction": index.ef_construction}


def main(names):
    FOLDER.mkdir(exist_ok=True)
    for name in names or GOLDEN:
        path = FOLDER / f"v1-{name}.vidx"
        if path.exists():
            print(f"{path.name}: there already, and kept")
            continue
        index = GOLDEN[name]()
        index.save(path)
        np.savez_compressed(path.with_suffix(".npz"), **answers(index))
        print(f"{path.name}: {path.stat().st_size} bytes, {len(index)} rows")


if __name__ == "__main__":
    main(sys.argv[1:])
