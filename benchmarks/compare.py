#!/usr/bin/env python3
"""Measure vecidx beside other libraries on one ann-benchmarks HDF5 file.

    python benchmarks/compare.py --data sift-128-euclidean.hdf5

Every library lives in a process of its own.  All of them build first, one after the other; then
they are asked in rotation for one short measurement at a time, so that a machine which is slow for
a minute is slow for all.  Writes NAME.json, NAME.md and NAME.png.  README.md says how to read them.
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
# One BLAS thread everywhere, before NumPy is imported here or in a worker.
BLAS = {name: "1" for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
                               "VECLIB_MAXIMUM_THREADS")}
os.environ.update(BLAS)

import dataset  # noqa: E402
import machine  # noqa: E402
import numpy as np  # noqa: E402
import peers  # noqa: E402
import report  # noqa: E402
from libraries import CORE, LIBRARIES  # noqa: E402


class Comparison(peers.Peers):
    def __init__(self, args):
        super().__init__()
        self.args = args

    def grid(self, peer):
        """The values of its sweep parameter to measure: asked for, its own, or --efs."""
        library = LIBRARIES[peer.name]
        return (self.args.ef.get(peer.label) or self.args.ef.get(peer.name) or library.grid
                or self.args.efs)

    def load(self, folder):
        args = self.args
        self.shape = dataset.read_shape(args.data, args.limit, args.n_queries)
        self.say(f"{args.data.name}: {self.shape}, {args.queries} queries")
        queries = dataset.read_queries(args.data, self.shape, args.queries)
        ids, bound = dataset.true_neighbours(args.data, self.shape, queries, args.k, args.queries)
        truth = Path(folder, "truth.npz")
        np.savez(truth, queries=queries, ids=ids, bound=bound)
        self.each(0, lambda peer: peer.ask(
            "load", path=str(args.data), truth=str(truth), shape=dataclasses.asdict(self.shape),
            k=args.k, M=args.M, ef_construction=args.ef_construction))

    def build(self):
        def work(peer):
            took = peer.ask("build", num_threads=self.args.build_threads)
            peer.result["simd"] = took.pop("simd")
            peer.result["parts"] = took.pop("parts")
            peer.result["build"].append(took)
            self.say(f"build {peer.label}: {took['wall_s']:.1f} s wall, {took['cpu_s']:.1f} s CPU, "
                     f"{took['resident']['rss'] / 1e6:.1f} MB")

        for turn in range(self.args.build_repeat):
            self.each(turn, work)

    def batch(self, peer, step, threads, line):
        """One pass of the step-th value of its grid; what it came to goes to `line`."""
        if step >= len(self.grid(peer)) or (threads > 1 and not LIBRARIES[peer.name].threads):
            return
        ef = self.grid(peer)[step]
        kept = peer.result["search"].setdefault(
            f"{threads}/{ef}", {"threads": threads, "ef": ef, "passes": []})
        took = peer.ask("search", ef=ef, num_threads=threads, min_seconds=self.args.min_seconds,
                        score="recall" not in kept)
        for key in ("recall", "recall_by_id"):
            if key in took:
                kept[key] = took.pop(key)
        kept["passes"].append(took)
        line.append(f"{peer.label} {ef:g}: {took['qps']:,.0f} ({kept['recall']:.4f})")

    def single(self, peer, step, line):
        if step < len(self.grid(peer)):
            ef = self.grid(peer)[step]
            took = peer.ask("single", ef=ef)["ns"]
            peer.result["single"].setdefault(ef, []).append(took)
            line.append(f"{peer.label} {ef:g}: {np.median(took) / 1000:.0f}")

    def search(self):
        args = self.args
        turn = 0

        def everyone(what, measure, *arguments):
            nonlocal turn
            line = []
            self.each(turn, lambda peer: measure(peer, *arguments, line))
            turn += 1
            self.say(f"{what}: " + ", ".join(sorted(line)))

        steps = max((len(self.grid(peer)) for peer in self.peers), default=0)
        for number in range(1, args.repeat + 1):
            for step in range(steps):
                for threads in args.threads:
                    everyone(f"pass {number}, {threads} thread(s): QPS (recall)", self.batch,
                             step, threads)
                if args.single:
                    everyone(f"pass {number}, one by one: p50 us", self.single, step)
        self.each(0, lambda peer: peer.result.update(after_search=peer.ask("memory")))

    def results(self):
        args = self.args
        libraries = {}
        for peer in self.peers:
            result = libraries[peer.label] = peer.result
            result["angular"] = LIBRARIES[peer.name].angular
            result["search"] = list(result["search"].values())
            result["single"] = [summarise_single(ef, np.array(passes) / 1000)
                                for ef, passes in result["single"].items()]
        described = self.machine | {"load_after": os.getloadavg()[0]}
        return {
            "data": {"file": args.data.name, "queries": args.queries,
                     **dataclasses.asdict(self.shape)},
            "settings": {name: getattr(args, name) for name in (
                "M", "ef_construction", "k", "efs", "threads", "build_threads", "repeat",
                "build_repeat", "min_seconds")},
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": described, "skipped": self.skipped, "libraries": libraries,
        }

    def run(self):
        self.machine = machine.describe()
        try:
            with tempfile.TemporaryDirectory() as folder:
                self.start(self.args.libraries, self.args.also, self.args.modes)
                if self.peers:
                    self.load(folder)
                    self.build()
                    self.search()
        finally:
            self.close()
        return self.results() if self.peers else None


def summarise_single(ef, us):
    """us: passes x queries.  'plain' pools all calls; 'min' takes each query's fastest pass."""
    def points(values):
        p50, p99, p999 = np.percentile(values, [50, 99, 99.9])
        return {"mean": values.mean(), "p50": p50, "p99": p99, "p99.9": p999, "max": values.max()}

    return {"ef": ef, "passes": len(us), "best_pass_mean": us.mean(axis=1).min(),
            "plain": points(us), "min": points(us.min(axis=0))}


