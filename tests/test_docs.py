"""Pages: their Python runs, their links lead somewhere, their pictures are there.

The blocks of a page run in order, as one program, in a folder of their own with the
sample in it.  A block after ``<!-- needs: module -->`` is left out where that module
is not installed.
"""

import importlib.util
import re
import shutil
import sys

import pytest

from helpers import ROOT, SAMPLE, run_python

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
BLOCK = re.compile(r"(?:<!-- needs: (?P<needs>[\w.]+) -->\n)?^```python\n(?P<code>.*?)^```",
                   re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def is_there(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def blocks_of(page):
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [match["code"] for match in found if not match["needs"] or is_there(match["needs"])]


def named(pages):
    return [pytest.param(page, id=page.relative_to(DOCS).as_posix()) for page in pages]


@pytest.mark.parametrize("page", named(page for page in PAGES if blocks_of(page)))
def test_the_python_of_a_page_runs(page, tmp_path):
    code = "\n".join(blocks_of(page))
    (tmp_path / "examples" / "data").mkdir(parents=True)
    shutil.copy(SAMPLE, tmp_path / "examples" / "data")
    status, _, err = run_python(f"import os; os.chdir({str(tmp_path)!r})\n" + code)
    assert status == 0, err


@pytest.mark.parametrize("page", named(PAGES))
def test_links_and_pictures_are_there(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} -> {target}"


@pytest.mark.skipif(not PAGES, reason="no docs beside these tests")
def test_pictures_are_those_that_the_tool_draws(tmp_path, monkeypatch):
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import make_pictures
    finally:
        sys.path.pop(0)
    monkeypatch.setattr(make_pictures, "FOLDER", tmp_path)
    for draw in (make_pictures.draw_layers, make_pictures.draw_walk,
                 make_pictures.draw_heuristic, make_pictures.draw_codes):
        draw()
    made = sorted(tmp_path.glob("*.svg"))
    assert len(made) == 4
    for picture in made:
        assert picture.read_text() == (DOCS / "pictures" / picture.name).read_text()
