"""build(): a sharded index from more rows than one machine holds.

Two kinds of task, each of which may run again at any time and then finds its
work done:

    spool     read one piece of the source, part its rows by shard, and write them
              to one file of the spool
    shard     read the shard's rows from every file of the spool, build the index,
              write it, then a note beside it that says of what it was made

The manifest comes last.  A second build keeps the shards whose note names the
same source and whose bytes are sound, and does the rest.
"""

import dataclasses
import hashlib
import json
import os
import struct
import tempfile

import numpy as np

import vecidx
from vecidx.errors import IndexFormatError
from vecidx.ray import _manifest, _source
from vecidx.ray._framework import cause_of, need_ray
from vecidx.ray._manifest import Manifest, Shard, as_manifest, shard_of
from vecidx.ray._request import FEW
from vecidx.ray._store import Store, sha256_of

MAX_SHARDS = 4096
ADD_BYTES = 64 << 20         # of rows handed to one add
IN_FLIGHT = 2                # tasks handed to Ray at a time, as a multiple of its cores
DTYPES = ("float32", "float16", "bfloat16", "int8", "uint8")
PARAMETERS = ("M", "ef_construction", "quantization", "seed", "dtype")
SPOOL_HEAD = struct.Struct("<8sQ")           # magic, bytes of the JSON that follows
SPOOL_MAGIC = b"vxspool1"
# Kept as they are in the spool; all else becomes float32, as an index would.
SPOOLED = tuple(np.dtype(word) for word in ("float32", "float16", "int8", "uint8"))


def build(source, out, shards, *, column=None, id_column=None, metric="l2", dim=None, tune=False,
          num_cpus=1, progress=False, **parameters):
    """Build a sharded index on a Ray cluster.

    Parameters
    ----------
    source : str, os.PathLike, list of them, or ray.data.Dataset
        Parquet (a file, a folder, a pattern) or .npy, by path or any URL that
        fsspec knows; or a Dataset.  Every node must reach it.
    out : str or os.PathLike
        A folder that every node reaches, or a URL.  Holds one build.
    shards : int
        Files to part the rows into, by a hash of their ids; ``vecidx plan`` says
        how many.
    column, id_column : str, optional
        The columns of vectors and of ids.  In Parquet, the only column of lists
        and the row numbers unless given.
    metric, dim, **parameters
        As for :class:`vecidx.Index`; ``dim`` is the vectors' width unless given.
        Of the rest: `M`, `ef_construction`, `quantization`, `seed`, `dtype`.
    tune : bool, int or sequence of int
        Measure each shard's recall, for ``search(recall=...)``; numbers are the
        ``k`` to measure for, 10 by default.
    num_cpus : int
        Cores for each task.
    progress : bool or callable
        A tqdm bar, or a callable that gets (done, total) tasks.

    Returns
    -------
    Manifest

    Notes
    -----
    Interrupted or failed, it is called again with the same arguments and does
    what is left; called on a folder that is done, it checks every shard and
    rebuilds the bad ones.  A task holds one shard in memory.  On its way the
    rows are once more on the disk of `out`.

    Raises
    ------
    ValueError
        `out` holds the build of another source or other parameters; a row that
        no index takes, by file and row; an id that comes twice.
    """
    _check_shards(shards)
    tune = _ks_of(tune)
    if unknown := sorted(set(parameters) - set(PARAMETERS)):
        raise TypeError(f"build: no argument {unknown[0]!r}; of vecidx.Index it takes metric, "
                        f"dim, {', '.join(PARAMETERS)}")
    need_ray()
    found = _source.open_source(source, column, id_column)
    return _build(found, out, shards, {"metric": metric, "dim": dim, **parameters}, tune, num_cpus,
                  progress)


def rebalance(manifest, out, shards, *, tune=False, num_cpus=1, progress=False):
    """Build a generation of another number of shards from one that is there.

    Reads the vectors from the older shard files; those stay as they are, and may
    be served meanwhile.  Then ``swap(out)``.

    Parameters
    ----------
    manifest : Manifest, str or os.PathLike
    out, shards, tune, num_cpus, progress
        As for :func:`build`.
    """
    _check_shards(shards)
    tune = _ks_of(tune)
    need_ray()
    manifest = as_manifest(manifest)
    found = _source.manifest_source(manifest)
    settings = {"metric": manifest.metric, "dim": manifest.dim, **manifest.parameters}
    return _build(found, out, shards, settings, tune, num_cpus, progress)


