"""Under "auto" rows of whole numbers from 0 to 255 are held as bytes; nobody can tell, but by the
memory they take."""

import pickle
import threading

import numpy as np
import pytest

import vecidx
from helpers import assert_same, exact_kth, recall

DIM = 48
FLOATS = ("float32", "float16", "bfloat16")
N = 10_000


def pixels(seed, n, dim=DIM):
    """Clumps of whole numbers, with both ends of a byte among them."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).uniform(20, 235, (50, dim))
    rows = centres[rng.integers(50, size=n)] + 25 * rng.standard_normal((n, dim))
    return np.clip(np.rint(rows), 0, 255).astype(np.float32)


def build(rows, dtype="float32", **options):
    index = vecidx.Index(rows.shape[1], dtype=dtype, M=8, ef_construction=40, **options)
    index.add(rows)
    return index


def is_held(index):
    memory = index.memory()
    return memory["codes"] == 0 and memory["vectors"] == len(index) * (-(-index.dim // 64) * 64)


@pytest.fixture(scope="module")
def rows():
    return pixels(1, N)


@pytest.fixture(scope="module")
def saved(rows, tmp_path_factory):
    """A held index in a file."""
    path = tmp_path_factory.mktemp("held") / "pixels.vidx"
    index = build(rows)
    assert is_held(index)
    index.save(path)
    return path


@pytest.mark.parametrize("dim", [33, 64, 65, 128, 257])
@pytest.mark.parametrize("dtype", FLOATS)
def test_held_and_given_back(dtype, dim):
    """Whole numbers of a byte are exact in each of these dtypes."""
    rows = pixels(2, N, dim)
    index = build(rows, dtype)
    assert is_held(index)
    kept = index.get(np.arange(0, N, 7))
    assert kept.dtype == (np.float16 if dtype == "float16" else np.float32)
    np.testing.assert_array_equal(kept, rows[::7])
    queries = pixels(3, 100, dim)
    kth = exact_kth(queries, rows, "l2", 10)
    assert recall(index.search(queries, 10, ef=100)[1], kth) > 0.97
    ids, distances = index.search(queries, 10, exact=True)
    exact = ((rows[ids].astype(np.float64) - queries[:, None]) ** 2).sum(-1)
    np.testing.assert_array_equal(distances, exact)     # of whole numbers below 2^24
    assert index.check() == {"unreachable": 0}


@pytest.mark.parametrize("metric, options", [
    ("cosine", {}), ("ip", {}), ("l2", {"quantization": "sq8"}), ("l2", {"quantization": None})])
def test_others_are_not(rows, metric, options):
    index = build(rows, metric=metric, **options)
    assert index.memory()["vectors"] == N * DIM * 4
    np.testing.assert_array_equal(np.rint(index.get(range(50))), rows[:50])


@pytest.mark.parametrize("value", [-1.0, 256.0, 0.5, 254.75, -0.25, 60_000.0])
def test_one_value_that_is_no_byte(rows, value):
    """In the last row, in the last place: where a look that ends early would miss it."""
    other = rows.copy()
    other[-1, -1] = value
    index = build(other)
    assert index.memory()["vectors"] == N * DIM * 4
    np.testing.assert_array_equal(index.get(range(N - 50, N)), other[-50:])


@pytest.mark.parametrize("kind", ["fractions", "below", "beyond"])
def test_queries_of_any_kind(saved, rows, kind):
    """They are compared as they are, not as the bytes next to them."""
    index, plain = vecidx.load(saved), build(rows, quantization=None)
    queries = pixels(4, 200)
    queries += {"fractions": 0.37, "below": -90, "beyond": 140}[kind]
    kth = exact_kth(queries, rows, "l2", 10)
    got, want = index.search(queries, 10, ef=100), plain.search(queries, 10, ef=100)
    assert recall(got[1], kth) >= recall(want[1], kth) - 0.01
    exact = ((rows[got[0]].astype(np.float64) - queries[:, None]) ** 2).sum(-1)
    np.testing.assert_allclose(got[1], exact, rtol=1e-5)
    found = index.range_search(queries[:20], radius=float(kth[:20].max()), ef=200)[2]
    assert (found <= kth[:20].max()).all()
    one = index.search(queries[0], 10, ef=100)
    assert_same(one, (got[0][0], got[1][0]))


def test_filtered_and_by_row(saved, rows):
    index = vecidx.load(saved)
    queries = pixels(5, 50) + 0.25
    allowed = np.arange(0, N, 9)
    kth = exact_kth(queries, rows[allowed], "l2", 10)
    ids, distances = index.search(queries, 10, filter=vecidx.Filter(allowed))
    assert np.isin(ids, allowed).all() and recall(distances, kth) > 0.97
    near = index.search(ids=np.arange(30), k=3, exact=True)
    kth = np.sort(((rows[:30, None].astype(float) - rows[None]) ** 2).sum(-1), 1)[:, 1:4]
    np.testing.assert_array_equal(near[1], kth)


@pytest.mark.parametrize("mode", [{}, {"verify": True}, {"mmap": True}, {"mmap": "vectors"}],
                         ids=str)
def test_files(saved, rows, mode):
    index = vecidx.load(saved, **mode)
    queries = pixels(6, 50) + 0.5
    assert_same(index.search(queries, 10, ef=50), build(rows).search(queries, 10, ef=50))
    np.testing.assert_array_equal(index.get(range(20)), rows[:20])
    assert index.check() == {"unreachable": 0}


@pytest.mark.parametrize("dim", [DIM, 260])
def test_only_what_is_walked_is_read_in(dim, tmp_path):
    """By rank codes, from 257 dimensions on, the vectors are not."""
    rng = np.random.default_rng(3)                      # ten dimensions of their own: ranks tell
    rows = rng.standard_normal((N, 10)) @ rng.standard_normal((10, dim)) * 12 + 128
    index = build(np.clip(np.rint(rows), 0, 255).astype(np.float32))
    assert is_held(index) and (index.memory()["ranks"] > 0) == (dim > 256)
    index.save(tmp_path / "a.vidx")
    with vecidx.load(tmp_path / "a.vidx", mmap="vectors") as mapped:
        assert mapped.memory()["vectors"] == (N * 64 if dim == DIM else 0)


def test_copies(saved):
    index = vecidx.load(saved)
    queries = pixels(6, 20)
    for other in (pickle.loads(pickle.dumps(index)), vecidx.from_bytes(index.to_bytes())):
        assert is_held(other)
        assert_same(index.search(queries, 5, ef=50), other.search(queries, 5, ef=50))


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_row_that_is_no_byte_widens_all(rows, dtype):
    """Nothing is lost, and what was found is found."""
    index = build(rows, dtype)
    more = pixels(8, 500)
    more[300:] += 0.5
    queries = np.concatenate([pixels(9, 100), more[300:] + 0.25])
    index.add(more[:300])
    assert is_held(index)
    index.add(more[300:])
    bytes_of_value = 4 if dtype == "float32" else 2
    assert index.memory()["vectors"] == len(index) * -(-DIM * bytes_of_value // 64) * 64
    everything = np.concatenate([rows, more])
    step = 2.0 ** -8 if dtype == "bfloat16" else 0      # its halves have no room beside 7 bits
    np.testing.assert_allclose(index.get(range(0, N + 500, 3)), everything[::3], rtol=step)
    kth = exact_kth(queries, everything, "l2", 10)
    assert recall(index.search(queries, 10, ef=100)[1], kth) > 0.97
    assert index.check() == {"unreachable": 0}


def test_replaced_by_a_row_that_is_no_byte(rows):
    index = build(rows)
    index.add(rows[5] + 0.5, ids=[5])
    assert not is_held(index) and len(index) == N
    np.testing.assert_array_equal(index.get([5, 6]), [rows[5] + 0.5, rows[6]])
    assert index.search(rows[5] + 0.5, 1)[0][0] == 5


def test_held_again_once_the_others_are_gone():
    """What is dead, and where it lies, does not matter."""
    rows = pixels(1, N + 50)
    index = build(rows)
    index.add(pixels(8, 40) + 700.5)
    index.delete(np.arange(N + 50, N + 90))
    index.delete(np.arange(10))
    assert not is_held(index)
    index.compact()
    assert is_held(index)
    np.testing.assert_array_equal(index.get(range(10, 60)), rows[10:60])
    queries = pixels(9, 50)
    kth = exact_kth(queries, rows[10:], "l2", 10)
    assert recall(index.search(queries, 10, ef=100)[1], kth) > 0.97
    assert index.check() == {"unreachable": 0}


def test_training_while_the_dead_are_no_bytes():
    """Their places are taken again, by rows that are."""
    index = vecidx.Index(DIM, M=8, ef_construction=40)
    index.add(pixels(1, 5_000) + 0.5)
    index.delete(np.arange(200, 5_000))
    index.add(pixels(2, 6_000), ids=np.arange(10_000, 16_000))
    index.delete(np.arange(200))
    index.add(pixels(3, 9_000), ids=np.arange(20_000, 29_000))
    assert index.check() == {"unreachable": 0}
    index.compact()
    assert is_held(index)
    want = np.concatenate([pixels(2, 6_000), pixels(3, 9_000)])
    np.testing.assert_array_equal(index.get(np.r_[10_000:16_000, 20_000:29_000]), want)


@pytest.mark.parametrize("first, second", [("bytes", "floats"), ("floats", "bytes"),
                                           ("bytes", "bytes")])
def test_merging(first, second):
    make = {"bytes": pixels(1, N), "floats": pixels(2, N) + 0.5}
    one = build(make[first])
    two_rows = make[second][: N // 2]
    two = build(make[second])
    two.delete(np.arange(N // 2, N))
    one.merge(two, on_conflict="skip") if first == second else one.delete(np.arange(N // 2))
    if first != second:
        one.merge(two)
        np.testing.assert_array_equal(one.get(range(N // 2)), two_rows)
        np.testing.assert_array_equal(one.get(range(N // 2, N)), make[first][N // 2:])
    assert is_held(one) == (first == second)
    assert one.check() == {"unreachable": 0}


def test_searches_while_rows_widen(rows):
    """Searches see rows as bytes or as floats, and the same numbers in both."""
    index = build(rows)
    queries = pixels(9, 64)
    want = index.search(queries, 5, exact=True)
    wrong, done = [], threading.Event()

    def search():
        while not done.is_set():
            for exact in (True, False):
                ids, distances = index.search(queries, 5, exact=exact, ef=200, num_threads=1)
                if exact and not ((ids == want[0]).all() and (distances == want[1]).all()):
                    wrong.append(ids)
            if not (index.get(range(100)) == rows[:100]).all():
                wrong.append("get")

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    far = np.full(DIM, 5_000.5, np.float32)
    for i in range(3):
        index.add(far + i)
        index.delete([N + i])
        index.compact()
        assert is_held(index)
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong
