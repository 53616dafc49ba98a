"""Learning curves: return against updates, and against seconds of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes as PlotAxes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sparse_offline_rl.reports.drawing import draw_panels, from_zero, plain_log_ticks, reference_lines, update_ticks
from sparse_offline_rl.reports.groups import Group, Panel, Study
from sparse_offline_rl.reports.progress import Evaluation
from sparse_offline_rl.reports.statistics import median_clock

_MOST_CURVES = 7  # in a panel; of more only the dense one and those at the usual place of the axis are shown
_FEW = 25  # evaluations up to which each is marked

Unit = Literal["update", "seconds"]


def learning_curves(study: Study, unit: Unit) -> Figure | None:
    """Mean over the seeds in a band from the lowest to the highest. None if nothing has been evaluated (or timed) yet.

    Over seconds, which differ from seed to seed, a point lies at the median of the seeds' times: one may have been slowed by other work.
    """
    shown = shown_in_curves(study).only(lambda group: bool(_by_update(group, unit)))
    if not shown.panels:
        return None
    colours = shown.curve_colours()

    def draw(ax: PlotAxes, panel: Panel) -> Mapping[str, Artist]:
        entries: dict[str, Artist] = {}
        for group in panel.groups:
            entries[group.label] = _curve(ax, group, unit, *colours[group.label])
        if unit == "update":
            update_ticks(ax)
        else:
            ax.set_xscale("log")
            plain_log_ticks(ax.xaxis)
        entries |= reference_lines(ax, panel, dense=False)
        from_zero(ax)
        return entries

    return draw_panels(shown, draw, "updates" if unit == "update" else "seconds of training", "return")


def shown_in_curves(study: Study) -> Study:
    """``study``, or where a panel has many groups its dense ones and those at the usual place of the axis."""
    if max(len(panel.groups) for panel in study.panels) <= _MOST_CURVES:
        return study
    usual = study.usual_place()
    return study.only(lambda group: group.dense or group.x == usual)


def _by_update(group: Group, unit: Unit) -> dict[int, list[Evaluation]]:
    found: dict[int, list[Evaluation]] = {}
    for run in group.runs:
        for evaluation in run.evaluations:
            if getattr(evaluation, unit) is not None:
                found.setdefault(evaluation.update, []).append(evaluation)
    return dict(sorted(found.items()))


def _curve(ax: PlotAxes, group: Group, unit: Unit, colour: str, dashes: str) -> Line2D:
    points = _by_update(group, unit)
    x = list(points) if unit == "update" else list(median_clock(run.evaluations for run in group.runs).values())
    returns = [[evaluation.mean for evaluation in seeds] for seeds in points.values()]
    ax.fill_between(x, list(map(min, returns)), list(map(max, returns)), color=colour, alpha=0.15, linewidth=0)
    marker = "o" if len(x) <= _FEW else ""
    means = [np.mean(values) for values in returns]
    (line,) = ax.plot(x, means, color=colour, linestyle=dashes, marker=marker, markersize=3)
    return line
