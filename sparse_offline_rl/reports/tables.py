"""The tables of a report; the CSV, the Markdown and the page are all written from the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparse_offline_rl.reports.groups import Group, Panel, Study
from sparse_offline_rl.reports.memory import FORMATS, stored_as
from sparse_offline_rl.reports.runs import COUNTS
from sparse_offline_rl.reports.statistics import share_below_best, share_fallen
from sparse_offline_rl.reports.survivors import layers_of, survivor_rows
from sparse_offline_rl.reports.time_to_policy import SHARES, reached

Value = str | float | None
NO_VALUE = "–"


@dataclass(frozen=True)
class Column:
    """A column: its heading, and how its numbers are written for people (a format, ``{}`` for text)."""

    name: str
    form: str = "{}"


@dataclass(frozen=True)
class Table:
    """Rows of text and numbers; None: there is no such value."""

    name: str  # of its file
    title: str
    note: str  # what the columns mean
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]

    def texts(self) -> list[list[str]]:
        """The cells as people read them."""
        forms = [column.form for column in self.columns]
        return [
            [NO_VALUE if value is None else form.format(value) for value, form in zip(row, forms, strict=True)]
            for row in self.rows
        ]

    def csv_rows(self) -> list[list[object]]:
        """Header and rows for a CSV, numbers in full."""
        cells: list[list[object]] = [["" if value is None else value for value in row] for row in self.rows]
        return [[column.name for column in self.columns], *cells]

    def markdown(self) -> str:
        """As a Markdown table."""
        numeric = ["---:" if column.form != "{}" else "---" for column in self.columns]
        texts = [[text.replace("|", "\\|") for text in row] for row in self.texts()]
        lines = [[column.name for column in self.columns], numeric, *texts]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def returns_table(study: Study) -> Table:
    """Returns of the last evaluation over the finished seeds, and how steady they were."""
    columns = (
        *(Column("panel"), Column("experiment"), Column("seeds", "{:.0f}"), Column("mean", "{:.1f}")),
        *(Column("IQM", "{:.1f}"), Column("95 % from", "{:.1f}"), Column("to", "{:.1f}")),
        *(Column("of dense", "{:.1%}"), Column("of the dataset's policy", "{:.1%}"), Column("score", "{:.1f}")),
        *(Column("episodes fallen", "{:.1%}"), Column("time below half of best", "{:.1%}"), Column("remarks")),
    )
    note = (
        "Mean, interquartile mean (IQM) and 95 % bootstrap interval of the mean, over the finished seeds, of the return of the last "
        "evaluation. Of two or three seeds that interval is just their range. Of dense: share of the dense agent's IQM. Fallen: share of its episodes, all seeds together, with less than half "
        "of their median. Time below half of best: share of evaluations under half of the run's best, from the first that reached it."
    )
    rows = [_returns_row(panel, group) for panel in study.panels for group in panel.groups]
    return Table("returns", "Table of returns", note, columns, tuple(rows))


def _returns_row(panel: Panel, group: Group) -> tuple[Value, ...]:
    dense, interval = panel.dense_of(group), group.interval or (None, None)
    episodes = [value for run in group.finished if run.evaluations for value in run.evaluations[-1].returns]
    dips = [share for run in group.runs if (share := share_below_best(run.evaluations)) is not None]
    scores = group.values("normalized_score")
    return (
        panel.title,
        group.label,
        float(len(group.finished)),
        group.mean,
        group.iqm,
        *interval,
        share_of(group.iqm, dense.iqm if dense else None),
        share_of(group.mean, panel.policy_of(group)),
        _mean(scores),
        share_fallen(episodes),
        _mean(dips),
        remarks(group),
    )


def remarks(group: Group) -> str:
    """What is missing, failed, unfinished or collapsed in a group, as one line."""
    parts = []
    for word, failed in (("failed", True), ("unfinished", False)):
        runs = [run for run in group.runs if run.summary is None and bool(run.failure) == failed]
        if runs:
            parts.append(f"{word}: seed {', '.join(f'{run.seed} (after {run.update} updates)' for run in runs)}")
    if group.missing:
        parts.append(f"missing: seed {', '.join(map(str, group.missing))}")
    parts += [f"collapsed: {layer}, seed {', '.join(map(str, seeds))}" for layer, seeds in group.collapsed.items()]
    return "; ".join(parts)


def share_of(value: float | None, whole: float | None) -> float | None:
    """``value / whole``; None if one of them is unknown or the whole is not positive."""
    return None if value is None or whole is None or whole <= 0 else value / whole


def time_table(study: Study) -> Table:
    """Updates and seconds of training until an evaluation reaches a share of the dataset policy's return."""
    columns = [Column("panel"), Column("experiment"), Column("dataset's policy", "{:.0f}"), Column("runs", "{:.0f}")]
    for share in SHARES:
        columns += [Column(f"{share:.0%}: runs", "{:.0f}"), Column(f"{share:.0%}: not yet", "{:.0f}")]
        columns += [Column(f"{share:.0%}: updates", "{:.0f}"), Column(f"{share:.0%}: seconds", "{:.1f}")]
    rows = []
    for panel in study.panels:
        for group in panel.groups:
            cells: list[Value] = []
            wanted = panel.policy_of(group)
            if wanted is None or wanted <= 0:
                continue
            for share in SHARES:
                it = reached(group, share * wanted)
                cells += [float(len(it.updates)), float(it.unfinished), it.median_updates, it.median_seconds]
            rows.append((panel.title, group.label, wanted, float(len(group.runs)), *cells))
    note = (
        "The first evaluation of a run whose mean return is at least 90 % or 95 % of what the policy that made the data earns: how many "
        "runs had one, how many have not yet, but are unfinished, and the median updates and seconds of training (evaluations not counted) "
        "of those that had one."
    )
    return Table("time_to_policy", "Table of times", note, tuple(columns), tuple(rows))


