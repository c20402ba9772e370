"""Bad input is refused in words and changes nothing; odd but good input works."""

import sys

import numpy as np
import pytest

import vecidx
from helpers import assert_same, assert_well_formed, run_python

DIM = 8


@pytest.fixture
def index(rng):
    index = vecidx.Index(DIM)
    index.add(rng.standard_normal((50, DIM)), ids=np.arange(100, 150))
    return index


@pytest.fixture
def unchanged(index):
    """After the test, the index must be what it was before."""
    before = index.ids(), index.get(index.ids()), index.stats()
    yield
    np.testing.assert_array_equal(index.ids(), before[0])
    np.testing.assert_array_equal(index.get(before[0]), before[1])
    assert index.stats() == before[2]
    index.check()


def rows(n=3):
    return np.ones((n, DIM), np.float32) * np.arange(1, n + 1, dtype=np.float32)[:, None]


# ---- shapes --------------------------------------------------------------------

@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("bad, says", [
    (np.ones((3, 7)), "expected 8 columns (this index's dim), got 7"),
    (np.ones((DIM, 3)), "transpose"),
    (np.ones(9), "expected 8 values (this index's dim), got 9"),
    (np.ones(0), "expected 8 values (this index's dim), got 0"),
    (np.ones((2, 3, DIM)), "expected 1 or 2 dimensions, got 3"),
    (np.ones((1, 1, 1, DIM)), "got 4"),
    (np.float32(1), "single number"),
    (3.5, "single number"),
    ([[1.0] * 8, [1.0] * 7], "differ in length"),
])
def test_wrong_shapes_are_refused(index, bad, says):
    for call, name in ((index.add, "vectors"), (index.search, "queries")):
        with pytest.raises(ValueError) as caught:
            call(bad)
        assert str(caught.value).startswith(name + ":") and says in str(caught.value)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("bad, says", [
    (["a", "b"], "strings"),
    (np.array([["1"] * DIM]), "strings"),
    (np.array([[b"1"] * DIM]), "bytes"),
    (np.full((2, DIM), None), "Python objects"),
    (np.ones((2, DIM), object), "Python objects"),
    (np.ones((2, DIM), complex), "complex"),
    (np.zeros((2, DIM), "datetime64[s]"), "dates"),
    (np.zeros(2, [("x", "f4", DIM)]), "records"),
    (np.ma.masked_equal(np.arange(2 * DIM).reshape(2, DIM), 3), "masked"),
    (None, "Python objects"),
    ({"a": 1}, "Python objects"),
])
def test_what_is_no_number_is_refused(index, bad, says):
    for call, name in ((index.add, "vectors"), (index.search, "queries")):
        with pytest.raises(TypeError) as caught:
            call(bad)
        assert str(caught.value).startswith(name + ":") and says in str(caught.value)


def test_no_rows_are_fine(index):
    for none in ([], np.empty((0, DIM)), np.empty((0, DIM), np.float32)):
        used = index.add(none)
        assert used.shape == (0,) and used.dtype == np.int64
        ids, distances = index.search(none, k=4)
        assert ids.shape == distances.shape == (0, 4)
        assert_well_formed(ids.reshape(-1, 4), distances)
    assert index.add([], ids=[]).shape == (0,)
    assert index.get([]).shape == (0, DIM)
    assert len(index) == 50


# ---- values --------------------------------------------------------------------

@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("row", [0, 2])
def test_values_that_have_no_distance_are_refused_with_their_row(index, value, row):
    for dtype in (np.float32, np.float64):
        bad = rows().astype(dtype)
        bad[row, 5] = value
        for call in (index.add, index.search):
            with pytest.raises(ValueError, match=rf"row {row}\b"):
                call(bad)
    one = rows()[0]
    one[DIM - 1] = value
    with pytest.raises(ValueError):
        index.search(one)                       # the one-vector path checks too
    with pytest.raises(ValueError):
        index.search(one, exact=True)


