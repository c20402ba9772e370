"""Shards that take writes: one primary, which logs them, and followers that repeat them.

The primary (replica 0) holds the shard as a :func:`vecidx.open` index in the folder
`updates`.  A write is in its log, and in every follower that may answer searches,
before the writer is told.  So that this holds when processes and nodes are lost,
a follower answers only while it has a lease:

    joining    the primary makes a checkpoint; the follower loads it, then repeats what
               was written meanwhile, until nothing is left; then it has a lease
    renewing   every LEASE / 5 seconds the follower asks for its lease anew, which runs
               from before it asked
    expelled   a follower that did not confirm a write gets no lease any more; the
               writer is told when the last one it got is over
    a primary started again knows no follower and confirms nothing until every lease
               of its former self is over; meanwhile followers answer, and join anew

Both clocks only measure spans.  While a primary is away, searches go on for LEASE
seconds at followers; it is usually back by then.
"""

import json
import logging
import os
import threading
import time
import uuid

import numpy as np
import ray

import vecidx
from vecidx.errors import VecidxError
from vecidx.ray._framework import NAMESPACE, cause_of, one_line, was_restarted
from vecidx.ray._shard import Replica, local_copy
from vecidx.ray._store import chunks_of, write_whole
from vecidx.ray.errors import ReplicaNotReady

LEASE = 5.0                  # seconds
_logger = logging.getLogger("vecidx")


def check_updates(folder, manifest):
    """The absolute folder, ours to use; ValueError where it has the updates of another build."""
    folder = os.path.abspath(os.fspath(folder))
    os.makedirs(folder, exist_ok=True)
    note = os.path.join(folder, "updates.json")
    try:
        with open(note, encoding="utf-8") as file:
            if json.load(file)["fingerprint"] != manifest.fingerprint:
                raise ValueError(f"updates: {folder} has the updates of another build than "
                                 f"{manifest.url}; give another folder")
    except FileNotFoundError:
        if os.listdir(folder):
            raise ValueError(f"updates: {folder} is not empty, and not a folder of updates; give "
                             "another") from None
        write_whole(note, [json.dumps({"fingerprint": manifest.fingerprint}).encode()])
    return folder


class Primary(Replica):
    """The one writer of a shard; answers searches like any replica."""

    def __init__(self, job):
        self._lock = threading.RLock()       # order of writes; guards all below
        self._followers = {}                 # replica -> _Link, those in step
        self._joining = {}                   # replica -> _Link, with what they lack
        self._folded = False                 # does the file hold all that was written?
        # Until then a follower of a former self may answer without what is written here.
        self._confirm_at = time.monotonic() + (LEASE if was_restarted() else 0)
        super().__init__(job)

    def _load(self):
        path = os.path.join(self._job.updates, self._job.entry.file)
        if not os.path.exists(path):         # the first start: begin with the build's file
            with open(local_copy(self._job), "rb") as file:
                write_whole(path, chunks_of(file))
            self._folded = True
        return vecidx.open(path, num_threads=self._job.threads)

    @ray.method(concurrency_group="write")
    def write(self, kind, ids, rows, on_conflict):
        """Change the shard, everywhere; how many were deleted."""
        with self._lock:
            index = self._ready_index()
            if kind == "add" and on_conflict == "skip":
                fresh = np.fromiter((i not in index for i in ids.tolist()), bool, len(ids))
                ids, rows = ids[fresh], rows[fresh]
            began = time.monotonic()
            self._folded = False
            try:
                n = apply(index, kind, ids, rows,
                          "error" if on_conflict == "error" else "replace")
            except (ValueError, TypeError):  # refused: nothing has changed
                raise
            except BaseException:            # stopped half-way: who knows what they have
                self._expel(list(self._followers))
                raise
            self._repeat(kind, ids, rows, time.monotonic() - began)
            _sleep_until(self._confirm_at)
            return n

    def _repeat(self, kind, ids, rows, seconds):
        """Have every follower do the same, which took us so long; those that do not are expelled.
        """
        for link in self._joining.values():
            link.backlog.append((kind, ids, rows))
        refs = {replica: link.actor.apply.remote(link.incarnation, kind, ids, rows)
                for replica, link in self._followers.items()}
        deadline = time.monotonic() + max(LEASE, 3 * seconds)
        failed = []
        for replica, ref in refs.items():
            try:
                ray.get(ref, timeout=max(0.01, deadline - time.monotonic()))
            except ray.exceptions.RayError as err:
                _logger.warning("%s: follower %d is expelled: %s", self._job.name, replica,
                                one_line(cause_of(err)))
                failed.append(replica)
        self._expel(failed)

    def _expel(self, replicas):
        """Give them no lease any more, and confirm nothing before the last ones are over."""
        for replica in replicas:
            link = self._followers.pop(replica)
            self._confirm_at = max(self._confirm_at, link.lease_until)

    @ray.method(concurrency_group="link")
    def join(self, replica, incarnation, actor):
        """A follower begins: the path of a file with all that was written until now."""
        with self._lock:
            index = self._ready_index()
            if replica in self._followers:
                self._expel([replica])
            if not self._folded:
                index.checkpoint()
                self._folded = True
            self._joining[replica] = _Link(incarnation, actor)
            return index.path

    @ray.method(concurrency_group="link")
    def catch_up(self, replica, incarnation):
        """What a follower lacks still; an empty list once, and it has a lease."""
        with self._lock:
            self._ready_index()
            link = self._joining.get(replica)
            if link is None or link.incarnation != incarnation:
                raise ReplicaNotReady("the primary was started again meanwhile")
            backlog, link.backlog = link.backlog, []
            if not backlog:
                del self._joining[replica]
                self._followers[replica] = link
                link.lease_until = time.monotonic() + LEASE
            return backlog

    @ray.method(concurrency_group="lease")   # never behind one that waits for a write
    def renew(self, replica, incarnation):
        """May the follower go on answering?"""
        link = self._followers.get(replica)  # without the lock, which a write holds long
        if link is None or link.incarnation != incarnation:
            return False
        link.lease_until = time.monotonic() + LEASE
        # Expelled since: whoever expelled may have read the older time.
        return self._followers.get(replica) is link

    @ray.method(concurrency_group="control")
    def contains(self, ids):
        index = self._ready_index()
        return np.fromiter((i in index for i in ids.tolist()), bool, len(ids))

    @ray.method(concurrency_group="control")
    def count(self):
        return len(self._ready_index())

    def _ready_index(self):
        if self._index is None:
            raise ReplicaNotReady(self._why)
        return self._index


