"""hnswlib's ``Index`` and ``BFIndex`` over :class:`vecidx.Index`.

Names, arguments, results and exceptions are those of hnswlib 0.8.0; what differs
is in docs/migrate/compat.md.  A label marked as deleted leaves the graph and its vector
waits here, since ``unmark_deleted`` may call it back.  Under ``"cosine"`` rows are
normalised here and searched by inner product, as hnswlib does: that is why a
zero vector is no error.
"""

import operator
import os
import threading

import numpy as np

import vecidx
from vecidx.compat import _container, _hnswlib_file
from vecidx.compat._errors import CompatError

__all__ = ["BFIndex", "Index"]

_METRICS = {"l2": "l2", "ip": "ip", "cosine": "ip"}
_MAX_THREADS = 4_096
_TOO_FEW = ("Cannot return the results in a contiguous 2D array. Probably ef or M is too small")
_TOO_MANY = "The number of elements exceeds the specified limit"
_CHUNK = 65_536                      # rows taken at a time from a file of hnswlib


class _Facade:
    """What Index and BFIndex share: space, rows, threads, searching."""

    def __init__(self, space, dim):
        if space not in _METRICS:
            raise CompatError("Space name must be one of l2, ip, or cosine.")
        self._space = space
        self._dim = operator.index(dim)
        self._num_threads = vecidx.get_num_threads()
        self._native = None              # the vecidx.Index, once there is one
        self._max_elements = 0
        self._next_label = 0
        self._lock = threading.RLock()   # writers; searches take none

    def __repr__(self):
        return f"<hnswlib.{type(self).__name__}(space={self._space!r}, dim={self._dim})>"

    def _need_native(self):
        if self._native is None:
            raise CompatError(f"{self!r} holds nothing yet: call init_index or load_index first")
        return self._native

    def _start(self, max_elements, **parameters):
        with self._lock:
            if self._native is not None:
                raise CompatError("The index is already initiated.")
            max_elements = _whole(max_elements, "max_elements")
            self._native = vecidx.Index(self._dim, _METRICS[self._space], **parameters)
            self._max_elements = max_elements
            self._next_label = 0

    def _rows(self, data):
        """Rows as the index stores them, float32 (n, dim)."""
        rows = np.asarray(data, np.float32)
        if rows.ndim not in (1, 2):
            raise CompatError(f"Input vector data wrong shape. Number of dimensions {rows.ndim}. "
                              "Data must be a 1D or 2D array.")
        rows = np.atleast_2d(rows)
        if rows.shape[1] != self._dim:
            raise CompatError("Wrong dimensionality of the vectors")
        return _unit(rows) if self._space == "cosine" else rows

    def _labels(self, ids, n):
        """int64 labels of n rows, each perhaps more than once."""
        if ids is None:
            return np.arange(self._next_label, self._next_label + n, dtype=np.int64)
        labels = np.asarray(ids)
        if labels.shape != (n,) and not (labels.ndim == 0 and n == 1):
            # hnswlib's own words; what it calls the shape is the number of axes.
            raise CompatError(f"The input label shape {labels.ndim} does not match the input "
                              f"data vector shape {n}")
        return _int64(labels.reshape(-1))

    def _threads(self, num_threads):
        n = _signed(num_threads, "num_threads")
        n = n if n > 0 else self._num_threads
        return min(n, _MAX_THREADS) if n > 0 else None

    def _search(self, data, k, num_threads, filter, **how):
        native = self._need_native()
        rows = self._rows(data)
        k = _whole(k, "k")
        if k == 0:
            return np.empty((len(rows), 0), np.uint64), np.empty((len(rows), 0), np.float32)
        if filter is not None:
            how["filter"] = _allowed(filter, native)
        if "ef" in how:
            how["ef"] = max(how["ef"], k)
        labels, distances = native.search(rows, k, num_threads=self._threads(num_threads), **how)
        if (labels < 0).any():
            raise CompatError(_TOO_FEW)
        return labels.view(np.uint64), distances

    def set_num_threads(self, num_threads):
        """Threads of calls that name no number; below 1: all CPUs."""
        self._num_threads = _signed(num_threads, "num_threads")

    @property
    def num_threads(self):
        """Threads of calls that name no number."""
        return self._num_threads

    @num_threads.setter
    def num_threads(self, value):
        self.set_num_threads(value)

    @property
    def native(self):
        """The :class:`vecidx.Index` underneath; None before ``init_index``."""
        return self._native

    def get_max_elements(self):
        """How many rows it may hold."""
        self._need_native()
        return self._max_elements

    def _take_native(self, path, index):
        """Take over an index of vecidx's own; its dim and metric must fit."""
        if index.dim != self._dim:
            raise CompatError(f"{os.fsdecode(path)}: expected dim {self._dim} (this index's), the "
                              f"file has {index.dim}")
        if index.metric not in (self._space, _METRICS[self._space]):
            raise CompatError(f"{os.fsdecode(path)}: expected the space {self._space!r}, the file "
                              f"has {index.metric!r}")
        return index

    def _read_container(self, path):
        """(state, arrays, index) of a file that save_index wrote."""
        kind, state, arrays, index = _container.load(path)
        if kind != self._KIND:
            raise CompatError(f"{os.fsdecode(path)}: holds a {kind}, not a {self._KIND}")
        self._fits(state, os.fsdecode(path))
        return state, arrays, index

    def _fits(self, state, where):
        if (state["space"], state["dim"]) != (self._space, self._dim):
            raise CompatError(
                f"{where}: expected space {self._space!r} and dim {self._dim} (this index's), got "
                f"{state['space']!r} and {state['dim']}")


