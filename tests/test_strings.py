"""An index whose ids are strings: every call, the file, what is refused."""

import copy
import pickle
import threading

import format_reader
import numpy as np
import pytest

import vecidx
from vecidx import strings

WORDS = np.array([f"wörd-{i}" for i in range(200)])


@pytest.fixture
def built(rng):
    index = vecidx.Index(5, "cosine", ids="str")
    rows = rng.standard_normal((200, 5)).astype(np.float32)
    assert index.add(rows, WORDS).tolist() == WORDS.tolist()
    return index, rows


def test_every_call_speaks_strings(built):
    index, rows = built
    assert isinstance(index, vecidx.StringIndex) and isinstance(index, vecidx.Index)
    ids, distances = index.search(rows[:3], 4)
    assert ids.shape == (3, 4) and ids[:, 0].tolist() == WORDS[:3].tolist()
    assert index.search(rows[7], 1)[0].tolist() == ["wörd-7"]
    assert index.search(rows[7], 300, exact=True)[0][-1] is None
    np.testing.assert_allclose(index.get("wörd-9"), rows[9], rtol=1e-5)
    np.testing.assert_allclose(index.get(["wörd-9", "wörd-3"]), rows[[9, 3]], rtol=1e-5)
    assert "wörd-1" in index and "other" not in index and 1 not in index
    assert index.ids().tolist() == list(index) == WORDS.tolist()
    one, _ = index.search(ids="wörd-4", k=3)
    assert one.shape == (3,) and "wörd-4" not in one
    spread, _ = index.search(ids=["wörd-4"], k=3, diverse=0.5)
    assert spread.shape == (1, 3) and all(isinstance(word, str) for word in spread[0])
    of, neighbors, _ = index.knn_graph(3)
    assert of.tolist() == WORDS.tolist() and (neighbors != of[:, None]).all()
    index.tune(k=3)
    assert index.search(rows[:2], 3, recall=0.9)[0].shape == (2, 3)
    assert index.recall(rows[:20], 3).value > 0.9


def test_filters_are_of_strings(built):
    index, rows = built
    allowed = ["wörd-3", "wörd-90", "wörd-7", "nobody"]
    for some in (allowed, tuple(allowed), set(allowed), np.array(allowed), [allowed] * 2,
                 lambda words: np.isin(words.astype(str), allowed)):
        found, distances = index.search(rows[:2], 5, filter=some)
        assert all(set(row[:3]) == set(allowed[:3]) for row in found)
        assert (found[:, 3:] == None).all() and np.isinf(distances[:, 3:]).all()  # noqa: E711
    found, _ = index.search(rows[:2], 1, filter=[["wörd-5"], None])
    assert found.tolist() == [["wörd-5"], ["wörd-1"]]
    assert index.search(rows[0], 3, filter=[])[0].tolist() == [None] * 3
    found, _ = index.search(ids="wörd-3", k=3, filter=allowed)
    assert set(found[:2]) == {"wörd-7", "wörd-90"} and found[2] is None
    found, _ = index.search(rows[0], 2, diverse=0.3, filter=allowed)
    assert set(found) < set(allowed)
    assert index.recall(rows[:9], 2, filter=allowed).value == 1


def test_ranges_and_iteration_give_strings(built):
    index, rows = built
    lims, found, distances = index.range_search(rows[:2], 0.5, exact=True)
    plain = vecidx.Index(5, "cosine")
    plain.add(rows)
    wanted = plain.range_search(rows[:2], 0.5, exact=True)
    assert lims.tolist() == wanted[0].tolist() and lims[1] > 1
    assert found.tolist() == WORDS[wanted[1]].tolist()
    _, found, _ = index.range_search(rows[0], 4, filter=["wörd-2"])
    assert found.tolist() == ["wörd-2"]
    words = []
    for i, (found, _) in enumerate(index.iterate(rows[0], batch=30, exact=True)):
        words += found.tolist()
        if i == 1:                           # what was found already keeps its name
            index.delete(index.ids()[:150])
            index.compact()
    assert words[0] == "wörd-0" and None not in words and len(set(words)) == len(words) >= 60


def test_merge_takes_another_index_of_strings(built, rng):
    index, rows = built
    other = vecidx.Index(5, "cosine", ids="str")
    other.add(rng.standard_normal((3, 5)), ["new", "wörd-1", "x"])
    with pytest.raises(ValueError, match="wörd-1"):
        index.merge(other, on_conflict="error")
    index.merge(other, on_conflict="skip")
    assert len(index) == 202
    np.testing.assert_allclose(index.get("wörd-1"), rows[1], rtol=1e-5)
    index.merge(other)
    np.testing.assert_allclose(index.get(["wörd-1", "new"]), other.get(["wörd-1", "new"]),
                               rtol=1e-5)


def test_replace_delete_add_again_compact(built, rng):
    index, rows = built
    index.add(-rows[:1], ["wörd-0"])
    assert len(index) == 200
    np.testing.assert_allclose(index.get("wörd-0"), -rows[0], rtol=1e-5)
    assert index.delete(["wörd-1", "wörd-2", "wörd-1"]) == 2
    assert index.delete(["wörd-1", "new"], missing="ignore") == 0
    with pytest.raises(KeyError, match="wörd-1"):
        index.get("wörd-1")
    assert "wörd-1" not in index.search(rows[1], 100)[0]
    index.add(rows[1], ["wörd-1"])
    index.compact()
    assert "wörd-2" not in index and len(index) == 199
    index.add(rng.standard_normal((2, 5)), ["wörd-2", "new"])
    assert index.ids().tolist()[-1] == "new" and index.check() == {"unreachable": 0}


