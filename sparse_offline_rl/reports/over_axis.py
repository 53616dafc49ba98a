"""Return and speed over the axis, which is sparsity unless another key was asked for (the paper's Figures 1 and 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

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

DODGE = 0.09  # between lines at one place, in steps of the axis; less where many lines would run into those of the next place
_BREADTH = 0.8  # of all lines at one place
_MARKS = {
    "one seed": Line2D([], [], color="0.5", marker="o", linestyle="", markersize=3.5, alpha=0.6),
    "one seed, unfinished": Line2D([], [], color="0.5", marker="o", linestyle="", fillstyle="none"),
    "a layer collapsed": Line2D([], [], color=COLLAPSED, marker="x", linestyle="", markersize=8, markeredgewidth=2),
}


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
    """Updates a second of the finished runs: mean over the seeds, and each seed. None without a finished run."""
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


Points = tuple[float | None, tuple[float, float] | None, list[float], list[float]]
# mean, its interval, the finished seeds, the unfinished ones


def _return_points(group: Group) -> Points:
    unfinished = [run.last_return for run in group.runs if run.summary is None and run.last_return is not None]
    return group.mean, group.interval, group.returns, unfinished


def _speed_points(group: Group) -> Points:
    speeds = group.values("updates_per_second")
    return sum(speeds) / len(speeds), None, speeds, []


def _draw_lines(ax: PlotAxes, panel: Panel, study: Study, points: Callable[[Group], Points]) -> dict[str, Artist]:
    places, colours, entries = study.places, study.colours(), dict[str, Artist]()
    lines = panel.lines()
    dodge = min(DODGE, _BREADTH / max(1, len(lines) - 1))
    for i, (line, groups) in enumerate(lines.items()):
        colour, dashes = colours[line]
        shift = dodge * (i - (len(lines) - 1) / 2)
        means = []
        for group in groups:
            x = places.index(group.x) + shift
            mean = _draw_group(ax, x, group, points(group), colour, entries)
            if mean is not None:
                means.append((x, mean))
        (drawn,) = ax.plot(*_columns(means), color=colour, linestyle=dashes, marker=MARKERS[dashes], markersize=6)
        entries[line] = drawn
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


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
