"""Results that differ from one another: maximal marginal relevance (Carbonell, Goldstein 1998).

Out of more candidates than are wanted, one after the other is taken that is
near the query and far from those taken before.  Distances are the index's.
"""

import numpy as np

MORE = 4                     # candidates are this many times k
LEAST = 50


def candidates(k):
    """How many neighbours to choose k from."""
    return max(MORE * k, LEAST)


def between(metric, rows):
    """Distances of some rows to one another."""
    if metric in ("hamming", "jaccard"):
        rows = np.unpackbits(rows, axis=1)
    rows = rows.astype(np.float64)
    dots = rows @ rows.T
    if metric == "jaccard":
        either = np.add.outer(np.diagonal(dots), np.diagonal(dots)) - dots
        return 1 - np.where(either > 0, dots, 1) / np.where(either > 0, either, 1)
    if metric == "ip":
        return 1 - dots
    lengths = np.diagonal(dots)
    if metric == "cosine":
        lengths = np.sqrt(lengths)
        return 1 - dots / np.outer(lengths, lengths)
    return np.maximum(lengths[:, None] + lengths[None, :] - 2 * dots, 0)


def choose(distances, apart, k, diverse):
    """Places of k candidates, in the order they are taken."""
    left = np.ones(len(distances), bool)
    nearest = np.full(len(distances), np.inf)        # to what is taken
    taken = []
    while len(taken) < min(k, len(distances)):
        if taken:
            cost = (1 - diverse) * distances - diverse * nearest
        else:
            cost = distances
        at = int(np.argmin(np.where(left, cost, np.inf)))
        left[at] = False
        taken.append(at)
        nearest = np.minimum(nearest, apart[at])
    return taken


def rearrange(ids, distances, rows_of, metric, k, diverse):
    """(ids, distances) of k of the candidates of each query."""
    out_ids = np.full((len(ids), k), -1, np.int64)
    out_distances = np.full((len(ids), k), np.inf, np.float32)
    for query in range(len(ids)):
        there = ids[query] >= 0
        found, near = ids[query][there], distances[query][there]
        taken = choose(near.astype(np.float64), between(metric, rows_of(found)), k, diverse)
        out_ids[query, :len(taken)] = found[taken]
        out_distances[query, :len(taken)] = near[taken]
    return out_ids, out_distances
