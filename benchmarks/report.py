#!/usr/bin/env python3
"""Turn a result of compare.py into a Markdown page and a plot.

    python benchmarks/report.py results/sift-128-euclidean.json

compare.py calls this itself; alone it redoes the page of an old result.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path

TARGETS = (0.90, 0.95, 0.99, 0.999)
BASES = ["hnswlib", "symphonyqg"]       # ratios are to those of these that were measured
QUIET = 0.05    # others may take this share of a core before the page says so


def at_recall(points, target):
    """(value, mark) that (recall, value) points promise at a recall; larger values are better.

    Linear in log(value) over recall between the neighbours on the points' upper right edge.
    '' = between two points, '*' = the lowest ef already has more recall and its value is given.
    None where no point has the recall."""
    edge = []
    for recall, value in sorted(points, key=lambda p: (-p[0], -p[1])):
        if not edge or value > edge[-1][1]:
            edge.append((recall, value))
    edge.reverse()      # rising recall, falling value
    for i, (recall, value) in enumerate(edge):
        if recall >= target:
            if i == 0:
                return value, "" if recall == target else "*"
            low, low_value = edge[i - 1]
            share = (target - low) / (recall - low)
            return math.exp(math.log(low_value) * (1 - share) + math.log(value) * share), ""
    return None


def best_qps(search):
    return max(one["qps"] for one in search["passes"])


def spread(search):
    values = [one["qps"] for one in search["passes"]]
    return (max(values) - min(values)) / max(values)


def curve(library, threads):
    return [(s["recall"], best_qps(s)) for s in library["search"] if s["threads"] == threads]


def recall_at_ef(library):
    """ef -> recall; if thread counts disagree (they should not), the lowest."""
    found = {}
    for search in library["search"]:
        found[search["ef"]] = min(search["recall"], found.get(search["ef"], 1.0))
    return found


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |",
             "|" + "|".join("---" if i == 0 else "---:" for i in range(len(head))) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def with_ratio(found, bases, number="{:,.0f}"):
    """'1,234 (2.00 x / 0.80 x)': a figure and what it is of each base, '-' where one has none."""
    if found is None:
        return "-"
    ratios = [f"{found[0] / base[0]:.2f} x" if base else "-" for base in bases]
    text = number.format(found[0]) + found[1]
    return text + (f" ({' / '.join(ratios)})" if set(ratios) - {"-"} else "")


class Page:
    def __init__(self, results, bases):
        self.r = results
        everyone = results["libraries"]
        self.bases = [name for name in bases if name in everyone] or [next(iter(everyone))]
        first = self.bases + [name for name in everyone if name not in self.bases]
        self.libraries = {name: everyone[name] for name in first}
        self.base = self.bases[0]
        self.b = self.libraries[self.base]

    def lines(self):
        out = []
        for part in (self.head, self.build, self.parts, self.equal_recall, self.equal_ef,
                     self.own_grids, self.qps_at_ef, self.single, self.noise):
            out += [*lines, ""] if (lines := list(part())) else []
        return out

    def head(self):
        data, s, m = self.r["data"], self.r["settings"], self.r["machine"]
        cpu = "/".join(str(x) for x in m["family_model_stepping"])
        yield f"# {data['file']}"
        yield ""
        yield (f"{data['n_rows']:,} x {data['dim']} ({data['storage']} in the file, float32 "
               f"to every library), {data['metric']}, {data['n_queries']} "
               f"{'out-of-distribution ' if data.get('queries') == 'ood' else ''}queries, "
               f"k = {s['k']}. "
               f"M = {s['M']}, ef_construction = {s['ef_construction']}, built with "
               f"{s['build_threads']} threads. Ratios are to {' / '.join(self.bases)}.")
        yield ""
        kind = "virtual, " if m["virtual"] else ""
        yield (f"{m['cpu']} (family/model/stepping {cpu}), {m['cores']} cores, {kind}"
               f"{', '.join(m['caches']) or 'caches not told'}; "
               f"{', '.join(m['features'])}; kernel {m['kernel']}, {m['libc']}, huge pages "
               f"{m['huge_pages'] or 'not told'}; Python {m['python']}; commit {m['commit']}; "
               f"{self.r['date']}.")
        yield ""
        for name, x in self.libraries.items():
            how = f"; {x['angular']}" if data["metric"] == "cosine" else ""
            terms = f"; {x['terms']}" if x.get("terms") else ""
            yield f"- {name} {x['version']}: {x['simd']}{how}{terms}"
        for name, why in self.r["skipped"].items():
            yield f"- {name}: left out ({why})"

    def build(self):
        raw = self.r["data"]["n_rows"] * self.r["data"]["dim"] * 4

        def fastest(x, key):
            return min(one[key] for one in x["build"])

        def memory(x):
            return x["build"][0]["resident"]["rss"]

        rows = []
        for name, x in self.libraries.items():
            cells = [name]
            for key in ("wall_s", "cpu_s"):
                ratio = fastest(x, key) / fastest(self.b, key)
                cells.append(f"{fastest(x, key):.1f} ({ratio:.2f} x)")
            first = x["build"][0]["resident"]
            cells += [f"{memory(x) / 1e6:.1f} ({memory(x) / memory(self.b):.3f} x)",
                      f"{memory(x) / raw:.2f}",
                      f"{first['peak'] / 1e6:.1f}" if first["peak"] else "-",
                      f"{x['after_search']['rss'] / 1e6:.1f}",
                      f"{first['huge'] / 1e6:.0f}" if "huge" in first else "-"]
            rows.append(cells)
        yield "## Build and memory"
        yield ""
        yield from table(["library", "wall s", "CPU s", "resident MB", "over raw rows",
                          "peak in build MB", "after searches MB", "in huge pages MB"], rows)
        yield ""
        yield (f"Best of {self.r['settings']['build_repeat']} build(s). Resident: the process "
               f"after the build less before it, input loaded both times. "
               f"Raw rows: {raw / 1e6:.1f} MB.")

    def parts(self):
        told = {name: x["parts"] for name, x in self.libraries.items() if x.get("parts")}
        if not told:
            return
        names = list(dict.fromkeys(part for parts in told.values() for part in parts))
        n = self.r["data"]["n_rows"]
        yield "## Memory by part, bytes a row"
        yield ""
        yield from table(["part", *told], [
            [part, *(f"{parts[part] / n:,.1f}" if part in parts else "-"
                     for parts in told.values())] for part in names])
        yield ""
        yield "As the index itself tells."

    def equal_recall(self):
        for threads in self.r["settings"]["threads"]:
            points = {name: curve(x, threads) for name, x in self.libraries.items()}
            bases = {target: [at_recall(points[base], target) for base in self.bases]
                     for target in TARGETS}
            rows = [[name, *(with_ratio(at_recall(mine, target), bases[target])
                             for target in TARGETS)] for name, mine in points.items() if mine]
            yield f"## QPS at equal recall, {threads} thread(s)"
            yield ""
            yield from table(["library", *(f"{t:g}" for t in TARGETS)], rows)
            yield ""
        yield (f"In brackets: over {' / over '.join(self.bases)}. "
               "Best pass of each ef, log QPS interpolated over recall. - not reached with the ef "
               "measured; * the lowest ef already has more recall, its QPS is given.")
        used = self.r["settings"]["threads"]
        if 1 in used and len(used) > 1:
            yield ""
            yield from self.scaling(max(used))

    def scaling(self, threads):
        rows = []
        for name, x in self.libraries.items():
            one = {s["ef"]: best_qps(s) for s in x["search"] if s["threads"] == 1}
            many = {s["ef"]: best_qps(s) for s in x["search"] if s["threads"] == threads}
            ratios = [many[ef] / one[ef] for ef in one if ef in many]
            if ratios:
                rows.append([name, f"{min(ratios):.2f}", f"{statistics.median(ratios):.2f}",
                             f"{max(ratios):.2f}"])
        yield from table([f"{threads} threads over 1, all ef", "least", "median", "most"], rows)

    def equal_ef(self):
        base = recall_at_ef(self.b)
        others = {name: recall_at_ef(x) for name, x in self.libraries.items()
                  if name != self.base}
        others = {name: mine for name, mine in others.items() if set(mine) & set(base)}
        rows, worst = [], {name: (math.inf, 0) for name in others}
        for ef in base:
            cells = [f"{ef:g}", f"{base[ef]:.4f}"]
            for name, mine in others.items():
                if ef not in mine:
                    cells.append("-")
                    continue
                cells.append(f"{mine[ef]:.4f} ({mine[ef] - base[ef]:+.4f})")
                worst[name] = min(worst[name], (mine[ef] - base[ef], ef))
            rows.append(cells)
        yield f"## recall@{self.r['settings']['k']} at equal ef (difference to {self.base})"
        yield ""
        yield from table(["ef", self.base, *others], rows)
        if others:
            yield ""
            yield "Lowest difference: " + ", ".join(
                f"{name} {least:+.4f} (ef {ef})" for name, (least, ef) in worst.items()) + "."

    def own_grids(self):
        """Curves of those whose sweep parameter is measured at other values than the base's."""
        base = set(recall_at_ef(self.b))
        for name, x in self.libraries.items():
            recalls = recall_at_ef(x)
            if set(recalls) & base:
                continue
            yield f"## {name}, by {x.get('sweep', 'ef')}"
            yield ""
            one = {s["ef"]: s for s in x["search"] if s["threads"] == min(
                self.r["settings"]["threads"])}
            yield from table([x.get("sweep", "ef"), "recall", "QPS (spread)"], [
                [f"{ef:g}", f"{recalls[ef]:.4f}", f"{best_qps(s):,.0f} ({spread(s):.0%})"]
                for ef, s in one.items()])
            yield ""

    def qps_at_ef(self):
        base = recall_at_ef(self.b)
        for threads in self.r["settings"]["threads"]:
            found = {name: {s["ef"]: s for s in x["search"] if s["threads"] == threads}
                     for name, x in self.libraries.items()}
            found = {name: mine for name, mine in found.items() if set(mine) & set(base)}
            rows = [[f"{ef:g}", *(f"{best_qps(mine[ef]):,.0f} ({spread(mine[ef]):.0%})"
                                  if ef in mine else "-" for mine in found.values())]
                    for ef in base]
            yield f"## QPS at equal ef, {threads} thread(s) (spread of the passes)"
            yield ""
            yield from table(["ef", *found], rows)
            yield ""
        yield (f"Best of {self.r['settings']['repeat']} passes; spread = (best - worst) / best.")

    def single(self):
        if not all(x["single"] for x in self.libraries.values()):
            return
        rows = []
        bases = [self._at(self.libraries[base], lambda s: s["best_pass_mean"])
                 for base in self.bases]
        for name, x in self.libraries.items():
            mean = self._at(x, lambda s: s["best_pass_mean"])
            p50, p99 = (self._at(x, lambda s, key=key: s["plain"][key]) for key in ("p50", "p99"))
            least50, least99 = (self._at(x, lambda s, key=key: s["min"][key])
                                for key in ("p50", "p99"))
            for target in TARGETS:
                if mean[target] is None:
                    continue
                rows.append([name, f"{target:g}",
                             with_ratio(mean[target], [base[target] for base in bases]),
                             *self._pair(p50[target], p99[target]),
                             *self._pair(least50[target], least99[target])])
        yield "## One query at a time, 1 thread"
        yield ""
        yield from table(["library", "recall", "QPS", "p50 us", "p99 us", "p99 / p50",
                          "p50 us, min", "p99 us, min", "p99 / p50, min"], rows)
        yield ""
        yield ("1-D queries through the Python API (faiss, symphonyqg: one row). QPS = 1 / mean of "
               "the best pass. Plain columns pool every call of every pass; 'min' takes each "
               "query's fastest pass first, which takes the machine's hiccups out and leaves the "
               "queries' own difference. Interpolated as above.")

    @staticmethod
    def _at(library, us):
        """target -> queries a second that us(single) comes to, as at_recall() gives them."""
        recalls = recall_at_ef(library)
        points = [(recalls[s["ef"]], 1e6 / us(s)) for s in library["single"]]
        return {target: at_recall(points, target) for target in TARGETS}

    @staticmethod
    def _pair(p50, p99):
        low, high = 1e6 / p50[0], 1e6 / p99[0]
        return f"{low:.1f}", f"{high:.1f}", f"{high / low:.2f}"

    def noise(self):
        passes = [(one, s["threads"]) for x in self.libraries.values() for s in x["search"]
                  for one in s["passes"]]
        shares = sorted(one["others_cpu_s"] / one["wall_s"] for one, _ in passes)
        used = [one["cpu_s"] / one["wall_s"] for one, threads in passes if threads == 1]
        m = self.r["machine"]
        loud = statistics.median(shares) > QUIET
        yield "## How quiet the machine was"
        yield ""
        yield (f"Others took {statistics.median(shares):.0%} of one core in the median pass, "
               f"{shares[-1]:.0%} in the worst; load average {m['load_before']:.2f} before, "
               f"{m['load_after']:.2f} after (ours included)."
               + (" **Not quiet: do not quote these figures.**" if loud else ""))
        if used:
            yield (f"CPU seconds over wall seconds of the 1-thread passes: {min(used):.2f} to "
                   f"{max(used):.2f} (1.00 = one core, never taken away).")


