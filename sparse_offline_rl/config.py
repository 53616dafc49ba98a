"""The typed configuration: what every key may hold, checked before anything is built or written.

Hydra composes the YAML files under ``configs/``; :func:`parse_config` turns the result into these models. A value out of
range becomes one sentence that names the key, the value and the remedy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError, model_validator
from pydantic.fields import FieldInfo

from sparse_offline_rl.errors import UserError, remedy

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
HiddenSizes = Annotated[tuple[PositiveInt, ...], Field(min_length=1, strict=False)]  # YAML has lists only
Folder = Annotated[str, Field(min_length=1)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class EnvConfig(_Section):
    """Which gymnasium environment evaluates the policy; ``id: null`` takes the dataset's own."""

    name: str
    id: str | None
    # Returns that map to 0 and 100 (D4RL's convention); null: no normalised score.
    reference_min_score: Finite | None = None
    reference_max_score: Finite | None = None

    @model_validator(mode="after")
    def _references_are_a_range(self) -> EnvConfig:
        low, high = self.reference_min_score, self.reference_max_score
        if (low is None) != (high is None) or (low is not None and high is not None and low >= high):
            raise ValueError(
                f"env.reference_min_score={low} and env.reference_max_score={high} must both be null, "
                "or the first be below the second"
            )
        return self


class DatasetConfig(_Section):
    """Where the transitions come from."""

    name: Literal["expert", "medium", "medium_expert", "random", "minari", "d4rl"]
    id: str | None = None  # Minari dataset id (dataset=minari)
    path: str | None = None  # HDF5 file (dataset=d4rl)
    size: PositiveInt = 1_000_000  # transitions to generate (bundled) or at most to use (minari, d4rl)
    seed: Annotated[int, Field(ge=0)] = 0  # seed of the generated data, apart from the training seed
    normalize: bool = True
    out_of_bounds: Literal["refuse", "clip"] = "refuse"


class AgentConfig(_Section):
    """What all agents have; each adds its own hyper-parameters in a model of its own beside its code."""

    name: str
    twin: Literal["copy", "copy_mask", "independent"] = "copy_mask"  # how the second critic is pruned
    rewards: Literal["raw", "return_range"] = "raw"
    discount: Fraction = 0.99
    polyak: Fraction = 0.005
    weight_decay: NonNegative = 0.0
    lr_decay: PositiveInt | None = (
        None  # updates over which learning rates fall to 0 along half a cosine; None: constant
    )


class PruneConfig(_Section):
    """How the masks are found before training; a schedule that changes them later adds its own keys in a model beside its code."""

    name: str  # of the method, for run folders and reports
    score: str | None = None  # what a weight is worth; None: the score that has the method's name
    schedule: str = "once"  # when masks change
    batch_size: PositiveInt = 100
    scope: Literal["network", "layer", "erk"] = "network"
    rounds: PositiveInt = 1
    revive: bool = False
    shuffle_layerwise: bool = False
    reinit: bool = False


class SoftConfig(_Section):
    """Soft activations and skips for the first updates after masks were found (:mod:`sparse_offline_rl.networks.soft`)."""

    until: Fraction = 0.0  # fraction of training that they last; 0: there are none
    beta: NonNegative = 1.0  # of PSwish at their start
    beta_max: PositiveFloat = 10.0  # … and at their end
    skip: NonNegative = 0.0  # weight of the skips at their start; at the end it is 0

    @model_validator(mode="after")
    def _has_an_effect(self) -> SoftConfig:
        for key in ("beta", "beta_max", "skip"):
            value, default = getattr(self, key), type(self).model_fields[key].default
            if not self.until and value != default:
                raise ValueError(
                    f"soft.{key}={value:g} has no effect with soft.until=0: set soft.until, e.g. soft.until=0.1, or soft.{key}={default:g}"
                )
        if self.beta > self.beta_max:
            raise ValueError(
                f"soft.beta={self.beta:g} lies above soft.beta_max={self.beta_max:g}, and beta must not fall: lower the one, or raise the other"
            )
        return self


class DistillConfig(_Section):
    """Learning from the networks of a run that was trained before."""

    teacher: Folder | None = None  # its run folder; None: nobody teaches
    weight: PositiveFloat = 1.0  # of the distance from the teacher beside the network's own loss

    @model_validator(mode="after")
    def _has_an_effect(self) -> DistillConfig:
        default = type(self).model_fields["weight"].default
        if self.teacher is None and self.weight != default:
            raise ValueError(
                f"distill.weight={self.weight:g} has no effect without a teacher: set distill.teacher to the folder of a finished run, "
                f"or distill.weight={default:g}"
            )
        return self


class EvalConfig(_Section):
    """How often and how long the policy is evaluated."""

    every: PositiveInt = 5000
    episodes: PositiveInt = 10
    levels: bool = True  # also before each level's masks change; false: only every so many updates


class CheckpointConfig(_Section):
    """How often the exact state is saved."""

    every: PositiveInt = 5000


class LogConfig(_Section):
    """How often metrics are written."""

    every: PositiveInt = 1000


