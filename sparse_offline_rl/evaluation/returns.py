"""Episodes of a policy in vector environments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.datasets.environments import make_env
from sparse_offline_rl.types import FloatArray

Act = Callable[[FloatArray], FloatArray]  # raw flat observations [n, S] -> actions [n, A]

_MOST_ENVIRONMENTS = 20  # side by side; more episodes run in further rounds


def evaluate(
    act: Act, env_id: str, episodes: int, seed: int, env_kwargs: Mapping[str, Any] | None = None
) -> NDArray[np.float64]:
    """Undiscounted returns ``[episodes]`` of ``episodes`` whole episodes; episode i starts from seed ``seed + i``.

    The environments come from :func:`make_env`: Dict observations reach ``act`` as vectors, in the order of training.
    Every round steps its environments together and asks ``act`` once for all episodes that still run.
    """
    rounds = [
        range(start, min(start + _MOST_ENVIRONMENTS, episodes)) for start in range(0, episodes, _MOST_ENVIRONMENTS)
    ]
    return np.concatenate([_round(act, env_id, [seed + i for i in indices], env_kwargs or {}) for indices in rounds])


def _round(act: Act, env_id: str, seeds: Sequence[int], env_kwargs: Mapping[str, Any]) -> NDArray[np.float64]:
    envs = gymnasium.vector.SyncVectorEnv([lambda: make_env(env_id, **env_kwargs)] * len(seeds))
    try:
        observations, _ = envs.reset(seed=list(seeds))
        actions = np.zeros(envs.action_space.shape or (), envs.action_space.dtype)
        returns = np.zeros(len(seeds))
        running = np.ones(len(seeds), dtype=bool)
        while running.any():
            actions[running] = act(np.asarray(observations[running], dtype=np.float32))
            observations, rewards, terminated, truncated, _ = envs.step(actions)
            returns[running] += rewards[running]
            running &= ~(terminated | truncated)  # a finished environment resets itself and is no longer counted
    finally:
        envs.close()
    return returns
