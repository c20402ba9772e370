"""An index that is walked by codes: what it finds, and what it must not depend on."""

import os
import signal
import threading
import time

import numpy as np
import pytest

import vecidx
from helpers import (
    METRICS,
    assert_same,
    assert_true_distances,
    assert_well_formed,
    exact_kth,
    recall,
    run_python,
)
from vecidx import _core

TRAIN_ROWS = 10_000
WORDS = ("sq8", "sq4", "auto")
LEVELS = _core.simd_available()


def make(rows, quantization, metric="l2", parts=(), **options):
    """An index over rows, added in the given parts and the rest."""
    options.setdefault("ef_construction", 60)
    index = vecidx.Index(rows.shape[1], metric, quantization=quantization, **options)
    at = 0
    for n in (*parts, len(rows)):
        index.add(rows[at:at + n])
        at += n
        if at >= len(rows):
            break
    return index


def clustered(rng, n, dim, spread=0.4):
    """Rows around sixty centres, the same ones in every call."""
    centres = np.random.default_rng(dim).standard_normal((60, dim))
    rows = centres[rng.integers(0, 60, n)] + spread * rng.standard_normal((n, dim))
    return rows.astype(np.float32)


def sound(index):
    assert index.check() == {"unreachable": 0}
    return index


def links_of(index, ids):
    out = np.full((len(ids), 2 * index.M), -1, np.int64)
    for row, i in zip(out, ids, strict=True):
        index._core.test_links(int(i), row)
    return out


@pytest.mark.parametrize("metric", METRICS)
def test_recall_is_that_of_vectors(metric, sample):
    """Equal ef finds as much as without codes, at distances of the stored rows."""
    rows = np.tile(sample.rows, (2, 1)) if len(sample.rows) < TRAIN_ROWS else sample.rows
    if len(rows) > len(sample.rows):      # as many again, near but not equal
        noise = np.random.default_rng(5).standard_normal(rows.shape).astype(np.float32)
        rows = rows + 0.02 * noise * (np.arange(len(rows)) >= len(sample.rows))[:, None]
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    queries = sample.queries[:300]
    kth = exact_kth(queries, rows, metric, 10)
    plain = make(rows, None, metric, ef_construction=100)
    for word in WORDS:
        index = sound(make(rows, word, metric, ef_construction=100))
        assert index.stats()["quantized"]
        for ef in (40, 120):
            got = index.search(queries, 10, ef=ef)
            assert_well_formed(*got)
            assert_true_distances(*got, queries, rows, metric)
            floor = recall(plain.search(queries, 10, ef=ef)[1], kth) - 0.005
            assert recall(got[1], kth) >= floor, (word, ef)


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("metric", METRICS)
def test_distances_are_those_of_an_exact_search(metric, word, rng):
    """To the bit: compared again by vectors, not by codes."""
    rows = clustered(rng, 11_000, 40)
    if metric == "ip":
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    queries = clustered(rng, 60, 40)
    index, plain = make(rows, word, metric), make(rows, None, metric)
    assert index.stats()["quantized"] and not plain.stats()["quantized"]
    assert_same(index.search(queries, 20, exact=True), plain.search(queries, 20, exact=True))
    all_ids, all_distances = plain.search(queries, len(rows), exact=True)
    ids, distances = index.search(queries, 20)
    for i in range(len(queries)):
        where = np.empty(len(rows), np.int64)
        where[all_ids[i]] = np.arange(len(rows))
        np.testing.assert_array_equal(distances[i], all_distances[i][where[ids[i]]])


