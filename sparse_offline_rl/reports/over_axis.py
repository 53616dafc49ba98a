"""Return and speed over the axis, which is sparsity unless another key was asked for (the paper's Figures 1 and 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes as PlotAxes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sparse_offline_rl.reports.drawing import (
    COLLAPSED,
    draw_panels,
    from_zero,
    plain_log_ticks,
    reference_lines,
    round_log_limits,
)
from sparse_offline_rl.reports.groups import MARKERS, Group, Panel, Study, place

_DODGE = 0.09  # between lines at one place, in steps of the axis; less where many lines would run into those of the next place
_BREADTH = 0.8  # of all lines at one place
# Of a line, over places where it was not measured.
_GAP: dict[str, Any] = {"linestyle": (0, (1, 2.5)), "linewidth": 1.2}
_MARKS = {
    "one seed": Line2D([], [], color="0.5", marker="o", linestyle="", markersize=3.5, alpha=0.6),
    "one seed, unfinished": Line2D([], [], color="0.5", marker="o", linestyle="", fillstyle="none"),
    "a layer collapsed": Line2D([], [], color=COLLAPSED, marker="x", linestyle="", markersize=8, markeredgewidth=2),
    "no run in between": Line2D([], [], color="0.5", **_GAP),
}

_Point = tuple[float, float]
Points = tuple[float | None, tuple[float, float] | None, list[float], list[float]]
# the mean or median, its interval, the finished seeds, the unfinished ones


def returns_over_axis(study: Study) -> Figure | None:
    """Return of the last evaluation: mean with its 95 % bootstrap interval, and each seed. None without an evaluation.

    Unfinished runs are hollow and do not count; of experiments with fewer finished seeds than others the number is given.
    """
    shown = study.only(lambda group: any(run.evaluations for run in group.runs))
    if not shown.panels:
        return None

    def draw(ax: PlotAxes, panel: Panel) -> Mapping[str, Artist]:
        entries = _draw_lines(ax, panel, study, _return_points)
        entries |= reference_lines(ax, panel, study.axes.x == "sparsity")
        from_zero(ax)
        return entries

    return draw_panels(shown, draw, axis_name(study), "return")


def speed_over_axis(study: Study) -> Figure | None:
    """Updates a second of the finished runs: median over the seeds, some slowed by other work, and each. None without a finished run."""
    shown = study.only(lambda group: bool(group.finished))
    if not shown.panels:
        return None

    def draw(ax: PlotAxes, panel: Panel) -> Mapping[str, Artist]:
        ax.set_yscale("log")
        entries = _draw_lines(ax, panel, study, _speed_points)
        round_log_limits(ax)
        plain_log_ticks(ax.yaxis)
        return entries

    return draw_panels(shown, draw, axis_name(study), "updates a second")


def axis_name(study: Study) -> str:
    """The label of the axis."""
    return "sparsity: share of the weights removed" if study.axes.x == "sparsity" else study.axes.x


def shifts(lines: int) -> list[float]:
    """How far each of so many lines stands beside its places, in steps of the axis, so that all are seen and none at another place."""
    dodge = min(_DODGE, _BREADTH / max(1, lines - 1))
    return [dodge * (i - (lines - 1) / 2) for i in range(lines)]


def _return_points(group: Group) -> Points:
    unfinished = [run.last_return for run in group.runs if run.summary is None and run.last_return is not None]
    return group.mean, group.interval, group.returns, unfinished


def _speed_points(group: Group) -> Points:
    return group.median("updates_per_second"), None, group.values("updates_per_second"), []


def _draw_lines(ax: PlotAxes, panel: Panel, study: Study, points: Callable[[Group], Points]) -> dict[str, Artist]:
    places, colours, entries = study.places, study.colours(), dict[str, Artist]()
    lines = panel.lines()
    for shift, (line, groups) in zip(shifts(len(lines)), lines.items(), strict=True):
        colour, dashes = colours[line]
        means = []
        for group in groups:
            x = places.index(group.x) + shift
            mean = _draw_group(ax, x, group, points(group), colour, entries)
            if mean is not None:
                means.append((x, mean))
        joined, gaps = _with_gaps(means)
        (drawn,) = ax.plot(*_columns(joined), color=colour, linestyle=dashes, marker=MARKERS[dashes], markersize=6)
        entries[line] = drawn
        for gap in gaps:
            ax.plot(*_columns(gap), color=colour, **_GAP)
            entries["no run in between"] = _MARKS["no run in between"]
        _count_seeds(ax, groups, dict(means), places, shift)
    texts = [place(study.axes.x, x) for x in places]
    crowded = len(texts) > 6 or max(map(len, texts)) > 7
    ax.set_xticks(range(len(places)), texts, rotation=35 if crowded else 0, ha="right" if crowded else "center")
    ax.set_xlim(-0.5, len(places) - 0.5)
    return {name: entries[name] for name in (*lines, *_MARKS) if name in entries}


def _draw_group(
    ax: PlotAxes, x: float, group: Group, points: Points, colour: str, entries: dict[str, Artist]
) -> float | None:
    mean, interval, finished, unfinished = points
    for values, fill, name in ((finished, "full", "one seed"), (unfinished, "none", "one seed, unfinished")):
        if values:
            size, alpha = (3.5, 0.6) if fill == "full" else (5.5, 1.0)
            style: dict[str, Any] = {
                "marker": "o",
                "linestyle": "",
                "fillstyle": fill,
                "markersize": size,
                "alpha": alpha,
            }
            ax.plot([x] * len(values), values, color=colour, **style)
            entries[name] = _MARKS[name]
    if interval is not None:
        ax.vlines(x, *interval, color=colour, linewidth=2.2, alpha=0.55)
    if group.collapsed and mean is not None:
        ax.plot([x], [mean], color=COLLAPSED, marker="x", markersize=9, markeredgewidth=2, zorder=4)
        entries["a layer collapsed"] = _MARKS["a layer collapsed"]
    return mean


def _count_seeds(
    ax: PlotAxes, groups: Sequence[Group], means: Mapping[float, float], places: Sequence[Any], shift: float
) -> None:
    for group in groups:
        x, wanted = places.index(group.x) + shift, len(group.runs) + len(group.missing)
        if x in means and len(group.finished) < wanted:
            text = f"{len(group.finished)}/{wanted}"
            ax.annotate(text, (x, means[x]), (4, 5), textcoords="offset points", fontsize="x-small")


def _with_gaps(points: Sequence[_Point]) -> tuple[list[_Point], list[tuple[_Point, _Point]]]:
    """``points`` of a line with a break wherever it has none at a place of the axis, and the pairs of points beside the breaks."""
    gaps = [pair for pair in pairwise(points) if pair[1][0] - pair[0][0] > 1.5]
    after = {pair[1] for pair in gaps}
    joined = [it for point in points for it in ([(np.nan, np.nan), point] if point in after else [point])]
    return joined, gaps


def _columns(points: Sequence[_Point]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
