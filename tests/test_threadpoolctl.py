"""threadpoolctl lists the core's pool and limits it, once vecidx is imported."""

import shutil
import sys

import numpy as np
import pytest

import vecidx
from helpers import run_python

threadpoolctl = pytest.importorskip("threadpoolctl", minversion="3.2")


def pools():
    return [info for info in threadpoolctl.threadpool_info() if info["user_api"] == "vecidx"]


def test_the_pool_is_listed():
    info, = pools()
    assert info["num_threads"] == vecidx.get_num_threads()
    assert info["version"] == vecidx.__version__
    assert info["simd_level"] == vecidx.simd_level()
    assert "_core" in info["filepath"]


@pytest.mark.parametrize("which", [{"user_api": "vecidx"}, {}])
def test_the_pool_is_limited_and_restored(which):
    before = vecidx.get_num_threads()
    try:
        vecidx.set_num_threads(3)
        with threadpoolctl.threadpool_limits(limits=1, **which):
            assert vecidx.get_num_threads() == 1
        assert vecidx.get_num_threads() == 3
    finally:
        vecidx.set_num_threads(None)
    assert vecidx.get_num_threads() == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names of Linux's libraries")
def test_libraries_named_alike_are_let_be(tmp_path):
    """SciPy has a _core of its own; scikit-learn could not be imported after vecidx."""
    other = shutil.copy(np.random.bit_generator.__file__, tmp_path / "_core.other.so")
    status, out, err = run_python(
        f"import ctypes, threadpoolctl, vecidx; ctypes.CDLL({str(other)!r});"
        "print([i['user_api'] for i in threadpoolctl.threadpool_info()].count('vecidx'))")
    assert status == 0 and out.strip() == "1", err


def test_a_reload_does_not_list_it_twice():
    code = ("import importlib, threadpoolctl, vecidx; importlib.reload(vecidx);"
            "print([i['user_api'] for i in threadpoolctl.threadpool_info()].count('vecidx'))")
    status, out, err = run_python(code)
    assert status == 0 and out.strip() == "1", err


def test_it_is_no_dependency():
    code = "import sys; sys.modules['threadpoolctl'] = None; import vecidx; print('fine')"
    status, out, err = run_python(code)
    assert status == 0 and out.strip() == "fine", err
