"""Services that take writes: what is confirmed is found, by every search, whatever is lost."""

import os
import signal
import threading
import time

import numpy as np
import pytest

import vecidx
from cluster_helpers import all_ready, is_gone, replicas_of, wait_for
from helpers import assert_same

pytestmark = pytest.mark.usefixtures("nodes")


@pytest.fixture
def living(built, tmp_path):
    with vecidx.ray.serve(built, replicas=2, updates=tmp_path / "updates") as index:
        yield index


def test_every_search_finds_what_was_confirmed(living, rows, queries, rng):
    one = vecidx.Index(16)
    one.add(rows)
    for _ in range(5):
        more = rng.standard_normal((20, 16), dtype=np.float32)
        ids = rng.choice(4000, 20, replace=False)
        for index in (one, living):
            index.add(more, ids=ids)
        gone = rng.choice(one.ids(), 10, replace=False)
        assert one.delete(gone) == living.delete(gone) == 10
        for _ in range(3):                   # of either replica
            assert_same(living.search(queries, k=5, exact=True),
                        one.search(queries, k=5, exact=True))
    assert len(living) == len(one)
    np.testing.assert_array_equal(living.get(one.ids()[:50]), one.get(one.ids()[:50]))


def test_conflicts_and_bad_writes(living, rows):
    assert living.add(rows[:2] + 1, ids=[1, 9000], on_conflict="skip").tolist() == [1, 9000]
    np.testing.assert_array_equal(living.get([1, 9000]), [rows[1], rows[1] + 1])
    with pytest.raises(ValueError, match="9000"):
        living.add(rows[:1], ids=[9000], on_conflict="error")
    with pytest.raises(KeyError, match="9001"):
        living.delete([9000, 9001])
    assert living.delete([9000, 9001], missing="ignore") == 1
    for vectors, ids, message in [(rows[:2], [1], "ids: expected 2"), (rows[:2], [1, 1], "twice"),
                                  (rows[:1] * np.nan, [1], "vectors: row 0 holds NaN"),
                                  (rows[:1], [-1], "negative")]:
        with pytest.raises(ValueError, match=message):
            living.add(vectors, ids=ids)
    assert len(living) == 3000


@pytest.mark.long
def test_a_new_replica_joins_with_all_that_was_written(living, rows):
    living.add(rows[:5] + 9, ids=range(5000, 5005))
    living.scale(3)
    assert len(replicas_of(living)) == 6
    for _ in range(12):
        assert living.search(rows[:5] + 9, k=1).ids.ravel().tolist() == list(range(5000, 5005))
    with pytest.raises(ValueError, match="takes writes"):
        living.swap(living.manifest)


@pytest.mark.long
def test_writes_are_there_when_the_service_is_started_again(built, tmp_path, rows):
    updates = tmp_path / "updates"
    with vecidx.ray.serve(built, updates=updates) as index:
        index.add(rows[:1] + 9, ids=[7777])
        index.delete([0])
    with vecidx.ray.serve(built, updates=updates) as index:
        assert len(index) == 3000
        assert index.search(rows[0] + 9, k=1).ids.tolist() == [7777]
        with pytest.raises(KeyError):
            index.get(0)
    other = tmp_path / "other"
    np.save(tmp_path / "rows.npy", rows[:100])
    manifest = vecidx.ray.build(tmp_path / "rows.npy", other, 2)
    with pytest.raises(ValueError, match="updates: .*another build"):
        vecidx.ray.serve(manifest, updates=updates)


@pytest.mark.parametrize("replica", [
    pytest.param(0, id="primary"), pytest.param(1, id="follower", marks=pytest.mark.long)])
def test_replicas_are_killed_while_one_writes_and_others_search(living, rows, replica):
    """No search that began after a write was confirmed misses it."""
    confirmed, wrong, stop = [0], [], threading.Event()
    base = rows[:1] + 20

    def write():
        n = 1
        while not stop.is_set():
            try:
                living.add(base + n, ids=[10_000 + n])
                confirmed[0] = n
                n += 1
            except vecidx.ray.ShardUnavailable:
                time.sleep(0.05)             # may be in or not: again

    def search():
        while not stop.is_set():
            n = confirmed[0]
            if n == 0:
                continue
            try:
                found = living.search(base + n, k=1, exact=True, partial="allow")
            except vecidx.ray.ShardUnavailable:
                continue
            mine = int(vecidx.ray._manifest.shard_of([10_000 + n], 2)[0])
            if mine not in found.missing_shards and found.ids[0, 0] != 10_000 + n:
                wrong.append((n, found))

    threads = [threading.Thread(target=write), *(threading.Thread(target=search)
                                                 for _ in range(2))]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: confirmed[0] > 5)
        for told in replicas_of(living):
            if told["replica"] == replica:
                os.kill(told["pid"], signal.SIGKILL)
                wait_for(lambda pid=told["pid"]: is_gone(pid))
        before = confirmed[0]
        wait_for(lambda: confirmed[0] > before + 5)
        wait_for(lambda: all_ready(living))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong, wrong[:3]
    ids = 10_000 + np.arange(1, confirmed[0] + 1)
    np.testing.assert_allclose(living.get(ids), base + np.arange(1, len(ids) + 1)[:, None],
                               rtol=1e-6)


@pytest.mark.long
def test_a_follower_that_hangs_delays_a_write_but_never_tells_the_past(living, rows):
    told = [t for t in replicas_of(living) if t["replica"] == 1]
    for t in told:
        os.kill(t["pid"], signal.SIGSTOP)
    try:
        began = time.monotonic()
        living.add(rows[:8] + 30, ids=range(8000, 8008), timeout=60)
        assert time.monotonic() - began > 1, "confirmed while a lease was running"
    finally:
        for t in told:
            os.kill(t["pid"], signal.SIGCONT)
    for _ in range(20):
        assert living.search(rows[:8] + 30, k=1).ids.ravel().tolist() == list(range(8000, 8008))
    wait_for(lambda: all_ready(living))
