"""Find texts that say the same: near duplicates in a set, by their vectors.

    python examples/deduplicate.py                 # the dictionary sample
    python examples/deduplicate.py --limit 0.05    # only pairs that are very near

Every text asks for its nearest; pairs nearer than a limit are joined to groups.
"""

import argparse

import numpy as np
from wordnet import SAMPLE

import vecidx
from vecidx.demo import Sample


def groups_of(vectors, limit, k=10):
    """Rows within a cosine distance of one another, joined: a list of lists of rows."""
    index = vecidx.Index(vectors.shape[1], metric="cosine")
    index.add(vectors)
    ids, distances = index.search(vectors, k=k)
    parent = np.arange(len(vectors))

    def root(row):
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for row, column in zip(*np.nonzero(distances <= limit)):
        parent[root(row)] = root(ids[row, column])
    groups = {}
    for row in range(len(vectors)):
        groups.setdefault(root(row), []).append(row)
    return [group for group in groups.values() if len(group) > 1]


def main(argv=None):
    parser = argparse.ArgumentParser(description="Find near duplicates among texts.")
    parser.add_argument("--limit", type=float, default=0.12, help="largest distance (0.12)")
    parser.add_argument("--show", type=int, default=8, help="groups to show (8)")
    args = parser.parse_args(argv)

    sample = Sample(SAMPLE)
    groups = groups_of(sample.rows, args.limit)
    print(f"{len(sample.rows):,} texts, {sum(map(len, groups)):,} of them in {len(groups):,} "
          "groups that say nearly the same")
    for group in sorted(groups, key=len, reverse=True)[:args.show]:
        print()
        for row in group[:5]:
            print("  " + sample.texts[row][:105])
        if len(group) > 5:
            print(f"  and {len(group) - 5} more")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
