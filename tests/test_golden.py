"""Files of format version 1, written once, are read for ever (tools/make_golden.py)."""

from pathlib import Path

import numpy as np
import pytest

import vecidx
from helpers import assert_same, assert_well_formed
from vecidx._validate import bytes_of

GOLDEN = sorted((Path(__file__).parent / "golden").glob("v1-*.vidx"))
MODES = [{}, {"verify": True}, {"mmap": True}, {"mmap": True, "verify": True},
         {"mmap": "vectors"}]


def test_they_are_there():
    assert len(GOLDEN) >= 28


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_golden_file_answers_as_it_did(path, mode):
    want = np.load(path.with_suffix(".npz"))
    index = vecidx.load(path, **mode)
    for name in ("metric", "M", "seed", "ef_construction"):
        assert getattr(index, name) == want[name]
    assert index.dtype == (str(want["dtype"]) if "dtype" in want else "float32")
    assert bytes_of(index.dim, index.dtype) == want["rows"].shape[1]
    assert len(index) == len(want["ids"])
    assert vecidx.inspect(path)["quantization"] == want["quantization"]
    np.testing.assert_array_equal(index.ids(), want["ids"])
    np.testing.assert_array_equal(index.get(want["ids"]), want["rows"])
    found, distances = index.search(want["queries"], k=want["found"].shape[1], exact=True)
    np.testing.assert_allclose(distances, want["distances"], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found, want["found"])
    index.check()


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_mapped_or_loaded_it_is_walked_alike(path, tmp_path, rng):
    """Once nothing in it is deleted.  A load takes deleted rows out of the graph, a mapped
    index walks through them: until then a small ef may find others."""
    index = vecidx.load(path)
    index.compact()
    index.save(tmp_path / "compact")
    if index.dtype == "bits":
        queries = np.packbits(rng.random((300, index.dim)) < 0.5, axis=1)
    else:
        queries = rng.standard_normal((300, index.dim)).astype(np.float32) * 3
    for mmap in (True, "vectors"):
        with vecidx.load(tmp_path / "compact", mmap=mmap) as mapped:
            for ef in (5, 8, 40):
                assert_same(index.search(queries, k=5, ef=ef), mapped.search(queries, k=5, ef=ef))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_golden_file_can_be_walked_and_changed(path, tmp_path, rng):
    want = np.load(path.with_suffix(".npz"))
    index, mapped = vecidx.load(path), vecidx.load(path, mmap=True)
    for ef in (5, 40):
        assert_well_formed(*index.search(want["queries"], k=5, ef=ef))
        assert_well_formed(*mapped.search(want["queries"], k=5, ef=ef))
    mapped.close()
    live = len(index)
    if index.dtype == "bits":
        index.add(np.packbits(rng.random((30, index.dim)) < 0.5, axis=1))
    else:
        index.add(np.rint(rng.uniform(1, 99, (30, index.dim))))     # what all others take
    index.delete(want["ids"][: live // 2])
    index.check()
    assert len(index) == 30 + live - live // 2
    index.save(tmp_path / "again")
    again = vecidx.load(tmp_path / "again", verify=True)
    np.testing.assert_array_equal(again.get(again.ids()), index.get(again.ids()))
