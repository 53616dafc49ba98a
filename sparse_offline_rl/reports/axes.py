"""By what runs are compared: which make a panel, which a line, and what stands on the horizontal axis."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import yaml

from sparse_offline_rl.config import written
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.reports.runs import Run, differing_keys

PANEL = ("agent", "env", "dataset")
_FEW_VALUES = 5  # that a sentence lists
# Keys that one name stands for.
_SECTIONS = {"env": ("env.",), "dataset": ("dataset.name", "dataset.id", "dataset.path"), "prune": ("prune.name",)}


@dataclass(frozen=True)
class Axes:
    """How runs are compared.

    ``by`` are the keys of which each combination of values is a line; None: the pruning method, and all else in which runs of one
    method differ. ``where`` holds the values that a run must have: key -> values, any of them. ``at`` is the place on the axis whose
    runs stand in figures that have no room for all, such as learning curves; None: the one that most experiments share.
    ``updates`` and ``seconds`` (of training) are where the table of equal training compares; None: where a panel's shortest experiment ends.
    """

    x: str = "sparsity"
    by: tuple[str, ...] | None = None
    panels: tuple[str, ...] = PANEL
    where: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    at: Any = None
    updates: int | None = None
    seconds: float | None = None

    def select(self, runs: Sequence[Run]) -> list[Run]:
        """The runs that ``where`` lets through. Raises UserError for a key that no run has, and if none is left."""
        keys = [*self.panels, self.x, *(self.by or ()), *(key for key, _ in self.where)]
        for key in keys:
            if not any(run.has(key) for run in runs):
                raise UserError(
                    f"{key}: no run has this key; take keys of config.yaml, e.g. prune.scope or dataset.size."
                )
        chosen = [run for run in runs if all(run.value(key) in values for key, values in self.where)]
        if chosen and self.at is not None and all(run.value(self.x) != self.at for run in chosen):
            raise UserError(
                f"at={written(self.at)}: no run has {self.x}={written(self.at)}; choose a value that some have."
            )
        if not chosen:
            raise UserError(
                f"where={_conditions(self.where)}: none of the {len(runs)} runs is so; {self._way_out(runs)}."
            )
        return chosen

    def _way_out(self, runs: Sequence[Run]) -> str:
        """What the runs have instead, of keys that none has as ``where`` says; the conditions may also exclude each other."""
        found = []
        for key, wanted in self.where:
            values = list(dict.fromkeys(written(run.value(key)) for run in runs))
            if not {written(value) for value in wanted} & set(values):
                more = ["…"] if len(values) > _FEW_VALUES else []
                found.append(f"they have {key}={'|'.join([*values[:_FEW_VALUES], *more])}")
        return ", ".join(found) or "leave a condition out"


def parse_keys(text: str) -> tuple[str, ...]:
    """Keys between commas. Raises ValueError for an empty one."""
    keys = tuple(key.strip() for key in text.split(","))
    if not all(keys):
        raise ValueError("write keys with commas between them, e.g. prune,prune.scope")
    return keys


def parse_where(text: str) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    """Conditions between commas, ``key=value`` or ``key=value|value``; none in an empty text. Raises ValueError for what is none."""
    found = []
    for condition in re.split(r",(?![^\[]*\])", text) if text else ():  # not at the commas of a list
        key, equals, values = condition.partition("=")
        if not (key.strip() and equals and values):
            raise ValueError(
                "write key=value, with | between values that are alike, e.g. prune=snip|grasp,env.name=hopper"
            )
        found.append((key.strip(), tuple(map(parse_value, values.split("|")))))
    return tuple(found)


def parse_value(text: str) -> Any:
    """A value as YAML has it. Raises ValueError for what is none."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError(f"{text} is no value") from None


def line_keys(runs: Sequence[Run], axes: Axes) -> dict[str, list[str]]:
    """Pruning method -> the keys, beside the method, that tell its lines apart; the same in all panels.

    With ``axes.by`` these are all of ``by``. Else they are those in which runs of the method differ within a panel, the axis and
    what makes no other experiment (seed, threads, how often it is evaluated) left out.
    """
    methods = {str(run.value("prune")): None for run in runs}
    if axes.by is not None:
        return {method: [key for key in axes.by if key != "prune"] for method in methods}
    found: dict[str, dict[str, None]] = {method: {} for method in methods}
    cells: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        cells.setdefault((*panel_values(run, axes), str(run.value("prune"))), []).append(run)
    for (*_, method), members in cells.items():
        found[method].update(dict.fromkeys(_differing(members, axes)))
    return {method: list(keys) for method, keys in found.items()}


def panel_values(run: Run, axes: Axes) -> tuple[str, ...]:
    """What makes the panel of a run, as text."""
    return tuple(written(run.value(key)) for key in axes.panels)


def mixed_keys(runs: Sequence[Run], axes: Axes) -> list[str]:
    """Keys in which runs of one line differ at one place of the axis, because ``axes.by`` does not name them."""
    return [key for key in _differing(runs, axes) if key not in (axes.by or ()) and key != "prune"]


def variant(run: Run, keys: Iterable[str], axes: Axes) -> str:
    """What tells a run's line from others of its method, e.g. ``prune.scope=erk``.

    Without ``axes.by`` neither defaults are named nor what the run, one of an older version, has not got.
    """
    if axes.by is None:
        keys = [key for key in keys if run.value(key) not in (None, run.default(key))]
    return ", ".join(f"{key}={written(run.value(key))}" for key in keys)


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Environment or dataset -> a name for titles: no module before it, and of a path or id the end that no other shares."""
    found = {}
    for name in dict.fromkeys(names):
        path = PurePath(name.rpartition(":")[2])
        parts = (*path.parts[:-1], path.stem if path.suffix in (".hdf5", ".h5") else path.name)
        found[name] = ["/".join(parts[-count:]) for count in range(1, len(parts) + 1)] + [name]
    short = dict.fromkeys(found, 0)
    while True:
        chosen = {name: found[name][count] for name, count in short.items()}
        taken = list(chosen.values())
        doubles = [name for name, text in chosen.items() if taken.count(text) > 1]
        if not doubles:
            return chosen
        for name in doubles:
            short[name] = min(short[name] + 1, len(found[name]) - 1)


def _differing(runs: Sequence[Run], axes: Axes) -> list[str]:
    """Keys in which these runs differ and that neither the axis nor the panel shows; env and dataset by their names."""
    shown = {axes.x, *axes.panels}
    found: dict[str, None] = {}
    for key in differing_keys(runs):
        found[next((name for name, parts in _SECTIONS.items() if key.startswith(parts)), key)] = None
    if "agent.name" in found:  # then each agent has keys of its own
        found = {"agent": None} | {key: None for key in found if not key.startswith("agent.") and key != "batch_size"}
    return [key for key in found if key not in shown and key != "prune"]


def _conditions(where: Iterable[tuple[str, Iterable[Any]]]) -> str:
    return ",".join(f"{key}={'|'.join(map(written, values))}" for key, values in where)
