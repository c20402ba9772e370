"""vecidx.mteb.VecidxSearchIndex against MTEB's protocol and its FAISS backend."""

from types import SimpleNamespace

import numpy as np
import pytest

from helpers import needs

needs("mteb")

import torch  # noqa: E402
from mteb.models.model_meta import ScoringFunction  # noqa: E402
from mteb.models.search_encoder_index import FaissSearchIndex  # noqa: E402

from vecidx.mteb import VecidxSearchIndex  # noqa: E402

SIMILARITIES = [ScoringFunction.COSINE, ScoringFunction.DOT_PRODUCT, ScoringFunction.EUCLIDEAN]


def model(similarity):
    return SimpleNamespace(mteb_model_meta=SimpleNamespace(similarity_fn_name=similarity))


@pytest.fixture
def filled(rng):
    rows = rng.standard_normal((300, 20)).astype(np.float32)
    ids = [f"document {i}" for i in range(300)]

    def fill(backend):
        backend.add_documents(torch.tensor(rows[:200]), ids[:200])
        backend.add_documents(rows[200:].copy(), ids[200:])
        return backend
    return rows, fill


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("exact", [False, True])
def test_the_same_as_faiss(filled, similarity, exact):
    needs("faiss")
    rows, fill = filled
    queries = rows[:10] + 0.2
    ours = fill(VecidxSearchIndex(model(similarity), exact=exact, ef=300, M=12))
    theirs = fill(FaissSearchIndex(model(similarity)))
    ranked = {f"q{i}": [f"document {j}" for j in range(i, 60 + i, 2)] for i in range(9)}
    ranked["q9"] = ranked["q0"]
    names = {i: f"q{i}" for i in range(10)}
    for words in ({}, {"top_ranked": ranked, "query_idx_to_id": names}):
        for k in (1, 10, 1000):
            values, places = ours.search(torch.tensor(queries), k, None, **words)
            want_values, want_places = theirs.search(queries.copy(), k, None, **words)
            assert [len(row) for row in values] == [len(row) for row in want_values]
            for a, b in zip(values, want_values):
                np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
            if not words and k == 10:      # faiss's reranking numbers the candidates
                assert places == want_places
    ours.clear()
    with pytest.raises(ValueError, match="No index built"):
        ours.search(queries, 3, None)


def test_reranking_names_documents_of_the_corpus(filled):
    rows, fill = filled
    ours = fill(VecidxSearchIndex(model(ScoringFunction.COSINE)))
    ranked = {"a": ["document 9", "document 250", "document 9"], "b": []}
    values, places = ours.search(rows[[250, 9, 3]], 5, None, top_ranked=ranked,
                                 query_idx_to_id={0: "a", 1: "b", 2: "unknown"})
    assert places == [[250, 9], [], []] and values[1:] == [[], []]
    assert values[0][0] == pytest.approx(1, abs=1e-5)


def test_what_is_refused(filled):
    rows, fill = filled
    with pytest.raises(ValueError, match="similarity: expected one of"):
        VecidxSearchIndex(model(ScoringFunction.MAX_SIM))
    backend = fill(VecidxSearchIndex(model(ScoringFunction.COSINE)))
    with pytest.raises(ValueError, match="idxs: expected 2"):
        backend.add_documents(rows[:2], ["a"])
    with pytest.raises(ValueError, match="query_idx_to_id must be provided"):
        backend.search(rows[:2], 2, None, top_ranked={"a": ["document 1"]})
