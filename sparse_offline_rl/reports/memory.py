"""Bytes on disk against sparsity (the paper's Figure 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from sparse_offline_rl.pruning.layer_reports import coo_bytes
from sparse_offline_rl.reports.groups import Group, by_panel_and_agent, title
from sparse_offline_rl.reports.runs import Run

_MEGABYTE = 1e6
_WIDTH = 9.6  # inches of the figure
_DASHES = ("-", "--", ":", "-.")  # lines of equal sizes show through each other


def memory_use(groups: Sequence[Group]) -> Figure | None:
    """A row for each panel and agent: the policy file and the checkpoint, in megabytes of 10⁶ bytes.

    The policy file is set against its networks as dense float32 and as the paper's sparse indexing (int64 COO).
    None without a finished pruned run.
    """
    finished = [group for group in groups if group.finished]
    rows = {
        row: members
        for row, members in by_panel_and_agent(finished).items()
        if any(group.prune != "none" for group in members)
    }
    if not rows:
        return None
    methods = sorted({group.prune for group in finished} - {"none"})
    figure = Figure(figsize=(_WIDTH, 3.7 * len(rows) + 0.6), layout="constrained")
    parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for part, ((panel, agent), members) in zip(parts, rows.items(), strict=True):
        part.suptitle(title(agent, panel, _WIDTH))
        policy, checkpoint = part.subplots(1, 2)
        _plot_references(policy, members)
        for ax, key, name in ((policy, "policy_bytes", "policy file"), (checkpoint, "checkpoint_bytes", "checkpoint")):
            _plot_sizes(ax, members, methods, key, name)
            ax.set_title(name, fontsize="medium")
            _finish(ax)
    return figure


def policy_coo_bytes(run: Run) -> int:
    """Bytes of the policy's networks in int64 COO storage, biases included, as in the paper's Table 1."""
    summary: Mapping[str, Any] = run.summary or {}
    kept, biases = 0, 0
    for layer in summary["layers"]:
        network, _ = layer["name"].split(".")
        if network in summary["policy_networks"]:
            kept += layer["kept"]
            biases += layer["outputs"]
    return coo_bytes(kept, biases)


def _plot_references(ax: Axes, members: Sequence[Group]) -> None:
    dense = np.mean([group.values("policy_dense_bytes").mean() for group in members]) / _MEGABYTE
    ax.axhline(dense, color="0.3", linewidth=1.2, label="dense float32")
    coo = [(group.sparsity, policy_coo_bytes(run)) for group in members for run in group.finished]
    ax.plot(*_megabytes(coo), color="0.55", linestyle="--", marker="s", markersize=3, label="int64 COO (paper)")


def _plot_sizes(ax: Axes, members: Sequence[Group], methods: Sequence[str], key: str, name: str) -> None:
    """A line for each pruning method, from the dense runs on where there are any."""
    for i, method in enumerate(methods):
        line = [group for group in members if group.prune in ("none", method)]
        if any(group.prune == method for group in line):
            points = [(group.sparsity, size) for group in line for size in group.values(key)]
            dashes, label = _DASHES[i % len(_DASHES)], f"{name}, {method}"
            ax.plot(*_megabytes(points), color=f"C{i}", linestyle=dashes, marker="o", markersize=4, label=label)


def _megabytes(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """The sparsities in order, and the mean size at each."""
    by_sparsity: dict[float, list[float]] = {}
    for sparsity, size in sorted(points):
        by_sparsity.setdefault(sparsity, []).append(size / _MEGABYTE)
    return list(by_sparsity), [sum(sizes) / len(sizes) for sizes in by_sparsity.values()]


def _finish(ax: Axes) -> None:
    ax.set(xlabel="sparsity (fraction of the weights removed)", ylabel="megabytes", yscale="log")
    ax.set_xlim(-0.03, 1.03)
    ax.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(FuncFormatter(lambda _value, _position: ""))
    ax.grid(alpha=0.25)
    ax.legend(frameon=False, fontsize="small")
