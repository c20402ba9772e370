"""What an index says and does in ordinary use."""

import ast
import inspect
from pathlib import Path

import numpy as np
import pytest

import vecidx
from helpers import METRICS, assert_same, assert_well_formed
from vecidx import _core


def test_the_example_of_the_docstring():
    index = vecidx.Index(3, metric="l2")
    assert index.add([[0, 0, 0], [1, 0, 0], [5, 5, 5]]).tolist() == [0, 1, 2]
    ids, distances = index.search([1, 1, 0], k=2)
    assert ids.tolist() == [1, 0]
    assert distances.tolist() == [1.0, 2.0]           # squared


def test_metrics_are_what_they_say():
    rows = [[3.0, 4.0], [-1.0, 0.0]]
    want = {"l2": [9 + 16, 1], "ip": [1, 1], "cosine": [0.4, 2.0]}
    for metric in METRICS:
        index = vecidx.Index(2, metric=metric)
        index.add(rows)
        if metric == "l2":
            ids, distances = index.search([0.0, 0.0])
            assert sorted(distances[:2].tolist()) == [1, 25]
            continue
        ids, distances = index.search([1.0, 0.0], k=2)
        expected = {"ip": [1 - 3, 1 + 1], "cosine": want["cosine"]}[metric]
        assert ids.tolist() == [0, 1]
        np.testing.assert_allclose(distances, expected, atol=1e-6)


def test_properties_and_defaults():
    index = vecidx.Index(5)
    assert (index.dim, index.metric, index.M, index.ef_construction, index.seed) == \
        (5, "l2", 16, 200, 0)
    assert index.dtype == np.float32
    index = vecidx.Index(6, "ip", M=5, ef_construction=77, seed=2**64 - 1, dtype=np.float32,
                         capacity=1000)
    assert (index.dim, index.metric, index.M, index.ef_construction, index.seed) == \
        (6, "ip", 5, 77, 2**64 - 1)
    with pytest.raises(AttributeError):
        index.dim = 7


def test_ids_are_sequential_after_the_highest_ever_held(rng):
    index = vecidx.Index(4)
    rows = rng.standard_normal((3, 4))
    assert index.add(rows).tolist() == [0, 1, 2]
    assert index.add(rows + 1).tolist() == [3, 4, 5]
    assert index.add(rows[0], ids=100).tolist() == [100]
    assert index.add(rows[1]).tolist() == [101]
    assert index.add(rows[2], ids=[50]).tolist() == [50]
    assert index.add(rows[2] + 9).tolist() == [102]
    assert index.ids().tolist() == [0, 1, 2, 3, 4, 5, 100, 101, 50, 102]
    assert len(index) == 10


def test_shapes_in_shapes_out(small_index, rng):
    queries = rng.standard_normal((4, 16)).astype(np.float32)
    ids, distances = small_index.search(queries, k=3)
    assert ids.shape == distances.shape == (4, 3)
    for i, query in enumerate(queries):
        one = small_index.search(query, k=3)
        assert one[0].shape == one[1].shape == (3,)
        assert_same(one, (ids[i], distances[i]))
        assert_same(one, small_index.search(query.astype(np.float64), k=3))   # the slow path
        row = small_index.search(query[None], k=3)
        assert row[0].shape == (1, 3)
        assert_same((row[0][0], row[1][0]), one)
    assert small_index.search(queries)[0].shape == (4, 10)
    assert small_index.get(5).shape == (16,)
    assert small_index.get([5]).shape == (1, 16)
    assert small_index.get(np.int64(5)).shape == (16,)


def test_results_belong_to_the_caller(small_index):
    """Two searches never share memory, and results may be written to."""
    query = small_index.get(3)
    first = small_index.search(query, k=3)
    kept = first[0].copy(), first[1].copy()
    second = small_index.search(query + 5, k=3)
    second[0][:] = -7
    assert_same(first, kept)


def test_larger_ef_is_not_worse_and_never_differs_in_form(small_index, rng):
    queries = rng.standard_normal((30, 16))
    last = np.inf
    for ef in (10, 40, 300):
        ids, distances = small_index.search(queries, k=10, ef=ef)
        assert_well_formed(ids, distances)
        mean = distances.astype(np.float64).mean()
        assert mean <= last + 1e-6
        last = mean
    assert_same(small_index.search(queries, k=10, ef=1000),
                small_index.search(queries, k=10, exact=True))


