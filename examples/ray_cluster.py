"""Build shards and serve them: on this laptop as three nodes, or on your Ray cluster.

    pip install "vecidx[ray]"
    python examples/ray_cluster.py                          three simulated nodes on this machine
    python examples/ray_cluster.py --address auto --folder /mnt/shared/senses      a real cluster

The folder must be one that every node reaches.  The rows are the repository's sample: dictionary
senses as sentence embeddings.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import ray

import vecidx.ray
from vecidx.demo import Sample

SAMPLE = Path(__file__).parent / "data" / "wordnet-sample.npz"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", help='of a Ray cluster ("auto" on one of its nodes)')
    parser.add_argument("--folder", help="for the shards (default: a temporary one)")
    args = parser.parse_args()
    cluster = None
    if args.address is None:                 # the one difference between laptop and cluster
        cluster = three_nodes()
    ray.init(address=args.address or cluster.address, log_to_driver=False)
    with tempfile.TemporaryDirectory() as temporary:
        run(Path(args.folder or temporary))
    ray.shutdown()
    if cluster is not None:
        cluster.shutdown()


def three_nodes():
    """A cluster of three nodes, all of them on this machine.

    They say that they have 12 CPUs: a swap starts the next replicas beside the present ones.
    """
    from ray.cluster_utils import Cluster
    store = 200 * 2**20                      # bytes of each node's object store
    cluster = Cluster(initialize_head=True,
                      head_node_args={"num_cpus": 4, "object_store_memory": store})
    for _ in range(2):
        cluster.add_node(num_cpus=4, object_store_memory=store)
    return cluster


def run(folder):
    sample = Sample(SAMPLE)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "rows.npy", sample.rows)
    manifest = vecidx.ray.build(folder / "rows.npy", folder / "shards", shards=2,
                                metric="cosine", tune=[3])
    print(manifest)

    with vecidx.ray.serve(manifest, replicas=2) as index:
        ids, distances = index.search(sample.queries[:1], k=3)
        print("nearest to a query:", ids[0].tolist(), distances[0].round(3).tolist())

        half = vecidx.Filter(range(0, len(sample.rows), 2))
        ids, distances = index.search(sample.queries[:1], k=3, filter=half, recall=0.95)
        print("of the even ids:", ids[0].tolist(), distances[0].round(3).tolist())

        began = time.perf_counter()
        for query in sample.queries[:200]:
            index.search(query, k=10)
        print(f"{(time.perf_counter() - began) / 200 * 1000:.1f} ms a query, one after another")

        for shard in index.status()["shards"]:
            for told in shard:
                print(f"shard {told['shard']} replica {told['replica']}: {told['state']}, "
                      f"{told['rows']:,} rows, node {told['node'][:6]}")

        more = vecidx.ray.rebalance(manifest, folder / "three", shards=3)
        index.swap(more)                     # no search fails for it
        print("swapped:", index)


if __name__ == "__main__":
    main()
