"""What an index shows of itself: in a notebook, and as a picture."""

import numpy as np
import pytest

import vecidx


def test_a_notebook_shows_a_table(rng, tmp_path):
    index = vecidx.Index(3, "cosine", quantization="sq8")
    index.add(rng.standard_normal((1234, 3)))
    shown = index._repr_html_()
    assert shown.startswith("<table><caption>vecidx.Index</caption>") and shown.endswith("</table>")
    for part in ("1,234 x 3 float32", "cosine", "sq8", "KiB"):
        assert part in shown
    assert "tuned" not in shown and "mapped" not in shown
    index.tune(k=[3, 10])
    assert "<td style='text-align: left'>3, 10</td>" in index._repr_html_()
    index.save(tmp_path / "a.vidx")
    with vecidx.load(tmp_path / "a.vidx", mmap=True) as mapped:
        assert "mapped" in mapped._repr_html_()
    assert mapped._repr_html_() == "&lt;vecidx.Index: closed&gt;"
    assert "vecidx.StringIndex" in vecidx.Index(2, ids="str")._repr_html_()


def test_plot_recall_draws_each_curve(rng):
    pytest.importorskip("matplotlib").use("agg")
    from matplotlib.figure import Figure

    index = vecidx.Index(8)
    index.add(rng.standard_normal((3000, 8)))
    with pytest.raises(ValueError, match=r"call index.tune\(\) first"):
        index.plot_recall()
    index.tune(k=[2, 5])
    axes = Figure().subplots()
    assert index.plot_recall(ax=axes) is axes
    lines = axes.get_lines()
    assert [line.get_label() for line in lines] == ["k = 2", "k = 5"]
    for line, k in zip(lines, (2, 5)):
        assert line.get_xdata().tolist() == index.tuned[k]["ef"]
        np.testing.assert_allclose(line.get_ydata(), index.tuned[k]["recall"], atol=1e-6)
    assert len(index.plot_recall(5).get_lines()) == 1
    with pytest.raises(ValueError, match=r"no curve k=7 .*there is: 2, 5.*tune\(k=7\)"):
        index.plot_recall([2, 7])


def test_plot_recall_without_matplotlib_names_the_command(rng, monkeypatch):
    index = vecidx.Index(4)
    index.add(rng.standard_normal((500, 4)))
    index.tune(k=3)
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'pip install "vecidx\[plot\]"'):
        index.plot_recall()
