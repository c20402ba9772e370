"""A LlamaIndex vector store: ``pip install "vecidx[llama-index]"``.

>>> from llama_index.core.schema import TextNode
>>> from llama_index.core.vector_stores.types import VectorStoreQuery
>>> from vecidx.llama_index import VecidxVectorStore
>>> store = VecidxVectorStore()
>>> store.add([TextNode(id_="a", text="cat", embedding=[1, 0]),
...            TextNode(id_="b", text="dog", embedding=[0, 1])])
['a', 'b']
>>> store.query(VectorStoreQuery(query_embedding=[1, 0.1], similarity_top_k=1)).ids
['a']
"""

import asyncio
import os
from typing import Any

try:
    from llama_index.core.bridge.pydantic import Field, PrivateAttr
    from llama_index.core.schema import MetadataMode
    from llama_index.core.vector_stores.types import (
        BasePydanticVectorStore,
        FilterCondition,
        FilterOperator,
        MetadataFilters,
        VectorStoreQueryMode,
        VectorStoreQueryResult,
    )
    from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict
except ImportError as exc:
    raise ImportError("vecidx.llama_index needs llama-index-core: "
                      "pip install 'vecidx[llama-index]'") from exc

from vecidx.stores import And, Compare, Document, Not, Or, Store

__all__ = ["VecidxVectorStore"]

_NODE = ("_node_content", "_node_type")    # what a node is besides its text and metadata
_OPERATORS = {
    FilterOperator.EQ: "eq", FilterOperator.NE: "ne", FilterOperator.GT: "gt",
    FilterOperator.GTE: "ge", FilterOperator.LT: "lt", FilterOperator.LTE: "le",
    FilterOperator.IN: "in", FilterOperator.NIN: "nin", FilterOperator.CONTAINS: "contains",
    FilterOperator.TEXT_MATCH: "text", FilterOperator.TEXT_MATCH_INSENSITIVE: "itext",
    FilterOperator.IS_EMPTY: "empty"}


