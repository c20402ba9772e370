"""What vecidx.ray decides and stores, without a cluster: runs where Ray is not installed."""

import json
import pickle

import numpy as np
import pytest

import vecidx
import vecidx.ray
from helpers import run_python
from vecidx.ray import _build, _source
from vecidx.ray._manifest import Manifest, Shard, shard_of
from vecidx.ray._scatter import Found, FoundInRange, Health, Scatter, merge, merge_ranges
from vecidx.ray._store import Store, sha256_of


def test_importing_it_does_not_import_ray():
    code, out, err = run_python("import sys, vecidx.ray; print('ray' in sys.modules)")
    assert (code, out) == (0, "False\n"), err


def test_without_ray_the_error_names_the_command():
    code, _, err = run_python("import sys; sys.modules['ray'] = None\n"
                              "import vecidx.ray; vecidx.ray.connect('x')")
    assert code == 1 and 'pip install "vecidx[ray]"' in err


# ---- ids to shards ------------------------------------------------------------------


def test_the_shard_of_an_id_never_changes():
    """Manifests on disk rely on it: these numbers are for ever."""
    ids = [0, 1, 2, 10, 12345, 2**31, 2**53 + 1, 2**63 - 1]
    assert shard_of(ids, 8).tolist() == [7, 1, 6, 2, 0, 4, 7, 7]


def test_ids_spread_evenly():
    for ids in (np.arange(100_000), np.arange(0, 10**8, 1000), 2**40 + np.arange(100_000)):
        counts = np.bincount(shard_of(ids, 7), minlength=7)
        assert counts.min() > 0.97 * 100_000 / 7 and counts.max() < 1.03 * 100_000 / 7


# ---- the manifest ----------------------------------------------------------------------


@pytest.fixture
def manifest(tmp_path):
    shards = (Shard("shard-00000.vidx", 3, 10, "ab"), Shard("shard-00001.vidx", 4, 11, "cd"))
    made = Manifest(str(tmp_path), "f" * 64, 16, "l2", {"M": 8}, shards)
    made.write()
    return made


def test_a_manifest_is_read_as_it_was_written(manifest, tmp_path):
    assert vecidx.ray.read_manifest(tmp_path) == manifest
    assert vecidx.ray.read_manifest(f"{tmp_path}/").rows == 7


@pytest.mark.parametrize(("change", "message"), [
    (lambda body: body.update(dim=17), "checksum"),
    (lambda body: body["shards"].pop(), "checksum"),
    (lambda body: body.update(version=2), "version 2"),
    (lambda body: body.update(format="x"), "not a manifest"),
    (lambda body: body.pop("sha256"), "not a readable manifest"),
])
def test_a_changed_manifest_is_refused(manifest, tmp_path, change, message):
    path = tmp_path / "manifest.json"
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))
    with pytest.raises(vecidx.IndexFormatError, match=message):
        vecidx.ray.read_manifest(tmp_path)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe"])
def test_what_is_no_manifest_is_refused(tmp_path, data):
    (tmp_path / "manifest.json").write_bytes(data)
    with pytest.raises(vecidx.IndexFormatError, match="manifest"):
        vecidx.ray.read_manifest(tmp_path)


def test_no_manifest_says_what_makes_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="build"):
        vecidx.ray.read_manifest(tmp_path)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_store_shows_whole_files_only(tmp_path, scheme):
    if scheme:
        pytest.importorskip("fsspec")
    store = Store(f"{scheme}{tmp_path}/deep/er")
    assert not store.exists("a")
    with pytest.raises(FileNotFoundError):
        store.read("a")
    store.write("folder/a", b"12345")
    assert store.read("folder/a") == b"12345"
    with store.open("folder/a") as file:
        assert sha256_of(file)[1] == 5
    store.remove_folder("folder")
    store.remove_folder("folder")
    assert not store.exists("folder/a")


# ---- scatter ----------------------------------------------------------------------------


def scatter(replicas, hedge=0.25, health=None):
    return Scatter(replicas, health or Health(), hedge, 0.0)


def test_every_shard_is_asked_once():
    s = scatter([["a0", "a1"], ["b0", "b1"]])
    sent = s.begin(0.0)
    assert [shard for shard, _ in sent] == [0, 1]
    assert s.wake_at() == 0.25
    for shard, key in sent:
        s.answered(shard, key, shard * 10, 0.1)
    assert not s.open and s.answers == {0: 0, 1: 10} and s.missing() == {}
    assert s.wake_at() is None


