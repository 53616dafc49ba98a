"""The whole report: figures, tables, and the pages that show them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from sparse_offline_rl.files import write_bytes, write_csv
from sparse_offline_rl.reports.axes import Axes
from sparse_offline_rl.reports.compare import compare
from sparse_offline_rl.reports.curves import learning_curves
from sparse_offline_rl.reports.densities import layer_densities
from sparse_offline_rl.reports.drawing import save, styled
from sparse_offline_rl.reports.equal import equal_table
from sparse_offline_rl.reports.groups import Study
from sparse_offline_rl.reports.levels import levels_table
from sparse_offline_rl.reports.memory import memory_use
from sparse_offline_rl.reports.over_axis import returns_over_axis, speed_over_axis
from sparse_offline_rl.reports.overall import overall_ranking, overall_table
from sparse_offline_rl.reports.page import FigurePart, html_page
from sparse_offline_rl.reports.paper_table import memory_table
from sparse_offline_rl.reports.store import RUNS, read_runs, write_store
from sparse_offline_rl.reports.survivors import layer_survivors
from sparse_offline_rl.reports.tables import Table, cost_table, flops_table, returns_table, survivors_table, time_table
from sparse_offline_rl.reports.time_to_policy import time_to_policy
from sparse_offline_rl.reports.topology import collapse_table, mask_movement, topology_table

# Name of its file -> the function that makes it.
_TABLES: dict[str, Callable[[Study], Table | None]] = {
    "returns": returns_table,
    "overall": overall_table,
    "equal": equal_table,
    "time_to_policy": time_table,
    "cost": cost_table,
    "flops": flops_table,
    "memory": memory_table,
    "levels": levels_table,
    "collapsed": collapse_table,
    "topology": topology_table,
    "survivors": survivors_table,
}
_PAGES = ("report.html", "report.md")
DATA = "data"  # folder of the CSVs from which the report can be made again
_MOST_ROWS = 3  # panels in a figure that has a row for each


@dataclass(frozen=True)
class Report:
    """What was written, and what the reader should know about it."""

    files: list[Path]
    runs: int
    finished: int
    notes: list[str]
    removed: list[Path]  # files of an earlier report in the same folder that this one has not got


@dataclass(frozen=True)
class _Kind:
    """A kind of figure."""

    name: str
    title: str  # ``{x}``: the axis
    caption: str
    draw: Callable[[Study], Figure | None]
    row_a_panel: bool = False
    paper: str = ""  # the figure of the paper that it is, where the axis is sparsity

    def titled(self, axis: str, page: int) -> str:
        """Its title over an axis, on one of its pages."""
        paper = f" ({self.paper})" if self.paper and axis == "sparsity" else ""
        return self.title.format(x=axis) + paper + (f", page {page}" if page > 1 else "")


_KINDS = (
    _Kind(
        "returns",
        "Return over {x}",
        "Last evaluation of each run: mean over the seeds with its 95 % bootstrap interval, which of two or three seeds is just their range, "
        "and each seed as a dot. Hollow: unfinished, not in the mean. n/m: n of m seeds are finished. Dotted: no run in between.",
        returns_over_axis,
        paper="the paper's Figures 1 and 2",
    ),
    _Kind(
        "overall",
        "All tasks together",
        "Experiments with runs in each environment and dataset: interquartile mean of the normalised scores of their last evaluations over all "
        "tasks and seeds, with its 95 % bootstrap interval where each task has two seeds; of two or three a task it is no more than a rough range.",
        overall_ranking,
    ),
    _Kind(
        "time_to_policy",
        "Time to the dataset policy's return",
        "Seconds of training until an evaluation first reached 90 % (hollow) and 95 % (filled) of what the policy that made the data earns; "
        "a dot a seed, a cross one that never did, a triangle one that is unfinished and has not yet.",
        time_to_policy,
    ),
    _Kind(
        "curves_updates",
        "Learning curves over updates",
        "Mean over the seeds in a band from the lowest to the highest; of many experiments those at one place of the axis.",
        lambda study: learning_curves(study, "update"),
    ),
    _Kind(
        "curves_seconds",
        "Learning curves over seconds of training",
        "The same over training time, at the median of the seeds' times; evaluations are not counted.",
        lambda study: learning_curves(study, "seconds"),
    ),
    _Kind(
        "speed",
        "Speed over {x}",
        "Updates a second over the whole run: median over the seeds, of which one may have been slowed by other work, and each seed.",
        speed_over_axis,
    ),
    _Kind(
        "survivors",
        "Weights left in each layer",
        "Mean ± standard deviation over the seeds; the line above a layer is its dense size.",
        layer_survivors,
        row_a_panel=True,
        paper="the paper's Figure 3",
    ),
    _Kind(
        "densities",
        "Densities of layers while training",
        "Runs whose masks change: share of each layer's weights that are kept, mean over the seeds.",
        layer_densities,
        row_a_panel=True,
    ),
    _Kind(
        "movement",
        "How masks move while training",
        "Runs whose masks change: how much of the first mask is left, and how many positions were ever kept. Mean over the networks and "
        "seeds in a band from the lowest to the highest of them.",
        mask_movement,
        row_a_panel=True,
    ),
    _Kind(
        "memory",
        "Bytes on disk",
        "Policy file and checkpoint, means over the seeds, beside the policy's networks in other formats.",
        memory_use,
        row_a_panel=True,
        paper="the paper's Figure 4",
    ),
)


def write_report(folders: Sequence[Path], out: Path, axes: Axes | None = None) -> Report:
    """Read every run below ``folders``, or the CSVs of earlier reports, and write the report to ``out``.

    ``report.html`` and ``report.md`` show the figures (also as PNG and SVG) and tables (also as CSV); ``data/`` holds what they were
    made from. Figures and tables of an earlier report there that this one has not got are removed. Raises UserError if there is no such folder, no run in it, or none that ``axes`` asks for.
    """
    runs, notes = read_runs(*folders)
    study = compare(runs, axes or Axes())
    shown = [run for panel in study.panels for group in panel.groups for run in group.runs]
    notes += study.notes
    finished = sum(run.summary is not None for run in shown)
    tables = [table for make in _TABLES.values() if (table := make(study))]
    tables = [table for table in tables if table.rows]
    files, parts = [out / name for name in _PAGES], []
    with styled():
        for name, page, kind, figure in _figures(study):
            saved, svg = save(figure, out, name)
            files += saved
            listed = kind.title.format(x=study.axes.x) if page == 1 else ""
            parts.append(FigurePart(name, kind.titled(study.axes.x, page), kind.caption, svg, listed))
    for table in tables:
        files.append(out / f"{table.name}.csv")
        write_csv(files[-1], table.csv_rows())
    removed = _stale(out, files)
    for path in removed:
        path.unlink()
    files += write_store(runs, out / DATA)
    opening = f"{len(shown)} runs, {finished} finished."
    write_bytes(files[0], html_page(study, opening, parts, tables, notes).encode())
    write_bytes(files[1], _markdown(opening, parts, tables, notes).encode())
    return Report(files, len(shown), finished, notes, removed)


def _figures(study: Study) -> Iterator[tuple[str, int, _Kind, Figure]]:
    """Name, page, kind and figure of all that can be drawn; a kind with a row a panel has a page for every few panels."""
    for kind in _KINDS:
        rows = _MOST_ROWS if kind.row_a_panel else len(study.panels)
        pages = [study.panels[start : start + rows] for start in range(0, len(study.panels), rows)]
        drawn = [figure for panels in pages if (figure := kind.draw(study.part(panels))) is not None]
        for page, figure in enumerate(drawn, start=1):
            yield f"{kind.name}-{page}" if len(drawn) > 1 else kind.name, page, kind, figure


def _stale(out: Path, written: Sequence[Path]) -> list[Path]:
    """Figures and tables of an earlier report in ``out`` that are none of this one. Nothing in a folder that holds no whole report."""
    if not all((out / name).exists() for name in (*_PAGES, f"{DATA}/{RUNS}")):
        return []
    figure = re.compile(rf"({'|'.join(kind.name for kind in _KINDS)})(-[0-9]+)?\.(png|svg)")
    tables = {f"{name}.csv" for name in _TABLES}
    found = [path for path in sorted(out.iterdir()) if figure.fullmatch(path.name) or path.name in tables]
    return [path for path in found if path not in written]


def _markdown(opening: str, figures: Sequence[FigurePart], tables: Sequence[Table], notes: Sequence[str]) -> str:
    parts = ["# Report", opening]
    for figure in figures:
        parts += [f"## {figure.title}", figure.caption, f"![{figure.title}]({figure.name}.png)"]
    for table in tables:
        parts += [f"## {table.title}", table.note, table.markdown()]
    if notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(parts) + "\n"
