"""The libraries that compare.py measures, each behind the same five calls.

A class here may only translate: no tuning that a reader of the library's manual would not do.
M, ef_construction and the threads mean the same to all; M is the degree of the upper layers and
layer 0 has twice as many links in each of them.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util

import numpy as np


class Library:
    module = ""             # what is imported
    package = ""            # what PyPI calls it
    unit_rows = False       # True: for cosine, it is given normalised rows and queries
    angular = "cosine"      # what it does with an angular set, for the report

    def __init__(self):
        self.lib = importlib.import_module(self.module)
        self.index = None

    @classmethod
    def is_installed(cls):
        return importlib.util.find_spec(cls.module) is not None

    def version(self):
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return getattr(self.lib, "__version__", "unknown")     # on the path, not installed

    def simd(self):
        """The instruction set it says it runs on, or a remark."""
        return "not told"

    def new(self, n_rows, dim, metric, M, ef_construction):
        raise NotImplementedError

    def add(self, rows, num_threads):
        raise NotImplementedError

    def set_search(self, ef, num_threads):
        """Everything that may be set before the clock starts."""
        self.ef, self.num_threads = ef, num_threads

    def search(self, queries, k):
        """Whatever the library returns for a batch: this is what is timed."""
        raise NotImplementedError

    def search_one(self, query, k):
        """The same for one query, in the shape that one_query() made."""
        return self.search(query, k)

    def one_query(self, query):
        return query

    def ids(self, answer):
        """The (n, k) int64 ids in what search() returned; -1 where missing."""
        raise NotImplementedError

    def drop(self):
        self.index = None


class Vecidx(Library):
    module = package = "vecidx"
    arguments = {}          # a variant is a subclass that fills this in

    def simd(self):
        return self.lib.simd_level()

    def new(self, n_rows, dim, metric, M, ef_construction):
        self.index = self.lib.Index(dim, metric=metric, M=M, ef_construction=ef_construction,
                                    **self.arguments)

    def add(self, rows, num_threads):
        self.index.add(rows, num_threads=num_threads)

    def search(self, queries, k):
        return self.index.search(queries, k=k, ef=self.ef, num_threads=self.num_threads)

    def ids(self, answer):
        return answer[0]


class Hnswlib(Library):
    module = package = "hnswlib"
    angular = "space 'cosine' (normalises inside, then inner product)"

    def simd(self):
        return "compiled with -march=native"

    def new(self, n_rows, dim, metric, M, ef_construction):
        self.index = self.lib.Index(space=metric, dim=dim)
        self.index.init_index(max_elements=n_rows, M=M, ef_construction=ef_construction)

    def add(self, rows, num_threads):
        self.index.add_items(rows, num_threads=num_threads)

    def set_search(self, ef, num_threads):
        super().set_search(ef, num_threads)
        self.index.set_ef(ef)

    def search(self, queries, k):
        return self.index.knn_query(queries, k=k, num_threads=self.num_threads)

    def ids(self, answer):
        return answer[0].astype(np.int64)


class Faiss(Library):
    module, package = "faiss", "faiss-cpu"
    unit_rows = True
    angular = "METRIC_INNER_PRODUCT on rows normalised beforehand"

    def simd(self):
        return self.lib.get_compile_options().strip()

    def new(self, n_rows, dim, metric, M, ef_construction):
        kind = self.lib.METRIC_L2 if metric == "l2" else self.lib.METRIC_INNER_PRODUCT
        self.index = self.lib.IndexHNSWFlat(dim, M, kind)
        self.index.hnsw.efConstruction = ef_construction

    def add(self, rows, num_threads):
        self.lib.omp_set_num_threads(num_threads)
        self.index.add(rows)

    def set_search(self, ef, num_threads):
        super().set_search(ef, num_threads)
        self.lib.omp_set_num_threads(num_threads)
        self.index.hnsw.efSearch = ef

    def search(self, queries, k):
        return self.index.search(queries, k)

    def one_query(self, query):
        return query[None, :]       # it takes matrices only

    def ids(self, answer):
        return answer[1]


class Usearch(Library):
    module, package = "usearch.index", "usearch"
    angular = "metric 'cos' (rows kept as given)"

    @classmethod
    def is_installed(cls):
        return importlib.util.find_spec("usearch") is not None

    def simd(self):
        return str(getattr(self.index, "hardware_acceleration", "not told"))

    def new(self, n_rows, dim, metric, M, ef_construction):
        self.index = self.lib.Index(ndim=dim, metric={"l2": "l2sq", "cosine": "cos"}[metric],
                                    dtype="f32", connectivity=M, expansion_add=ef_construction)

    def add(self, rows, num_threads):
        self.index.add(np.arange(len(rows), dtype=np.uint64), rows, threads=num_threads)

    def set_search(self, ef, num_threads):
        super().set_search(ef, num_threads)
        self.index.expansion_search = ef

    def search(self, queries, k):
        return self.index.search(queries, k, threads=self.num_threads)

    def ids(self, answer):
        counts = np.asarray(answer.counts)[:, None]
        keys = np.asarray(answer.keys).astype(np.int64)
        return np.where(np.arange(keys.shape[1]) < counts, keys, -1)


LIBRARIES = {"hnswlib": Hnswlib, "faiss": Faiss, "usearch": Usearch, "vecidx": Vecidx}
