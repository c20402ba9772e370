"""The log beside a durable index: its bytes (docs/FORMAT.md, "Log"), and the one-writer lock.

Knows nothing of what an index is: records have a kind and a payload.
"""

import errno
import hashlib
import io
import logging
import mmap
import os
import stat
import struct
import threading
import zlib
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from vecidx.errors import IndexFormatError, VecidxError

try:
    import fcntl
except ImportError:                       # Windows
    fcntl = None
    import msvcrt

ADD, DELETE, CHECKPOINT = 1, 2, 3         # kinds of record

_MARK = b"\x89VXLOG\r\n"
_VERSION = 1
# Mark, version, bytes a row, random id, number of the record before the first,
# name of the index file, zero, CRC of all before.
HEAD = struct.Struct("<8sIIQQ24sII")

_RECORD_MARK = b"\x89VXR"
# Mark, kind, sequence number, highest one known to be on disk, bytes of payload,
# CRC of the payload, CRC of all before.
RECORD = struct.Struct("<4sIQQQII")

_NAMED_BYTES = 1 << 16                    # the head of an index file is far shorter
_WRITE_MAX = 64 << 20                     # bytes in one call: some systems fail above 2 GiB

_WAY_OUT = ("move the log away to open the index as of its last checkpoint, without what the log "
            "holds")

_logger = logging.getLogger("vecidx")


# ---- files -------------------------------------------------------------------


def sync_file(fd):
    """Bring a file's bytes to the medium."""
    if hasattr(fcntl, "F_FULLFSYNC"):     # macOS: fsync() stops at the drive's own cache
        with suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
    try:
        getattr(os, "fdatasync", os.fsync)(fd)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP):     # as durable as it gets
            raise


def sync_folder(folder):
    """Bring the names in a folder to the medium."""
    if os.name == "nt":
        return
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:               # one we may write to but not read
        return
    try:
        os.fsync(fd)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)


def _write_at(file, offset, data):
    """Write all of `data`, an object of bytes."""
    view = memoryview(data)
    os.lseek(file.fileno(), offset, os.SEEK_SET)
    while len(view) > 0:
        done = os.write(file.fileno(), view[:_WRITE_MAX])
        if done == 0:                     # a file system's bug, and an endless loop
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        view = view[done:]


def name_of(path):
    """24 bytes that tell an index file from every other.

    Its length and a hash of its head, which has the checksum of every section.
    """
    with io.FileIO(path) as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(_NAMED_BYTES)
    return struct.pack("<Q", size) + hashlib.blake2b(head, digest_size=16).digest()


def match_access(path, like):
    """Let the same people read `path` who may read `like`."""
    old = os.stat(like)
    if hasattr(os, "chown"):
        with suppress(OSError):           # we may well not be allowed to
            os.chown(path, old.st_uid, old.st_gid)
    os.chmod(path, stat.S_IMODE(old.st_mode))


