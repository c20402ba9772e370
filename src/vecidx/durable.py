"""open(): an index whose adds and deletes survive a crash.

Beside the file F of such an index lie

    F.wal    the log: what happened since F was written (docs/FORMAT.md, "Log")
    F.lock   locked by the one process that may write; holds its process id
    F.next   a folder, while the next F is being made

A write first takes room in the log, so that a full disk is met while nothing
has changed; then changes the index, which may refuse, or be stopped half-way;
then turns the room into a record of what has really changed; then waits for
the disk, together with all other writers that wait.  Wherever it is cut, the log
holds whole records of everything that was reported as done.

A checkpoint writes the next F, puts a record that names it into the log, renames
it over F, and begins a new log.  Which records F holds already is so always
known: those before the last record (or the head) of the log that names F.

Where the log can no longer be trusted to hold what the index holds (a sync
failed, an exception came between changing and recording), it is `behind`, and
the next write begins with a checkpoint, which holds all that memory holds.
"""

import errno
import functools
import logging
import numbers
import os
import threading
import time
import weakref
from contextlib import suppress

import numpy as np

from vecidx import _wal
from vecidx._validate import (
    FLOAT32,
    INT64,
    NUMPY_DTYPES,
    as_labels,
    as_path,
    bytes_of,
    check_flag,
    check_threads,
    check_word,
)
from vecidx.errors import IndexFormatError, VecidxError
from vecidx.index import Index, load

SYNC_WORDS = ("always", "interval", "none")
MAX_INTERVAL = 3600
MIN_AUTO_CHECKPOINT = 64 << 20            # bytes of log that are never worth a checkpoint

_logger = logging.getLogger("vecidx")