def plot(results, path):
    import matplotlib
    import numpy as np
    matplotlib.use("Agg")
    from matplotlib import pyplot

    used = results["settings"]["threads"]
    ticks = (0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)
    figure, axes = pyplot.subplots(1, len(used), figsize=(6.5 * len(used), 5), squeeze=False,
                                   sharey=True)
    for axis, threads in zip(axes[0], used, strict=True):
        for name, library in results["libraries"].items():
            points = sorted(curve(library, threads))
            axis.plot([p[0] for p in points], [p[1] for p in points], label=name, marker="o",
                      markersize=3, linewidth=2.2 if name.startswith("vecidx") else 1.2)
        axis.set(yscale="log", xlabel=f"recall@{results['settings']['k']}",
                 title=f"{threads} thread(s)")
        # Every step towards 1 as wide as it is hard: the axis is the logarithm of the misses.
        axis.set_xscale("function", functions=(lambda r: -np.log10(np.maximum(1.0002 - r, 1e-9)),
                                               lambda x: 1.0002 - 10.0 ** -x))
        axis.set_xlim(0.7, 1.0)
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.grid(True, which="both", alpha=0.3)
    axes[0][0].set_ylabel("queries a second")
    axes[0][0].legend()
    s = results["settings"]
    figure.suptitle(f"{results['data']['file']}, {results['data']['n_rows']:,} rows, M={s['M']}, "
                    f"ef_construction={s['ef_construction']}, {results['machine']['cpu']}",
                    fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def write(path, bases=BASES):
    """Write NAME.md and, with matplotlib, NAME.png beside NAME.json."""
    results = json.loads(path.read_text())
    page = Page(results, bases).lines()
    try:
        plot(results, path.with_suffix(".png"))
        page += [f"![QPS over recall]({path.with_suffix('.png').name})"]
    except ImportError:
        page += ["No plot: matplotlib is not installed."]
    path.with_suffix(".md").write_text("\n".join(page) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("results", type=Path, nargs="+", metavar="JSON")
    parser.add_argument("--base", type=lambda text: text.split(","), default=BASES,
                        metavar="LABEL,...", help="what ratios are to")
    args = parser.parse_args()
    for path in args.results:
        write(path, args.base)


if __name__ == "__main__":
    main()
