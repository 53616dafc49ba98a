"""Experiments over all tasks, which are environments with their datasets: one number for each, in normalised scores."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes as PlotAxes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sparse_offline_rl.evaluation.normalized_score import normalized_score
from sparse_offline_rl.reports.axes import short_names
from sparse_offline_rl.reports.drawing import DENSE_LINE, POLICY, POLICY_LINE, draw_panels
from sparse_offline_rl.reports.groups import Panel, Study
from sparse_offline_rl.reports.statistics import interquartile_mean, stratified_interval
from sparse_offline_rl.reports.tables import Column, Table, Value, share_of

_TASK = ("env", "dataset")  # keys of a panel that make its task; panels alike in all others are taken together
_LETTERS = 30  # of a label in a line
_ROW, _LINE = 0.27, 0.15  # inches of an experiment at least, and of a line of its label


@dataclass
class Experiment:
    """The finished runs of one experiment: task -> normalised score of each."""

    label: str
    line: str
    dense: bool
    scores: dict[str, list[float]] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Over the tasks, of the means over the seeds, as D4RL's tables have it."""
        return float(np.mean([np.mean(runs) for runs in self.scores.values()]))

    @property
    def iqm(self) -> float:
        """Interquartile mean over all runs of all tasks (Agarwal et al. 2021)."""
        return interquartile_mean([score for runs in self.scores.values() for score in runs])

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % bootstrap interval of it, the seeds of each task drawn anew; None where a task has one run."""
        return stratified_interval(list(self.scores.values()))


@dataclass
class Tasks:
    """What is compared over the same tasks, e.g. all experiments with one agent."""

    title: str  # what their panels have in common
    policy: dict[str, float | None] = field(default_factory=dict)  # task -> score of the policy that made its data
    experiments: dict[str, Experiment] = field(default_factory=dict)  # label -> experiment

    def whole(self) -> list[Experiment]:
        """Those with a run in each task, the highest interquartile mean first."""
        return sorted(filter(self.has_all, self.experiments.values()), key=lambda it: -it.iqm)

    def partial(self) -> list[Experiment]:
        """The others, those with most tasks first."""
        found = [it for it in self.experiments.values() if not self.has_all(it)]
        return sorted(found, key=lambda it: (-len(it.scores), it.label))

    def has_all(self, experiment: Experiment) -> bool:
        """Whether it has a run in each task."""
        return len(experiment.scores) == len(self.policy)

    @property
    def policy_mean(self) -> float | None:
        """Mean score of the policies that made the data; None where one is not known."""
        known = [score for score in self.policy.values() if score is not None]
        return float(np.mean(known)) if known and len(known) == len(self.policy) else None

    @property
    def dense(self) -> Experiment | None:
        """The dense experiment, if there is one of all tasks."""
        found = [it for it in self.whole() if it.dense]
        return found[0] if len(found) == 1 else None


def over_tasks(study: Study) -> list[Tasks]:
    """The panels of ``study`` that differ in environment and dataset only, taken together; those that are alone are left out."""
    keys = [key for key in study.axes.panels if key in _TASK]
    named = [(panel, {key: str(panel.groups[0].runs[0].value(key)) for key in keys}) for panel in study.panels]
    short = {key: short_names(values[key] for _, values in named) for key in keys}
    found: dict[str, Tasks] = {}
    for panel, values in named:
        task = ", ".join(short[key][values[key]] for key in keys)
        title = _shared_title(panel, study)
        _add(found.setdefault(title, Tasks(title)), task, panel)
    return [tasks for tasks in found.values() if len(tasks.policy) > 1]


def _shared_title(panel: Panel, study: Study) -> str:
    run = panel.groups[0].runs[0]
    return ", ".join(str(run.value(key)) for key in study.axes.panels if key not in _TASK) or "all"


def _add(tasks: Tasks, task: str, panel: Panel) -> None:
    found = [(group, scores) for group in panel.groups if (scores := group.values("normalized_score"))]
    if not found:
        return
    low, high = found[0][0].finished[0].references
    made = panel.policy_return
    tasks.policy[task] = None if made is None else normalized_score(made, low, high)
    for group, scores in found:
        it = tasks.experiments.setdefault(group.label, Experiment(group.label, group.line, group.dense))
        it.scores[task] = scores


def overall_table(study: Study) -> Table:
    """A row an experiment: mean and interquartile mean of its normalised scores over all tasks, and the mean in each."""
    families = over_tasks(study)
    tasks = list(dict.fromkeys(task for family in families for task in family.policy))
    columns = (
        *(Column("over"), Column("experiment"), Column("runs", "{:.0f}"), Column("mean score", "{:.1f}")),
        *(Column("IQM", "{:.1f}"), Column("95 % from", "{:.1f}"), Column("to", "{:.1f}"), Column("of dense", "{:.1%}")),
        *(Column(task, "{:.1f}") for task in tasks),
    )
    note = (
        "Normalised scores (0: random policy, 100: D4RL's expert) of the last evaluation of finished runs. Mean score: over the tasks, of the "
        "means over their seeds, which stand on the right. IQM: interquartile mean over all runs of all tasks, with its 95 % bootstrap "
        "interval, the seeds of each task drawn anew (Agarwal et al. 2021); of two or three seeds a task it is no more than a rough range. Both are empty where a task has no run, the interval where one "
        "has a single run. Of dense: share of the dense agent's IQM."
    )
    rows = [row for family in families for row in _rows(family, tasks)]
    return Table("overall", "Table over all tasks", note, columns, tuple(rows))


def _rows(family: Tasks, tasks: list[str]) -> list[tuple[Value, ...]]:
    rows: list[tuple[Value, ...]] = []
    if family.policy_mean is not None:
        scores = [family.policy.get(task) for task in tasks]
        rows.append((family.title, POLICY, None, family.policy_mean, None, None, None, None, *scores))
    dense = family.dense.iqm if family.dense else None
    for it in (*family.whole(), *family.partial()):
        whole = family.has_all(it)
        interval = (it.interval if whole else None) or (None, None)
        numbers = (it.mean, it.iqm, *interval, share_of(it.iqm, dense)) if whole else (None,) * 5
        means = [float(np.mean(it.scores[task])) if task in it.scores else None for task in tasks]
        rows.append((family.title, it.label, float(sum(map(len, it.scores.values()))), *numbers, *means))
    return rows


def overall_ranking(study: Study) -> Figure | None:
    """A row an experiment with runs in all tasks: interquartile mean and its interval. None without two such rows."""
    families = {tasks.title: tasks for tasks in over_tasks(study) if len(tasks.whole()) > 1}
    if not families:
        return None
    colours = study.colours()

    def draw(ax: PlotAxes, panel: Panel) -> Mapping[str, Artist]:
        family = families[panel.title]
        shown = family.whole()
        heights = _heights(shown)
        rows = np.cumsum(heights) - heights / 2
        for row, it in zip(rows, shown, strict=True):
            colour, interval = colours[it.line][0], it.interval
            if interval:
                ax.plot(interval, (row, row), color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
            ax.plot(it.iqm, row, "o", color=colour, markersize=5)
        ax.set_yticks(rows, [_wrapped(it) for it in shown], fontsize="small")
        ax.set_ylim(heights.sum(), 0)
        return _reference_lines(ax, family)

    height = 1.1 + max(_heights(tasks.whole()).sum() for tasks in families.values())
    panels = tuple(Panel(title, ()) for title in families)
    return draw_panels(Study(panels, study.axes), draw, "normalised score over all tasks", "", row_height=height)


def _heights(shown: Sequence[Experiment]) -> NDArray[np.float64]:
    """Inches of each row."""
    return np.array([max(_ROW, _LINE * (_wrapped(it).count("\n") + 1)) for it in shown])


def _wrapped(experiment: Experiment) -> str:
    return textwrap.fill(experiment.label, _LETTERS)


def _reference_lines(ax: PlotAxes, family: Tasks) -> dict[str, Artist]:
    entries: dict[str, Artist] = {}
    if family.policy_mean is not None:
        entries[POLICY] = ax.axvline(family.policy_mean, **POLICY_LINE)
    if family.dense:
        entries["dense agent"] = ax.axvline(family.dense.iqm, **DENSE_LINE)
    return entries