class DurableIndex(Index):
    """An :class:`Index` whose adds and deletes survive a crash.  Made by :func:`open` only.

    Everything of an index works as before.  ``add`` and ``delete`` return when
    the change is as safe as ``sync`` says, and raise OSError, with the index
    as it was, where there is no room for it.  A ``with`` block closes the index
    at its end.
    """

    __slots__ = ("_auto_at", "_auto_checkpoint", "_inside", "_lock", "_log", "_path", "_pid",
                 "_sync", "_wake", "_writer")

    def __init__(self, *args, **kwargs):
        raise TypeError("a durable index is made by vecidx.open(path)")

    @staticmethod
    def _over(index, threads):
        """A durable index, not open yet, that takes over what a plain one has."""
        if type(index) is not Index:
            raise ValueError("open: an index with strings for ids has no log; use vecidx.load")
        self = DurableIndex.__new__(DurableIndex)
        for name in Index.__slots__:
            if name != "__weakref__":
                setattr(self, name, getattr(index, name))
        self._threads = threads
        return self

    def _start(self, path, lock, log, sync, auto_checkpoint):
        self._path = path
        self._lock = lock
        self._log = log                      # None: closed
        self._pid = os.getpid()
        self._sync = sync
        self._auto_checkpoint = auto_checkpoint
        self._wake = threading.Event()       # of the thread that syncs every interval
        # Held from the room in the log to the record.  Re-entrant, so that a call
        # from inside comes in, and finds `_inside` set.
        self._writer = threading.RLock()
        self._inside = False
        self._plan_checkpoint()
        _open_indexes.add(self)

    # ---- writing ------------------------------------------------------------

    def add(self, vectors, ids=None, *, on_conflict="replace", num_threads=None, progress=False):
        rows, labels, conflict, threads = self._check_add(vectors, ids, on_conflict, num_threads,
                                                          progress)
        used = np.empty(len(rows), INT64)

        def change(log):
            if len(rows) == 0:
                return
            logged = self._rows_to_log(labels, on_conflict)
            with np.errstate(invalid="ignore"):        # what cannot be cast is refused below
                body = (rows if logged is None else rows[logged]).astype(_log_dtype(self),
                                                                         copy=False)
            log.reserve(_wal.bytes_of(body), 8 * len(body))
            log.is_open_ended = True
            try:
                self._run_add(rows, labels, conflict, threads, progress, used)
                n_done = len(rows)
            except BaseException as exc:
                # None: it came from outside the core, and what is in is not known.
                n_done = getattr(exc, "rows_added", None)
                raise
            finally:
                if n_done is not None:
                    done = used[:n_done] if logged is None else used[:n_done][logged[:n_done]]
                    self._record(log, _wal.ADD, body[:len(done)], done)

        self._write("add", change)
        return used

    add.__doc__ = Index.add.__doc__

    def _rows_to_log(self, labels, on_conflict):
        """Which rows the add will take, as a mask; None: all of them."""
        if on_conflict != "skip" or labels is None:
            return None
        return np.fromiter((label not in self for label in labels.tolist()), bool, len(labels))

    def delete(self, ids, *, missing="error", num_threads=None):
        labels, _ = as_labels(ids)

        def change(log):
            log.reserve(_wal.bytes_of(labels), 0)
            log.is_open_ended = True
            gone = None                      # not known
            try:
                n = Index.delete(self, labels, missing=missing, num_threads=num_threads)
                gone = labels if n > 0 else labels[:0]
                return n
            except (KeyError, TypeError, ValueError):
                gone = labels[:0]
                raise
            except BaseException:            # to delete again what is gone changes nothing
                gone = labels[[label not in self for label in labels.tolist()]]
                raise
            finally:
                if gone is not None:
                    self._record(log, _wal.DELETE, gone, labels[:0])

        return self._write("delete", change)

    delete.__doc__ = Index.delete.__doc__

    def __vecidx_index__(self):
        raise TypeError("an index with a log has no C index to give: what C code wrote would not "
                        "be in the log; save it, and vecidx.load the file")

    def merge(self, other, *, on_conflict="replace", num_threads=None, progress=False):
        """As :meth:`Index.merge`; logged, and so no sooner done than an add of the vectors."""
        self._merge_by_adding(other, on_conflict, num_threads, progress)

    def _record(self, log, kind, body, tail):
        """Turn the room taken into a record of what has changed."""
        if self._pid != os.getpid():         # the call itself, by its progress, has forked
            return
        if len(body) > 0:
            log.commit(kind, _wal.bytes_of(body), _wal.bytes_of(tail))
        else:
            log.cancel()
        log.is_open_ended = False

    def _write(self, verb, change):
        """Call ``change(log)`` as the one writer; then wait for the disk as `sync` says."""
        log, sequence = None, 0

        def work():
            nonlocal log, sequence
            self._before_write()
            log = self._log
            try:
                return change(log)
            finally:
                sequence = log.sequence

        try:
            return self._alone(verb, work)
        finally:                             # others write while this one waits
            if self._sync == "interval":
                self._wake.set()
            elif self._sync == "always" and log is not None and self._pid == os.getpid():
                log.sync(sequence)

    def _alone(self, verb, work):
        """Call ``work()`` as the one writer."""
        if self._pid != os.getpid():
            raise VecidxError(f"{verb}: this process was forked from the one that opened the index "
                              f"({self._pid}), and only that one may change it")
        # No context manager of our own: Ctrl-C may come as its __exit__ begins.
        with self._writer:
            if self._inside:
                raise VecidxError(f"{verb}: this thread is inside another add, delete or "
                                  "checkpoint of the same index (called from its progress "
                                  "callable or a signal handler?)")
            if self._log is None:
                raise VecidxError(f"{verb}: the index is closed; vecidx.open({self._path!r}) "
                                  "opens it again")
            self._inside = True
            try:
                return work()
            finally:
                self._inside = False

    def _before_write(self):
        """Make a checkpoint where the log needs one, or has outgrown the index."""
        if self._log.behind:
            self._checkpoint()
        elif self._auto_checkpoint and self._log.end > self._auto_at:
            try:
                self._checkpoint()
            except OSError as exc:           # nothing is lost: the log has it
                if self._log is None:
                    raise
                _logger.warning("%s: no automatic checkpoint: %s", self._path, exc)
                self._auto_at = 2 * self._log.end

    # ---- checkpoints ----------------------------------------------------------

    def checkpoint(self):
        """Write the index to its file, and begin a new log.

        Searches go on meanwhile; adds and deletes wait.  Opening is quick
        after it, and :func:`vecidx.load` of the path sees everything.

        Raises
        ------
        OSError
            Nothing is lost then: the older file and the log stay.
        """
        self._alone("checkpoint", self._checkpoint)

    def _checkpoint(self):
        path, log, folder = self._path, self._log, self._path + ".next"
        made = os.path.join(folder, "index")
        _clear_next(folder)
        os.makedirs(folder, 0o700, exist_ok=True)
        try:
            Index.save(self, made)
            _wal.match_access(made, path)
            # Whichever of the two files a crash leaves, the log says how to go on from it.
            name = _wal.name_of(made)
            log.reserve(name, 0)
            log.commit(_wal.CHECKPOINT, name)
            _wal.sync_file(log.file.fileno())     # not log.sync(), which may remember an error
            os.replace(made, path)
            _wal.sync_folder(os.path.dirname(path))
        finally:
            _clear_next(folder)
        try:
            log.close(is_settled=True)       # before it is replaced: Windows wants it so
            self._log = _wal.Log.create(log.path, path, _row_bytes(self), log.sequence)
        except BaseException:                # all is on disk, but there is no log to write to
            self._let_go()
            raise
        self._plan_checkpoint()

    def _plan_checkpoint(self):
        self._auto_at = max(os.path.getsize(self._path), MIN_AUTO_CHECKPOINT)

    def save(self, path, *, compact=False):
        """As :meth:`Index.save`; to the index's own path, it is a checkpoint."""
        if not isinstance(path, (str, bytes, os.PathLike)) or _real_path(path) != self._path:
            super().save(path, compact=compact)
            return
        if check_flag(compact, name="compact"):
            self.compact()
        self.checkpoint()

    # ---- the end ----------------------------------------------------------------

    def close(self, checkpoint=True):
        """End writing, and let other processes write.  Searches still work.

        Parameters
        ----------
        checkpoint : bool
            Make one if the file lacks anything.  Without it the next open
            replays the log, which takes as long as the adds took.

        Raises
        ------
        OSError
            The checkpoint failed; the index is closed, and the log has everything.
        """
        if self._log is None or self._pid != os.getpid():
            return
        self._alone("close", functools.partial(self._close, checkpoint))

    def _close(self, checkpoint):
        try:
            if checkpoint and (self._log.pending or self._log.behind):
                self._checkpoint()
            self._log.sync(self._log.sequence)
        finally:
            self._let_go()

    def _let_go(self):
        """Be closed."""
        log, self._log = self._log, None
        if log is not None:
            log.close()
            self._lock.release()
        self._wake.set()

    def __enter__(self):
        return self

    def __exit__(self, exc_type, exc, traceback):
        self.close(checkpoint=exc_type is None)

    def _forget(self):
        """In a forked child: let go of the parent's files."""
        log, self._log = self._log, None
        if log is not None:
            log.file.close()
            self._lock.forget()

    # ---- what it is ---------------------------------------------------------------

    @property
    def path(self):
        """The index file, absolute, symbolic links followed."""
        return self._path

    def __repr__(self):
        log = self._log
        state = ("closed" if log is None else
                 f"sync={self._sync!r}, {log.pending:,} to be folded in")
        return f"{super().__repr__()[:-1]}, durable in {self._path!r}, {state}>"

    def _refuse_copy(self, *args):
        raise TypeError("a durable index cannot be pickled or copied: its file has one writer; "
                        "pass its path, and use vecidx.load(path) to read")

    __reduce_ex__ = __copy__ = __deepcopy__ = _refuse_copy


