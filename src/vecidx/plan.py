"""How many shards, replicas, cores and how much memory: a cost model of a sharded index.

Memory follows from the planes of an index (docs/ARCHITECTURE.md, "Memory").  Time is

    search   (ef + EF0) * (A + B * dim) * (rows / 100,000) ** GROWTH     microseconds on one core
    build    dim and rows in the same form

with constants fitted to measured points (benchmarks/planning.py; one Zen 4 core at AVX-512).
docs/howto/planning.md says how well they fit, and where nobody has measured.
"""

import dataclasses
import math

M = 16
MODES = ("none", "sq8", "sq4", "auto")
DTYPES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1}

EF0 = 64                     # a walk expands some nodes whatever its ef
# mode -> (A, B, GROWTH) of a search.  sq4 is not measured: its walk is taken as sq8's with less
# to read.
SEARCH = {"none": (0.0, 0.0021, 0.14), "sq8": (0.10, 0.0009, 0.20),
          "sq4": (0.10, 0.0006, 0.20), "auto": (0.25, 0.0005, 0.10)}
# The same of a build, a row.
BUILD = {"none": (0, 0.54, 0.14), "sq8": (120, 0.12, 0.18), "sq4": (120, 0.12, 0.18),
         "auto": (0, 0.28, 0.10)}

# A scatter, beside the searches: fitted to benchmarks/results/ray-overhead.json, Ray's own calls.
SCATTER_MS = 1.3             # of one query to one shard, there and back
SCATTER_SHARD_MS = 0.6       # of the client's core, for every shard
REPLICA_MS = 0.9             # of a replica's core, for every call
MAX_LOAD = 0.6               # share of a core's time that searches may take
TAIL = 3.0                   # p99 over the mean of a search at that load
COLD_READ_US = 100           # of one row from a local NVMe disk, sixteen at a time
DISK_READS = 300_000         # of 4 KiB at random a second, one NVMe disk a machine
NODE_OVERHEAD_GB = 4         # system, Ray and its object store
FILL = 0.85                  # of a machine's memory
MAX_SHARD_ROWS = 25_000_000  # rebuilt, copied and loaded in minutes to an hour


def row_bytes(dim, dtype="float32", mode="none", metric="cosine"):
    """Bytes of one row: (hot, cold).  Hot is what each search reads at random."""
    vectors = _lines(DTYPES[dtype] * dim)
    links = _lines(8 * M) + 4 * M / (M - 1) + 5
    small = 8 + 8 + (4 if metric == "cosine" else 0)     # label, its map, norm
    if mode == "none":
        return links + small + vectors, 0
    codes = _lines(dim if mode != "sq4" else dim / 2)
    if mode == "auto":
        links += (640 if dim > 256 else 384) * math.ceil(2 * M / 32)
        codes = 128 if dim > 256 else codes
    return links + small + codes, vectors


def _lines(n):
    return 64 * math.ceil(n / 64)


def reranked(dim, mode, ef):
    """Rows whose vectors, which are on disk, a search for k = 10 compares."""
    if mode == "sq4":
        return 40 + ef // 4
    return 24 + ef // 4 if mode == "auto" and dim > 256 else 23


def search_us(rows, dim, mode="none", ef=64):
    """Microseconds of one query on one core."""
    return _cost(SEARCH[mode], rows, dim) * (ef + EF0)


def build_cpu_s(rows, dim, mode="none"):
    """CPU seconds of a build."""
    return 1e-6 * rows * _cost(BUILD[mode], rows, dim)


def scatter_ms(shards):
    """Milliseconds until a query has asked all shards and merged, the searches aside."""
    return SCATTER_MS + SCATTER_SHARD_MS * (shards - 1)


def _cost(constants, rows, dim):
    a, b, growth = constants
    return (a + b * dim) * (rows / 100_000) ** growth


@dataclasses.dataclass(frozen=True)
class Plan:
    """What :func:`plan` recommends, and why."""

    rows: int
    dim: int
    dtype: str
    mode: str
    ef: int
    qps: float
    p99_ms: float
    shards: int
    replicas: int
    machines: int
    cores: int                   # of all machines, for searches
    client_cores: int            # for asking all shards and merging
    memory_gb: float             # of all machines, that searches need hot
    disk_gb: float               # of all machines
    row_bytes: int               # hot
    query_ms: float              # mean, a shard's search
    expected_p99_ms: float
    max_qps: float
    build_core_hours: float
    bound: str                   # what decides the number of machines
    reachable: bool              # the p99


