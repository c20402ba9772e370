"""Is an installed vecidx well?  Every SIMD level of this CPU gives the right neighbours.

    python wheels/smoke.py [LEVEL]       LEVEL: what the best level has to be

Needs nothing but the package.  Prints one line.  Under an emulator, VECIDX_EMULATOR is the command
that runs it: child processes would be the machine's own.
"""

import os
import subprocess
import sys

PROGRAM = """
import os, sys, tempfile
import numpy as np, vecidx
rows = np.random.default_rng(3).integers(-9, 10, (400, 35)).astype(np.float32)
exact = ((rows[:40, None] - rows[None]) ** 2).sum(2)
index = vecidx.Index(35)
index.add(rows)
ids, distances = index.search(rows[:40], k=3)
assert (ids[:, 0] == np.arange(40)).all(), ids[:, 0]
assert (distances == np.sort(exact, 1)[:, :3]).all()
index.delete([0, 1])
assert index.search(rows[0], k=1)[0][0] not in (0, 1)
with tempfile.TemporaryDirectory() as folder:
    index.save(os.path.join(folder, "a.vidx"))
    assert len(vecidx.load(os.path.join(folder, "a.vidx"))) == 398
assert os.path.isfile(os.path.join(vecidx.get_include(), "vecidx_api.h"))
"""


def output(code, level):
    env = {**os.environ, "VECIDX_SIMD": level}
    python = [*os.environ.get("VECIDX_EMULATOR", "").split(), sys.executable]
    return subprocess.run([*python, "-c", code], env=env, check=True, text=True,
                          stdout=subprocess.PIPE).stdout.strip()


def main(wanted=None):
    best = output("import vecidx; print(vecidx.simd_level())", "")
    if wanted not in (None, best):
        print(f"the best level is {best}, expected {wanted}")
        return 1
    levels = output("from vecidx import _core; print(*_core.simd_available())", "").split()
    for level in levels:
        output(PROGRAM, level)
    version = output("import sys, vecidx; print('vecidx', vecidx.__version__, 'on CPython', "
                     "sys.version.split()[0])", "")
    print(f"{version}: {' '.join(levels)}: well")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
