"""Stores: documents and vectors stay together, through conflicts, threads and crashes."""

import itertools
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import vecidx
from helpers import ROOT
from vecidx import VecidxError
from vecidx.stores import And, Compare, Document, Not, Or, Store
from vecidx.stores.conditions import OPERATORS, sql_of

DIM = 8
FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(params=["memory", "folder"])
def store(request, tmp_path):
    with Store(None if request.param == "memory" else tmp_path / "s") as store:
        yield store


def vector(*seed):
    """The vector of a version of a document, of length 1."""
    row = np.random.default_rng(seed).standard_normal(DIM)
    return (row / np.linalg.norm(row)).astype(np.float32)


def fill(store, n=40):
    store.upsert([Document(f"d{i}", f"text {i}", {"n": i, "even": i % 2 == 0}) for i in range(n)],
                 [vector(i) for i in range(n)])


# ---- writing and finding -----------------------------------------------------------


def test_what_was_written_is_found(store):
    fill(store)
    hit, *rest = store.search(vector(7), 5)
    assert hit.document == Document("d7", "text 7", {"n": 7, "even": False})
    assert abs(hit.distance) < 1e-6 and len(rest) == 4
    assert [d.key for d in store.get(["d3", "d1"])] == ["d3", "d1"]
    assert store.get(["nobody"]) == [None]
    assert len(store) == 40 and store.count(Compare("lt", ("n",), 10)) == 10
    np.testing.assert_allclose(store.vectors(["d2", "x"])[0], vector(2), rtol=1e-6)
    assert store.vectors(["x"]) == [None]


def test_an_upsert_replaces_text_metadata_and_vector(store):
    fill(store)
    store.upsert([Document("d7", "new", {"n": -1})], [vector(99)])
    assert len(store) == 40 and len(store.index) == 40
    assert store.search(vector(99), 1)[0].document == Document("d7", "new", {"n": -1})
    assert store.search(vector(7), 1)[0].document.key != "d7"


@pytest.mark.parametrize("on_conflict, written, text", [
    ("replace", ["a", "b"], "third"), ("skip", ["b"], "first")])
def test_a_key_that_is_there_or_comes_twice(store, on_conflict, written, text):
    store.upsert([Document("a", "first")], [vector(1)])
    documents = [Document("a", "second"), Document("b", "b"), Document("a", "third")]
    keys = store.upsert(documents, [vector(2), vector(3), vector(4)], on_conflict=on_conflict)
    assert sorted(keys) == written
    assert store.get(["a"])[0].content == text and len(store) == 2 == len(store.index)


def test_conflict_error_changes_nothing(store):
    store.upsert([Document("a")], [vector(1)])
    for documents in ([Document("b"), Document("a")], [Document("b"), Document("b")]):
        with pytest.raises(KeyError):
            store.upsert(documents, [vector(2), vector(3)], on_conflict="error")
    assert len(store) == 1 == len(store.index)


@pytest.mark.parametrize("document, bad", [
    (Document("a", metadata={"t": {1, 2}}), vector(1)),
    (Document("a", metadata={"t": float("nan")}), vector(1)),
    (Document("a", "\ud800"), vector(1)),
    (Document(""), vector(1)),
    (Document(7), vector(1)),
    (Document("a", 7), vector(1)),
    (Document("a"), [np.nan] * DIM),
    (Document("a"), [0] * DIM),
    (Document("a"), [1, 2]),
    (Document("a"), ["x"] * DIM)])
def test_what_cannot_be_stored_is_refused_before_anything_changes(store, document, bad):
    for _ in range(2):                       # as the first document, and as a later one
        n = len(store)
        with pytest.raises((ValueError, TypeError)):
            store.upsert([Document("good"), document], [vector(1), bad])
        assert len(store) == n and len(store.index or ()) == n
        store.upsert([Document("b")], [vector(2)])