def _check_shards(shards):
    if isinstance(shards, bool) or not isinstance(shards, (int, np.integer)):
        raise TypeError(f"shards: expected an integer, got {type(shards).__name__}")
    if not 1 <= shards <= MAX_SHARDS:
        raise ValueError(f"shards: expected 1 to {MAX_SHARDS}, got {shards}")


def _ks_of(tune):
    """The k to measure recall for."""
    ks = [] if tune is None or tune is False else [10] if tune is True else np.ravel(tune).tolist()
    for k in ks:
        try:                                 # an empty index says what a k may be
            vecidx.Index(1).search(np.empty((0, 1)), k)
        except (ValueError, TypeError) as err:
            raise type(err)(f"tune: {err}") from None
    return tuple(ks)


def _as_told(template, names):
    """Parameters as an index tells them, in words and numbers that JSON has."""
    return {name: str(template.dtype) if name == "dtype" else getattr(template, name)
            for name in names}


@dataclasses.dataclass(frozen=True)
class _Job:
    """What every task of a build is told."""

    url: str
    spool: str                               # its folder's name
    n_shards: int
    settings: dict                           # of Index
    tune: tuple                              # of k
    num_cpus: int


def _build(source, out, n_shards, settings, tune, num_cpus, progress):
    n_shards = int(n_shards)
    settings = {**settings, "dim": settings["dim"] or source.dim}
    template = vecidx.Index(**settings)                  # every parameter is checked here
    if str(template.dtype) not in DTYPES:
        raise ValueError(f"dtype: shards are of {', '.join(DTYPES)}, not {template.dtype}")
    settings = _as_told(template, settings)
    store = Store(out)
    old = _old_manifest(store)
    job = _Job(store.url, "", n_shards, settings, tune, num_cpus)
    work = _Work(progress, len(source.pieces) + n_shards)
    with work:
        if source.fingerprint is None:                   # told by what tasks read
            job = dataclasses.replace(job, spool=f".spool-{os.urandom(8).hex()}")
            spooled = work.run(_spool, num_cpus, [(job, i, piece, range(n_shards))
                                                  for i, piece in enumerate(source.pieces)])
            content = sorted(digest for _, digest in spooled)
            # So that a source cut up in another order gives the same shards.
            spooled.sort(key=lambda pair: pair[1])
        else:
            spooled, content = None, source.fingerprint
        fingerprint = _digest([content, n_shards, sorted(settings.items()), tune])
        if old is not None and old.fingerprint != fingerprint:
            raise ValueError(f"out: {store.url} holds the build of another source, other "
                             "parameters or another number of shards; give another folder")
        notes = work.run(_kept_shard, num_cpus, [(store.url, s, fingerprint)
                                                 for s in range(n_shards)], count=False)
        wanted = [s for s in range(n_shards) if notes[s] is None]
        work.done(n_shards - len(wanted))
        if wanted:
            if spooled is None:
                job = dataclasses.replace(job, spool=f".spool-{fingerprint[:16]}")
                spooled = work.run(_spool, num_cpus, [(job, i, piece, wanted)
                                                      for i, piece in enumerate(source.pieces)])
            names = [name for name, _ in spooled]
            made = work.run(_make_shard, num_cpus, [(job, s, names, fingerprint) for s in wanted])
            for shard, note in zip(wanted, made):
                notes[shard] = note
        manifest = Manifest(store.url, fingerprint, template.dim, template.metric,
                            {key: value for key, value in settings.items()
                             if key not in ("dim", "metric")}, tuple(notes))
        if old != manifest:
            manifest.write()
        if job.spool:
            store.remove_folder(job.spool)
    return manifest


def _old_manifest(store):
    """The manifest that is there; None where there is none, or a damaged one."""
    try:
        return _manifest.read_manifest(store.url)
    except (FileNotFoundError, IndexFormatError):
        return None