def test_stats_and_memory_add_up(sample_index):
    n = len(sample_index)
    stats = sample_index.stats()
    assert stats["count"] == n and stats["deleted"] == 0
    assert sum(stats["rows_at_level"]) == n
    assert stats["rows_at_level"][0] > 0.9 * n * (1 - 1 / 16)
    assert 0 < stats["links_chosen"] <= stats["links"] <= 2 * 16 * n
    assert stats["links"] > 0.95 * 2 * 16 * n          # rows of layer 0 are kept full
    memory = sample_index.memory()
    parts = sum(v for k, v in memory.items() if k not in ("total", "reserved"))
    assert memory["total"] == parts
    assert memory["vectors"] >= n * 384 * 4
    assert memory["links"] >= n * 32 * 4
    assert memory["total"] < 2 * n * (384 + 32 + 8) * 4


def test_repr_tells_what_a_person_wants_to_know(sample_index):
    text = repr(sample_index)
    for part in ("12,000 rows", "384", "cosine", "float32", "M=16", "MiB", vecidx.simd_level()):
        assert part in text, text
    assert "1 row " in repr(_with_rows(1)) and "2 rows" in repr(_with_rows(2))


def _with_rows(n):
    index = vecidx.Index(2)
    index.add(np.ones((n, 2)))
    return index


def test_progress_callable_sees_the_end(rng):
    """A short add used to report nothing, and a long one not its end."""
    seen = []
    index = vecidx.Index(32)
    index.add(np.empty((0, 32)), progress=lambda *args: seen.append(args))
    assert seen == []
    index.add(rng.standard_normal(32), progress=lambda *args: seen.append(args))
    # A slow machine may tick before the row is in.
    assert seen[-1] == (1, 1) and seen.count((1, 1)) == 1 and set(seen) <= {(0, 1), (1, 1)}
    seen.clear()
    index.add(rng.standard_normal((3000, 32), dtype=np.float32),
              progress=lambda done, total: seen.append((done, total)))
    assert seen and seen[-1] == (3000, 3000)
    assert seen.count((3000, 3000)) == 1
    assert all(total == 3000 for _, total in seen)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert all(0 <= done <= 3000 for done, _ in seen)

    seen.clear()
    index.add(rng.standard_normal((6000, 32)), ids=np.arange(6000), on_conflict="skip",
              progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (6000, 6000) and {total for _, total in seen} == {6000}
    assert len(index) == 6000


def test_progress_true_works_with_and_without_tqdm(rng, monkeypatch, capfd):
    rows = rng.standard_normal((500, 8))
    for hide in (False, True):
        if hide:
            monkeypatch.setitem(__import__("sys").modules, "tqdm.auto", None)
        index = vecidx.Index(8)
        index.add(rows, progress=True)
        assert len(index) == 500
    capfd.readouterr()


def test_a_tqdm_bar_is_filled(rng, monkeypatch):
    tqdm = pytest.importorskip("tqdm")
    bars = []

    class Bar(tqdm.tqdm):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            bars.append(self)

        def close(self):
            self.seen = self.n, self.total
            super().close()

    monkeypatch.setattr("tqdm.auto.tqdm", Bar)
    vecidx.Index(8).add(rng.standard_normal((500, 8)), progress=True)
    assert [bar.seen for bar in bars] == [(500, 500)]


def test_an_exception_of_the_progress_callable_at_the_end(rng):
    """All rows are in by then, and the note says so."""
    def report(done, total):
        if done == total:
            raise OverflowError

    index = vecidx.Index(8)
    with pytest.raises(OverflowError) as caught:
        index.add(rng.standard_normal((50, 8)), progress=report)
    assert len(index) == 50
    assert "the first 50 of this call's 50 rows" in caught.value.__notes__[-1]
    index.check()


def test_ids_without_memory_is_a_memory_error(rng, tmp_path):
    """It used to be an empty answer."""
    index = vecidx.Index(8)
    index.add(rng.standard_normal((50, 8)))
    index.save(tmp_path / "x.vidx")
    errors = 0
    for nth in range(1, 5):
        index = vecidx.load(tmp_path / "x.vidx")
        try:
            _core.test_fail_alloc(nth)
            got = index.ids().tolist()
        except MemoryError:
            errors += 1
        else:
            assert got == list(range(50))
        finally:
            _core.test_fail_alloc(0)
        assert index.ids().tolist() == list(range(50))
    assert errors > 0


def test_an_exception_of_the_progress_callable_stops_the_add(rng):
    class Enough(Exception):
        pass

    def report(done, total):
        if done >= 1000:
            raise Enough

    rows = rng.standard_normal((60_000, 64), dtype=np.float32)
    index = vecidx.Index(64)
    with pytest.raises(Enough) as caught:
        index.add(rows, progress=report)
    assert 0 < len(index) < len(rows)
    assert f"first {len(index)} of this call's 60000 rows" in caught.value.__notes__[-1]
    assert index.ids().tolist() == list(range(len(index)))
    np.testing.assert_array_equal(index.get(0), rows[0])
    index.check()


def test_a_progress_callable_may_search_but_not_change(rng):
    rows = rng.standard_normal((20_000, 32), dtype=np.float32)
    index = vecidx.Index(32)
    index.add(rows[:100])
    found = []

    def report(done, total):
        found.append(index.search(rows[5], k=1)[0][0])
        index.add(rows[:1])

    with pytest.raises(vecidx.VecidxError, match="inside another add"):
        index.add(rows[100:], progress=report)
    assert found == [5]
    assert index.add(rows[:1]).size == 1          # and the index is not locked after
    index.check()


def test_module_functions():
    assert vecidx.simd_level() in {"scalar", "avx2", "avx512", "avx512vnni", "neon"}
    features = vecidx.cpu_features()
    assert features and all(type(v) is bool for v in features.values())
    before = vecidx.get_num_threads()
    assert before >= 1
    try:
        vecidx.set_num_threads(3)
        assert vecidx.get_num_threads() == 3
        for bad in (0, -1, 10**6):
            with pytest.raises(ValueError):
                vecidx.set_num_threads(bad)
        with pytest.raises(TypeError):
            vecidx.set_num_threads("2")
        assert vecidx.get_num_threads() == 3
    finally:
        vecidx.set_num_threads(None)
    assert vecidx.get_num_threads() == before
    assert vecidx.__version__.count(".") == 2
    assert all(hasattr(vecidx, name) for name in vecidx.__all__)


def test_many_small_indexes_live_side_by_side(rng):
    """Address space is reserved to fit: hundreds of indexes are no problem."""
    indexes = [vecidx.Index(8) for _ in range(300)]
    rows = rng.standard_normal((300, 8)).astype(np.float32)
    for index, row in zip(indexes, rows, strict=True):
        index.add(row)
    for index, row in zip(indexes, rows, strict=True):
        np.testing.assert_array_equal(index.get(0), row)


def declared_names(body):
    return {node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))
            and not node.name.startswith("_")}


