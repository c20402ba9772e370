#!/usr/bin/env python3
"""How figures grow with rows and threads, and how fast a growing index takes batches.

    python benchmarks/scale.py rows    --data FILE --sizes 10000,100000,1000000
    python benchmarks/scale.py threads --data FILE --threads 1,2,4,8
    python benchmarks/scale.py ingest  --data FILE --batch 100000

rows: for each size build on the first rows, then QPS at equal recall with one thread, bytes and
build seconds a row.  threads: build time and batch QPS at one ef for each number of threads.
ingest: one batch after another into the same index: rows a second of each, and the slope, the
share of its speed that the index loses every time it doubles.  generate.py makes sets of any size.
Writes NAME-rows.json (-threads, -ingest) and .md; libraries take turns as in compare.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
os.environ.update({name: "1" for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS",
                                          "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")})

import compare  # noqa: E402
import dataset  # noqa: E402
import machine  # noqa: E402
import numpy as np  # noqa: E402
import peers  # noqa: E402
import report  # noqa: E402
import scale_pages  # noqa: E402


class Run(peers.Peers):
    """Peers that have loaded the first rows of a file."""

    def __init__(self, args, n_rows=None):
        super().__init__()
        self.args = args
        self.n_rows = n_rows

    def __enter__(self):
        args = self.args
        self.folder = tempfile.TemporaryDirectory()
        self.start(args.libraries, modes=args.modes)
        shape = dataset.read_shape(args.data, self.n_rows, args.n_queries)
        self.n_rows = shape.n_rows
        queries = dataset.read_queries(args.data, shape, "own")
        ids, bound = dataset.true_neighbours(args.data, shape, queries, args.k)
        truth = Path(self.folder.name, "truth.npz")
        np.savez(truth, queries=queries, ids=ids, bound=bound)
        self.each(0, lambda peer: peer.ask(
            "load", path=str(args.data), truth=str(truth), shape=dataclasses.asdict(shape),
            k=args.k, M=args.M, ef_construction=args.ef_construction))
        return self

    def __exit__(self, *_):
        self.close()
        self.folder.cleanup()

    def grid(self, peer):
        return compare.LIBRARIES[peer.name].grid or self.args.efs

    def pass_of(self, peer, ef, threads, score):
        return peer.ask("search", ef=ef, num_threads=threads, min_seconds=self.args.min_seconds,
                        score=score)


def measure_rows(args, skipped):
    """label -> one dict a size."""
    found = {}
    for size in args.sizes:
        with Run(args, size) as run:
            def build(peer):
                took = peer.ask("build", num_threads=args.build_threads)
                peer.result.update(built=took, points=[])
                run.say(f"{peer.label}, {run.n_rows:,} rows: built in {took['wall_s']:.1f} s")

            def search(peer, step):
                if step < len(run.grid(peer)):
                    took = run.pass_of(peer, run.grid(peer)[step], 1, True)
                    peer.result["points"].append((took["recall"], took["qps"]))

            run.each(0, build)
            for turn in range(max((len(run.grid(peer)) for peer in run.peers), default=0)):
                run.each(turn, lambda peer, turn=turn: search(peer, turn))
            for peer in run.peers:
                built = peer.result["built"]
                at = {f"{t:g}": report.at_recall(peer.result["points"], t)
                      for t in scale_pages.TARGETS}
                found.setdefault(peer.label, []).append({
                    "rows": run.n_rows, "build_wall_s": built["wall_s"],
                    "build_cpu_s": built["cpu_s"], "resident": built["resident"]["rss"],
                    "points": peer.result["points"], "qps_at": at})
            skipped.update(run.skipped)
    return found


def measure_threads(args, skipped):
    """label -> one dict a number of threads."""
    found = {}
    with Run(args, args.limit) as run:
        def build(peer, threads):
            took = peer.ask("build", num_threads=threads)
            found.setdefault(peer.label, []).append(
                {"threads": threads, "build_wall_s": took["wall_s"], "qps": 0.0})
            run.say(f"{peer.label}, {threads} thread(s): built in {took['wall_s']:.1f} s")

        def search(peer, threads):
            library = compare.LIBRARIES[peer.name]
            if library.threads or threads == 1:
                # Where the sweep is another than ef: the middle of its grid.
                ef = library.grid[len(library.grid) // 2] if library.grid else args.ef
                took = run.pass_of(peer, ef, threads, False)
                entry = next(e for e in found[peer.label] if e["threads"] == threads)
                entry["qps"] = max(entry["qps"], took["qps"])

        for turn, threads in enumerate(args.threads):
            run.each(turn, lambda peer, threads=threads: build(peer, threads))
        for turn in range(args.repeat):
            for threads in args.threads:
                run.each(turn, lambda peer, threads=threads: search(peer, threads))
        skipped.update(run.skipped)
    return found


def measure_ingest(args, skipped):
    """label -> one dict a batch."""
    found = {}
    with Run(args, args.limit) as run:
        def add(peer):
            took = peer.ask("ingest", start=start, stop=stop, num_threads=args.build_threads)
            found.setdefault(peer.label, []).append(
                {"rows_before": start, "rows": stop - start, "wall_s": took["wall_s"],
                 "cpu_s": took["cpu_s"]})
            run.say(f"{peer.label}: {(stop - start) / took['wall_s']:,.0f} rows/s "
                    f"after {start:,}")

        for turn, start in enumerate(range(0, run.n_rows, args.batch)):
            stop = min(start + args.batch, run.n_rows)
            run.each(turn, add)
        skipped.update(run.skipped)
    return {label: batches for label, batches in found.items() if label not in skipped}


MEASURES = {"rows": measure_rows, "threads": measure_threads, "ingest": measure_ingest}


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("question", choices=sorted(MEASURES))
    parser.add_argument("--data", type=Path, required=True, metavar="FILE")
    parser.add_argument("--libraries", type=compare.some_libraries, default=["vecidx"])
    parser.add_argument("--modes", type=compare.mode, nargs="+", default=[],
                        metavar="NAME=VALUE,...", help="as compare.py's")
    parser.add_argument("--limit", type=int, metavar="N", help="first N rows")
    parser.add_argument("--n-queries", type=int, metavar="N")
    parser.add_argument("--sizes", type=compare.numbers, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--threads", type=compare.numbers,
                        default=sorted({1, 2, os.cpu_count() or 1}))
    parser.add_argument("--batch", type=int, default=100_000)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--M", type=int, default=16)
    parser.add_argument("--ef-construction", type=int, default=200)
    parser.add_argument("--efs", type=compare.numbers, default=[10, 16, 24, 48, 96, 192, 384])
    parser.add_argument("--ef", type=int, default=64, help="of `threads`")
    parser.add_argument("--build-threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3, help="of `threads`: passes, best counts")
    parser.add_argument("--min-seconds", type=float, default=0.5)
    parser.add_argument("--out", type=Path, default=HERE / "results", metavar="DIR")
    args = parser.parse_args(argv)
    if not args.data.is_file():
        parser.error(f"--data: no file {args.data}")
    if args.batch < 1:
        parser.error(f"--batch: expected at least 1, got {args.batch}")
    n = dataset.read_shape(args.data).n_rows
    args.sizes = sorted({min(size, n) for size in args.sizes})
    return args


def main(argv=None):
    args = parse(argv)
    skipped = {}
    described = machine.describe()
    found = MEASURES[args.question](args, skipped)
    if not found:
        print("scale.py: no library left to measure", file=sys.stderr)
        return 2
    results = {
        "question": args.question, "data": args.data.name, "machine": described,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "settings": {name: getattr(args, name) for name in (
            "M", "ef_construction", "k", "efs", "ef", "threads", "build_threads", "batch",
            "repeat", "min_seconds")},
        "skipped": skipped, "found": found}
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{args.data.stem}-{args.question}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    text = "\n".join(scale_pages.page(results)) + "\n"
    path.with_suffix(".md").write_text(text)
    print(text)
    return 1 if any(why != "not installed" for why in skipped.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
