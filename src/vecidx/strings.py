"""class StringIndex: an Index whose ids are strings.

Each string has a number, which is the id below.  It keeps that number until the
index is compacted, deleted or not, so a delete changes no table, and a search
that began before it can still say what it found.  The table is in memory, and in
the file as the section "names" (docs/FORMAT.md).
"""

import struct
import threading

import numpy as np

from vecidx import _core
from vecidx._validate import INT64, check_flag, check_word
from vecidx.errors import IndexFormatError
from vecidx.filters import Filter
from vecidx.index import Index

_HEAD = struct.Struct("<Q")


class StringIndex(Index):
    """An :class:`Index` with strings for ids; made by ``vecidx.Index(..., ids="str")``.

    Every method takes and returns strings where an index of numbers has
    numbers: arrays of dtype object, with None for a missing neighbour.  ``add``
    needs ``ids``, any strings, none twice.  A ``filter`` is a sequence or a set of
    strings, or a callable that gets all of them; a :class:`vecidx.Filter`, masks and
    ranges are of numbers, and refused.  :meth:`merge` takes another index of strings.
    It is saved to one file, which :func:`vecidx.load` knows again.
    :func:`vecidx.open` (a log beside the file) does not take it.
    """

    __slots__ = ("_free", "_names", "_numbers", "_table_lock")

    _ID_TYPE = str

    def __init__(self, *args, ids="str", **kwargs):
        super().__init__(*args, **kwargs)
        self._begin({}, {})

    def _begin(self, names, numbers):
        self._names = names                  # number -> string
        self._numbers = numbers              # string -> number
        self._free = max(names, default=-1) + 1
        self._table_lock = threading.RLock() # adding, and whatever renews the tables

    @classmethod
    def _over(cls, index):
        """What an index that was loaded is, given its names."""
        self = cls.__new__(cls)
        for slot in Index.__slots__:
            if slot != "__weakref__":
                setattr(self, slot, getattr(index, slot))
        names = unpack(_core.get_note(self._core, _core.NOTES["names"]))
        if len(names) != len(index) or not all(map(self._core.contains, names)):
            raise IndexFormatError("section 'names': the names are not those of the ids")
        self._begin(names, {name: number for number, name in names.items()})
        return self

    # ---- strings and numbers --------------------------------------------------

    def _numbers_of(self, ids, *, missing=None):
        """int64 numbers, and whether `ids` was one string; `missing` stands for one not there."""
        strings, is_one = as_strings(ids)
        numbers = np.empty(len(strings), INT64)
        for at, string in enumerate(strings):
            number = self._numbers.get(string)
            if number is None or not self._core.contains(number):
                if missing is None:
                    raise KeyError(f"ids[{at}] is {string!r}, which is not in the index")
                number = missing
            numbers[at] = number
        return numbers, is_one

    def _strings_of(self, numbers, names):
        """Strings of numbers found since `names` was the table; None of -1."""
        later = self._names                  # another one, if compact() has run meanwhile
        out = np.empty(numbers.size, object)
        out[:] = [names.get(number, later.get(number)) for number in numbers.ravel().tolist()]
        return out.reshape(numbers.shape)

    def _as_filters(self, filter, n_queries):
        return super()._as_filters(self._filter_of_numbers(filter), n_queries)

    def _filter_of_numbers(self, filter):
        """What an index of numbers takes for ``filter=``: arrays of them."""
        if filter is None:
            return None
        if isinstance(filter, (list, tuple)) and filter and not isinstance(filter[0], str):
            return [None if one is None else self._chosen(one) for one in filter]
        return self._chosen(filter)

    def _chosen(self, filter):
        if callable(filter):
            numbers = super().ids()
            strings = self._strings_of(numbers, self._names)
            mask = np.asarray(filter(strings))
            if mask.dtype != np.bool_ or mask.shape != strings.shape:
                raise TypeError("filter: the callable gets the ids of the index, an array, and "
                                f"returns as many booleans: expected shape {strings.shape}, got "
                                f"{mask.dtype} of shape {mask.shape}")
            return numbers[mask]
        if (isinstance(filter, (str, bytes, bytearray, memoryview, range, dict, Filter))
                or not hasattr(filter, "__iter__")
                or not all(isinstance(one, str) for one in filter)):
            raise TypeError("filter: an index of strings takes a sequence or set of them, a "
                            "callable, or a list of these, one for each query; got "
                            f"{type(filter).__name__}" + (" of other values" if isinstance(
                                filter, (list, tuple, set, frozenset, np.ndarray)) else ""))
        numbers = map(self._numbers.get, filter)          # what is not there does no harm
        return np.array([number for number in numbers if number is not None], INT64)

    # ---- writing --------------------------------------------------------------

    def add(self, vectors, ids=None, *, on_conflict="replace", num_threads=None, progress=False):
        if ids is None:
            raise TypeError("add: an index of strings chooses no ids; give ids, one string for "
                            "each vector")
        strings, _ = as_strings(ids)
        seen = set()
        for at, string in enumerate(strings):
            if string in seen:
                raise ValueError(f"ids[{at}]: {string!r} is given twice")
            seen.add(string)
        check_word(on_conflict, name="on_conflict", known=tuple(_core.ON_CONFLICT))
        with self._table_lock:
            if on_conflict == "error":
                for at, string in enumerate(strings):
                    if string in self:
                        raise ValueError(f"ids[{at}] is {string!r}, which is in the index")
            new, numbers = {}, []
            for string in strings:
                number = self._numbers.get(string)
                if number is None:
                    number = new[string] = self._free + len(new)
                numbers.append(number)
            # Names first: a search may find a vector as soon as it is in.  A name whose
            # vector did not come in is as one that was deleted.
            self._names.update((number, string) for string, number in new.items())
            self._numbers.update(new)
            self._free += len(new)
            try:
                super().add(vectors, np.array(numbers, INT64), on_conflict=on_conflict,
                            num_threads=num_threads, progress=progress)
            except BaseException:
                for string, number in new.items():
                    if not self._core.is_closed() and not self._core.contains(number):
                        del self._names[number], self._numbers[string]
                raise
        out = np.empty(len(strings), object)
        out[:] = strings
        return out

    add.__doc__ = Index.add.__doc__

    def delete(self, ids, *, missing="error", num_threads=None):
        check_word(missing, name="missing", known=tuple(_core.ON_MISSING))
        with self._table_lock:
            numbers, _ = self._numbers_of(ids, missing=None if missing == "error" else -1)
            return super().delete(numbers[numbers >= 0], missing="ignore",
                                  num_threads=num_threads)

    delete.__doc__ = Index.delete.__doc__

    def merge(self, other, *, on_conflict="replace", num_threads=None, progress=False):
        """As :meth:`Index.merge`, but no sooner done than an add of the vectors."""
        self._merge_by_adding(other, on_conflict, num_threads, progress)

    def compact(self, *, background=False, num_threads=None):
        with self._table_lock:
            names = {number: name for number, name in self._names.items()
                     if self._core.contains(number)}
            self._numbers = {name: number for number, name in names.items()}
            self._names = names              # searches under way keep the older one
        return super().compact(background=check_flag(background, name="background"),
                               num_threads=num_threads)

    compact.__doc__ = Index.compact.__doc__

    # ---- reading --------------------------------------------------------------

    def search(self, queries=None, k=10, *, ids=None, **how):
        names = self._names
        if ids is not None:
            numbers, is_one = self._numbers_of(ids)
            ids = numbers[0] if is_one else numbers
        found, distances = super().search(queries, k, ids=ids, **how)
        return self._strings_of(found, names), distances

    search.__doc__ = Index.search.__doc__

    def _search_more(self, *args, filter, **how):
        return _Numbers(self)._search_more(*args, filter=self._filter_of_numbers(filter), **how)

    def range_search(self, queries, radius, **how):
        names = self._names
        lims, found, distances = super().range_search(queries, radius, **how)
        return lims, self._strings_of(found, names), distances

    range_search.__doc__ = Index.range_search.__doc__

    def iterate(self, query, batch=10, **how):
        return self._named(super().iterate(query, batch, **how), self._names)

    iterate.__doc__ = Index.iterate.__doc__

    def _named(self, neighbours, names):
        for found, distances in neighbours:
            if names is not self._names:     # compacted: what was found earlier is in the older
                names = {**names, **self._names}
            yield self._strings_of(found, names), distances

    def knn_graph(self, k=10, **how):
        names = self._names
        ids, neighbors, distances = _Numbers(self).knn_graph(k, **how)
        return self._strings_of(ids, names), self._strings_of(neighbors, names), distances

    knn_graph.__doc__ = Index.knn_graph.__doc__

    def get(self, ids):
        numbers, is_one = self._numbers_of(ids)
        rows = super().get(numbers)
        return rows[0] if is_one else rows

    get.__doc__ = Index.get.__doc__

    def __contains__(self, id):
        number = self._numbers.get(id) if isinstance(id, str) else None
        return number is not None and self._core.contains(number)

    def ids(self):
        """The ids in the index at one moment, an array of strings; otherwise as of Index."""
        names = self._names
        return self._strings_of(super().ids(), names)

    def __vecidx_index__(self):
        raise TypeError("an index of strings has no C index to give: what C code added would have "
                        "no names; use an index with numbers for ids")

    # ---- files ----------------------------------------------------------------

    def _keep_names(self):
        live = {number: name for number, name in self._names.items()
                if self._core.contains(number)}
        _core.set_note(self._core, _core.NOTES["names"], pack(live))

    def save(self, path, *, compact=False):
        with self._table_lock:
            if check_flag(compact, name="compact"):
                self.compact()
            self._keep_names()
            super().save(path)

    save.__doc__ = Index.save.__doc__

    def to_bytes(self):
        with self._table_lock:
            self._keep_names()
            return super().to_bytes()

    to_bytes.__doc__ = Index.to_bytes.__doc__


