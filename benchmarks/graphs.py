#!/usr/bin/env python3
"""Are our links as good as others'?  Recall by distances computed, one search over each graph.

    python benchmarks/graphs.py --data FILE [--rows 30000]

The same rows are linked by vecidx (walking by vectors, and by codes), hnswlib and SymphonyQG, with
M = 16 (degree 32) and ef_construction = 200.  Each saves its index, the links of layer 0 are read
from the file, and one plain best-first search in NumPy walks them all, by float32 distances, from
the row nearest to the query among 64 drawn at random, the same for all.  So neither kernels nor
codes nor upper layers count, only which row is linked to which.
"""

import argparse
import heapq
import struct
import tempfile
import time
from pathlib import Path

import dataset
import h5py
import numpy as np

import vecidx

M, EF_CONSTRUCTION, K, STARTS = 16, 200, 10, 64
NONE = np.uint32(0x7FFFFFFF)


def links_of_vecidx(path, n):
    """docs/FORMAT.md: 2M uint32 at the head of each row of section 2, a slot in 31 bits."""
    section = vecidx.inspect(path)["sections"]["links"]
    rows = np.memmap(path, np.uint8, "r", section["offset"], (n, section["bytes"] // n))
    return np.ascontiguousarray(rows[:, :8 * M]).view(np.uint32) & NONE


def links_of_hnswlib(path, n):
    head = struct.Struct("<6QiI3QdQ")
    row_bytes = head.unpack(Path(path).read_bytes()[:head.size])[3]
    rows = np.memmap(path, np.uint8, "r", head.size, (n, row_bytes))
    count = np.ascontiguousarray(rows[:, :2]).view(np.uint16)
    links = np.ascontiguousarray(rows[:, 4:4 + 8 * M]).view(np.uint32).copy()
    links[np.arange(2 * M) >= count] = NONE
    labels = np.ascontiguousarray(rows[:, -8:]).view(np.uint64)[:, 0].astype(np.int64)
    by_label = np.empty_like(links)
    by_label[labels] = np.where(links == NONE, NONE, labels[np.minimum(links, n - 1)])
    return by_label


def links_of_symphonyqg(path, n, dim):
    """As rabitqlib 0.7 writes them: a vector, codes of its neighbours, factors, then 32 ids."""
    rows = np.memmap(path, np.uint8, "r", 38, (n, 8 * dim + 384))
    links = np.ascontiguousarray(rows[:, -128:]).view(np.uint32)
    if links.max() >= n:
        raise SystemExit(f"{path}: not laid out as rabitqlib 0.7 does, for {dim} dimensions")
    return links


def graphs(rows, folder):
    """Yield (name, links, CPU seconds of the build)."""
    n, dim = rows.shape

    def timed(build, *args, **how):
        begin = time.process_time()
        build(*args, **how)
        return time.process_time() - begin

    for name, quantization in (("vecidx, by vectors", None), ("vecidx, by codes", "auto")):
        index = vecidx.Index(dim, M=M, ef_construction=EF_CONSTRUCTION, quantization=quantization)
        cpu = timed(index.add, rows)
        index.save(folder / "x.vidx")
        yield name, links_of_vecidx(folder / "x.vidx", n), cpu
    import hnswlib
    index = hnswlib.Index("l2", dim)
    index.init_index(n, M=M, ef_construction=EF_CONSTRUCTION)
    cpu = timed(index.add_items, rows, np.arange(n), num_threads=2)
    index.save_index(str(folder / "x.bin"))
    yield "hnswlib", links_of_hnswlib(folder / "x.bin", n), cpu
    import rabitqlib
    index = rabitqlib.SymqgIndex(dim, 2 * M, "l2")
    cpu = timed(index.build, rows, EF_CONSTRUCTION, 2)
    index.save(str(folder / "x.sqg"))
    yield "SymphonyQG", links_of_symphonyqg(folder / "x.sqg", n, dim), cpu


def search(rows, links, query, starts, ef):
    """The nearest rows found and how many distances that took, the first not counted."""
    first = starts[np.argmin(((rows[starts] - query) ** 2).sum(1))]
    seen = np.zeros(len(rows), bool)
    seen[first] = True
    near = float(((rows[first] - query) ** 2).sum())
    waiting, found, n_distances = [(near, first)], [(-near, first)], 0
    while waiting:
        distance, here = heapq.heappop(waiting)
        if len(found) == ef and distance > -found[0][0]:
            break
        fresh = links[here]
        fresh = fresh[fresh != NONE]
        fresh = fresh[~seen[fresh]]
        seen[fresh] = True
        n_distances += len(fresh)
        for d, slot in zip(((rows[fresh] - query) ** 2).sum(1).tolist(), fresh.tolist()):
            if len(found) < ef:
                heapq.heappush(found, (-d, slot))
            elif d < -found[0][0]:
                heapq.heapreplace(found, (-d, slot))
            else:
                continue
            heapq.heappush(waiting, (d, slot))
    return sorted((-d, slot) for d, slot in found)[:K], n_distances


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="an ann-benchmarks HDF5 file")
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--efs", type=int, nargs="+", default=[10, 20, 40, 80, 160])
    args = parser.parse_args()
    is_angular = dataset.read_shape(args.data).metric == "cosine"
    with h5py.File(args.data) as file:
        rows = file["train"][:args.rows].astype(np.float32)
        queries = file["test"][:args.queries].astype(np.float32)
    if is_angular:
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    square = (rows ** 2).sum(1)
    kth = [np.partition(square - 2 * rows @ q, K - 1)[K - 1] + q @ q for q in queries]
    starts = np.random.default_rng(0).choice(len(rows), STARTS, replace=False)
    print(f"{args.data.name}, the first {len(rows):,} rows, {len(queries)} queries\n")
    print("| graph | links a row | build CPU s |", *(f"ef {ef} |" for ef in args.efs))
    print("|---|---:|---:|" + "---:|" * len(args.efs))
    with tempfile.TemporaryDirectory() as folder:
        for name, links, cpu in graphs(rows, Path(folder)):
            cells = []
            for ef in args.efs:
                hits = total = 0
                for query, bound in zip(queries, kth):
                    found, n_distances = search(rows, links, query, starts, ef)
                    hits += sum(d <= bound + 1e-5 * abs(bound) + 1e-6 for d, _ in found)
                    total += n_distances
                cells.append(f"{hits / K / len(queries):.4f} at {total / len(queries):,.0f} |")
            degree = (links != NONE).sum(1).mean()
            print(f"| {name} | {degree:.1f} | {cpu:.1f} |", *cells, flush=True)


if __name__ == "__main__":
    main()
