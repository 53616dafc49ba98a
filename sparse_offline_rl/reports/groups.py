"""Runs that differ in their seed only, under one label and one colour."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.reports.runs import Run, short_panels, variants

_COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#7F6000",
)  # distinguishable with any colour vision
_INCHES_A_LETTER = 0.11  # of a title, and a little more
_DASHES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Group:
    """The seeds of one experiment."""

    panel: str  # environment and data, by names short enough for a title
    agent: str
    prune: str
    sparsity: float
    variant: str
    source: str  # the panel in full
    runs: tuple[Run, ...]  # one a seed

    @property
    def pruning(self) -> str:
        """Pruning method, sparsity and what else is special."""
        name = "dense" if self.prune == "none" else f"{self.prune} {100 * self.sparsity:g} %"
        return name + (f" ({self.variant})" if self.variant else "")

    @property
    def label(self) -> str:
        """Agent and pruning."""
        return f"{self.agent} {self.pruning}"

    @property
    def finished(self) -> tuple[Run, ...]:
        """The runs that have a summary."""
        return tuple(run for run in self.runs if run.summary is not None)

    def values(self, key: str) -> NDArray[np.float64]:
        """A number of the summary, over the finished seeds that have it."""
        found = (run.summary.get(key) for run in self.finished if run.summary is not None)
        return np.array([value for value in found if value is not None], dtype=np.float64)


def group_runs(runs: list[Run]) -> tuple[list[Group], list[str]]:
    """Groups in the order of panel, agent, pruning (dense first) and sparsity; sentences about runs that are there twice."""
    variant_of, short = variants(runs), short_panels(run.panel for run in runs)
    members: dict[tuple[str, str, bool, str, float, str, str], dict[int, Run]] = {}
    notes = []
    for run in runs:
        agent, prune, sparsity = run.method
        key = (short[run.panel], agent, prune != "none", prune, sparsity, variant_of[run.path], run.panel)
        seeds = members.setdefault(key, {})
        if run.seed in seeds:
            notes.append(f"{run.path} is left out: {seeds[run.seed].path} is the same experiment with the same seed.")
        else:
            seeds[run.seed] = run
    groups = [
        Group(panel, agent, prune, sparsity, variant, source, tuple(seeds[seed] for seed in sorted(seeds)))
        for (panel, agent, _, prune, sparsity, variant, source), seeds in sorted(members.items())
    ]
    return groups, notes


def line_styles(groups: Sequence[Group]) -> dict[str, tuple[str, str]]:
    """Pruning -> colour and dashes, the same in all panels of a figure; in the order of the legend."""
    order = sorted({(group.prune != "none", group.prune, group.sparsity, group.pruning) for group in groups})
    return {
        key[-1]: (_COLOURS[i % len(_COLOURS)], _DASHES[i // len(_COLOURS) % len(_DASHES)])
        for i, key in enumerate(order)
    }


def title(agent: str, panel: str, inches: float) -> str:
    """A heading of an agent on a panel, in lines that fit a width of ``inches`` at matplotlib's usual size."""
    return "\n".join(textwrap.wrap(f"{agent} on {panel}", max(12, int(inches / _INCHES_A_LETTER))))


def by_panel_and_agent(groups: Sequence[Group]) -> dict[tuple[str, str], list[Group]]:
    """Groups by panel and agent."""
    found: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        found.setdefault((group.panel, group.agent), []).append(group)
    return found
