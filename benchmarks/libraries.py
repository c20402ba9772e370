"""The libraries that compare.py measures, each behind the same few calls.

A class here may only translate: no tuning that a reader of the library's manual would not do.
M, ef_construction and the threads mean the same to all of the HNSW kind: M is the degree of the
upper layers and layer 0 has twice as many links.  Flat graphs get a degree of 2 M.  `terms` says
what else a library was given; the page repeats it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import json
import tempfile

import numpy as np


def as_matrix(lists):
    """Answers of one query each as int64 rows, filled up with -1."""
    found = np.full((len(lists), max(map(len, lists))), -1, dtype=np.int64)
    for row, ids in zip(found, lists, strict=True):
        row[:len(ids)] = ids
    return found


class Library:
    module = ""             # what is imported
    package = ""            # what PyPI calls it
    unit_rows = False       # True: for cosine, it is given normalised rows and queries
    angular = "cosine"      # what it does with an angular set, for the report
    terms = "M, ef_construction"        # what those two became, for the report
    sweep = "ef"            # the parameter that trades recall for speed
    grid = None             # its values; None: those of --efs
    threads = True          # False: no batch call of its own, asked with one thread only
    grows = False           # True: add() may be called again and again

    def __init__(self, arguments=None):
        if arguments:
            raise TypeError(f"{type(self).__name__} takes no modes, got {arguments}")
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

    def memory_parts(self):
        """Bytes by part as the library itself tells them; None where it does not."""
        return None

    def drop(self):
        self.index = None


class Vecidx(Library):
    """With modes: arguments of Index(), and of search() where the name begins with "search."."""

    module = package = "vecidx"
    grows = True

    def __init__(self, arguments=None):
        super().__init__()
        arguments = arguments or {}
        prefix = "search."
        self.for_search = {name.removeprefix(prefix): value for name, value in arguments.items()
                           if name.startswith(prefix)}
        self.for_index = {name: value for name, value in arguments.items()
                          if not name.startswith(prefix)}

    def simd(self):
        return self.lib.simd_level()

    def new(self, n_rows, dim, metric, M, ef_construction):
        self.index = self.lib.Index(dim, **{"metric": metric, "M": M,
                                            "ef_construction": ef_construction, **self.for_index})

    def add(self, rows, num_threads):
        self.index.add(rows, num_threads=num_threads)

    def set_search(self, ef, num_threads):
        super().set_search(ef, num_threads)
        self.call = functools.partial(self.index.search, ef=ef, num_threads=num_threads,
                                      **self.for_search)

    def search(self, queries, k):
        return self.call(queries, k)

    def memory_parts(self):
        return {name: int(size) for name, size in self.index.memory().items()}

    def drop(self):
        self.call = None
        super().drop()

    def ids(self, answer):
        return answer[0]


class Hnswlib(Library):
    module = package = "hnswlib"
    grows = True        # up to the number of rows it was told
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
    grows = True
    angular = "METRIC_INNER_PRODUCT on rows normalised beforehand"

    def simd(self):
        return self.lib.get_compile_options().strip()

    def new(self, n_rows, dim, metric, M, ef_construction):
        kind = self.lib.METRIC_L2 if metric == "l2" else self.lib.METRIC_INNER_PRODUCT
        self.index = self.make(dim, M, kind)
        self.index.hnsw.efConstruction = ef_construction

    def make(self, dim, M, kind):
        return self.lib.IndexHNSWFlat(dim, M, kind)

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


class FaissSq8(Faiss):
    """Codes of 8 bits a value and nothing else: its recall ends where the codes' does."""

    terms = "M, ef_construction; QT_8bit, trained on all rows in the time of the build"

    def make(self, dim, M, kind):
        return self.lib.IndexHNSWSQ(dim, self.lib.ScalarQuantizer.QT_8bit, M, kind)

    def add(self, rows, num_threads):
        self.lib.omp_set_num_threads(num_threads)
        if not self.index.is_trained:
            self.index.train(rows)
        self.index.add(rows)


class Usearch(Library):
    module, package = "usearch.index", "usearch"
    angular = "metric 'cos' (rows kept as given)"
    grows = True
    dtype = "f32"

    @classmethod
    def is_installed(cls):
        return importlib.util.find_spec("usearch") is not None

    def simd(self):
        return str(getattr(self.index, "hardware_acceleration", "not told"))

    def new(self, n_rows, dim, metric, M, ef_construction):
        self.index = self.lib.Index(ndim=dim, metric={"l2": "l2sq", "cosine": "cos"}[metric],
                                    dtype=self.dtype, connectivity=M, expansion_add=ef_construction)

    def add(self, rows, num_threads):
        first = len(self.index)
        self.index.add(np.arange(first, first + len(rows), dtype=np.uint64), rows,
                       threads=num_threads)

    def set_search(self, ef, num_threads):
        super().set_search(ef, num_threads)
        self.index.expansion_search = ef

    def search(self, queries, k):
        return self.index.search(queries, k, threads=self.num_threads)

    def ids(self, answer):
        counts = np.asarray(answer.counts)[:, None]
        keys = np.asarray(answer.keys).astype(np.int64)
        return np.where(np.arange(keys.shape[1]) < counts, keys, -1)


