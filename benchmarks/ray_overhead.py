#!/usr/bin/env python3
"""What a scatter costs, beside a bare Ray call and beside the search itself.

    python tools/only_loopback.py python benchmarks/ray_overhead.py

Three Ray nodes on this machine, 2 shards with 2 replicas each, 20,000 rows x 64.  For batches of 1
and of 100 queries, medians of several hundred calls one after another:

    bare call    one actor method that takes the same queries and gives results of the same shape
    one index    vecidx.Index.search over all rows, in this process
    scatter      ShardedIndex.search: both shards, with the searches

and the first and second answer after the node was killed that held the replicas asked first.
"""

import json
import os
import signal
import tempfile
import time

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import numpy as np  # noqa: E402
import ray  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

import vecidx.ray  # noqa: E402

ROWS, DIM, K = 20_000, 64, 10


@ray.remote(num_cpus=0)
class Bare:
    def call(self, queries):
        return np.zeros((len(queries), K), np.int64), np.zeros((len(queries), K), np.float32)


def median_ms(call, n=300):
    for _ in range(20):
        call()
    seconds = []
    for _ in range(n):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return round(1000 * float(np.median(seconds)), 3), round(
        1000 * float(np.percentile(seconds, 99)), 3)


def lose_a_node(cluster, index, queries):
    """First and second answer after the loss, in ms."""
    told = [t for shard in index.status()["shards"] for t in shard]
    victim = next(t["node"] for t in told if t["node"] != cluster.head_node.node_id)
    dead = [t for t in told if t["node"] == victim]
    keys = {index._route.replicas[t["shard"]][t["replica"]] for t in dead}
    for keys_of_shard in index._route.replicas:
        for key in set(keys_of_shard) - keys:
            index._health._rest[key] = (time.monotonic() + 600, 1.0)
    node = next(n for n in cluster.worker_nodes if n.node_id == victim)
    for pid in [node.all_processes["raylet"][0].process.pid, *(t["pid"] for t in dead)]:
        os.kill(pid, signal.SIGKILL)
    times = []
    for _ in range(2):
        began = time.perf_counter()
        index.search(queries, k=K)
        times.append(round(1000 * (time.perf_counter() - began), 1))
    assert keys <= set(index._health._rest), "the dead replicas were not asked"
    return times


def main():
    cluster = Cluster(initialize_head=True, head_node_args={
        "num_cpus": 2, "object_store_memory": 200 << 20, "node_ip_address": "127.0.0.1",
        "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=2, object_store_memory=100 << 20, node_ip_address="127.0.0.1")
    ray.init(address=cluster.address, log_to_driver=False)
    random = np.random.default_rng(0)
    rows = random.standard_normal((ROWS, DIM), dtype=np.float32)
    queries = random.standard_normal((100, DIM), dtype=np.float32)
    one = vecidx.Index(DIM)
    one.add(rows)
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/rows.npy", rows)
        manifest = vecidx.ray.build(f"{folder}/rows.npy", f"{folder}/shards", 2)
        with vecidx.ray.serve(manifest, replicas=2) as index:
            bare = Bare.remote()
            for n in (1, 100):
                batch = queries[:n]
                print(json.dumps({"queries": n, "p50, p99 ms": {
                    "bare call": median_ms(lambda batch=batch: ray.get(bare.call.remote(batch))),
                    "one index": median_ms(
                        lambda batch=batch: one.search(batch, k=K, num_threads=1)),
                    "scatter": median_ms(lambda batch=batch: index.search(batch, k=K))}}),
                      flush=True)
            print(json.dumps({"ms after a lost node": lose_a_node(cluster, index, queries)}))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
