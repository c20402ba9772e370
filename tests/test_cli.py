"""The command line: results, JSON, one-line errors, exit codes."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import vecidx
from helpers import SAMPLE, damaged_archives
from vecidx import cli
from vecidx.demo import best_match


@pytest.fixture
def vectors(tmp_path, rng):
    path = tmp_path / "vectors.npy"
    np.save(path, rng.standard_normal((600, 16)).astype(np.float32))
    return path


@pytest.fixture
def run(capfd):
    """Run a command in this process; (exit code, stdout, stderr)."""
    def run(*args):
        try:
            code = cli.main([str(arg) for arg in args])
        except SystemExit as stop:                # argparse ends so
            code = stop.code
        out, err = capfd.readouterr()
        return code, out, err
    return run


@pytest.fixture
def built(run, vectors, tmp_path):
    path = tmp_path / "v.vidx"
    code, out, err = run("build", vectors, "-o", path, "--metric", "cosine", "--M", 8)
    assert code == 0 and "600 rows x 16, cosine" in out and err == ""
    return path


def ok(result):
    code, out, err = result
    assert code == 0, err
    return out


def fails(result, says):
    code, out, err = result
    assert code == 2 and out == ""
    assert err.startswith("vecidx: error: ") and err.count("\n") == 1 and says in err, err


def test_build_info_verify_search(run, built, vectors, tmp_path):
    info = json.loads(ok(run("info", built, "--json")))
    assert (info["kind"], info["rows"], info["dim"], info["metric"], info["M"]) == \
        ("index", 600, 16, "cosine", 8)
    assert "600" in ok(run("info", built))
    assert json.loads(ok(run("verify", built, "--json")))["ok"] is True
    assert "sound" in ok(run("verify", built))

    found = json.loads(ok(run("search", built, vectors, "-k", 3, "--first", 4, "--json")))
    assert [row[0] for row in found["ids"]] == [0, 1, 2, 3]
    rows = np.load(vectors)
    ids, distances = vecidx.load(built).search(rows[:4], k=3)
    assert found["ids"] == ids.tolist()
    np.testing.assert_allclose(found["distances"], distances, rtol=1e-6)
    lines = ok(run("search", built, vectors, "-k", 3, "--first", 4)).splitlines()
    assert len(lines) == 4 and lines[2].startswith("2: 2 (")

    out = tmp_path / "result.npz"
    ok(run("search", built, vectors, "-k", 3, "--exact", "-o", out))
    with np.load(out) as result:
        assert result["ids"].shape == (600, 3)
        assert (result["ids"][:, 0] == np.arange(600)).all()


def test_search_for_more_than_there_is_gives_valid_json(run, tmp_path):
    np.save(tmp_path / "a.npy", np.eye(4))
    ok(run("build", tmp_path / "a.npy", "-o", tmp_path / "a.vidx"))
    found = json.loads(ok(run("search", tmp_path / "a.vidx", tmp_path / "a.npy", "-k", 6,
                              "--json")))
    assert found["ids"][0][4:] == [-1, -1] and found["distances"][0][4:] == [None, None]


def test_info_of_vectors(run, vectors):
    info = json.loads(ok(run("info", vectors, "--json")))
    assert (info["kind"], info["rows"], info["dim"], info["dtype"]) == \
        ("vectors", 600, 16, "float32")


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_bench_holds_rows_out(run, vectors, metric):
    report = json.loads(ok(run("bench", vectors, "--metric", metric, "--ef", "10,500", "--json")))
    assert report["rows"] == 540 and report["queries"] == 60
    low, high = report["ef"]
    assert (low["ef"], high["ef"]) == (10, 500)
    assert 0.3 < low["recall"] <= high["recall"] == 1.0
    assert low["qps"] > 0 and low["microseconds"] == pytest.approx(1e6 / low["qps"])


@pytest.mark.parametrize("distance, order", [("angular", 1), ("euclidean", 1)])
def test_bench_uses_the_truth_of_the_file(run, tmp_path, distance, order, rng):
    """True neighbours give recall 1 at a large ef, false ones do not."""
    h5py = pytest.importorskip("h5py")
    from helpers import exact_distances
    train, test = rng.standard_normal((400, 8)), rng.standard_normal((20, 8))
    metric = {"angular": "cosine", "euclidean": "l2"}[distance]
    true = np.argsort(exact_distances(test, train, metric), axis=1)[:, :20]
    for name, neighbors in (("true", true), ("nearer", np.roll(true, 5, axis=1))):
        with h5py.File(tmp_path / f"{name}.hdf5", "w") as file:
            file.attrs["distance"] = distance
            file["train"], file["test"], file["neighbors"] = train, test, neighbors
    recalls = [json.loads(ok(run("bench", tmp_path / f"{name}.hdf5", "--ef", 400, "--json")))
               for name in ("true", "nearer")]
    assert [report["metric"] for report in recalls] == [metric, metric]
    assert recalls[0]["ef"][0]["recall"] == 1.0
    assert recalls[1]["ef"][0]["recall"] < 0.9
    assert "recall@10" in ok(run("bench", tmp_path / "true.hdf5", "--ef", 20))


def test_errors_are_one_line_and_exit_2(run, built, vectors, tmp_path):
    missing = tmp_path / "none.npy"
    fails(run("build", missing, "-o", tmp_path / "x"), "none.npy: No such file or directory")
    fails(run("build", vectors, "-o", tmp_path / "no" / "x"), "No such file or directory")
    fails(run("search", vectors, vectors), "vectors.npy")              # not an index
    fails(run("verify", vectors), "vectors.npy")
    fails(run("search", tmp_path / "none.vidx", vectors), "No such file")
    fails(run("build", vectors, "-o", tmp_path / "x", "--M", 1), "M: expected 2 to 127, got 1")
    fails(run("build", vectors, "-o", tmp_path / "x", "--metric", "euclid"), "invalid choice")
    fails(run("bench", vectors, "--ef", "10,x"), "--ef: expected numbers")
    for words in (["info", built], ["verify", built]):
        fails(run(*words, "--threads", 1), "unrecognized arguments: --threads")
        fails(run(*words, "--quiet"), "unrecognized arguments: --quiet")
    fails(run("search", built, vectors, "--quiet"), "unrecognized arguments: --quiet")
    fails(run("info", built, "--key", "a"), "--key is for vector files")
    fails(run("search", built, vectors, "-k", 0), "expected 1 or more")
    fails(run("search", built, vectors, "-k", "two"), "invalid")
    fails(run("frob"), "invalid choice")
    fails(run(), "required")
    np.save(tmp_path / "nan.npy", np.full((3, 4), np.nan))
    fails(run("build", tmp_path / "nan.npy", "-o", tmp_path / "x"), "row 0")
    np.save(tmp_path / "narrow.npy", np.ones((3, 4)))
    fails(run("search", built, tmp_path / "narrow.npy"), "4 columns")
    fails(run("bench", vectors, "--queries", tmp_path / "narrow.npy"),
          f"narrow.npy: 4 columns; {vectors} has 16")
    damaged = bytearray(built.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "damaged.vidx").write_bytes(damaged)
    fails(run("verify", tmp_path / "damaged.vidx"), "damaged.vidx")
    assert not (tmp_path / "x").exists()


def test_help_has_examples(run):
    for words in ([], ["demo"], ["build"], ["search"], ["info"], ["verify"], ["bench"]):
        assert "example" in ok(run(*words, "--help"))
    assert ok(run("--version")).strip() == f"vecidx {vecidx.__version__}"


def test_demo_answers_with_meaning(run):
    report = json.loads(ok(run("demo", "--data", SAMPLE, "--json")))
    assert report["rows"] == 12_000 and report["dim"] == 384
    assert report["recall"] > 0.9 and report["query_microseconds"] > 0
    assert len(report["answers"]) >= 3
    camel = report["answers"][0]
    assert camel["sense"].startswith("camel:")
    assert any("camel" in n["text"] for n in camel["neighbours"])
    for answer in report["answers"]:
        distances = [n["distance"] for n in answer["neighbours"]]
        assert len(distances) == 5 and distances == sorted(distances)


def test_demo_for_a_person(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    out = ok(run("demo", "--data", SAMPLE, "--query", "volcano", "-k", 3))
    assert "volcano" in out and "recall@10" in out and "rows/s" in out and "Next:" in out
    assert max(map(len, out.splitlines())) <= 100


def test_demo_without_its_file_or_words(run, tmp_path, vectors):
    fails(run("demo", "--data", tmp_path / "none.npz"), "No such file")
    fails(run("demo", "--data", vectors), "not the demo's sample")
    fails(run("demo", "--data", SAMPLE, "--query", "qqqq zzzz"), "no sense in the sample")


def test_damaged_archives_are_one_line_and_exit_2(run, tmp_path):
    """A member that does not inflate, or is encrypted, used to end in a traceback."""
    for what, data in damaged_archives(SAMPLE):
        path = tmp_path / f"{what}.npz"
        path.write_bytes(data)
        fails(run("demo", "--data", path), f"{path}: not the demo's sample")
        fails(run("build", path, "-o", tmp_path / "x", "--key", "rows"),
              f"{path}: not a readable .npz file")
    assert not (tmp_path / "x").exists()


def test_best_match_prefers_the_word_itself():
    texts = ["guitar pick: a thin plate", "guitar: a stringed instrument",
             "guitarist: a musician who plays the guitar", "lyre, harp: a stringed guitar"]
    assert best_match("Guitar", texts) == 1
    assert best_match("harp", texts) == 3
    assert best_match("musician", texts) == 2
    assert best_match("nothing here", texts) is None


def command(*args):
    return [sys.executable, "-m", "vecidx", *map(str, args)]


def test_python_dash_m(vectors, tmp_path):
    done = subprocess.run(command("build", vectors, "-o", tmp_path / "x", "--json"),
                          capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout)["rows"] == 600
    assert done.stderr == ""
    done = subprocess.run(command("info", tmp_path / "none"), capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1


# The command line in a process that says on stdout when an add is under way.
SAYS_WHEN_ADDING = """
import sys
from vecidx import Index, cli
add, said = Index.add, []
def report(done, total):
    if not said:
        said.append(print("adding", flush=True))
