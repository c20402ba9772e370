"""A folder that every node of the cluster reaches: a path, or a URL that fsspec knows.

Files appear whole or not at all: on a path they are written aside, synced and
renamed; an object store shows what was put when all of it is there.
"""

import hashlib
import os
import shutil
import tempfile
from contextlib import suppress

CHUNK = 8 << 20


class Store:
    """Files by name in one folder."""

    def __init__(self, url):
        url = os.fspath(url)
        if isinstance(url, bytes):
            url = os.fsdecode(url)
        if "://" in url:
            self._fs, self._root = filesystem(url)
            self.url = url.rstrip("/")
        else:                                # workers have other working directories
            self._fs, self._root = None, os.path.abspath(url)
            self.url = self._root

    def where(self, name):
        """The name as messages show it."""
        return f"{self.url}/{name}"

    def local_path(self, name):
        """The path of a file that the system can map, or None."""
        return os.path.join(self._root, name) if self._fs is None else None

    def _key(self, name):
        return f"{self._root}/{name}"

    def open(self, name):
        """An open binary file; FileNotFoundError where there is none."""
        if self._fs is None:
            return open(self.local_path(name), "rb")
        return self._fs.open(self._key(name), "rb")

    def read(self, name):
        with self.open(name) as file:
            return file.read()

    def exists(self, name):
        if self._fs is None:
            return os.path.exists(self.local_path(name))
        return self._fs.exists(self._key(name))

    def write(self, name, data):
        """A small file."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "file")
            with open(path, "wb") as file:
                file.write(data)
            self.put(path, name)

    def put(self, path, name):
        """Copy a local file into the store."""
        if self._fs is not None:
            self._fs.makedirs(os.path.dirname(self._key(name)), exist_ok=True)
            self._fs.put_file(path, self._key(name))
            return
        target = self.local_path(name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(path, "rb") as source:
            write_whole(target, iter(lambda: source.read(CHUNK), b""))

    def remove_folder(self, name):
        """Remove a folder of ours; it may be gone already."""
        with suppress(FileNotFoundError):
            if self._fs is None:
                shutil.rmtree(self.local_path(name))
            else:
                self._fs.rm(self._key(name), recursive=True)


def filesystem(url):
    """(file system, path) of a URL or path, by fsspec."""
    try:
        import fsspec
    except ImportError as err:
        raise ImportError('vecidx.ray needs fsspec for URLs and data files: '
                          'pip install "vecidx[ray]"') from err
    fs, path = fsspec.core.url_to_fs(url)
    return fs, path.rstrip("/")


def write_whole(target, chunks):
    """Write a local file aside, sync it, and rename it into place."""
    folder = os.path.dirname(target)
    handle, made = tempfile.mkstemp(prefix=".vecidx-", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(made, 0o644)
        os.replace(made, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(made)
        raise
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def chunks_of(file):
    """The bytes of an open file, a piece at a time."""
    while chunk := file.read(CHUNK):
        yield chunk


def sha256_of(file):
    """(checksum, number of bytes) of an open file."""
    digest, size = hashlib.sha256(), 0
    for chunk in chunks_of(file):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size
