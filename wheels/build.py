"""Build and check wheels on one Linux machine, without containers.

    python wheels/build.py [--once] [target ...]      targets: see TARGETS; default all

The C compiler is zig's clang, of a pinned version: it brings the C libraries of every target, so
that a wheel built here runs where glibc 2.17, or musl 1.2, does.  All tools come from
wheels/requirements.txt, checked by their hashes, and live in build/wheels/tools.

Each wheel is built twice, from two folders, and must come out the same byte for byte (--once: not);
it must be below 1 MB, ask for no newer C library than its tag says, and hold what it should.
Those for this machine are then installed into a clean environment of every interpreter that is
here (VECIDX_PYTHONS names others, by commas) and run wheels/smoke.py.  macOS and Windows have no
wheel from here: the C core is compiled for them, warnings being errors.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "wheels"
TOOLS = WORK / "tools" / "bin" / "python"
MOST_BYTES = 1_000_000
# Those without GIL cannot load abi3 wheels: cibuildwheel builds theirs.
INTERPRETERS = ["python3.11", "python3.12", "python3.13", "python3.14"]

# Target -> zig's name of it, the platform tag.
TARGETS = {
    "manylinux-x86_64": ("x86_64-linux-gnu.2.17", "manylinux_2_17_x86_64.manylinux2014_x86_64"),
    "manylinux-aarch64": ("aarch64-linux-gnu.2.17", "manylinux_2_17_aarch64.manylinux2014_aarch64"),
    "musllinux-x86_64": ("x86_64-linux-musl", "musllinux_1_2_x86_64"),
    "musllinux-aarch64": ("aarch64-linux-musl", "musllinux_1_2_aarch64"),
    "macos-x86_64": ("x86_64-macos", None),
    "macos-arm64": ("aarch64-macos", None),
    "windows-amd64": ("x86_64-windows-gnu", None),
    "windows-arm64": ("aarch64-windows-gnu", None),
}
NEWEST_GLIBC = (2, 17)
# What a wheel may hold, by the end of the name.
MAY_HOLD = (".py", ".pyi", "py.typed", ".so", "csrc/vecidx.h", "csrc/vecidx_api.h")


class Failed(Exception):
    pass


def run(*command, env=None, cwd=ROOT):
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True,
                          env={**os.environ, **(env or {})})
    if done.returncode:
        said = (done.stdout + done.stderr).splitlines()[-60:]
        raise Failed("\n".join([" ".join(map(str, command)), *said]))
    return done.stdout


def make_tools():
    """The environment of pinned tools, anew when the list of them changes."""
    wanted = (ROOT / "wheels" / "requirements.txt").read_text(encoding="utf-8")
    stamp = WORK / "tools" / "requirements.txt"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return
    run(sys.executable, "-m", "venv", "--clear", WORK / "tools")
    run(TOOLS, "-m", "pip", "-q", "install", "--require-hashes", "--only-binary", ":all:",
        "-r", "wheels/requirements.txt")
    stamp.write_text(wanted, encoding="utf-8")


def compiler(zig_target):
    """A script that is the C compiler of a target: setuptools splits CC at spaces."""
    script = WORK / f"cc-{zig_target}"
    script.write_text(f'#!/bin/sh\nexec "{TOOLS}" -m ziglang cc -target {zig_target} "$@"\n')
    script.chmod(0o755)
    return script


def python_headers():
    """CPython's headers with this machine's pyconfig.h in its place.

    Distributions put one there that includes another by architecture, which for a target
    of the same word size says the same.
    """
    given, target = Path(sysconfig.get_path("include")), WORK / "include"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(given, target)
    machine = sysconfig.get_config_var("MULTIARCH") or ""
    config = given.parent / machine / given.name / "pyconfig.h"
    shutil.copy(config if config.is_file() else sysconfig.get_config_h_filename(),
                target / "pyconfig.h")
    return target


def epoch():
    """SOURCE_DATE_EPOCH, or the time of the last commit."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return given
    try:
        return run("git", "log", "-1", "--format=%ct").strip()
    except (Failed, OSError):
        return "315532800"       # 1980: the first that a zip file knows


