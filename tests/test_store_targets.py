"""Saving and loading elsewhere than a path: file objects, bytes, pickles, copies."""

import copy
import io
import os
import pickle
import sys
import threading

import numpy as np
import pytest

import vecidx
from helpers import METRICS, assert_same, run_python


@pytest.fixture(scope="module", params=METRICS)
def index(request):
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((700, 12)).astype(np.float32)
    rows[5] = rows[6] = rows[2]
    index = vecidx.Index(12, metric=request.param, M=5, ef_construction=40, num_threads=2)
    index.add(rows, ids=np.arange(700) * 2)
    index.add(rng.standard_normal((3, 12)), ids=[0, 8, 20])
    return index


def assert_equal(one, other):
    assert one.to_bytes() == other.to_bytes()
    queries = np.random.default_rng(1).standard_normal((7, 12))
    assert_same(one.search(queries, k=4), other.search(queries, k=4))
    one.check()


def test_bytes_are_those_of_the_file(index, tmp_path):
    index.save(tmp_path / "x")
    data = index.to_bytes()
    assert type(data) is bytes and data == (tmp_path / "x").read_bytes()
    for kind in (bytes, bytearray, memoryview, lambda b: np.frombuffer(b, np.uint8)):
        assert_equal(vecidx.from_bytes(kind(data)), index)
    again = vecidx.from_bytes(data, verify=True)
    assert again.add(np.ones((1, 12))).tolist() == [1399]     # and can be changed


def test_file_objects(index, tmp_path):
    data = index.to_bytes()
    memory = io.BytesIO()
    memory.write(b"before")
    index.save(memory)
    assert memory.getvalue() == b"before" + data
    memory.seek(6)
    assert_equal(vecidx.load(memory), index)
    for buffering in (-1, 0):
        with open(tmp_path / "x", "wb", buffering=buffering) as file:
            index.save(file)
            assert not file.closed
        with open(tmp_path / "x", "rb", buffering=buffering) as file:
            assert_equal(vecidx.load(file), index)


def test_a_raw_file_may_take_less_than_it_is_given(index):
    class Slow(io.RawIOBase):
        def __init__(self):
            self.taken = b""

        def writable(self):
            return True

        def write(self, data):
            self.taken += bytes(data[:1000])
            return min(len(data), 1000)

    slow = Slow()
    index.save(slow)
    assert slow.taken == index.to_bytes()


def test_what_a_file_object_raises_comes_through(index, tmp_path):
    class Full:
        def write(self, data):
            raise OSError(28, "No space left on device")

    class Stopped:
        def write(self, data):
            raise KeyboardInterrupt

    class Again:
        def write(self, data):
            index.add(np.ones((1, 12)))

    class Busy(io.RawIOBase):
        def write(self, data):
            return None

    for file, error in ((Full(), OSError), (Stopped(), KeyboardInterrupt),
                        (Again(), vecidx.VecidxError), (Busy(), BlockingIOError),
                        (io.StringIO(), TypeError)):
        with pytest.raises(error):
            index.save(file)
    with open(tmp_path / "x", "w") as text, pytest.raises(TypeError, match="binary"):
        index.save(text)
    with open(tmp_path / "x") as text, pytest.raises(TypeError, match="binary"):
        vecidx.load(text)
    with pytest.raises(ValueError, match="mmap"):
        vecidx.load(io.BytesIO(index.to_bytes()), mmap=True)
    index.check()                                    # no lock is held


def test_a_file_object_may_not_keep_the_memory(index):
    class Keeper:
        def __init__(self):
            self.kept = []

        def write(self, data):
            self.kept.append(data)

    keeper = Keeper()
    index.save(keeper)
    with pytest.raises(ValueError, match="released"):
        bytes(keeper.kept[0])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(index, protocol):
    assert_equal(pickle.loads(pickle.dumps(index, protocol)), index)


def test_pickle_out_of_band(index):
    buffers = []
    text = pickle.dumps(index, 5, buffer_callback=buffers.append)
    assert len(text) < 500 and len(buffers) == 1
    assert_equal(pickle.loads(text, buffers=buffers), index)


