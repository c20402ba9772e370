"""The algorithm folder for ann-benchmarks, driven as its runner drives it."""

import importlib.util
import re
import sys
import types

import numpy as np
import pytest

from helpers import ROOT, exact_distances

FOLDER = ROOT / "benchmarks" / "ann_benchmarks" / "vecidx"


class BaseANN:
    """Stands in for the runner's: what it would do is an error, so nothing may be left to it."""

    def fit(self, X):
        raise NotImplementedError

    query = batch_query = get_batch_results = get_memory_usage = fit

    def done(self):
        raise NotImplementedError


@pytest.fixture
def module(monkeypatch):
    """module.py inside a package of the runner's layout."""
    algorithms = "ann_benchmarks.algorithms"
    for name in ("ann_benchmarks", algorithms, f"{algorithms}.base", f"{algorithms}.vecidx"):
        package = types.ModuleType(name)
        package.__path__ = []
        monkeypatch.setitem(sys.modules, name, package)
    base = types.ModuleType(f"{algorithms}.base.module")
    base.BaseANN = BaseANN
    monkeypatch.setitem(sys.modules, base.__name__, base)
    spec = importlib.util.spec_from_file_location(f"{algorithms}.vecidx.module",
                                                  FOLDER / "module.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("word, metric", [("angular", "cosine"), ("euclidean", "l2")])
def test_as_the_runner_calls_it(module, rng, word, metric):
    X = rng.standard_normal((1500, 24))             # the runner's sets may be float64
    queries = rng.standard_normal((40, 24))
    algorithm = module.Vecidx(word, {"M": 8, "ef_construction": 60})
    before = algorithm.get_memory_usage()
    algorithm.fit(X)
    kilobytes = algorithm.get_memory_usage() - before
    assert 1500 * 24 * 4 / 1024 < kilobytes < 4000
    truth = np.argsort(exact_distances(queries, X, metric), axis=1)[:, :10]
    for ef in (5, 200):                             # below the 10 asked for, and plenty
        algorithm.set_query_arguments(ef)
        assert f"ef={ef}" in str(algorithm) and "M=8" in str(algorithm)
        single = [algorithm.query(query, 10) for query in queries]
        assert algorithm.batch_query(queries, 10) is None
        batch = algorithm.get_batch_results()
        for one, other in zip(single, batch, strict=True):
            assert list(one) == list(other) and len(set(one)) == len(one) == 10
    hits = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(single, truth, strict=True)])
    assert hits > 0.95
    algorithm.done()


def test_fewer_rows_than_asked_for(module):
    """Padding is no answer to the runner: it would look up row -1."""
    algorithm = module.Vecidx("euclidean", {})
    algorithm.fit(np.eye(3, dtype=np.float32))
    algorithm.set_query_arguments(10)
    assert sorted(algorithm.query(np.zeros(3), 10)) == [0, 1, 2]
    algorithm.batch_query(np.zeros((2, 3)), 10)
    assert [len(ids) for ids in algorithm.get_batch_results()] == [3, 3]


def test_an_unknown_metric_is_named(module):
    with pytest.raises(ValueError, match="'hamming' is unknown here; expected .*'angular'"):
        module.Vecidx("hamming", {})


def test_the_configuration_names_what_is_there(module):
    """Without a YAML reader: the words the runner looks up, and arguments that Index takes."""
    text = (FOLDER / "config.yml").read_text()
    assert re.search(r"module: ann_benchmarks\.algorithms\.vecidx\b", text)
    assert hasattr(module, re.search(r"constructor: (\w+)", text)[1])
    groups = re.findall(r"arg_groups: \[\{ (.*) \}\]", text)
    assert groups
    for group in groups:
        arguments = {name: int(value) for name, value in re.findall(r"(\w+): (\d+)", group)}
        algorithm = module.Vecidx("angular", arguments)
        algorithm.fit(np.eye(4, dtype=np.float32))