def test_a_failed_replica_is_replaced_at_once_and_left_alone_for_a_while():
    health = Health()
    s = scatter([["a0", "a1"]], health=health)
    (_, first), = s.begin(0.0)
    (_, second), = s.failed(0, first, "died", 0.01)
    assert {first, second} == {"a0", "a1"}
    s.answered(0, second, "x", 0.02)
    assert s.answers == {0: "x"} and s.missing() == {}
    for _ in range(4):
        assert health.order(["a0", "a1"], 0.5)[0] == second
    assert {health.order(["a0", "a1"], 1.5)[0] for _ in range(4)} == {first, second}


def test_a_rest_doubles_up_to_half_a_minute_and_ends_with_an_answer():
    health, now, rests = Health(), 0.0, []
    for _ in range(7):
        health.ill("a", now)
        health.ill("a", now)                 # of a search that began before: counts once
        until = health._rest["a"][0]
        rests.append(until - now)
        now = until + 0.1
    assert rests == pytest.approx([1, 2, 4, 8, 16, 30, 30])
    health.well("a")
    health.ill("a", now)
    assert health._rest["a"][0] == pytest.approx(now + 1)


def test_a_late_replica_gets_company_and_the_first_answer_counts():
    health = Health()
    s = scatter([["a0", "a1"]], health=health)
    (_, first), = s.begin(0.0)
    assert s.overdue(0.2) == []
    (_, second), = s.overdue(0.25)
    assert s.overdue(9.0) == []              # there is no third
    s.answered(0, second, "x", 0.3)
    assert s.answers == {0: "x"}
    assert health.order([first, second], 0.4)[0] == second
    s.answered(0, first, "late", 5.0)        # it was only slow
    assert s.answers == {0: "x"}
    assert not health._rest and not health._busy


def test_a_shard_without_replicas_left_is_missing_with_every_reason():
    s = scatter([["a0", "a1"], ["b0"], []])
    for shard, key in s.begin(0.0):
        while more := s.failed(shard, key, f"because {key}", 0.1):
            (shard, key), = more
    assert not s.open or s.open == {2}
    s.give_up("no time")
    missing = s.missing()
    assert set(missing) == {0, 1, 2}
    assert "because a0" in missing[0] and "because a1" in missing[0]


def test_when_time_is_over_those_asked_are_named_and_no_longer_busy():
    health = Health()
    s = scatter([["a0"], ["b0"]], health=health)
    s.begin(0.0)
    s.answered(0, "a0", 1, 0.1)
    s.give_up("no answer within 1 s")
    assert s.missing() == {1: "b0: no answer within 1 s"}
    assert not health._busy


def test_searches_go_to_the_least_busy():
    health = Health()
    health.sent("a0")
    for _ in range(4):
        assert health.order(["a0", "a1"], 0.0) == ["a1", "a0"]


# ---- merging ---------------------------------------------------------------------------------


def test_merging_is_by_distance_then_id_with_padding_last():
    inf = np.inf
    one = np.array([[5, 9, -1]]), np.array([[1, 2, inf]], np.float32)
    two = np.array([[3, 4, 8]]), np.array([[1, 2, 2]], np.float32)
    ids, distances = merge([one, two], 6, None)
    assert ids.tolist() == [[3, 5, 4, 8, 9, -1]]
    assert distances.tolist() == [[1, 1, 2, 2, 2, inf]]
    ids, _ = merge([(one[0][0], one[1][0]), (two[0][0], two[1][0])], 2, None)
    assert ids.tolist() == [3, 5]
    assert merge([], 3, "nothing") == "nothing"


def whole_and_shards(rng, ask):
    """What one index answers, and what each of three shards of its rows does."""
    rows = rng.integers(0, 4, (500, 5)).astype(np.float32)          # many ties
    queries = rng.integers(0, 4, (20, 5)).astype(np.float32)
    whole = vecidx.Index(5)
    whole.add(rows)
    parts = []
    for shard in range(3):
        index = vecidx.Index(5)
        mine = np.flatnonzero(shard_of(np.arange(500), 3) == shard)
        index.add(rows[mine], ids=mine)
        parts.append(ask(index, queries))
    return ask(whole, queries), parts


def test_shards_merged_are_one_index(rng):
    want, parts = whole_and_shards(rng, lambda index, queries: index.search(queries, k=12,
                                                                            exact=True))
    for got, expected in zip(merge(parts, 12, None), want):
        np.testing.assert_array_equal(got, expected)


def test_ranges_of_shards_merged_are_those_of_one_index(rng):
    want, parts = whole_and_shards(rng, lambda index, queries: index.range_search(queries, 4,
                                                                                  exact=True))
    assert len(want[1]) > 100
    for got, expected in zip(merge_ranges(parts, None), want):
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == expected.dtype
    assert merge_ranges([], "nothing") == "nothing"