def build_wheel(target, folder, python=TOOLS):
    """One wheel of one target, from a copy of the source in `folder`, with its tag."""
    zig_target, tag = TARGETS[target]
    shutil.rmtree(folder, ignore_errors=True)
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(
        ".git", "build", ".venv", "*.so", "*.whl", "*.egg-info", "__pycache__", "results"))
    cc = compiler(zig_target)
    env = {
        "CC": str(cc), "LDSHARED": f"{cc} -shared", "VECIDX_ABI3": "1",
        "CFLAGS": f"-I{python_headers()}", "LDFLAGS": "-Wl,-s", "SOURCE_DATE_EPOCH": epoch(),
        "_PYTHON_HOST_PLATFORM": f"linux-{target.split('-')[1]}",
        "ZIG_GLOBAL_CACHE_DIR": str(WORK / "zig"), "ZIG_LOCAL_CACHE_DIR": str(WORK / "zig"),
    }
    run(python, "-m", "pip", "-q", "wheel", "--no-build-isolation", "--no-deps", "-w", folder,
        ".", env=env, cwd=source)
    wheel, = folder.glob("*.whl")
    run(TOOLS, "-m", "wheel", "tags", "--remove", "--platform-tag", tag, wheel, env=env)
    wheel, = folder.glob("*.whl")
    return wheel


def check_wheel(target, wheel):
    """What is wrong with a wheel, its behaviour aside."""
    wrong = []
    if wheel.stat().st_size > MOST_BYTES:
        wrong.append(f"{wheel.stat().st_size} bytes, at most {MOST_BYTES} are allowed")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        core, = (name for name in names if name.endswith(".so"))
        archive.extract(core, wheel.parent)
    inside = [name for name in names if ".dist-info/" not in name]
    wrong += [f"holds {name}" for name in inside if not name.endswith(MAY_HOLD)]
    for name in ("vecidx.h", "vecidx_api.h"):
        if f"vecidx/csrc/{name}" not in inside:
            wrong.append(f"lacks {name}")
    if not any(name.endswith("/sboms/vecidx.cdx.json") for name in names):
        wrong.append("lacks its SBOM")
    code = ("import sys\nfrom elftools.elf.elffile import ELFFile\n"
            "elf = ELFFile(open(sys.argv[1], 'rb'))\n"
            "needs = elf.get_section_by_name('.gnu.version_r')\n"
            "print('EM', elf['e_machine'])\n"
            "for t in elf.get_section_by_name('.dynamic').iter_tags('DT_NEEDED'):"
            " print('LIB', t.needed)\n"
            "for lib, versions in needs.iter_versions() if needs else []:\n"
            "    for v in versions: print('VER', v.name)\n")
    said = run(TOOLS, "-c", code, wheel.parent / core)
    machine = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}[target.split("-")[1]]
    if f"EM {machine}\n" not in said:
        wrong.append(f"is not for {machine}: {said.splitlines()[0]}")
    versions = [tuple(map(int, v.split("."))) for v in re.findall(r"VER GLIBC_([\d.]+)", said)]
    libraries = re.findall(r"LIB (\S+)", said)
    if target.startswith("manylinux"):
        wrong += [f"needs GLIBC {v}" for v in versions if v > NEWEST_GLIBC]
        wrong += [f"needs {name}" for name in libraries
                  if not re.match(r"lib(c|m|pthread|dl|rt)\.so\.\d|ld-linux", name)]
    elif versions or libraries != ["libc.so"]:
        wrong.append(f"needs {libraries} {versions}, expected libc.so only")
    return wrong


