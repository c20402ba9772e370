"""Build the extension with a sanitizer, and run Python tests over it.

    python tools/sanitize.py {asan,ubsan,tsan,asan+ubsan} [argument of pytest ...]

The build, with asserts, lies in build/sanitize/; the interpreter is not instrumented, so the
sanitizer's library is loaded before it.  By default the fast tier runs, and under tsan those tests
of threads that do not measure time, which then fail on any race between accesses of ours.  It ends
after half an hour at the latest.  Linux, GCC.  Exit status: 0 well, 1 not, 77 where the compiler
has no such sanitizer.
"""

import glob
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MISSING = 77
FLAGS = {"asan": "address", "ubsan": "undefined", "tsan": "thread",
         "asan+ubsan": "address,undefined"}
FAST = ["-m", "fast", "tests"]
TESTS = {"tsan": ["tests/test_api_threads.py", "tests/test_living_threads.py",
                  "tests/test_filters.py::test_filter_beside_a_writer"]}
# A child of fork() in a process with threads, or one that limits its own address space: neither
# can be had under a sanitizer.
NOT = "not fork and not without_memory and not time_budget"
# TSan makes a search 50 times as slow, so that what waits for seconds of work would run for
# minutes; a forked child with threads it ends.
NOT_TSAN = ("other_python_threads_run", "so_many_threads_work", "small_add_goes", "ctrl_c",
            "multiprocessing", "of_the_parent")
# What others do is not ours to judge: glibc frees a thread's storage as the next one begins.
SUPPRESSIONS = "race:dl_deallocate_tls\n"
MOST_SECONDS = 1800


def libraries(kind):
    """The sanitizers' own, in full; None where the compiler has none."""
    cc = os.environ.get("CC", "cc").split()
    found = []
    for name in kind.split("+"):
        try:
            path = subprocess.run([*cc, f"-print-file-name=lib{name}.so"], check=True, text=True,
                                  capture_output=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None
        if not os.path.isabs(path):      # an unknown file's name comes back as it went
            return None
        found.append(os.path.realpath(path))
    return found


def build(kind, folder):
    shutil.rmtree(folder, ignore_errors=True)
    flags = f"-fsanitize={FLAGS[kind]}"
    if "ubsan" in kind:
        flags += " -fno-sanitize-recover=undefined"
    env = {**os.environ, "VECIDX_ASSERTS": "1", "CFLAGS": flags, "LDFLAGS": flags}
    subprocess.run([sys.executable, "setup.py", "-q", "build", "--build-base", str(folder / "tmp"),
                    "--build-lib", str(folder / "site")], cwd=ROOT, env=env, check=True)


def main(arguments):
    kind, tests = arguments[0], arguments[1:]
    preload = libraries(kind)
    if preload is None:
        print(f"{os.environ.get('CC', 'cc')} has no shared library of {kind}")
        return MISSING
    folder = ROOT / "build" / "sanitize" / kind
    build(kind, folder)
    log, known = folder / "report", folder / "suppressions"
    known.write_text(SUPPRESSIONS, encoding="utf-8")
    env = {
        **os.environ,
        "PYTHONPATH": str(folder / "site"), "PYTHONMALLOC": "malloc",
        "LD_PRELOAD": " ".join(preload),
        # The interpreter itself keeps memory until it ends.
        "ASAN_OPTIONS": f"detect_leaks=0:log_path={log}",
        "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={log}",
        "TSAN_OPTIONS": f"exitcode=66:log_path={log}:suppressions={known}",
    }
    # TSan of older compilers cannot stand a fully randomised address space.
    calm = ["setarch", "-R"] if kind == "tsan" and shutil.which("setarch") else []
    leave_out = " and not ".join([NOT, *(NOT_TSAN if kind == "tsan" else ())])
    command = [*calm, sys.executable, "-m", "pytest", "-q", "--color=no", "-k", leave_out,
               *(tests or TESTS.get(kind, FAST))]
    try:
        code = subprocess.run(command, cwd=ROOT, env=env, timeout=MOST_SECONDS).returncode
    except subprocess.TimeoutExpired:
        print(f"no end within {MOST_SECONDS} s")
        code = 1
    # pytest keeps what a process writes; the reports are files.
    for path in sorted(glob.glob(f"{log}.*")):
        print(Path(path).read_text(encoding="utf-8", errors="replace")[:20_000])
        code = code or 1
    return 1 if code else 0


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in FLAGS:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
