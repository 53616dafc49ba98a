"""Sparse variational dropout (Molchanov, Ashukha and Vetrov 2017): noise beside each weight, and those that drown in it go."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import linear

from sparse_offline_rl.networks.masked import masked_product
from sparse_offline_rl.pruning.learned.extension import Extension, summed

K1, K2, K3 = 0.63576, 1.87320, 1.48695  # of the approximation of the KL divergence (equation 14)
HIGHEST = 3.0  # log α from which a weight is switched off
_TINY = 1e-8


class VariationalDropout(Extension):
    """Each weight is normal with mean w and variance σ²; ``α = σ² / w²``. What is learned beside w is ``log σ²``."""

    INITIAL = -10.0

    @classmethod
    def penalises_twins(cls) -> bool:
        """They do: α is relative to a network's own weights."""
        return True

    def product(self, layer: str, x: Tensor, weight: Tensor, bias: Tensor, keep: Tensor | None, relu: bool) -> Tensor:
        """In training the output is drawn, not the weights (local reparameterisation; equation 17); else it is the mean."""
        if not torch.is_grad_enabled():
            return masked_product(x, weight, bias, keep, relu)
        mean = masked_product(x, weight, bias, keep, False)
        deviation = (linear(x.square(), self.gates[layer].exp()) + _TINY).sqrt()
        noisy = mean + deviation * self.normal(mean.shape)
        return noisy.relu() if relu else noisy

    def penalty(self, weights: Mapping[str, Tensor]) -> Tensor:
        """``Σ ½ log(1 + 1/α) + k1 (1 - σ(k2 + k3 log α))``, the KL divergence from the log-uniform prior (equation 14)."""

        def divergence(log_alpha: Tensor) -> Tensor:
            return 0.5 * torch.nn.functional.softplus(-log_alpha) + K1 * torch.sigmoid(-K2 - K3 * log_alpha)

        return summed(divergence(self.log_alpha(name, it)) for name, it in weights.items())

    def log_alpha(self, layer: str, weight: Tensor) -> Tensor:
        """``log σ² - log w²``, ``[out, in]``; 1e-8 beside w² keeps it finite where a weight is zero (the authors cut it at ±8)."""
        return self.gates[layer] - (weight.square() + _TINY).log()

    def importance(self, layer: str, weight: Tensor) -> Tensor:
        """``-log α``."""
        return -self.log_alpha(layer, weight).detach()

    def left(self, layer: str, weight: Tensor) -> Tensor:
        """``log α < 3``."""
        return self.importance(layer, weight) > -HIGHEST
