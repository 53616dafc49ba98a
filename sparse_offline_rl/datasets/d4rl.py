"""Reads HDF5 files in D4RL's layouts v0 to v2 (Fu et al. 2020)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.datasets.transitions import Transitions, check_finite
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.types import BoolArray, FloatArray

_REQUIRED = ("observations", "actions", "rewards", "terminals")
_VECTORS = ("observations", "actions", "next_observations")
_OPTIONAL = ("timeouts", "next_observations")


def read_d4rl(path: str | Path, max_episode_steps: int | None) -> tuple[Transitions, str]:
    """Transitions of a D4RL file, and the file's name.

    ``next_observations`` is used where the file has it. Otherwise the successor is the next row's observation, within the
    episode only: a row that ends in a time limit has no successor and is dropped, as is the last row of the file; a
    terminal row, whose successor is never used, keeps its own observation in that place.

    Without ``timeouts`` (v0, v1) an episode ends at a terminal or ``max_episode_steps`` (the environment's limit; None:
    there is no limit) after its start; HalfCheetah, which has no terminals, is split by that alone.

    Raises :class:`UserError` naming the file when it is missing, not HDF5, truncated, empty or inconsistent.
    """
    path = Path(path)
    arrays = _read_arrays(path)
    count = _check_shapes(arrays, path)
    terminated = arrays["terminals"].reshape(count).astype(np.bool_)
    if "timeouts" in arrays:
        truncated = arrays["timeouts"].reshape(count).astype(np.bool_)
    else:
        truncated = _time_limits(terminated, max_episode_steps)
    rewards = arrays["rewards"].reshape(count).astype(np.float32, copy=False)
    floats = {name: arrays[name].astype(np.float32, copy=False) for name in _VECTORS if name in arrays}
    for name, values in {**floats, "rewards": rewards}.items():
        check_finite(name, values, str(path))  # here, where the rows are those of the file
    observations = floats["observations"]
    if "next_observations" in arrays:
        successors, keep = floats["next_observations"], np.ones(count, np.bool_)
    else:
        successors, keep = _successors(observations, terminated, truncated)
    if not keep.any():
        raise UserError(
            f"{path} holds no transition with a known next observation: it has {count} rows, each cut short."
        )
    transitions = Transitions(
        observations=observations[keep],
        actions=floats["actions"][keep],
        rewards=rewards[keep],
        next_observations=successors[keep],
        terminated=terminated[keep],
        truncated=truncated[keep],
    )
    return transitions, path.stem


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise UserError(f"dataset.path={path} does not exist: give the path of a D4RL HDF5 file.")
    try:
        with h5py.File(path, "r") as file:
            missing = [name for name in _REQUIRED if not isinstance(file.get(name), h5py.Dataset)]
            if missing:
                raise UserError(f"{path} is not a D4RL file: it lacks the array {missing[0]!r}.")
            names = [*_REQUIRED, *(name for name in _OPTIONAL if isinstance(file.get(name), h5py.Dataset))]
            return {name: np.asarray(file[name][()]) for name in names}
    except (OSError, RuntimeError, KeyError) as error:
        reason = "is truncated" if "truncated" in str(error) else "is not an HDF5 file, or is damaged"
        raise UserError(f"dataset.path={path} {reason}: download it again ({error}).") from None


def _check_shapes(arrays: dict[str, NDArray[Any]], path: Path) -> int:
    """N, the number of rows that all arrays share."""
    count = len(arrays["observations"]) if arrays["observations"].ndim else 0
    if not count:
        raise UserError(f"{path} is empty: its array 'observations' has no rows.")
    for name, values in arrays.items():
        vector = name in _VECTORS
        if values.ndim == 0 or len(values) != count:
            raise UserError(
                f"{path} is damaged: 'observations' has {count} rows, but {name!r} has shape {values.shape}."
            )
        if values.dtype.kind not in "biuf" or (values.ndim != 2 if vector else values.size != count):
            raise UserError(
                f"{path} is not a D4RL file of vectors: {name!r} has shape {values.shape} and type {values.dtype}."
            )
    if "next_observations" in arrays and arrays["next_observations"].shape != arrays["observations"].shape:
        raise UserError(f"{path} is damaged: 'next_observations' and 'observations' differ in shape.")
    return count


def _time_limits(terminated: BoolArray, max_episode_steps: int | None) -> BoolArray:
    """Rows at which an episode reaches the limit, counting from the row after the last end."""
    if max_episode_steps is None:
        return np.zeros_like(terminated)
    row = np.arange(len(terminated))
    starts = np.concatenate([[0], np.where(terminated[:-1], row[1:], 0)])
    since_start = row - np.maximum.accumulate(starts)
    reached: BoolArray = since_start % max_episode_steps == max_episode_steps - 1
    return reached & ~terminated


def _successors(observations: FloatArray, terminated: BoolArray, truncated: BoolArray) -> tuple[FloatArray, BoolArray]:
    """Next observations, and which rows have one."""
    successors = np.concatenate([observations[1:], observations[-1:]])
    successors[terminated] = observations[terminated]
    keep = terminated | ~truncated
    keep[-1] = terminated[-1]
    return successors, keep
