"""vecidx.haystack: Haystack's own suites, and what they do not ask."""

import asyncio
import itertools
import re
from importlib import metadata

import numpy as np
import pytest

pytest.importorskip("haystack.testing.document_store", reason="needs vecidx[haystack]")
pytest.importorskip("pytest_asyncio", reason="needs pytest-asyncio")

from haystack import Document, Pipeline  # noqa: E402
from haystack.dataclasses import ByteStream, SparseEmbedding  # noqa: E402
from haystack.document_stores.in_memory import InMemoryDocumentStore  # noqa: E402
from haystack.document_stores.types import DuplicatePolicy, FilterPolicy  # noqa: E402
from haystack.errors import FilterError  # noqa: E402
from haystack.testing import document_store as suite  # noqa: E402
from haystack.testing import document_store_async as async_suite  # noqa: E402
from haystack.utils.filters import document_matches_filter  # noqa: E402

import vecidx.haystack  # noqa: E402
from vecidx.haystack import VecidxDocumentStore, VecidxEmbeddingRetriever  # noqa: E402

# It has decided filters so in this version, and otherwise in older ones.
SINCE = (3, 4)
VERSION = tuple(map(int, re.findall(r"\d+", metadata.version("haystack-ai"))[:2]))


class InMemory:
    @pytest.fixture
    def document_store(self):
        return VecidxDocumentStore()

    @staticmethod
    def assert_documents_are_equal(received, expected):
        """Embeddings are stored as float32; all else is the same."""
        def plain(document):
            values = document.to_dict(flatten=False)
            return {**values, "embedding": values["embedding"] is not None}

        assert [plain(one) for one in received] == [plain(one) for one in expected]
        for one, other in zip(received, expected):
            if one.embedding is not None:
                np.testing.assert_allclose(one.embedding, other.embedding, rtol=1e-5, atol=1e-6)

    async def test_write_documents_async(self, document_store):
        await document_store.write_documents_async([Document(id="1")])
        with pytest.raises(suite.DuplicateDocumentError):
            await document_store.write_documents_async([Document(id="1")])

    def test_write_documents(self, document_store):
        assert document_store.write_documents([Document(id="1")]) == 1
        with pytest.raises(suite.DuplicateDocumentError):
            document_store.write_documents([Document(id="1")])


class InFolder(InMemory):
    @pytest.fixture
    def document_store(self, tmp_path):
        store = VecidxDocumentStore(tmp_path / "store")
        yield store
        store.close()


SUITES = (suite.DocumentStoreBaseExtendedTests, suite.CountDocumentsByFilterTest,
          suite.CountUniqueMetadataByFilterTest, suite.GetMetadataFieldsInfoTest,
          suite.GetMetadataFieldMinMaxTest, suite.GetMetadataFieldUniqueValuesTest)
ASYNC_SUITES = tuple(getattr(async_suite, name) for name in dir(async_suite)
                     if name.endswith("AsyncTest"))


class TestInMemory(InMemory, *SUITES):
    pass


class TestInFolder(InFolder, *SUITES):
    pass


class TestAsyncInMemory(InMemory, *ASYNC_SUITES):
    pass


class TestAsyncInFolder(InFolder, *ASYNC_SUITES):
    pass


def test_all_async_suites_are_run():
    assert len(ASYNC_SUITES) >= 12


# ---- filters, against Haystack's own -------------------------------------------------


VALUES = [None, True, 0, 1, -2.5, "1", "text", "", ["a", 1], {"b": 1}, "2024-01-02",
          "2024-01-02T00:00:00+02:00", "1999-12-31T23:59:59"]