@pytest.mark.usefixtures("unchanged")
def test_float64_beyond_float32_is_refused_with_its_row(index):
    bad = rows().astype(np.float64)
    bad[1, 3] = -1e300
    for call in (index.add, index.search):
        with pytest.raises(ValueError, match="row 1 has -1e.300, beyond float32"):
            call(bad)


def test_a_zero_vector_is_refused_under_cosine_only(rng):
    bad = rng.standard_normal((4, DIM)).astype(np.float32)
    bad[2] = 0
    cosine = vecidx.Index(DIM, metric="cosine")
    cosine.add(bad[:2])
    for call in (cosine.add, cosine.search):
        with pytest.raises(ValueError, match=r"row 2\b"):
            call(bad)
    with pytest.raises(ValueError):
        cosine.search(bad[2])
    assert len(cosine) == 2
    for metric in ("l2", "ip"):
        index = vecidx.Index(DIM, metric=metric)
        assert len(index.add(bad)) == 4


def test_very_short_vectors_keep_their_direction_under_cosine():
    index = vecidx.Index(2, metric="cosine")
    index.add([[1e-20, 0], [0, 1e-20], [1e15, 1e15]])
    ids, distances = index.search([3e-21, 1e-22], k=3)
    assert ids.tolist() == [0, 2, 1]
    assert distances[0] < 0.001


# ---- k, ef and the other numbers -------------------------------------------------

@pytest.mark.parametrize("name, value, error", [
    ("k", 0, ValueError), ("k", -1, ValueError), ("k", 2**40, ValueError),
    ("k", 2.5, TypeError), ("k", "3", TypeError), ("k", True, TypeError), ("k", None, TypeError),
    ("ef", 0, ValueError), ("ef", -5, ValueError), ("ef", 1.5, TypeError), ("ef", True, TypeError),
    ("num_threads", 0, ValueError), ("num_threads", -1, ValueError),
    ("num_threads", "all", TypeError),
])
def test_numbers_out_of_range_are_refused_by_name(index, name, value, error):
    for query in (np.ones(DIM, np.float32), np.ones((2, DIM))):
        with pytest.raises(error, match=rf"^{name}: expected"):
            index.search(query, **{name: value})


def test_numpy_integers_are_integers(index):
    one = index.search(np.ones(DIM), k=np.int8(3), ef=np.uint16(50), num_threads=np.int64(1))
    assert_same(one, index.search(np.ones(DIM), k=3, ef=50, num_threads=1))


@pytest.mark.parametrize("exact", [False, True])
def test_k_beyond_the_index_is_padded(index, exact):
    ids, distances = index.search(np.ones(DIM), k=70, exact=exact)
    assert sorted(ids[:50]) == list(range(100, 150))
    assert (ids[50:] == -1).all() and np.isposinf(distances[50:]).all()
    assert_well_formed(ids, distances)


def test_ef_below_k_still_gives_k(index):
    ids, _ = index.search(np.ones(DIM), k=30, ef=1)
    assert (ids >= 0).all()


@pytest.mark.parametrize("args, kwargs, error, says", [
    ((0,), {}, ValueError, "dim: expected 1 to 65536, got 0"),
    ((65_537,), {}, ValueError, "dim: expected 1 to 65536"),
    (("8",), {}, TypeError, "dim: expected an integer"),
    ((8, "euclidean"), {}, ValueError,
     "metric: expected 'l2', 'ip', 'cosine', 'hamming', 'jaccard', got 'euclidean'"),
    ((8, "hamming"), {"dtype": "uint8"}, ValueError, 'use dtype "bits"'),
    ((8, None), {}, ValueError, "metric: expected"),
    ((8,), {"dtype": "bits"}, ValueError, 'use metric "hamming" or "jaccard"'),
    ((8,), {"dtype": np.int16}, ValueError, "dtype: expected 'float32', 'float16', 'bfloat16'"),
    ((8,), {"dtype": "complex64"}, ValueError, "dtype: expected 'float32'"),
    ((8,), {"M": 1}, ValueError, "M: expected 2 to 127"),
    ((8,), {"M": 128}, ValueError, "M: expected 2 to 127"),
    ((8,), {"ef_construction": 0}, ValueError, "ef_construction: expected"),
    ((8,), {"seed": -1}, ValueError, "seed: expected"),
    ((8,), {"seed": 2**64}, ValueError, "seed: expected"),
    ((8,), {"num_threads": 0}, ValueError, "num_threads: expected"),
    ((8,), {"capacity": -1}, ValueError, "capacity: expected"),
])
def test_constructor_arguments(args, kwargs, error, says):
    with pytest.raises(error) as caught:
        vecidx.Index(*args, **kwargs)
    assert says in str(caught.value)


