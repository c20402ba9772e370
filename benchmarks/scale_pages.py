"""The tables of scale.py: rows, threads, ingest."""

from __future__ import annotations

import numpy as np
import report

TARGETS = (0.90, 0.95, 0.99)


def slope(batches):
    """Share of its speed that the index loses every time it doubles: rows a second taken as a
    power of the rows there in the middle of the batch, by least squares.  None of one batch."""
    if len(batches) < 2:
        return None
    x = np.log2([batch["rows_before"] + batch["rows"] / 2 for batch in batches])
    y = np.log2([batch["rows"] / batch["wall_s"] for batch in batches])
    return 1.0 - 2.0 ** np.polyfit(x, y, 1)[0]


def page(results):
    yield f"# {results['data']}: {results['question']}"
    yield ""
    m, s = results["machine"], results["settings"]
    yield (f"{m['cpu']}, {m['cores']} cores, huge pages {m['huge_pages'] or 'not told'}; commit "
           f"{m['commit']}; {results['date']}. M = {s['M']}, ef_construction = "
           f"{s['ef_construction']}, built with {s['build_threads']} threads.")
    yield ""
    for label, why in results["skipped"].items():
        yield f"- {label}: left out ({why})"
    yield ""
    yield from PAGES[results["question"]](results["found"])


def rows_page(found):
    def qps(entry):
        return [report.with_ratio(at and tuple(at), []) for at in entry["qps_at"].values()]

    yield from report.table(
        ["library", "rows", *(f"QPS at {t:g}" for t in TARGETS), "build us a row (wall)",
         "bytes a row"],
        [[label, f"{e['rows']:,}", *qps(e), f"{e['build_wall_s'] / e['rows'] * 1e6:,.0f}",
          f"{e['resident'] / e['rows']:,.0f}"] for label, entries in found.items()
         for e in entries])


def threads_page(found):
    yield from report.table(
        ["library", "threads", "QPS", "over the first", "build s", "over the first"],
        [[label, str(e["threads"]), f"{e['qps']:,.0f}" if e["qps"] else "-",
          f"{e['qps'] / entries[0]['qps']:.2f} x" if e["qps"] else "-",
          f"{e['build_wall_s']:.1f}", f"{entries[0]['build_wall_s'] / e['build_wall_s']:.2f} x"]
         for label, entries in found.items() for e in entries])


def ingest_page(found):
    yield from report.table(
        ["library", "rows before", "rows/s"],
        [[label, f"{e['rows_before']:,}", f"{e['rows'] / e['wall_s']:,.0f}"]
         for label, entries in found.items() for e in entries])
    yield ""
    for label, entries in found.items():
        lost = slope(entries)
        if lost is not None:
            yield f"- {label}: loses {lost:.0%} of its speed every time it doubles"


PAGES = {"rows": rows_page, "threads": threads_page, "ingest": ingest_page}
