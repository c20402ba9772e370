"""Draw the pictures of docs/algorithms.md: docs/pictures/*.svg.

    python tools/make_pictures.py

Each shows a true small example: points, links and walks are computed here as the
page says, in plain Python, and drawn as they come out.
"""

import math
import random
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "pictures"
GREY, BLUE, RED, GREEN = "#9aa5b1", "#1f6feb", "#d1242f", "#1a7f37"


class Picture:
    def __init__(self, width, height):
        self.size = (width, height)
        self.parts = []

    def line(self, a, b, colour=GREY, width=1.0, dash=None):
        extra = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(f'<line x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}" '
                          f'stroke="{colour}" stroke-width="{width}"{extra}/>')

    def dot(self, at, radius=4, colour=GREY, rim="#ffffff"):
        self.parts.append(f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{radius}" '
                          f'fill="{colour}" stroke="{rim}"/>')

    def cross(self, at, colour=RED, size=7):
        x, y = at
        self.line((x - size, y - size), (x + size, y + size), colour, 3)
        self.line((x - size, y + size), (x + size, y - size), colour, 3)

    def polygon(self, points, colour):
        text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polygon points="{text}" fill="{colour}" fill-opacity="0.07" '
                          f'stroke="{GREY}"/>')

    def box(self, x, y, width, height, colour, fill=0.15):
        self.parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="3" '
                          f'fill="{colour}" fill-opacity="{fill}" stroke="{colour}"/>')

    def text(self, at, text, size=14, colour="#24292f", anchor="start"):
        self.parts.append(f'<text x="{at[0]:.1f}" y="{at[1]:.1f}" font-size="{size}" '
                          f'fill="{colour}" text-anchor="{anchor}">{text}</text>')

    def save(self, name):
        width, height = self.size
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / name).write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" font-family="sans-serif">\n'
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n'
            + "\n".join(self.parts) + "\n</svg>\n", encoding="utf-8")


def some_points(n, width, height, seed, apart):
    """Points that keep a distance from one another."""
    rng, points = random.Random(seed), []
    while len(points) < n:
        point = (rng.uniform(20, width - 20), rng.uniform(20, height - 20))
        if all(math.dist(point, other) > apart for other in points):
            points.append(point)
    return points


def choose(point, candidates, points, most):
    """The heuristic: nearest first, each only if it is nearer to the point than to one chosen."""
    chosen = []
    for other in sorted(candidates, key=lambda i: math.dist(points[i], point)):
        if len(chosen) < most and all(
                math.dist(points[other], point) < math.dist(points[other], points[one])
                for one in chosen):
            chosen.append(other)
    return chosen


def graph_of(points, most=5):
    """Links both ways, chosen by the heuristic among all."""
    links = {i: set() for i in range(len(points))}
    for i, point in enumerate(points):
        for j in choose(point, [j for j in links if j != i], points, most):
            links[i].add(j)
            links[j].add(i)
    return links


def greedy(points, links, start, goal):
    path = [start]
    while True:
        best = min(links[path[-1]], key=lambda i: math.dist(points[i], goal), default=None)
        if best is None or math.dist(points[best], goal) >= math.dist(points[path[-1]], goal):
            return path
        path.append(best)


def draw_layers():
    picture = Picture(720, 470)
    flat = some_points(40, 300, 300, 4, 32)
    goal = (228, 92)
    levels = [list(range(40)), list(range(0, 40, 4)), [0, 12, 28]]

    def place(point, layer):             # a layer lies flat, seen from the side
        x, y = point
        return 60 + x * 1.45 + y * 0.45, 430 - layer * 150 - (300 - y) * 0.38 + 10

    start = 12
    for layer in (2, 1, 0):
        corners = [place(p, layer) for p in ((0, 0), (300, 0), (300, 300), (0, 300))]
        picture.polygon(corners, BLUE)
        picture.text((24, corners[3][1] - 6), f"layer {layer}", 14)
        members = levels[layer]
        points = [flat[i] for i in members]
        links = graph_of(points, 4)
        for i, others in links.items():
            for j in others:
                if i < j:
                    picture.line(place(points[i], layer), place(points[j], layer))
        path = greedy(points, links, members.index(start), goal)
        for a, b in zip(path, path[1:]):
            picture.line(place(points[a], layer), place(points[b], layer), RED, 2.5)
        for i, point in enumerate(points):
            picture.dot(place(point, layer), 4, RED if i in path else GREY)
        start = members[path[-1]]
        if layer:
            picture.line(place(flat[start], layer), place(flat[start], layer - 1), RED, 2, "5 4")
    picture.cross(place(goal, 0), GREEN)
    picture.text((place(goal, 0)[0] + 12, place(goal, 0)[1] + 18), "query", 14, GREEN)
    picture.save("layers.svg")


