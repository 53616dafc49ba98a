"""Weights that survive in each layer (the paper's Figure 3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparse_offline_rl.reports.groups import Group, by_panel_and_agent, line_styles, title

Layers = dict[str, dict[str, list[dict[str, Any]]]]  # network -> layer -> one entry of summary.json a seed


def layer_survivors(groups: Sequence[Group]) -> Figure | None:
    """A row for each panel and agent, a column for each network: survivors by layer, mean ± std over the seeds.

    Of several sparsities a row shows the one that most methods share, the highest of equals. None without a finished
    pruned run.
    """
    rows = _rows([group for group in groups if group.prune != "none" and group.finished])
    if not rows:
        return None
    shown = [group for _, _, members in rows for group in members]
    networks = _networks([_layers(group) for group in shown])
    colours = {pruning: colour for pruning, (colour, _) in line_styles(shown).items()}
    width = 3.2 * len(networks) + 0.5
    figure = Figure(figsize=(width, 3.4 * len(rows) + 0.9), layout="constrained")
    parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for part, (agent, panel, members) in zip(parts, rows, strict=True):
        part.suptitle(title(agent, panel, width))
        axes = part.subplots(1, len(networks), squeeze=False, sharey=True)[0]
        for ax, network in zip(axes, networks, strict=True):
            _bars(ax, network, members, colours)
        axes[0].set_ylabel("weights left")
    entries = {handle.get_label(): handle for ax in figure.axes for handle in ax.get_legend_handles_labels()[0]}
    figure.legend(handles=entries.values(), loc="outside lower center", ncols=min(len(entries), 4), frameon=False)
    return figure


def _rows(groups: Sequence[Group]) -> list[tuple[str, str, list[Group]]]:
    rows = []
    for (panel, agent), members in by_panel_and_agent(groups).items():
        counts = Counter(group.sparsity for group in members)
        sparsity = max(counts, key=lambda value: (counts[value], value))
        rows.append((agent, panel, [group for group in members if group.sparsity == sparsity]))
    return rows


def _layers(group: Group) -> Layers:
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


def _bars(ax: Axes, network: str, members: Sequence[Group], colours: dict[str, str]) -> None:
    width = 0.8 / len(members)
    for i, group in enumerate(members):
        layers = _layers(group).get(network, {})
        kept = _kept(layers)
        x = np.arange(len(layers)) + (i - (len(members) - 1) / 2) * width
        means, stds = [np.mean(seeds) for seeds in kept], [np.std(seeds) for seeds in kept]
        ax.bar(
            x, means, width, yerr=stds, color=colours[group.pruning], label=group.pruning, error_kw={"elinewidth": 1}
        )
        for position, mean in zip(x, means, strict=True):
            if mean == 0:
                ax.annotate("0", (position, 0), (0, 2), textcoords="offset points", ha="center", color="#B00000")
    layers = _layers(members[0]).get(network, {})
    totals = [seeds[0]["total"] for seeds in layers.values()]
    edges = np.arange(len(totals))
    ax.hlines(totals, edges - 0.45, edges + 0.45, color="0.3", linewidth=1.2, label="dense")
    ax.set_yscale("symlog", linthresh=1)
    ax.set_ylim(0, None)
    ax.set_xticks(edges, list(layers))
    ax.set_title(network, fontsize="medium")
    ax.grid(axis="y", alpha=0.25)
