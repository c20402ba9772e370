"""vecidx.llama_index: every operation of the base class; filters as LlamaIndex decides them."""

import asyncio
import itertools
import re
from importlib import metadata

import numpy as np
import pytest

pytest.importorskip("llama_index.core", reason="needs vecidx[llama-index]")

from llama_index.core import MockEmbedding, StorageContext, VectorStoreIndex  # noqa: E402
from llama_index.core.schema import (  # noqa: E402
    Document,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores.simple import SimpleVectorStore  # noqa: E402
from llama_index.core.vector_stores.types import (  # noqa: E402
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)

import vecidx.llama_index  # noqa: E402
from vecidx.llama_index import VecidxVectorStore  # noqa: E402

DIM = 8
# Its own store has decided filters so in this version, and otherwise in older ones.
SINCE = (0, 14, 25)
VERSION = tuple(map(int, re.findall(r"\d+", metadata.version("llama-index-core"))[:3]))


def node(i, **metadata):
    rng = np.random.default_rng(i)
    return TextNode(
        id_=f"n{i}", text=f"text {i}", metadata=metadata,
        embedding=rng.standard_normal(DIM).tolist(),
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"doc{i % 3}")})


def nodes(n=12):
    return [node(i, n=i, word="ab"[i % 2], tags=["x", "yz"[i % 2]]) for i in range(n)]


@pytest.fixture(params=["memory", "folder"])
def store(request, tmp_path):
    store = VecidxVectorStore(None if request.param == "memory" else tmp_path / "s")
    store.add(nodes())
    yield store
    store.close()


def ask(store, i, k=3, **more):
    return store.query(VectorStoreQuery(query_embedding=node(i).embedding, similarity_top_k=k,
                                        **more))


def test_query_gives_nodes_ids_and_similarities(store):
    result = ask(store, 5)
    assert result.ids[0] == "n5" and abs(result.similarities[0] - 1) < 1e-6
    assert result.nodes[0].get_content() == "text 5" and result.nodes[0].metadata["n"] == 5
    assert result.nodes[0].ref_doc_id == "doc2"
    assert result.similarities == sorted(result.similarities, reverse=True)


def test_answers_are_those_of_the_simple_store(store):
    simple = SimpleVectorStore()
    simple.add(nodes())
    for i, mode in itertools.product(range(20), [VectorStoreQueryMode.DEFAULT]):
        ours, theirs = ask(store, i, 5, mode=mode), ask(simple, i, 5, mode=mode)
        assert ours.ids == theirs.ids
        np.testing.assert_allclose(ours.similarities, theirs.similarities, atol=1e-5)


def test_a_node_of_an_id_that_is_there_replaces_it(store):
    changed = node(5, n=500)
    changed.set_content("new")
    assert store.add([changed]) == ["n5"]
    assert [one.get_content() for one in store.get_nodes(["n5"])] == ["new"]
    assert store.client.count() == 12


FILTERS = [
    (FilterOperator.EQ, "n", 3), (FilterOperator.NE, "n", 3), (FilterOperator.GT, "n", 3),
    (FilterOperator.LTE, "n", 3.5), (FilterOperator.IN, "word", ["a", "c"]),
    (FilterOperator.NIN, "word", ["a"]), (FilterOperator.ANY, "tags", ["y", "w"]),
    (FilterOperator.ALL, "tags", ["x", "y"]), (FilterOperator.CONTAINS, "tags", "z"),
    (FilterOperator.TEXT_MATCH, "word", "a"),
    (FilterOperator.TEXT_MATCH_INSENSITIVE, "word", "A"), (FilterOperator.IS_EMPTY, "none", None),
    (FilterOperator.NE, "none", 3), (FilterOperator.NIN, "none", [3]),
    (FilterOperator.GT, "none", 3), (FilterOperator.IN, "none", [3]),
    (FilterOperator.EQ, "none", None), (FilterOperator.ALL, "none", ["x"])]


