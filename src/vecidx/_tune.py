"""Recall, measured: of a search as it is, and as a curve that says which ef is enough.

Truth is an exact search, and a neighbour counts as found when it is no farther
than the k-th of that, so that ties count as right.  Where no queries are given,
rows of the index stand for them: each is searched for as if it were not there.

The curves are kept with the index as bytes (docs/FORMAT.md, "tuned").
"""

import math
import struct
import warnings
from typing import NamedTuple

import numpy as np

from vecidx import _core
from vecidx._validate import check_share
from vecidx.errors import IndexFormatError

CONFIDENCE = 1.96            # of intervals, in standard deviations: 95 %
SAFETY = 2.0                 # a promise is this many deviations below what was measured
STEP = 1.2                   # from one ef of a curve to the next
ENOUGH = 0.999               # a curve ends there, or at this ef beyond k: to compare with
MOST_EF = 1_024              # every vector costs little more than a longer walk
N_SAMPLE = 2_000             # rows that stand for queries
STALE = 1.25                 # times as many rows as when it was measured: tune again

_HEAD = struct.Struct("<IIQQ")           # k, points, rows, queries
_POINT = np.dtype([("ef", "<u4"), ("recall", "<f4"), ("error", "<f4"), ("unused", "<u4")])


class Recall(NamedTuple):
    """A share that was measured, and between what the true one lies (95 %)."""

    value: float
    low: float
    high: float
    queries: int


class Curve(NamedTuple):
    """Recall by ef, for one k: rising in both."""

    k: int
    rows: int                            # in the index when it was measured
    queries: int
    ef: np.ndarray
    recall: np.ndarray
    error: np.ndarray                    # standard deviation of each recall

    def ef_for(self, recall):
        """The least ef that is expected to have a recall; None: none that was measured."""
        sure = np.maximum.accumulate(self.recall.astype(np.float64) - SAFETY * self.error)
        at = int(np.searchsorted(sure, recall))
        if at == len(sure):
            return None
        if at == 0:
            return int(self.ef[0])
        # Between two points what is missed falls as a power of ef.
        lows = np.log(1 - np.minimum(sure[at - 1:at + 1], 1 - 1e-6))
        share = (math.log(max(1 - recall, 1e-6)) - lows[0]) / (lows[1] - lows[0])
        efs = np.log(self.ef[at - 1:at + 1])
        return math.ceil(round(math.exp(efs[0] + share * (efs[1] - efs[0])), 3))


def interval(shares):
    """What :class:`Recall` says of one share for each query (Wilson, by effective size)."""
    n = len(shares)
    mean, variance = float(shares.mean()), float(shares.var(ddof=1)) / n if n > 1 else 0.0
    # As many independent yes-or-no answers would vary as much; n where nothing varied.
    size = mean * (1 - mean) / variance if variance > 0 else n
    z2 = CONFIDENCE**2 / size
    middle = (mean + z2 / 2) / (1 + z2)
    half = math.sqrt(z2 * (mean * (1 - mean) + z2 / 4)) / (1 + z2)
    return Recall(mean, min(max(middle - half, 0.0), mean), max(min(middle + half, 1.0), mean), n)


def shares_found(distances, kth):
    """Of each query, the share of its neighbours that were found, of those there are.

    `kth` holds the exact distances of as many neighbours, rising, +inf where
    there are fewer.
    """
    there = np.isfinite(kth)
    limit = np.where(there, kth, -np.inf).max(axis=1, keepdims=True)
    found = (np.isfinite(distances) & (distances <= limit)).sum(axis=1)
    return found / np.maximum(there.sum(axis=1), 1)


def measure(search, exact, most_ef, k, queries):
    """A curve's points, from searches at ever larger ef until nearly all is found."""
    kth = exact(k)
    efs, recalls, errors = [], [], []
    ef = k
    while True:
        shares = shares_found(search(k, ef), kth)
        efs.append(ef)
        recalls.append(float(shares.mean()))
        errors.append(float(shares.std(ddof=1) / math.sqrt(queries)) if queries > 1 else 0.0)
        if recalls[-1] >= ENOUGH or ef >= most_ef:
            return (np.array(efs, np.uint32), np.array(recalls, np.float32),
                    np.array(errors, np.float32))
        ef = min(max(ef + 1, math.ceil(ef * STEP)), most_ef)


