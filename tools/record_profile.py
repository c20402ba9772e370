"""Record where a build and a search spend their time.  `make profile` calls it.

    python tools/record_profile.py [--data FILE.hdf5] [--rows N] [--ef N] [--threads N] [--out DIR]

Runs each under `perf record`, and writes to DIR (build/profile): build.svg and search.svg, flame
graphs; build.txt and search.txt, the hottest functions, inlined functions and source lines;
build.perf and search.perf, for `perf report -i` and `perf annotate -i`.  docs/PROFILING.md says
how to read them.  Exit status 77 where perf is missing.
"""

import argparse
import linecache
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import flamegraph

ROOT = Path(__file__).resolve().parent.parent
MISSING = 77
HERTZ = 1999            # a prime, so that it does not beat with anything that ticks
SEARCH_SECONDS = 5.0
TOP = 15
MMAP = re.compile(r"PERF_RECORD_MMAP2? .*: \[0x([0-9a-f]+)\(0x([0-9a-f]+)\) @ (?:0x)?([0-9a-f]+) "
                  r".*\]: \S*x\S* (.*)$")


class Failed(Exception):
    """perf or a child said no; the text says why."""


def run(command, **keywords):
    done = subprocess.run(list(map(str, command)), text=True, capture_output=True, **keywords)
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command))}\n{done.stderr.strip()}")
    return done.stdout


# ---- the work, in a process of its own ---------------------------------------------


def make_rows(path, args):
    """Rows and queries: of the file, or made: 16 directions of 128 values, and a little noise."""
    import numpy as np

    if args.data:
        import h5py
        with h5py.File(args.data, "r") as file:
            rows, queries = file["train"][:args.rows], file["test"][:1000]
    else:
        random = np.random.default_rng(0)
        turn = random.standard_normal((16, 128))
        both = random.standard_normal((args.rows + 1000, 16)) @ turn
        both += 0.3 * random.standard_normal(both.shape)
        rows, queries = both[:args.rows], both[args.rows:]
    np.savez(path, rows=rows.astype(np.float32), queries=queries.astype(np.float32))


def work(what, folder, ef, threads):
    """The child's part: build and save, or load and search for some seconds."""
    import numpy as np

    import vecidx

    with np.load(folder / "rows.npz") as file:
        rows, queries = file["rows"], file["queries"]
    if what == "build":
        index = vecidx.Index(rows.shape[1])
        index.add(rows, num_threads=threads)
        index.save(folder / "index.vecidx")
        return
    index = vecidx.load(folder / "index.vecidx")
    stop = time.perf_counter() + SEARCH_SECONDS
    while time.perf_counter() < stop:
        index.search(queries, k=10, ef=ef, num_threads=threads)


# ---- reading what perf wrote -------------------------------------------------------


def event(perf_file):
    """What perf counted: cycles, or cpu-clock where a virtual machine hides the counters."""
    return run(["perf", "evlist", "-i", perf_file]).split()[0]


class Places:
    """From addresses in the core to functions, inlined ones too, and source lines."""

    def __init__(self, script):
        self.maps = []
        for line in script:
            if (match := MMAP.search(line)) and flamegraph.is_core(match[4]):
                start, size, offset = (int(match[i], 16) for i in (1, 2, 3))
                self.maps.append((start, start + size, offset))
        self.known = {}

    def offset(self, address):
        """Where in its file an address is.  Versions of perf print the one or the other."""
        for start, stop, offset in self.maps:
            if start <= address < stop:
                return address - start + offset
        return address

    def look_up(self, places):
        """One addr2line for all (address, file) of a file."""
        for file in {file for _, file in places if flamegraph.is_core(file)}:
            segments = load_segments(file)
            asked = {}
            for address in {address for address, its in places if its == file}:
                offset = self.offset(address)
                more = next((more for start, stop, more in segments if start <= offset < stop), 0)
                asked[offset + more] = address
            text = run(["addr2line", "-a", "-f", "-i", "-e", file],
                       input="\n".join(map(hex, asked)))
            here = None
            lines = iter(text.splitlines())
            for line in lines:
                if line.startswith("0x"):
                    here = self.known.setdefault((asked[int(line, 16)], file), [])
                else:
                    here.append((line, next(lines).split(" (discriminator")[0]))

    def frames(self, address, file):
        """(function, file:line) of one address, innermost first; [] where not known.  Intrinsics
        count as the line of ours that uses them."""
        frames = [(name, short(place)) for name, place in self.known.get((address, file), [])
                  if name != "??"]
        while len(frames) > 1 and not frames[0][1].startswith("src/"):
            del frames[0]
        return frames


