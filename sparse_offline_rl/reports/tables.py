"""Tables in markdown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.reports.groups import Group, by_panel_and_agent

_COLUMNS = ("pruning", "seeds", "return", "score", "weights kept", "policy file", "smaller than dense", "updates/s")


def returns_table(groups: Sequence[Group]) -> str:
    """Final returns of the finished runs: mean ± sample standard deviation over the seeds; a table for each agent and panel."""
    parts = []
    finished = [group for group in groups if group.finished]
    for (panel, agent), members in by_panel_and_agent(finished).items():
        lines = [f"### {agent} on {panel}", "", _line(_COLUMNS), _line(["---", *["---:"] * (len(_COLUMNS) - 1)])]
        parts.append("\n".join([*lines, *(_line(_cells(group)) for group in members)]))
    return "\n\n".join(parts) if parts else "No run has finished yet."


def collapsed_layers(groups: Sequence[Group]) -> list[str]:
    """A sentence for each group in which pruning cut a layer off."""
    sentences = []
    for group in groups:
        seeds: dict[str, list[int]] = {}
        for run in group.finished:
            for name in (run.summary or {}).get("collapsed_layers", []):
                seeds.setdefault(name, []).append(run.seed)
        sentences += [
            f"{group.panel}, {group.label}: layer {name} has collapsed (seeds {', '.join(map(str, found))})."
            for name, found in seeds.items()
        ]
    return sentences


def _cells(group: Group) -> list[str]:
    size, dense = group.values("policy_bytes"), group.values("policy_dense_bytes")
    kept = group.values("nonzero_weights") / group.values("total_weights")
    return [
        group.pruning,
        f"{len(group.finished)}",
        _spread(group.values("return_mean")),
        _spread(group.values("normalized_score")),
        f"{kept.mean():.2%}",
        f"{size.mean() / 1e6:.3f} MB",
        f"{(dense / size).mean():.1f} times",
        f"{group.values('updates_per_second').mean():.0f}",
    ]


def _spread(values: NDArray[np.float64]) -> str:
    if not len(values):
        return "–"
    return f"{values.mean():.1f}" + (f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else "")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