def unseen(core, threads):
    """(search, exact, how many): as :func:`measure` wants them, by rows of the index."""
    sample = np.empty(N_SAMPLE, np.int64)
    sample = sample[:_core.sample_rows(core, sample)]

    def run(k, ef, exact):
        ids = np.empty((len(sample), k), np.int64)
        distances = np.empty((len(sample), k), np.float32)
        _core.search_rows(core, sample, k, ef, exact, not exact, _core.ON_MISSING["ignore"],
                          threads, ids, distances)
        return distances

    return (lambda k, ef: run(k, ef, False)), (lambda k: run(k, 0, True)), len(sample)


class Tuned:
    """The curves of an index, by k."""

    __slots__ = ("_core", "_curves", "_warned")

    def __init__(self, core):
        self._core = core
        self._warned = False
        self._curves = unpack(_core.get_note(core, _core.NOTES["tuned"]))

    @property
    def curves(self):
        return self._curves

    def put(self, curves):
        """Keep curves, in place of older ones of the same k."""
        curves = {**self._curves, **{curve.k: curve for curve in curves}}
        _core.set_note(self._core, _core.NOTES["tuned"], pack(curves))
        self._curves = curves
        self._warned = False

    def effort(self, recall, k, ef, exact):
        """(ef, exact) with which a search of k neighbours has a recall."""
        if ef is not None:
            raise ValueError("recall: says how far to search, and so does ef; give one of them")
        recall = check_share(recall, name="recall")
        if exact or recall == 1:
            return None, True
        curve = self._curves.get(k)
        if curve is None:
            known = ", ".join(map(str, sorted(self._curves))) or "none"
            raise ValueError(f"recall: no curve for k={k} (there is: {known}); call "
                             f"index.tune(k={k}) first, or give ef")
        self._warn_if_stale(curve)
        ef = curve.ef_for(recall)
        return ef, ef is None

    def _warn_if_stale(self, curve):
        n = self._core.count()
        if self._warned or n <= STALE * curve.rows:
            return
        self._warned = True
        warnings.warn(f"vecidx: recall was measured on {curve.rows:,} vectors and there are "
                      f"{n:,} now; call index.tune(k={curve.k}) again", stacklevel=4)


def pack(curves):
    """Curves to bytes."""
    parts = []
    for k in sorted(curves):
        curve = curves[k]
        points = np.zeros(len(curve.ef), _POINT)
        points["ef"], points["recall"], points["error"] = curve.ef, curve.recall, curve.error
        parts += [_HEAD.pack(k, len(points), curve.rows, curve.queries), points.tobytes()]
    return b"".join(parts)


def unpack(data):
    """Bytes to curves by k; IndexFormatError where they are none."""
    curves, at = {}, 0
    while at < len(data):
        if len(data) - at < _HEAD.size:
            raise _damaged(at, "ends within a curve")
        k, n, rows, queries = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        if k == 0 or k in curves or n == 0 or n > (len(data) - at) // _POINT.itemsize:
            raise _damaged(at, f"a curve of k={k} with {n} points")
        points = np.frombuffer(data, _POINT, n, at)
        at += n * _POINT.itemsize
        ef, recall, error = points["ef"], points["recall"], points["error"]
        if not (ef[0] >= k and (np.diff(ef.astype(np.int64)) > 0).all()
                and ((recall >= 0) & (recall <= 1)).all()
                and ((error >= 0) & (error <= 1)).all()):
            raise _damaged(at, f"the curve of k={k} does not rise from k, or has no shares")
        curves[k] = Curve(k, rows, queries, ef, recall, error)
    return curves


def _damaged(at, what):
    return IndexFormatError(f"section 'tuned' (at its byte {at}): {what}")
