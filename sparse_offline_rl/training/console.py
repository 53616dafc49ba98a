"""What a person sees: the pruning table, a progress bar on a terminal, the closing summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from sparse_offline_rl.pruning.layer_reports import LayerReport

console = Console(soft_wrap=True)
warnings = Console(stderr=True, soft_wrap=True)


def say(message: str) -> None:
    """One plain line."""
    console.print(message, markup=False, highlight=False)


def warn(message: str) -> None:
    """One line that must not be overlooked, on standard error."""
    warnings.print(f"warning: {message}", style="bold yellow", markup=False, highlight=False)


def show_layers(reports: Sequence[LayerReport]) -> None:
    """The table of survivors."""
    hashed = any(report.stored != report.kept for report in reports)
    title = "Weights, and values that they share" if hashed else "Weights after pruning"
    table = Table(title=title, title_justify="left")
    left = ("values", "weights", "share") if hashed else ("kept", "of", "density")
    for column in ("layer", *left, "live inputs", "live outputs"):
        table.add_column(column, justify="left" if column == "layer" else "right")
    for report in reports:
        style = "bold red" if report.collapsed else None
        density = f"{report.stored / report.total:.2%}"
        cells = [
            report.full_name,
            f"{report.stored}",
            f"{report.total}",
            density,
            f"{report.live_inputs}",
            f"{report.live_outputs}",
        ]
        table.add_row(*cells, style=style)
    console.print(table)


def warn_of_collapse(reports: Sequence[LayerReport]) -> None:
    """One loud line for each collapsed layer among ``reports``."""
    for report in reports:
        if report.collapsed:
            warn(
                f"layer {report.full_name} has collapsed: {report.kept} of {report.total} weights are left and none carries "
                "a signal from the network's input to its output."
            )


class ProgressLine:
    """Progress of the updates on a terminal; elsewhere one line per evaluation and nothing else."""

    def __init__(self, progress: Progress | None, total: int, done: int) -> None:
        self._progress = progress
        self._task = progress.add_task("training", total=total, completed=done, detail="") if progress else None
        self._return = ""

    def log(self, update: int, values: Mapping[str, float]) -> None:
        """Show the state after ``update``."""
        if "eval/return_mean" in values:
            self._return = f"return {values['eval/return_mean']:.0f} ± {values['eval/return_std']:.0f}"
            if "eval/normalized_score" in values:
                self._return += f" (score {values['eval/normalized_score']:.1f})"
            if self._progress is None:
                say(f"update {update}: {self._return}, {values['time/updates_per_second']:.0f} updates/s")
        if self._progress is not None and self._task is not None:
            losses = " ".join(f"{name[5:]} {value:.3g}" for name, value in values.items() if name.startswith("loss/"))
            detail = f"{values['time/updates_per_second']:.0f}/s  {self._return}  {losses}"
            self._progress.update(self._task, completed=update, detail=detail)


@contextmanager
def progress_line(total: int, done: int) -> Iterator[ProgressLine]:
    """A progress bar while the block runs, if standard output is a terminal."""
    if not console.is_terminal:
        yield ProgressLine(None, total, done)
        return
    # On a narrow terminal the losses at the end are cut, never the count or the time that is left.
    whole, rest = Column(no_wrap=True), Column(ratio=1, no_wrap=True, overflow="ellipsis")
    columns = (
        MofNCompleteColumn(table_column=whole),
        BarColumn(bar_width=12),
        TimeRemainingColumn(table_column=whole),
        TextColumn("{task.fields[detail]}", table_column=rest),
    )
    with Progress(*columns, console=console, expand=True) as progress:
        yield ProgressLine(progress, total, done)


def show_summary(summary: Mapping[str, Any], run_dir: str, note: str) -> None:
    """The closing lines of a run."""
    score = summary["normalized_score"]
    scored = "" if score is None else f", normalised score {score:.1f}"
    kept, total = summary["nonzero_weights"], summary["total_weights"]
    say(
        f"{note}: {summary['agent']} on {summary['env']} ({summary['dataset']}), {summary['prune']} sparsity {summary['sparsity']:g}"
    )
    say(f"  return        {summary['return_mean']:.1f} ± {summary['return_std']:.1f}{scored}")
    stored = summary.get("stored_weights", kept)
    how = (
        f"{kept} of {total} kept ({kept / total:.2%})"
        if stored == kept
        else f"{total} share {stored} values ({stored / total:.2%})"
    )
    say(f"  weights       {how}, {summary['engine']} engine")
    say(f"  speed         {summary['updates_per_second']:.1f} updates/s, {summary['train_seconds']:.0f} s training")
    ratio = summary["policy_dense_bytes"] / summary["policy_bytes"]
    say(f"  policy file   {summary['policy_bytes']} bytes, {ratio:.1f} times smaller than dense float32")
    say(f"  run folder    {run_dir}")
    say(f"  curves        tensorboard --logdir {run_dir}")
