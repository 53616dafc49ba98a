"""What each level of a lottery ticket, or of surgery in steps, had reached when it ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sparse_offline_rl.reports.groups import Study
from sparse_offline_rl.reports.runs import Run
from sparse_offline_rl.reports.tables import Column, Table, Value


def levels_table(study: Study) -> Table:
    """A row for each level of each experiment, and one for what was trained after the last of them: means over the seeds."""
    columns = (Column("panel"), Column("experiment"), Column("level", "{:.0f}"), Column("until update", "{:.0f}"))
    numbers = (Column("sparsity", "{:.2%}"), Column("runs evaluated", "{:.0f}"), Column("return", "{:.1f}"))
    rows: list[tuple[Value, ...]] = []
    for panel in study.panels:
        for group in panel.groups:
            having = [levels for run in group.finished if (levels := _levels(run))]
            for i, same in enumerate(zip(*having, strict=False), start=1):
                returns = [it["return_mean"] for it in same if it.get("return_mean") is not None]
                sparsity = float(np.mean([it["sparsity"] for it in same]))
                mean = float(np.mean(returns)) if returns else None
                rows.append((panel.title, group.label, i, same[0]["update"], sparsity, float(len(returns)), mean))
    note = (
        "Runs whose training has levels: each level trains the network that the masks until then left, is evaluated (unless "
        "eval.levels=false), and then pruned; the last row is what was trained to the end. Means over the finished seeds."
    )
    return Table("levels", "Table of levels", note, (*columns, *numbers), tuple(rows))


def _levels(run: Run) -> list[Mapping[str, Any]]:
    """Those that ended before the run did, and the last, which ended with it; none of a run without levels."""
    summary = run.summary or {}
    if not summary.get("levels"):
        return []
    sparsity = 1 - summary["nonzero_weights"] / summary["total_weights"]
    last = {"update": run.settings["updates"], "sparsity": sparsity, "return_mean": summary["return_mean"]}
    return [*summary["levels"], last]