class UsearchI8(Usearch):
    """Given int8: its own cast from float32 is for values of -1 to 1.  One factor brings the
    largest value of the first rows to 127; the queries are cast in the time of the search."""

    terms = "M, ef_construction; int8 by one factor for all"
    dtype = "i8"

    def new(self, *arguments):
        super().new(*arguments)
        self.factor = None

    def cast(self, rows):
        return np.clip(np.rint(rows * self.factor), -127, 127).astype(np.int8)

    def add(self, rows, num_threads):
        if self.factor is None:
            self.factor = np.float32(127.0 / max(float(np.abs(rows).max()), 1e-30))
        super().add(self.cast(rows), num_threads)

    def search(self, queries, k):
        return super().search(self.cast(queries), k)


class SymphonyQG(Library):
    """The research library of RaBitQ: a flat graph with 1-bit codes beside the links."""

    module = package = "rabitqlib"
    unit_rows = True
    angular = "l2 on rows normalised beforehand"
    terms = "degree 2 M, ef_construction; its own initial graph"
    least_dim = 64          # its rotation knows none below

    def new(self, n_rows, dim, metric, M, ef_construction):
        self.ef_construction = ef_construction
        self.index = self.lib.SymqgIndex(max(dim, self.least_dim), 2 * M, "l2")

    def padded(self, rows):
        """With zeros behind, which change no distance."""
        lacking = self.least_dim - rows.shape[1]
        return rows if lacking <= 0 else np.pad(rows, ((0, 0), (0, lacking)))

    def add(self, rows, num_threads):
        self.index.build(self.padded(rows), self.ef_construction, num_threads)

    def search(self, queries, k):
        return self.index.search_batch(self.padded(queries), k, self.ef, self.num_threads)

    def search_one(self, query, k):
        return self.index.search(query, k, self.ef, 1)

    def one_query(self, query):
        return self.padded(query[None, :])

    def ids(self, answer):
        return answer[0].astype(np.int64)


class VsagHGraph(Library):
    """No batch call: queries go in one by one from a Python loop."""

    module = package = "pyvsag"
    terms = "max_degree 2 M, ef_construction; fp32"
    sweep = "ef_search"
    threads = False
    codes = {"base_quantization_type": "fp32"}

    def new(self, n_rows, dim, metric, M, ef_construction):
        self.lib.set_logger_off()
        self.dim = dim
        self.parameters = {"dtype": "float32", "metric_type": metric, "dim": dim, "index_param": {
            "max_degree": 2 * M, "ef_construction": ef_construction, **self.codes}}

    def add(self, rows, num_threads):
        self.parameters["index_param"]["build_thread_count"] = num_threads
        self.index = self.lib.Index("hgraph", json.dumps(self.parameters))
        self.index.build(vectors=rows.reshape(-1), ids=np.arange(len(rows), dtype=np.int64),
                         num_elements=len(rows), dim=self.dim)

    def set_search(self, ef, num_threads):
        super().set_search(ef, num_threads)
        self.how = json.dumps({"hgraph": {"ef_search": ef}})

    def search(self, queries, k):
        return [self.search_one(query, k) for query in queries]

    def search_one(self, query, k):
        return self.index.knn_search(vector=query, k=k, parameters=self.how)

    def ids(self, answer):
        return as_matrix([ids for ids, _ in answer])


class VsagSq8(VsagHGraph):
    terms = "max_degree 2 M, ef_construction; sq8_uniform, reordered by fp32"
    codes = {"base_quantization_type": "sq8_uniform", "use_reorder": True,
             "precise_quantization_type": "fp32"}


class Voyager(Library):
    module = package = "voyager"
    grows = True
    angular = "Space.Cosine (normalises inside)"
    sweep = "query_ef"

    def new(self, n_rows, dim, metric, M, ef_construction):
        space = {"l2": self.lib.Space.Euclidean, "cosine": self.lib.Space.Cosine}[metric]
        self.index = self.lib.Index(space, num_dimensions=dim, M=M,
                                    ef_construction=ef_construction, max_elements=n_rows)

    def add(self, rows, num_threads):
        self.index.add_items(rows, num_threads=num_threads)

    def search(self, queries, k):
        return self.index.query(queries, k=k, num_threads=self.num_threads, query_ef=self.ef)

    def ids(self, answer):
        return answer[0].astype(np.int64)


