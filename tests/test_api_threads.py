"""The GIL is released, threads give the same answers, searches run beside an add."""

import os
import threading
import time

import numpy as np
import pytest

import vecidx
from helpers import assert_same, assert_true_distances, assert_well_formed, run_python


class Ticker:
    """A Python thread that notes the time about every millisecond."""

    def __enter__(self):
        self.times = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        while not self.times:
            time.sleep(0.001)
        return self

    def _run(self):
        while not self._stop.is_set():
            self.times.append(time.perf_counter())
            time.sleep(0.001)

    def __exit__(self, *exc):
        self._stop.set()
        self._thread.join()

    def during(self, start, stop):
        return sum(start < t < stop for t in self.times)


def assert_ticks(ticker, start, stop, what):
    """A call that held the GIL would let no tick through; one a tick callback
    lets in every 50 ms would be 20 a second."""
    seconds = stop - start
    assert seconds > 0.1, f"{what} took {seconds:.3f} s: too short to tell"
    ticks = ticker.during(start, stop)
    assert ticks > 100 * seconds, f"{ticks} ticks in {seconds:.2f} s of {what}"


@pytest.fixture(scope="module")
def big():
    rows = np.random.default_rng(3).standard_normal((40_000, 48), dtype=np.float32)
    index = vecidx.Index(48, M=8, ef_construction=60)
    with Ticker() as ticker:
        start = time.perf_counter()
        index.add(rows, num_threads=1)
        stop = time.perf_counter()
    return rows, index, (ticker, start, stop)


def test_other_python_threads_run_during_add(big):
    _, _, (ticker, start, stop) = big
    assert_ticks(ticker, start, stop, "add")


@pytest.mark.parametrize("exact", [False, True])
def test_other_python_threads_run_during_search(big, exact):
    rows, index, _ = big
    queries = rows[:4000] if exact else np.tile(rows, (2, 1))
    with Ticker() as ticker:
        start = time.perf_counter()
        index.search(queries, k=10, ef=100, exact=exact, num_threads=1)
        stop = time.perf_counter()
    assert_ticks(ticker, start, stop, f"search(exact={exact})")


@pytest.mark.parametrize("exact", [False, True])
def test_results_do_not_depend_on_the_number_of_threads(big, exact):
    rows, index, _ = big
    queries = rows[:300] + 0.01
    one = index.search(queries, k=10, exact=exact, num_threads=1)
    for n in (2, 3, 8, None):
        assert_same(one, index.search(queries, k=10, exact=exact, num_threads=n))


def test_the_index_has_its_own_default(big):
    rows, _, _ = big
    index = vecidx.Index(48, num_threads=1)
    index.add(rows[:2000])
    start_wall, start_cpu = time.perf_counter(), time.process_time()
    index.search(rows[:2000], k=10, ef=200)
    wall, cpu = time.perf_counter() - start_wall, time.process_time() - start_cpu
    assert cpu < 1.3 * wall + 0.05