@pytest.mark.parametrize("M", [2, 4, 16, 17, 32, 48, 127])
def test_every_number_of_links(M, rng):
    """Groups of 32 sketches: less than one, one, one and a bit, several."""
    rows, queries = clustered(rng, TRAIN_ROWS + 200, 24), clustered(rng, 100, 24)
    kth = exact_kth(queries, rows, "l2", 10)
    plain = recall(make(rows, None, M=M, ef_construction=30).search(queries)[1], kth)
    for word in WORDS:
        index = sound(make(rows, word, M=M, ef_construction=30))
        assert index.stats()["quantized"]
        # With four links a row, which clusters hang together is chance.
        assert recall(index.search(queries)[1], kth) >= plain - (0.1 if M == 2 else 0.02), word


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("parts", [(), (9_999, 1), (10_000,), (4_000, 7_000, 1, 1, 30),
                                   (9_000, 2_000, 300, 300), (20, 11_980)])
def test_training_wherever_it_falls(word, parts, rng):
    rows, queries = clustered(rng, 12_000, 32), clustered(rng, 100, 32)
    index = vecidx.Index(32, quantization=word, ef_construction=60)
    at = 0
    for n in (*parts, len(rows) - sum(parts)):
        index.add(rows[at:at + n])
        at += n
        assert index.stats()["quantized"] == (at >= TRAIN_ROWS)
        assert len(index) == at
    sound(index)
    assert recall(index.search(queries)[1], exact_kth(queries, rows, "l2", 10)) > 0.98


@pytest.mark.parametrize("word", WORDS)
def test_threads_change_nothing(word, rng):
    rows, queries = clustered(rng, 11_500, 70), clustered(rng, 64, 70)
    results = []
    for threads in (1, 2, 3, 8):
        index = make(rows, word, parts=(10_500, 40), num_threads=threads)
        index.delete(np.arange(0, 3000, 3))
        index.add(rows[:500] + 1)
        ids = np.arange(1, 11_000, 97)
        ids = ids[ids % 3 != 0]
        results.append((links_of(index, ids), index.search(queries, 15)))
    for links, found in results[1:]:
        np.testing.assert_array_equal(links, results[0][0])
        assert_same(found, results[0][1])


SEARCH_AT_LEVEL = """
import sys, numpy as np, vecidx
dim, word, path = int(sys.argv[1]), sys.argv[2], sys.argv[3]
rng = np.random.default_rng(1)
rows = rng.integers(-20, 20, (10_300, dim)).astype(np.float32)
index = vecidx.Index(dim, quantization=word, ef_construction=40)
index.add(rows)
assert index.stats()["quantized"]
links = np.full((100, 32), -1)
for i in range(100):
    index._core.test_links(i * 101, links[i])
ids, distances = index.search(rows[:200] + 3, 10, ef=40)
np.savez(path, ids=ids, distances=distances, links=links)
"""


@pytest.mark.parametrize("dim,word", [(40, "sq8"), (200, "sq4"), (40, "auto"), (300, "auto")])
def test_levels_find_the_same(dim, word, tmp_path):
    """Codes are whole numbers: every level builds one graph and walks it one way."""
    found = []
    for level in LEVELS:
        path = tmp_path / f"{level}.npz"
        code, _, err = run_python(SEARCH_AT_LEVEL, dim, word, path, env={"VECIDX_SIMD": level})
        assert code == 0, err
        with np.load(path) as data:
            found.append({name: data[name] for name in data})
    for other in found[1:]:
        for name, values in other.items():
            np.testing.assert_array_equal(values, found[0][name], name)


@pytest.mark.parametrize("word", WORDS)
def test_one_query_or_many(word, rng):
    """Two queries take turns in a walk; neither notices."""
    rows, queries = clustered(rng, 10_500, 48), clustered(rng, 33, 48)
    queries[5] *= 50                                # this one is walked by the vectors
    index = make(rows, word, num_threads=1)
    whole = index.search(queries, 12, ef=70)
    for size in (1, 2, 3, 8):
        for at in range(0, len(queries), size):
            part = index.search(queries[at:at + size], 12, ef=70)
            assert_same(part, (whole[0][at:at + size], whole[1][at:at + size]))
    assert_same(index.search(queries, 12, ef=70, num_threads=3), whole)


