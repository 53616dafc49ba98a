"""What all figures share: style, grids of panels, legends, and the forms in which they are saved."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes as PlotAxes
from matplotlib.axis import Axis, YAxis
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from sparse_offline_rl.files import replacing, write_bytes
from sparse_offline_rl.reports.groups import Panel, Study, wrapped

DPI = 130
_MOST_DOTS = 65_000  # along a side of a PNG: matplotlib makes none of 2**16 and more
# Of a page, for an inch of a figure: at least as many that its text can be read, at most as many that one panel does not fill the page.
_PIXELS = (64, 130)
_MOST_PIXELS = 1080  # that a figure claims, which is what a page has; on a narrower screen it scrolls
WIDTH = 4.6  # inches of a panel
_MOST_COLUMNS = 3
_MARGIN = 0.3  # inches of a figure beside its panels and its legend
# Of a legend, in inches: an entry, each further line of one, a letter, and what stands beside the letters.
_LEGEND_ROW, _LEGEND_LINE, _LEGEND_LETTER, _LEGEND_KEY = 0.22, 0.165, 0.085, 0.6
_MOST_LETTERS = 50  # of a legend in a line: one long name shall not cost all others their columns
_ROUND = (1, 2, 5)  # and these times powers of ten
_MANY_DECADES = (
    1.7,
    2.8,
)  # from which on a horizontal and a vertical logarithmic axis have room for powers of ten only
_INK = "#1f2329"  # of text and axes; a page puts its own colour there
COLLAPSED = "#B00020"
# What runs are compared with.
POLICY = "the dataset's policy"
POLICY_LINE: dict[str, Any] = {"color": "0.5", "linestyle": (0, (6, 4)), "linewidth": 1.2, "zorder": 1}
DENSE_LINE: dict[str, Any] = {"color": "0.5", "linestyle": ":", "linewidth": 1.6, "zorder": 1}
_PAPER = "#fefefe"  # behind them; a page has none
_STYLE: dict[Any, Any] = {
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "figure.facecolor": _PAPER,
    "axes.facecolor": _PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#888888",
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.hashsalt": "report",
}

Draw = Callable[[PlotAxes, Panel], Mapping[str, Artist]]  # into a panel; returns the entries of the legend


@contextmanager
def styled() -> Iterator[None]:
    """Figures made and saved within the block look alike."""
    with matplotlib.rc_context(_STYLE):
        yield


def draw_panels(study: Study, draw: Draw, xlabel: str, ylabel: str, row_height: float = 3.3) -> Figure:
    """A figure with a panel for each of ``study``: a row an agent where each of them ran in all of a few, else in reading order.

    ``row_height`` is in inches.
    """
    rows, columns, panels = _grid(study.panels)
    figure = Figure(figsize=(WIDTH * columns + 0.5, row_height * rows + _MARGIN), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1)  # type: ignore[union-attr, call-arg]  # else titles touch the labels above
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    entries: dict[str, Artist] = {}
    for ax, panel in zip(axes, panels, strict=False):
        entries |= draw(ax, panel)
        ax.set_title(wrapped(panel.title, WIDTH), fontsize="medium")
        ax.set(xlabel=xlabel, ylabel=ylabel)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    legend(figure, entries)
    return figure


def row_a_panel(panels: Sequence[Panel], width: float, height: float) -> tuple[Figure, list[SubFigure]]:
    """A figure with a row for each panel, headed by its title; a row is ``height`` inches high."""
    figure = Figure(figsize=(width, height * len(panels) + _MARGIN), layout="constrained")
    rows = list(figure.subfigures(len(panels), 1, squeeze=False)[:, 0])
    for row, panel in zip(rows, panels, strict=True):
        row.suptitle(wrapped(panel.title, width))
    return figure, rows


def legend(figure: Figure, entries: Mapping[str, Artist]) -> None:
    """One legend below all panels, in as many columns as fit; the figure grows by its height, so that no panel has to shrink.

    Names that are wider than the figure take several lines.
    """
    if not entries:
        return
    width = figure.get_figwidth()
    letters = min(_MOST_LETTERS, int((width - 2 * _LEGEND_KEY) / _LEGEND_LETTER))
    names = [textwrap.fill(name, letters) for name in entries]
    widest = _LEGEND_LETTER * max(len(line) for name in names for line in name.splitlines()) + _LEGEND_KEY
    columns = min(len(names), max(1, int(width / widest)))
    highest = max(_legend_height(column) for column in np.array_split(names, columns))
    figure.set_figheight(figure.get_figheight() + _LEGEND_ROW + highest)
    figure.legend(list(entries.values()), names, loc="outside lower center", ncols=columns)


def _legend_height(names: Iterable[str]) -> float:
    return sum(_LEGEND_ROW + _LEGEND_LINE * name.count("\n") for name in names)


def plain_log_ticks(axis: Axis) -> None:
    """Ticks at 1, 2, 5, 10, … written as such, at powers of ten alone where those are many. Call it when the limits stand."""
    low, high = axis.get_view_interval()
    many = _MANY_DECADES[isinstance(axis, YAxis)]
    subs = _ROUND if high < low * 10**many else _ROUND[:1]
    axis.set_major_locator(LogLocator(10, subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def round_log_limits(ax: PlotAxes) -> None:
    """Widen the vertical limits to the next 1, 2 or 5 times a power of ten, so that two ticks at least are to be seen."""
    low, high = ax.get_ylim()
    ax.set_ylim(_round_below(low), 1 / _round_below(1 / high))


def _round_below(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return max(step * power for step in _ROUND if step * power <= value)


def update_ticks(ax: PlotAxes) -> None:
    """Label the horizontal axis as updates, a few ticks, 50,000 written as 50k."""
    ax.set_xlabel("updates")
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))


def from_zero(ax: PlotAxes) -> None:
    """Let returns start at zero, where none is below it, so that small differences look small."""
    low, high = ax.get_ylim()
    if low > 0:
        ax.set_ylim(0.0, 1.04 * high)


def reference_lines(ax: PlotAxes, panel: Panel, dense: bool) -> dict[str, Artist]:
    """The return of the dataset's own policy, and that of the dense agent where one stands for the whole panel."""
    entries: dict[str, Artist] = {}
    if panel.policy_return is not None:
        entries[POLICY] = ax.axhline(panel.policy_return, **POLICY_LINE)
    found = [group for group in panel.groups if group.dense and group.mean is not None]
    if dense and len(found) == 1 and found[0].mean is not None:
        entries["dense agent's mean"] = ax.axhline(found[0].mean, **DENSE_LINE)
    return entries


