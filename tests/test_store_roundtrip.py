"""What was saved comes back; what was damaged is refused; what was there stays."""

import os
import sys

import numpy as np
import pytest

import vecidx
from helpers import METRICS, assert_same, run_python


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(path, index) of 200 rows with some replaced, so that a dead row is in the file."""
    path = tmp_path_factory.mktemp("saved") / "index.vidx"
    rng = np.random.default_rng(4)
    index = vecidx.Index(10, metric="cosine", M=4, ef_construction=30, seed=9)
    index.add(rng.standard_normal((200, 10)), ids=np.arange(200) * 3)
    index.add(rng.standard_normal((5, 10)), ids=[0, 3, 6, 9, 12])
    index.save(path)
    return path, index


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n", [0, 1, 2, 1000])
def test_all_comes_back(metric, n, tmp_path, rng):
    index = vecidx.Index(17, metric=metric, M=6, ef_construction=50, seed=3)
    index.add(rng.standard_normal((n, 17)), ids=rng.permutation(10 * n)[:n])
    index.save(tmp_path / "x")
    again = vecidx.load(tmp_path / "x")
    for name in ("dim", "metric", "M", "ef_construction", "seed", "dtype"):
        assert getattr(again, name) == getattr(index, name)
    assert again.stats() == index.stats()
    np.testing.assert_array_equal(again.ids(), index.ids())
    np.testing.assert_array_equal(again.get(index.ids()), index.get(index.ids()))
    queries = rng.standard_normal((20, 17))
    for how in ({}, {"ef": 200}, {"exact": True}):
        assert_same(again.search(queries, k=5, **how), index.search(queries, k=5, **how))
    again.check()
    again.save(tmp_path / "y")
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_automatic_ids_go_on_after_a_load(saved):
    path, _ = saved
    again = vecidx.load(path)
    assert again.add(np.ones((2, 10))).tolist() == [598, 599]


@pytest.mark.parametrize("kind", [str, os.fsencode, lambda p: p])
def test_paths_of_every_type(saved, tmp_path, kind):
    _, index = saved
    path = tmp_path / "näme with spaces"
    index.save(kind(path))
    assert len(vecidx.load(kind(path))) == len(index)
    assert os.listdir(tmp_path) == [path.name]           # no temporary is left


def test_every_changed_byte_is_noticed(saved, tmp_path):
    """Each byte of the head, and many of the rest, with some or all bits flipped."""
    path, _ = saved
    good = path.read_bytes()
    bad = tmp_path / "bad"
    rng = np.random.default_rng(0)
    places = [*range(min(700, len(good))), *rng.integers(0, len(good), 500).tolist(),
              len(good) - 1]
    for place in places:
        flip = 0xFF if place % 2 else 1 << int(rng.integers(8))
        data = bytearray(good)
        data[place] ^= flip
        bad.write_bytes(data)
        with pytest.raises(vecidx.IndexFormatError):
            vecidx.load(bad)
            pytest.fail(f"byte {place} of {len(good)} changed by {flip:#x}: loaded all the same")


def test_every_cut_is_noticed(saved, tmp_path):
    path, _ = saved
    good = path.read_bytes()
    bad = tmp_path / "bad"
    rng = np.random.default_rng(1)
    for length in {*range(340), *rng.integers(0, len(good), 200).tolist(), len(good) - 1}:
        bad.write_bytes(good[:length])
        with pytest.raises(vecidx.IndexFormatError):
            vecidx.load(bad)
            pytest.fail(f"{length} of {len(good)} bytes: loaded all the same")
    for more in (b"\0", good):
        bad.write_bytes(good + more)
        with pytest.raises(vecidx.IndexFormatError):
            vecidx.load(bad)


@pytest.mark.parametrize("content", [
    b"", b"hello", b"\x93NUMPY\x01\x00", bytes(1000), b"\xff" * 1000,
], ids=["empty", "text", "npy", "zeros", "ones"])
def test_other_files_are_refused_with_their_name(content, tmp_path):
    path = tmp_path / "other.vidx"
    path.write_bytes(content)
    with pytest.raises(vecidx.IndexFormatError, match="other.vidx") as caught:
        vecidx.load(path)
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, vecidx.VecidxError)
    assert "\n" not in str(caught.value)


def test_system_errors_keep_their_number_and_path(saved, tmp_path):
    _, index = saved
    with pytest.raises(FileNotFoundError) as caught:
        vecidx.load(tmp_path / "none")
    assert caught.value.filename == str(tmp_path / "none")
    with pytest.raises(FileNotFoundError) as caught:
        index.save(tmp_path / "no" / "folder")
    assert caught.value.filename == str(tmp_path / "no" / "folder")
    with pytest.raises(OSError) as caught:
        index.save(tmp_path)                             # a folder
    assert caught.value.errno and os.listdir(tmp_path) == []
    with pytest.raises((OSError, vecidx.IndexFormatError)):
        vecidx.load(tmp_path)
    with pytest.raises(ValueError, match="NUL"):
        index.save("a\0b")
    for bad in (None, 3, ["x"]):
        with pytest.raises(TypeError, match="path"):
            index.save(bad)


@pytest.mark.skipif(sys.platform == "win32" or (hasattr(os, "geteuid") and os.geteuid() == 0),
                    reason="nothing is read-only to root")
def test_a_read_only_folder_keeps_its_file(saved, tmp_path):
    _, index = saved
    path = tmp_path / "x"
    path.write_bytes(b"old")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            index.save(path)
        assert path.read_bytes() == b"old"
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_device_is_an_os_error(saved):
    _, index = saved
    with pytest.raises(OSError) as caught:
        index.save("/dev/full")
    assert caught.value.errno == 28                      # ENOSPC
    assert os.path.exists("/dev/full")                   # written to, not renamed over


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_write_that_fails_half_way_leaves_the_old_file(saved, tmp_path):
    path = tmp_path / "x"
    small = vecidx.Index(4)
    small.add(np.ones((3, 4)))
    small.save(path)
    old = path.read_bytes()
    code, out, err = run_python("""
