"""What a reader has to know of the machine and the tree to believe a figure."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path


def _read(path):
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def git_commit():
    def git(*words):
        done = subprocess.run(["git", *words], cwd=Path(__file__).parent,
                              capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        if commit is None:
            return "none yet"
        changed = git("status", "--porcelain", "--", "../src", "../setup.py")
        return commit + (" + changes" if changed else "")
    except OSError:
        return "unknown"


def describe():
    cpu = {}
    for line in _read("/proc/cpuinfo").split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        cpu[key.strip()] = value.strip()
    caches = []
    for cache in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind = {"Data": "d", "Instruction": "i"}.get(_read(cache / "type"), "")
        caches.append(f"L{_read(cache / 'level')}{kind} {_read(cache / 'size')}")
    wanted = ("avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "asimd", "asimddp")
    features = set((cpu.get("flags") or cpu.get("Features") or "").split())
    return {
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "family_model_stepping": [cpu.get(key) for key in ("cpu family", "model", "stepping")],
        "features": [name for name in wanted if name in features],
        "caches": caches,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "virtual": "hypervisor" in features,
        "huge_pages": _read("/sys/kernel/mm/transparent_hugepage/enabled"),
        "kernel": platform.release().split("-")[0],
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        "commit": git_commit(),
        "load_before": os.getloadavg()[0],
    }
