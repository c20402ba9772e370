"""vecidx.compat.hnswlib by itself: what a program that was written for hnswlib meets.

tests/ecosystem/test_peer_hnswlib.py does the same calls on hnswlib.
"""

import copy
import pickle
import sys
import threading

import numpy as np
import pytest

import vecidx
from helpers import exact_distances, hnswlib_file, run_python
from vecidx.compat import hnswlib, install, uninstall
from vecidx.compat._errors import CompatError

SPACES = ("l2", "ip", "cosine")


def made(space="l2", n=200, dim=8, *, max_elements=None, seed=0, **options):
    rows = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    index = hnswlib.Index(space, dim)
    index.init_index(n if max_elements is None else max_elements, **options)
    index.add_items(rows)
    return index, rows


# ---- searching -----------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", [hnswlib.Index, hnswlib.BFIndex])
def test_the_nearest_with_hnswlibs_distances(space, kind, rng):
    rows = rng.standard_normal((400, 12)).astype(np.float32)
    queries = rng.standard_normal((20, 12))
    index = kind(space=space, dim=12)
    index.init_index(max_elements=400)
    index.add_items(rows)
    if kind is hnswlib.Index:
        index.set_ef(400)
    labels, distances = index.knn_query(queries, k=7)
    assert labels.dtype == np.uint64 and distances.dtype == np.float32
    exact = exact_distances(queries, rows, space)
    np.testing.assert_array_equal(labels, np.argsort(exact, axis=1)[:, :7])
    np.testing.assert_allclose(distances, np.sort(exact, axis=1)[:, :7], rtol=1e-4, atol=1e-5)


def test_one_vector_gives_one_row():
    index, rows = made()
    labels, distances = index.knn_query(rows[3], k=2)
    assert labels.shape == distances.shape == (1, 2) and labels[0, 0] == 3


def test_more_than_there_is_cannot_be_asked_for():
    index, rows = made(n=5)
    with pytest.raises(RuntimeError, match="Cannot return the results in a contiguous 2D array"):
        index.knn_query(rows[:2], k=6)
    assert index.knn_query(rows[:2], k=0)[0].shape == (2, 0)
    assert index.knn_query(rows[:0], k=3)[0].shape == (0, 3)


def test_cosine_keeps_unit_vectors_and_takes_a_zero_one():
    index, rows = made("cosine", n=20, max_elements=30)
    np.testing.assert_allclose(np.linalg.norm(index.get_items([1, 7]), axis=1), 1, rtol=1e-6)
    index.add_items(np.zeros(8), 25)
    assert (index.get_items([25]) == 0).all()
    labels, distances = index.knn_query(np.zeros(8), k=21)
    assert (distances == 1).all() and set(labels[0]) == {*range(20), 25}


def test_ef_is_ten_at_first_and_after_a_load(tmp_path):
    index, _ = made()
    assert index.ef == 10
    index.ef = 50
    index.set_ef(60)
    assert index.ef == 60
    index.save_index(tmp_path / "x")
    index.load_index(tmp_path / "x")
    assert index.ef == 10


# ---- adding and deleting --------------------------------------------------------------


def test_default_labels_go_on_from_the_number_of_rows_added():
    index, rows = made(n=3, max_elements=20)
    index.add_items(rows[:2])
    index.add_items(rows[:1], [1])                # a replacement counts too
    index.add_items(rows[:1])
    assert sorted(index.get_ids_list()) == [0, 1, 2, 3, 4, 6]
    assert index.get_current_count() == index.element_count == len(index) == 6


def test_of_a_label_given_twice_the_last_row_stays():
    index, rows = made(n=3, max_elements=9)
    index.add_items(rows, [7, 7, 8])
    np.testing.assert_array_equal(index.get_items([7, 8]), rows[[1, 2]])
    assert index.element_count == 5


def test_too_many_rows_change_nothing():
    index, rows = made(n=5, max_elements=8)
    with pytest.raises(RuntimeError, match="The number of elements exceeds the specified limit"):
        index.add_items(rows[:4])
    assert index.element_count == 5
    index.resize_index(9)
    index.add_items(rows[:4])
    assert index.get_max_elements() == index.max_elements == 9
    with pytest.raises(RuntimeError, match="Cannot resize, max element is less"):
        index.resize_index(8)