def test_other_words_are_refused(index):
    with pytest.raises(ValueError, match="on_conflict: expected 'replace', 'error', 'skip'"):
        index.add(rows(), on_conflict="merge")
    with pytest.raises(TypeError, match="progress: expected"):
        index.add(rows(), progress="yes")
    with pytest.raises(TypeError):
        index.add(rows(), None, "replace")      # keyword-only
    with pytest.raises(TypeError):
        index.search(rows(), 3, 50)


# ---- ids -------------------------------------------------------------------------

@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("bad, error, says", [
    ([1, -1, 2], ValueError, "-1"),
    ([7, 8, 7], ValueError, "7"),
    ([1, 2], ValueError, "expected 3, one for each vector, got 2"),
    (5, ValueError, "expected 3, one for each vector, got 1"),
    ([[1, 2, 3]], ValueError, "1-D"),
    ([1, 2, 2**63], ValueError, "ids[2]: 9223372036854775808 is beyond int64"),
    ([1, 2**64, 3], ValueError, "ids[1]: 18446744073709551616 is beyond int64"),
    ([1, 2, -2**63 - 1], ValueError, "ids[2]"),
    (np.array([1, 2, 2**63], np.uint64), ValueError, "ids[2]: 9223372036854775808 is beyond"),
    ([1.0, 2.5, 3.0], ValueError, "ids[1]: 2.5 is not an integer"),
    ([1.0, 2.0, np.nan], ValueError, "ids[2]: nan is not an integer"),
    ([1.0, 2.0, np.inf], ValueError, "ids[2]"),
    ([1.0, 2.0, 2.0**60], ValueError, "ids[2]"),
    ([1.0, 2.0, 2**53 + 1], ValueError, "ids[2]: 9007199254740992.0 is too large"),
    (np.array([1, 2, 2**53], np.float64), ValueError, "exact integer as float64; pass int64"),
    (np.array([1, 2, 2**24], np.float32), ValueError, "exact integer as float32; pass int64"),
    (np.array([1, 2, 2**11], np.float16), ValueError, "exact integer as float16; pass int64"),
    (np.array([1, 2, -2**53], np.float64), ValueError, "exact integer as float64"),
    (np.array([1, 2, 2.0**63], np.longdouble), ValueError, "ids[2]"),
    ([True, False, True], TypeError, "booleans"),
    (["a", "b", "c"], TypeError, "ids: expected integers"),
    ([1, None, 3], TypeError, "ids[1]: expected an integer, got NoneType"),
    (np.array([1, "x", 3], object), TypeError, "ids[1]: expected an integer, got str"),
    (np.array([1, 2, 3], "m8[s]"), TypeError, "ids: expected integers"),
    (np.array([1, 2, 3j]), TypeError, "ids: expected integers"),
])
def test_bad_ids_are_refused(index, bad, error, says):
    with pytest.raises(error) as caught:
        index.add(rows(), ids=bad)
    assert says in str(caught.value)


@pytest.mark.parametrize("ids", [
    [2, 1, 0], (2, 1, 0), np.array([2, 1, 0], np.uint8), np.array([2, 1, 0], ">i8"),
    np.array([2, 1, 0], np.uint64), np.array([2.0, 1.0, 0.0]), np.array([2, 9, 1, 9, 0])[::2],
    np.array([2, 1, 0], object), range(2, -1, -1), np.array([2, 1, 0], np.float16),
])
def test_good_ids_of_any_type_work(ids):
    index = vecidx.Index(DIM)
    used = index.add(rows(), ids=ids)
    assert used.dtype == np.int64 and used.tolist() == [2, 1, 0]
    np.testing.assert_array_equal(index.get([0, 1, 2]), rows()[::-1])
    np.testing.assert_array_equal(index.get(ids), rows())