@pytest.mark.skipif(VERSION < SINCE, reason="older LlamaIndex decides filters otherwise")
@pytest.mark.parametrize("operator, key, value", FILTERS)
@pytest.mark.parametrize("condition", list(FilterCondition))
def test_filters_are_decided_as_by_the_simple_store(store, operator, key, value, condition):
    simple = SimpleVectorStore()
    simple.add(nodes())
    filters = MetadataFilters(condition=condition, filters=[
        MetadataFilter(key=key, operator=operator, value=value),
        MetadataFilter(key="n", operator=FilterOperator.LT, value=9)])
    ours, theirs = ask(store, 1, 12, filters=filters), ask(simple, 1, 12, filters=filters)
    assert set(ours.ids) == set(theirs.ids)
    assert {one.node_id for one in store.get_nodes(filters=filters)} == set(ours.ids)


def test_filters_within_filters(store):
    either = MetadataFilters(condition="or", filters=[MetadataFilter(key="n", value=1),
                                                      MetadataFilter(key="n", value=2)])
    both = MetadataFilters(filters=[either, MetadataFilter(key="word", value="a")])
    assert ask(store, 0, 12, filters=both).ids == ["n2"]


def test_ids_of_nodes_and_documents_narrow_a_query(store):
    assert set(ask(store, 0, 12, node_ids=["n1", "n2", "no"]).ids) == {"n1", "n2"}
    assert set(ask(store, 0, 12, doc_ids=["doc1"]).ids) == {"n1", "n4", "n7", "n10"}


def test_delete(store):
    store.delete("doc1")
    assert store.client.count() == 8
    store.delete_nodes(["n0", "no"])
    store.delete_nodes(filters=MetadataFilters(filters=[MetadataFilter(key="word", value="a")]))
    assert {one.node_id for one in store.get_nodes()} == {"n3", "n5", "n9", "n11"}
    with pytest.raises(ValueError, match="node_ids"):
        store.delete_nodes()
    store.clear()
    assert store.get_nodes() == [] and ask(store, 1).ids == []


def test_mmr_and_modes_that_are_not_there(store):
    result = ask(store, 5, 4, mode=VectorStoreQueryMode.MMR, mmr_threshold=0.3)
    assert result.ids[0] == "n5" and len(set(result.ids)) == 4
    with pytest.raises(ValueError, match="mode"):
        ask(store, 5, mode=VectorStoreQueryMode.SPARSE)
    with pytest.raises(ValueError, match="query_embedding"):
        store.query(VectorStoreQuery(query_str="text"))


def test_async_calls(store):
    async def run():
        await store.async_add([node(50)])
        query = VectorStoreQuery(query_embedding=node(50).embedding)
        assert (await store.aquery(query)).ids == ["n50"]
        await store.adelete_nodes(["n50"])
        assert (await store.aget_nodes(["n50", "n1"]))[0].node_id == "n1"
        await store.adelete("doc0")
        await store.aclear()
        assert store.client.count() == 0

    asyncio.run(run())


def test_a_whole_index_over_a_folder(tmp_path):
    embed = MockEmbedding(embed_dim=DIM)
    store = VecidxVectorStore(str(tmp_path / "s"), M=8)
    index = VectorStoreIndex.from_documents(
        [Document(text="one text", id_="d1", metadata={"a": 1}),
         Document(text="another", id_="d2")],
        storage_context=StorageContext.from_defaults(vector_store=store), embed_model=embed)
    index.delete_ref_doc("d2")
    store.persist("nowhere")
    store.close()
    again = VecidxVectorStore.from_dict(store.to_dict())
    assert again.client.index.M == 8
    whole = VectorStoreIndex.from_vector_store(again, embed_model=embed)
    found = whole.as_retriever().retrieve("q")
    assert [one.node.ref_doc_id for one in found] == ["d1"] and found[0].node.metadata == {"a": 1}
    again.close()


def test_a_store_in_memory_is_persisted_to_a_folder(tmp_path):
    store = VecidxVectorStore()
    store.add(nodes())
    store.persist(str(tmp_path / "s"))
    again = VecidxVectorStore.from_persist_path(str(tmp_path / "s"))
    assert ask(again, 5).ids == ask(store, 5).ids
    again.close()
    with pytest.raises(ValueError, match="no folder"):
        VecidxVectorStore.from_persist_path(str(tmp_path / "none"))


def test_the_example_of_the_module():
    import doctest
    assert doctest.testmod(vecidx.llama_index).failed == 0
