"""Made-up episodes, and real files made from them: Minari datasets and D4RL HDF5."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import h5py
import minari
import numpy as np
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer

OBSERVATIONS, ACTIONS = 3, 1  # as Pendulum-v1, whose actions lie within ±2


@dataclass(frozen=True)
class Ep:
    """An episode of T steps that ended in a ``terminal``, a ``timeout`` or ``open`` (still running)."""

    observations: np.ndarray  # [T + 1, 3]
    actions: np.ndarray  # [T, 1]
    rewards: np.ndarray  # [T]
    end: str

    @property
    def steps(self) -> int:
        return len(self.rewards)


def episode(steps: int, end: str, seed: int = 0) -> Ep:
    rng = np.random.default_rng((seed, steps))
    return Ep(
        rng.normal(size=(steps + 1, OBSERVATIONS)).astype(np.float32),
        rng.uniform(-2, 2, size=(steps, ACTIONS)).astype(np.float32),
        rng.normal(size=steps),
        end,
    )


@st.composite
def episodes(draw: st.DrawFn, limit: int = 6) -> list[Ep]:
    """One to six episodes of 1 to ``limit`` steps; one that times out has ``limit`` steps; only the last may be open."""
    ends = draw(st.lists(st.sampled_from(["terminal", "timeout"]), min_size=1, max_size=6))
    if draw(st.booleans()):
        ends[-1] = "open"
    return [
        episode(limit if end == "timeout" else draw(st.integers(1, limit)), end, seed) for seed, end in enumerate(ends)
    ]


def expected_rows(made: Sequence[Ep]) -> list[tuple[np.ndarray, np.ndarray, float, np.ndarray, bool, bool]]:
    """Every transition of the episodes, one at a time: what no reader may get wrong."""
    rows = []
    for ep in made:
        for t in range(ep.steps):
            last = t == ep.steps - 1
            rows.append(
                (
                    ep.observations[t],
                    ep.actions[t],
                    float(np.float32(ep.rewards[t])),
                    ep.observations[t + 1],
                    last and ep.end == "terminal",
                    last and ep.end == "timeout",
                )
            )
    return rows


def write_minari(dataset_id: str, made: Sequence[Ep], env: str | None = "Pendulum-v1", **options: object) -> None:
    """A dataset by Minari's own writer, in the Minari root of the moment."""
    buffers = []
    for number, ep in enumerate(made):
        ends = np.zeros((2, ep.steps), bool)
        ends[:, -1] = ep.end == "terminal", ep.end == "timeout"
        buffers.append(
            EpisodeBuffer(
                id=number,
                observations=ep.observations if ep.observations.ndim > 2 else ep.observations.astype(np.float64),
                actions=ep.actions,
                rewards=list(ep.rewards),
                terminations=list(ends[0]),
                truncations=list(ends[1]),
                infos={},
            )
        )
    box = gymnasium.spaces.Box
    spaces = {
        "observation_space": box(-np.inf, np.inf, (OBSERVATIONS,), np.float64),
        "action_space": box(-2, 2, (ACTIONS,), np.float32),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari asks for an author's address and more
        minari.create_dataset_from_buffers(dataset_id, buffers, env=env, **{**spaces, **options})


def write_d4rl(path: Path, made: Sequence[Ep], *, timeouts: bool = True, successors: bool = False) -> Path:
    """The layouts v0 (neither option), v2 (``timeouts``) and newer (``successors``), with an ``infos`` group."""
    arrays = {
        "observations": np.concatenate([ep.observations[:-1] for ep in made]),
        "actions": np.concatenate([ep.actions for ep in made]),
        "rewards": np.concatenate([ep.rewards for ep in made]).astype(np.float32),
        "terminals": np.concatenate([_last(ep, "terminal") for ep in made]),
    }
    if timeouts:
        arrays["timeouts"] = np.concatenate([_last(ep, "timeout") for ep in made])
    if successors:
        arrays["next_observations"] = np.concatenate([ep.observations[1:] for ep in made])
    return write_arrays(path, arrays)


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, compression="gzip" if values.size else None)
        file.create_dataset("infos/qpos", data=np.zeros((3, 2)))
        file.create_dataset("metadata/algorithm", data="SAC")
    return path


def _last(ep: Ep, end: str) -> np.ndarray:
    return np.arange(ep.steps) == (ep.steps - 1 if ep.end == end else -1)
