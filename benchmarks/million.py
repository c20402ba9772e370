#!/usr/bin/env python3
"""A large index in one add: time, memory, recall and speed.

    python benchmarks/generate.py --rows 1000000 --dim 768 --out made.hdf5
    python benchmarks/million.py --data made.hdf5

Reads the rows as they lie in the file (float16), takes the memory then in use as that of the
input, builds, and prints a table of recall and QPS over ef.
"""

import argparse
import sys
import time
from pathlib import Path

import dataset
import h5py
import machine

import vecidx


def resident(name="VmRSS"):
    """Bytes of this process: in use now (VmRSS), or at most so far (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit("million.py needs /proc")


def forget_peak():
    Path("/proc/self/clear_refs").write_text("5")


def qps(index, queries, ef, threads):
    best = 0.0
    for _ in range(3):
        begin = time.perf_counter()
        index.search(queries, 10, ef=ef, num_threads=threads)
        best = max(best, len(queries) / (time.perf_counter() - begin))
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="an HDF5 file with its truth")
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--quantization", default="auto", help="auto, sq8, sq4 or none")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--efs", type=int, nargs="+", default=[10, 16, 32, 64, 128])
    args = parser.parse_args()
    shape = dataset.read_shape(args.data)
    with h5py.File(args.data) as file:
        rows = file["train"][:]
        queries = file["test"][:].astype("float32")
        truth = file["neighbors"][:, :10]
    print(f"# {machine.describe()['cpu']}; {args.data.name}: {len(rows):,} x {rows.shape[1]} "
          f"{rows.dtype}")
    index = vecidx.Index(shape.dim, shape.metric, dtype=args.dtype,
                         quantization=None if args.quantization == "none" else args.quantization)
    forget_peak()
    before, cpu, begin = resident(), time.process_time(), time.perf_counter()
    index.add(rows, num_threads=args.threads, progress=sys.stderr.isatty())
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    gib = 1 / 2**30
    print(f"built with {args.threads} threads in {wall:.0f} s, {cpu:.0f} CPU s; "
          f"peak {(resident('VmHWM') - before) * gib:.2f} GiB and then "
          f"{(resident() - before) * gib:.2f} GiB beyond the input of {rows.nbytes * gib:.2f}; "
          f"memory() {index.memory()['total'] * gib:.2f}; check {index.check()}")
    print("| ef | recall@10 | QPS, one thread | two |\n|---:|---:|---:|---:|")
    for ef in args.efs:
        ids = index.search(queries, 10, ef=ef)[0]
        hits = sum(len(set(a) & set(b)) for a, b in zip(ids.tolist(), truth.tolist()))
        print(f"| {ef} | {hits / truth.size:.4f} | {qps(index, queries, ef, 1):,.0f} | "
              f"{qps(index, queries, ef, 2):,.0f} |")


if __name__ == "__main__":
    main()
