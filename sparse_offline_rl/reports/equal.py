"""What experiments have reached after equal training: the same number of updates, and the same time."""

from __future__ import annotations

import numpy as np

from sparse_offline_rl.reports.axes import Axes
from sparse_offline_rl.reports.groups import Group, Panel, Study
from sparse_offline_rl.reports.statistics import median_clock
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
        "Seconds are medians over the seeds, of which one may have been slowed by other work. "
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
    amounts = [(group, _amounts(group, measure)) for group in groups]
    firsts = [known.get(run.evaluations[0].update) for group, known in amounts for run in group.finished]
    return max(min(totals), *(first for first in firsts if first is not None)) if totals else None


def _total(group: Group, measure: str) -> float | None:
    """Of a whole run: the mean of the seeds' updates, or the median of their seconds; None where it is not known of all."""
    amounts = _amounts(group, measure)
    found = [amounts.get(run.evaluations[-1].update) for run in group.finished]
    known = [it for it in found if it is not None]
    middle = np.mean if measure == "update" else np.median
    return float(middle(known)) if len(known) == len(found) else None


def _reached(group: Group, measure: str, limit: float) -> float | None:
    """Mean return of the seeds' last evaluations that lie within ``limit``; None unless each has one."""
    amounts = _amounts(group, measure)
    within = [[it.mean for it in run.evaluations if amounts.get(it.update, np.inf) <= limit] for run in group.finished]
    return float(np.mean([means[-1] for means in within])) if all(within) else None


def _amounts(group: Group, measure: str) -> dict[int, float]:
    """Update of an evaluation -> updates or seconds of training up to it, where they are known."""
    runs = [run.evaluations for run in group.finished]
    return {it.update: it.update for run in runs for it in run} if measure == "update" else median_clock(runs)
