"""`vecidx demo`: nearest neighbours among the senses of a dictionary.

Reads the repository's sample (examples/data/README.md says what is in it),
builds an index over it, and shows what a search gives and costs.
"""

import re
import shutil
import textwrap
import time
from pathlib import Path

import numpy as np

from vecidx._machine import human_bytes, simd_level
from vecidx.index import Index
from vecidx.readers import NPZ_ERRORS, ReaderError

SAMPLE = Path("examples/data/wordnet-sample.npz")

# Held-out senses that the demo asks for, by their first word.
SHOWN = ("camel", "seismography", "lycanthropy", "nephology")


class Sample:
    """rows (n, dim) and queries (m, dim) as float32, with a text for each."""

    def __init__(self, path):
        try:
            data = np.load(path, allow_pickle=False)
            if not isinstance(data, np.lib.npyio.NpzFile):
                raise ValueError("no .npz archive")
            with data:
                self.rows = data["rows"] * data["scales"][:, None]
                self.queries = data["query_rows"] * data["query_scales"][:, None]
                self.texts = _unpack(data["texts"], data["text_offsets"])
                self.query_texts = _unpack(data["query_texts"], data["query_text_offsets"])
        except (*NPZ_ERRORS, IndexError, OSError) as err:
            if isinstance(err, OSError) and err.errno is not None:
                raise                    # the system's: FileNotFoundError and its like
            raise ReaderError(f"{path}: not the demo's sample ({err}); see "
                              "examples/data/README.md") from err
        if len(self.rows) != len(self.texts) or len(self.queries) != len(self.query_texts):
            raise ReaderError(f"{path}: not the demo's sample: rows and texts differ in number")


def _unpack(blob, offsets):
    data = blob.tobytes()
    return [data[a:b].decode("utf-8") for a, b in zip(offsets, offsets[1:])]


def find_sample(path=None):
    """The sample's path: as given, or in the checkout around us or this module."""
    if path is not None:
        return Path(path)
    here = Path(__file__).resolve()
    for root in [Path.cwd(), *Path.cwd().parents, *here.parents]:
        if (root / SAMPLE).is_file():
            return root / SAMPLE
    raise ReaderError(f"{SAMPLE} was not found here or above; run from a checkout of the "
                      "repository, or name the file with --data")


def best_match(text, texts):
    """The row whose text fits best the words that were typed, or None.

    A row whose own words (before the colon) are all of the text wins over one
    that has them among others, that over one whose gloss has them.
    """
    wanted = _words(text)
    best, best_score = None, 0.0
    for row, candidate in enumerate(texts):
        head, _, gloss = candidate.partition(":")
        lemmas = [_words(lemma) for lemma in head.split(",")]
        in_head = len(wanted & set().union(*lemmas))
        score = (10.0 * any(lemma == wanted for lemma in lemmas) + 3.0 * in_head
                 + len(wanted & _words(gloss)))
        if score:
            score -= 0.001 * len(candidate)     # of equals, the shorter text
        if score > best_score:
            best, best_score = row, score
    return best


def _words(text):
    return set(re.findall(r"[a-z0-9]+", text.lower()))


def run(path, *, query, k, threads, progress):
    """Build, ask, measure: everything the demo reports, as a dict for --json."""
    sample = Sample(path)
    n, dim = sample.rows.shape
    questions = _questions(sample, query)
    index = Index(dim, metric="cosine", num_threads=threads)
    start = time.perf_counter()
    index.add(sample.rows, progress=progress)
    build_s = time.perf_counter() - start

    shown = []
    for text, vector, own_row in questions:
        # A stored sense finds itself first, which nobody wants to be told.
        ids, distances = index.search(vector, k=k if own_row is None else k + 1)
        neighbours = [{"id": int(i), "distance": float(d), "text": sample.texts[i]}
                      for i, d in zip(ids, distances) if i >= 0 and i != own_row][:k]
        shown.append({"sense": text, "neighbours": neighbours})

    return {
        "data": str(path),
        "rows": n,
        "dim": dim,
        "simd": simd_level(),
        "build_seconds": build_s,
        "build_rows_per_second": n / build_s,
        "memory_bytes": index.memory()["total"],
        "answers": shown,
        **measure(index, sample.queries),
    }


