"""Search a dictionary by meaning, from a shell.

    python examples/semantic_search.py small animal with wings
    python examples/semantic_search.py --has sea ship
    python examples/semantic_search.py --folder dictionary volcano   # kept on disk
"""

import argparse
import textwrap

from wordnet import Dictionary

from vecidx.stores import Compare


def main(argv=None):
    parser = argparse.ArgumentParser(description="Search a dictionary by meaning.")
    parser.add_argument("words", nargs="+")
    parser.add_argument("-k", type=int, default=8, help="how many senses (8)")
    parser.add_argument("--has", help="only senses whose text has this")
    parser.add_argument("--folder", help="keep the store here")
    args = parser.parse_args(argv)

    dictionary = Dictionary(args.folder)
    where = Compare("itext", (), args.has, column="content") if args.has else None
    hits = dictionary.search(" ".join(args.words), args.k, where)
    for hit in hits:
        print(textwrap.shorten(f"{1 - hit.distance:.3f}  {hit.document.content}", 110,
                               placeholder=" ..."))
    if not hits:
        print("the dictionary has none of these words")
    return 0 if hits else 1


if __name__ == "__main__":
    raise SystemExit(main())
