"""Files and bytes: what save, load and inspect accept, and which core call that is.

A path is str, bytes or os.PathLike; anything with a write() or read() method is
a file object, opened in binary mode.
"""

import io
import os

import numpy as np

from vecidx import _core
from vecidx._validate import as_path, check_flag


def _is_path(target):
    return isinstance(target, (str, bytes, os.PathLike))


def save(core, target):
    """Write an index to a path or a file object."""
    write = None if _is_path(target) else getattr(target, "write", None)
    if write is None:
        core.save(as_path(target))
        return
    if isinstance(target, io.TextIOBase):
        raise TypeError('path: expected a file opened in binary mode ("wb"), got a text file')
    core.save_to(write, isinstance(target, io.RawIOBase))


def load(source, mmap, verify, threads):
    """The core of an index in a file."""
    mode = _map_mode(mmap)
    verify = check_flag(verify, name="verify")
    read = None if _is_path(source) else getattr(source, "read", None)
    if read is None:
        return _core.CoreIndex.load(as_path(source), mode, verify, threads)
    if isinstance(source, io.TextIOBase):
        raise TypeError('path: expected a file opened in binary mode ("rb"), got a text file')
    if mode != 0:
        raise ValueError("mmap: only a file that has a path can be mapped; pass the path")
    return load_bytes(read(), verify, threads)


def load_bytes(data, verify, threads):
    """The core of an index in memory."""
    verify = check_flag(verify, name="verify")
    if isinstance(data, str):
        raise TypeError("data: expected bytes or another buffer, got str; for a path use "
                        "vecidx.load")
    try:
        view = memoryview(data)
        view = np.frombuffer(view, np.uint8) if view.nbytes else np.empty(0, np.uint8)
    except (TypeError, ValueError, BufferError) as err:
        raise TypeError(f"data: expected bytes or another contiguous buffer, got "
                        f"{type(data).__name__}") from err
    return _core.CoreIndex.load_bytes(view, verify, threads)


def inspect(path):
    """What an index file says of itself, in milliseconds whatever its size.

    Only the head of the file is read: that it is whole is checked, its sections
    are not (:func:`load` does).

    Parameters
    ----------
    path : str, bytes or os.PathLike

    Returns
    -------
    dict
        ``format_version``, ``file_bytes``, ``rows`` that a search may return,
        ``deleted`` rows, ``dim``, ``metric``, ``dtype``, ``quantization``,
        ``M``, ``ef_construction``, ``seed``; and ``sections``, a dict of name to
        ``kind``, ``required``, ``offset``, ``bytes`` and ``crc32c``.

    Raises
    ------
    IndexFormatError
        The file is not an index, or its head is damaged.
    OSError
        With errno.
    """
    return _core.inspect(as_path(path))


def _map_mode(mmap):
    if isinstance(mmap, (bool, np.bool_)):
        return _core.MAP_MODES[bool(mmap)]
    if isinstance(mmap, str) and mmap in _core.MAP_MODES:
        return _core.MAP_MODES[mmap]
    raise ValueError(f'mmap: expected True, False or "vectors", got {mmap!r}')
