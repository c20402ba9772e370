"""Libraries that import hnswlib or faiss, unchanged on vecidx's words, and txtai's own backend.

Each runs in a process of its own, where vecidx.compat.install comes first.  A stand-in for
hnswlib that cannot be imported makes sure that hnswlib is not what they found.
"""

import pytest

from helpers import needs, run_python

INSTALL = """
import sys, warnings
warnings.simplefilter("ignore")
import numpy as np
import vecidx.compat
{name} = vecidx.compat.install("{name}")
rng = np.random.default_rng(0)
X = rng.standard_normal((300, 16)).astype(np.float32)
X /= np.linalg.norm(X, axis=1, keepdims=True)
"""


def run(code, tmp_path, install="hnswlib"):
    code, out, err = run_python(INSTALL.format(name=install) + code, tmp_path, timeout=300)
    assert code == 0, err
    assert out.splitlines()[-1] == "fine", out


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_vicinity(tmp_path, metric):
    needs("vicinity")
    run(f"""
import pathlib
from vicinity import Backend, Vicinity
items = [f"item {{i}}" for i in range(300)]
made = Vicinity.from_vectors_and_items(X, items, backend_type=Backend.HNSW, metric="{metric}")
assert isinstance(made.backend.index, hnswlib.Index)
assert [r[0][0] for r in made.query(X[:20], k=3)] == items[:20]
folder = pathlib.Path(sys.argv[1], "store")
made.save(folder)
again = Vicinity.load(folder)
assert isinstance(again.backend.index, hnswlib.Index)
assert again.query(X[:20], k=3) == made.query(X[:20], k=3)
near = again.query_threshold(X[:5], threshold=0.3)
assert all(r[0][0] == item for r, item in zip(near, items))
again.backend.index.resize_index(400)
again.insert(["new"], X[:1] + 0.5)
assert again.query(X[:1] + 0.5, k=1)[0][0][0] == "new"
print("fine")
""", tmp_path)


def test_docarray(tmp_path):
    needs("docarray")
    run("""
from docarray import BaseDoc, DocList
from docarray.index import HnswDocumentIndex
from docarray.typing import NdArray
from pydantic import Field

class Doc(BaseDoc):
    name: str
    tensor: NdArray[16] = Field(space="cosine", max_elements=100)

docs = DocList[Doc](Doc(name=f"doc {i}", tensor=X[i]) for i in range(200))
index = HnswDocumentIndex[Doc](work_dir=sys.argv[1])
index.index(docs)                              # more than max_elements: it resizes
assert isinstance(index._hnsw_indices["tensor"], hnswlib.Index)
found, scores = index.find(X[7], search_field="tensor", limit=3)
assert found[0].name == "doc 7"
del index[docs[7].id]
assert index.num_docs() == 199
assert index.find(X[7], search_field="tensor", limit=3)[0][0].name != "doc 7"
query = index.build_query().filter(filter_query={"name": {"$eq": "doc 9"}}) \\
    .find(query=X[9], search_field="tensor", limit=1).build()
assert index.execute_query(query).documents[0].name == "doc 9"
del index
again = HnswDocumentIndex[Doc](work_dir=sys.argv[1])
assert again.find(X[8], search_field="tensor", limit=1)[0][0].name == "doc 8"
print("fine")
""", tmp_path)


