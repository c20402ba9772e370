"""The same calls on hnswlib itself and on vecidx.compat.hnswlib: the same answers."""

import pickle

import numpy as np
import pytest

from helpers import needs

peer = needs("hnswlib")

from vecidx.compat import hnswlib as ours  # noqa: E402

# What is made, in a script of calls run on both; each step is told as its value or its error.
SCRIPT = """
p = lib.Index(space='l2', dim=4)
repr(p)
(p.space, p.dim, p.ef, p.max_elements, p.element_count, p.ef_construction, p.M)
p.num_threads > 0
lib.Index('foo', 4)
p.init_index(10, M=4, ef_construction=2, random_seed=3)
(p.max_elements, p.element_count, p.ef_construction, p.M, p.get_max_elements())
p.init_index(10)
p.add_items(X[:, :3])
p.add_items(X[None])
p.add_items(X[:3], [1, 2])
p.add_items(X[:3], [[1], [2], [3]])
p.add_items('a')
p.add_items([[1, 2, 3, 4], [1]])
p.add_items(X[0], 5)
p.add_items(X[1], [7.7])
p.add_items(X[2:4])
(p.get_current_count(), sorted(p.get_ids_list()))
p.add_items(X[:0])
p.get_items()
p.get_items([], 'list')
p.get_items(5)
p.get_items([99])
p.get_items([5], return_type='x')
p.get_items([5, 7], return_type='list')
p.get_items([5, 7])
p.knn_query(X[0], k=0)
p.knn_query(X[:0], k=1)
p.knn_query(X[:2], k=4)
p.knn_query(X.astype('f8')[:2].tolist(), 2, 1)
p.knn_query(X[0], k=11)
p.knn_query(X[None], k=1)
p.knn_query('a')
p.mark_deleted(5)
p.mark_deleted(5)
p.mark_deleted(1000)
p.mark_deleted(-3)
p.mark_deleted(7.0)
p.mark_deleted('a')
p.unmark_deleted(1000)
p.unmark_deleted(2)
p.get_items([5])
(sorted(p.get_ids_list()), p.element_count)
p.knn_query(X[0], k=3)
p.knn_query(X[0], k=4)
p.unmark_deleted(5)
p.get_items([5])
p.mark_deleted(5)
p.add_items(X[9], 5)
p.get_items([5])
p.add_items(X[9], 55, replace_deleted=True)
p.resize_index(3)
p.resize_index(40)
(p.max_elements, p.get_max_elements())
p.set_ef(33)
p.ef
p.set_ef(-1)
p.set_ef(0)
p.knn_query(X[0], k=2)
p.dim = 7
p.set_num_threads(2)
p.num_threads
lib.Index('l2', 4).load_index(NOWHERE)
lib.Index('l2', 4).load_index(GARBAGE)
p.mark_deleted(7)
p.save_index(FILE)
q = lib.Index('l2', 4)
q.set_ef(44)
q.load_index(FILE)
(q.ef, q.max_elements, q.element_count, q.M, q.ef_construction)
(sorted(q.get_ids_list()), q.knn_query(X[:2], k=3))
q.load_index(FILE, max_elements=500)
q.max_elements
q = lib.Index('l2', 4)
q.load_index(FILE, max_elements=2)
q.max_elements
q.unmark_deleted(7)
q.add_items(X[10:12])
sorted(q.get_ids_list())
r = pickle.loads(pickle.dumps(p))
(r.ef, r.num_threads, r.max_elements, sorted(r.get_ids_list()), r.knn_query(X[:2], k=3))
r = lib.Index(index=p)
(r.ef, sorted(r.get_ids_list()))
r = lib.Index(params=p.__getstate__()[0])
(r.ef, sorted(r.get_ids_list()))
c = lib.Index('cosine', 4)
c.init_index(10, allow_replace_deleted=True)
c.add_items(X[:5])
c.get_items([1, 2])
c.add_items(np.zeros((1, 4)), 9)
c.get_items([9])
c.knn_query(X[:3], k=6)
c.mark_deleted(1)
c.add_items(X[0], 1)
c.add_items(X[9], 77, replace_deleted=True)
(sorted(c.get_ids_list()), c.element_count)
c.add_items(X[7], 79, replace_deleted=True)
c.add_items(X[7], 79, replace_deleted=True)
c.add_items(X[:1])
(sorted(c.get_ids_list()), c.element_count)
c.knn_query(X[:3], k=7)
i = lib.Index('ip', 4)
i.init_index(20)
i.add_items(X)
i.knn_query(X[:5], k=5)
i.add_items(X[0])
z = lib.Index('l2', 4)
z.init_index(0)
z.add_items(X[0])
b = lib.BFIndex('l2', 4)
repr(b)
b.init_index(10)
b.init_index(5)
b.add_items(X[:5])
b.add_items(X[7:8], [2])
b.get_current_count()
b.knn_query(X[7], k=2)
b.knn_query(X[:3], k=5)
b.delete_vector(2)
b.delete_vector(2)
(b.get_current_count(), b.get_max_elements())
b.add_items(X[8])
b.knn_query(X[8], k=1)
b.add_items(X[:, :2])
b.add_items(X)
lib.BFIndex('foo', 4)
b.save_index(FILE)
b2 = lib.BFIndex('l2', 4)
b2.load_index(FILE, 99)
"""
# Where ours is better, or differs without harm (docs/migrate/compat.md): only ours is looked at.
FILTERS = """
p = lib.Index('l2', 4)
p.init_index(20)
p.set_ef(20)
p.add_items(X)
p.knn_query(X[:4], k=3, filter=lambda label: label % 2 == 0)
p.knn_query(X[:4], k=3, num_threads=1, filter=lambda label: 1)
p.knn_query(X[:4], k=1, filter=lambda label: label == 11)
p.knn_query(X[:4], k=2, filter=lambda label: label == 11)
p.knn_query(X[:4], k=1, num_threads=1, filter=lambda label: 1 / 0)
p.knn_query(X[:4], k=1, num_threads=1, filter=lambda label: None)
p.knn_query(X[:4], k=1, filter=[1, 2])
b = lib.BFIndex('l2', 4)
b.init_index(20)
b.add_items(X)
b.knn_query(X[:4], k=3, filter=lambda label: label % 2 == 0)
"""


