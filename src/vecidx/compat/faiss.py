"""The part of faiss that programs with embeddings use, over :class:`vecidx.Index`.

Flat and HNSW indexes of float32 vectors under L2 and inner product, maps of ids
over them, selectors, and functions beside them.  What is there and what is not,
and what differs, is in docs/migrate/compat.md.

As in faiss, a row of an index is known by its position, 0 to ``ntotal - 1``, and
positions close up when rows are removed.  Underneath every row has an id that
stays; ids rise with positions, so that the one is found from the other in a sorted
array, and there is no array while none was removed.
"""

import io
import re

import numpy as np

import vecidx
from vecidx.compat import _container
from vecidx.compat._errors import CompatError
from vecidx.compat._faiss_selectors import (
    IDSelector,
    IDSelectorAll,
    IDSelectorAnd,
    IDSelectorArray,
    IDSelectorBatch,
    IDSelectorBitmap,
    IDSelectorNot,
    IDSelectorOr,
    IDSelectorRange,
    IDSelectorXOr,
    SearchParameters,
    SearchParametersHNSW,
)

__all__ = [
    "IDSelector", "IDSelectorAll", "IDSelectorAnd", "IDSelectorArray", "IDSelectorBatch",
    "IDSelectorBitmap", "IDSelectorNot", "IDSelectorOr", "IDSelectorRange", "IDSelectorXOr",
    "Index", "IndexFlat", "IndexFlatIP", "IndexFlatL2", "IndexHNSW", "IndexHNSWFlat",
    "IndexHNSWSQ", "IndexIDMap", "IndexIDMap2", "METRIC_INNER_PRODUCT", "METRIC_L2",
    "ScalarQuantizer", "SearchParameters", "SearchParametersHNSW", "clone_index",
    "deserialize_index", "index_factory", "normalize_L2", "omp_get_max_threads",
    "omp_set_num_threads", "read_index", "serialize_index", "write_index",
]

METRIC_INNER_PRODUCT = 0
METRIC_L2 = 1
_METRICS = {METRIC_INNER_PRODUCT: "ip", METRIC_L2: "l2"}
_FAR = np.float32(np.finfo(np.float32).max)        # the distance of "none"
_KIND = "faiss.Index"


class ScalarQuantizer:
    """The names of number types that :class:`IndexHNSWSQ` takes."""

    QT_8bit = 0
    QT_8bit_uniform = 2


_QUANTIZATIONS = {ScalarQuantizer.QT_8bit: "sq8", ScalarQuantizer.QT_8bit_uniform: "sq8"}


