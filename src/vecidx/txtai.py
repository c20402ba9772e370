"""A backend of txtai's embeddings, over :class:`vecidx.Index`.

Needs ``pip install "vecidx[txtai]"``.  txtai finds it by its name::

    Embeddings(path="...", backend="vecidx.txtai.Vecidx", vecidx={"efsearch": 100})
"""

import numpy as np

import vecidx
from vecidx._extras import need

ANN = need("txtai.ann.base", extra="txtai", user="vecidx.txtai").ANN

__all__ = ["Vecidx"]


class Vecidx(ANN):
    """txtai's ANN, with the settings ``m``, ``efconstruction``, ``efsearch``, ``quantization``
    ("auto", "sq8", "sq4" or None) and ``randomseed`` under the word ``vecidx``.
    """

    def load(self, path):
        """Read an index file."""
        self.backend = vecidx.load(path)

    def index(self, embeddings):
        """Begin anew with these rows, of ids 0, 1, ..."""
        m, efconstruction = self.setting("m", 16), self.setting("efconstruction", 200)
        quantization, seed = self.setting("quantization", "auto"), self.setting("randomseed", 100)
        self.config["metric"] = "ip"             # of normalised rows, which txtai's are: the cosine
        self.backend = vecidx.Index(self.config["dimensions"], "ip", M=m,
                                    ef_construction=efconstruction, quantization=quantization,
                                    seed=seed)
        self.config["offset"] = 0
        self._add(embeddings)
        self.metadata({"m": m, "efconstruction": efconstruction, "quantization": quantization,
                       "seed": seed})

    def append(self, embeddings):
        """Add rows, under the ids that follow the last."""
        self._add(embeddings)
        self.metadata()

    def _add(self, embeddings):
        start, n = self.config["offset"], len(embeddings)
        self.backend.add(embeddings, np.arange(start, start + n))
        self.config["offset"] = start + n

    def delete(self, ids):
        """Take rows out; ids that are not there are passed over."""
        self.backend.delete(ids, missing="ignore")

    def search(self, queries, limit):
        """For each query a list of (id, similarity)."""
        ids, distances = self.backend.search(np.atleast_2d(queries), k=limit,
                                             ef=self.setting("efsearch"))
        return [[(id, 1 - distance) for id, distance in zip(*pair) if id >= 0]
                for pair in zip(ids.tolist(), distances.tolist())]

    def count(self):
        """How many rows there are."""
        return len(self.backend)

    def save(self, path):
        """Write an index file."""
        self.backend.save(path)

    def close(self):
        """Give the memory back."""
        if self.backend is not None:
            self.backend.close()
        super().close()

    def setting(self, name, default=None):
        """A setting, under the word ``vecidx`` or the backend's whole name."""
        found = (self.config.get("vecidx") or {}).get(name)
        return super().setting(name, default) if found is None else found
