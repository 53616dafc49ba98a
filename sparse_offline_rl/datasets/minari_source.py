"""Reads Minari datasets, local or remote."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium.envs.registration import EnvSpec
from h5py import h5d, h5g, h5s, h5t
from minari import MinariDataset
from minari.storage import get_dataset_path
from numpy.typing import NDArray

from sparse_offline_rl.datasets.environments import box_dim
from sparse_offline_rl.datasets.minari_writer import MAIN_FILE, dataset_folder, exclusive, publish
from sparse_offline_rl.datasets.transitions import Transitions, from_episodes
from sparse_offline_rl.errors import UserError


@dataclass(frozen=True)
class MinariData:
    """What a Minari dataset says."""

    transitions: Transitions
    env_spec: EnvSpec | None
    reference_min_score: float | None
    reference_max_score: float | None


def read_minari(dataset_id: str, limit: int) -> MinariData:
    """The first ``limit`` transitions (or all) of a Minari dataset, downloaded when it is not here.

    Raises :class:`UserError` when it cannot be had, is damaged, or has other than vector observations and actions.
    """
    folder = dataset_folder(dataset_id)
    if not (folder / "data").exists():
        _download(dataset_id, folder)
    try:
        dataset = MinariDataset(folder / "data")
    except (ValueError, KeyError, AssertionError, OSError) as error:
        raise UserError(
            f"The Minari dataset {dataset_id} in {folder} cannot be read ({error}): delete the folder and get it again."
        ) from error
    owner = f"The Minari dataset {dataset_id}"
    observation_dim = box_dim(dataset.observation_space, "observation", owner)
    action_dim = box_dim(dataset.action_space, "action", owner)
    if dataset.storage.FORMAT != "hdf5":
        raise UserError(f"{owner} is stored as {dataset.storage.FORMAT}, but only Minari's HDF5 storage is supported.")
    file = folder / "data" / MAIN_FILE
    try:
        flat = _read_file(file, dataset.total_episodes, dataset.total_steps, observation_dim, action_dim, limit)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{owner} is damaged: {file} cannot be read ({error}); delete the folder and get it again."
        ) from error
    try:
        transitions = from_episodes(*flat)
    except UserError as error:
        raise UserError(f"{owner} cannot be used. {error}") from None
    scores = (dataset.storage.metadata.get(name) for name in ("ref_min_score", "ref_max_score"))
    return MinariData(transitions.head(limit), dataset.env_spec, *scores)


def _read_file(
    path: Path, episodes: int, steps: int, observation_dim: int, action_dim: int, limit: int
) -> tuple[NDArray[Any], ...]:
    """Arrays as :func:`from_episodes` takes them, of as many whole episodes as make up ``limit`` steps.

    Straight into flat float32 arrays through HDF5's low-level interface: at 50,000 episodes Minari's own reader needs
    half a minute for what takes six seconds so.
    """
    observations = np.empty((steps + episodes, observation_dim), np.float32)
    actions = np.empty((steps, action_dim), np.float32)
    rewards = np.empty(steps, np.float32)
    terminated, truncated = np.empty(steps, np.bool_), np.empty(steps, np.bool_)
    lengths: list[int] = []
    start, boolean = 0, h5t.py_create(np.dtype(np.bool_), logical=True)
    with h5py.File(path, "r") as file:
        for index in range(episodes):
            group = h5g.open(file.id, f"episode_{index}".encode())
            rewards_array = h5d.open(group, b"rewards")
            length = int(rewards_array.shape[0])
            rows, row = slice(start, start + length), start + index
            _read(rewards_array, rewards[rows], h5t.NATIVE_FLOAT)
            _read(h5d.open(group, b"observations"), observations[row : row + length + 1], h5t.NATIVE_FLOAT)
            _read(h5d.open(group, b"actions"), actions[rows], h5t.NATIVE_FLOAT)
            _read(h5d.open(group, b"terminations"), terminated[rows], boolean)
            _read(h5d.open(group, b"truncations"), truncated[rows], boolean)
            lengths.append(length)
            start += length
            if start >= limit:
                break
    return (
        observations[: start + len(lengths)],
        actions[:start],
        rewards[:start],
        terminated[:start],
        truncated[:start],
        np.array(lengths, np.int64),
    )


def _read(source: h5d.DatasetID, target: NDArray[Any], kind: h5t.TypeID) -> None:
    """Fill ``target``; HDF5 itself refuses when ``source`` has another number of elements."""
    source.read(h5s.create_simple((target.size,)), h5s.ALL, target, kind)


def _download(dataset_id: str, folder: Path) -> None:
    """Fetch into a staging folder, so that an interrupted download is never taken for a dataset."""
    with exclusive(dataset_id) as staging:
        if folder.exists():
            return
        # Minari downloads to where this variable points; a process of its own keeps ours unchanged.
        environ = {**os.environ, "MINARI_DATASETS_PATH": str(staging)}
        command = [sys.executable, "-c", "import sys, minari; minari.download_dataset(sys.argv[1])", dataset_id]
        result = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        if result.returncode or not (staging / dataset_id / "data").exists():
            lines = result.stderr.strip().splitlines() or ["nothing was downloaded"]
            raise UserError(
                f"The Minari dataset {dataset_id} is not in {get_dataset_path()} and could not be downloaded "
                f"({lines[-1].rstrip('.')}): run `minari download {dataset_id}` where there is internet and copy the folder there, "
                "or use dataset=expert, which is generated on this machine."
            )
        publish(staging / dataset_id, dataset_id)
