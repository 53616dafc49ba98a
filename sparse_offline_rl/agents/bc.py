"""The paper's BC (its reference [15], Kumar et al. 2019, BEAR's code): BCQ that bootstraps from and acts with the VAE's actions.

Its returns depend on the VAE alone: actor and critics are trained and pruned beside it, as in the paper, and never asked.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from sparse_offline_rl.agents.base import Metrics
from sparse_offline_rl.agents.bcq import BCQ, GenerativeConfig
from sparse_offline_rl.config import AgentConfig, PositiveFloat
from sparse_offline_rl.types import Acting, Batch


class BCConfig(GenerativeConfig):
    """Hyper-parameters of the paper's BC."""

    name: Literal["bc"] = "bc"
    acting_latent_clip: PositiveFloat = 0.25
    train_critic: bool = True


class BC(BCQ):
    """Same networks and losses as BCQ; actions come from the VAE as they are."""

    Config: ClassVar[type[AgentConfig]] = BCConfig
    config: BCConfig  # type: ignore[assignment]

    def update(self, batch: Batch, generator: torch.Generator) -> Metrics:
        """As BCQ's, or its first stage only with ``agent.train_critic=false``: the same bits for the VAE."""
        if self.config.train_critic:
            return super().update(batch, generator)
        vae_noise, _, _ = self._draw_noise(len(batch.rewards), generator)
        loss, metrics = self.vae_loss(batch, vae_noise)
        self.optimizers["vae"].minimize(loss)
        return {name: value.detach() for name, value in {"loss/vae": loss, **metrics}.items()}

    def target_actions(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Actions tried for each next state: decoded, not perturbed."""
        return self.networks.vae.decode(observations, noise)

    @torch.no_grad()
    def act(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        """One decoded sample, no Q and no perturbation; normalised ``[n, S]`` to ``[n, A]``."""
        noise = self._acting_noise(len(observations), generator)
        return self.networks.vae.decode(observations, noise)

    def acting(self) -> Acting:
        """Decode one latent."""
        latent_dim, clip = self.networks.vae.latent_dim, self.config.acting_latent_clip
        return Acting(propose="decoder", latent_dim=latent_dim, latent_clip=clip)
