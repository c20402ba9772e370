"""Kill a process that writes a durable index, again and again; look what is left.

    python tools/crash_test.py [--kills 200] [--seed 0] [--sync always]

A writer adds, replaces, deletes and makes checkpoints at random, says through
a pipe what it is about to do and what has returned, and is killed (SIGKILL)
at a random moment, which may be in the middle of open, of a save or of a
replay.  Then the index must open, pass check(), and hold exactly what was
acknowledged; the one write that was under way is there as a whole or not at
all.  The next writer goes on with the same files.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

import vecidx

DIM = 16
N_IDS = 3000


def rows_of(ids, version):
    """The vectors that a version of these ids has."""
    seeds = np.asarray(ids, np.float64)[:, None] * 7.13 + version * 0.61
    return np.sin(seeds * np.arange(1, DIM + 1)).astype(np.float32)


# ---- the writer --------------------------------------------------------------------


def say(**what):
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def write(path, seed, sync):
    """Change the index until killed."""
    random.seed(seed)
    index = vecidx.open(path, DIM, M=6, ef_construction=30, sync=sync)
    say(open=True)
    version = seed * 1_000_000
    while True:
        version += 1
        op = random.choices(["add", "add many", "delete", "checkpoint"], [60, 5, 25, 3])[0]
        n = random.randint(100, 600) if op == "add many" else random.randint(1, 8)
        ids = random.sample(range(N_IDS), n)
        say(op=op.split()[0], ids=ids, version=version)
        if op == "checkpoint":
            index.checkpoint()
        elif op == "delete":
            index.delete(ids, missing="ignore")
        else:
            index.add(rows_of(ids, version), ids=ids)
        say(done=version)


# ---- the judge ---------------------------------------------------------------------


def apply(state, change):
    """`state`, id -> version, after a change."""
    state = dict(state)
    for id in change["ids"]:
        if change["op"] == "add":
            state[id] = change["version"]
        elif change["op"] == "delete":
            state.pop(id, None)
    return state


def run_writer(path, seed, sync, delay, counts):
    """Let a writer work for a while, and kill it; (its changes, whether all returned)."""
    command = [sys.executable, __file__, "--write", str(path), "--seed", str(seed), "--sync", sync]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE)
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(writer.stdout))
    if delay >= 0:                          # after it has opened; else at once, maybe inside open
        lines.append(writer.stdout.readline())
    reader.start()
    time.sleep(abs(delay))
    if writer.poll() is not None:
        sys.exit(f"FAILED: the writer ended by itself, seed {seed}")
    writer.kill()
    reader.join()
    writer.wait()
    writer.stdout.close()
    changes, all_done = [], True
    for line in lines:
        said = json.loads(line) if line.endswith(b"\n") else {}
        if "op" in said:
            changes.append(said)
            all_done = False
        elif "done" in said:
            all_done = True
    counts["in open" if not lines else
           "between" if all_done else f"in {changes[-1]['op']}"] += 1
    counts["writes"] += len(changes)
    return changes, all_done


def judge(path, state, changes, all_done):
    """The state that the files hold; AssertionError if it is none of those allowed."""
    for change in changes if all_done else changes[:-1]:
        state = apply(state, change)
    allowed = [state] if all_done else [state, apply(state, changes[-1])]
    with_log = vecidx.open(path, DIM)
    try:
        with_log.check()
        ids = sorted(with_log.ids().tolist())
        rows = with_log.get(ids)
    finally:
        with_log.close(checkpoint=False)
    for state in allowed:
        if ids == sorted(state) and (not ids or (rows == np.vstack(
                [rows_of([id], state[id]) for id in ids])).all()):
            return state
    lost = sorted(set(allowed[0]) - set(ids))[:5]
    raise AssertionError(f"not the acknowledged state: {len(ids)} ids, expected "
                         f"{[len(s) for s in allowed]}; missing {lost}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sync", default="always", choices=["always", "interval", "none"])
    parser.add_argument("--write", metavar="PATH", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write:
        return write(args.write, args.seed, args.sync)
    chance = random.Random(args.seed)
    counts = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path, state = Path(folder, "index.vidx"), {}
        for kill in range(1, args.kills + 1):
            delay = chance.uniform(0, 0.15) if chance.random() < 0.85 else -chance.uniform(0.1, 0.5)
            changes, all_done = run_writer(path, args.seed + kill, args.sync, delay, counts)
            if path.exists() or changes:
                state = judge(path, state, changes, all_done)
        left = sorted(name.name for name in Path(folder).iterdir())
    print(f"{args.kills} kills, {counts.pop('writes')} writes, {len(state)} rows at the end; "
          f"killed {', '.join(f'{where}: {n}' for where, n in sorted(counts.items()))}; "
          f"files: {', '.join(left)}")


if __name__ == "__main__":
    main()