import resource, signal, sys
import numpy as np, vecidx
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
index = vecidx.Index(64)
index.add(np.random.default_rng(0).standard_normal((2000, 64)))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    index.save(sys.argv[1])
except OSError as err:
    print(err.errno)
index.check()
assert index.search(index.get(5), k=1)[0][0] == 5
""", path)
    assert code == 0, err
    assert out.strip() == "27"                           # EFBIG
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["x"]


def test_saving_over_a_file_replaces_it(saved, tmp_path):
    _, index = saved
    path = tmp_path / "x"
    path.write_bytes(b"something else, and longer than nothing" * 10_000)
    index.save(path)
    assert len(vecidx.load(path)) == len(index)


def test_saving_while_others_search(saved, tmp_path):
    import threading

    _, index = saved
    stop, failures = threading.Event(), []
    expected = index.search(np.ones(10), k=5)

    def search():
        try:
            while not stop.is_set():
                assert_same(index.search(np.ones(10), k=5), expected)
        except BaseException as err:
            failures.append(err)

    thread = threading.Thread(target=search)
    thread.start()
    for i in range(10):
        index.save(tmp_path / str(i))
    stop.set()
    thread.join()
    assert not failures
    assert len({(tmp_path / str(i)).read_bytes() for i in range(10)}) == 1


def test_a_large_quantised_index_comes_back(tmp_path, rng):
    """Beyond 65,536 rows planes are laid out anew, which once read a plane of no rows."""
    index = vecidx.Index(2, M=2, ef_construction=10, quantization="auto")
    index.add(rng.standard_normal((66_000, 2), dtype=np.float32))
    index.save(tmp_path / "large")
    queries = rng.standard_normal((5, 2))
    back = vecidx.load(tmp_path / "large")
    for got, want in zip(back.search(queries), index.search(queries), strict=True):
        np.testing.assert_array_equal(got, want)
