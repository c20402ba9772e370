"""Draw the stacks of `perf script` as a flame graph, an SVG that any browser shows.

    perf script --no-inline | python tools/flamegraph.py > flame.svg

Every box is a function; above it lie those it called; its width is its share of the samples.
Boxes side by side are in order of name, not of time.  Resting the pointer on one shows its share.
record_profile.py uses this as a module and adds inlined functions first.
"""

import colorsys
import re
import sys
import zlib
from collections import Counter
from html import escape
from pathlib import Path

WIDTH, ROW, MARGIN = 1200, 17, 10
LEAST = 0.3             # boxes narrower than this many pixels are left out
LETTER = 6.6            # width of one in pixels
# What a box belongs to, by its function or file: the hue of its colour.
HUES = [(r"^(walk|descend|many|scan|pair)_", 8),       # the walk and its kernels
        (r"\[vecidx\]$", 38),                          # the rest of the core
        (r"^(Py|_Py|py)|\[python", 215),
        (r"", 120)]                                    # libc, the kernel, what has no name

FRAME = re.compile(r"^\s+([0-9a-f]+)\s+(.*?)(?:\+0x([0-9a-f]+))?\s+\((.*)\)$")


def samples(lines):
    """The stacks in the text of perf script, leaf first: lists of (address, function, file)."""
    stack = []
    for line in lines:
        if match := FRAME.match(line):
            address, function, _, file = match.groups()
            stack.append((int(address, 16), function, file))
        elif not line.strip() and stack:
            yield stack
            stack = []
    if stack:
        yield stack


def is_core(file):
    return "vecidx/_core." in file


def frame_names(address, function, file):
    """The box of one frame."""
    if function == "[unknown]":
        return [f"[{Path(file).name or 'unknown'}]"]
    return [function + (" [vecidx]" if is_core(file) else "")]


def fold(stacks, names_of=frame_names):
    """Stacks, outermost first, and how often each was seen.  names_of(address, function, file)
    gives the boxes of a frame, outermost first."""
    folded = Counter()
    for stack in stacks:
        names = []
        for frame in reversed(stack):
            for name in names_of(*frame):
                # The interpreter's own frames without names would pile up.
                if not (names and name.startswith("[") and names[-1] == name):
                    names.append(name)
        folded[tuple(names)] += 1
    return folded


def tree_of(folded):
    """[count, {name: the same}] of everything."""
    root = [0, {}]
    for names, count in folded.items():
        node = root
        node[0] += count
        for name in names:
            node = node[1].setdefault(name, [0, {}])
            node[0] += count
    return root


def depth_of(node):
    return 1 + max(map(depth_of, node[1].values()), default=0)


def colour(name):
    hue = next(hue for pattern, hue in HUES if re.search(pattern, name))
    shade = zlib.crc32(name.encode()) % 20
    rgb = colorsys.hls_to_rgb(hue / 360, 0.62 + shade / 100, 0.65 + shade % 7 * 0.03)
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)


def svg(folded, title):
    """The drawing as text."""
    root = tree_of(folded)
    if not root[0]:
        raise ValueError("no samples: expected the output of perf script with call chains")
    height = depth_of(root) * ROW + 3 * MARGIN + 20
    boxes = []

    def draw(name, node, x, level):
        width = node[0] / root[0] * (WIDTH - 2 * MARGIN)
        if width < LEAST:
            return
        y = height - MARGIN - (level + 1) * ROW
        share = f"{escape(name)}: {node[0] / root[0]:.1%} ({node[0]} samples)"
        fits = int((width - 6) / LETTER)
        text = name if len(name) <= fits else name[:max(0, fits - 2)] + ".." if fits > 4 else ""
        boxes.append(f'<g><title>{share}</title><rect x="{x:.1f}" y="{y}" width="{width:.1f}" '
                     f'height="{ROW - 1}" rx="2" fill="{colour(name)}"/>'
                     f'<text x="{x + 3:.1f}" y="{y + 12}">{escape(text)}</text></g>')
        for child, below in sorted(node[1].items()):
            draw(child, below, x, level + 1)
            x += below[0] / root[0] * (WIDTH - 2 * MARGIN)

    draw("all", root, MARGIN, 0)
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="monospace" font-size="11">',
        '<rect width="100%" height="100%" fill="#fdfdf8"/>',
        f'<text x="{WIDTH / 2}" y="22" text-anchor="middle" font-size="15">{escape(title)}</text>',
        *boxes, "</svg>", ""])


def main():
    try:
        print(svg(fold(samples(sys.stdin)), "flame graph"), end="")
    except ValueError as error:
        sys.exit(f"flamegraph.py: {error}")


if __name__ == "__main__":
    main()
