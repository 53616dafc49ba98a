"""Reads Minari datasets, local or remote."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium.envs.registration import EnvSpec
from h5py import h5d, h5g, h5i, h5s, h5t
from minari import MinariDataset
from minari.dataset.minari_storage import MinariStorage
from minari.storage import get_dataset_path
from numpy.typing import NDArray

from sparse_offline_rl.datasets.environments import box_dim, observation_parts
from sparse_offline_rl.datasets.minari_writer import MAIN_FILE, dataset_folder, exclusive, publish
from sparse_offline_rl.datasets.transitions import Transitions, from_episodes
from sparse_offline_rl.errors import UserError, reason

# A group of HDF5 takes more bytes than this, and deflate packs at most 1032 into one.
_EPISODE_BYTES = 100
_STEPS_PER_BYTE = 1032


@dataclass(frozen=True)
class MinariData:
    """What a Minari dataset says."""

    transitions: Transitions  # Dict observations flattened, in the order of ``observation_parts``
    env_spec: EnvSpec | None
    reference_scores: tuple[Any, Any]  # ref_min_score and ref_max_score as the metadata has them, None where absent


def read_minari(dataset_id: str, limit: int) -> MinariData:
    """The first ``limit`` transitions (or all) of a Minari dataset, downloaded when it is not here.

    Observations are vectors, or Dicts of vectors, also nested, which are flattened in the order of
    :func:`observation_parts`. Raises :class:`UserError` when the dataset cannot be had, is damaged, or has other
    observations or actions.
    """
    folder = dataset_folder(dataset_id)
    if not (folder / "data").exists():
        _download(dataset_id, folder)
    dataset, metadata = _open(dataset_id, folder)
    owner = f"The Minari dataset {dataset_id}"
    parts = observation_parts(dataset.observation_space, owner)
    action_dim = box_dim(dataset.action_space, "action", owner)
    if dataset.storage.FORMAT != "hdf5":
        raise UserError(f"{owner} is stored as {dataset.storage.FORMAT}, but only Minari's HDF5 storage is supported.")
    file = folder / "data" / MAIN_FILE
    try:
        flat = _read_file(file, metadata["total_episodes"], metadata["total_steps"], parts, action_dim, limit)
    except Exception as error:  # h5py raises nearly anything for what a damaged file may hold
        raise UserError(
            f"{owner} is damaged: {file} cannot be read ({reason(error)}); delete the folder and get it again."
        ) from error
    try:
        transitions = from_episodes(*flat)
    except UserError as error:
        raise UserError(f"{owner} cannot be used. {error}") from None
    scores = (metadata.get("ref_min_score"), metadata.get("ref_max_score"))
    return MinariData(transitions.head(limit), dataset.env_spec, scores)


def _open(dataset_id: str, folder: Path) -> tuple[MinariDataset, dict[str, Any]]:
    """The dataset and its ``metadata.json``, whose counts are such as the file can hold."""
    try:
        metadata = MinariStorage.read_raw_metadata(folder / "data")
        if not isinstance(metadata, dict):
            raise ValueError("metadata.json holds no object")
        if metadata.get("data_format") == "hdf5":
            size = (folder / "data" / MAIN_FILE).stat().st_size
            for name, most in (("total_episodes", size // _EPISODE_BYTES), ("total_steps", size * _STEPS_PER_BYTE)):
                if type(metadata[name]) is not int or not 0 <= metadata[name] <= most:
                    raise ValueError(f"metadata.json says {name}={metadata[name]!r}, but {MAIN_FILE} has {size} bytes")
        return MinariDataset(folder / "data"), metadata
    except Exception as error:  # Minari checks its metadata by assertions and by whatever fails first
        raise UserError(
            f"The Minari dataset {dataset_id} in {folder} cannot be read ({reason(error)}): delete the folder and get it "
            "again."
        ) from error


def _read_file(
    path: Path, episodes: int, steps: int, parts: Mapping[str, int], action_dim: int, limit: int
) -> tuple[NDArray[Any], ...]:
    """Arrays as :func:`from_episodes` takes them, of as many whole episodes as make up ``limit`` steps.

    Straight into flat float32 arrays through HDF5's low-level interface: at 50,000 episodes Minari's own reader needs
    half a minute for what takes six seconds so.
    """
    observations = np.empty((steps + episodes, sum(parts.values())), np.float32)
    actions = np.empty((steps, action_dim), np.float32)
    rewards = np.empty(steps, np.float32)
    terminated, truncated = np.empty(steps, np.bool_), np.empty(steps, np.bool_)
    ends = np.cumsum(list(parts.values())).tolist()
    columns = {
        f"observations/{part}".rstrip("/").encode(): slice(end - dim, end)
        for (part, dim), end in zip(parts.items(), ends, strict=True)
    }
    lengths: list[int] = []
    start, boolean = 0, h5t.py_create(np.dtype(np.bool_), logical=True)
    with h5py.File(path, "r") as file:
        for index in range(episodes):
            group = h5g.open(file.id, f"episode_{index}".encode())
            rewards_array = h5d.open(group, b"rewards")
            length = int(rewards_array.shape[0])
            rows, row = slice(start, start + length), start + index
            _read(rewards_array, rewards[rows], h5t.NATIVE_FLOAT)
            for part, place in columns.items():
                _read(h5d.open(group, part), observations[row : row + length + 1, place], h5t.NATIVE_FLOAT)
            _read(h5d.open(group, b"actions"), actions[rows], h5t.NATIVE_FLOAT)
            _read(h5d.open(group, b"terminations"), terminated[rows], boolean)
            _read(h5d.open(group, b"truncations"), truncated[rows], boolean)
            lengths.append(length)
            start += length
            if start >= limit:
                break
        else:
            if start != steps:
                raise ValueError(f"its episodes have {start} steps, but metadata.json says total_steps={steps}")
    for name, flags in (("terminations", terminated[:start]), ("truncations", truncated[:start])):
        if (flags.view(np.uint8) > 1).any():  # HDF5 reads any byte as a truth value
            raise ValueError(f"its {name} are not all 0 or 1")
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
    if source.shape[0] != len(target):
        raise ValueError(f"{h5i.get_name(source).decode()} has the shape {source.shape}, not {len(target)} rows")
    whole = target if target.flags.c_contiguous else np.empty(target.shape, target.dtype)  # HDF5 fills no columns
    source.read(h5s.create_simple((target.size,)), h5s.ALL, whole, kind)
    if whole is not target:
        target[...] = whole


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
