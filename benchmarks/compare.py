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
import subprocess
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
import report  # noqa: E402
from libraries import LIBRARIES  # noqa: E402


class Lost(Exception):
    """A library failed; the others go on without it."""


class Peer:
    """The parent's end of one worker."""

    def __init__(self, label, name, python):
        self.label, self.name = label, name
        self.process = subprocess.Popen([python, HERE / "worker.py", name], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.result = {"library": name, "build": [], "search": {}, "single": {}}

    def ask(self, do, **arguments):
        try:
            self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass        # it may have left a last word
        line = self.process.stdout.readline()
        if not line:
            raise Lost(f"its process ended (status {self.process.wait()})")
        answer = json.loads(line)
        if answer.get("missing"):
            raise Lost("not installed")
        if "error" in answer:
            raise Lost(answer["error"])
        return answer

    def close(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Comparison:
    def __init__(self, args):
        self.args = args
        self.peers = []
        self.skipped = {}

    def say(self, text):
        print(text, file=sys.stderr, flush=True)

    def each(self, turn, work):
        """work(peer) for every peer still there, beginning with another one every turn."""
        n = len(self.peers)
        for peer in [self.peers[(turn + i) % n] for i in range(n)]:
            try:
                work(peer)
            except Lost as lost:
                self.say(f"{peer.label}: left out: {lost}")
                self.skipped[peer.label] = str(lost)
                self.peers.remove(peer)
                peer.close()

    def start(self):
        args = self.args
        for name in args.libraries:
            self.peers.append(Peer(name, name, sys.executable))
        for label, python in args.also:
            self.peers.append(Peer(label, "vecidx", python))
        self.each(0, lambda peer: peer.result.update(peer.ask("about")))

    def load(self, folder):
        args = self.args
        self.shape = dataset.read_shape(args.data, args.limit, args.queries)
        self.say(f"{args.data.name}: {self.shape}")
        ids, bound = dataset.true_neighbours(args.data, self.shape, args.k)
        truth = Path(folder, "truth.npz")
        np.savez(truth, ids=ids, bound=bound)
        self.each(0, lambda peer: peer.ask(
            "load", path=str(args.data), truth=str(truth), shape=dataclasses.asdict(self.shape),
            k=args.k, M=args.M, ef_construction=args.ef_construction))

    def build(self):
        def work(peer):
            took = peer.ask("build", num_threads=self.args.build_threads)
            peer.result["simd"] = took.pop("simd")
            peer.result["build"].append(took)
            self.say(f"build {peer.label}: {took['wall_s']:.1f} s wall, {took['cpu_s']:.1f} s CPU, "
                     f"{took['resident']['rss'] / 1e6:.1f} MB")

        for turn in range(self.args.build_repeat):
            self.each(turn, work)

    def search(self):
        args = self.args

        def batch(peer):
            kept = peer.result["search"].setdefault(
                f"{threads}/{ef}", {"threads": threads, "ef": ef, "passes": []})
            took = peer.ask("search", ef=ef, num_threads=threads, min_seconds=args.min_seconds,
                            score="recall" not in kept)
            for key in ("recall", "recall_by_id"):
                if key in took:
                    kept[key] = took.pop(key)
            kept["passes"].append(took)
            line.append(f"{peer.label} {took['qps']:,.0f} ({kept['recall']:.4f})")

        def single(peer):
            took = peer.ask("single", ef=ef)["ns"]
            peer.result["single"].setdefault(ef, []).append(took)
            line.append(f"{peer.label} {np.median(took) / 1000:.0f}")

        turn = 0
        for number in range(args.repeat):
            for ef in args.efs:
                for threads in args.threads:
                    line = []
                    self.each(turn, batch)
                    turn += 1
                    self.say(f"pass {number + 1}, {threads} thread(s), ef {ef}: QPS (recall): "
                             + ", ".join(sorted(line)))
                if args.single:
                    line = []
                    self.each(turn, single)
                    turn += 1
                    self.say(f"pass {number + 1}, one by one, ef {ef}: p50 us: "
                             + ", ".join(sorted(line)))
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
            "data": {"file": args.data.name, **dataclasses.asdict(self.shape)},
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
                self.start()
                if self.peers:
                    self.load(folder)
                    self.build()
                    self.search()
        finally:
            for peer in self.peers:
                peer.close()
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


def also(text):
    label, _, python = text.partition("=")
    if not python:
        raise argparse.ArgumentTypeError(f"{text!r}: expected LABEL=PYTHON")
    return label, python


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FILE")
    parser.add_argument("--libraries", type=lambda text: text.split(","), default=list(LIBRARIES),
                        help="comma-separated, of: " + ", ".join(LIBRARIES))
    parser.add_argument("--also", type=also, action="append", default=[], metavar="LABEL=PYTHON",
                        help="measure the vecidx of another interpreter too, e.g. the last release")
    parser.add_argument("--limit", type=int, metavar="N", help="first N rows; truth is recomputed")
    parser.add_argument("--queries", type=int, metavar="N", help="first N queries")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--M", type=int, default=16)
    parser.add_argument("--ef-construction", type=int, default=200)
    parser.add_argument("--efs", type=numbers,
                        default=[10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768])
    parser.add_argument("--threads", type=numbers, default=[1, 2])
    parser.add_argument("--build-threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3, help="passes over the whole grid")
    parser.add_argument("--build-repeat", type=int, default=1)
    parser.add_argument("--min-seconds", type=float, default=0.5, help="least length of a pass")
    parser.add_argument("--no-single", dest="single", action="store_false",
                        help="leave out the queries one by one")
    parser.add_argument("--base", default="hnswlib", help="what ratios are to")
    parser.add_argument("--out", type=Path, default=HERE / "results", metavar="DIR")
    args = parser.parse_args(argv)
    unknown = set(args.libraries) - set(LIBRARIES)
    if unknown:
        parser.error(f"--libraries: unknown {sorted(unknown)}, expected some of {list(LIBRARIES)}")
    if not args.data.is_file():
        parser.error(f"--data: no file {args.data}")
    if min(args.efs) < args.k:
        parser.error(f"--efs: expected at least k = {args.k}, got {min(args.efs)}")
    labels = args.libraries + [label for label, _ in args.also]
    if len(set(labels)) < len(labels):
        parser.error(f"labels must differ, got {labels}")
    return args


def main(argv=None):
    args = parse(argv)
    comparison = Comparison(args)
    results = comparison.run()
    if results is None:
        print("compare.py: no library left to measure", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    name = args.data.stem + (f"-first-{args.limit}" if args.limit else "")
    path = args.out / f"{name}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    report.write(path, args.base)
    print(path.with_suffix(".md").read_text())
    broken = [label for label, why in comparison.skipped.items() if why != "not installed"]
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
