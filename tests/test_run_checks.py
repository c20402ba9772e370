"""What CI counts: missing packages are errors there, and a level of no tests is a failure."""

import importlib.util
import shutil

import pytest

from helpers import ROOT, run_python

TESTS = ROOT / "tests"

SKIPPING = {
    "test_function.py": """
import os, pytest
def test_package(): pytest.importorskip("no_such_package")
def test_other(): pytest.skip("running as root")
@pytest.fixture
def large(): pytest.skip("VECIDX_DATA names no folder")
def test_fixture(large): pass
@pytest.fixture
def package(): pytest.importorskip("no_such_package")
def test_fixture_package(package): pass
def test_good(): pass
""",
    "test_module.py": """
import pytest
pytest.importorskip("no_such_package")
def test_never(): pass
""",
    "test_module_other.py": """
import pytest
pytest.skip("not on this platform", allow_module_level=True)
""",
}


@pytest.fixture
def checks():
    """tools/run_checks.py as a module of its own."""
    spec = importlib.util.spec_from_file_location("run_checks", ROOT / "tools" / "run_checks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("strict, counts", [
    ("0", {"passed": 1, "skipped": 6}),
    ("1", {"passed": 1, "skipped": 3, "failed": 1, "error": 2}),
])
def test_a_missing_package_is_an_error_in_strict_runs(checks, tmp_path, strict, counts):
    """CI used to pass with whole files of tests skipped."""
    for name in ("conftest.py", "helpers.py"):
        shutil.copy(TESTS / name, tmp_path)
    for name, text in SKIPPING.items():
        (tmp_path / name).write_text(text)
    _, out, err = run_python(
        "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))", "-q", "--color=no",
        "-p", "no:cacheprovider", "--continue-on-collection-errors", f"--rootdir={tmp_path}",
        tmp_path, env={"VECIDX_STRICT": strict})
    line = checks.pytest_summary(out.splitlines(keepends=True))
    got = {word: checks.number_before(word, line) for word in ("passed", "skipped", "failed",
                                                               "error")}
    assert {word: n for word, n in got.items() if n} == counts, out + err
    assert ("VECIDX_STRICT=1: could not import 'no_such_package'" in out) == (strict == "1")


def test_the_summary_need_not_be_the_last_line(checks):
    noise = "sys:1: DeprecationWarning: 3 things passed\n"
    for line in ("4 passed, 1 skipped in 0.12s\n", "no tests ran in 0.01s\n",
                 "1 failed, 2 passed in 61.10s (0:01:01)\n", "2 errors in 0.50s\n",
                 "=== 4 passed in 1.00s ===\n"):
        assert checks.pytest_summary(["x\n", line, noise]) == line
    assert checks.pytest_summary(["Segmentation fault\n"]) == ""


@pytest.mark.parametrize("code, lines, passed, failed", [
    (0, ["3 passed, 1 skipped in 1.00s\n", "noise\n"], 3, 0),
    (1, ["2 failed, 3 passed, 1 error in 1.00s\n"], 3, 3),
    (0, ["9 skipped in 1.00s\n"], 0, 1),
    (5, ["no tests ran in 0.01s\n"], 0, 1),
    (-11, ["Segmentation fault\n"], 0, 1),
])
def test_a_level_where_nothing_passed_is_a_failure(checks, monkeypatch, capsys, code, lines,
                                                   passed, failed):
    monkeypatch.setattr(checks, "has_level", lambda level: level == "scalar")
    monkeypatch.setattr(checks, "stream", lambda name, command, env=None: (code, lines))
    checks.python_tests()
    assert (checks.totals["passed"], checks.totals["failed"]) == (passed, failed)
    assert ("none passed" in capsys.readouterr().out) == (passed == 0)


def test_the_fuzzer_is_skipped_by_name_where_its_compiler_is_missing(checks, monkeypatch, capsys):
    monkeypatch.setenv("FUZZ_CC", "no-such-compiler")
    monkeypatch.setattr(checks, "STRICT", False)
    checks.fuzz()
    assert checks.totals == {"passed": 0, "failed": 0, "skipped": 1}
    assert "SKIPPED: fuzzer of the loader: no-such-compiler" in capsys.readouterr().out
