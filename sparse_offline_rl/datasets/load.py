"""One door to every dataset: bundled, Minari or D4RL, checked against the environment."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from sparse_offline_rl.config import DatasetConfig, EnvConfig
from sparse_offline_rl.datasets.d4rl import read_d4rl
from sparse_offline_rl.datasets.environments import BUNDLED_ENVS, id_of_spec, make_env, spaces_of
from sparse_offline_rl.datasets.generate import bundled_recipe, generate
from sparse_offline_rl.datasets.minari_source import MinariData, read_minari
from sparse_offline_rl.datasets.transitions import Transitions
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.types import Spaces

_BUNDLED = ("expert", "medium", "medium_expert", "random")
_SOURCES_OF = {"id": ("minari",), "path": ("d4rl",), "seed": _BUNDLED}
BOUND_TOLERANCE = 1e-5  # float32 rounding of actions at the bounds


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a dataset beside its transitions: its name, and the environment that it belongs to."""

    spaces: Spaces
    env_id: str
    name: str  # Minari dataset id, or the D4RL file's name
    env_kwargs: dict[str, Any] = field(default_factory=dict)  # for gymnasium.make, beside env_id
    reference_min_score: float | None = None  # returns that map to 0 and 100; None: no normalised score
    reference_max_score: float | None = None


@dataclass(frozen=True)
class LoadedDataset(DatasetInfo):
    """A dataset with its transitions, as it was read."""

    transitions: Transitions = field(kw_only=True)

    def info(self) -> DatasetInfo:
        """All but the transitions, which need not be kept once they are in a replay buffer."""
        return DatasetInfo(**{it.name: getattr(self, it.name) for it in fields(DatasetInfo)})


def load_dataset(dataset: DatasetConfig, env: EnvConfig) -> LoadedDataset:
    """Read (bundled: generate on first use) a dataset and check that it fits its environment.

    The environment is ``env.id``, or else the dataset's own. Raises :class:`UserError` for everything the user can mend.
    """
    _refuse_other_sources(dataset)
    if dataset.name == "d4rl":
        loaded = _load_d4rl(dataset, env)
    elif dataset.name == "minari":
        loaded = _load_minari(dataset, env)
    else:
        loaded = _load_bundled(dataset, env)
    return replace(loaded, transitions=_check_fit(loaded, dataset.out_of_bounds))


def _refuse_other_sources(dataset: DatasetConfig) -> None:
    """Raise UserError for a key that another source of data has: the run would be named after data that it never saw."""
    for key, sources in _SOURCES_OF.items():
        value, default = getattr(dataset, key), DatasetConfig.model_fields[key].default
        if value != default and dataset.name not in sources:
            raise UserError(
                f"dataset.{key}={value} has no meaning with dataset={dataset.name}: leave it out, or set dataset={' or '.join(sources)}."
            )


def _load_bundled(dataset: DatasetConfig, env: EnvConfig) -> LoadedDataset:
    recipe = bundled_recipe(env.name, dataset.name, dataset.size, dataset.seed)
    if env.id not in (None, recipe.env_id):
        raise UserError(
            f"dataset={dataset.name} is generated in {recipe.env_id}, but env.id={env.id}: leave env.id out, or make data of that "
            f"environment by sparse-offline-rl generate-dataset env_id={env.id} dataset=random id=my/data-v0, and train on them by "
            "dataset=minari dataset.id=my/data-v0."
        )
    generate(recipe)
    data = read_minari(recipe.dataset_id, dataset.size)
    return _with_environment(data.transitions, recipe.env_id, {}, recipe.dataset_id, env)


def _load_minari(dataset: DatasetConfig, env: EnvConfig) -> LoadedDataset:
    if dataset.id is None:
        raise UserError("dataset=minari needs dataset.id, e.g. dataset.id=mujoco/hopper/expert-v0.")
    data = read_minari(dataset.id, dataset.size)
    env_id, env_kwargs = _environment_of(data, dataset.id, env)
    loaded = _with_environment(data.transitions, env_id, env_kwargs, dataset.id, env)
    if env.reference_min_score is None and data.reference_scores != (None, None):
        low, high = _references(data.reference_scores, dataset.id)
        return replace(loaded, reference_min_score=low, reference_max_score=high)
    return loaded