class Index(_Facade):
    """``hnswlib.Index``: ``Index(space, dim)``, ``Index(params=dict)``, ``Index(index=other)``.

    Parameters
    ----------
    space : {"l2", "ip", "cosine"}
        Distances are the squared Euclidean one, 1 minus the dot product, 1 minus
        the cosine.
    dim : int
    """

    _KIND = "hnswlib.Index"

    def __init__(self, *args, **kwargs):
        if len(args) + len(kwargs) == 1:
            (only,) = [*args, *kwargs.values()]
            name = next(iter(kwargs), None)
            if name in (None, "params") and isinstance(only, dict):
                self._set_params(only)
                return
            if name in (None, "index") and isinstance(only, Index):
                self._set_params(only._params())
                return
        self._init_space(*args, **kwargs)

    def _init_space(self, space, dim):
        super().__init__(space, dim)
        self._ef = 10
        self._hidden = {}                # label -> row, of those marked as deleted
        self._allow_replace_deleted = False
        self._M = self._ef_construction = self._seed = 0

    def init_index(self, max_elements, M=16, ef_construction=200, random_seed=100,
                   allow_replace_deleted=False):
        """Make it ready for ``max_elements`` rows."""
        M = _whole(M, "M")
        ef_construction = max(_whole(ef_construction, "ef_construction"), M)
        self._start(max_elements, M=M, ef_construction=ef_construction,
                    seed=_whole(random_seed, "random_seed"))
        self._M, self._ef_construction, self._seed = M, ef_construction, int(random_seed)
        self._allow_replace_deleted = bool(allow_replace_deleted)

    # ---- writing ------------------------------------------------------------

    def add_items(self, data, ids=None, num_threads=-1, replace_deleted=False):
        """Add rows, or replace those whose labels are there; a deleted label comes back.

        Either all rows are added, or, where one cannot be, none.
        """
        with self._lock:
            native = self._need_native()
            rows = self._rows(data)
            labels = self._labels(ids, len(rows))
            if replace_deleted and not self._allow_replace_deleted:
                raise CompatError("Replacement of deleted elements is disabled in constructor")
            n_rows = len(rows)
            rows, labels = _last_of_each(rows, labels)
            revived = [label for label in labels.tolist() if label in self._hidden]
            if revived and self._allow_replace_deleted and not replace_deleted:
                raise CompatError("Can't use addPoint to update deleted elements if replacement "
                                  "of deleted elements is enabled.")
            new = self._count_new(labels)
            replaceable = len(self._hidden) - len(revived) if replace_deleted else 0
            if self._count() + max(0, new - replaceable) > self._max_elements:
                raise CompatError(_TOO_MANY)
            before = len(native)
            try:
                native.add(rows, labels, num_threads=self._threads(num_threads))
            finally:                     # interrupted, it may have added some of them
                back = [label for label in revived if label in native]
                for label in back:
                    del self._hidden[label]
                added = len(native) - before - len(back)
                for label in list(self._hidden)[:min(added, replaceable)]:
                    del self._hidden[label]
            self._next_label += n_rows

    def _count_new(self, labels):
        """How many of the labels are neither there nor deleted."""
        if not self._count():
            return len(labels)
        return sum(label not in self._native and label not in self._hidden
                   for label in labels.tolist())

    def mark_deleted(self, label):
        """Leave a row out of searches."""
        with self._lock:
            native, label = self._need_native(), _whole(label, "label", size_1=True)
            if label in self._hidden:
                raise CompatError("The requested to delete element is already deleted")
            if label not in native:
                raise CompatError("Label not found")
            row = native.get(label)
            native.delete(label)
            self._hidden[label] = row

    def unmark_deleted(self, label):
        """Take :meth:`mark_deleted` back."""
        with self._lock:
            native, label = self._need_native(), _whole(label, "label", size_1=True)
            if label not in self._hidden:
                raise CompatError("The requested to undelete element is not deleted"
                                  if label in native else "Label not found")
            native.add(self._hidden[label], [label])
            del self._hidden[label]

    def resize_index(self, new_size):
        """Change how many rows it may hold."""
        with self._lock:
            self._need_native()
            new_size = _whole(new_size, "new_size")
            if new_size < self._count():
                raise CompatError("Cannot resize, max element is less than the current number "
                                  "of elements")
            self._max_elements = new_size

    # ---- reading ------------------------------------------------------------

    def knn_query(self, data, k=1, num_threads=-1, filter=None):
        """Labels, uint64 (n, k), and distances, float32 (n, k), of the k nearest rows.

        ``filter``, a function of one label, is asked once for each label of the
        index, not on the way.  It is an error if a row has fewer than k neighbours.
        """
        return self._search(data, k, num_threads, filter, ef=self._ef)

    def get_items(self, ids=None, return_type="numpy"):
        """The vectors of labels: an array, or under "list" a list of lists."""
        native = self._need_native()
        if return_type not in ("numpy", "list"):
            raise ValueError('return_type should be "numpy" or "list"')
        if ids is None:
            return [] if return_type == "list" else np.empty(0, np.float32)
        labels = np.asarray(ids)
        if labels.ndim == 0:
            raise ValueError("get_items accepts a list of indices and returns a list of vectors")
        try:
            rows = native.get(_int64(labels))
        except KeyError:
            raise CompatError("Label not found") from None
        if native.metric == "cosine":    # of a file of vecidx's own: get gives what was added
            rows = _unit(rows)
        return rows.tolist() if return_type == "list" else rows

    def get_ids_list(self):
        """All labels, deleted ones among them."""
        with self._lock:
            return self._need_native().ids().tolist() + list(self._hidden)

    def _count(self):
        return len(self._native) + len(self._hidden)

    def get_current_count(self):
        """How many rows it holds, deleted ones among them."""
        with self._lock:
            self._need_native()
            return self._count()

    def __len__(self):
        return 0 if self._native is None else self.get_current_count()

    def set_ef(self, ef):
        """Candidates kept during a search."""
        self._ef = _whole(ef, "ef")

    # ---- files --------------------------------------------------------------

    def save_index(self, path_to_index):
        """Write it to a file that :meth:`load_index` and ``vecidx convert`` read."""
        with self._lock:
            self._need_native()
            _container.save(path_to_index, self._KIND, *self._parts())

    def load_index(self, path_to_index, max_elements=0, allow_replace_deleted=False):
        """Read a file of this class, of hnswlib, or of :meth:`vecidx.Index.save`.

        One of hnswlib's has its rows linked anew, which takes as long as adding
        them.  What the index held before is replaced, once all has been read.
        """
        max_elements = _whole(max_elements, "max_elements")
        kind = self._kind_of(path_to_index)
        with self._lock:
            if kind == "container":
                self._take(*self._read_container(path_to_index))
            elif kind == "index":
                self._adopt(self._take_native(path_to_index, vecidx.load(path_to_index)), {}, 0)
            else:
                dump = _hnswlib_file.read(path_to_index)
                if dump.dim != self._dim:
                    raise CompatError(f"{os.fsdecode(path_to_index)}: expected dim {self._dim} "
                                      f"(this index's), the file has {dump.dim}")
                self._take_dump(dump)
            if max_elements >= self._count():
                self._max_elements = max_elements
            self._allow_replace_deleted = bool(allow_replace_deleted)
            self._ef = 10

    @staticmethod
    def _kind_of(path):
        try:
            return _container.kind_of(path)
        except OSError as err:           # hnswlib says just so much
            raise CompatError(f"Cannot open file: {err}") from err

    def index_file_size(self):
        """Bytes that :meth:`save_index` would write, in the main."""
        counter = _Counter()
        self._need_native().save(counter)
        return counter.n_bytes

    # ---- its state, for pickles, copies and files -------------------------------

    def _parts(self):
        """(state, arrays, index) for a container."""
        state = {"space": self._space, "dim": self._dim, "max_elements": self._max_elements,
                 "ef": self._ef, "M": self._M, "ef_construction": self._ef_construction,
                 "random_seed": self._seed, "next_label": self._next_label,
                 "allow_replace_deleted": self._allow_replace_deleted}
        hidden = (np.stack(list(self._hidden.values())) if self._hidden
                  else np.empty((0, self._dim), np.float32))
        labels = np.fromiter(self._hidden, np.int64, len(self._hidden))
        return state, {"deleted": labels, "deleted_rows": hidden}, self._native

    def _take(self, state, arrays, index):
        hidden = dict(zip(arrays["deleted"].tolist(), arrays["deleted_rows"].copy()))
        self._adopt(index, hidden, state["max_elements"])
        self._M, self._ef_construction = state["M"], state["ef_construction"]
        self._seed, self._ef = state["random_seed"], state["ef"]
        self._next_label = len(index) + len(hidden)    # as hnswlib, whatever it was when saved
        self._allow_replace_deleted = state["allow_replace_deleted"]

    def _adopt(self, index, hidden, max_elements):
        """Let a vecidx.Index be what this stands on."""
        self._native, self._hidden = index, hidden
        self._max_elements = max(max_elements, self._count())
        self._next_label = self._count()
        self._M, self._ef_construction, self._seed = index.M, index.ef_construction, index.seed

    def _take_dump(self, dump, seed=100):
        native = native_of(dump, _METRICS[self._space], seed=seed,
                           prepare=_unit if self._space == "cosine" else None)
        hidden = {int(label): np.array(dump.rows[at]) for at, label in enumerate(dump.labels)
                  if dump.deleted[at] and int(label) not in native}
        self._adopt(native, hidden, dump.max_elements)

    def _params(self):
        with self._lock:
            params = {"space": self._space, "dim": self._dim, "num_threads": self._num_threads,
                      "ef": self._ef, "index_inited": self._native is not None}
            if self._native is not None:
                params["vecidx"] = _container.to_bytes(self._KIND, *self._parts())
            return params

    def _set_params(self, params):
        """Become what a dict says, one of this class or of hnswlib's pickles."""
        Index._init_space(self, params["space"], params["dim"])
        self._num_threads = int(params["num_threads"])
        if "vecidx" in params:
            _, state, arrays, index = _container.from_bytes(params["vecidx"])
            self._fits(state, "params")
            self._take(state, arrays, index)
        elif params["index_inited"]:
            self._take_dump(_hnswlib_file.of_state(params), seed=int(params["seed"]))
            self._allow_replace_deleted = bool(params.get("allow_replace_deleted", False))
        self._ef = int(params.get("ef", self._ef))

    def __getstate__(self):
        return (self._params(),)

    def __setstate__(self, state):
        self._set_params(state[0])

    # ---- what it is -----------------------------------------------------------

    @property
    def space(self):
        """``"l2"``, ``"ip"`` or ``"cosine"``."""
        return self._space

    @property
    def dim(self):
        """Values a vector has."""
        return self._dim

    @property
    def ef(self):
        """Candidates kept during a search; at least k are."""
        return self._ef

    @ef.setter
    def ef(self, value):
        self.set_ef(value)

    @property
    def max_elements(self):
        """How many rows it may hold; 0 before ``init_index``."""
        return self._max_elements

    @property
    def element_count(self):
        """How many rows it holds, deleted ones among them; 0 before ``init_index``."""
        return len(self)

    @property
    def ef_construction(self):
        """Candidates kept when a row is linked; 0 before ``init_index``."""
        return self._ef_construction

    @property
    def M(self):
        """Links a row keeps; 0 before ``init_index``."""
        return self._M