def test_documents_without_vectors(store):
    store.upsert([Document("a", metadata={"n": 1}), Document("b", metadata={"n": 1})],
                 [None, vector(1)])
    assert [h.document.key for h in store.search(vector(1), 5)] == ["b"]
    assert [d.key for d in store.find(Compare("eq", ("n",), 1))] == ["a", "b"]
    store.upsert([Document("b"), Document("a")], [None, vector(2)])
    assert [h.document.key for h in store.search(vector(1), 5)] == ["a"]
    assert store.delete(["a", "b"]) == 2 and len(store.index) == 0


def test_delete_and_clear(store):
    fill(store)
    assert store.delete(["d1", "d1", "nobody"]) == 1
    assert store.delete(where=Compare("lt", ("n",), 10)) == 9
    assert len(store) == 30 == len(store.index)
    assert store.clear() == 30 and store.clear() == 0
    assert store.search(vector(1), 3) == []
    fill(store, 3)
    assert [h.document.key for h in store.search(vector(1), 1)] == ["d1"]


def test_an_empty_store_answers(store):
    assert store.search(vector(1), 3) == [] == store.search_diverse(vector(1)) == store.find()
    assert len(store) == 0 and store.delete(["x"]) == 0 and store.clear() == 0
    assert "0 documents" in repr(store)


def test_metadata_is_updated_in_place(store):
    fill(store)
    n = store.update_metadata(Compare("lt", ("n",), 3), lambda old: {**old, "new": "é"})
    assert n == 3 and store.count(Compare("eq", ("new",), "é")) == 3
    with pytest.raises(ValueError, match="JSON"):
        store.update_metadata(None, lambda old: {"bad": object()})
    assert store.count(Compare("eq", ("new",), "é")) == 3
    assert store.search(vector(1), 1)[0].document.metadata["new"] == "é"


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_filtered_search_finds_the_nearest_that_match(metric, rng):
    rows = rng.standard_normal((2000, DIM), dtype=np.float32)
    store = Store(metric=metric)
    store.upsert([Document(str(i), metadata={"share": i % 1000}) for i in range(2000)], rows)
    for below, k in itertools.product([1, 20, 500, 1000], [1, 10]):
        condition = Compare("lt", ("share",), below)
        hits = store.search(rows[5], k, where=condition, ef=500)
        assert all(hit.document.metadata["share"] < below for hit in hits)
        labels, distances = store.index.search(rows[5], 2000, exact=True)
        want = [d for i, d in zip(labels, distances) if i % 1000 < below][:k]
        np.testing.assert_allclose([hit.distance for hit in hits], want, atol=1e-5)
    assert store.search(rows[5], 3, where=Compare("gt", ("share",), 5000)) == []


def test_keep_asks_until_there_are_enough(store):
    fill(store)
    hits = store.search(vector(0), 3, keep=lambda document: document.metadata["n"] >= 35)
    assert len(hits) == 3 and all(hit.document.metadata["n"] >= 35 for hit in hits)
    assert len(store.search(vector(0), 9, keep=lambda document: document.key == "d1")) == 1


def test_diverse_results(store):
    near = [vector(1) + 0.02 * (i + 1) * vector(i) for i in range(10)]
    store.upsert([Document(f"near{i}") for i in range(10)] + [Document("other")],
                 [*near, vector(1) + vector(50)])
    keys = [h.document.key for h in store.search_diverse(vector(1), 2, lambda_mult=0.3)]
    assert keys[0].startswith("near") and keys[1] == "other"
    same = [h.document.key for h in store.search_diverse(vector(1), 5, lambda_mult=1)]
    assert same == [h.document.key for h in store.search(vector(1), 5)]
    with pytest.raises(ValueError, match="lambda_mult"):
        store.search_diverse(vector(1), lambda_mult=2)


def test_bad_queries_are_refused(store):
    fill(store)
    for query in ([1, 2], np.full(DIM, np.nan), np.zeros(DIM)):
        for where in (None, Compare("eq", ("n",), 1)):
            with pytest.raises(ValueError, match="vector"):
                store.search(query, 3, where=where)
    with pytest.raises(ValueError, match="k:"):
        store.search(vector(1), -1)


# ---- conditions ---------------------------------------------------------------------