def test_copies_are_indexes_of_their_own(index):
    for make in (copy.copy, copy.deepcopy):
        other = make(index)
        assert_equal(other, index)
        other.add(np.ones((1, 12)), ids=[5])
        assert 5 in other and 5 not in index


def test_other_things_are_refused(index):
    for bad in (b"", b"\x00" * 1000, index.to_bytes()[:-1], index.to_bytes() + b"\0"):
        with pytest.raises(vecidx.IndexFormatError):
            vecidx.from_bytes(bad)
    for bad in ("text", 3, None, [1, 2], np.ones((4, 4))[:, ::2]):
        with pytest.raises(TypeError, match="data"):
            vecidx.from_bytes(bad)
    for bad in (None, 3, ["x"]):
        with pytest.raises(TypeError, match="path"):
            vecidx.load(bad)
        with pytest.raises(TypeError, match="path"):
            index.save(bad)


def test_inspect_says_what_is_there(index, tmp_path):
    index.save(tmp_path / "x")
    found = vecidx.inspect(tmp_path / "x")
    assert found["format_version"] == 1
    assert (found["rows"], found["deleted"], found["dim"]) == (700, 3, 12)
    assert (found["metric"], found["M"], found["ef_construction"]) == (index.metric, 5, 40)
    assert (found["dtype"], found["quantization"], found["seed"]) == ("float32", "auto", 0)
    assert found["file_bytes"] == (tmp_path / "x").stat().st_size
    sections = found["sections"]
    assert ("norms" in sections) == (index.metric == "cosine")
    assert {"vectors", "links", "ids", "twins", "tombstones"} <= set(sections)
    vectors = sections["vectors"]
    rows = np.frombuffer((tmp_path / "x").read_bytes(), np.float32, offset=vectors["offset"],
                         count=vectors["bytes"] // 4).reshape(703, 16)
    if index.metric != "cosine":
        np.testing.assert_array_equal(rows[1, :12], index.get(2))
    with pytest.raises(FileNotFoundError):
        vecidx.inspect(tmp_path / "none")
    (tmp_path / "x").write_bytes(b"hello")
    with pytest.raises(vecidx.IndexFormatError, match="not a vecidx index"):
        vecidx.inspect(tmp_path / "x")


def test_the_file_is_hardly_larger_than_its_planes(tmp_path):
    index = vecidx.Index(48, M=8, ef_construction=20)
    index.add(np.random.default_rng(0).standard_normal((6000, 48)))
    index.save(tmp_path / "x")
    planes = sum(s["bytes"] for s in vecidx.inspect(tmp_path / "x")["sections"].values())
    memory = index.memory()
    in_memory = sum(memory[k] for k in ("vectors", "links", "upper_links", "labels"))
    assert planes <= in_memory + 6000 * 6
    assert (tmp_path / "x").stat().st_size <= 1.02 * planes


def test_version_0_is_refused_in_clear_words(index, tmp_path):
    data = bytearray(index.to_bytes())
    data[12] = 0
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(vecidx.IndexFormatError, match="version 0.*build the index anew"):
        vecidx.load(tmp_path / "x")


def test_saving_elsewhere_while_others_search(index):
    stop, failures = threading.Event(), []
    expected = index.search(np.ones(12), k=5)

    def search():
        try:
            while not stop.is_set():
                assert_same(index.search(np.ones(12), k=5), expected)
        except BaseException as err:
            failures.append(err)

    thread = threading.Thread(target=search)
    thread.start()
    data = {index.to_bytes() for _ in range(10)}
    stop.set()
    thread.join()
    assert not failures and len(data) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pipe and SIGINT")
def test_ctrl_c_stops_a_save_into_a_pipe_that_nobody_reads(tmp_path):
    code, out, err = run_python("""
import os, signal, sys, threading, time
import numpy as np, vecidx
index = vecidx.Index(64)
index.add(np.random.default_rng(0).standard_normal((3000, 64)))
os.mkfifo(sys.argv[1])
keep = os.open(sys.argv[1], os.O_RDWR)      # opens without a reader, and never reads
threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    index.save(sys.argv[1])
except KeyboardInterrupt:
    print("stopped")
index.check()
""", tmp_path / "pipe")
    assert code == 0, err
    assert out == "stopped\n"
    assert os.listdir(tmp_path) == ["pipe"]
