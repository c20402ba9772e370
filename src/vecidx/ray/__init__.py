"""Sharded indexes on a Ray cluster: more rows, or more searches, than one machine takes.

>>> import ray, vecidx.ray                                      # doctest: +SKIP
>>> ray.init(address="auto")
>>> vecidx.ray.build("rows/*.parquet", "shards/", shards=8, metric="cosine")
>>> with vecidx.ray.serve("shards/", replicas=2) as index:
...     ids, distances = index.search(queries, k=10)

How many shards, replicas and machines: docs/howto/planning.md and ``vecidx plan``.
Needs ``pip install "vecidx[ray]"``.
"""

from vecidx.ray._build import build, rebalance
from vecidx.ray._manifest import Manifest, read_manifest
from vecidx.ray._serve import ShardedIndex, connect, serve
from vecidx.ray.errors import ShardUnavailable

__all__ = ["Manifest", "ShardUnavailable", "ShardedIndex", "build", "connect", "read_manifest",
           "rebalance", "serve"]
