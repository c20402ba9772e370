#!/usr/bin/env python3
"""Measure what `vecidx plan` reckons with: microseconds a query and seconds a build, by size.

    python benchmarks/planning.py --dim 768 --rows 10000,100000 -o planning-768.json

On made rows (generate.py) one index of each mode grows through the sizes; at each, the time of a
batch of queries on one thread at several ef, the best of three, its recall, and the CPU seconds
spent building so far.  `vecidx plan`'s constants (src/vecidx/plan.py) are fitted to such points;
tests/test_plan.py holds them to what is in results/planning-*.json.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
from generate import Mixture

import vecidx

MODES = {"none": None, "sq8": "sq8", "sq4": "sq4", "auto": "auto"}


def draw(mixture, n, stream):
    """n rows of unit length."""
    random = np.random.default_rng([7, stream])
    weights = np.arange(1, len(mixture.bases) + 1) ** -0.7
    of = random.choice(len(weights), n, p=weights / weights.sum())
    rows = mixture.centres[of]
    for cluster in np.unique(of):
        mine = np.flatnonzero(of == cluster)
        basis = mixture.bases[cluster]
        rows[mine] += random.standard_normal((len(mine), basis.shape[1]),
                                             dtype=np.float32) @ basis.T
    rows += mixture.noise * random.standard_normal(rows.shape, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def points(dim, sizes, modes, efs, n_queries=500):
    mixture = Mixture(dim, clusters=200, intrinsic=64)
    queries = draw(mixture, n_queries, 1)
    rows = draw(mixture, sizes[-1], 2)
    for mode in modes:
        index = vecidx.Index(dim, metric="cosine", quantization=MODES[mode])
        cpu = 0.0
        for size in sizes:
            began = time.process_time()
            index.add(rows[len(index):size])
            cpu += time.process_time() - began
            kth = index.search(queries, k=10, exact=True)[1][:, 9:]
            for ef in efs:
                seconds = []
                for _ in range(3):
                    began = time.perf_counter()
                    _, distances = index.search(queries, k=10, ef=ef, num_threads=1)
                    seconds.append(time.perf_counter() - began)
                yield {"dim": dim, "rows": size, "mode": mode, "ef": ef,
                       "us": round(1e6 * min(seconds) / n_queries, 2),
                       "recall": round(float((distances <= kth + 1e-6).mean()), 4),
                       "build_cpu_s": round(cpu, 2),
                       "memory": index.memory()["total"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--rows", default="10000,100000")
    parser.add_argument("--modes", default="none,sq8,auto")
    parser.add_argument("--ef", default="32,64,128")
    parser.add_argument("-o", "--output", required=True)
    args = parser.parse_args()
    found = []
    for point in points(args.dim, [int(n) for n in args.rows.split(",")], args.modes.split(","),
                        [int(ef) for ef in args.ef.split(",")]):
        print(point, flush=True)
        found.append(point)
    with open(args.output, "w", encoding="utf-8") as file:
        json.dump({"simd": vecidx.simd_level(), "points": found}, file, indent=0)


if __name__ == "__main__":
    main()
