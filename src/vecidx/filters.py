"""Which ids a search may return: class Filter, and what people pass as ``filter=``."""

import numbers

import numpy as np

from vecidx import _core
from vecidx._validate import INT64, INT64_MAX, as_labels

_WAYS = ("a boolean mask, an array of ids, a range, a packed bitmap (bytes), a vecidx.Filter, "
         "a callable, or a list of these, one for each query")


class Filter:
    """A set of ids, made once, for any number of searches.

    Parameters
    ----------
    allowed : array_like, range, bytes or set
        One of

        - a boolean mask: id ``i`` is in the set where ``mask[i]``;
        - ids, in any order; such as no index holds do no harm;
        - a :class:`range` of ids;
        - a packed bitmap, as bytes, a bytearray or a memoryview: id ``i`` is in
          the set where bit ``i % 8``, counted from the lowest, of byte ``i // 8``
          is (``numpy.packbits(mask, bitorder="little").tobytes()``).

    Notes
    -----
    ``a & b``, ``a | b`` and ``~a`` combine filters; nothing is computed until a
    search, and the parts are shared, not copied.

    A filter is a set of ids, not of vectors, and belongs to no index.  What it
    says of an id holds for vectors that get this id later too: a mask says
    nothing of ids beyond its end, so they are out (and in ``~mask`` they are in);
    ``range(100, 2**62)`` has every id from 100 on that is still to come.
    It can be pickled.

    A search turns the set into marks on the vectors it sees, once, and the filter
    keeps them (a bit for each vector of the index) while the index does not
    change.  So one filter for many searches costs less than a mask given again.

    Examples
    --------
    >>> import numpy as np, vecidx
    >>> even = vecidx.Filter(range(0, 2**62, 2))
    >>> small = vecidx.Filter(np.arange(10) < 5)
    >>> (even & ~small).mask([2, 5, 6])
    array([False, False,  True])
    >>> 4 in even & small
    True
    """

    __slots__ = ("_core",)

    def __init__(self, allowed):
        self._core = _core_of(allowed, name="allowed")

    def mask(self, ids):
        """Which of the ids are in the set: a boolean array."""
        labels, _ = as_labels(ids)
        out = np.empty(len(labels), np.uint8)
        self._core.test(labels, out)
        return out.view(np.bool_)

    def __contains__(self, id):
        return bool(self.mask([id])[0])

    def __and__(self, other):
        if not isinstance(other, Filter):
            return NotImplemented
        return _made(self._core.both(other._core))

    def __or__(self, other):
        if not isinstance(other, Filter):
            return NotImplemented
        return _made(self._core.either(other._core))

    def __invert__(self):
        return _made(self._core.inverted())

    def __reduce__(self):
        return _unpickled, (self._core.parts(),)


def _made(core):
    made = Filter.__new__(Filter)
    made._core = core
    return made


def _unpickled(parts):
    return _made(_core.filter_of_parts(parts))


def as_filter(allowed):
    """A Filter of what people pass as ``filter=``, callables aside."""
    return _made(_core_of(allowed, name="filter"))


def as_filters(filter, index, n_queries):
    """What the core takes for ``filter=``: a list of none, one, or one for each query."""
    if filter is None:
        return []
    if not is_one_each(filter):
        return [_core_for(filter, index)]
    if len(filter) != n_queries:
        raise ValueError(f"filter: expected {n_queries}, one for each query, got a list of "
                         f"{len(filter)}")
    made = {}                             # of each object once, however often it is listed
    for one in filter:
        if one is not None and id(one) not in made:
            made[id(one)] = _core_for(one, index)
    return [None if one is None else made[id(one)] for one in filter]


def is_one_each(filter):
    """Is it a list of filters?  A list of numbers is one: a mask, or ids."""
    return (isinstance(filter, (list, tuple)) and len(filter) > 0
            and not isinstance(filter[0], (numbers.Number, np.bool_)))


def _core_for(filter, index):
    if callable(filter):
        filter = _chosen_by(filter, index)
    return _core_of(filter, name="filter")


def _chosen_by(choose, index):
    """The ids that a callable chooses among those of the index."""
    ids = index.ids()
    mask = np.asarray(choose(ids))
    if mask.dtype != np.bool_ or mask.shape != ids.shape:
        raise TypeError(
            f"filter: the callable gets the ids of the index, an array, and returns as many "
            f"booleans: expected shape {ids.shape}, got {mask.dtype} of shape {mask.shape}; for "
            "a function of one id, pass numpy.vectorize(function, otypes=[bool])")
    return ids[mask]


def _core_of(allowed, *, name):
    if isinstance(allowed, Filter):
        return allowed._core
    if isinstance(allowed, range):
        return _core_of_range(allowed)
    if isinstance(allowed, (bytes, bytearray, memoryview)):
        bits = np.frombuffer(allowed, np.uint8)
        return _core.CoreFilter.of_bits(bits, 8 * len(bits))
    if isinstance(allowed, (set, frozenset)):
        allowed = list(allowed)
    if allowed is None or isinstance(allowed, (str, dict)) or callable(allowed):
        raise TypeError(f"{name}: expected {_WAYS}; got {type(allowed).__name__}")
    try:
        array = np.asarray(allowed)
    except (ValueError, TypeError) as err:
        raise TypeError(f"{name}: expected {_WAYS}; got {type(allowed).__name__}: {err}") from err
    if array.dtype.kind == "O" and array.ndim == 0:
        raise TypeError(f"{name}: expected {_WAYS}; got {type(allowed).__name__}")
    if array.ndim != 1:
        raise ValueError(f"{name}: expected 1 dimension, got shape {array.shape}; " + (
            "for one filter a query, pass a list" if array.ndim > 1 else
            "for one id, pass a list of it"))
    if array.dtype == np.bool_:
        return _core.CoreFilter.of_bits(np.packbits(array, bitorder="little"), len(array))
    return _core.CoreFilter.of_labels(as_labels(allowed, name=name)[0])


def _core_of_range(ids):
    if ids.step < 0:
        ids = ids[::-1]
    if ids.start < 0:                     # no id is: start at the first that can be
        ids = range(ids.start % ids.step, ids.stop, ids.step)
    if not ids or ids.start > INT64_MAX:
        return _core.CoreFilter.of_labels(np.empty(0, INT64))
    core = _core.CoreFilter.of_range(ids.start, min(ids.stop, INT64_MAX),
                                     min(ids.step, INT64_MAX))
    if INT64_MAX in ids:                  # which an end beyond it cannot say in 64 bits
        core = core.either(_core.CoreFilter.of_labels(np.array([INT64_MAX])))
    return core
