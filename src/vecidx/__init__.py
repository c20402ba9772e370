"""vecidx: a vector index in C for Python.

>>> import numpy as np, vecidx
>>> vectors = np.random.default_rng(0).standard_normal((1000, 32), dtype=np.float32)
>>> index = vecidx.Index(32, metric="cosine")
>>> ids = index.add(vectors)
>>> ids, distances = index.search(vectors[7], k=3)
>>> int(ids[0])
7
"""

from vecidx import _threadpoolctl
from vecidx._capi import get_include
from vecidx._machine import cpu_features, get_num_threads, set_num_threads, simd_level
from vecidx._storage import inspect
from vecidx.durable import DurableIndex, open
from vecidx.errors import IndexFormatError, VecidxError
from vecidx.filters import Filter
from vecidx.index import Index, from_bytes, load
from vecidx.strings import StringIndex

__version__ = "0.1.0"

_threadpoolctl.register_pool()

__all__ = [
    "DurableIndex",
    "Filter",
    "Index",
    "IndexFormatError",
    "StringIndex",
    "VecidxError",
    "__version__",
    "cpu_features",
    "from_bytes",
    "get_include",
    "get_num_threads",
    "inspect",
    "load",
    "open",
    "set_num_threads",
    "simd_level",
]