class Config(_Section):
    """One run."""

    agent: SerializeAsAny[AgentConfig]
    prune: SerializeAsAny[PruneConfig]
    env: EnvConfig
    dataset: DatasetConfig
    sparsity: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0
    init: Literal["default", "sparse", "zero", "isometry"] = "default"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    updates: PositiveInt = 1_000_000
    batch_size: PositiveInt  # each agent's YAML has its authors' number
    device: Literal["cpu", "cuda"] = "cpu"
    threads: PositiveInt = 1
    engine: Literal["auto", "dense", "sparse"] = "auto"
    capture: bool = True
    pretrained: Folder | None = None  # of a finished dense run, whose updates are this one's first
    run_dir: str
    soft: SoftConfig = SoftConfig()
    distill: DistillConfig = DistillConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()

    @model_validator(mode="after")
    def _pruner_and_sparsity_agree(self) -> Config:
        if self.prune.name == "none" and self.sparsity > 0:
            raise ValueError(
                f"sparsity={self.sparsity:g} needs a pruning method, but prune=none: "
                "choose one, e.g. prune=snip or prune=rigl, or set sparsity=0"
            )
        if self.prune.name != "none" and self.sparsity == 0:
            raise ValueError(
                f"prune={self.prune.name} with sparsity=0 would remove nothing: set sparsity, e.g. sparsity=0.95, or prune=none"
            )
        return self


def parse_config(
    values: Mapping[str, Any], agents: Mapping[str, type[AgentConfig]], schedules: Mapping[str, type[PruneConfig]]
) -> Config:
    """Check a composed configuration; ``agents`` and ``schedules`` map what ``agent.name`` and ``prune.schedule`` may be to models.

    Raises :class:`UserError` naming the first bad key, its value and the remedy.
    """
    agent = _section(values, "agent", "name", agents)
    prune = _section(values, "prune", "schedule", schedules, "once")
    try:
        return Config.model_validate({**values, "agent": agent, "prune": prune})
    except ValidationError as error:
        raise UserError(_sentence(error)) from None


def config_dir() -> Path:
    """``configs/`` of the repository, or its copy inside an installed package."""
    package = Path(__file__).parent
    packaged = package / "configs"
    return packaged if packaged.is_dir() else package.parent / "configs"


@cache
def shipped_settings(group: str, name: str) -> Mapping[str, Any]:
    """Dotted key -> value that ``configs/GROUP/NAME.yaml`` sets; nothing if there is no such file."""
    path = {path.stem: path for path in (config_dir() / group).glob("*.yaml")}.get(name)
    values = yaml.safe_load(path.read_text(encoding="utf-8")) or {} if path else {}
    return dict(dotted(values if group in values else {group: values}))


def dotted(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """``prune.then.every`` and its value, and so on, of sections within sections."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def key_default(key: str, unknown: Any = None) -> Any:
    """The default of a dotted key that all agents and methods have; ``unknown`` for others, and for one that must be given."""
    fields = Config.model_fields | {"agent": FieldInfo(annotation=AgentConfig)}
    *sections, name = key.split(".")
    for section in sections:
        model = fields[section].annotation if section in fields else None
        fields = model.model_fields if isinstance(model, type) and issubclass(model, BaseModel) else {}
    default = unknown if name not in fields or fields[name].is_required() else fields[name].get_default()
    return unknown if isinstance(default, BaseModel) else default  # a section is no key


def written(value: Any) -> str:
    """A value as it is typed on the command line: ``true``, ``null``, ``[400,300]``."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(written, value))}]"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


_Model = TypeVar("_Model", bound=BaseModel)


def _section(
    values: Mapping[str, Any], section: str, key: str, models: Mapping[str, type[_Model]], default: str | None = None
) -> _Model:
    """The section checked against that one of ``models`` which its ``key`` names."""
    found = values.get(section)
    name = found.get(key, default) if isinstance(found, Mapping) else None
    if not isinstance(name, str) or name not in models:
        raise UserError(f"{section}.{key}={name!r} cannot be used: choose one of {', '.join(models)}.")
    try:
        return models[name].model_validate(found)
    except ValidationError as error:
        raise UserError(_sentence(error, section + ".", f"{section}.{key}={name}")) from None


_SPARSITY_HINT = "give the fraction of weights to remove, at least 0 and less than 1, e.g. sparsity=0.95"


def _typed(value: Any) -> str:
    """As :func:`written`, but text stands in quotes: it may be a number or a truth value that was quoted on the command line."""
    return repr(value) if isinstance(value, str) else written(value)


def _sentence(error: ValidationError, section: str = "", chosen: str = "") -> str:
    """What is wrong with the first bad key of ``section``, whose keys are those of what was ``chosen``."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "value_error":
        return first["msg"].removeprefix("Value error, ") + "."
    key = section + ".".join(str(part) for part in first["loc"] if not isinstance(part, int))
    if first["type"] == "extra_forbidden":
        where = f"with {chosen}" if chosen else "here"
        return f"{key}={_typed(first['input'])}: there is no such key {where}; remove it."
    if first["type"] == "missing":
        return f"{key} is missing{f', which {chosen} needs' if chosen else ''}: set it."
    hint = _SPARSITY_HINT if key == "sparsity" else remedy(first)
    entry = next((part for part in first["loc"] if isinstance(part, int)), None)
    said = (
        f"{key}={_typed(first['input'])}" if entry is None else f"{key}: entry {entry + 1}, {_typed(first['input'])},"
    )
    return f"{said} cannot be used: {hint}."