@pytest.mark.parametrize("dtype, digits", [(np.float64, 53), (np.float32, 24), (np.float16, 11)])
def test_float_ids_go_up_to_where_their_digits_end(dtype, digits):
    """2**53 as a float64 may have been 2**53 + 1, and used to be taken."""
    top = 2**digits - 1
    index = vecidx.Index(DIM)
    assert index.add(rows(2), ids=np.array([top - 1, top], dtype)).tolist() == [top - 1, top]
    np.testing.assert_array_equal(index.get(np.array([top], dtype)), rows(2)[1:])
    for call in (index.get, lambda ids: index.add(rows(1), ids=ids)):
        with pytest.raises(ValueError, match=r"ids\[0\]: .* is too large"):
            call(np.array([top + 1], dtype))
    assert len(index) == 2


def test_ids_go_up_to_the_end_of_int64():
    index = vecidx.Index(DIM)
    top = 2**63 - 1
    assert index.add(rows(1), ids=[top]).tolist() == [top]
    assert top in index and index.search(rows(1)[0], k=1)[0].tolist() == [top]
    with pytest.raises(ValueError, match="give ids"):
        index.add(rows(1))                       # no next number: said, not wrapped
    assert len(index) == 1


@pytest.mark.usefixtures("unchanged")
def test_unknown_ids_are_key_errors(index):
    for bad in (7, [100, 7], -1, [149, 150], 2**62):
        with pytest.raises(KeyError):
            index.get(bad)
    with pytest.raises(ValueError, match="beyond int64"):
        index.get(2**63)
    assert 100 in index and np.int32(149) in index
    assert 7 not in index and -1 not in index and 2**200 not in index
    for bad in ("100", 100.0, None, [100], True):
        with pytest.raises(TypeError):
            bad in index                         # noqa: B015


# ---- arrays that are odd but good --------------------------------------------------

def odd_arrays(base):
    wide = np.zeros((len(base), 2 * DIM), np.float32)
    wide[:, ::2] = base
    read_only = base.copy()
    read_only.flags.writeable = False
    raw = bytearray(4 + base.nbytes)
    unaligned = np.frombuffer(raw, np.float32, base.size, offset=1).reshape(base.shape)
    unaligned[:] = base
    swapped = base.astype(base.dtype.newbyteorder("S"))
    return {
        "float64": base.astype(np.float64), "float16": base.astype(np.float16),
        "longdouble": base.astype(np.longdouble), "int64": base.astype(np.int64),
        "uint8": np.abs(base).astype(np.uint8), "fortran": np.asfortranarray(base),
        "strided": wide[:, ::2], "reversed": base[::-1][::-1][:, ::-1][:, ::-1],
        "negative stride": np.ascontiguousarray(base[:, ::-1])[:, ::-1],
        "other byte order": swapped, "read-only": read_only, "unaligned": unaligned,
        "lists": base.tolist(), "tuples": tuple(map(tuple, base.tolist())),
        "list of arrays": list(base),
        "unmasked": np.ma.array(base), "broadcast": np.broadcast_to(base[:1], base.shape),
    }


@pytest.mark.parametrize("kind", sorted(odd_arrays(np.ones((1, DIM), np.float32))))
def test_odd_arrays_work(kind, rng):
    base = rng.integers(0, 100, (20, DIM)).astype(np.float32)
    odd = odd_arrays(base)[kind]
    plain = np.array(np.asarray(odd), dtype=np.float32, order="C")
    index, expected = vecidx.Index(DIM), vecidx.Index(DIM)
    ids = index.add(odd)
    expected.add(plain)
    np.testing.assert_array_equal(index.get(ids), plain)
    assert_same(index.search(odd, k=5), expected.search(plain, k=5))
    one = odd[3]
    if np.ndim(one) == 1:
        assert_same(index.search(one, k=5), expected.search(plain[3], k=5))


