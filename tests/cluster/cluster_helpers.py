"""A cluster of several nodes on this machine, and what tests ask of it."""

import os
import signal
import socket
import time

import pytest

if {name for _, name in socket.if_nameindex()} - {"lo"}:
    pytest.skip("needs a network namespace with only loopback: make test-ray",
                allow_module_level=True)
ray = pytest.importorskip("ray")

DIM = 16
OBJECT_STORE = 100 << 20


class Nodes:
    """The cluster, and what tests do to it."""

    def __init__(self):
        from ray.cluster_utils import Cluster
        self.cluster = Cluster(initialize_head=True, head_node_args={
            "num_cpus": 2, "object_store_memory": OBJECT_STORE, "include_dashboard": False,
            "node_ip_address": "127.0.0.1", "resources": {"head": 1}})
        for _ in range(2):
            self.add()
        ray.init(address=self.cluster.address, log_to_driver=False, logging_level="ERROR")
        addresses = {node["NodeManagerAddress"] for node in ray.nodes()}
        assert addresses == {"127.0.0.1"}, addresses

    def add(self):
        return self.cluster.add_node(num_cpus=4, object_store_memory=OBJECT_STORE,
                                     node_ip_address="127.0.0.1")

    def lose(self, node_id, pids):
        """Kill the node without a word, and these processes of it; True once they are gone."""
        node = next(n for n in self.cluster.worker_nodes if n.node_id == node_id)
        raylet = node.all_processes["raylet"][0].process.pid
        for pid in (raylet, *pids):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: all(is_gone(pid) for pid in pids))
        return node

    def bury(self, node):
        """End what else ran on a lost node."""
        self.cluster.remove_node(node, allow_graceful=False)

    def heal(self):
        """Bring the cluster back to two worker nodes."""
        while len(self.cluster.worker_nodes) < 2:
            self.add()

    def shutdown(self):
        ray.shutdown()
        self.cluster.shutdown()


def replicas_of(index):
    """What status() says of every replica, in one list."""
    return [told for shard in index.status(timeout=10)["shards"] for told in shard]


def wait_for(what, seconds=60):
    """Until the callable gives something true; what it gave."""
    deadline = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return value


def all_ready(index):
    return all(told["state"] == "ready" for told in replicas_of(index))


def is_gone(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def ask_first(index, keys):
    """Have the next searches ask these replicas, and note which were asked and failed."""
    others = {key for replicas in index._route.replicas for key in replicas} - set(keys)
    for key in others:
        index._health._rest[key] = (time.monotonic() + 600, 1.0)
    ill = []
    plain = index._health.ill

    def noting(key, now):
        ill.append(key)
        plain(key, now)

    index._health.ill = noting
    return ill
