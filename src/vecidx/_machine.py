"""What the machine has, and how much of it calls may use."""

from vecidx import _core
from vecidx._validate import check_threads


def simd_level():
    """The kernels in use: "scalar", "avx2", "avx512", "avx512vnni" or "neon"."""
    return _core.simd_level()


def cpu_features():
    """Features that were looked for: name -> whether CPU and system both have it."""
    return _core.cpu_features()


def set_num_threads(n):
    """Threads that a call uses when neither it nor its index names a number.

    None restores the default: the CPUs that this process may run on, by
    affinity and cgroup quota.
    """
    _core.set_num_threads(check_threads(n))


def get_num_threads():
    """Threads that a call uses when neither it nor its index names a number."""
    return _core.get_num_threads()


def human_bytes(n):
    """12345678 -> '11.8 MiB'."""
    if n < 1024:
        return f"{n} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        n /= 1024
        if n < 1024 or unit == "TiB":
            return f"{n:.1f} {unit}"
