"""Look into the compiled C core: what no test of results can see.

    python tools/check_prefetch.py [FOLDER]

FOLDER: of object files; by default src/ is compiled as setup.py does it.

- The walks of every kernel file contain prefetch instructions.  Compilers may drop them (see
  fetch_row in hnsw_walk.h), and nothing fails when they do: searches only become slow.
- Instructions that a CPU of the level may lack are only in functions that are chosen by the CPU.
- No other object, and no kernel of a smaller level, uses registers that its level does not have
  (ymm, zmm on x86): it would crash on a smaller CPU.

Needs objdump (Debian: binutils); OBJDUMP names another, e.g. aarch64-linux-gnu-objdump.  Exit
status: 0 well, 1 not, 77 where a tool is missing.
"""

import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MISSING = 77

PREFETCH = {"x86": re.compile(r"\tprefetch(t[012]|nta)\b"), "arm64": re.compile(r"\tprfm\b")}
WIDE = {"ymm": re.compile(r"%ymm|\bymm\d"), "zmm": re.compile(r"%zmm|\bzmm\d")}
# Kernel file -> the wide registers it may use; a file not named here may use none.
MAY_USE = {
    "hnsw_walk_avx2": {"ymm"},
    "hnsw_walk_avx512": {"ymm", "zmm"},
    "hnsw_walk_avx512vnni": {"ymm", "zmm"},
}
# An instruction that not every CPU of a level has -> where alone it may be, in which functions.
ONLY_IN = {"vpopcnt": ("hnsw_walk_avx512vnni", "vpopcnt_")}
# Fewest prefetches of a walk: for the links of the next node, for the rows before the first
# distance, and for the rows ahead of those being computed.  GCC 12 makes 8 of them.
LEAST = 3


class ToolMissing(Exception):
    pass


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def compile_core(folder):
    """Every C file of ours with the compiler and flags that setup.py gives it."""
    cc = os.environ.get("CC", "cc").split()
    if not shutil.which(cc[0]):
        raise ToolMissing(f"no C compiler {cc[0]!r}")
    try:
        import setuptools
    except ImportError:
        raise ToolMissing("no setuptools, which setup.py needs") from None
    given, here = setuptools.setup, os.getcwd()
    setuptools.setup = lambda **_: None
    os.chdir(ROOT)
    try:
        names = runpy.run_path("setup.py")
    finally:
        setuptools.setup = given
        os.chdir(here)

    def compile_one(source):
        target = Path(folder, Path(source).stem + ".o")
        run(*cc, "-fPIC", "-DNDEBUG", "-D_GNU_SOURCE", *names["flags_of"](source, False), "-c",
            source, "-o", str(target))

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(compile_one, names["SOURCES"]))


def architecture(objdump, path):
    text = run(objdump, "-f", str(path))
    if "x86-64" in text or "x86_64" in text:
        return "x86"
    return "arm64" if "aarch64" in text or "arm64" in text else "other"


def functions(objdump, path):
    """Name -> instructions, each with a tab before it."""
    found, lines = {}, None
    for line in run(objdump, "-d", "--no-show-raw-insn", str(path)).splitlines():
        if match := re.match(r"[0-9a-f]+ <_?([^>]+)>:", line):
            lines = found.setdefault(match[1], [])
        elif lines is not None and "\t" in line:
            lines.append("\t" + line.split("\t", 1)[1])
    return found


def check_object(objdump, path):
    """(what is wrong, what was seen) in one object file, as lines of text."""
    name, wrong = path.stem, []
    kind = architecture(objdump, path)
    code = functions(objdump, path)
    if kind == "x86":
        allowed = MAY_USE.get(name, set())
        for register, pattern in WIDE.items():
            users = [f for f, lines in code.items() if any(map(pattern.search, lines))]
            if users and register not in allowed:
                wrong.append(f"{path.name}: {register} registers in {', '.join(sorted(users))}")
        for word, (file, prefix) in ONLY_IN.items():
            users = [f for f, lines in code.items() if any(f"\t{word}" in line for line in lines)
                     and not (name == file and f.startswith(prefix))]
            if users:
                wrong.append(f"{path.name}: {word} in {', '.join(sorted(users))}")
    seen = []
    if name.startswith("hnsw_walk_") and code:
        # GCC splits functions: walk_x and walk_x.cold are one.
        walks = {}
        for function, lines in code.items():
            if function.startswith("walk_"):
                walks.setdefault(function.split(".")[0], []).extend(lines)
        if not walks:
            wrong.append(f"{path.name}: no function walk_...: were they renamed?")
        for function, lines in sorted(walks.items()):
            n = sum(bool(PREFETCH[kind].search(line)) for line in lines) if kind in PREFETCH else 0
            seen.append(f"{function}: {n} prefetches")
            if kind in PREFETCH and n < LEAST:
                wrong.append(f"{path.name}: {n} prefetches in {function}, expected {LEAST} or more")
    return wrong, seen


def check(folder, objdump):
    objects = sorted(folder.rglob("*.o"))
    if not objects:
        return [f"{folder}: no object files"], []
    wrong, seen = [], []
    for path in objects:
        more_wrong, more_seen = check_object(objdump, path)
        wrong += more_wrong
        seen += more_seen
    if not seen:
        wrong.append(f"{folder}: no kernel file hnsw_walk_*.o with code in it")
    return wrong, seen


def main(arguments):
    objdump = os.environ.get("OBJDUMP", "objdump")
    try:
        if not shutil.which(objdump):
            raise ToolMissing(f"no {objdump} (Debian: apt-get install binutils)")
        with tempfile.TemporaryDirectory() as made:
            folder = Path(arguments[0] if arguments else made).resolve()
            if not arguments:
                compile_core(made)
            wrong, seen = check(folder, objdump)
    except ToolMissing as missing:
        print(missing)
        return MISSING
    except subprocess.CalledProcessError as error:
        print(f"{' '.join(map(str, error.cmd))}\n{error.stderr}")
        return 1
    print("\n".join(seen + wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