_open_indexes = weakref.WeakSet()


def _forget_all():
    for index in list(_open_indexes):
        index._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


def _sync_every(interval, reference, wake):
    """In a thread of its own: bring to disk what was written, until the index is closed."""
    while True:
        wake.wait()
        wake.clear()
        time.sleep(interval)
        index = reference()
        log = None if index is None else index._log
        if log is None:
            return
        try:
            log.sync(log.sequence)
        except OSError as exc:               # the next write meets log.behind
            _logger.error("%s: cannot sync the log: %s", log.path, exc)
        del index, log                       # or the index would never be collected


# ---- opening -----------------------------------------------------------------------


def _row_bytes(index):
    """Bytes of a row in the log: the values as they were added, without padding."""
    return bytes_of(index.dim, index._dtype) * _log_dtype(index).itemsize


def _log_dtype(index):
    """Of the values in the log: those that were added, to float32's rounding.

    (Not as they are stored: under cosine the direction is what is rounded.)
    """
    return NUMPY_DTYPES[index._dtype] if index._dtype in ("int8", "uint8", "bits") else FLOAT32


def _clear_next(folder):
    """Remove what a checkpoint made or a crash left, and nothing else."""
    with suppress(OSError):
        for name in os.listdir(folder):
            if name == "index" or name.startswith(".vecidx-"):
                os.unlink(os.path.join(folder, name))
        os.rmdir(folder)


