"""What ships: the tables of cibuildwheel, of the workflow and of pinned packages agree."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from helpers import FAST

ROOT = Path(__file__).resolve().parent.parent
TABLE = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["cibuildwheel"]
WORKFLOW = (ROOT / ".github" / "workflows" / "wheels.yml").read_text("utf-8")
PIN = re.compile(r"^([a-z0-9.-]+)==(\S+)((?: \\\n +--hash=sha256:[0-9a-f]{64})+)$", re.M)


def pins(name):
    text = (ROOT / "wheels" / name).read_text("utf-8")
    found = {match[1]: match[2] for match in PIN.finditer(text)}
    left = [line for line in PIN.sub("", text).splitlines() if line and not line.startswith("#")]
    assert left == [], "neither a comment nor a package with version and hashes"
    return found


def test_packages_are_pinned_by_hash_and_alike():
    build, tools = pins("build-requirements.txt"), pins("requirements.txt")
    assert build.keys() == {"cython", "setuptools"}
    assert build.items() <= tools.items()
    assert {"auditwheel", "build", "cibuildwheel", "ziglang"} <= tools.keys()


def test_the_workflow_runs_the_pinned_cibuildwheel_on_every_architecture():
    version, = re.findall(r"pypa/cibuildwheel@v(\S+)", WORKFLOW)
    assert version == pins("requirements.txt")["cibuildwheel"]
    wanted = [arch for system in ("linux", "macos", "windows") for arch in TABLE[system]["archs"]]
    assert sorted(re.findall(r"arch: (\w+) }", WORKFLOW)) == sorted(wanted)
    assert "id-token: write" in WORKFLOW and "password" not in WORKFLOW.split("permissions:", 1)[1]


def test_every_platform_builds_for_the_limited_api():
    """The environment of a platform replaces the general one."""
    for table in (TABLE, *(TABLE[system] for system in ("linux", "macos", "windows"))):
        assert table.get("environment", {"VECIDX_ABI3": "1"})["VECIDX_ABI3"] == "1"


def test_wheels_are_tested_by_the_fast_tier():
    assert any("-m fast" in command for command in TABLE["test-command"])
    assert all((ROOT / "tests" / name).is_file() for name in FAST)


@pytest.mark.parametrize("system, suffixes", [
    ("linux", ["manylinux_x86_64", "manylinux_aarch64", "musllinux_x86_64", "musllinux_aarch64"]),
    ("macos", ["macosx_x86_64", "macosx_arm64"]),
    ("windows", ["win_amd64", "win_arm64"])])
def test_cibuildwheel_builds_all_of_them(system, suffixes):
    pytest.importorskip("cibuildwheel")
    done = subprocess.run([sys.executable, "-m", "cibuildwheel", "--print-build-identifiers",
                           "--platform", system, ROOT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    versions = ("cp311", "cp312", "cp313", "cp314", "cp314t")
    assert set(done.stdout.split()) == {f"{v}-{suffix}" for v in versions for suffix in suffixes}