class BFIndex(_Facade):
    """``hnswlib.BFIndex``: every search compares with every row.

    Parameters
    ----------
    space : {"l2", "ip", "cosine"}
    dim : int
    """

    _KIND = "hnswlib.BFIndex"

    def init_index(self, max_elements):
        """Make it ready for ``max_elements`` rows."""
        # No search walks its graph, so that it is the cheapest one.
        self._start(max_elements, M=2, ef_construction=8)

    def add_items(self, data, ids=None):
        """Add rows, or replace those whose labels are there; all of them, or none."""
        with self._lock:
            native = self._need_native()
            rows = self._rows(data)
            labels = self._labels(ids, len(rows))
            n_rows = len(rows)
            rows, labels = _last_of_each(rows, labels)
            new = (sum(label not in native for label in labels.tolist()) if len(native)
                   else len(labels))
            if len(native) + new > self._max_elements:
                raise CompatError(_TOO_MANY + "\n")
            native.add(rows, labels, num_threads=self._threads(-1))
            self._next_label += n_rows

    def delete_vector(self, label):
        """Take a row out; nothing happens where it is not there."""
        with self._lock:
            label = _whole(label, "label", size_1=True)
            self._need_native().delete([label] if label < 2**63 else [], missing="ignore")

    def knn_query(self, data, k=1, num_threads=-1, filter=None):
        """Labels, uint64 (n, k), and distances, float32 (n, k), of the k nearest rows."""
        return self._search(data, k, num_threads, filter, exact=True)

    def get_current_count(self):
        """How many rows it holds."""
        return len(self._need_native())

    def __len__(self):
        return 0 if self._native is None else len(self._native)

    def save_index(self, path_to_index):
        """Write it to a file."""
        with self._lock:
            self._need_native()
            _container.save(path_to_index, self._KIND, *self._parts())

    def load_index(self, path_to_index, max_elements=0):
        """Read a file of this class, of hnswlib, or of :meth:`vecidx.Index.save`.

        ``max_elements`` says nothing, as in hnswlib: the file does.
        """
        kind = Index._kind_of(path_to_index)
        with self._lock:
            if kind == "container":
                state, _, index = self._read_container(path_to_index)
                limit = state["max_elements"]
            elif kind == "index":
                index, limit = self._take_native(path_to_index, vecidx.load(path_to_index)), 0
            else:
                dump = _hnswlib_file.read_flat(path_to_index)
                if dump.dim != self._dim:
                    raise CompatError(f"{os.fsdecode(path_to_index)}: expected dim {self._dim} "
                                      f"(this index's), the file has {dump.dim}")
                index, limit = native_of(dump, _METRICS[self._space]), dump.max_elements
            self._native = index
            self._max_elements = max(limit, len(index))
            self._next_label = len(index)

    def _parts(self):
        state = {"space": self._space, "dim": self._dim, "max_elements": self._max_elements}
        return state, {}, self._native

    def __getstate__(self):
        data = None if self._native is None else _container.to_bytes(self._KIND, *self._parts())
        return self._space, self._dim, self._num_threads, self._next_label, data

    def __setstate__(self, state):
        space, dim, num_threads, next_label, data = state
        self.__init__(space, dim)
        self._num_threads = num_threads
        if data is not None:
            _, told, _, self._native = _container.from_bytes(data)
            self._max_elements, self._next_label = told["max_elements"], next_label


