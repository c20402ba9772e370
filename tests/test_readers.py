"""Vector files: what is in them comes out, and a bad one is named in one line."""

import builtins
import zipfile
import zlib

import numpy as np
import pytest

from helpers import damaged_archives, first_member
from vecidx.readers import SUFFIXES, ReaderError, open_vectors

DATA = np.random.default_rng(0).integers(-100, 100, (57, 12)).astype(np.float32)


def write_vecs(path, array, dtype):
    rows = [np.int32(array.shape[1]).tobytes() + row.astype(dtype).tobytes() for row in array]
    path.write_bytes(b"".join(rows))


def write(path, array=DATA):
    suffix = path.suffix
    if suffix == ".npy":
        np.save(path, array)
    elif suffix == ".npz":
        np.savez_compressed(path, vectors=array, names=np.arange(3))
    elif suffix == ".fvecs":
        write_vecs(path, array, "<f4")
    elif suffix == ".ivecs":
        write_vecs(path, array, "<i4")
    elif suffix == ".bvecs":
        write_vecs(path, np.abs(array), "u1")
    elif suffix in (".hdf5", ".h5"):
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            file["train"] = array
    elif suffix == ".parquet":
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq
        pq.write_table(pa.table({"name": [f"r{i}" for i in range(len(array))],
                                 "vector": list(array)}), path, row_group_size=10)


