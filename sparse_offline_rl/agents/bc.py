"""The paper's BC: BCQ with ``cloning=True`` (Kumar et al. 2019, BEAR code). Its returns depend on the VAE alone."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_offline_rl.agents.bcq import BCQ


class BC(BCQ):
    """Same networks and losses as BCQ; it bootstraps from, and acts with, the VAE's actions as they are."""

    def target_actions(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Actions tried for each next state: decoded, not perturbed."""
        return self.networks.vae.decode(observations, noise)

    @torch.no_grad()
    def act(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        """One decoded sample, no Q and no perturbation; normalised ``[n, S]`` to ``[n, A]``."""
        noise = self._acting_noise(len(observations), generator)
        return self.networks.vae.decode(observations, noise)
