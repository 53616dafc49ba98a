"""The whole report: figures and one markdown page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from sparse_offline_rl.errors import UserError
from sparse_offline_rl.files import replacing, write_bytes
from sparse_offline_rl.reports.curves import learning_curves
from sparse_offline_rl.reports.groups import Group, by_panel_and_agent, group_runs
from sparse_offline_rl.reports.memory import memory_use
from sparse_offline_rl.reports.runs import read_runs
from sparse_offline_rl.reports.survivors import layer_survivors
from sparse_offline_rl.reports.tables import collapsed_layers, returns_table

_DPI = 130
_MOST_ROWS = 3  # panels and agents in one figure


@dataclass(frozen=True)
class Report:
    """What was written, and what the reader should know about it."""

    files: list[Path]
    runs: int
    finished: int
    notes: list[str]


def write_report(runs_dir: Path, out: Path) -> Report:
    """Read every run below ``runs_dir`` and write ``report.md`` with its figures to ``out``.

    Raises UserError if there is no such folder or no run in it.
    """
    if not runs_dir.is_dir():
        raise UserError(f"runs={runs_dir}: there is no such folder.")
    runs, notes = read_runs(runs_dir)
    groups, doubles = group_runs(runs)
    notes += doubles
    figures = {
        "learning_curves.png": ("Learning curves (mean over seeds, lowest to highest)", learning_curves(groups)),
        **_pages("survivors", "Weights left in each layer (mean ± std over seeds)", layer_survivors, groups),
        **_pages("memory", "Bytes on disk", memory_use, groups),
    }
    drawn = {name: (title, figure) for name, (title, figure) in figures.items() if figure is not None}
    for name, (_, figure) in drawn.items():
        _save(figure, out / name)
    finished = sum(run.summary is not None for run in runs)
    page = _page(
        f"{len(runs)} runs, {finished} finished.",
        [f"{group.panel}: {group.source}" for group in groups if group.panel != group.source],
        returns_table(groups),
        {name: title for name, (title, _) in drawn.items()},
        collapsed_layers(groups),
        notes,
    )
    write_bytes(out / "report.md", page.encode())
    return Report([out / "report.md", *(out / name for name in drawn)], len(runs), finished, notes)


def _pages(
    name: str, title: str, draw: Callable[[Sequence[Group]], Figure | None], groups: Sequence[Group]
) -> dict[str, tuple[str, Figure | None]]:
    """File name -> title and figure: one figure with a row for each panel and agent, or where these are many one for each."""
    rows = by_panel_and_agent(groups)
    if len(rows) <= _MOST_ROWS:
        return {f"{name}.png": (title, draw(groups))}
    figures = [(f"{title}: {agent} on {panel}", draw(members)) for (panel, agent), members in rows.items()]
    return {f"{name}-{number}.png": figure for number, figure in enumerate(figures, start=1)}


def _page(
    opening: str,
    sources: Sequence[str],
    table: str,
    figures: dict[str, str],
    collapsed: Sequence[str],
    notes: Sequence[str],
) -> str:
    parts = ["# Report", opening]
    if sources:
        parts += ["Names of datasets in short:", "\n".join(f"- {source}" for source in dict.fromkeys(sources))]
    parts += ["## Final returns", table]
    if "±" in table:
        parts.append("Mean ± sample standard deviation over the seeds of the last evaluation.")
    if collapsed:
        parts += ["## Collapsed layers", "\n".join(f"- {sentence}" for sentence in collapsed)]
    for name, title in figures.items():
        parts += [f"## {title}", f"![{title}]({name})"]
    if notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(parts) + "\n"


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI)
