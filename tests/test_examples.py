"""The programs in examples/ run, and do what their pages say."""

import json
import os
import subprocess
import sys

import pytest

from helpers import ROOT

EXAMPLES = ROOT / "examples"
pytestmark = pytest.mark.skipif(not (EXAMPLES / "wordnet.py").exists(),
                                reason="no examples beside these tests")


def run(*args):
    done = subprocess.run([sys.executable, *map(str, args)], cwd=EXAMPLES, text=True,
                          capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_semantic_search(tmp_path):
    found = run("semantic_search.py", "--folder", tmp_path / "s", "-k", 3, "volcano")
    assert found.count("\n") == 3 and "volcano" in found.splitlines()[0]
    assert os.path.exists(tmp_path / "s" / "documents.sqlite")
    found = run("semantic_search.py", "--folder", tmp_path / "s", "--has", "ship", "bad weather")
    assert found and all("ship" in line or line.endswith("...") for line in found.splitlines())


def test_deduplicate():
    found = run("deduplicate.py", "--show", 2)
    assert "groups that say nearly the same" in found and found.count("\n\n") == 2


def test_the_page_answers():
    pytest.importorskip("starlette", reason="needs vecidx[web]")
    pytest.importorskip("httpx", reason="needs httpx")
    from starlette.testclient import TestClient

    sys.path[:0] = [str(EXAMPLES), str(EXAMPLES / "web")]
    try:
        from app import make_app
        from wordnet import Dictionary
    finally:
        del sys.path[:2]
    client = TestClient(make_app(Dictionary()))
    assert "<!doctype html>" in client.get("/").text
    found = client.get("/search", params={"q": "volcano"}).json()
    assert len(found["hits"]) == 12 and "volcano" in found["hits"][0]["words"]
    assert found["hits"][0]["likeness"] > found["hits"][-1]["likeness"]
    found = client.get("/search", params={"q": "animal", "has": "<b>'%"}).json()
    assert found["hits"] == []
    assert client.get("/search").json()["hits"] == []


def test_the_page_in_a_browser(tmp_path):
    pytest.importorskip("playwright.sync_api", reason="needs playwright")
    pytest.importorskip("uvicorn", reason="needs vecidx[web]")
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import shoot_page
    finally:
        sys.path.pop(0)
    if shoot_page.find_chromium() is None:
        pytest.skip("needs a Chromium: apt-get install chromium, or CHROMIUM=path")
    with shoot_page.served() as address:
        shoot_page.use(address, tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_the_notebook_runs(tmp_path):
    pytest.importorskip("nbclient", reason="needs nbclient")
    pytest.importorskip("ipykernel", reason="needs ipykernel")
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(EXAMPLES / "explore.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "stored without outputs"
    NotebookClient(notebook, timeout=300, kernel_name="python3",
                   resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    outputs = json.dumps(notebook)
    assert outputs.count("image/png") == 2