VALUES = [None, True, False, 0, 1, 2, -1, 1.5, 2**70, "", "1", "a", "abc", "ABC", "é'\"", [], ["a"],
          ["a", 1, None, True], [["a"]], {}, {"a": 1}, "2024-01-02", "2024-01-02T00:00:00+00:00"]
MISSING = object()


def python_says(leaf, value):
    """The same as the SQL, from the words of Compare's docstring."""
    there, wanted = value is not MISSING, leaf.value
    value = None if not there else value

    def is_number(x):
        return isinstance(x, (bool, int, float))

    def equal(a, b):
        return (is_number(a) and is_number(b) or type(a) is type(b)) and a == b

    if leaf.op in ("eq", "ne"):
        return equal(value, wanted) == (leaf.op == "eq")
    if leaf.op in ("in", "nin"):
        return any(equal(value, one) for one in wanted) == (leaf.op == "in")
    if leaf.op in ("gt", "ge", "lt", "le"):
        if not (is_number(value) and is_number(wanted)
                or isinstance(value, str) and isinstance(wanted, str)):
            return False
        return {"gt": value > wanted, "ge": value >= wanted, "lt": value < wanted,
                "le": value <= wanted}[leaf.op]
    if leaf.op == "contains":
        return (isinstance(value, list) and any(equal(one, wanted) for one in value)
                or isinstance(value, str) and isinstance(wanted, str) and wanted in value)
    if leaf.op == "text":
        return isinstance(value, str) and wanted in value
    if leaf.op == "itext":
        return isinstance(value, str) and wanted.lower() in value.lower()
    if leaf.op == "exists":
        return there == wanted
    return value in (None, "", [])


def test_every_operator_on_every_pair_of_values_is_as_python_says():
    store = Store()
    stored = [*VALUES, MISSING]
    store.upsert([Document(str(i), metadata={} if value is MISSING else {"a.b'c": value})
                  for i, value in enumerate(stored)], [None] * len(stored))
    wanted = {op: VALUES for op in OPERATORS}
    for op in ("gt", "ge", "lt", "le"):
        wanted[op] = [value for value in VALUES if isinstance(value, (bool, int, float, str))]
    wanted |= {"text": ["", "a", "é"], "itext": ["", "B", "É"], "exists": [True, False],
               "in": [[], ["a", "1"], [None, 1], ["a", ["a"]]], "empty": [None]}
    wanted["nin"] = wanted["in"]
    n = 0
    for op in OPERATORS:
        for value in wanted[op]:
            leaf = Compare(op, ("a.b'c",), value)
            for condition, flip in ((leaf, False), (Not(leaf), True)):
                found = {d.key for d in store.find(condition)}
                expected = {str(i) for i, one in enumerate(stored)
                            if python_says(leaf, one) != flip}
                assert found == expected, (op, value, flip)
                n += 1
    assert n >= 300


def test_and_or_not_and_nested_paths():
    store = Store()
    store.upsert([Document(str(i), metadata={"a": {"b": i}, "c": i % 2}) for i in range(6)],
                 [None] * 6)

    def keys(condition):
        return "".join(d.key for d in store.find(condition))

    low, odd = Compare("lt", ("a", "b"), 3), Compare("eq", ("c",), 1)
    assert keys(And((low, odd))) == "1" and keys(Or((low, odd))) == "01235"
    assert keys(Not(Or((low, odd)))) == "4"
    assert keys(And(())) == "012345" and keys(Or(())) == ""
    assert keys(Compare("in", (), ["1", "5"], column="key")) == "15"


def test_dates_compare_as_points_in_time():
    store = Store()
    texts = ["2024-01-02", "2024-01-02T00:00:00", "2024-01-02T01:00:00+01:00",
             "2024-01-02T00:00:00Z", "2024-01-03", "no date", 7, None]
    store.upsert([Document(str(i), metadata={"t": text}) for i, text in enumerate(texts)],
                 [None] * len(texts))

    def keys(op, text):
        return "".join(d.key for d in store.find(Compare(op, ("t",), text, dates=True)))

    assert keys("eq", "2024-01-02T00:00:00+00:00") == "0123"
    assert keys("gt", "2024-01-02T12:00:00") == "4"
    assert keys("le", "2024-01-02T00:00:00+00:00") == "0123"
    assert keys("ne", "2024-01-02") == "4567" or keys("ne", "2024-01-02") == "24567"


