"""What the benchmarks compute themselves: a wrong figure there looks like any other figure."""

import importlib
import os
import sys

import numpy as np
import pytest

from helpers import ROOT, exact_distances

h5py = pytest.importorskip("h5py")


@pytest.fixture(scope="module")
def bench():
    """bench("report"): a module of benchmarks/."""
    folder, environment = str(ROOT / "benchmarks"), dict(os.environ)
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(folder)
        os.environ.clear()
        os.environ.update(environment)


# ---- figures at equal recall ---------------------------------------------------------


def test_interpolation_is_of_the_logarithm(bench):
    at_recall = bench("report").at_recall
    value, mark = at_recall([(0.8, 1000.0), (1.0, 10.0)], 0.9)
    assert value == pytest.approx(100.0) and mark == ""
    value, mark = at_recall([(0.8, 1000.0), (0.9, 50.0), (1.0, 10.0)], 0.9)
    assert value == pytest.approx(50.0) and mark == ""


def test_interpolation_ends_where_the_points_do(bench):
    at_recall = bench("report").at_recall
    points = [(0.92, 500.0), (0.98, 100.0)]
    assert at_recall(points, 0.9) == (500.0, "*")
    assert at_recall(points, 0.99) is None and at_recall([], 0.9) is None


def test_a_point_below_another_in_both_does_not_count(bench):
    """ef 20 slower than ef 30, which found more: a hiccup, not a curve."""
    at_recall = bench("report").at_recall
    points = [(0.8, 1000.0), (0.9, 40.0), (0.95, 90.0), (1.0, 10.0)]
    assert at_recall(points, 0.95)[0] == pytest.approx(90.0)
    assert at_recall(points, 0.9)[0] > 90.0


def test_ratios_to_each_base(bench):
    with_ratio = bench("report").with_ratio
    assert with_ratio((300.0, ""), [(100.0, ""), (600.0, "*")]) == "300 (3.00 x / 0.50 x)"
    assert with_ratio((300.0, "*"), [None, (600.0, "")]) == "300* (- / 0.50 x)"
    assert with_ratio((300.0, ""), [None]) == "300"
    assert with_ratio(None, [(100.0, "")]) == "-"


def one_library(curve, threads=(1,), sweep="ef", single=True, **more):
    passes = [{"qps": 1.0, "wall_s": 1.0, "cpu_s": 1.0, "others_cpu_s": 0.0}]
    resident = {"rss": 2_000_000, "anonymous": 0, "huge": 0, "before": 0, "peak": None}
    points = {"p50": 10.0, "p99": 20.0}
    return {
        "version": "1", "simd": "s", "angular": "cosine", "sweep": sweep,
        "after_search": {"rss": 1},
        "build": [{"wall_s": 1.0, "cpu_s": 1.0, "resident": resident}],
        "search": [{"threads": t, "ef": ef, "recall": recall,
                    "passes": [{**passes[0], "qps": qps * t}]}
                   for t in threads for ef, recall, qps in curve],
        "single": [{"ef": ef, "best_pass_mean": 1e6 / qps, "plain": points, "min": points}
                   for ef, recall, qps in curve] if single else [], **more}


def results_of(libraries, queries="own"):
    return {
        "data": {"file": "f.hdf5", "n_rows": 1000, "dim": 4, "storage": "float32",
                 "metric": "l2", "n_queries": 10, "queries": queries},
        "settings": {"M": 16, "ef_construction": 200, "k": 10, "efs": [10, 20],
                     "threads": [1, 2], "build_threads": 2, "repeat": 1, "build_repeat": 1},
        "machine": {"cpu": "c", "cores": 2, "family_model_stepping": [1, 2, 3], "virtual": False,
                    "caches": [], "features": [], "kernel": "k", "libc": "l", "huge_pages": "",
                    "python": "3", "commit": "c", "load_before": 0.0, "load_after": 0.0},
        "date": "2026-01-31T00", "skipped": {"lost": "why"}, "libraries": libraries}


