"""The twin critic."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparse_offline_rl.networks.mlp import MLP
from sparse_offline_rl.networks.packing import Packable
from sparse_offline_rl.types import Spaces


class TwinCritic(nn.Module):
    """Two independent Q networks, S+A -> hidden -> 1."""

    def __init__(self, spaces: Spaces, hidden: Sequence[int], generator: torch.Generator | None = None) -> None:
        super().__init__()
        width = spaces.observation_dim + spaces.action_dim
        self.q1: Packable = MLP(width, hidden, {"out": 1}, generator)
        self.q2: Packable = MLP(width, hidden, {"out": 1}, generator)

    def forward(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, S]`` and ``[B, A]`` to ``Q1, Q2``, each ``[B, 1]``."""
        return self.q1(observations, actions), self.q2(observations, actions)