def cpu_ticks():
    """Thread -> clock ticks of CPU time it has used."""
    folder, used = "/proc/self/task", {}
    for thread in os.listdir(folder):
        with open(f"{folder}/{thread}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        used[thread] = int(fields[11]) + int(fields[12])
    return used


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs /proc")
@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_so_many_threads_work(big, num_threads):
    """By each thread's CPU time, which a busy machine stretches but does not hide."""
    rows, index, _ = big
    index.search(rows[:100], num_threads=num_threads)          # starts the threads
    before, me, total = cpu_ticks(), str(threading.get_native_id()), 0
    while total < 60:                                          # 0.6 s
        index.search(rows[:10_000], k=10, ef=64, num_threads=num_threads)
        now = cpu_ticks()
        gained = {thread: now[thread] - before.get(thread, 0) for thread in now}
        total = sum(gained.values())
    # Which helpers the pool sends may change from call to call; our share may not.
    share = gained[me] / total
    assert abs(share - 1 / num_threads) < 0.2, gained


def test_two_threads_search_while_one_adds():
    """Every result is well formed and true; what was added before is found."""
    dim, n, piece = 24, 6000, 500
    rows = np.random.default_rng(11).standard_normal((n, dim)).astype(np.float32)
    index = vecidx.Index(dim, M=8, ef_construction=60)
    index.add(rows[:piece])
    done = [piece]                          # rows whose add has returned
    failures, searches = [], [0, 0]

    def search(which):
        rng = np.random.default_rng(which)
        try:
            while done[0] < n:
                known = done[0]
                picks = rng.integers(0, known, 8)
                ids, distances = index.search(rows[picks], k=5, exact=bool(searches[which] % 2),
                                              num_threads=1)
                assert_well_formed(ids, distances)
                assert_true_distances(ids, distances, rows[picks], rows, "l2")
                if searches[which] % 2:
                    assert (ids[:, 0] == picks).all() and (distances[:, 0] == 0).all()
                one = int(picks[0])
                assert one in index
                np.testing.assert_array_equal(index.get(one), rows[one])
                searches[which] += 1
        except BaseException as err:        # told in the main thread
            failures.append(err)

    threads = [threading.Thread(target=search, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for start in range(piece, n, piece):
        index.add(rows[start:start + piece])
        done[0] = start + piece
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    assert min(searches) > 0
    assert len(index) == n
    index.check()


def test_replacing_under_search_shows_old_or_new_never_both():
    """Each id always has one of its versions: never none, never two."""
    dim, n = 8, 200
    base = np.random.default_rng(5).standard_normal((n, dim)).astype(np.float32)
    index = vecidx.Index(dim, M=8, ef_construction=40)
    index.add(base)
    failures, stop = [], threading.Event()

    def search():
        try:
            while not stop.is_set():
                ids, distances = index.search(base[:4], k=n, exact=True, num_threads=1)
                for row in ids:
                    assert sorted(row.tolist()) == list(range(n))
        except BaseException as err:
            failures.append(err)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for version in range(1, 25):
        index.add(base + version, ids=np.arange(n))
    stop.set()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_writers_wait_for_one_another():
    rows = np.random.default_rng(1).standard_normal((4000, 16)).astype(np.float32)
    index = vecidx.Index(16, M=6, ef_construction=40)
    threads = [threading.Thread(target=index.add, args=(rows[i::4], np.arange(4000)[i::4]))
               for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(index.ids()) == list(range(4000))
    np.testing.assert_array_equal(index.get(np.arange(4000)), rows)
    index.check()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_can_search_and_add():
    """The pool's threads are not in the child; it must not wait for them."""
    code = """
import os, warnings
import numpy as np, vecidx
warnings.simplefilter("ignore")
rows = np.random.default_rng(0).standard_normal((3000, 16)).astype(np.float32)
index = vecidx.Index(16, num_threads=2)
index.add(rows)
before = index.search(rows[:50], k=3)
pid = os.fork()
if pid == 0:
    after = index.search(rows[:50], k=3, num_threads=2)
    same = (before[0] == after[0]).all() and (before[1] == after[1]).all()
    index.add(rows[:500] + 9)
    os._exit(0 if same and len(index) == 3500 else 1)
_, status = os.waitpid(pid, 0)
assert os.waitstatus_to_exitcode(status) == 0
assert len(index) == 3000
assert (index.search(rows[:50], k=3)[0] == before[0]).all()
"""
    code_, _, err = run_python(code, timeout=60)
    assert code_ == 0, err


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_inside_a_call_stops_the_child_in_words():
    """The child's call used to end in "exceptions must derive from BaseException"."""
    code = """
import os, warnings
import numpy as np, vecidx
warnings.simplefilter("ignore")
rows = np.random.default_rng(0).standard_normal((30_000, 32)).astype(np.float32)
index = vecidx.Index(32, num_threads=2)
pids = []
def report(done, total):
    if not pids and 0 < done < total:
        pids.append(os.fork())
try:
    index.add(rows, progress=report)
except vecidx.VecidxError as err:
    os._exit(0 if pids == [0] and "forked inside this call" in str(err) else 1)
except BaseException:
    os._exit(2)
if pids == [0]:
    os._exit(3)
_, status = os.waitpid(pids[0], 0)
assert os.waitstatus_to_exitcode(status) == 0, status
assert len(index) == 30_000
index.check()
"""
    code_, _, err = run_python(code, timeout=60)
    assert code_ == 0, err
