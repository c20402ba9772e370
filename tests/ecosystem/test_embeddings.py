"""Neighbours for UMAP and openTSNE, run for real."""

import pickle

import numpy as np
import pytest

from helpers import needs
from vecidx import neighbors


@pytest.fixture(scope="module")
def blobs():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 100)
    return (rng.standard_normal((4, 15)) * 8)[labels] + rng.standard_normal((400, 15)), labels


def together(embedding, labels):
    """Share of points whose nearest other point in the picture has their label."""
    squares = ((embedding[:, None] - embedding[None]) ** 2).sum(axis=2)
    np.fill_diagonal(squares, np.inf)
    return (labels[squares.argmin(axis=1)] == labels).mean()


@pytest.mark.filterwarnings("ignore")
def test_umap(blobs):
    umap = needs("umap")
    X, labels = blobs
    ids, distances = neighbors.knn(X, 15)
    assert ids.shape == distances.shape == (400, 15)
    assert (ids[:, 0] == np.arange(400)).all() and (distances[:, 0] == 0).all()
    model = umap.UMAP(n_neighbors=15, precomputed_knn=(ids, distances), random_state=1,
                      n_epochs=100)
    assert together(model.fit_transform(X), labels) > 0.98
    exact = umap.UMAP(n_neighbors=15, random_state=1, n_epochs=2).fit(X)
    mine, other = model.graph_.toarray(), exact.graph_.toarray()
    assert ((mine > 0) == (other > 0)).mean() > 0.999
    np.testing.assert_allclose(mine, other, atol=2e-2)


def test_opentsne(blobs):
    needs("openTSNE")
    from openTSNE import TSNE, affinity
    from openTSNE.nearest_neighbors import Sklearn

    from vecidx.opentsne import VecidxKNNIndex

    X, labels = blobs
    for metric in ("euclidean", "cosine"):
        mine = VecidxKNNIndex(X, 45, metric, knn_kwargs={"ef": 400}).build()
        theirs = Sklearn(X, 45, metric).build()
        assert (mine[0] == theirs[0]).mean() > 0.99
        np.testing.assert_allclose(mine[1], theirs[1], rtol=1e-3, atol=1e-5)
    index = VecidxKNNIndex(X, 45, random_state=3, n_jobs=-1)
    affinities = affinity.PerplexityBasedNN(knn_index=index, perplexity=15)
    embedding = TSNE(perplexity=15, n_iter=150, random_state=0).fit(affinities=affinities)
    assert together(np.asarray(embedding), labels) > 0.98
    placed = embedding.transform(X[:20] + 0.01)
    assert np.isfinite(placed).all()
    ids, _ = pickle.loads(pickle.dumps(index)).query(X[:5], 1)
    assert ids[:, 0].tolist() == [0, 1, 2, 3, 4]
    for bad in ({"metric": "manhattan"}, {"metric_params": {"p": 3}}):
        with pytest.raises(ValueError, match="metric"):
            VecidxKNNIndex(X, 5, **bad)
    with pytest.raises(ValueError, match="k: expected at most 400"):
        VecidxKNNIndex(X, 400).build()
