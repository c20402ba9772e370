"""Replacing under running searches, recall after turnover, and memory given back."""

import os
import signal
import threading
import time

import numpy as np
import pytest

import vecidx
from helpers import METRICS, exact_kth, recall


def recall_of(index, rows_of, queries, metric):
    kth = exact_kth(queries, rows_of, metric, 10)
    return recall(index.search(queries, k=10, ef=64)[1], kth)


@pytest.mark.parametrize("how", ["delete", "replace", "clustered"])
def test_recall_after_ten_rounds_is_that_of_a_fresh_build(sample, how):
    """Recall rots where a deletion leaves holes in the graph: ten rounds of a tenth each."""
    pool, queries = sample.rows[:8000], sample.queries[:200]
    rng = np.random.default_rng(3)
    index = vecidx.Index(pool.shape[1], metric="cosine")
    row_of = dict(enumerate(range(4000)))            # id -> row of the pool
    index.add(pool[:4000])
    for _ in range(10):
        ids = np.array(sorted(row_of))
        if how == "clustered":
            near = pool[[row_of[i] for i in ids]] @ pool[rng.integers(8000)]
            gone = ids[np.argsort(-near)[:400]]
        else:
            gone = rng.permutation(ids)[:400]
        fresh = np.setdiff1d(np.arange(8000), list(row_of.values()))
        fresh = rng.permutation(fresh)[:400]
        if how == "replace":
            index.add(pool[fresh], ids=gone)
            row_of.update(zip(gone.tolist(), fresh.tolist(), strict=True))
        else:
            index.delete(gone)
            for i in gone.tolist():
                del row_of[i]
            row_of.update(zip(index.add(pool[fresh]).tolist(), fresh.tolist(), strict=True))
        assert index.check()["unreachable"] == 0
    assert len(index) == 4000
    rows = pool[list(row_of.values())]
    built = vecidx.Index(pool.shape[1], metric="cosine")
    built.add(rows)
    lived = recall_of(index, rows, queries, "cosine")
    assert lived > recall_of(built, rows, queries, "cosine") - 0.01
    assert index.memory()["vectors"] <= 1.11 * built.memory()["vectors"], "places are used again"


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_lives(rng, metric):
    rows = rng.standard_normal((3000, 20), dtype=np.float32)
    index = vecidx.Index(20, metric=metric, M=8)
    index.add(rows[:2000])
    index.delete(np.arange(0, 2000, 2))
    index.add(rows[2000:])
    index.add(rows[:500] * np.float32(0.5), ids=np.arange(1, 1000, 2))
    index.compact()
    index.delete(np.arange(2000, 2300))
    found = index.check()
    assert found["unreachable"] == 0
    ids = index.ids()
    left = index.get(ids)
    queries = rng.standard_normal((100, 20), dtype=np.float32)
    assert recall_of(index, left, queries, metric) > (0.8 if metric == "ip" else 0.97)


def test_a_search_sees_the_old_row_or_the_new(rng):
    """Two versions of each vector, replaced over and over: never both are found, and one of
    them always, but for what a walk may miss while links around it are being changed."""
    n, dim = 800, 16
    old = rng.standard_normal((n, dim), dtype=np.float32)
    versions = np.stack([old, old + np.float32(1e-3)])
    index = vecidx.Index(dim, M=8, num_threads=1)
    index.add(old)
    stop, faults, missed, searches = threading.Event(), [], [], [0]

    def read(seed):
        mine = np.random.default_rng(seed)
        while not stop.is_set():
            wanted = mine.integers(0, n, 20)
            exact = bool(mine.integers(2))
            ids, distances = index.search(old[wanted], k=5, ef=64, exact=exact)
            searches[0] += len(wanted)
            for want, row, d in zip(wanted, ids, distances, strict=True):
                if len(set(row.tolist())) != 5 or (exact and (row[0] != want or d[0] > 1e-3)):
                    faults.append((want, row, d))
                if row[0] != want:
                    missed.append(want)

    readers = [threading.Thread(target=read, args=(seed,)) for seed in range(2)]
    for thread in readers:
        thread.start()
    until = time.monotonic() + 3
    turn = 0
    while time.monotonic() < until:
        turn += 1
        ids = rng.permutation(n)[:60]
        index.add(versions[turn % 2][ids], ids=ids)
        if turn % 10 == 0:
            index.compact()
    stop.set()
    for thread in readers:
        thread.join()
    assert not faults, faults[0]
    assert len(missed) <= searches[0] // 1000 + 1, (len(missed), searches[0])
    assert len(index) == n
    assert index.check()["unreachable"] == 0


def test_deleted_before_the_search_began_is_never_found(rng):
    n, dim = 1500, 12
    rows = rng.standard_normal((n, dim), dtype=np.float32)
    index = vecidx.Index(dim, M=8, num_threads=1)
    index.add(rows)
    gone = np.zeros(n, bool)             # set after the delete has returned
    stop, faults = threading.Event(), []

    def read(seed):
        mine = np.random.default_rng(seed)
        while not stop.is_set():
            before = gone.copy()
            ids, _ = index.search(rows[mine.integers(0, n, 10)], k=8)
            if before[ids[ids >= 0]].any():
                faults.append(ids)

    readers = [threading.Thread(target=read, args=(seed,)) for seed in range(2)]
    for thread in readers:
        thread.start()
    order = rng.permutation(n)
    for at in range(0, n - 100, 25):
        index.delete(order[at:at + 25])
        gone[order[at:at + 25]] = True
        if at % 500 == 0:
            index.compact()
    stop.set()
    for thread in readers:
        thread.join()
    assert not faults, faults[0]
    assert index.check()["unreachable"] == 0


