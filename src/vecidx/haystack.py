"""A Haystack document store and its retriever: ``pip install "vecidx[haystack]"``.

>>> from haystack import Document
>>> from vecidx.haystack import VecidxDocumentStore, VecidxEmbeddingRetriever
>>> store = VecidxDocumentStore()
>>> store.write_documents([Document(id="a", content="cat", embedding=[1.0, 0.0]),
...                        Document(id="b", content="dog", embedding=[0.0, 1.0])])
2
>>> found = VecidxEmbeddingRetriever(store, top_k=1).run(query_embedding=[1.0, 0.1])
>>> found["documents"][0].content
'cat'
"""

import asyncio
import json
import os
from math import exp
from typing import Any

try:
    from haystack import Document, component, default_from_dict, default_to_dict
    from haystack.document_stores.errors import DuplicateDocumentError
    from haystack.document_stores.types import DuplicatePolicy, FilterPolicy, apply_filter_policy
    from haystack.errors import FilterError
except ImportError as exc:
    raise ImportError("vecidx.haystack needs haystack-ai: pip install 'vecidx[haystack]'") from exc

from vecidx import stores
from vecidx.stores import And, Compare, Not, Or, Store
from vecidx.stores.conditions import as_date, sql_of

__all__ = ["VecidxDocumentStore", "VecidxEmbeddingRetriever"]

_CONFLICT = {DuplicatePolicy.NONE: "error", DuplicatePolicy.FAIL: "error",
             DuplicatePolicy.SKIP: "skip", DuplicatePolicy.OVERWRITE: "replace"}
_OPERATORS = {"==": "eq", "!=": "ne", ">": "gt", ">=": "ge", "<": "lt", "<=": "le", "in": "in",
              "not in": "nin"}
_ELSEWHERE = {"id": "key", "content": "content"}     # fields of a Document that are columns
_DOT_PRODUCT_SCALE = 100                             # as in Haystack's own store