class _Numbers(Index):
    """The index below one of strings, for what is built of its other methods."""

    __slots__ = ()

    def __init__(self, index):
        for slot in Index.__slots__:
            if slot != "__weakref__":
                setattr(self, slot, getattr(index, slot))


def as_strings(ids):
    """A list of str, and whether `ids` was one."""
    if isinstance(ids, str):
        return [str(ids)], True
    if isinstance(ids, (bytes, dict)) or not hasattr(ids, "__iter__"):
        raise TypeError(f"ids: expected a string or a sequence of them, got {type(ids).__name__}")
    strings = []
    for at, string in enumerate(ids):
        if not isinstance(string, str):
            raise TypeError(f"ids[{at}]: expected a string, got {type(string).__name__}")
        string = str(string)                 # of NumPy's too
        try:
            string.encode()
        except UnicodeEncodeError as err:
            raise ValueError(f"ids[{at}]: cannot be stored as UTF-8: {err}") from err
        strings.append(string)
    return strings, False


def pack(names):
    """Bytes of a table of names by number: how many, numbers, ends, UTF-8."""
    numbers = np.fromiter(sorted(names), "<i8", len(names))
    texts = [names[number].encode() for number in numbers.tolist()]
    ends = np.cumsum(np.fromiter(map(len, texts), "<u8", len(texts)), dtype="<u8")
    return _HEAD.pack(len(names)) + numbers.tobytes() + ends.tobytes() + b"".join(texts)


