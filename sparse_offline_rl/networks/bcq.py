"""The networks of BCQ and of the paper's BC: perturbation actor, twin critic, conditional VAE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparse_offline_rl.networks.actor_critic import ActionBounds
from sparse_offline_rl.networks.mlp import MLPBuilder
from sparse_offline_rl.types import Spaces

_LOG_STD_MIN, _LOG_STD_MAX = -4.0, 15.0  # the BCQ authors' bounds


class PerturbationActor(nn.Module):
    """ξ(s, a): changes an action by at most ``perturbation`` of its range (Fujimoto et al. 2019, equation 4)."""

    limit: Tensor  # largest change of an action, [A]

    def __init__(self, spaces: Spaces, hidden: Sequence[int], perturbation: float, build: MLPBuilder) -> None:
        super().__init__()
        self.net = build("actor", spaces.observation_dim + spaces.action_dim, hidden, {"out": spaces.action_dim})
        self.bounds = ActionBounds(spaces)
        self.register_buffer("limit", perturbation * self.bounds.scale, persistent=False)

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        """``[B, S]`` and ``[B, A]`` to perturbed actions ``[B, A]`` inside the bounds."""
        change = torch.tanh(self.net(observations, actions))
        return self.bounds.clamp(torch.addcmul(actions, self.limit, change))


class VAE(nn.Module):
    """Encoder E(s, a) -> N(μ, σ²) and decoder D(s, z) -> a (Fujimoto et al. 2019, section 4.1)."""

    def __init__(self, spaces: Spaces, hidden: Sequence[int], latent_dim: int, build: MLPBuilder) -> None:
        super().__init__()
        state, action = spaces.observation_dim, spaces.action_dim
        self.encoder = build("encoder", state + action, hidden, {"mean": latent_dim, "log_std": latent_dim})
        self.decoder = build("decoder", state + latent_dim, hidden, {"out": action})
        self.bounds = ActionBounds(spaces)
        self.latent_dim = latent_dim

    def encode(self, observations: Tensor, actions: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, S]``, ``[B, A]`` and standard normal ``noise`` ``[B, latent]`` to latents ``[B, latent]`` and their KL."""
        return gaussian_latent(self.encoder(observations, actions), noise)

    def decode(self, observations: Tensor, latents: Tensor) -> Tensor:
        """``[B, S]`` and ``[B, latent]`` to actions ``[B, A]`` inside the bounds."""
        return self.bounds.squash(self.decoder(observations, latents))


class _GaussianLatent(torch.autograd.Function):
    """The latent step in closed form: one node of the graph instead of twenty.

    On a pruned network the bookkeeping of small operations takes longer than the products.
    """

    @staticmethod
    def forward(ctx: Any, statistics: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(statistics, noise)
        mean, raw = statistics.chunk(2, dim=1)
        log_std = raw.clamp(_LOG_STD_MIN, _LOG_STD_MAX)
        std = log_std.exp()
        kl = mean.square().add_(std.square()).sub_(log_std, alpha=2).mean().sub_(1).mul_(0.5)
        return torch.addcmul(mean, std, noise), kl

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        grad_latent, grad_kl = gradients
        # Recomputed from what was saved, so that GraSP can differentiate this once more.
        statistics, noise = ctx.saved_tensors
        mean, raw = statistics.chunk(2, dim=1)
        log_std = raw.clamp(_LOG_STD_MIN, _LOG_STD_MAX)
        std = log_std.exp()
        weight = grad_kl / mean.numel()
        grad_mean = torch.addcmul(grad_latent, weight, mean)
        grad_log_std = grad_latent * noise * std + weight * (std.square() - 1)
        return torch.cat((grad_mean, grad_log_std * (raw == log_std)), dim=1), None


def gaussian_latent(statistics: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Sample a diagonal Gaussian and measure it against the standard normal.

    ``statistics`` ``[B, 2 latent]`` holds μ and log σ side by side; log σ is clamped to the BCQ authors' (-4, 15). Returns
    ``μ + σ noise`` ``[B, latent]`` and the KL divergence's mean over all elements, ``-½ mean(1 + log σ² - μ² - σ²)``.
    """
    latent, kl = _GaussianLatent.apply(statistics, noise)  # type: ignore[no-untyped-call]
    return latent, kl