@pytest.mark.parametrize("backend", ["hnsw", "vecidx.txtai.Vecidx"])
def test_txtai(tmp_path, backend):
    needs("txtai")
    run(f"""
from txtai import Embeddings
backend = "{backend}"

def make():
    return Embeddings(config={{"method": "external",
                               "transform": lambda texts: X[[int(t) for t in texts]],
                               "backend": backend, "hnsw": {{"efsearch": 300}},
                               "vecidx": {{"efsearch": 300, "m": 12}}, "content": False}})

one = make()
one.index([(i, str(i), None) for i in range(100)])
kind = type(one.ann.backend)
assert kind is (hnswlib.Index if backend == "hnsw" else vecidx.Index), kind
exact = np.argsort(-X[:100] @ X[5])[:10]
found = one.search("5", 10)
assert [uid for uid, _ in found] == exact.tolist(), (found, exact)
np.testing.assert_allclose([score for _, score in found], (X[exact] @ X[5]), atol=1e-5)
one.upsert([(i, str(i), None) for i in range(100, 200)])
assert one.count() == 200 and one.search("150", 1)[0][0] == 150
assert one.delete([150, 7, 9999]) == [150, 7]
assert one.count() == 198 and one.search("150", 1)[0][0] != 150
one.upsert([(5, "250", None)])                 # another text under the id 5
assert one.search("250", 1)[0][0] == 5 and one.search("5", 1)[0][0] != 5
assert all(len(found) > 50 for found in one.batchsearch(["1", "2"], 500))
config = dict(one.config)
one.save(sys.argv[1] + "/index")
one.close()
from txtai.ann import ANNFactory
two = ANNFactory.create(config)
two.load(sys.argv[1] + "/index/embeddings")
assert type(two.backend) is kind and two.count() == 198
assert two.search(X[[160]], 1)[0][0][0] == 160
print("fine")
""", tmp_path)


def test_txtais_own_backend_takes_its_settings(tmp_path):
    needs("txtai")
    run("""
from vecidx.txtai import Vecidx
ann = Vecidx({"backend": "vecidx.txtai.Vecidx", "dimensions": 16,
              "vecidx": {"m": 5, "efconstruction": 33, "quantization": "sq8", "randomseed": 9}})
ann.index(X)
b = ann.backend
assert (b.M, b.ef_construction, b.quantization, b.seed) == (5, 33, "sq8", 9)
assert ann.config["build"]["settings"]["m"] == 5
ann.close()
assert ann.backend is None and b.closed
print("fine")
""", tmp_path)


def test_opentsnes_own_hnsw(tmp_path):
    needs("openTSNE")
    run("""
from openTSNE.nearest_neighbors import HNSW
knn = HNSW(X, 15, metric="cosine", random_state=1)
ids, distances = knn.build()
assert type(knn.index) is hnswlib.Index and ids.shape == (300, 15)
import pickle
again = pickle.loads(pickle.dumps(knn))
assert (again.query(X[:5], 1)[0][:, 0] == np.arange(5)).all()
print("fine")
""", tmp_path)


def test_langchains_faiss_store(tmp_path):
    needs("langchain_community")
    run("""
from langchain_community.docstore.in_memory import InMemoryDocstore
from langchain_community.vectorstores import FAISS
from langchain_core.embeddings import Embeddings

class Numbers(Embeddings):
    def embed_documents(self, texts):
        return [X[int(text)].tolist() for text in texts]
    def embed_query(self, text):
        return X[int(text)].tolist()

for index in (None, faiss.IndexHNSWFlat(16, 16)):
    if index is None:
        store = FAISS.from_texts([str(i) for i in range(50)], Numbers(),
                                 metadatas=[{"odd": i % 2} for i in range(50)])
    else:
        store = FAISS(Numbers(), index, InMemoryDocstore(), {})
        store.add_texts([str(i) for i in range(50)], metadatas=[{"odd": i % 2} for i in range(50)])
    assert type(store.index).__module__ == "vecidx.compat.faiss"
    assert store.similarity_search("7", 1)[0].page_content == "7"
    assert all(d.metadata["odd"] for d in store.similarity_search("7", 4, filter={"odd": 1}))
    assert len(store.max_marginal_relevance_search("7", k=3)) == 3
    store.add_texts(["60", "61"], ids=["a", "b"])
    store.delete(["a"])
    assert store.similarity_search("61", 1)[0].page_content == "61"
    assert store.similarity_search("60", 1)[0].page_content != "60"
    other = FAISS.from_texts(["70"], Numbers())
    if index is None:
        store.merge_from(other)
        assert store.similarity_search("70", 1)[0].page_content == "70"
    store.save_local(sys.argv[1])
    again = FAISS.load_local(sys.argv[1], Numbers(), allow_dangerous_deserialization=True)
    assert again.similarity_search("61", 1)[0].page_content == "61"
print("fine")
""", tmp_path, install="faiss")
