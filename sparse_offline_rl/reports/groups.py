"""Runs that differ in their seed only, in panels, under one label and one colour."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sparse_offline_rl.config import written
from sparse_offline_rl.reports.axes import Axes
from sparse_offline_rl.reports.runs import Run
from sparse_offline_rl.reports.statistics import interquartile_mean, mean_interval

_INCHES_A_LETTER = 0.11  # of a title, and a little more
# Distinguishable with any colour vision, on white and on black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8F7A1E")
_DENSE = "#808080"
_PAPER_SPARSITY = 0.95
DASHES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
# What tells lines of one colour apart where dashes cannot be seen: markers, and hatches of bars.
MARKERS: dict[str, str] = dict(zip(DASHES, ("o", "s", "^", "D"), strict=True))
HATCHES: dict[str, str] = dict(zip(DASHES, ("", "//", "..", "xx"), strict=True))


@dataclass(frozen=True)
class Group:
    """The seeds of one experiment."""

    panel: str  # its title
    method: str  # of pruning, or "dense"; empty where axis or panel names it
    variant: str  # what else is special
    x: Any  # where it stands on the horizontal axis
    axis: str  # the key of that axis
    dense: bool
    runs: tuple[Run, ...]
    missing: tuple[int, ...] = ()  # seeds that others of the panel have

    @property
    def line(self) -> str:
        """The name of its line: the method, and in brackets what else is special."""
        if not self.method:
            return self.variant or "all runs"
        return self.method + (f" ({self.variant})" if self.variant else "")

    @property
    def label(self) -> str:
        """The line and the place on the axis."""
        if self.axis != "sparsity":
            return f"{self.line}, {self.axis}={self.place}"
        return self.line if self.dense else f"{self.method} {self.place} ({self.variant})".removesuffix(" ()").strip()

    @property
    def place(self) -> str:
        """Where it stands on the axis, as text."""
        return place(self.axis, self.x)

    @property
    def tasks(self) -> set[tuple[str, str]]:
        """Environment and dataset of its runs, of the finished ones if there are any: others may not know their environment yet."""
        return {(str(run.value("env")), str(run.value("dataset"))) for run in self.finished or self.runs}

    @property
    def finished(self) -> tuple[Run, ...]:
        """The runs that have a summary."""
        return tuple(run for run in self.runs if run.summary is not None)

    @property
    def returns(self) -> list[float]:
        """Mean return of the last evaluation of each finished run."""
        return [float((run.summary or {})["return_mean"]) for run in self.finished]

    def values(self, key: str) -> list[float]:
        """A number of the summary, over the finished runs that have it."""
        found = ((run.summary or {}).get(key) for run in self.finished)
        return [float(value) for value in found if value is not None]

    def median(self, key: str) -> float | None:
        """Median of :meth:`values`, for what a clock says: one of the runs may have been slowed by other work."""
        found = self.values(key)
        return float(np.median(found)) if found else None

    @property
    def mean(self) -> float | None:
        """Mean return of the finished runs."""
        return sum(self.returns) / len(self.returns) if self.returns else None

    @property
    def iqm(self) -> float | None:
        """Interquartile mean of their returns."""
        return interquartile_mean(self.returns) if self.returns else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % bootstrap interval of their mean return."""
        return mean_interval(self.returns)

    @property
    def collapsed(self) -> dict[str, list[int]]:
        """Layers that pruning cut off -> the seeds in which it did."""
        found: dict[str, list[int]] = {}
        for run in self.finished:
            for layer in run.collapsed:
                found.setdefault(layer, []).append(run.seed)
        return found


