"""vecidx for the runner of ann-benchmarks: copy this folder to ann_benchmarks/algorithms/vecidx."""

import numpy as np

import vecidx

from ..base.module import BaseANN

METRICS = {"angular": "cosine", "euclidean": "l2"}


class Vecidx(BaseANN):
    def __init__(self, metric, arguments):
        if metric not in METRICS:
            raise ValueError(f"metric: {metric!r} is unknown here; expected {sorted(METRICS)}")
        self.metric = METRICS[metric]
        self.arguments = dict(arguments)        # of vecidx.Index
        self.ef = None
        self.index = None
        self.found = None

    def fit(self, X):
        rows = np.ascontiguousarray(X, dtype=np.float32)
        self.index = vecidx.Index(rows.shape[1], metric=self.metric, **self.arguments)
        self.index.add(rows)

    def set_query_arguments(self, ef):
        self.ef = ef

    def query(self, q, n):
        # One thread: the runner's plain mode pins the process to one core.
        ids, _ = self.index.search(q, k=n, ef=max(self.ef or n, n), num_threads=1)
        return ids[ids >= 0]

    def batch_query(self, X, n):
        # The runner's time covers this call; get_batch_results() is outside it.
        self.found, _ = self.index.search(X, k=n, ef=max(self.ef or n, n))

    def get_batch_results(self):
        return [ids[ids >= 0] for ids in self.found]

    def get_memory_usage(self):
        """Kilobytes that the index holds.  The runner takes what it was before fit() away, so that
        the rows it keeps itself do not count."""
        return self.index.memory()["total"] / 1024 if self.index is not None else 0.0

    def done(self):
        self.index = self.found = None

    def __str__(self):
        told = ", ".join(f"{name}={value}" for name, value in sorted(self.arguments.items()))
        return f"vecidx({told}, ef={self.ef})"
