"""Build of the extension ``vecidx._core``; everything else is in pyproject.toml.

The C core is compiled file by file, each kernel file with the flags of its own
instruction set, and handed to the extension as objects.  Nothing is compiled for
the machine that builds: the choice of kernels is made at import.

Environment: ``VECIDX_ABI3=1`` builds for the limited API of CPython 3.11, so that
one wheel serves every later version; ``VECIDX_ASSERTS=1`` keeps the C asserts;
``VECIDX_COUNT_WORK=1`` counts what searches read (docs/PROFILING.md).
"""

import json
import os
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from glob import glob

import Cython
from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

CSRC = "src/vecidx/csrc"
HEADERS = sorted(glob(f"{CSRC}/**/*.h", recursive=True))
SOURCES = sorted(glob(f"{CSRC}/*/*.c"))

# abi3 wheels do not load in free-threaded builds of CPython.
ABI3 = os.environ.get("VECIDX_ABI3") == "1" and not sysconfig.get_config_var("Py_GIL_DISABLED")
ASSERTS = os.environ.get("VECIDX_ASSERTS") == "1"
COUNT_WORK = os.environ.get("VECIDX_COUNT_WORK") == "1"

AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"]
# File -> flags for GCC and Clang, flags for MSVC, on x86.  On other architectures
# these flags would be errors, and what needs them in the files is left out.
ISA_FLAGS = {
    "hnsw_walk_avx2.c": (["-mavx2", "-mfma", "-mf16c"], ["/arch:AVX2"]),
    "hnsw_walk_avx512.c": (AVX512, ["/arch:AVX512"]),
    "hnsw_walk_avx512vnni.c": ([*AVX512, "-mavx512vnni"], ["/arch:AVX512"]),
    "store_crc_hw.c": (["-msse4.2"], []),
}
# The same for 64-bit Arm, where macOS and MSVC need no flag.  (-mcpu: zig knows no -march.)
ARM_FLAGS = {"store_crc_hw.c": (["-mcpu=generic+crc"], [])}
PLATFORM = sysconfig.get_platform()
IS_UNIVERSAL2 = PLATFORM.startswith("macosx") and "universal2" in PLATFORM
IS_X86 = PLATFORM.endswith(("x86_64", "amd64")) or IS_UNIVERSAL2

# -g1: lines and inlined functions, for profiles and traces; names of variables would make the
# walks half as long again to compile.
UNIX_FLAGS = ["-std=c11", "-O3", "-g1", "-fno-omit-frame-pointer", "-fvisibility=hidden",
              "-ffp-contract=off", "-pthread", "-Wall", "-Wextra"]
MSVC_FLAGS = ["/std:c11", "/experimental:c11atomics", "/O2", "/fp:precise", "/W3"]


def flags_of(source, msvc):
    """What one C file of ours is compiled with, the macros aside."""
    table = ISA_FLAGS if IS_X86 else ARM_FLAGS if PLATFORM.endswith("-aarch64") else {}
    unix_isa, msvc_isa = table.get(os.path.basename(source), ([], []))
    if IS_UNIVERSAL2:
        # One compiler run makes both halves of the object: these are for one of them.
        unix_isa = [word for flag in unix_isa for word in ("-Xarch_x86_64", flag)]
    return MSVC_FLAGS + msvc_isa if msvc else UNIX_FLAGS + unix_isa


class BuildExt(build_ext):
    """Compiles the C core, then leaves the binding to setuptools."""

    def build_extension(self, ext):
        msvc = self.compiler.compiler_type == "msvc"
        # CPython's own flags may define NDEBUG: take it back where asserts stay.
        macros = [("_GNU_SOURCE", "1"), ("NDEBUG",) if ASSERTS else ("NDEBUG", "1")]
        macros += [("VX_COUNT_WORK", "1")] if COUNT_WORK else []

        def compile_core(source):
            return self.compiler.compile(
                [source], output_dir=self.build_temp, macros=macros,
                extra_postargs=flags_of(source, msvc))

        # MSVC's compiler object sets itself up at its first use: one at a time.
        with ThreadPoolExecutor(1 if msvc else os.cpu_count() or 1) as threads:
            objects = [name for names in threads.map(compile_core, SOURCES) for name in names]
        ext.extra_objects = objects
        ext.extra_compile_args = flags_of("_core.c", msvc)
        ext.extra_link_args = [] if msvc else ["-pthread"]
        super().build_extension(ext)


class BdistWheel(bdist_wheel):
    """Lays a bill of materials (CycloneDX) into the wheel, where PEP 770 wants it."""

    def egg2dist(self, egginfo_path, distinfo_path):
        super().egg2dist(egginfo_path, distinfo_path)
        name, version = self.distribution.get_name(), self.distribution.get_version()

        def component(kind, name, version, **more):
            ref = f"pkg:pypi/{name}" + (f"@{version}" if version else "")
            return {"type": kind, "bom-ref": ref, "name": name, "purl": ref, **more,
                    **({"version": version} if version else {}),
                    "licenses": [{"license": {"id": LICENSES[name]}}]}

        us = component("library", name, version)
        # Cython's utility code is part of the extension; numpy is asked for, not brought.
        parts = [component("library", "cython", Cython.__version__, scope="required"),
                 component("library", "numpy", None, scope="excluded")]
        bill = {
            "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
            "metadata": {"component": us}, "components": parts,
            "dependencies": [{"ref": us["bom-ref"],
                              "dependsOn": [part["bom-ref"] for part in parts]}],
        }
        folder = os.path.join(distinfo_path, "sboms")
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "vecidx.cdx.json"), "w", encoding="utf-8") as out:
            json.dump(bill, out, indent=1)
            out.write("\n")


LICENSES = {"vecidx": "Apache-2.0", "cython": "Apache-2.0", "numpy": "BSD-3-Clause"}

mode = f"{'abi3' if ABI3 else 'plain'}-{'asserts' if ASSERTS else 'release'}"
mode += "-counts" if COUNT_WORK else ""

setup(
    ext_modules=[
        Extension(
            "vecidx._core",
            ["src/vecidx/_core.pyx"],
            include_dirs=[CSRC],
            depends=[*HEADERS, *SOURCES, "src/vecidx/_vecidx.pxd",
                     "src/vecidx/_core_filter.pxi", "src/vecidx/_core_machine.pxi",
                     "src/vecidx/_core_rows.pxi"],
            py_limited_api=ABI3,
            define_macros=[("Py_LIMITED_API", "0x030B0000")] if ABI3 else [],
        )
    ],
    cmdclass={"build_ext": BuildExt, "bdist_wheel": BdistWheel},
    options={
        # Objects of one mode must not be taken for those of another.
        "build": {"build_base": f"build/py/{mode}"},
        # The generated C stays out of src/ and so out of the sdist.
        "build_ext": {"cython_c_in_temp": True},
        "bdist_wheel": {"py_limited_api": "cp311"} if ABI3 else {},
    },
)
