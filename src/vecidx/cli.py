"""The command line: vecidx demo | build | convert | search | info | verify | bench | plan.

Results go to stdout (one JSON object with --json), progress and errors to
stderr.  An error is one line and exit code 2; Ctrl-C is exit code 130.
"""

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

import vecidx
from vecidx import convert, demo
from vecidx import plan as planning
from vecidx._machine import human_bytes
from vecidx.readers import SUFFIXES, ReaderError, open_vectors

HELD_OUT = 1000        # rows that bench keeps back as queries where it is given none
BENCH_EFS = "10,20,40,80,160,320"
BENCH_ROUNDS = 3       # each timing is the best of so many


def main(argv=None):
    """Run one command; the exit code."""
    try:
        args = _parser().parse_args(argv)
        args.command(args)
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        print("vecidx: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # `vecidx search ... | head`: whoever read us has enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError as err:
        return _fail(f"out of memory: {err}" if str(err) else "out of memory")
    except OSError as err:
        where = f"{os.fsdecode(err.filename)}: " if err.filename is not None else ""
        return _fail(f"{where}{err.strerror or err}")
    except KeyError as err:
        return _fail(err.args[0] if err.args else "unknown key")
    except (ValueError, TypeError, vecidx.VecidxError) as err:
        return _fail(err)


def _fail(message):
    line = " ".join(str(message).split())
    print(f"vecidx: error: {line}", file=sys.stderr)
    return 2


# ---- the commands --------------------------------------------------------------

def demo_command(args):
    with _Progress(args) as progress:
        report = demo.run(demo.find_sample(args.data), query=args.query, k=args.k,
                          threads=args.threads, progress=progress.part(0))
    _print(args, report, lambda: demo.show(report, args.query))


def build_command(args):
    with open_vectors(args.data, args.key) as file:
        metric = args.metric or file.metric or "l2"
        index = _new_index(args, file.dim, metric, len(file))
        seconds = _fill(args, index, file, len(file))
    index.save(args.output)
    report = {"index": args.output, "rows": len(index), "dim": index.dim, "metric": metric,
              "build_seconds": seconds, "rows_per_second": len(index) / max(seconds, 1e-9),
              "file_bytes": os.stat(args.output).st_size,
              "memory_bytes": index.memory()["total"], "simd": vecidx.simd_level()}
    _print(args, report, lambda: (
        f"{args.output}: {len(index):,} rows x {index.dim}, {metric}, built in {seconds:.2f} s "
        f"({report['rows_per_second']:,.0f} rows/s), {human_bytes(report['file_bytes'])}"))


def convert_command(args):
    start = time.perf_counter()
    index, report = convert.convert(args.file, metric=args.metric, M=args.M,
                                    ef_construction=args.ef_construction,
                                    num_threads=args.threads)
    index.save(args.output)
    report = {"index": args.output, **report, "rows": len(index), "dim": index.dim,
              "metric": index.metric, "seconds": time.perf_counter() - start,
              "file_bytes": os.stat(args.output).st_size}
    _print(args, report, lambda: (
        f"{args.output}: {len(index):,} rows x {index.dim}, {index.metric}, of a file of "
        f"{report['kind']}" + (f", without {report['deleted']:,} that are marked as deleted"
                               if report["deleted"] else "")))


def search_command(args):
    index = vecidx.load(args.index)
    is_bits = str(index.dtype) == "bits"
    columns = index.get([]).shape[1]
    with open_vectors(args.queries, args.key) as file:
        if file.dim != columns:
            raise ReaderError(f"{args.queries}: {file.dim} columns; {args.index} "
                              f"has dim {index.dim}" + (f", {columns} bytes of packed bits"
                                                        if is_bits else ""))
        queries = file.read(0, args.first, packed=is_bits)
    start = time.perf_counter()
    ids, distances = index.search(queries, k=args.k, ef=args.ef, exact=args.exact,
                                  num_threads=args.threads)
    seconds = time.perf_counter() - start
    report = {"queries": len(ids), "k": args.k, "seconds": seconds}
    if args.output:
        # An open file, so that NumPy adds no suffix of its own.
        with open(args.output, "wb") as out:
            np.savez(out, ids=_without_objects(ids), distances=distances)
        report["output"] = args.output
        _print(args, report, lambda: f"{args.output}: ids and distances of {len(ids):,} queries, "
                                     f"{seconds:.3f} s")
        return
    report["ids"] = ids.tolist()
    report["distances"] = [[float(d) if np.isfinite(d) else None for d in row]
                           for row in distances]
    _print(args, report, lambda: "\n".join(
        f"{row}: " + ("  ".join(f"{i} ({d:.4g})" for i, d in zip(ids[row], distances[row])
                                if np.isfinite(d)) or "nothing")
        for row in range(len(ids))))


def _without_objects(ids):
    """Strings as an array that loads without pickle, "" for a missing neighbour."""
    return ids if ids.dtype != object else np.array(
        ["" if one is None else one for one in ids.ravel().tolist()], str).reshape(ids.shape)


def info_command(args):
    if Path(args.file).suffix.lower() in SUFFIXES:
        with open_vectors(args.file, args.key) as file:
            report = {"file": args.file, "kind": "vectors", "rows": len(file), "dim": file.dim,
                      "dtype": str(file.dtype), "metric": file.metric,
                      "queries": None if file.queries is None else len(file.queries),
                      "truth": None if file.truth is None else file.truth.shape[1]}
    else:
        if args.key is not None:
            raise ReaderError(f"{args.file}: --key is for vector files, and its suffix is not "
                              f"one of theirs ({' '.join(SUFFIXES)})")
        report = {"file": args.file, "kind": "index", **vecidx.inspect(args.file)}
    _print(args, report, lambda: "\n".join(_info_lines(report)))


def verify_command(args):
    # All checksums are taken by reading; what else is checked is mapped, so that an
    # index larger than memory can be verified.
    with vecidx.load(args.index, mmap=True, verify=True) as index:
        rows, found = len(index), index.check()
    report = {"index": args.index, "ok": found["unreachable"] == 0, "rows": rows, **found}
    if not report["ok"]:
        raise vecidx.VecidxError(f"{args.index}: {found['unreachable']} of {rows} rows "
                                 "cannot be reached by any search")
    _print(args, report, lambda: f"{args.index}: sound; {rows:,} rows, every one reachable")


def bench_command(args):
    efs = _int_list(args.ef, "--ef")
    with open_vectors(args.data, args.key) as file:
        queries, truth, n_rows = file.queries, file.truth, len(file)
        if args.queries:
            with open_vectors(args.queries) as other:
                if other.dim != file.dim:
                    raise ReaderError(f"{args.queries}: {other.dim} columns; {args.data} "
                                      f"has {file.dim}")
                queries, truth = other.read(), None
        elif queries is None:
            held = min(HELD_OUT, max(1, n_rows // 10))
            n_rows -= held
            queries, truth = file.read(n_rows, n_rows + held), None
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if n_rows == 0 or len(queries) == 0:
            raise ReaderError(f"{args.data}: too few rows to hold some out as queries; "
                              "give --queries")
        metric = args.metric or file.metric or "l2"
        if metric != file.metric:
            truth = None                     # the file's truth is of its own metric
        index = _new_index(args, file.dim, metric, n_rows)
        build_s = _fill(args, index, file, n_rows)
    k = min(args.k, n_rows)
    limits = _true_distances(index, queries, truth, k, args.threads)
    rows = [_measure(index, queries, limits, k, max(ef, k), args.threads)
            for ef in sorted({max(ef, k) for ef in efs})]
    report = {"data": args.data, "rows": n_rows, "dim": index.dim, "metric": metric,
              "queries": len(queries), "k": k, "build_seconds": build_s,
              "memory_bytes": index.memory()["total"], "simd": vecidx.simd_level(),
              "threads": args.threads or vecidx.get_num_threads(), "ef": rows}
    _print(args, report, lambda: "\n".join(_bench_lines(report)))


def _measure(index, queries, limits, k, ef, threads):
    index.search(queries[:100], k=k, ef=ef, num_threads=threads)        # warm
    seconds = []
    for _ in range(BENCH_ROUNDS):
        start = time.perf_counter()
        ids, distances = index.search(queries, k=k, ef=ef, num_threads=threads)
        seconds.append(time.perf_counter() - start)
    # By distance and not by id: of rows equally far any is right.
    right = (ids >= 0) & (distances <= limits[:, None])
    return {"ef": ef, "recall": float(right.mean()), "qps": len(queries) / min(seconds),
            "microseconds": 1e6 * min(seconds) / len(queries)}


def _true_distances(index, queries, truth, k, threads):
    """The distance of each query's true k-th neighbour, and a little for rounding."""
    if truth is not None and truth.shape[1] >= k:
        rows = index.get(truth[:, k - 1]).astype(np.float64)
        wide = queries.astype(np.float64)
        if index.metric == "l2":
            limits = ((rows - wide) ** 2).sum(axis=1)
        else:
            dots = (rows * wide).sum(axis=1)
            if index.metric == "cosine":
                dots /= np.linalg.norm(wide, axis=1) * np.linalg.norm(rows, axis=1)
            limits = 1 - dots
    else:
        limits = index.search(queries, k=k, exact=True, num_threads=threads)[1][:, k - 1]
        limits = limits.astype(np.float64)
    return limits + 1e-5 * np.abs(limits) + 1e-6


def _bench_lines(report):
    yield (f"{report['rows']:,} rows x {report['dim']}, {report['metric']}, built in "
           f"{report['build_seconds']:.2f} s, {human_bytes(report['memory_bytes'])}, "
           f"{report['simd']}, threads: {report['threads']}")
    yield f"{'ef':>6} {'recall@' + str(report['k']):>10} {'queries/s':>12} {'us/query':>10}"
    for row in report["ef"]:
        yield (f"{row['ef']:>6} {row['recall']:>10.4f} {row['qps']:>12,.0f} "
               f"{row['microseconds']:>10.1f}")


def plan_command(args):
    found = planning.plan(_count(args.rows, "--rows"), args.dim, qps=args.qps, p99_ms=args.p99,
                          dtype=args.dtype, mode=args.quantization, metric=args.metric,
                          ef=args.ef, cold=not args.all_in_memory, min_replicas=args.replicas,
                          machine_gb=args.machine_gb, machine_cores=args.machine_cores)
    _print(args, dataclasses.asdict(found), lambda: "\n".join(planning.lines(found)))


# ---- parts of commands ---------------------------------------------------------

def _new_index(args, dim, metric, capacity):
    return vecidx.Index(dim, metric=metric, M=args.M, ef_construction=args.ef_construction,
                        seed=args.seed, num_threads=args.threads, capacity=capacity)


def _fill(args, index, file, n_rows):
    """Add the file's first n_rows; seconds spent adding, not reading."""
    seconds = 0.0
    with _Progress(args, n_rows) as progress:
        for chunk in file.chunks():
            done = len(index)
            chunk = chunk[:n_rows - done]
            if len(chunk) == 0:
                break
            start = time.perf_counter()
            try:
                index.add(chunk, progress=progress.part(done))
            except ValueError as err:
                # The row of a message counts from the chunk's first.
                raise ReaderError(f"{file.path}: {err}" + (
                    f" (counted from row {done})" if done else "")) from err
            seconds += time.perf_counter() - start
    return seconds


class _Progress:
    """A tqdm bar over all chunks on a terminal's stderr; nothing without tqdm."""

    def __init__(self, args, total=None):
        self._bar = None
        self._wanted = not args.quiet and sys.stderr.isatty()
        self._total = total

    def part(self, offset):
        """The progress argument of an add that starts after `offset` rows."""
        if not self._wanted:
            return False

        def report(done, total):
            if self._bar is None:
                try:
                    from tqdm import tqdm
                except ImportError:
                    self._wanted = False
                    return
                self._bar = tqdm(total=self._total or total, unit="row", unit_scale=True,
                                 file=sys.stderr, leave=False)
            self._bar.update(offset + done - self._bar.n)

        return report

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self._bar is not None:
            self._bar.close()


def _print(args, report, text):
    print(json.dumps(report, allow_nan=False) if args.json else text())


def _info_lines(report):
    for key, value in report.items():
        if key == "sections":
            yield "sections:"
            for name, section in value.items():
                yield (f"  {name + ':':<16} {human_bytes(section['bytes']):>10} at byte "
                       f"{section['offset']:,}")
        elif value is not None:
            shown = value
            if key.endswith("_bytes"):
                shown = human_bytes(value)
            elif isinstance(value, int) and key != "seed":
                shown = f"{value:,}"
            yield f"{key + ':':<18} {shown}"


def _count(text, name):
    """100M, 1.5B, 1e9 or 20000 as a number."""
    try:
        scale = {"K": 1e3, "M": 1e6, "B": 1e9}.get(text[-1:].upper())
        number = float(text[:-1]) * scale if scale else float(text)
        if 1 <= number <= 1e15:
            return round(number)
    except ValueError:
        pass
    raise ValueError(f"{name}: expected a number such as 20000, 100M or 1.5B, got {text!r}")


def _int_list(text, name):
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise ValueError(f"{name}: expected numbers >= 1 with commas between, got {text!r}")
    return numbers


# ---- the words -----------------------------------------------------------------

class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"vecidx: error: {message} (see {self.prog} --help)\n")


def _positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {number}")
    return number


_positive.__name__ = "whole number"         # argparse names it in its messages


def _parser():
    parser = _Parser(
        prog="vecidx", description="Nearest-neighbour search over vectors in files.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  vecidx demo                                   real data, a first look
  vecidx build base.npy -o base.vidx --metric cosine
  vecidx search base.vidx queries.npy -k 5
  vecidx verify base.vidx
  vecidx bench sift-128-euclidean.hdf5 --ef 20,40,80 --json

vector files: .npy .npz .fvecs .bvecs .ivecs, .hdf5 (needs h5py), .parquet (needs pyarrow)""")
    parser.add_argument("--version", action="version", version=f"vecidx {vecidx.__version__}")
    commands = parser.add_subparsers(required=True, metavar="command", parser_class=_Parser)

    def command(name, function, help, example):
        sub = commands.add_parser(
            name, help=help, description=help[0].upper() + help[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog="example:\n  " + example)
        sub.set_defaults(command=function)
        sub.add_argument("--json", action="store_true", help="print one JSON object")
        return sub

    def thread_option(sub):
        sub.add_argument("--threads", type=_positive, metavar="N",
                         help="threads to use (default: the CPUs this process may run on)")

    def quiet_option(sub):
        sub.add_argument("--quiet", action="store_true", help="no progress bar")

    def build_options(sub):
        sub.add_argument("--metric", choices=("l2", "ip", "cosine"),
                         help="default: what the file says, else l2")
        sub.add_argument("--M", type=int, default=16, help="links a row keeps (default 16)")
        sub.add_argument("--ef-construction", type=int, default=200, metavar="N",
                         help="size of the candidate list when a row is linked (default 200)")
        sub.add_argument("--seed", type=int, default=0, help="of the random layers (default 0)")
        thread_option(sub)
        quiet_option(sub)

    key_help = "array, dataset or column, where the file has several"

    sub = command("demo", demo_command, "build an index over dictionary senses and search it",
                  'vecidx demo --query "musical instrument"')
    sub.add_argument("--data", help="the sample file (default: the checkout's)")
    sub.add_argument("--query", metavar="TEXT",
                     help="show the neighbours of the stored sense that fits TEXT best")
    sub.add_argument("-k", type=_positive, default=5, help="neighbours to show (default 5)")
    thread_option(sub)
    quiet_option(sub)

    sub = command("build", build_command, "build an index from a vector file",
                  "vecidx build base.fvecs -o base.vidx --M 24")
    sub.add_argument("data", help="vector file; row numbers become ids")
    sub.add_argument("-o", "--output", required=True, help="index file to write")
    sub.add_argument("--key", help=key_help)
    build_options(sub)

    sub = command("convert", convert_command,
                  "make an index file of one that hnswlib, or vecidx.compat, wrote",
                  "vecidx convert old.bin -o new.vidx --metric cosine")
    sub.add_argument("file", help="file of hnswlib.Index, of hnswlib.BFIndex, or of vecidx.compat")
    sub.add_argument("-o", "--output", required=True, help="index file to write")
    sub.add_argument("--metric", choices=("l2", "ip", "cosine"),
                     help="a file of hnswlib does not say it; one of vecidx.compat does")
    sub.add_argument("--M", type=int, help="links a row keeps (default: the file's)")
    sub.add_argument("--ef-construction", type=int, metavar="N",
                     help="size of the candidate list when a row is linked (default: the file's)")
    thread_option(sub)

    sub = command("search", search_command, "find the nearest rows to each vector of a file",
                  "vecidx search base.vidx queries.npy -k 5 --first 3")
    sub.add_argument("index", help="index file")
    sub.add_argument("queries", help="vector file")
    sub.add_argument("--key", help=key_help)
    sub.add_argument("-k", type=_positive, default=10, help="neighbours a query (default 10)")
    sub.add_argument("--ef", type=_positive, help="candidates kept (default 64)")
    sub.add_argument("--exact", action="store_true", help="compare with every row")
    sub.add_argument("--first", type=_positive, metavar="N", help="only the first N queries")
    sub.add_argument("-o", "--output", help="write ids and distances to this .npz")
    thread_option(sub)

    sub = command("info", info_command, "say what an index or vector file holds",
                  "vecidx info base.vidx")
    sub.add_argument("file")
    sub.add_argument("--key", help=key_help)

    sub = command("verify", verify_command, "check every byte and every link of an index file",
                  "vecidx verify base.vidx")
    sub.add_argument("index")

    sub = command("bench", bench_command,
                  "measure recall against exact truth, and speed, over several ef",
                  "vecidx bench sift-128-euclidean.hdf5 --ef 20,40,80")
    sub.add_argument("data", help="vector file")
    sub.add_argument("--key", help=key_help)
    sub.add_argument("--queries", help="vector file of queries (default: the HDF5 file's, "
                                       "else rows held out of the index)")
    sub.add_argument("-k", type=_positive, default=10, help="neighbours a query (default 10)")
    sub.add_argument("--ef", default=BENCH_EFS, metavar="N,N,...",
                     help=f"(default {BENCH_EFS})")
    build_options(sub)

    sub = command("plan", plan_command,
                  "say how many shards, replicas and machines a sharded index needs",
                  "vecidx plan --rows 100M --dim 1536 --qps 500 --p99 50")
    sub.add_argument("--rows", required=True, help="vectors, such as 20000, 100M or 1.5B")
    sub.add_argument("--dim", type=_positive, required=True)
    sub.add_argument("--qps", type=float, default=100, help="queries a second (default 100)")
    sub.add_argument("--p99", type=float, default=50, metavar="MS",
                     help="99th percentile to keep, in ms (default 50)")
    sub.add_argument("--quantization", choices=planning.MODES, default="sq8",
                     help="what the graph is walked on (default sq8)")
    sub.add_argument("--dtype", choices=tuple(planning.DTYPES), default="float32")
    sub.add_argument("--metric", choices=("l2", "ip", "cosine"), default="cosine")
    sub.add_argument("--ef", type=_positive, default=64)
    sub.add_argument("--replicas", type=_positive, default=2, help="at least (default 2)")
    sub.add_argument("--all-in-memory", action="store_true",
                     help="keep full vectors in memory too, not on local disk")
    sub.add_argument("--machine-gb", type=float, default=128, help="memory of one (default 128)")
    sub.add_argument("--machine-cores", type=_positive, default=16, help="(default 16)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