@pytest.mark.parametrize("word", WORDS)
def test_a_life(word, rng):
    """Twins, deletes, replaced rows, slots used again, compaction."""
    rows = clustered(rng, 11_000, 36)
    rows[2000:2050] = rows[7]
    rows[10_100:10_150] = rows[10_099]
    index = sound(make(rows, word, parts=(9_500,)))
    truth = dict(enumerate(rows))

    def verify():
        sound(index)
        ids = np.array(sorted(truth))
        kept = np.stack([truth[i] for i in ids])
        queries = kept[rng.integers(0, len(kept), 80)] + np.float32(0.01)
        found, distances = index.search(queries, 10)
        assert_well_formed(found, distances)
        assert_true_distances(found, distances, queries, truth, "l2")
        assert recall(distances, exact_kth(queries, kept, "l2", 10)) > 0.97
        np.testing.assert_array_equal(np.sort(index.ids()), ids)

    verify()
    assert set(index.search(rows[7], 51)[0]) == {7, *range(2000, 2050)}
    gone = np.arange(0, 11_000, 4)
    index.delete(gone)
    for i in gone:
        del truth[i]
    verify()
    new = clustered(rng, 1500, 36)                   # these take the free slots
    for i, row in zip(index.add(new), new, strict=True):
        truth[i] = row
    assert index.stats()["free"] > 0
    verify()
    ids = np.array(sorted(truth))[::3]
    replaced = clustered(rng, len(ids), 36)
    index.add(replaced, ids)
    truth.update(zip(ids, replaced, strict=True))
    verify()
    index.compact()
    verify()
    for i in np.array(sorted(truth))[:60]:
        index.delete(i)
        del truth[i]
    verify()
    index.delete(np.array(sorted(truth))[:-50])
    truth = {i: truth[i] for i in sorted(truth)[-50:]}
    index.compact()
    sound(index)
    assert len(index) == 50 and len(index.search(rows[0], 60)[0]) == 60
    more = clustered(rng, 400, 36)
    for i, row in zip(index.add(more), more, strict=True):
        truth[i] = row
    verify()


@pytest.mark.parametrize("word", WORDS)
def test_rows_that_are_replaced_by_their_equals_while_codes_are_trained(word, rng):
    """The marks of rows about to be replaced were lost in the view that training made, so
    a new row became the twin of one that died in the same call."""
    rows = clustered(rng, 12_000, 32)
    index = make(rows[:9_000], word)
    index.add(np.concatenate([rows[4_500:9_000], rows[:4_500], rows[9_000:]]))
    ids = np.concatenate([np.arange(4_500, 9_000), np.arange(4_500), np.arange(9_000, 12_000)])
    again = vecidx.Index(32, quantization=word, ef_construction=60)
    again.add(rows[:9_000])
    again.add(rows, ids)                             # every old row is replaced
    again.check(repair=True)                         # twins of the last dead become nodes
    for one in (sound(index), sound(again)):
        assert one.stats()["quantized"]
        assert one.stats()["duplicates"] == 0 or one is index
    found, distances = again.search(rows[::50], 1, exact=True)
    assert (distances == 0).all()
    np.testing.assert_array_equal(found[:, 0], ids[::50])


