#!/usr/bin/env python3
"""What changing an index costs: adds one by one, deletes, searches beside a writer, merging.

    python benchmarks/living.py --data sift-128-euclidean.hdf5

Prints a table: adds one by one against one batch, on one thread; deletes a second, in batches and
one by one; the latency of single searches beside a writer that deletes and adds without a pause,
against a quiet index; how long a small add takes beside a long one; merging two halves against
adding the second to the first.
"""

import argparse
import itertools
import threading
import time

import dataset
import machine
import numpy as np

import vecidx


def new_index(shape, threads):
    return vecidx.Index(shape.dim, metric=shape.metric, num_threads=threads)


def seconds(call):
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def one_by_one(shape, rows, n_last):
    """Rows a second of the last n_last rows: as one batch, and each alone."""
    n = len(rows) - n_last
    index = new_index(shape, 1)
    index.add(rows[:n])
    batch = n_last / seconds(lambda: index.add(rows[n:]))
    index = new_index(shape, 1)
    index.add(rows[:n])

    def alone():
        for row in rows[n:]:
            index.add(row)
    return batch, n_last / seconds(alone), index


def deletes(shape, rows, threads):
    """Rows a second: a tenth in one call, then singly; on an index of all rows."""
    rng = np.random.default_rng(0)
    index = new_index(shape, threads)
    index.add(rows)
    gone = rng.permutation(len(rows))
    n = len(rows) // 10
    batch = n / seconds(lambda: index.delete(gone[:n]))

    def singly():
        for i in gone[n:n + 2000].tolist():
            index.delete(i)
    return batch, 2000 / seconds(singly)


def latencies(index, queries, ef, until):
    times = []
    while not until(len(times)):
        query = queries[len(times) % len(queries)]
        begin = time.perf_counter()
        index.search(query, k=10, ef=ef, num_threads=1)
        times.append(time.perf_counter() - begin)
    return 1e6 * np.array(times)


def beside_a_writer(shape, rows, queries, ef, n_searches, a_call):
    """Latencies in microseconds, quiet and beside one writing thread, `a_call` rows a call."""
    index = new_index(shape, 1)
    index.add(rows)
    quiet = latencies(index, queries, ef, lambda n: n >= n_searches)
    stop = threading.Event()

    # Chosen before: the writer is to hold the GIL for no more than its calls.
    order = np.random.default_rng(1).permutation(len(rows))
    parts = [(ids, rows[ids]) for ids in np.array_split(order, len(rows) // a_call)]

    def write():
        for ids, their_rows in itertools.cycle(parts):
            index.delete(ids)
            index.add(their_rows, ids=ids)
            if stop.is_set():
                return
    writer = threading.Thread(target=write)
    writer.start()
    busy = latencies(index, queries, ef, lambda n: n >= n_searches)
    stop.set()
    writer.join()
    return quiet, busy


def beside_a_long_add(shape, rows):
    """Seconds that adds of one row take while all rows are added in one call."""
    index = new_index(shape, 1)
    started = threading.Event()
    adder = threading.Thread(target=lambda: index.add(rows, progress=lambda *_: started.set()))
    adder.start()
    started.wait()
    waits = []
    while adder.is_alive() and len(waits) < 200:
        waits.append(seconds(lambda: index.add(rows[0], ids=[len(rows) + len(waits)])))
        time.sleep(0.02)
    adder.join()
    return np.array(waits)


def merging(shape, rows, queries, ef, threads):
    """(seconds, recall@10) of merging the second half into the first, and of adding it."""
    half = len(rows) // 2
    ids = np.arange(half, len(rows))
    results = []
    other = new_index(shape, threads)
    other.add(rows[half:], ids=ids)
    for how in ("merge", "add"):
        index = new_index(shape, threads)
        index.add(rows[:half])
        took = seconds((lambda index=index: index.merge(other)) if how == "merge" else
                       (lambda index=index: index.add(rows[half:], ids=ids)))
        kth = index.search(queries, k=10, exact=True)[1][:, -1:]
        found = index.search(queries, k=10, ef=ef)[1]
        results.append((took, float((found <= kth * (1 + 1e-6) + 1e-6).mean())))
    return results


def line(what, value, target=""):
    print(f"| {what} | {value} | {target} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="an ann-benchmarks HDF5 file")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--ef", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("adds", "deletes", "searches", "long", "merge"),
                        action="append", help="default: all")
    args = parser.parse_args()
    shape = dataset.read_shape(args.data)
    rows = dataset.read_float32(args.data, "train", min(args.rows, shape.n_rows))
    queries = dataset.read_float32(args.data, "test", min(1000, shape.n_queries))
    only = args.only or ("adds", "deletes", "searches", "long", "merge")
    about = machine.describe()
    print(f"{len(rows):,} rows of {args.data}, commit {about['commit']}, {vecidx.simd_level()}, "
          f"{about['cpu']}\n\n| what | measured | target |\n|---|---:|---:|")
    if "adds" in only:
        batch, alone, _ = one_by_one(shape, rows, min(5000, len(rows) // 2))
        line("adds/s one by one, one thread", f"{alone:,.0f}")
        line("... of a batch's", f"{alone / batch:.2f} of {batch:,.0f}", ">= 0.50")
    if "deletes" in only:
        batch, single = deletes(shape, rows, args.threads)
        line("deletes/s, a tenth in one call", f"{batch:,.0f}", ">= 5,000")
        line("deletes/s, singly", f"{single:,.0f}")
    if "searches" in only:
        for a_call in (100, 1000):
            quiet, busy = beside_a_writer(shape, rows, queries, args.ef, 20_000, a_call)
            for share in (50, 99, 99.9):
                a, b = np.percentile(quiet, share), np.percentile(busy, share)
                line(f"p{share} of searches, us: quiet, beside a writer of {a_call} rows a call, "
                     "ratio", f"{a:.0f}, {b:.0f}, {b / a:.2f}",
                     "<= 2 at p99" if share == 99 else "")
    if "long" in only:
        waits = 1000 * beside_a_long_add(shape, rows)
        line("an add of one row beside a long one, ms: p50, p99, most",
             f"{np.median(waits):.0f}, {np.percentile(waits, 99):.0f}, {waits.max():.0f}",
             "<= 50")
    if "merge" in only:
        (merge, after_merge), (add, after_add) = merging(shape, rows, queries, args.ef,
                                                         args.threads)
        line("merging halves, s, of adding", f"{merge:.1f} of {add:.1f}", "less")
        line(f"... recall@10 at ef={args.ef}: merged, added",
             f"{after_merge:.4f}, {after_add:.4f}", "equal")


if __name__ == "__main__":
    main()
