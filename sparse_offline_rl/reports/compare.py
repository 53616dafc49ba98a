"""Puts runs into panels, lines and groups."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sparse_offline_rl.config import written
from sparse_offline_rl.reports.axes import Axes, line_keys, mixed_keys, panel_values, short_names, variant
from sparse_offline_rl.reports.groups import Group, Panel, Study, ordered
from sparse_offline_rl.reports.runs import Run


def compare(runs: Sequence[Run], axes: Axes) -> Study:
    """Put ``runs`` into panels, lines and groups. Raises UserError as :meth:`Axes.select` does."""
    runs = axes.select(runs)
    keys = line_keys(runs, axes)
    names_method = axes.x != "prune" and "prune" not in axes.panels and (axes.by is None or "prune" in axes.by)
    members: dict[tuple[tuple[str, ...], str, str, str], list[Run]] = {}
    notes = [run.unfinished for run in runs if run.summary is None]
    for run in runs:
        method = ("dense" if run.dense else str(run.value("prune"))) if names_method else ""
        special = variant(run, keys[str(run.value("prune"))], axes)
        group = members.setdefault((panel_values(run, axes), method, special, repr(run.value(axes.x))), [])
        alike = (other for other in group if other.seed == run.seed and not mixed_keys((other, run), axes))
        if twin := next(alike, None):
            notes.append(f"{run.name} is left out: {twin.name} is the same experiment with the same seed.")
        else:
            group.append(run)
    titles = _titles([panel for panel, *_ in members], axes)
    panels: dict[str, list[Group]] = {}
    for (panel, method, special, _), group in members.items():
        made = _group(titles[panel], method, special, group, axes)
        panels.setdefault(made.panel, []).append(made)
        if mixed := mixed_keys(group, axes):
            notes.append(f"{made.panel}, {made.label}: runs that differ in {', '.join(mixed)} are taken together.")
    found = [Panel(title, _sorted(_with_missing_seeds(panels[title]))) for title in sorted(panels)]
    return Study(tuple(found), axes, tuple(notes))


def _group(panel: str, method: str, special: str, runs: list[Run], axes: Axes) -> Group:
    by_seed = tuple(sorted(runs, key=lambda run: run.seed))
    x = runs[0].value(axes.x)
    x = x if isinstance(x, (int, float)) and not isinstance(x, bool) else written(x)
    return Group(panel, method, special, x, axes.x, all(run.dense for run in runs), by_seed)


def _with_missing_seeds(groups: Sequence[Group]) -> list[Group]:
    seeds = {run.seed for group in groups for run in group.runs}
    found = []
    for it in groups:
        missing = tuple(sorted(seeds - {run.seed for run in it.runs}))
        found.append(replace(it, missing=missing))
    return found


def _sorted(groups: Sequence[Group]) -> tuple[Group, ...]:
    """Dense first, then by line and place."""
    places = ordered({group.x for group in groups})
    return tuple(sorted(groups, key=lambda group: (not group.dense, group.line, places.index(group.x))))


def _titles(panels: Iterable[tuple[str, ...]], axes: Axes) -> dict[tuple[str, ...], str]:
    """The values of a panel -> its title, e.g. ``bcq · Hopper-v5, expert``."""
    unique = list(dict.fromkeys(panels))
    columns = [short_names(panel[i] for panel in unique) for i in range(len(axes.panels))]
    found = {}
    for panel in unique:
        names = [columns[i][value] for i, value in enumerate(panel)]
        named = [
            n if key in ("agent", "env", "dataset", "prune") else f"{key}={n}"
            for key, n in zip(axes.panels, names, strict=True)
        ]
        first, rest = (named[0], named[1:]) if axes.panels[0] == "agent" else ("", named)
        found[panel] = " · ".join(part for part in (first, ", ".join(rest)) if part)
    return found