class SvsVamana(Library):
    module, package = "svs", "scalable-vs"
    unit_rows = True
    angular = "MIP on rows normalised beforehand"
    terms = "graph_max_degree 2 M, window_size ef_construction; alpha 1.2 (l2), 0.95 (MIP)"
    sweep = "search_window_size"

    def simd(self):
        return f"not told (library {self.lib.library_version()})"

    def new(self, n_rows, dim, metric, M, ef_construction):
        is_l2 = metric == "l2"
        self.kind = self.lib.DistanceType.L2 if is_l2 else self.lib.DistanceType.MIP
        self.parameters = self.lib.VamanaBuildParameters(
            alpha=1.2 if is_l2 else 0.95, graph_max_degree=2 * M, window_size=ef_construction)

    def add(self, rows, num_threads):
        self.index = self.lib.Vamana.build(self.parameters, rows, self.kind,
                                           num_threads=num_threads)

    def set_search(self, ef, num_threads):
        super().set_search(ef, num_threads)
        self.index.num_threads = num_threads
        self.index.search_window_size = ef

    def search(self, queries, k):
        return self.index.search(queries, k)

    def ids(self, answer):
        return answer[0].astype(np.int64)


class Ngt(Library):
    """ANNG as in its manual.  It has neither M nor ef_construction: creation edges stand for M,
    and its own defaults for the rest."""

    module, package = "ngtpy", "ngt"
    angular = "distance 'Cosine'"
    terms = "ANNG, edge_size_for_creation M, edge_size_for_search 40; ef_construction unused"
    sweep = "epsilon"
    grid = [0.0, 0.02, 0.05, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.4]
    threads = False         # its batch call takes no number of threads

    def new(self, n_rows, dim, metric, M, ef_construction):
        self.folder = tempfile.TemporaryDirectory()
        path = f"{self.folder.name}/anng"
        self.lib.create(path, dim, edge_size_for_creation=M, edge_size_for_search=40,
                        distance_type={"l2": "L2", "cosine": "Cosine"}[metric])
        self.index = self.lib.Index(path, log_disabled=True)

    def add(self, rows, num_threads):
        self.index.batch_insert(rows, num_threads=num_threads)

    def search(self, queries, k):
        return [self.search_one(query, k) for query in queries]

    def search_one(self, query, k):
        return self.index.search(query, k, self.ef, with_distance=False)

    def ids(self, answer):
        return as_matrix(answer)

    def drop(self):
        if self.index is not None:
            self.index.close()
            self.index = None
            self.folder.cleanup()


class QdrantEdge(Library):
    """A shard in a temporary folder; build is upsert and optimize().  Its points and queries are
    Python objects: that is its interface, and its cost is in the time."""

    module, package = "qdrant_edge", "qdrant-edge-py"
    terms = "m M, ef_construct ef_construction; one segment asked for, no write-ahead log"
    sweep = "hnsw_ef"
    threads = False         # the shard's own pool works by segment, not by query
    block = 1000

    def new(self, n_rows, dim, metric, M, ef_construction):
        distance = {"l2": self.lib.Distance.Euclid, "cosine": self.lib.Distance.Cosine}[metric]
        self.what = self.lib.EdgeVectorParams(size=dim, distance=distance)
        self.M, self.ef_construction = M, ef_construction

    def add(self, rows, num_threads):
        lib = self.lib
        self.folder = tempfile.TemporaryDirectory()
        self.index = lib.EdgeShard.create(f"{self.folder.name}/shard", lib.EdgeConfig(
            vectors=self.what, wal_enabled=False, max_search_threads=num_threads,
            hnsw_config=lib.HnswIndexConfig(m=self.M, ef_construct=self.ef_construction,
                                            full_scan_threshold=10,
                                            max_indexing_threads=num_threads),
            optimizers=lib.EdgeOptimizersConfig(default_segment_number=1, indexing_threshold=1,
                                                max_segment_size=10**9)))
        for start in range(0, len(rows), self.block):
            points = [lib.Point(start + i, row.tolist())
                      for i, row in enumerate(rows[start:start + self.block])]
            self.index.update(lib.UpdateOperation.upsert_points(points))
        self.index.optimize()

    def set_search(self, ef, num_threads):
        super().set_search(ef, num_threads)
        self.how = self.lib.SearchParams(hnsw_ef=ef)

    def search(self, queries, k):
        lib = self.lib
        return self.index.query_batch(lib.QueryBatchRequest([
            lib.QueryRequest(limit=k, query=lib.Query.Nearest(query.tolist()), params=self.how)
            for query in queries]))

    def search_one(self, query, k):
        lib = self.lib
        return self.index.search(lib.SearchRequest(
            query=lib.Query.Nearest(query.tolist()), limit=k, params=self.how))

    def ids(self, answer):
        return as_matrix([[point.id for point in points] for points in answer])

    def drop(self):
        if self.index is not None:
            self.index.close()
            self.index = None
            self.folder.cleanup()


LIBRARIES = {
    "hnswlib": Hnswlib, "faiss": Faiss, "usearch": Usearch, "vecidx": Vecidx,
    "symphonyqg": SymphonyQG, "vsag": VsagHGraph, "vsag-sq8": VsagSq8, "faiss-sq8": FaissSq8,
    "usearch-i8": UsearchI8, "voyager": Voyager, "svs": SvsVamana, "qdrant-edge": QdrantEdge,
    "ngt": Ngt,
}
CORE = ("hnswlib", "faiss", "usearch", "symphonyqg", "vecidx")      # measured by default