Index.add = lambda self, rows, progress: add(self, rows, progress=report)
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_ctrl_c_is_130_and_writes_no_index(tmp_path):
    np.save(tmp_path / "big.npy",
            np.random.default_rng(0).standard_normal((60_000, 256), dtype=np.float32))
    process = subprocess.Popen(
        [sys.executable, "-c", SAYS_WHEN_ADDING, "build", tmp_path / "big.npy",
         "-o", tmp_path / "x", "--ef-construction", "800"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "adding\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and err.strip() == "vecidx: interrupted"
    assert os.listdir(tmp_path) == ["big.npy"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX pipes")
def test_a_reader_that_stops_reading_is_no_error(built, vectors):
    search = subprocess.Popen(command("search", built, vectors, "-k", 50),
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    search.stdout.read(10)
    search.stdout.close()
    err = search.stderr.read()
    search.stderr.close()
    assert search.wait(timeout=30) == 0 and err == b""


def test_search_of_bits(run, tmp_path, rng):
    rows = np.packbits(rng.random((300, 20)) < 0.5, axis=1)
    index = vecidx.Index(20, "hamming")
    index.add(rows)
    index.save(tmp_path / "b.vidx")
    np.save(tmp_path / "q.npy", rows[:5])
    got = json.loads(ok(run("search", tmp_path / "b.vidx", tmp_path / "q.npy", "-k", 3, "--json")))
    assert got["ids"] == index.search(rows[:5], 3)[0].tolist()
    np.save(tmp_path / "wide.npy", np.zeros((5, 20), np.uint8))
    fails(run("search", tmp_path / "b.vidx", tmp_path / "wide.npy"), "3 bytes of packed bits")


def test_search_of_strings(run, tmp_path):
    index = vecidx.Index(3, ids="str")
    index.add(np.eye(3), ["one", "two", "drei"])
    index.save(tmp_path / "s.vidx")
    np.save(tmp_path / "q.npy", np.eye(3))
    args = ("search", tmp_path / "s.vidx", tmp_path / "q.npy", "-k", 4)
    assert ok(run(*args)).splitlines()[2].startswith("2: drei (0)  one (2)")
    ok(run(*args, "-o", tmp_path / "found.npz"))
    ids = np.load(tmp_path / "found.npz")["ids"]
    assert ids[:, 0].tolist() == ["one", "two", "drei"] and ids[0, 3] == ""
