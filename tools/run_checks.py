"""Run the checks that CI runs, and end with one line: 'N passed, N failed'.

    python tools/run_checks.py [step ...]        steps: see STEPS and MORE below; default STEPS

Use the interpreter that has vecidx installed: `make test` does.  A step whose
tool is missing is skipped by name; with VECIDX_STRICT=1 that is a failure.  The
Python tests run once per SIMD level that this CPU has, newest first (below it what
hangs on kernels; everything with step `simd`); of a level at least one must pass.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STRICT = os.environ.get("VECIDX_STRICT") == "1"
MAKE = [os.environ.get("MAKE", "make"), "--no-print-directory", f"-j{os.cpu_count() or 1}",
        "--keep-going", "--output-sync=target"]
LEVELS = ["avx512vnni", "avx512", "avx2", "neon", "scalar"]

totals = {"passed": 0, "failed": 0, "skipped": 0}


def say(text):
    print(text, flush=True)


def count(**numbers):
    for key, n in numbers.items():
        totals[key] += n


def stream(name, command, env=None):
    """Run a command, showing and collecting its output, and say how long it took."""
    say(f"==> {name}")
    started = time.monotonic()
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **(env or {})}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    code = process.wait()
    say(f"    {time.monotonic() - started:.0f} s: {name}")
    return code, lines


def number_before(word, line):
    match = re.search(rf"(\d+) {word}", line)
    return int(match[1]) if match else 0


def pytest_summary(lines):
    """The line of the counts; warnings of interpreter or libraries may come after it."""
    for line in reversed(lines):
        if re.search(r"\b(\d+ [a-z]+|no tests ran)\b.* in [\d.]+s\b", line):
            return line
    return ""


def skip(name, why):
    say(f"{'FAILED' if STRICT else 'SKIPPED'}: {name}: {why}")
    count(**{"failed" if STRICT else "skipped": 1})


def check_includes():
    code, _ = stream("include rules", [sys.executable, "tools/check_includes.py"])
    count(**{"failed" if code else "passed": 1})


def check_prefetch():
    name = "prefetches and registers of the compiled core"
    code, lines = stream(name, [sys.executable, "tools/check_prefetch.py"])
    if code == 77:
        return skip(name, lines[-1].strip())
    count(**{"failed" if code else "passed": 1})


def compiler_makes(flags, cc=None, text="int main(void) { return 0; }\n", args=()):
    """Can the compiler build a program with these flags that then runs?"""
    cc = (cc or os.environ.get("CC", "cc")).split()
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "try.c"), Path(folder, "try")
        source.write_text(text)
        try:
            subprocess.run([*cc, *flags, source, "-o", program], check=True, capture_output=True)
            # TSan of older compilers cannot stand a fully randomised address space.
            calm = ["setarch", "-R"] if shutil.which("setarch") else []
            subprocess.run([*calm, program, *args], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return False
    return True


def c_tests(target, flags=()):
    name = f"C tests: {target}"
    if not compiler_makes(flags):
        return skip(name, f"the C compiler cannot build a program with {' '.join(flags) or 'it'}")
    code, lines = stream(name, [*MAKE, target])
    summaries = [line for line in lines if re.fullmatch(r"\d+ passed, \d+ failed\n", line)]
    failed = sum(number_before("failed", line) for line in summaries)
    count(passed=sum(number_before("passed", line) for line in summaries),
          failed=failed or (1 if code else 0))  # a crash prints no summary


def fuzz():
    """A minute of the loader's fuzzer."""
    name = "fuzzer of the loader"
    cc = os.environ.get("FUZZ_CC", "clang")
    source = ("int LLVMFuzzerTestOneInput(const unsigned char *, unsigned long);\n"
              "int LLVMFuzzerTestOneInput(const unsigned char *p, unsigned long n)\n"
              "{ return n > 9 && p[9] == 1 && p[0] == 9; }\n")
    if not compiler_makes(["-fsanitize=fuzzer,address,undefined"], cc, source, ["-runs=1"]):
        return skip(name, f"{cc} cannot build a libFuzzer program with ASan")
    code, _ = stream(name, [*MAKE, "fuzz", f"FUZZ_CC={cc}", "ARGS=-max_total_time=60 -verbosity=0"])
    count(**{"failed" if code else "passed": 1})


