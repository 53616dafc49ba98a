"""A small environment whose observations are a Dict of vectors, as those of AntMaze and Franka Kitchen are."""

from __future__ import annotations

import gymnasium
import numpy as np

BOX, DICT = gymnasium.spaces.Box, gymnasium.spaces.Dict
ID = "dict_environment:Reach-v0"
FLAT = ("achieved_goal", "desired_goal/near", "desired_goal/target", "observation")  # alphabetical at every level


class Reach(gymnasium.Env):
    """A point that must go to a target; an episode of 8 steps pays minus the distance that is left after each."""

    # Given in no order: gymnasium sorts the keys of a plain dict.
    observation_space = DICT(
        {
            "observation": BOX(-np.inf, np.inf, (3,), np.float64),
            "desired_goal": DICT({"target": BOX(-1, 1, (2,), np.float32), "near": BOX(0, 1, (1,), np.float64)}),
            "achieved_goal": BOX(-np.inf, np.inf, (2,), np.float64),
        }
    )
    action_space = BOX(-4, 4, (2,), np.float32)

    def __init__(self, near=0.1, render_mode=None):
        self.near, self.render_mode = near, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.steps = self.np_random.uniform(-1, 1, 2), 0
        self.target = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self._observation(), {}

    def step(self, action):
        self.position = self.position + action
        self.steps += 1
        return self._observation(), -float(np.linalg.norm(self.position - self.target)), False, self.steps == 8, {}

    def _observation(self):
        return {
            "observation": np.array([*self.position, self.steps]),
            "desired_goal": {"target": self.target.copy(), "near": np.array([self.near])},
            "achieved_goal": self.position.copy(),
        }


gymnasium.register("Reach-v0", "dict_environment:Reach")


def go_to_the_target(observations: np.ndarray) -> np.ndarray:
    """The best action ``[n, 2]``, by the places of position and target in the flat order ``[n, 8]``."""
    return np.clip(observations[:, 3:5] - observations[:, :2], -4, 4)