def _references(scores: tuple[Any, Any], dataset_id: str) -> tuple[float, float]:
    """Reference scores of a dataset's metadata; refused where no normalised score could be computed from them."""
    low, high = scores
    if not (_finite_number(low) and _finite_number(high) and low < high):
        raise UserError(
            f"The Minari dataset {dataset_id} has the reference scores ref_min_score={low!r} and ref_max_score={high!r}, but "
            "both must be numbers and the first below the second: mend its metadata.json, or set "
            "env.reference_min_score and env.reference_max_score."
        )
    return float(low), float(high)


def _finite_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _environment_of(data: MinariData, dataset_id: str, env: EnvConfig) -> tuple[str, dict[str, Any]]:
    if env.id is not None:
        return env.id, {}
    if data.env_spec is None:
        raise UserError(
            f"The Minari dataset {dataset_id} does not name its environment: set env.id, e.g. env.id=Hopper-v5."
        )
    spec = data.env_spec
    if not isinstance(spec.kwargs, dict):
        raise UserError(
            f"The Minari dataset {dataset_id} has the arguments {spec.kwargs!r} for its environment, which are no keywords: "
            "set env.id, e.g. env.id=Hopper-v5."
        )
    limit = {} if spec.max_episode_steps is None else {"max_episode_steps": spec.max_episode_steps}
    return id_of_spec(spec), {**limit, **spec.kwargs}


def _load_d4rl(dataset: DatasetConfig, env: EnvConfig) -> LoadedDataset:
    if dataset.path is None:
        raise UserError("dataset=d4rl needs dataset.path, e.g. dataset.path=hopper_medium-v2.hdf5.")
    if env.id is None:
        raise UserError("D4RL files do not name their environment: set it, e.g. env=hopper or env.id=Hopper-v5.")
    made = make_env(env.id)
    limit = made.spec.max_episode_steps if made.spec else None
    made.close()
    transitions, name = read_d4rl(dataset.path, limit)
    return _with_environment(transitions.head(dataset.size), env.id, {}, name, env)


def _with_environment(
    transitions: Transitions, env_id: str, env_kwargs: dict[str, Any], name: str, env: EnvConfig
) -> LoadedDataset:
    made = make_env(env_id, **env_kwargs)
    try:
        spaces = spaces_of(made, env_id)
    finally:
        made.close()
    scores = (env.reference_min_score, env.reference_max_score)
    known = next((known for known in BUNDLED_ENVS.values() if known.id == env_id), None)
    if scores == (None, None) and known is not None:  # Minari's public datasets carry no scores (Minari issue 323)
        scores = (known.reference_min_score, known.reference_max_score)
    return LoadedDataset(spaces, env_id, name, env_kwargs, *scores, transitions=transitions)


def _check_fit(loaded: LoadedDataset, out_of_bounds: str) -> Transitions:
    """The transitions, clipped if asked to; refused where they do not fit the environment."""
    data, spaces = loaded.transitions, loaded.spaces
    for kind, have, want in (
        ("observation", data.observations.shape[1], spaces.observation_dim),
        ("action", data.actions.shape[1], spaces.action_dim),
    ):
        if have != want:
            raise UserError(
                f"{loaded.name} has {have} {kind} dimensions, but {loaded.env_id} has {want}: set env or env.id to the "
                "dataset's environment (for a Minari dataset: env=from_dataset)."
            )
    low, high = spaces.action_low, spaces.action_high
    outside = (data.actions < low - BOUND_TOLERANCE) | (data.actions > high + BOUND_TOLERANCE)
    if not outside.any():
        return data
    if out_of_bounds == "clip":
        return replace(data, actions=np.clip(data.actions, low, high))
    row, column = (int(index[0]) for index in np.nonzero(outside))
    raise UserError(
        f"{loaded.name} has an action outside the bounds of {loaded.env_id}: row {row}, dimension {column} is "
        f"{data.actions[row, column]:g}, the bounds are {low[column]:g} to {high[column]:g}; "
        "set dataset.out_of_bounds=clip to clip such actions."
    )
