"""Queries that do not come from where the rows come from.

Real ones (a text asked of pictures, a question asked of passages) have three marks: they lie off
the rows' own surface, so even the nearest row is far; seen from them distances are flat, many rows
being nearly as near as the nearest (a high intrinsic dimension at the query); and their nearest
rows lie on several sides, hard to reach from one another by links.  A second set of the same
dimensions would do, but is seldom at hand, and its distance from the first is an accident.  So the
queries are made from the rows themselves:

1. six rows far from one another: the first at random, each next one the farthest from those
   chosen among 64 drawn at random;
2. a convex mix of them, weights from Dirichlet(4, ..., 4): between groups, where few rows are, and
   with near rows on several sides.  With fewer than six the mix lies so near to its own rows that
   they alone are its neighbours;
3. isotropic noise as long as the mix is far from the rows' mean: off the surface, whose variance
   lies in few directions.

Under cosine the mix is of rows of unit length, and its own length does not matter.  On the sets of
RESULTS.md the intrinsic dimension at such queries is 1.6 to 3 times that at the sets' own, and
the tests hold that both of the first marks are there.
"""

from __future__ import annotations

import numpy as np

PARTS = 6
POOL = 64
CONCENTRATION = 4.0
NOISE = 1.0


def spread_rows(rows, random):
    """Indices of PARTS rows far from one another."""
    pool = random.choice(len(rows), min(POOL, len(rows)), replace=False)
    drawn = rows[pool].astype(np.float64)
    chosen = [0]
    least = np.full(len(pool), np.inf)
    while len(chosen) < min(PARTS, len(pool)):
        least = np.minimum(least, ((drawn - drawn[chosen[-1]]) ** 2).sum(axis=1))
        chosen.append(int(least.argmax()))
    return pool[chosen]


def queries_between(rows, n, metric, seed=0):
    """n queries as described above, float32."""
    random = np.random.default_rng(seed)
    dim = rows.shape[1]
    sample = rows[random.choice(len(rows), min(10_000, len(rows)), replace=False)]
    sample = sample.astype(np.float64)
    if metric == "cosine":
        sample /= np.linalg.norm(sample, axis=1, keepdims=True)
    centre = sample.mean(axis=0)
    queries = np.empty((n, dim), dtype=np.float32)
    for query in queries:
        parts = rows[spread_rows(rows, random)].astype(np.float64)
        if metric == "cosine":
            parts /= np.linalg.norm(parts, axis=1, keepdims=True)
        mix = random.dirichlet(np.full(len(parts), CONCENTRATION)) @ parts
        noise = random.standard_normal(dim)
        noise *= NOISE * np.linalg.norm(mix - centre) / np.linalg.norm(noise)
        query[:] = mix + noise
    return queries