@dataclass(frozen=True)
class Panel:
    """What is compared in one panel of a figure."""

    title: str
    groups: tuple[Group, ...]

    @property
    def policy_return(self) -> float | None:
        """Mean return of the policy that made the data; None where the panel's runs are of several environments or datasets."""
        one = len(set().union(*(group.tasks for group in self.groups))) == 1
        return self.policy_of(self.groups[0]) if one else None

    def policy_of(self, group: Group) -> float | None:
        """Mean return of the policy that made the data of ``group``, as the panel's runs on them say; the mean where they differ a little.

        None where it is not known, or the group has several environments or datasets.
        """
        if len(group.tasks) > 1:
            return None
        runs = [run for it in self.groups if it.tasks == group.tasks for run in it.runs]
        stored = [run for run in runs if (run.summary or {}).get("dataset_return_mean")]
        known = [run.policy_return for run in stored or runs if run.policy_return is not None]
        return sum(known) / len(known) if known else None

    def dense_of(self, group: Group) -> Group | None:
        """What ``group`` is measured against: the dense experiment at its place that is special in the same way, else the usual one.

        None if there is none, or several.
        """
        dense = [it for it in self.groups if it.dense and (it.axis == "sparsity" or it.x == group.x)]
        alike = [it for it in dense if it.variant == group.variant]
        found = alike or [it for it in dense if not it.variant] or dense
        return found[0] if len(found) == 1 else None

    def lines(self) -> dict[str, list[Group]]:
        """Label of a line -> its groups along the axis."""
        found: dict[str, list[Group]] = {}
        for group in self.groups:
            found.setdefault(group.line, []).append(group)
        return found


@dataclass(frozen=True)
class Study:
    """All panels, the axis they share, and sentences about what was left out or mixed."""

    panels: tuple[Panel, ...]
    axes: Axes
    notes: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()  # of the whole study, where this is a part of one: they keep their colours

    @property
    def places(self) -> list[Any]:
        """All values of the axis, in order."""
        return ordered({group.x for panel in self.panels for group in panel.groups})

    def only(self, wanted: Callable[[Group], bool]) -> Study:
        """The same with some of the groups, and the panels that have any left."""
        panels = [Panel(panel.title, tuple(filter(wanted, panel.groups))) for panel in self.panels]
        return self.part(panel for panel in panels if panel.groups)

    def part(self, panels: Iterable[Panel]) -> Study:
        """The same with these panels."""
        return Study(tuple(panels), self.axes, self.notes, tuple(self.colours()))

    def colours(self) -> dict[str, tuple[str, str]]:
        """Line -> colour and dashes, the same in all panels and figures."""
        return _styles(dict.fromkeys((*self.lines, *(group.line for group in self._groups()))))

    def curve_colours(self) -> dict[str, tuple[str, str]]:
        """Label of a group -> colour and dashes: those of its line, or its own where a line has several labels."""
        groups, lines = self._groups(), self.colours()
        labels = {group.label: group.line for group in groups}
        if len(set(labels.values())) == len(labels):
            return {label: lines[line] for label, line in labels.items()}
        return _styles(dict.fromkeys(group.label for group in groups))

    def usual_place(self) -> Any:
        """The value of the axis that figures show which have room for one: ``axes.at``, or the one of most pruned experiments.

        Of several that is the paper's sparsity of 95 % if it is among them, else the highest. None without a pruned experiment.
        """
        counts = Counter(group.x for group in self._groups() if not group.dense)
        if not counts:
            return None
        if self.axes.at in counts:
            return self.axes.at
        most = [x for x in self.places if counts[x] == max(counts.values())]
        return _PAPER_SPARSITY if self.axes.x == "sparsity" and _PAPER_SPARSITY in most else most[-1]

    def _groups(self) -> list[Group]:
        groups = [group for panel in self.panels for group in panel.groups]
        return sorted(groups, key=lambda group: (not group.dense, group.line))


def place(axis: str, x: Any) -> str:
    """A value of the axis as text; sparsities as percentages."""
    return f"{100 * x:g} %" if axis == "sparsity" else written(x)


def wrapped(title: str, inches: float) -> str:
    """A heading in lines that fit a width of ``inches`` at matplotlib's usual size."""
    return "\n".join(textwrap.wrap(title, max(12, int(inches / _INCHES_A_LETTER))))


def ordered(values: Iterable[Any]) -> list[Any]:
    """Values of an axis: numbers by size, then all else by its text."""
    numbers = (int, float)
    return sorted(values, key=lambda v: (0, v, "") if isinstance(v, numbers) else (1, 0, str(v)))


def _styles(labels: Iterable[str]) -> dict[str, tuple[str, str]]:
    coloured = [text for text in labels if text != "dense"]
    styles = {"dense": (_DENSE, "-")}
    for i, text in enumerate(coloured):
        styles[text] = (COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)])
    return styles
