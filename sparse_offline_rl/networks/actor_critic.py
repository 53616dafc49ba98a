"""Networks that several families of agents share: bounded actions, deterministic and Gaussian actors, the twin critic."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparse_offline_rl.networks.mlp import MLPBuilder
from sparse_offline_rl.types import Spaces


class ActionBounds(nn.Module):
    """``[low, high]`` per action dimension ``[A]``; for the usual symmetric bounds the centre is 0 and the scale is max_a."""

    low: Tensor
    high: Tensor
    scale: Tensor
    center: Tensor

    def __init__(self, spaces: Spaces) -> None:
        super().__init__()
        low, high = torch.as_tensor(spaces.action_low), torch.as_tensor(spaces.action_high)
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)
        self.register_buffer("scale", (high - low) / 2, persistent=False)
        self.register_buffer("center", (high + low) / 2, persistent=False)

    def squash(self, x: Tensor) -> Tensor:
        """``center + scale * tanh(x)``: any real ``[B, A]`` into the bounds."""
        return torch.addcmul(self.center, self.scale, torch.tanh(x))

    def clamp(self, actions: Tensor) -> Tensor:
        """``actions`` ``[B, A]`` cut to the bounds."""
        return torch.clamp(actions, self.low, self.high)


class TwinCritic(nn.Module):
    """Two independent Q networks, S+A -> hidden -> 1 (Fujimoto et al. 2018)."""

    def __init__(self, spaces: Spaces, hidden: Sequence[int], build: MLPBuilder) -> None:
        super().__init__()
        width = spaces.observation_dim + spaces.action_dim
        self.q1 = build("critic1", width, hidden, {"out": 1})
        self.q2 = build("critic2", width, hidden, {"out": 1})

    def forward(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, S]`` and ``[B, A]`` to ``Q1, Q2``, each ``[B, 1]``."""
        return self.q1(observations, actions), self.q2(observations, actions)


class DeterministicActor(nn.Module):
    """π(s) = center + scale · tanh(net(s)), S -> hidden -> A."""

    def __init__(self, spaces: Spaces, hidden: Sequence[int], build: MLPBuilder) -> None:
        super().__init__()
        self.net = build("actor", spaces.observation_dim, hidden, {"out": spaces.action_dim})
        self.bounds = ActionBounds(spaces)

    def forward(self, observations: Tensor) -> Tensor:
        """``[B, S]`` to actions ``[B, A]`` inside the bounds."""
        return self.bounds.squash(self.net(observations))


class GaussianActor(DeterministicActor):
    """A Gaussian around the deterministic actor's action with a log σ ``[A]`` that no state changes (Kostrikov et al. 2021)."""

    _LOG_STD_MIN, _LOG_STD_MAX = -5.0, 2.0  # the IQL authors' bounds

    def __init__(self, spaces: Spaces, hidden: Sequence[int], build: MLPBuilder) -> None:
        super().__init__(spaces, hidden, build)
        self.log_std = nn.Parameter(torch.zeros(spaces.action_dim))

    def log_density(self, observations: Tensor, actions: Tensor) -> Tensor:
        """``log N(a; π(s), σ²)`` of ``[B, S]`` and ``[B, A]``, summed over action dimensions, ``[B, 1]``."""
        log_std = self.log_std.clamp(self._LOG_STD_MIN, self._LOG_STD_MAX)
        scaled = (actions - self(observations)) * torch.exp(-log_std)
        constant = 0.5 * math.log(2 * math.pi)
        density: Tensor = -(0.5 * scaled.square() + log_std + constant).sum(1, keepdim=True)
        return density
