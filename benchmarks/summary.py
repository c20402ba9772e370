#!/usr/bin/env python3
"""Put the figures of results/*.json into RESULTS.md, each kind under a heading of its own.

    python benchmarks/summary.py

Only what lies between the two marks in RESULTS.md is written, and a heading is there only when
some result has something for it.  The pages beside the JSON files say more.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import report
import scale_pages

HERE = Path(__file__).resolve().parent
BEGIN = "<!-- figures: written by summary.py, change nothing here -->"
END = "<!-- end of figures -->"
FIRST = {"hnswlib", "faiss", "usearch", "vecidx"}       # have sections written by hand
HEADINGS = {
    "peers": "Other libraries, one thread",
    "modes": "Modes of vecidx, one thread",
    "ood": "Queries out of distribution, one thread",
    "rows": "Growing with the rows",
    "threads": "Growing with the threads",
    "ingest": "Ingest in batches",
}


def kind_of(results):
    """Under which heading a result belongs; None where the sections written by hand have it."""
    if "question" in results:
        return results["question"]
    if results["data"].get("queries") == "ood":
        return "ood"
    labels = set(results["libraries"])
    if any(label.startswith("vecidx[") for label in labels):
        return "modes"
    return "peers" if labels - FIRST else None


def compared(results):
    """One line a library: QPS at equal recall with one thread, build, memory."""
    page = report.Page(results, report.BASES)
    points = {name: report.curve(x, 1) for name, x in page.libraries.items()}
    bases = {t: [report.at_recall(points[base], t) for base in page.bases]
             for t in report.TARGETS}
    rows = []
    for name, x in page.libraries.items():
        build = min(x["build"], key=lambda one: one["cpu_s"])
        rows.append([name, *(report.with_ratio(report.at_recall(points[name], t), bases[t])
                             for t in report.TARGETS),
                     f"{build['cpu_s']:.1f}", f"{build['resident']['rss'] / 1e6:.0f}"])
    yield from report.table(["library", *(f"QPS at {t:g}" for t in report.TARGETS),
                             "build CPU s", "resident MB"], rows)
    yield ""
    yield f"In brackets: over {' / over '.join(page.bases)}."


def figures(all_results):
    """The lines between the marks; all_results: (name, results) pairs."""
    found = {}
    for name, results in all_results:
        kind = kind_of(results)
        if kind is None:
            continue
        lines = (scale_pages.PAGES[kind](results["found"]) if "question" in results
                 else compared(results))
        found.setdefault(kind, []).extend(
            [f"### {name}", "", f"{results['machine']['cpu']}, commit "
             f"{results['machine']['commit']}, {results['date'][:10]}.", "", *lines, ""])
    for kind, heading in HEADINGS.items():
        if kind in found:
            yield from [f"## {heading}", "", *found[kind]]


def replaced(text, lines):
    """text with what lies between the marks replaced."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no line {BEGIN!r}, or none {END!r} after it")
    inside = "\n".join(lines).strip()
    return f"{before}{BEGIN}\n\n{inside}\n\n{END}{after}" if inside else \
        f"{before}{BEGIN}\n{END}{after}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="DIR")
    parser.add_argument("--page", type=Path, default=HERE / "RESULTS.md", metavar="FILE")
    args = parser.parse_args()
    files = sorted(args.results.glob("*.json"))
    lines = figures((path.stem, json.loads(path.read_text())) for path in files)
    try:
        args.page.write_text(replaced(args.page.read_text(), lines))
    except ValueError as error:
        sys.exit(f"summary.py: {args.page}: {error}")


if __name__ == "__main__":
    main()