class Lock:
    """The one writer's lock: held while this object lives, freed with its process."""

    _WINDOWS_BYTE = 1 << 30               # far from the number, which others must read

    def __init__(self, path, index_path,
                 way_out="close it there, or read its last checkpoint with vecidx.load(path)"):
        self._file = io.FileIO(path, "r+", opener=lambda name, flags: os.open(
            name, flags | os.O_CREAT, 0o666))
        try:
            self._lock_now()
        except OSError as exc:
            holder = self._file.read(20).decode("ascii", "replace").strip()
            self._file.close()
            if exc.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            who = f"process {holder}" if holder.isdigit() else "another process"
            if holder == str(os.getpid()):
                who = f"this process ({holder})"
            raise VecidxError(
                f"{index_path!r} is open for writing in {who}, and there is one writer at a time; "
                f"{way_out}") from None
        self._file.truncate(0)
        self._file.write(b"%d\n" % os.getpid())

    def _lock_now(self):
        fd = self._file.fileno()
        if fcntl is not None:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        os.lseek(fd, self._WINDOWS_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(fd, 0, os.SEEK_SET)

    def release(self):
        if fcntl is not None:             # for the copies of a child made behind Python's back
            fcntl.flock(self._file.fileno(), fcntl.LOCK_UN)
        self._file.close()

    def forget(self):
        """In a child: drop the copy; the lock stays the parent's."""
        self._file.close()


# ---- the log -------------------------------------------------------------------


def bytes_of(array):
    """The bytes of an array, numbers little-endian; no copy on most machines."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return memoryview(np.ascontiguousarray(little).reshape(-1).view(np.uint8))


class _Record(NamedTuple):
    """A sound record of a log: fields of its head, and where its payload lies."""

    kind: int
    sequence: int
    synced: int
    offset: int
    begin: int
    end: int


def _record_at(view, offset, salt):
    """The sound record at `offset`; None where none is, or not all of one."""
    begin = offset + RECORD.size
    head = view[offset:begin]
    if len(head) < RECORD.size:
        return None
    mark, kind, sequence, synced, length, payload_crc, crc = RECORD.unpack(head)
    end = begin + length
    if (mark != _RECORD_MARK or zlib.crc32(head[:-4], salt) != crc or end > len(view)
            or zlib.crc32(view[begin:end]) != payload_crc):
        return None
    return _Record(kind, sequence, synced, offset, begin, end)


class Log:
    """An open log, at its end.  All but `sync` is for the one who holds the writer's lock."""

    def __init__(self, path, salt, end, sequence, first):
        self.file = io.FileIO(path, "r+")
        self.path = path
        self.salt = salt                  # CRC of the head: a record of another log fails by it
        self._tail = end, sequence        # one value, since Ctrl-C may come between two
        self.first = first                # of the first record that the index file lacks
        self.synced = 0                   # records up to this number are on disk
        self.is_open_ended = False        # a change is being made that has no record yet
        self._sync_lock = threading.Lock()
        self._sync_error = None

    @property
    def end(self):
        """Where the next record goes."""
        return self._tail[0]

    @property
    def sequence(self):
        """Number of the last record."""
        return self._tail[1]

    @property
    def behind(self):
        """Whether the index may hold what the log lacks."""
        return self.is_open_ended or self._sync_error is not None

    @property
    def pending(self):
        """Records that the index file lacks."""
        return self.sequence - self.first + 1

    @staticmethod
    def create(path, index_path, row_bytes, sequence):
        """Replace the file at `path` by a log without records, and open it."""
        head = HEAD.pack(_MARK, _VERSION, row_bytes, int.from_bytes(os.urandom(8), "little"),
                         sequence, name_of(index_path), 0, 0)[:-4]
        salt = zlib.crc32(head)
        temporary = path + ".new"
        with io.FileIO(temporary, "w") as file:
            match_access(temporary, index_path)
            _write_at(file, 0, head + struct.pack("<I", salt))
            sync_file(file.fileno())
        os.replace(temporary, path)
        sync_folder(os.path.dirname(path))
        log = Log(path, salt, HEAD.size, sequence, sequence + 1)
        log.synced = sequence
        return log

    def reserve(self, body, n_tail):
        """Take room for a record of `body` and `n_tail` more bytes; OSError if there is none.

        The body is written, without the head that would make it count.
        """
        try:
            _write_at(self.file, self.end, bytes(RECORD.size))
            _write_at(self.file, self.end + RECORD.size, body)
            _write_at(self.file, self.end + RECORD.size + len(body), bytes(n_tail))
        except BaseException:
            self.cancel()
            raise

    def cancel(self):
        """Give the room back."""
        with suppress(OSError):           # what stays is no record, and the next overwrites it
            os.ftruncate(self.file.fileno(), self.end)

    def commit(self, kind, body, tail=b""):
        """Make a record of the room; `body` is what was reserved, or its beginning."""
        length = len(body) + len(tail)
        head = RECORD.pack(_RECORD_MARK, kind, self.sequence + 1, self.synced, length,
                           zlib.crc32(tail, zlib.crc32(body)), 0)[:-4]
        try:
            _write_at(self.file, self.end + RECORD.size + len(body), tail)
            _write_at(self.file, self.end, head + struct.pack("<I", zlib.crc32(head, self.salt)))
        except OSError as exc:            # only a file system that never overwrites in place
            raise self._not_safe(exc) from None
        self._tail = self.end + RECORD.size + length, self.sequence + 1

    def sync(self, sequence):
        """Return once record number `sequence` is on disk.

        Threads that come while one syncs wait, and one of them then syncs for
        all of them.
        """
        if self.synced >= sequence:
            return
        with self._sync_lock:
            if self.synced >= sequence:
                return
            # Asked again, a system may say yes though it has dropped the bytes.
            if self._sync_error is not None:
                raise self._not_safe(self._sync_error)
            upto = self.sequence
            try:
                sync_file(self.file.fileno())
            except OSError as exc:
                self._sync_error = exc
                raise self._not_safe(exc) from None
            self.synced = upto

    def _not_safe(self, why):
        error = OSError(why.errno, why.strerror, self.path)
        error.add_note("vecidx: the change is in the index, but may not be on disk; the next "
                       "change, or checkpoint(), will write the whole index first")
        return error

    def close(self, is_settled=False):
        """Close the file; `is_settled`: the index file on disk has all that the log has."""
        with self._sync_lock:
            if is_settled:
                self.synced = self.sequence
            self.file.close()


def _read_head(view, path):
    """(CRC of the head, bytes a row, number before the first record, name of the index file)"""
    head = view[:HEAD.size]
    if len(head) < HEAD.size or head[:8] != _MARK:
        raise IndexFormatError(f"{path!r}: not the log of a vecidx index (or its first "
                               f"{HEAD.size} bytes are damaged); {_WAY_OUT}")
    _, version, row_bytes, _, sequence, name, _, crc = HEAD.unpack(head)
    if zlib.crc32(head[:-4]) != crc:
        raise IndexFormatError(f"{path!r}: the log's head (byte 0 to {HEAD.size - 1}) is "
                               f"damaged; {_WAY_OUT}")
    if version != _VERSION:
        raise IndexFormatError(f"{path!r}: log version {version}, expected {_VERSION}; open the "
                               "index with the version of vecidx that wrote it, and close it there")
    return crc, row_bytes, sequence, name


def _records(view, offset, end, sequence, salt, path):
    """Yield the sound records from `offset` to `end`, or to where a crash cut the log.

    IndexFormatError where a record that had reached the disk is not there.
    """
    while offset < end:
        record = _record_at(view, offset, salt)
        if record is None or record.sequence != sequence + 1:
            _refuse_damage(view, offset, sequence + 1, salt, path)
            return
        yield record
        offset, sequence = record.end, record.sequence


def _refuse_damage(view, offset, sequence, salt, path):
    """IndexFormatError if record `sequence`, missing at `offset`, had reached the disk.

    A later record tells by the highest number that was synced when it was
    written.  Records that never were synced may be lost in any order.
    """
    at = view.find(_RECORD_MARK, offset)
    while at >= 0:
        later = _record_at(view, at, salt)
        if later is not None and later.synced >= sequence:
            raise IndexFormatError(
                f"{path!r}: the record at byte {offset} is damaged, and sound ones follow; to "
                f"open the index as it was before that record, cut the log to {offset} bytes")
        at = view.find(_RECORD_MARK, at + 1)


def open_log(path, row_bytes, name, apply):
    """Do again what a log says, beginning where the index file of this `name` ends.

    Calls ``apply(kind, payload)``.  Returns the open log; None where the log
    belongs to another file and has nothing to lose.
    """
    with io.FileIO(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise IndexFormatError(f"{path!r}: the log is empty, without even a head; {_WAY_OUT}")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            salt, log_row_bytes, sequence, log_name = _read_head(view, path)
            start, end, last = _find_start(view, salt, sequence, log_name, name, path)
            if start is None:
                return None
            if log_row_bytes != row_bytes:
                raise IndexFormatError(f"{path!r}: a log of rows of {log_row_bytes} bytes, "
                                       f"expected {row_bytes}, as in the index; {_WAY_OUT}")
            for record in _records(view, start[0], end, start[1], salt, path):
                try:
                    apply(record.kind, view[record.begin:record.end])
                except (ValueError, KeyError) as exc:
                    raise IndexFormatError(f"{path!r}: the record at byte {record.offset} cannot "
                                           f"be replayed: {exc}") from exc
    log = Log(path, salt, end, last, start[1] + 1)
    if end < size:
        _logger.warning("%s: dropped %d bytes from byte %d on, left by a write that did not end",
                        path, size - end, end)
        os.ftruncate(log.file.fileno(), end)
    sync_file(log.file.fileno())
    log.synced = last
    return log


def _find_start(view, salt, sequence, log_name, name, path):
    """((offset, number) after which to replay, end of the last record, its number).

    The first is None where nothing names the index file, but no change is lost.
    """
    end, has_changes = HEAD.size, False
    start = (end, sequence) if log_name == name else None
    for record in _records(view, end, len(view), sequence, salt, path):
        end, sequence = record.end, record.sequence
        if record.kind != CHECKPOINT:
            has_changes = True
        elif view[record.begin:end] == name:
            start = (end, sequence)
    if start is None and has_changes:
        raise IndexFormatError(
            f"{path!r}: the log does not belong to the index file beside it, which was replaced "
            f"after the log was begun; bring the right file back, or {_WAY_OUT}")
    return start, end, sequence
