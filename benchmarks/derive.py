#!/usr/bin/env python3
"""Make data sets of other kinds than those at hand, in the ann-benchmarks layout.

    python benchmarks/derive.py pca FILE.hdf5 --dim 100 --out wordnet-100.hdf5
    python benchmarks/derive.py patches PHOTOS --out patches-784.hdf5
    python benchmarks/derive.py contrast PHOTOS --out contrast-784.hdf5
    python benchmarks/derive.py gradients PHOTOS --out gradients-960.hdf5
    python benchmarks/derive.py normal --dim 100 --out normal-100.hdf5

pca        the rows of a set, less their mean, on their leading principal directions
patches    28 x 28 grey values of photographs, whole numbers of 0 to 255: what differs most is how
           bright they are, and near ones differ little
contrast   the same, each less its mean and over its standard deviation
gradients  orientations of edges, 20 of them at 3 scales in 16 cells of a piece of 64 x 64, rooted
normal     independent normal values, the hardest there is

PHOTOS is a folder, searched for *.jpg; Pillow reads them.  A set that a codec or a graph was not
tuned on shows what it takes for granted: "patches" showed rank codes too coarse by far.
"""

import argparse
from pathlib import Path

import dataset
import h5py
import numpy as np
from generate import DISTANCES, TRUTH_K, as_lengths

N_QUERIES = 1_000
A_PHOTO = 4_500                     # pieces of each


def photos(folder, side):
    """Grey values, the shorter side so long."""
    from PIL import Image
    Image.MAX_IMAGE_PIXELS = None
    for path in sorted(Path(folder).rglob("*.jpg")):
        image = Image.open(path).convert("L")
        scale = side / min(image.size)
        yield np.asarray(image.resize([int(n * scale) for n in image.size], Image.LANCZOS),
                         np.float32)


def corners(image, side, random):
    high, wide = image.shape
    for _ in range(A_PHOTO):
        yield random.integers(0, high - side), random.integers(0, wide - side)


def patches(folder, random, side=28, least_contrast=8):
    pieces = []
    for image in photos(folder, 400):
        for y, x in corners(image, side, random):
            piece = image[y:y + side, x:x + side]
            if piece.std() > least_contrast:
                pieces.append(np.rint(piece).clip(0, 255).ravel())
    return np.array(pieces, np.float32)


def contrast(folder, random):
    rows = patches(folder, random)
    return (rows - rows.mean(axis=1, keepdims=True)) / rows.std(axis=1, keepdims=True)


def orientations(image, scale, n=20):
    """How much of an edge of each orientation there is at each place."""
    from PIL import Image
    high, wide = image.shape
    coarse = Image.fromarray(image).resize((wide // scale, high // scale), Image.BOX)
    by_y, by_x = np.gradient(np.asarray(coarse.resize((wide, high), Image.BILINEAR)))
    strength = np.hypot(by_y, by_x) / 255
    angle = np.arctan2(by_y, by_x) % np.pi / np.pi * n
    low, part = np.floor(angle).astype(int) % n, angle - np.floor(angle)
    return [strength * ((low == i) * (1 - part) + ((low + 1) % n == i) * part) for i in range(n)]


def gradients(folder, random, cell=16, cells=4):
    pieces = []
    for image in photos(folder, 500):
        maps = np.stack([one for scale in (1, 2, 4) for one in orientations(image, scale)])
        sums = np.pad(maps.cumsum(axis=1).cumsum(axis=2), ((0, 0), (1, 0), (1, 0)))
        steps = cell * np.arange(cells + 1)
        for y, x in corners(image, cell * cells, random):
            at = sums[:, y + steps][:, :, x + steps]
            inside = at[:, 1:, 1:] - at[:, :-1, 1:] - at[:, 1:, :-1] + at[:, :-1, :-1]
            if inside.sum() > cell * cell / 2:
                pieces.append(np.sqrt((inside / cell ** 2).clip(0)).ravel())
    return np.array(pieces, np.float32)


def pca(path, dim, random):
    shape = dataset.read_shape(path)
    rows = np.concatenate([dataset.read_float32(path, "train", shape.n_rows),
                           dataset.read_float32(path, "test", shape.n_queries)])
    rows -= rows.mean(axis=0)
    sample = rows[random.permutation(len(rows))[:30_000]]
    return rows @ np.linalg.svd(sample, full_matrices=False)[2][:dim].T, shape.metric


def write(path, rows, distance, random, n_rows):
    """A share of the rows are queries."""
    metric = DISTANCES[distance]
    rows = np.ascontiguousarray(rows[random.permutation(len(rows))][:n_rows + N_QUERIES],
                                np.float32)
    if metric == "cosine":
        dataset.normalise(rows)
    train, test = rows[:-N_QUERIES], rows[-N_QUERIES:]
    ids, distances = dataset.search_exactly(train, test, TRUTH_K, metric)
    with h5py.File(path, "w") as file:
        file["train"], file["test"] = train, test
        file["neighbors"] = ids.astype(np.int32)
        file["distances"] = as_lengths(distances, metric) if metric == "l2" else distances
        file.attrs["distance"] = distance


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=["pca", "patches", "contrast", "gradients", "normal"])
    parser.add_argument("source", nargs="?", help="a data set (pca) or a folder of photographs")
    parser.add_argument("--dim", type=int, default=100, help="of pca and normal")
    parser.add_argument("--rows", type=int, default=120_000, help="at most")
    parser.add_argument("--out", required=True)
    args = parser.parse_args(argv)
    if (args.source is None) != (args.kind == "normal"):
        parser.error(f"{args.kind}: " + ("takes no source" if args.source else "needs a source"))
    random = np.random.default_rng(7)
    distance = "euclidean"
    if args.kind == "pca":
        rows, metric = pca(args.source, args.dim, random)
        distance = {metric: name for name, metric in DISTANCES.items()}[metric]
    elif args.kind == "normal":
        rows = random.standard_normal((args.rows + N_QUERIES, args.dim), dtype=np.float32)
    else:
        rows = {"patches": patches, "contrast": contrast,
                "gradients": gradients}[args.kind](args.source, random)
    if len(rows) <= 2 * N_QUERIES:
        parser.error(f"{args.kind}: {len(rows)} rows of {args.source} are too few")
    write(args.out, rows, distance, random, args.rows)


if __name__ == "__main__":
    main()