def declared_arguments(function):
    """[(name, kind, whether it has a default), ...] of a function of a stub, without self."""
    args = function.args
    places = [*args.posonlyargs, *args.args]
    with_default = len(places) - len(args.defaults)
    found = [(arg.arg, "positional", i >= with_default) for i, arg in enumerate(places)]
    found += [(arg.arg, "keyword", default is not None)
              for arg, default in zip(args.kwonlyargs, args.kw_defaults)]
    return found[1:] if found and found[0][0] == "self" else found


def live_arguments(function):
    return [(p.name, "keyword" if p.kind is p.KEYWORD_ONLY else "positional",
             p.default is not p.empty)
            for p in inspect.signature(function).parameters.values() if p.name != "self"]


@pytest.mark.parametrize("module, stub, cls", [
    (vecidx.index, "index.pyi", vecidx.Index),
    (_core, "_core.pyi", _core.CoreIndex),
])
def test_stubs_name_what_there_is(module, stub, cls):
    """index.pyi and _core.pyi declare every public name with its arguments, and no other."""
    tree = ast.parse((Path(vecidx.__file__).parent / stub).read_text(encoding="utf-8"))
    made_here = {name for name, value in vars(module).items()
                 if getattr(value, "__module__", None) == module.__name__
                 and not name.startswith("_")}
    assert declared_names(tree.body) == made_here
    stub_class, = (node for node in tree.body
                   if isinstance(node, ast.ClassDef) and node.name == cls.__name__)
    assert declared_names(stub_class.body) == {n for n in dir(cls) if not n.startswith("_")}

    seen = set()             # of overloads the first has all the defaults
    for owner, body in ((module, tree.body), (cls, stub_class.body)):
        for node in body:
            if not isinstance(node, ast.FunctionDef) or (owner, node.name) in seen:
                continue
            live = inspect.getattr_static(owner, node.name)
            if isinstance(live, property) or node.name in ("__len__", "__contains__"):
                continue
            live = getattr(owner, node.name)
            assert declared_arguments(node) == live_arguments(live), node.name
            seen.add((owner, node.name))
    assert len(seen) >= 10