def native_of(dump, metric, *, M=None, ef_construction=None, seed=100, prepare=None,
              num_threads=None):
    """A vecidx.Index of the rows of an hnswlib index that are not deleted.

    ``M`` and ``ef_construction`` are by default those it was made with; of a
    BFIndex, those of a graph that is not walked.
    """
    M = M or dump.M or 2
    ef_construction = ef_construction or dump.ef_construction or 8
    index = vecidx.Index(dump.dim, metric, M=M, ef_construction=ef_construction, seed=seed,
                         num_threads=num_threads)
    live = np.flatnonzero(~dump.deleted)
    for start in range(0, len(live), _CHUNK):
        part = live[start:start + _CHUNK]
        rows = np.ascontiguousarray(dump.rows[part], np.float32)
        index.add(prepare(rows) if prepare else rows, dump.labels[part])
    return index


def _unit(rows):
    """Rows of length 1; those of length 0 stay so."""
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    lengths[lengths == 0] = 1
    return (rows / lengths[:, None]).astype(np.float32)


def _last_of_each(rows, labels):
    """Rows and labels without those whose label comes again, in their order."""
    _, last = np.unique(labels[::-1], return_index=True)
    if len(last) == len(labels):
        return rows, labels
    keep = np.sort(len(labels) - 1 - last)
    return rows[keep], labels[keep]


