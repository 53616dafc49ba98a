"""Sparse variational dropout (Molchanov, Ashukha and Vetrov 2017): noise beside each weight, and those that drown in it go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, softplus

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
        return summed(_Divergence.apply(self.gates[name], weight) for name, weight in weights.items())  # type: ignore[no-untyped-call]

    def log_alpha(self, layer: str, weight: Tensor) -> Tensor:
        """``log σ² - log w²``, ``[out, in]``; 1e-8 beside w² keeps it finite where a weight is zero (the authors cut it at ±8)."""
        return _log_alpha(self.gates[layer], weight)

    def importance(self, layer: str, weight: Tensor) -> Tensor:
        """``-log α``."""
        return -self.log_alpha(layer, weight).detach()

    def left(self, layer: str, weight: Tensor) -> Tensor:
        """``log α < 3``."""
        return self.importance(layer, weight) > -HIGHEST


def _log_alpha(log_variance: Tensor, weight: Tensor) -> Tensor:
    return log_variance - (weight.square() + _TINY).log()


class _Divergence(torch.autograd.Function):
    """The KL divergence of each weight and its derivative in a few passes: autograd's own take as long as a dense update."""

    @staticmethod
    def forward(ctx: Any, log_variance: Tensor, weight: Tensor) -> Tensor:
        log_alpha = _log_alpha(log_variance, weight)
        beyond = torch.sigmoid(-K2 - K3 * log_alpha)
        ctx.save_for_backward(log_alpha, beyond, weight)
        return softplus(-log_alpha).mul_(0.5).add_(beyond, alpha=K1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        log_alpha, beyond, weight = ctx.saved_tensors
        by_log_alpha = torch.sigmoid(-log_alpha).mul_(-0.5).sub_((1 - beyond).mul_(beyond), alpha=K1 * K3)
        by_log_alpha.mul_(grad_outputs[0])
        return by_log_alpha, by_log_alpha * weight / (weight.square() + _TINY).mul_(-0.5)
