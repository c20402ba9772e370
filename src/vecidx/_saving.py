"""class Saving: an index to a file or bytes, and its end."""

from vecidx import _storage
from vecidx._validate import check_flag


class Saving:
    """Part of :class:`vecidx.Index`; how one is read is in index.py."""

    __slots__ = ()

    def save(self, path, *, compact=False):
        """Write the index to a file.

        Parameters
        ----------
        path : str, bytes, os.PathLike or file object
            A file object is one with ``write()``, opened in binary mode; it gets
            the same bytes and is neither synced nor closed.
        compact : bool
            :meth:`compact` first, so that the file holds no places of vectors
            that were deleted or replaced.

        Notes
        -----
        To a path, the file is written beside it, synced, then renamed over it:
        whatever fails, a file that was there before stays as it was, and who has
        it open or mapped keeps the older one.  Searches go on meanwhile.

        Raises
        ------
        OSError
            With errno, as from :func:`open`.
        IndexFormatError
            The index is mapped, and its file damaged: nothing is written.
        """
        if check_flag(compact, name="compact"):
            self.compact()
        _storage.save(self._core, path)

    def to_bytes(self):
        """The bytes that :meth:`save` would write, for :func:`vecidx.from_bytes`."""
        return self._core.save_to(None, False)

    def warm(self):
        """Read in what is mapped, so that no search waits for the disk.

        Does nothing to an index that is all in memory.
        """
        self._core.warm(self._threads)

    def __vecidx_index__(self):
        """The index for extensions written in C: see docs/C_API.md."""
        return self._core.capsule()

    def close(self):
        """Give the memory, or the mapped file, back now.

        Every later call raises VecidxError.  A search that runs in another thread
        ends first, possibly with that error.  Closing twice is fine.
        """
        self._core.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.close()