def _real_path(path):
    return os.path.realpath(os.fsdecode(as_path(path)))


def open(path, dim=None, metric=None, *, sync="always", interval=None, num_threads=None,
         auto_checkpoint=True, **parameters):
    """Open an index whose adds and deletes survive a crash, or make a new one.

    Parameters
    ----------
    path : str, bytes or os.PathLike
        The index file; any that :meth:`Index.save` wrote will do.  Beside it
        lie ``path.wal``, the log, and ``path.lock``.  Move the first two
        together, while the index is closed.
    dim : int, optional
        Needed for a new index.
    metric : {"l2", "ip", "cosine", "hamming", "jaccard"}, optional
        ``"l2"`` for a new index.
    sync : {"always", "interval", "none"}
        What a returned ``add`` or ``delete`` survives.  ``"always"``: a loss
        of power; threads that write at once share one wait for the disk.
        ``"interval"``: a loss of power, once `interval` seconds have gone by.
        ``"none"``: a loss of power, once the system has written it, often half
        a minute later.  All three survive the end of the process, kill -9
        too.  What is lost is the end, never something in between.
    interval : float, optional
        Seconds, 0.1 by default; for ``sync="interval"`` only.
    num_threads : int, optional
        As for :class:`Index`.
    auto_checkpoint : bool
        Make a checkpoint when the log outgrows the index file and 64 MiB; the
        write that finds it so waits for it.
    **parameters
        Other parameters of :class:`Index`, for a new index.  Those given, and
        `dim` and `metric`, must agree with an index that is there;
        ``capacity`` is a hint and is not compared.

    Returns
    -------
    DurableIndex
        An :class:`Index` that also has ``checkpoint()``, ``close()``, ``path``,
        and works in a ``with`` statement.  Other processes may :func:`load` the
        path at any time and see its last checkpoint.

    Raises
    ------
    VecidxError
        The index is open for writing elsewhere; the text names the process.
    IndexFormatError
        The file or the log is damaged, or they do not belong together.  The
        end of a log that was cut by a crash is no damage: it is dropped, and
        the logger "vecidx" says so.
    FileNotFoundError
        There is no index, and no `dim` to make one.
    ValueError
        A parameter differs from that of the index that is there.

    Examples
    --------
    >>> with vecidx.open("senses.vidx", dim=384, metric="cosine") as index:  # doctest: +SKIP
    ...     index.add(vectors, ids=ids)       # on disk when it returns
    """
    if parameters.pop("ids", "int") != "int":
        raise ValueError("ids: an index with a log has numbers for ids; for strings make "
                         "vecidx.Index(..., ids='str'), and save it")
    path = _real_path(path)
    check_word(sync, name="sync", known=SYNC_WORDS)
    interval = _check_interval(interval, sync)
    threads = check_threads(num_threads)
    fresh = None if os.path.exists(path) else _new_index(path, dim, metric, parameters)
    lock = _wal.Lock(path + ".lock", path)
    try:
        _clear_next(path + ".next")
        if fresh is not None and not os.path.exists(path):
            fresh.save(path)
        index = DurableIndex._over(load(path), threads)
        _check_parameters(path, index, dim, metric, parameters)
        index._start(path, lock, _open_log(path, index), sync, bool(auto_checkpoint))
    except BaseException:
        lock.release()
        raise
    if sync == "interval":
        wake = index._wake
        threading.Thread(target=_sync_every, name="vecidx-sync", daemon=True, args=(
            interval, weakref.ref(index, lambda _: wake.set()), wake)).start()
    return index


