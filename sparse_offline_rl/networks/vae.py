"""The conditional variational autoencoder that imitates the dataset's actions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparse_offline_rl.networks.bounded import ActionBounds
from sparse_offline_rl.networks.latent import gaussian_latent
from sparse_offline_rl.networks.mlp import MLP
from sparse_offline_rl.networks.packing import Packable
from sparse_offline_rl.types import Spaces


class VAE(nn.Module):
    """Encoder E(s, a) -> N(μ, σ²) and decoder D(s, z) -> a (Fujimoto et al. 2019, section 4.1)."""

    def __init__(
        self, spaces: Spaces, hidden: Sequence[int], latent_dim: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        state, action = spaces.observation_dim, spaces.action_dim
        self.encoder: Packable = MLP(state + action, hidden, {"mean": latent_dim, "log_std": latent_dim}, generator)
        self.decoder: Packable = MLP(state + latent_dim, hidden, {"out": action}, generator)
        self.bounds = ActionBounds(spaces)
        self.latent_dim = latent_dim

    def encode(self, observations: Tensor, actions: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, S]``, ``[B, A]`` and standard normal ``noise`` ``[B, latent]`` to latents ``[B, latent]`` and their KL."""
        return gaussian_latent(self.encoder(observations, actions), noise)

    def decode(self, observations: Tensor, latents: Tensor) -> Tensor:
        """``[B, S]`` and ``[B, latent]`` to actions ``[B, A]`` inside the bounds."""
        return self.bounds.squash(self.decoder(observations, latents))
