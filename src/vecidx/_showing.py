"""class Showing: what an index says of itself, in numbers, words and pictures."""

import html

import numpy as np

from vecidx import _core
from vecidx._extras import need
from vecidx._machine import human_bytes
from vecidx._validate import check_k


class Showing:
    """Part of :class:`vecidx.Index`."""

    __slots__ = ()

    def stats(self):
        """Counts about the graph.

        Returns
        -------
        dict
            ``count`` rows that a search may return; ``deleted`` rows replaced
            or deleted that are still ways through the graph; ``free`` places of
            such rows that later ones will take; ``duplicates`` rows equal to another, which
            hang off it and have no links of their own; ``links`` on layer 0
            and how many of them the pruning heuristic chose, ``links_chosen``;
            ``quantized`` whether codes are in use;
            ``rows_at_level``, a list: rows whose highest layer is 0, 1, ...
        """
        return self._core.stats()

    def memory(self):
        """Bytes taken from the system, by part.

        Returns
        -------
        dict of str to int
            ``total`` is the sum of ``vectors``, ``links``, ``upper_links``,
            ``codes``, ``ranks``, ``sketches``, ``labels``, ``label_map``,
            ``scratch`` and ``other``.  ``reserved`` is address space, which costs
            no memory; ``mapped`` is the length of a mapped file, in memory as far
            as it is read and shared by processes.
        """
        return self._core.memory()

    def __repr__(self):
        if self.closed:
            return "<vecidx.Index: closed>"
        count = len(self)
        rows = "empty" if count == 0 else f"{count:,} row{'s' * (count != 1)}"
        memory = self.memory()
        mapped = f" + {human_bytes(memory['mapped'])} mapped" if memory["mapped"] else ""
        quantized = f", quantization={self._quantization!r}" if self._quantization else ""
        return (f"<vecidx.Index: {rows} x {self._dim} {self._dtype}, metric={self._metric!r}, "
                f"M={self._M}, ef_construction={self._ef_construction}{quantized}, "
                f"{human_bytes(memory['total'])}{mapped}, {_core.simd_level()}>")

    def _repr_html_(self):
        """What a notebook shows: a small table."""
        if self.closed:
            return html.escape(repr(self))
        memory = self.memory()
        rows = {"vectors": f"{len(self):,} x {self._dim} {self._dtype}", "metric": self._metric,
                "M, ef_construction": f"{self._M}, {self._ef_construction}",
                "quantization": self._quantization or "none",
                "memory": human_bytes(memory["total"]), "kernels": _core.simd_level()}
        if memory["mapped"]:
            rows["mapped"] = human_bytes(memory["mapped"])
        if self._tuned.curves:
            rows["tuned for k"] = ", ".join(map(str, sorted(self._tuned.curves)))
        cells = "".join(f"<tr><th style='text-align: left'>{html.escape(name)}</th>"
                        f"<td style='text-align: left'>{html.escape(value)}</td></tr>"
                        for name, value in rows.items())
        return f"<table><caption>vecidx.{type(self).__name__}</caption>{cells}</table>"

    def plot_recall(self, k=None, *, ax=None):
        """Draw what :meth:`tune` measured: recall by ``ef``, a line for each ``k``.

        Parameters
        ----------
        k : int or sequence of int, optional
            By default all that were measured.
        ax : matplotlib.axes.Axes, optional
            Where to draw; by default a new figure.

        Returns
        -------
        matplotlib.axes.Axes
            The band around a line is two standard deviations of the mean wide
            on either side.

        Raises
        ------
        ValueError
            A ``k`` that was not measured, or none was.
        ImportError
            matplotlib is not there: ``pip install "vecidx[plot]"``.
        """
        curves = self._tuned.curves
        ks = sorted(curves) if k is None else [check_k(one) for one in (k if np.ndim(k) else [k])]
        missing = [one for one in ks if one not in curves]
        if missing or not ks:
            known = ", ".join(map(str, sorted(curves))) or "none"
            wanted = f"k={missing[0]}" if missing else ""
            raise ValueError(f"k: no curve {wanted} to draw (there is: {known}); call "
                             f"index.tune({wanted}) first")
        if ax is None:
            ax = need("matplotlib.pyplot", extra="plot", user="plot_recall").subplots()[1]
        for one in ks:
            curve = curves[one]
            line, = ax.plot(curve.ef, curve.recall, marker=".", label=f"k = {one}")
            ax.fill_between(curve.ef, curve.recall - 2 * curve.error,
                            curve.recall + 2 * curve.error, color=line.get_color(), alpha=0.2)
        ax.set(xlabel="ef", ylabel="recall", xscale="log")
        ax.grid(alpha=0.3)
        ax.legend()
        return ax
