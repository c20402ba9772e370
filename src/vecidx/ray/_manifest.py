"""manifest.json: which files make up one generation of a sharded index.

Written last, so that a folder with a manifest holds a whole generation.  It has
the checksum of every shard file, and of itself.
"""

import dataclasses
import hashlib
import json

import numpy as np

from vecidx.errors import IndexFormatError
from vecidx.ray._store import Store, sha256_of

NAME = "manifest.json"
FORMAT = "vecidx-shards"
VERSION = 1
ID_RULE = "splitmix64(id) % shards"


def shard_of(ids, n_shards):
    """Which shard each id belongs to: int64, shape (n,)."""
    x = np.asarray(ids, np.int64).astype(np.uint64)
    with np.errstate(over="ignore"):         # splitmix64's last steps: neighbours part
        x += np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return (x % np.uint64(n_shards)).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of a manifest."""

    file: str
    rows: int
    bytes: int
    sha256: str

    def sound(self, store):
        """Is the file there, and what it should be?"""
        try:
            with store.open(self.file) as file:
                return sha256_of(file) == (self.sha256, self.bytes)
        except FileNotFoundError:
            return False


@dataclasses.dataclass(frozen=True)
class Manifest:
    """One generation of a sharded index.

    Attributes
    ----------
    url : str
        The folder it was read from.
    fingerprint : str
        Of the source, the parameters and the number of shards.
    dim, metric, parameters
        Of every shard's index.
    shards : tuple of Shard
    """

    url: str
    fingerprint: str
    dim: int
    metric: str
    parameters: dict
    shards: tuple

    @property
    def rows(self):
        return sum(shard.rows for shard in self.shards)

    def __repr__(self):
        return (f"<vecidx.ray.Manifest: {self.rows:,} rows x {self.dim}, {self.metric}, "
                f"{len(self.shards)} shards in {self.url}>")

    def write(self):
        body = {"format": FORMAT, "version": VERSION, "id_rule": ID_RULE,
                "fingerprint": self.fingerprint, "dim": self.dim, "metric": self.metric,
                "parameters": self.parameters, "rows": self.rows,
                "shards": [dataclasses.asdict(shard) for shard in self.shards]}
        body["sha256"] = _sum(body)
        Store(self.url).write(NAME, json.dumps(body, indent=1).encode())


def as_manifest(manifest):
    """A Manifest, read from its folder if a path or URL was given."""
    return manifest if isinstance(manifest, Manifest) else read_manifest(manifest)


def read_manifest(url):
    """The manifest in a folder.

    Raises
    ------
    FileNotFoundError
        There is none: no build has ended there.
    IndexFormatError
        It is damaged, or of a newer version.
    """
    store = Store(url)
    where = store.where(NAME)
    try:
        data = store.read(NAME)
    except FileNotFoundError as err:
        raise FileNotFoundError(err.errno or 2, "no manifest there; vecidx.ray.build() writes one "
                                                "when all shards are done", where) from None
    try:
        body = json.loads(data)
        if body["format"] != FORMAT:
            raise IndexFormatError(f"{where}: not a manifest of shards")
        if body["version"] != VERSION or body["id_rule"] != ID_RULE:
            raise IndexFormatError(f"{where}: is of version {body['version']}, which this version "
                                   "of vecidx does not read")
        if _sum(body) != body["sha256"]:
            raise IndexFormatError(f"{where}: damaged: its checksum is wrong; build() again "
                                   "rebuilds what is bad")
        return Manifest(store.url, body["fingerprint"], body["dim"], body["metric"],
                        body["parameters"], tuple(Shard(**shard) for shard in body["shards"]))
    except IndexFormatError:
        raise
    except (ValueError, KeyError, TypeError) as err:
        raise IndexFormatError(f"{where}: not a readable manifest: {err}") from err


def _sum(body):
    """The checksum of a manifest's own content."""
    body = {key: value for key, value in body.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