def _digest(value):
    return hashlib.sha256(repr(value).encode()).hexdigest()


# ---- tasks -------------------------------------------------------------------------


def _spool(job, number, piece, wanted):
    """Write a piece's rows, parted by shard; (name of the file, digest of the rows)."""
    store, wanted = Store(job.url), set(wanted)
    name = f"{job.spool}/{number:06d}"
    fingerprint = _digest([piece.fingerprint, job.n_shards])
    if piece.fingerprint is not None and (head := _spool_head(store, name)) is not None:
        if head["fingerprint"] == fingerprint and wanted <= set(head["shards"]):
            return name, head["digest"]
    ids, rows = piece.read()
    ids, rows = _checked_rows(piece, ids, rows, job.settings)
    digest = hashlib.blake2b(ids.tobytes(), digest_size=16)
    digest.update(rows)
    shards = shard_of(ids, job.n_shards)
    order = np.argsort(shards, kind="stable")
    order = order[np.isin(shards[order], list(wanted))]
    starts = np.searchsorted(shards[order], np.arange(job.n_shards + 1))
    ids, rows = ids[order], rows[order]
    head = {"fingerprint": fingerprint, "digest": digest.hexdigest(), "shards": sorted(wanted),
            "starts": starts.tolist(), "dtype": rows.dtype.str, "columns": rows.shape[1],
            "body": hashlib.blake2b(ids.tobytes() + rows.tobytes(), digest_size=16).hexdigest()}
    text = json.dumps(head).encode()
    store.write(name, b"".join([SPOOL_HEAD.pack(SPOOL_MAGIC, len(text)), text, ids.tobytes(),
                                rows.tobytes()]))
    return name, head["digest"]


def _checked_rows(piece, ids, rows, settings):
    """ids as int64 and rows as the spool keeps them; ValueError names file and row."""
    if ids.dtype.kind not in "iu" or (ids.dtype.kind == "u" and ids.size
                                      and ids.max() > np.iinfo(np.int64).max):
        raise ValueError(f"{piece.path}: ids of type {ids.dtype}; expected integers that fit int64")
    ids = np.ascontiguousarray(ids, np.int64)
    if ids.size and ids.min() < 0:
        row = int(np.argmax(ids < 0))
        raise ValueError(f"{piece.path}: row {piece.first_row + row} has id {ids[row]}; expected "
                         "0 to 2**63 - 1")
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(rows, rows.dtype if rows.dtype in SPOOLED else np.float32)
    bad = ~np.isfinite(rows).all(axis=1)
    if not bad.any() and settings["metric"] == "cosine":
        bad = ~rows.any(axis=1)
    if bad.any():
        row = int(np.argmax(bad))
        what = "is zero, which has no direction" if np.isfinite(rows[row]).all() else \
            "holds NaN, an infinity or a number beyond float32"
        raise ValueError(f"{piece.path}: row {piece.first_row + row} {what}; remove or mend it")
    dtype = settings.get("dtype", "float32")
    if dtype not in ("float32", rows.dtype.name):        # some numbers may not fit
        looking = vecidx.Index(rows.shape[1], settings["metric"], dtype=dtype, M=2,
                               ef_construction=1)
        try:
            looking.add(rows)
        except ValueError as err:
            raise ValueError(f"{piece.path}: from row {piece.first_row} on: {err}") from err
    return ids, rows


def _spool_head(store, name):
    """The head of a spool file, or None where there is no whole one."""
    try:
        with store.open(name) as file:
            magic, size = SPOOL_HEAD.unpack(file.read(SPOOL_HEAD.size))
            return json.loads(file.read(size)) if magic == SPOOL_MAGIC else None
    except (FileNotFoundError, struct.error, ValueError):
        return None


def _read_spool(store, name, shard):
    """A shard's (ids, rows) in one file of the spool."""
    with store.open(name) as file:
        magic, size = SPOOL_HEAD.unpack(file.read(SPOOL_HEAD.size))
        head = json.loads(file.read(size))
        dtype, columns = np.dtype(head["dtype"]), head["columns"]
        start, stop, n_rows = (head["starts"][i] for i in (shard, shard + 1, -1))
        body = SPOOL_HEAD.size + size
        file.seek(body + 8 * start)
        ids = np.frombuffer(file.read(8 * (stop - start)), np.int64)
        row_bytes = columns * dtype.itemsize
        file.seek(body + 8 * n_rows + start * row_bytes)
        rows = np.frombuffer(file.read((stop - start) * row_bytes), dtype)
    if len(ids) != stop - start or rows.size != (stop - start) * columns:
        raise OSError(f"{store.where(name)}: the spool file is cut off; build again")
    return ids, rows.reshape(-1, columns)


