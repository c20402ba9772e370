"""Oracles and comparisons that the tests share.  All arithmetic is float64."""

import importlib
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "examples" / "data" / "wordnet-sample.npz"
METRICS = ("l2", "ip", "cosine")

# The fast tier, `pytest -m fast`: every kernel, call and file kind once, in seconds even where an
# emulator or a sanitizer makes them minutes.  It needs nothing but numpy and pytest.
FAST = ("test_api_bad_input.py", "test_api_conflict.py", "test_api_index.py", "test_bits.py",
        "test_capi.py", "test_dist_bits.py", "test_dist_dtypes.py", "test_dist_kernels.py",
        "test_golden.py", "test_simd_env.py", "test_store_roundtrip.py", "test_strings.py",
        "test_threadpoolctl.py")
# In those files, tests of many rows or bytes.
NOT_FAST = ("test_a_large_quantised_index_comes_back", "test_every_changed_byte_is_noticed",
            "test_every_cut_is_noticed", "test_smallest_and_largest_dim",
            "test_the_walk_finds", "test_without_memory_the_index_stays",
            "test_progress_callable_sees_the_end")


def exact_distances(queries, rows, metric):
    """All distances, (len(queries), len(rows))."""
    queries = np.atleast_2d(np.asarray(queries, np.float64))
    rows = np.atleast_2d(np.asarray(rows, np.float64))
    if metric == "jaccard":                 # of bits, unpacked
        either = np.stack([np.maximum(rows, query).sum(axis=1) for query in queries])
        differ = exact_distances(queries, rows, "hamming")
        return differ / np.maximum(either, 1)
    if metric in ("l2", "hamming"):
        # Differences and not the expanded square, which cancels for near rows;
        # query by query, so that memory stays small.
        return np.stack([((rows - query) ** 2).sum(axis=1) for query in queries])
    if metric == "cosine":
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return 1.0 - queries @ rows.T


def exact_kth(queries, rows, metric, k):
    """The distance of each query's k-th nearest row."""
    return np.partition(exact_distances(queries, rows, metric), k - 1, axis=1)[:, k - 1]


def tolerance(distances):
    """What float32 may be off by, for distances of ordinary size."""
    return 1e-5 * np.abs(distances) + 2e-6


def recall(found_distances, kth):
    """Share of found neighbours that are as near as the true k-th, ties counting as right."""
    limit = kth + tolerance(kth)
    return float((found_distances <= limit[:, None]).mean())


def assert_well_formed(ids, distances):
    """Rising distances, ties by id, no id twice, padding last and only as (-1, inf)."""
    ids, distances = np.atleast_2d(ids), np.atleast_2d(distances)
    assert ids.dtype == np.int64 and distances.dtype == np.float32
    assert ids.shape == distances.shape
    missing = ids == -1
    assert (np.isinf(distances) == missing).all()
    assert not np.isnan(distances).any()
    assert (ids[~missing] >= 0).all()
    for row_ids, row_distances in zip(ids, distances, strict=True):
        order = np.lexsort((np.where(row_ids < 0, np.iinfo(np.int64).max, row_ids), row_distances))
        assert (order == np.arange(len(order))).all(), (row_ids, row_distances)
        real = row_ids[row_ids >= 0]
        assert len(np.unique(real)) == len(real), f"an id twice: {row_ids}"


def assert_true_distances(ids, distances, queries, row_of_id, metric):
    """Every distance reported is the distance of the row that has this id."""
    queries = np.atleast_2d(queries)
    for query, row_ids, row_distances in zip(queries, np.atleast_2d(ids),
                                             np.atleast_2d(distances), strict=True):
        real = row_ids >= 0
        if not real.any():
            continue
        rows = np.stack([row_of_id[int(i)] for i in row_ids[real]])
        want = exact_distances(query, rows, metric)[0]
        np.testing.assert_allclose(row_distances[real], want, rtol=1e-4, atol=1e-5)


def assert_same(one, other):
    """Two search results, equal to the bit."""
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])


def first_member(path):
    """Where the compressed bytes of an archive's first member lie: (begin, end)."""
    with zipfile.ZipFile(path) as archive:
        info = archive.infolist()[0]
    assert info.header_offset == 0
    name_length, extra_length = struct.unpack_from("<HH", Path(path).read_bytes(), 26)
    begin = 30 + name_length + extra_length
    return begin, begin + info.compress_size


def damaged_archives(path):
    """Copies of an .npz whose first member cannot be read: [(how, bytes), ...]."""
    whole = Path(path).read_bytes()
    begin, end = first_member(path)
    with zipfile.ZipFile(path) as archive:
        directory = archive.start_dir

    def changed(*changes):
        data = bytearray(whole)
        for position, byte in changes:
            data[position] = byte
        return bytes(data)

    middle = (begin + end) // 2
    return [
        ("flipped", changed((middle, whole[middle] ^ 0xFF))),
        # Block type 3 does not exist: zlib.error.
        ("no deflate", changed((begin, whole[begin] | 6))),
        # The header and the directory both hold the flags, then the method.
        ("encrypted", changed((6, whole[6] | 1), (directory + 8, whole[directory + 8] | 1))),
        ("unknown method", changed((8, 99), (directory + 10, 99))),
    ]


def hnswlib_file(rows, labels, *, M=4, max_elements=None, deleted=(), links=None):
    """What hnswlib.Index.save_index writes, of a graph of one layer."""
    n, dim = rows.shape
    vector_at = 4 + 4 * 2 * M
    label_at = vector_at + 4 * dim
    out = bytearray(struct.pack("<6QiI3QdQ", 0, max_elements or n, n, label_at + 8, label_at,
                                vector_at, 0, 0, M, 2 * M, M, 1.0, 30))
    for i in range(n):
        out += struct.pack("<HBB", 1, i in deleted, 0) + struct.pack(f"<{2 * M}I", *[0] * 2 * M)
        out += rows[i].astype("<f4").tobytes() + struct.pack("<Q", labels[i])
    for i in range(n):
        out += struct.pack("<I", 4 * i) + b"\0" * (4 * i)       # as upper layers would have them
    return bytes(out)


def needs(module):
    """A package that only `make ecosystem` installs: the module, or a skip that says so."""
    try:
        return importlib.import_module(module)
    except ImportError:
        if os.environ.get("VECIDX_ECOSYSTEM") == "1":
            raise
        pytest.skip(f"{module} is not installed; `make ecosystem` runs this",
                    allow_module_level=True)


# The interpreter for a process of its own: under the emulator, where the tests run under one.
PYTHON = [*os.environ.get("VECIDX_EMULATOR", "").split(), sys.executable]


def run_python(code, *args, env=None, timeout=120):
    """Run code in a fresh interpreter; (exit code, stdout, stderr)."""
    done = subprocess.run([*PYTHON, "-c", code, *map(str, args)], text=True,
                          capture_output=True, timeout=timeout,
                          env={**os.environ, **(env or {})})
    return done.returncode, done.stdout, done.stderr