def test_booleans_are_numbers_to_a_vector():
    index = vecidx.Index(4)
    index.add(np.array([[True, False, True, False], [False] * 4]))
    assert index.get(0).tolist() == [1, 0, 1, 0]


def test_the_caller_keeps_his_array(rng):
    """The index copies: what happens to the array later does not matter."""
    mine = rng.standard_normal((10, DIM)).astype(np.float32)
    index = vecidx.Index(DIM, metric="cosine")
    before = mine.copy()
    index.add(mine)
    np.testing.assert_array_equal(mine, before)
    mine[:] = np.nan
    np.testing.assert_allclose(index.get(np.arange(10)), before, rtol=1e-5)


# ---- an empty index, and the limits of dim ------------------------------------------

@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_an_empty_index_answers(metric, tmp_path):
    index = vecidx.Index(DIM, metric=metric)
    for exact in (False, True):
        ids, distances = index.search(np.ones((2, DIM)), k=3, exact=exact)
        assert (ids == -1).all() and np.isposinf(distances).all()
        assert (index.search(np.ones(DIM, np.float32), exact=exact)[0] == -1).all()
    assert len(index) == 0 and 0 not in index and index.ids().shape == (0,)
    assert index.stats()["count"] == 0 and index.check()["unreachable"] == 0
    assert "empty" in repr(index)
    with pytest.raises(KeyError):
        index.get(0)
    index.save(tmp_path / "empty.vidx")
    again = vecidx.load(tmp_path / "empty.vidx")
    assert len(again) == 0 and again.metric == metric
    assert again.add(rows()).tolist() == [0, 1, 2]


@pytest.mark.parametrize("dim", [1, 65_536])
@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_smallest_and_largest_dim(dim, metric, rng):
    data = rng.standard_normal((40, dim)).astype(np.float32)
    index = vecidx.Index(dim, metric=metric)
    index.add(data)
    ids, distances = index.search(data[:5], k=3, ef=100)
    exact_ids, exact_distances = index.search(data[:5], k=3, exact=True)
    assert_well_formed(ids, distances)
    np.testing.assert_array_equal(distances, exact_distances)
    if metric == "l2":
        assert ids[:, 0].tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(index.get(7), data[7], rtol=1e-5)
    index.check()


# ---- a process without memory ---------------------------------------------------------

OUT_OF_MEMORY = """
import resource, sys
import numpy as np, vecidx
dim, piece = 65_536, 16
rows = np.random.default_rng(0).standard_normal((piece, dim), dtype=np.float32)
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (160 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
index = vecidx.Index(dim, M=4, ef_construction=8, num_threads=1)
in_index = 0
try:
    for i in range(200):                       # 800 MB in all
        index.add(rows + i, ids=np.arange(i * piece, (i + 1) * piece))
        in_index += piece
except MemoryError as err:
    print("MemoryError after", in_index, len(index))
    assert any("rows are in the index" in note for note in getattr(err, "__notes__", [])) \\
        or len(index) == in_index
else:
    sys.exit("no MemoryError")
assert in_index > 0 and len(index) >= in_index
assert sorted(index.ids())[:in_index] == list(range(in_index))
query = index.get(3)
ids, distances = index.search(query, k=5, ef=50)
assert ids[0] == 3 and distances[0] == 0, (ids, distances)
ids, distances = index.search(query, k=1, exact=True)
assert ids[0] == 3
index.check()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs RLIMIT_AS and /proc")
def test_without_memory_the_index_stays(tmp_path):
    """RLIMIT_AS: MemoryError, and what was in the index is still found."""
    # BLAS threads would eat the address space that the index is to run out of.
    code, out, err = run_python(OUT_OF_MEMORY, env={"OPENBLAS_NUM_THREADS": "1"})
    assert code == 0 and out.startswith("MemoryError after"), out + err
