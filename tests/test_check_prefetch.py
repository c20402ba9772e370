"""The compiled core fetches ahead and keeps to its instruction sets; the check sees when not."""

import importlib.util
import platform
import shutil
import subprocess

import pytest

from helpers import ROOT


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("check_prefetch",
                                                  ROOT / "tools" / "check_prefetch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def compiled(tmp_path):
    """compiled(name, text, *flags): the object of a little C file."""
    for program in ("cc", "objdump"):
        if not shutil.which(program):
            pytest.skip(f"no {program}")

    def make(name, text, *flags):
        source = tmp_path / f"{name}.c"
        source.write_text(text)
        path = tmp_path / f"{name}.o"
        subprocess.run(["cc", "-O2", *flags, "-c", source, "-o", path], check=True)
        return path
    return make


is_x86 = platform.machine().lower() in ("x86_64", "amd64")
pytestmark = pytest.mark.skipif(not is_x86 and platform.machine().lower() not in (
    "arm64", "aarch64"), reason="prefetches are known on x86 and arm64 only")
FETCHING = """
float walk_x(const float *p, long n) {
    float sum = 0;
    for (long i = 0; i < n; i++) {
        __builtin_prefetch(p + 64 * i + 999); __builtin_prefetch(p + 64 * i + 1999);
        __builtin_prefetch(p + 64 * i + 2999); sum += p[64 * i];
    }
    return sum;
}
"""
WIDE = """
typedef float eight __attribute__((vector_size(32)));
void add(eight *a) { *a += a[1]; }
"""


def test_a_walk_that_fetches(tool, compiled):
    path = compiled("hnsw_walk_scalar", FETCHING)
    wrong, seen = tool.check_object("objdump", path)
    assert wrong == [] and len(seen) == 1 and seen[0].startswith("walk_x: ")
    assert int(seen[0].split()[1]) >= 3         # more where the compiler unrolls


def test_a_walk_that_does_not_fetch(tool, compiled):
    lines = [line for line in FETCHING.splitlines() if "1999" not in line]
    wrong, _ = tool.check_object("objdump", compiled("hnsw_walk_scalar", "\n".join(
        lines).replace("__builtin_prefetch(p + 64 * i + 2999);", "")))
    assert wrong == ["hnsw_walk_scalar.o: 0 prefetches in walk_x, expected 3 or more"]


def test_walks_under_another_name(tool, compiled):
    wrong, _ = tool.check_object("objdump", compiled("hnsw_walk_scalar",
                                                     FETCHING.replace("walk_x", "stroll")))
    assert wrong == ["hnsw_walk_scalar.o: no function walk_...: were they renamed?"]


@pytest.mark.skipif(not is_x86, reason="registers of x86")
def test_wide_registers_where_they_do_not_belong(tool, compiled):
    wrong, _ = tool.check_object("objdump", compiled("index_batch", WIDE, "-mavx2"))
    assert wrong == ["index_batch.o: ymm registers in add"]
    assert tool.check_object("objdump", compiled("index_io", WIDE)) == ([], [])
    wider = WIDE.replace("32", "64")
    wrong, _ = tool.check_object("objdump", compiled("hnsw_walk_avx2", wider, "-mavx512f"))
    assert "hnsw_walk_avx2.o: zmm registers in add" in wrong


def test_an_empty_folder_is_no_success(tool, tmp_path, compiled):
    assert tool.check(tmp_path, "objdump") == ([f"{tmp_path}: no object files"], [])
    compiled("index_io", "int x;")
    wrong, _ = tool.check(tmp_path, "objdump")
    assert wrong == [f"{tmp_path}: no kernel file hnsw_walk_*.o with code in it"]


def test_a_missing_objdump_is_named(tool, monkeypatch, capsys):
    monkeypatch.setenv("OBJDUMP", "no-such-objdump")
    assert tool.main([]) == tool.MISSING
    assert capsys.readouterr().out.startswith("no no-such-objdump (")
