"""How the densities of layers move where masks change while training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes as PlotAxes
from matplotlib.figure import Figure

from sparse_offline_rl.reports.drawing import draw_panels
from sparse_offline_rl.reports.groups import COLOURS, DASHES, Group, Panel, Study


def layer_densities(study: Study) -> Figure | None:
    """Share of each layer's weights that are kept against updates: a colour a layer, dashes an experiment, mean over the seeds.

    None if no mask has changed.
    """
    shown = study.only(lambda group: any(run.densities for run in group.runs))
    if not shown.panels:
        return None

    def draw(ax: PlotAxes, panel: Panel) -> Mapping[str, Artist]:
        entries: dict[str, Artist] = {}
        for number, group in enumerate(panel.groups):
            for i, (layer, points) in enumerate(_means(group).items()):
                colour, dashes = COLOURS[i % len(COLOURS)], DASHES[number % len(DASHES)]
                (line,) = ax.plot(list(points), list(points.values()), color=colour, linestyle=dashes, linewidth=1.3)
                entries[f"{group.label}: {layer}"] = line
        return entries

    return draw_panels(shown, draw, "updates", "share of the weights kept")


def _means(group: Group) -> dict[str, dict[int, float]]:
    """Layer -> update -> mean over the runs that changed it there."""
    found: dict[str, dict[int, list[float]]] = {}
    for run in group.runs:
        for update, shares in run.densities.items():
            for layer, share in shares.items():
                found.setdefault(layer, {}).setdefault(update, []).append(share)
    return {layer: {at: float(np.mean(it)) for at, it in sorted(points.items())} for layer, points in found.items()}
