"""The C API: the documented example is compiled against the installed headers, and run."""

import gc
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import vecidx
from vecidx import _core

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "c_extension"


def build(folder):
    """The example as a module, from a copy of its folder."""
    pytest.importorskip("setuptools")
    if sys.platform != "win32" and not (shutil.which("cc") or shutil.which("gcc")):
        pytest.skip("no C compiler")
    # ccache would not see that a header of the same name lies nearer than the one it knows.
    done = subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
                          cwd=folder, capture_output=True, text=True,
                          env={**os.environ, "CCACHE_DISABLE": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    path, = (p for p in folder.iterdir() if p.suffix in (".so", ".pyd"))
    spec = importlib.util.spec_from_file_location("nearest", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def nearest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("c_extension") / "copy"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("build", "*.so", "*.pyd"))
    return build(folder)


def test_headers_are_installed():
    folder = Path(vecidx.get_include())
    assert (folder / "vecidx.h").is_file() and (folder / "vecidx_api.h").is_file()


def test_an_index_of_python_is_searched_from_c(nearest, rng):
    rows = rng.standard_normal((200, 8), dtype=np.float32)
    index = vecidx.Index(8)
    assert nearest.nearest(index, rows[0].tobytes()) is None      # nothing in it yet
    index.add(rows, ids=np.arange(1000, 1200))
    assert [nearest.nearest(index, row.tobytes()) for row in rows] == list(range(1000, 1200))


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_dtypes_and_filters(nearest, rng, dtype):
    rows = rng.integers(-9, 10, (300, 8)).astype(np.float32)
    index = vecidx.Index(8, dtype=dtype)
    index.add(rows)
    exact = ((rows[:20, None] - rows[None]) ** 2).sum(2)
    for i, row in enumerate(rows[:20]):
        assert exact[i, nearest.nearest(index, row.tobytes())] == 0
        assert exact[i, nearest.nearest(index, row.tobytes(), 100, 200)] == exact[i, 100:200].min()
    assert nearest.nearest(index, rows[0].tobytes(), 300, 400) is None


def test_an_index_is_made_in_c(nearest):
    assert nearest.count_made(300) == 300


def test_errors_of_the_core_are_reported(nearest):
    index = vecidx.Index(2)
    with pytest.raises(ValueError, match="expected 2 float32, got 12 bytes"):
        nearest.nearest(index, bytes(12))
    with pytest.raises(ValueError, match="NaN|nan"):
        nearest.nearest(index, np.array([np.nan, 0], np.float32).tobytes())
    with pytest.raises(TypeError, match="expected a vecidx.Index"):
        nearest.nearest([], b"")


def test_an_index_with_a_log_is_refused(nearest, tmp_path):
    """What C code wrote would not be in the log."""
    with vecidx.open(tmp_path / "log.vidx", dim=2) as index:
        with pytest.raises(TypeError, match="with a log"):
            nearest.nearest(index, bytes(8))


def test_the_capsule_keeps_the_index(nearest):
    """The pointer is good for as long as the capsule is held, whatever becomes of the Index."""
    index = vecidx.Index(2)
    index.add([[1, 2]])
    capsules = [index.__vecidx_index__() for _ in range(3)]
    core = index._core
    held = sys.getrefcount(core)
    del index
    capsules.clear()
    gc.collect()
    assert sys.getrefcount(core) <= held - 3
    assert core.count() == 1


def test_a_closed_index_is_an_error_not_a_crash(nearest, tmp_path):
    index = vecidx.Index(2)
    index.add([[1, 2]])
    index.save(tmp_path / "a.vidx")
    loaded = vecidx.load(tmp_path / "a.vidx")
    loaded.close()
    with pytest.raises(ValueError, match="closed"):
        nearest.nearest(loaded, bytes(8))


def test_another_abi_version_is_refused(tmp_path):
    """An extension built with the header of another version says so on import."""
    folder = tmp_path / "other"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("build", "*.so", "*.pyd"))
    for name in ("vecidx.h", "vecidx_api.h"):
        text = (Path(vecidx.get_include()) / name).read_text(encoding="utf-8")
        text = text.replace("#define VX_ABI_VERSION 1u", "#define VX_ABI_VERSION 99u")
        (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(ImportError, match="version 99 .* has version 1 .*build it again"):
        build(folder)


def test_the_table_is_named_for_capsules():
    assert '"vecidx._core.C_API"' in repr(_core.C_API)
