"""class Index: arguments checked, defaults filled in, the core called.

No algorithm lives here.  The order of every method is the same: check
everything (nothing has changed yet when a check fails), allocate the results,
make one core call.
"""

import pickle

import numpy as np

from vecidx import _core, _progress, _storage, _tune
from vecidx._asking import Asking
from vecidx._iterate import Neighbours
from vecidx._saving import Saving
from vecidx._showing import Showing
from vecidx._tending import Tending
from vecidx._validate import (
    FLOAT32,
    INT64,
    MAX_DIM,
    MAX_K,
    NUMPY_DTYPES,
    as_label,
    as_labels,
    as_matrix,
    bytes_of,
    check_distance,
    check_dtype,
    check_ef,
    check_int,
    check_k,
    check_quantization,
    check_threads,
    check_word,
)

_METRIC_OF_NUMBER = {number: word for word, number in _core.METRICS.items()}
_DTYPE_OF_NUMBER = {number: word for word, number in _core.DTYPES.items()}
_QUANTIZATION_OF_NUMBER = {number: word for word, number in _core.QUANTIZATIONS.items()}

_empty = np.empty           # looked up once: search() of one vector is counted in microseconds
_ndarray = np.ndarray


class Index(Asking, Tending, Saving, Showing):
    """An approximate nearest-neighbour index (HNSW) over vectors with ids.

    Parameters
    ----------
    dim : int
        Values a vector has, 1 to 65,536; of bits, how many they are.
    metric : {"l2", "ip", "cosine", "hamming", "jaccard"}
        What ``distances`` are: ``"l2"`` the squared Euclidean distance,
        ``"ip"`` 1 minus the dot product, ``"cosine"`` 1 minus the cosine; of
        vectors of bits, ``"hamming"`` how many differ, ``"jaccard"`` the share
        of those set in either that is not set in both (0 where none is set).
        Smaller is nearer for all of them.
    dtype : {"float32", "float16", "bfloat16", "int8", "uint8", "bits"}, optional
        How vectors are stored, and compared with float32 queries; by default
        ``"bits"`` for ``"hamming"`` and ``"jaccard"``, else ``"float32"``.
        ``"bits"``: vectors and queries are uint8 arrays of shape
        ``(n, ceil(dim / 8))``, as ``numpy.packbits(rows, axis=-1)`` makes them,
        with zeros behind the last bit; distances are exact.  Floats are
        rounded to it (under ``"cosine"`` their direction is); integers have to
        be whole numbers in its range, and are compared exactly.
    M : int
        Links a row keeps in the graph, 2 to 127.  More raises recall, memory
        (about ``8 * M`` bytes a row) and build time.
    ef_construction : int
        Size of the candidate list when a row is linked, 1 to 65,536; the walk
        of a build expands the nearest half of it.  More raises recall
        and build time, not memory.
    quantization : {"auto", None, "sq8", "sq4"}
        What searches compare on their way.  ``"auto"``: codes, and where they pay,
        shorter ones and a sketch of each link, which tells most neighbours apart
        unread: the fastest, for about ``dim + 36 * M`` bytes a vector more, and 128
        from 256 dimensions on; ``dim`` fewer where `dtype` is not float32, since
        such vectors do for codes.  Under ``"l2"`` vectors of floats that are all
        whole numbers of 0 to 255 take a byte a value in all, until one comes that
        is not.  ``"sq8"``: codes of one byte a value.  ``"sq4"``:
        of half a byte.  None: the vectors.  The vectors stay: the nearest
        are compared again by them, and distances are theirs.  Codes are trained
        once there are 10,000 vectors, and again when later ones are unlike those;
        where they would be no shorter (16 dimensions and less; "sq8" of vectors of
        bytes, "sq4" of up to 64 of those) or would find less (clusters too tight for
        a byte, groups too far apart for half of one, ``"ip"`` of vectors of uneven
        length), the vectors go on being compared.  Bits have no codes.
    seed : int
        Of the random layers, 0 to 2**64 - 1.  The same rows in the same calls
        with the same seed give the same graph, whatever the number of threads,
        where no call of another thread comes between.
    num_threads : int, optional
        Threads that calls on this index use; by default
        :func:`vecidx.get_num_threads`.
    capacity : int
        Rows to make room for at once.  A hint: the index grows beyond it.
    ids : {"int", "str"}
        What ids are.  ``"str"`` makes a :class:`vecidx.StringIndex`.

    Notes
    -----
    Any number of threads may search while one adds or deletes, and no search
    waits for them.  Writers wait for one another, first come first served; a
    long ``add`` or ``merge`` lets those that wait through, within some 50 ms,
    and is then as several adds: a delete cannot meet its vectors that are not
    in yet, and ``on_conflict`` applies to ids that came in meanwhile as well.
    The ids it chose stay its own.  All long calls release the GIL and answer
    Ctrl-C.

    Examples
    --------
    >>> import numpy as np, vecidx
    >>> index = vecidx.Index(3, metric="l2")
    >>> index.add([[0, 0, 0], [1, 0, 0], [5, 5, 5]])
    array([0, 1, 2])
    >>> ids, distances = index.search([1, 1, 0], k=2)
    >>> ids, distances
    (array([1, 0]), array([1., 2.], dtype=float32))
    """

    __slots__ = ("__weakref__", "_auto_compact", "_core", "_dim", "_dtype", "_ef_construction",
                 "_metric", "_M", "_quantization", "_query_dtype", "_query_shape", "_seed",
                 "_threads", "_tuned")

    _ID_TYPE = int

    def __new__(cls, *args, ids="int", **kwargs):
        if cls is Index and check_word(ids, name="ids", known=("int", "str")) == "str":
            from vecidx.strings import StringIndex  # which is built on this class

            cls = StringIndex
        return object.__new__(cls)

    def __init__(self, dim, metric="l2", *, dtype=None, M=16, ef_construction=200,
                 quantization="auto", seed=0, num_threads=None, capacity=0, ids="int"):
        dim = check_int(dim, name="dim", low=1, high=MAX_DIM)
        metric = check_word(metric, name="metric", known=tuple(_core.METRICS))
        dtype = check_dtype(dtype, metric)
        core = _core.CoreIndex.create(
            dim, _core.METRICS[metric], _core.DTYPES[dtype],
            _core.QUANTIZATIONS[check_quantization(quantization, dtype)],
            check_int(M, name="M", low=2, high=127),
            check_int(ef_construction, name="ef_construction", low=1, high=65_536),
            check_int(seed, name="seed", low=0, high=2**64 - 1),
            check_int(capacity, name="capacity", low=0, high=MAX_K))
        self._attach(core, check_threads(num_threads))

    def _attach(self, core, threads):
        dim, metric, dtype, quantization, M, ef_construction, seed = core.params()
        self._core = core
        self._dim = dim
        self._metric = _METRIC_OF_NUMBER[metric]
        self._dtype = _DTYPE_OF_NUMBER[dtype]
        self._query_dtype = NUMPY_DTYPES["bits"] if self._dtype == "bits" else FLOAT32
        self._query_shape = (bytes_of(dim, self._dtype),)
        self._quantization = _QUANTIZATION_OF_NUMBER[quantization]
        self._M = M
        self._ef_construction = ef_construction
        self._seed = seed
        self._threads = threads
        self._auto_compact = None
        self._tuned = _tune.Tuned(core)

    # ---- writing ------------------------------------------------------------

    def add(self, vectors, ids=None, *, on_conflict="replace", num_threads=None, progress=False):
        """Add vectors.

        Parameters
        ----------
        vectors : array_like, shape (n, dim) or (dim,)
            Any real numbers; stored as the index's dtype.  float32 and that
            dtype in C order are read without a copy.  Of ``"bits"``: uint8 of
            shape ``(n, ceil(dim / 8))`` or ``(ceil(dim / 8),)``, and likewise
            wherever queries are taken and vectors returned.
        ids : array_like of int, shape (n,), optional
            Each 0 to 2**63 - 1, none twice.  By default the next numbers after
            the highest id that the index has ever held.
        on_conflict : {"replace", "error", "skip"}
            What to do with an id that is there already: put the new vector in
            the old one's place, raise and add nothing, or keep the old one.
        num_threads : int, optional
            By default the index's.
        progress : bool or callable
            True shows a tqdm bar where tqdm is installed.  A callable gets
            ``(done, total)`` rows at least every 50 ms, and ``(n, n)`` at the
            end; an exception that it raises stops the call.  It runs inside
            the call, so it may search the index but not change it.

        Returns
        -------
        ids : numpy.ndarray of int64, shape (n,)
            The ids used.

        Raises
        ------
        ValueError, TypeError
            Before anything has changed: a wrong shape or type; NaN, an
            infinity, a value that the dtype does not hold, or under
            ``"cosine"`` a zero vector, named by its row; a
            negative or repeated id; under ``"error"`` an id that is there.
            (An id that came in while a long add let others through ends it
            with the rows added until then, as below.)
        MemoryError, KeyboardInterrupt
            The rows added until then stay; a note on the exception says how
            many they are, and so does its attribute ``rows_added``; the index
            is valid.
        """
        rows, labels, conflict, threads = self._check_add(vectors, ids, on_conflict, num_threads,
                                                          progress)
        used = np.empty(len(rows), INT64)
        self._run_add(rows, labels, conflict, threads, progress, used)
        return used

    def _check_add(self, vectors, ids, on_conflict, num_threads, progress):
        """What the core takes for the arguments of an add."""
        rows = as_matrix(vectors, dim=self._dim, name="vectors", dtype=self._dtype)
        conflict = _core.ON_CONFLICT[
            check_word(on_conflict, name="on_conflict", known=tuple(_core.ON_CONFLICT))]
        labels = None
        if ids is not None:
            labels, _ = as_labels(ids)
            if len(labels) != len(rows):
                raise ValueError(f"ids: expected {len(rows)}, one for each vector, "
                                 f"got {len(labels)}")
        _progress.check_progress(progress)
        return rows, labels, conflict, check_threads(num_threads, self._threads)

    def _run_add(self, rows, labels, conflict, threads, progress, used):
        """Add checked rows and fill `used` with their ids.

        An exception from the core has the number of rows that are in, and
        stay, as its ``rows_added``.
        """
        report, close = _progress.begin(progress, len(rows))
        try:
            given = "float32" if rows.dtype == FLOAT32 else self._dtype
            self._core.add(rows.view(np.uint8), _core.DTYPES[given], labels, conflict, threads,
                           report, used)
            if report is not None and len(rows) > 0:
                _progress.report_end(report, len(rows))
        finally:
            close()
        self._compact_if_due()

    def delete(self, ids, *, missing="error", num_threads=None):
        """Delete the vectors of ids, in one step: a search sees all of them or none.

        Parameters
        ----------
        ids : int or array_like of int, shape (n,)
            An id given twice counts once.
        missing : {"error", "ignore"}
            What to do with an id that is not in the index: raise and delete
            nothing, or pass it over.
        num_threads : int, optional
            By default the index's.

        Returns
        -------
        int
            How many vectors were deleted.

        Raises
        ------
        KeyError
            Under ``"error"``, naming the first id that is not in the index.
            Nothing has changed.
        KeyboardInterrupt
            A note on the exception says how many were deleted, none or all;
            the index is valid.
        """
        labels, _ = as_labels(ids)
        missing = _core.ON_MISSING[
            check_word(missing, name="missing", known=tuple(_core.ON_MISSING))]
        n = self._core.delete(labels, missing, check_threads(num_threads, self._threads))
        self._compact_if_due()
        return n

    def merge(self, other, *, on_conflict="replace", num_threads=None, progress=False):
        """Add all vectors of another index, under their ids.

        Sooner done than adding them: the other's graph says which are near one
        another.  Call it on the larger of the two.

        Parameters
        ----------
        other : Index
            Of the same ``dim``, ``metric`` and ``dtype``.  It is read as it is when
            the call begins, and does not change.
        on_conflict, num_threads, progress
            As for :meth:`add`.

        Raises
        ------
        ValueError, TypeError
            Before anything has changed: another dim, metric or dtype, the index
            itself; under ``"error"`` an id that is in both.
        MemoryError, KeyboardInterrupt
            The vectors merged until then stay; ``rows_added`` of the exception
            says how many they are.  To merge again does the rest.
        """
        self._check_other(other)
        conflict = _core.ON_CONFLICT[
            check_word(on_conflict, name="on_conflict", known=tuple(_core.ON_CONFLICT))]
        _progress.check_progress(progress)
        threads = check_threads(num_threads, self._threads)
        report, close = _progress.begin(progress, len(other))
        try:
            n = self._core.merge(other._core, conflict, threads, report)
            if report is not None and n > 0:
                _progress.report_end(report, n)
        finally:
            close()
        self._compact_if_due()

    def _check_other(self, other):
        """TypeError where `other` is nothing that can be merged into this index."""
        if not isinstance(other, Index):
            raise TypeError(f"other: expected a vecidx.Index, got {type(other).__name__}")
        if other._ID_TYPE is not self._ID_TYPE:
            raise TypeError(f"other: has {other._ID_TYPE.__name__} for ids, this index "
                            f"{self._ID_TYPE.__name__}; add(other.get(old), ids=new) gives it new "
                            "ones")

    # ---- reading ------------------------------------------------------------

    def search(self, queries=None, k=10, *, ef=None, recall=None, filter=None, max_distance=None,
               ids=None, diverse=None, exact=False, num_threads=None):
        """The stored vectors nearest to each query.

        Parameters
        ----------
        queries : array_like, shape (n, dim) or (dim,)
            Any real numbers, whatever the index's dtype; compared as float32.
            Packed uint8 where that is ``"bits"``.
        k : int
            Neighbours a query; may exceed ``len(index)``.
        ef : int, optional
            Candidates kept during the walk, 64 by default and at least ``k``.
            More raises recall and time.
        recall : float, optional
            Instead of ``ef``: the share of the true neighbours to find, above 0
            and at most 1, by what :meth:`tune` measured for this ``k``.  Beyond
            what it measured every vector is compared.
        filter : optional
            Which ids may be returned: a boolean mask (id ``i`` may be where
            ``mask[i]``), an array of ids, a :class:`range`, a packed bitmap
            (bytes), or a :class:`vecidx.Filter` of any of these, which is the
            one to keep for many searches.  Or a callable: it gets the ids of
            the index as an array, once, and returns as many booleans.  A list
            of these, or None in it, is one for each query.  However few are
            allowed, as many as there are, up to ``k``, are returned.
        max_distance : float, optional
            Leave out neighbours farther than this.
        ids : int or array_like of int, optional
            Instead of ``queries``: the vectors stored under these ids, each of
            which is left out of its own neighbours.
        diverse : float, optional
            Above 0 to 1: choose results that differ from one another, out of
            ``max(4 * k, 50)`` candidates (maximal marginal relevance).  Each is
            the one with the least ``(1 - diverse) * distance to the query -
            diverse * distance to the nearest result before it``; they come in
            that order.
        exact : bool
            Compare with every (allowed) vector instead of walking the graph.
        num_threads : int, optional
            By default the index's.

        Returns
        -------
        ids : numpy.ndarray of int64, shape (n, k), or (k,) for a 1-D query
        distances : numpy.ndarray of float32, same shape
            By rising distance, ties by id.  Where there are fewer than ``k``
            neighbours a row ends in id -1 at distance +inf.

        Raises
        ------
        ValueError, TypeError
            A wrong shape or type; ``k`` or ``ef`` below 1; NaN, an infinity,
            or under ``"cosine"`` a zero vector, named by its row.
        """
        if ids is not None or diverse is not None:
            return self._search_more(queries, k, ids, diverse, ef=ef, recall=recall,
                                     filter=filter, max_distance=max_distance, exact=exact,
                                     num_threads=num_threads)
        if recall is not None:
            ef, exact = self._tuned.effort(recall, k, ef, exact)
        # The common call from a service, one float32 vector, pays for nothing
        # but these tests, two allocations and the core.
        if (type(queries) is _ndarray and queries.dtype is self._query_dtype
                and queries.shape == self._query_shape and type(k) is int and 0 < k <= MAX_K
                and filter is None and max_distance is None):
            flags = queries.flags
            if flags.c_contiguous and flags.aligned:
                if ef is None:
                    ef = 0
                elif type(ef) is not int or not 0 < ef <= MAX_K:
                    ef = check_ef(ef)
                ids = _empty(k, INT64)
                distances = _empty(k, FLOAT32)
                self._core.search_one(
                    queries, k, ef, exact,
                    self._threads if num_threads is None else check_threads(num_threads),
                    ids, distances)
                return ids, distances

        rows = self._as_queries(queries)
        k = check_k(k)
        ef = check_ef(ef)
        threads = check_threads(num_threads, self._threads)
        shape = (len(rows), k)
        if len(rows) * k > 2**58:         # NumPy would say "array is too big" by a ValueError
            raise MemoryError(f"no memory for results of shape {shape}")
        ids = np.empty(shape, INT64)
        distances = np.empty(shape, FLOAT32)
        if filter is None and max_distance is None:
            self._core.search(rows, k, ef, exact, threads, ids, distances)
        else:
            _core.search_where(self._core, rows, k, ef, exact, threads,
                               self._as_filters(filter, len(rows)),
                               check_distance(max_distance, name="max_distance"), ids, distances)
        if len(rows) == 1 and np.ndim(queries) == 1:
            return ids[0], distances[0]
        return ids, distances

    def range_search(self, queries, radius, *, ef=None, filter=None, exact=False,
                     num_threads=None):
        """All stored vectors within a distance of each query.

        Parameters
        ----------
        queries : array_like, shape (n, dim) or (dim,)
        radius : float
            The largest distance, in the metric's own terms (for ``"l2"`` a
            squared one); a vector that is just so far is in.
        ef : int, optional
            Candidates that the walk begins with, 64 by default; it takes as many
            more as there are vectors to find.  More raises recall and time.
        filter : optional
            As for :meth:`search`.
        exact : bool
            Compare with every (allowed) vector: then none within the radius is
            missing.  The walk may miss some, as a search may.
        num_threads : int, optional
            By default the index's.

        Returns
        -------
        lims : numpy.ndarray of int64, shape (n + 1,)
        ids : numpy.ndarray of int64, shape (lims[n],)
        distances : numpy.ndarray of float32, shape (lims[n],)
            The neighbours of query ``i`` are ``ids[lims[i]:lims[i + 1]]``, by rising
            distance, ties by id.

        Raises
        ------
        ValueError, TypeError
            As :meth:`search`.
        """
        rows = self._as_queries(queries)
        return _core.range_search(
            self._core, rows, check_ef(ef), exact, check_threads(num_threads, self._threads),
            self._as_filters(filter, len(rows)), check_distance(radius, name="radius"))

    def iterate(self, query, batch=10, *, ef=None, filter=None, exact=False, num_threads=None):
        """The neighbours of one query, from near to far, a batch at a time.

        Parameters
        ----------
        query : array_like, shape (dim,)
        batch : int
            Neighbours a turn; the last turn may have fewer.
        ef : int, optional
            As for :meth:`search`; it grows with what is asked for.
        filter : optional
            As for :meth:`search`.  A callable is called once, now.
        exact : bool
            Compare with every (allowed) vector: then none is missing.
        num_threads : int, optional
            By default the index's.

        Returns
        -------
        iterator of (ids, distances)
            It may be kept, and goes on where it stopped.  Distances never fall,
            from batch to batch too, and no id comes twice.  What a walk missed
            at first and finds later, and what has come in since, comes only if
            it lies farther than all that was given.

        Examples
        --------
        >>> import numpy as np, vecidx
        >>> index = vecidx.Index(2)
        >>> _ = index.add(np.arange(10).reshape(5, 2))
        >>> for ids, distances in index.iterate([0, 0], batch=2):
        ...     print(ids)
        [0 1]
        [2 3]
        [4]
        """
        rows = self._as_queries(query, "query")
        if len(rows) != 1:
            raise ValueError(f"query: expected one vector, got {len(rows)}; a batch of them "
                             "takes an iterator each")
        filters = self._as_filters(filter, 1)
        threads = check_threads(num_threads, self._threads)

        def search(k, ef, exact):
            ids = np.empty((1, k), INT64)
            distances = np.empty((1, k), FLOAT32)
            _core.search_where(self._core, rows, k, ef, exact, threads, filters, np.inf, ids,
                               distances)
            return ids[0], distances[0]

        return Neighbours(search, check_int(batch, name="batch", low=1, high=MAX_K),
                          check_ef(ef), exact)

    def get(self, ids):
        """The vectors stored under ids.

        Parameters
        ----------
        ids : int or array_like of int, shape (n,)

        Returns
        -------
        vectors : numpy.ndarray, shape (dim,) for one id, else (n, dim)
            Of the index's dtype, float32 where that is bfloat16, packed uint8
            where it is ``"bits"``.  What is
            stored, exactly: what was added, rounded to the dtype.  Under
            ``"cosine"`` float dtypes store the direction, rounded, and the
            length: so it is what was added up to the dtype's rounding.

        Raises
        ------
        KeyError
            An id that is not in the index.
        """
        labels, is_scalar = as_labels(ids)
        rows = np.empty((len(labels), bytes_of(self._dim, self._dtype)),
                        NUMPY_DTYPES[self._dtype])
        self._core.get(labels, rows.view(np.uint8))
        return rows[0] if is_scalar else rows

    def __contains__(self, id):
        label = as_label(id)
        return label is not None and self._core.contains(label)

    def __len__(self):
        return self._core.count()

    def ids(self):
        """The ids in the index at one moment: int64, shape (len,).

        In the order they were added, but that a vector may take the place of
        one that was deleted or replaced before.  ``for id in index`` goes
        through them, whatever is added or deleted meanwhile.
        """
        n = self._core.count()
        while True:
            out = np.empty(n, INT64)
            n = self._core.labels(out)
            if n <= len(out):                # else more have come in
                return out[:n]

    def __iter__(self):
        return iter(self.ids().tolist())

    # ---- copies -------------------------------------------------------------

    def __reduce_ex__(self, protocol):
        data = self.to_bytes()
        if protocol >= 5:                  # may travel outside the pickle, uncopied
            data = pickle.PickleBuffer(data)
        return _unpickle, (data, self._threads)

    def __copy__(self):
        """An index of its own, in memory; takes the size of its file besides, for a moment."""
        return _unpickle(self.to_bytes(), self._threads)

    def __deepcopy__(self, memo):
        return self.__copy__()

    # ---- what it is -----------------------------------------------------------

    @property
    def dim(self):
        """Values a vector has; bits, where those are stored."""
        return self._dim

    @property
    def metric(self):
        """``"l2"``, ``"ip"``, ``"cosine"``, ``"hamming"`` or ``"jaccard"``."""
        return self._metric

    @property
    def M(self):
        """Links a row keeps."""
        return self._M

    @property
    def ef_construction(self):
        """Size of the candidate list when a row is linked."""
        return self._ef_construction

    @property
    def quantization(self):
        """What was asked for: ``"auto"``, ``"sq8"``, ``"sq4"`` or None, as of bits; :meth:`stats`
        has what is in use.
        """
        return self._quantization

    @property
    def seed(self):
        """Of the random layers."""
        return self._seed

    @property
    def dtype(self):
        """How vectors are stored: a ``numpy.dtype``; ``"bfloat16"`` and ``"bits"``, which NumPy
        lacks.
        """
        return self._dtype if self._dtype in ("bfloat16", "bits") else NUMPY_DTYPES[self._dtype]

    @property
    def read_only(self):
        """Whether it lies over a file (``vecidx.load(path, mmap=...)``) and cannot change."""
        return self._core.is_read_only()

    @property
    def closed(self):
        """Whether :meth:`close` was called."""
        return self._core.is_closed()