def test_an_index_of_a_field_is_used_and_changes_no_answer(store):
    fill(store)
    store.upsert([Document("none"), Document("text", metadata={"n": "7"})], [None, None])
    conditions = [Compare(op, ("n",), 7) for op in ("eq", "ne", "gt", "le")]
    conditions += [Compare("eq", ("n",), "7"), Compare("in", ("n",), [1, "7"]),
                   Not(Compare("gt", ("n",), 7)),
                   And((conditions[2], Compare("exists", ("n",), True)))]
    before = [[d.key for d in store.find(condition)] for condition in conditions]
    store.index_field("n")
    store.index_field("n")
    assert [[d.key for d in store.find(condition)] for condition in conditions] == before
    text, values = sql_of(conditions[0])
    plan = store._documents._writer.execute(
        f"EXPLAIN QUERY PLAN SELECT label FROM documents WHERE {text}", values).fetchall()
    assert "field n" in str(plan)
    with pytest.raises(ValueError):
        store.index_field('a"b')
    with pytest.raises(TypeError):
        store.index_field()


@pytest.mark.parametrize("condition", [
    Compare("gt", ("a",), None), Compare("gt", ("a",), [1]), Compare("in", ("a",), "text"),
    Compare("like", ("a",), 1), Compare("eq", ('a"b',), 1), Compare("text", ("a",), 1),
    Compare("eq", ("a",), object()), Compare("eq", (), 1, column="label; --")])
def test_conditions_that_mean_nothing_are_refused(condition):
    with pytest.raises(ValueError):
        Store().find(condition)


# ---- folders -------------------------------------------------------------------------


def test_a_folder_is_opened_again(tmp_path):
    with Store(tmp_path / "s", metric="l2", M=8) as store:
        fill(store)
        store.checkpoint()
        store.delete(["d1"])
    with Store(tmp_path / "s") as store:
        assert store.metric == "l2" and store.index.M == 8 and len(store) == 39
        assert store.search(vector(2), 1)[0].document.key == "d2"
    with pytest.raises(ValueError, match="metric"):
        Store(tmp_path / "s", metric="ip")
    Store(tmp_path / "s").close()            # the refusal has let go of the folder


def test_one_process_at_a_time(tmp_path):
    with Store(tmp_path / "s"):
        with pytest.raises(VecidxError, match="open for writing"):
            Store(tmp_path / "s")
    Store(tmp_path / "s").close()


def test_a_closed_store_says_so(store):
    fill(store)
    store.close()
    store.close()
    for call in (lambda: store.search(vector(1), 1), lambda: store.upsert([], []), store.find,
                 lambda: store.get(["a"]), lambda: store.delete(["a"]), lambda: store.save("x")):
        with pytest.raises(VecidxError, match="closed"):
            call()
    assert "closed" in repr(store)


def test_save_copies_a_store(store, tmp_path):
    fill(store)
    store.save(tmp_path / "copy")
    store.delete(["d1"])
    with Store(tmp_path / "copy") as copy:
        assert len(copy) == 40 and copy.search(vector(1), 1)[0].document.key == "d1"
    with pytest.raises(FileExistsError):
        store.save(tmp_path / "copy")


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    folder = tmp_path / "s"
    with Store(folder) as store:
        fill(store, 5)
    data = (folder / "index.vidx").read_bytes()
    with Store(folder) as store:
        fill(store, 9)
    (folder / "index.vidx").write_bytes(data)          # an older one
    with pytest.raises((VecidxError, ValueError)):
        Store(folder)
    (folder / "documents.sqlite").write_bytes(b"x" * 5000)
    with pytest.raises(vecidx.IndexFormatError, match="documents"):
        Store(folder)
    for name in os.listdir(folder):
        if name.startswith("documents"):
            os.unlink(folder / name)
    with pytest.raises(VecidxError, match="no documents.sqlite"):
        Store(folder)
    (folder / "index.vidx").unlink()
    other = sqlite3.connect(folder / "documents.sqlite")
    other.executescript("CREATE TABLE mine (a); INSERT INTO mine VALUES (1)")
    other.close()
    with pytest.raises(vecidx.IndexFormatError, match="not of vecidx"):
        Store(folder)