def _questions(sample, query):
    """[(text, vector, its row if it is a stored one), ...] to show neighbours of."""
    if query is not None:
        row = best_match(query, sample.texts)
        if row is None:
            raise ReaderError(f"no sense in the sample has a word of {query!r}; try another, "
                              "for example --query volcano")
        return [(sample.texts[row], sample.rows[row], row)]
    first_words = [text.split(":")[0].split(",")[0] for text in sample.query_texts]
    rows = [first_words.index(word) for word in SHOWN if word in first_words]
    return [(sample.query_texts[row], sample.queries[row], None) for row in rows]


def measure(index, queries, k=10):
    """Microseconds of a single query, walking and exact, and recall@k between them."""
    index.search(queries[0], k=k)                 # the first call pays for first touches
    start = time.perf_counter()
    found = [index.search(query, k=k, num_threads=1) for query in queries]
    walk_s = time.perf_counter() - start
    start = time.perf_counter()
    true = [index.search(query, k=k, exact=True, num_threads=1) for query in queries]
    exact_s = time.perf_counter() - start
    # By distance, so that rows at equal distance count as equally right.
    hits = sum(int((f[1] <= t[1][-1] + 1e-6).sum()) for f, t in zip(found, true))
    return {
        "queries": len(queries),
        "k": k,
        "query_microseconds": 1e6 * walk_s / len(queries),
        "exact_microseconds": 1e6 * exact_s / len(queries),
        "recall": hits / (k * len(queries)),
    }


def show(report, query):
    """The report as lines for a person."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 110)
    lines = [
        f"{report['rows']:,} senses of the WordNet dictionary, each an embedding of "
        f"{report['dim']} numbers.",
        f"Built an HNSW index in {report['build_seconds']:.2f} s "
        f"({report['build_rows_per_second']:,.0f} rows/s, "
        f"{human_bytes(report['memory_bytes'])}, {report['simd']} kernels).",
    ]
    for answer in report["answers"]:
        lines += ["", "Which senses are nearest to"]
        lines += _wrap(answer["sense"], "  ", width)
        for neighbour in answer["neighbours"]:
            lines += _wrap(neighbour["text"], f"    {neighbour['distance']:.3f}  ", width)
    speed = report["exact_microseconds"] / report["query_microseconds"]
    lines += [
        "",
        f"Distances are 1 - cosine: 0 is the same direction.  Over {report['queries']} held-out "
        "senses, one thread:",
        f"  {report['query_microseconds']:7.0f} microseconds a query, "
        f"recall@{report['k']} {report['recall']:.3f}",
        f"  {report['exact_microseconds']:7.0f} microseconds for the exact answer "
        f"({speed:.1f} times as long)",
        "",
        "Next:",
    ]
    if query is None:
        lines.append("  vecidx demo --query \"musical instrument\"     neighbours of a sense "
                     "of your own")
    else:
        lines.append("  vecidx demo --query volcano                  another sense")
    lines += [
        "  vecidx build vectors.npy -o my.vidx          an index over your own vectors",
        "  vecidx search my.vidx queries.npy -k 5       and its answers",
        "  python -c \"import vecidx; help(vecidx.Index)\"  the same from Python",
    ]
    return "\n".join(lines)


def _wrap(text, indent, width):
    """Text wrapped under its first line's indent, at most two lines of it."""
    lines = textwrap.wrap(text, width=width - len(indent)) or [""]
    if len(lines) > 2:
        lines = [lines[0], textwrap.shorten(" ".join(lines[1:]), width - len(indent) - 4,
                                            placeholder=" ...")]
    return [indent + lines[0]] + [" " * len(indent) + line for line in lines[1:]]
