"""Types that every layer shares: what a batch is, and what an agent acts on.

Imports nothing heavy, so that acting with a stored policy never pulls in torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


class Batch(NamedTuple):
    """B transitions as float32 tensors on the agent's device; observations already normalised."""

    observations: Tensor  # [B, S]
    actions: Tensor  # [B, A]
    rewards: Tensor  # [B, 1]
    next_observations: Tensor  # [B, S], the true next state, also at a truncation
    terminated: Tensor  # [B, 1], 1.0 where the episode truly ended; a time limit is 0.0


@dataclass(frozen=True)
class Spaces:
    """Dimensions and bounds of an environment with Box observations and actions."""

    observation_dim: int  # S
    action_low: FloatArray  # [A]
    action_high: FloatArray  # [A]

    @property
    def action_dim(self) -> int:
        """A, the number of action dimensions."""
        return len(self.action_low)


class Objective(NamedTuple):
    """What one network is scored against: its prunable weights and its own loss, with every random draw frozen.

    ``loss()`` builds a fresh differentiable graph and gives the same value at each call.
    """

    weights: dict[str, Tensor]  # layer name -> weight [out, in]
    loss: Callable[[], Tensor]
