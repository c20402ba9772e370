"""Kill a process while it saves, again and again; look at what is left.

    python tools/crash_save.py [--kills 200] [--seed 0]

A writer saves three indexes in turn to one path, as fast as it can, and says when a
save begins and when it has returned; kill -9 hits it anywhere.  Then the path must
name a whole file: that of the save that returned last, or of the one under way.
Beside it there may be one temporary, named as docs/FORMAT.md says; it is deleted.
"""

import argparse
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

import vecidx

N_INDEXES = 3
TEMPORARY = re.compile(r"\.vecidx-[0-9a-f]{16}\.tmp")


def make(folder):
    """Three indexes of different sizes, each about as long to save as to kill."""
    rng = np.random.default_rng(0)
    for i in range(N_INDEXES):
        index = vecidx.Index(64, M=4, ef_construction=10)
        index.add(rng.standard_normal((4000 + 1500 * i, 64), dtype=np.float32))
        index.save(Path(folder, f"source{i}"))


def write(folder, number):
    """Save until killed; `number` is that of the first save."""
    indexes = [vecidx.load(Path(folder, f"source{i}")) for i in range(N_INDEXES)]
    while True:
        print("begin", number, flush=True)
        indexes[number % N_INDEXES].save(Path(folder, "target", "index"))
        print("done", number, flush=True)
        number += 1


def run_writer(folder, number, delay):
    """(number of the last save that returned, that of the one under way or None)"""
    command = [sys.executable, __file__, "--write", str(folder), "--number", str(number)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lines = [writer.stdout.readline()]           # it has begun
    reader = threading.Thread(target=lambda: lines.extend(writer.stdout))
    reader.start()
    time.sleep(delay)
    if writer.poll() is not None:
        sys.exit("FAILED: the writer ended by itself")
    writer.kill()
    reader.join()
    writer.wait()
    writer.stdout.close()
    said = [line.split() for line in lines if line.endswith("\n")]
    returned = [int(n) for word, n in said if word == "done"]
    under_way = int(said[-1][1]) if said[-1][0] == "begin" else None
    return returned[-1] if returned else number - 1, under_way


def judge(folder, returned, under_way, counts):
    """What is there; AssertionError if it may not be."""
    target = Path(folder, "target")
    allowed = [n for n in (returned, under_way) if n is not None and n >= 0]
    path = target / "index"
    found = path.read_bytes() if path.exists() else None
    fits = [n for n in allowed
            if found == Path(folder, f"source{n % N_INDEXES}").read_bytes()]
    assert fits or (found is None and returned < 0), f"the file is none of saves {allowed}"
    if found is not None:
        vecidx.load(path, verify=True).close()
    left = [name.name for name in target.iterdir() if name.name != "index"]
    assert len(left) <= 1 and all(TEMPORARY.fullmatch(name) for name in left), left
    for name in left:
        (target / name).unlink()
    counts["temporaries"] += len(left)
    counts["between saves" if under_way is None else
           "under way, old file" if fits != [under_way] else "under way, new file"] += 1
    return max(fits) if fits else -1


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write:
        return write(args.write, args.number)
    chance = random.Random(args.seed)
    counts, number = Counter(temporaries=0), 0
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "target").mkdir()
        make(folder)
        for _ in range(args.kills):
            returned, under_way = run_writer(folder, number, chance.uniform(0, 0.06))
            number = judge(folder, returned, under_way, counts) + 1
    print(f"{args.kills} kills, {number} saves; "
          f"{', '.join(f'{what}: {n}' for what, n in sorted(counts.items()))}")


if __name__ == "__main__":
    main()
