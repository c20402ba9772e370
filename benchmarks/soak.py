#!/usr/bin/env python3
"""Turn the rows of an index over, again and again, and measure what that does to it.

    python benchmarks/soak.py --data sift-128-euclidean.hdf5

The index holds five sixths of the file's rows.  Each round deletes a share of them, at random or
clustered around a row, or replaces them, and adds as many that it does not hold.  After each round:
recall@10 at a fixed ef against an exact search, memory, rows that no walk reaches.  Every few
rounds the same rows are built afresh and measured beside the index that has lived, in turn.  With a
tenth a round, 100 rounds are ten turnovers.  Writes NAME-soak.json, .md and, with matplotlib, .png.
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
    """Queries a second of CPU time, which a machine with other work to do shifts least."""
    best = 0.0
    for _ in range(times):
        begin = time.process_time()
        index.search(queries, k=10, ef=ef, num_threads=1)
        best = max(best, len(queries) / (time.process_time() - begin))
    return best


def leaving(how, index, n, rng):
    """The ids that go."""
    ids = index.ids()
    if how != "clustered":
        return rng.permutation(ids)[:n]
    rows = index.get(ids)
    centre = rows[rng.integers(len(rows))]
    return ids[np.argsort(((rows - centre) ** 2).sum(axis=1))[:n]]


class Held:
    """Which row of the file each id stands for, and the rows that no id does."""

    def __init__(self, pool, n):
        self.pool = pool
        self.row_of = np.arange(n)
        self.spare = np.arange(n, len(pool))

    def swap(self, ids):
        """New vectors for these ids; their old ones come last in the queue."""
        rows, self.spare = self.spare[:len(ids)], self.spare[len(ids):]
        self.spare = np.concatenate([self.spare, self.row_of[ids]])
        self.row_of[ids] = rows
        return self.pool[rows]


def turn(how, index, held, n, rng):
    """One round; (rows deleted a second or None, rows added a second)."""
    gone = leaving(how, index, n, rng)
    fresh = held.swap(gone)
    begin = time.perf_counter()
    if how == "replace":
        index.add(fresh, ids=gone)
        return None, n / (time.perf_counter() - begin)
    index.delete(gone)
    middle = time.perf_counter()
    index.add(fresh, ids=gone)
    return n / (middle - begin), n / (time.perf_counter() - middle)


def new_index(shape, args):
    return vecidx.Index(shape.dim, metric=shape.metric, quantization=args.quantization,
                        num_threads=args.threads)


def beside_fresh(index, args, shape, queries, few):
    """The index that has lived, and the same rows built afresh, measured in turn."""
    fresh = new_index(shape, args)
    fresh.add(index.get(index.ids()))
    lived = built = 0.0
    for _ in range(6):           # in turn, so that a slow moment meets both
        lived = max(lived, qps(index, queries, args.ef))
        built = max(built, qps(fresh, queries, args.ef))
    return {"after": {"recall": recall(index, few, args.ef), "qps": lived,
                      "memory": index.memory()["total"]},
            "fresh": {"recall": recall(fresh, few, args.ef), "qps": built,
                      "memory": fresh.memory()["total"]}}


def soak(how, args, shape, pool, queries):
    n = args.rows or len(pool) * 5 // 6
    share = max(1, round(n * args.share))
    rng = np.random.default_rng(args.seed)
    index, held = new_index(shape, args), Held(pool, n)
    index.add(pool[:n])
    few = queries[:args.recall_queries]
    result = {"how": how, "rows": n, "before": {
        "recall": recall(index, few, args.ef), "qps": qps(index, queries, args.ef),
        "memory": index.memory()["total"]}, "rounds": []}
    begin = time.perf_counter()
    for number in range(1, args.rounds + 1):
        if time.perf_counter() - begin > args.max_seconds:
            break
        deleted, added = turn(how, index, held, share, rng)
        stats = index.stats()
        last = {"deletes_per_s": deleted, "adds_per_s": added,
                "recall": recall(index, few, args.ef), "memory": index.memory()["total"],
                "resident": resident(), "deleted": stats["deleted"], "free": stats["free"],
                "unreachable": index.check()["unreachable"]}
        if number % args.fresh_every == 0:
            last |= beside_fresh(index, args, shape, queries, few)
        result["rounds"].append(last)
        print(f"{how} {number}: recall {last['recall']:.4f}, {last['free']} free"
              + (f", fresh {last['fresh']['recall']:.4f}, "
                 f"QPS {last['after']['qps'] / last['fresh']['qps']:.2f}"
                 if "fresh" in last else ""), flush=True)
    result |= beside_fresh(index, args, shape, queries, few)
    index.compact()
    result["compacted"] = {"memory": index.memory()["total"],
                           "unreachable": index.check()["unreachable"]}
    return result


def lowest(run, what, compare):
    """The worst of what was measured beside a fresh build."""
    points = [r for r in run["rounds"] if "fresh" in r] + [run]
    return min(compare(p["after"][what], p["fresh"][what]) for p in points)


def page(report):
    """The report in Markdown."""
    lines = [f"# Soak: {report['data']}", "",
             f"{report['share']:.0%} of the rows go each round, as many others come. recall@10 and "
             f"queries a CPU second at ef={report['ef']}, quantization "
             f"{report['quantization']}; commit {report['machine']['commit']}, {report['level']}, "
             f"{report['machine']['cpu']}. Least: over all fresh builds, one every "
             f"{report['fresh_every']} rounds.", "",
             "| how | rows | rounds | recall before | after | fresh build | least recall - fresh "
             "| least QPS / fresh | compacted memory / fresh | deletes/s | adds/s |",
             "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"]
    for run in report["runs"]:
        rounds, after, fresh = run["rounds"], run["after"], run["fresh"]
        deletes = [r["deletes_per_s"] for r in rounds if r["deletes_per_s"]]
        lines.append(
            f"| {run['how']} | {run['rows']:,} | {len(rounds)} | {run['before']['recall']:.4f} "
            f"| {after['recall']:.4f} | {fresh['recall']:.4f} "
            f"| {lowest(run, 'recall', lambda a, b: a - b):+.4f} "
            f"| {lowest(run, 'qps', lambda a, b: a / b):.2f} "
            f"| {run['compacted']['memory'] / fresh['memory']:.2f} "
            f"| {f'{np.median(deletes):,.0f}' if deletes else '-'} "
            f"| {np.median([r['adds_per_s'] for r in rounds]):,.0f} |")
    least = min(r["recall"] for run in report["runs"] for r in run["rounds"])
    unreachable = sum(r["unreachable"] for run in report["runs"] for r in run["rounds"])
    lines += ["", f"Lowest recall after any round: {least:.4f}. Rows that no walk reaches, after "
              f"any round: {unreachable}."]
    return "\n".join(lines) + "\n"


def plot(report, path):
    """Recall by round, and what fresh builds have; nothing without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4))
    for run in report["runs"]:
        recalls = [run["before"]["recall"], *(r["recall"] for r in run["rounds"])]
        line, = axis.plot(recalls, label=run["how"])
        built = [(i, r["fresh"]["recall"]) for i, r in enumerate(run["rounds"], 1) if "fresh" in r]
        if built:
            axis.plot(*zip(*built, strict=True), "o", color=line.get_color(), markersize=4,
                      label=f"{run['how']}, built afresh")
    axis.set(xlabel="round", ylabel=f"recall@10 at ef={report['ef']}", title=report["data"])
    axis.legend()
    axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="an ann-benchmarks HDF5 file")
    parser.add_argument("--how", choices=HOWS, action="append", help="default: all")
    parser.add_argument("--rows", type=int, help="rows of the index; default: five sixths")
    parser.add_argument("--quantization", choices=("sq8", "sq4", "auto"), help="default: none")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--share", type=float, default=0.1, help="of the rows, a round")
    parser.add_argument("--ef", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recall-queries", type=int, default=500)
    parser.add_argument("--fresh-every", type=int, default=20, help="rounds")
    parser.add_argument("--max-seconds", type=float, default=3600, help="of each run's rounds")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()

    shape = dataset.read_shape(args.data)
    pool = dataset.read_float32(args.data, "train", shape.n_rows)
    queries = dataset.read_float32(args.data, "test", shape.n_queries)
    report = {"data": Path(args.data).stem, "share": args.share, "ef": args.ef,
              "quantization": args.quantization, "fresh_every": args.fresh_every,
              "threads": args.threads, "level": vecidx.simd_level(),
              "machine": machine.describe(),
              "runs": [soak(how, args, shape, pool, queries) for how in args.how or HOWS]}
    args.out.mkdir(parents=True, exist_ok=True)
    name = args.out / f"{report['data']}-soak{f'-{args.quantization}' if args.quantization else ''}"
    name.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    name.with_suffix(".md").write_text(page(report))
    plot(report, name.with_suffix(".png"))
    print(page(report))


if __name__ == "__main__":
    main()
