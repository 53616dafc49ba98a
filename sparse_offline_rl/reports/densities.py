"""How the densities of layers move where masks change while training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes as PlotAxes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sparse_offline_rl.reports.drawing import legend, row_a_panel, update_ticks
from sparse_offline_rl.reports.groups import DASHES, Group, Study
from sparse_offline_rl.reports.runs import over_updates

_TICKS = {0: "0", 0.001: "0.1 %", 0.01: "1 %", 0.1: "10 %", 1: "100 %"}
Points = Mapping[int, float]  # update -> share kept


def layer_densities(study: Study) -> Figure | None:
    """A row for each panel, a column for each network: share of each layer's weights that are kept, over updates.

    A colour an experiment, dashes a layer; means over the seeds. The second critic is shown where its densities are its own. None
    if no mask has changed.
    """
    shown = study.only(lambda group: any(run.densities for run in group.runs))
    if not shown.panels:
        return None
    colours = study.curve_colours()
    means = {(panel.title, group.label): _means(group) for panel in shown.panels for group in panel.groups}
    networks = {
        panel.title: _networks([means[panel.title, group.label] for group in panel.groups]) for panel in shown.panels
    }
    columns = max(map(len, networks.values()))
    figure, rows = row_a_panel(shown.panels, max(3.2 * columns + 0.5, 6.0), 3.4)
    entries: dict[str, Artist] = {}
    layers: dict[str, Artist] = {}
    for part, panel in zip(rows, shown.panels, strict=True):
        axes = part.subplots(1, columns, squeeze=False, sharey=True)[0]
        for ax in axes[len(networks[panel.title]) :]:
            ax.set_axis_off()
        for ax, network in zip(axes, networks[panel.title], strict=False):
            for group in panel.groups:
                colour = colours[group.label][0]
                found = means[panel.title, group.label].get(network, {})
                layers |= _draw(ax, found, colour)
                entries[group.label] = Line2D([], [], color=colour)
            _finish(ax, network)
        axes[0].set_ylabel("share of the weights kept")
    legend(figure, entries | layers)
    return figure


def _draw(ax: PlotAxes, layers: Mapping[str, Points], colour: str) -> dict[str, Artist]:
    entries: dict[str, Artist] = {}
    for i, (layer, points) in enumerate(layers.items()):
        dashes = DASHES[i % len(DASHES)]
        ax.plot(list(points), list(points.values()), color=colour, linestyle=dashes, linewidth=1.3)
        entries[f"layer {layer}"] = Line2D([], [], color="0.5", linestyle=dashes)
    return entries


def _finish(ax: PlotAxes, network: str) -> None:
    ax.set_yscale("symlog", linthresh=0.001)
    ax.set_yticks(list(_TICKS), list(_TICKS.values()))
    ax.set_ylim(0, 1.2)
    ax.set_title(network, fontsize="medium")
    update_ticks(ax)


def _means(group: Group) -> dict[str, dict[str, Points]]:
    """Network -> layer -> update -> mean over the runs."""
    found: dict[str, dict[str, dict[int, list[float]]]] = {}
    for update, runs in over_updates(group.runs, "densities").items():
        for name, share in ((name, share) for shares in runs for name, share in shares.items()):
            network, layer = name.split(".")
            found.setdefault(network, {}).setdefault(layer, {}).setdefault(update, []).append(share)
    return {
        network: {layer: {at: float(np.mean(it)) for at, it in points.items()} for layer, points in layers.items()}
        for network, layers in found.items()
    }


def _networks(groups: list[dict[str, dict[str, Points]]]) -> list[str]:
    """Names in order; the second critic only where its densities are its own."""
    names = dict.fromkeys(name for group in groups for name in group)
    twins = all(group.get("critic1") == group.get("critic2") for group in groups)
    return [name for name in names if not (twins and name == "critic2")]
