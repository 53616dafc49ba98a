"""How the topology moves where masks change while training, and which methods cut off a layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from sparse_offline_rl.reports.drawing import legend, row_a_panel, update_ticks
from sparse_offline_rl.reports.groups import Group, Study
from sparse_offline_rl.reports.progress import Movement
from sparse_offline_rl.reports.runs import over_updates
from sparse_offline_rl.reports.tables import Column, Table, Value

_SHARES = {"first_kept": "share of the first mask's weights kept now", "ever_kept": "share of all positions ever kept"}


def mask_movement(study: Study) -> Figure | None:
    """A row for each panel: overlap with the first mask, and share of the positions that were ever kept, over updates.

    A line is the mean over an experiment's networks and seeds, its band goes from the lowest to the highest of them. None if no
    run's masks changed.
    """
    shown = study.only(lambda group: bool(_moved(group)))
    if not shown.panels:
        return None
    colours = study.curve_colours()
    figure, rows = row_a_panel(shown.panels, 9.8, 3.5)
    entries: dict[str, Artist] = {}
    for part, panel in zip(rows, shown.panels, strict=True):
        for ax, (key, title) in zip(part.subplots(1, 2), _SHARES.items(), strict=True):
            for group in panel.groups:
                points = _by_update(group, key)
                colour, dashes = colours[group.label]
                lowest, highest = ([edge(values) for values in points.values()] for edge in (min, max))
                ax.fill_between(list(points), lowest, highest, color=colour, alpha=0.12, linewidth=0)
                means = [np.mean(values) for values in points.values()]
                (entries[group.label],) = ax.plot(list(points), means, color=colour, linestyle=dashes, linewidth=1.6)
            ax.set_title(title, fontsize="medium")
            update_ticks(ax)
            ax.set_ylim(0, None)
    legend(figure, entries)
    return figure


def topology_table(study: Study) -> Table:
    """How far the masks of each network had moved at the last logged update: means over the seeds."""
    columns = (Column("panel"), Column("experiment"), Column("network"), Column("runs", "{:.0f}"))
    shares = (Column("first mask kept", "{:.1%}"), Column("positions ever kept", "{:.1%}"))
    rows: list[tuple[Value, ...]] = []
    for panel in study.panels:
        for group in panel.groups:
            moved = _moved(group)
            last = [movement[max(movement)] for movement in moved]
            for network in dict.fromkeys(name for movement in last for name in movement):
                having = [movement[network] for movement in last if network in movement]  # agents differ
                means = [np.mean([getattr(it, key) for it in having]) for key in _SHARES]
                rows.append((panel.title, group.label, network, float(len(having)), *map(float, means)))
    note = (
        "Runs whose masks change, at the last logged update, means over the seeds: the share of the first mask's weights that are kept "
        "now, and the share of all positions that were ever kept."
    )
    return Table("topology", "Table of masks that move", note, (*columns, *shares), tuple(rows))


def collapse_table(study: Study) -> Table:
    """In how many finished runs each pruning method cut off a layer, and which."""
    columns = (Column("panel"), Column("experiment"), Column("finished runs", "{:.0f}"), Column("collapsed", "{:.0f}"))
    rows: list[tuple[Value, ...]] = []
    for panel in study.panels:
        for group in panel.groups:
            if group.dense or not group.finished:
                continue
            runs = sum(bool(run.collapsed) for run in group.finished)
            layers = (f"{layer} (seed {', '.join(map(str, seeds))})" for layer, seeds in group.collapsed.items())
            rows.append((panel.title, group.label, float(len(group.finished)), float(runs), "; ".join(layers) or None))
    note = (
        "A layer has collapsed if none of its surviving weights lies on a way from its network's input to the output. Collapsed: "
        "finished runs with such a layer at their end."
    )
    return Table("collapsed", "Table of collapsed layers", note, (*columns, Column("layers")), tuple(rows))


def _moved(group: Group) -> list[Mapping[int, Mapping[str, Movement]]]:
    return [run.movement for run in group.runs if run.movement]


def _by_update(group: Group, key: str) -> dict[int, list[Any]]:
    """Update -> the shares of all networks of all seeds."""
    found = over_updates(group.runs, "movement")
    return {update: [getattr(it, key) for run in runs for it in run.values()] for update, runs in found.items()}
