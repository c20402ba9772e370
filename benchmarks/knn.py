"""All-points neighbours: knn_graph beside what others do, rows a second at their recall.

    python benchmarks/knn.py --data FILE [--libraries vecidx,pynndescent,faiss]

One library at a time, all its threads; truth is exact, for 1,000 rows.  For vecidx the
time of knn_graph is given with and without that of the index, which others build inside.
"""

import argparse
import time

import dataset
import numpy as np

K = 10
SAMPLE = 1_000


def truth(rows, sample, angular):
    """Distance of the k-th neighbour of some rows, themselves left out."""
    kth = np.empty(len(sample))
    squares = (rows.astype(np.float64) ** 2).sum(axis=1)
    for i, row in enumerate(sample):
        dots = rows @ rows[row]
        distances = 1 - dots if angular else squares + squares[row] - 2 * dots
        distances[row] = np.inf
        kth[i] = np.partition(distances, K - 1)[K - 1]
    return kth


def recall(rows, sample, kth, neighbors, angular):
    found = 0
    for i, row in enumerate(sample):
        near = neighbors[row]
        near = near[(near >= 0) & (near != row)][:K]
        if angular:
            distances = 1 - rows[near] @ rows[row]
        else:
            distances = ((rows[near].astype(np.float64) - rows[row]) ** 2).sum(axis=1)
        found += (distances <= kth[i] * (1 + 1e-5) + 1e-5).sum()
    return found / (K * len(sample))


def run_vecidx(rows, angular):
    import vecidx

    for quantization in (None, "auto"):
        index = vecidx.Index(rows.shape[1], "cosine" if angular else "l2",
                             quantization=quantization)
        begin = time.perf_counter()
        index.add(rows)
        built = time.perf_counter() - begin
        for ef in (K, K + 4, K + 14, 3 * K):
            begin = time.perf_counter()
            _, neighbors, _ = index.knn_graph(K, ef=ef)
            took = time.perf_counter() - begin
            yield f"vecidx {quantization}, ef={ef}", took, built, neighbors


def run_pynndescent(rows, angular):
    import pynndescent

    how = {"metric": "cosine" if angular else "euclidean", "random_state": 0}
    pynndescent.NNDescent(rows[:2_000], n_neighbors=K + 1, **how)          # compiles
    for n_neighbors in (K + 1, 15, 20):
        begin = time.perf_counter()
        graph = pynndescent.NNDescent(rows, n_neighbors=n_neighbors, **how).neighbor_graph[0]
        yield f"pynndescent, n_neighbors={n_neighbors}", time.perf_counter() - begin, 0, graph


def run_faiss(rows, angular):
    import faiss

    metric = faiss.METRIC_INNER_PRODUCT if angular else faiss.METRIC_L2
    index = faiss.IndexHNSWFlat(rows.shape[1], 16, metric)
    index.hnsw.efConstruction = 200
    begin = time.perf_counter()
    index.add(rows)
    built = time.perf_counter() - begin
    for ef in (16, 24, 32):
        index.hnsw.efSearch = ef
        begin = time.perf_counter()
        _, neighbors = index.search(rows, K + 1)
        yield f"faiss HNSW, ef={ef}", time.perf_counter() - begin, built, neighbors


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--libraries", default="vecidx,faiss,pynndescent")
    parser.add_argument("--rows", type=int)
    args = parser.parse_args()
    shape = dataset.read_shape(args.data, args.rows)
    angular = shape.metric == "cosine"
    rows = dataset.read_float32(args.data, "train", shape.n_rows)
    if angular:
        dataset.normalise(rows)
    sample = np.random.default_rng(0).choice(len(rows), SAMPLE, replace=False)
    kth = truth(rows, sample, angular)
    for name in args.libraries.split(","):
        for what, took, built, neighbors in globals()[f"run_{name}"](rows, angular):
            print(f"{what}: recall {recall(rows, sample, kth, neighbors, angular):.4f}, "
                  f"{len(rows) / took:,.0f} rows/s, with the build "
                  f"{len(rows) / (took + built):,.0f}", flush=True)


if __name__ == "__main__":
    main()