def load_segments(file):
    """(first offset, last, what is added to get the address) of what is loaded of a file."""
    found = []
    for match in re.finditer(r"LOAD off +0x([0-9a-f]+) vaddr 0x([0-9a-f]+) .*\n +filesz "
                             r"0x([0-9a-f]+)", run(["objdump", "-p", file])):
        offset, address, size = (int(word, 16) for word in match.groups())
        found.append((offset, offset + size, address - offset))
    return found


def read(perf_file):
    """(stacks, places) of a recording.  A caller's address is taken back into its call."""
    script = run(["perf", "script", "--no-inline", "--show-mmap-events", "-F",
                  "comm,ip,sym,dso", "-i", perf_file]).splitlines()
    stacks = [[(address - (level > 0), function, file)
               for level, (address, function, file) in enumerate(stack)]
              for stack in flamegraph.samples(script)]
    places = Places(script)
    if shutil.which("addr2line") and shutil.which("objdump"):
        places.look_up({(address, file) for stack in stacks for address, _, file in stack})
    return stacks, places


def short(place):
    """src/vecidx/csrc/hnsw/hnsw_walk.h:52, wherever the tree lay when it was compiled."""
    place = os.path.normpath(place)
    at = place.find("src/vecidx")
    return place[at:] if at >= 0 else place


def hottest(stacks, places):
    """The text of a report."""
    total = len(stacks)
    functions, inlined, lines = Counter(), Counter(), Counter()
    for (address, function, file), *_ in stacks:
        functions[flamegraph.frame_names(address, function, file)[0]] += 1
        if frames := places.frames(address, file):
            inlined[frames[0][0]] += 1
            lines[frames[0][1]] += 1

    def table(title, counter, note=lambda key: ""):
        yield f"{title}  ({total} samples)"
        for key, n in counter.most_common(TOP):
            yield f"{n / total:7.1%}  {key}{note(key)}"
        yield ""

    def source(place):
        file, _, number = place.rpartition(":")
        line = linecache.getline(str(ROOT / file), int(number)) if number.isdigit() else ""
        return f"    {line.strip()}" if line.strip() else ""

    out = [*table("Functions, time in themselves", functions)]
    if inlined:
        out += table("The same, inlined functions of the core told apart", inlined)
        out += table("Source lines of the core", lines, source)
    else:
        out.append("No lines: addr2line and objdump are missing (apt-get install binutils).")
    return "\n".join(out) + "\n"


def record(what, args, folder):
    out = args.out / what
    perf_file = out.with_suffix(".perf")
    run(["perf", "record", "-q", "-e", args.event, "-F", HERTZ, "-g", "-o", perf_file, "--",
         sys.executable, __file__, "--work", what, "--folder", folder, "--ef", args.ef,
         "--threads", args.threads])
    stacks, places = read(perf_file)
    if not stacks:
        raise Failed(f"{perf_file}: no samples")

    def boxes(address, function, file):
        frames = places.frames(address, file)
        return ([f"{name} [vecidx]" for name, _ in reversed(frames)] if frames
                else flamegraph.frame_names(address, function, file))

    title = f"{what}, {args.threads} thread(s), by {event(perf_file)}"
    out.with_suffix(".svg").write_text(flamegraph.svg(flamegraph.fold(stacks, boxes), title))
    text = hottest(stacks, places)
    out.with_suffix(".txt").write_text(text)
    print(f"==> {title}: {out}.svg\n{text}")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, metavar="FILE", help="an ann-benchmarks HDF5 file")
    parser.add_argument("--rows", type=int, default=40_000, help="first N of it, or made")
    parser.add_argument("--ef", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--event", default="cycles", help="of perf; cpu-clock, which perf itself "
                        "takes where there are no counters, can be asked for")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "profile", metavar="DIR")
    parser.add_argument("--work", choices=("rows", "build", "search"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.work:
        work(args.work, args.folder, args.ef, args.threads)
        return 0
    if not shutil.which("perf"):
        print("no profile: perf is missing (Debian: apt-get install linux-perf)")
        return MISSING
    args.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_rows(folder / "rows.npz", args)
            for what in ("build", "search"):
                record(what, args, folder)
    except Failed as failed:
        print(failed, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