def told(lib, script, tmp_path):
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"abc" * 100)
    X = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    names = {"lib": lib, "X": X, "np": np, "pickle": pickle, "GARBAGE": str(garbage),
             "NOWHERE": str(tmp_path / "none"), "FILE": str(tmp_path / lib.__name__)}
    out = []
    for line in script.strip().splitlines():
        try:
            code = compile(line, line, "eval")
        except SyntaxError:
            code = compile(line, line, "exec")
        try:
            out.append((line, eval(code, names)))
        except Exception as err:
            out.append((line, err))
    return out


def agree(mine, theirs, line):
    if isinstance(theirs, BaseException):
        assert isinstance(mine, BaseException), f"{line}: {theirs!r}, ours gives {mine}"
        assert isinstance(mine, type(theirs)), f"{line}: {theirs!r}, ours {mine!r}"
        if isinstance(theirs, RuntimeError) and "GARBAGE" not in line and "NOWHERE" not in line:
            assert str(mine) == str(theirs), line
    elif isinstance(theirs, (tuple, list)):
        assert type(mine) is type(theirs) and len(mine) == len(theirs), line
        for one, other in zip(mine, theirs):
            agree(one, other, line)
    elif isinstance(theirs, np.ndarray):
        assert isinstance(mine, np.ndarray) and mine.dtype == theirs.dtype, line
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6, err_msg=line)
    elif isinstance(theirs, float):
        assert mine == pytest.approx(theirs, rel=1e-5), line
    else:
        assert mine == theirs, line


@pytest.mark.parametrize("script", [SCRIPT, FILTERS], ids=["all", "filters"])
def test_the_same_answers(script, tmp_path):
    pairs = zip(told(ours, script, tmp_path), told(peer, script, tmp_path))
    for (line, mine), (_, theirs) in pairs:
        agree(mine, theirs, line)


@pytest.mark.parametrize("space", ["l2", "ip", "cosine"])
def test_its_files_and_pickles_are_read(space, tmp_path, rng, monkeypatch):
    rows = rng.standard_normal((3000, 16)).astype(np.float32)
    queries = rng.standard_normal((50, 16)).astype(np.float32)
    old = peer.Index(space, 16)
    old.init_index(4000, M=8, ef_construction=60, allow_replace_deleted=True)
    old.add_items(rows, np.arange(3000) + 5)
    for label in range(5, 1005, 10):
        old.mark_deleted(label)
    old.set_ef(400)
    old.save_index(str(tmp_path / "old"))
    loaded = ours.Index(space, 16)
    loaded.load_index(str(tmp_path / "old"))
    flat = peer.BFIndex(space, 16)
    flat.init_index(10)
    flat.add_items(rows[:7], np.arange(7) + 3)
    flat.save_index(str(tmp_path / "flat"))
    bf = ours.BFIndex(space, 16)
    bf.load_index(str(tmp_path / "flat"))
    assert bf.get_current_count() == 7 and bf.get_max_elements() == 10
    data = pickle.dumps(old)
    monkeypatch.setitem(__import__("sys").modules, "hnswlib", ours)
    for new in (loaded, pickle.loads(data)):
        new.set_ef(400)
        assert type(new) is ours.Index
        assert (new.M, new.ef_construction, new.max_elements) == (8, 60, 4000)
        assert sorted(new.get_ids_list()) == sorted(old.get_ids_list())
        np.testing.assert_allclose(new.get_items([6, 2000]), old.get_items([6, 2000]), rtol=1e-5)
        mine, theirs = new.knn_query(queries, k=10), old.knn_query(queries, k=10)
        assert (mine[0] == theirs[0]).mean() > 0.99
        new.unmark_deleted(15)
        assert new.element_count == 3000
    assert pickle.loads(data)._allow_replace_deleted


@pytest.mark.parametrize("space", ["l2", "ip", "cosine"])
def test_recall_is_no_worse(space, rng):
    rows = rng.standard_normal((4000, 24)).astype(np.float32)
    queries = rng.standard_normal((200, 24)).astype(np.float32)
    truth = ours.BFIndex(space, 24)
    truth.init_index(4000)
    truth.add_items(rows if space != "cosine" else
                    rows / np.linalg.norm(rows, axis=1, keepdims=True))
    right = truth.knn_query(queries, k=10)[0]
    recall = {}
    for lib in (ours, peer):
        index = lib.Index(space, 24)
        index.init_index(4000)
        index.add_items(rows)
        index.set_ef(50)
        found = index.knn_query(queries, k=10)[0]
        recall[lib] = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, right)])
    assert recall[ours] > recall[peer] - 0.02, recall