def test_a_page_of_unlike_libraries(bench):
    """One thread only, another sweep parameter, no parts told: each its place, and no hole."""
    curve = [(10, 0.9, 4000.0), (20, 1.0, 1000.0)]
    page = bench("report").Page(results_of({
        "hnswlib": one_library(curve, (1, 2)),
        "vsag": one_library([(10, 0.9, 8000.0), (40, 1.0, 500.0)]),
        "ngt": one_library([(0.0, 0.8, 900.0), (0.1, 0.95, 300.0)], sweep="epsilon"),
        "vecidx": one_library(curve, (1, 2), parts={"vectors": 16_000, "total": 20_000}),
    }, "ood"), ["hnswlib", "symphonyqg", "vecidx"])
    page = "\n".join(page.lines())
    assert "10 out-of-distribution queries" in page
    assert "Ratios are to hnswlib / vecidx." in page and "- lost: left out (why)" in page
    assert "| vectors | 16.0 |" in page
    one, two = page.split("## QPS at equal recall, ")[1:]
    assert "| vsag | 8,000 (2.00 x / 2.00 x) |" in one
    assert "| hnswlib | 8,000 (1.00 x / 1.00 x) |" in two.split("##")[0]
    assert "vsag" not in two.split("\n\n")[1]
    assert "## ngt, by epsilon" in page and "| 0.1 | 0.9500 | 300 (0%) |" in page
    assert "| 20 | 1.0000 | 1.0000 (+0.0000) | - |" in page


def test_a_summary_has_only_what_there_is(bench):
    summary = bench("summary")
    curve = [(10, 0.9, 4000.0), (20, 1.0, 1000.0)]
    first = results_of({"hnswlib": one_library(curve), "vecidx": one_library(curve)})
    text = f"before\n{summary.BEGIN}\nold\n{summary.END}\nafter\n"
    assert summary.replaced(text, summary.figures([("a", first)])) == (
        f"before\n{summary.BEGIN}\n{summary.END}\nafter\n")
    more = results_of({**first["libraries"], "symphonyqg": one_library(curve)})
    modes = results_of({**first["libraries"], "vecidx[M=8]": one_library(curve)})
    ood = results_of(first["libraries"], "ood")
    ingest = {"question": "ingest", "machine": first["machine"], "date": first["date"], "found": {
        "vecidx": [{"rows_before": 0, "rows": 100, "wall_s": 0.5}]}}
    page = summary.replaced(text, summary.figures([("a", first), ("b", more), ("c", modes),
                                                ("d", ood), ("e", ingest)]))
    assert [line for line in page.splitlines() if line.startswith("#")] == [
        "## Other libraries, one thread", "### b", "## Modes of vecidx, one thread", "### c",
        "## Queries out of distribution, one thread", "### d", "## Ingest in batches", "### e"]
    assert "| symphonyqg | 4,000 (1.00 x / 1.00 x) |" in page and "| vecidx | 0 | 200 |" in page
    assert "old" not in page and page.endswith("\nafter\n")
    with pytest.raises(ValueError, match="no line"):
        summary.replaced("nothing", [])


def test_an_old_result_still_makes_a_page(bench, tmp_path):
    kept = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    if not kept:
        pytest.skip("no results kept")
    report = bench("report")
    results = report.json.loads(kept[0].read_text())
    if "libraries" in results:
        assert "## QPS at equal recall, 1 thread(s)" in report.Page(results, ["hnswlib"]).lines()


# ---- what is asked for ---------------------------------------------------------------


def test_modes_of_vecidx(bench):
    mode_arguments = bench("peers").mode_arguments
    assert mode_arguments("quantization=sq8,M=24,x=None,search.rerank=40") == {
        "quantization": "sq8", "M": 24, "x": None, "search.rerank": 40}
    for text in ("sq8", "=3", "a b=3", ""):
        with pytest.raises(ValueError, match="expected NAME=VALUE"):
            mode_arguments(text)


def test_modes_reach_the_index(bench, rng):
    Vecidx = bench("libraries").Vecidx
    rows = rng.standard_normal((300, 8), dtype=np.float32)
    library = Vecidx({"M": 5, "search.exact": True})
    library.new(300, 8, "l2", 16, 50)
    library.add(rows[:200], 1)
    library.add(rows[200:], 1)
    library.set_search(10, 1)
    answer = library.search(rows, 1)
    assert (library.ids(answer)[:, 0] == np.arange(300)).all() and library.index.M == 5
    assert library.memory_parts()["total"] > 300 * 8 * 4
    with pytest.raises(TypeError, match="no_such"):
        Vecidx({"no_such": 1}).new(10, 8, "l2", 16, 50)
    with pytest.raises(TypeError, match="takes no modes"):
        bench("libraries").Hnswlib({"M": 5})


