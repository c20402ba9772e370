"""Run the package as CPUs that this machine does not have, by qemu's user emulation.

    python tools/check_emulated.py [--short]

With the interpreter that has vecidx installed, on x86-64 Linux: as a CPU without AVX, one with AVX
that the kernels cannot use, and one with AVX2 but no AVX-512, the import must choose the level
given below, wheels/smoke.py and the fast tier must pass.  Then C tests as 64-bit Arm: of kernels,
dtypes, bits, files and searches.  --short: not the fast tier.

Emulation proves choices and results, never speed; qemu knows no AVX-512, whose two levels
the suite runs apart from one another by VECIDX_SIMD on CPUs that have both.

Needs qemu (Debian: qemu-user) and for Arm a cross compiler (gcc-aarch64-linux-gnu,
libc6-dev-arm64-cross; or ARM_CC and ARM_AR).  What is missing is named and passed over.  Exit
status: 0 well, 1 not, 77 where nothing could be run.
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MISSING = 77
# CPU -> the level that has to be chosen there.
CPUS = {"Nehalem": "scalar", "SandyBridge": "scalar", "Haswell": "avx2"}
# C tests for Arm: program -> parts of names of tests, none: all.  `make test-arm64` runs every
# one, also those of threads, address space and training, which are too much for an emulator.
ARM_TESTS = {
    "alloc": (), "bits": (), "cpu": (),
    "dtypes": ("forms", "what_is", "allocations"),
    "quant": ("at_every_level", "half", "whole", "clipped"),
    "index": ("every_level", "by_label", "alike", "padded"),
}
ARM_LONG_TESTS = {"store": (), "index": ("allocation",)}


def find(*names):
    return next(filter(None, map(shutil.which, names)), None)


def run(name, command, env):
    print(f"==> {name}", flush=True)
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **env}, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    # qemu says once a process what of the CPU it leaves out.
    lines = [line for line in done.stdout.splitlines() if "TCG doesn't support" not in line]
    print("\n".join(lines if done.returncode else lines[-3:]), flush=True)
    return done.returncode == 0


def as_x86(short):
    qemu = find("qemu-x86_64", "qemu-x86_64-static")
    if not qemu or platform.machine() != "x86_64":
        print("SKIPPED: other x86-64 CPUs: no qemu-x86_64 (Debian: apt-get install qemu-user)")
        return []
    results = []
    for cpu, level in CPUS.items():
        emulator = f"{qemu} -cpu {cpu}"
        env = {"VECIDX_EMULATOR": emulator, "VECIDX_SIMD": "", "OPENBLAS_NUM_THREADS": "1"}
        python = [*emulator.split(), sys.executable]
        results.append(run(f"{cpu}: smoke test", [*python, "wheels/smoke.py", level], env))
        if not short and cpu != "SandyBridge":
            results.append(run(f"{cpu}: fast tier", [*python, "-m", "pytest", "-q", "-m", "fast",
                                                     "--color=no", "tests"], env))
    return results


def as_arm(short):
    cc = os.environ.get("ARM_CC", "aarch64-linux-gnu-gcc")
    qemu = find("qemu-aarch64", "qemu-aarch64-static")
    if not qemu or not shutil.which(cc.split()[0]):
        print(f"SKIPPED: C tests as 64-bit Arm: no {'qemu-aarch64' if not qemu else cc} (Debian: "
              "apt-get install qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross)")
        return []
    programs = [(f"build/c/arm64/test_{name}", parts) for tests in
                (ARM_TESTS, {} if short else ARM_LONG_TESTS) for name, parts in tests.items()]
    made = run("64-bit Arm: compile", [os.environ.get("MAKE", "make"), "-s", "-j2",
                                       *{program for program, _ in programs}], {})
    return [made, *(made and run(f"64-bit Arm: {Path(program).name}", [qemu, program, *parts], {})
                    for program, parts in programs)]


def main(arguments):
    short = "--short" in arguments
    results = as_x86(short) + as_arm(short)
    if not results:
        return MISSING
    print(f"{sum(results)} of {len(results)} well")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
