"""An index made by vecidx.open(): what its log, its lock and its checkpoints promise."""

import copy
import errno
import json
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import vecidx
from helpers import METRICS, ROOT, assert_same, run_python
from vecidx import IndexFormatError, VecidxError, _wal, durable

DIM = 8
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")
FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.vidx"


@pytest.fixture
def rows(rng):
    return rng.standard_normal((400, DIM), dtype=np.float32)


def content(index):
    """id -> row, as bytes."""
    ids = index.ids()
    return {int(id): row.tobytes() for id, row in zip(ids, index.get(ids), strict=True)}


def wal(path):
    return Path(f"{path}.wal")


def reopen(index, **options):
    """As after a crash: the log is not folded in."""
    index.close(checkpoint=False)
    return vecidx.open(index.path, **options)


# ---- it is an index --------------------------------------------------------------------


def test_new_index(path, rows):
    with vecidx.open(path, DIM, "cosine", M=5, seed=3, num_threads=1) as index:
        assert isinstance(index, vecidx.Index)
        assert (index.dim, index.metric, index.M, index.seed) == (DIM, "cosine", 5, 3)
        assert index.add(rows).tolist() == list(range(400))
        assert index.path == os.path.realpath(path)
        assert "durable in" in repr(index) and "a.vidx" in repr(index)
        assert len(vecidx.load(path)) == 0              # the last checkpoint
        found = index.search(rows[:5], k=3)
    assert "closed" in repr(index)
    assert_same(index.search(rows[:5], k=3), found)     # still searches
    assert_same(vecidx.load(path).search(rows[:5], k=3), found)
    assert sorted(os.listdir(path.parent)) == ["a.vidx", "a.vidx.lock", "a.vidx.wal"]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("sync", durable.SYNC_WORDS)
def test_replay_gives_the_same_index(path, rows, metric, sync):
    """Equal rows, answers, and graph: a file saved after replay has the same bytes."""
    def fill(index):
        index.add(rows[:300])
        index.add(rows[300:310] * 2, ids=range(5, 15))
        index.delete([7, 100, 100])
        index.add(rows[310:320], ids=range(295, 305), on_conflict="skip")
        index.delete([7, 9, 1000], missing="ignore")
        index.add(rows[320:])

    index = vecidx.open(path, DIM, metric, sync=sync)
    fill(index)
    plain = vecidx.Index(DIM, metric)
    fill(plain)
    want, found = content(index), index.search(rows, k=5)
    index = reopen(index, sync=sync)
    assert content(index) == want == content(plain)
    assert_same(index.search(rows, k=5), found)
    assert_same(plain.search(rows, k=5), found)
    one, other = f"{path}.one", f"{path}.other"
    index.save(one)
    plain.save(other)
    assert Path(one).read_bytes() == Path(other).read_bytes()
    assert index.check()["unreachable"] == 0
    index.close()
    assert content(vecidx.load(path)) == want


def test_checkpoints_between(path, rows):
    index = vecidx.open(path, DIM)
    index.add(rows[:50])
    index.checkpoint()
    assert wal(path).stat().st_size == _wal.HEAD.size
    index.delete(range(10))
    index = reopen(index)
    index.add(rows[50:60])
    index.save(str(path))                               # its own path: a checkpoint
    assert wal(path).stat().st_size == _wal.HEAD.size
    index.add(rows[60:70])
    index = reopen(index)
    assert sorted(index.ids().tolist()) == list(range(10, 70))
    assert index.add(rows[0])[0] == 70
    index.close()


def test_ids_go_on_after_the_highest_was_deleted(path, rows):
    index = vecidx.open(path, DIM)
    index.add(rows[:10])
    index.delete(9)
    index = reopen(index)
    assert index.add(rows[0])[0] == 10
    index.close()


def test_opens_what_save_wrote(path, rows):
    plain = vecidx.Index(DIM)
    plain.add(rows)
    plain.save(path)
    with vecidx.open(path) as index:
        index.delete(range(100))
    assert len(vecidx.load(path)) == 300