def cost_table(study: Study) -> Table:
    """Weights, speed and bytes of the finished runs over the seeds: medians of what a clock says, means of all else."""
    hashed = any(group.values("stored_weights") for panel in study.panels for group in panel.groups)
    columns = (
        *(Column("panel"), Column("experiment"), Column("weights kept", "{:.2%}")),
        *([Column("values stored", "{:.2%}")] if hashed else []),
        Column("updates/s", "{:.0f}"),
        *(Column("times dense", "{:.1f}"), Column("training s", "{:.0f}"), Column("policy file, kB", "{:.1f}")),
        *(Column(f"{name}, kB", "{:.1f}") for name in FORMATS),
        *(Column("smaller than dense", "{:.1f}"), Column("checkpoint, kB", "{:.1f}")),
    )
    rows = [_cost_row(panel, group, hashed) for panel in study.panels for group in panel.groups if group.finished]
    note = (
        "Over the finished seeds: medians of speeds and seconds, because other work may have slowed one of them, and means of all else. The formats hold all kept weights of the policy's networks, zeros or not, and know neither factors nor "
        "shared values; 1 kB is 1000 bytes."
    )
    if hashed:
        note += (
            " Values stored: of all weights; a hashed network keeps and computes with all weights, which share them."
        )
    return Table("cost", "Table of speed and size", note, columns, tuple(rows))


def _cost_row(panel: Panel, group: Group, hashed: bool) -> tuple[Value, ...]:
    dense, speed = panel.dense_of(group), group.median("updates_per_second")
    kept = np.array(group.values("nonzero_weights")) / np.array(group.values("total_weights"))
    stored = [
        run.summary.get("stored_weights", run.summary["nonzero_weights"]) for run in group.finished if run.summary
    ]
    shares = [float(np.mean(np.array(stored) / np.array(group.values("total_weights"))))] if hashed else []
    size, whole = np.array(group.values("policy_bytes")), np.array(group.values("policy_dense_bytes"))
    formats = [float(np.mean([stored_as(run, count) for run in group.finished])) / 1e3 for count in FORMATS.values()]
    return (
        panel.title,
        group.label,
        float(kept.mean()),
        *shares,
        speed,
        share_of(speed, dense.median("updates_per_second") if dense else None),
        group.median("train_seconds"),
        float(size.mean()) / 1e3,
        *formats,
        float((whole / size).mean()),
        float(np.mean(group.values("checkpoint_bytes"))) / 1e3,
    )


def flops_table(study: Study) -> Table:
    """FLOPs and bytes of acting and of an update, beside those of the unpruned agent; means over the finished runs that have them."""
    columns = [Column("panel"), Column("experiment")]
    for what, unit in (("act", "kFLOP"), ("update", "MFLOP")):
        columns += [Column(f"{what}, {unit}", "{:.1f}"), Column(f"dense {what}, {unit}", "{:.1f}")]
        columns += [Column(f"{what}: FLOPs of dense", "{:.2%}")]
        columns += [Column(f"{what}, kB", "{:.1f}"), Column(f"dense {what}, kB", "{:.1f}")]
    rows = [
        (panel.title, group.label, *_counts(group, "act", 1e3), *_counts(group, "update", 1e6))
        for panel in study.panels
        for group in panel.groups
        if group.values(COUNTS[0])
    ]
    note = (
        "Two FLOPs for each surviving weight and row that it is multiplied with, forward and backward; what depends on the state alone counts "
        "once for all its candidate actions, pruned or not. Biases, activations and the optimiser's steps are not counted, nor are changes of "
        "masks: it is the last masks that count. Act: one action; its bytes are the float32 parameters that it reads. Update: its bytes are "
        "all parameters, targets and moments; indices are not counted. Of a hashed network they are those of the values that weights share."
    )
    return Table("flops", "Table of FLOPs and bytes", note, tuple(columns), tuple(rows))


def _counts(group: Group, what: str, unit: float) -> tuple[Value, ...]:
    def mean(kind: str) -> float:
        return float(np.mean(group.values(f"{what}_{kind}")))

    flops, dense = mean("flops"), mean("dense_flops")
    return flops / unit, dense / unit, share_of(flops, dense), mean("bytes") / 1e3, mean("dense_bytes") / 1e3


def survivors_table(study: Study) -> Table:
    """Weights that survive in each layer: mean and standard deviation over the seeds (the paper's Figure 3)."""
    rows: list[tuple[Value, ...]] = []
    for panel in survivor_rows(study):
        for group in panel.groups:
            for network, layers in layers_of(group).items():
                for layer, seeds in layers.items():
                    kept = [float(it["kept"]) for it in seeds]
                    name = f"{network}.{layer}"
                    rows.append(
                        (panel.title, group.label, name, _mean(kept), float(np.std(kept)), float(seeds[0]["total"]))
                    )
    columns = (
        *(Column("panel"), Column("experiment"), Column("layer"), Column("left", "{:.1f}")),
        *(Column("std", "{:.1f}"), Column("dense", "{:.0f}")),
    )
    return Table(
        "survivors", "Table of weights left", "Mean and standard deviation over the seeds.", columns, tuple(rows)
    )


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