def _check_interval(interval, sync):
    if interval is None:
        return 0.1
    if sync != "interval":
        raise ValueError(f"interval: is for sync='interval' only, got sync={sync!r}")
    if (isinstance(interval, (bool, np.bool_)) or not isinstance(interval, numbers.Real)
            or not 0 < interval <= MAX_INTERVAL):
        raise ValueError(f"interval: expected seconds, above 0 and at most {MAX_INTERVAL}, "
                         f"got {interval!r}")
    return float(interval)


def _new_index(path, dim, metric, parameters):
    """A plain index to be saved at `path`, where there is none."""
    if dim is None:
        raise FileNotFoundError(errno.ENOENT, "no index there; give dim to make one", path)
    log_path = path + ".wal"
    if os.path.exists(log_path) and os.path.getsize(log_path) > _wal.HEAD.size:
        raise IndexFormatError(f"{log_path!r}: a log whose index file is gone; bring that file "
                               "back, or move the log away to begin anew")
    return Index(dim, "l2" if metric is None else metric, **parameters)


def _check_parameters(path, index, dim, metric, parameters):
    """ValueError where an argument differs from what the index is."""
    given = {"dim": dim, "metric": metric, **parameters}
    given = {name: value for name, value in given.items()
             if value is not None and name != "capacity"}
    # A template, so that words are checked and understood as for a new index.
    template = Index(**{"dim": index.dim, "metric": index.metric, **given})
    for name in given:
        have, want = getattr(index, name), getattr(template, name)
        if have != want:
            raise ValueError(f"{name}: {path!r} has {have!r}, got {want!r}")


def _open_log(path, index):
    """Replay the log of the index just loaded from `path`, or make it; the open log."""
    log_path, row_bytes = path + ".wal", _row_bytes(index)
    log = None
    if os.path.exists(log_path):
        log = _wal.open_log(log_path, row_bytes, _wal.name_of(path),
                            functools.partial(_apply, index))
    return log or _wal.Log.create(log_path, path, row_bytes, 0)


def _apply(index, kind, payload):
    """Do again what a record says."""
    if kind == _wal.ADD:
        n = len(payload) // (_row_bytes(index) + 8)
        rows = np.frombuffer(payload[:n * _row_bytes(index)],
                             _log_dtype(index).newbyteorder("<"))
        ids = np.frombuffer(payload[n * _row_bytes(index):], "<i8")
        Index.add(index, rows.reshape(n, -1), ids)
    elif kind == _wal.DELETE:
        Index.delete(index, np.frombuffer(payload, "<i8"), missing="ignore")
    elif kind != _wal.CHECKPOINT:
        raise ValueError(f"it is of kind {kind}, which this version does not know")
