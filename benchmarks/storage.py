"""Save, load and open, beside what the disk itself does in the same run.

    python benchmarks/storage.py [--rows N] [--dim N] [--folder DIR] [--repeat N]

Prints a Markdown table.  By default the index is a file of 1 GB; its graph is poor,
since it is built in a hurry, but of the usual size.  "cold" is after the page cache
was told to forget the file, which it may not do to all of it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import describe

import vecidx

CHUNK = 4 << 20


def best(repeat, work, prepare=None):
    """Seconds of the fastest of `repeat` calls."""
    seconds = []
    for _ in range(repeat):
        if prepare:
            prepare()
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def forget(path):
    """Ask for the file's pages to leave the page cache."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def dd_write(source, path):
    """The index's own bytes, from the page cache: disks may do zeros faster."""
    subprocess.run(["dd", f"if={source}", f"of={path}", f"bs={CHUNK}", "conv=fsync"],
                   check=True, capture_output=True)


def plain_read(path, length):
    """Into fresh memory, as a load has to; without looking at it."""
    memory = np.empty(length, np.uint8)
    with open(path, "rb", buffering=0) as file:
        at = 0
        while got := file.readinto(memory[at:at + CHUNK]):
            at += got
    return memory


def pss_of_two(path):
    """Proportional and whole resident bytes of the mapping, in each of two processes."""
    code = """
import sys, vecidx
index = vecidx.load(sys.argv[1], mmap=True)
index.warm()
print("ready", flush=True)
sys.stdin.readline()
sums, inside = {"Rss:": 0, "Pss:": 0}, False
for line in open("/proc/self/smaps"):
    words = line.split()
    if not words[0].endswith(":"):
        inside = line.rstrip().endswith(sys.argv[1])
    elif inside and words[0] in sums:
        sums[words[0]] += int(words[1]) * 1024
print(sums["Pss:"], sums["Rss:"], flush=True)
sys.stdin.readline()
"""
    children = [subprocess.Popen([sys.executable, "-c", code, str(path)], text=True,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                for _ in range(2)]
    for child in children:
        child.stdout.readline()
    found = []
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
        found.append([int(word) for word in child.stdout.readline().split()])
    for child in children:
        child.communicate("\n")
    return found


def build(rows, dim):
    """An index of the wanted size; each row is near a few others, so that walks are short."""
    data = np.random.default_rng(0).random((rows, dim), dtype=np.float32)
    data[:, 4:] *= 0.01
    index = vecidx.Index(dim, M=8, ef_construction=8)
    index.add(data, ids=np.arange(rows) * 2, progress=sys.stderr.isatty())
    return index


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=310_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--folder", default=tempfile.gettempdir())
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path, plain = Path(folder, "index.vidx"), Path(folder, "plain")
        index = build(args.rows, args.dim)
        measure(index, path, plain, args.repeat)


def measure(index, path, plain, repeat):
    index.save(path)
    length = path.stat().st_size
    planes = sum(s["bytes"] for s in vecidx.inspect(path)["sections"].values())
    # In turn, so that a disk that is slow for a while is slow for both.
    dd, save = [], []
    for _ in range(repeat):
        dd.append(best(1, lambda: dd_write(path, plain)))
        save.append(best(1, lambda: index.save(path)))

    def rate(seconds):
        return f"{length / seconds / 1e6:,.0f} MB/s"

    def line(what, ours, name, theirs):
        print(f"| {what} | {rate(ours)} | {name} {rate(theirs)} | {100 * theirs / ours:.0f} % |")

    print(f"{describe()['cpu']}, {describe()['cores']} cores, commit {describe()['commit']}; "
          f"{length / 1e9:.2f} GB, best of {repeat}\n")
    print("| what | vecidx | plain | share |\n|---|---|---|---|")
    line("save, synced", min(save), "`dd conv=fsync`", min(dd))
    for name, prepare in (("cold", lambda: forget(path)), ("from the page cache", None)):
        theirs = best(repeat, lambda: plain_read(path, length), prepare)
        ours = best(repeat, lambda: vecidx.load(path), prepare)
        line(f"load, {name}", ours, "read into fresh memory", theirs)
    opened = best(repeat, lambda: vecidx.load(path, mmap=True).close(), lambda: forget(path))
    print(f"| open mapped, cold | {1e3 * opened:.2f} ms | | |")
    print(f"| file / planes | {length / planes:.5f} | | |")
    for i, (pss, rss) in enumerate(pss_of_two(path)):
        print(f"| PSS of process {i + 1} of 2, all pages read | {pss / 1e6:,.0f} MB | "
              f"RSS {rss / 1e6:,.0f} MB | {100 * pss / rss:.0f} % |")


if __name__ == "__main__":
    main()