def test_deleted_rows_hide_and_come_back():
    index, rows = made(n=10)
    index.mark_deleted(4)
    assert index.knn_query(rows[4])[0][0, 0] != 4
    assert index.element_count == 10 and sorted(index.get_ids_list()) == list(range(10))
    with pytest.raises(RuntimeError, match="Label not found"):
        index.get_items([4])
    with pytest.raises(RuntimeError, match="Cannot return"):
        index.knn_query(rows[4], k=10)
    with pytest.raises(RuntimeError, match="already deleted"):
        index.mark_deleted(4)
    index.unmark_deleted(4)
    assert index.knn_query(rows[4])[0][0, 0] == 4
    with pytest.raises(RuntimeError, match="is not deleted"):
        index.unmark_deleted(4)
    for call in (index.mark_deleted, index.unmark_deleted):
        with pytest.raises(RuntimeError, match="Label not found"):
            call(99)
    index.mark_deleted(np.array([5]))             # as txtai and others pass it
    index.add_items(rows[9], 5)                   # revives it
    np.testing.assert_array_equal(index.get_items([5]), rows[9:])
    assert index.element_count == 10


def test_replace_deleted():
    index, rows = made(n=5, allow_replace_deleted=True)
    index.mark_deleted(1)
    index.mark_deleted(2)
    with pytest.raises(RuntimeError, match="Can't use addPoint to update deleted elements"):
        index.add_items(rows[0], 1)
    index.add_items(rows[:2], [70, 71], replace_deleted=True)
    assert sorted(index.get_ids_list()) == [0, 3, 4, 70, 71] and index.element_count == 5
    with pytest.raises(RuntimeError, match="exceeds"):
        index.add_items(rows[:1], [72], replace_deleted=True)
    index.mark_deleted(70)
    index.add_items(rows[:1], [70], replace_deleted=True)
    assert index.element_count == 5 and index.knn_query(rows[0], k=2)[1].max() == 0
    plain, _ = made()
    with pytest.raises(RuntimeError, match="Replacement of deleted elements is disabled"):
        plain.add_items(rows[0], 900, replace_deleted=True)


def test_bruteforce_deletes():
    index = hnswlib.BFIndex("l2", 4)
    index.init_index(6)
    rows = np.eye(4, dtype=np.float32)
    index.add_items(rows)
    index.delete_vector(2)
    index.delete_vector(2)                        # hnswlib says nothing
    assert index.get_current_count() == 3 and index.knn_query(rows[2])[0][0, 0] != 2
    index.add_items(rows[2:3])
    assert index.knn_query(rows[2])[0][0, 0] == 4
    with pytest.raises(RuntimeError, match="Cannot return"):
        index.knn_query(rows[2], k=5)             # hnswlib returns garbage


# ---- what hnswlib lets pass, or crashes on ----------------------------------------------


@pytest.mark.parametrize("call", [
    lambda i: i.knn_query(np.zeros(4)), lambda i: i.add_items(np.zeros(4)),
    lambda i: i.get_items([0]), lambda i: i.save_index("x"), lambda i: i.mark_deleted(0),
    lambda i: i.resize_index(9), lambda i: i.get_current_count(), lambda i: i.get_ids_list()])
def test_before_init_index_it_is_an_error(call):
    """hnswlib 0.8.0 crashes on each of these."""
    with pytest.raises(RuntimeError, match="call init_index or load_index first"):
        call(hnswlib.Index("l2", 4))


@pytest.mark.parametrize("call, says", [
    (lambda i, r: i.init_index(5), "already initiated"),
    (lambda i, r: i.add_items(r[:, :3]), "Wrong dimensionality of the vectors"),
    (lambda i, r: i.knn_query(r[:, :3]), "Wrong dimensionality of the vectors"),
    (lambda i, r: i.add_items(r[None]), "Number of dimensions 3"),
    (lambda i, r: i.add_items(r[:3], [1, 2]), "input label shape 1 does not match .* shape 3"),
    (lambda i, r: i.add_items(r[0], -1), "0 to 2[*][*]63 - 1, got -1"),
    (lambda i, r: i.add_items(r[0], 2**63), "0 to 2[*][*]63 - 1, got 9223372036854775808"),
    (lambda i, r: i.get_items([999]), "Label not found"),
    (lambda i, r: hnswlib.Index("foo", 4), "Space name must be one of l2, ip, or cosine"),
])
def test_errors_are_runtime_errors_and_change_nothing(call, says):
    index, rows = made(n=10)
    with pytest.raises(RuntimeError, match=says) as raised:
        call(index, rows)
    assert isinstance(raised.value, (CompatError, vecidx.VecidxError))
    assert index.element_count == 10


def test_nan_is_refused():
    index, rows = made(n=10, max_elements=20)
    with pytest.raises(ValueError, match="NaN"):
        index.add_items(np.full((2, 8), np.nan), [11, 12])
    assert index.element_count == 10
    with pytest.raises(ValueError, match="NaN"):
        index.knn_query(np.full(8, np.nan))