class _Link:
    """What a primary knows of a follower."""

    def __init__(self, incarnation, actor):
        self.incarnation = incarnation
        self.actor = actor
        self.backlog = []
        self.lease_until = 0.0


class Follower(Replica):
    """A replica that repeats what its primary writes, and answers while it has a lease."""

    def __init__(self, job):
        self._lease = (None, 0.0)            # the index it is for, and its end: one pair
        self._writing = (None, None)         # incarnation, and the index that takes its writes
        super().__init__(job)
        threading.Thread(target=self._keep_in_step, name="vecidx lease", daemon=True).start()

    def _primary(self):
        name = self._job.name.rsplit("/", 1)[0] + "/0"
        return ray.get_actor(name, NAMESPACE)

    def _load(self):
        primary = self._primary()
        incarnation = uuid.uuid4().hex
        actor = ray.get_runtime_context().current_actor
        path = ray.get(primary.join.remote(self._job.replica, incarnation, actor))
        index = vecidx.load(path, num_threads=self._job.threads)
        self._writing = (incarnation, index)             # older writes on their way are refused
        while True:
            asked = time.monotonic()
            backlog = ray.get(primary.catch_up.remote(self._job.replica, incarnation))
            if not backlog:
                self._lease = (index, asked + LEASE)
                return index
            for kind, ids, rows in backlog:
                apply(index, kind, ids, rows)

    def _keep_in_step(self):
        """Renew the lease; join anew where the primary does not know us."""
        while True:
            time.sleep(LEASE / 5)
            if self._index is None:          # _keep_loading is at it
                continue
            try:
                asked = time.monotonic()
                incarnation, _ = self._writing
                if ray.get(self._primary().renew.remote(self._job.replica, incarnation),
                           timeout=LEASE):
                    self._lease = (self._index, asked + LEASE)
                else:                        # what is here is told until the lease is over
                    self._index = self._load()
            except Exception as exc:         # the primary is away
                self._why = one_line(cause_of(exc))

    @ray.method(concurrency_group="write")
    def apply(self, incarnation, kind, ids, rows):
        """Do what the primary has done."""
        current, index = self._writing
        if incarnation != current:
            raise ReplicaNotReady("it joins anew")
        apply(index, kind, ids, rows)

    def _hold(self):
        super()._hold()
        index, until = self._lease
        return self._still(until, (index, until))

    @ray.method(concurrency_group="control")
    def status(self):
        told = super().status()
        if told["state"] == "ready" and time.monotonic() > self._lease[1]:
            told["state"] = f"not ready: its lease is over: {self._why}"
        return told


def apply(index, kind, ids, rows, on_conflict="replace"):
    """Do a write; how many vectors were deleted."""
    if kind == "add":
        index.add(rows, ids=ids, on_conflict=on_conflict)
        return 0
    if kind == "delete":
        return index.delete(ids, missing="ignore")
    raise VecidxError(f"no write of kind {kind!r}")


def _sleep_until(when):
    time.sleep(max(0.0, when - time.monotonic()))