class VecidxDocumentStore:
    """Documents of Haystack in a :class:`vecidx.stores.Store`.

    Parameters
    ----------
    path : str or os.PathLike, optional
        A folder that keeps the documents, on disk when a call returns; opened if
        it is there.  None keeps them in memory.
    metric : {"cosine", "l2", "ip"}, optional
        ``"cosine"`` for a new store.
    return_embedding : bool
        Whether documents come back with their embeddings, which are float32.
    **parameters
        Of :class:`vecidx.Index`, for a new store: ``M``, ``quantization``, ...

    Notes
    -----
    Documents may lack an embedding; searches by embedding pass over them.  Filters
    mean what :meth:`filter_documents` of Haystack's protocol says, and one leaves out
    a document whose value cannot be compared.  Metadata must be what JSON can hold.
    """

    def __init__(self, path=None, *, metric=None, return_embedding=True, **parameters):
        path = None if path is None else os.fspath(path)
        self._given = {"path": path, "metric": metric, "return_embedding": return_embedding,
                       **parameters}
        self.return_embedding = return_embedding
        self._store = Store(path, metric=metric, **parameters)

    @property
    def store(self):
        """The :class:`vecidx.stores.Store` beneath."""
        return self._store

    def close(self):
        """Let another process open the folder."""
        self._store.close()

    def to_dict(self) -> dict[str, Any]:
        """How to make this store again; not its documents."""
        return default_to_dict(self, **self._given)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "VecidxDocumentStore":
        """The store that :meth:`to_dict` describes."""
        return default_from_dict(cls, data)

    # ---- the protocol ------------------------------------------------------------

    def count_documents(self) -> int:
        """How many documents there are."""
        return self._store.count()

    def filter_documents(self, filters: dict[str, Any] | None = None) -> list[Document]:
        """The documents that meet the filters, in the order they were written."""
        return self._to_haystack(self._store.find(_condition(filters)), self.return_embedding)

    def write_documents(self, documents: list[Document],
                        policy: DuplicatePolicy = DuplicatePolicy.NONE) -> int:
        """Write all of the documents or none; how many were written.

        Raises
        ------
        DuplicateDocumentError
            An id is there already, or comes twice, and the policy is FAIL or NONE.
        """
        if not isinstance(documents, list) or not all(isinstance(one, Document)
                                                      for one in documents):
            raise ValueError("documents: expected a list of haystack.Document")
        try:
            keys = self._store.upsert([_to_ours(one) for one in documents],
                                      [one.embedding for one in documents],
                                      on_conflict=_CONFLICT[policy])
        except KeyError as exc:
            raise DuplicateDocumentError(f"ID '{exc.args[0]}' already exists.") from exc
        return len(documents) if policy == DuplicatePolicy.OVERWRITE else len(keys)

    def delete_documents(self, document_ids: list[str]) -> None:
        """Delete documents; ids that are not there are passed over."""
        self._store.delete(document_ids)

    # ---- beyond the protocol -------------------------------------------------------

    def delete_all_documents(self) -> None:
        """Take everything out; the folder, the dimension and the metric stay."""
        self._store.clear()

    def delete_by_filter(self, filters: dict[str, Any]) -> int:
        """Delete the documents that meet the filters; how many."""
        return self._store.delete(where=_condition(filters, needed=True))

    def update_by_filter(self, filters: dict[str, Any], meta: dict[str, Any]) -> int:
        """Merge `meta` into that of the documents that meet the filters; how many."""
        return self._store.update_metadata(_condition(filters, needed=True),
                                           lambda old: {**old, **meta})

    def count_documents_by_filter(self, filters: dict[str, Any]) -> int:
        """How many documents meet the filters."""
        return self._store.count(_condition(filters))

    def count_unique_metadata_by_filter(self, filters: dict[str, Any],
                                        metadata_fields: list[str]) -> dict[str, int]:
        """{field: how many different values it has} among documents that meet the filters."""
        metas = [one.metadata for one in self._store.find(_condition(filters))]
        fields = [name.removeprefix("meta.") for name in metadata_fields]
        return {name: len({_hashable(meta[name]) for meta in metas
                           if meta.get(name) is not None}) for name in fields}

    def get_metadata_fields_info(self) -> dict[str, dict[str, str]]:
        """{field: {"type": "keyword", "int", "float" or "boolean"}}."""
        words = {bool: "boolean", int: "int", float: "float"}
        info = {}
        for document in self._store.find():
            for name, value in document.metadata.items():
                if value is not None:
                    info[name] = {"type": words.get(type(value), "keyword")}
        return info

    def get_metadata_field_min_max(self, metadata_field: str) -> dict[str, Any]:
        """{"min": ..., "max": ...} of a field; both None where values cannot be compared."""
        values = [value for value in self._values(metadata_field)
                  if isinstance(value, (int, float, str))]
        try:
            return {"min": min(values, default=None), "max": max(values, default=None)}
        except TypeError:
            return {"min": None, "max": None}

    def get_metadata_field_unique_values(
            self, metadata_field: str, search_term: str | None = None, from_: int = 0,
            size: int = 10, filters: dict[str, Any] | None = None) -> tuple[list[Any], int]:
        """(values `from_` to `from_ + size`, how many there are) that have `search_term`."""
        unique = {}
        for value in self._values(metadata_field, filters):
            if not search_term or search_term.lower() in str(value).lower():
                unique.setdefault((str(value), type(value).__name__, _hashable(value)), value)
        ordered = [unique[key] for key in sorted(unique, key=lambda key: key[:2])]
        return ordered[from_:from_ + size], len(ordered)

    def _values(self, metadata_field, filters=None):
        name = metadata_field.removeprefix("meta.")
        values = [one.metadata.get(name) for one in self._store.find(_condition(filters))]
        return [value for value in values if value is not None]

    def embedding_retrieval(self, query_embedding: list[float],
                            filters: dict[str, Any] | None = None, top_k: int = 10,
                            scale_score: bool = False,
                            return_embedding: bool | None = None) -> list[Document]:
        """The documents whose embeddings are nearest, with scores.

        A score is the cosine, the dot product, or 1 / (1 + Euclidean distance);
        under `scale_score` it lies between 0 and 1.
        """
        if len(query_embedding) == 0:
            raise ValueError("query_embedding: expected a list of floats that is not empty")
        hits = self._store.search(query_embedding, top_k, where=_condition(filters))
        if return_embedding is None:
            return_embedding = self.return_embedding
        return self._to_haystack([hit.document for hit in hits], return_embedding,
                                 [self._score(hit.distance, scale_score) for hit in hits])

    def _score(self, distance, scale):
        score = self._store.similarity(distance)
        if scale and self._store.metric == "cosine":
            return (score + 1) / 2
        if scale and self._store.metric == "ip":
            return 1 / (1 + exp(-min(max(score / _DOT_PRODUCT_SCALE, -500), 500)))
        return score

    def _to_haystack(self, documents, with_embedding, scores=None):
        vectors = [None] * len(documents)
        if with_embedding:
            vectors = self._store.vectors([document.key for document in documents])
        made = []
        for i, (document, vector) in enumerate(zip(documents, vectors)):
            fields = {**(document.extra or {}), "id": document.key, "content": document.content,
                      "meta": document.metadata,
                      "embedding": None if vector is None else vector.tolist()}
            if scores is not None:
                fields["score"] = scores[i]
            made.append(Document.from_dict(fields))
        return made


