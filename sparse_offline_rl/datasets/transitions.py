"""Transitions: the flat form in which every dataset reaches an agent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.errors import UserError
from sparse_offline_rl.types import BoolArray, FloatArray

_ROWS = ("observations", "actions", "next_observations")


@dataclass(frozen=True)
class Transitions:
    """N transitions in the order in which they were recorded.

    ``terminated`` and ``truncated`` stay apart: an agent bootstraps through a time limit but not through a true end.
    Raises :class:`UserError` when the arrays are empty, disagree in length or shape, or hold NaN or infinity.
    """

    observations: FloatArray  # [N, S]
    actions: FloatArray  # [N, A]
    rewards: FloatArray  # [N]
    next_observations: FloatArray  # [N, S], the true successor inside the same episode
    terminated: BoolArray  # [N]
    truncated: BoolArray  # [N]

    def __post_init__(self) -> None:
        lengths = {field.name: len(getattr(self, field.name)) for field in fields(self)}
        if len(set(lengths.values())) > 1:
            listing = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise UserError(f"The arrays of a dataset must be equally long, but have these lengths: {listing}.")
        if not len(self):
            raise UserError("The dataset holds no transitions: choose one with at least one episode of one step.")
        for field in fields(self):
            shape, rows = getattr(self, field.name).shape, field.name in _ROWS
            if len(shape) != 1 + rows:
                want = "a row for each transition" if rows else "one value for each transition"
                raise UserError(f"The dataset's {field.name} must have {want}, but have shape {shape}.")
        if self.observations.shape != self.next_observations.shape:
            shapes = f"{self.observations.shape} and {self.next_observations.shape}"
            raise UserError(
                f"The dataset's observations and next_observations must be alike, but have shapes {shapes}."
            )
        for name in ("observations", "actions", "rewards", "next_observations"):
            check_finite(name, getattr(self, name), "The dataset")

    def __len__(self) -> int:
        return len(self.rewards)

    def head(self, count: int) -> Transitions:
        """The first ``count`` transitions, or all when there are fewer."""
        if count >= len(self):
            return self
        return replace(self, **{field.name: getattr(self, field.name)[:count] for field in fields(self)})


def concatenate(parts: Sequence[Transitions]) -> Transitions:
    """All transitions of ``parts`` in order."""
    return Transitions(
        *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Transitions))
    )


def from_episodes(
    observations: NDArray[np.floating],
    actions: NDArray[np.floating],
    rewards: NDArray[np.floating],
    terminated: BoolArray,
    truncated: BoolArray,
    lengths: NDArray[np.int64],
) -> Transitions:
    """Transitions of E episodes laid end to end, where episode k has ``lengths[k]`` steps.

    ``observations`` has ``lengths[k] + 1`` rows for episode k (Minari's layout, the last one being where the episode
    ended), ``N + E`` in all; the other arrays have one row a step, N in all. Successors never cross an episode.
    """
    steps, rows = int(lengths.sum()), int(lengths.sum()) + len(lengths)
    if len(observations) != rows:
        raise UserError(
            f"{len(lengths)} episodes of {steps} steps need {rows} observations (one more than steps in each episode), "
            f"but there are {len(observations)}."
        )
    episode = np.repeat(np.arange(len(lengths)), lengths)
    before = np.arange(steps) + episode  # each earlier episode shifted the rows by its one final observation
    return Transitions(
        observations=observations[before].astype(np.float32, copy=False),
        actions=np.asarray(actions, np.float32),
        rewards=np.asarray(rewards, np.float32),
        next_observations=observations[before + 1].astype(np.float32, copy=False),
        terminated=np.asarray(terminated, np.bool_),
        truncated=np.asarray(truncated, np.bool_),
    )


def check_finite(name: str, values: FloatArray, owner: str) -> None:
    """Raise :class:`UserError` naming ``owner``, the array and its first bad row unless all ``values [N, …]`` are finite."""
    finite = np.isfinite(values)
    if not finite.all():
        bad = ~finite.reshape(len(values), -1).all(axis=1)
        row = int(np.argmax(bad))
        raise UserError(
            f"{owner} has NaN, infinity or a value beyond float32 in {int(bad.sum())} rows of its {name}, "
            f"the first of them row {row}: remove or mend those rows."
        )
