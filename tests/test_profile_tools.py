"""The tools behind `make profile`: stacks read, folded, drawn; addresses turned into lines."""

import importlib
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from helpers import ROOT

SVG = "{http://www.w3.org/2000/svg}"
CORE = "/x/vecidx/_core.cpython-311-x86_64-linux-gnu.so"
SCRIPT = f"""\
python PERF_RECORD_MMAP2 9/9: [0x7f0000008000(0x52000) @ 0x8000 fe:00 25 14]: r-xp {CORE}
python
\t    7f0000008010 walk_l2sq_avx2 ({CORE})
\t    7f0000009020 vx_graph_search+0x20 ({CORE})
\t          1ba64d PyTuple_New (/lib/libpython3.11.so.1.0)

python
\t    7f0000009030 vx_graph_search ({CORE})
\t          1ba64d PyTuple_New (/lib/libpython3.11.so.1.0)

python
\tffffffff816d1310 operator<(int, char const*) ([kernel.kallsyms])
\t    7fb92d968000 [unknown] ([unknown])
\t    7fb92d968008 [unknown] ([unknown])
""".splitlines()


@pytest.fixture(scope="module")
def tools():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        yield (importlib.import_module("flamegraph"), importlib.import_module("record_profile"))
    finally:
        sys.path.remove(str(ROOT / "tools"))


def test_stacks_are_read_and_folded(tools):
    flamegraph, _ = tools
    stacks = list(flamegraph.samples(SCRIPT))
    assert [len(stack) for stack in stacks] == [3, 2, 3]
    assert stacks[0][1] == (0x7F0000009020, "vx_graph_search", CORE)
    assert flamegraph.fold(stacks) == {
        ("PyTuple_New", "vx_graph_search [vecidx]", "walk_l2sq_avx2 [vecidx]"): 1,
        ("PyTuple_New", "vx_graph_search [vecidx]"): 1,
        ("[[unknown]]", "operator<(int, char const*)"): 1}      # two unknown frames are one


def test_widths_are_shares(tools):
    flamegraph, _ = tools
    text = flamegraph.svg(flamegraph.fold(flamegraph.samples(SCRIPT)), "a < b")
    root = ElementTree.fromstring(text)
    widths = {group.find(f"{SVG}title").text.split(": ")[0]:
              float(group.find(f"{SVG}rect").get("width")) for group in root.iter(f"{SVG}g")}
    whole = widths["all"]
    assert widths["PyTuple_New"] == pytest.approx(whole * 2 / 3, abs=0.1)
    assert widths["walk_l2sq_avx2 [vecidx]"] == pytest.approx(whole / 3, abs=0.1)
    assert "operator<(int, char const*)" in widths
    for group in root.iter(f"{SVG}g"):
        assert re.fullmatch("#[0-9a-f]{6}", group.find(f"{SVG}rect").get("fill"))


def test_nothing_recorded_is_said(tools):
    done = subprocess.run([sys.executable, ROOT / "tools" / "flamegraph.py"], input="",
                          capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("flamegraph.py: no samples")


def test_addresses_of_either_kind(tools):
    """perf prints addresses in memory or, some versions, in the file."""
    _, record_profile = tools
    places = record_profile.Places(SCRIPT)
    assert places.offset(0x7F0000008010) == places.offset(0x8010) == 0x8010


def test_lines_of_inlined_functions(tools, tmp_path):
    _, record_profile = tools
    for program in ("cc", "nm", "addr2line", "objdump"):
        if not shutil.which(program):
            pytest.skip(f"no {program}")
    folder = tmp_path / "src" / "vecidx"
    folder.mkdir(parents=True)
    source = folder / "two.c"
    source.write_text("static inline __attribute__((always_inline)) int twice(int *p) {\n"
                      "    return *p * 2;\n}\n"
                      "int outer(int *p) { return twice(p) + 1; }\n")
    library = folder / "_core.so"
    subprocess.run(["cc", "-g", "-O2", "-shared", "-fPIC", source, "-o", library], check=True)
    if b"outer" not in (names := subprocess.run(["nm", library], capture_output=True).stdout):
        pytest.skip("nm reads no ELF here")
    address = int(re.search(rb"([0-9a-f]+) T _?outer", names)[1], 16)
    places = record_profile.Places([])
    span = range(address, address + 12)
    places.look_up({(at, str(library)) for at in span})
    frames = [places.frames(at, str(library)) for at in span]
    assert [("twice", "src/vecidx/two.c:2"), ("outer", "src/vecidx/two.c:4")] in frames


def test_a_missing_perf_is_one_line(tools, monkeypatch, capsys):
    _, record_profile = tools
    monkeypatch.setenv("PATH", "/nowhere")
    assert record_profile.main([]) == record_profile.MISSING
    assert capsys.readouterr().out == (
        "no profile: perf is missing (Debian: apt-get install linux-perf)\n")