class Index:
    """What all indexes have.  Make one of the others."""

    is_trained = True
    verbose = False

    def __init__(self, d, metric_type):
        if metric_type not in _METRICS:
            raise CompatError(f"metric: expected METRIC_L2 (1) or METRIC_INNER_PRODUCT (0), got "
                              f"{metric_type!r}; other metrics are not here")
        self.d = int(d)
        self.metric_type = int(metric_type)

    def __repr__(self):
        metric = "L2" if self.metric_type == METRIC_L2 else "inner product"
        return f"<faiss.{type(self).__name__} of vecidx: {self.ntotal:,} x {self.d}, {metric}>"

    def __len__(self):
        return self.ntotal

    def train(self, x):
        """Nothing to learn, except in IndexHNSWSQ; ``x`` is looked at all the same."""
        self._rows(x)

    def add_with_ids(self, x, ids):
        """Only an IndexIDMap can."""
        raise CompatError("add_with_ids not implemented for this type of index; put it into an "
                          "IndexIDMap")

    def search(self, x, k, *, params=None, D=None, I=None):  # noqa: E741
        """Distances, float32 (n, k), and labels, int64 (n, k), of the nearest rows.

        Squared distances that rise, or inner products that fall.  Where there
        are fewer than k, label -1 at the worst distance that a float32 can be.
        """
        distances, places = self._find(x, k, params)
        return _filled(D, distances, "D"), _filled(I, self._labels_at(places), "I")

    def search_and_reconstruct(self, x, k, *, params=None):
        """(distances, labels, vectors) of :meth:`search`; the vector of label -1 is NaN."""
        distances, places = self._find(x, k, params)
        found = np.full((*places.shape, self.d), np.nan, np.float32)
        found[places >= 0] = self._stored._at(places[places >= 0])
        return distances, self._labels_at(places), found

    def assign(self, x, k=1):
        """The labels that :meth:`search` gives."""
        return self.search(x, k)[1]

    def range_search(self, x, thresh, *, params=None):
        """(lims, distances, labels) of all rows nearer than ``thresh``.

        Those of row ``i`` of ``x`` are ``labels[lims[i]:lims[i + 1]]``.
        """
        lims, distances, places = self._stored._places_within(
            self._rows(x), float(thresh), params, self._allowed(params))
        return lims, distances, self._labels_at(places)

    def _find(self, x, k, params):
        """Distances and positions, -1 for none, of the k nearest."""
        rows, k = self._rows(x), int(k)
        if k < 1:
            raise CompatError(f"k: expected 1 or more, got {k}")
        return self._stored._nearest_places(rows, k, params, self._allowed(params))

    def _allowed(self, params):
        """The positions that a search may return, or None for all."""
        if params is None:
            return None
        if not isinstance(params, SearchParameters):
            raise TypeError(f"params: expected SearchParameters, got {type(params).__name__}")
        return None if params.sel is None else np.flatnonzero(params.sel.mask(self._labels()))

    def reconstruct(self, key):
        """The vector of a label."""
        return self.reconstruct_batch([key])[0]

    def reconstruct_n(self, n0=0, ni=-1):
        """The vectors at positions ``n0`` to ``n0 + ni - 1``; -1: to the end."""
        ni = self.ntotal - n0 if ni == -1 else ni
        return self._stored._at(np.arange(n0, n0 + ni))

    def remove_ids(self, x):
        """Take rows out: an IDSelector, or an array of labels.  Returns how many were there."""
        selector = x if isinstance(x, IDSelector) else IDSelectorBatch(x)
        chosen = selector.mask(self._labels())
        self._drop(chosen)
        return int(chosen.sum())

    def merge_from(self, other, add_id=0):
        """Add the rows of another index, which is empty afterwards."""
        if other is self or not isinstance(other, type(self)) or isinstance(self, IndexIDMap):
            raise CompatError(f"merge_from: expected another {type(self).__name__} that is no "
                              f"IndexIDMap, got {type(other).__name__}")
        if add_id:
            raise CompatError("add_id: only 0 is here; labels are positions")
        self.add(other.reconstruct_n())
        other.reset()

    def _rows(self, x):
        rows = np.asarray(x, np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.d:
            raise CompatError(f"x: expected an array of shape (n, {self.d}), got {rows.shape}")
        return rows

    def __getstate__(self):
        return serialize_index(self)

    def __setstate__(self, state):
        self.__dict__.update(deserialize_index(state).__dict__)


class _Stored(Index):
    """An index with rows of its own, known by position."""

    def __init__(self, d, metric_type):
        super().__init__(d, metric_type)
        self.reset()

    def reset(self):
        """Take all rows out."""
        self._native = None              # made at the first add, when parameters are settled
        self._ids = None                 # id of each position, once they differ

    @property
    def native(self):
        """The :class:`vecidx.Index` underneath; None before the first ``add``."""
        return self._native

    @property
    def ntotal(self):
        """How many rows there are."""
        return 0 if self._native is None else len(self._native)

    def add(self, x):
        """Add rows; their labels are the next positions."""
        rows = self._rows(x)
        if not self.is_trained:
            raise CompatError("Error: 'is_trained' failed: call train first")
        if self._native is None:
            self._native = vecidx.Index(self.d, _METRICS[self.metric_type], **self._parameters())
        added = self._native.add(rows)
        if self._ids is not None:
            self._ids = np.concatenate([self._ids, added])

    def _ids_at(self, positions):
        return positions if self._ids is None else self._ids[positions]

    def _at(self, positions):
        positions = np.asarray(positions, np.int64)
        bad = positions[(positions < 0) | (positions >= self.ntotal)]
        if bad.size:
            raise CompatError(f"Error: 'key < ntotal' failed: {bad[0]} of {self.ntotal} rows")
        if not positions.size:
            return np.empty((0, self.d), np.float32)
        return self._native.get(self._ids_at(positions))

    def reconstruct_batch(self, key):
        """The vectors of labels."""
        return self._at(key)

    @property
    def _stored(self):
        return self

    def _labels(self):
        """The label of each position."""
        return np.arange(self.ntotal)

    def _labels_at(self, places):
        return places

    def _drop(self, chosen):
        """Take out the rows that a mask over positions chooses."""
        if chosen.any():
            gone = self._ids_at(np.flatnonzero(chosen))
            left = self._ids_at(np.flatnonzero(~chosen))
            self._native.delete(gone)
            self._ids = left

    def _nearest_places(self, rows, k, params, allowed):
        worst = _FAR if self.metric_type == METRIC_L2 else -_FAR
        if self._native is None:
            return np.full((len(rows), k), worst), np.full((len(rows), k), -1)
        ids, distances = self._native.search(rows, k, **self._how(params, k),
                                             **self._filter(allowed))
        if self.metric_type == METRIC_INNER_PRODUCT:
            distances = 1 - distances
        distances[ids < 0] = worst
        return distances, self._places_of(ids)

    def _places_within(self, rows, thresh, params, allowed):
        l2 = self.metric_type == METRIC_L2
        if self._native is None or (l2 and thresh <= 0):
            return (np.zeros(len(rows) + 1, np.int64), np.empty(0, np.float32),
                    np.empty(0, np.int64))
        # vecidx takes what is just at the radius, faiss does not; what rounding of
        # 1 - dot lets in is taken out again below.
        radius = thresh if l2 else float(np.nextafter(np.float32(1 - thresh), np.float32(np.inf)))
        lims, ids, distances = self._native.range_search(rows, radius, **self._how(params, 1),
                                                         **self._filter(allowed))
        if not l2:
            distances = 1 - distances
        inside = distances < np.float32(thresh) if l2 else distances > np.float32(thresh)
        if not inside.all():
            lims = np.concatenate([[0], np.cumsum(inside)])[lims]
            ids, distances = ids[inside], distances[inside]
        return lims, distances, self._places_of(ids)

    def _places_of(self, ids):
        if self._ids is None:
            return ids
        return np.where(ids >= 0, np.searchsorted(self._ids, ids), -1)

    def _filter(self, allowed):
        """The filter argument of a search, where there is one."""
        return {} if allowed is None else {"filter": self._ids_at(allowed)}


class IndexFlat(_Stored):
    """Every search compares with every row.

    Parameters
    ----------
    d : int
        Values a vector has.
    metric : {METRIC_L2, METRIC_INNER_PRODUCT}
    """

    def __init__(self, d, metric=METRIC_L2):
        super().__init__(d, metric)

    def _parameters(self):
        return {"M": 2, "ef_construction": 8}      # no search walks the graph: the cheapest one

    def _how(self, params, k):
        return {"exact": True}

    def _describe(self):
        return {}


class IndexFlatL2(IndexFlat):
    """:class:`IndexFlat` under L2."""

    def __init__(self, d):
        super().__init__(d, METRIC_L2)


class IndexFlatIP(IndexFlat):
    """:class:`IndexFlat` under inner product."""

    def __init__(self, d):
        super().__init__(d, METRIC_INNER_PRODUCT)


class _HNSW:
    """The ``hnsw`` of an index: its parameters."""

    def __init__(self, owner):
        self._owner = owner
        self.efSearch = 16
        self._ef_construction = 40

    @property
    def efConstruction(self):
        return self._ef_construction

    @efConstruction.setter
    def efConstruction(self, value):
        if self._owner._native is not None and value != self._ef_construction:
            raise CompatError("efConstruction: the index holds rows already; set it before the "
                              "first add")
        self._ef_construction = int(value)


class IndexHNSW(_Stored):
    """What :class:`IndexHNSWFlat` and :class:`IndexHNSWSQ` share.

    ``hnsw.efConstruction`` is to be set before the first add, ``hnsw.efSearch``
    at any time.
    """

    def __init__(self, d, M=32, metric=METRIC_L2):
        self._M = int(M)
        self.hnsw = _HNSW(self)
        super().__init__(d, metric)

    def _parameters(self):
        return {"M": self._M, "ef_construction": max(self.hnsw.efConstruction, self._M)}

    def _how(self, params, k):
        ef = getattr(params, "efSearch", None) or self.hnsw.efSearch
        return {"ef": max(int(ef), k)}

    def _describe(self):
        return {"M": self._M, "efConstruction": self.hnsw.efConstruction,
                "efSearch": self.hnsw.efSearch}

    def _set(self, told):
        self.hnsw._ef_construction = told["efConstruction"]
        self.hnsw.efSearch = told["efSearch"]


class IndexHNSWFlat(IndexHNSW):
    """A graph over the rows as they are."""


class IndexHNSWSQ(IndexHNSW):
    """A graph over rows of a byte a value.

    The rows stay besides: the nearest are compared again by them, distances are
    theirs, and ``reconstruct`` gives them.

    Parameters
    ----------
    d : int
    qtype : {ScalarQuantizer.QT_8bit, ScalarQuantizer.QT_8bit_uniform}
    M : int
    metric : {METRIC_L2, METRIC_INNER_PRODUCT}
    """

    def __init__(self, d, qtype, M, metric=METRIC_L2):
        if qtype not in _QUANTIZATIONS:
            raise CompatError(f"qtype: expected ScalarQuantizer.QT_8bit (0) or QT_8bit_uniform "
                              f"(2), got {qtype!r}; others are not here")
        self._qtype = qtype
        super().__init__(d, M, metric)
        self.is_trained = False

    def train(self, x):
        """Has to be called before ``add``, as in faiss; the codes are learnt as rows come in."""
        super().train(x)
        self.is_trained = True

    def _parameters(self):
        return {**super()._parameters(), "quantization": _QUANTIZATIONS[self._qtype]}

    def _describe(self):
        return {**super()._describe(), "qtype": self._qtype, "is_trained": self.is_trained}

    def _set(self, told):
        super()._set(told)
        self.is_trained = told["is_trained"]


class IndexIDMap(Index):
    """Labels of one's own over an index that is empty.

    As in faiss nothing keeps a label from being given twice: both rows have it.
    """

    def __init__(self, index):
        if not isinstance(index, _Stored):
            raise CompatError(f"index: expected an index with rows of its own, got "
                              f"{type(index).__name__}")
        if index.ntotal:
            raise CompatError("index must be empty on input")
        super().__init__(index.d, index.metric_type)
        self.index = index
        self._map = np.empty(0, np.int64)
        self._places = None              # label -> last position, while nothing changes

    @property
    def ntotal(self):
        """How many rows there are."""
        return self.index.ntotal

    @property
    def is_trained(self):
        """Whether rows can be added."""
        return self.index.is_trained

    @property
    def id_map(self):
        """The label of each position."""
        return self._map.copy()

    def train(self, x):
        """Train what is underneath."""
        self.index.train(x)

    def reset(self):
        """Take all rows out."""
        self.index.reset()
        self._map, self._places = np.empty(0, np.int64), None

    def add(self, x):
        """An IndexIDMap has no labels to give."""
        raise CompatError("add does not make sense with IndexIDMap, use add_with_ids")

    def add_with_ids(self, x, ids):
        """Add rows under labels, int64."""
        rows, labels = self._rows(x), _as_labels(ids, "ids")
        if len(labels) != len(rows):
            raise CompatError(f"ids: not same nb of vectors as ids: {len(rows)} and "
                              f"{len(labels)}")
        self.index.add(rows)
        self._map, self._places = np.concatenate([self._map, labels]), None

    @property
    def _stored(self):
        return self.index

    def _labels(self):
        return self._map

    def _labels_at(self, places):
        if not len(self._map):
            return places
        return np.where(places >= 0, self._map[places], -1)

    def _drop(self, chosen):
        self.index._drop(chosen)
        self._map, self._places = self._map[~chosen], None

    def reconstruct_batch(self, key):
        """Only an IndexIDMap2 can."""
        raise CompatError("reconstruct not implemented for this type of index; use IndexIDMap2")


class IndexIDMap2(IndexIDMap):
    """An :class:`IndexIDMap` that gives the vector of a label back."""

    def reconstruct_batch(self, key):
        """The vectors of labels; of a label given twice, the last."""
        keys = _as_labels(key, "key")
        if self._places is None:
            self._places = {label: place for place, label in enumerate(self._map.tolist())}
        try:
            places = [self._places[label] for label in keys.tolist()]
        except KeyError as err:
            raise CompatError(f"key {err.args[0]} not found") from None
        return self.index._at(places)


# ---- functions ---------------------------------------------------------------------


def index_factory(d, description, metric=METRIC_L2):
    """An index by its words: "Flat", "HNSW32", "HNSW32,Flat", "HNSW32,SQ8", "HNSW32_SQ8", and
    "IDMap," or "IDMap2," before them."""
    match = re.fullmatch(r"(IDMap2?,)?(?:(Flat)|HNSW(\d*)(?:,Flat|[,_](SQ8))?)", description)
    if match is None:
        raise CompatError(f"could not parse index string {description!r}; here are Flat, HNSW32, "
                          "HNSW32,Flat and HNSW32,SQ8, with IDMap, or IDMap2, before them")
    id_map, flat, M, sq8 = match.groups()
    M = int(M or 32)
    if flat:
        index = {METRIC_L2: IndexFlatL2, METRIC_INNER_PRODUCT: IndexFlatIP}.get(
            metric, lambda d: IndexFlat(d, metric))(d)
    elif sq8:
        index = IndexHNSWSQ(d, ScalarQuantizer.QT_8bit, M, metric)
    else:
        index = IndexHNSWFlat(d, M, metric)
    if id_map:
        index = (IndexIDMap2 if id_map == "IDMap2," else IndexIDMap)(index)
    return index


def normalize_L2(x):
    """Give each row of a float32 array length 1, in place; rows of length 0 stay so."""
    if not isinstance(x, np.ndarray) or x.dtype != np.float32 or x.ndim != 2:
        raise TypeError("x: expected a float32 array of 2 dimensions, which is changed in place; "
                        f"got {getattr(x, 'dtype', type(x).__name__)} of shape {np.shape(x)}")
    lengths = np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64))
    lengths[lengths == 0] = 1
    np.divide(x, lengths[:, None], out=x, casting="same_kind")


