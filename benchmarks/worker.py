"""One library in its own process: does one measurement at a time, as told on standard input.

peers.py starts it, writes one JSON request a line and reads one JSON answer a line.  Between
requests it sleeps, so any number of them can wait while one measures.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import sys
import time
import traceback
from pathlib import Path

import dataset
import numpy as np
from libraries import LIBRARIES

CLOCK_TICK = os.sysconf("SC_CLK_TCK")
WARM_ROWS = 300
WARM_QUERIES = 200


def trim():
    """Give freed memory back, so that resident memory is what is in use."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        pass    # not glibc: the figure then includes what the allocator holds on to


def resident():
    """Resident bytes of this process: all, anonymous, and in huge pages."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
        kb = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        return {"rss": kb["Rss"] * 1024, "anonymous": kb["Anonymous"] * 1024,
                "huge": kb["AnonHugePages"] * 1024}
    except OSError:
        import psutil
        return {"rss": psutil.Process().memory_info().rss}


def reset_peak():
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return True
    except OSError:
        return False


def peak():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def machine_busy():
    """CPU seconds that the whole machine has worked, and that its host took away."""
    try:
        user, nice, system, _, _, irq, soft, steal = map(
            int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    except OSError:
        return 0.0, 0.0
    return (user + nice + system + irq + soft) / CLOCK_TICK, steal / CLOCK_TICK


class Clock:
    """Wall and CPU seconds of a with-block, and what others took of the machine meanwhile."""

    def __enter__(self):
        self.busy, self.steal = machine_busy()
        self.cpu = time.process_time()
        self.wall = time.perf_counter()
        return self

    def __exit__(self, *_):
        self.wall = time.perf_counter() - self.wall
        self.cpu = time.process_time() - self.cpu
        busy, steal = machine_busy()
        self.others = max(0.0, busy - self.busy - self.cpu) + steal - self.steal

    def as_dict(self):
        return {"wall_s": self.wall, "cpu_s": self.cpu, "others_cpu_s": self.others}


class Worker:
    def __init__(self, name, arguments):
        self.library = LIBRARIES[name](arguments)

    def about(self):
        return {"version": self.library.version(), "python": platform.python_version(),
                "numpy": np.__version__, "terms": self.library.terms,
                "sweep": self.library.sweep}

    def load(self, path, truth, shape, k, M, ef_construction):
        """Read and touch all input, and let the library start its threads and arenas."""
        self.shape = dataset.Shape(**shape)
        self.k, self.M, self.ef_construction = k, M, ef_construction
        self.rows = dataset.read_float32(path, "train", self.shape.n_rows)
        with np.load(truth) as file:
            self.queries = file["queries"]
            self.true_ids, self.bound = file["ids"], file["bound"]
        if self.library.unit_rows and self.shape.metric == "cosine":
            dataset.normalise(self.rows)
            dataset.normalise(self.queries)
        self.singles = [self.library.one_query(query) for query in self.queries]
        return {}

    def _new(self, n_rows):
        self.library.drop()
        self.library.new(n_rows, self.shape.dim, self.shape.metric, self.M, self.ef_construction)

    def _build(self, rows, num_threads):
        with Clock() as clock:
            self._new(len(rows))
            self.library.add(rows, num_threads)
        return clock

    def build(self, num_threads):
        self._build(self.rows[:WARM_ROWS], num_threads)
        self.library.set_search(50, num_threads)
        self.library.search(self.queries[:WARM_QUERIES], self.k)
        self.library.drop()
        trim()
        before = resident()
        peak_is_fresh = reset_peak()
        clock = self._build(self.rows, num_threads)
        highest = peak() if peak_is_fresh else None
        trim()
        after = resident()
        answer = clock.as_dict()
        answer["resident"] = {key: after[key] - before[key] for key in after}
        answer["resident"]["before"] = before["rss"]
        answer["resident"]["peak"] = highest - before["rss"] if highest else None
        answer["simd"] = self.library.simd()
        answer["parts"] = self.library.memory_parts()
        self.before = before["rss"]
        gc.freeze()
        return answer

    def ingest(self, start, stop, num_threads):
        """Add rows start to stop to the index that the batches before have made."""
        if not self.library.grows:
            raise TypeError("it cannot add to an index that it has built")
        if start == 0:
            self._build(self.rows[:WARM_ROWS], num_threads)
            self._new(len(self.rows))
        with Clock() as clock:
            self.library.add(self.rows[start:stop], num_threads)
        return clock.as_dict()

    def search(self, ef, num_threads, min_seconds, score):
        """One pass: the batch again and again until min_seconds are over."""
        k, queries, library = self.k, self.queries, self.library
        library.set_search(ef, num_threads)
        library.search(queries[:WARM_QUERIES], k)
        calls = 0
        with Clock() as clock:
            stop = time.perf_counter() + min_seconds
            while True:
                found = library.search(queries, k)
                calls += 1
                if time.perf_counter() >= stop:
                    break
        answer = clock.as_dict()
        answer["qps"] = calls * len(queries) / clock.wall
        if score:
            answer["recall"], answer["recall_by_id"] = dataset.recall(
                self.rows, self.queries, self.shape.metric, library.ids(found),
                self.true_ids, self.bound)
        return answer

    def single(self, ef):
        """One pass of one query at a time, one thread: nanoseconds of each call."""
        k, library = self.k, self.library
        library.set_search(ef, 1)
        call, now = library.search_one, time.perf_counter_ns
        for query in self.singles[:WARM_QUERIES]:
            call(query, k)
        took = []
        for query in self.singles:
            start = now()
            call(query, k)
            took.append(now() - start)
        return {"ns": took}

    def memory(self):
        """Resident memory beyond the input after all the searching."""
        trim()
        return {"rss": resident()["rss"] - self.before}


def serve(name, arguments):
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)       # whatever a library prints must not break the protocol
    if not LIBRARIES[name].is_installed():
        print(json.dumps({"missing": True}), file=answers, flush=True)
        return
    worker = None
    gc.disable()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            worker = worker or Worker(name, arguments)
            answer = getattr(worker, request.pop("do"))(**request)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], json.loads(sys.argv[2]))
