"""VECIDX_SIMD caps the kernels at import and refuses words it does not know."""

import platform

import pytest

from helpers import run_python
from vecidx import _core

X86 = ["scalar", "avx2", "avx512", "avx512vnni"]
ARM = ["scalar", "neon"]
HERE = X86 if platform.machine().lower() in ("x86_64", "amd64") else ARM

SHOW = "import vecidx; print(vecidx.simd_level())"


@pytest.mark.parametrize("word", HERE)
def test_a_word_is_a_cap(word):
    """The best level that this CPU has and that is not above the word."""
    code, out, err = run_python(SHOW, env={"VECIDX_SIMD": word})
    assert code == 0, err
    allowed = HERE[:HERE.index(word) + 1]
    best = [level for level in _core.simd_available() if level in allowed][-1]
    assert out.strip() == best


def test_no_word_is_the_best():
    code, out, err = run_python(SHOW, env={"VECIDX_SIMD": ""})
    assert code == 0, err
    assert out.strip() == _core.simd_available()[-1]


@pytest.mark.parametrize("word", ["avx3", "AVX2", "sse", "none", "scalar,avx2",
                                  "neon" if HERE is X86 else "avx2"])
def test_another_word_is_refused(word):
    code, _, err = run_python(SHOW, env={"VECIDX_SIMD": word})
    last = err.strip().splitlines()[-1]
    assert code != 0
    assert last.startswith("ValueError: VECIDX_SIMD=") and word in last and "scalar" in last


def test_results_agree_between_levels():
    """The same search at every level: the same neighbours but for rounding."""
    code = """
import numpy as np, vecidx
rows = np.random.default_rng(1).integers(-8, 9, (500, 33)).astype(np.float32)
index = vecidx.Index(33)
index.add(rows)
ids, distances = index.search(rows[:50], k=5, exact=True)
print(ids.tolist(), distances.tolist())
"""
    outputs = set()
    for level in _core.simd_available():
        status, out, err = run_python(code, env={"VECIDX_SIMD": level})
        assert status == 0, err
        outputs.add(out)
    assert len(outputs) == 1