@pytest.mark.skipif(VERSION < SINCE, reason="older Haystack decides filters otherwise")
@pytest.mark.parametrize("operator", ["==", "!=", ">", ">=", "<", "<=", "in", "not in"])
def test_filters_are_decided_as_by_haystack(operator):
    documents = [Document(id=str(i), content=f"c{i}", meta={"a": {"b": value}})
                 for i, value in enumerate(VALUES)] + [Document(id="none")]
    store = VecidxDocumentStore()
    store.write_documents(documents)
    n = 0
    values = [[1, "text"], [None, ["a", 1]], [], ["2024-01-02"]] if "in" in operator else VALUES
    fields = ["meta.a.b", "a.b", "id", "content", "meta.none"]
    for field, value in itertools.product(fields, values):
        leaf = {"field": field, "operator": operator, "value": value}
        if operator[0] in "<>" and (isinstance(value, (list, dict))
                                    or isinstance(value, str) and value.count("-") < 2):
            with pytest.raises(FilterError):
                store.filter_documents(leaf)
            continue
        for filters in (leaf, {"operator": "NOT", "conditions": [leaf]}):
            expected = set()
            try:
                for document in documents:
                    if document_matches_filter(
                            {**leaf, "field": "meta.a.b" if field == "a.b" else field}, document):
                        expected.add(document.id)
            except (FilterError, TypeError):
                continue                    # one document fails the query there
            if filters is not leaf:
                expected = {document.id for document in documents} - expected
            assert {d.id for d in store.filter_documents(filters)} == expected, filters
            n += 1
    assert n > 20


def test_a_document_comes_back_whole():
    store = VecidxDocumentStore(metric="l2")
    document = Document(id="a", content="é", meta={"a": [1, {"b": None}]}, score=0.5,
                        blob=ByteStream(b"\x00\xff", meta={"m": 1}, mime_type="x/y"),
                        sparse_embedding=SparseEmbedding([1, 7], [0.5, 2.0]),
                        embedding=[0.5, 2.0])
    store.write_documents([document])
    assert store.filter_documents() == [document]
    store.return_embedding = False
    assert store.filter_documents()[0].embedding is None


@pytest.mark.parametrize("metric, function", [("cosine", "cosine"), ("ip", "dot_product")])
@pytest.mark.parametrize("scale", [False, True])
def test_retrieval_is_that_of_the_store_in_memory(metric, function, scale, rng):
    documents = [Document(id=str(i), meta={"n": i % 4}, embedding=rng.standard_normal(8).tolist())
                 for i in range(60)] + [Document(id="bare")]
    ours = VecidxDocumentStore(metric=metric)
    theirs = InMemoryDocumentStore(embedding_similarity_function=function)
    filters = {"field": "meta.n", "operator": "in", "value": [1, 2]}
    for store in (ours, theirs):
        store.write_documents(documents)
    for wanted in (None, filters):
        a, b = (store.embedding_retrieval(documents[3].embedding, wanted, 7, scale)
                for store in (ours, theirs))
        assert [one.id for one in a] == [one.id for one in b]
        np.testing.assert_allclose([one.score for one in a], [one.score for one in b], atol=1e-5)


def test_the_retriever_in_a_pipeline_that_is_stored_and_loaded(tmp_path):
    store = VecidxDocumentStore(tmp_path / "s", metric="l2", M=8)
    store.write_documents([Document(id=str(i), meta={"n": i}, embedding=[float(i), 1.0])
                           for i in range(5)])
    retriever = VecidxEmbeddingRetriever(store, top_k=2, filter_policy=FilterPolicy.MERGE,
                                         filters={"field": "meta.n", "operator": ">", "value": 1})
    pipeline = Pipeline()
    pipeline.add_component("retriever", retriever)
    text = pipeline.dumps()
    store.close()
    pipeline = Pipeline.loads(text, allowed_modules=["vecidx.haystack"])
    less = {"field": "meta.n", "operator": "<", "value": 4}
    found = pipeline.run({"retriever": {"query_embedding": [4.0, 1.0], "filters": less}})
    assert [one.id for one in found["retriever"]["documents"]] == ["3", "2"]
    again = pipeline.get_component("retriever")
    found = asyncio.run(again.run_async([4.0, 1.0], top_k=1, return_embedding=True))
    assert found["documents"][0].id == "4" and found["documents"][0].embedding == [4.0, 1.0]
    again.document_store.close()
    with pytest.raises(TypeError):
        VecidxEmbeddingRetriever(InMemoryDocumentStore())


def test_policies_within_one_call():
    store = VecidxDocumentStore()
    twice = [Document(id="a", content="1"), Document(id="a", content="2")]
    assert store.write_documents(twice, DuplicatePolicy.SKIP) == 1
    assert store.filter_documents()[0].content == "1"
    assert store.write_documents(twice, DuplicatePolicy.OVERWRITE) == 2
    assert store.filter_documents()[0].content == "2"
    with pytest.raises(ValueError, match="filters"):
        store.delete_by_filter({})


def test_the_example_of_the_module():
    import doctest
    assert doctest.testmod(vecidx.haystack).failed == 0
