"""The figure: updates a second against sparsity."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from sparse_offline_rl.benchmarks.results import Row, SectionResult
from sparse_offline_rl.files import write_bytes

_STYLES = {"sparse": ("o", "#1f6fb4"), "dense": ("s", "#8a8a8a")}
_NAMES = {"bcq": "BCQ", "bc": "BC"}


def plot_updates(path: Path, section: SectionResult) -> None:
    """One panel an agent: sparse and dense engine on one thread, and the ideal 1 / (1 − s), drawn to ``path``."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in section.tables[0].rows if row["threads"] == 1 and row["updates/s"]]
    agents = list(dict.fromkeys(row["agent"] for row in rows))
    figure, panels = pyplot.subplots(
        1, max(1, len(agents)), figsize=(5.6 * max(1, len(agents)), 4.4), squeeze=False, sharey=True
    )
    for panel, agent in zip(panels[0], agents, strict=False):
        _panel(panel, [row for row in rows if row["agent"] == agent])
        panel.set_title(_NAMES.get(str(agent), str(agent)))
    panels[0][0].set_ylabel("updates per second, one thread")
    figure.suptitle(section.machine.get("CPU", ""), fontsize=9, color="#555555")
    figure.tight_layout()
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=160)
        write_bytes(path, file.getvalue())
    pyplot.close(figure)


def _panel(panel: object, rows: Sequence[Row]) -> None:
    from matplotlib.axes import Axes
    from matplotlib.ticker import NullLocator, StrMethodFormatter

    assert isinstance(panel, Axes)
    for engine, (marker, color) in _STYLES.items():
        points = [
            (float(row["sparsity"] or 0), float(row["updates/s"] or 0)) for row in rows if row["engine"] == engine
        ]
        points.sort()
        panel.plot(
            [_shrinking(s) for s, _ in points],
            [y for _, y in points],
            marker=marker,
            color=color,
            label=f"{engine} engine",
        )
        for s, y in points[-1:] if engine == "dense" else points:
            panel.annotate(
                f"{y:.0f}", (_shrinking(s), y), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=8
            )
    dense = [float(row["updates/s"] or 0) for row in rows if row["engine"] == "dense" and not row["sparsity"]]
    sparsities = sorted({float(row["sparsity"] or 0) for row in rows})
    if dense:
        ideal = [dense[0] * _shrinking(s) for s in sparsities]
        panel.plot([_shrinking(s) for s in sparsities], ideal, "--", color="#c46210", label="ideal: dense × 1/(1 − s)")
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xticks([_shrinking(s) for s in sparsities], [f"{s:g}" for s in sparsities])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panel.set_xlabel("sparsity s (fraction of weights removed)")
    panel.grid(alpha=0.25)
    panel.legend(frameon=False, fontsize=9)


def _shrinking(sparsity: float) -> float:
    """How many times fewer weights."""
    return 1 / (1 - sparsity)
