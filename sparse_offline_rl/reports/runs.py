"""Run folders, as far as they have come: configuration, evaluations, and the summary of a finished run."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from yaml import YAMLError

from sparse_offline_rl.config import PositiveInt
from sparse_offline_rl.errors import UserError, reason
from sparse_offline_rl.files import read_json

_OPERATIONAL = ("seed", "threads", "eval.", "checkpoint.", "log.")  # keys in which runs of one experiment may differ
# What parsers raise for files that are damaged.
_UNREADABLE = (
    *(UserError, YAMLError, OmegaConfBaseException, csv.Error),
    *(KeyError, TypeError, ValueError, OSError, RecursionError),
)


class _Facts(BaseModel):
    model_config = ConfigDict(strict=True)


class _Layer(_Facts):
    name: str = Field(pattern=r"^[^.]+\.[^.]+$")  # network.layer
    kept: int
    total: PositiveInt
    outputs: PositiveInt


class _Summary(_Facts):
    """What the figures and tables take from ``summary.json``."""

    return_mean: float
    normalized_score: float | None = None
    nonzero_weights: int
    total_weights: PositiveInt
    layers: list[_Layer]
    policy_networks: list[str]
    collapsed_layers: list[str] = []
    policy_bytes: PositiveInt
    policy_dense_bytes: PositiveInt
    checkpoint_bytes: PositiveInt
    updates_per_second: float


@dataclass(frozen=True)
class Run:
    """One run folder; ``settings`` maps dotted keys of its ``config.yaml`` to values."""

    path: Path
    settings: Mapping[str, Any]
    returns: Mapping[int, float]  # update -> mean return of its evaluation
    update: int  # the last one logged
    summary: Mapping[str, Any] | None  # None while the run is unfinished

    @property
    def panel(self) -> str:
        """Environment and data, in full: what runs must share to be compared."""
        env = self.settings.get("env.id") or (self.summary or {}).get("env") or self.settings["env.name"]
        dataset = self.settings.get("dataset.id") or self.settings.get("dataset.path") or self.settings["dataset.name"]
        return f"{env}, {dataset}"

    @property
    def method(self) -> tuple[str, str, float]:
        """Agent, pruning method and sparsity."""
        return str(self.settings["agent.name"]), str(self.settings["prune.name"]), float(self.settings["sparsity"])

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.settings["seed"])

    @property
    def expert_return(self) -> float | None:
        """The return that scores 100, where the run names one."""
        score = self.settings.get("env.reference_max_score")
        return None if score is None else float(score)

    @property
    def last_return(self) -> float | None:
        """Return of the last evaluation so far."""
        return self.returns[max(self.returns)] if self.returns else None


def read_runs(folder: Path) -> tuple[list[Run], list[str]]:
    """All runs below ``folder`` by path, and a sentence about each folder that could not be read or is unfinished.

    Raises UserError if there is no run to report on.
    """
    runs, notes = [], []
    for path in sorted(folder.rglob("config.yaml")):
        try:
            run = _read_run(path.parent)
        except _UNREADABLE as error:
            notes.append(f"{path.parent} is left out: it is damaged or not a run folder ({reason(error)}).")
            continue
        runs.append(run)
        if run.summary is None:
            so_far = "" if run.last_return is None else f", return {run.last_return:.1f} so far"
            notes.append(f"{run.path} is unfinished: {run.update} of {run.settings['updates']} updates{so_far}.")
    if not runs:
        found = f": {notes[0]}" if notes else ": train first, or give the folder that holds the runs."
        raise UserError(f"runs={folder} holds no run{found}")
    return runs, notes


def variants(runs: list[Run]) -> dict[Path, str]:
    """Path -> what else tells a run from others of its panel and method, e.g. ``prune.scope=erk``; mostly empty."""
    found: dict[Path, str] = {}
    groups: dict[tuple[str, tuple[str, str, float]], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.panel, run.method), []).append(run)
    for group in groups.values():
        keys = dict.fromkeys(key for run in group for key in run.settings if not key.startswith(_OPERATIONAL))
        differing = [key for key in keys if len({repr(run.settings.get(key)) for run in group}) > 1]
        for run in group:
            found[run.path] = ", ".join(f"{key}={run.settings.get(key)}" for key in differing)
    return found


def short_panels(panels: Iterable[str]) -> dict[str, str]:
    """Panel -> a name for titles: no module before the environment, and of a path or id the end that no other shares."""
    names = {}
    for panel in dict.fromkeys(panels):
        env, _, dataset = panel.partition(", ")
        path = PurePath(dataset)
        parts = (*path.parts[:-1], path.stem if path.suffix in (".hdf5", ".h5") else path.name)
        names[panel] = [f"{env.rpartition(':')[2]}, {'/'.join(parts[-n:])}" for n in range(1, len(parts) + 1)] + [panel]
    short = dict.fromkeys(names, 0)
    while True:
        chosen = {panel: names[panel][n] for panel, n in short.items()}
        taken = list(chosen.values())
        doubles = [panel for panel, name in chosen.items() if taken.count(name) > 1]
        if not doubles:
            return chosen
        for panel in doubles:
            short[panel] = min(short[panel] + 1, len(names[panel]) - 1)


def _read_run(path: Path) -> Run:
    config = OmegaConf.to_container(OmegaConf.load(path / "config.yaml"))
    if not isinstance(config, dict):
        raise UserError("config.yaml holds no keys")
    settings = dict(_flatten({str(key): value for key, value in config.items()}))
    summary = _read_summary(path / "summary.json")
    returns, update = _read_metrics(path / "metrics.csv")
    run = Run(path, settings, returns, update, summary)
    _ = run.panel, run.method, run.seed, run.expert_return, settings["updates"]  # an error here, not in a figure
    return run


def _read_summary(path: Path) -> dict[str, Any] | None:
    """``summary.json``, None while there is none. Raises UserError where it lacks what figures and tables need."""
    if not path.exists():
        return None
    try:
        facts = read_json(path)
        _Summary.model_validate(facts)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"summary.json{key and ': ' + key}: {first['msg'].lower()}") from None
    assert isinstance(facts, dict)
    return facts


def _flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _read_metrics(path: Path) -> tuple[dict[int, float], int]:
    """Returns by update, and the last update; a row that is just being written is passed over."""
    returns: dict[int, float] = {}
    last = 0
    if not path.exists():
        return returns, last
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if None in row.values():
                continue
            last = int(row["update"])
            if row["eval/return_mean"]:
                returns[last] = float(row["eval/return_mean"])
    return returns, last
