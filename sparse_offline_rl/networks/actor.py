"""The perturbation actor of BCQ."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparse_offline_rl.networks.bounded import ActionBounds
from sparse_offline_rl.networks.mlp import MLP
from sparse_offline_rl.networks.packing import Packable
from sparse_offline_rl.types import Spaces


class PerturbationActor(nn.Module):
    """ξ(s, a): changes an action by at most ``perturbation`` of its range (Fujimoto et al. 2019, equation 4)."""

    limit: Tensor  # largest change of an action, [A]

    def __init__(
        self, spaces: Spaces, hidden: Sequence[int], perturbation: float, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        width = spaces.observation_dim + spaces.action_dim
        self.net: Packable = MLP(width, hidden, {"out": spaces.action_dim}, generator)
        self.bounds = ActionBounds(spaces)
        self.register_buffer("limit", perturbation * self.bounds.scale, persistent=False)

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        """``[B, S]`` and ``[B, A]`` to perturbed actions ``[B, A]`` inside the bounds."""
        change = torch.tanh(self.net(observations, actions))
        return self.bounds.clamp(torch.addcmul(actions, self.limit, change))