def test_nothing_is_logged_for_a_call_that_changes_nothing(path, rows):
    with vecidx.open(path, DIM) as index:
        index.add(rows[:10])
        size = wal(path).stat().st_size
        before = content(index)
        bad = rows[:3].copy()
        bad[1, 2] = np.nan
        for call in [
            lambda: index.add(bad),
            lambda: index.add(rows[:2], ids=[5, 5]),
            lambda: index.add(rows[:2], ids=[-1, 5]),
            lambda: index.add(rows[:2], ids=[11, 5], on_conflict="error"),
            lambda: index.add(rows[:2], ids=[1]),
            lambda: index.add(rows[:2], progress=3),
            lambda: index.add(rows[:2, :3]),
            lambda: index.delete([3, 99]),
            lambda: index.delete([3], missing="what"),
        ]:
            with pytest.raises((ValueError, KeyError, TypeError)):
                call()
        index.add(rows[:3], ids=[1, 2, 3], on_conflict="skip")
        index.add(rows[:0])
        assert index.delete([99], missing="ignore") == 0
        assert index.delete([]) == 0
        assert wal(path).stat().st_size == size
        assert content(index) == before


def test_skip_logs_only_the_rows_taken(path, rows):
    index = vecidx.open(path, DIM)
    index.add(rows[:100], ids=range(0, 200, 2))
    size = wal(path).stat().st_size
    index.add(rows[100:300], ids=range(200), on_conflict="skip")
    assert wal(path).stat().st_size == size + _wal.RECORD.size + 100 * (DIM * 4 + 8)
    want = content(index)
    index = reopen(index)
    assert content(index) == want
    index.close()


# ---- opening ---------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "error", "text"), [
    ({"dim": DIM + 1}, ValueError, "dim: .* has 8, got 9"),
    ({"metric": "ip"}, ValueError, "metric: .* has 'l2', got 'ip'"),
    ({"M": 17}, ValueError, "M: .* has 16, got 17"),
    ({"nonsense": 1}, TypeError, "nonsense"),
    ({"sync": "sometimes"}, ValueError, "sync: expected 'always', 'interval', 'none'"),
    ({"interval": 1}, ValueError, "interval: is for sync='interval' only"),
    ({"sync": "interval", "interval": 0}, ValueError, "interval: expected seconds"),
    ({"sync": "interval", "interval": "x"}, ValueError, "interval: expected seconds"),
    ({"num_threads": 0}, ValueError, "num_threads"),
])
def test_bad_options(path, options, error, text):
    vecidx.open(path, DIM).close()
    with pytest.raises(error, match=text):
        vecidx.open(path, **options)
    with vecidx.open(path, DIM, "l2", M=16, dtype="float32", capacity=10):   # the lock is free
        pass


def test_missing_index(path):
    with pytest.raises(FileNotFoundError):
        vecidx.open(path)
    assert os.listdir(path.parent) == []


def test_durable_index_has_no_constructor():
    with pytest.raises(TypeError, match="vecidx.open"):
        vecidx.DurableIndex(3)


def test_pickle_and_copy_are_refused(path):
    with vecidx.open(path, DIM) as index:
        for call in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="durable index cannot be pickled or copied"):
                call(index)


def test_close_twice_and_use_after(path, rows):
    index = vecidx.open(path, DIM)
    index.add(rows)
    index.close()
    index.close()
    for call in (lambda: index.add(rows), lambda: index.delete(1), index.checkpoint):
        with pytest.raises(VecidxError, match="closed"):
            call()
    assert len(index) == 400


def test_symbolic_link(path, rows, tmp_path):
    (tmp_path / "real").mkdir()
    try:
        path.symlink_to(tmp_path / "real" / "b.vidx")
    except OSError:
        pytest.skip("no symbolic links here")
    with vecidx.open(path, DIM) as index:
        with pytest.raises(VecidxError, match="open for writing"):
            vecidx.open(tmp_path / "real" / "b.vidx")
        index.add(rows)
    assert path.is_symlink() and len(vecidx.load(path)) == 400


