"""Bytes on disk against the axis (the paper's Figure 4), and by network beside the paper's Table 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparse_offline_rl.pruning.layer_reports import coo_bytes
from sparse_offline_rl.reports.drawing import WIDTH, legend, plain_log_ticks, round_log_limits, row_a_panel
from sparse_offline_rl.reports.groups import MARKERS, Group, Panel, Study, place
from sparse_offline_rl.reports.over_axis import axis_name, shifts
from sparse_offline_rl.reports.runs import Run

MEGABYTE = 1e6
Count = Callable[[int, int, int], int]  # kept weights, inputs × outputs, outputs of a layer -> the bytes that store it
DENSE, COO, CSR = "dense float32", "int64 COO", "int64 CSR"
FORMATS: dict[str, Count] = {
    DENSE: lambda kept, total, outputs: 4 * (total + outputs),
    COO: lambda kept, total, outputs: coo_bytes(kept, outputs),  # the paper's sparse indexing
    CSR: lambda kept, total, outputs: 12 * kept + 8 * (outputs + 1) + 4 * outputs,  # biases stay dense
}
_FORMAT_STYLES = {DENSE: ("0.5", "-"), COO: ("#B07A2A", "--"), CSR: ("#8C6BB1", ":")}


def memory_use(study: Study) -> Figure | None:
    """A row for each panel: the policy file and the checkpoint, in megabytes of 10⁶ bytes, mean over the seeds.

    The policy file is set against its networks as dense float32, as the paper's sparse indexing (int64 COO) and as CSR. None
    without a finished pruned run.
    """
    pruned = study.only(lambda group: not group.dense and bool(group.finished))
    titles = {panel.title for panel in pruned.panels}
    panels = [panel for panel in study.only(lambda group: bool(group.finished)).panels if panel.title in titles]
    if not panels:
        return None
    figure, rows = row_a_panel(panels, 2 * WIDTH + 0.6, 3.5)
    entries: dict[str, Artist] = {}
    for part, panel in zip(rows, panels, strict=True):
        policy, checkpoint = part.subplots(1, 2)
        entries |= _references(policy, panel, study.places)
        for ax, key, name in ((policy, "policy_bytes", "policy file"), (checkpoint, "checkpoint_bytes", "checkpoint")):
            entries |= _files(ax, panel, study, key)
            ax.set_title(name, fontsize="medium")
            _finish(ax, study)
    legend(figure, entries)
    return figure


def stored_as(run: Run, count: Count, networks: Sequence[str] | None = None) -> int:
    """Bytes of some networks of a finished run, by default the policy's, in a format."""
    summary: Mapping[str, Any] = run.summary or {}
    wanted = summary["policy_networks"] if networks is None else networks
    layers = [layer for layer in summary["layers"] if layer["name"].split(".")[0] in wanted]
    return sum(count(layer["kept"], layer["total"], layer["outputs"]) for layer in layers)


def _references(ax: Axes, panel: Panel, places: Sequence[Any]) -> dict[str, Artist]:
    entries: dict[str, Artist] = {}
    for name, count in FORMATS.items():
        colour, dashes = _FORMAT_STYLES[name]
        sizes = [(group, [stored_as(run, count) for run in group.finished]) for group in panel.groups]
        x, y = _means(sizes, places)
        (entries[name],) = ax.plot(x, y, color=colour, linestyle=dashes, linewidth=1.4, marker="s", markersize=3)
    return entries


def _files(ax: Axes, panel: Panel, study: Study, key: str) -> dict[str, Artist]:
    """A line for each line of the panel; where sparsity is the axis the pruned ones begin at the dense runs.

    Most sizes are equal: lines stand beside each other, so that all are seen.
    """
    entries: dict[str, Artist] = {}
    from_dense = study.axes.x == "sparsity"
    dense = [group for group in panel.groups if group.dense]
    lines = [(name, groups) for name, groups in panel.lines().items() if not (from_dense and groups[0].dense)]
    for shift, (name, groups) in zip(shifts(len(lines)), lines, strict=True):
        line = [*dense, *groups] if from_dense else groups
        colour, dashes = study.colours()[name]
        x, y = _means([(group, group.values(key)) for group in line], study.places)
        style: dict[str, Any] = {"linestyle": dashes, "marker": MARKERS[dashes], "markersize": 4}
        (entries[name],) = ax.plot([at + shift for at in x], y, color=colour, **style)
    return entries


def _means(sizes: Sequence[tuple[Group, Sequence[float]]], places: Sequence[Any]) -> tuple[list[int], list[float]]:
    """Places in order, and the mean size at each in megabytes."""
    found: dict[int, list[float]] = {}
    for group, values in sizes:
        found.setdefault(places.index(group.x), []).extend(values)
    ordered = sorted(found.items())
    return [x for x, _ in ordered], [float(np.mean(values)) / MEGABYTE for _, values in ordered]


def _finish(ax: Axes, study: Study) -> None:
    ax.set(xlabel=axis_name(study), ylabel="megabytes", yscale="log")
    ax.set_xticks(range(len(study.places)), [place(study.axes.x, x) for x in study.places])
    if len(study.places) > 6:
        ax.tick_params(axis="x", rotation=35)
    ax.set_xlim(-0.5, len(study.places) - 0.5)
    round_log_limits(ax)
    plain_log_ticks(ax.yaxis)
