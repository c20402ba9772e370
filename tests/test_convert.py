"""`vecidx convert`: files of hnswlib and of vecidx.compat as indexes."""

import json

import numpy as np
import pytest

import vecidx
from helpers import hnswlib_file
from vecidx import cli
from vecidx.compat import faiss, hnswlib


@pytest.fixture
def run(capfd):
    """Run `vecidx convert`: what it prints, or the one line of its error where `fails` is in it."""
    def run(*args, fails=None):
        code = cli.main(["convert", *map(str, args)])
        out, err = capfd.readouterr()
        if fails is None:
            assert code == 0, err
        else:
            assert code == 2 and out == "" and err.count("\n") == 1 and fails in err, err
        return out
    return run


@pytest.fixture
def rows(rng):
    return rng.standard_normal((40, 5)).astype(np.float32)


def test_a_file_of_hnswlib(run, rows, tmp_path):
    old, new = tmp_path / "old.bin", tmp_path / "new.vidx"
    old.write_bytes(hnswlib_file(rows, range(100, 140), deleted={2, 3}))
    assert "without 2 that are marked" in run(old, "-o", new, "--metric", "l2")
    index = vecidx.load(new)
    assert (len(index), index.metric, index.M, index.ef_construction) == (38, "l2", 4, 30)
    np.testing.assert_array_equal(index.get([100, 139]), rows[[0, 39]])
    assert 102 not in index
    report = json.loads(run(old, "-o", new, "--metric", "cosine", "--json",
                               "--M", 7, "--ef-construction", 60))
    assert (report["rows"], report["deleted"], report["kind"]) == (38, 2, "hnswlib.Index")
    index = vecidx.load(new)
    assert (index.metric, index.M, index.ef_construction) == ("cosine", 7, 60)
    run(old, "-o", tmp_path / "none", fails="does not say its metric")
    assert not (tmp_path / "none").exists()


def test_a_flat_file_of_hnswlib(run, rows, tmp_path):
    table = np.zeros(64, np.dtype([("v", "<f4", 5), ("l", "<u8")], align=False))
    table["v"][:40], table["l"][:40] = rows, np.arange(7, 47)
    old, new = tmp_path / "old.bin", tmp_path / "new.vidx"
    old.write_bytes(np.array([64, 28, 40], "<u8").tobytes() + table.tobytes())
    run(old, "-o", new, "--metric", "ip")
    index = vecidx.load(new)
    assert len(index) == 40 and index.M == 16
    np.testing.assert_array_equal(index.get(np.arange(7, 47)), rows)
    bf = hnswlib.BFIndex("ip", 5)
    bf.load_index(old)
    assert bf.get_max_elements() == 64 and bf.get_current_count() == 40


@pytest.mark.parametrize("space", ["l2", "cosine"])
def test_a_file_of_the_facade(run, rows, tmp_path, space):
    old = hnswlib.Index(space, 5)
    old.init_index(50, M=6)
    old.add_items(rows, np.arange(40) + 3)
    old.mark_deleted(4)
    old.save_index(tmp_path / "old")
    run(tmp_path / "old", "-o", tmp_path / "new")
    index = vecidx.load(tmp_path / "new")
    assert (len(index), index.metric, index.M) == (39, space, 6)
    assert index.search(rows[5], k=1)[0][0] == 8
    run(tmp_path / "old", "-o", tmp_path / "x", "--metric", "ip",
        fails=f"was made under {space!r}, not 'ip'")


def test_files_of_faiss_words(run, rows, tmp_path):
    old = faiss.IndexIDMap2(faiss.IndexFlatIP(5))
    old.add_with_ids(rows, np.arange(40) * 10)
    old.remove_ids(np.array([30]))
    faiss.write_index(old, tmp_path / "old")
    run(tmp_path / "old", "-o", tmp_path / "new")
    index = vecidx.load(tmp_path / "new")
    assert (len(index), index.metric, index.M) == (39, "ip", 16)
    np.testing.assert_array_equal(index.get([0, 390]), rows[[0, 39]])
    old.add_with_ids(rows[:1], np.array([10]))
    faiss.write_index(old, tmp_path / "old")
    run(tmp_path / "old", "-o", tmp_path / "new", fails="given twice")


def test_others_are_refused(run, rows, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"something else" * 30)
    run(path, "-o", tmp_path / "y", "--metric", "l2", fails="not an index of hnswlib")
    path.write_bytes(b"")
    run(path, "-o", tmp_path / "y", "--metric", "l2", fails="not an index of hnswlib")
    run(tmp_path / "no", "-o", tmp_path / "y", fails="No such file")
    native = vecidx.Index(5)
    native.save(path)
    run(path, "-o", tmp_path / "y", fails="is an index of vecidx already")
