"""build() and rebalance(): from every source, idempotent, nothing half done."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import vecidx
import vecidx.ray
from cluster_helpers import DIM, ray
from helpers import assert_same

pytestmark = pytest.mark.usefixtures("nodes")


def all_ids(manifest):
    return np.sort(np.concatenate([vecidx.load(f"{manifest.url}/{shard.file}").ids()
                                   for shard in manifest.shards]))


def rows_of(manifest, ids):
    """What the shards store under the ids."""
    found = {}
    for number, shard in enumerate(manifest.shards):
        index = vecidx.load(f"{manifest.url}/{shard.file}")
        mine = [i for i in ids if i in index]
        assert (vecidx.ray._manifest.shard_of(mine, len(manifest.shards)) == number).all()
        found.update(zip(mine, index.get(mine)))
    return np.stack([found[i] for i in ids])


def stamps(folder):
    return {path.name: path.stat().st_mtime_ns for path in Path(folder).glob("shard-*.vidx")}


def test_every_row_of_a_npy_is_in_its_shard(built, rows):
    assert (all_ids(built) == np.arange(len(rows))).all()
    np.testing.assert_array_equal(rows_of(built, range(0, 3000, 100)), rows[::100])
    assert built == vecidx.ray.read_manifest(built.url)
    assert not list(Path(built.url).glob(".spool*"))


def parquet(folder, rows, ids, files=3):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    folder.mkdir()
    for number, part in enumerate(np.array_split(np.arange(len(rows)), files)):
        table = pa.table({"key": ids[part], "emb": list(rows[part]), "text": ["x"] * len(part)})
        pq.write_table(table, folder / f"part-{number}.parquet", row_group_size=200)


@pytest.mark.parametrize("how", [
    pytest.param("folder", marks=pytest.mark.long),
    pytest.param("pattern", marks=pytest.mark.long), "url"])
def test_parquet_with_ids_of_its_own(tmp_path, rows, how):
    ids = np.arange(len(rows)) * 7 + 3
    parquet(tmp_path / "rows", rows, ids)
    source = {"folder": tmp_path / "rows", "pattern": f"{tmp_path}/rows/*.parquet",
              "url": f"file://{tmp_path}/rows"}[how]
    out = f"file://{tmp_path}/out" if how == "url" else tmp_path / "out"
    manifest = vecidx.ray.build(source, out, 3, id_column="key", metric="cosine", M=8)
    local = vecidx.ray.read_manifest(tmp_path / "out")
    assert (all_ids(local) == ids).all()
    assert manifest.shards == local.shards
    assert vecidx.inspect(f"{local.url}/shard-00000.vidx")["M"] == 8


@pytest.mark.long
def test_parquet_without_ids_counts_rows_over_all_files(tmp_path, rows):
    parquet(tmp_path / "rows", rows, np.zeros(len(rows), int))
    manifest = vecidx.ray.build(tmp_path / "rows", tmp_path / "out", 2, column="emb")
    assert (all_ids(manifest) == np.arange(len(rows))).all()
    np.testing.assert_array_equal(rows_of(manifest, [0, 1500, 2999]), rows[[0, 1500, 2999]])


def test_a_dataset_is_built_once_whatever_its_blocks(tmp_path, rows):
    pytest.importorskip("pandas")
    data = ray.data.from_items([{"id": i, "emb": row} for i, row in enumerate(rows[:500])],
                               override_num_blocks=3)
    manifest = vecidx.ray.build(data, tmp_path / "out", 2, column="emb", id_column="id")
    assert (all_ids(manifest) == np.arange(500)).all()
    np.testing.assert_array_equal(rows_of(manifest, [0, 77, 499]), rows[[0, 77, 499]])
    before = stamps(tmp_path / "out")
    assert vecidx.ray.build(data, tmp_path / "out", 2, column="emb", id_column="id") == manifest
    assert stamps(tmp_path / "out") == before


def test_only_missing_and_damaged_shards_are_built_again(tmp_path, rows):
    np.save(tmp_path / "rows.npy", rows[:1000])
    seen = []
    manifest = vecidx.ray.build(tmp_path / "rows.npy", tmp_path / "out", 4,
                                progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5, 5) and sorted(seen) == seen
    whole = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("shard-*.vidx")}
    before = stamps(tmp_path / "out")
    (tmp_path / "out" / "shard-00001.vidx").unlink()
    damaged = tmp_path / "out" / "shard-00002.vidx"
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    assert vecidx.ray.build(tmp_path / "rows.npy", tmp_path / "out", 4) == manifest
    after = stamps(tmp_path / "out")
    assert {name for name in after if after[name] != before[name]} == \
        {"shard-00001.vidx", "shard-00002.vidx"}
    assert {path.name: path.read_bytes()
            for path in (tmp_path / "out").glob("shard-*.vidx")} == whole


@pytest.mark.long
def test_a_damaged_manifest_is_refused_and_mended(tmp_path, rows):
    np.save(tmp_path / "rows.npy", rows[:200])
    manifest = vecidx.ray.build(tmp_path / "rows.npy", tmp_path / "out", 2)
    path = tmp_path / "out" / "manifest.json"
    body = json.loads(path.read_text())
    body["shards"][0]["rows"] += 1
    path.write_text(json.dumps(body))
    with pytest.raises(vecidx.IndexFormatError, match="checksum"):
        vecidx.ray.serve(tmp_path / "out")
    assert vecidx.ray.build(tmp_path / "rows.npy", tmp_path / "out", 2) == manifest
    assert vecidx.ray.read_manifest(tmp_path / "out") == manifest


@pytest.mark.parametrize(("change", "message"), [
    (lambda rows: rows.__setitem__((123, 4), np.nan), "row 123 holds NaN"),
    (lambda rows: rows.__setitem__(77, 0), "row 77 is zero"),
])
def test_a_bad_row_is_named_and_no_manifest_is_left(tmp_path, rows, change, message):
    bad = rows[:200].copy()
    change(bad)
    np.save(tmp_path / "rows.npy", bad)
    with pytest.raises(ValueError, match=message):
        vecidx.ray.build(tmp_path / "rows.npy", tmp_path / "out", 2, metric="cosine")
    with pytest.raises(FileNotFoundError, match="no manifest"):
        vecidx.ray.serve(tmp_path / "out")


@pytest.mark.long
def test_an_id_that_comes_twice_is_an_error(tmp_path, rows):
    ids = np.arange(300)
    ids[250] = 3
    parquet(tmp_path / "rows", rows[:300], ids)
    with pytest.raises(ValueError, match=r"shard \d: .*\b3\b"):
        vecidx.ray.build(tmp_path / "rows", tmp_path / "out", 2, id_column="key")


def test_another_build_is_not_overwritten(built, tmp_path, rows):
    np.save(tmp_path / "other.npy", rows[:100])
    with pytest.raises(ValueError, match="out: .*another"):
        vecidx.ray.build(tmp_path / "other.npy", built.url, 2)
    with pytest.raises(ValueError, match="M: expected"):
        vecidx.ray.build(tmp_path / "other.npy", tmp_path / "out", 2, M=1)
    with pytest.raises(ValueError, match="shards: expected"):
        vecidx.ray.build(tmp_path / "other.npy", tmp_path / "out", 0)


def test_a_killed_build_goes_on_where_it_was(nodes, tmp_path, rows):
    """The driver is killed once a shard is there; the next build keeps that shard."""
    np.save(tmp_path / "rows.npy", np.tile(rows, (20, 1)) + np.arange(60_000)[:, None] * 1e-3)
    code = ("import ray, sys, vecidx.ray; ray.init(address=sys.argv[1], log_to_driver=False);"
            "vecidx.ray.build(sys.argv[2], sys.argv[3], 12, num_cpus=2)")
    # Two: some of the nodes' four are taken by the replicas of `service`, if it is up.
    driver = subprocess.Popen([sys.executable, "-c", code, nodes.cluster.address,
                               tmp_path / "rows.npy", tmp_path / "out"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list((tmp_path / "out").glob("shard-*.json")):
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert not (tmp_path / "out" / "manifest.json").exists()
    time.sleep(1)                            # its tasks end with it
    kept = {f"{path.stem}.vidx" for path in (tmp_path / "out").glob("shard-*.json")}
    before = stamps(tmp_path / "out")
    assert kept
    manifest = vecidx.ray.build(tmp_path / "rows.npy", tmp_path / "out", 12)
    after = stamps(tmp_path / "out")
    assert all(after[name] == before[name] for name in kept)
    assert manifest.rows == 60_000 and len(after) == 12


def test_rebalance_keeps_every_row(built, tmp_path, rows, queries, one_index):
    manifest = vecidx.ray.rebalance(built.url, tmp_path / "three", 3)
    assert len(manifest.shards) == 3 and manifest.dim == DIM
    assert (all_ids(manifest) == np.arange(len(rows))).all()
    with vecidx.ray.serve(manifest) as index:
        assert_same(index.search(queries, k=10, exact=True),
                    one_index.search(queries, k=10, exact=True))