def test_results_and_errors_travel():
    ranged = pickle.loads(pickle.dumps(FoundInRange([0, 1], [1], [2.0], [3])))
    assert ranged.lims == [0, 1] and ranged.ids == [1] and ranged.missing_shards == (3,)
    found = pickle.loads(pickle.dumps(Found([1], [2.0], [3])))
    assert tuple(found) == ([1], [2.0]) and found.missing_shards == (3,)
    err = pickle.loads(pickle.dumps(vecidx.ray.ShardUnavailable("no", {4: "gone", 1: "x"})))
    assert str(err) == "no" and err.missing_shards == (1, 4) and err.reasons[4] == "gone"


# ---- sources and the spool -----------------------------------------------------------------------


@pytest.fixture
def npy(tmp_path, monkeypatch, rng):
    pytest.importorskip("fsspec")
    rows = rng.standard_normal((1000, 6)).astype(np.float16)
    np.save(tmp_path / "rows.npy", rows)
    monkeypatch.setattr(_source, "PIECE_BYTES", 1200 * 2)
    return tmp_path / "rows.npy", rows


def test_a_npy_in_pieces(npy):
    path, rows = npy
    source = _source.open_source(path, None, None)
    assert source.dim == 6 and len(source.pieces) == 5
    ids, got = zip(*(pickle.loads(pickle.dumps(piece)).read() for piece in source.pieces))
    assert (np.concatenate(ids) == np.arange(1000)).all()
    np.testing.assert_array_equal(np.concatenate(got), rows)


def test_a_piece_in_the_spool_is_found_whole_by_each_shard(npy, tmp_path):
    path, rows = npy
    source = _source.open_source(path, None, None)
    job = _build._Job(str(tmp_path / "out"), "spool", 3, {"metric": "l2", "dim": 6}, (), 1)
    names = [_build._spool(job, i, piece, range(3))[0] for i, piece in enumerate(source.pieces)]
    store, seen = Store(job.url), []
    for shard in range(3):
        for name in names:
            ids, got = _build._read_spool(store, name, shard)
            assert (shard_of(ids, 3) == shard).all()
            np.testing.assert_array_equal(got, rows[ids])
            seen += ids.tolist()
    assert sorted(seen) == list(range(1000))
    stamp = (tmp_path / "out" / names[0]).stat().st_mtime_ns
    _build._spool(job, 0, source.pieces[0], [1])                    # there already
    assert (tmp_path / "out" / names[0]).stat().st_mtime_ns == stamp
    (tmp_path / "out" / names[0]).write_bytes(b"cut")
    assert _build._spool_head(store, names[0]) is None
    _build._spool(job, 0, source.pieces[0], [1])
    assert len(_build._read_spool(store, names[0], 1)[0]) > 0
    assert len(_build._read_spool(store, names[0], 0)[0]) == 0      # not wanted then


def test_a_source_that_changes_has_another_fingerprint(npy):
    path, rows = npy
    before = _source.open_source(path, None, None).fingerprint
    assert _source.open_source(path, None, None).fingerprint == before
    np.save(path, rows[:-1])
    assert _source.open_source(path, None, None).fingerprint != before


@pytest.mark.parametrize(("make", "message"), [
    (lambda f: np.save(f / "a.npy", np.zeros(3)), "expected \\(rows, values\\)"),
    (lambda f: np.save(f / "a.npy", np.zeros((3, 2), complex)), "real numbers"),
    (lambda f: np.save(f / "a.npy", np.asfortranarray(np.zeros((3, 2)))), "Fortran"),
    (lambda f: (f / "a.npy").write_bytes(b"nonsense"), "not a readable .npy"),
])
def test_a_npy_that_is_none(tmp_path, make, message):
    pytest.importorskip("fsspec")
    make(tmp_path)
    with pytest.raises(ValueError, match=message):
        _source.open_source(tmp_path / "a.npy", None, None)


def test_sources_that_are_not_there_or_not_ours(tmp_path):
    pytest.importorskip("fsspec")
    with pytest.raises(FileNotFoundError):
        _source.open_source(tmp_path / "none.npy", None, None)
    with pytest.raises(FileNotFoundError):
        _source.open_source(f"{tmp_path}/*.parquet", None, None)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match="expected .parquet or .npy"):
        _source.open_source(tmp_path / "a.txt", None, None)
    with pytest.raises(TypeError, match="source: expected a path"):
        _source.open_source(np.zeros((3, 3)), None, None)
    np.save(tmp_path / "a.npy", np.zeros((3, 3), np.float32))
    with pytest.raises(ValueError, match="column, id_column"):
        _source.open_source(tmp_path / "a.npy", "emb", None)
