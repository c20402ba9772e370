#!/usr/bin/env python3
"""What a scatter costs, beside a bare Ray call and beside the search itself.

    python tools/only_loopback.py python benchmarks/ray_overhead.py -o ray-overhead.json

Three Ray nodes on this machine, 20,000 rows x 64.  For batches of 1 and of 100 queries, calls one
after another, p50 and p99 in ms, and the CPU time of this process for one, all of its threads
(`cpu`), and of each replica's process (`replica_cpu`):

    bare call    one actor method that takes the same queries and gives results of the same shape
    one index    vecidx.Index.search over all rows, in this process
    scatter      ShardedIndex.search over 1, 2, 4 and 8 shards of these rows, one replica each,
                 with the searches

and, with two shards of two replicas, the first and second answer after the node was killed that
held the replicas asked first, three times.
"""

import argparse
import itertools
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
WARM, CALLS = 20, 300


@ray.remote(num_cpus=0)
class Bare:
    def call(self, queries):
        return np.zeros((len(queries), K), np.int64), np.zeros((len(queries), K), np.float32)


def cpu_of(pids):
    """CPU seconds that processes have spent."""
    ticks = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            ticks += sum(map(int, file.read().rsplit(")", 1)[1].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def measured(call, n=CALLS):
    """p50, p99 and CPU of this process a call, in ms."""
    for _ in range(WARM):
        call()
    seconds = []
    cpu = time.process_time()
    for _ in range(n):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    cpu = (time.process_time() - cpu) / n
    return {"p50": round(1000 * float(np.median(seconds)), 3),
            "p99": round(1000 * float(np.percentile(seconds, 99)), 3),
            "cpu": round(1000 * cpu, 3)}


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


def points(queries, rows, folder):
    """What calls take, one dict each."""
    one = vecidx.Index(DIM)
    one.add(rows)
    bare = Bare.remote()
    for n in (1, 100):
        batch = queries[:n]
        yield {"what": "bare call", "queries": n,
               **measured(lambda batch=batch: ray.get(bare.call.remote(batch)))}
        yield {"what": "one index", "queries": n,
               **measured(lambda batch=batch: one.search(batch, k=K, num_threads=1))}
    for shards in (1, 2, 4, 8):
        manifest = vecidx.ray.build(f"{folder}/rows.npy", f"{folder}/{shards}", shards)
        with vecidx.ray.serve(manifest, num_cpus=0.5) as index:
            pids = [told["pid"] for shard in index.status()["shards"] for told in shard]
            for n in (1, 100):
                batch = queries[:n]
                before = cpu_of(pids)
                took = measured(lambda index=index, batch=batch: index.search(batch, k=K))
                spent = (cpu_of(pids) - before) / (WARM + CALLS) / shards
                yield {"what": "scatter", "shards": shards, "queries": n, **took,
                       "replica_cpu": round(1000 * spent, 3)}


def losses(cluster, queries, folder, times=3):
    for _ in range(times):
        with vecidx.ray.serve(f"{folder}/2", replicas=2, num_cpus=0.5) as index:
            index.search(queries, k=K)
            first, second = lose_a_node(cluster, index, queries)
            yield {"what": "lost node", "first": first, "second": second}
        for node in list(cluster.worker_nodes):
            if node.all_processes["raylet"][0].process.poll() is not None:
                cluster.remove_node(node, allow_graceful=False)
        while len(cluster.worker_nodes) < 2:
            add_node(cluster)


def add_node(cluster):
    cluster.add_node(num_cpus=4, object_store_memory=100 << 20, node_ip_address="127.0.0.1")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output")
    args = parser.parse_args()
    cluster = Cluster(initialize_head=True, head_node_args={
        "num_cpus": 2, "object_store_memory": 200 << 20, "node_ip_address": "127.0.0.1",
        "include_dashboard": False})
    for _ in range(2):
        add_node(cluster)
    ray.init(address=cluster.address, log_to_driver=False)
    random = np.random.default_rng(0)
    rows = random.standard_normal((ROWS, DIM), dtype=np.float32)
    queries = random.standard_normal((100, DIM), dtype=np.float32)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/rows.npy", rows)
        for point in itertools.chain(points(queries, rows, folder),
                                     losses(cluster, queries, folder)):
            print(json.dumps(point), flush=True)
            found.append(point)
    if args.output:
        with open(args.output, "w", encoding="utf-8") as file:
            json.dump({"ray": ray.__version__, "points": found}, file, indent=0)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
