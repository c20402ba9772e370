"""Compacting by itself, and on the way to a file."""

import logging
import time

import numpy as np
import pytest

import vecidx

DIM = 8


def made(rng, n):
    index = vecidx.Index(DIM, M=6, ef_construction=30)
    index.add(rng.standard_normal((n, DIM), dtype=np.float32))
    return index


def places(index):
    stats = index.stats()
    return stats["count"] + stats["deleted"] + stats["free"]


def wait_for(what):
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_saved_file_holds_the_living_only(rng, tmp_path):
    index = made(rng, 600)
    index.delete(np.arange(0, 600, 2))
    index.save(tmp_path / "all")
    index.save(tmp_path / "living", compact=True)
    assert places(vecidx.load(tmp_path / "all")) == 600
    living = vecidx.load(tmp_path / "living", verify=True)
    assert places(living) == 300 == places(index)
    np.testing.assert_array_equal(living.ids(), np.arange(1, 600, 2))
    assert living.check()["unreachable"] == 0


def test_a_mapped_index_is_saved_as_it_is(rng, tmp_path):
    index = made(rng, 50)
    index.save(tmp_path / "x")
    mapped = vecidx.load(tmp_path / "x", mmap=True)
    with pytest.raises(ValueError, match="read-only"):
        mapped.save(tmp_path / "y", compact=True)
    assert not (tmp_path / "y").exists()
    with pytest.raises(TypeError, match="compact: expected True or False"):
        index.save(tmp_path / "y", compact=1)


def test_an_index_with_a_log_is_compacted_into_its_file(rng, tmp_path):
    with vecidx.open(tmp_path / "x", DIM) as index:
        index.add(rng.standard_normal((300, DIM)))
        index.delete(np.arange(200))
        index.save(tmp_path / "x", compact=True)
    assert places(vecidx.load(tmp_path / "x")) == 100


@pytest.mark.parametrize("change", ["delete", "replace"])
def test_it_compacts_by_itself(rng, change):
    index = made(rng, 4000)
    index.auto_compact = 0.3
    assert index.auto_compact == 0.3
    ids = np.arange(1100)
    if change == "delete":
        index.delete(ids)
    else:
        index.add(rng.standard_normal((1100, DIM)), ids=ids)
    left = places(index)                # 1,100 of at least 4,000: not yet
    assert left >= 4000
    index.delete(np.arange(1100, 2400))
    wait_for(lambda: places(index) == len(index) < left)
    index.check()


def test_it_is_off_for_the_few_and_for_who_did_not_ask(rng):
    index = made(rng, 900)
    index.delete(np.arange(800))
    assert index.auto_compact is None and places(index) == 900
    index.auto_compact = 0.1
    index.delete([850])
    assert index._auto_compact._running is None
    index.auto_compact = None
    assert index.auto_compact is None


@pytest.mark.parametrize("share", [0, 1, -0.5, True, "0.5", float("nan")])
def test_no_share(share, rng):
    index = made(rng, 10)
    with pytest.raises(ValueError, match="auto_compact: expected a share"):
        index.auto_compact = share


def test_a_failure_is_logged(rng, caplog):
    index = made(rng, 3000)
    index.auto_compact = 0.5

    class Core:
        dead, count = index._core.dead, index._core.count

        def compact(self, threads):
            raise MemoryError("no room")

    with caplog.at_level(logging.WARNING, "vecidx"):
        index.delete(np.arange(1400))
        index._core.delete(np.arange(1400, 1800), 0, 1)
        index._auto_compact.look(Core(), 1)
        index._auto_compact._running.wait()
    assert "auto_compact: no room" in caplog.text