def _kept_shard(url, shard, fingerprint):
    """The Shard that an earlier build made for the same source, if it is sound."""
    store = Store(url)
    try:
        note = json.loads(store.read(_note_name(shard)))
        kept = Shard(**note["shard"])
        if note["fingerprint"] == fingerprint and kept.sound(store):
            return kept
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    return None


def _note_name(shard):
    return f"shard-{shard:05d}.json"


def _make_shard(job, shard, names, fingerprint):
    """Build one shard's index and put it into the store."""
    store = Store(job.url)
    parts = [_spool_head(store, name)["starts"] for name in names]
    n_rows = sum(starts[shard + 1] - starts[shard] for starts in parts)
    index = vecidx.Index(**job.settings, capacity=n_rows, num_threads=max(1, int(job.num_cpus)))
    batch, size = [], 0
    for name in names:
        batch.append(_read_spool(store, name, shard))
        size += batch[-1][1].nbytes
        if size >= ADD_BYTES:
            _add(index, batch, shard)
            batch, size = [], 0
    if batch:
        _add(index, batch, shard)
    if job.tune and len(index) >= FEW:                   # fewer are all compared
        index.tune(k=job.tune)
    name = f"shard-{shard:05d}.vidx"
    with tempfile.TemporaryDirectory(prefix="vecidx-") as folder:
        path = os.path.join(folder, name)
        index.save(path)
        with open(path, "rb") as file:
            checksum, n_bytes = sha256_of(file)
        store.put(path, name)
    made = Shard(name, len(index), n_bytes, checksum)
    note = {"fingerprint": fingerprint, "shard": dataclasses.asdict(made)}
    store.write(_note_name(shard), json.dumps(note).encode())
    return made


def _add(index, batch, shard):
    ids = np.concatenate([ids for ids, _ in batch])
    rows = np.concatenate([rows for _, rows in batch])
    try:
        index.add(rows, ids=ids, on_conflict="error")
    except ValueError as err:
        raise ValueError(f"shard {shard}: {err}") from err


# ---- running them --------------------------------------------------------------------


class _Work:
    """Tasks of a build, their progress, and their end if one fails."""

    def __init__(self, progress, total):
        self._total, self._done, self._bar = total, 0, None
        self._report = progress if callable(progress) else None
        if progress and self._report is None:
            try:
                from tqdm.auto import tqdm
                self._bar = tqdm(total=total, unit="task")
                self._report = lambda done, total: self._bar.update(done - self._bar.n)
            except ImportError:
                pass

    def done(self, n):
        self._done = min(self._total, self._done + n)
        if self._report is not None and n:
            self._report(self._done, self._total)

    def run(self, function, num_cpus, calls, count=True):
        """Call the function with each tuple of arguments; the results, in order."""
        import ray
        task = ray.remote(num_cpus=num_cpus)(function)
        results, pending, waiting = [None] * len(calls), {}, list(enumerate(calls))[::-1]
        # On an error the tasks at hand run to their end; a next build finds what they did.
        # Cancelling one that is just ending aborts the whole driver (Ray 2.60).
        try:
            while waiting or pending:
                limit = IN_FLIGHT * max(1, ray.cluster_resources().get("CPU", 1) // num_cpus)
                while waiting and len(pending) < limit:
                    number, arguments = waiting.pop()
                    pending[task.remote(*arguments)] = number
                for ref in ray.wait(list(pending), num_returns=1)[0]:
                    results[pending.pop(ref)] = ray.get(ref)
                    self.done(count)
        except ray.exceptions.RayTaskError as err:
            raise cause_of(err) from None
        return results

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is None:
            self.done(self._total - self._done)
        if self._bar is not None:
            self._bar.close()