@pytest.mark.parametrize("word", WORDS)
def test_k_and_ef_of_any_size(word, rng):
    rows, query = clustered(rng, 10_200, 20), clustered(rng, 2, 20)
    index, plain = make(rows, word), make(rows, None)
    for k, ef in ((1, None), (1, 1), (500, None), (4_000, 4_500), (5_099, None), (5_100, None),
                  (10_200, None), (10_300, None), (10, 5_050), (10, 1_000_000), (10, 2**31 - 2)):
        ids, distances = index.search(query, k, ef=ef)
        assert_well_formed(ids, distances)
        n = min(k, len(rows))
        assert (ids[:, :n] >= 0).all() and (ids[:, n:] == -1).all()
        kth = exact_kth(query, rows, "l2", n)
        floor = recall(plain.search(query, k, ef=ef)[1][:, :n], kth)
        assert recall(distances[:, :n], kth) >= floor - (0.005 if k > 1 else 0.5)


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("metric", METRICS)
def test_queries_far_outside_the_rows(metric, word, rng):
    """Their codes were clipped to a corner, and the walk went there: recall 0.03."""
    rows = clustered(rng, 11_000, 32)
    if metric == "ip":
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    index, plain = make(rows, word, metric), make(rows, None, metric)
    assert index.stats()["quantized"]
    for scale, shift in ((1e-6, 0), (30, 0), (1, 40), (1e10, 0), (1e-3, 1e4)):
        queries = (clustered(rng, 80, 32) * scale).astype(np.float32)
        queries[:, 3] += shift
        # What is within float32 of the k-th counts as found, for either.
        kth = exact_kth(queries, rows, metric, 10)
        got = recall(index.search(queries, 10, ef=100)[1], kth)
        assert got >= recall(plain.search(queries, 10, ef=100)[1], kth) - 0.03, (scale, shift)


HOPELESS = {
    "few dimensions": lambda rng: rng.standard_normal((11_000, 3)),
    "tight clusters": lambda rng: clustered(rng, 11_000, 40, spread=0.004),
    "tight clusters of many dimensions": lambda rng: clustered(rng, 10_500, 330, spread=0.02),
    "one value": lambda rng: np.where(np.arange(11_000 * 30).reshape(11_000, 30) == 7, 2, 1),
    "sizes apart": lambda rng: rng.standard_normal((11_000, 32)) * 10.0 ** -np.arange(32),
}


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("case", HOPELESS)
def test_rows_that_codes_cannot_tell_apart(case, word, rng):
    """Finds what it would without codes, whether it then uses any or not."""
    rows = HOPELESS[case](rng).astype(np.float32)
    queries = rows[::100] * np.float32(1.0001)
    kth = exact_kth(queries, rows, "l2", 10)
    plain = recall(make(rows, None).search(queries)[1], kth)
    assert recall(sound(make(rows, word)).search(queries)[1], kth) >= plain - 0.005


def patches(rng, n, dim=400):
    """Whole numbers that differ in brightness most, and from their nearest in little else."""
    ways = np.random.default_rng(dim).standard_normal((12, dim))
    bright = rng.uniform(30, 220, (n, 1))
    return np.rint(bright + rng.standard_normal((n, 12)) @ ways).clip(0, 255).astype(np.float32)


def test_bytes_where_rank_codes_are_too_coarse(rng, tmp_path):
    rows, queries = patches(rng, 14_000) + 0.5, patches(rng, 150)      # not held as bytes
    kth = exact_kth(queries, rows, "l2", 10)
    plain, index = make(rows, None), make(rows, "auto", parts=(12_000,))
    parts = sound(index).memory()
    assert parts["ranks"] == 0 and parts["codes"] > 0 and parts["sketches"] > 0
    for ef in (10, 30, 100):
        want = recall(plain.search(queries, ef=ef)[1], kth)
        assert recall(index.search(queries, ef=ef)[1], kth) >= want - 0.005
    index.save(tmp_path / "a.vidx")
    assert_same(vecidx.load(tmp_path / "a.vidx").search(queries), index.search(queries))
    rows -= rows.mean(axis=1, keepdims=True)
    assert make(rows, "auto").memory()["ranks"] > 0


@pytest.mark.parametrize("word", WORDS)
def test_inner_products_of_rows_of_all_lengths(word, rng):
    rows = clustered(rng, 11_000, 40) * rng.uniform(0.2, 2, (11_000, 1)).astype(np.float32)
    queries = clustered(rng, 100, 40)
    kth = exact_kth(queries, rows, "ip", 10)
    plain = recall(make(rows, None, "ip").search(queries)[1], kth)
    assert recall(sound(make(rows, word, "ip")).search(queries)[1], kth) >= plain - 0.005


