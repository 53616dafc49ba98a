"""How long training takes until the agent is as good as the policy that made its data, or nearly."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes as PlotAxes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from sparse_offline_rl.reports.drawing import draw_panels, plain_log_ticks
from sparse_offline_rl.reports.groups import Group, Panel, Study
from sparse_offline_rl.reports.statistics import first_reaching

SHARES = (0.90, 0.95)  # of the policy's return
_LETTERS = 26  # of a label in a line: longer ones would leave no room for the axes
_ROW = 0.3  # inches of a row
_LINE = 0.48  # rows that a line of a label takes
_NEXT_BAND = 2.0  # times the seconds at which "never" stands: where "not yet" does
_FILLS: dict[float, Literal["none", "full"]] = {0.90: "none", 0.95: "full"}


@dataclass(frozen=True)
class Reached:
    """When the runs of a group first had an evaluation of so much of the policy's return."""

    runs: int  # all of them
    unfinished: int  # that have not reached it yet
    updates: tuple[int, ...]  # of those that reached it
    seconds: tuple[float, ...]  # of training, of those of them whose time is known

    @property
    def never(self) -> int:
        """How many ended without it."""
        return self.runs - self.unfinished - len(self.updates)

    @property
    def median_updates(self) -> float | None:
        """Over the runs that reached it."""
        return float(np.median(self.updates)) if self.updates else None

    @property
    def median_seconds(self) -> float | None:
        """Over the runs that reached it."""
        return float(np.median(self.seconds)) if self.seconds else None


def reached(group: Group, wanted: float) -> Reached:
    """When the runs of ``group`` first had a mean return of ``wanted``."""
    found = [(run, first_reaching(run.evaluations, wanted)) for run in group.runs]
    hits = [evaluation for _, evaluation in found if evaluation is not None]
    waiting = sum(run.summary is None and evaluation is None for run, evaluation in found)
    seconds = tuple(it.seconds for it in hits if it.seconds is not None)
    return Reached(len(group.runs), waiting, tuple(it.update for it in hits), seconds)


def time_to_policy(study: Study) -> Figure | None:
    """A row for each group, a dot for each seed, at the right a cross for one that never got there and a triangle for one that may yet.

    None without timed evaluations.
    """
    policies = {(it.panel, it.label): panel.policy_of(it) or 0.0 for panel in study.panels for it in panel.groups}
    panels = study.only(lambda group: policies[group.panel, group.label] > 0 and _timed(group)).panels
    if not panels:
        return None
    colours, groups = study.colours(), [group for panel in panels for group in panel.groups]
    least = [(group, share * policies[group.panel, group.label]) for group in groups for share in SHARES]
    times = [seconds for group, wanted in least for seconds in reached(group, wanted).seconds] or [1.0]
    low, never = min(times) / 1.3, 1.7 * max(times)
    bands = {"never": never}
    if any(run.summary is None for group in groups for run in group.runs):
        bands["not yet"] = _NEXT_BAND * never
    high = 1.5 * max(bands.values())

    def draw(ax: PlotAxes, panel: Panel) -> Mapping[str, Artist]:
        ax.set_xscale("log")
        for start in bands.values():
            ax.axvspan(0.82 * start, 1.5 * start, color="0.5", alpha=0.12, linewidth=0)
        heights = _heights(panel)
        rows = np.cumsum(heights) - heights / 2 - 0.5
        for row, group in zip(rows, panel.groups, strict=True):
            _draw_row(ax, row, group, policies[group.panel, group.label], never, colours[group.line][0])
        ax.set_xlim(low, high)
        plain_log_ticks(ax.xaxis)
        for line, (text, start) in enumerate(bands.items()):  # side by side they would run into each other
            ax.text(1.1 * start, -0.75 - 0.5 * line, text, ha="center", va="top", fontsize="x-small")
        ax.set_yticks(rows, [_wrapped(group) for group in panel.groups], fontsize="small")
        ax.set_ylim(heights.sum() - 0.5, -0.3 - 0.5 * len(bands))
        return {f"{share:.0%} of the dataset policy's return": _mark(share) for share in SHARES}

    height = 1.1 + _ROW * max(_heights(panel).sum() for panel in panels)
    return draw_panels(Study(panels, study.axes), draw, "seconds of training", "", row_height=height)


def _timed(group: Group) -> bool:
    return any(it.seconds is not None for run in group.runs for it in run.evaluations)


def _heights(panel: Panel) -> NDArray[np.float64]:
    """Of its rows: 1 for a label of one or two lines, more for others."""
    return np.array([max(1.0, 0.1 + _LINE * (_wrapped(group).count("\n") + 1)) for group in panel.groups])


def _wrapped(group: Group) -> str:
    return textwrap.fill(group.label, _LETTERS)


def _mark(share: float) -> Line2D:
    return Line2D([], [], color="0.5", marker="o", linestyle="", fillstyle=_FILLS[share])


def _draw_row(ax: PlotAxes, row: float, group: Group, policy_return: float, never: float, colour: str) -> None:
    for share in SHARES:
        it = reached(group, share * policy_return)
        y = row + (0.15 if share == SHARES[0] else -0.15)
        marks: dict[str, Any] = {"linestyle": "", "color": colour, "fillstyle": _FILLS[share]}
        ax.plot(it.seconds, [y] * len(it.seconds), marker="o", markersize=5.5, **marks)
        for start, runs, marker in ((never, it.never, "x"), (_NEXT_BAND * never, it.unfinished, ">")):
            ax.plot([start * 1.1**i for i in range(runs)], [y] * runs, marker=marker, markersize=4.5, **marks)
