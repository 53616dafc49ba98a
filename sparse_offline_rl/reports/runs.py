"""Runs, as far as they have come: configuration, evaluations, and the summary of a finished run."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from yaml import YAMLError

from sparse_offline_rl.config import PositiveInt, dotted, key_default, shipped_settings
from sparse_offline_rl.datasets.environments import BUNDLED_ENVS
from sparse_offline_rl.errors import UserError, first_problem, reason
from sparse_offline_rl.evaluation.normalized_score import REFERENCES, reference_returns
from sparse_offline_rl.files import read_json
from sparse_offline_rl.reports.progress import Evaluation, Movement, read_progress
from sparse_offline_rl.training.run_lock import failure_of

# What parsers raise for files that are damaged.
UNREADABLE = (
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


class _Level(_Facts):
    update: int
    sparsity: float
    return_mean: float | None = None  # None: it was not evaluated


class _Summary(_Facts):
    """What the figures and tables take from ``summary.json``."""

    return_mean: float
    normalized_score: float | None = None
    dataset_return_mean: float | None = None
    reference_min_score: float | None = None
    reference_max_score: float | None = None
    nonzero_weights: int
    total_weights: PositiveInt
    stored_weights: PositiveInt | None = None  # values that all weights share by a hash
    layers: list[_Layer]
    levels: list[_Level] = []
    policy_networks: list[str]
    collapsed_layers: list[str] = []
    policy_bytes: PositiveInt
    policy_dense_bytes: PositiveInt
    checkpoint_bytes: PositiveInt
    updates_per_second: float
    # Runs from before they were counted have none of them.
    act_flops: float | None = None
    act_dense_flops: float | None = None
    act_bytes: float | None = None
    act_dense_bytes: float | None = None
    update_flops: float | None = None
    update_dense_flops: float | None = None
    update_bytes: float | None = None
    update_dense_bytes: float | None = None


COUNTS = tuple(name for name in _Summary.model_fields if name.startswith(("act_", "update_")))

# Keys in which runs of one experiment may differ; where the first updates were done is no matter.
_OPERATIONAL = ("seed", "threads", "pretrained", "eval.", "checkpoint.", "log.")

# Keys by which users call what is stored under other names.
ALIASES = {"agent": "agent.name", "prune": "prune.name"}
_NAMES = ("env", "dataset", "engine")  # keys that stand for several


@dataclass(frozen=True)
class Run:
    """One run; ``settings`` maps dotted keys of its ``config.yaml`` to values."""

    name: str  # its folder, below the one that all runs lie in
    settings: Mapping[str, Any]
    evaluations: Sequence[Evaluation]
    update: int  # the last one logged
    summary: Mapping[str, Any] | None  # None while the run is unfinished
    densities: Mapping[int, Mapping[str, float]] = field(
        default_factory=dict
    )  # update -> layer -> share kept, if masks changed
    movement: Mapping[int, Mapping[str, Movement]] = field(default_factory=dict)  # update -> network -> …, likewise
    failure: str | None = None  # what its last attempt failed of

    def value(self, key: str) -> Any:
        """The value of a key of the configuration; ``agent``, ``prune``, ``env``, ``dataset`` and ``engine`` are names.

        ``engine`` is the one that the run was on, once it is known. A key that came after the run has its default, one that the run's
        agent or method has not is None.
        """
        settings, summary = self.settings, self.summary or {}
        if key == "env":
            return settings.get("env.id") or summary.get("env") or settings["env.name"]
        if key == "dataset":
            return settings.get("dataset.id") or settings.get("dataset.path") or settings["dataset.name"]
        if key == "engine":
            return summary.get("engine") or settings.get("engine")
        stored = ALIASES.get(key, key)
        return settings[stored] if stored in settings else self.default(stored)

    def has(self, key: str) -> bool:
        """Whether there is such a key, of any value."""
        stored = ALIASES.get(key, key)
        known = key in _NAMES or stored in self.settings
        return known or self.default(stored, unknown=...) is not ...

    def default(self, key: str, unknown: Any = None) -> Any:
        """What a key has if nobody sets it, with the run's agent and method; ``unknown`` where that is not known."""
        for group in ("agent", "prune"):
            own = shipped_settings(group, str(self.settings.get(f"{group}.name")))
            if key in own:
                return own[key]
        return key_default(key, unknown)

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.settings["seed"])

    @property
    def dense(self) -> bool:
        """Whether nothing was pruned."""
        return bool(self.value("prune") == "none")

    @property
    def collapsed(self) -> list[str]:
        """The layers that pruning cut off."""
        return list((self.summary or {}).get("collapsed_layers", []))

    @property
    def policy_return(self) -> float | None:
        """Mean return of the policy that made the dataset, where it is known."""
        found = (self.summary or {}).get("dataset_return_mean")
        if found is None and self.settings.get("env.name") in BUNDLED_ENVS:
            # Runs from before it was stored, and unfinished ones.
            found = BUNDLED_ENVS[self.settings["env.name"]].policy_returns.get(str(self.value("dataset")))
        return None if found is None else float(found)

    @property
    def references(self) -> tuple[float | None, float | None]:
        """Returns that score 0 and 100, of the configuration, or else of the dataset; None where there are none."""
        configured = {key: self.value(f"env.{key}") for key in REFERENCES}
        return reference_returns(configured) or reference_returns(self.summary or {}) or (None, None)

    @property
    def last_return(self) -> float | None:
        """Mean return of the last evaluation so far."""
        return self.evaluations[-1].mean if self.evaluations else None

    @property
    def unfinished(self) -> str:
        """A sentence on how far it has come."""
        so_far = "" if self.last_return is None else f", return {self.last_return:.1f} so far"
        done = f"{self.update} of {self.settings['updates']} updates{so_far}"
        if self.failure:
            return f"{self.name} failed after {done}: {self.failure}"
        return f"{self.name} is unfinished: {done}."


