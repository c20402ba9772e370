"""What a search asks for: looked at by the client, sent to shards, opened there.

A filter is sent as bytes, and opened once: a replica keeps the last few, with the rows
that they chose.  A client that searches with the same :class:`vecidx.Filter` again sends
what it has put into the object store before.
"""

import collections
import pickle
import threading

import numpy as np

import vecidx
from vecidx import filters
from vecidx.ray._framework import one_line

LARGE = 100_000              # bytes from which an argument is put into the object store once
KEPT = 8                     # filters that a client and a replica keep
FEW = 1_000                  # rows so few that comparing all is as quick as a walk
# What each question takes besides what all take.
OPTIONS = {"search": ("ef", "exact", "filter", "max_distance", "recall"),
           "range_search": ("ef", "exact", "filter")}


class Request:
    """One question to all shards: a method of an index and its arguments.

    Making it raises what an index would, before anything is sent.
    """

    def __init__(self, method, template, parcels, queries, arguments, options, timeout, hedge,
                 partial):
        if unknown := sorted(set(options) - set(OPTIONS[method])):
            raise TypeError(f"{method}: no argument {unknown[0]!r}; over shards it takes "
                            f"{', '.join(OPTIONS[method])}")
        for name, value in (("timeout", timeout), ("hedge", hedge)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ValueError(f"{name}: expected seconds above 0, got {value!r}")
        if partial not in ("raise", "allow"):
            raise ValueError(f"partial: expected 'raise' or 'allow', got {partial!r}")
        self.method, self.timeout, self.hedge, self.partial = method, timeout, hedge, partial
        options = {name: value for name, value in options.items() if value is not None}
        filter, recall = options.pop("filter", None), options.get("recall")
        # An empty index looks at the rest; of these two it cannot judge.
        self.empty = getattr(template, method)(queries, **arguments, **{
            name: value for name, value in options.items() if name != "recall"})
        if recall is not None:
            template._tuned.effort(recall, arguments["k"], options.get("ef"), exact=True)
        self.arguments = {**arguments, **options}
        self._pack(np.asarray(queries), filter, parcels)

    def _pack(self, queries, filter, parcels):
        """What is sent, made once: Ray serializes a call's arguments for each shard anew."""
        large = {}
        if filter is not None:
            filter = parcels.packed(as_sendable(filter, 1 if queries.ndim == 1 else len(queries)))
        if isinstance(filter, list):
            large["filter"], filter = filter, None
        if queries.nbytes > LARGE:
            large["queries"], queries = _by_reference(queries), None
        self._data = pickle.dumps((self.method, queries, self.arguments, filter))
        self._large = large

    def send(self, actor):
        """Ask a replica; the reference of its answer."""
        return actor.ask.remote(self._data, **self._large)


def as_sendable(filter, n_queries):
    """A Filter or a callable, or a list of these and None: one for each query."""
    if filters.is_one_each(filter):
        if len(filter) != n_queries:
            raise ValueError(f"filter: expected {n_queries}, one for each query, got a list of "
                             f"{len(filter)}")
        return [None if one is None else _sendable(one) for one in filter]
    return _sendable(filter)


def _sendable(filter):
    if isinstance(filter, (vecidx.Filter, _Chooser)):
        return filter
    return _Chooser(filter) if callable(filter) else filters.as_filter(filter)


class _Chooser:
    """A caller's function of ids.  What it raises is its caller's error, not a replica's."""

    def __init__(self, choose):
        self._choose = choose

    def __call__(self, ids):
        try:
            return self._choose(ids)
        except Exception as exc:
            raise ValueError(f"filter: the callable raised {one_line(exc)}") from exc


def _by_reference(value):
    import ray
    return ray.put(value)


class Parcels:
    """Filters on their way, the last few of them kept: in a client by the filter, in a replica
    by what arrived.  Any thread may use it."""

    def __init__(self):
        self._lock = threading.Lock()
        self._kept = collections.OrderedDict()

    def packed(self, filter):
        """What to send: bytes, or a list of a reference to them."""
        if not isinstance(filter, vecidx.Filter):        # a list is not worth to be known again
            return self._pack(filter)
        return self._get(filter, lambda: self._pack(filter))

    def opened(self, parcel):
        """The filter that was packed elsewhere."""
        if isinstance(parcel, bytes):
            return self._get(parcel, lambda: self._open(parcel))
        import ray
        reference, = parcel
        return self._get(reference, lambda: self._open(ray.get(reference)))

    @staticmethod
    def _pack(filter):
        import ray
        try:
            data = ray.cloudpickle.dumps(filter)
        except Exception as exc:
            raise TypeError(f"filter: cannot be sent to the shards: {one_line(exc)}") from exc
        # In a list Ray hands the reference on, not what it refers to.
        return data if len(data) <= LARGE else [_by_reference(data)]

    @staticmethod
    def _open(data):
        import ray
        try:
            return ray.cloudpickle.loads(data)
        except Exception as exc:             # a function of a module that is not here
            raise TypeError(f"filter: a shard cannot take it: {one_line(exc)}") from exc

    def _get(self, key, make):
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make()                        # twice at most, if two threads come at once
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return made


def answer(index, parcels, data, large):
    """What the index of one shard says to a request that was sent."""
    method, queries, arguments, filter = pickle.loads(data)
    queries, filter = large.get("queries", queries), large.get("filter", filter)
    if filter is not None:
        arguments["filter"] = parcels.opened(filter)
    if "recall" in arguments and len(index) < FEW:       # too few to have a curve
        del arguments["recall"]
        arguments["exact"] = True
    return getattr(index, method)(queries, **arguments)