@FORK
def test_a_forked_child_is_told_to_open_its_own(tmp_path):
    with Store(tmp_path / "s") as store:
        fill(store)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                store.search(vector(1), 1)
            except VecidxError as exc:
                code = 0 if "forked" in str(exc) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert len(store) == 40


def test_a_disk_that_refuses_undoes_the_call(tmp_path, monkeypatch):
    """SQLite cannot write: the vectors that came in before go out again."""
    with Store(tmp_path / "s") as store:
        fill(store)
        monkeypatch.setattr(store._documents, "replace",
                            lambda rows: (_ for _ in ()).throw(sqlite3.OperationalError("full")))
        with pytest.raises(sqlite3.OperationalError):
            store.upsert([Document("d1", "new")], [vector(99)])
        monkeypatch.undo()
        assert len(store.index) == 40 and store.get(["d1"])[0].content == "text 1"


def test_vectors_that_could_not_be_dropped_are_dropped_later(tmp_path, monkeypatch):
    with Store(tmp_path / "s") as store:
        fill(store)
        monkeypatch.setattr(vecidx.DurableIndex, "delete",
                            lambda *a, **k: (_ for _ in ()).throw(OSError(28, "full")))
        assert store.delete(["d1"]) == 1
        monkeypatch.undo()
        assert len(store.index) == 40 and len(store) == 39
        assert [h.document.key for h in store.search(vector(1), 1)] != ["d1"]
        assert len(store.search(vector(1), 40)) == 39
        store.upsert([Document("x")], [vector(60)])
        assert len(store.index) == 40 == len(store)


# ---- threads ---------------------------------------------------------------------------


def test_searches_beside_upserts_see_every_document_once(store):
    fill(store)
    stop, errors = threading.Event(), []

    def write():
        try:
            for turn in range(1, 10_000):
                if stop.is_set():
                    return
                i = turn % 40
                store.upsert([Document(f"d{i}", metadata={"n": i, "turn": turn})], [vector(i)])
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        end = time.monotonic() + 2
        while time.monotonic() < end:
            keys = [h.document.key for h in store.search(vector(3), 45)]
            assert len(keys) == len(set(keys)) and keys[0] == "d3" and len(keys) >= 38
            found = store.search(vector(3), 1, where=Compare("eq", ("n",), 3))
            assert [h.document.key for h in found] in (["d3"], [])
            assert len(store.get(["d3"])) == 1
    finally:
        stop.set()
        thread.join()
    assert not errors


def test_vectors_of_a_write_under_way_hide_nobody(store, monkeypatch):
    """Hundreds that are nearer, and nobody's yet: the k that are there are found."""
    fill(store)
    replace, found = store._documents.replace, []

    def look_first(rows):
        found.append([h.document.key for h in store.search(vector(3), 5)])
        found.append([h.document.key for h in store.search(
            vector(3), 5, keep=lambda document: document.metadata["n"] < 20)])
        replace(rows)

    before = [h.document.key for h in store.search(vector(3), 5)]
    monkeypatch.setattr(store._documents, "replace", look_first)
    store.upsert([Document(f"new{i}", metadata={"n": 0}) for i in range(500)],
                 [vector(3) + 1e-3 * vector(i) for i in range(500)])
    assert found[0] == before and len(found[1]) == 5
    assert all(h.document.key.startswith("new") for h in store.search(vector(3), 400)[1:])


# ---- crashes -----------------------------------------------------------------------------


def run_child(code, *args):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)],
                            env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
                            stdout=subprocess.PIPE, text=True)


