"""Weights that survive in each layer (the paper's Figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparse_offline_rl.reports.drawing import COLLAPSED, legend, row_a_panel
from sparse_offline_rl.reports.groups import HATCHES, Group, Panel, Study

Layers = dict[str, dict[str, list[dict[str, Any]]]]  # network -> layer -> one entry of summary.json a seed


def layer_survivors(study: Study) -> Figure | None:
    """A row for each panel, a column for each network: survivors by layer, mean ± std over the seeds.

    Of several places of the axis (sparsities) a row shows the one that most methods share, the highest of equals. None without a
    finished pruned run.
    """
    rows = survivor_rows(study)
    if not rows:
        return None
    networks = {panel.title: _networks([layers_of(group) for group in panel.groups]) for panel in rows}
    colours = study.part(rows).curve_colours()
    columns = max(map(len, networks.values()))
    figure, parts = row_a_panel(rows, 3.2 * columns + 0.5, 3.4)
    entries: dict[str, Artist] = {}
    for part, panel in zip(parts, rows, strict=True):
        axes = part.subplots(1, columns, squeeze=False, sharey=True)[0]
        for ax in axes[len(networks[panel.title]) :]:
            ax.set_axis_off()
        for ax, network in zip(axes, networks[panel.title], strict=False):
            entries |= _bars(ax, network, panel.groups, colours)
        axes[0].set_ylabel("weights left")
    legend(figure, entries)
    return figure


def survivor_rows(study: Study) -> list[Panel]:
    """What the figure shows: each panel with its pruned, finished groups at one place of the axis."""
    rows = []
    for panel in study.only(lambda group: not group.dense and bool(group.finished)).panels:
        usual = Study((panel,), study.axes).usual_place()
        rows.append(Panel(panel.title, tuple(group for group in panel.groups if group.x == usual)))
    return rows


def layers_of(group: Group) -> Layers:
    """Network -> layer -> what each seed's summary says of it."""
    found: Layers = {}
    for run in group.finished:
        assert run.summary is not None
        for layer in run.summary["layers"]:
            network, name = layer["name"].split(".")
            found.setdefault(network, {}).setdefault(name, []).append(layer)
    return found


def _networks(layers: Sequence[Layers]) -> list[str]:
    """Names in order; the second critic only where its counts are its own."""
    names = list(dict.fromkeys(name for found in layers for name in found))
    twins = all(_kept(found.get("critic1", {})) == _kept(found.get("critic2", {})) for found in layers)
    return [name for name in names if not (twins and name == "critic2")]


def _kept(network: dict[str, list[dict[str, Any]]]) -> list[list[int]]:
    return [[layer["kept"] for layer in seeds] for seeds in network.values()]


def _bars(ax: Axes, network: str, members: Sequence[Group], colours: dict[str, tuple[str, str]]) -> dict[str, Artist]:
    entries: dict[str, Artist] = {}
    found = [(group, layers) for group in members if (layers := layers_of(group).get(network))]  # agents differ
    width = 0.8 / len(found)
    for i, (group, layers) in enumerate(found):
        kept = _kept(layers)
        x = np.arange(len(layers)) + (i - (len(found) - 1) / 2) * width
        means, stds = [np.mean(seeds) for seeds in kept], [np.std(seeds) for seeds in kept]
        style = {"elinewidth": 1, "ecolor": "0.5"}
        colour, dashes = colours[group.label]
        bars = ax.bar(x, means, width, yerr=stds, color=colour, error_kw=style, hatch=HATCHES[dashes])
        entries[group.label] = bars.patches[0]
        for position, mean in zip(x, means, strict=True):
            if mean == 0:
                ax.annotate("0", (position, 0), (0, 2), textcoords="offset points", ha="center", color=COLLAPSED)
    layers = max((layers for _, layers in found), key=len)
    totals = [seeds[0]["total"] for seeds in layers.values()]
    edges = np.arange(len(totals))
    entries["dense"] = ax.hlines(totals, edges - 0.45, edges + 0.45, color="0.5", linewidth=1.4)
    ax.set_yscale("symlog", linthresh=1)
    ax.set_ylim(0, None)
    ax.set_xticks(edges, list(layers))
    ax.set_title(network, fontsize="medium")
    ax.grid(axis="x", visible=False)
    return entries
