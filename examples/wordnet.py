"""The dictionary sample as a store: what the examples have in common.

A real application asks its embedding model for the vector of what was typed.  The
sample has vectors but no model, so `Dictionary.embed` stands in for one: for each
typed word the mean vector of the senses whose texts have it, rare words counting
more.
"""

import math
import re
from pathlib import Path

import numpy as np

from vecidx.demo import Sample
from vecidx.stores import Document, Store

SAMPLE = Path(__file__).resolve().parent / "data" / "wordnet-sample.npz"
EXPLAINED = 8.0            # a sense of the word itself counts as so many that mention it


class Dictionary:
    """Senses by their meaning.

    Parameters
    ----------
    folder : path, optional
        Where the store lies; filled if it is empty.  None keeps it in memory.
    """

    def __init__(self, folder=None, data=SAMPLE):
        sample = Sample(data)
        self.texts = sample.texts
        self.rows = sample.rows
        self.store = Store(folder, metric="cosine")
        if len(self.store) == 0:
            self.store.upsert(
                [Document(str(i), text, {"words": explained(text)})
                 for i, text in enumerate(sample.texts)], sample.rows)
        self._senses = {}                    # word -> {row: weight}
        for i, text in enumerate(sample.texts):
            for word in words_of(text):
                self._senses.setdefault(word, {})[i] = 1.0
            for word in words_of(text.partition(":")[0]):
                self._senses[word][i] = EXPLAINED
        self._sorted = sorted(self._senses)

    def embed(self, text):
        """A vector for a text; None if the dictionary has none of its words."""
        vector = np.zeros(self.rows.shape[1], np.float32)
        words = words_of(text)
        for i, word in enumerate(words):
            senses = self._senses.get(word)
            if senses is None and i == len(words) - 1:
                senses = self._senses.get(self._begins_with(word))
            if senses:
                rows, weights = list(senses), np.array(list(senses.values()), np.float32)
                rare = math.log(len(self.texts) / len(rows))
                vector += rare ** 2 * (weights / weights.sum()) @ self.rows[rows]
        return vector if vector.any() else None

    def _begins_with(self, part):
        """The first word that begins so, for one that is still being typed."""
        at = np.searchsorted(self._sorted, part)
        found = self._sorted[at] if at < len(self._sorted) else ""
        return found if len(part) >= 3 and found.startswith(part) else None

    def search(self, text, k=10, where=None):
        """Hits for a text, nearest first."""
        vector = self.embed(text)
        return [] if vector is None else self.store.search(vector, k, where=where)


def words_of(text):
    return re.findall(r"[\w'-]+", text.lower())


def explained(text):
    """The entries that a sense explains: what stands before the colon."""
    return [word.strip() for word in text.partition(":")[0].split(",")]