def test_upserts_use_the_places_of_the_rows_they_replace(rng):
    """An index under upserts used to grow for ever."""
    rows = rng.standard_normal((2000, 16), dtype=np.float32)
    index = vecidx.Index(16)
    index.add(rows)
    for _ in range(20):
        ids = rng.permutation(2000)[:500]
        index.add(rows[ids] + np.float32(0.01), ids=ids)
    stats = index.stats()
    assert stats["count"] == 2000
    assert stats["deleted"] + stats["free"] <= 500 + 2000 // 100
    assert index.memory()["vectors"] <= 2520 * 64


def test_the_same_vectors_again_leave_no_chain_behind(rng):
    """The new row equals the old one, and used to hang off it for ever."""
    rows = rng.standard_normal((600, 16), dtype=np.float32)
    index = vecidx.Index(16)
    index.add(rows)
    for _ in range(4):
        index.add(rows, ids=np.arange(600))
        assert index.stats()["duplicates"] == 0
        assert index.check()["unreachable"] == 0
        ids, distances = index.search(rows, k=1)
        assert (ids[:, 0] == np.arange(600)).all() and (distances == 0).all()


def _held(index):
    """Bytes of rows; what searches work with depends on how many ran at once."""
    memory = index.memory()
    return memory["total"] - memory["scratch"]


def test_compact_gives_memory_back_and_changes_no_answer(rng):
    rows = rng.standard_normal((6000, 32), dtype=np.float32)
    index = vecidx.Index(32, metric="cosine")
    index.add(np.concatenate([rows, rows[:50]]))     # some equal ones
    index.delete(np.arange(1000, 5000))
    queries = rng.standard_normal((50, 32), dtype=np.float32)
    before = index.search(queries, k=10)
    held = _held(index)
    ids = index.ids()
    index.compact()
    after = index.search(queries, k=10)
    np.testing.assert_array_equal(before[0], after[0])
    np.testing.assert_array_equal(before[1], after[1])
    np.testing.assert_array_equal(index.ids(), ids)
    assert _held(index) < 0.5 * held
    assert index.stats()["free"] == 0 and index.check()["unreachable"] == 0
    index.compact()                                  # nothing to do
    assert index.add(rows[0]).tolist() == [6050]
    index.delete(index.ids())
    index.compact()
    assert len(index) == 0 and (index.search(rows[0])[0] == -1).all()
    assert index.add(rows[:3]).tolist() == [6051, 6052, 6053]
    assert index.check()["unreachable"] == 0


def test_a_file_keeps_its_free_places(rng, tmp_path):
    rows = rng.standard_normal((3000, 16), dtype=np.float32)
    index = vecidx.Index(16, M=8)
    index.add(np.concatenate([rows, rows[:100]]))
    index.delete(np.arange(500, 1500))
    index.delete([3, 3000])                          # few: still linked
    index.save(tmp_path / "index.vidx")
    loaded = vecidx.load(tmp_path / "index.vidx")
    assert loaded.stats() == index.stats()
    assert loaded.stats()["deleted"] == 2 and loaded.stats()["free"] == 1000
    assert loaded.add(rows[500:1500]).tolist() == index.add(rows[500:1500]).tolist()
    assert loaded.stats()["free"] == index.stats()["free"] == 0
    assert loaded.check()["unreachable"] == 0


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize("what", ["delete", "compact"])
def test_ctrl_c_leaves_a_valid_index(rng, what):
    """Whenever it comes: none or all are deleted, and the next call goes on."""
    rows = rng.standard_normal((20_000, 32), dtype=np.float32)
    index = vecidx.Index(32, M=8, ef_construction=20)
    index.add(rows)
    gone = np.arange(0, 20_000, 2)
    if what == "compact":
        index.delete(gone)
    stopped = 0
    for delay in (0.002, 0.02, 0.06, 0.1):
        n = len(index)
        timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
        try:
            try:
                timer.start()                # where the signal may come already
                if what == "delete":
                    assert index.delete(gone) == len(gone)
                else:
                    index.compact()
                timer.join()
                time.sleep(0.02)
            except KeyboardInterrupt as exc:
                stopped += 1
                notes = "".join(getattr(exc, "__notes__", ()))   # none: it came after the call
                if what == "delete" and notes:
                    assert f"{n - len(index)} rows are deleted" in notes
            timer.join()
        except KeyboardInterrupt:
            pass
        assert len(index) in (n, n - len(gone))
        assert index.check()["unreachable"] == 0
        if len(index) < n and what == "delete":
            index.add(rows[gone], ids=gone)
    index.compact()
    index.delete(index.ids()[::2])
    assert index.check()["unreachable"] == 0
    assert stopped > 0