def test_every_library_is_described(bench):
    libraries = bench("libraries")
    for name, library in libraries.LIBRARIES.items():
        assert library.module and library.package and library.terms and library.sweep, name
    assert set(libraries.CORE) <= set(libraries.LIBRARIES)
    with pytest.raises(ValueError, match=r"unknown \['nolib'\], expected some of"):
        bench("peers").known("vecidx,nolib")


def test_grids_of_their_own(bench, tmp_path):
    compare = bench("compare")
    data = tmp_path / "d.hdf5"
    data.touch()
    args = compare.parse(["--data", str(data), "--libraries", "vecidx,ngt", "--efs", "10,20",
                          "--modes", "M=8", "--ef", "ngt=0.1,0.2", "--ef", "vecidx[M=8]=30"])
    comparison = compare.Comparison(args)

    class Peer:
        def __init__(self, label, name):
            self.label, self.name = label, name

    assert comparison.grid(Peer("vecidx", "vecidx")) == [10, 20]
    assert comparison.grid(Peer("ngt", "ngt")) == [0.1, 0.2]
    assert comparison.grid(Peer("vecidx[M=8]", "vecidx")) == [30]
    for wrong in (["--ef", "faiss=10"], ["--ef", "ngt"], ["--modes", "sq8"],
                  ["--libraries", "nolib"]):
        with pytest.raises(SystemExit):
            compare.parse(["--data", str(data), "--libraries", "vecidx,ngt", *wrong])


def test_slope_of_an_ingest(bench):
    slope = bench("scale_pages").slope

    def batches(speed):
        return [{"rows_before": n, "rows": 100, "wall_s": 100 / speed(n + 50)}
                for n in range(0, 1000, 100)]

    assert slope(batches(lambda n: 5.0)) == pytest.approx(0.0)
    assert slope(batches(lambda n: 5.0 * n ** np.log2(0.9))) == pytest.approx(0.1)
    assert slope(batches(lambda n: 5.0)[:1]) is None


# ---- truth, and data -----------------------------------------------------------------


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_truth_by_blocks(bench, rng, monkeypatch, metric):
    dataset = bench("dataset")
    monkeypatch.setattr(dataset, "BLOCK_ROWS", 37)
    rows = rng.standard_normal((200, 6), dtype=np.float32) + 3
    rows[150] = rows[10]                                        # equal rows: the lower id first
    queries = rng.standard_normal((9, 6), dtype=np.float32) + 3
    queries[0] = rows[10]
    ids, distances = dataset.search_exactly(rows, queries, 12, metric)
    want = exact_distances(queries, rows, metric)
    np.testing.assert_array_equal(ids, np.argsort(want, axis=1, kind="stable")[:, :12])
    np.testing.assert_allclose(distances, np.sort(want, axis=1)[:, :12], atol=1e-12)
    few, _ = dataset.search_exactly(rows[:5], queries, 12, metric)
    assert few.shape == (9, 5)


def test_recall_counts_ties_and_repeats_rightly(bench):
    dataset = bench("dataset")
    rows = np.array([[0.0], [1.0], [1.0], [5.0]], np.float32)
    queries = np.zeros((1, 1), np.float32)
    truth, bound = np.array([[0, 1]]), np.array([1.0 + 1e-6])
    for found, by_distance, by_id in (([0, 2], 1.0, 0.5), ([0, 0], 0.5, 0.5), ([3, -1], 0.0, 0.0)):
        assert dataset.recall(rows, queries, "l2", np.array([found]), truth,
                              bound) == (by_distance, by_id)


def test_intrinsic_dimension_of_known_spaces(bench, rng):
    generate, dataset = bench("generate"), bench("dataset")
    for dim in (2, 8):
        rows = rng.random((4000, dim), dtype=np.float32)
        queries = (0.5 + 0.1 * (rng.random((50, dim)) - 0.5)).astype(np.float32)
        _, squares = dataset.search_exactly(rows, queries, 50, "l2")
        found = generate.intrinsic_dimension(generate.as_lengths(squares, "l2"))
        assert found == pytest.approx(dim, rel=0.15)