def draw_walk():
    picture = Picture(720, 420)
    points = some_points(130, 720, 420, 11, 32)
    links = graph_of(points, 5)
    goal, ef = (520, 150), 8
    start = min(links, key=lambda i: math.dist(points[i], (80, 350)))

    def far(i):
        return math.dist(points[i], goal)

    seen, pool, expanded = {start}, [start], []
    while True:
        todo = [i for i in pool if i not in expanded]
        if not todo:
            break
        node = todo[0]
        expanded.append(node)
        new = links[node] - seen
        seen |= new
        pool = sorted([*pool, *new], key=far)[:ef]
    for i, others in links.items():
        for j in others:
            if i < j:
                picture.line(points[i], points[j], "#d0d7de")
    for node in expanded:
        for j in links[node]:
            picture.line(points[node], points[j], "#8db4f2", 1.4)
    for i, point in enumerate(points):
        colour = (RED if i in pool else BLUE if i in expanded else "#6ea0e8" if i in seen
                  else GREY)
        picture.dot(point, 7 if i in pool else 5, colour)
    picture.cross(goal, GREEN)
    picture.dot(points[start], 9, "none", "#24292f")
    picture.text((points[start][0] - 10, points[start][1] + 26), "entry", 14)
    picture.text((12, 20), f"{len(points)} vectors, {len(seen)} compared (blue), of them "
                 f"{len(expanded)} expanded (dark), the best {ef} kept (red)", 14)
    picture.save("walk.svg")


def draw_heuristic():
    picture = Picture(720, 300)
    cluster = [(200, 110), (214, 128), (198, 136), (222, 104), (226, 122)]
    points = [*cluster, (55, 190), (160, 262), (52, 70)]
    centre = (140, 140)
    everyone = list(range(len(points)))
    nearest = sorted(everyone, key=lambda i: math.dist(points[i], centre))[:4]
    for shift, title, links in ((0, "the four nearest", nearest),
                                (370, "chosen by the heuristic",
                                 choose(centre, everyone, points, 4))):
        def at(point, shift=shift):
            return point[0] + shift, point[1] + 15

        for i in links:
            picture.line(at(centre), at(points[i]), BLUE, 2.5)
        for point in points:
            picture.dot(at(point), 6)
        picture.dot(at(centre), 8, RED)
        picture.text((shift + 30, 28), title, 16)
    picture.line((355, 20), (355, 280), "#d0d7de")
    picture.save("heuristic.svg")


def draw_codes():
    """Bytes at 384 dimensions and M = 16: docs/ARCHITECTURE.md has the table."""
    picture = Picture(720, 300)
    rows = (("sketch of a link", 640 // 32, GREEN, "estimated in registers, for every neighbour"),
            ("ranks", 128, BLUE, "read for the quarter that passes"),
            ("code", 384, BLUE, "read for the best of these"),
            ("vector", 1536, RED, "read for the best few, at the end"))
    for i, (name, n_bytes, colour, note) in enumerate(rows):
        y = 20 + 68 * i
        picture.box(150, y, n_bytes * 0.35, 30, colour)
        picture.text((138, y + 20), name, 14, anchor="end")
        picture.text((150, y + 47), f"{n_bytes} bytes: {note}", 13, "#57606a")
    picture.save("codes.svg")


if __name__ == "__main__":
    draw_layers()
    draw_walk()
    draw_heuristic()
    draw_codes()
