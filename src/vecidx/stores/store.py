"""class Store: documents with vectors, kept through crashes.

Two things lie in a store's folder: ``index.vidx``, an index with a log
(:func:`vecidx.open`), and ``documents.sqlite``.  Each alone survives a crash; this
module keeps them together, by one order:

1. vectors come into the index under labels that nobody has used,
2. one SQLite transaction gives documents these labels, or takes documents out,
3. labels that no document has any more go out of the index.

Step 2 is the moment of the change.  Whatever a crash leaves, every document has its
vector, and what the index holds beyond is no document's: nobody is told of it, and
the next open drops it.
"""

import logging
import math
import operator
import os
import shutil
import threading
from dataclasses import dataclass

import numpy as np

import vecidx
from vecidx._wal import Lock
from vecidx.errors import VecidxError
from vecidx.stores.documents import Document, Documents, encode

_logger = logging.getLogger("vecidx")

INDEX, DOCUMENTS, LOCK = "index.vidx", "documents.sqlite", "store.lock"
_TRIES = 5                    # of a search beside writers, before it takes what it has


@dataclass
class Hit:
    """A document found, and the distance of its vector under the index's metric."""

    document: Document
    distance: float


class Store:
    """Documents that are found by vectors, by conditions on their metadata, and by id.

    Parameters
    ----------
    path : str or os.PathLike, optional
        A folder, made where there is none; what a call has written is on disk when
        it returns, and survives kill -9 and a loss of power, whole or not at all.
        None keeps all in memory.
    metric : {"cosine", "l2", "ip"}, optional
        By default that of the store that is there, ``"cosine"`` for a new one.
    **parameters
        Further ones of :class:`vecidx.Index`, for a new index.  ``dim`` is that of
        the first vector.

    Raises
    ------
    VecidxError
        The folder is open elsewhere: one process at a time has it.  Or it lacks
        a file, or vectors of its documents.

    Notes
    -----
    Any number of threads may search while one writes, and do not wait for it.
    """

    def __init__(self, path=None, *, metric=None, **parameters):
        self._path = None if path is None else os.path.realpath(os.fspath(path))
        self._metric = metric
        self._parameters = parameters
        self._write_lock = threading.RLock()
        self._left_over = []             # labels to drop that an error kept in the index
        self._index = self._documents = self._lock = None
        self._is_open = True
        # A template, so that bad parameters are met now and not at the first vector.
        template = vecidx.Index(parameters.get("dim", 2), metric or "cosine",
                                **{k: v for k, v in parameters.items() if k != "dim"})
        if template.dtype == "bits":
            raise ValueError(f"metric: a store's vectors are of numbers; expected 'l2', 'ip' or "
                             f"'cosine', got {metric!r}")
        if path is None:
            self._metric = template.metric
        else:
            os.makedirs(self._path, exist_ok=True)
            self._lock = Lock(self._file(LOCK), self._path, way_out="close it there first")
        try:
            self._open()
        except BaseException:
            self._let_go()
            raise

    def _file(self, name):
        return os.path.join(self._path, name)

    def _open(self):
        if self._path is None:
            self._documents = Documents(None)
            self._next = self._visible = 0
            return
        has_index = os.path.exists(self._file(INDEX))
        if has_index and not os.path.exists(self._file(DOCUMENTS)):
            raise VecidxError(f"{self._path!r}: has {INDEX} but no {DOCUMENTS}; bring it back, or "
                              "give another folder")
        self._documents = Documents(self._file(DOCUMENTS))
        if has_index:
            self._open_index(self._parameters.get("dim"))
        self._mend()

    def _open_index(self, dim):
        """Open or make the index."""
        parameters = {key: value for key, value in self._parameters.items() if key != "dim"}
        if self._path is None:
            self._index = vecidx.Index(dim, self._metric, **parameters)
            return
        is_new = not os.path.exists(self._file(INDEX))
        metric = "cosine" if is_new and self._metric is None else self._metric
        self._index = vecidx.open(self._file(INDEX), dim, metric, **parameters)

    def _mend(self):
        """Drop what a crash between the steps left in the index."""
        n, highest = self._documents.counts()
        labels = np.empty(0, np.int64) if self._index is None else self._index.ids()
        if len(labels) != n:
            kept = np.array(self._documents.labels(), np.int64)
            lost = np.setdiff1d(kept, labels)
            if len(lost):
                raise VecidxError(f"{self._path!r}: {len(lost)} of {n} documents have no vector in "
                                  f"{INDEX}: the files are not of one moment; bring back a copy "
                                  "of the whole folder")
            self._index.delete(np.setdiff1d(labels, kept))
        # Labels from `_next` on are unused; those from `_visible` on are nobody's yet.
        self._next = self._visible = 1 + max(highest, int(labels.max(initial=-1)))

    # ---- writing ------------------------------------------------------------------

    def upsert(self, documents, vectors, *, on_conflict="replace"):
        """Write documents and their vectors: all of them, or none.

        Parameters
        ----------
        documents : sequence of Document
        vectors : sequence, or array of shape (n, dim)
            One for each; None for a document that only conditions and ids find.
        on_conflict : {"replace", "error", "skip"}
            What becomes of a key that is there, or came earlier in the call.

        Returns
        -------
        list of str
            Keys that were written, in order.

        Raises
        ------
        KeyError
            Under ``"error"``, with the first key that is there.
        ValueError, TypeError
            A document or vector that cannot be stored.  Nothing has changed.
        """
        if on_conflict not in ("replace", "error", "skip"):
            raise ValueError("on_conflict: expected 'replace', 'error' or 'skip', "
                             f"got {on_conflict!r}")
        documents = list(documents)
        if len(documents) != len(vectors):
            raise ValueError(f"vectors: expected {len(documents)}, one for each document, "
                             f"got {len(vectors)}")
        encoded = [encode(document) for document in documents]
        with self._write_lock:
            self._check_open()
            there = self._documents.labels_of([columns[0] for columns in encoded])
            chosen = _choose(encoded, there, on_conflict)
            has = np.array([vectors[i] is not None for i in chosen], bool)
            rows = self._as_rows([vectors[i] for i, one in zip(chosen, has) if one])
            labels = np.arange(self._next, self._next + len(chosen))
            self._next += len(chosen)        # never again, whatever becomes of this call
            self._drop_left_over()
            try:
                if len(rows):
                    self._index.add(rows, labels[has])
                self._documents.replace([
                    (int(label), int(one), *encoded[i])
                    for label, one, i in zip(labels, has, chosen)])
                self._visible = self._next
            except BaseException:
                self._drop(labels[has])
                raise
            keys = [encoded[i][0] for i in chosen]
            self._drop([there[key][0] for key in keys if key in there and there[key][1]])
        return keys

    def _as_rows(self, vectors):
        """Vectors as float32 rows that the index will take."""
        if not vectors:
            return np.empty((0, 0), np.float32)
        try:
            rows = np.asarray(vectors, np.float32)
        except (TypeError, ValueError) as exc:
            raise ValueError(f"vectors: expected numbers, as many in each: {exc}") from exc
        if rows.ndim != 2 or rows.shape[1] == 0:
            raise ValueError(f"vectors: expected shape (n, dim), got {rows.shape}")
        if self._index is None:
            # So that a bad first vector does not decide the dim for ever.
            trial = vecidx.Index(self._parameters.get("dim") or rows.shape[1],
                                 self._metric or "cosine")
            trial.add(rows[:1])
            self._open_index(trial.dim)
        return rows

    def delete(self, keys=None, *, where=None):
        """Take documents out, by keys or by a condition; how many there were.

        Keys that are not there are passed over.
        """
        if (keys is None) == (where is None):
            raise ValueError("delete: expected keys or where, one of the two")
        with self._write_lock:
            self._check_open()
            if keys is not None:
                labels = [label for label, _ in self._documents.labels_of(_texts(keys)).values()]
            else:
                labels = self._documents.labels(where, with_vector=False)
            self._documents.remove(labels)
            self._drop(labels)
        return len(labels)

    def clear(self):
        """Take everything out.  The folder, the dim and the metric stay."""
        with self._write_lock:
            self._check_open()
            labels = self._documents.labels(with_vector=False)
            self._documents.remove(labels)
            if self._index is not None:
                self._begin_index_anew()
        return len(labels)

    def _begin_index_anew(self):
        """An empty index like the one that is there; sooner than to delete all it holds."""
        old = self._index
        parameters = {name: getattr(old, name) for name in
                      ("metric", "dtype", "M", "ef_construction", "quantization", "seed")}
        if self._path is None:
            self._index = vecidx.Index(old.dim, **parameters)
            return
        old.close(checkpoint=False)
        # In this order: an index without its log is an older one, which _mend() empties.
        os.unlink(old.path + ".wal")
        vecidx.Index(old.dim, **parameters).save(old.path)
        self._index = vecidx.open(old.path)

    def update_metadata(self, where, change):
        """Write ``change(metadata)``, a dict, for documents that meet a condition; how many.

        In one transaction; `change` must not call the store.
        """
        with self._write_lock:
            self._check_open()
            return self._documents.change_metadata(where, change)

    def index_field(self, *path):
        """Make conditions on a value of the metadata quick: ``store.index_field("year")``.

        Several keys name a nested value.  Without it a condition reads the metadata
        of every document; with it, comparisons with one value (``eq``, ``gt``,
        ``in``, ...) look up those that meet it.  It stays in the folder; once is
        enough, and again does no harm.
        """
        if not path or not all(isinstance(key, str) for key in path):
            raise TypeError(f"path: expected keys of the metadata, got {path!r}")
        with self._write_lock:
            self._check_open()
            self._documents.index_field(path)

    def _drop(self, labels):
        """Step 3.  Fails quietly: the change has happened, or is being undone."""
        if self._index is None or len(labels) == 0:
            return
        try:
            self._index.delete(labels, missing="ignore")
        except (OSError, VecidxError, MemoryError) as exc:
            _logger.warning("%s: %d vectors stay in the index for now: %s", self._path,
                            len(labels), exc)
            self._left_over += [int(label) for label in labels]

    def _drop_left_over(self):
        labels, self._left_over = self._left_over, []
        self._drop(labels)

    # ---- reading ------------------------------------------------------------------

    def search(self, vector, k=10, *, where=None, keep=None, ef=None):
        """Documents whose vectors are nearest.

        Parameters
        ----------
        vector : array_like, shape (dim,)
        k : int
        where : Compare, And, Or or Not, optional
            Only documents that meet the condition.
        keep : callable, optional
            Only documents for which it is true; asked from the nearest on, until
            there are `k`.  Slower than `where`.
        ef : int, optional
            As for :meth:`vecidx.Index.search`.

        Returns
        -------
        list of Hit
            Nearest first; fewer than `k` where there are fewer.
        """
        return [hit for _, hit in self._search(vector, k, where, keep, ef)]

    def _search(self, vector, k, where, keep, ef):
        """[(label, Hit), ...]"""
        k = operator.index(k)
        if k < 0:
            raise ValueError(f"k: expected 0 or more, got {k}")
        self._check_open()
        if self._index is None or k == 0:
            return []
        query = np.asarray(vector, np.float32)
        if query.shape != (self._index.dim,):
            raise ValueError(f"vector: expected shape ({self._index.dim},), got {query.shape}")
        if not np.isfinite(query).all() or (self._index.metric == "cosine" and not query.any()):
            raise ValueError("vector: NaN, an infinity, or zeros only under 'cosine'")
        want, tries = k, _TRIES
        while True:
            labels, distances = self._nearest(query, want, where, ef)
            rows = self._documents.by_label(labels)
            visible = self._visible
            labels, distances = labels.tolist(), distances.tolist()
            gone = sum(label not in rows and label < visible for label in labels)
            if gone and tries > 0:
                # Replaced or deleted since the index was asked; what came instead counts.
                tries -= 1
                want += 2 * gone
                continue
            found = [(label, Hit(rows[label], distance))
                     for label, distance in zip(labels, distances)
                     if label in rows and (keep is None or keep(rows[label]))]
            if len(found) >= k or len(labels) < want:
                return found[:k]
            want *= 4                        # past those of a write that is not yet made

    def _nearest(self, query, k, where, ef):
        """Labels and distances of the nearest, of those that meet the condition."""
        k = min(k, len(self._index))
        if k == 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        allowed = None if where is None else np.array(self._documents.labels(where), np.int64)
        labels, distances = self._index.search(query, k, ef=ef, filter=allowed)
        there = labels >= 0
        return labels[there], distances[there]

    def search_diverse(self, vector, k=4, *, fetch_k=20, lambda_mult=0.5, where=None, keep=None,
                       ef=None):
        """Documents that are near, and unlike one another (maximal marginal relevance).

        Of the `fetch_k` nearest, `k` are taken one by one: each time the one with
        the greatest ``lambda_mult * cosine to the vector - (1 - lambda_mult) *
        greatest cosine to one taken``.
        """
        if not 0 <= lambda_mult <= 1:
            raise ValueError(f"lambda_mult: expected a number from 0 to 1, got {lambda_mult!r}")
        for _ in range(_TRIES):
            pairs = self._search(vector, max(k, fetch_k), where, keep, ef)
            try:
                rows = self._index.get([label for label, _ in pairs]) if pairs else []
            except KeyError:                 # replaced since
                continue
            break
        else:
            raise VecidxError("search_diverse: documents were replaced as fast as they were found")
        return [pairs[i][1] for i in _diverse(vector, rows, k, lambda_mult)]

    def get(self, keys):
        """Documents of keys, in their order, None for one that is not there."""
        self._check_open()
        rows = self._documents.by_key(_texts(keys))
        return [rows.get(key) for key in keys]

    def vectors(self, keys):
        """Vectors of keys, as a list; None where there is no document or it has none."""
        for _ in range(_TRIES):
            self._check_open()
            labels = self._documents.labels_of(_texts(keys))
            labels = {key: label for key, (label, has) in labels.items() if has}
            try:
                rows = self._index.get(list(labels.values())) if labels else []
            except KeyError:                 # replaced since
                continue
            rows = dict(zip(labels, rows))
            return [rows.get(key) for key in keys]
        raise VecidxError("vectors: documents were replaced as fast as they were found")

    def find(self, where=None):
        """Documents that meet a condition, in the order they were written."""
        self._check_open()
        return self._documents.find(where)

    def count(self, where=None):
        """How many documents meet a condition."""
        self._check_open()
        return self._documents.count(where)

    def __len__(self):
        return self.count()

    # ---- what it is ------------------------------------------------------------------

    @property
    def path(self):
        """The folder, or None."""
        return self._path

    @property
    def metric(self):
        """What distances are."""
        return self._index.metric if self._index is not None else self._metric or "cosine"

    @property
    def index(self):
        """The :class:`vecidx.Index` of the vectors, None before the first.  Do not change it."""
        return self._index

    def similarity(self, distance):
        """A number that grows with likeness: the cosine, the dot product, or 1 / (1 + Euclid)."""
        if self.metric == "l2":
            return 1 / (1 + math.sqrt(max(distance, 0.0)))
        return 1 - distance

    def __repr__(self):
        if not self._is_open:
            return "<vecidx.stores.Store: closed>"
        where = "in memory" if self._path is None else repr(self._path)
        return f"<vecidx.stores.Store: {self.count():,} documents, {self.metric}, {where}>"

    # ---- files -----------------------------------------------------------------------

    def checkpoint(self):
        """Fold the logs into the files, so that the next open is quick."""
        with self._write_lock:
            self._check_open()
            if self._path is not None:
                if self._index is not None:
                    self._index.checkpoint()
                self._documents.checkpoint()

    def save(self, folder):
        """Write a copy of the store into a new folder, from which ``Store(folder)`` opens it.

        Searches go on; writers wait.

        Raises
        ------
        FileExistsError
            The folder is there and not empty.
        """
        folder = os.path.realpath(os.fspath(folder))
        if os.path.isdir(folder) and os.listdir(folder):
            raise FileExistsError(f"folder: {folder!r} is there and not empty")
        made = f"{folder}.{os.getpid()}.new"
        os.makedirs(made)
        try:
            with self._write_lock:
                self._check_open()
                if self._index is not None:
                    self._index.save(os.path.join(made, INDEX))
                self._documents.copy_to(os.path.join(made, DOCUMENTS))
            if os.path.isdir(folder):
                os.rmdir(folder)
            os.replace(made, folder)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise

    def close(self):
        """End; another process may open the folder then.  Closing twice is fine."""
        with self._write_lock:
            self._let_go()

    def _let_go(self):
        if not self._is_open:
            return
        self._is_open = False            # searches under way end, or find the documents closed
        try:
            if self._index is not None and self._path is not None:
                self._index.close()
        finally:
            if self._documents is not None:
                self._documents.close()
            if self._lock is not None:
                self._lock.release()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def _check_open(self):
        if not self._is_open:
            raise VecidxError("the store is closed; open it again")


