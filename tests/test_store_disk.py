"""Full disks, killed saves and forbidden folders: the old file or the new one, whole."""

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

import vecidx
from helpers import ROOT, run_python

LINUX = sys.platform.startswith("linux")
ROOT_USER = hasattr(os, "geteuid") and os.geteuid() == 0
SIZE = 512 << 10


@pytest.mark.skipif(sys.platform == "win32", reason="needs kill -9")
def test_killed_saves_leave_a_whole_file():
    done = subprocess.run([sys.executable, ROOT / "tools" / "crash_save.py", "--kills", "20"],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("20 kills")


@pytest.fixture
def disk(tmp_path):
    """A file system of its own, with half a megabyte."""
    if not (LINUX and ROOT_USER):
        pytest.skip("only root on Linux can mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", folder],
                             capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def made(n, dim=16):
    index = vecidx.Index(dim, M=4, ef_construction=20)
    index.add(np.random.default_rng(n).standard_normal((n, dim), dtype=np.float32))
    return index


def test_a_save_that_does_not_fit_leaves_the_old_file(disk):
    old, large = made(100), made(5000)
    path = disk / "x"
    old.save(path)
    before = path.read_bytes()
    for _ in range(3):
        with pytest.raises(OSError) as caught:
            large.save(path)
        assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(path)
        assert os.listdir(disk) == ["x"]                 # no temporary takes the room
        assert path.read_bytes() == before
    vecidx.load(path, verify=True).check()
    large.check()
    made(120).save(path)                                 # what fits still does
    assert len(vecidx.load(path)) == 120


def test_every_amount_of_room_is_too_little_or_enough(disk):
    """The disk becomes full in the head, in a section, at the sync, or never."""
    index, path = made(300), disk / "x"
    size = len(index.to_bytes())
    room = os.statvfs(disk)
    free = room.f_bavail * room.f_frsize
    outcomes = set()
    for left in range(0, size + 3 * room.f_frsize, room.f_frsize):
        (disk / "filler").write_bytes(bytes(free - left))
        try:
            index.save(path)
            outcomes.add("saved")
            assert len(vecidx.load(path, verify=True)) == 300
            path.unlink()
        except OSError as err:
            outcomes.add("refused")
            assert err.errno == errno.ENOSPC
            assert os.listdir(disk) == ["filler"]
        (disk / "filler").unlink()
    assert outcomes == {"saved", "refused"}


def test_a_log_on_a_full_disk(disk):
    """A write that finds no room changes nothing; with room again the index goes on."""
    path = disk / "x"
    index = vecidx.open(path, 16, M=4, ef_construction=20)
    index.add(np.ones((50, 16)) * np.arange(1, 51)[:, None])
    room = os.statvfs(disk)
    filler = disk / "filler"
    filler.write_bytes(bytes(room.f_bavail * room.f_frsize))
    ids = index.ids()
    with pytest.raises(OSError) as caught:
        index.add(np.random.default_rng(0).standard_normal((500, 16)))
    assert caught.value.errno == errno.ENOSPC
    np.testing.assert_array_equal(index.ids(), ids)
    with pytest.raises(OSError):
        index.checkpoint()
    np.testing.assert_array_equal(index.ids(), ids)
    filler.unlink()
    index.delete([3])
    index.checkpoint()
    index.add(np.full((1, 16), 99), ids=[900])
    index.close()
    with vecidx.open(path, 16) as again:
        assert sorted(again.ids()) == sorted([*ids[ids != 3], 900])
        again.check()


# ---- folders in which root would be let do anything -----------------------------------

AS_NOBODY = """
import os, sys
import numpy as np, vecidx
index = vecidx.Index(4)
index.add(np.random.default_rng(0).standard_normal((2000, 4)))
index.search(np.zeros(4))
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    print("done", vecidx.load(sys.argv[2]) if sys.argv[1] == "load" else index.save(sys.argv[2]))
except OSError as err:
    print(type(err).__name__, err.errno, err.filename)
"""


@pytest.fixture
def folder():
    """A folder that others may enter (tmp_path's parents are for their owner alone)."""
    if sys.platform == "win32":
        pytest.skip("needs the permissions of POSIX")
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)
        os.chmod(name, 0o755)


def as_nobody(what, path):
    code, out, err = run_python(AS_NOBODY, what, path)
    assert code == 0, err
    return out.strip()


def test_a_folder_that_may_not_be_written(folder):
    path = folder / "x"
    path.write_bytes(b"old")
    os.chmod(folder, 0o555)
    assert as_nobody("save", path) == f"PermissionError {errno.EACCES} {path}"
    assert path.read_bytes() == b"old" and os.listdir(folder) == ["x"]


def test_a_file_that_may_not_be_read(folder):
    path = folder / "x"
    made(10).save(path)
    os.chmod(path, 0)
    assert as_nobody("load", path) == f"PermissionError {errno.EACCES} {path}"


@pytest.mark.skipif(not ROOT_USER, reason="needs a file of somebody else's")
def test_a_file_of_another_in_a_sticky_folder(folder):
    """The rename is refused, after all has been written."""
    path = folder / "x"
    path.write_bytes(b"old")
    os.chmod(path, 0o666)
    os.chmod(folder, 0o1777)
    assert as_nobody("save", path) == f"PermissionError {errno.EPERM} {path}"
    assert path.read_bytes() == b"old" and os.listdir(folder) == ["x"]
