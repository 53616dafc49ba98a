"""Reads HDF5 files in D4RL's layouts v0 to v2 (Fu et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.datasets.transitions import Transitions, check_finite
from sparse_offline_rl.errors import UserError, reason
from sparse_offline_rl.types import BoolArray, FloatArray

_REQUIRED = ("observations", "actions", "rewards", "terminals")
_VECTORS = ("observations", "actions", "next_observations")
_FLAGS = ("terminals", "timeouts")
_OPTIONAL = ("timeouts", "next_observations")
_MOST_PACKED = 1032  # bytes that deflate can pack into one: more than that the file cannot hold


def read_d4rl(path: str | Path, max_episode_steps: int | None) -> tuple[Transitions, str]:
    """Transitions of a D4RL file, and the file's name.

    ``next_observations`` is used where the file has it. Otherwise the successor is the next row's observation, within the
    episode only: a row that ends in a time limit has none and is dropped (then the row before it ends the episode), as is the last
    row of the file; a terminal row, whose successor is never used, keeps its own observation in that place.

    Without ``timeouts`` (v0, v1) an episode ends at a terminal or ``max_episode_steps`` (the environment's limit; None:
    there is no limit) after its start; HalfCheetah, which has no terminals, is split by that alone.

    Raises :class:`UserError` naming the file when it is missing, not HDF5, truncated, empty or inconsistent, or has
    ``terminals`` or ``timeouts`` other than 0 and 1.
    """
    path = Path(path)
    arrays = _read_arrays(path)
    count = len(arrays["observations"])
    flags = {name: _as_flags(name, arrays[name].reshape(count), path) for name in _FLAGS if name in arrays}
    terminated = flags["terminals"]
    truncated = flags["timeouts"] if "timeouts" in flags else _time_limits(terminated, max_episode_steps)
    with np.errstate(over="ignore"):  # what does not fit float32 becomes infinite and is refused as such
        rewards = arrays["rewards"].reshape(count).astype(np.float32, copy=False)
        floats = {name: arrays[name].astype(np.float32, copy=False) for name in _VECTORS if name in arrays}
    for name, values in {**floats, "rewards": rewards}.items():
        check_finite(name, values, str(path))  # here, where the rows are those of the file
    observations = floats["observations"]
    if "next_observations" in arrays:
        successors, keep = floats["next_observations"], np.ones(count, np.bool_)
    else:
        successors, keep = _successors(observations, terminated, truncated)
        # The row that a time limit cut short goes, and the one before it ends the episode in its place.
        truncated[:-1] |= (truncated & ~keep)[1:] & ~terminated[:-1]
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
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"dataset.path={path} {what}: give the path of a D4RL HDF5 file.")
    try:
        with h5py.File(path, "r") as file:
            missing = [name for name in _REQUIRED if not isinstance(file.get(name), h5py.Dataset)]
            if missing:
                raise UserError(f"{path} is not a D4RL file: it lacks the array {missing[0]!r}.")
            names = [*_REQUIRED, *(name for name in _OPTIONAL if isinstance(file.get(name), h5py.Dataset))]
            stored = {name: file[name] for name in names}
            _check_shapes(stored, path)
            return {name: np.asarray(array[()]) for name, array in stored.items()}
    except UserError:
        raise
    except Exception as error:  # h5py raises nearly anything for what a damaged file may hold
        state = "is truncated" if "truncated" in str(error) else "is not an HDF5 file, or is damaged"
        raise UserError(f"dataset.path={path} {state}: download it again ({reason(error)}).") from None


def _check_shapes(arrays: Mapping[str, h5py.Dataset], path: Path) -> None:
    """Refuse arrays that do not share N, their number of rows, or that are more than the file can hold."""
    count = arrays["observations"].shape[0] if arrays["observations"].shape else 0
    if not count:
        raise UserError(f"{path} is empty: its array 'observations' has no rows.")
    for name, values in arrays.items():
        vector = name in _VECTORS
        if not values.shape or values.shape[0] != count:
            raise UserError(
                f"{path} is damaged: 'observations' has {count} rows, but {name!r} has shape {values.shape}."
            )
        if values.dtype.kind not in "biuf" or (len(values.shape) != 2 if vector else values.size != count):
            raise UserError(
                f"{path} is not a D4RL file of vectors: {name!r} has shape {values.shape} and type {values.dtype}."
            )
    if "next_observations" in arrays and arrays["next_observations"].shape != arrays["observations"].shape:
        raise UserError(f"{path} is damaged: 'next_observations' and 'observations' differ in shape.")
    total, size = sum(values.nbytes for values in arrays.values()), path.stat().st_size
    if total > size * _MOST_PACKED:
        raise UserError(f"{path} is damaged: its arrays claim {total} bytes, which a file of {size} bytes cannot hold.")


def _as_flags(name: str, values: NDArray[Any], path: Path) -> BoolArray:
    """``values [N]`` as truth values. Raises :class:`UserError` for the first that is neither 0 nor 1."""
    bad = (values != 0) & (values != 1)  # true of NaN
    if bad.any():
        row = int(np.argmax(bad))
        raise UserError(
            f"{path} has values other than 0 and 1 in {int(bad.sum())} rows of {name!r}, the first of them {values[row]:g} in "
            f"row {row}: mend or remove those rows."
        )
    return values.astype(np.bool_)


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
