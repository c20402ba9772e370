"""Searches under filters: recall and speed by share of rows allowed, beside hnswlib and faiss.

    python benchmarks/filters.py --data FILE.hdf5 --indexes FOLDER [--build-only] [--modes auto]

Kinds of filters, each with so many of the rows allowed:

    random       any rows
    clustered    the rows nearest to some of 200 random rows
    adversarial  for each query its own: the rows farthest from it

Indexes are built once and kept in FOLDER, so that timing can be a short run of its own.  One
thread; QPS is the best of `--repeat` passes over all queries, filters made before.
"""

import argparse
import importlib.util
import os
import time
from pathlib import Path

import numpy as np
from dataset import normalise, read_float32, read_shape

import vecidx

M, EF_CONSTRUCTION, K = 16, 200, 10
EFS = (10, 16, 32, 64, 128, 256, 512, 1024, 2048)


def best_qps(search, n_queries, repeat):
    best = float("inf")
    for _ in range(repeat):
        begin = time.perf_counter()
        search()
        best = min(best, time.perf_counter() - begin)
    return n_queries / best


class Truth:
    """All distances of all queries, and recall by distance."""

    def __init__(self, rows, queries, metric):
        self.metric = metric
        self.distances = np.empty((len(queries), len(rows)), np.float32)
        squares = np.einsum("ij,ij->i", rows, rows)
        for i, query in enumerate(queries):
            dots = rows @ query
            self.distances[i] = squares - 2 * dots + query @ query if metric == "l2" else 1 - dots

    def recall(self, ids, masks):
        right = wanted = 0
        for i, found in enumerate(ids):
            mask = masks if masks.ndim == 1 else masks[i]
            distances = self.distances[i]
            n = min(K, int(mask.sum()))
            kth = np.partition(distances[mask], n - 1)[n - 1]
            found = found[(found >= 0) & (found < len(mask))]
            found = found[mask[found]]
            right += min(n, int((distances[found] <= kth + 1e-5 * abs(kth) + 1e-6).sum()))
            wanted += n
        return right / wanted


def random_mask(rows, share, rng):
    mask = np.zeros(len(rows), bool)
    mask[rng.permutation(len(rows))[:max(1, round(share * len(rows)))]] = True
    return mask


def clustered_mask(rows, share, rng):
    """Whole cells of 200 random rows, and as much as is lacking of one more."""
    centres = rows[rng.permutation(len(rows))[:200]]
    nearest = np.empty(len(rows), np.int64)
    for begin in range(0, len(rows), 16_384):
        part = rows[begin:begin + 16_384]
        nearest[begin:begin + len(part)] = np.argmin(
            (centres ** 2).sum(1) - 2 * part @ centres.T, axis=1)
    left = max(1, round(share * len(rows)))
    mask = np.zeros(len(rows), bool)
    for cell in rng.permutation(200):
        members = np.flatnonzero(nearest == cell)
        by_distance = np.argsort(((rows[members] - centres[cell]) ** 2).sum(1))
        mask[members[by_distance[:left]]] = True
        left -= min(left, len(members))
    return mask


def far_masks(truth, share):
    n = truth.distances.shape[1]
    masks = np.zeros(truth.distances.shape, bool)
    for mask, row in zip(masks, truth.distances, strict=True):
        mask[np.argsort(row)[n - max(1, round(share * n)):]] = True
    return masks


def our_index(folder, shape, rows, mode):
    path = folder / f"vecidx-{mode}.vidx"
    if not path.exists():
        index = vecidx.Index(shape.dim, shape.metric, M=M, ef_construction=EF_CONSTRUCTION,
                             quantization=None if mode == "plain" else mode)
        index.add(rows)
        index.save(path)
    return vecidx.load(path, num_threads=1)


def measure_ours(mode, index, rows, queries, truth, args):
    everything = np.ones(len(rows), bool)
    plain = best_qps(lambda: index.search(queries, K), len(queries), args.repeat)
    print(f"\n## vecidx, {mode}: unfiltered {plain:,.0f} QPS, recall "
          f"{truth.recall(index.search(queries, K)[0], everything):.3f}\n")
    print("| filter | share | recall@10 | QPS | of unfiltered |\n|---|---|---|---|---|")
    rng = np.random.default_rng(0)
    for kind in args.kinds:
        for share in args.shares:
            if kind == "adversarial":
                masks = far_masks(truth, share)
                filter = [vecidx.Filter(mask) for mask in masks]
            else:
                make = random_mask if kind == "random" else clustered_mask
                masks = make(rows, share, rng)
                filter = vecidx.Filter(masks)
            ids, _ = index.search(queries, K, filter=filter)
            assert ((ids >= 0).sum(axis=1) == min(K, masks.sum(axis=-1).min())).all()
            qps = best_qps(lambda f=filter: index.search(queries, K, filter=f), len(queries),
                           args.repeat)
            print(f"| {kind} | {100 * share:g} % | {truth.recall(ids, masks):.3f} | {qps:,.0f} | "
                  f"{qps / plain:.2f} |", flush=True)