@pytest.mark.parametrize("distance", ["angular", "euclidean"])
def test_a_made_set(bench, tmp_path, monkeypatch, distance):
    """Low intrinsic dimension, clusters of unlike size, exact truth, the same for a seed."""
    generate, dataset = bench("generate"), bench("dataset")
    monkeypatch.setattr(generate, "CHUNK_ROWS", 700)
    mixture = generate.Mixture(48, clusters=20, intrinsic=10, seed=3)
    found = generate.write(tmp_path / "a.hdf5", mixture, 3000, 30, distance, "float16")
    assert 2 < found < 24
    shape = dataset.read_shape(tmp_path / "a.hdf5")
    assert (shape.n_rows, shape.dim, shape.n_queries) == (3000, 48, 30)
    with h5py.File(tmp_path / "a.hdf5") as file:
        rows, queries = file["train"][:].astype(np.float64), file["test"][:].astype(np.float64)
        want = exact_distances(queries, rows, shape.metric)
        if distance == "angular":
            np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=2e-3)
        else:
            want = np.sqrt(want)
        np.testing.assert_allclose(file["distances"][:], np.sort(want, axis=1)[:, :100],
                                   atol=1e-6)
        assert (file["neighbors"][:, 0] == want.argmin(axis=1)).mean() > 0.9    # ties aside
        assert len(np.unique(rows, axis=0)) > 2990
    np.testing.assert_array_equal(mixture.draw(50, 1, False), generate.Mixture(
        48, clusters=20, intrinsic=10, seed=3).draw(50, 1, False))
    assert mixture.share[0] > 5 * mixture.share[-1]


def test_derived_sets(bench, tmp_path, monkeypatch, rng):
    derive = bench("derive")
    monkeypatch.setattr(derive, "N_QUERIES", 40)
    whole, fewer = str(tmp_path / "a.hdf5"), str(tmp_path / "b.hdf5")
    derive.main(["normal", "--dim", "12", "--rows", "1500", "--out", whole])
    with h5py.File(whole) as file:
        rows = file["train"][:] * np.arange(1, 13)      # spread most along the last
    derive.write(whole, np.concatenate([rows, rows[:40]]), "euclidean", rng, 1500)
    derive.main(["pca", whole, "--dim", "5", "--rows", "900", "--out", fewer])
    for path, shape in ((whole, (1500, 12)), (fewer, (900, 5))):
        with h5py.File(path) as file:
            assert file["train"].shape == shape and file["test"].shape == (40, shape[1])
            want = exact_distances(file["test"][:], file["train"][:], "l2")
            np.testing.assert_allclose(file["distances"][:], np.sqrt(np.sort(want)[:, :100]),
                                       rtol=1e-4)
            spread = file["train"][:].std(axis=0)
    np.testing.assert_allclose(spread, [12, 11, 10, 9, 8], rtol=0.07)  # leading directions first
    for wrong in (["pca"], ["normal", whole]):
        with pytest.raises(SystemExit):
            derive.main([*wrong, "--out", str(tmp_path / "c.hdf5")])


def test_rows_of_a_cluster_lie_along_few_directions(bench):
    generate = bench("generate")
    mixture = generate.Mixture(64, clusters=1, intrinsic=8, decay=0.5)
    rows = mixture.draw(4000, 1, False)
    variance = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False) ** 2
    share = variance / variance.sum()
    # 8 directions hold all but the noise's share, falling as rank^-1.
    assert share[:8].sum() == pytest.approx(1 / (1 + 0.4 ** 2), abs=0.05)
    assert share[0] / share[3] == pytest.approx(4, rel=0.25)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_queries_out_of_distribution(bench, sample, metric):
    """Farther from every row than the set's own queries, and seeing flatter distances."""
    ood, dataset, generate = bench("ood"), bench("dataset"), bench("generate")
    rows = np.array(sample.rows[:4000], dtype=np.float32)
    own = np.array(sample.queries[:100], dtype=np.float32)
    made = ood.queries_between(rows, 100, metric)
    np.testing.assert_array_equal(made, ood.queries_between(rows, 100, metric))
    assert not np.array_equal(made, ood.queries_between(rows, 100, metric, seed=1))
    seen = {}
    for kind, queries in (("own", own), ("ood", made)):
        _, distances = dataset.search_exactly(rows, queries, 100, metric)
        lengths = generate.as_lengths(distances, metric)
        seen[kind] = np.median(lengths[:, 0]), generate.intrinsic_dimension(lengths)
    assert seen["ood"][0] > seen["own"][0] * 1.02
    assert seen["ood"][1] > seen["own"][1] * 1.3
