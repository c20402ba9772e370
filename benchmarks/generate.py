#!/usr/bin/env python3
"""Make a data set of any size that is as hard as real embeddings, in the ann-benchmarks layout.

    python benchmarks/generate.py --rows 1000000 --dim 768 --out made-1m-768-angular.hdf5

Independent values, or round clusters in all dimensions, are harder than any embedding: all rows
are about equally far.  Real rows lie in groups of very different size, each spread along few
directions with a spectrum that falls like a power.  So a row is

    centre[c] + basis[c] @ (spectrum * normal) + flat noise

- c: one of --clusters, sizes falling as rank^-0.7;
- centres: Gaussian in a common random subspace of 2 * --intrinsic dimensions, power-law spectrum;
- basis[c]: random orthonormal directions, --intrinsic of them, so that every cluster lies
  another way; spectrum j^(-decay), its total variance --spread squared of the centres';
- noise: isotropic, --noise squared of the spread's variance in all.

Rows come in random order of clusters; queries are drawn the same way and are no rows.  angular
sets are scaled to unit length.  Only one chunk of rows is in memory at a time, beside the bases
(clusters x dim x intrinsic float32) and the nearest rows so far.  The truth is exact for the rows
as stored.  The estimated intrinsic dimension (Levina and Bickel, from the 100 nearest) is printed
and kept as an attribute: the three sets of RESULTS.md have 14 (sift), 19 (wordnet) and 26 (text);
the defaults give 17 at 30,000 rows of 768 values.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

for _name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"):
    os.environ.setdefault(_name, "2")

import dataset  # noqa: E402
import h5py  # noqa: E402
import numpy as np  # noqa: E402

DISTANCES = {"angular": "cosine", "euclidean": "l2"}
TRUTH_K = 100
CHUNK_ROWS = dataset.BLOCK_ROWS


class Mixture:
    """Clusters of the kind described above; draws rows from them."""

    def __init__(self, dim, clusters=500, intrinsic=96, decay=0.5, spread=1.5, noise=0.4, seed=0):
        if not 1 <= intrinsic <= dim:
            raise ValueError(f"intrinsic: expected 1 to dim = {dim}, got {intrinsic}")
        random = np.random.default_rng([seed, 0])
        self.dim, self.seed = dim, seed
        common = min(2 * intrinsic, dim)
        where = random.standard_normal((clusters, common)) * power_law(common, decay)
        self.centres = (where @ directions(random, dim, common).T).astype(np.float32)
        spectrum = spread * power_law(intrinsic, decay)
        self.bases = np.empty((clusters, dim, intrinsic), dtype=np.float32)
        for basis in self.bases:
            basis[:] = directions(random, dim, intrinsic) * spectrum
        self.noise = np.float32(noise * spread / np.sqrt(dim))
        size = np.arange(1, clusters + 1) ** -0.7
        self.share = size / size.sum()

    def draw(self, n, stream, unit):
        """n rows, the same for the same stream number; of unit length if asked."""
        random = np.random.default_rng([self.seed, 1, stream])
        cluster = random.choice(len(self.share), n, p=self.share)
        rows = random.standard_normal((n, self.dim), dtype=np.float32) * self.noise
        inside = random.standard_normal((n, self.bases.shape[2]), dtype=np.float32)
        for c in np.unique(cluster):
            mine = cluster == c
            rows[mine] += self.centres[c] + inside[mine] @ self.bases[c].T
        if unit:
            dataset.normalise(rows)
        return rows


def power_law(n, decay):
    """Standard deviations falling as rank^-decay, of total variance 1."""
    spectrum = np.arange(1, n + 1) ** -float(decay)
    return spectrum / np.sqrt((spectrum ** 2).sum())


def directions(random, dim, n):
    """n random orthonormal columns."""
    return np.linalg.qr(random.standard_normal((dim, n)))[0]


def intrinsic_dimension(distances):
    """Levina and Bickel's estimate from the true distances (not squares) of each query's nearest
    rows, ascending; the mean over queries of the inverse is inverted (MacKay and Ghahramani)."""
    distances = np.maximum(distances, 1e-12)
    inverse = np.log(distances[:, -1:] / distances[:, :-1]).mean(axis=1)
    return 1.0 / inverse[inverse > 0].mean()


def as_lengths(distances, metric):
    """Euclidean lengths of squared distances or of 1 - cosine."""
    return np.sqrt(np.maximum(distances, 0) * (1 if metric == "l2" else 2))


def write(path, mixture, n_rows, n_queries, distance, storage, say=lambda done: None):
    """The file; returns the estimated intrinsic dimension."""
    metric, unit = DISTANCES[distance], distance == "angular"
    queries = mixture.draw(n_queries, 0, unit).astype(storage).astype(np.float32)
    k = min(TRUTH_K, n_rows)
    nearest = dataset.Nearest(queries, k, metric)
    with h5py.File(path, "w") as file:
        train = file.create_dataset("train", (n_rows, mixture.dim), dtype=storage)
        for chunk, start in enumerate(range(0, n_rows, CHUNK_ROWS)):
            rows = mixture.draw(min(CHUNK_ROWS, n_rows - start), chunk + 1, unit).astype(storage)
            train[start:start + len(rows)] = rows
            nearest.offer(start, rows.astype(np.float32))
            say(start + len(rows))
        ids, distances = nearest.settle(
            (start, train[start:start + CHUNK_ROWS].astype(np.float32))
            for start in range(0, n_rows, CHUNK_ROWS))
        file["test"] = queries.astype(storage)
        file["neighbors"] = ids.astype(np.int32)
        file["distances"] = as_lengths(distances, metric) if metric == "l2" else distances
        file.attrs["distance"] = distance
        file.attrs["intrinsic_dimension"] = intrinsic_dimension(as_lengths(distances, metric))
        return file.attrs["intrinsic_dimension"]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--dim", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--distance", choices=sorted(DISTANCES), default="angular")
    parser.add_argument("--storage", choices=("float16", "float32"), default="float16",
                        help="in the file; the truth is of the rounded rows")
    parser.add_argument("--clusters", type=int, default=500)
    parser.add_argument("--intrinsic", type=int, default=96)
    parser.add_argument("--decay", type=float, default=0.5)
    parser.add_argument("--spread", type=float, default=1.5)
    parser.add_argument("--noise", type=float, default=0.4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if min(args.rows, args.dim, args.queries, args.clusters) < 1:
        parser.error("--rows, --dim, --queries and --clusters must be at least 1")
    try:
        mixture = Mixture(args.dim, args.clusters, args.intrinsic, args.decay, args.spread,
                          args.noise, args.seed)
    except ValueError as error:
        parser.error(str(error))
    found = write(args.out, mixture, args.rows, args.queries, args.distance, args.storage,
                  lambda done: print(f"\r{done:,} of {args.rows:,}", end="", file=sys.stderr))
    print(f"\n{args.out}: {args.rows:,} x {args.dim}, intrinsic dimension about {found:.1f}",
          file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