def hnswlib_search(folder, shape, rows, mask):
    import hnswlib
    path = str(folder / "hnswlib.bin")
    index = hnswlib.Index("l2" if shape.metric == "l2" else "cosine", shape.dim)
    if not os.path.exists(path):
        index.init_index(len(rows), M=M, ef_construction=EF_CONSTRUCTION)
        index.add_items(rows)
        index.save_index(path)
    else:
        index.load_index(path, max_elements=len(rows))
    index.set_num_threads(1)
    allowed = set(np.flatnonzero(mask).tolist())

    def search(queries, ef):
        index.set_ef(ef)
        try:
            return index.knn_query(queries, K, num_threads=1,
                                   filter=lambda label: label in allowed)[0].astype(np.int64)
        except RuntimeError:                 # fewer than k found
            return None
    return search


def faiss_search(folder, shape, rows, mask):
    import faiss
    path = str(folder / "faiss.bin")
    if not os.path.exists(path):
        metric = faiss.METRIC_L2 if shape.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        index = faiss.IndexHNSWFlat(shape.dim, M, metric)
        index.hnsw.efConstruction = EF_CONSTRUCTION
        index.add(rows)
        faiss.write_index(index, path)
    else:
        index = faiss.read_index(path)
    faiss.omp_set_num_threads(1)
    bits = np.packbits(mask, bitorder="little")
    selector = faiss.IDSelectorBitmap(bits)

    def search(queries, ef):
        return index.search(queries, K, params=faiss.SearchParametersHNSW(
            sel=selector, efSearch=ef))[1]
    search.keeps = bits, selector
    return search


def measure_peers(searches, queries, truth, mask, args):
    """The least ef with the recall that vecidx is asked for."""
    for name, search in searches.items():
        for ef in EFS:
            ids = search(queries, ef)
            recall = 0 if ids is None else truth.recall(ids, mask)
            if recall >= 0.95:
                break
        qps = best_qps(lambda s=search, e=ef: s(queries, e), len(queries), 2)
        print(f"| {name} | {ef} | {recall:.3f} | {qps:,.0f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--indexes", type=Path, required=True)
    parser.add_argument("--build-only", action="store_true")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--modes", default="plain,auto")
    parser.add_argument("--kinds", default="random,clustered,adversarial")
    parser.add_argument("--shares", default="0.5,0.1,0.01,0.001,0.0001")
    parser.add_argument("--peers", action="store_true", help="hnswlib and faiss at 1 %% too")
    args = parser.parse_args()
    args.kinds = [kind for kind in args.kinds.split(",") if kind]
    args.shares = [float(share) for share in args.shares.split(",")]
    args.indexes.mkdir(parents=True, exist_ok=True)
    shape = read_shape(args.data)
    rows = read_float32(args.data, "train", shape.n_rows)
    queries = read_float32(args.data, "test", min(args.queries, shape.n_queries))
    if shape.metric == "cosine":
        normalise(rows)
        normalise(queries)
    modes = {mode: our_index(args.indexes, shape, rows, mode)
             for mode in args.modes.split(",") if mode}
    mask = random_mask(rows, 0.01, np.random.default_rng(1))
    searches = {}
    if args.peers:
        for name, make in (("hnswlib", hnswlib_search), ("faiss", faiss_search)):
            if importlib.util.find_spec(name) is not None:
                searches[name] = make(args.indexes, shape, rows, mask)
    if args.build_only:
        return
    truth = Truth(rows, queries, shape.metric)
    print(f"# {Path(args.data).name}: {len(queries)} queries, k = {K}, default ef, 1 thread")
    for mode, index in modes.items():
        measure_ours(mode, index, rows, queries, truth, args)
    if searches:
        print("\n## 1 % of the rows, at random, least ef with recall 0.95\n")
        print("| library | ef | recall@10 | QPS |\n|---|---|---|---|")
        for mode, index in modes.items():
            filter = vecidx.Filter(mask)
            searches = {f"vecidx, {mode}": lambda q, ef, i=index, f=filter: i.search(
                q, K, ef=ef, filter=f)[0]} | searches
        measure_peers(searches, queries, truth, mask, args)


if __name__ == "__main__":
    main()
