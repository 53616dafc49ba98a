"""What experiments have reached after equal training: the same number of updates, and the same time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sparse_offline_rl.reports.axes import Axes
from sparse_offline_rl.reports.groups import Group, Panel, Study
from sparse_offline_rl.reports.progress import Evaluation
from sparse_offline_rl.reports.tables import Column, Table, Value


def equal_table(study: Study) -> Table:
    """Returns after equal updates and equal seconds: what ``study.axes`` says, else what a panel's shortest experiment took, but one
    evaluation of each at least."""
    columns = (
        *(Column("panel"), Column("experiment"), Column("updates", "{:.0f}"), Column("return then", "{:.1f}")),
        *(Column("seconds", "{:.1f}"), Column("return by then", "{:.1f}")),
        *(Column("updates in all", "{:.0f}"), Column("seconds in all", "{:.1f}"), Column("return", "{:.1f}")),
    )
    note = (
        "Means over the finished seeds: the last evaluation within equal updates, within equal seconds of training, and at the end of each. "
        "Unless updates=… and seconds=… say otherwise, equal is what the shortest experiment of the panel took, or more where another one's "
        "first evaluation came later. Empty where a run had no evaluation by then, or no times."
    )
    rows = [row for panel in study.panels for row in _rows(panel, study.axes)]
    return Table("equal", "Table of equal training", note, columns, tuple(rows))


def _rows(panel: Panel, axes: Axes) -> list[tuple[Value, ...]]:
    groups = [group for group in panel.groups if group.finished and all(run.evaluations for run in group.finished)]
    if not groups:
        return []
    given = {"update": axes.updates, "seconds": axes.seconds}
    limits = {measure: _limit(groups, measure) if limit is None else limit for measure, limit in given.items()}
    rows = []
    for group in groups:
        cells: list[Value] = []
        for measure, limit in limits.items():
            cells += [limit, None if limit is None else _reached(group, measure, limit)]
        ends = [_total(group, measure) for measure in limits]
        rows.append((panel.title, group.label, *cells, *ends, group.mean))
    return rows


def _limit(groups: list[Group], measure: str) -> float | None:
    """Where the shortest experiment ends, or all have been evaluated once, whichever is later."""
    totals = [total for group in groups if (total := _total(group, measure)) is not None]
    firsts = [_of(run.evaluations[0], measure) for group in groups for run in group.finished]
    return max(min(totals), *(first for first in firsts if first is not None)) if totals else None


def _total(group: Group, measure: str) -> float | None:
    """Of a whole run, the mean over the seeds; None where it is not known of all."""
    return _mean(group, lambda evaluations: _of(evaluations[-1], measure))


def _reached(group: Group, measure: str, limit: float) -> float | None:
    """Mean return of the seeds' last evaluations that lie within ``limit``; None unless each has one."""

    def last(evaluations: tuple[Evaluation, ...]) -> float | None:
        within = [it.mean for it in evaluations if (amount := _of(it, measure)) is not None and amount <= limit]
        return within[-1] if within else None

    return _mean(group, last)


def _of(evaluation: Evaluation, measure: str) -> float | None:
    return float(evaluation.update) if measure == "update" else evaluation.seconds


def _mean(group: Group, number: Callable[[tuple[Evaluation, ...]], float | None]) -> float | None:
    found = [number(tuple(run.evaluations)) for run in group.finished]
    known = [it for it in found if it is not None]
    return float(np.mean(known)) if len(known) == len(found) else None