def _in_thread(name):
    """An async method that runs the method of this name on a thread."""
    async def method(self, *args, **kwargs):
        return await asyncio.to_thread(getattr(self, name), *args, **kwargs)

    method.__name__ = f"{name}_async"
    method.__qualname__ = f"VecidxDocumentStore.{method.__name__}"
    method.__doc__ = f"As :meth:`{name}`, on a thread."
    return method


for _name in ("count_documents", "filter_documents", "write_documents", "delete_documents",
              "delete_all_documents", "delete_by_filter", "update_by_filter",
              "count_documents_by_filter", "count_unique_metadata_by_filter",
              "get_metadata_fields_info", "get_metadata_field_min_max",
              "get_metadata_field_unique_values", "embedding_retrieval"):
    setattr(VecidxDocumentStore, f"{_name}_async", _in_thread(_name))


@component
class VecidxEmbeddingRetriever:
    """Finds documents of a :class:`VecidxDocumentStore` by the embedding of a query.

    Parameters
    ----------
    document_store : VecidxDocumentStore
    filters : dict, optional
    top_k : int
    scale_score : bool
        Whether scores lie between 0 and 1.
    return_embedding : bool
    filter_policy : FilterPolicy
        Whether filters of a run come in place of those given here, or beside them.
    """

    def __init__(self, document_store: VecidxDocumentStore, filters: dict[str, Any] | None = None,
                 top_k: int = 10, scale_score: bool = False, return_embedding: bool = False,
                 filter_policy: FilterPolicy = FilterPolicy.REPLACE):
        if not isinstance(document_store, VecidxDocumentStore):
            raise TypeError("document_store: expected a VecidxDocumentStore, "
                            f"got {type(document_store).__name__}")
        if top_k <= 0:
            raise ValueError(f"top_k: expected 1 or more, got {top_k}")
        self.document_store = document_store
        self.filters = filters
        self.top_k = top_k
        self.scale_score = scale_score
        self.return_embedding = return_embedding
        self.filter_policy = filter_policy

    def to_dict(self) -> dict[str, Any]:
        return default_to_dict(
            self, document_store=self.document_store.to_dict(), filters=self.filters,
            top_k=self.top_k, scale_score=self.scale_score,
            return_embedding=self.return_embedding, filter_policy=self.filter_policy.value)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "VecidxEmbeddingRetriever":
        given = dict(data.get("init_parameters", {}))
        if isinstance(given.get("document_store"), dict):
            given["document_store"] = VecidxDocumentStore.from_dict(given["document_store"])
        if "filter_policy" in given:
            given["filter_policy"] = FilterPolicy.from_str(given["filter_policy"])
        return default_from_dict(cls, {**data, "init_parameters": given})

    def _arguments(self, query_embedding, filters, top_k, scale_score, return_embedding):
        return {
            "query_embedding": query_embedding,
            "filters": apply_filter_policy(self.filter_policy, self.filters, filters),
            "top_k": self.top_k if top_k is None else top_k,
            "scale_score": self.scale_score if scale_score is None else scale_score,
            "return_embedding": (self.return_embedding if return_embedding is None
                                 else return_embedding)}

    @component.output_types(documents=list[Document])
    def run(self, query_embedding: list[float], filters: dict[str, Any] | None = None,
            top_k: int | None = None, scale_score: bool | None = None,
            return_embedding: bool | None = None):
        """{"documents": the nearest}."""
        arguments = self._arguments(query_embedding, filters, top_k, scale_score,
                                    return_embedding)
        return {"documents": self.document_store.embedding_retrieval(**arguments)}

    @component.output_types(documents=list[Document])
    async def run_async(self, query_embedding: list[float],
                        filters: dict[str, Any] | None = None, top_k: int | None = None,
                        scale_score: bool | None = None, return_embedding: bool | None = None):
        """As :meth:`run`, on a thread."""
        arguments = self._arguments(query_embedding, filters, top_k, scale_score,
                                    return_embedding)
        return {"documents": await self.document_store.embedding_retrieval_async(**arguments)}