def has_level(level):
    """The package takes VECIDX_SIMD as a cap: the level is there if it answers with it."""
    done = subprocess.run(
        [sys.executable, "-c", "import vecidx; print(vecidx.simd_level())"],
        env={**os.environ, "VECIDX_SIMD": level}, cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() == level


# Tests of what lies above the kernels or beside them: at the newest level only, but for
# `make simd`.
ONCE = ("cluster", "ecosystem", "test_api_*", "test_bench_*", "test_capi.py",
        "test_check_prefetch.py", "test_cli.py", "test_compat_*", "test_convert.py",
        "test_docs.py", "test_durable.py", "test_examples.py", "test_format_reader.py",
        "test_layout.py", "test_living_*", "test_neighbors.py", "test_plan.py",
        "test_profile_tools.py", "test_ray_logic.py", "test_readers.py", "test_readme.py",
        "test_run_checks.py", "test_showing.py", "test_store_*", "test_stores.py",
        "test_strings.py", "test_threadpoolctl.py", "test_tune.py", "test_wheels.py")


def python_tests(once=ONCE):
    levels = [level for level in LEVELS if has_level(level)]
    if "scalar" not in levels:
        say("FAILED: Python tests: the installed vecidx cannot be imported")
        return count(failed=1)
    for level in levels:
        code, lines = stream(
            f"Python tests: VECIDX_SIMD={level}",
            [sys.executable, "-m", "pytest", "tests", "-q", "-rs", "--color=no",
             "--continue-on-collection-errors",
             *(f"--ignore-glob=tests/{name}" for name in once if level != levels[0])],
            {"VECIDX_SIMD": level})
        summary = pytest_summary(lines)
        passed = number_before("passed", summary)
        failed = number_before("failed", summary) + number_before("error", summary)
        if passed == 0 and failed == 0:
            say(f"FAILED: Python tests: VECIDX_SIMD={level}: none passed")
        count(passed=passed, skipped=number_before("skipped", summary),
              failed=failed or (1 if code or passed == 0 else 0))


def docs():
    """The pages; a warning of Sphinx is an error."""
    name = "pages by Sphinx"
    if importlib.util.find_spec("sphinx") is None:
        return skip(name, "no Sphinx")
    code, _ = stream(name, [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b",
                            "html", "docs", "build/docs"])
    count(**{"failed" if code else "passed": 1})


def ray_tests():
    """The tests on a Ray cluster, where nothing but loopback can be reached."""
    name = "Python tests on a Ray cluster"
    if importlib.util.find_spec("ray") is None:
        return skip(name, "no Ray")
    alone = [sys.executable, "tools/only_loopback.py"]
    if subprocess.run([*alone, "true"], cwd=ROOT).returncode:
        say(f"SKIPPED: {name}: this system lets us make no network namespace")
        return count(skipped=1)              # nothing that could be installed would help
    code, lines = stream(name, [*alone, sys.executable, "-m", "pytest", "tests/cluster", "-q",
                                "-rs", "--color=no"])
    summary = pytest_summary(lines)
    failed = number_before("failed", summary) + number_before("error", summary)
    count(passed=number_before("passed", summary), skipped=number_before("skipped", summary),
          failed=failed or (1 if code else 0))


def of_tool(name, command):
    """A check by a tool of ours; what it needs is not part of any distribution's base."""
    code, lines = stream(name, command)
    if code == 77:
        say(f"SKIPPED: {name}: {lines[-1].strip()}")
        return count(skipped=1)
    count(**{"failed" if code else "passed": 1})


def emulated():
    of_tool("smoke tests as other CPUs",
            [sys.executable, "tools/check_emulated.py", "--short"])


def sanitized():
    of_tool("Python tests over the extension with ASan and UBSan",
            [sys.executable, "tools/sanitize.py", "asan+ubsan"])


def valgrind():
    name = "C tests under valgrind"
    if not shutil.which("valgrind"):
        say(f"SKIPPED: {name}: no valgrind")
        return count(skipped=1)
    of_tool(name, [*MAKE, "valgrind", "VALGRIND_TESTS=alloc cpu rows"])


def free_threaded_tests():
    """The tests of threads on a CPython without GIL: VECIDX_FREE_THREADED, or one on the path.

    None is part of any distribution's base, so that it is missing is no error.
    """
    names = [os.environ.get("VECIDX_FREE_THREADED"), "python3.14t", "python3.13t"]
    python = next(filter(None, (shutil.which(name) for name in names if name)), None)
    if python is None:
        say("SKIPPED: free-threaded Python tests: no python3.14t or python3.13t")
        return count(skipped=1)
    folder = ROOT / "build" / "free-threaded"
    pip = [folder / "bin" / "python", "-m", "pip", "-q", "install"]
    for name, command in [
            ("environment", [python, "-m", "venv", "--clear", folder]),
            ("tools", [*pip, "--only-binary", ":all:", "setuptools>=77", "cython>=3.1", "numpy",
                       "pytest", "hypothesis"]),
            ("install", [*pip, "--no-build-isolation", "."])]:
        code, _ = stream(f"free-threaded Python: {name}", [str(part) for part in command])
        if code:
            return count(failed=1)
    code, lines = stream(
        "free-threaded Python tests",
        [str(folder / "bin" / "python"), "-m", "pytest", "-q", "-rs", "--color=no",
         "-p", "no:cacheprovider",
         *map(str, sorted((ROOT / "tests").glob("test_living*.py"))), "tests/test_api_threads.py"],
        {"PYTHON_GIL": "0"})
    summary = pytest_summary(lines)
    failed = number_before("failed", summary) + number_before("error", summary)
    count(passed=number_before("passed", summary), skipped=number_before("skipped", summary),
          failed=failed or (1 if code else 0))


# What CI runs, and what only a name asks for.
STEPS = {
    "includes": check_includes,
    "prefetch": check_prefetch,
    "test-c": lambda: c_tests("test-c"),
    "asan": lambda: c_tests("asan", ["-fsanitize=address,undefined"]),   # with UBSan
    "fuzz": fuzz,
    "tsan": lambda: c_tests("tsan", ["-fsanitize=thread"]),
    "valgrind": valgrind,
    "sanitized": sanitized,
    "emulated": emulated,
    "python": python_tests,
    "docs": docs,
    "ray": ray_tests,
    "free-threaded": free_threaded_tests,
}
MORE = {"simd": lambda: python_tests(once=())}


def main(names):
    for name in names or STEPS:
        (STEPS | MORE)[name]()
    if totals["skipped"]:
        say(f"({totals['skipped']} skipped, each named above)")
    summary = f"{totals['passed']} passed, {totals['failed']} failed"
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "summary.txt").write_text(f"{summary}\n", encoding="utf-8")
    say(summary)
    return 1 if totals["failed"] or not totals["passed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
