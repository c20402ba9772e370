"""The rooms of the code know only the rooms below them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHECK = ROOT / "tools" / "check_includes.py"


def run_check(root):
    done = subprocess.run([sys.executable, CHECK, root], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_every_include_and_import_points_down():
    code, output = run_check(ROOT)
    assert code == 0, output


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("csrc/base/vx_status.c", '#include "../dist/dist.h"', "base may not include from dist"),
        ("csrc/dist/dist_cpu.c", '#include "../store/store_crc.h"', "dist may not include from"),
        ("csrc/hnsw/hnsw_graph.c", '#include "../index/index.h"', "hnsw may not include from"),
        ("csrc/hnsw/hnsw_graph.c", '#include "../store/store_file.h"', "hnsw opens no file"),
        ("csrc/hnsw/hnsw_graph.c", "#include <sys/mman.h>", "hnsw opens no file"),
        ("csrc/vecidx.h", "#include <stdio.h>", "the public header includes stdio.h"),
        ("_core.pyx", 'cdef extern from "base/vx_pool.h":', "the binding includes only vecidx.h"),
        ("cli.py", "from vecidx._core import anything", "only the core imports _core"),
    ],
)
def test_a_planted_violation_is_found(tmp_path, file, line, complaint):
    """The check itself works: it names the file, the line and the rule."""
    built = shutil.ignore_patterns("*.so", "*.pyd", "*.egg-info")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=built)
    path = tmp_path / "src" / "vecidx" / file
    with open(path, "a", encoding="utf-8") as out:
        out.write(f"\n{line}\n")
    number = len(path.read_text(encoding="utf-8").splitlines())
    code, output = run_check(tmp_path)
    assert code == 1
    assert f"{Path('src/vecidx', file)}:{number}: " in output
    assert complaint in output
