"""Builds the networks that BCQ and BC share."""

from __future__ import annotations

import torch
from torch import nn

from sparse_offline_rl.config import AgentConfig
from sparse_offline_rl.networks.actor import PerturbationActor
from sparse_offline_rl.networks.critic import TwinCritic
from sparse_offline_rl.networks.mlp import MLP
from sparse_offline_rl.networks.packing import Packable
from sparse_offline_rl.networks.vae import VAE
from sparse_offline_rl.types import Spaces


class Networks(nn.Module):
    """Perturbation actor, twin critic and VAE of one agent."""

    def __init__(self, spaces: Spaces, config: AgentConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        latent_dim = config.latent_dim or 2 * spaces.action_dim
        self.actor = PerturbationActor(spaces, config.actor_hidden, config.perturbation, generator)
        self.critic = TwinCritic(spaces, config.critic_hidden, generator)
        self.vae = VAE(spaces, config.vae_hidden, latent_dim, generator)

    def mlps(self) -> dict[str, Packable]:
        """The prunable networks by name; each is an MLP, or what an engine put in its place."""
        return {
            "actor": self.actor.net,
            "critic1": self.critic.q1,
            "critic2": self.critic.q2,
            "encoder": self.vae.encoder,
            "decoder": self.vae.decoder,
        }

    def dense_mlps(self) -> dict[str, MLP]:
        """The same, before an engine takes them. Raises TypeError afterwards: scoring and pruning come first."""
        mlps = self.mlps()
        for name, mlp in mlps.items():
            if not isinstance(mlp, MLP):
                raise TypeError(f"network {name} belongs to the {type(mlp).__name__} engine already")
        return {name: mlp for name, mlp in mlps.items() if isinstance(mlp, MLP)}