def omp_set_num_threads(num_threads):
    """Threads that calls use, of the whole process."""
    vecidx.set_num_threads(num_threads)


def omp_get_max_threads():
    """Threads that calls use."""
    return vecidx.get_num_threads()


def write_index(index, fname):
    """Write an index to a file, in vecidx's format, which faiss cannot read."""
    _container.save(fname, _KIND, *_parts(index))


def read_index(fname, io_flags=0):
    """Read what :func:`write_index` wrote, or an index file of vecidx's own.

    The latter becomes an IndexIDMap2 over an IndexHNSWFlat, its ids the labels.
    ``io_flags`` can only be 0: the file is read, not mapped.
    """
    if io_flags:
        raise CompatError(f"io_flags: expected 0, got {io_flags}; vecidx.load maps index files")
    try:
        kind = _container.kind_of(fname)
    except OSError as err:
        raise CompatError(f"could not open {fname}: {err}") from err
    if kind == "index":
        return _of_native(vecidx.load(fname))
    if kind is None:
        raise vecidx.IndexFormatError(
            f"{fname}: not a file of vecidx; one of faiss itself is to be read by faiss, and "
            "its vectors (reconstruct_n) added here")
    return _of_parts(*_container.load(fname), str(fname))


def serialize_index(index):
    """The bytes of :func:`write_index`, a uint8 array."""
    return np.frombuffer(_container.to_bytes(_KIND, *_parts(index)), np.uint8)


