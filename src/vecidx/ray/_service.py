"""Starting, finding and ending the actors of a service.

The names of the actors are the state of the service: service/generation/shard/replica.
The directory tells clients which generation serves now; started again after a loss it
finds that out from the names.
"""

import dataclasses
import time

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vecidx.ray._framework import NAMESPACE, one_line, was_restarted
from vecidx.ray._shard import Replica, ReplicaJob
from vecidx.ray.errors import ShardUnavailable

SEARCHES_AT_ONCE = 16        # threads of a replica that answer searches; others queue


@dataclasses.dataclass(frozen=True)
class Table:
    """Who serves: all that a client needs, and all that the directory keeps."""

    service: str
    version: int
    generation: int
    manifest: object
    replicas: int
    num_cpus: float
    cache: str | None
    mmap: bool | str
    updates: str | None
    detached: bool

    @property
    def n_shards(self):
        return len(self.manifest.shards)

    def name(self, shard, replica):
        return f"{self.service}/{self.generation}/{shard}/{replica}"

    def next(self, **changes):
        return dataclasses.replace(self, version=max(self.version + 1, time.time_ns()), **changes)


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Directory:
    """Keeps the table of one service."""

    def __init__(self, table):
        self._table = table
        if was_restarted():
            self._table = _recovered(table)

    def table(self, known=None):
        """The table, or None if it is the one that the caller knows."""
        return None if self._table.version == known else self._table

    def put(self, table, known):
        """Take a table over; False if the one here is not the one known."""
        if self._table.version == table.version:         # a retry of what was done
            return True
        if self._table.version != known:
            return False
        self._table = table
        return True


def directory_name(service):
    return f"{service}/directory"


def actor_names(service):
    """{(generation, shard, replica)} of a service's replicas, whatever their state."""
    found = set()
    for actor in ray.util.list_named_actors(all_namespaces=True):
        parts = actor["name"].split("/")
        if actor["namespace"] == NAMESPACE and parts[0] == service and len(parts) == 4:
            found.add(tuple(int(part) for part in parts[1:]))
    return found


def _recovered(table):
    """The table of a service whose directory was lost, from the actors' names.

    The oldest whole generation: a younger one beside it is a swap under way,
    whose caller has not been told that it is done.
    """
    names = actor_names(table.service)
    for generation in sorted({name[0] for name in names}):
        replicas = {shard: sum(n[:2] == (generation, shard) for n in names)
                    for _, shard, _ in (n for n in names if n[0] == generation)}
        if generation == table.generation:
            manifest = table.manifest
        else:
            shard = min(replicas)
            first = min(r for g, s, r in names if (g, s) == (generation, shard))
            actor = ray.get_actor(f"{table.service}/{generation}/{shard}/{first}", NAMESPACE)
            from vecidx.ray._manifest import read_manifest
            manifest = read_manifest(ray.get(actor.job.remote(), timeout=60).url)
        if len(replicas) == len(manifest.shards):
            return table.next(generation=generation, manifest=manifest,
                              replicas=min(replicas.values()))
    return table


# ---- replicas ------------------------------------------------------------------------


def start_replicas(table, first, stop):
    """Start replicas first to stop of every shard; {(shard, replica): handle}.

    Those of a shard are put on different nodes as far as there are free cores; where a
    node is lost, Ray starts its replicas on others.
    """
    nodes = sorted(node["NodeID"] for node in ray.nodes()
                   if node["Alive"] and node["Resources"].get("CPU", 0) >= table.num_cpus)
    if not nodes:
        raise ValueError(f"num_cpus: no node of the cluster has {table.num_cpus} CPUs")
    actors = {}
    try:
        for shard, entry in enumerate(table.manifest.shards):
            for replica in range(first, stop):
                job = ReplicaJob(table.service, table.generation, shard, replica,
                                 table.manifest.url, entry, table.cache, table.mmap,
                                 max(1, int(table.num_cpus)), table.updates)
                node = nodes[(shard + replica) % len(nodes)]
                actors[shard, replica] = _start(table, job, node)
    except BaseException:
        kill(actors.values())
        raise
    return actors


def _start(table, job, node):
    options = {"name": job.name, "namespace": NAMESPACE, "num_cpus": table.num_cpus,
               "max_restarts": -1, "max_task_retries": 0,
               "lifetime": "detached" if table.detached else None,
               "concurrency_groups": {"search": SEARCHES_AT_ONCE, "control": 4, "write": 1,
                                      "link": 4, "lease": 2},
               # Without the last word a replica waits for its node for ever while others are idle.
               "scheduling_strategy": NodeAffinitySchedulingStrategy(
                   node, soft=True, _spill_on_unavailable=True)}
    kind = Replica
    if job.updates is not None:
        from vecidx.ray._writable import Follower, Primary
        kind = Primary if job.replica == 0 else Follower
    return ray.remote(**options)(kind).remote(job)


def wait_ready(actors, seconds):
    """Until all replicas have loaded; ShardUnavailable names those that have not."""
    deadline = time.monotonic() + seconds
    refs = {actor.ready.remote(seconds): key for key, actor in actors.items()}
    reasons = {}
    for ref, (shard, replica) in refs.items():
        try:
            why = ray.get(ref, timeout=max(0.1, deadline - time.monotonic()))
        except ray.exceptions.GetTimeoutError:
            why = f"not started within {seconds:g} s (are there enough free CPUs?)"
        except ray.exceptions.RayError as err:
            why = one_line(err)
        if why is not None:
            reasons.setdefault(shard, []).append(f"replica {replica}: {why}")
    if reasons:
        reasons = {shard: "; ".join(told) for shard, told in reasons.items()}
        raise ShardUnavailable(f"replicas did not become ready: {describe(reasons)}", reasons)


def describe(reasons):
    """{shard: reason} as words."""
    shown = [f"shard {shard}: {reason}" for shard, reason in sorted(reasons.items())[:3]]
    more = len(reasons) - len(shown)
    return " | ".join(shown) + (f" | and {more} more" if more else "")


def kill(actors):
    """End actors for good."""
    for actor in actors:
        try:
            ray.kill(actor, no_restart=True)
        except (ValueError, ray.exceptions.RayError):    # gone already
            pass


def kill_named(service, names):
    """End replicas by (generation, shard, replica)."""
    for generation, shard, replica in names:
        try:
            kill([ray.get_actor(f"{service}/{generation}/{shard}/{replica}", NAMESPACE)])
        except ValueError:
            pass