def plan(rows, dim, *, qps=100, p99_ms=50, dtype="float32", mode="sq8", metric="cosine", ef=64,
         cold=True, min_replicas=2, machine_gb=128, machine_cores=16):
    """The fewest equal machines that serve so many rows at a wanted rate and p99.

    Parameters
    ----------
    rows, dim : int
    qps, p99_ms : float
        Single queries a second in all, and the 99th percentile to keep.
    dtype, mode, metric, ef
        As for an index; ``mode`` is its quantization, ``"none"`` for none.
    cold : bool
        Leave full vectors on local disk where codes are searched.
    min_replicas : int
    machine_gb, machine_cores
        Of one machine.

    Returns
    -------
    Plan
    """
    _check(rows, dim, qps, p99_ms, dtype, mode, ef, min_replicas, machine_gb, machine_cores)
    hot, on_disk = row_bytes(dim, dtype, mode, metric)
    if not cold:
        hot, on_disk = hot + on_disk, 0
    usable = machine_gb * FILL - NODE_OVERHEAD_GB
    if usable <= 0:
        raise ValueError(f"machine_gb: {machine_gb} leaves nothing for an index")

    compared = reranked(dim, mode, ef)
    reads = compared * math.ceil(DTYPES[dtype] * dim / 4096 + 0.5) if on_disk else 0

    def at(shards):
        per = math.ceil(rows / shards)
        us = search_us(per, dim, mode, ef)
        cpu = us + 1000 * REPLICA_MS + (0.1 * COLD_READ_US if on_disk else 0)
        wait = COLD_READ_US * compared / 16 if on_disk else 0
        return cpu, (us + wait) / 1000, scatter_ms(shards) + TAIL * (us + wait) / 1000

    smallest = max(1, math.ceil(rows / MAX_SHARD_ROWS), math.ceil(rows * hot / (usable * 1e9)))
    best = None
    for shards in range(smallest, 16 * smallest + 64):
        cpu, query_ms, p99 = at(shards)
        replicas = min_replicas
        for_memory = rows * hot * replicas / (usable * 1e9)
        cores = qps * shards * cpu * 1e-6 / MAX_LOAD
        for_cores = cores / machine_cores
        for_disk = qps * shards * reads / (DISK_READS * MAX_LOAD)
        # A shard lies whole on a machine, and its replicas on different ones.
        per_machine = max(1, int(usable * 1e9 // max(1, hot * math.ceil(rows / shards))))
        for_shards = shards * replicas / per_machine
        needs = {"replicas": replicas, "memory": max(for_memory, for_shards), "cores": for_cores,
                 "disk": for_disk}
        machines = math.ceil(max(needs.values()))
        # More machines than the memory asks for hold more replicas.
        replicas = max(replicas, int(machines // max(1, needs["memory"] / replicas)))
        replicas = min(replicas, machines)
        limits = [machines * machine_cores * MAX_LOAD / (shards * cpu * 1e-6)]
        if reads:
            limits.append(machines * DISK_READS * MAX_LOAD / (shards * reads))
        found = Plan(
            rows, dim, dtype, mode, ef, qps, p99_ms, shards, replicas, machines,
            math.ceil(cores), math.ceil(qps * shards * SCATTER_SHARD_MS / 1000),
            round(rows * hot * replicas / 1e9, 1),
            round(rows * (hot + on_disk) * replicas / 1e9, 1), round(hot), round(query_ms, 3),
            round(p99, 2), round(min(limits)),
            round(build_cpu_s(math.ceil(rows / shards), dim, mode) * shards / 3600, 1),
            max(needs, key=needs.get), p99 <= p99_ms)
        if best is None or (not found.reachable, found.machines, found.shards) < \
                (not best.reachable, best.machines, best.shards):
            best = found
    return best


def _check(rows, dim, qps, p99_ms, dtype, mode, ef, min_replicas, machine_gb, machine_cores):
    for name, value in (("rows", rows), ("dim", dim), ("qps", qps), ("p99_ms", p99_ms),
                        ("ef", ef), ("min_replicas", min_replicas), ("machine_gb", machine_gb),
                        ("machine_cores", machine_cores)):
        if not value > 0 or math.isinf(value):
            raise ValueError(f"{name}: expected more than 0, got {value}")
    if mode not in MODES:
        raise ValueError(f"mode: expected {', '.join(MODES)}, got {mode!r}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype: expected {', '.join(DTYPES)}, got {dtype!r}")


def lines(found):
    """A plan in words."""
    yield (f"{found.rows:,} rows x {found.dim} {found.dtype}, quantization {found.mode}, "
           f"ef {found.ef}: {found.row_bytes:,} bytes a row in memory")
    yield (f"{found.shards} shards x {found.replicas} replicas on {found.machines} machines "
           f"({found.bound} decides)")
    yield (f"{found.memory_gb:,.0f} GB of memory, {found.disk_gb:,.0f} GB of disk and "
           f"{found.cores} cores busy for {found.qps:,.0f} queries/s "
           f"(these machines: up to {found.max_qps:,.0f}); clients: {found.client_cores} cores")
    yield (f"a shard's search {found.query_ms:.2f} ms, p99 of a query {found.expected_p99_ms:.1f} "
           f"ms" + ("" if found.reachable else f": above the wanted {found.p99_ms:g} ms"))
    yield f"build: {found.build_core_hours:,.1f} core hours"