@POSIX
def test_files_are_as_private_as_the_index(path, rows):
    vecidx.open(path, DIM).close()
    path.chmod(0o600)
    with vecidx.open(path) as index:
        index.add(rows)
        index.checkpoint()
        assert path.stat().st_mode & 0o777 == 0o600
        assert wal(path).stat().st_mode & 0o777 == 0o600


# ---- the log's bytes ---------------------------------------------------------------------


def small_log(path):
    """Five changes; (bytes of the log, [content after 0, 1, ... of them], [ends of records])."""
    rows = np.random.default_rng(5).standard_normal((9, 2), dtype=np.float32)
    index = vecidx.open(path, 2)
    states, ends = [content(index)], [_wal.HEAD.size]
    for change in [
        lambda: index.add(rows[:3]),
        lambda: index.add(rows[3], ids=[1]),
        lambda: index.delete([0, 2]),
        lambda: index.add(rows[4:7], ids=[10, 1, 0]),
        lambda: index.delete([10]),
    ]:
        change()
        states.append(content(index))
        ends.append(wal(path).stat().st_size)
    index.close(checkpoint=False)
    return wal(path).read_bytes(), states, ends


def open_with(path, log):
    wal(path).write_bytes(log)
    index = vecidx.open(path)
    try:
        index.check()
        return content(index)
    finally:
        index.close(checkpoint=False)


def test_every_truncation(path, caplog):
    log, states, ends = small_log(path)
    for length in range(len(log) + 1):
        caplog.clear()
        if length < _wal.HEAD.size:
            with pytest.raises(IndexFormatError, match="wal"):
                open_with(path, log[:length])
            continue
        n = max(i for i, end in enumerate(ends) if end <= length)
        assert open_with(path, log[:length]) == states[n]
        said = [record.getMessage() for record in caplog.records if record.name == "vecidx"]
        assert len(said) == (length > ends[n])
        assert all(f"dropped {length - ends[n]} bytes from byte {ends[n]} on" in s for s in said)
        assert wal(path).stat().st_size == ends[n]      # and is cut off


def test_every_byte_flipped(path):
    log, states, ends = small_log(path)
    for at in range(len(log)):
        damaged = bytearray(log)
        damaged[at] ^= 0x41
        if at < ends[-2]:                                # in the head, or sound records follow
            with pytest.raises(IndexFormatError) as caught:
                open_with(path, bytes(damaged))
            if at >= _wal.HEAD.size:
                begin = max(end for end in ends if end <= at)
                assert f"byte {begin} is damaged" in str(caught.value)
                assert f"cut the log to {begin} bytes" in str(caught.value)
        else:
            assert open_with(path, bytes(damaged)) == states[-2]


def test_the_way_out_of_a_damaged_log(path):
    log, states, ends = small_log(path)
    damaged = bytearray(log)
    damaged[ends[2] + 50] ^= 1
    with pytest.raises(IndexFormatError, match=f"cut the log to {ends[2]} bytes"):
        open_with(path, damaged)
    assert open_with(path, damaged[:ends[2]]) == states[2]
    wal(path).unlink()
    with vecidx.open(path) as index:
        assert content(index) == states[0]


def test_garbage_behind_the_log_is_dropped(path, rng):
    log, states, _ = small_log(path)
    for tail in (b"\0" * 100, rng.bytes(5000), log[:40], log[_wal.HEAD.size:]):
        assert open_with(path, log + tail) == states[-1]
        assert wal(path).read_bytes() == log


