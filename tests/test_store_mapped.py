"""Mapped indexes: the same answers, read-only, shared, closed when asked."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import vecidx
from helpers import METRICS, assert_same, run_python

MODES = [True, "vectors"]


def make(metric, n, rng, dim=20):
    """An index with rows replaced and rows equal to one another, if n is large enough."""
    index = vecidx.Index(dim, metric=metric, M=5, ef_construction=40)
    rows = rng.standard_normal((n, dim)).astype(np.float32)
    if n > 20:
        rows[7] = rows[8] = rows[3]
    index.add(rows, ids=np.arange(n) * 3 if n % 2 else None)
    if n > 20:
        index.add(rng.standard_normal((5, dim)), ids=index.ids()[:5])
    return index


def settled(stats):
    """A mapped index does not tell slots that are free from dead rows."""
    gone = stats.pop("deleted") + stats.pop("free")
    return {**stats, "gone": gone}



@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n", [0, 1, 2, 501, 3000])
@pytest.mark.parametrize("metric", METRICS)
def test_a_mapped_index_answers_alike(metric, n, mode, tmp_path, rng):
    index = make(metric, n, rng)
    path = tmp_path / "x"
    index.save(path)
    queries = rng.standard_normal((9, 20))
    for verify in (False, True):
        with vecidx.load(path, mmap=mode, verify=verify) as mapped:
            assert mapped.read_only and not mapped.closed and len(mapped) == len(index)
            for how in ({}, {"ef": 300}, {"exact": True}):
                assert_same(mapped.search(queries, k=5, **how), index.search(queries, k=5, **how))
            np.testing.assert_array_equal(mapped.ids(), index.ids())
            np.testing.assert_array_equal(mapped.get(index.ids()), index.get(index.ids()))
            assert all((i in mapped) == (i in index) for i in range(-1, 8))
            assert settled(mapped.stats()) == settled(index.stats())
            mapped.check()
            mapped.warm()
            assert mapped.to_bytes() == path.read_bytes() == index.to_bytes()


@pytest.mark.parametrize("mode", MODES)
def test_a_mapped_index_cannot_be_changed_and_says_what_to_do(mode, tmp_path, rng):
    make("l2", 50, rng).save(tmp_path / "x")
    mapped = vecidx.load(tmp_path / "x", mmap=mode)
    with pytest.raises(ValueError, match="read-only; load it without mmap"):
        mapped.add(rng.standard_normal((1, 20)))
    assert len(mapped) == 50
    mapped.check()


def test_saving_over_the_mapped_file_keeps_the_mapping(tmp_path, rng):
    path = tmp_path / "x"
    make("l2", 501, rng).save(path)
    mapped = vecidx.load(path, mmap=True)
    expected = mapped.search(np.ones(20), k=5)
    if sys.platform == "win32":
        with pytest.raises(PermissionError):
            mapped.save(path)
        return
    mapped.save(path)
    make("l2", 30, rng).save(path)
    assert_same(mapped.search(np.ones(20), k=5), expected)
    assert len(vecidx.load(path)) == 30


def test_after_close_every_call_says_so(tmp_path, rng):
    path = tmp_path / "x"
    make("l2", 100, rng).save(path)
    row = np.ones((1, 20), np.float32)
    for index in (vecidx.load(path), vecidx.load(path, mmap=True), vecidx.Index(20)):
        with index as same:
            assert same is index
        for call in (len, lambda i: i.search(row), lambda i: i.search(row[0]),
                     lambda i: i.search(row, exact=True), lambda i: i.get(1), lambda i: 1 in i,
                     lambda i: i.ids(), lambda i: i.stats(), lambda i: i.memory(),
                     lambda i: i.check(), lambda i: i.save(path), lambda i: i.to_bytes(),
                     lambda i: i.add(row), lambda i: i.warm()):
            with pytest.raises(vecidx.VecidxError, match="closed"):
                call(index)
        index.close()
        assert index.closed and repr(index) == "<vecidx.Index: closed>" and index.dim == 20
    assert len(vecidx.load(path)) == 100


def test_closing_while_others_search(tmp_path, rng):
    """A search in another thread gets its answer or the error, never a wrong answer."""
    path = tmp_path / "x"
    index = make("l2", 3000, rng)
    index.save(path)
    queries = rng.standard_normal((40, 20))
    expected = index.search(queries, k=5)
    for exact in (False, True):
        mapped = vecidx.load(path, mmap=True)
        started, wrong = threading.Event(), []

        def search(mapped=mapped, exact=exact, started=started, wrong=wrong):
            try:
                while True:
                    found = mapped.search(queries, k=5, exact=exact)
                    if not exact:
                        assert_same(found, expected)
                    started.set()
            except vecidx.VecidxError:
                pass
            except BaseException as err:
                wrong.append(err)

        threads = [threading.Thread(target=search) for _ in range(3)]
        for thread in threads:
            thread.start()
        started.wait(30)
        mapped.close()
        for thread in threads:
            thread.join()
        assert not wrong


def test_damage_in_a_mapped_body_is_found_when_asked(tmp_path, rng):
    path = tmp_path / "x"
    make("cosine", 501, rng).save(path)
    good = path.read_bytes()
    for name, section in vecidx.inspect(path)["sections"].items():
        data = bytearray(good)
        data[section["offset"] + section["bytes"] // 2] ^= 1
        path.write_bytes(data)
        for mode in (False, True, "vectors"):
            with pytest.raises(vecidx.IndexFormatError, match=f"section '{name}'.*byte"):
                vecidx.load(path, mmap=mode, verify=True)
        done = subprocess.run([sys.executable, "-m", "vecidx", "verify", path],
                              capture_output=True, text=True)
        assert done.returncode == 2 and f"section '{name}'" in done.stderr


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="needs /proc/self/smaps")
def test_two_processes_share_the_pages(tmp_path, rng):
    index = vecidx.Index(256, M=4, ef_construction=10)
    index.add(rng.standard_normal((8000, 256)))
    path = tmp_path / "shared.vidx"
    index.save(path)
    code = """