def unpack(data):
    """Names by number; IndexFormatError where bytes are no such table."""
    if len(data) < _HEAD.size:
        raise IndexFormatError("section 'names': too short")
    n, = _HEAD.unpack_from(data)
    if n > (len(data) - _HEAD.size) // 16:
        raise IndexFormatError(f"section 'names': {n} names in {len(data)} bytes")
    numbers = np.frombuffer(data, "<i8", n, _HEAD.size)
    ends = np.frombuffer(data, "<u8", n, _HEAD.size + 8 * n)
    begin = _HEAD.size + 16 * n
    rises = n == 0 or (int(numbers[0]) >= 0 and (numbers[1:] > numbers[:-1]).all()
                       and (ends[1:] >= ends[:-1]).all())
    if not rises or (int(ends[-1]) if n else 0) != len(data) - begin:
        raise IndexFormatError("section 'names': numbers or ends are not in order")
    names, at = {}, 0
    try:
        for number, end in zip(numbers.tolist(), ends.tolist(), strict=True):
            names[number] = data[begin + at:begin + end].decode()
            at = end
    except UnicodeDecodeError as err:
        raise IndexFormatError(f"section 'names': {err}") from err
    if len(set(names.values())) != n:
        raise IndexFormatError("section 'names': a name is there twice")
    return names
