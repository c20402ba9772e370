"""faiss's sets of labels, and the parameters of one search that hold them."""

import numpy as np

from vecidx.compat._errors import CompatError


class IDSelector:
    """A set of labels."""

    def mask(self, labels):
        """Which of an array of labels are in the set: a boolean array."""
        raise NotImplementedError

    def is_member(self, id):
        """Whether a label is in the set."""
        return bool(self.mask(np.asarray([id], np.int64))[0])


class IDSelectorBatch(IDSelector):
    """These labels."""

    def __init__(self, ids):
        ids = np.asarray(ids)
        if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
            raise CompatError(f"ids: expected a 1-D array of integers, got {ids.dtype} of shape "
                              f"{ids.shape}")
        self._ids = np.unique(ids.astype(np.int64))

    def mask(self, labels):
        return np.isin(labels, self._ids)


class IDSelectorArray(IDSelectorBatch):
    """These labels; in faiss it is slower than IDSelectorBatch, here it is the same."""


class IDSelectorRange(IDSelector):
    """Labels of ``imin`` and more, below ``imax``."""

    def __init__(self, imin, imax, assume_sorted=False):
        self.imin, self.imax = int(imin), int(imax)

    def mask(self, labels):
        return (labels >= self.imin) & (labels < self.imax)


class IDSelectorBitmap(IDSelector):
    """Label ``i`` where bit ``i % 8``, counted from the lowest, of byte ``i // 8`` is set."""

    def __init__(self, bitmap):
        bitmap = np.asarray(bitmap)
        if bitmap.ndim != 1 or bitmap.dtype != np.uint8:
            raise CompatError(f"bitmap: expected a 1-D array of uint8, got {bitmap.dtype} of "
                              f"shape {bitmap.shape}")
        self._mask = np.unpackbits(bitmap, bitorder="little").view(np.bool_)

    def mask(self, labels):
        inside = (labels >= 0) & (labels < len(self._mask))
        out = np.zeros(len(labels), np.bool_)
        out[inside] = self._mask[labels[inside]]
        return out


class IDSelectorAll(IDSelector):
    """Every label."""

    def mask(self, labels):
        return np.ones(len(labels), np.bool_)


class IDSelectorNot(IDSelector):
    """What another leaves out."""

    def __init__(self, sel):
        self._sel = sel

    def mask(self, labels):
        return ~self._sel.mask(labels)


class _Two(IDSelector):
    def __init__(self, lhs, rhs):
        self._lhs, self._rhs = lhs, rhs


class IDSelectorAnd(_Two):
    """What is in both."""

    def mask(self, labels):
        return self._lhs.mask(labels) & self._rhs.mask(labels)


class IDSelectorOr(_Two):
    """What is in either."""

    def mask(self, labels):
        return self._lhs.mask(labels) | self._rhs.mask(labels)


class IDSelectorXOr(_Two):
    """What is in one of them only."""

    def mask(self, labels):
        return self._lhs.mask(labels) ^ self._rhs.mask(labels)


class SearchParameters:
    """Of one search: ``sel``, the labels it may return."""

    def __init__(self, sel=None):
        if sel is not None and not isinstance(sel, IDSelector):
            raise TypeError(f"sel: expected an IDSelector, got {type(sel).__name__}")
        self.sel = sel


class SearchParametersHNSW(SearchParameters):
    """Of one search of an HNSW index: ``efSearch`` besides."""

    def __init__(self, efSearch=None, sel=None):
        super().__init__(sel)
        self.efSearch = efSearch