def deserialize_index(data):
    """The index in an array that :func:`serialize_index` made."""
    data = np.ascontiguousarray(data, np.uint8)
    return _of_parts(*_container.parse(io.BytesIO(data.tobytes()), "data"), "data")


def clone_index(index):
    """A copy of its own."""
    return deserialize_index(serialize_index(index))


def _parts(index):
    """(state, arrays, index) for a container."""
    stored, state, arrays = index, {}, {}
    if isinstance(index, IndexIDMap):
        stored, state["map"] = index.index, type(index).__name__
        arrays["map"] = index._map
    if not isinstance(stored, _Stored):
        raise TypeError(f"index: expected one of vecidx.compat.faiss, got {type(index).__name__}")
    state.update({"class": type(stored).__name__, "d": stored.d, "metric": stored.metric_type,
                  **stored._describe()})
    if stored._ids is not None:
        arrays["ids"] = stored._ids
    return state, arrays, stored._native


def _of_parts(kind, state, arrays, native, what):
    if kind != _KIND:
        raise vecidx.IndexFormatError(f"{what}: holds a {kind}, not a {_KIND}")
    name, d, metric = state["class"], state["d"], state["metric"]
    if name == "IndexHNSWSQ":
        stored = IndexHNSWSQ(d, state["qtype"], state["M"], metric)
    elif name == "IndexHNSWFlat":
        stored = IndexHNSWFlat(d, state["M"], metric)
    elif name == "IndexFlat":
        stored = IndexFlat(d, metric)
    elif name in ("IndexFlatL2", "IndexFlatIP"):
        stored = globals()[name](d)
    else:
        raise vecidx.IndexFormatError(f"{what}: holds a {name}, which is unknown here")
    if isinstance(stored, IndexHNSW):
        stored._set(state)
    index = stored
    if "map" in state:
        index = {"IndexIDMap": IndexIDMap, "IndexIDMap2": IndexIDMap2}[state["map"]](stored)
        index._map = arrays["map"].copy()
    stored._native = native
    stored._ids = arrays["ids"].copy() if "ids" in arrays else None
    return index


def _of_native(native):
    metrics = {word: number for number, word in _METRICS.items()}
    if native.metric not in metrics:
        raise CompatError(f"an index under {native.metric!r} has no place here; under \"ip\", of "
                          "normalised vectors, it has")
    stored = IndexHNSWFlat(native.dim, native.M, metrics[native.metric])
    stored.hnsw._ef_construction = native.ef_construction
    index = IndexIDMap2(stored)
    stored._native = native
    stored._ids = np.sort(native.ids())
    index._map = stored._ids.copy()
    return index


def _as_labels(ids, name):
    labels = np.asarray(ids)
    if labels.ndim != 1 or (labels.size and labels.dtype.kind not in "iu"):
        raise CompatError(f"{name}: expected a 1-D array of integers, got {labels.dtype} of shape "
                          f"{labels.shape}")
    return labels.astype(np.int64)


def _filled(out, result, name):
    """The caller's array with the result in it, or the result where there is none."""
    if out is None:
        return result
    if out.shape != result.shape or out.dtype != result.dtype:
        raise CompatError(f"{name}: expected {result.dtype} of shape {result.shape}, got "
                          f"{out.dtype} of shape {out.shape}")
    out[...] = result
    return out
