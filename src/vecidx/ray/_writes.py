"""The client's side of writes, and of calls that go by id: part, send, wait for all."""

import time

import numpy as np

import vecidx
from vecidx.ray._framework import cause_of, one_line
from vecidx.ray._manifest import shard_of
from vecidx.ray.errors import ReplicaNotReady, ShardUnavailable


def add(route, vectors, ids, on_conflict, timeout):
    """Send each row to its shard's primary; the ids, when all are safe."""
    if on_conflict not in ("replace", "error", "skip"):
        raise ValueError("on_conflict: expected 'replace', 'error' or 'skip', got "
                         f"{on_conflict!r}")
    rows, ids = np.atleast_2d(np.asarray(vectors)), as_ids(ids)
    # No shard may take its part where another refuses: an index to be thrown away looks first.
    route.empty(M=2, ef_construction=1).add(vectors)
    if len(ids) != len(rows):
        raise ValueError(f"ids: expected {len(rows)}, one for each vector, got {len(ids)}")
    once, counts = np.unique(ids, return_counts=True)
    if len(once) != len(ids):
        raise ValueError(f"ids: {once[np.argmax(counts)]} comes twice")
    _all(route, [(shard, key, "write", ("add", ids[at], rows[at], on_conflict))
                 for shard, key, at in route.primaries(ids)], timeout)
    return ids


def delete(route, ids, missing, timeout):
    """Delete at each shard's primary; how many went."""
    if missing not in ("error", "ignore"):
        raise ValueError(f"missing: expected 'error' or 'ignore', got {missing!r}")
    ids = np.unique(as_ids(ids))
    parts = route.primaries(ids)
    if missing == "error":
        found = _all(route, [(shard, key, "contains", (ids[at],)) for shard, key, at in parts],
                     timeout)
        for (_, _, at), here in zip(parts, found):
            if not here.all():
                raise KeyError(f"id {ids[at][~here][0]} is not in the index")
    return sum(_all(route, [(shard, key, "write", ("delete", ids[at], None, None))
                            for shard, key, at in parts], timeout))


def get(route, health, ids, timeout):
    """Vectors by id, each from any replica of its shard that is well."""
    import ray
    is_scalar, ids = np.ndim(ids) == 0, as_ids(ids)
    out = np.empty((len(ids), route.table.manifest.dim), route.template.get([]).dtype)
    found = np.zeros(len(ids), bool)
    deadline = time.monotonic() + timeout
    shards = shard_of(ids, route.table.n_shards)
    for shard in np.unique(shards):
        at = np.flatnonzero(shards == shard)
        told = []
        for key in health.order(route.replicas[shard], time.monotonic()):
            try:
                here, rows = ray.get(route.actor(key).get.remote(ids[at]),
                                     timeout=max(0.01, deadline - time.monotonic()))
                break
            except (ray.exceptions.RayError, ValueError) as err:
                health.ill(key, time.monotonic())
                told.append(f"{key}: {one_line(cause_of(err))}")
        else:
            reason = "; ".join(told)
            raise ShardUnavailable(f"get: shard {shard} did not answer: {reason}",
                                   {int(shard): reason})
        out[at[here]], found[at[here]] = rows, True
    if not found.all():
        raise KeyError(f"id {ids[~found][0]} is not in the index")
    return out[0] if is_scalar else out


def count(route, timeout=10.0):
    """Rows in all shards, as their primaries say."""
    return sum(_all(route, [(shard, keys[0], "count", ())
                            for shard, keys in enumerate(route.replicas)], timeout))


def as_ids(ids):
    """int64 ids, by an index's own rules."""
    vecidx.Index(1).delete(ids, missing="ignore")        # empty: it looks at them, no more
    ids = np.asarray(ids).reshape(-1).astype(np.int64)
    if ids.size and ids.min() < 0:
        raise ValueError(f"ids[{int(np.argmin(ids))}]: {ids.min()} is negative (ids are 0 to "
                         "2**63 - 1)")
    return ids


def _all(route, calls, timeout):
    """Call every (shard, key, method, arguments) at once; the results, when all are there.

    What a shard's own index refuses is raised as it is; else ShardUnavailable.
    """
    import ray
    deadline = time.monotonic() + timeout
    refs, reasons, refused, results = [], {}, None, []
    for shard, key, method, arguments in calls:
        try:
            refs.append(getattr(route.actor(key), method).remote(*arguments))
        except ValueError as err:
            refs.append(None)
            reasons[shard] = f"{key}: {one_line(err)}"
    for (shard, key, _, _), ref in zip(calls, refs):
        if ref is None:
            continue
        try:
            results.append(ray.get(ref, timeout=max(0.01, deadline - time.monotonic())))
        except ray.exceptions.GetTimeoutError:
            reasons[shard] = f"{key}: no answer within {timeout:g} s"
        except ray.exceptions.RayError as err:
            cause = cause_of(err)
            if isinstance(cause, (ValueError, TypeError, KeyError)):
                refused = refused or cause
            else:
                reasons[shard] = f"{key}: {cause}" if isinstance(cause, ReplicaNotReady) else \
                    f"{key}: {one_line(cause)}"
    if reasons:
        from vecidx.ray._service import describe
        raise ShardUnavailable(f"{len(reasons)} of {len(calls)} shards did not confirm; the rest "
                               f"is done: {describe(reasons)}", reasons)
    if refused is not None:
        raise refused from None
    return results
