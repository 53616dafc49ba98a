"""Episodes of a policy, several environments stepped together; each episode depends on its own seed alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.datasets.environments import Env, make_env, spaces_of
from sparse_offline_rl.datasets.experts import StochasticPolicy
from sparse_offline_rl.types import FloatArray

GROUP = 16  # episodes stepped together; fixed, because a matrix product may round differently for another batch size
_NOISE_BLOCK = 64  # steps of noise drawn at a time
_REPORT_SECONDS = 0.2


@dataclass(frozen=True)
class Episode:
    """T steps. ``terminated`` and ``truncated`` tell how the last one ended; neither is true of any other step."""

    seed: int  # what the environment was reset with
    observations: FloatArray  # [T + 1, S]
    actions: FloatArray  # [T, A]
    rewards: NDArray[np.float64]  # [T]
    terminated: bool
    truncated: bool
    cut_short: bool = False  # truncated only because no more steps were wanted; its return is not a whole episode's

    def __len__(self) -> int:
        return len(self.rewards)

    def cut(self, steps: int) -> Episode:
        """The first ``steps`` steps, ended by truncation where that shortens the episode."""
        if steps >= len(self):
            return self
        observations, actions, rewards = self.observations[: steps + 1], self.actions[:steps], self.rewards[:steps]
        return Episode(self.seed, observations, actions, rewards, terminated=False, truncated=True, cut_short=True)


@dataclass
class _Row:
    """One running episode of a group."""

    env: Env
    rng: np.random.Generator
    seed: int
    rewards: list[float] = field(default_factory=list)
    terminated: bool = False
    truncated: bool = False
    stopped: bool = False  # later episodes than are needed

    @property
    def running(self) -> bool:
        return not (self.terminated or self.truncated or self.stopped)


class GroupRunner:
    """Runs groups of :data:`GROUP` episodes; ``policy=None`` acts uniformly at random within the bounds."""

    def __init__(self, env_id: str, policy: StochasticPolicy | None) -> None:
        self.envs = [make_env(env_id, disable_env_checker=True) for _ in range(GROUP)]
        self.spaces = spaces_of(self.envs[0], env_id)
        self.policy = policy

    def run(self, entropy: tuple[int, ...], group: int, limit: int, report: Callable[[int], Any]) -> list[Episode]:
        """Episodes ``group * GROUP`` and on, up to ``limit`` steps in all; ``report`` hears of steps as they are taken.

        An episode whose predecessors in the group already make up ``limit`` is not needed: it is stopped and left out.
        """
        rows = [self._start(env, entropy, group * GROUP + slot) for slot, env in enumerate(self.envs)]
        observations = np.empty((GROUP, self.spaces.observation_dim), np.float32)
        for slot, row in enumerate(rows):
            observations[slot] = row.env.reset(seed=row.seed)[0]
        all_observations, all_actions = [observations.copy()], []
        unreported, reported_at = 0, time.monotonic()
        for actions in self._actions(rows, observations):
            all_actions.append(actions)
            unreported += _step(rows, actions, observations)
            all_observations.append(observations.copy())
            _stop_unneeded(rows, limit)
            if time.monotonic() - reported_at > _REPORT_SECONDS:
                report(unreported)
                unreported, reported_at = 0, time.monotonic()
        report(unreported)
        return _episodes(rows, np.stack(all_observations), np.stack(all_actions), limit)

    def _start(self, env: Env, entropy: tuple[int, ...], episode: int) -> _Row:
        reset, noise = np.random.SeedSequence((*entropy, episode)).spawn(2)
        return _Row(env, np.random.Generator(np.random.SFC64(noise)), int(reset.generate_state(1)[0]))

    def _actions(self, rows: list[_Row], observations: FloatArray) -> Iterator[FloatArray]:
        """Actions ``[GROUP, A]`` for what ``observations`` hold at each step, while any row is running."""
        noise = np.zeros((_NOISE_BLOCK, GROUP, self.spaces.action_dim), np.float32)
        low, high = self.spaces.action_low, self.spaces.action_high
        step = 0
        while any(row.running for row in rows):
            if step % _NOISE_BLOCK == 0:
                for slot, row in enumerate(rows):
                    if row.running:
                        draw = row.rng.random if self.policy is None else row.rng.standard_normal
                        noise[:, slot] = draw((_NOISE_BLOCK, self.spaces.action_dim), np.float32)
            now = noise[step % _NOISE_BLOCK]
            yield low + now * (high - low) if self.policy is None else self.policy.act(observations, now)
            step += 1


def _step(rows: list[_Row], actions: FloatArray, observations: FloatArray) -> int:
    """Step every running row, writing its new observation; returns how many were stepped."""
    stepped = 0
    for slot, row in enumerate(rows):
        if row.running:
            observation, reward, row.terminated, row.truncated, _ = row.env.step(actions[slot])
            observations[slot] = observation
            row.rewards.append(float(reward))
            stepped += 1
    return stepped


def _stop_unneeded(rows: list[_Row], limit: int) -> None:
    before = 0
    for row in rows:
        if row.running and (before >= limit or len(row.rewards) >= limit):
            row.stopped = True
        before += len(row.rewards)


def _episodes(rows: list[_Row], observations: FloatArray, actions: FloatArray, limit: int) -> list[Episode]:
    episodes: list[Episode] = []
    steps = 0
    for slot, row in enumerate(rows):
        length = min(len(row.rewards), limit - steps)
        if length == 0:
            break
        ended_early = row.stopped or length < len(row.rewards)
        episodes.append(
            Episode(
                row.seed,
                observations[: length + 1, slot].copy(),
                actions[:length, slot].copy(),
                np.array(row.rewards[:length]),
                row.terminated and not ended_early,
                row.truncated or ended_early,
                ended_early,
            )
        )
        steps += length
    return episodes
