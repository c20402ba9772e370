"""A LangChain vector store: ``pip install "vecidx[langchain]"``.

>>> from langchain_core.embeddings import DeterministicFakeEmbedding
>>> from vecidx.langchain import VecidxVectorStore
>>> store = VecidxVectorStore(DeterministicFakeEmbedding(size=8))
>>> store.add_texts(["cat", "dog"], [{"legs": 4}, {"legs": 4}], ids=["a", "b"])
['a', 'b']
>>> store.similarity_search("cat", k=1, filter={"legs": {"$gte": 4}})
[Document(id='a', metadata={'legs': 4}, page_content='cat')]
"""

import asyncio
import uuid

try:
    from langchain_core.documents import Document
    from langchain_core.vectorstores import VectorStore
except ImportError as exc:
    raise ImportError("vecidx.langchain needs langchain-core: pip install 'vecidx[langchain]'"
                      ) from exc

from vecidx import stores
from vecidx.stores import And, Compare, Not, Or, Store

__all__ = ["VecidxVectorStore"]

_OPERATORS = {"$eq": "eq", "$ne": "ne", "$neq": "ne", "$gt": "gt", "$gte": "ge", "$lt": "lt",
              "$lte": "le", "$in": "in", "$nin": "nin", "$contains": "contains",
              "$exists": "exists"}


class VecidxVectorStore(VectorStore):
    """Documents of LangChain in a :class:`vecidx.stores.Store`.

    Parameters
    ----------
    embedding : langchain_core.embeddings.Embeddings
    path : str or os.PathLike, optional
        A folder that keeps the documents, on disk when a call returns; opened if
        it is there.  None keeps them in memory.
    metric : {"cosine", "l2", "ip"}, optional
        ``"cosine"`` for a new store.
    **parameters
        Of :class:`vecidx.Index`, for a new store: ``M``, ``quantization``, ...

    Notes
    -----
    Scores of ``similarity_search_with_score`` are distances: smaller is nearer.
    Relevance scores grow with likeness, and are 1 for equal vectors.

    ``filter=`` of every search is a dict, or a callable from a Document to bool
    (slower).  ``{"year": 2020}``, ``{"year": {"$gte": 2020, "$lt": 2024}}``,
    ``{"$or": [{...}, {...}]}``; operators are ``$eq $ne $gt $gte $lt $lte $in $nin
    $contains $exists``, and ``$and $or $not``.  Metadata must be what JSON can hold.

    Each method has its async form, with an ``a`` before the name: it awaits the
    embedding's own async method, and searches or writes on a thread.
    """

    def __init__(self, embedding, path=None, *, metric=None, **parameters):
        self._embedding = embedding
        self._store = Store(path, metric=metric, **parameters)

    @property
    def embeddings(self):
        """The embedding given."""
        return self._embedding

    @property
    def store(self):
        """The :class:`vecidx.stores.Store` beneath."""
        return self._store

    def close(self):
        """Let another process open the folder."""
        self._store.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    # ---- writing ------------------------------------------------------------------

    def add_texts(self, texts, metadatas=None, *, ids=None, **kwargs):
        """Add texts; a text of an id that is there replaces it.  Returns the ids."""
        documents = _documents(texts, metadatas, ids)
        vectors = self._embedding.embed_documents([document.content for document in documents])
        return self._write(documents, vectors)

    async def aadd_texts(self, texts, metadatas=None, *, ids=None, **kwargs):
        documents = _documents(texts, metadatas, ids)
        vectors = await self._embedding.aembed_documents(
            [document.content for document in documents])
        return await asyncio.to_thread(self._write, documents, vectors)

    def _write(self, documents, vectors):
        self._store.upsert(documents, vectors)
        return [document.key for document in documents]

    def add_documents(self, documents, **kwargs):
        """Add documents; one of an id that is there replaces it.  Returns the ids."""
        return self.add_texts(*_parts(documents, kwargs), **kwargs)

    async def aadd_documents(self, documents, **kwargs):
        return await self.aadd_texts(*_parts(documents, kwargs), **kwargs)

    @classmethod
    def from_texts(cls, texts, embedding, metadatas=None, *, ids=None, path=None, metric=None,
                   **parameters):
        """A store with these texts; `path`, `metric`, `parameters` as for the class."""
        store = cls(embedding, path, metric=metric, **parameters)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    async def afrom_texts(cls, texts, embedding, metadatas=None, *, ids=None, path=None,
                          metric=None, **parameters):
        store = await asyncio.to_thread(cls, embedding, path, metric=metric, **parameters)
        await store.aadd_texts(texts, metadatas, ids=ids)
        return store

    def delete(self, ids=None, *, filter=None, **kwargs):
        """Delete documents by ids (those that are not there are passed over) or by a filter."""
        if callable(filter):
            raise TypeError("filter: expected a dict; a callable serves searches only")
        if ids is None:
            self._store.delete(where=_condition(filter) if filter is not None else _nothing())
        else:
            self._store.delete(list(ids))
        return True

    # ---- reading ------------------------------------------------------------------

    def get_by_ids(self, ids, /):
        """Documents of ids, in their order; those that are not there are left out."""
        return [_to_langchain(document) for document in self._store.get(ids)
                if document is not None]

    def similarity_search(self, query, k=4, *, filter=None, **kwargs):
        """The documents nearest to a text."""
        return _only(self.similarity_search_with_score(query, k, filter=filter, **kwargs))

    async def asimilarity_search(self, query, k=4, *, filter=None, **kwargs):
        return _only(await self.asimilarity_search_with_score(query, k, filter=filter, **kwargs))

    def similarity_search_with_score(self, query, k=4, *, filter=None, **kwargs):
        """(document, distance) of the nearest."""
        return self.similarity_search_with_score_by_vector(
            self._embedding.embed_query(query), k, filter=filter, **kwargs)

    async def asimilarity_search_with_score(self, query, k=4, *, filter=None, **kwargs):
        vector = await self._embedding.aembed_query(query)
        return await asyncio.to_thread(self.similarity_search_with_score_by_vector, vector, k,
                                       filter=filter, **kwargs)

    def similarity_search_by_vector(self, embedding, k=4, *, filter=None, **kwargs):
        """The documents nearest to a vector."""
        return _only(self.similarity_search_with_score_by_vector(embedding, k, filter=filter,
                                                                 **kwargs))

    def similarity_search_with_score_by_vector(self, embedding, k=4, *, filter=None, ef=None,
                                               **kwargs):
        """(document, distance) of the nearest."""
        hits = self._store.search(embedding, k, ef=ef, **_wanted(filter))
        return [(_to_langchain(hit.document), hit.distance) for hit in hits]

    def _select_relevance_score_fn(self):
        return self._store.similarity

    def max_marginal_relevance_search(self, query, k=4, fetch_k=20, lambda_mult=0.5, *,
                                      filter=None, **kwargs):
        """Documents near to a text and unlike one another: `k` of the `fetch_k` nearest."""
        return self.max_marginal_relevance_search_by_vector(
            self._embedding.embed_query(query), k, fetch_k, lambda_mult, filter=filter, **kwargs)

    async def amax_marginal_relevance_search(self, query, k=4, fetch_k=20, lambda_mult=0.5, *,
                                             filter=None, **kwargs):
        vector = await self._embedding.aembed_query(query)
        return await asyncio.to_thread(self.max_marginal_relevance_search_by_vector, vector, k,
                                       fetch_k, lambda_mult, filter=filter, **kwargs)

    def max_marginal_relevance_search_by_vector(self, embedding, k=4, fetch_k=20, lambda_mult=0.5,
                                                *, filter=None, ef=None, **kwargs):
        """The same for a vector."""
        hits = self._store.search_diverse(embedding, k, fetch_k=fetch_k, lambda_mult=lambda_mult,
                                          ef=ef, **_wanted(filter))
        return [_to_langchain(hit.document) for hit in hits]


