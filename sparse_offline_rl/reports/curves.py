"""Learning curves: return against updates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sparse_offline_rl.reports.groups import Group, by_panel_and_agent, line_styles, title

_WIDEST = 4  # panels side by side
_WIDTH = 4.8  # inches of a panel
_FEW = 25  # evaluations up to which each is marked


def learning_curves(groups: Sequence[Group]) -> Figure | None:
    """A panel for each agent, environment and dataset: mean over the seeds, in a band of their range.

    None if nothing has been evaluated yet.
    """
    cells = by_panel_and_agent([group for group in groups if any(run.returns for run in group.runs)])
    if not cells:
        return None
    panels, agents = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
    styles = line_styles([group for members in cells.values() for group in members])
    # A grid where every agent ran in each of a few panels; otherwise one panel after the other, without holes.
    grid = len(panels) <= _WIDEST and len(cells) == len(panels) * len(agents)
    columns = len(panels) if grid else min(3, len(cells))
    rows = -(-len(cells) // columns)
    figure = Figure(figsize=(_WIDTH * columns + 0.6, 3.4 * rows + 0.9), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    ordered = sorted(cells, key=lambda cell: (agents.index(cell[1]), panels.index(cell[0])))
    lines: dict[str, Line2D] = {}
    for ax, (panel, agent) in zip(axes, ordered, strict=False):
        members = cells[panel, agent]
        for group in members:
            lines[group.pruning] = _curve(ax, group, *styles[group.pruning])
        for line in _expert_lines(ax, members):
            lines["expert (score 100)"] = line
        ax.set(xlabel="updates", ylabel="return")
        ax.set_title(title(agent, panel, _WIDTH), fontsize="medium")
        ax.grid(alpha=0.25)
    for ax in axes[len(cells) :]:
        ax.set_axis_off()
    labels = [label for label in (*styles, "expert (score 100)") if label in lines]
    handles = [lines[label] for label in labels]
    widest = 0.085 * max(map(len, labels)) + 0.6  # inches of one entry
    fit = max(1, int(figure.get_figwidth() / widest))
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), fit), frameon=False)
    return figure


def _curve(ax: Axes, group: Group, colour: str, dashes: str) -> Line2D:
    updates = sorted({update for run in group.runs for update in run.returns})
    values = [[run.returns[update] for run in group.runs if update in run.returns] for update in updates]
    ax.fill_between(updates, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.15, linewidth=0)
    marker = "o" if len(updates) <= _FEW else ""
    (line,) = ax.plot(
        updates, [np.mean(v) for v in values], color=colour, linestyle=dashes, marker=marker, markersize=3
    )
    return line


def _expert_lines(ax: Axes, members: Sequence[Group]) -> list[Line2D]:
    """The return that scores 100, where the runs name one."""
    named = {run.expert_return for group in members for run in group.runs}
    experts = sorted(expert for expert in named if expert is not None)
    return [ax.axhline(expert, color="0.45", linestyle=(0, (6, 4)), linewidth=1, zorder=1) for expert in experts]
