"""Packed bits under the Hamming distance: speed at equal recall, beside faiss.

    python benchmarks/binary.py --data FILE.hdf5 --indexes FOLDER [--build-only] [--bits 1024]

The bits are those of a random projection: row less the mean of all rows, times a Gaussian matrix
(seed 0), the sign of each value.  So rows that were near to one another share most of their bits,
and bits are correlated as they are in practice.  `--bits` more than the file's dimensions
projects upwards.

For each recall the least ef is looked for, untimed, of each library; then they are timed in
turns.  A neighbour counts as right if it is no farther than the true k-th, for both, since many
rows are equally far.  One thread, all queries in one call; QPS is the best of `--repeat` rounds.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
from dataset import read_float32, read_shape

import vecidx

M, EF_CONSTRUCTION, K = 16, 200, 10
MOST_EF = 2_000


def sign_bits(rows, queries, n_bits):
    """Both packed, by one projection."""
    mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    plane = np.random.default_rng(0).standard_normal((rows.shape[1], n_bits), dtype=np.float32)

    def project(vectors):
        packed = np.empty((len(vectors), n_bits // 8), np.uint8)
        for begin in range(0, len(vectors), 16_384):
            part = vectors[begin:begin + 16_384]
            packed[begin:begin + 16_384] = np.packbits((part - mean) @ plane > 0, axis=1)
        return packed

    return project(rows), project(queries)


def our_search(folder, rows, n_bits):
    path = folder / f"vecidx-{n_bits}.vidx"
    if not path.exists():
        begin = time.perf_counter()
        index = vecidx.Index(n_bits, "hamming", M=M, ef_construction=EF_CONSTRUCTION)
        index.add(rows)
        print(f"built vecidx in {time.perf_counter() - begin:.1f} s")
        index.save(path)
    index = vecidx.load(path, num_threads=1)
    return lambda queries, ef: index.search(queries, K, ef=ef)[1], index


def faiss_search(folder, rows, n_bits):
    import faiss
    path = str(folder / f"faiss-{n_bits}.bin")
    if not os.path.exists(path):
        begin = time.perf_counter()
        index = faiss.IndexBinaryHNSW(n_bits, M)
        index.hnsw.efConstruction = EF_CONSTRUCTION
        index.add(rows)
        print(f"built faiss in {time.perf_counter() - begin:.1f} s")
        faiss.write_index_binary(index, path)
    index = faiss.read_index_binary(path)
    faiss.omp_set_num_threads(1)

    def search(queries, ef):
        index.hnsw.efSearch = ef
        return index.search(queries, K)[0]

    return search


def least_ef(search, queries, kth, recall):
    """(ef, its recall): by halving; (None, the best) where MOST_EF does not do."""
    def measured(ef):
        return float((search(queries, ef) <= kth).mean())

    low, high = K, K
    while measured(high) < recall:
        if high >= MOST_EF:
            return None, measured(MOST_EF)
        low, high = high + 1, min(2 * high, MOST_EF)
    while low < high:
        middle = (low + high) // 2
        if measured(middle) < recall:
            low = middle + 1
        else:
            high = middle
    return high, measured(high)


def best_times(calls, repeat):
    """Seconds of each call, the best of some rounds, in turns."""
    best = [float("inf")] * len(calls)
    for _ in range(repeat):
        for i, call in enumerate(calls):
            begin = time.perf_counter()
            call()
            best[i] = min(best[i], time.perf_counter() - begin)
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--indexes", type=Path, required=True)
    parser.add_argument("--build-only", action="store_true")
    parser.add_argument("--bits", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--recalls", default="0.9,0.95,0.99")
    args = parser.parse_args()
    args.indexes.mkdir(parents=True, exist_ok=True)
    shape = read_shape(args.data, n_queries=args.queries)
    rows, queries = sign_bits(read_float32(args.data, "train", shape.n_rows),
                              read_float32(args.data, "test", shape.n_queries), args.bits)
    ours, index = our_search(args.indexes, rows, args.bits)
    theirs = faiss_search(args.indexes, rows, args.bits)
    if args.build_only:
        return
    kth = index.search(queries, K, exact=True, num_threads=2)[1][:, -1:]
    print(f"# {Path(args.data).name}: {len(rows):,} x {args.bits} bits, {len(queries):,} queries, "
          f"k = {K}, 1 thread, {vecidx.simd_level()}\n")
    print("| recall@10 | ef: vecidx | faiss | recall: vecidx | faiss | QPS: vecidx | faiss "
          "| ratio |\n|---|---|---|---|---|---|---|---|")
    for recall in map(float, args.recalls.split(",")):
        found = [least_ef(search, queries, kth, recall) for search in (ours, theirs)]
        if None in (found[0][0], found[1][0]):
            print(f"| {recall} | not reached at ef {MOST_EF}: {found} |")
            continue
        times = best_times([lambda s=search, e=ef: s(queries, e)
                            for search, (ef, _) in zip((ours, theirs), found, strict=True)],
                           args.repeat)
        qps = [len(queries) / seconds for seconds in times]
        print(f"| {recall} | {found[0][0]} | {found[1][0]} | {found[0][1]:.4f} | "
              f"{found[1][1]:.4f} | {qps[0]:,.0f} | {qps[1]:,.0f} | {qps[0] / qps[1]:.2f} x |",
              flush=True)


if __name__ == "__main__":
    main()
