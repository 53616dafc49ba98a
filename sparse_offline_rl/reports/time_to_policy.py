"""How long training takes until the agent is as good as the policy that made its data, or nearly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes as PlotAxes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sparse_offline_rl.reports.drawing import draw_panels
from sparse_offline_rl.reports.groups import Group, Panel, Study
from sparse_offline_rl.reports.statistics import first_reaching

SHARES = (0.90, 0.95)  # of the policy's return
_FILLS: dict[float, Literal["none", "full"]] = {0.90: "none", 0.95: "full"}


@dataclass(frozen=True)
class Reached:
    """When the runs of a group first had an evaluation of so much of the policy's return."""

    runs: int  # all of them
    updates: tuple[int, ...]  # of those that reached it
    seconds: tuple[float, ...]  # of training, of those of them whose time is known

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
    found = [first_reaching(run.evaluations, wanted) for run in group.runs]
    hits = [evaluation for evaluation in found if evaluation is not None]
    seconds = tuple(it.seconds for it in hits if it.seconds is not None)
    return Reached(len(group.runs), tuple(it.update for it in hits), seconds)


def time_to_policy(study: Study) -> Figure | None:
    """A row for each group, a dot for each seed; how many never got there stands at the right. None without timed evaluations."""
    shown = study.only(lambda group: any(it.seconds is not None for run in group.runs for it in run.evaluations))
    panels = tuple(panel for panel in shown.panels if panel.policy_return is not None and panel.policy_return > 0)
    if not panels:
        return None
    colours = study.colours()

    def draw(ax: PlotAxes, panel: Panel) -> Mapping[str, Artist]:
        assert panel.policy_return is not None
        for row, group in enumerate(panel.groups):
            _draw_row(ax, row, group, panel.policy_return, colours[group.line][0])
        ax.set_xscale("log")
        ax.set_yticks(range(len(panel.groups)), [group.label for group in panel.groups], fontsize="small")
        ax.set_ylim(len(panel.groups) - 0.5, -0.5)
        return {
            f"{share:.0%} of the dataset policy's return": Line2D(
                [], [], color="0.5", marker="o", linestyle="", fillstyle=_FILLS[share]
            )
            for share in SHARES
        }

    return draw_panels(Study(panels, study.axes), draw, "seconds of training", "", row_height=_height(panels))


def _draw_row(ax: PlotAxes, row: int, group: Group, policy_return: float, colour: str) -> None:
    for share in SHARES:
        it = reached(group, share * policy_return)
        shift = 0.13 if share == SHARES[0] else -0.13
        marks: dict[str, Any] = {"marker": "o", "linestyle": "", "markersize": 5.5, "fillstyle": _FILLS[share]}
        ax.plot(it.seconds, [row + shift] * len(it.seconds), color=colour, **marks)
        if share == SHARES[-1] and len(it.updates) < it.runs:
            text = f"{it.runs - len(it.updates)} of {it.runs} not at {share:.0%}"
            ax.annotate(
                text, (1.0, row), xycoords=("axes fraction", "data"), ha="right", va="center", fontsize="x-small"
            )


def _height(panels: tuple[Panel, ...]) -> float:
    return 1.1 + 0.28 * max(len(panel.groups) for panel in panels)
