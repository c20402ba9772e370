"""Neighbours of one query, ever farther ones, a batch at a time."""

import numpy as np

from vecidx._validate import INT64

FIRST_K = 32
MOST_K = 4096        # beyond, comparing with every vector is no slower than such a walk


class Neighbours:
    """Iterator over the neighbours of a query, from near to far.

    Made by :meth:`vecidx.Index.iterate`.  It holds no lock and no part of the
    index: it may be kept for any time, and go on while the index changes.
    """

    __slots__ = ("_at", "_batch", "_distances", "_given", "_has_all", "_ids", "_k", "_last",
                 "_search")

    def __init__(self, search, batch, ef, exact):
        self._search = lambda k: search(k, max(ef, 2 * k), exact or k > MOST_K)
        self._batch = batch
        self._given = np.empty(0, INT64)          # ids found so far
        self._ids = np.empty(0, INT64)            # ... of which those from _at on are to be given
        self._distances = np.empty(0, np.float32)
        self._at = 0
        self._last = (-np.inf, -1)                # distance and id of the last found
        self._k = max(FIRST_K, 2 * batch)
        self._has_all = False
        self._find_more()

    def __iter__(self):
        return self

    def __next__(self):
        while len(self._ids) - self._at < self._batch and not self._has_all:
            self._find_more()
        part = slice(self._at, self._at + self._batch)
        if part.start >= len(self._ids):
            raise StopIteration
        self._at = min(part.stop, len(self._ids))
        return self._ids[part].copy(), self._distances[part].copy()

    def _find_more(self):
        """Search for twice as many; keep what lies beyond what is known."""
        ids, distances = self._search(self._k)
        self._k *= 2
        n = int(np.count_nonzero(ids >= 0))
        self._has_all = n < len(ids)
        ids, distances = ids[:n], distances[:n]
        last, last_id = self._last
        beyond = (distances > last) | ((distances == last) & (ids > last_id))
        # One that was given may have moved away since.
        beyond &= ~np.isin(ids, self._given, assume_unique=True)
        ids, distances = ids[beyond], distances[beyond]
        if len(ids) > 0:
            self._last = distances[-1], ids[-1]
        self._given = np.concatenate([self._given, ids])
        self._ids = np.concatenate([self._ids[self._at:], ids])
        self._distances = np.concatenate([self._distances[self._at:], distances])
        self._at = 0