def _choose(encoded, there, on_conflict):
    """Positions of the documents to write: one for each key."""
    chosen = {}
    for i, (key, *_) in enumerate(encoded):
        if key in there or key in chosen:
            if on_conflict == "error":
                raise KeyError(key)
            if on_conflict == "skip":
                continue
        chosen.pop(key, None)                # the last of a call counts, in its place
        chosen[key] = i
    return list(chosen.values())


def _texts(keys):
    keys = list(keys)
    for key in keys:
        if not isinstance(key, str):
            raise TypeError(f"keys: expected texts, got {key!r}")
    return keys


def _diverse(vector, rows, k, lambda_mult):
    """Positions of `k` rows, by maximal marginal relevance."""
    if len(rows) == 0:
        return []
    rows = np.asarray(rows, np.float64)
    query = np.asarray(vector, np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    rows = rows / np.where(lengths > 0, lengths, 1)[:, None]
    near = rows @ (query / (np.linalg.norm(query) or 1))
    alike = np.full(len(rows), -np.inf)      # to the likest one taken
    taken = []
    while len(taken) < min(k, len(rows)):
        score = near if not taken else lambda_mult * near - (1 - lambda_mult) * alike
        score = score.copy()
        score[taken] = -np.inf
        best = int(score.argmax())
        taken.append(best)
        alike = np.maximum(alike, rows @ rows[best])
    return taken