def test_unsynced_records_may_be_lost_in_any_order(path, rows):
    """After a loss of power a record may be missing though a later one is there.

    Where none of them was known to be on disk, that is no damage.
    """
    index = vecidx.open(path, DIM, sync="none")
    index.add(rows[:5])
    index._log.sync(index._log.sequence)
    index.add(rows[5:10])                                # knows of the first
    end = wal(path).stat().st_size
    index.add(rows[10:15])
    index.add(rows[15:20])
    index.close(checkpoint=False)
    log, base = bytearray(wal(path).read_bytes()), path.read_bytes()
    lost = log.copy()
    lost[end:end + 100] = bytes(100)
    wal(path).write_bytes(lost)
    with vecidx.open(path) as again:
        assert len(again) == 10
    log[_wal.HEAD.size + 60] ^= 1                        # the first, which was on disk
    wal(path).write_bytes(log)
    path.write_bytes(base)
    with pytest.raises(IndexFormatError, match=f"byte {_wal.HEAD.size} is damaged"):
        vecidx.open(path)


def test_a_record_of_another_log_is_not_taken(path, tmp_path):
    """Blocks of an older log may come up behind a new one."""
    log, states, _ = small_log(path)
    other_path = tmp_path / "other.vidx"
    other, _, _ = small_log(other_path)
    assert open_with(path, log[:_wal.HEAD.size] + other[_wal.HEAD.size:]) == states[0]


def test_a_log_of_another_index_is_refused(path, tmp_path, rows):
    small_log(path)
    other = tmp_path / "other.vidx"
    with vecidx.open(other, 2) as index:
        index.add(rows[:, :2])
    shutil.copy(other, path)
    with pytest.raises(IndexFormatError, match="does not belong to the index file beside it"):
        vecidx.open(path)
    path.unlink()
    with pytest.raises(IndexFormatError, match="whose index file is gone"):
        vecidx.open(path, 2)


def test_a_log_with_nothing_in_it_gives_way(path, rows):
    vecidx.open(path, DIM).close()
    plain = vecidx.Index(DIM)
    plain.add(rows)
    plain.save(path)                                     # rebuilt while it was closed
    with vecidx.open(path) as index:
        assert len(index) == 400
    path.unlink()
    with vecidx.open(path, 3) as index:
        assert len(index) == 0


def test_two_states_of_an_index_have_two_names(path, rows):
    names = set()
    with vecidx.open(path, DIM) as index:
        for i in range(50):
            index.add(rows[i], ids=[0])
            index.checkpoint()
            names.add(_wal.name_of(path))
    assert len(names) == 50


# ---- one writer --------------------------------------------------------------------------

HOLD = """
import sys, vecidx
index = vecidx.open(sys.argv[1], 8)
index.add([[1] * 8])
print("ready", flush=True)
sys.stdin.read()
"""