# ---- LangChain's words and ours ------------------------------------------------------


def _documents(texts, metadatas, ids):
    texts = list(texts)
    metadatas = [{}] * len(texts) if metadatas is None else list(metadatas)
    ids = [None] * len(texts) if ids is None else list(ids)
    for name, values in (("metadatas", metadatas), ("ids", ids)):
        if len(values) != len(texts):
            raise ValueError(f"{name}: expected {len(texts)}, one for each text, "
                             f"got {len(values)}")
    return [stores.Document(str(uuid.uuid4()) if id is None else id, text, metadata or {})
            for id, text, metadata in zip(ids, texts, metadatas)]


def _parts(documents, kwargs):
    """texts and metadatas of documents; their ids go into `kwargs` where it has none."""
    documents = list(documents)
    if kwargs.get("ids") is None:
        kwargs["ids"] = [document.id for document in documents]
    return ([document.page_content for document in documents],
            [document.metadata for document in documents])


def _to_langchain(document):
    return Document(id=document.key, page_content=document.content, metadata=document.metadata)


def _only(pairs):
    return [document for document, _ in pairs]


def _nothing():
    return Or(())


def _wanted(filter):
    """The arguments of Store.search for a filter."""
    if filter is None:
        return {}
    if callable(filter):
        return {"keep": lambda document: filter(_to_langchain(document))}
    return {"where": _condition(filter)}


def _condition(filter):
    if not isinstance(filter, dict):
        raise TypeError(f"filter: expected a dict or a callable, got {type(filter).__name__}")
    parts = []
    for key, value in filter.items():
        if key in ("$and", "$or"):
            if not isinstance(value, (list, tuple)):
                raise ValueError(f"filter: {key} takes a list of filters, got {value!r}")
            parts.append((And if key == "$and" else Or)(tuple(map(_condition, value))))
        elif key == "$not":
            parts.append(Not(_condition(value)))
        elif key.startswith("$"):
            raise ValueError(f"filter: expected a field, $and, $or or $not, got {key!r}")
        else:
            parts += _field(key, value)
    return And(tuple(parts))


def _field(name, value):
    """The conditions on one field."""
    if not (isinstance(value, dict) and any(str(key).startswith("$") for key in value)):
        return [Compare("eq", (name,), value)]
    parts = []
    for word, operand in value.items():
        if word == "$not":
            parts.append(Not(And(tuple(_field(name, operand)))))
        elif word in _OPERATORS:
            parts.append(Compare(_OPERATORS[word], (name,), operand))
        else:
            raise ValueError(f"filter: {name!r}: expected one of {' '.join(_OPERATORS)} $not, "
                             f"got {word!r}")
    return parts