def test_small_whole_numbers_are_their_codes(rng):
    rows = rng.integers(0, 256, (10_500, 40)).astype(np.float32)
    queries = rng.integers(0, 256, (100, 40)).astype(np.float32)
    kth = exact_kth(queries, rows, "l2", 10)
    plain, index = make(rows, None), make(rows, "sq8")
    assert recall(index.search(queries)[1], kth) >= recall(plain.search(queries)[1], kth) - 0.005


@pytest.mark.parametrize("word", WORDS)
def test_what_it_says_of_itself(word, rng):
    index = vecidx.Index(64, quantization=word)
    assert index.quantization == word and repr(word) in repr(index)
    assert vecidx.Index(4).quantization == "auto"
    assert vecidx.Index(4, "hamming").quantization is None
    index.add(clustered(rng, 200, 64))
    assert index.stats()["quantized"] is False
    assert [index.memory()[part] for part in ("codes", "ranks", "sketches")] == [0, 0, 0]
    index.add(clustered(rng, TRAIN_ROWS, 64))
    memory = index.memory()
    assert memory["codes"] >= 64 * len(index)
    assert memory["links"] == 128 * len(index)
    assert (memory["sketches"] > 0) == (word == "auto") and memory["ranks"] == 0
    parts = ("vectors", "links", "upper_links", "codes", "ranks", "sketches", "labels",
             "label_map", "scratch", "other")
    assert memory["total"] == sum(memory[part] for part in parts)
    assert set(memory) == {*parts, "total", "reserved", "mapped"}


class Stop:
    """Interrupts at the given tick."""

    def __init__(self, at):
        self.left = at

    def __call__(self, done, total):
        self.left -= 1
        if self.left <= 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("word", ["sq8", "auto"])
def test_ctrl_c_while_codes_are_trained(word, rng):
    """The first big add, stopped at every stage: what is in stays, the index is sound."""
    rows = rng.standard_normal((10_100, 400), dtype=np.float32)
    for stop_at in (1, 2, 4, 7, 12, 20):
        index = vecidx.Index(400, quantization=word, ef_construction=20)
        index.add(rows[:300])
        try:
            index.add(rows[300:], progress=Stop(stop_at))
        except KeyboardInterrupt as exc:
            assert len(index) == 300 + exc.rows_added
        sound(index)
        index.add(rows[len(index):])
        assert sound(index).stats()["quantized"] and len(index) == len(rows)
        found, _ = index.search(rows[::100], 1, ef=200)
        assert (found[:, 0] == np.arange(0, len(rows), 100)).mean() > 0.9