def _wrap(core, threads):
    index = Index.__new__(Index)
    index._attach(core, threads)
    if _core.get_note(core, _core.NOTES["names"]):
        from vecidx.strings import StringIndex

        index = StringIndex._over(index)
    return index


def _unpickle(data, threads):
    return _wrap(_storage.load_bytes(data, False, threads), threads)


def load(path, *, mmap=False, verify=False, num_threads=None):
    """Read an index that :meth:`Index.save` wrote.

    Parameters
    ----------
    path : str, bytes, os.PathLike or file object
        A file object is one with ``read()``, opened in binary mode; it is read to
        its end, into memory, first.
    mmap : bool or "vectors"
        False reads the file into memory.  True maps it: the index is there in
        milliseconds whatever its size, its pages are read as searches need them
        and are shared by all processes that map the file.  ``"vectors"`` maps the
        vectors and reads all else, for data larger than memory.  A mapped index
        is read-only: :meth:`Index.add` raises ValueError.
    verify : bool
        Check all that :meth:`Index.check` checks, and every byte of the file,
        mapped or not.
    num_threads : int, optional
        As of :class:`Index`.

    Notes
    -----
    What is read is checked: checksums, sizes, links, ids, values.  Of what is
    mapped only the file's head is, unless ``verify``: damage there can give wrong
    answers, but no crash.  A mapped file must not be changed or cut short in place
    by anybody; ``save`` never does that, it puts a new file under the name.

    Raises
    ------
    IndexFormatError
        A file that is not ours, is damaged, or is newer than this version.
    OSError
        With errno: FileNotFoundError, PermissionError, ...
    """
    threads = check_threads(num_threads)
    return _wrap(_storage.load(path, mmap, verify, threads), threads)


def from_bytes(data, *, verify=False, num_threads=None):
    """The index in bytes that :meth:`Index.to_bytes` made, or that a file holds.

    ``data`` is bytes, a bytearray, a memoryview, an array or any other contiguous
    buffer, and is not needed afterwards.  All else as :func:`load`.
    """
    threads = check_threads(num_threads)
    return _wrap(_storage.load_bytes(data, verify, threads), threads)