import sys, vecidx
index = vecidx.load(sys.argv[1], mmap=True)
index.warm()
print("ready", flush=True)
sys.stdin.readline()
kinds = {"Rss": 0, "Pss": 0, "Private_Dirty": 0}
inside = False
for line in open("/proc/self/smaps"):
    words = line.split()
    if words[0].endswith(":"):
        if inside and words[0][:-1] in kinds:
            kinds[words[0][:-1]] += int(words[1]) * 1024
    else:
        inside = line.rstrip().endswith("shared.vidx")
print(kinds["Rss"], kinds["Pss"], kinds["Private_Dirty"], flush=True)
sys.stdin.readline()
"""
    children = [subprocess.Popen([sys.executable, "-c", code, path], text=True,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                for _ in range(2)]
    try:
        for child in children:
            assert child.stdout.readline() == "ready\n"
        sizes = []
        for child in children:
            child.stdin.write("go\n")
            child.stdin.flush()
            sizes.append([int(word) for word in child.stdout.readline().split()])
        for child in children:
            child.communicate("\n")
    finally:
        for child in children:
            child.kill()
            child.wait()
    length = path.stat().st_size
    for rss, pss, dirty in sizes:
        assert rss >= length and dirty == 0
        assert pss <= 0.6 * rss              # each page counts half to each of the two


def test_opening_touches_no_body(tmp_path, rng):
    """What makes it quick: of 8 MB hardly a page is in memory after the open."""
    if not os.path.exists("/proc/self/smaps"):
        pytest.skip("needs /proc/self/smaps")
    index = vecidx.Index(256, M=4, ef_construction=10)
    index.add(rng.standard_normal((8000, 256)), ids=rng.permutation(8000) * 2)
    path = tmp_path / "big.vidx"
    index.save(path)
    code, out, err = run_python("""
import sys, vecidx
index = vecidx.load(sys.argv[1], mmap=True)
rss = 0
for line in open("/proc/self/smaps"):
    words = line.split()
    if not words[0].endswith(":"):
        inside = line.rstrip().endswith("big.vidx")
    elif inside and words[0] == "Rss:":
        rss += int(words[1])
print(rss)
""", path)
    assert code == 0, err
    assert int(out) <= 128                   # KiB: the kernel maps what lies around a fault


def test_other_values_of_mmap_are_refused(tmp_path, rng):
    make("l2", 5, rng).save(tmp_path / "x")
    for bad in ("r", 1, None, "Vectors"):
        with pytest.raises(ValueError, match="mmap"):
            vecidx.load(tmp_path / "x", mmap=bad)
    with pytest.raises(TypeError, match="verify"):
        vecidx.load(tmp_path / "x", verify=1)
    with pytest.raises(FileNotFoundError):
        vecidx.load(tmp_path / "none", mmap=True)


def test_a_read_only_index_may_be_used_by_many_threads_at_once(tmp_path, rng):
    """The label map of a mapped index is made at the first use, by one of them."""
    index = make("l2", 3001, rng)
    index.save(tmp_path / "x")
    ids = index.ids()
    expected = index.get(ids)
    for _ in range(5):
        mapped = vecidx.load(tmp_path / "x", mmap=True)
        failures = []

        def read(mapped=mapped, failures=failures):
            try:
                np.testing.assert_array_equal(mapped.get(ids), expected)
            except BaseException as err:
                failures.append(err)

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