DIES_AT = """
import os, sys
import vecidx
from test_stores import *
folder, step = sys.argv[1:]
store = Store(folder)
fill(store, 10)
if step == "before the transaction":
    store._documents.replace = lambda rows: os._exit(9)
elif step == "in the transaction":
    commit = store._documents._writer
    store._documents._writer = type("C", (), {
        "__getattr__": lambda self, name: getattr(commit, name),
        "execute": lambda self, text, *a: os._exit(9) if text == "COMMIT"
                   else commit.execute(text, *a)})()
elif step == "after the transaction":
    vecidx.DurableIndex.delete = lambda *a, **k: os._exit(9)
store.upsert([Document("d1", "new"), Document("fresh", "fresh")], [vector(91), vector(92)])
os._exit(8)
"""


def test_a_crash_while_everything_is_taken_out(tmp_path):
    code = """
import sys
from test_stores import *
store = Store(sys.argv[1], metric="l2", M=8)
fill(store, 10)
store.checkpoint()
vecidx.Index.save = lambda *a, **k: os._exit(9)
store.clear()
"""
    child = run_child(code, tmp_path / "s")
    child.communicate(timeout=60)
    assert child.returncode == 9
    with Store(tmp_path / "s") as store:
        assert len(store) == 0 == len(store.index)
        assert (store.metric, store.index.M) == ("l2", 8)
        fill(store, 3)


@pytest.mark.parametrize("step, happened", [
    ("before the transaction", False), ("in the transaction", False),
    ("after the transaction", True)])
def test_a_crash_at_each_step_leaves_all_of_a_call_or_nothing(tmp_path, step, happened):
    child = run_child(DIES_AT, tmp_path / "s", step)
    child.communicate(timeout=60)
    assert child.returncode == 9
    with Store(tmp_path / "s") as store:
        assert len(store) == len(store.index) == (11 if happened else 10)
        assert store.get(["d1"])[0].content == ("new" if happened else "text 1")
        assert store.search(vector(91 if happened else 1), 1)[0].document.key == "d1"
        assert (store.get(["fresh"])[0] is not None) == happened
        store.index.check()


WRITES_FOR_EVER = """
import json, random, sys
from test_stores import *
folder, seed = sys.argv[1:]
rng = random.Random(int(seed))
store = Store(folder)
version = max([d.metadata["v"] for d in store.find()], default=0)
while True:
    version += 1
    what = [i for i in range(12) if rng.random() < 0.3]
    if rng.random() < 0.3:
        print(json.dumps(["begin", None, what]), flush=True)
        store.delete([f"d{i}" for i in what])
    else:
        print(json.dumps(["begin", version, what]), flush=True)
        store.upsert([Document(f"d{i}", metadata={"v": version}) for i in what],
                     [vector(i, version) for i in what])
    if rng.random() < 0.05:
        store.checkpoint()
    print(json.dumps(["end"]), flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path):
    """Whole calls only; each document with the vector of its own version."""
    rng, expected = random.Random(5), {}
    for turn in range(6):
        child = run_child(WRITES_FOR_EVER, tmp_path / "s", turn)
        lines = [child.stdout.readline() for _ in range(rng.randrange(2, 60))]
        child.kill()
        lines += child.communicate()[0].splitlines(keepends=True)
        lines = [json.loads(line) for line in lines if line.endswith("]\n")]
        open_call = None
        for line in lines:
            if line[0] == "begin":
                open_call = line[1:]
            else:
                expected = after(expected, *open_call)
                open_call = None
        with Store(tmp_path / "s") as store:
            found = {d.key: d.metadata["v"] for d in store.find()}
            possible = [expected] if open_call is None else [expected, after(expected, *open_call)]
            assert found in possible
            expected = found
            assert len(store.index or ()) == len(found)
            for key, v in found.items():
                np.testing.assert_allclose(store.vectors([key])[0], vector(int(key[1:]), v),
                                           rtol=1e-6, atol=1e-6)
                hit = store.search(vector(int(key[1:]), v), 1)[0]
                assert hit.document.key == key and hit.distance < 1e-6
    assert any(expected)


def after(documents, version, what):
    documents = dict(documents)
    for i in what:
        if version is None:
            documents.pop(f"d{i}", None)
        else:
            documents[f"d{i}"] = version
    return documents
