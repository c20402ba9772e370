"""vecidx.langchain: LangChain's own suite, and what it does not ask."""

import asyncio

import pytest

pytest.importorskip("langchain_core", reason="needs vecidx[langchain]")
pytest.importorskip("langchain_tests", reason="needs langchain-tests")
pytest.importorskip("pytest_asyncio", reason="needs pytest-asyncio")

from langchain_core.documents import Document  # noqa: E402
from langchain_core.embeddings import DeterministicFakeEmbedding  # noqa: E402
from langchain_tests.integration_tests.vectorstores import (  # noqa: E402
    VectorStoreIntegrationTests,
)

import vecidx.langchain  # noqa: E402
from vecidx.langchain import VecidxVectorStore  # noqa: E402

EMBEDDING = DeterministicFakeEmbedding(size=16)


class TestInMemory(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self):
        with VecidxVectorStore(self.get_embeddings()) as store:
            yield store


class TestInFolder(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path):
        with VecidxVectorStore(self.get_embeddings(), tmp_path / "store") as store:
            yield store


@pytest.fixture
def store():
    texts = ["ant", "bee", "cat", "dog", "eel"]
    legs = [6, 6, 4, 4, 0]
    metadatas = [{"legs": n, "name": text, "tags": [text[0], "animal"]}
                 for text, n in zip(texts, legs)]
    return VecidxVectorStore.from_texts(texts, EMBEDDING, metadatas, ids=texts)


@pytest.mark.parametrize("filter, names", [
    ({"legs": 6}, "ant bee"),
    ({"legs": {"$gt": 0, "$lt": 6}}, "cat dog"),
    ({"legs": 4, "name": "dog"}, "dog"),
    ({"$or": [{"name": "eel"}, {"legs": {"$gte": 6}}]}, "ant bee eel"),
    ({"$not": {"legs": {"$in": [4, 6]}}}, "eel"),
    ({"legs": {"$not": {"$eq": 4}}}, "ant bee eel"),
    ({"tags": {"$contains": "c"}}, "cat"),
    ({"name": {"$nin": ["ant", "bee"]}, "legs": {"$ne": 0}}, "cat dog"),
    ({"tail": {"$exists": False}}, "ant bee cat dog eel"),
    ({}, "ant bee cat dog eel"),
    (lambda document: document.metadata["legs"] == 0, "eel"),
])
def test_filters(store, filter, names):
    found = store.similarity_search("cat", k=5, filter=filter)
    assert " ".join(sorted(document.id for document in found)) == names
    found = store.max_marginal_relevance_search("cat", k=5, filter=filter)
    assert " ".join(sorted(document.id for document in found)) == names
    if not callable(filter):
        store.delete(filter=filter)
        assert store.get_by_ids(names.split()) == []


@pytest.mark.parametrize("filter", [
    {"legs": {"$near": 4}}, {"$nor": []}, {"$and": {"legs": 4}}, {"legs": {"$gt": [1]}}])
def test_filters_that_mean_nothing_are_refused(store, filter):
    with pytest.raises(ValueError):
        store.similarity_search("cat", filter=filter)


def test_scores_are_distances_and_relevance_grows_with_likeness(store):
    (document, distance), *_ = store.similarity_search_with_score("cat", k=2)
    assert document.page_content == "cat" and abs(distance) < 1e-6
    (document, relevance), *rest = store.similarity_search_with_relevance_scores("cat", k=3)
    assert document.id == "cat" and abs(relevance - 1) < 1e-6
    assert all(score < relevance for _, score in rest)


def test_ids_come_from_documents_or_are_made(store):
    ids = store.add_documents([Document("fox", id="f"), Document("gnu")])
    assert ids[0] == "f" and len(ids[1]) == 36
    assert store.get_by_ids(ids)[1].page_content == "gnu"
    assert store.add_documents([Document("fox", id="f")], ids=["own"]) == ["own"]
    with pytest.raises(ValueError, match="ids"):
        store.add_texts(["a", "b"], ids=["a"])
    with pytest.raises(ValueError, match="JSON"):
        store.add_texts(["a"], [{"when": object()}])


def test_delete_without_arguments_takes_everything_out_of_nothing(store):
    store.delete()
    assert len(store.store) == 5


def test_a_folder_is_opened_again_and_works_as_a_retriever(tmp_path):
    with VecidxVectorStore.from_texts(["ant", "bee"], EMBEDDING, path=tmp_path / "s") as store:
        store.add_texts(["cat"], ids=["c"])
    with VecidxVectorStore(EMBEDDING, tmp_path / "s") as store:
        retriever = store.as_retriever(search_kwargs={"k": 1})
        assert [document.id for document in retriever.invoke("cat")] == ["c"]


def test_async_calls_embed_asynchronously(store):
    class OnlyAsync(DeterministicFakeEmbedding):
        def embed_query(self, text):
            raise AssertionError("embedded in the way of the event loop")

        embed_documents = embed_query

        async def aembed_query(self, text):
            return EMBEDDING.embed_query(text)

        async def aembed_documents(self, texts):
            return EMBEDDING.embed_documents(texts)

    async def run():
        store = await VecidxVectorStore.afrom_texts(["ant", "bee"], OnlyAsync(size=16),
                                                    ids=["a", "b"])
        assert await store.aadd_documents([Document("cat", id="c")]) == ["c"]
        assert (await store.asimilarity_search("cat", k=1))[0].id == "c"
        pairs = await store.asimilarity_search_with_score("bee", k=1)
        assert pairs[0][0].id == "b"
        found = await store.amax_marginal_relevance_search("bee", k=2)
        assert found[0].id == "b" and len(found) == 2
        await store.adelete(["b"])
        assert await store.aget_by_ids(["a", "b"]) == store.get_by_ids(["a"])

    asyncio.run(run())


def test_the_example_of_the_module():
    import doctest
    assert doctest.testmod(vecidx.langchain).failed == 0