def test_a_signal_while_codes_are_trained(rng):
    """A real one, from outside; answered long before the add would be done."""
    rows = rng.standard_normal((12_000, 1500), dtype=np.float32)
    index = vecidx.Index(1500, quantization="auto")
    timer = threading.Timer(0.15, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            index.add(rows)
            time.sleep(30)
    finally:
        timer.cancel()
    assert len(sound(index)) < len(rows)


LIMITED = """
import resource, sys, numpy as np, vecidx
word = sys.argv[1]
rng = np.random.default_rng(3)
rows = rng.standard_normal((12_000, 200), dtype=np.float32)
failed = 0
for extra in range(4, 100, 8):
    index = vecidx.Index(200, quantization=word, ef_construction=10, num_threads=2)
    index.add(rows[:2000])
    used = int(open("/proc/self/statm").read().split()[0]) * 4096
    limit = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (extra << 20), limit[1]))
    try:
        index.add(rows[2000:])
    except MemoryError as exc:
        failed += 1
        assert len(index) == 2000 + exc.rows_added
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)
    assert index.check() == {"unreachable": 0}
    found, _ = index.search(rows[:2000:10], 1, ef=500)
    assert (found[:, 0] == np.arange(0, 2000, 10)).mean() > 0.9
    index.add(rows[len(index):])
    assert len(index) == 12_000 and index.check() == {"unreachable": 0}
    assert index.stats()["quantized"]
    del index
print(failed)
"""


@pytest.mark.skipif(os.name != "posix" or not os.path.exists("/proc/self/statm"),
                    reason="limits address space")
@pytest.mark.parametrize("word", WORDS)
def test_memory_runs_out_while_codes_are_trained(word):
    code, out, err = run_python(LIMITED, word, timeout=300)
    assert code == 0, err
    assert int(out) >= 1


@pytest.mark.skipif(vecidx.simd_level() != LEVELS[-1],
                    reason="large sets are for the best level of this CPU")
def test_large_sets(large_sets):
    import h5py

    for path in large_sets:
        with h5py.File(path) as file:
            rows, queries = file["train"][:60_000], file["test"][:500]
        metric = "cosine" if "angular" in path.name else "l2"
        kth = exact_kth(queries, rows, metric, 10)
        plain = make(rows, None, metric, ef_construction=100)
        for word in WORDS:
            index = sound(make(rows, word, metric, ef_construction=100))
            for ef in (20, 64, 200):
                floor = recall(plain.search(queries, ef=ef)[1], kth) - 0.005
                assert recall(index.search(queries, ef=ef)[1], kth) >= floor, (path, word, ef)


def even_rows(dtype, dim, metric):
    """Rows of ten dimensions of their own, as the dtype holds them."""
    rng = np.random.default_rng(dim)
    spread = np.random.default_rng(1).standard_normal((10, dim)) * 10
    rows = rng.standard_normal((10_100, 10)) @ spread + 3 * rng.standard_normal((10_100, dim))
    if metric == "ip":                              # of one length, or there are no codes
        rows *= 25 * dim**0.5 / np.linalg.norm(rows, axis=1, keepdims=True)
    if dtype == "uint8":
        rows = np.clip(np.rint(rows + 128 if metric != "ip" else np.abs(rows)), 0, 255)
    if dtype == "int8":
        rows = np.clip(np.rint(rows), -128, 127)
    return rows.astype(np.float32)


@pytest.mark.parametrize(("dtype", "dim", "used"), [
    ("float32", 16, False), ("float32", 17, True), ("float16", 32, False), ("float16", 33, True),
    ("bfloat16", 32, False), ("bfloat16", 33, True), ("int8", 64, False), ("int8", 65, True),
    ("uint8", 64, False), ("uint8", 65, True)])
def test_half_bytes_where_they_are_shorter(dtype, dim, used):
    """A code that takes as many lines of 64 bytes as a row is not used."""
    index = make(even_rows(dtype, dim, "l2"), "sq4", dtype=dtype, M=4, ef_construction=8)
    assert index.stats()["quantized"] == used
    assert (index.memory()["codes"] > 0) == used


@pytest.mark.parametrize(("dtype", "dim", "metric"), [
    ("float32", 17, "l2"), ("float32", 40, "ip"), ("float32", 64, "cosine"),
    ("float16", 40, "cosine"), ("float16", 64, "ip"), ("bfloat16", 48, "ip"),
    ("int8", 70, "cosine"), ("int8", 100, "ip"), ("uint8", 130, "l2"), ("uint8", 90, "cosine")])
def test_half_bytes_of_every_dtype(dtype, dim, metric):
    """They find what vectors find at equal ef."""
    rows = even_rows(dtype, dim, metric)
    rows, queries = rows[:-100], rows[-100:]
    found = {}
    for word in (None, "sq4"):
        index = make(rows, word, metric, dtype=dtype, M=8, ef_construction=40)
        kth = index.search(queries, 10, exact=True)[1][:, 9]
        distances = index.search(queries, 10, ef=60)[1]
        found[word] = (distances <= kth[:, None] + 1e-5 * np.abs(kth[:, None]) + 1e-6).mean()
    assert sound(index).stats()["quantized"]
    assert found["sq4"] >= found[None] - 0.01, found