def save(figure: Figure, folder: Path, name: str) -> tuple[list[Path], str]:
    """Write ``name``.png and ``name``.svg; returns them, and the figure as an ``<svg>`` element for a page.

    There text and axes have the page's colour, and ids that no other figure has.
    """
    files = [folder / f"{name}.png", folder / f"{name}.svg"]
    with replacing(files[0]) as temporary:
        figure.savefig(temporary, format="png", dpi=min(DPI, _MOST_DOTS / max(figure.get_size_inches())))
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    write_bytes(files[1], text.encode())
    text = text[text.index("<svg") :].replace(_INK, "currentColor").replace(_PAPER, "none")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="([^"]+)"', rf' id="{name}-\1"', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r' (width|height)="[^"]+pt"', "", text, count=2)
    least, most = (round(pixels * figure.get_figwidth()) for pixels in _PIXELS)
    style = f"min-width: {min(least, _MOST_PIXELS)}px; max-width: {most}px"
    return files, text.replace("<svg", f'<svg style="{style}"', 1)


def _grid(panels: Sequence[Panel]) -> tuple[int, int, list[Panel]]:
    """Rows, columns, and the panels in the order in which they fill them."""
    cells = {tuple(panel.title.split(" · ", 1)): panel for panel in panels}
    firsts, seconds = (sorted({cell[i] for cell in cells if len(cell) == 2}) for i in (0, 1))
    if len(seconds) <= _MOST_COLUMNS + 1 and len(cells) == len(firsts) * len(seconds):
        return len(firsts), len(seconds), [cells[first, second] for first in firsts for second in seconds]
    columns = min(_MOST_COLUMNS, len(panels))
    return -(-len(panels) // columns), columns, list(panels)