def interpreters():
    named = os.environ.get("VECIDX_PYTHONS")
    for name in named.split(",") if named else INTERPRETERS:
        path = shutil.which(name)
        if path and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
            yield name, path
        else:
            print(f"SKIPPED: no {name} here", flush=True)


def try_wheel(wheel, name, path):
    """Install into a clean environment and run the smoke test there."""
    folder = WORK / "clean"
    run(path, "-m", "venv", "--clear", folder)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "-q", "install", "--only-binary", ":all:", wheel)
    print(f"    {name}: {run(python, ROOT / 'wheels' / 'smoke.py', cwd=folder).strip()}",
          flush=True)


def check_core(target):
    """Compile every C file of ours for another system."""
    cc = compiler(TARGETS[target][0])
    arm = "arm64" in target
    out = WORK / target
    out.mkdir(parents=True, exist_ok=True)
    code = ("import runpy, setuptools, json; setuptools.setup = lambda **_: None\n"
            "print(json.dumps({k: v[0] for k, v in runpy.run_path('setup.py')['ISA_FLAGS']"
            ".items()}))")
    flags = {} if arm else json.loads(run(TOOLS, "-c", code))
    for source in sorted((ROOT / "src/vecidx/csrc").glob("*/*.c")):
        run(cc, "-std=c11", "-O1", "-D_GNU_SOURCE", "-DNDEBUG", "-Wall", "-Wextra", "-Werror",
            *flags.get(source.name, []), "-c", source, "-o", out / f"{source.stem}.o",
            env={"ZIG_GLOBAL_CACHE_DIR": str(WORK / "zig"),
                 "ZIG_LOCAL_CACHE_DIR": str(WORK / "zig")})


def make_target(target, once):
    if TARGETS[target][1] is None:
        check_core(target)
        print(f"{target}: the C core compiles", flush=True)
        return
    wheel = build_wheel(target, WORK / target)
    wrong = check_wheel(target, wheel)
    if not once:
        again = build_wheel(target, WORK / f"{target}-again")
        if (again.name, again.read_bytes()) != (wheel.name, wheel.read_bytes()):
            wrong.append(f"a second build gave other bytes: {again}")
    if wrong:
        raise Failed("\n".join(f"{wheel.name}: {what}" for what in wrong))
    shutil.copy(wheel, ROOT / "wheels")
    print(f"{wheel.name}: {wheel.stat().st_size} bytes"
          f"{'' if once else ', the same when built twice'}", flush=True)
    libc = "musllinux" if platform.libc_ver()[0] != "glibc" else "manylinux"
    if target.startswith("manylinux"):
        said = run(TOOLS, "-m", "auditwheel", "show", wheel)
        match = re.search(r'following platform tag:\s*"(\w+)"', said)
        if not match or match[1] not in TARGETS[target][1]:
            raise Failed(f"{wheel.name}: auditwheel: {said}")
        print(f"    auditwheel: {match[1]}", flush=True)
    if target == f"{libc}-{platform.machine()}":
        run(TOOLS, "-m", "abi3audit", "--strict", wheel)
        for name, path in interpreters():
            try_wheel(wheel, name, path)


def check_builds():
    """What cibuildwheel would build; it refuses a table with a key that it does not know."""
    for system in ("linux", "macos", "windows"):
        names = run(TOOLS, "-m", "cibuildwheel", "--print-build-identifiers",
                    "--platform", system).split()
        print(f"cibuildwheel, {system}: {len(names)} builds", flush=True)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--once", action="store_true", help="do not build a second time")
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS])
    given = parser.parse_args(arguments)
    WORK.mkdir(parents=True, exist_ok=True)
    bad = 0
    for step in (make_tools, check_builds,
                 *(partial(make_target, target, given.once)
                   for target in given.targets or TARGETS)):
        try:
            step()
        except Failed as failed:
            print(f"FAILED: {failed}", flush=True)
            bad = 1
            if step is make_tools:
                break
    return bad


if __name__ == "__main__":
    sys.exit(main())