def test_second_writer_is_refused_and_kill_frees_the_lock(path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == "ready\n"
        with pytest.raises(VecidxError, match=f"open for writing in process {holder.pid}"):
            vecidx.open(path)
        assert len(vecidx.load(path)) == 0               # readers are welcome
        holder.kill()
        holder.wait()
    with vecidx.open(path) as index:
        assert len(index) == 1


def test_second_writer_in_one_process(path):
    with vecidx.open(path, DIM):
        with pytest.raises(VecidxError, match=rf"in this process \({os.getpid()}\)"):
            vecidx.open(path)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_dropped_index_frees_its_lock(path):
    for sync in durable.SYNC_WORDS:
        index = vecidx.open(path, DIM, sync=sync)
        del index
    vecidx.open(path).close()


@FORK
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fork(path, rows):
    """The child may search, but not write, nor free the lock, nor keep it."""
    index = vecidx.open(path, DIM)
    index.add(rows)
    ends, goes_on = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        verdict = b"no verdict"
        try:
            for call in (lambda: index.add(rows), lambda: index.delete(1), index.checkpoint,
                         lambda: index.save(path)):
                with pytest.raises(VecidxError, match="forked"):
                    call()
            assert index.search(rows[3], k=1)[0][0] == 3
            index.close()
            verdict = b"ok"
        except BaseException as exc:
            verdict = repr(exc).encode()
        finally:
            os.write(ends[1], verdict)
            os.read(goes_on[0], 1)
            os._exit(0)
    try:
        assert os.read(ends[0], 1000) == b"ok"
        with pytest.raises(VecidxError, match="this process"):
            vecidx.open(path)                            # the child's close() freed nothing
        index.add(rows)
        index._lock._file.close()                        # as if killed: no explicit unlock
        again = vecidx.open(path)                        # while the child lives
        assert len(again) == 800
        again.close()
    finally:
        os.write(goes_on[1], b"x")
        os.waitpid(child, 0)
        for end in (*ends, *goes_on):
            os.close(end)


@FORK
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fork_inside_an_add(path, rng):
    big = rng.standard_normal((8000, 32), dtype=np.float32)
    index = vecidx.open(path, 32)
    children = []

    def progress(done, total):
        if not children and done:
            children.append(os.fork())
            if children[0] == 0:
                children[0] = None

    try:
        index.add(big, progress=progress)
    except VecidxError as exc:
        os._exit(0 if "forked" in str(exc) else 1)
    except BaseException:
        os._exit(2)
    finally:
        if children == [None]:
            os._exit(3)
    assert children and os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
    index = reopen(index)
    assert len(index) == len(big)
    index.close()


# ---- failing disks ------------------------------------------------------------------------


class FullDisk:
    """Replaces os.write for one file: takes so many bytes, in small pieces, then ENOSPC."""

    def __init__(self, monkeypatch, log, room):
        self.fd, self.room, self.write = log.file.fileno(), room, os.write
        monkeypatch.setattr(os, "write", self)

    def __call__(self, fd, data):
        if fd != self.fd:
            return self.write(fd, data)
        n = min(len(data), 7, self.room)
        if n == 0 and len(data) > 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= n
        return self.write(fd, data[:n])


def test_full_disk(path, rows, monkeypatch):
    """Wherever the disk gets full: OSError, the index as it was, and later adds work."""
    index = vecidx.open(path, DIM)
    index.add(rows[:20])
    before, n = content(index), 0
    needed = _wal.RECORD.size + 2 * (DIM * 4 + 8)        # of two rows
    for room in range(0, needed, 5):
        with monkeypatch.context() as patch:
            FullDisk(patch, index._log, room)
            with pytest.raises(OSError) as caught:
                index.add(rows[20:22], ids=[3, 30])
            assert caught.value.errno == errno.ENOSPC
            if room < _wal.RECORD.size + 16:
                with pytest.raises(OSError):
                    index.delete([1, 2])
        assert content(index) == before
        assert wal(path).stat().st_size == index._log.end      # nothing torn is left
        index.add(rows[30 + n], ids=[1000 + n])
        before = content(index)
        n += 1
        if n % 5 == 0:
            index = reopen(index)
            assert content(index) == before
    index.close()
    assert content(vecidx.load(path)) == before


def test_a_record_that_cannot_be_completed(path, rows, monkeypatch):
    """A file system that writes elsewhere may be full even where there was room."""
    index = vecidx.open(path, DIM)
    index.add(rows[:20])
    with monkeypatch.context() as patch:
        FullDisk(patch, index._log, _wal.RECORD.size + 2 * (DIM * 4 + 8))
        with pytest.raises(OSError) as caught:
            index.add(rows[20:22])
        assert "may not be on disk" in caught.value.__notes__[0]
    assert len(index) == 22
    index.delete(0)                                      # makes a checkpoint first
    assert len(vecidx.load(path)) == 22
    index = reopen(index)
    assert len(index) == 21
    index.close()


@POSIX
def test_file_size_limit(path):
    code = """
import resource, signal, sys
import numpy as np, vecidx
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
rows = np.random.default_rng(0).standard_normal((2000, 8), dtype=np.float32)
index = vecidx.open(sys.argv[1], 8)
index.add(rows[:100])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
try:
    index.add(rows[100:])
except OSError as exc:
    print(exc.errno)
print(len(index))
index.add(rows[100:110])
print(len(index))
try:
    index.close()                           # the checkpoint does not fit either
except OSError as exc:
    print(exc.errno)
"""
    code, out, err = run_python(code, path)
    assert (code, out.split()) == (0, [str(errno.EFBIG), "100", "110", str(errno.EFBIG)]), err
    with vecidx.open(path) as index:
        assert len(index) == 110


def test_failing_sync(path, rows, monkeypatch):
    """All that wait for it raise, though asked again the system would say yes."""
    index = vecidx.open(path, DIM)
    index.add(rows[:10])
    asked = []

    def sync_file(fd):
        asked.append(fd)
        if len(asked) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(_wal, "sync_file", sync_file)
        with pytest.raises(OSError) as caught:
            index.add(rows[10:20])
        assert caught.value.errno == errno.EIO and "may not be on disk" in caught.value.__notes__[0]
        with pytest.raises(OSError):
            index._log.sync(index._log.sequence)
    assert index._log.behind
    index.add(rows[20:30])                               # with a checkpoint before it
    assert not index._log.behind
    assert len(vecidx.load(path)) == 20
    index = reopen(index)
    assert len(index) == 30
    index.close()


# ---- interrupts -----------------------------------------------------------------------------


def test_an_add_stopped_half_way_is_logged_as_far_as_it_came(path, rng):
    big = rng.standard_normal((20_000, 64), dtype=np.float32)

    class Stop(Exception):
        pass

    def stop(done, total):
        if done > 3000:
            raise Stop

    index = vecidx.open(path, 64, num_threads=1)
    index.add(big[:50], ids=range(100, 150))
    for ids, conflict in [(None, "replace"), (range(90, 20_090), "replace"),
                          (range(80, 20_080), "skip")]:
        with pytest.raises(Stop) as caught:
            index.add(big, ids=ids, on_conflict=conflict, progress=stop)
        assert 0 < caught.value.rows_added < len(big)
        want = content(index)
        index = reopen(index, num_threads=1)
        assert content(index) == want
        index.check()
    index.close()


@POSIX
def test_ctrl_c(path, rng):
    big = rng.standard_normal((20_000, 64), dtype=np.float32)

    def press(done, total):
        if done > 3000:
            os.kill(os.getpid(), signal.SIGINT)

    index = vecidx.open(path, 64, num_threads=1)
    with pytest.raises(KeyboardInterrupt) as caught:
        index.add(big, progress=press)
        time.sleep(20)
    n = len(index)
    assert 0 < n == caught.value.rows_added < len(big)
    index = reopen(index)
    assert index.ids().tolist() == list(range(n))
    np.testing.assert_array_equal(index.get(n - 1), big[n - 1])
    index.close()


@pytest.mark.parametrize("is_add", [True, False])
def test_an_exception_at_any_step_of_a_write(path, rows, is_add):
    """Ctrl-C may come between any two steps; what the index then holds is not lost."""
    class Stop(BaseException):
        pass

    files = (durable.__file__, _wal.__file__)
    index = vecidx.open(path, DIM)
    index.add(rows)
    stopped = n_steps = 0
    while True:
        left = n_steps = n_steps + 1

        def stop_one(frame, event, arg):
            """Python looks for signals when a call begins, and when one of C has returned."""
            nonlocal left
            if event in ("call", "c_return") and frame.f_code.co_filename in files:
                left -= 1
                if left == 0:
                    raise Stop

        sys.setprofile(stop_one)
        try:
            if is_add:
                index.add(rows[:2] * n_steps, ids=[n_steps, 10_000 + n_steps])
            else:
                index.delete([n_steps, n_steps + 200])
        except Stop:
            stopped += 1
        finally:
            sys.setprofile(None)
        if left > 0:
            break
        index.add(rows[0], ids=[20_000])                 # whatever came before, this works
        want = content(index)
        index = reopen(index)
        assert content(index) == want
        index.check()
    assert stopped > 40
    index.close()


def test_a_write_inside_a_write_is_refused(path, rows):
    with vecidx.open(path, DIM) as index:
        for call in (lambda: index.add(rows), lambda: index.delete(0), index.checkpoint,
                     index.close):
            def progress(done, total, call=call):
                call()

            with pytest.raises(VecidxError, match="inside another add"):
                index.add(rows[:5], progress=progress)


# ---- threads and syncing -----------------------------------------------------------------------


def count_syncs(monkeypatch, seconds=0.0):
    calls = []

    def sync_file(fd):
        calls.append(time.perf_counter())
        time.sleep(seconds)

    monkeypatch.setattr(_wal, "sync_file", sync_file)
    return calls


def test_threads_share_a_sync(path, rows, monkeypatch):
    index = vecidx.open(path, DIM)
    calls = count_syncs(monkeypatch, 0.02)

    def work(who):
        for i in range(10):
            index.add(rows[i], ids=[100 * who + i])
            assert index._log.synced >= 1

    threads = [threading.Thread(target=work, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 10 <= len(calls) < 60                         # for 80 adds
    monkeypatch.undo()
    index = reopen(index)
    assert len(index) == 80
    index.close()


def test_always_returns_after_the_sync(path, rows, monkeypatch):
    index = vecidx.open(path, DIM)
    calls = count_syncs(monkeypatch)
    for i in range(5):
        index.add(rows[i])
        assert len(calls) == i + 1 and index._log.synced == i + 1
    index.close()


def test_interval(path, rows, monkeypatch):
    index = vecidx.open(path, DIM, sync="interval", interval=0.2)
    calls = count_syncs(monkeypatch)
    for i in range(20):
        index.add(rows[i])
    deadline = time.monotonic() + 30
    while index._log.synced < 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert index._log.synced == 20 and len(calls) < 20
    idle = len(calls)
    time.sleep(0.5)
    assert len(calls) == idle                            # nothing to do, nothing done
    index.close()


def test_interval_says_when_it_fails(path, rows, monkeypatch, caplog):
    index = vecidx.open(path, DIM, sync="interval", interval=0.01)

    def fail(fd):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR, "vecidx"):
        patch.setattr(_wal, "sync_file", fail)
        index.add(rows[:5])
        deadline = time.monotonic() + 30
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "cannot sync the log" in caplog.text
    index.add(rows[5:10])                                # a checkpoint first
    assert len(vecidx.load(path)) == 5
    index.close()
    assert len(vecidx.load(path)) == 10


def test_none_does_not_sync(path, rows, monkeypatch):
    index = vecidx.open(path, DIM, sync="none")
    calls = count_syncs(monkeypatch)
    index.add(rows)
    index.delete(1)
    assert calls == []
    index.close()


def test_writers_checkpoints_and_searches_at_once(path, rows):
    index = vecidx.open(path, DIM)
    index.add(rows[:50], ids=range(10_000, 10_050))
    stop, errors = threading.Event(), []

    def guard(work):
        def run():
            try:
                work()
            except BaseException as exc:
                errors.append(exc)
        return threading.Thread(target=run)

    def write(who):
        for i in range(60):
            index.add(rows[i], ids=[1000 * who + i])
            if i % 3 == 0:
                index.delete([1000 * who + i])

    def search():
        while not stop.is_set():
            assert index.search(rows[0], k=5)[0][0] >= 0
            time.sleep(0.001)

    def fold():
        while not stop.is_set():
            index.checkpoint()
            assert len(vecidx.load(path)) >= 50

    writers = [guard(lambda who=who: write(who)) for who in range(3)]
    others = [guard(search), guard(fold)]
    for thread in (*writers, *others):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in others:
        thread.join()
    assert errors == []
    want = content(index)
    assert len(want) == 50 + 3 * 40
    index = reopen(index)
    assert content(index) == want
    index.close()


def test_automatic_checkpoint(path, rows, monkeypatch, caplog):
    monkeypatch.setattr(durable, "MIN_AUTO_CHECKPOINT", 10_000)
    index = vecidx.open(path, DIM)
    for i in range(0, 400, 10):
        index.add(rows[i:i + 10])
    assert 200 < len(vecidx.load(path)) < 400
    assert wal(path).stat().st_size < 100_000
    index.close()
    # One that fails is no failure of the write.
    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    index = vecidx.open(path)
    with monkeypatch.context() as patch:
        patch.setattr(_wal, "name_of", full)
        index._auto_at = 0
        index.add(rows[0], ids=[7000])
        index.add(rows[0], ids=[7001])
    assert "no automatic checkpoint" in caplog.text
    index = reopen(index, auto_checkpoint=False)
    assert 7001 in index
    index._auto_at = 0
    index.add(rows)
    assert index._log.pending == 3
    index.close()


# ---- crashes ----------------------------------------------------------------------------------


def crash_points(monkeypatch, folder, copies):
    """Copy the folder before each system call that changes a file: a crash at that moment."""
    copying = []

    def before(module, name):
        call = getattr(module, name)

        def hooked(*args, **kwargs):
            if not copying:                              # which makes such calls itself
                copying.append(True)
                shutil.copytree(folder, copies / f"{len(list(copies.iterdir())):04}-{name}")
                copying.clear()
            return call(*args, **kwargs)

        monkeypatch.setattr(module, name, hooked)

    for module, name in [(os, "write"), (os, "replace"), (os, "ftruncate"), (os, "unlink"),
                         (os, "rmdir"), (os, "makedirs"), (_wal, "sync_file"),
                         (_wal, "sync_folder"), (vecidx.Index, "save")]:
        before(module, name)


def test_a_crash_at_every_step(tmp_path, rows, monkeypatch):
    """Opening a new index, writing, a checkpoint, writing again, closing."""
    folder, copies = tmp_path / "folder", tmp_path / "copies"
    folder.mkdir()
    copies.mkdir()
    path = folder / "a.vidx"
    states = [{}]                                        # at most one write is under way
    n_known = []                                         # of each copy: states known to be there

    def note(index):
        states.append(content(index))
        n_known.extend([len(states) - 2] * (len(list(copies.iterdir())) - len(n_known)))

    with monkeypatch.context() as patch:
        crash_points(patch, folder, copies)
        index = vecidx.open(path, DIM, sync="none")
        for change in [
            lambda: index.add(rows[:20]),
            lambda: index.add(rows[20:25], ids=range(3, 8)),
            index.checkpoint,
            lambda: index.delete(range(5)),
            lambda: index.add(rows[25:30]),
            index.close,
        ]:
            change()
            note(index)
    names = sorted(copies.iterdir())
    assert len(names) == len(n_known) > 40
    opened = 0
    for name, known in zip(names, n_known, strict=True):
        if not (name / "a.vidx").exists():
            assert known == 0
            continue
        with vecidx.open(name / "a.vidx") as index:
            assert content(index) in (states[known], states[known + 1]), name
            index.check()
            index.add(rows[:1], ids=[999])
        assert 999 in vecidx.load(name / "a.vidx")
        assert not {"a.vidx.next", "a.vidx.wal.new"} & set(os.listdir(name)), name
        opened += 1
    assert opened > 30


def test_leftovers_of_a_killed_checkpoint_go(path, rows):
    vecidx.open(path, DIM).close()
    folder = Path(f"{path}.next")
    folder.mkdir()
    (folder / "index").write_bytes(b"half")
    (folder / ".vecidx-0123456789abcdef.tmp").write_bytes(b"half")
    vecidx.open(path).close()
    assert not folder.exists()
    folder.mkdir()
    (folder / "mine").write_bytes(b"not ours")
    with vecidx.open(path) as index:
        index.add(rows)
    assert os.listdir(folder) == ["mine"] and len(vecidx.load(path)) == 400


@pytest.mark.parametrize("sync", ["always", "none"])
def test_kill_9(sync):
    """tools/crash_test.py with few kills; run it with many before a release."""
    done = subprocess.run([sys.executable, str(ROOT / "tools" / "crash_test.py"), "--kills", "10",
                           "--sync", sync], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.split()[0]) == 10
