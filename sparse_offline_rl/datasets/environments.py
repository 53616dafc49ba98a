"""Gymnasium environments: the bundled three, and any other with continuous actions."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import sys
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import FlattenObservation

from sparse_offline_rl.errors import UserError, reason
from sparse_offline_rl.types import Spaces

Env = gymnasium.Env[Any, Any]


@dataclasses.dataclass(frozen=True)
class BundledEnv:
    """An environment for which expert policies ship with the package; scores as D4RL (Fu et al. 2020) defines them."""

    id: str
    reference_min_score: float  # return of a random policy
    reference_max_score: float  # return of D4RL's expert
    policy_returns: Mapping[
        str, float
    ]  # mean returns of the bundled policies when they sample (``experts_data/README.md``)


BUNDLED_ENVS = {
    "halfcheetah": BundledEnv("HalfCheetah-v5", -280.178953, 12135.0, {"expert": 11405.0, "medium": 4326.0}),
    "hopper": BundledEnv("Hopper-v5", -20.272305, 3234.3, {"expert": 3456.0, "medium": 1001.0}),
    "walker2d": BundledEnv("Walker2d-v5", 1.629008, 4592.3, {"expert": 4371.0, "medium": 1907.0}),
}


def make_env(env_id: str, /, **kwargs: Any) -> Env:
    """``gymnasium.make``, also of ``module:Name-v0``; the only place that makes environments.

    One with Dict observations is wrapped in gymnasium's ``FlattenObservation``, so that it gives vectors whose order
    :func:`observation_parts` describes. Raises :class:`UserError` for an unknown or unusable environment.
    """
    env = _make(env_id, kwargs)
    if not isinstance(env.observation_space, spaces.Dict):
        return env
    try:
        observation_parts(env.observation_space, env_id)
    except UserError:
        env.close()
        raise
    return FlattenObservation(env)


def _make(env_id: str, kwargs: dict[str, Any]) -> Env:
    _quieten_mujoco()
    try:
        return gymnasium.make(env_id, **kwargs)
    except ModuleNotFoundError as error:
        module = error.name or env_id.partition(":")[0]  # gymnasium's own error for module:Name has no name
        raise UserError(
            f"The environment {env_id} needs the module {module!r}, which cannot be imported: install it."
        ) from None
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.DeprecatedEnv) as error:
        raise UserError(f"The environment {env_id} is not registered{_closest(env_id)}") from error
    except Exception as error:  # the constructor is the environment author's, who may raise anything
        raise UserError(f"The environment {env_id} cannot be made: {reason(error)}.") from error


def portable_spec(spec: EnvSpec) -> EnvSpec:
    """``spec`` as it can be stored: an entry point that is a class becomes its name. Raises :class:`UserError` for others."""
    entry = spec.entry_point
    if entry is None or isinstance(entry, str):
        return spec
    if not isinstance(entry, type) or "<" in entry.__qualname__:
        raise UserError(
            f"The environment {spec.id} was registered with a function, which cannot be stored with a dataset: "
            'register it with a string, entry_point="module:Class".'
        )
    return dataclasses.replace(spec, entry_point=f"{entry.__module__}:{entry.__qualname__}")


def id_of_spec(spec: EnvSpec) -> str:
    """What ``gymnasium.make`` needs in a process of its own: ``module:Name-v0`` where gymnasium alone does not know it."""
    module = spec.entry_point.partition(":")[0] if isinstance(spec.entry_point, str) else ""
    if not module or module.split(".")[0] == "gymnasium":
        return spec.id
    try:
        importlib.import_module(module)
    except (ImportError, TypeError, ValueError):  # the last two: not a module's name at all
        return spec.id if spec.id in gymnasium.registry else f"{module}:{spec.id}"  # which names what to install
    return f"{module}:{spec.id}" if spec.id in gymnasium.registry else spec.id


def spaces_of(env: Env, env_id: str) -> Spaces:
    """Dimensions and bounds of ``env``. Raises :class:`UserError` unless both spaces are one-dimensional, bounded boxes."""
    dim = box_dim(env.observation_space, "observation", env_id)
    box_dim(env.action_space, "action", env_id)
    assert isinstance(env.action_space, spaces.Box)
    low, high = env.action_space.low.astype(np.float32), env.action_space.high.astype(np.float32)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise UserError(
            f"{env_id} has unbounded actions (low {low.tolist()}, high {high.tolist()}): wrap it in "
            "gymnasium.wrappers.RescaleAction or register it with finite action bounds."
        )
    return Spaces(dim, low, high)


def box_dim(space: spaces.Space[Any], kind: str, owner: str) -> int:
    """The length of a one-dimensional Box; any other space is refused with a :class:`UserError` naming ``owner``."""
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        shape = f" of shape {space.shape}" if isinstance(space, spaces.Box) else ""
        raise UserError(
            f"{owner} has {type(space).__name__} {kind}s{shape}, but only one-dimensional Box {kind}s "
            "(a vector of numbers) are supported."
        )
    return int(space.shape[0])


def observation_parts(space: spaces.Space[Any], owner: str, path: str = "") -> dict[str, int]:
    """The parts of a flat observation in their order: path -> length; a Box is one part, whose path is empty.

    A Dict's parts stand in the order of its keys, which gymnasium and Minari sort alphabetically; a Dict inside it stands
    where its key does (``achieved_goal/kettle``). That is the order of ``gymnasium.spaces.utils.flatten_space`` and of the
    wrapper ``FlattenObservation``. Raises :class:`UserError` naming ``owner`` and the path for any part that is not a
    one-dimensional Box (Discrete, Text, images), for an empty Dict, and for keys in another order, which a stored
    dataset does not keep.
    """
    if not isinstance(space, spaces.Dict):
        return {path: box_dim(space, f"{path!r} observation" if path else "observation", owner)}
    keys = list(space.spaces)
    where = f" in {path!r}" if path else ""
    if not keys:
        raise UserError(f"{owner} has Dict observations without any part{where}: give it at least one Box.")
    if keys != sorted(keys, key=str):
        raise UserError(
            f"{owner} has Dict observations whose keys{where} are not in alphabetical order ({', '.join(map(str, keys))}), "
            "which Minari datasets cannot store: make its space from a plain dict, gymnasium.spaces.Dict({…})."
        )
    parts: dict[str, int] = {}
    for key, part in space.spaces.items():
        parts |= observation_parts(part, owner, f"{path}/{key}" if path else str(key))
    return parts


@functools.cache
def _quieten_mujoco() -> None:
    """Drop MuJoCo's deprecation notices; its other warnings go to standard error.

    Without this MuJoCo 4 complains of gymnasium's own HalfCheetah model each time it is made, on the terminal and in a file
    MUJOCO_LOG.TXT in the current folder.
    """
    import mujoco

    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(lambda text: None if "deprecated" in text else print(text, file=sys.stderr))


def _closest(env_id: str) -> str:
    near = difflib.get_close_matches(env_id, gymnasium.registry, n=1, cutoff=0.5)
    return (
        f": did you mean {near[0]}?" if near else " and no registered name is like it: install the package that has it."
    )