def numbers(text):
    return [int(word) for word in text.split(",")]


def named_grid(text):
    name, equals, values = text.rpartition("=")     # vecidx[M=8]=10,20 is one too
    try:
        grid = [float(word) if "." in word else int(word) for word in values.split(",")]
    except ValueError:
        equals = ""
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: expected LIBRARY=NUMBER,NUMBER,...")
    return name, grid


def mode(text):
    try:
        peers.mode_arguments(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def some_libraries(text):
    try:
        return peers.known(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def also(text):
    label, _, python = text.partition("=")
    if not python:
        raise argparse.ArgumentTypeError(f"{text!r}: expected LABEL=PYTHON")
    return label, python


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FILE")
    parser.add_argument("--libraries", type=some_libraries, default=list(CORE),
                        help="comma-separated, or all; of: " + ", ".join(LIBRARIES)
                        + " (default: " + ",".join(CORE) + ")")
    parser.add_argument("--modes", type=mode, nargs="+", default=[], metavar="NAME=VALUE,...",
                        help="vecidx once more with these arguments of Index (search.NAME: of "
                        "search), each as a library of its own")
    parser.add_argument("--also", type=also, action="append", default=[], metavar="LABEL=PYTHON",
                        help="measure the vecidx of another interpreter too, e.g. the last release")
    parser.add_argument("--limit", type=int, metavar="N", help="first N rows; truth is recomputed")
    parser.add_argument("--queries", choices=("own", "ood"), default="own",
                        help="the file's, or ones made out of distribution (ood.py)")
    parser.add_argument("--n-queries", type=int, metavar="N", help="first N queries")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--M", type=int, default=16)
    parser.add_argument("--ef-construction", type=int, default=200)
    parser.add_argument("--efs", type=numbers,
                        default=[10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768])
    parser.add_argument("--ef", type=named_grid, action="append", default=[],
                        metavar="LIBRARY=N,N,...",
                        help="another grid of its sweep parameter for one library")
    parser.add_argument("--threads", type=numbers, default=[1, 2])
    parser.add_argument("--build-threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3, help="passes over the whole grid")
    parser.add_argument("--build-repeat", type=int, default=1)
    parser.add_argument("--min-seconds", type=float, default=0.5, help="least length of a pass")
    parser.add_argument("--no-single", dest="single", action="store_false",
                        help="leave out the queries one by one")
    parser.add_argument("--base", type=lambda text: text.split(","), default=report.BASES,
                        metavar="LABEL,...", help="what ratios are to: those of these that were "
                        "measured (default: " + ",".join(report.BASES) + ")")
    parser.add_argument("--out", type=Path, default=HERE / "results", metavar="DIR")
    parser.add_argument("--tag", metavar="WORD", help="at the end of the files' name, so that "
                        "runs of one data set stand side by side")
    args = parser.parse_args(argv)
    if not args.data.is_file():
        parser.error(f"--data: no file {args.data}")
    if min(args.efs) < args.k:
        parser.error(f"--efs: expected at least k = {args.k}, got {min(args.efs)}")
    labels = (args.libraries + [f"vecidx[{text}]" for text in args.modes]
              + [label for label, _ in args.also])
    if len(set(labels)) < len(labels):
        parser.error(f"labels must differ, got {labels}")
    args.ef = dict(args.ef)
    if stray := sorted(set(args.ef) - set(labels)):
        parser.error(f"--ef: {stray} not measured; expected some of {labels}")
    return args


def main(argv=None):
    args = parse(argv)
    comparison = Comparison(args)
    results = comparison.run()
    if results is None:
        print("compare.py: no library left to measure", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    name = (args.data.stem + (f"-first-{args.limit}" if args.limit else "")
            + ("-ood" if args.queries == "ood" else "") + (f"-{args.tag}" if args.tag else ""))
    path = args.out / f"{name}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    report.write(path, args.base)
    print(path.with_suffix(".md").read_text())
    return 1 if comparison.broken() else 0


if __name__ == "__main__":
    sys.exit(main())
