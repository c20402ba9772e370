"""A search backend for MTEB's retrieval tasks, over :class:`vecidx.Index`.

Needs ``pip install "vecidx[mteb]"``.  Given to a model's search wrapper::

    from mteb.models import SearchEncoderWrapper
    from vecidx.mteb import VecidxSearchIndex

    model = mteb.get_model("...")
    wrapped = SearchEncoderWrapper(model, index_backend=VecidxSearchIndex(model))
"""

import numpy as np

import vecidx
from vecidx._extras import need

ScoringFunction = need("mteb.models.model_meta", extra="mteb", user="vecidx.mteb").ScoringFunction

__all__ = ["VecidxSearchIndex"]

_METRICS = {ScoringFunction.COSINE: "cosine", ScoringFunction.DOT_PRODUCT: "ip",
            ScoringFunction.EUCLIDEAN: "l2"}


class VecidxSearchIndex:
    """MTEB's ``IndexEncoderSearchProtocol``.

    Parameters
    ----------
    model
        An encoder of MTEB: its meta data say which similarity it is for.
    M, ef_construction, quantization, seed, num_threads
        As for :class:`vecidx.Index`.
    ef : int, optional
        Candidates kept during a search; by default twice the documents wanted,
        and 64.
    exact : bool
        Compare with every document: what a model is worth, without what an
        approximate search costs.
    """

    def __init__(self, model, *, ef=None, exact=False, **parameters):
        similarity = model.mteb_model_meta.similarity_fn_name
        if similarity not in _METRICS:
            raise ValueError(f"similarity: expected one of {[str(s) for s in _METRICS]}, the model "
                             f"has {similarity}")
        self._metric = _METRICS[similarity]
        self._ef, self._exact, self._parameters = ef, exact, parameters
        self.clear()

    def add_documents(self, embeddings, idxs):
        """Add documents; ``idxs`` are their ids in the corpus."""
        rows = _as_rows(embeddings)
        if len(rows) != len(idxs):
            raise ValueError(f"idxs: expected {len(rows)}, one for each embedding, got "
                             f"{len(idxs)}")
        if self._index is None:
            self._index = vecidx.Index(rows.shape[1], self._metric, **self._parameters)
        start = len(self._ids)
        self._index.add(rows, np.arange(start, start + len(rows)))
        self._ids.extend(idxs)

    def search(self, embeddings, top_k, similarity_fn, top_ranked=None, query_idx_to_id=None):
        """(similarities, positions of documents) of each query, lists of lists.

        With ``top_ranked``, of the documents that it names for the query only.
        """
        if self._index is None:
            raise ValueError("No index built. Call add_documents() first.")
        queries = _as_rows(embeddings)
        if top_ranked is not None:
            if query_idx_to_id is None:
                raise ValueError("query_idx_to_id must be provided when reranking.")
            return self._rerank(queries, top_k, top_ranked, query_idx_to_id)
        k = min(top_k, len(self._ids))
        ef = max(64, 2 * k) if self._ef is None else self._ef
        ids, distances = self._index.search(queries, k=k, ef=ef, exact=self._exact)
        return self._similarities(distances).tolist(), ids.tolist()

    def _rerank(self, queries, top_k, top_ranked, query_idx_to_id):
        place = {document: at for at, document in enumerate(self._ids)}
        values, positions = [], []
        for at, query in enumerate(queries):
            named = top_ranked.get(query_idx_to_id[at]) or ()
            wanted = [place[document] for document in dict.fromkeys(named)]
            one = vecidx.Index(len(query), self._metric, M=2, ef_construction=8)
            if wanted:
                one.add(self._index.get(wanted), wanted)
            ids, distances = one.search(query, k=max(1, min(top_k, len(wanted))), exact=True)
            there = ids >= 0
            values.append(self._similarities(distances[there]).tolist())
            positions.append(ids[there].tolist())
        return values, positions

    def _similarities(self, distances):
        if self._metric == "l2":
            return -np.sqrt(distances)
        return 1 - distances

    def clear(self):
        """Forget all documents."""
        self._index, self._ids = None, []


def _as_rows(embeddings):
    """A float32 matrix of what may be a torch tensor."""
    if hasattr(embeddings, "detach"):
        embeddings = embeddings.detach().cpu().float().numpy()
    return np.atleast_2d(np.asarray(embeddings, np.float32))
