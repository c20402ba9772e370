"""Index files of others as an index of vecidx: `vecidx convert`."""

import os

import numpy as np

import vecidx
from vecidx.compat import _container, _hnswlib_file
from vecidx.compat.hnswlib import native_of

FLAT = {"M": 16, "ef_construction": 200}       # of a graph for rows that came without one


def convert(path, *, metric=None, M=None, ef_construction=None, num_threads=None):
    """The rows of an index file that hnswlib or ``vecidx.compat`` wrote, as an index.

    Parameters
    ----------
    path : str or os.PathLike
        A file of ``hnswlib.Index`` or ``hnswlib.BFIndex``, or one that a class of
        :mod:`vecidx.compat` wrote.
    metric : {"l2", "ip", "cosine"}, optional
        Needed for a file of hnswlib, which does not say it.
    M, ef_construction : int, optional
        By default those of the file.
    num_threads : int, optional
        As of :class:`vecidx.Index`.

    Returns
    -------
    index : Index
        Rows that are marked as deleted are left out; labels are ids.
    report : dict
        ``kind`` of the file, and how many rows are ``deleted`` in it.

    Raises
    ------
    ValueError, IndexFormatError
        A metric that is missing or not the file's; a file of another kind.
    """
    kind = _container.kind_of(path)
    if kind == "index":
        raise ValueError(f"{os.fsdecode(path)}: is an index of vecidx already")
    options = {"M": M, "ef_construction": ef_construction, "num_threads": num_threads}
    if kind == "container":
        return _of_container(path, metric, options)
    try:
        dump, kind = _hnswlib_file.read(path), "hnswlib.Index"
    except vecidx.IndexFormatError:
        dump, kind = _hnswlib_file.read_flat(path), "hnswlib.BFIndex"
        options = {**options, **{word: options[word] or FLAT[word] for word in FLAT}}
    if metric is None:
        raise ValueError(f"{os.fsdecode(path)}: a file of {kind} does not say its metric; give "
                         "the space it was made with, as metric (--metric l2, ip or cosine)")
    return native_of(dump, metric, **options), {"kind": kind, "deleted": int(dump.deleted.sum())}


def _of_container(path, metric, options):
    kind, state, arrays, stored = _container.load(path)
    where = os.fsdecode(path)
    if stored is None:
        raise ValueError(f"{where}: holds no rows")
    told = state["space"] if kind.startswith("hnswlib.") else stored.metric
    if metric not in (None, told):
        raise ValueError(f"{where}: was made under {told!r}, not {metric!r}")
    ids = np.sort(stored.ids())
    labels = ids
    if "map" in arrays:                # of an IndexIDMap: the label of each position
        labels = arrays["map"]
        if len(np.unique(labels)) < len(labels) or (labels < 0).any():
            raise ValueError(f"{where}: has labels below 0 or given twice, which an index of "
                             "vecidx cannot hold")
    elif kind == "faiss.Index":
        labels = np.arange(len(ids))
    flat = kind == "hnswlib.BFIndex" or state.get("class", "").startswith("IndexFlat")
    M, ef_construction = (FLAT["M"], FLAT["ef_construction"]) if flat else (
        stored.M, stored.ef_construction)
    index = vecidx.Index(stored.dim, told, M=options["M"] or M,
                         ef_construction=options["ef_construction"] or ef_construction,
                         quantization=stored.quantization, seed=stored.seed,
                         num_threads=options["num_threads"])
    if len(ids):
        index.add(stored.get(ids), labels)
    return index, {"kind": f"vecidx.compat.{kind}", "deleted": len(arrays.get("deleted", ()))}