def over_updates(runs: Sequence[Run], kind: Literal["densities", "movement"]) -> dict[int, list[Mapping[str, Any]]]:
    """Update at which one of ``runs`` changed -> what each of those that got so far has then, which is what its last change left."""
    changes = [(run.update, getattr(run, kind)) for run in runs if getattr(run, kind)]
    return {
        update: [
            found[max(at for at in found if at <= update)] for end, found in changes if min(found) <= update <= end
        ]
        for update in sorted({update for _, found in changes for update in found})
    }


def differing_keys(runs: Sequence[Run]) -> list[str]:
    """Keys in which these runs differ and that make other experiments.

    A run of an older version, which has not got a key yet, has its default: new keys change nothing by default. It does not differ
    where that is not known.
    """
    keys = dict.fromkeys(key for run in runs for key in run.settings if not key.startswith(_OPERATIONAL))
    return [key for key in keys if len({_written(run, key) for run in runs} - {None}) > 1]


def _written(run: Run, key: str) -> str | None:
    if key in run.settings:
        return repr(run.settings[key])
    default = run.default(key, unknown=...)
    return None if default is ... else repr(default)


def read_run_folders(folder: Path) -> tuple[list[Run], list[str]]:
    """All runs below ``folder`` by path, and a sentence about each folder that could not be read."""
    runs, notes = [], []
    for path in sorted(config.parent for config in folder.rglob("config.yaml")):
        name = path.name if path == folder else path.relative_to(folder).as_posix()
        try:
            runs.append(read_run(path, name))
        except UNREADABLE as error:
            notes.append(f"{name} is left out: it is damaged or not a run folder ({reason(error)}).")
    return runs, notes


def checked_summary(facts: Any) -> dict[str, Any]:
    """``facts`` of a ``summary.json``. Raises UserError where it lacks what figures and tables need."""
    try:
        _Summary.model_validate(facts)
    except ValidationError as error:
        raise UserError(f"summary.json: {first_problem(error)}") from None
    assert isinstance(facts, dict)
    return facts


def checked_run(run: Run) -> Run:
    """``run``, if it has what every figure needs; else one of :data:`UNREADABLE` is raised here, not in a figure."""
    _ = run.value("env"), run.value("dataset"), run.seed, run.dense, run.policy_return
    for key in ("agent.name", "prune.name", "updates"):
        run.settings[key]
    float(run.settings["sparsity"])
    return run


def read_run(path: Path, name: str) -> Run:
    """The run in one folder. Raises one of :data:`UNREADABLE` for files that are damaged."""
    config = OmegaConf.to_container(OmegaConf.load(path / "config.yaml"))
    if not isinstance(config, dict):
        raise UserError("config.yaml holds no keys")
    settings = dict(dotted({str(key): value for key, value in config.items()}))
    summary = checked_summary(read_json(path / "summary.json")) if (path / "summary.json").exists() else None
    progress = read_progress(path)
    moves = progress.densities, progress.movement
    failure = failure_of(path) if summary is None else None
    return checked_run(Run(name, settings, progress.evaluations, progress.update, summary, *moves, failure))