def test_it_is_one_file(built, tmp_path):
    index, rows = built
    index.delete("wörd-5")
    index.save(tmp_path / "a.vidx")
    section = vecidx.inspect(tmp_path / "a.vidx")["sections"]["names"]
    assert section["kind"] == 20 and section["required"]
    other = format_reader.File((tmp_path / "a.vidx").read_bytes())
    assert sorted(other.names().values()) == sorted(index.ids())
    others = [vecidx.load(tmp_path / "a.vidx"), vecidx.load(tmp_path / "a.vidx", mmap=True),
              vecidx.from_bytes(index.to_bytes()), pickle.loads(pickle.dumps(index)),
              copy.copy(index)]
    for other in others:
        assert isinstance(other, vecidx.StringIndex)
        assert other.ids().tolist() == index.ids().tolist() and "wörd-5" not in other
        assert other.search(rows[3], 5)[0].tolist() == index.search(rows[3], 5)[0].tolist()
    others[0].add(rows[5], ["wörd-5"])
    assert others[0].get("wörd-5").shape == (5,)
    empty = vecidx.from_bytes(vecidx.Index(2, ids="str").to_bytes())
    assert isinstance(empty, vecidx.StringIndex) and len(empty) == 0
    assert "names" not in vecidx.Index(2).to_bytes()[:2000].decode("latin-1")


def test_what_is_refused(built, tmp_path):
    index, rows = built
    for ids, kind, words in (
            (None, TypeError, "chooses no ids"), ([1], TypeError, r"ids\[0\]: expected a string"),
            (b"a", TypeError, "expected a string"), (["a", "a"], ValueError, "given twice"),
            (["\ud800"], ValueError, "UTF-8"), (["a", "b"], ValueError, "expected 1")):
        with pytest.raises(kind, match=words):
            index.add(rows[:2] if ids and len(ids) == 2 and ids[1] == "a" else rows[:1], ids)
    with pytest.raises(ValueError, match="wörd-3"):
        index.add(rows[:1], ["wörd-3"], on_conflict="error")
    assert len(index) == 200 and "a" not in index and "b" not in index
    index.add(rows[:1], ["b"])
    for left, right in ((index, vecidx.Index(5, "cosine")), (vecidx.Index(5, "cosine"), index)):
        with pytest.raises(TypeError, match="for ids, this index"):
            left.merge(right)
    with vecidx.open(tmp_path / "d.vidx", 5, "cosine") as durable:
        with pytest.raises(TypeError, match="for ids, this index"):
            durable.merge(index)
    for other in (index, vecidx.Index(4, "cosine", ids="str"), vecidx.Index(5, ids="str")):
        with pytest.raises(ValueError, match="expected another index"):
            index.merge(other)
    for bad in (vecidx.Filter([1]), range(3), b"a", "a", np.ones(200, bool), [1], {"a", 1}, 5):
        with pytest.raises(TypeError, match="filter: an index of strings takes"):
            index.search(rows[0], filter=bad)
    with pytest.raises(TypeError, match="as many booleans"):
        index.search(rows[0], filter=lambda words: True)
    with pytest.raises(ValueError, match="ids: expected"):
        vecidx.Index(3, ids="bytes")
    with pytest.raises(ValueError, match="strings"):
        vecidx.open(tmp_path / "b.vidx", dim=3, ids="str")
    assert not (tmp_path / "b.vidx").exists()
    index.save(tmp_path / "a.vidx")
    with pytest.raises(ValueError, match="strings"):
        vecidx.open(tmp_path / "a.vidx")


def test_searches_beside_a_writer_always_find_names(rng):
    index = vecidx.Index(4, ids="str")
    rows = rng.standard_normal((400, 4)).astype(np.float32)
    index.add(rows, [f"a{i}" for i in range(400)])
    wrong, stop = [], threading.Event()

    def search():
        while not stop.is_set():
            ids, distances = index.search(rows[:8], 5)
            if any(word is None for word in ids.ravel()):
                wrong.append(ids)

    thread = threading.Thread(target=search)
    thread.start()
    for i in range(20):
        index.delete([f"a{i}"])
        index.add(rng.standard_normal((1, 4)), [f"b{i}"])
        index.compact()
        index.to_bytes()
    stop.set()
    thread.join()
    assert not wrong


def test_a_forged_table_is_refused(built):
    good = strings.pack({3: "a", 5: "", 9: "é"})
    assert strings.unpack(good) == {3: "a", 5: "", 9: "é"}
    for bad in (b"", good[:7], good[:-1], good + b"x", b"\xff" * 8 + good[8:],
                good[:8] + good[16:24] + good[8:16] + good[24:],        # numbers fall
                good[:-1] + b"\xff",                                    # no UTF-8
                strings.pack({3: "a", 5: "b"}).replace(b"b", b"a")):    # twice
        with pytest.raises(vecidx.IndexFormatError, match="section 'names'"):
            strings.unpack(bad)


def test_no_c_code_adds_what_has_no_name(built):
    with pytest.raises(TypeError, match="of strings has no C index"):
        built[0].__vecidx_index__()
