"""Which replica to ask, and when to ask another: decisions only, no Ray and no clock.

One Scatter follows one search.  Its driver sends what it is told to send and
tells it what came back:

    every shard is asked at once, one replica each, the least busy that is well
    no answer within `hedge` seconds    the next replica is asked too
    a replica fails                     the next is asked at once
    no replica is left                  the shard is missing, with what each said

Health remembers between searches who failed or was overtaken, and leaves them
out for a while: 1 s at first, twice as long each time, 30 s at most.
"""

import heapq
import threading

import numpy as np

FIRST_REST, LONGEST_REST = 1.0, 30.0


class Health:
    """What a client knows of replicas, by key.  Any thread may use it."""

    def __init__(self):
        self._lock = threading.Lock()
        self._busy = {}                      # key -> searches under way
        self._rest = {}                      # key -> (until, seconds)
        self._turn = 0

    def order(self, keys, now):
        """The keys in the order to ask: well and least busy first, those at rest last."""
        with self._lock:
            self._turn += 1
            n = len(keys)

            def rank(i):
                until, _ = self._rest.get(keys[i], (0, 0))
                return (until if until > now else 0, self._busy.get(keys[i], 0),
                        (i + self._turn) % n)

            return [keys[i] for i in sorted(range(n), key=rank)]

    def sent(self, key):
        with self._lock:
            self._busy[key] = self._busy.get(key, 0) + 1

    def ended(self, key):
        with self._lock:
            left = self._busy.get(key, 1) - 1
            if left > 0:
                self._busy[key] = left
            else:
                self._busy.pop(key, None)

    def well(self, key):
        with self._lock:
            self._rest.pop(key, None)

    def ill(self, key, now):
        """It failed, or another was asked instead and answered first."""
        with self._lock:
            until, seconds = self._rest.get(key, (0, 0))
            if until > now:                  # known already: searches that began before
                return
            seconds = min(LONGEST_REST, 2 * seconds) if seconds else FIRST_REST
            self._rest[key] = (now + seconds, seconds)


class Scatter:
    """One search over all shards.

    Parameters
    ----------
    replicas : list of list of hashable
        For each shard, its replicas' keys.
    health : Health
    hedge : float
        Seconds.
    now : float
        From here on, times are of the driver's clock.
    """

    def __init__(self, replicas, health, hedge, now):
        self._health = health
        self._hedge = hedge
        self._left = [health.order(keys, now) for keys in replicas]
        self._asked = [set() for _ in replicas]          # under way
        self._hedges = []                                # (when, shard)
        self.answers = {}
        self.reasons = {shard: [] for shard in range(len(replicas))}
        self.open = set(range(len(replicas)))

    def begin(self, now):
        """What to send first: [(shard, key)]."""
        return [pair for shard in sorted(self.open) for pair in self._ask(shard, now)]

    def wake_at(self):
        """When to call :meth:`overdue`, or None."""
        while self._hedges and self._hedges[0][1] not in self.open:
            heapq.heappop(self._hedges)
        return self._hedges[0][0] if self._hedges else None

    def overdue(self, now):
        """What to send because answers are late."""
        more = []
        while (when := self.wake_at()) is not None and when <= now:
            more += self._ask(heapq.heappop(self._hedges)[1], now)
        return more

    def answered(self, shard, key, value, now):
        self._health.ended(key)
        self._asked[shard].discard(key)
        self._health.well(key)
        if shard in self.open:
            self.open.discard(shard)
            self.answers[shard] = value
            for late in self._asked[shard]:  # asked before or beside this one
                self._health.ill(late, now)

    def failed(self, shard, key, reason, now):
        """What to send instead."""
        self._health.ended(key)
        self._asked[shard].discard(key)
        self._health.ill(key, now)
        if shard not in self.open:
            return []
        self.reasons[shard].append(f"{key}: {reason}")
        more = self._ask(shard, now)
        if not more and not self._asked[shard]:
            self.open.discard(shard)
        return more

    def give_up(self, reason):
        """The time is over, or the search is: nothing more is awaited."""
        for shard in self.open:
            self.reasons[shard] += [f"{key}: {reason}" for key in sorted(self._asked[shard])] or \
                [reason]
        self.open = set()
        for asked in self._asked:
            for key in asked:
                self._health.ended(key)
            asked.clear()

    def missing(self):
        """{shard: reason} of those without an answer."""
        return {shard: "; ".join(told) or "it has no replicas"
                for shard, told in self.reasons.items() if shard not in self.answers}

    def _ask(self, shard, now):
        if not self._left[shard]:
            return []
        key = self._left[shard].pop(0)
        self._asked[shard].add(key)
        self._health.sent(key)
        if self._left[shard]:
            heapq.heappush(self._hedges, (now + self._hedge, shard))
        return [(shard, key)]


class Found(tuple):
    """``(ids, distances)`` of a search; ``missing_shards`` names what was left out."""

    def __new__(cls, ids, distances, missing_shards=()):
        self = super().__new__(cls, (ids, distances))
        self.missing_shards = tuple(missing_shards)
        return self

    @property
    def ids(self):
        return self[-2]

    @property
    def distances(self):
        return self[-1]

    def __reduce__(self):
        return type(self), (*self, self.missing_shards)


class FoundInRange(Found):
    """``(lims, ids, distances)`` of a range search, in the same way."""

    def __new__(cls, lims, ids, distances, missing_shards=()):
        self = tuple.__new__(cls, (lims, ids, distances))
        self.missing_shards = tuple(missing_shards)
        return self

    @property
    def lims(self):
        return self[0]


def merge(parts, k, empty):
    """The k nearest of several results, by (distance, id); `empty` where there are none."""
    if not parts:
        return empty
    ids = np.concatenate([np.atleast_2d(ids) for ids, _ in parts], axis=1)
    distances = np.concatenate([np.atleast_2d(d) for _, d in parts], axis=1)
    # As unsigned, the id -1 of a missing neighbour is the highest.
    order = np.lexsort((ids.view(np.uint64), distances), axis=1)[:, :k]
    ids, distances = (np.take_along_axis(array, order, axis=1) for array in (ids, distances))
    return (ids, distances) if parts[0][0].ndim == 2 else (ids[0], distances[0])


def merge_ranges(parts, empty):
    """All results of several range searches, of each query by (distance, id)."""
    if not parts:
        return empty
    counts = np.array([np.diff(lims) for lims, _, _ in parts])
    ids = np.concatenate([ids for _, ids, _ in parts])
    distances = np.concatenate([distances for _, _, distances in parts])
    of_query = np.concatenate([np.repeat(np.arange(len(mine)), mine) for mine in counts])
    order = np.lexsort((ids, distances, of_query))
    return np.concatenate([[0], np.cumsum(counts.sum(axis=0))]), ids[order], distances[order]