@pytest.mark.parametrize("call, error", [
    (lambda i: i.get_items(3), ValueError),
    (lambda i: i.get_items([3], return_type="x"), ValueError),
    (lambda i: i.mark_deleted(-1), TypeError), (lambda i: i.mark_deleted("a"), TypeError),
    (lambda i: i.mark_deleted(np.array([1, 2])), TypeError), (lambda i: i.set_ef(-1), TypeError),
    (lambda i: i.knn_query("a"), ValueError), (lambda i: setattr(i, "dim", 3), AttributeError)])
def test_other_errors_are_of_hnswlibs_kinds(call, error):
    with pytest.raises(error):
        call(made(n=10)[0])


# ---- files, pickles, copies ---------------------------------------------------------------


def same(one, other, queries):
    for a, b in zip(one.knn_query(queries, k=5), other.knn_query(queries, k=5)):
        np.testing.assert_array_equal(a, b)
    assert sorted(one.get_ids_list()) == sorted(other.get_ids_list())
    for name in ("space", "dim", "max_elements", "element_count", "M", "ef_construction"):
        assert getattr(one, name) == getattr(other, name), name


@pytest.mark.parametrize("space", SPACES)
def test_a_saved_index_is_the_same(space, tmp_path):
    index, rows = made(space, max_elements=500, M=8, ef_construction=50,
                       allow_replace_deleted=True)
    index.mark_deleted(7)
    path = tmp_path / "index.bin"
    index.save_index(str(path))
    again = hnswlib.Index(space, 8)
    again.load_index(str(path))
    same(index, again, rows[:20])
    again.unmark_deleted(7)
    assert again.get_items([7]).shape == (1, 8)
    again.load_index(path, max_elements=900)
    assert again.max_elements == 900
    again.load_index(path, max_elements=10)       # too few for what is in it: the file's
    assert again.max_elements == 500
    assert [p.name for p in tmp_path.iterdir()] == ["index.bin"]


@pytest.mark.parametrize("renew", [
    lambda i: pickle.loads(pickle.dumps(i)), copy.copy, copy.deepcopy,
    lambda i: hnswlib.Index(index=i), lambda i: hnswlib.Index(i),
    lambda i: hnswlib.Index(params=i.__getstate__()[0])])
def test_a_copy_is_the_same_and_its_own(renew):
    index, rows = made("cosine", max_elements=300)
    index.set_ef(77)
    index.set_num_threads(1)
    index.mark_deleted(3)
    other = renew(index)
    same(index, other, rows[:20])
    assert (other.ef, other.num_threads) == (77, 1)
    other.add_items(rows[:1], [250])
    assert 250 not in index.get_ids_list()
    empty = renew(hnswlib.Index("ip", 3))
    assert (empty.space, empty.dim, empty.max_elements) == ("ip", 3, 0)


def test_bruteforce_files_and_pickles(tmp_path):
    index = hnswlib.BFIndex("ip", 4)
    index.init_index(9)
    index.add_items(np.eye(4), [4, 5, 6, 7])
    index.save_index(tmp_path / "b")
    other = hnswlib.BFIndex("ip", 4)
    other.load_index(tmp_path / "b")
    for again in (other, pickle.loads(pickle.dumps(index))):
        assert again.get_max_elements() == 9
        np.testing.assert_array_equal(again.knn_query(np.eye(4))[0][:, 0], [4, 5, 6, 7])
    with pytest.raises(RuntimeError, match="holds a hnswlib.BFIndex, not a hnswlib.Index"):
        hnswlib.Index("ip", 4).load_index(tmp_path / "b")


def test_a_file_of_another_kind_is_refused(tmp_path):
    """hnswlib loads a file of another dim, and answers."""
    index, _ = made()
    index.save_index(tmp_path / "x")
    for other in (hnswlib.Index("l2", 9), hnswlib.Index("ip", 8)):
        with pytest.raises(ValueError, match="expected space .* and dim"):
            other.load_index(tmp_path / "x")
    with pytest.raises(RuntimeError, match="Cannot open file"):
        index.load_index(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError) as raised:       # hnswlib says nothing
        index.save_index(tmp_path / "no" / "folder")
    assert raised.value.filename == str(tmp_path / "no" / "folder")


def test_a_damaged_file_is_refused_and_the_index_stays(tmp_path):
    index, rows = made()
    index.mark_deleted(0)
    path = tmp_path / "x"
    index.save_index(path)
    whole = path.read_bytes()
    step = max(1, len(whole) // 150)
    for at in range(0, len(whole), step):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1:])
        try:
            index.load_index(path)
        except RuntimeError:
            continue
        # The native file's padding is not under a checksum, and says nothing.
        assert index.knn_query(rows[5])[0][0, 0] == 5
    for length in range(0, len(whole), step):
        path.write_bytes(whole[:length])
        with pytest.raises(RuntimeError):
            index.load_index(path)
    assert index.knn_query(rows[5])[0][0, 0] == 5


