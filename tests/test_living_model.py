"""An index against a dict: whatever is done to it, it holds what the dict holds."""

import numpy as np
import pytest

pytest.importorskip("hypothesis")

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import vecidx
from helpers import exact_distances

DIM = 4


class Living(RuleBasedStateMachine):
    """Few values, so that equal rows come up; few ids, so that they meet again."""

    @initialize(seed=st.integers(0, 3), M=st.sampled_from([2, 4, 16]),
                metric=st.sampled_from(["l2", "cosine"]))
    def start(self, seed, M, metric):
        self.metric = metric
        self.index = vecidx.Index(DIM, metric=metric, M=M, ef_construction=20, seed=seed,
                                  num_threads=2)
        self.model = {}
        self.next_id = 0
        self.rng = np.random.default_rng(seed)

    def rows(self, n, fine):
        if fine:
            return self.rng.standard_normal((n, DIM)).astype(np.float32)
        rows = self.rng.integers(-1, 2, (n, DIM)).astype(np.float32)
        rows[:, 0] += 2 * (rows == 0).all(axis=1)
        return rows

    def remember(self, ids, rows):
        for i, row in zip(ids.tolist(), rows, strict=True):
            self.model[i] = row
            self.next_id = max(self.next_id, i + 1)

    @rule(n=st.integers(1, 60), fine=st.booleans())
    def add(self, n, fine):
        rows = self.rows(n, fine)
        ids = self.index.add(rows)
        assert ids.tolist() == list(range(self.next_id, self.next_id + n))
        self.remember(ids, rows)

    @rule(n=st.integers(1, 60), fine=st.booleans())
    def upsert(self, n, fine):
        ids = self.rng.permutation(100)[:n]
        rows = self.rows(n, fine)
        self.index.add(rows, ids=ids)
        self.remember(ids, rows)

    @rule(share=st.floats(0, 1))
    def add_again_what_is_there(self, share):
        """The same vectors under the same ids: each is its old row's equal."""
        ids = np.array(sorted(self.model), np.int64)
        ids = ids[self.rng.random(len(ids)) < share]
        if len(ids):
            self.index.add(np.stack([self.model[i] for i in ids.tolist()]), ids=ids)

    @rule(n=st.integers(1, 60))
    def skip(self, n):
        ids = self.rng.permutation(150)[:n]
        rows = self.rows(n, True)
        fresh = np.array([i not in self.model for i in ids.tolist()])
        self.index.add(rows, ids=ids, on_conflict="skip")
        self.remember(ids[fresh], rows[fresh])

    @rule(share=st.sampled_from([0.01, 0.1, 0.5, 1.0]))
    def delete(self, share):
        ids = [i for i in sorted(self.model) if self.rng.random() < share]
        assert self.index.delete(ids) == len(ids)
        for i in ids:
            del self.model[i]

    @rule(n=st.integers(1, 30))
    def delete_what_may_be_there(self, n):
        ids = self.rng.integers(0, 200, n).tolist()
        there = set(ids) & set(self.model)
        assert self.index.delete(ids, missing="ignore") == len(there)
        for i in there:
            del self.model[i]

    @rule()
    def compact(self):
        self.index.compact()
        stats = self.index.stats()
        assert stats["deleted"] == 0 and stats["free"] == 0

    @rule()
    def repair(self):
        self.index.check(repair=True)

    @rule(k=st.integers(1, 12), exact=st.booleans())
    def search(self, k, exact):
        queries = self.rows(3, True)
        ids, distances = self.index.search(queries, k=k, exact=exact)
        n = min(k, len(self.model))
        assert (ids[:, n:] == -1).all() and (ids[:, :n] >= 0).all()
        if n == 0:
            return
        keys = sorted(self.model)
        want = exact_distances(queries, np.stack([self.model[i] for i in keys]), self.metric)
        for row, found, got in zip(want, ids, distances, strict=True):
            by_id = dict(zip(keys, row, strict=True))
            assert len(set(found[:n].tolist())) == n
            for i, d in zip(found[:n].tolist(), got, strict=False):
                assert abs(by_id[i] - d) < 1e-4 * max(1, d)
            if exact:
                np.testing.assert_allclose(got[:n], np.sort(row)[:n], rtol=1e-4, atol=1e-5)

    @invariant()
    def holds_the_same(self):
        assert len(self.index) == len(self.model)
        assert sorted(self.index.ids().tolist()) == sorted(self.model)
        assert self.index.check()["unreachable"] == 0
        keys = sorted(self.model)
        if keys:
            got = self.index.get(keys)
            np.testing.assert_allclose(got, np.stack([self.model[i] for i in keys]), rtol=1e-5,
                                       atol=1e-6)
        assert all((i in self.index) == (i in self.model) for i in range(0, 220, 7))


TestLiving = Living.TestCase
TestLiving.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
