"""class Tending: room given back and made, and the graph checked."""

import functools

from vecidx._background import AutoCompact, Background
from vecidx._validate import MAX_K, check_flag, check_int, check_threads


class Tending:
    """Part of :class:`vecidx.Index`."""

    __slots__ = ()

    def compact(self, *, background=False, num_threads=None):
        """Give back the memory of vectors that were deleted or replaced.

        Their places are taken by later vectors anyway; this is for an index
        that has shrunk.  What is left is copied, while searches go on: for that
        long both copies take memory.  Does nothing where nothing is to be won.

        Parameters
        ----------
        background : bool
            Return at once.  Searches go on; an add or a delete made meanwhile
            waits until the copy is made.
        num_threads : int, optional
            By default the index's.

        Returns
        -------
        None, or under ``background`` an object with
            ``done``, whether it has ended, and ``wait(timeout=None)``, which
            waits for that, raises what went wrong, and says whether it has ended.

        Raises
        ------
        MemoryError, KeyboardInterrupt
            Nothing has changed that a search could tell.
        """
        threads = check_threads(num_threads, self._threads)
        if check_flag(background, name="background"):
            return Background("compact", functools.partial(self._core.compact, threads))
        return self._core.compact(threads)

    @property
    def auto_compact(self):
        """When to :meth:`compact` in the background by itself; None, as at first: never.

        A share, above 0 and below 1: an add or a delete after which more of
        the places are those of vectors deleted or replaced starts it.  Of this
        object, not of the file: to be set again after a load.  Small indexes,
        of less than 1,000 such places, are let be.  A failure is logged
        ("vecidx") and changes nothing.
        """
        return self._auto_compact and self._auto_compact.share

    @auto_compact.setter
    def auto_compact(self, share):
        self._auto_compact = None if share is None else AutoCompact(share)

    def _compact_if_due(self):
        if self._auto_compact is not None:
            self._auto_compact.look(self._core, self._threads)

    def reserve(self, n):
        """Make room for ``n`` vectors in all, so that adds up to there cannot fail for memory.

        An index grows by itself; this moves that to a moment of your choice.

        Raises
        ------
        MemoryError
            Nothing has changed.
        """
        self._core.reserve(check_int(n, name="n", low=0, high=MAX_K))

    def _merge_by_adding(self, other, on_conflict, num_threads, progress):
        """As :meth:`merge`, for indexes that keep more than the core does of each vector."""
        self._check_other(other)
        if other is self or ((other.dim, other.metric, other.dtype)
                             != (self.dim, self.metric, self.dtype)):
            raise ValueError("other: expected another index, of this one's dim, metric and dtype")
        ids = other.ids()
        self.add(other.get(ids), ids=ids, on_conflict=on_conflict, num_threads=num_threads,
                 progress=progress)

    def check(self, *, repair=False):
        """Check every invariant of the index; waits for a running writer.

        Parameters
        ----------
        repair : bool
            First lead links around deleted vectors that still have some, and
            link what cannot be reached.

        Returns
        -------
        dict
            ``unreachable``: rows that no walk can come upon.  A few may follow an add that
            is small against the index; later adds, or ``repair=True``, link them.

        Raises
        ------
        VecidxError
            With the first invariant found broken.
        """
        if repair:
            self._core.repair(self._threads)
        return self._core.check()