@pytest.mark.parametrize("space", SPACES)
def test_an_index_of_vecidx_loads(space, tmp_path):
    rows = np.random.default_rng(1).standard_normal((50, 6), dtype=np.float32)
    native = vecidx.Index(6, space, M=5)
    native.add(rows, np.arange(100, 150))
    native.save(tmp_path / "native")
    index = hnswlib.Index(space, 6)
    index.load_index(tmp_path / "native", max_elements=60)
    assert index.knn_query(rows[4])[0][0, 0] == 104
    assert (index.M, index.max_elements, index.element_count) == (5, 60, 50)
    index.add_items(rows[0], 7)
    if space == "cosine":
        np.testing.assert_allclose(np.linalg.norm(index.get_items([7, 104]), axis=1), 1, rtol=1e-6)


# ---- files that hnswlib wrote: made here byte for byte ----------------------------------------


def test_a_file_of_hnswlib_is_read(tmp_path, rng):
    rows = rng.standard_normal((30, 5)).astype(np.float32)
    path = tmp_path / "old.bin"
    path.write_bytes(hnswlib_file(rows, range(10, 40), max_elements=64, deleted={3}))
    index = hnswlib.Index("l2", 5)
    index.load_index(path)
    assert (index.M, index.ef_construction, index.max_elements) == (4, 30, 64)
    assert index.element_count == 30 and sorted(index.get_ids_list()) == list(range(10, 40))
    assert index.knn_query(rows[2], k=1)[0][0, 0] == 12
    assert index.knn_query(rows[3], k=1)[0][0, 0] != 13
    index.unmark_deleted(13)
    np.testing.assert_array_equal(index.get_items([13])[0], rows[3])
    with pytest.raises(ValueError, match="expected dim 6 .*the file has 5"):
        hnswlib.Index("l2", 6).load_index(path)


def test_a_damaged_file_of_hnswlib_is_refused(tmp_path, rng):
    whole = hnswlib_file(rng.standard_normal((6, 5)).astype(np.float32), range(6))
    path = tmp_path / "old.bin"
    index = hnswlib.Index("l2", 5)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(vecidx.IndexFormatError, match="not an index of hnswlib or vecidx"):
            index.load_index(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(vecidx.IndexFormatError, match="cut short, or goes on"):
        index.load_index(path)
    for at in range(96):                           # no byte of the header crashes it
        path.write_bytes(whole[:at] + b"\xff" + whole[at + 1:])
        try:
            hnswlib.Index("l2", 5).load_index(path)
        except ValueError:
            pass


# ---- standing in for hnswlib -----------------------------------------------------------------


def test_install_puts_it_in_the_place_of_hnswlib():
    code, out, err = run_python(
        "import vecidx.compat, pickle\n"
        "ours = vecidx.compat.install('hnswlib')\n"
        "import hnswlib, importlib.util\n"
        "assert hnswlib is ours and importlib.util.find_spec('hnswlib')\n"
        "assert vecidx.compat.install('hnswlib') is ours\n"
        "vecidx.compat.uninstall('hnswlib')\n"
        "import sys; assert 'hnswlib' not in sys.modules\n"
        "print(pickle.dumps(hnswlib.Index('l2', 3)).count(b'vecidx.compat.hnswlib'))")
    assert code == 0, err
    assert out == "1\n"


def test_install_refuses_to_mix(monkeypatch):
    import types

    monkeypatch.setitem(sys.modules, "hnswlib", types.ModuleType("hnswlib"))
    with pytest.raises(RuntimeError, match="hnswlib is imported already"):
        install("hnswlib")
    uninstall("hnswlib")
    assert "hnswlib" in sys.modules                # the other's stays
    with pytest.raises(ValueError, match="expected 'faiss' or 'hnswlib', got 'annoy'"):
        install("annoy")


def test_searches_beside_a_writer():
    index, rows = made(n=2000, max_elements=4000, ef_construction=40)
    wrong = []

    def search():
        for _ in range(30):
            labels, distances = index.knn_query(rows[:20], k=1)
            if not (distances == 0).all():
                wrong.append(labels)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for start in range(2000, 4000, 100):
        index.add_items(rows[:100] + 5, np.arange(start, start + 100))
    for thread in threads:
        thread.join()
    assert not wrong and index.element_count == 4000
