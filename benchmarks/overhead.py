#!/usr/bin/env python3
"""What Python costs in one 1-D search: Index.search() less the C call under it.

    python benchmarks/overhead.py

The index has one row and ef = k = 1, so that nearly nothing is searched and the way in and out is
what is left.  Where the binding has bench_search_loop(), the C call is timed by a loop in C; where
it has not, one query of a large batch stands for it, which leaves out the C call's own entry and
makes the overhead look larger than it is.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import statistics
import sys
import time

import machine
import numpy as np


def best_us(work, calls, repeat):
    """(best, median) microseconds a call; work(calls) does them all."""
    took = []
    work(max(1, calls // 10))
    for _ in range(repeat):
        start = time.perf_counter()
        work(calls)
        took.append((time.perf_counter() - start) / calls * 1e6)
    return min(took), statistics.median(took)


def repeated(call):
    """call() n times, less the cost of the loop itself as far as a for loop allows."""
    def work(n):
        for _ in range(n):
            call()
    return work


def measure_vecidx(dim, k, ef, rows, calls, repeat):
    import vecidx
    core_module = importlib.import_module("vecidx._core")
    random = np.random.default_rng(0)
    index = vecidx.Index(dim)
    index.add(random.standard_normal((rows, dim), dtype=np.float32), num_threads=1)
    query = random.standard_normal(dim, dtype=np.float32)
    as_list = query.tolist()
    core = getattr(index, "_core", None)
    found = {}

    found["Index.search(query, k, ef=, num_threads=1)"] = best_us(
        repeated(lambda: index.search(query, k, ef=ef, num_threads=1)), calls, repeat)
    found["Index.search(query, k)"] = best_us(
        repeated(lambda: index.search(query, k)), calls, repeat)
    found["Index.search(list of float, k)"] = best_us(
        repeated(lambda: index.search(as_list, k)), max(1, calls // 10), repeat)
    if hasattr(core, "search_one"):
        ids, distances = np.empty(k, np.int64), np.empty(k, np.float32)
        found["binding alone, results preallocated"] = best_us(
            repeated(lambda: core.search_one(query, k, ef, False, 1, ids, distances)),
            calls, repeat)
    loop = getattr(core_module, "bench_search_loop", None)
    if loop is not None:
        how = "C call, by bench_search_loop()"
        found[how] = best_us(lambda n: loop(core, query, k, ef, n), calls, repeat)
    else:
        how = "C call, as one query of a batch (too low: see above)"
        batch = np.tile(query, (calls, 1))
        found[how] = best_us(lambda n: index.search(batch[:n], k, ef=ef, num_threads=1),
                             calls, repeat)
    found["an empty Python call, in all but the C call"] = best_us(
        repeated(lambda: None), calls, repeat)
    return vecidx, found, how


def measure_peer(name, dim, k, ef, rows, calls, repeat):
    """The same single query through another library, None where it is not installed."""
    from libraries import LIBRARIES
    if not LIBRARIES[name].is_installed():
        return None
    library = LIBRARIES[name]()
    random = np.random.default_rng(0)
    library.new(rows, dim, "l2", 16, 200)
    library.add(random.standard_normal((rows, dim), dtype=np.float32), 1)
    library.set_search(ef, 1)
    query = library.one_query(random.standard_normal(dim, dtype=np.float32))
    return best_us(repeated(lambda: library.search_one(query, k)), calls, repeat)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--k", type=int, default=1)
    parser.add_argument("--ef", type=int, default=1)
    parser.add_argument("--calls", type=int, default=50_000)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--peers", action="store_true", help="the other libraries' calls beside it")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    work = (args.dim, args.k, args.ef, args.rows, args.calls, args.repeat)
    gc.disable()
    peers = {}
    if args.peers:
        for name in ("hnswlib", "faiss", "usearch"):
            found = measure_peer(name, *work)
            peers[name] = found
    try:
        vecidx, found, how = measure_vecidx(*work)
    except ModuleNotFoundError as error:
        if error.name != "vecidx":
            raise
        print("overhead.py: vecidx is not installed", file=sys.stderr)
        vecidx, found, how = None, {}, None

    described = machine.describe()
    result = {"settings": vars(args), "cpu": described["cpu"], "python": described["python"],
              "commit": described["commit"], "calls_us": found, "peers_us": peers}
    if vecidx:
        empty = found["an empty Python call, in all but the C call"][0]
        whole = found["Index.search(query, k, ef=, num_threads=1)"][0]
        result["overhead_us"] = whole - empty - found[how][0]
        result["simd"] = vecidx.simd_level()
    if args.json:
        print(json.dumps(result, indent=1))
        return 0 if vecidx else 2
    print(f"{described['cpu']}, Python {described['python']}, commit {described['commit']}; "
          f"dim {args.dim}, {args.rows} row(s), k {args.k}, ef {args.ef}; "
          f"best and median of {args.repeat} x {args.calls:,} calls\n")
    print("| microseconds a call | best | median |\n|---|---:|---:|")
    named_peers = {f"{name}, one query": took for name, took in peers.items() if took}
    for name, (best, median) in (found | named_peers).items():
        print(f"| {name} | {best:.3f} | {median:.3f} |")
    for name in [name for name, took in peers.items() if not took]:
        print(f"\n{name}: left out (not installed)")
    if vecidx:
        print(f"\nPython overhead over the C call: {result['overhead_us']:.2f} us (target: <= 3)")
    return 0 if vecidx else 2


if __name__ == "__main__":
    sys.exit(main())