class VecidxVectorStore(BasePydanticVectorStore):
    """Nodes of LlamaIndex in a :class:`vecidx.stores.Store`.

    Parameters
    ----------
    path : str or os.PathLike, optional
        A folder that keeps the nodes, on disk when a call returns; opened if it is
        there.  None keeps them in memory.
    metric : {"cosine", "l2", "ip"}, optional
        ``"cosine"`` for a new store.
    **parameters
        Of :class:`vecidx.Index`, for a new store: ``M``, ``quantization``, ...

    Notes
    -----
    Texts are stored here, so an index needs no other store:
    ``VectorStoreIndex.from_vector_store(store)``.  A node of an id that is there
    replaces it.  Query modes are DEFAULT and MMR.
    """

    stores_text: bool = True
    flat_metadata: bool = False
    path: str | None = None
    metric: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)

    _store: Store = PrivateAttr()

    def __init__(self, path=None, *, metric=None, parameters=None, **more):
        given = {**(parameters or {}), **more}
        given.pop("class_name", None)
        for name, value in (("stores_text", True), ("flat_metadata", False),
                            ("is_embedding_query", True)):
            if given.pop(name, value) != value:
                raise ValueError(f"{name}: is {value} of this store")
        path = None if path is None else os.fspath(path)
        super().__init__(path=path, metric=metric, parameters=given)
        self._store = Store(path, metric=metric, **given)

    @classmethod
    def class_name(cls):
        return "VecidxVectorStore"

    @property
    def client(self):
        """The :class:`vecidx.stores.Store` beneath."""
        return self._store

    def close(self):
        """Let another process open the folder."""
        self._store.close()

    # ---- writing ------------------------------------------------------------------

    def add(self, nodes, **add_kwargs):
        """Add nodes that have embeddings; returns their ids."""
        nodes = list(nodes)
        self._store.upsert([_to_document(node) for node in nodes],
                           [node.get_embedding() for node in nodes])
        return [node.node_id for node in nodes]

    async def async_add(self, nodes, **kwargs):
        return await asyncio.to_thread(self.add, nodes, **kwargs)

    def delete(self, ref_doc_id, **delete_kwargs):
        """Delete the nodes of a document."""
        self._store.delete(where=Compare("eq", (), ref_doc_id, column="parent"))

    async def adelete(self, ref_doc_id, **delete_kwargs):
        await asyncio.to_thread(self.delete, ref_doc_id)

    def delete_nodes(self, node_ids=None, filters=None, **delete_kwargs):
        """Delete the nodes that have one of these ids, and meet the filters."""
        if node_ids is None and filters is None:
            raise ValueError("delete_nodes: expected node_ids, filters or both; clear() takes "
                             "everything out")
        self._store.delete(where=_condition(filters, node_ids))

    async def adelete_nodes(self, node_ids=None, filters=None, **delete_kwargs):
        await asyncio.to_thread(self.delete_nodes, node_ids, filters)

    def clear(self):
        """Take everything out."""
        self._store.clear()

    async def aclear(self):
        await asyncio.to_thread(self.clear)

    # ---- reading ------------------------------------------------------------------

    def get_nodes(self, node_ids=None, filters=None):
        """The nodes that have one of these ids, and meet the filters."""
        return [_to_node(document) for document in self._store.find(_condition(filters, node_ids))]

    async def aget_nodes(self, node_ids=None, filters=None):
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    def query(self, query, **kwargs):
        """The nodes nearest to ``query.query_embedding``, and their similarities.

        A similarity is the cosine, the dot product, or 1 / (1 + Euclidean distance).
        """
        if query.query_embedding is None:
            raise ValueError("query_embedding: this store compares vectors, and the query has none")
        # LlamaIndex passes an empty list where it means any.
        where = _condition(query.filters, query.node_ids or None, query.doc_ids or None)
        k = query.similarity_top_k
        if query.mode == VectorStoreQueryMode.DEFAULT:
            hits = self._store.search(query.query_embedding, k, where=where, ef=kwargs.get("ef"))
        elif query.mode == VectorStoreQueryMode.MMR:
            threshold = kwargs.get("mmr_threshold", query.mmr_threshold)
            hits = self._store.search_diverse(
                query.query_embedding, k, where=where, ef=kwargs.get("ef"),
                lambda_mult=0.5 if threshold is None else threshold,
                fetch_k=kwargs.get("mmr_prefetch_k") or max(20, int(
                    k * kwargs.get("mmr_prefetch_factor", 4))))
        else:
            raise ValueError(f"mode: expected DEFAULT or MMR, got {query.mode}")
        return VectorStoreQueryResult(
            nodes=[_to_node(hit.document) for hit in hits],
            similarities=[self._store.similarity(hit.distance) for hit in hits],
            ids=[hit.document.key for hit in hits])

    async def aquery(self, query, **kwargs):
        return await asyncio.to_thread(self.query, query, **kwargs)

    # ---- files ----------------------------------------------------------------------

    def persist(self, persist_path, fs=None):
        """Write a store that lives in memory into a new folder; fold in the logs of another.

        A store with a path is on disk already, and `persist_path` is not touched.
        """
        if fs is not None:
            raise ValueError("fs: this store writes to the local file system only")
        if self.path is None:
            self._store.save(persist_path)
        else:
            self._store.checkpoint()

    @classmethod
    def from_persist_path(cls, persist_path, fs=None):
        """The store in a folder."""
        if fs is not None:
            raise ValueError("fs: this store reads from the local file system only")
        if not os.path.isdir(persist_path):
            raise ValueError(f"persist_path: {persist_path!r} is no folder")
        return cls(persist_path)


# ---- LlamaIndex's words and ours -------------------------------------------------------


def _to_document(node):
    metadata = node_to_metadata_dict(node, remove_text=True, flat_metadata=False)
    extra = {name: metadata.pop(name) for name in _NODE}
    return Document(node.node_id, node.get_content(metadata_mode=MetadataMode.NONE), metadata,
                    extra, node.ref_doc_id)


def _to_node(document):
    return metadata_dict_to_node(document.extra, text=document.content)


def _condition(filters, node_ids=None, doc_ids=None):
    parts = []
    if filters is not None:
        parts.append(_translate(filters))
    for ids, column in ((node_ids, "key"), (doc_ids, "parent")):
        if ids is not None:
            parts.append(Compare("in", (), list(ids), column=column))
    return And(tuple(parts)) if parts else None


def _translate(filters):
    if not isinstance(filters, MetadataFilters):
        return _leaf(filters)
    parts = tuple(_translate(part) for part in filters.filters)
    if not parts:
        return And(())
    condition = filters.condition or FilterCondition.AND
    if condition == FilterCondition.AND:
        return And(parts)
    return Or(parts) if condition == FilterCondition.OR else Not(Or(parts))


def _leaf(filter):
    path, value = (filter.key,), filter.value
    if filter.operator in (FilterOperator.ANY, FilterOperator.ALL):
        if not isinstance(value, list):
            raise ValueError(f"{filter.key}: {filter.operator.value} takes a list, got {value!r}")
        join = Or if filter.operator == FilterOperator.ANY else And
        return And((join(tuple(Compare("contains", path, one) for one in value)),
                    Not(Compare("eq", path, None))))
    leaf = Compare(_OPERATORS[filter.operator], path, value)
    if leaf.op == "eq" and value is None:
        return Or(())                      # as in LlamaIndex: nothing equals what is missing
    return leaf
