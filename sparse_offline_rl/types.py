"""Types that every layer shares: what a batch is, what an agent acts on, and how its policy acts.

Imports nothing heavy, so that acting with a stored policy never pulls in torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor, nn

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
    """What one network is scored against: its prunable weights, its own loss, with every random draw frozen, and the network.

    ``loss()`` builds a fresh differentiable graph and gives the same value at each call.
    """

    weights: dict[str, Tensor]  # layer name -> weight [out, in]
    loss: Callable[[], Tensor]
    network: nn.Module  # what the loss calls: rows of inputs to its heads' outputs side by side


@dataclass(frozen=True)
class Acting:
    """How a policy turns a state into an action: all that acting needs beside its networks, the normalisation and the bounds.

    ``squash(x) = center + scale · tanh(x)`` maps to the action's bounds. The network ``propose`` reads the normalised state and,
    if ``latent_dim`` > 0, latent noise z ~ N(0, 1) cut to ±``latent_clip``; its squashed output is the action. With ``perturb``
    that network reads state and action and moves the action by ``perturbation · scale · tanh(·)``, inside the bounds. With
    ``rank`` as many as ``candidates`` latents are tried and the action that this network values most is done, the first of equals.
    Raises ValueError if the parts do not fit together.
    """

    propose: str  # network, S [+ latent_dim] -> A
    latent_dim: int = 0
    latent_clip: float = 0.0
    perturb: str | None = None  # network, S + A -> A
    perturbation: float = 0.0
    rank: str | None = None  # network, S + A -> 1
    candidates: int = 1

    def __post_init__(self) -> None:
        if self.latent_dim < 0 or self.candidates < 1:
            raise ValueError("acting needs latent_dim >= 0 and candidates >= 1")
        if not (0 <= self.latent_clip < math.inf and 0 <= self.perturbation < math.inf):
            raise ValueError("acting needs a finite latent_clip and perturbation, not below 0")
        if self.candidates > 1 and self.rank is None:
            raise ValueError("several candidates need a network that ranks them")
        if self.rank is not None and self.latent_dim == 0:
            raise ValueError("candidates to be ranked need latents to differ by")
        if len(set(self.networks)) < len(self.networks):
            raise ValueError("each part of acting needs a network of its own")

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks that acting needs, in the order in which they run."""
        return tuple(name for name in (self.propose, self.perturb, self.rank) if name is not None)

    def shapes(self, observation_dim: int, action_dim: int) -> dict[str, tuple[int, int]]:
        """Network name to its numbers of inputs and outputs, for S and A."""
        state_action = observation_dim + action_dim
        widths = [(observation_dim + self.latent_dim, action_dim), (state_action, action_dim), (state_action, 1)]
        roles = zip((self.propose, self.perturb, self.rank), widths, strict=True)
        return {name: shape for name, shape in roles if name is not None}
