"""The actor that holds one replica of one shard, and answers searches.

It loads in a thread of its own and tries again while it cannot, so that a
damaged file or an absent disk is a replica that says why it does not answer,
not one that is started over and over.  Started again by Ray after a crash or
on another node, it does the same: a restart is a load, never a build.
"""

import dataclasses
import getpass
import logging
import math
import os
import socket
import tempfile
import threading
import time

import ray

import vecidx
from vecidx.errors import IndexFormatError
from vecidx.ray._framework import cause_of, one_line, was_restarted
from vecidx.ray._manifest import Shard
from vecidx.ray._request import Parcels, answer
from vecidx.ray._store import Store, chunks_of, sha256_of, write_whole
from vecidx.ray.errors import ReplicaNotReady

RETRY = 0.5                  # seconds between attempts to load, and up to ten times that
# Of these, waiting for the next attempt is no use to who starts a service.
HOPELESS = (IndexFormatError, FileNotFoundError, ImportError, TypeError)
_logger = logging.getLogger("vecidx")


@dataclasses.dataclass(frozen=True)
class ReplicaJob:
    """What a replica is, known before it starts and after every restart."""

    service: str
    generation: int
    shard: int
    replica: int
    url: str                                 # of the store
    entry: Shard
    cache: str | None                        # a local folder for copies of shard files
    mmap: bool | str
    threads: int
    updates: str | None                      # the folder of a service that takes writes

    @property
    def name(self):
        return f"{self.service}/{self.generation}/{self.shard}/{self.replica}"


class Replica:
    """One replica of a shard that does not change."""

    def __init__(self, job):
        self._job = job
        self._index = None
        self._why = "it is still loading"
        self._tried = threading.Event()      # loaded, or failed once
        self._filters = Parcels()
        self._n_searches = 0
        self._since = time.time()
        threading.Thread(target=self._keep_loading, name="vecidx load", daemon=True).start()

    def _keep_loading(self):
        wait = RETRY
        while self._index is None:
            try:
                self._index = self._load()
                self._tried.set()
            except Exception as exc:
                cause = cause_of(exc)
                if (why := one_line(cause)) != self._why:
                    _logger.warning("%s: not ready: %s", self._job.name, why)
                self._why = why
                if isinstance(cause, HOPELESS):
                    self._tried.set()
                time.sleep(wait)
                wait = min(10 * RETRY, 1.5 * wait)

    def _load(self):
        path = local_copy(self._job)
        return vecidx.load(path, mmap=self._job.mmap, num_threads=self._job.threads)

    @ray.method(concurrency_group="search")
    def ask(self, data, **large):
        """The answer to a Request that was sent."""
        index, until = self._hold()
        self._n_searches += 1
        return self._still(until, answer(index, self._filters, data, large))

    @ray.method(concurrency_group="search")
    def get(self, ids):
        """(which of the ids are here, their rows)."""
        index, until = self._hold()
        here = [i for i, label in enumerate(ids.tolist()) if label in index]
        return self._still(until, (here, index.get(ids[here])))

    def _hold(self):
        """The index, and until when what it answers may be told."""
        index = self._index
        if index is None:
            raise ReplicaNotReady(self._why)
        return index, math.inf

    @staticmethod
    def _still(until, answer):
        if time.monotonic() > until:
            raise ReplicaNotReady("its lease is over: the primary is away, or has expelled it")
        return answer

    @ray.method(concurrency_group="control")
    def ready(self, seconds):
        """None once loaded; else, after at most so long, why it is not."""
        self._tried.wait(seconds)
        return None if self._index is not None else self._why

    @ray.method(concurrency_group="control")
    def job(self):
        return self._job

    @ray.method(concurrency_group="control")
    def status(self):
        index = self._index
        context = ray.get_runtime_context()
        return {"shard": self._job.shard, "replica": self._job.replica,
                "state": "ready" if index is not None else f"not ready: {self._why}",
                "rows": None if index is None else len(index),
                "searches": self._n_searches, "up_seconds": time.time() - self._since,
                "node": context.get_node_id(), "host": socket.gethostname(), "pid": os.getpid(),
                "restarted": was_restarted()}


def local_copy(job):
    """The path of the shard's file on this machine, its checksum compared."""
    store, entry = Store(job.url), job.entry
    source = store.local_path(entry.file)
    if source is not None and job.cache is None:
        _compare(source, entry)
        return source
    folder = job.cache or os.path.join(tempfile.gettempdir(), f"vecidx-{getpass.getuser()}")
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"{entry.sha256[:32]}.vidx")
    try:
        _compare(path, entry)
    except (FileNotFoundError, IndexFormatError):        # not there yet, or damaged since
        with store.open(entry.file) as file:
            write_whole(path, chunks_of(file))
        _compare(path, entry, store.where(entry.file))
    return path


def _compare(path, entry, shown=None):
    with open(path, "rb") as file:
        if sha256_of(file) != (entry.sha256, entry.bytes):
            raise IndexFormatError(f"{shown or path}: is not the file that the manifest names: its "
                                   "checksum is wrong; build() again mends it")
