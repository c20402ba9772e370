"""Count what searches read: nodes, links, codes, vectors, cache lines.  `make count` calls it.

    python tools/count_work.py [--data FILE.hdf5] [--rows N] [--ef N ...] [--quantization NAME]

Needs a build with VECIDX_COUNT_WORK=1, slower than others: what it counts is exact, what it times
is nothing.  Upper layers and comparing the nearest again are counted as rows, not as hops.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import record_profile

import vecidx
from vecidx import _core


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="an ann-benchmarks HDF5 file; default: made rows")
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--metric", default="l2")
    parser.add_argument("--ef", type=int, nargs="+", default=[16, 64, 200])
    parser.add_argument("--quantization", choices=("none", "sq8", "auto"), nargs="+",
                        default=["none", "sq8", "auto"])
    args = parser.parse_args(argv)
    if _core.test_work() is None:
        print("this build does not count: VECIDX_COUNT_WORK=1 pip install .", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "rows.npz")
        record_profile.make_rows(path, args)
        with np.load(path) as file:
            rows, queries = file["rows"], file["queries"]
    print(f"{len(rows):,} rows of {rows.shape[1]}, {vecidx.simd_level()}; a query, in the mean\n")
    print("| quantization | ef | hops | links | vectors | codes | ranks | lines |\n"
          "|---|---:|---:|---:|---:|---:|---:|---:|")
    for word in args.quantization:
        index = vecidx.Index(rows.shape[1], args.metric,
                             quantization=None if word == "none" else word)
        index.add(rows)
        for ef in args.ef:
            _core.test_work()
            index.search(queries, k=10, ef=ef)
            counts = [f"{n / len(queries):,.0f}" for n in _core.test_work().values()]
            print(f"| {word} | {ef} | {' | '.join(counts)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