def fails(path, says, key=None, read=False):
    with pytest.raises(ReaderError) as caught:
        with open_vectors(path, key) as file:
            if read:
                list(file.chunks())
    message = str(caught.value)
    assert message.startswith(str(path)) and says in message and "\n" not in message, message


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_was_written_is_read(suffix, tmp_path):
    path = tmp_path / f"data{suffix}"
    write(path)
    want = np.abs(DATA) if suffix == ".bvecs" else DATA
    with open_vectors(path) as file:
        assert (len(file), file.dim, file.shape) == (57, 12, (57, 12))
        np.testing.assert_array_equal(file.read(), want)
        np.testing.assert_array_equal(file.read(8, 33), want[8:33])
        np.testing.assert_array_equal(file.read(50, 99), want[50:])
        for rows in (1, 7, 10, 100, None):
            parts = list(file.chunks(rows))
            np.testing.assert_array_equal(np.concatenate(parts), want)
            assert all(part.dtype == np.float32 for part in parts)
            assert len(parts) == -(-57 // (rows or 57))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_cut_off_anywhere_is_refused(suffix, tmp_path):
    whole = tmp_path / f"whole{suffix}"
    write(whole)
    data = whole.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    for length in (0, 1, 3, 7, 40, len(data) // 2, len(data) - 1):
        cut.write_bytes(data[:length])
        fails(cut, "", read=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_noise_is_refused(suffix, tmp_path):
    path = tmp_path / f"noise{suffix}"
    path.write_bytes(np.random.default_rng(1).bytes(4001))
    fails(path, "", read=True)


def test_unknown_suffix_missing_file_and_folder(tmp_path):
    (tmp_path / "x.csv").write_text("1,2")
    fails(tmp_path / "x.csv", "unknown suffix '.csv'; expected one of .npy")
    with pytest.raises(FileNotFoundError):
        open_vectors(tmp_path / "none.npy")
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(OSError):
        open_vectors(tmp_path / "folder.npy")


def test_npy_of_other_things(tmp_path):
    path = tmp_path / "x.npy"
    for array, says in ((np.ones(5), "expected 2 dimensions"),
                        (np.ones((2, 3, 4)), "expected 2 dimensions"),
                        (np.ones((3, 0)), "expected 2 dimensions"),
                        (np.array([["a"]]), "expected real numbers"),
                        (np.ones((2, 2), complex), "expected real numbers")):
        np.save(path, array)
        fails(path, says)
    np.save(path, np.array([[1, "a"]], object), allow_pickle=True)
    fails(path, "not a readable .npy")
    np.save(path, DATA)
    fails(path, "leave out --key", key="x")


def test_other_number_types_become_float32_or_stay_wide(tmp_path):
    path = tmp_path / "x.npy"
    for dtype in (np.float16, np.int64, np.uint8, ">f4", bool):
        np.save(path, np.abs(DATA).astype(dtype))
        got = open_vectors(path).read()
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, np.abs(DATA).astype(dtype).astype(np.float32))
    np.save(path, np.full((2, 2), 1e300))       # not turned into infinity behind one's back
    assert open_vectors(path).read()[0, 0] == 1e300


def test_npz_with_several_arrays_needs_a_key(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=DATA, b=DATA + 1)
    fails(path, "choose one with --key")
    fails(path, "no array 'c'; it has a, b", key="c")
    np.testing.assert_array_equal(open_vectors(path, "b").read(), DATA + 1)
    np.savez(path, a=np.arange(3))
    fails(path, "no 2-D array")


def test_npz_with_a_byte_flipped_anywhere_in_a_member(tmp_path):
    """zlib.error used to come through as it was."""
    whole, path = tmp_path / "whole.npz", tmp_path / "x.npz"
    write(whole)
    data = whole.read_bytes()
    begin, end = first_member(whole)
    causes = set()
    for position in {*range(begin, end, 7), (begin + end) // 2}:
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1:])
        with pytest.raises(ReaderError) as caught:
            open_vectors(path)
        assert str(caught.value).startswith(f"{path}: not a readable .npz file: ")
        causes.add(type(caught.value.__cause__))
    assert zlib.error in causes and zipfile.BadZipFile in causes


def test_npz_of_other_archivers(tmp_path):
    """Encrypted, of an unknown compression, damaged under LZMA: each used to be a traceback."""
    whole, path = tmp_path / "whole.npz", tmp_path / "x.npz"
    write(whole)
    for _, data in damaged_archives(whole):
        path.write_bytes(data)
        fails(path, "not a readable .npz file: ")
    for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        try:
            with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w", method) as copy:
                copy.writestr("vectors.npy", source.read("vectors.npy"))
        except RuntimeError:             # a CPython built without that module
            continue
        np.testing.assert_array_equal(open_vectors(path).read(), DATA)
        data = bytearray(path.read_bytes())
        begin, end = first_member(path)
        data[(begin + end) // 2] ^= 0x55
        path.write_bytes(data)
        fails(path, "not a readable .npz file: ")


def test_vecs_whose_rows_differ_are_refused_with_the_row(tmp_path):
    path = tmp_path / "x.fvecs"
    write_vecs(path, DATA, "<f4")
    data = bytearray(path.read_bytes())
    data[5 * 52:5 * 52 + 4] = np.int32(11).tobytes()
    path.write_bytes(data)
    fails(path, "row 5 says it has 11 values, row 0 has 12", read=True)


def test_hdf5_of_ann_benchmarks(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "x.hdf5"
    with h5py.File(path, "w") as file:
        file.attrs["distance"] = "angular"
        file["train"], file["test"] = DATA.astype(np.float16), DATA[:4].astype(np.float16)
        file["neighbors"] = np.zeros((4, 3), np.int32)
        file["text"] = ["a"] * 57
    with open_vectors(path) as file:
        assert file.metric == "cosine" and file.queries.dtype == np.float32
        assert file.queries.shape == (4, 12) and file.truth.shape == (4, 3)
        assert file.read().dtype == np.float32
    with open_vectors(path, "test") as file:
        assert len(file) == 4 and file.queries is None
    fails(path, "no dataset 'x'; it has", key="x")
    fails(path, "expected 2 dimensions", key="text")
    with h5py.File(path, "a") as file:
        file["neighbors"][0, 0] = 57
    fails(path, "'neighbors' names rows that 'train' does not have")


def test_parquet_of_other_things(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq
    path = tmp_path / "x.parquet"

    def put(**columns):
        pq.write_table(pa.table(columns), path)

    put(a=[[1.0, 2.0], [3.0]])
    fails(path, "row 1 has 1 values, row 0 has 2")
    put(a=[[1.0, 2.0], None])
    fails(path, "row 1 is null")
    put(a=[[1.0, 2.0], [None, 1.0]])
    fails(path, "null values")
    put(a=[1.0, 2.0])
    fails(path, "no 2-D column")
    fails(path, "expected lists of numbers", key="a")
    put(a=[[1.0]], b=[[2.0]])
    fails(path, "choose one with --key")
    assert open_vectors(path, "b").read().tolist() == [[2.0]]
    put(a=[[], []])
    fails(path, "")
    put(a=pa.array([[1, 2], [3, 4]], pa.list_(pa.float32(), 2)))
    assert open_vectors(path).read().tolist() == [[1, 2], [3, 4]]
    pq.write_table(pa.table({"a": [[1.0, 2.0]] * 3 + [[1.0]] * 3}), path, row_group_size=3)
    fails(path, "row 3 has 1 values", read=True)


@pytest.mark.parametrize("suffix, module", [(".hdf5", "h5py"), (".parquet", "pyarrow")])
def test_a_missing_package_is_named_with_its_command(suffix, module, tmp_path, monkeypatch):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"anything")
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == module:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    fails(path, f"pip install {module}")