# ---- Haystack's words and ours -------------------------------------------------------


def _to_ours(document):
    extra = document.to_dict(flatten=False)
    content, meta = extra.pop("content"), extra.pop("meta")
    for name in ("id", "embedding"):
        extra.pop(name)
    extra = {name: value for name, value in extra.items() if value is not None}
    return stores.Document(document.id, content, meta, extra or None)


def _hashable(value):
    return json.dumps(value, sort_keys=True)


def _condition(filters, needed=False):
    """The condition that filters mean; None for none."""
    if not filters:
        if needed:
            raise ValueError("filters: expected some; delete_all_documents takes everything out")
        return None
    try:
        condition = _translate(filters)
        sql_of(condition)                  # meets what Compare refuses
    except ValueError as exc:
        raise FilterError(str(exc)) from exc
    return condition


def _translate(filters):
    if not isinstance(filters, dict):
        raise FilterError(f"filters: expected a dict, got {filters!r}")
    if "field" in filters:
        return _leaf(filters)
    for name in ("operator", "conditions"):
        if name not in filters:
            raise FilterError(f"'{name}' key missing in {filters}")
    parts = tuple(_translate(part) for part in filters["conditions"])
    if filters["operator"] == "AND":
        return And(parts)
    if filters["operator"] == "OR":
        return Or(parts)
    if filters["operator"] == "NOT":
        return Not(And(parts))
    raise FilterError(f"Unknown logical operator '{filters['operator']}': expected AND, OR, NOT")


def _leaf(filters):
    for name in ("operator", "value"):
        if name not in filters:
            raise FilterError(f"'{name}' key missing in {filters}")
    field, value = filters["field"], filters["value"]
    if filters["operator"] not in _OPERATORS:
        raise FilterError(f"Unknown comparison operator '{filters['operator']}': expected one of "
                          f"{', '.join(_OPERATORS)}")
    op = _OPERATORS[filters["operator"]]
    if op in ("in", "nin") and not isinstance(value, list):
        raise FilterError(f"{field}: '{filters['operator']}' takes a list, got {value!r}")
    if op in ("gt", "ge", "lt", "le"):
        if value is None:
            return Or(())                  # nothing is above or below None
        value = _bound(field, value)
    elif hasattr(value, "isoformat"):
        value = value.isoformat()
    if field in _ELSEWHERE:
        return Compare(op, (), value, _ELSEWHERE[field], dates=True)
    if field.partition(".")[0] in ("embedding", "sparse_embedding", "blob", "score"):
        raise FilterError(f"{field}: filters of this store look at id, content and meta")
    # Without a dot it is a key of the metadata, dots or not, as in Haystack.
    path = () if field == "meta" else tuple(field.removeprefix("meta.").split("."))
    return Compare(op, path, value, dates=True)


def _bound(field, value):
    """What a value is above or below: a number, or an ISO date as text."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, str) and as_date(value) is None or isinstance(value, (list, dict)):
        raise FilterError(f"{field}: only numbers and ISO dates are above or below others, "
                          f"got {value!r}")
    return value