def _allowed(filter, native):
    """The labels that a function of one label chooses."""
    if not callable(filter):
        raise TypeError(f"filter: expected a function of one label, got {type(filter).__name__}")
    labels = native.ids()
    return labels[np.fromiter((bool(filter(label)) for label in labels.tolist()), np.bool_,
                              len(labels))]


def _int64(labels):
    """Labels as int64; hnswlib's go up to 2**64 - 1, vecidx's to 2**63 - 1."""
    if labels.dtype.kind == "f":
        labels = labels.astype(np.int64)          # as hnswlib: 7.7 is 7
    if labels.size and (labels.min() < 0 or labels.max() > 2**63 - 1):
        raise CompatError("ids: expected labels of 0 to 2**63 - 1, got "
                          f"{labels.min() if labels.min() < 0 else labels.max()}")
    return labels.astype(np.int64)


def _whole(value, name, *, size_1=False):
    """An int of 0 or more; with `size_1` an array of one of them too."""
    if size_1 and isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    number = _signed(value, name)
    if number < 0:
        raise TypeError(f"{name}: expected 0 or more, got {number}")    # as pybind11 says it
    return number


def _signed(value, name):
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__} "
                        f"{value!r}") from None


class _Counter:
    """A file that only counts."""

    def __init__(self):
        self.n_bytes = 0

    def write(self, data):
        self.n_bytes += len(data)
        return len(data)
