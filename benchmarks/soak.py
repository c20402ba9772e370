#!/usr/bin/env python3
"""Turn the rows of an index over, again and again, and measure what that does to it.

    python benchmarks/soak.py --data sift-128-euclidean.hdf5

Each round deletes a share of the rows, at random or clustered around a row, or replaces them, and
adds as many others.  After each round: recall@10 at a fixed ef against an exact search, QPS, and
memory.  At the end the same rows are built afresh and measured beside the index that has lived, in
turn.  With a tenth a round, 100 rounds are ten turnovers.  Writes NAME-soak.json and NAME-soak.md.
"""

import argparse
import json
import time
from pathlib import Path

import dataset
import machine
import numpy as np

import vecidx

HOWS = ("random", "clustered", "replace")


def resident():
    """Bytes of this process in memory, of which the index is a part."""
    try:
        text = Path("/proc/self/statm").read_text()
    except OSError:
        return 0
    return int(text.split()[1]) * 4096


def recall(index, queries, ef, k=10):
    kth = index.search(queries, k=k, exact=True)[1][:, -1].astype(np.float64)
    found = index.search(queries, k=k, ef=ef)[1]
    return float((found <= (kth * (1 + 1e-6) + 1e-6)[:, None]).mean())


def qps(index, queries, ef, times=3):
    best = 0.0
    for _ in range(times):
        begin = time.perf_counter()
        index.search(queries, k=10, ef=ef)
        best = max(best, len(queries) / (time.perf_counter() - begin))
    return best


def leaving(how, index, n, rng):
    """The ids that go."""
    ids = index.ids()
    if how != "clustered":
        return rng.permutation(ids)[:n]
    rows = index.get(ids)
    centre = rows[rng.integers(len(rows))]
    return ids[np.argsort(((rows - centre) ** 2).sum(axis=1))[:n]]


def turn(how, index, pool, at, n, rng):
    """One round; (rows deleted a second or None, rows added a second)."""
    gone = leaving(how, index, n, rng)
    fresh = pool[(np.arange(n) + at) % len(pool)]
    begin = time.perf_counter()
    if how == "replace":
        index.add(fresh, ids=gone)
        return None, n / (time.perf_counter() - begin)
    index.delete(gone)
    middle = time.perf_counter()
    index.add(fresh)
    return n / (middle - begin), n / (time.perf_counter() - middle)


def new_index(shape, threads):
    return vecidx.Index(shape.dim, metric=shape.metric, num_threads=threads)


def soak(how, args, shape, pool, queries):
    n = args.rows or len(pool)
    share = max(1, round(n * args.share))
    rng = np.random.default_rng(args.seed)
    index = new_index(shape, args.threads)
    index.add(pool[:n])
    few = queries[:args.recall_queries]
    result = {"how": how, "rows": n, "before": {
        "recall": recall(index, few, args.ef), "qps": qps(index, queries, args.ef),
        "memory": index.memory()["total"]}, "rounds": []}
    begin = time.perf_counter()
    for number in range(args.rounds):
        if time.perf_counter() - begin > args.max_seconds:
            break
        deleted, added = turn(how, index, pool, n + number * share, share, rng)
        stats = index.stats()
        result["rounds"].append({
            "deletes_per_s": deleted, "adds_per_s": added,
            "recall": recall(index, few, args.ef), "memory": index.memory()["total"],
            "resident": resident(), "deleted": stats["deleted"], "free": stats["free"],
            "unreachable": index.check()["unreachable"]})
        last = result["rounds"][-1]
        print(f"{how} {number + 1}: recall {last['recall']:.4f}, {last['free']} free", flush=True)

    fresh = new_index(shape, args.threads)
    fresh.add(index.get(index.ids()))
    lived = built = 0.0
    for _ in range(3):           # in turn, so that a slow moment meets both
        lived = max(lived, qps(index, queries, args.ef))
        built = max(built, qps(fresh, queries, args.ef))
    result["after"] = {"recall": recall(index, few, args.ef), "qps": lived,
                       "memory": index.memory()["total"]}
    result["fresh"] = {"recall": recall(fresh, few, args.ef), "qps": built,
                       "memory": fresh.memory()["total"]}
    index.compact()
    result["compacted"] = {"memory": index.memory()["total"],
                           "unreachable": index.check()["unreachable"]}
    return result


def page(report):
    """The report in Markdown."""
    lines = [f"# Soak: {report['data']}", "",
             f"{report['share']:.0%} of the rows go each round, as many others come. recall@10 and "
             f"QPS at ef={report['ef']}, {report['threads']} threads; "
             f"commit {report['machine']['commit']}, {report['level']}, "
             f"{report['machine']['cpu']}.", "",
             "| how | rows | rounds | recall before | after | fresh build | QPS / fresh "
             "| memory / fresh | deletes/s | adds/s |",
             "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"]
    for run in report["runs"]:
        rounds, after, fresh = run["rounds"], run["after"], run["fresh"]
        deletes = [r["deletes_per_s"] for r in rounds if r["deletes_per_s"]]
        lines.append(
            f"| {run['how']} | {run['rows']:,} | {len(rounds)} | {run['before']['recall']:.4f} "
            f"| {after['recall']:.4f} | {fresh['recall']:.4f} | {after['qps'] / fresh['qps']:.2f} "
            f"| {after['memory'] / fresh['memory']:.2f} "
            f"| {f'{np.median(deletes):,.0f}' if deletes else '-'} "
            f"| {np.median([r['adds_per_s'] for r in rounds]):,.0f} |")
    lowest = min(r["recall"] for run in report["runs"] for r in run["rounds"])
    unreachable = sum(r["unreachable"] for run in report["runs"] for r in run["rounds"])
    lines += ["", f"Lowest recall after any round: {lowest:.4f}. Rows that no walk reaches, after "
              f"any round: {unreachable}."]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="an ann-benchmarks HDF5 file")
    parser.add_argument("--how", choices=HOWS, action="append", help="default: all")
    parser.add_argument("--rows", type=int, help="rows of the index; default: all of the file")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--share", type=float, default=0.1, help="of the rows, a round")
    parser.add_argument("--ef", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recall-queries", type=int, default=500)
    parser.add_argument("--max-seconds", type=float, default=3600, help="of each run's rounds")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()

    shape = dataset.read_shape(args.data)
    pool = dataset.read_float32(args.data, "train", shape.n_rows)
    queries = dataset.read_float32(args.data, "test", shape.n_queries)
    report = {"data": Path(args.data).stem, "share": args.share, "ef": args.ef,
              "threads": args.threads, "level": vecidx.simd_level(),
              "machine": machine.describe(),
              "runs": [soak(how, args, shape, pool, queries) for how in args.how or HOWS]}
    args.out.mkdir(parents=True, exist_ok=True)
    name = args.out / f"{report['data']}-soak"
    name.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    name.with_suffix(".md").write_text(page(report))
    print(page(report))


if __name__ == "__main__":
    main()
