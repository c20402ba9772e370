"""Check who includes or imports whom; see "Rooms" in CONTRIBUTING.md.

    python tools/check_includes.py [root of the repository]

Prints every violation as file:line and exits with 1 if there is one.
"""

import re
import sys
from pathlib import Path

# Room of csrc/ -> rooms it may include from.  vecidx.h is open to all.
ROOMS = {
    "base": {"base"},
    "dist": {"base", "dist"},
    "store": {"base", "store"},
    "quant": {"base", "dist", "quant"},
    "hnsw": {"base", "dist", "quant", "store", "hnsw"},
    "index": {"base", "dist", "quant", "store", "hnsw", "index"},
}
# The graph lives in memory: files are store's business.
NOT_IN_HNSW = {"store_file.h", "fcntl.h", "unistd.h", "sys/mman.h", "sys/stat.h", "windows.h"}
BINDING_INCLUDES = {"vecidx.h", "vecidx_api.h", "Python.h"}
# Modules below the public face.  All others use vecidx.Index like any program.
CORE_MODULES = {"__init__.py", "index.py", "durable.py", "errors.py", "filters.py",
                "strings.py"}

INCLUDE = re.compile(r'\s*#\s*include\s*(["<])([^">]+)[">]')
EXTERN = re.compile(r'\s*cdef\s+extern\s+from\s+["<]([^">]+)[">]')
IMPORT_CORE = re.compile(r"\s*(from|import)\b.*\b(_core|_validate)\b")


def lines_of(path):
    return enumerate(path.read_text(encoding="utf-8").splitlines(), 1)


def check_c(csrc):
    """Yield (path, line number, complaint) for the C core."""
    by_name = {}
    for path in sorted(csrc.rglob("*.[ch]")):
        if (first := by_name.setdefault(path.name, path)) != path:
            yield path, 1, f"base name is taken by {first.relative_to(csrc)}"
        room = path.parent.name if path.parent != csrc else None
        if room is not None and (room not in ROOMS or path.parent.parent != csrc):
            yield path, 1, f"no such room: {path.parent.relative_to(csrc)}"
            continue
        for number, line in lines_of(path):
            if not (match := INCLUDE.match(line)):
                continue
            ours, name = match[1] == '"', match[2]
            if room is None:
                if name not in ("stddef.h", "stdint.h", "vecidx.h"):
                    yield path, number, f"the public header includes {name}"
                continue
            if room == "hnsw" and {name, Path(name).name} & NOT_IN_HNSW:
                yield path, number, f"hnsw opens no file, but includes {name}"
            if not ours:
                continue
            target = (path.parent / name).resolve()
            if not target.is_file() or csrc not in target.parents:
                yield path, number, f'"{name}" is no file of csrc'
            elif target.parent != csrc and target.parent.name not in ROOMS[room]:
                yield path, number, f"{room} may not include from {target.parent.name}: {name}"


def check_python(package):
    """Yield the same for the binding and the modules above it."""
    for path in sorted([*package.rglob("*.pyx"), *package.rglob("*.pxd")]):
        for number, line in lines_of(path):
            if (match := EXTERN.match(line)) and match[1] not in BINDING_INCLUDES:
                yield path, number, f"the binding includes only vecidx.h, not {match[1]}"
    for path in sorted(package.rglob("*.py")):
        if path.parent == package and (path.name in CORE_MODULES or path.name.startswith("_")):
            continue
        for number, line in lines_of(path):
            if match := IMPORT_CORE.match(line):
                yield path, number, f"only the core imports {match[2]}; use vecidx.Index"


def main(root="."):
    package = Path(root).resolve() / "src" / "vecidx"
    found = [*check_c(package / "csrc"), *check_python(package)]
    for path, number, complaint in found:
        print(f"{path.relative_to(package.parent.parent)}:{number}: {complaint}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
